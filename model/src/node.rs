//! A host, as its agent announces it under `<weft-prefix>/nodes/<node>` on its liveness lease.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

/// A host's entry. It exists while the host's agent lives, and a little longer (`--lease-ttl`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The host's name, the same as in the key.
    pub node: NodeName,
    /// Tunnel address.
    #[serde(default)]
    pub public_ip: Option<Ipv4Addr>,
    /// Tunnel address, IPv6.
    #[serde(default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Version of its agent.
    #[serde(default)]
    pub version: String,
    /// What its agent and kernel can do (`fast-path`, `sockets`).
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Boot id of the host: an agent that restarts on the same boot is the same instance.
    #[serde(default)]
    pub boot: String,
    /// Random, made when the state directory is: two hosts with one name differ in it.
    #[serde(default)]
    pub instance: String,
    /// When this entry was first written, RFC 3339.
    #[serde(default)]
    pub since: String,
}
