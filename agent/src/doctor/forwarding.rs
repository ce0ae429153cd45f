//! Whether this host forwards: settings below `/proc/sys`, and the filters of other owners.
//!
//! Forwarding that a hardening script turned off, a chain of dockerd's or firewalld's that drops, strict reverse-path filtering:
//! each loses packets without a word (flannel #1317, #1172; firewalld #863; moby #14073; netavark #1258; weave #3465).

use std::sync::Arc;

use ipnet::Ipv4Net;
use weft_agent::kernel::iptables::{Flavour, Iptables, IptablesError};
use weft_agent::kernel::nft::{Nft, NftError};
use weft_agent::kernel::sysctl;
use weft_api::Finding;
use weft_plan::forward;

use super::paths::vxlan_devices;
use crate::admin::Admin;
use crate::config::MasqueradeMode;
use crate::view::chain;

/// `net.ipv4.ip_forward`, which the agent sets whenever it may.
pub(super) async fn ip_forward(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "ip-forward";
    if admin.report.borrow().subnet.is_none() {
        return vec![Finding::skipped(CHECK, &admin.node, "this host has no subnet yet")];
    }
    let mut found = Vec::new();
    let devices = vxlan_devices(&admin).into_iter().map(|d| format!("net/ipv4/conf/{d}/forwarding"));
    for path in std::iter::once("net/ipv4/ip_forward".to_owned()).chain(devices) {
        let dotted = dotted(&path);
        match sysctl::read(&path).map_err(|e| chain(&e)) {
            Ok(Some(value)) if value == "1" => found.push(Finding::ok(CHECK, dotted, "packets are forwarded")),
            Ok(Some(value)) => {
                let what = format!("it is {value}, so the kernel path forwards nothing between containers and other hosts");
                let next =
                    format!("sysctl -w {dotted}=1, and see who sets it back (weftd sets it whenever it may write /proc/sys)");
                found.push(Finding::fail(CHECK, dotted, what, next));
            }
            // Its device is not there: other checks tell.
            Ok(None) => {}
            Err(e) => found.push(Finding::skipped(CHECK, dotted, e)),
        }
    }
    found
}

/// Strict reverse-path filtering on the overlay's devices. It passes what comes from subnets, whose routes lead through
/// the device; it drops what comes from a host's own address, whose route leads through the uplink. (Linux 6.18; the kernel
/// uses the greater of `all` and the device's.)
pub(super) async fn rp_filter(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "rp-filter";
    let devices = vxlan_devices(&admin);
    if devices.is_empty() {
        return vec![Finding::skipped(CHECK, &admin.node, "there is no overlay")];
    }
    let value = |name: &str| {
        let text = sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter")).ok().flatten();
        text.and_then(|t| t.parse::<u32>().ok())
    };
    let all = value("all").unwrap_or(0);
    devices.iter().filter_map(|device| Some(judge_rp_filter(CHECK, device, all, value(device)?))).collect()
}

fn judge_rp_filter(check: &str, device: &str, all: u32, own: u32) -> Finding {
    if all.max(own) != 1 {
        return Finding::ok(check, device, "reverse-path filtering is not strict");
    }
    let setting = if all == 1 { "net.ipv4.conf.all.rp_filter".to_owned() } else { format!("net.ipv4.conf.{device}.rp_filter") };
    Finding::warn(
        check,
        device,
        format!("{setting} is 1 (strict): what other hosts send to containers from their own addresses is dropped"),
        format!("sysctl -w {setting}=2 (loose), and the same in /etc/sysctl.d"),
    )
}

/// Other owners' filters that drop what is forwarded, and whether there is a way past them.
pub(super) async fn forward_chains(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "forward-chains";
    let network = admin.report.borrow().host.as_ref().and_then(|h| h.config.as_ref().map(|c| c.network));
    let Some(network) = network else {
        return vec![Finding::skipped(CHECK, &admin.node, "there is no network yet")];
    };
    let mut found = Vec::new();
    let looked = tokio::task::spawn_blocking(move || iptables(network)).await;
    match looked {
        Ok(findings) => found.extend(findings),
        Err(e) => found.push(Finding::skipped(CHECK, "iptables", e.to_string())),
    }
    match Nft::new().other_filters(vec!["weft".to_owned(), network.to_string()]).await {
        Ok(others) => {
            let lost = "what the kernel path carries is lost, and containers do not reach the outside";
            let next = "do as said, or remove the chain; docs of its owner say how rules are kept";
            found.extend(others.into_iter().map(|text| Finding::fail(CHECK, "nft", format!("{text}: {lost}"), next)));
        }
        // The check nft says it.
        Err(NftError::NotInstalled) => {}
        Err(e) => found.push(Finding::skipped(CHECK, "nft", chain(&e))),
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, &admin.node, "no filter of another owner is in the way"));
    }
    found
}

fn iptables(network: Ipv4Net) -> Vec<Finding> {
    const CHECK: &str = "forward-chains";
    let iptables = Iptables::new();
    let mut found = Vec::new();
    for flavour in Flavour::ALL {
        match iptables.observe(flavour) {
            Ok(Some(filter)) => {
                let Some(drops) = filter.drops() else { continue };
                // Nothing to do means that our jump is where it should be.
                if forward::diff(Some(network), &filter).is_empty() {
                    let what = format!("{drops} drops forwarded packets; ours pass by the jump to {}", forward::CHAIN);
                    found.push(Finding::ok(CHECK, flavour, what));
                    continue;
                }
                let what = format!(
                    "{flavour}: {drops} drops forwarded packets: what the kernel path carries is lost, and containers do not reach the outside"
                );
                let next = "set --forward-rules auto, or accept weft+ devices there";
                found.push(Finding::fail(CHECK, flavour, what, next));
            }
            Ok(None) => {}
            Err(e @ IptablesError::NoProgram { .. }) => {
                found.push(Finding::warn(CHECK, flavour, chain(&e), "install iptables, so that weftd can look"));
            }
            Err(e) => found.push(Finding::skipped(CHECK, flavour, chain(&e))),
        }
    }
    found
}

/// Our own table: sources are checked there on the kernel path, and containers get to the outside by it.
pub(super) async fn nft(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "nft";
    let what = "sources are not checked on the kernel path";
    let lost = match admin.doctor.settings.masquerade {
        MasqueradeMode::Auto => format!("{what}, and containers do not reach the outside"),
        MasqueradeMode::Off => what.to_owned(),
    };
    match Nft::new().observe().await {
        Ok(weft_plan::nft::Found::Nothing) if admin.report.borrow().subnet.is_some() => {
            vec![Finding::fail(
                CHECK,
                "inet weft",
                format!("there is no table inet weft: {lost}"),
                "netctl status says why; nft list ruleset shows what is there",
            )]
        }
        Ok(_) => vec![Finding::ok(CHECK, "inet weft", "nft is there, and the table can be read")],
        Err(e @ NftError::NotInstalled) => {
            vec![Finding::fail(
                CHECK,
                "nft",
                format!("{}: {lost}", chain(&e)),
                "apt-get install nftables, or your distribution's way to install nft",
            )]
        }
        Err(e) => vec![Finding::fail(CHECK, "inet weft", format!("{}: {lost}", chain(&e)), "see what nft list ruleset says")],
    }
}

/// As `sysctl` spells it. A dot in a device's name becomes a slash.
fn dotted(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use weft_api::CheckResult;

    use super::*;

    #[test]
    fn settings_are_spelled_so_that_sysctl_understands_them() {
        assert_eq!(dotted("net/ipv4/conf/weft.1/forwarding"), "net.ipv4.conf.weft/1.forwarding");
    }

    #[test]
    fn the_greater_of_all_and_the_devices_decides() {
        let result = |all, own| judge_rp_filter("rp-filter", "weft.1", all, own).result;
        assert_eq!(result(0, 0), CheckResult::Ok);
        assert_eq!(result(1, 0), CheckResult::Warn);
        assert_eq!(result(0, 1), CheckResult::Warn);
        assert_eq!(result(2, 1), CheckResult::Ok, "loose wins");
        assert!(judge_rp_filter("rp-filter", "weft.1", 0, 1).what.contains("conf.weft.1."));
    }
}
