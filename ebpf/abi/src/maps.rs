//! The rows of every map, and the maps' names and sizes.
//!
//! ```text
//!  map              key                    value       looked up by
//!  weft_config      0                      Config      every program
//!  weft_networks    network                Network     from_container: the sender's network; from_uplink: the receiver's
//!  weft_endpoints   container address      Endpoint    from_container: who may send from it, is the destination here;
//!  weft_endpoints6  the same, IPv6                     from_uplink: is the inner destination here
//!  weft_peers       network, peer subnet   Peer        from_container: where the destination's host is;
//!  weft_peers6      the same, IPv6                     from_uplink: may this host send from that address
//!  weft_vteps       VNI, outer address     Vtep        from_uplink, of what no row above explains: is the sender any peer at
//!                                                      all, and of which network
//!  weft_ranges      address range          u32 network from_container, of what would leave the overlay: is it another network
//!  weft_netns       namespace cookie       u32 network socket hooks: are this namespace's sockets translated
//!  weft_frontends   FrontendKey            Frontend    socket hooks: the virtual address
//!  weft_slots       SlotKey                u32 id      socket hooks: the n-th backend of a frontend
//!  weft_backends    u32 id                 Backend     socket hooks: where it is
//!  weft_reverse     ReverseKey             Reverse     written by connect and sendmsg, read by recvmsg and getpeername
//!  weft_ports       PortKey                PortTarget  socket hooks of the host itself: a published port at a loopback address
//!  weft_ports_back  PortBackKey            PortTarget  written by connect and sendmsg, read by recvmsg and getpeername
//!  weft_counters    Verdict as u32         Counter     every program, once per run
//! ```
//!
//! # Networks
//!
//! A network is known here by a number from 1 to [`capacity::NETWORKS`] less one, which is its index in `weft_networks`; the
//! agent chooses it and never gives it to another network while the maps live. Addresses are unique across networks, so
//! endpoints are found by address alone and their rows say the network; peers are found by network *and* subnet, so that a
//! packet cannot leave its network whatever the masks are.
//!
//! # Order of writing
//!
//! Programs run while the agent writes. A reader must never be led to a row that is not there: write backends, then slots,
//! then the frontend with the new `count`; to shrink, the frontend first, then slots, then backends. An endpoint's row
//! comes before its program is attached, or everything it sends counts as spoofed. Vteps, peers and endpoints come before the
//! row of their network, which makes the programs look for them.

use crate::order::{Be16, Be32, Be128};

/// An Ethernet address, as on the wire.
pub type Mac = [u8; 6];

/// Map names; at most 15 bytes, which is what the kernel keeps. Also the names of the pins.
pub mod name {
    /// Array of one [`Config`](super::Config).
    pub const CONFIG: &str = "weft_config";
    /// Array of [`Network`](super::Network); index 0 is not used.
    pub const NETWORKS: &str = "weft_networks";
    /// Hash of container address ([`Be32`](crate::Be32)) to [`Endpoint`](super::Endpoint).
    pub const ENDPOINTS: &str = "weft_endpoints";
    /// Hash of container address ([`Be128`](crate::Be128)) to [`Endpoint`](super::Endpoint).
    pub const ENDPOINTS6: &str = "weft_endpoints6";
    /// Hash of [`PeerKey`](super::PeerKey) to [`Peer`](super::Peer).
    pub const PEERS: &str = "weft_peers";
    /// Hash of [`PeerKey6`](super::PeerKey6) to [`Peer`](super::Peer).
    pub const PEERS6: &str = "weft_peers6";
    /// Hash of [`VtepKey`](super::VtepKey) to [`Vtep`](super::Vtep).
    pub const VTEPS: &str = "weft_vteps";
    /// Trie of [`RangeKey`](super::RangeKey) to network (u32): the longest matching range counts.
    pub const RANGES: &str = "weft_ranges";
    /// Hash of network namespace cookie (u64) to network (u32).
    pub const NETNS: &str = "weft_netns";
    /// Hash of [`FrontendKey`](super::FrontendKey) to [`Frontend`](super::Frontend).
    pub const FRONTENDS: &str = "weft_frontends";
    /// Hash of [`SlotKey`](super::SlotKey) to backend id (u32).
    pub const SLOTS: &str = "weft_slots";
    /// Hash of backend id (u32) to [`Backend`](super::Backend).
    pub const BACKENDS: &str = "weft_backends";
    /// LRU hash of [`ReverseKey`](super::ReverseKey) to [`Reverse`](super::Reverse).
    pub const REVERSE: &str = "weft_reverse";
    /// Hash of [`PortKey`](super::PortKey) to [`PortTarget`](super::PortTarget).
    pub const PORTS: &str = "weft_ports";
    /// LRU hash of [`PortBackKey`](super::PortBackKey) to [`PortTarget`](super::PortTarget).
    pub const PORTS_BACK: &str = "weft_ports_back";
    /// Per-CPU array of [`Counter`](super::Counter), indexed by [`Verdict`](crate::Verdict).
    pub const COUNTERS: &str = "weft_counters";

    /// All of them.
    pub const ALL: [&str; 16] = [
        CONFIG, NETWORKS, ENDPOINTS, ENDPOINTS6, PEERS, PEERS6, VTEPS, RANGES, NETNS, FRONTENDS, SLOTS, BACKENDS, REVERSE, PORTS,
        PORTS_BACK, COUNTERS,
    ];
}

/// How many rows each map takes. Hashes do not allocate rows before they are written, but 16 bytes a bucket.
pub mod capacity {
    /// Networks, index 0 (not used) included.
    pub const NETWORKS: u32 = 256;
    /// Containers of one host, for each family.
    pub const ENDPOINTS: u32 = 16_384;
    /// Peers' subnets, of all networks, for each family.
    pub const PEERS: u32 = 16_384;
    /// Peers' outer addresses, of all networks, and one row more per network.
    pub const VTEPS: u32 = 32_768;
    /// Ranges of networks: two families each.
    pub const RANGES: u32 = 2 * NETWORKS;
    /// Network namespaces whose sockets are translated.
    pub const NETNS: u32 = 16_384;
    /// Virtual address, port and protocol triples: 50,000 services with more than two ports each.
    pub const FRONTENDS: u32 = 131_072;
    /// Entries of all frontends' backend lists together: 50,000 services with ten each.
    pub const SLOTS: u32 = 524_288;
    /// Distinct backends.
    pub const BACKENDS: u32 = 524_288;
    /// Remembered (socket, backend) pairs; the oldest make room.
    pub const REVERSE: u32 = 131_072;
    /// Published ports at loopback addresses: 8,192 of each family.
    pub const PORTS: u32 = 16_384;
    /// Remembered (socket, container) pairs of published ports; the oldest make room.
    pub const PORTS_BACK: u32 = 16_384;
}

/// Number of the network that is always there: flannel's.
pub const NETWORK_DEFAULT: u32 = 1;

/// Network number of namespaces whose sockets see the services of every network: the host's own.
pub const NETWORK_ALL: u32 = 0;

/// How many service ranges [`Config`] holds.
pub const SERVICE_CIDRS: usize = 8;

/// How many different overlay ports [`Config`] holds. A network whose port does not fit has no row in `weft_networks`: the
/// kernel path carries it.
pub const PORTS: usize = 4;

/// IP protocol number of TCP.
pub const PROTO_TCP: u8 = 6;

/// IP protocol number of UDP.
pub const PROTO_UDP: u8 = 17;

/// An IPv4 range. A mask of zero with a network of zero is all of IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Cidr4 {
    /// The network address; bits outside the mask are zero.
    pub network: Be32,
    /// The netmask.
    pub mask: Be32,
}

impl Cidr4 {
    /// Whether `addr` lies in the range.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, addr: Be32) -> bool {
        addr.bits() & self.mask.bits() == self.network.bits()
    }
}

/// What the programs know of their own host, whatever the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Config {
    /// The own outer IPv4 address, which peers send to and we send from; zero: none, nothing is pushed or popped with IPv4
    /// outside.
    pub vtep: Be32,
    /// The own outer IPv6 address; zero: none, nothing is pushed or popped with IPv6 outside.
    pub vtep6: Be128,
    /// The uplink's ifindex; zero: none, nothing is pushed.
    pub uplink: u32,
    /// The uplink's MTU (outer IP packet), in bytes.
    pub uplink_mtu: u32,
    /// The UDP ports of all overlays of this host; zero where there are fewer. A container never sends to them, and what
    /// arrives at them is looked into. The most used one comes first.
    pub ports: [Be16; PORTS],
    /// [`Config::PUBLISHED`] or zero.
    pub flags: u32,
    /// How many of `service_cidrs` count, at most [`SERVICE_CIDRS`].
    pub service_cidr_count: u32,
    /// The ranges that virtual addresses are taken from; those beyond the count are zero.
    pub service_cidrs: [Cidr4; SERVICE_CIDRS],
}

impl Config {
    /// There are rows in `weft_ports`; without it nobody looks there.
    pub const PUBLISHED: u32 = 1;

    /// Whether ports of the host are published.
    #[inline(always)]
    #[must_use]
    pub const fn is_publishing(&self) -> bool {
        self.flags & Self::PUBLISHED != 0
    }

    /// Whether a UDP port is an overlay's.
    #[inline(always)]
    #[must_use]
    pub const fn is_overlay_port(&self, port: Be16) -> bool {
        let (p, port) = (&self.ports, port.bits());
        port != 0 && (port == p[0].bits() || port == p[1].bits() || port == p[2].bits() || port == p[3].bits())
    }
}

/// One of the networks that this host takes part in. All zero: no such network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Network {
    /// The VXLAN network identifier, 24 bits; zero only in a row that is not used.
    pub vni: u32,
    /// The UDP port of the overlay, one of [`Config::ports`].
    pub port: Be16,
    /// Reserved; zero.
    pub flags: u16,
    /// The Ethernet address of the own device for IPv4 outside (`weft.<VNI>`): source of the inner frames we send so, and
    /// destination of those we take.
    pub vtep_mac: Mac,
    /// The same of the device for IPv6 outside (`weft6.<VNI>`).
    pub vtep_mac6: Mac,
    /// The own subnet's network address.
    pub subnet: Be32,
    /// The netmask common to the subnets in `weft_peers`: the key for an address is `address & subnet_mask`. All ones while the
    /// host has no subnet, so that no address lies in it.
    pub subnet_mask: Be32,
    /// The whole network's address.
    pub network: Be32,
    /// The whole network's netmask.
    pub network_mask: Be32,
    /// The own IPv6 subnet's network address; zero: none.
    pub subnet6: Be128,
    /// The netmask common to the subnets in `weft_peers6`; all ones while the host has no IPv6 subnet.
    pub subnet_mask6: Be128,
    /// The whole network's IPv6 address.
    pub network6: Be128,
    /// The whole network's IPv6 netmask; all ones while the network has no IPv6.
    pub network_mask6: Be128,
}

impl Network {
    /// Whether the address is in the network's IPv4 range.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, addr: Be32) -> bool {
        addr.bits() & self.network_mask.bits() == self.network.bits()
    }
}

/// Key of `weft_peers`: a subnet of the common length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PeerKey {
    /// The network.
    pub network: u32,
    /// The subnet's network address.
    pub subnet: Be32,
}

/// Key of `weft_peers6`: an IPv6 subnet of the common length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PeerKey6 {
    /// The network.
    pub network: u32,
    /// The subnet's network address.
    pub subnet: Be128,
}

/// Another host that holds a subnet of the common length, and how packets for that subnet reach it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Peer {
    /// Its outer address, of either family: IPv4 as [`Be128::mapped`].
    pub outer: Be128,
    /// The Ethernet address of its VXLAN device of that family: destination of the inner frames we send.
    pub mac: Mac,
    /// [`Peer::OUTER_V6`] or zero.
    pub flags: u16,
    /// The longest inner packet that reaches it whole, in bytes; zero: the uplink's MTU less
    /// [`ENCAP_OVERHEAD`](crate::ENCAP_OVERHEAD) or [`ENCAP_OVERHEAD6`](crate::ENCAP_OVERHEAD6).
    pub mtu: u32,
    /// The neighbour on the uplink that outer packets go to, where the agent knows it.
    pub next_hop: NextHop,
}

impl Peer {
    /// `outer` is an IPv6 address. Set only for hosts that take UDP over IPv6 without a checksum (`weft.udp6zero`).
    pub const OUTER_V6: u16 = 1;

    /// Whether outer packets are IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn outer_is_v6(&self) -> bool {
        self.flags & Self::OUTER_V6 != 0
    }
}

/// A neighbour as `bpf_redirect_neigh` takes it: `struct bpf_redir_neigh` (linux/bpf.h), so that the row itself is handed over.
/// All zero: not known, the kernel looks up the route to the outer address with each packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NextHop {
    /// AF_INET, AF_INET6, or zero for none; native byte order.
    pub family: u32,
    /// An IPv6 address, or an IPv4 address in the first word with zeros behind it (not mapped).
    pub addr: Be128,
}

impl NextHop {
    /// The kernel looks it up.
    pub const NONE: Self = Self { family: 0, addr: Be128::ZERO };

    /// An IPv4 neighbour.
    #[must_use]
    pub const fn v4(addr: Be32) -> Self {
        Self { family: 2, addr: Be128::from_words([addr, Be32::ZERO, Be32::ZERO, Be32::ZERO]) }
    }

    /// An IPv6 neighbour.
    #[must_use]
    pub const fn v6(addr: Be128) -> Self {
        Self { family: 10, addr }
    }

    /// Whether there is one.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.family != 0
    }
}

/// Key of `weft_vteps`. With an address of zero ([`VtepKey::own`]) the row says only that the VNI is one of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct VtepKey {
    /// The network's VNI.
    pub vni: u32,
    /// A peer's outer address, of either family: IPv4 as [`Be128::mapped`].
    pub outer: Be128,
}

impl VtepKey {
    /// The row that every network of ours has, peers or not: what comes with this VNI from an address without a row of its own
    /// is dropped. Packets of other VNIs are nobody's business here.
    #[inline(always)]
    #[must_use]
    pub const fn own(vni: u32) -> Self {
        Self { vni, outer: Be128::ZERO }
    }
}

/// A peer's outer address, whatever the length of its subnets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Vtep {
    /// The network that has the VNI.
    pub network: u32,
    /// Reserved; zero.
    pub flags: u32,
}

/// Key of `weft_ranges`, as a trie's key is: `struct bpf_lpm_trie_key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct RangeKey {
    /// How many leading bits of `addr` count: of IPv4, the prefix length and 96. Native byte order.
    pub prefix_len: u32,
    /// The range's network address, of either family: IPv4 as [`Be128::mapped`].
    pub addr: Be128,
}

impl RangeKey {
    /// The key that finds the range an address lies in.
    #[inline(always)]
    #[must_use]
    pub const fn of(addr: Be128) -> Self {
        Self { prefix_len: 128, addr }
    }
}

/// A container on this host, by one of its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Endpoint {
    /// The host side of its veth. Packets from the address are taken from this device only.
    pub ifindex: u32,
    /// The container side's Ethernet address.
    pub mac: Mac,
    /// Reserved; zero.
    pub flags: u16,
    /// Its network: the only one that it sends to and is reached from.
    pub network: u32,
}

/// A virtual address as a client names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FrontendKey {
    /// The virtual address.
    pub vip: Be32,
    /// The port.
    pub port: Be16,
    /// [`PROTO_TCP`] or [`PROTO_UDP`].
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// What stands behind a virtual address and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Frontend {
    /// The list in `weft_slots`. Two ports of one service with different backend ports are two lists.
    pub service: u32,
    /// How many slots the list has; zero: connections are refused.
    pub count: u32,
    /// The network whose namespaces may use it.
    pub network: u32,
    /// Reserved; zero.
    pub flags: u32,
}

/// A place in a frontend's list of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SlotKey {
    /// [`Frontend::service`].
    pub service: u32,
    /// From 0 to [`Frontend::count`] less one.
    pub index: u32,
}

/// An address that answers for a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Backend {
    /// The address.
    pub addr: Be32,
    /// The port.
    pub port: Be16,
    /// [`PROTO_TCP`] or [`PROTO_UDP`].
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// A socket and a backend it was sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ReverseKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The backend's address.
    pub addr: Be32,
    /// The backend's port.
    pub port: Be16,
    /// [`PROTO_TCP`] or [`PROTO_UDP`].
    pub proto: u8,
    /// [`ReverseKey::CONNECTED`] or [`ReverseKey::DATAGRAM`]. One socket may be connected to one service and send to
    /// another in front of the same backend; getpeername must name the first, recvmsg the second.
    pub via: u8,
}

impl ReverseKey {
    /// The record was made by connect().
    pub const CONNECTED: u8 = 0;
    /// The record was made by sendto() or sendmsg() with an address.
    pub const DATAGRAM: u8 = 1;
}

/// The virtual address that the application used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Reverse {
    /// The virtual address.
    pub vip: Be32,
    /// The port.
    pub port: Be16,
    /// Zero.
    pub pad: u16,
    /// [`Frontend::service`] at the time; if the frontend is another by now the record no longer speaks.
    pub service: u32,
}

/// A published port, as a process of the host names it by a loopback address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortKey {
    /// The loopback address, of either family: IPv4 as [`Be128::mapped`].
    pub addr: Be128,
    /// The port.
    pub port: Be16,
    /// [`PROTO_TCP`] or [`PROTO_UDP`].
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// An address and port: a container's in `weft_ports`, what the application named in `weft_ports_back`. Both of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortTarget {
    /// The address, of either family: IPv4 as [`Be128::mapped`].
    pub addr: Be128,
    /// The port.
    pub port: Be16,
    /// Zero.
    pub pad: u16,
}

/// A socket and a container that it was sent to by a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortBackKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The container's address, of either family: IPv4 as [`Be128::mapped`].
    pub addr: Be128,
    /// The container's port.
    pub port: Be16,
    /// [`PROTO_TCP`] or [`PROTO_UDP`].
    pub proto: u8,
    /// [`ReverseKey::CONNECTED`] or [`ReverseKey::DATAGRAM`], for the same reason as there.
    pub via: u8,
    /// Zero.
    pub pad: u32,
}

/// How often a verdict was reached, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Counter {
    /// Packets as they go on the wire: a GSO packet counts its segments. For socket hooks: calls.
    pub packets: u64,
    /// Bytes as the hook saw them, Ethernet header included. For socket hooks: zero.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<Cidr4>() == 8);
    assert!(size_of::<Config>() == 108);
    assert!(size_of::<Network>() == 100);
    assert!(size_of::<PeerKey>() == 8);
    assert!(size_of::<PeerKey6>() == 20);
    assert!(size_of::<Peer>() == 48);
    assert!(size_of::<NextHop>() == 20);
    assert!(size_of::<VtepKey>() == 20);
    assert!(size_of::<Vtep>() == 8);
    assert!(size_of::<RangeKey>() == 20);
    assert!(size_of::<Endpoint>() == 16);
    assert!(size_of::<FrontendKey>() == 8);
    assert!(size_of::<Frontend>() == 16);
    assert!(size_of::<SlotKey>() == 8);
    assert!(size_of::<Backend>() == 8);
    assert!(size_of::<ReverseKey>() == 16);
    assert!(size_of::<Reverse>() == 12);
    assert!(size_of::<PortKey>() == 20);
    assert!(size_of::<PortTarget>() == 20);
    assert!(size_of::<PortBackKey>() == 32);
    assert!(size_of::<Counter>() == 16);
    let mut i = 0;
    while i < name::ALL.len() {
        assert!(name::ALL[i].len() <= 15, "the kernel cuts map names to 15 bytes");
        i += 1;
    }
};

macro_rules! pod {
    ($($ty:ty),*) => {$(
        #[cfg(feature = "user")]
        // SAFETY: repr(C), integers and byte arrays only, padding explicit (the sizes are asserted above).
        unsafe impl aya::Pod for $ty {}
    )*};
}

pod!(
    Cidr4,
    Config,
    Network,
    PeerKey,
    PeerKey6,
    Peer,
    NextHop,
    VtepKey,
    Vtep,
    RangeKey,
    Endpoint,
    FrontendKey,
    Frontend,
    SlotKey,
    Backend,
    ReverseKey,
    Reverse,
    PortKey,
    PortTarget,
    PortBackKey,
    Counter
);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    #[test]
    fn a_range_holds_its_addresses_only() {
        let range = Cidr4 { network: Ipv4Addr::new(10, 112, 0, 0).into(), mask: Be32::mask_of(16) };
        assert!(range.contains(Ipv4Addr::new(10, 112, 255, 255).into()));
        assert!(!range.contains(Ipv4Addr::new(10, 113, 0, 0).into()));
    }
}
