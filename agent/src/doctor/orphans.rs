//! What is left in the store and belongs to nothing any more: told with the command that removes it, never removed.
//!
//! A virtual IP of no service keeps its address from everybody; a record that names a host which is gone is served for ever.
//! Deleting is for a person: a host that is away for a week is not gone, and who wrote a key by hand may know why.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_api::Finding;
use weft_model::ids::NodeName;
use weft_model::snapshot::Snapshot;
use weft_store::Kind;

use crate::admin::Admin;

const CHECK: &str = "orphans";

/// Findings shown at most.
const MOST: usize = 100;

/// Keys that stand for nothing.
pub(super) async fn orphans(admin: Arc<Admin>) -> Vec<Finding> {
    let Ok(snapshot) = admin.snapshot() else {
        return vec![Finding::skipped(CHECK, &admin.node, "the store has not been read yet")];
    };
    judge(&snapshot, admin.registry.store().kind())
}

fn judge(snapshot: &Snapshot, kind: Kind) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(virtual_ips(snapshot, kind));
    found.extend(services(snapshot));
    found.extend(records(snapshot));
    found.extend(reservations(snapshot));
    found.extend(drains(snapshot));
    if found.len() > MOST {
        let more = found.len() - MOST;
        found.truncate(MOST);
        found.push(Finding::warn(CHECK, kind.as_str(), format!("{more} more"), "remove those shown, then look again"));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, kind.as_str(), "every virtual IP, record and reservation belongs to something"));
    }
    found
}

/// How one key is deleted. The embedded store has no client of its own: a document without the key takes its place.
fn delete(kind: Kind, key: &str) -> String {
    match kind {
        Kind::Etcd => format!("if nobody needs it: etcdctl del {key}"),
        Kind::Embedded => format!(
            "if nobody needs it: netctl store export, take {key} out of the document, stop weftd, move its database away, start it \
             and netctl store import --replace"
        ),
    }
}

/// Addresses that are held for a service which is not there, or does not have them.
fn virtual_ips(snapshot: &Snapshot, kind: Kind) -> Vec<Finding> {
    let mut found = Vec::new();
    for (address, owner) in snapshot.vips() {
        let service = &owner.value.service;
        let key = snapshot.layout().vip(*address);
        // One that does not parse may have it.
        if snapshot.bad_at(&snapshot.layout().service(service)).is_some() {
            continue;
        }
        let what = match snapshot.service(service) {
            None => format!("{address} is held for the service {service}, which is not there: nobody else gets it"),
            Some(stored) if !stored.value.vips.contains(address) => {
                format!("{address} is held for the service {service}, which does not have it: nobody else gets it")
            }
            Some(_) => continue,
        };
        found.push(Finding::warn(CHECK, &key, what, delete(kind, &key)));
    }
    found
}

/// Services whose address is not theirs by the key that says so, and services of no namespace.
fn services(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, stored) in snapshot.services() {
        let key = snapshot.layout().service(name);
        for address in &stored.value.vips {
            let owner = snapshot.vips().find(|(vip, _)| *vip == address).map(|(_, owner)| &owner.value.service);
            let what = match owner {
                Some(owner) if owner == name => continue,
                Some(owner) => format!("{address} is the service {owner}'s: this one gets no traffic there"),
                None => format!("{address} is not held for it: another service may be given the same address"),
            };
            let next = format!("netctl service rm {name}, and create it again");
            found.push(Finding::warn(CHECK, &key, what, next));
        }
        if !snapshot.has_namespace(&name.namespace) {
            let what = format!("there is no namespace {}: its name is not found below it", name.namespace);
            found.push(Finding::warn(CHECK, &key, what, format!("netctl service rm {name}, or declare the namespace")));
        }
    }
    found
}

/// Records that stay for ever in the name of a host that is gone. Those on a lease go by themselves.
fn records(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    for (place, stored) in snapshot.places() {
        let Some(node) = stored.record.weft.as_ref().and_then(|weft| weft.node.as_ref()) else { continue };
        if stored.lease.is_some() || is_known(snapshot, node) {
            continue;
        }
        let key = snapshot.layout().place(&place);
        let what = format!("it is in the name of the host {node}, which is gone, and has no lease: it is served for ever");
        found.push(Finding::warn(CHECK, key, what, format!("netctl node rm {node}, if that host does not come back")));
    }
    found
}

/// Subnets that are kept for hosts that nobody knows.
fn reservations(snapshot: &Snapshot) -> Vec<Finding> {
    // A flannel host is called by its address.
    let addresses: BTreeSet<String> = snapshot.leases().map(|(_, lease)| lease.value.address().to_string()).collect();
    let mut found = Vec::new();
    for (network, subnet, stored) in snapshot.reservations() {
        let node = &stored.value.node;
        if is_known(snapshot, node) || addresses.contains(node.as_str()) {
            continue;
        }
        let key = snapshot.layout().reservation(network, subnet);
        let what = format!("{subnet} is kept for {node}, and there is no such host, or it is gone");
        found.push(Finding::warn(CHECK, key, what, format!("netctl network unreserve {node}, if it is not to come")));
    }
    found
}

/// Wishes to drain what is not there. They wait: who comes back under that name is drained at once.
fn drains(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    for (node, drain) in snapshot.node_drains().filter(|(node, _)| !is_known(snapshot, node)) {
        let since = &drain.value.since;
        let what = format!("the host {node} is to be drained since {since}, and there is no such host, or it is gone");
        let next = format!("netctl node undrain {node}, unless it is to come back drained");
        found.push(Finding::warn(CHECK, snapshot.layout().drain_node(node), what, next));
    }
    for (path, drain) in snapshot.endpoint_drains() {
        if snapshot.endpoints().any(|endpoint| endpoint.path == *path) {
            continue;
        }
        let (id, since) = (path.last().unwrap_or_default(), &drain.value.since);
        let what = format!("the endpoint {id} is to be drained since {since}, and there is no such endpoint");
        let next = format!("netctl endpoint undrain {id}, unless it is to come back drained");
        found.push(Finding::warn(CHECK, snapshot.layout().drain_endpoint(path), what, next));
    }
    found
}

/// Whether a host is there, or was not long ago: its subnet outlives it by a day.
fn is_known(snapshot: &Snapshot, node: &NodeName) -> bool {
    snapshot.node(node).is_some() || snapshot.lease_of(node).is_some()
}

#[cfg(test)]
mod tests {
    use weft_api::CheckResult;
    use weft_model::ids::{LeaseId, Revision};
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;

    fn world(entries: &[(&str, &str, Option<i64>)]) -> Snapshot {
        let entry = |(key, value, lease): &(&str, &str, Option<i64>)| Entry {
            key: (*key).into(),
            value: (*value).into(),
            lease: lease.map(LeaseId),
            created: Revision(1),
            modified: Revision(1),
        };
        Snapshot::complete(Arc::new(Layout::default()), Revision(2), entries.iter().map(entry).collect(), None)
    }

    fn subjects(found: &[Finding]) -> Vec<&str> {
        assert!(found.iter().all(|f| f.result == CheckResult::Warn), "{found:?}");
        found.iter().map(|f| f.subject.as_str()).collect()
    }

    const NODE: &str =
        r#"{"node":"h1","public_ip":"192.0.2.1","version":"1","capabilities":[],"boot":"b","instance":"i","since":""}"#;

    #[test]
    fn what_belongs_together_is_no_orphan() {
        let found = judge(
            &world(&[
                ("/weft/v1/nodes/h1", NODE, Some(7)),
                ("/weft/v1/services/default/a", r#"{"ports":[{"port":80}],"vips":["10.112.0.7"]}"#, None),
                ("/weft/v1/vips/10.112.0.7", r#"{"service":"default/a"}"#, None),
                ("/skydns/local/skydns/a/1/4", r#"{"host":"10.244.3.2","weft":{"id":"1","name":"1","node":"h1"}}"#, None),
                ("/skydns/local/skydns/a/2/4", r#"{"host":"10.244.3.2","weft":{"id":"2","name":"2","node":"h9"}}"#, Some(9)),
                ("/skydns/local/skydns/b", r#"{"host":"192.0.2.9"}"#, None),
                ("/weft/v1/reservations/default/10.244.3.0-24", r#"{"node":"h1"}"#, None),
            ]),
            Kind::Etcd,
        );
        assert_eq!(found.iter().map(|f| f.result).collect::<Vec<_>>(), [CheckResult::Ok], "{found:?}");
    }

    #[test]
    fn each_kind_of_orphan_is_found_and_how_to_remove_it() {
        let found = judge(
            &world(&[
                ("/weft/v1/services/default/a", r#"{"ports":[{"port":80}],"vips":["10.112.0.8","10.112.0.9"]}"#, None),
                ("/weft/v1/services/prod/b", r#"{"ports":[{"port":80}]}"#, None),
                ("/weft/v1/vips/10.112.0.6", r#"{"service":"default/gone"}"#, None),
                ("/weft/v1/vips/10.112.0.7", r#"{"service":"default/a"}"#, None),
                ("/weft/v1/vips/10.112.0.8", r#"{"service":"prod/b"}"#, None),
                ("/skydns/local/skydns/a/1/4", r#"{"host":"10.244.3.2","weft":{"id":"1","name":"1","node":"h9"}}"#, None),
                ("/weft/v1/reservations/default/10.244.3.0-24", r#"{"node":"h8"}"#, None),
                ("/weft/v1/drains/nodes/h7", r#"{"since":"2026-01-01T00:00:00Z","by":"h1"}"#, None),
                ("/weft/v1/drains/endpoints/local/skydns/a/9", r#"{"since":"2026-01-01T00:00:00Z","by":"h1"}"#, None),
            ]),
            Kind::Etcd,
        );
        assert_eq!(
            subjects(&found),
            [
                "/weft/v1/vips/10.112.0.6",
                "/weft/v1/vips/10.112.0.7",
                "/weft/v1/vips/10.112.0.8",
                "/weft/v1/services/default/a",
                "/weft/v1/services/default/a",
                "/weft/v1/services/prod/b",
                "/skydns/local/skydns/a/1/4",
                "/weft/v1/reservations/default/10.244.3.0-24",
                "/weft/v1/drains/nodes/h7",
                "/weft/v1/drains/endpoints/local/skydns/a/9",
            ]
        );
        let next: Vec<_> = found.iter().filter_map(|f| f.next.as_deref()).collect();
        assert_eq!(next.len(), found.len());
        assert!(next[0].contains("etcdctl del /weft/v1/vips/10.112.0.6"), "{next:?}");
        assert!(next[6].contains("netctl node rm h9") && next[7].contains("netctl network unreserve h8"), "{next:?}");
    }
}
