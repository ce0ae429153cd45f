//! Chains that end well, and those that do not.

use super::*;
use crate::packet::testing::Bytes;

/// An Ethernet and IPv6 header's length of nothing, then the headers.
fn packet(headers: &[u8]) -> Bytes {
    let mut bytes = vec![0; outer::AFTER_V6];
    bytes.extend(headers);
    Bytes::new(bytes, 1)
}

fn after(first: u8, headers: &[u8]) -> Result<Transport, Lost> {
    let packet = packet(headers);
    follow(&packet, first, packet.bytes.len() as u32)
}

/// An extension header of `units` times eight bytes.
fn options(next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![0x11; usize::from(units) * 8];
    header[..2].copy_from_slice(&[next, units - 1]);
    header
}

fn fragment(next: u8, offset_and_flags: u16) -> Vec<u8> {
    let [upper, lower] = offset_and_flags.to_be_bytes();
    vec![next, 0, upper, lower, 0, 0, 0, 9]
}

#[test]
fn without_extensions_the_transport_header_follows_at_once() {
    for proto in [6, 17, 58, 59, 132] {
        let found = after(proto, &[0; 8]).unwrap();
        assert_eq!(found, Transport { proto, at: 54, fragment: false });
        assert!(found.is_plain());
    }
}

#[test]
fn each_kind_of_header_is_as_long_as_it_says() {
    for kind in [ipv6::HOP_BY_HOP, ipv6::ROUTING, ipv6::DESTINATION] {
        for units in [1, 2, 32] {
            let found = after(kind, &options(17, units)).unwrap();
            assert_eq!((found.proto, found.at, found.is_plain()), (17, 54 + u32::from(units) * 8, false));
        }
    }
    // RFC 4302: in words of four bytes, less two.
    let mut authentication = vec![0; 24];
    authentication[..2].copy_from_slice(&[17, 4]);
    assert_eq!(after(ipv6::AUTHENTICATION, &authentication).unwrap().at, 54 + 24);
    let found = after(ipv6::FRAGMENT, &fragment(17, 1)).unwrap();
    assert_eq!((found.proto, found.at, found.fragment), (17, 62, true));
}

#[test]
fn a_later_fragment_is_told_from_the_first() {
    assert_eq!(after(ipv6::FRAGMENT, &fragment(17, 8)), Err(Lost::LaterFragment));
    assert_eq!(after(ipv6::FRAGMENT, &fragment(17, 0xfff9)), Err(Lost::LaterFragment));
    // The two reserved bits and "more fragments" are no offset.
    assert!(after(ipv6::FRAGMENT, &fragment(17, 7)).is_ok());
}

#[test]
fn a_first_fragment_that_ends_in_its_chain_hides_what_it_is() {
    let mut headers = fragment(ipv6::DESTINATION, 1);
    assert_eq!(after(ipv6::FRAGMENT, &headers), Err(Lost::Hidden));
    headers.extend(options(17, 1));
    assert_eq!(after(ipv6::FRAGMENT, &headers).unwrap().proto, 17);
}

#[test]
fn what_is_behind_the_packets_own_end_does_not_count() {
    let mut packet = packet(&fragment(ipv6::DESTINATION, 1));
    let end = packet.bytes.len() as u32;
    packet.bytes.extend(options(6, 1));
    packet.linear = packet.bytes.len();
    assert_eq!(follow(&packet, ipv6::FRAGMENT, end), Err(Lost::Hidden), "padding is no header");
}

#[test]
fn eight_headers_are_looked_behind_and_no_more() {
    let chain = |n: usize| {
        let mut headers: Vec<u8> = (1..n).flat_map(|_| options(ipv6::DESTINATION, 1)).collect();
        headers.extend(options(17, 1));
        after(ipv6::DESTINATION, &headers)
    };
    assert_eq!(chain(MOST).unwrap().at, 54 + 8 * MOST as u32);
    assert_eq!(chain(MOST + 1), Err(Lost::Hidden));
}

#[test]
fn a_chain_that_is_cut_is_short_at_every_byte() {
    let mut whole = options(ipv6::ROUTING, 2);
    whole.extend(options(17, 1));
    for len in 0..whole.len() {
        let got = after(ipv6::HOP_BY_HOP, &whole[..len]);
        match len {
            // The first header's beginning is there and says where the second one is.
            0..8 => assert_eq!(got, Err(Lost::Short), "cut to {len}"),
            _ => assert!(matches!(got, Err(Lost::Short)) == (len < 24), "cut to {len}: {got:?}"),
        }
    }
}
