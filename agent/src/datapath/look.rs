//! Looking twice a second whether somebody else changed rows, links or pins.
//!
//! The kernel gives notice of devices, routes and rules, but of nothing of eBPF. Found is what `bpftool map update|delete`,
//! `bpftool link detach` and `rm` of a pin do; it is put right by the next [`Fast::sync`], which reads everything back.
//!
//! What a look costs is bounded, so that it is below a thousandth of a CPU (see `kernel/bpf/glance.rs` for the price of things):
//! every map's number of rows, the configuration, links and pins each time, the values of rows in turn: some 2,000 rows a
//! second, 4,000 where maps are well filled. So all is found within a second on a host that has to do with up to about a thousand
//! rows (peers twice, containers twice, backends of services twice); with 5,000 peers a changed value is found within four
//! seconds, a row too many or too few at once; with 50,000 services a changed value is found by the [resync](Fast::resync).

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, warn};
use weft_abi::maps::name;
use weft_agent::kernel::bpf::{BpfError, Budget, Disturbed, Maps};

use super::{Fast, Shadow, Shared, is_device_link_name};
use crate::view::chain;

/// How often.
const EVERY: Duration = Duration::from_millis(500);

/// What the values of rows may cost each time, in nanoseconds.
const BUDGET: u64 = 350_000;

/// The maps whose rows are looked at in turn; those of the host and of its networks are each time, besides.
const TABLES: usize = 11;

/// Looks from time to time.
#[derive(Debug)]
pub struct Lookout {
    interval: Interval,
}

impl Default for Lookout {
    fn default() -> Self {
        let mut interval = tokio::time::interval(EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval }
    }
}

impl Lookout {
    /// Returns once something is found. Giving up waiting loses nothing.
    pub async fn changed(&mut self, datapath: &Shared) {
        loop {
            self.interval.tick().await;
            // Whoever holds it reads or writes the maps just now; there is another time. Looking takes less than a millisecond.
            if let Ok(mut fast) = datapath.try_lock()
                && fast.look()
            {
                return;
            }
        }
    }
}

impl Fast {
    /// Whether somebody else has changed what the last [`Fast::sync`] left.
    pub fn look(&mut self) -> bool {
        // Links cannot be asked while one is being made: the kernel's lock is held that long.
        if self.later.beside.is_at_work() {
            return false;
        }
        self.collect();
        let (true, Some(datapath), Some(shadow)) = (self.settled, self.open.as_mut(), self.shadow.as_ref()) else { return false };
        let what = match datapath.disturbed() {
            Some(Disturbed::Link(link)) => {
                self.attached.remove(&link);
                self.sockets &= is_device_link_name(&link);
                format!("link {link}")
            }
            Some(Disturbed::Pin(what)) => what,
            None => match look_at_rows(datapath.maps_mut(), shadow, &mut self.turn) {
                Ok(None) => return false,
                Ok(Some((map, what))) => format!("map {map}: {what}"),
                Err(e) => {
                    debug!(error = chain(&e), "look at the maps");
                    return false;
                }
            },
        };
        warn!(what, "somebody changed the datapath; putting it right");
        self.shadow = None;
        self.links_due = true;
        self.settled = false;
        true
    }
}

/// The first map that does not hold what it should, and what is wrong with it.
fn look_at_rows(maps: &mut Maps, shadow: &Shadow, turn: &mut usize) -> Result<Option<(&'static str, &'static str)>, BpfError> {
    if maps.config()? != shadow.maps.config {
        return Ok(Some((name::CONFIG, "the row was changed")));
    }
    // One that nobody expects is led to by no other row.
    for (network, row) in &shadow.maps.networks {
        if maps.network(*network)? != *row {
            return Ok(Some((name::NETWORKS, "a row was changed")));
        }
    }
    let mut budget = Budget::nanoseconds(BUDGET);
    let first = *turn;
    for i in (first..first + TABLES).map(|i| i % TABLES) {
        let spent = budget.is_spent();
        let (rows, services) = (&shadow.maps, &shadow.services);
        let (map, found) = match i {
            0 => (name::ENDPOINTS, maps.endpoints.look(&rows.endpoints, &mut budget)?),
            1 => (name::ENDPOINTS6, maps.endpoints6.look(&rows.endpoints6, &mut budget)?),
            2 => (name::PEERS, maps.peers.look(&rows.peers, &mut budget)?),
            3 => (name::PEERS6, maps.peers6.look(&rows.peers6, &mut budget)?),
            4 => (name::VTEPS, maps.vteps.look(&rows.vteps, &mut budget)?),
            5 => (name::RANGES, maps.ranges.look(&rows.ranges, &mut budget)?),
            6 => (name::NETNS, maps.netns.look(&rows.netns, &mut budget)?),
            7 => (name::FRONTENDS, maps.frontends.look(&services.frontends, &mut budget)?),
            8 => (name::PORTS, maps.ports.look(&rows.ports, &mut budget)?),
            9 => (name::SLOTS, maps.slots.look(&services.slots, &mut budget)?),
            _ => (name::BACKENDS, maps.backends.look(&services.backends, &mut budget)?),
        };
        if let Some(what) = found {
            return Ok(Some((map, what)));
        }
        if budget.is_spent() && !spent {
            *turn = i;
        }
    }
    Ok(None)
}
