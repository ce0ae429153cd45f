//! `GET /metrics` for Prometheus, on `--metrics-listen`.
//!
//! Gauges are filled from the agent's status at each scrape, so they cannot disagree with `netctl status`; counters of the
//! reconcile loop and of the datapath count by themselves.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, info};
use weft_abi::{Counter as Counted, Verdict};
use weft_model::snapshot::Snapshot;

use crate::admin::Admin;
use crate::config::MetricsListen;
use crate::datapath::{self, Shared};

/// Counters that the agent's loops keep.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Runs of the reconcile loop.
    pub reconciles: Counter,
    /// Changes made to the kernel.
    pub actions: Family<OutcomeLabel, Counter>,
    store_connected: Gauge,
    store_away: Gauge,
    store_revision: Gauge,
    applied_revision: Gauge,
    ready: Gauge,
    peers: Gauge,
    attachments: Gauge,
    bad_values: Gauge,
    watchers: Gauge,
    verdict_packets: Family<VerdictLabel, Gauge>,
    verdict_bytes: Family<VerdictLabel, Gauge>,
}

/// How a change to the kernel went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `done` or `failed`.
    pub outcome: &'static str,
}

/// A verdict of the datapath.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        let agent = registry.sub_registry_with_prefix("weft_agent");
        agent.register("reconciles", "Runs of the reconcile loop", self.reconciles.clone());
        agent.register("actions", "Changes made to the kernel, by outcome", self.actions.clone());
        agent.register("store_connected", "1 while the store answers", self.store_connected.clone());
        agent.register_with_unit(
            "store_away",
            "For how long the store has not answered, so how old all that is told may be; 0 while it answers",
            Unit::Seconds,
            self.store_away.clone(),
        );
        agent.register("store_revision", "Revision of the store that the agent has read", self.store_revision.clone());
        agent.register("applied_revision", "Revision that the kernel follows", self.applied_revision.clone());
        agent.register("ready", "1 while containers can be attached", self.ready.clone());
        agent.register("peers", "Other hosts", self.peers.clone());
        agent.register("attachments", "Containers attached to this host", self.attachments.clone());
        agent.register("bad_values", "Values in the store that do not parse", self.bad_values.clone());
        agent.register("watchers", "Open streams of GET /v1/watch, of which there may be 128", self.watchers.clone());
        let datapath = registry.sub_registry_with_prefix("weft_datapath");
        datapath.register(
            "packets",
            "Packets and socket calls by verdict, since the maps were made",
            self.verdict_packets.clone(),
        );
        datapath.register("bytes", "Bytes by verdict, since the maps were made", self.verdict_bytes.clone());
    }

    async fn fill(&self, admin: &Admin) {
        let status = admin.status();
        self.store_connected.set(i64::from(status.store.connected));
        let away = admin.health.borrow().away.as_ref().map_or(0, |(_, since)| since.elapsed().as_secs());
        self.store_away.set(i64::try_from(away).unwrap_or(i64::MAX));
        self.store_revision.set(status.store.revision.0);
        self.applied_revision.set(status.applied.0);
        self.ready.set(i64::from(status.ready));
        self.peers.set(i64::try_from(status.peers.len()).unwrap_or(i64::MAX));
        self.attachments.set(i64::try_from(status.attachments).unwrap_or(i64::MAX));
        // Not the status's, which are the first few.
        self.bad_values.set(admin.view.borrow().as_deref().map_or(0, bad_values));
        let watchers = admin.watchers.load(std::sync::atomic::Ordering::Relaxed);
        self.watchers.set(i64::try_from(watchers).unwrap_or(i64::MAX));
        for (verdict, counter) in counters(admin.datapath.clone()).await {
            let label = VerdictLabel { verdict: Verdict::as_str(verdict) };
            self.verdict_packets.get_or_create(&label).set(i64::try_from(counter.packets).unwrap_or(i64::MAX));
            self.verdict_bytes.get_or_create(&label).set(i64::try_from(counter.bytes).unwrap_or(i64::MAX));
        }
    }
}

/// How many values in the store do not parse.
fn bad_values(snapshot: &Snapshot) -> i64 {
    i64::try_from(snapshot.bad().count()).unwrap_or(i64::MAX)
}

/// Packets by verdict. While the datapath is being changed its lock is held, which may take long: others run meanwhile.
async fn counters(datapath: Shared) -> BTreeMap<Verdict, Counted> {
    let read = tokio::task::spawn_blocking(move || datapath::lock(&datapath).counters());
    read.await.unwrap_or_default()
}

/// Serves until the process ends. An address in use is tried again; `reason` says so meanwhile.
pub async fn serve(
    listen: MetricsListen,
    admin: Arc<Admin>,
    metrics: Metrics,
    registry: Registry,
    reason: watch::Sender<Option<String>>,
) {
    let MetricsListen::On(address) = listen else { return };
    let registry = Arc::new(registry);
    let listener = bind(address, &reason).await;
    info!(%address, "metrics");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (admin, metrics, registry) = (admin.clone(), metrics.clone(), registry.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request: Request<Incoming>| {
                let (admin, metrics, registry) = (admin.clone(), metrics.clone(), registry.clone());
                async move { Ok::<_, Infallible>(answer(&request, &admin, &metrics, &registry).await) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            if let Err(e) = server.serve_connection(TokioIo::new(stream), service).await {
                debug!(error = %e, "connection for metrics");
            }
        });
    }
}

async fn bind(address: SocketAddr, reason: &watch::Sender<Option<String>>) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                reason.send_replace(None);
                return listener;
            }
            Err(e) => {
                reason.send_replace(Some(format!("metrics: listen on {address}: {e}; free it, or set --metrics-listen")));
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }
}

async fn answer(request: &Request<Incoming>, admin: &Admin, metrics: &Metrics, registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = String::new();
    let status = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            metrics.fill(admin).await;
            // Writing to a String does not fail.
            let _ = prometheus_client::encoding::text::encode(&mut text, registry);
            StatusCode::OK
        }
        _ => {
            text.push_str("GET /metrics\n");
            StatusCode::NOT_FOUND
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use weft_model::ids::Revision;
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;
    use crate::datapath::Fast;

    #[test]
    fn all_bad_values_are_counted() {
        let entry = |n: i64| Entry {
            key: format!("/weft/v1/services/default/s{n}").into(),
            value: b"{".into(),
            lease: None,
            created: Revision(n),
            modified: Revision(n),
        };
        let snapshot = Snapshot::complete(Arc::new(Layout::default()), Revision(9), (1..=250).map(entry).collect(), None);
        assert_eq!(bad_values(&snapshot), 250);
    }

    /// On one thread: whoever waited for the lock there would wait for ever.
    #[tokio::test]
    async fn others_run_while_the_datapath_is_being_changed() {
        let datapath: Shared = Arc::new(Mutex::new(Fast::new(Err("none".to_owned()))));
        let (locked, is_locked) = tokio::sync::oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel();
        let held = datapath.clone();
        let changing = std::thread::spawn(move || {
            let guard = datapath::lock(&held);
            locked.send(()).unwrap();
            let end = ended.recv();
            drop(guard);
            end
        });
        is_locked.await.unwrap();
        let scrape = tokio::spawn(counters(datapath));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!scrape.is_finished());
        end.send(()).unwrap();
        assert_eq!(scrape.await.unwrap(), BTreeMap::new());
        changing.join().unwrap().unwrap();
    }
}
