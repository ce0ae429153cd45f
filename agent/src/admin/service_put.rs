//! Writing services: created, or replaced as a whole, with their virtual IPs in one transaction.
//!
//! Virtual IPs stay with a service whatever else of it changes. What it lists and another has is never taken from that one.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use weft_api::{Code, Precondition, ServiceCreate, ServiceCreated, ServiceSpec};
use weft_model::ids::{Revision, ServiceName};
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;
use weft_proxy::{backends, choose_vip};
use weft_store::Outcome;
use weft_store::registry::ServicePut;

use super::Admin;
use super::answer::Tagged;
use super::precondition::Write;
use super::services::{TRIES, explained, parse_name, service_view, shadowed_names};
use crate::refusal::Refusal;

/// The most virtual IPs that one service has.
const MAX_VIPS: usize = 16;

impl Admin {
    pub(super) async fn service_create(&self, create: ServiceCreate) -> Result<ServiceCreated, Refusal> {
        let (name, spec) = create.into_spec();
        let write = Write { condition: Precondition::None, dry_run: false };
        self.write_service(&Wish { what: format!("service create {name}"), name, spec, create: true }, write)
            .await
            .map(|(done, _)| done)
    }

    /// Creates the service, or makes it what the specification says and nothing else. What members other versions keep stays.
    pub(super) async fn service_put(
        &self,
        namespace: &str,
        name: &str,
        spec: ServiceSpec,
        write: Write,
    ) -> Result<Tagged<ServiceCreated>, Refusal> {
        let name = parse_name(namespace, name)?;
        let wish = Wish { what: format!("service {name}"), name, spec, create: false };
        self.write_service(&wish, write).await.map(|(done, at)| Tagged(done, at))
    }

    async fn write_service(&self, wish: &Wish, write: Write) -> Result<(ServiceCreated, Revision), Refusal> {
        let Wish { what, name, .. } = wish;
        wish.check()?;
        self.catch_up(write).await;
        let first = self.snapshot()?;
        let answered_before = self.answered(&first, name).await;
        let warnings = shadowed_names(&first, name);
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            let put = wish.put(&snapshot, write)?;
            let view = |snapshot: &Snapshot, at: Revision| {
                let (context, seen) = self.context(snapshot);
                let resolved = backends(snapshot, name, &put.service, &context);
                let service = explained(service_view(snapshot, name, &put.service, at, &resolved), &seen);
                let (answered_before, warnings) = (answered_before.clone(), warnings.clone());
                (ServiceCreated { service, answered_before, warnings }, at)
            };
            let over = put.over.unwrap_or_default();
            if write.dry_run {
                return Ok(view(&snapshot, over));
            }
            let is_there = wish.is_there(&snapshot, &put);
            let written = if is_there {
                // This agent may be behind: the store says whether it is so.
                let layout = snapshot.layout();
                let vips = put.kept.iter().map(|(vip, at)| (layout.vip(*vip), *at));
                self.registry.stand(vips.chain([(layout.service(name), over)])).await
            } else {
                self.registry.write_service(&put).await
            };
            match written.map_err(|e| Refusal::store(what, &e))? {
                Outcome::Done(_) if is_there => return Ok(view(&snapshot, over)),
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    return Ok(view(&*self.snapshot()?, revision));
                }
                // The name, an address, the namespace or the settings changed hands meanwhile: look again.
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("{what}: others were faster each time it was tried; try again")))
    }
}

/// What is wanted.
struct Wish {
    /// Operation and object, for messages.
    what: String,
    name: ServiceName,
    spec: ServiceSpec,
    /// Whether there must be none of that name.
    create: bool,
}

impl Wish {
    fn refuse(&self, why: impl std::fmt::Display) -> Refusal {
        Refusal::invalid(format!("{}: {why}", self.what))
    }

    /// What can be told without looking.
    fn check(&self) -> Result<(), Refusal> {
        let spec = &self.spec;
        spec.service(Service::default(), Vec::new()).check().map_err(|e| self.refuse(e))?;
        let given = spec.vips.as_deref().unwrap_or_default();
        if given.len() > MAX_VIPS {
            return Err(self.refuse(format!("{} virtual IPs: at most {MAX_VIPS}", given.len())));
        }
        if let Some(external) = spec.external_name.as_ref().filter(|_| !given.is_empty()) {
            return Err(self.refuse(format!("a name that stands for {external} has no virtual IP: leave out one of the two")));
        }
        if spec.headless && !given.is_empty() {
            return Err(self.refuse("a headless service has no virtual IP: leave out --vip or --headless"));
        }
        if spec.ports.is_empty() && self.wants_vip() {
            return Err(self.refuse("a virtual IP needs a port: --port 80, or --port 80:8080; or --headless"));
        }
        Ok(())
    }

    fn wants_vip(&self) -> bool {
        !self.spec.headless && self.spec.external_name.is_none()
    }

    /// The write that makes it so, given what is there.
    fn put(&self, snapshot: &Snapshot, write: Write) -> Result<ServicePut, Refusal> {
        let Self { what, name, spec, .. } = self;
        let key = snapshot.layout().service(name);
        let (bad, stored) = (snapshot.bad_at(&key), snapshot.service(name));
        if self.create {
            if stored.is_some() {
                return Err(Refusal::conflict(format!("service create: {name} exists already; netctl service show {name}")));
            }
            if let Some(bad) = bad {
                return Err(Refusal::conflict(format!(
                    "{what}: {key} holds a value that does not parse ({}); netctl service rm {name} removes it",
                    bad.why
                )));
            }
        }
        let over = bad.map(|bad| bad.modified).or(stored.map(|s| s.modified));
        write.check(what, over)?;
        if over.is_none() {
            self.has_place(snapshot)?;
        }
        let network = spec.network.as_ref().filter(|network| !network.is_default());
        if let Some(network) = network.filter(|network| !snapshot.has_network(network)) {
            return Err(self.refuse(format!("there is no network {network}; netctl network list shows those there are")));
        }
        if let Some(stored) = stored.filter(|stored| stored.value.network.as_ref() != network) {
            let shown =
                |network: Option<&weft_model::ids::NetworkName>| network.map_or("default".to_owned(), ToString::to_string);
            return Err(Refusal::conflict(format!(
                "{what}: it is in the network {}, where clients know its addresses, and cannot pass to {}; \
                 netctl service rm {name}, then create it anew",
                shown(stored.value.network.as_ref()),
                shown(network)
            )));
        }
        let owned: Vec<(IpAddr, Revision)> = snapshot
            .vips()
            .filter(|(_, owner)| owner.value.service == *name)
            .map(|(vip, owner)| (*vip, owner.modified))
            .collect();
        let base = stored.map(|s| s.value.clone()).unwrap_or_default();
        let vips = self.vips(snapshot, &base, &owned)?;
        let service = spec.service(base, vips);
        service.check().map_err(|e| self.refuse(e))?;
        let (kept, released) = owned.into_iter().partition(|(vip, _)| service.vips.contains(vip));
        let bad = snapshot.bad_at(&snapshot.layout().cluster_config()).map(|bad| bad.modified);
        let settings = bad.or(snapshot.stored_cluster().map(|s| s.modified));
        Ok(ServicePut { name: name.clone(), service, over, settings, kept, released })
    }

    /// Whether a new service of this name can be.
    fn has_place(&self, snapshot: &Snapshot) -> Result<(), Refusal> {
        let name = &self.name;
        if !snapshot.has_namespace(&name.namespace) {
            return Err(
                self.refuse(format!("there is no namespace {0}; netctl namespace create {0} declares it", name.namespace))
            );
        }
        if name.namespace.is_default() && snapshot.namespaces().any(|n| n.as_str() == name.name.as_str()) {
            return Err(Refusal::conflict(format!(
                "{}: {} is a namespace, so it cannot be a service of the default one",
                self.what, name.name
            )));
        }
        Ok(())
    }

    /// Whether all is there already as it would be written.
    fn is_there(&self, snapshot: &Snapshot, put: &ServicePut) -> bool {
        let is =
            |stored: &weft_model::snapshot::Stored<Service>| Some(stored.modified) == put.over && stored.value == put.service;
        snapshot.service(&put.name).is_some_and(is) && put.kept.len() == put.service.vips.len() && put.released.is_empty()
    }

    /// The virtual IPs that it is to have: those that are asked for, else those that it has, else a free one.
    fn vips(&self, snapshot: &Snapshot, base: &Service, owned: &[(IpAddr, Revision)]) -> Result<Vec<IpAddr>, Refusal> {
        if !self.wants_vip() {
            return Ok(Vec::new());
        }
        if let Some(given) = self.spec.vips.as_ref().filter(|given| !given.is_empty()) {
            let mut vips = Vec::new();
            for vip in given {
                // What it has it keeps, whatever the ranges have become since.
                if !owned.iter().any(|(own, _)| own == vip) {
                    self.may_take(snapshot, *vip)?;
                }
                if !vips.contains(vip) {
                    vips.push(*vip);
                }
            }
            return Ok(vips);
        }
        let is_free = |vip: &IpAddr| !is_taken(snapshot, *vip);
        let has = |vip: &&IpAddr| owned.iter().any(|(own, _)| own == *vip) || is_free(vip);
        let mut vips: Vec<IpAddr> = base.vips.iter().filter(has).copied().collect();
        if vips.is_empty() {
            // Of a definition that does not parse only the keys of its addresses are known.
            vips.extend(owned.iter().map(|(vip, _)| *vip));
        }
        if vips.is_empty() {
            vips.push(self.free_vip(snapshot)?);
        }
        Ok(vips)
    }

    fn may_take(&self, snapshot: &Snapshot, vip: IpAddr) -> Result<(), Refusal> {
        let cluster = snapshot.cluster();
        let inside = cluster.service_cidrs.iter().any(|c| c.contains(&vip) && c.network() != vip && c.broadcast() != vip);
        if !inside {
            let cidrs: Vec<String> = cluster.service_cidrs.iter().map(ToString::to_string).collect();
            return Err(self.refuse(format!("{vip} is no address of service_cidrs ({})", cidrs.join(", "))));
        }
        if let Some((_, owner)) = snapshot.vips().find(|(v, _)| **v == vip) {
            return Err(Refusal::conflict(format!("{}: {vip} belongs to {}", self.what, owner.value.service)));
        }
        let key = snapshot.layout().vip(vip);
        if let Some(bad) = snapshot.bad_at(&key) {
            return Err(Refusal::conflict(format!(
                "{}: {vip} is taken: {key} holds a value that does not parse ({}); choose another address, or delete that key",
                self.what, bad.why
            )));
        }
        if vip.is_ipv6() {
            return Err(self.refuse("IPv6 virtual IPs are not translated by this version"));
        }
        Ok(())
    }

    fn free_vip(&self, snapshot: &Snapshot) -> Result<IpAddr, Refusal> {
        let mut full = None;
        for cidr in &snapshot.cluster().service_cidrs {
            let IpNet::V4(cidr) = cidr else { continue };
            match choose_vip(*cidr, |vip: Ipv4Addr| is_taken(snapshot, IpAddr::V4(vip)), &self.name) {
                Ok(vip) => return Ok(IpAddr::V4(vip)),
                Err(e) => full = Some(e.to_string()),
            }
        }
        let why =
            full.unwrap_or_else(|| "service_cidrs has no IPv4 range; netctl config set --service-cidr 10.112.0.0/16".to_owned());
        Err(Refusal::new(Code::Full, format!("{}: {why}", self.what)))
    }
}

/// Whether somebody has an address. One whose value does not parse is somebody's, only nobody knows whose.
fn is_taken(snapshot: &Snapshot, vip: IpAddr) -> bool {
    snapshot.vips().any(|(taken, _)| *taken == vip) || snapshot.bad_at(&snapshot.layout().vip(vip)).is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;

    fn wish(vips: Option<Vec<IpAddr>>) -> Wish {
        let spec = ServiceSpec { ports: vec!["80".parse().unwrap()], vips, ..ServiceSpec::default() };
        Wish { what: "service web".to_owned(), name: "web".parse().unwrap(), spec, create: false }
    }

    #[test]
    fn an_address_whose_value_does_not_parse_is_taken() {
        let layout = Arc::new(Layout::default());
        let put = |entries| Snapshot::complete(layout.clone(), Revision(3), entries, None);
        let free = wish(None).free_vip(&put(Vec::new())).unwrap();
        let entry = |vip: IpAddr, value: &str| Entry {
            key: layout.vip(vip).into_bytes(),
            value: value.as_bytes().to_vec(),
            lease: None,
            created: Revision(2),
            modified: Revision(2),
        };
        let spoilt = put(vec![entry(free, "{")]);
        assert_ne!(wish(None).free_vip(&spoilt).unwrap(), free);
        let refused = wish(Some(vec![free])).put(&spoilt, Write::default()).unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        assert!(refused.message.contains(&layout.vip(free)) && refused.message.contains("does not parse"), "{}", refused.message);
        wish(Some(vec![free])).put(&put(Vec::new()), Write::default()).unwrap();
    }
}
