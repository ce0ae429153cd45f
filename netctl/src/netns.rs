//! Which network namespace is meant: the names and paths that people type, made into a path that the agent can open.
//!
//! Whether it *is* a network namespace is the agent's to say: it opens it.

use std::io;
use std::path::{Path, PathBuf};

/// Where `ip netns add` puts names.
const NAMED: &str = "/run/netns";

/// Why no path can be made of it.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Neither a name nor a file.
    #[error("network namespace {given:?}: there is neither {} nor {}", named.display(), here.display())]
    NoSuchName {
        /// As typed.
        given: PathBuf,
        /// Where `ip netns` would have it.
        named: PathBuf,
        /// Where a relative path would.
        here: PathBuf,
    },
    /// No process of that number.
    #[error("network namespace of process {pid}: there is no such process")]
    NoSuchProcess {
        /// Its number.
        pid: u32,
    },
    /// The working directory is gone.
    #[error("network namespace {given:?}: make the path absolute")]
    Absolute {
        /// As typed.
        given: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The absolute path of what was typed: a name of `ip netns`, or a path.
///
/// # Errors
/// See [`NetnsError`].
pub fn by_path(given: &Path) -> Result<PathBuf, NetnsError> {
    resolve(given, Path::new(NAMED))
}

fn resolve(given: &Path, names: &Path) -> Result<PathBuf, NetnsError> {
    let here = std::path::absolute(given).map_err(|source| NetnsError::Absolute { given: given.to_owned(), source })?;
    let bare = given.components().count() == 1 && given.file_name().is_some_and(|name| name == given.as_os_str());
    if !bare {
        return Ok(here);
    }
    let named = names.join(given);
    if named.exists() {
        return Ok(named);
    }
    if here.exists() { Ok(here) } else { Err(NetnsError::NoSuchName { given: given.to_owned(), named, here }) }
}

/// The path of a process's network namespace.
///
/// # Errors
/// When there is no such process.
pub fn by_pid(pid: u32) -> Result<PathBuf, NetnsError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    // The link is looked at, not what it leads to: that takes more rights than asking whether the process is there.
    if path.symlink_metadata().is_ok() { Ok(path) } else { Err(NetnsError::NoSuchProcess { pid }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_for_where_ip_netns_has_it() {
        let names = tempfile::tempdir().unwrap();
        std::fs::write(names.path().join("web"), "").unwrap();
        assert_eq!(resolve(Path::new("web"), names.path()).unwrap(), names.path().join("web"));
    }

    #[test]
    fn paths_become_absolute_and_stay_as_they_are_otherwise() {
        let names = tempfile::tempdir().unwrap();
        std::fs::write(names.path().join("web"), "").unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(resolve(Path::new("./web"), names.path()).unwrap(), here.join("web"));
        assert_eq!(resolve(Path::new("a/web"), names.path()).unwrap(), here.join("a/web"));
        assert_eq!(resolve(Path::new("/run/netns/x"), names.path()).unwrap(), Path::new("/run/netns/x"));
    }

    #[test]
    fn a_name_that_is_nowhere_is_refused_with_both_places() {
        let names = tempfile::tempdir().unwrap();
        let err = resolve(Path::new("no-such-name"), names.path()).unwrap_err().to_string();
        assert!(err.contains(&names.path().join("no-such-name").display().to_string()), "{err}");
        assert!(err.contains(&std::env::current_dir().unwrap().join("no-such-name").display().to_string()), "{err}");
    }

    #[test]
    fn a_process_must_be_there() {
        assert_eq!(by_pid(std::process::id()).unwrap(), PathBuf::from(format!("/proc/{}/ns/net", std::process::id())));
        assert!(by_pid(u32::MAX).is_err());
    }
}
