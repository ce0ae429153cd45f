//! What differs between two snapshots, as pairs of before and after. Takes time by what differs: what two snapshots share is
//! skipped.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::{Bad, Snapshot, Stored};
use crate::drain::Drain;
use crate::endpoint::{Endpoint, StoredRecord};
use crate::ids::{Namespace, NetworkName, NodeName, ServiceName};
use crate::keys::{Key, RecordPath};
use crate::network::NetworkConfig;
use crate::node::Node;
use crate::service::Service;
use crate::subnet::{Lease, SubnetKey};

/// A key with its value before and after; one of the two may be missing.
pub type Pair<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

/// An endpoint before and after; one of the two may be missing.
pub type EndpointPair<'a> = (Option<&'a Arc<Endpoint>>, Option<&'a Arc<Endpoint>>);

impl Snapshot {
    /// Endpoints that are not the same in `after`.
    pub fn endpoints_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = EndpointPair<'a>> {
        pairs(&self.endpoints, &after.endpoints).map(|(_, before, after)| (before, after))
    }

    /// Services that are not the same in `after`.
    pub fn services_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = Pair<'a, ServiceName, Arc<Stored<Service>>>> {
        pairs(&self.services, &after.services)
    }

    /// Hosts' entries that are not the same in `after`.
    pub fn nodes_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = Pair<'a, NodeName, Arc<Stored<Node>>>> {
        pairs(&self.nodes, &after.nodes)
    }

    /// Wishes that hosts be drained that are not the same in `after`.
    pub fn node_drains_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = Pair<'a, NodeName, Arc<Stored<Drain>>>> {
        pairs(&self.node_drains, &after.node_drains)
    }

    /// Leases of the network that are not the same in `after`.
    pub fn leases_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = Pair<'a, SubnetKey, Arc<Stored<Lease>>>> {
        pairs(&self.leases, &after.leases)
    }

    /// Networks besides the default one that are not the same in `after`.
    pub fn networks_until<'a>(
        &'a self,
        after: &'a Self,
    ) -> impl Iterator<Item = Pair<'a, NetworkName, Arc<Stored<NetworkConfig>>>> {
        pairs(&self.networks, &after.networks)
    }

    /// The default network's configuration, as it is stored.
    #[must_use]
    pub fn stored_network(&self) -> Option<&Stored<NetworkConfig>> {
        self.network.as_ref()
    }

    /// Records of both trees that are not the same in `after`. Of a path that stands in both, each tree tells its own.
    pub fn records_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = Pair<'a, RecordPath, Arc<StoredRecord>>> {
        pairs(&self.records, &after.records).chain(pairs(&self.down, &after.down))
    }

    /// Virtual IPs whose key is not the same in `after`.
    pub fn vips_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = &'a IpAddr> {
        pairs(&self.vips, &after.vips).map(|(vip, _, _)| vip)
    }

    /// Services and names whose leader was chosen or elected otherwise in `after`.
    pub fn leaders_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = &'a ServiceName> {
        let chosen = pairs(&self.leaders, &after.leaders).map(|(name, _, _)| name);
        chosen.chain(pairs(&self.elections, &after.elections).map(|(name, _, _)| name))
    }

    /// Values that did not parse and are not the same in `after`.
    pub fn bad_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = Pair<'a, String, Bad>> {
        pairs(&self.bad, &after.bad)
    }

    /// Namespaces that are declared in one of the two only.
    pub fn namespaces_until<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = &'a Namespace> {
        pairs(&self.namespaces, &after.namespaces)
            .filter(|(_, before, after)| before.is_none() || after.is_none())
            .map(|(k, _, _)| k)
    }

    /// Whether names mean the same in `after`: the domain is no other one.
    #[must_use]
    pub fn same_domain(&self, after: &Self) -> bool {
        self.settings.dns_domain == after.settings.dns_domain
    }

    /// Whether paths certainly stand for the same services in `after`: neither the domain nor the namespaces are others.
    #[must_use]
    pub fn same_names(&self, after: &Self) -> bool {
        self.same_domain(after) && self.namespaces_until(after).next().is_none()
    }

    /// Whether addresses certainly mean the same in `after`: nothing has touched hosts, subnets, virtual IPs, services or
    /// settings. Takes no time, if `after` was made from this one by changes.
    #[must_use]
    pub fn same_addresses(&self, after: &Self) -> bool {
        (Arc::ptr_eq(&self.settings, &after.settings) || self.settings == after.settings)
            && self.leases.ptr_eq(&after.leases)
            && self.network_leases.ptr_eq(&after.network_leases)
            && self.nodes.ptr_eq(&after.nodes)
            && self.vips.ptr_eq(&after.vips)
            && self.services.ptr_eq(&after.services)
    }

    /// What is still held true of a key whose value does not parse: when that was written.
    #[must_use]
    pub fn kept(&self, key: &str) -> Option<crate::ids::Revision> {
        match self.layout.parse(key.as_bytes()).ok()? {
            Key::NetworkConfig => self.network.as_ref().map(|s| s.modified),
            Key::Subnet(k) => self.leases.get(&k).map(|s| s.modified),
            Key::Node(k) => self.nodes.get(&k).map(|s| s.modified),
            Key::Network(k) => self.networks.get(&k).map(|s| s.modified),
            Key::Service(k) => self.services.get(&k).map(|s| s.modified),
            Key::Record(path) => self.records.get(&path).map(|s| s.modified),
            Key::Down(path) => self.down.get(&path).map(|s| s.modified),
            _ => None,
        }
    }
}

fn pairs<'a, K: Ord, V: PartialEq>(before: &'a OrdMap<K, V>, after: &'a OrdMap<K, V>) -> impl Iterator<Item = Pair<'a, K, V>> {
    before.diff(after).map(|item| match item {
        DiffItem::Add(key, value) => (key, None, Some(value)),
        DiffItem::Update { old, new } => (new.0, Some(old.1), Some(new.1)),
        DiffItem::Remove(key, value) => (key, Some(value), None),
    })
}
