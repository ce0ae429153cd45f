//! Handing a bare packet to a container of this host: one hop of forwarding.

use weft_abi::{Be16, Mac};

use crate::checksum;
use crate::packet::{Packet, Window};
use crate::wire::{eth, ipv4, outer};

/// What the container's device is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// The container's Ethernet address.
    pub to: Mac,
    /// An Ethernet address of this host.
    pub from: Mac,
    /// The traffic class, if it changes.
    pub tos: Option<u8>,
}

/// Rewrites the Ethernet header, takes one from the TTL, and writes the traffic class.
///
/// The packet is Ethernet and IPv4 with a TTL above 1; `None` if it is shorter than that.
#[inline(always)]
#[must_use]
pub fn hand_over<P: Packet>(packet: &mut P, how: &HandOver) -> Option<()> {
    let mut w = packet.head::<{ eth::LEN + ipv4::LEN }>()?;
    w.set_mac::<{ eth::DST }>(how.to);
    w.set_mac::<{ eth::SRC }>(how.from);
    w.set_be16::<{ eth::TYPE }>(eth::IPV4);
    if let Some(tos) = how.tos {
        set_tos(&mut w, tos);
    }
    age::<{ eth::LEN + ipv4::LEN }, { outer::IP + ipv4::TTL }, { outer::IP + ipv4::CHECKSUM }>(&mut w);
    Some(())
}

/// Takes one from the TTL at `TTL` and mends the header checksum at `CHECKSUM`.
#[inline(always)]
pub(crate) fn age<const N: usize, const TTL: usize, const CHECKSUM: usize>(w: &mut Window<'_, N>) {
    let old = w.be16::<TTL>().to_native();
    // TTL is the upper byte of its word, so this cannot borrow from it unless it is 0; callers proved more than 1.
    let new = old.wrapping_sub(0x0100);
    let sum = checksum::replace(w.be16::<CHECKSUM>().to_native(), old, new);
    w.set_be16::<TTL>(Be16::from_native(new));
    w.set_be16::<CHECKSUM>(Be16::from_native(sum));
}

#[inline(always)]
fn set_tos(w: &mut Window<'_, { eth::LEN + ipv4::LEN }>, tos: u8) {
    let old = w.be16::<{ outer::IP }>().to_native();
    let new = old & 0xff00 | u16::from(tos);
    let sum = checksum::replace(w.be16::<{ outer::IP + ipv4::CHECKSUM }>().to_native(), old, new);
    w.set_be16::<{ outer::IP }>(Be16::from_native(new));
    w.set_be16::<{ outer::IP + ipv4::CHECKSUM }>(Be16::from_native(sum));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::Bytes;
    use crate::testing::{checksum_holds, udp_packet};

    const HOW: HandOver = HandOver { to: [2, 0, 0, 0, 0, 9], from: [2, 0, 0, 0, 0, 1], tos: None };

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
    fn a_changed_traffic_class_keeps_the_checksum() {
        for tos in 0..=255 {
            let mut packet = Bytes::new(udp_packet().tos(0xb8).build(), 1);
            hand_over(&mut packet, &HandOver { tos: Some(tos), ..HOW }).unwrap();
            assert_eq!(packet.bytes[15], tos);
            assert!(checksum_holds(&packet.bytes[14..34]), "tos {tos}");
        }
    }

    #[test]
    fn a_packet_without_room_for_the_headers_is_left_alone() {
        let whole = udp_packet().build();
        for len in 0..34 {
            let mut packet = Bytes::new(whole[..len].to_vec(), 1);
            assert_eq!(hand_over(&mut packet, &HOW), None);
            assert_eq!(packet.bytes, whole[..len]);
        }
    }
}
