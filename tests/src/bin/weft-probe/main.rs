//! The traffic of the scenarios: small servers that say who they are, and clients that report what they saw as one line of
//! JSON. It knows nothing of Weft: sockets only. The one exception is `hold-topology`, by which the harness tests itself.

mod bulk;
mod client;
mod confine;
mod server;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Servers and clients for the scenarios; clients report as JSON")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Answers TCP connections with a line, then gives back every line that comes
    ServeTcp(server::Server),
    /// Answers every HTTP request with a line and 200, or with 503 while a file is there
    ServeHttp(server::Web),
    /// Answers every datagram with a text and what came
    ServeUdp(server::Server),
    /// Connects once, reads the first line, and reports how it went
    Connect(client::Connect),
    /// Keeps one TCP connection busy with numbered lines until SIGTERM or the end of its time, and reports what came back
    Stream(client::Stream),
    /// Sends numbered datagrams from one socket until SIGTERM or the end of its time, and reports what came back
    Datagrams(client::Datagrams),
    /// Sends numbered datagrams that show whether they arrived whole, and reports what was said of them
    SendUdp(bulk::SendUdp),
    /// Takes such datagrams, and reports how many came whole
    TakeUdp(bulk::TakeUdp),
    /// Sends a stream that shows whether it arrived whole, and reports what the other end said
    SendTcp(bulk::SendTcp),
    /// Takes such streams, and answers each with how it came
    TakeTcp {
        /// Where to listen
        listen: SocketAddr,
    },
    /// Sends one IPv4 packet as it is given
    SendIp(wire::SendIp),
    /// Prints the UDP packets to one port that come in by a device, as JSON, until it is killed
    Capture(wire::Capture),
    /// Becomes a command that the kernel allows no bpf(2), as on a host whose administrator forbids it
    WithoutBpf {
        /// The command
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Makes a topology of two hosts, prints its name and waits for a signal
    HoldTopology,
}

fn main() -> Result<()> {
    match Args::parse().what {
        What::ServeTcp(args) => server::tcp(&args),
        What::ServeHttp(args) => server::http(&args),
        What::ServeUdp(args) => server::udp(&args),
        What::Connect(args) => args.run(),
        What::Stream(args) => args.run(),
        What::Datagrams(args) => args.run(),
        What::SendUdp(args) => args.run(),
        What::TakeUdp(args) => args.run(),
        What::SendTcp(args) => args.run(),
        What::TakeTcp { listen } => bulk::take_tcp(listen),
        What::SendIp(args) => args.run(),
        What::Capture(args) => args.run(),
        What::WithoutBpf { command } => confine::without_bpf(&command),
        What::HoldTopology => {
            let topology = weft_tests::Topology::new(2)?;
            let _busy = topology.host(1).spawn("busy", ["sleep", "1000"])?;
            println!("{}", topology.name());
            weft_tests::signals::wait_for_the_end()
        }
    }
}

/// Seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|e| format!("{e}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}
