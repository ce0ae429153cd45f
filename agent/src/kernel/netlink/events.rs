//! "Something that concerns us has changed": devices, addresses, routes, neighbours and whether packets are forwarded, as the
//! kernel tells its listeners.
//!
//! What exactly changed is not said, because the answer is always the same: read everything back and compare. Notifications
//! that were lost because they came too fast count as a change.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_REPLACE, NetlinkBuffer, NlasIterator, Parseable, parse_i32};
use netlink_packet_route::link::InfoKind;
use netlink_packet_route::neighbour::NeighbourHeader;
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;
use weft_plan::links::{is_veth_name, is_vxlan_name};
use weft_plan::routes::PROTOCOL;

use super::link::Device;
use super::socket::{Socket, grow, messages};
use super::{NetlinkError, observe, on_link};

/// Receive buffer in bytes: notifications of some ten thousand changes at once, before any is lost.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What one `recv` takes at most, in bytes.
const DATAGRAM: usize = 64 << 10;

/// How often a listener whose socket is broken says that there may have been a change.
const BROKEN: Duration = Duration::from_secs(1);

// include/uapi/linux/rtnetlink.h: RTNLGRP_*, as bits.
pub(super) const GROUP_LINK: u32 = 1 << 0;
const GROUP_NEIGH: u32 = 1 << 2;
const GROUP_IPV4_IFADDR: u32 = 1 << 4;
const GROUP_IPV4_ROUTE: u32 = 1 << 6;
const GROUP_IPV4_RULE: u32 = 1 << 7;
const GROUP_IPV6_IFADDR: u32 = 1 << 8;
const GROUP_IPV6_ROUTE: u32 = 1 << 10;
const GROUP_IPV6_RULE: u32 = 1 << 18;
// Of the settings below /proc/sys the kernel tells of a few, `forwarding` among them (Linux 3.8; seen on 6.18).
const GROUP_IPV4_NETCONF: u32 = 1 << 23;
const GROUP_IPV6_NETCONF: u32 = 1 << 24;

// The same: RTM_*.
const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNETCONF: u16 = 80;

/// Length of `struct netconfmsg`, in bytes: one, padded (include/uapi/linux/netconf.h).
const NETCONF_HEADER: usize = 4;

// The same: NETCONFA_*, and the number in the place of a device's for all of them.
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_IFINDEX_ALL: i32 = -1;

/// A listener in the network namespace that it was made in.
#[derive(Debug)]
pub struct Events {
    socket: AsyncFd<RawSocket>,
    ours: BTreeSet<u32>,
    watched: Vec<IpNet>,
    buffer: Vec<u8>,
    broken: bool,
}

impl Events {
    /// Listens in the network namespace of the calling thread, which must be one of the runtime's.
    ///
    /// # Errors
    /// When there can be no socket.
    pub fn new() -> Result<Self, NetlinkError> {
        let open = |source| NetlinkError::Open { place: None, source };
        let socket = subscribe().map_err(open)?;
        let mut query = Socket::open().map_err(open)?;
        Self::listen(socket, &mut query)
    }

    /// Listens in another network namespace.
    ///
    /// # Errors
    /// As [`Events::new`], and when the namespace cannot be entered.
    pub fn in_namespace(netns: &crate::kernel::netns::NetNs) -> Result<Self, NetlinkError> {
        let open = |source| NetlinkError::Open { place: Some(netns.path().display().to_string()), source };
        let socket = netns.run(subscribe).and_then(|socket| socket).map_err(open)?;
        Self::listen(socket, &mut super::open_in(netns)?)
    }

    fn listen(socket: RawSocket, query: &mut Socket) -> Result<Self, NetlinkError> {
        // SAFETY: the descriptor is the socket's own: open until the socket, which moves into the `AsyncFd`, is dropped, and
        // always the same number.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = socket.map_err(|e| NetlinkError::Open { place: None, source: e.into() })?;
        // Listed after the subscription, so no device is missed in between.
        let mut ours = BTreeSet::new();
        for kind in [InfoKind::Vxlan, InfoKind::Veth] {
            let devices = observe::devices(query, Some(kind))?;
            ours.extend(devices.iter().filter(|d| is_ours(&d.name)).map(|d| d.index));
        }
        Ok(Self { socket, ours, watched: Vec::new(), buffer: Vec::with_capacity(DATAGRAM), broken: false })
    }

    /// From now on a route of anybody's to a part of these ranges concerns us, and no route to a part of others: those that are on the
    /// uplink's link. (What was missed before is in the next reading, which follows.)
    pub fn watch(&mut self, ranges: &[IpNet]) {
        if self.watched != ranges {
            self.watched = ranges.to_vec();
        }
    }

    /// Returns once something has changed, and everything that was there to read has been read: a burst is one change.
    /// Giving up waiting loses nothing.
    pub async fn changed(&mut self) {
        loop {
            let ready = match self.socket.readable().await {
                Ok(mut ready) => {
                    // Read until the socket is empty, so "not ready any more" is true.
                    let drained = drain(self.socket.get_ref(), &mut self.buffer, &mut self.ours, &self.watched);
                    ready.clear_ready();
                    drained
                }
                Err(e) => Err(e),
            };
            match ready {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.broken, true) {
                        warn!(%error, "netlink notifications do not work; polling instead");
                    }
                    tokio::time::sleep(BROKEN).await;
                    return;
                }
            }
        }
    }
}

fn subscribe() -> io::Result<RawSocket> {
    let mut socket = RawSocket::new(NETLINK_ROUTE)?;
    grow(socket.as_fd(), RECEIVE_BUFFER)?;
    let groups = GROUP_LINK | GROUP_NEIGH | GROUP_IPV4_IFADDR | GROUP_IPV6_IFADDR | GROUP_IPV4_ROUTE | GROUP_IPV6_ROUTE;
    let settings = GROUP_IPV4_NETCONF | GROUP_IPV6_NETCONF | GROUP_IPV4_RULE | GROUP_IPV6_RULE;
    socket.bind(&SocketAddr::new(0, groups | settings))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Reads all there is; whether any of it concerns us.
fn drain(socket: &RawSocket, buffer: &mut Vec<u8>, ours: &mut BTreeSet<u32>, watched: &[IpNet]) -> io::Result<bool> {
    let mut changed = false;
    loop {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match socket.recv(buffer, 0) {
            Ok(_) => {
                for message in messages(buffer) {
                    changed |= concerns_us(&message, ours, watched);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Some were lost; any of them might have concerned us.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
            Err(e) => return Err(e),
        }
    }
}

/// On a busy host most of what is told concerns others: the state of their neighbours, the routes of their daemons.
fn concerns_us(message: &NetlinkBuffer<&[u8]>, ours: &mut BTreeSet<u32>, watched: &[IpNet]) -> bool {
    let payload = message.payload();
    match message.message_type() {
        RTM_NEWLINK => {
            if let Ok(device) = Device::parse(payload)
                && is_ours(&device.name)
            {
                ours.insert(device.index);
            }
            true
        }
        RTM_DELLINK => {
            if let Ok(device) = Device::parse(payload) {
                ours.remove(&device.index);
            }
            true
        }
        RTM_NEWADDR | RTM_DELADDR | RTM_NEWRULE | RTM_DELRULE => true,
        RTM_NEWNEIGH | RTM_DELNEIGH => NeighbourHeader::parse(payload).is_ok_and(|header| ours.contains(&header.ifindex)),
        RTM_NEWROUTE | RTM_DELROUTE => {
            let Ok(route) = RouteMessage::parse(payload) else { return true };
            // One of ours; a default route, which the uplink may follow; one without a gateway or into a range that the uplink reaches
            // without one, which says who is on its link; one that was put in another's place, perhaps ours, whose end is then not
            // told.
            let default = route.header.kind == RouteType::Unicast && route.header.destination_prefix_length == 0;
            route.header.protocol == RouteProtocol::from(PROTOCOL)
                || route.header.table == RouteHeader::RT_TABLE_MAIN
                    && (default || message.flags() & NLM_F_REPLACE != 0 || on_link::concerns(&route, watched))
        }
        RTM_NEWNETCONF => is_forwarding_of_ours(payload, ours),
        _ => false,
    }
}

/// Whether a notice of settings is about forwarding, by the whole host or by a device of ours.
fn is_forwarding_of_ours(payload: &[u8], ours: &BTreeSet<u32>) -> bool {
    let (mut concerned, mut forwarding) = (false, false);
    for attribute in NlasIterator::new(payload.get(NETCONF_HEADER..).unwrap_or_default()).flatten() {
        match attribute.kind() {
            NETCONFA_IFINDEX => {
                let index = parse_i32(attribute.value()).unwrap_or_default();
                concerned = index == NETCONFA_IFINDEX_ALL || ours.contains(&index.cast_unsigned());
            }
            NETCONFA_FORWARDING => forwarding = true,
            _ => {}
        }
    }
    concerned && forwarding
}

fn is_ours(name: &str) -> bool {
    is_vxlan_name(name) || is_veth_name(name)
}
