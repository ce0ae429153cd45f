//! Ethernet addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"))]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address made of five random bytes, as flannel gives its VTEPs.
    #[must_use]
    pub fn local_from(random: [u8; 6]) -> Self {
        let mut bytes = random;
        bytes[0] = (bytes[0] & 0xfe) | 0x02;
        Self(bytes)
    }

    /// The address of a container's interface, made from its IPv4 address: the same address gives the same MAC, so that
    /// neighbour caches elsewhere stay right when a container is restarted with its old address.
    #[must_use]
    pub fn of_container(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x0a, 0x58, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Ethernet address: six bytes in hexadecimal with ':' between")]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| matches!(p.len(), 1 | 2)).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let mac: Mac = "2e:ce:51:c6:8f:1b".parse().unwrap();
        assert_eq!(mac.to_string(), "2e:ce:51:c6:8f:1b");
        for bad in ["", "2e:ce:51:c6:8f", "2e:ce:51:c6:8f:1b:00", "zz:ce:51:c6:8f:1b", "2ec:e:51:c6:8f:1b", "+1:00:00:00:00:00:0"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn made_up_addresses_are_unicast_and_local() {
        assert_eq!(Mac::local_from([0xff; 6]).0[0] & 3, 2);
        assert_eq!(Mac::of_container(Ipv4Addr::new(10, 244, 3, 9)).to_string(), "0a:58:0a:f4:03:09");
    }
}
