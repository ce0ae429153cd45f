//! IPv6 from a container.

use weft_abi::maps::{PROTO_TCP, PROTO_UDP};
use weft_abi::{Be16, Config, PeerKey6, Verdict};

use super::{Next, Outgoing, has_overlay, here, to_peer};
use crate::chain::{self, Lost, Transport};
use crate::neighbour::{self, is_link_group, is_link_local};
use crate::packet::Packet;
use crate::tables::Tables;
use crate::wire::{Family, Ipv6, eth, ipv6, outer, udp};

/// Decides about an IPv6 packet.
#[inline(always)]
pub(super) fn decide<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Result<Next<'t>, Verdict> {
    let ip = Ipv6::at(packet, eth::LEN).filter(Ipv6::is_sane).ok_or(Verdict::ContainerMalformed)?;
    // As with IPv4; besides, a container speaks from its link-local address, and from none at all, to its link.
    let sender = tables.endpoint6(ip.src).filter(|sender| sender.ifindex == packet.ifindex());
    if sender.is_none() && !is_on_the_link(&ip) {
        return Err(Verdict::ContainerSpoofed);
    }
    let room = packet.len() - eth::LEN as u32;
    let unwritten = ip.is_unwritten() && packet.gso_size() != 0;
    if !unwritten && ip.total_len > room {
        return Err(Verdict::ContainerMalformed);
    }
    let len = if unwritten { room } else { ip.total_len };
    let config = tables.config().ok_or(Verdict::ContainerNoOverlay)?;
    let transport = match ip.next {
        // Nothing to check in it, and it is most of what there is.
        PROTO_TCP => Ok(Transport { proto: PROTO_TCP, at: outer::AFTER_V6 as u32, fragment: false }),
        next => permitted(packet, tables, config, next, eth::LEN as u32 + len),
    };
    let extended = match &transport {
        Ok(transport) if transport.fragment => Some(Verdict::ContainerFragment),
        Ok(transport) if transport.is_plain() => None,
        Ok(_) => Some(Verdict::ContainerOptions),
        Err(Verdict::ContainerFragment) => Some(Verdict::ContainerFragment),
        Err(verdict) => return Err(*verdict),
    };
    if !packet.to_us() {
        return Err(Verdict::ContainerNotToUs);
    }
    let sender = sender.ok_or(Verdict::ContainerElsewhere)?;
    let network = tables.network(sender.network).ok_or(Verdict::ContainerNoOverlay)?;
    let subnet = ip.dst.masked(network.subnet_mask6);
    if ip.dst.masked(network.network_mask6) == network.network6
        && subnet != network.subnet6
        && let Some(peer) = tables.peer6(&PeerKey6 { network: sender.network, subnet })
    {
        if !has_overlay(config, peer) {
            return Err(Verdict::ContainerNoOverlay);
        }
        plain(&ip, extended)?;
        let (class, proto) = (ip.class(), ip.next);
        let out = Outgoing { family: Family::V6, header_len: ipv6::LEN as u32, proto, class, len: room };
        return to_peer(packet, config, network, peer, &out);
    }
    let next = here(tables, sender.network, Family::V6, tables.endpoint6(ip.dst), ip.dst)?;
    plain(&ip, extended)?;
    Ok(next)
}

/// Whether a packet without an address of a container's is one of those that a link cannot do without.
#[inline(always)]
fn is_on_the_link(ip: &Ipv6) -> bool {
    if ip.src.is_zero() {
        // Duplicate address detection (RFC 4862) and its multicast reports.
        is_link_group(ip.dst)
    } else {
        is_link_local(ip.src) && (is_link_local(ip.dst) || is_link_group(ip.dst))
    }
}

/// The transport header, if it is nothing that a container must not send.
///
/// # Errors
/// `ContainerFragment` if there is none to be seen and none is needed; else why the packet is dropped.
#[inline(always)]
fn permitted<P: Packet, T: Tables>(packet: &P, tables: &T, config: &Config, next: u8, end: u32) -> Result<Transport, Verdict> {
    let found = chain::follow(packet, next, end).map_err(|lost| match lost {
        Lost::LaterFragment => Verdict::ContainerFragment,
        Lost::Hidden => Verdict::ContainerHidden,
        Lost::Short => Verdict::ContainerMalformed,
    })?;
    match found.proto {
        PROTO_UDP => {
            let short = if found.fragment { Verdict::ContainerHidden } else { Verdict::ContainerMalformed };
            if found.at + udp::LEN as u32 > end {
                return Err(short);
            }
            let port = packet.load::<2>(found.at + udp::DST as u32).map(Be16::from_bytes).ok_or(short)?;
            if config.is_overlay_port(port) {
                return Err(Verdict::ContainerInjects);
            }
        }
        ipv6::ICMP => neighbour::discovery(packet, tables, found.at, end)?,
        _ => {}
    }
    Ok(found)
}

/// Nothing that only the stack handles: fragments, extension headers, a hop limit that ends here.
#[inline(always)]
fn plain(ip: &Ipv6, extended: Option<Verdict>) -> Result<(), Verdict> {
    if let Some(verdict) = extended {
        return Err(verdict);
    }
    if ip.hop_limit <= 1 {
        return Err(Verdict::ContainerTtl);
    }
    Ok(())
}
