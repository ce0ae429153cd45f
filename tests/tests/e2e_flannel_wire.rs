//! What goes over the wire: the same packet of a container, sent by the fast path, by our kernel path and by a flannel host.
//!
//! The outer packets are captured where they arrive. They are equal but for what may differ from packet to packet: Ethernet
//! addresses, UDP source port, IP id, the DF bit, and the two checksums that follow from these. The one exception is a packet
//! that bears the mark of congestion already.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::bridge::Bridged;
use weft_tests::eventually::SOON;
use weft_tests::flannel::{FlannelShaped, PREFIX};
use weft_tests::topology::NETWORK;
use weft_tests::traffic::{idle, probe};
use weft_tests::{Daemon, Host, Place, Topology, eventually};

/// The sender's MAC, which every topology's first host takes over with its subnet.
const OWN_MAC: &str = "02:00:00:00:00:01";
/// The receiver's, to which nobody listens.
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// A container of the receiver's.
const THERE: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 77);

/// Lengths of headers, in bytes.
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
const VXLAN: usize = 8;

/// The sum of 16-bit words that checksums are made of (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut total: u32 = words.sum();
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

/// What the checksum of a UDP or TCP segment also covers.
fn pseudo(packet: &[u8]) -> Vec<u8> {
    let length = (packet.len() - IP) as u16;
    [&packet[12..20], &[0, packet[9]], &length.to_be_bytes()[..]].concat()
}

/// An inner packet: what is said of it, and its bytes.
struct Inner {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Inner {
    /// `id` tells them apart. `checksum` is the checksum's place in the segment.
    fn new(name: &'static str, from: Ipv4Addr, id: u16, (tos, ttl, df): (u8, u8, bool), segment: (u8, usize, Vec<u8>)) -> Self {
        let (protocol, checksum, segment) = segment;
        let length = (IP + segment.len()) as u16;
        let mut bytes = vec![0x45, tos];
        bytes.extend(length.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend([if df { 0x40 } else { 0 }, 0, ttl, protocol, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(THERE.octets());
        bytes.extend(segment);
        let of_header = !sum(&bytes[..IP]);
        bytes[10..12].copy_from_slice(&of_header.to_be_bytes());
        let of_segment = !sum(&[pseudo(&bytes), bytes[IP..].to_vec()].concat());
        bytes[IP + checksum..IP + checksum + 2].copy_from_slice(&of_segment.to_be_bytes());
        Self { name, bytes }
    }

    fn id(&self) -> &[u8] {
        &self.bytes[4..6]
    }

    /// As it is after the sending host has forwarded it: one hop less.
    fn forwarded(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[8] -= 1;
        bytes[10..12].fill(0);
        let of_header = !sum(&bytes[..IP]);
        bytes[10..12].copy_from_slice(&of_header.to_be_bytes());
        bytes
    }
}

fn udp(payload: usize) -> (u8, usize, Vec<u8>) {
    let mut segment = vec![0x1b, 0x58, 0x1b, 0x59];
    segment.extend(((UDP + payload) as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend((0..payload).map(|n| n as u8));
    (17, 6, segment)
}

fn syn() -> (u8, usize, Vec<u8>) {
    // Ports, sequence number, nothing acknowledged, five words of header, SYN, window.
    let segment = [&[0x1b, 0x58, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff][..], &[0; 4]].concat();
    (6, 16, segment)
}

/// The id of the packet that is marked with "congestion experienced".
const CE: u16 = 0x01ce;

fn packets(from: Ipv4Addr) -> Vec<Inner> {
    vec![
        Inner::new("a small datagram", from, 0x0101, (0, 64, true), udp(18)),
        Inner::new("one that fills the MTU", from, 0x0102, (0, 64, true), udp(1450 - IP - UDP)),
        Inner::new("one that may be cut, of odd length", from, 0x0103, (0, 64, false), udp(33)),
        Inner::new("one that is ECN-capable", from, 0x0104, (0b10, 64, true), udp(18)),
        Inner::new("one of a class of service", from, 0x0105, (0xb8, 64, true), udp(18)),
        Inner::new("one that met congestion", from, CE, (0b11, 64, true), udp(18)),
        Inner::new("one that has come far", from, 0x0106, (0, 7, true), udp(18)),
        Inner::new("a TCP segment", from, 0x0107, (0, 64, true), syn()),
    ]
}

/// A captured frame without what may differ, after a check that this is as it must be.
fn normal(frame: &[u8]) -> Result<Vec<u8>> {
    let mut frame = frame.to_vec();
    let ip = &frame[ETHERNET..];
    ensure!(sum(&ip[..IP]) == 0xffff, "outer header checksum");
    let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    // Frames shorter than Ethernet's least may be filled up.
    let ip = ip.get(..length).context("an outer packet that is cut short")?;
    let (checksum, header) = (u16::from_be_bytes([ip[IP + 6], ip[IP + 7]]), pseudo(ip));
    // None, right, or what a device with checksum offload is asked to complete, as a veth passes it.
    let whole = sum(&[header.as_slice(), &ip[IP..]].concat()) == 0xffff;
    ensure!(checksum == 0 || whole || checksum == sum(&header), "outer UDP checksum {checksum:#x}");
    frame.truncate(ETHERNET + length);
    let inner = ETHERNET + IP + UDP + VXLAN;
    let mut forget = |bytes: std::ops::Range<usize>| frame[bytes].fill(0);
    forget(0..12); // outer Ethernet addresses
    forget(ETHERNET + 4..ETHERNET + 6); // id
    forget(ETHERNET + 10..ETHERNET + 12); // header checksum
    forget(ETHERNET + IP..ETHERNET + IP + 2); // source port
    forget(ETHERNET + IP + 6..ETHERNET + IP + 8); // UDP checksum
    forget(inner + 6..inner + 12); // inner Ethernet source
    frame[ETHERNET + 6] &= !0x40; // DF
    Ok(frame)
}

/// One of the ways, in a topology of its own: all have the same addresses.
fn capture(t: &Topology, from: &Place, packets: &[Inner]) -> Vec<Vec<u8>> {
    let receiver = t.host(2);
    let probe = probe().unwrap();
    let listener = receiver.spawn("capture", [probe.as_str(), "capture", "up0", "8472"]).unwrap();
    eventually("the capture listens", SOON, || match listener.stderr() {
        said if said.contains("listening") => Ok(()),
        said => Err(said),
    })
    .unwrap();
    packets.iter().map(|packet| arrival(&listener, from, packet)).collect()
}

/// Sends a packet until it has arrived: the first may be waiting for a row or a neighbour.
fn arrival(listener: &Daemon, from: &Place, packet: &Inner) -> Vec<u8> {
    let hex: String = packet.bytes.iter().map(|b| format!("{b:02x}")).collect();
    let probe = probe().unwrap();
    eventually(packet.name, SOON, || {
        from.exec([probe.as_str(), "send-ip", &hex])?.success()?;
        let said = listener.stdout();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        for line in whole.lines() {
            let frame: Value = serde_json::from_str(line)?;
            let hex = frame["frame"].as_str().context("no frame")?;
            let bytes: Result<Vec<u8>, _> =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16)).collect();
            let bytes = bytes?;
            let inner = ETHERNET + IP + UDP + VXLAN + ETHERNET;
            if bytes.get(inner + 4..inner + 6) == Some(packet.id()) {
                return Ok(bytes);
            }
        }
        anyhow::bail!("not among {} frames", whole.lines().count())
    })
    .unwrap()
}

/// etcd with two leases as flannel's: the first host takes the one over, the second is only there to be sent to.
fn stage() -> Topology {
    let t = Topology::new(2).unwrap();
    t.etcd().start().unwrap();
    t.etcd().put(&format!("{PREFIX}/config"), &format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"vxlan"}}}}"#)).unwrap();
    let mac = |bytes: [u8; 6]| bytes.map(|b| format!("{b:02x}")).join(":");
    for (host, subnet, mac) in [(t.host(1), 5, OWN_MAC.to_owned()), (t.host(2), 9, mac(PEER_MAC))] {
        let value = format!(
            r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#,
            host.address()
        );
        let client = t.etcd().client();
        let lease = client.grant(86_400).unwrap();
        client.put_on(lease, &format!("{PREFIX}/subnets/10.244.{subnet}.0-24"), &value).unwrap();
    }
    t
}

/// Packets that passed the VXLAN device.
fn through_device(host: &Host, device: &str) -> u64 {
    let link = host.exec(["ip", "-json", "-stats", "link", "show", device]).unwrap().json().unwrap();
    link[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

#[test]
fn outer_packets_of_either_path_are_those_of_a_flannel_host() {
    let mut taken: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();
    let mut address = None;
    for (way, wrapper) in [("fast", None), ("kernel", Some([probe().unwrap(), "without-bpf".to_owned()]))] {
        let t = stage();
        let host = t.host(1);
        if let Some(wrapper) = wrapper {
            host.agent.set_wrapper(wrapper);
        }
        host.agent.start().unwrap();
        host.agent.wait_ready().unwrap();
        let status = host.agent.wait_peers(1).unwrap();
        assert_eq!((&status["subnet"], &status["peers"][0]["via"]), (&"10.244.5.0/24".into(), &way.into()), "{status}");
        let container = idle(host, &[]).unwrap();
        let own = container.address().unwrap();
        assert_eq!(*address.get_or_insert(own), own, "the same packets need the same address");
        let packets = packets(own);
        let before = through_device(host, "weft.1");
        taken.push((way, capture(&t, container.place(), &packets)));
        let passed = through_device(host, "weft.1") - before;
        match way {
            "fast" => assert_eq!(passed, 0, "packets of the fast path pass no device"),
            _ => assert!(passed >= packets.len() as u64, "{passed}"),
        }
    }
    let address = address.unwrap();
    let t = stage();
    let flannel = FlannelShaped::start(t.host(1), t.etcd()).unwrap();
    assert_eq!(flannel.subnet(), "10.244.5.0/24");
    let bridged = Bridged::new(t.host(1), flannel.env(), u32::from(address.octets()[3])).unwrap();
    assert_eq!(bridged.address(), address);
    let packets = packets(address);
    let theirs = capture(&t, bridged.place(), &packets);

    for (packet, frame) in packets.iter().zip(&theirs) {
        let normal = normal(frame).unwrap_or_else(|e| panic!("flannel, {}: {e:#}", packet.name));
        let inner = ETHERNET + IP + UDP + VXLAN;
        // Flags: the VNI is valid. VNI 1. (RFC 7348 section 5.)
        assert_eq!(normal[inner - VXLAN..inner], [8, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(normal[inner..inner + 6], PEER_MAC);
        assert!(normal[inner + ETHERNET..] == packet.forwarded(), "{}: {normal:02x?}", packet.name);
    }
    for (way, ours) in &taken {
        for ((packet, ours), theirs) in packets.iter().zip(ours).zip(&theirs) {
            let ours = normal(ours).unwrap_or_else(|e| panic!("{way}, {}: {e:#}", packet.name));
            let mut theirs = normal(theirs).unwrap();
            // The one exception: Linux turns the mark into "ECN-capable" outside (RFC 3168), the fast path copies it (RFC 6040).
            if *way == "fast" && packet.id() == CE.to_be_bytes() {
                assert_eq!((theirs[ETHERNET + 1], ours[ETHERNET + 1]), (0b10, 0b11));
                theirs[ETHERNET + 1] = 0b11;
            }
            assert!(ours == theirs, "{way}, {}:\n{ours:02x?}\nis not flannel's\n{theirs:02x?}", packet.name);
        }
    }
}
