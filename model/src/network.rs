//! The network's configuration: flannel's JSON under `<network-prefix>/config`, read the way flannel reads it.
//!
//! Source: flannel `pkg/subnet/config.go`; limits and defaults as in its documentation. Unknown members are ignored, as
//! flannel ignores them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

mod backend;
mod v6;

pub use backend::{Backend, BackendKind, DEFAULT_VNI, DEFAULT_VXLAN_PORT};
pub use v6::V6Range;

/// A network's configuration, checked. It always has IPv4, because flannel's keys cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The whole network, from which the hosts' subnets are taken.
    pub network: Ipv4Net,
    /// The prefix length of a host's subnet.
    pub subnet_len: u8,
    /// The first subnet that may be given.
    pub subnet_min: Ipv4Addr,
    /// The last subnet that may be given.
    pub subnet_max: Ipv4Addr,
    /// The IPv6 network beside it, if there is one.
    pub v6: Option<V6Range>,
    /// How packets get from host to host.
    pub backend: Backend,
}

/// Why the text is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// Not JSON of this shape; serde says where.
    #[error("{0}")]
    Json(String),
    /// A member has a value that cannot be.
    #[error("{member}: {why}")]
    Member {
        /// The member's name.
        member: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

fn bad(member: &'static str, why: impl Into<String>) -> BadConfig {
    BadConfig::Member { member, why: why.into() }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    #[serde(rename = "EnableIPv4", default = "yes")]
    enable_ipv4: bool,
    network: Option<String>,
    subnet_min: Option<Ipv4Addr>,
    subnet_max: Option<Ipv4Addr>,
    #[serde(default)]
    subnet_len: u8,
    #[serde(rename = "EnableIPv6", default)]
    enable_ipv6: bool,
    #[serde(rename = "IPv6Network")]
    ipv6_network: Option<String>,
    #[serde(rename = "IPv6SubnetMin")]
    ipv6_subnet_min: Option<Ipv6Addr>,
    #[serde(rename = "IPv6SubnetMax")]
    ipv6_subnet_max: Option<Ipv6Addr>,
    #[serde(rename = "IPv6SubnetLen", default)]
    ipv6_subnet_len: u8,
    backend: Option<serde_json::Map<String, serde_json::Value>>,
}

fn yes() -> bool {
    true
}

impl NetworkConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Names the member that cannot be, and why.
    pub fn parse(text: &[u8]) -> Result<Self, BadConfig> {
        let raw: Raw = crate::parse_object(text, "no network configuration").map_err(BadConfig::Json)?;
        if !raw.enable_ipv4 {
            return Err(bad("EnableIPv4", "a network without IPv4 is not supported by this version"));
        }
        let text = raw.network.ok_or_else(|| bad("Network", "is missing"))?;
        let given: Ipv4Net = text.parse().map_err(|_| bad("Network", format!("{text:?} is no IPv4 network in CIDR form")))?;
        let backend = Backend::parse(raw.backend)?;
        let v6 = if raw.enable_ipv6 {
            let text = raw.ipv6_network.ok_or_else(|| bad("IPv6Network", "is missing, and EnableIPv6 is true"))?;
            let given: Ipv6Net =
                text.parse().map_err(|_| bad("IPv6Network", format!("{text:?} is no IPv6 network in CIDR form")))?;
            Some(V6Range::new(given.trunc(), raw.ipv6_subnet_len, raw.ipv6_subnet_min, raw.ipv6_subnet_max)?)
        } else {
            None
        };
        let config = Self::new(given.trunc(), raw.subnet_len, raw.subnet_min, raw.subnet_max, backend)?;
        Ok(Self { v6, ..config })
    }

    /// A configuration of IPv4 alone with flannel's defaults: `subnet_len` 0, `min` and `max` `None` are "not given".
    ///
    /// # Errors
    /// Names the member that cannot be, and why.
    pub fn new(
        network: Ipv4Net,
        subnet_len: u8,
        min: Option<Ipv4Addr>,
        max: Option<Ipv4Addr>,
        backend: Backend,
    ) -> Result<Self, BadConfig> {
        let len = network.prefix_len();
        if len > 28 {
            return Err(bad("Network", format!("{network} is too small: /28 is the longest prefix")));
        }
        let subnet_len = match subnet_len {
            0 if len <= 22 => 24,
            0 => len + 2,
            given if given < len + 2 || given > 30 => {
                return Err(bad("SubnetLen", format!("{given} is outside {} to 30 for {network}", len + 2)));
            }
            given => given,
        };
        let size = 1u32 << (32 - subnet_len);
        let first = u32::from(network.network());
        let last = u32::from(network.broadcast()) - (size - 1);
        let check = |member, given: Option<Ipv4Addr>, default: u32| {
            let at = given.map_or(default, u32::from);
            let text = Ipv4Addr::from(at);
            if at < first || at > last {
                return Err(bad(member, format!("{text} is not a subnet of {network}")));
            }
            if !at.is_multiple_of(size) {
                return Err(bad(member, format!("{text} is not on a /{subnet_len} border")));
            }
            Ok(text)
        };
        // flannel never gives the first block away.
        let subnet_min = check("SubnetMin", min, first + size)?;
        let subnet_max = check("SubnetMax", max, last)?;
        if subnet_min > subnet_max {
            return Err(bad("SubnetMax", format!("{subnet_max} is below SubnetMin {subnet_min}")));
        }
        Ok(Self { network, subnet_len, subnet_min, subnet_max, v6: None, backend })
    }

    /// How many subnets there are to give.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        (u32::from(self.subnet_max) - u32::from(self.subnet_min)) / self.subnet_size() + 1
    }

    /// Addresses in one subnet.
    #[must_use]
    pub fn subnet_size(&self) -> u32 {
        1 << (32 - self.subnet_len)
    }

    /// All subnets that may be given, lowest first.
    pub fn subnets(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        (0..self.capacity()).filter_map(|n| {
            let at = u32::from(self.subnet_min) + n * self.subnet_size();
            Ipv4Net::new(Ipv4Addr::from(at), self.subnet_len).ok()
        })
    }

    /// Whether `subnet` is one that this configuration could give.
    #[must_use]
    pub fn could_give(&self, subnet: Ipv4Net) -> bool {
        subnet.prefix_len() == self.subnet_len && (self.subnet_min..=self.subnet_max).contains(&subnet.network())
    }

    /// The configuration as flannel reads it.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Out<'a> {
            network: Ipv4Net,
            subnet_len: u8,
            subnet_min: Ipv4Addr,
            subnet_max: Ipv4Addr,
            #[serde(flatten)]
            v6: Option<v6::Out<'a>>,
            backend: backend::Out<'a>,
        }
        let out = Out {
            network: self.network,
            subnet_len: self.subnet_len,
            subnet_min: self.subnet_min,
            subnet_max: self.subnet_max,
            v6: self.v6.as_ref().map(V6Range::out),
            backend: self.backend.out(),
        };
        // Only maps with other than string keys can fail here.
        serde_json::to_string(&out).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkConfig, String> {
        NetworkConfig::parse(text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_flannels() {
        let c = parse(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
        assert_eq!((c.subnet_len, c.capacity()), (24, 255));
        assert_eq!(c.subnet_min, Ipv4Addr::new(10, 244, 1, 0));
        assert_eq!(c.subnet_max, Ipv4Addr::new(10, 244, 255, 0));
        assert_eq!(c.backend, Backend::default());
        assert_eq!((c.backend.vni, c.backend.port, c.backend.mtu), (1, 8472, 0));
        assert_eq!(parse(r#"{"Network":"10.5.0.0/24"}"#).unwrap().subnet_len, 26);
    }

    #[test]
    fn backend_options_match_without_regard_to_case_and_unknown_ones_are_ignored() {
        let c =
            parse(r#"{"Network":"10.5.0.0/16","x":1,"Backend":{"type":"vxlan","vni":7,"PORT":4789,"Learning":false}}"#).unwrap();
        assert_eq!((c.backend.vni, c.backend.port), (7, 4789));
    }

    #[test]
    fn backends_are_read_with_their_kind() {
        for (text, kind, direct) in [
            (r#"{"Type":"vxlan"}"#, BackendKind::Vxlan, false),
            (r#"{"Type":"VXLAN","directrouting":true}"#, BackendKind::Vxlan, true),
            (r#"{"Type":"vxlan","DirectRouting":false,"GBP":true}"#, BackendKind::Vxlan, false),
            (r#"{"Type":"host-gw"}"#, BackendKind::HostGw, false),
        ] {
            let c = parse(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{text}}}"#)).unwrap();
            assert_eq!((c.backend.kind, c.backend.direct_routing), (kind, direct), "{text}");
            assert_eq!(parse(&c.to_json()).unwrap(), c);
        }
    }

    #[test]
    fn ipv6_is_there_only_if_it_is_enabled_and_has_flannels_defaults() {
        let dual = r#"{"EnableIPv6":true,"Network":"10.244.0.0/16","IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}"#;
        let c = parse(dual).unwrap();
        let v6 = c.v6.clone().unwrap();
        assert_eq!((v6.subnet_len, v6.capacity()), (64, 65_535));
        assert_eq!(
            (v6.subnet_min.to_string().as_str(), v6.subnet_max.to_string().as_str()),
            ("fd00:10:244:1::", "fd00:10:244:ffff::")
        );
        assert_eq!(parse(&c.to_json()).unwrap(), c);
        assert_eq!(
            c.to_json(),
            r#"{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.255.0","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","IPv6SubnetLen":64,"IPv6SubnetMin":"fd00:10:244:1::","IPv6SubnetMax":"fd00:10:244:ffff::","Backend":{"Type":"vxlan","VNI":1,"Port":8472}}"#
        );
        for without in [dual.replace("true", "false"), dual.replace(r#""EnableIPv6":true,"#, "")] {
            assert_eq!(parse(&without).unwrap().v6, None);
        }
    }

    #[test]
    fn what_it_writes_it_reads() {
        let c = parse(r#"{"Network":"10.5.0.0/16","SubnetLen":26,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.9.64"}"#).unwrap();
        assert_eq!(parse(&c.to_json()).unwrap(), c);
        assert_eq!(c.subnets().count() as u32, c.capacity());
        assert!(c.subnets().all(|s| c.could_give(s)));
    }

    #[test]
    fn every_refusal_names_the_member() {
        for (text, member) in [
            ("", "JSON"),
            ("{}", "Network"),
            (r#"{"Network":"10.0.0.0"}"#, "Network"),
            (r#"{"Network":"10.0.0.0/29"}"#, "Network"),
            (r#"{"Network":"10.0.0.0/16","SubnetLen":17}"#, "SubnetLen"),
            (r#"{"Network":"10.0.0.0/16","SubnetLen":31}"#, "SubnetLen"),
            (r#"{"Network":"10.0.0.0/16","SubnetMin":"10.1.0.0"}"#, "SubnetMin"),
            (r#"{"Network":"10.0.0.0/16","SubnetMax":"10.0.3.1"}"#, "SubnetMax"),
            (r#"{"Network":"10.0.0.0/16","SubnetMin":"10.0.9.0","SubnetMax":"10.0.3.0"}"#, "SubnetMax"),
            (r#"{"Network":"10.0.0.0/16","Backend":{"Type":"wireguard"}}"#, "Backend"),
            (r#"{"Network":"10.0.0.0/16","Backend":{"DirectRouting":"yes"}}"#, "Backend"),
            (r#"{"Network":"10.0.0.0/16","Backend":{"VNI":16777216}}"#, "Backend"),
            (r#"{"Network":"10.0.0.0/16","EnableIPv4":false}"#, "EnableIPv4"),
            (r#"{"Network":"10.0.0.0/16","EnableIPv6":true}"#, "IPv6Network"),
            (r#"{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::"}"#, "IPv6Network"),
            (r#"{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/125"}"#, "IPv6Network"),
            (r#"{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/56","IPv6SubnetLen":57}"#, "IPv6SubnetLen"),
            (r#"{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/56","IPv6SubnetLen":127}"#, "IPv6SubnetLen"),
            (
                r#"{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/56","IPv6SubnetMin":"fd01::"}"#,
                "IPv6SubnetMin",
            ),
            (
                r#"{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/56","IPv6SubnetMax":"fd00::1"}"#,
                "IPv6SubnetMax",
            ),
        ] {
            let err = parse(text).unwrap_err();
            assert!(member == "JSON" || err.starts_with(member), "{text}: {err}");
        }
    }
}
