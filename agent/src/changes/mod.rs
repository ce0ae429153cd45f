//! What changed, revision by revision, kept for those who watch: the log behind `GET /v1/watch`.
//!
//! The view puts every revision in, in order, before anybody sees its snapshot. A watcher stands at a place in the log and reads
//! on from there; the log never waits for one. What is too old is dropped, and whoever stood there or comes back from there
//! begins anew with a snapshot. So a watcher costs no memory here, however slow it is.
//!
//! A [`Mark`] names a place by the store's own revisions, so that another agent knows it too. Two agents that stand at the same
//! revision show the same, except for what is not in the store any more: endpoints that were lost with their host, and what a
//! value meant before it was replaced by one that does not parse. An agent that started later knows neither; so a mark says what
//! of that kind it knew, and an agent that knows otherwise begins anew. One within a revision counts its changes by [`NUMBERING`].

mod diff;
mod log;
mod standing;

pub use diff::{Kind, Of, everything};
pub use log::{Entry, Resume};

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use weft_model::ids::Revision;
use weft_model::snapshot::Snapshot;

use log::Log;

/// The most changes that are kept.
const MAX_ENTRIES: usize = 65_536;

/// The most bytes of them.
const MAX_BYTES: usize = 32 << 20;

/// How the changes of a revision are numbered: which there are, and in which order. It is part of what a mark within a revision says
/// that was known, so that an agent that numbers otherwise, of an earlier or a later version, knows otherwise. To be counted up
/// whenever another kind is told, or a kind is told for another reason. 0, whose marks do not say it: before services and leaders
/// were told with the endpoints that they hang on.
const NUMBERING: u64 = 2;

/// How far a watcher is: everything up to here it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The revision.
    pub revision: Revision,
    /// How many changes of that revision, if not all.
    pub part: Option<u32>,
    /// What was known beside what the store holds; 0 is nothing, none is unsaid.
    pub beside: Option<u64>,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.revision)?;
        if let Some(part) = self.part {
            write!(f, ".{part}")?;
        }
        match (self.beside.unwrap_or(0), self.part) {
            (0, None) => Ok(()),
            (beside, None) => write!(f, "~{beside:016x}"),
            (beside, Some(_)) => write!(f, "~{:016x}", beside ^ NUMBERING),
        }
    }
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no revision, nor an event's id");
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.to_owned()).ok_or_else(bad);
        let (place, beside) = match text.split_once('~') {
            Some((place, beside)) => (place, Some(u64::from_str_radix(beside, 16).map_err(|_| bad())?)),
            None => (text, None),
        };
        let (revision, part) = match place.split_once('.') {
            Some((revision, part)) => (revision, Some(digits(part)?.parse().map_err(|_| bad())?)),
            None => (place, None),
        };
        // One that says nothing of it is of the first numbering, and differs by that.
        let beside = if part.is_some() { Some(beside.unwrap_or(0) ^ NUMBERING) } else { beside };
        Ok(Self { revision: Revision(digits(revision)?.parse().map_err(|_| bad())?), part, beside })
    }
}

/// The log, shared by the view that writes and the watchers that read.
#[derive(Debug)]
pub struct Changes {
    log: Mutex<Log>,
    moved: watch::Sender<u64>,
}

impl Default for Changes {
    fn default() -> Self {
        Self::keeping(MAX_ENTRIES, MAX_BYTES)
    }
}

impl Changes {
    /// A log of at most so many changes, and bytes of them.
    #[must_use]
    pub fn keeping(entries: usize, bytes: usize) -> Self {
        Self { log: Mutex::new(Log::new(entries, bytes)), moved: watch::Sender::new(0) }
    }

    /// The store has been read as a whole: what happened before is not known.
    pub fn complete(&self, snapshot: &Arc<Snapshot>) {
        self.with(|log| log.complete(snapshot));
        self.moved.send_modify(|n| *n += 1);
    }

    /// One revision's changes: what differs between two snapshots.
    pub fn revision(&self, before: &Snapshot, after: &Arc<Snapshot>, revision: Revision) {
        self.with(|log| log.revision(before, after, revision));
    }

    /// All of a batch is in: watchers may go on.
    pub fn publish(&self, snapshot: &Arc<Snapshot>) {
        self.with(|log| log.reached(snapshot));
        self.moved.send_modify(|n| *n += 1);
    }

    /// The latest snapshot, the place after it, and its mark; none before the store has been read.
    #[must_use]
    pub fn latest(&self) -> Option<(Arc<Snapshot>, u64, Mark)> {
        self.with(|log| log.latest())
    }

    /// Where to read on after a mark.
    #[must_use]
    pub fn resume(&self, mark: &Mark) -> Resume {
        self.with(|log| log.resume(mark))
    }

    /// At most `count` changes from a place on, and the mark of all that there is; none if they are gone.
    #[must_use]
    pub fn from(&self, place: u64, count: usize) -> Option<(Vec<Arc<Entry>>, Mark)> {
        self.with(|log| log.from(place, count))
    }

    /// Tells when there is more.
    #[must_use]
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Log) -> T) -> T {
        act(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_from_its_text() {
        let mark = |revision, part, beside| Mark { revision: Revision(revision), part, beside };
        for (mark, text) in [
            (mark(7, None, Some(0)), "7"),
            (mark(7, Some(3), Some(0)), "7.3~0000000000000002"),
            (mark(7, None, Some(0x2a)), "7~000000000000002a"),
            (mark(7, Some(3), Some(u64::MAX)), "7.3~fffffffffffffffd"),
        ] {
            assert_eq!(mark.to_string(), text);
            let again: Mark = text.parse().unwrap();
            assert_eq!(
                (again.revision, again.part, again.beside.unwrap_or(0)),
                (mark.revision, mark.part, mark.beside.unwrap_or(0))
            );
        }
        for bad in ["", "-1", "+1", "7.", ".3", "7~", "7~g", "7.x", "99999999999999999999", "7.3.1"] {
            assert!(bad.parse::<Mark>().is_err(), "{bad}");
        }
    }
}
