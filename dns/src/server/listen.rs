//! One address that is listened on: its two sockets, and the task that serves them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use hickory_proto::op::{Header, HeaderCounts, ResponseCode};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::respond::{Responder, Transport};
use super::tcp;

/// What the kernel keeps for us while we are not scheduled, in bytes; it grants less where `net.core.rmem_max` is less.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Connections that wait to be taken.
const BACKLOG: i32 = 128;
/// How often a port that is free for both protocols is looked for.
const TRIES: usize = 16;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}/{proto}: {}", why(.error))]
pub struct ListenError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// `udp` or `tcp`.
    pub proto: &'static str,
    /// What the kernel said; it is part of the message.
    pub error: io::Error,
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "address in use; another name server has it: stop that one, or choose another address with --dns-listen".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this host does not have the address".to_owned(),
        io::ErrorKind::PermissionDenied => "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned(),
        _ => error.to_string(),
    }
}

/// A pair of sockets with their task.
pub(super) struct Listener {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Binds both sockets and serves them until `stop`.
    pub(super) fn open(wanted: SocketAddr, responder: &Arc<Responder>, stop: &CancellationToken) -> Result<Self, ListenError> {
        let (udp, tcp) = bind_both(wanted)?;
        let address = udp.local_addr().unwrap_or(wanted);
        let stop = stop.child_token();
        let task = tokio::spawn(serve(udp, tcp, Arc::clone(responder), stop.clone()));
        Ok(Self { address, stop, task })
    }

    /// Where it really listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether its task is over, for whatever reason.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops it; when this returns, the port is free.
    pub(super) async fn close(self) {
        self.stop.cancel();
        // A task that panicked has dropped its sockets as well.
        let _ = self.task.await;
    }
}

async fn serve(udp: UdpSocket, tcp: TcpListener, responder: Arc<Responder>, stop: CancellationToken) {
    let address = udp.local_addr().ok();
    let mut server = hickory_server::Server::new(Handler { responder: Arc::clone(&responder) });
    server.register_socket(udp);
    tokio::select! {
        () = stop.cancelled() => {}
        () = tcp::serve(tcp, responder) => {}
        ended = server.block_until_done() => {
            let error = ended.err().map(|e| e.to_string()).unwrap_or_default();
            warn!(?address, error, "udp socket ended by itself");
        }
    }
    if let Err(error) = server.shutdown_gracefully().await {
        debug!(?address, %error, "udp socket closed with an error");
    }
}

/// hickory-server's side of a UDP socket.
struct Handler {
    responder: Arc<Responder>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let queries = request.queries.queries().iter().map(|q| q.original().clone()).collect();
        let reply = self.responder.respond(&request.metadata, queries, request.edns.as_ref(), Transport::Udp).await;
        let builder = MessageResponseBuilder::new(&request.queries, reply.edns.as_ref());
        let (none, metadata) = ([], reply.metadata);
        let response = builder.build(metadata, &reply.answers, &reply.authorities, &none, &reply.additionals);
        match to.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, "reply could not be sent");
                let mut metadata = metadata;
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

fn bind_both(wanted: SocketAddr) -> Result<(UdpSocket, TcpListener), ListenError> {
    let mut tries = if wanted.port() == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        let error = |proto: &'static str| move |error: io::Error| ListenError { address: wanted, proto, error };
        let udp = udp_socket(wanted).map_err(error("udp"))?;
        let port = udp.local_addr().map_err(error("udp"))?.port();
        match tcp_socket(SocketAddr::new(wanted.ip(), port)) {
            Ok(tcp) => return Ok((udp, tcp)),
            // The kernel chose a port that is free for UDP only.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(e) => return Err(error("tcp")(e)),
        }
    }
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bound(address, SockType::Datagram)?;
    // A wish: a smaller buffer only drops more in a burst.
    let _ = socket::setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    UdpSocket::from_std(socket.into())
}

fn tcp_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address, SockType::Stream)?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(socket.into())
}

/// A bound socket. One for `::` takes IPv6 only, so that `0.0.0.0` can be listened on beside it.
fn bound(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if address.is_ipv6() {
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        // Connections of the last run that linger must not keep this one from its port. For UDP it would let two servers
        // share one.
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}
