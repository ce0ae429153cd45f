//! The objects that are watched, and what differs between two snapshots of them.
//!
//! Only what the store says is told, so that every host tells the same: nothing of this host's own. Of what hangs on other
//! objects, services tell how many stand behind them and who leads; networks and hosts tell no counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::Value;
use weft_model::endpoint::Endpoint;
use weft_model::ids::{NetworkName, NodeName, Revision, ServiceName};
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;

use super::standing::{self, Standings};
use crate::admin::views;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Networks.
    Network,
    /// Hosts.
    Node,
    /// Services.
    Service,
    /// Endpoints.
    Endpoint,
    /// Who leads a service or a name.
    Leader,
}

impl Kind {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 5] = [Self::Network, Self::Node, Self::Service, Self::Endpoint, Self::Leader];

    /// As it is written in events and parameters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Node => "node",
            Self::Service => "service",
            Self::Endpoint => "endpoint",
            Self::Leader => "leader",
        }
    }
}

/// What a filter looks at.
#[derive(Clone, Debug)]
pub enum Of {
    /// A network.
    Network,
    /// A host.
    Node,
    /// A service, the network that it is in, and its own labels.
    Service(ServiceName, Option<NetworkName>, BTreeMap<String, String>),
    /// An endpoint, and the service that it stands under.
    Endpoint(Arc<Endpoint>, Option<ServiceName>),
    /// Who leads it.
    Leader(ServiceName),
}

/// One object's change.
#[derive(Debug)]
pub struct Changed {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub key: String,
    /// What it was.
    pub before: Option<Of>,
    /// What it is.
    pub after: Option<Of>,
    /// As JSON; empty if it is gone.
    pub object: Bytes,
}

impl Changed {
    /// The bytes that it takes.
    pub fn size(&self) -> usize {
        size_of(&self.key, &self.object)
    }
}

/// About the bytes that a change takes: what it says, and what it hangs on.
pub fn size_of(key: &str, object: &Bytes) -> usize {
    key.len() + object.len() + 512
}

/// Everything of some kinds that there is, with the revision of its last change.
pub fn everything<'a>(
    snapshot: &'a Snapshot,
    kinds: &'a [Kind],
) -> impl Iterator<Item = (Kind, String, Of, Revision, Bytes)> + 'a {
    let with = |kind: Kind| kinds.contains(&kind).then_some(kind);
    let standings = Arc::new(match with(Kind::Service).or(with(Kind::Leader)) {
        Some(_) => Standings::of(snapshot),
        None => Standings::default(),
    });
    let networks = snapshot.stored_network().map(|s| (NetworkName::default_network(), s));
    let networks = networks.into_iter().chain(snapshot.networks().map(|(name, s)| (name.clone(), s)));
    let networks = networks.filter(move |_| with(Kind::Network).is_some());
    let networks = networks.map(|(name, s)| (Kind::Network, name.to_string(), Of::Network, s.modified, network(snapshot, &name)));
    let nodes = with(Kind::Node).into_iter().flat_map(|_| views::node_names(snapshot));
    let nodes = nodes.map(|name| {
        let object = node(snapshot, &name);
        (Kind::Node, name.clone(), Of::Node, views::node_modified(snapshot, &name), object)
    });
    let standing = Arc::clone(&standings);
    let services = with(Kind::Service).into_iter().flat_map(|_| snapshot.services()).map(move |(name, s)| {
        (Kind::Service, name.to_string(), service_of(name, &s.value), s.modified, standing.told(snapshot, name).0)
    });
    let leaders = with(Kind::Leader).into_iter().flat_map(|_| standing::names(snapshot)).map(move |name| {
        let at = standing::led_since(snapshot, &name);
        (Kind::Leader, name.to_string(), Of::Leader(name.clone()), at, standings.told(snapshot, &name).1)
    });
    let endpoints = with(Kind::Endpoint).into_iter().flat_map(|_| snapshot.endpoints()).map(|e| {
        let of = endpoint_of(snapshot, e);
        (Kind::Endpoint, endpoint_key(e), of, e.modified, endpoint(snapshot, e))
    });
    networks.chain(nodes).chain(services).chain(endpoints).chain(leaders)
}

/// Whether names changed their meaning: another domain, or a namespace declared over names that are in use.
pub fn names_moved(before: &Snapshot, after: &Snapshot) -> bool {
    let in_use = |snapshot: &Snapshot, service: &ServiceName| {
        let path = snapshot.path_of(service);
        snapshot.endpoints_below(&path).next().is_some()
    };
    !before.same_domain(after)
        || before.namespaces_until(after).any(|name| {
            let service = format!("default/{name}").parse::<ServiceName>();
            service.is_ok_and(|service| in_use(before, &service) && in_use(after, &service))
        })
}

/// What differs, in the order of kinds and keys. `standings` become those of `after`.
pub fn between(before: &Snapshot, after: &Snapshot, standings: &mut Standings) -> Vec<Changed> {
    let touched = standings.touched(before, after);
    let was: Vec<(Bytes, Bytes)> = touched.iter().map(|name| standings.told(before, name)).collect();
    standings.update(before, after);
    let is: Vec<(Bytes, Bytes)> = touched.iter().map(|name| standings.told(after, name)).collect();
    let told = || touched.iter().zip(was.iter().zip(&is));
    let mut out = Vec::new();
    let mut networks: Vec<(NetworkName, bool, bool)> =
        before.networks_until(after).map(|(name, b, a)| (name.clone(), b.is_some(), a.is_some())).collect();
    let (old, new) = (before.stored_network(), after.stored_network());
    if old != new {
        networks.insert(0, (NetworkName::default_network(), old.is_some(), new.is_some()));
    }
    for (name, was, is) in networks {
        let object = if is { network(after, &name) } else { Bytes::new() };
        out.push(changed(Kind::Network, name.to_string(), was.then_some(Of::Network), is.then_some(Of::Network), object));
    }
    for name in moved_nodes(before, after) {
        let (old, new) = (node(before, &name), node(after, &name));
        if old != new {
            let of = |object: &Bytes| (!object.is_empty()).then_some(Of::Node);
            out.push(changed(Kind::Node, name, of(&old), of(&new), new.clone()));
        }
    }
    for (name, ((was, _), (is, _))) in told().filter(|(_, (was, is))| was.0 != is.0) {
        let of = |snapshot: &Snapshot| snapshot.service(name).map(|s| service_of(name, &s.value));
        debug_assert_eq!((of(before).is_some(), of(after).is_some()), (!was.is_empty(), !is.is_empty()));
        out.push(changed(Kind::Service, name.to_string(), of(before), of(after), is.clone()));
    }
    for (old, new) in before.endpoints_until(after) {
        let Some(either) = new.or(old) else { continue };
        let object = new.map(|e| endpoint(after, e)).unwrap_or_default();
        let (old, new) = (old.map(|e| endpoint_of(before, e)), new.map(|e| endpoint_of(after, e)));
        out.push(changed(Kind::Endpoint, endpoint_key(either), old, new, object));
    }
    for (name, ((_, was), (_, is))) in told().filter(|(_, (was, is))| was.1 != is.1) {
        let of = |object: &Bytes| (!object.is_empty()).then(|| Of::Leader(name.clone()));
        out.push(changed(Kind::Leader, name.to_string(), of(was), of(is), is.clone()));
    }
    out
}

fn changed(kind: Kind, key: String, before: Option<Of>, after: Option<Of>, object: Bytes) -> Changed {
    Changed { kind, key, before, after, object }
}

/// The hosts whose entry or lease is another, in the order of their names.
fn moved_nodes(before: &Snapshot, after: &Snapshot) -> std::collections::BTreeSet<String> {
    let entries = before.nodes_until(after).map(|(name, _, _): (&NodeName, _, _)| name.to_string());
    let leases = before.leases_until(after).flat_map(|(_, old, new)| {
        let holders = old.into_iter().chain(new).filter(|l| !l.value.is_placeholder());
        holders.map(|lease| views::holder(&lease.value)).collect::<Vec<_>>()
    });
    let drains = before.node_drains_until(after).map(|(name, _, _): (&NodeName, _, _)| name.to_string());
    entries.chain(leases).chain(drains).collect()
}

/// What a filter sees of an endpoint.
pub fn endpoint_of(snapshot: &Snapshot, endpoint: &Arc<Endpoint>) -> Of {
    Of::Endpoint(endpoint.clone(), snapshot.service_at(&endpoint.path))
}

/// Which endpoint it is. One that others wrote may stand at the path of one of ours.
pub fn endpoint_key(endpoint: &Endpoint) -> String {
    if endpoint.ours { endpoint.path.to_string() } else { format!("record:{}", endpoint.path) }
}

fn endpoint(snapshot: &Snapshot, endpoint: &Endpoint) -> Bytes {
    json(serde_json::to_value(views::endpoint_view(snapshot, endpoint)), &[])
}

fn service_of(name: &ServiceName, service: &Service) -> Of {
    Of::Service(name.clone(), service.network.clone(), service.labels.clone())
}

/// A host without what hangs on its endpoints, or on who is asked.
fn node(snapshot: &Snapshot, name: &str) -> Bytes {
    match views::node_view(snapshot, name) {
        Some(view) => json(serde_json::to_value(view), &["endpoints", "this"]),
        None => Bytes::new(),
    }
}

/// A network without how much of it is taken.
fn network(snapshot: &Snapshot, name: &NetworkName) -> Bytes {
    match views::network_named(snapshot, name) {
        Some(view) => json(serde_json::to_value(view), &["taken"]),
        None => Bytes::new(),
    }
}

/// An object as it is told, without the members that other objects decide.
pub(super) fn json(value: Result<Value, serde_json::Error>, without: &[&str]) -> Bytes {
    // Only maps with other than string keys can fail here.
    let mut value = value.unwrap_or_default();
    if let Value::Object(members) = &mut value {
        for name in without {
            members.remove(*name);
        }
    }
    Bytes::from(value.to_string())
}
