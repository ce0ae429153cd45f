//! Which endpoints each of many services stands for, in one walk over the endpoints.
//!
//! The rule is [`Snapshot::is_endpoint_of`]'s; this only finds the services that may stand for an endpoint, by its name and by
//! its labels, instead of asking all.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::ids::ServiceName;
use crate::record::Kind;
use crate::snapshot::Snapshot;

mod index;

pub use index::Index;

/// The endpoints of services, by path.
pub type Members = BTreeMap<ServiceName, Vec<Arc<Endpoint>>>;

/// The endpoints of all services of the snapshot that have any. `index` holds its services.
#[must_use]
pub fn members(snapshot: &Snapshot, index: &Index) -> Members {
    let mut members = Members::new();
    for endpoint in snapshot.endpoints() {
        for service in services_of(snapshot, index, endpoint) {
            match members.get_mut(&service) {
                Some(there) => there.push(Arc::clone(endpoint)),
                None => drop(members.insert(service, vec![Arc::clone(endpoint)])),
            }
        }
    }
    members
}

/// The services of the snapshot that stand for this endpoint, which need not be one of its own. `index` holds them.
#[must_use]
pub fn services_of(snapshot: &Snapshot, index: &Index, endpoint: &Endpoint) -> Vec<ServiceName> {
    if endpoint.kind != Kind::Service {
        return Vec::new();
    }
    let Some(at) = snapshot.service_at(&endpoint.path) else { return Vec::new() };
    let is_of =
        |name: &ServiceName| snapshot.service(name).is_some_and(|stored| snapshot.is_endpoint_of(endpoint, name, &stored.value));
    let by_labels = index.candidates(&endpoint.labels).filter(|name| name.namespace == at.namespace && is_of(name));
    let mut services: Vec<ServiceName> = by_labels.cloned().collect();
    // One with a selector has been found by it, or does not stand for this endpoint.
    if !services.contains(&at) && is_of(&at) {
        services.push(at);
    }
    services
}
