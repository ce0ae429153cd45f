//! Whose sockets are sent to a container, which are left alone, and what they are shown.

use core::net::IpAddr;
use std::cell::RefCell;
use std::collections::BTreeMap;

use weft_abi::ReverseKey;
use weft_abi::maps::NETWORK_DEFAULT;

use super::*;

#[derive(Default)]
struct Maps {
    config: Config,
    network: Option<u32>,
    ports: BTreeMap<PortKey, PortTarget>,
    back: RefCell<BTreeMap<PortBackKey, PortTarget>>,
    full: bool,
}

impl Tables for Maps {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }
    fn network(&self) -> Option<u32> {
        self.network
    }
    fn port(&self, key: &PortKey) -> Option<PortTarget> {
        self.ports.get(key).copied()
    }
    fn recall(&self, key: &PortBackKey) -> Option<PortTarget> {
        self.back.borrow().get(key).copied()
    }
    fn remember(&self, key: &PortBackKey, value: &PortTarget) -> bool {
        if !self.full {
            self.back.borrow_mut().insert(*key, *value);
        }
        !self.full
    }
    fn forget(&self, key: &PortBackKey) {
        self.back.borrow_mut().remove(key);
    }
}

fn at(address: &str) -> Be128 {
    address.parse::<IpAddr>().unwrap().into()
}

fn target(address: &str, port: u16) -> PortTarget {
    PortTarget { addr: at(address), port: Be16::from_native(port), pad: 0 }
}

/// 8080 of 127.0.0.1 and ::1, and 8081 of 127.0.0.5, lead to one container.
fn maps() -> Maps {
    let mut maps = Maps { network: Some(NETWORK_ALL), ..Maps::default() };
    maps.config.flags = Config::PUBLISHED;
    for (named, port, to) in [
        ("127.0.0.1", 8080, target("10.244.1.2", 80)),
        ("::1", 8080, target("fd00::2", 80)),
        ("127.0.0.5", 8081, target("10.244.1.2", 80)),
    ] {
        let key = PortKey { addr: at(named), port: Be16::from_native(port), proto: PROTO_UDP, pad: 0 };
        maps.ports.insert(key, to);
        maps.ports.insert(PortKey { proto: PROTO_TCP, ..key }, to);
    }
    maps
}

fn call(address: &str, port: u16) -> Call {
    Call { cookie: 7, addr: at(address), port: Be16::from_native(port), proto: PROTO_TCP, via: ReverseKey::CONNECTED }
}

fn came_from(target: PortTarget, like: &Call) -> Call {
    Call { addr: target.addr, port: target.port, ..*like }
}

#[test]
fn the_hosts_own_loopback_leads_to_the_container_and_is_shown_again() {
    let maps = maps();
    for (named, shown) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "::1")] {
        let call = call(named, 8080);
        let to = outbound(&maps, &call).unwrap();
        assert_eq!(to, if named.contains(':') { target("fd00::2", 80) } else { target("10.244.1.2", 80) }, "{named}");
        assert_eq!(inbound(&maps, &came_from(to, &call)), Some(target(shown, 8080)), "{named}");
        assert_eq!(inbound(&maps, &Call { cookie: 8, ..came_from(to, &call) }), None, "another socket");
    }
}

#[test]
fn other_ports_protocols_and_addresses_pass_untouched() {
    let maps = maps();
    for (named, port) in
        [("127.0.0.1", 8081), ("127.0.0.2", 8080), ("10.244.1.2", 80), ("192.0.2.1", 8080), ("2001:db8::1", 8080)]
    {
        assert_eq!(outbound(&maps, &call(named, port)), None, "{named}:{port}");
    }
    assert_eq!(outbound(&maps, &Call { proto: 132, ..call("127.0.0.1", 8080) }), None);
    assert_eq!(outbound(&maps, &call("127.0.0.5", 8081)), Some(target("10.244.1.2", 80)), "bound to this one");
    assert!(maps.back.borrow().len() == 1);
}

#[test]
fn a_containers_loopback_is_its_own() {
    let mut maps = maps();
    for network in [None, Some(NETWORK_DEFAULT)] {
        maps.network = network;
        assert_eq!(outbound(&maps, &call("127.0.0.1", 8080)), None);
    }
}

#[test]
fn without_a_published_port_nobody_looks() {
    let mut maps = maps();
    maps.config.flags = 0;
    assert_eq!(outbound(&maps, &call("127.0.0.1", 8080)), None);
}

#[test]
fn connecting_to_the_container_itself_ends_the_translation() {
    let maps = maps();
    let first = call("127.0.0.1", 8080);
    let direct = came_from(outbound(&maps, &first).unwrap(), &first);
    assert_eq!(outbound(&maps, &direct), None);
    assert_eq!(inbound(&maps, &direct), None);
}

#[test]
fn connected_by_one_port_and_sending_by_another_each_is_named_right() {
    let maps = maps();
    let connected = Call { proto: PROTO_UDP, ..call("127.0.0.1", 8080) };
    let datagram = Call { via: ReverseKey::DATAGRAM, proto: PROTO_UDP, ..call("127.0.0.5", 8081) };
    let to = outbound(&maps, &connected).unwrap();
    assert_eq!(outbound(&maps, &datagram), Some(to));
    assert_eq!(inbound(&maps, &came_from(to, &connected)), Some(target("127.0.0.1", 8080)));
    assert_eq!(inbound(&maps, &came_from(to, &datagram)), Some(target("127.0.0.5", 8081)));
}

#[test]
fn a_port_that_leads_elsewhere_by_now_is_not_named() {
    let mut maps = maps();
    let first = call("127.0.0.1", 8080);
    let to = outbound(&maps, &first).unwrap();
    maps.ports.insert(PortKey { addr: first.addr, port: first.port, proto: first.proto, pad: 0 }, target("10.244.1.3", 80));
    assert_eq!(inbound(&maps, &came_from(to, &first)), None);
    assert!(maps.back.borrow().is_empty(), "and the record goes");
}

#[test]
fn what_cannot_be_undone_on_the_way_back_is_not_done() {
    let maps = Maps { full: true, ..maps() };
    assert_eq!(outbound(&maps, &call("127.0.0.1", 8080)), None);
}
