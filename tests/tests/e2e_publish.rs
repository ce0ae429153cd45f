//! Ports of a host that lead to a container: from everywhere, by every address, with sources kept where they can be.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::{FABRIC, FABRIC6, Wire};
use weft_tests::traffic::{connect, idle, probe, report};
use weft_tests::{Container, Daemon, Host, Place, Topology, eventually};

/// Whether hosts have programs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Path {
    Fast,
    Kernel,
}

fn cluster(path: Path, prepare: impl Fn(&Topology)) -> Topology {
    let t = Topology::builder(2).wires(&[Wire::Dual; 2]).dual_stack().build().unwrap();
    for host in t.hosts().iter().filter(|_| path == Path::Kernel) {
        host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
    }
    prepare(&t);
    t.start_cluster().unwrap();
    for host in t.hosts() {
        let v6 = |s: &Value| s["peers"].as_array().unwrap().iter().all(|p| p["subnet6"].is_string());
        let status = host.agent.wait_status("IPv6 subnets", |s| s["subnet6"].is_string() && v6(s)).unwrap();
        assert_eq!(status["datapath"]["fast"], path == Path::Fast, "{status}");
    }
    t
}

/// Something serves in a container on these ports, over both protocols and families; it says its port and who asks.
fn serve(container: &Container, ports: &[u16]) -> Vec<Daemon> {
    let kinds = [("serve-tcp", &[][..]), ("serve-udp", &["--udp"][..])];
    let one = |(kind, udp): (&str, &[&str]), port: u16| {
        let words = [&probe().unwrap(), kind, &format!("[::]:{port}"), "--say", &port.to_string(), "--say-client"];
        let daemon = container.spawn(&format!("{kind}-{port}"), words).unwrap();
        let own = format!("{}:{port}", container.address().unwrap());
        eventually(&format!("{kind} at {own}"), SOON, || answer(container.place(), &own, udp).map(drop)).unwrap();
        daemon
    };
    ports.iter().flat_map(|port| kinds.map(|kind| one(kind, *port))).collect()
}

/// What is answered.
fn answer(from: &Place, to: &str, options: &[&str]) -> Result<Value> {
    let said = connect(from, to, options)?;
    ensure!(said["result"] == "answered", "{to} {options:?}: {said}");
    Ok(said)
}

/// Port `inside` answers at `to` by TCP and UDP, connected and not, sees `source`, and nobody is shown another peer than it named.
fn reaches(from: &Place, to: SocketAddr, inside: u16, source: IpAddr) {
    for options in [&[][..], &["--udp"], &["--udp", "--unconnected"]] {
        // Loaded machines answer late; whoever answers must be right at once.
        let said = eventually("an answer", SOON, || answer(from, &to.to_string(), options)).unwrap();
        let expected = format!("{inside} {source}");
        assert_eq!(said["said"].as_str().unwrap().trim_end_matches(" hello"), expected, "{to} {options:?}: {said}");
        assert_eq!(said["peer"], to.to_string(), "{options:?}: {said}");
    }
}

/// Nobody answers there: what is asked is refused.
fn is_closed(from: &Place, to: SocketAddr) {
    for options in [&[][..], &["--udp"]] {
        let said = connect(from, &to.to_string(), options).unwrap();
        assert_eq!(said["result"], "refused", "{to} {options:?}: {said}");
    }
}

fn own(host: &Host) -> [IpAddr; 2] {
    [host.address().into(), host.address6().into()]
}

/// The containers' gateways on a host.
fn gateways(host: &Host) -> [IpAddr; 2] {
    let status = host.agent.status().unwrap();
    let first = |net: &str| net.split_once('/').unwrap().0.to_owned();
    let v4 = first(status["subnet"].as_str().unwrap());
    let v6 = first(status["subnet6"].as_str().unwrap());
    [format!("{}1", v4.strip_suffix('0').unwrap()).parse().unwrap(), format!("{v6}1").parse().unwrap()]
}

/// The published ports in the packet filter.
fn elements(host: &Host) -> Result<usize> {
    let mut count = 0;
    for map in ["ports", "ports6", "bound", "bound6"] {
        let listed = host.exec(["nft", "-j", "list", "map", "inet", "weft", map])?.json()?;
        let all = listed["nftables"].as_array().context("nft lists")?;
        count += all.iter().filter_map(|o| o["map"]["elem"].as_array()).map(Vec::len).sum::<usize>();
    }
    Ok(count)
}

/// All who may ask, at all addresses of the host that are not its loopback.
fn everybody_reaches(t: &Topology, [sibling, web, far]: [&Container; 3]) {
    let (h1, h2) = (t.host(1), t.host(2));
    let outside: [IpAddr; 2] = [FABRIC.into(), FABRIC6.into()];
    for (i, address) in own(h1).into_iter().enumerate() {
        for (place, source) in [
            (t.fabric(), outside[i]),
            (h2.place(), own(h2)[i]),
            (h1.place(), address),
            (sibling.place(), gateways(h1)[i]),
            (web.place(), gateways(h1)[i]),
            (far.place(), own(h2)[i]),
        ] {
            reaches(place, SocketAddr::new(address, 8080), 80, source);
        }
        // A range, and one address only.
        for (port, inside) in [(9000, 81), (9002, 83)] {
            reaches(t.fabric(), SocketAddr::new(address, port), inside, outside[i]);
        }
        is_closed(t.fabric(), SocketAddr::new(address, 9003));
    }
    reaches(t.fabric(), SocketAddr::new(h1.address().into(), 7070), 80, FABRIC.into());
    is_closed(t.fabric(), SocketAddr::new(h1.address6().into(), 7070));
    is_closed(t.fabric(), SocketAddr::new(h1.address().into(), 7071));
}

fn published(h1: &Host) -> Container {
    let bound = format!("{}:7070:80", h1.address());
    let ports = ["8080:80", "9000-9002:81-83", &bound, "127.0.0.5:7071:80"];
    let both: Vec<String> = ports.iter().flat_map(|p| [format!("{p}/tcp"), format!("{p}/udp")]).collect();
    let options: Vec<&str> = both.iter().flat_map(|p| ["--publish", p.as_str()]).chain(["--id", "web"]).collect();
    idle(h1, &options).unwrap()
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_lives_as_long_as_its_container() {
    let t = cluster(Path::Fast, |_| {});
    let (h1, h2) = (t.host(1), t.host(2));
    let web = published(h1);
    let (sibling, far) = (idle(h1, &[]).unwrap(), idle(h2, &[]).unwrap());
    let _servers = serve(&web, &[80, 81, 83]);
    everybody_reaches(&t, [&sibling, &web, &far]);

    // The host's own loopback, which is nobody else's.
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let five = IpAddr::from([127, 0, 0, 5]);
    for (to, port) in [(v4, 8080), (v6, 8080), (v4, 9002), (five, 7071)] {
        let to = SocketAddr::new(to, port);
        for options in [&[][..], &["--udp"], &["--udp", "--unconnected"]] {
            let said = answer(h1.place(), &to.to_string(), options).unwrap();
            assert_eq!(said["peer"], to.to_string(), "{options:?}: {said}");
        }
        is_closed(sibling.place(), to);
        is_closed(h2.place(), to);
    }
    let mapped = answer(h1.place(), "127.0.0.1:8080", &["--mapped"]).unwrap();
    assert_eq!(mapped["peer"], "[::ffff:127.0.0.1]:8080");
    is_closed(h1.place(), SocketAddr::new(v4, 7070));
    is_closed(h1.place(), SocketAddr::new(v4, 7071));

    // Who has a port keeps it.
    let refused = |port: &str| {
        let out = weft_tests::container::run_to_end(h1, &["--publish", port], &["true"]).unwrap();
        assert!(!out.status.success(), "{out:?}");
        out.stderr
    };
    let why = refused("9001:80");
    assert!(why.contains("host port 9001/tcp is published by web; choose another port, or detach web first"), "{why}");
    let own_server = h1.spawn("own", [&probe().unwrap(), "serve-tcp", "0.0.0.0:6060", "--say", "own"]).unwrap();
    eventually("the host's own server", SOON, || answer(h1.place(), "127.0.0.1:6060", &[]).map(drop)).unwrap();
    let why = refused("6060:80");
    let at = format!("publish 6060:80/tcp: a process of this host has {}:6060/tcp; stop it", h1.address());
    assert!(why.contains(&at), "{why}");
    own_server.stop(SOON).unwrap();
    let why = refused("8472:80/udp");
    assert!(why.contains("UDP port 8472 is the overlay's own"), "{why}");

    // Connections stand while the agent is away.
    let probe = probe().unwrap();
    let stream = |place: &Place, name: &str, to: String| {
        let daemon = place.spawn(t.dir(), name, [&probe, "stream", &to]).unwrap();
        eventually(name, SOON, || {
            ensure!(daemon.stderr().contains("connected to"), "{}", daemon.stderr());
            Ok(())
        })
        .unwrap();
        daemon
    };
    let long = [
        stream(t.fabric(), "from-outside", format!("{}:8080", h1.address())),
        stream(t.fabric(), "from-outside-6", format!("[{}]:8080", h1.address6())),
        stream(sibling.place(), "from-a-sibling", format!("{}:8080", h1.address())),
        stream(h1.place(), "from-the-host", "127.0.0.1:8080".to_owned()),
    ];
    h1.agent.kill9().unwrap();
    // What is in the kernel does without the agent.
    reaches(t.fabric(), SocketAddr::new(h1.address().into(), 8080), 80, FABRIC.into());
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    everybody_reaches(&t, [&sibling, &web, &far]);
    for daemon in long {
        let said = report(&daemon).unwrap();
        assert!(said["error"].is_null() && said["echoed"].as_u64().unwrap() > 0, "{said}");
    }

    // All of it goes with its container, at once; the ports are free again.
    assert!(elements(h1).unwrap() > 0);
    web.stop().unwrap();
    assert_eq!(elements(h1).unwrap(), 0);
    for to in [h1.address().into(), h1.address6().into(), v4, v6] {
        is_closed(h1.place(), SocketAddr::new(to, 8080));
    }
    is_closed(t.fabric(), SocketAddr::new(h1.address().into(), 8080));
    let again = published(h1);
    let _servers = serve(&again, &[80]);
    reaches(t.fabric(), SocketAddr::new(h1.address6().into(), 8080), 80, FABRIC6.into());
}

#[test]
fn without_programs_and_past_a_forward_chain_that_drops_ports_lead_to_containers_too() {
    let t = cluster(Path::Kernel, |t| {
        t.host(1).exec(["iptables", "-w", "-P", "FORWARD", "DROP"]).unwrap().success().unwrap();
        // Without masquerade containers come with their own addresses.
        t.host(2).agent.set_flag("masquerade", "off");
    });
    let (h1, h2) = (t.host(1), t.host(2));
    let jump = || {
        let rules = h1.exec(["iptables", "-w", "-S"])?.success()?.stdout;
        ensure!(rules.contains("-j WEFT-FORWARD"), "{rules}");
        Ok(())
    };
    eventually("the jump is there", SOON, jump).unwrap();
    let web = published(h1);
    let (sibling, far) = (idle(h1, &[]).unwrap(), idle(h2, &[]).unwrap());
    let _servers = serve(&web, &[80, 81, 83]);
    let known = |status: &Value| {
        let reasons = status.to_string();
        reasons.contains("published ports are not reached by localhost")
    };
    h1.agent.wait_status("it says that localhost does not reach them", known).unwrap();
    is_closed(h1.place(), SocketAddr::from(([127, 0, 0, 1], 8080)));
    for (place, source) in [
        (t.fabric(), FABRIC.into()),
        (h2.place(), h2.address().into()),
        (h1.place(), h1.address().into()),
        (sibling.place(), gateways(h1)[0]),
        (web.place(), gateways(h1)[0]),
        // It comes beside the tunnel under its own address, and the answer must not go straight back to it.
        (far.place(), gateways(h1)[0]),
    ] {
        reaches(place, SocketAddr::new(h1.address().into(), 8080), 80, source);
    }
    // Ports that are not published stay the other owner's to judge: the container itself is not to be had from outside.
    let subnet = h1.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    let via = h1.address().to_string();
    t.fabric().exec(["ip", "route", "add", &subnet, "via", &via]).unwrap().success().unwrap();
    let direct = connect(t.fabric(), &format!("{}:80", web.address().unwrap()), &["--timeout", "1"]).unwrap();
    assert_eq!(direct["result"], "timeout", "{direct}");

    // A host that does not masquerade has the chains as long as something is published, and no longer.
    let chains =
        || h2.exec(["nft", "list", "table", "inet", "weft"]).unwrap().success().unwrap().stdout.contains("chain published");
    assert!(!chains());
    let there = idle(h2, &["--publish", "8080:80"]).unwrap();
    assert!(chains());
    let _there = serve(&there, &[80]);
    let to = SocketAddr::new(h2.address().into(), 8080);
    assert_eq!(answer(t.fabric(), &to.to_string(), &[]).unwrap()["said"], format!("80 {FABRIC}"));
    there.stop().unwrap();
    eventually("the chains are gone", SOON, || {
        ensure!(!chains());
        Ok(())
    })
    .unwrap();
}
