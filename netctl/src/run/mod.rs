//! What `netctl run` makes of the kernel: a network namespace, a cgroup and a resolv.conf for one command.
//!
//! ```text
//!   main thread                             sandbox thread (sandbox.rs)
//!   ───────────                             ───────────────────────────
//!   block signals (signals.rs)
//!   make ───────────────────────────────▶   unshare network and mounts
//!   attach /proc/P/task/T/ns/net (agent)
//!   make the cgroup, set limits (cgroup.rs,
//!     limits.rs), open a terminal (tty.rs)
//!   launch ─────────────────────────────▶   cover /etc/resolv.conf (mounts.rs), spawn the command in the cgroup (child.rs)
//!   hand signals on ◀── the command ends ─  keep it as a zombie, so that its number stays its own
//!   kill what is left, reap ────────────▶   wait
//!   detach, remove the cgroup               ends: the namespaces go
//! ```
//!
//! Nothing is left on the host but what the agent and the cgroup tree hold, whatever kills `netctl`: the mounts live in the
//! thread's own mount namespace, the command dies with the thread, and a later run removes the abandoned cgroup. The order
//! in which all this is done is in `cmd/run.rs`.

pub mod cgroup;
pub mod child;
pub mod env;
pub mod limits;
mod mounts;
pub mod sandbox;
pub mod signals;
pub mod tty;
pub mod user;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, geteuid};

use crate::error::REFUSED;

/// Why a command was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Namespaces and cgroups are root's.
    #[error("a network namespace and a cgroup are to be made, which takes root: sudo netctl run")]
    NotRoot,
    /// A signal came before the command was started.
    #[error("ended by {0} before the command was started")]
    Interrupted(Signal),
    /// Signals cannot be received.
    #[error("receive signals")]
    Signals(#[source] io::Error),
    /// The thread that holds the namespaces is gone, which only a bug can do.
    #[error("the namespace's thread has ended early")]
    ThreadGone,
    /// The namespaces cannot be made.
    #[error("make a network namespace: {step}")]
    Namespace {
        /// What was being done.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its resolv.conf cannot be put in place.
    #[error("put a resolv.conf in place: {step}")]
    Resolv {
        /// What was being done.
        step: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The agent's cgroup is not to be seen from here.
    #[error(
        "the agent's cgroup {path:?} is no cgroup v2 directory here: is this another mount namespace than the agent's? \
         (`ip netns exec` hides cgroups, `nsenter --net=…` does not)"
    )]
    NoCgroup {
        /// Where the agent has it.
        path: PathBuf,
    },
    /// The command's own cgroup cannot be made, emptied or removed.
    #[error("{step} cgroup {}", path.display())]
    Cgroup {
        /// What was being done.
        step: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another `netctl run` has this id.
    #[error("cgroup {} belongs to another netctl run of this id, which is alive", path.display())]
    CgroupTaken {
        /// The cgroup.
        path: PathBuf,
    },
    /// Processes that do not die.
    #[error("processes in cgroup {} are still alive after {}s", path.display(), after.as_secs())]
    CgroupAlive {
        /// The cgroup.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// A limit cannot be set.
    #[error(transparent)]
    Limit(#[from] limits::LimitError),
    /// There is no such user.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The variables cannot be read.
    #[error(transparent)]
    Env(#[from] env::EnvError),
    /// The command has no terminal.
    #[error("make a terminal: {step}")]
    Terminal {
        /// What was being done.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The command cannot run as the user.
    #[error("become user {uid}")]
    Become {
        /// Its number.
        uid: Uid,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The command cannot run there.
    #[error("--workdir {}", path.display())]
    Workdir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The child cannot be made, or not enter its cgroup.
    #[error("start a process in cgroup {}", cgroup.display())]
    Spawn {
        /// The cgroup.
        cgroup: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no such command.
    #[error("{}: command not found", command.display())]
    NotFound {
        /// As typed.
        command: OsString,
    },
    /// There is such a file, and it does not run.
    #[error("{}: cannot be executed", command.display())]
    NotExecutable {
        /// As typed.
        command: OsString,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no such process, or it may not be followed.
    #[error("follow process {pid}")]
    NoProcess {
        /// Its number.
        pid: i32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The unit cannot be followed.
    #[error("follow unit {unit}: {why}")]
    Unit {
        /// Its name.
        unit: String,
        /// Why not.
        why: String,
    },
    /// The agent does not take the registration.
    #[error("{0}")]
    NotRegistered(String),
    /// There is nobody to see to it that the command does not outlive netctl.
    #[error("start the keeper of the command's process group")]
    Keeper(#[source] io::Error),
    /// The command's end cannot be awaited.
    #[error("wait for the command")]
    Wait(#[source] io::Error),
}

impl RunError {
    /// As shells have it: 127 not found, 126 not executable, 128 and the signal's number.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Interrupted(signal) => signal_code(*signal as i32),
            _ => REFUSED,
        }
    }
}

/// The exit code that shells give a command which a signal ended.
#[must_use]
pub fn signal_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(REFUSED)
}

/// Whether there is any point in trying.
///
/// # Errors
/// [`RunError::NotRoot`].
pub fn check_root() -> Result<(), RunError> {
    if geteuid().is_root() { Ok(()) } else { Err(RunError::NotRoot) }
}
