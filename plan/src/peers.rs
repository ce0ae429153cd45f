//! Which leases are peers: other hosts as ends of our tunnels.
//!
//! A lease is anybody's writing. One that would send our own traffic astray (outside the network, over another's subnet, to
//! ourselves) is left out and named, and hurts nobody else.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weft_model::ids::NodeName;
use weft_model::mac::Mac;
use weft_model::snapshot::{Snapshot, Stored};
use weft_model::subnet::{Lease, SubnetKey};

use crate::host::Host;

/// The shortest MTU that a lease is believed, in bytes: what every IPv4 host must take (RFC 791 3.1).
const MIN_PEER_MTU: u32 = 576;

/// Another host that packets can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// The outer address that reaches it.
    pub public_ip: Ipv4Addr,
    /// The Ethernet address that inner frames to it must bear.
    pub mac: Mac,
    /// Its name; a flanneld has none.
    pub node: Option<NodeName>,
    /// The longest inner packet it takes, in bytes, if it says so.
    pub mtu: Option<u32>,
    /// Whether the fast path knows it: its subnet is as long as ours, so that one mask finds both.
    pub fast: bool,
}

/// The peers, and the leases that are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// In the order of their subnets, which do not overlap.
    pub used: Vec<Peer>,
    /// In the order of their keys.
    pub skipped: Vec<Skipped>,
}

/// A lease of another owner that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its key.
    pub key: SubnetKey,
    /// Its public address.
    pub public_ip: Ipv4Addr,
    /// Its owner, if it has a name.
    pub node: Option<NodeName>,
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
    InsideOverlay(Ipv4Net),
    /// Its subnet is no part of the network.
    OutsideNetwork(Ipv4Net),
    /// Its subnet overlaps this one, which is older or ours.
    Overlaps(Ipv4Net),
    /// Its VTEP's Ethernet address is none that a host can have.
    BadMac,
    /// Its VTEP's Ethernet address is that of the host with this address, which is older or ours; a VXLAN device can send
    /// one Ethernet address to one host only.
    SameMac(Ipv4Addr),
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
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {} of {} is not used: {}", self.key, self.public_ip, self.why)
    }
}

/// The peers of `host`: none before it has a configuration and a subnet. Where two leases exclude each other the older wins,
/// on every host alike.
#[must_use]
pub fn of(snapshot: &Snapshot, host: &Host) -> Peers {
    let (Some(config), Some(own)) = (&host.config, host.subnet) else { return Peers::default() };
    let mut leases: Vec<_> = snapshot.leases().filter(|(_, lease)| lease.value.node() != Some(&host.node)).collect();
    // A flanneld that ran here before us and whose subnet we have taken over is ourselves.
    leases.retain(|(key, lease)| !(key.subnet == own && is_ours(host, lease.value.public_ip)));
    leases.sort_by_key(|(key, lease)| (lease.created, *key));

    let mut taken = Ranges::default();
    taken.insert(own);
    let mut macs: BTreeMap<Mac, Ipv4Addr> = BTreeMap::new();
    let mut used: Vec<(&SubnetKey, Peer)> = Vec::new();
    let mut skipped = Vec::new();
    for (key, lease) in leases {
        let subnet = key.subnet;
        let judged = judge(config.backend.vni, config.network, host, key, &lease.value).and_then(|mac| {
            if let Some(other) = taken.overlapping(subnet) {
                return Err(Why::Overlaps(other));
            }
            match macs.get(&mac) {
                Some(other) if *other != lease.value.public_ip => Err(Why::SameMac(*other)),
                _ => Ok(mac),
            }
        });
        match judged {
            Ok(mac) => {
                taken.insert(subnet);
                macs.insert(mac, lease.value.public_ip);
                used.push((key, peer(lease, subnet, mac, own)));
            }
            Err(why) => skipped.push(skip(key, &lease.value, why)),
        }
    }
    // Only now it is known which subnets the overlay has.
    used.retain(|(key, peer)| match taken.holding(peer.public_ip) {
        Some(subnet) => {
            skipped.push(Skipped {
                key: (*key).clone(),
                public_ip: peer.public_ip,
                node: peer.node.clone(),
                why: Why::InsideOverlay(subnet),
            });
            false
        }
        None => true,
    });
    let mut used: Vec<Peer> = used.into_iter().map(|(_, peer)| peer).collect();
    used.sort_by_key(|peer| peer.subnet);
    skipped.sort_by(|a, b| a.key.cmp(&b.key));
    Peers { used, skipped }
}

/// What can be said of a lease by itself: its VTEP's address, or why it is no peer.
fn judge(vni: u32, network: Ipv4Net, host: &Host, key: &SubnetKey, lease: &Lease) -> Result<Mac, Why> {
    let mac = lease.vtep_mac(vni).ok_or(Why::OtherOverlay)?;
    let ip = lease.public_ip;
    if is_ours(host, ip) {
        return Err(Why::OurAddress);
    }
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0 {
        return Err(Why::BadAddress);
    }
    if !network.contains(&key.subnet) {
        return Err(Why::OutsideNetwork(network));
    }
    // The lowest bit of the first byte marks groups (IEEE 802).
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(Why::BadMac);
    }
    if mac == host.vtep_mac {
        return Err(Why::SameMac(host.uplink.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |u| u.public_ip)));
    }
    Ok(mac)
}

fn is_ours(host: &Host, ip: Ipv4Addr) -> bool {
    host.uplink.as_ref().is_some_and(|uplink| ip == uplink.public_ip || ip == uplink.address)
}

fn peer(lease: &Stored<Lease>, subnet: Ipv4Net, mac: Mac, own: Ipv4Net) -> Peer {
    let lease = &lease.value;
    Peer {
        subnet,
        public_ip: lease.public_ip,
        mac,
        node: lease.node().cloned(),
        mtu: lease.weft.as_ref().map(|w| w.mtu).filter(|mtu| *mtu >= MIN_PEER_MTU),
        fast: subnet.prefix_len() == own.prefix_len(),
    }
}

fn skip(key: &SubnetKey, lease: &Lease, why: Why) -> Skipped {
    Skipped { key: key.clone(), public_ip: lease.public_ip, node: lease.node().cloned(), why }
}

/// Subnets that do not overlap, by their first address.
#[derive(Default)]
struct Ranges(BTreeMap<Ipv4Addr, Ipv4Net>);

impl Ranges {
    fn insert(&mut self, subnet: Ipv4Net) {
        self.0.insert(subnet.network(), subnet);
    }

    /// Since they do not overlap, the last one that begins before the end of `subnet` is the only one that can reach into it
    /// or lie within it.
    fn overlapping(&self, subnet: Ipv4Net) -> Option<Ipv4Net> {
        let (_, before) = self.0.range(..=subnet.broadcast()).next_back()?;
        (before.broadcast() >= subnet.network()).then_some(*before)
    }

    fn holding(&self, address: Ipv4Addr) -> Option<Ipv4Net> {
        self.overlapping(Ipv4Net::from(address))
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
