//! Ports of a host that lead to a container: `8080:80`, `127.0.0.1:53:53/udp`, `[2001:db8::1]:8000-8010:8000-8010`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::Proto;

/// A port of the host, or several in a row, and the container's ports behind them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Publish {
    /// The host's address that is listened on; none is every address of the host, of either family. `0.0.0.0` and `::` are every
    /// address of theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// The first port on the host.
    pub host_port: u16,
    /// The first port in the container.
    pub port: u16,
    /// How many ports in a row; at least 1, and neither end goes beyond 65535.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u16,
    /// The protocol.
    #[serde(default)]
    pub proto: Proto,
}

fn one() -> u16 {
    1
}

fn is_one(count: &u16) -> bool {
    *count == 1
}

impl Publish {
    /// Whether it is one that can be: also what came as JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.host_port == 0 || self.port == 0 || self.count == 0 {
            return Err(format!("publish {self}: ports and their number are at least 1"));
        }
        let last = |first: u16| u32::from(first) + u32::from(self.count) - 1;
        if last(self.host_port) > 65_535 || last(self.port) > 65_535 {
            return Err(format!("publish {self}: the range goes beyond port 65535"));
        }
        Ok(())
    }

    /// Whether both want one port of one address.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        let addresses = match (self.host, other.host) {
            (Some(one), Some(two)) => {
                let (one, two) = (one.to_canonical(), two.to_canonical());
                let any = one.is_unspecified() || two.is_unspecified();
                one == two || any && one.is_ipv4() == two.is_ipv4()
            }
            _ => true,
        };
        let end = |p: &Self| u32::from(p.host_port) + u32::from(p.count);
        let ports = u32::from(self.host_port) < end(other) && u32::from(other.host_port) < end(self);
        addresses && ports && self.proto == other.proto
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(IpAddr::V4(v4)) => write!(f, "{v4}:")?,
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:")?,
            None => {}
        }
        let range = |first: u16| match self.count {
            0 | 1 => first.to_string(),
            count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
        };
        write!(f, "{}:{}/{}", range(self.host_port), range(self.port), self.proto)
    }
}

/// Reads `[HOST:]PORT[-PORT]:PORT[-PORT][/tcp|udp]`, as Docker and podman have it; one port alone stands for both sides.
impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?}: {why}; it is [HOST:]PORT[-PORT][:PORT[-PORT]][/tcp|udp]");
        let (ports, proto) = match text.rsplit_once('/') {
            Some((ports, proto)) => (ports, proto.parse().map_err(|e: String| wrong(&e))?),
            None => (text, Proto::Tcp),
        };
        let (host, ports) = match ports.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once("]:").ok_or_else(|| wrong("no \"]:\" after the address"))?;
                let host: Ipv6Addr = host.parse().map_err(|_| wrong("what stands in brackets is no IPv6 address"))?;
                (Some(IpAddr::V6(host)), rest)
            }
            None => match ports.split(':').collect::<Vec<_>>().as_slice() {
                [host, _, _] => {
                    let host = host.parse().map_err(|_| wrong("the host is no IPv4 address"))?;
                    (Some(IpAddr::V4(host)), ports.split_once(':').map_or(ports, |(_, rest)| rest))
                }
                _ => (None, ports),
            },
        };
        let range = |text: &str| -> Result<(u16, u16), String> {
            let port = |text: &str| {
                let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
                number.filter(|port| *port != 0).ok_or_else(|| wrong("a port is a number from 1 to 65535"))
            };
            let (first, last): (u16, u16) = match text.split_once('-') {
                Some((first, last)) => (port(first)?, port(last)?),
                None => (port(text)?, port(text)?),
            };
            let more = last.checked_sub(first).ok_or_else(|| wrong("a range ends before it begins"))?;
            let count = more.checked_add(1).ok_or_else(|| wrong("a range has at most 65535 ports"))?;
            Ok((first, count))
        };
        let (outside, inside) = ports.split_once(':').unwrap_or((ports, ports));
        let ((host_port, count), (port, inner)) = (range(outside)?, range(inside)?);
        if count != inner {
            return Err(wrong("both ranges must have as many ports"));
        }
        Ok(Self { host, host_port, port, count, proto })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_read_and_written_back() {
        for (text, host, outside, inside, count, proto) in [
            ("8080:80", None, 8080, 80, 1, Proto::Tcp),
            ("80", None, 80, 80, 1, Proto::Tcp),
            ("53:53/udp", None, 53, 53, 1, Proto::Udp),
            ("192.0.2.1:8080:80", Some("192.0.2.1"), 8080, 80, 1, Proto::Tcp),
            ("[::1]:8000-8010:9000-9010/tcp", Some("::1"), 8000, 9000, 11, Proto::Tcp),
            ("1-65535:1-65535", None, 1, 1, 65535, Proto::Tcp),
        ] {
            let publish: Publish = text.parse().unwrap();
            let host = host.map(|h| h.parse().unwrap());
            assert_eq!(publish, Publish { host, host_port: outside, port: inside, count, proto }, "{text}");
            assert_eq!(publish.check(), Ok(()));
            assert_eq!(publish.to_string().parse::<Publish>().unwrap(), publish, "{publish}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        for text in [
            "",
            ":",
            "x:80",
            "0:80",
            "80:0",
            "70000:1",
            "8080:80/sctp",
            "1.2.3:80:80",
            "[::1]80:80",
            "[x]:1:1",
            "90-80:1-2",
            "1-2:1-3",
            "a:1.2.3.4:80:80",
            "-1:80",
            "+80:80",
            "80-:80-",
            "1:2:3:4",
            "80/tcp/udp",
        ] {
            let why = text.parse::<Publish>().unwrap_err();
            assert!(why.starts_with(&format!("{text:?}: ")), "{why}");
        }
        let far = Publish { host: None, host_port: 65_535, port: 1, count: 2, proto: Proto::Tcp };
        assert!(far.check().is_err() && Publish { count: 0, ..far.clone() }.check().is_err());
    }

    #[test]
    fn two_collide_on_one_port_of_one_address_only() {
        let p = |text: &str| text.parse::<Publish>().unwrap();
        for (one, two, collides) in [
            ("8080:80", "8080:81", true),
            ("8080:80", "127.0.0.1:8080:80", true),
            ("127.0.0.2:8080:80", "127.0.0.1:8080:80", false),
            ("8080:80", "8080:80/udp", false),
            ("8000-8080:1-81", "8080:80", true),
            ("8000-8079:1-80", "8080:80", false),
            ("0.0.0.0:8080:80", "127.0.0.1:8080:80", true),
            ("0.0.0.0:8080:80", "[::]:8080:80", false),
            ("[::]:8080:80", "8080:80", true),
        ] {
            assert_eq!(p(one).collides(&p(two)), collides, "{one} {two}");
            assert_eq!(p(two).collides(&p(one)), collides, "{two} {one}");
        }
    }
}
