//! etcd with TLS, client certificates and users, as a careful operator runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may assume")]

#[allow(dead_code, unused_imports, unused_macros, reason = "only its helpers are of use here")]
mod conformance;
mod server;
mod support;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use weft_store::etcd::{EtcdConfig, EtcdConfigError, EtcdStore};
use weft_store::follow::follow;
use weft_store::{Revision, Store, StoreError, Txn};

use crate::conformance::{Known, batch, below, put};
use crate::server::{EtcdServer, Tls};
use crate::support::{bounded, eventually};

/// A certificate authority, a server's and a client's certificate, made by openssl.
struct Certificates {
    dir: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        this.authority("ca");
        this.leaf("server", "subjectAltName=IP:127.0.0.1");
        this.leaf("client", "subjectAltName=DNS:h1");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").current_dir(self.dir.path()).args(arguments).output().expect("run openssl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn authority(&self, name: &str) {
        let (key, cert, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &cert,
        ]);
    }

    fn leaf(&self, name: &str, extension: &str) {
        let (key, request, cert) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let extensions = format!("{name}.ext");
        std::fs::write(self.path(&extensions), format!("basicConstraints=CA:FALSE\n{extension}\n")).unwrap();
        // No common name: etcd takes a client certificate's for a user.
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/O=weft",
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &extensions,
            "-out",
            &cert,
        ]);
    }

    fn server(&self) -> Tls {
        Tls { ca: self.path("ca.crt"), cert: self.path("server.crt"), key: self.path("server.key") }
    }

    /// How the client `h1` reaches `server`.
    fn client(&self, server: &EtcdServer) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![server.endpoint()],
            ca: Some(self.path("ca.crt")),
            cert: Some(self.path("client.crt")),
            key: Some(self.path("client.key")),
            ..EtcdConfig::default()
        }
    }

    fn password(&self, name: &str, password: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, format!("{password}\n")).unwrap();
        path
    }
}

/// A user `weft` who may do everything below `/weft/` and `/skydns/`, and nothing else.
fn with_users(server: &EtcdServer) {
    for arguments in [
        &["user", "add", "root:rootpw"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "weft:secret"],
        &["role", "add", "weft"],
        &["role", "grant-permission", "weft", "readwrite", "--prefix=true", "/weft/"],
        &["role", "grant-permission", "weft", "readwrite", "--prefix=true", "/skydns/"],
        &["user", "grant-role", "weft", "weft"],
        &["auth", "enable"],
    ] {
        // The first may come while the server is still looking for a leader; etcdctl waits for that.
        server.etcdctl(arguments);
    }
}

async fn store(config: EtcdConfig) -> Arc<dyn Store> {
    Arc::new(EtcdStore::connect(config).await.unwrap())
}

fn denied(result: Result<impl std::fmt::Debug, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Denied { .. }) => format!("{error}: {}", error.source().unwrap()),
        other => panic!("not denied: {other:?}"),
    }
}

fn login(config: EtcdConfig, user: &str, password_file: &Path) -> EtcdConfig {
    EtcdConfig { username: Some(user.into()), password_file: Some(password_file.into()), ..config }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_a_certificate_does_what_his_role_allows() {
    bounded(async {
        let certificates = Certificates::new();
        let mut server = EtcdServer::start_with(&[], Some(certificates.server()));
        with_users(&server);
        let password = certificates.password("pw", "secret");
        let store = store(login(certificates.client(&server), "weft", &password)).await;
        let prefixes = below(&["/skydns/", "/weft/"]);
        let mut following = follow(store.clone(), prefixes.clone());
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        let at = put(&*store, "/weft/1", "").await;
        let lease = store.grant(std::time::Duration::from_secs(60)).await.unwrap();
        assert!(store.keep_alive(lease).await.unwrap().is_some());
        assert!(store.time_to_live(lease).await.unwrap().is_some());
        let mut watch = store.watch(&prefixes, at).await.unwrap();
        assert_eq!(batch(&mut watch).await.revision, at);
        // Nothing beyond: not the neighbour, not a wider prefix.
        let text = denied(store.transact(Txn::new().put("/weft2", "")).await);
        assert!(text.starts_with("put /weft2: refused by the store: etcd at https://127.0.0.1:"), "{text}");
        assert!(text.ends_with("etcdserver: permission denied"), "{text}");
        denied(store.list(&below(&["/weft"])).await);
        denied(store.get(b"/other").await);
        let outcome = match store.watch(&below(&["/weft"]), Revision(1)).await {
            Ok(mut watch) => watch.next().await.unwrap().map(drop),
            Err(error) => Err(error),
        };
        let text = denied(outcome);
        assert!(text.starts_with("watch /weft from revision 1: ") && text.ends_with("permission denied"), "{text}");
        // A restarted member knows none of the logins of before; nobody has to care.
        server.restart();
        let at = eventually("a write after the restart", || async {
            store.transact(Txn::new().put("/skydns/2", "")).await.ok().map(|outcome| outcome.revision())
        })
        .await;
        known.until(&mut following, "the change after it", |known| known.revision >= at).await;
        assert!(store.keep_alive(lease).await.unwrap().is_some());
        assert_eq!(known.listings, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_denied_in_a_sentence_until_it_is_right() {
    bounded(async {
        let certificates = Certificates::new();
        let server = EtcdServer::start();
        with_users(&server);
        let password = certificates.password("pw", "wrong");
        let store = store(login(server.config(), "weft", &password)).await;
        let text = denied(store.get(b"/weft/1").await);
        let expected = format!(
            "get /weft/1: refused by the store: etcd at http://{}: log in as weft with the password in {}: etcdserver: \
             authentication failed, invalid user ID or password",
            server.endpoint(),
            password.display()
        );
        assert_eq!(text, expected);
        denied(store.watch(&below(&["/weft/"]), Revision(1)).await);
        // A follower says so, goes on trying, and takes up the password that the file holds then.
        let mut following = follow(store.clone(), below(&["/weft/"]));
        let mut known = Known::default();
        known.until(&mut following, "the refusal", |known| known.outages.len() == 1).await;
        certificates.password("pw", "secret");
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        assert_eq!(known.outages, ["away", "back"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_runs_out_is_made_again_unnoticed() {
    bounded(async {
        let certificates = Certificates::new();
        // Tokens of etcd's own kind live on while they are used; signed ones end, used or not.
        certificates.openssl(&["genrsa", "-out", "token.key", "2048"]);
        certificates.openssl(&["rsa", "-in", "token.key", "-pubout", "-out", "token.pub"]);
        let (key, public) = (certificates.path("token.key"), certificates.path("token.pub"));
        let token = format!("--auth-token=jwt,pub-key={},priv-key={},sign-method=RS256,ttl=2s", public.display(), key.display());
        let server = EtcdServer::start_with(&[&token], Some(certificates.server()));
        with_users(&server);
        let password = certificates.password("pw", "secret");
        let store = store(login(certificates.client(&server), "weft", &password)).await;
        let lease = store.grant(std::time::Duration::from_secs(600)).await.unwrap();
        let mut following = follow(store.clone(), below(&["/skydns/", "/weft/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        // Three lives of a token long. Every write must be done at once: whoever writes does not hear of logins.
        let begun = std::time::Instant::now();
        let mut at = Revision(0);
        while begun.elapsed() < std::time::Duration::from_secs(6) {
            at = put(&*store, "/weft/1", "").await;
            assert!(store.keep_alive(lease).await.unwrap().is_some());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        known.until(&mut following, "the changes", |known| known.revision >= at).await;
        assert_eq!((known.listings, known.outages.len()), (1, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_changed_is_told_and_taken_up_from_the_file() {
    bounded(async {
        let certificates = Certificates::new();
        let server = EtcdServer::start();
        with_users(&server);
        let password = certificates.password("pw", "secret");
        let store = store(login(server.config(), "weft", &password)).await;
        put(&*store, "/weft/1", "").await;
        let mut following = follow(store.clone(), below(&["/weft/"]));
        let mut known = Known::default();
        known.until(&mut following, "the listing", |known| known.listings == 1).await;
        let mut passwd = Command::new("etcdctl");
        passwd.env_clear().env("ETCDCTL_API", "3").args(["--endpoints", &server.endpoint(), "--user", "root:rootpw"]);
        passwd.args(["user", "passwd", "weft", "--interactive=false"]);
        passwd.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut passwd = passwd.spawn().expect("run etcdctl");
        std::io::Write::write_all(&mut passwd.stdin.take().unwrap(), b"changed\n").unwrap();
        assert!(passwd.wait().unwrap().success());
        // etcd takes back every login at such a change, and the file still holds the old password.
        let text = denied(store.transact(Txn::new().put("/weft/2", "")).await);
        assert!(text.contains(&format!("log in as weft with the password in {}", password.display())), "{text}");
        certificates.password("pw", "changed");
        let at = put(&*store, "/weft/2", "").await;
        known.until(&mut following, "the change after it", |known| known.revision >= at).await;
        assert_eq!(known.listings, 1, "what was open stayed open, or went on where it was");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_user_the_flags_to_set_are_named() {
    bounded(async {
        let server = EtcdServer::start();
        with_users(&server);
        let text = denied(store(server.config()).await.get(b"/weft/1").await);
        assert!(text.ends_with("this etcd wants a login: set --etcd-username and --etcd-password-file"), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_where_none_is_needed_does_no_harm() {
    bounded(async {
        let certificates = Certificates::new();
        let server = EtcdServer::start();
        let password = certificates.password("pw", "secret");
        let store = store(login(server.config(), "weft", &password)).await;
        put(&*store, "/weft/1", "").await;
        // Users come later; the store logs in then.
        with_users(&server);
        put(&*store, "/weft/1", "").await;
        denied(store.get(b"/other").await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_trusted_gets_nothing() {
    bounded(async {
        let certificates = Certificates::new();
        certificates.authority("other");
        let server = EtcdServer::start_with(&[], Some(certificates.server()));
        let trusting = certificates.client(&server);
        put(&*store(trusting.clone()).await, "/a", "").await;
        let distrusting = EtcdConfig { ca: Some(certificates.path("other.crt")), ..trusting.clone() };
        let error = store(distrusting).await.get(b"/a").await.unwrap_err();
        let text = error.source().unwrap().to_string();
        assert!(matches!(error, StoreError::Unavailable { .. }) && text.contains("certificate"), "{error}: {text}");
        // Nor does the server serve whom it does not know.
        let unknown = EtcdConfig { cert: None, key: None, ..trusting.clone() };
        let error = store(unknown).await.get(b"/a").await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        // What cannot work at all is said before anything is tried.
        let mixed = EtcdConfig { key: Some(certificates.path("server.csr")), ..trusting.clone() };
        let error = EtcdStore::connect(mixed).await.unwrap_err();
        assert!(matches!(&error, EtcdConfigError::NotPem { flag: "--etcd-key", .. }), "{error}");
        let foreign = EtcdConfig { key: Some(certificates.path("server.key")), ..trusting };
        let error = EtcdStore::connect(foreign).await.unwrap_err();
        assert!(matches!(&error, EtcdConfigError::Tls { .. }), "{error}");
    })
    .await;
}
