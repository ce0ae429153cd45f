//! The servers: they say who they are and give back what they get.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};

/// Serves TCP for ever, a thread per connection.
pub fn tcp(listen: SocketAddr, say: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    for stream in listener.incoming() {
        let stream = stream.context("accept a connection")?;
        let say = say.to_owned();
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
pub fn udp(listen: SocketAddr, say: &str) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("listen on {listen}"))?;
    let mut buffer = [0; 2048];
    loop {
        // A port-unreachable for an earlier answer shows up here; the next client is none the worse.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = format!("{say} ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, from);
    }
}
