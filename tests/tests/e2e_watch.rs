//! The API over the socket: watches that can be gone on with, and writes that are done only if nothing else has changed.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::api::{Answer, Event, Events, call, call_with};
use weft_tests::eventually::SOON;
use weft_tests::topology::Shared;
use weft_tests::{Topology, eventually};

static CLUSTER: LazyLock<Topology> = LazyLock::new(|| Topology::cluster(2).unwrap());

/// Held alone by the test whose watchers go from agent to agent: nobody else may write below other prefixes meanwhile.
static ALONE: RwLock<()> = RwLock::new(());

fn beside() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

fn socket(host: usize) -> PathBuf {
    CLUSTER.host(host).agent.socket()
}

/// A change in the store: when, of what, and whether it is there afterwards.
type Truth = (i64, String, bool);

/// Writes, or deletes without a value, and says at which revision.
fn write(key: &str, value: Option<&str>) -> i64 {
    let words = match value {
        Some(value) => vec!["put", "-w", "json", "--", key, value],
        None => vec!["del", "-w", "json", "--", key],
    };
    let answer = CLUSTER.etcd().ctl(words).unwrap().json().unwrap();
    answer["header"]["revision"].as_i64().unwrap()
}

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What one watcher knows, and what it was told since it last knew everything.
#[derive(Default)]
struct Watcher {
    last: String,
    known: BTreeMap<String, i64>,
    told: Vec<Truth>,
    /// The revision of the last time that everything was told.
    since: i64,
    /// Whether everything is being told.
    telling: bool,
    resets: usize,
}

impl Watcher {
    fn take(&mut self, event: Event) {
        let key = event.data["key"].as_str().unwrap_or_default().to_owned();
        let revision = event.data["revision"].as_i64().unwrap_or_default();
        match event.event.as_str() {
            "put" => {
                assert!(event.data["object"].is_object(), "{event:?}");
                self.known.insert(key.clone(), revision);
                if !self.telling {
                    self.told.push((revision, key, true));
                }
            }
            "delete" => {
                assert!(self.known.remove(&key).is_some(), "told that {key} is gone, and never that it was there");
                self.told.push((revision, key, false));
            }
            "reset" => {
                self.resets += 1;
                self.anew();
            }
            "current" => {
                self.telling = false;
                self.since = revision;
            }
            "progress" => {}
            other => panic!("event {other}"),
        }
        if !event.id.is_empty() {
            self.last = event.id;
        }
    }

    fn anew(&mut self) {
        self.known.clear();
        self.told.clear();
        self.telling = true;
    }

    /// Comes and goes, now here and now there, until it has been told of `end`.
    fn run(mut self, seed: u64, query: &str, end: &str) -> Self {
        let mut dice = Dice(seed);
        let begun = std::time::Instant::now();
        while !self.known.contains_key(end) {
            assert!(begun.elapsed() < 6 * SOON, "the end was never told; at {:?}", self.last);
            if self.last.is_empty() {
                self.anew();
            }
            let host = 1 + usize::try_from(dice.below(2)).unwrap();
            // An agent that is being started anew is not there for a moment.
            let Ok(mut events) = Events::of(&socket(host), query, &self.last) else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let mut left = dice.below(9);
            // What is being told as a whole is of use as a whole only.
            while left > 0 || self.telling {
                let Ok(Some(event)) = events.next(Duration::from_millis(300)) else { break };
                self.take(event);
                left = left.saturating_sub(1);
            }
        }
        self
    }
}

/// What is changed while watchers come and go. All of it stands below one prefix of the store: etcd tells of each prefix by
/// itself, so that a mark taken to another agent may pass over a change below another one (ARCHITECTURE.md says so).
struct Churn {
    kind: &'static str,
    /// What the keys in the store, and those of the objects, begin with.
    prefixes: (&'static str, &'static str),
    value: fn(u64) -> String,
}

impl Churn {
    /// Writes and deletes, with `beside` done before each write, and what four watchers were told of it compared.
    fn run(&self, mut beside: impl FnMut(u64, i64)) {
        let (stored, named) = self.prefixes;
        let query = format!("?kind={}&namespace=default", self.kind);
        let end = format!("{named}the-end");
        let (watchers, truth) = std::thread::scope(|scope| {
            let (query, end) = (query.as_str(), end.as_str());
            let watcher = |n: u64| scope.spawn(move || Watcher::default().run(n * 7919 + 1, query, end));
            let watchers: Vec<_> = (0..4).map(watcher).collect();
            let mut truth: Vec<Truth> = Vec::new();
            let mut there: BTreeMap<String, bool> = BTreeMap::new();
            let mut dice = Dice(42);
            for n in 0..70 {
                let which = dice.below(4);
                let name = format!("{named}churn{which}");
                let delete = there.get(&name).copied().unwrap_or(false) && dice.below(3) == 0;
                let value = (self.value)(n + 1);
                let revision = write(&format!("{stored}churn{which}"), Some(value.as_str()).filter(|_| !delete));
                there.insert(name.clone(), !delete);
                truth.push((revision, name, !delete));
                beside(n, revision);
            }
            let revision = write(&format!("{stored}the-end"), Some(&(self.value)(99)));
            truth.push((revision, end.to_owned(), true));
            (watchers.into_iter().map(|w| w.join().unwrap()).collect::<Vec<_>>(), truth)
        });
        let mut left: BTreeMap<String, i64> = BTreeMap::new();
        for (revision, key, there) in &truth {
            match there {
                true => left.insert(key.clone(), *revision),
                false => left.remove(key),
            };
        }
        let ours = |key: &str| key.starts_with(&format!("{named}churn")) || key == end;
        for watcher in &watchers {
            let known: BTreeMap<String, i64> = watcher.known.clone().into_iter().filter(|(key, _)| ours(key)).collect();
            assert_eq!(known, left, "after {} resets", watcher.resets);
            let told: Vec<&Truth> = watcher.told.iter().filter(|(_, key, _)| ours(key)).collect();
            let happened: Vec<&Truth> = truth.iter().filter(|(revision, _, _)| *revision > watcher.since).collect();
            assert_eq!(told, happened, "since revision {}, after {} resets", watcher.since, watcher.resets);
        }
    }
}

#[test]
fn watchers_that_come_and_go_are_told_every_change_once_and_in_order_or_everything_anew() {
    let t = Shared::of(&CLUSTER);
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let compact = |revision: i64| t.etcd().ctl(["compact", &revision.to_string()]).unwrap().success().unwrap();
    let services = Churn {
        kind: "service",
        prefixes: ("/weft/v1/services/default/", "default/"),
        value: |n| format!(r#"{{"ports":[{{"port":{n}}}]}}"#),
    };
    services.run(|n, revision| match n {
        // History goes, and an agent begins anew without any.
        30 => {
            compact(revision);
            t.host(2).agent.kill9().unwrap();
        }
        34 => t.host(2).agent.start().unwrap(),
        _ => {}
    });
    t.host(2).agent.wait_ready().unwrap();
    let records = Churn {
        kind: "endpoint",
        prefixes: ("/skydns/local/skydns/churned/", "record:local/skydns/churned/"),
        value: |n| format!(r#"{{"host":"192.0.2.{n}"}}"#),
    };
    records.run(|n, revision| {
        if n == 30 {
            compact(revision);
        }
    });
}

#[test]
fn a_watch_tells_what_it_is_asked_for_and_says_reset_when_it_does_not_know() {
    let t = Shared::of(&CLUSTER);
    let _beside = beside();
    write("/skydns/local/skydns/asked/asked-a", Some(r#"{"host":"192.0.2.1"}"#));
    t.host(1).netctl(["wait", "--endpoint", "asked-a"]).unwrap().success().unwrap();
    let mut events = Events::of(&socket(1), "?kind=endpoint&service=asked", "").unwrap();
    let first = events.next(SOON).unwrap().unwrap();
    assert_eq!((first.event.as_str(), first.data["object"]["addresses"][0].as_str()), ("put", Some("192.0.2.1")));
    let current = events.next(SOON).unwrap().unwrap();
    assert_eq!(current.event, "current");
    // Another service's endpoint is not told.
    write("/skydns/local/skydns/other/b", Some(r#"{"host":"192.0.2.2"}"#));
    let revision = write("/skydns/local/skydns/asked/asked-a", None);
    let gone = events.next(SOON).unwrap().unwrap();
    assert_eq!((gone.event.as_str(), gone.data["revision"].as_i64()), ("delete", Some(revision)));
    // With the record went who led its name: of the two changes this is the first.
    assert!(gone.id.starts_with(&format!("{revision}.1~")), "{gone:?}");
    // From a revision that no agent has seen: the store's first is 1.
    let mut events = Events::of(&socket(1), "?kind=endpoint&service=asked", "0").unwrap();
    assert_eq!(events.next(SOON).unwrap().unwrap().event, "reset");
    assert_eq!(events.next(SOON).unwrap().unwrap().event, "current");
    for query in ["?kind=pod", "?from=x", "?colour=red", "?service=A"] {
        assert!(Events::of(&socket(1), query, "").is_err(), "{query}");
    }
}

#[test]
fn what_stops_to_match_a_selector_is_gone_for_who_asked_by_it_and_leaders_are_told() {
    let t = Shared::of(&CLUSTER);
    let _beside = beside();
    let key = "/skydns/local/skydns/picked/picked-a/4";
    let labelled =
        |tier: &str| format!(r#"{{"host":"192.0.2.7","weft":{{"id":"picked-a","labels":{{"of":"picked","tier":"{tier}"}}}}}}"#);
    write(key, Some(&labelled("front")));
    t.host(1).netctl(["wait", "--leader", "picked=picked-a"]).unwrap().success().unwrap();
    let query = "?kind=endpoint&label=of%3Dpicked&label=tier+in+(front)";
    let mut events = Events::of(&socket(1), query, "").unwrap();
    let told: Vec<String> = (0..2).map(|_| events.next(SOON).unwrap().unwrap().event).collect();
    assert_eq!(told, ["put", "current"]);
    let mut id = String::new();
    for (tier, told) in [("back", "delete"), ("front", "put")] {
        write(key, Some(&labelled(tier)));
        let event = events.next(SOON).unwrap().unwrap();
        assert_eq!(event.event, told);
        id = event.id;
    }
    // It stops to match while nobody listens.
    drop(events);
    write(key, Some(&labelled("back")));
    let mut events = Events::of(&socket(1), query, &id).unwrap();
    assert_eq!(events.next(SOON).unwrap().unwrap().event, "delete");
    let listed = |label: &str| t.host(1).netctl(["endpoint", "list", "-l", label, "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(listed("of=picked,tier!=front")[0]["id"], "picked-a");
    assert_eq!(listed("of=picked,tier=front").as_array().map(Vec::len), Some(0));
    let mut leaders = Events::of(&socket(1), "?kind=leader&service=picked", "").unwrap();
    let leads = leaders.next(SOON).unwrap().unwrap();
    assert_eq!((leads.event.as_str(), leads.data["object"]["leader"]["id"].as_str()), ("put", Some("picked-a")));
    assert_eq!(leaders.next(SOON).unwrap().unwrap().event, "current");
    write(key, None);
    let nobody = leaders.next(SOON).unwrap().unwrap();
    assert_eq!((nobody.event.as_str(), nobody.data["key"].as_str()), ("delete", Some("default/picked")));
}

#[test]
fn netctl_watches_through_a_restart_of_the_agent() {
    let t = Shared::of(&CLUSTER);
    let _beside = beside();
    let line = t.host(2).agent.netctl_line(["watch", "service,node", "-o", "json"]).unwrap();
    let watch = t.host(2).spawn("watch", line).unwrap();
    let lines = || -> Vec<Value> { watch.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    let told = |event: &str, key: &str| {
        eventually(&format!("{event} {key}"), SOON, || {
            let found = lines().iter().filter(|l| l["event"] == event && l["key"] == key).count();
            if found == 1 { Ok(()) } else { Err(format!("{found} times in {}", watch.stdout())) }
        })
        .unwrap();
    };
    told("put", "h1");
    write("/weft/v1/services/default/before", Some("{}"));
    told("put", "default/before");
    t.host(2).agent.kill9().unwrap();
    t.host(2).agent.start().unwrap();
    t.host(2).agent.wait_ready().unwrap();
    write("/weft/v1/services/default/after", Some("{}"));
    told("put", "default/after");
}

#[test]
fn one_watcher_too_many_is_told_so_and_one_that_leaves_makes_room() {
    let t = Shared::of(&CLUSTER);
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let path = "/v1/watch?kind=network";
    let enter = || Events::of(&socket(1), "?kind=network", "");
    // Those of other tests leave within a moment.
    let mut watchers: Vec<Events> = (0..128).map(|n| eventually(&format!("place {n}"), SOON, enter).unwrap()).collect();
    let refused = call(&socket(1), "GET", path, &Value::Null).unwrap();
    assert_eq!(code(&refused), (507, "full"));
    let said = refused.body["error"]["message"].as_str().unwrap();
    assert_eq!(said, "watch: 128 streams are open already; close one, or ask another host's agent");
    let elsewhere = Events::of(&socket(2), "?kind=network", "");
    assert_eq!(elsewhere.unwrap().next(SOON).unwrap().unwrap().event, "put");
    assert_eq!(t.host(1).agent.status().unwrap()["node"], "h1", "other questions are answered");
    drop(watchers.pop());
    watchers.push(eventually("the place of one that left", SOON, enter).unwrap());
    assert_eq!(watchers[127].next(SOON).unwrap().unwrap().event, "put");
    let open = |wanted: &str| {
        let metrics = t.host(1).exec(["curl", "-sS", "http://127.0.0.1:9474/metrics"]).unwrap().success().unwrap().stdout;
        let line = metrics.lines().find(|line| line.starts_with("weft_agent_watchers ")).unwrap().to_owned();
        if line == format!("weft_agent_watchers {wanted}") { Ok(()) } else { Err(line) }
    };
    assert_eq!(open("128"), Ok(()));
    drop(watchers);
    eventually("all have left", SOON, || open("0")).unwrap();
}

fn ask(method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    call_with(&socket(1), method, path, headers, body).unwrap()
}

fn code(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.body["error"]["code"].as_str().unwrap_or_default())
}

#[test]
fn writes_are_done_only_if_the_object_is_as_it_was_read() {
    let t = Shared::of(&CLUSTER);
    let _beside = beside();
    let path = "/v1/endpoints/cas/db/a";
    let spec = |address: &str| json!({"addresses": [address], "ports": [{"port": 5432}], "labels": {"tier": "data"}});
    let refused = ask("PUT", path, &[], &spec("192.0.2.1"));
    assert_eq!(code(&refused), (400, "invalid"), "there is no such namespace yet");
    assert_eq!(ask("PUT", "/v1/namespaces/cas", &[("If-None-Match", "*")], &Value::Null).status, 200);
    assert_eq!(code(&ask("PUT", "/v1/namespaces/cas", &[("If-None-Match", "*")], &Value::Null)), (412, "changed"));

    let dry = ask("PUT", &format!("{path}?dry_run=true"), &[], &spec("192.0.2.1"));
    assert_eq!((dry.status, dry.body["addresses"][0].as_str()), (200, Some("192.0.2.1")));
    assert_eq!(ask("GET", path, &[], &Value::Null).status, 404, "nothing was written");

    let made = ask("PUT", path, &[("If-None-Match", "*")], &spec("192.0.2.1"));
    let tag = made.headers["etag"].clone();
    assert_eq!((made.status, tag.clone()), (200, format!("\"{}\"", made.body["revision"])));
    assert_eq!(ask("PUT", path, &[], &spec("192.0.2.1")).headers["etag"], tag, "the same again writes nothing");
    let changed = ask("PUT", path, &[("If-Match", &tag)], &spec("192.0.2.2"));
    assert_eq!((changed.status, changed.body["addresses"][0].as_str()), (200, Some("192.0.2.2")));
    let late = ask("PUT", path, &[("If-Match", &tag)], &spec("192.0.2.3"));
    assert_eq!(code(&late), (412, "changed"));
    assert!(late.body["error"]["message"].as_str().unwrap().contains(&changed.body["revision"].to_string()));

    let listed = ask("GET", "/v1/endpoints?namespace=cas&limit=1", &[], &Value::Null);
    assert_eq!((listed.body[0]["id"].as_str(), listed.headers.contains_key("weft-continue")), (Some("a"), false));
    assert!(listed.headers["weft-revision"].parse::<i64>().unwrap() >= changed.body["revision"].as_i64().unwrap());
    assert_eq!(code(&ask("DELETE", "/v1/namespaces/cas", &[], &Value::Null)), (409, "conflict"), "something is in it");
    assert_eq!(code(&ask("DELETE", path, &[("If-Match", &tag)], &Value::Null)), (412, "changed"));
    assert_eq!(ask("DELETE", path, &[], &Value::Null).status, 200);
    // What another program wrote is that one's.
    let others = "/v1/endpoints/cas/db/others";
    let foreign = write("/skydns/local/skydns/cas/db/others", Some(r#"{"host":"192.0.2.8"}"#)).to_string();
    t.host(1).netctl(["wait", "--revision", &foreign]).unwrap().success().unwrap();
    for refused in [ask("PUT", others, &[], &spec("192.0.2.1")), ask("DELETE", others, &[], &Value::Null)] {
        assert_eq!(code(&refused), (409, "conflict"));
        assert!(refused.body["error"]["message"].as_str().unwrap().contains("written by another tool"), "{refused:?}");
    }
    assert_eq!(ask("DELETE", others, &[("If-Match", &format!("\"{foreign}\""))], &Value::Null).status, 200);
    assert_eq!(code(&ask("DELETE", path, &[], &Value::Null)), (404, "not_found"));
    assert_eq!(ask("DELETE", "/v1/namespaces/cas", &[], &Value::Null).status, 200);

    assert_eq!(code(&ask("GET", "/v1/endpoints?nmespace=cas", &[], &Value::Null)), (400, "invalid"));
    let wrong = ask("POST", path, &[], &Value::Null);
    assert_eq!((code(&wrong), wrong.headers["allow"].as_str()), ((405, "method_not_allowed"), "GET, HEAD, PUT, DELETE"));
    assert_eq!(code(&ask("POST", "/v1/services", &[("If-None-Match", "*")], &json!({}))), (400, "invalid"), "it would not look");
    let large = json!({"service": "x".repeat(2 << 20)});
    assert_eq!(code(&call(&socket(1), "POST", "/v1/services", &large).unwrap()), (413, "too_large"));
}

#[test]
fn a_script_waits_for_a_revision_and_for_what_it_needs() {
    let t = Shared::of(&CLUSTER);
    let _beside = beside();
    let host = t.host(1);
    let revision = write("/skydns/local/skydns/awaited/a", Some(r#"{"host":"192.0.2.9"}"#)).to_string();
    host.netctl(["wait", "--revision", &revision]).unwrap().success().unwrap();
    let views = host.agent.status().unwrap()["views"].clone();
    for view in ["api", "dns", "proxy", "kernel"] {
        assert!(views[view].as_i64().unwrap() >= revision.parse().unwrap(), "{view} in {views}");
    }
    host.netctl(["service", "create", "awaited", "--port", "80"]).unwrap().success().unwrap();
    host.netctl(["wait", "--service", "awaited", "--ready", "1"]).unwrap().success().unwrap();
    host.netctl(["wait", "--node", host.name()]).unwrap().success().unwrap();
    let late = host.netctl(["wait", "--service", "awaited", "--ready", "2", "--timeout", "1s"]).unwrap();
    assert!(late.stderr.contains("1 of 2 backends of default/awaited are up"), "{}", late.stderr);
}
