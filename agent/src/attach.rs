//! Attaches network namespaces to the overlay, and takes it back.
//!
//! An attach claims an address in the journal, makes the device pair, and publishes the attachment; routes, map rows and
//! programs follow from the reconcile loop, the record from the registrar. The answer waits for all of them. A crash
//! between any two steps leaves a journal that says what was meant: a device without an entry is swept, an entry whose
//! namespace is gone is given up, an entry whose device is missing gets it again.

mod describe;
pub mod handed;
mod mend;
mod mtu;
mod names;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};
use weft_agent::kernel::netns::{NetNs, NetnsError};
use weft_agent::kernel::veth::{self, VethSpec};
use weft_api::{Attach, Attached, Code};
use weft_model::hash::fnv1a;
use weft_model::ids::{EndpointId, NetworkName, NodeName, check_ifname, sanitise_label};
use weft_model::mac::Mac;
use weft_model::snapshot::Snapshot;
use weft_plan::host::MIN_MTU_V6;
use weft_plan::{ipam, links};

use crate::networks::Known;
use crate::reconcile::Report;
use crate::refusal::Refusal;
use crate::registrar::{self, records};
use crate::state::{Attachment, Journal, StateDir, everywhere};
use crate::view::{View, chain};

/// How long an attach waits for the agent to be ready, unless the request says.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an attach waits for kernel and store to follow.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// The attachments as the loops see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Grows with each change.
    pub generation: u64,
    /// By id.
    pub by_id: BTreeMap<EndpointId, Attachment>,
}

/// What attaching needs to know of the rest of the agent.
#[derive(Debug)]
pub struct Surroundings {
    /// The store's view.
    pub view: View,
    /// What the kernel follows.
    pub report: watch::Receiver<Report>,
    /// The generation whose records are in the store.
    pub registered: watch::Receiver<u64>,
    /// The cgroup below which containers belong.
    pub cgroup: PathBuf,
    /// This boot's id.
    pub boot: String,
    /// This host's name: ids made here differ from those made elsewhere.
    pub node: NodeName,
    /// Name servers for containers; none is the gateway.
    pub name_servers: Vec<IpAddr>,
    /// The networks besides the default one.
    pub networks: watch::Receiver<Arc<Known>>,
}

/// All attachments of this host.
#[derive(Debug)]
pub struct Attachments {
    state: Arc<StateDir>,
    journal: Mutex<Journal>,
    published: watch::Sender<Arc<Published>>,
    around: Surroundings,
    /// Devices that could not be made anew.
    unmended: std::sync::Mutex<mend::Unmended>,
    /// How far containers have followed the overlay's MTU.
    followed: std::sync::Mutex<mtu::Followed>,
    /// Since when what tools hold is unused.
    idle: std::sync::Mutex<handed::Idle>,
}

impl Attachments {
    /// The attachments that the journal knows. Those of an earlier boot are over, and so are those that were being detached.
    #[must_use]
    pub fn new(state: Arc<StateDir>, mut journal: Journal, around: Surroundings) -> (Arc<Self>, watch::Receiver<Arc<Published>>) {
        let over: Vec<Attachment> =
            journal.attachments.values().filter(|a| a.boot != around.boot || a.withdrawing).cloned().collect();
        for attachment in &over {
            journal.attachments.remove(&attachment.id);
            release(&mut journal, attachment);
        }
        if journal.handed.boot != around.boot {
            journal.handed = handed::Handed::default();
        }
        if !over.is_empty() {
            info!(over = over.len(), "attachments of an earlier boot, or half detached, are over");
        }
        let (published, rx) = watch::channel(Arc::new(Published { generation: 1, by_id: journal.attachments.clone() }));
        let journal = Mutex::new(journal);
        let (unmended, followed, idle) = Default::default();
        (Arc::new(Self { state, journal, published, around, unmended, followed, idle }), rx)
    }

    /// All of them.
    pub fn list(&self) -> Vec<Attached> {
        let published = self.published.borrow().clone();
        published.by_id.values().map(|a| self.attached(a)).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.published.borrow().by_id.len()
    }

    /// Gives a namespace an address, a route, DNS, and a record if it is to have one. Goes on to its end even if nobody waits
    /// for it any more.
    ///
    /// # Errors
    /// Why not; nothing is left behind then.
    pub async fn attach(self: &Arc<Self>, request: Attach) -> Result<Attached, Refusal> {
        let me = Arc::clone(self);
        let done = tokio::spawn(async move { me.attach_to_its_end(request).await });
        done.await.map_err(|e| Refusal::internal("attach", &e))?
    }

    async fn attach_to_its_end(&self, request: Attach) -> Result<Attached, Refusal> {
        check(&request)?;
        self.wait_ready(request.timeout_ms.map_or(READY_TIMEOUT, Duration::from_millis)).await?;
        let network = request.network.clone().filter(|name| !name.is_default());
        if let Some(name) = &network {
            self.wait_joined(name, request.timeout_ms.map_or(READY_TIMEOUT, Duration::from_millis)).await?;
        }
        let path = request.netns.clone();
        let netns = tokio::task::spawn_blocking(move || NetNs::open(&path)).await;
        let netns = netns.map_err(|e| Refusal::internal("attach", &e))?.map_err(|e| refuse_netns(&e))?;

        let mut journal = self.journal.lock().await;
        let id = choose_id(&request, &netns, &self.around.node);
        if let Some(there) = journal.attachments.get(&id) {
            if there.is_of(&netns) && there.ifname == request.ifname && !there.withdrawing {
                let there = there.clone();
                drop(journal);
                let generation = self.published.borrow().generation;
                self.wait_applied(&id, generation).await?;
                return Ok(self.attached(&there));
            }
            return Err(Refusal::conflict(format!(
                "attach: {id} is attached already, to {} of {}; detach it first or choose another --id",
                there.ifname,
                there.netns.display()
            )));
        }
        if let Some(other) = journal.attachments.values().find(|a| a.is_of(&netns) && device_exists(&a.host_ifname)) {
            return Err(Refusal::conflict(format!(
                "attach: {} is attached already, as {} by {}; a namespace has one interface in a network",
                request.netns.display(),
                other.id,
                other.ifname
            )));
        }
        let snapshot = self.snapshot()?;
        let report = self.around.report.borrow().clone();
        let subnet = match &network {
            None => report.subnet,
            Some(name) => self.around.networks.borrow().subnet(name),
        };
        let (Some(subnet), Some(mtu)) = (subnet, report.mtu) else { return Err(no_subnet()) };
        let in_use = journal.addresses_v4();
        let address = ipam::choose_address(subnet, &in_use, &journal.released)
            .map_err(|full| Refusal::new(Code::Full, format!("attach {id}: {full}")))?;
        // On a link that is too narrow for IPv6 there is none, and status says so; further networks have none.
        let wide = mtu >= MIN_MTU_V6 && network.is_none();
        let address6 = report.subnet6.filter(|_| wide).and_then(|subnet6| ipam::address6(address, subnet, subnet6));
        let attachment = Attachment {
            host_ifname: host_ifname(&id, &request.ifname, &journal),
            id: id.clone(),
            netns: request.netns,
            netns_id: netns.id(),
            netns_cookie: netns.cookie(),
            ifname: request.ifname,
            network: network.clone(),
            address,
            address6,
            mac: Mac::of_container(address),
            gateway: ipam::gateway(subnet),
            routes: if request.default_route {
                everywhere()
            } else {
                own_networks(&network.as_ref().map_or_else(|| (*snapshot).clone(), |name| snapshot.in_network(name)))
            },
            mtu,
            boot: self.around.boot.clone(),
            name: request.name,
            service: request.service,
            port: request.port,
            proto: request.proto,
            labels: request.labels,
            withdrawing: false,
            owner: request.owner,
            aliases: request.aliases,
            instances: request.instances,
            learned: None,
            publish: request.publish,
        };
        names::check("attach", &attachment, &snapshot, &self.around.node)?;
        // First the journal: a crash after this leaves an entry that is made true or given up, never an address used twice.
        // And published before it is made: a pair that nobody lists is swept away.
        self.change(&mut journal, |next| drop(next.attachments.insert(id.clone(), attachment.clone()))).await?;
        if let Err(e) = veth::create(&attachment.veth(), &netns).await {
            let given_up = self.change(&mut journal, |next| drop(next.attachments.remove(&id))).await;
            if let Err(refusal) = given_up {
                warn!(%id, error = refusal.message, "an attachment that failed is still in the journal");
            }
            return Err(Refusal::new(Code::Conflict, format!("attach {id}: {}", chain(&e))));
        }
        let generation = self.publish(&journal);
        drop(journal);
        info!(%id, %address, ?address6, ifname = attachment.host_ifname, "attached");

        if let Err(refusal) = self.wait_applied(&id, generation).await {
            // The kernel does not follow: what was made is taken back before saying so.
            if let Err(e) = self.detach_to_its_end(id.as_str()).await {
                warn!(%id, error = e.message, "attachment not taken back");
            }
            return Err(refusal);
        }
        self.wait_registered(generation).await;
        Ok(self.attached(&attachment))
    }

    /// Takes everything back that an attach gave. Goes on to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// There is no such attachment, or its device cannot be removed.
    pub async fn detach(self: &Arc<Self>, id: &str) -> Result<Attached, Refusal> {
        let (me, id) = (Arc::clone(self), id.to_owned());
        let done = tokio::spawn(async move { me.detach_to_its_end(&id).await });
        done.await.map_err(|e| Refusal::internal("detach", &e))?
    }

    /// First nobody is sent there any more, then the device goes, then the address is free.
    async fn detach_to_its_end(&self, id: &str) -> Result<Attached, Refusal> {
        let unknown =
            || Refusal::not_found(format!("detach: {id} is not attached to this host; netctl attachment list shows what is"));
        let id: EndpointId = id.parse().map_err(|_| unknown())?;
        let mut journal = self.journal.lock().await;
        let attachment = journal.attachments.get(&id).cloned().ok_or_else(unknown)?;
        let attached = self.attached(&attachment);
        let withdraw = |next: &mut Journal| {
            if let Some(entry) = next.attachments.get_mut(&id) {
                entry.withdrawing = true;
            }
        };
        let generation = self.change(&mut journal, withdraw).await?;
        drop(journal);
        self.wait_registered(generation).await;

        let mut journal = self.journal.lock().await;
        if journal.attachments.get(&id).is_none_or(|a| a.netns_cookie != attachment.netns_cookie) {
            // Somebody else detached it meanwhile, and the id may be another's by now.
            return Ok(attached);
        }
        veth::remove(&attachment.host_ifname).await.map_err(|e| Refusal::internal(&format!("detach {id}"), &e))?;
        let forget = |next: &mut Journal| {
            next.attachments.remove(&id);
            release(next, &attachment);
        };
        self.change(&mut journal, forget).await?;
        info!(%id, address = %attachment.address, "detached");
        Ok(attached)
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>, Refusal> {
        self.around.view.borrow().clone().ok_or_else(|| Refusal::new(Code::NotReady, "the store has not been read yet"))
    }

    /// Changes the journal: on disk first, then in memory and for everybody. If it cannot be written, nothing has changed.
    async fn change(&self, journal: &mut Journal, how: impl FnOnce(&mut Journal)) -> Result<u64, Refusal> {
        let mut next = journal.clone();
        how(&mut next);
        let (state, copy) = (self.state.clone(), next.clone());
        let written = tokio::task::spawn_blocking(move || state.write_journal(&copy)).await;
        written.map_err(|e| Refusal::internal("attachments", &e))?.map_err(|e| Refusal::internal("attachments", &e))?;
        *journal = next;
        Ok(self.publish(journal))
    }

    fn publish(&self, journal: &Journal) -> u64 {
        let generation = self.published.borrow().generation + 1;
        self.published.send_replace(Arc::new(Published { generation, by_id: journal.attachments.clone() }));
        generation
    }

    async fn wait_ready(&self, timeout: Duration) -> Result<(), Refusal> {
        let mut report = self.around.report.clone();
        let ready = tokio::time::timeout(timeout, report.wait_for(|r| r.ready)).await;
        match ready {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let why = self.around.report.borrow().why_not_ready.clone().unwrap_or_else(|| "not ready".to_owned());
                Err(Refusal::new(Code::NotReady, format!("attach: the agent is not ready after {timeout:?}: {why}")))
            }
        }
    }

    /// Waits until this host has a subnet in a further network.
    async fn wait_joined(&self, name: &NetworkName, timeout: Duration) -> Result<(), Refusal> {
        if !self.snapshot()?.has_network(name) {
            return Err(Refusal::invalid(format!(
                "attach: there is no network {name}; netctl network list shows those there are"
            )));
        }
        let mut networks = self.around.networks.clone();
        match tokio::time::timeout(timeout, networks.wait_for(|known| known.subnet(name).is_some())).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let why = self.around.networks.borrow().problems.join("; ");
                Err(Refusal::new(Code::NotReady, format!("attach: this host has no subnet in network {name} yet: {why}")))
            }
        }
    }

    /// Waits until the kernel follows, and makes sure that it does so for this attachment.
    async fn wait_applied(&self, id: &EndpointId, generation: u64) -> Result<(), Refusal> {
        let mut report = self.around.report.clone();
        let applied = report.wait_for(|r| r.generation >= generation);
        let refuse = |why: &str| Refusal::new(Code::Internal, format!("attach {id}: {why}"));
        match tokio::time::timeout(FOLLOW_TIMEOUT, applied).await {
            Ok(Ok(report)) => match report.unapplied.get(id) {
                Some(why) => Err(refuse(why)),
                None => Ok(()),
            },
            _ => Err(refuse("the kernel did not follow in time; netctl status says what is wrong")),
        }
    }

    /// Waits until the store agrees with this generation, if it answers; the record follows later otherwise.
    async fn wait_registered(&self, generation: u64) {
        if self.around.view.borrow().is_none() {
            return;
        }
        let mut registered = self.around.registered.clone();
        let _ = tokio::time::timeout(FOLLOW_TIMEOUT, registered.wait_for(|g| *g >= generation)).await;
    }

    fn attached(&self, attachment: &Attachment) -> Attached {
        let snapshot = self.around.view.borrow().clone();
        let node = &self.around.node;
        let parts = snapshot.as_ref().map(|s| records::parts(s, node, attachment)).unwrap_or_default();
        let done = *self.around.registered.borrow() >= self.published.borrow().generation;
        // What others hold is not written, whatever else is.
        let held = |s: &Snapshot| parts.iter().any(|part| registrar::holder(s, &part.path, node).is_some());
        let done = done && !snapshot.as_deref().is_some_and(held);
        let described = records::described(attachment);
        let state = match (described.aliases.is_empty() && described.instances.is_empty(), done) {
            (true, _) => "none",
            (false, true) => "written",
            (false, false) => "pending",
        };
        let server6 = self.around.report.borrow().subnet6.map(ipam::gateway6);
        let servers = [Some(IpAddr::V4(attachment.gateway)), server6.filter(|_| attachment.address6.is_some()).map(IpAddr::V6)];
        let search = snapshot.as_ref().map(|s| s.cluster().dns_domain.trim_end_matches('.').to_owned());
        Attached {
            id: attachment.id.clone(),
            netns: attachment.netns.clone(),
            ifname: attachment.ifname.clone(),
            addresses: attachment.addresses().map(IpNet::from).collect(),
            gateway: attachment.gateway,
            gateway6: attachment.address6.map(|_| ipam::LINK_GATEWAY),
            mac: attachment.mac,
            mtu: attachment.mtu,
            host_ifname: attachment.host_ifname.clone(),
            host_mac: Some(links::veth_mac(&attachment.host_ifname)),
            routes: attachment.routes.clone(),
            dns: if self.around.name_servers.is_empty() {
                servers.into_iter().flatten().collect()
            } else {
                self.around.name_servers.clone()
            },
            search: search.into_iter().collect(),
            names: snapshot.as_ref().map(|s| records::names(s, attachment)).unwrap_or_default(),
            network: attachment.network.clone().unwrap_or_else(NetworkName::default_network),
            cgroup: self.around.cgroup.clone(),
            record: state.to_owned(),
            owner: attachment.owner.clone(),
            publish: attachment.publish.clone(),
        }
    }
}

/// What can be said of a request by itself.
fn check(request: &Attach) -> Result<(), Refusal> {
    let ifname = &request.ifname;
    check_ifname(ifname).map_err(|why| Refusal::invalid(format!("--ifname {ifname:?}: {why}")))?;
    names::check_request(request)
}

/// What the overlay leads to, for a namespace that has another way to everywhere else. Virtual IPs are translated before they
/// meet a route; those that no service has must not go out by the other way.
fn own_networks(snapshot: &Snapshot) -> Vec<IpNet> {
    let config = snapshot.network();
    let networks = config.into_iter().flat_map(|config| {
        let v6 = config.v6.as_ref().map(|range| IpNet::V6(range.network));
        [Some(IpNet::V4(config.network)), v6].into_iter().flatten()
    });
    networks.chain(snapshot.cluster().service_cidrs.iter().copied()).collect()
}

fn no_subnet() -> Refusal {
    Refusal::new(Code::NotReady, "this host has no subnet yet; netctl status says what it waits for")
}

fn refuse_netns(error: &NetnsError) -> Refusal {
    Refusal::invalid(format!("attach: {}", chain(error)))
}

impl Attachment {
    /// Whether this is the namespace that was attached. Its inode alone does not tell: the kernel gives a number again soon
    /// after a namespace is gone (6.18); the cookie is given once.
    fn is_of(&self, netns: &NetNs) -> bool {
        (self.netns_id, self.netns_cookie) == (netns.id(), netns.cookie())
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(IpAddr::V4(self.address)), self.address6.map(IpAddr::V6)].into_iter().flatten()
    }

    /// Its device pair.
    fn veth(&self) -> VethSpec {
        VethSpec {
            host_ifname: self.host_ifname.clone(),
            ifname: self.ifname.clone(),
            address: self.address,
            address6: self.address6,
            mac: self.mac,
            gateway: self.gateway,
            routes: self.routes.clone(),
            mtu: self.mtu,
        }
    }
}

/// Remembers when an address was given back, as a count, so that the least recently used is given first.
fn release(journal: &mut Journal, attachment: &Attachment) {
    let now = journal.released.values().max().map_or(1, |last| last + 1);
    journal.released.insert(attachment.address, now);
}

fn device_exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// The id that the request names, or one made of its name and the namespace: the same request gives the same id.
fn choose_id(request: &Attach, netns: &NetNs, node: &NodeName) -> EndpointId {
    if let Some(id) = &request.id {
        return id.clone();
    }
    let base = request.name.as_deref().or(request.service.as_ref().map(|s| s.name.as_str())).unwrap_or("c");
    let base = sanitise_label(base, weft_model::ids::MAX_LABEL - 7);
    let base = if base.is_empty() { "c" } else { &base };
    let (device, inode) = netns.id();
    let seed = format!("{node} {device} {inode} {} {}", netns.cookie(), request.ifname);
    let hash = fnv1a(seed.bytes());
    let id = format!("{base}-{:06x}", hash & 0xff_ffff);
    id.parse().unwrap_or_else(|_| unreachable!("a sanitised label of at most 56 bytes and 7 more"))
}

/// The host's end is named after the attachment; in the unlikely case that another has the name, it is salted.
fn host_ifname(id: &EndpointId, ifname: &str, journal: &Journal) -> String {
    let taken = |name: &String| journal.attachments.values().any(|a| a.host_ifname == *name);
    let plain = std::iter::once(links::veth_name(id.as_str(), ifname));
    let salted = (1_u32..).map(|salt| links::veth_name(id.as_str(), &format!("{ifname} {salt}")));
    plain.chain(salted).find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_devices_have_names_that_fit_and_differ() {
        let id: EndpointId = "web-1".parse().unwrap();
        let name = host_ifname(&id, "eth0", &Journal::default());
        assert!(links::is_veth_name(&name) && name.len() <= 15, "{name}");
        assert_ne!(name, host_ifname(&id, "eth1", &Journal::default()));
    }
}
