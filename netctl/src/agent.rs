//! Asking the agent: every question has a bound in time, and long waits tell what is waited for.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep, timeout};
use weft_api::{Client, ClientError, Code};

use crate::error::Error;
use crate::format::printable;

/// How long an agent may take over something that it does not have to wait for.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// How much later than it was told a waiting agent may answer.
const GRACE: Duration = Duration::from_secs(10);

/// When a person begins to wonder.
const SILENCE: Duration = Duration::from_secs(1);

/// How often an agent that is not ready is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// The agent behind a socket.
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

    /// The answer to a question for which the agent itself waits up to `patience` until it is ready.
    ///
    /// # Errors
    /// As [`Agent::ask`].
    pub async fn ask_patiently<T>(
        &self,
        patience: Duration,
        question: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Error> {
        self.tell_reasons(self.within(patience.saturating_add(GRACE), question)).await
    }

    /// The answer to a question that is put again, for up to `patience`, while the agent says that it is not ready.
    ///
    /// # Errors
    /// As [`Agent::ask`]; the agent's last answer.
    pub async fn ask_until_ready<T, F>(&self, patience: Duration, mut question: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let deadline = Instant::now() + patience;
        self.tell_reasons(async {
            loop {
                match self.ask(question()).await {
                    Err(Error::Client(ClientError::Refused { code: Code::NotReady | Code::StoreAway, .. }))
                        if Instant::now() + RETRY < deadline =>
                    {
                        sleep(RETRY).await;
                    }
                    answer => return answer,
                }
            }
        })
        .await
    }

    async fn within<T>(&self, bound: Duration, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, Error> {
        match timeout(bound, question).await {
            Ok(answer) => answer.map_err(Error::from),
            Err(_) => Err(Error::Silent { socket: self.client.socket().to_owned(), after: bound }),
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
        let spinner = ProgressBar::new_spinner().with_elapsed(SILENCE);
        // The template is ours and has no variable part: the default one does if it should ever not parse.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(Duration::from_millis(100));
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
            _ => "waiting for the agent".to_owned(),
        }
    }
}
