//! A further interface of a namespace: what comes in by it is answered by it.
//!
//! The first interface has the default route. A further one has a table of its own with its way out, and a rule that sends what
//! bears its address there: without them an answer would leave by the first interface, whose host end drops what is not its own.
//!
//! ```text
//!   ip rule add from 10.245.3.5 lookup 183829253 protocol 119       the table's number is the address, so none is taken twice
//!   ip route add 10.245.3.1 dev eth1 table …
//!   ip route add default via 10.245.3.1 dev eth1 onlink table …
//! ```

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use weft_plan::ipam::LINK_GATEWAY;
use weft_plan::routes::PROTOCOL;

use super::{VethError, VethSpec};
use crate::kernel::netlink::{Answer, Socket, open_in};
use crate::kernel::netns::NetNs;

/// The rules' place: before the main table's (32766), behind those of anybody who chose a place.
const PRIORITY: u32 = 32_000;

/// The table of a further interface.
fn table(address: Ipv4Addr) -> u32 {
    u32::from(address)
}

fn step(what: String) -> impl FnOnce(Answer) -> VethError {
    move |source| VethError::Step { what, source }
}

/// Makes rules and tables of the interface with this number. What is there already stays.
pub(super) fn furnish(spec: &VethSpec, index: u32, inside: &mut Socket) -> Result<(), VethError> {
    let place = format!("{} of a further interface", spec.ifname);
    for address in addresses(spec) {
        let said = |what: &str| format!("add {what} for {address}, {place}");
        done(inside.change(RouteNetlinkMessage::NewRule(rule(spec, address)), NLM_F_CREATE | NLM_F_EXCL))
            .map_err(step(said("rule")))?;
        for message in routes(spec, address, index) {
            done(inside.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL))
                .map_err(step(said("a route of its table")))?;
        }
    }
    Ok(())
}

/// Removes the rules of a further interface, whose routes end with it.
///
/// # Errors
/// When the namespace cannot be entered or the kernel refuses.
pub async fn forget(spec: &VethSpec, netns: &NetNs) -> Result<(), VethError> {
    let mut inside = open_in(netns)?;
    let spec = spec.clone();
    let forget = move || {
        for address in addresses(&spec) {
            match inside.change(RouteNetlinkMessage::DelRule(rule(&spec, address)), 0) {
                Err(answer) if matches!(answer.code(), libc::ENOENT | libc::EAFNOSUPPORT) => {}
                done => done.map_err(step(format!("remove the rule for {address}, {} of a further interface", spec.ifname)))?,
            }
        }
        Ok(())
    };
    match tokio::task::spawn_blocking(forget).await {
        Ok(done) => done,
        Err(e) => Err(VethError::Step { what: "remove rules".to_owned(), source: std::io::Error::other(e.to_string()).into() }),
    }
}

/// There already is done.
fn done(answer: Result<(), Answer>) -> Result<(), Answer> {
    match answer {
        Err(answer) if answer.code() == libc::EEXIST => Ok(()),
        answer => answer,
    }
}

/// IPv6 has its rule only where the link is wide enough for IPv6.
fn addresses(spec: &VethSpec) -> impl Iterator<Item = IpAddr> + use<> {
    let wide = spec.mtu >= weft_plan::host::MIN_MTU_V6;
    [Some(IpAddr::V4(spec.address)), spec.address6.filter(|_| wide).map(IpAddr::V6)].into_iter().flatten()
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn rule(spec: &VethSpec, address: IpAddr) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(address);
    message.header.src_len = if address.is_ipv4() { 32 } else { 128 };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(address),
        RuleAttribute::Table(table(spec.address)),
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    message
}

fn routes(spec: &VethSpec, of: IpAddr, index: u32) -> Vec<RouteMessage> {
    let gateway = if of.is_ipv4() { IpAddr::V4(spec.gateway) } else { IpAddr::V6(LINK_GATEWAY) };
    let everything = if of.is_ipv4() { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
    let route = |to: IpNet, via: Option<IpAddr>| {
        let mut message = RouteMessage::default();
        message.header.address_family = family(of);
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.header.protocol = RouteProtocol::from(PROTOCOL);
        message.header.kind = RouteType::Unicast;
        message.header.scope = if via.is_some() || of.is_ipv6() { RouteScope::Universe } else { RouteScope::Link };
        message.header.destination_prefix_length = to.prefix_len();
        message.attributes = vec![RouteAttribute::Table(table(spec.address)), RouteAttribute::Oif(index)];
        if to.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(spelled(to.addr())));
        }
        if let Some(via) = via {
            message.attributes.push(RouteAttribute::Gateway(spelled(via)));
            message.header.flags.insert(RouteFlags::Onlink);
        }
        message
    };
    let to_gateway = of.is_ipv4().then(|| route(IpNet::from(gateway), None));
    to_gateway.into_iter().chain([route(everything, Some(gateway))]).collect()
}

fn spelled(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}
