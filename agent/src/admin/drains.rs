//! Draining: the wish is written into the store, the agent of the host that owns the records follows it, and everybody can see how
//! far that is.
//!
//! An endpoint that no host answers for (`endpoint add`) has nobody to follow; the agent that is asked rewrites its records, each
//! as it was read.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_agent::kernel::netns::NetNs;
use weft_api::{DrainView, DrainedEndpoint};
use weft_model::drain::Drain;
use weft_model::endpoint::{Endpoint, EndpointState};
use weft_model::ids::{NodeName, Revision, ServiceName};
use weft_model::keys::RecordPath;
use weft_model::record::{Record, State};
use weft_model::snapshot::{Snapshot, Stored};
use weft_proxy::Context;
use weft_store::Outcome;
use weft_store::registry::RecordPut;

use super::Admin;
use crate::connections;
use crate::refusal::Refusal;
use crate::registrar::settle::is_overdue;

/// The longest that a deadline may be ahead: a year.
const MAX_DEADLINE: Duration = Duration::from_secs(365 * 86_400);

/// How often records that somebody else changes at the same time are read again.
const TRIES: usize = 16;

impl Admin {
    pub(super) async fn node_drain(&self, name: &str) -> Result<DrainView, Refusal> {
        let snapshot = self.snapshot()?;
        let node = self.drainable(&snapshot, name)?;
        Ok(self.node_view(&snapshot, node).await)
    }

    pub(super) async fn drain_node(&self, name: &str, deadline_ms: Option<u64>) -> Result<DrainView, Refusal> {
        let node = self.drainable(&*self.snapshot()?, name)?;
        let wish = self.wish("node drain", deadline_ms)?;
        insist("node drain", &node, || async {
            let there = self.snapshot()?.node_drain(&node).cloned();
            let Some((drain, over)) = over(there.as_ref(), &wish) else { return Ok(true) };
            let written = self.registry.drain_node(&node, &drain, over).await;
            Ok(self.followed(written.map_err(|e| Refusal::store("node drain", &e))?).await || wish.deadline.is_none())
        })
        .await?;
        Ok(self.node_view(&*self.snapshot()?, node).await)
    }

    pub(super) async fn undrain_node(&self, name: &str) -> Result<DrainView, Refusal> {
        let node = self.drainable(&*self.snapshot()?, name)?;
        let written = self.registry.undrain_node(&node).await;
        self.followed(written.map_err(|e| Refusal::store("node undrain", &e))?).await;
        Ok(self.node_view(&*self.snapshot()?, node).await)
    }

    pub(super) async fn endpoint_drain(&self, id: &str, service: Option<&str>) -> Result<DrainView, Refusal> {
        let snapshot = self.snapshot()?;
        let paths = of_id(&snapshot, "drain", id, service)?;
        Ok(self.endpoints_view(&snapshot, &paths).await)
    }

    pub(super) async fn drain_endpoint(
        &self,
        id: &str,
        service: Option<&str>,
        deadline_ms: Option<u64>,
    ) -> Result<DrainView, Refusal> {
        let snapshot = self.snapshot()?;
        let paths = of_id(&snapshot, "drain", id, service)?;
        let wish = self.wish("endpoint drain", deadline_ms)?;
        if let Some(foreign) = snapshot.endpoints().find(|e| paths.contains(&e.path) && !e.ours) {
            return Err(Refusal::conflict(format!(
                "endpoint drain: {} was written by another tool, which alone can say that it is draining; delete its record instead",
                foreign.path.dns_name()
            )));
        }
        if wish.deadline.is_some()
            && let Some(alone) = snapshot.endpoints().find(|e| paths.contains(&e.path) && is_unkept(&snapshot, e))
        {
            return Err(Refusal::conflict(format!(
                "endpoint drain: no agent keeps {}, so nobody is there at the deadline to take it out of use; drain it without one, and \
                 remove it then (netctl endpoint rm {id})",
                alone.path.dns_name()
            )));
        }
        for path in &paths {
            insist("endpoint drain", &path.dns_name(), || async {
                let there = self.snapshot()?.endpoint_drain(path).cloned();
                let Some((drain, over)) = over(there.as_ref(), &wish) else { return Ok(true) };
                let written = self.registry.drain_endpoint(path, &drain, over).await;
                Ok(self.followed(written.map_err(|e| Refusal::store("endpoint drain", &e))?).await || wish.deadline.is_none())
            })
            .await?;
            self.rewrite(path, State::Up, State::Draining).await?;
        }
        Ok(self.endpoints_view(&*self.snapshot()?, &paths).await)
    }

    pub(super) async fn undrain_endpoint(&self, id: &str, service: Option<&str>) -> Result<DrainView, Refusal> {
        let snapshot = self.snapshot()?;
        let paths = of_id(&snapshot, "undrain", id, service)?;
        for path in &paths {
            let written = self.registry.undrain_endpoint(path).await;
            self.followed(written.map_err(|e| Refusal::store("endpoint undrain", &e))?).await;
            self.rewrite(path, State::Draining, State::Up).await?;
        }
        Ok(self.endpoints_view(&*self.snapshot()?, &paths).await)
    }

    /// What is wished from now on.
    fn wish(&self, verb: &str, deadline_ms: Option<u64>) -> Result<Drain, Refusal> {
        let now = SystemTime::now();
        let deadline = match deadline_ms.map(Duration::from_millis) {
            Some(time) if time > MAX_DEADLINE => {
                return Err(Refusal::invalid(format!(
                    "{verb}: a deadline is at most {} days ahead",
                    MAX_DEADLINE.as_secs() / 86_400
                )));
            }
            time => time.map(|time| humantime::format_rfc3339_millis(now + time).to_string()),
        };
        Ok(Drain { since: humantime::format_rfc3339_seconds(now).to_string(), by: Some(self.node.clone()), deadline })
    }

    /// Waits for a write, or for what made it needless. Whether it was made.
    async fn followed(&self, outcome: Outcome) -> bool {
        let (Outcome::Done(revision) | Outcome::Refused(revision)) = outcome;
        self.echo(revision).await;
        matches!(outcome, Outcome::Done(_))
    }

    /// Rewrites the records of an endpoint that no agent keeps.
    async fn rewrite(&self, path: &RecordPath, from: State, to: State) -> Result<(), Refusal> {
        insist("endpoint drain", &path.dns_name(), || async {
            let snapshot = self.snapshot()?;
            let puts = unkept(&snapshot, path, from, to);
            if puts.is_empty() {
                return Ok(true);
            }
            let written = self.registry.write_records(&puts, &[], None).await;
            self.followed(written.map_err(|e| Refusal::store("endpoint drain", &e))?).await;
            Ok(false)
        })
        .await
    }

    /// A node that can be drained: one that is there in any way, or is drained already.
    fn drainable(&self, snapshot: &Snapshot, name: &str) -> Result<NodeName, Refusal> {
        let unknown = || Refusal::not_found(format!("there is no node {name}; netctl node list shows those there are"));
        let node: NodeName = name.parse().map_err(|_| unknown())?;
        let known = node == self.node
            || snapshot.node(&node).is_some()
            || snapshot.lease_of(&node).is_some()
            || snapshot.node_drain(&node).is_some();
        if known { Ok(node) } else { Err(unknown()) }
    }

    async fn node_view(&self, snapshot: &Snapshot, node: NodeName) -> DrainView {
        let endpoints: Vec<Arc<Endpoint>> = snapshot.endpoints().filter(|e| e.node.as_ref() == Some(&node)).cloned().collect();
        let drain = snapshot.node_drain(&node).cloned();
        let alive = snapshot.node(&node).is_some();
        let mut view = self.view(snapshot, drain.as_ref(), &endpoints).await;
        if !alive && drain.is_some() && !view.overdue {
            view.waits_for.push(format!("{node} is not there; its agent follows when it is"));
        }
        DrainView { node: Some(node), ..view }
    }

    async fn endpoints_view(&self, snapshot: &Snapshot, paths: &BTreeSet<RecordPath>) -> DrainView {
        let endpoints: Vec<Arc<Endpoint>> = snapshot.endpoints().filter(|e| paths.contains(&e.path)).cloned().collect();
        let drain = paths.iter().find_map(|path| snapshot.endpoint_drain(path)).cloned();
        self.view(snapshot, drain.as_ref(), &endpoints).await
    }

    async fn view(&self, snapshot: &Snapshot, drain: Option<&Stored<Drain>>, endpoints: &[Arc<Endpoint>]) -> DrainView {
        let services = weft_proxy::resolve(snapshot, &Context::of(snapshot));
        let used_by = |endpoint: &Endpoint| -> Vec<ServiceName> {
            let is = |other: &Endpoint| (&other.path, other.ours) == (&endpoint.path, endpoint.ours);
            let uses = services.iter().filter(|(_, s)| s.members.iter().any(|m| m.in_use && is(&m.endpoint)));
            uses.map(|(name, _)| name.clone()).collect()
        };
        let mut shown = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            shown.push(DrainedEndpoint {
                id: endpoint.id.clone(),
                dns_name: endpoint.path.dns_name(),
                node: endpoint.node.clone(),
                state: endpoint.state,
                used_by: used_by(endpoint),
                connections: self.connections(endpoint).await,
            });
        }
        let wished = drain.is_some();
        let overdue = drain.is_some_and(|drain| is_overdue(&drain.value, SystemTime::now()));
        let waits_for: Vec<String> = match (wished, overdue) {
            (true, false) => shown.iter().flat_map(drains).collect(),
            (true, true) => shown.iter().filter_map(leaves).collect(),
            (false, _) => shown.iter().filter_map(undrains).collect(),
        };
        DrainView {
            node: None,
            wished,
            since: drain.map(|d| d.value.since.clone()).filter(|s| !s.is_empty()),
            by: drain.and_then(|d| d.value.by.clone()),
            deadline: drain.and_then(|d| d.value.deadline.clone()),
            overdue,
            endpoints: shown,
            done: waits_for.is_empty(),
            waits_for,
        }
    }

    /// Established connections to an endpoint's ports, if it is a container of this host.
    async fn connections(&self, endpoint: &Endpoint) -> Option<usize> {
        let attachment = {
            let published = self.published.borrow();
            published.by_id.values().find(|a| a.id.as_str() == endpoint.id)?.clone()
        };
        if endpoint.node.as_ref() != Some(&self.node) {
            return None;
        }
        let (path, id): (PathBuf, (u64, u64)) = (attachment.netns.clone(), attachment.netns_id);
        let (addresses, ports) = (endpoint.addresses.clone(), endpoint.ports.iter().map(|p| p.port).collect::<Vec<_>>());
        let look = move || {
            let netns = NetNs::open(&path).ok().filter(|netns| netns.id() == id)?;
            let here = netns.run(connections::established).ok()?.ok()?;
            let to_it = |(address, port): &&(std::net::IpAddr, u16)| {
                addresses.contains(address) && (ports.is_empty() || ports.contains(port))
            };
            Some(here.iter().filter(to_it).count())
        };
        tokio::task::spawn_blocking(look).await.ok().flatten()
    }
}

/// Does something over until it says that it is so, or until it is plain that somebody else keeps changing what it is about.
async fn insist<F>(verb: &str, subject: &(dyn Display + Sync), mut step: impl FnMut() -> F) -> Result<(), Refusal>
where
    F: Future<Output = Result<bool, Refusal>>,
{
    for _ in 0..TRIES {
        if step().await? {
            return Ok(());
        }
    }
    Err(Refusal::conflict(format!("{verb}: somebody else keeps changing {subject}; try again")))
}

/// The endpoints' own paths of one id.
fn of_id(snapshot: &Snapshot, verb: &str, id: &str, service: Option<&str>) -> Result<BTreeSet<RecordPath>, Refusal> {
    let service: Option<ServiceName> =
        service.map(str::parse).transpose().map_err(|e| Refusal::invalid(format!("endpoint {verb}: --service: {e}")))?;
    let of = |path: &RecordPath| {
        path.last() == Some(id) && service.as_ref().is_none_or(|s| snapshot.service_at(path).as_ref() == Some(s))
    };
    let there = snapshot.endpoints().map(|e| &e.path).filter(|path| of(path));
    let wished = snapshot.endpoint_drains().map(|(path, _)| path).filter(|path| of(path));
    let paths: BTreeSet<RecordPath> = there.chain(wished).cloned().collect();
    if paths.is_empty() {
        return Err(Refusal::not_found(format!(
            "endpoint {verb}: there is no endpoint {id}; netctl endpoint list shows those there are"
        )));
    }
    // The names and services of one container are one endpoint to people; two containers of one id are not.
    let owners: BTreeSet<Option<&NodeName>> =
        snapshot.endpoints().filter(|e| paths.contains(&e.path)).map(|e| e.node.as_ref()).collect();
    if owners.len() > 1 {
        let names: Vec<String> = paths.iter().map(RecordPath::dns_name).collect();
        return Err(Refusal::conflict(format!(
            "endpoint {verb}: {id} is several endpoints ({}); name one with --service",
            names.join(", ")
        )));
    }
    Ok(paths)
}

/// What is to be written for a wish, over what is there; none if that will do. Since when it is drained stays.
fn over(there: Option<&Stored<Drain>>, wish: &Drain) -> Option<(Drain, Option<Revision>)> {
    match there {
        None => Some((wish.clone(), None)),
        Some(_) if wish.deadline.is_none() => None,
        Some(there) => Some((Drain { deadline: wish.deadline.clone(), ..there.value.clone() }, Some(there.modified))),
    }
}

/// Whether any record of an endpoint is one that no agent writes anew.
fn is_unkept(snapshot: &Snapshot, endpoint: &Endpoint) -> bool {
    snapshot.parts_of(endpoint).into_iter().any(|(_, stored)| !stored.lost && stored.lease.is_none())
}

/// The records of an endpoint that are in state `from` and that no agent writes anew, in state `to`.
fn unkept(snapshot: &Snapshot, path: &RecordPath, from: State, to: State) -> Vec<RecordPut> {
    let endpoints = snapshot.endpoints_below(path).filter(|e| e.path == *path && e.ours);
    let parts = endpoints.flat_map(|e| snapshot.parts_of(e));
    let theirs = parts.filter(|(_, s)| !s.lost && s.lease.is_none()).filter_map(|(place, stored)| {
        let mut record: Record = stored.record.clone();
        let weft = record.weft.as_mut().filter(|weft| weft.state == from)?;
        weft.state = to;
        Some(RecordPut { path: place.path, record, lease: None, over: Some(stored.modified), moved: None })
    });
    theirs.collect()
}

/// What keeps an endpoint from being drained.
fn drains(endpoint: &DrainedEndpoint) -> Vec<String> {
    let mut waits = Vec::new();
    let id = &endpoint.id;
    if endpoint.state == EndpointState::Up {
        let who = endpoint.node.as_ref().map_or_else(|| "whoever wrote it".to_owned(), |node| format!("the agent of {node}"));
        waits.push(format!("{id} is up yet: {who} has not followed"));
    } else if !endpoint.used_by.is_empty() {
        let services: Vec<String> = endpoint.used_by.iter().map(ToString::to_string).collect();
        waits.push(format!("nothing else of {} is up, so it still goes to {id}", services.join(", ")));
    }
    if let Some(open) = endpoint.connections.filter(|open| *open > 0) {
        waits.push(format!("{open} connections to {id} are open"));
    }
    waits
}

/// What keeps an endpoint from being out of use, when its drain has come to its deadline. What has ended with its host is.
fn leaves(endpoint: &DrainedEndpoint) -> Option<String> {
    let id = &endpoint.id;
    let who = endpoint.node.as_ref().map_or_else(|| "whoever wrote it".to_owned(), |node| format!("the agent of {node}"));
    matches!(endpoint.state, EndpointState::Up | EndpointState::Draining)
        .then(|| format!("the deadline has passed, and {id} is {} yet: {who} has not followed", endpoint.state))
}

/// What keeps an endpoint from being in use again.
fn undrains(endpoint: &DrainedEndpoint) -> Option<String> {
    (endpoint.state == EndpointState::Draining).then(|| format!("{} is draining yet", endpoint.id))
}

#[cfg(test)]
mod tests {
    use weft_model::ids::LeaseId;
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;

    fn world() -> Snapshot {
        let entry = |(key, value, lease): (&str, &str, Option<i64>)| Entry {
            key: key.into(),
            value: value.into(),
            lease: lease.map(LeaseId),
            created: Revision(5),
            modified: Revision(5),
        };
        let entries = [
            ("/skydns/local/skydns/db/x/4", r#"{"host":"192.0.2.9","weft":{"id":"x"}}"#, None),
            ("/skydns/local/skydns/db/x/4-m", r#"{"host":"192.0.2.9","port":9,"weft":{"id":"x","state":"draining"}}"#, None),
            ("/skydns/local/skydns/web/a/4", r#"{"host":"10.244.1.2","weft":{"id":"a","node":"h1"}}"#, Some(7)),
            ("/skydns/local/skydns/www/a/4", r#"{"host":"10.244.1.2","weft":{"id":"a","node":"h1","kind":"name"}}"#, Some(7)),
            ("/skydns/local/skydns/api/a/4", r#"{"host":"10.244.2.2","weft":{"id":"a","node":"h2"}}"#, Some(8)),
            ("/skydns/local/skydns/old/f", r#"{"host":"192.0.2.10"}"#, None),
            ("/weft/v1/drains/endpoints/local/skydns/web/gone", "{}", None),
        ];
        Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries.into_iter().map(entry).collect(), None)
    }

    #[test]
    fn an_id_is_all_names_of_one_container_and_never_two_containers() {
        let paths =
            |id: &str, service: Option<&str>| of_id(&world(), "drain", id, service).map(|p| p.len()).map_err(|r| r.message);
        assert_eq!((paths("x", None), paths("gone", None)), (Ok(1), Ok(1)), "what is drained and gone can be undrained");
        assert_eq!((paths("a", Some("web")), paths("a", Some("api"))), (Ok(1), Ok(1)));
        assert!(paths("a", None).unwrap_err().contains("name one with --service"));
        assert!(paths("y", None).unwrap_err().contains("there is no endpoint y"));
        assert!(paths("x", Some("web")).is_err() && paths("x", Some("a b")).unwrap_err().contains("--service"));
    }

    #[test]
    fn only_what_no_agent_keeps_is_rewritten_and_only_what_is_not_so_yet() {
        let s = world();
        let of =
            |service: &str, id: &str, from, to| unkept(&s, &RecordPath::from_labels(["local", "skydns", service, id]), from, to);
        let puts = of("db", "x", State::Up, State::Draining);
        assert_eq!(
            puts.iter().map(|p| (p.path.as_str(), p.over)).collect::<Vec<_>>(),
            [("local/skydns/db/x/4", Some(Revision(5)))]
        );
        assert_eq!(of("db", "x", State::Draining, State::Up).len(), 1);
        assert!(of("web", "a", State::Up, State::Draining).is_empty(), "its agent does it");
        assert!(of("old", "f", State::Up, State::Draining).is_empty(), "it has no state");
    }

    #[test]
    fn a_later_wish_may_set_another_deadline_and_nothing_else() {
        let drain = |since: &str, deadline: Option<&str>| Drain {
            since: since.to_owned(),
            by: None,
            deadline: deadline.map(str::to_owned),
        };
        let (plain, dated) = (drain("b", None), drain("b", Some("y")));
        assert_eq!(over(None, &dated), Some((dated.clone(), None)));
        let there = Stored { value: drain("a", Some("x")), lease: None, created: Revision(3), modified: Revision(4) };
        assert_eq!(over(Some(&there), &plain), None);
        assert_eq!(over(Some(&there), &dated), Some((drain("a", Some("y")), Some(Revision(4)))));
        let kept = |id: &str| world().endpoints().filter(|e| e.path.last() == Some(id)).all(|e| !is_unkept(&world(), e));
        assert!(kept("a") && !kept("x"));
    }

    #[tokio::test]
    async fn a_write_that_is_refused_each_time_is_a_conflict_and_no_success() {
        let mut tries = 0;
        let refused = insist("node drain", &"h1", || {
            tries += 1;
            std::future::ready(Ok(false))
        });
        let why = refused.await.unwrap_err();
        assert_eq!((why.code, tries), (weft_api::Code::Conflict, TRIES));
        assert!(why.message.contains("changing h1"), "{why}");
        let mut left = 3;
        let later = insist("node drain", &"h1", || {
            left -= 1;
            std::future::ready(Ok(left == 0))
        });
        assert_eq!(later.await, Ok(()));
    }

    #[test]
    fn what_a_drain_waits_for_is_told() {
        let endpoint = |state, used_by: &[&str], connections| DrainedEndpoint {
            id: "a".into(),
            dns_name: "a.web.".into(),
            node: Some("h1".parse().unwrap()),
            state,
            used_by: used_by.iter().map(|s| s.parse().unwrap()).collect(),
            connections,
        };
        assert_eq!(drains(&endpoint(EndpointState::Up, &["web"], None)), ["a is up yet: the agent of h1 has not followed"]);
        let said = drains(&endpoint(EndpointState::Draining, &["web"], Some(2)));
        assert_eq!(said, ["nothing else of default/web is up, so it still goes to a", "2 connections to a are open"]);
        for done in [EndpointState::Draining, EndpointState::Down, EndpointState::Lost] {
            assert!(drains(&endpoint(done, &[], Some(0))).is_empty());
        }
        // At the deadline connections count no longer, and being asked for want of others does.
        let said = leaves(&endpoint(EndpointState::Draining, &["web"], Some(2))).unwrap();
        assert_eq!(said, "the deadline has passed, and a is draining yet: the agent of h1 has not followed");
        assert!(leaves(&endpoint(EndpointState::Down, &[], Some(2))).is_none());
        assert!(undrains(&endpoint(EndpointState::Draining, &[], None)).is_some());
        assert!(undrains(&endpoint(EndpointState::Up, &[], None)).is_none());
    }
}
