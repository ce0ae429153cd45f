//! Plugins and agents are killed at random points of five hundred attach and detach cycles, and nothing is orphaned.
//!
//! The seed is printed; `WEFT_CRASH_SEED` sets it. What is random is when somebody is killed, not what is asked.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::api::call;
use weft_tests::container::endpoints;
use weft_tests::eventually::SOON;
use weft_tests::node::binary;
use weft_tests::plugin::Plugin;
use weft_tests::{Host, Topology, eventually};

/// How many containers come and go.
const CYCLES: u32 = 500;

/// How many at a time.
const WORKERS: u64 = 4;

/// After how many cycles the agent is killed again.
const CYCLES_PER_KILL: u32 = 60;

/// Knuth's MMIX.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn no_kill_of_plugin_or_agent_orphans_anything() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let seed = std::env::var("WEFT_CRASH_SEED").map_or(u64::try_from(now % (1 << 48)).unwrap(), |s| s.parse().unwrap());
    println!("WEFT_CRASH_SEED={seed}");
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let outside = BTreeSet::from_iter(routes_and_links(host).unwrap());
    let program = binary("weft-cni").unwrap();
    let config = json!({"cniVersion": "1.0.0", "name": "crash", "type": "weft", "socket": host.agent.socket(), "timeout": 30,
        "service": "crash"});
    let plugin = Plugin { program: &program, path: "/usr/lib/cni", config };
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (plugin, next) = (&plugin, &next);
            let place = host.bare_namespace(&format!("w{worker}")).unwrap();
            let mut random = Random(seed.wrapping_add(worker));
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CYCLES {
                        return;
                    }
                    let container = format!("c{number}");
                    one_cycle(plugin, host, &container, place.netns(), &mut random).unwrap();
                }
            });
        }
        let mut random = Random(seed ^ 0x5555);
        for kill in 1..CYCLES / CYCLES_PER_KILL {
            eventually("so many cycles are over", Duration::from_secs(300), || {
                ensure!(next.load(Ordering::Relaxed) >= kill * CYCLES_PER_KILL, "{} cycles", next.load(Ordering::Relaxed));
                Ok(())
            })
            .unwrap();
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            host.agent.kill9().unwrap();
            std::thread::sleep(Duration::from_millis(random.below(100)));
            host.agent.start().unwrap();
        }
    });
    host.agent.wait_ready().unwrap();
    eventually("nothing is orphaned", SOON, || {
        let attachments = call(&host.agent.socket(), "GET", "/v1/attachments", &Value::Null)?.success()?;
        ensure!(attachments.as_array().is_some_and(Vec::is_empty), "attachments: {attachments}");
        let records = endpoints(host)?;
        ensure!(records.is_empty(), "records: {records:?}");
        let left: Vec<String> = routes_and_links(host)?.into_iter().filter(|line| !outside.contains(line)).collect();
        ensure!(left.is_empty(), "links and routes: {left:?}");
        let linked = host.agent.linked()?;
        ensure!(linked.is_empty(), "links of programs: {linked:?}");
        let queue = host.agent.run_dir().join("queue");
        let files = std::fs::read_dir(&queue).map(|dir| dir.count()).unwrap_or_default();
        ensure!(files == 0, "{files} files in {}", queue.display());
        for dir in [host.agent.state_dir(), host.agent.run_dir()] {
            let entries = journal(&dir.join("attachments.log"))?;
            ensure!(entries.is_empty(), "journal in {}: {entries:?}", dir.display());
        }
        Ok(())
    })
    .unwrap();
    // All of the subnet can be given again, and the namespaces are as they were.
    let place = host.bare_namespace("after").unwrap();
    let added = plugin.call(host.place(), "ADD", "after", place.netns(), "eth0").unwrap();
    assert!(added["ips"][0]["address"].is_string(), "{added}");
    plugin.call(host.place(), "DEL", "after", place.netns(), "eth0").unwrap();
}

/// What a runtime does: an ADD, which may be killed; a DEL, which may be killed; and DEL until one says that it is done.
fn one_cycle(plugin: &Plugin<'_>, host: &Host, container: &str, netns: &Path, random: &mut Random) -> Result<()> {
    let run = |verb: &str, kill_after: Option<u64>| -> Result<bool> {
        let mut child = plugin.start(host.place(), verb, container, netns, "eth0")?;
        if let Some(micros) = kill_after {
            std::thread::sleep(Duration::from_micros(micros));
            child.kill()?;
        }
        Ok(child.wait_with_output()?.status.success())
    };
    let mut when = |one_in: u64| (random.below(one_in) == 0).then(|| random.below(60_000));
    let (add, del) = (when(3), when(4));
    let added = run("ADD", add)?;
    // It waits for an agent that starts: only one that is killed may fail.
    ensure!(added || add.is_some(), "ADD of {container} was refused");
    if del.is_some() {
        run("DEL", del)?;
    }
    eventually(&format!("DEL of {container} is done"), Duration::from_secs(120), || {
        ensure!(run("DEL", None)?, "not done");
        Ok(())
    })
}

/// Routes of ours and devices, as the host's namespace has them.
fn routes_and_links(host: &Host) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for words in
        [&["ip", "-o", "link"][..], &["ip", "route", "show", "proto", "119"], &["ip", "-6", "route", "show", "proto", "119"]]
    {
        let text = host.exec(words)?.success()?.stdout;
        // A number of a device is another each time; its state comes and goes.
        lines.extend(
            text.lines()
                .map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest))
                .map(|line| line.split(" state ").next().unwrap_or(line).trim().to_owned()),
        );
    }
    Ok(lines)
}

/// The attachments that a log leads to.
fn journal(path: &Path) -> Result<BTreeSet<String>> {
    let mut there = BTreeSet::new();
    let ids = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.map(|entry| entry["id"].as_str().or(entry.as_str()).unwrap_or_default().to_owned()).collect()
    };
    for line in std::fs::read_to_string(path)?.lines() {
        let delta: Value = serde_json::from_str(line)?;
        if let Some(whole) = delta["whole"]["attachments"].as_object() {
            there = whole.keys().cloned().collect();
        }
        for gone in ids(&delta["drop"]) {
            there.remove(&gone);
        }
        there.extend(ids(&delta["put"]));
    }
    Ok(there)
}
