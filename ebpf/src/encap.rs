//! Writing the outer headers: Ethernet, IPv4, UDP, VXLAN, inner Ethernet.
//!
//! The kernel has made room (`bpf_skb_adjust_room`) between the Ethernet header and the inner IPv4 header; everything in
//! between is written here. The addresses of the outer Ethernet header are left to the neighbour table
//! (`bpf_redirect_neigh`).

use weft_abi::maps::PROTO_UDP;
use weft_abi::{Be16, Be32, ENCAP_OVERHEAD};

use crate::checksum;
use crate::container::Remote;
use crate::deliver::age;
use crate::packet::Packet;
use crate::wire::{eth, ipv4, outer, source_port, udp, vni_word, vxlan};

/// The outer TTL, as Linux gives to what it sends itself (`net.ipv4.ip_default_ttl`).
const TTL: u8 = 64;

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The inner packet's flow hash.
    pub flow_hash: u32,
    /// The outer identification. DF is clear, as on a kernel VXLAN device by default, so that routers on the way may
    /// fragment: packets that may be on the way together should differ in it (RFC 6864).
    pub id: u16,
}

/// Writes all headers around the inner packet, with `from` as the outer source, and takes one from its TTL.
///
/// `None` if the packet is too short to hold them, which cannot be after room was made.
#[inline(always)]
#[must_use]
pub fn write<P: Packet>(packet: &mut P, from: Be32, to: &Remote<'_>, stamp: Stamp) -> Option<()> {
    let (network, dst) = (to.network, to.peer.outer.last());
    let mut w = packet.head::<{ outer::INNER_END }>()?;
    // `decide` proved that these fit 16 bits.
    let ip_len = (to.inner_len + ENCAP_OVERHEAD) as u16;
    let udp_len = ip_len - ipv4::LEN as u16;

    w.set_be16::<{ eth::TYPE }>(eth::IPV4);

    let first = u16::from(ipv4::PLAIN) << 8 | u16::from(to.tos);
    let life = u16::from(TTL) << 8 | u16::from(PROTO_UDP);
    let sum = u32::from(first) + u32::from(ip_len) + u32::from(stamp.id) + u32::from(life) + halves(from) + halves(dst);
    w.set_be16::<{ outer::IP + ipv4::VERSION_IHL }>(Be16::from_native(first));
    w.set_be16::<{ outer::IP + ipv4::TOTAL_LEN }>(Be16::from_native(ip_len));
    w.set_be16::<{ outer::IP + ipv4::ID }>(Be16::from_native(stamp.id));
    w.set_be16::<{ outer::IP + ipv4::FRAGMENT }>(Be16::from_native(0));
    w.set_be16::<{ outer::IP + ipv4::TTL }>(Be16::from_native(life));
    w.set_be16::<{ outer::IP + ipv4::CHECKSUM }>(Be16::from_native(checksum::finish(sum)));
    w.set_be32::<{ outer::IP + ipv4::SRC }>(from);
    w.set_be32::<{ outer::IP + ipv4::DST }>(dst);

    w.set_be16::<{ outer::UDP + udp::SRC }>(source_port(stamp.flow_hash));
    w.set_be16::<{ outer::UDP + udp::DST }>(network.port);
    w.set_be16::<{ outer::UDP + udp::TOTAL_LEN }>(Be16::from_native(udp_len));
    // None (RFC 7348 section 4.1): the inner packet has its own.
    w.set_be16::<{ outer::UDP + udp::CHECKSUM }>(Be16::from_native(0));

    w.set_be32::<{ outer::VXLAN + vxlan::FLAGS }>(vxlan::HAS_VNI);
    w.set_be32::<{ outer::VXLAN + vxlan::VNI }>(vni_word(network.vni));

    w.set_mac::<{ outer::INNER_ETH + eth::DST }>(to.peer.mac);
    w.set_mac::<{ outer::INNER_ETH + eth::SRC }>(network.vtep_mac);
    w.set_be16::<{ outer::INNER_ETH + eth::TYPE }>(eth::IPV4);

    age::<{ outer::INNER_END }, { outer::INNER_IP + ipv4::TTL }, { outer::INNER_IP + ipv4::CHECKSUM }>(&mut w);
    Some(())
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
    use crate::testing::{World, checksum_holds, make_room, udp_packet};

    #[test]
    fn the_outer_headers_are_those_of_rfc_7348() {
        let world = World::host(1);
        let inner = udp_packet().tos(0xb9).ttl(64).build();
        let peer = world.peer_row(2);
        let to = Remote { peer: &peer, network: &world.network, tos: 0xb9, inner_len: inner.len() as u32 - 14 };
        let mut packet = Bytes::new(make_room(&inner), 1);
        write(&mut packet, world.config.vtep, &to, Stamp { flow_hash: 0xdead_beef, id: 0x1234 }).unwrap();
        let b = &packet.bytes;
        assert_eq!(b[12..14], [8, 0]);
        let ip = &b[14..34];
        assert!(checksum_holds(ip));
        assert_eq!(ip[..2], [0x45, 0xb9], "the traffic class is the inner one");
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), b.len() - 14);
        assert_eq!(ip[4..8], [0x12, 0x34, 0, 0], "id, DF clear");
        assert_eq!(ip[8..10], [64, 17]);
        assert_eq!(ip[12..16], world.config.vtep.to_bytes());
        assert_eq!(ip[16..20], to.peer.outer.last().to_bytes());
        let udp = &b[34..42];
        assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 49152);
        assert_eq!(udp[2..4], 8472_u16.to_be_bytes());
        assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), b.len() - 34);
        assert_eq!(udp[6..8], [0, 0]);
        assert_eq!(b[42..50], [8, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(b[50..56], to.peer.mac);
        assert_eq!(b[56..62], world.network.vtep_mac);
        assert_eq!(b[62..64], [8, 0]);
        assert_eq!(b[72], 63);
        assert!(checksum_holds(&b[64..84]));
        assert_eq!(b[84..], inner[34..]);
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
        let peer = world.peer_row(2);
        let to = Remote { peer: &peer, network: &world.network, tos: 0, inner_len: 34 };
        let mut packet = Bytes::new(vec![0; 83], 1);
        assert_eq!(write(&mut packet, world.config.vtep, &to, Stamp { flow_hash: 0, id: 0 }), None);
    }
}
