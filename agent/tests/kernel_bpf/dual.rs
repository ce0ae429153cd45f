//! The lab's two hosts with IPv6 as well, and with IPv4 or IPv6 between them.
//!
//! Subnets are fd00:10:244:n::/64, containers fd00:10:244:n::10 and on, outer addresses fd00:50::n. With IPv6 outside there
//! is a second VXLAN device, `weft6.1`, and everything goes by it.

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_abi::maps::NETWORK_DEFAULT;
use weft_abi::{Be128, Endpoint, Mac, NextHop, Peer, PeerKey6, RangeKey, Vtep, VtepKey};

use crate::lab::{Host, VTEP_PORT, mac_text, peer_key, run, subnet, two_hosts, vtep, vtep_mac};

/// The family of outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    V4,
    V6,
}

impl Outside {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The length of outer headers.
    pub fn overhead(self) -> usize {
        match self {
            Self::V4 => 50,
            Self::V6 => 70,
        }
    }

    pub fn device(self) -> &'static str {
        match self {
            Self::V4 => "weft.1",
            Self::V6 => "weft6.1",
        }
    }

    fn mac(self, host: u8) -> Mac {
        match self {
            Self::V4 => vtep_mac(host),
            Self::V6 => vtep_mac6(host),
        }
    }
}

pub fn vtep6(host: u8) -> Ipv6Addr {
    format!("fd00:50::{host}").parse().unwrap()
}

pub fn vtep_mac6(host: u8) -> Mac {
    [0x02, 0x66, 0, 0, 0, host]
}

pub fn subnet6(host: u8) -> Ipv6Addr {
    format!("fd00:10:244:{host}::").parse().unwrap()
}

/// The address of a host's n-th container.
pub fn addr6(host: u8, container: usize) -> Ipv6Addr {
    format!("fd00:10:244:{host}::{}", 10 + container).parse().unwrap()
}

pub fn peer_key6(host: u8) -> PeerKey6 {
    PeerKey6 { network: NETWORK_DEFAULT, subnet: subnet6(host).into() }
}

/// Two hosts as [`two_hosts`] makes them, with both families inside.
pub fn dual_hosts(containers: usize, outside: Outside) -> (Host, Host) {
    let (mut one, mut two) = two_hosts(containers);
    for host in [&one, &two] {
        devices(host, outside);
        addresses(host);
    }
    // The other's addresses are there when the first packet is answered.
    for host in [&one, &two] {
        kernel_path(host, outside);
        host_to_containers(host, outside);
    }
    rows(&mut one, outside);
    rows(&mut two, outside);
    (one, two)
}

fn devices(host: &Host, outside: Outside) {
    let (netns, n) = (&host.netns, host.number);
    netns.ip(&format!("-6 addr add {}/64 dev u0 nodad", vtep6(n)));
    let forward = netns.try_run("sysctl -qw net.ipv6.conf.all.forwarding=1");
    assert!(forward.0, "{}", forward.1);
    if outside == Outside::V6 {
        netns.ip(&format!(
            "link add weft6.1 address {} mtu 1430 type vxlan id 1 local {} dev u0 dstport {VTEP_PORT} nolearning \
             udp6zerocsumtx udp6zerocsumrx",
            mac_text(vtep_mac6(n)),
            vtep6(n)
        ));
        netns.ip("link set weft6.1 up");
    }
}

fn addresses(host: &Host) {
    for (i, container) in host.containers.iter().enumerate() {
        let (addr, device) = (addr6(host.number, i), &container.device);
        host.netns.ip(&format!("-6 addr add fe80::1/64 dev {device} nodad"));
        host.netns.ip(&format!("-6 route add {addr}/128 dev {device}"));
        let gateway_mac = mac_text(host.netns.mac(device));
        container.netns.ip(&format!("-6 addr add {addr}/128 dev eth0 nodad"));
        container.netns.ip(&format!("-6 neigh replace fe80::1 lladdr {gateway_mac} dev eth0 nud permanent"));
        container.netns.ip("-6 route add default via fe80::1 dev eth0");
    }
}

fn kernel_path(host: &Host, outside: Outside) {
    let (netns, n, other, device) = (&host.netns, host.number, 3 - host.number, outside.device());
    let mac = mac_text(outside.mac(other));
    netns.ip(&format!("-6 addr add {}/128 dev {device} nodad", subnet6(n)));
    netns.ip(&format!("-6 neigh add {} lladdr {mac} dev {device} nud permanent", subnet6(other)));
    netns.ip(&format!("-6 route add {}/64 via {} dev {device} onlink", subnet6(other), subnet6(other)));
    if outside == Outside::V6 {
        run(&format!("bridge -n {} fdb append {mac} dev {device} dst {}", netns.name, vtep6(other)));
        let (peer, own) = (subnet(other), subnet(n));
        netns.ip(&format!("neigh add {peer} lladdr {mac} dev {device} nud permanent"));
        netns.ip(&format!("route replace {peer}/24 via {peer} dev {device} onlink src {own}"));
    }
}

fn host_to_containers(host: &Host, outside: Outside) {
    for container in &host.containers {
        container.netns.ip(&format!("link set eth0 mtu {}", 1500 - outside.overhead()));
    }
}

/// Fills the maps by hand, as the plan would.
fn rows(host: &mut Host, outside: Outside) {
    let (n, other) = (host.number, 3 - host.number);
    let maps = host.datapath.maps_mut();
    let mut config = maps.config().unwrap();
    config.vtep6 = vtep6(n).into();
    maps.set_config(&config).unwrap();
    let mut network = maps.networks().unwrap()[&NETWORK_DEFAULT];
    network.vtep_mac6 = vtep_mac6(n);
    network.subnet6 = subnet6(n).into();
    network.subnet_mask6 = Be128::mask_of(64);
    network.network6 = "fd00:10:244::".parse::<Ipv6Addr>().unwrap().into();
    network.network_mask6 = Be128::mask_of(48);
    let (ours, range) = (Vtep { network: NETWORK_DEFAULT, flags: 0 }, RangeKey { prefix_len: 48, addr: network.network6 });
    maps.ranges.put(range, NETWORK_DEFAULT).unwrap();
    // Another network, of which this host has nothing.
    let foreign = "fd00:10:245::".parse::<Ipv6Addr>().unwrap();
    maps.ranges.put(RangeKey { prefix_len: 48, addr: foreign.into() }, 2).unwrap();
    maps.ranges.put(RangeKey { prefix_len: 112, addr: Ipv4Addr::new(10, 245, 0, 0).into() }, 2).unwrap();
    let (outer, flags): (Be128, u16) = match outside {
        Outside::V4 => (vtep(other).into(), 0),
        Outside::V6 => (vtep6(other).into(), Peer::OUTER_V6),
    };
    maps.vteps.put(VtepKey { vni: 1, outer }, ours).unwrap();
    let mtu = 1500 - outside.overhead() as u32;
    let peer = Peer { outer, mac: outside.mac(other), flags, mtu, next_hop: NextHop::NONE };
    maps.peers.put(peer_key(other), peer).unwrap();
    maps.peers6.put(peer_key6(other), peer).unwrap();
    for (i, container) in host.containers.iter().enumerate() {
        let row = Endpoint { ifindex: container.ifindex, mac: container.mac, flags: 0, network: NETWORK_DEFAULT };
        maps.endpoints6.put(Be128::from(addr6(n, i)), row).unwrap();
    }
    maps.set_network(NETWORK_DEFAULT, &network).unwrap();
}
