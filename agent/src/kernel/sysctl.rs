//! Settings below `/proc/sys`. Those of the network are per namespace: one sees and sets those of the namespace that the
//! calling thread is in.

use std::fs;
use std::io;
use std::path::PathBuf;

use weft_plan::Table;
use weft_plan::sysctls::Sysctl;

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Written. A read-only `/proc/sys` is what containers without privileges have.
    #[error("write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What the settings asked about are set to. One that is not there (its device has gone, the kernel lacks it) is left out.
///
/// # Errors
/// When one that is there cannot be read.
pub fn read_all(asked: &Table<Sysctl>) -> Result<Table<Sysctl>, SysctlError> {
    let mut found = Table::default();
    for row in asked.iter() {
        let path = file(&row.path);
        match fs::read_to_string(&path) {
            Ok(text) => found.insert(Sysctl { value: text.trim().to_owned(), ..row.clone() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SysctlError::Read { path, source }),
        }
    }
    Ok(found)
}

/// What one setting is; `None` if it is not there.
///
/// # Errors
/// It is there and cannot be read.
pub fn read(path: &str) -> Result<Option<String>, SysctlError> {
    let path = file(path);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SysctlError::Read { path, source }),
    }
}

/// Sets a setting.
///
/// # Errors
/// When the kernel refuses, or the setting is not there.
pub fn write(row: &Sysctl) -> Result<(), SysctlError> {
    let path = file(&row.path);
    fs::write(&path, &row.value).map_err(|source| SysctlError::Write { path, value: row.value.clone(), source })
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path)
}
