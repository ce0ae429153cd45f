//! Asking the agent: how long to wait for it, and what to do when it is away.
//!
//! An attach waits, as `netctl attach` does: a restart of the agent is no reason for a container not to start. What takes
//! something back does not wait: it is left in the queue beside the socket, and the agent does it as soon as it is there.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weft_api::queue::{self, Queued};
use weft_api::{Attach, Attached, Client, ClientError};

use crate::error::{Fault, IO, TRY_AGAIN};

/// How much longer than it was told a waiting agent may answer.
const GRACE: Duration = Duration::from_secs(15);

/// How long an agent may take over something that it does not have to wait for. A release waits for the store for 5 s.
const ANSWER: Duration = Duration::from_secs(20);

/// How often an agent that is not there is looked for.
const RETRY: Duration = Duration::from_millis(100);

/// The agent of this host.
#[derive(Debug)]
pub struct Agent {
    client: Client,
}

/// What became of a request to take something back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is done.
    Back,
    /// The agent will do it.
    Queued(PathBuf),
    /// No agent has run since the boot: there is nothing to take back.
    Nothing,
}

/// Why something has not been taken back, and whether that is for later.
enum Later {
    /// The agent is away, starts, or waits for the store.
    Passing(Fault),
    /// It is there and says nothing.
    Silent(Fault),
    /// It says no.
    Never(Fault),
}

impl Agent {
    /// The agent whose socket is at `path`.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { client: Client::new(path) }
    }

    /// What to ask.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One answer, once.
    ///
    /// # Errors
    /// The agent says no, is not there, or is silent.
    pub async fn ask<T>(&self, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, Fault> {
        match timeout(ANSWER, question).await {
            Ok(answer) => answer.map_err(|e| Fault::of_client(&e)),
            Err(_) => Err(self.silent(ANSWER)),
        }
    }

    /// Attaches, waiting at most `patience` for an agent that starts, restarts or is not ready. If nobody knows in the end
    /// whether it was done, it is taken back.
    ///
    /// # Errors
    /// Why not.
    pub async fn attach(&self, request: &Attach, patience: Duration) -> Result<Attached, Fault> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // The agent says how long it has waited: "2s", not "1.998s".
            let timeout_ms = Some(u64::try_from(left.as_millis().next_multiple_of(100)).unwrap_or(u64::MAX));
            let request = Attach { timeout_ms, ..request.clone() };
            let (fault, may_be_done) = match timeout(left + GRACE, self.client.attach(&request)).await {
                Ok(Ok(attached)) => return Ok(attached),
                Ok(Err(e)) if e.is_passing() && deadline.saturating_duration_since(Instant::now()) > RETRY => {
                    sleep(RETRY).await;
                    continue;
                }
                Ok(Err(e)) => (Fault::of_client(&e), matches!(e, ClientError::Broken { .. })),
                Err(_) => (self.silent(left + GRACE), true),
            };
            if may_be_done && let Some(owner) = request.owner {
                let release = weft_api::Release { owner, ifname: Some(request.ifname) };
                // The first fault is the one to tell; runtimes also call DEL after it.
                let _ = self.take_back(Queued::Release(release)).await;
            }
            return Err(fault);
        }
    }

    /// Takes something back, or leaves that to an agent that is away, starts, or has lost the store.
    ///
    /// # Errors
    /// The agent could not do it, or the request cannot be left for it.
    pub async fn take_back(&self, request: Queued) -> Result<Taken, Fault> {
        let (fault, silent) = match self.try_take_back(&request).await {
            Ok(()) => return Ok(Taken::Back),
            Err(Later::Never(fault)) => return Err(fault),
            Err(Later::Passing(fault)) => (fault, false),
            Err(Later::Silent(fault)) => (fault, true),
        };
        let run_dir = self.client.socket().and_then(Path::parent).unwrap_or(Path::new("/"));
        if !run_dir.is_dir() {
            return Ok(Taken::Nothing);
        }
        let cannot = |e: io::Error| {
            let what = format!("leave a request in {}: {e}", run_dir.join(queue::DIRECTORY).display());
            Fault::new(IO, what).with(fault.msg)
        };
        let path = queue::put(run_dir, &request).map_err(cannot)?;
        // An agent that has started meanwhile may have looked at the queue before: then it is asked, so that what is attached
        // next under the same name is not taken for this.
        if !silent && self.try_take_back(&request).await.is_ok() {
            // The agent may have done it too, and removed it.
            let _ = std::fs::remove_file(&path);
            return Ok(Taken::Back);
        }
        Ok(Taken::Queued(path))
    }

    async fn try_take_back(&self, request: &Queued) -> Result<(), Later> {
        let answer = match request {
            Queued::Release(release) => timeout(ANSWER, self.client.release(release)).await,
            Queued::Gc(gc) => timeout(ANSWER, self.client.gc(gc)).await,
        };
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if e.is_passing() => Err(Later::Passing(Fault::of_client(&e))),
            Ok(Err(e)) => Err(Later::Never(Fault::of_client(&e))),
            Err(_) => Err(Later::Silent(self.silent(ANSWER))),
        }
    }

    fn silent(&self, after: Duration) -> Fault {
        let socket = self.client.place();
        Fault::new(TRY_AGAIN, format!("the agent at {socket} has not answered within {}s", after.as_secs()))
    }
}

/// Says something on standard error, for whoever reads the runtime's log.
pub fn log(text: &str) {
    use io::Write as _;
    let printable: String = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    // Where that is closed, nobody wants to know.
    let _ = writeln!(io::stderr(), "weft-cni: {}", printable.trim_end());
}

/// Where the agent's socket is: as configured, else as the environment says, else the usual place.
#[must_use]
pub fn socket(configured: Option<&Path>, variable: Option<std::ffi::OsString>) -> PathBuf {
    let named = configured.map(Path::to_owned).or_else(|| variable.filter(|v| !v.is_empty()).map(PathBuf::from));
    let path = named.unwrap_or_else(|| weft_api::DEFAULT_SOCKET.into());
    // The queue is beside it: its directory must have a name. A working directory that is gone leaves the path as it is.
    std::path::absolute(&path).unwrap_or(path)
}
