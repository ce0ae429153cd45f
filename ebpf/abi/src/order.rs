//! Integers in network byte order, which their type says.
//!
//! The bits are held as they stand in a packet, so a lookup key is built without a swap. Comparison and printing are by
//! the native value: rows sort as people read them.

use core::cmp::Ordering;
use core::fmt;
use core::net::Ipv4Addr;

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

#[cfg(test)]
mod tests {
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
}
