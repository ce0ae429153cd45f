//! Asking for registrations and leaders.

use hyper::Method;
use weft_model::ids::ServiceName;

use super::{Client, ClientError, NOTHING, escape};
use crate::{LeaderSet, LeaderView, Register, Registered};

impl Client {
    /// `GET /v1/registrations`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn registrations(&self) -> Result<Vec<Registered>, ClientError> {
        self.call(Method::GET, "/v1/registrations", NOTHING).await
    }

    /// `GET /v1/registrations/{id}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn registration(&self, id: &str) -> Result<Registered, ClientError> {
        self.call(Method::GET, &format!("/v1/registrations/{}", escape(id)), NOTHING).await
    }

    /// `PUT /v1/registrations/{id}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn register(&self, id: &str, register: &Register) -> Result<Registered, ClientError> {
        self.call(Method::PUT, &format!("/v1/registrations/{}", escape(id)), Some(register)).await
    }

    /// `DELETE /v1/registrations/{id}`. Returns it as it was.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unregister(&self, id: &str) -> Result<Registered, ClientError> {
        self.call(Method::DELETE, &format!("/v1/registrations/{}", escape(id)), NOTHING).await
    }

    /// `GET /v1/services/{namespace}/{name}/leader`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leader(&self, of: &ServiceName) -> Result<LeaderView, ClientError> {
        self.call(Method::GET, &format!("/v1/services/{of}/leader"), NOTHING).await
    }

    /// `PUT /v1/services/{namespace}/{name}/leader`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leader_set(&self, of: &ServiceName, set: &LeaderSet) -> Result<LeaderView, ClientError> {
        self.call(Method::PUT, &format!("/v1/services/{of}/leader"), Some(set)).await
    }

    /// `DELETE /v1/services/{namespace}/{name}/leader`: the oldest leads again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leader_unset(&self, of: &ServiceName) -> Result<LeaderView, ClientError> {
        self.call(Method::DELETE, &format!("/v1/services/{of}/leader"), NOTHING).await
    }
}
