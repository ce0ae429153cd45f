//! The network's configuration, the cluster's settings, and the hosts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use weft_api::{Code, Config, ConfigChange, Network, NetworkInit, NodeView};
use weft_model::cluster::ClusterConfig;
use weft_model::ids::NetworkName;
use weft_model::network::{Backend, DEFAULT_VNI, DEFAULT_VXLAN_PORT, NetworkConfig, V6Range};
use weft_model::snapshot::Snapshot;
use weft_store::Outcome;

use super::Admin;
use super::views::{node_names, node_view};
use crate::refusal::Refusal;

impl Admin {
    pub(super) fn network(&self) -> Result<Network, Refusal> {
        let snapshot = self.snapshot()?;
        let config = snapshot.network().ok_or_else(|| {
            Refusal::not_found(format!(
                "there is no network yet ({}): netctl network init --cidr 10.244.0.0/16",
                snapshot.layout().network_config()
            ))
        })?;
        Ok(network_view(config, &snapshot))
    }

    pub(super) async fn network_init(&self, init: NetworkInit) -> Result<Network, Refusal> {
        let backend = Backend {
            vni: init.vni.unwrap_or(DEFAULT_VNI),
            port: init.port.unwrap_or(DEFAULT_VXLAN_PORT),
            mtu: init.mtu.unwrap_or(0),
            ..Backend::default()
        };
        if backend.vni == 0 || backend.vni > 0xff_ffff || backend.port == 0 {
            return Err(Refusal::invalid("network init: VNI is 1 to 16777215, port 1 to 65535"));
        }
        let config =
            NetworkConfig::new(init.cidr.trunc(), init.subnet_len.unwrap_or(0), init.subnet_min, init.subnet_max, backend)
                .map_err(|e| Refusal::invalid(format!("network init: {e}")))?;
        let v6 = match (init.cidr6, init.subnet_len6) {
            (Some(cidr6), len) => Some(
                V6Range::new(cidr6.trunc(), len.unwrap_or(0), None, None)
                    .map_err(|e| Refusal::invalid(format!("network init: {e}")))?,
            ),
            (None, Some(_)) => return Err(Refusal::invalid("network init: --subnet-len6 needs --cidr6")),
            (None, None) => None,
        };
        let config = NetworkConfig { v6, ..config };
        if (1..MIN_UNDERLAY_MTU).contains(&config.backend.mtu) {
            return Err(Refusal::invalid(format!(
                "network init: --mtu {} is too small: {MIN_UNDERLAY_MTU} is the least",
                config.backend.mtu
            )));
        }
        let snapshot = self.snapshot()?;
        for cidr in &snapshot.cluster().service_cidrs {
            if let Some(network) = networks(&config).find(|network| overlap(*cidr, *network)) {
                return Err(Refusal::invalid(format!(
                    "network init: {network} overlaps {cidr}, the range of virtual IPs (netctl config show)"
                )));
            }
        }
        // The store decides, even where the view already shows this configuration: the view may be of a store that has since
        // been made anew.
        match self.registry.write_network(&config, init.force).await.map_err(|e| Refusal::store("network init", &e))? {
            Outcome::Done(revision) => self.echo(revision).await,
            Outcome::Refused(revision) => {
                self.echo(revision).await;
                let snapshot = self.snapshot()?;
                let garbled = snapshot.bad_at(&snapshot.layout().network_config()).is_some();
                let there = snapshot.network().filter(|_| !garbled);
                if there == Some(&config) {
                    return Ok(network_view(&config, &snapshot));
                }
                let there = there.map_or_else(|| "one that does not parse".to_owned(), NetworkConfig::to_json);
                return Err(Refusal::conflict(format!(
                    "network init: there is a configuration already, and it differs: {there}; --force replaces it"
                )));
            }
        }
        Ok(network_view(&config, &*self.snapshot()?))
    }

    pub(super) fn config(&self) -> Result<Config, Refusal> {
        let cluster = self.snapshot()?.cluster();
        Ok(Config { service_cidrs: cluster.service_cidrs.clone(), dns_domain: cluster.dns_domain.clone() })
    }

    pub(super) async fn config_change(&self, change: ConfigChange) -> Result<Config, Refusal> {
        let snapshot = self.snapshot()?;
        let stored = snapshot.stored_cluster();
        let mut cluster: ClusterConfig = stored.map(|s| s.value.clone()).unwrap_or_default();
        if let Some(cidrs) = change.service_cidrs {
            cluster.service_cidrs = cidrs;
        }
        if let Some(domain) = change.dns_domain {
            cluster.dns_domain = domain;
        }
        cluster.check().map_err(|why| Refusal::invalid(format!("config set: {why}")))?;
        for cidr in &cluster.service_cidrs {
            if let Some(why) = unfit_service_cidr(*cidr, &snapshot) {
                return Err(Refusal::invalid(format!("config set: {cidr}: {why}; names and connections would be cut off")));
            }
        }
        let outside = snapshot.vips().find(|(vip, _)| !cluster.service_cidrs.iter().any(|c| c.contains(*vip)));
        if let Some((vip, owner)) = outside {
            return Err(Refusal::conflict(format!(
                "config set: {vip} of service {} would lie outside of service_cidrs",
                owner.value.service
            )));
        }
        // A value that does not parse is replaced like one that does.
        let bad = snapshot.bad_at(&snapshot.layout().cluster_config()).map(|bad| bad.modified);
        let written = self.registry.write_cluster(&cluster, bad.or(stored.map(|s| s.modified))).await;
        match written.map_err(|e| Refusal::store("config set", &e))? {
            Outcome::Done(revision) => self.echo(revision).await,
            Outcome::Refused(_) => {
                return Err(Refusal::conflict("config set: somebody else changed the settings at the same time; try again"));
            }
        }
        Ok(Config { service_cidrs: cluster.service_cidrs, dns_domain: cluster.dns_domain })
    }

    pub(super) fn nodes(&self) -> Result<Vec<NodeView>, Refusal> {
        let snapshot = self.snapshot()?;
        let mut endpoints: BTreeMap<&str, usize> = BTreeMap::new();
        for node in snapshot.endpoints().filter_map(|e| e.node.as_ref()) {
            *endpoints.entry(node.as_str()).or_default() += 1;
        }
        let views = node_names(&snapshot).into_iter().filter_map(|name| node_view(&snapshot, &name));
        let views = views.map(|view| NodeView {
            endpoints: endpoints.get(view.node.as_str()).copied().unwrap_or(0),
            this: view.is(&self.node),
            ..view
        });
        Ok(views.collect())
    }

    pub(super) fn node(&self, name: &str) -> Result<NodeView, Refusal> {
        let found = self.nodes()?.into_iter().find(|n| n.node == name);
        found.ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("there is no node {name}; netctl node list shows those there are"))
        })
    }
}

/// The least MTU of an underlay: what every IPv4 host must take (RFC 791 3.1) and the tunnel's headers.
pub(super) const MIN_UNDERLAY_MTU: u32 = 576 + weft_abi::ENCAP_OVERHEAD;

/// The largest range of virtual IPs that is not taken for a slip.
const MIN_SERVICE_PREFIX_V4: u8 = 8;

/// The network, and the IPv6 one beside it.
fn networks(config: &NetworkConfig) -> impl Iterator<Item = IpNet> + use<> {
    let v6 = config.v6.as_ref().map(|range| IpNet::V6(range.network));
    [Some(IpNet::V4(config.network)), v6].into_iter().flatten()
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Why no virtual IPs can be taken from a range: everything in it that is not one is refused at connect().
fn unfit_service_cidr(cidr: IpNet, snapshot: &Snapshot) -> Option<String> {
    if let Some(network) = snapshot.network().and_then(|config| networks(config).find(|network| overlap(cidr, *network))) {
        return Some(format!("overlaps {network}, the containers' network"));
    }
    let IpNet::V4(v4) = cidr else { return None };
    if v4.prefix_len() < MIN_SERVICE_PREFIX_V4 {
        return Some(format!("is larger than a /{MIN_SERVICE_PREFIX_V4}"));
    }
    let special = [
        (Ipv4Addr::UNSPECIFIED, 8, "is no place for addresses (RFC 1122)"),
        (Ipv4Addr::LOCALHOST, 8, "is the hosts' own loopback"),
        (Ipv4Addr::new(169, 254, 0, 0), 16, "is link-local"),
        (Ipv4Addr::new(224, 0, 0, 0), 3, "is multicast or reserved"),
    ];
    for (address, len, why) in special {
        if Ipv4Net::new(address, len).is_ok_and(|net| overlap(cidr, IpNet::V4(net.trunc()))) {
            return Some(why.to_owned());
        }
    }
    if let Some((name, other)) = snapshot.networks().find(|(_, n)| overlap(cidr, IpNet::V4(n.value.network))) {
        return Some(format!("overlaps {}, the range of network {name}", other.value.network));
    }
    let of_lease = snapshot.leases().map(|(_, lease)| lease.value.address());
    let of_nodes = snapshot.nodes().filter_map(|(_, node)| node.value.public_ip.map(IpAddr::V4));
    of_lease.chain(of_nodes).find(|ip| cidr.contains(ip)).map(|ip| format!("holds {ip}, the address of a host"))
}

pub(super) fn network_view(config: &NetworkConfig, snapshot: &Snapshot) -> Network {
    let taken = snapshot.leases().filter(|(key, _)| config.network.contains(&key.subnet)).count();
    Network {
        name: NetworkName::default_network(),
        cidr: config.network,
        subnet_len: config.subnet_len,
        subnet_min: config.subnet_min,
        subnet_max: config.subnet_max,
        cidr6: config.v6.as_ref().map(|range| range.network),
        subnet_len6: config.v6.as_ref().map(|range| range.subnet_len),
        subnet_min6: config.v6.as_ref().map(|range| range.subnet_min),
        subnet_max6: config.v6.as_ref().map(|range| range.subnet_max),
        vni: config.backend.vni,
        port: config.backend.port,
        mtu: Some(config.backend.mtu).filter(|m| *m != 0),
        capacity: config.capacity(),
        taken: u32::try_from(taken).unwrap_or(u32::MAX),
        notes: Vec::new(),
    }
}
