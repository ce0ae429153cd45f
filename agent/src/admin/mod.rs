//! The server side of `weft-api`: HTTP over the UNIX socket.
//!
//! [`route`] is the list of everything that can be asked. Handlers read the snapshot and write through the registry; none
//! changes the kernel. A request is small, an answer is whole, and a refusal is a sentence.

mod caller;
mod cluster;
mod drops;
mod endpoints;
mod network_set;
mod networks;
mod node_rm;
mod plan;
mod reservations;
mod services;
mod status;

pub use caller::Caller;
pub use networks::IN_USE;

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::{debug, warn};
use weft_agent::kernel::netlink::Netlink;
use weft_api::{Code, ErrorBody, ErrorDetail};
use weft_model::ids::NodeName;
use weft_model::snapshot::Snapshot;
use weft_store::registry::Registry;

use crate::attach::{Attachments, Published};
use crate::config::Settings;
use crate::datapath::Shared;
use crate::doctor::Doctor;
use crate::firewall;
use crate::names::Names;
use crate::networks::Known;
use crate::reconcile::Report;
use crate::refusal::Refusal;
use crate::view::{Health, View};

/// The largest request body, bytes.
const MAX_BODY: usize = 1 << 20;

/// Connections served at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 256;

/// How long a write waits for its own echo, so that who reads right after it sees it.
const ECHO_TIMEOUT: Duration = Duration::from_secs(5);

/// What the handlers see of the agent.
#[derive(Debug)]
pub struct Admin {
    /// This host.
    pub node: NodeName,
    /// Writes.
    pub registry: Registry,
    /// Reads.
    pub view: View,
    /// Whether the store answers.
    pub health: watch::Receiver<Health>,
    /// What the kernel follows.
    pub report: watch::Receiver<Report>,
    /// What the parts of the agent wait for or complain about.
    pub reasons: Vec<watch::Receiver<Option<String>>>,
    /// Containers.
    pub attachments: Arc<Attachments>,
    /// The name server.
    pub names: Arc<Names>,
    /// The eBPF half, to be looked at.
    pub datapath: Shared,
    /// The kernel's tables, to be looked at.
    pub netlink: Netlink,
    /// The packet filter, to be looked at.
    pub filter: firewall::Look,
    /// What there is to attach.
    pub published: watch::Receiver<Arc<Published>>,
    /// The networks besides the default one.
    pub networks: watch::Receiver<Arc<Known>>,
    /// Checkups.
    pub doctor: Doctor,
}

/// Binds the socket, so that a caller who is let in later is let in by mode and group alone.
///
/// # Errors
/// Another agent serves it, or it cannot be made.
pub fn bind(settings: &Settings) -> anyhow::Result<UnixListener> {
    let path = settings.socket();
    std::fs::create_dir_all(&settings.run_dir).with_context(|| format!("make {}", settings.run_dir.display()))?;
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        bail!("{} is served by another weftd; stop that one, or set --run-dir and --state-dir", path.display());
    }
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("remove the old {}", path.display())),
    }
    // Bound under another name and renamed when its mode is right: there is no moment in which it is open to more.
    let beside = settings.run_dir.join("weft.sock.new");
    let _ = std::fs::remove_file(&beside);
    let listener = bind_for_owner(&beside).with_context(|| format!("listen on {}", beside.display()))?;
    let made = || -> anyhow::Result<()> {
        // First the group, then what the group may do.
        if let Some(group) = &settings.socket_group {
            std::os::unix::fs::chown(&beside, None, Some(group_id(group)?))?;
        }
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(settings.socket_mode))?;
        Ok(std::fs::rename(&beside, &path)?)
    };
    made().with_context(|| format!("set mode and group of {}", path.display()))?;
    Ok(listener)
}

/// Binds a socket that nobody but its owner can connect to. Its mode comes from the process's umask, and it takes connections
/// from then on, before any chmod; the umask is the whole process's, so this belongs at the start.
///
/// # Errors
/// It cannot be made.
pub fn bind_for_owner(path: &Path) -> std::io::Result<UnixListener> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

fn group_id(group: &str) -> anyhow::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => bail!("--socket-group: there is no group {group:?}"),
        Err(e) => Err(e).with_context(|| format!("--socket-group {group:?}")),
    }
}

/// Serves until the process ends.
pub async fn serve(listener: UnixListener, admin: Arc<Admin>) {
    let limit = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, most likely: others must finish first.
                warn!(error = %e, "accept on the socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = admin.clone();
        let caller = Caller::of(&stream);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(admin.clone(), caller.clone(), request));
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            // Without it a caller who sends a request and goes away at once has it read, and dropped before it is looked at
            // (hyper 1: the end of the stream is noticed before the first poll of the answer).
            server.half_close(true);
            if let Err(e) = server.serve_connection(TokioIo::new(stream), service).await {
                debug!(error = %e, "connection on the socket");
            }
            drop(permit);
        });
    }
}

async fn answer(admin: Arc<Admin>, caller: Caller, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let query = parse_query(request.uri().query().unwrap_or_default());
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) => return Ok(refuse(&Refusal::invalid(format!("read the request: {e}")))),
    };
    debug!(%method, path, "request");
    Ok(match route(&admin, &caller, &method, &path, &query, &body).await {
        Ok(response) => response,
        Err(refusal) => {
            if refusal.code == Code::Internal {
                warn!(%method, path, error = refusal.message, "request went wrong");
            }
            refuse(&refusal)
        }
    })
}

type Query = HashMap<String, String>;

/// Everything that can be asked.
async fn route(
    admin: &Arc<Admin>,
    caller: &Caller,
    method: &Method,
    path: &str,
    query: &Query,
    body: &[u8],
) -> Result<Response<Full<Bytes>>, Refusal> {
    let segments: Vec<String> = path.trim_start_matches('/').split('/').map(unescape).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (method, segments.as_slice()) {
        (&Method::GET, ["v1", "status"]) => json(&admin.status()),
        (&Method::GET, ["v1", "network"]) => json(&admin.network()?),
        (&Method::PUT, ["v1", "network"]) => json(&admin.network_init(parse(body)?).await?),
        (&Method::PATCH, ["v1", "network"]) => json(&admin.network_set(parse(body)?).await?),
        (&Method::GET, ["v1", "networks"]) => json(&admin.networks()?),
        (&Method::POST, ["v1", "networks"]) => json(&admin.network_create(parse(body)?).await?),
        (&Method::GET, ["v1", "networks", name]) => json(&admin.network_named(name)?),
        (&Method::DELETE, ["v1", "networks", name]) => json(&admin.network_rm(name).await?),
        (&Method::GET, ["v1", "reservations"]) => json(&admin.reservations()?),
        (&Method::POST, ["v1", "reservations"]) => json(&admin.reserve(parse(body)?).await?),
        (&Method::DELETE, ["v1", "reservations", node]) => json(&admin.unreserve(node).await?),
        (&Method::GET, ["v1", "config"]) => json(&admin.config()?),
        (&Method::PATCH, ["v1", "config"]) => json(&admin.config_change(parse(body)?).await?),
        (&Method::GET, ["v1", "nodes"]) => json(&admin.nodes()?),
        (&Method::GET, ["v1", "nodes", name]) => json(&admin.node(name)?),
        (&Method::DELETE, ["v1", "nodes", name]) => json(&admin.node_rm(name).await?),
        (&Method::GET, ["v1", "endpoints"]) => json(&admin.endpoints()?),
        (&Method::POST, ["v1", "endpoints"]) => json(&admin.endpoint_add(parse(body)?).await?),
        (&Method::DELETE, ["v1", "endpoints", id]) => {
            json(&admin.endpoint_rm(id, query.get("service").map(String::as_str)).await?)
        }
        (&Method::GET, ["v1", "services"]) => json(&admin.services()?),
        (&Method::POST, ["v1", "services"]) => json(&admin.service_create(parse(body)?).await?),
        (&Method::GET, ["v1", "services", namespace, name]) => json(&admin.service(namespace, name)?),
        (&Method::DELETE, ["v1", "services", namespace, name]) => json(&admin.service_rm(namespace, name).await?),
        (&Method::GET, ["v1", "attachments"]) => json(&admin.attachments.list()),
        (&Method::POST, ["v1", "attachments"]) => json(&admin.attachments.attach_for(parse(body)?, caller.clone()).await?),
        (&Method::PATCH, ["v1", "attachments", id]) => json(&admin.attachments.describe(id, parse(body)?).await?),
        (&Method::POST, ["v1", "attachments", "release"]) => json(&admin.attachments.release(parse(body)?).await?),
        (&Method::POST, ["v1", "attachments", "gc"]) => json(&admin.attachments.gc(parse(body)?).await?),
        (&Method::POST, ["v1", "attachments", "check"]) => json(&admin.attachments.check(&parse(body)?).await?),
        (&Method::DELETE, ["v1", "attachments", id]) => json(&admin.attachments.detach(id).await?),
        (&Method::GET, ["v1", "dns", "query"]) => {
            let name = query.get("name").ok_or_else(|| Refusal::invalid("dns query: no name given"))?;
            json(&admin.names.query(name, query.get("type").map_or("A", String::as_str)).await?)
        }
        (&Method::POST, ["v1", "doctor"]) => json(&admin.doctor.begin(admin, parse(body)?)?),
        (&Method::GET, ["v1", "doctor", id]) => json(&admin.doctor.checkup(id)?),
        (&Method::GET, ["v1", "plan"]) => json(&admin.plan().await?),
        (&Method::GET, ["v1", "drops"]) => json(&admin.drops(query.get("all").is_some_and(|all| all == "true")).await?),
        _ => Err(Refusal::not_found(format!("{method} {path}: no such thing can be asked; is netctl as old as weftd?"))),
    }
}

impl Admin {
    /// The store as last seen.
    ///
    /// # Errors
    /// It has not been read yet.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Refusal> {
        self.view.borrow().clone().ok_or_else(|| {
            let health = self.health.borrow().clone();
            match health.away {
                Some((error, _)) => Refusal::new(Code::StoreAway, format!("the store has not been read yet: {error}")),
                None => Refusal::new(Code::NotReady, "the store has not been read yet"),
            }
        })
    }

    /// Waits until the view has reached a write, so that whoever reads next sees it; not for ever.
    async fn echo(&self, revision: weft_model::ids::Revision) {
        let mut view = self.view.clone();
        let reached = view.wait_for(|s| s.as_ref().is_some_and(|s| s.revision() >= revision));
        let _ = tokio::time::timeout(ECHO_TIMEOUT, reached).await;
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal::invalid(format!("the request's body: {e}")))
}

fn json<T: Serialize>(value: &T) -> Result<Response<Full<Bytes>>, Refusal> {
    let body = serde_json::to_vec(value).map_err(|e| Refusal::internal("write the answer", &e))?;
    Ok(respond(StatusCode::OK, body))
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    let body = ErrorBody { error: ErrorDetail { code: refusal.code, message: refusal.message.clone() } };
    let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, serde_json::to_vec(&body).unwrap_or_default())
}

fn respond(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn parse_query(text: &str) -> Query {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (unescape(key), unescape(value))).collect()
}

/// Undoes percent-encoding; what is no encoding stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex =
            bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Removes the socket at a plain stop, so that a caller is told at once that nobody is there.
pub fn unbind(path: &Path) {
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_alone_from_the_moment_it_is_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        let _ours = bind_for_owner(&dir.path().join("ours")).unwrap();
        assert_eq!(mode("ours"), 0o600);
        let _later = UnixListener::bind(dir.path().join("later")).unwrap();
        assert_ne!(mode("later"), 0o600, "what is made later has the mode it would have had");
    }

    #[test]
    fn escapes_come_back() {
        assert_eq!(unescape("a%2Fb%20c"), "a/b c");
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%zz"), "%zz");
        assert_eq!(parse_query("name=a%2Eb&type=A").get("name").map(String::as_str), Some("a.b"));
    }
}
