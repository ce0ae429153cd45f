//! The networks besides the default one: created, listed, removed.

use ipnet::IpNet;
use weft_api::{Network, NetworkCreate};
use weft_model::ids::NetworkName;
use weft_model::network::{Backend, DEFAULT_VXLAN_PORT, NetworkConfig};
use weft_model::snapshot::Snapshot;
use weft_store::Outcome;

use super::Admin;
use super::cluster::{network_view, overlap};
use crate::claim::holder_of;
use crate::refusal::Refusal;

/// A node's capability that says that it has containers in a network.
pub const IN_USE: &str = "network=";

impl Admin {
    /// All of them, the default one first.
    pub(super) fn networks(&self) -> Result<Vec<Network>, Refusal> {
        let snapshot = self.snapshot()?;
        let default = snapshot.network().map(|config| network_view(config, &snapshot));
        let others = snapshot.networks().map(|(name, stored)| named(name, &stored.value, &snapshot));
        Ok(default.into_iter().chain(others).collect())
    }

    pub(super) fn network_named(&self, name: &str) -> Result<Network, Refusal> {
        let snapshot = self.snapshot()?;
        let parsed: Option<NetworkName> = name.parse().ok();
        if parsed.as_ref().is_some_and(NetworkName::is_default) {
            return self.network();
        }
        let found = parsed.and_then(|name| snapshot.network_named(&name).map(|stored| named(&name, &stored.value, &snapshot)));
        found.ok_or_else(|| unknown("network show", name))
    }

    /// Creates a network. Asked again with the same words, it says the same.
    pub(super) async fn network_create(&self, create: NetworkCreate) -> Result<Network, Refusal> {
        let snapshot = self.snapshot()?;
        let backend = Backend { vni: create.vni, port: create.port.unwrap_or(DEFAULT_VXLAN_PORT), ..Backend::default() };
        let config = NetworkConfig::new(create.cidr.trunc(), create.subnet_len.unwrap_or(0), None, None, backend)
            .map_err(|e| Refusal::invalid(format!("network create: {e}")))?;
        let name = create.name;
        if name.is_default() {
            return Err(Refusal::invalid("network create: the default network is made by netctl network init"));
        }
        if let Some(there) = snapshot.network_named(&name) {
            if there.value == config {
                return Ok(named(&name, &config, &snapshot));
            }
            return Err(Refusal::conflict(format!(
                "network create: there is a network {name} already, and it differs: {}",
                there.value.to_json()
            )));
        }
        if let Some(why) = clash(&snapshot, &name, &config) {
            return Err(Refusal::conflict(format!("network create: {why}")));
        }
        let written = self.registry.create_network(&name, &config).await;
        let at = match written.map_err(|e| Refusal::store("network create", &e))? {
            Outcome::Done(revision) => revision,
            Outcome::Refused(_) => {
                return Err(Refusal::conflict(format!("network create: somebody else made {name} at the same time; try again")));
            }
        };
        self.echo(at).await;
        // Two that were made at once may clash: the later one goes.
        let snapshot = self.snapshot()?;
        if let Some(why) = clash(&snapshot, &name, &config).filter(|_| snapshot.revision() >= at) {
            let undone = self.registry.remove_network(&name, at, &[]).await;
            undone.map_err(|e| Refusal::store("network create", &e))?;
            return Err(Refusal::conflict(format!("network create: {why}, which was made at the same time")));
        }
        Ok(named(&name, &config, &snapshot))
    }

    /// Removes a network that nobody uses. Returns it as it was.
    pub(super) async fn network_rm(&self, name: &str) -> Result<Network, Refusal> {
        let snapshot = self.snapshot()?;
        let parsed: NetworkName = name.parse().map_err(|_| unknown("network rm", name))?;
        if parsed.is_default() {
            return Err(Refusal::invalid("network rm: the default network is the operator's; it stands in the store"));
        }
        let stored = snapshot.network_named(&parsed).ok_or_else(|| unknown("network rm", name))?;
        if let Some(who) = user(&snapshot, &parsed) {
            return Err(Refusal::conflict(format!("network rm: {name} is in use: {who}")));
        }
        let gone = named(&parsed, &stored.value, &snapshot);
        let scoped = snapshot.in_network(&parsed);
        let leases: Vec<_> = scoped.leases().map(|(key, _)| *key).collect();
        let written = self.registry.remove_network(&parsed, stored.modified, &leases).await;
        match written.map_err(|e| Refusal::store("network rm", &e))? {
            Outcome::Done(revision) => self.echo(revision).await,
            Outcome::Refused(_) => {
                return Err(Refusal::conflict(format!("network rm: {name} was changed at the same time; try again")));
            }
        }
        Ok(gone)
    }
}

fn unknown(what: &str, name: &str) -> Refusal {
    Refusal::not_found(format!("{what}: there is no network {name}; netctl network list shows those there are"))
}

pub(super) fn named(name: &NetworkName, config: &NetworkConfig, snapshot: &Snapshot) -> Network {
    Network { name: name.clone(), ..network_view(config, &snapshot.in_network(name)) }
}

/// What a network would get in the way of: other networks, virtual IPs, hosts. Of two that clash the one made later is meant.
fn clash(snapshot: &Snapshot, name: &NetworkName, config: &NetworkConfig) -> Option<String> {
    let Some(default) = snapshot.network() else {
        return Some(format!(
            "there is no default network yet ({}): netctl network init --cidr 10.244.0.0/16",
            snapshot.layout().network_config()
        ));
    };
    let made = snapshot.network_named(name).map(|stored| (stored.created, name));
    let before = |other: &NetworkName, created| made.is_none_or(|made| (created, other) < made);
    let others = snapshot.networks().filter(|(other, stored)| *other != name && before(other, stored.created));
    let others: Vec<(String, &NetworkConfig)> = std::iter::once(("the default network".to_owned(), default))
        .chain(others.map(|(other, stored)| (format!("network {other}"), &stored.value)))
        .collect();
    let cidr = IpNet::V4(config.network);
    for (what, other) in &others {
        if overlap(cidr, IpNet::V4(other.network)) {
            return Some(format!("{} overlaps {}, the range of {what}", config.network, other.network));
        }
        if other.backend.vni == config.backend.vni {
            return Some(format!("VNI {} is that of {what}; choose another with --vni", config.backend.vni));
        }
    }
    if let Some(range) = snapshot.cluster().service_cidrs.iter().find(|range| overlap(**range, cidr)) {
        return Some(format!("{} overlaps {range}, a range of virtual IPs (netctl config show)", config.network));
    }
    let hosts = snapshot.leases().filter_map(|(_, lease)| Some((lease.value.public_ip?, holder_of(&lease.value))));
    if let Some((ip, host)) = hosts.into_iter().find(|(ip, _)| config.network.contains(ip)) {
        return Some(format!("{} holds {ip}, the address of {host}", config.network));
    }
    let ports: std::collections::BTreeSet<u16> =
        others.iter().map(|(_, other)| other.backend.port).chain([config.backend.port]).collect();
    if ports.len() > weft_abi::maps::PORTS {
        return Some(format!("all networks together may have {} different UDP ports", weft_abi::maps::PORTS));
    }
    None
}

/// Who uses a network.
fn user(snapshot: &Snapshot, name: &NetworkName) -> Option<String> {
    let service = snapshot.services().find(|(_, s)| s.value.network.as_ref() == Some(name));
    if let Some((service, _)) = service {
        return Some(format!("service {service} belongs to it; netctl service rm {service}"));
    }
    let using = format!("{IN_USE}{name}");
    let node = snapshot.nodes().find(|(_, node)| node.value.capabilities.contains(&using));
    if let Some((node, _)) = node {
        return Some(format!("containers on {node} are in it; detach them (netctl attachment list there)"));
    }
    let of_network = |r: &&std::sync::Arc<weft_model::endpoint::Endpoint>| r.network.as_ref() == Some(name);
    snapshot.endpoints().find(of_network).map(|e| format!("endpoint {} is in it", e.path.dns_name()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::ids::Revision;
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;

    fn world() -> Snapshot {
        let entries = [
            ("/coreos.com/network/config", r#"{"Network":"10.244.0.0/16"}"#),
            (
                "/coreos.com/network/subnets/10.244.1.0-24",
                r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw","weft":{"node":"h1"}}"#,
            ),
            ("/weft/v1/networks/blue", r#"{"Network":"10.245.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#),
            ("/weft/v1/networks/red", r#"{"Network":"10.246.0.0/16","Backend":{"Type":"vxlan","VNI":8}}"#),
            ("/weft/v1/nodes/h1", r#"{"node":"h1","capabilities":["network=blue"]}"#),
        ];
        let entry = |(key, value): (&str, &str)| Entry {
            key: key.into(),
            value: value.into(),
            lease: None,
            created: Revision(5),
            modified: Revision(5),
        };
        Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries.into_iter().map(entry).collect(), None)
    }

    #[test]
    fn ranges_and_vnis_of_networks_are_their_own() {
        let clash = |cidr: &str, vni| {
            let backend = Backend { vni, ..Backend::default() };
            let config = NetworkConfig::new(cidr.parse().unwrap(), 0, None, None, backend).unwrap();
            super::clash(&world(), &"new".parse().unwrap(), &config)
        };
        assert_eq!(clash("10.247.0.0/16", 9), None);
        for (cidr, vni, why) in [
            ("10.244.128.0/20", 9, "the range of the default network"),
            ("10.245.0.0/20", 9, "the range of network blue"),
            ("10.247.0.0/16", 1, "VNI 1 is that of the default network"),
            ("10.247.0.0/16", 7, "VNI 7 is that of network blue"),
            ("10.112.0.0/20", 9, "a range of virtual IPs"),
            ("192.0.2.0/24", 9, "holds 192.0.2.1, the address of h1"),
        ] {
            let said = clash(cidr, vni).unwrap();
            assert!(said.contains(why), "{cidr} {vni}: {said}");
        }
    }

    #[test]
    fn a_network_with_containers_is_in_use() {
        let user = |name: &str| super::user(&world(), &name.parse().unwrap());
        assert!(user("blue").unwrap().contains("containers on h1"));
        assert_eq!(user("red"), None);
    }
}
