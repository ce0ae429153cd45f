//! A world for tests: hosts 1 and 2 with a subnet each, and packets between their containers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use weft_abi::{Be16, Be32, Be128, Config, Endpoint, Mac, Network, NextHop, Peer, PeerKey, PeerKey6, Verdict, Vtep, VtepKey};

use crate::packet::testing::Bytes;
use crate::tables::Tables;
use crate::wire::Family;
use crate::{container, encap, uplink};

pub(crate) fn ip(a: u8, b: u8, c: u8, d: u8) -> Be32 {
    Ipv4Addr::new(a, b, c, d).into()
}

pub(crate) fn ip6(text: &str) -> Be128 {
    text.parse::<Ipv6Addr>().unwrap().into()
}

/// The tables of one host. Host n has subnets 10.244.n.0/24 and fd00:10:244:n::/64, VTEPs 192.168.50.n and fd00:50::n, and a
/// container 10.244.n.5, fd00:10:244:n::5 on device 70+n. Peers are reached over IPv4 until [`World::outside`] says else.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    /// Number 1; there is another network 2 with VNI 2, 10.245.0.0/16 and fd00:10:245::/48, of which this host has nothing.
    pub(crate) network: Network,
    pub(crate) endpoints: BTreeMap<Be32, Endpoint>,
    pub(crate) endpoints6: BTreeMap<Be128, Endpoint>,
    pub(crate) peers: BTreeMap<PeerKey, Peer>,
    pub(crate) peers6: BTreeMap<PeerKey6, Peer>,
    pub(crate) vteps: BTreeMap<VtepKey, Vtep>,
}

pub(crate) fn peer_key(host: u8) -> PeerKey {
    PeerKey { network: 1, subnet: ip(10, 244, host, 0) }
}

pub(crate) fn peer_key6(host: u8) -> PeerKey6 {
    PeerKey6 { network: 1, subnet: ip6(&format!("fd00:10:244:{host}::")) }
}

pub(crate) fn vtep_mac(host: u8) -> Mac {
    [2, 0x22, 0, 0, 0, host]
}

pub(crate) fn vtep_mac6(host: u8) -> Mac {
    [2, 0x66, 0, 0, 0, host]
}

pub(crate) fn container_mac(host: u8) -> Mac {
    [2, 0xcc, 0, 0, 0, host]
}

pub(crate) fn outer(host: u8, family: Family) -> Be128 {
    match family {
        Family::V4 => Be128::mapped(ip(192, 168, 50, host)),
        Family::V6 => ip6(&format!("fd00:50::{host}")),
    }
}

impl World {
    pub(crate) fn host(n: u8) -> Self {
        let other = 3 - n;
        let mut world = Self {
            config: Config {
                vtep: ip(192, 168, 50, n),
                vtep6: outer(n, Family::V6),
                uplink: 3,
                uplink_mtu: 1500,
                ports: [Be16::from_native(8472), Be16::from_native(4789), Be16::default(), Be16::default()],
                ..Config::default()
            },
            network: Network {
                vni: 1,
                port: Be16::from_native(8472),
                flags: 0,
                vtep_mac: vtep_mac(n),
                vtep_mac6: vtep_mac6(n),
                subnet: ip(10, 244, n, 0),
                subnet_mask: Be32::mask_of(24),
                network: ip(10, 244, 0, 0),
                network_mask: Be32::mask_of(16),
                subnet6: peer_key6(n).subnet,
                subnet_mask6: Be128::mask_of(64),
                network6: ip6("fd00:10:244::"),
                network_mask6: Be128::mask_of(48),
            },
            endpoints: BTreeMap::new(),
            endpoints6: BTreeMap::new(),
            peers: BTreeMap::new(),
            peers6: BTreeMap::new(),
            vteps: BTreeMap::new(),
        };
        let row = Endpoint { ifindex: 70 + u32::from(n), mac: container_mac(n), flags: 0, network: 1 };
        world.endpoints.insert(ip(10, 244, n, 5), row);
        world.endpoints6.insert(ip6(&format!("fd00:10:244:{n}::5")), row);
        world.vteps.insert(VtepKey::own(1), Vtep { network: 1, flags: 0 });
        world.add_peer(other);
        world
    }

    /// The same host, with its peer reached over IPv4 or IPv6.
    pub(crate) fn outside(mut self, family: Family) -> Self {
        let hosts: Vec<u8> = self.peers.keys().map(|key| key.subnet.to_bytes()[2]).collect();
        for host in hosts {
            self.add_peer_over(host, family);
        }
        self
    }

    pub(crate) fn peer_row(&self, host: u8, family: Family) -> Peer {
        let (mac, flags) = match family {
            Family::V4 => (vtep_mac(host), 0),
            Family::V6 => (vtep_mac6(host), Peer::OUTER_V6),
        };
        Peer { outer: outer(host, family), mac, flags, mtu: 0, next_hop: NextHop::NONE }
    }

    /// Another host n, known as a peer.
    pub(crate) fn add_peer(&mut self, host: u8) {
        self.add_peer_over(host, Family::V4);
    }

    fn add_peer_over(&mut self, host: u8, family: Family) {
        let row = self.peer_row(host, family);
        for family in [Family::V4, Family::V6] {
            self.vteps.insert(VtepKey { vni: 1, outer: outer(host, family) }, Vtep { network: 1, flags: 0 });
        }
        self.peers.insert(peer_key(host), row);
        self.peers6.insert(peer_key6(host), row);
    }
}

impl Tables for World {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }
    fn network(&self, number: u32) -> Option<&Network> {
        static NONE: Network = Network {
            vni: 0,
            port: Be16::from_native(0),
            flags: 0,
            vtep_mac: [0; 6],
            vtep_mac6: [0; 6],
            subnet: Be32::ZERO,
            subnet_mask: Be32::ZERO,
            network: Be32::ZERO,
            network_mask: Be32::ZERO,
            subnet6: Be128::ZERO,
            subnet_mask6: Be128::ZERO,
            network6: Be128::ZERO,
            network_mask6: Be128::ZERO,
        };
        match number {
            1 => Some(&self.network),
            0..256 => Some(&NONE),
            _ => None,
        }
    }
    fn endpoint(&self, addr: Be32) -> Option<&Endpoint> {
        self.endpoints.get(&addr)
    }
    fn endpoint6(&self, addr: Be128) -> Option<&Endpoint> {
        self.endpoints6.get(&addr)
    }
    fn peer(&self, key: &PeerKey) -> Option<&Peer> {
        self.peers.get(key)
    }
    fn peer6(&self, key: &PeerKey6) -> Option<&Peer> {
        self.peers6.get(key)
    }
    fn vtep(&self, key: &VtepKey) -> Option<&Vtep> {
        self.vteps.get(key)
    }
    fn range(&self, addr: Be128) -> u32 {
        let (b, mapped) = (addr.to_bytes(), addr.is_mapped());
        match (mapped, &b[..6]) {
            (true, _) if b[12..14] == [10, 244] => 1,
            (true, _) if b[12..14] == [10, 245] => 2,
            (false, [0xfd, 0, 0, 0x10, 2, 0x44]) => 1,
            (false, [0xfd, 0, 0, 0x10, 2, 0x45]) => 2,
            _ => 0,
        }
    }
}

/// The flow label of IPv6 frames.
pub(crate) const FLOW_LABEL: u32 = 0xabcde;

/// Builds an Ethernet frame with IP in it; what a test does not name is a sound UDP packet from container 1 to 2, of IPv4.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    family: Family,
    src6: Be128,
    dst6: Be128,
    /// Type of the first extension header, and all of them; the last one's "next" is filled in with `proto`.
    extensions: Option<(u8, Vec<u8>)>,
    src: Be32,
    dst: Be32,
    tos: u8,
    ttl: u8,
    proto: u8,
    fragment: u16,
    options: usize,
    payload: Vec<u8>,
    total_len: Option<u16>,
}

pub(crate) fn udp_packet() -> Frame {
    Frame {
        family: Family::V4,
        src6: ip6("fd00:10:244:1::5"),
        dst6: ip6("fd00:10:244:2::5"),
        extensions: None,
        src: ip(10, 244, 1, 5),
        dst: ip(10, 244, 2, 5),
        tos: 0,
        ttl: 64,
        proto: 17,
        fragment: 0x4000,
        options: 0,
        payload: Vec::new(),
        total_len: None,
    }
    .ports(40_000, 7)
}

pub(crate) fn tcp_packet() -> Frame {
    let mut frame = udp_packet();
    frame.proto = 6;
    frame.payload = vec![0; 32 + 100];
    frame.payload[12] = 8 << 4;
    frame
}

impl Frame {
    /// As IPv6.
    pub(crate) fn v6(mut self) -> Self {
        self.family = Family::V6;
        self
    }
    pub(crate) fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }
    pub(crate) fn src6(mut self, src: &str) -> Self {
        self.src6 = ip6(src);
        self
    }
    pub(crate) fn dst6(mut self, dst: &str) -> Self {
        self.dst6 = ip6(dst);
        self
    }
    /// IPv6 extension headers as they stand in the packet; `first` is the type of the first one.
    pub(crate) fn extensions(mut self, first: u8, headers: Vec<u8>) -> Self {
        self.extensions = Some((first, headers));
        self
    }
    pub(crate) fn header_len(&self) -> usize {
        match self.family {
            Family::V4 => 20 + self.options,
            Family::V6 => 40 + self.extensions.as_ref().map_or(0, |(_, headers)| headers.len()),
        }
    }
    pub(crate) fn src(mut self, src: Be32) -> Self {
        self.src = src;
        self
    }
    pub(crate) fn dst(mut self, dst: Be32) -> Self {
        self.dst = dst;
        self
    }
    pub(crate) fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }
    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }
    pub(crate) fn proto(mut self, proto: u8) -> Self {
        self.proto = proto;
        self
    }
    /// Flags and offset as the IPv4 header holds them.
    pub(crate) fn fragment(mut self, fragment: u16) -> Self {
        self.fragment = fragment;
        self
    }
    /// So many bytes of options, a multiple of four.
    pub(crate) fn options(mut self, options: usize) -> Self {
        self.options = options;
        self
    }
    pub(crate) fn total_len(mut self, total_len: u16) -> Self {
        self.total_len = Some(total_len);
        self
    }
    pub(crate) fn ports(mut self, src: u16, dst: u16) -> Self {
        let mut payload = Vec::new();
        payload.extend(src.to_be_bytes());
        payload.extend(dst.to_be_bytes());
        payload.extend([0, 28, 0, 0]);
        payload.extend([0x55; 20]);
        self.payload = payload;
        self
    }
    pub(crate) fn payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }
    /// Pads the payload until the IP packet has this length.
    pub(crate) fn ip_len(mut self, len: usize) -> Self {
        self.payload.resize(len - self.header_len(), 0x55);
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut frame = vec![2, 0xee, 0, 0, 0, 1, 2, 0xcc, 0, 0, 0, 1];
        match self.family {
            Family::V4 => {
                frame.extend([8, 0]);
                frame.extend(self.header4());
            }
            Family::V6 => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.header6());
            }
        }
        frame.extend(&self.payload);
        frame
    }

    fn header4(&self) -> Vec<u8> {
        let mut ip = vec![0x45 + (self.options / 4) as u8, self.tos];
        let total = 20 + self.options + self.payload.len();
        ip.extend(self.total_len.unwrap_or(total as u16).to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, self.proto, 0, 0]);
        ip.extend(self.src.to_bytes());
        ip.extend(self.dst.to_bytes());
        ip.extend(vec![1; self.options]);
        let sum = sum(&ip);
        ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
        ip
    }

    fn header6(&self) -> Vec<u8> {
        let first = 6 << 28 | u32::from(self.tos) << 20 | FLOW_LABEL;
        let mut ip = first.to_be_bytes().to_vec();
        let headers = self.extensions.as_ref().map_or(&[][..], |(_, headers)| headers);
        let payload = self.total_len.map_or(headers.len() + self.payload.len(), |total| usize::from(total.saturating_sub(40)));
        ip.extend((payload as u16).to_be_bytes());
        ip.extend([self.extensions.as_ref().map_or(self.proto, |(first, _)| *first), self.ttl]);
        ip.extend(self.src6.to_bytes());
        ip.extend(self.dst6.to_bytes());
        ip.extend(headers);
        ip
    }

    pub(crate) fn through(&self, ifindex: u32) -> Bytes {
        Bytes::new(self.build(), ifindex)
    }
}

fn sum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether an IPv4 header's checksum is right.
pub(crate) fn checksum_holds(header: &[u8]) -> bool {
    sum(header) == 0xffff
}

/// What bpf_skb_adjust_room does on the way out: room between Ethernet and IP.
pub(crate) fn make_room(frame: &[u8], outside: Family) -> Vec<u8> {
    let mut out = frame[..14].to_vec();
    out.resize(14 + overhead(outside), 0xff);
    out.extend(&frame[14..]);
    out
}

/// What bpf_skb_adjust_room does on the way in.
pub(crate) fn take_room(frame: &[u8], outside: Family) -> Vec<u8> {
    let mut out = frame[..14].to_vec();
    out.extend(&frame[14 + overhead(outside)..]);
    out
}

/// Length of the outer headers.
pub(crate) fn overhead(outside: Family) -> usize {
    match outside {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

/// The outcome of `container::decide`, or its verdict.
pub(crate) fn leave<'w>(world: &'w World, packet: &mut Bytes) -> Result<container::Next<'w>, Verdict> {
    let before = packet.bytes.clone();
    let next = container::decide(packet, world);
    assert_eq!(packet.bytes, before, "deciding changes nothing");
    next
}

/// The outcome of `uplink::decide`, or its verdict.
pub(crate) fn arrive<'w>(world: &'w World, packet: &mut Bytes) -> Result<uplink::Arrival<'w>, Verdict> {
    let before = packet.bytes.clone();
    let next = uplink::decide(packet, world);
    assert_eq!(packet.bytes, before, "deciding changes nothing");
    next
}

/// A packet of container 1 as it is on the wire to host 2.
pub(crate) fn on_the_wire(frame: &Frame) -> Bytes {
    on_the_wire_over(frame, Family::V4)
}

/// The same over IPv4 or IPv6.
pub(crate) fn on_the_wire_over(frame: &Frame, outside: Family) -> Bytes {
    let world = World::host(1);
    let bytes = frame.build();
    let peer = world.peer_row(2, outside);
    let (family, inner_len) = (frame.family, bytes.len() as u32 - 14);
    let to = container::Remote { family, peer: &peer, network: &world.network, class: crate::ecn::enter(frame.tos), inner_len };
    let mut packet = Bytes::new(make_room(&bytes, outside), 3);
    encap::write(&mut packet, &world.config, &to, encap::Stamp { flow_hash: 1, id: 1 }).unwrap();
    packet
}
