//! The complete view of the cluster at one revision.
//!
//! A [`Snapshot`] is made from a complete listing and nothing else, so a half-read store cannot be acted on. Applying changes
//! gives the next one; its maps are persistent (they share what did not change), so a copy costs nothing and readers keep
//! theirs as long as they like. A value that does not parse is kept out, remembered in [`Snapshot::bad`], and hurts only
//! itself: what stood under that key before stays, because unknown is never gone.
//!
//! ```text
//!   Listing ─▶ Snapshot::complete ─▶ Snapshot ── apply(changes) ─▶ Snapshot ─▶ …
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::cluster::ClusterConfig;
use crate::drain::Drain;
use crate::endpoint::{Endpoint, EndpointKey, StoredRecord};
use crate::ids::{LeaseId, Namespace, NetworkName, NodeName, Revision, ServiceLabel, ServiceName};
use crate::keys::{Key, Layout, Place, RecordPath, RecordTree};
use crate::leader::{Choice, Election};
use crate::network::NetworkConfig;
use crate::node::Node;
use crate::record::{Kind, Record};
use crate::reservation::Reservation;
use crate::service::{Service, VipOwner};
use crate::stored::{Change, Entry};
use crate::subnet::{Lease, SubnetKey};

pub mod diff;
mod drains;
mod loss;
mod networks;
pub mod owners;
mod trees;

use loss::Losses;

/// A value with what the store says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// The value.
    pub value: T,
    /// The lease its key hangs on.
    pub lease: Option<LeaseId>,
    /// When its key was created.
    pub created: Revision,
    /// When its key was last written.
    pub modified: Revision,
}

/// A value that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// What is wrong with it.
    pub why: String,
    /// When it was written: who replaces or deletes it compares this.
    pub modified: Revision,
}

/// The cluster at one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    layout: Arc<Layout>,
    revision: Revision,
    network: Option<Stored<NetworkConfig>>,
    cluster: Option<Stored<ClusterConfig>>,
    /// What holds: the stored settings, or the defaults.
    settings: Arc<ClusterConfig>,
    leases: OrdMap<SubnetKey, Arc<Stored<Lease>>>,
    nodes: OrdMap<NodeName, Arc<Stored<Node>>>,
    /// The declared ones, and when each was.
    namespaces: OrdMap<Namespace, Revision>,
    networks: OrdMap<NetworkName, Arc<Stored<NetworkConfig>>>,
    network_leases: OrdMap<(NetworkName, SubnetKey), Arc<Stored<Lease>>>,
    reservations: OrdMap<(NetworkName, Ipv4Net), Arc<Stored<Reservation>>>,
    services: OrdMap<ServiceName, Arc<Stored<Service>>>,
    vips: OrdMap<IpAddr, Arc<Stored<VipOwner>>>,
    leaders: OrdMap<ServiceName, Arc<Stored<Choice>>>,
    elections: OrdMap<ServiceName, Arc<Stored<Election>>>,
    records: OrdMap<RecordPath, Arc<StoredRecord>>,
    /// Those that take no traffic.
    down: OrdMap<RecordPath, Arc<StoredRecord>>,
    node_drains: OrdMap<NodeName, Arc<Stored<Drain>>>,
    endpoint_drains: OrdMap<RecordPath, Arc<Stored<Drain>>>,
    endpoints: OrdMap<EndpointKey, Arc<Endpoint>>,
    bad: OrdMap<String, Bad>,
    losses: Losses,
}

impl Snapshot {
    /// The view that a complete listing at `revision` gives. With `before`, what is missing now although its host is
    /// missing too counts as lost, as it would have if the changes had been seen one by one.
    #[must_use]
    pub fn complete(layout: Arc<Layout>, revision: Revision, entries: Vec<Entry>, before: Option<&Self>) -> Self {
        let mut new = Self {
            layout,
            revision,
            network: None,
            cluster: None,
            settings: Arc::default(),
            leases: OrdMap::new(),
            nodes: OrdMap::new(),
            namespaces: OrdMap::new(),
            networks: OrdMap::new(),
            network_leases: OrdMap::new(),
            reservations: OrdMap::new(),
            services: OrdMap::new(),
            vips: OrdMap::new(),
            leaders: OrdMap::new(),
            elections: OrdMap::new(),
            records: OrdMap::new(),
            down: OrdMap::new(),
            node_drains: OrdMap::new(),
            endpoint_drains: OrdMap::new(),
            endpoints: OrdMap::new(),
            bad: OrdMap::new(),
            losses: Losses::default(),
        };
        for entry in entries {
            new.keep_if_bad(before, &entry.key);
            new.put(entry);
        }
        if let Some(before) = before {
            new.lose_since(before);
        }
        new
    }

    /// What a listing does not tell: which of the missing records are lost.
    fn lose_since(&mut self, before: &Self) {
        for (key, lease) in &before.leases {
            if let Some(node) = lease.value.node()
                && self.leases.get(key).and_then(|now| now.value.node()) != Some(node)
            {
                self.losses.lease_ended(node, self.revision);
            }
        }
        let known: BTreeMap<&Place, Revision> = before.losses.lost().map(|(_, at, place)| (place, at)).collect();
        for (place, stored) in before.places() {
            let Some(node) = owner(&stored.record).filter(|n| !self.nodes.contains_key(*n)) else {
                continue;
            };
            let at = known.get(&place).copied().unwrap_or(self.revision);
            // What has been moved meanwhile stands in the other tree.
            let stands = self.at(&place).is_some() || self.at(&place.opposite()).is_some();
            if !stands && self.losses.lose(place.clone(), node, at) {
                self.set_record(place, Some(StoredRecord { lost: true, ..stored.clone() }));
            }
        }
    }

    /// Before a listing's value is read: if it will not parse, what the last snapshot knew under the key stays.
    fn keep_if_bad(&mut self, before: Option<&Self>, key: &[u8]) {
        let Some(before) = before else { return };
        match self.layout.parse(key) {
            Ok(Key::NetworkConfig) => self.network.clone_from(&before.network),
            Ok(Key::ClusterConfig) => self.set_cluster(before.cluster.clone()),
            Ok(Key::Subnet(k)) => copy(&mut self.leases, &before.leases, &k),
            Ok(Key::Node(k)) => copy(&mut self.nodes, &before.nodes, &k),
            Ok(Key::Network(k)) => copy(&mut self.networks, &before.networks, &k),
            Ok(Key::NetworkSubnet(network, k)) => copy(&mut self.network_leases, &before.network_leases, &(network, k)),
            Ok(Key::Reservation(network, subnet)) => {
                copy(&mut self.reservations, &before.reservations, &(network, subnet));
            }
            Ok(Key::Service(k)) => copy(&mut self.services, &before.services, &k),
            Ok(Key::Vip(k)) => copy(&mut self.vips, &before.vips, &k),
            Ok(Key::Leader(k)) => copy(&mut self.leaders, &before.leaders, &k),
            Ok(Key::Election(k)) => copy(&mut self.elections, &before.elections, &k),
            Ok(Key::Record(path)) => self.keep_record(before, Place { path, tree: RecordTree::Served }),
            Ok(Key::Down(path)) => self.keep_record(before, Place { path, tree: RecordTree::Down }),
            Ok(Key::DrainNode(k)) => copy(&mut self.node_drains, &before.node_drains, &k),
            Ok(Key::DrainEndpoint(k)) => copy(&mut self.endpoint_drains, &before.endpoint_drains, &k),
            Ok(Key::Namespace(_) | Key::Other) | Err(_) => {}
        }
    }

    /// Takes in changes that reach `revision`.
    pub fn apply(&mut self, revision: Revision, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(entry) => self.put(entry),
                Change::Delete { key, revision } => self.delete(&key, revision),
            }
        }
        self.revision = self.revision.max(revision);
        self.losses.forget(self.revision);
    }

    fn put(&mut self, entry: Entry) {
        let Entry { key, value, lease, created, modified } = entry;
        let text = String::from_utf8_lossy(&key).into_owned();
        let parsed = match self.layout.parse(&key) {
            Ok(parsed) => parsed,
            Err(bad) => {
                self.bad.insert(text, Bad { why: bad.why, modified });
                return;
            }
        };
        let result = match parsed {
            Key::NetworkConfig => NetworkConfig::parse(&value)
                .map(|value| self.network = Some(Stored { value, lease, created, modified }))
                .map_err(|e| e.to_string()),
            Key::ClusterConfig => {
                ClusterConfig::parse(&value).map(|value| self.set_cluster(Some(Stored { value, lease, created, modified })))
            }
            Key::Subnet(k) => {
                Lease::parse(&value).map(|value| self.set_lease(k, modified, Some(Stored { value, lease, created, modified })))
            }
            Key::Node(k) => crate::parse_object::<Node>(&value, "no node entry").and_then(|value| {
                if value.node != k {
                    return Err(format!("the entry names node {}", value.node));
                }
                self.put_node(k, Stored { value, lease, created, modified });
                Ok(())
            }),
            Key::Namespace(k) => {
                self.namespaces.insert(k, modified);
                Ok(())
            }
            Key::Network(k) => NetworkConfig::parse(&value)
                .map(|value| drop(self.networks.insert(k, Arc::new(Stored { value, lease, created, modified }))))
                .map_err(|e| e.to_string()),
            Key::NetworkSubnet(network, k) => Lease::parse(&value).map(|value| {
                drop(self.network_leases.insert((network, k), Arc::new(Stored { value, lease, created, modified })));
            }),
            Key::Reservation(network, subnet) => crate::parse_object(&value, "no reservation").map(|value| {
                drop(self.reservations.insert((network, subnet), Arc::new(Stored { value, lease, created, modified })));
            }),
            Key::Service(k) => Service::parse(&value)
                .map(|value| drop(self.services.insert(k, Arc::new(Stored { value, lease, created, modified })))),
            Key::Vip(k) => crate::parse_object(&value, "no owner of a virtual IP")
                .map(|value| drop(self.vips.insert(k, Arc::new(Stored { value, lease, created, modified })))),
            Key::Leader(k) => crate::parse_object(&value, "no choice of a leader")
                .map(|value| drop(self.leaders.insert(k, Arc::new(Stored { value, lease, created, modified })))),
            Key::Election(k) => crate::parse_object(&value, "no election")
                .map(|value| drop(self.elections.insert(k, Arc::new(Stored { value, lease, created, modified })))),
            Key::Record(path) => self.put_record(Place { path, tree: RecordTree::Served }, &value, lease, (created, modified)),
            Key::Down(path) => self.put_record(Place { path, tree: RecordTree::Down }, &value, lease, (created, modified)),
            Key::DrainNode(k) => Drain::parse(&value)
                .map(|value| drop(self.node_drains.insert(k, Arc::new(Stored { value, lease, created, modified })))),
            Key::DrainEndpoint(k) => Drain::parse(&value)
                .map(|value| drop(self.endpoint_drains.insert(k, Arc::new(Stored { value, lease, created, modified })))),
            Key::Other => Ok(()),
        };
        match result {
            Ok(()) => drop(self.bad.remove(&text)),
            Err(why) => drop(self.bad.insert(text, Bad { why, modified })),
        }
    }

    fn delete(&mut self, key: &[u8], revision: Revision) {
        self.bad.remove(String::from_utf8_lossy(key).as_ref());
        match self.layout.parse(key) {
            Ok(Key::NetworkConfig) => self.network = None,
            Ok(Key::ClusterConfig) => self.set_cluster(None),
            Ok(Key::Subnet(k)) => self.set_lease(k, revision, None),
            Ok(Key::Namespace(k)) => drop(self.namespaces.remove(&k)),
            Ok(Key::Network(k)) => drop(self.networks.remove(&k)),
            Ok(Key::NetworkSubnet(network, k)) => drop(self.network_leases.remove(&(network, k))),
            Ok(Key::Reservation(network, subnet)) => drop(self.reservations.remove(&(network, subnet))),
            Ok(Key::Service(k)) => drop(self.services.remove(&k)),
            Ok(Key::Vip(k)) => drop(self.vips.remove(&k)),
            Ok(Key::Leader(k)) => drop(self.leaders.remove(&k)),
            Ok(Key::Election(k)) => drop(self.elections.remove(&k)),
            Ok(Key::Record(path)) => self.delete_record(Place { path, tree: RecordTree::Served }, revision),
            Ok(Key::Down(path)) => self.delete_record(Place { path, tree: RecordTree::Down }, revision),
            Ok(Key::DrainNode(k)) => drop(self.node_drains.remove(&k)),
            Ok(Key::DrainEndpoint(k)) => drop(self.endpoint_drains.remove(&k)),
            Ok(Key::Node(k)) => self.delete_node(k, revision),
            Ok(Key::Other) | Err(_) => {}
        }
    }

    fn keep_record(&mut self, before: &Self, place: Place) {
        if let Some(stored) = before.at(&place).filter(|s| !s.lost) {
            self.set_record(place, Some(stored.clone()));
        }
    }

    fn put_record(
        &mut self,
        place: Place,
        value: &[u8],
        lease: Option<LeaseId>,
        (created, modified): (Revision, Revision),
    ) -> Result<(), String> {
        let record = Record::parse(value)?;
        // What was lost at this path is spoken for again, in whichever tree: but the other one's watch may be ahead.
        for place in [&place.opposite(), &place] {
            let lost_of = self.at(place).filter(|s| s.lost).and_then(|s| owner(&s.record).cloned());
            if self.losses.record_is_back(place, lost_of.as_ref(), modified) {
                self.set_record(place.clone(), None);
            }
        }
        let tree = place.tree;
        self.set_record(place, Some(StoredRecord { record, lease, created, modified, lost: false, tree }));
        Ok(())
    }

    fn delete_record(&mut self, place: Place, revision: Revision) {
        let Some(stored) = self.at(&place).filter(|s| !s.lost).cloned() else {
            return;
        };
        let lost = owner(&stored.record).is_some_and(|n| self.losses.record_ended(place.clone(), n, &stored, revision));
        self.set_record(place, lost.then_some(StoredRecord { lost: true, ..stored }));
    }

    fn delete_node(&mut self, node: NodeName, revision: Revision) {
        self.nodes.remove(&node);
        for (place, record) in self.losses.node_ended(&node, revision) {
            self.set_record(place, Some(StoredRecord { lost: true, ..record }));
        }
    }

    /// A host that is back speaks for itself: what it does not register again is gone.
    fn put_node(&mut self, name: NodeName, node: Stored<Node>) {
        for place in self.losses.node_is_back(&name) {
            self.set_record(place, None);
        }
        self.nodes.insert(name, Arc::new(node));
    }

    /// Sets or removes a lease. Once it is not a host's any more, the addresses of its lost records may be another's.
    fn set_lease(&mut self, key: SubnetKey, revision: Revision, lease: Option<Stored<Lease>>) {
        let now = lease.as_ref().and_then(|l| l.value.node()).cloned();
        let before = match lease {
            Some(lease) => self.leases.insert(key, Arc::new(lease)),
            None => self.leases.remove(&key),
        };
        let Some(before) = before.as_ref().and_then(|l| l.value.node()).filter(|node| Some(*node) != now.as_ref()) else {
            return;
        };
        for place in self.losses.lease_ended(before, revision) {
            self.set_record(place, None);
        }
    }

    fn set_cluster(&mut self, cluster: Option<Stored<ClusterConfig>>) {
        self.settings = Arc::new(cluster.as_ref().map(|s| s.value.clone()).unwrap_or_default());
        self.cluster = cluster;
    }
}

/// What it tells.
impl Snapshot {
    /// The revision it stands at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The layout it was read by.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The network's configuration, if there is one that parses.
    #[must_use]
    pub fn network(&self) -> Option<&NetworkConfig> {
        self.network.as_ref().map(|s| &s.value)
    }

    /// Settings equal everywhere; the defaults where none are stored.
    #[must_use]
    pub fn cluster(&self) -> Arc<ClusterConfig> {
        Arc::clone(&self.settings)
    }

    /// The stored settings with their revision, if there are any.
    #[must_use]
    pub fn stored_cluster(&self) -> Option<&Stored<ClusterConfig>> {
        self.cluster.as_ref()
    }

    /// The hosts' subnets, of both trees. One subnet may stand in both: who claims looks, but not everybody who writes there does.
    pub fn leases(&self) -> impl Iterator<Item = (&SubnetKey, &Stored<Lease>)> {
        self.leases.iter().map(|(k, v)| (k, &**v))
    }

    /// The lease that a node owns. Where it owns several (it never makes a second), the lowest.
    #[must_use]
    pub fn lease_of(&self, node: &NodeName) -> Option<(&SubnetKey, &Stored<Lease>)> {
        self.leases().find(|(_, lease)| lease.value.node() == Some(node) && !lease.value.is_placeholder())
    }

    /// The subnets that are kept for hosts, in the order of network and subnet.
    pub fn reservations(&self) -> impl Iterator<Item = (&NetworkName, Ipv4Net, &Stored<Reservation>)> {
        self.reservations.iter().map(|((network, subnet), stored)| (network, *subnet, &**stored))
    }

    /// The subnet that is kept for a node. Where there are several, the one that was reserved first.
    #[must_use]
    pub fn reservation_of(&self, network: &NetworkName, node: &NodeName) -> Option<(Ipv4Net, &Stored<Reservation>)> {
        let of_node =
            |(of, _, stored): &(&NetworkName, Ipv4Net, &Stored<Reservation>)| *of == network && stored.value.node == *node;
        self.reservations().filter(of_node).map(|(_, subnet, stored)| (subnet, stored)).min_by_key(|(_, stored)| stored.created)
    }

    /// Who has the subnet that overlaps `subnet`, if anyone.
    #[must_use]
    pub fn taken(&self, subnet: Ipv4Net) -> Option<&SubnetKey> {
        self.leases.keys().find(|k| k.subnet.contains(&subnet) || subnet.contains(&k.subnet))
    }

    /// Who has the IPv6 subnet that overlaps `subnet`, if anyone.
    #[must_use]
    pub fn taken6(&self, subnet: Ipv6Net) -> Option<&SubnetKey> {
        self.leases.keys().find(|k| k.v6.is_some_and(|v6| v6.contains(&subnet) || subnet.contains(&v6)))
    }

    /// The hosts whose agents live.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Stored<Node>)> {
        self.nodes.iter().map(|(k, v)| (k, &**v))
    }

    /// One host.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&Stored<Node>> {
        self.nodes.get(name).map(|n| &**n)
    }

    /// The declared namespaces; `default` always is.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.keys()
    }

    /// When a namespace was declared, if it was.
    #[must_use]
    pub fn namespace_declared(&self, namespace: &Namespace) -> Option<Revision> {
        self.namespaces.get(namespace).copied()
    }

    /// Whether `namespace` is declared.
    #[must_use]
    pub fn has_namespace(&self, namespace: &Namespace) -> bool {
        namespace.is_default() || self.namespaces.contains_key(namespace)
    }

    /// The services.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Stored<Service>)> {
        self.services.iter().map(|(k, v)| (k, &**v))
    }

    /// One service.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Stored<Service>> {
        self.services.get(name).map(|s| &**s)
    }

    /// Who owns which virtual IP.
    pub fn vips(&self) -> impl Iterator<Item = (&IpAddr, &Stored<VipOwner>)> {
        self.vips.iter().map(|(k, v)| (k, &**v))
    }

    /// Who the key of a virtual IP names.
    #[must_use]
    pub fn vip_owner(&self, vip: IpAddr) -> Option<&ServiceName> {
        self.vips.get(&vip).map(|owner| &owner.value.service)
    }

    /// Who was chosen by hand to lead a service or a name.
    #[must_use]
    pub fn leader_choice(&self, of: &ServiceName) -> Option<&Stored<Choice>> {
        self.leaders.get(of).map(|c| &**c)
    }

    /// The services and names for which somebody was chosen by hand.
    pub fn leader_choices(&self) -> impl Iterator<Item = (&ServiceName, &Stored<Choice>)> {
        self.leaders.iter().map(|(k, v)| (k, &**v))
    }

    /// Who holds the lead of a name.
    #[must_use]
    pub fn election(&self, of: &ServiceName) -> Option<&Stored<Election>> {
        self.elections.get(of).map(|e| &**e)
    }

    /// The names whose lead is held, and by whom.
    pub fn elections(&self) -> impl Iterator<Item = (&ServiceName, &Stored<Election>)> {
        self.elections.iter().map(|(k, v)| (k, &**v))
    }

    /// One endpoint.
    #[must_use]
    pub fn endpoint(&self, key: &EndpointKey) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(key)
    }

    /// All endpoints, by path.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// The endpoints at or below `path`.
    pub fn endpoints_below<'a>(&'a self, path: &'a RecordPath) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        let start = (path.clone(), false);
        self.endpoints
            .range(start..)
            .take_while(|((at, _), _)| at.as_str().starts_with(path.as_str()))
            .filter(|((at, _), _)| path.covers(at))
            .map(|(_, endpoint)| endpoint)
    }

    /// Values that do not parse, by key.
    pub fn bad(&self) -> impl Iterator<Item = (&String, &Bad)> {
        self.bad.iter()
    }

    /// The value under `key`, if it does not parse.
    #[must_use]
    pub fn bad_at(&self, key: &str) -> Option<&Bad> {
        self.bad.get(key)
    }

    /// Where a service's own name stands.
    #[must_use]
    pub fn path_of(&self, service: &ServiceName) -> RecordPath {
        let cluster = &self.settings;
        let namespace = Some(service.namespace.as_str()).filter(|_| !service.namespace.is_default());
        RecordPath::from_labels(cluster.domain_labels().chain(namespace).chain([service.name.as_str()]))
    }

    /// The service whose name the path is at or below, whether it is declared or not; none outside of the domain.
    #[must_use]
    pub fn service_at(&self, path: &RecordPath) -> Option<ServiceName> {
        let cluster = &self.settings;
        let mut labels = path.labels();
        for label in cluster.domain_labels() {
            if labels.next() != Some(label) {
                return None;
            }
        }
        let first = labels.next()?;
        let namespace = first.parse::<Namespace>().ok().filter(|ns| self.namespaces.contains_key(ns));
        let (namespace, name) = match namespace {
            Some(namespace) => (namespace, labels.next()?),
            None => (Namespace::default_namespace(), first),
        };
        let name: ServiceLabel = name.parse().ok()?;
        Some(ServiceName { namespace, name })
    }

    /// The endpoints that a service stands for, whatever their state: those with its labels, else those below its name. One
    /// that stands for a name has none.
    #[must_use]
    pub fn endpoints_of(&self, name: &ServiceName, service: &Service) -> Vec<Arc<Endpoint>> {
        let is_of = |e: &&Arc<Endpoint>| self.is_endpoint_of(e, name, service);
        if service.has_selector() {
            return self.endpoints().filter(is_of).cloned().collect();
        }
        let path = self.path_of(name);
        self.endpoints_below(&path).filter(is_of).cloned().collect()
    }

    /// Whether a service stands for this endpoint: the rule of [`Snapshot::endpoints_of`], for one of them.
    #[must_use]
    pub fn is_endpoint_of(&self, endpoint: &Endpoint, name: &ServiceName, service: &Service) -> bool {
        if endpoint.kind != Kind::Service || endpoint.network != service.network || service.external_name.is_some() {
            return false;
        }
        if service.has_selector() {
            return service.selects(&endpoint.labels)
                && self.service_at(&endpoint.path).is_some_and(|at| at.namespace == name.namespace);
        }
        self.service_at(&endpoint.path).as_ref() == Some(name)
    }
}

/// The host that writes the record and whose entry's end is the record's loss.
fn owner(record: &Record) -> Option<&NodeName> {
    record.weft.as_ref().and_then(|w| w.node.as_ref())
}

fn copy<K: Ord + Clone, V: Clone>(to: &mut OrdMap<K, V>, from: &OrdMap<K, V>, key: &K) {
    if let Some(value) = from.get(key) {
        to.insert(key.clone(), value.clone());
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
