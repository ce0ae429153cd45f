//! What checks say of an endpoint of this host, and who may have programs run as one.

use weft_api::{Code, HealthView};
use weft_model::check::{Check, CheckKind};

use super::{Admin, Caller};
use crate::refusal::Refusal;

impl Admin {
    pub(super) fn endpoint_health(&self, id: &str) -> Result<HealthView, Refusal> {
        if let Some(health) = self.checks.of(id) {
            return Ok(health);
        }
        let snapshot = self.snapshot()?;
        let endpoints: Vec<_> = snapshot.endpoints().filter(|e| e.id == id).collect();
        let elsewhere = endpoints.iter().find_map(|e| e.node.as_ref()).filter(|node| **node != self.node);
        Err(Refusal::not_found(match (endpoints.is_empty(), elsewhere) {
            (true, _) => format!("endpoint health: there is no endpoint {id}; netctl endpoint list shows those there are"),
            (false, Some(node)) => format!("endpoint health: {id} is checked by {node}, which holds it; ask there"),
            (false, None) => {
                format!("endpoint health: {id} has no check; netctl attach --check or netctl service create --check gives it one")
            }
        }))
    }
}

/// Whether a caller may say this check. A command runs as the agent's user, so only root and that user may.
///
/// # Errors
/// He may not.
pub(super) fn may_check(caller: &Caller, check: Option<&Check>) -> Result<(), Refusal> {
    match check {
        Some(check) if check.kind == CheckKind::Command && !caller.is_trusted() => Err(Refusal::new(
            Code::Forbidden,
            "a check by a command runs as the agent's user, so only root may say one; take tcp, http or grpc",
        )),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_may_do_as_much_anyway_has_commands_run() {
        let command: Check = "command:/bin/true".parse().unwrap();
        assert!(may_check(&Caller::default(), Some(&command)).is_err(), "nobody knows who asks");
        assert!(may_check(&Caller::default(), Some(&Check::default())).is_ok() && may_check(&Caller::default(), None).is_ok());
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        assert!(may_check(&Caller::of(&ours), Some(&command)).is_ok(), "the agent's own user");
    }
}
