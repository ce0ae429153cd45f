//! Which port leads where, what is refused, and that a change of the table ends where it should.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weft_model::cluster::ClusterConfig;
use weft_model::mac::Mac;
use weft_model::network::{Backend, NetworkConfig, V6Range};

use super::*;
use crate::Attachment;
use crate::nft::{self, Action, Element, Found, Masquerade, Ruleset, Set};
use crate::peers::Peers;

fn container(n: u8, v6: bool, publish: &[&str]) -> Attachment {
    Attachment {
        id: format!("c{n}"),
        address: Ipv4Addr::new(10, 244, 1, n),
        address6: v6.then(|| format!("fd00:10:244:1::{n}").parse().unwrap()),
        mac: Mac([2, 0, 0, 0, 0, n]),
        host_ifname: format!("weft00000000{n:02x}"),
        host_index: None,
        netns_cookie: 7,
        network: 1,
        publish: publish.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn host(attachments: Vec<Attachment>) -> Host {
    Host {
        node: "h1".parse().unwrap(),
        config: Some(NetworkConfig {
            v6: Some(V6Range::new("fd00:10:244::/48".parse().unwrap(), 64, None, None).unwrap()),
            ..NetworkConfig::new("10.244.0.0/16".parse().unwrap(), 24, None, None, Backend::default()).unwrap()
        }),
        subnet: Some("10.244.1.0/24".parse().unwrap()),
        subnet6: Some("fd00:10:244:1::/64".parse().unwrap()),
        vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
        vtep_mac6: Mac([2, 0, 0, 0, 6, 1]),
        uplink: None,
        attachments,
        netns_cookie: 1,
        networks: Vec::new(),
    }
}

fn said(ports: &Ports) -> Vec<String> {
    let at = |at: At| match at {
        At::AnyV4 => "v4".to_owned(),
        At::AnyV6 => "v6".to_owned(),
        At::One(address) => address.to_string(),
    };
    ports.iter().map(|(p, to)| format!("{} {}/{} {to}", at(p.at), p.port, p.proto)).collect()
}

#[test]
fn a_port_is_on_every_address_or_on_one_and_of_the_families_that_the_container_has() {
    let of = |v6, publish: &str| said(&ports(&host(vec![container(2, v6, &[publish])])));
    assert_eq!(of(true, "8080:80"), ["v4 8080/tcp 10.244.1.2:80", "v6 8080/tcp [fd00:10:244:1::2]:80"]);
    assert_eq!(of(false, "8080:80"), ["v4 8080/tcp 10.244.1.2:80"]);
    assert_eq!(of(true, "0.0.0.0:53:53/udp"), ["v4 53/udp 10.244.1.2:53"]);
    assert_eq!(of(true, "[::]:53:53/udp"), ["v6 53/udp [fd00:10:244:1::2]:53"]);
    assert_eq!(of(true, "192.0.2.1:8080:80"), ["192.0.2.1 8080/tcp 10.244.1.2:80"]);
    assert_eq!(of(true, "[::ffff:192.0.2.1]:8080:80"), ["192.0.2.1 8080/tcp 10.244.1.2:80"]);
    assert_eq!(of(true, "[2001:db8::1]:8080:80"), ["2001:db8::1 8080/tcp [fd00:10:244:1::2]:80"]);
    assert_eq!(of(false, "[2001:db8::1]:8080:80"), Vec::<String>::new());
}

#[test]
fn a_range_is_shifted_as_a_whole_and_may_end_at_the_last_port() {
    let shifted = ports(&host(vec![container(2, false, &["8000-8002:90-92", "65534-65535:1-2/udp"])]));
    assert_eq!(
        said(&shifted),
        [
            "v4 8000/tcp 10.244.1.2:90",
            "v4 8001/tcp 10.244.1.2:91",
            "v4 8002/tcp 10.244.1.2:92",
            "v4 65534/udp 10.244.1.2:1",
            "v4 65535/udp 10.244.1.2:2",
        ]
    );
}

#[test]
fn of_two_that_want_one_port_the_first_has_it() {
    let both = ports(&host(vec![container(2, false, &["8080:80"]), container(3, false, &["8080:81", "8081:80"])]));
    assert_eq!(said(&both), ["v4 8080/tcp 10.244.1.2:80", "v4 8081/tcp 10.244.1.3:80"]);
}

#[test]
fn the_loopback_reaches_what_is_on_every_address_or_on_itself() {
    let published = ["8080:80", "127.0.0.5:81:80", "[::1]:82:80/udp", "192.0.2.1:83:80"];
    let rows = by_loopback(&ports(&host(vec![container(2, true, &published)])));
    let rows: Vec<String> = rows.iter().map(|((named, proto), to)| format!("{named}/{proto} {to}")).collect();
    assert_eq!(
        rows,
        [
            "127.0.0.1:8080/tcp 10.244.1.2:80",
            "127.0.0.5:81/tcp 10.244.1.2:80",
            "[::1]:82/udp [fd00:10:244:1::2]:80",
            "[::1]:8080/tcp [fd00:10:244:1::2]:80",
        ]
    );
}

#[test]
fn what_is_the_overlays_own_or_of_no_host_is_refused() {
    let host = host(Vec::new());
    let why = |text: &str| refuse(&text.parse().unwrap(), &host);
    for text in ["8472:53/udp", "8000-9000:8000-9000/udp", "192.0.2.1:8472:1/udp"] {
        assert_eq!(why(text).as_deref(), Some("UDP port 8472 is the overlay's own"), "{text}");
    }
    for text in ["10.244.1.1:53:53/udp", "[fd00:10:244:1::1]:80:80", "224.0.0.1:1:1", "[fe80::1]:1:1", "[ff02::1]:1:1"] {
        assert!(why(text).is_some(), "{text}");
    }
    for text in ["8472:53", "8473:53/udp", "53:53/udp", "192.0.2.1:53:53/udp", "0.0.0.0:1:1", "[::]:1:1", "127.0.0.1:1:1"] {
        assert_eq!(why(text), None, "{text}");
    }
}

/// The elements of the maps as a kernel would have them after these actions; it refuses what nft refuses.
fn applied(mut table: Ruleset, actions: &[Action], desired: &Ruleset) -> Result<Ruleset, TestCaseError> {
    for action in actions {
        match action {
            Action::Load { .. } => table = desired.clone(),
            Action::Unload => prop_assert!(false, "{action}"),
            Action::Add(set, element) => {
                let elements = table.sets.get_mut(set).unwrap();
                let key = |e: &Element| if let Element::Port(at, proto, port, _) = e { Some((*at, *proto, *port)) } else { None };
                let taken = key(element).is_some() && elements.iter().any(|e| key(e) == key(element));
                prop_assert!(!taken, "{action}: the key has a value already");
                prop_assert!(elements.insert(element.clone()), "{action}: it is there");
            }
            Action::Remove(set, element) => {
                prop_assert!(table.sets.get_mut(set).unwrap().remove(element), "{action}: it is not there");
            }
        }
    }
    Ok(table)
}

fn publication() -> impl Strategy<Value = Publish> {
    let hosts = ["0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
    let host = prop::option::of(prop::sample::select(hosts.to_vec()));
    let proto = prop::sample::select(vec![Proto::Tcp, Proto::Udp]);
    (host, 1..=12_u16, 1..=60_000_u16, 1..=4_u16, proto).prop_map(|(host, host_port, port, count, proto)| Publish {
        host,
        host_port,
        port,
        count,
        proto,
    })
}

fn published() -> impl Strategy<Value = Vec<Attachment>> {
    let container = (2..6_u8, any::<bool>(), prop::collection::vec(publication(), 0..4));
    prop::collection::vec(container, 0..4).prop_map(|containers| {
        containers.into_iter().map(|(n, v6, publish)| Attachment { publish, ..container_of(n, v6) }).collect()
    })
}

fn container_of(n: u8, v6: bool) -> Attachment {
    container(n, v6, &[])
}

proptest! {
    #[test]
    fn any_change_of_what_is_published_ends_where_it_should(before in published(), after in published(), on in any::<bool>()) {
        let masquerade = Masquerade { on, exclude: Vec::new() };
        let table = |attachments| {
            nft::desired(&ClusterConfig::default(), &host(attachments), &Peers::default(), &masquerade).unwrap()
        };
        let any = |attachments: &[Attachment]| !ports(&host(attachments.to_vec())).is_empty();
        let (had, has) = (any(&before), any(&after));
        let (from, to) = (table(before), table(after));
        let actions = nft::diff(Some(&to), &Found::Ours(from.clone()));
        if on || had == has {
            prop_assert!(!actions.iter().any(|a| matches!(a, Action::Load { .. })), "a change costs what changes");
        }
        prop_assert_eq!(applied(from, &actions, &to)?, to);
    }

    #[test]
    fn no_key_of_a_map_has_two_values(attachments in published()) {
        let masquerade = Masquerade { on: true, exclude: Vec::new() };
        let table = nft::desired(&ClusterConfig::default(), &host(attachments), &Peers::default(), &masquerade).unwrap();
        for set in Set::ALL.into_iter().filter(|set| set.is_map()) {
            let mut keys = BTreeSet::new();
            for element in &table.sets[&set] {
                let Element::Port(at, proto, port, to) = element else { panic!("{element}") };
                prop_assert!(keys.insert((*at, *proto, *port)), "{element}");
                prop_assert_eq!(at.is_some_and(|at| at.is_ipv4() != to.is_ipv4()), false);
            }
        }
    }
}
