//! Which device tunnel packets leave by, and which addresses of it they bear: `--iface`, `--public-ip` and `--public-ipv6`
//! turned into facts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use weft_plan::Uplink;
use weft_plan::links::{is_veth_name, is_vxlan_name};

use super::act::is_without_ipv6;
use super::link::Device;
use super::socket::Socket;
use super::{Netlink, NetlinkError, observe, on_link};

/// Takes the device of the IPv4 default route, or of the IPv6 one where there is none.
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
        given: IpAddr,
        /// The addresses that there are, with their devices.
        there: Vec<String>,
    },
    /// Nothing was given, and there is nothing to go by.
    #[error("--iface auto: there is no default route; name an interface or address with --iface; there are {}", list(there))]
    NoDefaultRoute {
        /// The devices that there are.
        there: Vec<String>,
    },
    /// The device has no address that other hosts could send to.
    #[error("interface {device} has no address yet that other hosts could send to")]
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

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// A device's name, one of its addresses, or [`AUTO`].
    pub iface: String,
    /// `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The uplink that there was before.
    pub last: Option<Uplink>,
}

/// The uplink that is meant now.
///
/// Of each family it has the address given; else the public one, if the device has it; else the device's first that is
/// global, lasting (neither deprecated nor, in IPv6, temporary) and checked (not tentative): in IPv6 the one that it had
/// before, as long as that will do. What other hosts send to is the public address if there is one. A device that was the
/// uplink before, by ifindex, and bears another name now still is it, unless another device has taken the name.
///
/// # Errors
/// There is none, and why; only [`UplinkError::NoDevice`], [`UplinkError::NoSuchAddress`] and [`UplinkError::Ours`] cannot
/// become right by waiting.
pub async fn resolve(netlink: &Netlink, wish: &Wish) -> Result<Uplink, UplinkError> {
    let wish = wish.clone();
    netlink.with("find the uplink", move |socket| Ok(find(socket, &wish))).await?
}

fn find(socket: &mut Socket, wish: &Wish) -> Result<Uplink, UplinkError> {
    let Wish { iface, public_ip, public_ipv6, last } = wish;
    let devices = observe::devices(socket, None)?;
    let mut addresses = of_family(socket, AddressFamily::Inet)?;
    addresses.extend(of_family(socket, AddressFamily::Inet6)?);
    let (device, given) = match iface.parse::<IpAddr>() {
        _ if iface == AUTO => (of_default_route(socket, &devices)?, None),
        Ok(address) => (of_address(&devices, &addresses, address)?, Some(address)),
        Err(_) => (of_name(&devices, iface, last.as_ref().map(|last| last.index))?, None),
    };
    let name = || device.name.clone();
    if is_vxlan_name(&device.name) || is_veth_name(&device.name) {
        return Err(UplinkError::Ours { device: name() });
    }
    if !device.up {
        return Err(UplinkError::Down { device: name() });
    }
    let of_device: Vec<(&AddressMessage, IpAddr)> = addresses
        .iter()
        .filter(|a| a.header.index == device.index && a.header.scope == AddressScope::Universe)
        .filter_map(|a| Some((a, local(a)?)))
        .collect();
    let has = |wanted: &IpAddr| addresses.iter().any(|a| a.header.index == device.index && local(a) == Some(*wanted));
    let before = last.as_ref().filter(|last| last.index == device.index).and_then(|last| last.address6);
    let best = |v6: bool| {
        let usable = || of_device.iter().filter(move |(m, a)| a.is_ipv6() == v6 && !has_flag(m, UNCHECKED));
        let kept = usable().filter(|(m, a)| is_lasting(m) && before.map(IpAddr::V6) == Some(*a));
        let mut in_order = kept.chain(usable().filter(|(m, _)| is_lasting(m))).chain(usable());
        in_order.next().map(|(_, address)| *address)
    };
    let choose = |public: Option<IpAddr>, v6: bool| {
        let given = given.filter(|given| given.is_ipv6() == v6);
        given.or(public.filter(has)).or_else(|| best(v6))
    };
    let address = choose(public_ip.map(IpAddr::V4), false).and_then(v4);
    let address6 = choose(public_ipv6.map(IpAddr::V6), true).and_then(v6);
    if address.is_none() && address6.is_none() {
        return Err(UplinkError::NoAddress { device: name() });
    }
    Ok(Uplink {
        name: name(),
        index: device.index,
        address,
        address6,
        // What is translated to an address needs that address.
        public_ip: address.map(|own| public_ip.unwrap_or(own)),
        public_ipv6: address6.map(|own| public_ipv6.unwrap_or(own)),
        mtu: device.mtu,
        ethernet: device.ethernet,
        // One route of anybody's that cannot be read must not cost the host its overlay.
        on_link: on_link::of(socket, device.index).unwrap_or_else(|e| on_link::unread(&e, device.index, last.as_ref())),
    })
}

/// The addresses of a family; none where the kernel does not have it.
fn of_family(socket: &mut Socket, family: AddressFamily) -> Result<Vec<AddressMessage>, NetlinkError> {
    let mut request = AddressMessage::default();
    request.header.family = family;
    let read = |payload: &[u8]| {
        // A kernel without IPv6 lists those of all other families instead (`rtnl_dump_all`).
        Ok(Some(AddressMessage::parse(payload)?).filter(|message| message.header.family == family))
    };
    match socket.list(&RouteNetlinkMessage::GetAddress(request), read) {
        Err(answer) if family == AddressFamily::Inet6 && is_without_ipv6(&answer) => Ok(Vec::new()),
        listed => listed.map_err(|source| NetlinkError::List { table: "addresses", source }),
    }
}

/// The address itself: `IFA_LOCAL`, which differs from `IFA_ADDRESS` where there is a peer; IPv6 has it only there.
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = of(|a| if let AddressAttribute::Local(address) = a { Some(*address) } else { None });
    local.or_else(|| of(|a| if let AddressAttribute::Address(address) = a { Some(*address) } else { None }))
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(address) = address { Some(address) } else { None }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(address) = address { Some(address) } else { None }
}

fn of_name<'a>(devices: &'a [Device], name: &str, last: Option<u32>) -> Result<&'a Device, UplinkError> {
    let unknown = || UplinkError::NoDevice { given: name.to_owned(), there: candidates(devices) };
    let renamed = || devices.iter().find(|d| Some(d.index) == last);
    devices.iter().find(|d| d.name == name).or_else(renamed).ok_or_else(unknown)
}

fn of_address<'a>(devices: &'a [Device], addresses: &[AddressMessage], address: IpAddr) -> Result<&'a Device, UplinkError> {
    let index = addresses.iter().find(|a| local(a) == Some(address)).map(|a| a.header.index);
    let device = |index: u32| devices.iter().find(|d| d.index == index);
    index.and_then(device).ok_or_else(|| {
        let spell = |a: &AddressMessage| Some(format!("{} ({})", local(a)?, device(a.header.index)?.name));
        let there = addresses.iter().filter(|a| a.header.scope == AddressScope::Universe).filter_map(spell).collect();
        UplinkError::NoSuchAddress { given: address, there }
    })
}

/// The device of the default route with the lowest metric, of IPv4 if there is one.
fn of_default_route<'a>(socket: &mut Socket, devices: &'a [Device]) -> Result<&'a Device, UplinkError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = observe::list_routes(socket, family, None)?;
        let defaults = routes.iter().filter(|r| r.header.destination_prefix_length == 0 && r.header.kind == RouteType::Unicast);
        let best = defaults.min_by_key(|route| observe::metric(route)).and_then(output);
        if let Some(device) = best.and_then(|index| devices.iter().find(|d| d.index == index)) {
            return Ok(device);
        }
    }
    Err(UplinkError::NoDefaultRoute { there: candidates(devices) })
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

/// Addresses that are still being looked for on the link, or were found there.
const UNCHECKED: AddressFlags = AddressFlags::Tentative.union(AddressFlags::Dadfailed);

/// Neither deprecated nor a temporary one of IPv6 (RFC 8981), whose flag is that of IPv4's secondary addresses, which last.
fn is_lasting(message: &AddressMessage) -> bool {
    let temporary = message.header.family == AddressFamily::Inet6 && has_flag(message, AddressFlags::Secondary);
    !temporary && !has_flag(message, AddressFlags::Deprecated)
}

fn has_flag(message: &AddressMessage, wanted: AddressFlags) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => flags.intersects(wanted),
        _ => false,
    })
}
