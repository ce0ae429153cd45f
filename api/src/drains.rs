//! Draining: what is to take nothing new, and how far that is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::endpoint::EndpointState;
use weft_model::ids::{NodeName, ServiceName};

/// Of `PUT`, `GET` and `DELETE /v1/nodes/{node}/drain` and `/v1/endpoints/{id}/drain`: what is drained, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrainView {
    /// The host, if it is one as a whole.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// Whether it is to be drained.
    pub wished: bool,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub since: Option<String>,
    /// The host whose agent was asked.
    #[serde(default)]
    pub by: Option<NodeName>,
    /// When what is drained is taken out of use whatever is connected, RFC 3339.
    #[serde(default)]
    pub deadline: Option<String>,
    /// Whether that time has come: connections are waited for no longer.
    #[serde(default)]
    pub overdue: bool,
    /// The endpoints.
    pub endpoints: Vec<DrainedEndpoint>,
    /// Whether what is wished is so: nothing takes new connections any more, and none of those that can be seen from here is
    /// open, or the deadline has passed and nothing new goes there at all; or, if nothing is to be drained, everything is as it was.
    pub done: bool,
    /// What it waits for.
    #[serde(default)]
    pub waits_for: Vec<String>,
}

/// One endpoint that is drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrainedEndpoint {
    /// Its id.
    pub id: String,
    /// Its full name.
    pub dns_name: String,
    /// The host that answers for it.
    pub node: Option<NodeName>,
    /// Its state, as its records say.
    pub state: EndpointState,
    /// The services that still send new connections there, because nothing of theirs is up.
    pub used_by: Vec<ServiceName>,
    /// Established TCP connections to its ports; none where they cannot be seen: it is on another host.
    pub connections: Option<usize>,
}
