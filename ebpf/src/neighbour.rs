//! Who a container may say it is on its link: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).
//!
//! Nothing is answered here. A container's link has one other end, the host, whose address the container has as a permanent
//! neighbour; what it asks and says goes to the host's stack, unless it speaks for somebody else.

use weft_abi::{Be32, Be128, Verdict};

use crate::packet::Packet;
use crate::tables::Tables;
use crate::wire::eth;

/// The gateway's address on every container's link.
pub const GATEWAY: Be128 = Be128::from_words([Be32::from_native(0xfe80_0000), Be32::ZERO, Be32::ZERO, Be32::from_native(1)]);

/// Router solicitation; the first of the five types of neighbour discovery.
const ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour advertisement.
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Redirect; the last of them.
const REDIRECT: u8 = 137;

/// Length of the ARP packet for IPv4 over Ethernet.
const ARP_LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Where the sender's protocol address is in an ARP packet.
const SENDER: usize = 14;

/// Whether the address is good on one link only: fe80::/10.
#[inline(always)]
#[must_use]
pub const fn is_link_local(addr: Be128) -> bool {
    addr.words()[0].to_native() >> 22 == 0xfe80_0000_u32 >> 22
}

/// Whether the address is a multicast group of the link or of the interface: ff01::/16, ff02::/16.
#[inline(always)]
#[must_use]
pub const fn is_link_group(addr: Be128) -> bool {
    matches!(addr.words()[0].to_native() >> 16, 0xff01 | 0xff02)
}

/// An ARP packet from a container's device.
#[inline(always)]
#[must_use]
pub fn arp<P: Packet, T: Tables>(packet: &P, tables: &T) -> Verdict {
    let Some(arp) = packet.load::<ARP_LEN>(eth::LEN as u32) else { return Verdict::ContainerMalformed };
    let [a, b, c, d, e, f, ..] = arp;
    if [a, b, c, d, e, f] != ETHERNET_IPV4 {
        return Verdict::ContainerMalformed;
    }
    let sender = Be32::from_bytes([arp[SENDER], arp[SENDER + 1], arp[SENDER + 2], arp[SENDER + 3]]);
    // Without an address it is a probe (RFC 5227): it claims nothing.
    if sender.is_zero() || tables.endpoint(sender).is_some_and(|own| own.ifindex == packet.ifindex()) {
        Verdict::ContainerNotIpv4
    } else {
        Verdict::ContainerSpoofedArp
    }
}

/// The ICMPv6 message at `at`, of a packet that by its own account ends at `end`. Its source address is known to be good.
///
/// # Errors
/// The verdict, when it is neighbour discovery in another's name, or cut short.
#[inline(always)]
pub fn discovery<P: Packet, T: Tables>(packet: &P, tables: &T, at: u32, end: u32) -> Result<(), Verdict> {
    let kind = if at < end { packet.load::<1>(at) } else { None };
    let [kind] = kind.ok_or(Verdict::ContainerMalformed)?;
    if !(ROUTER_SOLICITATION..=REDIRECT).contains(&kind) {
        return Ok(());
    }
    match kind {
        ROUTER_ADVERTISEMENT | REDIRECT => Err(Verdict::ContainerSpoofedNd),
        NEIGHBOUR_ADVERTISEMENT => {
            let target = if at + 24 <= end { packet.load::<16>(at + 8) } else { None };
            let target = words(target.ok_or(Verdict::ContainerMalformed)?);
            // A link-local address means nothing beyond the link, where only the gateway's is taken.
            let own = if is_link_local(target) {
                target != GATEWAY
            } else {
                tables.endpoint6(target).is_some_and(|own| own.ifindex == packet.ifindex())
            };
            if own { Ok(()) } else { Err(Verdict::ContainerSpoofedNd) }
        }
        // Solicitations ask. What they say of the sender is in the source address.
        _ => Ok(()),
    }
}

#[inline(always)]
fn words(b: [u8; 16]) -> Be128 {
    Be128::from_bytes(b)
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
