//! The one loop that changes the kernel: `todo = diff(desired, actual); apply(todo)`.
//!
//! [`run`]'s one `select!` is the list of reasons to work. Nothing is changed before the first complete snapshot and before
//! this host knows its subnet; what the last agent left stays meanwhile, and forwards. A failed action does not stop the
//! others: it is shown in `status` and tried again.
//!
//! ```text
//!   snapshot ──┐
//!   own subnet ┤            ┌─ kernel::netlink  devices, addresses, neighbours, routes
//!   attachments┼─▶ plan ─▶ ─┼─ firewall         nft table, jump past other owners' forward chains
//!   uplink ────┘            └─ datapath         map rows, links of programs
//!                                                  │
//!                         Report ◀─────────────────┘
//! ```

mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use tokio::sync::watch;
use tracing::{debug, info, warn};
use weft_agent::kernel::netlink::events::Events;
use weft_agent::kernel::netlink::{Netlink, NetlinkError};
use weft_model::ids::{EndpointId, NodeName, Revision};
use weft_model::network::NetworkConfig;
use weft_model::snapshot::Snapshot;
use weft_plan::host::{ENCAP_OVERHEAD_V6, LOOPBACK, MIN_MTU_V6};
use weft_plan::links::Kind;
use weft_plan::routes::Route;
use weft_plan::{Desired, Host, Peer, Row, Step, Uplink, kernel, maps};

use crate::attach::{Attachments, Published};
use crate::claim::{Facts, Own};
use crate::datapath::look::Lookout;
use crate::datapath::{self, Links, Outcome, Shared, later, passive};
use crate::firewall::Firewall;
use crate::metrics::{Metrics, OutcomeLabel};
use crate::networks::Known;
use crate::state::{Attachment, StateDir};
use crate::view::{View, chain};
use uplink::KnownUplink;

/// How often everything is read back although nothing seems to have changed.
const RESYNC: Duration = Duration::from_secs(30);

/// How long to wait before failed actions are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the kernel follows, and what it does not.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The snapshot's revision that the kernel was last made to follow.
    pub revision: Revision,
    /// The generation of attachments that it was made to follow.
    pub generation: u64,
    /// Attachments that it could not be made to follow, and why not.
    pub unapplied: BTreeMap<EndpointId, String>,
    /// Whether containers can be attached.
    pub ready: bool,
    /// What is missing for that.
    pub why_not_ready: Option<String>,
    /// The host's subnet, once its gateway is there.
    pub subnet: Option<Ipv4Net>,
    /// Its IPv6 subnet, likewise.
    pub subnet6: Option<Ipv6Net>,
    /// MTU of containers' interfaces, bytes.
    pub mtu: Option<u32>,
    /// The uplink's name.
    pub uplink: Option<String>,
    /// The own tunnel address: IPv4, if there is one.
    pub public_ip: Option<IpAddr>,
    /// Whether packets to other hosts take the fast path.
    pub fast: bool,
    /// Why not.
    pub why_not_fast: Option<String>,
    /// Whether virtual IPs are translated.
    pub sockets: bool,
    /// The cgroup whose sockets they are.
    pub cgroup: PathBuf,
    /// The other hosts, and whether the fast path leads to them.
    pub peers: Vec<Peer>,
    /// What is odd, and what to do about it.
    pub problems: Vec<String>,
    /// The host that was planned for; none before it has a subnet.
    pub host: Option<Arc<Host>>,
}

/// What the loop needs.
#[derive(Debug)]
pub struct Inputs {
    /// This host.
    pub node: NodeName,
    /// `--iface`.
    pub iface: String,
    /// `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// Where the uplink is remembered.
    pub state: Arc<StateDir>,
    /// This boot.
    pub boot: String,
    /// The cgroup whose sockets reach virtual IPs.
    pub cgroup: PathBuf,
    /// Cookie of this host's network namespace.
    pub netns_cookie: u64,
    /// The store's view.
    pub view: View,
    /// The own subnet.
    pub own: watch::Receiver<Option<Own>>,
    /// The networks besides the default one.
    pub networks: watch::Receiver<Arc<Known>>,
    /// What there is to attach.
    pub published: watch::Receiver<Arc<Published>>,
    /// Told of devices that are missing.
    pub attachments: Arc<Attachments>,
    /// The eBPF half.
    pub datapath: Shared,
    /// The packet filter.
    pub firewall: Firewall,
    /// Netlink.
    pub netlink: Netlink,
    /// What the kernel says has changed.
    pub events: Events,
    /// Counters.
    pub metrics: Metrics,
    /// What this host would publish, as far as the kernel tells: filled in with the uplink.
    pub facts: watch::Sender<Option<Facts>>,
    /// The result.
    pub report: watch::Sender<Report>,
}

/// Reconciles until the process ends.
pub async fn run(mut inputs: Inputs, facts: Facts) {
    let mut uplink = KnownUplink::remembered(&inputs);
    // Kept when the stored one disappears or no longer parses: unknown is never gone.
    let mut config: Option<NetworkConfig> = None;
    let mut held = Held::default();
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut lookout = Lookout::default();
    let mut reading = Reading::default();
    let linked = datapath::lock(&inputs.datapath).told();
    let begun = datapath::lock(&inputs.datapath).begun();
    loop {
        if reading.due || uplink.problem.is_some() {
            uplink.find(&inputs).await;
            inputs.events.watch(uplink.now.as_ref().map_or(&[], |u| &u.on_link.direct));
            publish_facts(&inputs, &facts, uplink.now.as_ref());
        }
        let retry = round(&mut inputs, &mut config, &mut held, &mut reading, &uplink).await;
        // Whether what the kernel holds may be another than it was.
        reading.due = loop {
            break tokio::select! {
            Ok(()) = inputs.view.changed() => false,
            Ok(()) = inputs.own.changed() => true,
            // What a new attachment needs is another plan than was carried out last; what became of a device the kernel tells.
            Ok(()) = inputs.published.changed() => false,
            // Its rows that need no device are written while that is being made.
            () = inputs.attachments.begun() => false,
            Ok(()) = inputs.networks.changed() => true,
            () = inputs.events.changed() => true,
            () = inputs.firewall.changed() => false,
            () = lookout.changed(&inputs.datapath) => false,
            () = later::changed(&inputs.datapath, &linked) => false,
            () = passive::changed(&inputs.datapath, &begun) => false,
            _ = resync.tick() => {
                datapath::lock(&inputs.datapath).resync();
                inputs.firewall.resync();
                true
            }
            () = tokio::time::sleep(RETRY), if retry => true,
            () = tokio::time::sleep(RETRY), if uplink.unanswered && !retry => {
                // Nothing may tell when a question that failed has an answer. Only another one is a reason for a round.
                if !uplink.changes(&inputs).await {
                    continue;
                }
                true
            }
            };
        };
    }
}

/// Whether the kernel's tables must be read back. Most changes of the store are of records and services, which are no concern of
/// devices and routes: then what was planned and carried out last still stands, unless the kernel gave notice of something.
#[derive(Debug)]
struct Reading {
    due: bool,
    /// What all of the last reading was made to be.
    applied: Option<kernel::Rows>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { due: true, applied: None }
    }
}

impl Reading {
    fn is_needed(&self, desired: &kernel::Rows) -> bool {
        self.due || self.applied.as_ref() != Some(desired)
    }
}

/// Routes that were seen to be there and ours, by their keys.
type Held = BTreeSet<<Route as Row>::Key>;

/// Tells the claimer and the registrar what this host would publish.
fn publish_facts(inputs: &Inputs, facts: &Facts, uplink: Option<&Uplink>) {
    let now = Facts {
        public_ip: uplink.and_then(|u| u.public_ip),
        public_ipv6: uplink.and_then(|u| u.public_ipv6),
        mtu: uplink.map_or(0, |u| {
            let overhead = if u.address.is_some() { weft_abi::ENCAP_OVERHEAD } else { ENCAP_OVERHEAD_V6 };
            u.mtu.saturating_sub(overhead)
        }),
        ..facts.clone()
    };
    inputs.facts.send_if_modified(|there| {
        let changed = there.as_ref() != Some(&now);
        *there = Some(now);
        changed
    });
}

/// One round. Returns whether it must be tried again soon.
async fn round(
    inputs: &mut Inputs,
    config: &mut Option<NetworkConfig>,
    held: &mut Held,
    reading: &mut Reading,
    known: &KnownUplink,
) -> bool {
    let (uplink, uplink_problem) = (known.now.clone(), known.problem.as_deref());
    let snapshot = inputs.view.borrow_and_update().clone();
    let own = inputs.own.borrow_and_update().clone();
    inputs.networks.borrow_and_update();
    if let Some(now) = snapshot.as_ref().and_then(|s| s.network()) {
        *config = Some(now.clone());
    }
    let (Some(snapshot), Some(own), Some(_)) = (snapshot, own, config.as_ref()) else {
        report_waiting(inputs, uplink.as_ref(), uplink_problem);
        return false;
    };
    inputs.metrics.reconciles.inc();
    let mut problems: Vec<String> = uplink_problem.map(str::to_owned).into_iter().collect();
    let mut failed = 0;
    let mut addressed = false;
    let mut unapplied: BTreeMap<EndpointId, String> = BTreeMap::new();
    let mut missing: Vec<EndpointId> = Vec::new();

    // What is there is read before the attachments are: attach publishes before it makes a device, so no device is seen
    // whose attachment is not known, and none is swept away that is just being made.
    let mut published = inputs.published.borrow().clone();
    let mut host = self::host(inputs, config.clone(), &own, &published, uplink.clone());
    let mut desired = weft_plan::desired(&snapshot, &host);
    let mut observed = None;
    if reading.is_needed(&desired.kernel) {
        observed = Some(inputs.netlink.observe(&desired.kernel.sysctls).await);
        published = inputs.published.borrow_and_update().clone();
        let now = self::host(inputs, config.clone(), &own, &published, uplink);
        desired = planned_again(&snapshot, desired, &host, &now);
        host = now;
    }
    // Before devices and programs: who may send what is settled before anybody can send.
    let filter = inputs.firewall.sync(&snapshot.cluster(), &host, &desired.peers).await;
    count(&inputs.metrics, filter.done, filter.failed);
    problems.extend(filter.problems);
    if let Some(why) = filter.unpublished {
        let publishing = published.by_id.values().filter(|a| !a.publish.is_empty());
        unapplied.extend(publishing.map(|a| (a.id.clone(), why.clone())));
    }
    match observed {
        // As it was made before.
        None => addressed = true,
        Some(Ok(actual)) => {
            // A pair that attach has not made yet, or that somebody removed.
            let there = |name: &str| actual.links.iter().any(|l| l.name == name);
            missing.extend(published.by_id.values().filter(|a| !there(&a.host_ifname)).map(|a| a.id.clone()));
            held.retain(|key| desired.kernel.routes.contains(key));
            held.extend(actual.routes.iter().map(Row::key));
            let went = apply(inputs, &kernel::diff(&desired.kernel, &actual), held, &mut problems).await;
            reading.applied = (went.failed == 0 && missing.is_empty()).then(|| desired.kernel.clone());
            failed += went.failed;
            addressed = !went.address_failed;
            for attachment in published.by_id.values() {
                if let Some(why) = went.devices.get(&attachment.host_ifname) {
                    unapplied.insert(attachment.id.clone(), why.clone());
                }
            }
        }
        Some(Err(e)) => {
            reading.applied = None;
            failed += 1;
            problems.push(format!("read the kernel's tables: {}", chain(&e)));
        }
    }
    // Devices have their numbers only now.
    let before = host.clone();
    index_devices(&mut host);
    let desired = planned_again(&snapshot, desired, &before, &host);
    problems.extend(desired.warnings.iter().map(ToString::to_string));
    problems.extend(too_narrow(&host));
    let by_loopback = !desired.maps.ports.is_empty();
    // A container whose sources the packet filter checks may be told of before its program is in place.
    let links = if filter.stands { Links::Later } else { Links::Now };
    let (outcome, host) = sync_datapath(inputs, &snapshot, host, desired.maps, links).await;
    if by_loopback && !outcome.sockets {
        let why = outcome.why_not.as_deref().unwrap_or("the programs of sockets are not attached");
        problems.push(format!("published ports are not reached by localhost: {why}; name an address of the host instead"));
    }
    unapplied.extend(outcome.unattached.iter().filter_map(|(id, why)| Some((id.parse().ok()?, why.clone()))));
    count(&inputs.metrics, outcome.done, outcome.failed);
    problems.extend(outcome.problems.iter().cloned());
    problems.extend(outcome.remarks.iter().cloned());

    // Containers need their gateway, and nothing else that might fail: without an overlay the rest of it all still runs.
    let gateway_is_there = addressed || inputs.report.borrow().subnet == Some(own.subnet);
    let report = Report {
        revision: snapshot.revision(),
        generation: published.generation,
        ready: gateway_is_there,
        why_not_ready: (!gateway_is_there).then(|| problems.join("; ")),
        subnet: gateway_is_there.then_some(own.subnet),
        subnet6: own.subnet6.filter(|_| gateway_is_there),
        mtu: Some(host.container_mtu()),
        uplink: host.uplink.as_ref().map(|u| u.name.clone()),
        public_ip: host.uplink.as_ref().and_then(public_address),
        fast: outcome.fast,
        why_not_fast: outcome.why_not,
        sockets: outcome.sockets,
        unapplied,
        cgroup: inputs.cgroup.clone(),
        peers: desired.peers.used.iter().map(|p| Peer { fast: p.fast && outcome.fast, ..p.clone() }).collect(),
        problems,
        host: Some(Arc::new(host)),
    };
    log_changes(&inputs.report.borrow(), &report);
    let again = failed > 0 || outcome.failed > 0 || filter.failed > 0;
    follow_mtu(inputs, &report);
    inputs.report.send_replace(report);
    if !missing.is_empty() {
        // In a task of its own: an attach that is making the device holds the journal and waits for this loop.
        let attachments = inputs.attachments.clone();
        tokio::spawn(async move { attachments.sweep(&missing).await });
    }
    again
}

/// What is to be said of a link on which the kernel does not run IPv6.
fn too_narrow(host: &Host) -> Option<String> {
    let (subnet6, mtu) = (host.subnet6?, host.overlay()?.mtu());
    (mtu < MIN_MTU_V6).then(|| {
        format!(
            "containers have no IPv6 ({subnet6}): their MTU would be {mtu}, and IPv6 needs {MIN_MTU_V6}; give the uplink a larger one"
        )
    })
}

/// The plan for `now`, given the one for `before`.
fn planned_again(snapshot: &Snapshot, plan: Desired, before: &Host, now: &Host) -> Desired {
    if now == before { plan } else { weft_plan::desired(snapshot, now) }
}

/// Containers follow the overlay's MTU; without an overlay they keep what they have. In a task of its own, as the sweep is.
fn follow_mtu(inputs: &Inputs, report: &Report) {
    let Some(mtu) = report.host.as_ref().and_then(|host| host.overlay()).map(|overlay| overlay.mtu()) else { return };
    let others = inputs.attachments.with_other_mtu(mtu);
    if !others.is_empty() {
        let attachments = inputs.attachments.clone();
        tokio::spawn(async move { attachments.follow_mtu(&others, mtu).await });
    }
}

/// Maps and programs, off the async threads: verifying programs and reading large maps back takes its time.
async fn sync_datapath(inputs: &Inputs, snapshot: &Arc<Snapshot>, host: Host, rows: maps::Rows, links: Links) -> (Outcome, Host) {
    let (shared, snapshot, copy) = (inputs.datapath.clone(), snapshot.clone(), host.clone());
    let synced = tokio::task::spawn_blocking(move || datapath::lock(&shared).sync(&snapshot, &copy, &rows, links)).await;
    let failed =
        |e: tokio::task::JoinError| Outcome { failed: 1, problems: vec![format!("datapath: {e}")], ..Outcome::default() };
    let mut outcome = synced.unwrap_or_else(failed);
    if let Some(job) = outcome.later.take() {
        tokio::task::spawn_blocking(move || job.run());
    }
    (outcome, host)
}

fn host(inputs: &Inputs, config: Option<NetworkConfig>, own: &Own, published: &Published, uplink: Option<Uplink>) -> Host {
    // One guard at a time: two of one channel wait for each other as soon as somebody wants to write between them.
    let networks = inputs.networks.borrow().clone();
    Host {
        node: inputs.node.clone(),
        config,
        subnet: Some(own.subnet),
        subnet6: own.subnet6,
        vtep_mac: own.vtep_mac,
        vtep_mac6: own.vtep_mac6,
        uplink,
        attachments: attachments(published, &networks),
        netns_cookie: inputs.netns_cookie,
        networks: networks.memberships(),
    }
}

/// Attachments as plans have them, with the numbers that their devices have now.
pub fn attachments(published: &Published, networks: &Known) -> Vec<weft_plan::Attachment> {
    let first = |a: &Attachment| !a.further || !published.by_id.values().any(|b| !b.further && b.netns_cookie == a.netns_cookie);
    let attachment = |a: &Attachment| weft_plan::Attachment {
        id: a.id.to_string(),
        address: a.address,
        address6: a.address6,
        mac: a.mac,
        host_ifname: a.host_ifname.clone(),
        host_index: index_of(&a.host_ifname),
        // Sockets follow the network of the namespace's first interface.
        netns_cookie: if first(a) { a.netns_cookie } else { 0 },
        network: networks.number(a.network.as_ref()),
        publish: a.publish.clone(),
    };
    published.by_id.values().map(attachment).collect()
}

fn index_of(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// The name of the device with this number.
pub fn name_of(index: u32) -> Option<String> {
    // nix 0.31 gives an empty name, not an error, for a number that no device has.
    let name = nix::net::if_::if_indextoname(index).ok()?.into_string().ok();
    name.filter(|name| !name.is_empty())
}

fn index_devices(host: &mut Host) {
    for attachment in &mut host.attachments {
        attachment.host_index = index_of(&attachment.host_ifname);
    }
}

/// How a list of actions went.
#[derive(Clone, Debug, Default)]
struct Went {
    failed: u64,
    /// Whether one of them was for an address.
    address_failed: bool,
    /// Devices that something failed for, and what.
    devices: BTreeMap<String, String>,
    /// Devices that could not be made: nothing else of theirs is tried.
    unmade: BTreeSet<String>,
}

async fn apply(inputs: &Inputs, actions: &[kernel::Action], held: &Held, problems: &mut Vec<String>) -> Went {
    let mut went = Went::default();
    let before = problems.len();
    for action in actions {
        if device_of(action).is_some_and(|device| went.unmade.contains(device)) {
            continue;
        }
        let mut done = inputs.netlink.apply(action).await;
        // Somebody put a route in the place of ours (`ip route replace`). Theirs stays; ours counts again.
        if let (Err(NetlinkError::InTheWay { .. }), kernel::Action::Route(Step::Add(route))) = (&done, action)
            && held.contains(&route.key())
        {
            warn!(%route, "somebody put a route in the place of ours; it stays, and ours stands before it");
            done = inputs.netlink.add_route_before(route).await;
        }
        match done {
            Ok(()) => {
                debug!(%action, "kernel");
                count(&inputs.metrics, 1, 0);
            }
            Err(e) => {
                went.failed += 1;
                // On a device that could not be made nothing else can be; what counts is the gateway, which is on none.
                went.address_failed |= matches!(action, kernel::Action::Address(step) if step.row().device == LOOPBACK);
                count(&inputs.metrics, 0, 1);
                let text = explain(inputs, action, &e).await;
                if let kernel::Action::Link(Step::Add(link)) = action {
                    went.unmade.insert(link.name.clone());
                }
                if let Some(device) = device_of(action) {
                    went.devices.insert(device.to_owned(), text.clone());
                }
                note_failure(problems, text, went.failed);
            }
        }
    }
    // Said once: it is tried again every second, and shown in status.
    let first = problems.get(before).cloned().unwrap_or_default();
    if went.failed > 0 && !inputs.report.borrow().problems.contains(&first) {
        warn!(failed = went.failed, of = actions.len(), first, "changes to the kernel failed; they are tried again");
    }
    went
}

/// The first failure in full; a hundred more of its kind help nobody.
fn note_failure(problems: &mut Vec<String>, text: String, failed: u64) {
    if failed <= 3 {
        problems.push(text);
    }
}

/// The device that an action is for.
fn device_of(action: &kernel::Action) -> Option<&str> {
    match action {
        kernel::Action::Sysctl(step) => step.row().device(),
        kernel::Action::Link(step) => Some(&step.row().name),
        kernel::Action::Address(step) => Some(&step.row().device),
        kernel::Action::Neighbor(step) => Some(&step.row().device),
        kernel::Action::Forward(step) => Some(&step.row().device),
        kernel::Action::Route(step) => step.row().via.device(),
    }
}

/// What went wrong, and where that is known what to do about it.
async fn explain(inputs: &Inputs, action: &kernel::Action, error: &NetlinkError) -> String {
    let kernel::Action::Link(step) = action else { return chain(error) };
    let Kind::Vxlan(vxlan) = &step.row().kind else { return chain(error) };
    match error.errno() {
        libc::EADDRINUSE => format!(
            "no overlay: UDP port {} is taken by another program; free it, or choose another with netctl network init --port",
            vxlan.port
        ),
        libc::EEXIST => match inputs.netlink.foreign_vxlan(vxlan.vni, vxlan.port).await {
            Ok(Some(other)) => format!(
                "no {}, so no kernel path to other hosts: {other} has VNI {} already; if what made it (flanneld?) does not run here any more: ip link delete {other}",
                step.row().name,
                vxlan.vni
            ),
            _ => chain(error),
        },
        _ => chain(error),
    }
}

fn count(metrics: &Metrics, done: u64, failed: u64) {
    if done > 0 {
        metrics.actions.get_or_create(&OutcomeLabel { outcome: "done" }).inc_by(done);
    }
    if failed > 0 {
        metrics.actions.get_or_create(&OutcomeLabel { outcome: "failed" }).inc_by(failed);
    }
}

/// What this host is called by.
fn public_address(uplink: &Uplink) -> Option<IpAddr> {
    uplink.public_ip.map(IpAddr::V4).or(uplink.public_ipv6.map(IpAddr::V6))
}

/// Before there is a subnet, only what is known of the uplink can be said.
fn report_waiting(inputs: &Inputs, uplink: Option<&Uplink>, uplink_problem: Option<&str>) {
    inputs.report.send_modify(|report| {
        report.cgroup.clone_from(&inputs.cgroup);
        report.uplink = uplink.map(|u| u.name.clone());
        report.public_ip = uplink.and_then(public_address);
        report.problems = uplink_problem.map(str::to_owned).into_iter().collect();
        if report.why_not_fast.is_none() {
            report.why_not_fast = Some("this host has no subnet yet".to_owned());
        }
        if !report.ready {
            report.why_not_ready = Some("this host has no subnet yet".to_owned());
        }
    });
}

fn log_changes(before: &Report, now: &Report) {
    if !before.ready && now.ready {
        info!(subnet = ?now.subnet, fast = now.fast, "ready");
    }
    if before.ready && before.fast != now.fast {
        match &now.why_not_fast {
            Some(why) => warn!(why, "packets take the kernel path"),
            None => info!("packets take the fast path"),
        }
    }
    for peer in now.peers.iter().filter(|p| before.peers.iter().all(|b| b.subnet != p.subnet)) {
        info!(subnet = %peer.subnet, public_ip = %peer.outer, node = peer.node.as_ref().map(NodeName::as_str), "peer");
    }
    for peer in before.peers.iter().filter(|p| now.peers.iter().all(|n| n.subnet != p.subnet)) {
        info!(subnet = %peer.subnet, public_ip = %peer.outer, "peer is gone");
    }
}

#[cfg(test)]
mod tests {
    use weft_plan::sysctls::Sysctl;

    use super::*;

    #[test]
    fn the_kernel_is_read_at_first_after_a_notice_after_a_failure_and_for_another_plan_only() {
        let mut reading = Reading::default();
        let rows = kernel::Rows::default();
        assert!(reading.is_needed(&rows), "at first");
        (reading.due, reading.applied) = (false, Some(rows.clone()));
        assert!(!reading.is_needed(&rows));
        let mut other = rows.clone();
        other.sysctls.insert(Sysctl { path: "net/ipv4/ip_forward".into(), value: "1".into(), over: None });
        assert!(reading.is_needed(&other), "for another plan");
        reading.due = true;
        assert!(reading.is_needed(&rows), "after a notice");
        (reading.due, reading.applied) = (false, None);
        assert!(reading.is_needed(&rows), "after a failure");
    }
}
