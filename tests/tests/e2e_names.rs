//! Names: what is registered resolves on every host, over UDP and TCP, and what is not is denied properly.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::sync::LazyLock;

use weft_tests::dns::{Answer, dig, server_of};
use weft_tests::eventually::SOON;
use weft_tests::topology::Shared;
use weft_tests::traffic::{idle, tcp_server};
use weft_tests::{Host, Topology, eventually};

static CLUSTER: LazyLock<Topology> = LazyLock::new(|| Topology::cluster(2).unwrap());

/// Asks a host's agent from the host itself.
fn ask(host: &Host, words: &[&str]) -> Answer {
    let server = server_of(&host.agent.status().unwrap()).unwrap();
    dig(host.place(), &server, words).unwrap()
}

/// Asks until the addresses of a name are these.
fn resolves(host: &Host, name: &str, wanted: &[String]) {
    eventually(&format!("{name} on {}", host.name()), SOON, || {
        let answer = ask(host, &[name]);
        if answer.data("A") == wanted { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .unwrap();
}

fn denied(host: &Host, name: &str) {
    eventually(&format!("{name} is unknown on {}", host.name()), SOON, || {
        let answer = ask(host, &[name]);
        if answer.rcode == "NXDOMAIN" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .unwrap();
}

#[test]
fn a_named_container_resolves_on_every_host_and_no_more_when_it_ends() {
    let t = Shared::of(&CLUSTER);
    let container = idle(t.host(1), &["--name", "db"]).unwrap();
    let address = container.address().unwrap().to_string();
    for host in t.hosts() {
        resolves(host, "db.skydns.local", std::slice::from_ref(&address));
    }
    container.stop().unwrap();
    for host in t.hosts() {
        denied(host, "db.skydns.local");
    }
}

#[test]
fn instances_of_a_service_share_its_name() {
    let t = Shared::of(&CLUSTER);
    let one = idle(t.host(1), &["--name", "one", "--service", "pair:80"]).unwrap();
    let two = idle(t.host(2), &["--name", "two", "--service", "pair:80"]).unwrap();
    let mut both = vec![one.address().unwrap().to_string(), two.address().unwrap().to_string()];
    both.sort();
    for host in t.hosts() {
        resolves(host, "pair.skydns.local", &both);
    }
}

#[test]
fn srv_gives_port_and_names_that_resolve() {
    let t = Shared::of(&CLUSTER);
    let one = idle(t.host(1), &["--service", "srv:8081"]).unwrap();
    let two = idle(t.host(2), &["--service", "srv:8082"]).unwrap();
    let server = t.host(2);
    let answer = eventually("two SRV records", SOON, || {
        let answer = ask(server, &["srv.skydns.local", "SRV"]);
        if answer.data("SRV").len() == 2 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .unwrap();
    let mut found: Vec<_> = answer
        .data("SRV")
        .iter()
        .map(|data| {
            let words: Vec<_> = data.split(' ').collect();
            let (port, target) = (words[2].to_owned(), words[3]);
            assert!(target.ends_with(".srv.skydns.local."), "{target}");
            assert!(answer.additional.iter().any(|r| r.name == target && r.kind == "A"), "{answer:?}");
            (port, ask(server, &[target]).data("A"))
        })
        .collect();
    found.sort();
    let address = |c: &weft_tests::Container| vec![c.address().unwrap().to_string()];
    assert_eq!(found, [("8081".to_owned(), address(&one)), ("8082".to_owned(), address(&two))]);
}

#[test]
fn an_unknown_name_is_denied_with_soa() {
    let t = Shared::of(&CLUSTER);
    let answer = ask(t.host(1), &["nobody.skydns.local"]);
    assert_eq!(answer.rcode, "NXDOMAIN");
    assert!(answer.has_soa(), "{answer:?}");
    assert!(answer.flags.iter().any(|f| f == "aa"), "{answer:?}");
}

#[test]
fn a_known_name_without_that_type_is_no_error_with_soa() {
    let t = Shared::of(&CLUSTER);
    let container = idle(t.host(1), &["--name", "onlyfour"]).unwrap();
    resolves(t.host(1), "onlyfour.skydns.local", &[container.address().unwrap().to_string()]);
    let answer = ask(t.host(1), &["onlyfour.skydns.local", "AAAA"]);
    assert_eq!((answer.rcode.as_str(), answer.answers.len()), ("NOERROR", 0), "{answer:?}");
    assert!(answer.has_soa(), "{answer:?}");
}

#[test]
fn case_does_not_matter() {
    let t = Shared::of(&CLUSTER);
    let container = idle(t.host(1), &["--name", "mixed"]).unwrap();
    resolves(t.host(2), "MiXeD.SkyDNS.local", &[container.address().unwrap().to_string()]);
}

#[test]
fn tcp_answers_as_udp_does() {
    let t = Shared::of(&CLUSTER);
    let container = idle(t.host(1), &["--name", "both"]).unwrap();
    let address = container.address().unwrap().to_string();
    resolves(t.host(1), "both.skydns.local", std::slice::from_ref(&address));
    assert_eq!(ask(t.host(1), &["both.skydns.local", "+tcp"]).data("A"), [address]);
}

#[test]
fn an_answer_too_big_for_udp_says_so_and_is_whole_over_tcp() {
    let t = Shared::of(&CLUSTER);
    for n in 1..=60 {
        t.etcd().put(&format!("/skydns/local/skydns/many/i{n}"), &format!(r#"{{"host":"192.0.2.{n}"}}"#)).unwrap();
    }
    let server = server_of(&t.host(1).agent.status().unwrap()).unwrap();
    eventually("60 addresses over TCP", SOON, || {
        let answer = dig(t.host(1).place(), &server, &["many.skydns.local", "+tcp"])?;
        anyhow::ensure!(answer.data("A").len() == 60, "{answer:?}");
        Ok(())
    })
    .unwrap();
    let answer = ask(t.host(1), &["many.skydns.local", "+noedns", "+ignore"]);
    assert!(answer.flags.iter().any(|f| f == "tc"), "{answer:?}");
}

#[test]
fn text_and_mail_come_from_the_records() {
    let t = Shared::of(&CLUSTER);
    t.etcd().put("/skydns/local/skydns/note/x", r#"{"text":"hello there"}"#).unwrap();
    t.etcd().put("/skydns/local/skydns/post/x", r#"{"host":"192.0.2.25","mail":true,"priority":5}"#).unwrap();
    eventually("TXT", SOON, || match ask(t.host(1), &["note.skydns.local", "TXT"]).data("TXT") {
        data if data == ["\"hello there\""] => Ok(()),
        data => Err(format!("{data:?}")),
    })
    .unwrap();
    eventually("MX", SOON, || match ask(t.host(1), &["post.skydns.local", "MX"]).data("MX") {
        data if data.len() == 1 && data[0].starts_with("5 ") => Ok(()),
        data => Err(format!("{data:?}")),
    })
    .unwrap();
}

#[test]
fn what_others_write_in_skydns_form_is_served() {
    let t = Shared::of(&CLUSTER);
    t.etcd().put("/skydns/local/skydns/legacy/a1", r#"{"host":"192.0.2.10","port":5432}"#).unwrap();
    for host in t.hosts() {
        resolves(host, "legacy.skydns.local", &["192.0.2.10".to_owned()]);
    }
    let srv = ask(t.host(1), &["legacy.skydns.local", "SRV"]).data("SRV");
    assert!(srv.len() == 1 && srv[0].contains(" 5432 "), "{srv:?}");
    t.etcd().delete("/skydns/local/skydns/legacy/a1").unwrap();
    for host in t.hosts() {
        denied(host, "legacy.skydns.local");
    }
}

#[test]
fn our_records_are_skydns_to_others() {
    let t = Shared::of(&CLUSTER);
    let container = idle(t.host(1), &["--name", "seen", "--service", "served:8080"]).unwrap();
    let address = container.address().unwrap().to_string();
    resolves(t.host(1), "served.skydns.local", std::slice::from_ref(&address));
    let records = t.etcd().list("/skydns/local/skydns/served/").unwrap();
    assert_eq!(records.len(), 1, "{records:?}");
    let value: serde_json::Value = serde_json::from_str(&records[0].1).unwrap();
    assert_eq!((&value["host"], &value["port"]), (&address.into(), &8080.into()), "{value}");
    assert_eq!((&value["weft"]["node"], &value["weft"]["kind"]), (&"h1".into(), &"service".into()), "{value}");
}

#[test]
fn a_record_that_does_not_parse_hurts_only_itself() {
    let t = Shared::of(&CLUSTER);
    t.etcd().put("/skydns/local/skydns/broken/x", "{no json").unwrap();
    t.etcd().put("/skydns/local/skydns/fine/x", r#"{"host":"192.0.2.11"}"#).unwrap();
    resolves(t.host(1), "fine.skydns.local", &["192.0.2.11".to_owned()]);
    let status = t.host(1).agent.wait_status("the bad key is shown", |s| s["bad"].to_string().contains("broken")).unwrap();
    assert_eq!(status["ready"], true, "{status}");
    t.etcd().delete("/skydns/local/skydns/broken/x").unwrap();
    t.host(1).agent.wait_status("the bad key is forgotten", |s| !s["bad"].to_string().contains("broken")).unwrap();
}

#[test]
fn other_names_are_asked_upstream() {
    let t = Shared::of(&CLUSTER);
    let _upstream = t.upstream_dns("www.example.com", "192.0.2.80".parse().unwrap()).unwrap();
    resolves(t.host(1), "www.example.com", &["192.0.2.80".to_owned()]);
}

#[test]
fn a_container_asks_its_host_and_needs_no_domain() {
    let t = Shared::of(&CLUSTER);
    let _server = tcp_server(t.host(1), &["--name", "shortname"], 7100, "short").unwrap();
    let client = idle(t.host(2), &[]).unwrap();
    let gateway = server_of(&t.host(2).agent.status().unwrap()).unwrap();
    let resolv = client.exec(["cat", "/etc/resolv.conf"]).unwrap().success().unwrap().stdout;
    assert!(resolv.contains(&format!("nameserver {gateway}")), "{resolv}");
    for name in ["shortname", "shortname.skydns.local"] {
        eventually(name, SOON, || client.exec(["getent", "ahostsv4", name])?.success()).unwrap();
    }
}

#[test]
fn netctl_answers_as_the_server_does() {
    let t = Shared::of(&CLUSTER);
    let container = idle(t.host(1), &["--name", "queried"]).unwrap();
    let address = container.address().unwrap().to_string();
    resolves(t.host(1), "queried.skydns.local", std::slice::from_ref(&address));
    let answer = t.host(1).netctl(["dns", "query", "queried.skydns.local", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!((&answer["rcode"], &answer["answers"][0]["data"]), (&"NOERROR".into(), &address.into()), "{answer}");
}
