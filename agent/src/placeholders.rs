//! Keeps a placeholder among the leases for each reserved subnet that nobody has, so that flannelds keep off.
//!
//! Every agent does so, and the first one wins: an owner that is dead for a day loses its lease, and what was promised to it
//! must not be there for the taking meanwhile. Agents themselves go by the reservations.

use std::time::Duration;

use tracing::{debug, info};
use weft_model::ids::Revision;
use weft_model::reservation::Reservation;
use weft_model::snapshot::Snapshot;
use weft_model::subnet::SubnetKey;
use weft_store::Outcome;
use weft_store::registry::Registry;

use crate::echo::Echo;
use crate::view::{View, chain};

/// How long to wait after the store did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Puts them, until the process ends.
pub async fn keep(registry: Registry, mut view: View) {
    let mut echo = Echo::default();
    loop {
        let snapshot = view.borrow_and_update().clone();
        let mut retry = None;
        if let Some(snapshot) = snapshot.filter(|s| echo.heard(s.revision())) {
            for (key, reservation, at) in missing(&snapshot) {
                match registry.put_placeholder(&key, &reservation, at).await {
                    Ok(Outcome::Done(revision)) => {
                        info!(subnet = %key.subnet, node = %reservation.node, "put the placeholder of a reserved subnet");
                        echo = Echo::of(revision);
                    }
                    Ok(Outcome::Refused(revision)) => echo = Echo::of(revision),
                    Err(e) => {
                        debug!(error = chain(&e), "placeholder not put");
                        retry = Some(RETRY);
                        break;
                    }
                }
            }
        }
        let pause = echo.patience().or(retry);
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// Reserved subnets that no lease overlaps.
fn missing(snapshot: &Snapshot) -> Vec<(SubnetKey, Reservation, Revision)> {
    let of_default = snapshot.reservations().filter(|(network, ..)| network.is_default());
    of_default
        .filter(|(_, subnet, _)| snapshot.taken(*subnet).is_none())
        .map(|(_, subnet, stored)| (SubnetKey::v4(subnet), stored.value.clone(), stored.modified))
        .collect()
}
