//! In which state a record of this host is written: what its checks say, and what drains it, whoever wants it written.
//!
//! Pure. Everything that the registrar writes comes through here, so that what is attached and what is registered are checked
//! and drained alike.

use std::time::{Duration, SystemTime};

use weft_model::drain::Drain;
use weft_model::ids::NodeName;
use weft_model::keys::RecordPath;
use weft_model::record::{Record, State};
use weft_model::snapshot::Snapshot;

/// Puts a record, to be written at `path`, into the state that follows. `health` is what its checks say: starting, up or down;
/// none is "it has none". `now` is what deadlines of drains are held against.
pub fn settle(snapshot: &Snapshot, path: &RecordPath, record: &mut Record, health: Option<State>, now: SystemTime) {
    let Some(weft) = &mut record.weft else { return };
    let endpoint = path.parent().unwrap_or_else(|| path.clone());
    // Whatever its checks say, and not by health: no pool takes it back.
    if snapshot.drains_of(&endpoint, weft.node.as_ref()).any(|drain| is_overdue(drain, now)) {
        weft.state = State::Down;
        return;
    }
    // Who says of itself that it takes nothing need not be asked.
    if weft.state == State::Up
        && let Some(health) = health
    {
        weft.state = health;
        weft.unhealthy = health == State::Down;
    }
    // What is down or starting takes nothing new anyway, and says more.
    if weft.state == State::Up && snapshot.is_drained(&endpoint, weft.node.as_ref()) {
        weft.state = State::Draining;
    }
}

/// Whether a drain has come to its deadline, by this host's clock.
#[must_use]
pub fn is_overdue(drain: &Drain, now: SystemTime) -> bool {
    deadline(drain).is_some_and(|deadline| deadline <= now)
}

/// How long until the next drain of a host, or of an endpoint that it has in the store, comes to its deadline. Those of others are
/// no reason for it to look at the clock; what it is about to write is there when this is asked the next time.
#[must_use]
pub fn until_deadline(snapshot: &Snapshot, node: &NodeName, now: SystemTime) -> Option<Duration> {
    let is_own = |path: &RecordPath| snapshot.endpoint(&(path.clone(), true)).is_some_and(|e| e.node.as_ref() == Some(node));
    let endpoints = snapshot.endpoint_drains().filter(|(path, _)| is_own(path)).map(|(_, drain)| drain);
    let drains = snapshot.node_drain(node).into_iter().chain(endpoints).map(|drain| &drain.value);
    let ahead = drains.filter_map(deadline).filter_map(|deadline| deadline.duration_since(now).ok());
    ahead.filter(|ahead| !ahead.is_zero()).min()
}

fn deadline(drain: &Drain) -> Option<SystemTime> {
    humantime::parse_rfc3339(drain.deadline.as_deref()?).ok()
}

/// `record` in the state that `there` is in.
#[must_use]
pub fn in_state_of(record: &Record, there: &Record) -> Record {
    let mut record = record.clone();
    if let (Some(weft), Some(there)) = (&mut record.weft, &there.weft) {
        (weft.state, weft.unhealthy) = (there.state, there.unhealthy);
    }
    record
}
