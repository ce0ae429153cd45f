//! In which state a record of this host is written: what its checks say, and what drains it, whoever wants it written.
//!
//! Pure. Everything that the registrar writes comes through here, so that what is attached and what is registered are checked
//! and drained alike.

use weft_model::keys::RecordPath;
use weft_model::record::{Record, State};
use weft_model::snapshot::Snapshot;

/// Puts a record, to be written at `path`, into the state that follows. `health` is what its checks say: starting, up or down;
/// none is "it has none".
pub fn settle(snapshot: &Snapshot, path: &RecordPath, record: &mut Record, health: Option<State>) {
    let Some(weft) = &mut record.weft else { return };
    let endpoint = path.parent().unwrap_or_else(|| path.clone());
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

/// `record` in the state that `there` is in.
#[must_use]
pub fn in_state_of(record: &Record, there: &Record) -> Record {
    let mut record = record.clone();
    if let (Some(weft), Some(there)) = (&mut record.weft, &there.weft) {
        (weft.state, weft.unhealthy) = (there.state, there.unhealthy);
    }
    record
}
