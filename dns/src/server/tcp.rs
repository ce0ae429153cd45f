//! DNS over TCP (RFC 7766), with a bound on everything that a client can make us hold: connections, time and memory.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::serialize::binary::BinEncodable;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, trace, warn};

use super::respond::{Responder, Transport, can_be_answered};

/// Connections of one socket at one time. While there are as many, further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// Connections of one client at one time; more are closed at once, so that no client keeps the others out.
const PER_CLIENT: usize = 32;
/// How long a client may be silent, within a message as well.
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to accept a reply.
const WRITE: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken, as when the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections for ever. Those that are open end when this is dropped.
pub(super) async fn serve(listener: TcpListener, responder: Arc<Responder>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let clients = Arc::new(Clients::default());
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let (stream, from) = match listener.accept().await {
            Ok(taken) => taken,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "tcp connections cannot be taken");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        failing = false;
        let place = Clients::enter(&clients, from.ip());
        let Some(place) = place.filter(|_| can_be_answered(from)) else {
            responder.metrics.dropped("tcp_per_client");
            continue;
        };
        let responder = Arc::clone(&responder);
        connections.spawn(async move {
            let _held = (permit, place, responder.metrics.tcp_connection());
            if let Err(error) = talk(stream, from, &responder).await {
                trace!(client = %from, %error, "tcp connection ended");
            }
        });
    }
}

/// One question after the other, until the client goes or is silent.
async fn talk(mut stream: TcpStream, from: SocketAddr, responder: &Responder) -> io::Result<()> {
    // Length and message go out in one write, and waiting for more would only delay them.
    stream.set_nodelay(true)?;
    loop {
        let mut length = [0; 2];
        timeout(IDLE, stream.read_exact(&mut length)).await??;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        timeout(IDLE, stream.read_exact(&mut question)).await??;
        let Some(reply) = reply(question, from, responder).await else {
            return Ok(());
        };
        timeout(WRITE, stream.write_all(&reply)).await??;
    }
}

/// The reply with its length before it; `None` if the client is owed none, and the connection ends.
async fn reply(question: Vec<u8>, from: SocketAddr, responder: &Responder) -> Option<Vec<u8>> {
    let head: Option<[u8; 12]> = question.first_chunk().copied();
    let message = match Request::from_bytes(question, from, Protocol::Tcp) {
        Ok(request) if request.metadata.message_type == MessageType::Response => return None,
        Ok(request) => {
            let queries = request.queries.queries().iter().map(|q| q.original().clone()).collect();
            responder.respond(&request.metadata, queries, request.edns.as_ref(), Transport::Tcp).await
        }
        Err(error) => {
            debug!(%error, "tcp message does not parse");
            // A message that has a header can be told so. One that claims to be a reply is not replied to.
            let [a, b, flags, ..] = head?;
            if flags & 0x80 != 0 {
                return None;
            }
            let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
            Message::error_msg(u16::from_be_bytes([a, b]), op_code, ResponseCode::FormErr)
        }
    };
    let bytes = message.to_bytes().ok()?;
    let length = u16::try_from(bytes.len()).ok()?;
    let mut out = Vec::with_capacity(bytes.len() + 2);
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Some(out)
}

/// How many connections each client has.
#[derive(Default)]
struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a client, until dropped.
struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    fn enter(this: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut counts = this.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= PER_CLIENT {
            return None;
        }
        *count += 1;
        Some(Place { clients: Arc::clone(this), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let clients = Arc::new(Clients::default());
        let one = IpAddr::from([192, 0, 2, 1]);
        let mut places: Vec<Place> = (0..PER_CLIENT).map(|_| Clients::enter(&clients, one).unwrap()).collect();
        assert!(Clients::enter(&clients, one).is_none());
        assert!(Clients::enter(&clients, IpAddr::from([192, 0, 2, 2])).is_some());
        places.pop();
        places.push(Clients::enter(&clients, one).unwrap());
        drop(places);
        assert!(clients.0.lock().unwrap().is_empty());
    }
}
