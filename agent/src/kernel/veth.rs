//! A container's way out: a veth pair, one end in its network namespace, ready when [`create`] returns.
//!
//! ```text
//!   container                                   host
//!   eth0  10.244.3.5/32   ◀── veth pair ──▶   weft0123456789     addr_gen_mode none
//!         route 10.244.3.1 dev eth0             route and neighbour 10.244.3.5: weft-plan's
//!         default via 10.244.3.1 onlink         10.244.3.1/32 is on lo
//!         neighbour 10.244.3.1 = MAC of the host end, permanent: no ARP, whatever arp_ignore says
//!         fd00:10:244:3::5/128, nodad             fe80::1/64, and route and neighbour fd00:10:244:3::5: weft-plan's
//!         default via fe80::1 dev eth0
//!         neighbour fe80::1 = the same MAC, permanent: no neighbour discovery either
//! ```
//!
//! The end inside is made in its namespace and under its name, so no other namespace ever sees it. What the host has beside
//! (route, neighbour, forwarding) is planned, not made here. Read `veth/inside.rs` for what the container's own end gets.

mod beside;
mod handed;
mod inside;
mod look;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkUnspec, LinkVeth};
use weft_model::mac::Mac;
use weft_plan::links::veth_mac;

use super::netlink::{
    Answer, FINISHED, Netlink, NetlinkError, Socket, device_by_name, no_autoconf, open_in, set_link, unless_without_ipv6,
};
use super::netns::NetNs;
use super::sysctl::SysctlError;
pub use beside::forget as forget_rules;
pub use handed::{find_handed, make_handed, settle};
pub use inside::Mtu;
pub use look::{look, look_from};

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethSpec {
    /// Name of the host end, as [`weft_plan::links::veth_name`] makes them.
    pub host_ifname: String,
    /// Name of the container's end.
    pub ifname: String,
    /// The container's address; it gets it as a /32.
    pub address: Ipv4Addr,
    /// The container's IPv6 address, if it is to have one, as a /128; not while the MTU is too small for IPv6.
    pub address6: Option<Ipv6Addr>,
    /// The container's Ethernet address.
    pub mac: Mac,
    /// The gateway, which the host has on `lo`.
    pub gateway: Ipv4Addr,
    /// Where the gateways lead to: everywhere (0.0.0.0/0 and ::/0), or some networks only.
    pub routes: Vec<IpNet>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// Whether the namespace had an interface of ours before: then what bears this one's address leaves by this one.
    pub further: bool,
}

/// Why there is no veth pair.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    /// The container has an interface of this name.
    #[error("there is an interface {ifname} in {} already; choose another --ifname", netns.display())]
    Taken {
        /// The name.
        ifname: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// The container has a default route of its own.
    #[error(
        "there is a default route in {} already; attach with --no-default-route, so that only the network and its virtual IPs \
         are reached by {ifname}, or remove that route",
        netns.display()
    )]
    DefaultRoute {
        /// The interface that was to get one.
        ifname: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// The host has a device of this name.
    #[error("there is a device {host_ifname} on this host already")]
    HostTaken {
        /// The name.
        host_ifname: String,
    },
    /// A step failed; what was made before it is gone again.
    #[error("{what}")]
    Step {
        /// The step, with its subject.
        what: String,
        /// What the kernel said.
        #[source]
        source: Answer,
    },
    /// The container's namespace cannot be entered.
    #[error("enter network namespace {}", netns.display())]
    Enter {
        /// The namespace.
        netns: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A setting of the container's namespace is not as it must be.
    #[error("turn IPv6 on in {}", netns.display())]
    Setting {
        /// The namespace.
        netns: PathBuf,
        /// Which setting, and what the kernel said.
        #[source]
        source: SysctlError,
    },
    /// No way to ask the kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Makes a veth pair between this host and `netns`. If a step fails, nothing is left.
///
/// # Errors
/// A name is taken on either side, or a step failed.
pub async fn create(spec: &VethSpec, netns: &NetNs) -> Result<(), VethError> {
    create_from(&Netlink::new()?, spec, netns).await
}

/// As [`create`], with the host end where `host` is.
///
/// # Errors
/// As [`create`].
pub async fn create_from(host: &Netlink, spec: &VethSpec, netns: &NetNs) -> Result<(), VethError> {
    let inside = open_in(netns)?;
    // Kept open until the end, so that its number means the same namespace when the kernel looks at it.
    let netns = netns.try_clone().map_err(|source| NetlinkError::Open { place: None, source })?;
    let spec = spec.clone();
    host.with("make a veth pair", move |host| Ok(Making { spec, netns, inside }.make(host))).await?
}

/// Gives both ends of the pair `spec` the MTU `to`; see [`Mtu`].
///
/// # Errors
/// When an end is not there or the kernel refuses. Asking again goes on where it stopped.
pub async fn follow_mtu(spec: &VethSpec, to: u32, netns: &NetNs) -> Result<Mtu, VethError> {
    follow_mtu_from(&Netlink::new()?, spec, to, netns).await
}

/// As [`follow_mtu`], with the host end where `host` is.
///
/// # Errors
/// As [`follow_mtu`].
pub async fn follow_mtu_from(host: &Netlink, spec: &VethSpec, to: u32, netns: &NetNs) -> Result<Mtu, VethError> {
    let mut inside = open_in(netns)?;
    let netns = netns.try_clone().map_err(|source| NetlinkError::Open { place: None, source })?;
    let spec = spec.clone();
    let follow = move |host: &mut Socket| Ok(inside::follow_mtu(&spec, to, &mut inside, host, &netns));
    host.with("change an MTU", follow).await?
}

/// Removes a veth pair by the name of its host end; one that is not there is removed. Returns when nobody finds it any more.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove(host_ifname: &str) -> Result<(), NetlinkError> {
    Netlink::new()?.remove_device_soon(host_ifname).await
}

/// Gives a host end that was renamed its name back; its Ethernet address, which was made from the name, tells which it is.
/// Whether there was one.
///
/// # Errors
/// When the kernel refuses.
pub async fn restore_name(host_ifname: &str) -> Result<bool, NetlinkError> {
    Netlink::new()?.restore_veth_name(veth_mac(host_ifname), host_ifname).await
}

/// A pair in the making.
struct Making {
    spec: VethSpec,
    netns: NetNs,
    inside: Socket,
}

impl Making {
    fn make(mut self, host: &mut Socket) -> Result<(), VethError> {
        self.pair(host)?;
        let made = self.furnish(host).and_then(|()| self.finish(host));
        if made.is_err() {
            // Takes the other end with it. The first failure is the one to tell.
            let _ = super::netlink::remove_device(host, &self.spec.host_ifname);
        }
        made
    }

    fn pair(&self, host: &mut Socket) -> Result<(), VethError> {
        let Self { spec, .. } = self;
        let peer = LinkUnspec::new_with_name(&spec.ifname)
            .address(spec.mac.0.to_vec())
            .mtu(spec.mtu)
            .setns_by_fd(self.netns.as_fd().as_raw_fd())
            .build();
        let message = LinkVeth::new(&spec.host_ifname, &spec.ifname)
            .address(veth_mac(&spec.host_ifname).0.to_vec())
            .mtu(spec.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        match host.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
            Err(answer) if answer.code() == libc::EEXIST => Err(if device_by_name(host, &spec.host_ifname).is_ok() {
                VethError::HostTaken { host_ifname: spec.host_ifname.clone() }
            } else {
                VethError::Taken { ifname: spec.ifname.clone(), netns: self.netns.path().to_owned() }
            }),
            done => done.map_err(self.step(format!("make veth {} and {}", spec.host_ifname, spec.ifname))),
        }
    }

    fn furnish(&mut self, host: &mut Socket) -> Result<(), VethError> {
        let host_mac = set_up(&self.spec.host_ifname, host)?;
        inside::furnish(&self.spec, host_mac, &mut self.inside, &self.netns)
    }

    fn finish(&self, host: &mut Socket) -> Result<(), VethError> {
        finish(&self.spec.host_ifname, host)
    }

    fn step(&self, what: String) -> impl FnOnce(Answer) -> VethError + use<> {
        step(what)
    }
}

fn step(what: String) -> impl FnOnce(Answer) -> VethError {
    |source| VethError::Step { what, source }
}

/// Sets a host end up. Returns its Ethernet address.
fn set_up(host_ifname: &str, host: &mut Socket) -> Result<Mac, VethError> {
    let near = device_by_name(host, host_ifname).map_err(step(format!("find {host_ifname}")))?;
    set_link(host, near.index, vec![no_autoconf()], None)
        .or_else(unless_without_ipv6)
        .map_err(step(format!("turn IPv6 autoconfiguration off on {host_ifname}")))?;
    set_link(host, near.index, Vec::new(), Some(true)).map_err(step(format!("set {host_ifname} up")))?;
    Ok(near.mac.unwrap_or_else(|| veth_mac(host_ifname)))
}

/// Marks a pair as whole, last of all: who is killed before leaves one that the next agent makes anew.
fn finish(host_ifname: &str, host: &mut Socket) -> Result<(), VethError> {
    let near = device_by_name(host, host_ifname).map_err(step(format!("find {host_ifname}")))?;
    let marked = set_link(host, near.index, vec![LinkAttribute::IfAlias(FINISHED.to_owned())], None);
    marked.map_err(step(format!("set alias of {host_ifname}")))
}
