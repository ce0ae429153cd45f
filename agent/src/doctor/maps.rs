//! The programs' maps: how full they are, and what the programs dropped that looks like trouble.
//!
//! A full map drops in silence (cilium #35010, #24177, #20068); a drop without a name is what nobody can explain (flannel #49).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_abi::Verdict;
use weft_api::{CheckResult, Finding};

use super::lock;
use crate::admin::Admin;
use crate::datapath::{self, Fill};

/// How full a map may be, in percent, before somebody should know, and before it is a fault.
const WARN: u64 = 80;
const FAIL: u64 = 97;

/// How long drops are watched where there is no earlier look to compare with.
const WATCHED: Duration = Duration::from_secs(1);

/// How full each map is that the agent fills. The one that programs fill makes room by itself.
pub(super) async fn fill(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "maps";
    let shared = admin.datapath.clone();
    match tokio::task::spawn_blocking(move || datapath::lock(&shared).fill()).await {
        Ok(Some(maps)) => judge_fills(CHECK, admin.node.as_str(), &maps),
        Ok(None) => vec![Finding::skipped(CHECK, &admin.node, "no programs are loaded")],
        Err(e) => vec![Finding::skipped(CHECK, &admin.node, e.to_string())],
    }
}

fn percent(map: &Fill) -> u64 {
    (map.rows as u64 * 100).checked_div(u64::from(map.capacity)).unwrap_or(0)
}

/// One finding where all have room, else one for each that has not.
fn judge_fills(check: &str, host: &str, maps: &[Fill]) -> Vec<Finding> {
    let full: Vec<Finding> = maps.iter().map(|m| judge_fill(check, m)).filter(|f| f.result != CheckResult::Ok).collect();
    let Some(fullest) = maps.iter().max_by_key(|m| (percent(m), m.rows)).filter(|_| full.is_empty()) else { return full };
    let Fill { name, rows, capacity } = fullest;
    let finding = Finding::ok(check, host, format!("all have room; the fullest, {name}, has {rows} of {capacity} rows"));
    vec![maps.iter().fold(finding, |finding, map| finding.with(map.name, map.rows))]
}

fn judge_fill(check: &str, map: &Fill) -> Finding {
    let Fill { name, rows, capacity } = map;
    let what = format!("{rows} of {capacity} rows are taken");
    let finding = match percent(map) {
        FAIL.. => Finding::fail(
            check,
            name,
            format!("{what}: what is added now is not in it"),
            "remove what is not needed; the size is the program's own",
        ),
        WARN.. => Finding::warn(
            check,
            name,
            format!("{what}: it will be full soon"),
            "remove what is not needed; the size is the program's own",
        ),
        _ => Finding::ok(check, name, what),
    };
    finding.with("rows", *rows).with("capacity", *capacity)
}

/// What was counted at the last look, by reason; none before the first.
pub(super) type Seen = Option<BTreeMap<String, u64>>;

/// Drops that look like trouble, since the last checkup or within a second.
pub(super) async fn drops(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "drops";
    let last = lock(&admin.doctor.drops).clone();
    let before = match last {
        Some(before) => before,
        None => {
            let before = count(&admin).await;
            tokio::time::sleep(WATCHED).await;
            before
        }
    };
    let now = count(&admin).await;
    *lock(&admin.doctor.drops) = Some(now.clone());
    if now.is_empty() {
        return vec![Finding::skipped(CHECK, &admin.node, "nothing is counted: there are no programs, and no nft table")];
    }
    let mut found = judge_drops(CHECK, &before, &now);
    if found.is_empty() {
        found.push(Finding::ok(CHECK, &admin.node, "nothing was dropped that looks like trouble since the last look"));
    }
    found
}

/// Packets dropped by reason, by the programs and by our nft table.
async fn count(admin: &Admin) -> BTreeMap<String, u64> {
    let shared = admin.datapath.clone();
    let counters = tokio::task::spawn_blocking(move || datapath::lock(&shared).counters()).await.unwrap_or_default();
    let mut counts: BTreeMap<String, u64> =
        counters.into_iter().filter(|(v, _)| is_trouble(*v)).map(|(v, c)| (v.as_str().to_owned(), c.packets)).collect();
    // Without nft the check of that name says so.
    let nft = admin.filter.counts().await.unwrap_or_default();
    counts.extend(nft.into_iter().map(|(name, (packets, _))| (format!("nft {name}"), packets)));
    counts
}

/// A service without backends is refused too; that is its operator's to know, and `netctl service show` tells.
fn is_trouble(verdict: Verdict) -> bool {
    verdict.is_drop() && verdict.hook() != weft_abi::Hook::Socket || verdict.as_str().ends_with("internal_error")
}

fn judge_drops(check: &str, before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (reason, packets) in now {
        // Counters that are less than they were began anew.
        let more = packets.saturating_sub(before.get(reason).filter(|b| *b <= packets).copied().unwrap_or(0));
        if more > 0 {
            let (meaning, next) = meaning(reason);
            let what = format!("{more} packets since the last look: {meaning}");
            found.push(Finding::warn(check, reason, what, next).with("packets", more));
        }
    }
    found
}

fn meaning(reason: &str) -> (&'static str, &'static str) {
    let follow = "netctl drops --follow shows them as they come";
    match reason {
        r if r.contains("unknown_peer") => (
            "VXLAN from an address that is no peer's",
            "a host that lost its lease, one of another cluster on the same port, or an attack; see the sender with tcpdump",
        ),
        r if r.contains("uplink_spoofed") => (
            "a peer sends inner addresses that are not of its subnet",
            "two hosts may use one subnet, or a host was renumbered: compare netctl node list with what runs there",
        ),
        r if r.contains("container_spoofed") => ("a container sends from an address that is not its own", follow),
        r if r.contains("injects") => ("a container sends packets to the overlay's port", follow),
        r if r.contains("malformed") => ("headers that are cut short or contradict themselves", follow),
        r if r.contains("ecn") => (
            "a router marked congestion on packets whose sender cannot understand it (RFC 6040)",
            "look at the ECN settings of the routers between the hosts",
        ),
        _ => ("see netctl drops", follow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_told_of_before_it_is_full() {
        let result = |rows| judge_fill("maps", &Fill { name: "weft_peers", rows, capacity: 1000 }).result;
        assert_eq!(result(799), CheckResult::Ok);
        assert_eq!(result(800), CheckResult::Warn);
        assert_eq!(result(970), CheckResult::Fail);
        assert_eq!(percent(&Fill { name: "x", rows: 1, capacity: 0 }), 0);
    }

    #[test]
    fn only_what_was_added_counts_and_counters_may_begin_anew() {
        let counts = |n| BTreeMap::from([("uplink_unknown_peer".to_owned(), n)]);
        assert!(judge_drops("drops", &counts(5), &counts(5)).is_empty());
        assert_eq!(judge_drops("drops", &counts(5), &counts(8))[0].facts["packets"], 3);
        assert_eq!(judge_drops("drops", &counts(5), &counts(2))[0].facts["packets"], 2, "the maps were made anew");
    }

    #[test]
    fn a_refused_connection_is_no_trouble_and_an_internal_error_is() {
        assert!(!is_trouble(Verdict::SocketNoBackend));
        assert!(is_trouble(Verdict::UplinkUnknownPeer) && is_trouble(Verdict::SocketInternal));
        assert!(!is_trouble(Verdict::ContainerElsewhere));
    }
}
