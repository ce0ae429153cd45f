//! What an answer rests on, and what a new zone takes from under it: so that who keeps answers knows which ones to drop.
//!
//! An answer rests on the names that were looked at for it: what stands at and below each, and the services that have the names
//! above it. A change touches names and services. Both are told as marks, numbers made from them; two different ones may come
//! out alike, which costs an answer that was still good, never a wrong one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use super::tree::{self, Key};

/// A name or a service, told by a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

impl Mark {
    fn new(what: &str, key: &[u8]) -> Self {
        // Made with fixed keys: the same in every process.
        let mut hasher = DefaultHasher::new();
        (what, key).hash(&mut hasher);
        Self(hasher.finish())
    }

    fn name(key: &[u8]) -> Self {
        Self::new("name", key)
    }

    fn service(key: &[u8]) -> Self {
        Self::new("service", key)
    }
}

/// What one answer rests on.
#[derive(Debug, Default)]
pub struct Basis {
    marks: RefCell<Vec<Mark>>,
    revision: Cell<bool>,
}

impl Basis {
    /// The names and services.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        let mut marks = self.marks.borrow().clone();
        marks.sort_unstable();
        marks.dedup();
        marks
    }

    /// Whether it names the zone's revision, as a SOA does: then there is another one with each zone.
    #[must_use]
    pub fn names_the_revision(&self) -> bool {
        self.revision.get()
    }

    /// What stands at and below this name was looked at.
    pub(super) fn name(&self, key: &[u8]) {
        self.marks.borrow_mut().push(Mark::name(key));
    }

    /// Whether there is a service of this name was looked at, and what it stands for.
    pub(super) fn service(&self, key: &[u8]) {
        self.marks.borrow_mut().push(Mark::service(key));
    }

    pub(super) fn revision(&self) {
        self.revision.set(true);
    }
}

/// What differs between a zone and the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything may.
    pub all: bool,
    /// The names at which, or below which, something is another.
    names: BTreeSet<Key>,
    /// The names of the services that are other ones, or stand for something else.
    services: BTreeSet<Key>,
}

impl Touched {
    /// Everything.
    pub(super) fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Something came, went or changed at this name.
    pub(super) fn name(&mut self, key: &[u8]) {
        for at in tree::upwards(key) {
            // What stands above has been told with the first one.
            if !self.names.insert(at.to_vec()) {
                break;
            }
        }
    }

    /// The service of this name is another one.
    pub(super) fn service(&mut self, key: &[u8]) {
        self.services.insert(key.to_vec());
    }

    /// Whether nothing is another, besides the revision.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.all && self.names.is_empty() && self.services.is_empty()
    }

    /// Whatever rests on one of these may be another now.
    pub fn marks(&self) -> impl Iterator<Item = Mark> {
        self.names.iter().map(|key| Mark::name(key)).chain(self.services.iter().map(|key| Mark::service(key)))
    }

    /// The names that may be new: each as labels from the root down, lower case.
    pub fn names(&self) -> impl Iterator<Item = Vec<&[u8]>> {
        self.names.iter().chain(&self.services).map(|key| tree::labels(key).collect())
    }
}

/// When what was last touched, in zones since the first: shared by all zones of one maker.
///
/// There are fewer places than marks; those that share one are touched together.
pub(super) struct Stamps {
    places: Box<[AtomicU64]>,
    all: AtomicU64,
}

/// How many places there are: 128 KiB of them.
const PLACES: usize = 1 << 14;

impl Stamps {
    /// Nothing was touched yet.
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), all: AtomicU64::new(0) }
    }

    /// Says what the zone of this number changed. Comes before anybody sees that zone, so that an answer of the one before it
    /// is never taken for one of this.
    pub(super) fn touch(&self, touched: &Touched, number: u64) {
        if touched.all {
            self.all.store(number, Ordering::Release);
        }
        for mark in touched.marks() {
            self.place(mark).store(number, Ordering::Release);
        }
    }

    /// Whether nothing that these marks tell of has been touched since the zone of this number.
    pub(super) fn untouched(&self, marks: &[Mark], number: u64) -> bool {
        self.all.load(Ordering::Acquire) <= number && marks.iter().all(|m| self.place(*m).load(Ordering::Acquire) <= number)
    }

    fn place(&self, mark: Mark) -> &AtomicU64 {
        let at = usize::try_from(mark.0 % PLACES as u64).unwrap_or(0);
        self.places.get(at).unwrap_or(&self.all)
    }
}

impl std::fmt::Debug for Stamps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stamps").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_touches_all_names_above_it_and_none_beside_or_below_it() {
        let key = |name: &str| tree::key(name.split('.').rev()).unwrap();
        let mut touched = Touched::default();
        assert!(touched.is_nothing());
        touched.name(&key("x.web.a"));
        touched.name(&key("y.web.a"));
        let marks: BTreeSet<Mark> = touched.marks().collect();
        let rests_on = |name: &str| {
            let basis = Basis::default();
            basis.name(&key(name));
            basis.marks().iter().any(|mark| marks.contains(mark))
        };
        for (name, is) in
            [("x.web.a", true), ("y.web.a", true), ("web.a", true), ("a", true), ("z.x.web.a", false), ("b.a", false)]
        {
            assert_eq!(rests_on(name), is, "{name}");
        }
        let basis = Basis::default();
        basis.service(&key("web.a"));
        assert!(!basis.marks().iter().any(|mark| marks.contains(mark)), "a service is something else than its name");
    }
}
