//! Ports of the host that lead to containers: which address and port becomes which.
//!
//! A socket that is bound to 127.0.0.1 before it names a loopback address does not get there: from it nothing leaves either.
//!
//! Packets are sent there by the nft table ([`crate::nft`]), but for those of the host's own sockets to its loopback
//! addresses: they are translated when the socket is connected (rows of `weft_ports`, [`crate::maps`]), because a packet that
//! bears 127.0.0.1 cannot leave the host's own loopback.
//!
//! A published port is on the host's addresses outside of its networks: gateways and addresses of VXLAN devices are the
//! overlay's own, with the name server on them. So are the UDP ports of the overlays, on every address. [`refuse`] says no to
//! what could never be reached, and the rules of the table leave both out once more, because networks change.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use weft_abi::maps::capacity;
use weft_model::publish::Publish;
use weft_model::record::Proto;

use crate::host::Host;

/// How many ports of a host may be published, whatever their families: each is an element of the nft table (16,384 are loaded in
/// 0.13 s and listed in 0.35 s, nft 1.0.6) and a row of `weft_ports` for each family.
pub const MOST_PORTS: usize = capacity::PORTS as usize / 2;

/// Which addresses of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// All of IPv4.
    AnyV4,
    /// All of IPv6.
    AnyV6,
    /// This one.
    One(IpAddr),
}

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Where.
    pub at: At,
    /// The protocol.
    pub proto: Proto,
    /// The number.
    pub port: u16,
}

/// Where packets for a port of the host go instead.
pub type Ports = BTreeMap<Port, SocketAddr>;

/// The ports of the host by which its containers are reached. IPv6 leads to containers that have an IPv6 address only. Should two
/// containers want one port, which attaching refuses, the first one has it.
#[must_use]
pub fn ports(host: &Host) -> Ports {
    let mut ports = Ports::new();
    for container in &host.attachments {
        for publish in &container.publish {
            for (at, to) in ways(publish, container.address, container.address6) {
                for (outside, inside) in numbers(publish) {
                    let port = Port { at, proto: publish.proto, port: outside };
                    ports.entry(port).or_insert(SocketAddr::new(to, inside));
                }
            }
        }
    }
    ports
}

/// Those that the host's own sockets reach by a loopback address, as that address and port.
#[must_use]
pub fn by_loopback(ports: &Ports) -> BTreeMap<(SocketAddr, Proto), SocketAddr> {
    let loopback = |at: At| match at {
        At::AnyV4 => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        At::AnyV6 => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        At::One(address) => Some(address).filter(IpAddr::is_loopback),
    };
    let rows = ports.iter().filter_map(|(port, to)| {
        let named = SocketAddr::new(loopback(port.at)?, port.port);
        Some(((named, port.proto), *to))
    });
    rows.collect()
}

/// The addresses of the host that a publication is on, each with the container's address of the same family.
fn ways(publish: &Publish, v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> impl Iterator<Item = (At, IpAddr)> {
    let v6 = v6.map(IpAddr::V6);
    let v4 = IpAddr::V4(v4);
    let ways = match publish.host.map(|host| host.to_canonical()) {
        None => [Some((At::AnyV4, v4)), v6.map(|to| (At::AnyV6, to))],
        Some(IpAddr::V4(host)) if host.is_unspecified() => [Some((At::AnyV4, v4)), None],
        Some(IpAddr::V6(host)) if host.is_unspecified() => [None, v6.map(|to| (At::AnyV6, to))],
        Some(host @ IpAddr::V4(_)) => [Some((At::One(host), v4)), None],
        Some(host @ IpAddr::V6(_)) => [None, v6.map(|to| (At::One(host), to))],
    };
    ways.into_iter().flatten()
}

/// The ports outside with those inside.
fn numbers(publish: &Publish) -> impl Iterator<Item = (u16, u16)> + use<> {
    // Ranges that go beyond the last port are refused when they come.
    let (outside, inside) = (publish.host_port, publish.port);
    (0..publish.count).map_while(move |i| Some((outside.checked_add(i)?, inside.checked_add(i)?)))
}

/// Why a port cannot be published on this host at all; `None`: it can.
#[must_use]
pub fn refuse(publish: &Publish, host: &Host) -> Option<String> {
    let overlays = host.config.iter().chain(host.networks.iter().map(|of| &of.config)).map(|config| config.backend.port);
    let within =
        |port: u16| (publish.host_port..=publish.host_port.saturating_add(publish.count.saturating_sub(1))).contains(&port);
    if let Some(port) = overlays.into_iter().find(|port| publish.proto == Proto::Udp && within(*port)) {
        return Some(format!("UDP port {port} is the overlay's own"));
    }
    let address = publish.host?.to_canonical();
    if let Some(network) = networks(host).find(|network| network.contains(&address)) {
        return Some(format!("{address} is an address of the overlay ({network}), not of the host's own"));
    }
    match address {
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => Some(format!("{address} is no address of one host")),
        IpAddr::V6(v6) if v6.is_multicast() => Some(format!("{address} is no address of one host")),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some(format!("{address} is of one link only, from which nothing can be forwarded"))
        }
        _ => None,
    }
}

/// The ranges of the networks that the host is in.
pub fn networks(host: &Host) -> impl Iterator<Item = IpNet> {
    let own = host.config.iter().flat_map(|config| {
        let v6 = config.v6.as_ref().map(|v6| IpNet::V6(v6.network));
        [Some(IpNet::V4(config.network)), v6].into_iter().flatten()
    });
    own.chain(host.networks.iter().map(|of| IpNet::V4(of.config.network)))
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
