//! An agent that is killed, stopped or started again is no event for the network.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::time::Duration;

use serde_json::Value;
use weft_tests::eventually::{SOON, throughout};
use weft_tests::traffic::{datagrams, idle, report, stream, tcp_server, udp_server, who_answers};
use weft_tests::{Host, Topology, eventually};

/// How long an agent is left dead.
const A_MINUTE: Duration = Duration::from_secs(60);

/// What must not change.
#[derive(Debug, PartialEq)]
struct Identity {
    subnet: Value,
    vip: Value,
    leases: Vec<(String, Value)>,
    device: Value,
}

fn identity(t: &Topology, host: &Host, service: &str) -> Identity {
    let leases = t.etcd().list("/coreos.com/network/subnets/").unwrap();
    let link = host.exec(["ip", "-json", "link", "show", "weft.1"]).unwrap().json().unwrap();
    Identity {
        subnet: host.agent.status().unwrap()["subnet"].clone(),
        vip: host.netctl(["service", "show", service, "-o", "json"]).unwrap().json().unwrap()["vip"].clone(),
        leases: leases
            .into_iter()
            .map(|(key, value)| (key, serde_json::from_str::<Value>(&value).unwrap()["BackendData"].clone()))
            .collect(),
        device: serde_json::json!([link[0]["ifindex"], link[0]["address"]]),
    }
}

fn backends(host: &Host, name: &str, count: usize) {
    eventually(&format!("{count} backends of {name} on {}", host.name()), SOON, || {
        let service = host.netctl(["service", "show", name, "-o", "json"])?.json()?;
        let used = service["backends"].as_array().map_or(0, |all| all.iter().filter(|b| b["used"] == true).count());
        anyhow::ensure!(used == count, "{service}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_agent_dead_for_a_minute_changes_nothing_and_loses_nothing() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let server = tcp_server(h2, &["--service", "web:8080"], 8080, "h2").unwrap();
    let echo = udp_server(h2, &["--service", "echo:5300"], 5300, "h2").unwrap();
    let create = |name: &str, port: &str| {
        let words = ["service", "create", name, "--port", port, "-o", "json"];
        h1.netctl(words).unwrap().json().unwrap()["vip"].as_str().unwrap().to_owned()
    };
    let (web, udp) = (format!("{}:80", create("web", "80:8080")), format!("{}:53", create("echo", "53:5300/udp")));
    backends(h1, "web", 1);
    backends(h1, "echo", 1);
    let client = idle(h1, &["--id", "client"]).unwrap();
    let client_address = client.address().unwrap();
    let server_address = server.address().unwrap();
    let before = identity(&t, h1, "web");

    // All kinds of traffic, all the while.
    let by_vip = stream(&client, "by-vip", &web).unwrap();
    let direct = stream(&client, "direct", &format!("{server_address}:8080")).unwrap();
    let udp_by_vip = datagrams(&client, "udp-by-vip", &udp).unwrap();
    let udp_direct = datagrams(&client, "udp-direct", &format!("{}:5300", echo.address().unwrap())).unwrap();

    h1.agent.kill9().unwrap();
    // New connections too, from a host whose agent is dead.
    throughout("new connections are answered", A_MINUTE, || {
        who_answers(client.place(), &web)?;
        who_answers(client.place(), &format!("{server_address}:8080")).map(drop)
    })
    .unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    h1.agent.wait_peers(1).unwrap();
    backends(h1, "web", 1);
    throughout("new connections are answered", Duration::from_secs(2), || who_answers(client.place(), &web).map(drop)).unwrap();

    assert_eq!(identity(&t, h1, "web"), before);
    assert_eq!(client.address().unwrap(), client_address);
    for tcp in [&by_vip, &direct] {
        let said = report(tcp).unwrap();
        assert_eq!(said["error"], Value::Null, "{}: {said}", tcp.command());
        assert!(said["echoed"].as_u64().unwrap() > 100, "{said}");
    }
    for udp in [&udp_by_vip, &udp_direct] {
        let said = report(udp).unwrap();
        assert_eq!(said["sent"], said["received"], "{}: {said}", udp.command());
        assert!(said["sent"].as_u64().unwrap() > 100, "{said}");
    }
}

#[test]
fn a_restarted_agent_still_knows_its_containers() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let first = idle(h1, &["--id", "first", "--name", "first"]).unwrap();
    h1.agent.kill9().unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    // Its address is taken, and the next one gets another.
    let second = idle(h1, &["--id", "second"]).unwrap();
    assert_ne!(first.address().unwrap(), second.address().unwrap());
    let attached = h1.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
    assert!(attached.as_array().unwrap().iter().any(|a| a["id"] == "first"), "{attached}");
    // And when it ends, its record goes, as if nothing had happened.
    first.stop().unwrap();
    eventually("the name is gone on h2", SOON, || {
        let answer = h2.netctl(["dns", "query", "first", "-o", "json"])?;
        anyhow::ensure!(answer.stdout.contains("NXDOMAIN"), "{answer:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_ended_while_its_agent_was_dead_is_forgotten_when_it_is_back() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let short = idle(h1, &["--id", "short", "--service", "short:80"]).unwrap();
    eventually("its record", SOON, || {
        let listed = h2.netctl(["endpoint", "list", "-o", "json"])?.success()?.stdout;
        anyhow::ensure!(listed.contains("\"short\""), "{listed}");
        Ok(())
    })
    .unwrap();
    h1.agent.kill9().unwrap();
    // Its namespace goes with it; nobody detaches.
    short.stop().unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    eventually("its record is gone", SOON, || {
        let listed = h2.netctl(["endpoint", "list", "-o", "json"])?.success()?.stdout;
        anyhow::ensure!(!listed.contains("\"short\""), "{listed}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_lost_state_directory_changes_no_subnet() {
    let t = Topology::cluster(2).unwrap();
    let h1 = t.host(1);
    h1.netctl(["service", "create", "kept", "--port", "80"]).unwrap().success().unwrap();
    let before = identity(&t, h1, "kept");
    h1.agent.stop().unwrap();
    std::fs::remove_dir_all(h1.agent.state_dir()).unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    assert_eq!(identity(&t, h1, "kept"), before);
}

#[test]
fn a_stopped_agent_keeps_its_leases() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let _container = idle(h1, &["--name", "stays"]).unwrap();
    eventually("the name on h2", SOON, || h2.netctl(["dns", "query", "stays"])?.success()).unwrap();
    let status = h1.agent.stop().unwrap();
    assert!(status.success(), "{status}");
    // Back before its lease has run out: nobody has noticed.
    h1.agent.start().unwrap();
    throughout("the name on h2", Duration::from_secs(7), || h2.netctl(["dns", "query", "stays"])?.success().map(drop)).unwrap();
    h1.agent.wait_ready().unwrap();
}

#[test]
fn etcd_restarted_is_found_again() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let server = tcp_server(h2, &["--service", "web:8080"], 8080, "h2").unwrap();
    let client = idle(h1, &[]).unwrap();
    let words = ["service", "create", "web", "--port", "80:8080", "-o", "json"];
    let vip = format!("{}:80", h1.netctl(words).unwrap().json().unwrap()["vip"].as_str().unwrap());
    backends(h1, "web", 1);
    t.etcd().stop().unwrap();
    for host in t.hosts() {
        host.agent.wait_status("it says that the store is away", |s| s["store"]["connected"] == false).unwrap();
    }
    // What was programmed stays: packets, names and virtual IPs.
    throughout("all goes on", Duration::from_secs(7), || {
        who_answers(client.place(), &format!("{}:8080", server.address()?))?;
        who_answers(client.place(), &vip)?;
        h1.netctl(["dns", "query", "web"])?.success().map(drop)
    })
    .unwrap();
    t.etcd().start().unwrap();
    for host in t.hosts() {
        host.agent.wait_status("it is connected", |s| s["store"]["connected"] == true && s["ready"] == true).unwrap();
    }
    let _new = idle(h2, &["--name", "afterwards"]).unwrap();
    eventually("a new name on h1", SOON, || h1.netctl(["dns", "query", "afterwards"])?.success()).unwrap();
}

#[test]
fn cleanup_removes_everything_of_ours() {
    let t = Topology::cluster(2).unwrap();
    let h1 = t.host(1);
    let container = idle(h1, &[]).unwrap();
    container.stop().unwrap();
    h1.agent.stop().unwrap();
    let mut words = h1.agent.command_line().unwrap();
    words.push("cleanup".into());
    h1.exec(words).unwrap().success().unwrap();
    let links = h1.exec(["ip", "-json", "link"]).unwrap().json().unwrap();
    let names: Vec<_> = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap()).collect();
    assert_eq!(names, ["lo", "up0"]);
    let routes = h1.exec(["ip", "route"]).unwrap().success().unwrap().stdout;
    assert!(!routes.contains("10.244.") && !routes.contains("10.112."), "{routes}");
    let tables = h1.exec(["nft", "list", "tables"]).unwrap().success().unwrap().stdout;
    assert!(!tables.contains("weft"), "{tables}");
    let addresses = h1.exec(["ip", "-4", "address", "show", "dev", "lo"]).unwrap().success().unwrap().stdout;
    assert!(!addresses.contains("10.244."), "{addresses}");
    let pins = std::fs::read_dir(h1.agent.bpffs()).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(pins, 0, "pins in {}", h1.agent.bpffs().display());
}
