//! Health: what an endpoint's checks say, as the host sees it that makes them.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::check::Check;
use weft_model::endpoint::EndpointState;
use weft_model::ids::ServiceName;

/// `GET /v1/endpoints/{id}/health`: only on the host that holds the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// The endpoint's id.
    pub id: String,
    /// Its own check, or those of its services.
    pub checks: Vec<CheckView>,
}

/// One check of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckView {
    /// The service whose check it is; none is the endpoint's own.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// The check.
    pub check: Check,
    /// The same as people write it.
    pub text: String,
    /// What is asked.
    pub address: IpAddr,
    /// The endpoint's other addresses, which are asked too: it is well when each of them is.
    #[serde(default)]
    pub further: Vec<IpAddr>,
    /// At which port.
    #[serde(default)]
    pub port: Option<u16>,
    /// What follows from its answers: starting, up or down.
    pub state: EndpointState,
    /// Since when, RFC 3339.
    pub since: String,
    /// How many answers in a row were well.
    pub well: u32,
    /// How many in a row were not.
    pub failed: u32,
    /// How many in a row must be well for it to come up: more than usual for one that goes down again and again.
    pub needed: u32,
    /// How often it was asked since the agent started.
    pub runs: u64,
    /// How often it was not well.
    pub failures: u64,
    /// How often it went down.
    pub falls: u64,
    /// For how long it has waited for its turn, milliseconds, if that is longer than its interval: its host has more checks that
    /// are slow than it asks at once.
    #[serde(default)]
    pub late_ms: Option<u64>,
    /// Its last answer.
    #[serde(default)]
    pub last: Option<LastCheck>,
}

/// An answer to a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastCheck {
    /// When, RFC 3339.
    pub at: String,
    /// How long it took, microseconds.
    pub took_us: u64,
    /// Whether it was well.
    pub well: bool,
    /// What was said, or what went wrong.
    pub said: String,
}
