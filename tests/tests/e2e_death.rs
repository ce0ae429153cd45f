//! A host dies, or loses its cable: what is sent there, and what is not.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use weft_tests::container::endpoints;
use weft_tests::dns::{dig, server_of};
use weft_tests::eventually::{SOON, throughout};
use weft_tests::traffic::{idle, report, stream, tally, tcp_server, who_answers};
use weft_tests::{Container, Host, Topology, eventually};

/// Short, so that a death is noticed soon; etcd takes no less than 2 s.
const TTL: Duration = Duration::from_secs(3);

/// Three hosts with an instance of `web` on each, and its virtual IP.
struct World {
    servers: Vec<Container>,
    vip: String,
    topology: Topology,
}

impl World {
    fn new() -> Self {
        let topology = Topology::builder(3).lease_ttl(TTL).build().unwrap();
        topology.start_cluster().unwrap();
        let servers = topology
            .hosts()
            .iter()
            .map(|host| tcp_server(host, &["--service", "web:8080"], 8080, host.name()).unwrap())
            .collect();
        let words = ["service", "create", "web", "--port", "80:8080", "-o", "json"];
        let created = topology.host(1).netctl(words).unwrap().json().unwrap();
        let vip = format!("{}:80", created["vip"].as_str().unwrap());
        let world = Self { servers, vip, topology };
        for host in world.topology.hosts() {
            world.endpoints_become(host, 3);
        }
        world
    }

    fn endpoints_become(&self, host: &Host, count: usize) {
        eventually(&format!("{count} backends on {}", host.name()), SOON, || {
            let service = host.netctl(["service", "show", "web", "-o", "json"])?.json()?;
            let used = service["backends"].as_array().map_or(0, |all| all.iter().filter(|b| b["used"] == true).count());
            anyhow::ensure!(used == count, "{service}");
            Ok(())
        })
        .unwrap();
    }

    /// The addresses that a name has on a host.
    fn addresses(&self, host: &Host, name: &str) -> Vec<String> {
        let server = server_of(&host.agent.status().unwrap()).unwrap();
        dig(host.place(), &server, &[name]).unwrap().data("A")
    }
}

fn subnet(host: &Host) -> String {
    host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned()
}

#[test]
fn nothing_new_goes_to_a_host_without_power() {
    let w = World::new();
    let (h1, h3) = (w.topology.host(1), w.topology.host(3));
    let dead = w.servers[2].address().unwrap().to_string();
    let dead_subnet = subnet(h3);
    let client = idle(h1, &[]).unwrap();
    assert_eq!(tally(client.place(), &w.vip, 60).unwrap().len(), 3);

    h3.power_off().unwrap();
    for host in [h1, w.topology.host(2)] {
        w.endpoints_become(host, 2);
        // Every single one is answered, and by the living.
        let from = idle(host, &[]).unwrap();
        let counts = tally(from.place(), &w.vip, 30).unwrap();
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["h1", "h2"], "from {}", host.name());
        let names = w.addresses(host, "tasks.web.skydns.local");
        assert!(names.len() == 2 && !names.contains(&dead), "{names:?}");
        // What is known of it is still shown, as lost.
        let all = endpoints(host).unwrap();
        assert!(all.iter().filter(|e| e["node"] == "h3").all(|e| e["state"] == "lost"), "{all:?}");
    }
    // The subnet is still its own: its claim has a lease of a day.
    let route = h1.exec(["ip", "route", "show", &dead_subnet]).unwrap().success().unwrap().stdout;
    assert!(route.contains("weft.1"), "{route:?}");
    let node = h1.netctl(["node", "show", "h3", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!((&node["alive"], &node["subnet"]), (&false.into(), &dead_subnet.into()));
}

#[test]
fn a_dead_hosts_subnet_is_freed_on_request_and_only_then() {
    let w = World::new();
    let (h1, h2, h3) = (w.topology.host(1), w.topology.host(2), w.topology.host(3));
    let (dead_subnet, dead_address) = (subnet(h3), h3.address().to_string());
    let refused = |name: &str, why: &str| {
        let output = h1.netctl(["node", "rm", name]).unwrap();
        assert_eq!(output.code(), 1, "{output:?}");
        assert!(output.stderr.contains(why), "{output:?}");
    };
    refused("h3", "is alive");
    refused("h1", "is this host");
    refused("nobody", "there is no node nobody");

    h3.power_off().unwrap();
    w.endpoints_become(h1, 2);
    let gone =
        eventually("h3 counts as dead, and is removed", SOON, || h1.netctl(["node", "rm", "h3", "-o", "json"])?.json()).unwrap();
    assert_eq!((&gone["node"], &gone["subnet"]), (&"h3".into(), &dead_subnet.clone().into()));
    let key = format!("/coreos.com/network/subnets/{}", dead_subnet.replace('/', "-"));
    assert_eq!(w.topology.etcd().get(&key).unwrap(), None);
    let network = dead_subnet.trim_end_matches(".0/24");
    for host in [h1, h2] {
        host.agent.wait_peers(1).unwrap();
        eventually(&format!("nothing of h3 on {}", host.name()), SOON, || {
            for words in [
                &["ip", "route", "show", &dead_subnet][..],
                &["ip", "neighbor", "show", "dev", "weft.1"],
                &["bridge", "fdb", "show", "dev", "weft.1"],
            ] {
                let shown = host.exec(words)?.success()?.stdout;
                anyhow::ensure!(!shown.contains(network) && !shown.contains(&dead_address), "{words:?}: {shown}");
            }
            Ok(())
        })
        .unwrap();
        // What was lost is gone for good: its addresses may be another's from now on.
        eventually("no endpoint of h3", SOON, || {
            let all = endpoints(host)?;
            anyhow::ensure!(all.iter().all(|e| e["node"] != "h3"), "{all:?}");
            Ok(())
        })
        .unwrap();
    }
    refused("h3", "there is no node h3");

    // It may come back as any host that begins: with a subnet, and known to the others.
    h3.power_on().unwrap();
    h3.agent.start().unwrap();
    h3.agent.wait_ready().unwrap();
    h1.agent.wait_peers(2).unwrap();
}

#[test]
fn a_host_that_gets_its_power_back_is_the_host_it_was() {
    let w = World::new();
    let h3 = w.topology.host(3);
    let before = subnet(h3);
    let mac = |world: &World| {
        let key = format!("/coreos.com/network/subnets/{}", before.replace('/', "-"));
        let value: Value = serde_json::from_str(&world.topology.etcd().get(&key).unwrap().unwrap()).unwrap();
        value["BackendData"]["VtepMAC"].clone()
    };
    let mac_before = mac(&w);
    h3.power_off().unwrap();
    w.endpoints_become(w.topology.host(1), 2);

    h3.power_on().unwrap();
    h3.agent.start().unwrap();
    h3.agent.wait_ready().unwrap();
    assert_eq!((subnet(h3), mac(&w)), (before, mac_before));
    let again = tcp_server(h3, &["--service", "web:8080"], 8080, "h3").unwrap();
    w.endpoints_become(w.topology.host(1), 3);
    let client = idle(w.topology.host(1), &[]).unwrap();
    who_answers(client.place(), &format!("{}:8080", again.address().unwrap())).unwrap();
    assert_eq!(tally(client.place(), &w.vip, 60).unwrap().len(), 3);
}

#[test]
fn nothing_new_goes_to_a_host_without_cable_until_it_is_back() {
    let w = World::new();
    let (h1, h3) = (w.topology.host(1), w.topology.host(3));
    let client = idle(h1, &[]).unwrap();
    h3.pull_cable().unwrap();
    w.endpoints_become(h1, 2);
    assert_eq!(tally(client.place(), &w.vip, 30).unwrap().keys().collect::<Vec<_>>(), ["h1", "h2"]);
    // The cut-off agent goes on with what it knew.
    let local = format!("{}:8080", w.servers[2].address().unwrap());
    assert_eq!(who_answers(w.servers[2].place(), &local).unwrap(), "h3");
    let cut_off = || h3.agent.status()?["store"]["connected"].as_bool().filter(|c| !c).context("connected");
    eventually("it knows that it is cut off", SOON, cut_off).unwrap();

    h3.plug_cable().unwrap();
    w.endpoints_become(h1, 3);
    eventually("all three answer again", SOON, || {
        let counts = tally(client.place(), &w.vip, 30)?;
        anyhow::ensure!(counts.len() == 3, "{counts:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_dead_agent_costs_its_living_host_no_connection() {
    let w = World::new();
    let (h1, h3) = (w.topology.host(1), w.topology.host(3));
    let client = idle(h1, &[]).unwrap();
    let direct = format!("{}:8080", w.servers[2].address().unwrap());
    let open = stream(&client, "open", &direct).unwrap();

    h3.agent.kill9().unwrap();
    w.endpoints_become(h1, 2);
    // Lost, as far as anybody can tell: no new connection by name or virtual IP. What is open goes on, and so does what is
    // sent to its address.
    throughout("the container of h3 answers", TTL * 2, || who_answers(client.place(), &direct).map(drop)).unwrap();
    let said = report(&open).unwrap();
    assert_eq!(said["error"], Value::Null, "{said}");
    assert!(said["echoed"].as_u64().unwrap() > 0, "{said}");

    h3.agent.start().unwrap();
    w.endpoints_become(h1, 3);
}
