//! What a plugin could not ask an agent that is away for: left beside its socket, one file a request, for the agent to do as
//! soon as it is there.
//!
//! A plugin writes with [`put`] and never reads; the agent reads and never writes. Files are named by the time, so their names'
//! order is that of the requests. They lie in the run directory because they mean nothing after a boot: namespaces and
//! attachments do not outlive one.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Gc, Release};

/// The directory, below the one that the agent's socket is in.
pub const DIRECTORY: &str = "queue";

/// How the name of a request ends.
pub const SUFFIX: &str = "json";

/// How the name of a request ends while it is being written; who finds an old one may remove it.
pub const UNFINISHED: &str = "new";

/// A request that waits: `{"release": {…}}` or `{"gc": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queued {
    /// `POST /v1/attachments/release`.
    Release(Release),
    /// `POST /v1/attachments/gc`.
    Gc(Gc),
}

/// Leaves a request for the agent whose socket is in `run_dir`. It is there whole when this returns, or not at all; it need not
/// be on a disk, since it ends with the boot.
///
/// # Errors
/// The directory cannot be made, or the file cannot be written.
pub fn put(run_dir: &Path, request: &Queued) -> io::Result<PathBuf> {
    let directory = run_dir.join(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let body = serde_json::to_vec(request)?;
    loop {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let stem = format!("{nanos:020}-{}", std::process::id());
        let beside = directory.join(format!("{stem}.{UNFINISHED}"));
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside) {
            Ok(file) => file,
            // Another thread of this process, in the same nanosecond.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        let path = directory.join(format!("{stem}.{SUFFIX}"));
        let written = file.write_all(&body).and_then(|()| fs::rename(&beside, &path));
        if let Err(e) = written {
            let _ = fs::remove_file(&beside);
            return Err(e);
        }
        return Ok(path);
    }
}

#[cfg(test)]
mod tests {
    use weft_model::attachment::{Owner, Runtime};

    use super::*;

    #[test]
    fn requests_lie_there_whole_and_in_order() {
        let run_dir = std::env::temp_dir().join(format!("weft-queue-{}", std::process::id()));
        let release = |container: &str| {
            let owner = Owner { runtime: Runtime::Cni, network: "weft".into(), container: container.into() };
            Queued::Release(Release { owner, ifname: None })
        };
        let gc = Queued::Gc(Gc { runtime: Runtime::Netavark, network: "weft".into(), keep: Vec::new() });
        let requests = [release("b"), gc, release("a")];
        let written: Vec<PathBuf> = requests.iter().map(|request| put(&run_dir, request).unwrap()).collect();
        assert!(written.is_sorted(), "{written:?}");
        let mut there: Vec<PathBuf> = fs::read_dir(run_dir.join(DIRECTORY)).unwrap().map(|entry| entry.unwrap().path()).collect();
        there.sort();
        assert_eq!(there, written, "and nothing beside them");
        let read: Vec<Queued> = there.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect();
        assert_eq!(read, requests);
        assert!(fs::read_to_string(&there[0]).unwrap().starts_with(r#"{"release":{"owner":{"runtime":"cni""#));
        fs::remove_dir_all(&run_dir).unwrap();
    }
}
