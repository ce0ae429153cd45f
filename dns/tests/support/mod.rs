//! A store in small: puts and deletes, and the snapshot and zone that they make.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod net;

use std::sync::Arc;

use hickory_proto::rr::Record;
use weft_dns::Zone;
use weft_model::ids::{LeaseId, Revision};
use weft_model::keys::Layout;
use weft_model::snapshot::Snapshot;
use weft_model::stored::{Change, Entry};

/// Applies changes one revision at a time.
pub struct World {
    snapshot: Snapshot,
    revision: i64,
}

impl World {
    /// An empty store at revision 1.
    pub fn new() -> Self {
        Self { snapshot: Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None), revision: 1 }
    }

    /// Writes a key; with `leased`, on a lease.
    pub fn put(&mut self, key: &str, value: &str, leased: bool) {
        self.revision += 1;
        let revision = Revision(self.revision);
        let lease = leased.then_some(LeaseId(7));
        let entry = Entry { key: key.into(), value: value.into(), lease, created: revision, modified: revision };
        self.snapshot.apply(revision, vec![Change::Put(entry)]);
    }

    /// Deletes keys in one revision, as the end of a lease does.
    pub fn delete(&mut self, keys: &[&str]) {
        self.revision += 1;
        let revision = Revision(self.revision);
        let changes = keys.iter().map(|k| Change::Delete { key: (*k).into(), revision }).collect();
        self.snapshot.apply(revision, changes);
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn zone(&self) -> Zone {
        Zone::from_snapshot(&self.snapshot)
    }
}

/// A record as the scripts write it.
pub fn line(record: &Record) -> String {
    format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)
}
