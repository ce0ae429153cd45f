//! Who asks, as far as it matters: whether he is still there, which process he is, or what he may do from elsewhere.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use tokio::net::UnixStream;

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// None if there is no such thing, or none that can be asked.
    stream: Option<Arc<OwnedFd>>,
    /// Who he is, if he is not on this host.
    remote: Option<Arc<Remote>>,
}

/// A caller from elsewhere, who has shown a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The common name of its subject; empty if it has none.
    pub name: String,
    /// Where he is.
    pub from: SocketAddr,
    /// Whether he may write.
    pub may_write: bool,
}

impl Caller {
    /// One who is not on this host: no process is known of him, and he is trusted with nothing but what his certificate says.
    pub fn from_elsewhere(remote: Remote) -> Self {
        Self { stream: None, remote: Some(Arc::new(remote)) }
    }

    /// Who he is, if he is not on this host.
    pub fn remote(&self) -> Option<&Arc<Remote>> {
        self.remote.as_ref()
    }

    /// Who is at the other end.
    pub fn of(stream: &UnixStream) -> Self {
        Self { stream: stream.as_fd().try_clone_to_owned().ok().map(Arc::new), remote: None }
    }

    /// His process, as this one sees it; none if it does not.
    pub fn pid(&self) -> Option<i32> {
        let credentials = getsockopt(self.stream.as_ref()?, sockopt::PeerCredentials).ok()?;
        Some(credentials.pid()).filter(|pid| *pid > 0)
    }

    /// Whether he is root, or the user that the agent runs as.
    pub fn is_trusted(&self) -> bool {
        let Some(stream) = &self.stream else { return false };
        let user = getsockopt(stream, sockopt::PeerCredentials).map(|credentials| credentials.uid());
        user.is_ok_and(|user| user == 0 || user == geteuid().as_raw())
    }

    /// Whether he has closed the connection, or was killed. One who only has no more to say is there: he waits for the answer.
    pub fn is_gone(&self) -> bool {
        let Some(stream) = &self.stream else { return false };
        // POLLHUP, which is always looked for, means both directions (`unix_poll`).
        let mut asked = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        let [asked] = match poll(&mut asked, PollTimeout::ZERO) {
            Ok(_) => asked,
            Err(_) => return false,
        };
        asked.revents().is_some_and(|seen| seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_elsewhere_is_no_process_here_and_not_trusted() {
        let from = "192.0.2.1:5000".parse().unwrap();
        let caller = Caller::from_elsewhere(Remote { name: "root".to_owned(), from, may_write: true });
        assert!(caller.pid().is_none() && !caller.is_trusted() && !caller.is_gone());
    }

    #[tokio::test]
    async fn who_closed_is_gone_and_who_only_said_all_he_had_to_say_is_not() {
        use tokio::io::AsyncWriteExt;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours);
        assert_eq!((caller.pid(), Caller::default().pid()), (i32::try_from(std::process::id()).ok(), None));
        assert!(!caller.is_gone() && !Caller::default().is_gone());
        theirs.write_all(b"POST").await.unwrap();
        theirs.shutdown().await.unwrap();
        assert!(!caller.is_gone());
        drop(theirs);
        assert!(caller.is_gone(), "although there is something to read");
    }
}
