//! Who leads a service or a name: one of its live endpoints, the same one for everybody who sees the same snapshot.
//!
//! | | |
//! |---|---|
//! | a name with [candidates](crate::record::WeftRecord::candidate) | whoever holds its [`Election`], a key that one host at a time can have |
//! | any other, with a [`Choice`] made by hand | the chosen one, while it is up |
//! | else | the oldest that is up |
//!
//! The oldest is found without anybody being asked, so two hosts whose snapshots differ may name two: it is who to send to,
//! never a lock. The holder of an election is one: the key hangs on its host's lease and is made by compare.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, EndpointState};
use crate::ids::{EndpointId, NodeName, ServiceName};
use crate::record::Kind;
use crate::service::Service;
use crate::snapshot::Snapshot;

/// Who is to lead, as a person has said: `<weft-prefix>/leaders/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The endpoint's id.
    pub manual: String,
    /// What other versions keep here.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// Who has been elected: `<weft-prefix>/elections/<namespace>/<name>`, on the liveness lease of the candidate's host. The revision
/// at which the key was made is the number of the term: each is greater than the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// The candidate.
    pub id: EndpointId,
    /// Its host, which alone removes the key.
    pub node: NodeName,
}

impl Choice {
    /// This one.
    #[must_use]
    pub fn of(id: &str) -> Self {
        Self { manual: id.to_owned(), other: serde_json::Map::new() }
    }
}

/// By what endpoints are ranked: the first is the oldest. What nobody dated is ranked by the store, after what is dated.
fn age(endpoint: &Endpoint) -> impl Ord + use<'_> {
    let born = if endpoint.born == 0 { u64::MAX } else { endpoint.born };
    (born, endpoint.created, &endpoint.path)
}

/// Who leads `name`, declared as a service or not; none if nobody who could is up.
#[must_use]
pub fn leader(snapshot: &Snapshot, name: &ServiceName) -> Option<Arc<Endpoint>> {
    let service = snapshot.service(name).map(|stored| &stored.value);
    lead(snapshot, name, service.map(Of::Service), &|_| true)
}

/// The same, where the endpoints that the service stands for are known; of a name that is not declared nothing is asked of them.
#[must_use]
pub fn leader_among(snapshot: &Snapshot, name: &ServiceName, of_service: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
    let declared = snapshot.service(name).is_some();
    lead(snapshot, name, declared.then_some(Of::Known(of_service)), &|_| true)
}

/// The same among those that `sees` shows, as if there were no other ones: who leads for one network. `service` is what the name
/// is declared as there, if it is.
#[must_use]
pub fn leader_seen(
    snapshot: &Snapshot,
    name: &ServiceName,
    service: Option<&Service>,
    sees: &dyn Fn(&Endpoint) -> bool,
) -> Option<Arc<Endpoint>> {
    lead(snapshot, name, service.map(Of::Service), sees)
}

/// Where the instances of a declared service are to be found.
#[derive(Clone, Copy)]
enum Of<'a> {
    Service(&'a Service),
    Known(&'a [Arc<Endpoint>]),
}

fn lead(snapshot: &Snapshot, name: &ServiceName, of: Option<Of<'_>>, sees: &dyn Fn(&Endpoint) -> bool) -> Option<Arc<Endpoint>> {
    if let Some(election) = snapshot.election(name) {
        let serves = |e: &Arc<Endpoint>| matches!(e.state, EndpointState::Up | EndpointState::Draining);
        return holder(snapshot, name, &election.value).filter(|e| serves(e) && sees(e));
    }
    if at(snapshot, name).any(|e| e.candidate && sees(&e)) {
        return None;
    }
    first(snapshot, name, &pool(snapshot, name, of, sees))
}

/// The candidate that holds the lead, in whatever state.
fn holder(snapshot: &Snapshot, name: &ServiceName, election: &Election) -> Option<Arc<Endpoint>> {
    let is_holder = |e: &Arc<Endpoint>| e.id == election.id.as_str() && e.node.as_ref() == Some(&election.node);
    at(snapshot, name).find(|e| e.candidate && is_holder(e))
}

/// Whether whoever holds the lead is to give it up: another one that is up was chosen by hand, or the holder drains and another
/// one is up.
#[must_use]
pub fn is_to_yield(snapshot: &Snapshot, name: &ServiceName, held: &Election) -> bool {
    let Some(next) = next(snapshot, name) else { return false };
    let is_holder = next.id == held.id.as_str() && next.node.as_ref() == Some(&held.node);
    // A drain that has come to its deadline is one still; what is down by its checks may be back in a moment.
    let leaves = |e: &Arc<Endpoint>| match e.state {
        EndpointState::Draining => true,
        EndpointState::Down => !e.unhealthy,
        _ => false,
    };
    let drains = || holder(snapshot, name, held).as_ref().is_some_and(leaves);
    !is_holder && (is_manual(snapshot, name, &next) || drains())
}

/// Whether the lead of `name` is given by election: it has candidates, or has had one just now.
#[must_use]
pub fn is_elected(snapshot: &Snapshot, name: &ServiceName) -> bool {
    snapshot.election(name).is_some() || at(snapshot, name).any(|e| e.candidate)
}

/// The candidate that is to be elected next.
#[must_use]
pub fn next(snapshot: &Snapshot, name: &ServiceName) -> Option<Arc<Endpoint>> {
    first(snapshot, name, &candidates(snapshot, name))
}

/// Whether whoever leads `name` was chosen by hand, and is there.
#[must_use]
pub fn is_manual(snapshot: &Snapshot, name: &ServiceName, leader: &Endpoint) -> bool {
    snapshot.leader_choice(name).is_some_and(|choice| choice.value.manual == leader.id)
}

/// All that may lead `name`: its candidates, or where there is no election whatever is up.
#[must_use]
pub fn eligible(snapshot: &Snapshot, name: &ServiceName) -> Vec<Arc<Endpoint>> {
    let of = snapshot.service(name).map(|stored| Of::Service(&stored.value));
    if is_elected(snapshot, name) { candidates(snapshot, name) } else { pool(snapshot, name, of, &|_| true) }
}

/// The chosen one, else the oldest.
fn first(snapshot: &Snapshot, name: &ServiceName, pool: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
    let chosen = pool.iter().find(|e| is_manual(snapshot, name, e));
    chosen.or_else(|| pool.iter().min_by(|a, b| age(a).cmp(&age(b)))).cloned()
}

/// The endpoints that stand under a name itself.
fn at<'a>(snapshot: &'a Snapshot, name: &'a ServiceName) -> impl Iterator<Item = Arc<Endpoint>> + 'a {
    let path = snapshot.path_of(name);
    let below: Vec<Arc<Endpoint>> = snapshot.endpoints_below(&path).cloned().collect();
    below.into_iter().filter(move |e| snapshot.service_at(&e.path).as_ref() == Some(name))
}

fn candidates(snapshot: &Snapshot, name: &ServiceName) -> Vec<Arc<Endpoint>> {
    at(snapshot, name).filter(|e| e.candidate && e.state == EndpointState::Up).collect()
}

/// What may lead: instances if there are any, else what only bears the name.
fn pool(snapshot: &Snapshot, name: &ServiceName, of: Option<Of<'_>>, sees: &dyn Fn(&Endpoint) -> bool) -> Vec<Arc<Endpoint>> {
    let mut instances: Vec<Arc<Endpoint>> = match of {
        Some(Of::Known(known)) => known.to_vec(),
        Some(Of::Service(service)) => snapshot.endpoints_of(name, service),
        None => at(snapshot, name).filter(|e| e.kind == Kind::Service).collect(),
    };
    instances.retain(|e| sees(e));
    let named = || at(snapshot, name).filter(|e| e.kind == Kind::Name && sees(e)).collect();
    let all = if instances.is_empty() { named() } else { instances };
    all.into_iter().filter(|e| e.state == EndpointState::Up).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaseId, Revision};
    use crate::keys::Layout;
    use crate::stored::{Change, Entry};

    /// A store with these entries, each at the next revision.
    fn store(entries: &[(&str, &str)]) -> Snapshot {
        let entry = |(at, (key, value)): (usize, &(&str, &str))| {
            let revision = Revision(i64::try_from(at).unwrap() + 1);
            Entry { key: (*key).into(), value: (*value).into(), lease: Some(LeaseId(1)), created: revision, modified: revision }
        };
        let entries = entries.iter().enumerate().map(entry).collect();
        Snapshot::complete(Arc::new(Layout::default()), Revision(100), entries, None)
    }

    fn name() -> ServiceName {
        "app".parse().unwrap()
    }

    fn leads(snapshot: &Snapshot) -> Option<String> {
        leader(snapshot, &name()).map(|e| e.id.clone())
    }

    const OLD: (&str, &str) =
        ("/skydns/local/skydns/app/old/4", r#"{"host":"10.0.0.1","weft":{"id":"old","node":"h1","born":5}}"#);
    const NEW: (&str, &str) =
        ("/skydns/local/skydns/app/new/4", r#"{"host":"10.0.0.2","weft":{"id":"new","node":"h2","born":9}}"#);
    const PLAIN: (&str, &str) = ("/skydns/local/skydns/app/x", r#"{"host":"10.0.0.3"}"#);
    const ALIAS: (&str, &str) =
        ("/skydns/local/skydns/app/al/4", r#"{"host":"10.0.0.4","weft":{"id":"al","node":"h1","born":1,"kind":"name"}}"#);

    #[test]
    fn the_oldest_leads_whatever_the_order_of_writing_and_what_is_dated_before_what_is_not() {
        assert_eq!(leads(&store(&[PLAIN, NEW, ALIAS, OLD])).as_deref(), Some("old"));
        assert_eq!(leads(&store(&[PLAIN, ALIAS])).as_deref(), Some("x"), "an instance before a name");
        assert_eq!(leads(&store(&[ALIAS])).as_deref(), Some("al"));
        let earlier = ("/skydns/local/skydns/app/y", r#"{"host":"10.0.0.5"}"#);
        assert_eq!(leads(&store(&[earlier, PLAIN])).as_deref(), Some("y"), "else by the store");
        assert_eq!(leads(&store(&[])), None);
    }

    #[test]
    fn one_that_is_not_up_does_not_lead() {
        let draining = r#"{"host":"10.0.0.1","weft":{"id":"old","node":"h1","born":5,"state":"draining"}}"#;
        assert_eq!(leads(&store(&[(OLD.0, draining), NEW])).as_deref(), Some("new"));
        assert_eq!(leads(&store(&[(OLD.0, draining), ALIAS])), None, "a name does not stand in for instances");
    }

    #[test]
    fn who_was_chosen_by_hand_leads_while_it_is_up() {
        let choice = ("/weft/v1/leaders/default/app", r#"{"manual":"new","of":"tomorrow"}"#);
        let mut s = store(&[OLD, NEW, choice]);
        assert_eq!(leads(&s).as_deref(), Some("new"));
        s.apply(Revision(101), vec![Change::Delete { key: NEW.0.into(), revision: Revision(101) }]);
        assert_eq!(leads(&s).as_deref(), Some("old"));
    }

    #[test]
    fn where_there_are_candidates_the_holder_leads_and_nobody_else() {
        let candidate = |id: &str, born: u32| {
            (
                format!("/skydns/local/skydns/app/{id}/4"),
                format!(
                    r#"{{"host":"10.0.0.1","weft":{{"id":"{id}","node":"h1","kind":"name","candidate":true,"born":{born}}}}}"#
                ),
            )
        };
        let (one, two) = (candidate("one", 1), candidate("two", 2));
        let standing = [(one.0.as_str(), one.1.as_str()), (two.0.as_str(), two.1.as_str()), NEW];
        let s = store(&standing);
        assert_eq!((leads(&s), is_elected(&s, &name())), (None, true), "nobody holds it yet");
        assert_eq!(next(&s, &name()).unwrap().id, "one");
        let held = ("/weft/v1/elections/default/app", r#"{"id":"two","node":"h1"}"#);
        assert_eq!(leads(&store(&[standing[0], standing[1], held])).as_deref(), Some("two"), "an older one waits");
        assert_eq!(leads(&store(&[standing[0], held])), None, "the holder is gone, its key not yet");
        let yields = |s: &Snapshot| is_to_yield(s, &name(), &s.election(&name()).unwrap().value);
        assert!(!yields(&store(&[standing[0], standing[1], held])));
        let draining = two.1.replace(r#""kind""#, r#""state":"draining","kind""#);
        let drained = store(&[standing[0], (standing[1].0, &draining), held]);
        assert!(yields(&drained) && leads(&drained).as_deref() == Some("two"), "until another one has it");
        assert!(!yields(&store(&[(standing[1].0, &draining), held])), "for nobody");
        // From its deadline on what is drained is down, in the other tree.
        let down = |rest: &str| {
            let key = two.0.replacen("/skydns/", "/weft/v1/down/", 1);
            (key, two.1.replace(r#""kind""#, &format!(r#""state":"down"{rest},"kind""#)))
        };
        let (drained, ill) = (down(""), down(r#","unhealthy":true"#));
        assert!(yields(&store(&[standing[0], (&drained.0, &drained.1), held])), "as one that drains");
        assert!(!yields(&store(&[(&drained.0, &drained.1), held])), "for nobody");
        assert!(!yields(&store(&[standing[0], (&ill.0, &ill.1), held])), "its checks alone call it down");
        let choice = ("/weft/v1/leaders/default/app", r#"{"manual":"two"}"#);
        assert_eq!(next(&store(&[standing[0], standing[1], choice]), &name()).unwrap().id, "two");
    }
}
