//! Why a plan wants what it wants, in words: the peer, the container or the range that a row is there for.
//!
//! Nothing is decided here. What nothing of the desired state is behind is told as such: it is being removed.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_abi::{Be32, Be128};

use crate::host::{Attachment, Host, LOOPBACK, Overlay};
use crate::ipam;
use crate::kernel;
use crate::maps;
use crate::neighbors;
use crate::peers::{Peer, Peers};
use crate::routes::Via;

/// What was planned for.
#[derive(Clone, Copy, Debug)]
pub struct Reasons<'a> {
    /// This host.
    pub host: &'a Host,
    /// The others.
    pub peers: &'a Peers,
}

impl Reasons<'_> {
    /// What an action on the kernel path is for; `None` where nothing wants the row.
    #[must_use]
    pub fn of_kernel(&self, action: &kernel::Action) -> Option<String> {
        match action {
            kernel::Action::Sysctl(step) => match step.row().device() {
                Some(device) if self.host.uplink.as_ref().is_some_and(|uplink| uplink.name == device) => {
                    Some("the uplink listens to routers although packets are forwarded".to_owned())
                }
                Some(LOOPBACK) => self.own_subnets().map(|subnets| format!("gateway of own subnet {subnets}")),
                Some(device) => self.of_device(device),
                None => Some("packets of containers are forwarded".to_owned()),
            },
            kernel::Action::Link(step) => self.of_device(&step.row().name),
            kernel::Action::Address(step) => {
                let row = step.row();
                let gateway = self.host.subnet.map(|subnet| IpAddr::V4(ipam::gateway(subnet)));
                let gateway6 = self.host.subnet6.map(|subnet| IpAddr::V6(ipam::gateway6(subnet)));
                let address = Some(row.address.addr());
                if row.device == LOOPBACK && gateway == address {
                    return self.host.subnet.map(|subnet| format!("gateway of own subnet {subnet}"));
                }
                if row.device == LOOPBACK && gateway6 == address {
                    return self.host.subnet6.map(|subnet| format!("names for own subnet {subnet}"));
                }
                self.of_device(&row.device)
            }
            kernel::Action::Neighbor(step) => {
                let row = step.row();
                self.container_on(&row.device, row.address)
                    .or_else(|| self.peer(|p| device_addresses(p).any(|address| address == row.address)))
            }
            kernel::Action::Forward(step) => {
                let ends = [(step.row().remote, step.row().mac)];
                self.peer(|p| ends.contains(&(p.outer, p.mac)) || p.outer6.is_some_and(|outer6| ends.contains(&(outer6, p.mac6))))
            }
            kernel::Action::Route(step) => self.of_route(step.row().destination, &step.row().via),
        }
    }

    /// What an action on a map is for; `None` where nothing wants the row.
    #[must_use]
    pub fn of_map(&self, action: &maps::Action) -> Option<String> {
        use maps::Action;
        match action {
            Action::PutConfig(_) => Some("this host and its network".to_owned()),
            Action::PutNetwork(..) | Action::DeleteNetwork(_) | Action::PutRange(..) | Action::DeleteRange(_) => {
                self.host.config.as_ref().map(|_| "this host and its network".to_owned())
            }
            Action::PutVtep(key, _) | Action::DeleteVtep(key) if key.outer.is_zero() => {
                self.host.config.as_ref().map(|_| "this host and its network".to_owned())
            }
            Action::PutPeer(key, _) | Action::DeletePeer(key) => self.peer(|p| Be32::from(p.subnet.network()) == key.subnet),
            Action::PutPeer6(key, _) | Action::DeletePeer6(key) => {
                self.peer(|p| p.subnet6.is_some_and(|subnet| Be128::from(subnet.network()) == key.subnet))
            }
            Action::PutVtep(key, _) | Action::DeleteVtep(key) => {
                self.peer(|p| p.tunnel_ends().any(|end| Be128::from(end) == key.outer))
            }
            Action::PutEndpoint(address, _) | Action::DeleteEndpoint(address) => {
                self.container(|a| Be32::from(a.address) == *address)
            }
            Action::PutEndpoint6(address, _) | Action::DeleteEndpoint6(address) => {
                self.container(|a| a.address6.is_some_and(|own| Be128::from(own) == *address))
            }
            Action::PutNetns(cookie, _) | Action::DeleteNetns(cookie) if *cookie == self.host.netns_cookie => {
                Some("this host's own sockets".to_owned())
            }
            Action::PutNetns(cookie, _) | Action::DeleteNetns(cookie) => self.container(|a| a.netns_cookie == *cookie),
            Action::PutPort(_, to) => self.container(|a| a.addresses().any(|address| Be128::from(address) == to.addr)),
            // What it leads to is not told, and it is going.
            Action::DeletePort(_) => None,
        }
    }

    /// What a container's program is for; `None` for one that is not attached.
    #[must_use]
    pub fn of_container(&self, id: &str) -> Option<String> {
        self.container(|a| a.id == id)
    }

    fn of_device(&self, device: &str) -> Option<String> {
        let ours = |overlay: &Overlay<'_>| overlay.device() == device || overlay.device6() == device;
        let overlay = self.host.overlay().filter(ours);
        let network = overlay.map(|overlay| format!("overlay of network {}", overlay.config.network));
        network.or_else(|| self.container(|a| a.host_ifname == device))
    }

    fn of_route(&self, destination: IpNet, via: &Via) -> Option<String> {
        let own = self.host.subnet.map(IpNet::V4).into_iter().chain(self.host.subnet6.map(IpNet::V6));
        let own = own.into_iter().find(|subnet| *subnet == destination);
        match (destination, via) {
            (_, Via::Unreachable) => Some(match own {
                Some(_) => "own subnet: addresses without a container".to_owned(),
                None => "service range: what was not translated goes nowhere".to_owned(),
            }),
            _ if destination.prefix_len() == destination.max_prefix_len() => {
                self.container(|a| a.addresses().any(|address| address == destination.addr()))
            }
            (IpNet::V4(subnet), _) => self.peer(|p| p.subnet == subnet),
            (IpNet::V6(subnet), _) => self.peer(|p| p.subnet6 == Some(subnet)),
        }
    }

    fn peer(&self, is_it: impl Fn(&Peer) -> bool) -> Option<String> {
        let peer = self.peers.used.iter().find(|p| is_it(p))?;
        Some(match &peer.node {
            Some(node) => format!("peer {node}"),
            None => format!("peer {} (flannel)", peer.outer),
        })
    }

    fn own_subnets(&self) -> Option<String> {
        let subnets = self.host.subnet.map(IpNet::V4).into_iter().chain(self.host.subnet6.map(IpNet::V6));
        let subnets: Vec<String> = subnets.map(|subnet| subnet.to_string()).collect();
        (!subnets.is_empty()).then(|| subnets.join(" and "))
    }

    fn container_on(&self, device: &str, address: IpAddr) -> Option<String> {
        self.container(|a| a.host_ifname == device && a.addresses().any(|of| of == address))
    }

    fn container(&self, is_it: impl Fn(&Attachment) -> bool) -> Option<String> {
        self.host.attachments.iter().find(|a| is_it(a)).map(|a| format!("attachment {}", a.id))
    }
}

/// The addresses of a peer's VXLAN devices.
fn device_addresses(peer: &Peer) -> impl Iterator<Item = IpAddr> {
    let v6 = peer.outer6.map(|_| IpAddr::V6(neighbors::link_local(peer.mac6)));
    [IpAddr::V4(ipam::device_address(peer.subnet))].into_iter().chain(v6)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use weft_model::cluster::ClusterConfig;
    use weft_model::mac::Mac;
    use weft_model::network::{Backend, NetworkConfig};

    use super::*;
    use crate::Uplink;

    fn host() -> Host {
        Host {
            node: "h1".parse().unwrap(),
            config: Some(NetworkConfig::new("10.244.0.0/16".parse().unwrap(), 24, None, None, Backend::default()).unwrap()),
            subnet: Some("10.244.1.0/24".parse().unwrap()),
            subnet6: Some("fd00:10:244:1::/64".parse().unwrap()),
            vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
            vtep_mac6: Mac([2, 0, 0, 0, 6, 1]),
            uplink: Some(Uplink {
                name: "eth0".into(),
                index: 2,
                address: Some(Ipv4Addr::new(192, 0, 2, 1)),
                address6: Some("2001:db8::1".parse().unwrap()),
                public_ip: Some(Ipv4Addr::new(192, 0, 2, 1)),
                public_ipv6: None,
                mtu: 1500,
                ethernet: true,
                on_link: crate::OnLink::default(),
            }),
            attachments: vec![Attachment {
                id: "web-1".into(),
                address: Ipv4Addr::new(10, 244, 1, 2),
                address6: Some("fd00:10:244:1::2".parse().unwrap()),
                mac: Mac([2, 0, 0, 0, 0, 9]),
                host_ifname: "weft0123456789".into(),
                host_index: Some(7),
                netns_cookie: 70,
                network: 1,
                publish: Vec::new(),
            }],
            netns_cookie: 1,
            networks: Vec::new(),
        }
    }

    fn peers() -> Peers {
        let peer = |n: u8, node: Option<&str>| Peer {
            subnet: format!("10.244.{n}.0/24").parse().unwrap(),
            subnet6: Some(format!("fd00:10:244:{n}::/64").parse().unwrap()),
            outer: Ipv4Addr::new(192, 0, 2, n).into(),
            outer6: Some(format!("2001:db8::{n}").parse().unwrap()),
            mac: Mac([2, 0, 0, 0, 0, n]),
            mac6: Mac([2, 0, 0, 0, 6, n]),
            node: node.map(|n| n.parse().unwrap()),
            mtu: None,
            fast: true,
            fast6: false,
            udp6zero: false,
            via: crate::Way::Overlay,
            via6: crate::Way::Overlay,
        };
        Peers { used: vec![peer(2, Some("h2")), peer(9, None)], ..Peers::default() }
    }

    #[test]
    fn every_row_that_is_wanted_has_its_reason() {
        let (host, peers) = (host(), peers());
        let reasons = Reasons { host: &host, peers: &peers };
        let desired = kernel::desired(&ClusterConfig::default(), &host, &peers);
        // Veth pairs are attach's to make, so there is one already, and down.
        let mut actual = kernel::Rows::default();
        actual.links.extend(
            desired.links.iter().filter(|l| l.name == "weft0123456789").map(|l| crate::links::Link { up: false, ..l.clone() }),
        );
        // The uplink listens to routers.
        let listens = desired.sysctls.iter().filter(|s| s.over.is_some());
        actual.sysctls.extend(listens.map(|s| crate::sysctls::Sysctl { value: "1".into(), ..s.clone() }));
        let mut said = BTreeSet::new();
        for action in kernel::diff(&desired, &actual) {
            said.insert(reasons.of_kernel(&action).unwrap_or_else(|| panic!("{action} has no reason")));
        }
        for action in maps::diff(&maps::desired(&ClusterConfig::default(), &host, &peers), &maps::Rows::default()) {
            said.insert(reasons.of_map(&action).unwrap_or_else(|| panic!("{action} has no reason")));
        }
        for expected in [
            "attachment web-1",
            "gateway of own subnet 10.244.1.0/24",
            "gateway of own subnet 10.244.1.0/24 and fd00:10:244:1::/64",
            "names for own subnet fd00:10:244:1::/64",
            "the uplink listens to routers although packets are forwarded",
            "overlay of network 10.244.0.0/16",
            "own subnet: addresses without a container",
            "packets of containers are forwarded",
            "peer 192.0.2.9 (flannel)",
            "peer h2",
            "service range: what was not translated goes nowhere",
            "this host and its network",
            "this host's own sockets",
        ] {
            assert!(said.remove(expected), "{expected} is not among {said:?}");
        }
        assert_eq!(said, BTreeSet::new());
    }

    #[test]
    fn what_nothing_wants_has_none() {
        let (before, peers) = (host(), peers());
        let rows = maps::desired(&ClusterConfig::default(), &before, &peers);
        let now = Host { attachments: Vec::new(), ..before };
        let wanted = maps::desired(&ClusterConfig::default(), &now, &Peers::default());
        let reasons = Reasons { host: &now, peers: &Peers::default() };
        let removals = maps::diff(&wanted, &rows);
        assert_eq!(removals.len(), 9, "{removals:?}");
        assert!(removals.iter().all(|action| reasons.of_map(action).is_none()), "{removals:?}");
    }
}
