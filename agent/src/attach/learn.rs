//! What the runtime of an attachment's container says of it.

use std::sync::Arc;

use tracing::info;
use weft_api::Description;

use super::{Attachments, names};
use crate::refusal::Refusal;
use crate::state::Attachment;

impl Attachments {
    /// Takes in what a runtime says of an attachment's container, if that is news; records follow. What of it cannot be written
    /// here is left out, and told as sentences. Goes on to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// The journal cannot be written, or the store has not been read yet.
    pub async fn learn(self: &Arc<Self>, of: &Attachment, said: Description) -> Result<Vec<String>, Refusal> {
        let (me, of) = (Arc::clone(self), of.clone());
        let done = tokio::spawn(async move { me.learn_to_its_end(&of, said).await });
        done.await.map_err(|e| Refusal::internal("learn", &e))?
    }

    async fn learn_to_its_end(&self, of: &Attachment, said: Description) -> Result<Vec<String>, Refusal> {
        let snapshot = self.snapshot()?;
        let (said, left_out) = names::writable(said, &snapshot);
        let mut journal = self.journal.lock().await;
        // It may have been detached meanwhile, and the id given to another.
        let there = journal.attachments.get(&of.id).filter(|a| !a.withdrawing && a.netns_cookie == of.netns_cookie);
        let Some(there) = there.filter(|a| a.owner == of.owner && a.learned.as_ref() != Some(&said)) else {
            return Ok(left_out);
        };
        let wanted = Attachment { learned: Some(said), ..there.clone() };
        self.change(&mut journal, |next| drop(next.attachments.insert(wanted.id.clone(), wanted))).await?;
        info!(id = %of.id, "names and services follow its runtime");
        Ok(left_out)
    }
}
