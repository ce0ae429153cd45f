//! Services and their virtual IPs.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use weft_api::{BackendView, Code, RejectedView, ServiceCreate, ServiceCreated, ServiceView};
use weft_model::ids::ServiceName;
use weft_model::record::{Kind, check_labels};
use weft_model::service::{Service, check_ports};
use weft_model::snapshot::{Snapshot, Stored};
use weft_proxy::{Context, Resolved, backends, choose_vip};
use weft_store::Outcome;

use super::Admin;
use super::answer::{Listed, Tagged};
use super::filter::{Filter, Part};
use crate::refusal::Refusal;

/// How often a virtual IP is chosen again because somebody was faster.
const TRIES: usize = 16;

impl Admin {
    pub(super) fn services(&self, filter: &Filter, part: &Part) -> Result<Listed<ServiceView>, Refusal> {
        let snapshot = self.snapshot()?;
        let wanted = snapshot.services().filter(|(name, stored)| filter.wants_service(name, &stored.value));
        let (wanted, next) = part.take(wanted.map(|(name, stored)| (name.to_string(), (name, stored))));
        let context = Context::of(&snapshot);
        let view = |(name, stored): (&ServiceName, &Stored<Service>)| {
            service_view(&snapshot, name, &stored.value, &backends(&snapshot, name, &stored.value, &context))
        };
        Ok(Listed { items: wanted.into_iter().map(view).collect(), revision: snapshot.revision(), next })
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Result<Tagged<ServiceView>, Refusal> {
        let snapshot = self.snapshot()?;
        let name = parse_name(namespace, name)?;
        let stored = snapshot.service(&name).ok_or_else(|| unknown(&name))?;
        let resolved = backends(&snapshot, &name, &stored.value, &Context::of(&snapshot));
        Ok(Tagged(service_view(&snapshot, &name, &stored.value, &resolved), stored.modified))
    }

    pub(super) async fn service_create(&self, create: ServiceCreate) -> Result<ServiceCreated, Refusal> {
        let name = create.service.clone();
        let refuse = |why: String| Refusal::invalid(format!("service create {name}: {why}"));
        check_ports(&create.ports).map_err(refuse)?;
        check_labels(&create.selector).map_err(|e| refuse(format!("selector: {e}")))?;
        if create.ports.is_empty() && !create.headless {
            return Err(refuse("a virtual IP needs a port: --port 80, or --port 80:8080; or --headless".to_owned()));
        }
        if create.headless && create.vip.is_some() {
            return Err(refuse("a headless service has no virtual IP: leave out --vip or --headless".to_owned()));
        }
        let first = self.snapshot()?;
        let answered_before = self.answered(&first, &name).await;
        let warnings = shadowed_names(&first, &name);
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            if snapshot.service(&name).is_some() {
                return Err(Refusal::conflict(format!("service create: {name} exists already; netctl service show {name}")));
            }
            let key = snapshot.layout().service(&name);
            if let Some(bad) = snapshot.bad_at(&key) {
                return Err(Refusal::conflict(format!(
                    "service create {name}: {key} holds a value that does not parse ({}); netctl service rm {name} removes it",
                    bad.why
                )));
            }
            if !snapshot.has_namespace(&name.namespace) {
                return Err(refuse(format!("there is no namespace {}", name.namespace)));
            }
            if name.namespace.is_default() && snapshot.namespaces().any(|n| n.as_str() == name.name.as_str()) {
                return Err(Refusal::conflict(format!(
                    "service create: {} is a namespace, so it cannot be a service of the default one",
                    name.name
                )));
            }
            if let Some(network) = create.network.as_ref().filter(|network| !snapshot.has_network(network)) {
                return Err(Refusal::invalid(format!(
                    "service create {name}: there is no network {network}; netctl network list shows those there are"
                )));
            }
            let vips = if create.headless { Vec::new() } else { vec![pick_vip(&snapshot, &name, create.vip)?] };
            let service = Service {
                ports: create.ports.clone(),
                selector: create.selector.clone(),
                vips,
                allow_hosts: create.allow_hosts,
                network: create.network.clone().filter(|network| !network.is_default()),
                ..Service::default()
            };
            let bad = snapshot.bad_at(&snapshot.layout().cluster_config()).map(|bad| bad.modified);
            let settings = bad.or(snapshot.stored_cluster().map(|s| s.modified));
            let written = self.registry.create_service(&name, &service, settings).await;
            match written.map_err(|e| Refusal::store(&format!("service create {name}"), &e))? {
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    let snapshot = self.snapshot()?;
                    let resolved = backends(&snapshot, &name, &service, &Context::of(&snapshot));
                    let service = service_view(&snapshot, &name, &service, &resolved);
                    return Ok(ServiceCreated { service, answered_before, warnings });
                }
                // The name, the address, the namespace or the settings changed hands meanwhile: look again.
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("service create {name}: others took each virtual IP that was tried; try again")))
    }

    pub(super) async fn service_rm(&self, namespace: &str, name: &str) -> Result<ServiceView, Refusal> {
        let name = parse_name(namespace, name)?;
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            let bad = snapshot.bad_at(&snapshot.layout().service(&name)).map(|bad| bad.modified);
            let stored = snapshot.service(&name);
            let at = bad.or(stored.map(|s| s.modified)).ok_or_else(|| unknown(&name))?;
            // What never parsed is shown as a service of nothing.
            let service = stored.map(|s| s.value.clone()).unwrap_or_default();
            let resolved = backends(&snapshot, &name, &service, &Context::of(&snapshot));
            let view = service_view(&snapshot, &name, &service, &resolved);
            // Only addresses that are really this service's are given back.
            let owned = snapshot.vips().filter(|(_, owner)| owner.value.service == name).map(|(vip, _)| *vip);
            let owned: Vec<IpAddr> = owned.collect();
            let written = self.registry.remove_service(&name, at, &owned).await;
            match written.map_err(|e| Refusal::store(&format!("service rm {name}"), &e))? {
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    return Ok(view);
                }
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("service rm {name}: somebody else keeps changing it; try again")))
    }

    /// The addresses that a service's name stands for now.
    async fn answered(&self, snapshot: &Snapshot, name: &ServiceName) -> Vec<IpAddr> {
        let dns_name = snapshot.path_of(name).dns_name();
        let answer = self.names.query(&dns_name, "A").await;
        let answers = answer.into_iter().flat_map(|a| a.answers);
        answers.filter_map(|record| record.data.parse().ok()).collect()
    }
}

fn parse_name(namespace: &str, name: &str) -> Result<ServiceName, Refusal> {
    format!("{namespace}/{name}").parse().map_err(|e| Refusal::invalid(format!("service: {e}")))
}

fn unknown(name: &ServiceName) -> Refusal {
    Refusal::not_found(format!("there is no service {name}; netctl service list shows those there are"))
}

fn pick_vip(snapshot: &Snapshot, name: &ServiceName, fixed: Option<IpAddr>) -> Result<IpAddr, Refusal> {
    let cluster = snapshot.cluster();
    let taken = |vip: IpAddr| snapshot.vips().any(|(v, _)| *v == vip);
    if let Some(vip) = fixed {
        let inside = cluster.service_cidrs.iter().any(|c| c.contains(&vip) && c.network() != vip && c.broadcast() != vip);
        if !inside {
            let cidrs: Vec<String> = cluster.service_cidrs.iter().map(ToString::to_string).collect();
            return Err(Refusal::invalid(format!(
                "service create {name}: {vip} is no address of service_cidrs ({})",
                cidrs.join(", ")
            )));
        }
        if let Some((_, owner)) = snapshot.vips().find(|(v, _)| **v == vip) {
            return Err(Refusal::conflict(format!("service create {name}: {vip} belongs to {}", owner.value.service)));
        }
        if vip.is_ipv6() {
            return Err(Refusal::invalid(format!("service create {name}: IPv6 virtual IPs are not translated by this version")));
        }
        return Ok(vip);
    }
    let mut full = None;
    for cidr in &cluster.service_cidrs {
        let IpNet::V4(cidr) = cidr else { continue };
        match choose_vip(*cidr, |vip: Ipv4Addr| taken(IpAddr::V4(vip)), name) {
            Ok(vip) => return Ok(IpAddr::V4(vip)),
            Err(e) => full = Some(e.to_string()),
        }
    }
    let why =
        full.unwrap_or_else(|| "service_cidrs has no IPv4 range; netctl config set --service-cidr 10.112.0.0/16".to_owned());
    Err(Refusal::new(Code::Full, format!("service create {name}: {why}")))
}

/// Plain names that the service takes the name from.
fn shadowed_names(snapshot: &Snapshot, name: &ServiceName) -> Vec<String> {
    let path = snapshot.path_of(name);
    let names = snapshot.endpoints_below(&path).filter(|e| e.kind == Kind::Name);
    names.map(|e| format!("{} is a name only: it no longer answers for {}", e.path.dns_name(), path.dns_name())).collect()
}

fn service_view(snapshot: &Snapshot, name: &ServiceName, service: &Service, resolved: &Resolved) -> ServiceView {
    let first = resolved.frontends.first();
    let backends = first.into_iter().flat_map(|f| &f.backends).map(|b| BackendView {
        id: b.id().to_owned(),
        address: b.address,
        port: b.port,
        node: b.node().cloned(),
        state: b.state(),
        used: b.in_use,
    });
    let rejected =
        resolved.rejected.iter().map(|r| RejectedView { id: r.endpoint.id.clone(), address: r.address, reason: r.to_string() });
    let faults = resolved.vip_faults.iter().map(|(vip, fault)| RejectedView {
        id: String::new(),
        address: Some(*vip),
        reason: fault.to_string(),
    });
    ServiceView {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        vip: service.vip(),
        vips: service.vips.clone(),
        ports: service.ports.clone(),
        backends: backends.collect(),
        selector: service.selector.clone(),
        dns_name: snapshot.path_of(name).dns_name(),
        rejected: rejected.chain(faults).collect(),
    }
}
