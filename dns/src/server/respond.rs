//! From one message to the reply: which questions are answered at all, by whom, and with which flags.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use tracing::{debug, trace};

use super::fit::fit;
use crate::forward::Forwarder;
use crate::metrics::Metrics;
use crate::zone::{Next, Question, Zone};

/// The largest UDP message that is sent and asked for: fits every path without fragments (DNS flag day 2020).
const MAX_UDP: u16 = 1232;
/// What a client takes that says nothing (RFC 1035 section 4.2.1).
const MIN_UDP: u16 = 512;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
    /// From this process.
    Local,
}

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Local => "local",
        }
    }
}

/// What all sockets share.
pub(super) struct Responder {
    zone: ArcSwapOption<Zone>,
    pub(super) forward: Forwarder,
    pub(super) metrics: Metrics,
    /// Turns the order of addresses with every answer.
    turn: AtomicUsize,
}

impl Responder {
    pub(super) fn new(upstreams: &[std::net::SocketAddr], metrics: Metrics) -> Self {
        Self {
            zone: ArcSwapOption::empty(),
            forward: Forwarder::new(upstreams, metrics.clone()),
            metrics,
            turn: AtomicUsize::new(0),
        }
    }

    /// No zone changes nothing: what is known stays known.
    pub(super) fn set_zone(&self, zone: Option<Arc<Zone>>) {
        if let Some(zone) = zone {
            self.metrics.zone(&zone);
            debug!(revision = %zone.revision(), names = zone.names(), "answering from a new zone");
            self.zone.store(Some(zone));
        }
    }

    pub(super) fn zone(&self) -> Option<Arc<Zone>> {
        self.zone.load_full()
    }

    /// The reply to a message with this header, these questions and this OPT record, cut to what the transport takes.
    pub(super) async fn respond(
        &self,
        asked: &Metadata,
        queries: Vec<Query>,
        edns: Option<&Edns>,
        transport: Transport,
    ) -> Message {
        let begin = Instant::now();
        let mut reply = Message::response(asked.id, asked.op_code);
        reply.metadata = Metadata::response_from_request(asked);
        reply.metadata.recursion_available = true;
        reply.queries = queries;
        let room = edns.map_or(MIN_UDP, |e| e.max_payload().clamp(MIN_UDP, MAX_UDP));
        let limit = if transport == Transport::Udp { room } else { u16::MAX };
        if let Some(edns) = edns {
            let mut own = Edns::new();
            // hickory-server takes what stands here for what the client can take, so over UDP both must be the same.
            own.set_max_payload(if transport == Transport::Udp { room } else { MAX_UDP });
            own.set_version(0);
            own.set_dnssec_ok(edns.flags().dnssec_ok);
            reply.set_edns(own);
        }
        let source = self.fill(&mut reply, asked, edns).await;
        fit(&mut reply, usize::from(limit));

        let question = reply.queries.first();
        let record_type = question.map(Query::query_type);
        self.metrics.answered(transport.as_str(), record_type, reply.metadata.response_code);
        self.metrics.took(source, begin.elapsed());
        if let Some(question) = question {
            trace!(name = %question.name(), record_type = %question.query_type(), rcode = %reply.metadata.response_code, "answered");
        }
        reply
    }

    /// Fills in code and sections. Returns who knew.
    async fn fill(&self, reply: &mut Message, asked: &Metadata, edns: Option<&Edns>) -> &'static str {
        const OURS: &str = "zone";
        let refusal = |code| (code, OURS);
        let (code, source) = 'code: {
            if edns.is_some_and(|e| e.version() > 0) {
                break 'code refusal(ResponseCode::BADVERS);
            }
            if asked.op_code != OpCode::Query {
                break 'code refusal(ResponseCode::NotImp);
            }
            let [query] = &*reply.queries else {
                break 'code refusal(ResponseCode::FormErr);
            };
            let question = Question { name: query.name().clone(), record_type: query.query_type() };
            if query.query_class() != DNSClass::IN {
                break 'code refusal(ResponseCode::Refused);
            }
            match question.record_type {
                RecordType::AXFR | RecordType::IXFR => break 'code refusal(ResponseCode::Refused),
                RecordType::OPT | RecordType::TSIG | RecordType::ZERO => break 'code refusal(ResponseCode::FormErr),
                _ => {}
            }
            let Some(zone) = self.zone() else {
                break 'code refusal(ResponseCode::ServFail);
            };
            let answer = zone.answer(&question);
            drop(zone);
            match answer.next {
                Next::Done => {
                    reply.metadata.authoritative = answer.authoritative;
                    reply.answers = answer.answers;
                    reply.authorities = answer.authority;
                    reply.additionals = answer.additional;
                    self.turn(&mut reply.answers);
                    (answer.rcode, OURS)
                }
                // Who asks for no recursion wants to know what we know ourselves.
                Next::Forward if !asked.recursion_desired => refusal(ResponseCode::Refused),
                Next::Forward => (self.forward(reply, &question).await, "upstream"),
                Next::Resolve(target) => {
                    reply.metadata.authoritative = answer.authoritative;
                    reply.answers = answer.answers;
                    if !asked.recursion_desired {
                        break 'code (answer.rcode, OURS);
                    }
                    let question = Question { name: target, record_type: question.record_type };
                    (self.forward(reply, &question).await, "upstream")
                }
            }
        };
        reply.metadata.response_code = code;
        source
    }

    /// Appends what others say about a name. The code of a chain is that of its end (RFC 6604).
    async fn forward(&self, reply: &mut Message, question: &Question) -> ResponseCode {
        match self.forward.ask(&question.name, question.record_type).await {
            Ok(said) => {
                // The cache spells the name as whoever asked first did.
                reply.answers.extend(said.answers.into_iter().map(|mut record| {
                    if record.name == question.name {
                        record.name.clone_from(&question.name);
                    }
                    record
                }));
                reply.authorities.extend(said.authority);
                reply.additionals.extend(said.additional);
                said.rcode
            }
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "name could not be asked for");
                reply.metadata.authoritative = false;
                reply.answers.clear();
                ResponseCode::ServFail
            }
        }
    }

    /// Turns the addresses at the end, so that clients that take the first are spread. A chain before them stays first.
    fn turn(&self, answers: &mut [Record]) {
        let is_address = |r: &Record| matches!(r.record_type(), RecordType::A | RecordType::AAAA);
        let chain = answers.iter().take_while(|r| !is_address(r)).count();
        if let Some(addresses) = answers.get_mut(chain..)
            && addresses.len() > 1
            && addresses.iter().all(is_address)
        {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(by);
        }
    }
}

/// Where a reply must never go: nobody can have sent from there.
pub(super) fn can_be_answered(from: std::net::SocketAddr) -> bool {
    from.port() != 0 && !from.ip().is_unspecified() && from.ip() != Ipv4Addr::BROADCAST
}
