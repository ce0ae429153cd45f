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
//! An older candidate that comes back waits: the lead changes when it must. Whoever acts by it has stopped when the key can
//! go: he is told for how long the lease certainly lives, and a candidate that acts is not asked for its key, it is told that it no
//! longer leads and stands again when it has stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_api::Candidacy;
use weft_model::ids::{LeaseId, NodeName, Revision, ServiceName};
use weft_model::leader::{self, Election};
use weft_model::snapshot::Snapshot;
use weft_store::registry::Registry;
use weft_store::{Outcome, StoreError};

use crate::echo::Echo;
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

/// What is to be written, so that the elections of this host's candidates stand as they should.
fn todo(snapshot: &Snapshot, node: &NodeName, lease: LeaseId, known: &Known) -> Vec<Step> {
    let candidates = || known.by_id.values().filter_map(|r| r.said.candidate.map(|how| (r, how)));
    let own = candidates().map(|(r, _)| &r.said.service);
    let held = snapshot.elections().filter(|(_, e)| e.value.node == *node).map(|(name, _)| name);
    let names: BTreeSet<&ServiceName> = own.chain(held).collect();
    let mut steps = Vec::new();
    for name in names {
        let of_name = |id: &str| candidates().find(|(r, _)| r.said.service == *name && r.id.as_str() == id);
        let bad = snapshot.bad_at(&snapshot.layout().election(name));
        match snapshot.election(name) {
            // What does not parse is nobody's to take: an operator removes it.
            _ if bad.is_some() => {}
            Some(stored) if stored.value.node == *node => match of_name(stored.value.id.as_str()) {
                None => steps.push(Step::Release(name.clone(), stored.modified)),
                Some((_, Candidacy::Stands)) if leader::is_to_yield(snapshot, name, &stored.value) => {
                    steps.push(Step::Release(name.clone(), stored.modified));
                }
                Some(_) if stored.lease != Some(lease) => {
                    steps.push(Step::Take(name.clone(), stored.value.clone(), Some(stored.modified)));
                }
                Some(_) => {}
            },
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

/// Holds the elections of this host's candidates until the process ends.
pub async fn run(registry: Registry, node: NodeName, mut view: View, mut liveness: Kept, mut known: watch::Receiver<Arc<Known>>) {
    let mut echo = Echo::default();
    let mut said = false;
    loop {
        let snapshot = view.borrow_and_update().clone();
        let candidates = known.borrow_and_update().clone();
        let lease = *liveness.id.borrow_and_update();
        let mut retry = Duration::from_secs(3600);
        if let (Some(snapshot), Some(lease)) = (snapshot, lease)
            && echo.heard(snapshot.revision())
        {
            for step in todo(&snapshot, &node, lease, &candidates) {
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

    fn steps(entries: &[(String, String)], known: &Known, lease: LeaseId) -> Vec<Step> {
        let entry = |(key, value): &(String, String)| {
            let at = Revision(5);
            Entry { key: key.clone().into(), value: value.clone().into(), lease: Some(LEASE), created: at, modified: at }
        };
        let entries = entries.iter().map(entry).collect();
        let snapshot = Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries, None);
        todo(&snapshot, &"h1".parse().unwrap(), lease, known)
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
}
