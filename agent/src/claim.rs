//! Claims a subnet for this host, and keeps it.
//!
//! ```text
//!   own lease there? ── yes ─▶ another one reserved, and no container here? ── yes ─▶ move there
//!        │ no                        │ no
//!        │                      written as it should be? ── yes ─▶ nothing to do
//!        │                           │ no
//!        ▼                           ▼
//!   reserved? else               rewrite it, if nobody has since
//!   choose a free one
//!        ▼
//!   write it, if nobody has
//! ```
//!
//! The lease stands where those find it who can use it: below the network prefix, or, of a host without an IPv4 address,
//! which flannel cannot parse, below Weft's own. Its key names the host's IPv6 subnet too, so one that gets or loses that
//! changes its name: the new key is written and the old one goes in one transaction, and the IPv4 subnet stays.
//!
//! Where a lease of another owner overlaps this host's and is older, this host has another one, as soon as no container is in
//! it.
//!
//! Containers keep their addresses whatever happens, so a subnet that has some is asked for again before any other, and
//! where it is another host's by then, status says so for as long as they run.
//!
//! [`decide()`] is the whole rule, pure; [`run`] carries it out whenever something it depends on changes. A refused write is
//! no error: the next snapshot says who was faster.

mod decide;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use tokio::sync::watch;
use tracing::{debug, info, warn};
use weft_model::ids::{LeaseId, NetworkName, NodeName, Revision};
use weft_model::mac::Mac;
use weft_model::snapshot::Snapshot;
use weft_model::subnet::{Lease, SubnetKey};
use weft_store::registry::{Registry, SubnetClaim};
use weft_store::{Outcome, StoreError};

pub use decide::{Addresses, decide, holder_of};

use crate::attach::Published;
use crate::echo::Echo;
use crate::registrar::{Me, held_by_other, held_sentence};
use crate::session::Kept;
use crate::view::{View, chain};

/// What this host would publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host's name.
    pub node: NodeName,
    /// Its tunnel address; with neither this nor the next one there is no uplink.
    pub public_ip: Option<Ipv4Addr>,
    /// Its IPv6 tunnel address.
    pub public_ipv6: Option<Ipv6Addr>,
    /// Whether its kernel has IPv6.
    pub has_ipv6: bool,
    /// The MAC of its VTEP over IPv4, unless the lease in the store says another.
    pub vtep_mac: Mac,
    /// The same of the one over IPv6.
    pub vtep_mac6: Mac,
    /// This boot's id.
    pub boot: String,
    /// MTU of inner packets; 0 is unknown.
    pub mtu: u32,
    /// The subnet to ask for first, where this agent has had none yet.
    pub preferred: Option<Ipv4Net>,
    /// The same of IPv6.
    pub preferred6: Option<Ipv6Net>,
}

/// The subnets this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The subnet.
    pub subnet: Ipv4Net,
    /// The IPv6 subnet beside it.
    pub subnet6: Option<Ipv6Net>,
    /// MAC of its VTEP over IPv4, as published.
    pub vtep_mac: Mac,
    /// The same of the one over IPv6.
    pub vtep_mac6: Mac,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Nothing, for this reason.
    Wait(String),
    /// The lease is as it should be; or as good as it can be, for this reason.
    Keep(Own, Option<String>),
    /// Claim one.
    Claim(Box<SubnetClaim>),
    /// Write the own one anew.
    Write {
        /// The subnet.
        key: SubnetKey,
        /// The value.
        lease: Box<Lease>,
        /// The revision that our reading of it rests on.
        over: Revision,
        /// The lease of the store to hang it on; none for one that is there without: somebody keeps it so by hand.
        on: Option<LeaseId>,
    },
    /// Write the own one under another key, and take the old one away.
    Rename {
        /// The old key.
        from: SubnetKey,
        /// The revision that our reading of it rests on.
        over: Revision,
        /// The new key; of the same IPv4 subnet.
        to: SubnetKey,
        /// The value.
        lease: Box<Lease>,
        /// The lease of the store to hang it on, as in [`Todo::Write`].
        on: Option<LeaseId>,
    },
}

/// What claiming depends on.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The network; view and registry are of it.
    pub network: NetworkName,
    /// Writes.
    pub registry: Registry,
    /// The store's view.
    pub view: View,
    /// What this host would publish.
    pub facts: watch::Receiver<Option<Facts>>,
    /// Who it is; nothing is written while another host holds its name.
    pub me: watch::Receiver<Option<Me>>,
    /// The containers.
    pub published: watch::Receiver<Arc<Published>>,
    /// The lease that the subnet hangs on.
    pub claim: Kept,
}

/// Claims and keeps, until the process ends. `own` is set once there is a subnet and from then on always holds the last
/// one had; `reason` says why there is none, or why it is not as it should be.
pub async fn run(inputs: Inputs, own: watch::Sender<Option<Own>>, reason: watch::Sender<Option<String>>) {
    let Inputs { network, registry, mut view, mut facts, mut me, mut published, mut claim } = inputs;
    let mut echo = Echo::default();
    loop {
        let snapshot: Option<Arc<Snapshot>> = view.borrow_and_update().clone();
        let mut known: Option<Facts> = facts.borrow_and_update().clone();
        // What this host has counts more than what it remembered when it started.
        if let (Some(facts), Some(now)) = (&mut known, own.borrow().as_ref()) {
            facts.preferred = Some(now.subnet);
            facts.preferred6 = now.subnet6.or(facts.preferred6);
        }
        let here = published.borrow_and_update().clone();
        let here = here.by_id.values().filter(|a| a.network.as_ref().map_or(network.is_default(), |of| *of == network));
        let containers: Addresses = here.map(|a| (a.id.clone(), a.address)).collect();
        // Further networks' subnets are not remembered but by the containers in them.
        if let Some(facts) = known.as_mut().filter(|_| !network.is_default() && own.borrow().is_none()) {
            let len = snapshot.as_ref().and_then(|s| s.network()).map(|config| config.subnet_len);
            let of = |address: &Ipv4Addr| Ipv4Net::new(*address, len?).ok().map(|subnet| subnet.trunc());
            facts.preferred = containers.values().next().and_then(of);
        }
        let who = me.borrow_and_update().clone();
        let lease = *claim.id.borrow_and_update();
        let mut retry = LONG;
        if let (Some(snapshot), Some(known), Some(who)) = (snapshot, known, who)
            && echo.heard(snapshot.revision())
        {
            // The subnet belongs to the name: whoever does not hold the one writes nothing about the other.
            let todo = match held_by_other(&snapshot, &who) {
                Some(other) => Todo::Wait(held_sentence(&other.value)),
                None => decide(&snapshot, &known, lease, &containers),
            };
            match todo {
                Todo::Wait(why) => {
                    if tell(&reason, Some(why.clone())) {
                        info!(reason = why, "no subnet yet");
                    }
                }
                Todo::Keep(now, odd) => {
                    tell(&reason, odd);
                    let before = own.borrow().clone();
                    if before.as_ref() != Some(&now) {
                        warn_if_moved(before.as_ref(), &now);
                        own.send_replace(Some(now));
                    }
                }
                Todo::Claim(new) => {
                    let written = registry.claim_subnet(&new).await;
                    retry = followed(written, &new.key, "claimed subnet", (&mut echo, &claim, &reason));
                }
                Todo::Write { key, lease, over, on } => {
                    let written = registry.write_lease(&key, &lease, Some(over), on).await;
                    retry = followed(written, &key, "wrote own lease anew", (&mut echo, &claim, &reason));
                }
                Todo::Rename { from, over, to, lease, on } => {
                    info!(
                        from = registry.layout().subnet(&from),
                        to = registry.layout().subnet(&to),
                        "own lease gets another key"
                    );
                    let written = registry.rename_lease((&from, over), &to, &lease, on).await;
                    retry = followed(written, &to, "wrote own lease anew", (&mut echo, &claim, &reason));
                }
            }
        }
        tokio::select! {
            Ok(()) = view.changed() => {}
            Ok(()) = facts.changed() => {}
            Ok(()) = me.changed() => {}
            Ok(()) = published.changed() => {}
            Ok(()) = claim.id.changed() => {}
            () = tokio::time::sleep(echo.patience().unwrap_or(retry)) => {}
        }
    }
}

/// Says what is odd, if that is not what was said last: who listens is woken. Whether it was.
fn tell(reason: &watch::Sender<Option<String>>, now: Option<String>) -> bool {
    reason.send_if_modified(|said| {
        let differs = *said != now;
        *said = now;
        differs
    })
}

/// What follows from a write. Returns when to look again although nothing has changed.
fn followed(
    written: Result<Outcome, StoreError>,
    key: &SubnetKey,
    what: &'static str,
    (echo, claim, reason): (&mut Echo, &Kept, &watch::Sender<Option<String>>),
) -> Duration {
    match written {
        Ok(Outcome::Done(revision)) => {
            info!(subnet = %key.subnet, %revision, "{what}");
            *echo = Echo::of(revision);
        }
        Ok(Outcome::Refused(revision)) => {
            debug!(subnet = %key.subnet, "somebody was faster");
            *echo = Echo::of(revision);
        }
        Err(e) => {
            if matches!(e, StoreError::LeaseGone { .. }) {
                claim.check_now();
            }
            reason.send_replace(Some(format!("claim subnet {}: {}", key.subnet, chain(&e))));
            return Duration::from_secs(1);
        }
    }
    LONG
}

/// How long to rest when nothing changes.
const LONG: Duration = Duration::from_secs(3600);

fn warn_if_moved(before: Option<&Own>, now: &Own) {
    match before {
        Some(before) if before.subnet != now.subnet => {
            warn!(before = %before.subnet, now = %now.subnet, "this host has another subnet; containers attached before keep their addresses and cannot be reached from other hosts");
        }
        Some(before) if before.subnet6 != now.subnet6 => info!(subnet6 = ?now.subnet6, "this host's IPv6 subnet"),
        Some(_) => {}
        None => info!(subnet = %now.subnet, subnet6 = ?now.subnet6, "claimed subnet"),
    }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
