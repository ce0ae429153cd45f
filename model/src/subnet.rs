//! A host's subnets: flannel's lease, key and value exactly, with a member of ours that flannel ignores.
//!
//! A lease without the `weft` member belongs to a flanneld. We read it and never write it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::mac::Mac;

/// Which tree of the store a lease stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tree {
    /// Below the network prefix, where flannelds read too.
    #[default]
    Network,
    /// Below Weft's own prefix: leases of hosts without an IPv4 address, which flannel cannot parse.
    Weft,
}

/// The last part of a lease's key: `10.244.3.0-24`, or `10.244.3.0-24&fd00:10:244:3::-64` on a host with both families; and
/// the tree it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubnetKey {
    /// The IPv4 subnet.
    pub subnet: Ipv4Net,
    /// The IPv6 subnet beside it.
    pub v6: Option<Ipv6Net>,
    /// Where the lease stands.
    pub tree: Tree,
}

impl SubnetKey {
    /// The key of an IPv4-only host.
    #[must_use]
    pub fn v4(subnet: Ipv4Net) -> Self {
        Self::new(subnet, None)
    }

    /// The key of a host, below the network prefix.
    #[must_use]
    pub fn new(subnet: Ipv4Net, v6: Option<Ipv6Net>) -> Self {
        Self { subnet, v6, tree: Tree::Network }
    }

    /// The same key in a tree.
    #[must_use]
    pub fn in_tree(self, tree: Tree) -> Self {
        Self { tree, ..self }
    }

    /// The other keys that a claim of the same IPv4 subnet may stand under: in either tree, with and without IPv6. Whoever
    /// claims sees to it that none of them is there.
    #[must_use]
    pub fn rivals(&self) -> Vec<Self> {
        let trees = [Tree::Network, Tree::Weft];
        let mut all: Vec<Self> = trees.iter().flat_map(|t| [self.v6, None].map(|v6| Self { v6, tree: *t, ..*self })).collect();
        all.dedup();
        all.retain(|key| key != self);
        all
    }
}

impl fmt::Display for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.subnet.addr(), self.subnet.prefix_len())?;
        match &self.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.addr(), v6.prefix_len()),
            None => Ok(()),
        }
    }
}

impl FromStr for SubnetKey {
    type Err = String;

    /// Reads a key below the network prefix.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no subnet key of the form 10.244.3.0-24 or 10.244.3.0-24&fd00:10:244:3::-64");
        let (v4, v6) = match text.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (text, None),
        };
        let (address, len) = v4.split_once('-').ok_or_else(bad)?;
        let (address, len) = (address.parse::<Ipv4Addr>().ok(), len.parse().ok());
        let subnet = address.zip(len).and_then(|(a, l)| Ipv4Net::new(a, l).ok()).ok_or_else(bad)?;
        let v6 = match v6 {
            Some(v6) => {
                let (address, len) = v6.split_once('-').ok_or_else(bad)?;
                let (address, len) = (address.parse::<Ipv6Addr>().ok(), len.parse().ok());
                Some(address.zip(len).and_then(|(a, l)| Ipv6Net::new(a, l).ok()).ok_or_else(bad)?)
            }
            None => None,
        };
        if subnet.trunc() != subnet || v6.is_some_and(|v6| v6.trunc() != v6) {
            return Err(format!("{text:?} has bits set beyond its prefix length"));
        }
        let key = Self::new(subnet, v6);
        // Two spellings of one subnet would be two keys for one thing.
        if key.to_string() != text {
            return Err(format!("{text:?} is spelled otherwise than flannel does: {key}"));
        }
        Ok(key)
    }
}

/// The value of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The host's tunnel address. Always there below the network prefix, since flannel cannot parse its absence; 0.0.0.0 of a
    /// host that has no uplink yet.
    #[serde(rename = "PublicIP", default, skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<Ipv4Addr>,
    /// flannel always prints it, null when absent.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// `vxlan` or `host-gw`; others are other backends' peers, which we cannot reach.
    #[serde(rename = "BackendType", default)]
    pub backend_type: String,
    /// The backend's own data.
    #[serde(rename = "BackendData", default, skip_serializing_if = "Option::is_none")]
    pub backend_data: Option<BackendData>,
    /// The same of the device whose outer packets are IPv6.
    #[serde(rename = "BackendV6Data", default, skip_serializing_if = "Option::is_none")]
    pub backend_v6_data: Option<BackendData>,
    /// What a Weft agent adds to its own lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft: Option<WeftLease>,
}

/// Backend data of a `vxlan` lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendData {
    /// VXLAN network identifier; old flannels leave it out.
    #[serde(rename = "VNI", default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The MAC that inner frames to this host must bear.
    #[serde(rename = "VtepMAC")]
    pub vtep_mac: Mac,
}

/// Weft's own member of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeftLease {
    /// Who owns the lease.
    pub node: NodeName,
    /// Boot id of the host when the lease was written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// Whether the host takes VXLAN over IPv6 with zero UDP checksums.
    #[serde(default)]
    pub udp6zero: bool,
    /// MTU that inner packets to this host may have, bytes; 0 is unknown.
    #[serde(default)]
    pub mtu: u32,
}

impl Lease {
    /// The MAC of the VTEP whose outer packets are IPv4, if this is a lease of a VXLAN host in network `vni`.
    #[must_use]
    pub fn vtep_mac(&self, vni: u32) -> Option<Mac> {
        self.mac_of(self.backend_data.as_ref(), vni)
    }

    /// The MAC of the VTEP whose outer packets are IPv6, likewise.
    #[must_use]
    pub fn vtep_mac6(&self, vni: u32) -> Option<Mac> {
        self.mac_of(self.backend_v6_data.as_ref(), vni)
    }

    fn mac_of(&self, data: Option<&BackendData>, vni: u32) -> Option<Mac> {
        let data = data.filter(|_| self.backend_type.eq_ignore_ascii_case("vxlan"))?;
        data.vni.is_none_or(|of| of == vni).then_some(data.vtep_mac)
    }

    /// The node that owns the lease; none for a flanneld's.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        self.weft.as_ref().map(|w| &w.node)
    }

    /// An address to call the host by: IPv4 if it has one.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        let v4 = self.public_ip.map(IpAddr::V4);
        v4.or(self.public_ipv6.map(IpAddr::V6)).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Reads a lease's value.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        // Other backends have other data, or `{}`, which is none for us; those peers are shown, not used.
        #[derive(Deserialize)]
        struct Loose {
            #[serde(rename = "PublicIP", default)]
            public_ip: Option<Ipv4Addr>,
            #[serde(rename = "PublicIPv6", default)]
            public_ipv6: Option<Ipv6Addr>,
            #[serde(rename = "BackendType", default)]
            backend_type: String,
            #[serde(rename = "BackendData", default)]
            backend_data: serde_json::Value,
            #[serde(rename = "BackendV6Data", default)]
            backend_v6_data: serde_json::Value,
            #[serde(default)]
            weft: Option<WeftLease>,
        }
        let raw: Loose = crate::parse_object(value, "no lease")?;
        if raw.public_ip.is_none() && raw.public_ipv6.is_none() {
            return Err("no lease: it has neither PublicIP nor PublicIPv6".to_owned());
        }
        let vxlan = raw.backend_type.eq_ignore_ascii_case("vxlan");
        let data = |member: &str, value: serde_json::Value| match value {
            serde_json::Value::Null => Ok(None),
            _ if !vxlan => Ok(None),
            value => serde_json::from_value(value).map(Some).map_err(|e| format!("{member}: {e}")),
        };
        let backend_data = data("BackendData", raw.backend_data)?;
        let backend_v6_data = data("BackendV6Data", raw.backend_v6_data)?;
        if vxlan && backend_data.is_none() && backend_v6_data.is_none() {
            return Err("BackendData: is missing".to_owned());
        }
        Ok(Self {
            public_ip: raw.public_ip,
            public_ipv6: raw.public_ipv6,
            backend_type: raw.backend_type,
            backend_data,
            backend_v6_data,
            weft: raw.weft,
        })
    }

    /// The value as flannel reads it.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only maps with other than string keys can fail here.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLANNELS: &str = r#"{"PublicIP":"192.168.50.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"}}"#;

    #[test]
    fn flannels_value_survives_a_round_trip_to_the_letter() {
        let lease = Lease::parse(FLANNELS.as_bytes()).unwrap();
        assert_eq!(lease.to_json(), FLANNELS);
        assert_eq!(lease.vtep_mac(1).unwrap().to_string(), "2e:ce:51:c6:8f:1b");
        assert_eq!(lease.vtep_mac(2), None);
        assert_eq!(lease.node(), None);
    }

    #[test]
    fn a_dual_stack_flannels_value_survives_too() {
        let text = r#"{"PublicIP":"192.168.50.1","PublicIPv6":"2001:db8:50::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"},"BackendV6Data":{"VNI":1,"VtepMAC":"ba:ff:6e:0a:41:5d"}}"#;
        let lease = Lease::parse(text.as_bytes()).unwrap();
        assert_eq!(lease.to_json(), text);
        assert_eq!(lease.vtep_mac6(1).unwrap().to_string(), "ba:ff:6e:0a:41:5d");
        assert_eq!(lease.vtep_mac6(2), None);
    }

    #[test]
    fn a_host_without_ipv4_has_a_lease_that_says_so() {
        let text = r#"{"PublicIPv6":"2001:db8:50::1","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"ba:ff:6e:0a:41:5d"},"weft":{"node":"h1","udp6zero":true,"mtu":1430}}"#;
        let lease = Lease::parse(text.as_bytes()).unwrap();
        assert_eq!(lease.to_json(), text);
        assert_eq!((lease.public_ip, lease.address()), (None, "2001:db8:50::1".parse().unwrap()));
        for neither in [r#"{"BackendType":"host-gw"}"#, r#"{"PublicIP":null,"PublicIPv6":null,"BackendType":"host-gw"}"#] {
            assert!(Lease::parse(neither.as_bytes()).is_err());
        }
    }

    #[test]
    fn another_backends_lease_is_read_and_has_no_vtep() {
        for text in [r#"{"PublicIP":"10.0.0.1","BackendType":"host-gw","BackendData":{}}"#, r#"{"PublicIP":"10.0.0.1"}"#] {
            assert_eq!(Lease::parse(text.as_bytes()).unwrap().vtep_mac(1), None);
        }
        assert!(Lease::parse(br#"{"PublicIP":"10.0.0.1","BackendType":"vxlan"}"#).is_err());
    }

    #[test]
    fn keys_are_flannels() {
        let key: SubnetKey = "10.244.3.0-24".parse().unwrap();
        assert_eq!(key.to_string(), "10.244.3.0-24");
        let dual: SubnetKey = "10.244.3.0-24&fd00:10:244::-64".parse().unwrap();
        assert_eq!((dual.subnet, dual.v6), (key.subnet, Some("fd00:10:244::/64".parse().unwrap())));
        assert_eq!(dual.to_string(), "10.244.3.0-24&fd00:10:244::-64");
        for bad in [
            "",
            "foo",
            "10.244.3.0",
            "10.244.3.0-33",
            "10.244.3.1-24",
            "x10.244.3.0-24",
            "10.244.3.0-024",
            "10.244.3.0-24&",
            "10.244.3.0-24&fd00::1-64",
            "10.244.3.0-24&fd00:0::-64",
            "10.244.3.0-24&fd00::-129",
            "fd00::-64",
        ] {
            assert!(bad.parse::<SubnetKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_claim_has_rivals_in_both_trees_and_both_forms() {
        let said = |key: &SubnetKey| key.rivals().iter().map(|k| format!("{:?} {k}", k.tree)).collect::<Vec<_>>();
        let key = SubnetKey::v4("10.244.3.0/24".parse().unwrap());
        assert_eq!(said(&key), ["Weft 10.244.3.0-24"]);
        let dual = SubnetKey::new(key.subnet, Some("fd00::/64".parse().unwrap())).in_tree(Tree::Weft);
        assert_eq!(said(&dual), ["Network 10.244.3.0-24&fd00::-64", "Network 10.244.3.0-24", "Weft 10.244.3.0-24"]);
    }
}
