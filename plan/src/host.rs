//! The facts about this host that a plan takes as given. The agent finds them out; nothing here does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_abi::ENCAP_OVERHEAD;
use weft_model::ids::{NetworkName, NodeName};
use weft_model::mac::Mac;
use weft_model::network::{BackendKind, NetworkConfig};
use weft_model::publish::Publish;

/// The name of the loopback device.
pub const LOOPBACK: &str = "lo";

/// The shortest MTU that IPv4 allows for (RFC 791), in bytes.
pub const MIN_MTU: u32 = 68;

/// The shortest MTU of a device that IPv6 runs on (RFC 8200 5), in bytes.
pub const MIN_MTU_V6: u32 = 1280;

/// What the tunnel's headers add over IPv6, whose own is 20 bytes longer.
pub const ENCAP_OVERHEAD_V6: u32 = ENCAP_OVERHEAD + 20;

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
    /// The own IPv6 subnet beside it, where the network has IPv6.
    pub subnet6: Option<Ipv6Net>,
    /// The Ethernet address of the own VXLAN device over IPv4, as published in the lease.
    pub vtep_mac: Mac,
    /// The same of the one over IPv6.
    pub vtep_mac6: Mac,
    /// The way to other hosts; `None`: no overlay, everything else is there.
    pub uplink: Option<Uplink>,
    /// The containers. One must be listed before its veth pair is made: a pair that nobody lists is swept away.
    pub attachments: Vec<Attachment>,
    /// The host's own network namespace, by cookie (`SO_NETNS_COOKIE`); its sockets see the services of every network.
    pub netns_cookie: u64,
    /// The networks that it is in besides the default one.
    pub networks: Vec<Membership>,
}

/// A host's part of a further network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The network.
    pub name: NetworkName,
    /// Its number in rows, as in `weft_netns`; not that of the default one.
    pub number: u32,
    /// Its configuration.
    pub config: NetworkConfig,
    /// The own subnet in it.
    pub subnet: Ipv4Net,
    /// The Ethernet address of the own VXLAN device in it over IPv4, as published in the lease.
    pub vtep_mac: Mac,
    /// The same of the one over IPv6.
    pub vtep_mac6: Mac,
}

/// The device that tunnel packets leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The device's name.
    pub name: String,
    /// Its ifindex.
    pub index: u32,
    /// Its own IPv4 address, which outer headers bear. It has an address of one family at least.
    pub address: Option<Ipv4Addr>,
    /// Its own IPv6 address; never a link-local one.
    pub address6: Option<Ipv6Addr>,
    /// What other hosts send to: `address`, unless something between translates it (`--public-ip`).
    pub public_ip: Option<Ipv4Addr>,
    /// The same for IPv6 (`--public-ipv6`).
    pub public_ipv6: Option<Ipv6Addr>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether its frames are Ethernet; the fast path writes no other.
    pub ethernet: bool,
    /// Whom it reaches without a router.
    pub on_link: OnLink,
}

/// Which addresses are on the uplink's own link, as its routes of the main table say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnLink {
    /// Ranges with a route by the uplink and without a gateway.
    pub direct: Vec<IpNet>,
    /// Ranges within them that other routes lead to: longer prefixes by a gateway or another device.
    pub elsewhere: Vec<IpNet>,
    /// Whether no rule of policy routing may send packets by other tables: then these routes are the last word.
    pub plain: bool,
}

impl OnLink {
    /// Whether packets to `address` leave by the uplink without a gateway. The longest prefix decides.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let longest = |nets: &[IpNet]| nets.iter().filter(|net| net.contains(&address)).map(IpNet::prefix_len).max();
        longest(&self.direct).is_some_and(|direct| longest(&self.elsewhere).is_none_or(|other| other < direct))
    }
}

impl OnLink {
    /// Whether packets to `address` certainly need no router, so that it can be named as the next hop and the kernel need not look
    /// up a route for each.
    #[must_use]
    pub fn is_next_hop(&self, address: IpAddr) -> bool {
        self.plain && self.holds(address)
    }
}

impl Uplink {
    /// The addresses that are this host's as others see them: its own, and those that are translated to them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.address.into_iter().chain(self.public_ip).map(IpAddr::V4);
        v4.chain(self.address6.into_iter().chain(self.public_ipv6).map(IpAddr::V6))
    }
}

/// A container on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its id.
    pub id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, where the host has an IPv6 subnet.
    pub address6: Option<Ipv6Addr>,
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
    /// Ports of the host that lead to it.
    pub publish: Vec<Publish>,
}

impl Attachment {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::V4(self.address)].into_iter().chain(self.address6.map(IpAddr::V6))
    }
}

/// What the overlay needs, all of it there.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// The network.
    pub config: &'a NetworkConfig,
    /// The own subnet.
    pub subnet: Ipv4Net,
    /// The own IPv6 subnet, if there is one.
    pub subnet6: Option<Ipv6Net>,
    /// The way out.
    pub uplink: &'a Uplink,
}

impl Host {
    /// The same host as if that network were the only one it is in. Containers are not repeated: their rows do not depend on
    /// the network's configuration.
    #[must_use]
    pub fn in_network(&self, of: &Membership) -> Self {
        Self {
            config: Some(of.config.clone()),
            subnet: Some(of.subnet),
            subnet6: None,
            vtep_mac: of.vtep_mac,
            vtep_mac6: of.vtep_mac6,
            attachments: Vec::new(),
            networks: Vec::new(),
            ..self.clone()
        }
    }

    /// The overlay, if there can be one: with a configuration, a subnet and an uplink.
    #[must_use]
    pub fn overlay(&self) -> Option<Overlay<'_>> {
        let (config, subnet, uplink) = (self.config.as_ref()?, self.subnet?, self.uplink.as_ref()?);
        Some(Overlay { config, subnet, subnet6: self.subnet6, uplink })
    }

    /// The MTU for containers' interfaces, in bytes: the overlay's, or what it would be over Ethernet.
    #[must_use]
    pub fn container_mtu(&self) -> u32 {
        let usual = || match &self.config {
            Some(config) if config.backend.kind == BackendKind::HostGw => USUAL_MTU,
            _ => USUAL_MTU - ENCAP_OVERHEAD,
        };
        self.overlay().map_or_else(usual, |overlay| overlay.mtu())
    }
}

impl Overlay<'_> {
    /// Whether packets are tunnelled; else they travel as they are (`host-gw`), and there is no VXLAN device.
    #[must_use]
    pub fn tunnels(&self) -> bool {
        self.config.backend.kind == BackendKind::Vxlan
    }

    /// The name of the VXLAN device over IPv4.
    #[must_use]
    pub fn device(&self) -> String {
        crate::links::vxlan_name(self.config.backend.vni)
    }

    /// The name of the VXLAN device over IPv6.
    #[must_use]
    pub fn device6(&self) -> String {
        crate::links::vxlan6_name(self.config.backend.vni)
    }

    /// The VXLAN device that reaches an outer address.
    #[must_use]
    pub fn device_to(&self, outer: IpAddr) -> String {
        if outer.is_ipv6() { self.device6() } else { self.device() }
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

    /// The longest packet of a container, in bytes: what is left beside the headers of the usual way out, which is IPv4 where
    /// the host has it. Packets to peers that are reached over IPv6 may be no longer than [`Self::mtu_to`] says.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        if !self.tunnels() {
            return self.outer_mtu().max(MIN_MTU);
        }
        let overhead = if self.uplink.address.is_some() { ENCAP_OVERHEAD } else { ENCAP_OVERHEAD_V6 };
        self.outer_mtu().saturating_sub(overhead).max(MIN_MTU)
    }

    /// The longest inner packet that a VXLAN device takes to an outer address of this family, in bytes.
    #[must_use]
    pub fn mtu_to(&self, outer: IpAddr) -> u32 {
        let overhead = if outer.is_ipv6() { ENCAP_OVERHEAD_V6 } else { ENCAP_OVERHEAD };
        self.outer_mtu().saturating_sub(overhead).max(MIN_MTU)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_says_what_is_on_the_link() {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        let on_link = OnLink {
            direct: nets(&["192.0.2.0/24", "192.0.2.200/32", "2001:db8::/64"]),
            elsewhere: nets(&["192.0.2.128/25", "2001:db8::8/125"]),
            plain: false,
        };
        let holds = |text: &str| on_link.holds(text.parse().unwrap());
        for (address, is) in [
            ("192.0.2.5", true),
            ("192.0.2.129", false),
            ("192.0.2.200", true),
            ("198.51.100.1", false),
            ("2001:db8::1", true),
            ("2001:db8::9", false),
        ] {
            assert_eq!(holds(address), is, "{address}");
        }
        assert!(!OnLink::default().holds("192.0.2.5".parse().unwrap()));
        let address = "192.0.2.5".parse().unwrap();
        assert!(!on_link.is_next_hop(address), "a rule might send it elsewhere");
        assert!(OnLink { plain: true, ..on_link }.is_next_hop(address));
    }
}
