//! Single packets of both families inside and outside through the real programs and maps (BPF_PROG_TEST_RUN).

use std::net::Ipv6Addr;

use weft_abi::Verdict;
use weft_agent::kernel::bpf::Program;
use weft_agent::kernel::bpf::run::{Outcome, Packet};

use crate::dual::{Outside, addr6, dual_hosts, subnet6, vtep6};
use crate::lab::Host;
use crate::packets::{arrive, checksum, leave, run, sound};

/// An IPv6 frame from a host's first container: `next` and `rest` as they stand behind the addresses.
fn frame6(from: &Host, src: Ipv6Addr, dst: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = from.netns.mac(&from.containers[0].device).to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x64, 0xa0, 0, 7]);
    frame.extend((rest.len() as u16).to_be_bytes());
    frame.extend([next, 64]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(rest);
    frame
}

fn udp(port: u16) -> Vec<u8> {
    let mut udp = 40_000_u16.to_be_bytes().to_vec();
    udp.extend(port.to_be_bytes());
    udp.extend([0, 108, 0, 0]);
    udp.extend([0x5a; 100]);
    udp
}

/// A sound packet of each family from a host's first container to another host's.
fn both(from: &Host, to: &Host) -> [(usize, Vec<u8>); 2] {
    let v6 = frame6(from, addr6(from.number, 0), addr6(to.number, 0), 17, &udp(7));
    // Where the TTL is, and the packet.
    [(22, sound(from, to).build()), (21, v6)]
}

#[test]
fn a_packets_life_is_the_same_in_all_four_combinations() {
    for outside in Outside::BOTH {
        let (one, two) = dual_hosts(1, outside);
        for (ttl_at, sent) in both(&one, &two) {
            let (out, verdict) = leave(&one, &sent);
            assert_eq!((out.action, verdict), (Outcome::REDIRECT, Verdict::Encapsulated), "{outside:?}");
            assert_eq!(out.bytes.len(), sent.len() + outside.overhead());
            match outside {
                Outside::V4 => assert_eq!(checksum(&out.bytes[14..34]), 0),
                Outside::V6 => {
                    assert_eq!(out.bytes[22..38], vtep6(1).octets());
                    assert_eq!(out.bytes[38..54], vtep6(2).octets());
                    assert_eq!(out.bytes[60..62], [0, 0], "no UDP checksum");
                    assert_ne!(out.bytes[15..18], [0, 0, 0], "a flow label");
                }
            }
            let (arrived, verdict) = arrive(&two, &out.bytes);
            assert_eq!((arrived.action, verdict), (Outcome::REDIRECT, Verdict::Decapsulated), "{outside:?}");
            assert_eq!(arrived.bytes[..6], two.containers[0].mac);
            assert_eq!(arrived.bytes[ttl_at], 62, "two hops");
            // Beside the Ethernet addresses, only the TTL and an IPv4 header's checksum differ.
            let mut want = sent.clone();
            want[..12].copy_from_slice(&arrived.bytes[..12]);
            want[ttl_at] = 62;
            if ttl_at == 22 {
                assert_eq!(checksum(&arrived.bytes[14..34]), 0);
                want[24..26].copy_from_slice(&arrived.bytes[24..26]);
            }
            assert_eq!(arrived.bytes, want, "{outside:?}");
        }
    }
}

#[test]
fn an_ipv6_packet_between_containers_of_one_host_is_one_hop_older() {
    let (one, _two) = dual_hosts(2, Outside::V4);
    let sent = frame6(&one, addr6(1, 0), addr6(1, 1), 17, &udp(7));
    let (out, verdict) = leave(&one, &sent);
    assert_eq!((out.action, verdict), (Outcome::REDIRECT, Verdict::DeliveredLocally));
    assert_eq!(out.bytes[..6], one.containers[1].mac);
    assert_eq!(out.bytes[6..12], sent[..6]);
    assert_eq!(out.bytes[21], 63);
    assert_eq!(out.bytes[22..], sent[22..]);
}

#[test]
fn torn_packets_never_take_the_fast_path_and_are_never_dropped_without_a_name() {
    for outside in Outside::BOTH {
        let (one, two) = dual_hosts(1, outside);
        for (_, sent) in both(&one, &two) {
            let (wire, _) = leave(&one, &sent);
            let mut wire = wire.bytes;
            wire[..6].copy_from_slice(&two.netns.mac("u0"));
            let (uplink, device) = (two.netns.ifindex("u0"), one.containers[0].ifindex);
            let ends = [(&one, Program::FromContainer, &sent, device), (&two, Program::FromUplink, &wire, uplink)];
            for (host, program, whole, ifindex) in ends {
                // The kernel takes no test packet that is shorter than its Ethernet and IP header.
                for len in 54..whole.len() {
                    let (out, verdict) = run(host, program, &whole[..len], ifindex, 0);
                    let want = if verdict.is_drop() { Outcome::DROP } else { Outcome::STACK };
                    assert_eq!(out.action, want, "{program}, {outside:?}, cut to {len}: {verdict:?}");
                    assert!(verdict.is_drop() || out.bytes[..] == whole[..len], "{program}: changed, {verdict:?}");
                }
                for len in 0..54.min(whole.len()) {
                    let packet = Packet { bytes: &whole[..len], ifindex, gso_size: 0 };
                    if let Ok(out) = host.netns.enter(|| host.datapath.run(program, &packet)) {
                        assert_ne!(out.action, Outcome::REDIRECT, "{program}, {outside:?}, cut to {len}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_must_not_leave_a_container_is_dropped_by_name() {
    let (one, two) = dual_hosts(2, Outside::V4);
    let (own, peer) = (addr6(1, 0), addr6(2, 0));
    let link: Ipv6Addr = "fe80::cc".parse().unwrap();
    let group: Ipv6Addr = "ff02::1".parse().unwrap();
    let behind = |next: u8, inner: &[u8]| [&[next, 0, 1, 4, 0, 0, 0, 0], inner].concat();
    let fragment = |next: u8, inner: &[u8]| [&[next, 0, 0, 1, 0, 0, 0, 9], inner].concat();
    let nd = |kind: u8, target: Ipv6Addr| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    let chain = |n: usize| [vec![behind(60, &[]); n].concat(), behind(17, &udp(80))].concat();
    let f = |src: Ipv6Addr, dst: Ipv6Addr, next: u8, rest: &[u8]| frame6(&one, src, dst, next, rest);
    let foreign: Ipv6Addr = "fd00:10:245:1::5".parse().unwrap();
    let mut frames = vec![
        (f(addr6(1, 1), peer, 17, &udp(7)), Verdict::ContainerSpoofed),
        (f(peer, addr6(1, 1), 17, &udp(7)), Verdict::ContainerSpoofed),
        (f(link, peer, 17, &udp(7)), Verdict::ContainerSpoofed),
        (f(own, peer, 17, &udp(8472)), Verdict::ContainerInjects),
        (f(own, vtep6(2), 60, &behind(17, &udp(8472))), Verdict::ContainerInjects),
        (f(own, vtep6(2), 0, &behind(43, &behind(17, &udp(8472)))), Verdict::ContainerInjects),
        (f(own, vtep6(2), 44, &fragment(17, &udp(8472))), Verdict::ContainerInjects),
        (f(own, vtep6(2), 44, &fragment(60, &behind(17, &[]))), Verdict::ContainerHidden),
        (f(own, vtep6(2), 60, &chain(8)), Verdict::ContainerHidden),
        (f(own, foreign, 17, &udp(7)), Verdict::ContainerOtherNetwork),
        (f(own, group, 58, &nd(136, addr6(1, 1))), Verdict::ContainerSpoofedNd),
        (f(link, group, 58, &nd(136, "fe80::1".parse().unwrap())), Verdict::ContainerSpoofedNd),
        (f(link, group, 58, &nd(134, group)), Verdict::ContainerSpoofedNd),
        (f(link, group, 0, &behind(58, &nd(137, group))), Verdict::ContainerSpoofedNd),
        (f(own, group, 58, &nd(136, own)[..20]), Verdict::ContainerMalformed),
    ];
    let arp = |sender: [u8; 4]| {
        let mut arp = sound(&one, &two).build()[..12].to_vec();
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9]);
        arp.extend(sender);
        arp.extend([0; 10]);
        arp
    };
    frames.push((arp(one.containers[1].addr.octets()), Verdict::ContainerSpoofedArp));
    let mut foreign4 = sound(&one, &two);
    foreign4.dst = [10, 245, 0, 9].into();
    frames.push((foreign4.build(), Verdict::ContainerOtherNetwork));
    for (frame, want) in frames {
        let (out, verdict) = leave(&one, &frame);
        assert_eq!((out.action, verdict), (Outcome::DROP, want), "{frame:02x?}");
    }
    // The same in its own name is the stack's.
    let sound = [
        f(own, group, 58, &nd(136, own)),
        f(link, group, 58, &nd(135, own)),
        f(own, vtep6(2), 60, &chain(7)),
        f(own, vtep6(2), 44, &fragment(17, &udp(80))),
        arp(one.containers[0].addr.octets()),
        arp([0; 4]),
    ];
    for frame in sound {
        let (out, verdict) = leave(&one, &frame);
        assert_eq!(out.action, Outcome::STACK, "{verdict:?}: {frame:02x?}");
        assert_eq!(out.bytes, frame);
    }
}

#[test]
fn what_must_not_come_in_over_ipv6_is_dropped_by_name_and_the_rest_is_the_stacks() {
    let (one, two) = dual_hosts(1, Outside::V6);
    for (ttl_at, sent) in both(&one, &two) {
        let (wire, _) = leave(&one, &sent);
        let inner = 84;
        let change = |at: usize, value: u8| {
            let mut bytes = wire.bytes.clone();
            bytes[at] = value;
            bytes
        };
        // The third group of the inner source address is the host's number.
        let source = if ttl_at == 22 { inner + 14 } else { inner + 8 + 7 };
        let frames = [
            (change(37, 77), Verdict::UplinkUnknownPeer),
            (change(source, 2), Verdict::UplinkSpoofed),
            (change(inner, 0x35), Verdict::UplinkMalformed),
            (change(58, 0xff), Verdict::UplinkMalformed),
            (change(source, 5), Verdict::UplinkOtherSource),
            (change(68, 9), Verdict::UplinkOtherVni),
            (change(75, 9), Verdict::UplinkOtherMac),
            (change(60, 1), Verdict::UplinkOuterChecksum),
            (change(20, 60), Verdict::UplinkOuterOptions),
            (change(20, 44), Verdict::UplinkOuterFragment),
            (change(53, 9), Verdict::UplinkNotOverlay),
            (change(inner + ttl_at - 14, 1), Verdict::UplinkTtl),
        ];
        for (bytes, want) in frames {
            let (out, verdict) = arrive(&two, &bytes);
            let action = if want.is_drop() { Outcome::DROP } else { Outcome::STACK };
            assert_eq!((out.action, verdict), (action, want));
            assert!(want.is_drop() || out.bytes[6..] == bytes[6..]);
        }
    }
    let gone = frame6(&one, addr6(1, 0), subnet6(2), 17, &udp(7));
    let (wire, _) = leave(&one, &gone);
    assert_eq!(arrive(&two, &wire.bytes).1, Verdict::UplinkNotContainer);
}
