//! Whole agents on an etcd that is used in earnest: what it deletes nobody serves, what nobody can read hurts nobody, and of
//! three members one may die and one be cut off.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::dns::{dig, server_of};
use weft_tests::eventually::SOON;
use weft_tests::place::Daemon;
use weft_tests::topology::NETWORK;
use weft_tests::traffic::{idle, tcp_server, who_answers};
use weft_tests::{Host, Topology, eventually};

/// How long an agent may serve what etcd has deleted.
const SERVED: Duration = Duration::from_secs(1);

/// Whether a host's agent answers with a record, by DNS or over its API; and how long asking took.
fn serves(host: &Host, server: &str, id: &str) -> (bool, Duration) {
    let begun = Instant::now();
    let name = format!("{id}.churn.skydns.local");
    let by_dns = !dig(host.place(), server, &[&name]).unwrap().data("A").is_empty();
    let endpoints = host.netctl(["endpoint", "list", "-o", "json"]).unwrap().json().unwrap();
    let by_api = endpoints.as_array().unwrap().iter().any(|endpoint| endpoint["id"] == id);
    (by_dns || by_api, begun.elapsed())
}

#[test]
fn what_etcd_has_deleted_no_agent_serves_a_second_later() {
    const ROUNDS: usize = 12;
    let t = Topology::cluster(3).unwrap();
    let etcd = t.etcd();
    let servers: Vec<String> = t.hosts().iter().map(|h| server_of(&h.agent.status().unwrap()).unwrap()).collect();
    // etcd's own client tells when it was deleted: the same way as to an agent, on the same machine.
    let watch = etcd.watch("/skydns/", 1).unwrap();
    for round in 0..ROUNDS {
        let id = format!("r{round}");
        let key = format!("/skydns/local/skydns/churn/{id}/4");
        let lease = etcd.client().grant(600).unwrap();
        let value = format!(r#"{{"host":"192.0.2.{}","port":80,"weft":{{"id":"{id}","name":"{id}"}}}}"#, round + 1);
        etcd.client().put_on(lease, &key, &value).unwrap();
        for (host, server) in t.hosts().iter().zip(&servers) {
            eventually("the record is served", SOON, || {
                ensure!(serves(host, server, &id).0, "it is not");
                Ok(())
            })
            .unwrap();
        }
        // In turns as a host that ends with its lease, and as one that withdraws.
        match round % 2 {
            0 => etcd.client().revoke(lease).unwrap(),
            _ => etcd.delete(&key).unwrap(),
        }
        eventually("etcd tells of the deletion", SOON, || {
            ensure!(watch.heard()?.iter().any(|entry| entry.key == key && entry.value.is_none()), "not yet");
            Ok(())
        })
        .unwrap();
        let deleted = Instant::now();
        for (host, server) in t.hosts().iter().zip(&servers) {
            let mut slowest = Duration::ZERO;
            loop {
                let asked = deleted.elapsed();
                let (served, took) = serves(host, server, &id);
                slowest = slowest.max(took);
                if !served {
                    break;
                }
                // A machine on which asking takes long is as late with everything else.
                let bound = SERVED + slowest * 3;
                assert!(asked <= bound, "{} still serves {id} {asked:?} after etcd deleted it", host.name());
            }
        }
    }
    // A host that dies, with what it runs: when etcd deletes its records the others know.
    let dying = tcp_server(t.host(3), &["--id", "dying", "--service", "churn:80"], 80, "h3").unwrap();
    eventually("it is served", SOON, || {
        ensure!(serves(t.host(1), &servers[0], "dying").0, "it is not");
        Ok(())
    })
    .unwrap();
    t.host(3).power_off().unwrap();
    drop(dying);
    let key = "/skydns/local/skydns/churn/dying/4";
    eventually("its lease runs out", SOON * 2, || {
        ensure!(watch.heard()?.iter().any(|entry| entry.key == key && entry.value.is_none()), "not yet");
        Ok(())
    })
    .unwrap();
    for (host, server) in t.hosts().iter().zip(&servers).take(2) {
        // What is lost with its host is answered with only as long as there is nobody else (ARCHITECTURE.md): here is somebody.
        let add = ["endpoint", "add", "churn", "192.0.2.99:80", "--id", host.name()];
        host.netctl(add).unwrap().success().unwrap();
        eventually("the dead host is not answered with", SOON, || {
            let answer = dig(host.place(), server, &["churn.skydns.local"])?;
            ensure!(!answer.data("A").is_empty() && !answer.data("A").iter().any(|a| a.starts_with("10.244.")), "{answer:?}");
            Ok(())
        })
        .unwrap();
    }
}

/// Puts what a file holds, at a key that a shell writes.
fn put_file(t: &Topology, key: &str, name: &str, value: &[u8]) {
    let file = t.dir().join(name);
    std::fs::write(&file, value).unwrap();
    let endpoint = t.etcd().endpoint();
    // etcdctl takes nothing at all for no value when it reads one.
    let value = if value.is_empty() { "''".to_owned() } else { format!("< {}", file.display()) };
    let line = format!("ETCDCTL_API=3 etcdctl --endpoints={endpoint} put -- \"{key}\" {value}");
    t.fabric().exec(["sh", "-c", &line]).unwrap().success().unwrap();
}

#[test]
fn junk_under_every_prefix_hurts_only_itself() {
    let t = Topology::cluster(2).unwrap();
    let server = tcp_server(t.host(2), &["--id", "good", "--service", "web:7000"], 7000, "h2").unwrap();
    let web = t.host(1).netctl(["service", "create", "web", "--port", "80:7000", "-o", "json"]).unwrap().json().unwrap();
    let to = format!("{}:80", web["vip"].as_str().unwrap());
    let client = idle(t.host(1), &[]).unwrap();
    let pids: Vec<u32> = t.hosts().iter().map(|host| host.agent.pid().unwrap()).collect();
    let works = |what: &str| {
        eventually(what, SOON, || {
            let who = who_answers(client.place(), &to)?;
            ensure!(who == "h2", "{who}");
            Ok(())
        })
        .unwrap();
    };
    works("the service answers before");

    // As much as etcd takes in one request; what is no text; what no parser should follow; numbers out of range.
    let large = format!(r#"{{"host":"{}"}}"#, "x".repeat(1_400_000));
    let deep = "[".repeat(200_000);
    let labels: String = (0..20_000).map(|n| format!(r#""k{n}":"v","#)).collect();
    let hostile = format!(
        r#"{{"host":"10.244.0.1","port":-1,"ttl":99999999999999999999,"ports":[{{"port":70000}}],"vips":["10.112.0.1","::"],"node":"\u0000","selector":{{{labels}"z":"z"}}}}"#
    );
    let values: [(&str, &[u8]); 5] = [
        ("large", large.as_bytes()),
        ("deep", deep.as_bytes()),
        ("bytes", b"\x00\xff\xfe{\"host\":\"\xc3\x28\"}"),
        ("hostile", hostile.as_bytes()),
        ("empty", b""),
    ];
    let keys = [
        "/coreos.com/network/subnets/10.244.200.0-24",
        "/coreos.com/network/subnets/junk",
        "/coreos.com/network/junk",
        "/skydns/local/skydns/web/junk/4",
        "/skydns/local/skydns/junk/junk/4",
        "/skydns/../../etc",
        "/weft/v1/nodes/junk",
        "/weft/v1/services/default/junk",
        "/weft/v1/vips/10.112.9.9",
        "/weft/v1/vips/junk",
        "/weft/v1/namespaces/junk",
        "/weft/v1/networks/junk",
        "/weft/v1/subnets/default/junk",
        "/weft/v1/subnets/junk/10.245.3.0-24",
        "/weft/v1/reservations/default/10.244.201.0-24",
        "/weft/v1/down/local/skydns/web/junk/4",
        "/weft/v1/drains/nodes/junk",
        "/weft/v1/drains/endpoints/local/skydns/web/junk",
        "/weft/v1/leaders/default/junk",
        "/weft/v1/elections/default/junk",
        "/weft/v1/junk/junk",
        // Not UTF-8, with control characters, and longer than any name.
        "/coreos.com/network/subnets/$(printf '\\377\\376')",
        "/skydns/local/skydns/web/$(printf '\\377')/4",
        "/skydns/local/skydns/web/$(printf 'a\\n\\033[2Jb')/4",
        "/weft/v1/services/default/$(printf '\\200')",
        "/weft/v1/nodes/$(head -c 60000 /dev/zero | tr '\\0' x)",
    ];
    for (name, value) in values {
        for key in keys {
            put_file(&t, key, name, value);
        }
        works(&format!("the service answers with junk of kind {name:?}"));
    }
    // After all of it new things are taken up too, on either host.
    let another = tcp_server(t.host(1), &["--id", "late", "--service", "late:7001"], 7001, "h1").unwrap();
    for host in t.hosts() {
        let server = server_of(&host.agent.status().unwrap()).unwrap();
        eventually("what is attached now is found", SOON, || {
            let answer = dig(host.place(), &server, &["late.skydns.local"])?;
            ensure!(answer.data("A") == [another.address().unwrap().to_string()], "{answer:?}");
            Ok(())
        })
        .unwrap();
        let status = host.agent.status().unwrap();
        assert!(status["bad"].as_array().unwrap().len() >= 10, "what cannot be read is told: {status}");
        for what in [["service", "list"], ["endpoint", "list"], ["node", "list"], ["network", "list"]] {
            host.netctl(what).unwrap().success().unwrap();
        }
        let said = host.netctl(["doctor", "--local", "-o", "json"]).unwrap().stdout;
        let checkup: Value = serde_json::from_str(&said).unwrap();
        let findings = checkup["findings"].as_array().unwrap();
        assert!(findings.iter().any(|f| f["check"] == "values" && f["result"] == "warn"), "{said}");
    }
    // Junk is moved as it is.
    let document = t.dir().join("export.json");
    let document = document.to_str().unwrap();
    t.host(1).netctl(["store", "export", document]).unwrap().success().unwrap();
    let imported = t.host(2).netctl(["store", "import", document, "--dry-run", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!((&imported["written"], &imported["differ"]), (&0.into(), &Value::Array(Vec::new())), "{imported}");
    // An agent that starts with all of this there works as well.
    t.host(2).agent.stop().unwrap();
    t.host(2).agent.start().unwrap();
    t.host(2).agent.wait_ready().unwrap();
    works("the service answers in the end");
    assert_eq!(t.host(1).agent.pid().unwrap(), pids[0], "it is still the agent of the beginning");
    drop(server);
}

/// etcd's member on a host.
fn member(t: &Topology, host: &Host) -> Result<Daemon> {
    let url = |address: &dyn std::fmt::Display, port: u16| format!("http://{address}:{port}");
    let cluster: Vec<String> = t.hosts().iter().map(|h| format!("{}={}", h.name(), url(&h.address(), 2380))).collect();
    let data = host.dir().join("etcd");
    host.spawn(
        "etcd",
        [
            "etcd".to_owned(),
            format!("--name={}", host.name()),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={}", url(&host.address(), 2379)),
            format!("--advertise-client-urls={}", url(&host.address(), 2379)),
            format!("--listen-peer-urls={}", url(&host.address(), 2380)),
            format!("--initial-advertise-peer-urls={}", url(&host.address(), 2380)),
            format!("--initial-cluster={}", cluster.join(",")),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ],
    )
}

#[test]
fn of_three_members_one_may_be_cut_off_and_one_die() {
    let t = Topology::new(3).unwrap();
    let mut members: Vec<Daemon> = t.hosts().iter().map(|host| member(&t, host).unwrap()).collect();
    let endpoints: Vec<String> = t.hosts().iter().map(|host| format!("http://{}:2379", host.address())).collect();
    for host in t.hosts() {
        host.agent.set_flag("etcd-endpoints", &endpoints.join(","));
        host.agent.start().unwrap();
    }
    t.host(1).agent.wait_status("the store has been read", |s| s["store"]["revision"].as_i64() > Some(0)).unwrap();
    t.host(1).netctl(["network", "init", "--cidr", NETWORK]).unwrap().success().unwrap();
    for host in t.hosts() {
        host.agent.wait_ready().unwrap();
        host.agent.wait_peers(2).unwrap();
    }
    let found = |host: &Host, name: &str, wanted: usize| {
        let server = server_of(&host.agent.status().unwrap()).unwrap();
        eventually(&format!("{} finds {wanted} of {name}", host.name()), SOON * 2, || {
            let answer = dig(host.place(), &server, &[&format!("{name}.skydns.local")])?;
            ensure!(answer.data("A").len() == wanted, "{answer:?}");
            Ok(())
        })
        .unwrap();
    };
    let _one = idle(t.host(1), &["--service", "app:1"]).unwrap();
    let _two = idle(t.host(2), &["--service", "app:1"]).unwrap();
    found(t.host(3), "app", 2);
    // One host cut off, with its member: the others go on, and new things are seen; what it had runs out.
    t.host(2).pull_cable().unwrap();
    let _three = idle(t.host(3), &["--service", "new:1"]).unwrap();
    found(t.host(1), "new", 1);
    found(t.host(3), "app", 1);
    // It knows that it knows nothing new, and forgets nothing.
    t.host(2).agent.wait_status("the store is away", |s| s["store"]["connected"] == false).unwrap();
    found(t.host(2), "app", 2);
    t.host(2).plug_cable().unwrap();
    found(t.host(2), "new", 1);
    found(t.host(1), "app", 2);
    // One member killed: whoever was with it goes to another one.
    members.remove(0).kill9().unwrap();
    let _four = idle(t.host(1), &["--service", "late:1"]).unwrap();
    for host in t.hosts() {
        found(host, "late", 1);
        found(host, "app", 2);
    }
    members.insert(0, member(&t, t.host(1)).unwrap());
    for host in t.hosts() {
        host.agent.wait_status("everything is well", |s| s["store"]["connected"] == true && s["ready"] == true).unwrap();
    }
}
