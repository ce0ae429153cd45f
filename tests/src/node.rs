//! A real agent: `weftd` with the flags that let several of them run on one kernel, and `netctl` beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::clients::Home;
use crate::etcd::endpoint_at;
use crate::eventually::{SOON, eventually};
use crate::host::UPLINK;
use crate::place::{COMMAND_BOUND, Daemon, Output, Place, finish, tail};
use crate::topology::Wire;

/// The variable that names the directory with `weftd` and `netctl`.
pub const BIN_DIR: &str = "WEFT_BIN_DIR";

/// How long an agent may take to be ready on a busy machine.
const READY_BOUND: Duration = Duration::from_secs(60);

/// Finds one of our binaries: in `WEFT_BIN_DIR`, else beside this executable or (for tests) in the directory above.
///
/// # Errors
/// When it is not there; the error names the command that builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dirs = match std::env::var_os(BIN_DIR) {
        Some(dir) => vec![PathBuf::from(dir)],
        None => {
            let own = std::env::current_exe().context("find this executable")?;
            // target/debug/deps/test-hash, or target/debug/weft-demo
            own.ancestors().skip(1).take(2).map(Path::to_owned).collect()
        }
    };
    match dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no {name} in {}; `cargo build` makes it", dirs[0].display()),
    }
}

/// Finds a tool of others' that `cargo xtask setup` has built: in `tools/bin` beside the directory of our binaries.
///
/// # Errors
/// When it is not there; the error names the command that builds it.
pub fn tool(name: &str) -> Result<PathBuf> {
    let target = binary("weftd")?.ancestors().nth(2).map(Path::to_owned).context("our binaries are in no target directory")?;
    let path = target.join("tools/bin").join(name);
    ensure!(path.is_file(), "no {}; `cargo xtask setup` builds it", path.display());
    Ok(path)
}

/// Finds an environment of Python's that `cargo xtask setup` has made: a directory in `tools` beside that of our binaries.
///
/// # Errors
/// When it is not there; the error names the command that makes it.
pub fn environment(name: &str) -> Result<PathBuf> {
    let target = binary("weftd")?.ancestors().nth(2).map(Path::to_owned).context("our binaries are in no target directory")?;
    let path = target.join("tools").join(name);
    ensure!(path.join("bin/python").exists(), "no {}; `cargo xtask setup` makes it", path.display());
    Ok(path)
}

/// The agent of one host.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    place: Place,
    process: Option<Daemon>,
    /// Without the leading hyphens; what has no value is a plain switch.
    flags: BTreeMap<String, String>,
    /// Flags of which there may be several, as typed.
    more: Vec<OsString>,
    /// Environment variables.
    env: BTreeMap<String, String>,
    /// A command that starts it, as `setpriv …` does.
    wrapper: Vec<OsString>,
    /// The agent's own binary, where it is not the one that was built.
    binary: Option<PathBuf>,
}

impl Node {
    pub(crate) fn new(name: &str, place: Place, dir: PathBuf, wire: Wire, lease_ttl: Duration) -> Self {
        let path = |p: &str| dir.join(p).to_string_lossy().into_owned();
        let flags = [
            ("node-name", name.to_owned()),
            ("etcd-endpoints", endpoint_at(wire.fabric())),
            ("iface", UPLINK.to_owned()),
            ("run-dir", path("run")),
            ("state-dir", path("state")),
            ("bpffs", path("bpf")),
            ("cgroup", place.cgroup().to_string_lossy().into_owned()),
            ("lease-ttl", format!("{}s", lease_ttl.as_secs())),
            ("dns-upstream", SocketAddr::new(wire.fabric(), 53).to_string()),
            ("log", "info".to_owned()),
        ];
        let flags = flags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let state =
            State { place, process: None, flags, more: Vec::new(), env: BTreeMap::new(), wrapper: Vec::new(), binary: None };
        Self { name: name.to_owned(), dir, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> Place {
        self.state().place.clone()
    }

    /// Has it and `netctl` run in the host's home from the next start on, where they see what tools there see: namespaces that
    /// are mounted in `/run/netns`, say. There its socket is at the default path, `/run/weft/weft.sock`, too.
    pub fn live_in(&self, home: &Home) {
        let mut state = self.state();
        state.place = home.place().clone();
        state.flags.insert("cgroup".to_owned(), "/sys/fs/cgroup".to_owned());
    }

    /// Sets a flag (named without hyphens) for the next start.
    pub fn set_flag(&self, flag: &str, value: &str) {
        self.state().flags.insert(flag.to_owned(), value.to_owned());
    }

    /// Takes a flag away for the next start: its default holds.
    pub fn unset_flag(&self, flag: &str) {
        self.state().flags.remove(flag);
    }

    /// Adds arguments as they are for the next start.
    pub fn add_args<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) {
        self.state().more.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
    }

    /// Takes all flags away for the next start and sets environment variables in their place: the flag `run-dir` becomes
    /// `WEFT_RUN_DIR`.
    pub fn flags_into_environment(&self) {
        let mut state = self.state();
        let flags = std::mem::take(&mut state.flags);
        let name = |flag: String| format!("WEFT_{}", flag.to_uppercase().replace('-', "_"));
        state.env.extend(flags.into_iter().map(|(flag, value)| (name(flag), value)));
    }

    /// Starts it through another command from now on, which gets the command line as its last arguments.
    pub fn set_wrapper<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) {
        self.state().wrapper = words.into_iter().map(|w| w.as_ref().to_owned()).collect();
    }

    /// Starts another binary from now on, as after an upgrade.
    pub fn set_binary(&self, path: &Path) {
        self.state().binary = Some(path.to_owned());
    }

    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The mount point of its bpffs.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The ids of the containers at whose devices there is a program: its link is pinned.
    ///
    /// # Errors
    /// When it is not running, or the pins cannot be listed.
    pub fn linked(&self) -> Result<BTreeSet<String>> {
        let mut linked = BTreeSet::new();
        // As the agent sees it, whatever its mount namespace is.
        let bpffs = format!("/proc/{}/root{}", self.pid()?, self.bpffs().display());
        for layout in std::fs::read_dir(&bpffs).with_context(|| format!("list {bpffs}"))? {
            let layout = layout?;
            // The kernel's own `progs.debug` and `maps.debug` are files beside them.
            if !layout.file_type()?.is_dir() {
                continue;
            }
            let links = layout.path().join("links");
            for pin in std::fs::read_dir(&links).with_context(|| format!("list {}", links.display()))? {
                let name = pin?.file_name().to_string_lossy().into_owned();
                linked.extend(name.strip_prefix("container-").map(str::to_owned));
            }
        }
        Ok(linked)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("weft.sock")
    }

    /// The whole command line, wrapper and environment included.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn command_line(&self) -> Result<Vec<OsString>> {
        let state = self.state();
        let mut args = Vec::new();
        if !state.env.is_empty() {
            args.push("env".into());
            args.extend(state.env.iter().map(|(name, value)| OsString::from(format!("{name}={value}"))));
        }
        args.extend(state.wrapper.iter().cloned());
        let program = state.binary.clone().map_or_else(|| binary("weftd"), Ok)?;
        args.push(program.into_os_string());
        for (flag, value) in &state.flags {
            args.push(format!("--{flag}={value}").into());
        }
        args.extend(state.more.iter().cloned());
        Ok(args)
    }

    /// Starts it. It is not ready yet when this returns.
    ///
    /// # Errors
    /// When it is running, or cannot be started.
    pub fn start(&self) -> Result<()> {
        let args = self.command_line()?;
        let mut state = self.state();
        ensure!(state.process.is_none(), "weftd of {} is running", self.name);
        state.process = Some(state.place.spawn(&self.dir, "weftd", args)?);
        Ok(())
    }

    fn take(&self) -> Result<Daemon> {
        self.state().process.take().with_context(|| format!("weftd of {} is not running", self.name))
    }

    /// SIGKILL; it is gone when this returns.
    ///
    /// # Errors
    /// When it was not running any more; its log is in the error.
    pub fn kill9(&self) -> Result<()> {
        self.take()?.kill9()
    }

    /// SIGTERM; it is gone when this returns.
    ///
    /// # Errors
    /// When it was not running, or does not end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.take()?.stop(SOON)
    }

    /// Ends it and has it remove all that is its own.
    ///
    /// # Errors
    /// When it was not running, or cannot remove something.
    pub fn cleanup(&self) -> Result<()> {
        self.stop()?;
        let mut words = self.command_line()?;
        words.push("cleanup".into());
        self.place().exec(words)?.success().map(drop)
    }

    /// Waits for an end that comes by itself, as of an agent that refuses to start.
    ///
    /// # Errors
    /// When it goes on running.
    pub fn wait_end(&self) -> Result<ExitStatus> {
        self.take()?.wait(SOON)
    }

    /// Takes notice that it was killed together with its host.
    pub(crate) fn reap(&self) {
        drop(self.state().process.take());
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self) -> Result<u32> {
        let state = self.state();
        let process = state.process.as_ref().with_context(|| format!("weftd of {} is not running", self.name))?;
        Ok(process.pid())
    }

    /// What it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("weftd.log")).unwrap_or_default()
    }

    /// Runs `netctl` with its socket.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn netctl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        let words = self.netctl_line(args)?;
        let spelled: Vec<_> = words.iter().skip(3).map(|w| w.to_string_lossy()).collect();
        let mut command = self.place().command(&words[0])?;
        command.args(&words[1..]);
        finish(command, &format!("netctl {} (on {})", spelled.join(" "), self.name), COMMAND_BOUND)
    }

    /// The words of a `netctl` command line against this agent.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn netctl_line<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Vec<OsString>> {
        let mut words = vec![binary("netctl")?.into_os_string(), "--socket".into(), self.socket().into_os_string()];
        words.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        Ok(words)
    }

    /// `netctl status -o json`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        self.netctl(["status", "-o", "json"])?.json()
    }

    /// Waits until it answers at all, ready or not.
    ///
    /// # Errors
    /// When it does not soon, or has ended; the end of its log is in the error.
    pub fn wait_answering(&self) -> Result<Value> {
        eventually(&format!("weftd of {} answers", self.name), READY_BOUND, || self.look(|_| Ok(())))
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// As [`Node::wait_answering`].
    pub fn wait_ready(&self) -> Result<Value> {
        eventually(&format!("weftd of {} is ready", self.name), READY_BOUND, || {
            self.look(|status| {
                ensure!(status["ready"] == true, "{status}");
                Ok(())
            })
        })
    }

    /// Waits until it knows this many peers.
    ///
    /// # Errors
    /// As [`Node::wait_answering`].
    pub fn wait_peers(&self, count: usize) -> Result<Value> {
        eventually(&format!("weftd of {} has {count} peers", self.name), READY_BOUND, || {
            self.look(|status| {
                ensure!(status["peers"].as_array().map_or(0, Vec::len) == count, "{status}");
                Ok(())
            })
        })
    }

    /// Waits until its status is as wanted.
    ///
    /// # Errors
    /// As [`Node::wait_answering`].
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(&format!("status of {}: {what}", self.name), READY_BOUND, || {
            self.look(|status| {
                ensure!(wanted(status), "{status}");
                Ok(())
            })
        })
    }

    fn look(&self, check: impl Fn(&Value) -> Result<()>) -> Result<Value> {
        if let Some(process) = &self.state().process
            && let Some(status) = process.ended()?
        {
            bail!("weftd has ended: {status}\n{}", tail(&process.stderr(), 20));
        }
        let status = self.status()?;
        check(&status)?;
        Ok(status)
    }
}
