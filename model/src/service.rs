//! A service: a virtual IP over a set of records, kept under `<weft-prefix>/services/<namespace>/<name>`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::ids::{NetworkName, ServiceName};
use crate::passive::Passive;
use crate::policy::{Affinity, Algorithm, Prefer};
use crate::record::{Proto, check_labels, shortened};
use crate::selector::{self, Requirement, Selector};

/// A service's value. Members that this version does not know are kept when it writes the value back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// What the virtual IP listens on, at least one unless headless.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Labels that its endpoints bear; with no [`Service::expressions`] either it has all records below its own name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// What else holds for its endpoints' labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<Requirement>,
    /// The name that its own stands for: DNS answers with an alias, and it has neither endpoints nor virtual IPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Its own labels, for whoever looks for services.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How one of its backends is chosen; none is at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Whether a client stays with its backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Which endpoints are asked before the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Prefer>,
    /// Below how many percent of healthy endpoints checks are not believed any more, 0 to 100; 0 is "when none would be
    /// left". See [`pool`](crate::pool).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub panic: u8,
    /// Its virtual IPs, IPv4 first; none for a headless service.
    #[serde(default)]
    pub vips: Vec<IpAddr>,
    /// The network it belongs to; none is the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// Whether addresses of hosts, loopback and the like may be backends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_hosts: bool,
    /// How its endpoints are asked whether they are well, those that have no check of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// When a host asks other backends first because connections to one fail; none is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<Passive>,
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
        service.check_meaning()?;
        Ok(service)
    }

    /// Whether it may be written: [`Service::parse`] would read it, and all that people give is bounded.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn check(&self) -> Result<(), String> {
        self.check_meaning()?;
        selector::check(&self.selector, &self.expressions).map_err(|e| format!("selector: {e}"))?;
        check_labels(&self.labels)
    }

    /// Whether it means anything. Labels that others have written count as they are.
    fn check_meaning(&self) -> Result<(), String> {
        check_ports(&self.ports)?;
        selector::check(&BTreeMap::new(), &self.expressions).map_err(|e| format!("expressions: {e}"))?;
        if self.panic > 100 {
            return Err(format!("panic: {} percent: 0 to 100", self.panic));
        }
        self.affinity.map_or(Ok(()), |affinity| affinity.check())?;
        self.check.as_ref().map_or(Ok(()), Check::validate_stored)?;
        self.passive.map_or(Ok(()), |passive| passive.check())?;
        let Some(name) = &self.external_name else { return Ok(()) };
        check_external_name(name)?;
        if !self.vips.is_empty() {
            return Err(format!("external_name {name}: a name that stands for another one has no virtual IP"));
        }
        if self.has_selector() {
            return Err(format!("external_name {name}: a name that stands for another one has no endpoints to select"));
        }
        Ok(())
    }

    /// Whether its endpoints are found by their labels, and not below its name.
    #[must_use]
    pub fn has_selector(&self) -> bool {
        !self.selector.is_empty() || !self.expressions.is_empty()
    }

    /// Both halves of its selector.
    #[must_use]
    pub fn whole_selector(&self) -> Selector {
        Selector { equal: self.selector.clone(), expressions: self.expressions.clone() }
    }

    /// Whether these labels are what its selector asks for.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        selector::matches(&self.selector, &self.expressions, labels)
    }

    /// What is kept with it and shown, but makes no difference to connections yet: a sentence each.
    #[must_use]
    pub fn not_applied(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(algorithm) = self.algorithm.filter(|a| *a != Algorithm::Random) {
            out.push(format!("algorithm {algorithm} is not yet applied by this version: backends are chosen at random"));
        }
        if let Some(affinity) = self.affinity {
            out.push(format!("affinity {affinity} is not yet applied by this version: each connection is chosen for by itself"));
        }
        if let Some(prefer) = self.prefer {
            out.push(format!("prefer {prefer} is not yet applied by this version: all hosts' endpoints are asked alike"));
        }
        out
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// Reads `[NAME=]P[:T][/tcp|udp|tcp+udp]`: one port, or one for each protocol.
///
/// # Errors
/// Names the text, and the form.
pub fn parse_ports(text: &str) -> Result<Vec<ServicePort>, String> {
    match text.strip_suffix("/tcp+udp") {
        Some(port) => [Proto::Tcp, Proto::Udp].into_iter().map(|proto| format!("{port}/{proto}").parse()).collect(),
        None => Ok(vec![text.parse()?]),
    }
}

/// Whether a name can stand for another one: a name of DNS, lower case and without its final dot, and no address.
///
/// # Errors
/// Names it, and what it may be.
pub fn check_external_name(name: &str) -> Result<(), String> {
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    let why = if name.parse::<IpAddr>().is_ok() {
        "is an address; netctl endpoint add puts one behind a service"
    } else if name.len() > 253 || !name.split('.').all(label) {
        "is no DNS name: labels of a-z, 0-9, '-' and '_', with dots between"
    } else {
        return Ok(());
    };
    Err(format!("external_name {:?} {why}", shortened(name)))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u8) -> bool {
    *number == 0
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
            // One number for both protocols is one port to people, so it needs no name either.
            let apart = port.name.is_empty() && other.port == port.port;
            if other.name == port.name && !apart && (other.proto == port.proto || port.name.is_empty()) {
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
            br#"{"ports":[{"name":"","port":80,"target":8080,"proto":"tcp"}],"vips":["10.112.0.7"],"color":"blue"}"#,
        )
        .unwrap();
        assert_eq!(s.vip().unwrap().to_string(), "10.112.0.7");
        assert!(s.to_json().contains(r#""color":"blue""#), "what another version keeps there stays");
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
        assert!(check_ports(&ports(&["53/udp", "53/tcp"])).is_ok(), "one number for both protocols is one port to people");
        assert!(check_ports(&ports(&["53/udp", "54/tcp"])).is_err());
    }

    #[test]
    fn one_text_may_mean_both_protocols() {
        let text = |ports: Vec<ServicePort>| ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(parse_ports("dns=53:5353/tcp+udp").unwrap()), ["dns=53:5353/tcp", "dns=53:5353/udp"]);
        assert_eq!(text(parse_ports("80").unwrap()), ["80/tcp"]);
        assert!(parse_ports("80/udp+tcp").is_err());
    }

    #[test]
    fn the_whole_of_it_is_read_and_written_back() {
        let text = r#"{"ports":[],"selector":{"tier":"front"},"expressions":[{"key":"old","operator":"DoesNotExist"}],"labels":{"team":"a"},"algorithm":"maglev","affinity":{"kind":"client","timeout_s":60},"prefer":"zone","panic":50,"vips":[],"passive":{"failures":3,"within_ms":10000,"for_ms":1500}}"#;
        let service = Service::parse(text.as_bytes()).unwrap();
        assert_eq!(service.to_json(), text);
        assert_eq!(service.whole_selector().to_string(), "tier=front,!old");
        assert_eq!(service.not_applied().len(), 3);
        assert_eq!(service.check(), Ok(()));
        let minimal = Service::parse(b"{}").unwrap();
        assert_eq!((minimal.to_json().as_str(), minimal.not_applied().len()), (r#"{"ports":[],"vips":[]}"#, 0));
    }

    #[test]
    fn an_external_name_stands_alone_and_is_one() {
        let of = |rest: &str| Service::parse(format!(r#"{{"external_name":"db.example.com"{rest}}}"#).as_bytes());
        assert_eq!(of("").unwrap().external_name.as_deref(), Some("db.example.com"));
        assert!(of(r#","vips":["10.112.0.7"]"#).unwrap_err().contains("no virtual IP"));
        assert!(of(r#","selector":{"a":"b"}"#).unwrap_err().contains("no endpoints to select"));
        for bad in ["", ".", "a..b", "10.0.0.1", "fd00::1", "Db", "a b", "db.example.com.", &"a.".repeat(127), &"x".repeat(64)] {
            assert!(check_external_name(bad).is_err(), "{bad}");
        }
        assert!(check_external_name("_x.a-b.c").is_ok());
    }

    #[test]
    fn what_means_nothing_is_refused_wherever_it_comes_from() {
        for (bad, why) in [
            (r#"{"panic":101}"#, "0 to 100"),
            (r#"{"passive":{"failures":0}}"#, "1 to 100"),
            (r#"{"passive":{"for_ms":99}}"#, "100ms to 1h"),
            (r#"{"affinity":{"kind":"client","timeout_s":0}}"#, "1 to 86400"),
            (r#"{"algorithm":"best"}"#, "best"),
            (r#"{"expressions":[{"key":"a","operator":"In"}]}"#, "at least one value"),
            (r#"{"expressions":[{"key":"a b","operator":"Exists"}]}"#, "label key"),
        ] {
            let said = Service::parse(bad.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
        let odd = Service::parse(br#"{"selector":{"a b":"c"}}"#).unwrap();
        assert!(odd.check().is_err(), "others may have written it, we do not");
    }
}
