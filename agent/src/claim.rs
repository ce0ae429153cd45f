//! Claims a subnet for this host, and keeps it.
//!
//! ```text
//!   own lease there? ── yes ─▶ written as it should be? ── yes ─▶ nothing to do
//!        │ no                          │ no
//!        ▼                             ▼
//!   choose a free one             rewrite it, if nobody has since
//!        ▼
//!   write it, if nobody has
//! ```
//!
//! [`decide`] is the whole rule, pure; [`run`] carries it out whenever something it depends on changes. A refused write is
//! no error: the next snapshot says who was faster.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use weft_model::hash::fnv1a;
use weft_model::ids::{LeaseId, NodeName, Revision};
use weft_model::mac::Mac;
use weft_model::snapshot::{Bad, Snapshot};
use weft_model::subnet::{BackendData, Lease, SubnetKey, WeftLease};
use weft_plan::ipam;
use weft_store::registry::Registry;
use weft_store::{Outcome, StoreError};

use crate::echo::Echo;
use crate::registrar::{Me, held_by_other, held_sentence};
use crate::session::Kept;
use crate::view::{View, chain};

/// What this host would publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host's name.
    pub node: NodeName,
    /// Its tunnel address; none without an uplink.
    pub public_ip: Option<Ipv4Addr>,
    /// Its IPv6 tunnel address.
    pub public_ipv6: Option<Ipv6Addr>,
    /// Its VTEP's MAC, unless the lease in the store says another.
    pub vtep_mac: Mac,
    /// This boot's id.
    pub boot: String,
    /// MTU of inner packets; 0 is unknown.
    pub mtu: u32,
    /// The subnet to ask for first, where this agent has had none yet.
    pub preferred: Option<Ipv4Net>,
}

/// The subnet this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The subnet.
    pub subnet: Ipv4Net,
    /// MAC of its VTEP, as published.
    pub vtep_mac: Mac,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Nothing, for this reason.
    Wait(String),
    /// The lease is as it should be; or as good as it can be, for this reason.
    Keep(Own, Option<String>),
    /// Write it.
    Write {
        /// The subnet.
        key: SubnetKey,
        /// The value.
        lease: Box<Lease>,
        /// The revision that our reading of it rests on; none is "nobody has it".
        over: Option<Revision>,
        /// The lease of the store to hang it on; none for one that is there without (a reservation).
        on: Option<LeaseId>,
    },
}

/// What is to be done about this host's subnet.
#[must_use]
pub fn decide(snapshot: &Snapshot, facts: &Facts, claim: Option<LeaseId>) -> Todo {
    let Some(config) = snapshot.network() else {
        let key = snapshot.layout().network_config();
        return Todo::Wait(match snapshot.bad_at(&key) {
            Some(Bad { why, .. }) => format!("{key} does not parse: {why}; correct it, or netctl network init --force"),
            None => format!("waiting for {key}: netctl network init --cidr 10.244.0.0/16"),
        });
    };
    let Some(claim) = claim else { return Todo::Wait("waiting for a lease of the store".to_owned()) };
    // Without an uplink the address is unspecified; Weft peers leave such a lease out, and it is rewritten when one appears.
    let public_ip = facts.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let lease = |vtep_mac| Lease {
        public_ip,
        public_ipv6: facts.public_ipv6,
        backend_type: "vxlan".to_owned(),
        backend_data: Some(BackendData { vni: Some(config.backend.vni), vtep_mac }),
        weft: Some(WeftLease { node: facts.node.clone(), boot: facts.boot.clone(), udp6zero: false, mtu: facts.mtu }),
    };
    // A former flanneld's: our address, and nobody's name.
    let of_flannel = || {
        facts.public_ip.and_then(|ip| {
            snapshot.leases().find(|(key, l)| l.value.weft.is_none() && l.value.public_ip == ip && config.could_give(key.subnet))
        })
    };
    if let Some((key, stored)) = snapshot.lease_of(&facts.node).or_else(of_flannel) {
        let vtep_mac = stored.value.backend_data.as_ref().map_or(facts.vtep_mac, |d| d.vtep_mac);
        let mut wanted = lease(vtep_mac);
        if facts.public_ip.is_none() {
            // The uplink is away for the moment: what the others know is better than nothing.
            wanted.public_ip = stored.value.public_ip;
            wanted.weft = wanted.weft.map(|w| WeftLease { mtu: stored.value.weft.as_ref().map_or(0, |s| s.mtu), ..w });
        }
        // A key without a lease is a reservation: it stays one.
        let on = stored.lease.map(|_| claim);
        if stored.value == wanted && stored.lease == on {
            let outside = !config.could_give(key.subnet);
            let odd = outside.then(|| {
                format!(
                    "subnet {} is none that {} gives; containers keep their addresses; to move, stop them, delete {} and restart weftd",
                    key.subnet,
                    config.network,
                    snapshot.layout().subnet(key)
                )
            });
            return Todo::Keep(Own { subnet: key.subnet, vtep_mac }, odd);
        }
        return Todo::Write { key: key.clone(), lease: Box::new(wanted), over: Some(stored.modified), on };
    }
    let taken = snapshot.leases().map(|(key, _)| key.subnet);
    match ipam::choose_subnet(config, taken, facts.preferred, seed(&facts.node)) {
        Ok(subnet) => {
            Todo::Write { key: SubnetKey::v4(subnet), lease: Box::new(lease(facts.vtep_mac)), over: None, on: Some(claim) }
        }
        Err(full) => Todo::Wait(format!("claim subnet: {}", full.stored_at(snapshot.layout().network_config()))),
    }
}

/// Hosts start to search at different places, so that two hundred of them do not all want the same subnet.
fn seed(node: &NodeName) -> u64 {
    fnv1a(node.as_str().bytes())
}

/// Claims and keeps, until the process ends. `own` is set once there is a subnet and from then on always holds the last
/// one had; nothing is written while another host holds this one's name (`me`); `reason` says why there is none, or why it is not as it should be.
pub async fn run(
    registry: Registry,
    mut view: View,
    mut facts: watch::Receiver<Option<Facts>>,
    mut me: watch::Receiver<Option<Me>>,
    mut claim: Kept,
    own: watch::Sender<Option<Own>>,
    reason: watch::Sender<Option<String>>,
) {
    let mut echo = Echo::default();
    loop {
        let snapshot: Option<Arc<Snapshot>> = view.borrow_and_update().clone();
        let mut known: Option<Facts> = facts.borrow_and_update().clone();
        // What this host has counts more than what it remembered when it started.
        if let (Some(facts), Some(now)) = (&mut known, own.borrow().as_ref()) {
            facts.preferred = Some(now.subnet);
        }
        let who = me.borrow_and_update().clone();
        let lease = *claim.id.borrow_and_update();
        let mut retry = Duration::from_secs(3600);
        if let (Some(snapshot), Some(known), Some(who)) = (snapshot, known, who)
            && echo.heard(snapshot.revision())
        {
            // The subnet belongs to the name: whoever does not hold the one writes nothing about the other.
            let todo = match held_by_other(&snapshot, &who) {
                Some(other) => Todo::Wait(held_sentence(&other.value)),
                None => decide(&snapshot, &known, lease),
            };
            match todo {
                Todo::Wait(why) => {
                    if reason.send_replace(Some(why.clone())).as_ref() != Some(&why) {
                        info!(reason = why, "no subnet yet");
                    }
                }
                Todo::Keep(now, odd) => {
                    reason.send_replace(odd);
                    let before = own.borrow().clone();
                    if before.as_ref() != Some(&now) {
                        warn_if_moved(before.as_ref(), &now);
                        own.send_replace(Some(now));
                    }
                }
                Todo::Write { key, lease, over, on } => match registry.write_lease(&key, &lease, over, on).await {
                    Ok(Outcome::Done(revision)) => {
                        info!(subnet = %key.subnet, %revision, new = over.is_none(), "wrote own lease");
                        echo = Echo::of(revision);
                    }
                    Ok(Outcome::Refused(revision)) => {
                        debug!(subnet = %key.subnet, "somebody was faster");
                        echo = Echo::of(revision);
                    }
                    Err(e) => {
                        if matches!(e, StoreError::LeaseGone { .. }) {
                            claim.check_now();
                        }
                        reason.send_replace(Some(format!("claim subnet {}: {}", key.subnet, chain(&e))));
                        retry = Duration::from_secs(1);
                    }
                },
            }
        }
        tokio::select! {
            Ok(()) = view.changed() => {}
            Ok(()) = facts.changed() => {}
            Ok(()) = me.changed() => {}
            Ok(()) = claim.id.changed() => {}
            () = tokio::time::sleep(echo.patience().unwrap_or(retry)) => {}
        }
    }
}

fn warn_if_moved(before: Option<&Own>, now: &Own) {
    match before {
        Some(before) if before.subnet != now.subnet => {
            warn!(before = %before.subnet, now = %now.subnet, "this host has another subnet; containers attached before keep their addresses and cannot be reached from other hosts");
        }
        Some(_) => {}
        None => info!(subnet = %now.subnet, "claimed subnet"),
    }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
