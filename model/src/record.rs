//! A SkyDNS record: the JSON that SkyDNS, CoreDNS's etcd plugin, external-dns and registrator read and write, with one
//! member of ours.
//!
//! Members that we do not know are ignored, `null` is "not set", and a value that does not parse hurts only itself.
//! Source: SkyDNS `msg/service.go`, CoreDNS `plugin/etcd/msg`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{EndpointId, NetworkName, NodeName};
use crate::keys::RecordTree;

/// The priority of a record that names none (SkyDNS).
pub const DEFAULT_PRIORITY: u16 = 10;

/// The most labels that one endpoint bears, or one selector asks for.
pub const MAX_LABELS: usize = 64;

/// The longest key of a label, in bytes.
pub const MAX_LABEL_KEY: usize = 63;

/// The longest value of a label, in bytes.
pub const MAX_LABEL_VALUE: usize = 255;

/// The longest name that a person gives an endpoint, in bytes: that of a DNS name.
pub const MAX_NAME: usize = 253;

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
    /// Whether it is down because its checks fail, and for no other reason: a service of which nothing else is left
    /// sends there all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unhealthy: bool,
    /// Whether it stands for election: who leads its name is then decided by a key that one of the candidates holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub candidate: bool,
    /// When its host first registered it, in milliseconds since 1970: its age, which outlives leases; 0 is unknown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub born: u64,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An instance of a service: may be a backend.
    #[default]
    Service,
    /// A name only: resolves, and is never a backend.
    Name,
}

/// Whether an endpoint takes traffic, as its records say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
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

    /// The tree that it belongs to: what is starting or down is kept out of what CoreDNS serves as well.
    #[must_use]
    pub fn tree(&self) -> RecordTree {
        match self.weft.as_ref().map(|weft| weft.state) {
            Some(State::Starting | State::Down) => RecordTree::Down,
            Some(State::Up | State::Draining) | None => RecordTree::Served,
        }
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

/// Whether these labels may be written: what people and programs give is bounded where it comes in, so that no record is larger
/// than the store takes. Labels that others have written are read as they are.
///
/// # Errors
/// Names the label, and what it may be.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        return Err(format!("{} labels: at most {MAX_LABELS}", labels.len()));
    }
    for (key, value) in labels {
        let fits = (1..=MAX_LABEL_KEY).contains(&key.len());
        if !fits || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"./_-".contains(&b)) {
            let key = shortened(key);
            return Err(format!("label key {key:?}: 1 to {MAX_LABEL_KEY} of A-Z, a-z, 0-9, '.', '/', '_' and '-'"));
        }
        if value.len() > MAX_LABEL_VALUE || value.chars().any(char::is_control) {
            let value = shortened(value);
            return Err(format!("label {key}={value:?}: at most {MAX_LABEL_VALUE} bytes of text, without control characters"));
        }
    }
    Ok(())
}

/// Whether a person's name for an endpoint may be written, as [`check_labels`].
///
/// # Errors
/// Names it, and what it may be.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("name {:?}: at most {MAX_NAME} bytes of text, without control characters", shortened(name)));
    }
    Ok(())
}

/// As much of a text as an error message needs.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().nth(SHOWN).is_none() { text.to_owned() } else { text.chars().take(SHOWN).chain(['…']).collect() }
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
    fn labels_are_bounded_in_number_length_and_characters() {
        let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let (key, value) = ("k".repeat(63), "é".repeat(127));
        for good in [labels("tier", ""), labels("example.com/a_b-C9", "front end"), labels(&key, &value), BTreeMap::new()] {
            assert_eq!(check_labels(&good), Ok(()));
        }
        let (longer_key, longer_value) = ("k".repeat(64), "v".repeat(1 << 20));
        for bad in [labels("", "v"), labels("a b", "v"), labels("ü", "v"), labels("a=", "v"), labels(&longer_key, "v")] {
            let why = check_labels(&bad).unwrap_err();
            assert!(why.starts_with("label key ") && why.len() < 250, "{why}");
        }
        for bad in [labels("a", "b\n"), labels("a", "\u{9b}"), labels("a", &longer_value)] {
            let why = check_labels(&bad).unwrap_err();
            assert!(why.starts_with("label a=") && why.len() < 250, "{why}");
        }
        let many = |n: usize| (0..n).map(|n| (format!("k{n}"), String::new())).collect::<BTreeMap<_, _>>();
        assert_eq!(check_labels(&many(64)), Ok(()));
        assert_eq!(check_labels(&many(65)), Err("65 labels: at most 64".to_owned()));
        assert_eq!((check_name("web 1"), check_name(&"n".repeat(253))), (Ok(()), Ok(())));
        assert!(check_name(&"n".repeat(254)).is_err() && check_name("a\tb").is_err());
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
                unhealthy: false,
                candidate: false,
                born: 0,
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
