//! Everybody to everybody: containers on one host and on two, hosts, the outside; by TCP, UDP and ICMP, and the answers to
//! all of them; with programs and without.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::path::PathBuf;

use anyhow::{Result, ensure};
use weft_tests::eventually::SOON;
use weft_tests::topology::FABRIC;
use weft_tests::traffic::{connect, probe, tcp_server};
use weft_tests::{Container, Daemon, Place, Topology, eventually};

const PORT: u16 = 7000;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Fast,
    Kernel,
}

/// Somebody who can be talked to and talks to others.
struct Party {
    name: &'static str,
    place: Place,
    dir: PathBuf,
    address: String,
    /// What servers on the outside see of its packets.
    seen_outside: Option<String>,
    _servers: Vec<Daemon>,
}

impl Party {
    fn new(t: &Topology, name: &'static str, place: &Place, address: String, seen_outside: Option<String>) -> Self {
        let probe = probe().unwrap();
        let listen = format!("{address}:{PORT}");
        let serve = |kind: &str| place.spawn(t.dir(), &format!("{name}-{kind}"), [&probe, kind, &listen, "--say", name]).unwrap();
        let servers = ["serve-tcp", "serve-udp"].map(serve).into();
        Self { name, place: place.clone(), dir: t.dir().to_owned(), address, seen_outside, _servers: servers }
    }

    fn of_container(t: &Topology, name: &'static str, container: &Container, seen_outside: Option<String>) -> Self {
        Self::new(t, name, container.place(), container.address().unwrap().to_string(), seen_outside)
    }

    /// By TCP, UDP and ICMP, small and large, with an answer to each.
    fn reaches(&self, to: &Self) -> Result<()> {
        let at = format!("{}:{PORT}", to.address);
        for options in [&[][..], &["--udp"], &["--udp", "--unconnected"]] {
            let said = connect(&self.place, &at, options)?;
            let name = said["said"].as_str().unwrap_or_default().split(' ').next().unwrap_or_default();
            ensure!(said["result"] == "answered" && name == to.name, "{options:?}: {said}");
        }
        for size in ["56", "4000"] {
            self.place.exec(["ping", "-n", "-c", "1", "-W", "3", "-s", size, &to.address])?.success()?;
        }
        Ok(())
    }
}

/// The TCP peers that a server's socket table has seen from `place`: who it takes a connection to come from.
fn comes_from(server: &Party, client: &Party) -> Result<String> {
    // A connection that is kept while we look.
    let probe = probe()?;
    let at = format!("{}:{PORT}", server.address);
    let name = format!("{}-{}", server.name, client.name);
    let stream = client.place.spawn(&client.dir, &name, [probe.as_str(), "stream", &at])?;
    let seen = eventually("the connection is seen", SOON, || {
        let text =
            server.place.exec(["ss", "-Htn", "state", "established", "sport", "=", &format!(":{PORT}")])?.success()?.stdout;
        let peer = text.lines().find_map(|line| Some(line.split_whitespace().nth(3)?.rsplit_once(':')?.0.to_owned()));
        peer.ok_or_else(|| anyhow::anyhow!("none in {text:?}; {}", stream.stderr()))
    });
    drop(stream);
    eventually("the connection has ended", SOON, || {
        let text =
            server.place.exec(["ss", "-Htn", "state", "established", "sport", "=", &format!(":{PORT}")])?.success()?.stdout;
        ensure!(text.trim().is_empty(), "{text}");
        Ok(())
    })?;
    seen
}

struct World {
    parties: Vec<Party>,
    _containers: Vec<Container>,
    topology: Topology,
}

/// Three hosts: on the first masquerading is on, on the second it is off, on the third the outside is excluded from it.
fn world(way: Way) -> World {
    let t = Topology::new(3).unwrap();
    t.host(2).agent.set_flag("masquerade", "off");
    t.host(3).agent.set_flag("masquerade-exclude", &format!("{FABRIC}/32"));
    for host in t.hosts().iter().filter(|_| way == Way::Kernel) {
        host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
    }
    t.start_cluster().unwrap();
    for host in t.hosts() {
        assert_eq!(host.agent.status().unwrap()["datapath"]["fast"], way == Way::Fast);
        // Where nobody rewrites sources, the outside must know the way back.
        let subnet = host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
        if host.name() != "h1" {
            t.fabric().exec(["ip", "route", "add", &subnet, "via", &host.address().to_string()]).unwrap().success().unwrap();
        }
    }
    let container = |number: usize, id: &str| tcp_server(t.host(number), &["--id", id], PORT + 1, id).unwrap();
    let containers = vec![container(1, "a"), container(1, "b"), container(2, "c"), container(3, "d")];
    let host = |number: usize| t.host(number).address().to_string();
    let own = |container: &Container| Some(container.address().unwrap().to_string());
    let parties = vec![
        Party::of_container(&t, "a", &containers[0], Some(host(1))),
        Party::of_container(&t, "b", &containers[1], Some(host(1))),
        Party::of_container(&t, "c", &containers[2], own(&containers[2])),
        Party::of_container(&t, "d", &containers[3], own(&containers[3])),
        Party::new(&t, "h1", t.host(1).place(), host(1), None),
        Party::new(&t, "h2", t.host(2).place(), host(2), None),
        Party::new(&t, "h3", t.host(3).place(), host(3), None),
        Party::new(&t, "outside", t.fabric(), FABRIC.to_string(), None),
    ];
    World { parties, _containers: containers, topology: t }
}

fn everybody_reaches_everybody(way: Way) {
    let w = world(way);
    let party = |name: &str| w.parties.iter().find(|p| p.name == name).unwrap();
    for from in &w.parties {
        for to in w.parties.iter().filter(|to| to.name != from.name) {
            // Of h1's containers the outside knows nothing: that is what masquerading is for.
            if from.name == "outside" && ["a", "b"].contains(&to.name) {
                continue;
            }
            eventually(&format!("{} reaches {}", from.name, to.name), SOON, || from.reaches(to)).unwrap();
        }
    }

    // Who is seen by whom. Within the overlay, and to the own host, everybody is seen as what it is.
    let address = |name: &str| party(name).address.clone();
    for (server, client) in [("b", "a"), ("c", "a"), ("a", "c"), ("d", "c"), ("h1", "a"), ("h2", "c")] {
        assert_eq!(comes_from(party(server), party(client)).unwrap(), address(client), "{client} at {server}");
    }
    // What leaves the overlay bears the host's address where that is wanted: other hosts' own addresses are outside too.
    for client in ["a", "b", "c", "d"] {
        let wanted = party(client).seen_outside.clone().unwrap();
        assert_eq!(comes_from(party("outside"), party(client)).unwrap(), wanted, "{client} at the outside");
    }
    assert_eq!(comes_from(party("h2"), party("a")).unwrap(), address("h1"));
    assert_eq!(comes_from(party("h1"), party("c")).unwrap(), address("c"));
    assert_eq!(comes_from(party("h1"), party("d")).unwrap(), address("h3"));

    // None of all this was taken for something that is to be dropped.
    for host in w.topology.hosts() {
        let drops = host.netctl(["drops", "-o", "json"]).unwrap().json().unwrap();
        let rows = drops["verdicts"].as_array().cloned().unwrap_or_default();
        assert!(!rows.is_empty(), "{drops}");
        let dropped: Vec<_> = rows.iter().filter(|row| row["packets"].as_u64() != Some(0)).collect();
        assert!(dropped.is_empty(), "{}: {dropped:?}", host.name());
    }
}

#[test]
fn everybody_reaches_everybody_with_programs() {
    everybody_reaches_everybody(Way::Fast);
}

#[test]
fn everybody_reaches_everybody_without_programs() {
    everybody_reaches_everybody(Way::Kernel);
}
