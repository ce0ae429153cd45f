//! Restart, kill and upgrade under load: not one numbered packet is lost on the fast path, in either direction, and every
//! open connection lives on.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::path::PathBuf;
use std::time::Duration;

use weft_tests::eventually::{SOON, throughout};
use weft_tests::node::binary;
use weft_tests::traffic::{datagrams_every, idle, report, stream, udp_server, who_answers};
use weft_tests::{Container, Daemon, Host, Topology, eventually};

const PORT: u16 = 7000;

/// Two hosts, `pairs` containers on each that talk to each other both ways: numbered datagrams that are given back, and a
/// TCP connection per pair. One pair more talks through virtual IPs.
struct World {
    near: Vec<Container>,
    _far: Vec<Container>,
    datagrams: Vec<Daemon>,
    streams: Vec<Daemon>,
    vip: String,
    _servers: Vec<Daemon>,
    topology: Topology,
}

impl World {
    fn new(pairs: usize, every_ms: u64) -> Self {
        // Longer than agents are dead here: with all agents of a service gone for longer than that, its records are gone too.
        let topology = Topology::builder(2).lease_ttl(Duration::from_secs(60)).build().unwrap();
        topology.start_cluster().unwrap();
        let (h1, h2) = (topology.host(1), topology.host(2));
        let all = |host: &Host, service: &str| -> Vec<Container> {
            (0..pairs)
                .map(|n| {
                    let id = format!("{}-{n}", host.name());
                    udp_server(host, &["--id", &id, "--service", service], PORT, &id).unwrap()
                })
                .collect()
        };
        let mut servers = Vec::new();
        let (near, far) = (all(h1, "near:7000"), all(h2, "far:7000"));
        for container in near.iter().chain(&far) {
            let listen = format!("{}:{PORT}", container.address().unwrap());
            let probe = weft_tests::traffic::probe().unwrap();
            servers.push(container.spawn("tcp", [probe.as_str(), "serve-tcp", &listen, "--say", "tcp"]).unwrap());
            eventually("it answers by TCP too", SOON, || who_answers(container.place(), &listen)).unwrap();
        }
        let words = ["service", "create", "far", "--port", "tcp=80:7000/tcp", "--port", "udp=53:7000/udp", "-o", "json"];
        let vip = h1.netctl(words).unwrap().json().unwrap()["vip"].as_str().unwrap().to_owned();
        eventually("the service has its backends", SOON, || {
            let service = h1.netctl(["service", "show", "far", "-o", "json"])?.json()?;
            let used = service["backends"].as_array().map_or(0, |all| all.iter().filter(|b| b["used"] == true).count());
            anyhow::ensure!(used == pairs, "{service}");
            Ok(())
        })
        .unwrap();

        let (mut datagrams, mut streams) = (Vec::new(), Vec::new());
        for (n, (a, b)) in near.iter().zip(&far).enumerate() {
            let at = |c: &Container| format!("{}:{PORT}", c.address().unwrap());
            datagrams.push(datagrams_every(a, &format!("out-{n}"), &at(b), every_ms).unwrap());
            datagrams.push(datagrams_every(b, &format!("in-{n}"), &at(a), every_ms).unwrap());
            streams.push(stream(a, &format!("tcp-out-{n}"), &at(b)).unwrap());
            streams.push(stream(b, &format!("tcp-in-{n}"), &at(a)).unwrap());
        }
        datagrams.push(datagrams_every(&near[0], "udp-by-vip", &format!("{vip}:53"), every_ms).unwrap());
        streams.push(stream(&near[0], "tcp-by-vip", &format!("{vip}:80")).unwrap());
        Self { near, _far: far, datagrams, streams, vip: format!("{vip}:80"), _servers: servers, topology }
    }

    fn is_ready(&self) {
        for host in self.topology.hosts() {
            host.agent.wait_ready().unwrap();
            host.agent.wait_peers(1).unwrap();
            host.agent
                .wait_status("fast, with nothing wrong", |s| {
                    s["datapath"]["fast"] == true && s["reasons"] == serde_json::json!([])
                })
                .unwrap();
        }
    }

    /// New connections through the virtual IP are answered for this long.
    fn goes_on(&self, period: Duration) {
        throughout("new connections are answered", period, || who_answers(self.near[0].place(), &self.vip).map(drop)).unwrap();
    }

    /// Ends all traffic: none of it was lost.
    fn nothing_was_lost(self, what: &str) {
        let mut total = 0;
        for daemon in &self.datagrams {
            let said = report(daemon).unwrap();
            assert_eq!(said["sent"], said["received"], "{what}: {}: {said}", daemon.command());
            let sent = said["sent"].as_u64().unwrap();
            assert!(said["error"].is_null() && sent > 100, "{what}: {}: {said}", daemon.command());
            total += sent;
        }
        for daemon in &self.streams {
            let said = report(daemon).unwrap();
            assert!(said["error"].is_null() && said["echoed"].as_u64().unwrap() > 10, "{what}: {}: {said}", daemon.command());
        }
        println!("{what}: none lost of {total}, there and back; {} connections live on", self.streams.len());
    }
}

/// Two builds of the agent that take turns, as a package brings them: a file each.
fn next_build(topology: &Topology, number: usize) -> PathBuf {
    let first = binary("weftd").unwrap();
    if number.is_multiple_of(2) {
        let second = topology.dir().join("weftd");
        if !second.exists() {
            std::fs::copy(&first, &second).unwrap();
        }
        return second;
    }
    first
}

#[test]
fn an_upgrade_under_load_loses_no_packet() {
    let w = World::new(1, 1);
    for number in 0..3 {
        for host in w.topology.hosts() {
            host.agent.set_binary(&next_build(&w.topology, number));
            host.agent.stop().unwrap();
            host.agent.start().unwrap();
        }
        w.goes_on(Duration::from_millis(500));
        w.is_ready();
    }
    w.nothing_was_lost("three upgrades of both hosts");
}

#[test]
fn agents_killed_at_any_moment_lose_no_packet() {
    let w = World::new(1, 1);
    for number in 0..8_u32 {
        let host = w.topology.host(1 + number as usize % 2);
        host.agent.kill9().unwrap();
        host.agent.start().unwrap();
        // Again in the middle of starting, a little later each time.
        std::thread::sleep(Duration::from_millis(u64::from(number) * 40));
        host.agent.kill9().unwrap();
        host.agent.start().unwrap();
        host.agent.wait_answering().unwrap();
    }
    w.goes_on(Duration::from_millis(500));
    w.is_ready();
    w.nothing_was_lost("sixteen kills");
}

#[test]
fn eight_containers_on_each_host_lose_nothing_while_both_agents_are_dead_and_are_upgraded() {
    let w = World::new(8, 10);
    for host in w.topology.hosts() {
        host.agent.kill9().unwrap();
    }
    w.goes_on(Duration::from_secs(10));
    for host in w.topology.hosts() {
        host.agent.set_binary(&next_build(&w.topology, 0));
        host.agent.start().unwrap();
    }
    w.goes_on(Duration::from_secs(2));
    w.is_ready();
    w.nothing_was_lost("dead for ten seconds and upgraded");
}

#[test]
fn containers_that_come_and_go_while_agents_restart_cost_the_others_nothing() {
    let w = World::new(1, 1);
    for number in 0..4 {
        let host = w.topology.host(1 + number % 2);
        let other = idle(host, &[]).unwrap();
        host.agent.kill9().unwrap();
        // It ends while nobody is there to notice.
        other.stop().unwrap();
        host.agent.start().unwrap();
        host.agent.wait_ready().unwrap();
        idle(host, &[]).unwrap().stop().unwrap();
    }
    w.is_ready();
    w.nothing_was_lost("containers that come and go");
}
