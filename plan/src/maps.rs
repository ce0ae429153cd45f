//! Rows of the fast path's maps that follow from leases and attachments. Frontends and backends follow from services and are
//! not planned here.
//!
//! Order of actions: first the rows that let packets through (`weft_vteps`, `weft_peers`, `weft_endpoints`, `weft_netns`),
//! then `weft_config`, which makes the programs ask for them, then removals. A peer's packet that arrives before its row
//! would be dropped as from nobody.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use weft_abi::Be32;
use weft_abi::maps::{Cidr4, Config, Endpoint, NETWORK_ALL, Peer, SERVICE_CIDRS, Vtep, name};
use weft_model::cluster::ClusterConfig;
use weft_model::mac::Mac;

use crate::host::Host;
use crate::peers::Peers;

/// The rows of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// `weft_config`; an array's row is always there, so none is one of zeros.
    pub config: Config,
    /// `weft_peers`.
    pub peers: BTreeMap<Be32, Peer>,
    /// `weft_vteps`.
    pub vteps: BTreeMap<Be32, Vtep>,
    /// `weft_endpoints`.
    pub endpoints: BTreeMap<Be32, Endpoint>,
    /// `weft_netns`.
    pub netns: BTreeMap<u64, u32>,
}

/// One change of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the one row of `weft_config`.
    PutConfig(Config),
    /// Write a row of `weft_peers`.
    PutPeer(Be32, Peer),
    /// Delete a row of `weft_peers`.
    DeletePeer(Be32),
    /// Write a row of `weft_vteps`.
    PutVtep(Be32, Vtep),
    /// Delete a row of `weft_vteps`.
    DeleteVtep(Be32),
    /// Write a row of `weft_endpoints`.
    PutEndpoint(Be32, Endpoint),
    /// Delete a row of `weft_endpoints`.
    DeleteEndpoint(Be32),
    /// Write a row of `weft_netns`: cookie, network.
    PutNetns(u64, u32),
    /// Delete a row of `weft_netns`.
    DeleteNetns(u64),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutConfig(config) => write!(f, "put {} {}", name::CONFIG, Spelled(config)),
            Self::PutPeer(subnet, Peer { vtep, mac, mtu, .. }) => {
                write!(f, "put {} {subnet} vtep {vtep} address {} mtu {mtu}", name::PEERS, Mac(*mac))
            }
            Self::DeletePeer(subnet) => write!(f, "delete {} {subnet}", name::PEERS),
            Self::PutVtep(address, _) => write!(f, "put {} {address}", name::VTEPS),
            Self::DeleteVtep(address) => write!(f, "delete {} {address}", name::VTEPS),
            Self::PutEndpoint(address, Endpoint { ifindex, mac, .. }) => {
                write!(f, "put {} {address} ifindex {ifindex} address {}", name::ENDPOINTS, Mac(*mac))
            }
            Self::DeleteEndpoint(address) => write!(f, "delete {} {address}", name::ENDPOINTS),
            Self::PutNetns(cookie, network) => write!(f, "put {} {cookie} network {network}", name::NETNS),
            Self::DeleteNetns(cookie) => write!(f, "delete {} {cookie}", name::NETNS),
        }
    }
}

/// A configuration row, spelled out.
struct Spelled<'a>(&'a Config);

impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.0;
        let length = |mask: Be32| mask.to_native().leading_ones();
        write!(f, "network {}/{} subnet {}/{}", c.network, length(c.network_mask), c.subnet, length(c.subnet_mask))?;
        write!(f, " vni {} port {} vtep {} address {}", c.vni, c.port, c.vtep, Mac(c.vtep_mac))?;
        write!(f, " uplink {} mtu {} services", c.uplink, c.uplink_mtu)?;
        let count = usize::try_from(c.service_cidr_count).unwrap_or(SERVICE_CIDRS);
        c.service_cidrs.iter().take(count).try_for_each(|cidr| write!(f, " {}/{}", cidr.network, length(cidr.mask)))
    }
}

/// The rows that `host` should have.
#[must_use]
pub fn desired(cluster: &ClusterConfig, host: &Host, peers: &Peers) -> Rows {
    let mut rows = Rows { config: config(cluster, host), ..Rows::default() };
    if let Some(overlay) = host.overlay() {
        for peer in &peers.used {
            let vtep = peer.public_ip.into();
            rows.vteps.insert(vtep, Vtep::default());
            if peer.fast {
                let mtu = peer.mtu.map_or(overlay.mtu(), |mtu| mtu.min(overlay.mtu()));
                rows.peers.insert(peer.subnet.network().into(), Peer { vtep, mac: peer.mac.0, pad: 0, mtu });
            }
        }
    }
    for attachment in &host.attachments {
        if let Some(ifindex) = attachment.host_index {
            let endpoint = Endpoint { ifindex, mac: attachment.mac.0, flags: 0 };
            rows.endpoints.insert(attachment.address.into(), endpoint);
        }
        rows.netns.insert(attachment.netns_cookie, attachment.network);
    }
    // Last: were a container in the host's own namespace, its sockets would still be the host's.
    rows.netns.insert(host.netns_cookie, NETWORK_ALL);
    rows
}

/// The row that the programs know this host by. Without an overlay, or over an uplink whose frames are not Ethernet, there
/// is no VTEP in it: nothing is pushed or popped, and the kernel path does the work.
fn config(cluster: &ClusterConfig, host: &Host) -> Config {
    let mut row = Config::default();
    for (place, range) in row.service_cidrs.iter_mut().zip(ranges(cluster)) {
        *place = range;
        row.service_cidr_count += 1;
    }
    if let Some(config) = &host.config {
        row.network = config.network.network().into();
        row.network_mask = Be32::mask_of(config.network.prefix_len());
        row.vni = config.backend.vni;
        row.port = weft_abi::Be16::from_native(config.backend.port);
        row.vtep_mac = host.vtep_mac.0;
    }
    // Without a subnet, a mask that makes no address one of the own subnet 0.0.0.0.
    row.subnet_mask = Be32::mask_of(host.subnet.map_or(32, |subnet| subnet.prefix_len()));
    if let Some(subnet) = host.subnet {
        row.subnet = subnet.network().into();
    }
    if let Some(overlay) = host.overlay().filter(|overlay| overlay.uplink.ethernet) {
        row.vtep = overlay.uplink.address.into();
        row.uplink = overlay.uplink.index;
        row.uplink_mtu = overlay.outer_mtu();
    }
    row
}

fn ranges(cluster: &ClusterConfig) -> impl Iterator<Item = Cidr4> {
    cluster.service_cidrs.iter().filter_map(|cidr| match cidr {
        IpNet::V4(cidr) => Some(Cidr4 { network: cidr.network().into(), mask: Be32::mask_of(cidr.prefix_len()) }),
        IpNet::V6(_) => None,
    })
}

/// The IPv4 service ranges that do not fit into `weft_config`.
pub(crate) fn ranges_left_out(cluster: &ClusterConfig) -> impl Iterator<Item = IpNet> {
    cluster.service_cidrs.iter().filter(|cidr| matches!(cidr, IpNet::V4(_))).skip(SERVICE_CIDRS).copied()
}

/// The actions from `actual` to `desired`, in an order that drops no packet on the way.
#[must_use]
pub fn diff(desired: &Rows, actual: &Rows) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(put(&desired.vteps, &actual.vteps).map(|(k, v)| Action::PutVtep(k, v)));
    actions.extend(put(&desired.peers, &actual.peers).map(|(k, v)| Action::PutPeer(k, v)));
    actions.extend(put(&desired.endpoints, &actual.endpoints).map(|(k, v)| Action::PutEndpoint(k, v)));
    actions.extend(put(&desired.netns, &actual.netns).map(|(k, v)| Action::PutNetns(k, v)));
    if desired.config != actual.config {
        actions.push(Action::PutConfig(desired.config));
    }
    actions.extend(delete(&desired.peers, &actual.peers).map(Action::DeletePeer));
    actions.extend(delete(&desired.vteps, &actual.vteps).map(Action::DeleteVtep));
    actions.extend(delete(&desired.endpoints, &actual.endpoints).map(Action::DeleteEndpoint));
    actions.extend(delete(&desired.netns, &actual.netns).map(Action::DeleteNetns));
    actions
}

fn put<K: Ord + Copy, V: PartialEq + Copy>(desired: &BTreeMap<K, V>, actual: &BTreeMap<K, V>) -> impl Iterator<Item = (K, V)> {
    desired.iter().filter(|(key, value)| actual.get(*key) != Some(*value)).map(|(key, value)| (*key, *value))
}

fn delete<K: Ord + Copy, V>(desired: &BTreeMap<K, V>, actual: &BTreeMap<K, V>) -> impl Iterator<Item = K> {
    actual.keys().filter(|key| !desired.contains_key(*key)).copied()
}

impl Rows {
    /// Carries out one action on these rows.
    pub fn apply(&mut self, action: &Action) {
        match *action {
            Action::PutConfig(config) => self.config = config,
            Action::PutPeer(key, value) => drop(self.peers.insert(key, value)),
            Action::DeletePeer(key) => drop(self.peers.remove(&key)),
            Action::PutVtep(key, value) => drop(self.vteps.insert(key, value)),
            Action::DeleteVtep(key) => drop(self.vteps.remove(&key)),
            Action::PutEndpoint(key, value) => drop(self.endpoints.insert(key, value)),
            Action::DeleteEndpoint(key) => drop(self.endpoints.remove(&key)),
            Action::PutNetns(key, value) => drop(self.netns.insert(key, value)),
            Action::DeleteNetns(key) => drop(self.netns.remove(&key)),
        }
    }
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
