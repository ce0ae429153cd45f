//! What a declared service stands for besides its virtual IPs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use weft_model::endpoint::Endpoint;
use weft_model::ids::ServiceName;
use weft_model::record::Proto;
use weft_model::service::{Service, Target};
use weft_model::snapshot::Snapshot;

use super::row::Row;
use super::tree::{self, Tree};

/// A declared service, with the rows of its instances. They stand in the order of their keys, so that two hosts answer alike.
#[derive(Debug)]
pub(crate) struct ServiceRows {
    /// Which one it is.
    pub name: ServiceName,
    /// The virtual IPs that stand for it.
    pub vips: Vec<IpAddr>,
    /// The name that it stands for, lower case; then it has nothing else but ports.
    pub external: Option<Name>,
    /// Below how many percent of healthy instances checks are not believed.
    pub panic: u8,
    pub ports: Vec<Port>,
    pub instances: Vec<Arc<Row>>,
    /// The instances with their ports, as SRV of its name gives them.
    pub srv: Vec<(Arc<Row>, u16)>,
    /// Where texts and mail hosts come from.
    pub texts: Vec<Arc<Row>>,
    /// With a selector the instances stand elsewhere, and are found here by id.
    pub by_id: BTreeMap<Box<[u8]>, Vec<Arc<Row>>>,
}

/// One port of a service.
#[derive(Debug)]
pub(crate) struct Port {
    pub name: String,
    pub proto: Proto,
    /// The virtual IP's port.
    pub port: u16,
    /// Each instance's own.
    pub backends: Vec<(Arc<Row>, u16)>,
}

impl ServiceRows {
    /// That of a service that has these virtual IPs and these endpoints.
    pub(crate) fn new(
        snapshot: &Snapshot,
        name: &ServiceName,
        service: &Service,
        vips: Vec<IpAddr>,
        endpoints: &[Arc<Endpoint>],
        tree: &Tree,
    ) -> Self {
        let external = service.external_name.as_ref();
        let external = external.and_then(|name| Name::from_labels(name.split('.').map(str::as_bytes)).ok());
        let mut out = Self {
            name: name.clone(),
            vips,
            external,
            panic: service.panic,
            ports: Vec::new(),
            instances: Vec::new(),
            srv: Vec::new(),
            texts: Vec::new(),
            by_id: BTreeMap::new(),
        };
        let of_each: Vec<(&Endpoint, Vec<Arc<Row>>)> = endpoints.iter().map(|e| (&**e, rows(snapshot, e, tree))).collect();
        out.instances = of_each.iter().flat_map(|(_, rows)| rows.iter().cloned()).collect();
        sort(&mut out.instances);
        out.texts.clone_from(&out.instances);
        if service.has_selector() {
            for (endpoint, rows) in &of_each {
                let id = endpoint.id.to_ascii_lowercase().into_bytes();
                out.by_id.entry(id.into()).or_default().extend(rows.iter().cloned());
            }
            let own = Service { selector: BTreeMap::new(), expressions: Vec::new(), ..service.clone() };
            for endpoint in snapshot.endpoints_of(name, &own) {
                out.texts.extend(rows(snapshot, &endpoint, tree));
            }
            sort(&mut out.texts);
        }
        for row in &out.instances {
            // An instance that names no port is where the service's port leads to.
            if row.port == 0 && !service.ports.is_empty() {
                let fixed = service.ports.iter().filter_map(|p| match p.target {
                    Some(Target::Number(number)) if number != 0 => Some(number),
                    Some(Target::Name(_)) => None,
                    Some(Target::Number(_)) | None => Some(p.port),
                });
                out.srv.extend(fixed.map(|port| (row.clone(), port)));
            } else {
                out.srv.push((row.clone(), row.port));
            }
        }
        for p in &service.ports {
            let mut backends: Vec<(Arc<Row>, u16)> = Vec::new();
            for (endpoint, rows) in &of_each {
                let port = match &p.target {
                    Some(Target::Number(number)) if *number != 0 => Some(*number),
                    Some(Target::Name(name)) => endpoint.port(Some(name), p.proto),
                    Some(Target::Number(_)) | None => endpoint.port_behind(p).or(Some(p.port)),
                };
                backends.extend(port.into_iter().flat_map(|port| rows.iter().map(move |row| (row.clone(), port))));
            }
            backends.sort_by(|(a, x), (b, y)| (&a.key, x).cmp(&(&b.key, y)));
            out.ports.push(Port { name: p.name.clone(), proto: p.proto, port: p.port, backends });
        }
        out
    }
}

/// The rows of an endpoint's parts.
fn rows(snapshot: &Snapshot, endpoint: &Endpoint, tree: &Tree) -> Vec<Arc<Row>> {
    let places = snapshot.parts_of(endpoint).into_iter().map(|(place, _)| place.path);
    places.filter_map(|path| tree.row(&tree::key(path.labels())?, tree::variant(&path)).cloned()).collect()
}

fn sort(rows: &mut Vec<Arc<Row>>) {
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows.dedup_by(|a, b| Arc::ptr_eq(a, b));
}
