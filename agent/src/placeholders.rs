//! Keeps a placeholder among the leases for each reserved subnet that nobody has, so that flannelds keep off.
//!
//! Every agent does so, and the first one wins: an owner that is dead for a day loses its lease, and what was promised to it
//! must not be there for the taking meanwhile. Agents themselves go by the reservations.
//!
//! A placeholder and the owner's claim under a key that also names an IPv6 subnet, or in Weft's tree, may be written at once:
//! one that stands beside a lease of its subnet is taken away again.

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
            for (key, at, held) in needless(&snapshot) {
                match registry.remove_placeholder(&key, at, &held).await {
                    Ok(Outcome::Done(revision)) => {
                        info!(subnet = %key.subnet, lease = %held, "removed the placeholder of a subnet that has a lease");
                        echo = Echo::of(revision);
                    }
                    Ok(Outcome::Refused(revision)) => echo = Echo::of(revision),
                    Err(e) => {
                        debug!(error = chain(&e), "placeholder not removed");
                        retry = Some(RETRY);
                        break;
                    }
                }
            }
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

/// Placeholders, and when they were written, whose subnet a lease holds that is none; and that lease's key.
fn needless(snapshot: &Snapshot) -> Vec<(SubnetKey, Revision, SubnetKey)> {
    let leases = || snapshot.leases().filter(|(_, lease)| !lease.value.is_placeholder());
    let placeholders = snapshot.leases().filter(|(_, lease)| lease.value.is_placeholder() && lease.lease.is_none());
    placeholders
        .filter_map(|(key, placeholder)| {
            let (held, _) = leases().find(|(held, _)| held.subnet.contains(&key.subnet))?;
            Some((*key, placeholder.modified, *held))
        })
        .collect()
}

/// Reserved subnets that no lease overlaps.
fn missing(snapshot: &Snapshot) -> Vec<(SubnetKey, Reservation, Revision)> {
    let of_default = snapshot.reservations().filter(|(network, ..)| network.is_default());
    of_default
        .filter(|(_, subnet, _)| snapshot.taken(*subnet).is_none())
        .map(|(_, subnet, stored)| (SubnetKey::v4(subnet), stored.value.clone(), stored.modified))
        .collect()
}
