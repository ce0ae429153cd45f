//! The rows of every map, and the maps' names and sizes.
//!
//! ```text
//!  map             key                      value       looked up by
//!  weft_config     0                        Config      every program
//!  weft_endpoints  container address        Endpoint    from_container: who may send from it, is the destination here;
//!                                                       from_uplink: is the inner destination here
//!  weft_peers      peer subnet's network    Peer        from_container: where the destination's host is;
//!                                                       from_uplink: may this host send from that address
//!  weft_vteps      peer's outer address     Vtep        from_uplink: is the sender any peer at all
//!  weft_netns      network namespace cookie u32 network socket hooks: are this namespace's sockets translated
//!  weft_frontends  FrontendKey              Frontend    socket hooks: the virtual address
//!  weft_slots      SlotKey                  u32 id      socket hooks: the n-th backend of a frontend
//!  weft_backends   u32 id                   Backend     socket hooks: where it is
//!  weft_reverse    ReverseKey               Reverse     written by connect and sendmsg, read by recvmsg and getpeername
//!  weft_counters   Verdict as u32           Counter     every program, once per run
//! ```
//!
//! # Order of writing
//!
//! Programs run while the agent writes. A reader must never be led to a row that is not there: write backends, then slots,
//! then the frontend with the new `count`; to shrink, the frontend first, then slots, then backends. An endpoint's row
//! comes before its program is attached, or everything it sends counts as spoofed.

use crate::order::{Be16, Be32};

/// An Ethernet address, as on the wire.
pub type Mac = [u8; 6];

/// Map names; at most 15 bytes, which is what the kernel keeps. Also the names of the pins.
pub mod name {
    /// Array of one [`Config`](super::Config).
    pub const CONFIG: &str = "weft_config";
    /// Hash of container address ([`Be32`](crate::Be32)) to [`Endpoint`](super::Endpoint).
    pub const ENDPOINTS: &str = "weft_endpoints";
    /// Hash of subnet network address ([`Be32`](crate::Be32)) to [`Peer`](super::Peer).
    pub const PEERS: &str = "weft_peers";
    /// Hash of outer address ([`Be32`](crate::Be32)) to [`Vtep`](super::Vtep).
    pub const VTEPS: &str = "weft_vteps";
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
    /// Per-CPU array of [`Counter`](super::Counter), indexed by [`Verdict`](crate::Verdict).
    pub const COUNTERS: &str = "weft_counters";

    /// All of them.
    pub const ALL: [&str; 10] = [CONFIG, ENDPOINTS, PEERS, VTEPS, NETNS, FRONTENDS, SLOTS, BACKENDS, REVERSE, COUNTERS];
}

/// How many rows each map takes. Hashes do not allocate rows before they are written, but 16 bytes a bucket.
pub mod capacity {
    /// Containers of one host.
    pub const ENDPOINTS: u32 = 16_384;
    /// Peers' subnets.
    pub const PEERS: u32 = 16_384;
    /// Peers' outer addresses.
    pub const VTEPS: u32 = 16_384;
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
}

/// Network number of the default network in `weft_netns` and [`Frontend::network`].
pub const NETWORK_DEFAULT: u32 = 1;

/// Network number of namespaces whose sockets see the services of every network: the host's own.
pub const NETWORK_ALL: u32 = 0;

/// How many service ranges [`Config`] holds.
pub const SERVICE_CIDRS: usize = 8;

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

/// What the programs know of their own host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Config {
    /// The outer address that peers send to and we send from; zero: no overlay, nothing is pushed or popped.
    pub vtep: Be32,
    /// The own subnet's network address.
    pub subnet: Be32,
    /// The netmask common to the subnets in `weft_peers`: the key for an address is `address & subnet_mask`.
    pub subnet_mask: Be32,
    /// The whole network's address.
    pub network: Be32,
    /// The whole network's netmask.
    pub network_mask: Be32,
    /// The uplink's ifindex; zero: none, nothing is pushed.
    pub uplink: u32,
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The uplink's MTU (outer IPv4 packet), in bytes.
    pub uplink_mtu: u32,
    /// The UDP port of the overlay.
    pub port: Be16,
    /// The own VXLAN device's Ethernet address: source of the inner frames we send.
    pub vtep_mac: Mac,
    /// Reserved; zero.
    pub flags: u32,
    /// How many of `service_cidrs` count, at most [`SERVICE_CIDRS`].
    pub service_cidr_count: u32,
    /// The ranges that virtual addresses are taken from; those beyond the count are zero.
    pub service_cidrs: [Cidr4; SERVICE_CIDRS],
}

/// Another host that holds a subnet of the common length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Peer {
    /// Its outer address.
    pub vtep: Be32,
    /// Its VXLAN device's Ethernet address: destination of the inner frames we send.
    pub mac: Mac,
    /// Zero.
    pub pad: u16,
    /// The longest inner IPv4 packet that reaches it whole, in bytes; zero: the uplink's MTU less
    /// [`ENCAP_OVERHEAD`](crate::ENCAP_OVERHEAD).
    pub mtu: u32,
}

/// A peer's outer address, whatever the length of its subnet. Overlay packets from addresses without a row are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Vtep {
    /// Reserved; zero.
    pub flags: u32,
}

/// A container on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Endpoint {
    /// The host side of its veth. Packets from the address are taken from this device only.
    pub ifindex: u32,
    /// The container side's Ethernet address.
    pub mac: Mac,
    /// Reserved; zero.
    pub flags: u16,
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
    assert!(size_of::<Config>() == 112);
    assert!(size_of::<Peer>() == 16);
    assert!(size_of::<Vtep>() == 4);
    assert!(size_of::<Endpoint>() == 12);
    assert!(size_of::<FrontendKey>() == 8);
    assert!(size_of::<Frontend>() == 16);
    assert!(size_of::<SlotKey>() == 8);
    assert!(size_of::<Backend>() == 8);
    assert!(size_of::<ReverseKey>() == 16);
    assert!(size_of::<Reverse>() == 12);
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

pod!(Cidr4, Config, Peer, Vtep, Endpoint, FrontendKey, Frontend, SlotKey, Backend, ReverseKey, Reverse, Counter);

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
