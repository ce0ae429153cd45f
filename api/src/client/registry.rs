//! Asking for parts of lists, and writing by compare-and-swap: namespaces, endpoints, services.

use hyper::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use weft_model::ids::{EndpointId, Namespace, ServiceName};

use super::{Client, ClientError, NOTHING};
use crate::{
    CONTINUE_HEADER, EndpointSpec, EndpointView, ListQuery, NamespacePut, NamespaceView, Page, Precondition, ServiceCreated,
    ServiceSpec, ServiceView,
};

impl Client {
    /// `GET /v1/namespaces`.
    ///
    /// # Errors
    /// See [`ClientError`], here and below.
    pub async fn namespaces(&self) -> Result<Vec<NamespaceView>, ClientError> {
        self.call(Method::GET, "/v1/namespaces", NOTHING).await
    }

    /// `PUT /v1/namespaces/{namespace}`: declares it. Declaring it again changes nothing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn namespace_put(
        &self,
        namespace: &Namespace,
        condition: Precondition,
        dry_run: bool,
    ) -> Result<NamespaceView, ClientError> {
        let path = format!("/v1/namespaces/{namespace}{}", dry(dry_run));
        self.call_if(Method::PUT, &path, condition, Some(&NamespacePut::default())).await.map(|(view, _)| view)
    }

    /// `DELETE /v1/namespaces/{namespace}`. Returns it as it was.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn namespace_rm(
        &self,
        namespace: &Namespace,
        condition: Precondition,
        dry_run: bool,
    ) -> Result<NamespaceView, ClientError> {
        let path = format!("/v1/namespaces/{namespace}{}", dry(dry_run));
        self.call_if(Method::DELETE, &path, condition, NOTHING).await.map(|(view, _)| view)
    }

    /// `GET /v1/endpoints`, those that `query` chooses.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoints_where(&self, query: &ListQuery) -> Result<Page<EndpointView>, ClientError> {
        self.page("/v1/endpoints", query).await
    }

    /// `GET /v1/services`, those that `query` chooses.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn services_where(&self, query: &ListQuery) -> Result<Page<ServiceView>, ClientError> {
        self.page("/v1/services", query).await
    }

    /// `PUT /v1/endpoints/{namespace}/{service}/{id}`: an endpoint outside of Weft's containers, created or replaced.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoint_put(
        &self,
        service: &ServiceName,
        id: &EndpointId,
        spec: &EndpointSpec,
        condition: Precondition,
        dry_run: bool,
    ) -> Result<EndpointView, ClientError> {
        let path = format!("/v1/endpoints/{}/{}/{id}{}", service.namespace, service.name, dry(dry_run));
        self.call_if(Method::PUT, &path, condition, Some(spec)).await.map(|(view, _)| view)
    }

    /// `DELETE /v1/endpoints/{namespace}/{service}/{id}`. Returns it as it was.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn endpoint_delete(
        &self,
        service: &ServiceName,
        id: &EndpointId,
        condition: Precondition,
        dry_run: bool,
    ) -> Result<EndpointView, ClientError> {
        let path = format!("/v1/endpoints/{}/{}/{id}{}", service.namespace, service.name, dry(dry_run));
        self.call_if(Method::DELETE, &path, condition, NOTHING).await.map(|(view, _)| view)
    }

    /// `PUT /v1/services/{namespace}/{name}`: created, or replaced as a whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn service_put(
        &self,
        service: &ServiceName,
        spec: &ServiceSpec,
        condition: Precondition,
        dry_run: bool,
    ) -> Result<ServiceCreated, ClientError> {
        let path = format!("/v1/services/{}/{}{}", service.namespace, service.name, dry(dry_run));
        self.call_if(Method::PUT, &path, condition, Some(spec)).await.map(|(view, _)| view)
    }

    /// `DELETE /v1/services/{namespace}/{name}`, if it is as `condition` asks. Returns it as it was.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn service_delete(
        &self,
        service: &ServiceName,
        condition: Precondition,
        dry_run: bool,
    ) -> Result<ServiceView, ClientError> {
        let path = format!("/v1/services/{}/{}{}", service.namespace, service.name, dry(dry_run));
        self.call_if(Method::DELETE, &path, condition, NOTHING).await.map(|(view, _)| view)
    }

    async fn page<T: DeserializeOwned>(&self, path: &str, query: &ListQuery) -> Result<Page<T>, ClientError> {
        let path = format!("{path}{}", query.to_query());
        let (items, headers): (Vec<T>, HeaderMap) = self.call_if(Method::GET, &path, Precondition::None, NOTHING).await?;
        let next = headers.get(CONTINUE_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Page { items, next })
    }
}

pub(super) fn dry(dry_run: bool) -> &'static str {
    if dry_run { "?dry_run=true" } else { "" }
}
