//! How nothing stays behind: a topology is undone by its name alone.
//!
//! Everything that a topology makes bears its name `weft-t-<pid>-<n>` (or lies in a directory that does), so [`wreck`]
//! needs no memory of what was made: it serves a test's normal end, a panic, Ctrl-C, and the leftovers of a process that
//! was killed. [`left`] lists what is still there; after a teardown that must be nothing.
//!
//! | what | where |
//! |---|---|
//! | files, sockets, logs, lock | `<temp>/<name>/` |
//! | cgroups | `<cgroup v2 root>/<name>/<host>` |
//! | mounts (network namespaces, bpffs of the agents) | below `<temp>/<name>/` |
//! | links | inside those namespaces only |
//! | processes | in those cgroups; environment has the name |

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::cgroup;
use crate::eventually::{SOON, eventually};
use crate::place::MARK;
use crate::signals;

/// What all names begin with.
pub const PREFIX: &str = "weft-t-";

/// The names of topologies of this process that are up.
static UP: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A topology's directory.
#[must_use]
pub fn dir(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// A claimed name: its directory is there, and locked for as long as this value (or its process) lives.
#[derive(Debug)]
pub struct Claim {
    /// The name.
    pub name: String,
    _lock: File,
}

/// Takes a fresh name and makes its directory. From here on a signal, too, leads to [`wreck`].
///
/// # Errors
/// When the directory cannot be made, or teardown has begun.
pub fn claim() -> Result<Claim> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    signals::install()?;
    let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let _gate = signals::gate()?;
    let mut up = UP.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = dir(&name);
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    up.push(name.clone());
    // Locked before it bears the name that `sweep` looks for.
    let path = dir.join("lock.new");
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    lock.try_lock().with_context(|| format!("lock {}", path.display()))?;
    fs::rename(&path, dir.join("lock")).with_context(|| format!("rename {}", path.display()))?;
    Ok(Claim { name, _lock: lock })
}

/// Undoes the topologies of this process that are still up. Errors are told on standard error; all are tried.
pub fn wreck_all() -> bool {
    let names = std::mem::take(&mut *UP.lock().unwrap_or_else(PoisonError::into_inner));
    let mut clean = true;
    for name in names {
        if let Err(e) = wreck(&name) {
            eprintln!("teardown of {name}: {e:#}");
            clean = false;
        }
    }
    clean
}

/// Undoes one topology, whatever state it is in. Doing it twice is fine.
///
/// # Errors
/// The first thing that went wrong; the rest was done nevertheless.
pub fn wreck(name: &str) -> Result<()> {
    assert!(name.starts_with(PREFIX), "only what is ours is torn down, and {name} is not");
    let mut first = Ok(());
    let mut keep_first = |result: Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    if let Ok(root) = cgroup::root() {
        let group = root.join(name);
        // Together, because until the group is gone something may still be started in it.
        keep_first(eventually(&format!("remove {} and all that runs in it", group.display()), SOON, || {
            cgroup::kill_all(&group)?;
            cgroup::remove_tree(&group)
        }));
    }
    let dir = dir(name);
    keep_first(unmount_below(&dir));
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            keep_first(Err(e).with_context(|| format!("remove {}", dir.display())));
        }
        _ => {}
    }
    UP.lock().unwrap_or_else(PoisonError::into_inner).retain(|n| n != name);
    first
}

/// Unmounts all that is mounted below a directory. A network namespace lives on for as long as something lives in it.
///
/// # Errors
/// The first that the kernel refuses; the others are unmounted nevertheless.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let mut first = Ok(());
    // Last mounted, first unmounted.
    for point in mounts_below(dir).into_iter().rev() {
        let done = umount2(&point, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", point.display()));
        first = first.and(done);
    }
    first
}

/// Undoes the topologies of processes that are gone (killed too hard to do it themselves).
///
/// A topology is someone's as long as its lock is held: pids are used again, locks die with their holder.
///
/// # Errors
/// When the temporary directory cannot be listed, or something cannot be undone.
pub fn sweep() -> Result<()> {
    for name in names_in(&std::env::temp_dir())? {
        // No lock yet: it is being made.
        let Ok(lock) = File::open(dir(&name).join("lock")) else { continue };
        match lock.try_lock() {
            Ok(()) => wreck(&name).with_context(|| format!("sweep {name}, left by a process that is gone"))?,
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(e)) => return Err(e).with_context(|| format!("lock {name}")),
        }
    }
    Ok(())
}

/// What is still there of a topology, in words; empty when all is gone.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn left(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let dir = dir(name);
    if dir.exists() {
        found.push(format!("directory {}", dir.display()));
    }
    found.extend(mounts_below(&dir).iter().map(|p| format!("mount {}", p.display())));
    let group = cgroup::root()?.join(name);
    if group.exists() {
        found.push(format!("cgroup {}", group.display()));
    }
    found.extend(processes_of(name)?);
    Ok(found)
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let all = cgroup::mounts().unwrap_or_default();
    all.into_iter().map(|(point, _)| point).filter(|point| point.starts_with(dir)).collect()
}

fn processes_of(name: &str) -> Result<Vec<String>> {
    let mark = format!("{MARK}={name}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // Whatever ended in the meantime is not left; a zombie has no environment any more.
        let Ok(environ) = fs::read(entry.path().join("environ")) else { continue };
        if environ.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.push(format!("process {pid} {}", line.trim_end()));
        }
    }
    Ok(found)
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|n| n.starts_with(PREFIX)).collect())
}
