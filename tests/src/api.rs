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
    /// The headers, by name in lower case.
    pub headers: std::collections::BTreeMap<String, String>,
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
    call_with(socket, method, path, &[], body)
}

/// Asks with headers of one's own.
///
/// # Errors
/// When nobody answers.
pub fn call_with(socket: &Path, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Result<Answer> {
    let stream = send_with(socket, method, path, headers, body)?;
    receive(stream).with_context(|| format!("{method} {path} at {}", socket.display()))
}

/// Asks and does not wait: who drops the stream is a client that was killed meanwhile.
///
/// # Errors
/// When nobody takes the request.
pub fn send(socket: &Path, method: &str, path: &str, body: &Value) -> Result<UnixStream> {
    send_with(socket, method, path, &[], body)
}

fn send_with(socket: &Path, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    let bound: Duration = COMMAND_BOUND;
    stream.set_read_timeout(Some(bound))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).with_context(|| format!("{method} {path} at {}", socket.display()))?;
    Ok(stream)
}

fn receive(mut stream: UnixStream) -> Result<Answer> {
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read the answer")?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer of HTTP: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Ok(Answer { status, headers, body: serde_json::from_str(body).with_context(|| format!("no JSON: {body:?}"))? })
}

/// A stream of events. Dropping it ends it.
#[derive(Debug)]
pub struct Events {
    lines: std::io::BufReader<UnixStream>,
    line: String,
    event: Event,
}

/// An event, as it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Where to go on after it; empty if it does not say.
    pub id: String,
    /// What it tells.
    pub event: String,
    /// The data.
    pub data: Value,
}

impl Events {
    /// Watches what `query` asks for, from the last event that was seen.
    ///
    /// # Errors
    /// When nobody answers, or with a refusal.
    pub fn of(socket: &Path, query: &str, last: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(COMMAND_BOUND))?;
        let last = if last.is_empty() { String::new() } else { format!("last-event-id: {last}\r\n") };
        // Of HTTP/1.0 a body that has no length ends with the connection: what is read is what was written.
        stream.write_all(format!("GET /v1/watch{query} HTTP/1.0\r\n{last}\r\n").as_bytes())?;
        let mut events = Self { lines: std::io::BufReader::new(stream), line: String::new(), event: Event::default() };
        let status = events.read_line()?.unwrap_or_default();
        if !status.contains(" 200 ") {
            bail!("watch{query}: {status}");
        }
        while events.read_line()?.is_some_and(|line| !line.is_empty()) {}
        Ok(events)
    }

    /// The next event that comes within `bound`; none if none does, or the stream ends.
    ///
    /// # Errors
    /// What comes is no event.
    pub fn next(&mut self, bound: Duration) -> Result<Option<Event>> {
        self.lines.get_ref().set_read_timeout(Some(bound))?;
        loop {
            let Some(line) = self.read_line()? else { return Ok(None) };
            match line.split_once(": ") {
                None if line.is_empty() => {
                    let event = std::mem::take(&mut self.event);
                    if !event.event.is_empty() {
                        return Ok(Some(event));
                    }
                }
                Some(("id", id)) => id.clone_into(&mut self.event.id),
                Some(("event", event)) => event.clone_into(&mut self.event.event),
                Some(("data", data)) => self.event.data = serde_json::from_str(data).with_context(|| line.clone())?,
                Some(("", _)) => {}
                _ => bail!("no line of an event stream: {line:?}"),
            }
        }
    }

    /// A whole line; none at the end, or when nothing more comes. What came of it is kept.
    fn read_line(&mut self) -> Result<Option<String>> {
        use std::io::BufRead;
        match self.lines.read_line(&mut self.line) {
            Ok(_) if self.line.ends_with('\n') => Ok(Some(std::mem::take(&mut self.line).trim_end().to_owned())),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
