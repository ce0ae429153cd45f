//! A packet as the programs see it, and the one place where its bytes are touched.
//!
//! [`Packet::window`] proves once that N bytes are there; the [`Window`] it gives reads and writes at offsets that the
//! compiler checks against N. Nothing else in this crate handles a pointer.

use core::marker::PhantomData;

use weft_abi::{Be16, Be32, Be128, Mac};

/// A packet at a tc hook, beginning with its Ethernet header.
pub trait Packet {
    /// Its whole length in bytes, Ethernet header included.
    fn len(&self) -> u32;

    /// Whether there is not a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device it came in by.
    fn ifindex(&self) -> u32;

    /// Whether it was sent to this device's own Ethernet address (packet type HOST).
    fn to_us(&self) -> bool;

    /// Whether it carries a VLAN tag beside its bytes.
    fn tagged(&self) -> bool;

    /// The payload of each segment, if it is several in one; else 0.
    fn gso_size(&self) -> u32;

    /// Whether the device or the stack already found the outermost transport checksum right.
    fn checksum_verified(&self) -> bool;

    /// `N` bytes from `at`, if they are there and directly accessible.
    fn window<const N: usize>(&mut self, at: usize) -> Option<Window<'_, N>>;

    /// Makes the first `len` bytes directly accessible. Ends all windows.
    fn pull(&mut self, len: u32);

    /// A copy of `N` bytes from any offset, wherever they are stored.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;

    /// `N` bytes from `at`, made accessible if need be. `None`: the packet is shorter.
    #[inline(always)]
    fn reach<const N: usize>(&mut self, at: usize) -> Option<Window<'_, N>> {
        if self.window::<N>(at).is_none() {
            let end = (at + N) as u32;
            if self.len() < end {
                return None;
            }
            self.pull(end);
        }
        self.window(at)
    }

    /// The first `N` bytes, made accessible if need be. `None`: the packet is shorter.
    #[inline(always)]
    fn head<const N: usize>(&mut self) -> Option<Window<'_, N>> {
        self.reach(0)
    }
}

/// `N` bytes of a packet that were proven to be there. Offsets are checked at compile time.
#[derive(Debug)]
pub struct Window<'a, const N: usize> {
    start: *mut u8,
    packet: PhantomData<&'a mut [u8]>,
}

impl<const N: usize> Window<'_, N> {
    /// A window on the `N` bytes at `start`.
    ///
    /// # Safety
    /// For as long as the window lives, `start` points to `N` bytes that may be read and written and that nothing else
    /// reaches.
    #[inline(always)]
    #[must_use]
    pub unsafe fn new(start: *mut u8) -> Self {
        Self { start, packet: PhantomData }
    }

    /// The `M` bytes from `AT`.
    #[inline(always)]
    #[must_use]
    pub fn part<const AT: usize, const M: usize>(&mut self) -> Window<'_, M> {
        const { assert!(AT + M <= N) };
        // SAFETY: they are some of the N bytes that `new` was promised, and `self` is out of use meanwhile.
        unsafe { Window::new(self.start.add(AT)) }
    }

    /// The byte at `AT`.
    #[inline(always)]
    #[must_use]
    pub fn byte<const AT: usize>(&self) -> u8 {
        const { assert!(AT < N) };
        // SAFETY: AT lies within the N bytes that `new` was promised.
        unsafe { self.start.add(AT).read() }
    }

    /// The 16 bits at `AT`.
    #[inline(always)]
    #[must_use]
    pub fn be16<const AT: usize>(&self) -> Be16 {
        const { assert!(AT + 2 <= N) };
        // SAFETY: both bytes lie within the N that `new` was promised.
        Be16::from_bits(unsafe { raw::load16(self.start.add(AT)) })
    }

    /// The 32 bits at `AT`.
    #[inline(always)]
    #[must_use]
    pub fn be32<const AT: usize>(&self) -> Be32 {
        const { assert!(AT + 4 <= N) };
        // SAFETY: all four bytes lie within the N that `new` was promised.
        Be32::from_bits(unsafe { raw::load32(self.start.add(AT)) })
    }

    /// The 128 bits at `AT`.
    #[inline(always)]
    #[must_use]
    pub fn be128<const AT: usize>(&self) -> Be128 {
        const { assert!(AT + 16 <= N) };
        // SAFETY: all sixteen bytes lie within the N that `new` was promised.
        let word = |i: usize| Be32::from_bits(unsafe { raw::load32(self.start.add(AT + 4 * i)) });
        Be128::from_words([word(0), word(1), word(2), word(3)])
    }

    /// The Ethernet address at `AT`.
    #[inline(always)]
    #[must_use]
    pub fn mac<const AT: usize>(&self) -> Mac {
        const { assert!(AT + 6 <= N) };
        // SAFETY: all six bytes lie within the N that `new` was promised.
        let (head, tail) = unsafe { (raw::load32(self.start.add(AT)), raw::load16(self.start.add(AT + 4))) };
        let [a, b, c, d] = head.to_ne_bytes();
        let [e, f] = tail.to_ne_bytes();
        [a, b, c, d, e, f]
    }

    /// Writes the byte at `AT`.
    #[inline(always)]
    pub fn set_byte<const AT: usize>(&mut self, value: u8) {
        const { assert!(AT < N) };
        // SAFETY: AT lies within the N bytes that `new` was promised.
        unsafe { self.start.add(AT).write(value) };
    }

    /// Writes the 16 bits at `AT`.
    #[inline(always)]
    pub fn set_be16<const AT: usize>(&mut self, value: Be16) {
        const { assert!(AT + 2 <= N) };
        // SAFETY: both bytes lie within the N that `new` was promised.
        unsafe { raw::store16(self.start.add(AT), value.bits()) };
    }

    /// Writes the 32 bits at `AT`.
    #[inline(always)]
    pub fn set_be32<const AT: usize>(&mut self, value: Be32) {
        const { assert!(AT + 4 <= N) };
        // SAFETY: all four bytes lie within the N that `new` was promised.
        unsafe { raw::store32(self.start.add(AT), value.bits()) };
    }

    /// Writes the 128 bits at `AT`.
    #[inline(always)]
    pub fn set_be128<const AT: usize>(&mut self, value: Be128) {
        const { assert!(AT + 16 <= N) };
        let [a, b, c, d] = value.words();
        // SAFETY: all sixteen bytes lie within the N that `new` was promised.
        unsafe {
            raw::store32(self.start.add(AT), a.bits());
            raw::store32(self.start.add(AT + 4), b.bits());
            raw::store32(self.start.add(AT + 8), c.bits());
            raw::store32(self.start.add(AT + 12), d.bits());
        }
    }

    /// Writes the Ethernet address at `AT`.
    #[inline(always)]
    pub fn set_mac<const AT: usize>(&mut self, value: Mac) {
        const { assert!(AT + 6 <= N) };
        let [a, b, c, d, e, f] = value;
        // SAFETY: all six bytes lie within the N that `new` was promised.
        unsafe {
            raw::store32(self.start.add(AT), u32::from_ne_bytes([a, b, c, d]));
            raw::store16(self.start.add(AT + 4), u16::from_ne_bytes([e, f]));
        }
    }
}

/// Loads and stores at any alignment.
///
/// LLVM splits an unaligned access into bytes on the BPF target. The kernel's verifier accepts whole ones to packet
/// memory wherever the machine can do them (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS; the C programs of others rely on it),
/// so there the access is made with the type's own alignment.
#[cfg(target_arch = "bpf")]
mod raw {
    #[inline(always)]
    pub(super) unsafe fn load16(from: *const u8) -> u16 {
        // SAFETY: the caller owns two bytes here; alignment as the module says.
        unsafe { from.cast::<u16>().read_volatile() }
    }

    #[inline(always)]
    pub(super) unsafe fn load32(from: *const u8) -> u32 {
        // SAFETY: the caller owns four bytes here; alignment as the module says.
        unsafe { from.cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    pub(super) unsafe fn store16(to: *mut u8, value: u16) {
        // SAFETY: the caller owns two bytes here; alignment as the module says.
        unsafe { to.cast::<u16>().write_volatile(value) }
    }

    #[inline(always)]
    pub(super) unsafe fn store32(to: *mut u8, value: u32) {
        // SAFETY: the caller owns four bytes here; alignment as the module says.
        unsafe { to.cast::<u32>().write_volatile(value) }
    }
}

/// Loads and stores at any alignment.
#[cfg(not(target_arch = "bpf"))]
mod raw {
    #[inline(always)]
    pub(super) unsafe fn load16(from: *const u8) -> u16 {
        // SAFETY: the caller owns two bytes here.
        unsafe { from.cast::<u16>().read_unaligned() }
    }

    #[inline(always)]
    pub(super) unsafe fn load32(from: *const u8) -> u32 {
        // SAFETY: the caller owns four bytes here.
        unsafe { from.cast::<u32>().read_unaligned() }
    }

    #[inline(always)]
    pub(super) unsafe fn store16(to: *mut u8, value: u16) {
        // SAFETY: the caller owns two bytes here.
        unsafe { to.cast::<u16>().write_unaligned(value) }
    }

    #[inline(always)]
    pub(super) unsafe fn store32(to: *mut u8, value: u32) {
        // SAFETY: the caller owns four bytes here.
        unsafe { to.cast::<u32>().write_unaligned(value) }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A packet in a vector. `linear` bytes are directly accessible until more are pulled.
    #[derive(Clone, Debug)]
    pub(crate) struct Bytes {
        pub(crate) bytes: Vec<u8>,
        pub(crate) linear: usize,
        pub(crate) ifindex: u32,
        pub(crate) to_us: bool,
        pub(crate) tagged: bool,
        pub(crate) gso_size: u32,
        pub(crate) verified: bool,
    }

    impl Bytes {
        pub(crate) fn new(bytes: Vec<u8>, ifindex: u32) -> Self {
            Self { linear: bytes.len(), bytes, ifindex, to_us: true, tagged: false, gso_size: 0, verified: false }
        }
    }

    impl Packet for Bytes {
        fn len(&self) -> u32 {
            self.bytes.len() as u32
        }
        fn ifindex(&self) -> u32 {
            self.ifindex
        }
        fn to_us(&self) -> bool {
            self.to_us
        }
        fn tagged(&self) -> bool {
            self.tagged
        }
        fn gso_size(&self) -> u32 {
            self.gso_size
        }
        fn checksum_verified(&self) -> bool {
            self.verified
        }
        fn window<const N: usize>(&mut self, at: usize) -> Option<Window<'_, N>> {
            let linear = self.linear.min(self.bytes.len());
            let bytes = self.bytes.get_mut(at..at + N).filter(|_| at + N <= linear)?;
            // SAFETY: the slice has N bytes and stays borrowed with the window.
            Some(unsafe { Window::new(bytes.as_mut_ptr()) })
        }
        fn pull(&mut self, len: u32) {
            self.linear = self.linear.max(len as usize);
        }
        fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
            self.bytes.get(at as usize..at as usize + N)?.try_into().ok()
        }
    }

    #[test]
    fn a_window_is_refused_past_the_end() {
        let mut packet = Bytes::new(vec![0; 20], 1);
        assert!(packet.window::<20>(0).is_some());
        assert!(packet.window::<20>(1).is_none());
        assert!(packet.window::<4>(16).is_some());
        assert!(packet.window::<4>(17).is_none());
    }

    #[test]
    fn what_is_written_is_read_back_and_nothing_beside_it() {
        let mut packet = Bytes::new((0..16).collect(), 1);
        let mut w = packet.window::<14>(1).unwrap();
        assert_eq!(w.be16::<1>().to_bytes(), [2, 3]);
        assert_eq!(w.be32::<2>().to_bytes(), [3, 4, 5, 6]);
        assert_eq!(w.mac::<8>(), [9, 10, 11, 12, 13, 14]);
        w.set_byte::<0>(0xa1);
        w.set_be16::<1>(Be16::from_bytes([0xb1, 0xb2]));
        w.set_be32::<3>(Be32::from_bytes([0xc1, 0xc2, 0xc3, 0xc4]));
        w.set_mac::<7>([0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6]);
        assert_eq!(packet.bytes[..8], [0, 0xa1, 0xb1, 0xb2, 0xc1, 0xc2, 0xc3, 0xc4]);
        assert_eq!(packet.bytes[8..], [0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 14, 15]);
    }

    #[test]
    fn the_head_is_pulled_when_it_lies_elsewhere() {
        let mut packet = Bytes::new(vec![7; 60], 1);
        packet.linear = 10;
        assert!(packet.window::<34>(0).is_none());
        assert_eq!(packet.head::<34>().unwrap().byte::<33>(), 7);
        assert!(packet.head::<61>().is_none());
    }
}
