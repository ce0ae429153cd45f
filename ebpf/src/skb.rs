//! The kernel's packet context as the library's [`Packet`].

use aya_ebpf::bindings::{__sk_buff, BPF_CSUM_LEVEL_QUERY};
use aya_ebpf::helpers::generated::{bpf_csum_level, bpf_skb_load_bytes, bpf_skb_pull_data};
use weft_ebpf::packet::{Packet, Window};

/// Packet type of what was sent to the device's own address (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// A packet at a tc hook.
pub(crate) struct Skb {
    ctx: *mut __sk_buff,
}

impl Skb {
    /// The packet of a program's context.
    #[inline(always)]
    pub(crate) fn new(ctx: *mut __sk_buff) -> Self {
        Self { ctx }
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) fn ctx(&self) -> *mut __sk_buff {
        self.ctx
    }

    /// How many packets this is on the wire.
    #[inline(always)]
    pub(crate) fn segments(&self) -> u64 {
        // SAFETY: the context is valid while the program runs.
        let segments = unsafe { (*self.ctx).gso_segs };
        if segments == 0 { 1 } else { u64::from(segments) }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).len }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).ifindex }
    }

    #[inline(always)]
    fn to_us(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn tagged(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).vlan_present != 0 }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).gso_size }
    }

    #[inline(always)]
    fn checksum_verified(&self) -> bool {
        // A level when the stack holds the checksum for checked, -EACCES when not.
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_csum_level(self.ctx, u64::from(BPF_CSUM_LEVEL_QUERY)) >= 0 }
    }

    #[inline(always)]
    fn window<const N: usize>(&mut self, at: usize) -> Option<Window<'_, N>> {
        // SAFETY: the context is valid while the program runs.
        let (start, end) = unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) };
        if start + at + N > end {
            return None;
        }
        // SAFETY: N bytes from `at` end before `data_end`; they stay there until a helper that takes the context
        // mutably is called, which the window's borrow of `self` excludes.
        Some(unsafe { Window::new((start + at) as *mut u8) })
    }

    #[inline(always)]
    fn pull(&mut self, len: u32) {
        // If it does not work out, the next window is refused.
        // SAFETY: the context is valid while the program runs, and no window is alive.
        let _ = unsafe { bpf_skb_pull_data(self.ctx, len) };
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0_u8; N];
        // SAFETY: the context is valid while the program runs; the buffer has N bytes.
        let result = unsafe { bpf_skb_load_bytes(self.ctx.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
        if result == 0 { Some(bytes) } else { None }
    }
}
