//! What goes back over the socket: whole answers, refusals, and the headers that say at which revision they stand.

use std::convert::Infallible;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use weft_api::{CONTINUE_HEADER, ErrorBody, ErrorDetail, REVISION_HEADER, etag};
use weft_model::ids::Revision;

use crate::refusal::Refusal;

/// A body: whole, or one that comes bit by bit.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a handler gives, as an answer.
pub(super) trait Reply {
    /// The answer.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn reply(self) -> Result<Response<Body>, Refusal>;
}

impl<T: Serialize> Reply for T {
    fn reply(self) -> Result<Response<Body>, Refusal> {
        let body = serde_json::to_vec(&self).map_err(|e| Refusal::internal("write the answer", &e))?;
        Ok(respond(StatusCode::OK, body))
    }
}

/// A single object, with the revision at which it was last changed.
#[derive(Debug)]
pub(super) struct Tagged<T>(pub T, pub Revision);

impl<T: Serialize> Reply for Tagged<T> {
    fn reply(self) -> Result<Response<Body>, Refusal> {
        let mut response = self.0.reply()?;
        set(&mut response, ETAG, &etag(self.1));
        Ok(response)
    }
}

/// A list, or a page of one.
#[derive(Debug)]
pub(super) struct Listed<T> {
    /// The items.
    pub items: Vec<T>,
    /// The revision of all of it.
    pub revision: Revision,
    /// What gives the next page.
    pub next: Option<String>,
}

impl<T: Serialize> Reply for Listed<T> {
    fn reply(self) -> Result<Response<Body>, Refusal> {
        let mut response = self.items.reply()?;
        set(&mut response, REVISION, &self.revision.to_string());
        if let Some(next) = &self.next {
            set(&mut response, CONTINUE, next);
        }
        Ok(response)
    }
}

const REVISION: HeaderName = HeaderName::from_static(REVISION_HEADER);

const CONTINUE: HeaderName = HeaderName::from_static(CONTINUE_HEADER);

/// Says at which revision an answer stands, where it does not say so itself.
pub(super) fn stamp(response: &mut Response<Body>, revision: Revision) {
    if !response.headers().contains_key(REVISION) {
        set(response, REVISION, &revision.to_string());
    }
}

/// Sets a header; what cannot stand in one is left out.
pub(super) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A refusal as an answer.
pub(super) fn refuse(refusal: &Refusal) -> Response<Body> {
    let body = ErrorBody { error: ErrorDetail { code: refusal.code, message: refusal.message.clone() } };
    let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, serde_json::to_vec(&body).unwrap_or_default())
}

fn respond(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|v| v.to_str().unwrap())
    }

    #[test]
    fn an_answer_keeps_the_revision_that_it_knows_of_itself() {
        let mut list = Listed { items: vec![1], revision: Revision(5), next: Some("a".to_owned()) }.reply().unwrap();
        stamp(&mut list, Revision(9));
        assert_eq!((header(&list, "weft-revision"), header(&list, "weft-continue")), (Some("5"), Some("a")));
        let mut one = Tagged("x", Revision(3)).reply().unwrap();
        stamp(&mut one, Revision(9));
        assert_eq!((header(&one, "weft-revision"), header(&one, "etag")), (Some("9"), Some("\"3\"")));
    }
}
