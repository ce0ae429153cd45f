//! Containers as the CNI plugins `flannel` and `bridge` make them from `subnet.env`: a bridge `cni0` with the subnet's first
//! address, and a veth pair per container. What made the file does not know of them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use crate::eventually::{SOON, eventually};
use crate::flannel::reading::Subnet;
use crate::host::Host;
use crate::place::{Daemon, Place};
use crate::topology::ip;
use crate::traffic::{connect, probe};

/// The bridge.
pub const BRIDGE: &str = "cni0";

/// A container on a bridge. It goes with its host.
#[derive(Debug)]
pub struct Bridged {
    place: Place,
    address: Ipv4Addr,
    address6: Option<Ipv6Addr>,
    dir: PathBuf,
    name: String,
}

impl Bridged {
    /// Makes one: `number` is what its address ends with (2 is the first to be had), as host-local would count.
    ///
    /// # Errors
    /// When the file is missing or does not say what it should, or the kernel refuses.
    pub fn new(host: &Host, env: &Path, number: u32) -> Result<Self> {
        let text = std::fs::read_to_string(env).with_context(|| format!("read {}", env.display()))?;
        let of = |name: &str| {
            let found = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
            found.with_context(|| format!("no {name} in {}", env.display()))
        };
        let gateway: Subnet = of("FLANNEL_SUBNET")?.parse().map_err(|e: String| anyhow!(e))?;
        let mtu: u32 = of("FLANNEL_MTU")?.parse().context("FLANNEL_MTU")?;
        let gateway6: Option<Subnet<Ipv6Addr>> = match of("FLANNEL_IPV6_SUBNET") {
            Ok(text) => Some(text.parse().map_err(|e: String| anyhow!(e))?),
            Err(_) => None,
        };
        let address = gateway.truncated().nth(number).context("the subnet is not that large")?;

        let on_host = host.place();
        if ip(on_host, &format!("link show {BRIDGE}")).is_err() {
            ip(on_host, &format!("link add {BRIDGE} mtu {mtu} type bridge"))?;
            ip(on_host, &format!("address add {gateway} dev {BRIDGE}"))?;
            ip(on_host, &format!("link set {BRIDGE} up"))?;
            on_host.exec(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?.success()?;
            if let Some(gateway6) = gateway6 {
                ip(on_host, &format!("address add {gateway6} dev {BRIDGE} nodad"))?;
                on_host.exec(["sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1"])?.success()?;
            }
        }
        let name = format!("bridged-{number}");
        let place = host.bare_namespace(&name)?;
        let netns = place.netns().display();
        ip(on_host, &format!("link add veth{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {netns}"))?;
        ip(on_host, &format!("link set veth{number} master {BRIDGE} up"))?;
        ip(&place, &format!("address add {address}/{} dev eth0", gateway.len))?;
        ip(&place, "link set eth0 up")?;
        ip(&place, &format!("route add default via {}", gateway.address))?;
        // Its number is that of the gateway, which is 1, and what is between them.
        let address6 = gateway6.map(|gateway6| gateway6.nth(u64::from(number) - 1));
        if let (Some(gateway6), Some(address6)) = (gateway6, address6) {
            ip(&place, &format!("address add {address6}/{} dev eth0 nodad", gateway6.len))?;
            ip(&place, &format!("route add default via {}", gateway6.address))?;
        }
        Ok(Self { place, address, address6, dir: host.dir().to_owned(), name })
    }

    /// Where its commands run.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 address, on a dual-stack host.
    #[must_use]
    pub fn address6(&self) -> Option<Ipv6Addr> {
        self.address6
    }

    /// Starts a command in it that goes on in the background.
    ///
    /// # Errors
    /// As [`Place::spawn`].
    pub fn spawn<'a>(&self, name: &str, words: impl IntoIterator<Item = &'a str>) -> Result<Daemon> {
        self.place.spawn(&self.dir, &format!("{}-{name}", self.name), words)
    }

    /// Starts a server that says `say` (`serve-tcp` or `serve-udp` of our probe), and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn serve(&self, kind: &str, port: u16, say: &str) -> Result<Daemon> {
        let at = format!("0.0.0.0:{port}");
        let server = self.spawn(kind, [probe()?.as_str(), kind, &at, "--say", say])?;
        let udp: &[&str] = if kind == "serve-udp" { &["--udp"] } else { &[] };
        eventually(&format!("{say} serves"), SOON, || {
            let report = connect(&self.place, &format!("{}:{port}", self.address), udp)?;
            ensure!(report["result"] == "answered", "{report}");
            Ok(())
        })?;
        Ok(server)
    }
}
