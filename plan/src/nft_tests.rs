//! The table as text, and what a change of the world changes in it.

use weft_model::cluster::ClusterConfig;
use weft_model::ids::NodeName;
use weft_model::mac::Mac;
use weft_model::network::{Backend, NetworkConfig, V6Range};

use super::*;
use crate::host::Attachment;
use crate::peers::Peer;

fn on() -> Masquerade {
    Masquerade { on: true, exclude: vec!["192.168.0.0/16".parse().unwrap(), "10.0.0.0/8".parse().unwrap()] }
}

fn off() -> Masquerade {
    Masquerade { on: false, exclude: Vec::new() }
}

fn container(n: u8) -> Attachment {
    Attachment {
        id: format!("c{n}"),
        address: Ipv4Addr::new(10, 244, 1, n),
        address6: Some(format!("fd00:10:244:1::{n}").parse().unwrap()),
        mac: Mac([2, 0, 0, 0, 0, n]),
        host_ifname: format!("weft00000000{n:02x}"),
        host_index: None,
        netns_cookie: 7,
        network: 0,
        publish: Vec::new(),
    }
}

fn host(containers: &[u8]) -> Host {
    Host {
        node: "h1".parse::<NodeName>().unwrap(),
        config: Some(NetworkConfig {
            v6: Some(V6Range::new("fd00:10:244::/48".parse().unwrap(), 64, None, None).unwrap()),
            ..NetworkConfig::new("10.244.0.0/16".parse().unwrap(), 24, None, None, Backend::default()).unwrap()
        }),
        subnet: Some("10.244.1.0/24".parse().unwrap()),
        subnet6: Some("fd00:10:244:1::/64".parse().unwrap()),
        vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
        vtep_mac6: Mac([2, 0, 0, 0, 6, 1]),
        uplink: None,
        attachments: containers.iter().map(|n| container(*n)).collect(),
        netns_cookie: 1,
        networks: Vec::new(),
    }
}

fn peers(numbers: &[u8]) -> Peers {
    let peer = |n: &u8| Peer {
        subnet: format!("10.244.{n}.0/24").parse().unwrap(),
        subnet6: Some(format!("fd00:10:244:{n}::/64").parse().unwrap()),
        outer: Ipv4Addr::new(192, 0, 2, *n).into(),
        outer6: Some(format!("2001:db8::{n}").parse().unwrap()),
        mac: Mac([2, 0, 0, 0, 1, *n]),
        mac6: Mac([2, 0, 0, 0, 1, *n]),
        node: None,
        mtu: None,
        fast: true,
        fast6: false,
        udp6zero: false,
        via: crate::Way::Overlay,
        via6: crate::Way::Overlay,
    };
    Peers { used: numbers.iter().map(peer).collect(), ..Peers::default() }
}

fn world(containers: &[u8], others: &[u8], masquerade: &Masquerade) -> Ruleset {
    desired(&ClusterConfig::default(), &host(containers), &peers(others), masquerade).unwrap()
}

fn said(to: &Ruleset, from: &Ruleset) -> Vec<String> {
    diff(Some(to), &Found::Ours(from.clone())).iter().map(ToString::to_string).collect()
}

#[test]
fn the_table_is_this_text() {
    let mut host = host(&[2]);
    host.attachments[0].publish = ["8080:80", "192.0.2.1:53:5353/udp", "127.0.0.1:1:1"].map(|p| p.parse().unwrap()).into();
    let ruleset = desired(&ClusterConfig::default(), &host, &peers(&[2, 3]), &on()).unwrap();
    let counts = [("uplink_unknown_peer".to_owned(), (3, 150))].into_iter().collect();
    let text = script(&[Action::Load { why: "" }], Some(&ruleset), &counts);
    let expected = r#"add table inet weft
delete table inet weft
table inet weft {
  counter container_spoofed_source { packets 0 bytes 0 }
  counter container_injects_overlay { packets 0 bytes 0 }
  counter uplink_spoofed_source { packets 0 bytes 0 }
  counter uplink_unknown_peer { packets 3 bytes 150 }
  counter container_other_network { packets 0 bytes 0 }
  set containers { type ifname . ipv4_addr; elements = { "weft0000000002" . 10.244.1.2 }; }
  set containers6 { type ifname . ipv6_addr; elements = { "weft0000000002" . fd00:10:244:1::2 }; }
  set peers { type ipv4_addr; flags interval; elements = { 10.244.2.0/24, 10.244.3.0/24 }; }
  set peers6 { type ipv6_addr; flags interval; elements = { fd00:10:244:2::/64, fd00:10:244:3::/64 }; }
  set vteps { type ipv4_addr; elements = { 192.0.2.2, 192.0.2.3 }; }
  set vteps6 { type ipv6_addr; elements = { 2001:db8::2, 2001:db8::3 }; }
  set inside { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0/16, 224.0.0.0/4 }; }
  set inside6 { type ipv6_addr; flags interval; elements = { fd00:10:244::/48, fd57:6566:7400::/112, fe80::/10, ff00::/8 }; }
  map ports { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { tcp . 8080 : 10.244.1.2 . 80 }; }
  map ports6 { type inet_proto . inet_service : ipv6_addr . inet_service; elements = { tcp . 8080 : fd00:10:244:1::2 . 80 }; }
  map bound { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; elements = { 192.0.2.1 . udp . 53 : 10.244.1.2 . 5353 }; }
  map bound6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
  chain hidden {
    meta l4proto != udp return
    udp dport != 8472 return
    counter name "container_injects_overlay" drop
  }
  chain sources {
    type filter hook prerouting priority raw; policy accept;
    iifname != "weft*" accept
    iifname { "weft.1", "weft6.1" } ip saddr != @peers counter name "uplink_spoofed_source" drop
    iifname { "weft.1", "weft6.1" } ip6 saddr != @peers6 counter name "uplink_spoofed_source" drop
    iifname { "weft.1", "weft6.1" } accept
    iifname . ip saddr != @containers counter name "container_spoofed_source" drop
    udp dport 8472 counter name "container_injects_overlay" drop
    frag frag-off 0 jump hidden
    ip6 saddr { ::, fe80::/10 } ip6 daddr { fe80::/10, ff02::/16 } accept
    iifname . ip6 saddr != @containers6 counter name "container_spoofed_source" drop
  }
  chain uplink {
    type filter hook input priority filter - 10; policy accept;
    udp dport 8472 @th,96,24 1 ip saddr != @vteps counter name "uplink_unknown_peer" drop
    udp dport 8472 @th,96,24 1 ip6 saddr != @vteps6 counter name "uplink_unknown_peer" drop
  }
  chain outside {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.244.1.0/24 ip daddr != @inside oifname != "lo" oifname != "weft*" masquerade fully-random
    ip6 saddr fd00:10:244:1::/64 ip6 daddr != @inside6 oifname != "lo" oifname != "weft*" masquerade fully-random
  }
  chain published {
    meta l4proto != { tcp, udp } return
    udp dport 8472 return
    ip daddr { 10.244.0.0/16, 127.0.0.0/8 } return
    ip6 daddr { fe80::/10, ::1/128, fd00:10:244::/48 } return
    fib daddr type != local return
    meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @bound
    meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @bound6
    meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport map @ports
    meta l4proto { tcp, udp } dnat ip6 to meta l4proto . th dport map @ports6
  }
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    jump published
  }
  chain leaving {
    type nat hook output priority -100; policy accept;
    jump published
  }
  chain back {
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat oifname "weft*" ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 snat ip to 10.244.1.1
    ct status dnat oifname "weft*" ip6 saddr fd00:10:244::/48 ip6 daddr fd00:10:244:1::/64 snat ip6 to fd00:10:244:1::1
  }
}
"#;
    assert_eq!(text, expected);
}

#[test]
fn without_masquerade_there_is_no_nat_chain_until_something_is_published() {
    let load = |ruleset: &Ruleset| script(&[Action::Load { why: "" }], Some(ruleset), &BTreeMap::new());
    let text = load(&world(&[2], &[], &off()));
    assert!(!text.contains("nat") && text.contains("drop"), "{text}");
    let mut host = host(&[2]);
    host.attachments[0].publish = vec!["8080:80".parse().unwrap()];
    let published = desired(&ClusterConfig::default(), &host, &peers(&[]), &off()).unwrap();
    let text = load(&published);
    assert!(text.contains("dnat") && text.contains("snat") && !text.contains("masquerade"), "{text}");
}

#[test]
fn a_published_port_costs_its_elements_only() {
    let before = world(&[2], &[], &on());
    let mut host = host(&[2]);
    host.attachments[0].publish = vec!["8080-8081:80-81".parse().unwrap()];
    let after = desired(&ClusterConfig::default(), &host, &peers(&[]), &on()).unwrap();
    assert_eq!(
        said(&after, &before),
        [
            "add tcp . 8080 : 10.244.1.2 . 80 to nft map inet weft ports",
            "add tcp . 8081 : 10.244.1.2 . 81 to nft map inet weft ports",
            "add tcp . 8080 : fd00:10:244:1::2 . 80 to nft map inet weft ports6",
            "add tcp . 8081 : fd00:10:244:1::2 . 81 to nft map inet weft ports6",
        ]
    );
    assert_eq!(said(&before, &after).len(), 4);
}

#[test]
fn a_peer_may_answer_by_the_tunnel_what_came_beside_it_under_a_containers_own_address() {
    let elements = |masquerade: &Masquerade| {
        let ruleset = world(&[], &[2, 3], masquerade);
        ruleset.sets[&Set::Peers].iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let subnets = ["10.244.2.0/24", "10.244.3.0/24"];
    assert_eq!(elements(&on()), subnets);
    assert_eq!(elements(&off()), [&subnets[..], &["192.0.2.2/32", "192.0.2.3/32"]].concat());
    let third = Masquerade { on: true, exclude: vec!["192.0.2.3/32".parse().unwrap()] };
    assert_eq!(elements(&third), [&subnets[..], &["192.0.2.3/32"]].concat());
}

#[test]
fn network_and_service_ranges_are_never_outside() {
    let ruleset = world(&[], &[], &Masquerade { on: true, exclude: Vec::new() });
    let inside = |set: Set| ruleset.sets[&set].iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(inside(Set::Inside), ["10.112.0.0/16", "10.244.0.0/16", "224.0.0.0/4"]);
    assert_eq!(inside(Set::Inside6), ["fd00:10:244::/48", "fd57:6566:7400::/112", "fe80::/10", "ff00::/8"]);
}

#[test]
fn addresses_that_the_outside_can_answer_are_not_rewritten() {
    let global = Host { subnet6: Some("2001:db8:7::/64".parse().unwrap()), ..host(&[2]) };
    let ruleset = desired(&ClusterConfig::default(), &global, &peers(&[2]), &on()).unwrap();
    assert_eq!((ruleset.shape.masquerade.is_some(), ruleset.shape.masquerade6), (true, None));
}

#[test]
fn a_container_or_a_peer_costs_its_elements_only() {
    let before = world(&[2], &[2], &on());
    let after = world(&[3], &[2, 5], &on());
    assert_eq!(
        said(&after, &before),
        [
            "remove \"weft0000000002\" . 10.244.1.2 from nft set inet weft containers",
            "add \"weft0000000003\" . 10.244.1.3 to nft set inet weft containers",
            "remove \"weft0000000002\" . fd00:10:244:1::2 from nft set inet weft containers6",
            "add \"weft0000000003\" . fd00:10:244:1::3 to nft set inet weft containers6",
            "add 10.244.5.0/24 to nft set inet weft peers",
            "add fd00:10:244:5::/64 to nft set inet weft peers6",
            "add 192.0.2.5 to nft set inet weft vteps",
            "add 2001:db8::5 to nft set inet weft vteps6",
        ]
    );
    let actions = diff(Some(&after), &Found::Ours(before));
    let text = script(&actions, Some(&after), &BTreeMap::new());
    assert_eq!(text.lines().nth(1).unwrap(), "add element inet weft containers { \"weft0000000003\" . 10.244.1.3 }");
    assert_eq!(text.lines().count(), 8);
}

#[test]
fn what_devices_may_send_that_are_gone_may_stay_but_for_a_device_that_is_a_containers_again() {
    let (before, now) = (world(&[2, 3], &[], &on()), world(&[3], &[], &on()));
    let found = Found::Ours(before.clone());
    let kept = |gone: bool| with_leftovers(&now, &found, |_| gone);
    assert_eq!(kept(true), (before.clone(), true));
    assert_eq!(kept(false), (now.clone(), false), "it is there, and might send");
    assert_eq!(with_leftovers(&now, &Found::Altered, |_| true), (now.clone(), false));
    assert_eq!(with_leftovers(&before, &found, |_| true), (before.clone(), false), "nothing is left");
    // The device is there again and has another address: it may not send what the other one might.
    let mut again = before.clone();
    let sources = again.sets.get_mut(&Set::Containers).unwrap();
    let old = sources.pop_first().unwrap();
    let Element::Source(device, _) = old.clone() else { panic!("{old:?}") };
    sources.insert(Element::Source(device, "10.244.3.99".parse().unwrap()));
    let (kept, left) = with_leftovers(&again, &found, |_| true);
    assert!(!left && !kept.sets[&Set::Containers].contains(&old), "{kept:?}");
}

#[test]
fn ranges_that_the_kernel_lists_joined_are_the_same_ranges() {
    let ruleset = world(&[], &[2, 3], &on());
    let mut listed = ruleset.clone();
    listed.sets.insert(Set::Peers, [Element::Net("10.244.2.0/23".parse().unwrap())].into());
    assert_eq!(said(&ruleset, &listed), Vec::<String>::new());
    listed.sets.insert(Set::Peers, [Element::Net("10.244.2.0/25".parse().unwrap())].into());
    assert_eq!(said(&ruleset, &listed)[0], "remove 10.244.2.0/25 from nft set inet weft peers");
}

#[test]
fn another_shape_altered_rules_and_a_missing_table_load_the_whole() {
    let ruleset = world(&[2], &[2], &on());
    for found in [Found::Nothing, Found::Altered, Found::Ours(world(&[2], &[2], &off()))] {
        let actions = diff(Some(&ruleset), &found);
        assert!(matches!(actions.as_slice(), [Action::Load { .. }]), "{found:?}: {actions:?}");
    }
    assert_eq!(diff(Some(&ruleset), &Found::Ours(ruleset.clone())), []);
}

#[test]
fn without_a_network_the_table_goes() {
    let nowhere = Host { subnet: None, ..host(&[2]) };
    assert_eq!(desired(&ClusterConfig::default(), &nowhere, &peers(&[2]), &on()), None);
    assert_eq!(diff(None, &Found::Nothing), []);
    let actions = diff(None, &Found::Altered);
    assert_eq!(script(&actions, None, &BTreeMap::new()), "add table inet weft\ndelete table inet weft\n");
}

#[test]
fn networks_are_kept_apart_and_each_has_its_own_peers() {
    let config = |cidr: &str, vni| {
        let backend = Backend { vni, ..Backend::default() };
        NetworkConfig::new(cidr.parse().unwrap(), 24, None, None, backend).unwrap()
    };
    let blue = crate::Membership {
        name: "blue".parse().unwrap(),
        number: 2,
        config: config("10.245.0.0/16", 7),
        subnet: "10.245.1.0/24".parse().unwrap(),
        vtep_mac: Mac([2, 0, 0, 0, 0, 7]),
        vtep_mac6: Mac([2, 0, 0, 0, 6, 7]),
    };
    let host = Host { networks: vec![blue], ..host(&[2]) };
    let mut of_blue = peers(&[9]);
    of_blue.used[0].subnet = "10.245.9.0/24".parse().unwrap();
    let peers = Peers { others: [(2, of_blue)].into(), ..peers(&[2]) };
    let masquerade = Masquerade { on: true, exclude: Vec::new() };
    let wanted = desired(&ClusterConfig::default(), &host, &peers, &masquerade).unwrap();
    let text = script(&diff(Some(&wanted), &Found::Nothing), Some(&wanted), &BTreeMap::new());
    for rule in [
        "ip saddr 10.244.0.0/16 ip daddr 10.245.0.0/16 counter name \"container_other_network\" drop",
        "ip saddr 10.245.0.0/16 ip daddr 10.244.0.0/16 counter name \"container_other_network\" drop",
        "iifname { \"weft.7\", \"weft6.7\" } ip saddr != 10.245.9.0/24 counter name \"uplink_spoofed_source\" drop",
        "iifname { \"weft.7\", \"weft6.7\" } accept",
        "udp dport 8472 @th,96,24 7 ip6 saddr != 2001:db8::9 counter name \"uplink_unknown_peer\" drop",
        "udp dport 8472 @th,96,24 7 ip saddr != 192.0.2.9 counter name \"uplink_unknown_peer\" drop",
        "ip saddr { 10.244.1.0/24, 10.245.1.0/24 } ip daddr != @inside",
    ] {
        assert!(text.contains(rule), "{rule} is not in\n{text}");
    }
    assert!(text.contains("elements = { 10.112.0.0/16, 10.244.0.0/15"), "both ranges are inside: {text}");
    // A change of its peers reaches the rules.
    let fewer = desired(&ClusterConfig::default(), &host, &Peers { others: BTreeMap::new(), ..peers }, &masquerade).unwrap();
    let actions = diff(Some(&fewer), &Found::Ours(wanted));
    assert!(matches!(actions.as_slice(), [Action::Load { .. }]), "{actions:?}");
    let text = script(&actions, Some(&fewer), &BTreeMap::new());
    assert!(text.contains("iifname { \"weft.7\", \"weft6.7\" } counter name \"uplink_spoofed_source\" drop"), "{text}");
}
