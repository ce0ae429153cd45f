//! A host's own /run, /etc, /opt, /var/lib and cgroup tree.
//!
//! A network namespace alone makes no host for a tool with fixed paths: two dockerds would meet in /var/lib/docker and
//! /run/docker. So commands of a [`Home`] run in a mount namespace and a cgroup namespace of their own:
//!
//! | path | what is there |
//! |---|---|
//! | `/run` | an empty directory, `<host's directory>/home/run` from outside |
//! | `/run/weft` | the run directory of the host's agent |
//! | `/etc`, `/opt`, `/var/lib` | the machine's, and over it (overlayfs, in memory) whatever is changed |
//! | `/sys/fs/cgroup` | cgroup v2 alone, with the host's group as its root; no controllers where the machine has them in v1 |
//! | all else | the machine's |
//!
//! `/sys` is not mounted anew, so `/sys/class/net` shows the machine's links; tools that ask by netlink see the host's.
//!
//! The namespaces hang on one process in the host's cgroup and on nothing else: no file keeps them. Whatever ends the host's
//! processes, a teardown, a sweep or [`Host::power_off`], takes all of these mounts with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::eventually::{SOON, eventually};
use crate::host::Host;
use crate::place::{Daemon, Output, Place, tail};

/// Makes the mounts and stays. `$1` is a directory of ours, `$2` the host's cgroup, `$3` its agent's run directory.
///
/// What is changed lies in memory, because an upper layer may not lie within its lower one, nor on another overlay: the
/// directory of the tests is below `/`, which is an overlay where the tests run in a container.
const KEEPER: &str = r#"
mount -t tmpfs -o mode=755 weft-home "$1/layers"
for d in etc opt var/lib; do
    mkdir -p "$1/layers/$d/upper" "$1/layers/$d/work"
    mount -t overlay -o "lowerdir=/$d,upperdir=$1/layers/$d/upper,workdir=$1/layers/$d/work" weft-home "/$d"
done
mount --bind "$1/run" /run
mount --bind "$3" /run/weft
mount --bind "$2" /sys/fs/cgroup
echo ready
exec sleep infinity
"#;

/// A host's own paths. Dropping it takes the mounts away, once nothing runs in them any more.
#[derive(Debug)]
pub struct Home {
    place: Place,
    keeper: Daemon,
    dir: PathBuf,
    host: PathBuf,
}

impl Home {
    /// Fresh ones for a host: `/run` is empty, and the others are as the machine has them. One at a time.
    ///
    /// # Errors
    /// When the kernel refuses; what `mount` said is in the error.
    pub fn open(host: &Host) -> Result<Self> {
        let dir = host.dir().join("home");
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("empty {}", dir.display()));
            }
            _ => {}
        }
        let agents = host.agent.run_dir();
        for path in [dir.join("run/weft"), dir.join("layers"), agents.clone()] {
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let unshare = ["unshare", "--mount", "--cgroup", "--propagation", "private", "--", "sh", "-ec", KEEPER, "sh"];
        let words = unshare.iter().map(Path::new).chain([dir.as_path(), host.place().cgroup(), &agents]);
        // Its output tells when it is ready, and a former one's is still there after a loss of power.
        let said = host.dir().join("home-keeper.out");
        fs::write(&said, "").with_context(|| format!("empty {}", said.display()))?;
        let keeper = host.place().spawn(host.dir(), "home-keeper", words)?;
        eventually("the mounts of a home", SOON, || {
            if let Some(status) = keeper.ended()? {
                bail!("unshare ended: {status}\n{}", tail(&keeper.stderr(), 20));
            }
            if keeper.stdout().contains("ready") { Ok(()) } else { bail!("not yet") }
        })?;
        let namespace = |kind: &str| PathBuf::from(format!("/proc/{}/ns/{kind}", keeper.pid()));
        let place = Place { mounts: Some(namespace("mnt")), groups: Some(namespace("cgroup")), ..host.place().clone() };
        Ok(Self { place, keeper, dir, host: host.dir().to_owned() })
    }

    /// Where the host's tools run.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The host's `/run`, as it is seen from outside: for sockets that an agent listens on or connects to.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// A path of the host's, as it is seen from outside while the home is open.
    #[must_use]
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.keeper.pid()))
    }

    /// Writes a file on the host, and the directories above it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.outside(path);
        let above = file.parent().with_context(|| format!("{path} is no file's path"))?;
        fs::create_dir_all(above).with_context(|| format!("create {}", above.display()))?;
        fs::write(&file, text).with_context(|| format!("write {path}"))
    }

    /// Empties a directory of the host's, as of a tool's configuration that the machine's packages brought.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn empty(&self, path: &str) -> Result<()> {
        let dir = self.outside(path);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(|| format!("empty {path}")),
            _ => {}
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {path}"))
    }

    /// Runs a command in it to its end.
    ///
    /// # Errors
    /// As [`Place::exec`].
    pub fn exec<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.place.exec(args)
    }

    /// Starts a command in it that goes on in the background; what it says is in the host's directory.
    ///
    /// # Errors
    /// As [`Place::spawn`].
    pub fn spawn<A: AsRef<std::ffi::OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Result<Daemon> {
        self.place.spawn(&self.host, name, args)
    }
}
