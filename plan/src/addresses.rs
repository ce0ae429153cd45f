//! Addresses of our own: the subnets' first on each VXLAN device, as flannel has it; the gateway on `lo`; and on each
//! container's device the link-local address that is its IPv6 gateway.
//!
//! The gateway is on `lo` so that it is there with or without an uplink, and one address serves all containers. In IPv6 the
//! gateway is `fe80::1` on every device, and the subnet's `::1` on `lo` is for names. What leaves by a VXLAN device bears an
//! address of that device, so each has the same: another one would be none of this host's subnet.

use std::fmt;

use ipnet::{IpNet, Ipv6Net};

use crate::diff::{Row, Table};
use crate::host::{Host, LOOPBACK};
use crate::ipam;
use crate::links;
use crate::peers::Peers;

/// The link-local address that containers have as their IPv6 gateway, with the prefix of all of its kind (RFC 4291 2.5.6).
pub const LINK_GATEWAY: Ipv6Net = Ipv6Net::new_assert(ipam::LINK_GATEWAY, 64);

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The device.
    pub device: String,
    /// The address, with its prefix length; ours are all /32 and /128, so that no route comes with them, but link-local ones.
    pub address: IpNet,
}

impl Row for Address {
    type Key = Self;

    fn key(&self) -> Self {
        self.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {} dev {}", self.address, self.device)
    }
}

/// The addresses that `host` should have.
#[must_use]
pub fn desired(host: &Host, peers: &Peers) -> Table<Address> {
    let mut rows = Table::default();
    let mut add = |device: &str, address: IpNet| rows.insert(Address { device: device.to_owned(), address });
    let v6 = host.subnet.and(host.subnet6);
    if let Some(subnet) = host.subnet {
        add(LOOPBACK, IpNet::V4(ipam::gateway(subnet).into()));
    }
    if let Some(subnet) = v6 {
        add(LOOPBACK, IpNet::V6(ipam::gateway6(subnet).into()));
        for attachment in host.attachments.iter().filter(|a| a.host_index.is_some() && a.address6.is_some()) {
            add(&attachment.host_ifname, LINK_GATEWAY.into());
        }
    }
    if let Some(overlay) = host.overlay() {
        for (device, _) in links::tunnels(host, &overlay, peers) {
            add(&device, IpNet::V4(ipam::device_address(overlay.subnet).into()));
            if let Some(subnet) = v6 {
                add(&device, IpNet::V6(ipam::device_address6(subnet).into()));
            }
        }
    }
    rows
}
