//! The one nftables table that is ours, `inet weft`: the source checks of the kernel path, masquerade, and published ports.
//!
//! ```text
//!   prerouting (raw)      from a container's device: the source is its own address, and it is no tunnel packet, whatever
//!                         headers stand before that; link-local sources stay on the link
//!                         from a VXLAN device: the source lies in a peer's subnet
//!   input                 tunnel packets of our VNI come from a peer's public address
//!   prerouting (dstnat)   to a published port of the host, from anybody: the container's address and port
//!   output                the same from the host itself, but not to a loopback address
//!   postrouting (srcnat)  from our subnet to the outside world: the host's address in place of the container's;
//!                         to a container by a published port from within the overlay: the gateway's in place of the sender's
//! ```
//!
//! # Published ports
//!
//! Sources are kept, so a server sees who is outside. A sender within the overlay is answered straight to its own address, by the
//! fast path or within the subnet, where nobody would give the host's address back to the answer: so such a sender gets the
//! gateway's address for this, and the answer comes back here. The maps hold one element a port. Chains for this are there
//! where addresses are rewritten anyway, which is the default; with masquerade off only as long as something is published, so
//! that a host which does neither pays for no connection tracking.
//!
//! The fast path checks the same and never meets these rules; what it hands to the stack does, and everything does where
//! there are no programs. Nothing is ever accepted on another owner's behalf, and the overlay itself rewrites no source.
//!
//! ARP and neighbour discovery are not looked into. A container's link has two ends, each with the other as a permanent
//! neighbour, and nothing bridges it, so what it claims there is believed by nobody; a table of family `arp` beside this one
//! would guard nothing.
//!
//! What changes often (containers, peers) are elements of sets, so a change costs what changes; the rules follow from
//! [`Shape`] alone, and the table is loaded anew only when that changes or somebody has changed the rules. Forward chains of
//! other owners are [`forward`](crate::forward)'s subject.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_model::cluster::ClusterConfig;
use weft_model::record::Proto;

use crate::host::{Host, LOOPBACK, Membership};
use crate::ipam;
use crate::links::{self, PREFIX};
use crate::peers::{Peer, Peers};
use crate::publish::{self, At};

/// The family of the table.
pub const FAMILY: &str = "inet";

/// The name of the table.
pub const TABLE: &str = "weft";

/// The counters, one for each reason to drop, named as the programs name theirs.
pub const COUNTERS: [&str; 5] = [SPOOFED, INJECTS, FOREIGN, STRANGER, OTHER_NETWORK];

/// A container sent from an address that is not its own.
const SPOOFED: &str = "container_spoofed_source";
/// A container sent a tunnel packet.
const INJECTS: &str = "container_injects_overlay";
/// A container sent to an address of another network.
const OTHER_NETWORK: &str = "container_other_network";
/// A tunnel packet held a packet whose source is in no peer's subnet (nor a peer's own address, where that may be).
const FOREIGN: &str = "uplink_spoofed_source";
/// A tunnel packet came from somebody who is no peer.
const STRANGER: &str = "uplink_unknown_peer";

/// Group addresses (RFC 5771), which have no one host to answer to.
const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);

/// The same of IPv6 (RFC 4291 2.7), and addresses that mean something on one link only (2.5.6).
const MULTICAST6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
const LINK_LOCAL6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Addresses that the outside has no way back to (RFC 4193). Other IPv6 addresses need none in their place.
const UNIQUE_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// How containers' addresses look outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Whether the host's address takes their place.
    pub on: bool,
    /// Destinations that see the container's own address although they are outside.
    pub exclude: Vec<IpNet>,
}

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The names of the VXLAN devices over IPv4 and over IPv6, whether they are there or not.
    pub devices: [String; 2],
    /// The network's VNI.
    pub vni: u32,
    /// The tunnel's UDP port.
    pub port: u16,
    /// The subnet whose packets are masqueraded; `None`: none are.
    pub masquerade: Option<Ipv4Net>,
    /// The same of IPv6.
    pub masquerade6: Option<Ipv6Net>,
    /// The whole network.
    pub network: Ipv4Net,
    /// Further networks.
    pub others: Vec<OtherNetwork>,
    /// What published ports need; `None`: addresses are not rewritten on this host.
    pub published: Option<Box<Published>>,
}

/// What the rules of published ports depend on. Which ports there are is in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The host's subnets in all networks, with their gateways.
    pub gateways: Vec<(Ipv4Net, Ipv4Addr)>,
    /// The same of IPv6, and the whole network.
    pub gateway6: Option<(Ipv6Net, Ipv6Addr, Ipv6Net)>,
}

/// A further network, of IPv4 alone inside. Its peers are part of the rules: they change seldom, and each network needs sets
/// of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherNetwork {
    /// The names of the VXLAN devices over IPv4 and over IPv6, whether they are there or not.
    pub devices: [String; 2],
    /// Its VNI.
    pub vni: u32,
    /// The tunnel's UDP port.
    pub port: u16,
    /// The subnet whose packets are masqueraded; `None`: none are.
    pub masquerade: Option<Ipv4Net>,
    /// The whole network.
    pub network: Ipv4Net,
    /// Subnets of peers, and own addresses of peers that see containers here under theirs.
    pub peers: Vec<Ipv4Net>,
    /// Public addresses of peers.
    pub tunnels: Vec<IpAddr>,
}

/// A set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Devices of containers, each with the address that may send by it.
    Containers,
    /// The same of IPv6.
    Containers6,
    /// Subnets of peers, and own addresses of peers that see containers here under theirs.
    Peers,
    /// The same of IPv6.
    Peers6,
    /// Public addresses of peers. (`tunnels` is a word of newer nft's language.)
    Tunnels,
    /// The same of IPv6.
    Tunnels6,
    /// Destinations that are not outside.
    Inside,
    /// The same of IPv6.
    Inside6,
    /// A map: ports of all addresses of the host, with the container's address and port behind each.
    Ports,
    /// The same of IPv6.
    Ports6,
    /// A map: the same of one address.
    Bound,
    /// The same of IPv6.
    Bound6,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A device and an address.
    Source(String, IpAddr),
    /// A range of addresses.
    Net(IpNet),
    /// An address.
    Address(IpAddr),
    /// Of a map: a port of the host, of one address or of all, and what stands behind it.
    Port(Option<IpAddr>, Proto, u16, SocketAddr),
}

/// The sets with their elements; every set is a key.
pub type Sets = BTreeMap<Set, BTreeSet<Element>>;

/// The table as it should be, or as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// What the rules follow from.
    pub shape: Shape,
    /// What the sets hold.
    pub sets: Sets,
}

/// What was found in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no table of ours.
    Nothing,
    /// There is one, and its rules are not as this agent loaded them: an earlier agent's, or changed by others.
    Altered,
    /// There is one with the rules that follow from its shape.
    Ours(Ruleset),
}

/// One change of the table. Prints as `netctl plan` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Load the whole table, in place of what is there.
    Load {
        /// Why.
        why: &'static str,
    },
    /// Remove the table.
    Unload,
    /// Add an element.
    Add(Set, Element),
    /// Remove an element.
    Remove(Set, Element),
}

impl Set {
    /// All sets.
    pub const ALL: [Self; 12] = [
        Self::Containers,
        Self::Containers6,
        Self::Peers,
        Self::Peers6,
        Self::Tunnels,
        Self::Tunnels6,
        Self::Inside,
        Self::Inside6,
        Self::Ports,
        Self::Ports6,
        Self::Bound,
        Self::Bound6,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::Containers6 => "containers6",
            Self::Peers => "peers",
            Self::Peers6 => "peers6",
            Self::Tunnels => "vteps",
            Self::Tunnels6 => "vteps6",
            Self::Inside => "inside",
            Self::Inside6 => "inside6",
            Self::Ports => "ports",
            Self::Ports6 => "ports6",
            Self::Bound => "bound",
            Self::Bound6 => "bound6",
        }
    }

    /// Whether a value stands behind each of its elements: nft calls such a map.
    #[must_use]
    pub const fn is_map(self) -> bool {
        matches!(self, Self::Ports | Self::Ports6 | Self::Bound | Self::Bound6)
    }

    /// nft's word for it.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        if self.is_map() { "map" } else { "set" }
    }

    /// What nft is told of it.
    const fn declaration(self) -> &'static str {
        match self {
            Self::Containers => "type ifname . ipv4_addr;",
            Self::Containers6 => "type ifname . ipv6_addr;",
            Self::Peers | Self::Inside => "type ipv4_addr; flags interval;",
            Self::Peers6 | Self::Inside6 => "type ipv6_addr; flags interval;",
            Self::Tunnels => "type ipv4_addr;",
            Self::Tunnels6 => "type ipv6_addr;",
            Self::Ports => "type inet_proto . inet_service : ipv4_addr . inet_service;",
            Self::Ports6 => "type inet_proto . inet_service : ipv6_addr . inet_service;",
            Self::Bound => "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
            Self::Bound6 => "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;",
        }
    }

    /// Whether its elements are ranges, which the kernel may list joined.
    #[must_use]
    pub const fn has_ranges(self) -> bool {
        matches!(self, Self::Peers | Self::Peers6 | Self::Inside | Self::Inside6)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(device, address) => write!(f, "\"{device}\" . {address}"),
            Self::Net(net) => net.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Port(at, proto, port, to) => {
                at.iter().try_for_each(|at| write!(f, "{at} . "))?;
                write!(f, "{proto} . {port} : {} . {}", to.ip(), to.port())
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { why } => write!(f, "load nft table {FAMILY} {TABLE}: {why}"),
            Self::Unload => write!(f, "remove nft table {FAMILY} {TABLE}"),
            Self::Add(set, element) => write!(f, "add {element} to nft {} {FAMILY} {TABLE} {}", set.kind(), set.name()),
            Self::Remove(set, element) => {
                write!(f, "remove {element} from nft {} {FAMILY} {TABLE} {}", set.kind(), set.name())
            }
        }
    }
}

/// The table that `host` should have: none before it has a network and a subnet.
#[must_use]
pub fn desired(cluster: &ClusterConfig, host: &Host, peers: &Peers, masquerade: &Masquerade) -> Option<Ruleset> {
    let (config, subnet) = (host.config.as_ref()?, host.subnet?);
    let backend = &config.backend;
    let subnet6 = host.subnet6;
    let ports = publish::ports(host);
    let published = (masquerade.on || !ports.is_empty()).then(|| {
        Box::new(Published {
            gateways: [subnet]
                .into_iter()
                .chain(host.networks.iter().map(|of| of.subnet))
                .map(|s| (s, ipam::gateway(s)))
                .collect(),
            gateway6: subnet6.zip(config.v6.as_ref()).map(|(subnet, v6)| (subnet, ipam::gateway6(subnet), v6.network)),
        })
    });
    let shape = Shape {
        devices: [links::vxlan_name(backend.vni), links::vxlan6_name(backend.vni)],
        vni: backend.vni,
        port: backend.port,
        masquerade: masquerade.on.then_some(subnet),
        masquerade6: subnet6.filter(|subnet| masquerade.on && UNIQUE_LOCAL.contains(subnet)),
        network: config.network,
        others: host.networks.iter().map(|of| other(of, &peers.in_network(of), masquerade)).collect(),
        published,
    };
    let networks = [config.network.into()].into_iter().chain(host.networks.iter().map(|of| IpNet::V4(of.config.network)));
    let networks = networks.chain(config.v6.as_ref().map(|v6| IpNet::V6(v6.network)));
    let inside = [MULTICAST.into(), MULTICAST6.into(), LINK_LOCAL6.into()].into_iter().chain(networks);
    let elsewhere = cluster.service_cidrs.iter().chain(&masquerade.exclude).map(IpNet::trunc);
    // A set of ranges refuses those that overlap.
    let inside = IpNet::aggregate(&inside.chain(elsewhere).collect());
    let mut sets: Sets = Set::ALL.into_iter().map(|set| (set, BTreeSet::new())).collect();
    let mut add = |v4, v6, is_v4: bool, element| sets.entry(if is_v4 { v4 } else { v6 }).or_default().insert(element);
    for container in &host.attachments {
        for address in container.addresses() {
            let source = Element::Source(container.host_ifname.clone(), address);
            add(Set::Containers, Set::Containers6, address.is_ipv4(), source);
        }
    }
    for peer in &peers.used {
        for end in peer.addresses() {
            add(Set::Tunnels, Set::Tunnels6, end.is_ipv4(), Element::Address(end));
        }
    }
    for source in sources(peers, masquerade, shape.masquerade6.is_some()) {
        add(Set::Peers, Set::Peers6, source.addr().is_ipv4(), Element::Net(source));
    }
    for range in inside {
        add(Set::Inside, Set::Inside6, range.addr().is_ipv4(), Element::Net(range));
    }
    for (port, to) in ports {
        let (v4, v6, at) = match port.at {
            At::AnyV4 | At::AnyV6 => (Set::Ports, Set::Ports6, None),
            // Nothing leaves the loopback by its addresses: the programs of sockets see to them.
            At::One(address) if address.is_loopback() => continue,
            At::One(address) => (Set::Bound, Set::Bound6, Some(address)),
        };
        add(v4, v6, to.is_ipv4(), Element::Port(at, port.proto, port.port, to));
    }
    Some(Ruleset { shape, sets })
}

fn other(of: &Membership, peers: &Peers, masquerade: &Masquerade) -> OtherNetwork {
    let v4 = |net| if let IpNet::V4(net) = net { Some(net) } else { None };
    let backend = &of.config.backend;
    let tunnels: BTreeSet<IpAddr> = peers.used.iter().flat_map(Peer::addresses).collect();
    OtherNetwork {
        devices: [links::vxlan_name(backend.vni), links::vxlan6_name(backend.vni)],
        vni: backend.vni,
        port: backend.port,
        masquerade: masquerade.on.then_some(of.subnet),
        network: of.config.network,
        peers: sources(peers, masquerade, true).into_iter().filter_map(v4).collect(),
        tunnels: tunnels.into_iter().collect(),
    }
}

/// What may come out of the tunnel: peers' subnets. And a peer's own address, if it sees containers here under theirs: its
/// answers go by the tunnel, while what they answer came beside it. `masked6` is whether it does not in IPv6.
fn sources(peers: &Peers, masquerade: &Masquerade, masked6: bool) -> BTreeSet<IpNet> {
    let is_plain = |outer: &IpAddr| {
        let masked = if outer.is_ipv6() { masked6 } else { masquerade.on };
        !masked || masquerade.exclude.iter().any(|range| range.contains(outer))
    };
    let own = peers.used.iter().flat_map(Peer::addresses).filter(is_plain).map(IpNet::from);
    let subnets = peers.used.iter().flat_map(|peer| [IpNet::V4(peer.subnet)].into_iter().chain(peer.subnet6.map(IpNet::V6)));
    subnets.chain(own).collect()
}

/// The actions from what was found to what is desired. They are one transaction: see [`script`].
#[must_use]
pub fn diff(desired: Option<&Ruleset>, found: &Found) -> Vec<Action> {
    let load = |why| vec![Action::Load { why }];
    match (desired, found) {
        (None, Found::Nothing) => Vec::new(),
        (None, _) => vec![Action::Unload],
        (Some(_), Found::Nothing) => load("it is missing"),
        (Some(_), Found::Altered) => load("its rules are not those of this agent"),
        (Some(to), Found::Ours(from)) if to.shape != from.shape => load("the network is another"),
        (Some(to), Found::Ours(from)) => Set::ALL.into_iter().flat_map(|set| steps(set, &to.sets, &from.sets)).collect(),
    }
}

/// `desired`, and with it what `found` lets devices send that no container has any more, as far as they `are_gone`: a device that
/// is not there sends nothing, so their elements need not end at once. Whether there are any.
#[must_use]
pub fn with_leftovers(desired: &Ruleset, found: &Found, is_gone: impl Fn(&str) -> bool) -> (Ruleset, bool) {
    let mut kept = desired.clone();
    let Found::Ours(from) = found else { return (kept, false) };
    let sources = |sets: &Sets| -> Vec<(Set, Element)> {
        let of = |set: Set| sets.get(&set).into_iter().flatten().map(move |element| (set, element.clone()));
        [Set::Containers, Set::Containers6].into_iter().flat_map(of).collect()
    };
    let device = |element: &Element| if let Element::Source(device, _) = element { Some(device.clone()) } else { None };
    let wanted: BTreeSet<String> = sources(&desired.sets).iter().filter_map(|(_, element)| device(element)).collect();
    let is_left = |(_, element): &(Set, Element)| device(element).is_some_and(|d| !wanted.contains(&d) && is_gone(&d));
    let left: Vec<(Set, Element)> = sources(&from.sets).into_iter().filter(is_left).collect();
    let any = !left.is_empty();
    for (set, element) in left {
        kept.sets.entry(set).or_default().insert(element);
    }
    (kept, any)
}

/// Removals come first: a range that takes another's place may overlap it.
fn steps(set: Set, to: &Sets, from: &Sets) -> Vec<Action> {
    let none = BTreeSet::new();
    let (to, from) = (to.get(&set).unwrap_or(&none), from.get(&set).unwrap_or(&none));
    if set.has_ranges() && covered(to) == covered(from) {
        return Vec::new();
    }
    let gone = from.difference(to).map(|element| Action::Remove(set, element.clone()));
    let new = to.difference(from).map(|element| Action::Add(set, element.clone()));
    gone.chain(new).collect()
}

fn covered(elements: &BTreeSet<Element>) -> Vec<IpNet> {
    let nets: Vec<IpNet> = elements.iter().filter_map(|e| if let Element::Net(net) = e { Some(*net) } else { None }).collect();
    IpNet::aggregate(&nets)
}

/// What nft is to read for these actions: one transaction, so that no packet meets a state in between.
///
/// `counts` are packets and bytes by counter, for a table that takes another's place.
#[must_use]
pub fn script(actions: &[Action], desired: Option<&Ruleset>, counts: &BTreeMap<String, (u64, u64)>) -> String {
    let mut text = String::new();
    for action in actions {
        // Writing to a string does not go wrong.
        let _ = match (action, desired) {
            (Action::Load { .. }, Some(ruleset)) => {
                // nft deletes nothing that is not there, so it is added first.
                text.push_str(&unload());
                text.push_str(&load(ruleset, counts));
                Ok(())
            }
            (Action::Load { .. }, None) => Ok(()),
            (Action::Unload, _) => {
                text.push_str(&unload());
                Ok(())
            }
            (Action::Add(set, element), _) => {
                writeln!(text, "add element {FAMILY} {TABLE} {} {{ {element} }}", set.name())
            }
            (Action::Remove(set, element), _) => {
                writeln!(text, "delete element {FAMILY} {TABLE} {} {{ {element} }}", set.name())
            }
        };
    }
    text
}

fn unload() -> String {
    format!("add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n")
}

/// The whole table in nft's own language.
fn load(ruleset: &Ruleset, counts: &BTreeMap<String, (u64, u64)>) -> String {
    let Shape { devices, vni, port, masquerade, masquerade6, network, others, published } = &ruleset.shape;
    let device = devices_of(devices);
    let mut text = format!("table {FAMILY} {TABLE} {{\n");
    let none = BTreeSet::new();
    for name in COUNTERS {
        let (packets, bytes) = counts.get(name).copied().unwrap_or_default();
        text += &format!("  counter {name} {{ packets {packets} bytes {bytes} }}\n");
    }
    for set in Set::ALL {
        let elements: Vec<String> = ruleset.sets.get(&set).unwrap_or(&none).iter().map(ToString::to_string).collect();
        text += &format!("  {} {} {{ {}", set.kind(), set.name(), set.declaration());
        if !elements.is_empty() {
            text += &format!(" elements = {{ {} }};", elements.join(", "));
        }
        text += " }\n";
    }
    let [containers, containers6, peers, peers6, tunnels, tunnels6, inside, inside6, ..] = Set::ALL.map(Set::name);
    let networks: BTreeSet<Ipv4Net> = std::iter::once(*network).chain(others.iter().map(|o| o.network)).collect();
    let ports = one_or_set(std::iter::once(*port).chain(others.iter().map(|o| o.port)).collect::<BTreeSet<_>>());
    // Offset 96 of the UDP header: behind its 8 bytes and 4 of the VXLAN header (RFC 7348) stands the VNI. Tunnels of others
    // on the same port are theirs.
    //
    // nft finds the UDP header behind IPv6 extension headers. In a first fragment that ends before it there is no protocol or
    // no port to compare, so no rule that compares one holds, and the packet is dropped (RFC 7112 forbids such anyway). The
    // port comes before link-local sources, because a VXLAN device listens on all addresses of the host, link-local ones too.
    text += &format!(
        "  chain hidden {{
    meta l4proto != udp return
    udp dport != {ports} return
    counter name \"{INJECTS}\" drop
  }}
  chain sources {{
    type filter hook prerouting priority raw; policy accept;
    iifname != \"{PREFIX}*\" accept
    iifname {device} ip saddr != @{peers} counter name \"{FOREIGN}\" drop
    iifname {device} ip6 saddr != @{peers6} counter name \"{FOREIGN}\" drop
{apart}    iifname {device} accept
{from_others}    iifname . ip saddr != @{containers} counter name \"{SPOOFED}\" drop
    udp dport {ports} counter name \"{INJECTS}\" drop
    frag frag-off 0 jump hidden
    ip6 saddr {{ ::, fe80::/10 }} ip6 daddr {{ fe80::/10, ff02::/16 }} accept
    iifname . ip6 saddr != @{containers6} counter name \"{SPOOFED}\" drop
  }}
  chain uplink {{
    type filter hook input priority filter - 10; policy accept;
    udp dport {port} @th,96,24 {vni} ip saddr != @{tunnels} counter name \"{STRANGER}\" drop
    udp dport {port} @th,96,24 {vni} ip6 saddr != @{tunnels6} counter name \"{STRANGER}\" drop
{strangers}  }}
",
        apart = apart(*network, others),
        from_others = others.iter().map(from_other).collect::<String>(),
        strangers = others.iter().map(stranger).collect::<String>(),
    );
    // What goes to this host itself by `lo` keeps its source, and so does what stays on our devices.
    let outside = format!("oifname != \"{LOOPBACK}\" oifname != \"{PREFIX}*\" masquerade fully-random");
    let subnets: BTreeSet<Ipv4Net> = masquerade.iter().copied().chain(others.iter().filter_map(|o| o.masquerade)).collect();
    let v4 = (!subnets.is_empty()).then(|| format!("    ip saddr {} ip daddr != @{inside} {outside}\n", one_or_set(subnets)));
    let v6 = masquerade6.map(|subnet| format!("    ip6 saddr {subnet} ip6 daddr != @{inside6} {outside}\n"));
    if v4.is_some() || v6.is_some() {
        text += "  chain outside {\n    type nat hook postrouting priority srcnat; policy accept;\n";
        text.extend(v4.into_iter().chain(v6));
        text += "  }\n";
    }
    if let Some(published) = published {
        text += &of_published(published, &networks, &ports);
    }
    text + "}\n"
}

/// The chains of published ports.
///
/// Only addresses that this host has now: one that was named may have moved to another host (VRRP). Loopback addresses are left out: with them as its source a packet cannot leave, and which sockets mean the host's own loopback
/// only the programs know. nft 1.0.6 has a word for the priority of prerouting, but none for that of output.
fn of_published(published: &Published, networks: &BTreeSet<Ipv4Net>, overlay_ports: &str) -> String {
    let Published { gateways, gateway6 } = published;
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let own = one_or_set(networks.iter().copied().chain([loopback]).collect());
    let own6 = [LINK_LOCAL6, Ipv6Net::from(Ipv6Addr::LOCALHOST)].into_iter().chain(gateway6.map(|(.., network)| network));
    let own6: Vec<String> = own6.map(|net| net.to_string()).collect();
    let [.., ports, ports6, bound, bound6] = Set::ALL.map(Set::name);
    let mut text = format!(
        "  chain published {{
    meta l4proto != {{ tcp, udp }} return
    udp dport {overlay_ports} return
    ip daddr {own} return
    ip6 daddr {{ {own6} }} return
    fib daddr type != local return
    meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @{bound}
    meta l4proto {{ tcp, udp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @{bound6}
    meta l4proto {{ tcp, udp }} dnat ip to meta l4proto . th dport map @{ports}
    meta l4proto {{ tcp, udp }} dnat ip6 to meta l4proto . th dport map @{ports6}
  }}
  chain arriving {{
    type nat hook prerouting priority dstnat; policy accept;
    jump published
  }}
  chain leaving {{
    type nat hook output priority -100; policy accept;
    jump published
  }}
  chain back {{
    type nat hook postrouting priority srcnat; policy accept;
",
        own6 = own6.join(", "),
    );
    let networks = one_or_set(networks.clone());
    let to = format!("    ct status dnat oifname \"{PREFIX}*\"");
    for (subnet, gateway) in gateways {
        text += &format!("{to} ip saddr {networks} ip daddr {subnet} snat ip to {gateway}\n");
    }
    if let Some((subnet, gateway, network)) = gateway6 {
        text += &format!("{to} ip6 saddr {network} ip6 daddr {subnet} snat ip6 to {gateway}\n");
    }
    text + "  }\n"
}

/// Packets of a container, or out of a tunnel, never get from one network to another. Their sources are checked to be of their
/// own network, so ranges tell; the first rule of each network is met by most packets and says that all is well.
fn apart(network: Ipv4Net, others: &[OtherNetwork]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let all: Vec<Ipv4Net> = std::iter::once(network).chain(others.iter().map(|o| o.network)).collect();
    all.iter()
        .map(|own| {
            let foreign = one_or_set(all.iter().filter(|other| *other != own).copied().collect());
            format!("    ip saddr {own} ip daddr {foreign} counter name \"{OTHER_NETWORK}\" drop\n")
        })
        .collect()
}

/// What may come out of a further network's devices: packets of its peers.
fn from_other(other: &OtherNetwork) -> String {
    let device = devices_of(&other.devices);
    if other.peers.is_empty() {
        return format!("    iifname {device} counter name \"{FOREIGN}\" drop\n");
    }
    let peers = one_or_set(other.peers.iter().copied().collect());
    format!(
        "    iifname {device} ip saddr != {peers} counter name \"{FOREIGN}\" drop
    iifname {device} meta nfproto ipv6 counter name \"{FOREIGN}\" drop
    iifname {device} accept\n"
    )
}

/// Who may send a further network's tunnel packets: its peers.
fn stranger(other: &OtherNetwork) -> String {
    let OtherNetwork { port, vni, tunnels, .. } = other;
    let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = tunnels.iter().partition(|address| address.is_ipv4());
    let line = |family: &str, match_: &str, known: BTreeSet<IpAddr>| {
        let from =
            if known.is_empty() { format!("meta nfproto {family}") } else { format!("{match_} saddr != {}", one_or_set(known)) };
        format!("    udp dport {port} @th,96,24 {vni} {from} counter name \"{STRANGER}\" drop\n")
    };
    line("ipv4", "ip", v4) + &line("ipv6", "ip6", v6)
}

/// Device names as a set of them.
fn devices_of(names: &[String; 2]) -> String {
    let [v4, v6] = names;
    format!("{{ \"{v4}\", \"{v6}\" }}")
}

/// `a`, or `{ a, b }`.
fn one_or_set<T: fmt::Display>(values: BTreeSet<T>) -> String {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        several => format!("{{ {} }}", several.join(", ")),
    }
}

#[cfg(test)]
#[path = "nft_tests.rs"]
mod tests;
