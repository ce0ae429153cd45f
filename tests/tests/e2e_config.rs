//! The network's configuration changes while traffic runs: what can be applied is, what cannot is explained.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::eventually::{SOON, throughout};
use weft_tests::traffic::{datagrams, idle, report, stream, tcp_server, udp_server, who_answers};
use weft_tests::{Container, Daemon, Host, Topology, eventually};

const CONFIG: &str = "/coreos.com/network/config";

fn subnet(host: &Host) -> String {
    host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned()
}

/// A server on the second host, a client on the first, and a TCP connection between them.
struct Traffic {
    server: Container,
    client: Container,
    to: String,
    stream: Daemon,
}

impl Traffic {
    fn between(t: &Topology) -> Self {
        let server = tcp_server(t.host(2), &["--id", "server"], 8080, "h2").unwrap();
        let client = idle(t.host(1), &["--id", "client"]).unwrap();
        let to = format!("{}:8080", server.address().unwrap());
        let stream = stream(&client, "stream", &to).unwrap();
        Self { server, client, to, stream }
    }

    fn flows(&self) {
        eventually("new connections are answered", SOON, || who_answers(self.client.place(), &self.to)).unwrap();
    }

    /// The connection has lived through it all.
    fn end(self) {
        self.flows();
        let said = report(&self.stream).unwrap();
        assert_eq!(said["error"], Value::Null, "{said}");
        assert!(said["echoed"].as_u64() > Some(0), "{said}");
    }
}

fn link(host: &Host, device: &str) -> anyhow::Result<Value> {
    Ok(host.exec(["ip", "-json", "-details", "link", "show", device])?.success()?.json()?[0].clone())
}

fn mtu_is(host: &Host, container: &Container, mtu: u64) {
    eventually(&format!("MTU {mtu} on {}", host.name()), SOON, || {
        let device = link(host, "weft.1")?["mtu"].clone();
        let inside = container.exec(["ip", "-json", "link", "show", "eth0"])?.json()?[0]["mtu"].clone();
        ensure!(device == mtu && inside == mtu, "device {device}, container {inside}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_mtu_follows_on_devices_and_in_containers_under_way() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let traffic = Traffic::between(&t);
    for (set, is) in [("1400", 1350), ("0", 1450)] {
        h1.netctl(["network", "set", "--mtu", set]).unwrap().success().unwrap();
        mtu_is(h1, &traffic.client, is);
        mtu_is(h2, &traffic.server, is);
        traffic.flows();
    }
    let refused = h1.netctl(["network", "set", "--mtu", "100"]).unwrap();
    assert!(refused.code() != 0 && refused.stderr.contains("is the least"), "{refused:?}");
    traffic.end();
}

#[test]
fn a_wider_network_disturbs_nobody_and_has_room_for_more() {
    let t = Topology::new(3).unwrap();
    t.etcd().start().unwrap();
    let full = json!({"Network": "10.244.0.0/22", "SubnetLen": 24, "SubnetMax": "10.244.2.0", "Backend": {"Type": "vxlan"}, "Comment": "ours"});
    t.etcd().put(CONFIG, &full.to_string()).unwrap();
    let (h1, h2, h3) = (t.host(1), t.host(2), t.host(3));
    for host in [h1, h2] {
        host.agent.start().unwrap();
        host.agent.wait_ready().unwrap();
    }
    for host in [h1, h2] {
        host.agent.wait_peers(1).unwrap();
    }
    let before = [subnet(h1), subnet(h2)];
    h3.agent.start().unwrap();
    h3.agent.wait_status("the network is full", |s| s["reasons"].to_string().contains("has no free /24")).unwrap();
    let traffic = Traffic::between(&t);
    let udp = udp_server(h2, &[], 5300, "h2").unwrap();
    let counted = datagrams(&traffic.client, "counted", &format!("{}:5300", udp.address().unwrap())).unwrap();
    h1.netctl(["network", "set", "--cidr", "10.244.0.0/16", "--subnet-max", "10.244.255.0"]).unwrap().success().unwrap();
    h3.agent.wait_ready().unwrap();
    for host in t.hosts() {
        host.agent.wait_peers(2).unwrap();
    }
    assert_eq!([subnet(h1), subnet(h2)], before);
    let stored: Value = serde_json::from_str(&t.etcd().get(CONFIG).unwrap().unwrap()).unwrap();
    assert_eq!((&stored["Comment"], &stored["Network"]), (&"ours".into(), &"10.244.0.0/16".into()), "{stored}");
    let third = idle(h3, &[]).unwrap();
    eventually("the new host reaches the others", SOON, || who_answers(third.place(), &traffic.to)).unwrap();
    let said = report(&counted).unwrap();
    assert_eq!(said["sent"], said["received"], "no packet was lost: {said}");
    traffic.end();
}

#[test]
fn vni_and_port_change_with_a_short_interruption() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let before = [subnet(h1), subnet(h2)];
    let traffic = Traffic::between(&t);
    let said = h1.netctl(["network", "set", "--vni", "7", "--port", "4790"]).unwrap().success().unwrap();
    assert!(said.stdout.contains("lost for a moment"), "{}", said.stdout);
    for host in [h1, h2] {
        eventually(&format!("{} has the other device", host.name()), SOON, || {
            let data = link(host, "weft.7")?["linkinfo"]["info_data"].clone();
            ensure!(data["id"] == 7 && data["port"] == 4790, "{data}");
            ensure!(link(host, "weft.1").is_err(), "the old one is there as well");
            Ok(())
        })
        .unwrap();
        host.agent.wait_peers(1).unwrap();
    }
    traffic.flows();
    for host in [h1, h2] {
        let fast = |s: &Value| s["datapath"]["fast"] == true && s["peers"][0]["via"] == "fast";
        host.agent.wait_status("the fast path is back", fast).unwrap();
    }
    assert_eq!([subnet(h1), subnet(h2)], before);
    traffic.end();
}

#[test]
fn other_subnets_come_when_the_containers_have_gone() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let before = [subnet(h1), subnet(h2)];
    let traffic = Traffic::between(&t);
    // Asked for, it is refused and says whom it leaves behind.
    let refused = h1.netctl(["network", "set", "--subnet-len", "26"]).unwrap();
    assert!(refused.code() != 0 && refused.stderr.contains(&format!("h1 ({})", before[0])), "{refused:?}");
    // Done by hand, it is explained; and all goes on.
    t.etcd().put(CONFIG, r#"{"Network":"10.244.0.0/16","SubnetLen":26,"Backend":{"Type":"vxlan"}}"#).unwrap();
    for (host, id) in [(h1, "client"), (h2, "server")] {
        let said = format!("is none that 10.244.0.0/16 in pieces of /26 gives any more; detach container {id}");
        host.agent.wait_status("it says what to do", |s| s["reasons"].to_string().contains(&said)).unwrap();
    }
    throughout("packets flow", Duration::from_secs(2), || who_answers(traffic.client.place(), &traffic.to).map(drop)).unwrap();
    assert_eq!([subnet(h1), subnet(h2)], before);
    let said = report(&traffic.stream).unwrap();
    assert_eq!(said["error"], Value::Null, "{said}");
    // As told.
    traffic.client.stop().unwrap();
    h1.agent.wait_status("it has moved", |s| s["subnet"].as_str().is_some_and(|s| s.ends_with("/26"))).unwrap();
    h2.agent.wait_status("h2 knows", |s| s["peers"][0]["subnet"].as_str().is_some_and(|s| s.ends_with("/26"))).unwrap();
    assert_eq!(subnet(h2), before[1]);
    let client = idle(h1, &[]).unwrap();
    eventually("packets flow between subnets of both sizes", SOON, || who_answers(client.place(), &traffic.to)).unwrap();
}
