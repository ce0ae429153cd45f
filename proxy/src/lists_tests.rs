//! Ids and places: what stays, what moves, and what is never given twice.

use weft_abi::Be32;

use super::*;
use crate::rows::{Action, diff};

const KEY: u8 = 7;

fn key(vip: u8) -> FrontendKey {
    FrontendKey { vip: Ipv4Addr::new(10, 112, 0, vip).into(), port: Be16::from_native(80), proto: 6, pad: 0 }
}

fn backend(last: u8) -> Backend {
    Backend { addr: Be32::from(Ipv4Addr::new(10, 244, 3, last)), port: Be16::from_native(80), proto: 6, pad: 0 }
}

fn list(service: &str, backends: &[u8]) -> List {
    let backends = backends.iter().map(|b| backend(*b)).collect();
    List { service: service.parse().unwrap(), network: NETWORK_DEFAULT, backends }
}

fn world(lists: &[(u8, &str, &[u8])]) -> Wanted {
    let frontends = lists.iter().map(|(vip, service, backends)| (key(*vip), list(service, backends))).collect();
    Wanted { frontends, unprogrammed: Vec::new() }
}

/// The maps, and the agent's memory.
struct Host {
    maps: Rows,
    ids: Ids,
}

impl Host {
    fn with(lists: &[(u8, &str, &[u8])]) -> Self {
        let mut host = Self { maps: Rows::default(), ids: Ids::seeded(&Rows::default()) };
        host.sync(&world(lists));
        host
    }

    fn sync(&mut self, wanted: &Wanted) -> Vec<String> {
        let desired = desired(wanted, &self.maps, &mut self.ids, &Limits::default());
        assert_eq!(desired.unprogrammed, []);
        let actions = diff(&desired.rows, &self.maps);
        actions.iter().for_each(|a| self.maps.apply(a));
        assert_eq!(self.maps, desired.rows);
        actions.iter().map(Action::to_string).collect()
    }

    fn restart(&mut self) {
        self.ids = Ids::seeded(&self.maps);
    }
}

#[test]
fn one_backend_more_is_a_backend_a_slot_and_a_count() {
    let mut host = Host::with(&[(KEY, "a", &[1, 2])]);
    assert_eq!(
        host.sync(&world(&[(KEY, "a", &[1, 2, 3])])),
        [
            "put weft_backends 3 = 10.244.3.3:80/tcp",
            "put weft_slots 1[2] = 3",
            "put weft_frontends 10.112.0.7:80/tcp = list 1 of 3, network 1",
        ]
    );
}

#[test]
fn one_backend_less_lowers_the_count_and_moves_the_last_into_its_place() {
    let mut host = Host::with(&[(KEY, "a", &[1, 2, 3, 4])]);
    assert_eq!(
        host.sync(&world(&[(KEY, "a", &[1, 3, 4])])),
        [
            "put weft_frontends 10.112.0.7:80/tcp = list 1 of 3, network 1",
            "delete weft_slots 1[3]",
            "put weft_slots 1[1] = 4",
            "delete weft_backends 2",
        ]
    );
}

#[test]
fn a_backend_in_place_of_another_takes_its_slot() {
    let mut host = Host::with(&[(KEY, "a", &[1, 2, 3])]);
    assert_eq!(
        host.sync(&world(&[(KEY, "a", &[1, 3, 9])])),
        ["put weft_backends 4 = 10.244.3.9:80/tcp", "put weft_slots 1[1] = 4", "delete weft_backends 2"]
    );
}

#[test]
fn services_share_a_backends_row_and_it_stays_as_long_as_one_has_it() {
    let mut host = Host::with(&[(1, "a", &[1]), (2, "b", &[1])]);
    assert_eq!(host.maps.backends.len(), 1);
    assert_eq!(host.sync(&world(&[(2, "b", &[1])])), ["delete weft_frontends 10.112.0.1:80/tcp", "delete weft_slots 1[0]"]);
}

#[test]
fn a_frontend_without_backends_is_there_with_count_0() {
    let mut host = Host::with(&[(KEY, "a", &[])]);
    assert_eq!(host.maps.frontends[&key(KEY)].count, 0);
    host.sync(&world(&[(KEY, "a", &[1])]));
    let actions = host.sync(&world(&[(KEY, "a", &[])]));
    assert_eq!(actions[0], "put weft_frontends 10.112.0.7:80/tcp = list 1 of 0, network 1");
}

#[test]
fn a_restart_changes_no_row() {
    let lists: &[(u8, &str, &[u8])] = &[(1, "a", &[1, 2, 3]), (2, "b", &[3, 4]), (3, "c", &[])];
    let mut host = Host::with(lists);
    host.sync(&world(&[(1, "a", &[1, 3, 5]), (2, "b", &[5, 4]), (3, "c", &[])]));
    host.sync(&world(lists));
    host.restart();
    assert_eq!(host.sync(&world(lists)), Vec::<String>::new());
}

#[test]
fn an_id_that_was_freed_is_not_given_again_even_after_a_restart() {
    let mut host = Host::with(&[(1, "a", &[1]), (2, "b", &[2])]);
    let freed = (host.maps.frontends[&key(2)].service, 2);
    host.sync(&world(&[(1, "a", &[1])]));
    for restart in [false, true] {
        if restart {
            host.restart();
        }
        host.sync(&world(&[(1, "a", &[1]), (3, "c", &[3])]));
        let given = (host.maps.frontends[&key(3)].service, *host.maps.backends.last_key_value().unwrap().0);
        assert!(given.0 != freed.0 && given.1 != freed.1, "{given:?}");
        host.sync(&world(&[(1, "a", &[1])]));
    }
}

#[test]
fn ids_wrap_past_those_in_use_and_never_are_0() {
    let mut host = Host::with(&[(1, "a", &[1, 2])]);
    (host.ids.next_list, host.ids.next_backend) = (u32::MAX, u32::MAX);
    host.maps.slots.insert(SlotKey { service: 2, index: 9 }, 3);
    host.sync(&world(&[(1, "a", &[1, 2]), (2, "b", &[3, 4]), (3, "c", &[5])]));
    assert_eq!(host.maps.backends.keys().copied().collect::<Vec<_>>(), [1, 2, 4, 5, u32::MAX]);
    assert_eq!([1, 2, 3].map(|vip| host.maps.frontends[&key(vip)].service), [1, u32::MAX, 3]);
}

#[test]
fn a_virtual_ip_that_passes_to_another_service_is_switched_in_one_write() {
    let mut host = Host::with(&[(KEY, "a", &[1, 2])]);
    assert_eq!(
        host.sync(&world(&[(KEY, "b", &[2, 3])])),
        [
            "put weft_backends 3 = 10.244.3.3:80/tcp",
            "put weft_slots 2[0] = 2",
            "put weft_slots 2[1] = 3",
            "put weft_frontends 10.112.0.7:80/tcp = list 2 of 2, network 1",
            "delete weft_slots 1[0]",
            "delete weft_slots 1[1]",
            "delete weft_backends 1",
        ]
    );
}

#[test]
fn a_full_map_leaves_out_new_frontends_before_old_ones_and_says_so() {
    let limits = |frontends, slots, backends| Limits { frontends, slots, backends };
    let lists: &[(u8, &str, &[u8])] = &[(1, "new", &[1, 2]), (2, "old", &[3, 4]), (3, "old2", &[3, 4])];
    for (limits, map) in [
        (limits(2, 9, 9), "weft_frontends takes no more than 2 rows"),
        (limits(9, 5, 9), "weft_slots takes no more than 5 rows"),
        (limits(9, 9, 3), "weft_backends takes no more than 3 rows"),
    ] {
        let mut host = Host::with(&lists[1..]);
        let desired = desired(&world(lists), &host.maps, &mut host.ids, &limits);
        assert_eq!(desired.rows.frontends.keys().copied().collect::<Vec<_>>(), [key(2), key(3)]);
        let said: Vec<_> = desired.unprogrammed.iter().map(ToString::to_string).collect();
        assert_eq!(said, [format!("default/new: virtual IP 10.112.0.1 port 80/tcp is not programmed: the map {map}")]);
    }
}

#[test]
fn places_are_kept_and_holes_filled() {
    let arrange = |current: &[u32], members: &[u32]| {
        let current = (0..).zip(current.iter().copied());
        super::arrange(current, members)
    };
    assert_eq!(arrange(&[5, 3, 1], &[1, 3, 5]), [5, 3, 1]);
    assert_eq!(arrange(&[5, 3, 1, 7], &[1, 5, 7]), [5, 7, 1]);
    assert_eq!(arrange(&[5, 3, 1], &[2, 4, 5]), [5, 2, 4]);
    assert_eq!(arrange(&[5, 5, 9], &[3, 5]), [5, 3], "what is there twice is kept once");
    assert_eq!(arrange(&[], &[1]), [1]);
    assert!(arrange(&[1], &[]).is_empty());
}
