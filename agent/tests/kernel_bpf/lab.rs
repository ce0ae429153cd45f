//! Hosts and containers as network namespaces, and a datapath for each host.
//!
//! ```text
//!   container c0 ─ eth0 ══ v0 ─┐                     ┌─ v0 ══ eth0 ─ container c0
//!   10.244.1.10                │ host 1       host 2 │              10.244.2.10
//!   container c1 ─ eth0 ══ v1 ─┤ 192.168.50.1 ══ .2  ├─ v1 ══ eth0 ─ container c1
//!   10.244.1.11                └──── u0 ═══════ u0 ──┘              10.244.2.11
//! ```
//!
//! Each host also has the kernel path: a VXLAN device `weft.1` with permanent neighbour, FDB and route for the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use weft_abi::maps::NETWORK_DEFAULT;
use weft_abi::{
    Be16, Be32, Be128, Cidr4, Config, Counter, Endpoint, Mac, Network, NextHop, Peer, PeerKey, RangeKey, Verdict, Vtep, VtepKey,
};
use weft_agent::kernel::bpf::{Datapath, Paths, cleanup, mounts, netns_cookie_of};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other test and no other run has.
pub fn unique() -> String {
    format!("wb{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a command that must succeed; what it printed.
pub fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks until the answer is yes; fails after a long time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A network namespace with loopback up, deleted with everything in it.
#[derive(Debug)]
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(name: String) -> Self {
        run(&format!("ip netns add {name}"));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub fn open(&self) -> File {
        File::open(self.path()).unwrap()
    }

    /// `ip ...` in here.
    pub fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.name))
    }

    /// A command in here, in the test's own mounts and cgroup.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// A command that may fail; whether it succeeded, and all that it printed.
    pub fn try_run(&self, line: &str) -> (bool, String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.command(words[0]).args(&words[1..]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Runs a function on a thread in here.
    pub fn enter<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let file = self.open();
        std::thread::scope(|scope| {
            let inside = || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                task()
            };
            scope.spawn(inside).join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    pub fn ifindex(&self, device: &str) -> u32 {
        let listing = self.ip(&format!("-o link show dev {device}"));
        listing.split(':').next().unwrap().trim().parse().unwrap()
    }

    pub fn mac(&self, device: &str) -> Mac {
        let listing = self.ip(&format!("-o link show dev {device}"));
        let text = listing.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A folder with a bpffs and a cgroup, and both gone with it.
#[derive(Debug)]
pub struct Place {
    /// Where the bpffs was asked for.
    pub bpffs: PathBuf,
    pub paths: Paths,
    dir: tempfile::TempDir,
    _mounted: mounts::Bpffs,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = mounts::ensure_cgroup2(dir.path()).unwrap().join(unique());
        std::fs::create_dir(&cgroup).unwrap();
        let bpffs = dir.path().join("bpf");
        let mounted = mounts::ensure_bpffs(&bpffs).unwrap();
        Self { bpffs, paths: Paths { bpffs: mounted.path().to_owned(), cgroup }, dir, _mounted: mounted }
    }

    /// The paths as an operator gives them.
    pub fn asked(&self) -> Paths {
        Paths { bpffs: self.bpffs.clone(), cgroup: self.paths.cgroup.clone() }
    }

    pub fn open(&self) -> Datapath {
        Datapath::open(&self.paths).unwrap_or_else(|e| panic!("{e:#?}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let cleaned = cleanup(&self.asked());
        // Processes leave a cgroup a moment after they are reaped.
        let end = Instant::now() + Duration::from_secs(10);
        while std::fs::remove_dir(&self.paths.cgroup).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let released = mounts::release_cgroup2(self.dir.path());
        if !std::thread::panicking() {
            cleaned.unwrap();
            released.unwrap();
            assert!(!self.paths.cgroup.exists(), "the cgroup is still in use");
            assert!(!self.bpffs.exists(), "something is left of the bpffs");
        }
    }
}

/// A container: its namespace, its address, and the host side of its veth.
#[derive(Debug)]
pub struct Container {
    pub netns: Netns,
    pub addr: Ipv4Addr,
    pub device: String,
    pub ifindex: u32,
    pub mac: Mac,
}

/// A host with its containers and its datapath.
#[derive(Debug)]
pub struct Host {
    pub number: u8,
    pub netns: Netns,
    pub containers: Vec<Container>,
    pub datapath: Datapath,
    pub place: Place,
}

pub const VTEP_PORT: u16 = 8472;

pub fn vtep(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 50, host)
}

pub fn subnet(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, host, 0)
}

pub fn gateway(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, host, 1)
}

pub fn vtep_mac(host: u8) -> Mac {
    [0x02, 0x22, 0, 0, 0, host]
}

pub fn vtep_key(host: u8) -> VtepKey {
    VtepKey { vni: 1, outer: vtep(host).into() }
}

pub fn peer_key(host: u8) -> PeerKey {
    PeerKey { network: NETWORK_DEFAULT, subnet: subnet(host).into() }
}

pub fn mac_text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

impl Host {
    /// A host that has addresses and routes, an uplink called `u0` already, and nothing attached.
    fn new(number: u8, netns: Netns, containers: usize) -> Self {
        let other = 3 - number;
        netns.ip(&format!("addr add {}/24 dev u0", vtep(number)));
        netns.ip("link set u0 up");
        netns.ip(&format!("addr add {}/32 dev lo", gateway(number)));
        let forward = netns.try_run("sysctl -qw net.ipv4.ip_forward=1");
        assert!(forward.0, "{}", forward.1);
        netns.ip(&format!(
            "link add weft.1 address {} mtu 1450 type vxlan id 1 local {} dev u0 dstport {VTEP_PORT} nolearning",
            mac_text(vtep_mac(number)),
            vtep(number)
        ));
        netns.ip(&format!("addr add {}/32 dev weft.1", subnet(number)));
        netns.ip("link set weft.1 up");
        let (peer, peer_mac) = (subnet(other), mac_text(vtep_mac(other)));
        netns.ip(&format!("neigh add {peer} lladdr {peer_mac} dev weft.1 nud permanent"));
        run(&format!("bridge -n {} fdb append {peer_mac} dev weft.1 dst {}", netns.name, vtep(other)));
        netns.ip(&format!("route add {peer}/24 via {peer} dev weft.1 onlink src {}", subnet(number)));

        let containers = (0..containers).map(|i| Self::container(&netns, number, i)).collect();
        let place = Place::new();
        let datapath = place.open();
        Self { number, netns, containers, datapath, place }
    }

    fn container(host: &Netns, number: u8, i: usize) -> Container {
        let netns = Netns::new(format!("{}c{i}", host.name));
        let addr = Ipv4Addr::new(10, 244, number, 10 + i as u8);
        let device = format!("v{i}");
        host.ip(&format!("link add {device} type veth peer name eth0 netns {}", netns.name));
        host.ip(&format!("link set {device} up"));
        host.ip(&format!("route add {addr}/32 dev {device}"));
        netns.ip("link set eth0 mtu 1450 up");
        netns.ip(&format!("addr add {addr}/32 dev eth0"));
        netns.ip(&format!("route add {} dev eth0", gateway(number)));
        netns.ip(&format!("route add default via {} dev eth0", gateway(number)));
        let (ifindex, mac) = (host.ifindex(&device), netns.mac("eth0"));
        Container { netns, addr, device, ifindex, mac }
    }

    /// Fills the maps by hand, as the plan would.
    pub fn fill(&mut self) {
        let other = 3 - self.number;
        let maps = self.datapath.maps_mut();
        let mut config = Config {
            vtep: vtep(self.number).into(),
            uplink: self.netns.ifindex("u0"),
            uplink_mtu: 1500,
            service_cidr_count: 1,
            ..Config::default()
        };
        config.ports[0] = Be16::from_native(VTEP_PORT);
        config.service_cidrs[0] = Cidr4 { network: Ipv4Addr::new(10, 112, 0, 0).into(), mask: Be32::mask_of(16) };
        maps.set_config(&config).unwrap();
        let network = Network {
            vni: 1,
            port: Be16::from_native(VTEP_PORT),
            vtep_mac: vtep_mac(self.number),
            subnet: subnet(self.number).into(),
            subnet_mask: Be32::mask_of(24),
            network: Ipv4Addr::new(10, 244, 0, 0).into(),
            network_mask: Be32::mask_of(16),
            subnet_mask6: Be128::mask_of(128),
            network_mask6: Be128::mask_of(128),
            ..Network::default()
        };
        maps.set_network(NETWORK_DEFAULT, &network).unwrap();
        let range = RangeKey { prefix_len: 96 + 16, addr: Ipv4Addr::new(10, 244, 0, 0).into() };
        maps.ranges.put(range, NETWORK_DEFAULT).unwrap();
        let ours = Vtep { network: NETWORK_DEFAULT, flags: 0 };
        maps.vteps.put(VtepKey::own(1), ours).unwrap();
        maps.vteps.put(vtep_key(other), ours).unwrap();
        let peer = Peer { outer: vtep(other).into(), mac: vtep_mac(other), flags: 0, mtu: 1450, next_hop: NextHop::NONE };
        maps.peers.put(peer_key(other), peer).unwrap();
        for container in &self.containers {
            let row = Endpoint { ifindex: container.ifindex, mac: container.mac, flags: 0, network: NETWORK_DEFAULT };
            maps.endpoints.put(Be32::from(container.addr), row).unwrap();
            let cookie = netns_cookie_of(container.netns.open().as_fd()).unwrap();
            maps.netns.put(cookie, NETWORK_DEFAULT).unwrap();
        }
    }

    /// Attaches the packet programs.
    pub fn attach(&mut self) {
        let file = self.netns.open();
        let uplink = self.netns.ifindex("u0");
        let (datapath, containers) = (&mut self.datapath, &self.containers);
        std::thread::scope(|scope| {
            let inside = || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                datapath.attach_uplink(uplink).unwrap();
                for container in containers {
                    datapath.attach_container(&container.device, container.ifindex).unwrap();
                }
            };
            scope.spawn(inside).join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        });
    }

    /// How often each verdict was reached since `before`.
    pub fn since(&self, before: &BTreeMap<Verdict, Counter>) -> BTreeMap<Verdict, u64> {
        let now = self.counters();
        now.into_iter().map(|(v, c)| (v, c.packets - before.get(&v).map_or(0, |b| b.packets))).filter(|(_, n)| *n != 0).collect()
    }

    pub fn counters(&self) -> BTreeMap<Verdict, Counter> {
        self.datapath.maps().counters().unwrap()
    }
}

/// Two hosts with a wire between them, their maps filled and their programs attached.
pub fn two_hosts(containers: usize) -> (Host, Host) {
    let name = unique();
    let (one, two) = (Netns::new(format!("{name}h1")), Netns::new(format!("{name}h2")));
    one.ip(&format!("link add u0 type veth peer name u0 netns {}", two.name));
    let (mut one, mut two) = (Host::new(1, one, containers), Host::new(2, two, containers));
    one.fill();
    two.fill();
    one.attach();
    two.attach();
    (one, two)
}
