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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;
    use tokio::sync::watch;

    use super::*;
    use crate::attach::Surroundings;
    use crate::networks::Known;
    use crate::reconcile::Report;
    use crate::state::StateDir;
    use crate::view::Health;

    /// A driver of an agent that has not read its store yet.
    fn driver(dir: &Path) -> Driver {
        let state = Arc::new(StateDir::open(&dir.join("state"), &dir.join("run")).unwrap());
        let around = Surroundings {
            view: watch::channel(None).1,
            report: watch::channel(Report::default()).1,
            health: watch::channel(Health::default()).1,
            cgroup: PathBuf::new(),
            boot: "b".to_owned(),
            node: "h1".parse().unwrap(),
            name_servers: Vec::new(),
            networks: watch::channel(Arc::new(Known::default())).1,
        };
        let journal = state.journal().unwrap();
        Driver { attachments: Attachments::new(state, journal, around).0, ready: Duration::ZERO }
    }

    async fn ask(socket: &Path, head: &str, body: &[u8]) -> (String, Value) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        stream.write_all(format!("{head}\r\nhost: docker\r\nconnection: close\r\n").as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    /// Serves Docker for a test, which gets the socket.
    fn served(dir: &Path) -> PathBuf {
        let socket = dir.join("plugins/weft.sock");
        let listener = bind(&socket).unwrap();
        tokio::spawn(serve(listener, driver(dir).attachments));
        socket
    }

    #[tokio::test]
    async fn requests_are_read_with_a_length_in_chunks_and_without_a_body() {
        let dir = tempfile::tempdir().unwrap();
        let socket = served(dir.path());
        let (head, said) = ask(&socket, "POST /Plugin.Activate HTTP/1.1", b"\r\n").await;
        assert!(head.contains("200 OK") && head.contains(MEDIA_TYPE), "{head}");
        assert_eq!(said["Implements"], serde_json::json!(["NetworkDriver", "IpamDriver"]));
        let length = b"content-length: 25\r\n\r\n{\"PoolID\":\"weft/blue/4\"} ";
        assert_eq!(ask(&socket, "POST /IpamDriver.ReleasePool HTTP/1.1", length).await.1, serde_json::json!({}));
        let chunked = b"transfer-encoding: chunked\r\n\r\n8\r\n{\"PoolID\r\n10\r\n\":\"weft/blue/4\"}\r\n0\r\n\r\n";
        assert_eq!(ask(&socket, "POST /IpamDriver.ReleasePool HTTP/1.1", chunked).await.1, serde_json::json!({}));
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_in_both_members_and_only_what_is_unknown_by_404() {
        let dir = tempfile::tempdir().unwrap();
        let socket = served(dir.path());
        let refused = async |head: &str, body: &[u8]| {
            let (head, said) = ask(&socket, head, body).await;
            assert!(said["Err"].as_str().is_some_and(|why| !why.is_empty()) && said["Err"] == said["Error"], "{said}");
            (head, said["Err"].as_str().unwrap().to_owned())
        };
        let (head, why) = refused("POST /NetworkDriver.Frobnicate HTTP/1.1", b"\r\n").await;
        assert!(head.contains("404") && why.contains("Frobnicate"), "{head} {why}");
        assert!(refused("GET /Plugin.Activate HTTP/1.1", b"\r\n").await.0.contains("404"));
        let (head, why) = refused("POST /NetworkDriver.Leave HTTP/1.1", b"content-length: 1\r\n\r\n[").await;
        assert!(head.contains("200") && why.contains("body"), "{head} {why}");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_served_one_is_not_and_both_are_roots_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker/plugins/weft.sock");
        drop(bind(&socket).unwrap());
        let listener = bind(&socket).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
        let why = format!("{:#}", bind(&socket).unwrap_err());
        assert!(why.contains("served by another process"), "{why}");
        drop(listener);
    }

    #[test]
    fn the_hosts_only_agent_is_dockers_and_others_only_if_they_are_told() {
        let at = |setting: &DockerPlugin, run_dir: &str| socket(setting, Path::new(run_dir));
        assert_eq!(at(&DockerPlugin::Auto, "/run/weft"), Some(SOCKET.into()));
        assert_eq!(at(&DockerPlugin::Auto, "/tmp/two/run"), None);
        assert_eq!(at(&DockerPlugin::Off, "/run/weft"), None);
        assert_eq!(at(&DockerPlugin::At("/x/y.sock".into()), "/tmp/two/run"), Some("/x/y.sock".into()));
    }

    /// Bodies as dockerd sends them, and what a caller may make of them. None is carried out by an agent that is not ready.
    #[tokio::test]
    async fn no_body_is_too_bad_for_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver(dir.path());
        let of = r#"{"NetworkID":"e2af","EndpointID":"733b""#;
        let calls = BTreeMap::from([
            ("/NetworkDriver.CreateNetwork", r#"{"NetworkID":"e2af","Options":{"com.docker.network.generic":{"network":"red"}},"IPv4Data":[{"AddressSpace":"weft","Gateway":"10.244.3.1/32"}],"IPv6Data":[]}"#.to_owned()),
            ("/NetworkDriver.CreateEndpoint", format!(r#"{of},"Interface":{{"Address":"10.244.3.77/32","MacAddress":""}},"Options":null}}"#)),
            ("/NetworkDriver.Join", format!(r#"{of},"SandboxKey":"/var/run/docker/netns/6cb5","Options":{{}}}}"#)),
            ("/NetworkDriver.ProgramExternalConnectivity", format!(r#"{of},"Options":{{"com.docker.network.portmap":[{{"Proto":6,"Port":80,"HostPort":8080}}]}}}}"#)),
            ("/IpamDriver.RequestPool", r#"{"Pool":"","Options":{"network":"blue"},"V6":false}"#.to_owned()),
            ("/IpamDriver.RequestAddress", r#"{"PoolID":"weft/default/4","Address":"","Options":null}"#.to_owned()),
        ]);
        for (path, body) in calls {
            let said = driver.call(path, body.as_bytes()).await.unwrap_err();
            assert!(!said.message.is_empty(), "{path}: an agent that is not ready refuses");
            for at in 0..body.len() {
                let mut wrong = body.clone().into_bytes();
                for byte in [0, b'"', b'{', b'9', 0xff] {
                    wrong[at] = byte;
                    match driver.call(path, &wrong).await {
                        Err(refusal) => assert!(!refusal.message.is_empty(), "{path} {at}"),
                        // An option that was the port map has another name now: there is nothing to publish.
                        Ok(said) => assert_eq!((path, &*said), ("/NetworkDriver.ProgramExternalConnectivity", &b"{}"[..])),
                    }
                }
                assert!(driver.call(path, &body.as_bytes()[..at]).await.is_err(), "{path} {at}");
            }
        }
        for path in ["/NetworkDriver.Leave", "/NetworkDriver.DeleteEndpoint", "/NetworkDriver.RevokeExternalConnectivity"] {
            let gone = driver.call(path, format!("{of}}}").as_bytes()).await.unwrap();
            assert_eq!(gone, b"{}", "{path}: what is not there is gone");
            assert!(driver.call(path, br#"{"NetworkID":"../..","EndpointID":"733b"}"#).await.is_err());
        }
    }
}
