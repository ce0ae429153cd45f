//! `netctl`: attaching by hand, what it prints, and its exit codes.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::sync::LazyLock;

use serde_json::{Value, json};
use weft_tests::eventually::SOON;
use weft_tests::topology::Shared;
use weft_tests::traffic::idle;
use weft_tests::{Host, Place, Topology, eventually};

static CLUSTER: LazyLock<Topology> = LazyLock::new(|| Topology::cluster(2).unwrap());

fn attach(host: &Host, place: &Place, more: &[&str]) -> weft_tests::Output {
    let netns = place.netns().to_string_lossy().into_owned();
    let words = [&["attach", "--netns", &netns, "-o", "json"], more].concat();
    host.netctl(words).unwrap()
}

fn listed(host: &Host, id: &str) -> Option<Value> {
    let all = host.netctl(["endpoint", "list", "-o", "json"]).unwrap().json().unwrap();
    all.as_array().unwrap().iter().find(|e| e["id"] == id).cloned()
}

#[test]
fn attach_gives_address_route_dns_and_record() {
    let t = Shared::of(&CLUSTER);
    let (h1, h2) = (t.host(1), t.host(2));
    let place = h1.bare_namespace("give").unwrap();
    let attached = attach(h1, &place, &["--id", "give", "--service", "given:80"]).json().unwrap();
    let address = attached["addresses"][0].as_str().unwrap();
    let (address, length) = address.split_once('/').unwrap();
    assert_eq!(length, "32");

    let shown = place.exec(["ip", "-4", "-json", "address", "show", "dev", "eth0"]).unwrap().json().unwrap();
    assert_eq!(shown[0]["addr_info"][0]["local"], address, "{shown}");
    let gateway = attached["gateway"].as_str().unwrap();
    let routes = place.exec(["ip", "route", "show", "default"]).unwrap().success().unwrap().stdout;
    assert!(routes.contains(&format!("via {gateway} dev eth0")), "{routes}");
    let answer = weft_tests::dns::dig(&place, gateway, &["given.skydns.local"]).unwrap();
    assert_eq!(answer.data("A"), [address]);
    eventually("a peer reaches it", SOON, || {
        let other = idle(h2, &[])?;
        other.exec(["ping", "-n", "-c", "1", "-W", "2", address])?.success()
    })
    .unwrap();
    h1.netctl(["detach", "give"]).unwrap().success().unwrap();
}

#[test]
fn detach_takes_all_of_it_back() {
    let t = Shared::of(&CLUSTER);
    let (h1, h2) = (t.host(1), t.host(2));
    let place = h1.bare_namespace("take").unwrap();
    let attached = attach(h1, &place, &["--id", "take", "--service", "taken:80"]).json().unwrap();
    let address = attached["addresses"][0].as_str().unwrap().split('/').next().unwrap().to_owned();
    let device = attached["host_ifname"].as_str().unwrap().to_owned();
    let route = |host: &Host| host.exec(["ip", "route", "show", &address]).unwrap().success().unwrap().stdout;
    assert!(route(h1).contains(&device), "{}", route(h1));
    eventually("its record on h2", SOON, || listed(h2, "take").ok_or("none")).unwrap();

    h1.netctl(["detach", "take"]).unwrap().success().unwrap();
    let links = place.exec(["ip", "-json", "link"]).unwrap().json().unwrap();
    assert_eq!(links.as_array().unwrap().len(), 1, "{links}");
    assert!(!h1.exec(["ip", "link", "show", &device]).unwrap().status.success());
    assert_eq!(route(h1), "");
    assert!(t.etcd().list("/skydns/local/skydns/taken/").unwrap().is_empty());
    eventually("no record on h2", SOON, || match listed(h2, "take") {
        None => Ok(()),
        Some(still) => Err(still.to_string()),
    })
    .unwrap();
    // Twice is refused: there is no such thing any more.
    assert_eq!(h1.netctl(["detach", "take"]).unwrap().code(), 1);
}

#[test]
fn a_process_names_its_namespace_as_well() {
    let t = Shared::of(&CLUSTER);
    let h1 = t.host(1);
    let place = h1.bare_namespace("bypid").unwrap();
    let process = place.spawn(h1.dir(), "bypid", ["sleep", "1000"]).unwrap();
    let words = ["attach", "--pid", &process.pid().to_string(), "--ifname", "net7", "--id", "bypid", "-o", "json"];
    let attached = h1.netctl(words).unwrap().json().unwrap();
    assert_eq!(attached["ifname"], "net7");
    place.exec(["ip", "link", "show", "net7"]).unwrap().success().unwrap();
    h1.netctl(["detach", "bypid"]).unwrap().success().unwrap();
}

#[test]
fn a_known_id_with_the_same_namespace_gets_its_first_result() {
    let t = Shared::of(&CLUSTER);
    let place = t.host(1).bare_namespace("same").unwrap();
    let first = attach(t.host(1), &place, &["--id", "same"]).json().unwrap();
    let second = attach(t.host(1), &place, &["--id", "same"]).json().unwrap();
    assert_eq!(first["addresses"], second["addresses"]);
    assert_eq!(first["mac"], second["mac"]);
    t.host(1).netctl(["detach", "same"]).unwrap().success().unwrap();
}

#[test]
fn a_known_id_with_another_namespace_or_interface_is_refused() {
    let t = Shared::of(&CLUSTER);
    let place = t.host(1).bare_namespace("twice").unwrap();
    let other = t.host(1).bare_namespace("twice-other").unwrap();
    attach(t.host(1), &place, &["--id", "twice"]).success().unwrap();
    let refused = attach(t.host(1), &other, &["--id", "twice"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("twice"), "{refused:?}");
    let refused = attach(t.host(1), &place, &["--id", "twice", "--ifname", "eth9"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    // And nothing was made there.
    let links = other.exec(["ip", "-json", "link"]).unwrap().json().unwrap();
    assert_eq!(links.as_array().unwrap().len(), 1, "{links}");
    t.host(1).netctl(["detach", "twice"]).unwrap().success().unwrap();
}

#[test]
fn an_interface_that_is_there_already_is_refused_and_left_alone() {
    let t = Shared::of(&CLUSTER);
    let place = t.host(1).bare_namespace("busy").unwrap();
    place.exec(["ip", "link", "add", "eth0", "type", "bridge"]).unwrap().success().unwrap();
    let refused = attach(t.host(1), &place, &["--id", "busy"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    let kind = place.exec(["ip", "-json", "-details", "link", "show", "eth0"]).unwrap().json().unwrap();
    assert_eq!(kind[0]["linkinfo"]["info_kind"], "bridge");
    assert!(listed(t.host(1), "busy").is_none());
}

#[test]
fn an_endpoint_has_the_documented_members() {
    let t = Shared::of(&CLUSTER);
    let container = idle(t.host(1), &["--id", "shape", "--name", "shape", "--service", "shapes:8080"]).unwrap();
    let row = eventually("its row on h2", SOON, || listed(t.host(2), "shape").ok_or("none")).unwrap();
    assert_eq!(row["addresses"], json!([container.address().unwrap()]), "{row}");
    assert_eq!((&row["node"], &row["state"]), (&"h1".into(), &"up".into()), "{row}");
    assert_eq!(row["ports"][0]["port"], 8080, "{row}");
    assert!(row["name"].is_string(), "{row}");
}

#[test]
fn a_status_has_the_documented_members() {
    let t = Shared::of(&CLUSTER);
    let status = t.host(1).agent.status().unwrap();
    assert_eq!((&status["node"], &status["ready"], &status["subnet6"]), (&"h1".into(), &true.into(), &Value::Null));
    assert_eq!((&status["store"]["kind"], &status["store"]["connected"]), (&"etcd".into(), &true.into()));
    assert!(status["store"]["revision"].as_i64().unwrap() > 0, "{status}");
    assert_eq!(status["datapath"], json!({"fast": true, "why_not": null, "sockets": true}));
    assert!(status["dns"][0].as_str().unwrap().ends_with(".1:53"), "{status}");
    assert_eq!(status["peers"][0]["via"], "fast", "{status}");
}

#[test]
fn every_listing_prints_as_table_json_and_yaml() {
    let t = Shared::of(&CLUSTER);
    let host = t.host(1);
    let _container = idle(host, &["--id", "forms", "--name", "forms"]).unwrap();
    host.netctl(["service", "create", "forms-service", "--port", "80"]).unwrap().success().unwrap();
    eventually("the endpoint is listed", SOON, || listed(host, "forms").ok_or("none")).unwrap();
    for (command, word) in [
        ("status", "h1"),
        ("network show", "10.244.0.0/16"),
        ("config show", "10.112.0.0/16"),
        ("node list", "h2"),
        ("node show h2", "h2"),
        ("plan", "revision"),
        ("drops", "container_spoofed_source"),
        ("drops --all", "encapsulated"),
        ("drops", "filter"),
        ("endpoint list", "forms"),
        ("service list", "forms-service"),
        ("service show forms-service", "10.112."),
        ("attachment list", "forms"),
        ("dns query forms.skydns.local", "10.244."),
    ] {
        let words: Vec<_> = command.split(' ').collect();
        for form in ["table", "wide", "json", "yaml"] {
            let output = host.netctl(words.iter().chain(&["-o", form])).unwrap().success().unwrap();
            assert!(output.stdout.contains(word), "{command} -o {form}: no {word} in\n{}", output.stdout);
            let is_json = serde_json::from_str::<Value>(&output.stdout).is_ok();
            assert_eq!(is_json, form == "json", "{command} -o {form}:\n{}", output.stdout);
        }
        let plain = host.netctl(&words).unwrap().success().unwrap();
        let table = host.netctl(words.iter().chain(&["-o", "table"])).unwrap().success().unwrap();
        // All but what changes by itself, such as a time to live.
        assert_eq!(plain.stdout.lines().next(), table.stdout.lines().next(), "a table is the default of {command}");
    }
}

#[test]
fn exit_codes_tell_done_refused_usage_and_no_agent() {
    let t = Shared::of(&CLUSTER);
    let host = t.host(1);
    let code = |words: &[&str]| host.netctl(words).unwrap().code();
    assert_eq!(code(&["status"]), 0);
    assert_eq!(code(&["service", "show", "nobody"]), 1);
    assert_eq!(code(&["node", "show", "nobody"]), 1);
    assert_eq!(code(&["endpoint", "rm", "nobody"]), 1);
    assert_eq!(code(&["dns", "query", "nobody.skydns.local"]), 1);
    assert_eq!(code(&["frobnicate"]), 2);
    assert_eq!(code(&["service", "create", "x", "--port", "http"]), 2);
    assert_eq!(code(&["service", "create", "Not A Name", "--port", "80"]), 2);
    assert_eq!(code(&["attach"]), 2);
    let words = [weft_tests::node::binary("netctl").unwrap().to_string_lossy().into_owned()];
    let none = host.exec(words.iter().map(String::as_str).chain(["--socket", "/nowhere/weft.sock", "status"])).unwrap();
    assert_eq!(none.code(), 3, "{none:?}");
    assert!(none.stderr.contains("/nowhere/weft.sock"), "{none:?}");
}

#[test]
fn a_wrong_flag_of_weftd_is_usage() {
    let t = Shared::of(&CLUSTER);
    let weftd = weft_tests::node::binary("weftd").unwrap().to_string_lossy().into_owned();
    for wrong in [["--lease-ttl", "soon"], ["--frobnicate", "1"], ["--public-ip", "here"]] {
        let output = t.host(1).exec([&[weftd.as_str()], &wrong[..]].concat()).unwrap();
        assert_eq!(output.code(), 2, "{output:?}");
        assert!(output.stderr.contains(wrong[0]), "{output:?}");
    }
}

#[test]
fn a_network_that_is_there_is_not_initialised_differently() {
    let t = Shared::of(&CLUSTER);
    let same = t.host(1).netctl(["network", "init", "--cidr", "10.244.0.0/16"]).unwrap();
    assert_eq!(same.code(), 0, "{same:?}");
    let other = t.host(1).netctl(["network", "init", "--cidr", "10.99.0.0/16"]).unwrap();
    assert_eq!(other.code(), 1, "{other:?}");
    let config: Value = serde_json::from_str(&t.etcd().get("/coreos.com/network/config").unwrap().unwrap()).unwrap();
    assert_eq!(config["Network"], "10.244.0.0/16");
}

#[test]
fn hosts_are_listed_with_their_subnets() {
    let t = Shared::of(&CLUSTER);
    let nodes = t.host(1).netctl(["node", "list", "-o", "json"]).unwrap().json().unwrap();
    for host in t.hosts() {
        let row = nodes.as_array().unwrap().iter().find(|n| n["node"] == host.name()).unwrap();
        assert_eq!(row["subnet"], host.agent.status().unwrap()["subnet"], "{row}");
        assert_eq!((&row["alive"], &row["public_ip"]), (&true.into(), &host.address().to_string().into()), "{row}");
    }
}
