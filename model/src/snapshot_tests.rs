//! What a snapshot keeps, forgets and tells apart.

use super::*;
use crate::endpoint::EndpointState;

fn entry(key: &str, value: &str, revision: i64) -> Entry {
    Entry { key: key.into(), value: value.into(), lease: None, created: Revision(revision), modified: Revision(revision) }
}

fn put(key: &str, value: &str, revision: i64) -> Change {
    Change::Put(entry(key, value, revision))
}

fn delete(key: &str, revision: i64) -> Change {
    Change::Delete { key: key.into(), revision: Revision(revision) }
}

fn empty() -> Snapshot {
    Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None)
}

const NODE: &str = "/weft/v1/nodes/h1";
const NODE_VALUE: &str = r#"{"node":"h1"}"#;
const PART: &str = "/skydns/local/skydns/myapp/web-1/4";
const PART_VALUE: &str = r#"{"host":"10.244.1.2","port":80,"weft":{"id":"web-1","node":"h1"}}"#;

fn with_web() -> Snapshot {
    let mut s = empty();
    s.apply(Revision(3), vec![put(NODE, NODE_VALUE, 2), put(PART, PART_VALUE, 3)]);
    s
}

fn state(s: &Snapshot) -> Option<EndpointState> {
    s.endpoints().next().map(|e| e.state)
}

#[test]
fn records_that_end_with_their_host_are_lost_in_whichever_order_the_deletions_are_seen() {
    for changes in [[delete(PART, 9), delete(NODE, 9)], [delete(NODE, 9), delete(PART, 9)]] {
        let mut s = with_web();
        for change in changes {
            s.apply(Revision(9), vec![change]);
        }
        assert_eq!(state(&s), Some(EndpointState::Lost));
        assert_eq!(s.nodes().count(), 0);
    }
}

#[test]
fn a_record_that_ends_by_itself_is_withdrawn() {
    let mut s = with_web();
    s.apply(Revision(8), vec![delete(PART, 8)]);
    assert_eq!(state(&s), None);
    s.apply(Revision(9), vec![delete(NODE, 9)]);
    assert_eq!(state(&s), None, "its host's later end does not bring it back");
}

#[test]
fn a_host_that_is_back_speaks_for_itself() {
    let mut s = with_web();
    s.apply(Revision(9), vec![delete(PART, 9), delete(NODE, 9)]);
    s.apply(Revision(10), vec![put(NODE, NODE_VALUE, 10)]);
    assert_eq!(state(&s), None);
    s.apply(Revision(11), vec![put(PART, PART_VALUE, 11)]);
    assert_eq!(state(&s), Some(EndpointState::Up));
}

const LEASE: &str = "/coreos.com/network/subnets/10.244.1.0-24";

fn lease(node: &str, revision: i64) -> Change {
    let weft = format!(r#"{{"PublicIP":"192.0.2.1","BackendType":"host-gw","weft":{{"node":"{node}"}}}}"#);
    put(LEASE, &weft, revision)
}

#[test]
fn lost_records_end_when_their_hosts_subnet_is_its_own_no_longer() {
    let flannels = put(LEASE, r#"{"PublicIP":"192.0.2.9","BackendType":"host-gw"}"#, 20);
    for end in [delete(LEASE, 20), lease("h2", 20), flannels] {
        let mut s = with_web();
        s.apply(Revision(9), vec![lease("h1", 4), delete(PART, 9), delete(NODE, 9)]);
        s.apply(Revision(10), vec![lease("h1", 10)]);
        assert_eq!(state(&s), Some(EndpointState::Lost), "renewed, not ended");
        s.apply(Revision(20), vec![end]);
        assert_eq!(state(&s), None);
    }
}

#[test]
fn a_new_listing_without_the_lost_hosts_lease_ends_its_records() {
    let mut s = with_web();
    s.apply(Revision(9), vec![lease("h1", 4), delete(PART, 9), delete(NODE, 9)]);
    let relist = |entries| state(&Snapshot::complete(Arc::new(Layout::default()), Revision(20), entries, Some(&s)));
    let of = |node| match lease(node, 4) {
        Change::Put(entry) => vec![entry],
        Change::Delete { .. } => Vec::new(),
    };
    assert_eq!(relist(of("h1")), Some(EndpointState::Lost));
    assert_eq!(relist(of("h2")), None);
    assert_eq!(relist(Vec::new()), None);
}

#[test]
fn a_host_that_dies_again_loses_its_records_although_its_watch_lags_behind() {
    let mut s = with_web();
    s.apply(Revision(20), vec![delete(PART, 9), put(PART, PART_VALUE, 12), delete(PART, 20)]);
    s.apply(Revision(20), vec![delete(NODE, 9), put(NODE, NODE_VALUE, 11), delete(NODE, 20)]);
    assert_eq!(state(&s), Some(EndpointState::Lost));
}

#[test]
fn withdrawn_records_are_forgotten_in_time() {
    let mut s = with_web();
    for revision in (10..30_000).step_by(2) {
        s.apply(Revision(revision + 1), vec![put(PART, PART_VALUE, revision), delete(PART, revision + 1)]);
    }
    for n in 0..100 {
        let part = format!("/skydns/local/skydns/myapp/w{n}/4");
        let value = format!(r#"{{"host":"10.244.1.2","weft":{{"id":"w{n}","node":"h1"}}}}"#);
        s.apply(Revision(30_000), vec![put(&part, &value, 30_000), delete(&part, 30_000)]);
    }
    assert_eq!(s.losses.graves(), 101);
    s.apply(Revision(40_001), Vec::new());
    assert_eq!(s.losses.graves(), 0);
}

#[test]
fn a_new_listing_tells_loss_too() {
    let before = with_web();
    let after = Snapshot::complete(Arc::new(Layout::default()), Revision(20), Vec::new(), Some(&before));
    assert_eq!(state(&after), Some(EndpointState::Lost));
    let node_lives = vec![entry(NODE, NODE_VALUE, 2)];
    let after = Snapshot::complete(Arc::new(Layout::default()), Revision(20), node_lives, Some(&before));
    assert_eq!(state(&after), None);
}

#[test]
fn a_value_that_does_not_parse_changes_nothing_but_the_list_of_bad_ones() {
    let mut s = with_web();
    s.apply(Revision(5), vec![put(PART, "{", 5), put("/coreos.com/network/subnets/foo", "bar", 5)]);
    assert_eq!(state(&s), Some(EndpointState::Up));
    assert_eq!(s.bad().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["/coreos.com/network/subnets/foo", PART]);
    let relisted = Snapshot::complete(
        Arc::new(Layout::default()),
        Revision(6),
        vec![entry(PART, "{", 5), entry(NODE, NODE_VALUE, 2)],
        Some(&s),
    );
    assert_eq!(state(&relisted), Some(EndpointState::Up));
    s.apply(Revision(7), vec![put(PART, PART_VALUE, 7), delete("/coreos.com/network/subnets/foo", 7)]);
    assert_eq!(s.bad().count(), 0);
}

#[test]
fn a_service_without_selector_stands_for_what_is_below_its_name_in_its_namespace() {
    let mut s = with_web();
    s.apply(
        Revision(9),
        vec![
            put("/weft/v1/namespaces/prod", "{}", 4),
            put("/skydns/local/skydns/prod/myapp/x", r#"{"host":"10.9.0.1"}"#, 5),
            put("/skydns/local/skydns/myapp/old", r#"{"host":"10.9.0.2","port":81}"#, 6),
            put("/skydns/local/skydns/myapptwo/old", r#"{"host":"10.9.0.3"}"#, 7),
            put("/skydns/local/skydns/myapp/n/4", r#"{"host":"10.9.0.4","weft":{"id":"n","kind":"name"}}"#, 8),
        ],
    );
    let ids = |name: &str| {
        let endpoints = s.endpoints_of(&name.parse().unwrap(), &Service::default());
        endpoints.iter().map(|e| e.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids("myapp"), ["old", "web-1"]);
    assert_eq!(ids("prod/myapp"), ["x"]);
    assert_eq!(ids("prod"), Vec::<String>::new(), "a namespace's names are not one of its namesake's");
}

#[test]
fn a_selector_looks_at_labels_in_its_namespace() {
    let mut s = empty();
    s.apply(
        Revision(9),
        vec![
            put("/skydns/local/skydns/a/x", r#"{"host":"10.9.0.1","labels":{"tier":"front"}}"#, 5),
            put("/skydns/local/skydns/b/y/4", r#"{"host":"10.9.0.2","weft":{"id":"y","labels":{"tier":"front"}}}"#, 6),
            put("/skydns/local/skydns/b/z/4", r#"{"host":"10.9.0.3","weft":{"id":"z","labels":{"tier":"back"}}}"#, 7),
            put("/skydns/com/example/w", r#"{"host":"10.9.0.4","labels":{"tier":"front"}}"#, 8),
        ],
    );
    let service = Service { selector: [("tier".to_owned(), "front".to_owned())].into(), ..Service::default() };
    let endpoints = s.endpoints_of(&"web".parse().unwrap(), &service);
    assert_eq!(endpoints.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["x", "y"]);
}

#[test]
fn subnets_that_overlap_are_taken() {
    let mut s = empty();
    s.apply(
        Revision(2),
        vec![put("/coreos.com/network/subnets/10.244.3.0-24", r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#, 2)],
    );
    assert!(s.taken("10.244.3.128/25".parse().unwrap()).is_some());
    assert!(s.taken("10.244.0.0/16".parse().unwrap()).is_some());
    assert!(s.taken("10.244.4.0/24".parse().unwrap()).is_none());
}

#[test]
fn leases_of_both_trees_are_seen_and_each_is_deleted_by_itself() {
    const OWN: &str = "/weft/v1/subnets/default/10.244.1.0-24&fd00:10:244:1::-64";
    let mut s = empty();
    let v6 = r#"{"PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},"weft":{"node":"h1"}}"#;
    s.apply(Revision(3), vec![put(OWN, v6, 2), lease("h2", 3)]);
    assert_eq!(s.bad().count(), 0);
    let keys: Vec<String> = s.leases().map(|(key, _)| s.layout().subnet(key)).collect();
    assert_eq!(keys, [LEASE, OWN]);
    assert_eq!(s.lease_of(&"h1".parse().unwrap()).map(|(key, _)| s.layout().subnet(key)).as_deref(), Some(OWN));
    assert!(s.taken6("fd00:10:244:1:8000::/65".parse().unwrap()).is_some());
    assert!(s.taken6("fd00:10:244:2::/64".parse().unwrap()).is_none());
    s.apply(Revision(5), vec![delete(LEASE, 5)]);
    assert_eq!(s.leases().count(), 1);
}

const DOWN: &str = "/weft/v1/down/local/skydns/myapp/web-1/4";
const DOWN_VALUE: &str = r#"{"host":"10.244.1.2","port":80,"weft":{"id":"web-1","node":"h1","state":"down","unhealthy":true}}"#;

/// Whether anybody serves it, and what its endpoint's state is.
fn seen(s: &Snapshot) -> (usize, Option<EndpointState>) {
    (s.records().count(), state(s))
}

#[test]
fn a_record_in_the_tree_of_what_is_down_is_an_endpoint_that_nobody_serves() {
    let mut s = empty();
    s.apply(Revision(3), vec![put(NODE, NODE_VALUE, 2), put(DOWN, DOWN_VALUE, 3)]);
    assert_eq!((seen(&s), s.down_records().count()), ((0, Some(EndpointState::Down)), 1));
    let endpoint = s.endpoints().next().unwrap();
    assert!(endpoint.unhealthy && endpoint.path.as_str() == "local/skydns/myapp/web-1");
    // What it says counts for less than where it stands.
    for value in [PART_VALUE, r#"{"host":"10.244.1.2"}"#] {
        s.apply(Revision(4), vec![put(DOWN, value, 4)]);
        assert_eq!(seen(&s), (0, Some(EndpointState::Down)));
        assert!(!s.endpoints().next().unwrap().unhealthy, "nobody says that its checks fail");
    }
    s.apply(Revision(5), vec![delete(DOWN, 5)]);
    assert_eq!(s.endpoints().count(), 0);
}

#[test]
fn a_move_between_the_trees_is_neither_loss_nor_withdrawal_in_whichever_order_its_halves_are_seen() {
    let down = [delete(PART, 6), put(DOWN, DOWN_VALUE, 6)];
    let up = [delete(DOWN, 7), put(PART, PART_VALUE, 7)];
    for turned in [false, true] {
        let mut s = with_web();
        for (halves, expected) in [(&down, (0, Some(EndpointState::Down))), (&up, (1, Some(EndpointState::Up)))] {
            let mut halves = halves.to_vec();
            if turned {
                halves.reverse();
            }
            for half in halves {
                s.apply(Revision(7), vec![half]);
            }
            assert_eq!(seen(&s), expected);
            assert_eq!(s.shadowed().count(), 0);
        }
        // Its host's later end takes it from where it stands then.
        s.apply(Revision(9), vec![delete(PART, 9), delete(NODE, 9)]);
        assert_eq!(state(&s), Some(EndpointState::Lost));
    }
}

#[test]
fn a_record_that_is_down_ends_and_is_lost_with_its_host_as_any_other() {
    for changes in [[delete(DOWN, 9), delete(NODE, 9)], [delete(NODE, 9), delete(DOWN, 9)]] {
        let mut s = empty();
        s.apply(Revision(3), vec![put(NODE, NODE_VALUE, 2), put(DOWN, DOWN_VALUE, 3)]);
        s.apply(Revision(9), changes.to_vec());
        assert_eq!(seen(&s), (0, Some(EndpointState::Down)), "lost, and still down");
        assert!(s.down_records().all(|(_, r)| r.lost));
        let mut back = s.clone();
        back.apply(Revision(10), vec![put(NODE, NODE_VALUE, 10)]);
        assert_eq!(back.endpoints().count(), 0, "its host speaks for itself again");
        // It comes back in the other tree: nothing of it stays behind.
        s.apply(Revision(10), vec![put(PART, PART_VALUE, 10)]);
        assert_eq!((seen(&s), s.down_records().count()), ((1, Some(EndpointState::Up)), 0));
    }
    let mut s = empty();
    s.apply(Revision(3), vec![put(NODE, NODE_VALUE, 2), put(DOWN, DOWN_VALUE, 3)]);
    s.apply(Revision(8), vec![delete(DOWN, 8)]);
    assert_eq!(s.endpoints().count(), 0, "withdrawn");
}

#[test]
fn a_listing_takes_a_moved_record_for_moved_and_a_missing_one_for_lost() {
    let before = with_web();
    let listed = |entries| Snapshot::complete(Arc::new(Layout::default()), Revision(20), entries, Some(&before));
    // Without the host's entry: it was lost, after it had been moved or not.
    let moved = listed(vec![entry(DOWN, DOWN_VALUE, 6)]);
    assert_eq!((seen(&moved), moved.down_records().filter(|(_, r)| r.lost).count()), ((0, Some(EndpointState::Down)), 0));
    assert_eq!(seen(&listed(Vec::new())), (1, Some(EndpointState::Lost)));
    // One that is unreadable is known as it was.
    let known = listed(vec![entry(NODE, NODE_VALUE, 2), entry(DOWN, DOWN_VALUE, 6)]);
    let entries = vec![entry(NODE, NODE_VALUE, 2), entry(DOWN, "{", 7)];
    let garbled = Snapshot::complete(Arc::new(Layout::default()), Revision(21), entries, Some(&known));
    assert_eq!((seen(&garbled), garbled.bad().count()), ((0, Some(EndpointState::Down)), 1));
}

#[test]
fn loss_is_seen_although_the_watch_of_what_is_down_lags_behind() {
    let mut s = empty();
    s.apply(Revision(20), vec![put(PART, PART_VALUE, 12), delete(PART, 20)]);
    let late = [put(NODE, NODE_VALUE, 2), put(DOWN, DOWN_VALUE, 5), delete(DOWN, 12), delete(NODE, 20)];
    for change in late {
        s.apply(Revision(20), vec![change]);
    }
    assert_eq!(state(&s), Some(EndpointState::Lost));
}

#[test]
fn of_a_path_in_both_trees_what_is_served_counts_and_it_is_told() {
    let mut s = with_web();
    s.apply(Revision(5), vec![put(DOWN, DOWN_VALUE, 5)]);
    assert_eq!(seen(&s), (1, Some(EndpointState::Up)));
    assert_eq!(s.shadowed().map(RecordPath::as_str).collect::<Vec<_>>(), ["local/skydns/myapp/web-1/4"]);
    s.apply(Revision(6), vec![delete(DOWN, 6)]);
    assert_eq!(s.shadowed().count(), 0);
    assert_eq!(seen(&s), (1, Some(EndpointState::Up)));
}

#[test]
fn what_is_to_be_drained_is_read_and_junk_hurts_only_itself() {
    let mut s = with_web();
    let (host, endpoint) = ("/weft/v1/drains/nodes/h1", "/weft/v1/drains/endpoints/local/skydns/myapp/web-1");
    let path = RecordPath::from_labels(["local", "skydns", "myapp", "web-1"]);
    let h1: NodeName = "h1".parse().unwrap();
    assert!(!s.is_drained(&path, Some(&h1)));
    for key in [host, endpoint] {
        s.apply(Revision(5), vec![put(key, r#"{"since":"2026-01-01T00:00:00Z","by":"h2","x":1}"#, 5)]);
        assert!(s.is_drained(&path, Some(&h1)));
        s.apply(Revision(6), vec![put(key, "[]", 6)]);
        assert!(s.is_drained(&path, Some(&h1)) && s.bad_at(key).is_some(), "unknown is never gone");
        s.apply(Revision(7), vec![delete(key, 7)]);
        assert!(!s.is_drained(&path, Some(&h1)) && s.bad_at(key).is_none());
    }
}
