//! `GET /v1/status`: put together from what the parts of the agent say of themselves.

use weft_api::{BadValueView, DatapathStatus, PeerStatus, Status, StoreStatus, Via, Views};
use weft_model::ids::NodeName;
use weft_model::snapshot::Snapshot;

use super::Admin;

/// Bad values that are shown; the count of all is in the metrics.
const MAX_BAD: usize = 100;

impl Admin {
    /// The agent's state. Answers whatever the state of the store and the kernel.
    pub fn status(&self) -> Status {
        let report = self.report.borrow().clone();
        let health = self.health.borrow().clone();
        let snapshot = self.view.borrow().clone();
        let mut reasons: Vec<String> = Vec::new();
        if let Some((error, since)) = &health.away {
            reasons.push(format!("store away for {} s: {error}", since.elapsed().as_secs()));
        } else if snapshot.is_none() {
            reasons.push("reading the store".to_owned());
        }
        reasons.extend(snapshot.iter().filter(|_| report.ready).filter_map(|s| bad_network(s)));
        reasons.extend(self.reasons.iter().filter_map(|r| r.borrow().clone()));
        reasons.extend(snapshot.as_ref().and_then(|s| drained(s, &self.node)));
        reasons.extend(self.networks.borrow().problems.iter().cloned());
        reasons.extend(report.problems.iter().cloned());
        reasons.extend(self.attachments.problems());
        reasons.extend(self.names.problems());
        reasons.dedup();
        let peers = report.peers.iter().map(|peer| PeerStatus {
            node: peer.node.clone(),
            subnet: peer.subnet,
            subnet6: peer.subnet6,
            public_ip: peer.outer,
            via: if peer.fast { Via::Fast } else { Via::Kernel },
            alive: peer.node.as_ref().is_some_and(|node| snapshot.as_ref().is_some_and(|s| s.node(node).is_some())),
        });
        let bad = snapshot.iter().flat_map(|s| s.bad()).take(MAX_BAD);
        Status {
            node: self.node.clone(),
            ready: report.ready,
            reasons,
            subnet: report.subnet,
            subnet6: report.subnet6,
            dns: self.names.listening(),
            store: StoreStatus {
                kind: self.registry.store().kind().as_str().to_owned(),
                connected: health.connected,
                revision: snapshot.as_ref().map(|s| s.revision()).unwrap_or_default(),
                error: health.away.map(|(error, _)| error),
            },
            peers: peers.collect(),
            datapath: DatapathStatus { fast: report.fast, why_not: report.why_not_fast.clone(), sockets: report.sockets },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uplink: report.uplink.clone(),
            public_ip: report.public_ip,
            cgroup: report.cgroup.clone(),
            attachments: self.attachments.count(),
            applied: report.revision,
            views: Views {
                api: snapshot.as_ref().map(|s| s.revision()).unwrap_or_default(),
                dns: self.names.revision(),
                proxy: report.revision,
                kernel: report.revision,
            },
            bad: bad.map(|(key, bad)| BadValueView { key: key.clone(), why: bad.why.clone() }).collect(),
        }
    }
}

/// That this host is drained, and how to undo it.
pub fn drained(snapshot: &Snapshot, node: &NodeName) -> Option<String> {
    let drain = &snapshot.node_drain(node)?.value;
    let since = if drain.since.is_empty() { String::new() } else { format!(" since {}", drain.since) };
    let deadline = drain.deadline.as_ref().map(|at| format!(", and nothing at all from {at} on")).unwrap_or_default();
    Some(format!(
        "{node} is drained{since}: what is on it takes nothing new while others are up{deadline}; netctl node undrain {node}"
    ))
}

/// A network configuration that was replaced by one that does not parse: the old one holds.
fn bad_network(snapshot: &Snapshot) -> Option<String> {
    let key = snapshot.layout().network_config();
    let why = &snapshot.bad_at(&key)?.why;
    Some(format!("{key} does not parse: {why}; what it said before holds; correct it, or netctl network init --force"))
}
