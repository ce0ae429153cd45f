//! The command's own cgroup, `<the agent's>/weft/run-<id>`: membership is what lets its sockets reach virtual IPs, and what
//! lets everything that it started be ended at its end.
//!
//! A limit whose controller is in a hierarchy of version 1 takes a cgroup there too: `<mount>/weft/run-<id>-<number>`, where the
//! number is the first one's inode, so that two agents on one kernel are not in each other's way. It is made after the first
//! and removed before it, so whoever finds that one abandoned finds the others as well.
//!
//! A live `netctl run` holds a lock on the directory. A directory without one is abandoned (its `netctl` was killed), and the
//! next run ends what is left in it and removes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::RunError;
use super::limits::{Limit, legacy_mounts};

/// The directory below the agent's cgroup.
const PARENT: &str = "weft";

/// How long killed processes may take to die.
const DEATH_BOUND: Duration = Duration::from_secs(10);

/// How often it is looked whether they have.
const POLL: Duration = Duration::from_millis(5);

/// A command's cgroup.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    lock: Flock<File>,
    /// Its counterparts in hierarchies of version 1.
    legacy: Vec<PathBuf>,
    limits: Vec<Limit>,
}

/// Whether this is a directory of cgroup v2.
///
/// # Errors
/// [`RunError::NoCgroup`].
pub fn check(path: &Path) -> Result<(), RunError> {
    match statfs(path) {
        Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => Ok(()),
        _ => Err(RunError::NoCgroup { path: path.to_owned() }),
    }
}

impl Group {
    /// Makes the cgroup of a command below the agent's. What runs of the past left there is removed first.
    ///
    /// # Errors
    /// When another run of this id is alive, or the kernel refuses.
    pub async fn create(agent: &Path, id: &str) -> Result<Self, RunError> {
        check(agent)?;
        let parent = agent.join(PARENT);
        sweep(&parent).await?;
        let dir = parent.join(format!("run-{id}"));
        let failed = |step, source| RunError::Cgroup { step, path: dir.clone(), source };
        let deadline = Instant::now() + DEATH_BOUND;
        loop {
            match fs::create_dir_all(&parent).and_then(|()| fs::create_dir(&dir)) {
                // Another run may have removed the empty parent in between.
                Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(RunError::CgroupTaken { path: dir }),
                Err(e) => return Err(failed("make", e)),
                Ok(()) => match lock(&dir) {
                    Ok(Some(lock)) if dir.exists() => {
                        return Ok(Self { dir, lock, legacy: Vec::new(), limits: Vec::new() });
                    }
                    // Another run has just taken it for abandoned, and removes it.
                    Ok(_) if Instant::now() < deadline => {}
                    Ok(_) => return Err(RunError::CgroupTaken { path: dir }),
                    Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {}
                    Err(e) => return Err(failed("lock", e)),
                },
            }
            sleep(POLL).await;
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Sets limits, before anything is in it.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub async fn limit(&mut self, limits: Vec<Limit>) -> Result<(), RunError> {
        for limit in limits {
            let dir = match limit.legacy() {
                None => {
                    for above in self.dir.ancestors().skip(1).take(2).collect::<Vec<_>>().into_iter().rev() {
                        limit.hand_down(above)?;
                    }
                    self.dir.clone()
                }
                Some(mount) => {
                    let dir = counterpart(mount, &self.dir).map_err(|source| self.failed("look at", source))?;
                    if !self.legacy.contains(&dir) {
                        make_in(&dir).await.map_err(|source| RunError::Cgroup { step: "make", path: dir.clone(), source })?;
                        self.legacy.push(dir.clone());
                    }
                    dir
                }
            };
            limit.set(&dir)?;
            self.limits.push(limit);
        }
        Ok(())
    }

    /// The files by which a process enters it, and its counterparts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn entrances(&self) -> Result<Vec<File>, RunError> {
        let open = |dir: &PathBuf| {
            let open = OpenOptions::new().write(true).open(dir.join("cgroup.procs"));
            open.map_err(|source| RunError::Cgroup { step: "open", path: dir.clone(), source })
        };
        [&self.dir].into_iter().chain(&self.legacy).map(open).collect()
    }

    /// How many of its processes the kernel has killed because of a limit.
    #[must_use]
    pub fn killed_by_limit(&self) -> u64 {
        let dirs = || [&self.dir].into_iter().chain(&self.legacy);
        self.limits.iter().flat_map(|limit| dirs().map(|dir| limit.killed(dir))).sum()
    }

    /// Ends every process in it and below.
    ///
    /// # Errors
    /// When some do not die.
    pub async fn kill_all(&self) -> Result<(), RunError> {
        kill_all(&self.dir).await?;
        for dir in &self.legacy {
            kill_legacy(dir).await?;
        }
        Ok(())
    }

    fn failed(&self, step: &'static str, source: io::Error) -> RunError {
        RunError::Cgroup { step, path: self.dir.clone(), source }
    }

    /// Removes it; nothing may live there any more.
    ///
    /// # Errors
    /// When something does.
    pub async fn remove(self) -> Result<(), RunError> {
        for dir in self.legacy.iter().chain([&self.dir]) {
            remove(dir).await?;
        }
        drop(self.lock);
        for parent in self.legacy.iter().chain([&self.dir]).filter_map(|dir| dir.parent()) {
            // Not empty while other commands run.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// Where a cgroup's counterpart is, in the version 1 hierarchy that is mounted at `mount`.
fn counterpart(mount: &Path, dir: &Path) -> io::Result<PathBuf> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    Ok(mount.join(PARENT).join(format!("{name}-{}", fs::metadata(dir)?.ino())))
}

/// Makes a cgroup of version 1. One that is there is what a run of the past has left.
async fn make_in(dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + DEATH_BOUND;
    loop {
        match fs::create_dir_all(dir) {
            // Another run may have removed the empty parent in between.
            Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => sleep(POLL).await,
            done => return done,
        }
    }
}

/// The lock on a cgroup, or `None` if another has it.
fn lock(dir: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(dir)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e.into()),
    }
}

/// Ends and removes what abandoned runs left.
async fn sweep(parent: &Path) -> Result<(), RunError> {
    let Ok(entries) = fs::read_dir(parent) else { return Ok(()) };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("run-") {
            continue;
        }
        // One that cannot be locked is somebody's, or gone by now.
        if let Ok(Some(_lock)) = lock(&entry.path()) {
            kill_all(&entry.path()).await?;
            for mount in legacy_mounts() {
                let Ok(dir) = counterpart(&mount, &entry.path()) else { continue };
                if dir.exists() {
                    kill_legacy(&dir).await?;
                    remove(&dir).await?;
                    let _ = fs::remove_dir(mount.join(PARENT));
                }
            }
            remove(&entry.path()).await?;
        }
    }
    Ok(())
}

async fn kill_all(dir: &Path) -> Result<(), RunError> {
    let deadline = Instant::now() + DEATH_BOUND;
    // From kernel 5.14 on: whole subtree, and what forks meanwhile.
    let at_once = fs::write(dir.join("cgroup.kill"), "1");
    loop {
        match fs::read_to_string(dir.join("cgroup.events")) {
            Ok(events) if events.lines().any(|l| l == "populated 1") => {}
            // A file that cannot be read is that of a cgroup which is gone.
            _ => return Ok(()),
        }
        if at_once.is_err() {
            kill_each(dir);
        }
        if Instant::now() > deadline {
            return Err(RunError::CgroupAlive { path: dir.to_owned(), after: DEATH_BOUND });
        }
        sleep(POLL).await;
    }
}

/// In a hierarchy of version 1: what root has moved out of the command's first cgroup, but not out of this one.
async fn kill_legacy(dir: &Path) -> Result<(), RunError> {
    let deadline = Instant::now() + DEATH_BOUND;
    while populated(dir) {
        kill_each(dir);
        if Instant::now() > deadline {
            return Err(RunError::CgroupAlive { path: dir.to_owned(), after: DEATH_BOUND });
        }
        sleep(POLL).await;
    }
    Ok(())
}

fn populated(dir: &Path) -> bool {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    !procs.trim().is_empty() || children(dir).iter().any(|child| populated(child))
}

/// Before 5.14: one by one, to be repeated until none is left.
fn kill_each(dir: &Path) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 0) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for child in children(dir) {
        kill_each(&child);
    }
}

async fn remove(dir: &Path) -> Result<(), RunError> {
    let deadline = Instant::now() + DEATH_BOUND;
    loop {
        match remove_tree(dir) {
            // For a moment after the last process has died.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => sleep(POLL).await,
            Err(source) => return Err(RunError::Cgroup { step: "remove", path: dir.to_owned(), source }),
            Ok(()) => return Ok(()),
        }
    }
}

/// The command may have made cgroups below its own.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}
