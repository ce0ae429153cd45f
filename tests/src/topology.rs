//! Hosts as network namespaces, joined by a bridge that stands in a namespace of its own.
//!
//! ```text
//!   namespace h1              namespace h2              namespace h3
//!  ┌──────────────────────┐  ┌──────────────────────┐  ┌──────────────────────┐
//!  │ weftd   containers…  │  │ weftd   containers…  │  │ weftd   containers…  │
//!  │ up0 10.77.0.1/24     │  │ up0 10.77.0.2/24     │  │ up0 10.77.0.3/24     │
//!  └──┬───────────────────┘  └──┬───────────────────┘  └──┬───────────────────┘
//!     │ veth                    │ veth                    │ veth
//!  ┌──┴─────────────────────────┴─────────────────────────┴───────────────────┐
//!  │ h1                        h2                        h3                   │
//!  │  └────────────── br0 10.77.0.254/24 ────────────────┘                    │
//!  │ etcd :2379            upstream DNS :53 (when asked for)                  │
//!  └──────────────────────────────────────────────────────────────────────────┘
//!   namespace fabric
//! ```
//!
//! `<T>` is the topology's name, `weft-t-<pid>-<n>`. Every host has a cgroup `<cgroup v2 root>/<T>/<host>` and a directory
//! `<temp>/<T>/<host>` with its network namespace (the file `net`, for `nsenter --net=`), run directory, state directory,
//! bpffs and logs. The default route of a host leads to the fabric, which forwards nothing. No link, route or address is made in the namespace that the tests run in, so that any
//! number of topologies stand side by side.
//!
//! A topology undoes itself when it is dropped; how, and what of other ends of a process, is in [`crate::teardown`].

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::etcd::EtcdHandle;
use crate::eventually::{SOON, eventually};
use crate::host::Host;
use crate::place::{Daemon, Place, tail};
use crate::teardown::{self, Claim};
use crate::{cgroup, signals};

/// The fabric's address, where what is outside of the hosts is to be found.
pub const FABRIC: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// The same over IPv6, where there is some.
pub const FABRIC6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0xfe);

/// The network that [`Topology::cluster`] writes: 254 subnets of /24.
pub const NETWORK: &str = "10.244.0.0/16";

/// The IPv6 network beside it, in a dual-stack topology.
pub const NETWORK6: &str = "fd00:10:244::/48";

/// Which addresses a host has on its uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// IPv4 alone.
    V4,
    /// Both.
    Dual,
    /// IPv6 alone.
    V6,
}

impl Wire {
    /// Where the fabric is for a host of this kind.
    pub(crate) fn fabric(self) -> IpAddr {
        if self == Self::V6 { FABRIC6.into() } else { FABRIC.into() }
    }
}

/// How many hosts fit on the fabric.
const MOST_HOSTS: usize = 200;

/// Some hosts, the fabric between them, and etcd.
#[derive(Debug)]
pub struct Topology {
    hosts: Vec<Host>,
    etcd: EtcdHandle,
    fabric: Place,
    dir: PathBuf,
    claim: Claim,
    dual_stack: bool,
}

/// What a topology is made of; begin with [`Topology::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    hosts: usize,
    lease_ttl: Duration,
    mtu: u32,
    wires: Vec<Wire>,
    dual_stack: bool,
}

impl Builder {
    /// The MTU of all cables, in bytes. Default 1500.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// The agents' `--lease-ttl`: how long after its death a host still counts as alive. Default 5 s; etcd takes no less than 2.
    #[must_use]
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.lease_ttl = ttl;
        self
    }

    /// What the hosts have on their uplinks, in order; those that are not named have IPv4.
    #[must_use]
    pub fn wires(mut self, wires: &[Wire]) -> Self {
        self.wires = wires.to_vec();
        self
    }

    /// [`Topology::start_cluster`] makes a dual-stack network.
    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        self.dual_stack = true;
        self
    }

    /// Makes namespaces, links and directories. Nothing runs yet.
    ///
    /// # Errors
    /// When not root, a tool is missing or the kernel refuses; what was made is undone.
    pub fn build(self) -> Result<Topology> {
        ensure!(nix::unistd::geteuid().is_root(), "making network namespaces needs root");
        ensure!(self.hosts <= MOST_HOSTS, "{} hosts do not fit on the fabric: at most {MOST_HOSTS}", self.hosts);
        teardown::sweep()?;
        let claim = teardown::claim()?;
        let dir = teardown::dir(&claim.name);
        let fabric = make_place(&claim.name, "fabric").inspect_err(|_| {
            // The first error is the one to tell.
            let _ = teardown::wreck(&claim.name);
        })?;
        let v6 = self.wires.contains(&Wire::V6).then_some(IpAddr::V6(FABRIC6));
        let listen = [Some(IpAddr::V4(FABRIC)), v6].into_iter().flatten().collect();
        let etcd = EtcdHandle::new(fabric.clone(), dir.clone(), listen);
        // From here on dropping it undoes everything.
        let mut topology = Topology { hosts: Vec::new(), etcd, fabric, dir, claim, dual_stack: self.dual_stack };
        topology.lay_fabric()?;
        for number in 1..=self.hosts {
            let wire = self.wires.get(number - 1).copied().unwrap_or(Wire::V4);
            let host = Host::make(&topology, u8::try_from(number)?, wire, self.lease_ttl, self.mtu)?;
            topology.hosts.push(host);
        }
        Ok(topology)
    }
}

impl Topology {
    /// Begins the description of a topology with this many hosts, named `h1`, `h2`, …
    #[must_use]
    pub fn builder(hosts: usize) -> Builder {
        Builder { hosts, lease_ttl: Duration::from_secs(5), mtu: 1500, wires: Vec::new(), dual_stack: false }
    }

    /// Hosts with the defaults; nothing runs yet.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(hosts: usize) -> Result<Self> {
        Self::builder(hosts).build()
    }

    /// Hosts with etcd, the network [`NETWORK`] initialised and an agent each, all of them ready.
    ///
    /// # Errors
    /// When one of them does not become ready; the end of its log is in the error.
    pub fn cluster(hosts: usize) -> Result<Self> {
        let topology = Self::new(hosts)?;
        topology.start_cluster()?;
        Ok(topology)
    }

    /// Starts etcd and the agents, initialises the network through the first host and waits until all know each other.
    ///
    /// # Errors
    /// As [`Topology::cluster`].
    pub fn start_cluster(&self) -> Result<()> {
        self.etcd.start()?;
        for host in &self.hosts {
            host.agent.start()?;
        }
        let first = self.hosts.first().context("a cluster needs a host")?;
        first.agent.wait_status("the store has been read", |s| s["store"]["revision"].as_i64() > Some(0))?;
        let v6: &[&str] = if self.dual_stack { &["--cidr6", NETWORK6] } else { &[] };
        first.netctl([&["network", "init", "--cidr", NETWORK], v6].concat())?.success()?;
        for host in &self.hosts {
            host.agent.wait_ready()?;
            host.agent.wait_peers(self.hosts.len() - 1)?;
        }
        Ok(())
    }

    /// The topology's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.claim.name
    }

    /// All hosts, in order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by its number, which begins at 1 as in its name and its address.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// etcd, which runs once it was started.
    #[must_use]
    pub fn etcd(&self) -> &EtcdHandle {
        &self.etcd
    }

    /// The namespace between the hosts, where what is "outside" runs.
    #[must_use]
    pub fn fabric(&self) -> &Place {
        &self.fabric
    }

    /// A directory of the topology's own, which goes with it.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Starts a DNS server on the fabric that knows `name` (and only that) at `address`: the upstream of all agents.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn upstream_dns(&self, name: &str, address: Ipv4Addr) -> Result<Daemon> {
        let args = [
            "dnsmasq".to_owned(),
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--no-resolv".to_owned(),
            "--no-hosts".to_owned(),
            "--bind-interfaces".to_owned(),
            "--user=root".to_owned(),
            "--pid-file=".to_owned(),
            format!("--listen-address={FABRIC}"),
            format!("--host-record={name},{address}"),
        ];
        let daemon = self.fabric.spawn(&self.dir, "upstream-dns", args)?;
        eventually("the upstream DNS server answers", SOON, || {
            let server = format!("@{FABRIC}");
            let answer = self.fabric.exec(["dig", &server, name, "+short", "+time=1", "+tries=1"])?.success()?;
            ensure!(answer.stdout.trim() == address.to_string(), "{}\n{}", answer.stdout, daemon.stderr());
            Ok(())
        })?;
        Ok(daemon)
    }

    /// The end of every agent's log and of etcd's.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let log = host.agent.log();
            if !log.is_empty() {
                text.push_str(&format!("--- weftd of {}, last lines\n{}\n", host.name(), tail(&log, 60)));
            }
        }
        let log = self.etcd.log();
        if !log.is_empty() {
            text.push_str(&format!("--- etcd, last lines\n{}\n", tail(&log, 15)));
        }
        text
    }

    /// Takes everything down now, and fails if something stays.
    ///
    /// # Errors
    /// When something stays; it is listed.
    pub fn down(self) -> Result<()> {
        let name = self.name().to_owned();
        drop(self);
        assert_nothing_left(&name)
    }

    fn lay_fabric(&self) -> Result<()> {
        let f = &self.fabric;
        // Forwards from the first moment on: no spanning tree, no snooping to learn first.
        ip(f, "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        ip(f, &format!("address add {FABRIC}/24 dev br0"))?;
        ip(f, &format!("address add {FABRIC6}/64 dev br0 nodad"))?;
        ip(f, "link set br0 up")
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.logs());
        }
        let result = teardown::wreck(self.name()).and_then(|()| assert_nothing_left(self.name()));
        if let Err(e) = result {
            // A second panic while unwinding would abort and hide the first.
            assert!(failed, "teardown of {}: {e:#}", self.name());
            eprintln!("teardown of {}: {e:#}", self.name());
        }
    }
}

/// Fails if anything of the topology is still on this machine.
///
/// # Errors
/// With the list of it.
pub fn assert_nothing_left(name: &str) -> Result<()> {
    let left = teardown::left(name)?;
    ensure!(left.is_empty(), "{name} left behind:\n  {}", left.join("\n  "));
    Ok(())
}

/// A topology in a static, used by several tests. It is taken down when the process ends; the logs of its agents are shown
/// with every test that fails.
#[derive(Debug)]
pub struct Shared(&'static Topology);

impl Shared {
    /// One test's use of a shared topology.
    pub fn of(topology: &'static LazyLock<Topology>) -> Self {
        Self(topology)
    }
}

impl Deref for Shared {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.logs());
        }
    }
}

/// Makes a directory, a network namespace with `lo` up, and a cgroup.
pub(crate) fn make_place(topology: &str, host: &str) -> Result<Place> {
    let dir = teardown::dir(topology).join(host);
    let place = Place {
        topology: topology.to_owned(),
        netns: dir.join("net"),
        mounts: None,
        groups: None,
        cgroup: cgroup::root()?.join(topology).join(host),
    };
    let _gate = signals::gate()?;
    std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::create_dir_all(&place.cgroup).with_context(|| format!("create cgroup {}", place.cgroup.display()))?;
    make_netns(&place)?;
    Ok(place)
}

/// Makes the network namespace of a place: a fresh one, kept by mounting it on the place's file.
///
/// `ip netns add` would do, but turns /run/netns into a mount that stays when the last namespace has gone.
pub(crate) fn make_netns(place: &Place) -> Result<()> {
    let file = &place.netns;
    File::create(file).with_context(|| format!("create {}", file.display()))?;
    let kept = file.clone();
    // A thread of its own, which takes the new namespace with it when it ends.
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &kept, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    });
    let made = made.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?;
    made.with_context(|| format!("make network namespace {}", file.display()))?;
    ip(place, "link set lo up")
}

/// Runs `ip` with these words in a place.
///
/// # Errors
/// When the kernel refuses.
pub fn ip(place: &Place, words: &str) -> Result<()> {
    place.exec_within(SOON, ["ip"].into_iter().chain(words.split(' ')))?.success().map(drop)
}
