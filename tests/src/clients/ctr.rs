//! containerd 1.6 and its `ctr run --cni`.
//!
//! ctr itself calls the plugin: ADD before the container's process starts, DEL when the `ctr run` that waits for it ends. A
//! detached one is never taken back by ctr. It says no name, and leaves the container's `resolv.conf` as it is.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::clients::{Home, rootfs};
use crate::eventually::{SOON, eventually};
use crate::host::Host;
use crate::place::{Daemon, Output, tail};

/// containerd on a host.
#[derive(Debug)]
pub struct Ctr<'a> {
    home: &'a Home,
    dir: PathBuf,
    _containerd: Daemon,
}

impl<'a> Ctr<'a> {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not answer soon.
    pub fn start(host: &Host, home: &'a Home) -> Result<Self> {
        let containerd = home.spawn("containerd", ["containerd"])?;
        eventually("containerd answers", SOON, || {
            if let Some(status) = containerd.ended()? {
                bail!("containerd ended: {status}\n{}", tail(&containerd.stderr(), 20));
            }
            home.exec(["ctr", "version"])?.success()
        })?;
        Ok(Self { home, dir: host.dir().to_owned(), _containerd: containerd })
    }

    /// Runs `ctr` with these words to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end. Its exit code is not judged.
    pub fn ctr<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Result<Output> {
        let words = words.into_iter().map(|w| w.as_ref().to_owned());
        self.home.exec([OsStr::new("ctr").to_owned()].into_iter().chain(words))
    }

    /// `ctr run --rm --cni`, which goes on in the background; the container runs when this returns. It has a root file system
    /// of its own, in which `resolv.conf` names `server`.
    ///
    /// # Errors
    /// When it does not come up; what ctr said is in the error.
    pub fn run(&self, id: &str, server: &str, command: &[String]) -> Result<Daemon> {
        let root = self.dir.join(format!("root-{id}"));
        rootfs::make(&root)?;
        let resolv = root.join("etc/resolv.conf");
        std::fs::write(&resolv, format!("nameserver {server}\nsearch skydns.local\n"))
            .with_context(|| format!("write {}", resolv.display()))?;
        let root = root.to_string_lossy();
        // A home's group has no controllers, and ctr would set a share of CPU.
        let words = ["ctr", "run", "--rm", "--cni", "--cpu-shares", "0", "--rootfs", &root, id];
        let ctr = self.home.spawn(&format!("ctr-{id}"), words.into_iter().chain(command.iter().map(String::as_str)))?;
        eventually(&format!("container {id} runs"), SOON, || {
            if let Some(status) = ctr.ended()? {
                bail!("{} ended: {status}\n{}", ctr.command(), tail(&ctr.stderr(), 20));
            }
            let tasks = self.ctr(["task", "ls"])?.success()?.stdout;
            let running = |line: &str| line.starts_with(&format!("{id} ")) && line.contains("RUNNING");
            ensure!(tasks.lines().any(running), "{tasks}");
            Ok(())
        })?;
        Ok(ctr)
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// As [`Ctr::ctr`].
    pub fn exec(&self, id: &str, command: &[String]) -> Result<Output> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let exec_id = format!("e{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.ctr(["task", "exec", "--exec-id", &exec_id, id].into_iter().chain(command.iter().map(String::as_str)))
    }

    /// A container's IPv4 address, as its kernel has it.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, id: &str) -> Result<String> {
        let shown = self.exec(id, &["/bin/ip", "-4", "-o", "address", "show", "dev", "eth0"].map(str::to_owned))?.success()?;
        let address = shown.stdout.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        let address = address.and_then(|text| text.split('/').next()).map(str::to_owned);
        address.with_context(|| format!("no address: {shown:?}"))
    }

    /// Ends a container, and waits for the `ctr run` that runs it.
    ///
    /// # Errors
    /// When it goes on.
    pub fn kill(&self, id: &str, ctr: &Daemon) -> Result<()> {
        self.ctr(["task", "kill", "--signal", "SIGKILL", id])?.success()?;
        ctr.wait(SOON).map(drop)
    }
}
