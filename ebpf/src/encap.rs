//! Writing the outer headers: Ethernet, IPv4 or IPv6, UDP, VXLAN, inner Ethernet.
//!
//! The kernel has made room (`bpf_skb_adjust_room`) between the Ethernet header and the inner IP header; everything in
//! between is written here. The addresses of the outer Ethernet header are left to the neighbour table
//! (`bpf_redirect_neigh`).

use weft_abi::maps::PROTO_UDP;
use weft_abi::{Be16, Be32, Config, ENCAP_OVERHEAD};

use crate::checksum;
use crate::container::Remote;
use crate::deliver::age;
use crate::packet::{Packet, Window};
use crate::wire::{Family, eth, ipv4, ipv6, outer, source_port, tunnel, udp, vni_word, vxlan};

/// The outer TTL or hop limit, as Linux gives to what it sends itself (`net.ipv4.ip_default_ttl`).
const TTL: u8 = 64;

/// UDP, VXLAN and inner Ethernet, and as much of the inner IP header as is changed.
const TUNNEL_LEN: usize = tunnel::INNER_IP + ipv4::LEN;

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The inner packet's flow hash.
    pub flow_hash: u32,
    /// The outer identification, over IPv4. DF is clear, as on a kernel VXLAN device by default, so that routers on the way
    /// may fragment: packets that may be on the way together should differ in it (RFC 6864).
    pub id: u16,
}

/// Writes all headers around the inner packet, of the family that the peer is reached by, and takes one from its TTL.
///
/// `None` if the packet is too short to hold them, which cannot be after room was made.
#[inline(always)]
#[must_use]
pub fn write<P: Packet>(packet: &mut P, config: &Config, to: &Remote<'_>, stamp: Stamp) -> Option<()> {
    // `decide` proved that the lengths fit 16 bits.
    let udp_len = (to.inner_len + (ENCAP_OVERHEAD - ipv4::LEN as u32)) as u16;
    if to.peer.outer_is_v6() {
        let mut w = packet.head::<{ outer::AFTER_V6 + TUNNEL_LEN }>()?;
        over_v6(&mut w.part::<0, { outer::AFTER_V6 }>(), config, to, stamp, udp_len);
        let mac = to.network.vtep_mac6;
        inside(&mut w.part::<{ outer::AFTER_V6 }, TUNNEL_LEN>(), mac, to, stamp, udp_len);
    } else {
        let mut w = packet.head::<{ outer::AFTER_V4 + TUNNEL_LEN }>()?;
        over_v4(&mut w.part::<0, { outer::AFTER_V4 }>(), config, to, stamp, udp_len);
        let mac = to.network.vtep_mac;
        inside(&mut w.part::<{ outer::AFTER_V4 }, TUNNEL_LEN>(), mac, to, stamp, udp_len);
    }
    Some(())
}

/// The outer Ethernet type and the IPv4 header.
#[inline(always)]
fn over_v4(w: &mut Window<'_, { outer::AFTER_V4 }>, config: &Config, to: &Remote<'_>, stamp: Stamp, udp_len: u16) {
    w.set_be16::<{ eth::TYPE }>(eth::IPV4);
    let mut w = w.part::<{ outer::IP }, { ipv4::LEN }>();
    let (src, dst) = (config.vtep, to.peer.outer.last());
    let ip_len = udp_len + ipv4::LEN as u16;
    let first = u16::from(ipv4::PLAIN) << 8 | u16::from(to.class);
    let life = u16::from(TTL) << 8 | u16::from(PROTO_UDP);
    let sum = u32::from(first) + u32::from(ip_len) + u32::from(stamp.id) + u32::from(life) + halves(src) + halves(dst);
    w.set_be16::<{ ipv4::VERSION_IHL }>(Be16::from_native(first));
    w.set_be16::<{ ipv4::TOTAL_LEN }>(Be16::from_native(ip_len));
    w.set_be16::<{ ipv4::ID }>(Be16::from_native(stamp.id));
    w.set_be16::<{ ipv4::FRAGMENT }>(Be16::from_native(0));
    w.set_be16::<{ ipv4::TTL }>(Be16::from_native(life));
    w.set_be16::<{ ipv4::CHECKSUM }>(Be16::from_native(checksum::finish(sum)));
    w.set_be32::<{ ipv4::SRC }>(src);
    w.set_be32::<{ ipv4::DST }>(dst);
}

/// The outer Ethernet type and the IPv6 header.
#[inline(always)]
fn over_v6(w: &mut Window<'_, { outer::AFTER_V6 }>, config: &Config, to: &Remote<'_>, stamp: Stamp, udp_len: u16) {
    w.set_be16::<{ eth::TYPE }>(eth::IPV6);
    let mut w = w.part::<{ outer::IP }, { ipv6::LEN }>();
    // The flow label lets routers spread flows that do not look at ports (RFC 6438). It is never zero.
    let label = stamp.flow_hash & 0x000f_ffff | 1;
    let first = 6 << 28 | u32::from(to.class) << 20 | label;
    w.set_be32::<{ ipv6::VERSION_CLASS }>(Be32::from_native(first));
    w.set_be16::<{ ipv6::PAYLOAD_LEN }>(Be16::from_native(udp_len));
    w.set_be16::<{ ipv6::NEXT }>(Be16::from_native(u16::from(PROTO_UDP) << 8 | u16::from(TTL)));
    w.set_be128::<{ ipv6::SRC }>(config.vtep6);
    w.set_be128::<{ ipv6::DST }>(to.peer.outer);
}

/// What is the same over both families: UDP, VXLAN, inner Ethernet, one hop of the inner packet. `from` is the sending
/// device's address.
#[inline(always)]
fn inside(w: &mut Window<'_, TUNNEL_LEN>, from: weft_abi::Mac, to: &Remote<'_>, stamp: Stamp, udp_len: u16) {
    w.set_be16::<{ tunnel::UDP + udp::SRC }>(source_port(stamp.flow_hash));
    w.set_be16::<{ tunnel::UDP + udp::DST }>(to.network.port);
    w.set_be16::<{ tunnel::UDP + udp::TOTAL_LEN }>(Be16::from_native(udp_len));
    // None (RFC 7348 section 4.1; over IPv6, RFC 6935, with peers that say they take it): the inner packet has its own.
    w.set_be16::<{ tunnel::UDP + udp::CHECKSUM }>(Be16::from_native(0));

    w.set_be32::<{ tunnel::VXLAN + vxlan::FLAGS }>(vxlan::HAS_VNI);
    w.set_be32::<{ tunnel::VXLAN + vxlan::VNI }>(vni_word(to.network.vni));

    w.set_mac::<{ tunnel::INNER_ETH + eth::DST }>(to.peer.mac);
    w.set_mac::<{ tunnel::INNER_ETH + eth::SRC }>(from);
    let kind = match to.family {
        Family::V4 => eth::IPV4,
        Family::V6 => eth::IPV6,
    };
    w.set_be16::<{ tunnel::INNER_ETH + eth::TYPE }>(kind);
    age(&mut w.part::<{ tunnel::INNER_IP }, { ipv4::LEN }>(), to.family);
}

/// An address as two words of a checksum.
#[inline(always)]
fn halves(addr: Be32) -> u32 {
    let native = addr.to_native();
    (native >> 16) + (native & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::Bytes;
    use crate::testing::{FLOW_LABEL, World, checksum_holds, make_room, udp_packet};

    /// Both families inside, both outside.
    const PAIRS: [(Family, Family); 4] =
        [(Family::V4, Family::V4), (Family::V6, Family::V4), (Family::V4, Family::V6), (Family::V6, Family::V6)];

    /// A frame of class 0xb9 and TTL 64 with its outer headers; the frame before.
    fn pushed(inside: Family, outside: Family, stamp: Stamp) -> (Vec<u8>, Vec<u8>) {
        let world = World::host(1);
        let inner = udp_packet().family(inside).tos(0xb9).ttl(64).build();
        let (peer, inner_len) = (world.peer_row(2, outside), inner.len() as u32 - 14);
        let to = Remote { family: inside, peer: &peer, network: &world.network, class: 0xb9, inner_len };
        let mut packet = Bytes::new(make_room(&inner, outside), 1);
        write(&mut packet, &world.config, &to, stamp).unwrap();
        (packet.bytes, inner)
    }

    #[test]
    fn the_outer_ipv4_header_is_as_the_kernels() {
        for inside in [Family::V4, Family::V6] {
            let (b, _) = pushed(inside, Family::V4, Stamp { flow_hash: 0xdead_beef, id: 0x1234 });
            assert_eq!(b[12..14], [8, 0]);
            let ip = &b[14..34];
            assert!(checksum_holds(ip));
            assert_eq!(ip[..2], [0x45, 0xb9], "the traffic class is the inner one");
            assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), b.len() - 14);
            assert_eq!(ip[4..8], [0x12, 0x34, 0, 0], "id, DF clear");
            assert_eq!(ip[8..10], [64, 17]);
            assert_eq!(ip[12..20], [192, 168, 50, 1, 192, 168, 50, 2]);
        }
    }

    #[test]
    fn the_outer_ipv6_header_has_class_label_and_length() {
        for inside in [Family::V4, Family::V6] {
            let (b, _) = pushed(inside, Family::V6, Stamp { flow_hash: 0xdead_beee, id: 0 });
            assert_eq!(b[12..14], [0x86, 0xdd]);
            let ip = &b[14..54];
            let first = u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]);
            assert_eq!((first >> 28, first >> 20 & 0xff, first & 0xf_ffff), (6, 0xb9, 0xd_beef));
            assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])), b.len() - 54);
            assert_eq!(ip[6..8], [17, 64]);
            assert_eq!(ip[8..24], crate::testing::outer(1, Family::V6).to_bytes());
            assert_eq!(ip[24..40], crate::testing::outer(2, Family::V6).to_bytes());
            let (none, _) = pushed(inside, Family::V6, Stamp { flow_hash: 0, id: 0 });
            assert_eq!(none[15..18], [0x90, 0, 1], "a label is never zero");
        }
    }

    #[test]
    fn what_is_inside_is_that_of_rfc_7348() {
        for (inside, outside) in PAIRS {
            let (b, inner) = pushed(inside, outside, Stamp { flow_hash: 0xdead_beef, id: 0x1234 });
            let (at, own, peer) = match outside {
                Family::V4 => (34, crate::testing::vtep_mac(1), crate::testing::vtep_mac(2)),
                Family::V6 => (54, crate::testing::vtep_mac6(1), crate::testing::vtep_mac6(2)),
            };
            let (udp, rest) = b[at..].split_at(8);
            assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 49152);
            assert_eq!(udp[2..4], 8472_u16.to_be_bytes());
            assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), b.len() - at);
            assert_eq!(udp[6..8], [0, 0]);
            assert_eq!(rest[..8], [8, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!((&rest[8..14], &rest[14..20]), (&peer[..], &own[..]));
            assert_eq!(rest[20..22], inner[12..14], "the type is that of the inner packet");
            let (ttl, changed) = match inside {
                Family::V4 => (8, 12),
                Family::V6 => (7, 8),
            };
            assert_eq!(rest[22 + ttl], 63);
            assert!(inside == Family::V6 || checksum_holds(&rest[22..42]));
            assert_eq!(rest[22 + changed..], inner[14 + changed..]);
        }
    }

    #[test]
    fn one_flow_has_one_source_port_and_flows_spread() {
        assert_eq!(source_port(7), source_port(7));
        let ports: std::collections::BTreeSet<_> = (0..1000_u32).map(|h| source_port(h.wrapping_mul(0x9e37_79b1))).collect();
        assert!(ports.len() > 900);
        assert!(ports.iter().all(|p| p.to_native() >= 49152));
    }

    #[test]
    fn a_packet_without_room_is_refused() {
        let world = World::host(1);
        for (inside, outside) in PAIRS {
            let peer = world.peer_row(2, outside);
            let to = Remote { family: inside, peer: &peer, network: &world.network, class: 0, inner_len: 20 };
            let shortest = 34 + crate::testing::overhead(outside);
            let mut packet = Bytes::new(vec![0; shortest - 1], 1);
            assert_eq!(write(&mut packet, &world.config, &to, Stamp { flow_hash: 0, id: 0 }), None);
        }
    }

    #[test]
    fn the_inner_flow_label_stays() {
        let (b, _) = pushed(Family::V6, Family::V4, Stamp { flow_hash: 1, id: 1 });
        assert_eq!(u32::from_be_bytes([b[64], b[65], b[66], b[67]]) & 0xf_ffff, FLOW_LABEL);
    }
}
