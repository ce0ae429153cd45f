//! Internet checksums (RFC 1071), whole and by difference (RFC 1624).
//!
//! Values are native integers made from big-endian words; only [`weft_abi::Be16`] goes into a packet.

/// Adds up partial sums and folds the carries: the checksum that belongs into a header whose other words add to `sum`.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !(folded as u16)
}

/// The checksum of a header in which one word changes from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    finish((!checksum as u32) + (!old as u32) + (new as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(words: &[u16]) -> u16 {
        finish(words.iter().map(|w| u32::from(*w)).sum())
    }

    #[test]
    fn rfc_1071_example_adds_up() {
        assert_eq!(whole(&[0x0001, 0xf203, 0xf4f5, 0xf6f7]), !0xddf2);
    }

    #[test]
    fn replacing_a_word_equals_summing_anew() {
        for old in (0..=u16::MAX).step_by(257) {
            for new in (0..=u16::MAX).step_by(263) {
                let before = whole(&[0x4500, 0x0054, old, 0x0af4]);
                let after = whole(&[0x4500, 0x0054, new, 0x0af4]);
                assert_eq!(replace(before, old, new), after, "{old:#x} -> {new:#x}");
            }
        }
    }
}
