//! The command itself, from fork to exec: its cgroups, its terminal, whom it runs as, where.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, chdir, getpid, getppid, pipe2, setgid, setgroups, setsid, setuid, write};

use super::RunError;
use super::env::Variable;
use super::user::Identity;

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// What it shall read as /etc/resolv.conf.
    pub resolv_conf: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// `cgroup.procs` of that and of its counterparts in other hierarchies, open for writing.
    pub entrances: Vec<File>,
    /// The endpoint's id, for `WEFT_ID`.
    pub id: String,
    /// Its address, for `WEFT_ADDRESS`.
    pub address: Option<IpAddr>,
    /// Further variables.
    pub variables: Vec<Variable>,
    /// Whom it runs as, if not as netctl.
    pub identity: Option<Identity>,
    /// Where it runs, if not where netctl does.
    pub workdir: Option<PathBuf>,
    /// A terminal for it, as its input and output, with a session of its own.
    pub terminal: Option<OwnedFd>,
    /// Whether it gets a process group of its own, where it gets no session.
    pub own_group: bool,
    /// The signals that it begins with blocked.
    pub blocked: SigSet,
}

/// What the child does between fork and exec, in this order; each says its letter before it begins. std reports what went
/// wrong there, not where.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Cgroup = b'c',
    Session = b's',
    User = b'u',
    Parent = b'p',
    Workdir = b'w',
    Exec = b'x',
}

/// Starts it, as a child of the calling thread.
///
/// # Errors
/// When it is not there, does not run, or its surroundings cannot be made.
pub fn start(launch: Launch) -> Result<Child, RunError> {
    let cgroup = launch.cgroup.clone();
    let workdir = launch.workdir.clone().unwrap_or_default();
    let uid = launch.identity.as_ref().map(|identity| identity.uid);
    let name = launch.command.first().cloned().unwrap_or_default();
    let spawn_failed = |source| RunError::Spawn { cgroup: cgroup.clone(), source };

    let (probe, mark) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|e| spawn_failed(e.into()))?;
    let mut command = prepare(launch, mark).map_err(&spawn_failed)?;
    command.spawn().map_err(|source| {
        let mut said = [0; 16];
        let count = File::from(probe).read(&mut said).unwrap_or(0);
        match said.get(..count).and_then(<[u8]>::last).copied() {
            Some(step) if step == Step::Session as u8 => RunError::Terminal { step: "make it the command's own", source },
            Some(step) if step == Step::User as u8 => RunError::Become { uid: uid.unwrap_or(nix::unistd::geteuid()), source },
            Some(step) if step == Step::Workdir as u8 => RunError::Workdir { path: workdir, source },
            Some(step) if step == Step::Exec as u8 && source.kind() == io::ErrorKind::NotFound => {
                RunError::NotFound { command: name }
            }
            Some(step) if step == Step::Exec as u8 => RunError::NotExecutable { command: name, source },
            _ => spawn_failed(source),
        }
    })
}

fn prepare(launch: Launch, mark: OwnedFd) -> io::Result<Command> {
    let Launch { command: words, entrances, id, address, variables, identity, workdir, terminal, own_group, blocked, .. } =
        launch;
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    let own = identity.as_ref().map(|identity| identity.variables.clone()).unwrap_or_default();
    let address = address.map(|address| address.to_string().into());
    let ours = [("WEFT_ID".into(), Some(id.into())), ("WEFT_ADDRESS".into(), address)];
    for (name, value) in own.into_iter().chain(variables).chain(ours) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(terminal) = &terminal {
        command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal.try_clone()?);
    } else if own_group {
        command.process_group(0);
    }

    let workdir = workdir.map(|dir| CString::new(dir.as_os_str().as_bytes())).transpose()?;
    let has_terminal = terminal.is_some();
    let parent = getpid();
    let between = move || {
        let begin = |step: Step| write(&mark, &[step as u8]);
        begin(Step::Cgroup)?;
        for entrance in &entrances {
            // "0" is the writer itself (cgroups(7)).
            write(entrance, b"0")?;
        }
        if has_terminal {
            begin(Step::Session)?;
            setsid()?;
            // SAFETY: the request takes a number, and 0 is the terminal, which std has put there by now.
            Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        if let Some(identity) = &identity {
            begin(Step::User)?;
            setgroups(&identity.groups)?;
            setgid(identity.gid)?;
            setuid(identity.uid)?;
        }
        begin(Step::Parent)?;
        bind_to(parent)?;
        if let Some(dir) = &workdir {
            begin(Step::Workdir)?;
            chdir(dir.as_c_str())?;
        }
        blocked.thread_set_mask()?;
        begin(Step::Exec)?;
        Ok(())
    };
    // SAFETY: between fork and exec, `between` makes system calls on what it owns, and neither allocates nor locks: nix's
    // wrappers only translate errno (setgroups and chdir pass on the memory that they are given), glibc's setuid and setgid find
    // no other thread to tell, and io::Error::from(Errno) stores a number.
    unsafe { command.pre_exec(between) };
    Ok(command)
}

/// Dies with netctl from now on. After the change of user, which ends such a bond (prctl(2)).
fn bind_to(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // netctl may have died before the line above.
    if getppid() == parent { Ok(()) } else { Err(io::Error::from(Errno::EOWNERDEAD)) }
}
