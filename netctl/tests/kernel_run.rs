//! `netctl run` on a real kernel: namespaces, cgroup, resolv.conf, signals, and that nothing stays behind. The agent is the
//! test's own: it opens the namespace that it is given, as a real one does, and hands out an address without using it.
//!
//! Needs root and a cgroup v2 mount.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may assume; clippy.toml knows only the test functions themselves"
)]

#[path = "run/options.rs"]
mod options;
mod server;
mod stage;
#[path = "run/terminal.rs"]
mod terminal;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use server::{Server, netctl};
use stage::{Agent, Cgroup, Running, alive, attached_as, eventually, in_new_session, state, status, told};

#[test]
fn a_command_has_its_own_network_cgroup_and_resolv_conf() {
    let agent = Agent::with(|request| {
        // Seen by the agent before anything runs in it.
        assert!(request.line != "POST /v1/attachments" || request.body["name"] == "web");
        None
    });
    let seen = Arc::clone(&agent.seen);
    let host_resolv = fs::read("/etc/resolv.conf").ok();
    let host_mounts = mounts_on_etc();
    let script = "stat -Lc %i /proc/self/ns/net; grep ^0: /proc/self/cgroup; echo $WEFT_ID $WEFT_ADDRESS; \
                  ip -o link show; cat /etc/resolv.conf; read wait";
    let mut command = agent.command(&["sh", "-c", script]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    command.stdin(reader);
    let mut running = Running::start(command);
    let inode: u64 = running.line().parse().unwrap();
    {
        let seen = seen.lock().unwrap();
        let seen = seen.as_ref().unwrap();
        assert_eq!((seen.inode, seen.kind), (inode, libc::CLONE_NEWNET));
    }
    assert_ne!(inode, fs::metadata("/proc/self/ns/net").unwrap().ino());
    let cgroup = running.line();
    assert!(cgroup.ends_with("/weft/run-web-1"), "{cgroup}");
    assert_eq!(running.line(), "web-1 10.244.3.5");
    let loopback = running.line();
    assert!(loopback.contains("lo:") && loopback.contains(",UP"), "{loopback}");
    assert_eq!(running.line(), "# written by netctl");
    assert_eq!(running.line(), "nameserver 10.244.3.1");
    assert_eq!(running.line(), "search skydns.local");
    assert_eq!(running.line(), "options ndots:2");
    assert!(agent.cgroup.run_dir().is_dir());
    assert_eq!(fs::read("/etc/resolv.conf").ok(), host_resolv, "the host's file is untouched");

    writer.write_all(b"\n").unwrap();
    assert_eq!(running.exit_code(), Some(0));
    agent.assert_clean();
    assert_eq!(agent.server.lines(), ["GET /v1/status", "POST /v1/attachments", "DELETE /v1/attachments/web-1"]);
    assert_eq!(mounts_on_etc(), host_mounts, "no mount has come out of its namespace");
}

fn mounts_on_etc() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|l| l.split(' ').nth(4).is_some_and(|point| point.starts_with("/etc"))).map(str::to_owned).collect()
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let agent = Agent::start();
    let plain = tempfile::NamedTempFile::new().unwrap();
    let not_executable = plain.path().to_str().unwrap().to_owned();
    for (command, wanted, message) in [
        (&["true"][..], 0, ""),
        (&["sh", "-c", "exit 7"], 7, ""),
        (&["sh", "-c", "kill -KILL $$"], 137, ""),
        (&["sh", "-c", "kill -TERM $$"], 143, ""),
        (&["grep", "^SigBlk:.*[1-9a-f]", "/proc/self/status"], 1, ""),
        (&["no-such-command", "x"], 127, "netctl: run: no-such-command: command not found\n"),
        (&[&not_executable], 126, "cannot be executed: Permission denied"),
        (&["/"], 126, "netctl: run: /: cannot be executed: Permission denied"),
    ] {
        let (code, _, err) = told(&agent.run(command));
        assert_eq!(code, wanted, "{command:?}: {err}");
        assert!(err.contains(message) && err.is_empty() == message.is_empty(), "{command:?}: {err}");
        agent.assert_clean();
    }
}

#[test]
fn signals_reach_the_command_once_each() {
    let agent = Agent::start();
    let mut running = agent.start_script(LISTEN);
    // Not netctl's group, so that what is sent to all of that comes from netctl alone.
    assert_ne!(running.line(), running.netctl.id().to_string());
    for (signal, word) in [
        (Signal::SIGTERM, "term"),
        (Signal::SIGINT, "int"),
        (Signal::SIGHUP, "hup"),
        (Signal::SIGWINCH, "winch"),
        (Signal::SIGUSR1, "usr1"),
        (Signal::SIGQUIT, "quit"),
        (Signal::SIGALRM, "alrm"),
    ] {
        running.signal(signal);
        assert_eq!(running.line(), word);
    }
    kill(Pid::from_raw(-running.netctl.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(running.line(), "term");
    running.signal(Signal::SIGUSR2);
    assert_eq!(running.rest(), Vec::<String>::new());
    assert_eq!(running.exit_code(), Some(5));
    agent.assert_clean();
}

/// Says its process group and what reaches it, until SIGUSR2. No shell: dash 0.5.12 loses a signal that comes as it starts a
/// command (`onsig` returns at once while `vforked` is set).
const LISTEN: &str = "exec perl -e '$| = 1; for my $name (qw(INT TERM HUP WINCH USR1 QUIT ALRM CONT)) { $SIG{$name} = sub { print lc($name), qq(\\n) } } \
                      $SIG{USR2} = sub { exit 5 }; print getpgrp, qq(\\n); sleep 1 while 1'";

#[test]
fn a_command_can_be_stopped_and_goes_on_and_its_end_by_a_signal_is_told() {
    let agent = Agent::start();
    let mut running = agent.start_script(&format!("echo $$; {LISTEN}"));
    let pid: u32 = running.line().parse().unwrap();
    running.line();
    running.signal(Signal::SIGTSTP);
    eventually("the command is stopped", || state(pid) == 'T');
    running.signal(Signal::SIGCONT);
    assert_eq!(running.line(), "cont");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(running.exit_code(), Some(137));
    agent.assert_clean();
}

#[test]
fn what_the_command_leaves_running_ends_with_it() {
    let agent = Agent::start();
    // Out of its session, out of its group, and in a cgroup further down: still its own.
    let script = "setsid sleep 1000 & echo $!; c=$(grep ^0: /proc/self/cgroup | cut -d: -f3); \
                  d=$(find $0 -type d -name run-web-1)/sub; mkdir $d; sleep 1000 & echo $! > $d/cgroup.procs; echo $!";
    let (code, out, err) = told(&agent.run(&["sh", "-c", script, agent.cgroup.0.to_str().unwrap()]));
    assert_eq!((code, err.as_str()), (0, ""));
    let pids: Vec<u32> = out.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| !alive(*pid)), "{pids:?}");
    agent.assert_clean();
}

#[test]
fn the_command_dies_with_a_killed_netctl_and_the_next_run_removes_the_rest() {
    let agent = Agent::start();
    let mut running = agent.start_script("setsid sleep 1000 > /dev/null & echo $!; echo $$; sleep 1000");
    let orphan: u32 = running.line().parse().unwrap();
    let command: u32 = running.line().parse().unwrap();
    running.signal(Signal::SIGKILL);
    assert_eq!(running.exit_code(), None);
    eventually("the command dies with netctl", || !alive(command));
    assert!(alive(orphan));
    assert!(agent.cgroup.run_dir().is_dir());

    let (code, out, err) = told(&agent.run(&["echo", "again"]));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "again\n", ""));
    assert!(!alive(orphan));
    agent.assert_clean();
}

#[test]
fn a_second_run_of_a_living_id_is_refused_and_leaves_the_first_alone() {
    let agent = Agent::start();
    let mut first = agent.start_script("trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done");
    assert_eq!(first.line(), "ready");
    let (code, _, err) = told(&agent.run(&["true"]));
    assert_eq!(code, 1);
    assert!(err.contains("belongs to another netctl run of this id"), "{err}");
    assert!(first.netctl.try_wait().unwrap().is_none());
    assert!(agent.cgroup.run_dir().is_dir());
}

#[test]
fn commands_run_side_by_side() {
    let next = AtomicUsize::new(0);
    let cgroup = Cgroup::new();
    let path = cgroup.0.clone();
    let server = Server::start(move |request| {
        let value = match request.line.split(' ').next().unwrap() {
            "GET" => status(&path),
            _ => {
                let mut attached = attached_as(request.body["netns"].as_str().unwrap_or("/gone"), &path);
                attached["id"] = json!(format!("web-{}", next.fetch_add(1, Ordering::Relaxed)));
                attached
            }
        };
        Some((200, value))
    });
    let start = |_| {
        let mut command = server.netctl();
        in_new_session(&mut command);
        command.args(["run", "--", "sh", "-c", "echo $WEFT_ID; sleep 0.1"]).stdin(Stdio::null());
        Running::start(command)
    };
    let mut all: Vec<Running> = (0..8).map(start).collect();
    for running in &mut all {
        assert!(running.line().starts_with("web-"));
        assert_eq!(running.exit_code(), Some(0));
    }
    assert_eq!(cgroup.below(), Vec::<PathBuf>::new());
}

#[test]
fn a_refused_attach_starts_nothing() {
    let agent = Agent::with(|request| {
        let body = json!({"error": {"code": "conflict", "message": "id web-1 is taken"}});
        (request.line == "POST /v1/attachments").then_some(Some((409, body)))
    });
    let (code, out, err) = told(&agent.run(&["echo", "started"]));
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "netctl: run: id web-1 is taken\n"));
    agent.assert_clean();
}

#[test]
fn a_signal_while_waiting_for_the_agent_ends_it_and_takes_back_what_may_have_been_done() {
    let agent = Agent::with(|request| match request.line.as_str() {
        "POST /v1/attachments" => Some(None),
        "GET /v1/attachments" => Some(Some((200, json!([])))),
        _ => None,
    });
    let mut running = agent.start_script("echo started");
    eventually("netctl waits for the agent", || agent.server.lines().len() == 2);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(143));
    assert_eq!(running.rest(), Vec::<String>::new());
    assert_eq!(agent.server.lines().last().unwrap(), "GET /v1/attachments");
    agent.assert_clean();
}

#[test]
fn an_agent_that_is_gone_at_the_end_does_not_change_the_exit_code() {
    let agent = Agent::with(|request| {
        let body = json!({"error": {"code": "internal", "message": "shutting down"}});
        request.line.starts_with("DELETE").then_some(Some((500, body)))
    });
    let (code, _, err) = told(&agent.run(&["sh", "-c", "exit 7"]));
    assert_eq!(code, 7);
    assert!(err.starts_with("netctl: run: detach web-1: shutting down ("), "{err}");
    assert_eq!(agent.cgroup.below(), Vec::<PathBuf>::new());
}

#[test]
fn no_agent_is_exit_3_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = netctl(&dir.path().join("weft.sock"));
    let (code, _, err) = told(&command.args(["run", "--timeout", "0", "--", "true"]).output().unwrap());
    assert_eq!(code, 3, "{err}");
}

#[test]
fn a_run_waits_for_an_agent_that_is_about_to_start() {
    let agent = Agent::start();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    let mut command = netctl(&socket);
    command.args(["run", "--", "echo", "started"]).stdin(Stdio::null());
    in_new_session(&mut command);
    let mut running = Running::start(command);
    // It sleeps in epoll only between two tries, as there is nobody to ask.
    let at = format!("/proc/{}/wchan", running.netctl.id());
    eventually("netctl waits", || fs::read_to_string(&at).is_ok_and(|at| at.contains("poll")));
    std::os::unix::fs::symlink(agent.server.socket(), &socket).unwrap();
    assert_eq!(running.line(), "started");
    assert_eq!(running.exit_code(), Some(0));
    agent.assert_clean();
}

#[test]
fn a_cgroup_that_is_not_to_be_seen_is_said_before_anything_is_made() {
    let agent = Agent::with(|request| (request.line == "GET /v1/status").then(|| Some((200, status(Path::new("/proc"))))));
    let (code, _, err) = told(&agent.run(&["true"]));
    assert_eq!(code, 1);
    assert!(err.starts_with("netctl: run: the agent's cgroup \"/proc\" is no cgroup v2 directory here"), "{err}");
    assert_eq!(agent.server.lines(), ["GET /v1/status"]);
}

#[test]
fn without_root_it_says_so_before_anything_is_asked() {
    let agent = Agent::start();
    // Where everybody may execute it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.path().join("netctl");
    // By another process: a descriptor open for writing here could be inherited by a child of another test ("text file busy").
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_netctl")).arg(&binary).status().unwrap().success());
    let mut command = Command::new(binary);
    command.arg("--socket").arg(agent.server.socket()).args(["run", "--", "true"]).uid(65534).gid(65534);
    let (code, _, err) = told(&command.output().unwrap());
    assert_eq!(code, 1);
    assert!(err.contains("takes root: sudo netctl run"), "{err}");
    assert_eq!(agent.server.lines(), Vec::<String>::new());
}

/// Runs a command under `netctl run` on a host whose /etc is made by a script.
fn with_etc(agent: &Agent, make: &str, options: &[&str], command: &str) -> Output {
    let script = format!("mount -t tmpfs none /etc && cd /etc && {{ {make}; }} && exec \"$@\"");
    let mut host = Command::new("unshare");
    host.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_netctl"), "--socket"]);
    host.arg(agent.server.socket()).arg("run").args(options).args(["--", "sh", "-c", command]).stdin(Stdio::null());
    in_new_session(&mut host);
    host.output().unwrap()
}

#[test]
fn a_host_without_resolv_conf_gets_none_and_the_command_has_one() {
    let agent = Agent::start();
    for make in ["echo h1 > hostname", "echo h1 > hostname; ln -s /run/no-such-dir/resolv.conf resolv.conf"] {
        let (code, out, err) = told(&with_etc(&agent, make, &[], "grep nameserver /etc/resolv.conf; cat /etc/hostname"));
        assert_eq!((code, out.as_str(), err.as_str()), (0, "nameserver 10.244.3.1\nh1\n", ""), "{make}");
        agent.assert_clean();
    }
}

#[test]
fn a_resolv_conf_that_is_a_link_stays_one_and_leads_to_the_commands_own() {
    let agent = Agent::start();
    let make =
        "mkdir stub; echo nameserver 127.0.0.53 > stub/resolv.conf; ln -s stub/resolv.conf resolv.conf; echo h1 > hostname";
    let command = "readlink /etc/resolv.conf; grep nameserver /etc/resolv.conf; cat /etc/hostname; \
                   touch /etc/new && echo writable; grep -c ' /etc ' /proc/self/mountinfo";
    let (code, out, err) = told(&with_etc(&agent, make, &[], command));
    assert_eq!((code, err.as_str()), (0, ""));
    // One mount on /etc: the host's. The tmpfs that brought the file is gone.
    assert_eq!(out, "stub/resolv.conf\nnameserver 10.244.3.1\nh1\nwritable\n1\n");
    agent.assert_clean();
}
