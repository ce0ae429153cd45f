//! Where the bpffs and the cgroup v2 tree are, and mounting them where they are not.
//!
//! What is mounted here bears the source name `weft`, by which a later agent's cleanup knows it; other mounts are used and
//! never unmounted. Pins must outlive the agent, so the bpffs is mounted in process 1's mount namespace if ours is another
//! one (as below `ip netns exec`), and reached through a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use super::{BpfError, create_dir};

/// Where every distribution mounts the bpffs.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// The source that our mounts name, as /proc/self/mountinfo shows it.
const OUR_SOURCE: &str = "weft";

/// The folder below the run directory where a cgroup v2 tree is mounted if none is visible.
const OWN_CGROUP: &str = "cgroup2";

/// How long to wait until what we mounted can be unmounted.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(3);

/// A folder on a bpffs. Keep it for as long as [`Bpffs::path`] is used.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    note: Option<String>,
    /// What a path through /proc/self/fd goes by.
    _dir: Option<OwnedFd>,
}

impl Bpffs {
    /// The folder, as this process reaches it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the operator should know: that pins will not outlive this process, and why.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

/// Makes sure that `path` is a folder on a bpffs. Below `/sys/fs/bpf` that one is mounted if it is not, and the folder
/// made in it; any other path is made, and a bpffs mounted on it unless it lies on one already. Nothing is hidden: a folder
/// that is not empty, or where another file system is mounted, is refused.
///
/// # Errors
/// A folder could not be made or is in use ([`BpfError::InUse`]), or mounting is not permitted.
pub fn ensure_bpffs(path: &Path) -> Result<Bpffs, BpfError> {
    let own = |note| {
        provide_bpffs(path)?;
        Ok(Bpffs { path: path.to_owned(), note, _dir: None })
    };
    match process_one() {
        ProcessOne::SameMounts => own(None),
        ProcessOne::OtherMounts(namespace) => {
            let made = inside(namespace, || {
                provide_bpffs(path)?;
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| BpfError::Path {
                    op: "open",
                    path: path.to_owned(),
                    source: e.into(),
                })
            });
            match made {
                Ok(dir) => {
                    Ok(Bpffs { path: PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())), note: None, _dir: Some(dir) })
                }
                Err(why) => own(Some(format!(
                    "this process has a mount namespace of its own, and process 1's could not be used ({}): what is \
                     pinned will not outlive it",
                    chain(&why)
                ))),
            }
        }
        ProcessOne::Unknown(why) => own(Some(format!(
            "process 1's mount namespace could not be compared with ours ({why}): what is pinned may not outlive this \
             process"
        ))),
    }
}

/// Runs `task` here, and once more in process 1's mount namespace if that is another one, where [`ensure_bpffs`] mounts.
pub(super) fn wherever_mounted(task: impl Fn() -> Result<(), BpfError> + Send) -> Result<(), BpfError> {
    task()?;
    match process_one() {
        ProcessOne::OtherMounts(namespace) => inside(namespace, task),
        ProcessOne::SameMounts | ProcessOne::Unknown(_) => Ok(()),
    }
}

/// Removes the folder at `path` if it is empty, and unmounts the bpffs if [`ensure_bpffs`] mounted it and it is empty.
///
/// # Errors
/// A mount of ours could not be unmounted.
pub fn release_bpffs(path: &Path) -> Result<(), BpfError> {
    wherever_mounted(|| withdraw_bpffs(path))
}

/// The root of the cgroup v2 tree: where it is mounted, or below `run_dir`, where it is mounted now.
///
/// # Errors
/// It is mounted nowhere, and mounting is not permitted.
pub fn ensure_cgroup2(run_dir: &Path) -> Result<PathBuf, BpfError> {
    if let Some(found) = find_cgroup2() {
        return Ok(found);
    }
    let target = run_dir.join(OWN_CGROUP);
    create_dir(&target)?;
    mount_on(&target, "cgroup2", None)?;
    Ok(target)
}

/// Whether `path` is a folder of a cgroup v2 tree, where programs for sockets can be attached. A path that is not gives an
/// error that names no path (`EBADF`) only when they are.
///
/// # Errors
/// It is not there, or lies on another file system.
pub fn check_cgroup2(path: &Path) -> Result<(), BpfError> {
    let failed = |source| BpfError::Path { op: "use as cgroup v2 folder", path: path.to_owned(), source };
    let there = statfs(path).map_err(|e| failed(e.into()))?;
    if there.filesystem_type() != CGROUP2_SUPER_MAGIC {
        let why = "it lies on another file system; findmnt -t cgroup2 shows where the tree is";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    Ok(())
}

/// Unmounts what [`ensure_cgroup2`] mounted, and removes its folder.
///
/// # Errors
/// It could not be unmounted.
pub fn release_cgroup2(run_dir: &Path) -> Result<(), BpfError> {
    let target = run_dir.join(OWN_CGROUP);
    unmount_ours(&target)?;
    remove_empty(&target)
}

/// Where the cgroup v2 tree is mounted, if it is visible.
#[must_use]
pub fn find_cgroup2() -> Option<PathBuf> {
    let mounts = mounts().ok()?;
    let whole = mounts.into_iter().filter(|m| m.fs_type == "cgroup2" && m.root == "/");
    // A mount may lie hidden beneath a later one.
    whole.map(|m| m.target).find(|target| is_on(target, CGROUP2_SUPER_MAGIC))
}

fn provide_bpffs(path: &Path) -> Result<(), BpfError> {
    if !on_bpffs(path) {
        let target = if path.starts_with(SYSTEM_BPFFS) { Path::new(SYSTEM_BPFFS) } else { path };
        create_dir(target)?;
        check_unused(target)?;
        mount_on(target, "bpf", Some("mode=0700"))?;
    }
    create_dir(path)
}

/// What is mounted on a folder hides what is in it, for the whole machine.
fn check_unused(folder: &Path) -> Result<(), BpfError> {
    let failed = |op| move |source| BpfError::Path { op, path: folder.to_owned(), source };
    let real = folder.canonicalize().map_err(failed("resolve"))?;
    let why = if mounts().map_err(failed("look for mounts of"))?.iter().any(|m| m.target == real) {
        "another file system is mounted there"
    } else if std::fs::read_dir(folder).map_err(failed("list"))?.next().is_some() {
        "it is not empty"
    } else {
        return Ok(());
    };
    Err(BpfError::InUse { path: folder.to_owned(), why })
}

fn withdraw_bpffs(path: &Path) -> Result<(), BpfError> {
    if path.starts_with(SYSTEM_BPFFS) {
        if path != Path::new(SYSTEM_BPFFS) {
            remove_empty(path)?;
        }
        // Others may have pinned something on it by now.
        let empty = std::fs::read_dir(SYSTEM_BPFFS).is_ok_and(|mut entries| entries.next().is_none());
        return if empty { unmount_ours(Path::new(SYSTEM_BPFFS)) } else { Ok(()) };
    }
    unmount_ours(path)?;
    remove_empty(path)
}

/// The path itself, or the nearest folder above it that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

/// Whether a path, or what is left of it, lies on a bpffs.
pub fn on_bpffs(path: &Path) -> bool {
    is_on(nearest(path), BPF_FS_MAGIC)
}

fn is_on(path: &Path, kind: FsType) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == kind)
}

fn mount_on(target: &Path, fs_type: &str, options: Option<&str>) -> Result<(), BpfError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let op = if fs_type == "bpf" { "mount bpffs on" } else { "mount cgroup v2 on" };
    mount(Some(OUR_SOURCE), target, Some(fs_type), flags, options).map_err(|e| BpfError::Path {
        op,
        path: target.to_owned(),
        source: e.into(),
    })
}

fn unmount_ours(target: &Path) -> Result<(), BpfError> {
    let failed = |op| move |source| BpfError::Path { op, path: target.to_owned(), source };
    let ours = mounts()
        .map_err(failed("look for mounts of"))?
        .into_iter()
        .any(|m| m.target == target && m.source == OUR_SOURCE && matches!(m.fs_type.as_str(), "bpf" | "cgroup2"));
    if !ours {
        return Ok(());
    }
    // A pin that was just removed may hold its file system a moment longer (seen on 6.18 under load: EBUSY).
    let until = Instant::now() + UNMOUNT_PATIENCE;
    loop {
        match umount2(target, MntFlags::empty()) {
            Err(Errno::EBUSY) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            done => return done.map_err(|e| failed("unmount")(e.into())),
        }
    }
}

/// Removes a folder unless something is in it or mounted on it, or it is not there.
fn remove_empty(path: &Path) -> Result<(), BpfError> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.kind(), NotFound | DirectoryNotEmpty | ResourceBusy) => Ok(()),
        Err(source) => Err(BpfError::Path { op: "remove", path: path.to_owned(), source }),
    }
}

enum ProcessOne {
    SameMounts,
    OtherMounts(File),
    Unknown(io::Error),
}

fn process_one() -> ProcessOne {
    // The thread's own: it may be in another namespace than the process.
    let own = std::fs::read_link("/proc/thread-self/ns/mnt");
    match (namespace_of(1), own) {
        (Ok(first), Ok(own)) if first == own => ProcessOne::SameMounts,
        (Ok(_), Ok(_)) => match File::open("/proc/1/ns/mnt") {
            Ok(file) => ProcessOne::OtherMounts(file),
            Err(error) => ProcessOne::Unknown(error),
        },
        // Root without all capabilities may not look at process 1. Then whoever started us tells: a private namespace
        // begins at some process between.
        (Err(_), Ok(own)) if ancestors().all(|pid| namespace_of(pid).is_ok_and(|other| other == own)) => ProcessOne::SameMounts,
        (Err(error), _) | (_, Err(error)) => ProcessOne::Unknown(error),
    }
}

fn namespace_of(pid: u32) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/mnt"))
}

/// This process and those above it, up to but without process 1.
fn ancestors() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(std::process::id()), |pid| {
        // `pid (name) state ppid ...`; the name may hold anything (proc(5)).
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    })
    .take_while(|pid| *pid > 1)
}

/// Runs `task` on a thread that is in another mount namespace, and ends.
fn inside<T: Send>(namespace: File, task: impl FnOnce() -> Result<T, BpfError> + Send) -> Result<T, BpfError> {
    let failed = |source| BpfError::Path { op: "enter mount namespace", path: "/proc/1/ns/mnt".into(), source };
    std::thread::scope(|scope| {
        let run = || {
            // A thread that shares its working directory with others may not change the mount namespace.
            unshare(CloneFlags::CLONE_FS).map_err(|e| failed(e.into()))?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS).map_err(|e| failed(e.into()))?;
            task()
        };
        std::thread::Builder::new()
            .name("mount".to_owned())
            .spawn_scoped(scope, run)
            .map_err(failed)?
            .join()
            .unwrap_or_else(|_| Err(failed(io::Error::other("the thread ended early"))))
    })
}

/// A line of /proc/self/mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    target: PathBuf,
    fs_type: String,
    source: String,
}

fn mounts() -> io::Result<Vec<Mount>> {
    // The thread's own: it may be in another namespace than the process.
    Ok(std::fs::read_to_string("/proc/thread-self/mountinfo")?.lines().filter_map(parse_mount).collect())
}

/// `36 35 98:0 /root /target rw,noatime master:1 - ext3 /dev/root rw` (proc(5)); optional fields end at the dash.
fn parse_mount(line: &str) -> Option<Mount> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mut what = what.split(' ');
    Some(Mount {
        root: unescape(place.next()?),
        target: PathBuf::from(unescape(place.next()?)),
        fs_type: what.next()?.to_owned(),
        source: unescape(what.next()?),
    })
}

/// Blank, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_and_without_optional_fields() {
        let with = "36 35 98:0 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate";
        let want = Mount {
            root: "/".into(),
            target: "/sys/fs/cgroup/unified".into(),
            fs_type: "cgroup2".into(),
            source: "cgroup2".into(),
        };
        assert_eq!(parse_mount(with).as_ref(), Some(&want));
        assert_eq!(parse_mount(&with.replace("shared:9 master:1 ", "")), Some(want));
        assert_eq!(parse_mount("36 35 98:0 / /sys"), None);
    }

    #[test]
    fn escaped_blanks_are_part_of_the_path() {
        let line = r"1 2 0:3 / /run/with\040blank\134 rw - bpf weft rw";
        assert_eq!(parse_mount(line).unwrap().target, Path::new(r"/run/with blank\"));
        assert_eq!(unescape(r"a\04"), r"a\04");
    }

    #[test]
    fn a_folder_that_is_of_no_cgroup_tree_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let said = chain(&check_cgroup2(dir.path()).unwrap_err());
        assert!(said.starts_with(&format!("use as cgroup v2 folder {}: it lies on", dir.path().display())), "{said}");
        let said = chain(&check_cgroup2(&dir.path().join("none")).unwrap_err());
        assert!(said.contains("none: ENOENT") || said.contains("No such file"), "{said}");
    }

    #[test]
    fn a_path_that_does_not_exist_counts_by_the_folder_above_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(nearest(dir.path()), dir.path());
    }
}
