//! Containers with an address of each family, over every kind of wire, with the programs and without.
//!
//! IPv6 inside and outside are two things: what containers have, and what their hosts' packets travel in. Each test runs all
//! traffic over one combination.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::{FABRIC, FABRIC6, Wire};
use weft_tests::traffic::{datagrams, dual_tcp_server, dual_udp_server, idle, probe, report, transfer, who_answers};
use weft_tests::{Container, Host, Place, Topology, eventually, traffic};

/// Whether hosts have programs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Path {
    Fast,
    Kernel,
}

fn cluster(wires: &[Wire], path: Path) -> Topology {
    let t = Topology::builder(wires.len()).wires(wires).dual_stack().build().unwrap();
    if path == Path::Kernel {
        for host in t.hosts() {
            host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
        }
    }
    t.start_cluster().unwrap();
    for host in t.hosts() {
        let status = host.agent.wait_status("an IPv6 subnet", |s| s["subnet6"].is_string()).unwrap();
        assert_eq!(status["datapath"]["fast"], path == Path::Fast, "{status}");
    }
    // What each knows of the others in IPv6 follows the first word of them.
    for host in t.hosts() {
        let all = |s: &Value| s["peers"].as_array().unwrap().iter().all(|p| p["subnet6"].is_string());
        host.agent.wait_status("all peers have IPv6 subnets", all).unwrap();
    }
    t
}

fn addresses(container: &Container) -> [IpAddr; 2] {
    [container.address().unwrap().into(), container.address6().unwrap().into()]
}

fn pings(from: &Place, address: IpAddr) {
    let to = address.to_string();
    eventually(&format!("{to} answers pings"), SOON, || {
        from.exec(["ping", "-n", "-c", "1", "-W", "2", &to])?.success().map(drop)
    })
    .unwrap();
    traffic::pings(from, address, 20, &[]).unwrap();
}

/// The last line that a command prints in a container.
fn last_line(container: &Container, words: &[&str]) -> String {
    let output = container.exec(words).unwrap();
    output.stdout.lines().last().unwrap_or_default().trim().to_owned()
}

/// All traffic there is, between all hosts and on each.
fn everything_flows(t: &Topology) {
    let server = |host: &Host| {
        let options = ["--id", &format!("web-{}", host.name()), "--service", "web:8080"];
        dual_tcp_server(host, &options, 8080, host.name()).unwrap()
    };
    let servers: Vec<Container> = t.hosts().iter().map(server).collect();
    let clients: Vec<Container> = t.hosts().iter().map(|host| idle(host, &[]).unwrap()).collect();
    for client in &clients {
        for (host, server) in t.hosts().iter().zip(&servers) {
            for to in addresses(server) {
                pings(client.place(), to);
                assert_eq!(who_answers(client.place(), &SocketAddr::new(to, 8080).to_string()).unwrap(), host.name());
            }
        }
    }
    // Full-size packets, to the next host and to the one after it.
    for (n, client) in clients.iter().enumerate() {
        for server in [&servers[(n + 1) % servers.len()], &servers[(n + 2) % servers.len()]] {
            for to in addresses(server) {
                transfer(client.place(), to, 8080).unwrap();
            }
        }
    }
    for ((host, client), server) in t.hosts().iter().zip(&clients).zip(&servers) {
        // The host and its own containers, both ways.
        for to in addresses(server) {
            assert_eq!(who_answers(host.place(), &SocketAddr::new(to, 8080).to_string()).unwrap(), host.name());
        }
        // The host itself and the outside, by its addresses: nobody out there has a way back to a container.
        if host.wire() != Wire::V4 {
            pings(client.place(), host.address6().into());
            pings(client.place(), FABRIC6.into());
        }
        if host.wire() != Wire::V6 {
            pings(client.place(), host.address().into());
            pings(client.place(), FABRIC.into());
        }
        names_are_answered(t, client, server);
    }
}

/// Each client asks over IPv4 and over IPv6 for the addresses of all, and the resolver of a program knows them.
fn names_are_answered(t: &Topology, client: &Container, server: &Container) {
    let resolv = client.exec(["cat", "/etc/resolv.conf"]).unwrap().stdout;
    let name_servers: Vec<&str> = resolv.lines().filter_map(|l| l.strip_prefix("nameserver ")).collect();
    assert!(matches!(name_servers[..], [v4, v6] if v4.contains('.') && v6.contains(':')), "{resolv}");
    for name_server in name_servers {
        let at = format!("@{name_server}");
        eventually("all instances have both addresses", SOON, || {
            for kind in ["A", "AAAA"] {
                let answer = client.exec(["dig", &at, "web.skydns.local", kind, "+short", "+time=2", "+tries=1"])?;
                ensure!(answer.stdout.lines().count() == t.hosts().len(), "{kind}: {answer:?}");
            }
            Ok(())
        })
        .unwrap();
    }
    let id = server.address6().unwrap().to_string();
    let known = last_line(client, &["getent", "ahostsv6", "web.skydns.local"]);
    assert!(known.contains("fd00:10:244:"), "{known}");
    let reverse = client.exec(["dig", "-x", &id, "+short", "+time=2", "+tries=1"]).unwrap().stdout;
    assert!(reverse.contains("web"), "the name of {id} is {reverse:?}");
}

const ALL_V4: [Wire; 3] = [Wire::V4; 3];
const ALL_V6: [Wire; 3] = [Wire::V6; 3];
const MIXED: [Wire; 3] = [Wire::Dual, Wire::Dual, Wire::V6];

#[test]
fn both_families_flow_over_an_ipv4_wire() {
    let t = cluster(&ALL_V4, Path::Fast);
    everything_flows(&t);
}

#[test]
fn both_families_flow_over_an_ipv4_wire_by_the_kernel_path() {
    let t = cluster(&ALL_V4, Path::Kernel);
    everything_flows(&t);
}

#[test]
fn both_families_flow_over_an_ipv6_wire() {
    let t = cluster(&ALL_V6, Path::Fast);
    everything_flows(&t);
}

#[test]
fn both_families_flow_over_an_ipv6_wire_by_the_kernel_path() {
    let t = cluster(&ALL_V6, Path::Kernel);
    everything_flows(&t);
}

#[test]
fn both_families_flow_between_hosts_of_both_kinds() {
    let t = cluster(&MIXED, Path::Fast);
    everything_flows(&t);
}

#[test]
fn both_families_flow_between_hosts_of_both_kinds_by_the_kernel_path() {
    let t = cluster(&MIXED, Path::Kernel);
    everything_flows(&t);
}

/// `10.244.3.0-24&fd00:10:244:3::-64`, as flannel writes it.
fn key_of(host: &Host) -> String {
    let status = host.agent.status().unwrap();
    let part = |name: &str| status[name].as_str().unwrap().replace('/', "-");
    format!("{}&{}", part("subnet"), part("subnet6"))
}

#[test]
fn a_killed_agent_loses_no_packet_of_ipv6_and_comes_back_with_everything() {
    let t = cluster(&[Wire::V4; 2], Path::Fast);
    let (h1, h2) = (t.host(1), t.host(2));
    let echo = dual_udp_server(h2, &[], 5300, "h2").unwrap();
    let client = idle(h1, &["--id", "client", "--name", "client"]).unwrap();
    let to = echo.address6().unwrap();
    eventually("the way is there", SOON, || {
        client.exec(["ping", "-n", "-c", "1", "-W", "2", &to.to_string()])?.success().map(drop)
    })
    .unwrap();
    let before = (key_of(h1), client.address6().unwrap(), h1.agent.status().unwrap()["dns"].clone());
    let stream = datagrams(&client, "udp6", &format!("[{to}]:5300")).unwrap();
    for host in [h1, h2] {
        host.agent.kill9().unwrap();
        host.agent.start().unwrap();
        host.agent.wait_ready().unwrap();
        host.agent.wait_peers(1).unwrap();
    }
    let said = report(&stream).unwrap();
    assert_eq!(said["sent"], said["received"], "{said}");
    assert!(said["sent"].as_u64().unwrap() > 10, "{said}");
    let dns = &before.2;
    h1.agent.wait_status("DNS of both families", |s| s["dns"] == *dns && s["dns"].as_array().map_or(0, Vec::len) == 2).unwrap();
    assert_eq!((key_of(h1), client.address6().unwrap()), (before.0, before.1));
    // A container's IPv6 is detached with it.
    let route = |host: &Host| host.exec(["ip", "-6", "route", "show", &format!("{}/128", before.1)]).unwrap().stdout;
    assert!(!route(h1).is_empty());
    client.stop().unwrap();
    eventually("its route is gone", SOON, || {
        ensure!(route(h1).is_empty(), "{}", route(h1));
        Ok(())
    })
    .unwrap();
}
