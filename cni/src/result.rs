//! What a successful `ADD` prints, in each version of the specification.
//!
//! As the reference plugins' results: the host's end of the pair first, then the container's with its sandbox, so that plugins
//! behind us find what they look for (bandwidth the host's end, portmap the addresses, tuning the container's end). A result of
//! plugins before us is passed through as it is, with ours behind it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use weft_api::Attached;

use crate::config::{Body, Dns, Version};
use crate::error::{CHECK, CONFIG, CONFLICT, DECODING, Fault};

/// The result, in the caller's version.
///
/// # Errors
/// See [`Prev::of`].
pub fn compose(version: Version, sandbox: &str, attached: &Attached, body: &Body) -> Result<Value, Fault> {
    let prev = Prev::of(body)?;
    let dns = dns(attached, body, prev.dns()?)?;
    let Prev { interfaces: mut all, mut ips, mut routes, mut rest } = prev;

    let mut outer = json!({ "name": attached.host_ifname });
    if let Some(mac) = attached.host_mac {
        outer["mac"] = mac.to_string().into();
    }
    let mut inner = json!({ "name": attached.ifname, "mac": attached.mac.to_string(), "sandbox": sandbox });
    if version >= Version::V110 {
        outer["mtu"] = attached.mtu.into();
        inner["mtu"] = attached.mtu.into();
    }
    let index = all.len() + 1;
    all.extend([outer, inner]);

    ips.extend(attached.addresses.iter().map(|address| {
        let mut ip = json!({ "address": address.to_string(), "interface": index });
        if let Some(gateway) = gateway(attached, address) {
            ip["gateway"] = gateway.to_string().into();
        }
        if version < Version::V100 {
            ip["version"] = if address.addr().is_ipv4() { "4" } else { "6" }.into();
        }
        ip
    }));
    for route in &attached.routes {
        // A route of a family that the container has no address of is not made.
        let has_family = attached.addresses.iter().any(|a| a.addr().is_ipv4() == route.addr().is_ipv4());
        if let Some(gateway) = gateway(attached, route).filter(|_| has_family) {
            routes.push(json!({ "dst": route.to_string(), "gw": gateway.to_string() }));
        }
    }
    rest.insert("cniVersion".to_owned(), version.as_str().into());
    rest.insert("interfaces".to_owned(), all.into());
    rest.insert("ips".to_owned(), ips.into());
    if !routes.is_empty() {
        rest.insert("routes".to_owned(), routes.into());
    }
    rest.insert("dns".to_owned(), dns);
    Ok(rest.into())
}

/// The result of the plugins before us, in parts.
#[derive(Debug)]
pub struct Prev {
    interfaces: Vec<Value>,
    ips: Vec<Value>,
    routes: Vec<Value>,
    rest: Map<String, Value>,
}

impl Prev {
    /// Takes it apart; none is an empty one.
    ///
    /// # Errors
    /// It is no result.
    pub fn of(body: &Body) -> Result<Self, Fault> {
        let mut rest = body.prev.clone().unwrap_or_default();
        let mut list = |name: &str| match rest.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) if list.iter().all(Value::is_object) => Ok(list),
            Some(_) => Err(Fault::new(DECODING, format!("prevResult.{name}: not a list of objects"))),
        };
        let (interfaces, ips, routes) = (list("interfaces")?, list("ips")?, list("routes")?);
        Ok(Self { interfaces, ips, routes, rest })
    }

    /// Refuses an interface that a plugin before us has made: it is not ours to change.
    ///
    /// # Errors
    /// There is one.
    pub fn refuse_taken(&self, ifname: &str) -> Result<(), Fault> {
        match self.position(ifname) {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                CONFLICT,
                format!(
                    "a plugin before this one has made {ifname}; put weft first in the list, or name another interface \
                     (\"ifname\" in its configuration)"
                ),
            )),
        }
    }

    /// The addresses that it gives to an interface.
    ///
    /// # Errors
    /// There is no such interface in it, or an address does not parse.
    pub fn addresses_of(&self, ifname: &str) -> Result<Vec<IpAddr>, Fault> {
        let index = self.position(ifname).ok_or_else(|| Fault::new(CHECK, format!("prevResult has no interface {ifname}")))?;
        let of_it = self.ips.iter().filter(|ip| ip["interface"].as_u64() == u64::try_from(index).ok());
        let parse = |ip: &Value| {
            let text = ip["address"].as_str().unwrap_or_default();
            let net: IpNet = text.parse().map_err(|_| Fault::new(DECODING, format!("prevResult.ips: {text:?} is no address")))?;
            Ok(net.addr())
        };
        of_it.map(parse).collect()
    }

    fn dns(&self) -> Result<Dns, Fault> {
        match self.rest.get("dns").filter(|dns| !dns.is_null()) {
            Some(dns) => {
                serde_json::from_value(dns.clone()).map_err(|e| Fault::new(DECODING, "prevResult.dns").with(e.to_string()))
            }
            None => Ok(Dns::default()),
        }
    }

    fn position(&self, ifname: &str) -> Option<usize> {
        let inside = |interface: &Value| interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty());
        self.interfaces.iter().position(|interface| interface["name"] == ifname && inside(interface))
    }
}

fn gateway(attached: &Attached, of: &IpNet) -> Option<IpAddr> {
    match of {
        IpNet::V4(_) => Some(attached.gateway.into()),
        IpNet::V6(_) => attached.gateway6.map(IpAddr::V6),
    }
}

/// Refuses name servers that are none, before anything is made.
///
/// # Errors
/// One is no address.
pub fn check_dns(body: &Body) -> Result<(), Fault> {
    let config = body.dns.iter().flat_map(|dns| &dns.nameservers);
    let runtime = body.runtime.iter().filter_map(|runtime| runtime.dns.as_ref()?.servers.as_ref()).flatten();
    match config.chain(runtime).find(|server| server.parse::<IpAddr>().is_err()) {
        Some(server) => Err(Fault::new(CONFIG, format!("dns: name server {server:?} is no address"))),
        None => Prev::of(body)?.dns().map(drop),
    }
}

/// What the configuration says holds in place of what the agent says, and what the runtime says of this container in place of
/// both. Plugins before us are named behind: their name servers know no name of Weft's.
fn dns(attached: &Attached, body: &Body, prev: Dns) -> Result<Value, Fault> {
    let config = body.dns.clone().unwrap_or_default();
    let runtime = body.runtime.as_ref().and_then(|runtime| runtime.dns.clone()).unwrap_or_default();
    let first = |choices: [Vec<String>; 3]| choices.into_iter().find(|list| !list.is_empty()).unwrap_or_default();
    let agents = attached.dns.iter().map(ToString::to_string).collect();
    let nameservers = first([runtime.servers.unwrap_or_default(), config.nameservers, agents]);
    let merged = Dns {
        nameservers: joined(nameservers, prev.nameservers),
        domain: config.domain.filter(|domain| !domain.is_empty()).or(prev.domain),
        search: joined(first([runtime.searches.unwrap_or_default(), config.search, attached.search.clone()]), prev.search),
        options: joined(first([runtime.options.unwrap_or_default(), config.options, Vec::new()]), prev.options),
    };
    serde_json::to_value(merged).map_err(|e| Fault::new(DECODING, "dns").with(e.to_string()))
}

fn joined(mut first: Vec<String>, then: Vec<String>) -> Vec<String> {
    for text in then {
        if !first.contains(&text) {
            first.push(text);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Input;

    fn attached() -> Attached {
        serde_json::from_value(json!({
            "id": "c-1", "netns": "/run/netns/x", "ifname": "eth0", "addresses": ["10.244.3.5/32", "fd00:10:244:3::5/128"],
            "gateway": "10.244.3.1", "gateway6": "fe80::1", "mac": "0a:58:0a:f4:03:05", "mtu": 1450, "host_ifname": "weft0123456789",
            "host_mac": "02:00:00:00:00:01", "routes": ["0.0.0.0/0", "::/0"], "dns": ["10.244.3.1"], "search": ["skydns.local"],
            "names": [], "network": "default", "cgroup": "/c", "record": "none",
        }))
        .unwrap()
    }

    fn body(config: &Value) -> Body {
        Input::parse(config.to_string().as_bytes()).unwrap().body().unwrap()
    }

    fn of(version: Version, config: &Value) -> Value {
        compose(version, "/run/netns/x", &attached(), &body(config)).unwrap()
    }

    #[test]
    fn the_newest_result_has_all_there_is() {
        assert_eq!(
            of(Version::V110, &json!({})),
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    { "name": "weft0123456789", "mac": "02:00:00:00:00:01", "mtu": 1450 },
                    { "name": "eth0", "mac": "0a:58:0a:f4:03:05", "mtu": 1450, "sandbox": "/run/netns/x" },
                ],
                "ips": [
                    { "address": "10.244.3.5/32", "gateway": "10.244.3.1", "interface": 1 },
                    { "address": "fd00:10:244:3::5/128", "gateway": "fe80::1", "interface": 1 },
                ],
                "routes": [{ "dst": "0.0.0.0/0", "gw": "10.244.3.1" }, { "dst": "::/0", "gw": "fe80::1" }],
                "dns": { "nameservers": ["10.244.3.1"], "search": ["skydns.local"] },
            })
        );
    }

    #[test]
    fn older_results_lack_the_mtu_and_the_oldest_say_the_family() {
        let newest = of(Version::V110, &json!({}));
        for version in [Version::V031, Version::V040, Version::V100] {
            let mut wanted = newest.clone();
            wanted["cniVersion"] = version.as_str().into();
            for interface in wanted["interfaces"].as_array_mut().unwrap() {
                interface.as_object_mut().unwrap().remove("mtu");
            }
            if version < Version::V100 {
                wanted["ips"][0]["version"] = "4".into();
                wanted["ips"][1]["version"] = "6".into();
            }
            assert_eq!(of(version, &json!({})), wanted, "{version}");
        }
    }

    #[test]
    fn a_container_without_ipv6_has_no_route_there() {
        let mut one = attached();
        one.addresses.truncate(1);
        let result = compose(Version::V100, "/x", &one, &Body::default()).unwrap();
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.244.3.1" }]));
        one.routes.clear();
        assert!(compose(Version::V100, "/x", &one, &Body::default()).unwrap().get("routes").is_none());
    }

    #[test]
    fn what_others_did_before_is_passed_through() {
        let prev = json!({ "prevResult": {
            "cniVersion": "1.0.0", "unknown": [1],
            "interfaces": [{ "name": "br0", "socketPath": "/s" }, { "name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/x" }],
            "ips": [{ "address": "10.1.0.2/24", "interface": 1 }],
            "routes": [{ "dst": "0.0.0.0/0", "scope": 1 }],
            "dns": { "nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["skydns.local", "example.org"] },
        }});
        let mut other = attached();
        other.ifname = "weft0".to_owned();
        other.routes = vec!["10.244.0.0/16".parse().unwrap()];
        let result = compose(Version::V100, "/x", &other, &body(&prev)).unwrap();
        assert_eq!(result["interfaces"][0], prev["prevResult"]["interfaces"][0]);
        assert_eq!(result["interfaces"][1], prev["prevResult"]["interfaces"][1]);
        assert_eq!(result["interfaces"][3]["name"], "weft0");
        assert_eq!(result["ips"][0], prev["prevResult"]["ips"][0]);
        assert_eq!((&result["ips"][1]["interface"], &result["ips"][1]["address"]), (&json!(3), &json!("10.244.3.5/32")));
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "scope": 1 }, { "dst": "10.244.0.0/16", "gw": "10.244.3.1" }]));
        assert_eq!(result["unknown"], json!([1]));
        assert_eq!(
            result["dns"],
            json!({ "nameservers": ["10.244.3.1", "192.0.2.53"], "domain": "example.org", "search": ["skydns.local", "example.org"] })
        );
        let parts = Prev::of(&body(&prev)).unwrap();
        assert_eq!(parts.refuse_taken("eth0").unwrap_err().code, CONFLICT);
        assert!(parts.refuse_taken("weft0").is_ok() && parts.refuse_taken("br0").is_ok());
        assert_eq!(parts.addresses_of("eth0").unwrap(), ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(parts.addresses_of("eth9").unwrap_err().code, CHECK);
    }

    #[test]
    fn who_says_name_servers_last_is_heard() {
        let config = json!({ "dns": { "nameservers": ["192.0.2.1"], "domain": "d", "search": ["s"], "options": ["ndots:1"] } });
        assert_eq!(of(Version::V100, &config)["dns"], config["dns"]);
        let both = json!({ "dns": config["dns"], "runtimeConfig": { "dns": { "servers": ["192.0.2.2"], "searches": ["t"] } } });
        let wanted = json!({ "nameservers": ["192.0.2.2"], "domain": "d", "search": ["t"], "options": ["ndots:1"] });
        assert_eq!(of(Version::V100, &both)["dns"], wanted);
        let name = body(&json!({ "dns": { "nameservers": ["resolver.example"] } }));
        assert_eq!(check_dns(&name).unwrap_err().code, CONFIG);
        let named = body(&json!({ "runtimeConfig": { "dns": { "servers": ["192.0.2.2", ""] } } }));
        assert_eq!(check_dns(&named).unwrap_err().code, CONFIG);
        assert!(check_dns(&body(&both)).is_ok());
    }

    #[test]
    fn a_result_that_is_none_is_a_fault_of_decoding() {
        for prev in [json!({ "interfaces": {} }), json!({ "ips": [1] }), json!({ "dns": 1 }), json!({ "routes": "x" })] {
            let body = body(&json!({ "prevResult": prev }));
            assert_eq!(compose(Version::V100, "/x", &attached(), &body).unwrap_err().code, DECODING, "{prev}");
        }
    }
}
