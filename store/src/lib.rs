//! Where Weft's resources live, and how their changes arrive: one trait over keys and bytes.
//!
//! This crate knows etcd and the embedded database, leases, transactions and watches. What the keys *mean* is in
//! `weft-model` (layout and values) and [`registry`] (the typed transactions built from both); nothing else here knows a
//! resource. The one suite that both backends pass is `tests/conformance`. Read [`Store`] first, then [`follow`].
//!
//! ```text
//!   etcd      ─┐                     ┌─ registry: claim a subnet, allocate a VIP, put a record
//!              ├─ trait Store ───────┤
//!   embedded  ─┘  (keys and bytes)   └─ follow: complete listing, then changes, for ever
//! ```

pub mod embedded;
pub mod etcd;
pub mod follow;
mod prefix;
pub mod registry;
mod ttl;
mod txn;

use std::time::Duration;

use async_trait::async_trait;
pub use txn::{MAX_BYTES, MAX_OPS};
pub use weft_model::ids::{LeaseId, Revision};
pub use weft_model::stored::{Change, Entry};

/// Everything below some prefixes, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The revision at which all of it held.
    pub revision: Revision,
    /// In the order of keys.
    pub entries: Vec<Entry>,
}

/// Some of a [`Listing`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The revision at which all of the listing held.
    pub revision: Revision,
    /// In the order of keys.
    pub entries: Vec<Entry>,
    /// Where the next page begins; none after the last one.
    pub next: Option<Vec<u8>>,
}

/// Changes in the order of revisions, complete up to `revision` below all watched prefixes: what one revision changed below
/// several of them is never split between two batches, so a key that is moved is never seen gone.
///
/// etcd watches each prefix by itself, and a change waits there until the others have come as far (`etcd/watch.rs`). A server
/// that does not say how far they are for seconds, or a past of very many changes, is told in the order of each prefix only. A
/// batch without changes is a progress mark: everything up to its revision, below every watched prefix, has been delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The store's revision that this batch reaches.
    pub revision: Revision,
    /// The changes.
    pub changes: Vec<Change>,
}

/// What must hold for a [`Txn`] to do its `then`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Vec<u8>),
    /// The key exists.
    Present(Vec<u8>),
    /// The key was last written at this revision.
    ModifiedAt(Vec<u8>, Revision),
    /// The key's value is exactly this.
    ValueIs(Vec<u8>, Vec<u8>),
}

/// A write in a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write the key, and hang it on the lease (or on none).
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The lease, which must exist.
        lease: Option<LeaseId>,
    },
    /// Delete the key; deleting what is not there is no error.
    Delete(Vec<u8>),
}

/// If all of `when` holds, do all of `then` at one revision; otherwise nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions; none means always.
    pub when: Vec<Compare>,
    /// The writes; no key twice.
    pub then: Vec<Op>,
}

/// What a [`Txn`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The writes were made at this revision.
    Done(Revision),
    /// A condition did not hold at this revision; nothing was written.
    Refused(Revision),
}

/// What a store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its version.
    pub version: String,
    /// What its database takes, in bytes.
    pub size: u64,
    /// The most that it may take, in bytes, if the store tells.
    pub quota: Option<u64>,
    /// Whether its members have a leader: without one nothing is written.
    pub led: bool,
    /// What it raises an alarm for: `NOSPACE`, `CORRUPT`. With `NOSPACE` nothing is written.
    pub alarms: Vec<String>,
}

/// Which store this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// etcd, shared by all hosts.
    Etcd,
    /// A database in the state directory, of one host.
    Embedded,
}

impl Kind {
    /// As `status` names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Embedded => "embedded",
        }
    }
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer: not reachable, no leader, timed out. Whether a write was made is unknown.
    #[error("{op}: store unavailable")]
    Unavailable {
        /// The operation, with its subject.
        op: String,
        /// What the transport said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The revision asked for is no longer kept: list anew.
    #[error("watch from revision {from}: compacted, the oldest kept is {oldest}")]
    Compacted {
        /// What was asked for.
        from: Revision,
        /// What there still is.
        oldest: Revision,
    },
    /// The lease named in a put has ended.
    #[error("{op}: lease {lease} has ended")]
    LeaseGone {
        /// The operation, with its subject.
        op: String,
        /// The lease.
        lease: LeaseId,
    },
    /// The store refuses: permission, quota, size. Trying again as it is does not help.
    #[error("{op}: refused by the store")]
    Denied {
        /// The operation, with its subject.
        op: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database file cannot be used.
    #[error("{op}")]
    Database {
        /// The operation, with its subject.
        op: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    /// Batches in order; bounded, so a slow reader holds the stream back instead of filling memory.
    pub batches: tokio::sync::mpsc::Receiver<Result<Batch, StoreError>>,
}

impl Watch {
    /// The next batch; an error (after which the watch is over); or `None` when the store ended it.
    pub async fn next(&mut self) -> Option<Result<Batch, StoreError>> {
        self.batches.recv().await
    }
}

/// What Weft needs of a store. A few operations; everything typed is built on them.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Which store this is.
    fn kind(&self) -> Kind;

    /// One key, and the revision at which it was read.
    async fn get(&self, key: &[u8]) -> Result<(Revision, Option<Entry>), StoreError>;

    /// All keys that begin with any of `prefixes`, at one revision, however many there are (read in pages).
    async fn list(&self, prefixes: &[Vec<u8>]) -> Result<Listing, StoreError>;

    /// At most `limit` keys that begin with any of `prefixes`, from the key `from` on, as they were at `at`: now, if that is none.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], when the store no longer knows how it was then, or cannot know yet (the embedded one: as soon as it has changed).
    async fn page(&self, prefixes: &[Vec<u8>], from: &[u8], at: Option<Revision>, limit: usize) -> Result<Page, StoreError>;

    /// Compare and write, at one revision.
    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// All changes below `prefixes` whose revision is `from` or later, each once and in order (see [`Batch`]).
    ///
    /// # Errors
    /// [`StoreError::Compacted`], from here or as the watch's last item, when history no longer reaches back to `from`.
    async fn watch(&self, prefixes: &[Vec<u8>], from: Revision) -> Result<Watch, StoreError>;

    /// A new lease that ends `ttl` after its last keep-alive (whole seconds, rounded up; the store may give more).
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease. The time it has left, or `None` if it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError>;

    /// The time that a lease has left, without renewing it, or `None` if it has ended.
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError>;

    /// Ends a lease and deletes its keys in one revision. Ending one that has ended is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// What the store says of itself; `None` if it says nothing.
    async fn condition(&self) -> Result<Option<Condition>, StoreError> {
        Ok(None)
    }
}
