//! From snapshots to zones, each at the cost of what differs from the one before it.
//!
//! What comes out is the same whatever the history: a property test holds a zone that followed changes to one that was made at
//! once. What all names hang on (the domain, the namespaces, the networks) seldom changes: then all is made anew.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};
use ipnet::IpNet;
use weft_model::endpoint::{Endpoint, EndpointKey, StoredRecord, key_of};
use weft_model::ids::{NetworkName, ServiceName};
use weft_model::keys::{Place, RecordPath, RecordTree};
use weft_model::membership::{Index, members, services_of};
use weft_model::pool::Standing;
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;

use super::Zone;
use super::audience::Audience;
use super::basis::{Stamps, Touched};
use super::reverse::{self, Reverse};
use super::row::Row;
use super::service::ServiceRows;
use super::tree::{self, Key, Tree};

/// TTL of negative answers and of the SOA record, in seconds (CoreDNS's etcd plugin).
pub(crate) const NEGATIVE_TTL: u32 = 30;

/// The longest key whose name is one: with a length before each label and a zero at the end, 255 bytes (RFC 1035 2.3.4).
const MAX_KEY: usize = 253;

/// Makes the zones of one network.
#[derive(Debug)]
pub struct Maker {
    network: Audience,
    last: Option<Last>,
    /// How many zones there have been.
    number: u64,
    stamps: Arc<Stamps>,
}

/// What the last zone was made from, and what finds its way through that.
#[derive(Debug)]
struct Last {
    snapshot: Snapshot,
    zone: Zone,
    index: Index,
    /// The endpoints of the services that have selectors.
    members: BTreeMap<ServiceName, BTreeSet<EndpointKey>>,
    /// Who lists which virtual IP, whoever has it.
    listed: BTreeMap<IpAddr, BTreeSet<ServiceName>>,
    /// Records that hold something that cannot be said in DNS.
    odd: HashSet<RecordPath>,
}

impl Maker {
    /// One that has made none yet.
    #[must_use]
    pub fn new(network: NetworkName) -> Self {
        Self { network: Audience(network), last: None, number: 0, stamps: Arc::new(Stamps::new()) }
    }

    /// The zone that a snapshot makes, and what in it is another than in the last one. Nothing fails: what cannot be said in DNS
    /// is left out and counted ([`Zone::skipped`]).
    pub fn update(&mut self, snapshot: &Snapshot) -> (Arc<Zone>, Touched) {
        let (last, touched) = match self.last.take() {
            Some(mut last) if same_world(&last.snapshot, snapshot) => {
                let touched = last.follow(&self.network, snapshot);
                (last, touched)
            }
            _ => (Last::new(&self.network, snapshot, self.stamps.clone()), Touched::everything()),
        };
        self.number += 1;
        self.stamps.touch(&touched, self.number);
        let zone = Arc::new(Zone { number: self.number, ..last.zone.clone() });
        self.last = Some(last);
        (zone, touched)
    }
}

/// Whether names mean the same in both.
fn same_world(before: &Snapshot, after: &Snapshot) -> bool {
    before.same_names(after)
        && before.cluster().service_cidrs == after.cluster().service_cidrs
        && before.networks_until(after).next().is_none()
        && before.network() == after.network()
}

/// What may have been changed by changes.
#[derive(Default)]
struct Affected {
    paths: BTreeSet<RecordPath>,
    endpoints: BTreeSet<EndpointKey>,
    services: BTreeSet<ServiceName>,
    vips: BTreeSet<IpAddr>,
}

impl Last {
    /// Everything, at once.
    fn new(network: &Audience, snapshot: &Snapshot, stamps: Arc<Stamps>) -> Self {
        let mut this = Self {
            snapshot: snapshot.clone(),
            zone: Zone::empty(network, snapshot, stamps),
            index: Index::default(),
            members: BTreeMap::new(),
            listed: BTreeMap::new(),
            odd: HashSet::new(),
        };
        let mut touched = Touched::default();
        for (path, _) in snapshot.records().chain(snapshot.down_records()) {
            this.refresh(network, path, &mut touched);
        }
        let services = || snapshot.services().filter(|(_, stored)| network.has(snapshot, &stored.value));
        for (name, stored) in services() {
            this.define(name, None, Some(&stored.value), &mut touched);
        }
        let mut members = members(snapshot, &this.index);
        for (name, stored) in services() {
            let endpoints = members.remove(name).unwrap_or_default();
            if stored.value.has_selector() {
                this.members.insert(name.clone(), endpoints.iter().map(|e| (e.path.clone(), e.ours)).collect());
            }
            this.resolve(name, Some(&stored.value), &endpoints, &mut touched);
        }
        for vip in this.listed.keys().copied().collect::<Vec<_>>() {
            this.point_back(vip, &mut touched);
        }
        this.finish();
        this
    }

    /// The snapshot's differences, and what follows from them.
    fn follow(&mut self, network: &Audience, snapshot: &Snapshot) -> Touched {
        let mut touched = Touched::default();
        let mut affected = Affected::default();
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        for (path, old, new) in before.records_until(snapshot) {
            affected.endpoints.extend(old.into_iter().chain(new).map(|stored| key_of(path, &stored.record)));
            affected.paths.insert(path.clone());
        }
        for (old, new) in before.endpoints_until(snapshot) {
            for (at, endpoint) in [(&before, old), (snapshot, new)] {
                let Some(endpoint) = endpoint else { continue };
                affected.endpoints.insert((endpoint.path.clone(), endpoint.ours));
                affected.paths.extend(at.parts_of(endpoint).into_iter().map(|(place, _)| place.path));
            }
        }
        // By the services as they were: those that differ now are affected by that alone.
        for key in &affected.endpoints {
            let were = before.endpoint(key).map(|endpoint| services_of(&before, &self.index, endpoint)).unwrap_or_default();
            for name in &were {
                if let Some(keys) = self.members.get_mut(name) {
                    keys.remove(key);
                }
            }
            affected.services.extend(were);
            // Its texts stand below its name, whatever its selector says.
            affected.services.extend(snapshot.service_at(&key.0));
        }
        for (name, old, new) in before.services_until(snapshot) {
            let [old, new] = [old, new].map(|s| s.map(|s| &s.value).filter(|s| network.has(snapshot, s)));
            affected.vips.extend(old.into_iter().chain(new).flat_map(|s| s.vips.iter().map(IpAddr::to_canonical)));
            affected.services.insert(name.clone());
            self.define(name, old, new, &mut touched);
            match new.filter(|s| s.has_selector()) {
                Some(new) => {
                    let endpoints = snapshot.endpoints_of(name, new);
                    let keys = endpoints.iter().map(|e| (e.path.clone(), e.ours)).collect();
                    self.members.insert(name.clone(), keys);
                }
                None => drop(self.members.remove(name)),
            }
        }
        for key in &affected.endpoints {
            let now = snapshot.endpoint(key).map(|endpoint| services_of(snapshot, &self.index, endpoint)).unwrap_or_default();
            for name in now {
                if let Some(keys) = self.members.get_mut(&name) {
                    keys.insert(key.clone());
                }
                affected.services.insert(name);
            }
        }
        affected.vips.extend(before.vips_until(snapshot).map(IpAddr::to_canonical));
        for vip in &affected.vips {
            affected.services.extend(self.listed.get(vip).into_iter().flatten().cloned());
        }
        for path in &affected.paths {
            self.refresh(network, path, &mut touched);
        }
        for name in &affected.services {
            let service = snapshot.service(name).map(|stored| &stored.value).filter(|service| network.has(snapshot, service));
            let endpoints = service.map(|service| self.endpoints_of(name, service)).unwrap_or_default();
            self.resolve(name, service, &endpoints, &mut touched);
        }
        for vip in &affected.vips {
            self.point_back(*vip, &mut touched);
        }
        for name in before.leaders_until(snapshot) {
            if let Some(key) = tree::key(snapshot.path_of(name).labels()) {
                touched.service(&key);
            }
        }
        self.finish();
        touched
    }

    /// Makes what stands at a record's place what its path stands for.
    fn refresh(&mut self, network: &Audience, path: &RecordPath, touched: &mut Touched) {
        let domain = self.snapshot.cluster();
        let domain: Vec<&str> = domain.domain_labels().collect();
        let labels: Vec<&str> = path.labels().collect();
        let inside = labels.starts_with(&domain);
        if !inside && labels.first() != Some(&"arpa") {
            return;
        }
        let visible = |stored: &&StoredRecord| network.hears(&self.snapshot, stored);
        let stored = self.snapshot.record(path).filter(visible).or_else(|| {
            let down = Place { path: path.clone(), tree: RecordTree::Down };
            self.snapshot.at(&down).filter(visible)
        });
        let key = tree::key(labels.iter().copied()).filter(|key| key.len() <= MAX_KEY);
        let Some(key) = key else {
            self.count_odd(path, stored.is_some());
            return;
        };
        let variant = tree::variant(path);
        if let Some(old) = self.zone.tree.row(&key, variant).cloned() {
            touched_by_address(&self.zone.reverse.leave(&old), touched);
        }
        touched.name(&key);
        let Some(stored) = stored else {
            self.zone.tree.remove(&key, variant);
            self.count_odd(path, false);
            return;
        };
        let (endpoint, ours) = key_of(path, &stored.record);
        let standing = self.snapshot.endpoint(&(endpoint, ours)).map_or(Standing::Out, |e| Standing::of(e));
        // What is down by its health alone may be asked for all the same; of the rest the names exist, and have no data.
        let leased = stored.lease.is_some() || stored.lost;
        let depth = u8::try_from(labels.len()).unwrap_or(u8::MAX);
        let (row, odd) = Row::new(depth, &stored.record, standing, leased);
        let hidden = inside && labels.get(domain.len()).is_some_and(|l| l.eq_ignore_ascii_case("dns"));
        self.count_odd(path, odd);
        self.zone.tree.put(&key, variant, row.map(|row| Row { hidden, ..row }));
        if let Some(row) = self.zone.tree.row(&key, variant).cloned() {
            touched_by_address(&self.zone.reverse.enter(&self.zone.domain, &row), touched);
        }
    }

    fn count_odd(&mut self, path: &RecordPath, odd: bool) {
        if odd {
            self.odd.insert(path.clone());
        } else {
            self.odd.remove(path);
        }
    }

    /// Takes note of a service's definition.
    fn define(&mut self, name: &ServiceName, old: Option<&Service>, new: Option<&Service>, touched: &mut Touched) {
        if let Some(old) = old {
            self.index.remove(name, old);
            for vip in old.vips.iter().map(IpAddr::to_canonical) {
                let Some(names) = self.listed.get_mut(&vip) else { continue };
                names.remove(name);
                if names.is_empty() {
                    self.listed.remove(&vip);
                }
            }
        }
        if let Some(new) = new {
            self.index.put(name, new);
            for vip in &new.vips {
                self.listed.entry(vip.to_canonical()).or_default().insert(name.clone());
            }
        }
        let path = self.snapshot.path_of(name);
        match tree::key(path.labels()).filter(|key| key.len() <= MAX_KEY) {
            Some(key) => {
                touched.name(&key);
                // Its name exists without a record, in a place of its own.
                match new {
                    Some(_) => self.zone.tree.put(&key, Some(SERVICE), None),
                    None => self.zone.tree.remove(&key, Some(SERVICE)),
                }
            }
            None => self.count_odd(&path, new.is_some()),
        }
    }

    /// The endpoints of a service, by path.
    fn endpoints_of(&self, name: &ServiceName, service: &Service) -> Vec<Arc<Endpoint>> {
        match self.members.get(name) {
            Some(keys) => keys.iter().filter_map(|key| self.snapshot.endpoint(key).cloned()).collect(),
            None => self.snapshot.endpoints_of(name, service),
        }
    }

    /// Makes what a service's name stands for.
    fn resolve(&mut self, name: &ServiceName, service: Option<&Service>, endpoints: &[Arc<Endpoint>], touched: &mut Touched) {
        let Some(key) = tree::key(self.snapshot.path_of(name).labels()) else { return };
        touched.service(&key);
        match service {
            Some(service) => {
                let vips: Vec<IpAddr> = service.vips.iter().map(IpAddr::to_canonical).collect();
                let own = vips.into_iter().filter(|vip| self.owner(*vip).is_none_or(|owner| owner == name)).collect();
                let rows = ServiceRows::new(&self.snapshot, name, service, own, endpoints, &self.zone.tree);
                self.zone.services.insert(key.into(), Arc::new(rows));
            }
            None => drop(self.zone.services.remove(key.as_slice())),
        }
    }

    /// Whose a virtual IP is: [`Snapshot::vip_owners`]'s rule, for one of them.
    fn owner(&self, vip: IpAddr) -> Option<&ServiceName> {
        let first = self.listed.get(&vip).and_then(BTreeSet::first);
        self.snapshot.vip_owner(vip).or(first)
    }

    /// Makes an address's name that of the service that has it.
    fn point_back(&mut self, vip: IpAddr, touched: &mut Touched) {
        let lists = |name: &&ServiceName| self.listed.get(&vip).is_some_and(|names| names.contains(*name));
        let owner = self.owner(vip).filter(lists);
        let key = owner.and_then(|name| tree::key(self.snapshot.path_of(name).labels()));
        self.zone.reverse.set_vip(vip, key.and_then(|key| Name::from_labels(tree::labels(&key).rev()).ok()));
        touched_by_address(&Some(vip), touched);
    }

    fn finish(&mut self) {
        self.zone.skipped = self.odd.len();
        self.zone.revision = self.snapshot.revision();
        self.zone.soa = soa(&self.zone.domain, self.snapshot.revision().0);
        self.zone.snapshot = self.snapshot.clone();
    }
}

/// The place of a declared service among the records of its name.
const SERVICE: &str = "";

/// The reverse name of an address says something else.
fn touched_by_address(address: &Option<IpAddr>, touched: &mut Touched) {
    if let Some(address) = address {
        touched.name(&reverse::key(*address));
    }
}

impl Zone {
    /// One with no records in it.
    fn empty(network: &Audience, snapshot: &Snapshot, stamps: Arc<Stamps>) -> Self {
        let cluster = snapshot.cluster();
        let labels: Vec<&str> = cluster.domain_labels().collect();
        let domain = Name::from_labels(labels.iter().rev().map(|l| l.as_bytes())).unwrap_or_default().to_lowercase();
        let apex: Key = tree::key(cluster.domain_labels()).unwrap_or_default();
        let networks = network.config(snapshot).into_iter().flat_map(|n| {
            let v6 = n.v6.as_ref().map(|range| IpNet::V6(range.network));
            [Some(IpNet::V4(n.network)), v6].into_iter().flatten()
        });
        let ranges = networks.chain(cluster.service_cidrs.iter().copied()).collect();
        let mut tree = Tree::default();
        // The zone's own name exists, whatever is in it.
        tree.put(&apex, Some(SERVICE), None);
        Self {
            soa: soa(&domain, 0),
            domain,
            network: network.clone(),
            revision: snapshot.revision(),
            apex_hosts: below(&apex, "apex"),
            name_servers: below(&apex, "ns"),
            apex,
            tree,
            services: imbl::OrdMap::new(),
            reverse: Reverse::new(ranges),
            skipped: 0,
            snapshot: snapshot.clone(),
            number: 0,
            stamps,
        }
    }

    /// The zone of the default network, made at once.
    #[must_use]
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        Last::new(&Audience(NetworkName::default_network()), snapshot, Arc::new(Stamps::new())).zone
    }
}

/// The key of `<label>.dns.<domain>`.
fn below(apex: &[u8], label: &str) -> Key {
    let mut key = apex.to_vec();
    // Too long a domain leaves no room for it, and then nothing stands there.
    let _ = tree::push(&mut key, b"dns") && tree::push(&mut key, label.as_bytes());
    key
}

/// The zone's SOA. Its serial is the store's revision, so that two servers' answers can be compared.
fn soa(domain: &Name, revision: i64) -> Record {
    // A domain so long that these do not fit stands for itself.
    let below = |labels: &[&[u8]]| {
        let labels = labels.iter().copied().chain(domain.iter());
        Name::from_labels(labels).unwrap_or_else(|_| domain.clone())
    };
    // Serials wrap (RFC 1982).
    let [.., a, b, c, d] = revision.to_be_bytes();
    let serial = u32::from_be_bytes([a, b, c, d]);
    let soa = SOA::new(below(&[b"ns", b"dns"]), below(&[b"hostmaster"]), serial, 7200, 1800, 86_400, NEGATIVE_TTL);
    Record::from_rdata(domain.clone(), NEGATIVE_TTL, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;
    use weft_model::ids::Revision;
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;
    use crate::zone::Question;

    #[test]
    fn names_are_told_to_their_own_network_and_those_of_no_host_to_all() {
        let record = |network: &str| format!(r#"{{"host":"10.0.0.1","weft":{{"id":"a","node":"h1"{network}}}}}"#);
        let entries = [
            ("/weft/v1/networks/blue", r#"{"Network":"10.245.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#.to_owned()),
            ("/weft/v1/services/default/shop", r#"{"vips":["10.112.0.7"],"ports":[{"port":80}],"network":"blue"}"#.to_owned()),
            ("/skydns/local/skydns/web/a/4", record("")),
            ("/skydns/local/skydns/db/a/4", record(r#","network":"blue""#)),
            ("/skydns/local/skydns/old/x", r#"{"host":"192.0.2.77"}"#.to_owned()),
            // The oldest of all is in one network; the other one has a leader of its own.
            ("/skydns/local/skydns/both/a/4", record(r#","born":1,"network":"blue""#)),
            ("/skydns/local/skydns/both/b/4", record(r#","born":2"#).replace(r#""id":"a""#, r#""id":"b""#)),
        ];
        let at = Revision(5);
        let entry = |(key, value): (&str, String)| Entry {
            key: key.into(),
            value: value.into_bytes(),
            lease: None,
            created: at,
            modified: at,
        };
        let snapshot = Snapshot::complete(Arc::new(Layout::default()), at, entries.into_iter().map(entry).collect(), None);
        let known = |network: &str| {
            let (zone, _) = Maker::new(network.parse().unwrap()).update(&snapshot);
            let has = |name: &&str| {
                let name = Name::from_ascii(format!("{name}.skydns.local.")).unwrap();
                !zone.answer(&Question { name, record_type: RecordType::A }).answers.is_empty()
            };
            ["web", "db", "old", "shop", "leader.both"].into_iter().filter(has).collect::<Vec<_>>()
        };
        assert_eq!(known("default"), ["web", "old", "leader.both"]);
        assert_eq!(known("blue"), ["db", "old", "shop", "leader.both"]);
    }
}
