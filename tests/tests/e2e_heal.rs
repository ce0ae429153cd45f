//! What somebody removed by hand comes back by itself, and packets flow again.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::eventually::SOON;
use weft_tests::traffic::idle;
use weft_tests::{Container, Host, Topology, eventually};

/// The kernel tells nobody of a pin or a map's row that goes: the agent finds out when it next reads all of them back.
const RESYNC: Duration = Duration::from_secs(120);

/// Two hosts with a container on each, which reach each other.
struct World {
    a: Container,
    b: Container,
    topology: Topology,
}

impl World {
    fn new() -> Self {
        let topology = Topology::cluster(2).unwrap();
        let a = idle(topology.host(1), &["--id", "a"]).unwrap();
        let b = idle(topology.host(2), &["--id", "b"]).unwrap();
        let world = Self { a, b, topology };
        world.packets_flow("at the start");
        world
    }

    fn host(&self) -> &Host {
        self.topology.host(1)
    }

    fn packets_flow(&self, when: &str) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let to = to.address().unwrap().to_string();
            eventually(&format!("pings to {to} {when}"), SOON, || {
                from.exec(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", &to])?.success()
            })
            .unwrap();
        }
    }

    /// Runs `removal` on h1, which succeeds only if there is something to remove; `look` comes to see what it saw before.
    fn heals(&self, removal: &str, bound: Duration, look: impl Fn() -> Result<String>) {
        let before = look().unwrap();
        ensure_shown(&before).with_context(|| format!("{removal}: before")).unwrap();
        self.host().exec(removal.split(' ')).unwrap().success().unwrap();
        eventually(&format!("healed after {removal}"), bound, || {
            let now = look()?;
            ensure!(now == before, "{now:?}, was {before:?}");
            Ok(())
        })
        .unwrap();
        self.packets_flow(&format!("after {removal}"));
        eventually(&format!("nothing to do after {removal}"), SOON, || {
            let plan = self.host().netctl(["plan", "-o", "json"])?.json()?;
            ensure!(plan["actions"] == serde_json::json!([]), "{plan}");
            Ok(())
        })
        .unwrap();
    }

    /// What a command on h1 shows, with its lines in order.
    fn shown(&self, command: &str) -> Result<String> {
        let text = self.host().exec(command.split(' '))?.success()?.stdout;
        let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    fn pin(&self, name: &str) -> PathBuf {
        let layouts = std::fs::read_dir(self.host().agent.bpffs()).unwrap();
        let layout = layouts.flatten().map(|e| e.path()).find(|p| p.join("weft_config").exists());
        layout.unwrap().join(name)
    }
}

/// A look that shows nothing would see everything healed.
fn ensure_shown(text: &str) -> Result<()> {
    ensure!(!text.trim().is_empty(), "there is nothing to see");
    Ok(())
}

#[test]
fn what_is_removed_from_the_kernels_tables_is_back() {
    let w = World::new();
    let subnet = |host: &Host| host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    let (own, peer) = (subnet(w.host()), subnet(w.topology.host(2)));
    let device_address = peer.trim_end_matches("/24");
    let gateway = own.replace(".0/24", ".1/32");
    let address = w.a.address().unwrap();
    let remote = w.topology.host(2).address();
    let fdb = "bridge fdb show dev weft.1";
    let mac = w.shown(fdb).unwrap().split(' ').next().unwrap().to_owned();

    let route = format!("ip route show {address}");
    w.heals(&format!("ip route del {address}"), SOON, || w.shown(&route));
    let route = format!("ip route show {peer}");
    w.heals(&format!("ip route del {peer}"), SOON, || w.shown(&route));
    let unreachable = "ip route show type unreachable";
    w.heals(&format!("ip route del unreachable {own}"), SOON, || w.shown(unreachable));
    let neighbor = "ip neighbor show dev weft.1";
    w.heals(&format!("ip neighbor del {device_address} dev weft.1"), SOON, || w.shown(neighbor));
    w.heals(&format!("bridge fdb del {mac} dev weft.1 dst {remote}"), SOON, || w.shown(fdb));
    let lo = "ip -4 -o address show dev lo scope global";
    w.heals(&format!("ip address del {gateway} dev lo"), SOON, || w.shown(lo));
    let setting = "cat /proc/sys/net/ipv4/conf/weft.1/forwarding";
    w.heals("ip link set weft.1 down", SOON, || Ok(format!("{}{}", w.shown(&route)?, w.shown(setting)?)));
    // With the device all that stood on it goes, and comes back.
    w.heals("ip link del weft.1", SOON, || {
        let link = w.host().exec(["ip", "-json", "-details", "link", "show", "weft.1"])?.json()?;
        let info = (&link[0]["address"], &link[0]["mtu"], &link[0]["linkinfo"]["info_data"]["id"]);
        Ok(format!("{info:?}\n{}\n{}\n{}", w.shown(&route)?, w.shown(neighbor)?, w.shown(fdb)?))
    });
}

#[test]
fn a_containers_device_that_is_removed_is_made_anew() {
    let w = World::new();
    let attachments = w.host().netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
    let device = attachments[0]["host_ifname"].as_str().unwrap().to_owned();
    let address = w.a.address().unwrap();
    w.heals(&format!("ip link del {device}"), SOON, || {
        let inside = w.a.exec(["ip", "-4", "-o", "route", "show"])?.success()?.stdout;
        Ok(format!("{}{inside}", w.shown(&format!("ip route show {address}"))?))
    });
}

#[test]
fn pins_and_rows_of_the_programs_that_are_removed_are_back() {
    let w = World::new();
    let there = |pin: PathBuf| {
        ensure!(pin.exists(), "{} is not there", pin.display());
        Ok(pin.display().to_string())
    };
    for link in ["links/uplink", "links/container-a", "links/connect4"] {
        let pin = w.pin(link);
        w.heals(&format!("rm {}", pin.display()), RESYNC, || there(pin.clone()));
    }

    // A row of weft_peers, by its key: the number of the default network, the peer subnet's network address.
    let peer = w.topology.host(2).agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    let number = 1_u32.to_ne_bytes().map(|b| b.to_string()).join(" ");
    let key = format!("{number} {}", peer.trim_end_matches("/24").replace('.', " "));
    let map = w.pin("weft_peers").display().to_string();
    let dump = format!("bpftool map dump pinned {map}");
    w.heals(&format!("bpftool map delete pinned {map} key {key}"), RESYNC, || {
        let rows = w.shown(&dump)?;
        ensure!(!rows.contains("Found 0 elements"), "{rows}");
        Ok(rows)
    });
    assert_eq!(w.host().agent.status().unwrap()["datapath"]["fast"], true);
}
