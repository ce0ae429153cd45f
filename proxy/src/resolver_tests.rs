//! Whatever happens between two snapshots, what is brought up to date is what would be made anew.

use proptest::prelude::*;
use weft_model::ids::Revision;
use weft_model::keys::Layout;
use weft_model::stored::{Change, Entry};

use super::*;
use crate::pick::resolve;

fn put(key: &str, value: &str, revision: i64) -> Change {
    let at = Revision(revision);
    Change::Put(Entry { key: key.into(), value: value.into(), lease: None, created: at, modified: at })
}

fn delete(key: &str, revision: i64) -> Change {
    Change::Delete { key: key.into(), revision: Revision(revision) }
}

fn empty() -> Snapshot {
    Snapshot::complete(Layout::default().into(), Revision(1), Vec::new(), None)
}

/// What a key may hold.
fn world() -> Vec<(&'static str, Vec<&'static str>)> {
    let records = vec![
        r#"{"host":"10.244.3.2","port":8080,"weft":{"id":"x","node":"h1","labels":{"tier":"front"}}}"#,
        r#"{"host":"10.244.3.2","port":8080,"weft":{"id":"x","node":"h1","labels":{"tier":"front","old":"1"}}}"#,
        r#"{"host":"10.244.4.3","port":8080,"weft":{"id":"x","node":"h2","labels":{"tier":"back"},"state":"draining"}}"#,
        r#"{"host":"10.244.4.3","weft":{"id":"x","labels":{"tier":"front"},"state":"down","unhealthy":true}}"#,
        r#"{"host":"10.244.5.3","weft":{"id":"x","network":"blue","labels":{"tier":"front"}}}"#,
        r#"{"host":"10.244.5.3","weft":{"id":"x","kind":"name","labels":{"tier":"front"}}}"#,
        r#"{"host":"10.244.6.6","labels":{"tier":"back"}}"#,
        r#"{"host":"10.112.0.7"}"#,
    ];
    let services = vec![
        r#"{"ports":[{"port":80}],"vips":["10.112.0.7"]}"#,
        r#"{"ports":[{"port":80}],"panic":60,"passive":{}}"#,
        r#"{"ports":[{"port":80}],"selector":{"tier":"front"},"passive":{}}"#,
        r#"{"ports":[{"port":80}],"selector":{"tier":"front"},"expressions":[{"key":"old","operator":"DoesNotExist"}]}"#,
        r#"{"ports":[{"port":80}],"expressions":[{"key":"tier","operator":"In","values":["front","back"]}]}"#,
        r#"{"ports":[{"port":80}],"expressions":[{"key":"old","operator":"Exists"}]}"#,
        r#"{"ports":[{"port":80}],"expressions":[{"key":"tier","operator":"NotIn","values":["front"]}]}"#,
        r#"{"ports":[{"port":80}],"selector":{"tier":"front"},"network":"blue"}"#,
        r#"{"external_name":"db.example.com"}"#,
    ];
    let mut world = Vec::new();
    for key in ["web/a/4", "web/a/6", "web/b/4", "web/c", "db/a/4", "prod/web/a/4", "prod/a/4", "web/prod/4"] {
        world.push((Box::leak(format!("/skydns/local/skydns/{key}").into_boxed_str()) as &str, records.clone()));
    }
    for name in ["default/web", "default/db", "default/any", "prod/web", "prod/other"] {
        world.push((Box::leak(format!("/weft/v1/services/{name}").into_boxed_str()) as &str, services.clone()));
    }
    world.push(("/weft/v1/namespaces/prod", vec!["{}"]));
    world.push((
        "/weft/v1/nodes/h1",
        vec![r#"{"node":"h1","public_ip":"192.0.2.1"}"#, r#"{"node":"h1","public_ip":"10.244.6.6"}"#],
    ));
    world.push(("/coreos.com/network/subnets/10.244.4.0-24", vec![r#"{"PublicIP":"192.0.2.9","weft":{"node":"h2"}}"#]));
    world.push(("/weft/v1/vips/10.112.0.7", vec![r#"{"service":"default/web"}"#, r#"{"service":"default/db"}"#]));
    world.push(("/weft/v1/config", vec![r#"{"service_cidrs":["10.112.0.0/16"],"dns_domain":"skydns.local."}"#]));
    world
}

/// Some of the world's services, with some of its backends; most of the time none.
fn quarantine() -> impl Strategy<Value = Arc<Quarantine>> {
    let names = ["web", "db", "any", "prod/web", "gone"];
    let places = ["10.244.3.2:8080", "10.244.4.3:8080", "10.244.6.6:80", "10.9.9.9:80"];
    let one = (0..names.len(), 0..places.len()).prop_map(move |(name, place)| {
        let name: ServiceName = names[name].parse().unwrap();
        (name, places[place].parse().unwrap())
    });
    prop::collection::vec(one, 0..6).prop_map(|all| Arc::new(all.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_brought_up_to_date_is_what_would_be_made_anew(
        steps in prop::collection::vec(
            (prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4), quarantine()),
            1..40,
        )
    ) {
        let world = world();
        let mut snapshot = empty();
        let mut resolver = Resolver::default();
        for (step, (changes, quarantine)) in steps.iter().enumerate() {
            let revision = 2 + i64::try_from(step).unwrap();
            let change = |(key, value): &(prop::sample::Index, prop::sample::Index)| {
                let (key, values) = &world[key.index(world.len())];
                match value.index(values.len() + 1) {
                    0 => delete(key, revision),
                    n => put(key, values[n - 1], revision),
                }
            };
            snapshot.apply(Revision(revision), changes.iter().map(change).collect());
            let before = resolver.services().clone();
            let changed = resolver.update(&snapshot, quarantine);
            let anew = resolve(&snapshot, &Context::of(&snapshot).with_quarantine(quarantine.clone()));
            prop_assert_eq!(resolver.services(), &anew);
            if let Changed::Some(names) = changed {
                let differ = |name: &&ServiceName| before.get(*name) != anew.get(*name);
                for name in before.keys().chain(anew.keys()).filter(differ) {
                    prop_assert!(names.contains(name), "{} differs and is not said to", name);
                }
            }
            let index = Index::of(snapshot.services().map(|(name, stored)| (name, &stored.value)));
            prop_assert_eq!(&resolver.last.as_ref().unwrap().index, &index);
        }
    }
}

#[test]
fn one_endpoint_touches_the_services_of_its_name_and_labels_alone() {
    let mut snapshot = empty();
    let service = |name: &str| format!("/weft/v1/services/default/{name}");
    let record = |labels: &str| format!(r#"{{"host":"10.244.3.2","port":80,"weft":{{"id":"a","labels":{{{labels}}}}}}}"#);
    snapshot.apply(
        Revision(2),
        vec![
            put(&service("web"), r#"{"ports":[{"port":80}]}"#, 2),
            put(&service("front"), r#"{"ports":[{"port":80}],"selector":{"tier":"front"}}"#, 2),
            put(&service("back"), r#"{"ports":[{"port":80}],"selector":{"tier":"back"}}"#, 2),
            put(&service("db"), r#"{"ports":[{"port":80}]}"#, 2),
        ],
    );
    let mut resolver = Resolver::default();
    assert_eq!(resolver.update(&snapshot, &Arc::default()), Changed::All);
    let names = |names: &[&str]| Changed::Some(names.iter().map(|n| n.parse().unwrap()).collect());
    assert_eq!(resolver.update(&snapshot, &Arc::default()), names(&[]));
    snapshot.apply(Revision(3), vec![put("/skydns/local/skydns/web/a/4", &record(r#""tier":"front""#), 3)]);
    assert_eq!(resolver.update(&snapshot, &Arc::default()), names(&["web", "front"]));
    snapshot.apply(Revision(4), vec![put("/skydns/local/skydns/web/a/4", &record(r#""tier":"back""#), 4)]);
    assert_eq!(
        resolver.update(&snapshot, &Arc::default()),
        names(&["web", "front", "back"]),
        "both those that it leaves and those that it joins"
    );
}

#[test]
fn quarantine_touches_the_services_of_which_it_is_alone_and_only_those_that_want_it() {
    let mut snapshot = empty();
    let service = |name: &str| format!("/weft/v1/services/default/{name}");
    let record = |host: &str| format!(r#"{{"host":"{host}","port":8080,"weft":{{"id":"a","labels":{{"tier":"front"}}}}}}"#);
    snapshot.apply(
        Revision(2),
        vec![
            put(&service("web"), r#"{"ports":[{"port":80}],"passive":{}}"#, 2),
            put(&service("front"), r#"{"ports":[{"port":80}],"selector":{"tier":"front"}}"#, 2),
            put("/skydns/local/skydns/web/a/4", &record("10.244.3.2"), 2),
            put("/skydns/local/skydns/web/b/4", &record("10.244.3.3"), 2),
        ],
    );
    let mut resolver = Resolver::default();
    let quarantine = |all: &[(&str, &str)]| -> Arc<Quarantine> {
        Arc::new(all.iter().map(|(name, place)| (name.parse::<ServiceName>().unwrap(), place.parse().unwrap())).collect())
    };
    let used = |resolver: &Resolver, name: &str| -> Vec<(String, bool, bool)> {
        let resolved = &resolver.services()[&name.parse::<ServiceName>().unwrap()];
        let row = |b: &crate::pick::Backend| (b.address.to_string(), b.in_use, b.quarantined);
        resolved.frontends[0].backends.iter().map(row).collect()
    };
    let row = |address: &str, in_use, quarantined| (address.to_owned(), in_use, quarantined);
    resolver.update(&snapshot, &Arc::default());
    let one = quarantine(&[("web", "10.244.3.2:8080"), ("front", "10.244.3.2:8080")]);
    let names = |names: &[&str]| Changed::Some(names.iter().map(|n| n.parse().unwrap()).collect());
    assert_eq!(resolver.update(&snapshot, &one), names(&["web", "front"]));
    assert_eq!(used(&resolver, "web"), [row("10.244.3.2", false, true), row("10.244.3.3", true, false)]);
    assert_eq!(used(&resolver, "front"), [row("10.244.3.2", true, false), row("10.244.3.3", true, false)], "no policy");
    let all = quarantine(&[("web", "10.244.3.2:8080"), ("web", "10.244.3.3:8080"), ("front", "10.244.3.2:8080")]);
    assert_eq!(resolver.update(&snapshot, &all), names(&["web"]), "nothing changes for the other");
    assert_eq!(used(&resolver, "web"), [row("10.244.3.2", true, true), row("10.244.3.3", true, true)], "never emptied");
    assert_eq!(resolver.update(&snapshot, &Arc::default()), names(&["web", "front"]));
    assert_eq!(used(&resolver, "web"), [row("10.244.3.2", true, false), row("10.244.3.3", true, false)]);
}

#[test]
fn who_shares_an_address_is_told_when_the_other_comes_and_no_more_when_it_goes() {
    let mut snapshot = empty();
    let mut resolver = Resolver::default();
    let record = |id: &str, host: &str| format!(r#"{{"host":"{host}","port":80,"weft":{{"id":"{id}"}}}}"#);
    snapshot.apply(
        Revision(2),
        vec![
            put("/weft/v1/services/default/web", r#"{"ports":[{"port":80}]}"#, 2),
            put("/skydns/local/skydns/web/b/4", &record("b", "10.244.3.2"), 2),
        ],
    );
    resolver.update(&snapshot, &Arc::default());
    let told = |resolver: &Resolver| -> Vec<String> {
        resolver.services()[&"web".parse().unwrap()].rejected.iter().map(|r| format!("{}: {r}", r.endpoint.id)).collect()
    };
    assert_eq!(told(&resolver), Vec::<String>::new());
    for (revision, host, expected) in [
        (3, "10.244.3.2", vec!["b: rejected: 10.244.3.2:80 is the endpoint a's as well, and one backend for both"]),
        (4, "10.244.3.3", vec![]),
    ] {
        snapshot.apply(Revision(revision), vec![put("/skydns/local/skydns/web/a/4", &record("a", host), revision)]);
        assert!(matches!(resolver.update(&snapshot, &Arc::default()), Changed::Some(_)), "not all anew");
        assert_eq!(told(&resolver), expected);
        assert_eq!(resolver.services(), &resolve(&snapshot, &Context::of(&snapshot)));
    }
}
