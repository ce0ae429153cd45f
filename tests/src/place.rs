//! Where a command runs: in which network namespace, in which cgroup, with which mounts and which view of the cgroups; and how its end is waited for.
//!
//! Namespaces are entered by setns on the network namespace alone. `ip netns exec` is never used: it makes a mount
//! namespace of its own in which /sys is mounted anew and the cgroup tree is hidden.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// The environment variable that every process of a topology carries, with the topology's name as value.
pub const MARK: &str = "WEFT_TEST_TOPOLOGY";

/// The variable by which a run of the test command marks all that it starts; handed on when it is set.
pub const RUN_MARK: &str = "WEFT_TEST_RUN";

/// How long a command may take unless told otherwise.
pub const COMMAND_BOUND: Duration = Duration::from_secs(60);

/// The system's own programs, so that `python3` is what the package brings and no developer's wrapper.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A place to run commands in.
#[derive(Clone, Debug)]
pub struct Place {
    /// The topology it belongs to.
    pub(crate) topology: String,
    /// A file that is the network namespace.
    pub(crate) netns: PathBuf,
    /// A file that is the mount namespace, where it differs from ours.
    pub(crate) mounts: Option<PathBuf>,
    /// A file that is the cgroup namespace, where it differs from ours.
    pub(crate) groups: Option<PathBuf>,
    /// The cgroup, as a directory.
    pub(crate) cgroup: PathBuf,
}

impl Place {
    /// The file that is the network namespace, for `nsenter --net=`.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// The cgroup's directory.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that will run here: own process group, no standard input, and an environment that does not depend on who
    /// runs the tests.
    ///
    /// # Errors
    /// When the place is no more.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let netns = open(&self.netns)?;
        let mounts = self.mounts.as_deref().map(open).transpose()?;
        let groups = self.groups.as_deref().map(open).transpose()?;
        let procs = self.cgroup.join("cgroup.procs");
        let mut procs = OpenOptions::new().write(true).open(&procs).with_context(|| format!("open {}", procs.display()))?;

        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0).env_clear();
        command.env("PATH", PATH).env("LANG", "C.UTF-8").env("RUST_BACKTRACE", "1").env(MARK, &self.topology);
        for kept in ["HOME", "TMPDIR", RUN_MARK] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        // SAFETY: between fork and exec only `write` and `setns` on descriptors that the closure owns; nothing allocates.
        unsafe {
            command.pre_exec(move || {
                // "0" is the writing process itself.
                procs.write_all(b"0")?;
                if let Some(groups) = &groups {
                    setns(groups.as_fd(), CloneFlags::CLONE_NEWCGROUP)?;
                }
                if let Some(mounts) = &mounts {
                    setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
                }
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        Ok(command)
    }

    /// Runs a command to its end, within [`COMMAND_BOUND`].
    ///
    /// # Errors
    /// When it cannot be started or does not end in time. An exit code other than 0 is no error here: see [`Output::success`].
    pub fn exec<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.exec_within(COMMAND_BOUND, args)
    }

    /// As [`Place::exec`], with a bound of one's own.
    ///
    /// # Errors
    /// As [`Place::exec`].
    pub fn exec_within<A: AsRef<OsStr>>(&self, bound: Duration, args: impl IntoIterator<Item = A>) -> Result<Output> {
        let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let (program, rest) = args.split_first().context("no command given")?;
        let mut command = self.command(program)?;
        command.args(rest);
        finish(command, &spell(&args), bound)
    }

    /// Starts a command that goes on in the background; what it says goes to `<dir>/<name>.out` and `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<A: AsRef<OsStr>>(&self, dir: &Path, name: &str, args: impl IntoIterator<Item = A>) -> Result<Daemon> {
        let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let (program, rest) = args.split_first().context("no command given")?;
        let mut command = self.command(program)?;
        command.args(rest);
        Daemon::start(command, spell(&args), dir, name)
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("open namespace {}", path.display()))
}

/// The command as one would type it.
fn spell(args: &[OsString]) -> String {
    let words: Vec<_> = args.iter().map(|a| a.to_string_lossy()).collect();
    words.join(" ")
}

/// What a command that has ended left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command as one would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Itself, if the command ended with 0.
    ///
    /// # Errors
    /// Otherwise: the command, how it ended and what it said.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{}: {}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }

    /// The exit code; -1 for an end by signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The standard output as JSON, if the command ended with 0.
    ///
    /// # Errors
    /// When it did not, or what it printed is no JSON.
    pub fn json(self) -> Result<Value> {
        let output = self.success()?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("{} printed no JSON: {:?} {:?}", output.command, output.stdout, output.stderr))
    }
}

/// Runs `command` to its end. When `bound` passes first, it and its children are killed.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub fn finish(mut command: Command, spelled: &str, bound: Duration) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {spelled}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("wait for {spelled}"))? {
            break status;
        }
        if start.elapsed() > bound {
            kill_group(&child, Signal::SIGKILL);
            child.wait().with_context(|| format!("wait for {spelled}"))?;
            bail!("{spelled}: still running after {} s\n{}{}", bound.as_secs(), text(stdout), text(stderr));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ok(Output { command: spelled.to_owned(), status, stdout: text(stdout), stderr: text(stderr) })
}

type Collected = std::thread::JoinHandle<Vec<u8>>;

/// Reads a pipe to its end beside the command, so that a full pipe never stops it.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Collected {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn text(collected: Collected) -> String {
    String::from_utf8_lossy(&collected.join().unwrap_or_default()).into_owned()
}

fn kill_group(child: &Child, signal: Signal) {
    // The group may be gone already, which is what is wanted.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), signal);
}

/// A command in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Mutex<Child>,
    command: String,
    out: PathBuf,
    log: PathBuf,
}

impl Daemon {
    fn start(mut command: Command, spelled: String, dir: &Path, name: &str) -> Result<Self> {
        let out = dir.join(format!("{name}.out"));
        let log = dir.join(format!("{name}.log"));
        let append = |path: &Path| {
            OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
        };
        command.stdout(append(&out)?).stderr(append(&log)?);
        let child = command.spawn().with_context(|| format!("start {spelled}"))?;
        Ok(Self { child: Mutex::new(child), command: spelled, out, log })
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// The command as one would type it.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// What it printed to its standard output so far. A restarted one appends.
    #[must_use]
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it printed to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        self.child().try_wait().with_context(|| format!("wait for {}", self.command))
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("send {signal} to {}: it has ended: {status}", self.command);
        }
        nix::sys::signal::kill(Pid::from_raw(self.pid().cast_signed()), signal)
            .with_context(|| format!("send {signal} to {}", self.command))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `bound`; the error has the end of its log.
    pub fn wait(&self, bound: Duration) -> Result<ExitStatus> {
        crate::eventually(&format!("end of {}", self.command), bound, || match self.ended() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("still running; its log ends with:\n{}", tail(&self.stderr(), 20))),
            Err(e) => Err(format!("{e:#}")),
        })
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// As [`Daemon::signal`] and [`Daemon::wait`].
    pub fn stop(&self, bound: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(bound)
    }

    /// SIGKILL, and the end is there when this returns.
    ///
    /// # Errors
    /// When it had ended before by itself; its log is in the error.
    pub fn kill9(&self) -> Result<()> {
        let mut child = self.child();
        child.kill().with_context(|| format!("kill {}", self.command))?;
        let status = child.wait().with_context(|| format!("wait for {}", self.command))?;
        if status.signal() == Some(Signal::SIGKILL as i32) {
            return Ok(());
        }
        bail!("{} had ended by itself: {status}\n{}", self.command, tail(&self.stderr(), 20))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut child = self.child();
        if let Ok(None) = child.try_wait() {
            kill_group(&child, Signal::SIGKILL);
            // Reaped, so that no zombie outlives the test; it cannot refuse.
            let _ = child.wait();
        }
    }
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
