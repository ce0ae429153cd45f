//! A container's resolv.conf: what it says, and how it is put in place.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use weft_api::Attached;

/// glibc and musl read no more (`MAXNS`).
const MAX_NAMESERVERS: usize = 3;

/// The text of the file, for what has been attached.
///
/// `ndots:2`, because names have a service and perhaps a namespace: `myapp.prod` and `tasks.myapp` go through the search list
/// first. With 1, glibc asks the outside world for them first (`prod` and `app` are real top-level domains), and musl never
/// tries the search list at all. The price is one answer of the host's own name server for names such as `example.com`.
#[must_use]
pub fn text(attached: &Attached) -> String {
    content(&attached.dns, &attached.search)
}

fn content(dns: &[IpAddr], search: &[String]) -> String {
    let mut text = String::from("# written by netctl\n");
    for server in dns.iter().take(MAX_NAMESERVERS) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() {
        // Without the final dot, as every writer of this file has it.
        let domains: Vec<&str> = search.iter().map(|d| d.strip_suffix('.').unwrap_or(d)).collect();
        let _ = writeln!(text, "search {}", domains.join(" "));
    }
    text.push_str("options ndots:2\n");
    text
}

/// Why it is not in place.
#[derive(Debug, thiserror::Error)]
#[error("write {}", path.display())]
pub struct ResolvError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A file that is not there yet. Prepared before anything is attached, so that a directory in which nothing can be written
/// is known in time; dropped, it leaves nothing but the directories.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    file: NamedTempFile,
}

/// Gets ready to write `path`, making the directories above it.
///
/// # Errors
/// When nothing can be written there.
pub fn prepare(path: &Path) -> Result<Prepared, ResolvError> {
    let failed = |source| ResolvError { path: path.to_owned(), source };
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = tempfile::Builder::new().prefix(".resolv.").tempfile_in(dir).map_err(failed)?;
    // Whoever runs in there must read it, whatever the umask.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    Ok(Prepared { path: path.to_owned(), file })
}

impl Prepared {
    /// Puts it in place: readers see the old file or the whole new one.
    ///
    /// # Errors
    /// When the disk is full, or `path` is a directory.
    pub fn write(mut self, text: &str) -> Result<(), ResolvError> {
        let path = self.path;
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.as_file().sync_all());
        let written = written.and_then(|()| self.file.persist(&path).map_err(|e| e.error));
        written.map(drop).map_err(|source| ResolvError { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_server_domain_and_dots() {
        let text = content(&["10.244.3.1".parse().unwrap()], &["skydns.local.".to_owned(), "corp".to_owned()]);
        assert_eq!(text, "# written by netctl\nnameserver 10.244.3.1\nsearch skydns.local corp\noptions ndots:2\n");
    }

    #[test]
    fn no_more_servers_are_named_than_are_read() {
        let servers: Vec<IpAddr> = (1..=5).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(content(&servers, &[]).matches("nameserver").count(), 3);
    }

    #[test]
    fn the_file_replaces_the_old_one_and_all_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns/web/resolv.conf");
        for text in ["one\n", "two\n"] {
            prepare(&path).unwrap().write(text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_known_before() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let err = prepare(&dir.path().join("file/resolv.conf")).unwrap_err();
        assert!(err.to_string().contains("file/resolv.conf"), "{err}");
    }
}
