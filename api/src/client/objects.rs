//! Objects of any kind as JSON, for callers that handle all of them alike: files are applied so.

use hyper::header::ETAG;
use hyper::{HeaderMap, Method};
use serde_json::Value;
use weft_model::ids::Revision;

use super::registry::dry;
use super::{Client, ClientError, NOTHING};
use crate::{Code, Precondition};

/// An object, and the revision at which it was last changed.
pub type Versioned = (Value, Revision);

impl Client {
    /// `GET` of one object; `None` if there is none.
    ///
    /// # Errors
    /// See [`ClientError`], here and below.
    pub async fn object(&self, path: &str) -> Result<Option<Versioned>, ClientError> {
        match self.call_if(Method::GET, path, Precondition::None, NOTHING).await {
            Ok(answer) => Ok(Some(versioned(answer))),
            Err(ClientError::Refused { code: Code::NotFound, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// `GET` of all objects of a list.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn objects(&self, collection: &str) -> Result<Vec<Value>, ClientError> {
        self.call(Method::GET, collection, NOTHING).await
    }

    /// `PUT` of one object, or a rehearsal of it. It comes back as it is then.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn object_put(
        &self,
        path: &str,
        body: &Value,
        condition: Precondition,
        dry_run: bool,
    ) -> Result<Versioned, ClientError> {
        self.call_if(Method::PUT, &format!("{path}{}", dry(dry_run)), condition, Some(body)).await.map(versioned)
    }

    /// `POST` to a list: makes an object. It comes back as it is then.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn object_post(&self, collection: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, collection, Some(body)).await
    }

    /// `DELETE` of one object, or a rehearsal of it. It comes back as it was; `None` if there was none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn object_delete(&self, path: &str, condition: Precondition, dry_run: bool) -> Result<Option<Value>, ClientError> {
        match self.call_if(Method::DELETE, &format!("{path}{}", dry(dry_run)), condition, NOTHING).await {
            Ok((object, _)) => Ok(Some(object)),
            Err(ClientError::Refused { code: Code::NotFound, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn versioned((object, headers): (Value, HeaderMap)) -> Versioned {
    let tag = headers.get(ETAG).and_then(|value| value.to_str().ok());
    let digits = tag.and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
    (object, Revision(digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()))
}
