//! Integers in network byte order, which their type says.
//!
//! The bits are held as they stand in a packet, so a lookup key is built without a swap. Comparison and printing are by
//! the native value: rows sort as people read them.

use core::cmp::Ordering;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// A 16-bit value in network byte order: a port.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// From the number as the CPU holds it.
    #[inline(always)]
    #[must_use]
    pub const fn from_native(value: u16) -> Self {
        Self(value.to_be())
    }

    /// From bits that already are in network order, as read from a packet or a kernel structure.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// From bytes in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The number as the CPU holds it.
    #[inline(always)]
    #[must_use]
    pub const fn to_native(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bits in network order.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The bytes in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }
}

/// A 32-bit value in network byte order: an IPv4 address or mask.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    /// All bits zero: "no address" wherever a field says so.
    pub const ZERO: Self = Self(0);

    /// From the number as the CPU holds it.
    #[inline(always)]
    #[must_use]
    pub const fn from_native(value: u32) -> Self {
        Self(value.to_be())
    }

    /// From bits that already are in network order, as read from a packet or a kernel structure.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// From bytes in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// The netmask of a prefix length; lengths above 32 count as 32.
    #[must_use]
    pub const fn mask_of(prefix_len: u8) -> Self {
        if prefix_len == 0 {
            Self(0)
        } else if prefix_len >= 32 {
            Self(u32::MAX)
        } else {
            Self::from_native(u32::MAX << (32 - prefix_len))
        }
    }

    /// The number as the CPU holds it.
    #[inline(always)]
    #[must_use]
    pub const fn to_native(self) -> u32 {
        u32::from_be(self.0)
    }

    /// The bits in network order.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The bytes in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The network address of `self` under `mask`.
    #[inline(always)]
    #[must_use]
    pub const fn masked(self, mask: Self) -> Self {
        Self(self.0 & mask.0)
    }

    /// Whether this is zero.
    #[inline(always)]
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// As an address.
    #[must_use]
    pub const fn to_addr(self) -> Ipv4Addr {
        let [a, b, c, d] = self.to_bytes();
        Ipv4Addr::new(a, b, c, d)
    }
}

impl From<Ipv4Addr> for Be32 {
    fn from(addr: Ipv4Addr) -> Self {
        Self::from_bytes(addr.octets())
    }
}

impl From<Be32> for Ipv4Addr {
    fn from(be: Be32) -> Self {
        be.to_addr()
    }
}

/// A 128-bit value in network byte order: an IPv6 address or mask, or an IPv4 address mapped into IPv6 (RFC 4291 2.5.5.2),
/// which is how a place for either family holds one.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Be128([Be32; 4]);

impl Be128 {
    /// All bits zero: "no address" wherever a field says so.
    pub const ZERO: Self = Self([Be32::ZERO; 4]);

    /// From four words, the first one first.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [Be32; 4]) -> Self {
        Self(words)
    }

    /// An IPv4 address, as `::ffff:a.b.c.d`.
    #[inline(always)]
    #[must_use]
    pub const fn mapped(addr: Be32) -> Self {
        Self([Be32::ZERO, Be32::ZERO, Be32::from_native(0xffff), addr])
    }

    /// The netmask of a prefix length; lengths above 128 count as 128.
    #[must_use]
    pub const fn mask_of(prefix_len: u8) -> Self {
        const fn part(prefix_len: u8, before: u8) -> Be32 {
            Be32::mask_of(prefix_len.saturating_sub(before))
        }
        Self([part(prefix_len, 0), part(prefix_len, 32), part(prefix_len, 64), part(prefix_len, 96)])
    }

    /// The four words, the first one first.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [Be32; 4] {
        self.0
    }

    /// The last word: of a mapped address, the IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn last(self) -> Be32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address, mapped.
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        self.0[0].is_zero() && self.0[1].is_zero() && self.0[2].bits() == Be32::from_native(0xffff).bits()
    }

    /// From bytes in the order of the wire.
    #[must_use]
    pub const fn from_bytes(b: [u8; 16]) -> Self {
        Self([
            Be32::from_bytes([b[0], b[1], b[2], b[3]]),
            Be32::from_bytes([b[4], b[5], b[6], b[7]]),
            Be32::from_bytes([b[8], b[9], b[10], b[11]]),
            Be32::from_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// The bytes in the order of the wire.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let (a, b, c, d) = (a.to_bytes(), b.to_bytes(), c.to_bytes(), d.to_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// The network address of `self` under `mask`.
    #[inline(always)]
    #[must_use]
    pub const fn masked(self, mask: Self) -> Self {
        let (a, m) = (self.0, mask.0);
        Self([a[0].masked(m[0]), a[1].masked(m[1]), a[2].masked(m[2]), a[3].masked(m[3])])
    }

    /// Whether all bits are zero.
    #[inline(always)]
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0[0].bits() | self.0[1].bits() | self.0[2].bits() | self.0[3].bits() == 0
    }

    /// As an address; a mapped one stays mapped.
    #[must_use]
    pub const fn to_addr(self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.to_bytes())
    }
}

impl From<Ipv6Addr> for Be128 {
    fn from(addr: Ipv6Addr) -> Self {
        Self::from_bytes(addr.octets())
    }
}

impl From<Ipv4Addr> for Be128 {
    fn from(addr: Ipv4Addr) -> Self {
        Self::mapped(addr.into())
    }
}

impl From<core::net::IpAddr> for Be128 {
    fn from(addr: core::net::IpAddr) -> Self {
        match addr {
            core::net::IpAddr::V4(addr) => addr.into(),
            core::net::IpAddr::V6(addr) => addr.into(),
        }
    }
}

/// A mapped address prints as the IPv4 address.
impl fmt::Display for Be128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_mapped() { fmt::Display::fmt(&self.last(), f) } else { fmt::Display::fmt(&self.to_addr(), f) }
    }
}

impl fmt::Debug for Be128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Ord for Be16 {
    fn cmp(&self, other: &Self) -> Ordering {
        self.to_native().cmp(&other.to_native())
    }
}

impl PartialOrd for Be16 {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Be32 {
    fn cmp(&self, other: &Self) -> Ordering {
        self.to_native().cmp(&other.to_native())
    }
}

impl PartialOrd for Be32 {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_native(), f)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Be32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_addr(), f)
    }
}

impl fmt::Debug for Be32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "user")]
// SAFETY: a transparent integer; every bit pattern is a value and there is no padding.
unsafe impl aya::Pod for Be16 {}
#[cfg(feature = "user")]
// SAFETY: a transparent integer; every bit pattern is a value and there is no padding.
unsafe impl aya::Pod for Be32 {}
#[cfg(feature = "user")]
// SAFETY: four integers without padding between them; every bit pattern is a value.
unsafe impl aya::Pod for Be128 {}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::borrow::ToOwned;
    use std::string::ToString;

    use super::*;

    #[test]
    fn bits_stand_as_in_a_packet() {
        assert_eq!(Be16::from_native(8472).to_bytes(), [0x21, 0x18]);
        assert_eq!(Be32::from(Ipv4Addr::new(10, 244, 3, 1)).to_bytes(), [10, 244, 3, 1]);
        assert_eq!(Be32::from_bytes([10, 244, 3, 1]).to_native(), 0x0af4_0301);
        assert_eq!(Be16::from_bits(Be16::from_native(80).bits()).to_native(), 80);
    }

    #[test]
    fn addresses_sort_as_numbers() {
        let low = Be32::from(Ipv4Addr::new(10, 0, 0, 255));
        let high = Be32::from(Ipv4Addr::new(10, 0, 1, 0));
        assert!(low < high);
        assert!(Be16::from_native(255) < Be16::from_native(256));
    }

    #[test]
    fn masks_cover_every_length() {
        for len in 0..=32_u8 {
            assert_eq!(Be32::mask_of(len).to_native().leading_ones(), u32::from(len));
        }
        assert_eq!(Be32::mask_of(99), Be32::mask_of(32));
        assert_eq!(Be32::from(Ipv4Addr::new(10, 1, 2, 3)).masked(Be32::mask_of(24)).to_addr(), Ipv4Addr::new(10, 1, 2, 0));
    }

    #[test]
    fn sixteen_bytes_stand_as_in_a_packet_and_sort_as_addresses() {
        let addr: Ipv6Addr = "fd00:10:244:3::5".parse().unwrap();
        let be = Be128::from(addr);
        assert_eq!((be.to_bytes(), be.to_addr()), (addr.octets(), addr));
        assert_eq!(be.masked(Be128::mask_of(64)).to_addr(), "fd00:10:244:3::".parse::<Ipv6Addr>().unwrap());
        assert!(be < Be128::from("fd00:10:244:4::".parse::<Ipv6Addr>().unwrap()));
        for len in 0..=128_u8 {
            assert_eq!(u128::from_be_bytes(Be128::mask_of(len).to_bytes()).leading_ones(), u32::from(len));
        }
        assert_eq!(Be128::mask_of(200), Be128::mask_of(128));
    }

    #[test]
    fn an_ipv4_address_is_mapped_and_prints_as_itself() {
        let v4 = Ipv4Addr::new(192, 0, 2, 7);
        let be = Be128::from(v4);
        assert_eq!(be.to_addr(), v4.to_ipv6_mapped());
        assert!(be.is_mapped() && !Be128::ZERO.is_mapped());
        assert_eq!((be.to_string(), be.last().to_addr()), ("192.0.2.7".to_owned(), v4));
    }
}
