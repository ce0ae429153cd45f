//! What a test run must not leave on a machine: namespaces, links, cgroups, mounts and processes of ours.
//!
//! The machine is looked at before and after. Other test runs may be going on beside this one: names of the harness
//! (`weft-t-<pid>-…`) whose process still lives are theirs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The variable by which all processes of a run can be told.
pub const RUN_MARK: &str = "WEFT_TEST_RUN";

/// What all our names begin with.
const OURS: &str = "weft";
/// What the names of the test harness begin with; the process id follows.
const HARNESS: &str = "weft-t-";

/// The machine before a run.
pub struct Before {
    seen: BTreeSet<String>,
    mark: String,
}

impl Before {
    /// Looks.
    ///
    /// # Errors
    /// When the machine cannot be looked at.
    pub fn look() -> Result<Self> {
        let mark = format!("{RUN_MARK}={}", std::process::id());
        Ok(Self { seen: look(&mark)?, mark })
    }

    /// The value of [`RUN_MARK`] for what is run.
    #[must_use]
    pub fn mark(&self) -> &str {
        self.mark.split_once('=').map_or("", |(_, value)| value)
    }

    /// What is there now and was not then. The kernel takes some things apart after their last user has gone, so this waits a little.
    ///
    /// # Errors
    /// When the machine cannot be looked at.
    pub fn left(&self) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let now = look(&self.mark)?;
            let left: Vec<_> = now.difference(&self.seen).filter(|what| !is_others(what)).cloned().collect();
            if left.is_empty() || start.elapsed() > Duration::from_secs(10) {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether a living harness made it, which ours cannot be any more.
fn is_others(what: &str) -> bool {
    let Some((_, rest)) = what.split_once(HARNESS) else { return false };
    let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
    !pid.is_empty() && Path::new("/proc").join(pid).exists()
}

fn look(mark: &str) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    let names =
        |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    seen.extend(names("/sys/class/net").filter(|n| n.starts_with(OURS)).map(|n| format!("link {n}")));
    seen.extend(names("/run/netns").filter(|n| n.starts_with(OURS)).map(|n| format!("network namespace {n}")));
    seen.extend(
        names(&std::env::temp_dir().to_string_lossy()).filter(|n| n.starts_with(HARNESS)).map(|n| format!("directory {n}")),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    for line in mounts.lines() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
        if kind == "bpf" || (point.contains(OURS) && kind != "nsfs") {
            seen.insert(format!("mount {point} ({kind})"));
        }
        if kind == "cgroup2" {
            groups(Path::new(point), 4, &mut seen);
        }
    }
    processes(mark, &mut seen)?;
    Ok(seen)
}

fn groups(dir: &Path, depth: u32, seen: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(OURS) {
            seen.insert(format!("cgroup {}", entry.path().display()));
        } else if depth > 0 {
            groups(&entry.path(), depth - 1, seen);
        }
    }
}

fn processes(mark: &str, seen: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
        let path: PathBuf = entry.path();
        // Whoever has ended meanwhile is not left, and whom we may not look at is not ours.
        let Ok(environ) = fs::read(path.join("environ")) else { continue };
        if environ.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            seen.insert(format!("process {} {}", entry.file_name().to_string_lossy(), line.trim_end()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_living_harness_made_is_its_own() {
        assert!(is_others(&format!("network namespace weft-t-{}-0-h1", std::process::id())));
        assert!(!is_others("network namespace weft-t-4294967295-0-h1"));
        assert!(!is_others("link weft.1"));
    }
}
