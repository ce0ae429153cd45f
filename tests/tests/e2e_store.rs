//! The store as a whole: moved to another one and back, looked through for what is left over, and used with few rights.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::traffic::{idle, tcp_server, who_answers};
use weft_tests::{Host, Topology, eventually};

fn netctl(host: &Host, args: &[&str]) -> Value {
    host.netctl(args.iter().copied().chain(["-o", "json"])).unwrap().json().unwrap()
}

fn refused(host: &Host, args: &[&str]) -> String {
    let output = host.netctl(args.iter().copied()).unwrap();
    assert_eq!(output.code(), 1, "{args:?}: {output:?}");
    output.stderr
}

/// What of a document is there for good.
fn permanent(document: &Path) -> BTreeMap<String, String> {
    let document: Value = serde_json::from_str(&std::fs::read_to_string(document).unwrap()).unwrap();
    assert_eq!(document["weft_store"], 1, "{document}");
    let entries = document["entries"].as_array().unwrap().iter().filter(|entry| entry["leased"] == false);
    entries.map(|entry| (entry["key"].to_string(), entry["value"].to_string())).collect()
}

/// What people made: the service with its address, who stands behind it, what is kept for whom.
fn made(host: &Host) -> Result<Vec<String>> {
    let of = |value: &Value, names: &[&str]| names.iter().map(|name| value[*name].to_string()).collect::<Vec<_>>().join(" ");
    let mut lines = Vec::new();
    for service in netctl(host, &["service", "list"]).as_array().unwrap() {
        lines.push(of(service, &["name", "vips"]));
    }
    for endpoint in netctl(host, &["endpoint", "list"]).as_array().unwrap() {
        lines.push(of(endpoint, &["id", "addresses", "labels"]));
    }
    for reservation in netctl(host, &["network", "reservations"]).as_array().unwrap() {
        lines.push(of(reservation, &["node", "subnet"]));
    }
    for network in netctl(host, &["network", "list"]).as_array().unwrap() {
        lines.push(of(network, &["name", "cidr"]));
    }
    ensure!(!lines.is_empty());
    Ok(lines)
}

#[test]
fn a_store_moves_to_etcd_and_back_with_all_that_people_made() {
    let t = Topology::new(2).unwrap();
    let (old, new) = (t.host(1), t.host(2));
    // The first host has no etcd.
    old.agent.unset_flag("etcd-endpoints");
    old.agent.start().unwrap();
    old.agent.wait_ready().unwrap();
    netctl(old, &["network", "create", "blue", "--cidr", "10.245.0.0/16", "--vni", "7"]);
    netctl(old, &["network", "reserve", "h9", "10.244.9.0/24"]);
    netctl(old, &["endpoint", "add", "db", "192.0.2.9:5432", "--id", "db-1", "--label", "tier=back"]);
    let vip = netctl(old, &["service", "create", "db", "--port", "5432"])["vip"].clone();
    let server = tcp_server(old, &["--service", "web:7000"], 7000, "h1").unwrap();
    netctl(old, &["service", "create", "web", "--port", "80:7000"]);
    eventually("the container is registered", SOON, || {
        let endpoints = netctl(old, &["endpoint", "list"]);
        ensure!(endpoints.as_array().unwrap().len() == 2, "{endpoints}");
        Ok(())
    })
    .unwrap();
    let document = t.dir().join("export.json");
    let path = document.to_str().unwrap();
    let exported = netctl(old, &["store", "export", path]);
    assert!(exported["keys"].as_u64().unwrap() > exported["leased"].as_u64().unwrap(), "{exported}");
    assert!(exported["leased"].as_u64().unwrap() >= 3, "node, subnet and record: {exported}");
    // The same to standard output.
    let printed = old.netctl(["store", "export"]).unwrap().success().unwrap().stdout;
    std::fs::write(t.dir().join("printed.json"), &printed).unwrap();
    assert_eq!(permanent(&t.dir().join("printed.json")), permanent(&document));

    t.etcd().start().unwrap();
    new.agent.start().unwrap();
    new.agent.wait_status("the store has been read", |s| s["store"]["revision"].as_i64() > Some(0)).unwrap();
    let dry = netctl(new, &["store", "import", path, "--dry-run"]);
    assert_eq!((dry["dry_run"].clone(), dry["differ"].as_array().unwrap().len()), (true.into(), 0), "{dry}");
    assert_eq!(t.etcd().get("/weft/v1/services/default/db").unwrap(), None, "a dry run writes nothing");
    let imported = netctl(new, &["store", "import", path]);
    assert_eq!((&imported["written"], &imported["leased"]), (&dry["written"], &exported["leased"]), "{imported} after {dry}");
    // What the container was is not there; its own agent says so when it comes.
    let keys: Vec<String> = t.etcd().list("/").unwrap().into_iter().map(|(key, _)| key).collect();
    assert!(!keys.iter().any(|key| key == "/weft/v1/nodes/h1" || key.contains("/skydns/web/")), "{keys:?}");
    assert!(keys.iter().any(|key| key == "/skydns/local/skydns/db/db-1/4"), "{keys:?}");
    // It came from the one: now both use the other, and everything works.
    old.agent.stop().unwrap();
    old.agent.set_flag("etcd-endpoints", &t.etcd().endpoint());
    old.agent.start().unwrap();
    old.agent.wait_ready().unwrap();
    new.agent.wait_ready().unwrap();
    for host in [old, new] {
        host.agent.wait_peers(1).unwrap();
    }
    assert_eq!(netctl(new, &["service", "show", "db"])["vips"][0], vip);
    let client = idle(new, &[]).unwrap();
    let to = netctl(new, &["service", "show", "web"])["vips"][0].as_str().unwrap().to_owned();
    eventually("the service answers across hosts", SOON, || {
        let who = who_answers(client.place(), &format!("{to}:80"))?;
        ensure!(who == "h1", "{who}");
        Ok(())
    })
    .unwrap();
    assert_eq!(netctl(new, &["store", "import", path])["written"], 0, "all of it is there");

    // Another value is not written over unless that is asked for.
    netctl(new, &["service", "rm", "db"]);
    netctl(new, &["service", "create", "db", "--port", "99", "--vip", vip.as_str().unwrap()]);
    netctl(new, &["endpoint", "rm", "db-1", "--service", "db"]);
    let said = refused(new, &["store", "import", path]);
    assert!(said.contains("nothing is written") && said.contains("/weft/v1/services/default/db"), "{said}");
    assert_eq!(t.etcd().get("/skydns/local/skydns/db/db-1/4").unwrap(), None, "not even what is missing");
    let replaced = netctl(new, &["store", "import", path, "--replace"]);
    assert_eq!(replaced["differ"], serde_json::json!(["/weft/v1/services/default/db"]), "{replaced}");
    eventually("the service is as it was", SOON, || {
        let db = netctl(new, &["service", "show", "db"]);
        ensure!(db["ports"][0]["port"] == 5432, "{db}");
        Ok(())
    })
    .unwrap();
    let before = made(new).unwrap();

    // And back, into an empty store on a host without etcd.
    let back = t.dir().join("back.json");
    netctl(new, &["store", "export", back.to_str().unwrap()]);
    drop((server, client));
    new.agent.stop().unwrap();
    new.agent.unset_flag("etcd-endpoints");
    new.agent.start().unwrap();
    new.agent.wait_ready().unwrap();
    netctl(new, &["store", "import", back.to_str().unwrap()]);
    eventually("what people made is there again", SOON, || {
        // The container was registered by its host, which is not here any more.
        let before: Vec<&String> =
            before.iter().filter(|line| !line.contains("10.244.") || line.contains("10.244.9.0")).collect();
        let now = made(new)?;
        for line in before {
            ensure!(now.contains(line), "{line} is not in {now:?}");
        }
        Ok(())
    })
    .unwrap();
    let again = t.dir().join("again.json");
    netctl(new, &["store", "export", again.to_str().unwrap()]);
    assert_eq!(permanent(&again), permanent(&back), "nothing was lost on the way, and nothing added");
}

#[test]
fn orphans_are_told_with_what_removes_them_and_left_alone() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let orphans = |host: &Host| {
        // Its exit code tells of all checks; only one is of interest here.
        let said = host.netctl(["doctor", "--local", "-o", "json"]).unwrap().stdout;
        let checkup: Value = serde_json::from_str(&said).unwrap();
        let findings = checkup["findings"].as_array().unwrap().clone();
        findings.into_iter().filter(|finding| finding["check"] == "orphans").collect::<Vec<_>>()
    };
    assert_eq!(orphans(host).iter().map(|f| f["result"].clone()).collect::<Vec<_>>(), ["ok"]);
    netctl(host, &["service", "create", "web", "--port", "80"]);
    let left = [
        ("/weft/v1/vips/10.112.77.1", r#"{"service":"default/gone"}"#),
        ("/weft/v1/vips/10.112.77.2", r#"{"service":"default/web"}"#),
        ("/weft/v1/services/default/bare", r#"{"ports":[{"port":80}],"vips":["10.112.77.3"]}"#),
        ("/weft/v1/services/nowhere/lost", r#"{"ports":[{"port":80}]}"#),
        ("/skydns/local/skydns/web/old/4", r#"{"host":"10.244.99.2","port":80,"weft":{"id":"old","name":"old","node":"h99"}}"#),
        ("/weft/v1/reservations/default/10.244.88.0-24", r#"{"node":"h88"}"#),
    ];
    for (key, value) in left {
        t.etcd().put(key, value).unwrap();
    }
    let found = eventually("all of them are found", SOON, || {
        let found = orphans(host);
        let named: Vec<&str> = found.iter().filter_map(|finding| finding["subject"].as_str()).collect();
        for (key, _) in left {
            ensure!(named.contains(&key), "{key} is not in {named:?}");
        }
        ensure!(named.len() == left.len(), "{named:?}");
        Ok(found)
    })
    .unwrap();
    assert!(found.iter().all(|finding| finding["result"] == "warn" && finding["next"].is_string()), "{found:?}");
    for (key, value) in left {
        assert_eq!(t.etcd().get(key).unwrap().as_deref(), Some(value), "the doctor only looks");
    }
    // What is said helps.
    for finding in &found {
        let next = finding["next"].as_str().unwrap();
        match finding["subject"].as_str().unwrap() {
            key if key.contains("/vips/") => {
                assert!(next.ends_with(&format!("etcdctl del {key}")), "{next}");
                t.etcd().delete(key).unwrap();
            }
            _ => {
                let command = next.split(", ").next().unwrap();
                let words: Vec<&str> = command.strip_prefix("netctl ").unwrap().split(' ').collect();
                host.netctl(words).unwrap().success().unwrap();
            }
        }
    }
    eventually("nothing is left over", SOON, || {
        let found = orphans(host);
        ensure!(found.len() == 1 && found[0]["result"] == "ok", "{found:?}");
        Ok(())
    })
    .unwrap();
}

/// The commands that a page gives below a mark.
fn commands(page: &str, mark: &str) -> Vec<Vec<String>> {
    let (_, after) = page.split_once(&format!("<!-- commands: {mark} -->\n```sh\n")).unwrap();
    let (block, _) = after.split_once("```").unwrap();
    block.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn agents_work_with_the_rights_that_the_page_on_etcd_gives_and_no_more() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/etcd.md")).unwrap();
    let t = Topology::new(2).unwrap();
    t.etcd().start().unwrap();
    for command in commands(&page, "users and roles") {
        assert_eq!(command[0], "etcdctl");
        t.etcd().ctl(command[1..].iter().map(String::as_str)).unwrap().success().unwrap();
    }
    let users = [("weft-operator", "OPERATOR-PASSWORD"), ("weft-agent", "AGENT-PASSWORD")];
    for (host, (user, password)) in t.hosts().iter().zip(users) {
        let file = host.dir().join("etcd-password");
        std::fs::write(&file, password).unwrap();
        host.agent.set_flag("etcd-username", user);
        host.agent.set_flag("etcd-password-file", file.to_str().unwrap());
        host.agent.start().unwrap();
        host.agent.wait_status("the store has been read", |s| s["store"]["revision"].as_i64() > Some(0)).unwrap();
    }
    let (operator, plain) = (t.host(1), t.host(2));
    let said = refused(plain, &["network", "init", "--cidr", "10.244.0.0/16"]);
    assert!(said.contains("permission denied"), "{said}");
    netctl(operator, &["network", "init", "--cidr", "10.244.0.0/16"]);
    for host in t.hosts() {
        host.agent.wait_ready().unwrap();
        host.agent.wait_peers(1).unwrap();
    }
    netctl(operator, &["network", "create", "blue", "--cidr", "10.245.0.0/16", "--vni", "7"]);
    // The host with few rights has a subnet in each network, registers what it runs, and is reached.
    let server = tcp_server(plain, &["--service", "web:7000"], 7000, "h2").unwrap();
    let blue = idle(plain, &["--network", "blue", "--service", "elsewhere:1"]).unwrap();
    let vip = netctl(operator, &["service", "create", "web", "--port", "80:7000"])["vip"].as_str().unwrap().to_owned();
    let client = idle(operator, &[]).unwrap();
    eventually("the service answers", SOON, || {
        let who = who_answers(client.place(), &format!("{vip}:80"))?;
        ensure!(who == "h2", "{who}");
        Ok(())
    })
    .unwrap();
    // It takes its own leases up again, and takes back what it registered.
    plain.agent.stop().unwrap();
    plain.agent.start().unwrap();
    plain.agent.wait_ready().unwrap();
    drop((server, blue));
    eventually("what has ended is withdrawn", SOON, || {
        let endpoints = netctl(operator, &["endpoint", "list"]);
        ensure!(!endpoints.to_string().contains("\"h2\""), "{endpoints}");
        Ok(())
    })
    .unwrap();
    let status = plain.agent.status().unwrap();
    assert_eq!(status["reasons"], serde_json::json!([]), "{status}");
    // What an agent does not need it cannot do.
    for args in [
        &["service", "create", "more", "--port", "80"][..],
        &["network", "create", "green", "--cidr", "10.246.0.0/16", "--vni", "8"],
        &["network", "reserve", "h9", "10.244.9.0/24"],
        &["config", "set", "--dns-domain", "other.local"],
    ] {
        let said = refused(plain, args);
        assert!(said.contains("permission denied"), "{args:?}: {said}");
    }
    let as_agent = |args: &[&str]| t.etcd().ctl(["--user", "weft-agent:AGENT-PASSWORD"].into_iter().chain(args.iter().copied()));
    for args in [
        &["get", "/elsewhere"][..],
        &["get", "/", "--prefix"],
        &["put", "/coreos.com/network/config", "{}"],
        &["put", "/weft/v1/config", "{}"],
        &["put", "/weft/v1/vips/10.112.0.1", "{}"],
        &["del", "/weft/v1/services/default/web"],
        &["put", "/weft/v1", ""],
        &["user", "list"],
    ] {
        let output = as_agent(args).unwrap();
        assert!(output.stderr.contains("permission denied"), "{args:?}: {output:?}");
    }
    as_agent(&["put", "/weft/v1/nodes/h9", "{}"]).unwrap().success().unwrap();
}
