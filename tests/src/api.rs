//! Questions to an agent's socket, as any program asks them: HTTP/1.1 and JSON, by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::place::COMMAND_BOUND;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The body of an answer that is a success.
    ///
    /// # Errors
    /// What the agent said instead.
    pub fn success(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        bail!("{}: {}", self.status, self.body["error"]["message"].as_str().unwrap_or_default())
    }
}

/// Asks the agent at `socket`.
///
/// # Errors
/// When nobody answers.
pub fn call(socket: &Path, method: &str, path: &str, body: &Value) -> Result<Answer> {
    let stream = send(socket, method, path, body)?;
    receive(stream).with_context(|| format!("{method} {path} at {}", socket.display()))
}

/// Asks and does not wait: who drops the stream is a client that was killed meanwhile.
///
/// # Errors
/// When nobody takes the request.
pub fn send(socket: &Path, method: &str, path: &str, body: &Value) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    let bound: Duration = COMMAND_BOUND;
    stream.set_read_timeout(Some(bound))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).with_context(|| format!("{method} {path} at {}", socket.display()))?;
    Ok(stream)
}

fn receive(mut stream: UnixStream) -> Result<Answer> {
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read the answer")?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer of HTTP: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    Ok(Answer { status, body: serde_json::from_str(body).with_context(|| format!("no JSON: {body:?}"))? })
}
