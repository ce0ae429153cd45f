//! Store events in, snapshots out. Silent until the first complete listing.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_model::ids::Revision;
use weft_model::keys::Layout;
use weft_model::snapshot::Snapshot;
use weft_store::Change;
use weft_store::follow::{Follow, Update};

use crate::changes::Changes;

/// The latest snapshot; none before the first complete listing.
pub type View = watch::Receiver<Option<Arc<Snapshot>>>;

/// Whether the store answers.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether it does.
    pub connected: bool,
    /// Why not, and since when.
    pub away: Option<(String, Instant)>,
}

/// Follows the store until the process ends.
pub async fn run(
    mut follow: Follow,
    layout: Arc<Layout>,
    view: watch::Sender<Option<Arc<Snapshot>>>,
    health: watch::Sender<Health>,
    changes: Arc<Changes>,
) {
    loop {
        match follow.next().await {
            Update::Complete(listing) => {
                let before = view.borrow().clone();
                let snapshot = Snapshot::complete(layout.clone(), listing.revision, listing.entries, before.as_deref());
                info!(revision = %snapshot.revision(), nodes = snapshot.nodes().count(), services = snapshot.services().count(), "read the whole store");
                report_bad(before.as_deref(), &snapshot);
                let snapshot = Arc::new(snapshot);
                changes.complete(&snapshot);
                view.send_replace(Some(snapshot));
                health.send_replace(Health { connected: true, away: None });
            }
            Update::Changes(batch) => {
                let Some(before) = view.borrow().clone() else { continue };
                let mut snapshot = before.clone();
                for (revision, of_revision) in by_revision(batch.changes) {
                    let mut next = (*snapshot).clone();
                    next.apply(revision, of_revision);
                    let next = Arc::new(next);
                    changes.revision(&snapshot, &next, revision);
                    snapshot = next;
                }
                if snapshot.revision() < batch.revision {
                    let mut next = (*snapshot).clone();
                    next.apply(batch.revision, Vec::new());
                    snapshot = Arc::new(next);
                }
                report_bad(Some(&before), &snapshot);
                // First the log: whoever reads this snapshot and watches on from its revision finds that revision there.
                changes.publish(&snapshot);
                view.send_replace(Some(snapshot));
            }
            Update::Away { error, .. } => {
                let text = chain(&error);
                warn!(error = text, "store away; everything goes on as it was");
                health.send_replace(Health { connected: false, away: Some((text, Instant::now())) });
            }
            Update::Back => {
                let was = health.send_replace(Health { connected: true, away: None });
                if let Some((_, since)) = was.away {
                    info!(after_s = since.elapsed().as_secs(), "store back");
                }
            }
        }
    }
}

/// The changes of a batch, revision by revision.
fn by_revision(changes: Vec<Change>) -> Vec<(Revision, Vec<Change>)> {
    let mut out: Vec<(Revision, Vec<Change>)> = Vec::new();
    for change in changes {
        let revision = match &change {
            Change::Put(entry) => entry.modified,
            Change::Delete { revision, .. } => *revision,
        };
        match out.last_mut() {
            Some((last, of_revision)) if *last == revision => of_revision.push(change),
            _ => out.push((revision, vec![change])),
        }
    }
    out
}

/// Logs each bad value once.
fn report_bad(before: Option<&Snapshot>, now: &Snapshot) {
    for (key, bad) in now.bad() {
        if before.and_then(|b| b.bad_at(key)) != Some(bad) {
            warn!(key, why = bad.why, "a value in the store does not parse; it is left out");
        }
    }
}

/// An error with its causes, `: ` between.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries print their cause themselves.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
