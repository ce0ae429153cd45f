//! What is to be drained: an operator's wish for a host or an endpoint, as long as its key stands.

use super::{Snapshot, Stored};
use crate::drain::Drain;
use crate::ids::NodeName;
use crate::keys::RecordPath;

impl Snapshot {
    /// The hosts that are drained, whether they live or not.
    pub fn node_drains(&self) -> impl Iterator<Item = (&NodeName, &Stored<Drain>)> {
        self.node_drains.iter().map(|(node, drain)| (node, &**drain))
    }

    /// The endpoints that are drained by themselves, by their own paths, whether they are there or not.
    pub fn endpoint_drains(&self) -> impl Iterator<Item = (&RecordPath, &Stored<Drain>)> {
        self.endpoint_drains.iter().map(|(path, drain)| (path, &**drain))
    }

    /// What drains a host.
    #[must_use]
    pub fn node_drain(&self, node: &NodeName) -> Option<&Stored<Drain>> {
        self.node_drains.get(node).map(|drain| &**drain)
    }

    /// What drains one endpoint by itself.
    #[must_use]
    pub fn endpoint_drain(&self, path: &RecordPath) -> Option<&Stored<Drain>> {
        self.endpoint_drains.get(path).map(|drain| &**drain)
    }

    /// What drains an endpoint on a host: by itself, and with the host.
    pub fn drains_of(&self, path: &RecordPath, node: Option<&NodeName>) -> impl Iterator<Item = &Drain> + use<'_> {
        let all = self.endpoint_drain(path).into_iter().chain(node.and_then(|node| self.node_drain(node)));
        all.map(|drain| &drain.value)
    }

    /// Whether an endpoint on a host is to be drained: by itself, or with the host.
    #[must_use]
    pub fn is_drained(&self, path: &RecordPath, node: Option<&NodeName>) -> bool {
        self.drains_of(path, node).next().is_some()
    }
}
