//! Objects as the API shows them, made of a snapshot alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_api::{Network, NodeView};
use weft_model::ids::{NetworkName, Revision};
use weft_model::snapshot::Snapshot;
use weft_model::subnet::Lease;

pub use super::endpoints::endpoint_view;
pub use super::registrations::view_of_leader;
pub use super::services::service_view;

/// Whose lease it is, as hosts are named here: one that runs flannel by its tunnel address.
#[must_use]
pub fn holder(lease: &Lease) -> String {
    lease.node().map_or_else(|| lease.address().to_string(), ToString::to_string)
}

/// The hosts: those with an entry, and those with a lease.
#[must_use]
pub fn node_names(snapshot: &Snapshot) -> BTreeSet<String> {
    let leases = snapshot.leases().filter(|(_, lease)| !lease.value.is_placeholder());
    snapshot.nodes().map(|(name, _)| name.to_string()).chain(leases.map(|(_, lease)| holder(&lease.value))).collect()
}

/// A host by what the store says of it: without its endpoints' number, and not as the host that is asked.
#[must_use]
pub fn node_view(snapshot: &Snapshot, name: &str) -> Option<NodeView> {
    let entry = name.parse().ok().and_then(|name| snapshot.node(&name)).map(|stored| &stored.value);
    let leases = snapshot.leases().filter(|(_, lease)| !lease.value.is_placeholder() && holder(&lease.value) == name);
    let lease = leases.last();
    if entry.is_none() && lease.is_none() {
        return None;
    }
    let drained = name.parse().ok().and_then(|name| snapshot.node_drain(&name));
    let announced = entry.and_then(|node| node.public_ip.map(IpAddr::V4).or(node.public_ipv6.map(IpAddr::V6)));
    Some(NodeView {
        node: name.to_owned(),
        // A flanneld keeps no entry: whether it lives is not known.
        alive: if entry.is_some() { Some(true) } else { lease.and_then(|(_, lease)| lease.value.node()).map(|_| false) },
        subnet: lease.map(|(key, _)| key.subnet),
        public_ip: announced.or(lease.map(|(_, lease)| lease.value.address())),
        version: entry.map(|node| node.version.clone()),
        capabilities: entry.map(|node| node.capabilities.clone()).unwrap_or_default(),
        since: entry.map(|node| node.since.clone()),
        endpoints: 0,
        drained: drained.is_some(),
        this: false,
    })
}

/// When a host's entry or lease was last written.
#[must_use]
pub fn node_modified(snapshot: &Snapshot, name: &str) -> Revision {
    let entry = name.parse().ok().and_then(|name| snapshot.node(&name)).map(|stored| stored.modified);
    let leases = snapshot.leases().filter(|(_, lease)| !lease.value.is_placeholder() && holder(&lease.value) == name);
    leases.map(|(_, lease)| lease.modified).chain(entry).max().unwrap_or_default()
}

/// A network by its name.
#[must_use]
pub fn network_named(snapshot: &Snapshot, name: &NetworkName) -> Option<Network> {
    if name.is_default() {
        return snapshot.network().map(|config| super::cluster::network_view(config, snapshot));
    }
    snapshot.network_named(name).map(|stored| super::networks::named(name, &stored.value, snapshot))
}
