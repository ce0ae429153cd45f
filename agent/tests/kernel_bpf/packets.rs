//! Single packets through the real programs and maps (BPF_PROG_TEST_RUN): what comes out of one host goes into the other.

use std::net::Ipv4Addr;

use weft_abi::{Mac, Verdict};
use weft_agent::kernel::bpf::Program;
use weft_agent::kernel::bpf::run::{Outcome, Packet};

use crate::lab::{Host, two_hosts, vtep, vtep_mac};

/// An Ethernet frame with IPv4 and UDP in it.
pub struct Frame {
    pub eth_dst: Mac,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    pub fragment: u16,
    pub options: usize,
    pub proto: u8,
    pub port: u16,
    pub payload: usize,
}

impl Frame {
    pub fn build(&self) -> Vec<u8> {
        let mut ip = vec![0x45 + (self.options / 4) as u8, 0];
        ip.extend(((20 + self.options + 8 + self.payload) as u16).to_be_bytes());
        ip.extend([0, 1]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, self.proto, 0, 0]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        ip.extend(vec![1; self.options]);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = self.eth_dst.to_vec();
        frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
        frame.extend(ip);
        frame.extend(40_000_u16.to_be_bytes());
        frame.extend(self.port.to_be_bytes());
        frame.extend(((8 + self.payload) as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(vec![0x5a; self.payload]);
        frame
    }
}

pub fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A sound packet from a host's first container to another host's.
pub fn sound(from: &Host, to: &Host) -> Frame {
    Frame {
        eth_dst: from.netns.mac(&from.containers[0].device),
        src: from.containers[0].addr,
        dst: to.containers[0].addr,
        ttl: 64,
        fragment: 0x4000,
        options: 0,
        proto: 17,
        port: 7,
        payload: 100,
    }
}

/// Runs one packet; the outcome, and the one verdict that was counted for it. Again if frames of the kernel's own (router
/// solicitations, ARP) passed by meanwhile.
pub fn run(host: &Host, program: Program, bytes: &[u8], ifindex: u32, gso_size: u32) -> (Outcome, Verdict) {
    for _ in 0..200 {
        let before = host.counters();
        let outcome = host.netns.enter(|| host.datapath.run(program, &Packet { bytes, ifindex, gso_size }).unwrap());
        let moved = host.since(&before);
        let mut verdicts = moved.keys();
        if let (Some(verdict), None) = (verdicts.next(), verdicts.next()) {
            return (outcome, *verdict);
        }
        assert!(!moved.is_empty(), "no verdict is counted");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{program}: other packets never cease");
}

pub fn leave(host: &Host, bytes: &[u8]) -> (Outcome, Verdict) {
    run(host, Program::FromContainer, bytes, host.containers[0].ifindex, 0)
}

pub fn arrive(host: &Host, bytes: &[u8]) -> (Outcome, Verdict) {
    // The outer Ethernet addresses come from the neighbour table, after the program.
    let mut bytes = bytes.to_vec();
    bytes[..6].copy_from_slice(&host.netns.mac("u0"));
    run(host, Program::FromUplink, &bytes, host.netns.ifindex("u0"), 0)
}

#[test]
fn a_packets_life_from_container_to_container() {
    let (one, two) = two_hosts(1);
    let sent = sound(&one, &two).build();

    let (out, verdict) = leave(&one, &sent);
    assert_eq!((out.action, verdict), (Outcome::REDIRECT, Verdict::Encapsulated));
    assert_eq!(out.bytes.len(), sent.len() + 50);
    let ip = &out.bytes[14..34];
    assert_eq!(checksum(ip), 0, "the outer header's checksum holds");
    assert_eq!(ip[12..16], vtep(1).octets());
    assert_eq!(ip[16..20], vtep(2).octets());
    assert_eq!(out.bytes[36..38], 8472_u16.to_be_bytes());
    assert_eq!(out.bytes[42..50], [8, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(out.bytes[50..56], vtep_mac(2));
    assert_eq!(out.bytes[56..62], vtep_mac(1));

    let (arrived, verdict) = arrive(&two, &out.bytes);
    assert_eq!((arrived.action, verdict), (Outcome::REDIRECT, Verdict::Decapsulated));
    assert_eq!(arrived.bytes.len(), sent.len());
    assert_eq!(arrived.bytes[..6], two.containers[0].mac);
    assert_eq!(arrived.bytes[22], 62, "two hops");
    assert_eq!(checksum(&arrived.bytes[14..34]), 0);
    assert_eq!(arrived.bytes[26..], sent[26..], "addresses, ports and payload are as they were sent");
}

#[test]
fn outer_identifications_differ_and_ports_follow_the_flow() {
    let (one, two) = two_hosts(1);
    let sent = sound(&one, &two).build();
    let (a, _) = leave(&one, &sent);
    let (b, _) = leave(&one, &sent);
    assert_ne!(a.bytes[18..20], b.bytes[18..20], "identification");
    assert_eq!(a.bytes[34..36], b.bytes[34..36], "one flow, one source port");
    let ports: std::collections::BTreeSet<_> = (0..16)
        .map(|i| {
            let (out, _) = leave(&one, &Frame { port: 1000 + i, ..sound(&one, &two) }.build());
            (out.bytes[34], out.bytes[35])
        })
        .collect();
    assert!(ports.len() > 8, "{ports:?}");
}

#[test]
fn a_packet_between_containers_of_one_host_is_one_hop_older() {
    let (one, _two) = two_hosts(2);
    let sent = Frame { dst: one.containers[1].addr, ..sound(&one, &one) }.build();
    let (out, verdict) = leave(&one, &sent);
    assert_eq!((out.action, verdict), (Outcome::REDIRECT, Verdict::DeliveredLocally));
    assert_eq!(out.bytes[..6], one.containers[1].mac);
    assert_eq!(out.bytes[6..12], sent[..6], "the sender is the host");
    assert_eq!(out.bytes[22], 63);
    assert_eq!(checksum(&out.bytes[14..34]), 0);
}

#[test]
fn what_must_not_leave_a_container_is_dropped_by_name() {
    let (one, two) = two_hosts(2);
    let frames = [
        (Frame { src: one.containers[1].addr, ..sound(&one, &two) }, Verdict::ContainerSpoofed),
        (Frame { src: two.containers[0].addr, ..sound(&one, &two) }, Verdict::ContainerSpoofed),
        (Frame { port: 8472, ..sound(&one, &two) }, Verdict::ContainerInjects),
        (Frame { port: 8472, options: 4, dst: vtep(2), ..sound(&one, &two) }, Verdict::ContainerInjects),
    ];
    for (frame, want) in frames {
        let (out, verdict) = leave(&one, &frame.build());
        assert_eq!((out.action, verdict), (Outcome::DROP, want));
    }
    let mut lying = sound(&one, &two).build();
    lying[16] = 0xff;
    let (out, verdict) = leave(&one, &lying);
    assert_eq!((out.action, verdict), (Outcome::DROP, Verdict::ContainerMalformed));
}

#[test]
fn what_the_stack_does_better_is_handed_to_it_untouched() {
    let (one, two) = two_hosts(1);
    let frames = [
        (Frame { ttl: 1, ..sound(&one, &two) }, Verdict::ContainerTtl),
        (Frame { fragment: 0x2000, ..sound(&one, &two) }, Verdict::ContainerFragment),
        (Frame { fragment: 0x0010, ..sound(&one, &two) }, Verdict::ContainerFragment),
        (Frame { options: 8, ..sound(&one, &two) }, Verdict::ContainerOptions),
        (Frame { payload: 1423, ..sound(&one, &two) }, Verdict::ContainerTooBig),
        (Frame { dst: Ipv4Addr::new(192, 0, 2, 1), ..sound(&one, &two) }, Verdict::ContainerElsewhere),
        (Frame { eth_dst: [2, 0, 0, 9, 9, 9], ..sound(&one, &two) }, Verdict::ContainerNotToUs),
    ];
    for (frame, want) in frames {
        let sent = frame.build();
        let (out, verdict) = leave(&one, &sent);
        assert_eq!((out.action, verdict), (Outcome::STACK, want));
        assert_eq!(out.bytes, sent);
    }
    let (out, verdict) = leave(&one, &Frame { payload: 1422, ..sound(&one, &two) }.build());
    assert_eq!((out.action, verdict), (Outcome::REDIRECT, Verdict::Encapsulated), "1450 bytes fit");
}

#[test]
fn what_must_not_come_in_is_dropped_by_name() {
    let (one, two) = two_hosts(1);
    let (sound, _) = leave(&one, &sound(&one, &two).build());
    let change = |at: usize, value: u8| {
        let mut bytes = sound.bytes.clone();
        bytes[at] = value;
        bytes
    };
    let frames = [
        (change(29, 77), Verdict::UplinkUnknownPeer),
        // The inner source is of our own subnet.
        (change(78, 2), Verdict::UplinkSpoofed),
        (change(66, 0xff), Verdict::UplinkMalformed),
        (change(15, 3), Verdict::UplinkEcn),
    ];
    for (bytes, want) in frames {
        let (out, verdict) = arrive(&two, &bytes);
        assert_eq!((out.action, verdict), (Outcome::DROP, want));
    }
    for len in [42, 50, 63, 64, 83] {
        let mut bytes = sound.bytes[..len].to_vec();
        bytes[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
        bytes[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
        let (out, verdict) = arrive(&two, &bytes);
        assert_eq!((out.action, verdict), (Outcome::DROP, Verdict::UplinkMalformed), "cut to {len}");
    }
}

#[test]
fn what_arrives_for_the_stack_is_handed_to_it_untouched() {
    let (one, two) = two_hosts(1);
    let (sound, _) = leave(&one, &sound(&one, &two).build());
    let change = |at: usize, value: u8| {
        let mut bytes = sound.bytes.clone();
        bytes[at] = value;
        bytes
    };
    let frames = [
        (change(83, 99), Verdict::UplinkNotContainer),
        (change(48, 9), Verdict::UplinkOtherVni),
        (change(72, 1), Verdict::UplinkTtl),
        (change(70, 0x20), Verdict::UplinkInnerFragment),
        (change(20, 0x20), Verdict::UplinkOuterFragment),
        (change(40, 1), Verdict::UplinkOuterChecksum),
        (change(77, 5), Verdict::UplinkOtherSource),
        (change(55, 9), Verdict::UplinkOtherMac),
    ];
    for (bytes, want) in frames {
        let (out, verdict) = arrive(&two, &bytes);
        assert_eq!((out.action, verdict), (Outcome::STACK, want));
        assert_eq!(out.bytes[6..], bytes[6..]);
    }
    let udp_segments = {
        let mut bytes = sound.bytes.clone();
        bytes[..6].copy_from_slice(&two.netns.mac("u0"));
        run(&two, Program::FromUplink, &bytes, two.netns.ifindex("u0"), 50)
    };
    assert_eq!((udp_segments.0.action, udp_segments.1), (Outcome::STACK, Verdict::UplinkGsoNotTcp));
}
