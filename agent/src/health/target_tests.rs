//! Which checks there are, and whose answer counts.

use std::sync::Arc;

use weft_model::ids::{LeaseId, Revision};
use weft_model::keys::Layout;
use weft_model::stored::Entry;

use super::*;

fn world(entries: &[(&str, &str)]) -> Snapshot {
    let entry = |(key, value): &(&str, &str)| Entry {
        key: (*key).into(),
        value: (*value).into(),
        lease: Some(LeaseId(7)),
        created: Revision(5),
        modified: Revision(5),
    };
    Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries.iter().map(entry).collect(), None)
}

/// An attachment of which this is said; `{}` is an instance of `web` at 8080 without a check.
fn attachment(more: &str) -> Attachment {
    let text = format!(
        r#"{{"id":"web-1","netns":"/run/netns/web","netns_id":[4,5],"netns_cookie":6,"ifname":"eth0","host_ifname":"weftx",
            "address":"10.244.3.2","mac":"02:00:00:00:00:02","gateway":"10.244.3.1","mtu":1450,"boot":"b",
            "service":"web","port":8080{more}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn of(snapshot: &Snapshot, attachment: &Attachment) -> Vec<(String, String, Option<u16>, State)> {
    let published = Published { generation: 1, by_id: [(attachment.id.clone(), attachment.clone())].into() };
    let said = |(id, (target, known)): (TargetId, (Target, State))| {
        let service = id.service.map(|s| s.to_string()).unwrap_or_default();
        (service, target.check.to_string(), target.port, known)
    };
    targets(snapshot, &"h1".parse().unwrap(), &published, &Known::default()).into_iter().map(said).collect()
}

const SERVICE: (&str, &str) = ("/weft/v1/services/default/web", r#"{"ports":[{"port":80}],"check":{"kind":"http","path":"/x"}}"#);

#[test]
fn what_was_said_of_an_endpoint_counts_before_what_its_services_say() {
    let own = attachment(r#","check":{"kind":"grpc"}"#);
    assert_eq!(of(&world(&[SERVICE]), &own), [(String::new(), "grpc".to_owned(), Some(8080), State::Starting)]);
    let none = attachment("");
    let http = ("default/web".to_owned(), "http:/x".to_owned(), Some(8080), State::Starting);
    assert_eq!(of(&world(&[SERVICE]), &none), [http]);
    assert!(of(&world(&[]), &none).is_empty());
}

#[test]
fn a_check_counts_for_services_and_for_names_only_where_there_is_no_service() {
    let s = world(&[]);
    let governs = |attachment: &Attachment, kind| {
        let checked = Checked::of(&s);
        attached(attachment).governor(&checked, &RecordPath::from_labels(["local", "skydns", "web", "web-1"]), kind).is_some()
    };
    let serving = attachment(r#","check":{"kind":"tcp"}"#);
    assert_eq!((governs(&serving, Kind::Service), governs(&serving, Kind::Name)), (true, false));
    let named = Attachment { service: None, port: None, name: Some("web".into()), ..serving };
    assert!(governs(&named, Kind::Name));
}

#[test]
fn a_service_checks_what_it_selects_unless_the_service_of_that_name_does() {
    let record = r#"{"host":"10.244.3.2","port":8080,"weft":{"id":"web-1","node":"h1","labels":{"tier":"a"}}}"#;
    let there = ("/skydns/local/skydns/web/web-1/4", record);
    let all = ("/weft/v1/services/default/all", r#"{"ports":[{"port":80}],"selector":{"tier":"a"},"check":{"kind":"tcp"}}"#);
    let labelled = attachment(r#","labels":{"tier":"a"}"#);
    let names = |s: &Snapshot| of(s, &labelled).into_iter().map(|(service, ..)| service).collect::<Vec<_>>();
    assert_eq!(names(&world(&[there, all])), ["default/all"]);
    assert_eq!(names(&world(&[there, all, SERVICE])), ["default/web"]);
    // A service of that name that selects others does not mean what is below its name.
    let other = ("/weft/v1/services/default/web", r#"{"ports":[{"port":80}],"selector":{"tier":"b"},"check":{"kind":"tcp"}}"#);
    assert!(names(&world(&[there, other])).is_empty());
}

#[test]
fn a_check_that_is_new_takes_an_endpoint_for_what_its_records_say() {
    let put = |key: &str, state: &str| {
        let value = format!(r#"{{"host":"10.244.3.2","port":8080,"weft":{{"id":"web-1","node":"h1","state":"{state}"}}}}"#);
        let s = world(&[(key, &value), SERVICE]);
        of(&s, &attachment("")).into_iter().map(|(.., known)| known).collect::<Vec<_>>()
    };
    let (served, down) = ("/skydns/local/skydns/web/web-1/4", "/weft/v1/down/local/skydns/web/web-1/4");
    assert_eq!(put(served, "up"), [State::Up]);
    assert_eq!(put(served, "draining"), [State::Up]);
    assert_eq!(put(down, "down"), [State::Down]);
    assert_eq!(put(down, "starting"), [State::Starting]);
}

#[test]
fn without_a_port_of_its_own_it_is_asked_at_that_of_the_service() {
    let portless = Attachment { port: None, ..attachment("") };
    let at = |service: &str| {
        let s = world(&[("/weft/v1/services/default/web", service)]);
        of(&s, &portless).into_iter().map(|(_, _, port, _)| port).collect::<Vec<_>>()
    };
    assert_eq!(at(r#"{"ports":[{"port":80}],"check":{"kind":"tcp"}}"#), [Some(80)]);
    assert_eq!(at(r#"{"ports":[{"port":80,"target":9000}],"check":{"kind":"tcp"}}"#), [Some(9000)]);
    assert_eq!(at(r#"{"ports":[{"port":80}],"check":{"kind":"tcp","port":9}}"#), [Some(9)]);
}

#[test]
fn all_addresses_of_an_endpoint_are_asked_and_each_once() {
    let places = |more: &str| {
        let dual = attachment(more);
        let published = Published { generation: 1, by_id: [(dual.id.clone(), dual)].into() };
        let all = targets(&world(&[]), &"h1".parse().unwrap(), &published, &Known::default());
        all.into_values().map(|(target, _)| (target.address.to_string(), target.further)).collect::<Vec<_>>()
    };
    let further = vec!["fd00::2".parse().unwrap()];
    let check = r#","address6":"fd00::2","check":{"kind":"tcp"}"#;
    assert_eq!(places(check), [("10.244.3.2".to_owned(), further.clone())]);
    let instances = format!(r#"{check},"instances":[{{"service":"web","port":9100}},{{"service":"api","port":80}}]"#);
    assert_eq!(places(&instances), [("10.244.3.2".to_owned(), further)], "whatever it is an instance of");
}

#[test]
fn what_is_registered_is_checked_as_what_is_attached() {
    let registration = |kind: &str, check: &str| -> Registration {
        let said = format!(r#"{{"service":"web","kind":"{kind}","addresses":["192.0.2.7"],"port":9000,"ttl_ms":9000{check}}}"#);
        Registration { id: "api-1".parse().unwrap(), said: serde_json::from_str(&said).unwrap(), network: None, born: 1 }
    };
    let of = |registration: Registration| {
        let known = Known { by_id: [(registration.id.clone(), registration)].into() };
        let all = targets(&world(&[SERVICE]), &"h1".parse().unwrap(), &Published::default(), &known);
        all.into_values()
            .map(|(target, _)| (target.check.to_string(), target.address.to_string(), target.port))
            .collect::<Vec<_>>()
    };
    let place = |check: &str| (check.to_owned(), "192.0.2.7".to_owned(), Some(9000));
    assert_eq!(of(registration("service", r#","check":{"kind":"tcp"}"#)), [place("tcp")]);
    assert_eq!(of(registration("service", "")), [place("http:/x")]);
    assert_eq!(of(registration("name", r#","check":{"kind":"tcp"}"#)), [place("tcp")]);
    assert!(of(registration("name", "")).is_empty());
}
