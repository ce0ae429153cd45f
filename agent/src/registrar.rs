//! Announces this host and its endpoints: the node's entry and its records, on the liveness lease.
//!
//! One loop: what should stand in the store (the node's entry, a record for each attached namespace) against what does,
//! by the latest snapshot. So an ended lease, a key deleted by hand or an outage longer than the lease need no code of
//! their own: the difference is written again.
//!
//! An agent rewrites or deletes only what bears its own node, and only as it was read: where another host's entry or record
//! stands, [`Todo`] says so instead, and nothing is written there until that is gone. What an attachment's records are is
//! [`records`]' business.

pub mod records;
pub mod settle;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::{debug, info, warn};
use weft_model::ids::{EndpointId, LeaseId, NodeName, Revision};
use weft_model::keys::{Place, RecordPath};
use weft_model::node::Node;
use weft_model::record::Record;
use weft_model::snapshot::{Snapshot, Stored};
use weft_store::registry::{RecordPut, Registry};
use weft_store::{Outcome, StoreError};

use crate::attach::Published;
use crate::echo::Echo;
use crate::health::target::{self, Checked, Verdicts};
use crate::registrations::Known;
use crate::session::Kept;
use crate::view::{View, chain};
use records::{Part, of_registration, parts};
use settle::{settle, until_deadline};

/// What this host says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its name.
    pub node: NodeName,
    /// Tunnel address.
    pub public_ip: Option<Ipv4Addr>,
    /// IPv6 tunnel address.
    pub public_ipv6: Option<Ipv6Addr>,
    /// What agent and kernel can do.
    pub capabilities: Vec<String>,
    /// This boot's id.
    pub boot: String,
    /// This state directory's id.
    pub instance: String,
    /// When this agent started, RFC 3339; kept from an entry that is there.
    pub since: String,
}

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Todo {
    /// The node's entry, and the revision that it replaces.
    pub node: Option<(Node, Option<Revision>)>,
    /// When the node's entry that is there was written; records are written only beside it.
    pub node_at: Option<Revision>,
    /// Records.
    pub puts: Vec<RecordPut>,
    /// Records of ours that nothing stands behind, and when they were written.
    pub deletes: Vec<(Place, Revision)>,
    /// The sentence about the host that holds this one's name; nothing is to be written then.
    pub held: Option<String>,
    /// Sentences about records that cannot be written, because others hold their paths.
    pub conflicts: Vec<String>,
}

/// While a drain of this host or of what it holds has a deadline ahead the clock is looked at at least so often: it may be set meanwhile.
const CLOCK_BOUND: Duration = Duration::from_secs(10);

/// How many conflicts status names.
const CONFLICTS_SHOWN: usize = 3;

impl Todo {
    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.node.is_none() && self.puts.is_empty() && self.deletes.is_empty()
    }

    /// What keeps the store from saying what is true of this host, whatever is written.
    fn obstacle(&self) -> Option<String> {
        if let Some(held) = &self.held {
            return Some(format!("register: {held}"));
        }
        let more = self.conflicts.len().saturating_sub(CONFLICTS_SHOWN);
        let shown = self.conflicts.iter().take(CONFLICTS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
        match (shown.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(format!("register: {shown}")),
            (false, more) => Some(format!("register: {shown}; and {more} more")),
        }
    }
}

/// This host's entry, as it is to be over the one that is there.
#[must_use]
pub fn announcement(me: &Me, there: Option<&Stored<Node>>) -> Node {
    Node {
        node: me.node.clone(),
        public_ip: me.public_ip,
        public_ipv6: me.public_ipv6,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: me.capabilities.clone(),
        boot: me.boot.clone(),
        instance: me.instance.clone(),
        since: there.map_or_else(|| me.since.clone(), |n| n.value.since.clone()),
    }
}

/// The revision that a write of the node's entry replaces: that of what is there, even if it does not parse.
#[must_use]
pub fn entry_at(snapshot: &Snapshot, node: &NodeName) -> Option<Revision> {
    let bad = snapshot.bad_at(&snapshot.layout().node(node)).map(|bad| bad.modified);
    bad.or(snapshot.node(node).map(|there| there.modified))
}

/// What stands at a record's path, if it is not `node`'s to write over: "held by h2". Nothing, a record of `node`'s, and one
/// that ended with its host are.
#[must_use]
pub fn holder(snapshot: &Snapshot, path: &RecordPath, node: &NodeName) -> Option<String> {
    let served = Place::served(path.clone());
    held(snapshot, &served, node).or_else(|| held(snapshot, &served.opposite(), node))
}

fn held(snapshot: &Snapshot, place: &Place, node: &NodeName) -> Option<String> {
    let live = snapshot.at(place).filter(|stored| !stored.lost);
    let owner = live.and_then(|stored| stored.record.weft.as_ref()).and_then(|weft| weft.node.as_ref());
    match (live, owner) {
        (Some(_), Some(owner)) if owner == node => None,
        (Some(_), Some(owner)) => Some(format!("held by {owner}")),
        (Some(_), None) => Some("held by a record that no host wrote".to_owned()),
        (None, _) => {
            let bad = snapshot.bad_at(&snapshot.layout().place(place))?;
            Some(format!("held by a value that does not parse ({})", bad.why))
        }
    }
}

/// What is to be written so that the store says of this host what is true.
#[must_use]
pub fn todo(
    snapshot: &Snapshot,
    me: &Me,
    liveness: LeaseId,
    attachments: &Published,
    registrations: &Known,
    verdicts: &Verdicts,
    now: SystemTime,
) -> Todo {
    let mut todo = Todo::default();
    if let Some(other) = held_by_other(snapshot, me) {
        todo.held = Some(held_sentence(&other.value));
        return todo;
    }
    let there = snapshot.node(&me.node);
    todo.node_at = entry_at(snapshot, &me.node);
    let wanted = announcement(me, there);
    if there.is_none_or(|n| n.value != wanted || n.lease != Some(liveness) || Some(n.modified) != todo.node_at) {
        todo.node = Some((wanted, todo.node_at));
    }
    let mut desired: BTreeMap<RecordPath, (&EndpointId, Record)> = BTreeMap::new();
    let checked = Checked::of(snapshot);
    for attachment in attachments.by_id.values().filter(|a| !a.withdrawing) {
        let subject = target::attached(attachment);
        for Part { path, mut record } in parts(snapshot, &me.node, attachment) {
            let health = subject.health(&checked, &path, &record, verdicts);
            settle(snapshot, &path, &mut record, health, now);
            desired.insert(path, (&attachment.id, record));
        }
    }
    for registration in registrations.by_id.values() {
        let subject = target::registered(registration);
        for Part { path, mut record } in of_registration(snapshot, &me.node, registration) {
            let health = subject.health(&checked, &path, &record, verdicts);
            settle(snapshot, &path, &mut record, health, now);
            desired.entry(path).or_insert((&registration.id, record));
        }
    }
    for (place, stored) in snapshot.places() {
        let ours = stored.record.weft.as_ref().and_then(|w| w.node.as_ref()) == Some(&me.node);
        // Permanent records that name us were put by hand.
        if ours && !stored.lost && stored.lease.is_some() && !desired.contains_key(&place.path) {
            todo.deletes.extend(written_at(snapshot, &place).map(|at| (place, at)));
        }
    }
    for (path, (id, record)) in desired {
        let key = snapshot.layout().record(&path);
        if let Some(holder) = holder(snapshot, &path, &me.node) {
            todo.conflicts.push(format!("{key} is {holder}; detach {id} here or there, and choose another --id"));
            continue;
        }
        let place = Place { path: path.clone(), tree: record.tree() };
        let (over, moved) = (written_at(snapshot, &place), written_at(snapshot, &place.opposite()));
        let readable = snapshot.bad_at(&snapshot.layout().place(&place)).is_none();
        let stored = snapshot.at(&place).filter(|stored| !stored.lost && readable);
        let right = stored.is_some_and(|s| s.record == record && s.lease == Some(liveness));
        match moved {
            None if right => {}
            // In the other tree is what an older agent or somebody by hand has left.
            Some(at) if right => todo.deletes.push((place.opposite(), at)),
            _ => todo.puts.push(RecordPut { path, record, lease: Some(liveness), over, moved }),
        }
    }
    todo
}

/// When what stands at a place was written, even if it does not parse; none if nothing stands there.
fn written_at(snapshot: &Snapshot, place: &Place) -> Option<Revision> {
    let bad = snapshot.bad_at(&snapshot.layout().place(place)).map(|bad| bad.modified);
    bad.or(snapshot.at(place).filter(|stored| !stored.lost).map(|stored| stored.modified))
}

/// What the registrar follows, besides the store.
#[derive(Clone, Debug)]
pub struct Sources {
    /// What is attached.
    pub attachments: watch::Receiver<Arc<Published>>,
    /// What programs register.
    pub registrations: watch::Receiver<Arc<Known>>,
    /// What checks say.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
}

/// Registers until the process ends. `done` is the generation of attachments that the store is known to agree with;
/// `reason` says why not.
pub async fn run(
    registry: Registry,
    mut view: View,
    mut me: watch::Receiver<Option<Me>>,
    mut liveness: Kept,
    Sources { mut attachments, mut registrations, mut verdicts }: Sources,
    done: watch::Sender<u64>,
    reason: watch::Sender<Option<String>>,
) {
    let mut echo = Echo::default();
    loop {
        let snapshot = view.borrow_and_update().clone();
        let known = me.borrow_and_update().clone();
        let published = attachments.borrow_and_update().clone();
        let registered = registrations.borrow_and_update().clone();
        let health = verdicts.borrow_and_update().clone();
        let lease = *liveness.id.borrow_and_update();
        let mut retry = Duration::from_secs(3600);
        if let (Some(snapshot), Some(known), Some(lease)) = (snapshot, known, lease)
            && echo.heard(snapshot.revision())
        {
            let now = SystemTime::now();
            if let Some(ahead) = until_deadline(&snapshot, &known.node, now) {
                retry = ahead.min(CLOCK_BOUND);
            }
            let todo = todo(&snapshot, &known, lease, &published, &registered, &health, now);
            let obstacle = todo.obstacle();
            if todo.is_empty() {
                if reason.borrow().as_ref() != obstacle.as_ref() {
                    if let Some(why) = &obstacle {
                        warn!(why, "not all of this host is registered");
                    }
                    reason.send_replace(obstacle);
                }
                // A conflict is told; that it stands must not hold up what is attached and detached beside it.
                if todo.held.is_none() {
                    done.send_replace(published.generation);
                }
            } else {
                match write(&registry, &known, &todo, lease).await {
                    Ok(Outcome::Done(revision) | Outcome::Refused(revision)) => echo = Echo::of(revision),
                    Err(e) => {
                        if matches!(e, StoreError::LeaseGone { .. }) {
                            liveness.check_now();
                        }
                        let text = chain(&e);
                        if reason.send_replace(Some(format!("register: {text}"))).is_none() {
                            warn!(error = text, "records not written; they follow when the store answers");
                        }
                        retry = retry.min(Duration::from_secs(1));
                    }
                }
            }
        }
        tokio::select! {
            Ok(()) = view.changed() => {}
            Ok(()) = me.changed() => {}
            Ok(()) = attachments.changed() => {}
            Ok(()) = registrations.changed() => {}
            Ok(()) = verdicts.changed() => {}
            Ok(()) = liveness.id.changed() => {}
            () = tokio::time::sleep(echo.patience().unwrap_or(retry)) => {}
        }
    }
}

/// The node's entry first: records on its lease mean nothing without it.
async fn write(registry: &Registry, me: &Me, todo: &Todo, lease: LeaseId) -> Result<Outcome, StoreError> {
    let mut outcome = Outcome::Done(Revision::default());
    let mut node_at = todo.node_at.unwrap_or_default();
    if let Some((node, over)) = &todo.node {
        outcome = registry.write_node(node, *over, lease).await?;
        match outcome {
            Outcome::Done(revision) => node_at = revision,
            Outcome::Refused(_) => return Ok(outcome),
        }
        info!(node = %node.node, "announced node");
    }
    if !todo.puts.is_empty() || !todo.deletes.is_empty() {
        outcome = registry.write_records(&todo.puts, &todo.deletes, Some((&me.node, node_at))).await?;
        match outcome {
            Outcome::Done(_) => {
                info!(written = todo.puts.len(), withdrawn = todo.deletes.len(), "records follow attachments");
            }
            Outcome::Refused(_) => debug!("some records were changed by others meanwhile"),
        }
    }
    Ok(outcome)
}

/// Who holds a node's name, if it is not this host.
#[must_use]
pub fn held_by_other<'a>(snapshot: &'a Snapshot, me: &Me) -> Option<&'a Stored<Node>> {
    snapshot.node(&me.node).filter(|there| {
        let there = &there.value;
        let same_boot = there.boot == me.boot;
        // An entry may be of a time when the host had one of its addresses only.
        let of_v4 = there.public_ip.is_some() && there.public_ip == me.public_ip;
        let of_v6 = there.public_ipv6.is_some() && there.public_ipv6 == me.public_ipv6;
        let none = |node: (Option<Ipv4Addr>, Option<Ipv6Addr>)| node == (None, None);
        let without = none((there.public_ip, there.public_ipv6)) && none((me.public_ip, me.public_ipv6));
        let same_address = of_v4 || of_v6 || without;
        // The same instance alone is not enough: a state directory may have been cloned with its host.
        let same_state = there.instance == me.instance && (same_boot || same_address);
        // A lost state directory: the same boot of a host with the same address.
        let same_host = same_boot && (of_v4 || of_v6);
        !same_state && !same_host
    })
}

/// The sentence for a name that is held.
#[must_use]
pub fn held_sentence(node: &Node) -> String {
    let who = node.public_ip.map(IpAddr::V4).or(node.public_ipv6.map(IpAddr::V6));
    let who = who.map_or_else(|| "another host".to_owned(), |ip| ip.to_string());
    format!("node name {} is held by {who} since {}; set --node-name", node.node, node.since)
}

#[cfg(test)]
mod tests {
    use super::{todo as todo_of_all, *};
    use crate::health::target::TargetId;
    use crate::state::Attachment;
    use weft_model::endpoint::EndpointState;
    use weft_model::keys::Layout;
    use weft_model::record::{Proto, State};
    use weft_model::stored::{Change, Entry};

    const LEASE: LeaseId = LeaseId(9);

    fn me() -> Me {
        Me {
            node: "h1".parse().unwrap(),
            public_ip: Some(Ipv4Addr::new(192, 0, 2, 1)),
            public_ipv6: None,
            capabilities: vec!["fast-path".into()],
            boot: "b".into(),
            instance: "i".into(),
            since: "2026-01-01T00:00:00Z".into(),
        }
    }

    fn published() -> Published {
        let attachment = Attachment {
            id: "web-1".parse().unwrap(),
            netns: "/run/netns/web".into(),
            netns_id: (4, 5),
            netns_cookie: 6,
            ifname: "eth0".into(),
            host_ifname: "weftx".into(),
            network: None,
            address: Ipv4Addr::new(10, 244, 3, 2),
            address6: None,
            mac: weft_model::mac::Mac([2; 6]),
            gateway: Ipv4Addr::new(10, 244, 3, 1),
            routes: crate::state::everywhere(),
            mtu: 1450,
            boot: "b".into(),
            born: 0,
            name: Some("web".into()),
            service: Some("myapp".parse().unwrap()),
            port: Some(8080),
            proto: Proto::Udp,
            labels: BTreeMap::new(),
            further: false,
            withdrawing: false,
            owner: None,
            aliases: Vec::new(),
            instances: Vec::new(),
            learned: None,
            publish: Vec::new(),
            check: None,
        };
        Published { generation: 1, by_id: [(attachment.id.clone(), attachment)].into() }
    }

    fn todo(snapshot: &Snapshot, me: &Me, liveness: LeaseId, attachments: &Published) -> Todo {
        todo_of_all(snapshot, me, liveness, attachments, &Known::default(), &Verdicts::default(), SystemTime::now())
    }

    /// The store after `todo` has been written, on `lease`.
    fn after(before: &Snapshot, todo: &Todo, lease: Option<LeaseId>) -> Snapshot {
        let layout = Layout::default();
        let put = |key: String, value: String| {
            Change::Put(Entry { key: key.into(), value: value.into(), lease, created: Revision(5), modified: Revision(5) })
        };
        let mut s = before.clone();
        let mut changes = Vec::new();
        if let Some((node, _)) = &todo.node {
            changes.push(put(layout.node(&node.node), serde_json::to_string(node).unwrap()));
        }
        changes.extend(todo.puts.iter().map(|p| put(layout.place(&p.place()), p.record.to_json())));
        let moved = todo.puts.iter().filter(|p| p.moved.is_some()).map(|p| p.place().opposite());
        let gone = moved.chain(todo.deletes.iter().map(|(place, _)| place.clone()));
        changes.extend(gone.map(|place| Change::Delete { key: layout.place(&place).into(), revision: Revision(5) }));
        s.apply(Revision(5), changes);
        s
    }

    fn empty() -> Snapshot {
        Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None)
    }

    #[test]
    fn written_once_it_is_done() {
        let first = todo(&empty(), &me(), LEASE, &published());
        assert!(first.node.is_some());
        assert_eq!(first.puts[0].path.as_str(), "local/skydns/myapp/web-1/4");
        let s = after(&empty(), &first, Some(LEASE));
        assert!(todo(&s, &me(), LEASE, &published()).is_empty());
        assert_eq!(s.endpoints().next().map(|e| e.state), Some(EndpointState::Up));
    }

    #[test]
    fn a_new_liveness_lease_takes_all_of_it_over() {
        let s = after(&empty(), &todo(&empty(), &me(), LEASE, &published()), Some(LEASE));
        let next = todo(&s, &me(), LeaseId(10), &published());
        assert!(next.node.is_some() && next.puts.len() == 1 && next.deletes.is_empty());
        assert_eq!(next.node.unwrap().1, Some(Revision(5)), "by compare with what was read");
    }

    #[test]
    fn a_detached_endpoint_is_withdrawn_and_others_records_are_left_alone() {
        let s = after(&empty(), &todo(&empty(), &me(), LEASE, &published()), Some(LEASE));
        let mut s = s;
        let foreign = br#"{"host":"10.0.0.1","weft":{"id":"x","node":"h2"}}"#.to_vec();
        let by_hand = br#"{"host":"10.0.0.2","weft":{"id":"y","node":"h1"}}"#.to_vec();
        for (key, value, lease) in
            [("/skydns/local/skydns/a/x/4", foreign, Some(LEASE)), ("/skydns/local/skydns/a/y/4", by_hand, None)]
        {
            let entry = Entry { key: key.into(), value, lease, created: Revision(6), modified: Revision(6) };
            s.apply(Revision(6), vec![Change::Put(entry)]);
        }
        let next = todo(&s, &me(), LEASE, &Published::default());
        assert_eq!(next.deletes.iter().map(|(place, _)| place.path.as_str()).collect::<Vec<_>>(), ["local/skydns/myapp/web-1/4"]);
        assert!(next.puts.is_empty() && next.node.is_none());
    }

    fn with_record(before: &Snapshot, value: &str, lease: Option<LeaseId>) -> Snapshot {
        let mut s = before.clone();
        let key = "/skydns/local/skydns/myapp/web-1/4".into();
        let entry = Entry { key, value: value.into(), lease, created: Revision(6), modified: Revision(6) };
        s.apply(Revision(6), vec![Change::Put(entry)]);
        s
    }

    #[test]
    fn another_hosts_record_is_never_written_over_and_told() {
        let (alone, foreign) = (after(&empty(), &todo(&empty(), &me(), LEASE, &Published::default()), Some(LEASE)), LeaseId(8));
        for (value, lease, who) in [
            (r#"{"host":"10.0.0.1","weft":{"id":"web-1","node":"h2"}}"#, Some(foreign), "held by h2"),
            (r#"{"host":"10.0.0.1","weft":{"id":"web-1"}}"#, None, "held by a record that no host wrote"),
            (r#"{"host":"10.0.0.1"}"#, None, "held by a record that no host wrote"),
            ("{", None, "held by a value that does not parse"),
        ] {
            let s = with_record(&alone, value, lease);
            let next = todo(&s, &me(), LEASE, &published());
            assert!(next.is_empty(), "{value}: {next:?}");
            let said = next.obstacle().unwrap();
            assert!(said.starts_with(&format!("register: /skydns/local/skydns/myapp/web-1/4 is {who}")), "{said}");
            assert!(said.ends_with("; detach web-1 here or there, and choose another --id"), "{said}");
            // Nor is it withdrawn when the attachment goes.
            assert!(todo(&s, &me(), LEASE, &Published::default()).deletes.is_empty());
        }
    }

    #[test]
    fn what_is_ours_is_written_over_as_it_was_read_and_what_ended_with_its_host_anew() {
        let s = after(&empty(), &todo(&empty(), &me(), LEASE, &published()), Some(LEASE));
        let changed = with_record(&s, r#"{"host":"10.9.9.9","weft":{"id":"web-1","node":"h1"}}"#, Some(LEASE));
        assert_eq!(todo(&changed, &me(), LEASE, &published()).puts[0].over, Some(Revision(6)));
        let garbled = with_record(&s, "{", Some(LEASE));
        assert_eq!(todo(&garbled, &me(), LEASE, &published()).puts[0].over, Some(Revision(6)), "it was ours");
        assert_eq!(todo(&changed, &me(), LEASE, &Published::default()).deletes[0].1, Revision(6));

        // Of a host that died: record and entry end together, and the path is free.
        let mut dead = with_record(&s, r#"{"host":"10.0.0.1","weft":{"id":"web-1","node":"h2"}}"#, Some(LeaseId(8)));
        dead.apply(
            Revision(7),
            vec![
                Change::Delete { key: "/skydns/local/skydns/myapp/web-1/4".into(), revision: Revision(7) },
                Change::Delete { key: Layout::default().node(&"h2".parse().unwrap()).into(), revision: Revision(7) },
            ],
        );
        assert!(dead.records().any(|(_, r)| r.lost), "kept in mind");
        let next = todo(&dead, &me(), LEASE, &published());
        assert_eq!((next.puts[0].over, next.conflicts.len()), (None, 0));
    }

    const DOWN: &str = "/weft/v1/down/local/skydns/myapp/web-1/4";

    fn with(before: &Snapshot, key: &str, value: &str, lease: Option<LeaseId>) -> Snapshot {
        let mut s = before.clone();
        let entry = Entry { key: key.into(), value: value.into(), lease, created: Revision(6), modified: Revision(6) };
        s.apply(Revision(6), vec![Change::Put(entry)]);
        s
    }

    #[test]
    fn what_stands_in_the_wrong_tree_is_moved_or_deleted_by_its_host() {
        let alone = after(&empty(), &todo(&empty(), &me(), LEASE, &Published::default()), Some(LEASE));
        let ours = r#"{"host":"10.244.3.2","weft":{"id":"web-1","node":"h1","state":"down"}}"#;
        let s = with(&alone, DOWN, ours, Some(LEASE));
        let next = todo(&s, &me(), LEASE, &published());
        assert_eq!((next.puts.len(), next.puts[0].over, next.puts[0].moved), (1, None, Some(Revision(6))), "it is up");
        let s = after(&s, &next, Some(LEASE));
        assert_eq!((s.records().count(), s.down_records().count()), (1, 0));
        assert!(todo(&s, &me(), LEASE, &published()).is_empty());

        for left in [ours, "{"] {
            let both = with(&with(&s, DOWN, ours, Some(LEASE)), DOWN, left, Some(LEASE));
            let next = todo(&both, &me(), LEASE, &published());
            assert!(next.puts.is_empty(), "what is served is right");
            assert_eq!(next.deletes.iter().map(|(place, _)| Layout::default().place(place)).collect::<Vec<_>>(), [DOWN]);
            assert_eq!(todo(&both, &me(), LEASE, &Published::default()).deletes.len(), 2, "both go with the attachment");
        }
        // What others hold there is theirs.
        let foreign = with(&alone, DOWN, r#"{"host":"10.0.0.1","weft":{"id":"web-1","node":"h2"}}"#, Some(LeaseId(8)));
        let next = todo(&foreign, &me(), LEASE, &published());
        assert!(next.is_empty() && next.obstacle().unwrap().contains("held by h2"), "{next:?}");
    }

    #[test]
    fn a_drain_is_followed_while_its_key_stands_wherever_it_came_from() {
        let s = after(&empty(), &todo(&empty(), &me(), LEASE, &published()), Some(LEASE));
        for key in ["/weft/v1/drains/nodes/h1", "/weft/v1/drains/endpoints/local/skydns/myapp/web-1"] {
            let drained = with(&s, key, "{}", None);
            let next = todo(&drained, &me(), LEASE, &published());
            assert_eq!((next.puts.len(), next.puts[0].moved), (1, None), "it is served still");
            let mut drained = after(&drained, &next, Some(LEASE));
            assert_eq!(drained.endpoints().next().map(|e| e.state), Some(EndpointState::Draining));
            assert!(todo(&drained, &me(), LEASE, &published()).is_empty());
            drained.apply(Revision(8), vec![Change::Delete { key: key.into(), revision: Revision(8) }]);
            let back = after(&drained, &todo(&drained, &me(), LEASE, &published()), Some(LEASE));
            assert_eq!(back.endpoints().next().map(|e| e.state), Some(EndpointState::Up));
        }
        for others in ["/weft/v1/drains/nodes/h2", "/weft/v1/drains/endpoints/local/skydns/myapp/web-12"] {
            assert!(todo(&with(&s, others, "{}", None), &me(), LEASE, &published()).is_empty());
        }
        // What comes to a drained host comes draining.
        let early = with(&empty(), "/weft/v1/drains/nodes/h1", "{}", None);
        let first = todo(&early, &me(), LEASE, &published());
        assert_eq!(first.puts[0].record.weft.as_ref().unwrap().state, State::Draining);
    }

    #[test]
    fn at_its_deadline_a_drain_takes_out_of_use_whatever_checks_say() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let key = "/weft/v1/drains/endpoints/local/skydns/myapp/web-1";
        let s = with(&empty(), key, r#"{"since":"x","deadline":"1970-01-01T00:01:00Z"}"#, None);
        let id = TargetId { id: "web-1".parse().unwrap(), service: None };
        let state = |s: &Snapshot, health: State, now| {
            let mut published = published();
            published.by_id.values_mut().for_each(|a| a.check = Some("tcp".parse().unwrap()));
            let verdicts: Verdicts = [(id.clone(), health)].into();
            let next = todo_of_all(s, &me(), LEASE, &published, &Known::default(), &verdicts, at(now));
            let weft = next.puts[0].record.weft.clone().unwrap();
            (weft.state, weft.unhealthy)
        };
        assert_eq!(state(&s, State::Up, 59), (State::Draining, false));
        assert_eq!(state(&s, State::Up, 60), (State::Down, false));
        assert_eq!(state(&s, State::Down, 59), (State::Down, true));
        assert_eq!(state(&s, State::Down, 60), (State::Down, false), "no pool takes it back");
        let ahead = |s: &Snapshot, now| until_deadline(s, &me().node, now);
        assert_eq!(ahead(&s, at(15)), None, "it is not there yet");
        let there = after(&s, &todo(&s, &me(), LEASE, &published()), Some(LEASE));
        assert_eq!(ahead(&there, at(15)), Some(Duration::from_secs(45)));
        assert_eq!((ahead(&there, at(60)), ahead(&there, at(90))), (None, None));
        assert_eq!(until_deadline(&there, &"h2".parse().unwrap(), at(15)), None, "another host's");
        let others = with(&there, "/weft/v1/drains/nodes/h2", r#"{"deadline":"1970-01-01T00:00:30Z"}"#, None);
        assert_eq!(ahead(&others, at(0)), Some(Duration::from_secs(60)));
        // Its host's deadline counts as well; a time that is none is never.
        let node = with(&s, "/weft/v1/drains/nodes/h1", r#"{"deadline":"1970-01-01T00:00:30Z"}"#, None);
        assert_eq!((state(&node, State::Up, 30), ahead(&node, at(0))), ((State::Down, false), Some(Duration::from_secs(30))));
        for never in ["", "soon", "9999999-01-01T00:00:00Z"] {
            let drain = format!(r#"{{"deadline":"{never}"}}"#);
            let of = |s: &Snapshot| with(s, key, &drain, None);
            let said = (state(&of(&empty()), State::Up, 1 << 40), ahead(&of(&there), at(0)));
            assert_eq!(said, ((State::Draining, false), None), "{never}");
        }
    }

    #[test]
    fn what_checks_say_moves_records_and_unknown_is_as_it_was() {
        let mut published = published();
        let id = TargetId { id: "web-1".parse().unwrap(), service: None };
        for attachment in published.by_id.values_mut() {
            attachment.check = Some("tcp".parse().unwrap());
        }
        let follow = |s: &Snapshot, verdict: Option<State>| {
            let verdicts: Verdicts = verdict.map(|state| (id.clone(), state)).into_iter().collect();
            let next = todo_of_all(s, &me(), LEASE, &published, &Known::default(), &verdicts, SystemTime::now());
            let s = after(s, &next, Some(LEASE));
            assert!(todo_of_all(&s, &me(), LEASE, &published, &Known::default(), &verdicts, SystemTime::now()).is_empty());
            let endpoint = s.endpoints().next().unwrap();
            let said = (endpoint.state, endpoint.unhealthy, s.records().count());
            (s, said)
        };
        let (s, said) = follow(&empty(), None);
        assert_eq!(said, (EndpointState::Starting, false, 0), "nobody has asked it yet");
        let (s, said) = follow(&s, Some(State::Up));
        assert_eq!(said, (EndpointState::Up, false, 1));
        let (s, said) = follow(&s, None);
        assert_eq!(said, (EndpointState::Up, false, 1), "an agent that starts knows no more than the store");
        let (s, said) = follow(&s, Some(State::Down));
        assert_eq!(said, (EndpointState::Down, true, 0));
        let (s, said) = follow(&s, None);
        assert_eq!(said, (EndpointState::Down, true, 0));
        // Drained as well: what is down says more, and comes back draining.
        let drained = with(&s, "/weft/v1/drains/nodes/h1", "{}", None);
        let (drained, said) = follow(&drained, Some(State::Down));
        assert_eq!(said, (EndpointState::Down, true, 0));
        assert_eq!(follow(&drained, Some(State::Up)).1, (EndpointState::Draining, false, 1));
    }

    #[test]
    fn nothing_is_written_while_another_host_holds_the_name() {
        let there = after(&empty(), &todo(&empty(), &me(), LEASE, &published()), Some(LEASE));
        let other = Me { instance: "x".into(), public_ip: Some(Ipv4Addr::new(192, 0, 2, 2)), ..me() };
        let next = todo(&there, &other, LeaseId(10), &Published::default());
        assert!(next.is_empty(), "{next:?}");
        assert!(next.obstacle().unwrap().starts_with("register: node name h1 is held by 192.0.2.1 since"));
    }

    #[test]
    fn an_unreadable_entry_under_the_own_name_is_replaced_as_it_is() {
        let mut s = after(&empty(), &todo(&empty(), &me(), LEASE, &Published::default()), Some(LEASE));
        let key = Layout::default().node(&me().node).into();
        let entry = Entry { key, value: b"{".to_vec(), lease: Some(LEASE), created: Revision(6), modified: Revision(6) };
        s.apply(Revision(6), vec![Change::Put(entry)]);
        assert_eq!(todo(&s, &me(), LEASE, &Published::default()).node.unwrap().1, Some(Revision(6)));
    }

    #[test]
    fn a_name_is_held_by_another_host_but_not_by_oneself_without_memory() {
        let s = after(&empty(), &todo(&empty(), &me(), LEASE, &Published::default()), Some(LEASE));
        assert!(held_by_other(&s, &me()).is_none());
        assert!(held_by_other(&s, &Me { instance: "lost".into(), ..me() }).is_none());
        let (rebooted, elsewhere) = ("b2".to_owned(), Some(Ipv4Addr::new(192, 0, 2, 2)));
        assert!(held_by_other(&s, &Me { boot: rebooted.clone(), ..me() }).is_none(), "it was rebooted");
        assert!(held_by_other(&s, &Me { public_ip: elsewhere, ..me() }).is_none(), "it has another address now");
        let cloned = Me { boot: rebooted, public_ip: elsewhere, ..me() };
        assert!(held_by_other(&s, &cloned).is_some(), "the directory was cloned with its host");
        let other = Me { instance: "x".into(), public_ip: Some(Ipv4Addr::new(192, 0, 2, 2)), ..me() };
        let sentence = held_sentence(&held_by_other(&s, &other).unwrap().value);
        assert_eq!(sentence, "node name h1 is held by 192.0.2.1 since 2026-01-01T00:00:00Z; set --node-name");
    }
}
