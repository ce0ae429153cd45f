//! The order of map writes, and the rows of special hosts.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use proptest::prelude::*;
use weft_model::network::{Backend, NetworkConfig};

use super::*;
use crate::host::{Attachment, Uplink};

fn rows() -> impl Strategy<Value = Rows> {
    fn some<V: std::fmt::Debug + Clone + 'static, K: Ord + std::fmt::Debug + Clone + 'static>(
        key: impl Fn(u32) -> K + Clone + 'static,
        value: impl Fn(u32) -> V + Clone + 'static,
    ) -> impl Strategy<Value = BTreeMap<K, V>> {
        prop::collection::btree_map((0..6u32).prop_map(key), (0..3u32).prop_map(value), 0..5)
    }
    fn be128(n: u32) -> Be128 {
        Be128::from_words([Be32::ZERO, Be32::ZERO, Be32::ZERO, Be32::from_native(n)])
    }
    fn peer(mtu: u32) -> Peer {
        Peer { mtu, ..Peer::default() }
    }
    fn endpoint(ifindex: u32) -> Endpoint {
        Endpoint { ifindex, network: ifindex % 2, ..Endpoint::default() }
    }
    let of_network = (
        0..3u32,
        some(|n| n, |vni| Network { vni, ..Network::default() }),
        some(|n| PeerKey { network: n % 3, subnet: Be32::from_native(n) }, peer),
        some(|n| PeerKey6 { network: n % 3, subnet: be128(n) }, peer),
        some(|n| VtepKey { vni: n % 2, outer: be128(n / 2) }, |network| Vtep { network, flags: 0 }),
        some(|n| RangeKey { prefix_len: 64, addr: be128(n) }, |n| n),
    );
    fn port(n: u32) -> PortKey {
        PortKey { addr: be128(n), ..PortKey::default() }
    }
    let ports = some(port, |n| PortTarget { addr: be128(n), ..PortTarget::default() });
    let of_containers = (some(Be32::from_native, endpoint), some(be128, endpoint), some(u64::from, |n| n), ports);
    (of_network, of_containers).prop_map(|(of_network, (endpoints, endpoints6, netns, ports))| {
        let (uplink, networks, peers, peers6, vteps, ranges) = of_network;
        let flags = if ports.is_empty() { 0 } else { Config::PUBLISHED };
        let config = Config { uplink, flags, ..Config::default() };
        Rows { config, networks, peers, peers6, vteps, ranges, endpoints, endpoints6, netns, ports }
    })
}

proptest! {
    #[test]
    fn applying_reaches_the_desired_rows_from_any_point(desired in rows(), mut actual in rows(), stop in 0..30usize) {
        for action in diff(&desired, &actual).iter().take(stop) {
            actual.apply(action);
        }
        for action in diff(&desired, &actual) {
            actual.apply(&action);
        }
        prop_assert_eq!(&actual, &desired);
        prop_assert!(diff(&desired, &actual).is_empty());
    }
}

/// Which rows of what a network needs are there.
fn of_network(rows: &Rows, network: u32) -> BTreeSet<String> {
    let peers = rows.peers.keys().filter(|k| k.network == network).map(|k| format!("{k:?}"));
    let peers6 = rows.peers6.keys().filter(|k| k.network == network).map(|k| format!("{k:?}"));
    let vteps = rows.vteps.iter().filter(|(k, v)| v.network == network && !k.outer.is_zero()).map(|(k, _)| format!("{k:?}"));
    let endpoints = rows.endpoints.iter().filter(|(_, e)| e.network == network).map(|(k, _)| format!("{k:?}"));
    let endpoints6 = rows.endpoints6.iter().filter(|(_, e)| e.network == network).map(|(k, _)| format!("{k:?}"));
    peers.chain(peers6).chain(vteps).chain(endpoints).chain(endpoints6).collect()
}

/// Every row, by its map and key.
fn keys(rows: &Rows) -> BTreeSet<String> {
    let Rows { config: _, networks, peers, peers6, vteps, ranges, endpoints, endpoints6, netns, ports } = rows;
    let all = networks.keys().map(|k| format!("networks {k}")).chain(peers.keys().map(|k| format!("peers {k:?}")));
    let all = all.chain(peers6.keys().map(|k| format!("peers6 {k:?}"))).chain(vteps.keys().map(|k| format!("vteps {k:?}")));
    let all = all.chain(ranges.keys().map(|k| format!("ranges {k:?}"))).chain(netns.keys().map(|k| format!("netns {k}")));
    let all = all.chain(endpoints.keys().map(|k| format!("endpoints {k}"))).chain(ports.keys().map(|k| format!("ports {k:?}")));
    all.chain(endpoints6.keys().map(|k| format!("endpoints6 {k}"))).collect()
}

proptest! {
    #[test]
    fn no_reader_meets_a_row_before_what_it_leads_to(desired in rows(), mut actual in rows(), stop in 0..30usize) {
        // From any world to any world, stopped anywhere, and another time from there.
        for (desired, stop) in [(&desired, stop), (&desired, usize::MAX)] {
            let kept: BTreeSet<String> = keys(desired).intersection(&keys(&actual)).cloned().collect();
            for action in diff(desired, &actual).iter().take(stop) {
                match action {
                    Action::PutNetwork(network, _) => {
                        let (there, wanted) = (of_network(&actual, *network), of_network(desired, *network));
                        prop_assert!(there.is_superset(&wanted), "{action}: {wanted:?} comes first, there is {there:?}");
                    }
                    Action::PutConfig(config) if config.is_publishing() => {
                        prop_assert!(desired.ports.keys().all(|key| actual.ports.contains_key(key)), "{action}");
                    }
                    Action::PutVtep(key, vtep) if key.outer.is_zero() && desired.networks.contains_key(&vtep.network) => {
                        prop_assert!(actual.networks.get(&vtep.network) == desired.networks.get(&vtep.network), "{action}");
                    }
                    Action::DeletePeer(PeerKey { network, .. }) | Action::DeletePeer6(PeerKey6 { network, .. }) => {
                        prop_assert!(desired.networks.contains_key(network) || !actual.networks.contains_key(network), "{action}");
                    }
                    // Who may send in a network goes after what makes the programs ask.
                    Action::DeleteVtep(key) if !key.outer.is_zero() => {
                        let own = VtepKey::own(key.vni);
                        prop_assert!(desired.vteps.contains_key(&own) || !actual.vteps.contains_key(&own), "{action}");
                    }
                    _ => {}
                }
                actual.apply(action);
                prop_assert!(keys(&actual).is_superset(&kept), "{action}: takes away what both have");
            }
        }
        prop_assert_eq!(actual, desired);
    }
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn host() -> Host {
    Host {
        node: "h1".parse().unwrap(),
        config: Some(NetworkConfig::new(net("10.244.0.0/16"), 24, None, None, Backend::default()).unwrap()),
        subnet: Some(net("10.244.1.0/24")),
        subnet6: None,
        vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
        vtep_mac6: Mac([2, 0, 0, 0, 6, 1]),
        uplink: Some(Uplink {
            name: "eth0".into(),
            index: 2,
            address: Some([192, 0, 2, 1].into()),
            address6: None,
            public_ip: Some([192, 0, 2, 1].into()),
            public_ipv6: None,
            mtu: 1500,
            ethernet: true,
            on_link: crate::OnLink::default(),
        }),
        attachments: vec![Attachment {
            id: "web-1".into(),
            address: [10, 244, 1, 2].into(),
            address6: None,
            mac: Mac([10, 88, 10, 244, 1, 2]),
            host_ifname: "weft0000000001".into(),
            host_index: Some(7),
            netns_cookie: 42,
            network: 1,
            publish: Vec::new(),
        }],
        netns_cookie: 1,
        networks: Vec::new(),
    }
}

fn peers() -> Peers {
    let peer = |n: u8, subnet: &str, mtu| HostPeer {
        subnet: net(subnet),
        subnet6: None,
        outer: [192, 0, 2, n].into(),
        outer6: None,
        mac: Mac([2, 0, 0, 0, 0, n]),
        mac6: Mac([2, 0, 0, 0, 0, n]),
        node: None,
        mtu,
        fast: subnet.ends_with("/24"),
        fast6: false,
        udp6zero: false,
        via: Way::Overlay,
        via6: Way::Overlay,
    };
    let used = vec![peer(2, "10.244.2.0/24", None), peer(3, "10.244.4.0/23", None), peer(4, "10.244.8.0/24", Some(1400))];
    Peers { used, ..Peers::default() }
}

#[test]
fn a_subnet_of_another_length_has_a_vtep_but_no_fast_path() {
    let rows = desired(&ClusterConfig::default(), &host(), &peers());
    assert_eq!(rows.vteps.len(), 4, "three peers, and the row that makes the VNI ours");
    let mtus: Vec<_> = rows.peers.iter().map(|(key, peer)| (key.subnet.to_string(), peer.mtu)).collect();
    assert_eq!(mtus, [("10.244.2.0".to_owned(), 1450), ("10.244.8.0".to_owned(), 1400)]);
    assert_eq!(rows.netns, BTreeMap::from([(1, NETWORK_ALL), (42, 1)]));
    assert_eq!(rows.endpoints.len(), 1);
}

/// [`host`], with IPv6 inside and outside.
fn dual_stack() -> Host {
    let mut host = host();
    let config = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","IPv6SubnetLen":64,
        "Backend":{"Type":"vxlan"}}"#;
    host.config = Some(NetworkConfig::parse(config.as_bytes()).unwrap());
    host.subnet6 = Some("fd00:10:244:1::/64".parse().unwrap());
    host.attachments[0].address6 = Some("fd00:10:244:1::2".parse().unwrap());
    host.uplink.as_mut().unwrap().address6 = Some("2001:db8::1".parse().unwrap());
    host
}

/// A dual-stack peer that is reached over `outer` for both families inside.
fn dual_peer(n: u8, outer: &str) -> HostPeer {
    let outer: IpAddr = outer.parse().unwrap();
    HostPeer {
        subnet6: Some(format!("fd00:10:244:{n}::/64").parse().unwrap()),
        outer,
        outer6: Some(outer),
        fast: true,
        fast6: true,
        udp6zero: true,
        ..peers().used.remove(0)
    }
}

#[test]
fn a_dual_stack_host_has_rows_of_both_families_inside_and_outside() {
    let flannel = HostPeer {
        subnet: net("10.244.9.0/24"),
        outer6: Some("2001:db8::9".parse().unwrap()),
        mac6: Mac([2, 0, 0, 0, 6, 9]),
        udp6zero: false,
        fast6: false,
        ..dual_peer(9, "192.0.2.9")
    };
    let only6 = HostPeer { subnet: net("10.244.3.0/24"), ..dual_peer(3, "2001:db8::3") };
    let peers = Peers { used: vec![dual_peer(2, "192.0.2.2"), only6, flannel], ..Peers::default() };
    let rows = desired(&ClusterConfig::default(), &dual_stack(), &peers);
    let said: Vec<String> = diff(&rows, &Rows::default()).iter().map(Action::to_string).collect();
    assert_eq!(
        said,
        [
            "put weft_vteps 1/192.0.2.2 network 1",
            "put weft_vteps 1/192.0.2.9 network 1",
            "put weft_vteps 1/2001:db8::3 network 1",
            "put weft_vteps 1/2001:db8::9 network 1",
            "put weft_peers 1/10.244.2.0 vtep 192.0.2.2 address 02:00:00:00:00:02 mtu 1450",
            "put weft_peers 1/10.244.3.0 vtep 2001:db8::3 address 02:00:00:00:00:02 mtu 1430",
            "put weft_peers 1/10.244.9.0 vtep 192.0.2.9 address 02:00:00:00:00:02 mtu 1450",
            // Not to the flannel host over IPv6: it takes no zero checksums.
            "put weft_peers6 1/fd00:10:244:2:: vtep 192.0.2.2 address 02:00:00:00:00:02 mtu 1450",
            "put weft_peers6 1/fd00:10:244:3:: vtep 2001:db8::3 address 02:00:00:00:00:02 mtu 1430",
            "put weft_endpoints 10.244.1.2 ifindex 7 address 0a:58:0a:f4:01:02 network 1",
            "put weft_endpoints6 fd00:10:244:1::2 ifindex 7 address 0a:58:0a:f4:01:02 network 1",
            "put weft_netns 1 network 0",
            "put weft_netns 42 network 1",
            "put weft_networks 1 vni 1 port 8472 range 10.244.0.0/16 subnet 10.244.1.0/24 address 02:00:00:00:00:01 \
             range6 fd00:10:244::/48 subnet6 fd00:10:244:1::/64 address6 02:00:00:00:06:01",
            "put weft_vteps 1/any network 1",
            "put weft_config vtep 192.0.2.1 vtep6 2001:db8::1 ports 8472 uplink 2 mtu 1500 services 10.112.0.0/16",
            "put weft_ranges fd00:10:244::/48 network 1",
            "put weft_ranges 10.244.0.0/16 network 1",
        ]
    );
    let flags: Vec<bool> = rows.peers.values().map(Peer::outer_is_v6).collect();
    assert_eq!(flags, [false, true, false]);
}

#[test]
fn a_host_that_has_no_ipv6_subnet_yet_knows_the_range_and_holds_nothing_of_it() {
    let mut host = dual_stack();
    host.subnet6 = None;
    let row = desired(&ClusterConfig::default(), &host, &Peers::default()).networks[&NETWORK_DEFAULT];
    assert_eq!((row.network6.to_string(), row.subnet6.is_zero()), ("fd00:10:244::".to_owned(), true));
    assert_eq!((length6(row.network_mask6), length6(row.subnet_mask6)), (48, 128));
}

#[test]
fn what_is_not_tunnelled_is_left_to_the_stack() {
    let mut host = dual_stack();
    let direct = HostPeer { via: Way::Direct, via6: Way::Direct, ..dual_peer(2, "192.0.2.2") };
    let half = HostPeer { subnet: net("10.244.3.0/24"), via: Way::Direct, ..dual_peer(3, "2001:db8::3") };
    let peers = Peers { used: vec![direct, half], ..Peers::default() };
    let rows = desired(&ClusterConfig::default(), &host, &peers);
    assert!(rows.peers.is_empty());
    assert_eq!((rows.peers6.len(), rows.vteps.len()), (1, 3), "IPv6 to the third host is tunnelled");

    host.config = Some(NetworkConfig::parse(br#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap());
    let rows = desired(&ClusterConfig::default(), &host, &Peers::default());
    assert!(rows.vteps.is_empty() && rows.config.vtep.is_zero() && rows.config.vtep6.is_zero());
    assert!(!rows.config.is_overlay_port(Be16::from_native(8472)), "nobody's overlay is there");
    assert_eq!((rows.endpoints.len(), rows.networks.len()), (1, 1));
}

#[test]
fn only_a_peer_that_is_certainly_on_the_uplinks_link_is_its_own_next_hop() {
    let mut host = dual_stack();
    host.uplink.as_mut().unwrap().on_link = crate::OnLink {
        direct: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()],
        elsewhere: vec!["192.0.2.128/25".parse().unwrap()],
        plain: true,
    };
    let outers = ["192.0.2.2", "192.0.2.130", "198.51.100.1", "2001:db8::2", "2001:db8:1::2"];
    let peer = |(n, outer): (u8, &str)| HostPeer { subnet: net(&format!("10.244.{n}.0/24")), ..dual_peer(n, outer) };
    let peers = Peers { used: (2..).zip(outers).map(peer).collect(), ..Peers::default() };
    let hops = |host: &Host| -> Vec<String> {
        let rows = desired(&ClusterConfig::default(), host, &peers);
        assert!(rows.peers6.values().map(|p| p.next_hop).eq(rows.peers.values().map(|p| p.next_hop)));
        rows.peers.values().map(|peer| Spelled(peer).to_string()).collect()
    };
    let hop = |text: &String| text.split_once(" next hop ").map(|(_, hop)| hop.to_owned());
    let found: Vec<_> = hops(&host).iter().map(hop).collect();
    assert_eq!(found, [Some("192.0.2.2".to_owned()), None, None, Some("2001:db8::2".to_owned()), None]);
    host.uplink.as_mut().unwrap().on_link.plain = false;
    assert!(hops(&host).iter().map(hop).all(|hop| hop.is_none()), "rules of policy routing might send packets elsewhere");
}

#[test]
fn over_an_uplink_that_is_not_ethernet_nothing_is_pushed() {
    let mut host = host();
    host.uplink.as_mut().unwrap().ethernet = false;
    let rows = desired(&ClusterConfig::default(), &host, &peers());
    assert!(rows.config.vtep.is_zero() && rows.config.uplink == 0);
    assert_eq!(rows.networks[&NETWORK_DEFAULT].subnet.to_string(), "10.244.1.0");
}

#[test]
fn without_an_uplink_containers_and_service_ranges_stay() {
    let mut host = host();
    host.uplink = None;
    let rows = desired(&ClusterConfig::default(), &host, &peers());
    assert!(rows.peers.is_empty() && rows.config.vtep.is_zero());
    assert_eq!(rows.vteps.len(), 1, "the VNI is ours all the same");
    assert_eq!((rows.endpoints.len(), rows.netns.len(), rows.config.service_cidr_count), (1, 2, 1));
}

#[test]
fn a_pair_that_is_not_made_yet_has_no_endpoint_row() {
    let mut host = host();
    host.attachments[0].host_index = None;
    assert!(desired(&ClusterConfig::default(), &host, &peers()).endpoints.is_empty());
}

#[test]
fn service_ranges_beyond_what_the_programs_hold_are_named() {
    let mut cluster = ClusterConfig::default();
    let range = |n: usize| format!("10.{}.0.0/16", 100 + n).parse().unwrap();
    cluster.service_cidrs = (0..SERVICE_CIDRS + 2).map(range).collect();
    assert_eq!(desired(&cluster, &host(), &peers()).config.service_cidr_count, 8);
    assert_eq!(ranges_left_out(&cluster).collect::<Vec<_>>(), [range(8), range(9)]);
}

#[test]
fn actions_print_what_is_written() {
    let rows = desired(&ClusterConfig::default(), &host(), &peers());
    let said: Vec<String> = diff(&rows, &Rows::default()).iter().map(Action::to_string).collect();
    assert_eq!(
        said,
        [
            "put weft_vteps 1/192.0.2.2 network 1",
            "put weft_vteps 1/192.0.2.3 network 1",
            "put weft_vteps 1/192.0.2.4 network 1",
            "put weft_peers 1/10.244.2.0 vtep 192.0.2.2 address 02:00:00:00:00:02 mtu 1450",
            "put weft_peers 1/10.244.8.0 vtep 192.0.2.4 address 02:00:00:00:00:04 mtu 1400",
            "put weft_endpoints 10.244.1.2 ifindex 7 address 0a:58:0a:f4:01:02 network 1",
            "put weft_netns 1 network 0",
            "put weft_netns 42 network 1",
            "put weft_networks 1 vni 1 port 8472 range 10.244.0.0/16 subnet 10.244.1.0/24 address 02:00:00:00:00:01",
            "put weft_vteps 1/any network 1",
            "put weft_config vtep 192.0.2.1 vtep6 :: ports 8472 uplink 2 mtu 1500 services 10.112.0.0/16",
            "put weft_ranges 10.244.0.0/16 network 1",
        ]
    );
}

#[test]
fn a_further_network_has_rows_under_its_own_number() {
    let backend = Backend { vni: 7, port: 4790, ..Backend::default() };
    let blue = crate::Membership {
        name: "blue".parse().unwrap(),
        number: 2,
        config: NetworkConfig::new("10.245.0.0/16".parse().unwrap(), 24, None, None, backend).unwrap(),
        subnet: "10.245.1.0/24".parse().unwrap(),
        vtep_mac: Mac([2, 0, 0, 0, 0, 7]),
        vtep_mac6: Mac([2, 0, 0, 0, 6, 7]),
    };
    let alone = desired(&ClusterConfig::default(), &host(), &peers());
    let both = desired(&ClusterConfig::default(), &Host { networks: vec![blue], ..host() }, &peers());
    assert_eq!(both.networks[&2].vni, 7);
    assert_eq!((both.networks[&2].vtep_mac, both.networks[&2].vtep_mac6), ([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 6, 7]));
    assert_eq!(both.networks[&NETWORK_DEFAULT], alone.networks[&NETWORK_DEFAULT]);
    assert_eq!(both.vteps[&VtepKey::own(7)].network, 2);
    assert_eq!(both.ranges.values().filter(|number| **number == 2).count(), 1);
    assert!(both.config.is_overlay_port(Be16::from_native(4790)) && both.config.is_overlay_port(Be16::from_native(8472)));
    assert_eq!((both.peers, both.endpoints, both.netns), (alone.peers, alone.endpoints, alone.netns));
}

#[test]
fn a_further_network_is_tunnelled_although_the_default_one_is_not_and_without_a_port_left_it_is_the_kernels() {
    let network = |number: u32, port: u16| crate::Membership {
        name: format!("n{number}").parse().unwrap(),
        number,
        config: NetworkConfig::new(
            format!("10.{number}.0.0/16").parse().unwrap(),
            24,
            None,
            None,
            Backend { vni: number, port, ..Backend::default() },
        )
        .unwrap(),
        subnet: format!("10.{number}.1.0/24").parse().unwrap(),
        vtep_mac: Mac([2, 0, 0, 0, 0, 7]),
        vtep_mac6: Mac([2, 0, 0, 0, 6, 7]),
    };
    let mut host = dual_stack();
    host.config = Some(NetworkConfig::parse(br#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap());
    host.networks = (2..=6).map(|n| network(n, 4789 + n as u16)).chain([network(7, 4791)]).collect();
    let rows = desired(&ClusterConfig::default(), &host, &Peers::default());
    assert_eq!((rows.config.vtep.to_string(), rows.config.uplink), ("192.0.2.1".to_owned(), 2));
    assert!(rows.config.ports.iter().all(|port| port.to_native() != 0));
    // Four ports are all that fit; the sixth network has the port of the first.
    assert_eq!(rows.networks.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 7]);
    assert_eq!(rows.vteps.keys().map(|key| key.vni).collect::<Vec<_>>(), [2, 3, 4, 5, 7]);
    assert_eq!(rows.ranges.len(), 7, "what is another network's is known of all");
}

#[test]
fn published_ports_are_rows_for_the_hosts_own_loopback_and_the_programs_are_told_that_there_are_some() {
    let mut host = host();
    assert_eq!(desired(&ClusterConfig::default(), &host, &peers()).config.flags, 0);
    host.attachments[0].publish = vec!["8080:80".parse().unwrap(), "192.0.2.1:81:81".parse().unwrap()];
    let rows = desired(&ClusterConfig::default(), &host, &peers());
    assert!(rows.config.is_publishing());
    let said: Vec<String> =
        diff(&rows, &Rows { ports: BTreeMap::new(), ..rows.clone() }).iter().map(ToString::to_string).collect();
    assert_eq!(said, ["put weft_ports 127.0.0.1 8080/tcp to 10.244.1.2 80"]);
    // Bound to an address that is not the loopback, a port is not there: nobody need look.
    host.attachments[0].publish.remove(0);
    assert_eq!(desired(&ClusterConfig::default(), &host, &peers()).config.flags, 0);
}
