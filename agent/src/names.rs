//! The name server of this host: where it listens, what it answers from, whom it asks.
//!
//! A zone is made from each snapshot, at the cost of what changed, and swapped; a snapshot that is overtaken while its zone is
//! made is skipped. It listens on the gateway (and its like of IPv6) once that address is there, or where `--dns-listen` says, and tries
//! again what could not be bound.

mod why;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_api::{DnsAnswer, DnsRecord};
use weft_dns::hickory_proto::op::Message;
use weft_dns::hickory_proto::rr::{Name, Record, RecordType};
use weft_dns::{Maker, Metrics, Next, Question, Server, Zone, resolv_conf_servers};
use weft_model::ids::NetworkName;
use weft_model::ids::Revision;
use weft_model::snapshot::Snapshot;
use weft_plan::ipam;

use crate::config::Settings;
use crate::network_names;
use crate::networks::Known;
use crate::reconcile::Report;
use crate::refusal::Refusal;
use crate::view::View;

/// How long to wait before a listener that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often resolv.conf is looked at.
const RESOLV_CONF_PAUSE: Duration = Duration::from_secs(5);

/// The name server.
pub struct Names {
    server: Server,
    state: Mutex<State>,
    /// Those that the settings name.
    upstreams: Vec<SocketAddr>,
    zone: watch::Receiver<Option<Arc<Zone>>>,
    shutdown: CancellationToken,
}

/// How far a question goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To the servers that this host asks about other names, as those of its containers do.
    Others,
    /// No farther than the cluster's zone: for who is not on this host, and so does not get at what its resolver gets at.
    Zone,
}

#[derive(Clone, Debug, Default)]
struct State {
    listening: Vec<SocketAddr>,
    problems: Vec<String>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Names {
    /// Starts it. It answers nothing before the first snapshot.
    pub fn start(
        settings: &Settings,
        view: View,
        (report, networks): (watch::Receiver<Report>, watch::Receiver<Arc<Known>>),
        registry: &mut Registry,
    ) -> Arc<Self> {
        let metrics = Metrics::default();
        metrics.register(registry);
        let (zone_tx, zone) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let upstreams = if settings.dns_upstream.is_empty() { system_upstreams() } else { settings.dns_upstream.clone() };
        let server = Server::start(zone.clone(), &upstreams, metrics.clone(), &shutdown);
        let explicit = settings.dns_upstream.clone();
        let upstreams_now = move || if explicit.is_empty() { system_upstreams() } else { explicit.clone() };
        tokio::spawn(network_names::run(view.clone(), networks, upstreams_now, metrics.clone(), shutdown.clone()));
        let names = Arc::new(Self { server, state: Mutex::default(), upstreams: settings.dns_upstream.clone(), zone, shutdown });
        tokio::spawn(make_zones(view, zone_tx, metrics));
        tokio::spawn(names.clone().listen(settings.dns_listen.clone(), report));
        if settings.dns_upstream.is_empty() {
            tokio::spawn(names.clone().follow_resolv_conf(upstreams));
        }
        names
    }

    /// What this host's name server answers. The PTR of an address is asked by its reverse name.
    ///
    /// # Errors
    /// The name or the type is none.
    pub async fn query(&self, name: &str, kind: &str, reach: Reach) -> Result<DnsAnswer, Refusal> {
        let (name, record_type) = question(name, kind)?;
        Ok(self.answer(name, record_type, reach).await)
    }

    async fn answer(&self, name: Name, record_type: RecordType, reach: Reach) -> DnsAnswer {
        if reach == Reach::Others {
            let message = self.server.query(name.clone(), record_type).await;
            return answer(&name, record_type, &message);
        }
        let message = self.server.query_zone(name.clone(), record_type).await;
        let question = Question { name: name.clone(), record_type };
        let forward = self.server.zone().and_then(|zone| match zone.answer(&question).next {
            Next::Done => None,
            Next::Forward => Some(name.to_string()),
            Next::Resolve(target) => Some(target.to_string()),
        });
        DnsAnswer { forward, ..answer(&name, record_type, &message) }
    }

    /// The store's revision that names are answered by; 0 before there are any.
    pub fn revision(&self) -> Revision {
        self.zone.borrow().as_ref().map(|zone| zone.revision()).unwrap_or_default()
    }

    /// What could not be done.
    pub fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    /// Where it answers.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.lock().listening.clone()
    }

    /// The servers that names outside are asked of.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        if self.upstreams.is_empty() { system_upstreams() } else { self.upstreams.clone() }
    }

    /// Stops answering.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        self.server.close().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens where it should, from when it can.
    async fn listen(self: Arc<Self>, explicit: Vec<SocketAddr>, mut report: watch::Receiver<Report>) {
        loop {
            let gateways = {
                let report = report.borrow_and_update();
                let v4 = report.subnet.map(|subnet| IpAddr::V4(ipam::gateway(subnet)));
                [v4, report.subnet6.map(|subnet| IpAddr::V6(ipam::gateway6(subnet)))]
            };
            let own = gateways.into_iter().flatten().map(|address| SocketAddr::new(address, 53));
            let wanted: Vec<SocketAddr> = if explicit.is_empty() { own.collect() } else { explicit.clone() };
            let errors = self.server.set_listen(&wanted).await;
            let listening = self.server.listening().await;
            let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let retry = !problems.is_empty();
            {
                let mut state = self.lock();
                for problem in problems.iter().filter(|p| !state.problems.contains(p)) {
                    warn!(problem, "dns");
                }
                if state.listening != listening {
                    info!(?listening, "dns answers");
                }
                *state = State { listening, problems };
            }
            tokio::select! {
                Ok(()) = report.changed() => {}
                () = tokio::time::sleep(RETRY), if retry => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    /// Name servers of the system change with its network.
    async fn follow_resolv_conf(self: Arc<Self>, mut last: Vec<SocketAddr>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RESOLV_CONF_PAUSE) => {}
                () = self.shutdown.cancelled() => return,
            }
            let now = system_upstreams();
            if now != last {
                info!(upstreams = ?now, "name servers of resolv.conf changed");
                self.server.set_upstreams(&now);
                last = now;
            }
        }
    }
}

/// The name servers of /etc/resolv.conf, or those behind systemd-resolved's stub, which would not be reached from elsewhere.
fn system_upstreams() -> Vec<SocketAddr> {
    let behind_stub = Path::new("/run/systemd/resolve/resolv.conf");
    let read = |path: &Path| std::fs::read_to_string(path).map(|text| resolv_conf_servers(&text)).unwrap_or_default();
    let servers = read(Path::new("/etc/resolv.conf"));
    let only_stub = !servers.is_empty() && servers.iter().all(|s| s.ip() == IpAddr::from([127, 0, 0, 53]));
    if only_stub && behind_stub.exists() { read(behind_stub) } else { servers }
}

async fn make_zones(mut view: View, zone: watch::Sender<Option<Arc<Zone>>>, metrics: Metrics) {
    let mut maker = Maker::new(NetworkName::default_network());
    loop {
        let snapshot = view.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let begun = Instant::now();
            maker = match make(maker, snapshot).await {
                Ok((maker, made)) => {
                    metrics.zone_built(begun.elapsed());
                    zone.send_replace(Some(made));
                    maker
                }
                Err(e) => {
                    warn!(error = %e, "zone not made; the last one goes on");
                    Maker::new(NetworkName::default_network())
                }
            };
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Has the next zone made, off the threads that answer: the first one takes time by all that there is.
///
/// # Errors
/// The maker panicked, and is gone.
pub async fn make(mut maker: Maker, snapshot: Arc<Snapshot>) -> Result<(Maker, Arc<Zone>), tokio::task::JoinError> {
    let work = move || {
        let (zone, _) = maker.update(&snapshot);
        (maker, zone)
    };
    tokio::task::spawn_blocking(work).await
}

/// What is asked for: the reverse name, if it is the PTR of an address.
fn question(name: &str, kind: &str) -> Result<(Name, RecordType), Refusal> {
    let record_type: RecordType =
        kind.to_ascii_uppercase().parse().map_err(|_| Refusal::invalid(format!("dns query: {kind:?} is no record type")))?;
    let mut parsed = match name.parse::<IpAddr>() {
        Ok(address) if record_type == RecordType::PTR => Name::from(address.to_canonical()),
        _ => Name::from_utf8(name).map_err(|e| Refusal::invalid(format!("dns query: {name:?} is no name: {e}")))?.to_lowercase(),
    };
    parsed.set_fqdn(true);
    Ok((parsed, record_type))
}

fn answer(name: &Name, record_type: RecordType, message: &Message) -> DnsAnswer {
    let records = |section: &[Record]| section.iter().map(record).collect();
    DnsAnswer {
        name: name.to_string(),
        kind: record_type.to_string(),
        rcode: rcode_name(message),
        authoritative: message.metadata.authoritative,
        answers: records(&message.answers),
        authority: records(&message.authorities),
        additional: records(&message.additionals),
        forward: None,
    }
}

fn rcode_name(message: &Message) -> String {
    use weft_dns::hickory_proto::op::ResponseCode;
    match message.metadata.response_code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

fn record(record: &Record) -> DnsRecord {
    DnsRecord {
        name: record.name.to_string(),
        ttl: record.ttl,
        kind: record.record_type().to_string(),
        data: record.data.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ptr_of_an_address_is_asked_by_its_reverse_name() {
        let asked = |name: &str, kind: &str| question(name, kind).map(|(name, _)| name.to_ascii()).ok();
        for (name, kind, want) in [
            ("10.244.9.4", "PTR", "4.9.244.10.in-addr.arpa."),
            ("10.244.9.4", "ptr", "4.9.244.10.in-addr.arpa."),
            ("::ffff:10.244.9.4", "PTR", "4.9.244.10.in-addr.arpa."),
            ("4.9.244.10.IN-ADDR.arpa", "PTR", "4.9.244.10.in-addr.arpa."),
            ("10.244.9.4", "A", "10.244.9.4."),
        ] {
            assert_eq!(asked(name, kind).as_deref(), Some(want), "{name} {kind}");
        }
        let six = asked("fd57::7", "PTR").unwrap_or_default();
        assert!(six.starts_with("7.0.0.") && six.ends_with(".7.5.d.f.ip6.arpa."), "{six}");
        assert_eq!(asked("web", "NOTYPE"), None);
    }
}
