//! What `nft -j list` prints, understood as far as it concerns us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use serde_json::{Map, Value};
use weft_model::record::Proto;
use weft_plan::nft::{Element, FAMILY, Set, Sets, TABLE};

/// Our table.
#[derive(Debug)]
pub struct Listing {
    /// Tables, chains, rules, sets without their elements and counters without their numbers, as printed but for handles:
    /// what must not change unless we change it.
    pub rules: Vec<Value>,
    /// What the sets hold; `None` if an element is none of those that we add.
    pub sets: Option<Sets>,
    /// Packets and bytes by counter.
    pub counts: BTreeMap<String, (u64, u64)>,
}

impl Listing {
    pub(super) fn read(listed: &Value) -> Self {
        let mut listing = Self { rules: Vec::new(), sets: Some(Sets::new()), counts: BTreeMap::new() };
        for (kind, object) in objects(listed) {
            let mut object = object.clone();
            object.remove("handle");
            match kind {
                "metainfo" => continue,
                "set" | "map" => listing.set(object.remove("elem").as_ref(), object.get("name")),
                "counter" => {
                    let number = |value: Option<Value>| value.and_then(|v| v.as_u64()).unwrap_or_default();
                    let count = (number(object.remove("packets")), number(object.remove("bytes")));
                    if let Some(name) = object.get("name").and_then(Value::as_str) {
                        listing.counts.insert(name.to_owned(), count);
                    }
                }
                _ => {}
            }
            let named: Map<String, Value> = [(kind.to_owned(), Value::Object(object))].into_iter().collect();
            listing.rules.push(Value::Object(named));
        }
        listing
    }

    fn set(&mut self, elements: Option<&Value>, name: Option<&Value>) {
        let Some(set) = Set::ALL.into_iter().find(|set| name.and_then(Value::as_str) == Some(set.name())) else { return };
        let all = elements.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let read: Option<Vec<Vec<Element>>> = all.iter().map(|value| element(set, value)).collect();
        self.sets = self.sets.take().zip(read).map(|(mut sets, read)| {
            let elements: BTreeSet<Element> = read.into_iter().flatten().collect();
            sets.insert(set, elements);
            sets
        });
    }
}

/// The objects of a listing with their kinds.
fn objects(listed: &Value) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
    let all = listed.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|value| {
        let (kind, object) = value.as_object()?.iter().next()?;
        Some((kind.as_str(), object.as_object()?))
    })
}

/// One element as printed: an address, a prefix, a range or a concatenation. A range that is no prefix gives several.
fn element(set: Set, value: &Value) -> Option<Vec<Element>> {
    // With a counter or a comment, which others may have given it.
    let value = value.get("elem").and_then(|elem| elem.get("val")).unwrap_or(value);
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    match set {
        Set::Containers | Set::Containers6 => match value.get("concat")?.as_array()?.as_slice() {
            [device, source] => Some(vec![Element::Source(device.as_str()?.to_owned(), address(source)?)]),
            _ => None,
        },
        Set::Ports | Set::Ports6 | Set::Bound | Set::Bound6 => Some(vec![port(value)?]),
        Set::Tunnels | Set::Tunnels6 => Some(vec![Element::Address(address(value)?)]),
        Set::Peers | Set::Peers6 | Set::Inside | Set::Inside6 => {
            if let Some(one) = address(value) {
                return Some(vec![Element::Net(IpNet::from(one))]);
            }
            if let Some(prefix) = value.get("prefix") {
                let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
                return Some(vec![Element::Net(IpNet::new(address(prefix.get("addr")?)?, length).ok()?)]);
            }
            match value.get("range")?.as_array()?.as_slice() {
                [from, to] => {
                    let subnets = match (address(from)?, address(to)?) {
                        (IpAddr::V4(from), IpAddr::V4(to)) => IpSubnets::V4(Ipv4Subnets::new(from, to, 0)),
                        (IpAddr::V6(from), IpAddr::V6(to)) => IpSubnets::V6(Ipv6Subnets::new(from, to, 0)),
                        _ => return None,
                    };
                    Some(subnets.map(Element::Net).collect())
                }
                _ => None,
            }
        }
    }
}

/// An element of a map of published ports: a key and its value.
fn port(value: &Value) -> Option<Element> {
    let [key, to] = value.as_array()?.as_slice() else { return None };
    // With a comment, which others may have given it.
    let key = key.get("elem").and_then(|elem| elem.get("val")).unwrap_or(key);
    let concat = |value: &'_ Value| value.get("concat").and_then(Value::as_array).cloned();
    let number = |value: &Value| u16::try_from(value.as_u64()?).ok();
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    // nft has the names of protocols from /etc/protocols; without that file it prints numbers.
    let proto = |value: &Value| {
        let is = |proto: &Proto| value.as_str() == Some(proto.as_str()) || value.as_u64() == Some(proto.number().into());
        [Proto::Tcp, Proto::Udp].into_iter().find(is)
    };
    let to = match concat(to)?.as_slice() {
        [to, port] => SocketAddr::new(address(to)?, number(port)?),
        _ => return None,
    };
    match concat(key)?.as_slice() {
        [protocol, port] => Some(Element::Port(None, proto(protocol)?, number(port)?, to)),
        [at, protocol, port] => Some(Element::Port(Some(address(at)?), proto(protocol)?, number(port)?, to)),
        _ => None,
    }
}

/// The base chains at the forward hook that drop what nobody accepts, as family, table and chain. iptables' own is left to
/// iptables.
pub(super) fn forward_drops(listed: &Value) -> Vec<(String, String, String)> {
    let chains = objects(listed).filter(|(kind, _)| *kind == "chain").map(|(_, chain)| chain);
    let text = |chain: &Map<String, Value>, key: &str| chain.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    chains
        .filter(|chain| text(chain, "hook") == "forward" && text(chain, "policy") == "drop")
        .map(|chain| (text(chain, "family"), text(chain, "table"), text(chain, "name")))
        .filter(|(family, table, chain)| !(family == "ip" && table == "filter" && chain == "FORWARD"))
        // Of other families' packets we have none.
        .filter(|(family, table, _)| matches!(family.as_str(), "ip" | "inet") && !(family == FAMILY && table == TABLE))
        .collect()
}

/// firewalld's table, if it filters what is forwarded.
pub(super) fn firewalld(listed: &Value) -> Option<(String, String)> {
    let mut chains = objects(listed).filter(|(kind, _)| *kind == "chain").map(|(_, chain)| chain);
    let is = |chain: &Map<String, Value>, key: &str, text: &str| chain.get(key).and_then(Value::as_str) == Some(text);
    let found = chains.find(|chain| is(chain, "table", "firewalld") && is(chain, "hook", "forward"))?;
    Some((found.get("family")?.as_str()?.to_owned(), "firewalld".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listed() -> Value {
        json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "weft", "handle": 3}},
            {"counter": {"family": "inet", "name": "c", "table": "weft", "handle": 4, "packets": 5, "bytes": 60}},
            {"set": {"family": "inet", "name": "containers", "table": "weft", "type": ["ifname", "ipv4_addr"], "handle": 6,
                     "elem": [{"concat": ["weft0123456789", "10.244.1.2"]}]}},
            {"set": {"family": "inet", "name": "peers", "table": "weft", "flags": ["interval"], "handle": 7,
                     "elem": [{"prefix": {"addr": "10.244.2.0", "len": 24}}, "10.244.5.7", {"range": ["10.0.0.0", "10.0.0.2"]}]}},
            {"set": {"family": "inet", "name": "vteps", "table": "weft", "handle": 8}},
            {"set": {"family": "inet", "name": "peers6", "table": "weft", "flags": ["interval"], "handle": 10,
                     "elem": [{"prefix": {"addr": "fd00:10:244:2::", "len": 64}}, {"range": ["fd00::", "fd00::2"]}]}},
            {"map": {"family": "inet", "name": "ports", "table": "weft", "type": ["inet_proto", "inet_service"], "handle": 11,
                     "map": "ipv4_addr . inet_service", "elem": [[{"concat": ["tcp", 8080]}, {"concat": ["10.244.1.2", 80]}],
                                                                 [{"concat": [17, 53]}, {"concat": ["10.244.1.2", 5353]}]]}},
            {"map": {"family": "inet", "name": "bound6", "table": "weft", "handle": 12,
                     "map": "ipv6_addr . inet_service",
                     "elem": [[{"elem": {"val": {"concat": ["2001:db8::1", "udp", 53]}, "comment": "mine"}}, {"concat": ["fd00::2", 53]}]]}},
            {"rule": {"family": "inet", "table": "weft", "chain": "sources", "handle": 9, "expr": [{"drop": null}]}},
        ]})
    }

    #[test]
    fn elements_are_read_as_addresses_and_ranges() {
        let sets = Listing::read(&listed()).sets.unwrap();
        let said = |set: Set| sets[&set].iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(said(Set::Containers), ["\"weft0123456789\" . 10.244.1.2"]);
        assert_eq!(said(Set::Peers), ["10.0.0.0/31", "10.0.0.2/32", "10.244.2.0/24", "10.244.5.7/32"]);
        assert_eq!(said(Set::Tunnels), Vec::<String>::new());
        assert_eq!(said(Set::Ports), ["tcp . 8080 : 10.244.1.2 . 80", "udp . 53 : 10.244.1.2 . 5353"]);
        assert_eq!(said(Set::Bound6), ["2001:db8::1 . udp . 53 : fd00::2 . 53"]);
        assert_eq!(said(Set::Peers6), ["fd00::/127", "fd00::2/128", "fd00:10:244:2::/64"]);
    }

    #[test]
    fn handles_numbers_and_elements_are_no_part_of_the_rules() {
        let one = Listing::read(&listed());
        let mut other = listed();
        other["nftables"][1]["table"]["handle"] = 99.into();
        other["nftables"][2]["counter"]["packets"] = 77.into();
        other["nftables"][3]["set"]["elem"] = json!([]);
        let other = Listing::read(&other);
        assert_eq!(one.rules, other.rules);
        assert_eq!((one.counts["c"], other.counts["c"]), ((5, 60), (77, 60)));
        let mut changed = listed();
        let objects = changed["nftables"].as_array_mut().unwrap();
        let rule = objects.iter_mut().find_map(|object| object.get_mut("rule")).unwrap();
        rule["expr"] = json!([{"accept": null}]);
        assert_ne!(Listing::read(&changed).rules, one.rules);
    }

    #[test]
    fn an_element_that_is_none_of_ours_is_told() {
        let mut odd = listed();
        odd["nftables"][5]["set"]["elem"] = json!(["not an address"]);
        assert!(Listing::read(&odd).sets.is_none());
        odd["nftables"][5]["set"]["elem"] = json!([{"elem": {"val": "192.0.2.1", "comment": "by hand"}}]);
        assert_eq!(Listing::read(&odd).sets.unwrap()[&Set::Tunnels].len(), 1);
    }

    #[test]
    fn chains_of_others_that_drop_are_found_and_iptables_own_is_not_among_them() {
        let chain = |family: &str, table: &str, name: &str, hook: &str, policy: &str| json!({"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}});
        let listed = json!({"nftables": [
            chain("ip", "filter", "FORWARD", "forward", "drop"),
            chain("inet", "filter", "forward", "forward", "drop"),
            chain("inet", "filter", "input", "input", "drop"),
            chain("ip6", "filter", "FORWARD", "forward", "drop"),
            chain("inet", "firewalld", "filter_FORWARD", "forward", "accept"),
        ]});
        assert_eq!(forward_drops(&listed), [("inet".to_owned(), "filter".to_owned(), "forward".to_owned())]);
        assert_eq!(firewalld(&listed), Some(("inet".to_owned(), "firewalld".to_owned())));
        assert_eq!(firewalld(&json!({"nftables": []})), None);
    }
}
