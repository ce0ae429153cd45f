//! Keeps the eBPF half as it should be: rows of the maps, and what the programs are attached to.
//!
//! What is wanted comes from `weft-plan` and `weft-proxy`; what is there was read back from the maps when the agent started,
//! is remembered with each write, and is read again at every resync and as soon as [`look`] finds that somebody else changed
//! something. Pins of maps are looked at before each change, and every link is. If the programs cannot be loaded the kernel
//! path carries everything, and [`Outcome::why_not`] says why.

mod fill;
pub mod later;
pub mod look;
pub mod passive;
pub mod preview;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{debug, info, warn};
use weft_abi::maps::{capacity, name};
use weft_abi::{Counter, Network, Verdict};
use weft_agent::kernel::bpf::links::{self, LinkState, UPLINK};
use weft_agent::kernel::bpf::{self, BpfError, Datapath, Paths};
use weft_model::ids::NetworkName;
use weft_model::snapshot::Snapshot;
use weft_plan::{Host, maps};
use weft_proxy::{Changed, Ids, Resolver, rows};

use crate::view::chain;

/// The datapath, shared with whoever reads its counters.
pub type Shared = Arc<Mutex<Fast>>;

/// The eBPF half of this host.
#[derive(Debug)]
pub struct Fast {
    paths: Result<Paths, String>,
    open: Option<Datapath>,
    why_not: Option<String>,
    shadow: Option<Shadow>,
    ids: Option<Ids>,
    /// What each service stands for.
    resolver: Resolver,
    /// How connections to backends go.
    passive: passive::Passive,
    /// Links that hold this agent's programs, and the device they were attached to.
    attached: BTreeMap<String, u32>,
    sockets: bool,
    /// All links are to be looked at by the next sync, and waited for.
    links_due: bool,
    /// Links that are made and let go of beside.
    later: later::Later,
    /// The last sync left everything as it should be.
    settled: bool,
    /// The map whose rows are looked at next.
    turn: usize,
}

/// What the maps hold, as far as this agent knows.
#[derive(Debug)]
struct Shadow {
    maps: maps::Rows,
    services: rows::Rows,
    /// What the rows of services were made of, once they are all written.
    served: Option<fill::Served>,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The map.
    pub name: &'static str,
    /// Rows that are taken.
    pub rows: usize,
    /// Rows that there are.
    pub capacity: u32,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether packets to other hosts take the fast path.
    pub fast: bool,
    /// Why not.
    pub why_not: Option<String>,
    /// Whether virtual IPs are translated.
    pub sockets: bool,
    /// What could not be done.
    pub problems: Vec<String>,
    /// What is as it should be, and yet not well.
    pub remarks: Vec<String>,
    /// Rows and links changed.
    pub done: u64,
    /// Changes that went wrong.
    pub failed: u64,
    /// Attachments without a program, by id, and why.
    pub unattached: BTreeMap<String, String>,
    /// Links that are still to be made or let go of, for a thread that may block.
    pub later: Option<later::Job>,
}

/// The numbers of the networks that the host is in besides the default one.
fn numbers(host: &Host) -> BTreeMap<NetworkName, u32> {
    host.networks.iter().map(|of| (of.name.clone(), of.number)).collect()
}

impl Fast {
    /// The datapath at `paths`, or the reason why there is no place for it. Nothing is loaded yet.
    #[must_use]
    pub fn new(paths: Result<Paths, String>) -> Self {
        Self {
            paths,
            open: None,
            why_not: None,
            shadow: None,
            ids: None,
            resolver: Resolver::default(),
            passive: passive::Passive::default(),
            attached: BTreeMap::new(),
            sockets: false,
            links_due: true,
            later: later::Later::default(),
            settled: false,
            turn: 0,
        }
    }

    /// Packets by verdict; empty while nothing is loaded.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<Verdict, Counter> {
        self.open.as_ref().and_then(|d| d.maps().counters().ok()).unwrap_or_default()
    }

    /// Whether the program at a container's device sends this frame of it on by itself, as far as a run by hand tells; `None`
    /// while nothing is loaded. Nothing is sent; counters move.
    #[must_use]
    pub fn takes(&self, frame: &[u8], ifindex: u32) -> Option<bool> {
        let packet = bpf::run::Packet { bytes: frame, ifindex, gso_size: 0 };
        let outcome = self.open.as_ref()?.run(bpf::Program::FromContainer, &packet).ok()?;
        Some(outcome.action == bpf::run::Outcome::REDIRECT)
    }

    /// How full each map is that this agent fills; `None` while nothing is loaded.
    #[must_use]
    pub fn fill(&self) -> Option<Vec<Fill>> {
        let datapath = self.open.as_ref()?;
        let read = || Some(Shadow { maps: read_maps(datapath).ok()?, services: read_services(datapath).ok()?, served: None });
        let anew = if self.shadow.is_none() { read() } else { None };
        let Shadow { maps, services, .. } = self.shadow.as_ref().or(anew.as_ref())?;
        let fill = |name, rows, capacity| Fill { name, rows, capacity };
        Some(vec![
            fill(name::ENDPOINTS, maps.endpoints.len(), capacity::ENDPOINTS),
            fill(name::ENDPOINTS6, maps.endpoints6.len(), capacity::ENDPOINTS),
            fill(name::NETWORKS, maps.networks.len(), capacity::NETWORKS),
            fill(name::RANGES, maps.ranges.len(), capacity::RANGES),
            fill(name::PEERS, maps.peers.len(), capacity::PEERS),
            fill(name::PEERS6, maps.peers6.len(), capacity::PEERS),
            fill(name::VTEPS, maps.vteps.len(), capacity::VTEPS),
            fill(name::NETNS, maps.netns.len(), capacity::NETNS),
            fill(name::FRONTENDS, services.frontends.len(), capacity::FRONTENDS),
            fill(name::SLOTS, services.slots.len(), capacity::SLOTS),
            fill(name::BACKENDS, services.backends.len(), capacity::BACKENDS),
            fill(name::PORTS, maps.ports.len(), capacity::PORTS),
        ])
    }

    /// What is remembered of the maps is to be read again, and what could not be loaded tried again.
    pub fn resync(&mut self) {
        self.shadow = None;
        self.links_due = true;
        self.passive.resync();
        if self.open.is_none() {
            self.why_not = None;
        }
    }

    /// Makes maps and links as they should be. With [`Links::Later`] links of containers that come or go are left for
    /// [`Outcome::later`], if nothing else is to be done about links.
    pub fn sync(&mut self, snapshot: &Snapshot, host: &Host, wanted: &maps::Rows, links: Links) -> Outcome {
        let changed = self.resolve(snapshot);
        let services = self.resolver.services();
        let remarks = fill::panicking(services).into_iter().chain(fill::sharing(services)).collect();
        let mut outcome = Outcome { remarks, ..Outcome::default() };
        if changed != Changed::none()
            && let Some(shadow) = &mut self.shadow
        {
            shadow.served = None;
        }
        self.load();
        if self.open.is_none() {
            outcome.why_not.clone_from(&self.why_not);
            return outcome;
        }
        self.settled = false;
        let has_bpffs = self.sync_pins(&mut outcome);
        let filled = self.fill_maps(host, wanted, &mut outcome);
        let rows_are_right = filled.is_ok();
        let refused = filled.unwrap_or_else(|e| {
            outcome.problems.push(format!("datapath: {}", chain(&e)));
            self.shadow = None;
            fill::Refused::default()
        });
        // A program on rows that are not right would drop what it does not know.
        let can_wait = links == Links::Later && rows_are_right && !refused.any && has_bpffs;
        match self.steps_for_later(host).filter(|_| can_wait) {
            Some(steps) => outcome.later = self.job(steps),
            None if rows_are_right && has_bpffs => {
                let failed_before = (outcome.failed, outcome.problems.len());
                self.sync_links(host, &refused.without_endpoint, &mut outcome);
                let went_well = (outcome.failed, outcome.problems.len()) == failed_before;
                if !refused.any && went_well {
                    self.retire_others(&mut outcome);
                }
                self.links_due = refused.any || !went_well;
            }
            None => self.links_due = true,
        }
        if let Some(paths) = self.paths.as_ref().ok().filter(|_| has_bpffs) {
            self.passive.sync(paths, &mut outcome);
        }
        self.settled = rows_are_right && !refused.any && has_bpffs;
        outcome.sockets = self.sockets;
        let uplink = host.uplink.as_ref();
        outcome.fast = self.attached.contains_key(UPLINK) && rows_are_right;
        outcome.why_not = match uplink {
            _ if outcome.fast => None,
            None => Some("there is no uplink".to_owned()),
            Some(uplink) if !uplink.ethernet => Some(format!("{} is not an Ethernet device", uplink.name)),
            Some(_) => Some(outcome.problems.last().cloned().unwrap_or_else(|| "this host has no overlay yet".to_owned())),
        };
        outcome
    }

    fn load(&mut self) {
        if self.open.is_some() || self.why_not.is_some() {
            return;
        }
        let paths = match &self.paths {
            Ok(paths) => paths,
            Err(why) => {
                self.why_not = Some(why.clone());
                return;
            }
        };
        match Datapath::open(paths) {
            Ok(datapath) => {
                info!(pins = %paths.pins().display(), built_with = bpf::BUILT_WITH, "loaded eBPF programs");
                self.open = Some(datapath);
            }
            Err(e) => {
                let mut why = chain(&e);
                if e.is_not_permitted() {
                    why = format!("not permitted to use eBPF (CAP_BPF and CAP_NET_ADMIN are needed): {why}");
                } else if let Err(e) = bpf::cleanup(paths) {
                    // An earlier agent's programs would go on with rows that nobody keeps.
                    why = format!("{why}; and what an earlier agent attached is still there: {}", chain(&e));
                }
                warn!(why, "no eBPF; packets take the kernel path, virtual IPs are not translated");
                self.why_not = Some(why);
            }
        }
    }

    /// Puts back what was unpinned by hand. Whether there is a bpffs: without one nothing stays attached.
    fn sync_pins(&mut self, outcome: &mut Outcome) -> bool {
        let Some(datapath) = self.open.as_mut() else { return true };
        match datapath.restore_pins() {
            Ok(0) => return true,
            Ok(maps) => {
                warn!(maps, "somebody removed pins of maps; pinned again");
                outcome.done += maps;
                self.links_due = true;
                return true;
            }
            Err(e) => {
                outcome.failed += 1;
                outcome.problems.push(format!("datapath: {}", chain(&e)));
                if !matches!(e, BpfError::Unmounted { .. }) {
                    return true;
                }
            }
        }
        self.attached.clear();
        self.sockets = false;
        false
    }

    fn sync_links(&mut self, host: &Host, without_endpoint: &BTreeSet<String>, outcome: &mut Outcome) {
        let beside = self.later.beside.clone();
        let _nobody_else = beside.one_at_a_time();
        self.collect();
        let Some(datapath) = self.open.as_ref() else { return };
        let there: BTreeMap<String, LinkState> = match datapath.links() {
            Ok(links) => links.into_iter().map(|l| (l.name.clone(), l)).collect(),
            Err(e) => {
                outcome.problems.push(format!("datapath: {}", chain(&e)));
                return;
            }
        };
        for step in self.link_steps(host, &there) {
            // A program without the row would drop all that comes from there.
            if matches!(&step, LinkStep::Container { id, .. } if without_endpoint.contains(id)) {
                continue;
            }
            self.take_link_step(&step, outcome);
        }
    }

    /// Everything is attached: what an agent of another layout left is of no more use.
    fn retire_others(&mut self, outcome: &mut Outcome) {
        let Some(datapath) = self.open.as_mut().filter(|d| !d.others().is_empty()) else { return };
        let layouts: Vec<u32> = datapath.others().iter().map(|other| other.layout).collect();
        match datapath.retire_others() {
            Ok(()) => info!(?layouts, "took over from an agent of another layout"),
            Err(e) => {
                outcome.failed += 1;
                outcome.problems.push(format!("datapath: {}", chain(&e)));
            }
        }
    }

    /// What is to be done about links, given those that are there.
    fn link_steps(&self, host: &Host, there: &BTreeMap<String, LinkState>) -> Vec<LinkStep> {
        let ours = |name: &str, index: u32| {
            let is_there = there.get(name).is_some_and(|l| l.alive && l.ifindex == Some(index));
            self.attached.get(name) == Some(&index) && is_there || self.is_making(name, index)
        };
        let mut steps = Vec::new();
        let wanted = device_links(host);
        for (name, index) in wanted.iter().filter(|(name, index)| !ours(name, **index)) {
            steps.push(match links::container_of(name) {
                Some(id) => LinkStep::Container { id: id.to_owned(), index: *index },
                None => LinkStep::Uplink(*index),
            });
        }
        let sockets = there.values().filter(|l| l.alive && !is_device_link(l)).count();
        if !self.sockets || sockets < bpf::Program::SOCKETS.len() {
            steps.push(LinkStep::Sockets);
        }
        let unwanted = there.values().filter(|l| is_device_link(l) && !wanted.contains_key(&l.name));
        steps.extend(unwanted.map(|link| LinkStep::Detach(link.name.clone())));
        steps
    }

    fn take_link_step(&mut self, step: &LinkStep, outcome: &mut Outcome) {
        let Some(datapath) = self.open.as_mut() else { return };
        debug!(%step, "datapath");
        match step {
            LinkStep::Container { id, index } => {
                let result = datapath.attach_container(id, *index);
                if let Err(e) = &result {
                    outcome.unattached.insert(id.clone(), chain(e));
                }
                note(result, &links::container(id), *index, &mut self.attached, outcome);
            }
            LinkStep::Uplink(index) => {
                let result = datapath.attach_uplink(*index);
                note(result, UPLINK, *index, &mut self.attached, outcome);
            }
            LinkStep::Sockets => match datapath.attach_sockets() {
                Ok(()) => {
                    self.sockets = true;
                    outcome.done += 1;
                }
                Err(e) => {
                    self.sockets = false;
                    outcome.failed += 1;
                    outcome.problems.push(format!("virtual IPs: {}", chain(&e)));
                }
            },
            LinkStep::Detach(name) => {
                self.attached.remove(name);
                match datapath.detach(name) {
                    Ok(()) => outcome.done += 1,
                    Err(e) => outcome.problems.push(format!("datapath: {}", chain(&e))),
                }
            }
        }
    }
}

/// Whether links are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// All of them.
    Now,
    /// Those that something else does the work of meanwhile need not be.
    Later,
}

/// One change of what programs are attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStep {
    /// A container's program, at its device.
    Container {
        /// The attachment's id.
        id: String,
        /// The device.
        index: u32,
    },
    /// The uplink's program, at this device.
    Uplink(u32),
    /// The programs of sockets, at the cgroup.
    Sockets,
    /// Take a link away, by its name.
    Detach(String),
}

impl fmt::Display for LinkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { id, index } => write!(f, "attach {} ifindex {index}", links::container(id)),
            Self::Uplink(index) => write!(f, "attach {UPLINK} ifindex {index}"),
            Self::Sockets => f.write_str("attach the programs of sockets to the cgroup"),
            Self::Detach(name) => write!(f, "detach {name}"),
        }
    }
}

/// The devices that are to have a program, by the names of their links.
fn device_links(host: &Host) -> BTreeMap<String, u32> {
    let container = |a: &weft_plan::Attachment| Some((links::container(&a.id), a.host_index?));
    let uplink = host.uplink.as_ref().filter(|u| u.ethernet && host.overlay().is_some());
    let uplink = uplink.map(|uplink| (UPLINK.to_owned(), uplink.index));
    host.attachments.iter().filter_map(container).chain(uplink).collect()
}

fn is_device_link(link: &LinkState) -> bool {
    is_device_link_name(&link.name)
}

fn is_device_link_name(name: &str) -> bool {
    name == UPLINK || links::container_of(name).is_some()
}

fn note(result: Result<(), BpfError>, name: &str, index: u32, attached: &mut BTreeMap<String, u32>, outcome: &mut Outcome) {
    match result {
        Ok(()) => {
            attached.insert(name.to_owned(), index);
            outcome.done += 1;
        }
        Err(e) => {
            attached.remove(name);
            outcome.failed += 1;
            outcome.problems.push(format!("datapath: {}", chain(&e)));
        }
    }
}

/// Locks the datapath; a panic elsewhere while it was held leaves nothing half-done that a resync would not mend.
pub fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Fast> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_maps(datapath: &Datapath) -> Result<maps::Rows, BpfError> {
    let maps = datapath.maps();
    Ok(maps::Rows {
        config: maps.config()?,
        networks: maps.networks()?,
        peers: maps.peers.rows()?,
        peers6: maps.peers6.rows()?,
        vteps: maps.vteps.rows()?,
        ranges: maps.ranges.rows()?,
        endpoints: maps.endpoints.rows()?,
        endpoints6: maps.endpoints6.rows()?,
        netns: maps.netns.rows()?,
        ports: maps.ports.rows()?,
    })
}

fn read_services(datapath: &Datapath) -> Result<rows::Rows, BpfError> {
    let maps = datapath.maps();
    Ok(rows::Rows { frontends: maps.frontends.rows()?, slots: maps.slots.rows()?, backends: maps.backends.rows()? })
}

fn put_map(datapath: &mut Datapath, action: &maps::Action) -> Result<(), BpfError> {
    let maps = datapath.maps_mut();
    match *action {
        maps::Action::PutConfig(config) => maps.set_config(&config),
        maps::Action::PutNetwork(network, row) => maps.set_network(network, &row),
        maps::Action::DeleteNetwork(network) => maps.set_network(network, &Network::default()),
        maps::Action::PutPeer(key, peer) => maps.peers.put(key, peer),
        maps::Action::DeletePeer(key) => maps.peers.delete(&key),
        maps::Action::PutPeer6(key, peer) => maps.peers6.put(key, peer),
        maps::Action::DeletePeer6(key) => maps.peers6.delete(&key),
        maps::Action::PutVtep(key, vtep) => maps.vteps.put(key, vtep),
        maps::Action::DeleteVtep(key) => maps.vteps.delete(&key),
        maps::Action::PutRange(key, network) => maps.ranges.put(key, network),
        maps::Action::DeleteRange(key) => maps.ranges.delete(&key),
        maps::Action::PutEndpoint(key, endpoint) => maps.endpoints.put(key, endpoint),
        maps::Action::DeleteEndpoint(key) => maps.endpoints.delete(&key),
        maps::Action::PutEndpoint6(key, endpoint) => maps.endpoints6.put(key, endpoint),
        maps::Action::DeleteEndpoint6(key) => maps.endpoints6.delete(&key),
        maps::Action::PutNetns(cookie, network) => maps.netns.put(cookie, network),
        maps::Action::DeleteNetns(cookie) => maps.netns.delete(&cookie),
        maps::Action::PutPort(key, to) => maps.ports.put(key, to),
        maps::Action::DeletePort(key) => maps.ports.delete(&key),
    }
}

fn put_service(datapath: &mut Datapath, action: &rows::Action) -> Result<(), BpfError> {
    let maps = datapath.maps_mut();
    match *action {
        rows::Action::PutBackend(id, backend) => maps.backends.put(id, backend),
        rows::Action::PutSlot(key, id) => maps.slots.put(key, id),
        rows::Action::PutFrontend(key, frontend) => maps.frontends.put(key, frontend),
        rows::Action::DeleteFrontend(key) => maps.frontends.delete(&key),
        rows::Action::DeleteSlot(key) => maps.slots.delete(&key),
        rows::Action::DeleteBackend(id) => maps.backends.delete(&id),
    }
}
