//! A SkyDNS record: the JSON that SkyDNS, CoreDNS's etcd plugin, external-dns and registrator read and write, with one
//! member of ours.
//!
//! Members that we do not know are ignored, `null` is "not set", and a value that does not parse hurts only itself.
//! Source: SkyDNS `msg/service.go`, CoreDNS `plugin/etcd/msg`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{EndpointId, NetworkName, NodeName};

/// The priority of a record that names none (SkyDNS).
pub const DEFAULT_PRIORITY: u16 = 10;

/// A record's value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// An address, or a name that stands for others. Empty in records that carry only text.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Port for SRV; 0 is none.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_default")]
    pub port: u16,
    /// SRV priority, MX preference; 0 is "not set", see [`Record::priority_or_default`].
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_default")]
    pub priority: u16,
    /// SRV weight relative to its siblings; 0 counts as 100.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_default")]
    pub weight: u32,
    /// TXT.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Whether it is an MX as well.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_default")]
    pub mail: bool,
    /// Time to live in seconds; 0 is "not set".
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Labels to cut from the left of SRV targets made of this record's key.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_default")]
    pub targetstrip: u32,
    /// Records of another group are left out of an answer (dns.md section 6).
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Labels that other writers put at top level.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What Weft adds.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Option::is_none")]
    pub weft: Option<WeftRecord>,
}

/// Weft's own member of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeftRecord {
    /// The endpoint that this record is a part of: the second last label of the key.
    pub id: EndpointId,
    /// What the person who attached it calls it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The host that writes the record and answers for it; none for an endpoint outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Whether it can be a backend.
    #[serde(default)]
    pub kind: Kind,
    /// Whether it takes traffic.
    #[serde(default)]
    pub state: State,
    /// The port's name; none is the only or main port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// The port's protocol.
    #[serde(default)]
    pub proto: Proto,
    /// Labels for selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The network that the address is in; none is the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
}

/// What a record stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An instance of a service: may be a backend.
    #[default]
    Service,
    /// A name only: resolves, and is never a backend.
    Name,
}

/// Whether an endpoint takes traffic, as its records say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not yet.
    Starting,
    /// Yes.
    #[default]
    Up,
    /// What it has, nothing new while others are up.
    Draining,
    /// No.
    Down,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Proto {
    /// IANA protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// As written in ports and SRV names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("{text:?} is no protocol: tcp or udp")),
        }
    }
}

impl Record {
    /// Reads a record's value.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        crate::parse_object(value, "no record")
    }

    /// The value as SkyDNS reads it.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only maps with other than string keys can fail here.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The address, if the host is one. An IPv4-mapped IPv6 address counts as IPv4, as in SkyDNS.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse::<IpAddr>().ok().map(|a| a.to_canonical())
    }

    /// The host, if it is a name: lower case, with its final dot.
    #[must_use]
    pub fn host_name(&self) -> Option<String> {
        let bare = self.host.strip_suffix('.').unwrap_or(&self.host);
        (!bare.is_empty() && self.address().is_none()).then(|| format!("{}.", bare.to_ascii_lowercase()))
    }

    /// SRV priority or MX preference.
    #[must_use]
    pub fn priority_or_default(&self) -> u16 {
        if self.priority == 0 { DEFAULT_PRIORITY } else { self.priority }
    }

    /// Labels for selectors, ours before those at top level.
    pub fn all_labels(&self) -> impl Iterator<Item = (&String, &String)> {
        self.labels.iter().chain(self.weft.iter().flat_map(|w| &w.labels))
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_is_read() {
        for (text, host, port) in [
            (r#"{"host":"10.0.0.1","port":80}"#, "10.0.0.1", 80),
            (r#"{"host":"DB.Example.com","ttl":null,"priority":20,"owner":"x","x":[1]}"#, "DB.Example.com", 0),
            (r#"{"text":"heritage=external-dns","targetstrip":1}"#, "", 0),
            ("{}", "", 0),
        ] {
            let r = Record::parse(text.as_bytes()).unwrap();
            assert_eq!((r.host.as_str(), r.port), (host, port));
        }
        let r = Record::parse(br#"{"host":"::ffff:10.0.0.1"}"#).unwrap();
        assert_eq!(r.address().unwrap().to_string(), "10.0.0.1");
        assert_eq!(Record::parse(br#"{"host":"A.b"}"#).unwrap().host_name().unwrap(), "a.b.");
    }

    #[test]
    fn a_wrong_type_is_an_error_with_its_place() {
        for text in [r#"{"host":"h","port":"80"}"#, r#"{"port":70000}"#, "[]", "", r#"{"host":"x""#, r#"{"weft":{"id":"a b"}}"#] {
            let err = Record::parse(text.as_bytes()).unwrap_err();
            assert!(err.contains("column") || err.contains("object"), "{text}: {err}");
        }
    }

    #[test]
    fn our_own_records_survive_a_round_trip() {
        let record = Record {
            host: "10.244.3.9".into(),
            port: 8080,
            targetstrip: 1,
            weft: Some(WeftRecord {
                id: "web-1".parse().unwrap(),
                name: "web".into(),
                node: Some("h1".parse().unwrap()),
                kind: Kind::Service,
                state: State::Up,
                port_name: String::new(),
                proto: Proto::Tcp,
                labels: [("tier".to_owned(), "front".to_owned())].into(),
                network: None,
            }),
            ..Record::default()
        };
        assert_eq!(Record::parse(record.to_json().as_bytes()).unwrap(), record);
    }
}
