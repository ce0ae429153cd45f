//! A key and its value as the store holds them, and one key's change: the raw material of a snapshot.

use crate::ids::{LeaseId, Revision};

/// A key with its value, as the store holds it at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key. Weft's own are UTF-8; others' need not be.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The lease that the key hangs on, if any.
    pub lease: Option<LeaseId>,
    /// The revision at which the key was created.
    pub created: Revision,
    /// The revision at which the key was last written.
    pub modified: Revision,
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was created or written.
    Put(Entry),
    /// The key was deleted, or its lease ended.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// When. All keys of one lease that ends share one revision (etcd 3.4.23; conformance-tested).
        revision: Revision,
    },
}
