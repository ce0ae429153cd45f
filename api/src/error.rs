//! How the agent says no.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// For programs.
    pub code: Code,
    /// For people: operation, subject, cause, and what to do next.
    pub message: String,
}

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not one that can be carried out: 400.
    Invalid,
    /// Not over this connection, or not for this caller: 403.
    Forbidden,
    /// No such thing: 404.
    NotFound,
    /// The thing is there, and this cannot be done with it (the header `Allow` says what can): 405.
    MethodNotAllowed,
    /// It exists, differently: 409.
    Conflict,
    /// It is not as `If-Match` or `If-None-Match` asks; the message says at which revision it is: 412.
    Changed,
    /// The request's body is larger than any that is read: 413.
    TooLarge,
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
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::Changed => 412,
            Self::TooLarge => 413,
            Self::Full => 507,
            Self::NotReady | Self::StoreAway => 503,
            Self::Internal => 500,
        }
    }
}
