//! From what a runtime says of a container to what the agent is asked for.
//!
//! A container's names were typed by somebody who did not have DNS in mind: they become labels, and what cannot be one is left
//! out. What was meant for us (labels, service, addresses) is refused when it cannot be.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use weft_api::Attach;
use weft_model::attachment::{Instance, Owner, Runtime};
use weft_model::ids::{MAX_LABEL, NetworkName, ServiceLabel, sanitise_label};
use weft_model::mac::Mac;
use weft_model::publish::Publish;
use weft_model::record::{Proto, check_labels};

use crate::config::{Aliases, ArgLabels, Body, Head, PortMapping};
use crate::env::Environment;
use crate::error::{CONFIG, Fault, UNSUPPORTED};

/// The request of an `ADD`.
///
/// # Errors
/// Names the option that cannot be.
pub fn attach(env: &Environment, head: &Head, body: &Body, netns: PathBuf) -> Result<Attach, Fault> {
    let runtime = body.runtime.clone().unwrap_or_default();
    let args = body.args();
    let arg = |name: &str| env.args.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());

    let mut labels = body.labels.clone().unwrap_or_default();
    match args.labels {
        Some(ArgLabels::Map(map)) => labels.extend(map),
        Some(ArgLabels::List(list)) => labels.extend(list.into_iter().map(|label| (label.key, label.value))),
        None => {}
    }

    let from_args = arg("IP").map(|text| text.split(',').map(|ip| ip.trim().to_owned()).collect());
    let ips = [runtime.ips, args.ips, from_args].into_iter().flatten().find(|ips: &Vec<String>| !ips.is_empty());
    let mac = runtime.mac.or(args.mac).filter(|mac| !mac.is_empty()).or_else(|| arg("MAC").map(str::to_owned));

    let aliases = match runtime.aliases {
        Some(Aliases::ByNetwork(map)) => map.into_values().flatten().collect(),
        Some(Aliases::All(list)) => list,
        None => Vec::new(),
    };
    let wish = Wish {
        owner: Owner { runtime: Runtime::Cni, network: head.name.clone(), container: env.container.clone() },
        ifname: head.ifname.clone().unwrap_or_else(|| env.ifname.clone()),
        network: body.network.as_deref(),
        service: body.service.as_deref(),
        check: body.check.as_deref(),
        labels,
        name: arg("K8S_POD_NAME"),
        aliases,
        addresses: addresses(ips.as_deref().unwrap_or_default())?,
        mac: mac.as_deref(),
        publish: publish(runtime.port_mappings.as_deref().unwrap_or_default())?,
        default_route: body.default_route.unwrap_or_else(|| !has_default_route(body)),
    };
    wish.into_attach(netns)
}

/// What either protocol says of a container.
pub struct Wish<'a> {
    /// Whose it is.
    pub owner: Owner,
    /// The interface to make.
    pub ifname: String,
    /// Weft's network.
    pub network: Option<&'a str>,
    /// `NAME[:PORT[/tcp|udp]]`.
    pub service: Option<&'a str>,
    /// How it is checked, as `--check` has it.
    pub check: Option<&'a str>,
    /// Labels for selectors.
    pub labels: BTreeMap<String, String>,
    /// What the container is called.
    pub name: Option<&'a str>,
    /// What else it is called.
    pub aliases: Vec<String>,
    /// The addresses that it must have.
    pub addresses: Vec<IpAddr>,
    /// The Ethernet address that it must have.
    pub mac: Option<&'a str>,
    /// Ports of the host that lead to it.
    pub publish: Vec<Publish>,
    /// Whether everything else goes by Weft.
    pub default_route: bool,
}

impl Wish<'_> {
    /// The request.
    ///
    /// # Errors
    /// Names what cannot be.
    pub fn into_attach(self, netns: PathBuf) -> Result<Attach, Fault> {
        let network: Option<NetworkName> = match self.network.filter(|name| !name.is_empty()) {
            Some(name) => Some(name.parse().map_err(|e| refuse("network", e))?),
            None => None,
        };
        let instance: Option<Instance> = match self.service.filter(|text| !text.is_empty()) {
            Some(text) => Some(text.parse().map_err(|e| refuse("service", e))?),
            None => None,
        };
        check_labels(&self.labels).map_err(|e| refuse("labels", e))?;
        let check =
            self.check.filter(|text| !text.is_empty()).map(str::parse).transpose().map_err(|e: String| refuse("check", e))?;
        let mac: Option<Mac> = match self.mac {
            Some(text) => Some(text.parse().map_err(|e| refuse("mac", e))?),
            None => None,
        };
        let name = self.name.and_then(label);
        let mut aliases: Vec<ServiceLabel> = Vec::new();
        // A name resolves by itself where no service takes its place.
        let own = name.clone().filter(|_| instance.is_some());
        for alias in own.into_iter().chain(self.aliases.iter().filter_map(|text| label(text))) {
            let known = aliases.contains(&alias) || (instance.is_none() && name.as_ref() == Some(&alias));
            if !known {
                aliases.push(alias);
            }
        }
        let main = instance.as_ref().filter(|i| i.port_name.is_empty());
        Ok(Attach {
            network,
            // A port without a name is the main one, which a request says apart.
            service: main.map(|i| i.service.clone()),
            port: main.and_then(|i| i.port),
            proto: main.map(|i| i.proto).unwrap_or_default(),
            instances: instance.iter().filter(|i| !i.port_name.is_empty()).cloned().collect(),
            name: name.map(String::from),
            labels: self.labels,
            check,
            aliases,
            addresses: self.addresses,
            mac,
            publish: self.publish,
            default_route: self.default_route,
            owner: Some(self.owner),
            ..Attach::new(netns, self.ifname)
        })
    }
}

/// A name as a DNS label; none when nothing of it can be one.
fn label(text: &str) -> Option<ServiceLabel> {
    sanitise_label(text, MAX_LABEL).parse().ok()
}

/// Addresses with or without a prefix length, which says nothing here: at most one of each family.
fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, Fault> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in texts {
        let plain = text.parse().ok().or_else(|| text.parse().ok().map(|net: IpNet| net.addr()));
        let address = plain.ok_or_else(|| refuse("ips", format!("{text:?} is no address")))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    one_of_each(addresses)
}

/// At most one address of each family.
///
/// # Errors
/// There are more.
pub fn one_of_each(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Fault> {
    for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        let mut of_it = addresses.iter().filter(|a| family(a));
        if let (Some(one), Some(two)) = (of_it.next(), of_it.next()) {
            return Err(refuse("ips", format!("{one} and {two}: an interface has one address of each family")));
        }
    }
    Ok(addresses)
}

/// Ports of the host. Those in a row are one rule.
fn publish(mappings: &[PortMapping]) -> Result<Vec<Publish>, Fault> {
    let mut all = Vec::new();
    // Port 0 is how orchestrators say that a port is not published.
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let port = |number: i64| {
            let port = u16::try_from(number).ok().filter(|port| *port != 0);
            port.ok_or_else(|| refuse("portMappings", format!("{number} is no port: a number from 1 to 65535")))
        };
        all.push(Publish {
            host: host(mapping.host_ip.as_deref().unwrap_or_default())?,
            host_port: port(mapping.host_port)?,
            port: port(mapping.container_port)?,
            count: 1,
            proto: protocol(mapping.protocol.as_deref().unwrap_or_default())?,
        });
    }
    Ok(merged(all))
}

/// An address of the host; none is all, and an unspecified one all of its family.
///
/// # Errors
/// It is no address.
pub fn host(text: &str) -> Result<Option<IpAddr>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = text.parse().map_err(|_| refuse("portMappings", format!("hostIP {text:?} is no address")))?;
    Ok(Some(address))
}

/// A protocol, in any case; none is TCP.
///
/// # Errors
/// It is not one of ours.
pub fn protocol(text: &str) -> Result<Proto, Fault> {
    match text.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(Proto::Tcp),
        "udp" => Ok(Proto::Udp),
        _ => Err(Fault::new(UNSUPPORTED, format!("portMappings: protocol {text:?} is not served; tcp and udp are"))),
    }
}

/// The same ports in fewer rules: podman expands ranges into single ports.
pub fn merged(mut all: Vec<Publish>) -> Vec<Publish> {
    all.sort_by_key(|p| (p.proto, p.host, p.host_port, p.port));
    all.dedup();
    let mut rules: Vec<Publish> = Vec::new();
    for one in all {
        let follows = |last: &Publish| {
            let next = |first: u16| u32::from(first) + u32::from(last.count);
            let same = last.host == one.host && last.proto == one.proto;
            let fits = u32::from(last.count) + u32::from(one.count) <= u32::from(u16::MAX);
            same && fits && next(last.host_port) == u32::from(one.host_port) && next(last.port) == u32::from(one.port)
        };
        match rules.last_mut().filter(|last| follows(last)) {
            Some(last) => last.count += one.count,
            None => rules.push(one),
        }
    }
    rules
}

/// Whether a plugin before us has given the container a way to everywhere.
fn has_default_route(body: &Body) -> bool {
    let routes = body.prev.as_ref().and_then(|prev| prev.get("routes")).and_then(|routes| routes.as_array());
    routes.into_iter().flatten().any(|route| matches!(route["dst"].as_str(), Some("0.0.0.0/0" | "::/0")))
}

fn refuse(what: &str, why: impl std::fmt::Display) -> Fault {
    Fault::new(CONFIG, format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Input;
    use crate::env::Verb;
    use serde_json::{Value, json};

    fn wish(config: &Value, args: &[(&str, &str)]) -> Result<Attach, Fault> {
        let mut config = config.clone();
        config["cniVersion"] = "1.0.0".into();
        config["name"] = "weft".into();
        let input = Input::parse(config.to_string().as_bytes())?;
        let env = Environment {
            container: "c1".to_owned(),
            netns: "/run/netns/x".to_owned(),
            ifname: "eth0".to_owned(),
            args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        attach(&env, &input.head(Verb::Add)?, &input.body()?, "/run/netns/x".into())
    }

    fn owner() -> Value {
        json!({ "runtime": "cni", "network": "weft", "container": "c1" })
    }

    #[test]
    fn a_configuration_becomes_a_request() {
        let bare = wish(&json!({}), &[]).unwrap();
        let wanted = Attach { owner: Some(serde_json::from_value(owner()).unwrap()), ..Attach::new("/run/netns/x", "eth0") };
        assert_eq!(bare, wanted);
        let config = json!({
            "network": "blue", "service": "prod/web:8080/udp", "labels": { "tier": "front", "a": "1" }, "default_route": false,
            "args": { "cni": { "labels": [{ "key": "a", "value": "2" }] }, "podman_labels": { "x": 1 } },
            "runtimeConfig": {
                "portMappings": [
                    { "hostPort": 8080, "containerPort": 80, "protocol": "TCP" },
                    { "hostPort": 8082, "containerPort": 82, "protocol": "tcp", "hostIP": "" },
                    { "hostPort": 8081, "containerPort": 81 },
                    { "hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1" },
                    { "hostPort": 0, "containerPort": 9 },
                ],
                "ips": ["10.244.3.7/24", "fd00:10:244:3::7/64"],
                "mac": "02:11:22:33:44:55",
                "aliases": { "weft": ["al", "Web_1", "...", "web-1", "al"] },
                "io.kubernetes.cri.pod-annotations": {},
            },
        });
        let attach = wish(&config, &[("K8S_POD_NAME", "Web_1"), ("IP", "10.244.3.9"), ("IgnoreUnknown", "1")]).unwrap();
        assert_eq!(
            serde_json::to_value(attach).unwrap(),
            json!({
                "netns": "/run/netns/x", "ifname": "eth0", "id": null, "name": "web-1", "service": "prod/web", "port": 8080,
                "proto": "udp", "labels": { "a": "2", "tier": "front" }, "default_route": false, "network": "blue",
                "timeout_ms": null, "owner": owner(), "aliases": ["web-1", "al"],
                "addresses": ["10.244.3.7", "fd00:10:244:3::7"], "mac": "02:11:22:33:44:55",
                "publish": [
                    { "host_port": 8080, "port": 80, "count": 3, "proto": "tcp" },
                    { "host": "127.0.0.1", "host_port": 53, "port": 53, "proto": "udp" },
                ],
            })
        );
    }

    #[test]
    fn addresses_come_from_whoever_says_them_most_directly() {
        let args = [("IP", " 10.244.3.9/24,fd00::9"), ("MAC", "02:00:00:00:00:09")];
        let by_args = wish(&json!({}), &args).unwrap();
        let ips = |texts: [&str; 2]| texts.map(|t| t.parse::<IpAddr>().unwrap()).to_vec();
        assert_eq!((by_args.addresses, by_args.mac.unwrap().to_string()), (ips(["10.244.3.9", "fd00::9"]), args[1].1.to_owned()));
        let convention = json!({ "args": { "cni": { "ips": ["10.244.3.8", "fd00::8"], "mac": "02:00:00:00:00:08" } } });
        let by_convention = wish(&convention, &args).unwrap();
        assert_eq!(by_convention.addresses, ips(["10.244.3.8", "fd00::8"]));
        assert_eq!(by_convention.mac.unwrap().to_string(), "02:00:00:00:00:08");
        let empty = json!({ "runtimeConfig": { "ips": [], "mac": "" } });
        assert_eq!(wish(&empty, &args).unwrap().addresses, ips(["10.244.3.9", "fd00::9"]));
    }

    #[test]
    fn names_that_cannot_be_labels_are_left_out_and_the_rest_made_some() {
        for (given, name) in [
            ("web", Some("web")),
            ("My.Pod_1", Some("my-pod-1")),
            ("dns", None),
            ("tasks", None),
            ("...", None),
            ("", None),
            ("ünïcode", Some("n-code")),
            ("a\0b\nc", Some("a-b-c")),
        ] {
            assert_eq!(wish(&json!({}), &[("K8S_POD_NAME", given)]).unwrap().name.as_deref(), name, "{given:?}");
        }
        let long = wish(&json!({}), &[("K8S_POD_NAME", &"x".repeat(5000))]).unwrap();
        assert_eq!(long.name.unwrap().len(), 63);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (config, code, word) in [
            (json!({ "network": "No!" }), CONFIG, "network"),
            (json!({ "service": "web:0" }), CONFIG, "service"),
            (json!({ "service": "web:80/sctp" }), CONFIG, "service"),
            (json!({ "service": "A B" }), CONFIG, "service"),
            (json!({ "labels": { "a b": "c" } }), CONFIG, "labels"),
            (json!({ "runtimeConfig": { "ips": ["x"] } }), CONFIG, "ips"),
            (json!({ "runtimeConfig": { "ips": ["10.0.0.1", "10.0.0.2"] } }), CONFIG, "ips"),
            (json!({ "runtimeConfig": { "mac": "x" } }), CONFIG, "mac"),
            (json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 70000, "containerPort": 1 }] } }), CONFIG, "70000"),
            (json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": -1 }] } }), CONFIG, "-1"),
            (
                json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": 1, "hostIP": "h" }] } }),
                CONFIG,
                "hostIP",
            ),
            (
                json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": 1, "protocol": "sctp" }] } }),
                UNSUPPORTED,
                "sctp",
            ),
            (json!({ "labels": [] }), crate::error::DECODING, "parse"),
        ] {
            let fault = wish(&config, &[]).unwrap_err();
            assert_eq!(fault.code, code, "{config}");
            assert!(fault.msg.contains(word), "{config}: {}", fault.msg);
        }
    }

    #[test]
    fn behind_a_plugin_that_gave_a_default_route_there_is_no_second_one() {
        let prev = json!({ "prevResult": { "routes": [{ "dst": "0.0.0.0/0" }] } });
        assert!(!wish(&prev, &[]).unwrap().default_route);
        let told = json!({ "prevResult": { "routes": [{ "dst": "0.0.0.0/0" }] }, "default_route": true });
        assert!(wish(&told, &[]).unwrap().default_route);
    }

    #[test]
    fn ports_in_a_row_are_one_rule_and_never_too_many() {
        let one = |host_port, port| Publish { host: None, host_port, port, count: 1, proto: Proto::Tcp };
        let all: Vec<Publish> = (1..=u16::MAX).map(|n| one(n, n)).collect();
        let rules = merged(all);
        assert_eq!(rules.iter().map(|r| u32::from(r.count)).sum::<u32>(), 65_535);
        assert!(rules.iter().all(|rule| rule.check().is_ok()), "{rules:?}");
        assert_eq!(merged(vec![one(10, 20), one(10, 20), one(11, 22)]).len(), 2);
    }
}
