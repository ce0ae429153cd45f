//! Looks after attachments whose device is not there: gone with its namespace, removed or renamed by hand.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use weft_agent::kernel::netns::{NetNs, NetnsError};
use weft_agent::kernel::veth;
use weft_model::ids::EndpointId;

use super::{Attachments, device_exists, release};
use crate::state::Attachment;
use crate::view::chain;

/// How long a device that could not be made anew is left alone.
const REST: Duration = Duration::from_secs(10);

/// Devices that could not be made anew: when to try again, and why not.
pub(super) type Unmended = BTreeMap<EndpointId, (Instant, String)>;

/// What has become of an attachment's namespace.
pub(super) enum Fate {
    /// It is there.
    There(NetNs),
    /// It is gone, or another one has its place.
    Gone,
    /// Nobody can say just now; unknown is never gone.
    Unknown(String),
}

impl Attachments {
    /// Gives attachments in `missing` their devices back, or gives the attachments up. Called with those whose device the
    /// reconcile loop did not find.
    pub async fn sweep(&self, missing: &[EndpointId]) {
        let mut mended = false;
        for id in missing {
            let (attachment, _making) = {
                let journal = self.journal.lock().await;
                let Some(attachment) = journal.attachments.get(id).filter(|a| !a.withdrawing).cloned() else { continue };
                if device_exists(&attachment.host_ifname) || self.is_resting(id) || self.under_way.is_making(id) {
                    continue;
                }
                (attachment, self.under_way.make(id))
            };
            match fate(&attachment).await {
                Fate::There(netns) => mended |= self.mend(&attachment, &netns).await,
                Fate::Unknown(why) => self.rest(&attachment, &why),
                Fate::Gone => {
                    let forget = |next: &mut crate::state::Journal| {
                        next.attachments.remove(id);
                        release(next, &attachment);
                    };
                    let mut journal = self.journal.lock().await;
                    match self.change(&mut journal, forget).await {
                        Ok(_) => info!(%id, address = %attachment.address, "namespace is gone; detached"),
                        Err(refusal) => self.rest(&attachment, &refusal.message),
                    }
                }
            }
        }
        if mended {
            self.announce();
        }
    }

    /// Gives an attachment its device back: under its own name if it was renamed, else made anew. Whether that was done.
    async fn mend(&self, attachment: &Attachment, netns: &NetNs) -> bool {
        let (id, spec) = (&attachment.id, attachment.veth());
        let done = match veth::restore_name(&spec.host_ifname).await {
            Ok(true) => Ok("gave the device of an attachment its name back"),
            Ok(false) => {
                veth::create(&spec, netns).await.map(|()| "made the device of an attachment anew").map_err(|e| chain(&e))
            }
            Err(e) => Err(chain(&e)),
        };
        match done {
            Ok(what) => {
                info!(%id, device = spec.host_ifname, "{what}");
                self.forget_mtu(id);
                self.unmended().remove(id);
                true
            }
            Err(why) => {
                self.rest(attachment, &why);
                false
            }
        }
    }

    /// Leaves an attachment alone for a while: each try wakes the loop that asks for it.
    fn rest(&self, attachment: &Attachment, why: &str) {
        let (id, device) = (&attachment.id, &attachment.host_ifname);
        let text = format!("attachment {id}: its device {device} is missing: {why}; netctl detach {id} gives it up");
        let before = self.unmended().insert(id.clone(), (Instant::now() + REST, text.clone()));
        if before.is_none_or(|(_, said)| said != text) {
            warn!(%id, device, why, "device of an attachment is missing");
        }
    }

    fn is_resting(&self, id: &EndpointId) -> bool {
        self.unmended().get(id).is_some_and(|(until, _)| Instant::now() < *until)
    }

    fn unmended(&self) -> std::sync::MutexGuard<'_, Unmended> {
        self.unmended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with attachments.
    pub fn problems(&self) -> Vec<String> {
        let published = self.published.borrow().clone();
        let mut unmended = self.unmended();
        unmended.retain(|id, _| published.by_id.get(id).is_some_and(|a| !device_exists(&a.host_ifname)));
        let unmended = unmended.values().map(|(_, text)| text.clone());
        unmended.chain(self.mtu_problems()).chain(self.queue_problems()).collect()
    }
}

pub(super) async fn fate(attachment: &Attachment) -> Fate {
    let path = attachment.netns.clone();
    match tokio::task::spawn_blocking(move || NetNs::open(&path)).await {
        Ok(Ok(netns)) if attachment.is_of(&netns) => Fate::There(netns),
        Ok(Ok(_) | Err(NetnsError::Other { .. } | NetnsError::Own { .. })) => Fate::Gone,
        Ok(Err(e @ NetnsError::Open { .. })) => match &e {
            NetnsError::Open { source, .. }
                if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR)) =>
            {
                Fate::Gone
            }
            _ => Fate::Unknown(chain(&e)),
        },
        Ok(Err(e)) => Fate::Unknown(chain(&e)),
        Err(e) => Fate::Unknown(chain(&e)),
    }
}
