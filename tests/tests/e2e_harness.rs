//! The harness itself: what the other scenarios take for granted.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::clients::Home;
use weft_tests::eventually::SOON;
use weft_tests::topology::assert_nothing_left;
use weft_tests::{Topology, eventually, teardown};

fn pings(from: &weft_tests::Place, to: std::net::Ipv4Addr) -> bool {
    from.exec(["ping", "-n", "-c", "1", "-W", "1", &to.to_string()]).unwrap().status.success()
}

#[test]
fn hosts_reach_each_other_over_the_fabric() {
    let t = Topology::new(2).unwrap();
    assert!(pings(t.host(1).place(), t.host(2).address()));
    assert!(pings(t.host(2).place(), t.host(1).address()));
    t.down().unwrap();
}

#[test]
fn a_host_sees_only_its_own_links() {
    let t = Topology::new(2).unwrap();
    let links = t.host(1).exec(["ip", "-json", "link"]).unwrap().json().unwrap();
    let names: Vec<_> = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap()).collect();
    assert_eq!(names, ["lo", "up0"]);
}

#[test]
fn commands_run_in_their_hosts_cgroup() {
    let t = Topology::new(1).unwrap();
    let seen = t.host(1).exec(["cat", "/proc/self/cgroup"]).unwrap().success().unwrap().stdout;
    let wanted = format!("0::/{}/h1", t.name());
    assert!(seen.lines().any(|l| l.ends_with(&wanted[3..])), "{seen}");
}

#[test]
fn etcd_answers_every_host_and_keeps_its_data_when_killed() {
    let t = Topology::new(2).unwrap();
    t.etcd().start().unwrap();
    t.etcd().put("/a", "1").unwrap();
    for host in t.hosts() {
        let health = host.exec(["curl", "-sS", "--max-time", "5", &format!("{}/health", t.etcd().endpoint())]).unwrap();
        assert!(health.stdout.contains("true"), "{health:?}");
    }
    t.etcd().stop().unwrap();
    assert!(t.etcd().get("/a").is_err());
    t.etcd().start().unwrap();
    assert_eq!(t.etcd().get("/a").unwrap().as_deref(), Some("1"));
    assert_eq!(t.etcd().get("/b").unwrap(), None);
}

#[test]
fn a_host_without_power_runs_nothing_and_answers_nothing() {
    let t = Topology::new(2).unwrap();
    let busy = t.host(2).spawn("busy", ["sleep", "1000"]).unwrap();
    t.host(2).power_off().unwrap();
    assert!(busy.ended().unwrap().is_some());
    assert!(!pings(t.host(1).place(), t.host(2).address()));

    t.host(2).power_on().unwrap();
    eventually(
        "h2 answers again",
        SOON,
        || {
            if pings(t.host(1).place(), t.host(2).address()) { Ok(()) } else { Err("no answer") }
        },
    )
    .unwrap();
}

#[test]
fn a_host_without_cable_lives_on() {
    let t = Topology::new(2).unwrap();
    let busy = t.host(2).spawn("busy", ["sleep", "1000"]).unwrap();
    t.host(2).pull_cable().unwrap();
    assert!(!pings(t.host(1).place(), t.host(2).address()));
    assert!(busy.ended().unwrap().is_none());

    t.host(2).plug_cable().unwrap();
    eventually(
        "h2 answers again",
        SOON,
        || {
            if pings(t.host(1).place(), t.host(2).address()) { Ok(()) } else { Err("no answer") }
        },
    )
    .unwrap();
}

#[test]
fn a_home_is_one_hosts_own_and_goes_with_its_power() {
    let t = Topology::new(2).unwrap();
    let [one, two] = [1, 2].map(|n| Home::open(t.host(n)).unwrap());
    for (home, path) in [(&one, "/etc/cni/net.d/x"), (&one, "/opt/cni/bin/x"), (&one, "/var/lib/weft-test/x"), (&one, "/run/x")] {
        home.write(path, "one").unwrap();
        assert_eq!(home.exec(["cat", path]).unwrap().success().unwrap().stdout, "one");
        assert_ne!(two.exec(["cat", path]).unwrap().code(), 0, "{path} of h1 is on h2");
        assert!(!std::path::Path::new(path).exists(), "{path} of h1 is the machine's");
    }
    assert_eq!(std::fs::read_to_string(one.run().join("x")).unwrap(), "one");
    // What the machine has is there, and a group that is made is below the host's.
    assert_ne!(one.exec(["cat", "/etc/passwd"]).unwrap().success().unwrap().stdout, "");
    one.exec(["mkdir", "/sys/fs/cgroup/made"]).unwrap().success().unwrap();
    assert!(t.host(1).place().cgroup().join("made").is_dir());
    let seen = one.exec(["cat", "/proc/self/cgroup"]).unwrap().stdout;
    assert!(seen.lines().any(|l| l == "0::/"), "{seen}");
    // Mounts made in it are nobody else's.
    one.exec(["mount", "-t", "tmpfs", "weft-test", "/var/lib/weft-test"]).unwrap().success().unwrap();
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("/var/lib/weft-test"));

    t.host(1).power_off().unwrap();
    t.host(1).power_on().unwrap();
    let one = Home::open(t.host(1)).unwrap();
    assert_ne!(one.exec(["cat", "/run/x"]).unwrap().code(), 0);
    t.down().unwrap();
}

#[test]
fn the_fabric_answers_names_when_asked_to() {
    let t = Topology::new(1).unwrap();
    let _upstream = t.upstream_dns("www.example.com", "192.0.2.80".parse().unwrap()).unwrap();
    let fabric = format!("@{}", weft_tests::topology::FABRIC);
    let answer = t.host(1).exec(["dig", &fabric, "www.example.com", "+short"]).unwrap().success().unwrap();
    assert_eq!(answer.stdout.trim(), "192.0.2.80");
}

#[test]
fn a_test_that_panics_leaves_nothing() {
    let mut name = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let t = Topology::new(2).unwrap();
        name = t.name().to_owned();
        t.etcd().start().unwrap();
        let _busy = t.host(1).spawn("busy", ["sleep", "1000"]).unwrap();
        panic!("as tests do");
    }));
    assert!(outcome.is_err());
    assert_nothing_left(&name).unwrap();
}

#[test]
fn what_is_left_is_seen() {
    let t = Topology::new(1).unwrap();
    let _busy = t.host(1).spawn("busy", ["sleep", "1000"]).unwrap();
    let left = teardown::left(t.name()).unwrap().join("\n");
    for what in ["directory", "mount", "cgroup", "process"] {
        assert!(left.contains(what), "{what} is missing in:\n{left}");
    }
    assert!(assert_nothing_left(t.name()).is_err());
}

#[test]
fn a_command_that_hangs_is_ended_and_told() {
    let t = Topology::new(1).unwrap();
    let start = Instant::now();
    let error = t.host(1).place().exec_within(Duration::from_millis(200), ["sleep", "1000"]).unwrap_err();
    assert!(error.to_string().starts_with("sleep 1000: still running"), "{error:#}");
    assert!(start.elapsed() < SOON);
}

/// Starts a process that holds a topology, and gives its name once it is up.
fn holder() -> (std::process::Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-probe"))
        .arg("hold-topology")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut name = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut name).unwrap();
    let name = name.trim().to_owned();
    assert!(!teardown::left(&name).unwrap().is_empty(), "{name:?} is up");
    (child, name)
}

fn ends_on(signal: Signal) {
    let (mut child, name) = holder();
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + signal as i32));
    assert_nothing_left(&name).unwrap();
}

#[test]
fn ctrl_c_leaves_nothing() {
    ends_on(Signal::SIGINT);
}

#[test]
fn sigterm_leaves_nothing() {
    ends_on(Signal::SIGTERM);
}

#[test]
fn what_a_killed_process_left_is_swept_by_the_next_one() {
    let (mut child, name) = holder();
    child.kill().unwrap();
    child.wait().unwrap();
    let t = Topology::new(1).unwrap();
    // Another test that makes a topology at this moment may be the one that sweeps.
    eventually("the sweep", SOON, || assert_nothing_left(&name)).unwrap();
    t.down().unwrap();
}
