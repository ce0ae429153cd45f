//! Leases: what hangs on them, and when it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_store::{Change, Compare, LeaseId, Outcome, Revision, Store, StoreError, Txn};

use super::{Bench, batch, below, done, get, key_of, put, revision_of};
use crate::support::eventually;

/// etcd grants no less than about this.
const SHORT: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);

/// Puts keys below two prefixes on a lease, does something that ends it, and returns what vanished, by revision.
async fn vanishing<E: Future<Output = ()>>(
    store: Arc<dyn Store>,
    ttl: Duration,
    end: impl FnOnce(LeaseId) -> E,
) -> (Revision, Vec<String>) {
    let lease = store.grant(ttl).await.unwrap();
    let keys = ["/dns/a", "/dns/b", "/nodes/h1"];
    let at = done(&*store, keys.iter().fold(Txn::new(), |txn, key| txn.put_leased(*key, "", lease))).await;
    assert_eq!(get(&*store, "/dns/a").await.unwrap().lease, Some(lease));
    put(&*store, "/dns/stays", "").await;
    let mut watch = store.watch(&below(&["/dns/", "/nodes/"]), at.next().next()).await.unwrap();
    end(lease).await;
    let mut gone: Vec<Change> = Vec::new();
    while gone.len() < keys.len() {
        gone.extend(batch(&mut watch).await.changes);
    }
    assert!(gone.iter().all(|change| matches!(change, Change::Delete { .. })), "{gone:?}");
    let revisions: Vec<Revision> = gone.iter().map(revision_of).collect();
    assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{gone:?}");
    let listing = store.list(&below(&["/"])).await.unwrap();
    assert_eq!(listing.entries.len(), 1, "{listing:?}");
    assert_eq!(store.time_to_live(lease).await.unwrap(), None);
    let mut names: Vec<String> = gone.iter().map(key_of).collect();
    names.sort();
    (revisions[0], names)
}

pub async fn keys_of_a_lease_vanish_in_one_revision_when_it_expires(bench: &dyn Bench) {
    let (_, gone) = vanishing(bench.store(), SHORT, |_| async {}).await;
    assert_eq!(gone, ["/dns/a", "/dns/b", "/nodes/h1"]);
}

pub async fn keys_of_a_lease_vanish_in_one_revision_when_it_is_revoked(bench: &dyn Bench) {
    let store = bench.store();
    let (_, gone) = vanishing(store.clone(), HOUR, |lease| async move {
        store.revoke(lease).await.unwrap();
        store.revoke(lease).await.unwrap();
    })
    .await;
    assert_eq!(gone, ["/dns/a", "/dns/b", "/nodes/h1"]);
}

pub async fn a_lease_that_is_kept_alive_outlives_its_time(bench: &dyn Bench) {
    let store = bench.store();
    let lease = store.grant(SHORT).await.unwrap();
    done(&*store, Txn::new().put_leased("/a", "", lease)).await;
    // Longer than twice its time, however long that is.
    let ttl = store.keep_alive(lease).await.unwrap().unwrap();
    assert!(ttl >= SHORT, "{ttl:?}");
    let begun = Instant::now();
    while begun.elapsed() < ttl * 5 / 2 {
        assert_eq!(store.keep_alive(lease).await.unwrap(), Some(ttl));
        assert!(store.time_to_live(lease).await.unwrap().is_some());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(get(&*store, "/a").await.is_some());
    eventually("the end of a lease that nobody renews", || async { get(&*store, "/a").await.is_none().then_some(()) }).await;
    assert_eq!(store.keep_alive(lease).await.unwrap(), None);
}

pub async fn a_lease_that_has_ended_is_gone(bench: &dyn Bench) {
    let store = bench.store();
    let lease = store.grant(HOUR).await.unwrap();
    let other = store.grant(HOUR).await.unwrap();
    assert_ne!(lease, other);
    let left = store.time_to_live(lease).await.unwrap().unwrap();
    assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
    let before = put(&*store, "/a", "").await;
    store.keep_alive(lease).await.unwrap().unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(store.keep_alive(lease).await.unwrap(), None);
    assert_eq!(store.time_to_live(lease).await.unwrap(), None);
    assert!(store.keep_alive(other).await.unwrap().is_some());
    // Leases without keys make no revision.
    assert_eq!(put(&*store, "/a", "").await, before.next());
    let never = LeaseId(0x7fff_ffff_1234);
    assert_eq!(store.keep_alive(never).await.unwrap(), None);
    store.revoke(never).await.unwrap();
    let error = store.grant(Duration::from_secs(1 << 40)).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}

pub async fn a_put_with_an_ended_lease_is_refused_by_name(bench: &dyn Bench) {
    let store = bench.store();
    let (ended, lives) = (store.grant(HOUR).await.unwrap(), store.grant(HOUR).await.unwrap());
    store.revoke(ended).await.unwrap();
    let txn = Txn::new().put_leased("/a", "", lives).put_leased("/b", "", ended).put("/c", "");
    match store.transact(txn.clone()).await {
        Err(StoreError::LeaseGone { op, lease }) => {
            assert_eq!((lease, op.as_str()), (ended, "put /a and 2 more"));
        }
        other => panic!("{other:?}"),
    }
    for key in ["/a", "/b", "/c"] {
        assert_eq!(get(&*store, key).await, None, "nothing of it was written");
    }
    // A condition that does not hold comes first.
    let refused = store.transact(txn.when(Compare::present("/none"))).await.unwrap();
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
}

pub async fn a_key_put_on_another_lease_survives_the_first(bench: &dyn Bench) {
    let store = bench.store();
    let (first, second) = (store.grant(HOUR).await.unwrap(), store.grant(HOUR).await.unwrap());
    done(&*store, Txn::new().put_leased("/moved", "", first).put_leased("/freed", "", first).put_leased("/left", "", first))
        .await;
    done(&*store, Txn::new().put_leased("/moved", "", second).put("/freed", "")).await;
    store.revoke(first).await.unwrap();
    let listing = store.list(&below(&["/"])).await.unwrap();
    let leases: Vec<(&[u8], Option<LeaseId>)> = listing.entries.iter().map(|e| (e.key.as_slice(), e.lease)).collect();
    assert_eq!(leases, [(&b"/freed"[..], None), (b"/moved", Some(second))]);
    store.revoke(second).await.unwrap();
    assert_eq!(store.list(&below(&["/"])).await.unwrap().entries.len(), 1);
}
