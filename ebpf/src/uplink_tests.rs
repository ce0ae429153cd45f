//! What happens to everything that can arrive, and a packet's life across two hosts.

use weft_abi::Be32;

use super::*;
use crate::deliver::{HandOver, hand_over};
use crate::packet::testing::Bytes;
use crate::testing::{
    Frame, World, arrive, checksum_holds, container_mac, ip, on_the_wire, take_room, tcp_packet, udp_packet, vtep_mac,
};

fn verdict(mut packet: Bytes) -> Verdict {
    arrive(&World::host(2), &mut packet).expect_err("takes the fast path")
}

/// Changes one byte of a sound packet on the wire.
fn with(at: usize, value: u8) -> Bytes {
    let mut packet = on_the_wire(&udp_packet());
    packet.bytes[at] = value;
    packet
}

#[test]
fn the_inner_packet_arrives_as_it_was_sent_two_hops_older() {
    let frame = tcp_packet().ttl(64).tos(0x48);
    let mut packet = on_the_wire(&frame);
    let world = World::host(2);
    let arrival = arrive(&world, &mut packet).unwrap();
    assert_eq!(arrival.to.mac, container_mac(2));
    assert_eq!(arrival.class, None);
    let mut packet = Bytes::new(take_room(&packet.bytes, arrival.outer), 3);
    let how = HandOver { family: arrival.inner, to: arrival.to.mac, from: vtep_mac(2), class: arrival.class };
    hand_over(&mut packet, &how).unwrap();
    let sent = frame.build();
    assert_eq!(packet.bytes.len(), sent.len());
    assert_eq!(packet.bytes[22], 62);
    assert!(checksum_holds(&packet.bytes[14..34]));
    assert_eq!(packet.bytes[14..22], sent[14..22]);
    assert_eq!(packet.bytes[26..], sent[26..]);
}

#[test]
fn what_is_not_overlay_for_us_is_left_to_the_stack() {
    let not_ours = [
        ("inner type of the outer frame", with(13, 6)),
        ("another destination", with(33, 9)),
        ("another port", with(37, 1)),
        ("TCP", with(23, 6)),
        ("IPv6 version", with(14, 0x65)),
    ];
    for (what, packet) in not_ours {
        assert_eq!(verdict(packet), Verdict::UplinkNotOverlay, "{what}");
    }
    let mut other_host = on_the_wire(&udp_packet());
    other_host.to_us = false;
    assert_eq!(verdict(other_host), Verdict::UplinkNotOverlay);
    let mut world = World::host(2);
    world.config.vtep = Be32::ZERO;
    assert_eq!(arrive(&world, &mut on_the_wire(&udp_packet())), Err(Verdict::UplinkNotOverlay));
    assert_eq!(verdict(with(48, 9)), Verdict::UplinkOtherVni);
    assert_eq!(verdict(with(42, 0)), Verdict::UplinkOtherVni);
    assert_eq!(verdict(with(20, 0x20)), Verdict::UplinkOuterFragment);
    assert_eq!(verdict(with(14, 0x46)), Verdict::UplinkOuterOptions);
    assert_eq!(verdict(with(63, 6)), Verdict::UplinkInnerNotIpv4);
}

#[test]
fn reserved_bits_are_ignored_on_receipt() {
    for at in [42, 43, 44, 45, 49] {
        let mut packet = on_the_wire(&udp_packet());
        packet.bytes[at] |= 0xf7;
        assert!(arrive(&World::host(2), &mut packet).is_ok(), "byte {at}");
    }
}

#[test]
fn an_unknown_sender_is_dropped() {
    assert_eq!(verdict(with(29, 77)), Verdict::UplinkUnknownPeer);
    let mut arp = with(29, 77);
    arp.bytes[63] = 6;
    assert_eq!(verdict(arp), Verdict::UplinkUnknownPeer, "also when it is not IPv4");
}

#[test]
fn a_peer_may_not_send_in_anothers_name() {
    let mut world = World::host(2);
    world.add_peer(3);
    let mut as_three = on_the_wire(&udp_packet().src(ip(10, 244, 3, 5)));
    assert_eq!(arrive(&world, &mut as_three), Err(Verdict::UplinkSpoofed));
    let mut as_us = on_the_wire(&udp_packet().src(ip(10, 244, 2, 6)));
    assert_eq!(arrive(&world, &mut as_us), Err(Verdict::UplinkSpoofed));
}

#[test]
fn a_peers_other_addresses_are_for_the_stack_to_judge() {
    assert_eq!(verdict(on_the_wire(&udp_packet().src(ip(192, 168, 50, 1)))), Verdict::UplinkOtherSource);
    assert_eq!(verdict(on_the_wire(&udp_packet().src(ip(10, 244, 128, 1)))), Verdict::UplinkOtherSource);
}

#[test]
fn what_only_the_stack_can_deliver_goes_to_the_stack() {
    assert_eq!(verdict(on_the_wire(&udp_packet().dst(ip(10, 244, 2, 0)))), Verdict::UplinkNotContainer);
    assert_eq!(verdict(on_the_wire(&udp_packet().fragment(0x2000))), Verdict::UplinkInnerFragment);
    assert_eq!(verdict(on_the_wire(&udp_packet().fragment(0x0010))), Verdict::UplinkInnerFragment);
    assert_eq!(verdict(on_the_wire(&udp_packet().options(4))), Verdict::UplinkInnerOptions);
    // The sender takes one from the TTL: 2 leaves as 1.
    assert_eq!(verdict(on_the_wire(&udp_packet().ttl(2))), Verdict::UplinkTtl);
    assert!(arrive(&World::host(2), &mut on_the_wire(&udp_packet().ttl(3))).is_ok());
    assert_eq!(verdict(with(55, 99)), Verdict::UplinkOtherMac);
}

#[test]
fn an_outer_checksum_must_have_been_checked() {
    let mut packet = with(40, 1);
    assert_eq!(verdict(packet.clone()), Verdict::UplinkOuterChecksum);
    packet.verified = true;
    assert!(arrive(&World::host(2), &mut packet).is_ok());
}

#[test]
fn of_several_segments_in_one_only_tcp_is_popped() {
    let gso = |frame: Frame| {
        let mut packet = on_the_wire(&frame.ip_len(20_000));
        packet.gso_size = 1398;
        packet
    };
    assert!(arrive(&World::host(2), &mut gso(tcp_packet())).is_ok());
    assert_eq!(verdict(gso(udp_packet())), Verdict::UplinkGsoNotTcp);
    let aggregated_outside = gso(tcp_packet().total_len(1450));
    assert_eq!(verdict(aggregated_outside), Verdict::UplinkGsoNotTcp);
}

#[test]
fn congestion_on_the_way_is_told_to_the_receiver_or_the_packet_dropped() {
    let mark = |tos| {
        let mut packet = on_the_wire(&udp_packet().tos(tos));
        packet.bytes[15] |= ecn::CE;
        arrive(&World::host(2), &mut packet).map(|arrival| arrival.class)
    };
    assert_eq!(mark(ecn::ECT_0).unwrap(), Some(ecn::CE));
    assert_eq!(mark(ecn::NOT_ECT), Err(Verdict::UplinkEcn));
}

#[test]
fn truncated_at_every_edge_nothing_takes_the_fast_path() {
    let whole = on_the_wire(&udp_packet()).bytes;
    for len in 0..whole.len() {
        let got = verdict(Bytes::new(whole[..len].to_vec(), 3));
        // Without the outer ports nobody can say whose it is; from there on it contradicts its own length.
        let want = if len < 42 { Verdict::UplinkNotOverlay } else { Verdict::UplinkMalformed };
        assert_eq!(got, want, "cut to {len}");
    }
}

#[test]
fn truncated_inside_an_honest_outer_header_is_malformed() {
    let whole = on_the_wire(&udp_packet()).bytes;
    for len in 42..whole.len() {
        let mut bytes = whole[..len].to_vec();
        bytes[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
        bytes[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
        assert_eq!(verdict(Bytes::new(bytes, 3)), Verdict::UplinkMalformed, "cut to {len}");
    }
}

#[test]
fn lengths_that_contradict_each_other_are_dropped() {
    for (at, value) in [(16, 0xff), (38, 0xff), (66, 0xff), (64, 0x65), (64, 0x44)] {
        assert_eq!(verdict(with(at, value)), Verdict::UplinkMalformed, "byte {at} = {value:#x}");
    }
}

#[test]
fn an_overlay_packet_of_one_network_does_not_reach_a_container_of_another() {
    let mut world = World::host(2);
    for container in world.endpoints.values_mut() {
        container.network = 2;
    }
    assert_eq!(arrive(&world, &mut on_the_wire(&udp_packet())), Err(Verdict::UplinkOtherNetwork));
}
