//! What arrives with IPv6 outside or inside, and packets' lives in all four combinations.

use super::*;
use crate::deliver::{HandOver, hand_over};
use crate::packet::testing::Bytes;
use crate::testing::{
    Frame, World, arrive, checksum_holds, container_mac, leave, make_room, on_the_wire_over, overhead, take_room, tcp_packet,
    udp_packet,
};
use crate::{container, encap};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Every pair of a family inside and one outside.
fn pairs() -> impl Iterator<Item = (Family, Family)> {
    FAMILIES.into_iter().flat_map(|inside| FAMILIES.into_iter().map(move |outside| (inside, outside)))
}

fn host2(outside: Family) -> World {
    World::host(2).outside(outside)
}

fn verdict(outside: Family, mut packet: Bytes) -> Verdict {
    arrive(&host2(outside), &mut packet).expect_err("takes the fast path")
}

/// A sound packet on the wire with one byte changed.
fn with(inside: Family, outside: Family, at: usize, value: u8) -> Bytes {
    let mut packet = on_the_wire_over(&udp_packet().family(inside), outside);
    packet.bytes[at] = value;
    packet
}

/// Offset of the outer UDP header.
fn udp_at(outside: Family) -> usize {
    overhead(outside) - 16
}

/// Offset of the inner IP header.
fn inner_at(outside: Family) -> usize {
    14 + overhead(outside)
}

#[test]
fn a_packet_lives_through_both_hosts_in_every_combination() {
    for (inside, outside) in pairs() {
        for frame in [udp_packet(), tcp_packet()] {
            let sent = frame.family(inside).tos(0x4a).ttl(64);
            let one = World::host(1).outside(outside);
            let mut packet = sent.through(71);
            let Ok(container::Next::Remote(to)) = leave(&one, &mut packet) else { panic!("not sent to the peer") };
            let mut packet = Bytes::new(make_room(&packet.bytes, outside), 3);
            encap::write(&mut packet, &one.config, &to, encap::Stamp { flow_hash: 99, id: 7 }).unwrap();

            let two = host2(outside);
            let arrival = arrive(&two, &mut packet).unwrap();
            assert_eq!((arrival.inner, arrival.outer, arrival.class), (inside, outside, None));
            let mut packet = Bytes::new(take_room(&packet.bytes, outside), 3);
            let how = HandOver { family: inside, to: arrival.to.mac, from: two.network.vtep_mac, class: arrival.class };
            hand_over(&mut packet, &how).unwrap();

            let mut want = sent.clone().ttl(62).build();
            want[..6].copy_from_slice(&container_mac(2));
            want[6..12].copy_from_slice(&two.network.vtep_mac);
            assert_eq!(packet.bytes, want, "{inside:?} in {outside:?}");
            assert!(inside == Family::V6 || checksum_holds(&packet.bytes[14..34]));
        }
    }
}

#[test]
fn over_ipv6_what_is_not_overlay_for_us_is_left_to_the_stack() {
    let not_ours = [
        ("another type of frame", with(Family::V4, Family::V6, 13, 0)),
        ("another destination", with(Family::V4, Family::V6, 53, 9)),
        ("another port", with(Family::V4, Family::V6, 57, 1)),
        ("TCP", with(Family::V4, Family::V6, 20, 6)),
        ("version 4", with(Family::V4, Family::V6, 14, 0x45)),
    ];
    for (what, packet) in not_ours {
        assert_eq!(verdict(Family::V6, packet), Verdict::UplinkNotOverlay, "{what}");
    }
    let sound = || on_the_wire_over(&udp_packet().v6(), Family::V6);
    let mut other_host = sound();
    other_host.to_us = false;
    assert_eq!(verdict(Family::V6, other_host), Verdict::UplinkNotOverlay);
    let mut tagged = sound();
    tagged.tagged = true;
    assert_eq!(verdict(Family::V6, tagged), Verdict::UplinkNotOverlay);
    let mut world = host2(Family::V6);
    world.config.vtep6 = Be128::ZERO;
    assert_eq!(arrive(&world, &mut sound()), Err(Verdict::UplinkNotOverlay));
    for extension in [0, 43, 51, 60] {
        assert_eq!(verdict(Family::V6, with(Family::V6, Family::V6, 20, extension)), Verdict::UplinkOuterOptions);
    }
    assert_eq!(verdict(Family::V6, with(Family::V6, Family::V6, 20, 44)), Verdict::UplinkOuterFragment);
}

#[test]
fn vni_and_sender_are_judged_alike_over_both() {
    for (inside, outside) in pairs() {
        let vxlan = udp_at(outside) + 8;
        assert_eq!(verdict(outside, with(inside, outside, vxlan + 6, 9)), Verdict::UplinkOtherVni);
        assert_eq!(verdict(outside, with(inside, outside, vxlan, 0)), Verdict::UplinkOtherVni);
        let source_end = if outside == Family::V4 { 29 } else { 37 };
        assert_eq!(verdict(outside, with(inside, outside, source_end, 77)), Verdict::UplinkUnknownPeer);
        let inner_type = inner_at(outside) - 1;
        assert_eq!(verdict(outside, with(inside, outside, inner_type, 6)), Verdict::UplinkInnerNotIpv4);
        assert_eq!(verdict(outside, with(inside, outside, vxlan + 13, 9)), Verdict::UplinkOtherMac);
    }
}

#[test]
fn the_device_of_the_outer_family_is_meant() {
    for (inside, outside) in pairs() {
        let mut world = host2(outside);
        std::mem::swap(&mut world.network.vtep_mac, &mut world.network.vtep_mac6);
        let mut packet = on_the_wire_over(&udp_packet().family(inside), outside);
        assert_eq!(arrive(&world, &mut packet), Err(Verdict::UplinkOtherMac), "{inside:?} in {outside:?}");
    }
}

#[test]
fn a_peer_may_not_send_in_anothers_name() {
    for outside in FAMILIES {
        let mut world = host2(outside);
        world.add_peer(3);
        let world = world.outside(outside);
        let frame = |src: &str| on_the_wire_over(&udp_packet().v6().src6(src), outside);
        assert_eq!(arrive(&world, &mut frame("fd00:10:244:3::5")), Err(Verdict::UplinkSpoofed), "a third host's");
        assert_eq!(arrive(&world, &mut frame("fd00:10:244:2::5")), Err(Verdict::UplinkSpoofed), "ours");
        for other in ["fd00:50::1", "fd00:10:245:1::5", "fe80::1", "2001:db8::1"] {
            assert_eq!(arrive(&world, &mut frame(other)), Err(Verdict::UplinkOtherSource), "{other}");
        }
    }
}

#[test]
fn a_peer_that_sends_over_the_other_family_is_not_the_one_in_the_row() {
    let (expected, mut came) = (host2(Family::V4), on_the_wire_over(&udp_packet().v6(), Family::V6));
    assert_eq!(arrive(&expected, &mut came), Err(Verdict::UplinkSpoofed));
}

#[test]
fn an_overlay_packet_of_one_network_does_not_reach_a_container_of_another() {
    for (inside, outside) in pairs() {
        let mut world = host2(outside);
        for container in world.endpoints.values_mut().chain(world.endpoints6.values_mut()) {
            container.network = 2;
        }
        let mut packet = on_the_wire_over(&udp_packet().family(inside), outside);
        assert_eq!(arrive(&world, &mut packet), Err(Verdict::UplinkOtherNetwork));
    }
}

#[test]
fn what_only_the_stack_can_deliver_goes_to_the_stack() {
    for outside in FAMILIES {
        let wire = |frame: Frame| verdict(outside, on_the_wire_over(&frame.v6(), outside));
        assert_eq!(wire(udp_packet().dst6("fd00:10:244:2::1")), Verdict::UplinkNotContainer);
        assert_eq!(wire(udp_packet().ttl(2)), Verdict::UplinkTtl);
        for kind in [0, 43, 51, 60] {
            let header = vec![17, 0, 1, 4, 0, 0, 0, 0];
            assert_eq!(wire(udp_packet().extensions(kind, header)), Verdict::UplinkInnerOptions);
        }
        assert_eq!(wire(udp_packet().extensions(44, vec![17, 0, 0, 1, 0, 0, 0, 9])), Verdict::UplinkInnerFragment);
    }
}

#[test]
fn zero_checksums_are_taken_and_others_only_when_they_were_checked() {
    for (inside, outside) in pairs() {
        assert!(arrive(&host2(outside), &mut on_the_wire_over(&udp_packet().family(inside), outside)).is_ok());
        let mut marked = with(inside, outside, udp_at(outside) + 6, 1);
        assert_eq!(verdict(outside, marked.clone()), Verdict::UplinkOuterChecksum);
        marked.verified = true;
        assert!(arrive(&host2(outside), &mut marked).is_ok());
    }
}

#[test]
fn of_several_segments_in_one_only_tcp_is_popped() {
    for (inside, outside) in pairs() {
        let gso = |frame: Frame| {
            let mut packet = on_the_wire_over(&frame, outside);
            packet.gso_size = 1358;
            packet
        };
        let long = |frame: Frame| frame.family(inside).ip_len(20_000);
        assert!(arrive(&host2(outside), &mut gso(long(tcp_packet()))).is_ok());
        assert_eq!(verdict(outside, gso(long(udp_packet()))), Verdict::UplinkGsoNotTcp);
        assert_eq!(verdict(outside, gso(long(tcp_packet()).total_len(1450))), Verdict::UplinkGsoNotTcp);
    }
}

#[test]
fn congestion_on_the_way_is_told_to_the_receiver_or_the_packet_dropped() {
    for (inside, outside) in pairs() {
        let mark = |class: u8| {
            let mut packet = on_the_wire_over(&udp_packet().family(inside).tos(class), outside);
            match outside {
                Family::V4 => packet.bytes[15] |= ecn::CE,
                Family::V6 => packet.bytes[15] |= ecn::CE << 4,
            }
            arrive(&host2(outside), &mut packet).map(|arrival| arrival.class)
        };
        assert_eq!(mark(0x48 | ecn::ECT_0), Ok(Some(0x48 | ecn::CE)));
        assert_eq!(mark(0x48 | ecn::CE), Ok(None));
        assert_eq!(mark(0x48), Err(Verdict::UplinkEcn));
    }
}

#[test]
fn truncated_at_every_edge_nothing_takes_the_fast_path() {
    for (inside, outside) in pairs() {
        let whole = on_the_wire_over(&udp_packet().family(inside), outside).bytes;
        for len in 0..whole.len() {
            let got = verdict(outside, Bytes::new(whole[..len].to_vec(), 3));
            // Without the outer ports nobody can say whose it is; from there on it contradicts its own length.
            let ports = udp_at(outside) + 8;
            let want = if len < ports { Verdict::UplinkNotOverlay } else { Verdict::UplinkMalformed };
            assert_eq!(got, want, "{inside:?} in {outside:?}, cut to {len}");
        }
    }
}

#[test]
fn truncated_inside_an_honest_outer_header_is_malformed() {
    for (inside, outside) in pairs() {
        let (whole, udp) = (on_the_wire_over(&udp_packet().family(inside), outside).bytes, udp_at(outside));
        for len in udp + 8..whole.len() {
            let mut bytes = whole[..len].to_vec();
            let (at, ip_len) = if outside == Family::V4 { (16, len - 14) } else { (18, len - 54) };
            bytes[at..at + 2].copy_from_slice(&(ip_len as u16).to_be_bytes());
            bytes[udp + 4..udp + 6].copy_from_slice(&((len - udp) as u16).to_be_bytes());
            let got = verdict(outside, Bytes::new(bytes, 3));
            assert_eq!(got, Verdict::UplinkMalformed, "{inside:?} in {outside:?}, cut to {len}");
        }
    }
}

#[test]
fn headers_outside_the_linear_part_are_pulled() {
    for (inside, outside) in pairs() {
        let mut packet = on_the_wire_over(&udp_packet().family(inside), outside);
        packet.linear = 0;
        assert!(arrive(&host2(outside), &mut packet).is_ok());
    }
}
