//! The networks besides the default one: a subnet of this host in each, and the numbers that rows know them by.
//!
//! ```text
//!   view ─┬─▶ (default network) claim ─▶ own subnet
//!         └─▶ in_network(blue) ─▶ claim ─▶ own subnet ─┐
//!             in_network(red) ─▶ claim ─▶ own subnet ──┴─▶ Known ─▶ reconcile, attach, names
//! ```
//!
//! Each has a claimer of its own, which works on a snapshot in which that network is the only one. A network that is removed
//! while containers are in it stays on this host as it was known; that is refused where it is seen in time. What is known
//! outlives the process: a new agent takes nothing down because it has not yet heard of a subnet that the last one had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use weft_abi::maps::{NETWORK_DEFAULT, capacity};
use weft_model::ids::NetworkName;
use weft_model::mac::Mac;
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
    /// Those in which it has a subnet, or had one when that was last known.
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
    /// Whether it was claimed, or found to be claimed, by this process; otherwise it is what the last one knew.
    pub claimed: bool,
}

impl Known {
    /// What was remembered.
    #[must_use]
    pub fn remembered(networks: BTreeMap<NetworkName, Remembered>) -> Self {
        let mut known = Self::default();
        for (name, remembered) in networks {
            known.numbers.insert(name.clone(), remembered.number());
            known.members.extend(remembered.member().map(|member| (name, member)));
        }
        known
    }

    /// What is to be remembered.
    fn to_remember(&self) -> BTreeMap<NetworkName, Remembered> {
        let of = |(name, number): (&NetworkName, &u32)| (name.clone(), Remembered::of(*number, self.members.get(name)));
        self.numbers.iter().map(of).collect()
    }

    /// The number of an attachment's network. One that nobody knows is nobody's: it reaches nothing.
    #[must_use]
    pub fn number(&self, network: Option<&NetworkName>) -> u32 {
        network.map_or(NETWORK_DEFAULT, |name| self.numbers.get(name).copied().unwrap_or(u32::MAX))
    }

    /// The own subnet in a network, once it is claimed: addresses are given from no other.
    #[must_use]
    pub fn subnet(&self, network: &NetworkName) -> Option<Ipv4Net> {
        self.members.get(network).filter(|member| member.claimed).map(|member| member.own.subnet)
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

/// A network as the state directory has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Remembered {
    /// Without a subnet, and as earlier versions wrote it: its number.
    Number(u32),
    /// With a subnet.
    Member {
        /// Its number.
        number: u32,
        /// Its configuration, as flannel has it.
        config: String,
        /// The own subnet.
        subnet: Ipv4Net,
        /// MAC of the own VTEP over IPv4.
        vtep_mac: Mac,
        /// The same of the one over IPv6.
        vtep_mac6: Mac,
    },
}

impl Remembered {
    fn of(number: u32, member: Option<&Member>) -> Self {
        let Some(Member { config, own, .. }) = member else { return Self::Number(number) };
        let (config, subnet) = (config.to_json(), own.subnet);
        Self::Member { number, config, subnet, vtep_mac: own.vtep_mac, vtep_mac6: own.vtep_mac6 }
    }

    fn number(&self) -> u32 {
        match self {
            Self::Number(number) | Self::Member { number, .. } => *number,
        }
    }

    fn member(&self) -> Option<Member> {
        let Self::Member { config, subnet, vtep_mac, vtep_mac6, .. } = self else { return None };
        let own = Own { subnet: *subnet, subnet6: None, vtep_mac: *vtep_mac, vtep_mac6: *vtep_mac6 };
        Some(Member { config: NetworkConfig::parse(config.as_bytes()).ok()?, own, claimed: false })
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
    let (mut numbers, mut members) = (known.borrow().numbers.clone(), known.borrow().members.clone());
    let mut remembered = known.borrow().to_remember();
    let mut running: BTreeMap<NetworkName, Running> = BTreeMap::new();
    let changed = Arc::new(Notify::new());
    let mut last: Option<Arc<Snapshot>> = None;
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
            numbers.retain(|name, _| running.contains_key(name) || in_use.contains(name));
            running.keys().for_each(|name| number(&mut numbers, name));
            // What is removed from the store is not forgotten by those who still are in it. And nobody is woken for nothing: what
            // a claimer says wakes this loop.
            let is_new = last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &snapshot));
            for (name, running) in running.iter().filter(|(name, _)| snapshot.has_network(name)) {
                if is_new || running.view.borrow().is_none() {
                    running.view.send_replace(Some(Arc::new(snapshot.in_network(name))));
                }
            }
            last = Some(snapshot);
        }
        // As the last agent knew them, until their claimers say otherwise.
        members.retain(|name, _| numbers.contains_key(name));
        members.extend(running.iter().filter_map(|(name, running)| Some((name.clone(), running.member()?))));
        let now = Known {
            numbers: numbers.clone(),
            members: members.clone(),
            problems: running.iter().filter_map(|(name, running)| running.problem(name)).collect(),
        };
        let to_remember = now.to_remember();
        if to_remember != remembered {
            if let Err(e) = state.write_networks(&to_remember) {
                warn!(error = chain(&e), "networks not remembered");
            }
            remembered = to_remember;
        }
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
        Some(Member { config: self.config.clone(), own: self.own.borrow().clone()?, claimed: true })
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
        let known = Known { numbers, ..Known::default() };
        let of = |name: &str| known.number(Some(&name.parse().unwrap()));
        assert_eq!((of("a"), of("c"), of("d"), of("b"), known.number(None)), (2, 4, 3, u32::MAX, NETWORK_DEFAULT));
    }

    #[test]
    fn a_new_agent_is_in_the_networks_that_the_last_one_was_in_before_it_has_claimed_anything() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), &dir.path().join("run")).unwrap();
        let config =
            NetworkConfig::parse(br#"{"Network":"10.245.0.0/16","Backend":{"Type":"vxlan","VNI":7,"Port":4790}}"#).unwrap();
        let (subnet, vtep_mac, vtep_mac6) = ("10.245.3.0/24".parse().unwrap(), Mac([2, 0, 0, 0, 0, 7]), Mac([2, 0, 0, 0, 6, 7]));
        let own = Own { subnet, subnet6: None, vtep_mac, vtep_mac6 };
        let name: NetworkName = "blue".parse().unwrap();
        let numbers = [(name.clone(), 2), ("red".parse().unwrap(), 3)].into();
        let members = [(name.clone(), Member { config: config.clone(), own, claimed: true })].into();
        let last = Known { numbers, members, problems: Vec::new() };
        state.write_networks(&last.to_remember()).unwrap();
        let known = Known::remembered(state.networks().unwrap());
        assert_eq!(known.numbers, last.numbers);
        assert_eq!(known.memberships(), [Membership { name: name.clone(), number: 2, config, subnet, vtep_mac, vtep_mac6 }]);
        assert_eq!(known.subnet(&name), None, "no address is given from it yet");
    }

    #[test]
    fn numbers_that_an_earlier_version_wrote_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), &dir.path().join("run")).unwrap();
        std::fs::write(dir.path().join("networks.json"), r#"{"blue":2}"#).unwrap();
        let known = Known::remembered(state.networks().unwrap());
        assert_eq!((known.number(Some(&"blue".parse().unwrap())), known.members.len()), (2, 0));
    }
}
