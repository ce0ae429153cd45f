//! IPv4 addresses of our own: the subnet's first on the VXLAN device, as flannel has it, and the gateway on `lo`.
//!
//! The gateway is on `lo` so that it is there with or without an uplink, and one address serves all containers.

use std::fmt;

use ipnet::Ipv4Net;

use crate::diff::{Row, Table};
use crate::host::{Host, LOOPBACK};
use crate::ipam;

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The device.
    pub device: String,
    /// The address, with its prefix length; ours are all /32, so that no route comes with them.
    pub address: Ipv4Net,
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
pub fn desired(host: &Host) -> Table<Address> {
    let gateway = host.subnet.map(|subnet| Address { device: LOOPBACK.to_owned(), address: ipam::gateway(subnet).into() });
    let device =
        host.overlay().map(|overlay| Address { device: overlay.device(), address: ipam::device_address(overlay.subnet).into() });
    gateway.into_iter().chain(device).collect()
}
