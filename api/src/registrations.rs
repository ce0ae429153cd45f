//! Registrations: what a program says of itself, for as long as it goes on saying it; and who leads a name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::check::Check;
use weft_model::ids::{EndpointId, NetworkName, Revision, ServiceName};
use weft_model::record::{Kind, Proto, State};

use crate::EndpointView;

/// `PUT /v1/registrations/{id}`: registers, and said again keeps it registered. What is the same as before writes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The service it is an instance of, or the name that it bears.
    pub service: ServiceName,
    /// Whether it may be a backend.
    #[serde(default)]
    pub kind: Kind,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its addresses. None are those of the container that asks, or this host's if no container does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The port's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// The port's protocol.
    #[serde(default)]
    pub proto: Proto,
    /// Labels for selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How long it stays registered without being said again, in milliseconds: 1,000 to 31 days.
    #[schemars(range(min = 1_000, max = 2_678_400_000_u64))]
    pub ttl_ms: u64,
    /// Whether it takes traffic.
    #[serde(default)]
    pub state: State,
    /// SRV priority: the lower, the sooner; 0 is "not set".
    #[serde(default)]
    pub priority: u16,
    /// SRV weight relative to its siblings; 0 counts as 100.
    #[serde(default)]
    pub weight: u32,
    /// How it is asked whether it is well, while it says that it takes traffic; none leaves that to its service. A command runs in
    /// the host's own network namespace, and only for a caller who is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Whether it stands for election under its name, and how; only of kind `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidacy>,
    /// What tells one program that stands for election from another one that uses the same id on the same host: a random text of at
    /// most 64 bytes, the same in all that one program says. As long as a candidate's time lasts, one that says another is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// How a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Candidacy {
    /// It wants the lead and does nothing yet that only the leader may do: the lead can go to another one at once.
    Stands,
    /// It acts as leader: it keeps the lead until it stands again, is withdrawn, or its host cannot keep it.
    Acts,
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registered {
    /// Its id.
    pub id: EndpointId,
    /// What was said of it, with the addresses that it got.
    pub said: Register,
    /// The network its addresses are in; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// When it was first registered, in milliseconds since 1970.
    pub born: u64,
    /// How long it stays if nothing more is said, in milliseconds.
    pub expires_ms: u64,
    /// As everybody sees it; none as long as the store has not been read.
    pub endpoint: Option<EndpointView>,
    /// `written`, or `pending` while the store has to follow.
    pub store: String,
    /// Whether it leads its service or name. Of a candidate: whether it holds the lead, which no other one then does.
    pub lead: bool,
    /// Whether that can be said: not before the agent has read the store, nor, of who holds the lead, when it is no longer certain
    /// for any time. Then what was said last counts, for as long as was said.
    pub lead_known: bool,
    /// The number of the term for which it holds the lead; each leader's is greater than that of the one before.
    #[serde(default)]
    pub term: Option<Revision>,
    /// For so long after this was asked a lead that is held certainly stays, in milliseconds: who acts as leader and has heard
    /// nothing more by then must have stopped. 0 of who does not lead.
    pub safe_for_ms: u64,
}

/// `GET /v1/services/{namespace}/{name}/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaderView {
    /// The service or name.
    pub service: ServiceName,
    /// Who leads; none if nobody who could is up, or none is elected yet.
    pub leader: Option<EndpointView>,
    /// Why that one.
    pub by: LeadBy,
    /// Who was chosen by hand, be it up or not.
    #[serde(default)]
    pub manual: Option<String>,
    /// The number of the term, where the lead is held.
    #[serde(default)]
    pub term: Option<Revision>,
    /// The leader's name.
    pub dns_name: String,
}

/// By what a leader leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeadBy {
    /// It is the oldest.
    Oldest,
    /// It was chosen by hand.
    Manual,
    /// It holds the lead, as one of several candidates.
    Election,
}

/// `PUT /v1/services/{namespace}/{name}/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaderSet {
    /// The endpoint that is to lead, while it is up.
    pub id: String,
}
