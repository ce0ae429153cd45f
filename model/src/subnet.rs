//! A host's subnet: flannel's lease, key and value exactly, with a member of ours that flannel ignores.
//!
//! A lease without the `weft` member belongs to a flanneld. We read it and never write it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::mac::Mac;

/// The last part of a lease's key: `10.244.3.0-24`, or `10.244.3.0-24&fd00--1:2-64` on a host with both families.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubnetKey {
    /// The IPv4 subnet.
    pub subnet: Ipv4Net,
    /// The IPv6 part as written, not interpreted.
    pub v6: Option<String>,
}

impl SubnetKey {
    /// The key of an IPv4-only host.
    #[must_use]
    pub fn v4(subnet: Ipv4Net) -> Self {
        Self { subnet, v6: None }
    }
}

impl fmt::Display for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.subnet.addr(), self.subnet.prefix_len())?;
        match &self.v6 {
            Some(v6) => write!(f, "&{v6}"),
            None => Ok(()),
        }
    }
}

impl FromStr for SubnetKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (v4, v6) = match text.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6.to_owned())),
            None => (text, None),
        };
        let bad = || format!("{text:?} is no subnet key of the form 10.244.3.0-24");
        let (address, len) = v4.split_once('-').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let len: u8 = len.parse().map_err(|_| bad())?;
        let subnet = Ipv4Net::new(address, len).map_err(|_| bad())?;
        if subnet.trunc() != subnet {
            return Err(format!("{text:?} has bits set beyond its prefix length"));
        }
        Ok(Self { subnet, v6 })
    }
}

/// The value of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The host's tunnel address.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// flannel always prints it, null when absent.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// `vxlan`; others are other backends' peers, which we cannot reach.
    #[serde(rename = "BackendType", default)]
    pub backend_type: String,
    /// The backend's own data.
    #[serde(rename = "BackendData", default, skip_serializing_if = "Option::is_none")]
    pub backend_data: Option<BackendData>,
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
    /// The VTEP's MAC, if this is a lease of a VXLAN host in network `vni`.
    #[must_use]
    pub fn vtep_mac(&self, vni: u32) -> Option<Mac> {
        let data = self.backend_data.as_ref().filter(|_| self.backend_type.eq_ignore_ascii_case("vxlan"))?;
        data.vni.is_none_or(|of| of == vni).then_some(data.vtep_mac)
    }

    /// The node that owns the lease; none for a flanneld's.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        self.weft.as_ref().map(|w| &w.node)
    }

    /// Reads a lease's value.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        // flannel writes `"BackendData":{}` for host-gw and ipip, which is no data for us; those peers are shown, not used.
        #[derive(Deserialize)]
        struct Loose {
            #[serde(rename = "PublicIP")]
            public_ip: Ipv4Addr,
            #[serde(rename = "PublicIPv6", default)]
            public_ipv6: Option<Ipv6Addr>,
            #[serde(rename = "BackendType", default)]
            backend_type: String,
            #[serde(rename = "BackendData", default)]
            backend_data: serde_json::Value,
            #[serde(default)]
            weft: Option<WeftLease>,
        }
        let raw: Loose = crate::parse_object(value, "no lease")?;
        let backend_data = if raw.backend_type.eq_ignore_ascii_case("vxlan") {
            Some(serde_json::from_value(raw.backend_data).map_err(|e| format!("BackendData: {e}"))?)
        } else {
            None
        };
        Ok(Self {
            public_ip: raw.public_ip,
            public_ipv6: raw.public_ipv6,
            backend_type: raw.backend_type,
            backend_data,
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
        assert_eq!(dual.subnet, key.subnet);
        assert_eq!(dual.to_string(), "10.244.3.0-24&fd00:10:244::-64");
        for bad in ["", "foo", "10.244.3.0", "10.244.3.0-33", "10.244.3.1-24", "x10.244.3.0-24"] {
            assert!(bad.parse::<SubnetKey>().is_err(), "{bad}");
        }
    }
}
