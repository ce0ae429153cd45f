//! Any world may follow any other, and programs may look at any moment: what they find is always whole and never foreign.
//!
//! A reader that does what the programs do (frontend, any index below the count, slot, backend) runs after every single action.

#![allow(clippy::unwrap_used, reason = "helpers of tests may assume what tests may")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use weft_abi::{Backend, Be16, Frontend, FrontendKey, SlotKey};
use weft_proxy::lists::{List, Wanted};
use weft_proxy::rows::{Action, Rows, diff};
use weft_proxy::{Ids, Limits, desired};

/// What readers may be led to, by frontend: network and backends.
type Seen = BTreeMap<FrontendKey, (u32, BTreeSet<Backend>)>;

/// All that a program can be led to; what it must never meet is an error.
fn read(maps: &Rows) -> Result<Seen, TestCaseError> {
    let mut seen = Seen::new();
    for (key, frontend) in &maps.frontends {
        let (_, reached) = seen.entry(*key).or_insert((frontend.network, BTreeSet::new()));
        for index in 0..frontend.count {
            let slot = SlotKey { service: frontend.service, index };
            let Some(id) = maps.slots.get(&slot) else {
                return Err(TestCaseError::fail(format!("{key:?}: no slot {slot:?}")));
            };
            let Some(backend) = maps.backends.get(id) else {
                return Err(TestCaseError::fail(format!("{key:?}: slot {slot:?} names {id}, which is not there")));
            };
            reached.insert(*backend);
        }
    }
    Ok(seen)
}

fn seen_of(wanted: &Wanted) -> Seen {
    wanted.frontends.iter().map(|(key, list)| (*key, (list.network, list.backends.clone()))).collect()
}

/// Applies the first `steps` actions, looking after each: nothing foreign, and never one network's backends for another's.
fn apply(maps: &mut Rows, actions: &[Action], wanted: &Wanted) -> Result<(), TestCaseError> {
    let (old, new) = (read(maps)?, seen_of(wanted));
    for action in actions {
        maps.apply(action);
        for (key, (network, reached)) in read(maps)? {
            let either = [old.get(&key), new.get(&key)];
            let of_network = either.into_iter().flatten().filter(|(of, _)| *of == network);
            let allowed: BTreeSet<Backend> = of_network.flat_map(|(_, backends)| backends).copied().collect();
            prop_assert!(
                reached.is_subset(&allowed),
                "after {action}: {key:?} in network {network} leads to {reached:?}, not only {allowed:?}"
            );
            prop_assert!(either.iter().flatten().any(|(of, _)| *of == network), "{key:?} is in network {network}");
        }
    }
    Ok(())
}

/// One full round: every step legal, the goal reached, nothing left to do.
fn sync(maps: &mut Rows, ids: &mut Ids, wanted: &Wanted) -> Result<(), TestCaseError> {
    let goal = desired(wanted, maps, ids, &Limits::default()).rows;
    apply(maps, &diff(&goal, maps), wanted)?;
    prop_assert_eq!(&*maps, &goal);
    check(maps, ids, wanted)
}

/// The maps say what is wanted, and the next round has nothing to do.
fn check(maps: &Rows, ids: &mut Ids, wanted: &Wanted) -> Result<(), TestCaseError> {
    prop_assert_eq!(read(maps)?, seen_of(wanted));
    let slots: u32 = maps.frontends.values().map(|f| f.count).sum();
    prop_assert_eq!(maps.slots.len(), slots as usize, "no slot is left over");
    let listed: usize = wanted.frontends.values().map(|l| l.backends.len()).sum();
    prop_assert_eq!(slots as usize, listed, "no backend is listed twice");
    let distinct: BTreeSet<_> = wanted.frontends.values().flat_map(|l| &l.backends).collect();
    prop_assert_eq!(maps.backends.len(), distinct.len(), "no backend's row is left over or there twice");
    let again = desired(wanted, maps, ids, &Limits::default()).rows;
    prop_assert_eq!(diff(&again, maps), vec![]);
    Ok(())
}

fn key(vip: u8, port: u16, proto: u8) -> FrontendKey {
    FrontendKey { vip: Ipv4Addr::new(10, 112, 0, vip).into(), port: Be16::from_native(port), proto, pad: 0 }
}

fn backend(last: u8, port: u16, proto: u8) -> Backend {
    Backend { addr: Ipv4Addr::new(10, 244, 3, last).into(), port: Be16::from_native(port), proto, pad: 0 }
}

fn some_key() -> impl Strategy<Value = FrontendKey> {
    (0..4_u8, 80..82_u16).prop_map(|(vip, port)| key(vip, port, 6))
}

fn some_backend() -> impl Strategy<Value = Backend> {
    (0..7_u8, 80..82_u16).prop_map(|(last, port)| backend(last, port, 6))
}

fn world() -> impl Strategy<Value = Wanted> {
    // The owner mostly goes with the address, and sometimes does not.
    let list = (prop_oneof![4 => Just("a"), 1 => Just("b")], prop_oneof![4 => Just(1_u32), 1 => Just(2)]);
    let list = (list, btree_set(some_backend(), 0..7)).prop_map(|((service, network), backends)| List {
        service: service.parse().unwrap(),
        network,
        backends,
    });
    btree_map(some_key(), list, 0..7).prop_map(|frontends| Wanted { frontends, unprogrammed: Vec::new() })
}

/// What happens to an agent between two worlds.
#[derive(Clone, Debug)]
struct Fate {
    /// It stops after this part of its actions, in 256ths; none: it finishes.
    stops_at: Option<u8>,
    /// It comes back without memory.
    restarts: bool,
}

fn fate() -> impl Strategy<Value = Fate> {
    (proptest::option::of(any::<u8>()), any::<bool>()).prop_map(|(stops_at, restarts)| Fate { stops_at, restarts })
}

/// Rows that nobody wrote on purpose: dangling, doubled, beyond every count, with stray padding.
fn garbage() -> impl Strategy<Value = Rows> {
    let stray = || prop_oneof![7 => Just(0_u8), 1 => Just(1)];
    let key = (some_key(), stray()).prop_map(|(key, pad)| FrontendKey { pad, ..key });
    let count = prop_oneof![0..5_u32, Just(u32::MAX)];
    let frontend = (0..4_u32, count, prop_oneof![3 => Just(1_u32), 1 => Just(2)], 0..2_u32)
        .prop_map(|(service, count, network, flags)| Frontend { service, count, network, flags });
    let slot = (0..4_u32, prop_oneof![0..5_u32, Just(u32::MAX)]).prop_map(|(service, index)| SlotKey { service, index });
    let id = || prop_oneof![0..7_u32, Just(u32::MAX)];
    let row = (some_backend(), stray()).prop_map(|(backend, pad)| Backend { pad, ..backend });
    (btree_map(key, frontend, 0..6), btree_map(slot, id(), 0..12), btree_map(id(), row, 0..7))
        .prop_map(|(frontends, slots, backends)| Rows { frontends, slots, backends })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_world_follows_any_world_and_every_step_between_is_whole(worlds in vec((world(), any::<bool>()), 1..5)) {
        let mut maps = Rows::default();
        let mut ids = Ids::seeded(&maps);
        for (wanted, restarts) in &worlds {
            if *restarts {
                ids = Ids::seeded(&maps);
            }
            sync(&mut maps, &mut ids, wanted)?;
        }
    }

    #[test]
    fn a_round_that_stops_anywhere_is_whole_and_the_next_one_converges(worlds in vec((world(), fate()), 1..6), last in world()) {
        let mut maps = Rows::default();
        let mut ids = Ids::seeded(&maps);
        for (wanted, fate) in &worlds {
            let goal = desired(wanted, &maps, &mut ids, &Limits::default()).rows;
            let actions = diff(&goal, &maps);
            let steps = fate.stops_at.map_or(actions.len(), |part| actions.len() * usize::from(part) / 256);
            apply(&mut maps, &actions[..steps], wanted)?;
            if fate.restarts {
                ids = Ids::seeded(&maps);
            }
        }
        sync(&mut maps, &mut ids, &last)?;
    }

    #[test]
    fn the_same_world_after_a_restart_changes_nothing(worlds in vec(world(), 1..4)) {
        let mut maps = Rows::default();
        let mut ids = Ids::seeded(&maps);
        for wanted in &worlds {
            sync(&mut maps, &mut ids, wanted)?;
        }
        let mut ids = Ids::seeded(&maps);
        let goal = desired(worlds.last().unwrap(), &maps, &mut ids, &Limits::default()).rows;
        prop_assert_eq!(goal, maps);
    }

    #[test]
    fn an_id_in_the_maps_keeps_its_meaning(worlds in vec((world(), fate()), 1..6)) {
        let mut maps = Rows::default();
        let mut ids = Ids::seeded(&maps);
        for (wanted, fate) in &worlds {
            let goal = desired(wanted, &maps, &mut ids, &Limits::default()).rows;
            for (id, backend) in &goal.backends {
                prop_assert!(maps.backends.get(id).is_none_or(|there| there == backend), "backend {} changes", id);
            }
            for (key, frontend) in &goal.frontends {
                let other = maps.frontends.iter().find(|(k, f)| f.service == frontend.service && *k != key);
                prop_assert!(other.is_none(), "list {} passes from {:?} to {:?}", frontend.service, other, key);
            }
            let actions = diff(&goal, &maps);
            let steps = fate.stops_at.map_or(actions.len(), |part| actions.len() * usize::from(part) / 256);
            actions[..steps].iter().for_each(|a| maps.apply(a));
            if fate.restarts {
                ids = Ids::seeded(&maps);
            }
        }
    }

    #[test]
    fn a_backend_that_stays_keeps_its_place_if_the_list_still_has_it(
        old in btree_set(some_backend(), 0..12), new in btree_set(some_backend(), 0..12)
    ) {
        let of = |backends: &BTreeSet<Backend>| {
            let list = List { service: "a".parse().unwrap(), network: 1, backends: backends.clone() };
            Wanted { frontends: [(key(1, 80, 6), list)].into(), unprogrammed: Vec::new() }
        };
        let mut maps = Rows::default();
        let mut ids = Ids::seeded(&maps);
        sync(&mut maps, &mut ids, &of(&old))?;
        let before = maps.clone();
        let actions = diff(&desired(&of(&new), &maps, &mut ids, &Limits::default()).rows, &maps);
        sync(&mut maps, &mut ids, &of(&new))?;
        let stays = |(slot, id): &(&SlotKey, &u32)| {
            (slot.index as usize) < new.len() && new.contains(&before.backends[*id])
        };
        let kept = before.slots.iter().filter(stays).count();
        prop_assert!(before.slots.iter().filter(stays).all(|(slot, id)| maps.slots.get(slot) == Some(id)));
        let written = actions.iter().filter(|a| matches!(a, Action::PutSlot(..))).count();
        prop_assert_eq!(written, new.len() - kept, "no slot is written without need");
    }

    #[test]
    fn whatever_is_in_the_maps_is_put_right(mut maps in garbage(), wanted in world(), restarts in any::<bool>()) {
        let mut ids = Ids::seeded(&maps);
        let goal = desired(&wanted, &maps, &mut ids, &Limits::default()).rows;
        for action in diff(&goal, &maps) {
            maps.apply(&action);
        }
        prop_assert_eq!(&maps, &goal);
        if restarts {
            ids = Ids::seeded(&maps);
        }
        check(&maps, &mut ids, &wanted)?;
    }
}

#[test]
fn tcp_and_udp_of_one_port_are_two_frontends_and_two_backends() {
    let list = |proto| List { service: "dns1".parse().unwrap(), network: 1, backends: [backend(1, 53, proto)].into() };
    let frontends = [6, 17].map(|proto| (key(1, 53, proto), list(proto))).into();
    let wanted = Wanted { frontends, unprogrammed: Vec::new() };
    let rows = desired(&wanted, &Rows::default(), &mut Ids::seeded(&Rows::default()), &Limits::default()).rows;
    assert_eq!((rows.frontends.len(), rows.slots.len(), rows.backends.len()), (2, 2, 2));
}
