//! `GET /v1/dns/query`, `GET /v1/dns/why`: what this host's name server answers, and what makes it do so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::ids::Revision;

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
    /// The name that others would have to be asked for, who are not: only callers on this host may have its resolver ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<String>,
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

/// Why a question is answered as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsWhy {
    /// The revision of the store that names are answered by.
    #[schemars(with = "i64")]
    pub revision: Revision,
    /// The names on the way, the question's first; each next one is what the one before is an alias of.
    pub steps: Vec<DnsStep>,
    /// The answer.
    pub answer: DnsAnswer,
}

/// A name on the way to an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsStep {
    /// The name, with its final dot.
    pub name: String,
    /// What it stands for, in a few words.
    pub is: String,
    /// Where its addresses are, in a few words.
    pub then: String,
    /// The records that it stands for, by key.
    pub records: Vec<DnsSpeaker>,
}

/// A record that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsSpeaker {
    /// Its key in the store, below the DNS prefix.
    pub path: String,
    /// When it was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub revision: Option<Revision>,
    /// What it points to; empty if nothing.
    pub host: String,
    /// Time to live, seconds.
    pub ttl: u32,
    /// How its endpoint stands: `up`, `draining`, `lost`, `unhealthy`.
    pub standing: String,
    /// Whether it is part of the answer.
    pub used: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}
