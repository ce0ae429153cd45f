//! How the agent says no.

use serde::{Deserialize, Serialize};

/// The body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs.
    pub code: Code,
    /// For people: operation, subject, cause, and what to do next.
    pub message: String,
}

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not one that can be carried out: 400.
    Invalid,
    /// No such thing: 404.
    NotFound,
    /// It exists, differently: 409.
    Conflict,
    /// There is no room left: 507.
    Full,
    /// Not yet: the agent waits for something (`status` says for what): 503.
    NotReady,
    /// The store does not answer: 503.
    StoreAway,
    /// Anything else: 500.
    #[serde(other)]
    Internal,
}

impl Code {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Full => 507,
            Self::NotReady | Self::StoreAway => 503,
            Self::Internal => 500,
        }
    }
}
