//! A pair whose container end is made beside the host's end and handed to a tool, which moves, renames, addresses and routes it.
//!
//! Docker does so. What it leaves out is done once the end is where it belongs: see [`settle`]. The end is known by its alias,
//! which stays with a device whatever its name and namespace become; its Ethernet address may be another interface's too.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::{LinkUnspec, LinkVeth};
use weft_plan::links::veth_mac;

use super::{VethError, VethSpec, finish, inside, set_up, step};
use crate::kernel::netlink::{Netlink, Socket, add_neighbor, device_by_name, devices, open_in, remove_device, set_link};
use crate::kernel::netns::NetNs;

/// Makes a pair with both ends here: the host's as [`super::create`] makes it, the container's down, called `spec.ifname`, with its
/// Ethernet address and MTU and nothing else. If a step fails, nothing is left.
///
/// # Errors
/// A name is taken, or a step failed.
pub async fn make_handed(spec: &VethSpec) -> Result<(), VethError> {
    let spec = spec.clone();
    Netlink::new()?
        .with("make a veth pair", move |host| {
            Ok(pair(&spec, host).and_then(|()| {
                let made = furnish(&spec, host);
                if made.is_err() {
                    // Takes the other end with it. The first failure is the one to tell.
                    let _ = remove_device(host, &spec.host_ifname);
                }
                made
            }))
        })
        .await?
}

fn pair(spec: &VethSpec, host: &mut Socket) -> Result<(), VethError> {
    let VethSpec { host_ifname, ifname, .. } = spec;
    let peer = LinkUnspec::new_with_name(ifname).address(spec.mac.0.to_vec()).mtu(spec.mtu).build();
    let message = LinkVeth::new(host_ifname, ifname)
        .address(veth_mac(host_ifname).0.to_vec())
        .mtu(spec.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    match host.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
        Err(answer) if answer.code() == libc::EEXIST => {
            let taken = [host_ifname, ifname].into_iter().find(|name| device_by_name(host, name).is_ok());
            Err(VethError::HostTaken { host_ifname: taken.unwrap_or(host_ifname).clone() })
        }
        done => done.map_err(step(format!("make veth {host_ifname} and {ifname}"))),
    }
}

fn furnish(spec: &VethSpec, host: &mut Socket) -> Result<(), VethError> {
    let VethSpec { host_ifname, ifname, .. } = spec;
    let far = device_by_name(host, ifname).map_err(step(format!("find {ifname}")))?;
    let alias = LinkAttribute::IfAlias(host_ifname.clone());
    set_link(host, far.index, vec![alias], None).map_err(step(format!("set alias of {ifname}")))?;
    set_up(host_ifname, host)?;
    finish(host_ifname, host)
}

/// The name of the container's end of the pair `host_ifname` in a namespace, once it is there and up: then it has been addressed.
///
/// # Errors
/// When devices there cannot be listed.
pub async fn find_handed(host_ifname: &str, netns: &NetNs) -> Result<Option<String>, VethError> {
    let host_ifname = host_ifname.to_owned();
    let mut inside = open_in(netns)?;
    let find = move |_: &mut Socket| {
        let mut all = devices(&mut inside, Some(InfoKind::Veth))?.into_iter();
        Ok(all.find(|d| d.up && d.alias.as_deref() == Some(&host_ifname)).map(|d| d.name))
    };
    Ok(Netlink::new()?.with("list devices", find).await?)
}

/// Furnishes a container's end that a tool has moved, with what the tool left out: the gateway as a permanent neighbour, and no
/// IPv6 address that the device made up for itself. `spec.ifname` is its name there.
///
/// # Errors
/// When a step failed. Asking again does what is missing.
pub async fn settle(spec: &VethSpec, netns: &NetNs) -> Result<(), VethError> {
    let mut inside = open_in(netns)?;
    let place = netns.try_clone().map_err(|source| super::NetlinkError::Open { place: None, source })?;
    // Routes are the tool's.
    let spec = VethSpec { routes: Vec::new(), ..spec.clone() };
    let work = move |host: &mut Socket| {
        let VethSpec { host_ifname, ifname, gateway, .. } = &spec;
        let mut furnish = || {
            let near = device_by_name(host, host_ifname).map_err(step(format!("find {host_ifname}")))?;
            let host_mac = near.mac.unwrap_or_else(|| veth_mac(host_ifname));
            let far = device_by_name(&mut inside, ifname).map_err(step(format!("find {ifname}")))?;
            add_neighbor(&mut inside, far.index, (*gateway).into(), host_mac)
                .map_err(step(format!("add neighbor {gateway} address {host_mac} dev {ifname}")))?;
            inside::furnish6(&spec, spec.mtu, host_mac, &mut inside, &place)
        };
        Ok(furnish())
    };
    Netlink::new()?.with("furnish a container's end", work).await?
}
