//! The kernel path as a whole: all tables, and the order of actions between them.
//!
//! Needed things first, removals last:
//!
//! | | action | because |
//! |---|---|---|
//! | 1 | settings of the uplink, then host-wide ones | `accept_ra` before IPv6 forwarding, which ends what advertisements brought |
//! | 2 | devices: made anew, added, changed | everything else stands on them |
//! | 3 | settings of devices | they are there only with the device |
//! | 4 | addresses | |
//! | 5 | forwarding entries, neighbours | what leads to a row comes after it: a packet on its way finds the next step |
//! | 6 | routes: `unreachable`, then the others | a packet leaks nowhere in between |
//! | 7 | removals: routes, neighbours, forwarding entries, addresses | |
//! | 8 | devices removed; what stood on them goes with them | |
//!
//! Every action can fail, and the agent can stop, at any point: the next diff starts from what is really there.

use std::collections::BTreeSet;
use std::fmt;

use weft_model::cluster::ClusterConfig;

use crate::addresses::{self, Address};
use crate::diff::{Row, Step, Table, diff as steps};
use crate::host::{Host, LOOPBACK};
use crate::links::{self, Link};
use crate::neighbors::{self, Forward, Neighbor};
use crate::peers::Peers;
use crate::routes::{self, Route, Via};
use crate::sysctls::{self, Sysctl};

/// All rows of the kernel path: those that should be, or those of ours that are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Settings; of those that are, only those asked for.
    pub sysctls: Table<Sysctl>,
    /// Devices.
    pub links: Table<Link>,
    /// Addresses.
    pub addresses: Table<Address>,
    /// Neighbours.
    pub neighbors: Table<Neighbor>,
    /// Forwarding entries of VXLAN devices.
    pub forwards: Table<Forward>,
    /// Routes.
    pub routes: Table<Route>,
}

/// One change of the kernel's tables. Prints as `netctl plan` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set a setting; never a removal.
    Sysctl(Step<Sysctl>),
    /// Make, change or remove a device.
    Link(Step<Link>),
    /// Add or remove an address.
    Address(Step<Address>),
    /// Add, change or remove a neighbour.
    Neighbor(Step<Neighbor>),
    /// Add, change or remove a forwarding entry.
    Forward(Step<Forward>),
    /// Add, change or remove a route.
    Route(Step<Route>),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(Step::Change { from, to }) => write!(f, "set {to}, was {}", from.value),
            Self::Sysctl(step) => write!(f, "set {}", step.row()),
            Self::Link(step) => step.fmt(f),
            Self::Address(step) => step.fmt(f),
            Self::Neighbor(step) => step.fmt(f),
            Self::Forward(step) => step.fmt(f),
            Self::Route(step) => step.fmt(f),
        }
    }
}

/// What `host` should have.
#[must_use]
pub fn desired(cluster: &ClusterConfig, host: &Host, peers: &Peers) -> Rows {
    let mut rows = Rows {
        sysctls: sysctls::desired(host, peers),
        links: links::desired(host, peers),
        addresses: addresses::desired(host, peers),
        neighbors: neighbors::desired(host, peers),
        forwards: neighbors::desired_forwards(host, peers),
        routes: routes::desired(cluster, host, peers),
    };
    for of in &host.networks {
        rows.add(desired(cluster, &host.in_network(of), &peers.in_network(of)));
    }
    rows
}

impl Rows {
    /// Adds the rows of a further network. Networks have nothing in common; where two should have, the first has it.
    fn add(&mut self, other: Self) {
        fn add<R: Row + Clone>(to: &mut Table<R>, from: &Table<R>) {
            from.iter().for_each(|row| to.insert_new(row.clone()));
        }
        add(&mut self.sysctls, &other.sysctls);
        add(&mut self.links, &other.links);
        add(&mut self.addresses, &other.addresses);
        add(&mut self.neighbors, &other.neighbors);
        add(&mut self.forwards, &other.forwards);
        add(&mut self.routes, &other.routes);
    }
}

/// The actions from `actual` to `desired`, in the order of the module's table.
///
/// Rows on a device that neither is there nor is being made (a veth pair that attach has not made yet) are left for the next
/// time.
#[must_use]
pub fn diff(desired: &Rows, actual: &Rows) -> Vec<Action> {
    let links = links::diff(&desired.links, &actual.links);
    let after = Devices::after(&links, actual);
    let desired = after.what_can_be(desired);
    let actual = after.what_stays(actual, &desired);
    let (leaving, links): (Vec<_>, Vec<_>) = links.into_iter().partition(|step| step.is_removal() && !after.replaced(step));

    let settings = steps(&desired.sysctls, &actual.sysctls).into_iter().filter(|step| match step {
        Step::Add(to) => to.may_replace(None),
        Step::Change { from, to } => to.may_replace(Some(&from.value)),
        Step::Remove(_) => false,
    });
    let (of_devices, mut of_host): (Vec<_>, Vec<_>) = settings.partition(|step| step.row().device().is_some_and(is_ours));
    of_host.sort_by_key(|step| step.row().device().is_none());
    let (no_addresses, addresses) = split(steps(&desired.addresses, &actual.addresses));
    let (no_neighbors, neighbors) = split(steps(&desired.neighbors, &actual.neighbors));
    let (no_forwards, forwards) = split(steps(&desired.forwards, &actual.forwards));
    let (no_routes, routes) = split(steps(&desired.routes, &actual.routes));
    let (unreachable, routes): (Vec<_>, Vec<_>) = routes.into_iter().partition(|step| step.row().via == Via::Unreachable);

    let mut actions: Vec<Action> = of_host.into_iter().map(Action::Sysctl).collect();
    actions.extend(links.into_iter().map(Action::Link));
    actions.extend(of_devices.into_iter().map(Action::Sysctl));
    actions.extend(addresses.into_iter().map(Action::Address));
    actions.extend(forwards.into_iter().map(Action::Forward));
    actions.extend(neighbors.into_iter().map(Action::Neighbor));
    actions.extend(unreachable.into_iter().chain(routes).chain(no_routes).map(Action::Route));
    actions.extend(no_neighbors.into_iter().map(Action::Neighbor));
    actions.extend(no_forwards.into_iter().map(Action::Forward));
    actions.extend(no_addresses.into_iter().map(Action::Address));
    actions.extend(leaving.into_iter().map(Action::Link));
    actions
}

/// Whether a device is made, by a plan or by attach.
fn is_ours(device: &str) -> bool {
    links::is_vxlan_name(device) || links::is_veth_name(device) || device == LOOPBACK
}

/// Steps that take something away, and the others.
fn split<R>(steps: Vec<Step<R>>) -> (Vec<Step<R>>, Vec<Step<R>>) {
    steps.into_iter().partition(Step::is_removal)
}

/// What the steps for devices do to the devices, and with them to what stands on them.
#[derive(Default)]
struct Devices {
    /// Those that will be there, and up.
    there: BTreeSet<String>,
    /// Those that are removed, and with them all their rows.
    removed: BTreeSet<String>,
    /// Those among them that are made anew.
    added: BTreeSet<String>,
    /// Those that get another Ethernet address, whereupon the kernel forgets their neighbours, permanent ones too (seen on
    /// 6.18; `neigh_changeaddr`).
    readdressed: BTreeSet<String>,
}

impl Devices {
    fn after(links: &[Step<Link>], actual: &Rows) -> Self {
        let mut devices = Self::default();
        devices.there.insert(LOOPBACK.to_owned());
        devices.there.extend(actual.links.iter().map(|link| link.name.clone()));
        for step in links {
            let name = &step.row().name;
            match step {
                Step::Add(_) => {
                    devices.there.insert(name.clone());
                    devices.added.insert(name.clone());
                }
                Step::Remove(_) => {
                    devices.there.remove(name);
                    devices.removed.insert(name.clone());
                }
                Step::Change { from, to } if from.mac() != to.mac() => drop(devices.readdressed.insert(name.clone())),
                Step::Change { .. } => {}
            }
        }
        devices
    }

    /// Devices that are not ours to make, such as the uplink, are taken to be there.
    fn has(&self, device: &str) -> bool {
        self.there.contains(device) || !is_ours(device)
    }

    /// Whether the device of a step is removed only to be made anew.
    fn replaced(&self, step: &Step<Link>) -> bool {
        self.added.contains(&step.row().name)
    }

    /// The desired rows that have a device to stand on.
    fn what_can_be(&self, desired: &Rows) -> Rows {
        let mut rows = desired.clone();
        rows.addresses.retain(|row| self.has(&row.device));
        rows.neighbors.retain(|row| self.has(&row.device));
        rows.forwards.retain(|row| self.has(&row.device));
        rows.routes.retain(|row| row.via.device().is_none_or(|device| self.has(device)));
        rows.sysctls.retain(|row| row.device().is_none_or(|device| self.has(device)));
        rows
    }

    /// The rows that outlive the steps for devices. On a device that goes for good the rows are not removed one by one,
    /// unless a desired row takes their place.
    fn what_stays(&self, actual: &Rows, desired: &Rows) -> Rows {
        let mut rows = actual.clone();
        let stays = |device: &str| !self.removed.contains(device);
        // A route's key does not name its device: one on a device that goes at the end is still in the way of its successor.
        let in_the_way = |row: &Route, device: &str| !self.added.contains(device) && desired.routes.contains(&row.key());
        rows.addresses.retain(|row| stays(&row.device));
        rows.neighbors.retain(|row| stays(&row.device) && !self.readdressed.contains(&row.device));
        rows.forwards.retain(|row| stays(&row.device));
        rows.routes.retain(|row| row.via.device().is_none_or(|device| stays(device) || in_the_way(row, device)));
        rows.sysctls.retain(|row| row.device().is_none_or(stays));
        rows
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
