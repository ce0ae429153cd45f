//! Clocks: steps of this host's, as after a suspend or a correction, and how far those of other hosts are from it.
//!
//! Leases count in etcd's time and the agent counts in a clock that nobody sets, so a step breaks nothing of ours by itself; but
//! a host that slept has missed renewals (flannel #1240, k3s #5216), and one whose clock is wrong refuses etcd's certificate.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use weft_api::Finding;

use super::lock;
use crate::admin::Admin;

/// The check's name.
pub(super) const CHECK: &str = "clock";

/// A step that somebody should know of. Adjustments of a time service are far below.
const STEP: Duration = Duration::from_secs(5);

/// Both clocks at one moment.
#[derive(Debug)]
pub(super) struct Baseline(Mutex<(SystemTime, Instant)>);

impl Baseline {
    /// Now.
    pub(super) fn now() -> Self {
        Self(Mutex::new((SystemTime::now(), Instant::now())))
    }
}

/// What the clock did since the last checkup, or since the agent started.
pub(super) async fn steps(admin: Arc<Admin>) -> Vec<Finding> {
    let (wall, steady) = std::mem::replace(&mut *lock(&admin.doctor.clock.0), (SystemTime::now(), Instant::now()));
    vec![judge(admin.node.as_str(), wall + steady.elapsed(), SystemTime::now(), steady.elapsed())]
}

fn judge(host: &str, expected: SystemTime, is: SystemTime, over: Duration) -> Finding {
    let (step, way) = match is.duration_since(expected) {
        Ok(ahead) => (ahead, "forwards"),
        Err(e) => (e.duration(), "back"),
    };
    if step < STEP {
        return Finding::ok(CHECK, host, format!("no step in {} s", over.as_secs()));
    }
    let what =
        format!("the clock went {} s {way} by itself within {} s: it was set, or the host slept", step.as_secs(), over.as_secs());
    let next = "see that a time service runs (timedatectl, chronyc tracking); certificates of etcd depend on it";
    Finding::warn(CHECK, host, what, next).with("step_s", step.as_secs())
}

/// Another host's clock, as its kernel tells it.
pub(super) fn judge_peer(name: &str, ahead_ms: i64) -> Finding {
    let seconds = ahead_ms.unsigned_abs() as f64 / 1000.0;
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    let finding = if u128::from(ahead_ms.unsigned_abs()) < STEP.as_millis() {
        Finding::ok(CHECK, name, "its clock is as ours")
    } else {
        let what =
            format!("its clock is {seconds:.1} s {side} ours: times in logs and entries mislead, certificates may be refused");
        Finding::warn(CHECK, name, what, "see that a time service runs on both hosts (timedatectl, chronyc tracking)")
    };
    finding.with("ahead_ms", ahead_ms)
}

#[cfg(test)]
mod tests {
    use weft_api::CheckResult;

    use super::*;

    #[test]
    fn a_step_either_way_is_noticed_and_an_adjustment_is_not() {
        let now = SystemTime::now();
        let result = |expected| judge("h1", expected, now, Duration::from_secs(60)).result;
        assert_eq!(result(now - Duration::from_secs(30)), CheckResult::Warn);
        assert_eq!(result(now + Duration::from_secs(30)), CheckResult::Warn);
        assert_eq!(result(now - Duration::from_millis(800)), CheckResult::Ok);
    }
}
