//! What the measurements of a path mean. Pure.
//!
//! | seen | meaning | complaint behind it |
//! |---|---|---|
//! | small packets pass, full ones do not | something on the way swallows them: the MTU is wrong | flannel #1011 #1781 #1567, k3s #5101, cilium #23917 |
//! | nothing through the overlay, the host answers outside | the UDP port is blocked, or its lease is wrong | flannel #2388, cilium #21801, typhoon #1561 |
//! | only a frame for everybody is answered, by another address | the peer's `VtepMAC` is not its device's | flannel #1155 #1330 #1485 #1788 |
//! | echoes pass, TCP does not | checksums that a network card should have made | flannel #1279 #1282 #1929, k3s #2013, calico #3145 |
//! | nothing at all | the host is down, or the underlay is | flannel #996, weave #2797 |

use std::time::Duration;

use weft_agent::kernel::probe::echo::Answer;
use weft_agent::kernel::probe::vxlan::Opened;
use weft_api::Finding;

use super::clock;
use super::paths::{Evidence, PATH, PATH_MTU, PATH_TCP, Target, Way};

/// Everything that can be said of one peer.
pub(super) fn judge(target: &Target, evidence: &Evidence) -> Vec<Finding> {
    let mut found = vec![reach(target, evidence)];
    let ways = [("the host", &evidence.host), ("a container", &evidence.container)];
    let heard: Vec<(&str, &Way)> =
        ways.iter().filter_map(|(who, way)| Some((*who, way.as_ref().ok()?))).filter(|(_, way)| way.small.is_heard()).collect();
    if heard.is_empty() {
        return found;
    }
    found.push(mtu(target, evidence, &heard));
    found.push(tcp(target, &heard));
    found.extend(evidence.clock_ahead.map(|ms| clock::judge_peer(&target.name(), ms)));
    found
}

/// Whether the peer is reached, and if not, what stands between.
fn reach(target: &Target, evidence: &Evidence) -> Finding {
    let name = target.name();
    let heard = |way: &Result<Way, String>| way.as_ref().ok().map(|way| way.small.clone());
    let (host, container) = (heard(&evidence.host), heard(&evidence.container));
    let path = match (target.direct, target.fast) {
        (true, _) => "plain route",
        (false, true) => "fast path",
        (false, false) => "kernel path",
    };
    let kernel = if target.direct { "plain route" } else { "kernel path" };
    match (&host, &container) {
        (None, None) => {
            let why = evidence.host.as_ref().err().cloned().unwrap_or_default();
            Finding::skipped(PATH, name, format!("no packet could be sent: {why}"))
        }
        (Some(Answer::Heard(from_host)), Some(Answer::Heard(from_container))) => aside(target, evidence).unwrap_or_else(|| {
            let what = format!("host {} by the {kernel}, container {} by the {path}", ms(*from_host), ms(*from_container));
            Finding::ok(PATH, name, what).with("host_rtt_us", us(*from_host)).with("container_rtt_us", us(*from_container))
        }),
        (Some(Answer::Heard(from_host)), None) => {
            let why = evidence.container.as_ref().err().cloned().unwrap_or_default();
            let what = format!("host {} by the {kernel}; not tried from a container: {why}", ms(*from_host));
            Finding::ok(PATH, name, what).with("host_rtt_us", us(*from_host))
        }
        (None, Some(Answer::Heard(from_container))) => {
            let what = format!("container {} by the {path}", ms(*from_container));
            Finding::ok(PATH, name, what).with("container_rtt_us", us(*from_container))
        }
        (Some(Answer::Heard(_)), Some(_)) => {
            let what = format!("the host reaches it, containers do not (by the {path}): something on this host is in the way");
            let next = "see the checks forward-chains, ip-forward, drops and plan";
            Finding::fail(PATH, name, what, next).with("fault", "container")
        }
        (Some(_), Some(Answer::Heard(_))) => {
            let what = format!(
                "containers reach it by the {path}, the host does not by the kernel path: what the programs hand to the stack (fragments, what is too big) is lost"
            );
            let next = "see the checks vxlan and plan, and whether a filter on either host drops UDP from or to itself";
            Finding::fail(PATH, name, what, next).with("fault", "kernel-path")
        }
        (_, _) => unreached(target, evidence),
    }
}

/// It is reached; what is odd about it.
fn aside(target: &Target, evidence: &Evidence) -> Option<Finding> {
    if target.fast && evidence.taken == Some(false) {
        let what = "it is reached, but by the kernel path, which is slower: the program does not take packets there by itself";
        let next = "netctl drops --all shows why it hands packets to the stack; netctl plan, whether rows are missing";
        return Some(Finding::warn(PATH, target.name(), what, next).with("fault", "fast-path-unused"));
    }
    let other = evidence.leaves_with?;
    let what = format!(
        "it is reached, but packets to {} leave with {other}, not with the uplink's address: answers may come by another device",
        target.outer
    );
    let next = "choose the uplink that the routes lead through (--iface), or correct the routes (ip route get)";
    Some(Finding::warn(PATH, target.name(), what, next).with("fault", "other-uplink"))
}

/// Nothing came back through the overlay.
fn unreached(target: &Target, evidence: &Evidence) -> Finding {
    let (name, outer, port) = (target.name(), target.outer, target.port);
    let fail = |fault: &str, what: String, next: String| Finding::fail(PATH, &name, what, next).with("fault", fault);
    match &evidence.knock {
        Some(Ok(Opened::NobodyListens)) => {
            return fail(
                "nobody-listens",
                format!("{outer} is up, but nobody listens on UDP port {port} there: its VXLAN device is missing"),
                format!("look at the agent on {name}: netctl status there, or flanneld's log"),
            );
        }
        Some(Ok(Opened::Mac(mac))) if *mac != target.mac => {
            return fail(
                "wrong-mac",
                format!(
                    "its device has the address {mac}, its lease says {}: its kernel drops all that is sent to it",
                    target.mac
                ),
                format!("restart the agent on {name} (weftd or flanneld), so that its lease says what is"),
            )
            .with("device_mac", mac.to_string())
            .with("lease_mac", target.mac.to_string());
        }
        Some(Ok(Opened::Mac(_))) => {
            return fail(
                "own-entries",
                format!("{name} answers what is made by hand, and not what our device sends: our entries for it are wrong"),
                "netctl plan shows what is to be put right; the check plan says whether it is".to_owned(),
            );
        }
        _ => {}
    }
    let under = evidence.under.as_ref().ok().map(|way| &way.small);
    match (under, target.alive) {
        (Some(Answer::Heard(_)), _) if target.direct => fail(
            "route-lost",
            format!(
                "{outer} answers for itself, and not for {}: what travels as it is (DirectRouting, host-gw) is lost",
                target.subnet
            ),
            format!(
                "see whether something between the hosts takes addresses of {} only from where it knows them (a cloud's source check), and that {name} has its subnet",
                target.network
            ),
        ),
        (Some(Answer::Heard(_)), _) => fail(
            "port-blocked",
            format!(
                "{outer} answers outside of the overlay, and nothing comes back through it: UDP port {port} is blocked on the way or there, or {name} does not know this host"
            ),
            format!(
                "let UDP port {port} pass in both directions (firewalls on both hosts, security groups); run netctl doctor on {name}; --port of netctl network init moves it"
            ),
        ),
        (_, Some(true)) => fail(
            "unreachable",
            format!(
                "its agent lives and reaches the store, but nothing comes back from {outer}{}: underlay or host firewall",
                because(under)
            ),
            format!(
                "see that {outer} is its address and is reached from here (ping, ip route get {outer}), and that UDP port {port} passes"
            ),
        ),
        (_, Some(false)) => fail(
            "down",
            format!("nothing comes back from {outer}{}, and its agent is not alive: the host is down or cut off", because(under)),
            format!("start it, or see to its network; if it is gone for good: netctl node rm {name}"),
        ),
        (_, None) => fail(
            "unreachable",
            format!("nothing comes back from {outer}{}, inside or outside of the overlay", because(under)),
            format!(
                "see that the host is up and that UDP port {port} passes; the lease {} runs out by itself if it is gone",
                target.subnet
            ),
        ),
    }
}

fn because(answer: Option<&Answer>) -> String {
    match answer {
        Some(Answer::Refused(refused)) => format!(" ({refused})"),
        _ => String::new(),
    }
}

/// Whether full-size packets pass.
fn mtu(target: &Target, evidence: &Evidence, heard: &[(&str, &Way)]) -> Finding {
    let name = target.name();
    let lost: Vec<&(&str, &Way)> =
        heard.iter().filter(|(_, way)| way.full.as_ref().is_some_and(|full| !full.is_heard())).collect();
    if lost.is_empty() {
        let less = if target.mtu < target.own_mtu {
            format!("; it takes no more than that (ours is {})", target.own_mtu)
        } else {
            String::new()
        };
        return Finding::ok(PATH_MTU, name, format!("packets of {} bytes pass{less}", target.mtu))
            .with("largest_bytes", target.mtu);
    }
    let who: Vec<&str> = lost.iter().map(|(who, _)| *who).collect();
    let who = who.join(" and ");
    let Some(largest) = lost.iter().filter_map(|(_, way)| way.largest).min() else {
        return Finding::skipped(PATH_MTU, name, "how long packets may be could not be measured");
    };
    let outer = largest + target.outer_mtu.saturating_sub(target.own_mtu);
    let told = evidence.under.as_ref().ok().and_then(|way| match &way.full {
        Some(Answer::Refused(refused)) => Some(format!("; outside of the overlay somebody says so ({refused})")),
        _ => None,
    });
    let told = told.unwrap_or_default();
    let what = format!(
        "packets from {who} of more than {largest} bytes are lost on the way without a word, {} should pass: connections hang as soon as they carry data{told}",
        target.mtu
    );
    let next = format!(
        "the way carries {outer} bytes, not {}: raise the MTU on it, or on one host: netctl network init --cidr {} --mtu {outer} --force (with the other settings as they are)",
        target.outer_mtu, target.network
    );
    Finding::fail(PATH_MTU, name, what, next).with("largest_bytes", largest).with("underlay_bytes", outer).with("fault", "mtu")
}

/// Whether TCP passes where echoes do.
fn tcp(target: &Target, heard: &[(&str, &Way)]) -> Finding {
    let name = target.name();
    let silent: Vec<&str> = heard.iter().filter(|(_, way)| matches!(way.tcp, Some(Ok(None)))).map(|(who, _)| *who).collect();
    let refused = heard.iter().find_map(|(who, way)| match &way.tcp {
        Some(Err(e)) => Some(format!("from {who}: {e}")),
        _ => None,
    });
    if !silent.is_empty() {
        let what = format!(
            "a TCP handshake from {} is not answered where an echo is: a filter, or checksums that a network card should have made",
            silent.join(" and ")
        );
        let next = "see whether a firewall there drops TCP from the overlay; if not, on both hosts: ethtool -K UPLINK tx-udp_tnl-csum-segmentation off tx-checksum-ip-generic off";
        return Finding::warn(PATH_TCP, name, what, next).with("fault", "tcp");
    }
    if let Some(why) = refused {
        let next = "a firewall on the way or there refuses TCP; containers may be refused alike";
        return Finding::warn(PATH_TCP, name, format!("a TCP handshake is refused {why}"), next).with("fault", "tcp");
    }
    Finding::ok(PATH_TCP, name, "TCP handshakes are answered, so checksums are right")
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
