//! What is measured on: three times two hosts with a wire of their own, a veth pair.
//!
//! ```text
//!   fast     h1 [near beside] wire0 ════ wire0 [far] h2     weftd with its programs
//!   kernel   h1 [near]        wire0 ════ wire0 [far] h2     weftd that may not use bpf(2): the kernel's own path
//!   plain    h1 [near beside] wire0 ════ wire0 [far] h2     flannel's layout, made with `ip`: bridge, route, VXLAN device
//! ```
//!
//! The bare wire is measured between the plain hosts themselves: no program of ours is attached there. Flannel's layout is
//! without flannel's packet filter rules, which would make it slower. Two more namespaces of the plain h1 are joined by
//! nothing but a veth pair.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weft_tests::eventually::SOON;
use weft_tests::traffic::{idle, probe};
use weft_tests::{Container, Host, Place, Topology, eventually};

use crate::measure::Pair;

/// The network of both Weft clusters: room for far more subnets of /24 than peers are measured with.
pub const NETWORK: &str = "10.128.0.0/9";

/// The wire's device at both ends.
const WIRE: &str = "wire0";

/// The addresses of the wire's ends.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];

/// MTU of everything in an overlay whose wire has 1500.
const OVERLAY_MTU: u32 = 1450;

/// The hosts, and the pairs of places between which traffic goes.
///
/// The fields are dropped in this order: what runs before what it runs on.
pub struct Stage {
    /// Two hosts, programs at work.
    pub fast: Pair,
    /// Two hosts, the kernel's own path.
    pub kernel: Pair,
    /// Two hosts with flannel's layout.
    pub flannel: Pair,
    /// Two hosts, nothing between.
    pub wire: Pair,
    /// Two containers of one Weft host.
    pub local: Pair,
    /// Two namespaces at one bridge.
    pub bridge: Pair,
    /// Two namespaces at one veth pair.
    pub bare: Pair,
    /// The Weft cluster with programs.
    pub cluster: Cluster,
    _kernel: Cluster,
    _plain: Topology,
}

/// Two Weft hosts with containers.
pub struct Cluster {
    /// In h1.
    pub near: Container,
    /// In h2.
    pub far: Container,
    /// In h1 too.
    pub beside: Container,
    /// The hosts.
    pub topology: Topology,
}

impl Stage {
    /// Makes all of it; when this returns, every pair has exchanged packets.
    pub fn build(cpus: [usize; 2]) -> Result<Self> {
        let cluster = Cluster::start(true).context("two hosts with programs")?;
        let kernel = Cluster::start(false).context("two hosts without programs")?;
        let plain = Topology::new(2)?;
        let (one, two) = (plain.host(1), plain.host(2));
        lay_wire(one, two)?;
        lay_flannel(one, 1)?;
        lay_flannel(two, 2)?;
        let near = flannel_container(one, 1, 2)?;
        let beside = flannel_container(one, 1, 3)?;
        let far = flannel_container(two, 2, 2)?;
        let bare = bare_pair(one)?;
        let in_plain = |number: u8, last: u8| Ipv4Addr::new(10, 200, number, last);

        let dir = plain.dir().to_owned();
        let pair = |name, near: &Place, a, far: &Place, b| Pair::open(name, near, a, far, b, &dir, cpus);
        Ok(Self {
            fast: cluster.pair("fast", &cluster.near, &cluster.far, &dir, cpus)?,
            local: cluster.pair("local", &cluster.near, &cluster.beside, &dir, cpus)?,
            kernel: kernel.pair("kernel", &kernel.near, &kernel.far, &dir, cpus)?,
            flannel: pair("flannel", &near, in_plain(1, 2), &far, in_plain(2, 2))?,
            bridge: pair("bridge", &near, in_plain(1, 2), &beside, in_plain(1, 3))?,
            bare: pair("bare", &bare[0], ENDS[0], &bare[1], ENDS[1])?,
            wire: pair("wire", one.place(), ENDS[0], two.place(), ENDS[1])?,
            cluster,
            _kernel: kernel,
            _plain: plain,
        })
    }
}

impl Cluster {
    fn start(fast: bool) -> Result<Self> {
        let topology = Topology::new(2)?;
        let (one, two) = (topology.host(1), topology.host(2));
        lay_wire(one, two)?;
        topology.etcd().start()?;
        for host in topology.hosts() {
            // The fabric is for etcd only.
            host.agent.set_flag("iface", WIRE);
            if !fast {
                host.agent.set_wrapper([probe()?.as_str(), "without-bpf"]);
            }
            host.agent.start()?;
        }
        // Answering comes before having read the store, without which there is nothing to initialise.
        eventually("the network is initialised", SOON, || one.netctl(["network", "init", "--cidr", NETWORK])?.success())?;
        for host in topology.hosts() {
            host.agent.wait_ready()?;
            let status = host.agent.wait_peers(1)?;
            ensure!(status["datapath"]["fast"] == fast, "the data path is not as wanted: {}", status["datapath"]);
        }
        Ok(Self { near: idle(one, &[])?, beside: idle(one, &[])?, far: idle(two, &[])?, topology })
    }

    fn pair(&self, name: &'static str, near: &Container, far: &Container, dir: &Path, cpus: [usize; 2]) -> Result<Pair> {
        Pair::open(name, near.place(), near.address()?, far.place(), far.address()?, dir, cpus)
    }
}

/// Runs `ip` or `bridge` with these words.
fn run(place: &Place, words: &str) -> Result<()> {
    place.exec(words.split(' '))?.success().map(drop)
}

/// A veth pair between two hosts, or two namespaces.
fn join(one: &Place, two: &Place, device: &str) -> Result<()> {
    run(one, &format!("ip link add {device} type veth peer name {device} netns {}", two.netns().display()))?;
    for (place, address) in [one, two].into_iter().zip(ENDS) {
        run(place, &format!("ip address add {address}/30 dev {device}"))?;
        run(place, &format!("ip link set {device} up"))?;
    }
    Ok(())
}

fn lay_wire(one: &Host, two: &Host) -> Result<()> {
    join(one.place(), two.place(), WIRE)
}

fn bare_pair(host: &Host) -> Result<[Place; 2]> {
    let places = [host.bare_namespace("bare-1")?, host.bare_namespace("bare-2")?];
    join(&places[0], &places[1], "eth0")?;
    Ok(places)
}

/// The VXLAN device's address on a plain host.
fn vtep(number: u8) -> String {
    format!("02:00:00:00:00:0{number}")
}

/// Flannel's layout on host `number`, whose peer is the other one of two: what flanneld does, by hand.
fn lay_flannel(host: &Host, number: u8) -> Result<()> {
    let place = host.place();
    let peer = 3 - number;
    let (own, far) = (ENDS[usize::from(number) - 1], ENDS[usize::from(peer) - 1]);
    let (mac, far_mac) = (vtep(number), vtep(peer));
    for words in [
        format!(
            "ip link add flannel.1 address {mac} mtu {OVERLAY_MTU} type vxlan id 1 local {own} dev {WIRE} dstport 8472 nolearning"
        ),
        format!("ip address add 10.200.{number}.0/32 dev flannel.1"),
        "ip link set flannel.1 up".to_owned(),
        format!("ip neigh replace 10.200.{peer}.0 lladdr {far_mac} dev flannel.1 nud permanent"),
        format!("bridge fdb replace {far_mac} dev flannel.1 dst {far} self permanent"),
        format!("ip route replace 10.200.{peer}.0/24 via 10.200.{peer}.0 dev flannel.1 onlink"),
        format!("ip link add cni0 mtu {OVERLAY_MTU} type bridge"),
        format!("ip address add 10.200.{number}.1/24 dev cni0"),
        "ip link set cni0 up".to_owned(),
    ] {
        run(place, &words)?;
    }
    place.exec(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?.success().map(drop)
}

/// A namespace at the bridge, as the bridge plugin makes it.
fn flannel_container(host: &Host, number: u8, last: u8) -> Result<Place> {
    let inside = host.bare_namespace(&format!("c{last}"))?;
    let outside = host.place();
    let netns = inside.netns().display();
    run(outside, &format!("ip link add v{last} mtu {OVERLAY_MTU} type veth peer name eth0 mtu {OVERLAY_MTU} netns {netns}"))?;
    run(outside, &format!("ip link set v{last} master cni0 up"))?;
    run(&inside, &format!("ip address add 10.200.{number}.{last}/24 dev eth0"))?;
    run(&inside, "ip link set eth0 up")?;
    run(&inside, &format!("ip route add default via 10.200.{number}.1"))?;
    Ok(inside)
}
