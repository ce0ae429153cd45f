//! The networks besides the default one: a subnet of this host in each, and the numbers that rows know them by.
//!
//! ```text
//!   view ─┬─▶ (default network) claim ─▶ own subnet
//!         └─▶ in_network(blue) ─▶ claim ─▶ own subnet ─┐
//!             in_network(red) ─▶ claim ─▶ own subnet ──┴─▶ Known ─▶ reconcile, attach, names
//! ```
//!
//! Each has a claimer of its own, which works on a snapshot in which that network is the only one. A network that is removed
//! while containers are in it stays on this host as it was known; that is refused where it is seen in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use weft_abi::maps::{NETWORK_DEFAULT, capacity};
use weft_model::ids::NetworkName;
use weft_model::network::NetworkConfig;
use weft_model::snapshot::Snapshot;
use weft_plan::Membership;

use crate::attach::Published;
use crate::claim::{self, Own};
use crate::state::StateDir;
use crate::view::{View, chain};

/// What this host knows of further networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The number of each, whether it has a subnet there or not. Numbers outlive the process: rows in pinned maps bear them.
    pub numbers: BTreeMap<NetworkName, u32>,
    /// Those in which it has a subnet.
    pub members: BTreeMap<NetworkName, Member>,
    /// What is missing in the others, and why.
    pub problems: Vec<String>,
}

/// This host in one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The configuration.
    pub config: NetworkConfig,
    /// The own subnet.
    pub own: Own,
}

impl Known {
    /// Numbers as they were remembered.
    #[must_use]
    pub fn remembered(numbers: BTreeMap<NetworkName, u32>) -> Self {
        Self { numbers, ..Self::default() }
    }

    /// The number of an attachment's network. One that nobody knows is nobody's: it reaches nothing.
    #[must_use]
    pub fn number(&self, network: Option<&NetworkName>) -> u32 {
        network.map_or(NETWORK_DEFAULT, |name| self.numbers.get(name).copied().unwrap_or(u32::MAX))
    }

    /// The own subnet in a network.
    #[must_use]
    pub fn subnet(&self, network: &NetworkName) -> Option<Ipv4Net> {
        self.members.get(network).map(|member| member.own.subnet)
    }

    /// The networks as plans have them.
    #[must_use]
    pub fn memberships(&self) -> Vec<Membership> {
        let of = |(name, member): (&NetworkName, &Member)| {
            Some(Membership {
                name: name.clone(),
                number: *self.numbers.get(name)?,
                config: member.config.clone(),
                subnet: member.own.subnet,
                vtep_mac: member.own.vtep_mac,
                vtep_mac6: member.own.vtep_mac6,
            })
        };
        self.members.iter().filter_map(of).collect()
    }
}

/// A network that is being claimed in.
struct Running {
    config: NetworkConfig,
    view: watch::Sender<Option<Arc<Snapshot>>>,
    own: watch::Receiver<Option<Own>>,
    reason: watch::Receiver<Option<String>>,
    tasks: [JoinHandle<()>; 2],
}

impl Running {
    fn start(name: &NetworkName, config: NetworkConfig, inputs: &claim::Inputs, changed: &Arc<Notify>) -> Self {
        let (view, scoped) = watch::channel(None);
        let (own_tx, own) = watch::channel(None);
        let (reason_tx, reason) = watch::channel(None);
        let registry = inputs.registry.in_network(name);
        let inputs = claim::Inputs { registry, view: scoped, network: name.clone(), ..inputs.clone() };
        let claiming = tokio::spawn(claim::run(inputs, own_tx, reason_tx));
        let (mut of_own, mut of_reason, changed) = (own.clone(), reason.clone(), Arc::clone(changed));
        let telling = tokio::spawn(async move {
            loop {
                tokio::select! {
                    Ok(()) = of_own.changed() => {}
                    Ok(()) = of_reason.changed() => {}
                    else => return,
                }
                of_own.borrow_and_update();
                of_reason.borrow_and_update();
                changed.notify_one();
            }
        });
        info!(network = %name, vni = config.backend.vni, "joins network");
        Self { config, view, own, reason, tasks: [claiming, telling] }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Joins and leaves networks until the process ends. `inputs` are those of the default network's claim.
pub async fn run(inputs: claim::Inputs, state: Arc<StateDir>, known: watch::Sender<Arc<Known>>) {
    let mut view: View = inputs.view.clone();
    let mut published = inputs.published.clone();
    let mut numbers = known.borrow().numbers.clone();
    let mut running: BTreeMap<NetworkName, Running> = BTreeMap::new();
    let changed = Arc::new(Notify::new());
    loop {
        let snapshot = view.borrow_and_update().clone();
        let in_use = networks_of(&published.borrow_and_update());
        if let Some(snapshot) = snapshot {
            for (name, stored) in snapshot.networks() {
                match running.get_mut(name) {
                    Some(running) => running.config.clone_from(&stored.value),
                    None => drop(running.insert(name.clone(), Running::start(name, stored.value.clone(), &inputs, &changed))),
                }
            }
            running.retain(|name, _| {
                let stays = snapshot.has_network(name) || in_use.contains(name);
                if !stays {
                    info!(network = %name, "leaves network");
                }
                stays
            });
            let before = numbers.clone();
            numbers.retain(|name, _| running.contains_key(name) || in_use.contains(name));
            running.keys().for_each(|name| number(&mut numbers, name));
            if numbers != before
                && let Err(e) = state.write_networks(&numbers)
            {
                warn!(error = chain(&e), "numbers of networks not remembered");
            }
            // What is removed from the store is not forgotten by those who still are in it.
            for (name, running) in running.iter().filter(|(name, _)| snapshot.has_network(name)) {
                running.view.send_replace(Some(Arc::new(snapshot.in_network(name))));
            }
        }
        let now = Known {
            numbers: numbers.clone(),
            members: running.iter().filter_map(|(name, running)| Some((name.clone(), running.member()?))).collect(),
            problems: running.iter().filter_map(|(name, running)| running.problem(name)).collect(),
        };
        known.send_if_modified(|there| {
            let differs = **there != now;
            if differs {
                *there = Arc::new(now);
            }
            differs
        });
        tokio::select! {
            Ok(()) = view.changed() => {}
            Ok(()) = published.changed() => {}
            () = changed.notified() => {}
        }
    }
}

impl Running {
    fn member(&self) -> Option<Member> {
        Some(Member { config: self.config.clone(), own: self.own.borrow().clone()? })
    }

    fn problem(&self, name: &NetworkName) -> Option<String> {
        self.reason.borrow().as_ref().map(|why| format!("network {name}: {why}"))
    }
}

/// Networks of containers that are here.
fn networks_of(published: &Published) -> BTreeSet<NetworkName> {
    published.by_id.values().filter_map(|a| a.network.clone()).collect()
}

/// Gives a network the lowest number that is free, if there is one.
fn number(numbers: &mut BTreeMap<NetworkName, u32>, name: &NetworkName) {
    if !numbers.contains_key(name) {
        let free = (NETWORK_DEFAULT + 1..capacity::NETWORKS).find(|n| numbers.values().all(|taken| taken != n));
        numbers.extend(free.map(|n| (name.clone(), n)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_the_lowest_free_one_is_next() {
        let mut numbers = BTreeMap::new();
        for name in ["a", "b", "c"] {
            number(&mut numbers, &name.parse().unwrap());
        }
        numbers.remove(&"b".parse::<NetworkName>().unwrap());
        number(&mut numbers, &"a".parse().unwrap());
        number(&mut numbers, &"d".parse().unwrap());
        let known = Known::remembered(numbers);
        let of = |name: &str| known.number(Some(&name.parse().unwrap()));
        assert_eq!((of("a"), of("c"), of("d"), of("b"), known.number(None)), (2, 4, 3, u32::MAX, NETWORK_DEFAULT));
    }
}
