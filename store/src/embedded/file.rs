//! The database file: opening it, and saying what to do when it cannot be opened.

use std::error::Error as StdError;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use redb::{Database, DatabaseError, StorageError};

use super::tables;
use crate::StoreError;

/// How much of the file is kept in memory. Weft's own state is far smaller; redb's default is 1 GiB.
const CACHE: usize = 8 << 20;

/// Opens the file, makes it if there is none, and checks every page of it. Never removes anything.
///
/// # Errors
/// [`StoreError::Database`], whose text says what to do.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let name = path.display();
    let because = |op: String, source: Box<dyn StdError + Send + Sync>| StoreError::Database { op, source };
    let unusable = |source: Box<dyn StdError + Send + Sync>| {
        because(
            format!(
                "the state database {name} cannot be used: put back a copy of it, or move it away to begin with an empty one \
                 (what it held is then lost: services, records, this host's subnet)"
            ),
            source,
        )
    };
    create(path).map_err(|source| because(format!("make the state database {name}"), source.into()))?;
    let opened = Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true).create(path);
    let db = match opened {
        Ok(db) => db,
        Err(error @ DatabaseError::DatabaseAlreadyOpen) => {
            let holder = holder_of(path).unwrap_or_else(|| "another process".to_owned());
            return Err(because(
                format!(
                    "the state database {name} is in use by {holder}: stop that, or give this agent a --state-dir of its own"
                ),
                error.into(),
            ));
        }
        Err(DatabaseError::Storage(StorageError::Io(error))) if error.kind() != io::ErrorKind::InvalidData => {
            return Err(because(format!("open the state database {name}"), error.into()));
        }
        Err(error) => return Err(unusable(error.into())),
    };
    match tables::prepare(&db) {
        Ok(Ok(())) => Ok(db),
        Ok(Err(other)) => Err(because(
            format!("the state database {name} was made by another version of Weft: use that one, or move the file away"),
            other.into(),
        )),
        Err(redb::Error::Io(error)) => Err(because(format!("write to the state database {name}"), error.into())),
        Err(error) => Err(unusable(error.into())),
    }
}

/// Makes the file if it is not there, readable by its owner only, so that it survives a power cut.
fn create(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            file.sync_all()?;
            File::open(parent)?.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Which process holds the lock on a file, as far as /proc/locks tells.
fn holder_of(path: &Path) -> Option<String> {
    let file = fs::metadata(path).ok()?;
    let pid = holder_in(&fs::read_to_string("/proc/locks").ok()?, file.dev(), file.ino())?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(match name.trim() {
        "" => format!("process {pid}"),
        name => format!("process {pid} ({name})"),
    })
}

/// The process in lines like `1: FLOCK  ADVISORY  WRITE 4021 fe:00:123 0 EOF`: device in hexadecimal, inode in decimal.
/// Locks of open files (`OFDLCK`) belong to no process and show -1.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    // glibc's gnu_dev_major and gnu_dev_minor.
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != "WRITE").skip(1);
        let pid = fields.next()?.parse().ok().filter(|pid| *pid > 0)?;
        (fields.next()? == wanted).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: OFDLCK ADVISORY  WRITE -1 fe:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 41 fe:00:78 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 43 fe:00:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 42 fe:00:77 0 EOF\n";
        assert_eq!(holder_in(locks, 0xfe00, 78), Some(41));
        assert_eq!(holder_in(locks, 0xfe00, 79), None);
        assert_eq!(holder_in(locks, 0xfe01, 78), None);
    }
}
