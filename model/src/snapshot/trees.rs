//! Records in their two trees: what is served, and what takes no traffic.
//!
//! An endpoint is made of its parts in both. A path that stands in both trees is somebody's mistake (or a move of which one
//! half has not been told yet, by an etcd that does not say how far its watches are): what is served counts, the other one is
//! [shadowed](Snapshot::shadowed), and the host that owns it puts it right.

use std::sync::Arc;

use imbl::OrdMap;

use super::Snapshot;
use crate::endpoint::{Endpoint, EndpointKey, StoredRecord, key_of};
use crate::keys::{Place, RecordPath, RecordTree};

impl Snapshot {
    /// What is served: all records below the DNS prefix, as the store orders their keys.
    pub fn records(&self) -> impl Iterator<Item = (&RecordPath, &StoredRecord)> {
        self.records.iter().map(|(k, v)| (k, &**v))
    }

    /// What takes no traffic and is kept out of what is served, in the same order.
    pub fn down_records(&self) -> impl Iterator<Item = (&RecordPath, &StoredRecord)> {
        self.down.iter().map(|(k, v)| (k, &**v))
    }

    /// The records of both trees, the served ones first.
    pub fn places(&self) -> impl Iterator<Item = (Place, &StoredRecord)> {
        let place = |(path, stored)| (Place { path: RecordPath::clone(path), tree: stored_tree(stored) }, stored);
        self.records().chain(self.down_records()).map(place)
    }

    /// The served record at one path.
    #[must_use]
    pub fn record(&self, path: &RecordPath) -> Option<&StoredRecord> {
        self.records.get(path).map(|r| &**r)
    }

    /// The record at one place.
    #[must_use]
    pub fn at(&self, place: &Place) -> Option<&StoredRecord> {
        self.tree(place.tree).get(&place.path).map(|r| &**r)
    }

    /// The record at one path, in whichever tree it stands; what is served counts.
    #[must_use]
    pub fn record_anywhere(&self, path: &RecordPath) -> Option<&StoredRecord> {
        let live = |tree| self.tree(tree).get(path).filter(|s| !s.lost);
        let lost = |tree| self.tree(tree).get(path);
        let trees = [RecordTree::Served, RecordTree::Down];
        trees.into_iter().find_map(live).or_else(|| trees.into_iter().find_map(lost)).map(|r| &**r)
    }

    /// The paths that stand in both trees. They are told, and what is served counts.
    pub fn shadowed(&self) -> impl Iterator<Item = &RecordPath> {
        let live = |stored: &StoredRecord| !stored.lost;
        self.down_records().filter(move |(path, down)| live(down) && self.record(path).is_some_and(live)).map(|(path, _)| path)
    }

    /// The parts of an endpoint with their places, lost ones included, by path.
    pub fn parts_of<'a>(&'a self, endpoint: &Endpoint) -> Vec<(Place, &'a StoredRecord)> {
        self.parts(&(endpoint.path.clone(), endpoint.ours))
    }

    fn tree(&self, tree: RecordTree) -> &OrdMap<RecordPath, Arc<StoredRecord>> {
        match tree {
            RecordTree::Served => &self.records,
            RecordTree::Down => &self.down,
        }
    }

    /// Sets or removes a record and makes the endpoints it touches anew.
    pub(super) fn set_record(&mut self, place: Place, record: Option<StoredRecord>) {
        let old = self.at(&place).map(|s| key_of(&place.path, &s.record));
        let new = record.as_ref().map(|s| key_of(&place.path, &s.record));
        let tree = match place.tree {
            RecordTree::Served => &mut self.records,
            RecordTree::Down => &mut self.down,
        };
        match record {
            Some(record) => drop(tree.insert(place.path, Arc::new(record))),
            None => drop(tree.remove(&place.path)),
        }
        if old != new
            && let Some(key) = old
        {
            self.remake_endpoint(key);
        }
        if let Some(key) = new {
            self.remake_endpoint(key);
        }
    }

    fn remake_endpoint(&mut self, key: EndpointKey) {
        let endpoint = Endpoint::from_parts(&key, self.parts(&key).into_iter().map(|(_, stored)| stored));
        match endpoint {
            Some(endpoint) => drop(self.endpoints.insert(key, Arc::new(endpoint))),
            None => drop(self.endpoints.remove(&key)),
        }
    }

    /// By path; of one that stands in both trees, what is alive before what is lost, then what is served.
    fn parts(&self, key: &EndpointKey) -> Vec<(Place, &StoredRecord)> {
        let of = |tree| {
            self.tree(tree)
                .range(key.0.clone()..)
                .take_while(|(path, _)| path.as_str().starts_with(key.0.as_str()))
                .filter(|(path, stored)| key_of(path, &stored.record) == *key)
                .map(move |(path, stored)| (Place { path: path.clone(), tree }, &**stored))
        };
        let mut parts: Vec<(Place, &StoredRecord)> = of(RecordTree::Served).chain(of(RecordTree::Down)).collect();
        parts.sort_by(|(a, x), (b, y)| (&a.path, x.lost, a.tree).cmp(&(&b.path, y.lost, b.tree)));
        parts.dedup_by(|(a, _), (b, _)| a.path == b.path);
        parts
    }
}

fn stored_tree(stored: &StoredRecord) -> RecordTree {
    stored.tree
}
