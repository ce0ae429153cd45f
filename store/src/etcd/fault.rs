//! What etcd, or the way to it, says when a request is not served, sorted by what can be done about it.

use std::error::Error as StdError;
use std::sync::Arc;

use etcd_client::Error;
use tonic::{Code, Status};

/// What one etcd, or the connection to it, said.
#[derive(Clone, Debug, thiserror::Error)]
#[error("etcd at {endpoint}: {what}")]
pub(super) struct Said {
    pub endpoint: Arc<str>,
    pub what: String,
}

/// What to do about a database that is full.
const FULL: &str = "nothing is written until there is room: etcdctl compact, etcdctl defrag, then etcdctl alarm disarm, or a larger \
                    --quota-backend-bytes; what is there is read, watched and kept alive meanwhile";

/// Why a request was not served.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// No connection: the request was not sent, any other endpoint may have it.
    NotSent(Said),
    /// No answer, or one that says nothing: whether it was done is unknown.
    Lost(Said),
    /// The login is too old: log in again.
    StaleLogin(Said),
    /// The revision asked for is compacted.
    Compacted(Said),
    /// The answer is larger than we take: ask for less.
    TooLarge(Said),
    /// The lease is not there (any more).
    NoLease(Said),
    /// It will not do it.
    Refused(Said),
}

impl Fault {
    pub fn said(self) -> Said {
        match self {
            Self::NotSent(said)
            | Self::Lost(said)
            | Self::StaleLogin(said)
            | Self::Compacted(said)
            | Self::TooLarge(said)
            | Self::NoLease(said)
            | Self::Refused(said) => said,
        }
    }

    /// A request that took too long.
    pub fn timed_out(endpoint: &Arc<str>) -> Self {
        Self::Lost(Said { endpoint: endpoint.clone(), what: "no answer in time".into() })
    }

    /// What etcd-client returned.
    pub fn of(endpoint: &Arc<str>, error: &Error) -> Self {
        let said = |what: String| Said { endpoint: endpoint.clone(), what };
        match error {
            Error::GRpcStatus(status) => Self::of_status(endpoint, status),
            Error::TransportError(error) if never_connected(error) => Self::NotSent(said(chain(error))),
            Error::TransportError(error) => Self::Lost(said(chain(error))),
            // A server that answers a keep-alive with no time left has no such lease.
            Error::LeaseKeepAliveError(what) if what == "lease not found" => Self::NoLease(said(what.clone())),
            Error::InvalidArgs(what) => Self::Refused(said(what.clone())),
            other => Self::Lost(said(other.to_string())),
        }
    }

    fn of_status(endpoint: &Arc<str>, status: &Status) -> Self {
        let what = match status.source() {
            Some(source) if !source.is::<Status>() => join(status.message(), &chain(source)),
            _ => status.message().to_owned(),
        };
        let said = Said { endpoint: endpoint.clone(), what };
        let message = status.message();
        match status.code() {
            _ if status.source().is_some_and(never_connected) => Self::NotSent(said),
            Code::Unauthenticated => Self::StaleLogin(said),
            // Messages of etcd 3.4 to 3.6, api/v3rpc/rpctypes/error.go.
            Code::InvalidArgument if message.contains("revision of auth store is old") => Self::StaleLogin(said),
            Code::InvalidArgument if message.contains("user name is empty") => Self::StaleLogin(said),
            Code::OutOfRange if message.contains("has been compacted") => Self::Compacted(said),
            Code::OutOfRange if message.contains("message length too large") => Self::TooLarge(said),
            Code::NotFound if message.contains("lease not found") => Self::NoLease(said),
            Code::ResourceExhausted if message.contains("too many requests") => Self::Lost(said),
            // Said before the request is looked at (etcd's api/v3rpc/interceptor.go): another member may have it, writes too.
            Code::Unavailable | Code::FailedPrecondition if message.contains("rpc not supported for learner") => {
                Self::NotSent(said)
            }
            Code::Unavailable if message == "etcdserver: no leader" => Self::NotSent(said),
            // A member that is not, or not yet, what it must be to serve this; another may.
            Code::FailedPrecondition if message.contains("not leader") || message.contains("learner") => Self::Lost(said),
            Code::ResourceExhausted if message.contains("database space exceeded") => {
                Self::Refused(Said { what: join(&said.what, FULL), ..said })
            }
            Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Unimplemented => Self::Refused(said),
            _ => Self::Lost(said),
        }
    }
}

/// Whether it failed before there was a connection to send anything on.
fn never_connected(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error with its causes in one line. Many layers of the transport repeat what the one below says; that is left out.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        text = join(&text, &error.to_string());
        next = error.source();
    }
    text
}

fn join(before: &str, after: &str) -> String {
    if before.is_empty() || after.contains(before) {
        after.to_owned()
    } else if after.is_empty() || before.contains(after) {
        before.to_owned()
    } else {
        format!("{before}: {after}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: Code, message: &str) -> Fault {
        Fault::of(&"http://h1:2379".into(), &Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn answers_are_sorted_by_what_can_be_done() {
        assert!(matches!(fault(Code::Unavailable, "etcdserver: no leader"), Fault::NotSent(_)), "it was not even looked at");
        assert!(matches!(fault(Code::Unavailable, "etcdserver: leader changed"), Fault::Lost(_)));
        // etcd 3.4, and later ones.
        assert!(matches!(fault(Code::Unavailable, "etcdserver: rpc not supported for learner"), Fault::NotSent(_)));
        assert!(matches!(fault(Code::FailedPrecondition, "etcdserver: rpc not supported for learner"), Fault::NotSent(_)));
        assert!(matches!(fault(Code::Unauthenticated, "etcdserver: invalid auth token"), Fault::StaleLogin(_)));
        assert!(matches!(fault(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"), Fault::Compacted(_)));
        assert!(matches!(fault(Code::NotFound, "etcdserver: requested lease not found"), Fault::NoLease(_)));
        assert!(matches!(fault(Code::PermissionDenied, "etcdserver: permission denied"), Fault::Refused(_)));
        assert!(matches!(fault(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Fault::Refused(_)));
        assert!(matches!(fault(Code::ResourceExhausted, "etcdserver: too many requests"), Fault::Lost(_)));
        assert!(matches!(fault(Code::Unknown, "context canceled"), Fault::Lost(_)));
    }

    #[test]
    fn a_failed_connection_counts_as_not_sent_and_is_explained_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(tonic::ConnectError(Box::new(refused))));
        let fault = Fault::of(&"http://h1:2379".into(), &Error::GRpcStatus(status));
        assert!(matches!(fault, Fault::NotSent(_)), "{fault:?}");
        assert_eq!(fault.said().to_string(), "etcd at http://h1:2379: connection refused");
    }
}
