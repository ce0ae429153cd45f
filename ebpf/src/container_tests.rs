//! What happens to everything a container can send.

use super::*;
use crate::packet::testing::Bytes;
use crate::testing::{World, ip, leave, peer_key, tcp_packet, udp_packet};

const DEVICE: u32 = 71;

fn verdict(mut packet: Bytes) -> Verdict {
    leave(&World::host(1), &mut packet).expect_err("takes the fast path")
}

/// The outer destination and what else is known of a packet for another host.
fn goes(mut packet: Bytes) -> Gone {
    match leave(&World::host(1), &mut packet).expect("does not take the fast path") {
        Next::Remote(to) => Gone { outer: to.peer.outer, tos: to.class, inner_len: to.inner_len },
        Next::Local(_, to) => panic!("handed to {to:?}"),
    }
}

struct Gone {
    outer: Be128,
    tos: u8,
    inner_len: u32,
}

#[test]
fn a_packet_for_a_peers_subnet_goes_to_that_peer() {
    let remote = goes(udp_packet().tos(0x12).through(DEVICE));
    assert_eq!(remote.outer, Be128::mapped(ip(192, 168, 50, 2)));
    assert_eq!(remote.tos, 0x02, "ECN, and no class of service");
    assert_eq!(remote.inner_len, 48);
}

#[test]
fn a_packet_for_a_container_here_is_handed_over() {
    let mut world = World::host(1);
    let row = Endpoint { ifindex: 99, mac: [2, 0, 0, 0, 0, 6], flags: 0, network: 1 };
    world.endpoints.insert(ip(10, 244, 1, 6), row);
    let mut packet = udp_packet().dst(ip(10, 244, 1, 6)).through(DEVICE);
    assert_eq!(leave(&world, &mut packet), Ok(Next::Local(Family::V4, &row)));
}

#[test]
fn headers_outside_the_linear_part_are_pulled() {
    let mut packet = udp_packet().through(DEVICE);
    packet.linear = 0;
    assert_eq!(goes(packet).inner_len, 48);
}

#[test]
fn a_source_that_is_not_the_containers_is_dropped() {
    assert_eq!(verdict(udp_packet().src(ip(10, 244, 1, 77)).through(DEVICE)), Verdict::ContainerSpoofed);
    assert_eq!(verdict(udp_packet().through(DEVICE + 1)), Verdict::ContainerSpoofed, "another container's device");
    // Whatever else is odd about the packet does not help.
    let odd = [udp_packet().options(4), udp_packet().fragment(0x2000), udp_packet().ttl(1), udp_packet().dst(ip(8, 8, 8, 8))];
    for frame in odd {
        assert_eq!(verdict(frame.src(ip(10, 244, 2, 5)).through(DEVICE)), Verdict::ContainerSpoofed);
    }
}

#[test]
fn encapsulated_traffic_of_a_containers_own_is_dropped() {
    for dst in [ip(192, 168, 50, 2), ip(10, 244, 2, 5), ip(10, 244, 1, 1), ip(8, 8, 8, 8)] {
        assert_eq!(verdict(udp_packet().ports(1, 8472).dst(dst).through(DEVICE)), Verdict::ContainerInjects);
    }
    assert_eq!(verdict(udp_packet().ports(1, 8472).options(8).through(DEVICE)), Verdict::ContainerInjects);
    assert_eq!(verdict(udp_packet().ports(1, 8472).fragment(0x2000).through(DEVICE)), Verdict::ContainerInjects);
    let mut multicast = udp_packet().ports(1, 8472).dst(ip(239, 1, 1, 1)).through(DEVICE);
    multicast.to_us = false;
    assert_eq!(verdict(multicast), Verdict::ContainerInjects);
}

#[test]
fn a_later_fragment_has_no_port_to_judge() {
    assert_eq!(verdict(udp_packet().ports(1, 8472).fragment(0x0001).through(DEVICE)), Verdict::ContainerFragment);
}

#[test]
fn what_only_the_stack_can_do_goes_to_the_stack() {
    assert_eq!(verdict(udp_packet().fragment(0x2000).through(DEVICE)), Verdict::ContainerFragment);
    assert_eq!(verdict(udp_packet().options(4).through(DEVICE)), Verdict::ContainerOptions);
    assert_eq!(verdict(udp_packet().ttl(1).through(DEVICE)), Verdict::ContainerTtl);
    assert_eq!(verdict(udp_packet().ttl(0).through(DEVICE)), Verdict::ContainerTtl);
    assert_eq!(verdict(udp_packet().dst(ip(8, 8, 8, 8)).through(DEVICE)), Verdict::ContainerElsewhere);
    assert_eq!(verdict(udp_packet().dst(ip(10, 244, 1, 1)).through(DEVICE)), Verdict::ContainerElsewhere, "gateway");
    assert_eq!(verdict(udp_packet().dst(ip(10, 244, 9, 1)).through(DEVICE)), Verdict::ContainerElsewhere, "no peer");
    let mut other = udp_packet().through(DEVICE);
    other.bytes[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(verdict(other), Verdict::ContainerNotIpv4, "LLDP");
    let mut tagged = udp_packet().through(DEVICE);
    tagged.tagged = true;
    assert_eq!(verdict(tagged), Verdict::ContainerVlanTag);
    let mut broadcast = udp_packet().through(DEVICE);
    broadcast.to_us = false;
    assert_eq!(verdict(broadcast), Verdict::ContainerNotToUs);
}

#[test]
fn the_longest_packet_fits_and_one_more_byte_does_not() {
    assert_eq!(goes(udp_packet().ip_len(1450).through(DEVICE)).inner_len, 1450);
    assert_eq!(verdict(udp_packet().ip_len(1451).through(DEVICE)), Verdict::ContainerTooBig);
    let mut world = World::host(1);
    world.peers.get_mut(&peer_key(2)).unwrap().mtu = 1400;
    assert!(leave(&world, &mut udp_packet().ip_len(1400).through(DEVICE)).is_ok());
    assert_eq!(leave(&world, &mut udp_packet().ip_len(1401).through(DEVICE)), Err(Verdict::ContainerTooBig));
    // A peer that takes more than our uplink carries does not widen the uplink.
    world.peers.get_mut(&peer_key(2)).unwrap().mtu = 9000;
    assert_eq!(leave(&world, &mut udp_packet().ip_len(1451).through(DEVICE)), Err(Verdict::ContainerTooBig));
}

#[test]
fn a_packet_of_several_segments_is_measured_by_its_segment() {
    let gso = |frame: crate::testing::Frame, size| {
        let mut packet = frame.ip_len(30_000).through(DEVICE);
        packet.gso_size = size;
        packet
    };
    assert_eq!(goes(gso(tcp_packet(), 1398)).inner_len, 30_000, "20 + 32 + 1398 = 1450");
    assert_eq!(verdict(gso(tcp_packet(), 1399)), Verdict::ContainerTooBig);
    assert_eq!(goes(gso(udp_packet(), 1422)).inner_len, 30_000, "20 + 8 + 1422 = 1450");
    assert_eq!(verdict(gso(udp_packet(), 1423)), Verdict::ContainerTooBig);
    assert_eq!(verdict(gso(udp_packet().proto(132), 500)), Verdict::ContainerRoomRefused, "SCTP");
}

#[test]
fn outer_headers_that_would_not_fit_the_length_field_are_not_made() {
    let mut packet = tcp_packet().ip_len(65_486).through(DEVICE);
    packet.gso_size = 1000;
    assert_eq!(verdict(packet), Verdict::ContainerTooBig);
    let mut big_tcp = tcp_packet().ip_len(100_000).total_len(0).through(DEVICE);
    big_tcp.gso_size = 1000;
    assert_eq!(verdict(big_tcp), Verdict::ContainerTooBig);
}

#[test]
fn without_uplink_or_configuration_the_stack_has_it() {
    let mut world = World::host(1);
    world.config.uplink = 0;
    assert_eq!(leave(&world, &mut udp_packet().through(DEVICE)), Err(Verdict::ContainerNoOverlay));
    world.config = Config::default();
    world.network = Network::default();
    assert_eq!(leave(&world, &mut udp_packet().dst(ip(0, 0, 0, 1)).through(DEVICE)), Err(Verdict::ContainerElsewhere));
}

#[test]
fn truncated_at_every_edge_nothing_takes_the_fast_path() {
    let whole = udp_packet().build();
    for len in 0..whole.len() {
        let got = verdict(Bytes::new(whole[..len].to_vec(), DEVICE));
        let want = if len < 14 { Verdict::ContainerNotIpv4 } else { Verdict::ContainerMalformed };
        assert_eq!(got, want, "cut to {len}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_dropped() {
    for first in [0x35, 0x65, 0x44, 0x40, 0x00] {
        let mut packet = udp_packet().through(DEVICE);
        packet.bytes[14] = first;
        assert_eq!(verdict(packet), Verdict::ContainerMalformed, "{first:#x}");
    }
    assert_eq!(verdict(udp_packet().total_len(19).through(DEVICE)), Verdict::ContainerMalformed);
    assert_eq!(verdict(udp_packet().total_len(49).through(DEVICE)), Verdict::ContainerMalformed);
    assert_eq!(verdict(udp_packet().total_len(0).through(DEVICE)), Verdict::ContainerMalformed);
    assert_eq!(verdict(udp_packet().payload(vec![0; 7]).through(DEVICE)), Verdict::ContainerMalformed, "half a UDP header");
    assert_eq!(verdict(udp_packet().payload(vec![0; 7]).options(4).through(DEVICE)), Verdict::ContainerMalformed);
}

#[test]
fn padding_after_the_packet_is_no_fault() {
    let mut packet = udp_packet().through(DEVICE);
    packet.bytes.extend([0; 12]);
    packet.linear = packet.bytes.len();
    assert_eq!(goes(packet).inner_len, 60);
}

#[test]
fn another_network_is_out_of_reach() {
    assert_eq!(verdict(udp_packet().dst(ip(10, 245, 2, 5)).through(DEVICE)), Verdict::ContainerOtherNetwork, "elsewhere");
    let mut world = World::host(1);
    let row = Endpoint { ifindex: 99, mac: [2, 0, 0, 0, 0, 6], flags: 0, network: 2 };
    world.endpoints.insert(ip(10, 245, 1, 6), row);
    let mut packet = udp_packet().dst(ip(10, 245, 1, 6)).through(DEVICE);
    assert_eq!(leave(&world, &mut packet), Err(Verdict::ContainerOtherNetwork), "on this host");
}
