//! What is wrong outside is said, and hurts no more than it must.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;
use weft_tests::eventually::{SOON, throughout};
use weft_tests::node::binary;
use weft_tests::topology::{FABRIC, NETWORK};
use weft_tests::traffic::{idle, probe, tcp_server, who_answers};
use weft_tests::{Host, Topology, eventually};

const CONFIG: &str = "/coreos.com/network/config";

/// Waits until one of the status' reasons has these words.
fn reason(host: &Host, words: &str) -> Value {
    host.agent.wait_status(&format!("a reason with {words:?}"), |s| s["reasons"].to_string().contains(words)).unwrap()
}

fn no_reason(host: &Host, words: &str) {
    host.agent.wait_status(&format!("no reason with {words:?}"), |s| !s["reasons"].to_string().contains(words)).unwrap();
}

#[test]
fn an_agent_waits_for_etcd_and_says_so() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    host.agent.start().unwrap();
    let status = host.agent.wait_answering().unwrap();
    assert_eq!((&status["ready"], &status["store"]["connected"]), (&false.into(), &false.into()), "{status}");
    reason(host, "etcd");
    host.agent.wait_status("why it is not connected", |s| s["store"]["error"].is_string()).unwrap();

    t.etcd().start().unwrap();
    t.etcd().put(CONFIG, &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#)).unwrap();
    host.agent.wait_ready().unwrap();
}

#[test]
fn a_missing_network_is_asked_for_by_its_command() {
    let t = Topology::new(1).unwrap();
    t.etcd().start().unwrap();
    t.host(1).agent.start().unwrap();
    let status = reason(t.host(1), CONFIG);
    assert!(status["reasons"].to_string().contains("netctl network init"), "{status}");
    assert_eq!(status["ready"], false);
    t.host(1).netctl(["network", "init", "--cidr", NETWORK]).unwrap().success().unwrap();
    t.host(1).agent.wait_ready().unwrap();
}

#[test]
fn a_network_that_does_not_parse_is_told_and_waited_for() {
    let t = Topology::new(1).unwrap();
    t.etcd().start().unwrap();
    t.etcd().put(CONFIG, r#"{"Network": "10.244.0.0/16", "#).unwrap();
    t.host(1).agent.start().unwrap();
    let status = reason(t.host(1), CONFIG);
    assert_eq!(status["ready"], false, "{status}");
    t.etcd().put(CONFIG, &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#)).unwrap();
    t.host(1).agent.wait_ready().unwrap();
    no_reason(t.host(1), CONFIG);
}

#[test]
fn a_network_that_no_longer_parses_changes_nothing() {
    let t = Topology::cluster(2).unwrap();
    let server = tcp_server(t.host(2), &[], 7000, "h2").unwrap();
    let client = idle(t.host(1), &[]).unwrap();
    let to = format!("{}:7000", server.address().unwrap());
    let before = t.host(1).agent.status().unwrap()["subnet"].clone();
    t.etcd().put(CONFIG, "rubbish").unwrap();
    reason(t.host(1), CONFIG);
    throughout("packets flow", Duration::from_secs(2), || who_answers(client.place(), &to).map(drop)).unwrap();
    assert_eq!(t.host(1).agent.status().unwrap()["subnet"], before);
}

#[test]
fn a_full_network_is_told_and_the_next_free_subnet_taken() {
    let t = Topology::new(2).unwrap();
    t.etcd().start().unwrap();
    let one = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.9.0","SubnetMax":"10.244.9.0","Backend":{"Type":"vxlan"}}"#;
    t.etcd().put(CONFIG, one).unwrap();
    t.host(1).agent.start().unwrap();
    t.host(1).agent.wait_ready().unwrap();
    t.host(2).agent.start().unwrap();
    let status = reason(t.host(2), "has no free /");
    assert_eq!((&status["ready"], &status["subnet"]), (&false.into(), &Value::Null), "{status}");
    // It does not take what is another's.
    let key = "/coreos.com/network/subnets/10.244.9.0-24";
    let owner =
        |t: &Topology| serde_json::from_str::<Value>(&t.etcd().get(key).unwrap().unwrap()).unwrap()["weft"]["node"].clone();
    assert_eq!(owner(&t), "h1");

    t.host(1).agent.stop().unwrap();
    t.etcd().delete(key).unwrap();
    t.host(2).agent.wait_ready().unwrap();
    assert_eq!(owner(&t), "h2");
}

#[test]
fn junk_among_the_subnets_hurts_nobody() {
    let t = Topology::cluster(2).unwrap();
    let server = tcp_server(t.host(2), &[], 7000, "h2").unwrap();
    let client = idle(t.host(1), &[]).unwrap();
    let to = format!("{}:7000", server.address().unwrap());
    for (key, value) in [("foo", "bar"), ("10.244.77.0-24", "{"), ("10.244.78.0-24", r#"{"PublicIP":"nowhere"}"#)] {
        t.etcd().put(&format!("/coreos.com/network/subnets/{key}"), value).unwrap();
    }
    t.host(1).agent.wait_status("the bad values are shown", |s| s["bad"].as_array().map_or(0, Vec::len) >= 2).unwrap();
    throughout("packets flow", Duration::from_secs(2), || who_answers(client.place(), &to).map(drop)).unwrap();
    let status = t.host(1).agent.status().unwrap();
    assert_eq!((&status["ready"], status["peers"].as_array().unwrap().len()), (&true.into(), 1), "{status}");
}

#[test]
fn a_namespace_that_is_none_is_refused() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let file = host.dir().join("plain");
    std::fs::write(&file, "").unwrap();
    let socket = host.agent.socket();
    for path in [file.as_path(), host.dir(), socket.as_path(), "/nowhere/at/all".as_ref()] {
        let output = host.netctl(["attach", "--netns", &path.to_string_lossy(), "--id", "x"]).unwrap();
        assert_eq!(output.code(), 1, "{output:?}");
        assert!(output.stderr.contains(&*path.to_string_lossy()), "the path is named: {output:?}");
    }
    let output = host.netctl(["attach", "--pid", "4194304", "--id", "x"]).unwrap();
    assert_eq!(output.code(), 1, "{output:?}");
    assert_eq!(host.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap(), serde_json::json!([]));
}

#[test]
fn an_unknown_uplink_is_told_and_used_once_it_is_there() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    t.etcd().start().unwrap();
    t.etcd().put(CONFIG, &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#)).unwrap();
    host.agent.set_flag("iface", "later0");
    host.agent.start().unwrap();
    reason(host, "later0");
    // The same cable under the name that was asked for.
    for words in ["link set up0 down", "link set up0 name later0", "link set later0 up"] {
        host.exec(["ip"].into_iter().chain(words.split(' '))).unwrap().success().unwrap();
    }
    host.exec(["ip", "route", "replace", "default", "via", &FABRIC.to_string()]).unwrap().success().unwrap();
    let status = host.agent.wait_status("the uplink is used", |s| s["uplink"] == "later0" && s["ready"] == true).unwrap();
    assert!(!status["reasons"].to_string().contains("later0"), "{status}");
}

#[test]
fn a_dns_port_in_use_is_told_and_taken_when_it_is_free() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    t.etcd().start().unwrap();
    t.etcd().put(CONFIG, &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#)).unwrap();
    let squatter = host.spawn("squatter", [probe().unwrap().as_str(), "serve-udp", "0.0.0.0:53", "--say", "mine"]).unwrap();
    eventually("the port is taken", SOON, || {
        let listening = host.exec(["ss", "-lun"])?.success()?.stdout;
        anyhow::ensure!(listening.contains("0.0.0.0:53 "), "{listening}");
        Ok(())
    })
    .unwrap();
    host.agent.start().unwrap();
    reason(host, ":53");
    squatter.kill9().unwrap();
    no_reason(host, ":53");
    let container = idle(host, &["--name", "named"]).unwrap();
    let server = weft_tests::dns::server_of(&host.agent.status().unwrap()).unwrap();
    eventually("DNS answers", SOON, || {
        let answer = weft_tests::dns::dig(host.place(), &server, &["named.skydns.local"])?;
        anyhow::ensure!(answer.data("A") == [container.address()?.to_string()], "{answer:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_vxlan_port_in_use_is_told_and_taken_when_it_is_free() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    t.etcd().start().unwrap();
    t.etcd().put(CONFIG, &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#)).unwrap();
    let squatter = host.spawn("squatter", [probe().unwrap().as_str(), "serve-udp", "0.0.0.0:8472", "--say", "mine"]).unwrap();
    eventually("the port is taken", SOON, || {
        let listening = host.exec(["ss", "-lun"])?.success()?.stdout;
        anyhow::ensure!(listening.contains("0.0.0.0:8472 "), "{listening}");
        Ok(())
    })
    .unwrap();
    host.agent.start().unwrap();
    reason(host, "8472");
    // Only the overlay needs the port.
    host.agent.wait_ready().unwrap();
    idle(host, &["--name", "one"]).unwrap();
    squatter.kill9().unwrap();
    no_reason(host, "8472");
}

#[test]
fn without_root_it_says_so() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    // Where nobody may read it.
    let copy = std::env::temp_dir().join(t.name()).join("weftd");
    std::fs::copy(binary("weftd").unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut words: Vec<_> = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(Into::into).to_vec();
    words.push(copy.into_os_string());
    words.extend(host.agent.command_line().unwrap().into_iter().skip(1));
    let output = host.exec(words).unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stderr.contains("root"), "{output:?}");
    assert!(!output.stderr.contains("panicked"), "{output:?}");
}

#[test]
fn without_ebpf_packets_take_the_kernels_path_and_status_says_so() {
    let t = Topology::new(2).unwrap();
    t.host(1).agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
    t.start_cluster().unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let status = h1.agent.status().unwrap();
    assert_eq!(status["datapath"]["fast"], false, "{status}");
    assert!(status["datapath"]["why_not"].is_string(), "{status}");
    assert_eq!(status["peers"][0]["via"], "kernel", "{status}");
    assert_eq!(h2.agent.status().unwrap()["datapath"]["fast"], true);

    let servers = [tcp_server(h1, &[], 7000, "h1").unwrap(), tcp_server(h2, &[], 7000, "h2").unwrap()];
    for (server, who) in servers.iter().zip(["h1", "h2"]) {
        for from in &servers {
            assert_eq!(who_answers(from.place(), &format!("{}:7000", server.address().unwrap())).unwrap(), who);
        }
    }
    let _named = idle(h2, &["--name", "still"]).unwrap();
    eventually("names work", SOON, || h1.netctl(["dns", "query", "still"])?.success()).unwrap();
}

#[test]
fn a_second_agent_of_the_same_name_refuses_to_start() {
    let t = Topology::cluster(1).unwrap();
    // Another host, as it believes: its own namespace and directories, the same name.
    let other = Topology::new(1).unwrap();
    let link = format!("x{}", std::process::id());
    // A cable between the two fabrics, so that it reaches the first one's etcd.
    let far = other.fabric().netns().display().to_string();
    let words = ["ip", "link", "add", &link, "type", "veth", "peer", "name", &link, "netns", &far];
    t.fabric().exec(words).unwrap().success().unwrap();
    other.fabric().exec(["ip", "address", "delete", &format!("{FABRIC}/24"), "dev", "br0"]).unwrap().success().unwrap();
    for fabric in [t.fabric(), other.fabric()] {
        fabric.exec(["ip", "link", "set", &link, "master", "br0", "up"]).unwrap().success().unwrap();
    }
    let host = other.host(1);
    // In this order: with the first address of a network its later ones go too.
    host.exec(["ip", "address", "delete", "10.77.0.1/24", "dev", "up0"]).unwrap().success().unwrap();
    host.exec(["ip", "address", "add", "10.77.0.99/24", "dev", "up0"]).unwrap().success().unwrap();
    host.exec(["ip", "route", "replace", "default", "via", &FABRIC.to_string()]).unwrap().success().unwrap();
    eventually("it reaches etcd", SOON, || host.exec(["ping", "-n", "-c", "1", "-W", "1", &FABRIC.to_string()])?.success())
        .unwrap();

    host.agent.start().unwrap();
    let status = host.agent.wait_end().unwrap();
    assert!(!status.success(), "{status}");
    let log = host.agent.log();
    assert!(log.contains("node name h1 is held by") && log.contains("--node-name"), "{log}");
    assert_eq!(t.host(1).agent.status().unwrap()["ready"], true);
}

#[test]
fn a_deleted_subnet_key_is_claimed_again_unchanged() {
    let t = Topology::cluster(2).unwrap();
    let status = t.host(1).agent.status().unwrap();
    let subnet = status["subnet"].as_str().unwrap().to_owned();
    let key = format!("/coreos.com/network/subnets/{}", subnet.replace('/', "-"));
    let before: Value = serde_json::from_str(&t.etcd().get(&key).unwrap().unwrap()).unwrap();
    t.etcd().delete(&key).unwrap();
    let after = eventually("the key is back", SOON, || {
        let value = t.etcd().get(&key)?;
        value.ok_or_else(|| anyhow::anyhow!("no {key}"))
    })
    .unwrap();
    let after: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(after["BackendData"], before["BackendData"]);
    t.host(1).agent.wait_ready().unwrap();
    t.host(2).agent.wait_peers(1).unwrap();
}
