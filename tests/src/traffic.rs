//! Servers in containers and clients beside them, by our own `weft-probe`: it says who it is, and reports as JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::container::Container;
use crate::eventually::{SOON, eventually};
use crate::host::Host;
use crate::node::binary;
use crate::place::{Daemon, Place};

/// The path of the probe.
///
/// # Errors
/// When it was not built.
pub fn probe() -> Result<String> {
    Ok(binary("weft-probe")?.to_string_lossy().into_owned())
}

/// Sends `count` echo requests at short intervals, with more options of `ping` if need be; none may remain unanswered.
///
/// Which answers came is read from their numbers. The statistics would count an answer as lost that is merely late: ping
/// (iputils) waits for the last one no longer than an interval, and, told to wait (`-w`), goes on sending; so there may be
/// answers to more than `count`.
///
/// # Errors
/// When an answer is missing; with what `ping` printed.
pub fn pings(from: &Place, to: IpAddr, count: usize, options: &[&str]) -> Result<()> {
    let (count_text, to) = (count.to_string(), to.to_string());
    let words = [&["ping", "-n", "-i", "0.02", "-w", "20", "-c", &count_text], options, &[&to]].concat();
    let said = from.exec(words)?;
    let number = |line: &str| line.split_once(" time=")?.0.split_once("icmp_seq=")?.1.split(' ').next()?.parse::<usize>().ok();
    let mut numbers: Vec<usize> = said.stdout.lines().filter_map(number).collect();
    numbers.sort_unstable();
    ensure!((1..=count).all(|n| numbers.binary_search(&n).is_ok()), "{count} answers from {to}: {said:?}");
    Ok(())
}

/// A container whose TCP server on `port` begins every connection with the line `say`.
///
/// # Errors
/// When it does not come up and answer.
pub fn tcp_server(host: &Host, options: &[&str], port: u16, say: &str) -> Result<Container> {
    server(host, options, "serve-tcp", "0.0.0.0", port, say)
}

/// As [`tcp_server`], over IPv4 and IPv6.
///
/// # Errors
/// When it does not come up and answer.
pub fn dual_tcp_server(host: &Host, options: &[&str], port: u16, say: &str) -> Result<Container> {
    server(host, options, "serve-tcp", "[::]", port, say)
}

/// As [`udp_server`], over IPv4 and IPv6.
///
/// # Errors
/// When it does not come up and answer.
pub fn dual_udp_server(host: &Host, options: &[&str], port: u16, say: &str) -> Result<Container> {
    server(host, options, "serve-udp", "[::]", port, say)
}

/// A container whose UDP server on `port` begins every answer with `say`.
///
/// # Errors
/// When it does not come up and answer.
pub fn udp_server(host: &Host, options: &[&str], port: u16, say: &str) -> Result<Container> {
    server(host, options, "serve-udp", "0.0.0.0", port, say)
}

fn server(host: &Host, options: &[&str], kind: &str, at: &str, port: u16, say: &str) -> Result<Container> {
    let listen = format!("{at}:{port}");
    let container = host.container(options.iter().copied(), [probe()?.as_str(), kind, &listen, "--say", say])?;
    let to = format!("127.0.0.1:{port}");
    let udp: &[&str] = if kind == "serve-udp" { &["--udp"] } else { &[] };
    eventually(&format!("{say} serves"), SOON, || {
        // A fresh namespace's lo is down until someone puts it up, so by the container's own address if need be.
        let to = container.address().map_or(to.clone(), |a| format!("{a}:{port}"));
        let report = connect(container.place(), &to, udp)?;
        ensure!(report["result"] == "answered", "{report}");
        Ok(())
    })?;
    Ok(container)
}

/// A container that does nothing, to be a client in.
///
/// # Errors
/// When it does not come up.
pub fn idle(host: &Host, options: &[&str]) -> Result<Container> {
    host.container(options.iter().copied(), ["sleep", "100000"])
}

/// Connects once from a place; the report's `result` is `answered`, `refused`, `timeout`, `unreachable` or the kernel's words.
///
/// # Errors
/// When the probe cannot be run.
pub fn connect(from: &Place, to: &str, options: &[&str]) -> Result<Value> {
    let probe = probe()?;
    let words = [&[probe.as_str(), "connect", to], options].concat();
    from.exec(words)?.json()
}

/// Who answers a connection.
///
/// # Errors
/// When nobody does.
pub fn who_answers(from: &Place, to: &str) -> Result<String> {
    let report = connect(from, to, &[])?;
    match report["result"].as_str() {
        Some("answered") => Ok(report["said"].as_str().unwrap_or_default().to_owned()),
        _ => bail!("connection to {to}: {report}"),
    }
}

/// What [`transfer`] sends, and gets back, in bytes: enough for many segments as long as the path takes them.
const TRANSFER: usize = 4_000_000;

/// Sends a line of four million letters to a [`tcp_server`], which gives it back.
///
/// # Errors
/// When not all of it comes back.
pub fn transfer(from: &Place, to: IpAddr, port: u16) -> Result<()> {
    let script = format!(
        "set -e; exec 3<>/dev/tcp/{to}/{port}; read -r who <&3; \
         (head -c {TRANSFER} /dev/zero | tr '\\0' x >&3; echo >&3) & \
         head -c {TRANSFER} <&3 | wc -c"
    );
    let output = from.exec(["timeout", "60", "bash", "-c", &script])?;
    ensure!(output.stdout.trim() == TRANSFER.to_string(), "transfer to {to}, port {port}: {output:?}");
    Ok(())
}

/// Connects this many times, each on its own, and counts who answered.
///
/// # Errors
/// When one of them is not answered.
pub fn tally(from: &Place, to: &str, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for number in 1..=times {
        let who = who_answers(from, to).with_context(|| format!("connection {number} of {times}"))?;
        *counts.entry(who).or_default() += 1;
    }
    Ok(counts)
}

/// A long TCP connection in the background; it stands when this returns.
///
/// # Errors
/// When it does not come about.
pub fn stream(from: &Container, name: &str, to: &str) -> Result<Daemon> {
    background(from, name, &["stream", to])
}

/// Datagrams from one socket in the background.
///
/// # Errors
/// When it does not start.
pub fn datagrams(from: &Container, name: &str, to: &str) -> Result<Daemon> {
    background(from, name, &["datagrams", to])
}

/// As [`datagrams`], one in so many milliseconds.
///
/// # Errors
/// When it does not start.
pub fn datagrams_every(from: &Container, name: &str, to: &str, every_ms: u64) -> Result<Daemon> {
    background(from, name, &["datagrams", to, "--every-ms", &every_ms.to_string()])
}

fn background(from: &Container, name: &str, words: &[&str]) -> Result<Daemon> {
    let probe = probe()?;
    let daemon = from.spawn(name, [&[probe.as_str()], words].concat())?;
    eventually(&format!("{name} is connected: {}", words.join(" ")), SOON, || {
        if let Some(status) = daemon.ended()? {
            bail!("it ended: {status}: {}", daemon.stderr());
        }
        ensure!(daemon.stderr().contains("connected to"), "not yet: {}", daemon.stderr());
        Ok(())
    })?;
    Ok(daemon)
}

/// Ends what [`stream`] or [`datagrams`] began, and gives its report.
///
/// # Errors
/// When it does not end or report.
pub fn report(daemon: &Daemon) -> Result<Value> {
    if daemon.ended()?.is_none() {
        daemon.stop(SOON)?;
    }
    let line = daemon.stdout();
    serde_json::from_str(&line).with_context(|| format!("{} reported {line:?}: {}", daemon.command(), daemon.stderr()))
}
