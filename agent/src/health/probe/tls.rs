//! TLS towards an endpoint. Never used for anything but checks.
//!
//! Its certificate is verified only if the check says so: it is asked by its address whether it answers, and nothing is told to it.
//! What a verified one is held against are the certificates of [`Trust`], read anew when their file is another one.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use weft_model::check::Check;

use super::broken;

/// Where distributions keep the certificates that they trust, in one file: Debian and Arch, Fedora, openSUSE, Alpine.
const OF_SYSTEM: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// What certificates are held against, where a check verifies them.
#[derive(Debug, Default)]
pub struct Trust {
    file: Option<PathBuf>,
    known: Mutex<Option<Known>>,
}

/// A file as it was read.
#[derive(Clone, Debug)]
struct Known {
    file: PathBuf,
    modified: SystemTime,
    config: Arc<ClientConfig>,
}

impl Trust {
    /// The certificates of a file, PEM; none is the system's.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, known: Mutex::default() }
    }

    /// Reads a file of certificates, unless it is as it was. Blocks for a moment when it is not.
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let file = match &self.file {
            Some(file) => file.as_path(),
            None => OF_SYSTEM.iter().map(Path::new).find(|file| file.exists()).ok_or(
                "TLS: this system keeps no certificates that it trusts where one looks for them; name a file of them to weftd with --check-ca",
            )?,
        };
        let failed = |e: &io::Error| broken(&format!("TLS: read the trusted certificates in {}", file.display()), e);
        let modified = file.metadata().and_then(|m| m.modified()).map_err(|e| failed(&e))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.file == file && known.modified == modified) {
            return Ok(Arc::clone(&known.config));
        }
        let text = std::fs::read(file).map_err(|e| failed(&e))?;
        let mut roots = RootCertStore::empty();
        let (taken, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
        if taken == 0 {
            return Err(format!("TLS: {} holds no certificate in PEM; see --check-ca of weftd", file.display()));
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| broken("TLS", &e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A session that is resumed shows no certificate: one that has expired meanwhile, or was replaced, would not be noticed.
        config.resumption = Resumption::disabled();
        let config = Arc::new(config);
        *known = Some(Known { file: file.to_owned(), modified, config: Arc::clone(&config) });
        Ok(config)
    }
}

/// Makes the connection one of TLS.
///
/// # Errors
/// The other end does not speak it, or its certificate is not to be trusted.
pub(super) async fn over(
    trust: &Trust,
    check: &Check,
    stream: TcpStream,
    place: SocketAddr,
) -> Result<TlsStream<TcpStream>, String> {
    let config = if check.verify { trust.config()? } else { unverified()? };
    let name = name(check, place)?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|e| broken("TLS", &e))
}

/// The name that is asked for, and that a certificate is verified for: the check's host without its port, else the address.
fn name(check: &Check, place: SocketAddr) -> Result<ServerName<'static>, String> {
    let Some(host) = &check.host else { return Ok(ServerName::from(place.ip())) };
    let without_port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map(|(name, _)| name);
    let bare = without_port.map(|name| name.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(name));
    let named = [Some(host.as_str()), bare].into_iter().flatten().find_map(|name| ServerName::try_from(name.to_owned()).ok());
    match named {
        Some(name) => Ok(name),
        None if !check.verify => Ok(ServerName::from(place.ip())),
        None => Err(format!("TLS: the check's host {host:?} is no name that a certificate can bear")),
    }
}

fn unverified() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| broken("TLS", &e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes every certificate whose owner has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tokio_rustls::rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
