//! Hosts and containers as network namespaces.
//!
//! ```text
//!   container ─ eth0 ══ weft… ─┐                      ┌─ weft… ══ eth0 ─ container
//!   10.244.1.2                 │ host 1        host 2 │              10.244.2.2
//!                              │ 192.0.2.1 ════ .2    │
//!                              └──── u0 ═══════ u0 ───┘
//! ```

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use weft_agent::kernel::netlink::Netlink;
use weft_agent::kernel::netns::NetNs;
use weft_agent::kernel::veth::{self, VethSpec};
use weft_model::ids::Revision;
use weft_model::keys::Layout;
use weft_model::mac::Mac;
use weft_model::network::{Backend, NetworkConfig, V6Range};
use weft_model::snapshot::Snapshot;
use weft_model::stored::Entry;
use weft_plan::kernel::{self, Action, Rows};
use weft_plan::{Attachment, Desired, Host, OnLink, Uplink, ipam, links};

/// A network namespace without a name; it ends when this value does.
#[derive(Debug)]
pub struct Place {
    file: File,
}

impl Place {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare: this test needs root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let place = Self { file: made.join().unwrap() };
        place.run("ip link set lo up");
        place
    }

    /// A path to it, for this process and for those it starts.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    pub fn netns(&self) -> NetNs {
        NetNs::open(&self.path()).unwrap()
    }

    pub fn netlink(&self) -> Netlink {
        Netlink::in_namespace(Arc::new(self.netns())).unwrap()
    }

    /// Runs a shell line here.
    pub fn try_run(&self, line: &str) -> Output {
        let namespace = self.file.as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        // SAFETY: between fork and exec there is only a system call on a descriptor that the closure owns.
        unsafe {
            command.pre_exec(move || Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        command.output().unwrap()
    }

    /// Runs a shell line that must succeed; what it printed.
    pub fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{stdout}{stderr}", output.status);
        stdout.into_owned()
    }

    /// The ifindex of a device.
    pub fn index(&self, device: &str) -> u32 {
        let line = self.run(&format!("ip -o link show {device}"));
        line.split(':').next().unwrap().parse().unwrap()
    }
}

/// A host with what it knows of itself.
#[derive(Debug)]
pub struct Machine {
    pub place: Place,
    pub netlink: Netlink,
    pub host: Host,
}

impl Machine {
    /// Host `n`: uplink `u0` with 192.0.2.n, subnet 10.244.n.0/24. The uplink is there already.
    fn new(n: u8, place: Place) -> Self {
        let index = place.index("u0");
        let netns = place.netns();
        let address = Ipv4Addr::new(192, 0, 2, n);
        let host = Host {
            node: format!("h{n}").parse().unwrap(),
            config: Some(NetworkConfig::new("10.244.0.0/16".parse().unwrap(), 24, None, None, Backend::default()).unwrap()),
            subnet: Some(format!("10.244.{n}.0/24").parse().unwrap()),
            subnet6: None,
            vtep_mac: vtep_mac(n),
            vtep_mac6: vtep_mac6(n),
            uplink: Some(Uplink {
                name: "u0".into(),
                index,
                address: Some(address),
                address6: None,
                public_ip: Some(address),
                public_ipv6: None,
                mtu: 1500,
                ethernet: true,
                on_link: OnLink::default(),
            }),
            attachments: Vec::new(),
            netns_cookie: netns.cookie(),
            networks: Vec::new(),
        };
        Self { netlink: place.netlink(), place, host }
    }

    /// What this host should have.
    pub fn desired(&self, snapshot: &Snapshot) -> Desired {
        weft_plan::desired(snapshot, &self.host)
    }

    /// The actions that are to be done now.
    pub async fn plan(&self, wanted: &Rows) -> Vec<Action> {
        kernel::diff(wanted, &self.netlink.observe(&wanted.sysctls).await.unwrap())
    }

    /// Does them.
    pub async fn follow(&self, wanted: &Rows) {
        for action in self.plan(wanted).await {
            if let Err(e) = self.netlink.apply(&action).await {
                panic!("{}", chain(&e));
            }
        }
    }

    /// Attaches a container with the subnet's next address, as an agent does: listed, made, planned.
    pub async fn attach(&mut self, snapshot: &Snapshot) -> (Place, Ipv4Addr) {
        let place = Place::new();
        let netns = place.netns();
        let subnet = self.host.subnet.unwrap();
        let address = ipam::container_addresses(subnet).nth(self.host.attachments.len()).unwrap();
        let id = format!("c{}", self.host.attachments.len());
        let spec = VethSpec {
            host_ifname: links::veth_name(&id, "eth0"),
            ifname: "eth0".into(),
            address,
            mac: Mac::of_container(address),
            gateway: ipam::gateway(subnet),
            address6: None,
            routes: vec![ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()],
            mtu: self.host.container_mtu(),
            further: false,
        };
        veth::create_from(&self.netlink, &spec, &netns).await.unwrap();
        self.host.attachments.push(Attachment {
            id,
            address,
            address6: None,
            mac: spec.mac,
            host_index: Some(self.place.index(&spec.host_ifname)),
            host_ifname: spec.host_ifname,
            netns_cookie: netns.cookie(),
            network: 1,
            publish: Vec::new(),
        });
        self.follow(&self.desired(snapshot).kernel).await;
        (place, address)
    }
}

impl Machine {
    /// Gives the host an IPv6 subnet, and the uplink an IPv6 address instead of or beside the other.
    pub fn dual(&mut self, v4_outside: bool, v6_outside: bool) {
        let n = self.number();
        let config = self.host.config.as_mut().unwrap();
        config.v6 = Some(V6Range::new("fd00:10:244::/48".parse().unwrap(), 64, None, None).unwrap());
        self.host.subnet6 = Some(format!("fd00:10:244:{n}::/64").parse().unwrap());
        let uplink = self.host.uplink.as_mut().unwrap();
        if v6_outside {
            self.place.run(&format!("ip addr add 2001:db8::{n}/64 dev u0 nodad"));
            uplink.address6 = Some(format!("2001:db8::{n}").parse().unwrap());
            uplink.public_ipv6 = uplink.address6;
        }
        if !v4_outside {
            (uplink.address, uplink.public_ip) = (None, None);
            self.place.run("ip -4 addr flush dev u0");
        }
    }

    fn number(&self) -> u8 {
        self.host.subnet.unwrap().addr().octets()[2]
    }

    /// Attaches a container with an address of each family.
    pub async fn attach_dual(&mut self, snapshot: &Snapshot) -> (Place, Ipv4Addr, Ipv6Addr) {
        let (place, address) = self.attach(snapshot).await;
        let (subnet, subnet6) = (self.host.subnet.unwrap(), self.host.subnet6.unwrap());
        let address6 = ipam::address6(address, subnet, subnet6).unwrap();
        let attachment = self.host.attachments.last_mut().unwrap();
        attachment.address6 = Some(address6);
        let mac = links::veth_mac(&attachment.host_ifname);
        place.run(&format!(
            "ip addr add {address6}/128 dev eth0 nodad && ip -6 route add default via fe80::1 dev eth0 \
             && ip neigh add fe80::1 lladdr {mac} dev eth0 nud permanent"
        ));
        self.follow(&self.desired(snapshot).kernel).await;
        (place, address, address6)
    }
}

/// The lease of host `n` with an IPv6 subnet; `weft` is whether it is one of ours.
pub fn dual_lease(n: u8, v4_outside: bool, v6_outside: bool, weft: bool) -> (String, String) {
    let (mac, mac6) = (vtep_mac(n), vtep_mac6(n));
    let mut members = Vec::new();
    if v4_outside {
        members.push(format!(r#""PublicIP":"192.0.2.{n}","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#));
    }
    if v6_outside {
        members.push(format!(r#""PublicIPv6":"2001:db8::{n}","BackendV6Data":{{"VNI":1,"VtepMAC":"{mac6}"}}"#));
    }
    if weft {
        members.push(format!(r#""weft":{{"node":"h{n}","udp6zero":true}}"#));
    }
    (format!("10.244.{n}.0-24&fd00:10:244:{n}::-64"), format!(r#"{{"BackendType":"vxlan",{}}}"#, members.join(",")))
}

/// The address of the same host's VTEP over IPv6.
pub fn vtep_mac6(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 6, n])
}

/// The VTEP's address of host `n`.
pub fn vtep_mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

/// Two hosts joined by a wire, and what both know of the cluster.
pub fn two_hosts() -> (Machine, Machine, Snapshot) {
    let (one, two) = (Place::new(), Place::new());
    one.run(&format!("ip link add u0 type veth peer name u0 netns {}", two.path().display()));
    for (n, place) in [(1, &one), (2, &two)] {
        place.run(&format!("ip addr add 192.0.2.{n}/24 dev u0 && ip link set u0 up"));
    }
    let cluster = snapshot(&[lease(1, 1450), lease(2, 1450)]);
    (Machine::new(1, one), Machine::new(2, two), cluster)
}

/// One host with an uplink that leads nowhere.
pub fn one_host() -> (Machine, Snapshot) {
    let place = Place::new();
    place.run(
        "ip link add u0 type veth peer name u1 && ip link set u1 up && ip link set u0 up && ip addr add 192.0.2.1/24 dev u0",
    );
    (Machine::new(1, place), snapshot(&[lease(1, 1450), lease(2, 1450)]))
}

/// The lease of host `n`.
pub fn lease(n: u8, mtu: u32) -> (String, String) {
    let mac = vtep_mac(n);
    let value = format!(
        r#"{{"PublicIP":"192.0.2.{n}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}},"weft":{{"node":"h{n}","mtu":{mtu}}}}}"#
    );
    (format!("10.244.{n}.0-24"), value)
}

/// The cluster with these leases.
pub fn snapshot(leases: &[(String, String)]) -> Snapshot {
    let entry = |(key, value): &(String, String)| Entry {
        key: format!("/coreos.com/network/subnets/{key}").into(),
        value: value.clone().into(),
        lease: None,
        created: Revision(2),
        modified: Revision(2),
    };
    Snapshot::complete(Arc::new(Layout::default()), Revision(9), leases.iter().map(entry).collect(), None)
}

/// An error with all its causes, as an agent prints it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
