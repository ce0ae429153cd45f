//! Containers of two hosts that talk over IPv4 and IPv6, with either between the hosts, and what only shows on a real wire.

use std::net::IpAddr;

use weft_abi::{NextHop, Verdict};

use crate::dual::{Outside, addr6, dual_hosts, subnet6};
use crate::lab::{Container, Host, peer_key, run, subnet, vtep};
use crate::wire::{assert_fast, ping, segments, stream_to};

/// Both addresses of a host's first container.
fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.containers[0].addr.into(), addr6(host.number, 0).into()]
}

fn pings(from: &Container, to: IpAddr, count: u64) {
    // One by one: of several, ping waits for the last answer no longer than an interval.
    for _ in 0..count {
        let (ok, text) = ping(from, &format!("-c 1 {to}"));
        assert!(ok && text.contains(" 1 received"), "{to}: {text}");
    }
}

#[test]
fn containers_ping_each_other_on_the_fast_path_in_all_four_combinations() {
    for outside in Outside::BOTH {
        let (one, two) = dual_hosts(1, outside);
        // Without routes there is no kernel path: what arrives came by the programs.
        for (host, other) in [(&one, 2), (&two, 1)] {
            host.netns.ip(&format!("route del {}/24", subnet(other)));
            host.netns.ip(&format!("-6 route del {}/64", subnet6(other)));
        }
        let before = [&one, &two].map(Host::counters);
        for to in addresses(&two) {
            pings(&one.containers[0], to, 3);
        }
        for (host, before) in [&one, &two].into_iter().zip(&before) {
            let moved = host.since(before);
            assert_eq!(moved.get(&Verdict::Encapsulated), Some(&6), "{outside:?}: {moved:?}");
            assert_eq!(moved.get(&Verdict::Decapsulated), Some(&6), "{outside:?}: {moved:?}");
            assert!(moved.keys().all(|v| !v.is_drop()), "{outside:?}: {moved:?}");
        }
    }
}

#[test]
fn a_tcp_stream_arrives_whole_in_full_segments_in_all_four_combinations() {
    for outside in Outside::BOTH {
        let (one, two) = dual_hosts(1, outside);
        for to in addresses(&two) {
            let (before_one, before_two) = (one.counters(), two.counters());
            let total = 16 << 20;
            stream_to(&one.containers[0], &two.containers[0], to, total);
            let (sent, got) = (one.since(&before_one), two.since(&before_two));
            assert!(sent.keys().chain(got.keys()).all(|v| !v.is_drop()), "{sent:?} {got:?}");
            // IP header, TCP header and time stamps; a lowered gso_size would need more segments.
            let headers = if to.is_ipv4() { 52 } else { 72 };
            let fewest = (total / (1500 - outside.overhead() - headers)) as u64;
            let segments = sent[&Verdict::Encapsulated];
            assert!((fewest..fewest * 11 / 10).contains(&segments), "{to} over {outside:?}: {segments}, at least {fewest}");
            assert_eq!(got[&Verdict::Decapsulated], segments, "{to} over {outside:?}");
        }
    }
}

#[test]
fn segmented_udp_arrives_whole_in_all_four_combinations() {
    for outside in Outside::BOTH {
        let (one, two) = dual_hosts(1, outside);
        for to in addresses(&two) {
            let (before_one, before_two) = (one.counters(), two.counters());
            segments(&one.containers[0], &two.containers[0], to, 1300);
            let (sent, got) = (one.since(&before_one), two.since(&before_two));
            assert_eq!(sent.get(&Verdict::Encapsulated), Some(&100), "{to} over {outside:?}: pushed whole: {sent:?}");
            assert_eq!(got.get(&Verdict::UplinkGsoNotTcp), Some(&100), "{to} over {outside:?}: {got:?}");
        }
    }
}

#[test]
fn containers_of_one_host_talk_ipv6_without_the_stack() {
    let (one, _two) = dual_hosts(2, Outside::V4);
    let before = one.counters();
    stream_to(&one.containers[0], &one.containers[1], addr6(1, 1).into(), 16 << 20);
    let moved = one.since(&before);
    assert!(moved[&Verdict::DeliveredLocally] >= (16 << 20) / 1448, "{moved:?}");
    assert!(moved.keys().all(|v| !v.is_drop()), "{moved:?}");
}

#[test]
fn each_host_is_one_hop_of_ipv6() {
    let (one, _two) = dual_hosts(1, Outside::V4);
    let to = addr6(2, 0);
    let answer = |limit: u8| ping(&one.containers[0], &format!("-c 1 -t {limit} {to}")).1;
    let (first, second) = (answer(1), answer(2));
    let from = |n: u8| format!("From {} ", subnet6(n));
    assert!(first.contains("Hop limit") && first.contains(&from(1)), "{first}");
    assert!(second.contains("Hop limit") && second.contains(&from(2)), "the second hop is the other host: {second}");
    assert!(answer(3).contains(" 1 received"));
}

#[test]
fn the_sender_of_an_oversize_ipv6_packet_is_told() {
    for outside in Outside::BOTH {
        let (one, _two) = dual_hosts(1, outside);
        let from = &one.containers[0];
        from.netns.ip("link set eth0 mtu 1500");
        one.netns.ip(&format!("link set {} mtu 1500", from.device));
        let before = one.counters();
        let (longest, to) = (1500 - outside.overhead(), addr6(2, 0));
        let (ok, text) = ping(from, &format!("-c 1 -M do -s {} {to}", longest - 48 + 1));
        let told = [format!("mtu={longest}"), format!("mtu = {longest}")].iter().any(|mtu| text.contains(mtu));
        assert!(!ok && told, "{text}");
        assert_eq!(one.since(&before).get(&Verdict::ContainerTooBig), Some(&1));
        // Told once, the sender cuts its packets, and they arrive.
        let (ok, text) = ping(from, &format!("-c 1 -s 4000 {to}"));
        assert!(ok, "{outside:?}: {text}");
    }
}

#[test]
fn a_container_that_routes_into_the_overlay_again_loses_nothing() {
    for outside in Outside::BOTH {
        let (one, two) = dual_hosts(2, outside);
        let (client, router, server) = (&one.containers[0], &two.containers[0], &one.containers[1]);
        // What is for the router by TCP or UDP goes on to a third container, in the router's name.
        for (family, target) in [("ip", server.addr.to_string()), ("ip6", addr6(1, 1).to_string())] {
            let rules = format!(
                "table {family} t {{ chain p {{ type nat hook prerouting priority -100; meta l4proto {{ tcp, udp }} \
                 dnat to {target}; }}; chain q {{ type nat hook postrouting priority 100; masquerade; }}; }}"
            );
            let output = router.netns.command("nft").arg(rules).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            let (ok, text) = router.netns.try_run(&format!("sysctl -qw {key}=1"));
            assert!(ok, "{text}");
        }
        for to in addresses(&two) {
            let before = two.counters();
            stream_to(client, server, to, 4 << 20);
            segments(client, server, to, 1300);
            let moved = two.since(&before);
            assert!(moved.keys().all(|v| !v.is_drop()), "{to} over {outside:?}: {moved:?}");
            // A packet that was popped cannot be pushed once more (EALREADY): the stack takes it.
            assert!(moved.contains_key(&Verdict::ContainerRoomRefused), "{to} over {outside:?}: {moved:?}");
        }
    }
}

#[test]
fn a_next_hop_in_the_peers_row_spares_the_route() {
    let (mut one, two) = dual_hosts(1, Outside::V4);
    let to = two.containers[0].addr;
    pings(&one.containers[0], to.into(), 1);
    // A route that leads astray tells whether it is asked.
    one.netns.ip("route add 192.168.50.2/32 via 192.168.50.77 dev u0");
    let (ok, text) = one.containers[0].netns.try_run(&format!("ping -n -c 1 -W 1 {to}"));
    assert!(!ok, "without a next hop the route is asked: {text}");
    let maps = one.datapath.maps_mut();
    let mut row = maps.peers.get(&peer_key(2)).unwrap().unwrap();
    row.next_hop = NextHop::v4(vtep(2).into());
    maps.peers.put(peer_key(2), row).unwrap();
    let before = one.counters();
    pings(&one.containers[0], to.into(), 3);
    assert_fast(&one, &one.since(&before));
    // The neighbour entry is the kernel's own, made as packets needed it.
    assert!(run(&format!("ip -n {} neigh show dev u0", one.netns.name)).contains("192.168.50.2"));
}
