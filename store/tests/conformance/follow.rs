//! Following: a listing, then changes, for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_store::follow::{Follow, Update, follow};
use weft_store::{Change, Revision, Txn};

use super::{Bench, below, delete, done, put};
use crate::support::{eventually, soon};

/// What a follower knows: values by key.
#[derive(Default)]
pub struct Known {
    pub revision: Revision,
    pub values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How many listings there were.
    pub listings: usize,
    /// How many changes.
    pub changes: usize,
    /// Away and Back, in the order they came.
    pub outages: Vec<&'static str>,
}

impl Known {
    pub fn take(&mut self, update: Update) {
        match update {
            Update::Complete(listing) => {
                self.listings += 1;
                self.revision = listing.revision;
                self.values = listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
            }
            Update::Changes(batch) => {
                assert!(self.listings > 0, "changes before the first listing");
                self.revision = self.revision.max(batch.revision);
                self.changes += batch.changes.len();
                for change in batch.changes {
                    match change {
                        Change::Put(entry) => drop(self.values.insert(entry.key, entry.value)),
                        Change::Delete { key, .. } => assert!(self.values.remove(&key).is_some(), "deleted twice"),
                    }
                }
            }
            Update::Away { .. } => self.outages.push("away"),
            Update::Back => self.outages.push("back"),
        }
    }

    /// Takes updates until something holds.
    pub async fn until(&mut self, follow: &mut Follow, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        while !holds(self) {
            let update = soon(what, follow.next()).await;
            self.take(update);
        }
    }
}

pub async fn follow_gives_a_listing_then_each_change(bench: &dyn Bench) {
    let store = bench.store();
    put(&*store, "/a/old", "1").await;
    put(&*store, "/other", "1").await;
    let mut follow = follow(store.clone(), below(&["/a/", "/b/"]));
    let Update::Complete(listing) = soon("the listing", follow.next()).await else { panic!("not a listing first") };
    assert_eq!(listing.entries.len(), 1);
    let at = done(&*store, Txn::new().put("/a/1", "").put("/b/1", "").put("/other", "2")).await;
    let mut known = Known { listings: 1, ..Known::default() };
    known.until(&mut follow, "two changes", |known| known.changes >= 2).await;
    assert_eq!((known.revision, known.changes), (at, 2));
    delete(&*store, "/b/1").await;
    known.until(&mut follow, "the deletion", |known| known.changes == 3).await;
    assert_eq!(known.values.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"/a/1"]);
    assert_eq!(known.outages, Vec::<&str>::new());
}

pub async fn follow_ends_up_with_what_is_there(bench: &dyn Bench) {
    let store = bench.store();
    let prefixes = below(&["/x/", "/y/", "/z/"]);
    let mut follow = follow(store.clone(), prefixes.clone());
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..120 {
                    let key = |at: usize| format!("/{}/{}", ["x", "y", "z"][(writer + at) % 3], (n + at) % 7);
                    match n % 3 {
                        0 => put(&*store, key(0), format!("{writer}.{n}")).await,
                        1 => done(&*store, Txn::new().put(key(1), format!("{n}")).put(key(2), "").delete(key(0))).await,
                        _ => delete(&*store, key(1)).await,
                    };
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let last = done(&*store, Txn::new().put("/x/end", "").put("/y/end", "").put("/z/end", "")).await;
    let mut known = Known::default();
    known
        .until(&mut follow, "all that was written", |known| {
            known.revision >= last && ["/x/end", "/y/end", "/z/end"].iter().all(|k| known.values.contains_key(k.as_bytes()))
        })
        .await;
    let listing = store.list(&prefixes).await.unwrap();
    let there: BTreeMap<Vec<u8>, Vec<u8>> = listing.entries.into_iter().map(|e| (e.key, e.value)).collect();
    assert_eq!(known.values, there);
    assert_eq!(known.listings, 1);
}

pub async fn follow_lists_again_when_history_is_gone(bench: &dyn Bench) {
    let store = bench.store();
    put(&*store, "/a/1", "").await;
    let mut follow = follow(store.clone(), below(&["/a/"]));
    let mut known = Known::default();
    known.until(&mut follow, "the listing", |known| known.listings == 1).await;
    // It is not read while more is written than it, and all buffers on the way, can hold; then that is forgotten.
    let large = vec![b'x'; 200_000];
    let changes = 160;
    for n in 0..changes {
        put(&*store, format!("/a/{}", n % 10), large.clone()).await;
    }
    delete(&*store, "/a/1").await;
    bench.forget_history().await;
    put(&*store, "/a/end", "").await;
    known.until(&mut follow, "the last key", |known| known.values.contains_key(&b"/a/end"[..])).await;
    let listing = store.list(&below(&["/a/"])).await.unwrap();
    let there: BTreeMap<Vec<u8>, Vec<u8>> = listing.entries.into_iter().map(|e| (e.key, e.value)).collect();
    assert_eq!(known.values, there);
    assert!(known.listings > 1, "{} changes, {} listings", known.changes, known.listings);
    assert_eq!(known.outages, Vec::<&str>::new(), "a compaction is no outage");
}

pub async fn dropping_a_follow_ends_its_work(bench: &dyn Bench) {
    let store = bench.store();
    let before = Arc::strong_count(&store);
    let mut following = follow(store.clone(), below(&["/a/"]));
    let _ = soon("the listing", following.next()).await;
    assert!(Arc::strong_count(&store) > before);
    drop(following);
    eventually("the follower to let go of the store", || async {
        (Arc::strong_count(&store) == before).then_some(())
    })
    .await;
}
