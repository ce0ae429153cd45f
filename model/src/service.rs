//! A service: a virtual IP over a set of records, kept under `<weft-prefix>/services/<namespace>/<name>`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{NetworkName, ServiceName};
use crate::record::Proto;

/// A service's value. Members that this version does not know are kept when it writes the value back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// What the virtual IP listens on, at least one unless headless.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Labels that its endpoints bear; empty means all records below its own name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Its virtual IPs, IPv4 first; none for a headless service.
    #[serde(default)]
    pub vips: Vec<IpAddr>,
    /// The network it belongs to; none is the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// Whether addresses of hosts, loopback and the like may be backends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_hosts: bool,
    /// What other versions keep here.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Service {
    /// Reads and checks a service's value.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        let service: Self = crate::parse_object(value, "no service")?;
        check_ports(&service.ports)?;
        Ok(service)
    }

    /// The value as it is stored.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only maps with other than string keys can fail here.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Its first IPv4 address, the one that `service show` calls the VIP.
    #[must_use]
    pub fn vip(&self) -> Option<IpAddr> {
        self.vips.iter().find(|v| v.is_ipv4()).or(self.vips.first()).copied()
    }
}

/// The value of `<weft-prefix>/vips/<address>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipOwner {
    /// Whose it is.
    pub service: ServiceName,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name, for SRV (`_name._tcp.service`) and for people; may be empty if there is one port only.
    #[serde(default)]
    pub name: String,
    /// The port of the virtual IP.
    pub port: u16,
    /// The backends' port; none is the record's own, else [`ServicePort::port`].
    #[serde(default)]
    pub target: Option<Target>,
    /// The protocol.
    #[serde(default)]
    pub proto: Proto,
}

/// A backend's port, by number or by the name its record gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for ServicePort {
    /// `[NAME=]P[:T][/udp]`, which parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{}=", self.name)?;
        }
        self.port.fmt(f)?;
        if let Some(target) = &self.target {
            write!(f, ":{target}")?;
        }
        write!(f, "/{}", self.proto)
    }
}

impl FromStr for ServicePort {
    type Err = String;

    /// `[NAME=]P[:T][/tcp|udp]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, proto) = match text.rsplit_once('/') {
            Some((rest, proto)) => (rest, proto.parse::<Proto>()?),
            None => (text, Proto::Tcp),
        };
        let (name, rest) = rest.split_once('=').unwrap_or(("", rest));
        let (port, target) = match rest.split_once(':') {
            Some((port, target)) => (port, Some(target)),
            None => (rest, None),
        };
        let number = |t: &str| {
            t.parse::<u16>().ok().filter(|n| *n != 0).ok_or_else(|| {
                format!("port {text:?}: {t:?} is no port number (1 to 65535); the form is [NAME=]PORT[:TARGET][/tcp|udp]")
            })
        };
        let target = match target {
            None => None,
            Some(t) if t.bytes().all(|b| b.is_ascii_digit()) => Some(Target::Number(number(t)?)),
            Some(t) => Some(Target::Name(port_name(t)?)),
        };
        let name = if name.is_empty() { String::new() } else { port_name(name)? };
        Ok(Self { name, port: number(port)?, target, proto })
    }
}

/// A port name is a service name of RFC 6335: it becomes `_name` in SRV names, and a part of records' keys.
///
/// # Errors
/// Names it, and what it may be.
pub fn port_name(text: &str) -> Result<String, String> {
    let ok = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-');
    if ok { Ok(text.to_owned()) } else { Err(format!("port name {text:?}: 1 to 15 of a-z, 0-9 and '-', with a letter")) }
}

/// Whether these ports have names that can be written, and can stand side by side.
///
/// # Errors
/// Names the ports that collide, that need names, or whose names cannot be.
pub fn check_ports(ports: &[ServicePort]) -> Result<(), String> {
    for (i, port) in ports.iter().enumerate() {
        if port.port == 0 {
            return Err("ports: port 0 cannot be listened on".to_owned());
        }
        let target = port.target.as_ref().and_then(|t| if let Target::Name(name) = t { Some(name.as_str()) } else { None });
        for name in Some(port.name.as_str()).filter(|n| !n.is_empty()).into_iter().chain(target) {
            port_name(name).map_err(|e| format!("ports: {e}"))?;
        }
        for other in ports.iter().take(i) {
            if (other.port, other.proto) == (port.port, port.proto) {
                return Err(format!("ports: {}/{} is there twice", port.port, port.proto));
            }
            if other.name == port.name && (other.proto == port.proto || port.name.is_empty()) {
                let why =
                    if port.name.is_empty() { "of several ports each needs a name, as in http=80" } else { "is there twice" };
                return Err(format!("ports: name {:?}: {why}", port.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_parse_and_print() {
        for (text, name, port, target, proto) in [
            ("80", "", 80, None, Proto::Tcp),
            ("80:8080", "", 80, Some(Target::Number(8080)), Proto::Tcp),
            ("dns=53:5353/udp", "dns", 53, Some(Target::Number(5353)), Proto::Udp),
            ("http=80:web", "http", 80, Some(Target::Name("web".into())), Proto::Tcp),
        ] {
            let p: ServicePort = text.parse().unwrap();
            assert_eq!((p.name.as_str(), p.port, &p.target, p.proto), (name, port, &target, proto));
            assert_eq!(p.to_string().parse::<ServicePort>().unwrap(), p);
        }
        for bad in ["", "x", "0", "65536", "80:0", "80:", "80/sctp", "=80/", "A=80", "80:-x", "http=80=90"] {
            assert!(bad.parse::<ServicePort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_stored_form_is_the_documented_one() {
        let s = Service::parse(
            br#"{"ports":[{"name":"","port":80,"target":8080,"proto":"tcp"}],"vips":["10.112.0.7"],"algorithm":"maglev"}"#,
        )
        .unwrap();
        assert_eq!(s.vip().unwrap().to_string(), "10.112.0.7");
        assert!(s.to_json().contains(r#""algorithm":"maglev""#));
        assert!(s.to_json().contains(r#"{"name":"","port":80,"target":8080,"proto":"tcp"}"#));
    }

    #[test]
    fn names_that_come_as_json_are_held_to_the_same_rule() {
        for bad in [r#"{"name":"a/b","port":80}"#, r#"{"name":"HTTP","port":80}"#, r#"{"port":80,"target":"x/y"}"#] {
            let said = Service::parse(format!(r#"{{"ports":[{bad}]}}"#).as_bytes()).unwrap_err();
            assert!(said.contains("port name"), "{bad}: {said}");
        }
        assert!(Service::parse(br#"{"ports":[{"name":"http","port":80,"target":"web"}]}"#).is_ok());
    }

    #[test]
    fn colliding_ports_are_refused() {
        let ports = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<ServicePort>>();
        assert!(check_ports(&ports(&["a=80", "b=80"])).is_err());
        assert!(check_ports(&ports(&["80", "81"])).is_err());
        assert!(check_ports(&ports(&["a=80", "b=81"])).is_ok());
        assert!(check_ports(&ports(&["dns=53/udp", "dns=53/tcp"])).is_ok());
    }
}
