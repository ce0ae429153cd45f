//! What differs between two snapshots, at the cost of the difference: maps share what did not change.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::Snapshot;
use crate::endpoint::Endpoint;
use crate::ids::ServiceName;

/// What of a snapshot is another than in an earlier one, as far as it concerns who stands behind which service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Endpoints that came, went or are different.
    pub endpoints: Vec<EndpointChange>,
    /// Services that came, went or are defined differently.
    pub services: Vec<ServiceName>,
    /// Hosts, subnets, virtual IPs, services or settings may be others, so an address may mean another thing.
    pub addresses: bool,
    /// The domain or the namespaces may be others, so a path may stand for another service.
    pub names: bool,
}

/// An endpoint as it was, and as it is; none is not there.
pub type EndpointChange = (Option<Arc<Endpoint>>, Option<Arc<Endpoint>>);

impl Snapshot {
    /// What is another than in `before`. Cheap if this one was made from it by changes; right in any case.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Changes {
        let settings = Arc::ptr_eq(&self.settings, &before.settings) || self.settings == before.settings;
        let mut changes = Changes {
            addresses: !settings
                || !self.leases.ptr_eq(&before.leases)
                || !self.network_leases.ptr_eq(&before.network_leases)
                || !self.nodes.ptr_eq(&before.nodes)
                || !self.vips.ptr_eq(&before.vips)
                || !self.services.ptr_eq(&before.services),
            names: !settings || self.namespaces != before.namespaces,
            ..Changes::default()
        };
        for item in before.endpoints.diff(&self.endpoints) {
            changes.endpoints.push(match item {
                DiffItem::Add(_, new) => (None, Some(new.clone())),
                DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old.clone()), Some(new.clone())),
                DiffItem::Remove(_, old) => (Some(old.clone()), None),
            });
        }
        for item in before.services.diff(&self.services) {
            let (DiffItem::Add(name, _) | DiffItem::Remove(name, _) | DiffItem::Update { new: (name, _), .. }) = item;
            changes.services.push(name.clone());
        }
        changes
    }
}
