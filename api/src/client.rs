//! The client: one request, one connection, one answer, over the agent's socket or, from elsewhere, over TLS.

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_model::ids::{NetworkName, NodeName, ServiceName};

mod objects;
mod registrations;
mod registry;
mod transport;
mod watch;

pub use transport::{Credentials, PlaceError};
pub use watch::Events;

use self::transport::Place;

use crate::doctor::{Checkup, CheckupStart};
use crate::{
    Attach, Attached, Check, Code, Config, ConfigChange, Description, DnsAnswer, DnsWhy, DrainView, Drops, EndpointAdd,
    EndpointView, ErrorBody, Gc, HealthView, Network, NetworkChange, NetworkCreate, NetworkInit, NodeView, Plan, Precondition,
    Release, ReservationView, Reserve, ServiceCreate, ServiceCreated, ServiceView, Status,
};

use crate::store::{StoreExport, StoreImport, StoreImported};

/// The largest answer that is read, bytes.
const MAX_ANSWER: usize = 256 << 20;

/// Why there is no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no agent at {}: is weftd running, and may you open its socket?", socket.display())]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// There is no way to one on another host, or it does not want this caller.
    #[error("no agent at {agent}")]
    Unreachable {
        /// Where it should be.
        agent: String,
        /// What is in the way.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke, or the answer is not one of ours.
    #[error("{request}: no usable answer from the agent")]
    Broken {
        /// Method and path.
        request: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent says no.
    #[error("{message}")]
    Refused {
        /// For programs.
        code: Code,
        /// For people.
        message: String,
    },
}

impl ClientError {
    /// Whether the same request may go well in a moment, because the agent starts, restarts or waits. After one that is
    /// [`ClientError::Broken`] or [`Code::StoreAway`] nobody knows whether it has been carried out.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            // ENOENT before the agent has made its socket, ECONNREFUSED on one that it left. Not EACCES: waiting gives no right.
            Self::NoAgent { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
            }
            Self::Unreachable { source, .. } => source.downcast_ref::<std::io::Error>().is_some_and(transport::is_passing),
            // Other sources are answers that are none of ours, and those do not change.
            Self::Broken { source, .. } => source.is::<hyper::Error>(),
            Self::Refused { code, .. } => matches!(code, Code::NotReady | Code::StoreAway),
        }
    }
}

/// What is asked about a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draining {
    /// How far it is.
    Look,
    /// That it be drained, and taken out of use after this time whatever is connected; none is never.
    Drain {
        /// Counted from now on, in milliseconds as it is sent.
        deadline: Option<Duration>,
    },
    /// That it be drained no more.
    Undrain,
}

impl Draining {
    fn method(self) -> Method {
        match self {
            Self::Look => Method::GET,
            Self::Drain { .. } => Method::PUT,
            Self::Undrain => Method::DELETE,
        }
    }

    fn query(self, service: Option<&ServiceName>) -> String {
        let service = service.map(|service| format!("service={}", escape(&service.to_string())));
        let deadline = match self {
            Self::Drain { deadline } => deadline.map(|time| format!("deadline_ms={}", time.as_millis())),
            Self::Look | Self::Undrain => None,
        };
        let parts: Vec<String> = service.into_iter().chain(deadline).collect();
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }
}

/// A handle on an agent. Cheap; connects anew for each request.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
}

impl Client {
    /// The agent whose socket is at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Socket(path.into()) }
    }

    /// `GET /v1/openapi.json`: the document, as it was sent.
    ///
    /// # Errors
    /// See [`ClientError`], here and below.
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.call(Method::GET, "/v1/openapi.json", NOTHING).await
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// See [`ClientError`], here and below.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call(Method::GET, "/v1/status", NOTHING).await
    }

    /// `GET /v1/network`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn network(&self) -> Result<Network, ClientError> {
        self.call(Method::GET, "/v1/network", NOTHING).await
    }

    /// `PUT /v1/network`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn network_init(&self, init: &NetworkInit) -> Result<Network, ClientError> {
        self.call(Method::PUT, "/v1/network", Some(init)).await
    }

    /// `PATCH /v1/network`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn network_set(&self, change: &NetworkChange) -> Result<Network, ClientError> {
        self.call(Method::PATCH, "/v1/network", Some(change)).await
    }

    /// `GET /v1/networks`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.call(Method::GET, "/v1/networks", NOTHING).await
    }

    /// `GET /v1/networks/{name}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn network_named(&self, name: &NetworkName) -> Result<Network, ClientError> {
        self.call(Method::GET, &format!("/v1/networks/{name}"), NOTHING).await
    }

    /// `POST /v1/networks`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn network_create(&self, create: &NetworkCreate) -> Result<Network, ClientError> {
        self.call(Method::POST, "/v1/networks", Some(create)).await
    }

    /// `DELETE /v1/networks/{name}`. Returns it as it was.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn network_rm(&self, name: &NetworkName) -> Result<Network, ClientError> {
        self.call(Method::DELETE, &format!("/v1/networks/{name}"), NOTHING).await
    }

    /// `GET /v1/reservations`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reservations(&self) -> Result<Vec<ReservationView>, ClientError> {
        self.call(Method::GET, "/v1/reservations", NOTHING).await
    }

    /// `POST /v1/reservations`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reserve(&self, reserve: &Reserve) -> Result<ReservationView, ClientError> {
        self.call(Method::POST, "/v1/reservations", Some(reserve)).await
    }

    /// `DELETE /v1/reservations/{node}`. Returns it as it was.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unreserve(&self, node: &NodeName) -> Result<ReservationView, ClientError> {
        self.call(Method::DELETE, &format!("/v1/reservations/{node}"), NOTHING).await
    }

    /// `GET /v1/config`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn config(&self) -> Result<Config, ClientError> {
        self.call(Method::GET, "/v1/config", NOTHING).await
    }

    /// `PATCH /v1/config`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn config_change(&self, change: &ConfigChange) -> Result<Config, ClientError> {
        self.call(Method::PATCH, "/v1/config", Some(change)).await
    }

    /// `GET /v1/nodes`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nodes(&self) -> Result<Vec<NodeView>, ClientError> {
        self.call(Method::GET, "/v1/nodes", NOTHING).await
    }

    /// `GET /v1/nodes/{node}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn node(&self, node: &NodeName) -> Result<NodeView, ClientError> {
        self.call(Method::GET, &format!("/v1/nodes/{node}"), NOTHING).await
    }

    /// `DELETE /v1/nodes/{node}`: the subnet and the records of a dead host. Returns it as it was.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn node_rm(&self, node: &NodeName) -> Result<NodeView, ClientError> {
        self.call(Method::DELETE, &format!("/v1/nodes/{node}"), NOTHING).await
    }

    /// `GET /v1/endpoints`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoints(&self) -> Result<Vec<EndpointView>, ClientError> {
        self.call(Method::GET, "/v1/endpoints", NOTHING).await
    }

    /// `POST /v1/endpoints`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoint_add(&self, add: &EndpointAdd) -> Result<EndpointView, ClientError> {
        self.call(Method::POST, "/v1/endpoints", Some(add)).await
    }

    /// `DELETE /v1/endpoints/{id}`; the service decides between endpoints of one id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoint_rm(&self, id: &str, service: Option<&ServiceName>) -> Result<EndpointView, ClientError> {
        let query = service.map(|s| format!("?service={}", escape(&s.to_string()))).unwrap_or_default();
        self.call(Method::DELETE, &format!("/v1/endpoints/{}{query}", escape(id)), NOTHING).await
    }

    /// `GET`, `PUT` or `DELETE /v1/nodes/{node}/drain`: how far it is, drains, undrains.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn node_drain(&self, how: Draining, node: &NodeName) -> Result<DrainView, ClientError> {
        self.call(how.method(), &format!("/v1/nodes/{node}/drain{}", how.query(None)), NOTHING).await
    }

    /// `GET`, `PUT` or `DELETE /v1/endpoints/{id}/drain`: how far it is, drains, undrains.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoint_drain(&self, how: Draining, id: &str, service: Option<&ServiceName>) -> Result<DrainView, ClientError> {
        self.call(how.method(), &format!("/v1/endpoints/{}/drain{}", escape(id), how.query(service)), NOTHING).await
    }

    /// `GET /v1/endpoints/{id}/health`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoint_health(&self, id: &str) -> Result<HealthView, ClientError> {
        self.call(Method::GET, &format!("/v1/endpoints/{}/health", escape(id)), NOTHING).await
    }

    /// `GET /v1/services`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn services(&self) -> Result<Vec<ServiceView>, ClientError> {
        self.call(Method::GET, "/v1/services", NOTHING).await
    }

    /// `GET /v1/services/{namespace}/{name}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn service(&self, service: &ServiceName) -> Result<ServiceView, ClientError> {
        self.call(Method::GET, &format!("/v1/services/{service}"), NOTHING).await
    }

    /// `POST /v1/services`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn service_create(&self, create: &ServiceCreate) -> Result<ServiceCreated, ClientError> {
        self.call(Method::POST, "/v1/services", Some(create)).await
    }

    /// `DELETE /v1/services/{namespace}/{name}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn service_rm(&self, service: &ServiceName) -> Result<ServiceView, ClientError> {
        self.call(Method::DELETE, &format!("/v1/services/{service}"), NOTHING).await
    }

    /// `GET /v1/attachments`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attachments(&self) -> Result<Vec<Attached>, ClientError> {
        self.call(Method::GET, "/v1/attachments", NOTHING).await
    }

    /// `POST /v1/attachments`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attach(&self, attach: &Attach) -> Result<Attached, ClientError> {
        self.call(Method::POST, "/v1/attachments", Some(attach)).await
    }

    /// `PATCH /v1/attachments/{id}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn describe(&self, id: &str, description: &Description) -> Result<Attached, ClientError> {
        self.call(Method::PATCH, &format!("/v1/attachments/{}", escape(id)), Some(description)).await
    }

    /// `POST /v1/attachments/release`: what was taken back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn release(&self, release: &Release) -> Result<Vec<Attached>, ClientError> {
        self.call(Method::POST, "/v1/attachments/release", Some(release)).await
    }

    /// `POST /v1/attachments/check`.
    ///
    /// # Errors
    /// See [`ClientError`]; the refusal says what is missing.
    pub async fn check(&self, check: &Check) -> Result<Attached, ClientError> {
        self.call(Method::POST, "/v1/attachments/check", Some(check)).await
    }

    /// `POST /v1/attachments/gc`: what was taken back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn gc(&self, gc: &Gc) -> Result<Vec<Attached>, ClientError> {
        self.call(Method::POST, "/v1/attachments/gc", Some(gc)).await
    }

    /// `DELETE /v1/attachments/{id}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn detach(&self, id: &str) -> Result<Attached, ClientError> {
        self.call(Method::DELETE, &format!("/v1/attachments/{}", escape(id)), NOTHING).await
    }

    /// `GET /v1/dns/query`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn dns_query(&self, name: &str, kind: &str) -> Result<DnsAnswer, ClientError> {
        self.call(Method::GET, &format!("/v1/dns/query?name={}&type={}", escape(name), escape(kind)), NOTHING).await
    }

    /// `GET /v1/dns/why`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn dns_why(&self, name: &str, kind: &str) -> Result<DnsWhy, ClientError> {
        self.call(Method::GET, &format!("/v1/dns/why?name={}&type={}", escape(name), escape(kind)), NOTHING).await
    }

    /// `GET /v1/drops`: the verdicts that drop, or all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn drops(&self, all: bool) -> Result<Drops, ClientError> {
        self.call(Method::GET, if all { "/v1/drops?all=true" } else { "/v1/drops" }, NOTHING).await
    }

    /// `GET /v1/plan`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn plan(&self) -> Result<Plan, ClientError> {
        self.call(Method::GET, "/v1/plan", NOTHING).await
    }

    /// `GET /v1/store/export`: the first page, or the one that follows one of which `next` and revision are given.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Code::Conflict`] when the store forgot that revision.
    pub async fn store_export(&self, after: Option<(&str, i64)>) -> Result<StoreExport, ClientError> {
        let query = after.map(|(next, revision)| format!("?from={next}&revision={revision}")).unwrap_or_default();
        self.call(Method::GET, &format!("/v1/store/export{query}"), NOTHING).await
    }

    /// `POST /v1/store/import`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn store_import(&self, part: &StoreImport) -> Result<StoreImported, ClientError> {
        self.call(Method::POST, "/v1/store/import", Some(part)).await
    }

    /// `POST /v1/doctor`: begins a checkup.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn checkup_start(&self, start: &CheckupStart) -> Result<Checkup, ClientError> {
        self.call(Method::POST, "/v1/doctor", Some(start)).await
    }

    /// `GET /v1/doctor/{id}`: how far a checkup is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn checkup(&self, id: u64) -> Result<Checkup, ClientError> {
        self.call(Method::GET, &format!("/v1/doctor/{id}"), NOTHING).await
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        self.call_if(method, path, Precondition::None, body).await.map(|(answer, _)| answer)
    }

    /// As `call`, if the object is as `condition` asks. The answer comes with its headers.
    async fn call_if<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        condition: Precondition,
        body: Option<&B>,
    ) -> Result<(T, HeaderMap), ClientError> {
        let request = format!("{method} {path}");
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| self.broken(&request, source);
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.into()))?;
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| broken(e.into()))?,
            None => Vec::new(),
        };
        let mut message =
            Request::builder().method(method).uri(path).header("host", "weft").header("content-type", "application/json");
        if let Some((name, value)) = condition.header() {
            message = message.header(name, value);
        }
        let message = message.body(Full::new(Bytes::from(body))).map_err(|e| broken(e.into()))?;
        let exchange = async {
            let response = sender.send_request(message).await?;
            let (parts, body) = response.into_parts();
            let body = http_body_util::Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((parts, body))
        };
        let (parts, body) = tokio::select! {
            answer = exchange => answer.map_err(broken)?,
            // The connection ends first only when it broke; the exchange then reports it, unless it was never polled again.
            Err(e) = connection => return Err(broken(e.into())),
        };
        if parts.status.is_success() {
            let answer = serde_json::from_slice(&body).map_err(|e| broken(e.into()))?;
            return Ok((answer, parts.headers));
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => Err(ClientError::Refused { code: error.code, message: error.message }),
            Err(_) => Err(broken(format!("status {}", parts.status).into())),
        }
    }
}

const NOTHING: Option<&()> = None;

/// Percent-encodes what has a meaning in a URI.
pub(crate) fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
