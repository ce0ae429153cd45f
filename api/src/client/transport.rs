//! Where an agent is, and how a connection to it comes about: by its socket, or over TLS with a certificate on both sides.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::{Client, ClientError};

/// How long a connection to another host may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// What a caller needs to be known, and to know the agent by: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Authorities that the agent's certificate is checked against.
    pub cacert: PathBuf,
    /// The caller's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why an address and credentials are none.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The address is none.
    #[error("{url:?} is no agent's address: it is https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
    },
    /// A file cannot be used.
    #[error("{}: {why}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Where an agent is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// On this host.
    Socket(PathBuf),
    /// Anywhere.
    Remote(Arc<Remote>),
}

/// An agent that is asked over TLS.
#[derive(Debug)]
pub(super) struct Remote {
    host: String,
    port: u16,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Remote(remote) if remote.host.contains(':') => write!(f, "https://[{}]:{}", remote.host, remote.port),
            Self::Remote(remote) => write!(f, "https://{}:{}", remote.host, remote.port),
        }
    }
}

/// A connection.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Client {
    /// The agent that answers at `https://HOST:PORT` (`weftd --api-listen`).
    ///
    /// # Errors
    /// The address is none, or a file cannot be used.
    pub fn remote(url: &str, credentials: &Credentials) -> Result<Self, PlaceError> {
        let (host, port) = address(url).ok_or_else(|| PlaceError::Url { url: url.to_owned() })?;
        let name = ServerName::try_from(host.clone()).map_err(|_| PlaceError::Url { url: url.to_owned() })?;
        let config = Arc::new(config(credentials)?);
        Ok(Self { place: Place::Remote(Arc::new(Remote { host, port, name, config })) })
    }

    /// The socket's path, if the agent is asked over its socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match &self.place {
            Place::Socket(path) => Some(path),
            Place::Remote(_) => None,
        }
    }

    /// Where the agent is, for messages: its socket's path, or `https://HOST:PORT`.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.to_string()
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Box<dyn Connection>, ClientError> {
        let remote = match &self.place {
            Place::Socket(socket) => {
                let stream = UnixStream::connect(socket).await;
                let stream = stream.map_err(|source| ClientError::NoAgent { socket: socket.clone(), source })?;
                return Ok(Box::new(stream));
            }
            Place::Remote(remote) => remote,
        };
        let shake = async {
            let stream = TcpStream::connect((remote.host.as_str(), remote.port)).await?;
            // A request is one small segment after another otherwise.
            stream.set_nodelay(true)?;
            TlsConnector::from(remote.config.clone()).connect(remote.name.clone(), stream).await
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {}s", CONNECT.as_secs()));
        match tokio::time::timeout(CONNECT, shake).await.unwrap_or_else(|_| Err(late())) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => Err(ClientError::Unreachable { agent: self.place(), source: source.into() }),
        }
    }

    /// What went wrong with a connection that had come about.
    pub(super) fn broken(&self, request: &str, source: Box<dyn StdError + Send + Sync>) -> ClientError {
        // In TLS 1.3 a client is done before the server has looked at its certificate (RFC 8446 4.4.4): that it was refused is the
        // first thing that it reads.
        match alert(&*source) {
            Some(alert) => {
                let why = format!("it refuses the certificate that was shown ({alert:?})");
                ClientError::Unreachable { agent: self.place(), source: why.into() }
            }
            None => ClientError::Broken { request: request.to_owned(), source },
        }
    }
}

/// Whether a way that did not come about may do so in a moment: the agent or its host restarts, or the network heals. Not what is
/// wrong with a certificate, on either side: rustls reports that as `InvalidData`.
pub(super) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
        TimedOut, UnexpectedEof,
    };
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
            | UnexpectedEof
    )
}

/// The alert of TLS that is behind an error.
fn alert(error: &(dyn StdError + 'static)) -> Option<rustls::AlertDescription> {
    let mut error = Some(error);
    while let Some(this) = error {
        // An io::Error's source is what is behind the error that it wraps.
        let inner = this.downcast_ref::<io::Error>().and_then(|e| e.get_ref()).and_then(|e| e.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            return Some(*alert);
        }
        error = this.source();
    }
    None
}

/// Host and port of `https://HOST:PORT`, an IPv6 address without its brackets.
fn address(url: &str) -> Option<(String, u16)> {
    let url: Uri = url.parse().ok()?;
    let plain = url.scheme_str() == Some("https") && matches!(url.path(), "" | "/") && url.query().is_none();
    let authority = url.authority().filter(|authority| plain && !authority.as_str().contains('@'))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), authority.port_u16().filter(|port| *port != 0)?))
}

fn config(credentials: &Credentials) -> Result<ClientConfig, PlaceError> {
    let wrong = |file: &Path, why: String| PlaceError::File { file: file.to_owned(), why };
    let certificates = |file: &Path| -> Result<Vec<CertificateDer<'static>>, PlaceError> {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        let read: Vec<_> = read.map_err(|e| wrong(file, e.to_string()))?;
        if read.is_empty() { Err(wrong(file, "there is no certificate in it (PEM)".to_owned())) } else { Ok(read) }
    };
    let Credentials { cacert, cert, key } = credentials;
    let mut roots = RootCertStore::empty();
    for authority in certificates(cacert)? {
        roots.add(authority).map_err(|e| wrong(cacert, e.to_string()))?;
    }
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, e.to_string()))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(|e| wrong(cert, e.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, secret)
        .map_err(|e| wrong(cert, format!("does not go with {}: {e}", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_scheme_host_and_port_and_nothing_else() {
        assert_eq!(address("https://h1.example:9475"), Some(("h1.example".to_owned(), 9475)));
        assert_eq!(address("https://[fd00::1]:9475/"), Some(("fd00::1".to_owned(), 9475)));
        for bad in
            ["h1:9475", "http://h1:9475", "https://h1", "https://h1:0", "https://u@h1:1", "https://h1:1/x", "https://h1:1?x", ""]
        {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_host_that_restarts_is_waited_for_and_a_certificate_that_is_refused_is_not() {
        let unreachable =
            |source: Box<dyn StdError + Send + Sync>| ClientError::Unreachable { agent: "https://h:1".to_owned(), source };
        let os = |errno: i32| unreachable(io::Error::from_raw_os_error(errno).into());
        // ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT of Linux; then what is no errno.
        for errno in [111, 104, 113, 101, 110] {
            assert!(os(errno).is_passing(), "{errno}");
        }
        assert!(unreachable(io::Error::from(io::ErrorKind::UnexpectedEof).into()).is_passing(), "closed within the handshake");
        assert!(!os(13).is_passing(), "EACCES");
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(!unreachable(io::Error::new(io::ErrorKind::InvalidData, unknown).into()).is_passing());
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        let client = Client { place: Place::Socket("/s".into()) };
        assert!(!client.broken("GET /", io::Error::new(io::ErrorKind::InvalidData, alert).into()).is_passing());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let file = PathBuf::from("/nonexistent/ca.pem");
        let credentials = Credentials { cacert: file.clone(), cert: file.clone(), key: file };
        assert!(Client::remote("https://h:1", &credentials).unwrap_err().to_string().contains("/nonexistent/ca.pem"));
    }
}
