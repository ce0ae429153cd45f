//! `GET /v1/watch`: what changes, as an event stream (HTML, server-sent events) that can be gone on with on any agent.
//!
//! | event | id | data |
//! |---|---|---|
//! | `put` | where to go on after it; none while everything is being told | `kind`, `key`, `revision`, `object` |
//! | `delete` | the same | `kind`, `key`, `revision` |
//! | `current` | the revision of all that was told before | `revision` |
//! | `progress` | nothing of what is watched changed until here | `revision` |
//! | `reset` | none | `why`; everything is told again, and `current` follows: what is not told then is gone |
//!
//! A watcher is a task that reads the log of changes as fast as its connection takes what it writes, and no faster.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use weft_api::Code;
use weft_model::ids::Revision;

use super::answer::{Body, Reply, stamp};
use super::filter::Filter;
use super::query::Query;
use super::{Admin, Caller};
use crate::changes::{Changes, Entry, Kind, Mark, Of, Resume, everything};
use crate::refusal::Refusal;

/// Streams at once.
const MAX_WATCHERS: usize = 128;

/// How often it is looked whether he is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long a revision is awaited that another agent has seen already.
const AHEAD: Duration = Duration::from_secs(5);

/// Bytes that are gathered before they are handed to the connection.
const CHUNK: usize = 32 << 10;

/// Changes that are taken out of the log at a time.
const TAKEN: usize = 256;

/// How long a stream does nothing, or is let do nothing.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Something is said at least so often, so that both sides notice when the other one is gone.
    keep_alive: Duration,
    /// How often a watcher is told that the revision moved without him, at most.
    progress: Duration,
    /// How long a connection may take nothing. Who reads no more holds a place that others want, and a snapshot; he can go on
    /// with his last mark.
    stalled: Duration,
}

/// What every stream has.
const PACE: Pace =
    Pace { keep_alive: Duration::from_secs(15), progress: Duration::from_secs(10), stalled: Duration::from_secs(60) };

/// What somebody wants to be told of.
#[derive(Debug)]
pub(super) struct Wanted {
    kinds: Vec<Kind>,
    filter: Filter,
    from: Option<Mark>,
}

impl Wanted {
    /// What the parameters and `Last-Event-ID` ask for; the header counts, for it is what a stream that broke is gone on with.
    ///
    /// # Errors
    /// A value that is none of its kind.
    pub fn of(query: &Query, last_event: Option<&str>) -> Result<Self, Refusal> {
        let kind = |word: &str| {
            Kind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| {
                let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
                Refusal::invalid(format!("parameter kind: {word:?} is none: {}", known.join(", ")))
            })
        };
        let kinds = match query.get("kind") {
            Some(words) => words.split(',').map(kind).collect::<Result<_, _>>()?,
            None => Kind::ALL.to_vec(),
        };
        let from = match last_event.filter(|id| !id.is_empty()) {
            // An id that says nothing of what was known beside the store means that it was nothing.
            Some(id) => id
                .parse()
                .map(|mark: Mark| Some(Mark { beside: mark.beside.or(Some(0)), ..mark }))
                .map_err(|e| Refusal::invalid(format!("header Last-Event-ID: {e}")))?,
            None => query.value("from")?,
        };
        Ok(Self { kinds, filter: Filter::of_objects(query)?, from })
    }

    fn wants(&self, kind: Kind, of: Option<&Of>) -> bool {
        self.kinds.contains(&kind) && of.is_some_and(|of| self.filter.wants(of))
    }
}

/// A stream, as an answer.
pub(super) struct Stream {
    frames: mpsc::Receiver<Bytes>,
    revision: Revision,
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.frames.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Reply for Stream {
    fn reply(self) -> Result<Response<Body>, Refusal> {
        let revision = self.revision;
        let mut response = Response::new(self.boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        stamp(&mut response, revision);
        Ok(response)
    }
}

/// One of the places for watchers; given back when it is dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |n: usize| (n < MAX_WATCHERS).then_some(n + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(taken.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admin {
    pub(super) async fn watch(&self, wanted: Wanted, caller: Caller) -> Result<Stream, Refusal> {
        self.snapshot()?;
        let seat = Seat::take(&self.watchers).ok_or_else(|| {
            Refusal::new(
                Code::Full,
                format!("watch: {MAX_WATCHERS} streams are open already; close one, or ask another host's agent"),
            )
        })?;
        let start = match &wanted.from {
            None => Start::Fresh(None),
            Some(mark) => match self.resume(mark).await? {
                Resume::At(place) => Start::At(place, mark.revision),
                Resume::Reset | Resume::Ahead => Start::Fresh(Some("what changed since then is not known here any more")),
            },
        };
        let revision = self.revision();
        Ok(Stream { frames: Watcher::begin(self.changes.clone(), wanted, caller, seat, PACE, start), revision })
    }

    /// Where to go on. A mark of another agent may be ahead of this one for a moment.
    async fn resume(&self, mark: &Mark) -> Result<Resume, Refusal> {
        let mut moved = self.changes.moved();
        let there = async {
            loop {
                moved.borrow_and_update();
                match self.changes.resume(mark) {
                    Resume::Ahead => {}
                    found => return found,
                }
                if moved.changed().await.is_err() {
                    return Resume::Ahead;
                }
            }
        };
        match timeout(AHEAD, there).await {
            Ok(found) => Ok(found),
            // To go back to what was before would be to tell old news as new.
            Err(_) if self.health.borrow().away.is_some() => Err(Refusal::new(
                Code::StoreAway,
                format!("watch: the store is away, and this agent has not seen its revision {}", mark.revision),
            )),
            // A store that was made anew, or restored from a backup, counts from before.
            Err(_) => Ok(Resume::Reset),
        }
    }
}

/// The watcher does not listen any more, or reads nothing.
struct Gone;

/// Where a stream begins.
enum Start {
    /// With everything, and why anew if it is.
    Fresh(Option<&'static str>),
    /// At a place in the log, at a revision.
    At(u64, Revision),
}

struct Watcher {
    changes: Arc<Changes>,
    wanted: Wanted,
    caller: Caller,
    frames: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
    pace: Pace,
    _seat: Seat,
}

/// The data of `put` and `delete`.
#[derive(Serialize)]
struct Data<'a> {
    kind: &'a str,
    key: &'a str,
    revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a RawValue>,
}

/// The data of `current` and `progress`.
#[derive(Serialize)]
struct At {
    revision: Revision,
}

/// The data of `reset`.
#[derive(Serialize)]
struct Why {
    why: &'static str,
}

impl Watcher {
    /// Lets one watch, on a task of his own that ends when nobody takes what he is told.
    fn begin(
        changes: Arc<Changes>,
        wanted: Wanted,
        caller: Caller,
        seat: Seat,
        pace: Pace,
        start: Start,
    ) -> mpsc::Receiver<Bytes> {
        let (frames, receiver) = mpsc::channel(2);
        let watcher = Self { changes, wanted, caller, frames, buffer: Vec::new(), pace, _seat: seat };
        tokio::spawn(async move {
            // `Gone` is the only way out.
            let Err(Gone) = watcher.run(start).await;
        });
        receiver
    }

    async fn run(mut self, start: Start) -> Result<std::convert::Infallible, Gone> {
        let mut moved = self.changes.moved();
        let (mut place, mut told) = match start {
            Start::Fresh(why) => self.everything(why).await?,
            Start::At(place, revision) => (place, revision),
        };
        // Tells a client that goes on that there is somebody, before anything changes.
        self.comment().await?;
        let mut spoke = Instant::now();
        let mut progressed = Instant::now();
        loop {
            moved.borrow_and_update();
            let Some((entries, mark)) = self.changes.from(place, TAKEN) else {
                (place, told) = self.everything(Some("more has changed than is kept")).await?;
                (spoke, progressed) = (Instant::now(), Instant::now());
                continue;
            };
            let more = entries.len() == TAKEN;
            place += entries.len() as u64;
            let mut last = None;
            for entry in &entries {
                if self.entry(entry) {
                    last = Some(entry.mark.revision);
                }
                self.pour(CHUNK).await?;
            }
            if let Some(revision) = last {
                told = revision;
                (spoke, progressed) = (Instant::now(), Instant::now());
            }
            if more {
                continue;
            }
            if mark.revision > told && progressed.elapsed() >= self.pace.progress {
                self.event("progress", Some(&mark), &At { revision: mark.revision });
                told = mark.revision;
                (spoke, progressed) = (Instant::now(), Instant::now());
            }
            self.pour(0).await?;
            if spoke.elapsed() >= self.pace.keep_alive {
                self.comment().await?;
                spoke = Instant::now();
            }
            tokio::select! {
                changed = moved.changed() => changed.map_err(|_| Gone)?,
                () = self.frames.closed() => return Err(Gone),
                () = sleep_until(Instant::now() + LOOK.min(self.pace.progress)) => {
                    if self.caller.is_gone() {
                        return Err(Gone);
                    }
                }
            }
        }
    }

    /// Tells everything that there is. Where to read on, and the revision of it all.
    async fn everything(&mut self, why: Option<&'static str>) -> Result<(u64, Revision), Gone> {
        if let Some(why) = why {
            self.event("reset", None, &Why { why });
        }
        let (snapshot, place, mark) = self.changes.latest().ok_or(Gone)?;
        let kinds = self.wanted.kinds.clone();
        for (kind, key, of, revision, object) in everything(&snapshot, &kinds) {
            if self.wanted.wants(kind, Some(&of)) {
                self.object("put", None, kind, &key, revision, &object);
                self.pour(CHUNK).await?;
            }
        }
        self.event("current", Some(&mark), &At { revision: mark.revision });
        self.pour(0).await?;
        Ok((place, mark.revision))
    }

    /// A change as this watcher sees it; whether he does. What is no longer what he asks for is gone for him.
    fn entry(&mut self, entry: &Entry) -> bool {
        let mark = Some(&entry.mark);
        if self.wanted.wants(entry.kind, entry.after.as_ref()) {
            self.object("put", mark, entry.kind, &entry.key, entry.revision, &entry.object);
        } else if self.wanted.wants(entry.kind, entry.before.as_ref()) {
            self.object("delete", mark, entry.kind, &entry.key, entry.revision, &Bytes::new());
        } else {
            return false;
        }
        true
    }

    fn object(&mut self, event: &str, mark: Option<&Mark>, kind: Kind, key: &str, revision: Revision, object: &Bytes) {
        let object = serde_json::from_slice::<&RawValue>(object).ok();
        self.event(event, mark, &Data { kind: kind.as_str(), key, revision, object });
    }

    fn event(&mut self, event: &str, mark: Option<&Mark>, data: &impl Serialize) {
        if let Some(mark) = mark {
            self.buffer.extend_from_slice(format!("id: {mark}\n").as_bytes());
        }
        self.buffer.extend_from_slice(format!("event: {event}\ndata: ").as_bytes());
        // JSON of serde_json has no line breaks; writing to a Vec does not fail.
        let _ = serde_json::to_writer(&mut self.buffer, data);
        self.buffer.extend_from_slice(b"\n\n");
    }

    async fn comment(&mut self) -> Result<(), Gone> {
        self.buffer.extend_from_slice(b": keep-alive\n\n");
        self.pour(0).await
    }

    /// Hands what was gathered to the connection, if it is more than `above`; waits until that takes it.
    async fn pour(&mut self, above: usize) -> Result<(), Gone> {
        if self.buffer.len() <= above {
            return Ok(());
        }
        hand_over(&self.frames, Bytes::from(std::mem::take(&mut self.buffer)), self.pace.stalled).await
    }
}

/// Gives bytes to a connection that takes them within `patience`.
async fn hand_over(frames: &mpsc::Sender<Bytes>, bytes: Bytes, patience: Duration) -> Result<(), Gone> {
    match timeout(patience, frames.send(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
