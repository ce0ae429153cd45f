//! Settings of the API for callers from elsewhere: where, with which certificate, and whose word counts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// The API over TLS. There is none unless an address is named, and none without certificates on both sides.
#[derive(Clone, Debug, Default, Args)]
pub struct ApiSettings {
    /// Where to answer the API over TLS, beside the socket, to clients who show a certificate (repeatable). Default: nowhere.
    #[arg(
        long,
        env = "WEFT_API_LISTEN",
        value_name = "ADDRESS:PORT",
        value_delimiter = ',',
        value_parser = socket,
        requires = "api_cert",
        global = true,
        help_heading = "API"
    )]
    pub api_listen: Vec<SocketAddr>,
    /// The agent's own certificate there, PEM, with those that lead to its authority. Read again when the file changes.
    #[arg(long, env = "WEFT_API_CERT", value_name = "FILE", requires = "api_key", global = true, help_heading = "API")]
    pub api_cert: Option<PathBuf>,
    /// Key of that certificate, PEM.
    #[arg(long, env = "WEFT_API_KEY", value_name = "FILE", requires = "api_cert", global = true, help_heading = "API")]
    pub api_key: Option<PathBuf>,
    /// Authorities whose clients may read, PEM.
    #[arg(long, env = "WEFT_API_CLIENT_CA", value_name = "FILE", requires = "api_cert", global = true, help_heading = "API")]
    pub api_client_ca: Option<PathBuf>,
    /// Authorities whose clients may write, PEM; none of those that --api-client-ca has.
    #[arg(long, env = "WEFT_API_ADMIN_CA", value_name = "FILE", requires = "api_cert", global = true, help_heading = "API")]
    pub api_admin_ca: Option<PathBuf>,
}

/// The files that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFiles {
    /// `--api-cert`.
    pub cert: PathBuf,
    /// `--api-key`.
    pub key: PathBuf,
    /// `--api-client-ca`.
    pub client_ca: Option<PathBuf>,
    /// `--api-admin-ca`.
    pub admin_ca: Option<PathBuf>,
}

impl ApiSettings {
    /// What is needed to answer; none if it is not to be answered anywhere.
    ///
    /// # Errors
    /// Which setting is missing, or there for nothing.
    pub fn files(&self) -> anyhow::Result<Option<ApiFiles>> {
        let (Some(cert), Some(key)) = (&self.api_cert, &self.api_key) else {
            anyhow::ensure!(
                self.api_listen.is_empty(),
                "--api-listen: --api-cert and --api-key are missing: nothing is answered in the clear"
            );
            return Ok(None);
        };
        anyhow::ensure!(
            !self.api_listen.is_empty(),
            "--api-cert is set, and --api-listen is not: name an address, or leave both out"
        );
        anyhow::ensure!(
            self.api_client_ca.is_some() || self.api_admin_ca.is_some(),
            "--api-listen: nobody could ask: set --api-client-ca for clients who may read, --api-admin-ca for those who may write"
        );
        let (cert, key) = (cert.clone(), key.clone());
        Ok(Some(ApiFiles { cert, key, client_ca: self.api_client_ca.clone(), admin_ca: self.api_admin_ca.clone() }))
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an address and a port such as 10.0.0.1:9475 or [fd00::1]:9475".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_belong_together_is_refused_by_name() {
        let mut settings = ApiSettings::default();
        assert_eq!(settings.files().unwrap(), None);
        settings.api_listen = vec![socket("127.0.0.1:9475").unwrap()];
        assert!(settings.files().unwrap_err().to_string().contains("--api-cert"));
        (settings.api_cert, settings.api_key) = (Some("/c".into()), Some("/k".into()));
        assert!(settings.files().unwrap_err().to_string().contains("--api-client-ca"));
        settings.api_admin_ca = Some("/a".into());
        assert_eq!(settings.files().unwrap().unwrap().admin_ca, Some("/a".into()));
        settings.api_listen.clear();
        assert!(settings.files().unwrap_err().to_string().contains("--api-listen"));
        assert!(socket("9475").is_err() && socket("[::1]:1").is_ok());
    }
}
