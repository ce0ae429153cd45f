//! A reservation: a subnet that is kept for one host, under `<weft-prefix>/reservations/<network>/10.244.3.0-24`.
//!
//! The key is the subnet, so that two hosts cannot have one reserved. Agents go by these keys. flannelds know nothing of
//! them, and take for free what has no lease; so a reserved subnet without a lease of its owner has a [placeholder](Reservation::placeholder) among
//! the leases: one that flannel parses, counts as taken, and programs nothing for, because its backend is none of a tunnel.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::subnet::{Lease, WeftLease};

/// The backend of flannel that only allocates: hosts with another one leave its leases out.
const PLACEHOLDER: &str = "alloc";

/// For whom a subnet is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The host's name; a flannel host is called by its tunnel address, as everywhere.
    pub node: NodeName,
    /// What other versions keep here.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Reservation {
    /// For this host.
    #[must_use]
    pub fn of(node: NodeName) -> Self {
        Self { node, other: serde_json::Map::new() }
    }

    /// The tunnel address of the flannel host that it is for; none if it is for one of ours.
    #[must_use]
    pub fn flannel(&self) -> Option<Ipv4Addr> {
        self.node.as_str().parse().ok()
    }

    /// Whether `lease` is the owner's own.
    #[must_use]
    pub fn is_owners(&self, lease: &Lease) -> bool {
        if lease.is_placeholder() {
            return false;
        }
        match (lease.node(), self.flannel()) {
            (Some(node), _) => *node == self.node,
            (None, Some(ip)) => lease.public_ip == Some(ip),
            (None, None) => false,
        }
    }

    /// The lease that stands in the owner's place.
    ///
    /// A flannel host's bears its address: its flanneld takes over what bears that (`findLeaseByIP`). One of ours is of no
    /// address, which none has.
    #[must_use]
    pub fn placeholder(&self) -> Lease {
        let flannel = self.flannel();
        let weft = WeftLease { node: self.node.clone(), boot: String::new(), udp6zero: false, mtu: 0 };
        Lease {
            public_ip: Some(flannel.unwrap_or(Ipv4Addr::UNSPECIFIED)),
            public_ipv6: None,
            backend_type: PLACEHOLDER.to_owned(),
            backend_data: None,
            backend_v6_data: None,
            weft: flannel.is_none().then_some(weft),
        }
    }
}

impl Lease {
    /// Whether it only says that its subnet is reserved: nobody has it yet.
    #[must_use]
    pub fn is_placeholder(&self) -> bool {
        self.backend_type == PLACEHOLDER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(node: &str) -> Reservation {
        Reservation::of(node.parse().unwrap())
    }

    #[test]
    fn a_placeholder_is_a_lease_that_flannel_parses_and_has_no_tunnel() {
        let ours = of("h1").placeholder();
        assert_eq!(
            ours.to_json(),
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":null,"BackendType":"alloc","weft":{"node":"h1","udp6zero":false,"mtu":0}}"#
        );
        assert_eq!(Lease::parse(ours.to_json().as_bytes()).unwrap(), ours);
        assert!(ours.is_placeholder() && ours.vtep_mac(1).is_none());
        let flannels = of("192.0.2.9").placeholder();
        assert!(flannels.to_json().starts_with(r#"{"PublicIP":"192.0.2.9""#) && flannels.weft.is_none());
    }

    #[test]
    fn an_owner_is_known_by_name_or_by_the_address_of_its_flanneld() {
        let lease = |json: &str| Lease::parse(json.as_bytes()).unwrap();
        let ours = lease(r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw","weft":{"node":"h1"}}"#);
        let flannels = lease(r#"{"PublicIP":"192.0.2.9","BackendType":"host-gw"}"#);
        assert!(of("h1").is_owners(&ours) && !of("h2").is_owners(&ours) && !of("192.0.2.1").is_owners(&ours));
        assert!(of("192.0.2.9").is_owners(&flannels) && !of("192.0.2.8").is_owners(&flannels));
        assert!(!of("h1").is_owners(&of("h1").placeholder()));
    }
}
