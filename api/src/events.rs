//! What changes, as a stream that can be gone on with: `GET /v1/watch`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_model::ids::Revision;

use crate::ListQuery;

/// Which changes are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchQuery {
    /// `endpoint`, `service`, `node`, `network`; none is all.
    pub kinds: Vec<String>,
    /// Of what: the namespace, service, node and network count.
    pub of: ListQuery,
    /// Where to go on: a revision, or the id of the last event that was seen. None begins with everything there is.
    pub from: Option<String>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it tells.
    pub what: Happened,
    /// What to give as [`WatchQuery::from`] to go on after it, if that is known.
    pub id: Option<String>,
}

/// What an event tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// An object is there, or is another.
    Put(Changed),
    /// It is gone.
    Delete(Changed),
    /// Everything there is has been told; what comes now happens.
    Current(Revision),
    /// Nothing that is watched has changed until this revision.
    Progress(Revision),
    /// What changed meanwhile is not known: everything is told again, and what is not told before `Current` is gone.
    Reset,
}

/// An object that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// What it is: `endpoint`, `service`, `node`, `network`, `leader`.
    pub kind: String,
    /// Which one it is, among those of its kind.
    pub key: String,
    /// The store's revision at which it changed; of `delete`, at which it went.
    pub revision: Revision,
    /// The object as its list shows it, but for what other objects decide; not there when it is gone.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub object: Value,
}

/// The data of `current` and `progress`.
#[derive(Deserialize)]
struct At {
    revision: Revision,
}

impl WatchQuery {
    /// The query as it follows the path.
    #[must_use]
    pub(crate) fn to_query(&self) -> String {
        let mut query = self.of.to_query();
        if !self.kinds.is_empty() {
            query.push(if query.is_empty() { '?' } else { '&' });
            query.push_str("kind=");
            query.push_str(&crate::client::escape(&self.kinds.join(",")));
        }
        query
    }
}

/// Puts bytes together to events (HTML, 9.2.6 "Interpreting an event stream"). Event names that are not known are passed over.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    id: Option<String>,
    event: String,
    data: String,
}

/// The longest line that is taken: an event's object is a small part of what the store takes for a value.
const MAX_LINE: usize = 64 << 20;

impl Parser {
    /// The events that more bytes complete.
    ///
    /// # Errors
    /// What is no event of ours.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, String> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut done = 0;
        while let Some(length) = self.buffer[done..].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&self.buffer[done..done + length]).into_owned();
            done += length + 1;
            events.extend(self.line(line.trim_end_matches('\r'))?);
        }
        self.buffer.drain(..done);
        if self.buffer.len() > MAX_LINE {
            return Err(format!("a line of more than {MAX_LINE} bytes"));
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Result<Option<Event>, String> {
        if line.is_empty() {
            let (event, data, id) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data), self.id.take());
            return self::event(&event, &data).map(|what| what.map(|what| Event { what, id }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.event),
            "data" => self.data.push_str(value),
            _ => {}
        }
        Ok(None)
    }
}

fn event(event: &str, data: &str) -> Result<Option<Happened>, String> {
    let bad = |e: serde_json::Error| format!("event {event}: {e}");
    Ok(Some(match event {
        "put" => Happened::Put(serde_json::from_str(data).map_err(bad)?),
        "delete" => Happened::Delete(serde_json::from_str(data).map_err(bad)?),
        "current" => Happened::Current(serde_json::from_str::<At>(data).map_err(bad)?.revision),
        "progress" => Happened::Progress(serde_json::from_str::<At>(data).map_err(bad)?.revision),
        "reset" => Happened::Reset,
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ": keep-alive\n\nid: 5\nevent: put\ndata: {\"kind\":\"node\",\"key\":\"ä\",\"revision\":5,\"object\":{}}\n\n\
        event: reset\ndata: {\"why\":\"x\"}\n\nevent: later\ndata: x\n\nid: 7.1\nevent: delete\ndata: {\"kind\":\"node\",\"key\":\"a\",\"revision\":7}\n\n\
        id: 9\nevent: current\ndata: {\"revision\":9}\n\n";

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let whole = Parser::default().push(TEXT.as_bytes()).unwrap();
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[1], Event { what: Happened::Reset, id: None });
        assert!(
            matches!(&whole[2], Event { what: Happened::Delete(gone), id: Some(id) } if gone.object.is_null() && id == "7.1")
        );
        assert_eq!(whole[3], Event { what: Happened::Current(Revision(9)), id: Some("9".to_owned()) });
        for size in 1..TEXT.len() {
            let mut parser = Parser::default();
            let cut: Vec<Event> = TEXT.as_bytes().chunks(size).flat_map(|part| parser.push(part).unwrap()).collect();
            assert_eq!(cut, whole, "{size}");
        }
    }

    #[test]
    fn what_is_no_event_of_ours_is_an_error_and_no_guess() {
        assert!(Parser::default().push(b"event: put\ndata: {}\n\n").is_err());
        assert!(Parser::default().push(b"event: current\ndata: 5\n\n").is_err());
    }
}
