//! Finding out cheaply, twice a second, that somebody else changed a map's rows.
//!
//! The kernel tells nobody of a row that changes, and counts no generation that could be asked for; and to read maps of half a
//! million rows twice a second would cost more than the datapath does. Two things are cheap:
//!
//! * The memory that a map takes, in `/proc/self/fdinfo/<fd>`: since Linux 6.4 it grows and shrinks with each row of a hash
//!   whose rows are not preallocated (`htab_map_mem_usage`), so it says whether there are as many rows as before. 2 us, whatever
//!   the map's size.
//! * Reading some rows: one by one (0.8 us each), or many at once in the order of the map's own buckets (`BPF_MAP_LOOKUP_BATCH`:
//!   0.2 us each, and as much again for 300 buckets that are empty). Seen on 6.18 in a virtual machine.
//!
//! As many rows as there should be, and each that should be there with the value that it should have, is the whole map: so
//! each look compares the count and a slice of the rows, and all of them in turn. What a look may cost is a [`Budget`].

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use aya::Pod;

use super::{BpfError, sys};

/// What a row costs that is looked up by its key, in nanoseconds.
const LOOKUP: u64 = 800;

/// What a row costs that is read with others, in nanoseconds.
const BATCHED: u64 = 200;

/// How many empty buckets are passed in the time of one [`BATCHED`] row.
const BUCKETS: usize = 300;

/// The least number of rows to ask for at once: a bucket that holds more is not read at all.
const LEAST: usize = 64;

/// What looking may cost: about so many nanoseconds of one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Budget(u64);

impl Budget {
    /// About so many nanoseconds.
    #[must_use]
    pub const fn nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_spent(self) -> bool {
        self.0 == 0
    }

    fn spend(&mut self, nanoseconds: u64) {
        self.0 = self.0.saturating_sub(nanoseconds);
    }
}

/// Where the next look goes on.
#[derive(Clone, Copy, Debug)]
enum Turn<K> {
    /// At the first row.
    First,
    /// Behind this key.
    Behind(K),
    /// At this place of the map.
    At(sys::Position),
}

/// A map that is looked at again and again.
pub(super) struct Glance<K> {
    map: OwnedFd,
    /// Where the kernel tells of the map; none where there is no /proc.
    told: Option<File>,
    /// How many rows it takes, if it can be walked. (In a trie a position is a key, and not four bytes.)
    capacity: Option<u32>,
    settled: Option<u64>,
    turn: Turn<K>,
}

impl<K: Pod + Ord> Glance<K> {
    pub(super) fn new(map: OwnedFd, capacity: Option<u32>) -> Self {
        let told = File::open(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).ok();
        Self { map, told, capacity, settled: None, turn: Turn::First }
    }

    pub(super) fn settle(&mut self) {
        self.settled = self.memory();
    }

    pub(super) fn has_as_many_rows(&self) -> bool {
        self.settled.is_none() || self.memory() == self.settled
    }

    /// What the map takes, in bytes.
    fn memory(&self) -> Option<u64> {
        let mut text = [0; 1024];
        let read = self.told.as_ref()?.read_at(&mut text, 0).ok()?;
        memory_in(std::str::from_utf8(text.get(..read)?).ok()?)
    }

    /// See [`super::Table::look`].
    pub(super) fn look<V: Pod + PartialEq>(
        &mut self,
        name: &'static str,
        expected: &BTreeMap<K, V>,
        budget: &mut Budget,
        get: impl Fn(&K) -> Result<Option<V>, BpfError>,
    ) -> Result<Option<&'static str>, BpfError> {
        if !self.has_as_many_rows() {
            return Ok(Some("rows were added or removed"));
        }
        if budget.is_spent() || expected.is_empty() {
            return Ok(None);
        }
        let capacity = self.capacity.unwrap_or(u32::MAX);
        let at = match self.turn {
            Turn::At(position) => Some(position),
            Turn::First if self.capacity.is_some() && pays(expected.len(), capacity) => None,
            Turn::First => return self.look_up(expected, Bound::Unbounded, budget, get),
            Turn::Behind(key) => return self.look_up(expected, Bound::Excluded(key), budget, get),
        };
        let room = usize::try_from(budget.0 / BATCHED).unwrap_or(LEAST).max(LEAST);
        // The next time from the beginning, whatever goes wrong now.
        self.turn = Turn::First;
        let sys::Batch { rows, rest } = sys::lookup_batch::<K, V>(self.map.as_fd(), at, room)
            .map_err(|source| BpfError::Map { op: "list", map: name, source: source.into() })?;
        let share = rows.len() as u64 + u64::from(capacity) / BUCKETS as u64 * rows.len() as u64 / expected.len() as u64;
        budget.spend(share * BATCHED);
        self.turn = rest.map_or(Turn::First, Turn::At);
        let same = rows.iter().all(|(key, value)| expected.get(key) == Some(value));
        Ok((!same).then_some("rows were changed"))
    }

    fn look_up<V: PartialEq>(
        &mut self,
        expected: &BTreeMap<K, V>,
        from: Bound<K>,
        budget: &mut Budget,
        get: impl Fn(&K) -> Result<Option<V>, BpfError>,
    ) -> Result<Option<&'static str>, BpfError> {
        self.turn = Turn::First;
        for (key, value) in expected.range((from, Bound::Unbounded)) {
            if budget.is_spent() {
                return Ok(None);
            }
            budget.spend(LOOKUP);
            if get(key)?.as_ref() != Some(value) {
                return Ok(Some("rows were changed or removed"));
            }
            self.turn = Turn::Behind(*key);
        }
        self.turn = Turn::First;
        Ok(None)
    }
}

/// Whether it pays to walk a map's buckets, instead of looking each row up.
fn pays(rows: usize, capacity: u32) -> bool {
    let buckets = capacity as usize;
    rows as u64 * (LOOKUP - BATCHED) > (buckets / BUCKETS) as u64 * BATCHED
}

/// The figure behind `memlock:` of a map's fdinfo (proc(5)).
fn memory_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_is_found() {
        let text = "pos:\t0\nflags:\t02000002\nmap_type:\t1\nmemlock:\t263120\nmap_id:\t5\n";
        assert_eq!(memory_in(text), Some(263_120));
        assert_eq!(memory_in("pos:\t0\n"), None);
    }

    #[test]
    fn a_map_that_is_nearly_empty_is_looked_up_and_a_fuller_one_is_walked() {
        assert!(!pays(10, 16_384) && !pays(300, 524_288));
        assert!(pays(100, 16_384) && pays(5_000, 524_288));
    }
}
