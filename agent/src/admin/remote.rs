//! The API for callers from elsewhere: TLS over TCP, with a certificate on both sides and never without.
//!
//! Who signed a client's certificate decides what he may do: [`super::tls`]. A connection has that role until it ends; what is not
//! about the cluster but about this host is answered on its socket only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::caller::Remote;
use super::tls::{Role, Tls};
use super::{Admin, Caller, converse, subject};
use crate::config::{ApiFiles, ApiSettings};

/// Connections served at once, over all addresses; fewer than there are places for watchers, so that this host's own find some.
const MAX_CONNECTIONS: usize = 64;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How often an address that cannot be had is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// The API over TLS, to be served.
pub struct Listeners {
    addresses: Vec<SocketAddr>,
    tls: Arc<Tls>,
}

impl Listeners {
    /// Reads what is needed; none if it is not asked for.
    ///
    /// # Errors
    /// The setting that is missing, or the file that cannot be used.
    pub fn new(settings: &ApiSettings) -> anyhow::Result<Option<Self>> {
        let files: Option<ApiFiles> = settings.files()?;
        let tls = files.map(Tls::new).transpose()?;
        Ok(tls.map(|tls| Self { addresses: settings.api_listen.clone(), tls: Arc::new(tls) }))
    }

    /// Serves until the process ends; `reason` says what is in the way.
    pub fn serve(self, admin: &Arc<Admin>, reason: watch::Sender<Option<String>>) {
        let (limit, reason) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(reason));
        for address in self.addresses {
            tokio::spawn(serve(address, self.tls.clone(), admin.clone(), limit.clone(), reason.clone()));
        }
    }
}

async fn serve(
    address: SocketAddr,
    tls: Arc<Tls>,
    admin: Arc<Admin>,
    limit: Arc<Semaphore>,
    reason: Arc<watch::Sender<Option<String>>>,
) {
    let listener = bind(address, &reason).await;
    info!(%address, "answers the API over TLS");
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                warn!(error = %e, %address, "accept for the API");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, admin, reason) = (tls.clone(), admin.clone(), reason.clone());
        tokio::spawn(async move {
            greet(stream, from, &tls, admin, &reason).await;
            drop(permit);
        });
    }
}

async fn bind(address: SocketAddr, reason: &watch::Sender<Option<String>>) -> TcpListener {
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

fn say(reason: &watch::Sender<Option<String>>, what: Option<String>) {
    reason.send_if_modified(|said| {
        let other = *said != what;
        *said = what;
        other
    });
}

async fn greet(stream: TcpStream, from: SocketAddr, tls: &Tls, admin: Arc<Admin>, reason: &watch::Sender<Option<String>>) {
    let (keys, fault) = tls.keys();
    say(reason, fault);
    // The way back of each answer is one small segment after another otherwise.
    let _ = stream.set_nodelay(true);
    let shaken = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(keys.config.clone()).accept(stream)).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            debug!(error = %e, %from, "no handshake for the API");
            return;
        }
        Err(_) => {
            debug!(%from, "a handshake for the API took too long");
            return;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(role) = keys.role(shown) else {
        debug!(%from, "a certificate for the API that is no longer good");
        return;
    };
    let name = shown.first().and_then(|own| subject::common_name(own)).unwrap_or_default();
    let remote = Remote { name, from, may_write: role == Role::Writer };
    converse(stream, admin, Caller::from_elsewhere(remote)).await;
}
