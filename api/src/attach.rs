//! Attaching a network namespace.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_model::ids::{EndpointId, NetworkName, ServiceName};
use weft_model::mac::Mac;
use weft_model::record::Proto;

/// `POST /v1/attachments`. Attaching a known id with the same namespace and interface returns the first result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The network namespace, by a path that the agent can open (`/run/netns/web`, `/proc/4711/ns/net`).
    pub netns: PathBuf,
    /// The interface to make in it.
    pub ifname: String,
    /// The endpoint's id; none makes one of the name, or of the namespace.
    #[serde(default)]
    pub id: Option<EndpointId>,
    /// What people call it. Without a service, the name resolves.
    #[serde(default)]
    pub name: Option<String>,
    /// The service it is an instance of.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// The port it serves there.
    #[serde(default)]
    pub port: Option<u16>,
    /// The port's protocol.
    #[serde(default)]
    pub proto: Proto,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether everything that the namespace has no other route for goes by the gateway. Without, only the network and the
    /// ranges of virtual IPs do, as they are at that moment.
    #[serde(default = "yes")]
    pub default_route: bool,
    /// The network it is to be in; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// How long to wait until the agent is ready, milliseconds; none is 30 s.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

fn yes() -> bool {
    true
}

/// What a namespace has been given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The endpoint's id: `detach` takes it.
    pub id: EndpointId,
    /// The namespace, as it was given.
    pub netns: PathBuf,
    /// The interface in it.
    pub ifname: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// The gateway, which also answers DNS.
    pub gateway: Ipv4Addr,
    /// The gateway of its IPv6 address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// The interface's MAC.
    pub mac: Mac,
    /// The interface's MTU, bytes.
    pub mtu: u32,
    /// The device on the host's side.
    pub host_ifname: String,
    /// Name servers to ask.
    pub dns: Vec<IpAddr>,
    /// Domains to search.
    pub search: Vec<String>,
    /// The names that it has in DNS.
    pub names: Vec<String>,
    /// Its network.
    pub network: NetworkName,
    /// The cgroup below which its processes belong, so that their sockets reach virtual IPs.
    pub cgroup: PathBuf,
    /// Whether its record is in the store: `none`, `written` or `pending`.
    pub record: String,
}
