//! Any history that ends in a world gives the snapshot that a listing of that world gives; and no bytes in the store, under
//! whatever key, stop a snapshot from being made.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use weft_model::endpoint::Endpoint;
use weft_model::ids::{LeaseId, Revision};
use weft_model::keys::Layout;
use weft_model::snapshot::Snapshot;
use weft_model::stored::{Change, Entry};

/// Keys that collide, nest and differ in kind.
fn key() -> impl Strategy<Value = String> {
    let label = prop_oneof![Just("a"), Just("ab"), Just("prod"), Just("x-1"), Just("4"), Just("dns")];
    let record = prop::collection::vec(label, 1..5).prop_map(|l| format!("/skydns/local/skydns/{}", l.join("/")));
    let fixed = prop_oneof![
        Just("/coreos.com/network/config"),
        Just("/coreos.com/network/subnets/10.244.1.0-24"),
        Just("/coreos.com/network/subnets/10.244.2.0-24"),
        Just("/coreos.com/network/subnets/junk"),
        Just("/weft/v1/config"),
        Just("/weft/v1/namespaces/prod"),
        Just("/weft/v1/services/default/a"),
        Just("/weft/v1/services/prod/a"),
        Just("/weft/v1/vips/10.112.0.7"),
    ];
    prop_oneof![3 => record, 2 => fixed.prop_map(str::to_owned)]
}

/// Values that are right for some key; none names a node, whose end would be loss.
fn value() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(r#"{"host":"10.0.0.1","port":80}"#),
        Just(r#"{"host":"10.0.0.2","weft":{"id":"x-1","port_name":"m"}}"#),
        Just(r#"{"host":"b.example"}"#),
        Just(r#"{"Network":"10.244.0.0/16"}"#),
        Just(r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#),
        Just(r#"{"ports":[{"port":80}],"vips":["10.112.0.7"]}"#),
        Just(r#"{"service":"default/a"}"#),
        Just(r#"{"dns_domain":"example.com"}"#),
    ]
}

fn entry(key: &str, value: &[u8], revision: i64) -> Entry {
    Entry {
        key: key.into(),
        value: value.into(),
        lease: Some(LeaseId(1)),
        created: Revision(revision),
        modified: Revision(revision),
    }
}

fn endpoints(s: &Snapshot) -> Vec<Endpoint> {
    s.endpoints().map(|e| (**e).clone()).collect()
}

fn facts(s: &Snapshot) -> String {
    let leases: Vec<_> = s.leases().collect();
    let services: Vec<_> = s.services().collect();
    let vips: Vec<_> = s.vips().collect();
    let spaces: Vec<_> = s.namespaces().collect();
    format!("{:?} {:?} {leases:?} {services:?} {vips:?} {spaces:?}", s.network(), s.stored_cluster())
}

/// What happens to two hosts, three records and two subnets, each in a revision of its own.
#[derive(Clone, Copy, Debug)]
enum Event {
    Record {
        part: usize,
        of: usize,
    },
    Withdraw {
        part: usize,
    },
    Register {
        node: usize,
    },
    /// The entry and all records of the host end in one revision.
    Die {
        node: usize,
    },
    Lease {
        subnet: usize,
        to: usize,
    },
    Release {
        subnet: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..3usize, 0..2usize).prop_map(|(part, of)| Event::Record { part, of }),
        1 => (0..3usize).prop_map(|part| Event::Withdraw { part }),
        2 => (0..2usize).prop_map(|node| Event::Register { node }),
        3 => (0..2usize).prop_map(|node| Event::Die { node }),
        1 => (0..2usize, 0..2usize).prop_map(|(subnet, to)| Event::Lease { subnet, to }),
        1 => (0..2usize).prop_map(|subnet| Event::Release { subnet }),
    ]
}

fn put(key: &str, value: &str, revision: i64) -> Change {
    Change::Put(entry(key, value.as_bytes(), revision))
}

/// The changes that each of the three watches (records, hosts, subnets) sees, in the store's order, with their revisions.
fn watches(events: &[Event]) -> [Vec<(i64, Change)>; 3] {
    let mut seen: [Vec<(i64, Change)>; 3] = Default::default();
    let (mut parts, mut nodes, mut leases): ([Option<usize>; 3], [bool; 2], [bool; 2]) = Default::default();
    for (at, event) in (2..).zip(events) {
        let part_key = |part: usize| format!("/skydns/local/skydns/a/x-{part}/4");
        let node_key = |node: usize| format!("/weft/v1/nodes/h{node}");
        let subnet_key = |subnet: usize| format!("/coreos.com/network/subnets/10.244.{subnet}.0-24");
        let delete = |key: String| (at, Change::Delete { key: key.into_bytes(), revision: Revision(at) });
        match *event {
            Event::Record { part, of } => {
                let value = format!(r#"{{"host":"10.0.0.{part}","weft":{{"id":"x-{part}","node":"h{of}"}}}}"#);
                seen[0].push((at, put(&part_key(part), &value, at)));
                parts[part] = Some(of);
            }
            Event::Withdraw { part } if parts[part].take().is_some() => seen[0].push(delete(part_key(part))),
            Event::Register { node } => {
                seen[1].push((at, put(&node_key(node), &format!(r#"{{"node":"h{node}"}}"#), at)));
                nodes[node] = true;
            }
            Event::Die { node } if std::mem::take(&mut nodes[node]) => {
                seen[1].push(delete(node_key(node)));
                for (part, of) in parts.iter_mut().enumerate().filter(|(_, of)| **of == Some(node)) {
                    *of = None;
                    seen[0].push(delete(part_key(part)));
                }
            }
            Event::Lease { subnet, to } => {
                let value = format!(r#"{{"PublicIP":"192.0.2.1","BackendType":"host-gw","weft":{{"node":"h{to}"}}}}"#);
                seen[2].push((at, put(&subnet_key(subnet), &value, at)));
                leases[subnet] = true;
            }
            Event::Release { subnet } if std::mem::take(&mut leases[subnet]) => seen[2].push(delete(subnet_key(subnet))),
            Event::Withdraw { .. } | Event::Die { .. } | Event::Release { .. } => {}
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_lost_does_not_depend_on_how_the_watches_interleave(
        events in prop::collection::vec(event(), 0..25),
        picks in prop::collection::vec(0..3usize, 80),
    ) {
        let start = || Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None);
        let seen = watches(&events);
        let mut in_order: Vec<(i64, Change)> = seen.iter().flatten().cloned().collect();
        in_order.sort_by_key(|(at, _)| *at);
        let mut as_it_was = start();
        for (at, change) in in_order {
            as_it_was.apply(Revision(at), vec![change]);
        }
        let mut interleaved = start();
        let mut waiting = seen.map(|changes| changes.into_iter());
        for pick in picks.into_iter().chain([0; 80]).chain([1; 80]).chain([2; 80]) {
            if let Some((at, change)) = waiting[pick].next() {
                interleaved.apply(Revision(at), vec![change]);
            }
        }
        prop_assert_eq!(waiting.iter().map(ExactSizeIterator::len).sum::<usize>(), 0);
        prop_assert_eq!(as_it_was.bad().count(), 0, "the test's values are right");
        prop_assert_eq!(endpoints(&interleaved), endpoints(&as_it_was));
        prop_assert_eq!(facts(&interleaved), facts(&as_it_was));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_history_ends_where_a_listing_of_its_end_does(steps in prop::collection::vec((key(), prop::option::of(value())), 0..40)) {
        let layout = Arc::new(Layout::default());
        let mut by_steps = Snapshot::complete(layout.clone(), Revision(1), Vec::new(), None);
        let mut world: BTreeMap<String, Entry> = BTreeMap::new();
        for (n, (key, value)) in steps.iter().enumerate() {
            let revision = n as i64 + 2;
            let change = match value {
                Some(value) => {
                    let probe = Snapshot::complete(layout.clone(), Revision(1), vec![entry(key, value.as_bytes(), revision)], None);
                    if probe.bad().next().is_some() {
                        continue; // What stays under a key that turns bad is history, by design.
                    }
                    world.insert(key.clone(), entry(key, value.as_bytes(), revision));
                    Change::Put(entry(key, value.as_bytes(), revision))
                }
                None => {
                    world.remove(key);
                    Change::Delete { key: key.clone().into_bytes(), revision: Revision(revision) }
                }
            };
            by_steps.apply(Revision(revision), vec![change]);
        }
        let listed = Snapshot::complete(layout, by_steps.revision(), world.into_values().collect(), None);
        prop_assert_eq!(endpoints(&by_steps), endpoints(&listed));
        prop_assert_eq!(facts(&by_steps), facts(&listed));
    }

    #[test]
    fn no_bytes_under_any_key_stop_it(
        keys in prop::collection::vec(prop_oneof![key().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..40)], 1..8),
        values in prop::collection::vec(prop_oneof![prop::collection::vec(any::<u8>(), 0..60), "\\PC{0,60}".prop_map(String::into_bytes), "[\\[{\",:}0-9a-z.\\]]{0,60}".prop_map(String::into_bytes)], 8),
    ) {
        let entries: Vec<Entry> = keys.iter().zip(&values).enumerate().map(|(n, (k, v))| Entry {
            key: k.clone(), value: v.clone(), lease: None, created: Revision(n as i64), modified: Revision(n as i64),
        }).collect();
        let s = Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries.clone(), None);
        let again = Snapshot::complete(Arc::new(Layout::default()), Revision(10), entries, Some(&s));
        prop_assert_eq!(s.bad().count(), again.bad().count());
    }
}
