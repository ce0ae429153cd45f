//! The log against a history: whatever is asked when, whoever follows it ends with what there is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_model::keys::Layout;
use weft_model::stored::{Change, Entry as StoreEntry};

use super::*;

fn put(key: &str, value: &str, at: i64) -> Change {
    let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    Change::Put(StoreEntry { key, value, lease: None, created: Revision(at), modified: Revision(at) })
}

fn delete(key: &str, at: i64) -> Change {
    Change::Delete { key: key.as_bytes().to_vec(), revision: Revision(at) }
}

/// An agent's view with its log.
struct Agent {
    log: Log,
    snapshot: Arc<Snapshot>,
}

impl Agent {
    /// One that lists what `before` was made of, at its revision.
    fn listing(entries: Vec<StoreEntry>, at: i64, limits: (usize, usize)) -> Self {
        let snapshot = Arc::new(Snapshot::complete(Arc::new(Layout::default()), Revision(at), entries, None));
        let mut log = Log::new(limits.0, limits.1);
        log.complete(&snapshot);
        Self { log, snapshot }
    }

    fn fresh() -> Self {
        Self::listing(Vec::new(), 1, (1000, 1 << 20))
    }

    fn apply(&mut self, at: i64, changes: &[Change]) {
        let mut next = (*self.snapshot).clone();
        next.apply(Revision(at), changes.to_vec());
        let next = Arc::new(next);
        self.log.revision(&self.snapshot, &next, Revision(at));
        self.log.reached(&next);
        self.snapshot = next;
    }

    /// All of the log after a place but who leads, as `key@revision`, `-` before what is gone.
    fn after(&self, place: u64) -> Vec<String> {
        let text = |e: &Arc<Entry>| format!("{}{}@{}", if e.after.is_some() { "" } else { "-" }, e.key, e.revision);
        self.log.from(place, usize::MAX).unwrap().0.iter().filter(|e| e.kind != Kind::Leader).map(text).collect()
    }

    /// What the log says last of one object.
    fn last(&self, kind: Kind, key: &str) -> serde_json::Value {
        let entry = self.log.entries.iter().rev().find(|e| e.kind == kind && e.key == key).unwrap();
        serde_json::from_slice(&entry.object).unwrap_or_default()
    }

    fn resume(&self, mark: &str) -> Resume {
        self.log.resume(&mark.parse().unwrap())
    }

    fn place(&self, mark: &str) -> u64 {
        match self.resume(mark) {
            Resume::At(place) => place,
            other => panic!("{mark}: {other:?}"),
        }
    }
}

const WEB: &str = "/skydns/local/skydns/web/a";

#[test]
fn what_follows_a_mark_is_what_changed_after_it_and_nothing_else() {
    let mut agent = Agent::fresh();
    agent.apply(5, &[put(WEB, r#"{"host":"10.0.0.1"}"#, 5)]);
    agent.apply(6, &[put("/weft/v1/services/default/web", "{}", 6), put(WEB, r#"{"host":"10.0.0.2"}"#, 6)]);
    agent.apply(8, &[delete(WEB, 8)]);
    let (a, web) = ("record:local/skydns/web/a", "default/web");
    assert_eq!(
        agent.after(agent.place("1")),
        [format!("{a}@5"), format!("{web}@6"), format!("{a}@6"), format!("{web}@8"), format!("-{a}@8")]
    );
    assert_eq!(agent.after(agent.place("5")), [format!("{web}@6"), format!("{a}@6"), format!("{web}@8"), format!("-{a}@8")]);
    let half = [format!("{a}@6"), format!("{web}@8"), format!("-{a}@8")];
    assert_eq!(agent.after(agent.place("6.1~0000000000000002")), half, "half of a revision");
    for others in ["6.1", "6.1~0000000000000003"] {
        assert_eq!(agent.resume(others), Resume::Reset, "half of it as another version numbers it");
    }
    assert_eq!(agent.after(agent.place("7")), [format!("{web}@8"), format!("-{a}@8")]);
    assert_eq!(agent.after(agent.place("8")), Vec::<String>::new());
    assert_eq!((agent.resume("9"), agent.resume("0")), (Resume::Ahead, Resume::Reset), "before the listing nothing is known");
}

#[test]
fn who_begins_in_the_middle_of_a_batch_is_shown_what_his_mark_says_that_he_has() {
    let mut agent = Agent::fresh();
    let mut next = (*agent.snapshot).clone();
    next.apply(Revision(5), vec![put(WEB, r#"{"host":"10.0.0.1"}"#, 5)]);
    let next = Arc::new(next);
    agent.log.revision(&agent.snapshot, &next, Revision(5));
    // The batch goes on: nobody has called `reached` yet.
    let (shown, place, mark) = agent.log.latest().unwrap();
    assert_eq!((shown.revision(), shown.endpoints().count()), (mark.revision, 1));
    assert_eq!(agent.after(place), Vec::<String>::new());
}

#[test]
fn what_is_dropped_for_want_of_room_is_a_reset_for_who_comes_from_there() {
    for limits in [(2, 1 << 20), (1000, 2600)] {
        let mut agent = Agent::listing(Vec::new(), 1, limits);
        let start = agent.log.latest().unwrap().1;
        for at in 2..=9 {
            agent.apply(at, &[put(WEB, &format!(r#"{{"host":"10.0.0.{at}"}}"#), at)]);
        }
        assert!(agent.log.from(start, 10).is_none(), "a slow reader");
        assert_eq!((agent.resume("2"), agent.resume("6")), (Resume::Reset, Resume::Reset));
        assert!(agent.log.entries.len() <= 2 && !agent.log.entries.is_empty());
        assert_eq!(agent.after(agent.place("8")).len(), 1);
    }
}

#[test]
fn what_comes_late_reaches_who_reads_and_makes_who_comes_back_begin_anew() {
    let mut agent = Agent::fresh();
    agent.apply(5, &[put(WEB, r#"{"host":"10.0.0.1"}"#, 5)]);
    let place = agent.log.latest().unwrap().1;
    agent.apply(4, &[put("/weft/v1/services/default/web", "{}", 4)]);
    assert_eq!(agent.after(place), ["default/web@4"]);
    assert_eq!((agent.resume("5"), agent.resume("4")), (Resume::Reset, Resume::Reset));
    agent.apply(6, &[delete(WEB, 6)]);
    assert_eq!(agent.after(agent.place("6")), Vec::<String>::new());
}

#[test]
fn a_new_listing_is_a_reset_for_all() {
    let mut agent = Agent::fresh();
    agent.apply(5, &[put(WEB, r#"{"host":"10.0.0.1"}"#, 5)]);
    let place = agent.log.latest().unwrap().1;
    let listing = Arc::new(Snapshot::complete(Arc::new(Layout::default()), Revision(9), Vec::new(), Some(&agent.snapshot)));
    agent.log.complete(&listing);
    assert!(agent.log.from(place, 1).is_none());
    assert_eq!((agent.resume("5"), agent.resume("8")), (Resume::Reset, Resume::Reset));
    assert!(matches!(agent.resume("9"), Resume::At(_)));
}

#[test]
fn who_knows_what_the_store_does_not_hold_begins_anew_where_nobody_knows_it() {
    let entry = |key: &str, value: &str| match put(key, value, 2) {
        Change::Put(entry) => entry,
        Change::Delete { .. } => unreachable!(),
    };
    let service = "/weft/v1/services/default/web";
    let mut knows = Agent::listing(vec![entry(service, r#"{"ports":[{"port":80}]}"#)], 2, (1000, 1 << 20));
    knows.apply(5, &[put(service, "garbage", 5)]);
    // Started later: it never knew what the key meant.
    let mut later = Agent::listing(vec![entry(service, "garbage")], 5, (1000, 1 << 20));
    let theirs = knows.log.latest().unwrap().2;
    assert_eq!((knows.log.resume(&theirs), later.log.resume(&theirs)), (Resume::At(knows.log.end()), Resume::Reset));
    // Once the key is well again, both know the same.
    for agent in [&mut knows, &mut later] {
        agent.apply(7, &[put(service, r#"{"ports":[{"port":81}]}"#, 7)]);
    }
    let theirs = knows.log.latest().unwrap().2;
    assert_eq!(later.log.resume(&theirs), Resume::At(later.log.end()));
}

#[test]
fn a_service_is_told_again_when_its_endpoints_change_and_with_it_who_leads() {
    let mut agent = Agent::fresh();
    let record = |id: &str, born: u32, state: &str, tier: &str| {
        format!(
            r#"{{"host":"10.0.0.{born}","weft":{{"id":"{id}","node":"h1","born":{born},"state":"{state}","labels":{{"tier":"{tier}"}}}}}}"#
        )
    };
    let at = |id: &str| format!("/skydns/local/skydns/app/{id}/4");
    agent.apply(2, &[put("/weft/v1/services/default/web", r#"{"ports":[{"port":80}],"selector":{"tier":"front"}}"#, 2)]);
    agent.apply(3, &[put(&at("a"), &record("a", 1, "up", "front"), 3), put(&at("b"), &record("b", 2, "up", "front"), 3)]);
    let web = |agent: &Agent| {
        let service = agent.last(Kind::Service, "default/web");
        let leader = agent.last(Kind::Leader, "default/web");
        assert_eq!(service["leader"], leader["leader"]["id"], "{leader}");
        (service["ready"].as_u64().unwrap(), service["total"].as_u64().unwrap(), service["leader"].as_str().map(str::to_owned))
    };
    assert_eq!(web(&agent), (2, 2, Some("a".to_owned())));
    agent.apply(4, &[put(&at("a"), &record("a", 1, "draining", "front"), 4)]);
    assert_eq!(web(&agent), (1, 2, Some("b".to_owned())));
    // What stops to match is another's.
    agent.apply(5, &[put(&at("b"), &record("b", 2, "up", "back"), 5)]);
    assert_eq!(web(&agent), (1, 1, None), "one that drains takes what there is, and does not lead");
    agent.apply(6, &[put("/weft/v1/leaders/default/web", r#"{"manual":"a"}"#, 6)]);
    assert_eq!(agent.last(Kind::Leader, "default/web")["manual"], "a");
    let place = agent.log.latest().unwrap().1;
    agent.apply(7, &[put("/skydns/local/skydns/other/x", r#"{"host":"10.0.0.9"}"#, 7)]);
    assert_eq!(agent.after(place), ["record:local/skydns/other/x@7"], "another service's endpoint");
}

#[test]
fn names_that_come_to_mean_something_else_are_told_as_a_whole() {
    let mut agent = Agent::fresh();
    agent.apply(5, &[put("/skydns/local/skydns/prod/web/a", r#"{"host":"10.0.0.1"}"#, 5)]);
    agent.apply(6, &[put("/weft/v1/namespaces/prod", "{}", 6)]);
    assert_eq!(agent.resume("5"), Resume::Reset);
    agent.apply(7, &[put("/weft/v1/namespaces/empty", "{}", 7)]);
    assert!(matches!(agent.resume("6"), Resume::At(_)), "nobody lives there");
}

/// A step of a history: which key, and what it becomes.
fn step() -> impl Strategy<Value = (usize, Option<u8>)> {
    (0..8_usize, proptest::option::weighted(0.7, any::<u8>()))
}

fn key(n: usize) -> String {
    match n {
        0 | 1 => format!("/weft/v1/services/default/s{n}"),
        2 => "/weft/v1/networks/blue".to_owned(),
        3 => "/weft/v1/leaders/default/web".to_owned(),
        n => format!("/skydns/local/skydns/web/a{n}"),
    }
}

fn value(n: usize, what: u8) -> String {
    match n {
        0 => format!(r#"{{"ports":[{{"port":{}}}]}}"#, u16::from(what) + 1),
        1 => format!(r#"{{"ports":[{{"port":80}}],"selector":{{"tier":"{}"}}}}"#, what % 2),
        2 => format!(r#"{{"Network":"10.{what}.0.0/16","Backend":{{"Type":"vxlan","VNI":7}}}}"#),
        3 => format!(r#"{{"manual":"{}"}}"#, ["a5", "a6"][usize::from(what % 2)]),
        4 => format!(r#"{{"host":"10.0.0.{what}"}}"#),
        n => format!(
            r#"{{"host":"10.0.0.1","weft":{{"id":"a{n}","node":"h1","born":{what},"state":"{}","labels":{{"tier":"{}"}}}}}}"#,
            ["up", "draining", "starting"][usize::from(what % 3)],
            what % 2
        ),
    }
}

proptest! {
    /// Followers that come and go, to agents that began at different revisions and keep little, end with what there is; and of
    /// those that were never reset, each has seen each change once and in order.
    #[test]
    fn a_follower_ends_with_what_there_is(
        history in proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..40),
        visits in proptest::collection::vec((0..40_usize, 0..3_usize, 1..5_usize), 1..30),
        small in 2..20_usize,
    ) {
        let mut agents = vec![Agent::fresh(), Agent::listing(Vec::new(), 1, (small, 1 << 20))];
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        let mut mark: Option<Mark> = None;
        let mut seen: Vec<(Revision, String)> = Vec::new();
        let mut stored: BTreeMap<String, StoreEntry> = BTreeMap::new();
        for (n, revision) in history.iter().enumerate() {
            let at = i64::try_from(n).unwrap() + 2;
            let changes: BTreeMap<String, Change> = revision.iter().map(|(n, what)| (key(*n), match what {
                Some(what) => put(&key(*n), &value(*n, *what), at),
                None => delete(&key(*n), at),
            })).collect();
            let changes: Vec<Change> = changes.into_values().collect();
            for change in &changes {
                match change {
                    Change::Put(entry) => drop(stored.insert(String::from_utf8_lossy(&entry.key).into_owned(), entry.clone())),
                    Change::Delete { key, .. } => drop(stored.remove(String::from_utf8_lossy(key).as_ref())),
                }
            }
            for agent in &mut agents {
                agent.apply(at, &changes);
            }
            if n == 10 {
                agents.push(Agent::listing(stored.values().cloned().collect(), at, (1000, 1 << 20)));
            }
            for (_, which, count) in visits.iter().filter(|(when, _, _)| *when == n) {
                visit(&agents[*which % agents.len()], *count, &mut known, &mut mark, &mut seen);
            }
        }
        visit(&agents[0], usize::MAX, &mut known, &mut mark, &mut seen);
        let there: BTreeMap<String, String> = diff::everything(&agents[0].snapshot, &Kind::ALL)
            .map(|(kind, key, _, _, object)| (format!("{kind:?} {key}"), String::from_utf8_lossy(&object).into_owned()))
            .collect();
        prop_assert_eq!(known, there);
        prop_assert!(seen.windows(2).all(|w| w[0].0 < w[1].0 || (w[0].0 == w[1].0 && w[0].1 < w[1].1)), "{:?}", seen);
    }
}

/// Reads at most `count` changes from an agent, after the mark as it stands in an event's id.
fn visit(
    agent: &Agent,
    count: usize,
    known: &mut BTreeMap<String, String>,
    mark: &mut Option<Mark>,
    seen: &mut Vec<(Revision, String)>,
) {
    let resumed = mark.map(|mark| agent.log.resume(&mark.to_string().parse().unwrap()));
    let Some(Resume::At(place)) = resumed else {
        known.clear();
        seen.clear();
        for (kind, key, _, _, object) in diff::everything(&agent.snapshot, &Kind::ALL) {
            known.insert(format!("{kind:?} {key}"), String::from_utf8_lossy(&object).into_owned());
        }
        *mark = agent.log.latest().map(|(_, _, mark)| mark);
        return;
    };
    let (entries, _) = agent.log.from(place, count).unwrap();
    for entry in entries {
        let name = format!("{:?} {}", entry.kind, entry.key);
        // Kinds are told in an order of their own: compared by it.
        seen.push((entry.revision, format!("{} {}", Kind::ALL.iter().position(|k| *k == entry.kind).unwrap(), entry.key)));
        match &entry.after {
            Some(_) => drop(known.insert(name, String::from_utf8_lossy(&entry.object).into_owned())),
            None => drop(known.remove(&name)),
        }
        *mark = Some(entry.mark);
    }
}
