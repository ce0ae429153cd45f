//! The chain of headers between an IPv6 header and the transport header (RFC 8200 section 4).
//!
//! The fast path takes only packets without extension headers. The chain is followed because a check must not be fooled by
//! it: UDP to the overlay's port stays what it is behind any number of options.

use crate::packet::Packet;
use crate::wire::{ipv6, outer};

/// How many extension headers are looked behind. RFC 8200 has no use for more than seven.
pub const MOST: usize = 8;

/// A transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Its protocol.
    pub proto: u8,
    /// Where it begins, in bytes from the frame's first.
    pub at: u32,
    /// Whether the packet is the first fragment of a longer one, or one that was made a fragment for no reason.
    pub fragment: bool,
}

impl Transport {
    /// Whether it follows the IPv6 header at once.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.at == outer::AFTER_V6 as u32
    }
}

/// Why there is no transport header to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A fragment that is not the first. What it is was to be seen in the first one, which does not pass without its
    /// whole chain.
    LaterFragment,
    /// A first fragment that ends before the transport header (which RFC 7112 forbids), or more headers than [`MOST`].
    Hidden,
    /// The packet ends before its chain does.
    Short,
}

/// Follows the chain of an IPv6 packet after an Ethernet header. Its first header is of type `next`; the packet ends, by its own
/// account, at `end`.
///
/// # Errors
/// When there is no transport header to be found.
#[inline(always)]
pub fn follow<P: Packet>(packet: &P, next: u8, end: u32) -> Result<Transport, Lost> {
    let (mut proto, mut at, mut fragment) = (next, outer::AFTER_V6 as u32, false);
    let mut left = MOST;
    while ipv6::is_extension(proto) {
        if left == 0 {
            return Err(Lost::Hidden);
        }
        left -= 1;
        let short = if fragment { Lost::Hidden } else { Lost::Short };
        // The shortest of them has eight bytes.
        if at + 8 > end {
            return Err(short);
        }
        let [following, len, upper, lower] = packet.load::<4>(at).ok_or(short)?;
        match proto {
            ipv6::FRAGMENT => {
                if u16::from_be_bytes([upper, lower]) & 0xfff8 != 0 {
                    return Err(Lost::LaterFragment);
                }
                fragment = true;
                at += 8;
            }
            ipv6::AUTHENTICATION => at += (u32::from(len) + 2) * 4,
            _ => at += (u32::from(len) + 1) * 8,
        }
        proto = following;
    }
    Ok(Transport { proto, at, fragment })
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
