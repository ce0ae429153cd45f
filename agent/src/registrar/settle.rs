//! In which state a record of this host is written: what drains it, whoever wants it written.
//!
//! Pure. Everything that the registrar writes comes through here, so that what is attached and what is registered are drained
//! alike.

use weft_model::keys::RecordPath;
use weft_model::record::{Record, State};
use weft_model::snapshot::Snapshot;

/// Puts a record, to be written at `path`, into the state that the cluster wants of it.
pub fn settle(snapshot: &Snapshot, path: &RecordPath, record: &mut Record) {
    let Some(weft) = &mut record.weft else { return };
    let endpoint = path.parent().unwrap_or_else(|| path.clone());
    // What is down or starting takes nothing new anyway, and says more.
    if weft.state == State::Up && snapshot.is_drained(&endpoint, weft.node.as_ref()) {
        weft.state = State::Draining;
    }
}
