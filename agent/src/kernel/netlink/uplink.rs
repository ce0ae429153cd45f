//! Which device tunnel packets leave by: `--iface` and `--public-ip` turned into facts.

use std::net::Ipv4Addr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use weft_plan::Uplink;
use weft_plan::links::{is_veth_name, is_vxlan_name};

use super::link::Device;
use super::socket::Socket;
use super::{Netlink, NetlinkError, observe, on_link};

/// Takes the device of the IPv4 default route.
pub const AUTO: &str = "auto";

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No device bears the name.
    #[error("--iface {given}: there is no such interface; there are {}", list(there))]
    NoDevice {
        /// What was given.
        given: String,
        /// The devices that there are.
        there: Vec<String>,
    },
    /// No device has the address.
    #[error("--iface {given}: no interface has this address; there are {}", list(there))]
    NoSuchAddress {
        /// What was given.
        given: Ipv4Addr,
        /// The addresses that there are, with their devices.
        there: Vec<String>,
    },
    /// Nothing was given, and there is nothing to go by.
    #[error("--iface auto: there is no IPv4 default route; name an interface or address with --iface; there are {}", list(there))]
    NoDefaultRoute {
        /// The devices that there are.
        there: Vec<String>,
    },
    /// The device has no IPv4 address that other hosts could send to.
    #[error("interface {device} has no IPv4 address yet")]
    NoAddress {
        /// The device.
        device: String,
    },
    /// The device is down.
    #[error("interface {device} is down")]
    Down {
        /// The device.
        device: String,
    },
    /// The device is one of ours.
    #[error("interface {device} is part of the overlay itself")]
    Ours {
        /// The device.
        device: String,
    },
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The uplink that `iface` (a device's name, one of its addresses, or [`AUTO`]) means now.
///
/// Its address is the one given; else `public_ip`, if the device has it; else the device's first that is global and not
/// deprecated. What other hosts send to is `public_ip` if there is one. A device that was the uplink before (`last`, by
/// ifindex) and bears another name now still is it, unless another device has taken the name.
///
/// # Errors
/// There is none, and why; only [`UplinkError::NoDevice`], [`UplinkError::NoSuchAddress`] and [`UplinkError::Ours`] cannot
/// become right by waiting.
pub async fn resolve(
    netlink: &Netlink,
    iface: &str,
    public_ip: Option<Ipv4Addr>,
    last: Option<u32>,
) -> Result<Uplink, UplinkError> {
    let iface = iface.to_owned();
    netlink.with("find the uplink", move |socket| Ok(find(socket, &iface, public_ip, last))).await?
}

fn find(socket: &mut Socket, iface: &str, public_ip: Option<Ipv4Addr>, last: Option<u32>) -> Result<Uplink, UplinkError> {
    let devices = observe::devices(socket, None)?;
    let addresses = observe::all_addresses(socket)?;
    let (device, given) = match iface.parse::<Ipv4Addr>() {
        _ if iface == AUTO => (of_default_route(socket, &devices)?, None),
        Ok(address) => (of_address(&devices, &addresses, address)?, Some(address)),
        Err(_) => (of_name(&devices, iface, last)?, None),
    };
    let name = || device.name.clone();
    if is_vxlan_name(&device.name) || is_veth_name(&device.name) {
        return Err(UplinkError::Ours { device: name() });
    }
    if !device.up {
        return Err(UplinkError::Down { device: name() });
    }
    let of_device = || addresses.iter().filter(|a| a.header.index == device.index);
    let public_here = public_ip.filter(|ip| of_device().any(|a| observe::local(a) == Some(*ip)));
    let usable = || of_device().filter(|a| a.header.scope == AddressScope::Universe);
    let lasting = usable().find(|a| !is_deprecated(a)).or_else(|| usable().next()).and_then(observe::local);
    let address = given.or(public_here).or(lasting).ok_or_else(|| UplinkError::NoAddress { device: name() })?;
    Ok(Uplink {
        name: name(),
        index: device.index,
        address: Some(address),
        address6: None,
        public_ip: Some(public_ip.unwrap_or(address)),
        public_ipv6: None,
        mtu: device.mtu,
        ethernet: device.ethernet,
        on_link: on_link::of(socket, device.index)?,
    })
}

fn of_name<'a>(devices: &'a [Device], name: &str, last: Option<u32>) -> Result<&'a Device, UplinkError> {
    let unknown = || UplinkError::NoDevice { given: name.to_owned(), there: candidates(devices) };
    let renamed = || devices.iter().find(|d| Some(d.index) == last);
    devices.iter().find(|d| d.name == name).or_else(renamed).ok_or_else(unknown)
}

fn of_address<'a>(devices: &'a [Device], addresses: &[AddressMessage], address: Ipv4Addr) -> Result<&'a Device, UplinkError> {
    let index = addresses.iter().find(|a| observe::local(a) == Some(address)).map(|a| a.header.index);
    let device = |index: u32| devices.iter().find(|d| d.index == index);
    index.and_then(device).ok_or_else(|| {
        let spell = |a: &AddressMessage| Some(format!("{} ({})", observe::local(a)?, device(a.header.index)?.name));
        let there = addresses.iter().filter(|a| a.header.scope == AddressScope::Universe).filter_map(spell).collect();
        UplinkError::NoSuchAddress { given: address, there }
    })
}

/// The device of the default route with the lowest metric.
fn of_default_route<'a>(socket: &mut Socket, devices: &'a [Device]) -> Result<&'a Device, UplinkError> {
    let routes = observe::list_routes(socket, AddressFamily::Inet, None)?;
    let defaults = routes.iter().filter(|r| r.header.destination_prefix_length == 0 && r.header.kind == RouteType::Unicast);
    let best = defaults.min_by_key(|route| observe::metric(route)).and_then(output);
    let device = best.and_then(|index| devices.iter().find(|d| d.index == index));
    device.ok_or_else(|| UplinkError::NoDefaultRoute { there: candidates(devices) })
}

/// Where a route leads out; of several next hops the first.
fn output(route: &RouteMessage) -> Option<u32> {
    let of_hop = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    };
    observe::output(route).or_else(|| route.attributes.iter().find_map(of_hop))
}

/// The devices that one would choose from: no loopback, none of ours.
fn candidates(devices: &[Device]) -> Vec<String> {
    let other = |d: &&Device| d.name != weft_plan::host::LOOPBACK && !is_vxlan_name(&d.name) && !is_veth_name(&d.name);
    devices.iter().filter(other).map(|d| d.name.clone()).collect()
}

fn is_deprecated(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Deprecated),
        _ => false,
    })
}
