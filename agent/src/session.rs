//! The host's two leases: each is adopted or granted, and kept alive while the agent runs.
//!
//! The *claim* lease carries the subnet (24 h, like flannel's); the *liveness* lease carries the node's entry and its records
//! (`--lease-ttl`). Neither is revoked when the agent stops: an agent that is restarted in time finds both alive, and
//! nobody has noticed. Which lease to adopt is read from the keys that hang on them, so a lost state directory changes
//! nothing. A lease adopted from an agent with another `--lease-ttl` is kept until there is one of the right length, which
//! takes its keys over; then it runs out.
//!
//! How long a lease certainly lives is counted by a clock that goes on while the host is suspended ([`weft_api::clock`]): who wakes up
//! holds nothing for certain until the store has answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};
use weft_api::clock::BootTime;
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
    /// The one that was found and is to be adopted, if it still lives.
    pub adopted: Option<LeaseId>,
    life: watch::Receiver<Option<Life>>,
    check: Arc<Notify>,
}

/// Until when a lease certainly lives: it was granted or renewed for so long, counted from before that was asked. The store
/// may take it for alive longer than that (etcd's new leader gives every lease its whole time again), never shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    lease: LeaseId,
    until: BootTime,
}

impl Kept {
    /// Somebody was told that the lease has ended: look now.
    pub fn check_now(&self) {
        self.check.notify_one();
    }

    /// For how long from now `lease` certainly lives, whatever becomes of the store meanwhile.
    #[must_use]
    pub fn safe_for(&self, lease: LeaseId) -> Duration {
        let life = *self.life.borrow();
        life.filter(|life| life.lease == lease)
            .map_or(Duration::ZERO, |life| life.until.saturating_duration_since(BootTime::now()))
    }
}

/// Keeps a lease of `ttl` from now on: `adopt` if it still lives, else a new one.
#[must_use]
pub fn keep(store: Arc<dyn Store>, name: &'static str, ttl: Duration, adopt: Option<LeaseId>) -> Kept {
    let (tx, id) = watch::channel(None);
    let (alive, life) = watch::channel(None);
    let check = Arc::new(Notify::new());
    tokio::spawn(keeper(store, name, ttl, adopt, (tx, alive), check.clone()));
    Kept { id, adopted: adopt, life, check }
}

async fn keeper(
    store: Arc<dyn Store>,
    name: &'static str,
    ttl: Duration,
    adopt: Option<LeaseId>,
    (tx, alive): (watch::Sender<Option<LeaseId>>, watch::Sender<Option<Life>>),
    check: Arc<Notify>,
) {
    let mut lease = adopt;
    let mut adopting = adopt.is_some();
    loop {
        let asked = BootTime::now();
        let lives = |lease, for_| alive.send_replace(asked.checked_add(for_).map(|until| Life { lease, until }));
        let pause = match lease {
            None => match store.grant(ttl).await {
                Ok(id) => {
                    lives(id, ttl);
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
                Ok(Some(granted)) => {
                    lives(id, granted);
                    let mut replaced = None;
                    if adopting {
                        // Compared once, so that a store which gives more than it is asked for is not asked for ever.
                        if granted != whole_seconds(ttl) {
                            replaced = store.grant(ttl).await.map_err(|e| debug!(name, error = chain(&e), "no lease yet")).ok();
                        } else {
                            info!(lease = %id, name, "adopted lease");
                            adopting = false;
                        }
                        if let Some(new) = replaced {
                            info!(lease = %new, instead = %id, name, "granted lease; the adopted one lasts another time");
                            lives(new, ttl);
                            lease = replaced;
                            adopting = false;
                        }
                        tx.send_if_modified(|there| std::mem::replace(there, lease) != lease);
                    }
                    match (replaced, adopting) {
                        (Some(_), _) => ttl / 3,
                        (None, true) => RETRY.min(granted / 6),
                        (None, false) => granted.min(ttl) / 3,
                    }
                }
                Ok(None) => {
                    if !adopting {
                        warn!(lease = %id, name, "lease ended; what hung on it is written anew");
                    }
                    adopting = false;
                    lease = None;
                    alive.send_replace(None);
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

/// As stores count leases: in whole seconds, rounded up.
fn whole_seconds(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_store::embedded::EmbeddedStore;

    const BOUND: Duration = Duration::from_secs(30);

    async fn store() -> (Arc<dyn Store>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(EmbeddedStore::open(dir.path().join("store.redb")).await.unwrap()), dir)
    }

    async fn id(kept: &mut Kept, wanted: impl Fn(LeaseId) -> bool) -> LeaseId {
        let there = kept.id.wait_for(|id| id.is_some_and(&wanted));
        tokio::time::timeout(BOUND, there).await.unwrap().unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_lease_of_the_same_length_is_adopted() {
        let (store, _dir) = store().await;
        let old = store.grant(Duration::from_secs(60)).await.unwrap();
        let mut kept = keep(store.clone(), "t", Duration::from_secs(60), Some(old));
        assert_eq!(id(&mut kept, |_| true).await, old);
        let mut ended = keep(store.clone(), "t", Duration::from_secs(60), Some(LeaseId(77)));
        assert_ne!(id(&mut ended, |_| true).await, LeaseId(77), "one that has ended is not");
    }

    #[tokio::test]
    async fn a_lease_is_safe_for_no_longer_than_the_store_has_it() {
        let (store, _dir) = store().await;
        let mut kept = keep(store.clone(), "t", Duration::from_secs(60), None);
        let lease = id(&mut kept, |_| true).await;
        let safe = kept.safe_for(lease);
        let left = store.time_to_live(lease).await.unwrap().unwrap();
        assert!(safe > Duration::ZERO && safe <= left + Duration::from_secs(1), "{safe:?} of {left:?}: it counts whole seconds");
        assert_eq!(kept.safe_for(LeaseId(77)), Duration::ZERO, "of another one nothing is known");
        store.revoke(lease).await.unwrap();
        kept.check_now();
        let new = id(&mut kept, |id| id != lease).await;
        assert_eq!(kept.safe_for(lease), Duration::ZERO);
        assert!(kept.safe_for(new) > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_lease_of_another_length_is_replaced_and_left_to_end() {
        for (before, now) in [(2, 300), (300, 2)] {
            let (store, _dir) = store().await;
            let old = store.grant(Duration::from_secs(before)).await.unwrap();
            let ttl = Duration::from_secs(now);
            let mut kept = keep(store.clone(), "t", ttl, Some(old));
            let new = id(&mut kept, |id| id != old).await;
            assert!(store.time_to_live(old).await.unwrap().is_some(), "its keys have not moved yet: it is not revoked");
            let left = store.keep_alive(new).await.unwrap();
            assert_eq!(left, Some(ttl), "the new one lasts as long as it is asked to");
        }
    }

    #[tokio::test]
    async fn until_there_is_a_new_one_the_adopted_lease_is_renewed_at_its_own_pace() {
        let (store, _dir) = store().await;
        let old = store.grant(Duration::from_secs(2)).await.unwrap();
        // Longer than any store grants.
        let mut kept = keep(store.clone(), "t", Duration::from_secs(10_000_000_000), Some(old));
        assert_eq!(id(&mut kept, |_| true).await, old);
        let until = tokio::time::Instant::now() + Duration::from_secs(6);
        while tokio::time::Instant::now() < until {
            assert!(store.time_to_live(old).await.unwrap().is_some(), "it has ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(*kept.id.borrow(), Some(old));
    }
}
