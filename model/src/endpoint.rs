//! What can take traffic: one or more records of one id, read as a whole.
//!
//! The parts of one `<id>` that Weft writes (`<service>/<id>/4`, `…/6`, `…/4-metrics`) are one endpoint. A record without
//! our member is an endpoint of its own, so what CoreDNS's or SkyDNS's users write takes part like any other.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{LeaseId, NetworkName, NodeName, Revision};
use crate::keys::{RecordPath, RecordTree};
use crate::record::{Kind, Proto, Record, State};
use crate::service::ServicePort;

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its own name as a path: `<id>` below the service, or the record itself if others wrote it.
    pub path: RecordPath,
    /// Its id: the last label of the path.
    pub id: String,
    /// What people call it: the name given at attach, else the label it stands under.
    pub name: String,
    /// Whether it may be a backend.
    pub kind: Kind,
    /// Its addresses, IPv4 first, none twice.
    pub addresses: Vec<IpAddr>,
    /// The names that stand for it, where a record's host is one.
    pub host_names: Vec<String>,
    /// Its ports, none twice.
    pub ports: Vec<EndpointPort>,
    /// The host that answers for it.
    pub node: Option<NodeName>,
    /// Whether it takes traffic.
    pub state: EndpointState,
    /// Whether it is down because its checks fail, and for no other reason.
    pub unhealthy: bool,
    /// Whether it stands for election.
    pub candidate: bool,
    /// SRV priority of its main part: the lower, the sooner.
    pub priority: u16,
    /// SRV weight of its main part, relative to its siblings; 0 counts as 100.
    pub weight: u32,
    /// When its host first registered it, in milliseconds since 1970; 0 is unknown.
    pub born: u64,
    /// When the first of its parts was created in the store.
    pub created: Revision,
    /// When any of its parts was last written.
    pub modified: Revision,
    /// Labels for selectors.
    pub labels: BTreeMap<String, String>,
    /// The network its addresses are in; none is the default one.
    pub network: Option<NetworkName>,
    /// The lease its records hang on.
    pub lease: Option<LeaseId>,
    /// Whether Weft wrote it.
    pub ours: bool,
}

/// A port that an endpoint serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct EndpointPort {
    /// Its name; empty is the only or main one.
    #[serde(default)]
    pub name: String,
    /// The port.
    pub port: u16,
    /// The protocol.
    #[serde(default)]
    pub proto: Proto,
}

/// Whether an endpoint takes traffic, as the cluster sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Yes.
    Up,
    /// What it has, nothing new while others are up.
    Draining,
    /// Its host went silent: its records ended with their host's liveness lease. Nothing new while others live, and
    /// nothing is torn down on this evidence alone.
    Lost,
    /// Not yet.
    Starting,
    /// No.
    Down,
}

impl EndpointState {
    /// As written in JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Starting => "starting",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<State> for EndpointState {
    fn from(state: State) -> Self {
        match state {
            State::Up => Self::Up,
            State::Draining => Self::Draining,
            State::Starting => Self::Starting,
            State::Down => Self::Down,
        }
    }
}

/// A record in the store, with its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record.
    pub record: Record,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
    /// When its key was created.
    pub created: Revision,
    /// When its key was last written: who replaces or deletes it compares this.
    pub modified: Revision,
    /// Whether it ended together with its host's entry, and is kept in mind for want of anything better.
    pub lost: bool,
    /// The tree that it stands in.
    pub tree: RecordTree,
}

impl StoredRecord {
    /// Whether it takes traffic: as it says, but never what stands in the tree of what takes none.
    #[must_use]
    pub fn state(&self) -> State {
        let said = self.record.weft.as_ref().map_or(State::Up, |weft| weft.state);
        match (self.tree, said) {
            (RecordTree::Down, State::Up | State::Draining) => State::Down,
            _ => said,
        }
    }
}

/// Which endpoint a record belongs to: the endpoint's path, and whether Weft wrote it (the two may share a path).
pub type EndpointKey = (RecordPath, bool);

/// The endpoint that the record at `path` is a part of.
#[must_use]
pub fn key_of(path: &RecordPath, record: &Record) -> EndpointKey {
    match (&record.weft, path.parent()) {
        (Some(_), Some(parent)) => (parent, true),
        _ => (path.clone(), false),
    }
}

impl Endpoint {
    /// The endpoint made of `parts`, all of one key; `None` if there are none.
    #[must_use]
    pub fn from_parts<'a>(key: &EndpointKey, parts: impl IntoIterator<Item = &'a StoredRecord>) -> Option<Self> {
        let mut parts = parts.into_iter().peekable();
        let first = *parts.peek()?;
        let (path, ours) = key;
        let weft = first.record.weft.as_ref();
        let id = path.last().unwrap_or_default().to_owned();
        let given = weft.map(|w| w.name.clone()).filter(|n| !n.is_empty());
        let name = given.or_else(|| path.parent()?.last().map(str::to_owned)).unwrap_or_else(|| id.clone());
        let mut endpoint = Self {
            path: path.clone(),
            id,
            name,
            kind: weft.map_or(Kind::Service, |w| w.kind),
            addresses: Vec::new(),
            host_names: Vec::new(),
            ports: Vec::new(),
            node: weft.and_then(|w| w.node.clone()),
            state: EndpointState::Up,
            unhealthy: true,
            candidate: weft.is_some_and(|w| w.candidate),
            priority: first.record.priority_or_default(),
            weight: first.record.weight,
            born: weft.map_or(0, |w| w.born),
            created: first.created,
            modified: first.modified,
            labels: BTreeMap::new(),
            network: weft.and_then(|w| w.network.clone()),
            lease: first.lease,
            ours: *ours,
        };
        let mut lost = true;
        let mut state = first.state();
        for part in parts {
            let record = &part.record;
            endpoint.addresses.extend(record.address());
            endpoint.host_names.extend(record.host_name());
            let weft = record.weft.as_ref();
            if record.port != 0 {
                let name = weft.map(|w| w.port_name.clone()).unwrap_or_default();
                endpoint.ports.push(EndpointPort { name, port: record.port, proto: weft.map_or(Proto::Tcp, |w| w.proto) });
            }
            endpoint.labels.extend(record.all_labels().map(|(k, v)| (k.clone(), v.clone())));
            // The parts are written in one transaction; where they still disagree, the greater caution counts.
            state = state.max_caution(part.state());
            lost &= part.lost;
            endpoint.created = endpoint.created.min(part.created);
            endpoint.modified = endpoint.modified.max(part.modified);
            // One part that is down for another reason is reason enough.
            endpoint.unhealthy &= part.state() != State::Down || weft.is_some_and(|w| w.unhealthy);
        }
        endpoint.addresses.sort_unstable();
        endpoint.addresses.dedup();
        endpoint.host_names.sort_unstable();
        endpoint.host_names.dedup();
        endpoint.ports.sort_unstable();
        endpoint.ports.dedup();
        endpoint.state = match EndpointState::from(state) {
            EndpointState::Up | EndpointState::Draining if lost => EndpointState::Lost,
            other => other,
        };
        endpoint.unhealthy &= endpoint.state == EndpointState::Down;
        Some(endpoint)
    }

    /// The port that a service means: by name, else the only or unnamed one of this protocol.
    #[must_use]
    pub fn port(&self, name: Option<&str>, proto: Proto) -> Option<u16> {
        let of_proto = |p: &&EndpointPort| p.proto == proto;
        match name {
            Some(name) => self.ports.iter().filter(of_proto).find(|p| p.name == name).map(|p| p.port),
            None => {
                let unnamed = self.ports.iter().filter(of_proto).find(|p| p.name.is_empty());
                unnamed.or_else(|| self.ports.iter().find(of_proto)).map(|p| p.port)
            }
        }
    }
}

impl Endpoint {
    /// The port that stands behind a service's port that names no target: the one that bears its name, else of those without a
    /// name the one that has its number, else the unnamed or only one.
    #[must_use]
    pub fn port_behind(&self, port: &ServicePort) -> Option<u16> {
        let named = Some(port.name.as_str()).filter(|n| !n.is_empty()).and_then(|name| self.port(Some(name), port.proto));
        let same = |p: &&EndpointPort| p.name.is_empty() && p.proto == port.proto && p.port == port.port;
        named.or_else(|| self.ports.iter().find(same).map(|p| p.port)).or_else(|| self.port(None, port.proto))
    }
}

impl State {
    fn max_caution(self, other: Self) -> Self {
        let rank = |s: Self| match s {
            Self::Up => 0,
            Self::Draining => 1,
            Self::Starting => 2,
            Self::Down => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::WeftRecord;

    fn part(host: &str, port: u16, port_name: &str) -> StoredRecord {
        let weft = WeftRecord {
            id: "web-1".parse().unwrap(),
            name: "web".into(),
            node: Some("h1".parse().unwrap()),
            kind: Kind::Service,
            state: State::Up,
            unhealthy: false,
            candidate: false,
            born: 0,
            port_name: port_name.into(),
            proto: Proto::Tcp,
            labels: BTreeMap::new(),
            network: None,
        };
        let record = Record { host: host.into(), port, weft: Some(weft), ..Record::default() };
        StoredRecord {
            record,
            lease: Some(LeaseId(7)),
            created: Revision(1),
            modified: Revision(1),
            lost: false,
            tree: RecordTree::Served,
        }
    }

    #[test]
    fn the_parts_of_one_id_are_one_endpoint() {
        let key = (RecordPath::from_labels(["local", "skydns", "myapp", "web-1"]), true);
        let parts = [part("10.0.0.2", 80, ""), part("fd00::2", 80, ""), part("10.0.0.2", 9100, "metrics")];
        let e = Endpoint::from_parts(&key, &parts).unwrap();
        assert_eq!((e.id.as_str(), e.name.as_str(), e.addresses.len(), e.ports.len()), ("web-1", "web", 2, 2));
        assert_eq!(e.port(None, Proto::Tcp), Some(80));
        assert_eq!(e.port(Some("metrics"), Proto::Tcp), Some(9100));
        assert_eq!(e.port(None, Proto::Udp), None);
    }

    #[test]
    fn of_several_ports_without_a_name_the_one_with_the_services_number_stands_behind_it() {
        let key = (RecordPath::from_labels(["local", "skydns", "myapp", "web-1"]), true);
        let parts = [part("10.0.0.2", 80, ""), part("10.0.0.2", 443, ""), part("10.0.0.2", 9100, "metrics")];
        let e = Endpoint::from_parts(&key, &parts).unwrap();
        for (port, behind) in [("80", 80), ("443", 443), ("https=443", 443), ("8080", 80), ("9100", 80), ("metrics=9000", 9100)] {
            assert_eq!(e.port_behind(&port.parse().unwrap()), Some(behind), "{port}");
        }
        assert_eq!(e.port_behind(&"53/udp".parse().unwrap()), None);
    }

    #[test]
    fn a_record_of_others_is_an_endpoint_of_its_own() {
        let path = RecordPath::from_labels(["local", "skydns", "db", "x1"]);
        let record = Record { host: "10.0.0.5".into(), port: 5432, ..Record::default() };
        let key = key_of(&path, &record);
        assert_eq!(key, (path, false));
        let stored = StoredRecord {
            record,
            lease: None,
            created: Revision(1),
            modified: Revision(1),
            lost: false,
            tree: RecordTree::Served,
        };
        let e = Endpoint::from_parts(&key, [&stored]).unwrap();
        assert_eq!((e.id.as_str(), e.name.as_str(), e.state), ("x1", "db", EndpointState::Up));
    }

    #[test]
    fn the_most_cautious_part_decides_and_loss_needs_all_parts() {
        let key = (RecordPath::from_labels(["a", "b"]), true);
        let mut parts = [part("10.0.0.2", 80, ""), part("fd00::2", 80, "")];
        parts[1].lost = true;
        assert_eq!(Endpoint::from_parts(&key, &parts).unwrap().state, EndpointState::Up);
        parts[0].lost = true;
        assert_eq!(Endpoint::from_parts(&key, &parts).unwrap().state, EndpointState::Lost);
        parts[0].record.weft.as_mut().unwrap().state = State::Down;
        assert_eq!(Endpoint::from_parts(&key, &parts).unwrap().state, EndpointState::Down);
    }

    #[test]
    fn only_what_is_down_by_its_checks_alone_is_unhealthy() {
        let key = (RecordPath::from_labels(["a", "b"]), true);
        let mut parts = [part("10.0.0.2", 80, ""), part("fd00::2", 80, "")];
        let unhealthy = |parts: &[StoredRecord]| Endpoint::from_parts(&key, parts).unwrap().unhealthy;
        assert!(!unhealthy(&parts), "it is up");
        for (at, expected) in [(0, true), (1, true)] {
            let weft = parts[at].record.weft.as_mut().unwrap();
            (weft.state, weft.unhealthy) = (State::Down, true);
            assert_eq!(unhealthy(&parts), expected);
        }
        parts[1].record.weft.as_mut().unwrap().unhealthy = false;
        assert!(!unhealthy(&parts), "one part is down for another reason");
    }
}
