//! etcd that is away, frozen, killed, replaced: what the store and a follower make of it. Real servers on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may assume")]

#[allow(dead_code, unused_imports, unused_macros, reason = "only its helpers are of use here")]
mod conformance;
mod server;
mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_store::etcd::{EtcdConfig, EtcdStore};
use weft_store::follow::{Update, follow};
use weft_store::{Revision, Store, StoreError, Txn};

use crate::conformance::{Known, batch, below, done, end, get, put};
use crate::server::EtcdServer;
use crate::support::{LONG, bounded, eventually, soon};

/// A write that is tried until it is acknowledged; what it writes may be written twice.
async fn put_surely(store: &dyn Store, key: &str, value: &str) -> Revision {
    eventually("a write to be acknowledged", || async {
        store.transact(Txn::new().put(key, value)).await.ok().map(|outcome| outcome.revision())
    })
    .await
}

async fn there(store: &dyn Store, prefixes: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    store.list(prefixes).await.unwrap().entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// An error with all its causes.
fn whole(error: &StoreError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_etcd_is_killed_and_comes_back() {
    bounded(async {
        let mut server = EtcdServer::start();
        let store: Arc<dyn Store> = Arc::new(server.store().await);
        let prefixes = below(&["/a/", "/b/"]);
        let mut following = follow(store.clone(), prefixes.clone());
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        done(&*store, Txn::new().put_leased("/a/leased", "", lease)).await;
        let mut known = Known::default();
        let mut written = 1;
        for round in 1..=2 {
            for n in 0..50 {
                put(&*store, format!("/a/{round}/{n}"), "").await;
                written += 1;
            }
            server.kill();
            known.until(&mut following, "the outage", |known| known.outages.len() == 2 * round - 1).await;
            let error = store.get(b"/a/1").await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            let text = whole(&error);
            assert!(text.starts_with("get /a/1: store unavailable: etcd at http://127.0.0.1:"), "{text}");
            assert!(text.contains("Connection refused"), "{text}");
            server.restart();
            let back = put_surely(&*store, &format!("/b/{round}"), "").await;
            written += 1;
            known.until(&mut following, "the change after it", |known| known.revision >= back).await;
        }
        known.until(&mut following, "every change", |known| known.first + known.changes >= written).await;
        assert_eq!(known.values, there(&*store, &prefixes).await);
        assert_eq!((known.listings, known.first + known.changes), (1, written));
        assert_eq!(known.outages, ["away", "back", "away", "back"]);
        assert!(store.keep_alive(lease).await.unwrap().is_some(), "leases survive a restart");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_made_before_etcd_is_there_works_when_it_is() {
    bounded(async {
        let mut server = EtcdServer::start();
        server.kill();
        let store: Arc<dyn Store> = Arc::new(server.store().await);
        let mut following = follow(store.clone(), below(&["/a/"]));
        let Update::Away { error, since } = soon("the outage", following.next()).await else { panic!("not away") };
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(since.elapsed().unwrap() < LONG);
        // With nothing in it: an etcd that is killed in its first moments may never find a leader again.
        server.restart_empty();
        assert!(matches!(soon("the end of the outage", following.next()).await, Update::Back));
        assert!(matches!(soon("the listing", following.next()).await, Update::Complete(_)));
        put(&*store, "/a/1", "").await;
        assert!(matches!(soon("a change", following.next()).await, Update::Changes(_)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_holds_nobody_for_ever() {
    bounded(async {
        let server = EtcdServer::start();
        let config = EtcdConfig {
            request_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(1),
            ..server.config()
        };
        let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(config).await.unwrap());
        // A store with more patience: on a busy host etcd may take a second for its disk before it is frozen.
        let patient = EtcdStore::connect(server.config()).await.unwrap();
        let lease = patient.grant(Duration::from_secs(60)).await.unwrap();
        assert!(patient.keep_alive(lease).await.unwrap().is_some());
        let mut watch = store.watch(&below(&["/a/"]), Revision(1)).await.unwrap();
        let mut following = follow(store.clone(), below(&["/a/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        server.freeze();
        let prefixes = below(&["/a/"]);
        for (what, error) in [
            ("get", soon("get", store.get(b"/a")).await.err()),
            ("list", soon("list", store.list(&prefixes)).await.err()),
            ("put", soon("put", store.transact(Txn::new().put("/a/1", ""))).await.err()),
            ("watch", soon("watch", store.watch(&prefixes, Revision(1))).await.err()),
            ("grant", soon("grant", store.grant(Duration::from_secs(9))).await.err()),
            ("keep", soon("keep alive", store.keep_alive(lease)).await.err()),
            ("read", soon("time to live", store.time_to_live(lease)).await.err()),
            ("revoke", soon("revoke", store.revoke(weft_store::LeaseId(lease.0 ^ 1))).await.err()),
        ] {
            let Some(error @ StoreError::Unavailable { .. }) = error else { panic!("{what}: {error:?}") };
            let text = whole(&error);
            assert!(text.starts_with(what) && text.ends_with("no answer in time"), "{text}");
        }
        // A watch makes no requests: it is the missing sign of life that ends it.
        let error = end(&mut watch).await;
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        known.until(&mut following, "the outage", |known| known.outages.len() == 1).await;
        server.thaw();
        let at = put_surely(&*store, "/a/2", "").await;
        known.until(&mut following, "the change after it", |known| known.revision >= at).await;
        assert_eq!((known.outages.as_slice(), known.listings), (&["away", "back"][..], 1));
        assert!(store.keep_alive(lease).await.unwrap().is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_or_frozen_endpoint_is_passed_over() {
    bounded(async {
        let (mut dead, frozen, alive) = (EtcdServer::start(), EtcdServer::start(), EtcdServer::start());
        dead.kill();
        frozen.freeze();
        for other in [&dead, &frozen] {
            let endpoints = vec![other.endpoint(), alive.endpoint()];
            // Whichever it begins with.
            for _ in 0..4 {
                let config = EtcdConfig { endpoints: endpoints.clone(), ..EtcdConfig::default() };
                let store = EtcdStore::connect(config).await.unwrap();
                store.get(b"/a").await.unwrap();
                let at = done(&store, Txn::new().put("/a/1", "")).await;
                let mut watch = store.watch(&below(&["/a/"]), at).await.unwrap();
                assert_eq!(batch(&mut watch).await.revision, at);
            }
        }
        frozen.thaw();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_dies_interrupts_nobody() {
    bounded(async {
        let mut members = EtcdServer::start_cluster(3, &[], None);
        let endpoints = members.iter().map(EtcdServer::endpoint).collect();
        let config = EtcdConfig { endpoints, ..EtcdConfig::default() };
        let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(config).await.unwrap());
        let mut at = put_surely(&*store, "/a/first", "").await;
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        let mut following = follow(store.clone(), below(&["/a/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        // One after the other, so that each of them is at some time the one in use, and the leader.
        for (round, member) in members.iter_mut().enumerate() {
            member.kill();
            for n in 0..10 {
                at = put_surely(&*store, &format!("/a/{round}/{n}"), "").await;
                eventually("the lease to be renewed", || async { store.keep_alive(lease).await.ok().flatten() }).await;
            }
            known.until(&mut following, "the changes", |known| known.revision >= at).await;
            member.restart();
            // The next may be taken away only when this one is of use again.
            let alone = member.store().await;
            eventually("the member to be well", || async { alone.transact(Txn::new().put("/well", "")).await.ok() }).await;
        }
        assert_eq!(known.values, there(&*store, &below(&["/a/"])).await);
        assert_eq!(known.listings, 1);
        assert!(get(&*store, "/a/2/9").await.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_made_anew_is_listed_anew() {
    bounded(async {
        let mut server = EtcdServer::start();
        let store: Arc<dyn Store> = Arc::new(server.store().await);
        for n in 0..20 {
            put(&*store, format!("/a/{n}"), "").await;
        }
        let mut following = follow(store.clone(), below(&["/a/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        server.restart_empty();
        put_surely(&*store, "/a/new", "").await;
        known.until(&mut following, "another listing", |known| known.listings == 2).await;
        known.until(&mut following, "what is there now", |known| known.values.len() == 1).await;
        let at = put(&*store, "/a/newer", "").await;
        known.until(&mut following, "a change", |known| known.revision == at).await;
        assert_eq!(known.values.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_prefix_is_marked_as_seen() {
    bounded(async {
        let server = EtcdServer::start_with(&["--experimental-watch-progress-notify-interval", "1s"], None);
        let store = server.store().await;
        let mut watch = store.watch(&below(&["/busy/", "/quiet/"]), Revision(1)).await.unwrap();
        let written = Instant::now();
        let mut at = Revision(0);
        for n in 0..5 {
            at = put(&store, format!("/busy/{n}"), "").await;
        }
        loop {
            let batch = soon("a mark", watch.next()).await.unwrap().unwrap();
            if batch.changes.is_empty() {
                assert!(batch.revision >= at, "{batch:?}");
                break;
            }
            assert!(written.elapsed() < LONG);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_revision_changes_below_several_prefixes_comes_together() {
    bounded(async {
        let server = EtcdServer::start();
        let store = server.store().await;
        let mut watch = store.watch(&below(&["/a/", "/b/", "/c/"]), Revision(1)).await.unwrap();
        for round in 0..50 {
            let value = round.to_string();
            let txn = Txn::new().put("/a/1", value.as_str()).put("/b/1", value.as_str()).put("/c/1", value.as_str());
            done(&store, txn).await;
            assert_eq!(batch(&mut watch).await.changes.len(), 3);
        }
    })
    .await;
}
