//! Where the fields of the headers are, and the values that are fixed.
//!
//! Offsets count from the header's own first byte; [`eth::LEN`] and its like are added where headers are stacked. Only
//! IPv4 headers without options have a fixed length here: others go to the stack.

use weft_abi::{Be16, Be32};

use crate::packet::Window;

/// Ethernet II.
pub mod eth {
    use weft_abi::Be16;

    /// Destination address.
    pub const DST: usize = 0;
    /// Source address.
    pub const SRC: usize = 6;
    /// Type of what follows.
    pub const TYPE: usize = 12;
    /// Length of the header.
    pub const LEN: usize = 14;
    /// The type of IPv4.
    pub const IPV4: Be16 = Be16::from_native(0x0800);
}

/// IPv4 (RFC 791).
pub mod ipv4 {
    /// Version in the upper, header length in 32-bit words in the lower half.
    pub const VERSION_IHL: usize = 0;
    /// Traffic class: DSCP and ECN.
    pub const TOS: usize = 1;
    /// Length of header and payload.
    pub const TOTAL_LEN: usize = 2;
    /// Identification.
    pub const ID: usize = 4;
    /// Flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// Time to live; the protocol follows it in the same word.
    pub const TTL: usize = 8;
    /// Protocol of the payload.
    pub const PROTO: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
    /// Length of a header without options.
    pub const LEN: usize = 20;
    /// Version 4, five words: a header without options.
    pub const PLAIN: u8 = 0x45;
}

/// UDP (RFC 768).
pub mod udp {
    /// Source port.
    pub const SRC: usize = 0;
    /// Destination port.
    pub const DST: usize = 2;
    /// Length of header and payload.
    pub const TOTAL_LEN: usize = 4;
    /// Checksum; zero: none.
    pub const CHECKSUM: usize = 6;
    /// Length of the header.
    pub const LEN: usize = 8;
}

/// TCP (RFC 9293).
pub mod tcp {
    /// Header length in 32-bit words, in the upper half.
    pub const DATA_OFFSET: usize = 12;
}

/// VXLAN (RFC 7348).
pub mod vxlan {
    use weft_abi::Be32;

    /// Flags.
    pub const FLAGS: usize = 0;
    /// Network identifier in the upper 24 bits.
    pub const VNI: usize = 4;
    /// Length of the header.
    pub const LEN: usize = 8;
    /// The flag that says the identifier is valid.
    pub const HAS_VNI: Be32 = Be32::from_native(0x0800_0000);
}

/// Offsets in a packet with outer headers.
pub mod outer {
    use super::{eth, ipv4, udp, vxlan};

    /// The outer IPv4 header.
    pub const IP: usize = eth::LEN;
    /// The outer UDP header.
    pub const UDP: usize = IP + ipv4::LEN;
    /// The VXLAN header.
    pub const VXLAN: usize = UDP + udp::LEN;
    /// The inner Ethernet header.
    pub const INNER_ETH: usize = VXLAN + vxlan::LEN;
    /// The inner IPv4 header.
    pub const INNER_IP: usize = INNER_ETH + eth::LEN;
    /// The first byte after an inner IPv4 header without options.
    pub const INNER_END: usize = INNER_IP + ipv4::LEN;
}

const _: () = assert!(outer::INNER_IP - outer::IP == weft_abi::ENCAP_OVERHEAD as usize);

/// What an IPv4 header says, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    version_ihl: u8,
    /// Traffic class.
    pub tos: u8,
    /// Length of header and payload as the header has it.
    pub total_len: u32,
    fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: u8,
    /// Source.
    pub src: Be32,
    /// Destination.
    pub dst: Be32,
}

impl Ipv4 {
    /// The header after an Ethernet header at the window's beginning.
    #[inline(always)]
    #[must_use]
    pub fn first<const N: usize>(w: &Window<'_, N>) -> Self {
        Self {
            version_ihl: w.byte::<{ outer::IP + ipv4::VERSION_IHL }>(),
            tos: w.byte::<{ outer::IP + ipv4::TOS }>(),
            total_len: u32::from(w.be16::<{ outer::IP + ipv4::TOTAL_LEN }>().to_native()),
            fragment: w.be16::<{ outer::IP + ipv4::FRAGMENT }>().to_native(),
            ttl: w.byte::<{ outer::IP + ipv4::TTL }>(),
            proto: w.byte::<{ outer::IP + ipv4::PROTO }>(),
            src: w.be32::<{ outer::IP + ipv4::SRC }>(),
            dst: w.be32::<{ outer::IP + ipv4::DST }>(),
        }
    }

    /// The header of the packet inside.
    #[inline(always)]
    #[must_use]
    pub fn inner<const N: usize>(w: &Window<'_, N>) -> Self {
        Self {
            version_ihl: w.byte::<{ outer::INNER_IP + ipv4::VERSION_IHL }>(),
            tos: w.byte::<{ outer::INNER_IP + ipv4::TOS }>(),
            total_len: u32::from(w.be16::<{ outer::INNER_IP + ipv4::TOTAL_LEN }>().to_native()),
            fragment: w.be16::<{ outer::INNER_IP + ipv4::FRAGMENT }>().to_native(),
            ttl: w.byte::<{ outer::INNER_IP + ipv4::TTL }>(),
            proto: w.byte::<{ outer::INNER_IP + ipv4::PROTO }>(),
            src: w.be32::<{ outer::INNER_IP + ipv4::SRC }>(),
            dst: w.be32::<{ outer::INNER_IP + ipv4::DST }>(),
        }
    }

    /// The header's length in bytes as it says itself: 0 to 60.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> u32 {
        (self.version_ihl & 0x0f) as u32 * 4
    }

    /// Whether version and length are possible for IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn is_sane(&self) -> bool {
        self.version_ihl >> 4 == 4 && self.version_ihl & 0x0f >= 5
    }

    /// Whether there are no options.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.version_ihl == ipv4::PLAIN
    }

    /// Whether this is part of a packet only: more fragments follow, or some went before.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & 0x3fff != 0
    }

    /// Whether the transport header is in this packet: whole, or the first fragment.
    #[inline(always)]
    #[must_use]
    pub const fn has_transport(&self) -> bool {
        self.fragment & 0x1fff == 0
    }
}

/// A VNI as it stands in the VXLAN header's second word.
#[inline(always)]
#[must_use]
pub const fn vni_word(vni: u32) -> Be32 {
    Be32::from_native(vni << 8)
}

/// The first of the ports that outer packets are sent from (RFC 7348 section 5: 49152 to 65535).
pub const FIRST_SOURCE_PORT: u16 = 0xc000;

/// The outer source port of a flow, so that devices and hosts on the way spread flows, not packets.
#[inline(always)]
#[must_use]
pub const fn source_port(flow_hash: u32) -> Be16 {
    let mixed = (flow_hash ^ (flow_hash >> 16)) as u16;
    Be16::from_native(FIRST_SOURCE_PORT | (mixed & 0x3fff))
}
