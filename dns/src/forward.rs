//! Names that are not ours: asked of the upstream servers, in their order, with hickory's cache in between.
//!
//! Each upstream has a resolver of its own (UDP first, TCP when the reply is cut off, answers cached for their TTL), so that
//! the order is ours: the first that is well is asked first, the next one on silence, refusal or failure, and one that failed
//! is asked last for a while. hickory's own pool of several servers would give up with the first refusal (0.26), and its
//! deadline ends with the first silent server's.
//!
//! Never asked: ourselves. What comes from here is never authoritative.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;

/// How long one server is waited for while there is another one to ask. UDP questions are repeated within it (every 333 ms).
const TRY: Duration = Duration::from_secs(2);
/// How long all servers together are waited for: below the 5 s after which libc gives up on us.
const TOTAL: Duration = Duration::from_millis(4500);
/// How long a server that failed is asked last.
const SICK: Duration = Duration::from_secs(10);
/// Questions under way at one time; more are refused, so that a dead upstream does not fill the memory.
const UNDER_WAY: usize = 1024;
/// Answers kept per upstream.
const CACHED: u64 = 4096;

/// Why a name could not be asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// There is no one to ask.
    #[error("no upstream server; set --dns-upstream")]
    NoUpstream,
    /// Too many questions are under way.
    #[error("{UNDER_WAY} questions are under way")]
    Busy,
    /// Nobody answered in time.
    #[error("upstream servers did not answer in time")]
    Timeout,
    /// The last one failed.
    #[error("upstream {server}")]
    Upstream {
        /// Which one.
        server: SocketAddr,
        /// How.
        #[source]
        source: NetError,
    },
}

/// What others say.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// `NoError` or `NXDomain`.
    pub rcode: ResponseCode,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
}

/// Asks others.
pub(crate) struct Forwarder {
    upstreams: ArcSwap<Vec<Upstream>>,
    /// Where we listen.
    own: ArcSwap<Vec<SocketAddr>>,
    slots: Semaphore,
    begin: Instant,
    metrics: Metrics,
}

struct Upstream {
    address: SocketAddr,
    resolver: TokioResolver,
    /// Until when it is asked last, in milliseconds since `begin`; 0 is well.
    sick_until: AtomicU64,
}

impl Forwarder {
    pub(crate) fn new(upstreams: &[SocketAddr], metrics: Metrics) -> Self {
        let this = Self {
            upstreams: ArcSwap::default(),
            own: ArcSwap::default(),
            slots: Semaphore::new(UNDER_WAY),
            begin: Instant::now(),
            metrics,
        };
        this.set_upstreams(upstreams);
        this
    }

    /// Replaces the upstream servers, with what is cached of them.
    pub(crate) fn set_upstreams(&self, servers: &[SocketAddr]) {
        let mut list: Vec<Upstream> = Vec::with_capacity(servers.len());
        for address in servers {
            if list.iter().any(|u| u.address == *address) {
                continue;
            }
            match resolver(*address) {
                Ok(resolver) => list.push(Upstream { address: *address, resolver, sick_until: AtomicU64::new(0) }),
                Err(error) => warn!(server = %address, %error, "upstream server is left out"),
            }
        }
        self.upstreams.store(Arc::new(list));
    }

    /// Says where we listen, so that we never ask ourselves.
    pub(crate) fn set_own(&self, listening: Vec<SocketAddr>) {
        self.own.store(Arc::new(listening));
    }

    /// Asks the servers, in turn, until one knows.
    pub(crate) async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Forwarded, ForwardError> {
        let result = self.ask_in_turn(name, record_type).await;
        self.metrics.forwarded(match &result {
            Ok(_) => "answered",
            Err(ForwardError::NoUpstream) => "no_upstream",
            Err(ForwardError::Busy) => "busy",
            Err(ForwardError::Timeout) => "timeout",
            Err(ForwardError::Upstream { .. }) => "failed",
        });
        result
    }

    async fn ask_in_turn(&self, name: &Name, record_type: RecordType) -> Result<Forwarded, ForwardError> {
        let _slot = self.slots.try_acquire().map_err(|_| ForwardError::Busy)?;
        let upstreams = self.upstreams.load_full();
        let own = self.own.load_full();
        let mut turns: Vec<&Upstream> = upstreams.iter().filter(|u| !is_own(u.address, &own)).collect();
        let now = self.now();
        turns.sort_by_key(|u| u.sick_until.load(Ordering::Relaxed) > now);
        let deadline = tokio::time::Instant::now() + TOTAL;
        let mut name = name.clone();
        // Otherwise hickory would try its list of search domains.
        name.set_fqdn(true);
        let mut error = ForwardError::NoUpstream;
        let mut left = turns.len();
        for upstream in turns {
            left -= 1;
            let until = if left == 0 { deadline } else { deadline.min(tokio::time::Instant::now() + TRY) };
            let asked = tokio::time::timeout_at(until, upstream.resolver.lookup(name.clone(), record_type)).await;
            let source = match asked {
                Ok(Ok(lookup)) => {
                    self.well(upstream);
                    let message = lookup.message();
                    return Ok(Forwarded {
                        rcode: message.metadata.response_code,
                        answers: message.answers.clone(),
                        authority: message.authorities.clone(),
                        additional: message.additionals.clone(),
                    });
                }
                Ok(Err(source)) => match negative(source) {
                    Ok(none) => {
                        self.well(upstream);
                        return Ok(none);
                    }
                    Err(source) => source,
                },
                Err(_) => NetError::Timeout,
            };
            debug!(server = %upstream.address, error = %source, "upstream server failed");
            self.sick(upstream, &source);
            error = match source {
                NetError::Timeout => ForwardError::Timeout,
                source => ForwardError::Upstream { server: upstream.address, source },
            };
        }
        Err(error)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn well(&self, upstream: &Upstream) {
        if upstream.sick_until.swap(0, Ordering::Relaxed) != 0 {
            info!(server = %upstream.address, "upstream server answers again");
        }
    }

    fn sick(&self, upstream: &Upstream, error: &NetError) {
        let until = self.now().saturating_add(u64::try_from(SICK.as_millis()).unwrap_or(0)).max(1);
        if upstream.sick_until.swap(until, Ordering::Relaxed) == 0 {
            warn!(server = %upstream.address, %error, "upstream server fails; others are asked first");
        }
    }
}

/// A resolver for one server.
fn resolver(server: SocketAddr) -> Result<TokioResolver, NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut c| {
        c.port = server.port();
        c
    });
    let config = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_name_servers(vec![config]);
    let mut options = ResolverOpts::default();
    options.timeout = TRY;
    options.attempts = 1;
    options.cache_size = CACHED;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.num_concurrent_reqs = 1;
    // Connections over TCP are shared by all questions; one of a flood must not find them full.
    options.max_active_requests = UNDER_WAY;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

/// "There is none" is an answer; everything else is a failure.
fn negative(error: NetError) -> Result<Forwarded, NetError> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            let soa = none.soa.map(|soa| soa.into_record_of_rdata());
            Ok(Forwarded {
                rcode: none.response_code,
                answers: Vec::new(),
                authority: soa.into_iter().collect(),
                additional: Vec::new(),
            })
        }
        error => Err(error),
    }
}

/// Whether `server` is one of the addresses we listen on, or is reached through one that stands for all of this host's.
fn is_own(server: SocketAddr, listening: &[SocketAddr]) -> bool {
    let same = |a: IpAddr, b: IpAddr| a.to_canonical() == b.to_canonical();
    listening.iter().any(|own| {
        own.port() == server.port() && (same(own.ip(), server.ip()) || (own.ip().is_unspecified() && is_local(server.ip())))
    })
}

/// Whether an address is this host's own: only then can a socket have it.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// The name servers in the text of a resolv.conf, port 53, in their order. Lines that say nothing to us are passed over, as
/// libc does; so is a link-local address with a zone, which hickory's resolver cannot ask.
#[must_use]
pub fn resolv_conf_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        if let Some(ip) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) {
            let server = SocketAddr::new(ip, 53);
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn resolv_conf_is_read_as_libc_reads_it() {
        let text = "# nameserver 192.0.2.9\nsearch a b\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1  # x\nnameserver x\n\
                    nameserver\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\noptions ndots:5\nnameserverx 192.0.2.3";
        assert_eq!(resolv_conf_servers(text), [addr("192.0.2.1:53"), addr("[2001:db8::1]:53")]);
        assert_eq!(resolv_conf_servers(""), []);
    }

    #[test]
    fn we_are_recognised_on_every_address_that_is_ours() {
        let listening = [addr("10.244.3.1:53"), addr("[::ffff:10.244.4.1]:53"), addr("0.0.0.0:5353")];
        for (server, own) in [
            ("10.244.3.1:53", true),
            ("10.244.4.1:53", true),
            ("10.244.3.1:54", false),
            ("192.0.2.1:53", false),
            ("127.0.0.1:5353", true),
            ("192.0.2.1:5353", false),
        ] {
            assert_eq!(is_own(addr(server), &listening), own, "{server}");
        }
    }
}
