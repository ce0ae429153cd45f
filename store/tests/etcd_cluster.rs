//! Several members: a majority that is lost, leaders that change, a learner among the endpoints, a database that is full.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may assume")]

#[allow(dead_code, unused_imports, unused_macros, reason = "only its helpers are of use here")]
mod conformance;
mod server;
mod support;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_store::etcd::{EtcdConfig, EtcdStore};
use weft_store::follow::follow;
use weft_store::{Revision, Store, StoreError, Txn};

use crate::conformance::{Known, batch, below, done, get, put};
use crate::server::EtcdServer;
use crate::support::{bounded, eventually, soon};

/// A store on all of `members`, which waits a second for an answer.
async fn store_on(members: &[EtcdServer]) -> Arc<dyn Store> {
    let endpoints = members.iter().map(EtcdServer::endpoint).collect();
    let config = EtcdConfig {
        endpoints,
        request_timeout: Duration::from_secs(2),
        ping_interval: Duration::from_secs(5),
        ping_timeout: Duration::from_secs(1),
        ..EtcdConfig::default()
    };
    Arc::new(EtcdStore::connect(config).await.unwrap())
}

/// A write that is tried until it is acknowledged; what it writes may be written twice.
async fn put_surely(store: &dyn Store, key: &str) -> Revision {
    eventually("a write to be acknowledged", || async {
        store.transact(Txn::new().put(key, "")).await.ok().map(|outcome| outcome.revision())
    })
    .await
}

async fn is_right(known: &Known, store: &dyn Store) {
    let there = eventually("a listing", || async { store.list(&below(&["/a/"])).await.ok() }).await;
    let there = there.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    assert_eq!(known.values, there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_answered_and_nothing_forgotten() {
    bounded(async {
        let mut members = EtcdServer::start_cluster(3, &[], None);
        let store = store_on(&members).await;
        put_surely(&*store, "/a/first").await;
        let lease = store.grant(Duration::from_secs(600)).await.unwrap();
        done(&*store, Txn::new().put_leased("/a/leased", "", lease)).await;
        let mut following = follow(store.clone(), below(&["/a/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        // One killed, one cut off: whatever it is asked it answers nobody.
        members[0].kill();
        members[1].freeze();
        let prefixes = below(&["/a/"]);
        for (what, error) in [
            ("get", soon("get", store.get(b"/a/first")).await.err()),
            ("list", soon("list", store.list(&prefixes)).await.err()),
            ("put", soon("put", store.transact(Txn::new().put("/a/1", ""))).await.err()),
            ("keep", soon("keep alive", store.keep_alive(lease)).await.err()),
        ] {
            let Some(error @ StoreError::Unavailable { .. }) = error else { panic!("{what}: {error:?}") };
            let text = format!("{error}: {}", error.source().unwrap());
            assert!(text.starts_with(what) && text.contains("etcd at http://127.0.0.1:"), "{text}");
        }
        known.until(&mut following, "the outage", |known| known.outages == ["away"]).await;
        assert_eq!(known.values.len(), 2, "what was known stays known");
        members[1].thaw();
        let at = put_surely(&*store, "/a/after").await;
        known.until(&mut following, "the change after it", |known| known.revision >= at).await;
        // With two of three, and then with all, it is as if nothing had been.
        members[0].restart();
        let at = put_surely(&*store, "/a/whole").await;
        known.until(&mut following, "the change with all", |known| known.revision >= at).await;
        assert_eq!(known.listings, 1, "nothing was missed that would have to be listed again");
        is_right(&known, &*store).await;
        let kept = eventually("the lease", || async { store.keep_alive(lease).await.ok() }).await;
        assert!(kept.is_some(), "a lease outlives a time in which nobody could renew it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_change_lose_no_write_and_no_change() {
    const ROUNDS: usize = 12;
    bounded(async {
        let members = EtcdServer::start_cluster(3, &[], None);
        let store = store_on(&members).await;
        put_surely(&*store, "/a/first").await;
        let lease = store.grant(Duration::from_secs(600)).await.unwrap();
        let mut following = follow(store.clone(), below(&["/a/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        let over = Arc::new(AtomicBool::new(false));
        // Writers of counters: each writes the next number only when the one before is acknowledged.
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (store, over) = (store.clone(), over.clone());
                tokio::spawn(async move {
                    let key = format!("/a/{writer}");
                    let mut acknowledged = 0;
                    for n in 1_u64.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        eventually("a write to be acknowledged", || async {
                            store.transact(Txn::new().put(key.as_str(), n.to_string())).await.ok()
                        })
                        .await;
                        acknowledged = n;
                    }
                    (key, acknowledged)
                })
            })
            .collect();
        let mut led_by = Vec::new();
        for round in 0..ROUNDS {
            let ids: Vec<_> = members.iter().map(EtcdServer::member).collect();
            let Some(leader) = ids.iter().position(|(_, leads)| *leads) else { continue };
            let next = &ids[(leader + 1) % ids.len()].0;
            members[leader].etcdctl_until(&["move-leader", next]);
            led_by.push(next.clone());
            // Work goes on under each of them.
            let at = put_surely(&*store, &format!("/a/round/{round}")).await;
            known.until(&mut following, "a change under the new leader", |known| known.revision >= at).await;
            let kept = eventually("the lease to be renewed", || async { store.keep_alive(lease).await.ok() }).await;
            assert!(kept.is_some());
        }
        assert!(led_by.len() > ROUNDS / 2, "hardly any leader has changed: {led_by:?}");
        over.store(true, Ordering::Relaxed);
        for writer in writers {
            let (key, acknowledged) = writer.await.unwrap();
            assert!(acknowledged > 0);
            let entry = get(&*store, &key).await.unwrap();
            assert_eq!(String::from_utf8(entry.value).unwrap(), acknowledged.to_string(), "{key}");
        }
        let at = put_surely(&*store, "/a/last").await;
        known.until(&mut following, "the last change", |known| known.revision >= at).await;
        assert_eq!(known.listings, 1);
        // Each change of a revision of its own, and each once: no fewer than revisions since, no more.
        let now = store.get(b"/a/last").await.unwrap().0;
        let first = get(&*store, "/a/first").await.unwrap().modified;
        assert_eq!(known.first + known.changes, usize::try_from(now.0 - first.0 + 1).unwrap());
        is_right(&known, &*store).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_among_the_endpoints_is_passed_over() {
    bounded(async {
        let member = EtcdServer::start();
        put_surely(&member.store().await, "/a/0").await;
        let learner = member.add_learner();
        // Alone it serves nobody: the way round to the member is what helps.
        let alone = learner.store().await;
        let error = soon("a learner's answer", alone.get(b"/a/0")).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let text = error.source().unwrap().to_string();
        assert!(text.contains("rpc not supported for learner"), "{text}");
        let endpoints = vec![learner.endpoint(), member.endpoint()];
        // Whichever of the two it begins with; each kind of operation may be the first one.
        for round in 0..4 {
            let connect = || async {
                let config = EtcdConfig { endpoints: endpoints.clone(), ..EtcdConfig::default() };
                EtcdStore::connect(config).await.unwrap()
            };
            let key = format!("/a/{round}");
            let at = put(&connect().await, key.as_str(), "").await;
            assert!(get(&connect().await, &key).await.is_some());
            assert!(!connect().await.list(&below(&["/a/"])).await.unwrap().entries.is_empty());
            let mut watch = connect().await.watch(&below(&["/a/"]), at).await.unwrap();
            assert_eq!(batch(&mut watch).await.revision, at);
            let lease = connect().await.grant(Duration::from_secs(60)).await.unwrap();
            assert!(connect().await.keep_alive(lease).await.unwrap().is_some());
            assert!(connect().await.time_to_live(lease).await.unwrap().is_some());
            connect().await.revoke(lease).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_is_read_watched_and_kept_alive_and_says_what_to_do() {
    bounded(async {
        let server = EtcdServer::start_with(&["--quota-backend-bytes", "8000000"], None);
        let store: Arc<dyn Store> = Arc::new(server.store().await);
        put_surely(&*store, "/a/first").await;
        let lease = store.grant(Duration::from_secs(600)).await.unwrap();
        done(&*store, Txn::new().put_leased("/a/leased", "", lease)).await;
        let mut following = follow(store.clone(), below(&["/a/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        let mut written = 0;
        let error = loop {
            match store.transact(Txn::new().put("/a/large", vec![b'x'; 500_000])).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 100, "the quota has no effect");
        };
        let text = format!("{error}: {}", error.source().unwrap());
        assert!(matches!(error, StoreError::Denied { .. }) && text.starts_with("put /a/large: refused by the store"), "{text}");
        assert!(text.contains("database space exceeded") && text.contains("etcdctl alarm disarm"), "{text}");
        let condition = store.condition().await.unwrap().unwrap();
        assert_eq!(condition.alarms, ["NOSPACE"]);
        // All of this goes on: nobody's lease runs out because somebody filled the database.
        assert!(store.keep_alive(lease).await.unwrap().is_some());
        assert!(store.time_to_live(lease).await.unwrap().is_some());
        assert_eq!(store.list(&below(&["/a/"])).await.unwrap().entries.len(), 3);
        known.until(&mut following, "all that was written", |known| known.changes >= written).await;
        // Deletions are taken, and make no room by themselves.
        let at = done(&*store, Txn::new().delete("/a/large")).await;
        known.until(&mut following, "a deletion", |known| known.revision >= at).await;
        assert!(store.transact(Txn::new().put("/a/small", "")).await.is_err(), "the alarm stands until it is disarmed");
        // What the message says, done.
        server.etcdctl(&["compact", &at.to_string()]);
        server.etcdctl_until(&["defrag"]);
        server.etcdctl(&["alarm", "disarm"]);
        let at = put_surely(&*store, "/a/after").await;
        known.until(&mut following, "a change after it", |known| known.revision >= at).await;
        assert_eq!((known.listings, known.outages.len()), (1, 0));
        is_right(&known, &*store).await;
        assert_eq!(store.condition().await.unwrap().unwrap().alarms, Vec::<String>::new());
    })
    .await;
}
