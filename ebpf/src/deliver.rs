//! Handing a bare packet to a container of this host: one hop of forwarding.

use weft_abi::{Be16, Mac};

use crate::checksum;
use crate::packet::{Packet, Window};
use crate::wire::{Family, eth, ipv4, ipv6};

/// What the container's device is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// What the packet is.
    pub family: Family,
    /// The container's Ethernet address.
    pub to: Mac,
    /// An Ethernet address of this host.
    pub from: Mac,
    /// The traffic class, if it changes.
    pub class: Option<u8>,
}

/// Rewrites the Ethernet header, takes one from the TTL or hop limit, and writes the traffic class.
///
/// The packet is Ethernet and IP with a TTL above 1; `None` if it is shorter than an IPv4 header.
#[inline(always)]
#[must_use]
pub fn hand_over<P: Packet>(packet: &mut P, how: &HandOver) -> Option<()> {
    // An IPv6 header is longer than that, but nothing of the rest is written.
    let mut w = packet.head::<{ eth::LEN + ipv4::LEN }>()?;
    w.set_mac::<{ eth::DST }>(how.to);
    w.set_mac::<{ eth::SRC }>(how.from);
    let kind = match how.family {
        Family::V4 => eth::IPV4,
        Family::V6 => eth::IPV6,
    };
    w.set_be16::<{ eth::TYPE }>(kind);
    let mut ip = w.part::<{ eth::LEN }, { ipv4::LEN }>();
    if let Some(class) = how.class {
        set_class(&mut ip, how.family, class);
    }
    age(&mut ip, how.family);
    Some(())
}

/// Takes one from the TTL of the IP header that the window begins with, and mends an IPv4 header's checksum.
#[inline(always)]
pub(crate) fn age(w: &mut Window<'_, { ipv4::LEN }>, family: Family) {
    match family {
        Family::V4 => {
            let old = w.be16::<{ ipv4::TTL }>().to_native();
            // TTL is the upper byte of its word, so this cannot borrow from it unless it is 0; callers proved more than 1.
            let new = old.wrapping_sub(0x0100);
            let sum = checksum::replace(w.be16::<{ ipv4::CHECKSUM }>().to_native(), old, new);
            w.set_be16::<{ ipv4::TTL }>(Be16::from_native(new));
            w.set_be16::<{ ipv4::CHECKSUM }>(Be16::from_native(sum));
        }
        Family::V6 => {
            let old = w.byte::<{ ipv6::HOP_LIMIT }>();
            w.set_byte::<{ ipv6::HOP_LIMIT }>(old.wrapping_sub(1));
        }
    }
}

#[inline(always)]
fn set_class(w: &mut Window<'_, { ipv4::LEN }>, family: Family, class: u8) {
    let old = w.be16::<0>().to_native();
    match family {
        Family::V4 => {
            let new = old & 0xff00 | u16::from(class);
            let sum = checksum::replace(w.be16::<{ ipv4::CHECKSUM }>().to_native(), old, new);
            w.set_be16::<0>(Be16::from_native(new));
            w.set_be16::<{ ipv4::CHECKSUM }>(Be16::from_native(sum));
        }
        Family::V6 => w.set_be16::<0>(Be16::from_native(old & 0xf00f | u16::from(class) << 4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::Bytes;
    use crate::testing::{checksum_holds, udp_packet};

    const HOW: HandOver = HandOver { family: Family::V4, to: [2, 0, 0, 0, 0, 9], from: [2, 0, 0, 0, 0, 1], class: None };
    const HOW6: HandOver = HandOver { family: Family::V6, ..HOW };

    #[test]
    fn one_hop_costs_one_ttl_and_the_checksum_holds() {
        for ttl in 2..=255 {
            let before = udp_packet().ttl(ttl).build();
            let mut packet = Bytes::new(before.clone(), 1);
            hand_over(&mut packet, &HOW).unwrap();
            assert_eq!(packet.bytes[..6], HOW.to);
            assert_eq!(packet.bytes[6..12], HOW.from);
            assert_eq!(packet.bytes[22], ttl - 1);
            assert!(checksum_holds(&packet.bytes[14..34]), "ttl {ttl}");
            assert_eq!(packet.bytes[34..], before[34..], "the payload is not touched");
        }
    }

    #[test]
    fn one_hop_costs_one_of_the_hop_limit_and_nothing_else() {
        for limit in 2..=255 {
            let before = udp_packet().v6().ttl(limit).build();
            let mut packet = Bytes::new(before.clone(), 1);
            hand_over(&mut packet, &HOW6).unwrap();
            assert_eq!(packet.bytes[..12], [HOW.to, HOW.from].concat());
            assert_eq!(packet.bytes[21], limit - 1);
            packet.bytes[21] = limit;
            assert_eq!(packet.bytes[12..], before[12..]);
        }
    }

    #[test]
    fn a_changed_traffic_class_keeps_the_checksum() {
        for class in 0..=255 {
            let mut packet = Bytes::new(udp_packet().tos(0xb8).build(), 1);
            hand_over(&mut packet, &HandOver { class: Some(class), ..HOW }).unwrap();
            assert_eq!(packet.bytes[15], class);
            assert!(checksum_holds(&packet.bytes[14..34]), "class {class}");
        }
    }

    #[test]
    fn a_changed_traffic_class_leaves_version_and_flow_label() {
        for class in 0..=255_u8 {
            let mut packet = Bytes::new(udp_packet().v6().tos(0xb8).build(), 1);
            hand_over(&mut packet, &HandOver { class: Some(class), ..HOW6 }).unwrap();
            let label = crate::testing::FLOW_LABEL;
            let want = 6 << 28 | u32::from(class) << 20 | label;
            assert_eq!(packet.bytes[14..18], want.to_be_bytes());
        }
    }

    #[test]
    fn a_packet_without_room_for_the_headers_is_left_alone() {
        for (whole, how) in [(udp_packet().build(), HOW), (udp_packet().v6().build(), HOW6)] {
            for len in 0..34 {
                let mut packet = Bytes::new(whole[..len].to_vec(), 1);
                assert_eq!(hand_over(&mut packet, &how), None);
                assert_eq!(packet.bytes, whole[..len]);
            }
        }
    }
}
