//! Watches on etcd: one gRPC stream with a watcher per prefix, made into batches that are complete below all of them.
//!
//! etcd 3.4 to 3.6, and why this is as it is:
//! * watchers of one stream are independent: what one revision changed below two prefixes arrives as two responses, and a
//!   watcher that catches up with the past, or whose reader is slow, falls behind the others. Whoever showed the first response
//!   at once would show a record gone that has only moved. So a change is held back until every watcher has certainly come as
//!   far: by its own changes, or by the server's word for all of them, which is asked for at once (see [`Asking`]);
//! * a progress notification of one watcher is true for that watcher (`progress()` in watchable_store.go takes the lock that
//!   events are sent under). From 3.4.25 and 3.5.8 on, the answer to a progress *request* is true for all of them, and is not
//!   given while one of them is behind: then the server is asked again;
//! * before (etcd issue 15220) the answer may overtake events: it goes another way within the server, and where something waits
//!   on both ways the next one is chosen by lot. Under load dozens of events are overtaken, so its revision says nothing. What
//!   holds is that the events of watchers that are not behind come in the order of revisions, those of one revision together
//!   (`notify()` sends them under one lock, into one queue). So a revision is complete when a later one has come; and the last
//!   one when several requests, each made after the answer to the one before, were answered since: between two answers the
//!   server sends at least one event, and there are no more left than watchers (seen on 3.4.23, with the machine overloaded);
//! * a watcher from the past begins to be served with the next round of the server's loop (`syncWatchersLoop`, each 100 ms), so
//!   of two that are opened together one may be live a round before the other. With the older servers nothing of this counts
//!   for [`SETTLING`] after the opening, or after anything that shows that the watchers may be apart;
//! * watching from the very revision that a compaction named can miss a deletion made at that revision (etcd issue 19179,
//!   fixed in 3.5.18): a watch begins one revision earlier than asked, and what that brings is dropped;
//! * a response is split within a revision only if the watcher asked for fragments.

use std::time::Duration;

use etcd_client::{Client, Error, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::entry_of;
use crate::{Batch, Change, Revision};

/// The largest response taken. etcd sends at most 1000 revisions in one, of at most 1.5 MiB each by default, and cannot be
/// asked for less without fragments; its own client takes 2 GiB.
const MAX_RESPONSE: usize = 512 << 20;

/// How long it takes until watchers that may be apart are together again.
const SETTLING: Duration = Duration::from_millis(250);

/// How long an answer is awaited before the server is asked again, at first and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a change is held back at most, and from a server that never answered.
const HELD_FOR: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(1));

/// How often a server that let [`HELD_FOR`] pass without a word is asked all the same: it may only have been busy.
const ASK_MUTE: Duration = Duration::from_secs(30);

/// How many changes are held back at most, and bytes of their keys and values: a long past is told in its order below each prefix only.
const HELD: (usize, usize) = (65_536, 64 << 20);

/// Batches that wait for the reader. When these are full, HTTP/2 holds the server back.
const WAITING: usize = 16;

/// A stream all of whose watchers the server has taken or refused.
pub(super) struct Opened {
    /// Kept for as long as the stream lives, because the connection is this stream's own.
    client: Client,
    stream: WatchStream,
    /// What came meanwhile.
    early: Vec<WatchResponse>,
    /// Whether its answers to progress requests keep their place among the events.
    in_order: bool,
    /// The cluster that answered.
    pub cluster: Option<u64>,
}

/// Opens a stream and its watchers. `prefixes` are disjoint and not empty.
pub(super) async fn open(client: Client, prefixes: Vec<Vec<u8>>, from: Revision) -> Result<Opened, Error> {
    // 0 would mean "from now on".
    let start = from.0.saturating_sub(1).max(1);
    let options =
        |at: usize| WatchOptions::new().with_prefix().with_start_revision(start).with_progress_notify().with_watch_id(id_of(at));
    let mut watch = client.watch_client().max_decoding_message_size(MAX_RESPONSE);
    let watchers = prefixes.len();
    let mut rest = prefixes.into_iter().enumerate();
    let Some((at, first)) = rest.next() else { return Err(Error::InvalidArgs("no prefix is given".into())) };
    let mut awaited = 1;
    let mut stream = watch.watch(first, Some(options(at))).await?;
    for (at, prefix) in rest {
        stream.watch(prefix, Some(options(at))).await?;
        awaited += 1;
    }
    let mut early = Vec::new();
    let mut cluster = None;
    while awaited > 0 {
        let Some(response) = stream.message().await? else {
            return Err(Error::WatchError("the server ended the stream".into()));
        };
        if response.created() {
            awaited -= 1;
            cluster = response.header().map(|header| header.cluster_id());
        }
        let refused = response.canceled();
        early.push(response);
        if refused {
            break;
        }
    }
    // Whoever does not say what he is counts as old.
    let in_order = match watchers {
        1 => true,
        _ => client.maintenance_client().status().await.is_ok_and(|status| answers_in_order(status.version())),
    };
    Ok(Opened { client, stream, early, in_order, cluster })
}

/// Whether a server of this version has the fix of etcd issue 15220.
fn answers_in_order(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(3), Some(4), Some(patch)) => patch >= 25,
        (Some(3), Some(5), Some(patch)) => patch >= 8,
        (Some(major), Some(minor), Some(_)) => (major, minor) > (3, 5),
        _ => false,
    }
}

/// The id of the watcher of the prefix at `at`; 0 would let the server choose one.
fn id_of(at: usize) -> i64 {
    i64::try_from(at).map_or(i64::MAX, |at| at + 1)
}

/// Why a stream is over.
pub(super) enum Ended {
    /// History no longer reaches back to where a watcher is; this is the oldest it still has.
    Compacted { oldest: Revision },
    /// The server takes the watch back.
    Canceled(String),
    /// The connection.
    Broken(Error),
}

/// What one response says.
enum Response {
    Changes {
        watcher: usize,
        changes: Vec<Change>,
    },
    Progress {
        watcher: usize,
        revision: Revision,
    },
    /// The answer to a request.
    AllAt(Revision),
    Ended(Ended),
    Nothing,
}

fn read(response: &WatchResponse, watchers: usize) -> Response {
    if response.canceled() {
        return Response::Ended(match response.compact_revision() {
            0 => Ended::Canceled(response.cancel_reason().to_owned()),
            compacted => Ended::Compacted { oldest: Revision(compacted).next() },
        });
    }
    // The id that no watcher has (`InvalidWatchID` of mvcc).
    if response.watch_id() == -1 {
        return response.header().map_or(Response::Nothing, |header| Response::AllAt(Revision(header.revision())));
    }
    let watcher = usize::try_from(response.watch_id()).ok().and_then(|id| id.checked_sub(1)).filter(|at| *at < watchers);
    let Some(watcher) = watcher else { return Response::Nothing };
    if !response.events().is_empty() {
        let changes = response.events().iter().filter_map(|event| {
            let kv = event.kv()?;
            Some(match event.event_type() {
                EventType::Put => Change::Put(entry_of(kv.clone())),
                EventType::Delete => Change::Delete { key: kv.key().to_vec(), revision: Revision(kv.mod_revision()) },
            })
        });
        return Response::Changes { watcher, changes: changes.collect() };
    }
    match response.header() {
        Some(header) if !response.created() => Response::Progress { watcher, revision: Revision(header.revision()) },
        _ => Response::Nothing,
    }
}

/// Puts the watchers' responses together.
struct Merge {
    from: Revision,
    /// How far each watcher has certainly come.
    reached: Vec<Revision>,
    /// The latest that any of them brought.
    latest: Revision,
    /// Up to here, changes have been given out.
    given: Revision,
    /// How far all had come at the last mark.
    marked: Revision,
    /// Whether a mark is due.
    mark: bool,
    /// What is held back.
    changes: Vec<Change>,
    /// The bytes of it.
    bytes: usize,
}

impl Merge {
    fn new(watchers: usize, from: Revision) -> Self {
        let before = Revision(from.0.saturating_sub(1));
        Self {
            from,
            reached: vec![before; watchers],
            latest: before,
            given: before,
            marked: before,
            mark: false,
            changes: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes in what a watcher brought. Whether that shows it to be behind others: it comes late, or brings much at once.
    fn changes(&mut self, watcher: usize, changes: Vec<Change>) -> bool {
        let mut revisions = changes.iter().map(revision_of);
        let first = revisions.next();
        let behind = first.is_some_and(|first| first <= self.given || revisions.any(|other| other != first));
        for change in changes {
            let revision = revision_of(&change);
            self.reached[watcher] = self.reached[watcher].max(revision);
            self.latest = self.latest.max(revision);
            if revision >= self.from {
                self.bytes += size_of(&change);
                self.changes.push(change);
            }
        }
        behind
    }

    fn progress(&mut self, watcher: usize, revision: Revision) {
        self.reached[watcher] = self.reached[watcher].max(revision);
        self.mark = true;
    }

    /// Whether so much is held back that no more may be.
    fn is_full(&self) -> bool {
        self.changes.len() > HELD.0 || self.bytes > HELD.1
    }

    /// All watchers have come this far.
    fn all_at(&mut self, revision: Revision) {
        for reached in &mut self.reached {
            *reached = (*reached).max(revision);
        }
    }

    /// The batches that are due: the changes up to where all watchers have come, or `all` of them; then a mark if there is news.
    fn take(&mut self, all: bool) -> impl Iterator<Item = Batch> + use<> {
        let sure = self.reached.iter().min().copied().unwrap_or_default();
        self.changes.sort_by_key(revision_of);
        let due = if all { self.changes.len() } else { self.changes.partition_point(|change| revision_of(change) <= sure) };
        let held = self.changes.split_off(due);
        let changes = std::mem::replace(&mut self.changes, held);
        self.bytes = if self.changes.is_empty() { 0 } else { self.bytes - changes.iter().map(size_of).sum::<usize>() };
        let batch = changes.last().map(revision_of).map(|revision| Batch { revision, changes });
        self.given = batch.as_ref().map_or(self.given, |batch| self.given.max(batch.revision));
        // A mark behind changes goes no further than they do: whoever has them need not be told of it.
        let mark = match &batch {
            Some(batch) if batch.revision <= sure => Some(batch.revision).filter(|_| self.reached.len() > 1),
            _ => std::mem::take(&mut self.mark).then_some(sure),
        };
        let mark = mark.filter(|mark| *mark > self.marked).map(|revision| {
            self.marked = revision;
            Batch { revision, changes: Vec::new() }
        });
        batch.into_iter().chain(mark)
    }
}

/// When to ask the server how far all watchers are, and what to make of its answers.
struct Asking {
    /// Whether an answer is true as it stands.
    in_order: bool,
    /// Else, how many of them make a revision complete.
    rounds: u32,
    /// From when on the order of events and answers can be built upon.
    trusted: Instant,
    /// Which revision the answers are counted for, and how many are left.
    round: Option<(Revision, u32)>,
    /// Since when changes are held back.
    held: Option<Instant>,
    /// When to ask, or to ask again, and how long after that.
    next: Instant,
    again: Duration,
    answered: bool,
    /// It let the time pass without ever answering: until it does, it is asked only now and then, and not waited for.
    mute: bool,
}

/// What is to be done while changes are held back.
#[derive(Debug, PartialEq, Eq)]
enum Hold {
    /// Ask, and wait until then.
    Ask(Instant),
    /// Wait until then.
    Wait(Instant),
    /// Hold back no longer.
    Release,
}

impl Asking {
    fn new(watchers: usize, in_order: bool, now: Instant) -> Self {
        let rounds = u32::try_from(watchers).unwrap_or(u32::MAX).saturating_add(1);
        let again = if in_order { ASK_AGAIN.0 } else { ASK_AGAIN.1 };
        let trusted = now + SETTLING;
        Self { in_order, rounds, trusted, round: None, held: None, next: now, again, answered: false, mute: false }
    }

    /// The server's answer at `now`, with the revision that it names; how far all watchers have certainly come by that.
    fn answered(&mut self, now: Instant, revision: Revision) -> Option<Revision> {
        self.answered = true;
        if std::mem::take(&mut self.mute) {
            // What it was asked in vain it may be answering now.
            self.doubt(now);
        }
        self.next = now;
        if self.in_order {
            return Some(revision);
        }
        match &mut self.round {
            Some((complete, 0 | 1)) => {
                let complete = *complete;
                self.round = None;
                Some(complete)
            }
            Some((_, left)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    /// How far all watchers have certainly come when `latest` has.
    fn passed(&self, now: Instant, latest: Revision) -> Option<Revision> {
        (!self.in_order && now >= self.trusted).then(|| Revision(latest.0.saturating_sub(1)))
    }

    /// Watchers may be behind each other.
    fn doubt(&mut self, now: Instant) {
        self.trusted = now + SETTLING;
        self.round = None;
    }

    /// Nothing is held back, or something was let go: patience begins anew.
    fn rest(&mut self) {
        self.held = None;
        self.again = if self.in_order { ASK_AGAIN.0 } else { ASK_AGAIN.1 };
    }

    /// What to do when changes, the last of them at `latest`, are held back, or as much as may be.
    fn hold(&mut self, now: Instant, is_full: bool, latest: Revision) -> Hold {
        let end = *self.held.get_or_insert(now) + if self.mute { HELD_FOR.1 } else { HELD_FOR.0 };
        if now >= end || is_full {
            if now >= end && !self.answered && !self.mute {
                self.mute = true;
                self.next = now + ASK_MUTE;
            }
            self.held = None;
            return Hold::Release;
        }
        if self.mute {
            if now < self.next {
                return Hold::Wait(end);
            }
            self.next = now + ASK_MUTE;
            return Hold::Ask(end);
        }
        let due = if self.in_order { self.next } else { self.next.max(self.trusted) };
        if now < due {
            return Hold::Wait(due.min(end));
        }
        self.round.get_or_insert((latest, self.rounds));
        self.next = now + self.again;
        self.again = (self.again * 2).min(ASK_AGAIN.1);
        Hold::Ask(self.next.min(end))
    }
}

/// The revision that made a change.
fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.modified,
        Change::Delete { revision, .. } => *revision,
    }
}

/// The bytes of a change.
fn size_of(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete { key, .. } => key.len(),
    }
}

/// Reads a stream to its end, on a task that ends when the receiver is dropped. `fail` makes the last item.
pub(super) fn spawn<E: Send + 'static>(
    opened: Opened,
    watchers: usize,
    from: Revision,
    fail: impl FnOnce(Ended) -> E + Send + 'static,
) -> mpsc::Receiver<Result<Batch, E>> {
    let (batches, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let ended = tokio::select! {
            // Before the stream is read on: who has gone wants no more.
            biased;
            () = batches.closed() => return,
            ended = pump(opened, watchers, from, &batches) => ended,
        };
        if let Some(ended) = ended {
            // An error here means that nobody listens any more.
            let _ = batches.send(Err(fail(ended))).await;
        }
    });
    receiver
}

/// Reads responses and sends batches. Returns `None` when nobody takes them.
async fn pump<E>(opened: Opened, watchers: usize, from: Revision, batches: &mpsc::Sender<Result<Batch, E>>) -> Option<Ended> {
    let Opened { client: _client, mut stream, early, in_order, .. } = opened;
    let mut merge = Merge::new(watchers, from);
    let mut asking = Asking::new(watchers, in_order, Instant::now());
    let mut early = early.into_iter();
    let mut wake = None;
    loop {
        let response = match (early.next(), wake) {
            (Some(response), _) => Some(Ok(Some(response))),
            (None, None) => Some(stream.message().await),
            (None, Some(until)) => timeout_at(until, stream.message()).await.ok(),
        };
        let now = Instant::now();
        let mut ended = None;
        match response {
            Some(Ok(Some(response))) => match read(&response, watchers) {
                Response::Changes { watcher, changes } => {
                    if merge.changes(watcher, changes) {
                        asking.doubt(now);
                    } else if let Some(sure) = asking.passed(now, merge.latest) {
                        merge.all_at(sure);
                    }
                }
                Response::Progress { watcher, revision } => merge.progress(watcher, revision),
                Response::AllAt(revision) => {
                    if let Some(sure) = asking.answered(now, revision) {
                        merge.all_at(sure);
                    }
                }
                Response::Ended(why) => ended = Some(why),
                Response::Nothing => {}
            },
            Some(Ok(None)) => ended = Some(Ended::Canceled("the server ended the stream".into())),
            Some(Err(error)) => ended = Some(Ended::Broken(error)),
            None => {}
        }
        let mut release = false;
        wake = loop {
            for batch in merge.take(release) {
                asking.rest();
                batches.send(Ok(batch)).await.ok()?;
            }
            // What is held back when a stream ends comes again with the next one.
            if ended.is_some() {
                return ended;
            }
            let now_again = Instant::now();
            if now_again.duration_since(now) >= SETTLING {
                // The reader kept the stream waiting: the server may have put watchers aside.
                asking.doubt(now_again);
            }
            if merge.changes.is_empty() {
                asking.rest();
                break None;
            }
            match asking.hold(now_again, merge.is_full(), merge.latest) {
                Hold::Wait(until) => break Some(until),
                Hold::Ask(until) => {
                    // A stream that takes no request is about to end, and says why.
                    let _ = stream.request_progress().await;
                    break Some(until);
                }
                Hold::Release => {
                    debug!(held = merge.changes.len(), "etcd does not say how far all watchers are: what is there is told");
                    release = true;
                }
            }
        };
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
    fn what_is_older_than_asked_for_is_dropped() {
        let mut merge = Merge::new(1, Revision(5));
        merge.changes(0, vec![delete("/a", 4), delete("/b", 5)]);
        assert_eq!(merge.take(false).collect::<Vec<_>>(), [batch(5, &[delete("/b", 5)])]);
    }

    #[test]
    fn one_revision_below_two_prefixes_is_one_batch() {
        let mut merge = Merge::new(2, Revision(2));
        merge.changes(1, vec![delete("/b", 7), delete("/b", 9)]);
        assert_eq!(merge.take(false).count(), 0, "the other half may come");
        merge.changes(0, vec![delete("/a", 7)]);
        let expected = batch(7, &[delete("/b", 7), delete("/a", 7)]);
        assert_eq!(merge.take(false).collect::<Vec<_>>(), [expected, batch(7, &[])]);
        merge.all_at(Revision(20));
        assert_eq!(merge.take(false).collect::<Vec<_>>(), [batch(9, &[delete("/b", 9)]), batch(9, &[])]);
        merge.changes(1, vec![delete("/b", 30)]);
        assert_eq!(merge.take(true).collect::<Vec<_>>(), [batch(30, &[delete("/b", 30)])], "without a mark");
    }

    #[test]
    fn a_mark_is_made_only_when_every_watcher_has_come_further() {
        let mut merge = Merge::new(2, Revision(2));
        merge.progress(0, Revision(10));
        assert_eq!(merge.take(false).count(), 0);
        merge.progress(1, Revision(8));
        assert_eq!(merge.take(false).collect::<Vec<_>>(), [batch(8, &[])]);
        merge.changes(1, vec![delete("/b", 12)]);
        merge.progress(0, Revision(11));
        assert_eq!(merge.take(false).collect::<Vec<_>>(), [batch(11, &[])]);
        merge.progress(0, Revision(12));
        assert_eq!(merge.take(false).collect::<Vec<_>>(), [batch(12, &[delete("/b", 12)]), batch(12, &[])]);
    }

    #[test]
    fn what_comes_late_or_in_heaps_shows_a_watcher_that_is_behind() {
        let mut merge = Merge::new(2, Revision(2));
        assert!(!merge.changes(0, vec![delete("/a", 4), delete("/b", 4)]));
        merge.all_at(Revision(4));
        assert_eq!(merge.take(false).count(), 2);
        assert!(merge.changes(1, vec![delete("/c", 3)]));
        assert!(merge.changes(1, vec![delete("/c", 6), delete("/c", 7)]));
    }

    #[test]
    fn a_server_that_keeps_the_order_is_believed_at_once() {
        let begun = Instant::now();
        let mut asking = Asking::new(3, true, begun);
        assert_eq!(asking.hold(begun, false, Revision(5)), Hold::Ask(begun + ASK_AGAIN.0));
        assert_eq!(asking.passed(begun + SETTLING, Revision(9)), None, "one of the watchers may be behind");
        assert_eq!(asking.answered(begun, Revision(5)), Some(Revision(5)));
        for (version, in_order) in [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.6.0-rc.1", true),
            ("3.3.27", false),
            ("", false),
        ] {
            assert_eq!(answers_in_order(version), in_order, "{version}");
        }
    }

    #[test]
    fn of_an_older_server_several_answers_complete_the_revision_that_was_there_when_it_was_first_asked() {
        let begun = Instant::now();
        let mut asking = Asking::new(2, false, begun);
        let settled = begun + SETTLING;
        assert_eq!(asking.hold(begun, false, Revision(5)), Hold::Wait(settled), "too early to build upon");
        assert_eq!((asking.passed(begun, Revision(5)), asking.passed(settled, Revision(5))), (None, Some(Revision(4))));
        for left in (0..3).rev() {
            assert!(matches!(asking.hold(settled, false, Revision(7 - left)), Hold::Ask(_)));
            let complete = asking.answered(settled, Revision(9));
            assert_eq!(complete, (left == 0).then_some(Revision(5)));
        }
        assert!(matches!(asking.hold(settled, false, Revision(7)), Hold::Ask(_)));
        asking.doubt(settled);
        assert_eq!(asking.answered(settled, Revision(9)), None);
        assert_eq!(asking.hold(settled, false, Revision(7)), Hold::Wait(settled + SETTLING));
    }

    #[test]
    fn nothing_is_held_back_for_ever() {
        let begun = Instant::now();
        let mut asking = Asking::new(2, true, begun);
        assert_eq!(asking.hold(begun, true, Revision(5)), Hold::Release);
        assert!(matches!(asking.hold(begun, false, Revision(5)), Hold::Ask(_)));
        let late = begun + HELD_FOR.0;
        assert_eq!(asking.hold(late, false, Revision(5)), Hold::Release);
        // It never said a word.
        assert_eq!(asking.hold(late, false, Revision(6)), Hold::Wait(late + HELD_FOR.1));
        assert_eq!(asking.hold(late + HELD_FOR.1, false, Revision(6)), Hold::Release);
    }

    #[test]
    fn a_server_that_was_silent_is_asked_now_and_then_and_believed_once_it_answers() {
        let begun = Instant::now();
        for in_order in [true, false] {
            let mut asking = Asking::new(2, in_order, begun);
            while asking.hold(begun + SETTLING, false, Revision(5)) != Hold::Wait(asking.next) {}
            let late = begun + SETTLING + HELD_FOR.0;
            assert_eq!(asking.hold(late, false, Revision(5)), Hold::Release);
            let later = late + ASK_MUTE;
            assert_eq!(asking.hold(later, false, Revision(6)), Hold::Ask(later + HELD_FOR.1));
            assert_eq!(asking.hold(later, false, Revision(6)), Hold::Wait(later + HELD_FOR.1), "once");
            assert_eq!(asking.answered(later, Revision(6)), in_order.then_some(Revision(6)));
            asking.rest();
            let settled = later + SETTLING;
            assert!(matches!(asking.hold(settled, false, Revision(7)), Hold::Ask(_)));
            let waits = asking.hold(settled, false, Revision(7));
            assert_eq!(waits, Hold::Wait(asking.next.min(settled + HELD_FOR.0)), "as long as for any other");
        }
    }

    #[test]
    fn what_is_held_back_has_a_bound_in_number_and_in_bytes() {
        let large = |key: &str, revision: i64| {
            let value = vec![0; HELD.1 / 2];
            Change::Put(crate::Entry { key: key.into(), value, lease: None, created: Revision(1), modified: Revision(revision) })
        };
        let mut merge = Merge::new(2, Revision(2));
        merge.changes(0, vec![large("/a", 4)]);
        assert!(!merge.is_full());
        merge.changes(0, vec![large("/a", 5)]);
        assert!(merge.is_full());
        merge.all_at(Revision(4));
        assert_eq!(merge.take(false).count(), 2);
        assert!(!merge.is_full(), "half of it was given out");
        assert_eq!(merge.take(true).count(), 1);
        assert_eq!(merge.bytes, 0);
        merge.changes(0, (0..=HELD.0).map(|n| delete("/a", 6 + i64::try_from(n).unwrap())).collect());
        assert!(merge.is_full());
    }
}
