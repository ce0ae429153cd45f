//! A request that is not carried out, and why.

use weft_api::Code;
use weft_store::StoreError;

use crate::view::chain;

/// Why not; becomes the answer's status and body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The request cannot be carried out as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// It is there, differently.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Code::Conflict, message)
    }

    /// Something below went wrong.
    pub fn internal(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(Code::Internal, format!("{what}: {}", chain(error)))
    }

    /// The store did not do it.
    #[must_use]
    pub fn store(what: &str, error: &StoreError) -> Self {
        let code = if matches!(error, StoreError::Unavailable { .. }) { Code::StoreAway } else { Code::Internal };
        Self::new(code, format!("{what}: {}", chain(error)))
    }
}
