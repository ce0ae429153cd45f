//! A host: a network namespace with an uplink, a cgroup, and directories of its own. It can lose its cable and its power.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup;
use crate::container::Container;
use crate::node::Node;
use crate::place::{Daemon, Output, Place};
use crate::teardown;
use crate::topology::{FABRIC, FABRIC6, Topology, Wire, ip, make_netns, make_place};

/// The name of every host's uplink.
pub const UPLINK: &str = "up0";

/// The longest packet that the fabric carries once a cable is set to an MTU of its own, bytes.
const LONGEST: u32 = 9000;

/// One host of a topology.
#[derive(Debug)]
pub struct Host {
    /// Its agent, which runs once it was started.
    pub agent: Node,
    name: String,
    address: Ipv4Addr,
    address6: Ipv6Addr,
    wire: Wire,
    place: Place,
    fabric: Place,
    dir: PathBuf,
    mtu: u32,
}

impl Host {
    pub(crate) fn make(topology: &Topology, number: u8, wire: Wire, lease_ttl: Duration, mtu: u32) -> Result<Self> {
        let name = format!("h{number}");
        let [a, b, c, _] = FABRIC.octets();
        let place = make_place(topology.name(), &name)?;
        let dir = topology.dir().join(&name);
        let agent = Node::new(&name, place.clone(), dir.clone(), wire, lease_ttl);
        let address = Ipv4Addr::new(a, b, c, number);
        let mut segments = FABRIC6.segments();
        segments[7] = number.into();
        let address6 = Ipv6Addr::from(segments);
        let host = Self { agent, name, address, address6, wire, place, fabric: topology.fabric().clone(), dir, mtu };
        host.lay_cable()?;
        Ok(host)
    }

    /// Its name, which is its agent's node name too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the fabric, if it has IPv4 there.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 address on the fabric, if it has IPv6 there.
    #[must_use]
    pub fn address6(&self) -> Ipv6Addr {
        self.address6
    }

    /// What it has there.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Where its commands run.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A directory of its own for logs and files; it survives [`Host::power_off`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command on the host to its end.
    ///
    /// # Errors
    /// As [`Place::exec`].
    pub fn exec<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.place.exec(args)
    }

    /// Starts a command on the host that goes on in the background.
    ///
    /// # Errors
    /// As [`Place::spawn`].
    pub fn spawn<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Result<Daemon> {
        self.place.spawn(&self.dir, name, args)
    }

    /// Runs `netctl` against the host's agent.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn netctl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.agent.netctl(args)
    }

    /// Starts a container with `netctl run OPTIONS -- COMMAND` and waits until its command runs.
    ///
    /// # Errors
    /// When it does not come up; what `netctl` said is in the error.
    pub fn container<'a>(
        &self,
        options: impl IntoIterator<Item = &'a str>,
        command: impl IntoIterator<Item = &'a str>,
    ) -> Result<Container> {
        Container::start(self, options.into_iter().collect(), command.into_iter().collect())
    }

    /// A fresh network namespace on this host, as an orchestrator would make it, for `netctl attach --netns`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bare_namespace(&self, name: &str) -> Result<Place> {
        let place = Place { netns: self.dir.join(name), ..self.place.clone() };
        make_netns(&place)?;
        Ok(place)
    }

    /// Puts the cable in: the link to the fabric and its addresses.
    ///
    /// # Errors
    /// When the kernel refuses, as it does while there is one.
    pub fn lay_cable(&self) -> Result<()> {
        let (name, mtu) = (&self.name, self.mtu);
        let netns = self.place.netns().display();
        ip(&self.fabric, &format!("link add {name} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {netns}"))?;
        ip(&self.fabric, &format!("link set {name} master br0 up"))?;
        if self.wire != Wire::V6 {
            ip(&self.place, &format!("address add {}/24 dev {UPLINK}", self.address))?;
        }
        if self.wire != Wire::V4 {
            ip(&self.place, &format!("address add {}/64 dev {UPLINK} nodad", self.address6))?;
        }
        ip(&self.place, &format!("link set {UPLINK} up"))?;
        if self.wire != Wire::V6 {
            ip(&self.place, &format!("route add default via {FABRIC}"))?;
        }
        if self.wire != Wire::V4 {
            ip(&self.place, &format!("-6 route add default via {FABRIC6}"))?;
        }
        Ok(())
    }

    /// Takes the uplink out, as one takes out a network card: the device is gone, and with it all that stands on it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_cable(&self) -> Result<()> {
        ip(&self.fabric, &format!("link delete {}", self.name))
    }

    /// Pulls the cable: the far end of the uplink goes down, everything on the host lives on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pull_cable(&self) -> Result<()> {
        ip(&self.fabric, &format!("link set {} down", self.name))
    }

    /// Puts the cable back in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug_cable(&self) -> Result<()> {
        ip(&self.fabric, &format!("link set {} up", self.name))
    }

    /// Gives the uplink another MTU, bytes; and the cable that it hangs on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_uplink_mtu(&self, mtu: u32) -> Result<()> {
        // The fabric's end takes all that may come, before and after.
        ip(&self.fabric, &format!("link set {} mtu {}", self.name, mtu.max(LONGEST)))?;
        ip(&self.place, &format!("link set {UPLINK} mtu {mtu}"))
    }

    /// Cuts the power: no process of the host runs on, and no packet comes out of it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn power_off(&self) -> Result<()> {
        // The cable first: a dying process's last words (a TCP reset, say) would not get out of a machine without power.
        self.pull_cable()?;
        ip(&self.place, &format!("link set {UPLINK} down"))?;
        cgroup::kill_all(self.place.cgroup())?;
        self.agent.reap();
        Ok(())
    }

    /// Gives power back: a fresh kernel, as it were (namespace and bpffs are new), with the disk as it was. Nothing runs yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn power_on(&self) -> Result<()> {
        // The link goes here and now; with its namespace it would go some time later.
        self.remove_cable()?;
        teardown::unmount_below(&self.dir)?;
        // The agent's groups below the host's, and the programs attached to them, are memory too.
        cgroup::remove_tree(self.place.cgroup())?;
        std::fs::create_dir(self.place.cgroup()).with_context(|| format!("create {}", self.place.cgroup().display()))?;
        match std::fs::remove_dir_all(self.agent.run_dir()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("empty the run directory"),
            _ => {}
        }
        make_netns(&self.place)?;
        self.lay_cable()
    }
}
