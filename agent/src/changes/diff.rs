//! The objects that are watched, and what differs between two snapshots of them.
//!
//! Only what the store says is told, so that every host tells the same: no counts that hang on other objects, nothing of this
//! host's own.

use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::Value;
use weft_model::endpoint::Endpoint;
use weft_model::ids::{NetworkName, NodeName, Revision, ServiceName};
use weft_model::snapshot::Snapshot;

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
}

impl Kind {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Network, Self::Node, Self::Service, Self::Endpoint];

    /// As it is written in events and parameters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Node => "node",
            Self::Service => "service",
            Self::Endpoint => "endpoint",
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
    /// A service, and the network that it is in.
    Service(ServiceName, Option<NetworkName>),
    /// An endpoint, and the service that it stands under.
    Endpoint(Arc<Endpoint>, Option<ServiceName>),
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

/// Everything that there is, with the revision of its last change.
pub fn everything(snapshot: &Snapshot) -> impl Iterator<Item = (Kind, String, Of, Revision, Bytes)> {
    let networks = snapshot.stored_network().map(|s| (NetworkName::default_network(), s));
    let networks = networks.into_iter().chain(snapshot.networks().map(|(name, s)| (name.clone(), s)));
    let networks = networks.map(|(name, s)| (Kind::Network, name.to_string(), Of::Network, s.modified, network(snapshot, &name)));
    let nodes = views::node_names(snapshot).into_iter();
    let nodes = nodes.map(|name| {
        let object = node(snapshot, &name);
        (Kind::Node, name.clone(), Of::Node, views::node_modified(snapshot, &name), object)
    });
    let services = snapshot.services().map(|(name, s)| {
        let of = Of::Service(name.clone(), s.value.network.clone());
        (Kind::Service, name.to_string(), of, s.modified, service(snapshot, name))
    });
    let endpoints = snapshot.endpoints().map(|e| {
        let of = endpoint_of(snapshot, e);
        (Kind::Endpoint, endpoint_key(e), of, e.modified, endpoint(snapshot, e))
    });
    networks.chain(nodes).chain(services).chain(endpoints)
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

/// What differs, in the order of kinds and keys.
pub fn between(before: &Snapshot, after: &Snapshot) -> Vec<Changed> {
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
    for (name, old, new) in before.services_until(after) {
        let of = |network: Option<NetworkName>| Of::Service(name.clone(), network);
        let (old, is) = (old.map(|s| of(s.value.network.clone())), new.map(|s| of(s.value.network.clone())));
        let object = if is.is_some() { service(after, name) } else { Bytes::new() };
        out.push(changed(Kind::Service, name.to_string(), old, is, object));
    }
    for (old, new) in before.endpoints_until(after) {
        let Some(either) = new.or(old) else { continue };
        let object = new.map(|e| endpoint(after, e)).unwrap_or_default();
        let (old, new) = (old.map(|e| endpoint_of(before, e)), new.map(|e| endpoint_of(after, e)));
        out.push(changed(Kind::Endpoint, endpoint_key(either), old, new, object));
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

/// What it is by itself: who its backends are is told by the endpoints.
fn service(snapshot: &Snapshot, name: &ServiceName) -> Bytes {
    let Some(stored) = snapshot.service(name) else { return Bytes::new() };
    let view = views::service_view(snapshot, name, &stored.value, stored.modified, &weft_proxy::Resolved::default());
    json(serde_json::to_value(view), &["backends", "rejected", "panicking", "ready", "total", "conflicts"])
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
fn json(value: Result<Value, serde_json::Error>, without: &[&str]) -> Bytes {
    // Only maps with other than string keys can fail here.
    let mut value = value.unwrap_or_default();
    if let Value::Object(members) = &mut value {
        for name in without {
            members.remove(*name);
        }
    }
    Bytes::from(value.to_string())
}
