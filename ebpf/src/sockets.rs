//! Virtual addresses at the socket: a backend on the way out, the virtual address on the way back.
//!
//! The choice is made when the application names its peer; after connect() nothing is left to do per packet. Reading and
//! writing the kernel's context is in `src/main.rs`; IPv6 sockets come here with the IPv4 address mapped in theirs.

use weft_abi::maps::{NETWORK_ALL, PROTO_TCP, PROTO_UDP, SERVICE_CIDRS};
use weft_abi::{Backend, Be16, Be32, Config, Frontend, FrontendKey, Reverse, ReverseKey, SlotKey, Verdict};

/// The rows that are needed, and what only the kernel knows of the caller.
pub trait Tables {
    /// The one row of configuration.
    fn config(&self) -> Option<&Config>;
    /// The network of the caller's namespace; `None`: its sockets are not ours to translate.
    fn network(&self) -> Option<u32>;
    /// A number that no one can guess.
    fn random(&self) -> u32;
    /// What stands behind an address and port.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// The id of a backend in a frontend's list.
    fn slot(&self, key: &SlotKey) -> Option<u32>;
    /// Where a backend is.
    fn backend(&self, id: u32) -> Option<Backend>;
    /// What was remembered for a socket and backend.
    fn recall(&self, key: &ReverseKey) -> Option<Reverse>;
    /// Remembers; false if there was no room.
    fn remember(&self, key: &ReverseKey, value: &Reverse) -> bool;
    /// Forgets.
    fn forget(&self, key: &ReverseKey);
}

/// A socket and an address: where it is to go, or where something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The socket's cookie.
    pub cookie: u64,
    /// The address.
    pub addr: Be32,
    /// The port.
    pub port: Be16,
    /// The IP protocol.
    pub proto: u8,
    /// [`ReverseKey::CONNECTED`] for connect() and getpeername(), and for a connected socket's recvmsg();
    /// [`ReverseKey::DATAGRAM`] for sendmsg() with an address, and for any other socket's recvmsg().
    pub via: u8,
}

impl Call {
    #[inline(always)]
    fn record_of(&self, addr: Be32, port: Be16, via: u8) -> ReverseKey {
        ReverseKey { cookie: self.cookie, addr, port, proto: self.proto, via }
    }

    #[inline(always)]
    fn is_ours(&self) -> bool {
        self.proto == PROTO_TCP || self.proto == PROTO_UDP
    }
}

/// An address to use instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub addr: Be32,
    /// The port.
    pub port: Be16,
}

/// connect() or sendmsg() to `call`: the backend to use instead.
///
/// # Errors
/// The verdict, when the address stays as it is or the call is refused.
#[inline(always)]
pub fn outbound<T: Tables>(tables: &T, call: &Call) -> Result<Target, Verdict> {
    if !call.is_ours() {
        return Err(Verdict::SocketPassed);
    }
    let config = tables.config().ok_or(Verdict::SocketPassed)?;
    if !in_service_range(config, call.addr) {
        // The application itself names what may have been our choice before: that is no longer our translation.
        let record = call.record_of(call.addr, call.port, call.via);
        if tables.recall(&record).is_some() {
            tables.forget(&record);
        }
        return Err(Verdict::SocketPassed);
    }
    let network = tables.network().ok_or(Verdict::SocketOtherNetns)?;
    let key = FrontendKey { vip: call.addr, port: call.port, proto: call.proto, pad: 0 };
    let mut frontend = listed(tables, &key, network)?;
    let backend = match choose(tables, call, &frontend) {
        Some(backend) => backend,
        None => {
            // The agent took the list or the backend away between two of our reads; what it put in its place is there now.
            frontend = listed(tables, &key, network)?;
            choose(tables, call, &frontend).ok_or(Verdict::SocketInternal)?
        }
    };
    let record = call.record_of(backend.addr, backend.port, call.via);
    let value = Reverse { vip: call.addr, port: call.port, pad: 0, service: frontend.service };
    // A socket that sends again and again to one service writes once.
    if tables.recall(&record) != Some(value) && !tables.remember(&record, &value) {
        return Err(Verdict::SocketInternal);
    }
    Ok(Target { addr: backend.addr, port: backend.port })
}

/// recvmsg() or getpeername() that is about to show `call` to the application: the virtual address to show instead.
///
/// # Errors
/// The verdict, when the address stays as it is.
#[inline(always)]
pub fn inbound<T: Tables>(tables: &T, call: &Call) -> Result<Target, Verdict> {
    if !call.is_ours() {
        return Err(Verdict::SocketPassed);
    }
    let record = call.record_of(call.addr, call.port, call.via);
    let value = tables.recall(&record).ok_or(Verdict::SocketPassed)?;
    let key = FrontendKey { vip: value.vip, port: value.port, proto: call.proto, pad: 0 };
    match tables.frontend(&key) {
        Some(f) if f.service == value.service => Ok(Target { addr: value.vip, port: value.port }),
        _ => {
            // The service is gone, or another one has its address: the record would name the wrong one.
            tables.forget(&record);
            Err(Verdict::SocketPassed)
        }
    }
}

/// The frontend, if the caller's network has it and there is a backend.
#[inline(always)]
fn listed<T: Tables>(tables: &T, key: &FrontendKey, network: u32) -> Result<Frontend, Verdict> {
    match tables.frontend(key) {
        Some(f) if network != NETWORK_ALL && network != f.network => Err(Verdict::SocketUnlisted),
        Some(f) if f.count == 0 => Err(Verdict::SocketNoBackend),
        Some(f) => Ok(f),
        None => Err(Verdict::SocketUnlisted),
    }
}

#[inline(always)]
fn in_service_range(config: &Config, addr: Be32) -> bool {
    let count = config.service_cidr_count as usize;
    let mut i = 0;
    while i < SERVICE_CIDRS {
        if i >= count {
            return false;
        }
        if config.service_cidrs[i].contains(addr) {
            return true;
        }
        i += 1;
    }
    false
}

/// One of the frontend's backends: any for a connection, always the same (while the list is) for a socket's datagrams.
#[inline(always)]
fn choose<T: Tables>(tables: &T, call: &Call, frontend: &Frontend) -> Option<Backend> {
    let number = if call.via == ReverseKey::DATAGRAM {
        mix(call.cookie ^ (u64::from(frontend.service) << 40)) as u32
    } else {
        tables.random()
    };
    let index = pick(number, frontend.count);
    let id = match tables.slot(&SlotKey { service: frontend.service, index }) {
        Some(id) => id,
        // The list has become shorter since its length was read; its first place is the last to go.
        None => tables.slot(&SlotKey { service: frontend.service, index: 0 })?,
    };
    tables.backend(id)
}

/// Maps an even 32-bit number to `0..count`, evenly.
#[inline(always)]
fn pick(number: u32, count: u32) -> u32 {
    ((u64::from(number) * u64::from(count)) >> 32) as u32
}

/// Spreads every bit of the input over the output (the finaliser of MurmurHash3).
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
