//! Services and their virtual IPs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::check::Check;
use weft_model::endpoint::EndpointState;
use weft_model::ids::{Namespace, NetworkName, NodeName, Revision, ServiceLabel, ServiceName};
use weft_model::passive::Passive;
use weft_model::policy::{Affinity, Algorithm, Prefer};
use weft_model::selector::Requirement;
use weft_model::service::{Service, ServicePort};

/// A service with what it stands for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Labels that its endpoints bear; with no `expressions` either it has all records below its name.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Its full DNS name.
    #[serde(default)]
    pub dns_name: String,
    /// Endpoints that are not backends, and why.
    #[serde(default)]
    pub rejected: Vec<RejectedView>,
    /// What else holds for its endpoints' labels.
    #[serde(default)]
    pub expressions: Vec<Requirement>,
    /// The name that its own stands for.
    #[serde(default)]
    pub external_name: Option<String>,
    /// Its own labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether addresses of hosts may be backends.
    #[serde(default)]
    pub allow_hosts: bool,
    /// The network it belongs to; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// How one of its backends is chosen; none is at random.
    #[serde(default)]
    pub algorithm: Option<Algorithm>,
    /// Whether a client stays with its backend.
    #[serde(default)]
    pub affinity: Option<Affinity>,
    /// Which endpoints are asked before the others.
    #[serde(default)]
    pub prefer: Option<Prefer>,
    /// Below how many percent of healthy endpoints checks are not believed; 0 is "when none would be left".
    #[serde(default)]
    pub panic: u8,
    /// How its endpoints are asked whether they are well, those that have no check of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// When a host asks other backends first because its connections to one fail; none is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<Passive>,
    /// Whether endpoints are in use that their checks call down, because too few others are left.
    #[serde(default)]
    pub panicking: bool,
    /// How many endpoints new connections go to, or the name leads to.
    #[serde(default)]
    pub ready: usize,
    /// How many endpoints there are, whatever their state.
    #[serde(default)]
    pub total: usize,
    /// What others claim as well, and who has it.
    #[serde(default)]
    pub conflicts: Vec<String>,
    /// What is kept with it and makes no difference yet.
    #[serde(default)]
    pub not_applied: Vec<String>,
    /// When its definition was last changed.
    #[serde(default)]
    pub revision: Revision,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Why others are asked first on the host that answers, and until when: connections from there failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
}

/// An endpoint that is no backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RejectedView {
    /// The endpoint's id.
    pub id: String,
    /// The address in question, if it has one.
    pub address: Option<IpAddr>,
    /// Why.
    pub reason: String,
}

/// `PUT /v1/services/{namespace}/{name}`: all that a service is. What is left out is not so, but for its virtual IPs: those stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What its virtual IPs listen on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Labels that its endpoints bear; with no `expressions` either it has all records below its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// What else holds for its endpoints' labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<Requirement>,
    /// The name that its own stands for: a DNS name, lower case, without its final dot. It then has no virtual IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Its own labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// These virtual IPs and no others, each in a service CIDR; none: those that it has, else a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vips: Option<Vec<IpAddr>>,
    /// No virtual IP: the name stands for the instances.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    /// Whether addresses of hosts may be backends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_hosts: bool,
    /// The network it belongs to; none is the default one. It cannot pass to another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// How one of its backends is chosen; none is at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Whether a client stays with its backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Which endpoints are asked before the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Prefer>,
    /// Below how many percent of healthy endpoints checks are not believed, 0 to 100; 0 is "when none would be left".
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(max = 100))]
    pub panic: u8,
    /// How its endpoints are asked whether they are well, those that have no check of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// When a host asks other backends first because its connections to one fail; none is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<Passive>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

impl ServiceSpec {
    /// The service that it describes, with these virtual IPs. What it does not speak of stays as it is in `base`.
    #[must_use]
    pub fn service(&self, base: Service, vips: Vec<IpAddr>) -> Service {
        let Self {
            ports,
            selector,
            expressions,
            external_name,
            labels,
            allow_hosts,
            network,
            algorithm,
            affinity,
            prefer,
            panic,
            check,
            passive,
            ..
        } = self.clone();
        let network = network.filter(|network| !network.is_default());
        Service {
            ports,
            selector,
            expressions,
            external_name,
            labels,
            vips,
            network,
            allow_hosts,
            algorithm,
            affinity,
            prefer,
            panic,
            check,
            passive,
            ..base
        }
    }
}

impl From<&ServiceView> for ServiceSpec {
    /// What a service is now, its virtual IPs left to stay.
    fn from(view: &ServiceView) -> Self {
        let ServiceView { ports, selector, expressions, external_name, labels, .. } = view.clone();
        Self {
            ports,
            selector,
            expressions,
            labels,
            vips: None,
            headless: view.vips.is_empty() && external_name.is_none(),
            external_name,
            allow_hosts: view.allow_hosts,
            network: view.network.clone(),
            algorithm: view.algorithm,
            affinity: view.affinity,
            prefer: view.prefer,
            panic: view.panic,
            check: view.check.clone(),
            passive: view.passive,
        }
    }
}

/// `POST /v1/services`: as [`ServiceSpec`], of one that there is not yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// What else holds for its endpoints' labels.
    #[serde(default)]
    pub expressions: Vec<Requirement>,
    /// The name that its own stands for.
    #[serde(default)]
    pub external_name: Option<String>,
    /// Its own labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Further virtual IPs.
    #[serde(default)]
    pub vips: Vec<IpAddr>,
    /// How one of its backends is chosen; none is at random.
    #[serde(default)]
    pub algorithm: Option<Algorithm>,
    /// Whether a client stays with its backend.
    #[serde(default)]
    pub affinity: Option<Affinity>,
    /// Which endpoints are asked before the others.
    #[serde(default)]
    pub prefer: Option<Prefer>,
    /// Below how many percent of healthy endpoints checks are not believed.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub panic: u8,
    /// How its endpoints are asked whether they are well, those that have no check of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// When a host asks other backends first because its connections to one fail; none is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<Passive>,
}

impl ServiceCreate {
    /// Its name, and all that it is to be.
    #[must_use]
    pub fn into_spec(self) -> (ServiceName, ServiceSpec) {
        let vips: Vec<IpAddr> = self.vip.into_iter().chain(self.vips).collect();
        let spec = ServiceSpec {
            ports: self.ports,
            selector: self.selector,
            expressions: self.expressions,
            external_name: self.external_name,
            labels: self.labels,
            vips: Some(vips).filter(|vips| !vips.is_empty()),
            headless: self.headless,
            allow_hosts: self.allow_hosts,
            network: self.network,
            algorithm: self.algorithm,
            affinity: self.affinity,
            prefer: self.prefer,
            panic: self.panic,
            check: self.check,
            passive: self.passive,
        };
        (self.service, spec)
    }
}

impl From<(ServiceName, ServiceSpec)> for ServiceCreate {
    fn from((service, spec): (ServiceName, ServiceSpec)) -> Self {
        Self {
            service,
            ports: spec.ports,
            selector: spec.selector,
            vip: None,
            headless: spec.headless,
            allow_hosts: spec.allow_hosts,
            network: spec.network,
            expressions: spec.expressions,
            external_name: spec.external_name,
            labels: spec.labels,
            vips: spec.vips.unwrap_or_default(),
            algorithm: spec.algorithm,
            affinity: spec.affinity,
            prefer: spec.prefer,
            panic: spec.panic,
            check: spec.check,
            passive: spec.passive,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
