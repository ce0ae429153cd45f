//! What the agent itself has to say: what it would still change, and what it complains of.
//!
//! Entries that vanished and nobody put back are what people restart such agents for (flannel #869, #877, #1348, #2554).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_api::{CheckResult, Finding, Plan};

use crate::admin::Admin;

/// The check of what is to be changed.
pub(super) const PLAN: &str = "plan";

/// The check of what the agent complains of.
pub(super) const STATUS: &str = "status";

/// How long the loop may be at it: it is woken by what changes, and tries again what failed every second.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Changes that are told one by one.
const MOST_ACTIONS: usize = 3;

/// Whether the kernel is as it should be, or becomes so.
pub(super) async fn plan(admin: Arc<Admin>) -> Vec<Finding> {
    let until = Instant::now() + SETTLED_WITHIN;
    loop {
        let plan = match admin.plan().await {
            Ok(plan) => plan,
            Err(refusal) => return vec![Finding::skipped(PLAN, &admin.node, refusal.message)],
        };
        if plan.actions.is_empty() || Instant::now() >= until {
            return vec![judge(admin.node.as_str(), &plan)];
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn judge(host: &str, plan: &Plan) -> Finding {
    if plan.actions.is_empty() {
        return Finding::ok(PLAN, host, format!("the kernel is as revision {} wants it", plan.revision));
    }
    let mut first: Vec<&str> = plan.actions.iter().take(MOST_ACTIONS).map(|a| a.action.as_str()).collect();
    if plan.actions.len() > first.len() {
        first.push("…");
    }
    let what = format!("{} changes are due and are not made: {}", plan.actions.len(), first.join("; "));
    Finding::fail(
        PLAN,
        host,
        what,
        "netctl plan shows all of them, netctl status why they fail; something may undo them again and again",
    )
    .with("actions", plan.actions.len())
}

/// What the agent waits for or complains of, as far as `said` does not say it.
pub(super) fn status(admin: &Admin, said: &[Finding]) -> Vec<Finding> {
    let status = admin.status();
    let unapplied = admin.report.borrow().unapplied.clone();
    let mut complaints: Vec<String> = status.reasons;
    complaints.extend(unapplied.iter().map(|(id, why)| format!("attachment {id}: {why}")));
    complaints.retain(|text| !is_said(text, said));
    if complaints.is_empty() {
        let what = if status.ready { "the agent is ready and has no complaints" } else { "all that it waits for is said above" };
        return vec![Finding::ok(STATUS, &admin.node, what)];
    }
    let next = "do as it says";
    let finding = |text: String| match status.ready {
        true => Finding::warn(STATUS, &admin.node, text, next),
        false => Finding::fail(STATUS, &admin.node, text, next),
    };
    complaints.into_iter().map(finding).collect()
}

/// Whether a finding that is none of "ok" says the same.
fn is_said(text: &str, said: &[Finding]) -> bool {
    said.iter().any(|f| matches!(f.result, CheckResult::Warn | CheckResult::Fail) && f.what.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_are_not_made_are_a_fault_and_the_first_are_named() {
        let action = |n: u32| format!(r#"{{"kind":"kernel","action":"add route {n}","reason":null}}"#);
        let actions: Vec<String> = (0..5).map(action).collect();
        let plan: Plan = serde_json::from_str(&format!(r#"{{"revision":7,"actions":[{}]}}"#, actions.join(","))).unwrap();
        let finding = judge("h1", &plan);
        assert_eq!(finding.result, CheckResult::Fail);
        assert!(finding.what.contains("5 changes") && finding.what.ends_with("add route 2; …"), "{}", finding.what);
    }

    #[test]
    fn what_a_check_said_is_not_said_again() {
        let said =
            [Finding::fail("nft", "nft", "nft is not installed: and so on", "install it"), Finding::ok("x", "y", "store away")];
        assert!(is_said("nft is not installed", &said));
        assert!(!is_said("store away", &said), "what is well is no complaint");
    }
}
