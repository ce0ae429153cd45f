//! The servers: they say who they are and give back what they get.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};

/// A server.
#[derive(clap::Args)]
pub struct Server {
    /// Where to listen
    listen: SocketAddr,
    /// What every connection, or every answer, begins with
    #[arg(long)]
    say: String,
    /// Add the address that the client has here
    #[arg(long)]
    say_client: bool,
}

impl Server {
    fn greeting(&self, client: SocketAddr) -> String {
        let Self { say, say_client, .. } = self;
        if *say_client { format!("{say} {}", client.ip().to_canonical()) } else { say.clone() }
    }
}

/// Serves TCP for ever, a thread per connection.
pub fn tcp(server: &Server) -> Result<()> {
    let listen = server.listen;
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    for stream in listener.incoming() {
        let stream = stream.context("accept a connection")?;
        let Ok(client) = stream.peer_addr() else { continue };
        let say = server.greeting(client);
        // A client that goes away is no matter of ours.
        std::thread::spawn(move || drop(talk(&stream, &say)));
    }
    Ok(())
}

fn talk(mut stream: &TcpStream, say: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    writeln!(stream, "{say}")?;
    for line in BufReader::new(stream).lines() {
        writeln!(stream, "{}", line?)?;
    }
    Ok(())
}

/// Serves UDP for ever.
pub fn udp(server: &Server) -> Result<()> {
    let listen = server.listen;
    let socket = UdpSocket::bind(listen).with_context(|| format!("listen on {listen}"))?;
    let mut buffer = [0; 2048];
    loop {
        // A port-unreachable for an earlier answer shows up here; the next client is none the worse.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = format!("{} ", server.greeting(from)).into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, from);
    }
}

/// A server of HTTP.
#[derive(clap::Args)]
pub struct Web {
    /// Where to listen
    listen: SocketAddr,
    /// What every answer says
    #[arg(long)]
    say: String,
    /// While this file is there, every answer is 503
    #[arg(long, value_name = "FILE")]
    sick: std::path::PathBuf,
}

/// Serves HTTP for ever, a request per connection.
pub fn http(server: &Web) -> Result<()> {
    let listen = server.listen;
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    for stream in listener.incoming() {
        let stream = stream.context("accept a connection")?;
        let status = if server.sick.exists() { "503 Service Unavailable" } else { "200 OK" };
        let text = format!("{}\n", server.say);
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
        std::thread::spawn(move || drop(tell(&stream, &answer)));
    }
    Ok(())
}

fn tell(mut stream: &TcpStream, answer: &str) -> std::io::Result<()> {
    for line in BufReader::new(stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    stream.write_all(answer.as_bytes())
}
