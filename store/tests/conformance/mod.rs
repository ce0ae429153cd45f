//! What every store must do, said once. `conformance!` makes a test of each claim for one backend.

mod flaky;
mod follow;
mod keys;
mod leases;
mod watch;

use std::sync::Arc;

use weft_store::{Change, Entry, Outcome, Revision, Store, StoreError, Txn};

pub use self::{follow::*, keys::*, leases::*, watch::*};
use crate::support::soon;

/// A store under test, and what only its backend knows how to do.
#[async_trait::async_trait]
pub trait Bench: Send + Sync {
    fn store(&self) -> Arc<dyn Store>;

    /// Makes the store forget its history up to now.
    async fn forget_history(&self);
}

/// One test per claim; `$make` is an expression that gives a `Bench`.
macro_rules! conformance {
    ($make:expr) => {
        $crate::conformance! { $make;
            a_key_is_written_read_and_deleted
            revisions_tell_creation_from_writing
            a_transaction_whose_condition_fails_writes_nothing
            conditions_on_a_key_that_is_not_there
            deleting_what_is_not_there_makes_no_revision
            of_twenty_racing_claims_exactly_one_wins
            a_listing_of_many_pages_is_of_one_revision
            pages_make_up_the_listing_of_one_revision
            prefixes_are_exact_to_the_byte
            prefixes_within_others_list_each_key_once
            what_is_too_large_is_denied
            keys_of_a_lease_vanish_in_one_revision_when_it_expires
            keys_of_a_lease_vanish_in_one_revision_when_it_is_revoked
            a_lease_that_is_kept_alive_outlives_its_time
            a_lease_that_has_ended_is_gone
            a_put_with_an_ended_lease_is_refused_by_name
            a_key_put_on_another_lease_survives_the_first
            a_watch_from_now_brings_what_comes
            a_watch_from_the_past_brings_each_change_once_and_in_order
            a_watch_sees_its_prefixes_only
            a_watch_from_the_future_waits_for_it
            a_transaction_is_never_split_between_batches
            a_reader_who_does_not_read_loses_nothing_unsaid
            forgotten_history_is_compacted
            a_deletion_at_the_compacted_revision_is_not_lost
            follow_gives_a_listing_then_each_change
            follow_ends_up_with_what_is_there
            what_is_moved_between_prefixes_is_never_gone_nor_there_twice
            follow_resumes_without_loss_after_an_outage
            follow_lists_again_when_history_is_gone
            dropping_a_follow_ends_its_work
        }
    };
    ($make:expr; $($claim:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $claim() {
            let bench = $make;
            $crate::support::bounded($crate::conformance::$claim(&bench)).await;
        })*
    };
}
pub(crate) use conformance;

/// Writes one key.
pub async fn put(store: &dyn Store, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Revision {
    done(store, Txn::new().put(key, value)).await
}

/// Deletes one key.
pub async fn delete(store: &dyn Store, key: impl Into<Vec<u8>>) -> Revision {
    done(store, Txn::new().delete(key)).await
}

/// A transaction that must be done.
pub async fn done(store: &dyn Store, txn: Txn) -> Revision {
    match store.transact(txn).await.unwrap() {
        Outcome::Done(revision) => revision,
        Outcome::Refused(at) => panic!("refused at {at}"),
    }
}

pub async fn get(store: &dyn Store, key: &str) -> Option<Entry> {
    store.get(key.as_bytes()).await.unwrap().1
}

/// The next batch with changes in it.
pub async fn batch(watch: &mut weft_store::Watch) -> weft_store::Batch {
    loop {
        match soon("a batch", watch.next()).await {
            Some(Ok(batch)) if batch.changes.is_empty() => {}
            Some(Ok(batch)) => return batch,
            other => panic!("the watch is over: {other:?}"),
        }
    }
}

/// What ends a watch.
pub async fn end(watch: &mut weft_store::Watch) -> StoreError {
    loop {
        match soon("the end of a watch", watch.next()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("ended without an error"),
        }
    }
}

pub fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.modified,
        Change::Delete { revision, .. } => *revision,
    }
}

pub fn key_of(change: &Change) -> String {
    match change {
        Change::Put(entry) => String::from_utf8_lossy(&entry.key).into_owned(),
        Change::Delete { key, .. } => String::from_utf8_lossy(key).into_owned(),
    }
}

/// Prefixes from text.
pub fn below(prefixes: &[&str]) -> Vec<Vec<u8>> {
    prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect()
}
