//! The example units and weftd's own under a real systemd: nspawn boots one, from the machine's files, in the network of a host.
//! What it starts is on Weft as its files say, reached by another host and reaching it, and gone when it is stopped.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use weft_tests::container::endpoints;
use weft_tests::eventually::SOON;
use weft_tests::node::binary;
use weft_tests::place::{Daemon, Output};
use weft_tests::{Host, Topology, eventually};

/// Boots it. `$1` is the folder of units and settings, `$2` the root of cgroup v2, `$3` the host's network namespace, `$4` and `$5`
/// weftd and netctl, `$6` a name.
///
/// Its root is the machine's, with all changes in memory; no unit is enabled. Only a running systemd could give nspawn a unit.
const BOOT: &str = r#"
mount -t tmpfs -o mode=755 weft-units /run
mkdir /run/.upper /run/.work /run/.root
mount -t overlay -o lowerdir=/,upperdir=/run/.upper,workdir=/run/.work weft-units /run/.root
mount -t tmpfs -o mode=755 weft-units /run/.root/etc/systemd/system
cp "$1"/*.service /run/.root/etc/systemd/system/
mkdir -p /run/.root/etc/weft/netns /run/.root/etc/default
cp "$1"/hello "$1"/joined /run/.root/etc/weft/netns/
cp "$1"/weft /run/.root/etc/default/weft
mount --bind "$2" /sys/fs/cgroup
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --quiet --directory=/run/.root --machine="$6" --register=no --keep-unit --console=pipe \
    --network-namespace-path="$3" --resolv-conf=off --link-journal=no --capability=all --system-call-filter=bpf \
    --bind-ro="$4":/usr/local/bin/weftd --bind-ro="$5":/usr/local/bin/netctl \
    /lib/systemd/systemd systemd.unit=basic.target systemd.log_target=console
"#;

/// A host under systemd.
struct Booted<'a> {
    host: &'a Host,
    nspawn: Daemon,
    leader: u32,
}

impl<'a> Booted<'a> {
    /// Boots a host whose agent does not run.
    fn new(topology: &'a Topology, host: &'a Host) -> Self {
        let files = host.dir().join("files");
        fs::create_dir(&files).unwrap();
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let examples = fs::read_dir(project.join("examples/systemd")).unwrap().map(|entry| entry.unwrap().path());
        for unit in examples.chain([project.join("packaging/weftd.service")]) {
            fs::copy(&unit, files.join(unit.file_name().unwrap())).unwrap();
        }
        fs::write(files.join("hello"), "WEFT_OPTIONS=--service hello:8080\n").unwrap();
        fs::write(files.join("joined"), "WEFT_OPTIONS=--label tier=back\n").unwrap();
        // The agent's settings as the harness has them, but its paths as they are by default; /sys is not to be written to.
        let line = host.agent.command_line().unwrap();
        let kept = ["--node-name", "--etcd-endpoints", "--iface", "--lease-ttl", "--dns-upstream"];
        let settings = line.iter().filter_map(|word| word.to_str()?.split_once('=')).filter(|(flag, _)| kept.contains(flag));
        let name = |flag: &str| flag.trim_start_matches('-').replace('-', "_").to_uppercase();
        let settings: String = settings.map(|(flag, value)| format!("WEFT_{}={value}\n", name(flag))).collect();
        fs::write(files.join("weft"), settings + "WEFT_BPFFS=/var/lib/weft/bpf\n").unwrap();

        let cgroups = weft_tests::cgroup::root().unwrap();
        let (weftd, netctl) = (binary("weftd").unwrap(), binary("netctl").unwrap());
        let machine = format!("{}-{}", topology.name(), host.name());
        let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", BOOT, "sh"].map(Path::new);
        let rest = [&files, &cgroups, host.place().netns(), &weftd, &netctl, Path::new(&machine)];
        let nspawn = host.spawn("nspawn", unshare.into_iter().chain(rest)).unwrap();
        let group = host.place().cgroup().join("payload/init.scope/cgroup.procs");
        let leader = eventually("systemd runs", SOON, || {
            if let Some(status) = nspawn.ended()? {
                bail!("nspawn ended: {status}\n{}{}", nspawn.stdout(), nspawn.stderr());
            }
            let pids = fs::read_to_string(&group).with_context(|| format!("read {}", group.display()))?;
            pids.lines().next().context("no process yet")?.parse::<u32>().context("a number")
        })
        .unwrap();
        Self { host, nspawn, leader }
    }

    /// Runs a command inside.
    fn exec(&self, words: &[&str]) -> anyhow::Result<Output> {
        let leader = self.leader.to_string();
        self.host.place().exec([&["nsenter", "--all", "--target", &leader, "--"], words].concat())
    }

    /// The states of units, in order.
    fn states(&self, units: &[&str]) -> Vec<String> {
        let said = self.exec(&[&["systemctl", "is-active"], units].concat()).unwrap();
        said.stdout.lines().map(str::to_owned).collect()
    }

    fn journal(&self) -> String {
        self.exec(&["journalctl", "--no-pager", "--lines=60"]).map_or_else(|e| format!("{e:#}"), |said| said.stdout)
    }
}

#[test]
fn services_of_systemd_are_on_the_network_as_long_as_they_run() {
    let t = Topology::cluster(2).unwrap();
    let [h1, h2] = [t.host(1), t.host(2)];
    h1.agent.cleanup().unwrap();
    let www = h2.dir().join("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("index.html"), "the shop\n").unwrap();
    let server = ["busybox", "httpd", "-f", "-p", "8080", "-h", www.to_str().unwrap()];
    let shop = h2.container(["--service", "shop:8080"], server).unwrap();
    for (service, ports) in [("shop", "80:8080"), ("hello", "80:8080")] {
        h2.netctl(["service", "create", service, "--port", ports]).unwrap().success().unwrap();
    }

    let booted = Booted::new(&t, h1);
    let units = ["weftd", "weft-netns@hello", "weft-hello", "weft-private@joined", "weft-joined"];
    eventually("systemd takes orders", SOON, || {
        ensure!(booted.exec(&["systemctl", "list-jobs"])?.status.success(), "{}", booted.nspawn.stdout());
        Ok(())
    })
    .unwrap();
    // Each brings what it needs: the agent, then the namespace and its attachment, then the service.
    let started = booted.exec(&["systemctl", "start", "weft-hello", "weft-joined"]).unwrap();
    assert!(started.status.success(), "{started:?}\n{}", booted.journal());
    assert_eq!(booted.states(&units), ["active"; 5]);

    // From the other host, by a virtual IP and by a name.
    for url in ["http://hello.skydns.local/", "http://joined.skydns.local:8080/"] {
        eventually(url, SOON, || {
            let said = shop.exec(["busybox", "wget", "-q", "-O", "-", url])?.success()?;
            ensure!(said.stdout.contains("Directory listing"), "{said:?}");
            Ok(())
        })
        .unwrap();
    }
    let joined = endpoints(h2).unwrap().into_iter().find(|record| record["name"] == "joined").unwrap();
    assert_eq!(joined["labels"]["tier"], "back", "{joined}");
    // To the other host: a third service in the network of each.
    let hello = ["--property=NetworkNamespacePath=/run/netns/hello", "/etc/netns/hello/resolv.conf"];
    let private = ["--property=JoinsNamespaceOf=weft-private@joined.service", "/run/weft-private/joined/resolv.conf"];
    for ([network, resolv], more) in [(hello, None), (private, Some("--property=PrivateNetwork=yes"))] {
        let resolv = format!("--property=BindReadOnlyPaths={resolv}:/etc/resolv.conf");
        let run = ["systemd-run", "--wait", "--pipe", "--quiet", network, &resolv];
        let ask = ["curl", "--silent", "--show-error", "http://shop.skydns.local/"];
        let words: Vec<&str> = run.into_iter().chain(more).chain(ask).collect();
        eventually(network, SOON, || {
            let said = booted.exec(&words)?.success()?;
            ensure!(said.stdout == "the shop\n", "{said:?}");
            Ok(())
        })
        .unwrap();
    }

    // The agent's restart is nothing to them; the end of their network is.
    booted.exec(&["systemctl", "restart", "weftd"]).unwrap().success().unwrap();
    assert_eq!(booted.states(&units), ["active"; 5]);
    booted.exec(&["systemctl", "stop", "weft-netns@hello", "weft-private@joined"]).unwrap().success().unwrap();
    eventually("nothing is left of them", SOON, || {
        let states = booted.states(&units);
        ensure!(states == ["active", "inactive", "inactive", "inactive", "inactive"], "{states:?}");
        let attachments = booted.exec(&["netctl", "attachment", "list", "-o", "json"])?.json()?;
        ensure!(attachments.as_array().is_some_and(Vec::is_empty), "{attachments}");
        ensure!(booted.exec(&["ip", "netns", "list"])?.success()?.stdout.is_empty(), "the namespace is still named");
        let links = h1.exec(["ip", "-json", "link", "show", "type", "veth"])?.success()?.stdout;
        ensure!(!links.contains("\"ifname\":\"weft"), "{links}");
        let records = endpoints(h2)?;
        ensure!(records.len() == 1, "{records:?}");
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", booted.journal()));

    booted.exec(&["systemctl", "stop", "weftd"]).unwrap().success().unwrap();
    booted.exec(&["weftd", "cleanup", "--bpffs=/var/lib/weft/bpf"]).unwrap().success().unwrap();
    // nspawn kills what it has booted. (No poweroff by nsenter: in the wrong namespace that would be the machine's.)
    booted.nspawn.stop(SOON).unwrap();
}
