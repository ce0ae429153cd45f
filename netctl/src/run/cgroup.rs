//! The command's own cgroup, `<the agent's>/weft/run-<id>`: membership is what lets its sockets reach virtual IPs, and what
//! lets everything that it started be ended at its end.
//!
//! A live `netctl run` holds a lock on the directory. A directory without one is abandoned (its `netctl` was killed), and the
//! next run ends what is left in it and removes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::RunError;

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
                    Ok(Some(lock)) if dir.exists() => return Ok(Self { dir, lock }),
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

    /// The file by which a process enters.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn entrance(&self) -> Result<File, RunError> {
        let open = OpenOptions::new().write(true).open(self.dir.join("cgroup.procs"));
        open.map_err(|source| RunError::Cgroup { step: "open", path: self.dir.clone(), source })
    }

    /// Ends every process in it and below.
    ///
    /// # Errors
    /// When some do not die.
    pub async fn kill_all(&self) -> Result<(), RunError> {
        kill_all(&self.dir).await
    }

    /// Removes it; nothing may live there any more.
    ///
    /// # Errors
    /// When something does.
    pub async fn remove(self) -> Result<(), RunError> {
        remove(&self.dir).await?;
        drop(self.lock);
        if let Some(parent) = self.dir.parent() {
            // Not empty while other commands run.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
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
