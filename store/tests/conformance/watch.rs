//! Watches: everything once and in order, and a word when that cannot be had.

use std::sync::Arc;

use weft_store::{Change, Revision, Store, StoreError, Txn};

use super::{Bench, batch, below, delete, done, end, key_of, put, revision_of};
use crate::support::soon;

pub async fn a_watch_from_now_brings_what_comes(bench: &dyn Bench) {
    let store = bench.store();
    put(&*store, "/a/old", "").await;
    let listing = store.list(&below(&["/a/"])).await.unwrap();
    let mut watch = store.watch(&below(&["/a/"]), listing.revision.next()).await.unwrap();
    let at = put(&*store, "/a/1", "x").await;
    let got = batch(&mut watch).await;
    assert_eq!(got.revision, at);
    let [Change::Put(entry)] = &got.changes[..] else { panic!("{got:?}") };
    assert_eq!((entry.key.as_slice(), entry.value.as_slice()), (&b"/a/1"[..], &b"x"[..]));
    assert_eq!((entry.created, entry.modified), (at, at));
    let again = put(&*store, "/a/1", "y").await;
    let got = batch(&mut watch).await;
    let [Change::Put(entry)] = &got.changes[..] else { panic!("{got:?}") };
    assert_eq!((entry.created, entry.modified), (at, again));
    let gone = delete(&*store, "/a/1").await;
    let got = batch(&mut watch).await;
    assert_eq!(got.changes, [Change::Delete { key: b"/a/1".to_vec(), revision: gone }]);
}

/// Four writers at once, each counting in its own key below one of two prefixes; returns the last revision.
async fn write_much(store: &Arc<dyn Store>, each: usize) -> Revision {
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("/{}/{writer}", ["p", "q"][writer % 2]);
                let mut last = Revision(0);
                for n in 0..each {
                    last = put(&*store, key.as_str(), n.to_string()).await;
                }
                last
            })
        })
        .collect();
    let mut last = Revision(0);
    for writer in writers {
        last = last.max(writer.await.unwrap());
    }
    last
}

/// That every writer's count is there from 0 on, without gap or repetition, and in order below each prefix.
fn check_counts(changes: &[Change], each: usize) {
    assert_eq!(changes.len(), 4 * each);
    for writer in 0..4 {
        let key = format!("/{}/{writer}", ["p", "q"][writer % 2]);
        let counts: Vec<usize> = changes
            .iter()
            .filter(|change| key_of(change) == key)
            .map(|change| match change {
                Change::Put(entry) => String::from_utf8_lossy(&entry.value).parse().unwrap(),
                Change::Delete { .. } => panic!("{change:?}"),
            })
            .collect();
        assert_eq!(counts, (0..each).collect::<Vec<_>>(), "{key}");
    }
    for prefix in ["/p/", "/q/"] {
        let revisions: Vec<Revision> =
            changes.iter().filter(|change| key_of(change).starts_with(prefix)).map(revision_of).collect();
        assert!(revisions.is_sorted(), "{prefix}: {revisions:?}");
    }
}

pub async fn a_watch_from_the_past_brings_each_change_once_and_in_order(bench: &dyn Bench) {
    const EACH: usize = 150;
    let store = bench.store();
    let start = put(&*store, "/p/before", "").await.next();
    let prefixes = below(&["/p/", "/q/"]);
    let mut during = store.watch(&prefixes, start).await.unwrap();
    let writing = {
        let store = store.clone();
        tokio::spawn(async move { write_much(&store, EACH).await })
    };
    let mut seen = Vec::new();
    while seen.len() < 4 * EACH {
        let got = batch(&mut during).await;
        assert!(got.changes.iter().all(|change| revision_of(change) <= got.revision));
        seen.extend(got.changes);
    }
    check_counts(&seen, EACH);
    writing.await.unwrap();
    // The same again, all of it from the past; and from the middle of it.
    let mut after = store.watch(&prefixes, start).await.unwrap();
    let mut again = Vec::new();
    while again.len() < 4 * EACH {
        again.extend(batch(&mut after).await.changes);
    }
    check_counts(&again, EACH);
    let middle = Revision(start.0 + 2 * EACH as i64);
    let mut from_middle = store.watch(&prefixes, middle).await.unwrap();
    let mut rest = Vec::new();
    while rest.len() < 2 * EACH {
        rest.extend(batch(&mut from_middle).await.changes);
    }
    assert!(rest.iter().all(|change| revision_of(change) >= middle));
    assert_eq!(rest.len(), 2 * EACH);
}

pub async fn a_watch_sees_its_prefixes_only(bench: &dyn Bench) {
    let store = bench.store();
    let prefixes = vec![b"/a/b".to_vec(), b"\xff".to_vec(), b"/a/bc".to_vec()];
    let mut watch = store.watch(&prefixes, Revision(1)).await.unwrap();
    for key in [&b"/a/a"[..], b"/a/bc", b"/a/c", b"\xfe", b"\xff\x01", b"/a", b"/a/b"] {
        put(&*store, key, "").await;
    }
    let mut keys = Vec::new();
    while keys.len() < 3 {
        keys.extend(batch(&mut watch).await.changes.iter().map(|change| match change {
            Change::Put(entry) => entry.key.clone(),
            Change::Delete { key, .. } => key.clone(),
        }));
    }
    keys.sort();
    assert_eq!(keys, [&b"/a/b"[..], b"/a/bc", b"\xff\x01"]);
}

pub async fn a_watch_from_the_future_waits_for_it(bench: &dyn Bench) {
    let store = bench.store();
    let at = put(&*store, "/a/1", "").await;
    let mut watch = store.watch(&below(&["/a/"]), Revision(at.0 + 3)).await.unwrap();
    for n in 0..4 {
        put(&*store, format!("/a/{n}"), "").await;
    }
    let mut got = batch(&mut watch).await.changes;
    if got.len() == 1 {
        got.extend(batch(&mut watch).await.changes);
    }
    assert_eq!(got.iter().map(key_of).collect::<Vec<_>>(), ["/a/2", "/a/3"]);
}

pub async fn a_transaction_is_never_split_between_batches(bench: &dyn Bench) {
    const ROUNDS: usize = 40;
    let store = bench.store();
    let mut watch = store.watch(&below(&["/t/"]), Revision(1)).await.unwrap();
    let writing = {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let txn = (0..100).fold(Txn::new(), |txn, n| txn.put(format!("/t/{n:03}"), format!("{round}")));
                done(&*store, txn).await;
            }
        })
    };
    let mut seen = 0;
    while seen < 100 * ROUNDS {
        let got = batch(&mut watch).await;
        for revision in got.changes.chunk_by(|a, b| revision_of(a) == revision_of(b)) {
            assert_eq!(revision.len(), 100, "at {}", revision_of(&revision[0]));
        }
        seen += got.changes.len();
    }
    assert_eq!(seen, 100 * ROUNDS);
    writing.await.unwrap();
}

pub async fn a_reader_who_does_not_read_loses_nothing_unsaid(bench: &dyn Bench) {
    const EACH: usize = 400;
    let store = bench.store();
    let prefixes = below(&["/p/", "/q/"]);
    let mut slow = store.watch(&prefixes, Revision(1)).await.unwrap();
    write_much(&store, EACH).await;
    // Everything else goes on meanwhile.
    let mut quick = store.watch(&prefixes, Revision(1)).await.unwrap();
    let lease = store.grant(std::time::Duration::from_secs(60)).await.unwrap();
    assert!(store.keep_alive(lease).await.unwrap().is_some());
    for watch in [&mut quick, &mut slow] {
        let mut seen = Vec::new();
        while seen.len() < 4 * EACH {
            seen.extend(batch(watch).await.changes);
        }
        check_counts(&seen, EACH);
    }
}

pub async fn forgotten_history_is_compacted(bench: &dyn Bench) {
    let store = bench.store();
    let first = put(&*store, "/a/1", "").await;
    put(&*store, "/a/1", "2").await;
    bench.forget_history().await;
    // It may say so at once, or as the watch's only item.
    let error = match store.watch(&below(&["/a/"]), first).await {
        Ok(mut watch) => end(&mut watch).await,
        Err(error) => error,
    };
    let StoreError::Compacted { from, oldest } = error else { panic!("{error}") };
    assert!(from == first && oldest > first, "{error}");
    // From the oldest that is said to be there, it is there.
    let mut watch = store.watch(&below(&["/a/"]), oldest).await.unwrap();
    put(&*store, "/a/2", "").await;
    assert_eq!(batch(&mut watch).await.changes.len(), 1);
}

pub async fn a_deletion_at_the_compacted_revision_is_not_lost(bench: &dyn Bench) {
    let store = bench.store();
    put(&*store, "/a/1", "").await;
    let gone = delete(&*store, "/a/1").await;
    bench.forget_history().await;
    // Either the deletion comes, or it is said that it cannot.
    let error = match store.watch(&below(&["/a/"]), gone).await {
        Err(error) => error,
        Ok(mut watch) => match soon("the deletion or an error", watch.next()).await {
            Some(Ok(batch)) => {
                assert_eq!(batch.changes, [Change::Delete { key: b"/a/1".to_vec(), revision: gone }]);
                return;
            }
            Some(Err(error)) => error,
            None => panic!("ended without an error"),
        },
    };
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
}
