//! An HTTP server on a UNIX socket that answers as an agent would: for what `netctl` does with answers, not for what an agent
//! does. Runs on a thread of its own until it is dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// What was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `GET /v1/dns/query?name=…`
    pub line: String,
    /// JSON; null where there was no body.
    pub body: Value,
}

/// The server.
pub struct Server {
    socket: PathBuf,
    _dir: Option<TempDir>,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What comes back: a status and a body; or nothing, ever.
pub type Answer = Option<(u16, Value)>;

impl Server {
    /// Starts one.
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self::start_at(dir.path().join("weft.sock"), answer);
        server._dir = Some(dir);
        server
    }

    /// Starts one at a path that is already being asked for.
    pub fn start_at(socket: PathBuf, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let log = Arc::clone(&requests);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(UnixListener::from_std(listener).unwrap(), log, Arc::new(answer)) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { socket, _dir: None, requests, stop: Some(stop), thread: Some(thread) }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// What has been asked so far.
    pub fn lines(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|r| r.line.clone()).collect()
    }

    /// `netctl` with this socket, and nothing of the tester's environment that changes what it prints.
    pub fn netctl(&self) -> Command {
        netctl(&self.socket())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `netctl` with a socket.
pub fn netctl(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netctl"));
    command.env_remove("WEFT_SOCKET").arg("--socket").arg(socket);
    command
}

async fn serve<F>(listener: UnixListener, log: Arc<Mutex<Vec<Request>>>, answer: Arc<F>)
where
    F: Fn(&Request) -> Answer + Send + Sync + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                async move {
                    let line = format!("{} {}", request.method(), request.uri());
                    let body = request.into_body().collect().await?.to_bytes();
                    let request = Request { line, body: serde_json::from_slice(&body).unwrap_or_default() };
                    log.lock().unwrap().push(request.clone());
                    match answer(&request) {
                        Some((status, value)) => {
                            let body = Full::new(Bytes::from(value.to_string()));
                            Ok::<_, hyper::Error>(Response::builder().status(status).body(body).unwrap())
                        }
                        None => std::future::pending().await,
                    }
                }
            });
            // A client that goes away is part of some tests.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
