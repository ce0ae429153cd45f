//! Which backends this host has had no luck with: one host's knowledge, of no snapshot.
//!
//! Who comes in and who goes out is the agent's to say, which sees how connections go; what it means is
//! [`weft_model::pool`]'s: they are asked when nobody is left that is up or drains.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use weft_model::ids::ServiceName;

/// Backends in quarantine, by service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    by_service: BTreeMap<ServiceName, BTreeSet<SocketAddr>>,
}

impl Quarantine {
    /// Those of a service; none if there are none.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Option<&BTreeSet<SocketAddr>> {
        self.by_service.get(service)
    }

    /// The services for which another set is quarantined than in `before`.
    #[must_use]
    pub fn changed_since(&self, before: &Self) -> BTreeSet<ServiceName> {
        let names = self.by_service.keys().chain(before.by_service.keys());
        names.filter(|name| self.of(name) != before.of(name)).cloned().collect()
    }
}

impl FromIterator<(ServiceName, SocketAddr)> for Quarantine {
    fn from_iter<I: IntoIterator<Item = (ServiceName, SocketAddr)>>(all: I) -> Self {
        let mut by_service: BTreeMap<ServiceName, BTreeSet<SocketAddr>> = BTreeMap::new();
        for (service, place) in all {
            by_service.entry(service).or_default().insert(place);
        }
        Self { by_service }
    }
}
