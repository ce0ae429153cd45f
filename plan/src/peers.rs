//! Which leases are peers: other hosts, and the way packets get to them.
//!
//! A lease is anybody's writing. One that would send our own traffic astray (outside the network, over another's subnet, to
//! ourselves) is left out and named, and hurts nobody else. An IPv6 part that would is left out by itself.
//!
//! | to | IPv4 inside | IPv6 inside |
//! |---|---|---|
//! | a host on the same link, with `DirectRouting` or `host-gw` | as it is, by its IPv4 address | as it is, by its IPv6 address |
//! | a Weft host | in VXLAN over IPv4 if both have it, else over IPv6 | the same tunnel |
//! | a flannel host | in VXLAN over IPv4 | in VXLAN over IPv6 |

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_abi::maps::NETWORK_DEFAULT;
use weft_model::ids::NodeName;
use weft_model::mac::Mac;
use weft_model::network::{BackendKind, NetworkConfig};
use weft_model::snapshot::Snapshot;
use weft_model::subnet::{Lease, SubnetKey};

use crate::host::{Host, Membership};

/// The shortest MTU that a lease is believed, in bytes: what every IPv4 host must take (RFC 791 3.1).
const MIN_PEER_MTU: u32 = 576;

/// Another host that packets can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Its IPv6 subnet, if packets of ours get there.
    pub subnet6: Option<Ipv6Net>,
    /// The outer address for IPv4 inside; the gateway where packets travel as they are.
    pub outer: IpAddr,
    /// The same for IPv6 inside; there with `subnet6`.
    pub outer6: Option<IpAddr>,
    /// The Ethernet address that inner frames to `outer` must bear; zeros where nothing is tunnelled.
    pub mac: Mac,
    /// The same for `outer6`.
    pub mac6: Mac,
    /// Its name; a flanneld has none.
    pub node: Option<NodeName>,
    /// The longest inner packet it takes, in bytes, if it says so.
    pub mtu: Option<u32>,
    /// Whether the fast path may know it: it is tunnelled to, its subnet is as long as ours, so that one mask finds both, and
    /// it takes what the programs send.
    pub fast: bool,
    /// The same for its IPv6 subnet.
    pub fast6: bool,
    /// Whether it takes VXLAN over IPv6 with zero checksums, which is all that the programs can send.
    pub udp6zero: bool,
    /// How IPv4 gets there.
    pub via: Way,
    /// How IPv6 gets there.
    pub via6: Way,
}

/// How packets get to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In VXLAN.
    Overlay,
    /// As they are: it is on the uplink's own link.
    Direct,
}

/// The peers, and the leases that are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// In the order of their subnets, which do not overlap.
    pub used: Vec<Peer>,
    /// In the order of their keys.
    pub skipped: Vec<Skipped>,
    /// The same in further networks, by number.
    pub others: BTreeMap<u32, Peers>,
}

impl Peers {
    /// Those of the default network, then those of each further one with its number.
    pub fn of_all(&self) -> impl Iterator<Item = (u32, &Self)> {
        std::iter::once((NETWORK_DEFAULT, self)).chain(self.others.iter().map(|(number, peers)| (*number, peers)))
    }

    /// Those of a further network.
    pub(crate) fn in_network(&self, of: &Membership) -> Self {
        self.others.get(&of.number).cloned().unwrap_or_default()
    }
}

/// A lease of another owner that is not used, or whose IPv6 subnet is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its key.
    pub key: SubnetKey,
    /// Its public address; IPv4 if it has both.
    pub public_ip: IpAddr,
    /// Its owner, if it has a name.
    pub node: Option<NodeName>,
    /// Whether only its IPv6 subnet is not used.
    pub v6_only: bool,
    /// Why.
    pub why: Why,
}

/// Why a lease is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another backend, or another VXLAN network identifier: it is not of our overlay.
    OtherOverlay,
    /// It claims this host's public address.
    OurAddress,
    /// Its public address is none that packets can be sent to.
    BadAddress,
    /// Its public address lies in this subnet of the overlay: packets would go round in circles.
    InsideOverlay(IpNet),
    /// Its subnet is no part of the network.
    OutsideNetwork(IpNet),
    /// Its subnet overlaps this one, which is older or ours.
    Overlaps(IpNet),
    /// Its VTEP's Ethernet address is none that a host can have.
    BadMac,
    /// Its VTEP's Ethernet address is that of the host with this address, which is older or ours; a VXLAN device can send
    /// one Ethernet address to one host only.
    SameMac(IpAddr),
    /// This host and the other one have no address family outside that both can send in.
    NoCommonFamily,
    /// It must be on the uplink's own link to be reached without a tunnel, and is not.
    NotOnLink,
}

impl Why {
    /// Whether somebody should look at it; hosts of another overlay are as they should be.
    #[must_use]
    pub fn is_odd(&self) -> bool {
        *self != Self::OtherOverlay
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherOverlay => f.write_str("it is of another backend or VNI"),
            Self::OurAddress => f.write_str("it claims the public address of this host"),
            Self::BadAddress => f.write_str("its public address cannot be sent to"),
            Self::InsideOverlay(subnet) => write!(f, "its public address is in the overlay's own subnet {subnet}"),
            Self::OutsideNetwork(network) => write!(f, "its subnet is outside of the network {network}"),
            Self::Overlaps(subnet) => write!(f, "its subnet overlaps {subnet}, which is older or ours"),
            Self::BadMac => f.write_str("its VtepMAC is no address of a device"),
            Self::SameMac(address) => write!(f, "its VtepMAC is that of {address}, which is older or ours"),
            Self::NoCommonFamily => f.write_str(
                "no address family outside is common to it and this host (a flannel host takes each family in its own only)",
            ),
            Self::NotOnLink => f.write_str("it is not on the uplink's own link, which the host-gw backend needs"),
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = if self.v6_only { "the IPv6 part of " } else { "" };
        write!(f, "{part}lease {} of {} is not used: {}", self.key, self.public_ip, self.why)
    }
}

/// The peers of `host`: none before it has a configuration and a subnet. Where two leases exclude each other the older wins,
/// on every host alike.
#[must_use]
pub fn of(snapshot: &Snapshot, host: &Host) -> Peers {
    let (Some(config), Some(own)) = (&host.config, host.subnet) else { return Peers::default() };
    let mut leases: Vec<_> = snapshot.leases().filter(|(_, lease)| lease.value.node() != Some(&host.node)).collect();
    // A flanneld that ran here before us and whose subnet we have taken over is ourselves.
    leases.retain(|(key, lease)| !(key.subnet == own && has_our_address(host, &lease.value)));
    leases.sort_by_key(|(key, lease)| (lease.created, *key));

    let mut judge = Judge::new(config, host, own);
    let mut used: Vec<(&SubnetKey, Peer)> = Vec::new();
    let mut skipped = Vec::new();
    for (key, lease) in leases {
        let skip = |v6_only, why| skip(key, &lease.value, v6_only, why);
        match judge.peer(key, &lease.value) {
            Ok(mut peer) => {
                if let Err(why) = judge.v6_of(key, &lease.value, &mut peer) {
                    skipped.push(skip(true, why));
                }
                used.push((key, peer));
            }
            Err(why) => skipped.push(skip(false, why)),
        }
    }
    // Only now it is known which subnets the overlay has.
    for (key, peer) in &mut used {
        if let Some(subnet) =
            peer.outer6.and_then(|outer6| judge.taken.holding(outer6)).filter(|_| peer.outer6 != Some(peer.outer))
        {
            skipped.push(skip_peer(key, peer, true, Why::InsideOverlay(subnet)));
            peer.forget_v6();
        }
    }
    used.retain(|(key, peer)| match judge.taken.holding(peer.outer) {
        Some(subnet) => {
            skipped.push(skip_peer(key, peer, false, Why::InsideOverlay(subnet)));
            false
        }
        None => true,
    });
    let mut used: Vec<Peer> = used.into_iter().map(|(_, peer)| peer).collect();
    // Containers that came from a subnet which another host has taken keep their addresses, and reach each other by their own
    // rows; the programs look for a peer first, so they are not told of this one.
    for peer in &mut used {
        peer.fast = peer.fast && !host.attachments.iter().any(|a| peer.subnet.contains(&a.address));
    }
    used.sort_by_key(|peer| peer.subnet);
    skipped.sort_by_key(|a| a.key);
    let others = host.networks.iter().map(|n| (n.number, of(&snapshot.in_network(&n.name), &host.in_network(n))));
    Peers { used, skipped, others: others.collect() }
}

/// Judges one lease after the other, and remembers what those before have taken.
struct Judge<'a> {
    config: &'a NetworkConfig,
    host: &'a Host,
    own: Ipv4Net,
    taken: Ranges,
    /// Outer addresses by family and Ethernet address: each VXLAN device has its own forwarding entries.
    macs: BTreeMap<(bool, Mac), IpAddr>,
}

impl<'a> Judge<'a> {
    fn new(config: &'a NetworkConfig, host: &'a Host, own: Ipv4Net) -> Self {
        let mut taken = Ranges::default();
        taken.insert(own.into());
        if let Some(own6) = host.subnet6 {
            taken.insert(own6.into());
        }
        let mut judge = Self { config, host, own, taken, macs: BTreeMap::new() };
        for (v6, mac) in [(false, host.vtep_mac), (true, host.vtep_mac6)] {
            let same = |address: &IpAddr| address.is_ipv6() == v6;
            let ours = host.uplink.iter().flat_map(|u| [u.public_ip.map(IpAddr::V4), u.public_ipv6.map(IpAddr::V6)]);
            let ours = ours.flatten().find(same).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            judge.macs.insert((v6, mac), ours);
        }
        judge
    }

    /// The peer that a lease is, as far as IPv4 inside goes, or why it is none.
    fn peer(&mut self, key: &SubnetKey, lease: &Lease) -> Result<Peer, Why> {
        let backend = &self.config.backend;
        if !lease.backend_type.eq_ignore_ascii_case(backend.kind.as_str()) {
            return Err(Why::OtherOverlay);
        }
        let tunnels = backend.kind == BackendKind::Vxlan;
        let macs = (lease.vtep_mac(backend.vni), lease.vtep_mac6(backend.vni));
        if tunnels && macs == (None, None) {
            return Err(Why::OtherOverlay);
        }
        if has_our_address(self.host, lease) {
            return Err(Why::OurAddress);
        }
        let addresses = lease.public_ip.map(IpAddr::V4).into_iter().chain(lease.public_ipv6.map(IpAddr::V6));
        if addresses.clone().all(cannot_be_sent_to) {
            return Err(Why::BadAddress);
        }
        if !self.config.network.contains(&key.subnet) {
            return Err(Why::OutsideNetwork(self.config.network.into()));
        }
        let (outer, mac, via) = self.way(lease, false)?;
        if let Some(other) = self.taken.overlapping(key.subnet.into()) {
            return Err(Why::Overlaps(other));
        }
        self.take_mac(outer, mac, via)?;
        self.taken.insert(key.subnet.into());
        let udp6zero = lease.weft.as_ref().is_some_and(|w| w.udp6zero);
        Ok(Peer {
            subnet: key.subnet,
            subnet6: None,
            outer,
            outer6: None,
            mac,
            mac6: mac,
            node: lease.node().cloned(),
            mtu: lease.weft.as_ref().map(|w| w.mtu).filter(|mtu| *mtu >= MIN_PEER_MTU),
            fast: key.subnet.prefix_len() == self.own.prefix_len() && via == Way::Overlay && (outer.is_ipv4() || udp6zero),
            fast6: false,
            udp6zero,
            via,
            via6: via,
        })
    }

    /// Adds what is to be said of IPv6 inside; on an error the peer is one for IPv4 alone.
    fn v6_of(&mut self, key: &SubnetKey, lease: &Lease, peer: &mut Peer) -> Result<(), Why> {
        let (Some(own), Some(subnet), Some(range)) = (self.host.subnet6, key.v6, &self.config.v6) else { return Ok(()) };
        if !range.network.contains(&subnet) {
            return Err(Why::OutsideNetwork(range.network.into()));
        }
        let (outer, mac, via) = self.way(lease, true)?;
        if let Some(other) = self.taken.overlapping(subnet.into()) {
            return Err(Why::Overlaps(other));
        }
        self.take_mac(outer, mac, via)?;
        self.taken.insert(subnet.into());
        peer.subnet6 = Some(subnet);
        peer.outer6 = Some(outer);
        (peer.mac6, peer.via6) = (mac, via);
        peer.fast6 = subnet.prefix_len() == own.prefix_len() && via == Way::Overlay && (outer.is_ipv4() || peer.udp6zero);
        Ok(())
    }

    /// How packets of one family get to the host of a lease: the outer address, the Ethernet address behind it, and the way.
    fn way(&self, lease: &Lease, v6_inside: bool) -> Result<(IpAddr, Mac, Way), Why> {
        let backend = &self.config.backend;
        let uplink = self.host.uplink.as_ref();
        // Without an uplink it is not known what this host will have.
        let can4 = uplink.is_none_or(|u| u.address.is_some());
        let can6 = uplink.is_none_or(|u| u.address6.is_some());
        let usable = |ip: &IpAddr| !cannot_be_sent_to(*ip);
        let v4 = lease.public_ip.map(IpAddr::V4).filter(usable).filter(|_| can4);
        let v6 = lease.public_ipv6.map(IpAddr::V6).filter(usable).filter(|_| can6);
        let same = if v6_inside { v6 } else { v4 };
        if backend.kind == BackendKind::HostGw || backend.direct_routing {
            let on_link = same.filter(|ip| uplink.is_some_and(|u| u.on_link.holds(*ip)));
            match on_link {
                Some(ip) => return Ok((ip, Mac([0; 6]), Way::Direct)),
                None if backend.kind == BackendKind::HostGw && same.is_none() => return Err(Why::NoCommonFamily),
                None if backend.kind == BackendKind::HostGw => return Err(Why::NotOnLink),
                None => {}
            }
        }
        let v4 = v4.zip(lease.vtep_mac(backend.vni));
        let v6 = v6.zip(lease.vtep_mac6(backend.vni));
        let outer = match (lease.weft.is_some(), v6_inside) {
            (true, _) => v4.or(v6),
            (false, false) => v4,
            (false, true) => v6,
        };
        let (outer, mac) = outer.ok_or(Why::NoCommonFamily)?;
        // The lowest bit of the first byte marks groups (IEEE 802).
        if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
            return Err(Why::BadMac);
        }
        Ok((outer, mac, Way::Overlay))
    }

    fn take_mac(&mut self, outer: IpAddr, mac: Mac, via: Way) -> Result<(), Why> {
        if via == Way::Direct {
            return Ok(());
        }
        match self.macs.insert((outer.is_ipv6(), mac), outer) {
            Some(other) if other != outer => {
                self.macs.insert((outer.is_ipv6(), mac), other);
                Err(Why::SameMac(other))
            }
            _ => Ok(()),
        }
    }
}

impl Peer {
    fn forget_v6(&mut self) {
        (self.subnet6, self.outer6, self.fast6) = (None, None, false);
        (self.mac6, self.via6) = (self.mac, self.via);
    }

    /// The addresses that it may send tunnel packets from: it need not know that it is on our link.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [self.outer].into_iter().chain(self.outer6.filter(|outer6| *outer6 != self.outer))
    }

    /// The outer addresses that our packets to it go to in tunnels.
    pub fn tunnel_ends(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = Some(self.outer).filter(|_| self.via == Way::Overlay);
        let v6 = self.outer6.filter(|outer| self.via6 == Way::Overlay && Some(*outer) != v4);
        v4.into_iter().chain(v6)
    }
}

fn cannot_be_sent_to(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0
        }
        // A link-local address says nothing without a link, a mapped one is IPv4.
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.to_ipv4_mapped().is_some()
        }
    }
}

fn has_our_address(host: &Host, lease: &Lease) -> bool {
    let theirs = [lease.public_ip.map(IpAddr::V4), lease.public_ipv6.map(IpAddr::V6)];
    host.uplink.iter().flat_map(|u| u.addresses()).any(|ours| theirs.contains(&Some(ours)))
}

fn skip(key: &SubnetKey, lease: &Lease, v6_only: bool, why: Why) -> Skipped {
    Skipped { key: *key, public_ip: lease.address(), node: lease.node().cloned(), v6_only, why }
}

fn skip_peer(key: &SubnetKey, peer: &Peer, v6_only: bool, why: Why) -> Skipped {
    let public_ip = peer.outer6.filter(|_| v6_only).unwrap_or(peer.outer);
    Skipped { key: *key, public_ip, node: peer.node.clone(), v6_only, why }
}

/// Subnets that do not overlap, by their first address. All of IPv4 stands before all of IPv6.
#[derive(Default)]
struct Ranges(BTreeMap<IpAddr, IpNet>);

impl Ranges {
    fn insert(&mut self, subnet: IpNet) {
        self.0.insert(subnet.network(), subnet);
    }

    /// Since they do not overlap, the last one that begins before the end of `subnet` is the only one that can reach into it
    /// or lie within it.
    fn overlapping(&self, subnet: IpNet) -> Option<IpNet> {
        let (_, before) = self.0.range(..=subnet.broadcast()).next_back()?;
        (before.broadcast() >= subnet.network()).then_some(*before)
    }

    fn holding(&self, address: IpAddr) -> Option<IpNet> {
        self.overlapping(IpNet::from(address))
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
