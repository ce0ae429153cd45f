//! The kernel's socket address context: reading it, writing it, and the caller behind it.
//!
//! The verifier takes only whole 32-bit accesses to these fields, which the compiler would merge or narrow: so all are
//! volatile.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie};
use weft_abi::{
    Backend, Be16, Be32, Be128, Config, Frontend, FrontendKey, PortBackKey, PortKey, PortTarget, Reverse, ReverseKey, SlotKey,
};
use weft_ebpf::published;
use weft_ebpf::sockets::{Call, Tables, Target};
use weft_ebpf::wire::Family;

use crate::maps::SocketTables;

/// The third word of an IPv4 address mapped into IPv6 (RFC 4291 2.5.5.2); the first two are zero.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// A socket hook's context.
pub(crate) struct SockAddr {
    ctx: *mut bpf_sock_addr,
    /// Whose fields the hook uses: `user_ip4`; or `user_ip6`, of which only mapped IPv4 addresses are ours.
    family: Family,
}

impl SockAddr {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut bpf_sock_addr, family: Family) -> Self {
        Self { ctx, family }
    }

    /// The socket and the address it names; `None`: an IPv6 address.
    #[inline(always)]
    pub(crate) fn call(&self, via: u8) -> Option<Call> {
        let addr = self.addr()?;
        // SAFETY: the context is valid while the program runs.
        let (port, proto, cookie) = unsafe {
            (
                (&raw const (*self.ctx).user_port).read_volatile(),
                (&raw const (*self.ctx).protocol).read_volatile(),
                bpf_get_socket_cookie(self.ctx.cast()),
            )
        };
        // The field has 32 bits; the port is in the lower 16, in network order.
        Some(Call { cookie, addr, port: Be16::from_bits(port as u16), proto: proto as u8, via })
    }

    /// The same of either family.
    #[inline(always)]
    pub(crate) fn any_call(&self, via: u8) -> published::Call {
        let addr = match self.family {
            // SAFETY: the context is valid while the program runs.
            Family::V4 => Be128::mapped(Be32::from_bits(unsafe { (&raw const (*self.ctx).user_ip4).read_volatile() })),
            Family::V6 => {
                // SAFETY: below 4.
                let words = unsafe { [self.word(0), self.word(1), self.word(2), self.word(3)] };
                Be128::from_words(words.map(Be32::from_bits))
            }
        };
        // SAFETY: the context is valid while the program runs.
        let (port, proto, cookie) = unsafe {
            (
                (&raw const (*self.ctx).user_port).read_volatile(),
                (&raw const (*self.ctx).protocol).read_volatile(),
                bpf_get_socket_cookie(self.ctx.cast()),
            )
        };
        published::Call { cookie, addr, port: Be16::from_bits(port as u16), proto: proto as u8, via }
    }

    #[inline(always)]
    fn addr(&self) -> Option<Be32> {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            match self.family {
                Family::V4 => Some(Be32::from_bits((&raw const (*self.ctx).user_ip4).read_volatile())),
                Family::V6 => {
                    if self.word(0) != 0 || self.word(1) != 0 || self.word(2) != MAPPED {
                        return None;
                    }
                    Some(Be32::from_bits(self.word(3)))
                }
            }
        }
    }

    /// # Safety
    /// `index` is below 4.
    #[inline(always)]
    unsafe fn word(&self, index: usize) -> u32 {
        // SAFETY: the context is valid while the program runs, and the field has four words.
        unsafe { (&raw const (*self.ctx).user_ip6).cast::<u32>().add(index).read_volatile() }
    }

    /// Writes another address. A mapped address stays one: only its last word changes.
    #[inline(always)]
    pub(crate) fn set(&self, target: Target) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            match self.family {
                Family::V4 => (&raw mut (*self.ctx).user_ip4).write_volatile(target.addr.bits()),
                Family::V6 => (&raw mut (*self.ctx).user_ip6).cast::<u32>().add(3).write_volatile(target.addr.bits()),
            }
            (&raw mut (*self.ctx).user_port).write_volatile(u32::from(target.port.bits()));
        }
    }

    /// Writes another address of either family, the one that the context's is of.
    #[inline(always)]
    pub(crate) fn set_any(&self, target: &PortTarget) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            match self.family {
                Family::V4 => (&raw mut (*self.ctx).user_ip4).write_volatile(target.addr.last().bits()),
                Family::V6 => {
                    let (words, there) = (target.addr.words(), (&raw mut (*self.ctx).user_ip6).cast::<u32>());
                    there.write_volatile(words[0].bits());
                    there.add(1).write_volatile(words[1].bits());
                    there.add(2).write_volatile(words[2].bits());
                    there.add(3).write_volatile(words[3].bits());
                }
            }
            (&raw mut (*self.ctx).user_port).write_volatile(u32::from(target.port.bits()));
        }
    }

    /// Whether the socket is connected to the address of either family that the context names.
    #[inline(always)]
    pub(crate) fn is_connected_to_any(&self, addr: Be128, port: Be16) -> bool {
        if addr.is_mapped() {
            return self.is_connected_to(addr.last(), port);
        }
        // SAFETY: as in `is_connected_to`.
        unsafe {
            let sk = (*self.ctx).__bindgen_anon_1.sk;
            if sk.is_null() {
                return false;
            }
            let (there, words) = ((&raw const (*sk).dst_ip6).cast::<u32>(), addr.words());
            (&raw const (*sk).dst_port).read_volatile() == port.bits()
                && there.read_volatile() == words[0].bits()
                && there.add(1).read_volatile() == words[1].bits()
                && there.add(2).read_volatile() == words[2].bits()
                && there.add(3).read_volatile() == words[3].bits()
        }
    }

    /// Whether the socket is connected to the address that the context names.
    #[inline(always)]
    pub(crate) fn is_connected_to(&self, addr: Be32, port: Be16) -> bool {
        // SAFETY: the context is valid while the program runs; the verifier gives no null socket at these hooks, but
        // wants to see it asked.
        unsafe {
            let sk = (*self.ctx).__bindgen_anon_1.sk;
            if sk.is_null() {
                return false;
            }
            let (dst, dst_port) = ((&raw const (*sk).dst_ip4).read_volatile(), (&raw const (*sk).dst_port).read_volatile());
            dst == addr.bits() && dst_port == port.bits()
        }
    }
}

/// The maps, with this caller's namespace.
impl Tables for SockAddr {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        SocketTables.config()
    }
    #[inline(always)]
    fn network(&self) -> Option<u32> {
        // SAFETY: the context is valid while the program runs.
        SocketTables.network(unsafe { bpf_get_netns_cookie(self.ctx.cast()) })
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        SocketTables.frontend(key)
    }
    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        SocketTables.slot(key)
    }
    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend> {
        SocketTables.backend(id)
    }
    #[inline(always)]
    fn recall(&self, key: &ReverseKey) -> Option<Reverse> {
        SocketTables.recall(key)
    }
    #[inline(always)]
    fn remember(&self, key: &ReverseKey, value: &Reverse) -> bool {
        SocketTables.remember(key, value)
    }
    #[inline(always)]
    fn forget(&self, key: &ReverseKey) {
        SocketTables.forget(key);
    }
}

/// The maps of published ports, with this caller's namespace.
impl published::Tables for SockAddr {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        SocketTables.config()
    }
    #[inline(always)]
    fn network(&self) -> Option<u32> {
        Tables::network(self)
    }
    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<PortTarget> {
        SocketTables.port(key)
    }
    #[inline(always)]
    fn recall(&self, key: &PortBackKey) -> Option<PortTarget> {
        SocketTables.recall_port(key)
    }
    #[inline(always)]
    fn remember(&self, key: &PortBackKey, value: &PortTarget) -> bool {
        SocketTables.remember_port(key, value)
    }
    #[inline(always)]
    fn forget(&self, key: &PortBackKey) {
        SocketTables.forget_port(key);
    }
}
