//! Virtual IPs: where connections to them go, and where they do not.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::sync::LazyLock;

use serde_json::Value;
use weft_tests::dns::{dig, server_of};
use weft_tests::eventually::SOON;
use weft_tests::topology::Shared;
use weft_tests::traffic::{connect, idle, tally, tcp_server, udp_server};
use weft_tests::{Container, Host, Place, Topology, eventually};

static CLUSTER: LazyLock<Topology> = LazyLock::new(|| Topology::cluster(3).unwrap());

/// Creates a service and gives its virtual IP.
fn create(host: &Host, name: &str, port: &str) -> String {
    let created = host.netctl(["service", "create", name, "--port", port, "-o", "json"]).unwrap().json().unwrap();
    created["vip"].as_str().unwrap().to_owned()
}

fn show(host: &Host, name: &str) -> Value {
    host.netctl(["service", "show", name, "-o", "json"]).unwrap().json().unwrap()
}

/// Waits until a host's agent has this many backends in use for a service.
fn backends(host: &Host, name: &str, count: usize) {
    eventually(&format!("{count} backends of {name} on {}", host.name()), SOON, || {
        let service = show(host, name);
        let used = service["backends"].as_array().unwrap().iter().filter(|b| b["used"] == true).count();
        if used == count { Ok(()) } else { Err(service.to_string()) }
    })
    .unwrap();
}

/// A TCP service with an instance on each of the named hosts; every instance says its host's name.
fn tcp_service(name: &str, hosts: &[usize]) -> (String, Vec<Container>) {
    let instance = format!("{name}:8080");
    let servers: Vec<_> = hosts
        .iter()
        .map(|n| tcp_server(CLUSTER.host(*n), &["--service", &instance], 8080, CLUSTER.host(*n).name()).unwrap())
        .collect();
    let vip = create(CLUSTER.host(1), name, "80:8080");
    for host in CLUSTER.hosts() {
        backends(host, name, hosts.len());
    }
    (vip, servers)
}

/// What a place gets that connects there.
fn result(from: &Place, to: &str, options: &[&str]) -> String {
    connect(from, to, options).unwrap()["result"].as_str().unwrap().to_owned()
}

#[test]
fn a_virtual_ip_comes_from_the_service_range_and_is_kept_in_the_store() {
    let t = Shared::of(&CLUSTER);
    let vip = create(t.host(1), "ranged", "80");
    assert!(vip.starts_with("10.112."), "{vip}");
    let owner: Value = serde_json::from_str(&t.etcd().get(&format!("/weft/v1/vips/{vip}")).unwrap().unwrap()).unwrap();
    assert_eq!(owner["service"], "default/ranged");
    assert!(t.etcd().get("/weft/v1/services/default/ranged").unwrap().is_some());
}

#[test]
fn no_two_services_share_a_virtual_ip() {
    let t = Shared::of(&CLUSTER);
    // At the same moment, on two hosts.
    let vips: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> =
            (0..8).map(|n| scope.spawn(move || create(CLUSTER.host(n % 3 + 1), &format!("many{n}"), "80"))).collect();
        makers.into_iter().map(|m| m.join().unwrap()).collect()
    });
    let different: std::collections::BTreeSet<_> = vips.iter().collect();
    assert_eq!(different.len(), 8, "{vips:?}");
    drop(t);
}

#[test]
fn the_json_of_a_service_is_as_documented() {
    let t = Shared::of(&CLUSTER);
    let (vip, servers) = tcp_service("shaped", &[2]);
    let service = show(t.host(1), "shaped");
    assert_eq!((&service["namespace"], &service["name"], &service["vip"]), (&"default".into(), &"shaped".into(), &vip.into()));
    assert_eq!((&service["ports"][0]["port"], &service["ports"][0]["target"]), (&80.into(), &8080.into()), "{service}");
    assert_eq!(service["ports"][0]["proto"], "tcp");
    let backend = &service["backends"][0];
    assert_eq!(backend["address"], servers[0].address().unwrap().to_string());
    assert_eq!((&backend["port"], &backend["node"], &backend["state"]), (&8080.into(), &"h2".into(), &"up".into()), "{backend}");
    assert!(backend["id"].is_string());
}

#[test]
fn the_name_answers_with_the_virtual_ip_on_every_host() {
    let t = Shared::of(&CLUSTER);
    let (vip, servers) = tcp_service("named", &[1, 2]);
    for host in t.hosts() {
        let server = server_of(&host.agent.status().unwrap()).unwrap();
        eventually(&format!("the name on {}", host.name()), SOON, || {
            let answer = dig(host.place(), &server, &["named.skydns.local"])?;
            anyhow::ensure!(answer.data("A") == [vip.clone()], "{answer:?}");
            Ok(())
        })
        .unwrap();
        let mut instances: Vec<_> = servers.iter().map(|s| s.address().unwrap().to_string()).collect();
        instances.sort();
        let answer = dig(host.place(), &server, &["tasks.named.skydns.local"]).unwrap();
        assert_eq!(answer.data("A"), instances);
        let answer = dig(host.place(), &server, &["named.skydns.local", "SRV"]).unwrap();
        assert!(answer.data("SRV").len() == 2 && answer.data("SRV").iter().all(|d| d.contains(" 8080 ")), "{answer:?}");
    }
}

#[test]
fn connections_are_spread_over_containers_of_all_hosts() {
    let t = Shared::of(&CLUSTER);
    let (vip, _servers) = tcp_service("spread", &[1, 2, 3]);
    for host in t.hosts() {
        let client = idle(host, &[]).unwrap();
        // With three equal backends, one of them is left out of 60 by chance once in ten thousand million.
        let counts = tally(client.place(), &format!("{vip}:80"), 60).unwrap();
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["h1", "h2", "h3"], "from {}: {counts:?}", host.name());
    }
}

#[test]
fn a_host_itself_reaches_a_virtual_ip() {
    let t = Shared::of(&CLUSTER);
    let (vip, _servers) = tcp_service("fromhost", &[1, 2]);
    for host in t.hosts() {
        let report = connect(host.place(), &format!("{vip}:80"), &[]).unwrap();
        assert_eq!(report["result"], "answered", "{}: {report}", host.name());
    }
}

#[test]
fn an_ipv6_socket_reaches_it_as_a_mapped_address() {
    let t = Shared::of(&CLUSTER);
    let (vip, _servers) = tcp_service("mapped", &[2]);
    let client = idle(t.host(1), &[]).unwrap();
    let report = connect(client.place(), &format!("{vip}:80"), &["--mapped"]).unwrap();
    assert_eq!((&report["result"], &report["said"]), (&"answered".into(), &"h2".into()), "{report}");
    assert_eq!(report["peer"], format!("[::ffff:{vip}]:80"), "the peer is named as it was called");
}

#[test]
fn the_peer_is_named_as_it_was_called() {
    let t = Shared::of(&CLUSTER);
    let (vip, _servers) = tcp_service("peername", &[2]);
    let client = idle(t.host(1), &[]).unwrap();
    let report = connect(client.place(), &format!("{vip}:80"), &[]).unwrap();
    assert_eq!(report["peer"], format!("{vip}:80"), "{report}");
}

#[test]
fn datagrams_go_to_a_backend_and_come_back_from_the_virtual_ip() {
    let t = Shared::of(&CLUSTER);
    let _server = udp_server(t.host(2), &["--service", "udp:5300"], 5300, "h2").unwrap();
    let vip = create(t.host(1), "udp", "53:5300/udp");
    let client = idle(t.host(1), &[]).unwrap();
    backends(t.host(1), "udp", 1);
    let to = format!("{vip}:53");
    for options in [&["--udp"][..], &["--udp", "--unconnected"]] {
        let report = connect(client.place(), &to, options).unwrap();
        assert_eq!((&report["result"], &report["said"]), (&"answered".into(), &"h2 hello".into()), "{options:?}: {report}");
        assert_eq!(report["peer"], to.as_str(), "{options:?}");
    }
    for options in [&["--udp", "--mapped"][..], &["--udp", "--unconnected", "--mapped"]] {
        let report = connect(client.place(), &to, options).unwrap();
        assert_eq!(report["result"], "answered", "{options:?}: {report}");
        assert_eq!(report["peer"], format!("[::ffff:{vip}]:53"), "{options:?}");
    }
}

#[test]
fn an_existing_connection_stays_with_its_backend() {
    let t = Shared::of(&CLUSTER);
    let (vip, servers) = tcp_service("sticky", &[2, 3]);
    let client = idle(t.host(1), &[]).unwrap();
    let stream = weft_tests::traffic::stream(&client, "sticky", &format!("{vip}:80")).unwrap();
    let with = stream.stderr().trim().strip_prefix("connected to ").unwrap().to_owned();
    // The other one goes; the connection must not notice.
    let (goes, stays) = if with == "h2" { (1, 0) } else { (0, 1) };
    servers[goes].stop().unwrap();
    backends(t.host(1), "sticky", 1);
    let report = weft_tests::traffic::report(&stream).unwrap();
    assert_eq!(report["error"], Value::Null, "{report}");
    let now = tally(client.place(), &format!("{vip}:80"), 10).unwrap();
    assert_eq!(now.len(), 1, "{now:?} while only {} is left", servers[stays].pid());
}

#[test]
fn a_service_without_backend_refuses_at_once() {
    let t = Shared::of(&CLUSTER);
    let vip = create(t.host(1), "empty", "80");
    backends(t.host(2), "empty", 0);
    let client = idle(t.host(2), &[]).unwrap();
    for from in [client.place(), t.host(2).place()] {
        assert_eq!(result(from, &format!("{vip}:80"), &[]), "refused");
        assert_eq!(result(from, &format!("{vip}:80"), &["--mapped"]), "refused");
    }
}

#[test]
fn a_port_that_the_service_lacks_refuses_at_once() {
    let t = Shared::of(&CLUSTER);
    let (vip, _servers) = tcp_service("lacking", &[2]);
    let client = idle(t.host(1), &[]).unwrap();
    for from in [client.place(), t.host(1).place()] {
        assert_eq!(result(from, &format!("{vip}:80"), &[]), "answered");
        assert_eq!(result(from, &format!("{vip}:81"), &[]), "refused");
        assert_eq!(result(from, &format!("{vip}:8080"), &[]), "refused", "the backends' port is not the service's");
        assert_eq!(result(from, &format!("{vip}:80"), &["--udp"]), "refused", "the service is TCP's");
    }
}

#[test]
fn a_free_address_of_the_range_refuses_at_once() {
    let t = Shared::of(&CLUSTER);
    let client = idle(t.host(1), &[]).unwrap();
    for from in [client.place(), t.host(1).place()] {
        assert_eq!(result(from, "10.112.255.250:80", &[]), "refused");
        assert_eq!(result(from, "10.112.255.250:80", &["--udp"]), "refused");
        assert_eq!(result(from, "10.112.255.250:80", &["--udp", "--unconnected"]), "refused");
    }
}

#[test]
fn nothing_for_the_service_range_leaves_a_host() {
    let t = Shared::of(&CLUSTER);
    let client = idle(t.host(1), &[]).unwrap();
    let filter = "dst net 10.112.0.0/16 or (icmp and dst host 10.77.0.254)";
    let capture = t.fabric().spawn(t.dir(), "capture", ["tcpdump", "-n", "-l", "-U", "-i", "br0", filter]).unwrap();
    eventually("tcpdump listens", SOON, || match capture.stderr() {
        said if said.contains("listening on") => Ok(()),
        said => Err(said),
    })
    .unwrap();
    for from in [client.place(), t.host(1).place()] {
        // ping's sockets are translated by no one: only the route keeps them in.
        let said = from.exec(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "10.112.255.251"]).unwrap();
        assert!(!said.status.success(), "{said:?}");
    }
    // Proof that the capture sees what does leave.
    t.host(1).exec(["ping", "-n", "-c", "1", "-W", "2", "10.77.0.254"]).unwrap().success().unwrap();
    eventually("the packet that may leave", SOON, || match capture.stdout() {
        seen if seen.contains("> 10.77.0.254") => Ok(()),
        seen => Err(seen),
    })
    .unwrap();
    assert!(!capture.stdout().contains("10.112."), "{}", capture.stdout());
}

#[test]
fn every_host_has_an_unreachable_route_for_the_service_range() {
    let t = Shared::of(&CLUSTER);
    for host in t.hosts() {
        let routes = host.exec(["ip", "route", "show", "10.112.0.0/16"]).unwrap().success().unwrap().stdout;
        assert!(routes.starts_with("unreachable 10.112.0.0/16"), "{}: {routes:?}", host.name());
        let routes = host.exec(["ip", "-6", "route", "show", "fd57:6566:7400::/112"]).unwrap().success().unwrap().stdout;
        assert!(routes.starts_with("unreachable fd57:6566:7400::/112"), "{}: {routes:?}", host.name());
    }
}

#[test]
fn a_removed_service_frees_its_virtual_ip_and_leaves_its_instances() {
    let t = Shared::of(&CLUSTER);
    let (vip, servers) = tcp_service("removed", &[2]);
    let client = idle(t.host(1), &[]).unwrap();
    t.host(3).netctl(["service", "rm", "removed"]).unwrap().success().unwrap();
    eventually("the address is free", SOON, || match result(client.place(), &format!("{vip}:80"), &[]) {
        word if word == "refused" => Ok(()),
        word => Err(word),
    })
    .unwrap();
    assert_eq!(t.etcd().get(&format!("/weft/v1/vips/{vip}")).unwrap(), None);
    assert_eq!(t.host(1).netctl(["service", "show", "removed"]).unwrap().code(), 1);
    let server = server_of(&t.host(1).agent.status().unwrap()).unwrap();
    eventually("the name stands for the instance again", SOON, || {
        let answer = dig(t.host(1).place(), &server, &["removed.skydns.local"])?;
        anyhow::ensure!(answer.data("A") == [servers[0].address()?.to_string()], "{answer:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_service_that_exists_is_not_created_again() {
    let t = Shared::of(&CLUSTER);
    let vip = create(t.host(1), "once", "80");
    let again = t.host(2).netctl(["service", "create", "once", "--port", "81"]).unwrap();
    assert_eq!(again.code(), 1, "{again:?}");
    assert!(again.stderr.contains("once"), "{again:?}");
    assert_eq!(show(t.host(2), "once")["vip"], vip);
}

#[test]
fn creating_a_service_tells_what_its_name_answered_before() {
    let t = Shared::of(&CLUSTER);
    let server = tcp_server(t.host(2), &["--service", "taken:8080"], 8080, "h2").unwrap();
    let address = server.address().unwrap().to_string();
    eventually("the record is known on h1", SOON, || {
        let listed = t.host(1).netctl(["endpoint", "list", "-o", "json"])?.success()?.stdout;
        anyhow::ensure!(listed.contains(&address), "{listed}");
        Ok(())
    })
    .unwrap();
    let created = t.host(1).netctl(["service", "create", "taken", "--port", "80:8080", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(created["answered_before"], serde_json::json!([address]));
}

#[test]
fn a_named_container_is_no_backend() {
    let t = Shared::of(&CLUSTER);
    let _named = tcp_server(t.host(2), &["--name", "merename"], 8080, "h2").unwrap();
    let vip = create(t.host(1), "merename", "80:8080");
    let client = idle(t.host(1), &[]).unwrap();
    backends(t.host(1), "merename", 0);
    assert_eq!(result(client.place(), &format!("{vip}:80"), &[]), "refused");
}

#[test]
fn labels_select_backends_of_any_name() {
    let t = Shared::of(&CLUSTER);
    let _red = tcp_server(t.host(2), &["--service", "colours:8080", "--label", "colour=red"], 8080, "red").unwrap();
    let _blue = tcp_server(t.host(3), &["--service", "colours:8080", "--label", "colour=blue"], 8080, "blue").unwrap();
    let words = ["service", "create", "reds", "--port", "80:8080", "--selector", "colour=red", "-o", "json"];
    let created = t.host(1).netctl(words).unwrap().json().unwrap();
    let vip = created["vip"].as_str().unwrap();
    backends(t.host(1), "reds", 1);
    let client = idle(t.host(1), &[]).unwrap();
    let counts = tally(client.place(), &format!("{vip}:80"), 10).unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["red"]);
}

#[test]
fn a_container_that_ends_gets_no_more_connections() {
    let t = Shared::of(&CLUSTER);
    let (vip, servers) = tcp_service("shrinking", &[2, 3]);
    let client = idle(t.host(1), &[]).unwrap();
    servers[0].stop().unwrap();
    backends(t.host(1), "shrinking", 1);
    let counts = tally(client.place(), &format!("{vip}:80"), 20).unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["h3"]);
}

#[test]
fn labels_and_port_names_that_no_record_can_bear_are_refused() {
    let t = Shared::of(&CLUSTER);
    let long = format!("k={}", "v".repeat(256));
    for (more, why) in [
        (["--label", "a b=v"], "label key \"a b\""),
        (["--label", &long], "label k="),
        (["--port-name", "a/b"], "port name \"a/b\""),
    ] {
        let added = t.host(1).netctl(["endpoint", "add", "unfit", "10.77.0.253:9000", more[0], more[1]]).unwrap();
        assert!(added.code() != 0 && added.stderr.contains(why), "{added:?}");
    }
    let created = t.host(1).netctl(["service", "create", "unfit", "--port", "80", "--selector", "a b=v"]).unwrap();
    assert!(created.code() != 0 && created.stderr.contains("selector \"a b=v\""), "{created:?}");
    assert!(!t.host(1).netctl(["endpoint", "list"]).unwrap().success().unwrap().stdout.contains("unfit"));
}

#[test]
fn an_address_outside_is_a_backend_when_it_is_added() {
    let t = Shared::of(&CLUSTER);
    // Something on the fabric that Weft knows nothing of.
    let probe = weft_tests::traffic::probe().unwrap();
    let _server =
        t.fabric().spawn(t.dir(), "outside", [probe.as_str(), "serve-tcp", "10.77.0.254:9000", "--say", "outside"]).unwrap();
    t.host(1).netctl(["endpoint", "add", "external", "10.77.0.254:9000", "--id", "out"]).unwrap().success().unwrap();
    let vip = create(t.host(1), "external", "80");
    backends(t.host(2), "external", 1);
    // Once more under another id: that is no second backend, and said.
    t.host(1).netctl(["endpoint", "add", "external", "10.77.0.254:9000", "--id", "same"]).unwrap().success().unwrap();
    t.host(2).netctl(["wait", "--endpoint", "same"]).unwrap().success().unwrap();
    let told = "rejected: 10.77.0.254:9000 is the endpoint out's as well, and one backend for both";
    let rejected = show(t.host(2), "external")["rejected"][0].clone();
    assert_eq!((rejected["id"].as_str(), rejected["reason"].as_str()), (Some("same"), Some(told)));
    eventually("status tells too", SOON, || {
        let reasons = t.host(2).agent.status().unwrap()["reasons"].to_string();
        let told = "service default/external: endpoint same: 10.77.0.254:9000 is the endpoint out's as well";
        if reasons.contains(told) { Ok(()) } else { Err(reasons) }
    })
    .unwrap();
    backends(t.host(2), "external", 1);
    t.host(2).netctl(["endpoint", "rm", "same", "--service", "external"]).unwrap().success().unwrap();
    eventually("the outside answers", SOON, || {
        weft_tests::traffic::who_answers(t.host(2).place(), &format!("{vip}:80")).map(|who| assert_eq!(who, "outside"))
    })
    .unwrap();
    t.host(2).netctl(["endpoint", "rm", "out", "--service", "external"]).unwrap().success().unwrap();
    backends(t.host(1), "external", 0);
}

/// What an agent says to a request by any program.
fn ask(host: &Host, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let answer = weft_tests::api::call(&host.agent.socket(), method, path, body).unwrap();
    (answer.status, answer.body)
}

#[test]
fn a_service_is_changed_in_place_and_its_virtual_ip_stays_until_it_has_none() {
    let t = Shared::of(&CLUSTER);
    let (vip, _servers) = tcp_service("changed", &[2]);
    let key = format!("/weft/v1/vips/{vip}");
    let set = |words: &[&str]| {
        let words = [&["service", "set", "changed"], words, &["-o", "json"]].concat();
        t.host(3).netctl(words).unwrap().success().unwrap().json().unwrap()
    };
    let changed = set(&["--add-port", "alt=81:8080", "--rm-port", "80", "--label", "team=a", "--panic", "40"]);
    assert_eq!((&changed["vip"], &changed["labels"]["team"], &changed["panic"]), (&vip.clone().into(), &"a".into(), &40.into()));
    let client = idle(t.host(1), &[]).unwrap();
    eventually("the new port leads where the old one did", SOON, || {
        let got = (result(client.place(), &format!("{vip}:81"), &[]), result(client.place(), &format!("{vip}:80"), &[]));
        if got == ("answered".to_owned(), "refused".to_owned()) { Ok(()) } else { Err(format!("{got:?}")) }
    })
    .unwrap();
    let kept = set(&["--algorithm", "maglev"]);
    assert!(kept["not_applied"][0].as_str().unwrap().contains("not yet applied"), "{kept}");
    // Replaced as a whole: what is not said is not so, but the address stays.
    let (status, put) =
        ask(t.host(1), "PUT", "/v1/services/default/changed", &serde_json::json!({"ports": [{"port": 80, "target": 8080}]}));
    assert_eq!(
        (status, &put["vip"], &put["panic"], &put["labels"]),
        (200, &vip.clone().into(), &0.into(), &serde_json::json!({}))
    );
    let (status, again) =
        ask(t.host(2), "PUT", "/v1/services/default/changed", &serde_json::json!({"ports": [{"port": 80, "target": 8080}]}));
    assert_eq!((status, &again["revision"]), (200, &put["revision"]), "what is there already is not written again");
    let (status, moved) =
        ask(t.host(1), "PUT", "/v1/services/default/changed", &serde_json::json!({"ports": [{"port": 80}], "network": "blue"}));
    assert!(status == 400 && moved["error"]["message"].as_str().unwrap().contains("no network blue"), "{status} {moved}");
    let (status, odd) = ask(t.host(1), "PUT", "/v1/services/default/changed", &serde_json::json!({"port": 80}));
    assert_eq!((status, odd["error"]["code"].as_str()), (400, Some("invalid")), "{odd}");
    assert!(t.etcd().get(&key).unwrap().is_some());
    let headless = set(&["--headless"]);
    assert_eq!((&headless["vip"], t.etcd().get(&key).unwrap()), (&Value::Null, None), "given back with the definition");
    let back = set(&["--headless=false"]);
    assert_eq!(back["vips"].as_array().unwrap().len(), 1);
    let two = set(&["--vip", &vip, "--vip", "10.112.7.9"]);
    assert_eq!(two["vips"], serde_json::json!([vip, "10.112.7.9"]));
    eventually("both addresses lead there", SOON, || {
        let got = [vip.as_str(), "10.112.7.9"].map(|vip| result(client.place(), &format!("{vip}:80"), &[]));
        if got == ["answered", "answered"] { Ok(()) } else { Err(format!("{got:?}")) }
    })
    .unwrap();
    let taken = t.host(1).netctl(["service", "create", "changed2", "--port", "80", "--vip", "10.112.7.9"]).unwrap();
    assert!(taken.code() == 1 && taken.stderr.contains("10.112.7.9 belongs to default/changed"), "{taken:?}");
    let removed = t.host(1).netctl(["service", "rm", "changed"]).unwrap();
    assert_eq!(removed.code(), 0, "{removed:?}");
    let left = [key, "/weft/v1/vips/10.112.7.9".to_owned()].map(|key| t.etcd().get(&key).unwrap());
    assert_eq!(left, [None, None], "both are given back");
}

#[test]
fn sets_of_labels_select_backends() {
    let t = Shared::of(&CLUSTER);
    let server = |env: &str, more: &[&str]| {
        let env = format!("env={env}");
        tcp_server(t.host(2), &[&["--service", "envs:8080", "--label", &env], more].concat(), 8080, &env).unwrap()
    };
    let _servers = [server("dev", &[]), server("test", &["--label", "old=1"]), server("prod", &[])];
    let words = ["service", "create", "chosen", "--port", "80:8080", "--selector", "env in (dev, test),!old", "-o", "json"];
    let created = t.host(1).netctl(words).unwrap().json().unwrap();
    assert_eq!(created["expressions"][0]["operator"], "In");
    backends(t.host(1), "chosen", 1);
    let shown = t.host(1).netctl(["service", "show", "chosen"]).unwrap().success().unwrap().stdout;
    assert!(shown.contains("env in (dev,test),!old"), "{shown}");
    t.host(3).netctl(["service", "set", "chosen", "--selector", "env notin (dev),env"]).unwrap().success().unwrap();
    backends(t.host(1), "chosen", 2);
    let client = idle(t.host(1), &[]).unwrap();
    let vip = created["vip"].as_str().unwrap();
    eventually("its connections go to both", SOON, || {
        let counts = tally(client.place(), &format!("{vip}:80"), 40).unwrap();
        if counts.keys().collect::<Vec<_>>() == ["env=prod", "env=test"] { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .unwrap();
}

#[test]
fn a_service_that_stands_for_a_name_is_an_alias() {
    let t = Shared::of(&CLUSTER);
    let vip = create(t.host(1), "pointed", "80");
    t.host(2).netctl(["service", "create", "pointer", "--external-name", "pointed.skydns.local"]).unwrap().success().unwrap();
    let server = server_of(&t.host(3).agent.status().unwrap()).unwrap();
    eventually("the alias on h3", SOON, || {
        let answer = dig(t.host(3).place(), &server, &["pointer.skydns.local"])?;
        anyhow::ensure!(answer.data("CNAME") == ["pointed.skydns.local."] && answer.data("A") == [vip.clone()], "{answer:?}");
        Ok(())
    })
    .unwrap();
    let refused = t.host(1).netctl(["service", "create", "pointer2", "--external-name", "a.b", "--vip", "10.112.7.8"]).unwrap();
    assert_eq!(refused.code(), 2, "{refused:?}");
}

#[test]
fn two_that_list_one_address_are_both_told_and_one_has_it_everywhere() {
    let t = Shared::of(&CLUSTER);
    let (vip, _servers) = tcp_service("owner", &[2]);
    // As a restored backup would have it.
    let value = format!(r#"{{"ports":[{{"name":"","port":80,"target":null,"proto":"tcp"}}],"vips":["{vip}"]}}"#);
    t.etcd().put("/weft/v1/services/default/claimant", &value).unwrap();
    for host in t.hosts() {
        eventually(&format!("both are told on {}", host.name()), SOON, || {
            let (owner, claimant) = (show(host, "owner"), show(host, "claimant"));
            let told = owner["conflicts"][0]
                .as_str()
                .is_some_and(|c| c == format!("default/claimant lists {vip} as well; default/owner has it"));
            let refused = claimant["rejected"][0]["reason"].as_str() == Some("it belongs to the service default/owner");
            if told && refused { Ok(()) } else { Err(format!("{owner} {claimant}")) }
        })
        .unwrap();
        let client = idle(host, &[]).unwrap();
        assert_eq!(result(client.place(), &format!("{vip}:80"), &[]), "answered");
    }
    // Written anew it gets one of its own.
    t.host(1).netctl(["service", "set", "claimant", "--label", "a=b"]).unwrap().success().unwrap();
    let own = show(t.host(1), "claimant");
    assert!(own["vip"] != vip.as_str() && own["rejected"] == serde_json::json!([]), "{own}");
    assert_eq!(show(t.host(1), "owner")["conflicts"], serde_json::json!([]));
}

#[test]
fn health_alone_empties_no_service_and_status_says_so() {
    let t = Shared::of(&CLUSTER);
    let sick = tcp_server(t.host(2), &["--name", "sickbed"], 8080, "h2").unwrap();
    let record = format!(
        r#"{{"host":"{}","port":8080,"targetstrip":1,"weft":{{"id":"a","state":"down","unhealthy":true}}}}"#,
        sick.address().unwrap()
    );
    t.etcd().put("/weft/v1/down/local/skydns/sick/a/4", &record).unwrap();
    let vip = create(t.host(1), "sick", "80");
    let host = t.host(3);
    backends(host, "sick", 1);
    let service = show(host, "sick");
    assert_eq!((&service["panicking"], &service["ready"], &service["total"]), (&true.into(), &1.into(), &1.into()));
    let client = idle(host, &[]).unwrap();
    eventually("connections go there all the same", SOON, || {
        let got = result(client.place(), &format!("{vip}:80"), &[]);
        if got == "answered" { Ok(()) } else { Err(got) }
    })
    .unwrap();
    let of_it = || {
        let status = host.agent.status().unwrap();
        status["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r.as_str().unwrap().starts_with("service default/sick: 0 of 1 endpoints are healthy"))
    };
    eventually("status says so", SOON, || if of_it() { Ok(()) } else { Err("not yet".to_owned()) }).unwrap();
    t.etcd().delete("/weft/v1/down/local/skydns/sick/a/4").unwrap();
    eventually("status does not say so any more", SOON, || if of_it() { Err("still".to_owned()) } else { Ok(()) }).unwrap();
}
