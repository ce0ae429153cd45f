//! Published ports at the host's own loopback: the container on the way out, the loopback address on the way back.
//!
//! Packets to a published port are sent to its container by the packet filter; but one from 127.0.0.1 to 127.0.0.1 cannot be,
//! since it could not leave. So the sockets of the host itself, and only they (a container's loopback is its own), are connected
//! to the container instead, as [`crate::sockets`] does it for virtual addresses. Ports that nobody published pass
//! untouched, and without any published port ([`Config::PUBLISHED`]) nothing is looked up.

use weft_abi::maps::{NETWORK_ALL, PROTO_TCP, PROTO_UDP};
use weft_abi::{Be16, Be32, Be128, Config, PortBackKey, PortKey, PortTarget};

/// `::1`.
const LOOPBACK6: Be128 = Be128::from_words([Be32::ZERO, Be32::ZERO, Be32::ZERO, Be32::from_native(1)]);

/// 127.0.0.1 and the range that it is in.
const LOOPBACK: Be32 = Be32::from_native(0x7f00_0001);
const LOOPBACK_RANGE: Be32 = Be32::from_native(0x7f00_0000);
const LOOPBACK_MASK: Be32 = Be32::from_native(0xff00_0000);

/// The rows that are needed, and what only the kernel knows of the caller.
pub trait Tables {
    /// The one row of configuration.
    fn config(&self) -> Option<&Config>;
    /// The network of the caller's namespace.
    fn network(&self) -> Option<u32>;
    /// What stands behind a published port.
    fn port(&self, key: &PortKey) -> Option<PortTarget>;
    /// What was remembered for a socket and container.
    fn recall(&self, key: &PortBackKey) -> Option<PortTarget>;
    /// Remembers; false if there was no room.
    fn remember(&self, key: &PortBackKey, value: &PortTarget) -> bool;
    /// Forgets.
    fn forget(&self, key: &PortBackKey);
}

/// A socket and an address of either family: where it is to go, or where something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The socket's cookie.
    pub cookie: u64,
    /// The address; IPv4 as [`Be128::mapped`].
    pub addr: Be128,
    /// The port.
    pub port: Be16,
    /// The IP protocol.
    pub proto: u8,
    /// As [`crate::sockets::Call::via`].
    pub via: u8,
}

impl Call {
    #[inline(always)]
    fn record_of(&self, addr: Be128, port: Be16) -> PortBackKey {
        PortBackKey { cookie: self.cookie, addr, port, proto: self.proto, via: self.via, pad: 0 }
    }

    #[inline(always)]
    fn key_of(&self, addr: Be128, port: Be16) -> PortKey {
        PortKey { addr, port, proto: self.proto, pad: 0 }
    }
}

/// connect() or sendmsg() to `call`: the container to use instead; `None`: the address stays as it is.
#[inline(always)]
pub fn outbound<T: Tables>(tables: &T, call: &Call) -> Option<PortTarget> {
    if !is_ours(tables, call) {
        return None;
    }
    let Some(named) = loopback(call.addr) else {
        // The application itself names what may have been our choice before: that is no longer our translation.
        let record = call.record_of(call.addr, call.port);
        if tables.recall(&record).is_some() {
            tables.forget(&record);
        }
        return None;
    };
    let target = tables.port(&call.key_of(named, call.port))?;
    let record = call.record_of(target.addr, target.port);
    let value = PortTarget { addr: named, port: call.port, pad: 0 };
    // A socket that sends again and again to one port writes once. What could not be undone on the way back is not done.
    (tables.recall(&record) == Some(value) || tables.remember(&record, &value)).then_some(target)
}

/// recvmsg() or getpeername() that is about to show `call` to the application: what to show instead; `None`: it stays.
#[inline(always)]
pub fn inbound<T: Tables>(tables: &T, call: &Call) -> Option<PortTarget> {
    if !is_ours(tables, call) {
        return None;
    }
    let record = call.record_of(call.addr, call.port);
    let value = tables.recall(&record)?;
    match tables.port(&call.key_of(value.addr, value.port)) {
        Some(PortTarget { addr, port, .. }) if addr == call.addr && port == call.port => Some(value),
        _ => {
            // The port leads nowhere any more, or to another container: the record would name the wrong one.
            tables.forget(&record);
            None
        }
    }
}

#[inline(always)]
fn is_ours<T: Tables>(tables: &T, call: &Call) -> bool {
    (call.proto == PROTO_TCP || call.proto == PROTO_UDP)
        && tables.config().is_some_and(Config::is_publishing)
        && tables.network() == Some(NETWORK_ALL)
}

/// The loopback address that is meant, if one is. The kernel takes "any" for it (`tcp_v6_connect`, `ip_route_output_key`).
#[inline(always)]
fn loopback(addr: Be128) -> Option<Be128> {
    if addr.is_mapped() {
        let v4 = addr.last();
        return match v4.is_zero() {
            true => Some(Be128::mapped(LOOPBACK)),
            false => (v4.masked(LOOPBACK_MASK) == LOOPBACK_RANGE).then_some(addr),
        };
    }
    (addr.is_zero() || addr == LOOPBACK6).then_some(LOOPBACK6)
}

#[cfg(test)]
#[path = "published_tests.rs"]
mod tests;
