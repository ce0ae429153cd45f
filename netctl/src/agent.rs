//! Asking the agent: every question has a bound in time, and long waits tell what is waited for.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep, timeout};
use weft_api::{Client, ClientError, Credentials, PlaceError};

use crate::error::Error;
use crate::format::printable;

/// How long an agent may take over something that it does not have to wait for.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// How much later than it was told a waiting agent may answer.
const GRACE: Duration = Duration::from_secs(10);

/// When a person begins to wonder.
const SILENCE: Duration = Duration::from_secs(1);

/// How often an agent that is not there or not ready is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// Until when a command waits for an agent that starts, restarts or is not ready.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// `patience` from now; none at all is one try.
    #[must_use]
    pub fn after(patience: Duration) -> Self {
        Self(Instant::now() + patience)
    }

    /// What is left of it.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What a person who looks on sees of something that takes longer than [`SILENCE`].
#[derive(Debug)]
pub struct Patience {
    begun: Instant,
    spinner: Option<ProgressBar>,
    looked_at: bool,
}

impl Patience {
    /// Begins now; nothing is shown yet.
    #[must_use]
    pub fn begin() -> Self {
        Self { begun: Instant::now(), spinner: None, looked_at: io::stderr().is_terminal() }
    }

    /// Says how far it is, if somebody looks on and began to wonder.
    pub fn tell(&mut self, how_far: &str) {
        if self.looked_at && self.begun.elapsed() >= SILENCE {
            self.spinner.get_or_insert_with(spinner).set_message(printable(how_far));
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Turns until it is cleared.
fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_elapsed(SILENCE);
    // The template is ours and has no variable part: the default one does if it should ever not parse.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// The agent, by its socket or from elsewhere.
#[derive(Clone, Debug)]
pub struct Agent {
    client: Client,
}

impl Agent {
    /// The agent whose socket is at `path`.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { client: Client::new(path) }
    }

    /// The agent at `https://HOST:PORT`.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn elsewhere(url: &str, credentials: &Credentials) -> Result<Self, PlaceError> {
        Ok(Self { client: Client::remote(url, credentials)? })
    }

    /// What to ask. The answer is awaited by one of the methods below.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The answer to a question that takes no waiting.
    ///
    /// # Errors
    /// As the question's, or [`Error::Silent`].
    pub async fn ask<T>(&self, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, Error> {
        self.within(ANSWER_BOUND, question).await
    }

    /// The answer to a question that is put again until the deadline while there is no agent, its connection breaks, or it is
    /// not ready. The question is told how long the agent itself may wait. It may be carried out and then put again: it must be
    /// one that gives the same answer twice, or the asker must look for that.
    ///
    /// # Errors
    /// As [`Agent::ask`]; the last one, and [`Error::NotReady`] for an agent that has become no readier.
    pub async fn ask_until<T, F>(&self, deadline: Deadline, mut question: impl FnMut(Duration) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let work = async {
            loop {
                let left = deadline.left();
                match self.within(ANSWER_BOUND.max(left.saturating_add(GRACE)), question(left)).await {
                    Err(Error::Client(e)) if e.is_passing() && deadline.left() > RETRY => sleep(RETRY).await,
                    Err(Error::Client(e @ ClientError::Refused { .. })) if e.is_passing() => return Err(Error::NotReady(e)),
                    answer => return answer,
                }
            }
        };
        self.tell_reasons(work).await
    }

    async fn within<T>(&self, bound: Duration, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, Error> {
        match timeout(bound, question).await {
            Ok(answer) => answer.map_err(Error::from),
            Err(_) => Err(Error::Silent { agent: self.client.place(), after: bound }),
        }
    }

    /// Shows, if it takes long and a person looks on, what the agent is waiting for.
    async fn tell_reasons<T>(&self, work: impl Future<Output = T>) -> T {
        if !io::stderr().is_terminal() {
            return work.await;
        }
        tokio::pin!(work);
        if let Ok(done) = timeout(SILENCE, &mut work).await {
            return done;
        }
        let spinner = spinner();
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                () = async {
                    spinner.set_message(self.reason().await);
                    sleep(SILENCE).await;
                } => {}
            }
        };
        spinner.finish_and_clear();
        done
    }

    async fn reason(&self) -> String {
        match timeout(SILENCE, self.client.status()).await {
            Ok(Ok(status)) => match status.reasons.first() {
                Some(reason) if !status.ready => printable(reason),
                _ => "the agent is at it".to_owned(),
            },
            Ok(Err(ClientError::NoAgent { .. })) => format!("no agent at {} yet", self.client.place()),
            _ => "waiting for the agent".to_owned(),
        }
    }
}
