//! Actions as messages, built by rtnetlink. One action is one change, and its outcome.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVxlan};
use weft_model::mac::Mac;
use weft_plan::Step;
use weft_plan::addresses::Address;
use weft_plan::kernel::Action;
use weft_plan::links::{Kind, Link, Vxlan};
use weft_plan::neighbors::{Forward, Neighbor};
use weft_plan::routes::{PROTOCOL, Route, Via};

use super::link::Device;
use super::socket::{Answer, Socket};
use super::{NetlinkError, observe};

/// Carries out one action.
pub(super) fn apply(socket: &mut Socket, action: &Action) -> Result<(), NetlinkError> {
    let done = match action {
        // Settings have no socket; `Netlink` writes them.
        Action::Sysctl(_) => Ok(()),
        Action::Link(step) => link(socket, step),
        Action::Address(step) => address(socket, step),
        Action::Neighbor(step) => neighbor(socket, step),
        Action::Forward(step) => forward(socket, step),
        Action::Route(step) => route(socket, step),
    };
    done.map_err(|source| refused(action.to_string(), source))
}

/// An error that names what was refused.
pub(super) fn refused(what: String, source: Answer) -> NetlinkError {
    if source.code() == libc::EEXIST { NetlinkError::InTheWay { what, source } } else { NetlinkError::Refused { what, source } }
}

/// Turns the errors that say "gone" into success.
fn gone_is_done(done: Result<(), Answer>, codes: &[i32]) -> Result<(), Answer> {
    match done {
        Err(answer) if codes.contains(&answer.code()) => Ok(()),
        done => done,
    }
}

fn link(socket: &mut Socket, step: &Step<Link>) -> Result<(), Answer> {
    socket.indexes.clear();
    match step {
        Step::Remove(link) => remove_link(socket, &link.name),
        Step::Add(Link { name, kind: Kind::Vxlan(vxlan), up }) => {
            add_vxlan(socket, name, vxlan)?;
            let index = device_by_name(socket, name)?.index;
            set_link(socket, index, vec![no_autoconf()], None).or_else(unless_without_ipv6)?;
            set_link(socket, index, Vec::new(), Some(*up))
        }
        Step::Change { from: Link { kind: Kind::Vxlan(from), .. }, to: Link { name, kind: Kind::Vxlan(to), up } } => {
            let index = device_by_name(socket, name)?.index;
            change_vxlan(socket, index, from, to)?;
            let mut attributes = Vec::new();
            if from.mac != to.mac {
                attributes.push(LinkAttribute::Address(to.mac.0.to_vec()));
            }
            if from.mtu != to.mtu {
                attributes.push(LinkAttribute::Mtu(to.mtu));
            }
            set_link(socket, index, attributes, Some(*up))
        }
        Step::Change { to: Link { name, up, .. }, .. } => {
            let index = device_by_name(socket, name)?.index;
            set_link(socket, index, Vec::new(), Some(*up))
        }
        // A plan makes no veth pairs.
        Step::Add(Link { kind: Kind::Veth, .. }) => Ok(()),
    }
}

fn add_vxlan(socket: &mut Socket, name: &str, vxlan: &Vxlan) -> Result<(), Answer> {
    let message = with_local(LinkVxlan::new(name, vxlan.vni), vxlan.local);
    let message = match vxlan.local {
        IpAddr::V4(_) => message,
        IpAddr::V6(_) => message.udp_zero_csum6_tx(vxlan.zero_checksums.sent).udp_zero_csum6_rx(vxlan.zero_checksums.taken),
    };
    let message = message
        .dev(vxlan.parent)
        .port(vxlan.port)
        .learning(vxlan.learning)
        // Named although it is what Linux does by itself, since the name of the bit in the kernel is the opposite.
        .udp_csum(true)
        // At creation, so that nobody (systemd-udevd, NetworkManager) takes it for one that the kernel made up.
        .address(vxlan.mac.0.to_vec())
        .mtu(vxlan.mtu)
        .build();
    socket.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn with_local(message: LinkMessageBuilder<LinkVxlan>, local: IpAddr) -> LinkMessageBuilder<LinkVxlan> {
    match local {
        IpAddr::V4(local) => message.local(local),
        IpAddr::V6(local) => message.local6(local),
    }
}

fn change_vxlan(socket: &mut Socket, index: u32, from: &Vxlan, to: &Vxlan) -> Result<(), Answer> {
    if (from.local, from.parent, from.learning) == (to.local, to.parent, to.learning) {
        return Ok(());
    }
    let message = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan).index(index).id(to.vni);
    let message = with_local(message, to.local).dev(to.parent).learning(to.learning).build();
    socket.change(RouteNetlinkMessage::NewLink(message), 0)
}

/// The attribute by which a device makes up no IPv6 address for itself. Linux takes it for a device that is there, not for
/// one that is being made.
pub(crate) fn no_autoconf() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])])
}

/// A kernel or host without IPv6 has no such setting, and no need of it.
pub(crate) fn unless_without_ipv6(answer: Answer) -> Result<(), Answer> {
    if is_without_ipv6(&answer) { Ok(()) } else { Err(answer) }
}

/// Whether a kernel or host without IPv6 says this when it is asked for something of IPv6.
pub(super) fn is_without_ipv6(answer: &Answer) -> bool {
    matches!(answer.code(), libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
}

/// Sets attributes of a device, and whether it is up.
pub(crate) fn set_link(socket: &mut Socket, index: u32, attributes: Vec<LinkAttribute>, up: Option<bool>) -> Result<(), Answer> {
    let mut message = LinkUnspec::new_with_index(index);
    for attribute in attributes {
        message = message.append_extra_attribute(attribute);
    }
    message = match up {
        Some(true) => message.up(),
        Some(false) => message.down(),
        None => message,
    };
    socket.change(RouteNetlinkMessage::SetLink(message.build()), 0)
}

/// Removes a device by name; one that is not there is removed.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn remove_device(socket: &mut Socket, name: &str) -> Result<(), NetlinkError> {
    remove_link(socket, name).map_err(|source| refused(format!("remove link {name}"), source))
}

/// The number of a device; none if there is none.
pub(super) fn index_if_there(socket: &mut Socket, name: &str) -> Result<Option<u32>, NetlinkError> {
    match device_by_name(socket, name) {
        Ok(device) => Ok(Some(device.index)),
        Err(answer) if answer.code() == libc::ENODEV => Ok(None),
        Err(source) => Err(refused(format!("find link {name}"), source)),
    }
}

fn remove_link(socket: &mut Socket, name: &str) -> Result<(), Answer> {
    socket.indexes.clear();
    let message = LinkUnspec::new_with_name(name).build();
    gone_is_done(socket.change(RouteNetlinkMessage::DelLink(message), 0), &[libc::ENODEV])
}

/// The device of a name; ENODEV if there is none.
pub(crate) fn device_by_name(socket: &mut Socket, name: &str) -> Result<Device, Answer> {
    device(socket, LinkUnspec::new_with_name(name).build())
}

/// The number of a device; ENODEV if there is none.
fn index_of(socket: &mut Socket, name: &str) -> Result<u32, Answer> {
    if let Some(index) = socket.indexes.get(name) {
        return Ok(*index);
    }
    let index = device_by_name(socket, name)?.index;
    socket.indexes.insert(name.to_owned(), index);
    Ok(index)
}

/// The device of an index; ENODEV if there is none.
pub(super) fn device_by_index(socket: &mut Socket, index: u32) -> Result<Device, Answer> {
    device(socket, LinkUnspec::new_with_index(index).build())
}

fn device(socket: &mut Socket, mut message: LinkMessage) -> Result<Device, Answer> {
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut found = None;
    socket.get(RouteNetlinkMessage::GetLink(message), |payload| {
        found = Some(Device::parse(payload)?);
        Ok(())
    })?;
    found.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENODEV).into())
}

fn address(socket: &mut Socket, step: &Step<Address>) -> Result<(), Answer> {
    match step {
        Step::Add(row) | Step::Change { to: row, .. } => {
            let index = index_of(socket, &row.device)?;
            add_address(socket, index, row.address)
        }
        Step::Remove(row) => {
            let removed = index_of(socket, &row.device)
                .and_then(|index| socket.change(RouteNetlinkMessage::DelAddress(address_message(index, row.address)), 0));
            gone_is_done(removed, &[libc::ENODEV, libc::EADDRNOTAVAIL])
        }
    }
}

/// Adds an address with our mark. One that is there already gets the mark: it is what we would add.
pub(crate) fn add_address(socket: &mut Socket, index: u32, address: IpNet) -> Result<(), Answer> {
    let mut message = address_message(index, address);
    if matches!(address, IpNet::V6(_)) {
        // Nobody else can have it, and it is to be usable at once.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    socket.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(net.addr(), net.prefix_len()).build(),
        IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(net.addr(), net.prefix_len()).build(),
    }
}

fn neighbor(socket: &mut Socket, step: &Step<Neighbor>) -> Result<(), Answer> {
    match step {
        Step::Add(row) | Step::Change { to: row, .. } => {
            let index = index_of(socket, &row.device)?;
            add_neighbor(socket, index, row.address, row.mac)
        }
        Step::Remove(row) => {
            let removed = index_of(socket, &row.device).and_then(|index| {
                let message = neighbor_message(index, row.address, row.mac);
                socket.change(RouteNetlinkMessage::DelNeighbour(message), 0)
            });
            gone_is_done(removed, &[libc::ENODEV, libc::ENOENT])
        }
    }
}

/// Sets a permanent neighbour, in place of what is known of it.
pub(crate) fn add_neighbor(socket: &mut Socket, index: u32, address: IpAddr, mac: Mac) -> Result<(), Answer> {
    let message = neighbor_message(index, address, mac);
    socket.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn neighbor_message(index: u32, address: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes =
        vec![NeighbourAttribute::Destination(address.into()), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

fn forward(socket: &mut Socket, step: &Step<Forward>) -> Result<(), Answer> {
    match step {
        Step::Add(row) | Step::Change { to: row, .. } => {
            let index = index_of(socket, &row.device)?;
            let message = forward_message(index, row);
            socket.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Step::Remove(row) => {
            let removed = index_of(socket, &row.device)
                .and_then(|index| socket.change(RouteNetlinkMessage::DelNeighbour(forward_message(index, row)), 0));
            gone_is_done(removed, &[libc::ENODEV, libc::ENOENT])
        }
    }
}

fn forward_message(index: u32, row: &Forward) -> NeighbourMessage {
    let mut message = neighbor_message(index, row.remote, row.mac);
    message.header.family = AddressFamily::Bridge;
    // Of the device itself (`self`), not of a bridge that it may be a port of.
    message.header.flags = NeighbourFlags::Own;
    message
}

fn route(socket: &mut Socket, step: &Step<Route>) -> Result<(), Answer> {
    let done = change_route(socket, step);
    // Nothing leaks by a family that the host has not.
    if matches!(step.row().destination, IpNet::V6(_)) { done.or_else(unless_without_ipv6) } else { done }
}

fn change_route(socket: &mut Socket, step: &Step<Route>) -> Result<(), Answer> {
    match step {
        Step::Add(row) => match add_route(socket, row) {
            Err(answer) if answer.code() == libc::EEXIST && observe::has_route(socket, row)? => Ok(()),
            done => done,
        },
        Step::Change { to: row, .. } => {
            let message = route_message(socket, row)?;
            socket.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Step::Remove(row) => {
            // Neither type nor scope need match: the key and our protocol number say which one it is.
            let mut message = route_key(row);
            (message.header.kind, message.header.scope) = (RouteType::Unspec, RouteScope::NoWhere);
            gone_is_done(socket.change(RouteNetlinkMessage::DelRoute(message), 0), &[libc::ESRCH, libc::ENODEV])
        }
    }
}

/// Adds a route; EEXIST if one has its destination and metric already, whoever's it is.
pub(crate) fn add_route(socket: &mut Socket, row: &Route) -> Result<(), Answer> {
    let message = route_message(socket, row)?;
    socket.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Adds a route before others of its destination and metric, if they are others (fib_table_insert: without NLM_F_EXCL,
/// NLM_F_REPLACE and NLM_F_APPEND a route goes to the front of its like; seen on 6.18).
pub(super) fn add_route_before(socket: &mut Socket, row: &Route) -> Result<(), Answer> {
    if matches!(row.destination, IpNet::V6(_)) {
        return Err(std::io::Error::from_raw_os_error(libc::EEXIST).into());
    }
    let message = route_message(socket, row)?;
    socket.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE)
}

fn route_message(socket: &mut Socket, row: &Route) -> Result<RouteMessage, Answer> {
    let mut message = route_key(row);
    (message.header.kind, message.header.scope) = match &row.via {
        Via::Gateway { .. } => (RouteType::Unicast, RouteScope::Universe),
        Via::Device(_) => (RouteType::Unicast, RouteScope::Link),
        Via::Unreachable | Via::Foreign => (RouteType::Unreachable, RouteScope::Universe),
    };
    if let Via::Gateway { gateway, .. } = row.via {
        message.attributes.push(RouteAttribute::Gateway(match gateway {
            IpAddr::V4(gateway) => RouteAddress::Inet(gateway),
            IpAddr::V6(gateway) => RouteAddress::Inet6(gateway),
        }));
        message.header.flags.insert(RouteFlags::Onlink);
    }
    if let Some(device) = row.via.device() {
        message.attributes.push(RouteAttribute::Oif(index_of(socket, device)?));
    }
    if let Some(mtu) = row.mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    Ok(message)
}

/// What makes a route the one it is: table, destination, metric, and our protocol number.
fn route_key(row: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.destination_prefix_length = row.destination.prefix_len();
    let (family, address) = match row.destination.addr() {
        IpAddr::V4(address) => (AddressFamily::Inet, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, RouteAddress::Inet6(address)),
    };
    message.header.address_family = family;
    message.attributes.push(RouteAttribute::Destination(address));
    if row.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(row.metric));
    }
    message
}
