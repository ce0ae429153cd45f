//! What is known of all of it, and the rules that nothing of it may break.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use weft_model::ids::{NodeName, Revision};
use weft_model::keys::{Key, Layout};
use weft_model::record::Record;
use weft_model::service::{Service, VipOwner};
use weft_store::Change;

use super::TTL;

/// What is known of all of it.
#[derive(Default)]
pub struct Book {
    /// Keys of attachments that were acknowledged to an agent which lives and still wants them, and from when on they stood.
    pub acknowledged: BTreeMap<String, (NodeName, Revision)>,
    /// Keys that were acknowledged to programs.
    pub registered: BTreeMap<String, Promise>,
    /// How many programs live that want each key.
    pub wanted: BTreeMap<String, usize>,
    /// Who has each record, by the checker's watch.
    pub records: BTreeMap<String, NodeName>,
    /// When the checker saw that a record was deleted, if it is, and at which revision.
    pub deleted: BTreeMap<String, (Instant, Revision)>,
    /// The same by the second watch.
    pub deleted_again: BTreeMap<String, Instant>,
    pub services: BTreeMap<String, Service>,
    pub vips: BTreeMap<String, VipOwner>,
    /// When something held up the whole machine, or a lease ended that was kept: how long, and when.
    pub stalls: VecDeque<(Instant, Duration)>,
    /// Since when all members of etcd that run answer; none while one is cut off.
    pub whole_since: Option<Instant>,
    pub faults: Vec<String>,
    pub seen: Counts,
}

/// That a record stands, unless its owner is heard no more.
pub struct Promise {
    pub owner: NodeName,
    /// When it was written.
    pub at: Revision,
    /// Until when it holds if nothing more is heard.
    pub until: Instant,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub acknowledged: usize,
    pub changes: usize,
    pub deaths: usize,
    pub registered: usize,
    pub beats: usize,
    pub silent: usize,
    pub withdrawn: usize,
    pub deleted: usize,
    pub looked: usize,
    pub services: usize,
    pub excused: usize,
    /// The longest that a view had what was deleted, while all members of etcd that run answer, and while one is cut off.
    pub latest: Duration,
    pub latest_cut: Duration,
}

impl Book {
    /// A program has ended.
    pub fn ends(&mut self, key: &str, owner: &NodeName) {
        if let Some(wanted) = self.wanted.get_mut(key) {
            *wanted -= 1;
        }
        self.wanted.retain(|_, wanted| *wanted > 0);
        if self.registered.get(key).is_some_and(|promise| promise.owner == *owner) {
            self.registered.remove(key);
        }
    }

    /// The longest stall of late.
    pub fn stalled(&mut self) -> Duration {
        while self.stalls.front().is_some_and(|(at, _)| at.elapsed() > TTL * 3) {
            self.stalls.pop_front();
        }
        self.stalls.iter().map(|(_, long)| *long).max().unwrap_or_default()
    }

    fn gone(&mut self, key: &str, at: Revision) {
        self.records.remove(key);
        self.deleted.insert(key.to_owned(), (Instant::now(), at));
        self.seen.deleted += 1;
        let attached = self.acknowledged.get(key).filter(|(_, since)| at > *since).map(|(owner, _)| owner);
        let registered = self.registered.get(key).filter(|p| at > p.at && Instant::now() < p.until).map(|p| &p.owner);
        let Some(owner) = attached.or(registered).cloned() else { return };
        if self.stalled() > TTL / 6 {
            self.seen.excused += 1;
        } else {
            self.faults.push(format!("{key} of {owner}, which lives, was acknowledged and is gone"));
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.deleted.remove(key);
        let record = Record::parse(value).ok();
        let Some(node) = record.and_then(|record| record.weft?.node) else {
            self.faults.push(format!("{key} is no record of an agent: {}", String::from_utf8_lossy(value)));
            return;
        };
        if let Some(before) = self.records.insert(key.to_owned(), node.clone())
            && before != node
        {
            self.faults.push(format!("{key} was {before}'s, and {node} wrote over it"));
        }
    }

    /// After each revision: an address is of one service, and the key that says so says the same.
    pub fn check_vips(&mut self) {
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        for (name, service) in &self.services {
            for vip in &service.vips {
                if let Some(other) = owners.insert(vip.to_string(), name) {
                    self.faults.push(format!("{vip} is both {other}'s and {name}'s"));
                }
                let key = self.vips.get(&vip.to_string()).map(|owner| owner.service.to_string());
                if key.as_deref() != Some(name) {
                    self.faults.push(format!("{vip} is in {name}, and its key says {key:?}"));
                }
            }
        }
        for (vip, owner) in &self.vips {
            if !owners.contains_key(vip) {
                self.faults.push(format!("{vip} is held for {}, which does not have it", owner.service));
            }
        }
    }

    pub fn take(&mut self, layout: &Layout, change: &Change) {
        let (key, value, at) = match change {
            Change::Put(entry) => (&entry.key, Some(&entry.value), entry.modified),
            Change::Delete { key, revision } => (key, None, *revision),
        };
        let text = String::from_utf8(key.clone()).unwrap();
        match (layout.parse(key), value) {
            (Ok(Key::Record(_)), Some(value)) => self.put(&text, value),
            (Ok(Key::Record(_)), None) => self.gone(&text, at),
            (Ok(Key::Service(name)), Some(value)) => {
                self.services.insert(name.to_string(), serde_json::from_slice(value).unwrap());
            }
            (Ok(Key::Service(name)), None) => drop(self.services.remove(&name.to_string())),
            (Ok(Key::Vip(vip)), Some(value)) => {
                self.vips.insert(vip.to_string(), serde_json::from_slice(value).unwrap());
            }
            (Ok(Key::Vip(vip)), None) => drop(self.vips.remove(&vip.to_string())),
            _ => {}
        }
    }
}
