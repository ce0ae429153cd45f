//! Endpoints: what can take traffic.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::endpoint::{EndpointPort, EndpointState};
use weft_model::ids::{EndpointId, NetworkName, NodeName, Revision, ServiceName};
use weft_model::record::Kind;

/// One endpoint: a row of `endpoint list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointView {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<EndpointPort>,
    /// The host that answers for it; none for one outside.
    pub node: Option<NodeName>,
    /// Whether it takes traffic.
    pub state: EndpointState,
    /// The service that its name is below.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// Whether it may be a backend.
    #[serde(default)]
    pub kind: Kind,
    /// Its full name.
    #[serde(default)]
    pub dns_name: String,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The names it stands for, where its host is one.
    #[serde(default)]
    pub host_names: Vec<String>,
    /// The network its addresses are in; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Whether it is down because its checks fail, and for no other reason.
    #[serde(default)]
    pub unhealthy: bool,
    /// SRV priority: the lower, the sooner.
    #[serde(default)]
    pub priority: u16,
    /// SRV weight relative to its siblings; 0 counts as 100.
    #[serde(default)]
    pub weight: u32,
    /// Whether somebody has put it there to stay, and no agent keeps it alive.
    #[serde(default)]
    pub permanent: bool,
    /// The store's revision at which it was last written.
    #[serde(default)]
    pub revision: Revision,
}

/// `POST /v1/endpoints`: an endpoint outside of Weft's own containers. It stays until it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointAdd {
    /// The service it is an instance of.
    pub service: ServiceName,
    /// Its id; none makes one of the address.
    #[serde(default)]
    pub id: Option<EndpointId>,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    #[serde(default)]
    pub port: Option<u16>,
    /// The port's name.
    #[serde(default)]
    pub port_name: String,
    /// The port's protocol.
    #[serde(default)]
    pub proto: weft_model::record::Proto,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `PUT /v1/endpoints/{namespace}/{service}/{id}`: all that an endpoint outside of Weft's own containers is. It stays until it is
/// removed; what is left out goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// Its addresses: at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Its ports, no two of one name and protocol; none means that services go to their own port.
    #[serde(default)]
    pub ports: Vec<EndpointPort>,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Whether it may be a backend.
    #[serde(default)]
    pub kind: Kind,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// SRV priority: the lower, the sooner; 0 is the default one.
    #[serde(default)]
    pub priority: u16,
    /// SRV weight relative to its siblings; 0 counts as 100.
    #[serde(default)]
    pub weight: u32,
    /// The network its addresses are in; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
}
