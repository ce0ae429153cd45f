//! The client of a container engine: Docker's Engine API over a UNIX socket, which podman's service speaks as well.
//!
//! Paths bear no version: each engine then answers as its newest. Nothing here is believed: answers have a limit, lines of the
//! event stream too, and what they mean is [`super::told`]'s to say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::told;

/// How long one question may take. podman holds a container's lock while it starts, and answers for it later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest line of the event stream, bytes. An event bears all labels of its container.
const MAX_LINE: usize = 4 << 20;

/// How many containers are remembered one by one between two looks; beyond that all are looked at.
const MAX_CHANGED: usize = 4096;

/// Containers, and the networks of containers; not volumes, images and builds.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// Why an engine cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody listens there.
    #[error("connect {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke, or the answer is none.
    #[error("GET {path}")]
    Broken {
        /// What was asked.
        path: String,
        /// What went wrong.
        #[source]
        source: Boxed,
    },
    /// It does not say.
    #[error("GET {path}: status {status}")]
    Refused {
        /// What was asked.
        path: String,
        /// HTTP's.
        status: StatusCode,
    },
}

/// Containers that something has happened to since the last look.
#[derive(Debug, Default)]
pub struct Changed {
    said: Mutex<Said>,
    news: Notify,
}

/// Which.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// These.
    pub ids: BTreeSet<String>,
    /// Any: something was said that is not understood, or too much.
    pub all: bool,
}

impl Said {
    /// Whether it is about this container.
    #[must_use]
    pub fn about(&self, id: &str) -> bool {
        self.all || self.ids.contains(id)
    }
}

impl Changed {
    /// What has been said since the last time.
    pub fn take(&self) -> Said {
        std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is something to take.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn hear(&self, line: &[u8]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match told::event(line) {
            told::Event::Of(id) if said.ids.len() < MAX_CHANGED => drop(said.ids.insert(id)),
            told::Event::Of(_) | told::Event::Unknown => said.all = true,
            told::Event::Nothing => return,
        }
        drop(said);
        self.news.notify_one();
    }
}

/// An engine. Connects anew for each question.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// The engine that listens on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for something, at most `limit` bytes of it; none if there is no such thing.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn get(&self, path: &str, limit: usize) -> Result<Option<Value>, EngineError> {
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(path, limit)).await;
        answered.unwrap_or_else(|_| Err(broken(path)(format!("no answer after {ANSWER_TIMEOUT:?}").into())))
    }

    async fn exchange(&self, path: &str, limit: usize) -> Result<Option<Value>, EngineError> {
        let (mut sender, connection) = self.open(path).await?;
        let exchange = async {
            let response = sender.send_request(request(path)?).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), limit).collect().await?.to_bytes();
            Ok::<_, Boxed>((status, body))
        };
        let (status, body) = tokio::select! {
            answer = exchange => answer.map_err(broken(path))?,
            Err(e) = connection => return Err(broken(path)(e.into())),
        };
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => serde_json::from_slice(&body).map(Some).map_err(|e| broken(path)(e.into())),
            status => Err(EngineError::Refused { path: path.to_owned(), status }),
        }
    }

    /// Listens to what happens, from now on until the connection ends.
    ///
    /// podman (4.3.1) sends not even a status before the first event, so nobody can wait until this listens.
    ///
    /// # Errors
    /// Always: why it has ended.
    pub async fn listen(&self, changed: &Changed) -> EngineError {
        let (mut sender, connection) = match self.open(EVENTS).await {
            Ok(open) => open,
            Err(e) => return e,
        };
        let listen = async {
            let response = sender.send_request(request(EVENTS)?).await?;
            if !response.status().is_success() {
                return Err(format!("status {}", response.status()).into());
            }
            read_lines(response.into_body(), changed).await
        };
        let ended = tokio::select! {
            ended = listen => ended,
            Err(e) = connection => Err(e.into()),
        };
        broken(EVENTS)(ended.err().unwrap_or_else(|| "the event stream has ended".into()))
    }

    async fn open(
        &self,
        path: &str,
    ) -> Result<(SendRequest<Empty<Bytes>>, Connection<TokioIo<UnixStream>, Empty<Bytes>>), EngineError> {
        let connect = |source| EngineError::Connect { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(path)(e.into()))
    }
}

fn broken(path: &str) -> impl Fn(Boxed) -> EngineError + use<'_> {
    move |source| EngineError::Broken { path: path.to_owned(), source }
}

fn request(path: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    Request::get(path).header("host", "docker").body(Empty::new())
}

async fn read_lines(mut body: Incoming, changed: &Changed) -> Result<(), Boxed> {
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            changed.hear(&line);
        }
        if rest.len() > MAX_LINE {
            return Err(format!("an event of more than {MAX_LINE} bytes").into());
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
