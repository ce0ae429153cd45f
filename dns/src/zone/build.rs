//! From a snapshot to a zone: which records take part, where they stand, and what the declared services stand for.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};
use ipnet::IpNet;
use weft_model::endpoint::{Endpoint, EndpointKey, key_of};
use weft_model::ids::ServiceName;
use weft_model::pool::Standing;
use weft_model::record::Proto;
use weft_model::service::{Service, Target};
use weft_model::snapshot::Snapshot;

use super::Zone;
use super::reverse::Reverse;
use super::row::Row;
use super::tree::{self, Entry, Tree};

/// TTL of negative answers and of the SOA record, in seconds (CoreDNS's etcd plugin).
pub(crate) const NEGATIVE_TTL: u32 = 30;

/// A declared service, as places of rows.
#[derive(Debug, Default)]
pub(crate) struct ServiceRows {
    pub vips: Vec<IpAddr>,
    /// The name that it stands for, lower case; then it has nothing else but ports.
    pub external: Option<Name>,
    /// Below how many percent of healthy instances checks are not believed.
    pub panic: u8,
    pub ports: Vec<Port>,
    /// The rows of its instances.
    pub instances: Vec<usize>,
    /// The instances with their ports, as SRV of its name gives them.
    pub srv: Vec<(usize, u16)>,
    /// Where texts and mail hosts come from.
    pub texts: Vec<usize>,
    /// With a selector the instances stand elsewhere, and are found here by id.
    pub by_id: BTreeMap<Box<[u8]>, Vec<usize>>,
}

/// One port of a service.
#[derive(Debug)]
pub(crate) struct Port {
    pub name: String,
    pub proto: Proto,
    /// The virtual IP's port.
    pub port: u16,
    /// Each instance's own.
    pub backends: Vec<(usize, u16)>,
}

impl Zone {
    /// The zone that a snapshot makes. Costs a walk over all records; nothing in it fails: what cannot be said in DNS is
    /// left out and counted ([`Zone::skipped`]).
    #[must_use]
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let cluster = snapshot.cluster();
        let domain_labels: Vec<&str> = cluster.domain_labels().collect();
        let domain = Name::from_labels(domain_labels.iter().rev().map(|l| l.as_bytes())).unwrap_or_default();
        let standings: HashMap<(&str, bool), Standing> =
            snapshot.endpoints().map(|e| ((e.path.as_str(), e.ours), Standing::of(e))).collect();

        let mut skipped = 0;
        let mut entries = Vec::new();
        let mut owners: Vec<EndpointKey> = Vec::new();
        // What is down by its health alone may be asked for all the same; of the rest the names exist, and have no data.
        let down = snapshot.down_records().filter(|(path, _)| snapshot.record(path).is_none());
        for (path, stored) in snapshot.records().chain(down) {
            let labels: Vec<&str> = path.labels().collect();
            let inside = labels.starts_with(&domain_labels);
            if !inside && labels.first() != Some(&"arpa") {
                continue;
            }
            let name = Name::from_labels(labels.iter().rev().map(|l| l.as_bytes()));
            let (Some(key), Ok(name)) = (tree::key(labels.iter().copied()), name) else {
                skipped += 1;
                continue;
            };
            let owner = key_of(path, &stored.record);
            let standing = standings.get(&(owner.0.as_str(), owner.1)).copied().unwrap_or(Standing::Out);
            let leased = stored.lease.is_some() || stored.lost;
            let (row, odd) = Row::new(&name.to_lowercase(), &stored.record, standing, leased);
            skipped += usize::from(odd);
            let hidden = inside && labels.get(domain_labels.len()).is_some_and(|l| l.eq_ignore_ascii_case("dns"));
            entries.push(Entry { key, row: row.map(|r| Row { hidden, ..r }), service: None });
            owners.push(owner);
        }

        let services: Vec<(&ServiceName, &Service)> = snapshot.services().map(|(n, s)| (n, &s.value)).collect();
        for (index, (name, _)) in services.iter().enumerate() {
            match tree::key(snapshot.path_of(name).labels()) {
                Some(key) => entries.push(Entry { key, row: None, service: Some(index) }),
                None => skipped += 1,
            }
        }
        // The zone's own name exists, whatever is in it.
        if let Some(key) = tree::key(domain_labels.iter().copied()) {
            entries.push(Entry { key, row: None, service: None });
        }

        let (tree, places) = Tree::build(entries);
        let mut rows_of: HashMap<EndpointKey, Vec<usize>> = HashMap::new();
        if !services.is_empty() {
            for (owner, place) in owners.into_iter().zip(places) {
                if let Some(place) = place {
                    rows_of.entry(owner).or_default().push(place);
                }
            }
        }
        let networks = snapshot.network().into_iter().flat_map(|n| {
            let v6 = n.v6.as_ref().map(|range| IpNet::V6(range.network));
            [Some(IpNet::V4(n.network)), v6].into_iter().flatten()
        });
        let ranges = networks.chain(cluster.service_cidrs.iter().copied());
        // What another service has leads there: whoever lists it beside that one answers with its instances.
        let owners = snapshot.vip_owners();
        let own_vips = |name: &ServiceName, service: &Service| -> Vec<IpAddr> {
            let vips = service.vips.iter().filter(|vip| owners.of(**vip).is_none_or(|owner| owner == name));
            vips.map(IpAddr::to_canonical).collect()
        };
        let vips = services.iter().flat_map(|(name, service)| {
            let path = snapshot.path_of(name);
            let labels: Vec<&str> = path.labels().collect();
            let vips = own_vips(name, service);
            let name = Name::from_labels(labels.iter().rev().map(|l| l.as_bytes())).ok();
            name.into_iter().flat_map(move |name| vips.clone().into_iter().map(move |vip| (vip, name.to_lowercase())))
        });
        let reverse = Reverse::new(ranges.collect(), &domain.to_lowercase(), tree.rows(tree::ROOT), vips);
        let services = services
            .iter()
            .map(|(name, s)| ServiceRows { vips: own_vips(name, s), ..service_rows(snapshot, name, s, &rows_of, &tree) })
            .collect();

        let labels = || domain_labels.iter().map(|l| l.as_bytes());
        let apex = tree.find(labels()).unwrap_or(tree::ROOT);
        let below = |label: &'static [u8]| tree.child(apex, b"dns").and_then(|dns| tree.child(dns, label));
        let (apex_hosts, name_servers) = (below(b"apex"), below(b"ns"));
        let revision = snapshot.revision();
        let (soa, snapshot) = (soa(&domain, revision.0), snapshot.clone());
        Self { soa, revision, domain, apex, apex_hosts, name_servers, tree, services, reverse, skipped, snapshot }
    }
}

/// What a service stands for besides its virtual IPs. Rows stand in the order of their keys, so that two hosts answer alike.
fn service_rows(
    snapshot: &Snapshot,
    name: &ServiceName,
    service: &Service,
    rows_of: &HashMap<EndpointKey, Vec<usize>>,
    tree: &Tree,
) -> ServiceRows {
    let rows = |e: &Endpoint| rows_of.get(&(e.path.clone(), e.ours)).map(Vec::as_slice).unwrap_or_default();
    let endpoints = snapshot.endpoints_of(name, service);
    let external = service.external_name.as_ref().and_then(|name| Name::from_labels(name.split('.').map(str::as_bytes)).ok());
    let mut out = ServiceRows { external, panic: service.panic, ..ServiceRows::default() };
    for endpoint in &endpoints {
        out.instances.extend(rows(endpoint));
    }
    out.instances.sort_unstable();
    out.texts.clone_from(&out.instances);
    if service.has_selector() {
        for endpoint in &endpoints {
            out.by_id.entry(endpoint.id.to_ascii_lowercase().into_bytes().into()).or_default().extend(rows(endpoint));
        }
        let own = Service { selector: BTreeMap::new(), expressions: Vec::new(), ..service.clone() };
        for endpoint in snapshot.endpoints_of(name, &own) {
            out.texts.extend(rows(&endpoint));
        }
        out.texts.sort_unstable();
        out.texts.dedup();
    }
    for place in &out.instances {
        match tree.row(*place).map(|r| r.port) {
            // An instance that names no port is where the service's port leads to.
            Some(0) if !service.ports.is_empty() => {
                let fixed = service.ports.iter().filter_map(|p| match p.target {
                    Some(Target::Number(number)) if number != 0 => Some(number),
                    Some(Target::Name(_)) => None,
                    Some(Target::Number(_)) | None => Some(p.port),
                });
                out.srv.extend(fixed.map(|port| (*place, port)));
            }
            Some(port) => out.srv.push((*place, port)),
            None => {}
        }
    }
    for p in &service.ports {
        let mut backends = Vec::new();
        for endpoint in &endpoints {
            let port = match &p.target {
                Some(Target::Number(number)) if *number != 0 => Some(*number),
                Some(Target::Name(name)) => endpoint.port(Some(name), p.proto),
                Some(Target::Number(_)) | None => endpoint.port_behind(p).or(Some(p.port)),
            };
            backends.extend(port.into_iter().flat_map(|port| rows(endpoint).iter().map(move |place| (*place, port))));
        }
        backends.sort_unstable();
        out.ports.push(Port { name: p.name.clone(), proto: p.proto, port: p.port, backends });
    }
    out
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
