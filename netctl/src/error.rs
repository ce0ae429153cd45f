//! Why a command did not do it, and the exit code that says so to scripts.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use weft_api::ClientError;

use crate::cmd::cni::InstallError;
use crate::cmd::store::StoreDocumentError;
use crate::format::{PrintError, printable};
use crate::manifest::ManifestError;
use crate::netns::NetnsError;
use crate::resolv::ResolvError;
use crate::run::RunError;

/// Done.
pub const DONE: u8 = 0;
/// The agent said no, or there is no such thing.
pub const REFUSED: u8 = 1;
/// The command line makes no sense. clap uses the same number.
pub const USAGE: u8 = 2;
/// No agent, or none that answers.
pub const NO_AGENT: u8 = 3;

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent is not there, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The agent was asked until the time was over.
    #[error("{}", with_advice(.0))]
    NotReady(ClientError),
    /// The agent has the request and is silent.
    #[error("the agent at {agent} has not answered within {}s", after.as_secs())]
    Silent {
        /// Where it is.
        agent: String,
        /// How long was waited.
        after: Duration,
    },
    /// What was waited for has not come.
    #[error("not so after {}s: {why}", after.as_secs())]
    Waited {
        /// How long was waited.
        after: Duration,
        /// What was missing last.
        why: String,
    },
    /// Arguments that are fine each for itself, and not together.
    #[error("{0}")]
    Usage(String),
    /// Files of objects cannot be used; nothing has been written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The network namespace cannot be named.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// It is attached, but the file is not written.
    #[error("{id} is attached, but its resolv.conf is not in place (netctl detach {id} takes it back)")]
    AttachedWithoutResolv {
        /// What has been attached.
        id: String,
        /// Why.
        #[source]
        source: ResolvError,
    },
    /// Nothing has been attached, because the file could not be written.
    #[error(transparent)]
    Resolv(#[from] ResolvError),
    /// `netctl run` could not start the command.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A plugin or its configuration is not in place.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The manual pages cannot be written.
    #[error("write manual pages to {}", dir.display())]
    Man {
        /// Where to.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document of the store.
    #[error(transparent)]
    StoreDocument(#[from] StoreDocumentError),
    /// What was edited could not be written.
    #[error("what was edited is kept in {0}; netctl apply -f {0} writes it", file.display())]
    Kept {
        /// Where it is.
        file: PathBuf,
        /// Why it could not.
        #[source]
        source: Box<Error>,
    },
    /// The answer cannot be printed.
    #[error(transparent)]
    Print(#[from] PrintError),
}

/// What the agent said, and where to read on if it did not say.
fn with_advice(refusal: &ClientError) -> String {
    let text = refusal.to_string();
    if text.contains("netctl status") { text } else { text + "; netctl status says more" }
}

impl Error {
    /// What the process exits with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::NoAgent { .. } | ClientError::Unreachable { .. } | ClientError::Broken { .. })
            | Self::Silent { .. } => NO_AGENT,
            Self::Usage(_) => USAGE,
            Self::Run(e) => e.exit_code(),
            Self::Kept { source, .. } => source.exit_code(),
            _ => REFUSED,
        }
    }

    /// Whether it is only that nobody reads any more, as after `netctl … | head`.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Print(PrintError::Write(e)) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// This error and what caused it, with `: ` between.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// Says something about a command on standard error: much of it was written by others, so nothing that a terminal would obey.
/// Where that is closed, nobody wants to know.
pub fn say(command: &str, text: &str) {
    // The agent names the operation too, where it has the same name.
    let text = text.strip_prefix(command).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    let _ = writeln!(io::stderr(), "netctl: {command}: {}", printable(text));
}

/// An error and what caused it, with `: ` between.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_api::Code;

    #[test]
    fn exit_codes_tell_refusal_usage_and_absence_apart() {
        let refused = ClientError::Refused { code: Code::NotFound, message: "no".to_owned() };
        assert_eq!(Error::from(refused).exit_code(), REFUSED);
        let absent = ClientError::NoAgent { socket: "/x".into(), source: io::ErrorKind::NotFound.into() };
        assert_eq!(Error::from(absent).exit_code(), NO_AGENT);
        let broken = ClientError::Broken { request: "GET /".to_owned(), source: "eof".into() };
        assert_eq!(Error::from(broken).exit_code(), NO_AGENT);
        assert_eq!(Error::Silent { agent: "/x".to_owned(), after: Duration::from_secs(1) }.exit_code(), NO_AGENT);
        assert_eq!(Error::Usage("x".to_owned()).exit_code(), USAGE);
    }

    #[test]
    fn the_chain_names_every_cause_once() {
        let absent = ClientError::NoAgent { socket: "/x".into(), source: io::Error::other("refused") };
        assert_eq!(Error::from(absent).chain(), "no agent at /x: is weftd running, and may you open its socket?: refused");
    }

    #[test]
    fn only_a_closed_pipe_is_quiet() {
        assert!(Error::from(PrintError::Write(io::ErrorKind::BrokenPipe.into())).is_broken_pipe());
        assert!(!Error::from(PrintError::Write(io::ErrorKind::StorageFull.into())).is_broken_pipe());
    }
}
