//! Rows of ours as the kernel has them. Rows of others never get in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use weft_model::mac::Mac;
use weft_plan::addresses::Address;
use weft_plan::ipam;
use weft_plan::kernel::Rows;
use weft_plan::links::{Kind, Link, Vxlan, is_veth_name, is_vxlan_name};
use weft_plan::neighbors::{Forward, Neighbor};
use weft_plan::routes::{PROTOCOL, Route, Via};

use super::act::is_without_ipv6;
use super::link::Device;
use super::socket::{Answer, Socket};
use super::{NetlinkError, act};

/// All rows of ours but settings.
pub(super) fn rows(socket: &mut Socket) -> Result<Rows, NetlinkError> {
    socket.indexes.clear();
    let mut ours: BTreeMap<u32, String> = BTreeMap::new();
    let mut rows = Rows::default();
    for device in devices(socket, Some(InfoKind::Vxlan))?.into_iter().chain(devices(socket, Some(InfoKind::Veth))?) {
        if let Some(link) = link(&device) {
            ours.insert(device.index, device.name);
            rows.links.insert(link);
        }
    }
    rows.addresses = addresses(socket, &ours)?.into_iter().collect();
    rows.neighbors = neighbors(socket, &ours)?.into_iter().collect();
    for (index, name) in ours.iter().filter(|(_, name)| is_vxlan_name(name)) {
        rows.forwards.extend(forwards(socket, *index, name)?);
    }
    rows.routes = routes(socket, &ours)?.into_iter().collect();
    Ok(rows)
}

/// All devices, or those of one kind.
pub(crate) fn devices(socket: &mut Socket, kind: Option<InfoKind>) -> Result<Vec<Device>, NetlinkError> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    // A kernel without the module of this kind lists all devices.
    request.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
    let listed = socket.list(&RouteNetlinkMessage::GetLink(request), |payload| Device::parse(payload).map(Some));
    listed.map_err(|source| NetlinkError::List { table: "devices", source })
}

fn link(device: &Device) -> Option<Link> {
    let name = device.name.clone();
    let kind = match device.kind.as_deref()? {
        "vxlan" if is_vxlan_name(&name) => {
            let options = &device.vxlan;
            Kind::Vxlan(Vxlan {
                vni: options.vni,
                local: options.local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                parent: options.parent,
                port: options.port,
                mac: device.mac.unwrap_or(Mac([0; 6])),
                mtu: device.mtu,
                learning: options.learning,
                zero_checksums: options.zero_checksums,
                foreign: options.foreign,
            })
        }
        "veth" if is_veth_name(&name) => Kind::Veth,
        _ => return None,
    };
    Some(Link { name, kind, up: device.up })
}

/// All IPv4 addresses as messages.
pub(super) fn all_addresses(socket: &mut Socket) -> Result<Vec<AddressMessage>, NetlinkError> {
    addresses_of(socket, AddressFamily::Inet)
}

/// All addresses of a family as messages.
pub(crate) fn addresses_of(socket: &mut Socket, family: AddressFamily) -> Result<Vec<AddressMessage>, NetlinkError> {
    let mut request = AddressMessage::default();
    request.header.family = family;
    // A kernel without IPv6 lists the addresses of all other families instead (`rtnl_dump_all`).
    let read = |payload: &[u8]| Ok(Some(AddressMessage::parse(payload)?).filter(|message| message.header.family == family));
    match socket.list(&RouteNetlinkMessage::GetAddress(request), read) {
        Err(answer) if family == AddressFamily::Inet6 && is_without_ipv6(&answer) => Ok(Vec::new()),
        listed => listed.map_err(|source| NetlinkError::List { table: "addresses", source }),
    }
}

/// An IPv4 address itself: `IFA_LOCAL`, which differs from `IFA_ADDRESS` where there is a peer.
pub(crate) fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

/// An IPv6 address itself: `IFA_LOCAL` where there is a peer, else `IFA_ADDRESS` alone.
pub(crate) fn local6(message: &AddressMessage) -> Option<Ipv6Addr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V6(address)) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
            _ => None,
        })
    })
}

fn addresses(socket: &mut Socket, ours: &BTreeMap<u32, String>) -> Result<Vec<Address>, NetlinkError> {
    let mut rows = Vec::new();
    let mut messages = all_addresses(socket)?;
    messages.extend(addresses_of(socket, AddressFamily::Inet6)?);
    for message in messages {
        let index = message.header.index;
        let marked = message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        // A link-local address may be the kernel's; the gateway alone is told by itself, since kernels before 5.18 keep no mark.
        let foreign = local6(&message).is_some_and(|a| a.is_unicast_link_local() && !marked && a != ipam::LINK_GATEWAY);
        let device = match ours.get(&index) {
            Some(_) if foreign => None,
            Some(name) => Some(name.clone()),
            None if marked => name_of(socket, index)?,
            None => None,
        };
        let address = local(&message).map(IpAddr::V4).or_else(|| local6(&message).map(IpAddr::V6));
        let address = address.and_then(|address| IpNet::new(address, message.header.prefix_len).ok());
        if let (Some(device), Some(address)) = (device, address) {
            rows.push(Address { device, address });
        }
    }
    Ok(rows)
}

fn neighbors(socket: &mut Socket, ours: &BTreeMap<u32, String>) -> Result<Vec<Neighbor>, NetlinkError> {
    let mut rows = neighbors_of(socket, ours, AddressFamily::Inet)?;
    rows.extend(neighbors_of(socket, ours, AddressFamily::Inet6)?);
    Ok(rows)
}

fn neighbors_of(socket: &mut Socket, ours: &BTreeMap<u32, String>, family: AddressFamily) -> Result<Vec<Neighbor>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    let read = |payload: &[u8]| {
        let message = NeighbourMessage::parse(payload)?;
        let permanent = message.header.family == family && has_state(&message, &[NeighbourState::Permanent]);
        Ok(ours.get(&message.header.ifindex).filter(|_| permanent).and_then(|device| {
            let (address, mac) = (destination(&message)?, mac(&message)?);
            Some(Neighbor { device: device.clone(), address, mac })
        }))
    };
    match socket.list(&RouteNetlinkMessage::GetNeighbour(request), read) {
        Err(answer) if family == AddressFamily::Inet6 && is_without_ipv6(&answer) => Ok(Vec::new()),
        listed => listed.map_err(|source| NetlinkError::List { table: "neighbours", source }),
    }
}

fn forwards(socket: &mut Socket, index: u32, device: &str) -> Result<Vec<Forward>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Bridge;
    request.header.ifindex = index;
    let read = |payload: &[u8]| {
        let message = NeighbourMessage::parse(payload)?;
        // `bridge fdb … static` sets the second; a learned entry has neither, and ends by itself.
        let permanent = has_state(&message, &[NeighbourState::Permanent, NeighbourState::Noarp]);
        Ok(Some(&message).filter(|m| permanent && m.header.ifindex == index).and_then(|message| {
            let (remote, mac) = (destination(message)?, mac(message)?);
            Some(Forward { device: device.to_owned(), mac, remote })
        }))
    };
    match socket.list(&RouteNetlinkMessage::GetNeighbour(request), read) {
        // The device went while we looked.
        Err(answer) if answer.code() == libc::ENODEV => Ok(Vec::new()),
        listed => listed.map_err(|source| NetlinkError::List { table: "forwarding entries", source }),
    }
}

/// Whether one of the bits that these states are is set; iproute2 sets several at once.
fn has_state(message: &NeighbourMessage, states: &[NeighbourState]) -> bool {
    let bits = states.iter().fold(0, |bits, state| bits | u16::from(*state));
    u16::from(message.header.state) & bits != 0
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some((*address).into()),
        // The library leaves the destination of a forwarding entry (family AF_BRIDGE) as bytes.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from);
            v4.or_else(|| <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from))
        }
        _ => None,
    })
}

fn mac(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
        _ => None,
    })
}

/// Routes of the main table with a protocol number, or with any.
pub(crate) fn list_routes(
    socket: &mut Socket,
    family: AddressFamily,
    protocol: Option<u8>,
) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
    let wanted = |message: &RouteMessage| {
        // A kernel without IPv6 lists the routes of all other families instead (`rtnl_dump_all`).
        message.header.address_family == family
            && message.header.table == RouteHeader::RT_TABLE_MAIN
            && !message.header.flags.contains(RouteFlags::Cloned)
            && protocol.is_none_or(|p| message.header.protocol == RouteProtocol::from(p))
    };
    let read =
        |payload: &[u8]| -> Result<Option<RouteMessage>, DecodeError> { Ok(Some(RouteMessage::parse(payload)?).filter(wanted)) };
    match socket.list(&RouteNetlinkMessage::GetRoute(request), read) {
        // A namespace that never had a route has no main table.
        Err(answer) if answer.code() == libc::ENOENT => Ok(Vec::new()),
        Err(answer) if family == AddressFamily::Inet6 && is_without_ipv6(&answer) => Ok(Vec::new()),
        listed => listed.map_err(|source| NetlinkError::List { table: "routes", source }),
    }
}

/// Our routes.
pub(super) fn routes(socket: &mut Socket, ours: &BTreeMap<u32, String>) -> Result<Vec<Route>, NetlinkError> {
    let mut rows = Vec::new();
    let mut messages = list_routes(socket, AddressFamily::Inet, Some(PROTOCOL))?;
    messages.extend(list_routes(socket, AddressFamily::Inet6, Some(PROTOCOL))?);
    for message in messages {
        let device = match output(&message) {
            None => None,
            // In IPv6 Linux gives those that lead nowhere the loopback device.
            Some(_) if leads_nowhere(&message) => None,
            Some(index) => match ours.get(&index) {
                Some(name) => Some(name.clone()),
                None => name_of(socket, index)?,
            },
        };
        rows.extend(route(&message, device));
    }
    Ok(rows)
}

/// The ifindex that a route leads out of.
pub(crate) fn output(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The metric of a route.
pub(super) fn metric(message: &RouteMessage) -> u32 {
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

fn leads_nowhere(message: &RouteMessage) -> bool {
    message.header.address_family == AddressFamily::Inet6 && message.header.kind == RouteType::Unreachable
}

fn route(message: &RouteMessage, device: Option<String>) -> Option<Route> {
    let is_v6 = message.header.address_family == AddressFamily::Inet6;
    let mut destination = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let mut gateway = None;
    let mut mtu = None;
    // Whatever we never set makes the route one that is to be replaced.
    let mut foreign = message.header.tos != 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(value) => mtu = Some(*value),
                        _ => foreign = true,
                    }
                }
            }
            // How routers are preferred (RFC 4191) is told of every IPv6 route.
            RouteAttribute::Preference(_) if is_v6 => {}
            RouteAttribute::Table(_) | RouteAttribute::Oif(_) | RouteAttribute::Priority(_) | RouteAttribute::CacheInfo(_) => {}
            _ => foreign = true,
        }
    }
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    let via = match (message.header.kind, device, gateway) {
        _ if foreign => Via::Foreign,
        (RouteType::Unreachable, None, None) => Via::Unreachable,
        (RouteType::Unicast, Some(device), Some(gateway)) if onlink => Via::Gateway { gateway, device },
        // IPv6 has no scopes of routes.
        (RouteType::Unicast, Some(device), None) if is_v6 || message.header.scope == RouteScope::Link => Via::Device(device),
        _ => Via::Foreign,
    };
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, metric: metric(message), via, mtu })
}

/// The name of a device; `None` if it has gone meanwhile.
fn name_of(socket: &mut Socket, index: u32) -> Result<Option<String>, NetlinkError> {
    match act::device_by_index(socket, index) {
        Ok(device) => Ok(Some(device.name)),
        Err(answer) if answer.code() == libc::ENODEV => Ok(None),
        Err(source) => Err(NetlinkError::List { table: "devices", source }),
    }
}

/// Whether exactly this route is there, and ours.
pub(super) fn has_route(socket: &mut Socket, wanted: &Route) -> Result<bool, Answer> {
    let there = routes(socket, &BTreeMap::new()).map_err(|e| match e {
        NetlinkError::List { source, .. } => source,
        other => Answer { errno: std::io::Error::other(other.to_string()), said: None },
    })?;
    Ok(there.contains(wanted))
}
