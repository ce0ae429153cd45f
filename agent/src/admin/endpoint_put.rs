//! Endpoints outside of Weft's own containers, by name: all of one is said at once, and replaced by compare-and-swap.

use std::collections::BTreeSet;

use weft_api::{EndpointSpec, EndpointView, Precondition};
use weft_model::attachment::Instance;
use weft_model::endpoint::{Endpoint, EndpointKey, EndpointState, StoredRecord};
use weft_model::ids::{EndpointId, Revision, ServiceName};
use weft_model::keys::{Place, RecordPath, RecordTree};
use weft_model::record::{Record, State, WeftRecord, check_labels, check_name};
use weft_model::service::port_name;
use weft_model::snapshot::Snapshot;
use weft_store::Outcome;
use weft_store::registry::RecordPut;

use super::Admin;
use super::answer::Tagged;
use super::endpoints::endpoint_view;
use super::precondition::Write;
use crate::refusal::Refusal;
use crate::registrar::records::suffix;

/// How often a write is decided again because somebody was faster.
const TRIES: usize = 8;

/// The most ports of one endpoint: with two addresses all of it, old and new, fits into one transaction.
const MAX_PORTS: usize = 12;

/// An endpoint by name.
#[derive(Clone, Debug)]
pub(super) struct Named {
    service: ServiceName,
    id: EndpointId,
}

impl Named {
    /// The endpoint that a path names.
    ///
    /// # Errors
    /// A part of it is no name.
    pub fn new(namespace: &str, service: &str, id: &str) -> Result<Self, Refusal> {
        let service = format!("{namespace}/{service}").parse().map_err(|e| Refusal::invalid(format!("endpoint: {e}")))?;
        let id = id.parse().map_err(|e| Refusal::invalid(format!("endpoint: {e}")))?;
        Ok(Self { service, id })
    }

    fn key(&self, snapshot: &Snapshot) -> EndpointKey {
        (snapshot.path_of(&self.service).child(self.id.as_str()), true)
    }

    fn unknown(&self) -> Refusal {
        Refusal::not_found(format!(
            "there is no endpoint {} of {}; netctl endpoint list shows those there are",
            self.id, self.service
        ))
    }
}

impl Admin {
    pub(super) fn endpoint(&self, named: &Named) -> Result<Tagged<EndpointView>, Refusal> {
        let snapshot = self.snapshot()?;
        let (path, _) = named.key(&snapshot);
        // Of one written by us and one by others at the same path, ours.
        let at_path = |ours| snapshot.endpoint(&(path.clone(), ours));
        let endpoint = at_path(true).or_else(|| at_path(false)).ok_or_else(|| named.unknown())?;
        Ok(Tagged(endpoint_view(&snapshot, endpoint), endpoint.modified))
    }

    pub(super) async fn endpoint_put(
        &self,
        named: &Named,
        spec: EndpointSpec,
        write: Write,
    ) -> Result<Tagged<EndpointView>, Refusal> {
        let what = format!("endpoint put {} of {}", named.id, named.service);
        check(&spec).map_err(|why| Refusal::invalid(format!("{what}: {why}")))?;
        self.catch_up(write).await;
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            if !snapshot.has_namespace(&named.service.namespace) {
                return Err(Refusal::invalid(format!(
                    "{what}: there is no namespace {0}; netctl namespace create {0}",
                    named.service.namespace
                )));
            }
            if let Some(network) = spec.network.as_ref().filter(|network| !snapshot.has_network(network)) {
                return Err(Refusal::invalid(format!(
                    "{what}: there is no network {network}; netctl network list shows those there are"
                )));
            }
            let key = named.key(&snapshot);
            let there = snapshot.endpoint(&key);
            write.check(&what, there.map(|e| e.modified))?;
            not_attached(&what, there)?;
            if there.is_none() {
                not_anothers(&what, snapshot.endpoint(&(key.0.clone(), false)), "change it there, or choose another id")?;
            }
            let (puts, deletes) = changes(&snapshot, named, &key, &spec);
            let at = there.map_or(Revision::default(), |e| e.modified);
            if write.dry_run {
                return preview(&snapshot, &key, named, &spec, at);
            }
            let is_there = puts.is_empty() && deletes.is_empty();
            let written = if is_there {
                // This agent may be behind: the store says whether it is so.
                let parts = there.map(|there| snapshot.parts_of(there)).unwrap_or_default();
                let parts = parts.into_iter().filter(|(_, part)| !part.lost);
                self.registry.stand(parts.map(|(place, part)| (snapshot.layout().place(&place), part.modified))).await
            } else {
                self.registry.write_records(&puts, &deletes, None).await
            };
            match written.map_err(|e| Refusal::store(&what, &e))? {
                Outcome::Done(_) if is_there => return preview(&snapshot, &key, named, &spec, at),
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    // What was written, and not what is there now: somebody else may have written since.
                    return preview(&snapshot, &key, named, &spec, revision);
                }
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("{what}: somebody else keeps changing it; try again")))
    }

    pub(super) async fn endpoint_delete(&self, named: &Named, write: Write) -> Result<EndpointView, Refusal> {
        let what = format!("endpoint rm {} of {}", named.id, named.service);
        self.catch_up(write).await;
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            let (path, _) = named.key(&snapshot);
            let there = [true, false].into_iter().find_map(|ours| snapshot.endpoint(&(path.clone(), ours)));
            write.check(&what, there.map(|e| e.modified))?;
            let endpoint = there.ok_or_else(|| named.unknown())?;
            not_attached(&what, there)?;
            // Who names its revision has seen it, and whose it is.
            if !matches!(write.condition, Precondition::At(_)) {
                not_anothers(&what, there, "delete it there, or, with If-Match, as it was read")?;
            }
            let view = endpoint_view(&snapshot, endpoint);
            if write.dry_run {
                return Ok(view);
            }
            let parts = snapshot.parts_of(endpoint).into_iter().filter(|(_, part)| !part.lost);
            let deletes: Vec<(Place, Revision)> = parts.map(|(place, part)| (place, part.modified)).collect();
            let written = self.registry.write_records(&[], &deletes, None).await;
            match written.map_err(|e| Refusal::store(&what, &e))? {
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    return Ok(view);
                }
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("{what}: somebody else keeps changing it; try again")))
    }
}

/// What a host writes it writes again.
fn not_attached(what: &str, endpoint: Option<&std::sync::Arc<Endpoint>>) -> Result<(), Refusal> {
    let leased = endpoint.filter(|e| e.lease.is_some());
    match leased.and_then(|e| e.node.as_ref()) {
        Some(node) => {
            Err(Refusal::conflict(format!("{what}: node {node} registers it and would write it again; netctl detach there")))
        }
        None => Ok(()),
    }
}

/// What another program writes is that one's to change; beside it, under the same name, would stand two.
fn not_anothers(what: &str, endpoint: Option<&std::sync::Arc<Endpoint>>, advice: &str) -> Result<(), Refusal> {
    match endpoint.filter(|e| !e.ours) {
        Some(endpoint) => {
            let name = endpoint.path.dns_name();
            Err(Refusal::conflict(format!("{what}: {name} is written by another tool; {advice}")))
        }
        None => Ok(()),
    }
}

/// What makes no endpoint.
fn check(spec: &EndpointSpec) -> Result<(), String> {
    let of_family = |v4: bool| spec.addresses.iter().filter(|a| a.is_ipv4() == v4).count();
    if spec.addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    if of_family(true) > 1 || of_family(false) > 1 {
        return Err("one address of each family, at most; further ones are further endpoints".to_owned());
    }
    if let Some(address) = spec.addresses.iter().find(|a| a.is_unspecified() || a.is_multicast()) {
        return Err(format!("{address} is no address of a host"));
    }
    if spec.ports.len() > MAX_PORTS {
        return Err(format!("{} ports: at most {MAX_PORTS}", spec.ports.len()));
    }
    let mut seen = BTreeSet::new();
    for port in &spec.ports {
        if port.port == 0 {
            return Err("port 0 is no port".to_owned());
        }
        if !port.name.is_empty() {
            port_name(&port.name)?;
        }
        if !seen.insert((port.name.as_str(), port.proto, if port.name.is_empty() { port.port } else { 0 })) {
            return Err(format!("port {}/{} {:?} is there twice", port.port, port.proto, port.name));
        }
    }
    check_labels(&spec.labels)?;
    check_name(&spec.name)
}

/// The parts that an endpoint is made of. A state that somebody gave it stays.
fn parts(path: &RecordPath, named: &Named, spec: &EndpointSpec, state: State) -> Vec<(RecordPath, Record)> {
    let ports: Vec<Instance> = if spec.ports.is_empty() {
        vec![Instance::new(named.service.clone(), None, Default::default())]
    } else {
        let instance = |port: &weft_model::endpoint::EndpointPort| Instance {
            port_name: port.name.clone(),
            ..Instance::new(named.service.clone(), Some(port.port), port.proto)
        };
        spec.ports.iter().map(instance).collect()
    };
    let mut taken = BTreeSet::new();
    let mut parts = Vec::new();
    for port in ports {
        let suffix = suffix(&port, &taken);
        for address in &spec.addresses {
            let family = if address.is_ipv4() { "4" } else { "6" };
            let record = Record {
                host: address.to_string(),
                port: port.port.unwrap_or(0),
                priority: spec.priority,
                weight: spec.weight,
                targetstrip: 1,
                weft: Some(WeftRecord {
                    id: named.id.clone(),
                    name: spec.name.clone(),
                    node: None,
                    kind: spec.kind,
                    state,
                    unhealthy: false,
                    born: 0,
                    candidate: false,
                    port_name: port.port_name.clone(),
                    proto: port.proto,
                    labels: spec.labels.clone(),
                    network: spec.network.clone().filter(|network| !network.is_default()),
                }),
                ..Record::default()
            };
            parts.push((path.child(&format!("{family}{suffix}")), record));
        }
        taken.insert(suffix);
    }
    parts
}

/// What makes the endpoint in the store the one that is asked for.
fn changes(
    snapshot: &Snapshot,
    named: &Named,
    key: &EndpointKey,
    spec: &EndpointSpec,
) -> (Vec<RecordPut>, Vec<(Place, Revision)>) {
    let there = snapshot.endpoint(key).map(|endpoint| snapshot.parts_of(endpoint)).unwrap_or_default();
    let there: Vec<(Place, &StoredRecord)> = there.into_iter().filter(|(_, part)| !part.lost).collect();
    let state = there.first().map_or(State::Up, |(_, part)| part.state());
    let wanted = parts(&key.0, named, spec, state);
    let old = |path: &RecordPath| there.iter().find(|(at, _)| at.path == *path);
    let as_wanted =
        |(path, record): &(RecordPath, Record)| old(path).is_some_and(|(_, part)| part.record == *record && part.lease.is_none());
    if wanted.len() == there.len() && wanted.iter().all(as_wanted) {
        return (Vec::new(), Vec::new());
    }
    let deletes = there.iter().filter(|(place, _)| !wanted.iter().any(|(at, _)| *at == place.path));
    let deletes = deletes.map(|(place, part)| (place.clone(), part.modified)).collect();
    // What is right already is written again too, so that all that was read is compared: nothing of another's change survives
    // beside this one.
    let put = |(path, record): (RecordPath, Record)| {
        let put = RecordPut { path, record, lease: None, over: None, moved: None };
        match old(&put.path) {
            Some((place, part)) if *place == put.place() => RecordPut { over: Some(part.modified), ..put },
            Some((_, part)) => RecordPut { moved: Some(part.modified), ..put },
            None => put,
        }
    };
    (wanted.into_iter().map(put).collect(), deletes)
}

/// The endpoint as it would be, or is.
fn preview(
    snapshot: &Snapshot,
    key: &EndpointKey,
    named: &Named,
    spec: &EndpointSpec,
    revision: Revision,
) -> Result<Tagged<EndpointView>, Refusal> {
    let stored = parts(&key.0, named, spec, State::Up).into_iter().map(|(_, record)| StoredRecord {
        record,
        lease: None,
        created: revision,
        modified: revision,
        lost: false,
        tree: RecordTree::Served,
    });
    let stored: Vec<_> = stored.collect();
    let mut endpoint = Endpoint::from_parts(key, &stored).ok_or_else(|| named.unknown())?;
    // One that was lost with its host is written anew.
    if let Some(there) = snapshot.endpoint(key).filter(|there| there.state != EndpointState::Lost) {
        endpoint.state = there.state;
    }
    Ok(Tagged(endpoint_view(snapshot, &endpoint), revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::endpoint::EndpointPort;
    use weft_model::record::Proto;

    fn port(name: &str, port: u16, proto: Proto) -> EndpointPort {
        EndpointPort { name: name.to_owned(), port, proto }
    }

    fn spec(addresses: &[&str], ports: &[EndpointPort]) -> EndpointSpec {
        EndpointSpec {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ports: ports.to_vec(),
            ..EndpointSpec::default()
        }
    }

    #[test]
    fn an_endpoint_has_a_part_for_each_address_and_port_and_reads_back_as_it_was_asked_for() {
        let named = Named::new("default", "db", "a").unwrap();
        let ports = [port("", 5432, Proto::Tcp), port("dns", 53, Proto::Udp), port("", 53, Proto::Tcp)];
        let spec = spec(&["192.0.2.7", "2001:db8::7"], &ports);
        check(&spec).unwrap();
        let path = RecordPath::from_labels(["local", "skydns", "db", "a"]);
        let parts = parts(&path, &named, &spec, State::Up);
        let names: BTreeSet<&str> = parts.iter().filter_map(|(path, _)| path.last()).collect();
        assert_eq!(names.len(), 6, "{names:?}");
        let stored: Vec<_> = parts
            .iter()
            .map(|(_, record)| StoredRecord {
                record: Record::parse(record.to_json().as_bytes()).unwrap(),
                lease: None,
                created: Revision(1),
                modified: Revision(1),
                lost: false,
                tree: RecordTree::Served,
            })
            .collect();
        let endpoint = Endpoint::from_parts(&(path, true), &stored).unwrap();
        let mut expected = ports.to_vec();
        expected.sort_unstable();
        assert_eq!((endpoint.addresses, endpoint.ports), (spec.addresses, expected));
    }

    #[test]
    fn what_makes_no_endpoint_is_named() {
        let tcp = |name, number| port(name, number, Proto::Tcp);
        for (bad, part) in [
            (spec(&[], &[]), "no address"),
            (spec(&["10.0.0.1", "10.0.0.2"], &[]), "each family"),
            (spec(&["0.0.0.0"], &[]), "0.0.0.0"),
            (spec(&["ff02::1"], &[]), "ff02::1"),
            (spec(&["10.0.0.1"], &[tcp("", 0)]), "port 0"),
            (spec(&["10.0.0.1"], &[tcp("", 80), tcp("", 80)]), "twice"),
            (spec(&["10.0.0.1"], &[tcp("a", 80), tcp("a", 81)]), "twice"),
            (spec(&["10.0.0.1"], &[tcp("A B", 80)]), "A B"),
            (spec(&["10.0.0.1"], &(1..=13).map(|n| tcp("", n)).collect::<Vec<_>>()), "at most 12"),
        ] {
            let why = check(&bad).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
