//! Whom a zone is for: the containers of one network, who are told its own names and those that no host wrote.

use weft_model::endpoint::{Endpoint, StoredRecord};
use weft_model::ids::NetworkName;
use weft_model::network::NetworkConfig;
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;

/// The containers of a network. While there is only the default one, they are told everything.
#[derive(Clone, Debug)]
pub(super) struct Audience(pub NetworkName);

impl Audience {
    /// Whether a service is told to them.
    pub(super) fn has(&self, snapshot: &Snapshot, service: &Service) -> bool {
        self.is_everybody(snapshot) || self.is(service.network.as_ref())
    }

    /// Whether a record is told to them.
    pub(super) fn hears(&self, snapshot: &Snapshot, stored: &StoredRecord) -> bool {
        let of_nobody = |weft: &weft_model::record::WeftRecord| weft.node.is_none() && weft.network.is_none();
        match stored.record.weft.as_ref() {
            Some(weft) => of_nobody(weft) || self.is_everybody(snapshot) || self.is(weft.network.as_ref()),
            None => true,
        }
    }

    /// Whether an endpoint's records are told to them.
    pub(super) fn sees(&self, snapshot: &Snapshot, endpoint: &Endpoint) -> bool {
        let of_nobody = endpoint.node.is_none() && endpoint.network.is_none();
        of_nobody || self.is_everybody(snapshot) || self.is(endpoint.network.as_ref())
    }

    /// Their network, if it is configured.
    pub(super) fn config<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s NetworkConfig> {
        if self.0.is_default() {
            return snapshot.network();
        }
        snapshot.network_named(&self.0).map(|stored| &stored.value)
    }

    fn is_everybody(&self, snapshot: &Snapshot) -> bool {
        snapshot.networks().next().is_none()
    }

    fn is(&self, network: Option<&NetworkName>) -> bool {
        network.map_or(self.0.is_default(), |network| *network == self.0)
    }
}
