//! Objects as files: applied, applied again, rehearsed, written out, moved to another cluster, deleted; on one host's own store.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::place::Output;
use weft_tests::traffic::idle;
use weft_tests::{Host, Topology, eventually};

const FILE: &str = "
kind: Endpoint
service: prod/db
id: db-1
addresses: [192.0.2.9]
ports: [{port: 5432}]
labels: {tier: data}
---
kind: Service
name: prod/db
ports: [\"5432\"]
---
kind: Service
name: web
ports: [\"http=80:8080\", \"dns=53/udp\"]
selector: tier=front, env in (a, b)
---
kind: Namespace
name: prod
";

/// A host whose agent has a store of its own.
fn alone() -> Topology {
    let t = Topology::new(1).unwrap();
    let agent = &t.host(1).agent;
    agent.unset_flag("etcd-endpoints");
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    t
}

fn write(host: &Host, name: &str, text: &str) -> PathBuf {
    let file = host.dir().join(name);
    fs::write(&file, text).unwrap();
    file
}

fn apply(host: &Host, file: &Path, words: &[&str]) -> Output {
    let file = file.to_str().unwrap();
    host.netctl([&["apply", "-f", file], words].concat()).unwrap()
}

/// Object and action of each line.
fn actions(output: Output) -> Vec<(String, String)> {
    let lines: Vec<Value> = output.success().unwrap().stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    lines.iter().map(|l| (text(&l["object"]), text(&l["action"]))).collect()
}

fn expected(objects: &[&str], action: &str) -> Vec<(String, String)> {
    objects.iter().map(|object| ((*object).to_owned(), action.to_owned())).collect()
}

const OBJECTS: [&str; 4] = ["namespace/prod", "service/prod/db", "service/default/web", "endpoint/prod/db/db-1"];

#[test]
fn a_file_is_applied_once_rehearsed_without_a_trace_and_deleted() {
    let t = alone();
    let host = t.host(1);
    let file = write(host, "all.yaml", FILE);
    let rehearsed = apply(host, &file, &["--dry-run"]).success().unwrap().stdout;
    assert_eq!(rehearsed.matches(" would be created").count(), 4, "{rehearsed}");
    assert!(rehearsed.contains("+ kind: Service"), "{rehearsed}");
    let services = || host.netctl(["service", "list", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(services(), serde_json::json!([]), "a rehearsal writes nothing");

    assert_eq!(actions(apply(host, &file, &["-o", "json"])), expected(&OBJECTS, "created"));
    assert_eq!(actions(apply(host, &file, &["-o", "json"])), expected(&OBJECTS, "unchanged"));
    let db = host.netctl(["service", "show", "prod/db", "-o", "json"]).unwrap().json().unwrap();
    let vip = db["vip"].clone();
    assert_eq!((db["backends"][0]["id"].as_str(), vip.is_string()), (Some("db-1"), true), "{db}");

    // One member changes, and nothing else of it: the virtual IP stays.
    let file = write(host, "all.yaml", &FILE.replace("ports: [\"5432\"]", "ports: [\"5433:5432\"]\nlabels: {a: b}"));
    let changed = apply(host, &file, &["--diff"]).success().unwrap().stdout;
    assert!(changed.contains("service/prod/db changed") && changed.contains("+ labels:"), "{changed}");
    assert_eq!(changed.matches(" unchanged").count(), 3, "{changed}");
    let db = host.netctl(["service", "show", "prod/db", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!((&db["vip"], &db["ports"][0]["port"]), (&vip, &serde_json::json!(5433)), "{db}");

    let gone = host.netctl(["delete", "-f", file.to_str().unwrap(), "--dry-run"]).unwrap().success().unwrap().stdout;
    assert_eq!(gone.matches(" would be deleted").count(), 4, "{gone}");
    let mut reversed = OBJECTS.to_vec();
    reversed.sort_by_key(|o| std::cmp::Reverse(OBJECTS.iter().position(|other| other == o)));
    assert_eq!(
        actions(host.netctl(["delete", "-f", file.to_str().unwrap(), "-o", "json"]).unwrap()),
        expected(&reversed, "deleted")
    );
    assert_eq!(
        actions(host.netctl(["delete", "-f", file.to_str().unwrap(), "-o", "json"]).unwrap()),
        expected(&reversed, "absent")
    );
    t.down().unwrap();
}

#[test]
fn what_is_printed_can_be_applied_elsewhere_and_leaves_out_what_agents_wrote() {
    let (t, other) = (alone(), alone());
    let (host, file) = (t.host(1), write(t.host(1), "all.yaml", FILE));
    apply(host, &file, &[]).success().unwrap();
    let _container = idle(host, &["--service", "web:8080"]).unwrap();
    eventually("the container is an endpoint", SOON, || {
        let endpoints = host.netctl(["endpoint", "list", "-o", "json"])?.json()?;
        anyhow::ensure!(endpoints.as_array().is_some_and(|e| e.len() == 2), "{endpoints}");
        Ok(())
    })
    .unwrap();
    let printed = host.netctl(["manifest"]).unwrap().success().unwrap().stdout;
    assert!(!printed.contains("10.244."), "containers are none of it: {printed}");
    // By kind, then by name.
    let mut objects = OBJECTS;
    objects.swap(1, 2);
    assert_eq!(actions(apply(host, &write(host, "printed.yaml", &printed), &["-o", "json"])), expected(&objects, "unchanged"));
    let there = other.host(1);
    assert_eq!(actions(apply(there, &write(there, "printed.yaml", &printed), &["-o", "json"])), expected(&objects, "created"));
    let manifest = |host: &Host| host.netctl(["manifest"]).unwrap().success().unwrap().stdout;
    assert_eq!(manifest(there), manifest(host));
    t.down().unwrap();
    other.down().unwrap();
}

#[test]
fn an_object_that_is_refused_keeps_no_other_back_and_a_file_that_cannot_be_read_changes_nothing() {
    let t = alone();
    let host = t.host(1);
    let bad = "{kind: Service, name: nowhere/web, ports: ['80']}\n---\n{kind: Service, name: good, ports: ['80']}\n\
               ---\n{kind: Service, name: odd, ports: ['80'], prots: []}\n---\n{kind: Endpoint, service: good, id: e, addresses: [0.0.0.0]}\n";
    let refused = apply(host, &write(host, "bad.yaml", bad), &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    for (object, why) in [
        ("service/nowhere/web refused", "namespace nowhere"),
        ("service/default/odd refused", "prots"),
        ("endpoint/default/good/e refused", "0.0.0.0"),
    ] {
        let line = refused.stdout.lines().find(|l| l.starts_with(object)).unwrap_or_else(|| panic!("{object}: {refused:?}"));
        assert!(line.contains(why) && line.contains("bad.yaml, document"), "{line}");
    }
    assert!(refused.stdout.contains("service/default/good created"), "{refused:?}");
    let broken = apply(host, &write(host, "broken.yaml", "{kind: Namespace, name: x}\n---\n{kind: Service"), &[]);
    assert!(!broken.status.success() && broken.stderr.contains("broken.yaml, document 2"), "{broken:?}");
    let names = host.netctl(["namespace", "list", "-o", "json"]).unwrap().success().unwrap().stdout;
    assert!(!names.contains("\"x\""), "{names}");
    t.down().unwrap();
}

#[test]
fn an_object_is_changed_in_an_editor_that_is_opened_again_as_long_as_it_is_refused() {
    let t = alone();
    let host = t.host(1);
    host.netctl(["service", "create", "web", "--port", "80"]).unwrap().success().unwrap();
    let words = host.agent.netctl_line(["edit", "service/web"]).unwrap();
    let line: Vec<_> = words.iter().map(|w| w.to_str().unwrap()).collect();
    // Of a terminal of its own, which script(1) makes.
    let edit = |editor: &str| {
        let line = format!("EDITOR='{editor}' {}", line.join(" "));
        host.exec(["script", "--quiet", "--return", "--command", &line, "/dev/null"]).unwrap()
    };
    let port = || {
        let shown = host.netctl(["service", "show", "web", "-o", "json"]).unwrap().json().unwrap();
        shown["ports"][0]["port"].as_u64().unwrap()
    };
    let unchanged = edit("true").success().unwrap();
    assert!(unchanged.stdout.contains("service/default/web unchanged"), "{unchanged:?}");
    // Refused at first: the editor finds why, and puts it right.
    let twice = write(
        host,
        "editor",
        "#!/bin/sh\ngrep -q \"^# refused: .*70000\" $1 && sed -i \"s/70000/81/\" $1 || sed -i \"s/port: 80/port: 70000/\" $1\n",
    );
    fs::set_permissions(&twice, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let changed = edit(twice.to_str().unwrap()).success().unwrap();
    assert!(changed.stdout.contains("service/default/web changed"), "{changed:?}");
    assert_eq!(port(), 81);
    let failed = edit("false");
    assert!(!failed.status.success() && failed.stdout.contains("nothing was changed"), "{failed:?}");
    let without = host.netctl(["edit", "service/web"]).unwrap();
    assert!(without.stderr.contains("no terminal"), "{without:?}");
    assert_eq!(port(), 81);
    t.down().unwrap();
}
