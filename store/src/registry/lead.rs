//! Who leads, and who is to.

use weft_model::ids::{LeaseId, Revision, ServiceName};
use weft_model::leader::{Choice, Election};

use super::{Registry, unchanged};
use crate::{Compare, Op, Outcome, StoreError};

impl Registry {
    /// Takes the lead of a name that nobody leads, or hangs the own one, read at `over`, on another lease.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_election(
        &self,
        name: &ServiceName,
        election: &Election,
        over: Option<Revision>,
        on: LeaseId,
    ) -> Result<Outcome, StoreError> {
        let key = self.layout.election(name).into_bytes();
        // Only maps with other than string keys can fail here.
        let value = serde_json::to_vec(election).unwrap_or_default();
        let when = vec![unchanged(&key, over)];
        self.write(when, vec![Op::Put { key, value, lease: Some(on) }]).await
    }

    /// Gives the lead up that was written at `at`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_election(&self, name: &ServiceName, at: Revision) -> Result<Outcome, StoreError> {
        let key = self.layout.election(name).into_bytes();
        self.write(vec![Compare::ModifiedAt(key.clone(), at)], vec![Op::Delete(key)]).await
    }

    /// Says who is to lead, or with none that nobody in particular is, over what was read.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_leader(
        &self,
        name: &ServiceName,
        choice: Option<&Choice>,
        over: Option<Revision>,
    ) -> Result<Outcome, StoreError> {
        let key = self.layout.leader(name).into_bytes();
        let when = vec![unchanged(&key, over)];
        let op = match choice {
            // Only maps with other than string keys can fail here.
            Some(choice) => Op::Put { key, value: serde_json::to_vec(choice).unwrap_or_default(), lease: None },
            None => Op::Delete(key),
        };
        self.write(when, vec![op]).await
    }
}
