//! Clients and upstream servers on loopback.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::runtime::{Time, TokioRuntimeProvider};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_dns::{Metrics, Server, Zone};

/// Longer than anything here takes, and shorter than a person's patience.
pub const LONG: Duration = Duration::from_secs(20);

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Some port of an address of loopback that no other test has, for those that take a port again after it was free.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let [.., a, b] = std::process::id().to_be_bytes();
    let c = u8::try_from(NEXT.fetch_add(1, Ordering::SeqCst)).unwrap();
    SocketAddr::from(([127, a | 0x80, b, c], 0))
}

/// A server on some port of loopback, and the sender of its zones.
pub async fn serving(zone: Option<Zone>, upstreams: &[SocketAddr]) -> (Server, SocketAddr, watch::Sender<Option<Arc<Zone>>>) {
    let (sender, receiver) = watch::channel(zone.map(Arc::new));
    let server = Server::start(receiver, upstreams, Metrics::default(), &CancellationToken::new());
    let errors = server.set_listen(&[any_port()]).await;
    assert!(errors.is_empty(), "{errors:?}");
    let address = server.listening().await[0];
    (server, address, sender)
}

/// A question with recursion desired.
pub fn question(text: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), record_type));
    message
}

/// The same with an OPT record that offers `payload` bytes.
pub fn question_edns(text: &str, record_type: RecordType, payload: u16) -> Message {
    let mut message = question(text, record_type);
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

/// Asks over UDP; the reply as bytes.
pub async fn udp_bytes(server: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(any_port()).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(message).await.unwrap();
    let mut buffer = vec![0; 65_536];
    let len = tokio::time::timeout(LONG, socket.recv(&mut buffer)).await.ok()?.ok()?;
    buffer.truncate(len);
    Some(buffer)
}

pub async fn udp(server: SocketAddr, message: &Message) -> Message {
    let bytes = udp_bytes(server, &message.to_vec().unwrap()).await.expect("a reply over UDP");
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!(reply.id, message.id);
    reply
}

pub async fn tcp_send(stream: &mut TcpStream, message: &[u8]) {
    let mut out = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    out.extend(message);
    stream.write_all(&out).await.unwrap();
}

/// The next reply; `None` if the server closed the connection.
pub async fn tcp_receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let mut length = [0; 2];
        stream.read_exact(&mut length).await.ok()?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).await.ok()?;
        Some(reply)
    };
    tokio::time::timeout(LONG, read).await.expect("a reply over TCP, or the end")
}

pub async fn tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    tcp_send(&mut stream, &message.to_vec().unwrap()).await;
    let bytes = tcp_receive(&mut stream).await.expect("a reply over TCP");
    Message::from_vec(&bytes).unwrap()
}

/// Waits until `is` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never came to be: {what}"));
}

/// The addresses in an answer section.
pub fn addresses(reply: &Message) -> Vec<String> {
    let address = |r: &Record| match &r.data {
        RData::A(a) => Some(a.0.to_string()),
        RData::AAAA(a) => Some(a.0.to_string()),
        _ => None,
    };
    reply.answers.iter().filter_map(address).collect()
}

/// A real name server for `example.com.` (and for a namesake of our own domain), counting what it is asked.
pub struct Upstream {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    server: hickory_server::Server<Counting>,
}

struct Counting {
    catalog: Catalog,
    asked: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl RequestHandler for Counting {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, to: R) -> ResponseInfo {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.catalog.handle_request::<R, T>(request, to).await
    }
}

/// How many strings the text has that does not fit a datagram.
pub const BIG: usize = 60;

impl Upstream {
    /// One that knows names, and, with no zones, one that refuses all questions.
    pub async fn start(zones: bool) -> Self {
        let mut catalog = Catalog::new();
        for origin in if zones { &["example.com.", "skydns.local."][..] } else { &[] } {
            let origin = name(origin);
            let mut zone =
                InMemoryZoneHandler::<TokioRuntimeProvider>::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
            let below = |label: &str| Name::from_ascii(label).unwrap().append_domain(&origin).unwrap();
            let soa = SOA::new(below("ns"), below("hostmaster"), 1, 3600, 600, 86_400, 60);
            let text = vec!["x".repeat(200); BIG];
            for (at, ttl, data) in [
                (origin.clone(), 60, RData::SOA(soa)),
                (below("www"), 600, RData::A(A(Ipv4Addr::new(192, 0, 2, 80)))),
                (below("www"), 600, RData::A(A(Ipv4Addr::new(192, 0, 2, 81)))),
                (below("go"), 600, RData::CNAME(CNAME(below("www")))),
                (below("big"), 600, RData::TXT(TXT::new(text))),
            ] {
                assert!(zone.upsert_mut(Record::from_rdata(at, ttl, data), 1));
            }
            catalog.upsert(origin.into(), vec![Arc::new(zone)]);
        }
        let asked = Arc::new(AtomicUsize::new(0));
        let mut server = hickory_server::Server::new(Counting { catalog, asked: Arc::clone(&asked) });
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(any_port()).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        server.register_socket(udp);
        server.register_listener(tcp, LONG, 32);
        Self { address, asked, server }
    }

    /// How many questions have come here.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Stops it, and frees its port.
    pub async fn stop(mut self) {
        self.server.shutdown_gracefully().await.unwrap();
    }
}
