//! `GET /v1/status`: what the agent is, has, waits for and cannot do.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::ids::{NodeName, Revision};

/// The agent's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Its name.
    pub node: NodeName,
    /// Whether containers can be attached.
    pub ready: bool,
    /// What it waits for, what is odd, and what to do about it. A ready agent may have some too.
    pub reasons: Vec<String>,
    /// The host's subnet.
    #[schemars(with = "Option<crate::schema::Cidr4>")]
    pub subnet: Option<Ipv4Net>,
    /// The host's IPv6 subnet.
    #[schemars(with = "Option<crate::schema::Cidr6>")]
    pub subnet6: Option<Ipv6Net>,
    /// Where it answers DNS.
    pub dns: Vec<SocketAddr>,
    /// The store.
    pub store: StoreStatus,
    /// The other hosts.
    pub peers: Vec<PeerStatus>,
    /// The eBPF datapath.
    pub datapath: DatapathStatus,
    /// Version of the agent.
    #[serde(default)]
    pub version: String,
    /// The device that leads to the other hosts.
    #[serde(default)]
    pub uplink: Option<String>,
    /// The host's own tunnel address.
    #[serde(default)]
    pub public_ip: Option<IpAddr>,
    /// The cgroup below which containers belong, so that their sockets reach virtual IPs.
    #[serde(default)]
    pub cgroup: PathBuf,
    /// Containers attached to this host.
    #[serde(default)]
    pub attachments: usize,
    /// The revision that the kernel's state was last made to follow.
    #[serde(default)]
    pub applied: Revision,
    /// The store's revision that each of the agent's views stands at.
    #[serde(default)]
    pub views: Views,
    /// Values in the store that do not parse.
    #[serde(default)]
    pub bad: Vec<BadValueView>,
}

/// The store's revision that each view stands at: whoever has written at a revision and waits for it sees it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Views {
    /// What this socket answers.
    pub api: Revision,
    /// What names are answered.
    pub dns: Revision,
    /// Where virtual IPs lead.
    pub proxy: Revision,
    /// Routes, neighbours and rows of the datapath.
    pub kernel: Revision,
}

/// The store, as this agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreStatus {
    /// `etcd` or `embedded`.
    pub kind: String,
    /// Whether it answers.
    pub connected: bool,
    /// The revision of the view that the agent works from; 0 before the first complete listing.
    pub revision: Revision,
    /// Why it is not connected.
    #[serde(default)]
    pub error: Option<String>,
}

/// Another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerStatus {
    /// Its name; none for a host that runs flannel.
    pub node: Option<NodeName>,
    /// Its subnet.
    #[schemars(with = "crate::schema::Cidr4")]
    pub subnet: Ipv4Net,
    /// Its IPv6 subnet, if packets to it are sent there.
    #[serde(default)]
    #[schemars(with = "Option<crate::schema::Cidr6>")]
    pub subnet6: Option<Ipv6Net>,
    /// Its tunnel address.
    pub public_ip: IpAddr,
    /// Which path packets to it take.
    pub via: Via,
    /// Whether its agent lives.
    #[serde(default)]
    pub alive: bool,
}

/// A packet's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// eBPF encapsulation at the hooks.
    Fast,
    /// The kernel's VXLAN device.
    Kernel,
}

/// The eBPF datapath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DatapathStatus {
    /// Whether packets take the fast path.
    pub fast: bool,
    /// Why not, if not.
    pub why_not: Option<String>,
    /// Whether virtual IPs are translated at the socket.
    #[serde(default)]
    pub sockets: bool,
}

/// A value in the store that does not parse. It hurts only itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadValueView {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}
