//! Where the fields of the headers are, and the values that are fixed.
//!
//! Offsets count from the header's own first byte; [`eth::LEN`] and its like are added where headers are stacked. Only
//! headers without options and extensions have a fixed length here: others go to the stack ([`crate::chain`] looks into
//! them as far as a check needs).

use weft_abi::{Be16, Be32, Be128};

use crate::packet::{Packet, Window};

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
    /// The type of ARP.
    pub const ARP: Be16 = Be16::from_native(0x0806);
    /// The type of IPv6.
    pub const IPV6: Be16 = Be16::from_native(0x86dd);
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

/// IPv6 (RFC 8200).
pub mod ipv6 {
    /// Version in the upper four bits, then eight of traffic class, then the upper four of the flow label.
    pub const VERSION_CLASS: usize = 0;
    /// Length of all that follows the header.
    pub const PAYLOAD_LEN: usize = 4;
    /// Type of what follows the header; the hop limit follows it in the same word.
    pub const NEXT: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SRC: usize = 8;
    /// Destination address.
    pub const DST: usize = 24;
    /// Length of the header.
    pub const LEN: usize = 40;

    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing header.
    pub const ROUTING: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP.
    pub const ICMP: u8 = 58;
    /// Destination options.
    pub const DESTINATION: u8 = 60;

    /// Whether a header of this type stands before the transport header.
    #[inline(always)]
    #[must_use]
    pub const fn is_extension(next: u8) -> bool {
        matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
    }
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

/// Offsets in a packet with outer headers, from the outer UDP header on: the same for both families outside.
pub mod tunnel {
    use super::{eth, udp, vxlan};

    /// The outer UDP header.
    pub const UDP: usize = 0;
    /// The VXLAN header.
    pub const VXLAN: usize = UDP + udp::LEN;
    /// The inner Ethernet header.
    pub const INNER_ETH: usize = VXLAN + vxlan::LEN;
    /// The inner IP header.
    pub const INNER_IP: usize = INNER_ETH + eth::LEN;
}

/// Offsets in a packet with outer headers, from its first byte.
pub mod outer {
    use super::{eth, ipv4, ipv6, tunnel};

    /// The outer IP header.
    pub const IP: usize = eth::LEN;
    /// What follows a plain IPv4 header: outside, the UDP header.
    pub const AFTER_V4: usize = IP + ipv4::LEN;
    /// What follows an IPv6 header.
    pub const AFTER_V6: usize = IP + ipv6::LEN;
    /// The inner IP header, with IPv4 outside.
    pub const INNER_IP: usize = AFTER_V4 + tunnel::INNER_IP;
    /// The inner IP header, with IPv6 outside.
    pub const INNER_IP6: usize = AFTER_V6 + tunnel::INNER_IP;
}

const _: () = assert!(outer::INNER_IP - outer::IP == weft_abi::ENCAP_OVERHEAD as usize);
const _: () = assert!(outer::INNER_IP6 - outer::IP == weft_abi::ENCAP_OVERHEAD6 as usize);

/// Which IP it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

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
    /// The header at an offset. `None`: the packet is shorter.
    #[inline(always)]
    #[must_use]
    pub fn at<P: Packet>(packet: &mut P, at: usize) -> Option<Self> {
        Some(Self::read(&packet.reach(at)?))
    }

    /// The header that the window is on.
    #[inline(always)]
    #[must_use]
    pub fn read(w: &Window<'_, { ipv4::LEN }>) -> Self {
        Self {
            version_ihl: w.byte::<{ ipv4::VERSION_IHL }>(),
            tos: w.byte::<{ ipv4::TOS }>(),
            total_len: u32::from(w.be16::<{ ipv4::TOTAL_LEN }>().to_native()),
            fragment: w.be16::<{ ipv4::FRAGMENT }>().to_native(),
            ttl: w.byte::<{ ipv4::TTL }>(),
            proto: w.byte::<{ ipv4::PROTO }>(),
            src: w.be32::<{ ipv4::SRC }>(),
            dst: w.be32::<{ ipv4::DST }>(),
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

/// What an IPv6 header says, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    version_class: u16,
    /// Length of the header and all that follows it, as the header has it.
    pub total_len: u32,
    /// Type of what follows.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: Be128,
    /// Destination.
    pub dst: Be128,
}

impl Ipv6 {
    /// The header at an offset. `None`: the packet is shorter.
    #[inline(always)]
    #[must_use]
    pub fn at<P: Packet>(packet: &mut P, at: usize) -> Option<Self> {
        let w = packet.reach::<{ ipv6::LEN }>(at)?;
        Some(Self {
            version_class: w.be16::<{ ipv6::VERSION_CLASS }>().to_native(),
            total_len: ipv6::LEN as u32 + u32::from(w.be16::<{ ipv6::PAYLOAD_LEN }>().to_native()),
            next: w.byte::<{ ipv6::NEXT }>(),
            hop_limit: w.byte::<{ ipv6::HOP_LIMIT }>(),
            src: w.be128::<{ ipv6::SRC }>(),
            dst: w.be128::<{ ipv6::DST }>(),
        })
    }

    /// Whether it is version 6.
    #[inline(always)]
    #[must_use]
    pub const fn is_sane(&self) -> bool {
        self.version_class >> 12 == 6
    }

    /// Traffic class.
    #[inline(always)]
    #[must_use]
    pub const fn class(&self) -> u8 {
        (self.version_class >> 4) as u8
    }

    /// Whether the length is not written: zero, in a packet of several segments (RFC 2675, BIG TCP).
    #[inline(always)]
    #[must_use]
    pub const fn is_unwritten(&self) -> bool {
        self.total_len == ipv6::LEN as u32
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
