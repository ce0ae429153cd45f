//! The server side of `weft-api`: HTTP over the UNIX socket, and, where it is asked for, over TLS ([`remote`]).
//!
//! [`routes::ROUTES`] is the list of everything that can be asked. Handlers read the snapshot and write through the registry; none
//! changes the kernel. A request is small, and a refusal is a sentence.

mod answer;
mod caller;
mod cluster;
mod door;
mod drains;
mod drops;
mod endpoint_put;
mod endpoints;
mod events;
mod filter;
mod health;
mod namespaces;
mod network_set;
mod networks;
mod node_rm;
mod openapi;
mod params;
mod plan;
mod precondition;
mod query;
mod registrations;
mod remote;
mod reservations;
mod routes;
mod service_put;
mod services;
mod stalled;
mod status;
mod store;
mod subject;
mod tls;
pub mod views;

pub use caller::Caller;
pub use endpoints::endpoint_view;
pub use networks::IN_USE;
pub use remote::Listeners;
pub use status::drained;

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use weft_agent::kernel::netlink::Netlink;
use weft_api::{Code, Precondition};
use weft_model::ids::{NodeName, Revision};
use weft_model::snapshot::Snapshot;
use weft_store::registry::Registry;

use self::answer::Body;
use self::precondition::Write;
use self::stalled::Stalled;
use crate::attach::{Attachments, Published};
use crate::changes::Changes;
use crate::config::Settings;
use crate::datapath::Shared;
use crate::datapath::passive::judge::Seen;
use crate::doctor::Doctor;
use crate::firewall;
use crate::health::Health as Checks;
use crate::names::Names;
use crate::networks::Known;
use crate::reconcile::Report;
use crate::refusal::Refusal;
use crate::registrations::Registrations;
use crate::view::{Health, View};

/// Connections served at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 256;

/// How long a caller may take nothing of what he is answered.
const TAKES_NOTHING: Duration = Duration::from_secs(60);

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
    /// The health checks of this host.
    pub checks: Arc<Checks>,
    /// The eBPF half, to be looked at.
    pub datapath: Shared,
    /// Backends that this host has had no luck with.
    pub quarantined: watch::Receiver<Arc<Seen>>,
    /// The kernel's tables, to be looked at.
    pub netlink: Netlink,
    /// The packet filter, to be looked at.
    pub filter: firewall::Look,
    /// What there is to attach.
    pub published: watch::Receiver<Arc<Published>>,
    /// The networks besides the default one.
    pub networks: watch::Receiver<Arc<Known>>,
    /// What programs registered.
    pub registrations: Arc<Registrations>,
    /// What changed.
    pub changes: Arc<Changes>,
    /// How many watch.
    pub watchers: Arc<AtomicUsize>,
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
            converse(stream, admin, caller).await;
            drop(permit);
        });
    }
}

/// Answers all that is asked over one connection.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, admin: Arc<Admin>, caller: Caller) {
    let service = hyper::service::service_fn(|request| answer(admin.clone(), caller.clone(), request));
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
    // Without it a caller who sends a request and goes away at once has it read, and dropped before it is looked at
    // (hyper 1: the end of the stream is noticed before the first poll of the answer).
    server.half_close(true);
    let stream = TokioIo::new(Stalled::after(TAKES_NOTHING, stream));
    if let Err(e) = server.serve_connection(stream, service).await {
        debug!(error = %e, "connection for the API");
    }
}

async fn answer(admin: Arc<Admin>, caller: Caller, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match caller.remote() {
        None => debug!(%method, path, "request"),
        Some(remote) => debug!(%method, path, name = remote.name, from = %remote.from, "request"),
    }
    let remote = caller.remote().cloned();
    // What is read while an answer is made is at least as new as this.
    let before = admin.revision();
    let mut response = match routes::carry_out(&admin, caller, request).await {
        Ok(response) => response,
        Err(refusal) => {
            if refusal.code == Code::Internal {
                warn!(%method, path, error = refusal.message, "request went wrong");
            }
            let mut response = answer::refuse(&refusal);
            if refusal.code == Code::MethodNotAllowed {
                answer::set(&mut response, hyper::header::ALLOW, &routes::allowed(&path));
            }
            response
        }
    };
    let read = matches!(method, Method::GET | Method::HEAD);
    if let Some(remote) = remote.filter(|_| !read) {
        info!(%method, path, name = remote.name, from = %remote.from, status = response.status().as_u16(), "asked from elsewhere");
    }
    answer::stamp(&mut response, if read { before } else { admin.revision() });
    Ok(response)
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

    /// The revision that the store was last seen at; 0 before it has been read.
    fn revision(&self) -> Revision {
        self.view.borrow().as_ref().map(|s| s.revision()).unwrap_or_default()
    }

    /// Waits until the view has reached what a caller has seen already, on another agent say: to tell him that it has changed
    /// since would be wrong.
    async fn catch_up(&self, write: Write) {
        if let Precondition::At(asked) = write.condition {
            self.echo(asked).await;
        }
    }

    /// Waits until the view has reached a write, so that whoever reads next sees it; not for ever.
    async fn echo(&self, revision: Revision) {
        let mut view = self.view.clone();
        let reached = view.wait_for(|s| s.as_ref().is_some_and(|s| s.revision() >= revision));
        let _ = tokio::time::timeout(ECHO_TIMEOUT, reached).await;
    }
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
}
