//! Which leases count, and who wins where two exclude each other.

use std::sync::Arc;

use weft_model::ids::Revision;
use weft_model::keys::Layout;
use weft_model::network::{Backend, NetworkConfig};
use weft_model::stored::Entry;

use super::*;
use crate::host::Uplink;

/// Leases as (key, public ip, last byte of the MAC, rest of the value), created in this order.
fn snapshot(leases: &[(&str, &str, u8, &str)]) -> Snapshot {
    let entry = |(n, (key, ip, mac, rest)): (usize, &(&str, &str, u8, &str))| {
        let revision = Revision(10 + i64::try_from(n).unwrap());
        let value = format!(
            r#"{{"PublicIP":"{ip}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{mac:02x}"}}{rest}}}"#
        );
        Entry {
            key: format!("/coreos.com/network/subnets/{key}").into(),
            value: value.into(),
            lease: None,
            created: revision,
            modified: revision,
        }
    };
    let entries = leases.iter().enumerate().map(entry).collect();
    Snapshot::complete(Arc::new(Layout::default()), Revision(99), entries, None)
}

fn host() -> Host {
    Host {
        node: "h1".parse().unwrap(),
        config: Some(NetworkConfig::new("10.244.0.0/16".parse().unwrap(), 24, None, None, Backend::default()).unwrap()),
        subnet: Some("10.244.1.0/24".parse().unwrap()),
        subnet6: None,
        vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
        vtep_mac6: Mac([2, 0, 0, 0, 6, 1]),
        uplink: Some(Uplink {
            name: "eth0".into(),
            index: 2,
            address: Some([192, 0, 2, 1].into()),
            address6: None,
            public_ip: Some([203, 0, 113, 1].into()),
            public_ipv6: None,
            mtu: 1500,
            ethernet: true,
            on_link: crate::OnLink::default(),
        }),
        attachments: Vec::new(),
        netns_cookie: 1,
        networks: Vec::new(),
    }
}

fn used(peers: &Peers) -> Vec<String> {
    peers.used.iter().map(|p| format!("{} {}", p.subnet, p.outer)).collect()
}

fn why(peers: &Peers) -> Vec<(String, Why)> {
    peers.skipped.iter().map(|s| (s.key.to_string(), s.why.clone())).collect()
}

#[test]
fn own_leases_are_no_peers_whatever_they_say() {
    let own = r#","weft":{"node":"h1"}"#;
    let s = snapshot(&[("10.244.1.0-24", "203.0.113.1", 1, own), ("10.244.7.0-24", "192.0.2.77", 9, own)]);
    assert_eq!(of(&s, &host()), Peers::default());
}

#[test]
fn the_subnet_taken_over_from_a_flanneld_of_this_host_is_no_warning() {
    let s = snapshot(&[("10.244.1.0-24", "203.0.113.1", 7, "")]);
    assert_eq!(of(&s, &host()), Peers::default());
}

#[test]
fn of_overlapping_subnets_the_older_wins_and_our_own_beats_all() {
    let s = snapshot(&[
        ("10.244.4.0-24", "192.0.2.4", 4, ""),
        ("10.244.4.0-22", "192.0.2.5", 5, ""),
        ("10.244.4.128-25", "192.0.2.6", 6, ""),
        ("10.244.1.128-25", "192.0.2.7", 7, ""),
        ("10.244.0.0-16", "192.0.2.8", 8, ""),
    ]);
    let peers = of(&s, &host());
    assert_eq!(used(&peers), ["10.244.4.0/24 192.0.2.4"]);
    let over = |subnet: &str| Why::Overlaps(subnet.parse().unwrap());
    let mut skipped = why(&peers);
    // A range over several says one of them.
    let (whole, _) = skipped.remove(0);
    assert_eq!(whole, "10.244.0.0-16");
    assert_eq!(
        skipped,
        [
            ("10.244.1.128-25".to_owned(), over("10.244.1.0/24")),
            ("10.244.4.0-22".to_owned(), over("10.244.4.0/24")),
            ("10.244.4.128-25".to_owned(), over("10.244.4.0/24")),
        ]
    );
}

#[test]
fn a_lease_that_would_lead_traffic_astray_is_skipped_and_named() {
    let s = snapshot(&[
        ("0.0.0.0-0", "192.0.2.2", 2, ""),
        ("10.245.0.0-24", "192.0.2.3", 3, ""),
        ("10.244.4.0-24", "203.0.113.1", 4, r#","weft":{"node":"h9"}"#),
        ("10.244.5.0-24", "192.0.2.1", 5, ""),
        ("10.244.6.0-24", "127.0.0.1", 6, ""),
        ("10.244.7.0-24", "0.0.0.0", 7, ""),
        ("10.244.8.0-24", "239.1.1.1", 8, ""),
        ("10.244.9.0-24", "192.0.2.9", 1, ""),
        ("10.244.10.0-24", "10.244.20.5", 10, ""),
        ("10.244.20.0-24", "192.0.2.20", 20, ""),
        ("10.244.21.0-24", "192.0.2.21", 20, ""),
        ("10.244.22.0-24", "10.244.1.9", 22, ""),
    ]);
    let peers = of(&s, &host());
    assert_eq!(used(&peers), ["10.244.20.0/24 192.0.2.20"]);
    let network: IpNet = "10.244.0.0/16".parse().unwrap();
    let expected = [
        ("0.0.0.0-0", Why::OutsideNetwork(network)),
        ("10.244.4.0-24", Why::OurAddress),
        ("10.244.5.0-24", Why::OurAddress),
        ("10.244.6.0-24", Why::BadAddress),
        ("10.244.7.0-24", Why::BadAddress),
        ("10.244.8.0-24", Why::BadAddress),
        ("10.244.9.0-24", Why::SameMac(IpAddr::from([203, 0, 113, 1]))),
        ("10.244.10.0-24", Why::InsideOverlay("10.244.20.0/24".parse().unwrap())),
        ("10.244.21.0-24", Why::SameMac(IpAddr::from([192, 0, 2, 20]))),
        ("10.244.22.0-24", Why::InsideOverlay("10.244.1.0/24".parse().unwrap())),
        ("10.245.0.0-24", Why::OutsideNetwork(network)),
    ];
    assert_eq!(why(&peers), expected.map(|(key, why)| (key.to_owned(), why)));
    let text = peers.skipped[1].to_string();
    assert_eq!(text, "lease 10.244.4.0-24 of 203.0.113.1 is not used: it claims the public address of this host");
}

#[test]
fn one_host_may_hold_two_subnets_with_one_mac() {
    let s = snapshot(&[("10.244.3.0-24", "192.0.2.3", 3, ""), ("10.244.4.0-24", "192.0.2.3", 3, "")]);
    assert_eq!(of(&s, &host()).used.len(), 2);
}

#[test]
fn hosts_of_other_backends_are_shown_without_a_warning() {
    let mut s = snapshot(&[]);
    s.apply(
        Revision(100),
        vec![weft_model::stored::Change::Put(Entry {
            key: b"/coreos.com/network/subnets/10.244.3.0-24".to_vec(),
            value: br#"{"PublicIP":"192.0.2.3","BackendType":"host-gw"}"#.to_vec(),
            lease: None,
            created: Revision(100),
            modified: Revision(100),
        })],
    );
    let peers = of(&s, &host());
    assert_eq!(why(&peers), [("10.244.3.0-24".to_owned(), Why::OtherOverlay)]);
    assert_eq!(crate::desired(&s, &host()).warnings, []);
}

#[test]
fn an_mtu_no_host_can_have_is_not_believed() {
    let s = snapshot(&[
        ("10.244.3.0-24", "192.0.2.3", 3, r#","weft":{"node":"h3","mtu":1}"#),
        ("10.244.4.0-24", "192.0.2.4", 4, r#","weft":{"node":"h4","mtu":1400}"#),
    ]);
    let mtus: Vec<_> = of(&s, &host()).used.iter().map(|p| p.mtu).collect();
    assert_eq!(mtus, [None, Some(1400)]);
}

#[test]
fn without_a_subnet_there_are_no_peers_yet() {
    let s = snapshot(&[("10.244.3.0-24", "192.0.2.3", 3, "")]);
    assert_eq!(of(&s, &Host { subnet: None, ..host() }), Peers::default());
    assert_eq!(of(&s, &Host { config: None, ..host() }), Peers::default());
    assert_eq!(of(&s, &Host { uplink: None, ..host() }).used.len(), 1);
}

#[test]
fn a_peer_in_whose_subnet_a_container_of_ours_was_left_is_not_on_the_fast_path() {
    let s = snapshot(&[("10.244.6.0-24", "192.0.2.6", 6, ""), ("10.244.7.0-24", "192.0.2.7", 7, "")]);
    let left = crate::Attachment {
        id: "left".into(),
        address: [10, 244, 6, 2].into(),
        address6: None,
        mac: Mac([2; 6]),
        host_ifname: "weft0123456789".into(),
        host_index: Some(7),
        netns_cookie: 9,
        network: 1,
        publish: Vec::new(),
    };
    let peers = of(&s, &Host { attachments: vec![left], ..host() });
    assert_eq!(peers.used.iter().map(|p| p.fast).collect::<Vec<_>>(), [false, true]);
}
