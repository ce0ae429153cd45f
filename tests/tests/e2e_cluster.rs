//! Three hosts with etcd: subnets as flannel has them, and packets between containers.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::{NETWORK, Shared};
use weft_tests::traffic::{idle, pings, tcp_server, who_answers};
use weft_tests::{Container, Place, Topology, eventually};

static CLUSTER: LazyLock<Topology> = LazyLock::new(|| Topology::cluster(3).unwrap());

/// `10.244.3.0/24` as flannel writes it in a key.
fn key_of(subnet: &Value) -> String {
    subnet.as_str().unwrap().replace('/', "-")
}

fn ping(from: &Place, to: Ipv4Addr, options: &[&str]) -> String {
    let to = to.to_string();
    let words = [&["ping", "-n", "-W", "2"], options, &[to.as_str()]].concat();
    from.exec(words).unwrap().stdout
}

/// A container on each of two hosts.
fn pair(a: usize, b: usize) -> (Container, Container) {
    (idle(CLUSTER.host(a), &[]).unwrap(), idle(CLUSTER.host(b), &[]).unwrap())
}

#[test]
fn three_hosts_claim_three_subnets_of_the_network() {
    let t = Shared::of(&CLUSTER);
    let mut subnets = BTreeSet::new();
    for host in t.hosts() {
        let status = host.agent.status().unwrap();
        let subnet = status["subnet"].as_str().unwrap().to_owned();
        assert!(subnet.starts_with("10.244.") && subnet.ends_with(".0/24"), "{subnet} is not of {NETWORK}");
        subnets.insert(subnet);
    }
    assert_eq!(subnets.len(), 3, "{subnets:?}");
}

#[test]
fn the_network_configuration_is_flannels() {
    let t = Shared::of(&CLUSTER);
    let config: Value = serde_json::from_str(&t.etcd().get("/coreos.com/network/config").unwrap().unwrap()).unwrap();
    assert_eq!(config["Network"], NETWORK);
    assert_eq!(config["Backend"]["Type"], "vxlan");
}

#[test]
fn a_subnet_is_in_etcd_as_flannel_would_write_it() {
    let t = Shared::of(&CLUSTER);
    let keys = t.etcd().list("/coreos.com/network/subnets").unwrap();
    assert_eq!(keys.len(), 3, "{keys:?}");
    for host in t.hosts() {
        let status = host.agent.status().unwrap();
        let key = format!("/coreos.com/network/subnets/{}", key_of(&status["subnet"]));
        let value: Value = serde_json::from_str(&t.etcd().get(&key).unwrap().unwrap()).unwrap();
        assert_eq!(value["PublicIP"], host.address().to_string());
        assert_eq!(value["BackendType"], "vxlan");
        assert_eq!(value["BackendData"]["VNI"], 1);
        // The MAC that peers are told is the one that the device has.
        let link = host.exec(["ip", "-json", "link", "show", "weft.1"]).unwrap().json().unwrap();
        assert_eq!(value["BackendData"]["VtepMAC"], link[0]["address"]);
        assert_eq!(value["weft"]["node"], host.name());
    }
}

#[test]
fn a_subnet_hangs_on_a_lease_of_a_day() {
    let t = Shared::of(&CLUSTER);
    let output = t.etcd().ctl(["get", "/coreos.com/network/subnets/", "--prefix", "-w", "json"]).unwrap().json().unwrap();
    for entry in output["kvs"].as_array().unwrap() {
        let lease = format!("{:x}", entry["lease"].as_i64().unwrap());
        let left = t.etcd().ctl(["lease", "timetolive", &lease, "-w", "json"]).unwrap().json().unwrap();
        assert_eq!(left["granted-ttl"], 86400, "{left}");
    }
}

#[test]
fn the_overlay_device_is_flannel_shaped() {
    let t = Shared::of(&CLUSTER);
    let host = t.host(1);
    let link = host.exec(["ip", "-json", "-details", "link", "show", "weft.1"]).unwrap().json().unwrap();
    let info = &link[0]["linkinfo"]["info_data"];
    assert_eq!(link[0]["mtu"], 1450, "{link}");
    assert_eq!((&info["id"], &info["port"]), (&1.into(), &8472.into()), "{link}");
    assert_eq!(info["learning"], false, "{link}");
    for peer in [t.host(2), t.host(3)] {
        let subnet = peer.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
        let routes = host.exec(["ip", "-json", "route", "show", &subnet]).unwrap().json().unwrap();
        assert_eq!(routes[0]["dev"], "weft.1", "{routes}");
        let fdb = host.exec(["bridge", "-json", "fdb", "show", "dev", "weft.1"]).unwrap().json().unwrap();
        let peer_address = peer.address().to_string();
        assert!(fdb.as_array().unwrap().iter().any(|row| row["dst"] == peer_address.as_str()), "{fdb}");
    }
}

#[test]
fn containers_on_two_hosts_ping_each_other_without_loss() {
    let _t = Shared::of(&CLUSTER);
    let (a, b) = pair(1, 2);
    pings(a.place(), b.address().unwrap().into(), 50, &[]).unwrap();
    pings(b.place(), a.address().unwrap().into(), 5, &[]).unwrap();
}

#[test]
fn packets_between_hosts_take_the_fast_path() {
    let t = Shared::of(&CLUSTER);
    let status = t.host(1).agent.status().unwrap();
    assert_eq!(status["datapath"]["fast"], true, "{status}");
    assert!(status["peers"].as_array().unwrap().iter().all(|p| p["via"] == "fast"), "{status}");
    // What takes it does not pass the device: its counters stand still.
    let counters = || {
        let link = t.host(1).exec(["ip", "-json", "-stats", "link", "show", "weft.1"]).unwrap().json().unwrap();
        link[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    };
    let (a, b) = pair(1, 3);
    let to = b.address().unwrap();
    // The first packets may be waiting for the rows of two new containers.
    eventually("the first answer", SOON, || {
        let said = ping(a.place(), to, &["-c", "1"]);
        if said.contains(" 0% packet loss") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    let before = counters();
    pings(a.place(), to.into(), 30, &[]).unwrap();
    let passed = counters() - before;
    assert!(passed < 30, "{passed} packets of 30 went through the device (others' tests may send a few)");
}

#[test]
fn what_is_too_big_for_one_packet_arrives_in_pieces() {
    let _t = Shared::of(&CLUSTER);
    let (a, b) = pair(1, 2);
    pings(a.place(), b.address().unwrap().into(), 5, &["-s", "4000"]).unwrap();
}

#[test]
fn a_packet_that_may_not_be_cut_is_refused_to_its_sender() {
    let _t = Shared::of(&CLUSTER);
    let (a, b) = pair(1, 2);
    let to = b.address().unwrap();
    let fits = ping(a.place(), to, &["-c", "1", "-M", "do", "-s", "1422"]);
    assert!(fits.contains("1 received"), "1422 + 28 is the overlay's 1450: {fits}");
    let output = a.exec(["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1423", &to.to_string()]).unwrap();
    assert!(output.stdout.contains("0 received"), "{output:?}");
    let told = format!("{}{}", output.stdout, output.stderr);
    assert!(told.contains("message too long") || told.contains("Frag needed"), "{told}");
}

#[test]
fn containers_on_one_host_reach_each_other() {
    let _t = Shared::of(&CLUSTER);
    let (a, b) = pair(2, 2);
    pings(a.place(), b.address().unwrap().into(), 10, &[]).unwrap();
}

#[test]
fn tcp_runs_between_containers_of_all_hosts() {
    let t = Shared::of(&CLUSTER);
    let servers: Vec<_> = t.hosts().iter().map(|h| tcp_server(h, &[], 7000, h.name()).unwrap()).collect();
    for from in t.hosts() {
        let client = idle(from, &[]).unwrap();
        for (server, host) in servers.iter().zip(t.hosts()) {
            let to = format!("{}:7000", server.address().unwrap());
            assert_eq!(who_answers(client.place(), &to).unwrap(), host.name(), "from {}", from.name());
        }
    }
}

#[test]
fn a_large_download_across_hosts_is_intact() {
    let t = Shared::of(&CLUSTER);
    let file = t.host(1).dir().join("large");
    let bytes: Vec<u8> = (0u32..8 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let dir = t.host(1).dir().to_string_lossy().into_owned();
    let serve = ["python3", "-m", "http.server", "8000", "--directory", &dir];
    let server = t.host(1).container([], serve).unwrap();
    let client = idle(t.host(2), &[]).unwrap();
    let url = format!("http://{}:8000/large", server.address().unwrap());
    let got = t.host(2).dir().join("got").to_string_lossy().into_owned();
    eventually("the download", SOON, || client.exec(["curl", "-sS", "--fail", "--max-time", "30", "-o", &got, &url])?.success())
        .unwrap();
    assert!(std::fs::read(&got).unwrap() == bytes, "{got} differs from what was sent");
}

#[test]
fn the_source_address_is_the_containers_own() {
    let t = Shared::of(&CLUSTER);
    let server = tcp_server(t.host(1), &[], 7001, "one").unwrap();
    let client = idle(t.host(2), &[]).unwrap();
    let capture = server.spawn("capture", ["tcpdump", "-n", "-l", "-U", "-i", "any", "tcp", "port", "7001"]).unwrap();
    eventually("tcpdump listens", SOON, || match capture.stderr() {
        said if said.contains("listening on") => Ok(()),
        said => Err(said),
    })
    .unwrap();
    who_answers(client.place(), &format!("{}:7001", server.address().unwrap())).unwrap();
    let from = format!("IP {}.", client.address().unwrap());
    eventually("the client's packet", SOON, || match capture.stdout() {
        seen if seen.contains(&from) => Ok(()),
        seen => Err(seen),
    })
    .unwrap();
}

#[test]
fn a_host_is_listed_with_its_subnet_on_every_other_host() {
    let t = Shared::of(&CLUSTER);
    for host in t.hosts() {
        let peers = host.agent.status().unwrap()["peers"].clone();
        for other in t.hosts().iter().filter(|o| o.name() != host.name()) {
            let subnet = other.agent.status().unwrap()["subnet"].clone();
            let found = peers.as_array().unwrap().iter().find(|p| p["node"] == other.name()).unwrap();
            assert_eq!((&found["subnet"], &found["public_ip"]), (&subnet, &other.address().to_string().into()));
        }
    }
}
