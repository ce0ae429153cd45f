//! Whether a pair is as it was made. Looks, and changes nothing.
//!
//! What others have added (routes, addresses, a narrower MTU) is theirs to add; what is asked is whether packets still pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::{VethError, VethSpec};
use crate::kernel::netlink::{
    Answer, FINISHED, Netlink, NetlinkError, Socket, addresses, device_by_name, list_routes, local, local6, open_in, output,
};
use crate::kernel::netns::NetNs;

/// What is missing or other than it was made, as sentences; none if all is well.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn look(spec: &VethSpec, netns: &NetNs) -> Result<Vec<String>, VethError> {
    look_from(&Netlink::new()?, spec, netns).await
}

/// As [`look`], with the host end where `host` is.
///
/// # Errors
/// As [`look`].
pub async fn look_from(host: &Netlink, spec: &VethSpec, netns: &NetNs) -> Result<Vec<String>, VethError> {
    let mut inside = open_in(netns)?;
    let (spec, place) = (spec.clone(), netns.path().display().to_string());
    let look = move |host: &mut Socket| {
        let mut wrong = near(&spec, host)?;
        wrong.extend(far(&spec, &mut inside)?.into_iter().map(|what| format!("{what} in {place}")));
        Ok(wrong)
    };
    Ok(host.with("look at a veth pair", look).await?)
}

fn find(answer: Answer, name: &str) -> Result<String, NetlinkError> {
    if answer.code() == libc::ENODEV {
        return Ok(format!("there is no {name}"));
    }
    Err(NetlinkError::List { table: "devices", source: answer })
}

fn near(spec: &VethSpec, host: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    let name = &spec.host_ifname;
    let device = match device_by_name(host, name) {
        Ok(device) => device,
        Err(answer) => return Ok(vec![format!("{} on this host", find(answer, name)?)]),
    };
    let mut wrong = Vec::new();
    if device.alias.as_deref() != Some(FINISHED) {
        wrong.push(format!("{name} is not made to its end"));
    }
    if !device.up {
        wrong.push(format!("{name} is down"));
    }
    for address in [Some(IpAddr::V4(spec.address)), spec.address6.map(IpAddr::V6)].into_iter().flatten() {
        if !leads(&routes(host, address)?, IpNet::from(address), device.index) {
            wrong.push(format!("no route to {address} by {name}"));
        }
    }
    Ok(wrong)
}

fn far(spec: &VethSpec, inside: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    let name = &spec.ifname;
    let device = match device_by_name(inside, name) {
        Ok(device) => device,
        Err(answer) => return Ok(vec![find(answer, name)?]),
    };
    let mut wrong = Vec::new();
    if !device.up {
        wrong.push(format!("{name} is down"));
    }
    if let Some(mac) = device.mac.filter(|mac| *mac != spec.mac) {
        wrong.push(format!("the address of {name} is {mac} in place of {}", spec.mac));
    }
    if device.mtu > spec.mtu {
        wrong.push(format!("the MTU of {name} is {}, and {} is what passes", device.mtu, spec.mtu));
    }
    let there: Vec<IpAddr> = [AddressFamily::Inet, AddressFamily::Inet6]
        .into_iter()
        .map(|family| addresses(inside, family))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .filter(|message| message.header.index == device.index)
        .filter_map(|message| local(&message).map(IpAddr::V4).or_else(|| local6(&message).map(IpAddr::V6)))
        .collect();
    let wanted = [Some(IpAddr::V4(spec.address)), spec.address6.map(IpAddr::V6)].into_iter().flatten();
    for address in wanted {
        if !there.contains(&address) {
            wrong.push(format!("no address {address} on {name}"));
        }
    }
    for destination in spec.routes.iter().filter(|net| net.addr().is_ipv4() || spec.address6.is_some()) {
        if !leads(&routes(inside, destination.addr())?, *destination, device.index) {
            wrong.push(format!("no route to {destination} by {name}"));
        }
    }
    Ok(wrong)
}

/// All routes of an address's family.
fn routes(socket: &mut Socket, of: IpAddr) -> Result<Vec<RouteMessage>, NetlinkError> {
    list_routes(socket, if of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }, None)
}

/// Whether one of the routes is to this destination and leads out of this device.
fn leads(routes: &[RouteMessage], destination: IpNet, index: u32) -> bool {
    routes.iter().any(|route| {
        let to = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        });
        let everything = if destination.addr().is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        route.header.destination_prefix_length == destination.prefix_len()
            && to.unwrap_or(everything) == destination.network()
            && output(route) == Some(index)
    })
}
