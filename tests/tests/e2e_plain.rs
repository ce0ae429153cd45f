//! What is no container of an engine: namespaces of `ip netns`, systemd's units and nspawn, lxc, bubblewrap. Each is attached as the examples
//! and docs/attach.md say, resolves names, reaches another host and a virtual IP, is reached, ends, and leaves nothing.
//!
//! The units as a whole, under a real systemd, are in `e2e_units.rs`; here it is tested that systemd finds nothing to say about them,
//! and that the commands of one do by hand what they do there.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use weft_tests::clients::rootfs;
use weft_tests::container::{endpoints, run_to_end};
use weft_tests::eventually::SOON;
use weft_tests::node::binary;
use weft_tests::place::{Daemon, Output};
use weft_tests::{Container, Host, Topology, eventually};

/// A machine's /run and /etc for one host, so that names of `ip netns` are its own. `$1` is a directory of ours.
const KEEPER: &str = r#"
mount -t tmpfs -o mode=755 weft-plain /run
mkdir /run/.upper /run/.work
mount -t overlay -o lowerdir=/etc,upperdir=/run/.upper,workdir=/run/.work weft-plain /etc
echo ready
exec sleep infinity
"#;

/// What every one of them does inside: `$1` is what it says to others, `$2` a container on the other host, `$3` a directory of its
/// own. busybox's wget gives up on the first refusal, and what it asks for may be known a moment later; with -T, Debian's (1.35.0)
/// ends by SIGSEGV.
const INSIDE: &str = r#"
get() { until busybox wget -q -O - "$1"; do busybox sleep 0.2; done; }
get http://shop.skydns.local/
get http://tasks.shop.skydns.local:8080/
until busybox ping -c 1 -W 5 "$2" > /dev/null; do busybox sleep 0.2; done
busybox mkdir -p "$3"
echo "$1" > "$3/index.html"
echo inside
exec busybox httpd -f -p 8080 -h "$3"
"#;

/// Two hosts, of which the first has its own /run and /etc, and a service on the second: `shop`, at a virtual IP.
struct Stage {
    topology: Topology,
    keeper: Daemon,
    shop: Container,
}

impl Stage {
    fn new() -> Self {
        let topology = Topology::new(2).unwrap();
        let h1 = topology.host(1);
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", KEEPER];
        let keeper = h1.spawn("keeper", words).unwrap();
        eventually("the mounts of h1", SOON, || {
            ensure!(keeper.stdout().contains("ready"), "{}", keeper.stderr());
            Ok(())
        })
        .unwrap();
        // The agent sees what its host sees.
        h1.agent.set_wrapper(["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", keeper.pid())]);
        topology.start_cluster().unwrap();
        let h2 = topology.host(2);
        let www = h2.dir().join("www");
        fs::create_dir(&www).unwrap();
        fs::write(www.join("index.html"), "the shop\n").unwrap();
        let server = ["busybox", "httpd", "-f", "-p", "8080", "-h", www.to_str().unwrap()];
        let shop = h2.container(["--service", "shop:8080"], server).unwrap();
        h2.netctl(["service", "create", "shop", "--port", "80:8080"]).unwrap().success().unwrap();
        Self { topology, keeper, shop }
    }

    fn h1(&self) -> &Host {
        self.topology.host(1)
    }

    /// Words of a command that runs where the first host's paths are its own.
    fn on_h1(&self, words: &[&str]) -> Vec<String> {
        let enter = ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.keeper.pid()), "--".to_owned()];
        enter.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    fn exec(&self, words: &[&str]) -> Output {
        self.h1().exec(self.on_h1(words)).unwrap()
    }

    fn spawn(&self, name: &str, words: &[&str]) -> Daemon {
        self.h1().spawn(name, self.on_h1(words)).unwrap()
    }

    /// Words of the same for tools that want the cgroup tree as systemd makes it on today's hosts: version 2 alone.
    fn unified(words: &[&str]) -> Vec<String> {
        let root = weft_tests::cgroup::root().unwrap().display().to_string();
        let script = format!("mount --bind {root} /sys/fs/cgroup; exec \"$@\"");
        let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"];
        unshare.iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    /// `sh -c INSIDE`, of something that is called `name`; what it serves lies in `www`.
    fn inside(&self, name: &str, www: &str) -> Vec<String> {
        let address = self.shop.address().unwrap().to_string();
        ["busybox", "sh", "-c", INSIDE, "sh", name, &address, www].map(str::to_owned).to_vec()
    }

    /// It has done its part, and the other host reaches it by its name.
    fn works(&self, name: &str, daemon: &Daemon) {
        eventually(&format!("{name} reaches all"), SOON, || {
            if let Some(status) = daemon.ended()? {
                anyhow::bail!("it ended: {status}\n{}{}", daemon.stdout(), daemon.stderr());
            }
            ensure!(
                daemon.stdout().replace('\r', "") == "the shop\nthe shop\ninside\n",
                "{}{}",
                daemon.stdout(),
                daemon.stderr()
            );
            Ok(())
        })
        .unwrap();
        eventually(&format!("{name} is reached"), SOON, || {
            let url = format!("http://{name}.skydns.local:8080/");
            let said = self.shop.exec(["busybox", "wget", "-q", "-O", "-", &url])?.success()?;
            ensure!(said.stdout == format!("{name}\n"), "{said:?}");
            Ok(())
        })
        .unwrap();
    }

    /// No attachment, no device, no record of it is left on the first host.
    fn assert_gone(&self, name: &str) {
        eventually(&format!("nothing is left of {name}"), SOON, || {
            let attachments = self.h1().netctl(["attachment", "list", "-o", "json"])?.json()?;
            ensure!(attachments.as_array().is_some_and(Vec::is_empty), "{attachments}");
            let links = self.h1().exec(["ip", "-json", "link", "show", "type", "veth"])?.success()?.json()?;
            let ours = |link: &&serde_json::Value| link["ifname"].as_str().is_some_and(|name| name.starts_with("weft"));
            let ours: Vec<_> = links.as_array().context("links")?.iter().filter(ours).collect();
            ensure!(ours.is_empty(), "{ours:?}");
            let records = endpoints(self.h1())?;
            ensure!(!records.iter().any(|r| r.to_string().contains(name)), "{records:?}");
            Ok(())
        })
        .unwrap();
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd")
}

/// The commands of an example unit for an instance, in the order in which systemd runs them: to start it, to stop it. Their
/// `netctl` is the one that was built, and speaks to `host`'s agent.
fn commands(unit: &str, instance: &str, options: &str, host: &Host) -> [Vec<String>; 2] {
    let text = fs::read_to_string(examples().join(unit)).unwrap();
    let netctl = format!("{} --socket {}", binary("netctl").unwrap().display(), host.agent.socket().display());
    let of = |settings: &[&str]| {
        let lines = text.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| settings.contains(key));
        let spelled = |(_, value): (&str, &str)| {
            let value = value.trim_start_matches('-').replace("%i", instance).replace("$WEFT_OPTIONS", options);
            value.replace("/usr/local/bin/netctl", &netctl)
        };
        lines.map(spelled).collect::<Vec<_>>()
    };
    [of(&["ExecStartPre", "ExecStart"]), of(&["ExecStopPost"])]
}

#[test]
fn a_named_namespace_made_by_the_example_unit_serves_ip_netns_and_nspawn() {
    let stage = Stage::new();
    let h1 = stage.h1();
    let run = |commands: &[String]| {
        for command in commands {
            stage.exec(&["sh", "-c", command]).success().unwrap();
        }
    };

    let [start, stop] = commands("weft-netns@.service", "plain", "--label tier=front", h1);
    assert_eq!((start.len(), stop.len()), (3, 2), "{start:?} {stop:?}");
    run(&start);
    let www = h1.dir().join("www").display().to_string();
    let script = stage.inside("plain", &www);
    let words: Vec<&str> = ["ip", "netns", "exec", "plain"].into_iter().chain(script.iter().map(String::as_str)).collect();
    let plain = stage.spawn("plain", &words);
    stage.works("plain", &plain);
    let record = endpoints(h1).unwrap().into_iter().find(|r| r["name"] == "plain").unwrap();
    assert_eq!(record["labels"]["tier"], "front", "{record}");
    drop(plain);
    run(&stop);
    stage.assert_gone("plain");
    assert_eq!(stage.exec(&["ip", "netns", "list"]).success().unwrap().stdout, "");

    // The namespace is attached before the container starts, and outlives it.
    let [start, stop] = commands("weft-netns@.service", "box", "", h1);
    run(&start);
    let root = h1.dir().join("root");
    rootfs::make(&root).unwrap();
    // Without it nspawn takes the directory for no system.
    fs::create_dir(root.join("usr")).unwrap();
    let resolv = stage.exec(&["cat", "/etc/netns/box/resolv.conf"]).success().unwrap().stdout;
    fs::write(root.join("etc/resolv.conf"), resolv).unwrap();
    let directory = format!("--directory={}", root.display());
    let machine = format!("--machine={}-box", stage.topology.name());
    let script = stage.inside("box", "/tmp/www");
    let nspawn =
        [
            // No v1 tree is to be looked for: here is one, beside the one that it is shown.
            &[
                "env",
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
                "systemd-nspawn",
                "--quiet",
                "--network-namespace-path=/run/netns/box",
            ][..],
            // Only a running systemd can give it a unit.
            &["--register=no", "--keep-unit", "--as-pid2", "--resolv-conf=off", "--console=pipe", &directory, &machine],
            &script.iter().map(String::as_str).collect::<Vec<_>>(),
        ]
        .concat();
    let nspawn = Stage::unified(&nspawn);
    let container = stage.spawn("box", &nspawn.iter().map(String::as_str).collect::<Vec<_>>());
    stage.works("box", &container);
    container.signal(Signal::SIGTERM).unwrap();
    container.wait(SOON).unwrap();
    run(&stop);
    stage.assert_gone("box");
}

#[test]
fn lxc_attaches_a_container_before_its_first_process_and_an_end_of_any_kind_is_noticed() {
    let stage = Stage::new();
    let h1 = stage.h1();
    let root = h1.dir().join("root");
    rootfs::make(&root).unwrap();
    let netctl = format!("{} --socket {}", binary("netctl").unwrap().display(), h1.agent.socket().display());
    let resolv = root.join("etc/resolv.conf").display().to_string();
    let config = |options: &str| {
        let lines = [
            format!("lxc.rootfs.path = dir:{}", root.display()),
            "lxc.uts.name = lxc1".to_owned(),
            // Nothing but lo, and then what the hook brings. Not "none", which is the host's own network.
            "lxc.net.0.type = empty".to_owned(),
            format!("lxc.hook.start-host = {netctl} attach --pid $LXC_PID --name $LXC_NAME {options} --resolv-conf {resolv}"),
            "lxc.hook.version = 1".to_owned(),
            // Below this host's group instead of the machine's root.
            "lxc.cgroup.relative = 1".to_owned(),
            "lxc.mount.auto = proc:mixed sys:mixed".to_owned(),
            "lxc.apparmor.profile = unconfined".to_owned(),
            "lxc.pty.max = 0\nlxc.tty.max = 0".to_owned(),
        ];
        let path = h1.dir().join("lxc.conf");
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        path.display().to_string()
    };
    let script = stage.inside("lxc1", "/tmp/www");
    let execute = |config: &str| {
        let lxc = ["lxc-execute", "-P", "/run/lxc-containers", "-n", "lxc1", "-f", config, "--", "/bin/busybox"];
        // lxc starts it by path; the rest is as everywhere.
        let words: Vec<&str> = lxc.into_iter().chain(script.iter().skip(1).map(String::as_str)).collect();
        Stage::unified(&words)
    };
    stage.exec(&["mkdir", "/run/lxc-containers"]).success().unwrap();

    // A refused attach starts nothing.
    let words = execute(&config("--id shop-1 --network no-such-network"));
    let refused = stage.exec(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!refused.status.success() && !refused.stdout.contains("inside"), "{refused:?}");
    stage.assert_gone("lxc1");

    let words = execute(&config(""));
    let container = stage.spawn("lxc1", &words.iter().map(String::as_str).collect::<Vec<_>>());
    stage.works("lxc1", &container);
    // Nobody detaches it: the agent sees that its namespace has ended.
    let stop = Stage::unified(&["lxc-stop", "-P", "/run/lxc-containers", "-n", "lxc1", "-k"]);
    stage.exec(&stop.iter().map(String::as_str).collect::<Vec<_>>()).success().unwrap();
    container.wait(SOON).unwrap();
    stage.assert_gone("lxc1");

    // netctl run: with a user and limits it is as well connected, and what cannot be started leaves nothing.
    let url = "http://shop.skydns.local/";
    let options = ["--name", "guest", "--user", "65534:65534", "--memory", "256m", "--pids-limit", "50", "--tty"];
    let said = run_to_end(h1, &options, &["busybox", "wget", "-q", "-O", "-", url]).unwrap().success().unwrap();
    assert_eq!(said.stdout, "the shop\r\n");
    // A sandbox that keeps its caller's network.
    let sandbox = ["bwrap", "--unshare-pid", "--unshare-ipc", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"];
    let sandbox = [&sandbox[..], &["busybox", "wget", "-q", "-O", "-", url]].concat();
    let said = run_to_end(h1, &["--name", "guest"], &sandbox).unwrap().success().unwrap();
    assert_eq!(said.stdout, "the shop\n");
    for (options, command, code) in [(&options[..], "/no/such/program", 127), (&["--name", "guest", "-t"], "/", 126)] {
        let ended = run_to_end(h1, options, &[command]).unwrap();
        assert_eq!(ended.code(), code, "{ended:?}");
    }
    stage.assert_gone("guest");
}

#[test]
fn systemd_takes_the_units() {
    let dir = tempfile::tempdir().unwrap();
    // What a unit starts must be there to be verified.
    let program = |name: &str| binary(name).unwrap().display().to_string();
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/weftd.service");
    let units = fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path()).chain([packaged]);
    let mut names = Vec::new();
    for path in units {
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("/usr/local/bin/netctl", &program("netctl")).replace("/usr/local/bin/weftd", &program("weftd"));
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        fs::write(dir.path().join(&name), text).unwrap();
        names.push(name.replace('@', "@x"));
    }
    assert!(names.len() >= 5, "{names:?}");
    // What it says of units; of the machine's own, which are read as well, it may say what it likes.
    let verify = |name: &str| {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(dir.path().join(name));
        // The trailing colon: systemd's own units are looked for as well.
        let told = command.env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display())).output().unwrap();
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        let here = dir.path().display().to_string();
        let lines: Vec<String> =
            text.lines().filter(|l| l.contains(&here) || names.iter().any(|n| l.contains(n))).map(str::to_owned).collect();
        (told.status.success(), lines)
    };
    for name in &names {
        assert_eq!(verify(name), (true, Vec::new()), "{name}");
    }
    // It does look.
    for bad in ["ExecStart=/bin/true\nNetworkNamespacePth=/x", "ExecStart=/no/such/program"] {
        fs::write(dir.path().join("bad.service"), format!("[Service]\n{bad}\n")).unwrap();
        let (done, said) = verify("bad.service");
        assert!(!done || !said.is_empty(), "{bad}");
    }
}
