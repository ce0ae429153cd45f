//! What an attach waits for: the agent, the network, the kernel, the record.

use std::time::Duration;

use weft_api::Code;
use weft_model::ids::{EndpointId, NetworkName};
use weft_model::snapshot::Snapshot;

use super::Attachments;
use crate::refusal::Refusal;
use crate::registrar::records::parts;
use crate::registrar::settle::in_state_of;
use crate::state::Attachment;

/// How long an attach waits for the agent to be ready, unless the request says.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an attach waits for the kernel to follow. What it refuses is told at once; this is for a crowd on a busy host.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an attach waits for the store to follow.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

impl Attachments {
    /// Waits until containers can be attached.
    pub(super) async fn wait_ready(&self, timeout: Duration) -> Result<(), Refusal> {
        let mut report = self.around.report.clone();
        let ready = tokio::time::timeout(timeout, report.wait_for(|r| r.ready)).await;
        match ready {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let why = self.around.report.borrow().why_not_ready.clone().unwrap_or_else(|| "not ready".to_owned());
                Err(Refusal::new(Code::NotReady, format!("attach: the agent is not ready after {timeout:?}: {why}")))
            }
        }
    }

    /// Waits until this host has a subnet in a further network.
    pub(super) async fn wait_joined(&self, name: &NetworkName, timeout: Duration) -> Result<(), Refusal> {
        if !self.snapshot()?.has_network(name) {
            return Err(Refusal::invalid(format!(
                "attach: there is no network {name}; netctl network list shows those there are"
            )));
        }
        let mut networks = self.around.networks.clone();
        match tokio::time::timeout(timeout, networks.wait_for(|known| known.subnet(name).is_some())).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let why = self.around.networks.borrow().problems.join("; ");
                Err(Refusal::new(Code::NotReady, format!("attach: this host has no subnet in network {name} yet: {why}")))
            }
        }
    }

    /// Waits until the kernel follows, and makes sure that it does so for this attachment.
    pub(super) async fn wait_applied(&self, id: &EndpointId, generation: u64) -> Result<(), Refusal> {
        let mut report = self.around.report.clone();
        let applied = report.wait_for(|r| r.generation >= generation);
        let refuse = |why: &str| Refusal::new(Code::Internal, format!("attach {id}: {why}"));
        match tokio::time::timeout(APPLY_TIMEOUT, applied).await {
            Ok(Ok(report)) => match report.unapplied.get(id) {
                Some(why) => Err(refuse(why)),
                None => Ok(()),
            },
            _ => Err(refuse("the kernel did not follow in time; netctl status says what is wrong")),
        }
    }

    /// Waits until an attachment's records are in the store, as long as it answers; they follow later otherwise.
    pub(super) async fn wait_recorded(&self, attachment: &Attachment) {
        self.wait_store(|snapshot| self.is_recorded(snapshot, attachment)).await;
    }

    /// Waits until no record of an attachment is in the store, as long as it answers; they end later otherwise.
    pub(super) async fn wait_withdrawn(&self, attachment: &Attachment) {
        let of = |snapshot: &Snapshot| parts(snapshot, &self.around.node, attachment);
        self.wait_store(|snapshot| !of(snapshot).iter().any(|part| self.is_ours(snapshot, &part.path))).await;
    }

    async fn wait_store(&self, is_so: impl Fn(&Snapshot) -> bool) {
        let (mut view, mut health) = (self.around.view.clone(), self.around.health.clone());
        if view.borrow().is_none() {
            return;
        }
        let followed = view.wait_for(|snapshot| snapshot.as_deref().is_some_and(&is_so));
        tokio::select! {
            biased;
            _ = followed => {}
            // Nobody waits for a store that is known to be away.
            _ = health.wait_for(|health| health.away.is_some()) => {}
            () = tokio::time::sleep(FOLLOW_TIMEOUT) => {}
        }
    }

    /// Whether all records of an attachment stand in the store, as they should.
    pub(super) fn is_recorded(&self, snapshot: &Snapshot, attachment: &Attachment) -> bool {
        parts(snapshot, &self.around.node, attachment).iter().all(|part| {
            // In which state is its checks' business, and a drain's.
            let stored = snapshot.record_anywhere(&part.path).filter(|stored| !stored.lost);
            stored.is_some_and(|stored| in_state_of(&part.record, &stored.record) == stored.record)
        })
    }

    fn is_ours(&self, snapshot: &Snapshot, path: &weft_model::keys::RecordPath) -> bool {
        let stored = snapshot.record_anywhere(path).filter(|stored| !stored.lost);
        let weft = stored.and_then(|stored| stored.record.weft.as_ref());
        weft.and_then(|weft| weft.node.as_ref()) == Some(&self.around.node)
    }
}
