//! The ways back: one attachment by its id, all of an owner's, all that a tool knows nothing of.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};
use weft_agent::kernel::veth;
use weft_api::{Attached, Gc, Kept, Release};
use weft_model::ids::EndpointId;

use super::mend::{Fate, fate};
use super::{Attachments, release};
use crate::refusal::Refusal;
use crate::state::{Attachment, Journal};
use crate::view::chain;

impl Attachments {
    /// Takes everything back that an attach gave. Goes on to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// There is no such attachment, or its device cannot be removed.
    pub async fn detach(self: &Arc<Self>, id: &str) -> Result<Attached, Refusal> {
        let (me, id) = (Arc::clone(self), id.to_owned());
        let done = tokio::spawn(async move {
            let unknown =
                || Refusal::not_found(format!("detach: {id} is not attached to this host; netctl attachment list shows what is"));
            let id: EndpointId = id.parse().map_err(|_| unknown())?;
            me.detach_to_its_end(&id).await?.ok_or_else(unknown)
        });
        done.await.map_err(|e| Refusal::internal("detach", &e))?
    }

    /// Takes back what an owner has, all of it or one interface, and what is being made of that. Goes on to its end even if
    /// nobody waits for it any more. That there is nothing is no error.
    ///
    /// # Errors
    /// A device cannot be removed, or the journal not be written; the others are taken back all the same.
    pub async fn release(self: &Arc<Self>, release: Release) -> Result<Vec<Attached>, Refusal> {
        let me = Arc::clone(self);
        let done = tokio::spawn(async move {
            me.replay().await;
            me.release_to_its_end(&release).await
        });
        done.await.map_err(|e| Refusal::internal("release", &e))?
    }

    /// Takes back what a tool has in one of its networks, but for what it names. Goes on to its end even if nobody waits for it
    /// any more.
    ///
    /// # Errors
    /// A device cannot be removed, or the journal not be written; the others are taken back all the same.
    pub async fn gc(self: &Arc<Self>, gc: Gc) -> Result<Vec<Attached>, Refusal> {
        let me = Arc::clone(self);
        let done = tokio::spawn(async move {
            me.replay().await;
            me.gc_to_its_end(&gc).await
        });
        done.await.map_err(|e| Refusal::internal("gc", &e))?
    }

    pub(super) async fn release_to_its_end(&self, release: &Release) -> Result<Vec<Attached>, Refusal> {
        self.under_way.stop(release).await;
        let is_meant = |a: &&Attachment| {
            a.owner.as_ref() == Some(&release.owner) && release.ifname.as_ref().is_none_or(|ifname| *ifname == a.ifname)
        };
        let meant = self.published.borrow().by_id.values().filter(is_meant).cloned().collect();
        self.detach_all(meant).await
    }

    pub(super) async fn gc_to_its_end(&self, gc: &Gc) -> Result<Vec<Attached>, Refusal> {
        let keep: BTreeSet<&Kept> = gc.keep.iter().collect();
        // What is being attached while a tool collects cannot be in its list yet.
        let under_way = self.under_way.owners_now();
        let is_garbage = |a: &&Attachment| {
            a.owner.as_ref().is_some_and(|owner| {
                let kept = Kept { container: owner.container.clone(), ifname: a.ifname.clone() };
                (owner.runtime, &owner.network) == (gc.runtime, &gc.network)
                    && !keep.contains(&kept)
                    && !under_way.iter().any(|(of, ifname)| of == owner && *ifname == a.ifname)
            })
        };
        let garbage = self.published.borrow().by_id.values().filter(is_garbage).cloned().collect();
        self.detach_all(garbage).await
    }

    /// All of them, whatever becomes of one; the first refusal is the one to tell.
    async fn detach_all(&self, all: Vec<Attachment>) -> Result<Vec<Attached>, Refusal> {
        let mut gone = Vec::new();
        let mut refused = None;
        for attachment in all {
            match self.detach_one(&attachment).await {
                Ok(Some(attached)) => gone.push(attached),
                Ok(None) => {}
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        refused.map_or(Ok(gone), Err)
    }

    /// First nobody is sent there any more, then the device goes, then the address is free. None if there is no such
    /// attachment.
    pub(super) async fn detach_to_its_end(&self, id: &EndpointId) -> Result<Option<Attached>, Refusal> {
        self.under_way.made(id).await;
        let there = self.published.borrow().by_id.get(id).cloned();
        match there {
            Some(there) => self.detach_one(&there).await,
            None => Ok(None),
        }
    }

    /// As [`Attachments::detach_to_its_end`], of this attachment alone: its id may be another's by the time that it is done.
    pub(super) async fn detach_one(&self, meant: &Attachment) -> Result<Option<Attached>, Refusal> {
        let id = &meant.id;
        self.under_way.made(id).await;
        let mut journal = self.journal.lock().await;
        let there = journal.attachments.get(id).filter(|there| is_same(there, meant)).cloned();
        let Some(attachment) = there else { return Ok(None) };
        let attached = self.attached(&attachment);
        if !attachment.withdrawing {
            let withdraw = |next: &mut Journal| {
                if let Some(entry) = next.attachments.get_mut(id) {
                    entry.withdrawing = true;
                }
            };
            self.change(&mut journal, withdraw).await?;
        }
        drop(journal);
        self.wait_withdrawn(&attachment).await;

        let mut journal = self.journal.lock().await;
        if journal.attachments.get(id).is_none_or(|there| !there.withdrawing || !is_same(there, meant)) {
            // Somebody else detached it meanwhile, and the id may be another's by now, or its own again.
            return Ok(Some(attached));
        }
        if attachment.further
            && let Fate::There(netns) = fate(&attachment).await
        {
            // What is left of them does nothing, and goes with the namespace.
            if let Err(e) = veth::forget_rules(&attachment.veth(), &netns).await {
                warn!(%id, error = chain(&e), "rules of a further interface are left");
            }
        }
        veth::remove(&attachment.host_ifname).await.map_err(|e| Refusal::internal(&format!("detach {id}"), &e))?;
        let forget = |next: &mut Journal| {
            next.attachments.remove(id);
            release(next, &attachment);
        };
        self.change(&mut journal, forget).await?;
        info!(%id, address = %attachment.address, "detached");
        Ok(Some(attached))
    }

    /// Takes an attachment back that cannot be; what is left of it is told and tried again by the next detach.
    pub(super) async fn take_back(&self, attachment: &Attachment) {
        if let Err(e) = self.detach_one(attachment).await {
            warn!(id = %attachment.id, error = e.message, "attachment not taken back");
        }
    }
}

/// Whether both are one attachment. One that is on its way into a namespace has no cookie yet.
fn is_same(one: &Attachment, other: &Attachment) -> bool {
    let cookies = one.netns_cookie == other.netns_cookie || one.netns_cookie == 0 || other.netns_cookie == 0;
    one.owner == other.owner && cookies
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::attachment::{Owner, Runtime};

    #[test]
    fn an_id_that_is_another_namespaces_by_now_is_another_attachment() {
        let text = r#"{"id":"web","netns":"/run/netns/web","netns_id":[4,5],"netns_cookie":6,"ifname":"eth0","host_ifname":"weft0",
            "address":"10.244.3.5","mac":"02:00:00:00:00:01","gateway":"10.244.3.1","mtu":1450,"boot":"b"}"#;
        let web: Attachment = serde_json::from_str(text).unwrap();
        let again = Attachment { netns_cookie: 7, ..web.clone() };
        let renamed = Attachment { ifname: "net1".into(), withdrawing: true, ..web.clone() };
        let on_its_way = Attachment { netns_cookie: 0, ..web.clone() };
        assert!(is_same(&web, &web) && !is_same(&web, &again) && is_same(&web, &renamed));
        assert!(is_same(&on_its_way, &web) && is_same(&web, &on_its_way), "seen in its namespace meanwhile");
        let owner = Owner { runtime: Runtime::Docker, network: "n".into(), container: "c".into() };
        assert!(!is_same(&on_its_way, &Attachment { owner: Some(owner), ..on_its_way.clone() }));
    }
}
