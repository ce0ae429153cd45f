//! The path to each peer, measured: small packets and full ones, from the host (the kernel path) and from the doctor's container
//! (the fast path, where there is one), a TCP handshake, and the underlay beside.
//!
//! What is measured goes to [`super::judge`] as plain values. The peer need not know of it: its kernel answers for the address of
//! its VXLAN device, whether it runs Weft or flannel.
//!
//! ```text
//!   gateway 10.244.3.1 ──────▶ weft.1 ═════════════════▶ weft.1 or flannel.1  10.244.7.0      host, kernel path
//!   container 10.244.3.9 ─ program ═ uplink ═══════════▶ 10.244.7.0                           container, fast path
//!   uplink 192.0.2.1 ──────────────────────────────────▶ 192.0.2.2                            underlay
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use weft_agent::kernel::probe::echo::{Answer, Echo, Question, ask};
use weft_agent::kernel::probe::stamp;
use weft_agent::kernel::probe::tcp::Attempt;
use weft_agent::kernel::probe::vxlan::{Knock, Opened, frame, knock};
use weft_api::Finding;
use weft_model::ids::NodeName;
use weft_model::mac::Mac;
use weft_plan::{Host, Peer, ipam, links, peers};

use super::container::{Endpoint, SMALL};
use super::judge;
use crate::admin::Admin;
use crate::datapath::{self, Shared};
use crate::refusal::Refusal;

/// The check of whether a peer is reached at all.
pub(super) const PATH: &str = "path";

/// The check of how long packets to it may be.
pub(super) const PATH_MTU: &str = "path-mtu";

/// The check of TCP to it, whose checksums others make.
pub(super) const PATH_TCP: &str = "path-tcp";

/// How often and how long an answer is waited for before it counts as silence.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// The same, where something shorter was answered just now and the longest that passes is looked for.
const SEARCH_PAUSE: Duration = Duration::from_millis(300);

/// How long a TCP handshake may take: three SYNs.
const HANDSHAKE: Duration = Duration::from_secs(4);

/// A port where nobody listens, as a rule (`discard`); a reset is an answer.
const QUIET_PORT: u16 = 9;

/// A peer to be probed in one family of addresses, and from where.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Its name; a flanneld has none.
    pub node: Option<NodeName>,
    /// Its subnet.
    pub subnet: IpNet,
    /// Its outer address.
    pub outer: IpAddr,
    /// Its VTEP's Ethernet address, as its lease says.
    pub mac: Mac,
    /// Whether its agent lives, if it has one.
    pub alive: Option<bool>,
    /// Whether the fast path leads there.
    pub fast: bool,
    /// Whether packets get there as they are, without a tunnel.
    pub direct: bool,
    /// The longest inner packet, in bytes.
    pub mtu: u32,
    /// The longest that we send there, in bytes; the peer may take less.
    pub own_mtu: u32,
    /// The longest outer packet, in bytes.
    pub outer_mtu: u32,
    /// Our network, for advice.
    pub network: Ipv4Net,
    /// The UDP port of the tunnel.
    pub port: u16,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// Our subnet of the same family.
    pub own: IpNet,
    /// Our VTEP's Ethernet address.
    pub own_mac: Mac,
    /// Our outer address, if there is one of that family.
    pub outer_from: Option<IpAddr>,
    /// Our VXLAN device.
    pub device: String,
}

impl Target {
    /// How people know it.
    pub(super) fn name(&self) -> String {
        let name = self.node.as_ref().map_or_else(|| self.outer.to_string(), ToString::to_string);
        if matches!(self.subnet, IpNet::V6(_)) { format!("{name} (IPv6)") } else { name }
    }

    /// The peer's own address in the overlay: that of its VXLAN device.
    fn inner(&self) -> IpAddr {
        self.subnet.network()
    }

    /// Our gateway's address, which the peer has a route to.
    fn gateway(&self) -> IpAddr {
        match self.own {
            IpNet::V4(own) => ipam::gateway(own).into(),
            IpNet::V6(own) => Ipv6Addr::from(u128::from(own.network()) + 1).into(),
        }
    }
}

/// One way to a peer, as far as it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// A small packet.
    pub small: Answer,
    /// The longest that should pass; not tried where the small one is not answered.
    pub full: Option<Answer>,
    /// The longest that passes, in bytes, where the full one does not.
    pub largest: Option<u32>,
    /// A TCP handshake: how long it took, if it was answered. Not tried where the small packet is not answered.
    pub tcp: Option<Result<Option<Duration>, String>>,
}

/// All that was measured of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// From the host: the kernel path.
    pub host: Result<Way, String>,
    /// From the doctor's container: the fast path, if there is one. Or why there is none.
    pub container: Result<Way, String>,
    /// Outside of the overlay.
    pub under: Result<Way, String>,
    /// Who opens to a frame for everybody; tried only where something is not answered.
    pub knock: Option<Result<Opened, String>>,
    /// Whether the program at the container's device sends packets there by itself; not known without programs.
    pub taken: Option<bool>,
    /// How far its clock is ahead of ours, in milliseconds, if it tells.
    pub clock_ahead: Option<i64>,
    /// The address that outer packets leave with, if that is not the uplink's.
    pub leaves_with: Option<IpAddr>,
}

/// The VXLAN devices that this host may have.
pub(super) fn vxlan_devices(admin: &Admin) -> Vec<String> {
    let host = admin.report.borrow().host.clone();
    let overlays = host.iter().filter_map(|h| h.overlay()).filter(|o| o.tunnels());
    overlays.flat_map(|o| [o.device(), o.device6()]).collect()
}

/// The peers to probe: all, or those that are named by name, address or subnet.
///
/// # Errors
/// There is no such peer.
pub(super) fn chosen(admin: &Admin, wanted: &[String]) -> Result<Vec<Target>, Refusal> {
    let report = admin.report.borrow().clone();
    let snapshot = admin.view.borrow().clone();
    let alive = |node: &NodeName| snapshot.as_ref().is_some_and(|s| s.node(node).is_some());
    let all: Vec<Target> = match &report.host {
        Some(host) => report.peers.iter().flat_map(|peer| targets(host, peer, &alive)).collect(),
        None => Vec::new(),
    };
    if wanted.is_empty() {
        return Ok(all);
    }
    let is = |t: &Target, text: &str| {
        t.node.as_ref().is_some_and(|n| n.as_str() == text) || t.outer.to_string() == text || t.subnet.to_string() == text
    };
    let mut found = Vec::new();
    for text in wanted {
        let before = found.len();
        found.extend(all.iter().filter(|t| is(t, text)).cloned());
        if found.len() == before {
            let there: Vec<String> = all.iter().map(Target::name).collect();
            let there = if there.is_empty() { "there are none".to_owned() } else { format!("there are {}", there.join(", ")) };
            return Err(Refusal::not_found(format!("doctor: {text:?} is no peer of this host; {there}")));
        }
    }
    Ok(found)
}

/// A peer in each family that leads to it.
fn targets(host: &Host, peer: &Peer, alive: &dyn Fn(&NodeName) -> bool) -> Vec<Target> {
    let Some(overlay) = host.overlay() else { return Vec::new() };
    let target = |subnet: IpNet, own: IpNet, outer: IpAddr, mac: Mac, fast: bool, via: peers::Way| {
        let direct = via == peers::Way::Direct;
        let own_mtu = if direct { overlay.mtu() } else { overlay.mtu_to(outer).min(overlay.mtu()) };
        Target {
            node: peer.node.clone(),
            subnet,
            outer,
            mac,
            alive: peer.node.as_ref().map(alive),
            fast,
            direct,
            mtu: peer.mtu.map_or(own_mtu, |mtu| mtu.min(own_mtu)),
            own_mtu,
            outer_mtu: overlay.outer_mtu(),
            network: overlay.config.network,
            port: overlay.config.backend.port,
            vni: overlay.config.backend.vni,
            own,
            own_mac: if outer.is_ipv6() { host.vtep_mac6 } else { host.vtep_mac },
            outer_from: match outer {
                IpAddr::V4(_) => overlay.uplink.address.map(IpAddr::from),
                IpAddr::V6(_) => overlay.uplink.address6.map(IpAddr::from),
            },
            device: overlay.device_to(outer),
        }
    };
    let v4 = target(peer.subnet.into(), overlay.subnet.into(), peer.outer, peer.mac, peer.fast, peer.via);
    let v6 = peer
        .subnet6
        .zip(overlay.subnet6)
        .zip(peer.outer6)
        .map(|((subnet, own), outer)| target(subnet.into(), own.into(), outer, peer.mac6, peer.fast6, peer.via6));
    std::iter::once(v4).chain(v6).collect()
}

/// Measures and judges.
pub(super) async fn probe(
    datapath: Shared,
    target: Target,
    endpoint: Option<Arc<Endpoint>>,
    why_not: Option<String>,
) -> Vec<Finding> {
    let name = target.name();
    let looked = tokio::task::spawn_blocking(move || {
        let inside = endpoint.as_deref().ok_or_else(|| why_not.unwrap_or_default());
        let taken = inside.as_ref().ok().and_then(|endpoint| taken(&datapath, &target, endpoint));
        let evidence = Evidence { taken, ..look(&target, inside) };
        judge::judge(&target, &evidence)
    });
    looked.await.unwrap_or_else(|e| vec![Finding::skipped(PATH, name, e.to_string())])
}

/// A way under measurement.
struct Measured {
    echo: Result<Echo, String>,
    full: usize,
    way: Way,
}

impl Measured {
    fn new(echo: io::Result<Echo>, full: u32) -> Self {
        let echo = echo.map_err(|e| e.to_string());
        let way = Way { small: Answer::Silent, full: None, largest: None, tcp: None };
        Self { echo, full: usize::try_from(full).unwrap_or(SMALL).max(SMALL), way }
    }

    fn end(self) -> Result<Way, String> {
        self.echo.map(|_| self.way)
    }
}

/// Everything that can be seen of one peer. Blocks, for some twenty seconds at worst.
fn look(target: &Target, endpoint: Result<&Endpoint, String>) -> Evidence {
    let inner = target.inner();
    let gateway = target.gateway();
    let inside = match &endpoint {
        Ok(endpoint) => Echo::open(Some(&endpoint.netns), None, inner),
        Err(why) => Err(io::Error::other(why.clone())),
    };
    let mut ways = [
        Measured::new(Echo::open(None, Some(gateway), inner), target.mtu),
        Measured::new(inside, target.mtu),
        Measured::new(Echo::open(None, target.outer_from, target.outer), target.outer_mtu),
    ];
    ask_all(&mut ways, |_| SMALL, |way, answer| way.small = answer);
    ask_all(&mut ways, |m| if m.way.small.is_heard() { m.full } else { 0 }, |way, answer| way.full = Some(answer));
    // The underlay's own is said by what the overlay carries.
    for measured in &mut ways[..2] {
        let lost = measured.way.full.as_ref().is_some_and(|full| !full.is_heard());
        if let (true, Ok(echo)) = (lost, &mut measured.echo) {
            let told = measured.way.full.as_ref().and_then(Answer::mtu).and_then(|mtu| usize::try_from(mtu).ok());
            measured.way.largest = largest(SMALL, measured.full, told, |size| passes(echo, size));
        }
    }
    // Both handshakes are under way together.
    let to = SocketAddr::new(inner, QUIET_PORT);
    let begin = |measured: &Measured, netns, from| {
        measured.way.small.is_heard().then(|| Attempt::begin(netns, from, to).map_err(|e| e.to_string()))
    };
    let from_host = begin(&ways[0], None, Some(gateway));
    let from_container = endpoint.as_ref().ok().and_then(|e| begin(&ways[1], Some(&e.netns), None));
    let wait = |attempt: Result<Attempt, String>| attempt.and_then(|a| a.wait(HANDSHAKE).map_err(|e| e.to_string()));
    ways[0].way.tcp = from_host.map(wait);
    ways[1].way.tcp = from_container.map(wait);

    let clock_ahead = match (gateway, inner, ways[0].way.small.is_heard()) {
        (IpAddr::V4(from), IpAddr::V4(to), true) => stamp::ahead(from, to, 1, PAUSE).ok().flatten(),
        _ => None,
    };
    let unheard = ways[..2].iter().any(|m| m.echo.is_ok() && !m.way.small.is_heard());
    let [host, container, under] = ways.map(Measured::end);
    Evidence {
        host,
        container,
        under,
        knock: unheard.then(|| knock_at(target)).flatten(),
        taken: None,
        clock_ahead,
        leaves_with: leaves_with(target),
    }
}

/// Asks on all ways whose size is not 0, together.
fn ask_all(ways: &mut [Measured], size: impl Fn(&Measured) -> usize, mut put: impl FnMut(&mut Way, Answer)) {
    let mut questions = Vec::new();
    let mut asked = Vec::new();
    for measured in ways.iter_mut() {
        let size = size(measured);
        if let (Ok(echo), 1..) = (&mut measured.echo, size) {
            questions.push(Question { echo, size });
            asked.push(&mut measured.way);
        }
    }
    let answers = ask(&mut questions, TRIES, PAUSE);
    for (way, answer) in asked.into_iter().zip(answers) {
        put(way, answer);
    }
}

fn passes(echo: &mut Echo, size: usize) -> bool {
    let mut question = [Question { echo, size }];
    ask(&mut question, TRIES, SEARCH_PAUSE).first().is_some_and(Answer::is_heard)
}

/// The longest packet that passes, between one that does and one that does not; `told` is what somebody said it is.
fn largest(passed: usize, lost: usize, told: Option<usize>, mut passes: impl FnMut(usize) -> bool) -> Option<u32> {
    let (mut passed, mut lost) = (passed, lost);
    if let Some(told) = told.filter(|t| (passed + 1..lost).contains(t)) {
        if passes(told) { passed = told } else { lost = told }
    }
    while lost > passed + 1 {
        let middle = passed + (lost - passed) / 2;
        if passes(middle) { passed = middle } else { lost = middle }
    }
    u32::try_from(passed).ok()
}

/// Asks the program, by hand, on a packet as the container sends it.
fn taken(datapath: &Shared, target: &Target, endpoint: &Endpoint) -> Option<bool> {
    let (IpAddr::V4(from), IpAddr::V4(to), false) = (endpoint.address, target.inner(), target.direct) else { return None };
    let device = nix::net::if_::if_nametoindex(endpoint.host_ifname.as_str()).ok()?;
    let frame = frame(links::veth_mac(&endpoint.host_ifname), endpoint.mac, from, to, 1);
    datapath::lock(datapath).takes(&frame, device)
}

/// Tunnelled IPv4 only: a peer's IPv6 goes to the same device, or says no more than silence does.
fn knock_at(target: &Target) -> Option<Result<Opened, String>> {
    let (IpNet::V4(own), IpAddr::V4(to), Some(outer_from), false) =
        (target.own, target.inner(), target.outer_from, target.direct)
    else {
        return None;
    };
    let device = match nix::net::if_::if_nametoindex(target.device.as_str()) {
        Ok(device) => device,
        Err(e) => return Some(Err(format!("{}: {e}", target.device))),
    };
    let question = Knock {
        device,
        mac: target.own_mac,
        outer_from,
        outer_to: SocketAddr::new(target.outer, target.port),
        vni: target.vni,
        from: ipam::device_address(own),
        to,
    };
    Some(knock(&question, TRIES, PAUSE).map_err(|e| e.to_string()))
}

/// What the routes of this host choose for packets to the peer, without sending any.
fn leaves_with(target: &Target) -> Option<IpAddr> {
    let any: IpAddr = if target.outer.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(target.outer, target.port)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| target.outer_from.is_some_and(|from| from != *ip))
}

#[cfg(test)]
impl Target {
    /// A peer for tests of what measurements mean.
    pub(super) fn sample(mac: Mac) -> Self {
        Self {
            node: "h2".parse().ok(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 7, 0), 24).into(),
            outer: Ipv4Addr::new(192, 0, 2, 2).into(),
            mac,
            alive: Some(true),
            fast: true,
            direct: false,
            mtu: 1450,
            own_mtu: 1450,
            outer_mtu: 1500,
            network: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            port: 8472,
            vni: 1,
            own: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 3, 0), 24).into(),
            own_mac: Mac([2, 0, 0, 0, 0, 3]),
            outer_from: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
            device: "weft.1".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_packet_that_passes_is_found_with_few_questions() {
        for limit in [84, 85, 700, 1349, 1449] {
            let mut asked = 0;
            let found = largest(84, 1450, None, |size| {
                asked += 1;
                size <= limit
            });
            assert_eq!(found, u32::try_from(limit).ok());
            assert!(asked <= 11, "{limit}: {asked}");
        }
    }

    #[test]
    fn what_somebody_said_is_tried_first_and_not_believed() {
        let mut asked = Vec::new();
        let found = largest(84, 1450, Some(1350), |size| {
            asked.push(size);
            size <= 1350
        });
        assert_eq!((found, asked[0]), (Some(1350), 1350));
        assert_eq!(largest(84, 1450, Some(1400), |size| size <= 1300), Some(1300), "it was wrong");
        assert_eq!(largest(84, 1450, Some(9000), |size| size <= 1300), Some(1300), "it was nonsense");
    }
}
