//! What a registrant is told: how his registration is seen, and for how long he may rely on it.

use std::time::{Duration, Instant, SystemTime};

use weft_api::Registered;
use weft_model::endpoint::{Endpoint, StoredRecord};
use weft_model::ids::{LeaseId, NodeName, Revision};
use weft_model::leader;
use weft_model::record::Record;
use weft_model::snapshot::Snapshot;

use super::{Registration, Registrations};
use crate::admin::endpoint_view;
use crate::health::target::{Checked, Verdicts, registered};
use crate::registrar::records::of_registration;
use crate::registrar::settle::{in_state_of, settle};

/// Whether all records of a registration stand in the store, as they should, on the lease that is kept: those of an agent that died
/// may be about to end with its lease.
pub(super) fn is_recorded(snapshot: &Snapshot, node: &NodeName, registration: &Registration, lease: Option<LeaseId>) -> bool {
    if lease.is_none() {
        return false;
    }
    let (checked, subject) = (Checked::of(snapshot), registered(registration));
    of_registration(snapshot, node, registration).into_iter().all(|mut part| {
        settle(snapshot, &part.path, &mut part.record, None, SystemTime::now());
        let stored = snapshot.record_anywhere(&part.path).filter(|stored| !stored.lost && stored.lease == lease);
        // In which state is its checks' business, if it has any.
        let is_checked = subject.health(&checked, &part.path, &part.record, &Verdicts::default()).is_some();
        stored.is_some_and(|stored| match is_checked {
            true => in_state_of(&part.record, &stored.record) == stored.record,
            false => stored.record == part.record,
        })
    })
}

/// Whether any record of a registration stands in the store, as this host's.
pub(super) fn stands(snapshot: &Snapshot, node: &NodeName, registration: &Registration) -> bool {
    of_registration(snapshot, node, registration).iter().any(|part| {
        let stored = snapshot.record_anywhere(&part.path).filter(|stored| !stored.lost);
        let weft = stored.and_then(|stored| stored.record.weft.as_ref());
        weft.and_then(|weft| weft.node.as_ref()) == Some(node)
    })
}

/// Whether a candidate holds the lead.
enum Lead {
    /// For this term, and certainly for so long.
    Held(Revision, Duration),
    /// Not, or it is to give it up.
    None,
    /// The store has it so, but it cannot be said for how long: it has not been read, or does not answer.
    Unknown,
}

impl Registrations {
    /// What is said of a registration that is kept until then.
    pub(super) fn answer(&self, registration: &Registration, until: Instant) -> Registered {
        let left = until.saturating_duration_since(Instant::now());
        let snapshot = self.around.view.borrow().clone();
        let seen = snapshot.as_deref();
        let written = seen.is_some_and(|s| is_recorded(s, &self.around.node, registration, self.lease()));
        let (lead, lead_known) = match registration.said.candidate {
            Some(_) => match seen.map_or(Lead::Unknown, |s| self.held(s, registration)) {
                Lead::Held(term, safe) => (Some((Some(term), safe)), true),
                Lead::None => (None, true),
                Lead::Unknown => (None, false),
            },
            None => {
                let leads = written && seen.is_some_and(|s| self.leads(s, registration));
                (leads.then(|| (None, self.safe())), seen.is_some())
            }
        };
        Registered {
            id: registration.id.clone(),
            said: registration.said.clone(),
            network: registration.network.clone(),
            born: registration.born,
            expires_ms: millis(left),
            endpoint: seen.and_then(|s| self.endpoint(s, registration)).map(|(s, e)| endpoint_view(s, &e)),
            store: if written { "written" } else { "pending" }.to_owned(),
            lead: lead.is_some(),
            lead_known,
            term: lead.and_then(|(term, _)| term),
            safe_for_ms: lead.map_or(0, |(_, safe)| millis(left.min(safe))),
        }
    }

    /// This host's liveness lease, if it is known to live.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.around.liveness.borrow().as_ref().and_then(|kept| *kept.id.borrow())
    }

    /// For how long this host's liveness lease certainly lives.
    fn safe(&self) -> Duration {
        let kept = self.around.liveness.borrow().clone();
        kept.zip(self.lease()).map_or(Duration::ZERO, |(kept, lease)| kept.safe_for(lease))
    }

    /// Whether a candidate holds the lead.
    fn held(&self, snapshot: &Snapshot, registration: &Registration) -> Lead {
        let name = &registration.said.service;
        let Some(election) = snapshot.election(name) else { return Lead::None };
        let is_holder = (&election.value.id, &election.value.node) == (&registration.id, &self.around.node);
        let is_going = self.around.releasing.has(name, election.modified);
        if !is_holder || is_going || leader::is_to_yield(snapshot, name, &election.value) {
            return Lead::None;
        }
        let kept = self.around.liveness.borrow().clone();
        let safe = kept.zip(election.lease).map_or(Duration::ZERO, |(kept, lease)| kept.safe_for(lease));
        if safe.is_zero() { Lead::Unknown } else { Lead::Held(election.created, safe) }
    }

    fn leads(&self, snapshot: &Snapshot, registration: &Registration) -> bool {
        let leader = leader::leader(snapshot, &registration.said.service);
        leader.is_some_and(|e| e.id == registration.id.as_str() && e.node.as_ref() == Some(&self.around.node))
    }

    /// The endpoint in the store, or as it will be.
    fn endpoint<'a>(&self, snapshot: &'a Snapshot, registration: &Registration) -> Option<(&'a Snapshot, Endpoint)> {
        let path = snapshot.path_of(&registration.said.service).child(registration.id.as_str());
        let there =
            snapshot.endpoints_below(&path).find(|e| e.ours && e.path == path && e.node.as_ref() == Some(&self.around.node));
        if let Some(there) = there {
            return Some((snapshot, (**there).clone()));
        }
        let unwritten = |record: Record| {
            let (never, tree) = (Revision::default(), record.tree());
            StoredRecord { record, tree, lease: None, created: never, modified: never, lost: false }
        };
        let parts = of_registration(snapshot, &self.around.node, registration);
        let parts: Vec<StoredRecord> = parts.into_iter().map(|part| unwritten(part.record)).collect();
        Endpoint::from_parts(&(path, true), &parts).map(|endpoint| (snapshot, endpoint))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
