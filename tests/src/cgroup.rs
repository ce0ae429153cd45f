//! The cgroup v2 tree: where it is mounted, and a topology's own part of it.
//!
//! A topology `T` has `<root>/T`, and in it a group per host. Whatever is started on a host is in that host's group or below
//! it, which makes "everything on this host" something the kernel can kill at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::eventually::{SOON, eventually};

/// The mount points in this mount namespace, with their file system types, in the order of mounting.
///
/// # Errors
/// When `/proc/self/mountinfo` cannot be read.
pub fn mounts() -> Result<Vec<(PathBuf, String)>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(table.lines().filter_map(parse_mount).collect())
}

/// proc(5): `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, with any number of fields before the hyphen.
fn parse_mount(line: &str) -> Option<(PathBuf, String)> {
    let (left, right) = line.split_once(" - ")?;
    let point = left.split(' ').nth(4)?;
    // Blanks in paths are written as octal.
    let point = point.replace("\\040", " ");
    Some((PathBuf::from(point), right.split(' ').next()?.to_owned()))
}

/// Where cgroup v2 is mounted: the first such mount.
///
/// # Errors
/// When it is mounted nowhere; the error names the command that mounts it.
pub fn root() -> Result<PathBuf> {
    let found = mounts()?.into_iter().find(|(_, kind)| kind == "cgroup2");
    match found {
        Some((point, _)) => Ok(point),
        None => bail!(
            "cgroup v2 is not mounted; mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
        ),
    }
}

/// Kills every process in `group` and below, and returns when none is left.
///
/// `cgroup.kill` is there from kernel 5.14 on; it catches what forks while it is being killed.
///
/// # Errors
/// When the kernel refuses, or a process does not die.
pub fn kill_all(group: &Path) -> Result<()> {
    match fs::write(group.join("cgroup.kill"), "1") {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound && !group.exists() => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("kill the processes of {}", group.display())),
    }
    eventually(&format!("no process left in {}", group.display()), SOON, || {
        let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
        if events.lines().any(|l| l == "populated 1") { Err(events) } else { Ok(()) }
    })
}

/// Removes `group` and all groups below it. Nothing may live there any more; that it is gone already is fine.
///
/// # Errors
/// When the kernel refuses, as it does for a moment after the last process died.
pub fn remove_tree(group: &Path) -> Result<()> {
    let children = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("list {}", group.display())),
    };
    for entry in children.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).with_context(|| format!("remove {}", group.display())),
        _ => Ok(()),
    }
}

/// The cgroup v2 path of a process, below the mount of [`root`].
///
/// # Errors
/// When the process is gone, or in no v2 group.
pub fn of_process(pid: u32) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let group = text.lines().find_map(|l| l.strip_prefix("0::/"));
    Ok(root()?.join(group.with_context(|| format!("{path} has no v2 line: {text:?}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_give_mount_point_and_type() {
        let line = r"36 35 0:26 / /tmp/a\040b rw,relatime shared:7 master:1 - cgroup2 cgroup2 rw";
        assert_eq!(parse_mount(line), Some((PathBuf::from("/tmp/a b"), "cgroup2".to_owned())));
        assert_eq!(parse_mount("rubbish"), None);
    }
}
