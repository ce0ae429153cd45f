//! Which addresses the uplink reaches without a router: the routes of the main table, and whether they are the last word.
//!
//! All of them are asked for at once and the longest prefix is taken here, so that it costs the same for one peer and for
//! thousands. What is not plainly a route by the uplink and without a gateway (several next hops, next hop objects, encapsulation,
//! a type of service, another device with the same prefix) counts as leading elsewhere: a wrong "elsewhere" costs the kernel a look
//! at its routes per packet, a wrong "here" would lose packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tracing::warn;
use weft_plan::routes::PROTOCOL;
use weft_plan::{OnLink, Uplink};

use super::act::is_without_ipv6;
use super::socket::Socket;
use super::{NetlinkError, observe};

/// What the device with this number reaches.
pub(super) fn of(socket: &mut Socket, device: u32) -> Result<OnLink, NetlinkError> {
    let mut on_link = OnLink { plain: true, ..OnLink::default() };
    let mut others = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        // Ours lead to containers and into the overlay, where no peer's outer address is (`weft_plan::peers`).
        let ours = RouteProtocol::from(PROTOCOL);
        for route in observe::list_routes(socket, family, None)?.iter().filter(|r| r.header.protocol != ours) {
            let Some(range) = destination(route) else { continue };
            if is_direct(route, device) {
                // Whether there is another way while the carrier is away is a matter of settings, which the kernel looks at.
                on_link.plain &= !route.header.flags.contains(RouteFlags::Linkdown);
                on_link.direct.push(range);
            } else {
                others.push(range);
            }
        }
        on_link.plain &= !has_rules(socket, family)?;
    }
    others.retain(|other| on_link.direct.iter().any(|direct| direct.contains(other)));
    // In an order that does not depend on the kernel's: whoever compares asks whether something changed.
    for ranges in [&mut on_link.direct, &mut others] {
        ranges.sort_unstable();
        ranges.dedup();
    }
    on_link.elsewhere = others;
    Ok(on_link)
}

/// What is gone by while routes or rules cannot be read: what was known of this device, so that no peer is given up for it. There
/// may be a route elsewhere by now, so nothing is certain.
pub(super) fn unread(error: &NetlinkError, device: u32, last: Option<&Uplink>) -> OnLink {
    let known = last.filter(|last| last.index == device).map(|last| last.on_link.clone());
    // Said once, not at every look.
    if known.as_ref().is_none_or(|known| known.plain) {
        warn!(
            error = error as &(dyn std::error::Error + 'static),
            "who is on the uplink's own link is not known; packets go by the kernel's routes"
        );
    }
    OnLink { plain: false, ..known.unwrap_or_default() }
}

/// Whether a route that came or went may change what was found: by an address without a router, or within ranges that were
/// reached so.
pub(super) fn concerns(route: &RouteMessage, direct: &[IpNet]) -> bool {
    let by_device = observe::output(route).is_some_and(|device| is_direct(route, device));
    let within = |range: IpNet| direct.iter().any(|direct| direct.contains(&range));
    by_device || destination(route).is_some_and(within)
}

/// Where a route leads to.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    // A default route does not say zeros.
    let address = address.or(match route.header.address_family {
        AddressFamily::Inet => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok().map(|net| net.trunc())
}

/// Whether packets leave by the device as they are, to whom they are for.
fn is_direct(route: &RouteMessage, device: u32) -> bool {
    // Dead routes are passed over by the kernel, unresolved ones are a multicast matter. Those of a device without a carrier it
    // goes by (unless `ignore_routes_with_linkdown` is set, which it is not by default): the peers are on that link as before.
    let odd = RouteFlags::Dead.union(RouteFlags::Unresolved);
    let plain = route.header.kind == RouteType::Unicast
        && route.header.tos == 0
        && route.header.source_prefix_length == 0
        && !route.header.flags.intersects(odd)
        && route.header.table == RouteHeader::RT_TABLE_MAIN;
    let by_router = |attribute: &RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::MultiPath(_)
                | RouteAttribute::NhId(_)
                | RouteAttribute::EncapType(_)
                | RouteAttribute::Encap(_)
        )
    };
    plain && observe::output(route) == Some(device) && !route.attributes.iter().any(by_router)
}

/// Whether there are rules of policy routing besides the three (in IPv6 two) that every namespace has.
fn has_rules(socket: &mut Socket, family: AddressFamily) -> Result<bool, NetlinkError> {
    let mut request = RuleMessage::default();
    request.header.family = family;
    let read = |payload: &[u8]| {
        let rule = RuleMessage::parse(payload)?;
        Ok((rule.header.family == family && !is_usual(&rule)).then_some(()))
    };
    match socket.list(&RouteNetlinkMessage::GetRule(request), read) {
        // Without CONFIG_IP_MULTIPLE_TABLES there are no rules at all.
        Err(answer) if matches!(answer.code(), libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Ok(false),
        Err(answer) if family == AddressFamily::Inet6 && is_without_ipv6(&answer) => Ok(false),
        listed => Ok(!listed.map_err(|source| NetlinkError::List { table: "rules", source })?.is_empty()),
    }
}

/// One of `0: lookup local`, `32766: lookup main`, `32767: lookup default`.
fn is_usual(rule: &RuleMessage) -> bool {
    const LOCAL: u32 = 255;
    const MAIN: u32 = 254;
    const DEFAULT: u32 = 253;
    let (mut table, mut priority) = (u32::from(rule.header.table), 0);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::Protocol(_) => {}
            _ => return false,
        }
    }
    let everything = rule.header.src_len == 0 && rule.header.dst_len == 0 && rule.header.tos == 0;
    let usual = [(0, LOCAL), (32766, MAIN), (32767, DEFAULT)].contains(&(priority, table));
    everything && usual && rule.header.action == RuleAction::ToTable && rule.header.flags.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_leaves_what_was_known_of_the_device_and_makes_it_uncertain() {
        let on_link = OnLink { direct: vec!["192.0.2.0/24".parse().unwrap()], elsewhere: Vec::new(), plain: true };
        let last = Uplink {
            name: "eth0".into(),
            index: 2,
            address: Some([192, 0, 2, 1].into()),
            address6: None,
            public_ip: Some([192, 0, 2, 1].into()),
            public_ipv6: None,
            mtu: 1500,
            ethernet: true,
            on_link: on_link.clone(),
        };
        let error = NetlinkError::Ending { what: "list routes" };
        let peer = "192.0.2.5".parse().unwrap();
        let kept = unread(&error, 2, Some(&last));
        assert!(kept.holds(peer) && !kept.is_next_hop(peer), "{kept:?}");
        for nothing in [unread(&error, 3, Some(&last)), unread(&error, 2, None)] {
            assert_eq!(nothing, OnLink::default());
        }
    }
}
