//! Does what plugins left to do while no agent answered: see [`weft_api::queue`].
//!
//! It is looked at before the socket serves, again every second (a plugin may have missed the agent by a moment), and before
//! each request that could be about the same container. A file is removed once its request is done, so that an agent that is
//! killed in between does it again; doing it twice is as good as once.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tracing::{info, warn};
use weft_api::Queued;
use weft_api::queue::{DIRECTORY, SUFFIX, UNFINISHED};

use super::Attachments;
use crate::refusal::Refusal;

/// How often the queue is looked at.
const PAUSE: Duration = Duration::from_secs(1);

/// The largest request that is read, bytes.
const LARGEST: u64 = 1 << 20;

/// How old a file is that somebody began to write and will not end.
const ABANDONED: Duration = Duration::from_secs(10);

/// How the name of a file ends that is no request.
const BAD: &str = "bad";

/// The queue, as this process has seen it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Held while it is worked off: requests are done one after the other.
    turn: tokio::sync::Mutex<()>,
    /// What is wrong, by the file's name.
    problems: std::sync::Mutex<BTreeMap<String, String>>,
}

impl Attachments {
    /// Works the queue off every second, until the process ends.
    pub async fn follow_queue(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PAUSE).await;
            self.replay().await;
        }
    }

    /// Works the queue off. When this returns, what was in it is done, or status says why not.
    pub async fn replay(&self) {
        let directory = self.state.run_dir().join(DIRECTORY);
        // Nearly always there is nothing, and a look at a directory in memory costs less than to leave the thread for it.
        if names(&directory).is_ok_and(|names| names.is_empty()) && self.queue_problems().is_empty() {
            return;
        }
        let _turn = self.queue.turn.lock().await;
        let names = match names(&directory) {
            Ok(names) => names,
            Err(e) => {
                self.note(DIRECTORY, format!("queue: read {}: {e}", directory.display()));
                return;
            }
        };
        self.queue_trouble().retain(|name, _| names.contains(name));
        for name in names {
            let path = directory.join(&name);
            let done = match path.extension().and_then(|e| e.to_str()) {
                Some(SUFFIX) => self.replay_one(&path).await,
                Some(UNFINISHED) => remove_abandoned(&path).map_err(|e| format!("remove {}: {e}", path.display())),
                Some(BAD) => Err(format!("{} is no request; look at it and remove it", path.display())),
                _ => Ok(()),
            };
            match done {
                Ok(()) => drop(self.queue_trouble().remove(&name)),
                Err(why) => self.note(&name, format!("queue: {why}")),
            }
        }
    }

    async fn replay_one(&self, path: &Path) -> Result<(), String> {
        let shown = path.display();
        let body = match read(path) {
            // Somebody else has done it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(format!("read {shown}: {e}")),
            Ok(body) => body,
        };
        let request: Queued = match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(e) => {
                let aside = path.with_extension(BAD);
                fs::rename(path, &aside).map_err(|e| format!("rename {shown}, which is no request: {e}"))?;
                return Err(format!("{} is no request ({e}); look at it and remove it", aside.display()));
            }
        };
        let done: Result<_, Refusal> = match &request {
            Queued::Release(release) => self.release_to_its_end(release).await,
            Queued::Gc(gc) => self.gc_to_its_end(gc).await,
        };
        let gone = match (done, &request) {
            (Ok(gone), _) => gone,
            (Err(refusal), Queued::Release(_)) => return Err(format!("{shown}: {}; it is tried again", refusal.message)),
            (Err(refusal), Queued::Gc(_)) => {
                // Its list tells what there was then; who is attached from now on is in nobody's. Tools ask again by themselves.
                fs::remove_file(path).or_else(unless_gone).map_err(|e| format!("remove {shown}: {e}"))?;
                return Err(format!("{shown}: {}; the tool's next GC finds what is left", refusal.message));
            }
        };
        info!(?request, detached = gone.len(), "did what was asked while no agent answered");
        fs::remove_file(path).or_else(unless_gone).map_err(|e| format!("remove {shown}, which is done: {e}"))
    }

    /// What is wrong with the queue.
    pub(super) fn queue_problems(&self) -> Vec<String> {
        self.queue_trouble().values().cloned().collect()
    }

    /// Said once, and shown in status as long as it is so.
    fn note(&self, name: &str, text: String) {
        let before = self.queue_trouble().insert(name.to_owned(), text.clone());
        if before.as_ref() != Some(&text) {
            warn!(text, "queue");
        }
    }

    fn queue_trouble(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.queue.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names in a directory, in their order; none if it is not there.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut body = Vec::new();
    fs::File::open(path)?.take(LARGEST).read_to_end(&mut body)?;
    Ok(body)
}

fn remove_abandoned(path: &PathBuf) -> io::Result<()> {
    let age = fs::metadata(path).and_then(|metadata| metadata.modified()).map(|at| at.elapsed().unwrap_or_default());
    match age {
        Ok(age) if age > ABANDONED => fs::remove_file(path).or_else(unless_gone),
        Ok(_) => Ok(()),
        Err(e) => unless_gone(e),
    }
}

fn unless_gone(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}
