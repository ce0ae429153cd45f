//! Connections to etcd: which endpoint is used, logging in, failing over, and bounding every request in time.
//!
//! There is one connection per endpoint, made when first needed and made anew after a failure, so that an etcd that is away
//! costs an error and nothing else. All requests go to one endpoint, the active one, until it fails; then to the next. (The
//! balancer of the gRPC library would spread requests over dead endpoints too.) A request whose fate is unknown is repeated
//! only if the caller says that doing it twice does no harm.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, Error};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::config::{EtcdConfig, EtcdConfigError};
use super::fault::{Fault, Said, chain};

/// Whether a request may be sent once more when the first attempt's fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It reads, or doing it twice is the same as once.
    Safe,
    /// Only if it was certainly not sent.
    Never,
}

/// Which connection a request goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The one that all requests to an endpoint share.
    Shared,
    /// One of its own, so that a reader who does not read holds back nobody else (HTTP/2 has one window per connection).
    Own,
}

/// A connection (made by the library when first used), logged in if a user is configured.
#[derive(Clone)]
struct Link {
    client: Client,
    /// Tells this connection from those before and after it at the same endpoint.
    number: u64,
}

struct Endpoint {
    url: Arc<str>,
    link: Mutex<Option<Link>>,
}

/// All ways to etcd.
pub(super) struct Connections {
    config: EtcdConfig,
    endpoints: Vec<Endpoint>,
    active: AtomicUsize,
    links_made: AtomicU64,
    login_unneeded: AtomicBool,
}

impl Connections {
    /// Checks the configuration. Connects to nothing.
    pub async fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        let urls = config.urls()?;
        for url in &urls {
            // Builds the client, which reads the files and parses what is in them, and drops it again.
            let options = config.options(url)?;
            if let Err(error) = Client::connect([url], Some(options)).await {
                let why = match &error {
                    Error::TransportError(error) => chain(error),
                    error => chain(error),
                };
                return Err(match url.starts_with("https://") {
                    true => EtcdConfigError::Tls { endpoint: url.clone(), why },
                    false => EtcdConfigError::Endpoint { endpoint: url.clone(), why },
                });
            }
        }
        // Every agent begins at another member.
        let first = RandomState::new().build_hasher().finish() as usize % urls.len();
        Ok(Self {
            config,
            endpoints: urls.into_iter().map(|url| Endpoint { url: url.into(), link: Mutex::new(None) }).collect(),
            active: AtomicUsize::new(first),
            links_made: AtomicU64::new(0),
            login_unneeded: AtomicBool::new(false),
        })
    }

    /// The endpoints, for messages.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| &*endpoint.url)
    }

    /// The longest that one operation takes.
    pub fn request_timeout(&self) -> Duration {
        self.config.request_timeout
    }

    /// Makes a request, at the next endpoint too if the active one fails, within the request timeout over all.
    pub async fn call<T, F, Fut>(&self, again: Again, request: F) -> Result<T, Fault>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        self.call_over(Over::Shared, again, request).await.map(|(answer, _)| answer)
    }

    /// The same over a connection of choice; says which endpoint answered.
    pub async fn call_over<T, F, Fut>(&self, over: Over, again: Again, request: F) -> Result<(T, Arc<str>), Fault>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + self.config.request_timeout;
        let mut logged_in_anew = false;
        // Each endpoint once, and the first once more: a member that has just restarted refuses one connection only.
        let mut left = self.endpoints.len() + 1;
        loop {
            left -= 1;
            let at = self.active.load(Ordering::Relaxed) % self.endpoints.len();
            let until = match self.endpoints.len() {
                1 => end,
                // One endpoint that does not answer must leave time for another.
                _ => end.min(Instant::now() + self.config.request_timeout / 2),
            };
            let (number, fault) = match self.attempt(at, over, until, &request).await {
                Ok(answer) => return Ok((answer, self.endpoints[at].url.clone())),
                Err(failed) => failed,
            };
            let retry = match &fault {
                Fault::NotSent(_) => true,
                Fault::Lost(_) => again == Again::Safe,
                Fault::StaleLogin(_) => {
                    self.forget(at, number, end).await;
                    if self.config.username.is_none() {
                        return Err(without_user(fault));
                    }
                    if logged_in_anew {
                        return Err(Fault::Refused(fault.said()));
                    }
                    logged_in_anew = true;
                    left += 1;
                    continue;
                }
                _ => return Err(fault),
            };
            // Own connections end with their request; it is the endpoint that is left.
            self.forget(at, number, end).await;
            let next = (at + 1) % self.endpoints.len();
            if self.active.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != at {
                debug!(from = %self.endpoints[at].url, to = %self.endpoints[next].url, "changing the etcd endpoint");
            }
            if !retry || left == 0 || Instant::now() >= end {
                return Err(fault);
            }
        }
    }

    /// One request at one endpoint. An error says which connection it failed on.
    async fn attempt<T, F, Fut>(&self, at: usize, over: Over, until: Instant, request: &F) -> Result<T, (u64, Fault)>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let url = &self.endpoints[at].url;
        let made = match over {
            Over::Shared => timeout_at(until, self.shared(at)).await,
            Over::Own => timeout_at(until, self.make(at)).await,
        };
        let link = match made {
            Ok(Ok(link)) => link,
            Ok(Err(fault)) => return Err((0, fault)),
            // The request itself has not been sent.
            Err(_) => return Err((0, Fault::NotSent(Fault::timed_out(url).said()))),
        };
        match timeout_at(until, request(link.client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err((link.number, Fault::of(url, &error))),
            Err(_) => Err((link.number, Fault::timed_out(url))),
        }
    }

    /// The connection that an endpoint's requests share. Whoever comes while it is being made waits for it.
    async fn shared(&self, at: usize) -> Result<Link, Fault> {
        let mut slot = self.endpoints[at].link.lock().await;
        if let Some(link) = &*slot {
            return Ok(link.clone());
        }
        let link = self.make(at).await?;
        *slot = Some(link.clone());
        Ok(link)
    }

    /// Drops a connection that has failed, unless another has taken its place already, or is about to.
    async fn forget(&self, at: usize, number: u64, end: Instant) {
        let Ok(mut slot) = timeout_at(end, self.endpoints[at].link.lock()).await else { return };
        if slot.as_ref().is_some_and(|link| link.number == number) {
            *slot = None;
        }
    }

    async fn make(&self, at: usize) -> Result<Link, Fault> {
        let url = &self.endpoints[at].url;
        let unusable = |what: String| Fault::NotSent(Said { endpoint: url.clone(), what });
        let options = self.config.options(url).map_err(|e| unusable(chain(&e)))?;
        let mut client = Client::connect([url], Some(options)).await.map_err(|e| Fault::of(url, &e))?;
        if let Some((user, password)) = self.config.password().map_err(|e| unusable(chain(&e)))? {
            match client.update_user(Some((user.clone(), password))).await {
                Ok(()) => {}
                Err(Error::GRpcStatus(status)) if status.message().contains("authentication is not enabled") => {
                    if !self.login_unneeded.swap(true, Ordering::Relaxed) {
                        warn!(%url, %user, "etcd has no authentication enabled; the user is not needed");
                    }
                }
                Err(error) => return Err(self.login_failed(url, &user, Fault::of(url, &error))),
            }
        }
        Ok(Link { client, number: self.links_made.fetch_add(1, Ordering::Relaxed) + 1 })
    }

    fn login_failed(&self, url: &Arc<str>, user: &str, fault: Fault) -> Fault {
        match fault {
            Fault::Refused(said) | Fault::StaleLogin(said) => {
                let file = self.config.password_file.as_deref().unwrap_or_else(|| std::path::Path::new("-"));
                let what = format!("log in as {user} with the password in {}: {}", file.display(), said.what);
                Fault::Refused(Said { endpoint: url.clone(), what })
            }
            // The request comes after the login.
            Fault::Lost(said) => Fault::NotSent(said),
            other => other,
        }
    }
}

/// etcd wants a user and none is configured.
fn without_user(fault: Fault) -> Fault {
    let mut said = fault.said();
    said.what.push_str("; this etcd wants a login: set --etcd-username and --etcd-password-file");
    Fault::Refused(said)
}
