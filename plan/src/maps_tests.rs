//! The order of map writes, and the rows of special hosts.

use ipnet::Ipv4Net;
use proptest::prelude::*;
use weft_model::network::{Backend, NetworkConfig};

use super::*;
use crate::host::{Attachment, Uplink};
use crate::peers::Peer as HostPeer;

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
        Endpoint { ifindex, ..Endpoint::default() }
    }
    let of_network = (
        0..3u32,
        some(|n| n, |vni| Network { vni, ..Network::default() }),
        some(|n| PeerKey { network: 1, subnet: Be32::from_native(n) }, peer),
        some(|n| PeerKey6 { network: 1, subnet: be128(n) }, peer),
        some(|n| VtepKey { vni: n % 2, outer: be128(n / 2) }, |flags| Vtep { network: 1, flags }),
        some(|n| RangeKey { prefix_len: 64, addr: be128(n) }, |n| n),
    );
    let of_containers = (some(Be32::from_native, endpoint), some(be128, endpoint), some(u64::from, |n| n));
    (of_network, of_containers).prop_map(|((uplink, networks, peers, peers6, vteps, ranges), (endpoints, endpoints6, netns))| {
        let config = Config { uplink, ..Config::default() };
        Rows { config, networks, peers, peers6, vteps, ranges, endpoints, endpoints6, netns }
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
        vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
    };
    let alone = desired(&ClusterConfig::default(), &host(), &peers());
    let both = desired(&ClusterConfig::default(), &Host { networks: vec![blue], ..host() }, &peers());
    assert_eq!(both.networks[&2].vni, 7);
    assert_eq!(both.networks[&NETWORK_DEFAULT], alone.networks[&NETWORK_DEFAULT]);
    assert_eq!(both.vteps[&VtepKey::own(7)].network, 2);
    assert_eq!(both.ranges.values().filter(|number| **number == 2).count(), 1);
    assert!(both.config.is_overlay_port(Be16::from_native(4790)) && both.config.is_overlay_port(Be16::from_native(8472)));
    assert_eq!((both.peers, both.endpoints, both.netns), (alone.peers, alone.endpoints, alone.netns));
}
