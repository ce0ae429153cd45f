//! A Weft host on which flanneld ran before, or whose tools expect it: its subnet, what it left, and `subnet.env`.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::bridge::Bridged;
use weft_tests::eventually::SOON;
use weft_tests::flannel::{FlannelShaped, PREFIX};
use weft_tests::topology::NETWORK;
use weft_tests::traffic::{idle, probe};
use weft_tests::{Host, Place, Topology, eventually};

/// Hosts and a network as flannel's operators make one. Nothing runs but etcd.
fn of_flannels(hosts: usize) -> Result<Topology> {
    let t = Topology::new(hosts)?;
    t.etcd().start()?;
    t.etcd().put(&format!("{PREFIX}/config"), &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#))?;
    Ok(t)
}

fn run(host: &Host, line: &str) -> String {
    host.exec(line.split(' ')).unwrap().success().unwrap().stdout
}

fn wait_ping(from: &Place, to: Ipv4Addr) {
    let to = to.to_string();
    eventually(&format!("ping of {to}"), SOON, || from.exec(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", &to])?.success())
        .unwrap();
}

fn both_ways(a: (&Place, Ipv4Addr), b: (&Place, Ipv4Addr)) {
    wait_ping(a.0, b.1);
    wait_ping(b.0, a.1);
}

#[test]
fn a_former_flannelds_subnet_and_mac_are_taken_over_and_what_it_left_is_named() {
    let t = of_flannels(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let other = FlannelShaped::start(h2, t.etcd()).unwrap();
    let theirs = Bridged::new(h2, other.env(), 2).unwrap();
    let former = FlannelShaped::start(h1, t.etcd()).unwrap();
    let (subnet, mac, key) = (former.subnet(), former.vtep_mac().to_owned(), former.key());
    // A container of its time, which lives on.
    let old = Bridged::new(h1, former.env(), 200).unwrap();
    both_ways((old.place(), old.address()), (theirs.place(), theirs.address()));
    former.stop();

    h1.agent.start().unwrap();
    let status = h1.agent.wait_ready().unwrap();
    assert_eq!(status["subnet"], subnet.as_str(), "{status}");
    eventually("the key bears its name", SOON, || {
        let value: Value = serde_json::from_str(&t.etcd().get(&key)?.context("no key")?)?;
        ensure!(value["weft"]["node"] == "h1" && value["BackendData"]["VtepMAC"] == mac.as_str(), "{value}");
        Ok(())
    })
    .unwrap();
    // One VNI has one device, and flannel's is still there. It is not ours to take away.
    let named = |s: &Value| {
        let reasons = s["reasons"].as_array().unwrap();
        reasons.len() == 1 && reasons[0].as_str().is_some_and(|r| r.contains("ip link delete flannel.1"))
    };
    h1.agent.wait_status("it says what to do, and nothing else", named).unwrap();
    both_ways((old.place(), old.address()), (theirs.place(), theirs.address()));
    run(h1, "ip link delete flannel.1");
    h1.agent.wait_status("it is content", |s| s["reasons"].as_array().is_some_and(Vec::is_empty)).unwrap();
    let link = h1.exec(["ip", "-json", "link", "show", "weft.1"]).unwrap().json().unwrap();
    assert_eq!(link[0]["address"], mac.as_str());
    let new = idle(h1, &[]).unwrap();
    for (place, address) in [(new.place(), new.address().unwrap()), (old.place(), old.address())] {
        both_ways((place, address), (theirs.place(), theirs.address()));
    }
    assert_eq!((other.peers(), other.log()), (vec![subnet], Vec::new()));
}

fn line(file: &Path, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let found = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    Ok(found.with_context(|| format!("no {name} in {text}"))?.to_owned())
}

fn wait_line(file: &Path, name: &str, wanted: &str) {
    eventually(&format!("{name}={wanted}"), SOON, || {
        let now = line(file, name)?;
        ensure!(now == wanted, "{now}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn subnet_env_follows_the_uplink_comes_back_and_goes_at_cleanup() {
    let t = of_flannels(1).unwrap();
    let host = t.host(1);
    let file = host.dir().join("as/flannel/has/it/subnet.env");
    host.agent.set_flag("subnet-file", &file.to_string_lossy());
    host.agent.set_flag("masquerade", "off");
    host.agent.start().unwrap();
    let status = host.agent.wait_ready().unwrap();
    let first = status["subnet"].as_str().unwrap().replace(".0/24", ".1/24");
    wait_line(&file, "FLANNEL_SUBNET", &first);
    wait_line(&file, "FLANNEL_NETWORK", NETWORK);
    wait_line(&file, "FLANNEL_IPMASQ", "false");
    wait_line(&file, "FLANNEL_MTU", "1450");
    run(host, "ip link set up0 mtu 1400");
    wait_line(&file, "FLANNEL_MTU", "1350");
    std::fs::remove_file(&file).unwrap();
    wait_line(&file, "FLANNEL_SUBNET", &first);
    // What cannot be written is told, with what to do.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let told = |s: &Value| s["reasons"].to_string().contains("name another file with --subnet-file, or off");
    host.agent.wait_status("it says that it cannot be written", told).unwrap();
    std::fs::remove_dir(&file).unwrap();
    host.agent.wait_status("it is content", |s| !told(s)).unwrap();
    host.agent.stop().unwrap();
    assert!(file.exists(), "stopping the agent is not a network event");
    let mut words = host.agent.command_line().unwrap();
    words.push("cleanup".into());
    host.exec(words).unwrap().success().unwrap();
    assert!(!file.exists());
}

#[test]
fn a_bridge_made_from_subnet_env_is_part_of_the_network() {
    let t = of_flannels(3).unwrap();
    let (h1, h2, h3) = (t.host(1), t.host(2), t.host(3));
    h2.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
    let flannel = FlannelShaped::start(h3, t.etcd()).unwrap();
    let theirs = Bridged::new(h3, flannel.env(), 2).unwrap();
    let mut places = vec![("h3", theirs.place().clone(), theirs.address())];
    let mut kept = Vec::new();
    for host in [h1, h2] {
        host.agent.start().unwrap();
        host.agent.wait_ready().unwrap();
        let file = host.agent.run_dir().join("subnet.env");
        eventually("subnet.env", SOON, || line(&file, "FLANNEL_SUBNET")).unwrap();
        // Far from what Weft itself gives out.
        let bridged = Bridged::new(host, &file, 200).unwrap();
        let own = idle(host, &[]).unwrap();
        places.push((host.name(), bridged.place().clone(), bridged.address()));
        places.push((host.name(), own.place().clone(), own.address().unwrap()));
        kept.push((bridged, own));
    }
    // On one host the two kinds do not meet: for the one the whole subnet is on its bridge.
    for (here, from, _) in &places {
        for (_, _, to) in places.iter().filter(|(there, ..)| there != here) {
            wait_ping(from, *to);
        }
    }
    for host in [h1, h2] {
        let status = host.agent.status().unwrap();
        assert!(!status["reasons"].to_string().contains("not ours"), "{status}");
    }
}
