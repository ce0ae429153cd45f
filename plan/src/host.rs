//! The facts about this host that a plan takes as given. The agent finds them out; nothing here does.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weft_abi::ENCAP_OVERHEAD;
use weft_model::ids::NodeName;
use weft_model::mac::Mac;
use weft_model::network::NetworkConfig;

/// The name of the loopback device.
pub const LOOPBACK: &str = "lo";

/// The shortest MTU that IPv4 allows for (RFC 791), in bytes.
pub const MIN_MTU: u32 = 68;

/// The MTU of an uplink nobody has seen yet, in bytes: Ethernet's.
const USUAL_MTU: u32 = 1500;

/// This host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name: leases that bear it are its own and never peers.
    pub node: NodeName,
    /// The configuration that the subnet was claimed under. `None` means that there is no network, and what stands of one is
    /// taken down; an agent that merely does not know it (not read yet, does not parse) does not plan.
    pub config: Option<NetworkConfig>,
    /// The own subnet, once claimed.
    pub subnet: Option<Ipv4Net>,
    /// The Ethernet address of the own VXLAN device, as published in the lease.
    pub vtep_mac: Mac,
    /// The way to other hosts; `None`: no overlay, everything else is there.
    pub uplink: Option<Uplink>,
    /// The containers. One must be listed before its veth pair is made: a pair that nobody lists is swept away.
    pub attachments: Vec<Attachment>,
    /// The host's own network namespace, by cookie (`SO_NETNS_COOKIE`); its sockets see the services of every network.
    pub netns_cookie: u64,
}

/// The device that tunnel packets leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The device's name.
    pub name: String,
    /// Its ifindex.
    pub index: u32,
    /// Its own address, which outer headers bear.
    pub address: Ipv4Addr,
    /// What other hosts send to: `address`, unless something between translates it (`--public-ip`).
    pub public_ip: Ipv4Addr,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether its frames are Ethernet; the fast path writes no other.
    pub ethernet: bool,
}

/// A container on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its id.
    pub id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its interface's Ethernet address.
    pub mac: Mac,
    /// The host end of its veth pair, by name.
    pub host_ifname: String,
    /// The same by ifindex; `None`: the pair does not exist (not yet, or no more).
    pub host_index: Option<u32>,
    /// Its network namespace, by cookie.
    pub netns_cookie: u64,
    /// The number of its network, as in `weft_netns`.
    pub network: u32,
}

/// What the overlay needs, all of it there.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// The network.
    pub config: &'a NetworkConfig,
    /// The own subnet.
    pub subnet: Ipv4Net,
    /// The way out.
    pub uplink: &'a Uplink,
}

impl Host {
    /// The overlay, if there can be one: with a configuration, a subnet and an uplink.
    #[must_use]
    pub fn overlay(&self) -> Option<Overlay<'_>> {
        Some(Overlay { config: self.config.as_ref()?, subnet: self.subnet?, uplink: self.uplink.as_ref()? })
    }

    /// The MTU for containers' interfaces, in bytes: the overlay's, or what it would be over Ethernet.
    #[must_use]
    pub fn container_mtu(&self) -> u32 {
        self.overlay().map_or(USUAL_MTU - ENCAP_OVERHEAD, |overlay| overlay.mtu())
    }
}

impl Overlay<'_> {
    /// The VXLAN device's name.
    #[must_use]
    pub fn device(&self) -> String {
        crate::links::vxlan_name(self.config.backend.vni)
    }

    /// The longest outer packet, in bytes: flannel's `MTU` option instead of the uplink's MTU, if it is less. (Linux 6.18
    /// refuses a VXLAN device longer packets than its lower device carries.)
    #[must_use]
    pub fn outer_mtu(&self) -> u32 {
        match self.config.backend.mtu {
            0 => self.uplink.mtu,
            configured => configured.min(self.uplink.mtu),
        }
    }

    /// The longest inner packet, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.outer_mtu().saturating_sub(ENCAP_OVERHEAD).max(MIN_MTU)
    }
}
