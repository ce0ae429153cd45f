//! What happens to every IPv6 packet that a container can send, and what differs with IPv6 outside.

use weft_abi::{Be32, PeerKey6};

use super::*;
use crate::packet::testing::Bytes;
use crate::testing::{Frame, World, ip6, leave, outer, peer_key6, tcp_packet, udp_packet};

const DEVICE: u32 = 71;

fn udp6() -> Frame {
    udp_packet().v6()
}

fn verdict(mut packet: Bytes) -> Verdict {
    leave(&World::host(1), &mut packet).expect_err("takes the fast path")
}

fn through(frame: &Frame) -> Verdict {
    verdict(frame.through(DEVICE))
}

/// Where a packet goes, and its length.
fn goes(world: &World, mut packet: Bytes) -> (Family, Be128, u8, u32) {
    match leave(world, &mut packet).expect("does not take the fast path") {
        Next::Remote(to) => (to.family, to.peer.outer, to.class, to.inner_len),
        Next::Local(_, to) => panic!("handed to {to:?}"),
    }
}

/// A header of eight bytes.
fn option(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

fn fragment(next: u8, offset_and_flags: u16) -> Vec<u8> {
    let [upper, lower] = offset_and_flags.to_be_bytes();
    vec![next, 0, upper, lower, 0, 0, 0, 9]
}

#[test]
fn a_packet_for_a_peers_subnet_goes_to_that_peer_over_its_family() {
    for outside in [Family::V4, Family::V6] {
        let world = World::host(1).outside(outside);
        let got = goes(&world, udp6().tos(0xb9).through(DEVICE));
        assert_eq!(got, (Family::V6, outer(2, outside), 0x01, 68));
        let got = goes(&world, udp_packet().tos(0xb9).through(DEVICE));
        assert_eq!(got, (Family::V4, outer(2, outside), 0x01, 48));
    }
}

#[test]
fn a_packet_for_a_container_here_is_handed_over() {
    let mut world = World::host(1);
    let row = Endpoint { ifindex: 99, mac: [2, 0, 0, 0, 0, 6], flags: 0, network: 1 };
    world.endpoints6.insert(ip6("fd00:10:244:1::6"), row);
    let mut packet = udp6().dst6("fd00:10:244:1::6").through(DEVICE);
    packet.linear = 0;
    assert_eq!(leave(&world, &mut packet), Ok(Next::Local(Family::V6, &row)));
}

#[test]
fn a_source_that_is_not_the_containers_is_dropped() {
    for src in ["fd00:10:244:1::77", "fd00:10:244:2::5", "fd00:50::1", "::1", "::ffff:10.244.1.5", "2001:db8::1"] {
        assert_eq!(through(&udp6().src6(src)), Verdict::ContainerSpoofed, "{src}");
        for odd in [udp6().ttl(1), udp6().dst6("2001:db8::2"), udp6().extensions(60, option(17))] {
            assert_eq!(through(&odd.src6(src)), Verdict::ContainerSpoofed, "{src}");
        }
    }
    assert_eq!(verdict(udp6().through(DEVICE + 1)), Verdict::ContainerSpoofed, "another container's device");
}

#[test]
fn from_a_link_local_address_only_the_link_is_spoken_to() {
    for dst in ["fe80::1", "ff02::2", "ff02::1:2"] {
        assert_eq!(through(&udp6().src6("fe80::cc").dst6(dst)), Verdict::ContainerElsewhere, "{dst}");
    }
    for dst in ["fd00:10:244:2::5", "fd00:10:244:1::5", "2001:db8::2", "ff05::2", "ff0e::2"] {
        assert_eq!(through(&udp6().src6("fe80::cc").dst6(dst)), Verdict::ContainerSpoofed, "{dst}");
        assert_eq!(through(&udp6().src6("::").dst6(dst)), Verdict::ContainerSpoofed, "unspecified, to {dst}");
    }
    assert_eq!(through(&udp6().src6("::").dst6("fe80::1")), Verdict::ContainerSpoofed);
    let mut group = udp6().src6("fe80::cc").dst6("ff02::2").through(DEVICE);
    group.to_us = false;
    assert_eq!(verdict(group), Verdict::ContainerNotToUs);
}

#[test]
fn encapsulated_traffic_of_a_containers_own_is_dropped_wherever_it_goes() {
    let inject = || udp6().ports(1, 8472);
    for dst in ["fd00:50::2", "fd00:10:244:2::5", "fd00:10:244:1::1", "2001:db8::2", "::ffff:192.168.50.2"] {
        assert_eq!(through(&inject().dst6(dst)), Verdict::ContainerInjects, "{dst}");
        assert_eq!(through(&udp6().ports(1, 4789).dst6(dst)), Verdict::ContainerInjects, "another network's port, to {dst}");
    }
    assert_eq!(through(&inject().src6("fe80::cc").dst6("fe80::1")), Verdict::ContainerInjects, "to the host itself");
    let mut group = inject().dst6("ff0e::1").through(DEVICE);
    group.to_us = false;
    assert_eq!(verdict(group), Verdict::ContainerInjects);
}

#[test]
fn headers_in_front_do_not_hide_the_port() {
    let inject = || udp6().ports(1, 8472);
    for kind in [0, 43, 60] {
        assert_eq!(through(&inject().extensions(kind, option(17))), Verdict::ContainerInjects, "behind {kind}");
        assert_eq!(through(&udp6().extensions(kind, option(17))), Verdict::ContainerOptions, "innocent, behind {kind}");
    }
    let both = [option(60), option(17)].concat();
    assert_eq!(through(&inject().extensions(0, both)), Verdict::ContainerInjects);
    let many = [vec![option(60); 8].concat(), option(17)].concat();
    assert_eq!(through(&inject().extensions(60, many.clone())), Verdict::ContainerHidden);
    assert_eq!(through(&udp6().extensions(60, many)), Verdict::ContainerHidden, "nobody can tell that it is innocent");
}

#[test]
fn fragments_do_not_hide_the_port() {
    let inject = || udp6().ports(1, 8472);
    assert_eq!(through(&inject().extensions(44, fragment(17, 1))), Verdict::ContainerInjects, "the first one");
    assert_eq!(through(&inject().extensions(44, fragment(17, 0))), Verdict::ContainerInjects, "the only one");
    assert_eq!(through(&udp6().extensions(44, fragment(17, 1))), Verdict::ContainerFragment, "innocent");
    assert_eq!(through(&inject().extensions(44, fragment(17, 8))), Verdict::ContainerFragment, "has no port");
    // RFC 7112: the port is put into the second fragment, behind an option that fills the first.
    let split = [fragment(60, 1), option(17)].concat();
    assert_eq!(through(&udp6().payload(Vec::new()).extensions(44, split)), Verdict::ContainerHidden);
    assert_eq!(through(&udp6().payload(vec![0; 7]).extensions(44, fragment(17, 1))), Verdict::ContainerHidden);
    // What is behind the packet's end is not what the receiver will read there.
    let mut padded = udp6().ports(1, 80).extensions(44, fragment(17, 1)).through(DEVICE);
    padded.bytes[18..20].copy_from_slice(&8_u16.to_be_bytes());
    assert_eq!(verdict(padded), Verdict::ContainerHidden);
}

#[test]
fn what_only_the_stack_can_do_goes_to_the_stack() {
    assert_eq!(through(&udp6().ttl(1)), Verdict::ContainerTtl);
    assert_eq!(through(&udp6().ttl(0)), Verdict::ContainerTtl);
    for dst in ["2001:db8::2", "fd00:10:244:1::1", "fd00:10:244:1::", "fd00:10:244:9::1", "fe80::1", "::", "::1"] {
        assert_eq!(through(&udp6().dst6(dst)), Verdict::ContainerElsewhere, "{dst}");
    }
    let mut group = udp6().dst6("ff0e::1").through(DEVICE);
    group.to_us = false;
    assert_eq!(verdict(group), Verdict::ContainerNotToUs);
    let mut world = World::host(1);
    world.network.network6 = Be128::ZERO;
    world.network.network_mask6 = Be128::mask_of(128);
    world.network.subnet6 = Be128::ZERO;
    world.network.subnet_mask6 = Be128::mask_of(128);
    assert_eq!(leave(&world, &mut udp6().through(DEVICE)), Err(Verdict::ContainerElsewhere), "a network without IPv6");
}

#[test]
fn another_network_is_out_of_reach() {
    assert_eq!(through(&udp6().dst6("fd00:10:245:2::5")), Verdict::ContainerOtherNetwork);
    let mut world = World::host(1);
    let row = Endpoint { ifindex: 99, mac: [2, 0, 0, 0, 0, 6], flags: 0, network: 2 };
    world.endpoints6.insert(ip6("fd00:10:245:1::6"), row);
    let mut packet = udp6().dst6("fd00:10:245:1::6").through(DEVICE);
    assert_eq!(leave(&world, &mut packet), Err(Verdict::ContainerOtherNetwork));
    // A subnet that has one number in both networks leads to the own network's host.
    world.network.network_mask6 = Be128::mask_of(16);
    world.network.network6 = ip6("fd00::");
    let foreign = PeerKey6 { network: 2, subnet: ip6("fd00:10:245:2::") };
    world.peers6.insert(foreign, world.peer_row(2, Family::V4));
    let mut packet = udp6().dst6("fd00:10:245:2::5").through(DEVICE);
    assert_eq!(leave(&world, &mut packet), Err(Verdict::ContainerOtherNetwork));
}

#[test]
fn the_longest_packet_fits_and_one_more_byte_does_not() {
    for (outside, longest) in [(Family::V4, 1450), (Family::V6, 1430)] {
        let world = World::host(1).outside(outside);
        for frame in [udp_packet(), udp6()] {
            assert_eq!(goes(&world, frame.clone().ip_len(longest).through(DEVICE)).3, longest as u32);
            let mut longer = frame.ip_len(longest + 1).through(DEVICE);
            assert_eq!(leave(&world, &mut longer), Err(Verdict::ContainerTooBig));
        }
    }
    let mut world = World::host(1);
    world.peers6.get_mut(&peer_key6(2)).unwrap().mtu = 1380;
    assert_eq!(leave(&world, &mut udp6().ip_len(1381).through(DEVICE)), Err(Verdict::ContainerTooBig));
    assert_eq!(goes(&world, udp6().ip_len(1380).through(DEVICE)).3, 1380);
}

#[test]
fn a_packet_of_several_segments_is_measured_by_its_segment() {
    for (outside, most) in [(Family::V4, 1450), (Family::V6, 1430)] {
        let world = World::host(1).outside(outside);
        let gso = |frame: Frame, size| {
            let mut packet = frame.ip_len(30_000).through(DEVICE);
            packet.gso_size = size;
            packet
        };
        for (frame, headers) in [(tcp_packet().v6(), 72), (udp6(), 48), (tcp_packet(), 52), (udp_packet(), 28)] {
            assert_eq!(goes(&world, gso(frame.clone(), most - headers)).3, 30_000);
            let got = leave(&world, &mut gso(frame, most - headers + 1)).map(|_| ());
            assert_eq!(got, Err(Verdict::ContainerTooBig));
        }
        let got = leave(&world, &mut gso(udp6().proto(132), 500)).map(|_| ());
        assert_eq!(got, Err(Verdict::ContainerRoomRefused), "SCTP");
    }
}

#[test]
fn outer_headers_that_would_not_fit_the_length_field_are_not_made() {
    let mut packet = tcp_packet().v6().ip_len(65_486).through(DEVICE);
    packet.gso_size = 1000;
    assert_eq!(verdict(packet), Verdict::ContainerTooBig);
    // BIG TCP tells its length in an option, and then the stack has it; without that option it is nowhere.
    let mut big_tcp = tcp_packet().v6().ip_len(100_000).total_len(40).through(DEVICE);
    big_tcp.gso_size = 1000;
    assert_eq!(verdict(big_tcp), Verdict::ContainerTooBig);
}

#[test]
fn without_an_own_address_of_the_outer_family_the_stack_has_it() {
    for outside in [Family::V4, Family::V6] {
        let mut world = World::host(1).outside(outside);
        match outside {
            Family::V4 => world.config.vtep = Be32::ZERO,
            Family::V6 => world.config.vtep6 = Be128::ZERO,
        }
        for frame in [udp_packet(), udp6()] {
            assert_eq!(leave(&world, &mut frame.through(DEVICE)), Err(Verdict::ContainerNoOverlay));
        }
        // The other family's address is not needed.
        let other = World::host(1).outside(if outside == Family::V4 { Family::V6 } else { Family::V4 });
        world.peers6 = other.peers6;
        assert!(leave(&world, &mut udp6().through(DEVICE)).is_ok());
    }
}

#[test]
fn truncated_at_every_edge_nothing_takes_the_fast_path() {
    for frame in [udp6(), udp6().extensions(60, option(17)), udp6().extensions(44, fragment(17, 1))] {
        let whole = frame.build();
        for len in 0..whole.len() {
            let got = verdict(Bytes::new(whole[..len].to_vec(), DEVICE));
            let want = if len < 14 { Verdict::ContainerNotIpv4 } else { Verdict::ContainerMalformed };
            assert_eq!(got, want, "cut to {len}");
        }
    }
}

#[test]
fn truncated_under_an_honest_length_it_is_malformed_up_to_the_transport_header() {
    let whole = udp6().build();
    for len in 54..whole.len() {
        let mut bytes = whole[..len].to_vec();
        bytes[18..20].copy_from_slice(&(len as u16 - 54).to_be_bytes());
        let mut packet = Bytes::new(bytes, DEVICE);
        let got = leave(&World::host(1), &mut packet).err();
        assert_eq!(got, (len < 62).then_some(Verdict::ContainerMalformed), "cut to {len}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_dropped() {
    for first in [0x45, 0x50, 0x70, 0x00] {
        let mut packet = udp6().through(DEVICE);
        packet.bytes[14] = first;
        assert_eq!(verdict(packet), Verdict::ContainerMalformed, "{first:#x}");
    }
    assert_eq!(through(&udp6().total_len(69)), Verdict::ContainerMalformed, "one byte more than there is");
}

#[test]
fn padding_after_the_packet_is_no_fault() {
    let mut packet = udp6().through(DEVICE);
    packet.bytes.extend([0; 12]);
    packet.linear = packet.bytes.len();
    assert_eq!(goes(&World::host(1), packet).3, 80);
}
