//! The API for callers from elsewhere: TLS over TCP, with a certificate on both sides and never without.
//!
//! Who signed a client's certificate decides what he may do: [`super::tls`]. A connection has that role until it ends; what is not
//! about the cluster but about this host is answered on its socket only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::caller::Remote;
use super::door::Door;
use super::tls::{Role, Tls};
use super::{Admin, Caller, TAKES_NOTHING, converse, subject};
use crate::config::{ApiFiles, ApiSettings};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// How long one who may come in waits for a place.
const FULL: Duration = Duration::from_secs(10);

/// How long a connection is silent before its other end is asked whether it is there.
const SILENT: Duration = Duration::from_secs(30);

/// How often an address that cannot be had is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What is in the way of something, if anything is.
type Reason = watch::Sender<Option<String>>;

/// The API over TLS, to be served.
pub struct Listeners {
    /// Each with what is in its own way: another one that listens says nothing about it.
    addresses: Vec<(SocketAddr, Reason)>,
    tls: Arc<Tls>,
    /// What is wrong with the files.
    files: Reason,
}

impl Listeners {
    /// Reads what is needed; none if it is not asked for.
    ///
    /// # Errors
    /// The setting that is missing, or the file that cannot be used.
    pub fn new(settings: &ApiSettings) -> anyhow::Result<Option<Self>> {
        let files: Option<ApiFiles> = settings.files()?;
        let tls = files.map(Tls::new).transpose()?;
        let reason = || watch::channel(None).0;
        let addresses = settings.api_listen.iter().map(|address| (*address, reason())).collect();
        Ok(tls.map(|tls| Self { addresses, tls: Arc::new(tls), files: reason() }))
    }

    /// Where it is said what is in the way.
    pub fn reasons(&self) -> Vec<watch::Receiver<Option<String>>> {
        let all = self.addresses.iter().map(|(_, reason)| reason).chain([&self.files]);
        all.map(watch::Sender::subscribe).collect()
    }

    /// Serves until the process ends.
    pub fn serve(self, admin: &Arc<Admin>) {
        let (door, files) = (Arc::new(Door::new()), Arc::new(self.files));
        for (address, reason) in self.addresses {
            tokio::spawn(serve((address, reason), self.tls.clone(), admin.clone(), door.clone(), files.clone()));
        }
    }
}

async fn serve((address, reason): (SocketAddr, Reason), tls: Arc<Tls>, admin: Arc<Admin>, door: Arc<Door>, files: Arc<Reason>) {
    let listener = bind(address, &reason).await;
    info!(%address, "answers the API over TLS");
    loop {
        let Some(shaking) = door.wait().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                warn!(error = %e, %address, "accept for the API");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(visit) = door.enter(from.ip()) else {
            debug!(%from, "one connection for the API too many of this address");
            continue;
        };
        let (tls, admin, door, files) = (tls.clone(), admin.clone(), door.clone(), files.clone());
        tokio::spawn(async move {
            if let Some((stream, remote)) = greet(stream, from, &tls, &files).await {
                // Until there is a place he keeps that of a handshake.
                if let Ok(Ok(_served)) = tokio::time::timeout(FULL, door.served.acquire()).await {
                    drop(shaking);
                    converse(stream, admin, Caller::from_elsewhere(remote)).await;
                } else {
                    info!(%from, name = remote.name, "no place for one more connection for the API");
                }
            }
            drop(visit);
        });
    }
}

async fn bind(address: SocketAddr, reason: &Reason) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                say(reason, None);
                return listener;
            }
            Err(e) => say(reason, Some(format!("api: listen on {address}: {e}; free it, or set --api-listen"))),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn say(reason: &Reason, what: Option<String>) {
    reason.send_if_modified(|said| {
        let other = *said != what;
        *said = what;
        other
    });
}

/// Has one who is gone without a word found out: by the kernel, whether anything is sent to him or not.
fn tune(stream: &TcpStream) -> nix::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &seconds(SILENT))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &(seconds(SILENT) / 3))?;
    // How long what is sent may be without an answer, in milliseconds; of keep-alive probes it is the bound as well (tcp(7)).
    setsockopt(stream, sockopt::TcpUserTimeout, &u32::try_from(TAKES_NOTHING.as_millis()).unwrap_or(u32::MAX))
}

/// The handshake: who it is and what he may do.
async fn greet(
    stream: TcpStream,
    from: SocketAddr,
    tls: &Tls,
    files: &Reason,
) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, Remote)> {
    let (keys, fault) = tls.keys();
    say(files, fault);
    // The way back of each answer is one small segment after another otherwise.
    let _ = stream.set_nodelay(true);
    if let Err(e) = tune(&stream) {
        debug!(error = %e, %from, "a connection for the API without keep-alive");
    }
    let shaken = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(keys.config.clone()).accept(stream)).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            debug!(error = %e, %from, "no handshake for the API");
            return None;
        }
        Err(_) => {
            debug!(%from, "a handshake for the API took too long");
            return None;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(role) = keys.role(shown) else {
        debug!(%from, "a certificate for the API that is no longer good");
        return None;
    };
    let name = shown.first().and_then(|own| subject::common_name(own)).unwrap_or_default();
    let remote = Remote { name, from, may_write: role == Role::Writer };
    Some((stream, remote))
}
