//! Permanent neighbours and VXLAN forwarding entries: nothing depends on flooding or on ARP.
//!
//! IPv6 inside takes the same steps, over IPv4 by the same forwarding entry. Its gateway is the link-local address that the
//! peer's Ethernet address stands for, not an address of the peer's subnet as flannel has it: Linux refuses the latter while
//! any other route leads to it, be it one of a whole site (`ip6_route_check_nh_onlink`: "Nexthop has invalid gateway or device
//! mismatch"; seen on 6.18), and no route to a link-local one is looked for.
//!
//! ```text
//!   10.244.2.9 ─route─▶ via 10.244.2.0 ─neighbour─▶ VtepMAC ─forwarding entry─▶ PublicIP
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use weft_model::mac::Mac;

use crate::diff::{Row, Table};
use crate::host::Host;
use crate::ipam;
use crate::peers::{Peers, Way};

/// A permanent neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The device.
    pub device: String,
    /// The neighbour.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

impl Row for Neighbor {
    type Key = (String, IpAddr);

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
    pub remote: IpAddr,
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
    let mut rows = Table::default();
    for here in host.attachments.iter().filter(|a| a.host_index.is_some()) {
        rows.extend(here.addresses().map(|address| Neighbor { device: here.host_ifname.clone(), address, mac: here.mac }));
    }
    if let Some(overlay) = host.overlay() {
        for peer in &peers.used {
            if peer.via == Way::Overlay {
                let address = ipam::device_address(peer.subnet).into();
                rows.insert(Neighbor { device: overlay.device_to(peer.outer), address, mac: peer.mac });
            }
            if let (Some(outer), Way::Overlay) = (peer.outer6, peer.via6) {
                let address = link_local(peer.mac6).into();
                rows.insert(Neighbor { device: overlay.device_to(outer), address, mac: peer.mac6 });
            }
        }
    }
    rows
}

/// The link-local address that an Ethernet address stands for (RFC 4291 appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The forwarding entries that `host` should have: each peer's, on the device of each family that it is reached over.
#[must_use]
pub fn desired_forwards(host: &Host, peers: &Peers) -> Table<Forward> {
    let Some(overlay) = host.overlay() else { return Table::default() };
    let forward = |remote: IpAddr, mac: Mac| Forward { device: overlay.device_to(remote), mac, remote };
    let mut rows = Table::default();
    for peer in &peers.used {
        if peer.via == Way::Overlay {
            rows.insert(forward(peer.outer, peer.mac));
        }
        if let (Some(outer), Way::Overlay) = (peer.outer6, peer.via6) {
            rows.insert(forward(outer, peer.mac6));
        }
    }
    rows
}
