//! Which records are lost: those that ended with their host, while its subnet is still its own.
//!
//! A record that ends in the same revision as its host's entry is lost, one that ends by itself is withdrawn. Three things are
//! seen in any order among each other, because they come from several watches: the end of a record, the end of its host's
//! entry, and the end of the host's subnet lease, after which another host's containers may have the addresses. So each end
//! is remembered with its revision, and what is lost follows from the revisions alone. What is long past is forgotten.
//!
//! It holds for both trees of records alike. A record that is moved from one to the other ends in the one without its host's
//! entry ending at that revision: it is not lost, and it is not withdrawn, for it stands in the other.

use imbl::{OrdMap, OrdSet};

use crate::endpoint::StoredRecord;
use crate::ids::{NodeName, Revision};
use crate::keys::Place;

/// How many revisions an end is remembered for: by so much may one watch lag behind another.
const REMEMBERED: i64 = 10_000;

/// How many ended records are remembered at most; many may end in one revision.
const MAX_GRAVES: usize = 65_536;

/// What has ended, and what is lost by it.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// Records that have ended, by when and whose.
    graves: OrdMap<(Revision, NodeName), OrdMap<Place, StoredRecord>>,
    /// Where a record's grave is.
    buried: OrdMap<Place, (Revision, NodeName)>,
    /// Hosts whose entry has ended and not come back.
    nodes: OrdMap<NodeName, Revision>,
    /// The last time that a host's lease ended.
    leases: OrdMap<NodeName, Revision>,
    /// Records that are lost, by host and when they ended.
    lost: OrdMap<NodeName, OrdMap<Revision, OrdSet<Place>>>,
}

impl Losses {
    /// A record of `node` has ended. Whether it is lost.
    pub(super) fn record_ended(&mut self, place: Place, node: &NodeName, record: &StoredRecord, at: Revision) -> bool {
        self.exhume(&place);
        if self.nodes.get(node) == Some(&at) {
            return self.lose(place, node, at);
        }
        let grave = (at, node.clone());
        self.graves.entry(grave.clone()).or_default().insert(place.clone(), record.clone());
        self.buried.insert(place, grave);
        false
    }

    /// A host's entry has ended. The records that are lost with it.
    pub(super) fn node_ended(&mut self, node: &NodeName, at: Revision) -> Vec<(Place, StoredRecord)> {
        self.nodes.insert(node.clone(), at);
        let graves = self.graves.remove(&(at, node.clone())).unwrap_or_default();
        let mut lost = Vec::with_capacity(graves.len());
        for (place, record) in graves {
            self.buried.remove(&place);
            if self.lose(place.clone(), node, at) {
                lost.push((place, record));
            }
        }
        lost
    }

    /// A host is back and speaks for itself. The records that were lost and are now gone.
    pub(super) fn node_is_back(&mut self, node: &NodeName) -> Vec<Place> {
        self.nodes.remove(node);
        self.lost.remove(node).into_iter().flat_map(|lost| lost.into_iter().flat_map(|(_, paths)| paths)).collect()
    }

    /// A host's lease has ended, or is another's: its addresses may be too. The records that were lost before, and are now
    /// gone; what the host may have lost since is not touched.
    pub(super) fn lease_ended(&mut self, node: &NodeName, at: Revision) -> Vec<Place> {
        let last = self.leases.entry(node.clone()).or_insert(at);
        *last = (*last).max(at);
        let Some(lost) = self.lost.get_mut(node) else { return Vec::new() };
        let mut gone = Vec::new();
        while let Some(first) = lost.keys().next().copied().filter(|first| *first <= at) {
            gone.extend(lost.remove(&first).into_iter().flatten());
        }
        if lost.is_empty() {
            self.lost.remove(node);
        }
        gone
    }

    /// Somebody writes the record again at `written`: that it ended before tells nothing any more. `lost_of` is whose it was
    /// if it was lost. Whether it is lost no longer.
    pub(super) fn record_is_back(&mut self, place: &Place, lost_of: Option<&NodeName>, written: Revision) -> bool {
        if self.buried.get(place).is_some_and(|(at, _)| *at < written) {
            self.exhume(place);
        }
        let Some(node) = lost_of else { return false };
        let Some(lost) = self.lost.get_mut(node) else { return false };
        let at = lost.iter().find(|(_, places)| places.contains(place)).map(|(at, _)| *at).filter(|at| *at < written);
        let Some(at) = at else { return false };
        if let Some(places) = lost.get_mut(&at) {
            places.remove(place);
            if places.is_empty() {
                lost.remove(&at);
            }
        }
        if lost.is_empty() {
            self.lost.remove(node);
        }
        true
    }

    /// A record is lost at `at`, unless its host's lease ended then or later. Whether it is.
    pub(super) fn lose(&mut self, place: Place, node: &NodeName, at: Revision) -> bool {
        if self.leases.get(node).is_some_and(|ended| *ended >= at) {
            return false;
        }
        self.lost.entry(node.clone()).or_default().entry(at).or_default().insert(place);
        true
    }

    /// When each of a host's lost records was lost.
    pub(super) fn lost(&self) -> impl Iterator<Item = (&NodeName, Revision, &Place)> {
        let of_node = |(node, lost)| OrdMap::iter(lost).map(move |(at, paths)| (node, at, paths));
        self.lost.iter().flat_map(of_node).flat_map(|(node, at, paths)| paths.iter().map(move |path| (node, *at, path)))
    }

    /// Forgets ends that no watch can be so far behind to tell the other half of, seen from revision `now`.
    pub(super) fn forget(&mut self, now: Revision) {
        let old = |at: Revision| at.0 < now.0.saturating_sub(REMEMBERED);
        while let Some((grave, _)) = self.graves.get_min()
            && (old(grave.0) || self.buried.len() > MAX_GRAVES)
        {
            let grave = grave.clone();
            for place in self.graves.remove(&grave).unwrap_or_default().keys() {
                self.buried.remove(place);
            }
        }
        for ends in [&mut self.nodes, &mut self.leases] {
            let past: Vec<NodeName> = ends.iter().filter(|(_, at)| old(**at)).map(|(node, _)| node.clone()).collect();
            for node in past {
                ends.remove(&node);
            }
        }
    }

    /// How many ended records are remembered.
    #[cfg(test)]
    pub(super) fn graves(&self) -> usize {
        assert_eq!(self.graves.values().map(OrdMap::len).sum::<usize>(), self.buried.len());
        self.buried.len()
    }

    fn exhume(&mut self, place: &Place) {
        let Some(grave) = self.buried.remove(place) else { return };
        if let Some(records) = self.graves.get_mut(&grave) {
            records.remove(place);
            if records.is_empty() {
                self.graves.remove(&grave);
            }
        }
    }
}
