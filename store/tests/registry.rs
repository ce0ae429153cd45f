//! What the typed transactions promise while others write at the same time.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_model::cluster::ClusterConfig;
use weft_model::ids::{Revision, ServiceName};
use weft_model::keys::{Layout, Place, RecordPath};
use weft_model::network::{Backend, NetworkConfig};
use weft_model::node::Node;
use weft_model::record::Record;
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;
use weft_model::subnet::{Lease, SubnetKey, Tree};
use weft_store::Outcome;
use weft_store::embedded::EmbeddedStore;
use weft_store::registry::{NodeRemains, RecordPut, Registry, ServicePut};

async fn registry() -> (Registry, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path().join("store.redb")).await.unwrap();
    (Registry::new(Arc::new(store), Arc::new(Layout::default())), dir)
}

async fn snapshot(registry: &Registry) -> Snapshot {
    let layout = Arc::new(Layout::default());
    let listing = registry.store().list(&layout.watched()).await.unwrap();
    Snapshot::complete(layout, listing.revision, listing.entries, None)
}

fn done(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Done(_))
}

fn service(vip: &str) -> Service {
    Service { ports: vec!["80".parse().unwrap()], vips: vec![vip.parse().unwrap()], ..Service::default() }
}

#[tokio::test]
async fn what_was_read_stands_until_somebody_writes_it_and_to_ask_writes_nothing() {
    let (registry, _dir) = registry().await;
    let layout = Layout::default();
    let prod = "prod".parse().unwrap();
    let at = registry.create_namespace(&prod).await.unwrap().revision();
    let asked = || registry.stand([(layout.namespace(&prod), at)]);
    assert_eq!(asked().await.unwrap(), Outcome::Done(at), "no revision was made");
    let gone = registry.remove_namespace(&prod, at).await.unwrap().revision();
    assert_eq!(asked().await.unwrap(), Outcome::Refused(gone));
}

#[tokio::test]
async fn of_twenty_services_that_want_one_address_one_gets_it() {
    let (registry, _dir) = registry().await;
    let tries = (0..20).map(|n| {
        let registry = registry.clone();
        tokio::spawn(async move {
            let name: ServiceName = format!("s{n}").parse().unwrap();
            done(registry.create_service(&name, &service("10.112.0.7"), None).await.unwrap())
        })
    });
    let mut won = 0;
    for attempt in tries.collect::<Vec<_>>() {
        won += usize::from(attempt.await.unwrap());
    }
    let s = snapshot(&registry).await;
    assert_eq!((won, s.services().count(), s.vips().count()), (1, 1, 1));
    let (name, _) = s.services().next().unwrap();
    assert_eq!(&s.vips().next().unwrap().1.value.service, name, "the address belongs to the service that exists");
}

#[tokio::test]
async fn a_service_and_its_address_come_and_go_together() {
    let (registry, _dir) = registry().await;
    let name: ServiceName = "web".parse().unwrap();
    assert!(done(registry.create_service(&name, &service("10.112.0.7"), None).await.unwrap()));
    assert!(!done(registry.create_service(&name, &service("10.112.0.8"), None).await.unwrap()), "the name is taken");
    let s = snapshot(&registry).await;
    let at = s.service(&name).unwrap().modified;
    let vips: Vec<IpAddr> = s.vips().map(|(vip, _)| *vip).collect();
    assert!(!done(registry.remove_service(&name, at.next(), &vips).await.unwrap()), "read at another revision");
    assert!(done(registry.remove_service(&name, at, &vips).await.unwrap()));
    let s = snapshot(&registry).await;
    assert_eq!((s.services().count(), s.vips().count()), (0, 0));
}

#[tokio::test]
async fn a_service_is_replaced_with_its_addresses_or_not_at_all() {
    let (registry, _dir) = registry().await;
    let name: ServiceName = "web".parse().unwrap();
    assert!(done(registry.create_service(&name, &service("10.112.0.7"), None).await.unwrap()));
    assert!(done(registry.create_service(&"db".parse().unwrap(), &service("10.112.0.8"), None).await.unwrap()));
    let read = async || {
        let s = snapshot(&registry).await;
        let vips: Vec<(IpAddr, Revision)> =
            s.vips().filter(|(_, owner)| owner.value.service == name).map(|(vip, owner)| (*vip, owner.modified)).collect();
        (s.service(&name).unwrap().modified, vips)
    };
    let put = |vips: &[&str], over: Revision, owned: &[(IpAddr, Revision)]| {
        let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        let (kept, released) = owned.iter().copied().partition(|(vip, _)| vips.contains(vip));
        let service = Service { ports: vec!["80".parse().unwrap()], vips, ..Service::default() };
        let put = ServicePut { name: name.clone(), service, over: Some(over), settings: None, kept, released };
        let registry = registry.clone();
        async move { done(registry.write_service(&put).await.unwrap()) }
    };
    let (at, owned) = read().await;
    assert!(!put(&["10.112.0.7", "10.112.0.8"], at, &owned).await, "the second one is another's");
    assert!(!put(&["10.112.0.9"], at.next(), &owned).await, "the definition was read at another revision");
    assert!(put(&["10.112.0.7", "10.112.0.9"], at, &owned).await);
    let (again, both) = read().await;
    assert_eq!((both.len(), both[0]), (2, owned[0]), "what stays is not written again");
    assert!(!put(&["10.112.0.7"], at, &both).await, "written meanwhile");
    assert!(put(&[], again, &both).await);
    assert_eq!(read().await.1, []);
    assert_eq!(snapshot(&registry).await.vips().count(), 1, "the other service has its own");
    let of_another = [("10.112.0.8".parse().unwrap(), at)];
    assert!(!put(&["10.112.0.8"], read().await.0, &of_another).await, "what was read of an address is compared as well");
}

#[tokio::test]
async fn a_service_needs_its_namespace_and_may_not_be_called_as_one() {
    let (registry, _dir) = registry().await;
    let in_prod: ServiceName = "prod/web".parse().unwrap();
    assert!(!done(registry.create_service(&in_prod, &service("10.112.0.7"), None).await.unwrap()));
    let txn = weft_store::Txn::new().put(Layout::default().namespace(&"prod".parse().unwrap()), "{}");
    registry.store().transact(txn).await.unwrap();
    assert!(done(registry.create_service(&in_prod, &service("10.112.0.7"), None).await.unwrap()));
    assert!(!done(registry.create_service(&"prod".parse().unwrap(), &service("10.112.0.8"), None).await.unwrap()));
}

#[tokio::test]
async fn a_service_is_created_only_under_the_settings_that_its_address_was_chosen_by() {
    let (registry, _dir) = registry().await;
    let (web, db): (ServiceName, ServiceName) = ("web".parse().unwrap(), "db".parse().unwrap());
    let Outcome::Done(first) = registry.write_cluster(&ClusterConfig::default(), None).await.unwrap() else {
        panic!("not written")
    };
    assert!(!done(registry.create_service(&web, &service("10.112.0.7"), None).await.unwrap()), "read before they were there");
    assert!(done(registry.create_service(&web, &service("10.112.0.7"), Some(first)).await.unwrap()));
    let moved = ClusterConfig { service_cidrs: vec!["10.113.0.0/16".parse().unwrap()], ..ClusterConfig::default() };
    assert!(done(registry.write_cluster(&moved, Some(first)).await.unwrap()));
    assert!(!done(registry.create_service(&db, &service("10.112.0.8"), Some(first)).await.unwrap()), "of the range before");
    assert_eq!(snapshot(&registry).await.services().count(), 1);
}

#[tokio::test]
async fn a_subnet_is_claimed_once_and_rewritten_only_as_it_was_read() {
    let (registry, _dir) = registry().await;
    let key = SubnetKey::v4("10.244.3.0/24".parse().unwrap());
    let lease = Lease::parse(br#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#).unwrap();
    let on = registry.store().grant(Duration::from_secs(60)).await.unwrap();
    let Outcome::Done(at) = registry.write_lease(&key, &lease, None, Some(on)).await.unwrap() else { panic!("not claimed") };
    assert!(!done(registry.write_lease(&key, &lease, None, Some(on)).await.unwrap()));
    assert!(!done(registry.write_lease(&key, &lease, Some(at.next()), Some(on)).await.unwrap()));
    assert!(done(registry.write_lease(&key, &lease, Some(at), Some(on)).await.unwrap()));
}

#[tokio::test]
async fn a_subnet_is_claimed_once_in_both_trees_and_in_either_form_of_its_key() {
    let (registry, _dir) = registry().await;
    let lease = Lease::parse(br#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#).unwrap();
    let dual = SubnetKey::new("10.244.3.0/24".parse().unwrap(), Some("fd00:10:244:3::/64".parse().unwrap()));
    assert!(done(registry.write_lease(&dual.in_tree(Tree::Weft), &lease, None, None).await.unwrap()));
    assert!(!done(registry.write_lease(&dual, &lease, None, None).await.unwrap()));
    let plain = SubnetKey::v4("10.244.4.0/24".parse().unwrap());
    assert!(done(registry.write_lease(&plain, &lease, None, None).await.unwrap()));
    let dual = SubnetKey { v6: dual.v6, ..plain };
    assert!(!done(registry.write_lease(&dual.in_tree(Tree::Weft), &lease, None, None).await.unwrap()));
    assert_eq!(snapshot(&registry).await.leases().count(), 2);
}

#[tokio::test]
async fn records_on_a_liveness_lease_are_written_only_beside_their_nodes_entry() {
    let (registry, _dir) = registry().await;
    let lease = registry.store().grant(Duration::from_secs(60)).await.unwrap();
    let node: Node = serde_json::from_str(r#"{"node":"h1"}"#).unwrap();
    let puts: Vec<RecordPut> = (0..250)
        .map(|n| RecordPut {
            path: RecordPath::from_labels(["local", "skydns", "web", &format!("x{n}"), "4"]),
            record: Record { host: "10.244.3.2".into(), ..Record::default() },
            lease: Some(lease),
            over: None,
            moved: None,
        })
        .collect();
    assert!(!done(registry.write_records(&puts, &[], Some((&node.node, Revision(1)))).await.unwrap()));
    assert_eq!(snapshot(&registry).await.records().count(), 0);
    let Outcome::Done(at) = registry.write_node(&node, None, lease).await.unwrap() else { panic!("not announced") };
    assert!(!done(registry.write_node(&node, None, lease).await.unwrap()), "the name is held");
    assert!(!done(registry.write_records(&puts, &[], Some((&node.node, at.next()))).await.unwrap()), "another's entry");
    assert!(done(registry.write_records(&puts, &[], Some((&node.node, at))).await.unwrap()));
    assert_eq!(snapshot(&registry).await.records().count(), 250, "more than one transaction holds");
    registry.store().revoke(lease).await.unwrap();
    let s = snapshot(&registry).await;
    assert_eq!((s.records().count(), s.nodes().count()), (0, 0));
}

#[tokio::test]
async fn records_are_written_and_deleted_only_as_they_were_read() {
    let (registry, _dir) = registry().await;
    let path = |n: usize| RecordPath::from_labels(["local", "skydns", "web", &format!("x{n}"), "4"]);
    let put = |n: usize, host: &str, over| RecordPut {
        path: path(n),
        record: Record { host: host.into(), ..Record::default() },
        lease: None,
        over,
        moved: None,
    };
    assert!(done(registry.write_record(&put(0, "10.244.3.2", None)).await.unwrap()));
    assert!(!done(registry.write_record(&put(0, "10.244.4.2", None)).await.unwrap()), "it is there");
    let at = snapshot(&registry).await.record(&path(0)).unwrap().modified;
    assert!(!done(registry.write_record(&put(0, "10.244.4.2", Some(at.next()))).await.unwrap()), "read at another revision");
    assert!(
        !done(registry.write_records(&[], &[(Place::served(path(0)), at.next())], None).await.unwrap()),
        "read at another revision"
    );
    assert_eq!(snapshot(&registry).await.record(&path(0)).unwrap().record.host, "10.244.3.2");

    // What one transaction refuses does not keep the next one back.
    let many: Vec<RecordPut> = (0..150).map(|n| put(n, "10.244.4.2", None)).collect();
    assert!(!done(registry.write_records(&many, &[], None).await.unwrap()));
    assert_eq!(snapshot(&registry).await.records().count(), 101, "the first and those of the transactions after it");
    assert!(done(registry.write_record(&put(0, "10.244.4.2", Some(at))).await.unwrap()));
    let at = snapshot(&registry).await.record(&path(0)).unwrap().modified;
    assert!(done(registry.write_records(&[], &[(Place::served(path(0)), at)], None).await.unwrap()));
    assert!(snapshot(&registry).await.record(&path(0)).is_none());
}

#[tokio::test]
async fn a_network_that_is_there_is_replaced_only_on_request() {
    let (registry, _dir) = registry().await;
    let network = |cidr: &str| NetworkConfig::new(cidr.parse().unwrap(), 0, None, None, Backend::default()).unwrap();
    assert!(done(registry.write_network(&network("10.1.0.0/16"), false).await.unwrap()));
    assert!(!done(registry.write_network(&network("10.2.0.0/16"), false).await.unwrap()));
    assert_eq!(snapshot(&registry).await.network(), Some(&network("10.1.0.0/16")));
    assert!(done(registry.write_network(&network("10.2.0.0/16"), true).await.unwrap()));
    assert_eq!(snapshot(&registry).await.network(), Some(&network("10.2.0.0/16")));
}

#[tokio::test]
async fn a_nodes_remains_are_removed_only_while_it_is_dead_and_its_lease_as_it_was_read() {
    let (registry, _dir) = registry().await;
    let node: Node = serde_json::from_str(r#"{"node":"h3"}"#).unwrap();
    let key = SubnetKey::v4("10.244.3.0/24".parse().unwrap());
    let lease = Lease::parse(br#"{"PublicIP":"192.0.2.3","BackendType":"host-gw","weft":{"node":"h3"}}"#).unwrap();
    let on = registry.store().grant(Duration::from_secs(60)).await.unwrap();
    let Outcome::Done(at) = registry.write_lease(&key, &lease, None, None).await.unwrap() else { panic!("not claimed") };
    let path = |n: usize| RecordPath::from_labels(["local", "skydns", "web", &format!("x{n}"), "4"]);
    let record = Record { host: "10.244.3.2".into(), ..Record::default() };
    let puts: Vec<RecordPut> =
        (0..250).map(|n| RecordPut { path: path(n), record: record.clone(), lease: None, over: None, moved: None }).collect();
    assert!(done(registry.write_records(&puts, &[], None).await.unwrap()));
    let read: Vec<_> = snapshot(&registry).await.places().map(|(place, r)| (place, r.modified)).collect();
    let remains = |at| NodeRemains { node: node.node.clone(), leases: vec![(key, at)], records: read.clone() };

    assert!(done(registry.write_node(&node, None, on).await.unwrap()));
    assert!(!done(registry.remove_node(&remains(at)).await.unwrap()), "it is alive");
    registry.store().revoke(on).await.unwrap();
    assert!(!done(registry.remove_node(&remains(at.next())).await.unwrap()), "read at another revision");
    let s = snapshot(&registry).await;
    assert_eq!((s.leases().count(), s.records().count()), (1, 250), "a refusal removes nothing");
    assert!(done(registry.remove_node(&remains(at)).await.unwrap()));
    let s = snapshot(&registry).await;
    assert_eq!((s.leases().count(), s.records().count()), (0, 0));
}

#[tokio::test]
async fn a_record_is_moved_between_the_trees_in_one_revision_and_only_as_it_was_read() {
    let (registry, _dir) = registry().await;
    let path = RecordPath::from_labels(["local", "skydns", "web", "x", "4"]);
    let value = |state: &str| {
        let text = format!(r#"{{"host":"10.244.3.2","weft":{{"id":"x","node":"h1","state":"{state}"}}}}"#);
        Record::parse(text.as_bytes()).unwrap()
    };
    let put = |state, over, moved| RecordPut { path: path.clone(), record: value(state), lease: None, over, moved };
    let (served, down) = (Place::served(path.clone()), Place::served(path.clone()).opposite());
    assert!(done(registry.write_record(&put("up", None, None)).await.unwrap()));
    let at = snapshot(&registry).await.at(&served).unwrap().modified;

    assert!(!done(registry.write_record(&put("down", None, None)).await.unwrap()), "it stands in the other tree");
    assert!(!done(registry.write_record(&put("down", None, Some(at.next()))).await.unwrap()), "read at another revision");
    let Outcome::Done(moved) = registry.write_record(&put("down", None, Some(at))).await.unwrap() else { panic!("not moved") };
    let s = snapshot(&registry).await;
    assert_eq!((s.records().count(), s.at(&down).unwrap().modified), (0, moved));
    assert!(!done(registry.write_record(&put("up", None, Some(at))).await.unwrap()), "moved since");

    // Many at once, each half with the other.
    let many = |state: &str, s: &weft_model::snapshot::Snapshot| -> Vec<RecordPut> {
        let of = |n: usize| RecordPath::from_labels(["local", "skydns", "web", &format!("m{n}"), "4"]);
        let one = |n: usize| {
            let record = value(state);
            let place = Place { path: of(n), tree: record.tree() };
            let at = |place: &Place| s.at(place).map(|r| r.modified);
            RecordPut { path: of(n), record, lease: None, over: at(&place), moved: at(&place.opposite()) }
        };
        (0..120).map(one).collect()
    };
    for (state, trees) in [("up", (120, 1)), ("down", (0, 121)), ("draining", (120, 1))] {
        let puts = many(state, &snapshot(&registry).await);
        assert!(done(registry.write_records(&puts, &[], None).await.unwrap()));
        let s = snapshot(&registry).await;
        assert_eq!((s.records().count(), s.down_records().count()), trees, "{state}");
        assert_eq!(s.shadowed().count(), 0);
    }
}

#[tokio::test]
async fn a_drain_is_wished_once_and_taken_back() {
    let (registry, _dir) = registry().await;
    let (node, path) = ("h1".parse().unwrap(), RecordPath::from_labels(["local", "skydns", "web", "x"]));
    let drain = |since: &str| weft_model::drain::Drain { since: since.to_owned(), ..Default::default() };
    assert!(done(registry.drain_node(&node, &drain("a"), None).await.unwrap()));
    assert!(!done(registry.drain_node(&node, &drain("b"), None).await.unwrap()), "since when it is drained stays");
    let at = snapshot(&registry).await.node_drain(&node).unwrap().modified;
    let dated = weft_model::drain::Drain { deadline: Some("d".to_owned()), ..drain("a") };
    assert!(done(registry.drain_node(&node, &dated, Some(at)).await.unwrap()), "as it was read");
    assert!(!done(registry.drain_node(&node, &drain("b"), Some(at)).await.unwrap()), "and not otherwise");
    assert!(done(registry.drain_endpoint(&path, &drain("c"), None).await.unwrap()));
    let s = snapshot(&registry).await;
    assert_eq!((s.node_drain(&node).unwrap().value.since.as_str(), s.endpoint_drain(&path).is_some()), ("a", true));
    assert!(done(registry.undrain_node(&node).await.unwrap()) && done(registry.undrain_endpoint(&path).await.unwrap()));
    assert!(!snapshot(&registry).await.is_drained(&path, Some(&node)));
}
