//! What `netctl run` gives a command beside the network: variables, a user, a place, a host name, limits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::sys::signal::Signal;

use crate::stage::{Agent, Running, alive, eventually, told};

fn run(agent: &Agent, options: &[&str], command: &[&str]) -> Output {
    agent.command_with(options, command).output().unwrap()
}

#[test]
fn variables_come_from_options_files_and_netctl_itself() {
    let agent = Agent::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "# ours\nA=file\nB=two words\nOWN\nGONE=file\n").unwrap();
    let options = ["-e", "A=option", "--env-file", file.path().to_str().unwrap(), "-e", "GONE", "--env", "WEFT_ID=forged"];
    let mut command = agent.command_with(&options, &["sh", "-c", "echo \"$A|$B|$OWN|${GONE-none}|$WEFT_ID\""]);
    let (code, out, err) = told(&command.env("OWN", "netctl's").env_remove("GONE").output().unwrap());
    assert_eq!((code, out.as_str(), err.as_str()), (0, "option|two words|netctl's|none|web-1\n", ""));
    agent.assert_clean();
}

#[test]
fn what_cannot_be_is_said_before_anything_is_asked() {
    let agent = Agent::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "A=1\nnot one\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (options, wanted, message) in [
        (&["--env-file", path][..], 1, "line 2: \"not one\" is no variable"),
        (&["--env-file", "/no/such/file"], 1, "netctl: run: read /no/such/file: No such file"),
        (&["--user", "no-such-user-xyz"], 1, "netctl: run: there is no user \"no-such-user-xyz\" on this host"),
        (&["--workdir", "/no/such/dir"], 1, "netctl: run: --workdir /no/such/dir: No such file"),
        (&["--workdir", path], 1, "not a directory"),
        (&["--hostname", "a b"], 2, "is no host name"),
        (&["--memory", "1x"], 2, "is no size"),
        (&["--cpus", "half"], 2, "is no number of CPUs"),
        (&["--pids-limit", "0"], 2, "--pids-limit"),
        (&["-e", "=x"], 2, "is no variable"),
    ] {
        let (code, out, err) = told(&run(&agent, options, &["echo", "started"]));
        assert_eq!((code, out.as_str()), (wanted, ""), "{options:?}: {err}");
        assert!(err.contains(message), "{options:?}: {err}");
        assert_eq!(agent.server.lines(), Vec::<String>::new(), "{options:?}");
    }
}

#[test]
fn a_command_runs_as_the_user_and_in_its_groups() {
    let agent = Agent::start();
    let make = "echo root:x:0:0::/root:/bin/sh > passwd; echo web:x:1234:1500::/srv/web:/bin/sh >> passwd; \
                printf 'root:x:0:\\nweb:x:1500:\\nshare:x:1501:web\\nother:x:1502:\\n' > group; touch resolv.conf";
    let script = "id -u; id -g; id -G; echo $HOME $USER; grep -E '^Cap(Prm|Eff):' /proc/self/status";
    for (user, told_of_it) in [
        ("web", "1234\n1500\n1500 1501\n/srv/web web\n"),
        ("1234", "1234\n1500\n1500 1501\n/srv/web web\n"),
        ("web:other", "1234\n1502\n1502\n/srv/web web\n"),
        ("4321:1501", "4321\n1501\n1501\n/\n"),
    ] {
        let (code, out, err) = told(&crate::with_etc(&agent, make, &["--user", user], script));
        let wanted = format!("{told_of_it}CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n");
        assert_eq!((code, out, err.as_str()), (0, wanted, ""), "{user}");
        agent.assert_clean();
    }
}

#[test]
fn a_command_of_another_user_dies_with_a_killed_netctl_too() {
    let agent = Agent::start();
    let mut running = Running::start(agent.command_with(&["-u", "65534:65534"], &["sh", "-c", "echo $$; exec sleep 1000"]));
    let pid: u32 = running.line().parse().unwrap();
    running.signal(Signal::SIGKILL);
    assert_eq!(running.exit_code(), None);
    eventually("the command dies with netctl", || !alive(pid));
    assert_eq!(told(&agent.run(&["true"])).0, 0);
    agent.assert_clean();
}

#[test]
fn a_user_has_the_terminal_and_not_what_is_roots() {
    let agent = Agent::start();
    let script = "echo mine > $(tty); cat /etc/shadow > /dev/null 2>&1 || echo not allowed";
    let (code, out, err) = told(&run(&agent, &["-t", "--user", "65534:65534"], &["sh", "-c", script]));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "mine\r\nnot allowed\r\n", ""));
    let hidden = tempfile::tempdir().unwrap();
    fs::set_permissions(hidden.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let (code, _, err) = told(&run(&agent, &["-u", "65534:65534", "-w", hidden.path().to_str().unwrap()], &["echo", "started"]));
    assert_eq!(code, 1);
    assert!(err.contains(&format!("--workdir {}: Permission denied", hidden.path().display())), "{err}");
    agent.assert_clean();
}

#[test]
fn a_command_has_a_directory_and_a_host_name() {
    let agent = Agent::start();
    let before = nix::unistd::gethostname().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("here"), "#!/bin/sh\npwd; uname -n\n").unwrap();
    let path = dir.path().canonicalize().unwrap();
    let (code, out, err) = told(&run(&agent, &["-w", path.to_str().unwrap(), "--hostname", "web.example"], &["sh", "./here"]));
    assert_eq!((code, out, err.as_str()), (0, format!("{}\nweb.example\n", path.display()), ""));
    assert_eq!(nix::unistd::gethostname().unwrap(), before);
    agent.assert_clean();
}

/// A process's cgroup in the hierarchy that has `controller`: of version 1 where that one has it, else the unified one.
fn group_of(pid: u32, controller: &str) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let row = |wanted: &dyn Fn(&str) -> bool| {
        let row = groups.lines().map(|l| l.splitn(3, ':').collect::<Vec<_>>()).find(|row| wanted(row[1]));
        row.map(|row| row[2].trim_start_matches('/').to_owned())
    };
    let legacy = row(&|names| names.split(',').any(|name| name == controller));
    let is_its_mount = |line: &&str| match &legacy {
        Some(_) => line.contains(" - cgroup ") && line.rsplit(' ').next().unwrap().split(',').any(|name| name == controller),
        None => line.contains(" - cgroup2 "),
    };
    let mount = mounts.lines().find(is_its_mount).unwrap_or_else(|| panic!("no hierarchy with {controller}: {mounts}"));
    Path::new(mount.split(' ').nth(4).unwrap()).join(legacy.or_else(|| row(&str::is_empty)).unwrap())
}

/// The value of the first of these files that is there.
fn setting(group: &Path, files: [&str; 2]) -> String {
    let found = files.iter().find_map(|file| fs::read_to_string(group.join(file)).ok());
    found.unwrap_or_else(|| panic!("none of {files:?} in {}", group.display())).trim().to_owned()
}

#[test]
fn limits_are_set_in_the_hierarchy_that_owns_the_controller_and_go_with_the_command() {
    let agent = Agent::start();
    let options = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "9"];
    let mut running = Running::start(agent.command_with(&options, &["sh", "-c", "echo $$; exec sleep 1000"]));
    let pid: u32 = running.line().parse().unwrap();
    let [memory, cpu, pids] = ["memory", "cpu", "pids"].map(|controller| group_of(pid, controller));
    assert_eq!(setting(&memory, ["memory.max", "memory.limit_in_bytes"]), (64 << 20).to_string());
    assert!(["50000 100000", "50000"].contains(&setting(&cpu, ["cpu.max", "cpu.cfs_quota_us"]).as_str()));
    assert_eq!(setting(&pids, ["pids.max", "pids.max"]), "9");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(143));
    for group in [&memory, &cpu, &pids] {
        assert!(!group.exists(), "{}", group.display());
    }
    agent.assert_clean();
}

#[test]
fn limits_of_a_killed_netctl_are_taken_back_by_the_next_run() {
    let agent = Agent::start();
    let script = "setsid sleep 1000 > /dev/null & echo $!; exec sleep 1000";
    let mut running = Running::start(agent.command_with(&["--pids-limit", "9"], &["sh", "-c", script]));
    let orphan: u32 = running.line().parse().unwrap();
    let group = group_of(orphan, "pids");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.exit_code(), None);
    assert!(alive(orphan) && group.exists());
    assert_eq!(told(&agent.run(&["true"])).0, 0);
    assert!(!alive(orphan) && !group.exists());
    agent.assert_clean();
}

#[test]
fn a_command_that_uses_too_much_is_held_to_its_limits() {
    let agent = Agent::start();
    let (code, _, err) = told(&run(&agent, &["--memory", "32m"], &["perl", "-e", "$x = 'x' x (256 << 20); sleep 1000"]));
    assert_eq!(code, 137, "{err}");
    assert_eq!(err, "netctl: run: out of the memory that --memory allows: the kernel has killed 1 process(es)\n");
    agent.assert_clean();

    // perl itself is one of the four.
    let fork =
        "my $n = 0; while ($n < 20) { my $pid = fork; last unless defined $pid; if (!$pid) { sleep 1000 } $n++ } print qq($n\n)";
    let (code, out, err) = told(&run(&agent, &["--pids-limit", "4"], &["perl", "-e", fork]));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "3\n", ""));
    agent.assert_clean();
}
