//! The uplink changes: its MTU, its address, its name; it goes down and up, away and back; another takes its place. The host
//! keeps its subnet and its containers their connections.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::{FABRIC, ip};
use weft_tests::traffic::{connect, idle, report, stream, tcp_server, who_answers};
use weft_tests::{Container, Daemon, Host, Topology, eventually};

/// Two hosts; h1 is the one whose uplink changes. A connection stands in each direction.
struct World {
    a: Container,
    b: Container,
    streams: [Daemon; 2],
    lease: (i64, Value),
    topology: Topology,
}

const PORT: u16 = 7000;

impl World {
    fn of(topology: Topology) -> Self {
        let a = tcp_server(topology.host(1), &["--id", "a"], PORT, "a").unwrap();
        let b = tcp_server(topology.host(2), &["--id", "b"], PORT, "b").unwrap();
        let stream = |name, from: &Container, to: &Container| stream(from, name, &at(to)).unwrap();
        let streams = [stream("out", &a, &b), stream("in", &b, &a)];
        let lease = lease(&topology).unwrap();
        Self { a, b, streams, lease, topology }
    }

    fn new() -> Self {
        Self::of(Topology::cluster(2).unwrap())
    }

    fn h1(&self) -> &Host {
        self.topology.host(1)
    }

    /// New connections are answered in both directions, by the fast path, and both hosts have nothing left to do.
    fn all_is_well(&self, when: &str) {
        for (from, to, name) in [(&self.a, &self.b, "b"), (&self.b, &self.a, "a")] {
            eventually(&format!("{name} answers {when}"), SOON, || {
                let said = who_answers(from.place(), &at(to))?;
                ensure!(said == name, "{said} answers");
                Ok(())
            })
            .unwrap();
        }
        for host in self.topology.hosts() {
            host.agent
                .wait_status(&format!("fast {when}"), |s| {
                    s["datapath"]["fast"] == true && s["ready"] == true && s["peers"][0]["via"] == "fast"
                })
                .unwrap();
            eventually(&format!("nothing to do on {} {when}", host.name()), SOON, || {
                let plan = host.netctl(["plan", "-o", "json"])?.json()?;
                ensure!(plan["actions"] == serde_json::json!([]), "{plan}");
                Ok(())
            })
            .unwrap();
        }
    }

    /// The connections of the beginning stand, and the subnet is the same under the same lease.
    fn end(self) {
        for stream in &self.streams {
            // What was on its way while nothing went is sent again, ever more rarely.
            let before = stream_echoes(&self, stream);
            eventually("the connection goes on", SOON, || {
                let now = stream_echoes(&self, stream);
                ensure!(now > before, "{now} packets, was {before}");
                Ok(())
            })
            .unwrap();
            let said = report(stream).unwrap();
            assert!(said["error"].is_null() && said["echoed"].as_u64().unwrap() > 0, "{said}");
            println!("longest gap {} ms", said["longest_gap_ms"]);
        }
        let now = lease(&self.topology).unwrap();
        assert_eq!(
            (now.0, &now.1["BackendData"]),
            (self.lease.0, &self.lease.1["BackendData"]),
            "{}, was {}",
            now.1,
            self.lease.1
        );
    }
}

/// Segments that the containers' sockets took in, which is what moves while a connection lives.
fn stream_echoes(world: &World, stream: &Daemon) -> u64 {
    if let Some(status) = stream.ended().unwrap() {
        panic!("{} ended: {status}: {}", stream.command(), stream.stdout());
    }
    let of = |container: &Container| {
        let text = container.exec(["nstat", "-asz", "TcpInSegs"]).unwrap().success().unwrap().stdout;
        text.lines().find_map(|l| l.strip_prefix("TcpInSegs")?.split_whitespace().next()?.parse::<u64>().ok()).unwrap()
    };
    of(&world.a).min(of(&world.b))
}

fn at(container: &Container) -> String {
    format!("{}:{PORT}", container.address().unwrap())
}

/// h1's claim as it is stored: the lease it hangs on, and the value.
fn lease(t: &Topology) -> Result<(i64, Value)> {
    let listed = t.etcd().ctl(["get", "/coreos.com/network/subnets/", "--prefix", "-w", "json"])?.json()?;
    let values = t.etcd().list("/coreos.com/network/subnets/")?;
    for (entry, (_, value)) in listed["kvs"].as_array().context("no keys")?.iter().zip(values) {
        let value: Value = serde_json::from_str(&value)?;
        if value["weft"]["node"] == "h1" {
            return Ok((entry["lease"].as_i64().unwrap_or(0), value));
        }
    }
    anyhow::bail!("h1 has no lease")
}

fn run(host: &Host, line: &str) {
    host.exec(line.split(' ')).unwrap().success().unwrap();
}

fn mtu_of(host: &Host, device: &str) -> Result<u64> {
    let link = host.exec(["ip", "-json", "link", "show", device])?.json()?;
    link[0]["mtu"].as_u64().context("no mtu")
}

#[test]
fn the_mtu_is_followed_down_and_up_again() {
    let w = World::new();
    for (uplink, overlay) in [("1400", 1350), ("1500", 1450)] {
        run(w.h1(), &format!("ip link set up0 mtu {uplink}"));
        eventually(&format!("the overlay follows to {overlay}"), SOON, || {
            let device = mtu_of(w.h1(), "weft.1")?;
            ensure!(device == overlay, "weft.1 has {device}");
            let told = lease(&w.topology)?.1["weft"]["mtu"].clone();
            ensure!(told == overlay, "the lease has {told}");
            Ok(())
        })
        .unwrap();
        // Others send no more than that to here: their own host tells them. A fresh one each time, which remembers nothing.
        let sender = idle(w.topology.host(2), &[]).unwrap();
        let to = w.a.address().unwrap().to_string();
        let most = (overlay - 28).to_string();
        let more = (overlay - 27).to_string();
        eventually(&format!("{overlay} fits"), SOON, || {
            sender.exec(["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", &most, &to])?.success()
        })
        .unwrap();
        eventually(&format!("more than {overlay} is refused"), SOON, || {
            let output = sender.exec(["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", &more, &to])?;
            ensure!(
                !output.status.success() && format!("{}{}", output.stdout, output.stderr).contains(&overlay.to_string()),
                "{output:?}"
            );
            Ok(())
        })
        .unwrap();
        w.all_is_well(&format!("with an uplink of {uplink}"));
    }
    w.end();
}

#[test]
fn another_address_is_published_under_the_same_lease_and_connections_live_on() {
    let w = World::new();
    run(w.h1(), "ip address add 10.77.0.101/24 dev up0");
    // With the first address of its range the kernel removes the others, unless it is told to promote them.
    run(w.h1(), "sysctl -qw net.ipv4.conf.up0.promote_secondaries=1");
    run(w.h1(), "ip address del 10.77.0.1/24 dev up0");
    run(w.h1(), &format!("ip route replace default via {FABRIC}"));
    eventually("the lease has the new address", SOON, || {
        let (_, value) = lease(&w.topology)?;
        ensure!(value["PublicIP"] == "10.77.0.101", "{value}");
        Ok(())
    })
    .unwrap();
    w.topology.host(2).agent.wait_status("the peer's new address", |s| s["peers"][0]["public_ip"] == "10.77.0.101").unwrap();
    w.all_is_well("with another address");
    w.end();
}

#[test]
fn a_renamed_uplink_is_followed_and_status_says_what_to_do() {
    let w = World::new();
    run(w.h1(), "ip link set up0 name wan0");
    w.h1().agent.wait_status("the new name", |s| s["reasons"].to_string().contains("wan0")).unwrap();
    w.all_is_well("under another name");
    // The old way: devices that are up were not renamed.
    for line in ["ip link set wan0 down", "ip link set wan0 name up0", "ip link set up0 up"] {
        run(w.h1(), line);
    }
    run(w.h1(), &format!("ip route replace default via {FABRIC}"));
    w.h1().agent.wait_status("nothing to say", |s| s["reasons"] == serde_json::json!([])).unwrap();
    w.all_is_well("under its own name again");
    w.end();
}

#[test]
fn an_uplink_that_is_down_for_a_while_changes_nothing() {
    let w = World::new();
    let before = w.h1().exec(["ip", "-json", "link", "show", "weft.1"]).unwrap().json().unwrap()[0]["ifindex"].clone();
    run(w.h1(), "ip link set up0 down");
    w.h1().agent.wait_status("it says so", |s| s["reasons"].to_string().contains("is down")).unwrap();
    run(w.h1(), "ip link set up0 up");
    run(w.h1(), &format!("ip route replace default via {FABRIC}"));
    w.all_is_well("after it was down");
    let after = w.h1().exec(["ip", "-json", "link", "show", "weft.1"]).unwrap().json().unwrap()[0]["ifindex"].clone();
    assert_eq!(before, after);
    // And without a word by the host itself: a cable that is pulled.
    w.h1().pull_cable().unwrap();
    eventually("nothing gets through", SOON, || {
        let said = connect(w.a.place(), &at(&w.b), &["--timeout", "1"])?;
        ensure!(said["result"] != "answered", "{said}");
        Ok(())
    })
    .unwrap();
    w.h1().plug_cable().unwrap();
    w.all_is_well("after the cable was pulled");
    w.end();
}

/// What the kernel has of the overlay: the VXLAN device's number, and the routes that lead by it.
fn overlay(host: &Host) -> Result<(Value, Value)> {
    let link = host.exec(["ip", "-json", "link", "show", "weft.1"])?.json()?;
    let routes = host.exec(["ip", "-json", "route", "show", "dev", "weft.1"])?.json()?;
    ensure!(routes.as_array().is_some_and(|routes| !routes.is_empty()), "no routes");
    Ok((link[0]["ifindex"].clone(), routes))
}

#[test]
fn an_agent_that_starts_while_the_uplink_is_away_takes_nothing_down() {
    let t = Topology::new(2).unwrap();
    t.host(1).agent.set_flag("iface", "auto");
    t.start_cluster().unwrap();
    let w = World::of(t);
    w.all_is_well("at first");
    let before = overlay(w.h1()).unwrap();
    // The store is on the uplink's own link: the new agent has everything it needs to plan, but an uplink.
    run(w.h1(), "ip route del default");
    w.h1().agent.kill9().unwrap();
    w.h1().agent.start().unwrap();
    let stays = |s: &Value| s["reasons"].to_string().contains("the overlay stays as it was");
    w.h1().agent.wait_status("it goes by the last one", |s| s["ready"] == true && stays(s)).unwrap();
    w.all_is_well("without a default route");
    assert_eq!(overlay(w.h1()).unwrap(), before);
    // And now with the link down, when it cannot even read the store.
    w.h1().agent.kill9().unwrap();
    run(w.h1(), "ip link set up0 down");
    w.h1().agent.start().unwrap();
    w.h1().agent.wait_status("it says so", stays).unwrap();
    assert_eq!(overlay(w.h1()).unwrap(), before);
    run(w.h1(), "ip link set up0 up");
    run(w.h1(), &format!("ip route replace default via {FABRIC}"));
    w.h1().agent.wait_status("nothing to say", |s| s["reasons"] == serde_json::json!([])).unwrap();
    w.all_is_well("with the default route again");
    assert_eq!(overlay(w.h1()).unwrap(), before);
    w.end();
}

/// A second cable from a host to the fabric, with an address of its own.
fn second_cable(t: &Topology, host: &Host) {
    let netns = host.place().netns().display();
    ip(t.fabric(), &format!("link add {}b type veth peer name up1 netns {netns}", host.name())).unwrap();
    ip(t.fabric(), &format!("link set {}b master br0 up", host.name())).unwrap();
    run(host, "ip link set up1 up");
}

#[test]
fn the_default_route_moves_to_another_device_and_back() {
    let t = Topology::new(2).unwrap();
    t.host(1).agent.set_flag("iface", "auto");
    t.start_cluster().unwrap();
    let w = World::of(t);
    // As one sets up a host with two devices in one range: each answers for its own address only.
    for setting in ["arp_ignore=1", "arp_announce=2"] {
        run(w.h1(), &format!("sysctl -qw net.ipv4.conf.all.{setting}"));
    }
    run(w.h1(), "sysctl -qw net.ipv4.conf.all.rp_filter=0");
    second_cable(&w.topology, w.h1());
    for device in ["up0", "up1"] {
        run(w.h1(), &format!("sysctl -qw net.ipv4.conf.{device}.rp_filter=0"));
    }
    run(w.h1(), "ip address add 10.77.0.102/24 dev up1 noprefixroute");
    for (device, address, line) in [
        ("up1", "10.77.0.102", "ip route add 10.77.0.0/24 dev up1 metric 5"),
        ("up0", "10.77.0.1", "ip route add 10.77.0.0/24 dev up0 metric 4"),
    ] {
        if device == "up1" {
            run(w.h1(), "ip route del 10.77.0.0/24 dev up0");
        }
        run(w.h1(), line);
        run(w.h1(), &format!("ip route replace default via {FABRIC} dev {device}"));
        eventually(&format!("the lease has {device}'s address"), SOON, || {
            let (_, value) = lease(&w.topology)?;
            ensure!(value["PublicIP"] == address, "{value}");
            Ok(())
        })
        .unwrap();
        w.topology.host(2).agent.wait_status("the peer's new address", |s| s["peers"][0]["public_ip"] == address).unwrap();
        w.all_is_well(&format!("by {device}"));
        let info = w.h1().exec(["ip", "-json", "-details", "link", "show", "weft.1"]).unwrap().json().unwrap();
        let info = &info[0]["linkinfo"]["info_data"];
        assert_eq!((&info["link"], &info["local"]), (&device.into(), &address.into()), "{info}");
    }
    w.end();
}

#[test]
fn an_uplink_that_is_taken_out_and_put_in_again_is_taken_into_use_again() {
    let w = World::new();
    w.h1().remove_cable().unwrap();
    w.h1().agent.wait_status("no overlay", |s| s["reasons"].to_string().contains("no uplink")).unwrap();
    // One host goes on.
    let beside = idle(w.h1(), &[]).unwrap();
    eventually("containers on one host reach each other", SOON, || who_answers(beside.place(), &at(&w.a))).unwrap();
    w.h1().lay_cable().unwrap();
    w.all_is_well("with the new device");
    w.end();
}

#[test]
fn a_host_without_an_uplink_runs_alone_and_joins_when_one_appears() {
    let t = Topology::new(2).unwrap();
    // The host has a way to the store, but its uplink is to be another device.
    t.host(1).agent.set_flag("iface", "up1");
    t.etcd().start().unwrap();
    for host in t.hosts() {
        host.agent.start().unwrap();
    }
    eventually("the network is initialised", SOON, || {
        t.host(2).netctl(["network", "init", "--cidr", weft_tests::topology::NETWORK])?.success()
    })
    .unwrap();
    let h1 = t.host(1);
    h1.agent.wait_ready().unwrap();
    h1.agent
        .wait_status("no uplink", |s| s["reasons"].to_string().contains("no uplink") && s["datapath"]["fast"] == false)
        .unwrap();
    let a = tcp_server(h1, &[], PORT, "a").unwrap();
    let beside = idle(h1, &[]).unwrap();
    assert_eq!(who_answers(beside.place(), &at(&a)).unwrap(), "a");
    let b = tcp_server(t.host(2), &[], PORT, "b").unwrap();

    second_cable(&t, h1);
    run(h1, "ip address add 10.77.0.102/24 dev up1");
    run(h1, "ip route del 10.77.0.0/24 dev up0");
    for (from, to, name) in [(&a, &b, "b"), (&b, &a, "a")] {
        eventually(&format!("{name} answers"), SOON, || {
            let said = who_answers(from.place(), &at(to))?;
            ensure!(said == name, "{said}");
            Ok(())
        })
        .unwrap();
    }
    h1.agent.wait_status("fast", |s| s["datapath"]["fast"] == true && s["reasons"] == serde_json::json!([])).unwrap();
}
