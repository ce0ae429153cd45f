//! Elections: of the candidates of a name, on whatever hosts, one holds the lead.
//!
//! The lead is a key on the liveness lease of the host whose candidate holds it, made by compare, so there is never a second one.
//! Only that host removes it: when the candidate is withdrawn, or gives way to one that was chosen by hand, or because it
//! is drained; and the store does when
//! the lease ends. The agent whose candidate is next (chosen by hand, else the oldest) takes the key when it is free.
//!
//! ```text
//!   free ── next in line is ours ──▶ held ── withdrawn, gives way, lease ended ──▶ free
//! ```
//!
//! What stands on a lease that was never this agent's, or under a name that another host holds, is not touched; nor, for the time of
//! one lease, what is of a candidate of which this run has not heard: where the file of registrations was lost, it acts and is about
//! to say so.
//!
//! An older candidate that comes back waits: the lead changes when it must. Whoever acts by it has stopped when the key can
//! go: he is told for how long the lease certainly lives, and a candidate that acts is not asked for its key, it is told that it no
//! longer leads and stands again when it has stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};
use weft_api::Candidacy;
use weft_model::ids::{EndpointId, LeaseId, Revision, ServiceName};
use weft_model::leader::{self, Election};
use weft_model::snapshot::Snapshot;
use weft_store::registry::Registry;
use weft_store::{Outcome, StoreError};

use crate::echo::Echo;
use crate::registrar::{Me, held_by_other};
use crate::registrations::Known;
use crate::session::Kept;
use crate::view::{View, chain};

/// A key to write or to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Takes the lead, or hangs the key on another lease, over the one written at that revision.
    Take(ServiceName, Election, Option<Revision>),
    /// Gives the lead up that was written at that revision.
    Release(ServiceName, Revision),
}

/// The leads that are being given up, each by when its key was written. From before that is asked of the store until the view shows
/// another key, no candidate is told that it holds one of them: the key may be gone any moment.
#[derive(Debug, Default)]
pub struct Releasing(Mutex<BTreeMap<ServiceName, Revision>>);

impl Releasing {
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<ServiceName, Revision>> {
        // A map of plain values is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the key of a name that was written at that revision is being given up.
    #[must_use]
    pub fn has(&self, name: &ServiceName, modified: Revision) -> bool {
        self.locked().get(name) == Some(&modified)
    }

    fn begin(&self, name: &ServiceName, modified: Revision) {
        self.locked().insert(name.clone(), modified);
    }

    fn cancel(&self, name: &ServiceName) {
        self.locked().remove(name);
    }

    /// Forgets what the view shows to be over.
    fn follow(&self, snapshot: &Snapshot) {
        self.locked().retain(|name, at| snapshot.election(name).is_some_and(|stored| stored.modified == *at));
    }
}

/// What this run of the agent knows besides the store and its registrations.
#[derive(Debug, Default)]
struct Past {
    /// The liveness leases that it has kept, the one that it adopted among them.
    leases: BTreeSet<LeaseId>,
    /// The candidates of which it has heard.
    seen: BTreeSet<EndpointId>,
    /// Whether others may still be about to say that they are there.
    is_early: bool,
    /// What the store was asked to remove, whatever came of it.
    begun: BTreeMap<ServiceName, Revision>,
}

/// What is to be written, so that the elections of this host's candidates stand as they should.
fn todo(snapshot: &Snapshot, me: &Me, lease: LeaseId, known: &Known, past: &Past) -> Vec<Step> {
    let mut steps = Vec::new();
    if held_by_other(snapshot, me).is_some() {
        return steps;
    }
    let node = &me.node;
    let candidates = || known.by_id.values().filter_map(|r| r.said.candidate.map(|how| (r, how)));
    let own = candidates().map(|(r, _)| &r.said.service);
    let held = snapshot.elections().filter(|(_, e)| e.value.node == *node).map(|(name, _)| name);
    let names: BTreeSet<&ServiceName> = own.chain(held).collect();
    for name in names {
        let of_name = |id: &str| candidates().find(|(r, _)| r.said.service == *name && r.id.as_str() == id);
        let bad = snapshot.bad_at(&snapshot.layout().election(name));
        match snapshot.election(name) {
            // What does not parse is nobody's to take: an operator removes it.
            _ if bad.is_some() => {}
            Some(stored) if stored.value.node == *node => {
                let is_ours = stored.lease.is_some_and(|on| on == lease || past.leases.contains(&on));
                let is_begun = past.begun.get(name) == Some(&stored.modified);
                let release = match of_name(stored.value.id.as_str()) {
                    _ if is_begun => true,
                    None => !past.is_early || past.seen.contains(&stored.value.id),
                    Some((_, Candidacy::Stands)) => leader::is_to_yield(snapshot, name, &stored.value),
                    Some((_, Candidacy::Acts)) => false,
                };
                if release && is_ours {
                    steps.push(Step::Release(name.clone(), stored.modified));
                } else if stored.lease != Some(lease) && of_name(stored.value.id.as_str()).is_some() {
                    steps.push(Step::Take(name.clone(), stored.value.clone(), Some(stored.modified)));
                }
            }
            Some(_) => {}
            None => {
                let next = leader::next(snapshot, name).filter(|next| next.node.as_ref() == Some(node));
                if let Some((candidate, _)) = next.and_then(|next| of_name(&next.id)) {
                    let election = Election { id: candidate.id.clone(), node: node.clone() };
                    steps.push(Step::Take(name.clone(), election, None));
                }
            }
        }
    }
    steps
}

/// What [`run`] follows, besides the store.
#[derive(Debug)]
pub struct Sources {
    /// What this host says of itself.
    pub me: watch::Receiver<Option<Me>>,
    /// What programs have registered.
    pub known: watch::Receiver<Arc<Known>>,
    /// Where those who answer candidates see what is being given up.
    pub releasing: Arc<Releasing>,
    /// How long the liveness lease lasts.
    pub lease_ttl: Duration,
}

/// Holds the elections of this host's candidates until the process ends.
pub async fn run(registry: Registry, mut view: View, mut liveness: Kept, sources: Sources) {
    let Sources { mut me, mut known, releasing, lease_ttl } = sources;
    let mut past = Past { leases: liveness.adopted.into_iter().collect(), ..Past::default() };
    let early_until = Instant::now() + lease_ttl;
    let mut echo = Echo::default();
    let mut said = false;
    loop {
        let snapshot = view.borrow_and_update().clone();
        let host = me.borrow_and_update().clone();
        let candidates = known.borrow_and_update().clone();
        let lease = *liveness.id.borrow_and_update();
        let early = early_until.saturating_duration_since(Instant::now());
        past.is_early = !early.is_zero();
        past.leases.extend(lease);
        past.seen.extend(candidates.by_id.values().filter(|r| r.said.candidate.is_some()).map(|r| r.id.clone()));
        let mut retry = if past.is_early { early } else { Duration::from_secs(3600) };
        if let Some(snapshot) = &snapshot {
            releasing.follow(snapshot);
            past.begun.retain(|name, at| releasing.has(name, *at));
        }
        if let (Some(snapshot), Some(host), Some(lease)) = (snapshot, host, lease)
            && echo.heard(snapshot.revision())
        {
            for step in todo(&snapshot, &host, lease, &candidates, &past) {
                if let Step::Release(name, at) = &step {
                    releasing.begin(name, *at);
                    // A candidate that said just before that it acts was told that it may: it keeps the lead.
                    if !todo(&snapshot, &host, lease, &known.borrow().clone(), &past).contains(&step) {
                        releasing.cancel(name);
                        continue;
                    }
                    past.begun.insert(name.clone(), *at);
                }
                match carry_out(&registry, &step, lease).await {
                    Ok(revision) => {
                        echo = Echo::of(revision);
                        said = false;
                    }
                    Err(e) => {
                        if matches!(e, StoreError::LeaseGone { .. }) {
                            liveness.check_now();
                        }
                        if !std::mem::replace(&mut said, true) {
                            warn!(error = chain(&e), "elections wait for the store");
                        }
                        retry = Duration::from_secs(1);
                        break;
                    }
                }
            }
        }
        tokio::select! {
            Ok(()) = view.changed() => {}
            Ok(()) = me.changed() => {}
            Ok(()) = known.changed() => {}
            Ok(()) = liveness.id.changed() => {}
            () = tokio::time::sleep(echo.patience().unwrap_or(retry)) => {}
        }
    }
}

async fn carry_out(registry: &Registry, step: &Step, lease: LeaseId) -> Result<Revision, StoreError> {
    let outcome = match step {
        Step::Take(name, election, over) => {
            let outcome = registry.write_election(name, election, *over, lease).await?;
            if matches!(outcome, Outcome::Done(_)) && over.is_none() {
                info!(%name, id = %election.id, "leads");
            }
            outcome
        }
        Step::Release(name, at) => {
            let outcome = registry.remove_election(name, *at).await?;
            if matches!(outcome, Outcome::Done(_)) {
                info!(%name, "leads no more");
            }
            outcome
        }
    };
    let (Outcome::Done(revision) | Outcome::Refused(revision)) = outcome;
    Ok(revision)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::registrations::Registration;
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    const LEASE: LeaseId = LeaseId(9);

    fn known(candidates: &[(&str, Candidacy)]) -> Known {
        let registration = |(id, how): &(&str, Candidacy)| {
            let how = serde_json::to_string(how).unwrap();
            let said = format!(r#"{{"service":"job","kind":"name","ttl_ms":9000,"addresses":["192.0.2.1"],"candidate":{how}}}"#);
            let id: weft_model::ids::EndpointId = id.parse().unwrap();
            (id.clone(), Registration { id, said: serde_json::from_str(&said).unwrap(), network: None, born: 1 })
        };
        Known { by_id: candidates.iter().map(registration).collect() }
    }

    fn candidate(id: &str, node: &str, born: u32) -> (String, String) {
        let weft = format!(r#"{{"id":"{id}","node":"{node}","kind":"name","candidate":true,"born":{born}}}"#);
        (format!("/skydns/local/skydns/job/{id}/4"), format!(r#"{{"host":"192.0.2.1","weft":{weft}}}"#))
    }

    fn held(id: &str, node: &str) -> (String, String) {
        ("/weft/v1/elections/default/job".to_owned(), format!(r#"{{"id":"{id}","node":"{node}"}}"#))
    }

    fn chosen(id: &str) -> (String, String) {
        ("/weft/v1/leaders/default/job".to_owned(), format!(r#"{{"manual":"{id}"}}"#))
    }

    fn me() -> Me {
        Me {
            node: "h1".parse().unwrap(),
            public_ip: Some(Ipv4Addr::new(192, 0, 2, 1)),
            public_ipv6: None,
            capabilities: Vec::new(),
            boot: "b".into(),
            instance: "i".into(),
            since: "2026-01-01T00:00:00Z".into(),
        }
    }

    /// Of an agent that runs for long, and kept no other lease before.
    fn steps(entries: &[(String, String)], known: &Known, lease: LeaseId) -> Vec<Step> {
        steps_after(entries, known, lease, &Past { leases: [LEASE].into(), ..Past::default() })
    }

    fn steps_after(entries: &[(String, String)], known: &Known, lease: LeaseId, past: &Past) -> Vec<Step> {
        todo(&snapshot(entries), &me(), lease, known, past)
    }

    fn snapshot(entries: &[(String, String)]) -> Snapshot {
        let entry = |(key, value): &(String, String)| {
            let at = Revision(5);
            Entry { key: key.clone().into(), value: value.clone().into(), lease: Some(LEASE), created: at, modified: at }
        };
        let entries = entries.iter().map(entry).collect();
        Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries, None)
    }

    fn take(id: &str, over: Option<i64>) -> Vec<Step> {
        let election = Election { id: id.parse().unwrap(), node: "h1".parse().unwrap() };
        vec![Step::Take("job".parse().unwrap(), election, over.map(Revision))]
    }

    fn release() -> Vec<Step> {
        vec![Step::Release("job".parse().unwrap(), Revision(5))]
    }

    #[test]
    fn the_oldest_takes_what_nobody_holds_and_the_others_wait() {
        let (mine, other) = (candidate("a", "h1", 5), candidate("b", "h2", 9));
        let standing = known(&[("a", Candidacy::Stands)]);
        assert_eq!(steps(&[mine.clone(), other.clone()], &standing, LEASE), take("a", None));
        assert_eq!(steps(&[mine.clone(), candidate("b", "h2", 2)], &standing, LEASE), [], "h2's turn");
        assert_eq!(steps(&[mine.clone(), candidate("b", "h2", 2), chosen("a")], &standing, LEASE), take("a", None), "by hand");
        assert_eq!(steps(&[mine.clone(), other, held("b", "h2")], &standing, LEASE), [], "h2 has it, older or not");
        assert_eq!(steps(&[mine], &known(&[]), LEASE), [], "withdrawn just now");
        assert_eq!(steps(&[], &standing, LEASE), [], "not written yet");
    }

    #[test]
    fn the_holder_gives_it_up_when_it_is_withdrawn_or_another_was_chosen_and_never_while_it_acts() {
        let (mine, other) = (candidate("a", "h1", 5), candidate("b", "h2", 9));
        let (stands, acts) = (known(&[("a", Candidacy::Stands)]), known(&[("a", Candidacy::Acts)]));
        let all = [mine.clone(), other.clone(), held("a", "h1")];
        assert_eq!(steps(&all, &known(&[]), LEASE), release());
        assert_eq!(steps(&all, &stands, LEASE), []);
        let all = [mine.clone(), other, held("a", "h1"), chosen("b")];
        assert_eq!(steps(&all, &acts, LEASE), []);
        assert_eq!(steps(&all, &stands, LEASE), release());
        assert_eq!(steps(&[mine, held("a", "h1"), chosen("b")], &stands, LEASE), [], "whom nobody sees is waited for by nobody");
    }

    #[test]
    fn another_lease_takes_the_key_over_and_junk_is_nobodys() {
        let mine = candidate("a", "h1", 5);
        let standing = known(&[("a", Candidacy::Stands)]);
        assert_eq!(steps(&[mine.clone(), held("a", "h1")], &standing, LeaseId(10)), take("a", Some(5)));
        assert_eq!(steps(&[mine, ("/weft/v1/elections/default/job".to_owned(), "{".to_owned())], &standing, LEASE), []);
    }

    #[test]
    fn under_a_name_that_another_host_holds_and_on_a_lease_of_another_run_nothing_is_touched() {
        let mine = candidate("a", "h1", 5);
        let other =
            r#"{"node":"h1","public_ip":"192.0.2.7","version":"1","boot":"x","instance":"x","since":"2026-01-01T00:00:00Z"}"#;
        let other = ("/weft/v1/nodes/h1".to_owned(), other.to_owned());
        let standing = known(&[("a", Candidacy::Stands)]);
        assert_eq!(steps(std::slice::from_ref(&mine), &standing, LEASE), take("a", None));
        assert_eq!(steps(&[mine.clone(), other.clone()], &standing, LEASE), []);
        assert_eq!(steps(&[held("b", "h1")], &known(&[]), LEASE), release());
        assert_eq!(steps(&[held("b", "h1"), other], &known(&[]), LEASE), []);
        assert_eq!(steps_after(&[held("b", "h1")], &known(&[]), LeaseId(10), &Past::default()), [], "whose lease is that");
        assert_eq!(steps(&[held("b", "h1")], &known(&[]), LeaseId(10)), release(), "it was ours before");
    }

    #[test]
    fn a_leader_that_a_new_agent_has_not_heard_of_is_given_the_time_of_a_lease_to_say_so() {
        let early = |seen: &[&str]| Past {
            leases: [LEASE].into(),
            seen: seen.iter().map(|id| id.parse().unwrap()).collect(),
            is_early: true,
            ..Past::default()
        };
        assert_eq!(steps_after(&[held("a", "h1")], &known(&[]), LEASE, &early(&["b"])), []);
        assert_eq!(steps_after(&[held("a", "h1")], &known(&[]), LEASE, &early(&["a"])), release(), "it was here, and left");
        assert_eq!(steps(&[held("a", "h1")], &known(&[]), LEASE), release(), "it has had its time");
    }

    #[test]
    fn a_release_that_has_begun_is_finished_and_nobody_is_told_that_he_holds_what_it_removes() {
        let (name, releasing): (ServiceName, _) = ("job".parse().unwrap(), Releasing::default());
        releasing.begin(&name, Revision(5));
        assert!(releasing.has(&name, Revision(5)) && !releasing.has(&name, Revision(6)), "a later key is another lead");
        releasing.follow(&snapshot(&[held("a", "h1")]));
        assert!(releasing.has(&name, Revision(5)), "the key may be gone any moment");
        let begun = Past { leases: [LEASE].into(), begun: [(name.clone(), Revision(5))].into(), ..Past::default() };
        for how in [Candidacy::Stands, Candidacy::Acts] {
            let all = [candidate("a", "h1", 5), held("a", "h1")];
            assert_eq!(steps_after(&all, &known(&[("a", how)]), LEASE, &begun), release(), "he is told that he does not lead");
        }
        releasing.follow(&snapshot(&[]));
        assert!(!releasing.has(&name, Revision(5)));
    }
}
