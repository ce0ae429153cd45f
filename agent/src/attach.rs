//! Attaches network namespaces to the overlay, and takes it back.
//!
//! An attach claims an address in the journal, makes the device pair, and publishes the attachment; routes, map rows and
//! programs follow from the reconcile loop, the record from the registrar. The answer waits for all of them. A crash
//! between any two steps leaves a journal that says what was meant: a device without an entry is swept, an entry whose
//! namespace is gone is given up, an entry whose device is missing gets it again.
//!
//! Here are the attachments and how a change of them is written and published. Read `make` for an attach step by step, `take`
//! for the ways back, `request` for what is asked of a request, `under_way` for two requests about one container at a time.

mod check;
mod describe;
pub mod ground;
pub mod handed;
mod learn;
mod make;
mod mend;
mod mtu;
mod names;
mod publish;
mod queue;
mod request;
mod take;
mod under_way;
mod wait;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Mutex, Notify, watch};
use tracing::{info, warn};
use weft_agent::kernel::netns::NetNs;
use weft_agent::kernel::veth::VethSpec;
use weft_api::{Attached, Code};
use weft_model::ids::{EndpointId, NetworkName, NodeName};
use weft_model::snapshot::Snapshot;
use weft_plan::{ipam, links};

use crate::admin::drained;
use crate::networks::Known;
use crate::reconcile::Report;
use crate::refusal::Refusal;
use crate::registrar::records;
use crate::state::journal::{Delta, Log};
use crate::state::{Attachment, Journal, StateDir};
use crate::view::{Health, View, chain};

/// How often the disk is asked to take the journal.
const SYNC_PAUSE: Duration = Duration::from_secs(1);

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
    /// Whether the store answers.
    pub health: watch::Receiver<Health>,
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
    /// Where the journal is written; locked by who holds the journal.
    log: Arc<std::sync::Mutex<Log>>,
    published: watch::Sender<Arc<Published>>,
    around: Surroundings,
    /// Devices that could not be made anew.
    unmended: std::sync::Mutex<mend::Unmended>,
    /// How far containers have followed the overlay's MTU.
    followed: std::sync::Mutex<mtu::Followed>,
    /// Since when what tools hold is unused.
    idle: std::sync::Mutex<handed::Idle>,
    /// What is being attached.
    under_way: under_way::UnderWay,
    /// What was asked while no agent answered.
    queue: queue::Queue,
    /// Told when an attachment is in the journal whose device is about to be made.
    begun: Notify,
}

/// Whether a change is one to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// All are told.
    Told,
    /// Who looks sees it; nobody is woken, because there is nothing to do yet.
    Quiet,
}

impl Attachments {
    /// The attachments that the journal knows. Those of an earlier boot are over, and so are those that were being detached.
    #[must_use]
    pub fn new(
        state: Arc<StateDir>,
        (mut journal, mut log): (Journal, Log),
        around: Surroundings,
    ) -> (Arc<Self>, watch::Receiver<Arc<Published>>) {
        let before = journal.clone();
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
        if journal != before
            && let Err(e) = log.write(&Delta::between(&before, &journal), &journal)
        {
            warn!(error = chain(&e), "what is over is still in the journal; the next agent finds it there again");
        }
        let (published, rx) = watch::channel(Arc::new(Published { generation: 1, by_id: journal.attachments.clone() }));
        let (journal, log) = (Mutex::new(journal), Arc::new(std::sync::Mutex::new(log)));
        let (unmended, followed) = Default::default();
        let (idle, under_way, queue, begun) = Default::default();
        (Arc::new(Self { state, journal, log, published, around, unmended, followed, idle, under_way, queue, begun }), rx)
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

    fn snapshot(&self) -> Result<Arc<Snapshot>, Refusal> {
        self.around.view.borrow().clone().ok_or_else(|| Refusal::new(Code::NotReady, "the store has not been read yet"))
    }

    /// Changes the journal: on disk first, then in memory and for everybody. If it cannot be written, nothing has changed.
    async fn change(&self, journal: &mut Journal, how: impl FnOnce(&mut Journal)) -> Result<u64, Refusal> {
        self.change_as(journal, Change::Told, how).await
    }

    async fn change_as(&self, journal: &mut Journal, change: Change, how: impl FnOnce(&mut Journal)) -> Result<u64, Refusal> {
        let mut next = journal.clone();
        how(&mut next);
        let delta = Delta::between(journal, &next);
        let log = self.log.clone();
        let write = move || {
            let written = log.lock().unwrap_or_else(PoisonError::into_inner).write(&delta, &next);
            written.map(|()| next)
        };
        let written = tokio::task::spawn_blocking(write).await;
        *journal =
            written.map_err(|e| Refusal::internal("attachments", &e))?.map_err(|e| Refusal::internal("attachments", &e))?;
        Ok(self.publish(change, Some(&journal.attachments)))
    }

    /// Has the disk take what was written of the journal, once a second. Nobody waits for it: see [`crate::state::journal`].
    pub async fn sync_journal(self: Arc<Self>) {
        let mut said = None;
        loop {
            tokio::time::sleep(SYNC_PAUSE).await;
            let log = self.log.clone();
            let synced = tokio::task::spawn_blocking(move || log.lock().unwrap_or_else(PoisonError::into_inner).sync()).await;
            let error = synced.map_err(|e| chain(&e)).and_then(|synced| synced.map_err(|e| chain(&e))).err();
            if error != said
                && let Some(error) = &error
            {
                warn!(error, "the journal of attachments is not on the disk");
            }
            said = error;
        }
    }

    /// Returns once an attachment has begun: its address is known and its device is not there yet.
    pub async fn begun(&self) {
        self.begun.notified().await;
    }

    /// Tells all that there is something to do for the attachments as they are. Returns the generation that says it is done.
    fn announce(&self) -> u64 {
        self.publish(Change::Told, None)
    }

    fn publish(&self, change: Change, attachments: Option<&BTreeMap<EndpointId, Attachment>>) -> u64 {
        let mut generation = 0;
        self.published.send_if_modified(|published| {
            generation = published.generation + 1;
            let by_id = attachments.unwrap_or(&published.by_id).clone();
            *published = Arc::new(Published { generation, by_id });
            change == Change::Told
        });
        generation
    }

    fn attached(&self, attachment: &Attachment) -> Attached {
        let snapshot = self.around.view.borrow().clone();
        let done = snapshot.as_deref().is_some_and(|s| self.is_recorded(s, attachment));
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
            warnings: snapshot.as_ref().and_then(|s| drained(s, &self.around.node)).into_iter().collect(),
        }
    }
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
            further: self.further,
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
