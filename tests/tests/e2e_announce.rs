//! `netctl announce`: what runs is registered, what stops is withdrawn first, and what is in the way of either is waited out.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::container::endpoints;
use weft_tests::dns::{dig, server_of};
use weft_tests::eventually::SOON;
use weft_tests::place::Daemon;
use weft_tests::traffic::{idle, probe};
use weft_tests::{Container, Host, Topology, eventually};

/// Longer than anything here stays registered without being heard.
const LONG: Duration = Duration::from_secs(120);

/// A command that says what comes to it, and ends only when it is told to.
const PATIENT: &str = r#"trap 'echo term >> said; exit 7' TERM; trap 'echo hup >> said' HUP; echo $WEFT_ID $WEFT_ADDRESS >> said
    while :; do sleep 0.05; done"#;

fn announce(host: &Host, name: &str, words: &[&str]) -> Daemon {
    let line = host.agent.netctl_line([&["announce"], words].concat()).unwrap();
    // In the host's own directory, where the command leaves its files.
    let mut words = vec!["sh".into(), "-c".into(), r#"cd "$0" && exec "$@""#.into(), host.dir().as_os_str().to_owned()];
    words.extend(line);
    host.spawn(name, words).unwrap()
}

fn said(host: &Host) -> String {
    std::fs::read_to_string(host.dir().join("said")).unwrap_or_default()
}

/// The endpoint of this id as a host sees it.
fn seen(host: &Host, id: &str) -> Option<Value> {
    endpoints(host).unwrap().into_iter().find(|e| e["id"] == id)
}

fn becomes_up(host: &Host, id: &str) -> Value {
    eventually(&format!("{id} is up on {}", host.name()), SOON, || {
        seen(host, id).filter(|e| e["state"] == "up").ok_or_else(|| format!("{:?}", endpoints(host)))
    })
    .unwrap()
}

fn is_gone(host: &Host, id: &str) {
    eventually(&format!("{id} is gone on {}", host.name()), LONG, || match seen(host, id) {
        None => Ok(()),
        Some(there) => Err(there.to_string()),
    })
    .unwrap();
}

fn born(topology: &Topology, id: &str) -> u64 {
    let (_, value) = topology.etcd().list(&format!("/skydns/local/skydns/web/{id}/")).unwrap().pop().unwrap();
    serde_json::from_str::<Value>(&value).unwrap()["weft"]["born"].as_u64().unwrap()
}

#[test]
fn a_command_is_an_instance_while_it_runs_and_withdrawn_before_it_is_stopped() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let port = ["--port", "8080", "--label", "tier=front", "--weight", "7"];
    let words = [&["web", "--id", "a", "--drain", "1h"], &port[..], &["--", "sh", "-c", PATIENT]].concat();
    let running = announce(h1, "a", &words);
    let endpoint = becomes_up(h2, "a");
    assert_eq!((&endpoint["node"], &endpoint["service"]), (&"h1".into(), &"default/web".into()), "{endpoint}");
    assert_eq!((&endpoint["labels"]["tier"], &endpoint["weight"]), (&"front".into(), &7.into()));
    assert_eq!(endpoint["addresses"][0], h1.address().to_string());
    eventually("it knows who it is", SOON, || if said(h1) == format!("a {}\n", h1.address()) { Ok(()) } else { Err(said(h1)) })
        .unwrap();
    // The same id elsewhere: the second one is told, and its command is not started.
    let other = h2.netctl(["announce", "web", "--id", "a", "--port", "8080", "--", "touch", "/no/such/directory/x"]).unwrap();
    assert_eq!(other.code(), 1, "{other:?}");
    assert!(other.stderr.contains("is held by h1; choose another --id"), "{other:?}");

    running.signal(Signal::SIGHUP).unwrap();
    eventually(
        "what means something else is handed on",
        SOON,
        || {
            if said(h1).ends_with("hup\n") { Ok(()) } else { Err(said(h1)) }
        },
    )
    .unwrap();
    becomes_up(h2, "a");
    // Withdrawn for all, and still running.
    running.signal(Signal::SIGTERM).unwrap();
    is_gone(h2, "a");
    assert!(!said(h1).contains("term"), "told to stop only when it is drained: {}", said(h1));
    assert!(running.ended().unwrap().is_none());
    running.signal(Signal::SIGTERM).unwrap();
    assert_eq!(running.wait(SOON).unwrap().code(), Some(7), "{}", running.stderr());
    assert!(said(h1).ends_with("term\n"));

    // What ends by itself is withdrawn too, and what cannot be started never was there.
    let short = announce(h1, "short", &["web", "--id", "b", "--", "sh", "-c", "exit 3"]);
    assert_eq!(short.wait(SOON).unwrap().code(), Some(3), "{}", short.stderr());
    assert_eq!(announce(h1, "none", &["web", "--id", "c", "--", "/no/such/command"]).wait(SOON).unwrap().code(), Some(127));
    for id in ["b", "c"] {
        assert_eq!(seen(h1, id), None);
    }
    let left = h1.netctl(["endpoint", "list", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(left, serde_json::json!([]));
}

#[test]
fn an_agent_that_is_killed_or_away_is_waited_for_and_nothing_changes_meanwhile() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let first = announce(h1, "a", &["web", "--id", "a", "--ttl", "10s", "--port", "80", "--", "sleep", "infinity"]);
    becomes_up(h2, "a");
    let since = born(&t, "a");
    h1.agent.kill9().unwrap();
    // One that begins while nobody is there runs, and is registered later.
    let second = announce(h1, "b", &["web", "--id", "b", "--ttl", "20s", "--port", "81", "--", "sleep", "infinity"]);
    eventually("it says that it waits", SOON, || {
        if second.stderr().contains("not registered") { Ok(()) } else { Err(second.stderr()) }
    })
    .unwrap();
    h1.agent.start().unwrap();
    becomes_up(h2, "b");
    // The record was there all the time, and is the same one.
    assert_eq!(born(&t, "a"), since);

    // Killed, it takes its command with it and leaves a registration, which ends with its time.
    let child = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.pid())).unwrap();
    first.kill9().unwrap();
    is_gone(h2, "a");
    eventually("its command is gone", SOON, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        if stat.is_err() { Ok(()) } else { Err("it is there") }
    })
    .unwrap();
    becomes_up(h2, "b");
    // And so does one without a heart.
    let add = ["endpoint", "add", "web", "192.0.2.7:80", "--id", "x", "--ttl", "1s"];
    h1.netctl(add).unwrap().success().unwrap();
    is_gone(h2, "x");
    // What is registered is removed as what is stored is, on its host; elsewhere who has it is told.
    h1.netctl(["endpoint", "add", "web", "192.0.2.8:80", "--id", "y", "--ttl", "1h"]).unwrap().success().unwrap();
    becomes_up(h2, "y");
    let refused = h2.netctl(["endpoint", "rm", "y"]).unwrap();
    assert!(refused.code() == 1 && refused.stderr.contains("node h1"), "{refused:?}");
    h1.netctl(["endpoint", "rm", "y"]).unwrap().success().unwrap();
    is_gone(h2, "y");
}

#[test]
fn processes_and_units_that_others_started_are_followed() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let process = host.spawn("process", ["sleep", "infinity"]).unwrap();
    let follower = announce(host, "pid", &["web", "--id", "p", "--port", "80", "--pid", &process.pid().to_string()]);
    becomes_up(host, "p");
    process.kill9().unwrap();
    assert_eq!(follower.wait(SOON).unwrap().code(), Some(0), "{}", follower.stderr());
    assert_eq!(seen(host, "p"), None);

    // A systemctl that tells of whatever stands in a file.
    let bin = host.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let main_pid = |pid: u32| std::fs::write(host.dir().join("main-pid"), pid.to_string()).unwrap();
    main_pid(0);
    let file = host.dir().join("main-pid");
    script(&bin.join("systemctl"), &format!("echo LoadState=loaded; echo MainPID=$(cat '{}')", file.display()));
    let line = host.agent.netctl_line(["announce", "web", "--id", "u", "--port", "80", "--unit", "web.service"]).unwrap();
    let path = format!("PATH={}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut words = vec!["env".into(), path.into()];
    words.extend(line);
    let follower = host.spawn("unit", words).unwrap();
    eventually("it waits for the unit", SOON, || {
        if follower.stderr().contains("does not run") { Ok(()) } else { Err(follower.stderr()) }
    })
    .unwrap();
    for _ in 0..2 {
        let process = host.spawn("main", ["sleep", "infinity"]).unwrap();
        main_pid(process.pid());
        becomes_up(host, "u");
        main_pid(0);
        process.kill9().unwrap();
        is_gone(host, "u");
    }
    assert_eq!(follower.stop(SOON).unwrap().code(), Some(0));

    // Inside of a container it is the container's address that counts.
    let container = idle(host, &[]).unwrap();
    let line = host.agent.netctl_line(["announce", "web", "--id", "c", "--port", "80", "--", "sleep", "infinity"]).unwrap();
    let _inside = container.spawn("inside", line).unwrap();
    assert_eq!(becomes_up(host, "c")["addresses"][0], container.address().unwrap().to_string());
}

/// A command that serves HTTP while a file is there, and goes on when it is not.
const SERVES_AT_TIMES: &str = r#"go=$1; shift; trap 'kill $server; exit 9' TERM
    while :; do
        until test -e "$go"; do sleep 0.05; done
        "$@" & server=$!
        while test -e "$go"; do sleep 0.05; done
        kill $server; wait $server
    done"#;

/// Waits until a host's virtual IP and name lead to these containers only.
fn served_by(host: &Host, wanted: &[&Container]) {
    let mut addresses: Vec<String> = wanted.iter().map(|c| c.address().unwrap().to_string()).collect();
    addresses.sort();
    eventually(&format!("{addresses:?} serve on {}", host.name()), SOON, || {
        let service = host.netctl(["service", "show", "web", "-o", "json"])?.json()?;
        let backends = service["backends"].as_array().cloned().unwrap_or_default();
        let mut used: Vec<_> = backends.iter().filter(|b| b["used"] == true).filter_map(|b| b["address"].as_str()).collect();
        used.sort_unstable();
        ensure!(used == addresses, "{service}");
        let mut told = dig(host.place(), &server_of(&host.agent.status()?)?, &["tasks.web.skydns.local"])?.data("A");
        told.sort();
        ensure!(told == addresses, "{told:?}, not {addresses:?}");
        Ok(())
    })
    .unwrap();
}

fn becomes(host: &Host, id: &str, state: &str) {
    eventually(&format!("{id} is {state} on {}", host.name()), SOON, || {
        seen(host, id).filter(|e| e["state"] == state).ok_or_else(|| format!("{:?}", endpoints(host)))
    })
    .unwrap();
}

#[test]
fn what_is_announced_with_a_check_is_served_while_it_is_well_and_runs_on_meanwhile() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let created = h2.netctl(["service", "create", "web", "--port", "80:8080", "-o", "json"]).unwrap().json().unwrap();
    let (a, b, client) = (idle(h1, &[]).unwrap(), idle(h1, &[]).unwrap(), idle(h2, &[]).unwrap());
    let (go, sick) = (t.dir().join("go"), t.dir().join("sick"));
    let (set, unset) = (|file: &Path| std::fs::write(file, "").unwrap(), |file: &Path| std::fs::remove_file(file).unwrap());
    let web = |say: &str| -> Vec<String> {
        let words = [&probe().unwrap(), "serve-http", "0.0.0.0:8080", "--say", say, "--sick", &sick.to_string_lossy()];
        words.map(str::to_owned).to_vec()
    };
    let announce = |inside: &Container, id: &str, check: &str, command: Vec<String>| -> Daemon {
        let often = ["--check-interval", "200ms", "--check-timeout", "10s", "--check-grace", "1h"];
        let words = [&["announce", "web", "--id", id, "--port", "8080", "--check", check], &often[..], &["--"]].concat();
        let mut line = h1.agent.netctl_line(words).unwrap();
        line.extend(command.into_iter().map(Into::into));
        inside.spawn(id, line).unwrap()
    };
    let url = format!("http://{}/", created["vip"].as_str().unwrap());
    let answers = || client.exec(["curl", "-sS", "--max-time", "20", &url]).unwrap();

    // One whose port is not open yet, and one that says itself that it is not well.
    let at_times = ["sh", "-c", SERVES_AT_TIMES, "serves", &go.to_string_lossy()].map(str::to_owned);
    let first = announce(&a, "a", "tcp", [at_times.to_vec(), web("a")].concat());
    becomes(h2, "a", "starting");
    served_by(h2, &[]);
    assert_eq!(t.etcd().list("/skydns/local/skydns/web/").unwrap(), [], "nor does CoreDNS beside us serve it");
    let refused = answers();
    assert!(refused.code() == 7, "refused at once: {refused:?}");
    set(&go);
    becomes_up(h2, "a");
    served_by(h2, &[&a]);
    assert_eq!(answers().success().unwrap().stdout, "a\n");
    set(&sick);
    let second = announce(&b, "b", "http:/healthz", web("b"));
    eventually("b is asked, and says no", SOON, || {
        let health = h1.netctl(["endpoint", "health", "b", "-o", "json"])?.json()?;
        ensure!(health["checks"][0]["last"]["said"] == "GET /healthz: 503 Service Unavailable", "{health}");
        Ok(())
    })
    .unwrap();
    becomes(h2, "b", "starting");
    served_by(h2, &[&a]);
    unset(&sick);
    served_by(h2, &[&a, &b]);

    // Each goes, and comes back, for its own reason; the commands run on.
    unset(&go);
    becomes(h2, "a", "down");
    served_by(h2, &[&b]);
    assert_eq!(answers().success().unwrap().stdout, "b\n");
    set(&go);
    served_by(h2, &[&a, &b]);
    set(&sick);
    becomes(h2, "b", "down");
    served_by(h2, &[&a]);
    unset(&sick);
    served_by(h2, &[&a, &b]);
    assert!(first.ended().unwrap().is_none() && second.ended().unwrap().is_none());

    assert_eq!(first.stop(SOON).unwrap().code(), Some(9), "{}", first.stderr());
    served_by(h2, &[&b]);
    assert_eq!(second.stop(SOON).unwrap().code(), Some(128 + 15), "{}", second.stderr());
    is_gone(h2, "b");
    for tree in ["/skydns/local/skydns/web/", "/weft/v1/down/"] {
        assert_eq!(t.etcd().list(tree).unwrap(), [], "{tree}");
    }
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
