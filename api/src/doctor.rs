//! `POST /v1/doctor`, `GET /v1/doctor/{id}`: what is wrong with this host's part of the network, and what to do about it.
//!
//! A checkup takes seconds, since some of what is wrong shows as silence; so it is begun by one request and looked at by
//! others, which answer at once with what has been found so far.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_model::ids::NodeName;

/// `POST /v1/doctor`: begins a checkup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckupStart {
    /// The other hosts whose path is probed, by name, tunnel address or subnet; none is all of them.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Send no packets to other hosts: look at this one only.
    #[serde(default)]
    pub local: bool,
    /// How long all of it may take, milliseconds; none is a minute. What is not done by then is skipped.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// A checkup, under way or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checkup {
    /// Its number.
    pub id: u64,
    /// The host.
    pub node: NodeName,
    /// Whether all of it is done.
    pub done: bool,
    /// Whether nothing has failed, so far.
    pub healthy: bool,
    /// What has been found, in the order of checks and subjects.
    pub findings: Vec<Finding>,
    /// Parts that are done.
    pub finished: usize,
    /// Parts that there are, so far.
    pub total: usize,
    /// Parts under way.
    #[serde(default)]
    pub now: Vec<String>,
}

/// What one check found of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The check, by its name. Names stay.
    pub check: String,
    /// What was looked at: a peer, a device, an attachment, a key.
    pub subject: String,
    /// How it is.
    pub result: CheckResult,
    /// What was seen, and what it means.
    pub what: String,
    /// What to do about it.
    #[serde(default)]
    pub next: Option<String>,
    /// What was measured, for programs: `largest_bytes`, `rtt_us`, `rows`, …
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// As it should be.
    Ok,
    /// Not looked at; the text says why.
    Skipped,
    /// Odd, or soon a fault; packets go.
    Warn,
    /// A fault.
    Fail,
}

impl CheckResult {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(check: &str, subject: impl ToString, what: impl Into<String>) -> Self {
        Self::make(check, subject.to_string(), CheckResult::Ok, what.into(), None)
    }

    /// It is odd, and what to do.
    #[must_use]
    pub fn warn(check: &str, subject: impl ToString, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::make(check, subject.to_string(), CheckResult::Warn, what.into(), Some(next.into()))
    }

    /// It is broken, and what to do.
    #[must_use]
    pub fn fail(check: &str, subject: impl ToString, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::make(check, subject.to_string(), CheckResult::Fail, what.into(), Some(next.into()))
    }

    /// It was not looked at, and why.
    #[must_use]
    pub fn skipped(check: &str, subject: impl ToString, why: impl Into<String>) -> Self {
        Self::make(check, subject.to_string(), CheckResult::Skipped, why.into(), None)
    }

    /// With a measured value.
    #[must_use]
    pub fn with(mut self, fact: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(fact.to_owned(), value.into());
        self
    }

    fn make(check: &str, subject: String, result: CheckResult, what: String, next: Option<String>) -> Self {
        Self { check: check.to_owned(), subject, result, what, next, facts: BTreeMap::new() }
    }
}
