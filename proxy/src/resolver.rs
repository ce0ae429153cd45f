//! All services resolved, snapshot after snapshot, at the cost of what changed.
//!
//! What comes out is [`resolve`](crate::resolve)'s of the latest snapshot, whatever the history; a property test holds the two together. An
//! endpoint that changed is of the services of its name and of its labels; these alone are chosen for again, and those of which other
//! backends are in [quarantine](crate::quarantine) than before. What an address
//! means to all of them (hosts, subnets, virtual IPs) or where services stand seldom changes: then all is resolved anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::endpoint::Endpoint;
use weft_model::ids::ServiceName;
use weft_model::membership::{Index, members, services_of};
use weft_model::snapshot::Snapshot;
use weft_model::snapshot::diff::EndpointPair;

use crate::context::Context;
use crate::pick::{Services, over, resolve_with};
use crate::quarantine::Quarantine;

/// The services of the last snapshot, resolved.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    last: Option<Last>,
    services: Services,
}

#[derive(Clone, Debug)]
struct Last {
    snapshot: Snapshot,
    context: Context,
    index: Index,
}

/// Which services may stand for other things than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Any.
    All,
    /// These.
    Some(BTreeSet<ServiceName>),
}

impl Changed {
    /// Nothing does.
    #[must_use]
    pub fn none() -> Self {
        Self::Some(BTreeSet::new())
    }

    /// Either of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Some(mut these), Self::Some(those)) => {
                these.extend(those);
                Self::Some(these)
            }
            _ => Self::All,
        }
    }
}

impl Resolver {
    /// Makes [`Resolver::services`] those of `snapshot`, on a host where these backends are in quarantine.
    pub fn update(&mut self, snapshot: &Snapshot, quarantine: &Arc<Quarantine>) -> Changed {
        if let Some(Last { snapshot: before, context, index }) = &mut self.last {
            let held = context.quarantine().clone();
            let other = (!before.same_addresses(snapshot)).then(|| Context::of(snapshot).with_quarantine(held.clone()));
            if before.same_names(snapshot) && other.is_none_or(|other| other == *context) {
                let mut affected = affected(before, snapshot, index);
                if *quarantine != held {
                    for name in quarantine.changed_since(&held) {
                        affected.entry(name).or_insert_with(|| Some(Vec::new()));
                    }
                    *context = std::mem::take(context).with_quarantine(quarantine.clone());
                }
                for (name, endpoints) in &affected {
                    redo(&mut self.services, name, snapshot, context, endpoints.as_deref());
                }
                let names = affected.into_keys().collect();
                *before = snapshot.clone();
                return Changed::Some(names);
            }
        }
        let context = Context::of(snapshot).with_quarantine(quarantine.clone());
        let index = Index::of(snapshot.services().map(|(name, stored)| (name, &stored.value)));
        self.services = resolve_with(snapshot, &context, members(snapshot, &index));
        self.last = Some(Last { snapshot: snapshot.clone(), context, index });
        Changed::All
    }

    /// What each service of the last snapshot stands for; empty before the first.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.services
    }
}

/// The services that what differs between two snapshots touches, each with the endpoints of it that changed, or none if it is
/// defined differently itself. Brings the index from the one to the other.
fn affected<'a>(
    before: &'a Snapshot,
    after: &'a Snapshot,
    index: &mut Index,
) -> BTreeMap<ServiceName, Option<Vec<EndpointPair<'a>>>> {
    let mut affected: BTreeMap<ServiceName, Option<Vec<EndpointPair<'_>>>> = BTreeMap::new();
    for (old, new) in before.endpoints_until(after) {
        // By the services as they were: those that differ now are affected by that alone.
        let mut of: Vec<ServiceName> =
            old.into_iter().chain(new).flat_map(|endpoint| services_of(before, index, endpoint)).collect();
        of.sort_unstable();
        of.dedup();
        for name in of {
            affected.entry(name).or_insert_with(|| Some(Vec::new())).as_mut().into_iter().for_each(|list| list.push((old, new)));
        }
    }
    for (name, old, new) in before.services_until(after) {
        affected.insert(name.clone(), None);
        if let Some(old) = old {
            index.remove(name, &old.value);
        }
        if let Some(new) = new {
            index.put(name, &new.value);
        }
    }
    affected
}

/// Resolves one service again, from its endpoints before and those that changed; without these, from all that there are.
fn redo(
    services: &mut Services,
    name: &ServiceName,
    snapshot: &Snapshot,
    context: &Context,
    changed: Option<&[EndpointPair<'_>]>,
) {
    let before = services.remove(name);
    let Some(stored) = snapshot.service(name) else { return };
    let service = &stored.value;
    let endpoints = match (before, changed) {
        (Some(before), Some(changed)) => {
            let mut endpoints: Vec<Arc<Endpoint>> = before.members.into_iter().map(|member| member.endpoint).collect();
            for (old, new) in changed {
                let Some(at) = old.or(*new) else { continue };
                let place = endpoints.binary_search_by(|e| (&e.path, e.ours).cmp(&(&at.path, at.ours)));
                let new = new.filter(|new| snapshot.is_endpoint_of(new, name, service));
                match (place, new) {
                    (Ok(place), Some(new)) => endpoints[place] = Arc::clone(new),
                    (Ok(place), None) => drop(endpoints.remove(place)),
                    (Err(place), Some(new)) => endpoints.insert(place, Arc::clone(new)),
                    (Err(_), None) => {}
                }
            }
            endpoints
        }
        _ => snapshot.endpoints_of(name, service),
    };
    services.insert(name.clone(), over(endpoints, name, service, context));
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
