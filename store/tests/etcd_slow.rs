//! An etcd that is slow, or cut off for a while, seen through a line that the test holds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may assume")]

#[allow(dead_code, unused_imports, unused_macros, reason = "only its helpers are of use here")]
mod conformance;
mod server;
mod support;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_store::etcd::{EtcdConfig, EtcdStore};
use weft_store::follow::follow;
use weft_store::{LeaseId, Revision, Store, StoreError, Txn};

use crate::conformance::{Known, batch, below, delete, put};
use crate::server::EtcdServer;
use crate::support::line::{Line, State};
use crate::support::{LONG, bounded, eventually, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_etcd_holds_no_request_for_long_and_breaks_no_watch() {
    bounded(async {
        let server = EtcdServer::start();
        let line = Line::to(server.endpoint()).await;
        let config = EtcdConfig {
            endpoints: vec![line.endpoint()],
            request_timeout: Duration::from_secs(1),
            // A slow answer is a sign of life.
            ping_timeout: LONG,
            ..EtcdConfig::default()
        };
        let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(config).await.unwrap());
        let direct = server.store().await;
        put(&direct, "/a/0", "").await;
        let lease = direct.grant(Duration::from_secs(600)).await.unwrap();
        assert!(store.keep_alive(lease).await.unwrap().is_some());
        let mut watch = store.watch(&below(&["/a/"]), Revision(1)).await.unwrap();
        batch(&mut watch).await;
        let mut following = follow(store.clone(), below(&["/a/", "/b/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        // Its watch is open when it has brought something.
        let at = put(&direct, "/b/0", "").await;
        known.until(&mut following, "a change", |known| known.revision >= at).await;
        // Longer there and back than any request may take.
        line.set(State::Slow(Duration::from_millis(700)));
        let prefixes = below(&["/a/"]);
        let begun = Instant::now();
        for (what, error) in [
            ("get", soon("get", store.get(b"/a/0")).await.err()),
            ("list", soon("list", store.list(&prefixes)).await.err()),
            ("put", soon("put", store.transact(Txn::new().put("/c/1", ""))).await.err()),
            ("watch", soon("watch", store.watch(&prefixes, Revision(1))).await.err()),
            ("grant", soon("grant", store.grant(Duration::from_secs(9))).await.err()),
            ("keep", soon("keep alive", store.keep_alive(lease)).await.err()),
            ("revoke", soon("revoke", store.revoke(LeaseId(lease.0 ^ 1))).await.err()),
        ] {
            let Some(error @ StoreError::Unavailable { .. }) = error else { panic!("{what}: {error:?}") };
            let text = format!("{error}: {}", error.source().unwrap());
            assert!(text.starts_with(what) && text.contains("no answer in time"), "{text}");
        }
        assert!(begun.elapsed() < LONG, "requests were held for {:?}", begun.elapsed());
        // Watches that were open bring what happens, late and whole.
        let mut at = Revision(0);
        for n in 1..=20 {
            at = put(&direct, format!("/a/{n}"), "").await;
        }
        let mut seen = 0;
        while seen < 20 {
            seen += batch(&mut watch).await.changes.len();
        }
        assert_eq!(seen, 20);
        known.until(&mut following, "the changes", |known| known.revision >= at).await;
        assert_eq!((known.listings, known.first + known.changes), (1, 22));
        // Slow, but within the bound: everything works.
        line.set(State::Slow(Duration::from_millis(50)));
        eventually("a request to be answered", || async { store.get(b"/a/0").await.ok() }).await;
        let kept = eventually("the lease to be renewed", || async { store.keep_alive(lease).await.ok() }).await;
        assert!(kept.is_some(), "the time in which it could not be renewed was short");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_cut_off_while_history_was_compacted_lists_anew_and_misses_nothing() {
    bounded(async {
        let server = EtcdServer::start();
        let line = Line::to(server.endpoint()).await;
        let config = EtcdConfig { endpoints: vec![line.endpoint()], ..EtcdConfig::default() };
        let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(config).await.unwrap());
        let direct = server.store().await;
        for n in 0..10 {
            put(&direct, format!("/a/{n}"), "").await;
        }
        let mut following = follow(store.clone(), below(&["/a/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        for round in 1..=3 {
            line.set(State::Cut);
            known.until(&mut following, "the outage", |known| known.outages.len() == 2 * round - 1).await;
            delete(&direct, format!("/a/{round}")).await;
            put(&direct, format!("/a/0/{round}"), "").await;
            let at = put(&direct, "/a/0", round.to_string()).await;
            // Of these only the second takes the history that the follower would need.
            if round == 2 {
                server.etcdctl(&["compact", &at.to_string()]);
            }
            line.set(State::Slow(Duration::ZERO));
            known.until(&mut following, "what happened meanwhile", |known| known.revision >= at).await;
            let there = direct.list(&below(&["/a/"])).await.unwrap().entries;
            assert_eq!(known.values, there.into_iter().map(|entry| (entry.key, entry.value)).collect());
        }
        assert_eq!(known.listings, 2, "listed anew when it had to, and only then");
        assert_eq!(known.outages, ["away", "back"].repeat(3));
    })
    .await;
}
