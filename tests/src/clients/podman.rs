//! podman 4.3.1 with runc: it speaks CNI.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::clients::{Home, rootfs};
use crate::host::Host;
use crate::place::Output;

/// What an administrator would write for Weft are `network_backend` and `cni_plugin_dirs`; the rest is for a machine without
/// systemd, on which crun would refuse the layout of cgroups, and for a group without controllers.
const CONTAINERS_CONF: &str = r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]

[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"

[containers]
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"#;

/// `/etc` is an overlay, on which another one may not be made.
const STORAGE_CONF: &str = r#"
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"#;

/// podman on a host.
#[derive(Debug)]
pub struct Podman<'a> {
    home: &'a Home,
    dir: PathBuf,
}

impl<'a> Podman<'a> {
    /// Configures it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(host: &Host, home: &'a Home) -> Result<Self> {
        home.write("/etc/containers/containers.conf", CONTAINERS_CONF)?;
        home.write("/etc/containers/storage.conf", STORAGE_CONF)?;
        home.write("/etc/containers/policy.json", r#"{"default":[{"type":"reject"}]}"#)?;
        Ok(Self { home, dir: host.dir().to_owned() })
    }

    /// Runs `podman` with these words to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end. Its exit code is not judged.
    pub fn podman<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Result<Output> {
        let words = words.into_iter().map(|w| w.as_ref().to_owned());
        self.home.exec([OsStr::new("podman").to_owned()].into_iter().chain(words))
    }

    /// `podman run --detach`, with a root file system of the container's own.
    ///
    /// # Errors
    /// When podman cannot be started or does not end. Its exit code is not judged.
    pub fn run(&self, name: &str, network: &str, options: &[&str], command: &[String]) -> Result<Output> {
        let root = self.dir.join(format!("root-{name}"));
        rootfs::make(&root)?;
        let root = root.to_string_lossy();
        let words = [&["run", "--detach", "--name", name, "--network", network], options, &["--rootfs", &root]].concat();
        self.podman(words.into_iter().chain(command.iter().map(String::as_str)))
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// As [`Podman::podman`].
    pub fn exec(&self, name: &str, command: &[String]) -> Result<Output> {
        self.podman(["exec", name].into_iter().chain(command.iter().map(String::as_str)))
    }

    /// `podman inspect`, of one network of a container.
    ///
    /// # Errors
    /// When there is no such container, or it is not in that network.
    pub fn network(&self, name: &str, network: &str) -> Result<Value> {
        let seen = self.podman(["inspect", name])?.json()?;
        let found = &seen[0]["NetworkSettings"]["Networks"][network];
        anyhow::ensure!(found.is_object(), "{name} is not in {network}: {seen}");
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
}
