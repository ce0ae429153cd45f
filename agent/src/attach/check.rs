//! Whether all that an attach made is there still.

use weft_agent::kernel::netns::NetNs;
use weft_agent::kernel::veth;
use weft_api::{Attached, Check};

use super::Attachments;
use crate::refusal::Refusal;
use crate::view::chain;

impl Attachments {
    /// Looks at an attachment: its namespace, both ends of its pair with their addresses and routes, and whether the kernel was
    /// made to follow. Whether its record is written is not asked.
    ///
    /// # Errors
    /// There is no such attachment, or something of it is not there; the refusal says what.
    pub async fn check(&self, check: &Check) -> Result<Attached, Refusal> {
        let name = format!("{} of {}", check.ifname, check.owner);
        let there = {
            let published = self.published.borrow();
            let is_it = |a: &&crate::state::Attachment| a.owner.as_ref() == Some(&check.owner) && a.ifname == check.ifname;
            published.by_id.values().find(is_it).cloned()
        };
        let Some(there) = there.filter(|there| !there.withdrawing) else {
            return Err(Refusal::not_found(format!("check: {name} is not attached to this host; attach it again")));
        };
        let mut wrong = Vec::new();
        for address in check.addresses.iter().filter(|address| !there.addresses().any(|has| has == **address)) {
            wrong.push(format!("{address} is not an address of it"));
        }
        let path = check.netns.clone();
        let netns = tokio::task::spawn_blocking(move || NetNs::open(&path)).await;
        match netns.map_err(|e| Refusal::internal("check", &e))? {
            Err(e) => wrong.push(chain(&e)),
            Ok(netns) if !there.is_of(&netns) => {
                wrong.push(format!("{} is another namespace than the one that was attached", check.netns.display()));
            }
            Ok(netns) => {
                let look = veth::look(&there.veth(), &netns).await;
                wrong.extend(look.map_err(|e| Refusal::internal(&format!("check {name}"), &e))?);
            }
        }
        wrong.extend(self.around.report.borrow().unapplied.get(&there.id).cloned());
        if wrong.is_empty() {
            return Ok(self.attached(&there));
        }
        Err(Refusal::conflict(format!("check: {name} ({}): {}; detach it and attach it again", there.id, wrong.join("; "))))
    }
}
