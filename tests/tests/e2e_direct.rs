//! Packets that travel as they are: the `host-gw` backend, and `DirectRouting` where hosts share a link. Both families.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use weft_tests::eventually::SOON;
use weft_tests::topology::{NETWORK, NETWORK6, Wire};
use weft_tests::traffic::{idle, pings, probe};
use weft_tests::{Container, Host, Topology, eventually};

/// Three hosts of a dual-stack network, the second without programs.
fn cluster(backend: &str) -> Result<Topology> {
    let t = Topology::builder(3).wires(&[Wire::Dual; 3]).build()?;
    t.etcd().start()?;
    let config = format!(r#"{{"Network":"{NETWORK}","EnableIPv6":true,"IPv6Network":"{NETWORK6}","Backend":{backend}}}"#);
    t.etcd().put("/coreos.com/network/config", &config)?;
    t.host(2).agent.set_wrapper([probe()?.as_str(), "without-bpf"]);
    for host in t.hosts() {
        host.agent.start()?;
    }
    for host in t.hosts() {
        host.agent.wait_ready()?;
        host.agent.wait_peers(2)?;
        host.agent.wait_status("an IPv6 subnet", |s| s["subnet6"].is_string())?;
    }
    Ok(t)
}

/// A container's addresses, IPv4 first.
fn addresses(container: &Container) -> Result<[IpAddr; 2]> {
    Ok([container.address()?.into(), container.address6()?.into()])
}

/// Whether a packet of this length gets there whole, once it gets there at all.
fn arrives(from: &Container, to: IpAddr, longest: usize) -> Result<()> {
    let headers = if to.is_ipv6() { 48 } else { 28 };
    let (text, size) = (to.to_string(), (longest - headers).to_string());
    eventually(&format!("an answer from {to}"), SOON, || {
        from.exec(["ping", "-n", "-c", "1", "-W", "5", &text])?.success().map(drop)
    })?;
    pings(from.place(), to, 10, &["-M", "do", "-s", &size])
}

fn route(host: &Host, destination: &str) -> Result<String> {
    Ok(host.exec(["ip", "route", "show", destination])?.success()?.stdout)
}

fn subnet(host: &Host, member: &str) -> Result<String> {
    Ok(host.agent.status()?[member].as_str().unwrap_or_default().to_owned())
}

#[test]
fn host_gw_carries_packets_of_both_families_whole_and_without_a_tunnel() -> Result<()> {
    let t = cluster(r#"{"Type":"host-gw"}"#)?;
    let containers = t.hosts().iter().map(|host| idle(host, &[])).collect::<Result<Vec<_>>>()?;
    for from in &containers {
        for to in &containers {
            for address in addresses(to)?.into_iter().filter(|_| !std::ptr::eq(from, to)) {
                arrives(from, address, 1500)?;
            }
        }
    }
    for host in t.hosts() {
        let devices = host.exec(["ip", "link", "show", "type", "vxlan"])?.success()?.stdout;
        ensure!(devices.is_empty(), "{}: {devices}", host.name());
        let (v4, v6) = (subnet(host, "subnet")?.replace('/', "-"), subnet(host, "subnet6")?.replace('/', "-"));
        let lease = t.etcd().get(&format!("/coreos.com/network/subnets/{v4}&{v6}"))?.unwrap_or_default();
        ensure!(lease.contains(r#""BackendType":"host-gw""#) && !lease.contains("VtepMAC"), "{lease}");
    }
    Ok(())
}

#[test]
fn direct_routing_follows_the_hosts_routes_although_the_other_side_sees_it_otherwise() -> Result<()> {
    let t = cluster(r#"{"Type":"vxlan","DirectRouting":true}"#)?;
    let (h1, h2, h3) = (t.host(1), t.host(2), t.host(3));
    let (a, c) = (idle(h1, &[])?, idle(h3, &[])?);
    let (near, far) = (subnet(h1, "subnet")?, subnet(h3, "subnet")?);
    let leads = |host: &Host, to: &str, device: &str| {
        eventually(&format!("{} reaches {to} by {device}", host.name()), SOON, || {
            let there = route(host, to)?;
            ensure!(there.contains(&format!("dev {device} ")), "{there:?}");
            Ok(())
        })
    };
    let both_ways = || -> Result<()> {
        for address in addresses(&c)? {
            arrives(&a, address, 1450)?;
        }
        for address in addresses(&a)? {
            arrives(&c, address, 1450)?;
        }
        Ok(())
    };
    leads(h1, &far, "up0")?;
    leads(h3, &near, "up0")?;
    both_ways()?;
    // From here on h1 reaches h3 by a router, and so through the tunnel. h3 does not know.
    let [beyond, router] = [h3.address().to_string(), h2.address().to_string()];
    h1.exec(["ip", "route", "add", &beyond, "via", &router])?.success()?;
    leads(h1, &far, "weft.1")?;
    leads(h3, &near, "up0")?;
    both_ways()?;
    h1.exec(["ip", "route", "del", &beyond, "via", &router])?.success()?;
    leads(h1, &far, "up0")?;
    both_ways()
}
