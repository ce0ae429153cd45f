//! What arrives at the uplink: which of it is overlay for a container here, and who may have sent it.
//!
//! The order of the checks is the promise: what is dropped came to this host's overlay address and port, and is cut short,
//! or is of a VNI of ours and from someone who may not send it. Everything else that is not understood goes to the stack as
//! it came.

use weft_abi::maps::{PROTO_TCP, PROTO_UDP};
use weft_abi::{Be16, Be128, Config, Endpoint, Mac, Network, Peer, PeerKey, PeerKey6, Verdict, VtepKey};

use crate::ecn;
use crate::packet::{Packet, Window};
use crate::tables::Tables;
use crate::wire::{Family, Ipv4, Ipv6, eth, ipv4, ipv6, outer, tunnel, udp, vxlan};

/// A packet whose outer headers come off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'t> {
    /// The container it is for.
    pub to: &'t Endpoint,
    /// The network it comes through.
    pub network: &'t Network,
    /// What it is outside.
    pub outer: Family,
    /// What it is inside.
    pub inner: Family,
    /// The inner traffic class, if congestion on the way changes it.
    pub class: Option<u8>,
}

/// Decides about a packet from the uplink.
///
/// # Errors
/// The verdict, when the packet does not take the fast path: handed to the stack as it is, or dropped.
#[inline(always)]
pub fn decide<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Arrival<'t>, Verdict> {
    if is_v4_in_v4(packet) { v4_in_v4(packet, tables) } else { other(packet, tables) }
}

/// Whether the packet is IPv4 and, if it is an overlay packet, IPv4 inside as well, with all headers there: then
/// [`v4_in_v4`] decides, else [`other`]. The program is in two parts along this line, so that what most packets need stays
/// small.
#[inline(always)]
pub fn is_v4_in_v4<P: Packet>(packet: &mut P) -> bool {
    const INNER_TYPE: usize = outer::AFTER_V4 + tunnel::INNER_ETH + eth::TYPE;
    match packet.head::<{ outer::INNER_IP + ipv4::LEN }>() {
        Some(head) => head.be16::<{ eth::TYPE }>() == eth::IPV4 && head.be16::<INNER_TYPE>() == eth::IPV4,
        None => false,
    }
}

/// [`decide`] where [`is_v4_in_v4`].
///
/// # Errors
/// As there.
#[inline(always)]
pub fn v4_in_v4<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Arrival<'t>, Verdict> {
    let config = for_us(packet, tables)?;
    let (len, gso_size) = (packet.len(), packet.gso_size());
    // All headers at once: each look at where the packet begins and ends costs.
    let Some(mut w) = packet.head::<{ outer::INNER_IP + ipv4::LEN }>() else { return Err(Verdict::UplinkMalformed) };
    let outside = over_v4(&Ipv4::read(&w.part::<{ outer::IP }, { ipv4::LEN }>()), config)?;
    let udp = w.part::<{ outer::AFTER_V4 }, { udp::LEN }>();
    to_overlay(&udp, config, outer::AFTER_V4, &outside, len, gso_size)?;
    let (around, _) = around(&w.part::<{ outer::AFTER_V4 }, { tunnel::INNER_IP }>(), &outside)?;
    let ip = Ipv4::read(&w.part::<{ outer::INNER_IP }, { ipv4::LEN }>());
    admit(packet, tables, &around, &ip, outer::INNER_IP)
}

/// [`decide`] for everything, in particular for everything else.
///
/// # Errors
/// As there.
#[inline(always)]
pub fn other<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Arrival<'t>, Verdict> {
    let config = for_us(packet, tables)?;
    match packet.load::<2>(eth::TYPE as u32).map(Be16::from_bytes) {
        Some(eth::IPV4) => {
            let ip = Ipv4::at(packet, eth::LEN).ok_or(Verdict::UplinkNotOverlay)?;
            popped(packet, tables, config, &over_v4(&ip, config)?, outer::AFTER_V4)
        }
        Some(eth::IPV6) => {
            let ip = Ipv6::at(packet, eth::LEN).ok_or(Verdict::UplinkNotOverlay)?;
            popped(packet, tables, config, &over_v6(&ip, config)?, outer::AFTER_V6)
        }
        _ => Err(Verdict::UplinkNotOverlay),
    }
}

/// The configuration, if the packet was sent to this host's Ethernet address.
#[inline(always)]
fn for_us<'t, P: Packet, T: Tables>(packet: &P, tables: &'t T) -> Result<&'t Config, Verdict> {
    if packet.tagged() || !packet.to_us() {
        return Err(Verdict::UplinkNotOverlay);
    }
    tables.config().ok_or(Verdict::UplinkNotOverlay)
}

/// What the outer IP header says of an overlay packet.
struct Outside {
    family: Family,
    src: Be128,
    class: u8,
    /// Header and payload, as the header has it.
    len: u32,
    /// The length is zero, as it is of several segments in one that are too long for the field.
    is_zero: bool,
}

/// The outer IPv4 header of what is UDP to our own address.
#[inline(always)]
fn over_v4(ip: &Ipv4, config: &Config) -> Result<Outside, Verdict> {
    let other = Err(Verdict::UplinkNotOverlay);
    if !ip.is_sane() || ip.proto != PROTO_UDP || ip.dst != config.vtep || config.vtep.is_zero() {
        return other;
    }
    if ip.is_fragment() {
        // Later fragments have no ports to tell whose they are; the stack puts them together.
        return Err(Verdict::UplinkOuterFragment);
    }
    if !ip.is_plain() {
        return Err(Verdict::UplinkOuterOptions);
    }
    let (len, is_zero) = (ip.total_len, ip.total_len == 0);
    Ok(Outside { family: Family::V4, src: Be128::mapped(ip.src), class: ip.tos, len, is_zero })
}

/// The outer IPv6 header of what is UDP to our own address.
#[inline(always)]
fn over_v6(ip: &Ipv6, config: &Config) -> Result<Outside, Verdict> {
    let other = Err(Verdict::UplinkNotOverlay);
    if !ip.is_sane() || ip.dst != config.vtep6 || config.vtep6.is_zero() {
        return other;
    }
    match ip.next {
        PROTO_UDP => {}
        ipv6::FRAGMENT => return Err(Verdict::UplinkOuterFragment),
        next if ipv6::is_extension(next) => return Err(Verdict::UplinkOuterOptions),
        _ => return other,
    }
    let (len, is_zero) = (ip.total_len, ip.is_unwritten());
    Ok(Outside { family: Family::V6, src: ip.src, class: ip.class(), len, is_zero })
}

/// Whether the UDP header, which is at `at`, is to an overlay port. What the headers say must be in the packet then, and cover
/// at least the headers that are popped.
#[inline(always)]
fn to_overlay(
    w: &Window<'_, { udp::LEN }>,
    config: &Config,
    at: usize,
    outside: &Outside,
    packet_len: u32,
    gso_size: u32,
) -> Result<(), Verdict> {
    if !config.is_overlay_port(w.be16::<{ udp::DST }>()) {
        return Err(Verdict::UplinkNotOverlay);
    }
    let udp_len = u32::from(w.be16::<{ udp::TOTAL_LEN }>().to_native());
    let (header, room) = ((at - eth::LEN) as u32, packet_len - eth::LEN as u32);
    let unwritten = outside.is_zero && gso_size != 0;
    let len = outside.len;
    if !unwritten && (len > room || len < header + tunnel::INNER_IP as u32 || udp_len + header > len) {
        return Err(Verdict::UplinkMalformed);
    }
    Ok(())
}

/// What the headers around the inner packet say.
struct Around {
    outer: Family,
    vtep: VtepKey,
    outer_class: u8,
    /// A UDP checksum is there.
    marked: bool,
    dst_mac: Mac,
}

/// What stands between the outer IP header and the inner one, and the inner Ethernet type.
#[inline(always)]
fn around(w: &Window<'_, { tunnel::INNER_IP }>, outside: &Outside) -> Result<(Around, Be16), Verdict> {
    // RFC 7348: the other flags are ignored on receipt, and so are the last eight bits of the VNI's word.
    if w.be32::<{ tunnel::VXLAN + vxlan::FLAGS }>().bits() & vxlan::HAS_VNI.bits() == 0 {
        return Err(Verdict::UplinkOtherVni);
    }
    let vni = w.be32::<{ tunnel::VXLAN + vxlan::VNI }>().to_native() >> 8;
    let around = Around {
        outer: outside.family,
        vtep: VtepKey { vni, outer: outside.src },
        outer_class: outside.class,
        marked: w.be16::<{ tunnel::UDP + udp::CHECKSUM }>().bits() != 0,
        dst_mac: w.mac::<{ tunnel::INNER_ETH + eth::DST }>(),
    };
    Ok((around, w.be16::<{ tunnel::INNER_ETH + eth::TYPE }>()))
}

/// Decides about UDP to our own address, whatever is inside. The UDP header is at `at`.
#[inline(always)]
fn popped<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    config: &Config,
    outside: &Outside,
    at: usize,
) -> Result<Arrival<'t>, Verdict> {
    let (len, gso_size) = (packet.len(), packet.gso_size());
    let udp = packet.reach::<{ udp::LEN }>(at).ok_or(Verdict::UplinkNotOverlay)?;
    to_overlay(&udp, config, at, outside, len, gso_size)?;
    let (around, kind) = {
        let w = packet.reach::<{ tunnel::INNER_IP }>(at).ok_or(Verdict::UplinkMalformed)?;
        around(&w, outside)?
    };
    let ip_at = at + tunnel::INNER_IP;
    match kind {
        eth::IPV4 => {
            let ip = Ipv4::at(packet, ip_at).ok_or(Verdict::UplinkMalformed)?;
            admit(packet, tables, &around, &ip, ip_at)
        }
        eth::IPV6 => {
            let ip = Ipv6::at(packet, ip_at).ok_or(Verdict::UplinkMalformed)?;
            admit(packet, tables, &around, &ip, ip_at)
        }
        _ => {
            known(tables, &around.vtep)?;
            Err(Verdict::UplinkInnerNotIpv4)
        }
    }
}

/// An inner IP header, of either family.
trait Inner {
    const FAMILY: Family;
    fn is_sane(&self) -> bool;
    fn is_fragment(&self) -> bool;
    fn is_plain(&self) -> bool;
    fn header_len(&self) -> u32;
    fn total_len(&self) -> u32;
    fn class(&self) -> u8;
    fn life(&self) -> u8;
    fn proto(&self) -> u8;
    /// The container it is for.
    fn receiver<'t, T: Tables>(&self, tables: &'t T) -> Option<&'t Endpoint>;
    /// The host that may send from the inner source.
    fn origin<'t, T: Tables>(&self, tables: &'t T, number: u32, network: &Network) -> Option<&'t Peer>;
    /// Whether the inner source lies in this host's own subnet.
    fn is_from_here(&self, network: &Network) -> bool;
}

impl Inner for Ipv4 {
    const FAMILY: Family = Family::V4;
    #[inline(always)]
    fn is_sane(&self) -> bool {
        Ipv4::is_sane(self)
    }
    #[inline(always)]
    fn is_fragment(&self) -> bool {
        Ipv4::is_fragment(self)
    }
    #[inline(always)]
    fn is_plain(&self) -> bool {
        Ipv4::is_plain(self)
    }
    #[inline(always)]
    fn header_len(&self) -> u32 {
        Ipv4::header_len(self)
    }
    #[inline(always)]
    fn total_len(&self) -> u32 {
        self.total_len
    }
    #[inline(always)]
    fn class(&self) -> u8 {
        self.tos
    }
    #[inline(always)]
    fn life(&self) -> u8 {
        self.ttl
    }
    #[inline(always)]
    fn proto(&self) -> u8 {
        self.proto
    }
    #[inline(always)]
    fn receiver<'t, T: Tables>(&self, tables: &'t T) -> Option<&'t Endpoint> {
        tables.endpoint(self.dst)
    }
    #[inline(always)]
    fn origin<'t, T: Tables>(&self, tables: &'t T, number: u32, network: &Network) -> Option<&'t Peer> {
        tables.peer(&PeerKey { network: number, subnet: self.src.masked(network.subnet_mask) })
    }
    #[inline(always)]
    fn is_from_here(&self, network: &Network) -> bool {
        self.src.masked(network.subnet_mask) == network.subnet
    }
}

impl Inner for Ipv6 {
    const FAMILY: Family = Family::V6;
    #[inline(always)]
    fn is_sane(&self) -> bool {
        Ipv6::is_sane(self)
    }
    #[inline(always)]
    fn is_fragment(&self) -> bool {
        self.next == ipv6::FRAGMENT
    }
    #[inline(always)]
    fn is_plain(&self) -> bool {
        !ipv6::is_extension(self.next)
    }
    #[inline(always)]
    fn header_len(&self) -> u32 {
        ipv6::LEN as u32
    }
    #[inline(always)]
    fn total_len(&self) -> u32 {
        self.total_len
    }
    #[inline(always)]
    fn class(&self) -> u8 {
        Ipv6::class(self)
    }
    #[inline(always)]
    fn life(&self) -> u8 {
        self.hop_limit
    }
    #[inline(always)]
    fn proto(&self) -> u8 {
        self.next
    }
    #[inline(always)]
    fn receiver<'t, T: Tables>(&self, tables: &'t T) -> Option<&'t Endpoint> {
        tables.endpoint6(self.dst)
    }
    #[inline(always)]
    fn origin<'t, T: Tables>(&self, tables: &'t T, number: u32, network: &Network) -> Option<&'t Peer> {
        tables.peer6(&PeerKey6 { network: number, subnet: self.src.masked(network.subnet_mask6) })
    }
    #[inline(always)]
    fn is_from_here(&self, network: &Network) -> bool {
        self.src.masked(network.subnet_mask6) == network.subnet6
    }
}

/// Decides about the inner packet, whose header is at `at`.
#[inline(always)]
fn admit<'t, P: Packet, T: Tables, I: Inner>(
    packet: &P,
    tables: &'t T,
    around: &Around,
    ip: &I,
    at: usize,
) -> Result<Arrival<'t>, Verdict> {
    let receiver = ip.receiver(tables);
    let network = permitted(tables, &around.vtep, ip, receiver)?;
    let room = packet.len() - at as u32;
    let gso_size = packet.gso_size();
    let total_len = ip.total_len();
    if !ip.is_sane() || (gso_size == 0 && (total_len < ip.header_len() || total_len > room)) {
        return Err(Verdict::UplinkMalformed);
    }
    if around.marked && !packet.checksum_verified() {
        return Err(Verdict::UplinkOuterChecksum);
    }
    let Some(to) = receiver else { return Err(Verdict::UplinkNotContainer) };
    // The VXLAN device takes only frames to its own address.
    let own_mac = match around.outer {
        Family::V4 => network.vtep_mac,
        Family::V6 => network.vtep_mac6,
    };
    if around.dst_mac != own_mac {
        return Err(Verdict::UplinkOtherMac);
    }
    if ip.is_fragment() {
        return Err(Verdict::UplinkInnerFragment);
    }
    if !ip.is_plain() {
        return Err(Verdict::UplinkInnerOptions);
    }
    if ip.life() <= 1 {
        return Err(Verdict::UplinkTtl);
    }
    // Several segments in one must be inner TCP: the tunnel's GSO type stays after a pop, and UDP segments with it are
    // lost (seen on 6.18). Several whole VXLAN packets in one (rx-udp-gro-forwarding) say so by the first one's length.
    if gso_size != 0 && (ip.proto() != PROTO_TCP || total_len != room) {
        return Err(Verdict::UplinkGsoNotTcp);
    }
    let class = ecn::leave(ip.class(), around.outer_class).ok_or(Verdict::UplinkEcn)?;
    let class = if class == ip.class() { None } else { Some(class) };
    Ok(Arrival { to, network, outer: around.outer, inner: I::FAMILY, class })
}

/// The network that the packet comes through, if its sender may send from the inner source.
#[inline(always)]
fn permitted<'t, T: Tables, I: Inner>(
    tables: &'t T,
    vtep: &VtepKey,
    ip: &I,
    receiver: Option<&Endpoint>,
) -> Result<&'t Network, Verdict> {
    // Most packets are for a container here, whose row says the network without a look at who the sender is.
    if let Some(to) = receiver
        && let Some(network) = tables.network(to.network)
        && network.vni == vtep.vni
        && let Some(peer) = ip.origin(tables, to.network, network)
        && peer.outer == vtep.outer
    {
        return Ok(network);
    }
    let number = known(tables, vtep)?;
    let network = tables.network(number).ok_or(Verdict::UplinkOtherVni)?;
    match ip.origin(tables, number, network) {
        Some(peer) if peer.outer == vtep.outer => {}
        // Also from a peer, but another one.
        Some(_) => return Err(Verdict::UplinkSpoofed),
        None if ip.is_from_here(network) => return Err(Verdict::UplinkSpoofed),
        None => return Err(Verdict::UplinkOtherSource),
    }
    match receiver {
        Some(to) if to.network != number => Err(Verdict::UplinkOtherNetwork),
        _ => Ok(network),
    }
}

/// The network in which the sender is a peer.
#[inline(always)]
fn known<T: Tables>(tables: &T, vtep: &VtepKey) -> Result<u32, Verdict> {
    match tables.vtep(vtep) {
        Some(row) => Ok(row.network),
        None if tables.vtep(&VtepKey::own(vtep.vni)).is_some() => Err(Verdict::UplinkUnknownPeer),
        None => Err(Verdict::UplinkOtherVni),
    }
}

#[cfg(test)]
#[path = "uplink_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "uplink6_tests.rs"]
mod tests6;
