//! What the name server counts. One value, cloned into whatever counts; the agent registers it once.
//!
//! Labels come from fixed lists, so that no client can make them grow.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::zone::Zone;

/// The counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    queries: Family<Query, Counter>,
    duration: Family<Source, Histogram, fn() -> Histogram>,
    forwarded: Family<Forward, Counter>,
    dropped: Family<Drop, Counter>,
    tcp_connections: Gauge,
    zone_revision: Gauge,
    zone_names: Gauge,
    zone_records: Gauge,
    zone_skipped: Gauge,
    zone_build: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Query {
    proto: &'static str,
    r#type: &'static str,
    rcode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Forward {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Drop {
    reason: &'static str,
}

/// 20 us to about 5 s.
fn buckets() -> Histogram {
    Histogram::new([20e-6, 50e-6, 100e-6, 250e-6, 1e-3, 5e-3, 20e-3, 100e-3, 0.5, 2.0, 5.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            queries: Family::default(),
            duration: Family::new_with_constructor(buckets),
            forwarded: Family::default(),
            dropped: Family::default(),
            tcp_connections: Gauge::default(),
            zone_revision: Gauge::default(),
            zone_names: Gauge::default(),
            zone_records: Gauge::default(),
            zone_skipped: Gauge::default(),
            zone_build: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers everything under `weft_dns_`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weft_dns");
        r.register("queries", "Questions answered, by transport, type and code", self.queries.clone());
        r.register_with_unit(
            "query_duration",
            "Time from a question to its answer, from memory or from upstream servers",
            Unit::Seconds,
            self.duration.clone(),
        );
        r.register("forwarded", "Questions asked of upstream servers, by outcome", self.forwarded.clone());
        r.register("dropped", "Questions and connections refused for want of room", self.dropped.clone());
        r.register("tcp_connections", "Open TCP connections of clients", self.tcp_connections.clone());
        r.register("zone_revision", "The store's revision that answers come from", self.zone_revision.clone());
        r.register("zone_names", "Names that exist, inner ones included", self.zone_names.clone());
        r.register("zone_records", "Records that are answered from", self.zone_records.clone());
        r.register("zone_skipped_records", "Records with something that cannot be said in DNS", self.zone_skipped.clone());
        r.register_with_unit("zone_build", "How long making the last zone took", Unit::Seconds, self.zone_build.clone());
    }

    /// How long the agent took to make a zone.
    pub fn zone_built(&self, took: Duration) {
        self.zone_build.set(took.as_secs_f64());
    }

    pub(crate) fn answered(&self, proto: &'static str, record_type: Option<RecordType>, rcode: ResponseCode) {
        let labels = Query { proto, r#type: type_label(record_type), rcode: rcode_label(rcode) };
        self.queries.get_or_create(&labels).inc();
    }

    pub(crate) fn took(&self, source: &'static str, took: Duration) {
        self.duration.get_or_create(&Source { source }).observe(took.as_secs_f64());
    }

    pub(crate) fn forwarded(&self, outcome: &'static str) {
        self.forwarded.get_or_create(&Forward { outcome }).inc();
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&Drop { reason }).inc();
    }

    /// Counts a connection until what is returned is dropped.
    pub(crate) fn tcp_connection(&self) -> impl Sized + use<> {
        struct Open(Gauge);
        impl std::ops::Drop for Open {
            fn drop(&mut self) {
                self.0.dec();
            }
        }
        self.tcp_connections.inc();
        Open(self.tcp_connections.clone())
    }

    pub(crate) fn zone(&self, zone: &Zone) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.zone_revision.set(zone.revision().0);
        self.zone_names.set(gauge(zone.names()));
        self.zone_records.set(gauge(zone.records()));
        self.zone_skipped.set(gauge(zone.skipped()));
    }
}

fn type_label(record_type: Option<RecordType>) -> &'static str {
    match record_type {
        None => "none",
        Some(RecordType::A) => "A",
        Some(RecordType::AAAA) => "AAAA",
        Some(RecordType::SRV) => "SRV",
        Some(RecordType::TXT) => "TXT",
        Some(RecordType::CNAME) => "CNAME",
        Some(RecordType::MX) => "MX",
        Some(RecordType::NS) => "NS",
        Some(RecordType::SOA) => "SOA",
        Some(RecordType::PTR) => "PTR",
        Some(RecordType::HTTPS) => "HTTPS",
        Some(RecordType::SVCB) => "SVCB",
        Some(RecordType::ANY) => "ANY",
        Some(_) => "other",
    }
}

fn rcode_label(rcode: ResponseCode) -> &'static str {
    match rcode {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS | ResponseCode::BADSIG => "BADVERS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_that_dashboards_rely_on() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.answered("udp", Some(RecordType::A), ResponseCode::NoError);
        metrics.answered("tcp", Some(RecordType::Unknown(4711)), ResponseCode::Unknown(77));
        metrics.forwarded("answered");
        metrics.took("zone", Duration::from_micros(30));
        let open = metrics.tcp_connection();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"weft_dns_queries_total{proto="udp",type="A",rcode="NOERROR"} 1"#,
            r#"weft_dns_queries_total{proto="tcp",type="other",rcode="other"} 1"#,
            r#"weft_dns_forwarded_total{outcome="answered"} 1"#,
            r#"weft_dns_query_duration_seconds_count{source="zone"} 1"#,
            "weft_dns_tcp_connections 1",
            "weft_dns_zone_revision 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        drop(open);
        assert_eq!(metrics.tcp_connections.get(), 0);
    }
}
