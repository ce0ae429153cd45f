//! What it takes to attach a namespace and to detach it: by the agent's socket, by `weft-cni` as a process, and by the bridge
//! plugin with host-local addresses, which asks nobody; and two hundred at once.
//!
//! Weft's attach is done when the kernel, the record in etcd and the DNS answer are; the bridge plugin's when its own files are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::api::call;
use weft_tests::node::binary;
use weft_tests::plugin::Plugin;
use weft_tests::{Host, Place, Topology, signals};

use crate::progress::Progress;
use crate::report::{Goal, Quantity, Report, Row};
use crate::stats::median;

/// Where Debian's containernetworking-plugins are.
const PLUGINS: &str = "/usr/lib/cni";

/// How many are attached at once.
const AT_ONCE: usize = 200;

/// The most that an attach may take at the median, milliseconds.
const MOST: f64 = 10.0;

/// Names of variants, as table and plots have them.
const SOCKET: &str = "weftd's socket";
const CNI: &str = "weft-cni";
const BRIDGE: &str = "bridge, host-local";

/// Measures all of it.
pub fn run(quick: bool) -> Result<Report> {
    let progress = Progress::new();
    let mut report = Report::new("attach", quick);
    progress.phase("a host comes up", 0);
    let topology = Topology::cluster(1)?;
    let host = topology.host(1);
    let (attach, detach) = one_by_one(host, if quick { 15 } else { 60 }, &progress)?;
    let (socket, cni) = (attach.samples(SOCKET).and_then(median), attach.samples(CNI).and_then(median));
    ensure!(socket.is_some() && cni.is_some(), "nothing was measured");
    report.row(Row::itself("attach", &attach, SOCKET).goal(Goal::AtMost(MOST)));
    report.row(Row::itself("attach", &attach, CNI).goal(Goal::AtMost(MOST)));
    report.row(Row::ratio("", &attach, CNI, BRIDGE));
    report.row(Row::itself("detach", &detach, SOCKET));
    report.row(Row::ratio("detach", &detach, CNI, BRIDGE));
    for (quantity, what) in [(&attach, "attach"), (&detach, "detach")] {
        for variant in [SOCKET, CNI, BRIDGE] {
            let samples = quantity.samples(variant).unwrap_or_default();
            let bounds = samples.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), s| (low.min(*s), high.max(*s)));
            report.row(Row::bounds(&format!("{what}, all rounds"), quantity, variant, bounds));
        }
    }
    let crowd = at_once(host, if quick { 1 } else { 5 }, &progress)?;
    report.row(Row::count("two hundred at once: addresses given twice", crowd.twice, "").goal(Goal::AtMost(0.0)));
    report.row(Row::count("two hundred at once: refused", crowd.refused, "").goal(Goal::AtMost(0.0)));
    report.row(Row::alone("two hundred at once: until all are attached", &crowd.took, SOCKET));
    for quantity in [attach, detach, crowd.took] {
        report.quantity(quantity);
    }
    progress.phase("the host goes down", 0);
    drop(topology);
    report.took(progress.elapsed());
    Ok(report)
}

/// Runs, and says how many milliseconds that took.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begun = Instant::now();
    let done = work()?;
    Ok((begun.elapsed().as_secs_f64() * 1e3, done))
}

fn one_by_one(host: &Host, rounds: usize, progress: &Progress) -> Result<(Quantity, Quantity)> {
    let weft = binary("weft-cni")?;
    let bridge = PathBuf::from(PLUGINS).join("bridge");
    ensure!(bridge.is_file(), "no {}; Debian's containernetworking-plugins has it", bridge.display());
    let plugins = [(CNI, plugin(&weft, weft_config(host))), (BRIDGE, plugin(&bridge, bridge_config(host)))];
    let places = [host.bare_namespace("socket")?, host.bare_namespace("weft-cni")?, host.bare_namespace("bridge")?];
    let mut samples: Vec<[Vec<f64>; 2]> = vec![Default::default(); 3];
    progress.phase("one after the other", rounds);
    for round in 0..rounds {
        // Each round begins with another one; the first is not counted, since files and tables are made then.
        for number in 0..3 {
            ensure!(!signals::ending(), "interrupted");
            let at = (round + number) % 3;
            let container = format!("c{round}");
            let times = match at {
                0 => by_socket(host, &places[0], &container)?,
                _ => by_plugin(host, &plugins[at - 1].1, &places[at], &container)?,
            };
            if round > 0 {
                for (samples, time) in samples[at].iter_mut().zip(times) {
                    samples.push(time);
                }
            }
        }
        progress.step();
    }
    let of = |which: usize| {
        let named = [SOCKET, CNI, BRIDGE].into_iter().zip(&samples);
        named.map(|(name, samples)| (name.to_owned(), samples[which].clone())).collect()
    };
    let attach = Quantity::new("attach", "attaching a namespace", "ms", of(0));
    Ok((attach, Quantity::new("detach", "detaching a namespace", "ms", of(1))))
}

fn plugin(program: &Path, config: Value) -> Plugin<'_> {
    Plugin { program, path: PLUGINS, config }
}

fn weft_config(host: &Host) -> Value {
    json!({"cniVersion": "1.0.0", "name": "weft", "type": "weft", "socket": host.agent.socket(), "service": "bench"})
}

fn bridge_config(host: &Host) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "dataDir": host.dir().join("host-local"),
        "routes": [{"dst": "0.0.0.0/0"}]});
    json!({"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "bench0", "isGateway": true, "ipam": ipam})
}

fn by_socket(host: &Host, inside: &Place, container: &str) -> Result<[f64; 2]> {
    let socket = host.agent.socket();
    let body = request(inside, container);
    let (attach, attached) = timed(|| call(&socket, "POST", "/v1/attachments", &body)?.success())?;
    ensure!(attached["record"] == "written", "{attached}");
    let id = attached["id"].as_str().context("an id")?;
    let (detach, _) = timed(|| call(&socket, "DELETE", &format!("/v1/attachments/{id}"), &Value::Null)?.success())?;
    Ok([attach, detach])
}

fn request(inside: &Place, container: &str) -> Value {
    let owner = json!({"runtime": "cni", "network": "bench", "container": container});
    json!({"netns": inside.netns(), "ifname": "eth0", "service": "bench", "owner": owner})
}

fn by_plugin(host: &Host, plugin: &Plugin<'_>, inside: &Place, container: &str) -> Result<[f64; 2]> {
    let call = |verb| timed(|| plugin.call(host.place(), verb, container, inside.netns(), "eth0"));
    let (attach, _) = call("ADD")?;
    let (detach, _) = call("DEL")?;
    Ok([attach, detach])
}

/// What came of many at once.
struct Crowd {
    took: Quantity,
    twice: f64,
    refused: f64,
}

fn at_once(host: &Host, rounds: usize, progress: &Progress) -> Result<Crowd> {
    progress.phase("two hundred namespaces", AT_ONCE);
    let places: Vec<Place> = (0..AT_ONCE).map(|n| host.bare_namespace(&format!("crowd-{n}"))).collect::<Result<_>>()?;
    let socket = host.agent.socket();
    let mut crowd = (Vec::new(), 0.0, 0.0);
    progress.phase("two hundred at once", rounds);
    for round in 0..rounds {
        let (socket, attach_one) = (&socket, |socket: &Path, number: usize, place: &Place| {
            let body = request(place, &format!("crowd-{round}-{number}"));
            call(socket, "POST", "/v1/attachments", &body)?.success()
        });
        let (time, attached) = timed(|| {
            Ok(std::thread::scope(|scope| {
                let start = |(number, place)| scope.spawn(move || attach_one(socket, number, place));
                let each: Vec<_> = places.iter().enumerate().map(start).collect();
                each.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<Result<Value>>>()
            }))
        })?;
        crowd.0.push(time);
        for refused in attached.iter().filter_map(|a| a.as_ref().err()) {
            progress.trouble(&format!("{refused:#}"));
            crowd.2 += 1.0;
        }
        let there: Vec<String> = attached.iter().flatten().map(|a| a["addresses"][0].to_string()).collect();
        crowd.1 += (there.len() - there.iter().collect::<BTreeSet<_>>().len()) as f64;
        let gc = json!({"runtime": "cni", "network": "bench", "keep": []});
        call(socket, "POST", "/v1/attachments/gc", &gc)?.success()?;
        progress.step();
        ensure!(!signals::ending(), "interrupted");
    }
    let took = Quantity::new("crowd", "two hundred attached at once", "ms", vec![(SOCKET.to_owned(), crowd.0)]);
    Ok(Crowd { took, twice: crowd.1, refused: crowd.2 })
}
