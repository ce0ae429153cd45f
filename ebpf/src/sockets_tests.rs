//! Which backend a socket gets, what it is refused, and what it is shown.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::testing::ip;
use weft_abi::Cidr4;
use weft_abi::maps::NETWORK_DEFAULT;

#[derive(Default)]
struct Maps {
    config: Config,
    network: Option<u32>,
    random: Cell<u32>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    slots: BTreeMap<SlotKey, u32>,
    backends: BTreeMap<u32, Backend>,
    reverse: RefCell<BTreeMap<ReverseKey, Reverse>>,
    full: bool,
    /// What the next look at a frontend finds: a row that is replaced right after.
    stale: Cell<Option<Frontend>>,
}

impl Tables for Maps {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }
    fn network(&self) -> Option<u32> {
        self.network
    }
    fn random(&self) -> u32 {
        let next = self.random.get().wrapping_add(0x9e37_79b9);
        self.random.set(next);
        next
    }
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.stale.take().or_else(|| self.frontends.get(key).copied())
    }
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        self.slots.get(key).copied()
    }
    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(&id).copied()
    }
    fn recall(&self, key: &ReverseKey) -> Option<Reverse> {
        self.reverse.borrow().get(key).copied()
    }
    fn remember(&self, key: &ReverseKey, value: &Reverse) -> bool {
        if !self.full {
            self.reverse.borrow_mut().insert(*key, *value);
        }
        !self.full
    }
    fn forget(&self, key: &ReverseKey) {
        self.reverse.borrow_mut().remove(key);
    }
}

const VIP_A: Be32 = Be32::from_bytes([10, 112, 0, 7]);
const VIP_B: Be32 = Be32::from_bytes([10, 112, 0, 8]);

/// Services A and B on port 80, TCP and UDP, with `count` backends 10.244.1.1, .2, ... at 8080; B shares A's.
fn maps(count: u32) -> Maps {
    let mut maps = Maps { network: Some(NETWORK_DEFAULT), ..Maps::default() };
    maps.config.service_cidr_count = 2;
    maps.config.service_cidrs[0] = Cidr4 { network: ip(10, 99, 0, 0), mask: Be32::mask_of(24) };
    maps.config.service_cidrs[1] = Cidr4 { network: ip(10, 112, 0, 0), mask: Be32::mask_of(16) };
    for (vip, base) in [(VIP_A, 10), (VIP_B, 20)] {
        for proto in [PROTO_TCP, PROTO_UDP] {
            let service = base + u32::from(proto == PROTO_UDP);
            let key = FrontendKey { vip, port: Be16::from_native(80), proto, pad: 0 };
            maps.frontends.insert(key, Frontend { service, count, network: NETWORK_DEFAULT, flags: 0 });
            for index in 0..count {
                let id = index * 2 + u32::from(proto == PROTO_UDP);
                maps.slots.insert(SlotKey { service, index }, id);
                let addr = ip(10, 244, 1, 1 + index as u8);
                maps.backends.insert(id, Backend { addr, port: Be16::from_native(8080), proto, pad: 0 });
            }
        }
    }
    maps
}

fn tcp(addr: Be32) -> Call {
    Call { cookie: 7, addr, port: Be16::from_native(80), proto: PROTO_TCP, via: ReverseKey::CONNECTED }
}

fn datagram(cookie: u64, addr: Be32) -> Call {
    Call { cookie, addr, port: Be16::from_native(80), proto: PROTO_UDP, via: ReverseKey::DATAGRAM }
}

fn came_from(target: Target, like: &Call) -> Call {
    Call { addr: target.addr, port: target.port, ..*like }
}

#[test]
fn connections_reach_every_backend_about_equally() {
    let maps = maps(5);
    let mut seen = BTreeMap::new();
    for _ in 0..10_000 {
        *seen.entry(outbound(&maps, &tcp(VIP_A)).unwrap().addr).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.values().all(|n| (1900..2100).contains(n)), "{seen:?}");
}

#[test]
fn the_application_is_shown_the_virtual_address() {
    let maps = maps(3);
    let call = tcp(VIP_A);
    let target = outbound(&maps, &call).unwrap();
    assert_eq!(target.port.to_native(), 8080);
    assert_eq!(inbound(&maps, &came_from(target, &call)), Ok(Target { addr: VIP_A, port: call.port }));
    let other_socket = Call { cookie: 8, ..came_from(target, &call) };
    assert_eq!(inbound(&maps, &other_socket), Err(Verdict::SocketPassed));
}

#[test]
fn a_sockets_datagrams_stay_with_one_backend_and_sockets_spread() {
    let maps = maps(5);
    let mut seen = BTreeSet::new();
    for cookie in 0..200 {
        let first = outbound(&maps, &datagram(cookie, VIP_A)).unwrap();
        for _ in 0..5 {
            assert_eq!(outbound(&maps, &datagram(cookie, VIP_A)), Ok(first));
        }
        seen.insert(first.addr);
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn no_backend_an_unlisted_port_and_a_free_address_are_refused() {
    let mut maps = maps(1);
    assert_eq!(outbound(&maps, &Call { port: Be16::from_native(81), ..tcp(VIP_A) }), Err(Verdict::SocketUnlisted));
    assert_eq!(outbound(&maps, &tcp(ip(10, 112, 9, 9))), Err(Verdict::SocketUnlisted));
    assert_eq!(outbound(&maps, &tcp(ip(10, 99, 0, 1))), Err(Verdict::SocketUnlisted), "the other range");
    for frontend in maps.frontends.values_mut() {
        frontend.count = 0;
    }
    assert_eq!(outbound(&maps, &tcp(VIP_A)), Err(Verdict::SocketNoBackend));
    for v in [Verdict::SocketUnlisted, Verdict::SocketNoBackend] {
        assert!(v.is_drop());
    }
}

#[test]
fn only_addresses_of_the_ranges_and_tcp_and_udp_are_touched() {
    let maps = maps(1);
    assert_eq!(outbound(&maps, &tcp(ip(10, 113, 0, 7))), Err(Verdict::SocketPassed));
    assert_eq!(outbound(&maps, &Call { proto: 1, ..tcp(VIP_A) }), Err(Verdict::SocketPassed));
    assert_eq!(inbound(&maps, &Call { proto: 1, ..tcp(VIP_A) }), Err(Verdict::SocketPassed));
}

#[test]
fn all_eight_ranges_count_and_no_more_than_said() {
    let mut maps = maps(0);
    maps.config.service_cidr_count = 200;
    for i in 0..8 {
        maps.config.service_cidrs[i] = Cidr4 { network: ip(100, i as u8, 0, 0), mask: Be32::mask_of(16) };
    }
    assert_eq!(outbound(&maps, &tcp(ip(100, 7, 0, 1))), Err(Verdict::SocketUnlisted));
    maps.config.service_cidr_count = 7;
    assert_eq!(outbound(&maps, &tcp(ip(100, 7, 0, 1))), Err(Verdict::SocketPassed));
    maps.config.service_cidr_count = 0;
    maps.config.service_cidrs[0] = Cidr4::default();
    assert_eq!(outbound(&maps, &tcp(ip(100, 0, 0, 1))), Err(Verdict::SocketPassed), "an empty list is not all of IPv4");
}

#[test]
fn a_namespace_sees_its_own_networks_services_and_the_host_all() {
    let mut maps = maps(1);
    maps.network = None;
    assert_eq!(outbound(&maps, &tcp(VIP_A)), Err(Verdict::SocketOtherNetns));
    maps.network = Some(2);
    assert_eq!(outbound(&maps, &tcp(VIP_A)), Err(Verdict::SocketUnlisted));
    maps.network = Some(NETWORK_ALL);
    assert!(outbound(&maps, &tcp(VIP_A)).is_ok());
}

#[test]
fn connecting_to_the_backend_itself_ends_the_translation() {
    let maps = maps(1);
    let call = tcp(VIP_A);
    let target = outbound(&maps, &call).unwrap();
    let direct = came_from(target, &call);
    assert_eq!(outbound(&maps, &direct), Err(Verdict::SocketPassed));
    assert_eq!(inbound(&maps, &direct), Err(Verdict::SocketPassed), "getpeername names the backend");
}

#[test]
fn connected_to_one_service_and_sending_to_another_each_is_named_right() {
    let maps = maps(1);
    let connect = Call { via: ReverseKey::CONNECTED, ..datagram(7, VIP_A) };
    let send = datagram(7, VIP_B);
    let a = outbound(&maps, &connect).unwrap();
    let b = outbound(&maps, &send).unwrap();
    assert_eq!(a, b, "the same backend stands behind both");
    assert_eq!(inbound(&maps, &came_from(a, &connect)).unwrap().addr, VIP_A);
    assert_eq!(inbound(&maps, &came_from(b, &send)).unwrap().addr, VIP_B);
}

#[test]
fn a_service_that_is_gone_or_replaced_is_not_named() {
    let mut maps = maps(1);
    let call = tcp(VIP_A);
    let target = outbound(&maps, &call).unwrap();
    let back = came_from(target, &call);
    for frontend in maps.frontends.values_mut() {
        frontend.service += 1000;
    }
    assert_eq!(inbound(&maps, &back), Err(Verdict::SocketPassed));
    assert!(maps.reverse.borrow().is_empty(), "and the record goes");
}

#[test]
fn a_list_that_shrinks_while_it_is_read_still_gives_a_backend() {
    let mut maps = maps(5);
    maps.slots.retain(|key, _| key.index == 0);
    for _ in 0..100 {
        assert_eq!(outbound(&maps, &tcp(VIP_A)).unwrap().addr, ip(10, 244, 1, 1));
    }
    maps.slots.clear();
    assert_eq!(outbound(&maps, &tcp(VIP_A)), Err(Verdict::SocketInternal));
}

#[test]
fn what_cannot_be_undone_on_the_way_back_is_not_done() {
    let mut maps = maps(1);
    maps.full = true;
    assert_eq!(outbound(&maps, &tcp(VIP_A)), Err(Verdict::SocketInternal));
}

#[test]
fn a_list_that_is_replaced_while_it_is_read_is_read_once_more() {
    let maps = maps(3);
    let gone = Frontend { service: 999, count: 3, network: NETWORK_DEFAULT, flags: 0 };
    maps.stale.set(Some(gone));
    assert!(outbound(&maps, &tcp(VIP_A)).is_ok());
    let mut emptied = maps;
    emptied.frontends.values_mut().for_each(|f| f.count = 0);
    emptied.stale.set(Some(gone));
    assert_eq!(outbound(&emptied, &tcp(VIP_A)), Err(Verdict::SocketNoBackend), "refused, not passed on");
}
