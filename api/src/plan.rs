//! `GET /v1/plan`: what the reconcile loop would change now, and why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::ids::Revision;

/// What would be changed, as far as the agent sees. On a host that is as it should be, nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The revision of the store that it follows.
    pub revision: Revision,
    /// In the order in which it would be done.
    pub actions: Vec<PlannedAction>,
    /// What could not be looked at.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedAction {
    /// Where.
    pub kind: PlannedKind,
    /// What.
    pub action: String,
    /// What it is there for, or that nothing wants it.
    pub reason: Option<String>,
}

/// Where a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlannedKind {
    /// Devices, addresses, neighbours, forwarding entries, routes, settings.
    Kernel,
    /// Rows of the programs' maps.
    Map,
    /// What programs are attached to.
    Link,
    /// The nft table.
    Filter,
}
