//! `PATCH /v1/network`: changes the network's configuration while it runs.
//!
//! What is stored is edited as JSON, so that members which only flannel or another version knows stay as they are. What each
//! change does to hosts that run is in ARCHITECTURE.md, "What a change of the network's configuration does"; a change that
//! leaves hosts with subnets that do not fit is refused unless it is forced.

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use weft_api::{Network, NetworkChange};
use weft_model::network::NetworkConfig;
use weft_model::snapshot::Snapshot;
use weft_store::Outcome;

use super::Admin;
use super::cluster::{MIN_UNDERLAY_MTU, network_view, overlap};
use crate::claim::holder_of;
use crate::refusal::Refusal;

/// How many hosts a sentence names.
const HOSTS_SHOWN: usize = 5;

impl Admin {
    pub(super) async fn network_set(&self, change: NetworkChange) -> Result<Network, Refusal> {
        let snapshot = self.snapshot()?;
        let key = snapshot.layout().network_config();
        let stored = self.registry.store().get(key.as_bytes()).await;
        let (_, stored) = stored.map_err(|e| Refusal::store("network set", &e))?;
        let Some(stored) = stored else {
            return Err(Refusal::not_found(format!(
                "network set: there is no network yet ({key}): netctl network init --cidr 10.244.0.0/16"
            )));
        };
        let before = NetworkConfig::parse(&stored.value).map_err(|e| {
            Refusal::conflict(format!("network set: {key} does not parse: {e}; correct it, or netctl network init --force"))
        })?;
        let (text, config) = edited(&stored.value, &before, &change)?;
        check(&snapshot, &before, &config, change.force)?;
        if config != before {
            let written = self.registry.rewrite_network(&text, stored.modified).await;
            match written.map_err(|e| Refusal::store("network set", &e))? {
                Outcome::Done(revision) => self.echo(revision).await,
                Outcome::Refused(_) => {
                    return Err(Refusal::conflict("network set: somebody else changed it at the same time; try again"));
                }
            }
        }
        let snapshot = self.snapshot()?;
        Ok(Network { notes: notes(&snapshot, &before, &config), ..network_view(&config, &snapshot) })
    }
}

/// The stored text with the change in it, and what it says then.
fn edited(text: &[u8], before: &NetworkConfig, change: &NetworkChange) -> Result<(String, NetworkConfig), Refusal> {
    let invalid = |why: String| Refusal::invalid(format!("network set: {why}"));
    let mut object: Map<String, Value> = serde_json::from_slice(text).map_err(|e| invalid(e.to_string()))?;
    let mut put = |member: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(member.to_owned(), value);
        }
    };
    put("Network", change.cidr.map(|cidr| json!(cidr.trunc())));
    put("SubnetLen", change.subnet_len.map(|len| json!(len)));
    put("SubnetMin", change.subnet_min.map(|min| json!(min)));
    put("SubnetMax", change.subnet_max.map(|max| json!(max)));
    if change.cidr.is_some() || change.subnet_len.is_some() {
        // Limits that nobody chose follow the network that they were the limits of.
        let usual = NetworkConfig::new(before.network, before.subnet_len, None, None, before.backend.clone());
        let usual = usual.map_err(|e| invalid(e.to_string()))?;
        if change.subnet_min.is_none() && before.subnet_min == usual.subnet_min {
            object.remove("SubnetMin");
        }
        if change.subnet_max.is_none() && before.subnet_max == usual.subnet_max {
            object.remove("SubnetMax");
        }
    }
    let backend = object.entry("Backend").or_insert_with(|| json!({"Type": "vxlan"}));
    let backend = backend.as_object_mut().ok_or_else(|| invalid("Backend is no object".to_owned()))?;
    let options = [
        ("VNI", change.vni.map(|n| json!(n))),
        ("Port", change.port.map(|n| json!(n))),
        ("MTU", change.mtu.map(|n| json!(n))),
        ("DirectRouting", change.direct_routing.map(|on| json!(on))),
    ];
    for (option, value) in options {
        if let Some(value) = value {
            // flannel reads them without regard to case.
            backend.retain(|name, _| !name.eq_ignore_ascii_case(option));
            backend.insert(option.to_owned(), value);
        }
    }
    let text = Value::Object(object).to_string();
    let config = NetworkConfig::parse(text.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    if (1..MIN_UNDERLAY_MTU).contains(&config.backend.mtu) {
        return Err(invalid(format!("--mtu {} is too small: {MIN_UNDERLAY_MTU} is the least", config.backend.mtu)));
    }
    Ok((text, config))
}

/// Why the change is not to be made, if it is not.
fn check(snapshot: &Snapshot, before: &NetworkConfig, config: &NetworkConfig, force: bool) -> Result<(), Refusal> {
    if let Some(cidr) = snapshot.cluster().service_cidrs.iter().find(|cidr| overlap(**cidr, IpNet::V4(config.network))) {
        return Err(Refusal::invalid(format!(
            "network set: {} overlaps {cidr}, the range of virtual IPs (netctl config show)",
            config.network
        )));
    }
    if let Some((name, other)) = snapshot.networks().find(|(_, n)| overlap(IpNet::V4(n.value.network), IpNet::V4(config.network)))
    {
        return Err(Refusal::invalid(format!(
            "network set: {} overlaps {}, the range of network {name}",
            config.network, other.value.network
        )));
    }
    if let Some((name, _)) = snapshot.networks().find(|(_, n)| n.value.backend.vni == config.backend.vni) {
        return Err(Refusal::invalid(format!("network set: VNI {} is that of network {name}", config.backend.vni)));
    }
    let unfit = unfit(snapshot, before, config);
    if force || unfit.is_empty() {
        return Ok(());
    }
    let shown = unfit.iter().take(HOSTS_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = unfit.len().saturating_sub(HOSTS_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Refusal::conflict(format!(
        "network set: {shown}{more} would be left with subnets that the network does not give any more; those outside of {} are \
         cut off from other hosts; a host of ours moves when its last container is detached; --force does it",
        config.network
    )))
}

/// Hosts with subnets that fit before and would not any more.
fn unfit(snapshot: &Snapshot, before: &NetworkConfig, config: &NetworkConfig) -> Vec<String> {
    let leases = snapshot
        .leases()
        .filter(|(key, lease)| !lease.value.is_placeholder() && before.could_give(key.subnet) && !config.could_give(key.subnet));
    leases.map(|(key, lease)| format!("{} ({})", holder_of(&lease.value), key.subnet)).collect()
}

/// What the operator should know of what was just done.
fn notes(snapshot: &Snapshot, before: &NetworkConfig, config: &NetworkConfig) -> Vec<String> {
    let mut notes = Vec::new();
    if config == before {
        return notes;
    }
    if (config.backend.vni, config.backend.port) != (before.backend.vni, before.backend.port) {
        notes.push("hosts make their VXLAN devices anew: packets between hosts are lost for a moment".to_owned());
    }
    let flannels = snapshot.leases().filter(|(_, l)| l.value.node().is_none() && !l.value.is_placeholder());
    let flannels: Vec<String> = flannels.map(|(_, lease)| holder_of(&lease.value)).take(HOSTS_SHOWN).collect();
    if !flannels.is_empty() {
        notes.push(format!("hosts that run flannel ({}, …) follow when their flanneld is restarted", flannels.join(", ")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::ids::Revision;
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;

    const STORED: &str = r#"{"Network":"10.244.0.0/20","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.15.0",
        "EnableNFTables":true,"Backend":{"type":"vxlan","vni":7,"Learning":false}}"#;

    fn change(json: &str) -> Result<(Value, NetworkConfig), String> {
        let before = NetworkConfig::parse(STORED.as_bytes()).unwrap();
        let change = serde_json::from_str(json).unwrap();
        let (text, config) = edited(STORED.as_bytes(), &before, &change).map_err(|r| r.message)?;
        Ok((serde_json::from_str(&text).unwrap(), config))
    }

    #[test]
    fn what_is_named_changes_and_all_else_stays_even_if_only_flannel_knows_it() {
        let (text, config) = change(r#"{"mtu":1400,"vni":9}"#).unwrap();
        assert_eq!((config.backend.vni, config.backend.mtu), (9, 1400));
        assert_eq!(text["Backend"], json!({"type":"vxlan","Learning":false,"VNI":9,"MTU":1400}));
        assert_eq!((&text["EnableNFTables"], &text["SubnetMax"]), (&json!(true), &json!("10.244.15.0")));
        assert_eq!(change(r#"{"mtu":0}"#).unwrap().1, NetworkConfig::parse(STORED.as_bytes()).unwrap());
    }

    #[test]
    fn limits_that_nobody_chose_follow_the_network() {
        let (text, config) = change(r#"{"cidr":"10.244.0.0/16"}"#).unwrap();
        assert_eq!(config.subnet_max.to_string(), "10.244.255.0");
        assert!(text.get("SubnetMax").is_none() && text.get("SubnetMin").is_none(), "{text}");
        let (_, config) = change(r#"{"cidr":"10.244.0.0/16","subnet_max":"10.244.99.0"}"#).unwrap();
        assert_eq!(
            (config.subnet_min.to_string().as_str(), config.subnet_max.to_string().as_str()),
            ("10.244.1.0", "10.244.99.0")
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (json, why) in [
            (r#"{"subnet_len":31}"#, "SubnetLen"),
            (r#"{"mtu":500}"#, "--mtu 500 is too small"),
            (r#"{"vni":16777216}"#, "VNI"),
            (r#"{"subnet_min":"10.99.0.0"}"#, "SubnetMin"),
        ] {
            let said = change(json).unwrap_err();
            assert!(said.starts_with("network set: ") && said.contains(why), "{json}: {said}");
        }
    }

    #[test]
    fn a_change_that_leaves_hosts_outside_says_which_and_waits_for_force() {
        let lease = |node: &str| format!(r#"{{"PublicIP":"192.0.2.9","BackendType":"host-gw"{node}}}"#);
        let entries = [
            ("/coreos.com/network/subnets/10.244.1.0-24", lease(r#","weft":{"node":"h1"}"#)),
            ("/coreos.com/network/subnets/10.244.9.0-24", lease("")),
        ];
        let entry = |(key, value): (&str, String)| Entry {
            key: key.into(),
            value: value.into_bytes(),
            lease: None,
            created: Revision(5),
            modified: Revision(5),
        };
        let s = Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries.into_iter().map(entry).collect(), None);
        let before = NetworkConfig::parse(STORED.as_bytes()).unwrap();
        let narrow = change(r#"{"cidr":"10.244.0.0/21"}"#).unwrap().1;
        let said = check(&s, &before, &narrow, false).unwrap_err().message;
        assert!(said.contains("192.0.2.9 (10.244.9.0/24) would be left") && !said.contains("h1"), "{said}");
        assert!(check(&s, &before, &narrow, true).is_ok());
        assert!(check(&s, &before, &change(r#"{"cidr":"10.244.0.0/16"}"#).unwrap().1, false).is_ok());
        assert!(
            check(&s, &before, &change(r#"{"cidr":"10.0.0.0/8","subnet_len":24}"#).unwrap().1, true).is_err(),
            "VIPs are there"
        );
        assert!(notes(&s, &before, &narrow)[0].contains("192.0.2.9"));
    }
}
