//! The programs. Each ends in one verdict, which is counted once and says what the kernel does next.

use aya_ebpf::bindings::{
    __sk_buff, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_ADJ_ROOM_NO_CSUM_RESET, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_sock_addr,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_level, bpf_get_hash_recalc, bpf_get_smp_processor_id, bpf_redirect_neigh, bpf_redirect_peer, bpf_set_retval,
    bpf_skb_adjust_room,
};
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use weft_abi::{Action, Config, ENCAP_OVERHEAD, ENCAP_OVERHEAD6, Endpoint, NextHop, ReverseKey, Verdict};
use weft_ebpf::container::{self, Next, Remote};
use weft_ebpf::deliver::{HandOver, hand_over};
use weft_ebpf::encap::{self, Stamp};
use weft_ebpf::packet::Packet;
use weft_ebpf::published;
use weft_ebpf::sockets;
use weft_ebpf::tables::Tables as _;
use weft_ebpf::uplink::{self, Arrival};
use weft_ebpf::wire::{self, Family};

use crate::maps::{self, PacketTables};
use crate::skb::Skb;
use crate::sock_addr::SockAddr;

/// Both directions keep the segment size: without it the kernel lowers gso_size and refuses UDP GSO (seen on 6.18).
const KEEP: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// What is pushed after the IP header: UDP, and (as its "inner L2" header) VXLAN with the inner Ethernet header's 14 bytes.
const PUSH: u64 = KEEP | (BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64 | (wire::eth::LEN as u64) << 56;

/// The longest run of IPv4 identifications that one CPU uses before it would meet the next one's; odd, so that all
/// CPUs' beginnings differ.
const ID_STRIDE: u32 = 0x4e35;

/// ECONNREFUSED (asm-generic/errno.h), as a helper takes it.
const REFUSED: i32 = -111;

/// What a container sends, at the ingress of the host side of its veth.
#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(ctx.skb.skb);
    if !container::is_v4(&mut skb) {
        return other_from_container(ctx.skb.skb);
    }
    leave(skb, |skb| container::v4(skb, &PacketTables))
}

/// What arrives, at the ingress of the uplink.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(ctx.skb.skb);
    if !uplink::is_v4_in_v4(&mut skb) {
        return other_from_uplink(ctx.skb.skb);
    }
    arrive(skb, |skb| uplink::v4_in_v4(skb, &PacketTables))
}

/// The other half of `from_container`: a function of its own, so that IPv4 does not pay for it (seen on 6.18: 30 ns a packet
/// when all was one function).
#[inline(never)]
fn other_from_container(skb: *mut __sk_buff) -> i32 {
    leave(Skb::new(skb), |skb| container::other(skb, &PacketTables))
}

/// The other half of `from_uplink`.
#[inline(never)]
fn other_from_uplink(skb: *mut __sk_buff) -> i32 {
    arrive(Skb::new(skb), |skb| uplink::other(skb, &PacketTables))
}

/// Decides about a packet from a container, and carries it out.
#[inline(always)]
fn leave(mut skb: Skb, decide: impl FnOnce(&mut Skb) -> Result<Next<'static>, Verdict>) -> i32 {
    // Before the push: the same packets and bytes that the container sent.
    let (packets, bytes) = (skb.segments(), u64::from(skb.len()));
    let verdict = match decide(&mut skb) {
        Err(verdict) => verdict,
        Ok(Next::Local(family, to)) => match deliver_locally(&mut skb, family, to) {
            Some(()) => {
                maps::count(Verdict::DeliveredLocally, packets, bytes);
                return to_peer(to.ifindex);
            }
            None => Verdict::ContainerInternal,
        },
        Ok(Next::Remote(to)) => match push(&mut skb, &to, packets, bytes) {
            Ok(uplink) => return to_uplink(uplink, &to.peer.next_hop),
            Err(verdict) => verdict,
        },
    };
    maps::count(verdict, packets, bytes);
    action(verdict)
}

/// Decides about a packet from the uplink, and carries it out.
#[inline(always)]
fn arrive(mut skb: Skb, decide: impl FnOnce(&mut Skb) -> Result<Arrival<'static>, Verdict>) -> i32 {
    let (packets, bytes) = (skb.segments(), u64::from(skb.len()));
    let verdict = match decide(&mut skb) {
        Err(verdict) => verdict,
        Ok(arrival) => match pop(&mut skb, &arrival) {
            Ok(()) => {
                maps::count(Verdict::Decapsulated, packets, bytes);
                return to_peer(arrival.to.ifindex);
            }
            Err(verdict) => verdict,
        },
    };
    maps::count(verdict, packets, bytes);
    action(verdict)
}

/// The kernel's word for a verdict that the program does not carry out itself. "Unspecified" lets other owners'
/// programs on the hook run, then the stack.
#[inline(always)]
fn action(verdict: Verdict) -> i32 {
    match verdict.action() {
        Action::Drop => TC_ACT_SHOT,
        Action::Fast | Action::Stack => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn deliver_locally(skb: &mut Skb, family: Family, to: &Endpoint) -> Option<()> {
    // The sender named the host's Ethernet address, so the host is who hands it on.
    let from = skb.head::<{ wire::eth::LEN }>()?.mac::<{ wire::eth::DST }>();
    hand_over(skb, &HandOver { family, to: to.mac, from, class: None })
}

/// Pushes the outer headers. Returns the uplink. An error before the room is made leaves the packet as it came.
#[inline(always)]
fn push(skb: &mut Skb, to: &Remote<'_>, packets: u64, bytes: u64) -> Result<u32, Verdict> {
    let config: &Config = PacketTables.config().ok_or(Verdict::ContainerInternal)?;
    let (room, flags) = if to.peer.outer_is_v6() {
        (ENCAP_OVERHEAD6, PUSH | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 as u64)
    } else {
        (ENCAP_OVERHEAD, PUSH | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64)
    };
    // SAFETY: the context is valid while the program runs, and no window is alive.
    let (flow_hash, made) = unsafe {
        let hash = bpf_get_hash_recalc(skb.ctx());
        (hash, bpf_skb_adjust_room(skb.ctx(), room as i32, BPF_ADJ_ROOM_MAC, flags))
    };
    if made != 0 {
        return Err(Verdict::ContainerRoomRefused);
    }
    // Each CPU counts the packets it sends; that is the identification, begun at another place on each.
    let sent = maps::count(Verdict::Encapsulated, packets, bytes) as u32;
    // SAFETY: the helper takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let id = sent.wrapping_add(cpu.wrapping_mul(ID_STRIDE)) as u16;
    encap::write(skb, config, to, Stamp { flow_hash, id }).ok_or(Verdict::ContainerInternal)?;
    Ok(config.uplink)
}

/// Pops the outer headers and readies the packet for its container.
#[inline(always)]
fn pop(skb: &mut Skb, arrival: &Arrival<'_>) -> Result<(), Verdict> {
    let room = match arrival.outer {
        Family::V4 => ENCAP_OVERHEAD,
        Family::V6 => ENCAP_OVERHEAD6,
    };
    // What is left. Without it the packet keeps the outer protocol, and of mixed families everything is lost.
    let flags = match arrival.inner {
        Family::V4 => KEEP | BPF_F_ADJ_ROOM_DECAP_L3_IPV4 as u64,
        Family::V6 => KEEP | BPF_F_ADJ_ROOM_DECAP_L3_IPV6 as u64,
    };
    // SAFETY: the context is valid while the program runs, and no window is alive.
    let taken = unsafe { bpf_skb_adjust_room(skb.ctx(), -(room as i32), BPF_ADJ_ROOM_MAC, flags) };
    if taken != 0 {
        return Err(Verdict::UplinkRoomRefused);
    }
    // One checksum fewer is known to be right: the outer one. An error says that none was, which is as good.
    // SAFETY: as above.
    let _ = unsafe { bpf_csum_level(skb.ctx(), u64::from(BPF_CSUM_LEVEL_DEC)) };
    let how = HandOver { family: arrival.inner, to: arrival.to.mac, from: arrival.network.vtep_mac, class: arrival.class };
    hand_over(skb, &how).ok_or(Verdict::UplinkInternal)
}

/// Into the container behind a host-side veth, without passing the host's stack.
#[inline(always)]
fn to_peer(ifindex: u32) -> i32 {
    // SAFETY: the helper takes numbers only.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of the uplink; the neighbour table gives the outer Ethernet addresses, and resolves them if need be.
#[inline(always)]
fn to_uplink(ifindex: u32, next_hop: &NextHop) -> i32 {
    let (hop, len) = if next_hop.is_some() {
        (core::ptr::from_ref(next_hop).cast_mut().cast(), size_of::<NextHop>() as i32)
    } else {
        // Not given: the kernel looks the outer destination up.
        (core::ptr::null_mut(), 0)
    };
    // SAFETY: the next hop is a row of a map, laid out as the helper wants it, which only reads it; or null and 0 bytes.
    unsafe { bpf_redirect_neigh(ifindex, hop, len, 0) as i32 }
}

/// connect() and sendmsg(): 1 lets the call go on, 0 refuses it.
#[inline(always)]
fn outbound(ctx: SockAddrContext, family: Family, via: u8) -> i32 {
    let addr = SockAddr::new(ctx.sock_addr, family);
    let verdict = match addr.call(via) {
        None => Verdict::SocketPassed,
        Some(call) => match sockets::outbound(&addr, &call) {
            Ok(target) => {
                addr.set(target);
                Verdict::SocketTranslated
            }
            Err(verdict) => verdict,
        },
    };
    let verdict = match verdict {
        Verdict::SocketPassed if maps::is_publishing() && to_container(ctx.sock_addr, family, via) => Verdict::SocketTranslated,
        verdict => verdict,
    };
    maps::count(verdict, 1, 0);
    match verdict.action() {
        Action::Drop => {
            // Without this the caller would see EPERM. Kernels before 5.18 lack the helper, and this object.
            // SAFETY: the helper takes a number only.
            unsafe { bpf_set_retval(REFUSED) };
            0
        }
        Action::Fast | Action::Stack => 1,
    }
}

/// recvmsg() and getpeername(), which must always go on.
#[inline(always)]
fn inbound(ctx: SockAddrContext, family: Family, via: Option<u8>) -> i32 {
    let addr = SockAddr::new(ctx.sock_addr, family);
    let verdict = match addr.call(ReverseKey::DATAGRAM) {
        None => Verdict::SocketPassed,
        Some(mut call) => {
            call.via = match via {
                Some(via) => via,
                None if addr.is_connected_to(call.addr, call.port) => ReverseKey::CONNECTED,
                None => ReverseKey::DATAGRAM,
            };
            match sockets::inbound(&addr, &call) {
                Ok(target) => {
                    addr.set(target);
                    Verdict::SocketReverse
                }
                Err(verdict) => verdict,
            }
        }
    };
    let verdict = match verdict {
        Verdict::SocketPassed if maps::is_publishing() && from_port(ctx.sock_addr, family, via) => Verdict::SocketReverse,
        verdict => verdict,
    };
    maps::count(verdict, 1, 0);
    1
}

/// Whether a published port was named by a loopback address; the container stands in its place then. Functions of their own for each
/// family: a program of one may not so much as mention the fields of the other.
#[inline(always)]
fn to_container(ctx: *mut bpf_sock_addr, family: Family, via: u8) -> bool {
    match family {
        Family::V4 => to_container4(ctx, via),
        Family::V6 => to_container6(ctx, via),
    }
}

#[inline(never)]
fn to_container4(ctx: *mut bpf_sock_addr, via: u8) -> bool {
    publish(&SockAddr::new(ctx, Family::V4), via)
}

#[inline(never)]
fn to_container6(ctx: *mut bpf_sock_addr, via: u8) -> bool {
    publish(&SockAddr::new(ctx, Family::V6), via)
}

#[inline(always)]
fn publish(addr: &SockAddr, via: u8) -> bool {
    let call = addr.any_call(via);
    let Some(target) = published::outbound(addr, &call) else { return false };
    // This socket may have come to the container by a virtual address before; the last name counts.
    if target.addr.is_mapped() {
        let record = ReverseKey { cookie: call.cookie, addr: target.addr.last(), port: target.port, proto: call.proto, via };
        if sockets::Tables::recall(addr, &record).is_some() {
            sockets::Tables::forget(addr, &record);
        }
    }
    addr.set_any(&target);
    true
}

/// Whether a container is about to be shown that was named as a published port; that port stands in its place then.
#[inline(always)]
fn from_port(ctx: *mut bpf_sock_addr, family: Family, via: Option<u8>) -> bool {
    match (family, via) {
        (Family::V4, None) => from_port4(ctx, false),
        (Family::V4, Some(_)) => from_port4(ctx, true),
        (Family::V6, None) => from_port6(ctx, false),
        (Family::V6, Some(_)) => from_port6(ctx, true),
    }
}

#[inline(never)]
fn from_port4(ctx: *mut bpf_sock_addr, connected: bool) -> bool {
    unpublish(&SockAddr::new(ctx, Family::V4), connected)
}

#[inline(never)]
fn from_port6(ctx: *mut bpf_sock_addr, connected: bool) -> bool {
    unpublish(&SockAddr::new(ctx, Family::V6), connected)
}

#[inline(always)]
fn unpublish(addr: &SockAddr, connected: bool) -> bool {
    let mut call = addr.any_call(ReverseKey::DATAGRAM);
    if connected || addr.is_connected_to_any(call.addr, call.port) {
        call.via = ReverseKey::CONNECTED;
    }
    let Some(named) = published::inbound(addr, &call) else { return false };
    addr.set_any(&named);
    true
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    outbound(ctx, Family::V4, ReverseKey::CONNECTED)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    outbound(ctx, Family::V6, ReverseKey::CONNECTED)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    outbound(ctx, Family::V4, ReverseKey::DATAGRAM)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    outbound(ctx, Family::V6, ReverseKey::DATAGRAM)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    inbound(ctx, Family::V4, None)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    inbound(ctx, Family::V6, None)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    inbound(ctx, Family::V4, Some(ReverseKey::CONNECTED))
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    inbound(ctx, Family::V6, Some(ReverseKey::CONNECTED))
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
