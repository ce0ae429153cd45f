//! TLS for callers from elsewhere: the agent's certificate, and whose clients may read or write.
//!
//! The files are looked at when a connection is accepted, and read again when one of them has changed, so that certificates are
//! renewed without a restart. While what is there cannot be used, what was read before goes on, and `status` says so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::config::ApiFiles;

/// What was read.
pub(super) struct Keys {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// Whose clients may write.
    writers: Option<Arc<dyn ClientCertVerifier>>,
    /// Whose clients may read.
    readers: Option<Arc<dyn ClientCertVerifier>>,
}

/// What a client's certificate lets him do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Read.
    Reader,
    /// Read and write.
    Writer,
}

impl Keys {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the setting and the file that cannot be used.
    pub fn read(files: &ApiFiles) -> anyhow::Result<Self> {
        let chain = certificates("--api-cert", &files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(why).with_context(|| place("--api-key", &files.key))?;
        let admins = files.admin_ca.as_deref().map(|path| certificates("--api-admin-ca", path)).transpose()?;
        let clients = files.client_ca.as_deref().map(|path| certificates("--api-client-ca", path)).transpose()?;
        let admins = admins.as_deref().map(roots).transpose().context("--api-admin-ca")?;
        let clients = clients.as_deref().map(roots).transpose().context("--api-client-ca")?;
        if let (Some(admins), Some(clients)) = (&admins, &clients)
            && clients.roots.iter().any(|client| admins.roots.iter().any(|admin| is_one(client, admin)))
        {
            bail!(
                "--api-client-ca and --api-admin-ca have an authority in common: none of its clients could write; give each its own"
            );
        }
        let all = admins.iter().chain(&clients).flat_map(|of| of.roots.iter().cloned()).collect();
        let anybody = verifier(RootCertStore { roots: all }).context("--api-client-ca, --api-admin-ca")?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(anybody)
            .with_single_cert(chain, key)
            .with_context(|| format!("{}, {}", place("--api-cert", &files.cert), place("--api-key", &files.key)))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let of = |authorities: Option<RootCertStore>| authorities.map(verifier).transpose();
        Ok(Self { config: Arc::new(config), writers: of(admins)?, readers: of(clients)? })
    }

    /// What a client who has shown these certificates may do, now; the first is his own. A session that is taken up again has not
    /// been verified anew by the handshake.
    pub fn role(&self, shown: &[CertificateDer<'_>]) -> Option<Role> {
        let (own, between) = shown.split_first()?;
        let now = UnixTime::now();
        let signed_by = |by: &Option<Arc<dyn ClientCertVerifier>>| {
            by.as_ref().is_some_and(|verifier| verifier.verify_client_cert(own, between, now).is_ok())
        };
        // Readers first: where the admins' authority has signed that of the readers, it vouches for each of them as well, by way of
        // an intermediate that they show themselves.
        if signed_by(&self.readers) {
            Some(Role::Reader)
        } else if signed_by(&self.writers) {
            Some(Role::Writer)
        } else {
            None
        }
    }
}

fn place(setting: &str, path: &Path) -> String {
    format!("{setting} {}", path.display())
}

fn certificates(setting: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || -> anyhow::Result<Vec<_>> {
        let all: Vec<_> = CertificateDer::pem_file_iter(path).map_err(why)?.collect::<Result<_, _>>().map_err(why)?;
        ensure!(!all.is_empty(), "there is no certificate in it (PEM: -----BEGIN CERTIFICATE-----)");
        Ok(all)
    };
    read().with_context(|| place(setting, path))
}

/// In words for who sees a file and no parser.
fn why(error: PemError) -> anyhow::Error {
    match error {
        PemError::Io(e) => e.into(),
        PemError::NoItemsFound => anyhow::anyhow!("there is nothing of that kind in it (PEM)"),
        other => anyhow::anyhow!("no PEM: {other}"),
    }
}

fn roots(authorities: &[CertificateDer<'static>]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).context("a certificate that is no authority's")?;
    }
    Ok(roots)
}

/// Whether two certificates are of one authority. It may have several, renewed or signed by others, and what it signs is good by
/// each of them.
fn is_one(this: &TrustAnchor<'_>, other: &TrustAnchor<'_>) -> bool {
    (&this.subject, &this.subject_public_key_info) == (&other.subject, &other.subject_public_key_info)
}

fn verifier(roots: RootCertStore) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider())).build()?)
}

/// What tells that a file is another one, or another text: inode, size, and when it was changed, seconds and nanoseconds.
type Seen = Option<(u64, u64, i64, i64)>;

/// The keys as the files have them.
pub(super) struct Tls {
    files: ApiFiles,
    now: Mutex<Now>,
}

struct Now {
    keys: Arc<Keys>,
    seen: Vec<Seen>,
    fault: Option<String>,
}

impl Tls {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// As [`Keys::read`].
    pub fn new(files: ApiFiles) -> anyhow::Result<Self> {
        let seen = look(&files);
        let keys = Arc::new(Keys::read(&files)?);
        Ok(Self { files, now: Mutex::new(Now { keys, seen, fault: None }) })
    }

    /// The keys, read anew if a file has changed; and what is wrong with the files, if what was read before goes on.
    pub fn keys(&self) -> (Arc<Keys>, Option<String>) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at before it is read: what is written in between is read once more.
        let seen = look(&self.files);
        if now.seen != seen {
            match Keys::read(&self.files) {
                Ok(keys) => {
                    tracing::info!("read the API's certificates again");
                    (now.keys, now.fault) = (Arc::new(keys), None);
                }
                Err(e) => {
                    tracing::warn!(
                        error = format!("{e:#}"),
                        "the API's certificates have changed and cannot be used; the old ones stay"
                    );
                    now.fault = Some(format!("api: {e:#}; what was read before is used until the files are right"));
                }
            }
            now.seen = seen;
        }
        (now.keys.clone(), now.fault.clone())
    }
}

fn look(files: &ApiFiles) -> Vec<Seen> {
    let all = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref(), files.admin_ca.as_ref()];
    // One that cannot be looked at cannot be read either, which then says why.
    let look = |path: &PathBuf| fs::metadata(path).ok().map(|of| (of.ino(), of.size(), of.mtime(), of.mtime_nsec()));
    all.into_iter().flatten().map(look).collect()
}
