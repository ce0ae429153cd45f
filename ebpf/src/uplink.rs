//! What arrives at the uplink: which of it is overlay for a container here, and who may have sent it.
//!
//! The order of the checks is the promise: what is dropped came to this host's overlay address and port, and is cut short,
//! or is of our VNI and from someone who may not send it. Everything else that is not understood goes to the stack as it
//! came.

use weft_abi::maps::{PROTO_TCP, PROTO_UDP};
use weft_abi::{Be32, Be128, Config, ENCAP_OVERHEAD, Endpoint, Network, Peer, PeerKey, Verdict, Vtep, VtepKey};

use crate::ecn;
use crate::packet::Packet;
use crate::wire::{Ipv4, eth, ipv4, outer, udp, vxlan};

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
    /// Who sends from an outer address with a VNI, if it is a peer.
    fn vtep(&self, key: &VtepKey) -> Option<&Vtep>;
}

/// A packet whose outer headers come off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'t> {
    /// The container it is for.
    pub to: &'t Endpoint,
    /// The network it comes through.
    pub network: &'t Network,
    /// The inner traffic class, if congestion on the way changes it.
    pub tos: Option<u8>,
}

/// Decides about a packet from the uplink.
///
/// # Errors
/// The verdict, when the packet does not take the fast path: handed to the stack as it is, or dropped.
#[inline(always)]
pub fn decide<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Arrival<'t>, Verdict> {
    let config = tables.config().ok_or(Verdict::UplinkNotOverlay)?;
    let outer_ip = overlay(packet, config)?;

    if packet.len() < outer::INNER_IP as u32 {
        return Err(Verdict::UplinkMalformed);
    }
    let (marked, vni, inner_type) = {
        let Some(w) = packet.head::<{ outer::INNER_IP }>() else { return Err(Verdict::UplinkMalformed) };
        let checksum = w.be16::<{ outer::UDP + udp::CHECKSUM }>();
        let flags = w.be32::<{ outer::VXLAN + vxlan::FLAGS }>();
        let vni = w.be32::<{ outer::VXLAN + vxlan::VNI }>();
        // RFC 7348: the other flags are ignored on receipt, and so are the last eight bits of the VNI's word.
        if flags.bits() & vxlan::HAS_VNI.bits() == 0 {
            return Err(Verdict::UplinkOtherVni);
        }
        (checksum.bits() != 0, vni.to_native() >> 8, w.be16::<{ outer::INNER_ETH + eth::TYPE }>())
    };
    let vtep = VtepKey { vni, outer: Be128::mapped(outer_ip.src) };
    if inner_type != eth::IPV4 {
        known(tables, &vtep)?;
        return Err(Verdict::UplinkInnerNotIpv4);
    }
    let (ip, dst_mac) = {
        let Some(w) = packet.head::<{ outer::INNER_END }>() else { return Err(Verdict::UplinkMalformed) };
        (Ipv4::inner(&w), w.mac::<{ outer::INNER_ETH + eth::DST }>())
    };
    // Most packets are for a container here, whose row says the network without asking who the sender is.
    let receiver = tables.endpoint(ip.dst);
    let network = match receiver.and_then(|to| Some((to.network, tables.network(to.network)?))) {
        Some((number, network)) if network.vni == vni && from_its_own(tables, number, network, outer_ip.src, ip.src) => network,
        _ => {
            let number = known(tables, &vtep)?;
            let network = tables.network(number).ok_or(Verdict::UplinkOtherVni)?;
            sender(tables, number, network, outer_ip.src, ip.src)?;
            if receiver.is_some_and(|to| to.network != number) {
                return Err(Verdict::UplinkOtherNetwork);
            }
            network
        }
    };

    let room = packet.len() - outer::INNER_IP as u32;
    let gso_size = packet.gso_size();
    if !ip.is_sane() || (gso_size == 0 && (ip.total_len < ip.header_len() || ip.total_len > room)) {
        return Err(Verdict::UplinkMalformed);
    }
    if marked && !packet.checksum_verified() {
        return Err(Verdict::UplinkOuterChecksum);
    }
    let Some(to) = receiver else { return Err(Verdict::UplinkNotContainer) };
    if dst_mac != network.vtep_mac {
        // The VXLAN device takes only frames to its own address.
        return Err(Verdict::UplinkOtherMac);
    }
    if ip.is_fragment() {
        return Err(Verdict::UplinkInnerFragment);
    }
    if !ip.is_plain() {
        return Err(Verdict::UplinkInnerOptions);
    }
    if ip.ttl <= 1 {
        return Err(Verdict::UplinkTtl);
    }
    // Several segments in one must be inner TCP: the tunnel's GSO type stays after a pop, and UDP segments with it are
    // lost (seen on 6.18). Several whole VXLAN packets in one (rx-udp-gro-forwarding) say so by the first one's length.
    if gso_size != 0 && (ip.proto != PROTO_TCP || ip.total_len != room) {
        return Err(Verdict::UplinkGsoNotTcp);
    }
    let tos = ecn::leave(ip.tos, outer_ip.tos).ok_or(Verdict::UplinkEcn)?;
    Ok(Arrival { to, network, tos: if tos == ip.tos { None } else { Some(tos) } })
}

/// The outer IPv4 header of what is UDP to our own address and port.
#[inline(always)]
fn overlay<P: Packet>(packet: &mut P, config: &Config) -> Result<Ipv4, Verdict> {
    let other = Err(Verdict::UplinkNotOverlay);
    if config.vtep.is_zero() || packet.tagged() || !packet.to_us() {
        return other;
    }
    let ip = {
        let Some(w) = packet.head::<{ eth::LEN + ipv4::LEN }>() else { return other };
        if w.be16::<{ eth::TYPE }>() != eth::IPV4 {
            return other;
        }
        Ipv4::first(&w)
    };
    if !ip.is_sane() || ip.proto != PROTO_UDP || ip.dst != config.vtep {
        return other;
    }
    if ip.is_fragment() {
        // Later fragments have no ports to tell whose they are; the stack puts them together.
        return Err(Verdict::UplinkOuterFragment);
    }
    if !ip.is_plain() {
        return Err(Verdict::UplinkOuterOptions);
    }
    let Some(w) = packet.head::<{ outer::VXLAN }>() else { return other };
    if !config.is_overlay_port(w.be16::<{ outer::UDP + udp::DST }>()) {
        return other;
    }
    // What the headers say must be in the packet, and cover at least the headers that are popped.
    let udp_len = u32::from(w.be16::<{ outer::UDP + udp::TOTAL_LEN }>().to_native());
    let room = packet.len() - eth::LEN as u32;
    let unwritten = packet.gso_size() != 0 && ip.total_len == 0;
    if !unwritten && (ip.total_len > room || ip.total_len < ENCAP_OVERHEAD || udp_len + ipv4::LEN as u32 > ip.total_len) {
        return Err(Verdict::UplinkMalformed);
    }
    Ok(ip)
}

/// Whether the host at `outer` holds the subnet that `inner` is in.
#[inline(always)]
fn from_its_own<T: Tables>(tables: &T, number: u32, network: &Network, outer: Be32, inner: Be32) -> bool {
    let key = PeerKey { network: number, subnet: inner.masked(network.subnet_mask) };
    tables.peer(&key).is_some_and(|peer| peer.outer == Be128::mapped(outer))
}

/// Whether a peer at `outer` may send from `inner`.
#[inline(always)]
fn sender<T: Tables>(tables: &T, number: u32, network: &Network, outer: Be32, inner: Be32) -> Result<(), Verdict> {
    let subnet = inner.masked(network.subnet_mask);
    match tables.peer(&PeerKey { network: number, subnet }) {
        Some(peer) if peer.outer == Be128::mapped(outer) => Ok(()),
        // Also from a peer, but another one.
        Some(_) => Err(Verdict::UplinkSpoofed),
        None if subnet == network.subnet => Err(Verdict::UplinkSpoofed),
        None => Err(Verdict::UplinkOtherSource),
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
