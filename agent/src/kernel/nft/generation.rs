//! The kernel's count of nftables transactions in a network namespace, and its word when there was one.
//!
//! Two bytes of protocol in all, so it is spoken by hand: `NFT_MSG_GETGEN` and the group `NFNLGRP_NFTABLES`
//! (include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{NLMSG_ERROR, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::kernel::netlink::{grow, messages};
use crate::kernel::netns::NetNs;

// NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_*.
const NEWGEN: u16 = 10 << 8 | 15;
const GETGEN: u16 = 10 << 8 | 16;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// `NFTA_GEN_ID`, a 32-bit number in network byte order.
const GEN_ID: u16 = 1;

/// Lengths of `struct nlmsghdr` and `struct nfgenmsg`, in bytes.
const HEADER: usize = 16;
const GENMSG: usize = 4;

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;

/// What one `recv` takes at most, in bytes.
const DATAGRAM: usize = 64 << 10;

/// Receive buffer of the listener in bytes; what is lost beyond it counts as a change.
const RECEIVE_BUFFER: usize = 1 << 20;

/// How often a listener whose socket is broken says that there may have been a change.
const BROKEN: Duration = Duration::from_secs(1);

/// How long an answer may take. It is there when `send` returns; this only keeps a kernel without manners from hanging us.
const PATIENCE_SECONDS: i64 = 30;

/// A socket that the count is asked by.
#[derive(Debug)]
pub struct Generation {
    socket: RawSocket,
    sequence: u32,
}

impl Generation {
    /// Opens the socket, in the namespace or where the calling thread is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(netns: Option<&NetNs>) -> io::Result<Self> {
        let open = || -> io::Result<RawSocket> {
            let mut socket = RawSocket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
            Ok(socket)
        };
        let socket = visit(netns, open)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The count of transactions.
    ///
    /// # Errors
    /// When the kernel has no nftables, or does not let us ask.
    pub fn read(&mut self) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = [0_u8; HEADER + GENMSG];
        let length = u32::try_from(request.len()).unwrap_or_default();
        request[0..4].copy_from_slice(&length.to_ne_bytes());
        request[4..6].copy_from_slice(&GETGEN.to_ne_bytes());
        request[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
        request[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(&request, 0)?;
        let mut answer = Vec::with_capacity(DATAGRAM);
        loop {
            answer.clear();
            self.socket.recv(&mut answer, 0)?;
            for message in messages(&answer).filter(|message| message.sequence_number() == self.sequence) {
                match message.message_type() {
                    NEWGEN => return id(message.payload()),
                    NLMSG_ERROR => return Err(refusal(message.payload())),
                    _ => {}
                }
            }
        }
    }
}

fn id(payload: &[u8]) -> io::Result<u32> {
    let attributes = payload.get(GENMSG..).unwrap_or_default();
    let found = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == GEN_ID);
    let bytes = found.and_then(|attribute| <[u8; 4]>::try_from(attribute.value()).ok());
    bytes.map(u32::from_be_bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer holds no number"))
}

/// The error number of an error message, which is negative.
fn refusal(payload: &[u8]) -> io::Error {
    let code = payload.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// A listener for transactions.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<RawSocket>,
    buffer: Vec<u8>,
    broken: bool,
}

impl Changes {
    /// Listens in the namespace, or where the calling thread is, which must be one of the runtime's.
    ///
    /// # Errors
    /// When there can be no socket.
    pub fn new(netns: Option<&NetNs>) -> io::Result<Self> {
        let subscribe = || -> io::Result<RawSocket> {
            let mut socket = RawSocket::new(NETLINK_NETFILTER)?;
            grow(socket.as_fd(), RECEIVE_BUFFER)?;
            socket.bind_auto()?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = visit(netns, subscribe)?;
        // SAFETY: the descriptor is the socket's own: open until the socket, which moves into the `AsyncFd`, is dropped, and
        // always the same number.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM), broken: false })
    }

    /// Returns once there was a transaction and all that was to be read has been read. Giving up waiting loses nothing.
    pub async fn changed(&mut self) {
        let drained = match self.socket.readable().await {
            Ok(mut ready) => {
                let drained = drain(self.socket.get_ref(), &mut self.buffer);
                ready.clear_ready();
                drained
            }
            Err(e) => Err(e),
        };
        if let Err(error) = drained {
            if !std::mem::replace(&mut self.broken, true) {
                warn!(%error, "nftables notifications do not work; polling instead");
            }
            tokio::time::sleep(BROKEN).await;
        }
    }
}

fn drain(socket: &RawSocket, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match socket.recv(buffer, 0) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // More than fit: so there was something.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) || e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn visit<T: Send>(netns: Option<&NetNs>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match netns {
        None => work(),
        Some(netns) => netns.run(work)?,
    }
}
