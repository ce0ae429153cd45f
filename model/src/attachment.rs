//! What the tools that start containers say of a container, beside its network namespace.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{Check, CheckKind};
use crate::ids::{BadId, ServiceLabel, ServiceName};
use crate::record::{MAX_LABELS, Proto, check_labels, check_name};
use crate::service::port_name;

/// The most further names that one endpoint has.
pub const MAX_ALIASES: usize = 64;

/// The most ports of services that one endpoint is.
pub const MAX_INSTANCES: usize = 64;

/// By what a tool knows an attachment that it asked for. With the interface's name it is unique on a host: the same owner and
/// interface are the same attachment, whatever its endpoint's id became.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// Who asked.
    pub runtime: Runtime,
    /// The tool's own name of the network: a CNI list's name, a Docker network's id. Not necessarily a network of Weft's.
    pub network: String,
    /// The tool's id of the container, or of its end of the network (CNI: `CNI_CONTAINERID`; Docker: the endpoint's id).
    pub container: String,
}

/// What starts containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A runtime that calls CNI plugins.
    Cni,
    /// podman, by netavark's plugin protocol.
    Netavark,
    /// dockerd, by its remote drivers.
    Docker,
}

impl Runtime {
    /// As written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cni => "cni",
            Self::Netavark => "netavark",
            Self::Docker => "docker",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.runtime, self.network, self.container)
    }
}

/// What an endpoint is an instance of: one port of one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// The service.
    pub service: ServiceName,
    /// The port it serves there, in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The port's protocol.
    #[serde(default)]
    pub proto: Proto,
    /// The port's name; none is the only or main port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// Labels of this instance, beside those of the endpoint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What an endpoint is called and what it serves: what stands for it in the store follows from this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// What people call it. Where it is an instance of nothing, the name resolves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further names, which resolve whatever else is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<ServiceLabel>,
    /// All that it is an instance of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// Labels for selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How it is asked whether it is well; none leaves that to its services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

impl Description {
    /// Whether it may be written, as far as it can be said of it alone.
    ///
    /// # Errors
    /// Names what cannot be, and what it may be.
    pub fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.name {
            check_name(name)?;
            if self.instances.is_empty() {
                let label: Result<ServiceLabel, _> = name.parse();
                label.map_err(|e| format!("name: {e}; without a service it becomes a DNS name"))?;
            }
        }
        if self.aliases.len() > MAX_ALIASES {
            return Err(format!("{} aliases: at most {MAX_ALIASES}", self.aliases.len()));
        }
        if self.instances.len() > MAX_INSTANCES {
            return Err(format!("{} ports of services: at most {MAX_INSTANCES}", self.instances.len()));
        }
        check_labels(&self.labels)?;
        if let Some(check) = &self.check {
            check.validate()?;
            let port = self.instances.iter().find_map(|instance| instance.port);
            if check.kind != CheckKind::Command && check.port_of(port).is_none() {
                return Err(format!("check: {check} has no port to ask at: say one, as in {}:8080", check.kind));
            }
        }
        for (at, instance) in self.instances.iter().enumerate() {
            instance.check()?;
            let all = self.labels.len() + instance.labels.keys().filter(|k| !self.labels.contains_key(*k)).count();
            if all > MAX_LABELS {
                return Err(format!("service {}: {all} labels: at most {MAX_LABELS}", instance.service));
            }
            let namesake = |other: &&Instance| {
                let named = !instance.port_name.is_empty() && other.port_name == instance.port_name;
                named && other.service == instance.service && other.proto == instance.proto && other.port != instance.port
            };
            if self.instances.iter().take(at).any(|other| namesake(&other)) {
                return Err(format!("service {}: port name {:?} is there twice", instance.service, instance.port_name));
            }
        }
        Ok(())
    }
}

impl Instance {
    /// The only or main port of a service, or no port.
    #[must_use]
    pub fn new(service: ServiceName, port: Option<u16>, proto: Proto) -> Self {
        Self { service, port, proto, port_name: String::new(), labels: BTreeMap::new() }
    }

    fn check(&self) -> Result<(), String> {
        let of = |why: String| format!("service {}: {why}", self.service);
        if self.port == Some(0) {
            return Err(of("port 0 is no port".to_owned()));
        }
        if !self.port_name.is_empty() {
            port_name(&self.port_name).map_err(of)?;
        }
        check_labels(&self.labels).map_err(of)
    }
}

/// Reads `NAME[:[PORT-NAME=]PORT[/tcp|udp]]`.
impl FromStr for Instance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, place) = text.split_once(':').map_or((text, None), |(name, place)| (name, Some(place)));
        let service = name.parse().map_err(|e: BadId| e.to_string())?;
        let Some(place) = place else { return Ok(Self::new(service, None, Proto::default())) };
        let (named, place) = place.split_once('=').map_or((None, place), |(named, place)| (Some(named), place));
        let (port, proto) = match place.split_once('/') {
            Some((port, proto)) => (port, proto.parse()?),
            None => (place, Proto::default()),
        };
        let number = port.parse::<u16>().ok().filter(|n| *n != 0);
        let number = number.ok_or_else(|| format!("{port:?} is no port number (1 to 65535)"))?;
        let port_name = named.map(port_name).transpose()?.unwrap_or_default();
        Ok(Self { port_name, ..Self::new(service, Some(number), proto) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(json: &str) -> Result<(), String> {
        serde_json::from_str::<Description>(json).map_err(|e| e.to_string())?.check()
    }

    #[test]
    fn what_can_be_written_is_taken() {
        for good in [
            "{}",
            r#"{"name":"web","aliases":["www","w-2"]}"#,
            r#"{"name":"My web","instances":[{"service":"web"}]}"#,
            r#"{"instances":[{"service":"prod/web","port":80},{"service":"prod/web","port":9100,"port_name":"metrics"}]}"#,
            r#"{"instances":[{"service":"x"},{"service":"x","port":1}],"check":{"kind":"tcp"}}"#,
            r#"{"check":{"kind":"http","path":"/x"}}"#,
            r#"{"instances":[{"service":"d","port":53,"port_name":"dns"},{"service":"d","port":53,"port_name":"dns","proto":"udp"}]}"#,
        ] {
            assert_eq!(described(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_cannot_is_named() {
        let many = |what: &str, n: usize| format!(r#"{{"{what}":[{}]}}"#, vec![r#""x""#; n].join(","));
        let ports: Vec<String> = (1..=65).map(|n| format!(r#"{{"service":"x","port":{n}}}"#)).collect();
        for (bad, says) in [
            (r#"{"name":"My web"}"#.to_owned(), "name: service name \"My web\""),
            (r#"{"name":"a\u0007b","instances":[{"service":"x"}]}"#.to_owned(), "without control characters"),
            (r#"{"aliases":["a.b"]}"#.to_owned(), "a.b"),
            (r#"{"aliases":["tasks"]}"#.to_owned(), "is reserved"),
            (many("aliases", 65), "65 aliases: at most 64"),
            (format!(r#"{{"instances":[{}]}}"#, ports.join(",")), "65 ports of services: at most 64"),
            (r#"{"instances":[{"service":"x","port":0}]}"#.to_owned(), "service default/x: port 0 is no port"),
            (r#"{"instances":[{"service":"x","port":1,"port_name":"a/b"}]}"#.to_owned(), "port name \"a/b\""),
            (r#"{"instances":[{"service":"x","labels":{"a b":"c"}}]}"#.to_owned(), "label key"),
            (r#"{"check":{"kind":"tcp"}}"#.to_owned(), "has no port to ask at"),
            (r#"{"check":{"kind":"command"}}"#.to_owned(), "a command is missing"),
            (r#"{"instances":[{"service":"x","port":1}],"check":{"interval_ms":1}}"#.to_owned(), "100ms to 1h"),
            (
                r#"{"instances":[{"service":"x","port":1,"port_name":"p"},{"service":"x","port":2,"port_name":"p"}]}"#.to_owned(),
                "port name \"p\" is there twice",
            ),
        ] {
            let said = described(&bad).unwrap_err();
            assert!(said.contains(says), "{bad}: {said}");
        }
    }

    #[test]
    fn an_instance_is_a_service_and_perhaps_a_port() {
        let parse = |t: &str| t.parse::<Instance>().map(|i| (i.service.to_string(), i.port, i.proto));
        let (tcp, udp) = (Proto::Tcp, Proto::Udp);
        assert_eq!(parse("myapp"), Ok(("default/myapp".to_owned(), None, tcp)));
        assert_eq!(parse("prod/myapp:8080"), Ok(("prod/myapp".to_owned(), Some(8080), tcp)));
        assert_eq!(parse("prod/myapp:8080/tcp"), Ok(("prod/myapp".to_owned(), Some(8080), tcp)));
        assert_eq!(parse("prod/myapp:53/udp"), Ok(("prod/myapp".to_owned(), Some(53), udp)));
        for (bad, why) in [
            ("myapp:", "\"\" is no port number (1 to 65535)"),
            ("myapp:0", "\"0\" is no port number (1 to 65535)"),
            ("myapp:http", "\"http\" is no port number (1 to 65535)"),
            ("myapp:/udp", "\"\" is no port number (1 to 65535)"),
            ("myapp:53/sctp", "\"sctp\" is no protocol: tcp or udp"),
            (":80", "service name \"\": is empty"),
            ("My_App:80", "service name \"My_App\": may hold only a-z, 0-9 and '-'"),
        ] {
            assert_eq!(parse(bad), Err(why.to_owned()), "{bad}");
        }
    }
}
