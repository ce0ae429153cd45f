//! Packets of full size, and larger ones: none is cut on the wire, whoever sends too much is told, and everything arrives as
//! it was sent, by the fast path and by the kernel path, over usual frames and over jumbo frames.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::{FABRIC, NETWORK};
use weft_tests::traffic::{idle, probe, tcp_server, who_answers};
use weft_tests::wire::Fragments;
use weft_tests::{Container, Daemon, Host, Place, Topology, eventually};

const PORT: u16 = 7000;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Fast,
    Kernel,
}

/// Hosts with the uplinks' MTU given, and a container on each of the first two.
struct World {
    way: Way,
    /// Of the overlay.
    mtu: u32,
    a: Container,
    b: Container,
    topology: Topology,
}

impl World {
    fn new(way: Way, uplink: u32, hosts: usize) -> Self {
        let topology = Topology::builder(hosts).mtu(uplink).build().unwrap();
        for host in topology.hosts().iter().filter(|_| way == Way::Kernel) {
            host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
        }
        topology.start_cluster().unwrap();
        Self::of(topology, way, uplink)
    }

    /// Containers have addresses of both families.
    fn dual(way: Way, uplink: u32) -> Self {
        let topology = Topology::builder(2).mtu(uplink).build().unwrap();
        for host in topology.hosts().iter().filter(|_| way == Way::Kernel) {
            host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
        }
        topology.etcd().start().unwrap();
        for host in topology.hosts() {
            host.agent.start().unwrap();
        }
        eventually("the network is initialised", SOON, || {
            topology.host(1).netctl(["network", "init", "--cidr", NETWORK, "--cidr6", "fd00:10:244::/48"])?.success()
        })
        .unwrap();
        for host in topology.hosts() {
            host.agent.wait_ready().unwrap();
            host.agent.wait_peers(1).unwrap();
        }
        Self::of(topology, way, uplink)
    }

    fn of(topology: Topology, way: Way, uplink: u32) -> Self {
        let a = idle(topology.host(1), &["--id", "a"]).unwrap();
        let b = idle(topology.host(2), &["--id", "b"]).unwrap();
        let world = Self { way, mtu: uplink - 50, a, b, topology };
        for (from, to) in [(&world.a, &world.b), (&world.b, &world.a)] {
            reaches(from, to);
            let link = from.exec(["ip", "-json", "link", "show", "eth0"]).unwrap().json().unwrap();
            assert_eq!(link[0]["mtu"], world.mtu, "{link}");
        }
        for host in world.topology.hosts() {
            assert_eq!(host.agent.status().unwrap()["datapath"]["fast"], way == Way::Fast);
        }
        world
    }

    /// From now on nothing larger than a frame leaves a host: the cards cut nothing, the kernel does before.
    fn without_offload(&self) {
        // By number does not catch all: after room was pushed a packet's number of segments is not known (Linux 6.18).
        let longest = self.mtu + 50 + 100;
        for host in self.topology.hosts() {
            run(host.place(), &format!("ip link set up0 gso_max_segs 1 gso_max_size {longest}"));
        }
    }
}

fn reaches(from: &Container, to: &Container) {
    let to = to.address().unwrap().to_string();
    eventually(&format!("{to} answers"), SOON, || from.exec(["ping", "-n", "-c", "1", "-W", "2", &to])?.success()).unwrap();
}

fn run(place: &Place, line: &str) -> String {
    place.exec(line.split(' ')).unwrap().success().unwrap().stdout
}

fn at(container: &Container) -> String {
    format!("{}:{PORT}", container.address().unwrap())
}

/// A listener in a container; it listens when this returns.
fn listener(container: &Container, name: &str, words: &[&str]) -> Daemon {
    let probe = probe().unwrap();
    let daemon = container.spawn(name, [&[probe.as_str()], words].concat()).unwrap();
    eventually(&format!("{name} listens"), SOON, || {
        ensure!(daemon.stderr().contains("listening on"), "{}", daemon.stderr());
        Ok(())
    })
    .unwrap();
    daemon
}

fn take_tcp(container: &Container) -> Daemon {
    listener(container, "take-tcp", &["take-tcp", &at(container)])
}

fn send(from: &Place, words: &[&str]) -> Result<Value> {
    let probe = probe()?;
    from.exec([&[probe.as_str()], words].concat())?.json()
}

/// A stream that comes whole; the length of its segments.
fn stream(from: &Place, to: &str, bytes: usize) -> i64 {
    let said = send(from, &["send-tcp", to, "--bytes", &bytes.to_string()]).unwrap();
    assert_eq!(said["said"], format!("whole {bytes}"), "{said}");
    said["mss"].as_i64().unwrap()
}

/// Datagrams that come whole, each once. Those that are lost on a busy machine are sent again, all of them, a few times.
fn datagrams(from: &Container, to: &Container, count: usize, options: &[&str], sizes: &[(&str, u64)]) {
    datagrams_at(from, to, &at(to), count, options, sizes);
}

/// The same to one of several addresses.
fn datagrams_at(from: &Container, to: &Container, listen: &str, count: usize, options: &[&str], sizes: &[(&str, u64)]) {
    let count_word = count.to_string();
    eventually(&format!("{options:?} come whole"), 3 * SOON, || {
        let name = format!("take-udp-{}", options.join(""));
        let taker = listener(to, &name, &["take-udp", listen, "--count", &count_word, "--within", "10"]);
        let sent = send(from.place(), &[&["send-udp", listen], options].concat())?;
        ensure!(sent["error"].is_null(), "{sent}");
        taker.wait(SOON)?;
        let line = taker.stdout();
        let said: Value = serde_json::from_str(line.lines().last().context("no report")?)?;
        assert!(said["broken"] == 0 && said["twice"] == 0, "{said}");
        for (size, _) in sizes {
            assert!(said["sizes"][size].as_u64() > Some(0) || said["whole"] == 0, "{said}");
        }
        ensure!(said["whole"] == count, "{said}");
        let seen: u64 = sizes.iter().filter_map(|(size, _)| said["sizes"][size].as_u64()).sum();
        ensure!(sizes.iter().all(|(size, times)| said["sizes"][size] == *times) && seen == count as u64, "{said}");
        Ok(())
    })
    .unwrap();
}

fn full_size_tcp_is_never_cut(way: Way, uplink: u32) {
    let w = World::new(way, uplink, 2);
    let fragments = Fragments::watch(&w.topology).unwrap();
    // The counter counts: what a host sends beside the overlay is cut, and seen.
    let too_long = uplink.to_string();
    let there = w.topology.host(2).address().to_string();
    run(w.topology.host(1).place(), &format!("ping -n -c 1 -W 5 -M dont -s {too_long} {there}"));
    let before = (fragments.on_the_wire().unwrap(), fragments.made_by_hosts().unwrap());
    assert!(before.0 >= 4 && before.1 >= 4, "{before:?}");

    let _takers = [take_tcp(&w.a), take_tcp(&w.b)];
    for offload in [true, false] {
        if !offload {
            w.without_offload();
        }
        for (from, to) in [(&w.a, &w.b), (&w.b, &w.a)] {
            // IP and TCP headers with a time stamp.
            assert_eq!(stream(from.place(), &at(to), 6_000_000), i64::from(w.mtu) - 52);
        }
        // From a host, whose own interface takes more than the overlay does.
        assert_eq!(stream(w.topology.host(1).place(), &at(&w.b), 1_000_000), i64::from(w.mtu) - 52);
        if !offload {
            assert!(full_frames_are_sent(&w), "no frame was as long as the cable carries");
        }
    }
    assert_eq!((fragments.on_the_wire().unwrap(), fragments.made_by_hosts().unwrap()), before);
}

/// Whether a packet as long as the cable carries came out of h1: the streams are of full size indeed.
fn full_frames_are_sent(w: &World) -> bool {
    let fabric = w.topology.fabric();
    let longest = w.mtu + 50;
    let rules = format!(
        "table netdev longest {{\n counter full {{ }}\n chain in {{\n  type filter hook ingress device \"h1\" priority 1\n  ip protocol udp ip length {longest} counter name full\n }}\n}}"
    );
    fabric.exec(["nft", &rules]).unwrap().success().unwrap();
    stream(w.a.place(), &at(&w.b), 1_000_000);
    let counted = fabric.exec(["nft", "list", "counters", "table", "netdev", "longest"]).unwrap().success().unwrap().stdout;
    run(fabric, "nft delete table netdev longest");
    !counted.contains("packets 0 ")
}

#[test]
fn full_size_tcp_is_never_cut_on_the_fast_path_over_1500() {
    full_size_tcp_is_never_cut(Way::Fast, 1500);
}

#[test]
fn full_size_tcp_is_never_cut_on_the_fast_path_over_9000() {
    full_size_tcp_is_never_cut(Way::Fast, 9000);
}

#[test]
fn full_size_tcp_is_never_cut_on_the_kernel_path_over_1500() {
    full_size_tcp_is_never_cut(Way::Kernel, 1500);
}

#[test]
fn full_size_tcp_is_never_cut_on_the_kernel_path_over_9000() {
    full_size_tcp_is_never_cut(Way::Kernel, 9000);
}

/// Whoever sends too much is told by the own host how much it may be, and then it goes.
fn a_sender_of_too_much_is_told(way: Way) {
    let w = World::new(way, 1500, 2);
    let fragments = Fragments::watch(&w.topology).unwrap();
    let before = (fragments.on_the_wire().unwrap(), fragments.made_by_hosts().unwrap());
    let to_b = at(&w.b);
    let _takers = [take_tcp(&w.b), listener(&w.b, "take-udp", &["take-udp", &to_b, "--count", "1000", "--within", "600"])];

    // A container whose interface somebody made wider: both ends of its pair.
    let device =
        w.topology.host(1).netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap()[0]["host_ifname"].clone();
    let device = device.as_str().unwrap();
    let gateway = w.a.address().unwrap().to_string();
    let gateway = format!("{}.1", gateway.rsplit_once('.').unwrap().0);
    let wider = || {
        run(w.topology.host(1).place(), &format!("ip link set {device} mtu 4000"));
        run(w.a.place(), "ip link set eth0 mtu 4000");
        run(w.a.place(), "ip route flush cache");
    };
    wider();
    // With DF: ICMP "fragmentation needed" (type 3, code 4; RFC 792) with the next hop's MTU (RFC 1191), from the own host.
    for size in ["1423", "2000", "3972"] {
        eventually(&format!("{size} bytes are refused by ICMP"), SOON, || {
            wider();
            let said = send(w.a.place(), &["send-udp", &to_b, "--size", size, "--whole"])?;
            let told = &said["told"];
            ensure!((&told["type"], &told["code"], &told["mtu"]) == (&3.into(), &4.into(), &1450.into()), "{said}");
            ensure!(
                told["from"] == gateway.as_str() || told["from"].as_str().is_some_and(|ip| ip.starts_with("10.244.")),
                "{said}"
            );
            Ok(())
        })
        .unwrap();
    }
    // What fits goes through unremarked.
    let said = send(w.a.place(), &["send-udp", &to_b, "--size", "1422", "--whole", "--patience", "0.3"]).unwrap();
    assert!(said["told"].is_null() && said["error"].is_null(), "{said}");
    // TCP learns by it, and arrives; a fresh container remembers nothing.
    wider();
    stream(w.a.place(), &to_b, 3_000_000);

    // From the host itself: the route's device says it at once.
    let said = send(w.topology.host(1).place(), &["send-udp", &to_b, "--size", "1423", "--whole"]).unwrap();
    assert_eq!((&said["told"]["mtu"], &said["told"]["from"]), (&1450.into(), &"itself".into()), "{said}");
    assert_eq!(stream(w.topology.host(1).place(), &to_b, 1_000_000), 1398);

    // From outside, by way of the host that has the container.
    let subnet = w.topology.host(2).agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    run(w.topology.fabric(), &format!("ip route add {subnet} via {}", w.topology.host(2).address()));
    let said = send(w.topology.fabric(), &["send-udp", &to_b, "--size", "1472", "--whole"]).unwrap();
    let told = &said["told"];
    assert_eq!((&told["type"], &told["code"], &told["mtu"]), (&3.into(), &4.into(), &1450.into()), "{said}");

    assert_eq!((fragments.on_the_wire().unwrap(), fragments.made_by_hosts().unwrap()), before, "{:?}", w.way);
}

#[test]
fn a_sender_of_too_much_is_told_by_the_fast_path() {
    a_sender_of_too_much_is_told(Way::Fast);
}

#[test]
fn a_sender_of_too_much_is_told_by_the_kernel_path() {
    a_sender_of_too_much_is_told(Way::Kernel);
}

/// Datagrams in one piece, in many, and cut by the kernel at the last moment, there and back.
fn datagrams_of_all_kinds_arrive_whole(way: Way, uplink: u32) {
    let w = World::new(way, uplink, 2);
    let beside = idle(w.topology.host(1), &["--id", "beside"]).unwrap();
    reaches(&w.a, &beside);
    // The longest payload of a datagram in one packet.
    let full = w.mtu - 28;
    let segment = full.to_string();
    for offload in [true, false] {
        if !offload {
            w.without_offload();
        }
        for (from, to) in [(&w.a, &w.b), (&w.b, &w.a), (&w.a, &beside)] {
            datagrams(from, to, 50, &["--size", &segment, "--count", "50"], &[(&segment, 50)]);
            // Fragments within the overlay.
            datagrams(from, to, 5, &["--size", "20000", "--count", "5"], &[("20000", 5)]);
            // UDP_SEGMENT: as many of full size as fit into 64 KiB; odd sizes with a rest; one segment alone.
            let most = 65_000 / full;
            let size = (most * full).to_string();
            let total = 10 * u64::from(most);
            let sent = ["--size", &size, "--segment", &segment, "--count", "10"];
            datagrams(from, to, total as usize, &sent, &[(&segment, total)]);
            let sent = ["--size", "4717", "--segment", "1000", "--count", "10"];
            datagrams(from, to, 50, &sent, &[("1000", 40), ("717", 10)]);
            let sent = ["--size", "1333", "--segment", "1333", "--count", "10"];
            datagrams(from, to, 10, &sent, &[("1333", 10)]);
            let sent = ["--size", "99", "--segment", "11", "--count", "20"];
            datagrams(from, to, 180, &sent, &[("11", 180)]);
        }
    }
}

#[test]
fn datagrams_of_all_kinds_arrive_whole_by_the_fast_path() {
    datagrams_of_all_kinds_arrive_whole(Way::Fast, 1500);
}

#[test]
fn datagrams_of_all_kinds_arrive_whole_by_the_kernel_path() {
    datagrams_of_all_kinds_arrive_whole(Way::Kernel, 1500);
}

#[test]
fn datagrams_of_all_kinds_arrive_whole_by_the_fast_path_over_9000() {
    datagrams_of_all_kinds_arrive_whole(Way::Fast, 9000);
}

/// A container that forwards between two other hosts: what it gets by the overlay it sends by the overlay. (Under its own
/// address, for it may use no other.)
fn a_container_forwards_between_two_hosts(way: Way) {
    let w = World::new(way, 1500, 3);
    let router = idle(w.topology.host(3), &["--id", "router"]).unwrap();
    reaches(&w.a, &router);
    reaches(&w.b, &router);
    let fragments = Fragments::watch(&w.topology).unwrap();
    run(router.place(), "sysctl -qw net.ipv4.ip_forward=1");
    let rules = format!(
        "table ip forward {{\n chain to {{\n  type nat hook prerouting priority dstnat\n  iifname eth0 meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {}\n }}\n \
         chain from {{\n  type nat hook postrouting priority srcnat\n  oifname eth0 masquerade\n }}\n}}",
        w.b.address().unwrap()
    );
    router.exec(["nft", &rules]).unwrap().success().unwrap();
    let by_router = at(&router);

    let _taker = take_tcp(&w.b);
    for offload in [true, false] {
        if !offload {
            w.without_offload();
        }
        assert_eq!(stream(w.a.place(), &by_router, 6_000_000), 1398);
        for (count, options) in [
            (30, ["--size", "1422", "--count", "30"].as_slice()),
            (50, &["--size", "4717", "--segment", "1000", "--count", "10"]),
        ] {
            let word = count.to_string();
            eventually(&format!("{options:?} come by way of the router"), 3 * SOON, || {
                let taker =
                    listener(&w.b, &format!("routed-{count}"), &["take-udp", &at(&w.b), "--count", &word, "--within", "10"]);
                let sent = send(w.a.place(), &[&["send-udp", &by_router], options].concat())?;
                ensure!(sent["error"].is_null(), "{sent}");
                taker.wait(SOON)?;
                let said: Value = serde_json::from_str(taker.stdout().lines().last().context("no report")?)?;
                assert!(said["broken"] == 0 && said["twice"] == 0, "{said}");
                ensure!(said["whole"] == count, "{said}");
                Ok(())
            })
            .unwrap();
        }
    }
    assert_eq!(fragments.on_the_wire().unwrap(), 0);
}

#[test]
fn a_container_forwards_between_two_hosts_by_the_fast_path() {
    a_container_forwards_between_two_hosts(Way::Fast);
}

#[test]
fn a_container_forwards_between_two_hosts_by_the_kernel_path() {
    a_container_forwards_between_two_hosts(Way::Kernel);
}

/// Two hosts of which one can take less: the other's containers learn it from their own host.
#[test]
fn a_peer_that_takes_less_is_sent_no_more_than_it_takes() {
    let w = World::new(Way::Fast, 9000, 2);
    let fragments = Fragments::watch(&w.topology).unwrap();
    let h2: &Host = w.topology.host(2);
    run(h2.place(), "ip link set up0 mtu 1500");
    eventually("h1 knows", SOON, || {
        let subnet = h2.agent.status()?["subnet"].as_str().unwrap_or_default().to_owned();
        let route = w.topology.host(1).exec(["ip", "route", "show", &subnet])?.success()?.stdout;
        ensure!(route.contains("mtu 1450"), "{route}");
        Ok(())
    })
    .unwrap();
    let server = tcp_server(h2, &[], PORT + 1, "h2").unwrap();
    eventually("it answers", SOON, || who_answers(w.a.place(), &format!("{}:{}", server.address()?, PORT + 1))).unwrap();
    let _takers = [take_tcp(&w.a), take_tcp(&w.b)];
    stream(w.a.place(), &at(&w.b), 3_000_000);
    stream(w.b.place(), &at(&w.a), 3_000_000);
    let told = eventually("a container is told", SOON, || {
        let said = send(w.a.place(), &["send-udp", &format!("{}:9", server.address()?), "--size", "8000", "--whole"])?;
        ensure!(said["told"]["mtu"] == 1450, "{said}");
        Ok(said["told"]["from"].clone())
    })
    .unwrap();
    assert_ne!(told, FABRIC.to_string());
    assert_eq!(fragments.on_the_wire().unwrap(), 0);
}

/// The IPv6 address and port of a container.
fn at6(container: &Container) -> String {
    let links =
        container.exec(["ip", "-6", "-json", "address", "show", "dev", "eth0", "scope", "global"]).unwrap().json().unwrap();
    let local = links[0]["addr_info"][0]["local"].as_str().unwrap_or_else(|| panic!("no IPv6 address: {links}"));
    format!("[{local}]:{PORT}")
}

/// What holds for IPv4 inside holds for IPv6 inside.
fn ipv6_inside_is_carried_whole(way: Way) {
    let w = World::dual(way, 1500);
    let fragments = Fragments::watch(&w.topology).unwrap();
    let (to_a, to_b) = (at6(&w.a), at6(&w.b));
    for (from, to) in [(&w.a, &to_b), (&w.b, &to_a)] {
        let to = to.trim_start_matches('[').split(']').next().unwrap();
        eventually(&format!("{to} answers"), SOON, || from.exec(["ping", "-6", "-n", "-c", "1", "-W", "2", to])?.success())
            .unwrap();
    }
    let _takers = [("a", &w.a, &to_a), ("b", &w.b, &to_b)].map(|(_, c, at)| listener(c, "take-tcp6", &["take-tcp", at]));
    for offload in [true, false] {
        if !offload {
            w.without_offload();
        }
        for (from, to, at) in [(&w.a, &w.b, &to_b), (&w.b, &w.a, &to_a)] {
            // IPv6 and TCP headers with a time stamp.
            assert_eq!(stream(from.place(), at, 4_000_000), i64::from(w.mtu) - 72);
            datagrams_at(from, to, at, 50, &["--size", "1402", "--count", "50"], &[("1402", 50)]);
            let sent = ["--size", "4717", "--segment", "1000", "--count", "10"];
            datagrams_at(from, to, at, 50, &sent, &[("1000", 40), ("717", 10)]);
        }
    }
    // Nothing was cut so far, by anybody.
    assert_eq!((fragments.on_the_wire().unwrap(), fragments.made_by_hosts().unwrap()), (0, 0), "{:?}", w.way);
    datagrams_at(&w.a, &w.b, &to_b, 5, &["--size", "20000", "--count", "5"], &[("20000", 5)]);

    // Too big: ICMPv6 "packet too big" (type 2; RFC 4443 3.2) with the next hop's MTU, from the own host.
    let device =
        w.topology.host(1).netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap()[0]["host_ifname"].clone();
    let device = device.as_str().unwrap();
    let _listener = listener(&w.b, "take-udp6", &["take-udp", &to_b, "--count", "1000", "--within", "600"]);
    eventually("1403 bytes are refused by ICMPv6", SOON, || {
        run(w.topology.host(1).place(), &format!("ip link set {device} mtu 4000"));
        run(w.a.place(), "ip link set eth0 mtu 4000");
        run(w.a.place(), "ip -6 route flush cache");
        let said = send(w.a.place(), &["send-udp", &to_b, "--size", "1403", "--whole"])?;
        let told = &said["told"];
        ensure!((&told["type"], &told["code"], &told["mtu"]) == (&2.into(), &0.into(), &1450.into()), "{said}");
        Ok(())
    })
    .unwrap();
    stream(w.a.place(), &to_b, 3_000_000);
}

#[test]
fn ipv6_inside_is_carried_whole_by_the_fast_path() {
    ipv6_inside_is_carried_whole(Way::Fast);
}

#[test]
fn ipv6_inside_is_carried_whole_by_the_kernel_path() {
    ipv6_inside_is_carried_whole(Way::Kernel);
}
