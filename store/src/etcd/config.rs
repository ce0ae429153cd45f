//! How to reach etcd: what the `--etcd-*` flags hold, checked and read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// How to reach etcd. Files are read again for every new connection, so that renewed certificates and passwords are taken up.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `host:port`, `http://host:port` or `https://host:port`; the port is 2379 if none is given. Without a scheme it is
    /// `https` if `ca` or `cert` is given, else `http`.
    pub endpoints: Vec<String>,
    /// A PEM file with the certificates that etcd's own must go back to.
    pub ca: Option<PathBuf>,
    /// A PEM file with this host's certificate and what leads from it to etcd's CA.
    pub cert: Option<PathBuf>,
    /// A PEM file with the key of `cert`.
    pub key: Option<PathBuf>,
    /// The user to log in as.
    pub username: Option<String>,
    /// A file with that user's password; line ends at its end are not part of it.
    pub password_file: Option<PathBuf>,
    /// The longest that one request takes, over all endpoints. A listing is a request per page; renewing a lease may take half
    /// as long again.
    pub request_timeout: Duration,
    /// The longest that making a TCP connection takes.
    pub connect_timeout: Duration,
    /// How long a connection with requests on it is silent before it is asked for a sign of life. etcd cuts off who asks
    /// more often than every 5 s (`--grpc-keepalive-min-time`).
    pub ping_interval: Duration,
    /// How long that sign may take; then the connection is dead.
    pub ping_timeout: Duration,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            ca: None,
            cert: None,
            key: None,
            username: None,
            password_file: None,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(6),
            ping_timeout: Duration::from_secs(4),
        }
    }
}

/// Why the way to etcd cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// There is nothing to connect to.
    #[error("no etcd endpoint is given: set --etcd-endpoints")]
    NoEndpoint,
    /// An endpoint is none.
    #[error("etcd endpoint {endpoint:?}: {why}")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// TLS without anything to check the server by.
    #[error(
        "etcd endpoint {endpoint:?} is https: name the CA by --etcd-ca (the system's are often in /etc/ssl/certs/ca-certificates.crt)"
    )]
    NoCa {
        /// The endpoint.
        endpoint: String,
    },
    /// A certificate without key, a key without certificate, or a user without password.
    #[error("{given} needs {missing}")]
    Half {
        /// The flag that is given.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("{flag}: read {path}")]
    Read {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{flag}: {path} holds no PEM {wanted}")]
    NotPem {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
    },
    /// The files are PEM but do not make a TLS client.
    #[error("etcd endpoint {endpoint:?}: --etcd-ca, --etcd-cert and --etcd-key cannot be used: {why}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
}

impl EtcdConfig {
    /// The endpoints as URLs, each once, after everything has been checked that can be without a connection.
    pub(super) fn urls(&self) -> Result<Vec<String>, EtcdConfigError> {
        match (&self.cert, &self.key) {
            (Some(_), None) => return Err(EtcdConfigError::Half { given: "--etcd-cert", missing: "--etcd-key" }),
            (None, Some(_)) => return Err(EtcdConfigError::Half { given: "--etcd-key", missing: "--etcd-cert" }),
            _ => {}
        }
        match (&self.username, &self.password_file) {
            (Some(_), None) => {
                return Err(EtcdConfigError::Half { given: "--etcd-username", missing: "--etcd-password-file" });
            }
            (None, Some(_)) => {
                return Err(EtcdConfigError::Half { given: "--etcd-password-file", missing: "--etcd-username" });
            }
            _ => {}
        }
        let mut urls = Vec::new();
        for given in self.endpoints.iter().map(|e| e.trim()).filter(|e| !e.is_empty()) {
            let url = self.url(given)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.is_empty() {
            return Err(EtcdConfigError::NoEndpoint);
        }
        self.password()?;
        Ok(urls)
    }

    fn wants_tls(&self) -> bool {
        self.ca.is_some() || self.cert.is_some()
    }

    fn url(&self, given: &str) -> Result<String, EtcdConfigError> {
        let bad = |why: &str| EtcdConfigError::Endpoint { endpoint: given.to_owned(), why: why.to_owned() };
        let (scheme, rest) = match given.split_once("://") {
            Some(("http", rest)) => ("http", rest),
            Some(("https", rest)) => ("https", rest),
            Some(_) => return Err(bad("the scheme must be http or https")),
            None => (if self.wants_tls() { "https" } else { "http" }, given),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if scheme == "http" && self.wants_tls() {
            return Err(bad("is http, but --etcd-ca or --etcd-cert is given: say https"));
        }
        if scheme == "https" && self.ca.is_none() {
            return Err(EtcdConfigError::NoCa { endpoint: given.to_owned() });
        }
        if rest.contains(['/', '?', '#', '@', ' ']) {
            return Err(bad("must be host:port, nothing more"));
        }
        // An IPv6 address stands in brackets, so a colon after the last bracket begins the port.
        let after_address = rest.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match rest[after_address..].split_once(':') {
            Some((name, port)) => (&rest[..after_address + name.len()], Some(port)),
            None => (rest, None),
        };
        if host.is_empty() {
            return Err(bad("has no host"));
        }
        match port.map(str::parse::<u16>) {
            None => Ok(format!("{scheme}://{host}:{DEFAULT_PORT}")),
            Some(Ok(port)) if port != 0 => Ok(format!("{scheme}://{host}:{port}")),
            Some(_) if rest.starts_with('[') => Err(bad("the port must be 1 to 65535")),
            Some(_) => Err(bad("the port must be 1 to 65535 (an IPv6 address stands in brackets)")),
        }
    }

    /// The user and the password that the file holds now.
    pub(super) fn password(&self) -> Result<Option<(String, String)>, EtcdConfigError> {
        let (Some(user), Some(path)) = (&self.username, &self.password_file) else { return Ok(None) };
        let password = std::fs::read_to_string(path).map_err(|source| EtcdConfigError::Read {
            flag: "--etcd-password-file",
            path: path.clone(),
            source,
        })?;
        Ok(Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned())))
    }

    /// What a connection to `url` is made with, from what the files hold now.
    pub(super) fn options(&self, url: &str) -> Result<ConnectOptions, EtcdConfigError> {
        // No pings without requests: etcd's server forbids them (grpc-go's PermitWithoutStream is off) and hangs up.
        let options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(self.ping_interval, self.ping_timeout)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if !url.starts_with("https://") {
            return Ok(options);
        }
        let mut tls = TlsOptions::new();
        if let Some(path) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(pem("--etcd-ca", path, "CERTIFICATE", "certificate")?));
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(
                pem("--etcd-cert", cert, "CERTIFICATE", "certificate")?,
                pem("--etcd-key", key, "PRIVATE KEY", "private key")?,
            ));
        }
        Ok(options.with_tls(tls))
    }
}

/// A file that must hold a PEM block whose label ends in `label`.
fn pem(flag: &'static str, path: &Path, label: &str, wanted: &'static str) -> Result<Vec<u8>, EtcdConfigError> {
    let bytes = std::fs::read(path).map_err(|source| EtcdConfigError::Read { flag, path: path.to_owned(), source })?;
    let holds = String::from_utf8_lossy(&bytes).lines().any(|line| {
        line.strip_prefix("-----BEGIN ").and_then(|l| l.trim_end().strip_suffix("-----")).is_some_and(|l| l.ends_with(label))
    });
    if holds { Ok(bytes) } else { Err(EtcdConfigError::NotPem { flag, path: path.to_owned(), wanted }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(endpoints: &[&str]) -> EtcdConfig {
        EtcdConfig { endpoints: endpoints.iter().map(|e| (*e).to_owned()).collect(), ..EtcdConfig::default() }
    }

    #[test]
    fn endpoints_become_urls_with_a_port_each_once() {
        let config = of(&["h1", " http://h1:2379/", "[fd00::1]", "http://[fd00::1]:4001", "10.0.0.1:2380", ""]);
        assert_eq!(
            config.urls().unwrap(),
            ["http://h1:2379", "http://[fd00::1]:2379", "http://[fd00::1]:4001", "http://10.0.0.1:2380"]
        );
        let tls = EtcdConfig { ca: Some("ca.pem".into()), ..of(&["h1"]) };
        assert_eq!(tls.urls().unwrap(), ["https://h1:2379"]);
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_named() {
        for (given, why) in [
            ("ftp://h1", "scheme"),
            ("h1:0", "port"),
            ("fd00::1", "brackets"),
            ("h1:2379/v3", "nothing more"),
            ("http://:2379", "no host"),
            ("https://h1", "--etcd-ca"),
        ] {
            let err = of(&[given]).urls().unwrap_err().to_string();
            assert!(err.contains(why) && err.contains(given), "{given}: {err}");
        }
        assert!(matches!(of(&[" "]).urls(), Err(EtcdConfigError::NoEndpoint)));
    }

    #[test]
    fn halves_and_missing_files_are_named() {
        let half = EtcdConfig { cert: Some("c".into()), ..of(&["h1"]) };
        assert_eq!(half.urls().unwrap_err().to_string(), "--etcd-cert needs --etcd-key");
        let plain = EtcdConfig { ca: Some("ca.pem".into()), ..of(&["http://h1"]) };
        assert!(plain.urls().unwrap_err().to_string().contains("say https"));
        let user = EtcdConfig { username: Some("weft".into()), password_file: Some("/nonexistent/pw".into()), ..of(&["h1"]) };
        assert_eq!(user.urls().unwrap_err().to_string(), "--etcd-password-file: read /nonexistent/pw");
    }

    #[test]
    fn a_file_that_is_no_pem_is_named_before_any_connection() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, "hello").unwrap();
        let config = EtcdConfig { ca: Some(ca), ..of(&["h1"]) };
        let err = config.options("https://h1:2379").unwrap_err().to_string();
        assert!(err.ends_with("holds no PEM certificate"), "{err}");
    }
}
