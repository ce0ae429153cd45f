//! A routing-netlink socket: one request, its answer, no interpretation.
//!
//! It blocks, and that is honest: the kernel carries a request out inside `send`, under its own lock, so an asynchronous
//! socket would block just the same and only hide it. [`Netlink`](super::Netlink) keeps it off the runtime's threads.
//!
//! Messages are built by rtnetlink; its own connection (0.24, with netlink-proto) is not used, because it passes on neither
//! that a listing was torn (`NLM_F_DUMP_INTR`), which would make rows seem gone, nor the kernel's words for a refusal.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    DecodeError, ErrorBuffer, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkMessage, NlasIterator, parse_i32, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// Receive buffer in bytes. A dump hands over at most 32 KiB at a time (kernel 4.9, commit d35c99ff77ec) and waits for the
/// reader; the rest is room for acknowledgements.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What one `recv` takes at most, in bytes.
const DATAGRAM: usize = 64 << 10;

/// How long an answer may take. It is there when `send` returns; this only keeps a kernel without manners from hanging us.
const PATIENCE_SECONDS: i64 = 30;

/// How often a listing is begun anew because something changed meanwhile.
const TRIES: u32 = 20;

/// The length of `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;

/// Attribute of an error message that holds the kernel's own words (`NLMSGERR_ATTR_MSG`).
const ATTR_MSG: u16 = 1;

/// Why the kernel did not do it.
#[derive(Debug)]
pub struct Answer {
    /// The error number.
    pub errno: io::Error,
    /// The kernel's own words, where it has some.
    pub said: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.said {
            Some(said) => write!(f, "{} ({})", said.trim_end_matches('.'), self.errno),
            None => self.errno.fmt(f),
        }
    }
}

impl std::error::Error for Answer {}

impl Answer {
    /// The error number as such, 0 if there is none.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.errno.raw_os_error().unwrap_or(0)
    }

    fn other(why: impl Into<String>) -> Self {
        Self { errno: io::Error::new(io::ErrorKind::InvalidData, why.into()), said: None }
    }
}

impl From<io::Error> for Answer {
    fn from(errno: io::Error) -> Self {
        Self { errno, said: None }
    }
}

impl From<DecodeError> for Answer {
    fn from(error: DecodeError) -> Self {
        Self::other(error.to_string())
    }
}

/// A socket of one network namespace: the one that the thread was in when it was opened, for ever.
pub(crate) struct Socket {
    raw: RawSocket,
    sequence: u32,
    received: Vec<u8>,
    /// Numbers of devices by name, as far as they were asked for since the last listing. A number is never given to another
    /// device soon, so one that is no longer right is answered by ENODEV.
    pub(super) indexes: BTreeMap<String, u32>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("raw", &self.raw).finish_non_exhaustive()
    }
}

/// How a listing went.
enum Listing {
    Whole,
    /// Something changed while it was read; rows may be missing or doubled.
    Torn,
}

impl Socket {
    /// A socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut raw = RawSocket::new(NETLINK_ROUTE)?;
        raw.bind_auto()?;
        raw.connect(&SocketAddr::new(0, 0))?;
        // Extended errors with text, without our own request repeated; requests for listings checked and filtered by the
        // kernel (4.20).
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        raw.set_netlink_get_strict_chk(true)?;
        grow(raw.as_fd(), RECEIVE_BUFFER)?;
        setsockopt(&raw, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        Ok(Self { raw, sequence: 0, received: Vec::with_capacity(DATAGRAM), indexes: BTreeMap::new() })
    }

    /// Asks for one change and waits for the verdict. `flags` are those beside request and acknowledgement.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Answer> {
        self.send(message, flags | NLM_F_ACK)?;
        self.answers(|_| Ok(())).map(drop)
    }

    /// Asks for one object; `take` gets its message's payload.
    pub(crate) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        take: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), Answer> {
        self.send(message, NLM_F_ACK)?;
        self.answers(take).map(drop)
    }

    /// Lists a table; each object's payload is turned into rows by `read`. A listing that was torn by a change is begun
    /// anew, so what is returned was there at one moment.
    pub(crate) fn list<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        mut read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, Answer> {
        for _ in 0..TRIES {
            self.send(message.clone(), NLM_F_DUMP)?;
            let mut rows = Vec::new();
            let listing = self.answers(|payload| {
                rows.extend(read(payload)?);
                Ok(())
            })?;
            if matches!(listing, Listing::Whole) {
                return Ok(rows);
            }
        }
        Err(Answer::other(format!("the table changed during each of {TRIES} listings")))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        self.sequence = self.sequence.wrapping_add(1);
        message.header.sequence_number = self.sequence;
        message.header.flags = flags | NLM_F_REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.raw.send(&bytes, 0).map(drop)
    }

    /// Reads until the request is answered. A payload that cannot be read is an error of the whole, but only after the rest
    /// has been taken off the socket.
    fn answers(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), DecodeError>) -> Result<Listing, Answer> {
        let mut listing = Listing::Whole;
        let mut fault: Option<DecodeError> = None;
        loop {
            self.received.clear();
            self.received.reserve(DATAGRAM);
            self.raw.recv(&mut self.received, 0)?;
            for message in messages(&self.received) {
                // The answer to a request that was given up earlier.
                if message.sequence_number() != self.sequence {
                    continue;
                }
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    listing = Listing::Torn;
                }
                match message.message_type() {
                    NLMSG_ERROR => {
                        verdict(message.flags(), message.payload())?;
                        return fault.map_or(Ok(listing), |fault| Err(fault.into()));
                    }
                    NLMSG_DONE => {
                        let code = message.payload().get(..size_of::<i32>()).map(parse_i32).transpose()?;
                        if let Some(code @ ..0) = code {
                            return Err(io::Error::from_raw_os_error(-code).into());
                        }
                        return fault.map_or(Ok(listing), |fault| Err(fault.into()));
                    }
                    _ => {
                        if let Err(e) = take(message.payload()) {
                            fault.get_or_insert(e);
                        }
                    }
                }
            }
        }
    }
}

/// The messages of a datagram; what follows a broken header is left.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(rest).ok()?;
        let length = usize::try_from(message.length()).ok().filter(|length| *length >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Reads an error message: `Ok` is an acknowledgement.
fn verdict(flags: u16, payload: &[u8]) -> Result<(), Answer> {
    let error = ErrorBuffer::new_checked(payload)?;
    let Some(code) = error.code() else { return Ok(()) };
    let mut said = None;
    // After the code stands the header of our request; its payload is left out (`NETLINK_CAP_ACK`).
    if flags & NLM_F_ACK_TLVS != 0
        && let Some(attributes) = payload.get(size_of::<i32>() + HEADER..)
    {
        let text = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == ATTR_MSG);
        said = text.and_then(|attribute| parse_string(attribute.value()).ok());
    }
    Err(Answer { errno: io::Error::from_raw_os_error(code.get().saturating_abs()), said })
}

/// Asks for a receive buffer of this size: beyond `net.core.rmem_max` with CAP_NET_ADMIN, up to it without.
pub(crate) fn grow(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    if setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
    }
    Ok(())
}
