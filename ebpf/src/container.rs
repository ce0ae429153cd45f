//! What a container sends: who may send it, and where it goes.
//!
//! Nothing is changed here: the packet is as the container made it until [`crate::deliver`] or [`crate::encap`].

use weft_abi::maps::{PROTO_TCP, PROTO_UDP};
use weft_abi::{Be16, Be32, Be128, Config, ENCAP_OVERHEAD, Endpoint, Network, Peer, PeerKey, Verdict};

use crate::ecn;
use crate::packet::Packet;
use crate::wire::{Ipv4, eth, ipv4, outer, tcp, udp};

/// The rows that are needed.
pub trait Tables {
    /// The one row of configuration.
    fn config(&self) -> Option<&Config>;
    /// A network.
    fn network(&self, number: u32) -> Option<&Network>;
    /// The container that has the address.
    fn endpoint(&self, addr: Be32) -> Option<&Endpoint>;
    /// The host that holds the subnet.
    fn peer(&self, key: &PeerKey) -> Option<&Peer>;
    /// The network whose range holds the address.
    fn range(&self, addr: Be128) -> Option<u32>;
}

/// What to do with a packet that takes the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'t> {
    /// Hand it to a container of this host.
    Local(&'t Endpoint),
    /// Push outer headers and send it to a peer.
    Remote(Remote<'t>),
}

/// A packet that goes to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote<'t> {
    /// Where.
    pub peer: &'t Peer,
    /// In which network.
    pub network: &'t Network,
    /// The outer traffic class.
    pub tos: u8,
    /// The inner packet's length in bytes, without its Ethernet header.
    pub inner_len: u32,
}

/// The longest packet that an IPv4 header can describe.
const IPV4_MAX: u32 = 65_535;

/// Decides about a packet from a container's device.
///
/// # Errors
/// The verdict, when the packet does not take the fast path: handed to the stack as it is, or dropped.
#[inline(always)]
pub fn decide<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Next<'t>, Verdict> {
    if packet.tagged() {
        return Err(Verdict::ContainerVlanTag);
    }
    let ip = header(packet)?;
    if !ip.is_sane() {
        return Err(Verdict::ContainerMalformed);
    }
    // The address belongs to a device of ours, and to this one. What else the packet is does not matter before that.
    let sender = match tables.endpoint(ip.src) {
        Some(sender) if sender.ifindex == packet.ifindex() => sender,
        _ => return Err(Verdict::ContainerSpoofed),
    };
    let room = packet.len() - eth::LEN as u32;
    // BIG TCP writes zero when the length does not fit (kernel 6.3 and later).
    let unwritten = ip.total_len == 0 && packet.gso_size() != 0;
    if !unwritten && (ip.total_len < ip.header_len() || ip.total_len > room) {
        return Err(Verdict::ContainerMalformed);
    }
    let config = tables.config().ok_or(Verdict::ContainerNoOverlay)?;
    if ip.proto == PROTO_UDP && ip.has_transport() {
        let port = udp_port(packet, &ip).ok_or(Verdict::ContainerMalformed)?;
        if config.is_overlay_port(port) {
            return Err(Verdict::ContainerInjects);
        }
    }
    if !packet.to_us() {
        return Err(Verdict::ContainerNotToUs);
    }
    let network = tables.network(sender.network).ok_or(Verdict::ContainerNoOverlay)?;
    let subnet = ip.dst.masked(network.subnet_mask);
    if network.holds(ip.dst)
        && subnet != network.subnet
        && let Some(peer) = tables.peer(&PeerKey { network: sender.network, subnet })
    {
        if config.vtep.is_zero() || config.uplink == 0 {
            return Err(Verdict::ContainerNoOverlay);
        }
        plain(&ip)?;
        if longest_on_the_wire(packet, &ip, room)? > mtu(config, peer) || room + ENCAP_OVERHEAD > IPV4_MAX {
            return Err(Verdict::ContainerTooBig);
        }
        return Ok(Next::Remote(Remote { peer, network, tos: ecn::enter(ip.tos), inner_len: room }));
    }
    match tables.endpoint(ip.dst) {
        Some(receiver) if receiver.network == sender.network => {
            plain(&ip)?;
            Ok(Next::Local(receiver))
        }
        Some(_) => Err(Verdict::ContainerOtherNetwork),
        None => match tables.range(Be128::mapped(ip.dst)) {
            Some(other) if other != sender.network => Err(Verdict::ContainerOtherNetwork),
            _ => Err(Verdict::ContainerElsewhere),
        },
    }
}

/// The IPv4 header, or the verdict for a packet that has none.
#[inline(always)]
fn header<P: Packet>(packet: &mut P) -> Result<Ipv4, Verdict> {
    match packet.head::<{ eth::LEN + ipv4::LEN }>() {
        Some(head) if head.be16::<{ eth::TYPE }>() == eth::IPV4 => Ok(Ipv4::first(&head)),
        Some(_) => Err(Verdict::ContainerNotIpv4),
        None => match packet.load::<2>(eth::TYPE as u32) {
            Some(kind) if Be16::from_bytes(kind) == eth::IPV4 => Err(Verdict::ContainerMalformed),
            _ => Err(Verdict::ContainerNotIpv4),
        },
    }
}

/// The UDP destination port. `None`: the header is cut short.
#[inline(always)]
fn udp_port<P: Packet>(packet: &mut P, ip: &Ipv4) -> Option<Be16> {
    if ip.is_plain()
        && let Some(w) = packet.window::<{ outer::UDP + udp::LEN }>(0)
    {
        return Some(w.be16::<{ outer::UDP + udp::DST }>());
    }
    let whole: [u8; udp::LEN] = packet.load(eth::LEN as u32 + ip.header_len())?;
    Some(Be16::from_bytes([whole[udp::DST], whole[udp::DST + 1]]))
}

/// Nothing that only the stack handles: fragments, options, a TTL that ends here.
#[inline(always)]
fn plain(ip: &Ipv4) -> Result<(), Verdict> {
    if ip.is_fragment() {
        return Err(Verdict::ContainerFragment);
    }
    if !ip.is_plain() {
        return Err(Verdict::ContainerOptions);
    }
    if ip.ttl <= 1 {
        return Err(Verdict::ContainerTtl);
    }
    Ok(())
}

/// The longest inner IPv4 packet that comes of this one: itself, or its longest segment.
#[inline(always)]
fn longest_on_the_wire<P: Packet>(packet: &mut P, ip: &Ipv4, room: u32) -> Result<u32, Verdict> {
    let gso_size = packet.gso_size();
    if gso_size == 0 {
        return Ok(room);
    }
    let transport = match ip.proto {
        PROTO_TCP => {
            const AT: usize = outer::UDP + tcp::DATA_OFFSET;
            let [words] = packet.load::<1>(AT as u32).ok_or(Verdict::ContainerMalformed)?;
            u32::from(words >> 4) * 4
        }
        PROTO_UDP => udp::LEN as u32,
        // The kernel gives no room to others (SCTP), so there is no need to ask.
        _ => return Err(Verdict::ContainerRoomRefused),
    };
    Ok(ipv4::LEN as u32 + transport + gso_size)
}

/// The longest inner packet that reaches the peer whole.
#[inline(always)]
fn mtu(config: &Config, peer: &Peer) -> u32 {
    let ours = config.uplink_mtu.saturating_sub(ENCAP_OVERHEAD);
    if peer.mtu == 0 || peer.mtu > ours { ours } else { peer.mtu }
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
