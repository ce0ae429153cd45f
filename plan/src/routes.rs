//! Routes of the main table, all marked with our protocol number.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::cluster::ClusterConfig;

use crate::diff::{Row, Table};
use crate::host::Host;
use crate::ipam;
use crate::neighbors;
use crate::peers::{Peers, Way};

/// The routing protocol number that marks our routes and addresses (`rtm_protocol`, `IFA_PROTO`): `w`. Neither Linux
/// (`include/uapi/linux/rtnetlink.h`) nor iproute2 (`etc/iproute2/rt_protos`) gives it to anybody. A restarted agent knows its
/// routes by it, so it never changes.
pub const PROTOCOL: u8 = 119;

/// The metric of our IPv6 routes, which wins over all others: Linux takes 0 for "none given", which is 1024 there
/// (`IP6_RT_PRIO_USER`).
pub const METRIC_V6: u32 = 1;

/// The metric of the route that ends what no other route of the own subnet takes: all others win over it, such as that of a
/// bridge which somebody made from `subnet.env`.
pub const METRIC_LAST: u32 = u32::MAX;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Its metric; ours is 0, which wins over all others, [`METRIC_V6`] or [`METRIC_LAST`].
    pub metric: u32,
    /// How.
    pub via: Via,
    /// The longest packet that gets there, in bytes, where that is less than the device's MTU.
    pub mtu: Option<u32>,
}

/// How a route leads to its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through a gateway that is taken to be on the device's link (`onlink`).
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The device.
        device: String,
    },
    /// The destination is on the device's link.
    Device(String),
    /// Nowhere: the sender is told that the host is unreachable.
    Unreachable,
    /// In some way that we never set up, although it bears our number.
    Foreign,
}

impl Via {
    /// The device that the route needs.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Gateway { device, .. } | Self::Device(device) => Some(device),
            Self::Unreachable | Self::Foreign => None,
        }
    }
}

impl Row for Route {
    type Key = (IpNet, u32);

    fn key(&self) -> Self::Key {
        (self.destination, self.metric)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, metric, via, mtu } = self;
        match via {
            Via::Gateway { gateway, device } => write!(f, "route {destination} via {gateway} dev {device} onlink")?,
            Via::Device(device) => write!(f, "route {destination} dev {device}")?,
            Via::Unreachable => write!(f, "route {destination} unreachable")?,
            Via::Foreign => write!(f, "route {destination} foreign")?,
        }
        if let Some(mtu) = mtu {
            write!(f, " mtu {mtu}")?;
        }
        if *metric != 0 {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

/// The routes that `host` should have:
/// * to each peer's subnets, by its address on a VXLAN device; or by its public address on the uplink, where
///   packets travel as they are;
/// * to each container that is here;
/// * `unreachable` for the own subnets, so that an address without a container does not go to the default route;
/// * `unreachable` for each service range, so that nothing untranslated leaks.
#[must_use]
pub fn desired(cluster: &ClusterConfig, host: &Host, peers: &Peers) -> Table<Route> {
    let metric = |destination: IpNet| if matches!(destination, IpNet::V6(_)) { METRIC_V6 } else { 0 };
    let route = |destination: IpNet, via: Via| Route { destination, metric: metric(destination), via, mtu: None };
    let mut rows = Table::default();
    if let Some(overlay) = host.overlay() {
        for peer in &peers.used {
            let v4 = (IpNet::V4(peer.subnet), IpAddr::V4(ipam::device_address(peer.subnet)), peer.outer, peer.via);
            let v6 = peer
                .subnet6
                .zip(peer.outer6)
                .map(|(subnet, outer)| (IpNet::V6(subnet), IpAddr::V6(neighbors::link_local(peer.mac6)), outer, peer.via6));
            for (subnet, tunnel_end, outer, way) in [v4].into_iter().chain(v6) {
                let (gateway, device, longest) = match way {
                    Way::Overlay => (tunnel_end, overlay.device_to(outer), overlay.mtu_to(outer)),
                    Way::Direct => (outer, overlay.uplink.name.clone(), overlay.uplink.mtu),
                };
                let mtu = peer.mtu.filter(|mtu| *mtu < longest);
                rows.insert(Route { mtu, ..route(subnet, Via::Gateway { gateway, device }) });
            }
        }
    }
    for attachment in host.attachments.iter().filter(|a| a.host_index.is_some()) {
        for address in attachment.addresses() {
            rows.insert(route(address.into(), Via::Device(attachment.host_ifname.clone())));
        }
    }
    let own = host.subnet.map(IpNet::V4).into_iter().chain(host.subnet.and(host.subnet6).map(IpNet::V6));
    rows.extend(own.map(|own| Route { metric: METRIC_LAST, ..route(own, Via::Unreachable) }));
    for nowhere in &cluster.service_cidrs {
        rows.insert_new(route(*nowhere, Via::Unreachable));
    }
    rows
}
