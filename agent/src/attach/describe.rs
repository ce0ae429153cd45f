//! What an attachment is called and what it serves, said while it is there.

use std::sync::Arc;

use tracing::info;
use weft_api::{Attached, Description};
use weft_model::ids::EndpointId;

use super::{Attachments, names};
use crate::refusal::Refusal;
use crate::state::{Attachment, Journal};

impl Attachments {
    /// Describes an attachment anew, in place of what was said of it before; its records follow. Goes on to its end even if
    /// nobody waits for it any more.
    ///
    /// # Errors
    /// There is none, or something of it cannot be written; nothing is changed then.
    pub async fn describe(self: &Arc<Self>, id: &str, said: Description) -> Result<Attached, Refusal> {
        let (me, id) = (Arc::clone(self), id.to_owned());
        let done = tokio::spawn(async move { me.describe_to_its_end(&id, said).await });
        done.await.map_err(|e| Refusal::internal("describe", &e))?
    }

    async fn describe_to_its_end(&self, id: &str, said: Description) -> Result<Attached, Refusal> {
        said.check().map_err(|why| Refusal::invalid(format!("describe {id}: {why}")))?;
        let unknown =
            || Refusal::not_found(format!("describe: {id} is not attached to this host; netctl attachment list shows what is"));
        let id: EndpointId = id.parse().map_err(|_| unknown())?;
        let snapshot = self.snapshot()?;
        let mut journal = self.journal.lock().await;
        let there = journal.attachments.get(&id).filter(|a| !a.withdrawing).ok_or_else(unknown)?;
        let Description { name, aliases, instances, labels, check } = said;
        // All of it stands in `instances` from now on.
        let wanted = Attachment {
            name,
            aliases,
            instances,
            labels,
            check,
            service: None,
            port: None,
            proto: Default::default(),
            ..there.clone()
        };
        let changed = wanted != *there;
        names::check(&format!("describe {id}"), &wanted, &snapshot, &self.around.node)?;
        if changed {
            self.change(&mut journal, |next| replace(next, wanted.clone())).await?;
            drop(journal);
            info!(%id, "described anew");
            self.wait_recorded(&wanted).await;
        } else {
            drop(journal);
        }
        Ok(self.attached(&wanted))
    }
}

fn replace(journal: &mut Journal, attachment: Attachment) {
    journal.attachments.insert(attachment.id.clone(), attachment);
}
