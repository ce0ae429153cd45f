//! Watching: one connection over which events come until either side ends it.

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;

use super::{Client, ClientError};
use crate::ErrorBody;
use crate::events::{Event, Parser, WatchQuery};

/// A stream of events. Dropping it ends it.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    parser: Parser,
    ready: std::collections::VecDeque<Event>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

const REQUEST: &str = "GET /v1/watch";

fn broken(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Broken { request: REQUEST.to_owned(), source: source.into() }
}

impl Client {
    /// `GET /v1/watch`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(&self, query: &WatchQuery) -> Result<Events, ClientError> {
        let lost = |e: hyper::Error| self.broken(REQUEST, e.into());
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let connection = tokio::spawn(async move {
            // What breaks it is told by the body, too.
            let _ = connection.await;
        });
        let mut message = Request::get(format!("/v1/watch{}", query.to_query())).header("host", "weft");
        if let Some(from) = &query.from {
            message = message.header("last-event-id", from);
        }
        let message = message.body(Empty::<Bytes>::new()).map_err(broken)?;
        let response = sender.send_request(message).await.map_err(lost)?;
        let status = response.status();
        let mut events = Events { body: response.into_body(), parser: Parser::default(), ready: Default::default(), connection };
        if status.is_success() {
            return Ok(events);
        }
        let mut said = Vec::new();
        while let Some(bytes) = events.bytes().await? {
            said.extend_from_slice(&bytes);
        }
        match serde_json::from_slice::<ErrorBody>(&said) {
            Ok(ErrorBody { error }) => Err(ClientError::Refused { code: error.code, message: error.message }),
            Err(_) => Err(broken(format!("status {status}"))),
        }
    }
}

impl Events {
    /// The next event; none if the agent has ended the stream.
    ///
    /// # Errors
    /// The connection breaks, or what comes is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(bytes) = self.bytes().await? else { return Ok(None) };
            self.ready.extend(self.parser.push(&bytes).map_err(broken)?);
        }
    }

    async fn bytes(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_) => continue,
                },
                Some(Err(e)) => return Err(broken(e)),
            }
        }
    }
}
