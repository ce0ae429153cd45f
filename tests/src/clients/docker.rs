//! dockerd 20.10, with Weft as its network and IPAM driver.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::clients::{Home, rootfs};
use crate::eventually::eventually;
use crate::host::Host;
use crate::place::{Daemon, Output, tail};

/// Where an agent serves it, on a host of its own.
pub const PLUGIN: &str = "/run/docker/plugins/weft.sock";

/// The package's own programs: there may be others of these names elsewhere.
const DOCKER: &str = "/usr/bin/docker";
const DOCKERD: &str = "/usr/sbin/dockerd";

/// Where dockerd says which containerd is its own, and where it is asked.
const CONTAINERD_PID: &str = "/run/docker/containerd/containerd.pid";
const SOCKET: &str = "/run/docker.sock";

/// The image that is there.
const IMAGE: &str = "rootfs";

/// How long dockerd may take to start, or to stop its containers.
const BOUND: Duration = Duration::from_secs(180);

/// dockerd on a host.
#[derive(Debug)]
pub struct Docker<'a> {
    home: &'a Home,
    dir: PathBuf,
    daemon: Mutex<Option<Daemon>>,
}

impl<'a> Docker<'a> {
    /// Starts it, and gives it an image.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(host: &Host, home: &'a Home) -> Result<Self> {
        let docker = Self { home, dir: host.dir().to_owned(), daemon: Mutex::new(None) };
        docker.start_again()?;
        let (root, archive) = (docker.dir.join("image"), docker.dir.join("image.tar"));
        rootfs::make(&root)?;
        let [root, archive] = [root, archive].map(PathBuf::into_os_string);
        let words: [&OsStr; 6] = ["tar".as_ref(), "-C".as_ref(), &root, "-cf".as_ref(), &archive, ".".as_ref()];
        home.exec(words)?.success()?;
        docker.docker(["import".as_ref(), archive.as_os_str(), IMAGE.as_ref()])?.success()?;
        Ok(docker)
    }

    /// Starts it after it has ended.
    ///
    /// # Errors
    /// When it does not come up; the end of its log is in the error.
    pub fn start_again(&self) -> Result<()> {
        // A containerd that died with its dockerd counts as running to the next one, as long as nobody has reaped it: whether
        // somebody does depends on the machine's first process. And an old socket is no sign that it is up.
        for stale in [CONTAINERD_PID, SOCKET] {
            match fs::remove_file(self.home.outside(stale)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).with_context(|| format!("remove {stale}")),
                _ => {}
            }
        }
        let options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"];
        let daemon = self.home.spawn("dockerd", [DOCKERD].into_iter().chain(options))?;
        let up = eventually("dockerd answers", BOUND, || {
            if let Some(status) = daemon.ended()? {
                bail!("it ended: {status}");
            }
            ensure!(self.home.outside(SOCKET).exists(), "no socket yet");
            self.docker(["version"])?.success()
        });
        up.with_context(|| format!("its log ends with:\n{}", tail(&daemon.stderr(), 20)))?;
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(daemon);
        Ok(())
    }

    /// Kills it. Its containers go on, until it is started again and stops them.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill9(&self) -> Result<()> {
        let daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner).take();
        daemon.context("dockerd is not running")?.kill9()
    }

    /// Runs `docker` with these words to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end. Its exit code is not judged.
    pub fn docker<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Result<Output> {
        let words = words.into_iter().map(|w| w.as_ref().to_owned());
        self.home.place().exec_within(BOUND, [OsString::from(DOCKER)].into_iter().chain(words))
    }

    /// `docker run --detach`.
    ///
    /// # Errors
    /// When docker cannot be started or does not end. Its exit code is not judged.
    pub fn run(&self, name: &str, options: &[&str], command: &[String]) -> Result<Output> {
        let words = [&["run", "--detach", "--name", name], options, &[IMAGE]].concat();
        self.docker(words.into_iter().chain(command.iter().map(String::as_str)))
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// As [`Docker::docker`].
    pub fn exec(&self, name: &str, command: &[String]) -> Result<Output> {
        self.docker(["exec", name].into_iter().chain(command.iter().map(String::as_str)))
    }

    /// `docker inspect`, of one network of a container.
    ///
    /// # Errors
    /// When there is no such container, or it is not in that network.
    pub fn network(&self, name: &str, network: &str) -> Result<Value> {
        let seen = self.docker(["inspect", name])?.json()?;
        let found = &seen[0]["NetworkSettings"]["Networks"][network];
        ensure!(found.is_object(), "{name} is not in {network}: {seen}");
        Ok(found.clone())
    }

    /// A container's IPv4 address in a network.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, name: &str, network: &str) -> Result<String> {
        let seen = self.network(name, network)?;
        let address = seen["IPAddress"].as_str().filter(|text| !text.is_empty());
        address.map(str::to_owned).with_context(|| format!("{name} has no address: {seen}"))
    }

    /// Ends a container without dockerd, and takes its network namespace away, as nothing but a loss of dockerd's data would
    /// leave it.
    ///
    /// # Errors
    /// When there is no such container, or the kernel refuses.
    pub fn lose(&self, name: &str) -> Result<()> {
        let seen = self.docker(["inspect", name])?.json()?;
        let pid = seen[0]["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let pid = pid.with_context(|| format!("{name} does not run: {seen}"))?;
        let key = seen[0]["NetworkSettings"]["SandboxKey"].as_str().context("no sandbox")?.to_owned();
        self.kill9()?;
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill a container")?;
        self.home.exec(["umount", &key])?.success().map(drop)
    }
}
