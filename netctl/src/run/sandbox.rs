//! The thread that holds a command's namespaces, and starts it.
//!
//! Namespaces are a thread's own in Linux. A thread that leaves the host's for new ones needs no second process to hold them,
//! and what it starts is born in them. It must outlive the command: the command's parent-death signal is bound to it
//! (prctl(2), PR_SET_PDEATHSIG).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid, gettid, pipe2, write};
use tokio::sync::oneshot;

use super::{RunError, mounts, signal_code};

/// A network and a mount namespace. Dropping it lets them go, once what runs in them has ended.
#[derive(Debug)]
pub struct Sandbox {
    netns: PathBuf,
    orders: mpsc::Sender<Order>,
}

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// What it shall read as /etc/resolv.conf.
    pub resolv_conf: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The cgroup's `cgroup.procs`, open for writing.
    pub entrance: File,
    /// The endpoint's id, for `WEFT_ID`.
    pub id: String,
    /// Its address, for `WEFT_ADDRESS`.
    pub address: Option<IpAddr>,
    /// Whether it gets a process group of its own.
    pub own_group: bool,
    /// The signals that it begins with blocked.
    pub blocked: SigSet,
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
    /// Makes the namespaces.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn make() -> Result<Self, RunError> {
        let (ready, is_ready) = oneshot::channel();
        let (orders, inbox) = mpsc::channel();
        std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || live(ready, &inbox))
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
fn live(ready: oneshot::Sender<Result<PathBuf, RunError>>, inbox: &mpsc::Receiver<Order>) {
    let entered = enter();
    let failed = entered.is_err();
    if ready.send(entered).is_err() || failed {
        return;
    }
    while let Ok(order) = inbox.recv() {
        carry_out(order);
    }
}

fn enter() -> Result<PathBuf, RunError> {
    let failed = |step| move |source| RunError::Namespace { step, source };
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(io::Error::from).map_err(failed("unshare"))?;
    mounts::follow_host().map_err(failed("make its mounts its own"))?;
    loopback_up().map_err(failed("set its loopback device up"))?;
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
    let mut child = match start(launch) {
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

fn start(launch: Launch) -> Result<std::process::Child, RunError> {
    let Launch { command: words, resolv_conf, cgroup, entrance, id, address, own_group, blocked } = launch;
    mounts::cover_resolv_conf(&resolv_conf)?;
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let mut command = Command::new(&name);
    command.args(words).env("WEFT_ID", id);
    match address {
        Some(address) => command.env("WEFT_ADDRESS", address.to_string()),
        None => command.env_remove("WEFT_ADDRESS"),
    };
    if own_group {
        command.process_group(0);
    }

    // std reports what went wrong in the child, not where; a byte in this pipe says that it came as far as exec.
    let spawn_failed = |source| RunError::Spawn { cgroup: cgroup.clone(), source };
    let (probe, mark) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|e| spawn_failed(e.into()))?;
    let parent = getpid();
    let prepare = move || {
        // "0" is the writer itself (cgroups(7)).
        write(&entrance, b"0")?;
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // netctl died before the line above could bind the command to it.
            return Err(io::Error::from(Errno::EOWNERDEAD));
        }
        blocked.thread_set_mask()?;
        write(&mark, b"x")?;
        Ok(())
    };
    // SAFETY: between fork and exec, `prepare` makes five system calls on what it owns, and neither allocates nor locks:
    // nix's wrappers only translate errno, and io::Error::from(Errno) stores a number.
    unsafe { command.pre_exec(prepare) };
    command.spawn().map_err(|source| {
        let came_to_exec = File::from(probe).read(&mut [0]).is_ok_and(|n| n == 1);
        match (came_to_exec, source.kind()) {
            (false, _) => spawn_failed(source),
            (true, io::ErrorKind::NotFound) => RunError::NotFound { command: name },
            (true, _) => RunError::NotExecutable { command: name, source },
        }
    })
}
