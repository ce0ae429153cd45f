//! What somebody removed by hand comes back by itself, and packets flow again.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::eventually::SOON;
use weft_tests::traffic::idle;
use weft_tests::{Container, Host, Topology, eventually};

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
        let start = Instant::now();
        eventually(&format!("healed after {removal}"), bound, || {
            let now = look()?;
            ensure!(now == before, "{now:?}, was {before:?}");
            Ok(())
        })
        .unwrap();
        println!("{:4} ms: {removal}", start.elapsed().as_millis());
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

    /// What the agent of h1 would change now.
    fn planned(&self) -> Result<String> {
        Ok(self.host().netctl(["plan", "-o", "json"])?.json()?["actions"].to_string())
    }

    /// The agent of h1 saw one of these by itself, and not only when it next read everything back. (It does that every 30
    /// seconds, so any one may have been put right by chance before it was seen.)
    fn was_seen(&self, any_of: &[&str]) {
        let log = self.host().agent.log();
        let seen = |what: &&str| log.lines().any(|l| l.contains("somebody changed the datapath") && l.contains(*what));
        assert!(any_of.iter().any(seen), "none of {any_of:?} in {log}");
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
fn pins_and_links_of_the_programs_that_are_taken_away_are_back() {
    let w = World::new();
    let there = |pin: PathBuf| {
        ensure!(pin.exists(), "{} is not there", pin.display());
        Ok(pin.display().to_string())
    };
    for pin in ["links/uplink", "links/container-a", "links/connect4", "weft_peers"] {
        let pin = w.pin(pin);
        w.heals(&format!("rm {}", pin.display()), SOON, || there(pin.clone()));
    }
    for link in ["links/uplink", "links/container-a", "links/sendmsg6"] {
        let pin = w.pin(link).display().to_string();
        // A link that leads nowhere is not as planned.
        w.heals(&format!("bpftool link detach pinned {pin}"), SOON, || w.planned());
    }
    w.was_seen(&["link uplink", "pin of link connect4", "pin of map weft_peers"]);
}

#[test]
fn rows_of_the_programs_that_are_changed_removed_or_added_are_as_they_were() {
    let w = World::new();
    let words = |bytes: &serde_json::Value| -> String {
        let byte = |byte: &serde_json::Value| byte.as_str().unwrap().to_owned();
        bytes.as_array().unwrap().iter().map(byte).collect::<Vec<_>>().join(" ")
    };
    for map in ["config", "networks", "peers", "vteps", "endpoints", "ranges", "netns"] {
        let pin = w.pin(&format!("weft_{map}")).display().to_string();
        let dump = format!("bpftool map dump pinned {pin}");
        let rows = w.host().exec(format!("bpftool -j map dump pinned {pin}").split(' ')).unwrap().json().unwrap();
        // The first network has number 1.
        let row = &rows[usize::from(map == "networks")];
        let (key, value) = (words(&row["key"]), words(&row["value"]));
        let other = |bytes: &str| bytes.split(' ').map(|_| "9").collect::<Vec<_>>().join(" ");
        w.heals(&format!("bpftool map update pinned {pin} key {key} value {}", other(&value)), SOON, || w.shown(&dump));
        // An array's rows are always there, and in a trie such a key is none.
        if !["config", "networks"].contains(&map) {
            w.heals(&format!("bpftool map delete pinned {pin} key {key}"), SOON, || w.shown(&dump));
        }
        if !["config", "networks", "ranges"].contains(&map) {
            w.heals(&format!("bpftool map update pinned {pin} key {} value {value}", other(&key)), SOON, || w.shown(&dump));
        }
    }
    assert_eq!(w.host().agent.status().unwrap()["datapath"]["fast"], true);
    w.was_seen(&["map weft_config", "map weft_peers", "map weft_endpoints"]);
}
