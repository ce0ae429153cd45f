//! Services and their virtual IPs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_model::endpoint::EndpointState;
use weft_model::ids::{Namespace, NetworkName, NodeName, ServiceLabel, ServiceName};
use weft_model::service::ServicePort;

/// A service with what it stands for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ServiceLabel,
    /// Its IPv4 virtual IP, or its only one; none if headless.
    pub vip: Option<IpAddr>,
    /// All of them.
    pub vips: Vec<IpAddr>,
    /// What they listen on.
    pub ports: Vec<ServicePort>,
    /// The backends of its first port, in use or not.
    pub backends: Vec<BackendView>,
    /// Labels that its endpoints bear; empty means all records below its name.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Its full DNS name.
    #[serde(default)]
    pub dns_name: String,
    /// Endpoints that are not backends, and why.
    #[serde(default)]
    pub rejected: Vec<RejectedView>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// The endpoint's id.
    pub id: String,
    /// Its address.
    pub address: IpAddr,
    /// Where connections to the service's port go.
    pub port: u16,
    /// The host that answers for it.
    pub node: Option<NodeName>,
    /// Whether it takes traffic.
    pub state: EndpointState,
    /// Whether new connections go to it now.
    #[serde(default)]
    pub used: bool,
}

/// An endpoint that is no backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedView {
    /// The endpoint's id.
    pub id: String,
    /// The address in question, if it has one.
    pub address: Option<IpAddr>,
    /// Why.
    pub reason: String,
}

/// `POST /v1/services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCreate {
    /// Its name.
    pub service: ServiceName,
    /// What its virtual IP listens on.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Labels that its endpoints bear.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// This virtual IP and no other; it must lie in a service CIDR.
    #[serde(default)]
    pub vip: Option<IpAddr>,
    /// No virtual IP: the name stands for the instances.
    #[serde(default)]
    pub headless: bool,
    /// Whether addresses of hosts may be backends.
    #[serde(default)]
    pub allow_hosts: bool,
    /// The network it belongs to; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCreated {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceView,
    /// What the name answered before.
    pub answered_before: Vec<IpAddr>,
    /// Names of the same label that it takes the name from.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl ServiceView {
    /// Namespace and name.
    #[must_use]
    pub fn full_name(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}
