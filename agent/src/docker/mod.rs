//! Docker's side of Weft: libnetwork's remote network and IPAM drivers, served on a socket in dockerd's plugin directory.
//!
//! ```text
//!   docker network create   RequestPool ▸ CreateNetwork                    nothing is kept but Docker's own record
//!   docker run              RequestAddress ▸ CreateEndpoint                journalled: an address, an end without a namespace
//!                           Join ▸ ProgramExternalConnectivity             a device pair, routes, rows, records; ports
//!                           (libnetwork moves the device into the container, the agent sees it there)
//!   docker stop, rm         Revoke… ▸ Leave ▸ DeleteEndpoint ▸ ReleaseAddress   the way back
//! ```
//!
//! A driver call is answered from what this host knows. It never asks dockerd anything: dockerd holds locks meanwhile, and at its
//! start would wait for itself. Every failure is a sentence in `Err` and `Error`, which `docker` prints.
//!
//! `wire` has the bodies, `network` and `ipam` what they mean; what is made of it is in `attach::handed`.

mod ipam;
mod network;
mod wire;

use std::convert::Infallible;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixListener;
use tracing::{debug, warn};
use weft_api::Code;

use crate::admin;
use crate::attach::Attachments;
use crate::config::DockerPlugin;
use crate::refusal::Refusal;

/// Whose addresses these are, to Docker.
const ADDRESS_SPACE: &str = "weft";

/// Where dockerd looks for sockets; a plugin is called as its socket is.
const SOCKET: &str = "/run/docker/plugins/weft.sock";

/// The run directory of an agent that is the only one of its host.
const ONLY_RUN_DIR: &str = "/run/weft";

/// The largest request, bytes.
const MAX_BODY: usize = 1 << 20;

/// Calls served at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 64;

/// How long a call waits for an agent that has just been started.
const READY: Duration = Duration::from_secs(15);

/// The media type of the protocol.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Where the socket is to be; none if there is to be none. Of several agents on one host at most one can be Docker's.
#[must_use]
pub fn socket(setting: &DockerPlugin, run_dir: &Path) -> Option<PathBuf> {
    match setting {
        DockerPlugin::Off => None,
        DockerPlugin::At(path) => Some(path.clone()),
        DockerPlugin::Auto => (run_dir == Path::new(ONLY_RUN_DIR)).then(|| SOCKET.into()),
    }
}

/// Binds the socket, for root alone; one that nobody serves any more is replaced.
///
/// # Errors
/// Somebody serves it, or it cannot be made.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        // As dockerd makes it.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("make {}", dir.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("{} is served by another process; stop that one, or set --docker-plugin", path.display());
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove the old {}", path.display()));
        }
        _ => {}
    }
    admin::bind_for_owner(path).with_context(|| format!("listen on {}", path.display()))
}

/// Serves until the process ends.
pub async fn serve(listener: UnixListener, attachments: Arc<Attachments>) {
    let driver = Driver { attachments, ready: READY };
    let limit = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                warn!(error = %e, "accept on Docker's socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let driver = driver.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(driver.clone(), request));
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10)).half_close(true);
            if let Err(e) = server.serve_connection(TokioIo::new(stream), service).await {
                debug!(error = %e, "connection on Docker's socket");
            }
            drop(permit);
        });
    }
}

async fn answer(driver: Driver, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let answered = match body {
        Ok(_) if method != Method::POST => Err(Refusal::not_found(format!("{method} {path}: plugins are called by POST"))),
        Ok(body) => driver.call(&path, &body.to_bytes()).await,
        Err(e) => Err(Refusal::invalid(format!("read the request: {e}"))),
    };
    debug!(path, refused = answered.as_ref().err().map(|r| r.message.as_str()), "driver call");
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => {
            // Calls that libnetwork can do without are told from those that went wrong by 404 alone.
            let unknown = refusal.code == Code::NotFound;
            if refusal.code == Code::Internal {
                warn!(path, error = refusal.message, "driver call went wrong");
            }
            let failure = wire::Failure { err: &refusal.message, error: &refusal.message };
            let status = if unknown { StatusCode::NOT_FOUND } else { StatusCode::OK };
            (status, serde_json::to_vec(&failure).unwrap_or_default())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(MEDIA_TYPE));
    Ok(response)
}

/// What the calls are answered from.
#[derive(Clone, Debug)]
struct Driver {
    attachments: Arc<Attachments>,
    ready: Duration,
}

impl Driver {
    /// Everything that can be called.
    async fn call(&self, path: &str, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let attachments = &self.attachments;
        match path {
            "/Plugin.Activate" => json(&wire::Activation { implements: ["NetworkDriver", "IpamDriver"] }),
            "/NetworkDriver.GetCapabilities" => json(&wire::NetworkCapabilities { scope: "local", connectivity_scope: "global" }),
            "/NetworkDriver.CreateNetwork" => {
                let request = wire::read(body)?;
                network::check(&request, &attachments.grounds(self.ready).await?)?;
                json(&wire::Done {})
            }
            "/NetworkDriver.DeleteNetwork" => {
                // Its endpoints are gone, or libnetwork would not ask.
                network::check_id("NetworkID", &wire::read::<wire::OfNetwork>(body)?.network)?;
                json(&wire::Done {})
            }
            "/NetworkDriver.CreateEndpoint" => {
                let request: wire::CreateEndpoint = wire::read(body)?;
                let end = network::end(&request, &attachments.grounds(self.ready).await?)?;
                let mac_address = request.interface.mac.is_empty().then(|| end.mac.to_string());
                attachments.give_end(end).await?;
                json(&wire::Created { interface: wire::Chosen { mac_address } })
            }
            "/NetworkDriver.DeleteEndpoint" => {
                attachments.take_end(network::owner(&wire::read(body)?)?).await?;
                json(&wire::Done {})
            }
            "/NetworkDriver.EndpointOperInfo" => {
                network::owner(&wire::read(body)?)?;
                json(&wire::OperInfo { value: serde_json::Map::new() })
            }
            "/NetworkDriver.Join" => {
                let request: wire::Join = wire::read(body)?;
                let owner = network::owner(&request.of)?;
                attachments.grounds(self.ready).await?;
                let out = attachments.hand_out(owner, PathBuf::from(request.sandbox)).await?;
                json(&network::joined(&out))
            }
            "/NetworkDriver.Leave" => {
                attachments.take_in(network::owner(&wire::read(body)?)?).await?;
                json(&wire::Done {})
            }
            "/NetworkDriver.ProgramExternalConnectivity" => {
                let request: wire::OfEndpoint = wire::read(body)?;
                attachments.set_published(network::owner(&request)?, network::publish(&request.options)?).await?;
                json(&wire::Done {})
            }
            "/NetworkDriver.RevokeExternalConnectivity" => {
                attachments.set_published(network::owner(&wire::read(body)?)?, Vec::new()).await?;
                json(&wire::Done {})
            }
            // Of nodes of a swarm.
            "/NetworkDriver.DiscoverNew" | "/NetworkDriver.DiscoverDelete" => json(&wire::Done {}),
            "/IpamDriver.GetCapabilities" => json(&wire::IpamCapabilities { requires_mac: false, requires_replay: false }),
            "/IpamDriver.GetDefaultAddressSpaces" => json(&wire::AddressSpaces {
                local_default_address_space: ADDRESS_SPACE,
                global_default_address_space: ADDRESS_SPACE,
            }),
            "/IpamDriver.RequestPool" => json(&ipam::pool(&wire::read(body)?, &attachments.grounds(self.ready).await?)?),
            "/IpamDriver.ReleasePool" => {
                ipam::PoolId::parse(&wire::read::<wire::OfPool>(body)?.pool)?;
                json(&wire::Done {})
            }
            "/IpamDriver.RequestAddress" => self.request_address(&wire::read(body)?).await,
            "/IpamDriver.ReleaseAddress" => {
                let request: wire::OfPool = wire::read(body)?;
                ipam::PoolId::parse(&request.pool)?;
                // A gateway's is not kept, so there is nothing to give back.
                attachments.unreserve(ipam::address(&request.address)?).await?;
                json(&wire::Done {})
            }
            _ => Err(Refusal::not_found(format!("{path}: there is no such call"))),
        }
    }

    async fn request_address(&self, request: &wire::OfPool) -> Result<Vec<u8>, Refusal> {
        let pool = ipam::PoolId::parse(&request.pool)?;
        let grounds = self.attachments.grounds(self.ready).await?;
        let ground = ipam::named(pool.network.as_str(), &grounds)?;
        let address = match ipam::wanted(request, &pool, ground)? {
            ipam::Wanted::Gateway => ground.gateway(pool.family).ok_or_else(|| ipam::no_v6(&ground.network))?,
            ipam::Wanted::Container(address) => self.attachments.reserve(ground.clone(), pool.family, address).await?,
        };
        json(&ipam::given(address))
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|e| Refusal::internal("write the answer", &e))
}
