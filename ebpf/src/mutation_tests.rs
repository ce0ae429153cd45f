//! Valid packets of every kind, damaged at random, against a plain reading of the rules: what may take the fast path, what must
//! be dropped, and what nobody may drop.
//!
//! The reference reads bytes as a person would, with slices and no cleverness; it shares no code with what it judges.

use weft_abi::{Action, Verdict};

use crate::packet::testing::Bytes;
use crate::testing::{Frame, World, arrive, leave, on_the_wire_over, tcp_packet, udp_packet};
use crate::wire::Family;

/// A sequence that is the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Damages a packet: some bytes, mostly of the headers, then now and then its length.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: [u8; 16] = [0, 1, 2, 4, 5, 6, 17, 43, 44, 51, 58, 60, 0x21, 0x45, 0x60, 0xff];
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len().min(120));
            bytes[at] = match self.below(3) {
                0 => bytes[at] ^ 1 << self.below(8),
                1 => TELLING[self.below(TELLING.len())],
                _ => self.next() as u8,
            };
        }
        match self.below(8) {
            0 => bytes.truncate(self.below(bytes.len() + 1)),
            1 => bytes.extend(std::iter::repeat_n(0x21, self.below(20))),
            _ => {}
        }
    }
}

fn be16(b: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?])))
}

/// What the rules leave open for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// The fast path or the stack.
    Pass,
    /// The stack, and nothing else.
    Stack,
    /// A named drop, and nothing else.
    Drop,
}

impl Must {
    fn allows(self, action: Action) -> bool {
        match self {
            Self::Pass => action != Action::Drop,
            Self::Stack => action == Action::Stack,
            Self::Drop => action == Action::Drop,
        }
    }
}

/// The container's IPv6 address.
const OWN6: [u8; 16] = [0xfd, 0, 0, 0x10, 2, 0x44, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5];

const OVERLAY_PORTS: [usize; 2] = [8472, 4789];

/// What may become of a frame that container 1 sends: its addresses are 10.244.1.5 and fd00:10:244:1::5.
fn sent(b: &[u8]) -> Must {
    match (b.get(12), b.get(13)) {
        (Some(8), Some(0)) => sent4(b),
        (Some(0x86), Some(0xdd)) => sent6(b),
        (Some(8), Some(6)) => sent_arp(b),
        _ => Must::Stack,
    }
}

fn sent_arp(b: &[u8]) -> Must {
    if b.len() < 42 || b[14..20] != [0, 1, 8, 0, 6, 4] {
        return Must::Drop;
    }
    if b[28..32] == [0; 4] || b[28..32] == [10, 244, 1, 5] { Must::Stack } else { Must::Drop }
}

fn sent4(b: &[u8]) -> Must {
    if b.len() < 34 || b[14] >> 4 != 4 || b[14] & 15 < 5 || b[26..30] != [10, 244, 1, 5] {
        return Must::Drop;
    }
    let (header, total) = (usize::from(b[14] & 15) * 4, be16(b, 16).unwrap());
    if total < header || total > b.len() - 14 {
        return Must::Drop;
    }
    let fragment = be16(b, 20).unwrap();
    if b[23] == 17 && fragment & 0x1fff == 0 {
        match be16(b, 14 + header + 2) {
            _ if total < header + 8 => return Must::Drop,
            Some(port) if OVERLAY_PORTS.contains(&port) => return Must::Drop,
            _ => {}
        }
    }
    if b[30..32] == [10, 245] {
        return Must::Drop;
    }
    let somewhere = b[30..33] == [10, 244, 2] || b[30..34] == [10, 244, 1, 5];
    let fast = header == 20 && fragment & 0x3fff == 0 && b[22] > 1 && somewhere;
    if fast { Must::Pass } else { Must::Stack }
}

/// The transport protocol and where it begins; `Err`: what becomes of a packet that has none to show.
fn transport6(b: &[u8], end: usize) -> Result<(u8, usize), Must> {
    let (mut next, mut at) = (b[20], 54);
    for _ in 0..9 {
        let len = match next {
            0 | 43 | 60 if at + 8 <= end => (usize::from(b[at + 1]) + 1) * 8,
            51 if at + 8 <= end => (usize::from(b[at + 1]) + 2) * 4,
            44 if at + 8 <= end => {
                if be16(b, at + 2).unwrap() >> 3 != 0 {
                    return Err(Must::Stack);
                }
                8
            }
            0 | 43 | 44 | 51 | 60 => return Err(Must::Drop),
            _ => return Ok((next, at)),
        };
        (next, at) = (b[at], at + len);
    }
    Err(Must::Drop)
}

fn sent6(b: &[u8]) -> Must {
    if b.len() < 54 || b[14] >> 4 != 6 {
        return Must::Drop;
    }
    let (src, dst) = (&b[22..38], &b[38..54]);
    let own = src == OWN6;
    let group = dst[0] == 0xff && (dst[1] == 1 || dst[1] == 2);
    let link = |a: &[u8]| a[0] == 0xfe && a[1] & 0xc0 == 0x80;
    if !own && !(src == [0; 16] && group || link(src) && (link(dst) || group)) {
        return Must::Drop;
    }
    let end = 54 + be16(b, 18).unwrap();
    if end > b.len() {
        return Must::Drop;
    }
    let mut plain = true;
    let mut later = false;
    match transport6(b, end) {
        Err(Must::Drop) => return Must::Drop,
        Err(_) => later = true,
        Ok((proto, at)) => {
            plain = at == 54;
            if proto == 17 && (at + 8 > end || OVERLAY_PORTS.contains(&be16(b, at + 2).unwrap())) {
                return Must::Drop;
            }
            if proto == 58 {
                if at >= end {
                    return Must::Drop;
                }
                let good = match b[at] {
                    134 | 137 => false,
                    136 => at + 24 <= end && advertised(&b[at + 8..at + 24]),
                    _ => true,
                };
                if !good {
                    return Must::Drop;
                }
            }
        }
    }
    if own && dst[..6] == [0xfd, 0, 0, 0x10, 2, 0x45] {
        return Must::Drop;
    }
    let somewhere = dst[..8] == [0xfd, 0, 0, 0x10, 2, 0x44, 0, 2] || dst == OWN6;
    let fast = own && plain && !later && b[21] > 1 && somewhere;
    if fast { Must::Pass } else { Must::Stack }
}

fn advertised(target: &[u8]) -> bool {
    let gateway = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let link = target[0] == 0xfe && target[1] & 0xc0 == 0x80;
    link && target != gateway || target == OWN6
}

/// What a container can send, of every kind.
fn kinds() -> Vec<Vec<u8>> {
    let option = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |next: u8, word: u16| [&[next, 0][..], &word.to_be_bytes(), &[0, 0, 0, 9]].concat();
    let mut advertisement = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    advertisement.extend([0xfd, 0, 0, 0x10, 2, 0x44, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5]);
    let frames: Vec<Frame> = vec![
        udp_packet(),
        tcp_packet(),
        udp_packet().ports(1, 8472),
        udp_packet().options(8),
        udp_packet().fragment(0x2000),
        udp_packet().fragment(0x0010),
        udp_packet().v6(),
        tcp_packet().v6(),
        udp_packet().v6().ports(1, 4789),
        udp_packet().v6().extensions(0, option(17)),
        udp_packet().v6().extensions(60, [option(43), option(0), option(17)].concat()),
        udp_packet().v6().extensions(60, vec![option(60); 8].concat()),
        udp_packet().v6().extensions(44, fragment(17, 1)),
        udp_packet().v6().extensions(44, fragment(17, 8)),
        udp_packet().v6().extensions(44, [fragment(60, 1), option(17)].concat()),
        udp_packet().v6().ports(1, 8472).extensions(51, vec![17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        udp_packet().v6().proto(58).src6("fe80::cc").dst6("ff02::1").payload(advertisement),
        udp_packet().v6().proto(58).src6("::").dst6("ff02::16").payload(vec![143; 28]),
    ];
    let mut all: Vec<Vec<u8>> = frames.iter().map(Frame::build).collect();
    let mut arp = vec![2, 0xee, 0, 0, 0, 1, 2, 0xcc, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0xcc, 0, 0, 0, 1];
    arp.extend([10, 244, 1, 5, 0, 0, 0, 0, 0, 0, 10, 244, 1, 1]);
    all.push(arp);
    all
}

/// How many damaged packets of each kind.
const ROUNDS: usize = 4_000;

#[test]
fn whatever_a_container_sends_is_judged_as_the_rules_say() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut seen = std::collections::BTreeSet::new();
    for outside in [Family::V4, Family::V6] {
        let world = World::host(1).outside(outside);
        for kind in kinds() {
            for round in 0..ROUNDS {
                let mut bytes = kind.clone();
                if round != 0 {
                    random.damage(&mut bytes);
                }
                let must = sent(&bytes);
                let mut packet = Bytes::new(bytes.clone(), 71);
                packet.linear = random.below(bytes.len() + 1);
                let got = leave(&world, &mut packet).map_err(|verdict| (verdict, verdict.action()));
                let action = got.map_or_else(|(_, action)| action, |_| Action::Fast);
                seen.extend(got.err().map(|(verdict, _)| verdict));
                assert!(must.allows(action), "{must:?}, but {got:?}: {bytes:02x?}");
            }
        }
    }
    // The damage reached what it was meant to reach.
    for verdict in [
        Verdict::ContainerSpoofed,
        Verdict::ContainerInjects,
        Verdict::ContainerMalformed,
        Verdict::ContainerHidden,
        Verdict::ContainerOtherNetwork,
        Verdict::ContainerSpoofedArp,
        Verdict::ContainerSpoofedNd,
        Verdict::ContainerFragment,
        Verdict::ContainerOptions,
        Verdict::ContainerTtl,
        Verdict::ContainerElsewhere,
        Verdict::ContainerNotIpv4,
    ] {
        assert!(seen.contains(&verdict), "{verdict:?} was never reached");
    }
}

/// What may become of a frame that host 2 receives: only what peer 1 sends from its own subnets to our container may be
/// handed over, and only what came to our overlay address and port with our VNI may be dropped.
fn received(b: &[u8], outside: Family) -> Must {
    let (kind, ip, dst, port) = match outside {
        Family::V4 => ([8, 0], 20, b.get(30..34) == Some(&[192, 168, 50, 2]), 36),
        Family::V6 => ([0x86, 0xdd], 40, b.get(38..54).is_some_and(|d| *d == crate::testing::outer(2, outside).to_bytes()), 56),
    };
    let udp = match outside {
        Family::V4 => b.get(14) == Some(&0x45) && b.get(23) == Some(&17) && be16(b, 20).is_some_and(|f| f & 0x3fff == 0),
        Family::V6 => b.get(14).is_some_and(|v| v >> 4 == 6) && b.get(20) == Some(&17),
    };
    let whole_udp = b.len() >= 14 + ip + 8;
    if b.get(12..14) != Some(&kind) || !dst || !udp || !whole_udp || !be16(b, port).is_some_and(|p| OVERLAY_PORTS.contains(&p)) {
        return Must::Stack;
    }
    // From here on it is an overlay packet, and may be dropped or not; what may be handed over is told by `handed`.
    Must::Pass
}

/// Whether the inner packet may be handed to our container.
fn may_be_handed_over(b: &[u8], inside: Family, outside: Family) -> bool {
    let at = if outside == Family::V4 { 64 } else { 84 };
    let from_peer = match outside {
        Family::V4 => b[26..30] == [192, 168, 50, 1],
        Family::V6 => b[22..38] == crate::testing::outer(1, outside).to_bytes(),
    };
    let (vxlan, kind) = (&b[at - 22..at - 14], &b[at - 2..at]);
    let vni = vxlan[0] & 8 != 0 && vxlan[4..7] == [0, 0, 1];
    let i = &b[at..];
    let inner = match inside {
        Family::V4 => {
            kind == [8, 0]
                && i.len() >= 20
                && i[0] == 0x45
                && be16(i, 2).is_some_and(|len| (20..=i.len()).contains(&len))
                && be16(i, 6).is_some_and(|f| f & 0x3fff == 0)
                && i[8] > 1
                && i[12..15] == [10, 244, 1]
                && i[16..20] == [10, 244, 2, 5]
        }
        Family::V6 => {
            kind == [0x86, 0xdd]
                && i.len() >= 40
                && i[0] >> 4 == 6
                && be16(i, 4).is_some_and(|len| 40 + len <= i.len())
                && i[7] > 1
                && i[8..16] == [0xfd, 0, 0, 0x10, 2, 0x44, 0, 1]
                && i[24..40] == [0xfd, 0, 0, 0x10, 2, 0x44, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5]
        }
    };
    from_peer && vni && inner
}

#[test]
fn whatever_arrives_is_handed_over_only_from_the_peer_and_dropped_only_if_it_is_overlay() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut handed = 0;
    for outside in [Family::V4, Family::V6] {
        let world = World::host(2).outside(outside);
        for frame in [udp_packet(), tcp_packet(), udp_packet().v6(), tcp_packet().v6()] {
            let sound = on_the_wire_over(&frame, outside).bytes;
            for round in 0..5 * ROUNDS {
                let mut bytes = sound.clone();
                if round != 0 {
                    random.damage(&mut bytes);
                }
                let mut packet = Bytes::new(bytes.clone(), 3);
                packet.linear = random.below(bytes.len() + 1);
                match arrive(&world, &mut packet) {
                    Ok(arrival) => {
                        handed += 1;
                        assert_eq!(received(&bytes, outside), Must::Pass, "{bytes:02x?}");
                        assert!(may_be_handed_over(&bytes, arrival.inner, outside), "{bytes:02x?}");
                    }
                    Err(verdict) if verdict.is_drop() => {
                        assert_eq!(received(&bytes, outside), Must::Pass, "{verdict:?} of what is no overlay: {bytes:02x?}");
                    }
                    Err(_) => {}
                }
            }
        }
    }
    assert!(handed > 1000, "{handed}");
}
