//! IPv4 from a container.

use weft_abi::maps::PROTO_UDP;
use weft_abi::{Be16, Be128, PeerKey, Verdict};

use super::{Next, Outgoing, has_overlay, here, to_peer};
use crate::packet::Packet;
use crate::tables::Tables;
use crate::wire::{Family, Ipv4, eth, ipv4, outer, udp};

/// Decides about an IPv4 packet. At least a header without options is there.
#[inline(always)]
pub(super) fn decide<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Next<'t>, Verdict> {
    let ip = Ipv4::at(packet, eth::LEN).filter(Ipv4::is_sane).ok_or(Verdict::ContainerMalformed)?;
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
    // A later fragment does not tell its port, and cannot change it: the header's eight bytes are in the first one.
    if ip.proto == PROTO_UDP && ip.has_transport() {
        if !unwritten && ip.total_len < ip.header_len() + udp::LEN as u32 {
            return Err(Verdict::ContainerMalformed);
        }
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
        if !has_overlay(config, peer) {
            return Err(Verdict::ContainerNoOverlay);
        }
        plain(&ip)?;
        let (class, proto) = (ip.tos, ip.proto);
        let out = Outgoing { family: Family::V4, header_len: ipv4::LEN as u32, proto, class, len: room };
        return to_peer(packet, config, network, peer, &out);
    }
    let next = here(tables, sender.network, Family::V4, tables.endpoint(ip.dst), Be128::mapped(ip.dst))?;
    plain(&ip)?;
    Ok(next)
}

/// The UDP destination port. `None`: the header is cut short.
#[inline(always)]
fn udp_port<P: Packet>(packet: &mut P, ip: &Ipv4) -> Option<Be16> {
    if ip.is_plain()
        && let Some(w) = packet.window::<{ outer::AFTER_V4 + udp::LEN }>(0)
    {
        return Some(w.be16::<{ outer::AFTER_V4 + udp::DST }>());
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
