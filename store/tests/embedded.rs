//! The embedded store: the conformance suite, and what only a file can do: be opened again, be locked, be damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may assume")]

mod conformance;
mod support;

use std::sync::Arc;

use tempfile::TempDir;
use weft_store::embedded::EmbeddedStore;
use weft_store::{Store, Txn};

use crate::conformance::{Bench, conformance, done};

struct Embedded {
    store: Arc<EmbeddedStore>,
    _dir: TempDir,
}

impl Embedded {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: Arc::new(EmbeddedStore::open(dir.path().join("store.redb")).await.unwrap()), _dir: dir }
    }
}

#[async_trait::async_trait]
impl Bench for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The history holds 10,000 changes; this many more push out everything before.
    async fn forget_history(&self) {
        for round in 0..80 {
            let txn = (0..128).fold(Txn::new(), |txn, n| txn.put(format!("/filler/{n}"), format!("{round}")));
            done(&*self.store, txn).await;
        }
    }
}

conformance!(Embedded::new().await);
