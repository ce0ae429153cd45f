//! Following: a listing, then changes, for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_store::follow::{Follow, Update, follow};
use weft_store::{Change, Revision, Txn};

use super::flaky::Flaky;
use super::{Bench, below, delete, done, put};
use crate::support::{eventually, soon};

/// What a follower knows: values by key.
#[derive(Default)]
pub struct Known {
    pub revision: Revision,
    pub values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How many listings there were.
    pub listings: usize,
    /// What the first listing held counts as written before.
    pub first: usize,
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
                if self.listings == 1 {
                    self.first = listing.entries.len();
                }
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
            Update::Away { error, .. } => {
                // Shown if the test fails.
                println!("away: {error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
                self.outages.push("away");
            }
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

/// Moved to and fro by some, while others write below one prefix only: a key is always in one place, and in one only.
pub async fn what_is_moved_between_prefixes_is_never_gone_nor_there_twice(bench: &dyn Bench) {
    const KEYS: usize = 3;
    const MOVES: usize = 700;
    let store = bench.store();
    for n in 0..KEYS {
        put(&*store, format!("/up/{n}"), "0").await;
    }
    let prefixes = below(&["/down/", "/third/", "/up/"]);
    let mut followers: Vec<(Follow, Known)> =
        (0..2).map(|_| (follow(store.clone(), prefixes.clone()), Known::default())).collect();
    let movers: Vec<_> = (0..KEYS)
        .map(|key| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 1..=MOVES {
                    let (from, to) = if n % 2 == 1 { ("up", "down") } else { ("down", "up") };
                    let moved = Txn::new().delete(format!("/{from}/{key}")).put(format!("/{to}/{key}"), n.to_string());
                    done(&*store, moved).await;
                    if n % 3 == 0 {
                        put(&*store, format!("/third/{key}"), n.to_string()).await;
                    }
                }
            })
        })
        .collect();
    for (follow, known) in &mut followers {
        let last = MOVES.to_string();
        loop {
            known.take(soon("a change", follow.next()).await);
            for key in 0..KEYS {
                let places = ["up", "down"].map(|place| known.values.get(format!("/{place}/{key}").as_bytes()));
                assert_eq!(places.iter().flatten().count(), 1, "{key} at {}: {places:?}", known.revision);
            }
            let is_last = |key: usize| known.values.get(format!("/up/{key}").as_bytes()).is_some_and(|v| *v == last.as_bytes());
            if (0..KEYS).all(is_last) {
                break;
            }
        }
        assert_eq!(known.listings, 1);
    }
    for mover in movers {
        mover.await.unwrap();
    }
}

pub async fn follow_resumes_without_loss_after_an_outage(bench: &dyn Bench) {
    let store = bench.store();
    let flaky = Flaky::new(store.clone());
    let prefixes = below(&["/a/", "/b/", "/quiet/"]);
    let mut follow = follow(flaky.clone(), prefixes.clone());
    let mut known = Known::default();
    let mut written = 0;
    for round in 1..=3 {
        for n in 0..10 {
            put(&*store, format!("/a/{n}"), format!("{round}")).await;
            put(&*store, format!("/b/{n}"), format!("{round}")).await;
            written += 2;
        }
        known
            .until(&mut follow, "what was written", |known| known.values.len() == 20 && known.changes + known.first >= written)
            .await;
        flaky.cut();
        known.until(&mut follow, "the outage", |known| known.outages.len() == 2 * round - 1).await;
        // Missed, and brought after the outage: once.
        put(&*store, "/a/missed", format!("{round}")).await;
        delete(&*store, "/a/missed").await;
        written += 2;
        flaky.mend();
        known.until(&mut follow, "the end of the outage", |known| known.outages.len() == 2 * round).await;
    }
    let last = put(&*store, "/b/end", "").await;
    known.until(&mut follow, "the last key", |known| known.revision >= last).await;
    let listing = store.list(&prefixes).await.unwrap();
    let there: BTreeMap<Vec<u8>, Vec<u8>> = listing.entries.into_iter().map(|e| (e.key, e.value)).collect();
    assert_eq!(known.values, there);
    assert_eq!((known.listings, known.changes + known.first), (1, written + 1));
    assert_eq!(known.outages, ["away", "back"].repeat(3));
}

pub async fn follow_lists_again_when_history_is_gone(bench: &dyn Bench) {
    let store = bench.store();
    put(&*store, "/a/1", "").await;
    let flaky = Flaky::new(store.clone());
    let mut follow = follow(flaky.clone(), below(&["/a/", "/b/"]));
    let mut known = Known::default();
    known.until(&mut follow, "the listing", |known| known.listings == 1).await;
    flaky.cut();
    known.until(&mut follow, "the outage", |known| known.outages.len() == 1).await;
    put(&*store, "/a/2", "").await;
    delete(&*store, "/a/1").await;
    bench.forget_history().await;
    flaky.mend();
    known.until(&mut follow, "another listing", |known| known.listings == 2).await;
    assert_eq!(known.values.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"/a/2"]);
    let at = put(&*store, "/b/3", "").await;
    known.until(&mut follow, "the change after it", |known| known.revision >= at).await;
    assert_eq!((known.values.len(), known.changes), (2, 1));
    assert_eq!(known.outages, ["away", "back"]);
}

pub async fn dropping_a_follow_ends_its_work(bench: &dyn Bench) {
    let store = bench.store();
    let before = Arc::strong_count(&store);
    let mut following = follow(store.clone(), below(&["/a/"]));
    let _ = soon("the listing", following.next()).await;
    assert!(Arc::strong_count(&store) > before);
    drop(following);
    eventually("the follower to let go of the store", || async { (Arc::strong_count(&store) == before).then_some(()) }).await;
}
