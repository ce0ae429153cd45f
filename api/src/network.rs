//! The network's configuration, and the settings that are equal on all hosts.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::ids::{NetworkName, NodeName};

/// The network as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// Its name; that of `--network-prefix` is `default`.
    #[serde(default = "NetworkName::default_network")]
    pub name: NetworkName,
    /// The whole network.
    #[schemars(with = "crate::schema::Cidr4")]
    pub cidr: Ipv4Net,
    /// Prefix length of a host's subnet.
    pub subnet_len: u8,
    /// The first subnet that may be given.
    pub subnet_min: Ipv4Addr,
    /// The last subnet that may be given.
    pub subnet_max: Ipv4Addr,
    /// The IPv6 network beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr6>")]
    pub cidr6: Option<Ipv6Net>,
    /// Prefix length of a host's IPv6 subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_len6: Option<u8>,
    /// The first IPv6 subnet that may be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_min6: Option<Ipv6Addr>,
    /// The last IPv6 subnet that may be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_max6: Option<Ipv6Addr>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// MTU of the underlay where it is not the uplink's own.
    pub mtu: Option<u32>,
    /// Subnets there are to give.
    pub capacity: u32,
    /// Subnets given.
    pub taken: u32,
    /// What to know of a change that was just made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// `POST /v1/networks`: makes a network besides the default one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkCreate {
    /// Its name.
    pub name: NetworkName,
    /// The whole network.
    #[schemars(with = "crate::schema::Cidr4")]
    pub cidr: Ipv4Net,
    /// VXLAN network identifier, of no other network.
    pub vni: u32,
    /// Prefix length of a host's subnet; none is flannel's default (24 where there is room).
    #[serde(default)]
    pub subnet_len: Option<u8>,
    /// UDP port; none is 8472.
    #[serde(default)]
    pub port: Option<u16>,
}

/// `PATCH /v1/network`: what is named is changed, while the network runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkChange {
    /// The whole network.
    #[serde(default)]
    #[schemars(with = "Option<crate::schema::Cidr4>")]
    pub cidr: Option<Ipv4Net>,
    /// Prefix length of a host's subnet.
    #[serde(default)]
    pub subnet_len: Option<u8>,
    /// The first subnet that may be given.
    #[serde(default)]
    pub subnet_min: Option<Ipv4Addr>,
    /// The last subnet that may be given.
    #[serde(default)]
    pub subnet_max: Option<Ipv4Addr>,
    /// VXLAN network identifier.
    #[serde(default)]
    pub vni: Option<u32>,
    /// UDP port.
    #[serde(default)]
    pub port: Option<u16>,
    /// MTU of the underlay; 0 is the uplink's own.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Whether hosts on one link send each other packets as they are.
    #[serde(default)]
    pub direct_routing: Option<bool>,
    /// Do it although hosts are left with subnets that do not fit.
    #[serde(default)]
    pub force: bool,
}

/// `PUT /v1/network`: writes the configuration where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkInit {
    /// The whole network.
    #[schemars(with = "crate::schema::Cidr4")]
    pub cidr: Ipv4Net,
    /// Prefix length of a host's subnet; none is flannel's default (24 where there is room).
    #[serde(default)]
    pub subnet_len: Option<u8>,
    /// The first subnet that may be given.
    #[serde(default)]
    pub subnet_min: Option<Ipv4Addr>,
    /// The last subnet that may be given.
    #[serde(default)]
    pub subnet_max: Option<Ipv4Addr>,
    /// An IPv6 network beside it; none is IPv4 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr6>")]
    pub cidr6: Option<Ipv6Net>,
    /// Prefix length of a host's IPv6 subnet; none is flannel's default (64 where there is room).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_len6: Option<u8>,
    /// VXLAN network identifier; none is 1.
    #[serde(default)]
    pub vni: Option<u32>,
    /// UDP port; none is 8472.
    #[serde(default)]
    pub port: Option<u16>,
    /// MTU of the underlay where it is not the uplink's own.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Replace a configuration that is there and differs.
    #[serde(default)]
    pub force: bool,
}

/// A subnet that is kept for one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReservationView {
    /// The subnet.
    #[schemars(with = "crate::schema::Cidr4")]
    pub subnet: Ipv4Net,
    /// The host; one that runs flannel is called by its tunnel address.
    pub node: NodeName,
    /// Who has the subnet, or a part of it; none while it waits for its host.
    pub holder: Option<String>,
    /// Whether that is the host it is kept for.
    pub held: bool,
    /// What is not as it was meant, and what to do about it.
    #[serde(default)]
    pub note: Option<String>,
}

/// `POST /v1/reservations`: keeps a subnet for a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reserve {
    /// The host, whether it is there yet or not.
    pub node: NodeName,
    /// The subnet.
    #[schemars(with = "crate::schema::Cidr4")]
    pub subnet: Ipv4Net,
}

/// Settings that are equal on all hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// Where virtual IPs are taken from.
    #[schemars(with = "Vec<crate::schema::Cidr>")]
    pub service_cidrs: Vec<IpNet>,
    /// The domain of names, with its final dot.
    pub dns_domain: String,
}

/// `PATCH /v1/config`: what is named is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigChange {
    /// Where virtual IPs are taken from.
    #[serde(default)]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub service_cidrs: Option<Vec<IpNet>>,
    /// The domain of names.
    #[serde(default)]
    pub dns_domain: Option<String>,
}
