//! The IPv6 network beside the IPv4 one: the same rules with flannel's limits for the longer addresses.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use serde::Serialize;

use super::{BadConfig, bad};

/// The range that hosts' IPv6 subnets are taken from, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V6Range {
    /// The whole range.
    pub network: Ipv6Net,
    /// The prefix length of a host's subnet.
    pub subnet_len: u8,
    /// The first subnet that may be given.
    pub subnet_min: Ipv6Addr,
    /// The last subnet that may be given.
    pub subnet_max: Ipv6Addr,
}

impl V6Range {
    /// A range with flannel's defaults: `subnet_len` 0, `min` and `max` `None` are "not given".
    ///
    /// # Errors
    /// Names the member that cannot be, and why.
    pub fn new(network: Ipv6Net, subnet_len: u8, min: Option<Ipv6Addr>, max: Option<Ipv6Addr>) -> Result<Self, BadConfig> {
        let len = network.prefix_len();
        if len > 124 {
            return Err(bad("IPv6Network", format!("{network} is too small: /124 is the longest prefix")));
        }
        let subnet_len = match subnet_len {
            0 if len <= 62 => 64,
            0 => len + 2,
            given if given < len + 2 || given > 126 => {
                return Err(bad("IPv6SubnetLen", format!("{given} is outside {} to 126 for {network}", len + 2)));
            }
            given => given,
        };
        let size = 1u128 << (128 - subnet_len);
        let first = u128::from(network.network());
        let last = u128::from(network.broadcast()) - (size - 1);
        let check = |member, given: Option<Ipv6Addr>, default: u128| {
            let at = given.map_or(default, u128::from);
            let text = Ipv6Addr::from(at);
            if at < first || at > last {
                return Err(bad(member, format!("{text} is not a subnet of {network}")));
            }
            if !at.is_multiple_of(size) {
                return Err(bad(member, format!("{text} is not on a /{subnet_len} border")));
            }
            Ok(text)
        };
        // As for IPv4, the first block is never given away.
        let subnet_min = check("IPv6SubnetMin", min, first + size)?;
        let subnet_max = check("IPv6SubnetMax", max, last)?;
        if subnet_min > subnet_max {
            return Err(bad("IPv6SubnetMax", format!("{subnet_max} is below IPv6SubnetMin {subnet_min}")));
        }
        Ok(Self { network, subnet_len, subnet_min, subnet_max })
    }

    /// How many subnets there are to give.
    #[must_use]
    pub fn capacity(&self) -> u128 {
        (u128::from(self.subnet_max) - u128::from(self.subnet_min)) / self.subnet_size() + 1
    }

    /// Addresses in one subnet.
    #[must_use]
    pub fn subnet_size(&self) -> u128 {
        1 << (128 - self.subnet_len)
    }

    /// The subnet that is given as number `n`, counted from 0.
    #[must_use]
    pub fn nth(&self, n: u128) -> Option<Ipv6Net> {
        if n >= self.capacity() {
            return None;
        }
        let at = u128::from(self.subnet_min) + n * self.subnet_size();
        Ipv6Net::new(Ipv6Addr::from(at), self.subnet_len).ok()
    }

    /// All subnets that may be given, lowest first. There may be 2^60 and more: never to be collected.
    pub fn subnets(&self) -> impl Iterator<Item = Ipv6Net> + '_ {
        (0..self.capacity()).map_while(|n| self.nth(n))
    }

    /// Whether `subnet` is one that this configuration could give.
    #[must_use]
    pub fn could_give(&self, subnet: Ipv6Net) -> bool {
        subnet.prefix_len() == self.subnet_len && (self.subnet_min..=self.subnet_max).contains(&subnet.network())
    }

    /// As it is written.
    pub(super) fn out(&self) -> Out<'_> {
        Out {
            enable: true,
            network: &self.network,
            subnet_len: self.subnet_len,
            subnet_min: &self.subnet_min,
            subnet_max: &self.subnet_max,
        }
    }
}

/// The members' JSON.
#[derive(Serialize)]
pub(super) struct Out<'a> {
    #[serde(rename = "EnableIPv6")]
    enable: bool,
    #[serde(rename = "IPv6Network")]
    network: &'a Ipv6Net,
    #[serde(rename = "IPv6SubnetLen")]
    subnet_len: u8,
    #[serde(rename = "IPv6SubnetMin")]
    subnet_min: &'a Ipv6Addr,
    #[serde(rename = "IPv6SubnetMax")]
    subnet_max: &'a Ipv6Addr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(network: &str, len: u8) -> V6Range {
        V6Range::new(network.parse().unwrap(), len, None, None).unwrap()
    }

    #[test]
    fn subnets_are_counted_without_being_made() {
        let small = range("fd00::/120", 122);
        let all: Vec<String> = small.subnets().map(|s| s.to_string()).collect();
        assert_eq!(all, ["fd00::40/122", "fd00::80/122", "fd00::c0/122"]);
        assert_eq!((small.capacity(), small.nth(3)), (3, None));
        assert!(small.subnets().all(|s| small.could_give(s)) && !small.could_give("fd00::/122".parse().unwrap()));
        let huge = range("::/0", 126);
        assert_eq!(huge.capacity(), (1 << 126) - 1);
        assert_eq!(huge.subnets().nth(2).unwrap().to_string(), "::c/126");
        assert_eq!(huge.nth((1 << 126) - 2).unwrap().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126");
    }

    #[test]
    fn defaults_follow_the_networks_length() {
        assert_eq!(range("fd00::/62", 0).subnet_len, 64);
        assert_eq!(range("fd00::/63", 0).subnet_len, 65);
        assert_eq!(range("fd00::/124", 0).subnet_len, 126);
    }
}
