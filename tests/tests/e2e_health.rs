//! Health checks: what fails them gets nothing new on any host, health alone empties no pool, and agents may be killed meanwhile.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::ensure;
use serde_json::Value;
use weft_tests::container::endpoints;
use weft_tests::dns::{dig, server_of};
use weft_tests::eventually::SOON;
use weft_tests::traffic::probe;
use weft_tests::{Container, Host, Topology, eventually};

/// A web server on each of three hosts, each with a check and a switch.
struct World {
    servers: Vec<Container>,
    t: Topology,
}

impl World {
    fn new(options: &[&str]) -> Self {
        let t = Topology::cluster(3).unwrap();
        let mut w = Self { servers: Vec::new(), t };
        for n in 1..=3 {
            let (host, id, sick) = (w.t.host(n), format!("web-{n}"), w.switch(n));
            let options = [&["--service", "web:8080", "--id", &id], options].concat();
            let (probe, sick) = (probe().unwrap(), sick.to_string_lossy().into_owned());
            let command = [&probe, "serve-http", "0.0.0.0:8080", "--say", host.name(), "--sick", &sick];
            w.servers.push(host.container(options, command).unwrap());
        }
        w
    }

    fn switch(&self, n: usize) -> PathBuf {
        self.t.dir().join(format!("sick-{n}"))
    }

    fn sicken(&self, n: usize) {
        fs::write(self.switch(n), "").unwrap();
    }

    fn heal(&self, n: usize) {
        fs::remove_file(self.switch(n)).unwrap();
    }

    /// Waits until every host's virtual IP and name lead to these servers only.
    fn served_by(&self, wanted: &[usize]) {
        let mut addresses: Vec<String> = wanted.iter().map(|n| self.servers[n - 1].address().unwrap().to_string()).collect();
        addresses.sort();
        for host in self.t.hosts() {
            eventually(&format!("{wanted:?} serve on {}", host.name()), SOON, || {
                let service = host.netctl(["service", "show", "web", "-o", "json"])?.json()?;
                let backends = service["backends"].as_array().cloned().unwrap_or_default();
                let used = backends.iter().filter(|b| b["used"] == true).filter_map(|b| b["address"].as_str());
                let mut used: Vec<String> = used.map(str::to_owned).collect();
                used.sort();
                ensure!(used == addresses, "{service}");
                let server = server_of(&host.agent.status()?)?;
                let mut told = dig(host.place(), &server, &["tasks.web.skydns.local"])?.data("A");
                told.sort();
                ensure!(told == addresses, "{told:?}, not {addresses:?}");
                Ok(())
            })
            .unwrap();
        }
    }

    fn becomes(&self, n: usize, wanted: &str) {
        eventually(&format!("web-{n} is {wanted}"), SOON, || {
            let all = endpoints(self.t.host(1))?;
            ensure!(all.iter().any(|e| e["id"] == format!("web-{n}") && e["state"] == wanted), "{all:?}");
            Ok(())
        })
        .unwrap();
    }

    fn health(&self, n: usize) -> Value {
        let health = self.t.host(n).netctl(["endpoint", "health", &format!("web-{n}"), "-o", "json"]).unwrap();
        health.json().unwrap()["checks"][0].clone()
    }

    /// The servers that CoreDNS beside us would tell of.
    fn in_skydns(&self) -> Vec<String> {
        let keys = self.t.etcd().list("/skydns/local/skydns/web/").unwrap().into_iter();
        keys.map(|(key, _)| key.trim_start_matches("/skydns/local/skydns/web/").to_owned()).collect()
    }
}

fn restart(host: &Host, meanwhile: impl FnOnce()) {
    host.agent.kill9().unwrap();
    meanwhile();
    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
}

#[test]
fn what_fails_its_check_is_left_out_everywhere_and_comes_back_and_health_empties_no_pool() {
    let w = World::new(&["--check", "http:/,interval=200ms,timeout=10s,rise=2,fall=2"]);
    let (h1, h3) = (w.t.host(1), w.t.host(3));
    h1.netctl(["service", "create", "web", "--port", "80:8080"]).unwrap().success().unwrap();
    w.served_by(&[1, 2, 3]);
    assert_eq!(w.in_skydns(), ["web-1/4", "web-2/4", "web-3/4"]);

    w.sicken(3);
    w.served_by(&[1, 2]);
    assert_eq!(w.in_skydns(), ["web-1/4", "web-2/4"]);
    let down = w.t.etcd().list("/weft/v1/down/").unwrap();
    assert!(down.len() == 1 && down[0].0.ends_with("/web/web-3/4") && down[0].1.contains(r#""unhealthy":true"#), "{down:?}");
    let seen = w.health(3);
    assert!(seen["state"] == "down" && seen["last"]["said"].to_string().contains("503"), "{seen}");
    let elsewhere = h1.netctl(["endpoint", "health", "web-3"]).unwrap();
    assert!(elsewhere.code() == 1 && elsewhere.stderr.contains("is checked by h3"), "{elsewhere:?}");

    // It gets well while nobody looks, and is found so; one that was well all the time goes on as it was.
    restart(h3, || w.heal(3));
    w.served_by(&[1, 2, 3]);
    restart(h1, || {});
    eventually("it is asked again", SOON, || {
        let seen = w.health(1);
        ensure!(seen["last"]["well"] == true, "{seen}");
        Ok(())
    })
    .unwrap();
    let seen = w.health(1);
    assert_eq!((&seen["state"], &seen["falls"]), (&"up".into(), &0.into()), "{seen}");
    assert!(w.t.etcd().list("/weft/v1/down/").unwrap().is_empty());

    // All fail: rather that than nobody.
    (1..=3).for_each(|n| w.sicken(n));
    (1..=3).for_each(|n| w.becomes(n, "down"));
    assert_eq!(w.in_skydns(), Vec::<String>::new());
    w.served_by(&[1, 2, 3]);
    let service = h1.netctl(["service", "show", "web", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(service["panicking"], true, "{service}");
    w.heal(2);
    w.served_by(&[2]);
    (1..=3).filter(|n| *n != 2).for_each(|n| w.heal(n));
    w.served_by(&[1, 2, 3]);

    // Whoever goes up and down must be well for longer; each fall within a minute doubles that.
    let damped = (0..8).any(|_| {
        w.sicken(2);
        w.becomes(2, "down");
        let needed = w.health(2)["needed"].as_u64().unwrap();
        w.heal(2);
        w.becomes(2, "up");
        needed > 2
    });
    assert!(damped, "{}", w.health(2));
    let metrics = h1.exec(["curl", "-sS", "http://127.0.0.1:9474/metrics"]).unwrap().success().unwrap().stdout;
    assert!(metrics.contains("weft_health_checks_total{outcome=\"well\"}"), "{metrics}");
}

#[test]
fn a_service_checks_its_endpoints_while_it_says_so() {
    let w = World::new(&[]);
    let h2 = w.t.host(2);
    let check = ["--check", "http:/", "--check-interval", "200ms", "--check-timeout", "10s"];
    let create = [&["service", "create", "web", "--port", "80:8080"], check.as_slice()].concat();
    h2.netctl(create).unwrap().success().unwrap();
    w.served_by(&[1, 2, 3]);
    w.sicken(1);
    w.served_by(&[2, 3]);
    let seen = w.health(1);
    assert_eq!((&seen["service"], &seen["state"]), (&"default/web".into(), &"down".into()), "{seen}");
    // Without the check nothing is known against it.
    h2.netctl(["service", "set", "web", "--check", "none"]).unwrap().success().unwrap();
    w.served_by(&[1, 2, 3]);
    let refused = h2.netctl(["service", "set", "web", "--check", "command:/bin/true"]).unwrap();
    assert!(refused.code() == 1 && refused.stderr.contains("what runs on a host is said on that host"), "{refused:?}");
}

#[test]
fn a_container_is_starting_until_it_is_well_and_a_command_looks_from_inside() {
    let t = Topology::cluster(1).unwrap();
    let h1 = t.host(1);
    let (ready, look) = (t.dir().join("ready"), t.dir().join("look"));
    // The container's address is on a device of that name in its own network namespace only.
    let script = format!("#!/bin/sh\ntest -e {} && ip -o -4 address show dev eth0 | grep \"$WEFT_ADDRESS/\"\n", ready.display());
    fs::write(&look, script).unwrap();
    fs::set_permissions(&look, fs::Permissions::from_mode(0o755)).unwrap();
    let check = format!("command:{}", look.display());
    let often = ["--check-interval", "200ms", "--check-timeout", "30s", "--check-grace", "1h"];
    let options = [&["--service", "inner:9000", "--id", "inner-1", "--check", &check], often.as_slice()].concat();
    let _inner = h1.container(options, ["sleep", "100000"]).unwrap();
    let state = |wanted: &str| {
        eventually(&format!("it is {wanted}"), SOON, || {
            let all = endpoints(h1)?;
            ensure!(all.iter().any(|e| e["id"] == "inner-1" && e["state"] == wanted), "{all:?}");
            Ok(())
        })
        .unwrap();
    };
    state("starting");
    assert!(t.etcd().list("/skydns/local/skydns/inner/").unwrap().is_empty());
    fs::write(&ready, "").unwrap();
    state("up");
    assert_eq!(t.etcd().list("/skydns/local/skydns/inner/").unwrap().len(), 1);
}
