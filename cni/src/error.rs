//! How the plugin says no: the codes and the JSON of the CNI specification, and codes of our own that stay.

use serde_json::{Value, json};
use weft_api::{ClientError, Code};

/// The newest version of the specification that is spoken: what an answer says that cannot know the caller's.
pub const NEWEST: &str = "1.1.0";

/// Codes of the specification (1.1.0, "Error").
pub const INCOMPATIBLE: u32 = 1;
/// Something in the configuration that is not served.
pub const UNSUPPORTED: u32 = 2;
/// There is no such container, and nothing to clean up.
pub const UNKNOWN_CONTAINER: u32 = 3;
/// `CNI_…` variables that are missing or make no sense.
pub const ENVIRONMENT: u32 = 4;
/// A file or stream that cannot be read or written.
pub const IO: u32 = 5;
/// Standard input is not the JSON that it should be.
pub const DECODING: u32 = 6;
/// The configuration is JSON, and asks for what cannot be.
pub const CONFIG: u32 = 7;
/// The same call may go well in a moment.
pub const TRY_AGAIN: u32 = 11;
/// `STATUS`: no container can be added.
pub const UNAVAILABLE: u32 = 50;
/// `STATUS`: and those that are there may miss something.
pub const LIMITED: u32 = 51;

/// Ours: it is there already, differently, or somebody else has it (an address, a name, a port of the host, an interface).
pub const CONFLICT: u32 = 100;
/// Ours: the host's subnet has no free address.
pub const FULL: u32 = 101;
/// Ours: the agent could not do it; its log says more.
pub const INTERNAL: u32 = 102;
/// Ours: the agent's socket may not be opened, or who answers there is no agent of this version.
pub const NO_ANSWER: u32 = 103;
/// Ours: `CHECK` found something missing or different.
pub const CHECK: u32 = 105;

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One of the codes above.
    pub code: u32,
    /// One sentence.
    pub msg: String,
    /// What goes with it; may be empty.
    pub details: String,
}

impl Fault {
    /// One without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// Adds what goes with it.
    #[must_use]
    pub fn with(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// What the agent, or its absence, means to a runtime.
    #[must_use]
    pub fn of_client(error: &ClientError) -> Self {
        let code = match error {
            passing if passing.is_passing() => TRY_AGAIN,
            ClientError::NoAgent { .. } | ClientError::Unreachable { .. } | ClientError::Broken { .. } => NO_ANSWER,
            ClientError::Refused { code, .. } => match code {
                Code::Invalid | Code::NotFound => CONFIG,
                Code::Conflict | Code::Changed => CONFLICT,
                Code::Full => FULL,
                Code::NotReady | Code::StoreAway => TRY_AGAIN,
                Code::Internal | Code::Forbidden | Code::MethodNotAllowed | Code::TooLarge => INTERNAL,
            },
        };
        Self::new(code, chain(error))
    }

    /// As the specification has it on standard output.
    #[must_use]
    pub fn json(&self, version: &str) -> Value {
        let mut body = json!({ "cniVersion": version, "code": self.code, "msg": self.msg });
        if !self.details.is_empty() {
            body["details"] = Value::from(self.details.as_str());
        }
        body
    }
}

/// An error and what caused it, with `: ` between.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_to_be_tried_again_and_the_rest_is_told_apart() {
        let refused = |code| ClientError::Refused { code, message: "m".to_owned() };
        let absent = |kind: std::io::ErrorKind| ClientError::NoAgent { socket: "/s".into(), source: kind.into() };
        for (error, code) in [
            (refused(Code::NotReady), TRY_AGAIN),
            (refused(Code::StoreAway), TRY_AGAIN),
            (refused(Code::Invalid), CONFIG),
            (refused(Code::NotFound), CONFIG),
            (refused(Code::Conflict), CONFLICT),
            (refused(Code::Full), FULL),
            (refused(Code::Internal), INTERNAL),
            (absent(std::io::ErrorKind::NotFound), TRY_AGAIN),
            (absent(std::io::ErrorKind::ConnectionRefused), TRY_AGAIN),
            (absent(std::io::ErrorKind::PermissionDenied), NO_ANSWER),
            (ClientError::Broken { request: "GET /".to_owned(), source: "no JSON".into() }, NO_ANSWER),
        ] {
            assert_eq!(Fault::of_client(&error).code, code, "{error}");
        }
    }

    #[test]
    fn the_error_is_the_specifications() {
        let fault = Fault::new(CONFIG, "no name").with("a list has one");
        let wanted = json!({ "cniVersion": "0.4.0", "code": 7, "msg": "no name", "details": "a list has one" });
        assert_eq!(fault.json("0.4.0"), wanted);
        assert_eq!(Fault::new(IO, "x").json("1.1.0"), json!({ "cniVersion": "1.1.0", "code": 5, "msg": "x" }));
    }
}
