//! What goes over the cables between hosts, counted where the fabric takes it in.

use anyhow::{Context, Result};

use crate::topology::Topology;

/// Counts packets that were cut.
#[derive(Debug)]
pub struct Fragments<'a>(&'a Topology);

impl<'a> Fragments<'a> {
    /// Counts from now on.
    ///
    /// # Errors
    /// When the fabric's packet filter refuses.
    pub fn watch(topology: &'a Topology) -> Result<Self> {
        let ports: Vec<&str> = topology.hosts().iter().map(super::Host::name).collect();
        let rules = format!(
            "table netdev wire {{\n counter v4 {{ }}\n counter v6 {{ }}\n chain in {{\n  type filter hook ingress devices = {{ {} }} priority 0\n  \
             ip frag-off & 0x3fff != 0 counter name v4\n  ip6 nexthdr 44 counter name v6\n }}\n}}",
            ports.join(", ")
        );
        topology.fabric().exec(["nft", &rules])?.success()?;
        Ok(Self(topology))
    }

    /// How many there were on the cables.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn on_the_wire(&self) -> Result<u64> {
        let listed = self.0.fabric().exec(["nft", "-j", "list", "counters", "table", "netdev", "wire"])?.json()?;
        let objects = listed["nftables"].as_array().context("no list of counters")?;
        Ok(objects.iter().filter_map(|o| o["counter"]["packets"].as_u64()).sum())
    }

    /// How many the hosts' own stacks made.
    ///
    /// # Errors
    /// When a host's counters cannot be read.
    pub fn made_by_hosts(&self) -> Result<u64> {
        let mut sum = 0;
        for host in self.0.hosts() {
            sum += created(&host.exec(["cat", "/proc/net/snmp", "/proc/net/snmp6"])?.success()?.stdout)?;
        }
        Ok(sum)
    }
}

/// `FragCreates` of IPv4 (a line of names, a line of values) and of IPv6 (a name and a value a line).
fn created(text: &str) -> Result<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let v4 = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "FragCreates").context("no FragCreates")?.1;
    let v6 = text.lines().find_map(|line| line.strip_prefix("Ip6FragCreates")).unwrap_or("0");
    Ok(v4.parse::<u64>()? + v6.trim().parse::<u64>()?)
}
