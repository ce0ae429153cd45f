//! Explicit congestion notification across the tunnel (RFC 6040, normal mode).
//!
//! Going in, the outer field is a copy of the inner one, and the outer DSCP is 0, as a VXLAN device made without `tos` has
//! it: flannel's, and ours of the kernel path. (That one turns CE into ECT(0), after the older RFC 3168.) Coming out, the two
//! are combined; the outer DSCP is discarded (RFC 2983).

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0;
/// ECN-capable, code point 1.
pub const ECT_1: u8 = 1;
/// ECN-capable, code point 0.
pub const ECT_0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;
/// The two bits of the traffic class that are ECN.
pub const MASK: u8 = 3;

/// The outer traffic class of a packet that goes in.
#[inline(always)]
#[must_use]
pub const fn enter(inner_tos: u8) -> u8 {
    inner_tos & MASK
}

/// The inner traffic class after decapsulation (RFC 6040, figure 4), or `None` if the packet must be dropped.
#[inline(always)]
#[must_use]
pub const fn leave(inner_tos: u8, outer_tos: u8) -> Option<u8> {
    let inner = inner_tos & MASK;
    let ecn = match (inner, outer_tos & MASK) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => inner,
    };
    Some(inner_tos & !MASK | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040, figure 4: rows are the inner field, columns the outer one: Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn every_pair_leaves_as_the_rfc_says() {
        let outer = [NOT_ECT, ECT_0, ECT_1, CE];
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, want) in outer.into_iter().zip(row) {
                assert_eq!(leave(inner, outer), want, "inner {inner} outer {outer}");
            }
        }
    }

    #[test]
    fn the_inner_dscp_stays_inside() {
        assert_eq!([0xb8 | CE, 0xb8, ECT_1].map(enter), [CE, NOT_ECT, ECT_1]);
        assert_eq!(leave(0xb8 | ECT_0, CE), Some(0xb8 | CE));
        assert_eq!(leave(0xb8, 0x20), Some(0xb8));
    }
}
