//! What an agent costs a host where nothing happens: memory, CPU time and requests to etcd, with a hundred hosts of ten endpoints each
//! in the store; and how long it takes from its start to its first answer.
//!
//! The other hosts are what agents write of themselves, written once and permanent: leases, entries, records. None of them runs.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::eventually::{SOON, eventually};
use weft_tests::{Host, Topology};

use crate::progress::Progress;
use crate::report::{Goal, Quantity, Report, Row};

/// How many hosts there are beside the one that runs.
const HOSTS: usize = 99;

/// How many endpoints each has, and how many services they belong to.
const ENDPOINTS: usize = 10;

/// Keys of one transaction; etcd takes 128 (`--max-txn-ops`).
const AT_ONCE: usize = 100;

/// How long an agent is left alone before it counts as idle.
const SETTLED: Duration = Duration::from_secs(5);

/// The most memory, MB.
const MOST_MEMORY: f64 = 30.0;

/// The most from start to the first answer, milliseconds.
const MOST_START: f64 = 1000.0;

/// Names of variants, as table and plots have them.
const RESIDENT: &str = "resident";
const OWN: &str = "its own (anonymous)";
const STARTED: &str = "weftd";

/// What was seen of one agent from its start on.
struct Seen {
    /// Milliseconds until a name of another host's was answered.
    answered: f64,
    /// MB, and the part that is no file's.
    resident: f64,
    own: f64,
    /// Thousandths of a CPU while nothing happened.
    busy: f64,
    /// Requests to etcd in a minute while nothing happened.
    requests: f64,
}

/// Measures all of it.
pub fn run(quick: bool) -> Result<Report> {
    let progress = Progress::new();
    let mut report = Report::new("agent", quick);
    progress.phase("a hundred hosts in etcd", 0);
    // As agents are by default, so that leases are renewed as often as they would be.
    let topology = Topology::builder(1).lease_ttl(Duration::from_secs(15)).build()?;
    topology.etcd().start()?;
    let host = topology.host(1);
    host.agent.start()?;
    eventually("the network is initialised", SOON, || host.netctl(["network", "init", "--cidr", "10.244.0.0/16"])?.success())?;
    let status = host.agent.wait_ready()?;
    ensure!(status["datapath"]["fast"] == true, "the data path is not as wanted: {}", status["datapath"]);
    let server = weft_tests::dns::server_of(&status)?;
    let first = fill(&topology, host, status["subnet"].as_str().unwrap_or_default())?;
    for n in 0..ENDPOINTS {
        host.netctl(["service", "create", &format!("app{n}"), "--port", "80:8080"])?.success()?;
    }
    let rounds = if quick { 2 } else { 5 };
    let idle = Duration::from_secs(if quick { 10 } else { 60 });
    progress.phase("an agent starts and is left alone", rounds);
    let mut all = Vec::new();
    for _ in 0..rounds {
        host.agent.stop()?;
        all.push(look(&topology, host, (&server, first), idle)?);
        progress.step();
    }
    let of = |name: &str, which: fn(&Seen) -> f64| (name.to_owned(), all.iter().map(which).collect::<Vec<_>>());
    let memory =
        Quantity::new("memory", "an idle agent of 100 hosts", "MB", vec![of(RESIDENT, |s| s.resident), of(OWN, |s| s.own)]);
    let start = Quantity::new("start", "from start to the first answer", "ms", vec![of(STARTED, |s| s.answered)]);
    let busy = Quantity::new("busy", "CPU while nothing happens", "thousandths", vec![of(STARTED, |s| s.busy)]);
    let requests =
        Quantity::new("requests", "requests to etcd while nothing happens", "a minute", vec![of(STARTED, |s| s.requests)]);
    report.row(Row::itself("memory, idle, 100 hosts", &memory, RESIDENT).goal(Goal::AtMost(MOST_MEMORY)));
    report.row(Row::itself("memory, idle, 100 hosts", &memory, OWN));
    report.row(Row::itself("from start to the first answer", &start, STARTED).goal(Goal::AtMost(MOST_START)));
    report.row(Row::itself("CPU, idle", &busy, STARTED));
    report.row(Row::itself("requests to etcd, idle", &requests, STARTED));
    for quantity in [memory, start, busy, requests] {
        report.quantity(quantity);
    }
    report.took(progress.elapsed());
    Ok(report)
}

fn look(topology: &Topology, host: &Host, (server, first): (&str, usize), idle: Duration) -> Result<Seen> {
    let begun = Instant::now();
    host.agent.start()?;
    let answered = loop {
        let at = format!("@{server}");
        let name = format!("e{first}-0.app0.skydns.local");
        let said = host.exec(["dig", "+short", "+time=1", "+tries=1", at.as_str(), name.as_str()])?;
        if said.stdout.trim() == address(first, 0) {
            break begun.elapsed();
        }
        ensure!(begun.elapsed() < SOON, "no name is answered: {said:?}");
        // Each question is a process; one after the other is often enough.
        std::thread::sleep(Duration::from_millis(5));
    };
    host.agent.wait_ready()?;
    host.agent.wait_peers(HOSTS)?;
    // Time that passes is what is measured from here on, not waited for.
    std::thread::sleep(SETTLED);
    let pid = host.agent.pid()?;
    let (ticks, requests, since) = (ticks(pid)?, requests(topology, host)?, Instant::now());
    std::thread::sleep(idle);
    let took = since.elapsed().as_secs_f64();
    let (ticks, requests) = (self::ticks(pid)? - ticks, self::requests(topology, host)? - requests);
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no CLK_TCK")? as f64;
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("read smaps_rollup")?;
    let mb = |name: &str| -> Result<f64> {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        Ok(number.with_context(|| format!("no {name} in {memory}"))? / 1000.0 * 1.024)
    };
    Ok(Seen {
        answered: answered.as_secs_f64() * 1e3,
        resident: mb("Rss")?,
        own: mb("Anonymous")?,
        busy: ticks / per_second / took * 1e3,
        requests: requests / took * 60.0,
    })
}

/// Clock ticks of CPU time that a process has used, all its threads together (proc_pid_stat(5)).
fn ticks(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read stat")?;
    // The name before it may hold anything, also ")".
    let (_, rest) = stat.rsplit_once(") ").with_context(|| stat.clone())?;
    let words: Vec<&str> = rest.split(' ').collect();
    // utime and stime are the 14th and 15th fields; the state, first here, is the third.
    Ok(words[11].parse::<f64>()? + words[12].parse::<f64>()?)
}

/// How many requests etcd has begun with, by its own count, without what its members tell each other. A message on a stream that
/// is open (a renewed lease) counts as one.
fn requests(topology: &Topology, host: &Host) -> Result<f64> {
    let url = format!("{}/metrics", topology.etcd().endpoint());
    let text = host.exec(["curl", "-sS", &url])?.success()?.stdout;
    let counted =
        |line: &&str| line.starts_with("grpc_server_started_total{") || line.starts_with("grpc_server_msg_received_total{");
    let is_stream = |line: &&str| line.contains("grpc_type=\"bidi_stream\"");
    let lines = text.lines().filter(counted).filter(|line| line.starts_with("grpc_server_msg") == is_stream(line));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// An endpoint's address. Where the host that runs has its own subnet, nobody else has one.
fn address(host: usize, endpoint: usize) -> String {
    format!("10.244.{}.{}", host + 1, endpoint + 2)
}

/// Writes the other hosts, as their agents would. The number of the first.
fn fill(topology: &Topology, host: &Host, own: &str) -> Result<usize> {
    let mut puts: Vec<(String, Value)> = Vec::new();
    // One of the numbers may be the running host's.
    let numbers: Vec<usize> = (0..).filter(|n| !own.starts_with(&format!("10.244.{}.", n + 1))).take(HOSTS).collect();
    for &n in &numbers {
        let (public, name) = (format!("10.77.1.{}", n + 1), format!("n{n}"));
        let node = json!({
            "node": name, "public_ip": public, "version": "0.1.0", "capabilities": [], "boot": "b", "instance": name,
            "since": "2026-01-01T00:00:00Z"
        });
        let mac = format!("02:00:00:00:01:{n:02x}");
        let lease = json!({
            "PublicIP": public, "PublicIPv6": null, "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": mac},
        });
        puts.push((format!("/weft/v1/nodes/{name}"), node));
        puts.push((format!("/coreos.com/network/subnets/10.244.{}.0-24", n + 1), lease));
        for e in 0..ENDPOINTS {
            let weft = json!({"id": format!("e{n}-{e}"), "node": name, "labels": {"tier": "front", "host": name}});
            let record = json!({"host": address(n, e), "port": 8080, "targetstrip": 1, "weft": weft});
            puts.push((format!("/skydns/local/skydns/app{e}/e{n}-{e}/4"), record));
        }
    }
    for (number, chunk) in puts.chunks(AT_ONCE).enumerate() {
        // What etcdctl reads: comparisons (none), writes, writes if not (none); an empty line after each.
        let mut text = "\n".to_owned();
        for (key, value) in chunk {
            let value = serde_json::to_string(&value.to_string())?;
            // Writing into a string does not fail.
            let _ = writeln!(text, "put {} {value}", serde_json::to_string(key)?);
        }
        text.push_str("\n\n");
        let file = topology.dir().join(format!("puts-{number}"));
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let endpoint = topology.etcd().endpoint();
        let line = format!("ETCDCTL_API=3 etcdctl --endpoints={endpoint} txn < {}", file.display());
        let said = host.exec(["sh", "-c", &line])?.success()?;
        ensure!(said.stdout.contains("SUCCESS"), "{said:?}");
    }
    host.agent.wait_peers(HOSTS)?;
    numbers.first().copied().context("there are other hosts")
}
