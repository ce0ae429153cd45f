//! What the tools that start containers say of a container, beside its network namespace.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::ServiceName;
use crate::record::Proto;

/// By what a tool knows an attachment that it asked for. With the interface's name it is unique on a host: the same owner and
/// interface are the same attachment, whatever its endpoint's id became.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Who asked.
    pub runtime: Runtime,
    /// The tool's own name of the network: a CNI list's name, a Docker network's id. Not necessarily a network of Weft's.
    pub network: String,
    /// The tool's id of the container, or of its end of the network (CNI: `CNI_CONTAINERID`; Docker: the endpoint's id).
    pub container: String,
}

/// What starts containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
