//! A container: what `netctl run` makes of a command, and a way to run further commands beside it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cgroup;
use crate::eventually::{SOON, eventually};
use crate::host::Host;
use crate::place::{Daemon, Output, Place, tail};

/// A command that runs under `netctl run`. Dropping it kills `netctl`; [`Container::stop`] ends it properly.
#[derive(Debug)]
pub struct Container {
    netctl: Daemon,
    pid: u32,
    place: Place,
    dir: PathBuf,
}

impl Container {
    pub(crate) fn start(host: &Host, options: Vec<&str>, command: Vec<&str>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let args = ["run"].into_iter().chain(options).chain(["--"]).chain(command);
        let words = host.agent.netctl_line(args)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let netctl = host.place().spawn(host.dir(), &format!("container-{number}"), words)?;

        let outside = netns_inode(netctl.pid())?;
        let pid = eventually(&format!("{} runs its command", netctl.command()), SOON, || {
            if let Some(status) = netctl.ended()? {
                bail!("it ended: {status}\n{}{}", netctl.stdout(), tail(&netctl.stderr(), 20));
            }
            find_command(netctl.pid(), outside).with_context(|| format!("no child yet\n{}", tail(&netctl.stderr(), 20)))
        })?;
        let place = Place {
            topology: host.place().topology.clone(),
            netns: PathBuf::from(format!("/proc/{pid}/ns/net")),
            mounts: Some(PathBuf::from(format!("/proc/{pid}/ns/mnt"))),
            groups: None,
            cgroup: cgroup::of_process(pid)?,
        };
        Ok(Self { netctl, pid, place, dir: host.dir().to_owned() })
    }

    /// The process id of its command.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What its command printed.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.netctl.stdout()
    }

    /// Where its commands run.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Runs a second command inside: same network, same /etc/resolv.conf, same cgroup.
    ///
    /// # Errors
    /// As [`Place::exec`].
    pub fn exec<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.place.exec(args)
    }

    /// Starts a second command inside that goes on in the background.
    ///
    /// # Errors
    /// As [`Place::spawn`].
    pub fn spawn<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Result<Daemon> {
        self.place.spawn(&self.dir, &format!("{name}-{}", self.pid), args)
    }

    /// Its IPv4 address, as its kernel has it.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let links = self.exec(["ip", "-4", "-json", "address", "show", "scope", "global"])?.json()?;
        let local = links
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
            .find_map(|info| info["local"].as_str());
        local.with_context(|| format!("no address in {links}"))?.parse().context("parse what ip prints")
    }

    /// Its IPv6 address, as its kernel has it.
    ///
    /// # Errors
    /// When it has none.
    pub fn address6(&self) -> Result<Ipv6Addr> {
        let links = self.exec(["ip", "-6", "-json", "address", "show", "scope", "global"])?.json()?;
        let local = links
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
            .find_map(|info| info["local"].as_str());
        local.with_context(|| format!("no IPv6 address in {links}"))?.parse().context("parse what ip prints")
    }

    /// Ends its command with SIGTERM, and waits until `netctl` has detached it.
    ///
    /// # Errors
    /// When it has ended before, or does not end.
    pub fn stop(&self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGTERM)
            .with_context(|| format!("end the command of {}", self.netctl.command()))?;
        self.wait()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it goes on.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.netctl.wait(SOON)
    }
}

/// Runs a container's command to its end with `netctl run OPTIONS -- COMMAND`.
///
/// # Errors
/// When it cannot be started or does not end. Its exit code is not judged.
pub fn run_to_end(host: &Host, options: &[&str], command: &[&str]) -> Result<Output> {
    let args = [&["run"], options, &["--"], command].concat();
    host.netctl(args.into_iter().map(OsString::from))
}

/// The first process below `root` whose network is not `outside` and which is no `netctl` any more.
fn find_command(root: u32, outside: u64) -> Result<u32> {
    let mut below = vec![root];
    let mut found = None;
    while let Some(parent) = below.pop() {
        for child in children(parent)? {
            let exe = fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
            let is_netctl = exe.file_name() == Some(OsStr::new("netctl"));
            if !is_netctl && !exe.as_os_str().is_empty() && netns_inode(child).is_ok_and(|inode| inode != outside) {
                found = found.or(Some(child));
            }
            below.push(child);
        }
    }
    found.context("no process in another network")
}

fn netns_inode(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/ns/net");
    Ok(fs::metadata(&path).with_context(|| format!("look at {path}"))?.ino())
}

/// The children of a process, from `/proc/*/stat`: `/proc/<pid>/task/*/children` is not in every kernel.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new("/proc")).context("list /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // proc(5): pid (comm) state ppid; comm may hold anything, so from the last parenthesis on.
        let ppid = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if ppid.and_then(|p| p.parse().ok()) == Some(parent) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The endpoints that an agent lists, as JSON objects.
///
/// # Errors
/// When the agent does not answer, or not with a list.
pub fn endpoints(host: &Host) -> Result<Vec<Value>> {
    let listed = host.netctl(["endpoint", "list", "-o", "json"])?.json()?;
    listed.as_array().cloned().with_context(|| format!("endpoint list is no list: {listed}"))
}
