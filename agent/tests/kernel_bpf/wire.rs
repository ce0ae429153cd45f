//! Two hosts, a wire, and containers that talk: the fast path carries it, and the kernel path what it must.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use weft_abi::Verdict;

use crate::lab::{Container, Host, gateway, mac_text, peer_key, two_hosts, vtep_key};

pub fn ping(from: &Container, arguments: &str) -> (bool, String) {
    from.netns.try_run(&format!("ping -n -W 5 {arguments}"))
}

/// Sends `total` bytes by TCP from one container to another; what arrived must be what was sent.
fn stream(from: &Container, to: &Container, total: usize) {
    stream_to(from, to, to.addr.into(), total);
}

/// The same, by the address that the sender uses. Who listens there may be another than who has the address.
pub fn stream_to(from: &Container, to: &Container, addr: IpAddr, total: usize) {
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let listener = to.netns.enter(|| TcpListener::bind(any).unwrap());
    // A port of its own: another test's child may hold the last listener until it has become another program.
    let at = SocketAddr::new(addr, listener.local_addr().unwrap().port());
    let pattern = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16) as u8;
    std::thread::scope(|scope| {
        let receive = || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let (mut got, mut buffer) = (0, vec![0; 1 << 18]);
            loop {
                match peer.read(&mut buffer).unwrap() {
                    0 => return got,
                    n => {
                        assert!(buffer[..n].iter().enumerate().all(|(i, b)| *b == pattern(got + i)), "damaged after {got}");
                        got += n;
                    }
                }
            }
        };
        let receiver = scope.spawn(receive);
        from.netns.enter(|| {
            let mut peer = TcpStream::connect_timeout(&at, Duration::from_secs(10)).unwrap();
            peer.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut sent = 0;
            while sent < total {
                let chunk: Vec<u8> = (sent..total.min(sent + (1 << 18))).map(pattern).collect();
                peer.write_all(&chunk).unwrap();
                sent += chunk.len();
            }
        });
        assert_eq!(receiver.join().unwrap(), total);
    });
}

pub fn assert_fast(host: &Host, moved: &std::collections::BTreeMap<Verdict, u64>) {
    for verdict in [Verdict::ContainerElsewhere, Verdict::ContainerRoomRefused, Verdict::UplinkRoomRefused] {
        assert_eq!(moved.get(&verdict), None, "host {}: {moved:?}", host.number);
    }
    assert!(moved.keys().all(|v| !v.is_drop()), "host {}: {moved:?}", host.number);
}

#[test]
fn containers_of_two_hosts_ping_each_other_on_the_fast_path() {
    let (one, two) = two_hosts(1);
    let (before_one, before_two) = (one.counters(), two.counters());
    // Without routes there is no kernel path: what arrives came by the programs.
    one.netns.ip("route del 10.244.2.0/24");
    two.netns.ip("route del 10.244.1.0/24");
    // One by one: of several, ping waits for the last answer no longer than an interval.
    for _ in 0..5 {
        let (ok, text) = ping(&one.containers[0], &format!("-c 1 {}", two.containers[0].addr));
        assert!(ok && text.contains(" 1 received"), "{text}");
    }
    for (host, before) in [(&one, &before_one), (&two, &before_two)] {
        let moved = host.since(before);
        assert_eq!(moved.get(&Verdict::Encapsulated), Some(&5), "{moved:?}");
        assert_eq!(moved.get(&Verdict::Decapsulated), Some(&5), "{moved:?}");
        assert_fast(host, &moved);
    }
}

#[test]
fn a_tcp_stream_arrives_whole_in_full_segments() {
    let (one, two) = two_hosts(1);
    let (before_one, before_two) = (one.counters(), two.counters());
    let total = 64 << 20;
    stream(&one.containers[0], &two.containers[0], total);
    let (sent, got) = (one.since(&before_one), two.since(&before_two));
    assert_fast(&one, &sent);
    assert_fast(&two, &got);
    // 1448 bytes a segment (1450 less headers and time stamps); a lowered gso_size would need more of them.
    let fewest = (total / 1448) as u64;
    let segments = sent[&Verdict::Encapsulated];
    assert!((fewest..fewest * 11 / 10).contains(&segments), "{segments} segments, at least {fewest}");
    assert_eq!(got[&Verdict::Decapsulated], segments);
    // Segmentation was put off to the wire: far fewer runs than segments would be invisible here, but bytes are not.
    let headers = one.counters()[&Verdict::Encapsulated].bytes - before_one[&Verdict::Encapsulated].bytes;
    assert!(headers >= total as u64 && headers < total as u64 * 103 / 100, "{headers} bytes");
}

#[test]
fn containers_of_one_host_talk_without_the_stack() {
    let (one, _two) = two_hosts(2);
    let before = one.counters();
    stream(&one.containers[0], &one.containers[1], 16 << 20);
    let moved = one.since(&before);
    assert_fast(&one, &moved);
    assert!(moved[&Verdict::DeliveredLocally] >= (16 << 20) / 1448, "{moved:?}");
}

#[test]
fn segmented_udp_arrives_whole_by_way_of_the_stack() {
    let (one, two) = two_hosts(1);
    let (from, to) = (&one.containers[0], &two.containers[0]);
    let (before_one, before_two) = (one.counters(), two.counters());
    segments(from, to, to.addr.into(), 1400);
    let (sent, got) = (one.since(&before_one), two.since(&before_two));
    assert_eq!(sent.get(&Verdict::Encapsulated), Some(&100), "pushed without being cut: {sent:?}");
    assert_eq!(got.get(&Verdict::UplinkGsoNotTcp), Some(&100), "popped by the VXLAN device: {got:?}");
}

/// Sends a hundred datagrams in ten calls (UDP_SEGMENT) to an address; all must arrive at a container, whole and in order.
pub fn segments(from: &Container, to: &Container, addr: IpAddr, segment: usize) {
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let receiver = to.netns.enter(|| UdpSocket::bind(any).unwrap());
    let at = SocketAddr::new(addr, receiver.local_addr().unwrap().port());
    receiver.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for round in 0..10_u8 {
        let message: Vec<u8> = (0..10).flat_map(|i| vec![round * 10 + i; segment]).collect();
        from.netns.enter(|| {
            let sender = UdpSocket::bind(any).unwrap();
            let size = segment as libc::c_int;
            // SAFETY: the option is an int, and its size stands beside it.
            let set = unsafe {
                libc::setsockopt(
                    sender.as_raw_fd(),
                    libc::SOL_UDP,
                    libc::UDP_SEGMENT,
                    std::ptr::from_ref(&size).cast(),
                    size_of::<libc::c_int>() as u32,
                )
            };
            assert_eq!(set, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
            assert_eq!(sender.send_to(&message, at).unwrap(), message.len());
        });
        for i in 0..10 {
            let mut buffer = [0; 2000];
            let n = receiver.recv(&mut buffer).unwrap();
            assert_eq!((n, buffer[0]), (segment, round * 10 + i));
        }
    }
}

#[test]
fn each_host_is_one_hop() {
    let (one, two) = two_hosts(1);
    let to = two.containers[0].addr;
    let answer = |ttl: u8| ping(&one.containers[0], &format!("-c 1 -t {ttl} {to}")).1;
    let first = answer(1);
    assert!(first.contains("Time to live exceeded") && first.contains(&gateway(1).to_string()), "{first}");
    let second = answer(2);
    assert!(second.contains("Time to live exceeded"), "{second}");
    assert!(second.contains("From 10.244.2."), "the second hop is the other host: {second}");
    let third = answer(3);
    assert!(third.contains(" 1 received"), "{third}");
}

#[test]
fn the_sender_of_an_oversize_packet_is_told() {
    let (one, two) = two_hosts(1);
    let from = &one.containers[0];
    from.netns.ip("link set eth0 mtu 1500");
    one.netns.ip(&format!("link set {} mtu 1500", from.device));
    let before = one.counters();
    let (ok, text) = ping(from, &format!("-c 1 -M do -s 1423 {}", two.containers[0].addr));
    assert!(!ok && text.contains("Frag needed and DF set (mtu = 1450)"), "{text}");
    let moved = one.since(&before);
    assert_eq!(moved.get(&Verdict::ContainerTooBig), Some(&1), "{moved:?}");
    // Where fragmenting is allowed the stack does it, and the packet arrives.
    let (ok, text) = ping(from, &format!("-c 1 -M dont -s 4000 {}", two.containers[0].addr));
    assert!(ok, "{text}");
}

#[test]
fn a_container_cannot_speak_for_another() {
    let (one, two) = two_hosts(1);
    let from = &one.containers[0];
    let foreign = Ipv4Addr::new(10, 244, 1, 99);
    from.netns.ip(&format!("addr add {foreign}/32 dev eth0"));
    let spoof = || {
        let before = one.counters();
        let (ok, text) = from.netns.try_run(&format!("ping -n -c 2 -i 0.1 -W 1 -I {foreign} {}", two.containers[0].addr));
        assert!(!ok && text.contains(" 0 received"), "{text}");
        one.since(&before)
    };
    // It cannot even ask for the gateway in that name.
    let moved = spoof();
    assert!(moved.contains_key(&Verdict::ContainerSpoofedArp) && !moved.contains_key(&Verdict::ContainerSpoofed), "{moved:?}");
    let mac = mac_text(one.netns.mac(&from.device));
    from.netns.ip(&format!("neigh replace {} lladdr {mac} dev eth0 nud permanent", gateway(1)));
    assert_eq!(spoof().get(&Verdict::ContainerSpoofed), Some(&2));
    let (ok, text) = ping(from, &format!("-c 1 {}", two.containers[0].addr));
    assert!(ok, "its own address still works: {text}");
}

#[test]
fn a_host_that_is_no_peer_cannot_speak_into_the_overlay() {
    let (one, mut two) = two_hosts(1);
    let before = two.counters();
    two.datapath.maps_mut().peers.delete(&peer_key(1)).unwrap();
    two.datapath.maps_mut().vteps.delete(&vtep_key(1)).unwrap();
    let (ok, text) = one.containers[0].netns.try_run(&format!("ping -n -c 2 -i 0.1 -W 1 {}", two.containers[0].addr));
    assert!(!ok && text.contains(" 0 received"), "{text}");
    assert_eq!(two.since(&before).get(&Verdict::UplinkUnknownPeer), Some(&2));
}

#[test]
fn hosts_reach_containers_and_containers_hosts_through_the_stack() {
    let (one, two) = two_hosts(1);
    let container = &two.containers[0];
    let (ok, text) = one.netns.try_run(&format!("ping -n -c 2 -i 0.1 -W 5 {}", container.addr));
    assert!(ok, "host 1 to a container of host 2: {text}");
    let (ok, text) = ping(container, &format!("-c 2 -i 0.1 {}", gateway(2)));
    assert!(ok, "a container to its gateway: {text}");
    let (ok, text) = ping(container, &format!("-c 2 -i 0.1 {}", gateway(1)));
    assert!(ok, "a container to the other host's gateway: {text}");
}
