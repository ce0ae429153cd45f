//! The ends of a measurement, each a process in its own network namespace and on its own CPU; what they found they print as
//! one line of JSON. They know sockets only.

use std::io::Write;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;

use crate::stats::{Quartiles, median};

/// Bytes of a datagram's payload.
const SIZE: usize = 64;

/// Exchanges that are timed together: few enough that a good part of the batches runs undisturbed; many enough that reading
/// the clock costs nothing.
const BATCH: u32 = 16;

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// The part of every measurement that is not counted: caches are cold, neighbours unknown.
const WARM_UP: f64 = 0.2;

/// One end.
#[derive(Subcommand)]
pub enum End {
    /// Gives every datagram back, until it is killed
    Echo {
        /// Where to listen
        bind: SocketAddrV4,
        /// Whom to talk to, and nobody else; else whoever sends
        #[arg(long)]
        connect: Option<SocketAddrV4>,
        #[arg(long)]
        cpu: usize,
    },
    /// Sends a datagram, waits until it comes back, and again
    Ping {
        to: SocketAddrV4,
        /// Where from, which also means: connect the socket
        #[arg(long)]
        bind: Option<SocketAddrV4>,
        #[command(flatten)]
        run: Run,
    },
    /// Counts datagrams without ever sleeping
    Sink {
        bind: SocketAddrV4,
        #[command(flatten)]
        run: Run,
    },
    /// Sends datagrams as fast as it can
    Blast {
        to: SocketAddrV4,
        #[command(flatten)]
        run: Run,
    },
}

/// Where and how long.
#[derive(clap::Args)]
pub struct Run {
    #[arg(long)]
    cpu: usize,
    #[arg(long)]
    ms: u64,
}

impl Run {
    fn begin(&self) -> Result<Instant> {
        pin(self.cpu)?;
        Ok(Instant::now() + Duration::from_millis(self.ms))
    }
}

impl End {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Echo { bind, connect, cpu } => {
                pin(*cpu)?;
                echo(&open(*bind)?, *connect)
            }
            Self::Ping { to, bind, run } => {
                let until = run.begin()?;
                let socket = open(bind.unwrap_or(SocketAddrV4::new([0, 0, 0, 0].into(), 0)))?;
                let connected = bind.is_some();
                if connected {
                    socket.connect(to).with_context(|| format!("connect to {to}"))?;
                }
                ping(&socket, *to, connected, until)
            }
            Self::Sink { bind, run } => sink(&open(*bind)?, run.begin()?),
            Self::Blast { to, run } => blast(*to, run.begin()?),
        }
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no CPU {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("stay on CPU {cpu}"))
}

fn open(bind: SocketAddrV4) -> Result<UdpSocket> {
    UdpSocket::bind(bind).with_context(|| format!("listen on {bind}"))
}

fn echo(socket: &UdpSocket, peer: Option<SocketAddrV4>) -> Result<()> {
    let mut buffer = [0; 2048];
    if let Some(peer) = peer {
        socket.connect(peer).with_context(|| format!("connect to {peer}"))?;
        loop {
            // An error is the other end's "port unreachable", between two measurements.
            if let Ok(length) = socket.recv(&mut buffer) {
                let _ = socket.send(&buffer[..length]);
            }
        }
    }
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// Prints `{"half_rtt_us", "exchanges", "lost"}`.
fn ping(socket: &UdpSocket, to: SocketAddrV4, connected: bool, until: Instant) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut sent = [0; SIZE];
    let mut came = [0; 2048];
    let (mut number, mut lost) = (0_u64, 0_u64);
    let mut batches = Vec::new();
    while Instant::now() < until {
        let start = Instant::now();
        let mut whole = true;
        for _ in 0..BATCH {
            number += 1;
            sent[..8].copy_from_slice(&number.to_le_bytes());
            let result = if connected { socket.send(&sent) } else { socket.send_to(&sent, to) };
            // What was not sent does not come back, which is noticed below.
            let _ = result;
            loop {
                let result = if connected { socket.recv(&mut came) } else { socket.recv_from(&mut came).map(|(n, _)| n) };
                match result {
                    // A late answer to an earlier one is passed over.
                    Ok(length) if length == SIZE && came[..8] == sent[..8] => break,
                    Ok(_) => {}
                    Err(_) => {
                        lost += 1;
                        whole = false;
                        break;
                    }
                }
                if Instant::now() > until + PATIENCE {
                    break;
                }
            }
        }
        if whole {
            batches.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(2 * BATCH));
        }
    }
    let warm = &batches[(batches.len() as f64 * WARM_UP) as usize..];
    let half = Quartiles::of(warm).with_context(|| format!("{to} gave nothing back"))?;
    // The lower quartile: what disturbs only ever adds, and on a busy machine that is more than half of the batches.
    println!("{}", json!({"half_rtt_us": half.low, "exchanges": number, "lost": lost}));
    Ok(())
}

/// Prints `ready`, then `{"received"}`.
fn sink(socket: &UdpSocket, until: Instant) -> Result<()> {
    let bytes: libc::c_int = 8 << 20;
    // SAFETY: the option takes an int, which lives in this frame.
    let refused = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ensure!(refused == 0, "enlarge the socket's buffer: {}", std::io::Error::last_os_error());
    // Sleeping would make the sender's CPU wake this one, and what is measured is the sender's CPU.
    socket.set_nonblocking(true)?;
    println!("ready");
    std::io::stdout().flush()?;
    let mut buffer = [0; 2048];
    let mut received = 0_u64;
    while Instant::now() < until {
        for _ in 0..64 {
            received += u64::from(socket.recv(&mut buffer).is_ok());
        }
    }
    println!("{}", json!({"received": received}));
    Ok(())
}

/// Prints `{"per_second", "sent"}`. A datagram's whole way to the other socket is walked before `send` returns: what it
/// takes is this CPU's time.
fn blast(to: SocketAddrV4, until: Instant) -> Result<()> {
    let socket = open(SocketAddrV4::new([0, 0, 0, 0].into(), 0))?;
    socket.connect(to).with_context(|| format!("connect to {to}"))?;
    let message = [0; SIZE];
    let mut sent = 0_u64;
    let mut rates = Vec::new();
    loop {
        let start = Instant::now();
        if start >= until {
            break;
        }
        let mut batch = 0_u32;
        for _ in 0..4 * BATCH {
            batch += u32::from(socket.send(&message).is_ok());
        }
        rates.push(f64::from(batch) / start.elapsed().as_secs_f64());
        sent += u64::from(batch);
    }
    let warm = &rates[(rates.len() as f64 * WARM_UP) as usize..];
    println!("{}", json!({"per_second": median(warm), "sent": sent}));
    Ok(())
}
