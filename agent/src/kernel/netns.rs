//! Network namespaces of containers: opened, checked, told apart, and visited.
//!
//! A thread of the runtime never leaves the agent's own namespace: a visit is made by a thread that ends with it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::bpf::netns_cookie_of;

/// The namespace of this process.
const OWN: &str = "/proc/self/ns/net";

mod ioctl {
    // include/uapi/linux/nsfs.h: NS_GET_NSTYPE, the CLONE_NEW* flag of a namespace (kernel 4.11).
    nix::ioctl_none!(ns_get_nstype, 0xb7, 0x3);
}

/// Why a path does not lead to a container's network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It cannot be opened: not there, or not permitted.
    #[error("open network namespace {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no network namespace: it is {is}; give a path such as /run/netns/NAME or /proc/PID/ns/net", path.display())]
    Other {
        /// The path.
        path: PathBuf,
        /// What it is.
        is: &'static str,
    },
    /// It is the agent's own.
    #[error("{} is this host's own network namespace; a container needs one of its own", path.display())]
    Own {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be entered.
    #[error("enter network namespace {}", path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A network namespace, kept alive by being open.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
    id: (u64, u64),
    cookie: u64,
}

impl NetNs {
    /// The network namespace at a path, which must not be the agent's own.
    ///
    /// The path comes from people: it is looked at before it is opened, so that a pipe does not block and a device is not
    /// set off.
    ///
    /// # Errors
    /// It is not there, is no network namespace, is the host's own, or cannot be entered.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let netns = Self::open_any(path)?;
        let own = fs::metadata(OWN).map_err(|source| NetnsError::Open { path: OWN.into(), source })?;
        if netns.id == (own.dev(), own.ino()) {
            return Err(NetnsError::Own { path: path.to_owned() });
        }
        Ok(netns)
    }

    /// The network namespace at a path, the agent's own among them.
    ///
    /// # Errors
    /// As [`NetNs::open`].
    pub fn open_any(path: &Path) -> Result<Self, NetnsError> {
        let failed = |source: io::Error| NetnsError::Open { path: path.to_owned(), source };
        let other = |is| NetnsError::Other { path: path.to_owned(), is };
        // O_PATH: nothing happens to what is there.
        let seen = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).map_err(failed)?;
        let metadata = seen.metadata().map_err(failed)?;
        if fstatfs(&seen).map_err(|e| failed(e.into()))?.filesystem_type() != NSFS_MAGIC {
            return Err(other(kind_of(&metadata)));
        }
        let file = File::open(format!("/proc/self/fd/{}", seen.as_raw_fd())).map_err(failed)?;
        // SAFETY: the call takes no argument and only tells the type of the namespace that `file`, seen to be of nsfs, is.
        let kind = unsafe { ioctl::ns_get_nstype(file.as_raw_fd()) }.map_err(|e| failed(e.into()))?;
        if kind != libc::CLONE_NEWNET {
            return Err(other("a namespace of another type"));
        }
        let enter = |source| NetnsError::Enter { path: path.to_owned(), source };
        let cookie = netns_cookie_of(file.as_fd()).map_err(|e| enter(Box::new(e)))?;
        Ok(Self { path: path.to_owned(), id: (metadata.dev(), metadata.ino()), cookie, file })
    }

    /// Device and inode: no two namespaces have the same at one time. A later one may get the inode of one that has ended;
    /// the cookie is never given twice.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// The namespace's cookie (`SO_NETNS_COOKIE`): unique until the next boot.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the same namespace.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, path: self.path.clone(), id: self.id, cookie: self.cookie })
    }

    /// Runs `work` in the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// When there can be no thread, or it may not enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let visit = || -> io::Result<T> {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        };
        thread::scope(|scope| {
            let visitor = thread::Builder::new().name("netns-visit".to_owned()).spawn_scoped(scope, visit)?;
            visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn kind_of(metadata: &fs::Metadata) -> &'static str {
    if metadata.is_dir() {
        "a directory"
    } else if metadata.is_file() {
        "a plain file (a name below /run/netns whose namespace has ended looks like this)"
    } else {
        "a device, pipe or socket"
    }
}
