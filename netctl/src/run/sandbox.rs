//! The thread that holds a command's namespaces, and starts it (child.rs).
//!
//! Namespaces are a thread's own in Linux. A thread that leaves the host's for new ones needs no second process to hold them,
//! and what it starts is born in them. It must outlive the command: the command's parent-death signal is bound to it
//! (prctl(2), PR_SET_PDEATHSIG).

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, gettid, sethostname};
use tokio::sync::oneshot;

use super::child::{self, Launch};
use super::{RunError, mounts, signal_code};

/// A network and a mount namespace. Dropping it lets them go, once what runs in them has ended.
#[derive(Debug)]
pub struct Sandbox {
    netns: PathBuf,
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
struct Order {
    launch: Launch,
    started: oneshot::Sender<Result<Pid, RunError>>,
    ended: oneshot::Sender<()>,
    reap: oneshot::Receiver<()>,
    status: oneshot::Sender<io::Result<std::process::ExitStatus>>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    ended: oneshot::Receiver<()>,
    reap: oneshot::Sender<()>,
    status: oneshot::Receiver<io::Result<std::process::ExitStatus>>,
}

impl Sandbox {
    /// Makes the namespaces; with a host name, one for that too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn make(hostname: Option<String>) -> Result<Self, RunError> {
        let (ready, is_ready) = oneshot::channel();
        let (orders, inbox) = mpsc::channel();
        std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || live(hostname.as_deref(), ready, &inbox))
            .map_err(|source| RunError::Namespace { step: "start a thread", source })?;
        let netns = is_ready.await.map_err(|_| RunError::ThreadGone)??;
        Ok(Self { netns, orders })
    }

    /// The network namespace's path, good as long as this lives.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Starts the command.
    ///
    /// # Errors
    /// When it is not there, does not run, or its surroundings cannot be made.
    pub async fn launch(&self, launch: Launch) -> Result<Running, RunError> {
        let (started, is_started) = oneshot::channel();
        let (ended, has_ended) = oneshot::channel();
        let (reap, may_reap) = oneshot::channel();
        let (status, has_status) = oneshot::channel();
        let order = Order { launch, started, ended, reap: may_reap, status };
        self.orders.send(order).map_err(|_| RunError::ThreadGone)?;
        let pid = is_started.await.map_err(|_| RunError::ThreadGone)??;
        Ok(Running { pid, ended: has_ended, reap, status: has_status })
    }
}

impl Running {
    /// Returns when the command has ended. It is still there as a zombie, so that no other process can have its number.
    pub async fn ended(&mut self) {
        // A thread that is gone has no command either.
        let _ = (&mut self.ended).await;
    }

    /// Hands a signal on. One that comes too late changes nothing.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.pid, signal);
    }

    /// What the command ended with: its exit code, or 128 and the number of the signal.
    ///
    /// # Errors
    /// When that cannot be known.
    pub async fn reap(self) -> Result<u8, RunError> {
        // A receiver that is gone was dropped by a thread that reaps anyway.
        let _ = self.reap.send(());
        let status = self.status.await.map_err(|_| RunError::ThreadGone)?.map_err(RunError::Wait)?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            (None, signal) => signal_code(signal.unwrap_or_default()),
        })
    }
}

/// The thread: makes the namespaces, then does as it is told until nobody can tell it any more.
fn live(hostname: Option<&str>, ready: oneshot::Sender<Result<PathBuf, RunError>>, inbox: &mpsc::Receiver<Order>) {
    let entered = enter(hostname);
    let failed = entered.is_err();
    if ready.send(entered).is_err() || failed {
        return;
    }
    while let Ok(order) = inbox.recv() {
        carry_out(order);
    }
}

fn enter(hostname: Option<&str>) -> Result<PathBuf, RunError> {
    let failed = |step| move |source| RunError::Namespace { step, source };
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(io::Error::from).map_err(failed("unshare"))?;
    mounts::follow_host().map_err(failed("make its mounts its own"))?;
    loopback_up().map_err(failed("set its loopback device up"))?;
    if let Some(name) = hostname {
        unshare(CloneFlags::CLONE_NEWUTS).map_err(io::Error::from).map_err(failed("unshare the host's name"))?;
        sethostname(name).map_err(io::Error::from).map_err(failed("set its host name"))?;
    }
    Ok(PathBuf::from(format!("/proc/{}/task/{}/ns/net", getpid(), gettid())))
}

/// Sets `lo` of the calling thread's network namespace up.
fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is integers, arrays and a union of such: all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both calls read and write one ifreq, which `request` is, and the socket is open until this function returns.
    // SIOCGIFFLAGS has made `ifru_flags` the union's valid member before it is read.
    unsafe {
        Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
        Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request))?;
    }
    Ok(())
}

fn carry_out(order: Order) {
    let Order { launch, started, ended, reap, status } = order;
    let mut child = match mounts::cover_resolv_conf(&launch.resolv_conf).and_then(|()| child::start(launch)) {
        Ok(child) => child,
        Err(e) => {
            let _ = started.send(Err(e));
            return;
        }
    };
    let pid = Pid::from_raw(child.id().cast_signed());
    let _ = started.send(Ok(pid));
    // WNOWAIT leaves the zombie; an error can only mean that there is nothing to wait for.
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let _ = ended.send(());
    let _ = reap.blocking_recv();
    let _ = status.send(child.wait());
}
