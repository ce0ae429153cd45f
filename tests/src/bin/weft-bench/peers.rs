//! Peers that nobody is: leases in flannel's form at addresses that do not exist, so that agents program them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::{Topology, eventually};

/// How many writes etcd takes in one transaction by default.
const BATCH: u16 = 128;

/// How long two agents on a busy machine may take to program thousands of peers.
const BOUND: Duration = Duration::from_secs(90);

/// Writes the leases numbered `from..to` into etcd.
pub fn write(topology: &Topology, from: u16, to: u16) -> Result<()> {
    for begin in (from..to).step_by(usize::from(BATCH)) {
        // What etcdctl reads: comparisons (none), writes if they hold, writes if not (none); an empty line after each.
        let mut text = String::from("\n");
        for number in begin..to.min(begin + BATCH) {
            let (key, value) = lease(number);
            // Its words are quoted as Go's are, which JSON's strings are too.
            writeln!(text, "put {key} {}", serde_json::to_string(&value).context("quote a value")?)?;
        }
        text.push_str("\n\n");
        let mut command = topology.fabric().command("etcdctl")?;
        command.env("ETCDCTL_API", "3").args(["--endpoints", &topology.etcd().endpoint(), "txn"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start etcdctl")?;
        child.stdin.take().context("the pipe that was asked for")?.write_all(text.as_bytes()).context("tell etcdctl")?;
        let output = child.wait_with_output().context("wait for etcdctl")?;
        ensure!(output.status.success(), "etcdctl: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Waits until both agents have programmed `count` peers, whoever they are: the routes and the programs' rows.
pub fn wait(topology: &Topology, count: usize) -> Result<()> {
    for host in topology.hosts() {
        eventually(&format!("{} has {count} peers", host.name()), BOUND, || {
            let routes = host.exec(["ip", "-4", "route", "show", "dev", "weft.1"])?.success()?.stdout;
            let routes = routes.lines().filter(|l| l.contains(" via ")).count();
            ensure!(routes == count, "{routes} routes");
            let map = crate::programs::pinned(&host.agent.bpffs(), "weft_peers")?;
            let rows = host.exec(["bpftool", "-j", "map", "dump", "pinned", &map.to_string_lossy()])?.json()?;
            let rows = rows.as_array().map_or(0, Vec::len);
            ensure!(rows == count, "{rows} rows");
            Ok(())
        })?;
    }
    Ok(())
}

/// A lease's key and value. The subnets are the last of the network, which agents choose from by chance; a collision
/// would be with one of two.
fn lease(number: u16) -> (String, String) {
    let subnet = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 255, 254, 0)) - u32::from(number) * 256);
    let [high, low] = number.to_be_bytes();
    let host = Ipv4Addr::new(10, 79, high, low);
    let value = json!({
        "PublicIP": host.to_string(),
        "PublicIPv6": null,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": format!("02:00:00:ff:{high:02x}:{low:02x}")},
    });
    (format!("/coreos.com/network/subnets/{subnet}-24"), value.to_string())
}
