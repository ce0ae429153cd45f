//! A complete listing, then its changes, for ever: what a view of the store is made of.
//!
//! [`follow`] lists, watches from there, resumes where it was when the watch breaks, and lists anew when it must (history
//! compacted, another store behind the same address). While the store is away it says so once, tries again with growing
//! pauses, and changes nothing: a partial listing is never given. What the keys mean is not known here.
//!
//! ```text
//!   list at R ─▶ Complete ─▶ watch from R+1 ─▶ Changes ─▶ Changes ─▶ ...
//!                               ▲   │ broken: watch from the last revision seen + 1
//!                               └───┤ unreachable: Away, pauses of 100 ms to 5 s, Back
//!                                   └ compacted: list, Complete
//! ```

use std::future::pending;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::prefix::{disjoint, position};
use crate::{Batch, Change, Listing, Revision, Store, StoreError};

/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Updates that wait for the reader; when these are full, the store's watch is held back too.
const WAITING: usize = 16;

/// What has become of the store since the last update.
#[derive(Debug)]
pub enum Update {
    /// Everything, at one revision; replaces what was known. The first of its kind comes before any `Changes`, and another
    /// when the changes in between could not be had.
    Complete(Listing),
    /// What changed after that; each change once. Without changes: a later revision at which nothing else differs.
    Changes(Batch),
    /// The store cannot be reached, or refuses. Said once; what was known stays the best knowledge there is.
    Away {
        /// The first error of the outage.
        error: StoreError,
        /// When it began.
        since: SystemTime,
    },
    /// The store is there again; `Complete` or `Changes` follow.
    Back,
}

/// The updates of some prefixes. Dropping it ends the work behind it.
#[derive(Debug)]
pub struct Follow {
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<()>,
}

impl Follow {
    /// The next update; waits for ever if there is none. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Update {
        if let Some(update) = self.updates.recv().await {
            return update;
        }
        // The task has no end of its own: it panicked, or the runtime is going down.
        match (&mut self.task).await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => pending().await,
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows everything below `prefixes`. Must be called within a tokio runtime.
#[must_use]
pub fn follow(store: Arc<dyn Store>, prefixes: Vec<Vec<u8>>) -> Follow {
    let (updates, receiver) = mpsc::channel(WAITING);
    let follower = Follower { store, prefixes: disjoint(&prefixes), updates, failures: 0, broke: None, away: false };
    Follow { updates: receiver, task: tokio::spawn(follower.run()) }
}

/// Nobody listens any more.
struct Gone;

/// Why a watch is no longer of use.
enum Next {
    /// Watch again from where it was.
    Resume,
    /// List again.
    List,
}

struct Follower {
    store: Arc<dyn Store>,
    prefixes: Vec<Vec<u8>>,
    updates: mpsc::Sender<Update>,
    /// Failures in a row.
    failures: u32,
    /// When the first of them was.
    broke: Option<SystemTime>,
    /// Whether they have been reported.
    away: bool,
}

impl Follower {
    async fn run(mut self) {
        // `Gone` is the only way out.
        let Err(Gone) = self.follow().await;
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, Gone> {
        loop {
            let listing = self.list().await?;
            let mut seen = Seen::at(&self.prefixes, listing.revision);
            self.send(Update::Complete(listing)).await?;
            // Right after the listing there is no doubt that this is the store that was listed.
            let mut sure = true;
            while let Next::Resume = self.watch(&mut seen, sure).await? {
                sure = false;
            }
        }
    }

    async fn list(&mut self) -> Result<Listing, Gone> {
        loop {
            match self.store.list(&self.prefixes).await {
                Ok(listing) => {
                    self.back().await?;
                    return Ok(listing);
                }
                Err(error) => {
                    self.failed();
                    self.report(error).await?;
                    self.pause().await;
                }
            }
        }
    }

    /// Watches from where `seen` is until the watch is over.
    async fn watch(&mut self, seen: &mut Seen, sure: bool) -> Result<Next, Gone> {
        let from = seen.all().next();
        let opened = async {
            if !sure {
                // A store restored from a backup, or made anew, has a revision before ours. It would wait for our future in
                // silence.
                let key = self.prefixes.first().filter(|prefix| !prefix.is_empty()).map_or(&[0][..], |prefix| prefix);
                let (now, _) = self.store.get(key).await?;
                if now < seen.all() {
                    debug!(%now, seen = %seen.all(), "the store is older than what was seen of it");
                    return Ok(None);
                }
            }
            self.store.watch(&self.prefixes, from).await.map(Some)
        };
        let mut watch = match opened.await {
            Ok(Some(watch)) => watch,
            Ok(None) => return Ok(Next::List),
            Err(error) => return self.over(error, false).await,
        };
        self.back().await?;
        let opened_at = Instant::now();
        loop {
            let error = match watch.next().await {
                Some(Ok(batch)) => {
                    if let Some(news) = seen.take(&self.prefixes, batch) {
                        self.send(Update::Changes(news)).await?;
                    }
                    continue;
                }
                Some(Err(error)) => error,
                None => StoreError::Unavailable {
                    op: format!("watch from revision {from}"),
                    source: "the store ended the watch".into(),
                },
            };
            // One that lasted shows that the store is well, and that pauses may begin short again.
            if opened_at.elapsed() >= PAUSES.1 {
                self.failures = 0;
            }
            return self.over(error, true).await;
        }
    }

    /// A watch failed, after it had been running or before.
    async fn over(&mut self, error: StoreError, ran: bool) -> Result<Next, Gone> {
        self.failed();
        let next = match &error {
            StoreError::Compacted { from, oldest } => {
                debug!(%from, %oldest, "history is gone, listing again");
                // Usual after a long sleep. Again and again it means that this reader is too slow: then with pauses.
                if self.failures > 1 {
                    self.pause().await;
                }
                return Ok(Next::List);
            }
            StoreError::Unavailable { .. } => Next::Resume,
            // Nothing that waiting cures: begin at the beginning, as a fresh agent would.
            _ => Next::List,
        };
        // The stream of a member that goes away breaks, and the next member has it at once: no outage yet.
        if ran && self.failures == 1 && matches!(next, Next::Resume) {
            debug!(error = &error as &dyn std::error::Error, "the watch broke, resuming");
            return Ok(next);
        }
        self.report(error).await?;
        self.pause().await;
        Ok(next)
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.broke.get_or_insert_with(SystemTime::now);
    }

    async fn report(&mut self, error: StoreError) -> Result<(), Gone> {
        if self.away {
            return Ok(());
        }
        self.away = true;
        let since = self.broke.unwrap_or_else(SystemTime::now);
        self.send(Update::Away { error, since }).await
    }

    /// The store answered. Failures still count, so that a watch that opens and breaks does not spin.
    async fn back(&mut self) -> Result<(), Gone> {
        self.broke = None;
        if std::mem::take(&mut self.away) { self.send(Update::Back).await } else { Ok(()) }
    }

    async fn pause(&self) {
        sleep(pause_after(self.failures)).await;
    }

    async fn send(&self, update: Update) -> Result<(), Gone> {
        self.updates.send(update).await.map_err(|_| Gone)
    }
}

/// The pause after so many failures in a row: doubling, and of random length so that not all agents come at once.
fn pause_after(failures: u32) -> Duration {
    let full = PAUSES.0.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSES.1);
    let random = f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX);
    full.mul_f64(0.5 + random / 2.0)
}

/// How far each prefix has been seen. etcd's watchers do not advance together, so a watch resumes from where the last of them
/// was, and what the others bring a second time is dropped here.
struct Seen(Vec<Revision>);

impl Seen {
    fn at(prefixes: &[Vec<u8>], revision: Revision) -> Self {
        Self(vec![revision; prefixes.len()])
    }

    /// Up to here, everything has been seen.
    fn all(&self) -> Revision {
        self.0.iter().min().copied().unwrap_or_default()
    }

    /// What a batch brings that is new.
    fn take(&mut self, prefixes: &[Vec<u8>], batch: Batch) -> Option<Batch> {
        let Batch { revision, mut changes } = batch;
        if changes.is_empty() {
            let before = self.0.iter().max().copied().unwrap_or_default();
            for seen in &mut self.0 {
                *seen = (*seen).max(revision);
            }
            return (revision > before).then_some(Batch { revision, changes });
        }
        let mut reached = self.0.clone();
        changes.retain(|change| {
            let (key, revision) = match change {
                Change::Put(entry) => (&entry.key, entry.modified),
                Change::Delete { key, revision } => (key, *revision),
            };
            let Some(at) = position(prefixes, key) else { return false };
            reached[at] = reached[at].max(revision);
            revision > self.0[at]
        });
        self.0 = reached;
        (!changes.is_empty()).then_some(Batch { revision, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(key: &str, revision: i64) -> Change {
        Change::Delete { key: key.into(), revision: Revision(revision) }
    }

    fn batch(revision: i64, changes: &[Change]) -> Batch {
        Batch { revision: Revision(revision), changes: changes.to_vec() }
    }

    #[test]
    fn a_change_that_comes_again_after_a_resumption_is_dropped() {
        let prefixes = [b"/a".to_vec(), b"/b".to_vec()];
        let mut seen = Seen::at(&prefixes, Revision(5));
        assert!(seen.take(&prefixes, batch(8, &[delete("/a", 7), delete("/a", 8)])).is_some());
        assert_eq!(seen.all(), Revision(5), "nothing is known of /b");
        let again = batch(8, &[delete("/b", 6), delete("/a", 7), delete("/a", 8), delete("/a", 9)]);
        let news = seen.take(&prefixes, again).unwrap();
        assert_eq!(news.changes, [delete("/b", 6), delete("/a", 9)]);
        assert_eq!(seen.all(), Revision(6));
    }

    #[test]
    fn a_mark_moves_all_prefixes_and_is_passed_on_if_it_is_news() {
        let prefixes = [b"/a".to_vec(), b"/b".to_vec()];
        let mut seen = Seen::at(&prefixes, Revision(5));
        seen.take(&prefixes, batch(9, &[delete("/a", 9)]));
        assert!(seen.take(&prefixes, batch(8, &[])).is_none());
        assert_eq!(seen.all(), Revision(8));
        assert_eq!(seen.take(&prefixes, batch(12, &[])).unwrap().revision, Revision(12));
        assert_eq!(seen.all(), Revision(12));
    }

    #[test]
    fn changes_of_one_revision_in_one_batch_all_count_as_news() {
        let prefixes = [b"/".to_vec()];
        let mut seen = Seen::at(&prefixes, Revision(1));
        let both = batch(2, &[delete("/a", 2), delete("/b", 2)]);
        assert_eq!(seen.take(&prefixes, both).unwrap().changes.len(), 2);
    }

    #[test]
    fn pauses_grow_to_their_limit_and_no_further() {
        for failures in 1..100 {
            let full = (PAUSES.0 * (1 << (failures - 1).min(10))).min(PAUSES.1);
            let pause = pause_after(failures);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
    }
}
