//! Standard input: the network configuration, with what the runtime put into it.
//!
//! Members that nobody here knows are let be: libcni leaves `capabilities` in, podman adds `args.podman_labels`. Members that
//! are known and have another type than they should are a fault of decoding; what they ask for is judged in `wish`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_api::Kept;

use crate::env::{Verb, check_id};
use crate::error::{CONFIG, DECODING, Fault, INCOMPATIBLE, NEWEST, UNSUPPORTED};

/// Versions of the specification, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1.
    V031,
    /// 0.4.0: `CHECK`.
    V040,
    /// 1.0.0: no `version` with an address any more.
    V100,
    /// 1.1.0: `STATUS`, `GC`, and the MTU in the result.
    V110,
}

impl Version {
    /// All that are spoken.
    pub const ALL: [Self; 4] = [Self::V031, Self::V040, Self::V100, Self::V110];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => NEWEST,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How long is waited for an agent that is not ready, unless the configuration says.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest wait that can be asked for, seconds: runtimes give up before.
const MOST_PATIENCE: u64 = 3600;

/// The `dns` of a configuration and of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers, by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of `resolv.conf`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// `runtimeConfig.portMappings[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMapping {
    /// The port on the host; 0 is none.
    pub host_port: i64,
    /// The port in the container.
    pub container_port: i64,
    /// `tcp` or `udp`.
    pub protocol: Option<String>,
    /// The host's address; none or empty is all.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
}

/// `runtimeConfig`: what a runtime fills in for the capabilities that the configuration declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Ports of the host.
    pub port_mappings: Option<Vec<PortMapping>>,
    /// Addresses, with or without a prefix length.
    pub ips: Option<Vec<String>>,
    /// The Ethernet address.
    pub mac: Option<String>,
    /// Further names, by network.
    pub aliases: Option<Aliases>,
    /// Name servers and domains of this container.
    pub dns: Option<RuntimeDns>,
}

/// `runtimeConfig.aliases`: podman writes a map, by network; others a list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Aliases {
    /// By network.
    ByNetwork(BTreeMap<String, Vec<String>>),
    /// Of this one.
    All(Vec<String>),
}

/// `runtimeConfig.dns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    /// Name servers.
    pub servers: Option<Vec<String>>,
    /// Domains to search.
    pub searches: Option<Vec<String>>,
    /// Options of `resolv.conf`.
    pub options: Option<Vec<String>>,
}

/// `args.cni`, by convention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConventionArgs {
    /// Labels.
    pub labels: Option<ArgLabels>,
    /// Addresses.
    pub ips: Option<Vec<String>>,
    /// The Ethernet address.
    pub mac: Option<String>,
}

/// `args.cni.labels`: the convention is a list; a map is what people write.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ArgLabels {
    /// As the convention has them.
    List(Vec<ArgLabel>),
    /// By key.
    Map(BTreeMap<String, String>),
}

/// One of `args.cni.labels[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ArgLabel {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What every verb but `VERSION` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The version that the caller speaks.
    pub version: Version,
    /// The list's name.
    pub name: String,
    /// The agent's socket, where it is not the usual one.
    pub socket: Option<PathBuf>,
    /// Our interface, where it is not `CNI_IFNAME`: behind a plugin that has made that one.
    pub ifname: Option<String>,
    /// How long to wait for an agent that is not ready.
    pub patience: Duration,
}

/// What `ADD` and `CHECK` need beside: the configuration as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Body {
    /// Weft's network; none is the default one.
    pub network: Option<String>,
    /// `NAME[:PORT[/tcp|udp]]`.
    pub service: Option<String>,
    /// How the container is checked, as `netctl attach --check` has it.
    #[serde(default)]
    pub check: Option<String>,
    /// Labels of every container of this network.
    pub labels: Option<BTreeMap<String, String>>,
    /// Name servers and domains in place of the agent's.
    pub dns: Option<Dns>,
    /// Whether everything that the container has no other route for goes by Weft.
    pub default_route: Option<bool>,
    /// Another plugin's address management, which is refused.
    pub ipam: Option<Value>,
    args: Option<Args>,
    /// What the runtime fills in.
    #[serde(rename = "runtimeConfig")]
    pub runtime: Option<RuntimeConfig>,
    /// The result of the plugins before this one; of the whole list at `CHECK`.
    #[serde(rename = "prevResult")]
    pub prev: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Args {
    cni: Option<ConventionArgs>,
}

impl Body {
    /// `args.cni`.
    #[must_use]
    pub fn args(&self) -> ConventionArgs {
        self.args.as_ref().and_then(|args| args.cni.clone()).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct RawHead {
    name: Option<String>,
    socket: Option<PathBuf>,
    ifname: Option<String>,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct RawGc {
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<RawKept>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawKept {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// Standard input, once it is JSON and an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input(Map<String, Value>);

impl Input {
    /// Reads it.
    ///
    /// # Errors
    /// It is no JSON, or no object.
    pub fn parse(stdin: &[u8]) -> Result<Self, Fault> {
        match serde_json::from_slice(stdin) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(Fault::new(DECODING, "standard input: not a JSON object; it is to be the network configuration")),
            Err(e) => Err(Fault::new(DECODING, "standard input: not the JSON of a network configuration").with(e.to_string())),
        }
    }

    /// The `cniVersion` as it was written, for answers that repeat it.
    #[must_use]
    pub fn version_text(&self) -> Option<&str> {
        self.0.get("cniVersion").and_then(Value::as_str)
    }

    /// The version, if it is one of ours and has the verb.
    ///
    /// # Errors
    /// It is not.
    pub fn version(&self, verb: Verb) -> Result<Version, Fault> {
        let known = || Version::ALL.map(Version::as_str).join(", ");
        let text = match self.0.get("cniVersion") {
            Some(Value::String(text)) => text.as_str(),
            // Configurations without one are of the first version.
            None | Some(Value::Null) => "0.1.0",
            Some(other) => return Err(Fault::new(DECODING, format!("cniVersion {other}: not a string"))),
        };
        let version = Version::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Fault::new(INCOMPATIBLE, format!("cniVersion {shown:?} is not spoken; those that are: {}", known()))
        })?;
        let since = match verb {
            Verb::Check => Version::V040,
            Verb::Status | Verb::Gc => Version::V110,
            Verb::Add | Verb::Del | Verb::Version => Version::V031,
        };
        if version < since {
            let name = format!("{verb:?}").to_uppercase();
            return Err(Fault::new(INCOMPATIBLE, format!("cniVersion {version} has no {name}; {since} is the first that has")));
        }
        Ok(version)
    }

    /// What every verb needs.
    ///
    /// # Errors
    /// Something is missing, has another type, or makes no sense.
    pub fn head(&self, verb: Verb) -> Result<Head, Fault> {
        let version = self.version(verb)?;
        let raw: RawHead = self.decode()?;
        let name = raw.name.unwrap_or_default();
        if name.is_empty() {
            return Err(Fault::new(CONFIG, "the configuration has no name; a list's name goes to each of its plugins"));
        }
        check_id(&name).map_err(|why| Fault::new(CONFIG, format!("name {name:?} {why}")))?;
        if let Some(ifname) = &raw.ifname {
            weft_model::ids::check_ifname(ifname).map_err(|why| Fault::new(CONFIG, format!("ifname {ifname:?} {why}")))?;
        }
        let patience = match raw.timeout {
            None => PATIENCE,
            Some(seconds @ 0..=MOST_PATIENCE) => Duration::from_secs(seconds),
            Some(seconds) => return Err(Fault::new(CONFIG, format!("timeout {seconds}: at most {MOST_PATIENCE} seconds"))),
        };
        Ok(Head { version, name, socket: raw.socket.filter(|s| !s.as_os_str().is_empty()), ifname: raw.ifname, patience })
    }

    /// What `ADD` and `CHECK` need beside.
    ///
    /// # Errors
    /// Something has another type, or is not served.
    pub fn body(&self) -> Result<Body, Fault> {
        let body: Body = self.decode()?;
        // An empty `ipam` is as good as none.
        if let Some(ipam) = body.ipam.as_ref().and_then(|ipam| ipam.get("type")).filter(|kind| **kind != "") {
            let msg = format!("ipam.type {ipam} is not served: the agent gives the addresses; leave ipam out");
            return Err(Fault::new(UNSUPPORTED, msg));
        }
        Ok(body)
    }

    /// What stays at a `GC`.
    ///
    /// # Errors
    /// The list is missing: nobody would want all to go for that.
    pub fn valid_attachments(&self) -> Result<Vec<Kept>, Fault> {
        let raw: RawGc = self.decode()?;
        let valid = raw.valid.ok_or_else(|| Fault::new(CONFIG, "GC without cni.dev/valid-attachments: nothing is taken back"))?;
        Ok(valid.into_iter().map(|kept| Kept { container: kept.container_id, ifname: kept.ifname }).collect())
    }

    fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, Fault> {
        T::deserialize(Value::Object(self.0.clone()))
            .map_err(|e| Fault::new(DECODING, "the configuration does not parse").with(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Input {
        Input::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_no_configuration_is_a_fault_of_decoding() {
        for text in ["", "{", "[]", "null", "1", "\"x\"", "{\"a\":}", "\u{feff}{}"] {
            assert_eq!(Input::parse(text.as_bytes()).unwrap_err().code, DECODING, "{text}");
        }
        assert_eq!(Input::parse(&[0xff, 0xfe]).unwrap_err().code, DECODING);
        let deep = "[".repeat(100_000);
        assert_eq!(Input::parse(deep.as_bytes()).unwrap_err().code, DECODING);
    }

    #[test]
    fn each_verb_has_its_first_version() {
        for (version, verbs) in [
            ("0.3.1", &[Verb::Add, Verb::Del][..]),
            ("0.4.0", &[Verb::Add, Verb::Del, Verb::Check]),
            ("1.0.0", &[Verb::Add, Verb::Del, Verb::Check]),
            ("1.1.0", &[Verb::Add, Verb::Del, Verb::Check, Verb::Status, Verb::Gc]),
        ] {
            let input = input(&format!(r#"{{"cniVersion":"{version}"}}"#));
            for verb in [Verb::Add, Verb::Del, Verb::Check, Verb::Status, Verb::Gc] {
                match input.version(verb) {
                    Ok(v) => assert!(verbs.contains(&verb) && v.as_str() == version, "{version} {verb:?}"),
                    Err(fault) => assert!(!verbs.contains(&verb) && fault.code == INCOMPATIBLE, "{version} {verb:?}"),
                }
            }
        }
        for bad in [r#"{"cniVersion":"9.9.9"}"#, "{}", r#"{"cniVersion":""}"#, r#"{"cniVersion":"0.2.0"}"#] {
            assert_eq!(input(bad).version(Verb::Add).unwrap_err().code, INCOMPATIBLE, "{bad}");
        }
        assert_eq!(input(r#"{"cniVersion":1}"#).version(Verb::Add).unwrap_err().code, DECODING);
    }

    #[test]
    fn the_head_is_judged() {
        let head = input(r#"{"cniVersion":"1.0.0","name":"weft","socket":"/s","timeout":2,"capabilities":{"x":true}}"#);
        let head = head.head(Verb::Add).unwrap();
        assert_eq!((head.name.as_str(), head.patience), ("weft", Duration::from_secs(2)));
        assert_eq!(head.socket, Some("/s".into()));
        for (rest, code) in [
            ("", CONFIG),
            (r#","name":"""#, CONFIG),
            (r#","name":"a/b""#, CONFIG),
            (r#","name":7"#, DECODING),
            (r#","name":"a","timeout":-1"#, DECODING),
            (r#","name":"a","timeout":18446744073709551615"#, CONFIG),
            (r#","name":"a","ifname":"a/b""#, CONFIG),
        ] {
            let text = format!(r#"{{"cniVersion":"1.0.0"{rest}}}"#);
            assert_eq!(input(&text).head(Verb::Add).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn another_ones_address_management_is_refused_by_name() {
        let fault = input(r#"{"ipam":{"type":"host-local"}}"#).body().unwrap_err();
        assert_eq!(fault.code, UNSUPPORTED);
        assert!(fault.msg.contains("ipam.type") && fault.msg.contains("host-local"), "{}", fault.msg);
        assert!(input(r#"{"ipam":{}}"#).body().is_ok() && input(r#"{"ipam":null,"labels":null}"#).body().is_ok());
    }

    #[test]
    fn garbage_is_not_collected_without_a_list() {
        assert_eq!(input("{}").valid_attachments().unwrap_err().code, CONFIG);
        let some = input(r#"{"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}"#);
        assert_eq!(some.valid_attachments().unwrap(), [Kept { container: "c1".to_owned(), ifname: "eth0".to_owned() }]);
        assert!(input(r#"{"cni.dev/valid-attachments":[]}"#).valid_attachments().unwrap().is_empty());
        assert_eq!(input(r#"{"cni.dev/valid-attachments":[1]}"#).valid_attachments().unwrap_err().code, DECODING);
    }
}
