//! Attaches network namespaces to the overlay, and takes it back.
//!
//! An attach claims an address in the journal, makes the device pair, and publishes the attachment; routes, map rows and
//! programs follow from the reconcile loop, the record from the registrar. The answer waits for all of them. A crash
//! between any two steps leaves a journal that says what was meant: a device without an entry is swept, an entry whose
//! namespace is gone is given up, an entry whose device is missing gets it again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};
use weft_agent::kernel::netns::{NetNs, NetnsError};
use weft_agent::kernel::veth::{self, VethSpec};
use weft_api::{Attach, Attached, Code};
use weft_model::ids::{EndpointId, NetworkName, NodeName, ServiceLabel, check_ifname, sanitise_label};
use weft_model::mac::Mac;
use weft_model::snapshot::Snapshot;
use weft_plan::{ipam, links};

use crate::reconcile::Report;
use crate::refusal::Refusal;
use crate::registrar::record_path;
use crate::state::{Attachment, Journal, StateDir};
use crate::view::{View, chain};

/// How long an attach waits for the agent to be ready, unless the request says.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an attach waits for kernel and store to follow.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a device that could not be made anew is left alone.
const REST: Duration = Duration::from_secs(10);

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
}

/// All attachments of this host.
#[derive(Debug)]
pub struct Attachments {
    state: Arc<StateDir>,
    journal: Mutex<Journal>,
    published: watch::Sender<Arc<Published>>,
    around: Surroundings,
    /// Devices that could not be made anew: when to try again, and why not.
    unmended: std::sync::Mutex<BTreeMap<EndpointId, (Instant, String)>>,
}

impl Attachments {
    /// The attachments that the journal knows; those of an earlier boot are over.
    #[must_use]
    pub fn new(state: Arc<StateDir>, mut journal: Journal, around: Surroundings) -> (Arc<Self>, watch::Receiver<Arc<Published>>) {
        let before = journal.attachments.len();
        journal.attachments.retain(|_, a| a.boot == around.boot);
        let gone = before - journal.attachments.len();
        if gone > 0 {
            info!(gone, "attachments of an earlier boot are over");
        }
        let (published, rx) = watch::channel(Arc::new(Published { generation: 1, by_id: journal.attachments.clone() }));
        (Arc::new(Self { state, journal: Mutex::new(journal), published, around, unmended: std::sync::Mutex::default() }), rx)
    }

    /// All of them.
    pub fn list(&self) -> Vec<Attached> {
        let Some(snapshot) = self.around.view.borrow().clone() else { return Vec::new() };
        let published = self.published.borrow().clone();
        published.by_id.values().filter_map(|a| self.attached(&snapshot, a)).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.published.borrow().by_id.len()
    }

    /// Gives a namespace an address, a route, DNS, and a record if it is to have one.
    ///
    /// # Errors
    /// Why not; nothing is left behind then.
    pub async fn attach(&self, request: Attach) -> Result<Attached, Refusal> {
        let ifname = &request.ifname;
        check_ifname(ifname).map_err(|why| Refusal::invalid(format!("--ifname {ifname:?}: {why}")))?;
        if let Some(name) = &request.name
            && request.service.is_none()
        {
            let label: Result<ServiceLabel, _> = name.parse();
            label.map_err(|e| Refusal::invalid(format!("--name: {e}; without a service it becomes a DNS name")))?;
        }
        if request.port == Some(0) {
            return Err(Refusal::invalid("--service: port 0 is no port"));
        }
        self.wait_ready(request.timeout_ms.map_or(READY_TIMEOUT, Duration::from_millis)).await?;
        let path = request.netns.clone();
        let netns = tokio::task::spawn_blocking(move || NetNs::open(&path)).await;
        let netns = netns.map_err(|e| Refusal::internal("attach", &e))?.map_err(|e| refuse_netns(&e))?;

        let mut journal = self.journal.lock().await;
        let snapshot = self.snapshot()?;
        let id = choose_id(&request, &netns, &self.around.node);
        if let Some(there) = journal.attachments.get(&id) {
            if there.netns_id == netns.id() && there.ifname == request.ifname {
                let there = there.clone();
                drop(journal);
                let generation = self.published.borrow().generation;
                self.wait_applied(generation).await?;
                return self.attached(&snapshot, &there).ok_or_else(no_subnet);
            }
            return Err(Refusal::conflict(format!(
                "attach: {id} is attached already, to {} of {}; detach it first or choose another --id",
                there.ifname,
                there.netns.display()
            )));
        }
        if let Some(other) = journal.attachments.values().find(|a| a.netns_id == netns.id() && device_exists(&a.host_ifname)) {
            return Err(Refusal::conflict(format!(
                "attach: {} is attached already, as {} by {}; a namespace has one interface in a network",
                request.netns.display(),
                other.id,
                other.ifname
            )));
        }
        if let Some((key, service)) = request.service.as_ref().and_then(|s| name_conflict(&snapshot, s)) {
            return Err(Refusal::conflict(format!("attach: {key} is a namespace, so {service} cannot be a service's name")));
        }
        let report = self.around.report.borrow().clone();
        let (Some(subnet), Some(mtu)) = (report.subnet, report.mtu) else { return Err(no_subnet()) };
        let in_use = journal.attachments.values().map(|a| a.address).collect();
        let address = ipam::choose_address(subnet, &in_use, &journal.released)
            .map_err(|full| Refusal::new(Code::Full, format!("attach {id}: {full}")))?;
        let attachment = Attachment {
            host_ifname: host_ifname(&id, &request.ifname, &journal),
            id: id.clone(),
            netns: request.netns,
            netns_id: netns.id(),
            netns_cookie: netns.cookie(),
            ifname: request.ifname,
            address,
            mac: Mac::of_container(address),
            boot: self.around.boot.clone(),
            name: request.name,
            service: request.service,
            port: request.port,
            proto: request.proto,
            labels: request.labels,
        };
        // First the journal: a crash after this leaves an entry that is made true or given up, never an address used twice.
        journal.attachments.insert(id.clone(), attachment.clone());
        self.remember(&journal).await?;
        // Published before it is made: a pair that nobody lists is swept away.
        self.publish(&journal);
        if let Err(e) = veth::create(&veth_spec(&attachment, subnet, mtu), &netns).await {
            journal.attachments.remove(&id);
            self.publish(&journal);
            self.remember(&journal).await?;
            return Err(Refusal::new(Code::Conflict, format!("attach {id}: {}", chain(&e))));
        }
        let generation = self.publish(&journal);
        drop(journal);
        info!(%id, %address, ifname = attachment.host_ifname, "attached");

        if let Err(refusal) = self.wait_applied(generation).await {
            // The kernel does not follow: what was made is taken back before saying so.
            if let Err(e) = self.detach(id.as_str()).await {
                warn!(%id, error = e.message, "attachment not taken back");
            }
            return Err(refusal);
        }
        self.wait_registered(generation).await;
        self.attached(&snapshot, &attachment).ok_or_else(no_subnet)
    }

    /// Takes everything back that an attach gave.
    ///
    /// # Errors
    /// There is no such attachment, or its device cannot be removed.
    pub async fn detach(&self, id: &str) -> Result<Attached, Refusal> {
        let unknown =
            || Refusal::not_found(format!("detach: {id} is not attached to this host; netctl attachment list shows what is"));
        let mut journal = self.journal.lock().await;
        let key: EndpointId = id.parse().map_err(|_| unknown())?;
        let attachment = journal.attachments.remove(&key).ok_or_else(unknown)?;
        release(&mut journal, &attachment);
        self.remember(&journal).await?;
        let attached = self.around.view.borrow().clone().and_then(|s| self.attached(&s, &attachment));
        let generation = self.publish(&journal);
        drop(journal);
        // Nobody is sent there any more before the device goes.
        self.wait_registered(generation).await;
        veth::remove(&attachment.host_ifname).await.map_err(|e| Refusal::internal(&format!("detach {id}"), &e))?;
        self.wait_applied(generation).await?;
        info!(id, address = %attachment.address, "detached");
        attached.ok_or_else(no_subnet)
    }

    /// Looks after attachments whose device is not there: gone with its namespace, or removed by hand.
    ///
    /// Called by the reconcile loop with the names of the devices that are there.
    pub async fn sweep(&self, missing: &[EndpointId]) {
        let Some((subnet, mtu)) = ({
            let report = self.around.report.borrow();
            report.subnet.zip(report.mtu)
        }) else {
            return;
        };
        let mut journal = self.journal.lock().await;
        let mut changed = false;
        for id in missing {
            let Some(attachment) = journal.attachments.get(id).cloned() else { continue };
            if device_exists(&attachment.host_ifname) || self.is_resting(id) {
                continue;
            }
            let path = attachment.netns.clone();
            let opened = tokio::task::spawn_blocking(move || NetNs::open(&path)).await;
            match opened {
                Ok(Ok(netns)) if netns.id() == attachment.netns_id => {
                    changed |= self.mend(&attachment, &veth_spec(&attachment, subnet, mtu), &netns).await;
                }
                _ => {
                    journal.attachments.remove(id);
                    release(&mut journal, &attachment);
                    changed = true;
                    info!(%id, address = %attachment.address, "namespace is gone; detached");
                }
            }
        }
        if changed {
            if let Err(refusal) = self.remember(&journal).await {
                warn!(error = refusal.message, "attachments not remembered");
            }
            self.publish(&journal);
        }
    }

    /// Gives an attachment its device back: under its own name if it was renamed, else made anew. Whether that was done; if
    /// not, it is left alone for a while, because each try wakes the loop that asks for it.
    async fn mend(&self, attachment: &Attachment, spec: &VethSpec, netns: &NetNs) -> bool {
        let id = &attachment.id;
        let renamed = veth::restore_name(&spec.host_ifname).await;
        let failure = match renamed {
            Ok(true) => {
                info!(%id, device = spec.host_ifname, "gave the device of an attachment its name back");
                None
            }
            Ok(false) => match veth::create(spec, netns).await {
                Ok(()) => {
                    info!(%id, "made the device of an attachment anew");
                    None
                }
                Err(e) => Some(chain(&e)),
            },
            Err(e) => Some(chain(&e)),
        };
        let mut unmended = self.unmended();
        match failure {
            None => {
                unmended.remove(id);
                true
            }
            Some(why) => {
                let text =
                    format!("attachment {id}: its device {} is missing: {why}; netctl detach {id} gives it up", spec.host_ifname);
                warn!(%id, why, "device of an attachment is missing");
                unmended.insert(id.clone(), (Instant::now() + REST, text));
                false
            }
        }
    }

    fn is_resting(&self, id: &EndpointId) -> bool {
        self.unmended().get(id).is_some_and(|(until, _)| Instant::now() < *until)
    }

    fn unmended(&self) -> std::sync::MutexGuard<'_, BTreeMap<EndpointId, (Instant, String)>> {
        self.unmended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with attachments.
    pub fn problems(&self) -> Vec<String> {
        let published = self.published.borrow().clone();
        let mut unmended = self.unmended();
        unmended.retain(|id, _| published.by_id.get(id).is_some_and(|a| !device_exists(&a.host_ifname)));
        unmended.values().map(|(_, text)| text.clone()).collect()
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>, Refusal> {
        self.around.view.borrow().clone().ok_or_else(|| Refusal::new(Code::NotReady, "the store has not been read yet"))
    }

    async fn remember(&self, journal: &Journal) -> Result<(), Refusal> {
        let (state, journal) = (self.state.clone(), journal.clone());
        let written = tokio::task::spawn_blocking(move || state.write_journal(&journal)).await;
        written.map_err(|e| Refusal::internal("attach", &e))?.map_err(|e| Refusal::internal("attach", &e))
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

    async fn wait_applied(&self, generation: u64) -> Result<(), Refusal> {
        let mut report = self.around.report.clone();
        let applied = report.wait_for(|r| r.generation >= generation);
        let slow = || Refusal::new(Code::Internal, "the kernel did not follow in time; netctl status says what is wrong");
        let report = tokio::time::timeout(FOLLOW_TIMEOUT, applied).await.map_err(|_| slow())?;
        report.map(drop).map_err(|_| slow())
    }

    /// Waits until the store agrees with this generation, if it answers; the record follows later otherwise.
    async fn wait_registered(&self, generation: u64) -> bool {
        let mut registered = self.around.registered.clone();
        let waited = registered.wait_for(|g| *g >= generation);
        matches!(tokio::time::timeout(FOLLOW_TIMEOUT, waited).await, Ok(Ok(_)))
    }

    fn attached(&self, snapshot: &Snapshot, attachment: &Attachment) -> Option<Attached> {
        let report = self.around.report.borrow();
        let subnet = report.subnet?;
        let gateway = ipam::gateway(subnet);
        let record = record_path(snapshot, attachment);
        let names = record.iter().filter_map(|(path, _)| {
            let own = path.parent()?;
            Some([own.dns_name(), own.parent()?.dns_name()])
        });
        let done = *self.around.registered.borrow() >= self.published.borrow().generation;
        let state = match (&record, done) {
            (None, _) => "none",
            (Some(_), true) => "written",
            (Some(_), false) => "pending",
        };
        Some(Attached {
            id: attachment.id.clone(),
            netns: attachment.netns.clone(),
            ifname: attachment.ifname.clone(),
            addresses: IpNet::new(IpAddr::V4(attachment.address), 32).into_iter().collect(),
            gateway,
            mac: attachment.mac,
            mtu: report.mtu?,
            host_ifname: attachment.host_ifname.clone(),
            dns: if self.around.name_servers.is_empty() { vec![IpAddr::V4(gateway)] } else { self.around.name_servers.clone() },
            search: vec![snapshot.cluster().dns_domain.trim_end_matches('.').to_owned()],
            names: names.flatten().collect(),
            network: default_network(),
            cgroup: self.around.cgroup.clone(),
            record: state.to_owned(),
        })
    }
}

/// The network of `--network-prefix`.
fn default_network() -> NetworkName {
    "default".parse().unwrap_or_else(|_| unreachable!("a label"))
}

fn no_subnet() -> Refusal {
    Refusal::new(Code::NotReady, "this host has no subnet yet; netctl status says what it waits for")
}

fn refuse_netns(error: &NetnsError) -> Refusal {
    Refusal::invalid(format!("attach: {}", chain(error)))
}

fn veth_spec(attachment: &Attachment, subnet: Ipv4Net, mtu: u32) -> VethSpec {
    VethSpec {
        host_ifname: attachment.host_ifname.clone(),
        ifname: attachment.ifname.clone(),
        address: attachment.address,
        mac: attachment.mac,
        gateway: ipam::gateway(subnet),
        mtu,
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
    let hash = fnv(seed.as_bytes());
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

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// A service of the default namespace may not be called as a namespace is.
fn name_conflict(snapshot: &Snapshot, service: &weft_model::ids::ServiceName) -> Option<(String, String)> {
    let namesake = service.name.as_str().parse().ok()?;
    (service.namespace.is_default() && snapshot.namespaces().any(|n| *n == namesake))
        .then(|| (namesake.to_string(), service.to_string()))
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
