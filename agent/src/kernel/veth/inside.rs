//! The container's end of a veth pair: what it is furnished with in its own namespace, and how its MTU follows.

use ipnet::Ipv4Net;
use netlink_packet_route::link::LinkAttribute;
use weft_model::mac::Mac;
use weft_plan::host::LOOPBACK;
use weft_plan::routes::{Route, Via};

use super::{VethError, VethSpec};
use crate::kernel::netlink::{
    Answer, Socket, add_address, add_neighbor, add_route, device_by_name, no_autoconf, set_link, unless_without_ipv6,
};
use crate::kernel::netns::NetNs;

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
    let beyond = spec.routes.iter().map(|destination| (*destination, through.clone()));
    for (destination, via) in [to_gateway].into_iter().chain(beyond) {
        let row = Route { destination: destination.into(), metric: 0, via, mtu: None };
        match add_route(inside, &row) {
            Err(answer) if answer.code() == libc::EEXIST && destination.prefix_len() == 0 => {
                return Err(VethError::DefaultRoute { ifname: ifname.clone(), netns: netns.path().to_owned() });
            }
            done => done.map_err(step(format!("add {row}")))?,
        }
    }
    Ok(())
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
    place: &str,
) -> Result<Mtu, VethError> {
    let VethSpec { host_ifname, ifname, .. } = spec;
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
    Ok(if follows { Mtu::Set } else { Mtu::ByHand(far.mtu) })
}
