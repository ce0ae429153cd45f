//! Who stands behind each service and who leads each name, revision after revision, at the cost of what changed: of each service that
//! something touches all members are looked at, once as they were and once as they are. To keep what was told last of each service instead
//! would halve that, for memory that grows with their number.
//!
//! Only the endpoints of services with selectors are kept here: those of the others stand below a name of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::Value;
use weft_model::endpoint::{Endpoint, EndpointKey};
use weft_model::ids::{Revision, ServiceName};
use weft_model::leader;
use weft_model::membership::{Index, members, services_of};
use weft_model::pool::{Standing, Turn};
use weft_model::snapshot::Snapshot;

use super::diff::json;
use crate::admin::views;

/// What of a service's view hangs on this host, or takes more than its endpoints to say.
const UNTOLD: &[&str] = &["backends", "rejected", "panicking", "conflicts"];

/// Who stands behind which service of one snapshot.
#[derive(Debug, Default)]
pub struct Standings {
    index: Index,
    selected: HashMap<ServiceName, BTreeMap<EndpointKey, Arc<Endpoint>>>,
}

impl Standings {
    /// Those of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let index = Index::of(snapshot.services().map(|(name, stored)| (name, &stored.value)));
        let selects = |name: &ServiceName| snapshot.service(name).is_some_and(|stored| stored.value.has_selector());
        let selected = members(snapshot, &index).into_iter().filter(|(name, _)| selects(name));
        let selected = selected.map(|(name, of)| (name, of.into_iter().map(|e| (key_of(&e), e)).collect())).collect();
        Self { index, selected }
    }

    /// The services and names of which something may be another in `after`, made from `before` by changes. These are those of
    /// `before`.
    pub fn touched(&self, before: &Snapshot, after: &Snapshot) -> BTreeSet<ServiceName> {
        let mut touched: BTreeSet<ServiceName> = before.services_until(after).map(|(name, _, _)| name.clone()).collect();
        touched.extend(before.leaders_until(after).cloned());
        for (old, new) in before.endpoints_until(after) {
            for endpoint in old.into_iter().chain(new) {
                touched.extend(before.service_at(&endpoint.path));
                // By the services as they were: those that differ are touched by that alone.
                touched.extend(services_of(before, &self.index, endpoint));
            }
        }
        touched
    }

    /// From those of `before` to those of `after`.
    pub fn update(&mut self, before: &Snapshot, after: &Snapshot) {
        for (old, new) in before.endpoints_until(after) {
            if let Some(endpoint) = old {
                for name in services_of(before, &self.index, endpoint) {
                    if let Some(of) = self.selected.get_mut(&name) {
                        of.remove(&key_of(endpoint));
                    }
                }
            }
            if let Some(endpoint) = new {
                for name in services_of(before, &self.index, endpoint) {
                    if before.service(&name).is_some_and(|stored| stored.value.has_selector()) {
                        self.selected.entry(name).or_default().insert(key_of(endpoint), Arc::clone(endpoint));
                    }
                }
            }
        }
        for (name, old, new) in before.services_until(after) {
            if let Some(old) = old {
                self.index.remove(name, &old.value);
            }
            self.selected.remove(name);
            let Some(new) = new else { continue };
            self.index.put(name, &new.value);
            if new.value.has_selector() {
                let of = after.endpoints_of(name, &new.value).into_iter().map(|e| (key_of(&e), e)).collect();
                self.selected.insert(name.clone(), of);
            }
        }
    }

    /// The endpoints of a service of the snapshot that these are of.
    fn members(&self, snapshot: &Snapshot, name: &ServiceName) -> Vec<Arc<Endpoint>> {
        match snapshot.service(name) {
            Some(stored) if stored.value.has_selector() => {
                self.selected.get(name).into_iter().flat_map(BTreeMap::values).cloned().collect()
            }
            Some(stored) => snapshot.endpoints_of(name, &stored.value),
            None => Vec::new(),
        }
    }

    /// What is told of a service, and of who leads the name; empty is not there.
    pub fn told(&self, snapshot: &Snapshot, name: &ServiceName) -> (Bytes, Bytes) {
        let members = self.members(snapshot, name);
        let found = leader::leader_among(snapshot, name, &members);
        let service = match snapshot.service(name) {
            None => Bytes::new(),
            Some(stored) => {
                let none = weft_proxy::Resolved::default();
                let mut view = views::service_view(snapshot, name, &stored.value, stored.modified, &none);
                // Whose turn it is. That an address of one of them is no backend's takes the whole network to know.
                let turn = Turn::among(members.iter().map(|e| Standing::of(e)), stored.value.panic);
                view.ready = members.iter().filter(|e| turn.takes(Standing::of(e))).count();
                view.total = members.len();
                let mut view = serde_json::to_value(view);
                if let Ok(Value::Object(view)) = &mut view {
                    view.insert("leader".to_owned(), found.as_ref().map_or(Value::Null, |e| Value::String(e.id.clone())));
                }
                json(view, UNTOLD)
            }
        };
        let leader = if is_known(snapshot, name) {
            json(serde_json::to_value(views::view_of_leader(snapshot, name, found)), &[])
        } else {
            Bytes::new()
        };
        (service, leader)
    }
}

/// All names that somebody leads or could lead.
pub fn names(snapshot: &Snapshot) -> BTreeSet<ServiceName> {
    let declared = snapshot.services().map(|(name, _)| name.clone());
    let stood_under = snapshot.endpoints().filter_map(|e| snapshot.service_at(&e.path));
    let chosen = snapshot.leader_choices().map(|(name, _)| name.clone());
    declared.chain(stood_under).chain(chosen).chain(snapshot.elections().map(|(name, _)| name.clone())).collect()
}

/// When who leads a name was last said, by what is there.
pub fn led_since(snapshot: &Snapshot, name: &ServiceName) -> Revision {
    let chosen = snapshot.leader_choice(name).map(|choice| choice.modified);
    let elected = snapshot.election(name).map(|election| election.modified);
    let path = snapshot.path_of(name);
    snapshot.endpoints_below(&path).map(|e| e.modified).chain(chosen).chain(elected).max().unwrap_or_default()
}

/// Whether a name is one of [`names`].
fn is_known(snapshot: &Snapshot, name: &ServiceName) -> bool {
    let path = snapshot.path_of(name);
    snapshot.service(name).is_some()
        || snapshot.leader_choice(name).is_some()
        || snapshot.election(name).is_some()
        || snapshot.endpoints_below(&path).any(|e| snapshot.service_at(&e.path).as_ref() == Some(name))
}

fn key_of(endpoint: &Endpoint) -> EndpointKey {
    (endpoint.path.clone(), endpoint.ours)
}
