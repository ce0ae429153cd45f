//! Keys, transactions, listings.

use std::sync::atomic::{AtomicBool, Ordering};

use weft_store::{Compare, MAX_BYTES, Outcome, Revision, StoreError, Txn};

use super::{Bench, below, delete, done, get, put};

pub async fn a_key_is_written_read_and_deleted(bench: &dyn Bench) {
    let store = bench.store();
    assert_eq!(get(&*store, "/a").await, None);
    let written = put(&*store, "/a", "1").await;
    let (at, entry) = store.get(b"/a").await.unwrap();
    let entry = entry.unwrap();
    assert_eq!((entry.key.as_slice(), entry.value.as_slice(), entry.lease), (&b"/a"[..], &b"1"[..], None));
    assert!(at >= written);
    // Empty values and keys that are not text are fine.
    put(&*store, b"/\x00\xfe".to_vec(), "").await;
    assert_eq!(store.get(b"/\x00\xfe").await.unwrap().1.unwrap().value, b"");
    let deleted = delete(&*store, "/a").await;
    assert_eq!(deleted.0, written.0 + 2);
    assert_eq!(get(&*store, "/a").await, None);
}

pub async fn revisions_tell_creation_from_writing(bench: &dyn Bench) {
    let store = bench.store();
    let first = put(&*store, "/a", "1").await;
    let second = put(&*store, "/a", "2").await;
    assert_eq!(second, first.next());
    let entry = get(&*store, "/a").await.unwrap();
    assert_eq!((entry.created, entry.modified), (first, second));
    delete(&*store, "/a").await;
    let third = put(&*store, "/a", "3").await;
    let entry = get(&*store, "/a").await.unwrap();
    assert_eq!((entry.created, entry.modified), (third, third));
}

pub async fn a_transaction_whose_condition_fails_writes_nothing(bench: &dyn Bench) {
    let store = bench.store();
    let at = put(&*store, "/a", "1").await;
    for refused in [
        Compare::absent("/a"),
        Compare::present("/b"),
        Compare::modified_at("/a", at.next()),
        Compare::value_is("/a", "2"),
        Compare::value_is("/b", ""),
    ] {
        let txn = Txn::new().when(Compare::present("/a")).when(refused.clone()).put("/c", "x").delete("/a");
        assert_eq!(store.transact(txn).await.unwrap(), Outcome::Refused(at), "{refused:?}");
    }
    assert_eq!(get(&*store, "/c").await, None);
    for held in [Compare::present("/a"), Compare::absent("/b"), Compare::modified_at("/a", at), Compare::value_is("/a", "1")] {
        // Touches another key, so that the conditions hold for all.
        assert!(store.transact(Txn::new().when(held).put("/c", "x")).await.unwrap().is_done());
    }
    let both = done(&*store, Txn::new().put("/d", "1").put("/e", "1").delete("/a")).await;
    assert_eq!(get(&*store, "/d").await.unwrap().created, both);
    assert_eq!(get(&*store, "/e").await.unwrap().created, both);
    assert_eq!(get(&*store, "/a").await, None);
}

pub async fn conditions_on_a_key_that_is_not_there(bench: &dyn Bench) {
    let store = bench.store();
    let txn = Txn::new().when(Compare::modified_at("/a", Revision(0))).put("/a", "1");
    assert!(store.transact(txn.clone()).await.unwrap().is_done(), "not there counts as modified at 0");
    assert!(!store.transact(txn).await.unwrap().is_done());
    // Nothing to write is no error.
    assert!(store.transact(Txn::new().when(Compare::present("/a"))).await.unwrap().is_done());
}

pub async fn deleting_what_is_not_there_makes_no_revision(bench: &dyn Bench) {
    let store = bench.store();
    let at = put(&*store, "/a", "1").await;
    assert_eq!(delete(&*store, "/b").await, at);
    assert_eq!(put(&*store, "/a", "1").await, at.next(), "writing the same value is a write");
}

pub async fn of_twenty_racing_claims_exactly_one_wins(bench: &dyn Bench) {
    let store = bench.store();
    for round in 0..5 {
        let key = format!("/subnets/{round}");
        let claims: Vec<_> = (0..20)
            .map(|claimant| {
                let (store, key) = (store.clone(), key.clone());
                tokio::spawn(async move {
                    let txn = Txn::new().when(Compare::absent(key.as_str())).put(key.as_str(), format!("{claimant}"));
                    (claimant, store.transact(txn).await.unwrap())
                })
            })
            .collect();
        let mut winners = Vec::new();
        for claim in claims {
            let (claimant, outcome) = claim.await.unwrap();
            if outcome.is_done() {
                winners.push((claimant, outcome.revision()));
            }
        }
        let entry = get(&*store, &key).await.unwrap();
        let [(winner, revision)] = winners[..] else { panic!("winners: {winners:?}") };
        assert_eq!((entry.value, entry.modified), (format!("{winner}").into_bytes(), revision));
    }
}

pub async fn a_listing_of_many_pages_is_of_one_revision(bench: &dyn Bench) {
    const KEYS: usize = 4_500;
    let store = bench.store();
    let mut keys: Vec<String> = (0..KEYS).map(|i| format!("/many/{i:05}")).collect();
    keys.extend(["/many/", "/z/last"].map(str::to_owned));
    for some in keys.chunks(128) {
        done(&*store, some.iter().fold(Txn::new(), |txn, key| txn.put(key.as_str(), "0"))).await;
    }
    keys.sort();
    // Writers change the first and the last key together; a listing that mixed two revisions would show them different.
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let value = format!("{writer}-{n}");
                    done(&*store, Txn::new().put("/many/", value.as_str()).put("/z/last", value.as_str())).await;
                }
            })
        })
        .collect();
    let mut before = Revision(0);
    for _ in 0..10 {
        let listing = store.list(&below(&["/z/", "/many/"])).await.unwrap();
        let listed: Vec<String> = listing.entries.iter().map(|e| String::from_utf8(e.key.clone()).unwrap()).collect();
        assert_eq!(listed, keys);
        assert_eq!(listing.entries[0].value, listing.entries[keys.len() - 1].value);
        let newest = listing.entries.iter().map(|e| e.modified).max().unwrap();
        assert!(newest <= listing.revision && before <= listing.revision);
        before = listing.revision;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

pub async fn pages_make_up_the_listing_of_one_revision(bench: &dyn Bench) {
    let store = bench.store();
    for n in 0..25 {
        put(&*store, format!("/{}/{n:02}", ["a", "b", "c", "d", "e"][n % 5]), n.to_string()).await;
    }
    put(&*store, b"/a/\xff\xff".to_vec(), "").await;
    put(&*store, b"/a0".to_vec(), "just after").await;
    let prefixes = below(&["/d/", "/a/", "/b/"]);
    let listing = store.list(&prefixes).await.unwrap();
    for limit in [1, 2, 5, 15, 16, 17, 1000] {
        let (mut entries, mut from, mut at) = (Vec::new(), Vec::new(), Some(listing.revision));
        loop {
            let page = store.page(&prefixes, &from, at, limit).await.unwrap();
            assert_eq!(page.revision, listing.revision);
            assert!(page.entries.len() <= limit);
            entries.extend(page.entries);
            at = Some(page.revision);
            // Changed elsewhere: the pages are still of one listing.
            put(&*store, "/c/00", "another").await;
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(entries, listing.entries, "pages of {limit}");
    }
    assert_eq!(store.page(&below(&["/x/"]), b"", None, 10).await.unwrap().entries, []);
    // What was is told as it was, or not at all.
    put(&*store, "/a/00", "changed").await;
    // A revision that has not been yet is no more to be had than one that is forgotten.
    for ahead in [Revision(i64::MAX - 1), Revision(i64::MAX)] {
        let page = store.page(&prefixes, b"", Some(ahead), 10).await;
        assert!(matches!(&page, Err(StoreError::Compacted { from, .. }) if *from == ahead), "{page:?}");
    }
    match store.page(&prefixes, b"", Some(listing.revision), 1000).await {
        Ok(page) => assert_eq!(page.entries, listing.entries),
        Err(StoreError::Compacted { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

pub async fn prefixes_are_exact_to_the_byte(bench: &dyn Bench) {
    let store = bench.store();
    for key in [&b"/a/b"[..], b"/a/b/c", b"/a/bc", b"/a/c", b"/a/a", b"/a\xff", b"\xff", b"\xff\xff\x01", b"\xff\xfe"] {
        put(&*store, key, "").await;
    }
    let cases: [(&[u8], &[&[u8]]); 6] = [
        (b"/a/b", &[b"/a/b", b"/a/b/c", b"/a/bc"]),
        (b"/a/b/", &[b"/a/b/c"]),
        (b"/a\xff", &[b"/a\xff"]),
        (b"\xff", &[b"\xff", b"\xff\xfe", b"\xff\xff\x01"]),
        (b"\xff\xff", &[b"\xff\xff\x01"]),
        (b"/b", &[]),
    ];
    for (prefix, keys) in cases {
        let listing = store.list(&[prefix.to_vec()]).await.unwrap();
        let listed: Vec<&[u8]> = listing.entries.iter().map(|entry| entry.key.as_slice()).collect();
        assert_eq!(listed, keys, "below {}", prefix.escape_ascii());
    }
    assert_eq!(store.list(&[Vec::new()]).await.unwrap().entries.len(), 9, "every key begins with nothing");
}

pub async fn prefixes_within_others_list_each_key_once(bench: &dyn Bench) {
    let store = bench.store();
    put(&*store, "/a/1", "").await;
    put(&*store, "/b/1", "").await;
    let listing = store.list(&below(&["/b/", "/a/1", "/a/", "/b/"])).await.unwrap();
    let keys: Vec<&[u8]> = listing.entries.iter().map(|entry| entry.key.as_slice()).collect();
    assert_eq!(keys, [b"/a/1", b"/b/1"]);
    assert!(matches!(store.list(&[]).await, Err(StoreError::Denied { .. })));
}

pub async fn what_is_too_large_is_denied(bench: &dyn Bench) {
    let store = bench.store();
    put(&*store, "/a", vec![7; MAX_BYTES - 2]).await;
    assert_eq!(get(&*store, "/a").await.unwrap().value.len(), MAX_BYTES - 2);
    let error = store.transact(Txn::new().put("/a", vec![7; MAX_BYTES])).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    let most = (0..128).fold(Txn::new(), |txn, i| txn.when(Compare::absent(format!("/n/{i}"))).put(format!("/n/{i}"), ""));
    done(&*store, most.clone()).await;
    let error = store.transact(most.put("/n/128", "")).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert_eq!(get(&*store, "/n/128").await, None);
    // Listings take values of any size: many large ones are more than one answer may hold.
    for i in 0..60 {
        put(&*store, format!("/large/{i:02}"), vec![i; 1_200_000]).await;
    }
    assert_eq!(store.list(&below(&["/large/"])).await.unwrap().entries.len(), 60);
}
