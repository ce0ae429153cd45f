//! The container's network namespace: opened at once, and a path to it that the agent can open too.
//!
//! A path of the form `/run/netns/NAME` or `/proc/PID/ns/net` stays good as long as the container lives, and is handed on as it
//! is. buildah gives `/proc/PID/fd/N`, which is good only while the caller keeps the file open, and `/proc/self/…` means
//! another process to everybody who reads it: of these the plugin hands on its own open file, `/proc/<own pid>/fd/<n>`. That path
//! ends with the plugin; the agent knows the namespace by its identity, not by the path, and needs the path again only if
//! somebody removes the device behind its back.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::error::{ENVIRONMENT, Fault, UNKNOWN_CONTAINER};

/// An open namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    given: PathBuf,
}

impl Namespace {
    /// Opens it.
    ///
    /// # Errors
    /// It is not there: the container is unknown. Or it is something else, or the namespace that the plugin itself is in.
    pub fn open(given: &str) -> Result<Self, Fault> {
        let path = Path::new(given);
        let cannot = |e: &io::Error| {
            let gone = matches!(e.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH | nix::libc::ENOTDIR));
            let code = if gone { UNKNOWN_CONTAINER } else { ENVIRONMENT };
            Fault::new(code, format!("CNI_NETNS {}: open the network namespace: {e}", shown(path)))
        };
        let other = |why: &str| Fault::new(ENVIRONMENT, format!("CNI_NETNS {}: {why}", shown(path)));
        // O_PATH first: it does not wait for the other end of a pipe, and sets no device off.
        let seen = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(path).map_err(|e| cannot(&e))?;
        let is_namespace = fstatfs(&seen).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
        if !is_namespace {
            return Err(other("no network namespace (a name below /run/netns whose namespace has ended is a plain file)"));
        }
        let file = File::open(format!("/proc/self/fd/{}", seen.as_raw_fd())).map_err(|e| cannot(&e))?;
        let own = fs::metadata("/proc/self/ns/net").map_err(|e| cannot(&e))?;
        let it = file.metadata().map_err(|e| cannot(&e))?;
        if (own.dev(), own.ino()) == (it.dev(), it.ino()) {
            return Err(other("the host's own network namespace; a container needs one of its own"));
        }
        Ok(Self { file, given: path.to_owned() })
    }

    /// The path that the agent is given: it is good as long as this object lives, and longer where it can be.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match std::path::absolute(&self.given) {
            Ok(path) if lasts(&path) => path,
            _ => self.own_path(),
        }
    }

    /// Whether somebody has given the container a way to everywhere already. What cannot be found out is not so: the agent
    /// refuses a second one.
    #[must_use]
    pub fn has_default_route(&self) -> bool {
        let visit = || -> io::Result<bool> {
            // This thread alone changes its namespace, and ends with its visit.
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(has_default(&fs::read_to_string("/proc/thread-self/net/route")?))
        };
        std::thread::scope(|scope| {
            let visitor = std::thread::Builder::new().spawn_scoped(scope, visit);
            visitor.is_ok_and(|visitor| visitor.join().is_ok_and(|found| found.unwrap_or_default()))
        })
    }

    /// The path of our own open file: good in every mount namespace while the plugin runs.
    #[must_use]
    pub fn own_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }
}

/// Whether `/proc/net/route` (destination and mask in columns 2 and 8, hexadecimal) has a default route.
fn has_default(routes: &str) -> bool {
    routes.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        matches!((columns.get(1), columns.get(7)), (Some(&"00000000"), Some(&"00000000")))
    })
}

/// Whether a path means the same to others, and still does when its giver has closed its files.
fn lasts(path: &Path) -> bool {
    let parts: Vec<_> = path.components().filter(|part| *part != Component::RootDir).map(Component::as_os_str).collect();
    let part = |index: usize| parts.get(index).and_then(|part| part.to_str()).unwrap_or_default();
    let ours = part(0) == "proc" && matches!(part(1), "self" | "thread-self");
    let fd = (part(0) == "proc" && (part(2) == "fd" || part(4) == "fd")) || (part(0) == "dev" && part(1) == "fd");
    !ours && !fd
}

fn shown(path: &Path) -> String {
    path.display().to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_end_with_their_giver_are_told_from_those_that_stay() {
        for (path, stays) in [
            ("/run/netns/cni-1", true),
            ("/var/run/netns/x", true),
            ("/proc/4711/ns/net", true),
            ("/proc/4711/task/4712/ns/net", true),
            ("/proc/4711/fd/7", false),
            ("/proc/4711/task/4712/fd/7", false),
            ("/proc/self/ns/net", false),
            ("/proc/thread-self/ns/net", false),
            ("/proc/self/fd/3", false),
            ("/dev/fd/3", false),
        ] {
            assert_eq!(lasts(Path::new(path)), stays, "{path}");
        }
    }

    #[test]
    fn a_default_route_is_found_among_others() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let line = |to: &str, mask: &str| format!("eth0\t{to}\t0100000A\t0003\t0\t0\t0\t{mask}\t0\t0\t0\n");
        assert!(!has_default("") && !has_default(head) && !has_default(&(head.to_owned() + &line("0000F40A", "0000FFFF"))));
        assert!(!has_default(&(head.to_owned() + &line("00000000", "00000080"))));
        assert!(has_default(&(head.to_owned() + &line("0000F40A", "0000FFFF") + &line("00000000", "00000000"))));
    }

    #[test]
    fn what_is_no_containers_namespace_is_refused() {
        for (path, code) in [
            ("/nowhere/at/all", UNKNOWN_CONTAINER),
            ("/proc/self/status/x", UNKNOWN_CONTAINER),
            ("/etc", ENVIRONMENT),
            ("/dev/null", ENVIRONMENT),
            ("/proc/self/ns/net", ENVIRONMENT),
            ("/proc/self/status", ENVIRONMENT),
            ("a\0b", ENVIRONMENT),
        ] {
            let fault = Namespace::open(path).unwrap_err();
            assert_eq!(fault.code, code, "{path:?}: {}", fault.msg);
            assert!(fault.msg.starts_with("CNI_NETNS"), "{}", fault.msg);
        }
    }
}
