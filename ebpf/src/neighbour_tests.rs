//! What containers may say to their links.

use super::*;
use crate::packet::testing::Bytes;
use crate::testing::{World, ip, ip6, leave, udp_packet};

const DEVICE: u32 = 71;

fn verdict(mut packet: Bytes) -> Verdict {
    leave(&World::host(1), &mut packet).expect_err("takes the fast path")
}

/// An ARP packet that says `sender` is at the container's Ethernet address.
fn arp_from(operation: u8, sender: Be32) -> Bytes {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0xcc, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation, 2, 0xcc, 0, 0, 0, 1]);
    bytes.extend(sender.to_bytes());
    bytes.extend([0; 6]);
    bytes.extend([10, 244, 1, 1]);
    let mut packet = Bytes::new(bytes, DEVICE);
    packet.to_us = false;
    packet
}

/// An ICMPv6 message of a type with a target, from one address to another.
fn nd(kind: u8, src: &str, dst: &str, target: &str) -> Bytes {
    let mut payload = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(ip6(target).to_bytes());
    payload.extend([1, 1, 2, 0xcc, 0, 0, 0, 1]);
    udp_packet().v6().proto(58).ttl(255).src6(src).dst6(dst).payload(payload).through(DEVICE)
}

const OWN: &str = "fd00:10:244:1::5";
const LINK: &str = "fe80::cc:1";

#[test]
fn a_container_asks_and_answers_in_its_own_name() {
    for operation in [1, 2] {
        assert_eq!(verdict(arp_from(operation, ip(10, 244, 1, 5))), Verdict::ContainerNotIpv4);
        assert_eq!(verdict(arp_from(operation, Be32::ZERO)), Verdict::ContainerNotIpv4, "a probe");
    }
}

#[test]
fn arp_in_another_name_is_dropped() {
    let mut world = World::host(1);
    let other = *world.endpoints.values().next().unwrap();
    world.endpoints.insert(ip(10, 244, 1, 6), weft_abi::Endpoint { ifindex: DEVICE + 1, ..other });
    for sender in [ip(10, 244, 1, 6), ip(10, 244, 1, 1), ip(192, 168, 50, 1), ip(10, 244, 2, 5)] {
        for operation in [1, 2] {
            let got = leave(&world, &mut arp_from(operation, sender));
            assert_eq!(got, Err(Verdict::ContainerSpoofedArp), "{sender}");
        }
    }
}

#[test]
fn arp_that_is_cut_short_or_of_other_lengths_is_malformed() {
    let whole = arp_from(1, ip(10, 244, 1, 5)).bytes;
    for len in 14..whole.len() {
        assert_eq!(verdict(Bytes::new(whole[..len].to_vec(), DEVICE)), Verdict::ContainerMalformed, "cut to {len}");
    }
    for at in 14..20 {
        let mut packet = arp_from(1, ip(10, 244, 1, 5));
        packet.bytes[at] ^= 0x40;
        assert_eq!(verdict(packet), Verdict::ContainerMalformed, "byte {at}");
    }
}

#[test]
fn discovery_in_its_own_name_goes_to_the_stack() {
    let sound = [
        nd(135, OWN, "fe80::1", "fe80::1"),
        nd(135, LINK, "ff02::1:ff00:1", "fe80::1"),
        nd(135, "::", "ff02::1:ff00:5", OWN),
        nd(133, LINK, "ff02::2", "::"),
        nd(133, "::", "ff02::2", "::"),
        nd(136, OWN, "fe80::1", OWN),
        nd(136, LINK, "ff02::1", LINK),
        // Multicast listener reports and echo are nobody's claim.
        nd(143, "::", "ff02::16", "::"),
        nd(128, LINK, "ff02::1", "::"),
    ];
    for packet in sound {
        assert_eq!(verdict(packet), Verdict::ContainerElsewhere);
    }
}

#[test]
fn an_advertisement_for_another_address_is_dropped() {
    for target in ["fd00:10:244:1::6", "fd00:10:244:2::5", "fe80::1", "fd00:50::1"] {
        assert_eq!(verdict(nd(136, OWN, "ff02::1", target)), Verdict::ContainerSpoofedNd, "{target}");
        assert_eq!(verdict(nd(136, LINK, "ff02::1", target)), Verdict::ContainerSpoofedNd, "{target}");
    }
}

#[test]
fn no_container_is_a_router() {
    for kind in [134, 137] {
        assert_eq!(verdict(nd(kind, LINK, "ff02::1", "fe80::1")), Verdict::ContainerSpoofedNd);
        // Not behind an option either.
        let mut payload = vec![kind, 0, 0, 0];
        payload.extend([0; 40]);
        let hidden = udp_packet().v6().src6(LINK).dst6("ff02::1").proto(58).payload(payload);
        let hidden = hidden.extensions(0, vec![58, 0, 5, 2, 0, 0, 1, 0]);
        assert_eq!(verdict(hidden.through(DEVICE)), Verdict::ContainerSpoofedNd);
    }
}

#[test]
fn the_source_is_checked_before_the_message() {
    assert_eq!(verdict(nd(135, "fd00:10:244:1::6", "ff02::1:ff00:1", "fe80::1")), Verdict::ContainerSpoofed);
    assert_eq!(verdict(nd(136, "fd00:10:244:2::5", "ff02::1", OWN)), Verdict::ContainerSpoofed);
}

#[test]
fn discovery_that_is_cut_short_is_malformed() {
    let whole = nd(136, OWN, "fe80::1", OWN).bytes;
    for len in 54..54 + 24 {
        let mut bytes = whole[..len].to_vec();
        bytes[18..20].copy_from_slice(&(len as u16 - 54).to_be_bytes());
        assert_eq!(verdict(Bytes::new(bytes, DEVICE)), Verdict::ContainerMalformed, "cut to {len}");
    }
}

#[test]
fn what_is_on_the_link_is_told_by_its_first_bits() {
    assert!(is_link_local(ip6("fe80::1")) && is_link_local(ip6("febf::1")));
    assert!(!is_link_local(ip6("fec0::1")) && !is_link_local(ip6("fd80::1")));
    assert!(is_link_group(ip6("ff02::1")) && is_link_group(ip6("ff01::1")));
    assert!(!is_link_group(ip6("ff05::1")) && !is_link_group(ip6("ff12::1")));
}
