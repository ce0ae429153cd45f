//! The second eBPF object: how connections by way of virtual IPs go, told to the agent.
//!
//! An object of its own, for what only some want: it is loaded and attached while a service has a `passive` policy, its maps and its
//! link belong to the agent's process and end with it. Of the pinned maps it reads `weft_reverse` alone, in which `connect4` has
//! noted which virtual IP a socket's connection came by; whoever names the backend itself is none of our business. A connection
//! that is none of a watched service costs one look-up when it begins, and nothing later.
//!
//! Seen on 6.18: `TCP_CONNECT_CB` comes when the first SYN is about to go. A refused connection, one that the kernel gave up and one that the
//! application closed while it waited all come as the same transition, `SYN_SENT` to `CLOSE`, once each; and a program of sockets' operations
//! cannot read `sk_err`. So refused is what a segment came for (`segs_in`): in `SYN_SENT` the only one that ends it is a reset. What
//! nothing came for counts if it was tried for [`PATIENCE_NS`](weft_abi::passive::PATIENCE_NS): by then it is no client that found another address faster. An ICMP
//! error that is faster than that is not told from such a client, and not counted.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::{
        BPF_F_NO_PREALLOC, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
        BPF_TCP_ESTABLISHED, BPF_TCP_SYN_SENT, bpf_sock_ops,
    };
    use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set};
    use aya_ebpf::macros::{map, sock_ops};
    use aya_ebpf::maps::{HashMap, LruHashMap, RingBuf};
    use aya_ebpf::programs::SockOpsContext;
    use weft_abi::maps::{PROTO_TCP, capacity as pinned};
    use weft_abi::passive::{Attempt, PATIENCE_NS, Pair, Told, capacity};
    use weft_abi::{Be16, Be32, FrontendKey, Reverse, ReverseKey};

    /// The first object's, by its pin.
    #[map(name = "weft_reverse")]
    static REVERSE: LruHashMap<ReverseKey, Reverse> = LruHashMap::pinned(pinned::REVERSE, 0);
    #[map(name = "weft_watched")]
    static WATCHED: HashMap<FrontendKey, u32> = HashMap::with_max_entries(capacity::WATCHED, BPF_F_NO_PREALLOC);
    #[map(name = "weft_attempts")]
    static ATTEMPTS: LruHashMap<u64, Attempt> = LruHashMap::with_max_entries(capacity::ATTEMPTS, 0);
    #[map(name = "weft_failing")]
    static FAILING: LruHashMap<Pair, u32> = LruHashMap::with_max_entries(capacity::FAILING, 0);
    #[map(name = "weft_told")]
    static TOLD: RingBuf = RingBuf::with_byte_size(capacity::TOLD, 0);

    /// A field of the context. The verifier takes only whole 32-bit reads, which the compiler would narrow: so all are volatile.
    macro_rules! field {
        ($ops:ident, $($field:tt)+) => {
            // SAFETY: the context is valid while the program runs.
            unsafe { (&raw const (*$ops).$($field)+).read_volatile() }
        };
    }

    #[sock_ops]
    pub fn passive(ctx: SockOpsContext) -> u32 {
        let ops = ctx.ops;
        match field!(ops, op) {
            BPF_SOCK_OPS_TCP_CONNECT_CB => begins(ops),
            BPF_SOCK_OPS_STATE_CB => changes(ops),
            _ => {}
        }
        1
    }

    /// The backend that the socket connects to. Of an IPv6 socket that is connected to an IPv4 address it is that one.
    #[inline(always)]
    fn backend(ops: *mut bpf_sock_ops) -> (Be32, Be16) {
        let port = field!(ops, remote_port);
        // Network order in 32 bits: the kernel shifts the port up where that is the other end.
        let port = if cfg!(target_endian = "little") { port >> 16 } else { port };
        (Be32::from_bits(field!(ops, remote_ip4)), Be16::from_bits(port as u16))
    }

    #[inline(always)]
    fn cookie(ops: *mut bpf_sock_ops) -> u64 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_get_socket_cookie(ops.cast()) }
    }

    #[inline(always)]
    fn now() -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn begins(ops: *mut bpf_sock_ops) {
        let ((addr, port), cookie) = (backend(ops), cookie(ops));
        let record = ReverseKey { cookie, addr, port, proto: PROTO_TCP, via: ReverseKey::CONNECTED };
        let Some(named) = REVERSE.get_ptr(record) else { return };
        // SAFETY: the row is from a look-up in this run. The LRU map is preallocated, so the row may be given to another key while
        // it is read: then one connection counts for another service's frontend, where its backend is none and is passed over.
        let named = unsafe { *named };
        let frontend = FrontendKey { vip: named.vip, port: named.port, proto: PROTO_TCP, pad: 0 };
        if WATCHED.get_ptr(frontend).is_none() {
            return;
        }
        let attempt = Attempt { at: now(), frontend };
        if ATTEMPTS.insert(cookie, attempt, 0).is_ok() {
            let flags = field!(ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
            // SAFETY: the context is valid while the program runs.
            unsafe { bpf_sock_ops_cb_flags_set(ops, flags as i32) };
        }
    }

    #[inline(always)]
    fn changes(ops: *mut bpf_sock_ops) {
        let (from, to) = (field!(ops, __bindgen_anon_1.args[0]), field!(ops, __bindgen_anon_1.args[1]));
        if from != BPF_TCP_SYN_SENT {
            return;
        }
        let cookie = cookie(ops);
        // Another one's program may have asked for the transitions of any socket.
        let Some(attempt) = ATTEMPTS.get_ptr(cookie) else { return };
        // SAFETY: as in `begins`; a cookie is one socket's alone.
        let attempt = unsafe { *attempt };
        // Gone already is as good.
        let _ = ATTEMPTS.remove(cookie);
        let (addr, port) = backend(ops);
        let pair = Pair { frontend: attempt.frontend, addr, port, pad: 0 };
        match to {
            BPF_TCP_ESTABLISHED => {
                if FAILING.remove(pair).is_ok() {
                    tell(pair, Told::ESTABLISHED);
                }
            }
            BPF_TCP_CLOSE => {
                let outcome = if field!(ops, segs_in) > 0 {
                    Told::REFUSED
                } else if now().wrapping_sub(attempt.at) >= PATIENCE_NS {
                    Told::UNANSWERED
                } else {
                    return;
                };
                // Full of others: then only its successes are not told.
                let _ = FAILING.insert(pair, 1, 0);
                tell(pair, outcome);
            }
            _ => {}
        }
    }

    #[inline(always)]
    fn tell(pair: Pair, outcome: u32) {
        // Without room what is not told yet is enough to judge by.
        let _ = TOLD.output(Told { pair, outcome }, 0);
    }

    /// The verifier refuses the endless loop, and with it any program that could come here.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Which helpers the kernel lets us use.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
