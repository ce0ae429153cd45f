//! The host's two leases: each is adopted or granted, and kept alive while the agent runs.
//!
//! The *claim* lease carries the subnet (24 h, like flannel's); the *liveness* lease carries the node's entry and its records
//! (`--lease-ttl`). Neither is revoked when the agent stops: an agent that is restarted in time finds both alive, and
//! nobody has noticed. Which lease to adopt is read from the keys that hang on them, so a lost state directory changes
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};
use weft_model::ids::LeaseId;
use weft_store::Store;

use crate::view::chain;

/// How long the claim lease lasts, as flannel's.
pub const CLAIM_TTL: Duration = Duration::from_secs(86_400);

/// The longest pause between two keep-alives, so that a lease ended by hand is noticed.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// How long to wait after the store did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// A lease that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The lease; none while there is none (the store is away, or the last one ended).
    pub id: watch::Receiver<Option<LeaseId>>,
    check: Arc<Notify>,
}

impl Kept {
    /// Somebody was told that the lease has ended: look now.
    pub fn check_now(&self) {
        self.check.notify_one();
    }
}

/// Keeps a lease of `ttl` from now on: `adopt` if it still lives, else a new one.
#[must_use]
pub fn keep(store: Arc<dyn Store>, name: &'static str, ttl: Duration, adopt: Option<LeaseId>) -> Kept {
    let (tx, id) = watch::channel(None);
    let check = Arc::new(Notify::new());
    tokio::spawn(keeper(store, name, ttl, adopt, tx, check.clone()));
    Kept { id, check }
}

async fn keeper(
    store: Arc<dyn Store>,
    name: &'static str,
    ttl: Duration,
    adopt: Option<LeaseId>,
    tx: watch::Sender<Option<LeaseId>>,
    check: Arc<Notify>,
) {
    let mut lease = adopt;
    let mut adopting = adopt.is_some();
    loop {
        let pause = match lease {
            None => match store.grant(ttl).await {
                Ok(id) => {
                    info!(lease = %id, name, "granted lease");
                    lease = Some(id);
                    tx.send_replace(lease);
                    ttl / 3
                }
                Err(e) => {
                    debug!(name, error = chain(&e), "no lease yet");
                    RETRY
                }
            },
            Some(id) => match store.keep_alive(id).await {
                Ok(Some(_)) => {
                    if adopting {
                        info!(lease = %id, name, "adopted lease");
                        adopting = false;
                        tx.send_replace(lease);
                    }
                    ttl / 3
                }
                Ok(None) => {
                    if !adopting {
                        warn!(lease = %id, name, "lease ended; what hung on it is written anew");
                    }
                    adopting = false;
                    lease = None;
                    tx.send_replace(None);
                    Duration::ZERO
                }
                Err(e) => {
                    debug!(lease = %id, name, error = chain(&e), "lease not renewed");
                    RETRY.min(ttl / 6)
                }
            },
        };
        tokio::select! {
            () = tokio::time::sleep(pause.min(MAX_PAUSE)) => {}
            () = check.notified() => {}
        }
    }
}
