//! What is lost while agents are killed, dead and started again, or are replaced by another build.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_tests::eventually::{SOON, eventually};
use weft_tests::node::binary;
use weft_tests::traffic::probe;
use weft_tests::{Daemon, Host};

use crate::stage::Cluster;

/// The port of the server that gives every datagram back.
const PORT: u16 = 7005;

/// Datagrams that went to the other host and were given back there.
pub struct Seen {
    /// Sent.
    pub sent: u64,
    /// Come back.
    pub received: u64,
}

impl Seen {
    /// How many did not come back.
    pub fn lost(&self) -> f64 {
        self.sent.saturating_sub(self.received) as f64
    }
}

/// Kills both agents while a numbered datagram goes to and fro every millisecond, starts them again after `dead`, and
/// counts until a second after both are ready.
pub fn run(cluster: &Cluster, dead: Duration) -> Result<Seen> {
    count(cluster, |hosts| {
        for host in hosts {
            host.agent.kill9()?;
        }
        std::thread::sleep(dead);
        start(hosts)
    })
}

/// The same while both agents are replaced, as often as said, by another file of the same build: the way of a package.
pub fn upgrade(cluster: &Cluster, times: usize) -> Result<Seen> {
    count(cluster, |hosts| {
        for number in 0..times {
            for host in hosts {
                let path = host.dir().join(format!("weftd-{number}"));
                std::fs::copy(binary("weftd")?, &path).with_context(|| format!("copy weftd to {}", path.display()))?;
                host.agent.set_binary(&path);
                host.agent.stop()?;
            }
            start(hosts)?;
        }
        Ok(())
    })
}

fn start(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        host.agent.start()?;
    }
    for host in hosts {
        host.agent.wait_ready()?;
        host.agent.wait_peers(hosts.len() - 1)?;
    }
    Ok(())
}

fn count(cluster: &Cluster, event: impl FnOnce(&[Host]) -> Result<()>) -> Result<Seen> {
    let probe = probe()?;
    let to = format!("{}:{PORT}", cluster.far.address()?);
    let _server = cluster.far.spawn("giver-back", [probe.as_str(), "serve-udp", &to, "--say", ""])?;
    let ready = || cluster.near.exec([probe.as_str(), "connect", &to, "--udp", "--timeout", "0.2"])?.json();
    eventually("datagrams come back", SOON, || {
        let report = ready()?;
        anyhow::ensure!(report["result"] == "answered", "{report}");
        Ok(())
    })?;
    let traffic = cluster.near.spawn("numbered", [probe.as_str(), "datagrams", &to, "--every-ms", "1"])?;
    // Time that passes is what is measured here, not waited for.
    std::thread::sleep(Duration::from_secs(1));
    event(cluster.topology.hosts())?;
    std::thread::sleep(Duration::from_secs(1));
    // A restarted command appends: the last line is this one's.
    let said = last_report(&traffic)?;
    let number = |key: &str| said[key].as_u64().with_context(|| format!("{said}"));
    Ok(Seen { sent: number("sent")?, received: number("received")? })
}

fn last_report(traffic: &Daemon) -> Result<Value> {
    traffic.stop(SOON)?;
    let text = traffic.stdout();
    let line = text.lines().last().with_context(|| format!("no report: {}", traffic.stderr()))?;
    serde_json::from_str(line).with_context(|| format!("the report {line:?}"))
}
