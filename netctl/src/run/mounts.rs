//! The command's own /etc/resolv.conf, in a mount namespace of its own. Nothing here touches a file of the host.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::RunError;

/// Sockets by which glibc asks a service of the host for names, past resolv.conf: systemd-resolved (nss-resolve) and nscd.
/// A plain file in their place refuses connections, and glibc goes on to resolv.conf.
const NAME_SERVICES: [&str; 2] = ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket"];

const NONE: Option<&str> = None;

/// Makes the calling thread's mount namespace one into which the host's mounts come, and out of which none goes.
///
/// # Errors
/// As mount(2).
pub fn follow_host() -> io::Result<()> {
    Ok(mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?)
}

/// Lets everything in the calling thread's mount namespace read `text` as /etc/resolv.conf.
///
/// A small tmpfs is mounted over /etc for a moment: the one place that is there on every host and in which nothing can be left
/// behind. The file in it is bound over what /etc/resolv.conf leads to, and the tmpfs taken away; the bound file holds it.
/// Where /etc/resolv.conf is missing or leads nowhere, /etc is overlaid with a directory that has it.
///
/// # Errors
/// Names the step that was refused.
pub fn cover_resolv_conf(text: &str) -> Result<(), RunError> {
    let failed = |step: &str, source: io::Error| RunError::Resolv { step: step.to_owned(), source };
    let etc = by_path(Path::new("/etc")).map_err(|e| failed("look at /etc", e))?;
    // What programs read in the end, wherever a symbolic link leads.
    let target = match by_path(Path::new("/etc/resolv.conf")) {
        Ok(file) => Some(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed("look at /etc/resolv.conf", e)),
    };
    let name_services: Vec<OwnedFd> = NAME_SERVICES.iter().filter_map(|path| by_path(Path::new(path)).ok()).collect();

    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("weft"), "/etc", Some("tmpfs"), flags, Some("mode=0755,size=1m"))
        .map_err(|e| failed("mount a tmpfs", e.into()))?;
    // From here on /etc is the tmpfs.
    std::fs::create_dir("/etc/upper").map_err(|e| failed("make a directory", e))?;
    std::fs::write("/etc/upper/resolv.conf", text).map_err(|e| failed("write the file", e))?;
    let bind = |over: &OwnedFd| mount(Some("/etc/upper/resolv.conf"), &proc_path(over), NONE, MsFlags::MS_BIND, NONE);
    for socket in &name_services {
        bind(socket).map_err(|e| failed("cover the host's name service", e.into()))?;
    }
    match target {
        Some(file) => {
            bind(&file).map_err(|e| failed("cover what /etc/resolv.conf leads to", e.into()))?;
            umount2("/etc", MntFlags::MNT_DETACH).map_err(|e| failed("take the tmpfs away", e.into()))?;
        }
        None => {
            std::fs::create_dir("/etc/work").map_err(|e| failed("make a directory", e))?;
            let layers = format!("lowerdir={},upperdir=/etc/upper,workdir=/etc/work", proc_path(&etc).display());
            let overlaid = mount(Some("weft"), "/etc", Some("overlay"), MsFlags::empty(), Some(layers.as_str()));
            overlaid.map_err(|e| {
                failed("there is no /etc/resolv.conf, so overlay /etc with one (or: touch /etc/resolv.conf)", e.into())
            })?;
        }
    }
    Ok(())
}

/// A handle on what a path leads to, which goes on meaning that when something is mounted over the path.
fn by_path(path: &Path) -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(path)?;
    Ok(file.into())
}

/// A path for calls that take no descriptor. Descriptors are the process's, so any of its threads may use it.
fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
