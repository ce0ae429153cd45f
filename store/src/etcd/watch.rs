//! Watches on etcd: one gRPC stream with a watcher per prefix, made into batches.
//!
//! etcd 3.4 to 3.6, and why this is as it is:
//! * watchers of one stream are independent: what one revision changed below two prefixes arrives as two responses, and a
//!   watcher that catches up with the past, or whose reader is slow, falls behind the others. So order holds per prefix, and
//!   only a progress mark says how far all of them are;
//! * a progress notification of one watcher is true for that watcher (`progress()` in watchable_store.go takes the lock that
//!   events are sent under). The answer to a progress *request* may overtake events (etcd issue 15220, fixed in 3.4.25 and
//!   3.5.8), so none is sent;
//! * watching from the very revision that a compaction named can miss a deletion made at that revision (etcd issue 19179,
//!   fixed in 3.5.18): a watch begins one revision earlier than asked, and what that brings is dropped;
//! * a response is split within a revision only if the watcher asked for fragments.

use std::time::Duration;

use etcd_client::{Client, Error, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::entry_of;
use crate::{Batch, Change, Revision};

/// The largest response taken. etcd sends at most 1000 revisions in one, of at most 1.5 MiB each by default, and cannot be
/// asked for less without fragments; its own client takes 2 GiB.
const MAX_RESPONSE: usize = 512 << 20;

/// How long after a response others are waited for that belong to the same revision. They are sent one after the other.
const GATHER: Duration = Duration::from_millis(1);

/// How many changes end the gathering early.
const GATHERED: usize = 4096;

/// Batches that wait for the reader. When these are full, HTTP/2 holds the server back.
const WAITING: usize = 16;

/// A stream all of whose watchers the server has taken or refused.
pub(super) struct Opened {
    /// Kept for as long as the stream lives, because the connection is this stream's own.
    client: Client,
    stream: WatchStream,
    /// What came meanwhile.
    early: Vec<WatchResponse>,
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
    Ok(Opened { client, stream, early, cluster })
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
    Changes { watcher: usize, changes: Vec<Change> },
    Progress { watcher: usize, revision: Revision },
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
    /// How far all had come at the last mark.
    marked: Revision,
    /// Whether a mark is due.
    mark: bool,
    changes: Vec<Change>,
}

impl Merge {
    fn new(watchers: usize, from: Revision) -> Self {
        let before = Revision(from.0.saturating_sub(1));
        Self { from, reached: vec![before; watchers], marked: before, mark: false, changes: Vec::new() }
    }

    fn changes(&mut self, watcher: usize, changes: Vec<Change>) {
        for change in changes {
            let revision = revision_of(&change);
            self.reached[watcher] = self.reached[watcher].max(revision);
            if revision >= self.from {
                self.changes.push(change);
            }
        }
    }

    fn progress(&mut self, watcher: usize, revision: Revision) {
        self.reached[watcher] = self.reached[watcher].max(revision);
        self.mark = true;
    }

    /// The batches that are due: the changes gathered, then a mark if all watchers have come further.
    fn take(&mut self) -> impl Iterator<Item = Batch> + use<> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_by_key(revision_of);
        let gathered = changes.last().map(revision_of).map(|revision| Batch { revision, changes });
        let all = self.reached.iter().min().copied().unwrap_or_default();
        let mark = (std::mem::take(&mut self.mark) && all > self.marked).then(|| {
            self.marked = all;
            Batch { revision: all, changes: Vec::new() }
        });
        gathered.into_iter().chain(mark)
    }
}

/// The revision that made a change.
fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.modified,
        Change::Delete { revision, .. } => *revision,
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
    let Opened { client: _client, mut stream, early, .. } = opened;
    let mut merge = Merge::new(watchers, from);
    let mut early = early.into_iter();
    loop {
        let mut ended = None;
        let mut until = None;
        // Responses until the gathering is over: at once with one watcher, else a moment after the first.
        while ended.is_none() {
            let response = match (early.next(), until) {
                (Some(response), _) => Ok(Some(response)),
                (None, None) => stream.message().await,
                (None, Some(until)) => match timeout_at(until, stream.message()).await {
                    Ok(response) => response,
                    Err(_) => break,
                },
            };
            match response {
                Ok(Some(response)) => match read(&response, watchers) {
                    Response::Changes { watcher, changes } => merge.changes(watcher, changes),
                    Response::Progress { watcher, revision } => merge.progress(watcher, revision),
                    Response::Ended(why) => ended = Some(why),
                    Response::Nothing => {}
                },
                Ok(None) => ended = Some(Ended::Canceled("the server ended the stream".into())),
                Err(error) => ended = Some(Ended::Broken(error)),
            }
            if watchers == 1 || merge.changes.len() >= GATHERED {
                break;
            }
            until.get_or_insert_with(|| Instant::now() + GATHER);
        }
        for batch in merge.take() {
            batches.send(Ok(batch)).await.ok()?;
        }
        if ended.is_some() {
            return ended;
        }
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
        assert_eq!(merge.take().collect::<Vec<_>>(), [batch(5, &[delete("/b", 5)])]);
    }

    #[test]
    fn one_revision_below_two_prefixes_is_one_batch() {
        let mut merge = Merge::new(2, Revision(2));
        merge.changes(1, vec![delete("/b", 7), delete("/b", 9)]);
        merge.changes(0, vec![delete("/a", 7)]);
        let expected = batch(9, &[delete("/b", 7), delete("/a", 7), delete("/b", 9)]);
        assert_eq!(merge.take().collect::<Vec<_>>(), [expected]);
        assert_eq!(merge.take().count(), 0);
    }

    #[test]
    fn a_mark_is_made_only_when_every_watcher_has_come_further() {
        let mut merge = Merge::new(2, Revision(2));
        merge.progress(0, Revision(10));
        assert_eq!(merge.take().count(), 0);
        merge.progress(1, Revision(8));
        assert_eq!(merge.take().collect::<Vec<_>>(), [batch(8, &[])]);
        merge.changes(1, vec![delete("/b", 12)]);
        merge.progress(0, Revision(11));
        assert_eq!(merge.take().collect::<Vec<_>>(), [batch(12, &[delete("/b", 12)]), batch(11, &[])]);
    }
}
