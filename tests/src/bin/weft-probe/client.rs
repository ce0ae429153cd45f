//! The clients: each ends by printing one line of JSON.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde_json::{Value, json};

/// `connect`: one connection, or one question in a datagram.
#[derive(clap::Args)]
pub struct Connect {
    /// Where to
    to: SocketAddr,
    /// A datagram from a connected socket in place of a TCP connection
    #[arg(long)]
    udp: bool,
    /// With --udp: sendto on a socket that is not connected
    #[arg(long, requires = "udp")]
    unconnected: bool,
    /// From an IPv6 socket, to the address as ::ffff:a.b.c.d
    #[arg(long)]
    mapped: bool,
    /// How long to wait for an answer, in seconds
    #[arg(long, default_value = "5", value_parser = crate::seconds)]
    timeout: Duration,
}

/// What a connection came to.
struct Talk {
    said: String,
    /// Whom the socket says it talks to: the peer's name, or where the datagram came from.
    peer: SocketAddr,
    local: SocketAddr,
}

impl Connect {
    /// Prints `{"result", "elapsed_ms", "said", "peer", "local"}`; `result` is `answered`, `refused`, `timeout`,
    /// `unreachable` or the kernel's words.
    pub fn run(&self) -> Result<()> {
        let to = if self.mapped { map(self.to) } else { self.to };
        let start = Instant::now();
        let outcome = if self.udp { self.datagram(to) } else { self.stream(to) };
        let elapsed_ms = start.elapsed().as_millis();
        let report = match outcome {
            Ok(talk) => json!({"result": "answered", "elapsed_ms": elapsed_ms, "said": talk.said,
                "peer": talk.peer.to_string(), "local": talk.local.to_string()}),
            Err(e) => json!({"result": word(&e), "elapsed_ms": elapsed_ms}),
        };
        println!("{report}");
        Ok(())
    }

    fn stream(&self, to: SocketAddr) -> std::io::Result<Talk> {
        let stream = TcpStream::connect_timeout(&to, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        let mut said = String::new();
        BufReader::new(&stream).read_line(&mut said)?;
        Ok(Talk { said: said.trim_end().to_owned(), peer: stream.peer_addr()?, local: stream.local_addr()? })
    }

    fn datagram(&self, to: SocketAddr) -> std::io::Result<Talk> {
        let socket = UdpSocket::bind(any_for(to))?;
        socket.set_read_timeout(Some(self.timeout))?;
        let mut buffer = [0; 2048];
        let (length, peer) = if self.unconnected {
            socket.send_to(b"hello", to)?;
            socket.recv_from(&mut buffer)?
        } else {
            socket.connect(to)?;
            socket.send(b"hello")?;
            (socket.recv(&mut buffer)?, socket.peer_addr()?)
        };
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(Talk { said, peer, local: socket.local_addr()? })
    }
}

fn word(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable".to_owned(),
        _ => error.to_string(),
    }
}

fn map(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn any_for(address: SocketAddr) -> SocketAddr {
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

/// Set by SIGTERM: time to report.
static ENOUGH: AtomicBool = AtomicBool::new(false);

extern "C" fn on_term(_: libc::c_int) {
    ENOUGH.store(true, Ordering::Relaxed);
}

fn report_on_term() -> Result<()> {
    // Without SA_RESTART, so that a blocked read ends.
    let action = SigAction::new(SigHandler::Handler(on_term), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only stores to an atomic.
    unsafe { sigaction(Signal::SIGTERM, &action) }.context("handle SIGTERM")?;
    Ok(())
}

/// What `stream` and `datagrams` have in common.
#[derive(clap::Args)]
struct Pace {
    /// Where to
    to: SocketAddr,
    /// Time between two sends, in milliseconds
    #[arg(long, default_value_t = 20)]
    every_ms: u64,
    /// Ends by itself after this many seconds
    #[arg(long, default_value = "600", value_parser = crate::seconds)]
    within: Duration,
}

impl Pace {
    /// Calls `step` with 0, 1, 2, … at the pace; ends at its first error, in which case the error is returned.
    fn walk(&self, mut step: impl FnMut(u64) -> std::io::Result<()>) -> (u64, Option<std::io::Error>) {
        let start = Instant::now();
        let mut number = 0;
        while start.elapsed() < self.within && !ENOUGH.load(Ordering::Relaxed) {
            match step(number) {
                Ok(()) => number += 1,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return (number, Some(e)),
            }
            std::thread::sleep(Duration::from_millis(self.every_ms));
        }
        (number, None)
    }
}

/// `stream`: one long TCP connection.
#[derive(clap::Args)]
pub struct Stream {
    #[command(flatten)]
    pace: Pace,
    /// How long an echo may take before the connection counts as broken, in seconds
    #[arg(long, default_value = "20", value_parser = crate::seconds)]
    patience: Duration,
}

impl Stream {
    /// Prints `{"said", "echoed", "longest_gap_ms", "error"}`.
    pub fn run(&self) -> Result<()> {
        report_on_term()?;
        let stream = TcpStream::connect(self.pace.to).with_context(|| format!("connect to {}", self.pace.to))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        let mut lines = BufReader::new(&stream);
        let mut said = String::new();
        lines.read_line(&mut said)?;
        // Whoever waits for this line knows that the connection stands.
        eprintln!("connected to {}", said.trim_end());

        let mut longest = Duration::ZERO;
        let mut line = String::new();
        let (echoed, error) = self.pace.walk(|number| {
            let sent = Instant::now();
            line.clear();
            writeln!(&stream, "{number}")?;
            while !line.ends_with('\n') {
                match lines.read_line(&mut line) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            longest = longest.max(sent.elapsed());
            if line.trim_end() == number.to_string() { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
        });
        let error = error.map_or(Value::Null, |e| word(&e).into());
        println!("{}", json!({"said": said.trim_end(), "echoed": echoed, "longest_gap_ms": longest.as_millis(), "error": error}));
        Ok(())
    }
}

/// `datagrams`: one socket, many datagrams.
#[derive(clap::Args)]
pub struct Datagrams {
    #[command(flatten)]
    pace: Pace,
}

impl Datagrams {
    /// Prints `{"sent", "received", "error"}`. Answers are waited for until one second after the last was sent.
    pub fn run(&self) -> Result<()> {
        report_on_term()?;
        let socket = UdpSocket::bind(any_for(self.pace.to)).context("make a socket")?;
        socket.connect(self.pace.to).with_context(|| format!("connect to {}", self.pace.to))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        eprintln!("connected to {}", self.pace.to);

        let ears = socket.try_clone().context("share the socket")?;
        let listener = std::thread::spawn(move || {
            let mut received = 0u64;
            let mut buffer = [0; 2048];
            loop {
                match ears.recv(&mut buffer) {
                    Ok(_) => received += 1,
                    Err(_) if ENOUGH.load(Ordering::Relaxed) => return received,
                    Err(_) => {}
                }
            }
        });
        let (sent, error) = self.pace.walk(|number| socket.send(number.to_string().as_bytes()).map(drop));
        ENOUGH.store(true, Ordering::Relaxed);
        let received = listener.join().map_err(|_| anyhow::anyhow!("the listening thread panicked"))?;
        let error = error.map_or(Value::Null, |e| word(&e).into());
        println!("{}", json!({"sent": sent, "received": received, "error": error}));
        Ok(())
    }
}
