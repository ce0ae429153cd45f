//! Containers' MTU follows that of the overlay, both ways, while they run.
//!
//! A container whose MTU somebody inside has changed keeps what it has: see [`veth::Mtu`].

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use weft_agent::kernel::veth::{self, Mtu};
use weft_model::ids::EndpointId;

use super::Attachments;
use super::mend::{Fate, fate};
use crate::state::Attachment;
use crate::view::chain;

/// How long a container whose MTU could not be changed is left alone.
const REST: Duration = Duration::from_secs(1);

/// How far containers have followed, as far as this process knows.
pub(super) type Followed = BTreeMap<EndpointId, State>;

/// How far a container has followed.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Both ends were seen to have this MTU, or the host's end has it and the container's another by hand.
    At(u32, Mtu),
    /// It could not be changed; when to try again.
    Failed(Instant, String),
}

impl Attachments {
    /// The containers that are not known to have followed to the MTU `to`.
    pub fn with_other_mtu(&self, to: u32) -> Vec<EndpointId> {
        let published = self.published.borrow().clone();
        let mut followed = self.followed();
        followed.retain(|id, _| published.by_id.contains_key(id));
        let waits = |id: &EndpointId| match followed.get(id) {
            Some(State::At(there, _)) => *there == to,
            Some(State::Failed(until, _)) => Instant::now() < *until,
            None => false,
        };
        published.by_id.values().filter(|a| !a.withdrawing && !waits(&a.id)).map(|a| a.id.clone()).collect()
    }

    /// Gives containers the MTU `to`.
    pub async fn follow_mtu(&self, ids: &[EndpointId], to: u32) {
        let mut journal = self.journal.lock().await;
        let mut set = Vec::new();
        for id in ids {
            let Some(attachment) = journal.attachments.get(id).filter(|a| !a.withdrawing) else { continue };
            if self.under_way.is_making(id) {
                continue;
            }
            match change(attachment, to).await {
                Some(Ok(mtu)) => {
                    let before = self.followed().insert(id.clone(), State::At(to, mtu));
                    match mtu {
                        Mtu::Set if attachment.mtu != to => set.push(id.clone()),
                        Mtu::Set => {}
                        Mtu::ByHand(_) if matches!(before, Some(State::At(_, same)) if same == mtu) => {}
                        Mtu::ByHand(mtu) => info!(%id, mtu, would_be = to, "the MTU of a container was set by hand and stays"),
                    }
                }
                Some(Err(why)) => {
                    let text = format!("attachment {id}: its MTU does not follow the uplink's: {why}");
                    let before = self.followed().insert(id.clone(), State::Failed(Instant::now() + REST, text.clone()));
                    if !matches!(before, Some(State::Failed(_, said)) if said == text) {
                        warn!(%id, why, "MTU of a container does not follow");
                    }
                }
                // Gone with its device, or about to be: the sweep looks after it.
                None => {}
            }
        }
        if set.is_empty() {
            return;
        }
        let remember = |next: &mut crate::state::Journal| {
            for id in &set {
                if let Some(attachment) = next.attachments.get_mut(id) {
                    attachment.mtu = to;
                }
            }
        };
        match self.change(&mut journal, remember).await {
            Ok(_) => info!(containers = set.len(), mtu = to, "containers follow the MTU"),
            Err(refusal) => {
                warn!(error = refusal.message, "the MTU of containers is not in the journal");
                for id in &set {
                    self.forget_mtu(id);
                }
            }
        }
    }

    /// Remembers that a device was made with the MTU that its attachment has.
    pub(super) fn made_with_mtu(&self, attachment: &Attachment) {
        self.followed().insert(attachment.id.clone(), State::At(attachment.mtu, Mtu::Set));
    }

    /// Forgets how far a container has followed: its device was made anew.
    pub(super) fn forget_mtu(&self, id: &EndpointId) {
        self.followed().remove(id);
    }

    /// What is wrong with MTUs.
    pub(super) fn mtu_problems(&self) -> Vec<String> {
        let said = |state: &State| if let State::Failed(_, text) = state { Some(text.clone()) } else { None };
        self.followed().values().filter_map(said).collect()
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes both ends; nothing if the namespace is not to be had.
async fn change(attachment: &Attachment, to: u32) -> Option<Result<Mtu, String>> {
    let Fate::There(netns) = fate(attachment).await else { return None };
    Some(veth::follow_mtu(&attachment.veth(), to, &netns).await.map_err(|e| chain(&e)))
}
