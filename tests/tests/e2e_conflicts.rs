//! Two that want the same: an id, a node name. One has it, the other is told, and nobody writes over anybody.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::time::Duration;

use anyhow::ensure;
use weft_tests::eventually::{SOON, throughout};
use weft_tests::topology::NETWORK;
use weft_tests::traffic::idle;
use weft_tests::{Host, Topology, eventually};

const CONFIG: &str = "/coreos.com/network/config";
const SENTENCE: &str = "node name h1 is held by ";

/// The store's revision: it grows with each write, and with nothing else.
fn revision(t: &Topology) -> anyhow::Result<String> {
    let answer = t.etcd().ctl(["get", "nothing", "-w", "json"])?.success()?.json()?;
    Ok(answer["header"]["revision"].to_string())
}

/// Nobody writes any more, after what is still under way.
fn calm(t: &Topology) {
    let period = Duration::from_secs(2);
    eventually("nobody writes", SOON, || {
        let before = revision(t)?;
        throughout("the revision", period, || {
            let now = revision(t)?;
            ensure!(now == before, "{before} became {now}");
            Ok::<_, anyhow::Error>(())
        })
    })
    .unwrap();
}

/// The hosts that registered an endpoint of this service.
fn registered(t: &Topology, service: &str) -> anyhow::Result<Vec<String>> {
    let records = t.etcd().list(&format!("/skydns/local/skydns/{service}/"))?;
    let node = |value: &str| -> anyhow::Result<String> {
        let record: serde_json::Value = serde_json::from_str(value)?;
        Ok(record["weft"]["node"].as_str().unwrap_or("nobody").to_owned())
    };
    records.iter().map(|(_, value)| node(value)).collect()
}

fn wait_registered(t: &Topology, service: &str, hosts: &[&str]) {
    eventually(&format!("{service} is registered by {hosts:?}"), SOON, || {
        let now = registered(t, service)?;
        ensure!(now == hosts, "{now:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_id_that_another_host_has_meanwhile_is_told_and_never_written_over() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let _first = idle(h1, &["--id", "web", "--service", "myapp:80"]).unwrap();
    wait_registered(&t, "myapp", &["h1"]);
    // The first host's agent is away so long that its record ends, and the second host takes the id over.
    h1.agent.kill9().unwrap();
    wait_registered(&t, "myapp", &[]);
    let second = idle(h2, &["--id", "web", "--service", "myapp:80"]).unwrap();
    wait_registered(&t, "myapp", &["h2"]);
    h1.agent.start().unwrap();
    let said = "myapp/web/4 is held by h2; detach web here or there, and choose another --id";
    h1.agent.wait_status("it says who has the id", |s| s["reasons"].to_string().contains(said)).unwrap();
    calm(&t);
    assert_eq!(registered(&t, "myapp").unwrap(), ["h2"]);
    let listed = h1.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(listed[0]["record"], "pending", "{listed}");
    // Other endpoints of that host are not held up.
    let _third = idle(h1, &["--id", "db", "--service", "db:80"]).unwrap();
    wait_registered(&t, "db", &["h1"]);
    // And when the other one goes, the first has its id back.
    second.stop().unwrap();
    wait_registered(&t, "myapp", &["h1"]);
    h1.agent.wait_status("nothing is wrong any more", |s| !s["reasons"].to_string().contains("is held by")).unwrap();
}

#[test]
fn an_id_that_another_host_has_is_refused() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let first = idle(h1, &["--id", "web", "--service", "myapp:80"]).unwrap();
    let netns = h2.bare_namespace("second").unwrap();
    let netns = netns.netns().to_string_lossy().into_owned();
    let attach = ["attach", "--netns", &netns, "--id", "web", "--service", "myapp:80"];
    h2.agent
        .wait_status("it knows the first one", |_| {
            h2.netctl(["endpoint", "list", "-o", "json"]).is_ok_and(|listed| listed.stdout.contains("\"web\""))
        })
        .unwrap();
    let answer = h2.netctl(attach).unwrap();
    assert!(answer.code() != 0 && answer.stderr.contains("is held by h1; choose another --id"), "{answer:?}");
    calm(&t);
    assert_eq!(registered(&t, "myapp").unwrap(), ["h1"]);
    first.stop().unwrap();
    eventually("the id is free", SOON, || h2.netctl(attach)?.success()).unwrap();
    wait_registered(&t, "myapp", &["h2"]);
}

/// The agents of hosts that call themselves h1.
fn namesakes(t: &Topology) {
    t.host(2).agent.set_flag("node-name", "h1");
    t.etcd().start().unwrap();
    t.etcd().put(CONFIG, &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#)).unwrap();
}

fn refused(host: &Host) -> bool {
    host.agent.log().contains(SENTENCE)
}

fn assert_refused(host: &Host) {
    let status = host.agent.wait_end().unwrap();
    assert!(!status.success(), "{status}");
    let log = host.agent.log();
    assert!(log.contains(SENTENCE) && log.contains("; set --node-name"), "{log}");
}

/// There is one entry of that name and one subnet, both with this host's address.
fn assert_holds(t: &Topology, host: &Host) {
    for below in ["/weft/v1/nodes/", "/coreos.com/network/subnets/"] {
        let keys = t.etcd().list(below).unwrap();
        assert_eq!(keys.len(), 1, "{keys:?}");
        assert!(keys[0].1.contains(&format!("\"{}\"", host.address())), "{keys:?}");
    }
}

#[test]
fn of_two_agents_of_one_name_that_start_at_once_one_goes_on() {
    let t = Topology::new(2).unwrap();
    namesakes(&t);
    for host in t.hosts() {
        host.agent.start().unwrap();
    }
    eventually("one of them is refused", SOON, || {
        ensure!(t.hosts().iter().any(refused), "{}", t.logs());
        Ok(())
    })
    .unwrap();
    let (loser, winner) = if refused(t.host(1)) { (t.host(1), t.host(2)) } else { (t.host(2), t.host(1)) };
    assert_refused(loser);
    winner.agent.wait_ready().unwrap();
    calm(&t);
    assert_holds(&t, winner);
    assert!(!refused(winner), "{}", winner.agent.log());
    assert_eq!(winner.agent.status().unwrap()["ready"], true);
}

#[test]
fn an_agent_whose_name_was_taken_while_it_was_cut_off_ends() {
    let t = Topology::new(2).unwrap();
    namesakes(&t);
    let (h1, h2) = (t.host(1), t.host(2));
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    h1.pull_cable().unwrap();
    // It waits until the first one's lease has ended.
    h2.agent.start().unwrap();
    h2.agent.wait_ready().unwrap();
    h1.plug_cable().unwrap();
    assert_refused(h1);
    calm(&t);
    assert_holds(&t, h2);
    assert_eq!(h2.agent.status().unwrap()["ready"], true);
}

#[test]
fn records_outlive_a_restart_with_another_lease_ttl() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let _kept = idle(host, &["--id", "kept", "--service", "kept:80"]).unwrap();
    wait_registered(&t, "kept", &["h1"]);
    // Longer than the shorter of the two lasts; each in both directions.
    for ttl in ["60s", "5s"] {
        host.agent.kill9().unwrap();
        host.agent.set_flag("lease-ttl", ttl);
        host.agent.start().unwrap();
        throughout(&format!("its record with {ttl}"), Duration::from_secs(9), || {
            let now = registered(&t, "kept")?;
            ensure!(now == ["h1"], "{now:?}");
            Ok::<_, anyhow::Error>(())
        })
        .unwrap();
        host.agent.wait_ready().unwrap();
    }
    // And then a dead host is noticed as fast as the last one says.
    host.agent.kill9().unwrap();
    wait_registered(&t, "kept", &[]);
}
