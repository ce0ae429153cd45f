//! Probes against real sockets on loopback, well-behaved and hostile ones.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::health::tests::nobody_elses;

const LONG: Duration = Duration::from_secs(60);

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn target(check: &str, port: Option<u16>) -> Target {
    Target { check: check.parse().unwrap(), address: IpAddr::V4(Ipv4Addr::LOCALHOST), further: Vec::new(), port, netns: None }
}

fn trusting() -> Arc<Trust> {
    Arc::new(Trust::default())
}

/// A command that may take as long as a check can.
fn command(words: &[&str]) -> Target {
    let mut target = target("command:/bin/true,timeout=1m", Some(80));
    target.check.command = words.iter().map(|word| (*word).to_owned()).collect();
    target
}

/// The number of the process that writes it to a file.
async fn written(file: &std::path::Path) -> i32 {
    let until = Instant::now() + LONG;
    loop {
        if let Some(pid) = std::fs::read_to_string(file).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok()) {
            return pid;
        }
        assert!(Instant::now() < until, "nobody has written to {}", file.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process is there, and more than a zombie.
fn goes_on(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ") && !stat.contains(") X ")
}

async fn ends(pid: i32) {
    let until = Instant::now() + LONG;
    while goes_on(pid) {
        assert!(Instant::now() < until, "{pid} goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn asked(check: &str, port: u16) -> Answer {
    let id = TargetId { id: "web-1".parse().unwrap(), service: None };
    ask(&trusting(), &id, &target(check, Some(port))).await.0
}

/// Sends the same bytes to whoever connects, and closes.
async fn says(bytes: &'static [u8]) -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = [0; 1024];
            let _ = stream.read(&mut question).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    port
}

#[tokio::test]
async fn a_port_that_takes_connections_is_well_and_a_closed_one_is_not() {
    let id = TargetId { id: "web-1".parse().unwrap(), service: None };
    let listener = TcpListener::bind((nobody_elses(), 0)).await.unwrap();
    let place = listener.local_addr().unwrap();
    let target = Target { address: place.ip(), ..target("tcp,timeout=1m", Some(place.port())) };
    assert!(ask(&trusting(), &id, &target).await.0.is_well);
    drop(listener);
    let refused = ask(&trusting(), &id, &target).await.0;
    assert!(!refused.is_well && refused.said.contains("refused"), "{refused:?}");
}

#[tokio::test]
async fn an_endpoint_of_several_addresses_is_well_when_each_of_them_is() {
    let id = TargetId { id: "web-1".parse().unwrap(), service: None };
    let one = TcpListener::bind((nobody_elses(), 0)).await.unwrap();
    let place = one.local_addr().unwrap();
    let other = IpAddr::V4(nobody_elses());
    let target = Target { address: place.ip(), further: vec![other], ..target("tcp,timeout=1m", Some(place.port())) };
    let half = ask(&trusting(), &id, &target).await.0;
    let why = format!("{other}: connect to {other}:{}", place.port());
    assert!(!half.is_well && half.said.starts_with(&why), "only what fails is named: {half:?}");
    let _other = TcpListener::bind((other, place.port())).await.unwrap();
    let whole = ask(&trusting(), &id, &target).await.0;
    assert!(whole.is_well && whole.said.ends_with("at each of 2 addresses"), "{whole:?}");
}

#[tokio::test]
async fn http_is_judged_by_status_and_text() {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = |request: Request<hyper::body::Incoming>| async move {
                let status = request.uri().path().trim_start_matches('/').parse().unwrap_or(200);
                let host = request.headers().get("host").map(|h| h.to_str().unwrap().to_owned()).unwrap_or_default();
                // The text is torn between two pieces at a place that differs.
                Response::builder()
                    .status(status)
                    .body(Full::new(Bytes::from(format!("{}all is fine at {host}", "x".repeat(9000)))))
            };
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    for (check, well, said) in [
        ("http:/200", true, "200 OK"),
        ("http:/302", true, "302"),
        ("http:/503", false, "503"),
        ("http:/503,status=500-599", true, "503"),
        ("http:/200,status=204", false, "200"),
        ("http:/200,body=fine", true, "200"),
        ("http:/200,body=fine at web.example,host=web.example", true, "200"),
        ("http:/200,body=broken", false, "without \"broken\""),
    ] {
        let answer = asked(&format!("{check},timeout=1m"), port).await;
        assert!(answer.is_well == well && answer.said.contains(said), "{check}: {answer:?}");
    }
}

#[tokio::test]
async fn whoever_talks_nonsense_or_nothing_or_without_end_only_fails() {
    for bytes in [
        &b""[..],
        b"\0\x01\x02",
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx",
    ] {
        let port = says(bytes).await;
        for check in ["http:/x,body=y,timeout=5s", "https:/x,timeout=5s", "grpc,timeout=5s"] {
            assert!(!asked(check, port).await.is_well, "{check}: {bytes:?}");
        }
    }
    // Silence, and an answer that never ends.
    let (silent, port) = listener().await;
    let answer = asked("http:/x,timeout=50ms", port).await;
    assert_eq!((answer.is_well, answer.said.as_str()), (false, "no answer within 50ms"));
    drop(silent);
    let (endless, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = endless.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            });
        }
    });
    let answer = asked("http:/x,body=y,timeout=1m", port).await;
    assert!(!answer.is_well && answer.said.contains("without"), "{answer:?}");
    let control = says(b"HTTP/1.1 500 \x1b[31mred\r\n\r\n").await;
    assert!(!asked("http:/,timeout=1m", control).await.said.chars().any(char::is_control));
}

#[tokio::test]
async fn grpc_health_is_asked_for_a_service() {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = |request: Request<hyper::body::Incoming>| async move {
                use http_body_util::BodyExt;
                let question = request.into_body().collect().await?.to_bytes();
                let (status, message): (&str, &[u8]) = match question.get(7..).unwrap_or_default() {
                    b"" => ("0", &[0, 0, 0, 0, 2, 8, 1]),
                    b"sick" => ("0", &[0, 0, 0, 0, 2, 8, 2]),
                    _ => ("5", b""),
                };
                let response = Response::builder().header("content-type", "application/grpc");
                let response = if status == "0" {
                    response
                } else {
                    response.header("grpc-status", status).header("grpc-message", "unknown")
                };
                Ok::<_, hyper::Error>(response.body(Full::new(Bytes::copy_from_slice(message))).unwrap())
            };
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    for (check, well, said) in
        [("grpc", true, "SERVING"), ("grpc:/sick", false, "NOT_SERVING"), ("grpc:/other", false, "gRPC status 5: unknown")]
    {
        let answer = asked(&format!("{check},timeout=1m"), port).await;
        assert_eq!((answer.is_well, answer.said.as_str()), (well, said), "{check}");
    }
}

#[tokio::test]
async fn https_asks_whoever_speaks_tls_and_verifies_its_certificate_if_the_check_says_so() {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::{HandshakeKind, ServerConfig};

    let dir = tempfile::tempdir().unwrap();
    let pair = |name: &str| (dir.path().join(format!("{name}.key")), dir.path().join(format!("{name}.pem")));
    for (name, names) in [("server", "DNS:web.example,IP:127.0.0.1"), ("other", "DNS:web.example")] {
        let ((key, cert), how) = (pair(name), dir.path().join("how"));
        let text = format!("[req]\nprompt=no\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\nCN={name}\n[ext]\n");
        std::fs::write(&how, format!("{text}basicConstraints=critical,CA:FALSE\nsubjectAltName={names}\n")).unwrap();
        let words =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-config"];
        let mut made = std::process::Command::new("openssl");
        let made = made.args(words).arg(&how).arg("-keyout").arg(&key).arg("-out").arg(&cert).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    let (key, cert) = pair("server");
    let certificates =
        tokio_rustls::rustls::pki_types::CertificateDer::pem_file_iter(&cert).unwrap().map(|c| c.unwrap()).collect();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(&key).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let resumed = Arc::new(AtomicBool::new(false));
    let (listener, port) = listener().await;
    let seen = Arc::clone(&resumed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                seen.fetch_or(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed), Ordering::SeqCst);
                let answer = |_| async { Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from_static(b"fine")))) };
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    let id = TargetId { id: "web-1".parse().unwrap(), service: None };
    let own = dir.path().join("own.pem");
    let trust = Arc::new(Trust::new(Some(own.clone())));
    let verified = async |check: &str| ask(&trust, &id, &target(&format!("https:/,{check},timeout=1m"), Some(port))).await.0;
    for (check, why) in [("verify", "read the trusted certificates in"), ("body=fine", ""), ("host=other.example", "")] {
        let answer = verified(check).await;
        assert!(answer.is_well == why.is_empty() && answer.said.contains(why), "{check}: {answer:?}");
    }
    for (file, check, why) in [
        ("server", "verify", ""),
        ("server", "verify,host=web.example", ""),
        ("server", "verify,host=web.example:8443", ""),
        ("server", "verify,host=other.example", "not valid for name"),
        ("server", "verify,host=a..b", "no name that a certificate can bear"),
        ("other", "verify,host=web.example", "UnknownIssuer"),
        ("server.key", "verify", "holds no certificate in PEM"),
        ("server", "verify", ""),
    ] {
        // Renewed, it is another file, and read anew.
        let (from, next) = (dir.path().join(file), dir.path().join("next.pem"));
        std::fs::copy(if from.exists() { from } else { pair(file).1 }, &next).unwrap();
        let before = own.metadata().and_then(|m| m.modified()).ok();
        loop {
            std::fs::File::options().append(true).open(&next).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
            if next.metadata().unwrap().modified().ok() != before {
                break;
            }
        }
        std::fs::rename(&next, &own).unwrap();
        for _ in 0..2 {
            let answer = verified(check).await;
            assert!(answer.is_well == why.is_empty() && answer.said.contains(why), "{file}: {check}: {answer:?}");
        }
    }
    assert!(!resumed.load(Ordering::SeqCst), "each check is shown the certificate");
}

#[tokio::test]
async fn a_command_is_well_if_it_ends_with_0_and_nothing_of_it_outlives_its_time() {
    let id = TargetId { id: "web-1".parse().unwrap(), service: None };
    for (words, well, said) in [
        (&["/bin/true"][..], true, "exit status: 0"),
        (&["/bin/sh", "-c", "echo $WEFT_ID $WEFT_ADDRESS $WEFT_PORT ${HOME-none}"], true, "web-1 127.0.0.1 80 none"),
        (&["/bin/sh", "-c", "echo sick >&2; exit 3"], false, "exit status: 3: sick"),
        (&["/bin/sh", "-c", "kill -9 $$"], false, "signal: 9"),
        (&["/does/not/exist"], false, "start the command"),
        (&["/bin/sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x"], true, "xxxxx"),
    ] {
        let answer = ask(&trusting(), &id, &command(words)).await.0;
        assert!(answer.is_well == well && answer.said.contains(said) && answer.said.len() <= MAX_SAID, "{words:?}: {answer:?}");
    }

    let mut slow = command(&["/bin/sleep", "100000"]);
    slow.check.timeout_ms = 50;
    let answer = ask(&trusting(), &id, &slow).await.0;
    assert_eq!((answer.is_well, answer.said.as_str()), (false, "no answer within 50ms"));

    // It and its child sleep for longer than anybody waits; it is given up as soon as both are there.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("sleep 100000 & echo $! > {}; wait", file.display());
    let waits = command(&["/bin/sh", "-c", &script]);
    let trust = trusting();
    let pid = tokio::select! {
        answer = ask(&trust, &id, &waits) => panic!("{answer:?}"),
        pid = written(&file) => pid,
    };
    ends(pid).await;
}

#[tokio::test]
async fn a_command_has_ended_when_its_process_has_whoever_holds_its_pipes() {
    let id = TargetId { id: "web-1".parse().unwrap(), service: None };
    let dir = tempfile::tempdir().unwrap();
    let (daemon, child) = (dir.path().join("daemon"), dir.path().join("child"));
    // One leaves the group before the command ends, one stays in it.
    let script = format!(
        "setsid sh -c 'echo $$ > {daemon}; exec sleep 100000' & sleep 100000 & echo $! > {child}
         until test -s {daemon}; do sleep 0.01; done; echo fine",
        daemon = daemon.display(),
        child = child.display()
    );
    let answer = ask(&trusting(), &id, &command(&["/bin/sh", "-c", &script])).await.0;
    let (daemon, child) = (written(&daemon).await, written(&child).await);
    let left = goes_on(daemon);
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL);
    assert_eq!((answer.is_well, answer.said.as_str()), (true, "exit status: 0: fine"));
    assert!(left, "who leaves the group is not killed with it");
    ends(child).await;
}

#[tokio::test]
async fn a_check_without_a_port_says_so() {
    let id = TargetId { id: "web-1".parse().unwrap(), service: None };
    let answer = ask(&trusting(), &id, &target("tcp", None)).await.0;
    assert!(!answer.is_well && answer.said.contains("has no port"), "{answer:?}");
}
