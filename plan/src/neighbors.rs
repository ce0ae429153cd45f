//! Permanent neighbours and VXLAN forwarding entries: nothing depends on flooding or on ARP.
//!
//! ```text
//!   10.244.2.9 ─route─▶ via 10.244.2.0 ─neighbour─▶ VtepMAC ─forwarding entry─▶ PublicIP
//! ```

use std::fmt;
use std::net::Ipv4Addr;

use weft_model::mac::Mac;

use crate::diff::{Row, Table};
use crate::host::Host;
use crate::ipam;
use crate::peers::Peers;

/// A permanent neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The device.
    pub device: String,
    /// The neighbour.
    pub address: Ipv4Addr,
    /// Its Ethernet address.
    pub mac: Mac,
}

impl Row for Neighbor {
    type Key = (String, Ipv4Addr);

    fn key(&self) -> Self::Key {
        (self.device.clone(), self.address)
    }
}

impl fmt::Display for Neighbor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "neighbor {} address {} dev {}", self.address, self.mac, self.device)
    }
}

/// A forwarding entry of a VXLAN device: where frames to an Ethernet address are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The device.
    pub device: String,
    /// The Ethernet address.
    pub mac: Mac,
    /// The other host's outer address.
    pub remote: Ipv4Addr,
}

impl Row for Forward {
    type Key = (String, Mac);

    fn key(&self) -> Self::Key {
        (self.device.clone(), self.mac)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forward {} to {} dev {}", self.mac, self.remote, self.device)
    }
}

/// The neighbours that `host` should have: each peer's VXLAN device, each container that is here.
#[must_use]
pub fn desired(host: &Host, peers: &Peers) -> Table<Neighbor> {
    let here = host.attachments.iter().filter(|a| a.host_index.is_some());
    let mut rows: Table<Neighbor> =
        here.map(|a| Neighbor { device: a.host_ifname.clone(), address: a.address, mac: a.mac }).collect();
    if let Some(overlay) = host.overlay() {
        let device = overlay.device();
        rows.extend(peers.used.iter().filter(|peer| peer.outer.is_ipv4()).map(|peer| Neighbor {
            device: device.clone(),
            address: ipam::device_address(peer.subnet),
            mac: peer.mac,
        }));
    }
    rows
}

/// The forwarding entries that `host` should have: each peer's.
#[must_use]
pub fn desired_forwards(host: &Host, peers: &Peers) -> Table<Forward> {
    let Some(overlay) = host.overlay() else { return Table::default() };
    let device = overlay.device();
    let forward = |peer: &crate::Peer| match peer.outer {
        std::net::IpAddr::V4(remote) => Some(Forward { device: device.clone(), mac: peer.mac, remote }),
        std::net::IpAddr::V6(_) => None,
    };
    peers.used.iter().filter_map(forward).collect()
}
