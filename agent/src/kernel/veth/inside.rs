//! The container's end of a veth pair: what it is furnished with in its own namespace, and how its MTU follows.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::AddressMessageBuilder;
use weft_model::mac::Mac;
use weft_plan::host::{LOOPBACK, MIN_MTU_V6};
use weft_plan::ipam::LINK_GATEWAY;
use weft_plan::links::veth_mac;
use weft_plan::routes::{PROTOCOL, Route, Via};
use weft_plan::sysctls::Sysctl;

use super::{VethError, VethSpec, beside};
use crate::kernel::netlink::{
    Answer, Socket, add_address, add_neighbor, add_route, device_by_name, list_routes, no_autoconf, set_link, unless_without_ipv6,
};
use crate::kernel::netns::NetNs;
use crate::kernel::sysctl;

/// What has become of a pair's MTU.
///
/// It follows only from what the agent has set: where somebody inside has chosen another, that choice stays, and so it does
/// when a later one would fit again. The host's end is the agent's own and always follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtu {
    /// Both ends have it.
    Set,
    /// The container's end has this one, which was set by hand.
    ByHand(u32),
}

/// Errors name the place too: the steps are taken in a namespace that the reader is not in.
fn step(place: &str, what: String) -> impl FnOnce(Answer) -> VethError + use<> {
    let what = format!("{what} in {place}");
    move |source| VethError::Step { what, source }
}

/// Furnishes the end inside, and sets it up.
pub(super) fn furnish(spec: &VethSpec, host_mac: Mac, inside: &mut Socket, netns: &NetNs) -> Result<(), VethError> {
    let VethSpec { ifname, address, gateway, .. } = spec;
    let place = netns.path().display().to_string();
    let step = |what: String| step(&place, what);
    let lo = device_by_name(inside, LOOPBACK).map_err(step(format!("find {LOOPBACK}")))?;
    set_link(inside, lo.index, Vec::new(), Some(true)).map_err(step(format!("set {LOOPBACK} up")))?;
    let far = device_by_name(inside, ifname).map_err(step(format!("find {ifname}")))?;
    set_link(inside, far.index, vec![no_autoconf()], None)
        .or_else(unless_without_ipv6)
        .map_err(step(format!("turn IPv6 autoconfiguration off on {ifname}")))?;
    let own = Ipv4Net::from(*address);
    add_address(inside, far.index, own.into()).map_err(step(format!("add address {own} dev {ifname}")))?;
    set_link(inside, far.index, Vec::new(), Some(true)).map_err(step(format!("set {ifname} up")))?;
    add_neighbor(inside, far.index, (*gateway).into(), host_mac)
        .map_err(step(format!("add neighbor {gateway} address {host_mac} dev {ifname}")))?;
    let to_gateway = (Ipv4Net::from(*gateway), Via::Device(ifname.clone()));
    let through = Via::Gateway { gateway: (*gateway).into(), device: ifname.clone() };
    let v4 = spec.routes.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None });
    let beyond = v4.map(|destination| (destination, through.clone()));
    for (destination, via) in [to_gateway].into_iter().chain(beyond) {
        let row = Route { destination: destination.into(), metric: 0, via, mtu: None };
        match add_route(inside, &row) {
            Err(answer) if answer.code() == libc::EEXIST && destination.prefix_len() == 0 => {
                return Err(VethError::DefaultRoute { ifname: ifname.clone(), netns: netns.path().to_owned() });
            }
            // Two interfaces of one network have one gateway; a further one reaches it by its own table.
            Err(answer) if answer.code() == libc::EEXIST && spec.further => {}
            done => done.map_err(step(format!("add {row}")))?,
        }
    }
    furnish6(spec, spec.mtu, host_mac, inside, netns)?;
    if spec.further { beside::furnish(spec, far.index, inside) } else { Ok(()) }
}

/// Gives the end inside what it has of IPv6, if it is to have any; what is there already stays. It is up.
///
/// The container asks nobody for anything: its address is not looked for on the link, its gateway is a permanent neighbour, and
/// without a link-local address it sends no router solicitation.
///
/// Linux takes IPv6 away from a device whose MTU is less than 1280, settings and all, and gives it back empty when that grows
/// (seen on 6.18; `addrconf_notify`, RFC 8200 5). So on a narrow link there is nothing to do.
pub(super) fn furnish6(spec: &VethSpec, mtu: u32, host_mac: Mac, inside: &mut Socket, netns: &NetNs) -> Result<(), VethError> {
    let Some(address) = spec.address6.filter(|_| mtu >= MIN_MTU_V6) else { return Ok(()) };
    let ifname = &spec.ifname;
    let place = netns.path().display().to_string();
    let step = |what: String| step(&place, what);
    turn_on(ifname, netns)?;
    let far = device_by_name(inside, ifname).map_err(step(format!("find {ifname}")))?;
    set_link(inside, far.index, vec![no_autoconf()], None)
        .map_err(step(format!("turn IPv6 autoconfiguration off on {ifname}")))?;
    // The one that it made for itself before that, in the moment when the kernel gave it IPv6 anew.
    let made_up = link_local(far.mac.unwrap_or(spec.mac));
    match inside.change(RouteNetlinkMessage::DelAddress(address6_message(far.index, made_up, 64)), 0) {
        Err(answer) if answer.code() == libc::EADDRNOTAVAIL => {}
        done => done.map_err(step(format!("remove address {made_up} dev {ifname}")))?,
    }
    add_address6(inside, far.index, address).map_err(step(format!("add address {address} dev {ifname}")))?;
    add_gateway6(inside, far.index, host_mac)
        .map_err(step(format!("add neighbor {LINK_GATEWAY} address {host_mac} dev {ifname}")))?;
    let v6 = spec.routes.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None });
    for destination in v6 {
        match add_route6(inside, far.index, destination) {
            Err(answer) if answer.code() == libc::EEXIST && has_route6(inside, far.index, destination) => {}
            Err(answer) if answer.code() == libc::EEXIST && destination.prefix_len() == 0 => {
                return Err(VethError::DefaultRoute { ifname: ifname.clone(), netns: netns.path().to_owned() });
            }
            done => done.map_err(step(format!("add route {destination} via {LINK_GATEWAY} dev {ifname}")))?,
        }
    }
    Ok(())
}

/// Turns IPv6 on for the interface, and for `lo`, by which a container reaches its own address: runtimes turn it off in
/// namespaces that they think have none (dockerd does). Router advertisements are not heard.
fn turn_on(ifname: &str, netns: &NetNs) -> Result<(), VethError> {
    let setting = |device: &str, name: &str, value: &str| Sysctl {
        path: format!("net/ipv6/conf/{device}/{name}"),
        value: value.to_owned(),
        over: None,
    };
    let wanted =
        [setting(LOOPBACK, "disable_ipv6", "0"), setting(ifname, "disable_ipv6", "0"), setting(ifname, "accept_ra", "0")];
    let place = || netns.path().to_owned();
    let set = || {
        let there = sysctl::read_all(&wanted.iter().cloned().collect())?;
        // A `/proc/sys` that cannot be written is no matter where nothing is to be written.
        wanted.iter().filter(|row| there.iter().all(|is| is != *row)).try_for_each(sysctl::write)
    };
    let done = netns.run(set).map_err(|source| VethError::Enter { netns: place(), source })?;
    done.map_err(|source| VethError::Setting { netns: place(), source })
}

fn address6_message(index: u32, address: Ipv6Addr, len: u8) -> AddressMessage {
    AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(address, len).build()
}

/// The link-local address that the kernel makes of an Ethernet address (EUI-64, RFC 4291 appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, g] = mac.0;
    let part = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, part(a ^ 2, b), part(c, 0xff), part(0xfe, d), part(e, g))
}

fn add_address6(socket: &mut Socket, index: u32, address: Ipv6Addr) -> Result<(), Answer> {
    let mut message = address6_message(index, address, 128);
    message.header.flags |= AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    socket.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn add_gateway6(socket: &mut Socket, index: u32, mac: Mac) -> Result<(), Answer> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(LINK_GATEWAY)),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    socket.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn add_route6(socket: &mut Socket, index: u32, destination: Ipv6Net) -> Result<(), Answer> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    message.header.destination_prefix_length = destination.prefix_len();
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet6(destination.network())),
        RouteAttribute::Gateway(RouteAddress::Inet6(LINK_GATEWAY)),
        RouteAttribute::Oif(index),
    ];
    socket.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Whether the route that could not be added is ours already.
fn has_route6(socket: &mut Socket, index: u32, destination: Ipv6Net) -> bool {
    let routes = list_routes(socket, AddressFamily::Inet6, Some(PROTOCOL)).unwrap_or_default();
    let leads = |message: &RouteMessage| {
        let has = |wanted: &RouteAttribute| message.attributes.contains(wanted);
        let to = RouteAttribute::Destination(RouteAddress::Inet6(destination.network()));
        message.header.destination_prefix_length == destination.prefix_len()
            && (destination.prefix_len() == 0 || has(&to))
            && has(&RouteAttribute::Gateway(RouteAddress::Inet6(LINK_GATEWAY)))
            && has(&RouteAttribute::Oif(index))
    };
    routes.iter().any(leads)
}

/// Gives both ends the MTU `to`, from the one that `spec` says was set last.
///
/// The end that takes packets is never the narrower one meanwhile: a veth drops what does not fit the other end
/// (`is_skb_forwardable`).
pub(super) fn follow_mtu(
    spec: &VethSpec,
    to: u32,
    inside: &mut Socket,
    host: &mut Socket,
    netns: &NetNs,
) -> Result<Mtu, VethError> {
    let VethSpec { host_ifname, ifname, .. } = spec;
    let place = &netns.path().display().to_string();
    let near =
        device_by_name(host, host_ifname).map_err(|source| VethError::Step { what: format!("find {host_ifname}"), source })?;
    let far = device_by_name(inside, ifname).map_err(step(place, format!("find {ifname}")))?;
    let follows = far.mtu == spec.mtu || far.mtu == to;
    let widest = if follows { to } else { to.max(far.mtu) };
    let set_host = |host: &mut Socket, mtu: u32| {
        let done = set_link(host, near.index, vec![LinkAttribute::Mtu(mtu)], None);
        done.map_err(|source| VethError::Step { what: format!("set mtu {mtu} of {host_ifname}"), source })
    };
    if widest > near.mtu {
        set_host(host, widest)?;
    }
    if follows && far.mtu != to {
        set_link(inside, far.index, vec![LinkAttribute::Mtu(to)], None)
            .map_err(step(place, format!("set mtu {to} of {ifname}")))?;
    }
    if widest < near.mtu {
        set_host(host, widest)?;
    }
    if follows && far.mtu < MIN_MTU_V6 {
        furnish6(spec, to, near.mac.unwrap_or_else(|| veth_mac(host_ifname)), inside, netns)?;
    }
    Ok(if follows { Mtu::Set } else { Mtu::ByHand(far.mtu) })
}
