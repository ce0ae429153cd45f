//! Hosts.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::ids::NodeName;

/// A host: its entry, its subnet, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeView {
    /// Its name; a host that runs flannel is shown by its tunnel address.
    pub node: String,
    /// Whether its agent lives; for a flannel host, unknown.
    pub alive: Option<bool>,
    /// Its subnet.
    #[schemars(with = "Option<crate::schema::Cidr4>")]
    pub subnet: Option<Ipv4Net>,
    /// Its tunnel address.
    pub public_ip: Option<IpAddr>,
    /// Version of its agent.
    pub version: Option<String>,
    /// What its agent and kernel can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// When its agent first announced itself, RFC 3339.
    #[serde(default)]
    pub since: Option<String>,
    /// Endpoints that it answers for.
    #[serde(default)]
    pub endpoints: usize,
    /// Whether it is drained: what is on it takes nothing new while others are up.
    #[serde(default)]
    pub drained: bool,
    /// Whether it is the host that was asked.
    #[serde(default)]
    pub this: bool,
}

impl NodeView {
    /// Whether this row is the node of that name.
    #[must_use]
    pub fn is(&self, name: &NodeName) -> bool {
        self.node == name.as_str()
    }
}
