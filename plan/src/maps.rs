//! Rows of the fast path's maps that follow from leases and attachments. Frontends and backends follow from services and are
//! not planned here.
//!
//! Order of actions: first the rows that let packets through (`weft_vteps`, `weft_peers`, `weft_endpoints`, `weft_netns`) and
//! sockets (`weft_ports`),
//! then `weft_networks`, `weft_config` and the rows of `weft_vteps` that make a VNI ours, which make the programs ask for
//! them, then removals, in the opposite order. A peer's packet that arrives before its row would be dropped as from nobody. A row
//! that both sides have is never taken away on the way.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_abi::maps::{Cidr4, Config, NETWORK_ALL, NETWORK_DEFAULT, PROTO_UDP, SERVICE_CIDRS, capacity, name};
use weft_abi::{
    Be16, Be32, Be128, Endpoint, Network, NextHop, Peer, PeerKey, PeerKey6, PortKey, PortTarget, RangeKey, Vtep, VtepKey,
};
use weft_model::cluster::ClusterConfig;
use weft_model::mac::Mac;
use weft_model::network::{BackendKind, NetworkConfig};

use crate::host::{Host, Overlay, Uplink};
use crate::peers::{Peer as HostPeer, Peers, Way};
use crate::publish;

/// The rows of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// `weft_config`; an array's row is always there, so none is one of zeros.
    pub config: Config,
    /// `weft_networks`, those that there are.
    pub networks: BTreeMap<u32, Network>,
    /// `weft_peers`.
    pub peers: BTreeMap<PeerKey, Peer>,
    /// `weft_peers6`.
    pub peers6: BTreeMap<PeerKey6, Peer>,
    /// `weft_vteps`.
    pub vteps: BTreeMap<VtepKey, Vtep>,
    /// `weft_ranges`.
    pub ranges: BTreeMap<RangeKey, u32>,
    /// `weft_endpoints`.
    pub endpoints: BTreeMap<Be32, Endpoint>,
    /// `weft_endpoints6`.
    pub endpoints6: BTreeMap<Be128, Endpoint>,
    /// `weft_netns`.
    pub netns: BTreeMap<u64, u32>,
    /// `weft_ports`.
    pub ports: BTreeMap<PortKey, PortTarget>,
}

/// One change of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the one row of `weft_config`.
    PutConfig(Config),
    /// Write a row of `weft_networks`.
    PutNetwork(u32, Network),
    /// Write zeros into a row of `weft_networks`, whose rows are always there.
    DeleteNetwork(u32),
    /// Write a row of `weft_peers`.
    PutPeer(PeerKey, Peer),
    /// Delete a row of `weft_peers`.
    DeletePeer(PeerKey),
    /// Write a row of `weft_peers6`.
    PutPeer6(PeerKey6, Peer),
    /// Delete a row of `weft_peers6`.
    DeletePeer6(PeerKey6),
    /// Write a row of `weft_vteps`.
    PutVtep(VtepKey, Vtep),
    /// Delete a row of `weft_vteps`.
    DeleteVtep(VtepKey),
    /// Write a row of `weft_ranges`: range, network.
    PutRange(RangeKey, u32),
    /// Delete a row of `weft_ranges`.
    DeleteRange(RangeKey),
    /// Write a row of `weft_endpoints`.
    PutEndpoint(Be32, Endpoint),
    /// Delete a row of `weft_endpoints`.
    DeleteEndpoint(Be32),
    /// Write a row of `weft_endpoints6`.
    PutEndpoint6(Be128, Endpoint),
    /// Delete a row of `weft_endpoints6`.
    DeleteEndpoint6(Be128),
    /// Write a row of `weft_netns`: cookie, network.
    PutNetns(u64, u32),
    /// Delete a row of `weft_netns`.
    DeleteNetns(u64),
    /// Write a row of `weft_ports`.
    PutPort(PortKey, PortTarget),
    /// Delete a row of `weft_ports`.
    DeletePort(PortKey),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutConfig(config) => write!(f, "put {} {}", name::CONFIG, Spelled(config)),
            Self::PutNetwork(network, row) => write!(f, "put {} {network} {}", name::NETWORKS, Spelled(row)),
            Self::DeleteNetwork(network) => write!(f, "delete {} {network}", name::NETWORKS),
            Self::PutPeer(PeerKey { network, subnet }, peer) => {
                write!(f, "put {} {network}/{subnet} {}", name::PEERS, Spelled(peer))
            }
            Self::DeletePeer(PeerKey { network, subnet }) => write!(f, "delete {} {network}/{subnet}", name::PEERS),
            Self::PutPeer6(PeerKey6 { network, subnet }, peer) => {
                write!(f, "put {} {network}/{subnet} {}", name::PEERS6, Spelled(peer))
            }
            Self::DeletePeer6(PeerKey6 { network, subnet }) => write!(f, "delete {} {network}/{subnet}", name::PEERS6),
            Self::PutVtep(key, vtep) => write!(f, "put {} {} network {}", name::VTEPS, Spelled(key), vtep.network),
            Self::DeleteVtep(key) => write!(f, "delete {} {}", name::VTEPS, Spelled(key)),
            Self::PutRange(range, network) => write!(f, "put {} {} network {network}", name::RANGES, Spelled(range)),
            Self::DeleteRange(range) => write!(f, "delete {} {}", name::RANGES, Spelled(range)),
            Self::PutEndpoint(address, row) => write!(f, "put {} {address} {}", name::ENDPOINTS, Spelled(row)),
            Self::DeleteEndpoint(address) => write!(f, "delete {} {address}", name::ENDPOINTS),
            Self::PutEndpoint6(address, row) => write!(f, "put {} {address} {}", name::ENDPOINTS6, Spelled(row)),
            Self::DeleteEndpoint6(address) => write!(f, "delete {} {address}", name::ENDPOINTS6),
            Self::PutNetns(cookie, network) => write!(f, "put {} {cookie} network {network}", name::NETNS),
            Self::DeleteNetns(cookie) => write!(f, "delete {} {cookie}", name::NETNS),
            Self::PutPort(key, to) => write!(f, "put {} {} to {} {}", name::PORTS, Spelled(key), to.addr, to.port),
            Self::DeletePort(key) => write!(f, "delete {} {}", name::PORTS, Spelled(key)),
        }
    }
}

/// A row or key, spelled out.
struct Spelled<'a, T>(&'a T);

impl fmt::Display for Spelled<'_, Config> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.0;
        write!(f, "vtep {} vtep6 {} ports", c.vtep, c.vtep6)?;
        c.ports.iter().filter(|port| port.to_native() != 0).try_for_each(|port| write!(f, " {port}"))?;
        write!(f, " uplink {} mtu {} services", c.uplink, c.uplink_mtu)?;
        let count = usize::try_from(c.service_cidr_count).unwrap_or(SERVICE_CIDRS);
        c.service_cidrs.iter().take(count).try_for_each(|cidr| write!(f, " {}/{}", cidr.network, length(cidr.mask)))?;
        if c.is_publishing() { f.write_str(" published") } else { Ok(()) }
    }
}

impl fmt::Display for Spelled<'_, Network> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        write!(f, "vni {} port {} range {}/{}", n.vni, n.port, n.network, length(n.network_mask))?;
        write!(f, " subnet {}/{} address {}", n.subnet, length(n.subnet_mask), Mac(n.vtep_mac))?;
        if n.network6.is_zero() {
            return Ok(());
        }
        write!(f, " range6 {}/{}", n.network6, length6(n.network_mask6))?;
        write!(f, " subnet6 {}/{} address6 {}", n.subnet6, length6(n.subnet_mask6), Mac(n.vtep_mac6))
    }
}

impl fmt::Display for Spelled<'_, Peer> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { outer, mac, mtu, next_hop, .. } = self.0;
        write!(f, "vtep {outer} address {} mtu {mtu}", Mac(*mac))?;
        match next_hop {
            &NextHop { family: 2, addr } => write!(f, " next hop {}", addr.words()[0]),
            NextHop { family: 0, .. } => Ok(()),
            NextHop { addr, .. } => write!(f, " next hop {addr}"),
        }
    }
}

impl fmt::Display for Spelled<'_, VtepKey> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VtepKey { vni, outer } = self.0;
        if outer.is_zero() { write!(f, "{vni}/any") } else { write!(f, "{vni}/{outer}") }
    }
}

impl fmt::Display for Spelled<'_, RangeKey> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RangeKey { prefix_len, addr } = self.0;
        write!(f, "{addr}/{}", if addr.is_mapped() { prefix_len.saturating_sub(96) } else { *prefix_len })
    }
}

impl fmt::Display for Spelled<'_, PortKey> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortKey { addr, port, proto, .. } = self.0;
        write!(f, "{addr} {port}/{}", if *proto == PROTO_UDP { "udp" } else { "tcp" })
    }
}

impl fmt::Display for Spelled<'_, Endpoint> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { ifindex, mac, network, .. } = self.0;
        write!(f, "ifindex {ifindex} address {} network {network}", Mac(*mac))
    }
}

fn length(mask: Be32) -> u32 {
    mask.to_native().leading_ones()
}

fn length6(mask: Be128) -> u32 {
    u128::from_be_bytes(mask.to_bytes()).leading_ones()
}

/// The rows that `host` should have.
#[must_use]
pub fn desired(cluster: &ClusterConfig, host: &Host, peers: &Peers) -> Rows {
    let mut rows = Rows { config: config(cluster, host), ..Rows::default() };
    if let Some(config) = &host.config {
        rows.networks.insert(NETWORK_DEFAULT, network(config, host));
        let range = &config.network;
        let addr = Be128::mapped(range.network().into());
        rows.ranges.insert(RangeKey { prefix_len: 96 + u32::from(range.prefix_len()), addr }, NETWORK_DEFAULT);
        if let Some(v6) = &config.v6 {
            let range = RangeKey { prefix_len: u32::from(v6.network.prefix_len()), addr: v6.network.network().into() };
            rows.ranges.insert(range, NETWORK_DEFAULT);
        }
        if config.backend.kind == BackendKind::Vxlan {
            rows.vteps.insert(VtepKey::own(config.backend.vni), Vtep { network: NETWORK_DEFAULT, flags: 0 });
        }
    }
    if let Some(overlay) = host.overlay() {
        for peer in &peers.used {
            rows.add_peer(&overlay, peer);
        }
    }
    for attachment in &host.attachments {
        if let Some(ifindex) = attachment.host_index {
            let endpoint = Endpoint { ifindex, mac: attachment.mac.0, flags: 0, network: attachment.network };
            rows.endpoints.insert(attachment.address.into(), endpoint);
            if let Some(address6) = attachment.address6 {
                rows.endpoints6.insert(address6.into(), endpoint);
            }
        }
        // Where it is not known yet it has no cookie.
        if attachment.netns_cookie != 0 {
            rows.netns.insert(attachment.netns_cookie, attachment.network);
        }
    }
    for of in host.networks.iter().filter(|of| of.number < capacity::NETWORKS) {
        rows.add(desired(cluster, &host.in_network(of), &peers.in_network(of)), of.number);
    }
    // Last: were a container in the host's own namespace, its sockets would still be the host's.
    rows.netns.insert(host.netns_cookie, NETWORK_ALL);
    // No more than there is room for, whatever the journal says: the other rows must not fail with them.
    let ports = publish::by_loopback(&publish::ports(host)).into_iter().take(capacity::PORTS as usize);
    rows.ports = ports
        .map(|((named, proto), to)| {
            let key = PortKey { addr: named.ip().into(), port: Be16::from_native(named.port()), proto: proto.number(), pad: 0 };
            (key, PortTarget { addr: to.ip().into(), port: Be16::from_native(to.port()), pad: 0 })
        })
        .collect();
    if !rows.ports.is_empty() {
        rows.config.flags |= Config::PUBLISHED;
    }
    rows
}

impl Rows {
    /// The rows of another host: where its packets may come from, and, where the fast path leads to it, how to get there. What is
    /// not tunnelled has no row, so the programs leave it to the stack.
    fn add_peer(&mut self, overlay: &Overlay<'_>, peer: &HostPeer) {
        let vni = overlay.config.backend.vni;
        // A host that is on our link need not know so, and sends to us through the tunnel.
        for outer in peer.addresses().filter(|_| overlay.tunnels()) {
            self.vteps.insert(VtepKey { vni, outer: outer.into() }, Vtep { network: NETWORK_DEFAULT, flags: 0 });
        }
        if peer.fast && peer.via == Way::Overlay {
            let key = PeerKey { network: NETWORK_DEFAULT, subnet: peer.subnet.network().into() };
            self.peers.insert(key, row_of(overlay, peer, peer.outer, peer.mac));
        }
        if let (Some(subnet), Some(outer), true, Way::Overlay) = (peer.subnet6, peer.outer6, peer.fast6, peer.via6) {
            let key = PeerKey6 { network: NETWORK_DEFAULT, subnet: subnet.network().into() };
            self.peers6.insert(key, row_of(overlay, peer, outer, peer.mac6));
        }
    }
}

/// The row of a peer that is reached at an outer address.
fn row_of(overlay: &Overlay<'_>, peer: &HostPeer, outer: IpAddr, mac: Mac) -> Peer {
    let most = overlay.mtu_to(outer);
    Peer {
        outer: outer.into(),
        mac: mac.0,
        flags: if outer.is_ipv6() { Peer::OUTER_V6 } else { 0 },
        mtu: peer.mtu.map_or(most, |mtu| mtu.min(most)),
        next_hop: next_hop(overlay.uplink, outer),
    }
}

/// The neighbour that packets to an outer address go to, if that is the address itself. A router is never named: which one
/// it is, only the kernel's own look at the routes tells for certain.
fn next_hop(uplink: &Uplink, outer: IpAddr) -> NextHop {
    match outer {
        _ if !uplink.on_link.is_next_hop(outer) => NextHop::NONE,
        IpAddr::V4(outer) => NextHop::v4(outer.into()),
        IpAddr::V6(outer) => NextHop::v6(outer.into()),
    }
}

/// The row that the programs know this host by. Without an overlay, or over an uplink whose frames are not Ethernet, there
/// is no VTEP in it: nothing is pushed or popped, and the kernel path does the work.
fn config(cluster: &ClusterConfig, host: &Host) -> Config {
    let mut row = Config::default();
    for (place, range) in row.service_cidrs.iter_mut().zip(ranges(cluster)) {
        *place = range;
        row.service_cidr_count += 1;
    }
    if let Some(config) = host.config.as_ref().filter(|config| config.backend.kind == BackendKind::Vxlan) {
        row.ports[0] = Be16::from_native(config.backend.port);
    }
    if let Some(overlay) = host.overlay().filter(|overlay| overlay.uplink.ethernet && overlay.tunnels()) {
        row.vtep = overlay.uplink.address.map_or(Be32::ZERO, Be32::from);
        row.vtep6 = overlay.uplink.address6.map_or(Be128::ZERO, Be128::from);
        row.uplink = overlay.uplink.index;
        row.uplink_mtu = overlay.outer_mtu();
    }
    row
}

/// The row of the one network there is.
fn network(config: &NetworkConfig, host: &Host) -> Network {
    // Without a subnet, a mask that makes no address one of the own subnet 0.0.0.0.
    let prefix_len = host.subnet.map_or(32, |subnet| subnet.prefix_len());
    let range6 = config.v6.as_ref().map(|v6| v6.network);
    let subnet6 = host.subnet6.filter(|_| range6.is_some());
    Network {
        vni: config.backend.vni,
        port: Be16::from_native(config.backend.port),
        flags: 0,
        vtep_mac: host.vtep_mac.0,
        vtep_mac6: host.vtep_mac6.0,
        subnet: host.subnet.map_or(Be32::ZERO, |subnet| subnet.network().into()),
        subnet_mask: Be32::mask_of(prefix_len),
        network: config.network.network().into(),
        network_mask: Be32::mask_of(config.network.prefix_len()),
        subnet6: subnet6.map_or(Be128::ZERO, |subnet| subnet.network().into()),
        subnet_mask6: Be128::mask_of(subnet6.map_or(128, |subnet| subnet.prefix_len())),
        network6: range6.map_or(Be128::ZERO, |range| range.network().into()),
        network_mask6: Be128::mask_of(range6.map_or(128, |range| range.prefix_len())),
    }
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
    let makes_ours = |key: &VtepKey| *key == VtepKey::own(key.vni);
    let vteps = || put(&desired.vteps, &actual.vteps);
    actions.extend(vteps().filter(|(k, _)| !makes_ours(k)).map(|(k, v)| Action::PutVtep(k, v)));
    actions.extend(put(&desired.peers, &actual.peers).map(|(k, v)| Action::PutPeer(k, v)));
    actions.extend(put(&desired.peers6, &actual.peers6).map(|(k, v)| Action::PutPeer6(k, v)));
    actions.extend(put(&desired.endpoints, &actual.endpoints).map(|(k, v)| Action::PutEndpoint(k, v)));
    actions.extend(put(&desired.endpoints6, &actual.endpoints6).map(|(k, v)| Action::PutEndpoint6(k, v)));
    actions.extend(put(&desired.netns, &actual.netns).map(|(k, v)| Action::PutNetns(k, v)));
    actions.extend(put(&desired.ports, &actual.ports).map(|(k, v)| Action::PutPort(k, v)));
    actions.extend(put(&desired.networks, &actual.networks).map(|(k, v)| Action::PutNetwork(k, v)));
    actions.extend(vteps().filter(|(k, _)| makes_ours(k)).map(|(k, v)| Action::PutVtep(k, v)));
    if desired.config != actual.config {
        actions.push(Action::PutConfig(desired.config));
    }
    actions.extend(put(&desired.ranges, &actual.ranges).map(|(k, v)| Action::PutRange(k, v)));
    actions.extend(delete(&desired.ranges, &actual.ranges).map(Action::DeleteRange));
    actions.extend(delete(&desired.networks, &actual.networks).map(Action::DeleteNetwork));
    actions.extend(delete(&desired.peers, &actual.peers).map(Action::DeletePeer));
    actions.extend(delete(&desired.peers6, &actual.peers6).map(Action::DeletePeer6));
    // Rows that make a VNI ours go first: their addresses are zero, the lowest of each VNI.
    actions.extend(delete(&desired.vteps, &actual.vteps).map(Action::DeleteVtep));
    actions.extend(delete(&desired.endpoints, &actual.endpoints).map(Action::DeleteEndpoint));
    actions.extend(delete(&desired.endpoints6, &actual.endpoints6).map(Action::DeleteEndpoint6));
    actions.extend(delete(&desired.netns, &actual.netns).map(Action::DeleteNetns));
    actions.extend(delete(&desired.ports, &actual.ports).map(Action::DeletePort));
    actions
}

fn put<K: Ord + Copy, V: PartialEq + Copy>(desired: &BTreeMap<K, V>, actual: &BTreeMap<K, V>) -> impl Iterator<Item = (K, V)> {
    desired.iter().filter(|(key, value)| actual.get(*key) != Some(*value)).map(|(key, value)| (*key, *value))
}

fn delete<K: Ord + Copy, V>(desired: &BTreeMap<K, V>, actual: &BTreeMap<K, V>) -> impl Iterator<Item = K> {
    actual.keys().filter(|key| !desired.contains_key(*key)).copied()
}

impl Rows {
    /// Adds the rows of a further network, planned as if it were the default one, under its own number. One whose port does not
    /// fit beside the others' is left to the kernel path.
    fn add(&mut self, other: Self, number: u32) {
        self.ranges.extend(other.ranges.into_keys().map(|key| (key, number)));
        let port = other.config.ports[0];
        if port.to_native() != 0 && !self.config.is_overlay_port(port) {
            let Some(place) = self.config.ports.iter_mut().find(|place| place.to_native() == 0) else { return };
            *place = port;
        }
        // The default network may be one that is not tunnelled.
        if self.config.uplink == 0 {
            let Config { vtep, vtep6, uplink, uplink_mtu, .. } = other.config;
            self.config = Config { vtep, vtep6, uplink, uplink_mtu, ..self.config };
        }
        self.networks.extend(other.networks.into_values().map(|row| (number, row)));
        self.peers.extend(other.peers.into_iter().map(|(key, row)| (PeerKey { network: number, ..key }, row)));
        self.peers6.extend(other.peers6.into_iter().map(|(key, row)| (PeerKey6 { network: number, ..key }, row)));
        self.vteps.extend(other.vteps.into_iter().map(|(key, row)| (key, Vtep { network: number, ..row })));
    }

    /// Carries out one action on these rows.
    pub fn apply(&mut self, action: &Action) {
        match *action {
            Action::PutConfig(config) => self.config = config,
            Action::PutNetwork(key, value) => drop(self.networks.insert(key, value)),
            Action::DeleteNetwork(key) => drop(self.networks.remove(&key)),
            Action::PutPeer(key, value) => drop(self.peers.insert(key, value)),
            Action::DeletePeer(key) => drop(self.peers.remove(&key)),
            Action::PutPeer6(key, value) => drop(self.peers6.insert(key, value)),
            Action::DeletePeer6(key) => drop(self.peers6.remove(&key)),
            Action::PutVtep(key, value) => drop(self.vteps.insert(key, value)),
            Action::DeleteVtep(key) => drop(self.vteps.remove(&key)),
            Action::PutRange(key, value) => drop(self.ranges.insert(key, value)),
            Action::DeleteRange(key) => drop(self.ranges.remove(&key)),
            Action::PutEndpoint(key, value) => drop(self.endpoints.insert(key, value)),
            Action::DeleteEndpoint(key) => drop(self.endpoints.remove(&key)),
            Action::PutEndpoint6(key, value) => drop(self.endpoints6.insert(key, value)),
            Action::DeleteEndpoint6(key) => drop(self.endpoints6.remove(&key)),
            Action::PutNetns(key, value) => drop(self.netns.insert(key, value)),
            Action::DeleteNetns(key) => drop(self.netns.remove(&key)),
            Action::PutPort(key, value) => drop(self.ports.insert(key, value)),
            Action::DeletePort(key) => drop(self.ports.remove(&key)),
        }
    }
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
