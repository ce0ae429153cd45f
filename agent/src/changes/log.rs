//! The log itself: pure. Changes by place, a bound in number and bytes, and where a mark is in it.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use hyper::body::Bytes;
use weft_model::endpoint::EndpointState;
use weft_model::ids::Revision;
use weft_model::snapshot::Snapshot;

use super::Mark;
use super::diff::{self, Kind, Of};
use super::standing::Standings;

/// One object's change at one revision.
#[derive(Debug)]
pub struct Entry {
    /// What the object is.
    pub kind: Kind,
    /// Which one it is.
    pub key: String,
    /// The revision at which it changed.
    pub revision: Revision,
    /// What it was before, if it was there.
    pub before: Option<Of>,
    /// What it is now, if it is there.
    pub after: Option<Of>,
    /// The object as JSON; empty if it is gone.
    pub object: Bytes,
    /// Whoever has this one and all before it is here.
    pub mark: Mark,
}

/// Where to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// From this place.
    At(u64),
    /// That is not known: from the beginning.
    Reset,
    /// Nowhere yet: the store has not been seen at that revision.
    Ahead,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    limits: (usize, usize),
    entries: VecDeque<Arc<Entry>>,
    /// The place of the first entry; places are never used twice.
    first: u64,
    bytes: usize,
    /// Everything that changed after this revision is here.
    floor: Revision,
    /// What was known beside the store from which revision on, back to the floor.
    known: VecDeque<(Revision, u64)>,
    snapshot: Option<Arc<Snapshot>>,
    /// Those of the snapshot.
    standings: Standings,
    /// How far it is; never goes back but with a new listing.
    revision: Revision,
    beside: Beside,
}

/// What is known beside what the store holds, as one number: equal for agents that know the same.
#[derive(Debug, Default)]
struct Beside {
    sum: u64,
    /// What each lost endpoint and each kept value adds to it.
    parts: HashMap<(Kind, String), u64>,
}

impl Beside {
    fn set(&mut self, key: (Kind, String), part: Option<u64>) {
        let old = match part {
            Some(part) => {
                self.sum ^= part;
                self.parts.insert(key, part)
            }
            None => self.parts.remove(&key),
        };
        self.sum ^= old.unwrap_or(0);
    }
}

impl Log {
    /// An empty one that keeps at most so many changes and bytes.
    #[must_use]
    pub fn new(entries: usize, bytes: usize) -> Self {
        Self {
            limits: (entries, bytes),
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            floor: Revision::default(),
            known: VecDeque::new(),
            snapshot: None,
            standings: Standings::default(),
            revision: Revision::default(),
            beside: Beside::default(),
        }
    }

    /// Begins anew at a listing.
    pub fn complete(&mut self, snapshot: &Arc<Snapshot>) {
        self.beside = Beside::default();
        for endpoint in snapshot.endpoints().filter(|e| e.state == EndpointState::Lost) {
            let of = diff::endpoint_of(snapshot, endpoint);
            self.beside.set((Kind::Endpoint, diff::endpoint_key(endpoint)), lost(&of));
        }
        for (key, _) in snapshot.bad() {
            self.beside.set((Kind::Network, key.clone()), kept(snapshot, key));
        }
        self.standings = Standings::of(snapshot);
        self.revision = snapshot.revision();
        self.snapshot = Some(snapshot.clone());
        self.forget_all(snapshot.revision());
    }

    /// Puts in what differs between two snapshots, the second made of the first by what changed at `revision`.
    pub fn revision(&mut self, before: &Snapshot, after: &Arc<Snapshot>, revision: Revision) {
        if diff::names_moved(before, after) {
            // Which service an endpoint belongs to is another, without a change of its own: nobody is told by pieces.
            self.complete(after);
            return;
        }
        let changes = diff::between(before, after, &mut self.standings);
        for (key, _, bad) in before.bad_until(after) {
            self.beside.set((Kind::Network, key.clone()), bad.and_then(|_| kept(after, key)));
        }
        for change in changes.iter().filter(|change| change.kind == Kind::Endpoint) {
            self.beside.set((Kind::Endpoint, change.key.clone()), change.after.as_ref().and_then(lost));
        }
        let late = revision <= self.revision && !changes.is_empty();
        self.revision = self.revision.max(revision);
        // With its mark goes what it is the mark of: who begins between this and the end of the batch gets both.
        self.snapshot = Some(after.clone());
        if self.known.back().is_none_or(|(_, sum)| *sum != self.beside.sum) {
            self.known.push_back((self.revision, self.beside.sum));
        }
        let already = self.entries.back().filter(|e| e.mark.revision == self.revision);
        // After the last change of a revision comes the mark of the whole; what comes late to it is counted on.
        let count = already.map_or(0, |e| e.mark.part.unwrap_or(u32::MAX / 2));
        let last = changes.len();
        for (n, change) in (1..).zip(changes) {
            let whole = usize::try_from(n) == Ok(last);
            let part = (!whole || late).then(|| count.saturating_add(n));
            let mark = Mark { revision: self.revision, part, beside: Some(self.beside.sum) };
            self.bytes += change.size();
            let diff::Changed { kind, key, before, after, object } = change;
            self.entries.push_back(Arc::new(Entry { kind, key, revision, before, after, object, mark }));
        }
        if late {
            // Whoever was here before may have gone with a mark that promised him this.
            self.floor = self.floor.max(Revision(self.revision.0.saturating_add(1)));
        }
        self.bound();
    }

    /// All up to this snapshot is in.
    pub fn reached(&mut self, snapshot: &Arc<Snapshot>) {
        self.revision = self.revision.max(snapshot.revision());
        self.snapshot = Some(snapshot.clone());
    }

    /// See [`super::Changes::latest`].
    #[must_use]
    pub fn latest(&self) -> Option<(Arc<Snapshot>, u64, Mark)> {
        Some((self.snapshot.clone()?, self.end(), self.mark()))
    }

    /// See [`super::Changes::resume`].
    #[must_use]
    pub fn resume(&self, mark: &Mark) -> Resume {
        if self.snapshot.is_none() || mark.revision > self.revision {
            return Resume::Ahead;
        }
        // Of a revision that he has in part only, all must be here.
        let known = if mark.part.is_some() { mark.revision > self.floor } else { mark.revision >= self.floor };
        if !known {
            return Resume::Reset;
        }
        let beside = self.known.iter().rev().find(|(since, _)| *since <= mark.revision).map_or(0, |(_, sum)| *sum);
        if mark.beside.is_some_and(|theirs| theirs != beside) {
            return Resume::Reset;
        }
        let has = |e: &Arc<Entry>| match mark.part {
            None => e.mark.revision <= mark.revision,
            Some(part) => (e.mark.revision, e.mark.part.unwrap_or(u32::MAX)) <= (mark.revision, part),
        };
        Resume::At(self.first + self.entries.partition_point(has) as u64)
    }

    /// See [`super::Changes::from`].
    #[must_use]
    pub fn from(&self, place: u64, count: usize) -> Option<(Vec<Arc<Entry>>, Mark)> {
        let skip = usize::try_from(place.checked_sub(self.first)?).ok()?;
        Some((self.entries.iter().skip(skip).take(count).cloned().collect(), self.mark()))
    }

    /// The mark of somebody who has everything.
    fn mark(&self) -> Mark {
        Mark { revision: self.revision, part: None, beside: Some(self.beside.sum) }
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Drops all, so that whoever reads or comes back begins anew. A place is left out, so that who has read all is told too.
    fn forget_all(&mut self, floor: Revision) {
        self.first = self.end() + 1;
        self.entries.clear();
        self.bytes = 0;
        self.floor = floor;
        self.known = VecDeque::from([(floor, self.beside.sum)]);
    }

    fn bound(&mut self) {
        while self.entries.len() > self.limits.0 || self.bytes > self.limits.1 {
            let Some(gone) = self.entries.pop_front() else { return };
            self.first += 1;
            self.bytes = self.bytes.saturating_sub(size(&gone));
            self.floor = self.floor.max(gone.mark.revision);
        }
        // One at or before the floor is enough. Values that do not parse leave no changes behind, so these have a bound as well.
        while self.known.get(1).is_some_and(|(since, _)| *since <= self.floor) || self.known.len() > self.limits.0.max(2) {
            self.known.pop_front();
            if let Some((since, _)) = self.known.front().filter(|(since, _)| *since > self.floor) {
                self.floor = *since;
            }
        }
    }
}

fn size(entry: &Entry) -> usize {
    diff::size_of(&entry.key, &entry.object)
}

/// What a lost endpoint adds to what is known beside the store.
fn lost(of: &Of) -> Option<u64> {
    match of {
        Of::Endpoint(endpoint, _) if endpoint.state == EndpointState::Lost => {
            Some(hash(&(diff::endpoint_key(endpoint), endpoint.modified)))
        }
        _ => None,
    }
}

/// What the meaning adds that a key had before its value was replaced by one that does not parse.
fn kept(snapshot: &Snapshot, key: &str) -> Option<u64> {
    snapshot.kept(key).map(|at| hash(&(key, at)))
}

/// The same in every process of this version.
fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
