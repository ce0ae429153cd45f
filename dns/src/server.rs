//! The zone on the network: sockets, limits, EDNS, truncation, and who is asked about names that are not ours.
//!
//! ```text
//!   udp ── hickory-server ─┐
//!   tcp ── tcp.rs ─────────┼─▶ respond.rs ── Zone::answer ──▶ fit ──▶ client
//!   Server::query ─────────┘        └────── Forwarder ──▶ upstream
//! ```
//!
//! Until there is a zone every question gets SERVFAIL: not to know is not to say "there is none". From then on questions are
//! answered whatever becomes of the store. The zone is swapped without a lock on the way of a question.
//!
//! UDP is hickory-server's. Its TCP side takes connections without bound and spins when the process has no file descriptors
//! left (0.26), which a container could use against the whole agent; so TCP has a loop of its own in `server/tcp.rs`.
//! Read `server/respond.rs` for what is answered, then `server/listen.rs`.

mod fit;
mod listen;
mod respond;
mod tcp;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::metrics::Metrics;
use crate::zone::Zone;

pub use listen::ListenError;
use listen::Listener;
use respond::Responder;

/// A running name server. It stops when its token is cancelled or when it is dropped.
pub struct Server {
    responder: Arc<Responder>,
    /// By the address that was asked for.
    listeners: Mutex<BTreeMap<SocketAddr, Listener>>,
    stop: CancellationToken,
}

impl Server {
    /// Starts a server that listens nowhere yet. Each value that `zone` takes is answered from at once; `None` and a closed
    /// channel change nothing. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        mut zone: watch::Receiver<Option<Arc<Zone>>>,
        upstreams: &[SocketAddr],
        metrics: Metrics,
        shutdown: &CancellationToken,
    ) -> Self {
        let responder = Arc::new(Responder::new(upstreams, metrics));
        responder.set_zone(zone.borrow_and_update().clone());
        let stop = shutdown.child_token();
        let (follower, stopped) = (Arc::clone(&responder), stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    changed = zone.changed() => if changed.is_err() { return },
                }
                let next = zone.borrow_and_update().clone();
                follower.set_zone(next);
            }
        });
        Self { responder, listeners: Mutex::default(), stop }
    }

    /// Listens on these addresses, UDP and TCP, and on no other. What is listened on already is left alone; what is no longer
    /// wanted is closed before this returns. Whoever wants an address that failed calls again.
    ///
    /// Port 0 takes any port that is free for both protocols. Answers of a socket for all addresses (`0.0.0.0`) bear the
    /// source address that the route to the client has.
    pub async fn set_listen(&self, wanted: &[SocketAddr]) -> Vec<ListenError> {
        let mut listeners = self.listeners.lock().await;
        // Ports become free before others are taken.
        let gone: Vec<SocketAddr> =
            listeners.iter().filter(|(a, l)| !wanted.contains(a) || l.has_ended()).map(|(a, _)| *a).collect();
        for address in gone {
            if let Some(listener) = listeners.remove(&address) {
                listener.close().await;
                info!(%address, "stopped listening");
            }
        }
        let mut errors = Vec::new();
        for address in wanted {
            if self.stop.is_cancelled() || listeners.contains_key(address) {
                continue;
            }
            match Listener::open(*address, &self.responder, &self.stop) {
                Ok(listener) => {
                    info!(address = %listener.address(), "answering names");
                    listeners.insert(*address, listener);
                }
                Err(error) => errors.push(error),
            }
        }
        self.responder.forward.set_own(listeners.values().map(Listener::address).collect());
        errors
    }

    /// Where it listens: real addresses, in the order of those that were asked for.
    pub async fn listening(&self) -> Vec<SocketAddr> {
        self.listeners.lock().await.values().filter(|l| !l.has_ended()).map(Listener::address).collect()
    }

    /// Replaces the servers that other names are asked of, and forgets what was cached of the old ones.
    pub fn set_upstreams(&self, upstreams: &[SocketAddr]) {
        self.responder.forward.set_upstreams(upstreams);
    }

    /// The zone that questions are answered from at this moment.
    #[must_use]
    pub fn zone(&self) -> Option<Arc<Zone>> {
        self.responder.zone()
    }

    /// Answers a question as a client over TCP would be answered, without the network in between. A name without its final
    /// dot is taken as if it had one.
    pub async fn query(&self, name: Name, record_type: RecordType) -> Message {
        self.ask(name, record_type, true).await
    }

    /// As [`Server::query`], and nobody else is asked, whatever the name: REFUSED for one that is not ours, and a chain that leads
    /// out of the zone ends there. For who may know what is in the zone and may not have this host ask others for him.
    pub async fn query_zone(&self, name: Name, record_type: RecordType) -> Message {
        self.ask(name, record_type, false).await
    }

    async fn ask(&self, mut name: Name, record_type: RecordType, recursion_desired: bool) -> Message {
        name.set_fqdn(true);
        let mut asked = Message::query();
        asked.metadata.recursion_desired = recursion_desired;
        asked.add_query(Query::query(name, record_type));
        let (metadata, queries) = (asked.metadata, asked.queries);
        self.responder.respond(&metadata, queries, None, respond::Transport::Local).await
    }

    /// Closes all sockets; questions under way get no answer.
    pub async fn close(&self) {
        self.stop.cancel();
        self.set_listen(&[]).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
