//! A wish to drain a host or an endpoint: what has connections keeps them, and nothing new comes while others are up.
//!
//! It stands in the store, because the host that owns the records must write them, and may not be there at the moment. That
//! host's agent does so as long as the key stands; removing the key undoes it. A wish may have a deadline, after which what is
//! drained is used no more, not even when nothing else is up.

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

/// The value of a drain's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub since: String,
    /// The host whose agent was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<NodeName>,
    /// When it is over with waiting for connections, RFC 3339: from then on what is drained is down. None is never, and so is a
    /// text that is no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

impl Drain {
    /// Reads a drain's value.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        crate::parse_object(value, "no drain")
    }

    /// The value as it is stored.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only maps with other than string keys can fail here.
        serde_json::to_string(self).unwrap_or_default()
    }
}
