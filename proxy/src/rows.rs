//! The contents of the three maps of virtual IPs, and the order in which a difference is written.
//!
//! A program that is asked for a virtual address reads a frontend, takes an index below its count, reads that slot, reads the
//! backend that the slot names. [`diff`] orders its actions so that after each of them this ends at a backend that either the
//! old or the new rows list for the frontend, whatever the index:
//!
//! 1. frontends that go away, and the new count of lists that shrink;
//! 2. slots beyond every count and backends that no list leads to, so that a map that is nearly full has room for what comes;
//! 3. backends that are new, to which nothing points yet;
//! 4. slots: beyond the end of a list, or in place of another backend;
//! 5. frontends that are new, point at another list, or grow;
//! 6. slots of lists that no frontend points at since step 5;
//! 7. backends that no slot names since steps 4 and 6.
//!
//! A program that is in the middle of its reads while several actions pass may still find a slot or a backend gone: what it
//! does then is its own affair. What each row should hold is decided in [`crate::lists`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::{fmt, iter};

use weft_abi::maps::{PROTO_TCP, PROTO_UDP, name};
use weft_abi::{Backend, Frontend, FrontendKey, SlotKey};

/// The contents of `weft_frontends`, `weft_slots` and `weft_backends`: as they should be, or as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// `weft_frontends`.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// `weft_slots`: ids of `backends`.
    pub slots: BTreeMap<SlotKey, u32>,
    /// `weft_backends`, by id.
    pub backends: BTreeMap<u32, Backend>,
}

/// One write to one map.
///
/// Actions are applied in the order of [`diff`]. Any prefix is legal, so the first that does not succeed ends the round: what
/// follows may rest on it. The next round reads the maps back and makes a new difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Write a row of `weft_backends`.
    PutBackend(u32, Backend),
    /// Write a row of `weft_slots`.
    PutSlot(SlotKey, u32),
    /// Write a row of `weft_frontends`.
    PutFrontend(FrontendKey, Frontend),
    /// Remove a row of `weft_frontends`; that it is gone already is success.
    DeleteFrontend(FrontendKey),
    /// Remove a row of `weft_slots`; that it is gone already is success.
    DeleteSlot(SlotKey),
    /// Remove a row of `weft_backends`; that it is gone already is success.
    DeleteBackend(u32),
}

/// The writes that turn `actual` into `desired`, in an order in which each step is legal. `desired` comes from
/// [`crate::lists::desired`] over the same `actual`, which gives no row another meaning under an id that is in use.
#[must_use]
pub fn diff(desired: &Rows, actual: &Rows) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut fronts_later = Vec::new();
    // Lists that programs read until their frontend points at another, and how far.
    let mut left_behind: HashMap<u32, u32> = HashMap::new();
    let shrinks = |new: &Frontend, old: &Frontend| new.service == old.service && new.count < old.count;
    for change in pairs(&desired.frontends, &actual.frontends) {
        match change {
            Pair::Same => {}
            Pair::Put(key, new, Some(old)) if shrinks(new, old) => actions.push(Action::PutFrontend(*key, *new)),
            Pair::Put(key, new, old) => {
                if let Some(old) = old.filter(|old| old.service != new.service) {
                    let count = left_behind.entry(old.service).or_default();
                    *count = old.count.max(*count);
                }
                fronts_later.push(Action::PutFrontend(*key, *new));
            }
            Pair::Delete(key, _) => actions.push(Action::DeleteFrontend(*key)),
        }
    }
    let mut slots = Vec::new();
    let mut slots_later = Vec::new();
    // Backends that programs may still be led to until slots are written and lists switched.
    let mut held: HashSet<u32> = HashSet::new();
    for change in pairs(&desired.slots, &actual.slots) {
        match change {
            Pair::Same => {}
            Pair::Put(key, backend, old) => {
                held.extend(old);
                slots.push(Action::PutSlot(*key, *backend));
            }
            Pair::Delete(key, old) if left_behind.get(&key.service).is_some_and(|count| key.index < *count) => {
                held.insert(*old);
                slots_later.push(Action::DeleteSlot(*key));
            }
            Pair::Delete(key, _) => actions.push(Action::DeleteSlot(*key)),
        }
    }
    let mut backends = Vec::new();
    let mut backends_later = Vec::new();
    for change in pairs(&desired.backends, &actual.backends) {
        match change {
            Pair::Same => {}
            Pair::Put(id, backend, _) => backends.push(Action::PutBackend(*id, *backend)),
            Pair::Delete(id, _) if held.contains(id) => backends_later.push(Action::DeleteBackend(*id)),
            Pair::Delete(id, _) => actions.push(Action::DeleteBackend(*id)),
        }
    }
    for mut step in [backends, slots, fronts_later, slots_later, backends_later] {
        actions.append(&mut step);
    }
    actions
}

impl Rows {
    /// Does to these rows what the action does to the maps.
    pub fn apply(&mut self, action: &Action) {
        match *action {
            Action::PutBackend(id, backend) => drop(self.backends.insert(id, backend)),
            Action::PutSlot(key, backend) => drop(self.slots.insert(key, backend)),
            Action::PutFrontend(key, frontend) => drop(self.frontends.insert(key, frontend)),
            Action::DeleteFrontend(key) => drop(self.frontends.remove(&key)),
            Action::DeleteSlot(key) => drop(self.slots.remove(&key)),
            Action::DeleteBackend(id) => drop(self.backends.remove(&id)),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutBackend(id, b) => {
                write!(f, "put {} {id} = {}:{}/{}", name::BACKENDS, b.addr, b.port, Proto(b.proto))
            }
            Self::PutSlot(k, id) => write!(f, "put {} {}[{}] = {id}", name::SLOTS, k.service, k.index),
            Self::PutFrontend(k, v) => write!(
                f,
                "put {} {}:{}/{} = list {} of {}, network {}",
                name::FRONTENDS,
                k.vip,
                k.port,
                Proto(k.proto),
                v.service,
                v.count,
                v.network
            ),
            Self::DeleteFrontend(k) => write!(f, "delete {} {}:{}/{}", name::FRONTENDS, k.vip, k.port, Proto(k.proto)),
            Self::DeleteSlot(k) => write!(f, "delete {} {}[{}]", name::SLOTS, k.service, k.index),
            Self::DeleteBackend(id) => write!(f, "delete {} {id}", name::BACKENDS),
        }
    }
}

struct Proto(u8);

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PROTO_TCP => f.write_str("tcp"),
            PROTO_UDP => f.write_str("udp"),
            other => other.fmt(f),
        }
    }
}

/// One key of two maps: what is wanted, and what is there.
enum Pair<'a, K, V> {
    Same,
    Put(&'a K, &'a V, Option<&'a V>),
    Delete(&'a K, &'a V),
}

/// Both maps side by side, in the order of keys.
fn pairs<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    actual: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = Pair<'a, K, V>> {
    let mut desired = desired.iter().peekable();
    let mut actual = actual.iter().peekable();
    iter::from_fn(move || {
        let order = match (desired.peek(), actual.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((wanted, _)), Some((there, _))) => wanted.cmp(there),
        };
        match order {
            Ordering::Less => desired.next().map(|(k, v)| Pair::Put(k, v, None)),
            Ordering::Greater => actual.next().map(|(k, v)| Pair::Delete(k, v)),
            Ordering::Equal => desired
                .next()
                .zip(actual.next())
                .map(|((key, new), (_, old))| if new == old { Pair::Same } else { Pair::Put(key, new, Some(old)) }),
        }
    })
}
