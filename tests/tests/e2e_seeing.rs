//! What a running host shows of itself: dropped packets by reason, and what its agent would change.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::sync::LazyLock;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::Shared;
use weft_tests::traffic::idle;
use weft_tests::{Container, Host, Topology, eventually};

static CLUSTER: LazyLock<Topology> = LazyLock::new(|| Topology::cluster(2).unwrap());

/// A verdict's row in `netctl drops`.
fn verdict(host: &Host, name: &str, options: &[&str]) -> anyhow::Result<Value> {
    let drops = host.netctl([&["drops", "-o", "json"], options].concat())?.json()?;
    let found = drops["verdicts"].as_array().and_then(|all| all.iter().find(|v| v["verdict"] == name).cloned());
    found.ok_or_else(|| anyhow::anyhow!("no {name} in {drops}"))
}

/// Sends pings under an address that is not the container's.
fn spoof(container: &Container, to: &str) {
    container.exec(["ip", "address", "replace", "10.99.99.99/32", "dev", "eth0"]).unwrap().success().unwrap();
    let lost = container.exec(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "-I", "10.99.99.99", to]).unwrap();
    assert!(lost.stdout.contains(" 0 received"), "{lost:?}");
}

#[test]
fn a_spoofed_packet_is_counted_under_its_reason() {
    let t = Shared::of(&CLUSTER);
    let (h1, h2) = (t.host(1), t.host(2));
    let (a, b) = (idle(h1, &[]).unwrap(), idle(h2, &[]).unwrap());
    let packets = || verdict(h1, "container_spoofed_source", &[]).unwrap()["packets"].as_u64().unwrap();
    let before = packets();
    spoof(&a, &b.address().unwrap().to_string());
    let row = verdict(h1, "container_spoofed_source", &[]).unwrap();
    assert!(packets() >= before + 3, "{row}, {before} before");
    assert_eq!((&row["hook"], &row["direction"], &row["action"]), (&"container".into(), &"out".into(), &"drop".into()));
    assert!(row["bytes"].as_u64().unwrap() > 0, "{row}");
}

#[test]
fn what_is_no_drop_is_shown_on_request() {
    let t = Shared::of(&CLUSTER);
    let h1 = t.host(1);
    let (a, b) = (idle(h1, &[]).unwrap(), idle(t.host(2), &[]).unwrap());
    let to = b.address().unwrap().to_string();
    eventually("a ping takes the fast path", SOON, || {
        a.exec(["ping", "-n", "-c", "1", "-W", "2", &to])?.success()?;
        let row = verdict(h1, "encapsulated", &["--all"])?;
        ensure!(row["action"] == "fast" && row["packets"].as_u64() > Some(0), "{row}");
        Ok(())
    })
    .unwrap();
    let plain = h1.netctl(["drops", "-o", "json"]).unwrap().json().unwrap();
    assert!(plain["verdicts"].as_array().unwrap().iter().all(|v| v["action"] == "drop"), "{plain}");
}

#[test]
fn drops_are_told_as_they_come_until_ctrl_c() {
    let t = Shared::of(&CLUSTER);
    let h1 = t.host(1);
    let (a, b) = (idle(h1, &[]).unwrap(), idle(t.host(2), &[]).unwrap());
    let follow = h1.spawn("follow", h1.agent.netctl_line(["drops", "--follow", "-o", "json"]).unwrap()).unwrap();
    let to = b.address().unwrap().to_string();
    let told = eventually("the drop is told", SOON, || {
        spoof(&a, &to);
        let said = follow.stdout();
        let line = said.lines().find(|line| line.contains("container_spoofed_source")).map(str::to_owned);
        line.ok_or_else(|| format!("{said} {}", follow.stderr()))
    })
    .unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(told["packets"].as_u64().unwrap() > 0 && told["time"].as_str().unwrap().ends_with('Z'), "{told}");
    follow.signal(Signal::SIGINT).unwrap();
    assert_eq!(follow.wait(SOON).unwrap().code(), Some(0), "{}", follow.stderr());
}

#[test]
fn a_host_that_is_as_it_should_be_plans_nothing() {
    let t = Topology::cluster(2).unwrap();
    let containers = [idle(t.host(1), &["--service", "web:80"]).unwrap(), idle(t.host(2), &[]).unwrap()];
    t.host(1).netctl(["service", "create", "web", "--port", "80"]).unwrap().success().unwrap();
    for host in t.hosts() {
        eventually(&format!("{} has nothing to do", host.name()), SOON, || {
            let plan = host.netctl(["plan", "-o", "json"])?.json()?;
            ensure!(plan["actions"] == serde_json::json!([]) && plan["problems"] == serde_json::json!([]), "{plan}");
            Ok(())
        })
        .unwrap();
        let table = host.netctl(["plan"]).unwrap().success().unwrap();
        assert!(table.stdout.contains("nothing to do"), "{table:?}");
    }
    drop(containers);
}

#[test]
fn an_agent_without_a_subnet_has_no_plan_yet_and_says_why() {
    let t = Topology::new(1).unwrap();
    t.etcd().start().unwrap();
    let h1 = t.host(1);
    h1.agent.start().unwrap();
    h1.agent.wait_answering().unwrap();
    let refused = eventually("it waits for the network", SOON, || {
        let output = h1.netctl(["plan"])?;
        ensure!(output.stderr.contains("no subnet"), "{output:?}");
        Ok(output)
    })
    .unwrap();
    assert_eq!(refused.code(), 1, "{refused:?}");
}
