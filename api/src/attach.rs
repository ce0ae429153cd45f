//! Attaching a network namespace.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
/// `PATCH /v1/attachments/{id}`: what it is called and what it serves, in place of what was said before. What the agent has learned
/// from the container's runtime stays beside it.
pub use weft_model::attachment::Description;
use weft_model::attachment::{Instance, Owner, Runtime};
use weft_model::check::Check as HealthCheck;
use weft_model::ids::{EndpointId, NetworkName, ServiceLabel, ServiceName};
use weft_model::mac::Mac;
use weft_model::publish::Publish;
use weft_model::record::Proto;

/// `POST /v1/attachments`. Attaching a known id with the same namespace and interface returns the first result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attach {
    /// The network namespace, by a path that the agent can open (`/run/netns/web`, `/proc/4711/ns/net`).
    pub netns: PathBuf,
    /// The interface to make in it: 1 to 15 bytes.
    #[schemars(length(min = 1, max = 15))]
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
    /// The tool that asks, and by what it knows the container; none for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Further names, which resolve whatever `name` and `service` say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<ServiceLabel>,
    /// What it is an instance of beside `service`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// The addresses that it must have, at most one of each family, of this host's subnets; none is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The Ethernet address that it must have; none follows from its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// How it is asked whether it is well; none leaves that to its services. A command only from a caller who is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
}

fn yes() -> bool {
    true
}

impl Attach {
    /// Any address in the default network, a default route, no name.
    #[must_use]
    pub fn new(netns: impl Into<PathBuf>, ifname: impl Into<String>) -> Self {
        Self {
            netns: netns.into(),
            ifname: ifname.into(),
            id: None,
            name: None,
            service: None,
            port: None,
            proto: Proto::default(),
            labels: BTreeMap::new(),
            default_route: true,
            network: None,
            timeout_ms: None,
            owner: None,
            aliases: Vec::new(),
            instances: Vec::new(),
            addresses: Vec::new(),
            mac: None,
            publish: Vec::new(),
            check: None,
        }
    }
}

/// What a namespace has been given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attached {
    /// The endpoint's id: `detach` takes it.
    pub id: EndpointId,
    /// The namespace, as it was given.
    pub netns: PathBuf,
    /// The interface in it.
    pub ifname: String,
    /// Its addresses.
    #[schemars(with = "Vec<crate::schema::Cidr>")]
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
    /// That device's MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<Mac>,
    /// Where its gateways lead to: everywhere, or some networks only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<crate::schema::Cidr>")]
    pub routes: Vec<IpNet>,
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
    /// The tool that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Sentences about what its user may not expect: that the host is drained, say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `POST /v1/attachments/release`: takes back what an owner has, all of it or one interface. That there is nothing is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// Whose.
    pub owner: Owner,
    /// The interface; none is all.
    #[serde(default)]
    pub ifname: Option<String>,
}

/// `POST /v1/attachments/check`: whether all that an attach made is there still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Whose.
    pub owner: Owner,
    /// The interface.
    pub ifname: String,
    /// The namespace that it should be in.
    pub netns: PathBuf,
    /// The addresses that it should have.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// `POST /v1/attachments/gc`: takes back what a tool has in one of its networks, but for what it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gc {
    /// The tool.
    pub runtime: Runtime,
    /// Its name of the network.
    pub network: String,
    /// What stays.
    pub keep: Vec<Kept>,
}

/// An attachment that a tool knows of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// The tool's id of the container.
    pub container: String,
    /// The interface.
    pub ifname: String,
}
