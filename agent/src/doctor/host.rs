//! The host itself: its kernel, what the agent may do with it, whether the programs are in it.
//!
//! A host that lacks one of these falls back to something slower or smaller and says so in one line of a log, which nobody reads
//! (cilium #24191, #27922: programs that were gone after an upgrade; k8s hosts whose bpffs was a container's own).

use std::path::Path;
use std::sync::Arc;

use weft_agent::kernel::bpf::mounts;
use weft_agent::kernel::host;
use weft_api::Finding;

use crate::admin::Admin;
use crate::view::chain;

/// The first kernel with all that the programs need: TCX links (6.6).
const NEEDED: (u32, u32) = (6, 6);

/// The kernel's release, against what the fast path needs.
pub(super) async fn kernel(admin: Arc<Admin>) -> Vec<Finding> {
    let (release, numbers) = host::release();
    vec![judge_kernel(admin.node.as_str(), &release, numbers)]
}

fn judge_kernel(host: &str, release: &str, numbers: Option<(u32, u32)>) -> Finding {
    match numbers {
        Some(numbers) if numbers < NEEDED => Finding::warn(
            "kernel",
            host,
            format!("Linux {release} is older than {}.{}: no fast path and no virtual IPs", NEEDED.0, NEEDED.1),
            format!("boot Linux {}.{} or later; until then the kernel path carries everything else", NEEDED.0, NEEDED.1),
        ),
        _ => Finding::ok("kernel", host, format!("Linux {release}")),
    }
}

/// The agent's capabilities.
pub(super) async fn privileges(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "privileges";
    let node = &admin.node;
    let missing = match host::missing_capabilities() {
        Ok(missing) => missing,
        Err(e) => return vec![Finding::skipped(CHECK, node, chain(&e))],
    };
    if missing.is_empty() {
        return vec![Finding::ok(CHECK, node, "the agent has all that it uses")];
    }
    let lacks = |(name, why): &(&str, &str)| {
        let next = format!("give weftd {name} (CapabilityBoundingSet= of its unit, --cap-add of its container)");
        Finding::fail(CHECK, node, format!("weftd runs without {name}, which it needs {why}"), next)
    };
    missing.iter().map(lacks).collect()
}

/// Whether packets to other hosts take the fast path, and if not, why.
pub(super) async fn fast_path(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "fast-path";
    let report = admin.report.borrow().clone();
    let node = &admin.node;
    if report.fast {
        return vec![Finding::ok(CHECK, node, "the programs are attached; packets to other hosts take the fast path")];
    }
    let why = report.why_not_fast.unwrap_or_else(|| "nobody says why".to_owned());
    if report.subnet.is_none() || report.uplink.is_none() {
        return vec![Finding::skipped(CHECK, node, why)];
    }
    let what = format!("packets take the kernel path, which is slower: {why}");
    vec![Finding::warn(CHECK, node, what, "see the reason; the checks kernel, privileges and bpffs say more")]
}

/// Whether virtual IPs are translated, and for whose sockets.
pub(super) async fn virtual_ips(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "virtual-ips";
    let report = admin.report.borrow().clone();
    let node = &admin.node;
    if let Err(e) = cgroup(&report.cgroup) {
        return vec![Finding::fail(
            CHECK,
            node,
            format!("no virtual IP is reached from this host: {e}"),
            "mount the cgroup v2 hierarchy (mount -t cgroup2 none /sys/fs/cgroup), or name it with --cgroup; then restart weftd",
        )];
    }
    if !report.sockets {
        let why = report.why_not_fast.unwrap_or_else(|| "the programs are not attached to the cgroup".to_owned());
        let what = format!("no virtual IP is reached from this host: {why}");
        return vec![Finding::fail(CHECK, node, what, "see the reason; the checks kernel, privileges and bpffs say more")];
    }
    vec![Finding::ok(CHECK, node, format!("translated for the sockets below {}", report.cgroup.display()))]
}

fn cgroup(path: &Path) -> Result<(), String> {
    if path.as_os_str().is_empty() {
        return Err("there is no cgroup v2 hierarchy".to_owned());
    }
    mounts::check_cgroup2(path).map_err(|e| chain(&e))
}

/// Whether what is pinned outlives the agent (cilium #29667: pins in a mount namespace that ended with the agent).
pub(super) async fn bpffs(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "bpffs";
    let path = admin.doctor.settings.bpffs.clone();
    let shown = path.display();
    if let Some(note) = &admin.doctor.bpffs_note {
        let next = "run weftd in the mount namespace of process 1, or mount bpffs on /sys/fs/bpf there first";
        return vec![Finding::warn(CHECK, shown, note, next)];
    }
    if !mounts::on_bpffs(&path) {
        return vec![Finding::fail(
            CHECK,
            shown,
            "there is no bpffs: nothing can be pinned, so programs end with the agent",
            "restart weftd, which mounts it; if it says why not, do as it says, or choose another place with --bpffs",
        )];
    }
    vec![Finding::ok(CHECK, shown, "maps and programs are pinned and outlive the agent")]
}

#[cfg(test)]
mod tests {
    use weft_api::CheckResult;

    use super::*;

    #[test]
    fn an_old_kernel_is_a_warning_and_an_unreadable_release_is_not() {
        let result = |release: &str, numbers| judge_kernel("h1", release, numbers).result;
        assert_eq!(result("6.1.0-18-amd64", Some((6, 1))), CheckResult::Warn);
        assert_eq!(result("6.6.0", Some((6, 6))), CheckResult::Ok);
        assert_eq!(result("7.0.0", Some((7, 0))), CheckResult::Ok);
        assert_eq!(result("strange", None), CheckResult::Ok);
    }
}
