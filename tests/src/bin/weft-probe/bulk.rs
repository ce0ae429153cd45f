//! Much data at once, each byte of which says where it belongs: so that what is lost, cut or mixed up on the way is seen.
//!
//! A datagram (or segment, with UDP_SEGMENT) begins with its number and its length; the rest, and all of a TCP stream, is a
//! pattern.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Number and length, four bytes each.
const HEADER: usize = 8;

/// A receive buffer, in bytes, that holds all that is sent to it at once.
const ROOM: libc::c_int = 32 << 20;

/// What one read of a TCP stream takes.
const CHUNK: usize = 64 << 10;

/// The byte at a place of datagram `number` (0 for a stream).
fn byte(number: u32, at: usize) -> u8 {
    let at = u32::try_from(at & 0xffff_ffff).unwrap_or_default();
    (at.wrapping_mul(2_654_435_761).wrapping_add(number.wrapping_mul(40_503)) >> 24) as u8
}

fn datagram(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(u32::try_from(length).unwrap_or_default().to_be_bytes());
    bytes.extend((HEADER..length).map(|at| byte(number, at)));
    bytes
}

/// The number of a datagram that came as it was sent.
fn whole(bytes: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    (datagram(number, bytes.len()) == bytes).then_some(number)
}

/// `send-udp`: numbered datagrams, one `send` after the other.
#[derive(clap::Args)]
pub struct SendUdp {
    /// Where to
    to: SocketAddr,
    /// Bytes per send
    #[arg(long)]
    size: usize,
    /// How many sends
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Bytes per datagram: a send is cut by the kernel, at the last moment (UDP_SEGMENT)
    #[arg(long)]
    segment: Option<u16>,
    /// Datagrams may not be cut on the way; the report has what somebody said of it (`told`)
    #[arg(long)]
    whole: bool,
    /// How long to wait for somebody to say something, in seconds
    #[arg(long, default_value = "1", value_parser = crate::seconds)]
    patience: Duration,
    /// Time between two sends, in microseconds
    #[arg(long, default_value_t = 5000)]
    every_us: u64,
}

impl SendUdp {
    /// Prints `{"datagrams", "error", "told": {"type", "code", "mtu", "from"}}`.
    pub fn run(&self) -> Result<()> {
        let step = self.segment.map_or(self.size, usize::from);
        ensure!(
            step >= HEADER && (self.size.is_multiple_of(step) || self.size % step >= HEADER),
            "a datagram has 8 bytes at least"
        );
        let any = if self.to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).context("make a socket")?;
        socket.connect(self.to).with_context(|| format!("connect to {}", self.to))?;
        if let Some(segment) = self.segment {
            set(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, segment.into()).context("set UDP_SEGMENT")?;
        }
        if self.whole {
            errors_are_told(&socket, self.to.is_ipv4()).context("ask for errors")?;
        }
        let (mut number, mut error) = (0_u32, Value::Null);
        for _ in 0..self.count {
            let mut bytes = Vec::with_capacity(self.size);
            while bytes.len() < self.size {
                bytes.extend(datagram(number, step.min(self.size - bytes.len())));
                number += 1;
            }
            if let Err(e) = socket.send(&bytes) {
                error = e.to_string().into();
                break;
            }
            std::thread::sleep(Duration::from_micros(self.every_us));
        }
        let told = if self.whole { self.told(&socket) } else { Value::Null };
        println!("{}", json!({"datagrams": number, "error": error, "told": told}));
        Ok(())
    }

    /// The first thing in the error queue.
    fn told(&self, socket: &UdpSocket) -> Value {
        let start = Instant::now();
        loop {
            if let Some(told) = next_error(socket) {
                return told;
            }
            if start.elapsed() >= self.patience {
                return Value::Null;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn set(socket: &UdpSocket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> std::io::Result<()> {
    // SAFETY: the pointer is to an int that lives during the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn errors_are_told(socket: &UdpSocket, is_v4: bool) -> std::io::Result<()> {
    if is_v4 {
        set(socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        set(socket, libc::SOL_IP, libc::IP_RECVERR, 1)
    } else {
        set(socket, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        set(socket, libc::SOL_IPV6, libc::IPV6_RECVERR, 1)
    }
}

/// Takes one entry from the error queue (ip(7), IP_RECVERR).
fn next_error(socket: &UdpSocket) -> Option<Value> {
    let mut data = [0_u8; 2048];
    // Words, so that the control messages are aligned.
    let mut control = [0_u64; 64];
    let mut vector = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all zeros is a valid msghdr: no name, no buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(&control) as _;
    // SAFETY: the message points to buffers of this frame with their lengths.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if got < 0 {
        return None;
    }
    // SAFETY: recvmsg succeeded, so the control buffer holds `msg_controllen` bytes of whole control messages.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a control message within the buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if (level, kind) == (libc::SOL_IP, libc::IP_RECVERR) || (level, kind) == (libc::SOL_IPV6, libc::IPV6_RECVERR) {
            // SAFETY: the data of these two kinds begins with a sock_extended_err (ip(7)); it may stand at any address.
            let error = unsafe { libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned() };
            // SAFETY: behind it is a socket address of the offender, of the family it names, within the control message.
            let from = unsafe { offender(libc::CMSG_DATA(header).add(size_of::<libc::sock_extended_err>())) };
            let by = if error.ee_origin == libc::SO_EE_ORIGIN_LOCAL { "itself".to_owned() } else { from };
            return Some(json!({"type": error.ee_type, "code": error.ee_code, "mtu": error.ee_info, "from": by}));
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    None
}

/// # Safety
/// `address` is the socket address behind a `sock_extended_err` in a control message.
unsafe fn offender(address: *const u8) -> String {
    // SAFETY: every socket address begins with its family.
    let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: of this family it is a sockaddr_in.
            let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).to_string()
        }
        libc::AF_INET6 => {
            // SAFETY: of this family it is a sockaddr_in6.
            let address = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Ipv6Addr::from(address.sin6_addr.s6_addr).to_string()
        }
        _ => "nobody".to_owned(),
    }
}

/// `take-udp`: counts datagrams, and looks whether each is as it was sent.
#[derive(clap::Args)]
pub struct TakeUdp {
    /// Where to listen
    listen: SocketAddr,
    /// Ends after so many whole ones
    #[arg(long)]
    count: usize,
    /// Ends by itself after this many seconds
    #[arg(long, default_value = "60", value_parser = crate::seconds)]
    within: Duration,
}

impl TakeUdp {
    /// Prints `{"whole", "twice", "broken", "sizes": {size: count}}`.
    pub fn run(&self) -> Result<()> {
        let socket = UdpSocket::bind(self.listen).with_context(|| format!("listen on {}", self.listen))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        // What a busy machine leaves lying is no loss on the way.
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM).context("set SO_RCVBUFFORCE")?;
        eprintln!("listening on {}", self.listen);
        let (start, mut buffer) = (Instant::now(), vec![0; 1 << 16]);
        let (mut seen, mut twice, mut broken) = (BTreeMap::new(), 0_u64, 0_u64);
        let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
        while seen.len() < self.count && start.elapsed() < self.within {
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let bytes = buffer.get(..length).unwrap_or_default();
            *sizes.entry(length.to_string()).or_default() += 1;
            match whole(bytes) {
                Some(number) => twice += u64::from(seen.insert(number, ()).is_some()),
                None => broken += 1,
            }
        }
        println!("{}", json!({"whole": seen.len(), "twice": twice, "broken": broken, "sizes": sizes}));
        Ok(())
    }
}

/// `send-tcp`: a stream of so many bytes.
#[derive(clap::Args)]
pub struct SendTcp {
    /// Where to
    to: SocketAddr,
    /// How many bytes
    #[arg(long)]
    bytes: usize,
    /// How long the kernel may take no more, or the other end say nothing, in seconds
    #[arg(long, default_value = "50", value_parser = crate::seconds)]
    patience: Duration,
}

impl SendTcp {
    /// Prints `{"said": "whole 1000000", "mss": 1398}`: what the other end said at the end, and how long segments were.
    pub fn run(&self) -> Result<()> {
        let mut stream =
            TcpStream::connect_timeout(&self.to, self.patience).with_context(|| format!("connect to {}", self.to))?;
        stream.set_write_timeout(Some(self.patience))?;
        stream.set_read_timeout(Some(self.patience))?;
        let mut at = 0;
        while at < self.bytes {
            let chunk: Vec<u8> = (at..self.bytes.min(at + CHUNK)).map(|at| byte(0, at)).collect();
            stream.write_all(&chunk).with_context(|| format!("write at byte {at}"))?;
            at += chunk.len();
        }
        stream.shutdown(Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said).context("read what the other end says")?;
        println!("{}", json!({"said": said.trim_end(), "mss": mss(&stream)?}));
        Ok(())
    }
}

fn mss(stream: &TcpStream) -> Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to variables of this frame, and the length is that of the first.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_TCP, libc::TCP_MAXSEG, (&raw mut value).cast(), &raw mut length)
    };
    ensure!(result == 0, "ask for the segment size: {}", std::io::Error::last_os_error());
    Ok(value)
}

/// `take-tcp`: reads streams to their ends and says whether they came whole.
pub fn take_tcp(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    eprintln!("listening on {listen}");
    for stream in listener.incoming() {
        let stream = stream.context("accept a connection")?;
        // A client that goes away is no matter of ours.
        std::thread::spawn(move || drop(take(stream)));
    }
    Ok(())
}

fn take(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut at, mut buffer) = (0, vec![0; CHUNK]);
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return writeln!(stream, "whole {at}"),
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        for value in buffer.iter().take(length) {
            if *value != byte(0, at) {
                return writeln!(stream, "broken at {at}");
            }
            at += 1;
        }
    }
}
