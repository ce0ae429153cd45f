//! What is counted, what is forgotten, and when quarantine ends; all times are said.

use std::sync::Arc;

use weft_abi::passive::Pair;
use weft_model::keys::Layout;
use weft_model::snapshot::Snapshot;
use weft_model::stored::{Change, Entry};
use weft_proxy::{Quarantine, Resolver};

use super::*;

const A: &str = "10.244.3.2:8080";
const B: &str = "10.244.3.3:8080";
const VIP: &str = "10.112.0.7";

/// A store, and the judge that follows it.
struct World {
    snapshot: Snapshot,
    resolver: Resolver,
    judge: Judge,
    start: Instant,
    revision: i64,
}

impl World {
    fn new(policy: &str) -> Self {
        let snapshot = Snapshot::complete(Layout::default().into(), Revision(1), Vec::new(), None);
        let mut world =
            Self { snapshot, resolver: Resolver::default(), judge: Judge::default(), start: Instant::now(), revision: 1 };
        world.put("/weft/v1/config", r#"{"service_cidrs":["10.112.0.0/16"],"dns_domain":"skydns.local."}"#);
        for (id, host) in [("a", "10.244.3.2"), ("b", "10.244.3.3")] {
            world.record(id, host, "up");
        }
        assert!(world.service(policy).is_empty());
        world
    }

    fn put(&mut self, key: &str, value: &str) -> Vec<News> {
        self.revision += 1;
        let at = Revision(self.revision);
        let entry = Entry { key: key.into(), value: value.into(), lease: None, created: at, modified: at };
        self.snapshot.apply(at, vec![Change::Put(entry)]);
        self.follow()
    }

    fn follow(&mut self) -> Vec<News> {
        let quarantine: Arc<Quarantine> = Arc::new(self.judge.seen().into_keys().collect());
        let changed = self.resolver.update(&self.snapshot, &quarantine);
        self.judge.follow(&changed, self.resolver.services())
    }

    fn service(&mut self, policy: &str) -> Vec<News> {
        let policy = if policy.is_empty() { String::new() } else { format!(r#","passive":{policy}"#) };
        let service = format!(r#"{{"ports":[{{"port":80}},{{"port":53,"proto":"udp","name":"d"}}],"vips":["{VIP}"]{policy}}}"#);
        let service = service.replacen(r#"{"port":80}"#, r#"{"port":80,"name":"w"}"#, 1);
        self.put("/weft/v1/services/default/web", &service)
    }

    fn record(&mut self, id: &str, host: &str, state: &str) -> Vec<News> {
        let record = format!(r#"{{"host":"{host}","port":8080,"weft":{{"id":"{id}","state":"{state}"}}}}"#);
        self.put(&format!("/skydns/local/skydns/web/{id}/4"), &record)
    }

    /// A connection to a backend goes so, at this time.
    fn goes(&mut self, backend: &str, outcome: u32, at_ms: u64) -> Option<&'static str> {
        self.by(VIP, backend, outcome, at_ms)
    }

    fn by(&mut self, vip: &str, backend: &str, outcome: u32, at_ms: u64) -> Option<&'static str> {
        let place: std::net::SocketAddrV4 = backend.parse().unwrap();
        let frontend =
            FrontendKey { vip: vip.parse::<Ipv4Addr>().unwrap().into(), port: Be16::from_native(80), proto: PROTO_TCP, pad: 0 };
        let pair = Pair { frontend, addr: (*place.ip()).into(), port: Be16::from_native(place.port()), pad: 0 };
        let now = self.start + Duration::from_millis(at_ms);
        let heard = self.judge.note(&Told { pair, outcome }, now, SystemTime::UNIX_EPOCH);
        heard.news.map(|news| word(&news))
    }

    fn fails(&mut self, backend: &str, at_ms: u64) -> Option<&'static str> {
        self.goes(backend, Told::REFUSED, at_ms)
    }

    fn lapse(&mut self, at_ms: u64) -> usize {
        self.judge.lapse(self.start + Duration::from_millis(at_ms)).len()
    }

    fn held(&self) -> Vec<String> {
        self.judge.seen().into_keys().map(|(_, place)| place.to_string()).collect()
    }
}

fn word(news: &News) -> &'static str {
    match news {
        News::Quarantined { .. } => "in",
        News::Lifted { .. } => "out",
    }
}

const THREE: &str = r#"{"failures":3,"within_ms":1000,"for_ms":5000}"#;

#[test]
fn so_many_failures_within_the_time_quarantine_a_backend_until_its_time_is_over() {
    let mut w = World::new(THREE);
    assert_eq!((w.fails(A, 0), w.fails(A, 500), w.fails(B, 600)), (None, None, None));
    assert_eq!(w.fails(A, 1000), Some("in"), "the first is no older than the time");
    assert_eq!(w.held(), [A]);
    let why = &w.judge.seen()[&("web".parse().unwrap(), A.parse().unwrap())];
    assert_eq!(
        why,
        "3 connections from here failed in a row (the last: refused); others are asked first until 1970-01-01T00:00:05Z"
    );
    assert_eq!(w.fails(A, 1100), None, "it is already");
    assert_eq!((w.lapse(5999), w.lapse(6000)), (0, 1));
    assert!(w.held().is_empty());
}

#[test]
fn failures_that_are_too_far_apart_or_have_a_success_between_them_do_not_count_together() {
    let mut w = World::new(THREE);
    for at in [0, 600, 1200, 1800, 2400] {
        assert_eq!(w.fails(A, at), None, "{at}");
    }
    assert_eq!(w.goes(A, Told::UNANSWERED, 2500), Some("in"), "those at 1800, 2400 and 2500");
    let mut w = World::new(THREE);
    assert_eq!((w.fails(A, 0), w.fails(A, 1)), (None, None));
    assert_eq!(w.goes(A, Told::ESTABLISHED, 2), None);
    assert_eq!((w.fails(A, 3), w.fails(A, 4)), (None, None));
    assert_eq!(w.fails(A, 5), Some("in"));
}

#[test]
fn a_connection_that_succeeds_ends_quarantine() {
    let mut w = World::new(r#"{"failures":1}"#);
    assert_eq!((w.fails(A, 0), w.fails(B, 0)), (Some("in"), Some("in")));
    assert_eq!(w.goes(B, Told::ESTABLISHED, 1), Some("out"));
    assert_eq!(w.held(), [A]);
}

#[test]
fn another_record_is_another_backend_and_another_policy_begins_anew() {
    let mut w = World::new(r#"{"failures":1}"#);
    assert_eq!((w.fails(A, 0), w.fails(B, 0)), (Some("in"), Some("in")));
    assert!(w.follow().is_empty() && w.held().len() == 2, "that they are quarantined is no change of a record");
    assert_eq!(w.record("a", "10.244.3.2", "draining").len(), 1);
    assert_eq!(w.held(), [B]);
    assert_eq!(w.record("b", "10.244.3.9", "up").len(), 1, "it is elsewhere");
    assert_eq!(w.fails(B, 1), None, "what is no backend is not judged");
    assert_eq!(w.fails("10.244.3.9:8080", 1), Some("in"));
    assert_eq!(w.service(r#"{"failures":2}"#).len(), 1);
    assert_eq!(w.fails("10.244.3.9:8080", 2), None);
    w.record("b", "10.244.3.9", "up");
    assert_eq!(w.fails("10.244.3.9:8080", 3), None, "it was written again: the failure before that is forgotten");
    assert_eq!(w.fails("10.244.3.9:8080", 4), Some("in"));
}

#[test]
fn what_asks_for_nothing_or_is_not_watched_is_not_judged() {
    let mut w = World::new("");
    assert!(!w.judge.is_wanted() && w.judge.frontends().is_empty());
    assert_eq!(w.fails(A, 0), None);
    w.service(r#"{"failures":1}"#);
    assert_eq!(w.judge.frontends().len(), 1, "of its two ports one is of datagrams");
    assert_eq!(w.by("10.112.0.8", A, Told::REFUSED, 1), None);
    assert_eq!(w.fails(A, 2), Some("in"));
    assert_eq!(w.service("").iter().map(word).collect::<Vec<_>>(), ["out"]);
    assert!(!w.judge.is_wanted() && w.held().is_empty());
}
