//! Draining hosts and endpoints: nothing new comes, what is open stays, and it outlives agents.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use anyhow::ensure;
use serde_json::Value;
use weft_tests::container::endpoints;
use weft_tests::dns::{dig, server_of};
use weft_tests::eventually::SOON;
use weft_tests::traffic::{idle, report, stream, tally, tcp_server};
use weft_tests::{Container, Host, Topology, eventually};

/// Waits until the backends of `web` that a host's agent uses are on exactly these hosts.
fn used_are(on: &Host, wanted: &[&str]) {
    eventually(&format!("{wanted:?} in use on {}", on.name()), SOON, || {
        let service = on.netctl(["service", "show", "web", "-o", "json"])?.json()?;
        let backends = service["backends"].as_array().cloned().unwrap_or_default();
        let mut used: Vec<_> = backends.iter().filter(|b| b["used"] == true).filter_map(|b| b["node"].as_str()).collect();
        used.sort_unstable();
        ensure!(used == wanted, "{service}");
        Ok(())
    })
    .unwrap();
}

/// Waits until the instances that a host's name server tells of are these.
fn names_are(on: &Host, servers: &[&Container]) {
    let mut wanted: Vec<String> = servers.iter().map(|s| s.address().unwrap().to_string()).collect();
    wanted.sort();
    eventually(&format!("names on {}", on.name()), SOON, || {
        let server = server_of(&on.agent.status()?)?;
        let mut told = dig(on.place(), &server, &["tasks.web.skydns.local"])?.data("A");
        told.sort();
        ensure!(told == wanted, "{told:?}, not {wanted:?}");
        Ok(())
    })
    .unwrap();
}

fn state_of(on: &Host, id: &str, wanted: &str) {
    eventually(&format!("{id} is {wanted} on {}", on.name()), SOON, || {
        let all = endpoints(on)?;
        ensure!(all.iter().any(|e| e["id"] == id && e["state"] == wanted), "{all:?}");
        Ok(())
    })
    .unwrap();
}

fn ok(host: &Host, words: &[&str]) -> Value {
    host.netctl([words, &["-o", "json"]].concat()).unwrap().json().unwrap()
}

#[test]
fn what_is_drained_gets_nothing_new_keeps_what_it_has_and_outlives_agents() {
    let t = Topology::cluster(3).unwrap();
    let (h1, h2, h3) = (t.host(1), t.host(2), t.host(3));
    let servers: Vec<_> = (1..=3)
        .map(|n| {
            let id = format!("web-{n}");
            tcp_server(t.host(n), &["--service", "web:8080", "--id", &id], 8080, t.host(n).name()).unwrap()
        })
        .collect();
    let created = ok(h1, &["service", "create", "web", "--port", "80:8080"]);
    let vip = format!("{}:80", created["vip"].as_str().unwrap());
    t.hosts().iter().for_each(|host| used_are(host, &["h1", "h2", "h3"]));
    let client = idle(h1, &[]).unwrap();
    let open = stream(&client, "open", &format!("{}:8080", servers[2].address().unwrap())).unwrap();
    eventually("its connection is seen", SOON, || {
        let seen = ok(h3, &["endpoint", "drain", "web-3"]);
        ensure!(seen["endpoints"][0]["connections"] == 1, "{seen}");
        Ok(())
    })
    .unwrap();
    ok(h3, &["endpoint", "undrain", "web-3", "--wait"]);

    // A host, asked of another one.
    ok(h1, &["node", "drain", "h3"]);
    for host in t.hosts() {
        used_are(host, &["h1", "h2"]);
        names_are(host, &[&servers[0], &servers[1]]);
    }
    assert_eq!(tally(client.place(), &vip, 30).unwrap().keys().collect::<Vec<_>>(), ["h1", "h2"]);
    let impatient = h3.netctl(["node", "drain", "h3", "--wait", "--timeout", "10ms"]).unwrap();
    assert!(impatient.code() == 1 && impatient.stderr.contains("1 connections to web-3 are open"), "{impatient:?}");
    let listed = ok(h1, &["node", "show", "h3"]);
    assert_eq!((&listed["drained"], &listed["alive"]), (&true.into(), &true.into()));
    assert!(h3.agent.status().unwrap()["reasons"].to_string().contains("h3 is drained since"));

    // It refuses nothing, and what comes to it comes draining; nor does it forget when its agent is killed.
    let late = tcp_server(h3, &["--service", "web:8080", "--id", "late"], 8080, "h3").unwrap();
    state_of(h1, "late", "draining");
    let attached = ok(h3, &["attachment", "list"]);
    assert!(attached[0]["warnings"].to_string().contains("h3 is drained"), "{attached}");
    h3.agent.kill9().unwrap();
    h3.agent.start().unwrap();
    h3.agent.wait_ready().unwrap();
    state_of(h3, "late", "draining");
    used_are(h1, &["h1", "h2"]);
    late.stop().unwrap();

    // Until the last connection has ended, which nobody has torn.
    let went = report(&open).unwrap();
    assert_eq!(went["error"], Value::Null, "{went}");
    assert_eq!(ok(h3, &["node", "drain", "h3", "--wait"])["done"], true);
    ok(h1, &["node", "undrain", "h3", "--wait"]);
    t.hosts().iter().for_each(|host| used_are(host, &["h1", "h2", "h3"]));

    // One endpoint, whose agent is not there to hear of it.
    h2.agent.kill9().unwrap();
    let asked = ok(h1, &["endpoint", "drain", "web-2"]);
    assert_eq!((&asked["wished"], &asked["done"]), (&true.into(), &false.into()), "{asked}");
    h2.agent.start().unwrap();
    h2.agent.wait_ready().unwrap();
    ok(h1, &["endpoint", "drain", "web-2", "--wait"]);
    used_are(h3, &["h1", "h3"]);
    // All of them drain: then they are asked all the same, and it is said.
    for id in ["web-1", "web-3"] {
        ok(h1, &["endpoint", "drain", id]);
    }
    used_are(h2, &["h1", "h2", "h3"]);
    let left = ok(h1, &["endpoint", "drain", "web-2"]);
    assert!(left["waits_for"].to_string().contains("nothing else of default/web is up"), "{left}");
    for id in ["web-1", "web-2", "web-3"] {
        ok(h1, &["endpoint", "undrain", id, "--wait"]);
    }
    assert_eq!(t.etcd().list("/weft/v1/drains").unwrap(), []);

    // With a deadline: who has not gone by then is waited for no longer, and nobody is sent there, whatever else there is.
    let held = stream(&client, "held", &format!("{}:8080", servers[2].address().unwrap())).unwrap();
    eventually("its connection is seen", SOON, || {
        let seen = ok(h3, &["endpoint", "drain", "web-3", "--deadline", "1h"]);
        ensure!(seen["endpoints"][0]["connections"] == 1 && seen["overdue"] == false && seen["deadline"].is_string(), "{seen}");
        Ok(())
    })
    .unwrap();
    state_of(h1, "web-3", "draining");
    let left = ok(h3, &["endpoint", "drain", "web-3", "--deadline", "1s", "--wait"]);
    assert_eq!((&left["overdue"], &left["done"], &left["endpoints"][0]["connections"]), (&true.into(), &true.into(), &1.into()));
    state_of(h1, "web-3", "down");
    for id in ["web-1", "web-2"] {
        ok(h1, &["endpoint", "drain", id]);
    }
    state_of(h2, "web-1", "draining");
    state_of(h2, "web-2", "draining");
    t.hosts().iter().for_each(|host| used_are(host, &["h1", "h2"]));
    for id in ["web-1", "web-2", "web-3"] {
        ok(h1, &["endpoint", "undrain", id, "--wait"]);
    }
    used_are(h1, &["h1", "h2", "h3"]);
    let went = report(&held).unwrap();
    assert_eq!(went["error"], Value::Null, "nobody has torn it: {went}");

    // One that no agent keeps.
    ok(h1, &["endpoint", "add", "web", "192.0.2.77:8080", "--id", "outside"]);
    let nobody = h2.netctl(["endpoint", "drain", "outside", "--deadline", "1s"]).unwrap();
    assert!(nobody.code() == 1 && nobody.stderr.contains("no agent keeps outside.web.skydns.local"), "{nobody:?}");
    ok(h2, &["endpoint", "drain", "outside", "--wait"]);
    state_of(h3, "outside", "draining");
    ok(h3, &["endpoint", "undrain", "outside", "--wait"]);
    state_of(h1, "outside", "up");
    for (words, why) in [
        (["endpoint", "drain", "nobody"], "there is no endpoint nobody"),
        (["node", "drain", "nobody"], "there is no node nobody"),
    ] {
        let refused = h1.netctl(words).unwrap();
        assert!(refused.code() == 1 && refused.stderr.contains(why), "{refused:?}");
    }
}
