//! `GET /v1/dns/query`: what this host's name server answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsAnswer {
    /// The name that was asked for, with its final dot.
    pub name: String,
    /// The type that was asked for.
    #[serde(rename = "type")]
    pub kind: String,
    /// `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// Whether the answer is the server's own.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<DnsRecord>,
    /// The authority section.
    pub authority: Vec<DnsRecord>,
    /// The additional section.
    pub additional: Vec<DnsRecord>,
}

/// A resource record in its presentation form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsRecord {
    /// Owner.
    pub name: String,
    /// Time to live, seconds.
    pub ttl: u32,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Data.
    pub data: String,
}
