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
