//! What arrives at the uplink: which of it is overlay for a container here, and who may have sent it.
//!
//! The order of the checks is the promise: what is dropped came to this host's overlay address and port, and is cut short,
//! or is of our VNI and from someone who may not send it. Everything else that is not understood goes to the stack as it
//! came.

use weft_abi::maps::{PROTO_TCP, PROTO_UDP};
use weft_abi::{Be32, Config, ENCAP_OVERHEAD, Endpoint, Peer, Verdict};

use crate::ecn;
use crate::packet::Packet;
use crate::wire::{Ipv4, eth, ipv4, outer, udp, vni_word, vxlan};

/// The rows that are needed.
pub trait Tables {
    /// The one row of configuration.
    fn config(&self) -> Option<&Config>;
    /// The container that has the address.
    fn endpoint(&self, addr: Be32) -> Option<Endpoint>;
    /// The host that holds the subnet.
    fn peer(&self, subnet: Be32) -> Option<Peer>;
    /// Whether the outer address is a peer's.
    fn is_vtep(&self, addr: Be32) -> bool;
}

/// A packet whose outer headers come off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The container it is for.
    pub to: Endpoint,
    /// The inner traffic class, if congestion on the way changes it.
    pub tos: Option<u8>,
}

/// Decides about a packet from the uplink.
///
/// # Errors
/// The verdict, when the packet does not take the fast path: handed to the stack as it is, or dropped.
#[inline(always)]
pub fn decide<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Arrival, Verdict> {
    let config = tables.config().ok_or(Verdict::UplinkNotOverlay)?;
    let outer_ip = overlay(packet, config)?;

    if packet.len() < outer::INNER_IP as u32 {
        return Err(Verdict::UplinkMalformed);
    }
    let (marked, inner_type) = {
        let Some(w) = packet.head::<{ outer::INNER_IP }>() else { return Err(Verdict::UplinkMalformed) };
        let checksum = w.be16::<{ outer::UDP + udp::CHECKSUM }>();
        let flags = w.be32::<{ outer::VXLAN + vxlan::FLAGS }>();
        let vni = w.be32::<{ outer::VXLAN + vxlan::VNI }>();
        // RFC 7348: the other flags are ignored on receipt, and so are the last eight bits of the VNI's word.
        if flags.bits() & vxlan::HAS_VNI.bits() == 0 || vni.masked(vni_word(0x00ff_ffff)) != vni_word(config.vni) {
            return Err(Verdict::UplinkOtherVni);
        }
        (checksum.bits() != 0, w.be16::<{ outer::INNER_ETH + eth::TYPE }>())
    };
    if inner_type != eth::IPV4 {
        return Err(known(tables, outer_ip.src, Verdict::UplinkInnerNotIpv4));
    }
    let (ip, dst_mac) = {
        let Some(w) = packet.head::<{ outer::INNER_END }>() else { return Err(Verdict::UplinkMalformed) };
        (Ipv4::inner(&w), w.mac::<{ outer::INNER_ETH + eth::DST }>())
    };
    sender(tables, config, outer_ip.src, ip.src)?;

    let room = packet.len() - outer::INNER_IP as u32;
    let gso_size = packet.gso_size();
    if !ip.is_sane() || (gso_size == 0 && (ip.total_len < ip.header_len() || ip.total_len > room)) {
        return Err(Verdict::UplinkMalformed);
    }
    if marked && !packet.checksum_verified() {
        return Err(Verdict::UplinkOuterChecksum);
    }
    let Some(to) = tables.endpoint(ip.dst) else { return Err(Verdict::UplinkNotContainer) };
    if dst_mac != config.vtep_mac {
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
    Ok(Arrival { to, tos: if tos == ip.tos { None } else { Some(tos) } })
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
    if w.be16::<{ outer::UDP + udp::DST }>() != config.port {
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

/// Whether the host at `outer` may send from `inner`.
#[inline(always)]
fn sender<T: Tables>(tables: &T, config: &Config, outer: Be32, inner: Be32) -> Result<(), Verdict> {
    let subnet = inner.masked(config.subnet_mask);
    match tables.peer(subnet) {
        Some(peer) if peer.vtep == outer => Ok(()),
        // Also from a peer, but another one.
        Some(_) => Err(known(tables, outer, Verdict::UplinkSpoofed)),
        None if subnet == config.subnet => Err(known(tables, outer, Verdict::UplinkSpoofed)),
        None => Err(known(tables, outer, Verdict::UplinkOtherSource)),
    }
}

/// The verdict, if the sender is any peer at all.
#[inline(always)]
fn known<T: Tables>(tables: &T, outer: Be32, verdict: Verdict) -> Verdict {
    if tables.is_vtep(outer) { verdict } else { Verdict::UplinkUnknownPeer }
}

#[cfg(test)]
#[path = "uplink_tests.rs"]
mod tests;
