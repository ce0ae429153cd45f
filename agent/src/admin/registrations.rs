//! Registrations, and who leads what.

use std::path::PathBuf;
use std::sync::Arc;

use weft_agent::kernel::netns::NetNs;
use weft_api::{LeadBy, LeaderSet, LeaderView, Register, Registered};
use weft_model::endpoint::Endpoint;
use weft_model::ids::ServiceName;
use weft_model::leader::{self, Choice};
use weft_model::snapshot::Snapshot;
use weft_store::Outcome;

use super::endpoints::endpoint_view;
use super::{Admin, Caller};
use crate::refusal::Refusal;
use crate::registrations::Home;

/// How often a choice is written again because somebody else wrote one.
const TRIES: usize = 16;

impl Admin {
    pub(super) async fn register(&self, id: &str, said: Register, caller: &Caller) -> Result<Registered, Refusal> {
        self.registrations.put(id, said, || self.home(id, caller)).await
    }

    /// What addresses the caller has by himself: those of the container that he is in, else this host's.
    fn home(&self, id: &str, caller: &Caller) -> Result<Home, Refusal> {
        let refuse = |why: &str| Refusal::invalid(format!("register {id}: {why}; say --address"));
        let pid = caller.pid().ok_or_else(|| refuse("it cannot be seen from here which container asks"))?;
        let netns = |path: String| NetNs::open_any(&PathBuf::from(path));
        let his = netns(format!("/proc/{pid}/ns/net")).map_err(|_| refuse("whoever asks is gone"))?;
        let published = self.published.borrow().clone();
        let is_his = |a: &&crate::state::Attachment| (a.netns_id, a.netns_cookie) == (his.id(), his.cookie());
        let mut containers = published.by_id.values().filter(is_his);
        if let Some(first) = containers.clone().find(|a| !a.further).or(containers.next()) {
            return Ok(Home { addresses: first.addresses().collect(), network: first.network.clone() });
        }
        let own = netns("/proc/self/ns/net".to_owned())
            .map_err(|e| Refusal::internal("register: look at this host's namespace", &e))?;
        if own.id() != his.id() {
            return Err(refuse("whoever asks is in a network namespace that is not attached"));
        }
        let address = self.report.borrow().public_ip.ok_or_else(|| refuse("this host has no address yet that others reach"))?;
        Ok(Home { addresses: vec![address], network: None })
    }

    pub(super) fn leader(&self, namespace: &str, name: &str) -> Result<LeaderView, Refusal> {
        let name = of(namespace, name)?;
        Ok(leader_view(&*self.snapshot()?, &name))
    }

    /// Sets who is to lead; none is the oldest again.
    pub(super) async fn leader_set(&self, namespace: &str, name: &str, set: Option<LeaderSet>) -> Result<LeaderView, Refusal> {
        let name = of(namespace, name)?;
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            if let Some(set) = &set {
                check_choice(&snapshot, &name, &set.id)?;
            }
            let bad = snapshot.bad_at(&snapshot.layout().leader(&name)).map(|bad| bad.modified);
            let there = snapshot.leader_choice(&name);
            let over = bad.or(there.map(|there| there.modified));
            let choice = set.as_ref().map(|set| {
                let other = there.map(|there| there.value.other.clone()).unwrap_or_default();
                Choice { other, ..Choice::of(&set.id) }
            });
            if choice.is_none() && over.is_none() {
                return Ok(leader_view(&snapshot, &name));
            }
            let written = self.registry.write_leader(&name, choice.as_ref(), over).await;
            match written.map_err(|e| Refusal::store(&format!("service leader {name}"), &e))? {
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    return Ok(leader_view(&*self.snapshot()?, &name));
                }
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("service leader {name}: somebody else keeps changing it; try again")))
    }
}

fn of(namespace: &str, name: &str) -> Result<ServiceName, Refusal> {
    format!("{namespace}/{name}").parse().map_err(|e| Refusal::invalid(format!("service leader: {e}")))
}

/// Somebody who could lead: one who cannot would be chosen in vain.
fn check_choice(snapshot: &Snapshot, name: &ServiceName, id: &str) -> Result<(), Refusal> {
    if leader::eligible(snapshot, name).iter().any(|e| e.id == id) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "service leader {name}: there is no endpoint {id} of it that is up; netctl endpoint list --service {name} shows those there are"
    )))
}

fn leader_view(snapshot: &Snapshot, name: &ServiceName) -> LeaderView {
    view_of_leader(snapshot, name, leader::leader(snapshot, name))
}

/// Of a name that is led by `found`.
#[must_use]
pub fn view_of_leader(snapshot: &Snapshot, name: &ServiceName, found: Option<Arc<Endpoint>>) -> LeaderView {
    let manual = snapshot.leader_choice(name).map(|choice| choice.value.manual.clone());
    let elected = leader::is_elected(snapshot, name);
    LeaderView {
        service: name.clone(),
        by: match &found {
            _ if elected => LeadBy::Election,
            Some(found) if leader::is_manual(snapshot, name, found) => LeadBy::Manual,
            _ => LeadBy::Oldest,
        },
        term: snapshot.election(name).map(|election| election.created),
        leader: found.map(|found| endpoint_view(snapshot, &found)),
        manual,
        dns_name: snapshot.path_of(name).child("leader").dns_name(),
    }
}
