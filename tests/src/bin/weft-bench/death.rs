//! What is lost while agents are killed, dead and started again.

use std::time::Duration;

use anyhow::{Context, Result};
use weft_tests::eventually::{SOON, eventually};
use weft_tests::traffic::{probe, report};

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
    let hosts = cluster.topology.hosts();
    // Time that passes is what is measured here, not waited for.
    std::thread::sleep(Duration::from_secs(1));
    for host in hosts {
        host.agent.kill9()?;
    }
    std::thread::sleep(dead);
    for host in hosts {
        host.agent.start()?;
    }
    for host in hosts {
        host.agent.wait_ready()?;
        host.agent.wait_peers(hosts.len() - 1)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let report = report(&traffic)?;
    let number = |key: &str| report[key].as_u64().with_context(|| format!("{report}"));
    Ok(Seen { sent: number("sent")?, received: number("received")? })
}
