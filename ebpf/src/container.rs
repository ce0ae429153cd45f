//! What a container sends: who may send it, and where it goes.
//!
//! Nothing is changed here: the packet is as the container made it until [`crate::deliver`] or [`crate::encap`]. What differs
//! between the families is in `container/v4.rs` and `container/v6.rs`.

mod v4;
mod v6;

use weft_abi::maps::{PROTO_TCP, PROTO_UDP};
use weft_abi::{Be16, Be128, Config, ENCAP_OVERHEAD, ENCAP_OVERHEAD6, Endpoint, Network, Peer, Verdict};

use crate::ecn;
use crate::neighbour;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::wire::{Family, eth, ipv4, tcp, udp};

/// What to do with a packet that takes the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'t> {
    /// Hand it to a container of this host.
    Local(Family, &'t Endpoint),
    /// Push outer headers and send it to a peer.
    Remote(Remote<'t>),
}

/// A packet that goes to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote<'t> {
    /// What it is inside.
    pub family: Family,
    /// Where.
    pub peer: &'t Peer,
    /// In which network.
    pub network: &'t Network,
    /// The outer traffic class.
    pub class: u8,
    /// The inner packet's length in bytes, without its Ethernet header.
    pub inner_len: u32,
}

/// The longest packet that an IPv4 header can describe; that an IPv6 header can describe more does not matter.
const LONGEST: u32 = 65_535;

/// Decides about a packet from a container's device.
///
/// # Errors
/// The verdict, when the packet does not take the fast path: handed to the stack as it is, or dropped.
#[inline(always)]
pub fn decide<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Next<'t>, Verdict> {
    if is_v4(packet) { v4(packet, tables) } else { other(packet, tables) }
}

/// Whether the packet is IPv4, without a tag, and long enough for a header: then [`v4()`] decides, else [`other`]. The program
/// is in two parts along this line, so that what most packets need stays small.
#[inline(always)]
pub fn is_v4<P: Packet>(packet: &mut P) -> bool {
    let kind = packet.head::<{ eth::LEN + ipv4::LEN }>().map(|head| head.be16::<{ eth::TYPE }>());
    kind == Some(eth::IPV4) && !packet.tagged()
}

/// [`decide`] where [`is_v4`].
///
/// # Errors
/// As there.
#[inline(always)]
pub fn v4<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Next<'t>, Verdict> {
    v4::decide(packet, tables)
}

/// [`decide`] for everything else.
///
/// # Errors
/// As there.
#[inline(always)]
pub fn other<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Next<'t>, Verdict> {
    if packet.tagged() {
        return Err(Verdict::ContainerVlanTag);
    }
    match packet.load::<2>(eth::TYPE as u32).map(Be16::from_bytes) {
        Some(eth::IPV6) => v6::decide(packet, tables),
        Some(eth::ARP) => Err(neighbour::arp(packet, tables)),
        // One that were long enough would not be here.
        Some(eth::IPV4) => Err(Verdict::ContainerMalformed),
        _ => Err(Verdict::ContainerNotIpv4),
    }
}

/// A packet for a peer, as far as it is looked at.
struct Outgoing {
    family: Family,
    /// Of the IP header.
    header_len: u32,
    proto: u8,
    class: u8,
    /// Header and payload.
    len: u32,
}

/// Whether the packet can go to the peer as it is. It is known to be nothing that only the stack handles.
#[inline(always)]
fn to_peer<'t, P: Packet>(
    packet: &P,
    config: &Config,
    network: &'t Network,
    peer: &'t Peer,
    out: &Outgoing,
) -> Result<Next<'t>, Verdict> {
    let overhead = if peer.outer_is_v6() { ENCAP_OVERHEAD6 } else { ENCAP_OVERHEAD };
    if longest_on_the_wire(packet, out)? > mtu(config, peer, overhead) || out.len + overhead > LONGEST {
        return Err(Verdict::ContainerTooBig);
    }
    let Outgoing { family, class, len, .. } = *out;
    Ok(Next::Remote(Remote { family, peer, network, class: ecn::enter(class), inner_len: len }))
}

/// Whether there is an uplink, and an own address of the family that the peer is reached by.
#[inline(always)]
fn has_overlay(config: &Config, peer: &Peer) -> bool {
    let without = if peer.outer_is_v6() { config.vtep6.is_zero() } else { config.vtep.is_zero() };
    !without && config.uplink != 0
}

/// A packet for none of the peers: for a container here, or for the stack.
#[inline(always)]
fn here<'t, T: Tables>(
    tables: &T,
    network: u32,
    family: Family,
    receiver: Option<&'t Endpoint>,
    dst: Be128,
) -> Result<Next<'t>, Verdict> {
    match receiver {
        Some(receiver) if receiver.network == network => Ok(Next::Local(family, receiver)),
        Some(_) => Err(Verdict::ContainerOtherNetwork),
        None => match tables.range(dst) {
            other if other != 0 && other != network => Err(Verdict::ContainerOtherNetwork),
            _ => Err(Verdict::ContainerElsewhere),
        },
    }
}

/// The longest inner packet that comes of this one: itself, or its longest segment.
#[inline(always)]
fn longest_on_the_wire<P: Packet>(packet: &P, out: &Outgoing) -> Result<u32, Verdict> {
    let gso_size = packet.gso_size();
    if gso_size == 0 {
        return Ok(out.len);
    }
    let transport = match out.proto {
        PROTO_TCP => {
            let at = eth::LEN as u32 + out.header_len + tcp::DATA_OFFSET as u32;
            let [words] = packet.load::<1>(at).ok_or(Verdict::ContainerMalformed)?;
            u32::from(words >> 4) * 4
        }
        PROTO_UDP => udp::LEN as u32,
        // The kernel gives no room to others (SCTP), so there is no need to ask.
        _ => return Err(Verdict::ContainerRoomRefused),
    };
    Ok(out.header_len + transport + gso_size)
}

/// The longest inner packet that reaches the peer whole.
#[inline(always)]
fn mtu(config: &Config, peer: &Peer, overhead: u32) -> u32 {
    let ours = config.uplink_mtu.saturating_sub(overhead);
    if peer.mtu == 0 || peer.mtu > ours { ours } else { peer.mtu }
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "container6_tests.rs"]
mod tests6;
