//! Settings that must be equal on all hosts: `<weft-prefix>/config`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The settings. Members that this version does not know are kept when it writes the value back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Where virtual IPs are taken from.
    #[serde(default = "default_service_cidrs")]
    pub service_cidrs: Vec<IpNet>,
    /// The domain that names are served under, lower case, with its final dot.
    #[serde(default = "default_dns_domain")]
    pub dns_domain: String,
    /// What other versions keep here.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// `10.112.0.0/16` and `fd57:6566:7400::/112`.
#[must_use]
pub fn default_service_cidrs() -> Vec<IpNet> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let v4 = IpNet::new(IpAddr::V4(Ipv4Addr::new(10, 112, 0, 0)), 16);
    let v6 = IpNet::new(IpAddr::V6(Ipv6Addr::new(0xfd57, 0x6566, 0x7400, 0, 0, 0, 0, 0)), 112);
    v4.into_iter().chain(v6).collect()
}

/// SkyDNS's own default.
#[must_use]
pub fn default_dns_domain() -> String {
    "skydns.local.".to_owned()
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { service_cidrs: default_service_cidrs(), dns_domain: default_dns_domain(), other: serde_json::Map::new() }
    }
}

impl ClusterConfig {
    /// Reads and checks the value.
    ///
    /// # Errors
    /// Names the member that cannot be, and why.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        let mut config: Self = crate::parse_object(value, "no cluster configuration")?;
        config.check()?;
        Ok(config)
    }

    /// Checks the members and brings them into their one form.
    ///
    /// # Errors
    /// Names the member that cannot be, and why.
    pub fn check(&mut self) -> Result<(), String> {
        for cidr in &mut self.service_cidrs {
            *cidr = cidr.trunc();
            let (IpNet::V4(_) | IpNet::V6(_)) = cidr;
            let spare = cidr.max_prefix_len() - cidr.prefix_len();
            if spare < 2 {
                return Err(format!(
                    "service_cidrs: {cidr} has no room for virtual IPs; the longest prefix is /{}",
                    cidr.max_prefix_len() - 2
                ));
            }
        }
        let mut seen: Vec<IpNet> = Vec::new();
        for cidr in &self.service_cidrs {
            if let Some(other) = seen.iter().find(|o| o.contains(cidr) || cidr.contains(*o)) {
                return Err(format!("service_cidrs: {cidr} and {other} overlap"));
            }
            seen.push(*cidr);
        }
        self.dns_domain = normal_domain(&self.dns_domain).map_err(|why| format!("dns_domain: {why}"))?;
        Ok(())
    }

    /// The domain's labels from the root downwards: `local`, `skydns`.
    pub fn domain_labels(&self) -> impl Iterator<Item = &str> {
        self.dns_domain.trim_end_matches('.').rsplit('.').filter(|l| !l.is_empty())
    }
}

/// The one form of a domain: lower case, final dot.
fn normal_domain(text: &str) -> Result<String, String> {
    let bare = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label_ok = |l: &str| {
        (1..=crate::ids::MAX_LABEL).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if bare.len() > 253 || !bare.split('.').all(label_ok) {
        return Err(format!("{text:?} is no domain name"));
    }
    Ok(bare + ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_other_versions_survive() {
        let config = ClusterConfig::parse(br#"{"dns_domain":"Example.COM","node_ports":"30000-32767"}"#).unwrap();
        assert_eq!(config.dns_domain, "example.com.");
        assert_eq!(config.domain_labels().collect::<Vec<_>>(), ["com", "example"]);
        assert!(serde_json::to_string(&config).unwrap().contains("node_ports"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, part) in [
            (r#"{"service_cidrs":["10.0.0.0/31"]}"#, "service_cidrs"),
            (r#"{"service_cidrs":["10.0.0.0/16","10.0.3.0/24"]}"#, "overlap"),
            (r#"{"dns_domain":"a..b"}"#, "dns_domain"),
            (r#"{"dns_domain":""}"#, "dns_domain"),
        ] {
            let err = ClusterConfig::parse(text.as_bytes()).unwrap_err();
            assert!(err.contains(part), "{text}: {err}");
        }
        assert_eq!(ClusterConfig::parse(b"{}").unwrap(), ClusterConfig::default());
    }
}
