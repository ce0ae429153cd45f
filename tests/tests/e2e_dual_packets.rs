//! Packets of both families between hosts that share IPv4, IPv6 or both, with programs and without.

use std::net::IpAddr;

use anyhow::Result;
use weft_tests::eventually::SOON;
use weft_tests::topology::Wire;
use weft_tests::traffic::{idle, pings, probe};
use weft_tests::{Container, Topology, eventually};

/// Whether a packet of this length gets there whole, once it gets there at all.
fn arrives(from: &Container, to: IpAddr, longest: usize) -> Result<()> {
    let headers = if to.is_ipv6() { 48 } else { 28 };
    let (text, size) = (to.to_string(), (longest - headers).to_string());
    eventually(&format!("an answer from {to}"), SOON, || {
        from.exec(["ping", "-n", "-c", "1", "-W", "5", &text])?.success().map(drop)
    })?;
    pings(from.place(), to, 10, &["-M", "do", "-s", &size])
}

#[test]
fn containers_reach_each_other_in_both_families_whatever_their_hosts_share() -> Result<()> {
    let t = Topology::builder(4).wires(&[Wire::Dual, Wire::Dual, Wire::V6, Wire::V6]).dual_stack().build()?;
    for number in [2, 4] {
        t.host(number).agent.set_wrapper([probe()?.as_str(), "without-bpf"]);
    }
    t.start_cluster()?;
    for host in t.hosts() {
        host.agent.wait_status("an IPv6 subnet", |s| s["subnet6"].is_string())?;
    }
    for (number, fast) in [(1, true), (2, false), (3, true), (4, false)] {
        t.host(number).agent.wait_status("the way its packets take", |s| s["datapath"]["fast"] == fast)?;
    }
    let containers = t.hosts().iter().map(|host| idle(host, &[])).collect::<Result<Vec<_>>>()?;
    for (from, host) in containers.iter().zip(t.hosts()) {
        for (to, other) in containers.iter().zip(t.hosts()).filter(|(_, other)| other.name() != host.name()) {
            let over4 = host.wire() == Wire::Dual && other.wire() == Wire::Dual;
            for address in [IpAddr::V4(to.address()?), IpAddr::V6(to.address6()?)] {
                arrives(from, address, if over4 { 1450 } else { 1430 })?;
            }
        }
    }
    Ok(())
}
