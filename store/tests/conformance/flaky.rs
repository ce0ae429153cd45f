//! A store whose watches a test can cut, as a network would, and keep cut.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use weft_store::{Entry, Kind, LeaseId, Listing, Outcome, Page, Revision, Store, StoreError, Txn, Watch};

/// A real store behind a line that can be cut.
#[derive(Debug)]
pub struct Flaky {
    inner: Arc<dyn Store>,
    cut: watch::Sender<bool>,
}

impl Flaky {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, cut: watch::Sender::new(false) })
    }

    /// Breaks every watch and lets nothing through.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }

    fn line(&self, op: &str) -> Result<(), StoreError> {
        if *self.cut.borrow() { Err(is_cut(op)) } else { Ok(()) }
    }
}

fn is_cut(op: &str) -> StoreError {
    StoreError::Unavailable { op: op.into(), source: "the test cut the line".into() }
}

#[async_trait::async_trait]
impl Store for Flaky {
    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    async fn get(&self, key: &[u8]) -> Result<(Revision, Option<Entry>), StoreError> {
        self.line("get")?;
        self.inner.get(key).await
    }

    async fn list(&self, prefixes: &[Vec<u8>]) -> Result<Listing, StoreError> {
        self.line("list")?;
        self.inner.list(prefixes).await
    }

    async fn page(&self, prefixes: &[Vec<u8>], from: &[u8], at: Option<Revision>, limit: usize) -> Result<Page, StoreError> {
        self.line("page")?;
        self.inner.page(prefixes, from, at, limit).await
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.line("transact")?;
        self.inner.transact(txn).await
    }

    async fn watch(&self, prefixes: &[Vec<u8>], from: Revision) -> Result<Watch, StoreError> {
        self.line("watch")?;
        let mut inner = self.inner.watch(prefixes, from).await?;
        let mut cut = self.cut.subscribe();
        let (batches, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let item = tokio::select! {
                    _ = cut.wait_for(|cut| *cut) => Some(Err(is_cut("watch"))),
                    item = inner.next() => item,
                };
                let Some(item) = item else { return };
                let over = item.is_err();
                if batches.send(item).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Watch { batches: receiver })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.line("grant")?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.line("keep alive")?;
        self.inner.keep_alive(lease).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.line("time to live")?;
        self.inner.time_to_live(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.line("revoke")?;
        self.inner.revoke(lease).await
    }
}
