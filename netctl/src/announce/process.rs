//! The processes that a registration is about: a command of netctl's own, or one that others have started.
//!
//! Each is followed by a pidfd (pidfd_open(2), Linux 5.3), which stays with the process when its number goes to another one.

use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use weft_api::Registered;
use weft_api::clock::BootTime;

use super::keeper::Keeper;
use crate::run::child::{self, Launch};
use crate::run::env::Variable;
use crate::run::signals::Signals;
use crate::run::{RunError, signal_code};

/// A process that others started.
#[derive(Debug)]
pub struct Followed(AsyncFd<OwnedFd>);

impl Followed {
    /// The process of this number.
    ///
    /// # Errors
    /// There is none.
    pub fn find(pid: i32) -> Result<Self, RunError> {
        let failed = |source| RunError::NoProcess { pid, source };
        // SAFETY: the call takes two numbers and answers with a descriptor or an error.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map_err(|e| failed(e.into()))?;
        let fd = i32::try_from(fd).map_err(|e| failed(io::Error::other(e)))?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it. It is close-on-exec by itself.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an OwnedFd gives the same descriptor as long as it lives, and the AsyncFd owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        fd.map(Self).map_err(|e| failed(e.into()))
    }

    /// Returns when the process has ended, be it reaped or not.
    pub async fn ended(&self) {
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What to start.
#[derive(Debug)]
pub struct Order {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Further variables.
    pub variables: Vec<Variable>,
    /// Whether it gets a process group of its own.
    pub own_group: bool,
}

/// A command of netctl's own. It dies with netctl, and so does its process group, if it has one of its own.
#[derive(Debug)]
pub struct Process {
    child: Child,
    followed: Followed,
    pid: Pid,
    /// Who sees to it that its own group does not outlive it.
    keeper: Option<Keeper>,
    own_group: bool,
}

impl Process {
    /// Starts it, told by `WEFT_ID` and `WEFT_ADDRESS` how it is registered, if it is.
    ///
    /// # Errors
    /// When it is not there or does not run.
    pub fn start(order: Order, id: &str, registered: Option<&Registered>, signals: &Signals) -> Result<Self, RunError> {
        let launch = Launch {
            command: order.command,
            resolv_conf: String::new(),
            cgroup: PathBuf::new(),
            entrances: Vec::new(),
            id: id.to_owned(),
            address: registered.and_then(|r| r.said.addresses.first().copied()),
            variables: order.variables,
            identity: None,
            workdir: None,
            terminal: None,
            own_group: order.own_group,
            blocked: signals.before,
        };
        let mut child = child::start(launch)?;
        let number = child.id().cast_signed();
        let pid = Pid::from_raw(number);
        let keeper = order.own_group.then(|| Keeper::start(pid)).transpose().map_err(RunError::Keeper);
        match keeper.and_then(|keeper| Ok((keeper, Followed::find(number)?))) {
            Ok((keeper, followed)) => Ok(Self { child, followed, pid, keeper, own_group: order.own_group }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    /// Returns when it has ended. It is still there as a zombie, so that no other process can have its number.
    pub async fn ended(&self) {
        self.followed.ended().await;
    }

    /// Hands a signal on to it. One that comes too late changes nothing.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.pid, signal);
    }

    /// Sends a signal to all of its process group, if it has one of its own.
    pub fn signal_group(&self, signal: Signal) {
        let _ = if self.own_group { killpg(self.pid, signal) } else { kill(self.pid, signal) };
    }

    /// From then on it is killed with all of its group, whatever becomes of netctl.
    ///
    /// # Errors
    /// Nobody is there to do that.
    pub fn keep_until(&mut self, at: BootTime) -> Result<(), RunError> {
        self.keeper.as_mut().map_or(Ok(()), |keeper| keeper.until(at)).map_err(RunError::Keeper)
    }

    /// What it ended with: its exit code, or 128 and the number of the signal. Whatever it left in a group of its own is killed.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn reap(mut self) -> Result<u8, RunError> {
        if self.own_group {
            self.signal_group(Signal::SIGKILL);
        }
        // Before its number can be another's.
        if let Some(keeper) = self.keeper.take() {
            keeper.dismiss();
        }
        let status = self.child.wait().map_err(RunError::Wait)?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            (None, signal) => signal_code(signal.unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_followed_to_its_end_and_not_beyond() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        let followed = Followed::find(pid).unwrap();
        let ended = followed.ended();
        tokio::pin!(ended);
        tokio::select! {
            biased;
            () = &mut ended => panic!("it runs"),
            () = tokio::task::yield_now() => {}
        }
        child.kill().unwrap();
        ended.await;
        child.wait().unwrap();
        assert!(Followed::find(pid).is_err_and(|e| e.to_string() == format!("follow process {pid}")));
    }
}
