//! Several networks on the same hosts: each works between hosts, and none reaches another, neither by packets nor by names nor
//! by virtual IPs, with the programs and without.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use weft_tests::eventually::{SOON, throughout};
use weft_tests::traffic::{connect, idle, probe, tcp_server, who_answers};
use weft_tests::{Container, Host, Topology, eventually};

const BLUE: [&str; 2] = ["--network", "blue"];

/// Two hosts with the default network and a further one, in which both have a subnet.
fn hosts(topology: Topology) -> Topology {
    topology.start_cluster().unwrap();
    let words = ["network", "create", "blue", "--cidr", "10.245.0.0/16", "--vni", "7"];
    topology.host(1).netctl(words).unwrap().success().unwrap();
    for host in topology.hosts() {
        eventually(&format!("{} is in blue", host.name()), SOON, || {
            let key = format!("\"{}\"", host.name());
            let leases = topology.etcd().list("/weft/v1/subnets/blue/")?;
            ensure!(leases.iter().any(|(_, value)| value.contains(&key)), "{leases:?}");
            let link = host.exec(["ip", "-json", "-details", "link", "show", "weft.7"])?.success()?.json()?;
            ensure!(link[0]["linkinfo"]["info_data"]["id"] == 7, "{link}");
            Ok(())
        })
        .unwrap();
    }
    topology
}

fn with(options: &[&'static str]) -> Vec<&'static str> {
    [&BLUE, options].concat()
}

fn address(container: &Container, port: u16) -> String {
    format!("{}:{port}", container.address().unwrap())
}

/// What must hold whichever path packets take.
fn each_network_works_and_none_reaches_the_other(t: &Topology) {
    let (h1, h2) = (t.host(1), t.host(2));
    let plain = tcp_server(h2, &["--service", "web:8080"], 8080, "plain").unwrap();
    let blue = tcp_server(h2, &with(&["--service", "sky:8080"]), 8080, "blue").unwrap();
    let plain_here = tcp_server(h1, &[], 8080, "plain here").unwrap();
    let blue_here = tcp_server(h1, &with(&[]), 8080, "blue here").unwrap();
    assert!(blue.address().unwrap().to_string().starts_with("10.245."));
    let (plain_client, blue_client) = (idle(h1, &[]).unwrap(), idle(h1, &with(&[])).unwrap());

    // Within each, between hosts and on one.
    for (client, server, says) in [
        (&plain_client, &plain, "plain"),
        (&plain_client, &plain_here, "plain here"),
        (&blue_client, &blue, "blue"),
        (&blue_client, &blue_here, "blue here"),
    ] {
        let to = address(server, 8080);
        eventually(&format!("{says} answers"), SOON, || {
            let who = who_answers(client.place(), &to)?;
            ensure!(who == says, "{who}");
            Ok(())
        })
        .unwrap();
    }

    // Between them: nothing, in either direction, here and there; and not to the other one's gateway either.
    let gateway_of = |c: &Container| {
        let octets = c.address().unwrap().octets();
        format!("{}.{}.{}.1:53", octets[0], octets[1], octets[2])
    };
    for (client, to) in [
        (&plain_client, address(&blue, 8080)),
        (&plain_client, address(&blue_here, 8080)),
        (&plain_client, gateway_of(&blue_here)),
        (&blue_client, address(&plain, 8080)),
        (&blue_client, address(&plain_here, 8080)),
        (&blue_client, gateway_of(&plain_here)),
    ] {
        let said = connect(client.place(), &to, &["--timeout", "1"]).unwrap();
        assert!(said["result"] != "answered" && said["result"] != "refused", "{to}: {said}");
    }
    let dropped = h1.netctl(["drops", "-o", "json"]).unwrap().json().unwrap();
    let counted = |v: &Value| v["verdict"] == "container_other_network" && v["packets"].as_u64() > Some(0);
    assert!(dropped["verdicts"].as_array().unwrap().iter().any(counted), "{dropped}");

    // Names: each network's server, on its own gateway, tells of its own.
    for (client, name, found) in
        [(&plain_client, "web", true), (&plain_client, "sky", false), (&blue_client, "sky", true), (&blue_client, "web", false)]
    {
        let words = ["dig", "+time=2", "+tries=2", "+noall", "+answer", "+comments", &format!("{name}.skydns.local"), "A"];
        eventually(&format!("{name} is found: {found}"), SOON, || {
            let said = client.exec(words)?.success()?.stdout;
            ensure!(said.contains("status: NOERROR") == found && said.contains("status: NXDOMAIN") != found, "{said}");
            Ok(())
        })
        .unwrap();
    }
    for container in [plain, blue, plain_here, blue_here, plain_client, blue_client] {
        container.stop().unwrap();
    }
}

fn vip(host: &Host, words: &[&str]) -> String {
    let made = host.netctl([&["service", "create"], words, &["-o", "json"]].concat()).unwrap().json().unwrap();
    format!("{}:80", made["vip"].as_str().unwrap())
}

#[test]
fn networks_are_apart_with_the_programs() {
    let t = hosts(Topology::new(2).unwrap());
    let fast = |s: &Value| s["datapath"]["fast"] == true;
    for host in t.hosts() {
        host.agent.wait_status("the fast path", fast).unwrap();
    }
    each_network_works_and_none_reaches_the_other(&t);

    // Virtual IPs: a service belongs to one network, and only its containers reach it.
    let (h1, h2) = (t.host(1), t.host(2));
    let _plain = tcp_server(h2, &["--service", "web:8080"], 8080, "plain").unwrap();
    let _blue = tcp_server(h2, &with(&["--service", "sky:8080"]), 8080, "blue").unwrap();
    let (plain_client, blue_client) = (idle(h1, &[]).unwrap(), idle(h1, &with(&[])).unwrap());
    let web = vip(h1, &["web", "--port", "80:8080"]);
    let sky = vip(h1, &["sky", "--port", "80:8080", "--network", "blue"]);
    for (client, to, says) in [(&plain_client, &web, "plain"), (&blue_client, &sky, "blue")] {
        eventually(&format!("{says} by its virtual IP"), SOON, || {
            let who = who_answers(client.place(), to)?;
            ensure!(who == says, "{who}");
            Ok(())
        })
        .unwrap();
    }
    throughout("no virtual IP leads into the other network", Duration::from_secs(1), || {
        for (client, to) in [(&plain_client, &sky), (&blue_client, &web)] {
            let said = connect(client.place(), to, &["--timeout", "1"])?;
            ensure!(said["result"] != "answered", "{to}: {said}");
        }
        Ok::<_, anyhow::Error>(())
    })
    .unwrap();
}

#[test]
fn networks_are_apart_without_the_programs() {
    let t = Topology::new(2).unwrap();
    for host in t.hosts() {
        host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
    }
    let t = hosts(t);
    for host in t.hosts() {
        host.agent.wait_status("the kernel path", |s| s["datapath"]["fast"] == false).unwrap();
    }
    each_network_works_and_none_reaches_the_other(&t);
}

#[test]
fn a_network_is_made_once_kept_while_used_and_leaves_nothing_behind() {
    let t = hosts(Topology::new(2).unwrap());
    let (h1, h2) = (t.host(1), t.host(2));
    for (words, why) in [
        (vec!["create", "blue", "--cidr", "10.246.0.0/16", "--vni", "8"], "already, and it differs"),
        (vec!["create", "red", "--cidr", "10.245.0.0/20", "--vni", "8"], "the range of network blue"),
        (vec!["create", "red", "--cidr", "10.246.0.0/16", "--vni", "7"], "VNI 7 is that of network blue"),
        (vec!["create", "red", "--cidr", "10.244.0.0/20", "--vni", "8"], "the range of the default network"),
        (vec!["rm", "red"], "there is no network red"),
    ] {
        let said = h1.netctl([&["network"], words.as_slice()].concat()).unwrap();
        assert!(said.code() != 0 && said.stderr.contains(why), "{words:?}: {said:?}");
    }
    let refused = h1.netctl(["run", "--network", "red", "--", "true"]).unwrap();
    assert!(refused.code() != 0 && refused.stderr.contains("there is no network red"), "{refused:?}");
    let listed = h2.netctl(["network", "list", "-o", "json"]).unwrap().json().unwrap();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "blue"]);
    // In use, by a container that has no name and on another host.
    let there = tcp_server(h2, &with(&["--id", "there"]), 8080, "there").unwrap();
    let client = idle(h1, &with(&[])).unwrap();
    eventually("they reach each other", SOON, || who_answers(client.place(), &address(&there, 8080))).unwrap();
    // A restart is no event here either.
    let before = address(&there, 8080);
    let device = || h2.exec(["ip", "-json", "link", "show", "weft.7"])?.success()?.json();
    let index = device().unwrap()[0]["ifindex"].clone();
    assert!(index.is_u64(), "{index}");
    h2.agent.kill9().unwrap();
    who_answers(client.place(), &before).unwrap();
    h2.agent.start().unwrap();
    h2.agent.wait_ready().unwrap();
    throughout("it answers", Duration::from_secs(1), || who_answers(client.place(), &before).map(drop)).unwrap();
    // An attachment waits for the subnet there, so by then the agent has planned with all it knows.
    idle(h2, &with(&[])).unwrap().stop().unwrap();
    assert_eq!(device().unwrap()[0]["ifindex"], index, "the device was made again");
    client.stop().unwrap();
    eventually("it is refused to remove it", SOON, || {
        let said = h1.netctl(["network", "rm", "blue"])?;
        ensure!(said.code() != 0 && said.stderr.contains("containers on h2 are in it"), "{said:?}");
        Ok(())
    })
    .unwrap();
    there.stop().unwrap();
    eventually("it is removed", SOON, || h1.netctl(["network", "rm", "blue"])?.success()).unwrap();
    for host in t.hosts() {
        eventually(&format!("nothing of it is on {}", host.name()), SOON, || {
            let links = host.exec(["ip", "-brief", "link"])?.success()?.stdout;
            let routes = host.exec(["ip", "route"])?.success()?.stdout;
            ensure!(!links.contains("weft.7") && !routes.contains("10.245."), "{links}{routes}");
            Ok(())
        })
        .unwrap();
    }
    assert!(t.etcd().list("/weft/v1/subnets/blue/").unwrap().is_empty());
}
