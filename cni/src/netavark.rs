//! netavark's plugin protocol, by which podman from 4.5 on attaches containers: `create`, `setup`, `teardown`, `info`.
//!
//! `podman network create --driver weft --opt network=blue NAME` makes a network; its options are those of a CNI configuration
//! ([`OPTIONS`]), and `podman run --network NAME:opt=…` may say another service or other labels for one container. The
//! addresses are the agent's: podman is told to give none (`ipam_options.driver = none`). aardvark-dns knows no plugin's
//! networks, so the agent is the name server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use weft_api::queue::Queued;
use weft_api::{Attach, Attached, Release};
use weft_model::attachment::{Owner, Runtime};
use weft_model::publish::Publish;

use crate::agent::{Agent, socket};
use crate::env::Lookup;
use crate::error::{CONFIG, DECODING, ENVIRONMENT, Fault, UNSUPPORTED};
use crate::netns::Namespace;
use crate::verbs::{attach, take_back};
use crate::wish::{Wish, host, merged, one_of_each, protocol};

/// What can be said with `--opt`.
pub const OPTIONS: [&str; 7] = ["network", "service", "check", "labels", "socket", "default_route", "timeout"];

/// How long is waited for an agent that is not ready, unless the network's options say.
const PATIENCE: Duration = Duration::from_secs(30);

/// The protocol's version (netavark 1.6 to 2.1).
const API_VERSION: &str = "1.0.0";

type Options = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
struct Input {
    container_id: String,
    #[serde(default)]
    container_name: Option<String>,
    #[serde(default)]
    port_mappings: Option<Vec<PortMapping>>,
    network: Network,
    network_options: NetworkOptions,
}

#[derive(Debug, Deserialize)]
struct Network {
    name: String,
    #[serde(default)]
    internal: Option<bool>,
    #[serde(default)]
    options: Option<Options>,
    #[serde(default)]
    network_dns_servers: Option<Vec<IpAddr>>,
}

#[derive(Debug, Deserialize)]
struct NetworkOptions {
    interface_name: String,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    #[serde(default)]
    static_ips: Option<Vec<IpAddr>>,
    #[serde(default)]
    static_mac: Option<String>,
    #[serde(default)]
    options: Option<Options>,
}

#[derive(Debug, Deserialize)]
struct PortMapping {
    container_port: u16,
    #[serde(default)]
    host_ip: String,
    host_port: u16,
    #[serde(default)]
    protocol: String,
    /// How many ports in a row; 0 is 1.
    #[serde(default)]
    range: u16,
}

/// Does what is asked; what is to be printed, if anything.
///
/// # Errors
/// Why not.
pub async fn run(lookup: Lookup<'_>, args: &[OsString], stdin: &[u8]) -> Result<Option<Value>, Fault> {
    let verb = args.first().and_then(|arg| arg.to_str()).unwrap_or_default();
    if verb == "create" {
        return create(decode(stdin)?).map(Some);
    }
    let Some(netns) = args.get(1).and_then(|arg| arg.to_str()) else {
        return Err(Fault::new(ENVIRONMENT, format!("{verb}: the second argument is to be the path of a network namespace")));
    };
    let input: Input = decode(stdin)?;
    let options = input.options();
    let agent = Agent::at(socket(options.get("socket").map(PathBuf::from).as_deref(), lookup("WEFT_SOCKET")));
    let owner = Owner { runtime: Runtime::Netavark, network: input.network.name.clone(), container: input.container_id.clone() };
    let ifname = input.network_options.interface_name.clone();
    if verb == "teardown" {
        let release = Release { owner, ifname: Some(ifname) };
        return take_back(&agent, Queued::Release(release), &input.container_id).await.map(|()| None);
    }
    let patience = patience(&options)?;
    let request = input.request(owner, &options)?;
    let namespace = Namespace::open(netns)?;
    // As in `verbs`: unless it is told, ours is not the second way out.
    let default_route = request.default_route && (options.contains_key("default_route") || !namespace.has_default_route());
    let attached = attach(&agent, Attach { netns: namespace.path(), default_route, ..request }, &namespace, patience).await?;
    Ok(Some(status_block(&attached, input.network.network_dns_servers.as_deref().unwrap_or_default())))
}

/// What is known of this plugin.
#[must_use]
pub fn info() -> Value {
    json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API_VERSION, "name": "weft" })
}

/// As the protocol has it on standard output.
#[must_use]
pub fn error(fault: &Fault) -> Value {
    let details = if fault.details.is_empty() { String::new() } else { format!(": {}", fault.details) };
    json!({ "error": format!("{}{details}", fault.msg) })
}

/// Judges a new network's options, and leaves its addresses to the agent.
fn create(mut network: Map<String, Value>) -> Result<Value, Fault> {
    let options = match network.get("options") {
        None | Some(Value::Null) => Options::new(),
        Some(options) => Options::deserialize(options).map_err(|e| Fault::new(DECODING, format!("options: {e}")))?,
    };
    if let Some(unknown) = options.keys().find(|key| !OPTIONS.contains(&key.as_str())) {
        return Err(Fault::new(UNSUPPORTED, format!("option {unknown:?} is not known; known are {}", OPTIONS.join(", "))));
    }
    // A request nobody sends shows what cannot be.
    wish(&options)?.into_attach(PathBuf::new())?;
    patience(&options)?;
    default_route(&options)?;
    let driver = network.get("ipam_options").and_then(|ipam| ipam["driver"].as_str()).unwrap_or_default().to_owned();
    let subnets = network.get("subnets").and_then(Value::as_array).is_some_and(|subnets| !subnets.is_empty());
    match (driver.as_str(), subnets) {
        ("none", _) | ("" | "host-local", false) => {}
        ("" | "host-local", true) => {
            let msg = "a subnet is not served: each host has its own, from the network's configuration (netctl network create)";
            return Err(Fault::new(UNSUPPORTED, msg));
        }
        (other, _) => {
            return Err(Fault::new(UNSUPPORTED, format!("ipam driver {other:?} is not served: the agent gives the addresses")));
        }
    }
    if !network.get("ipam_options").is_some_and(Value::is_object) {
        network.insert("ipam_options".to_owned(), json!({}));
    }
    network["ipam_options"]["driver"] = "none".into();
    Ok(network.into())
}

impl Input {
    /// The network's options, and this container's own in their place.
    fn options(&self) -> Options {
        let mut options = self.network.options.clone().unwrap_or_default();
        options.extend(self.network_options.options.clone().unwrap_or_default());
        options
    }

    fn request(&self, owner: Owner, options: &Options) -> Result<Attach, Fault> {
        let mut publish = Vec::new();
        // Port 0 is how podman says that a port is not published.
        for mapping in self.port_mappings.iter().flatten().filter(|mapping| mapping.host_port != 0) {
            // "tcp,udp" is both.
            for proto in mapping.protocol.split(',') {
                let rule = Publish {
                    host: host(&mapping.host_ip)?,
                    host_port: mapping.host_port,
                    port: mapping.container_port,
                    count: mapping.range.max(1),
                    proto: protocol(proto.trim())?,
                };
                rule.check().map_err(|e| Fault::new(CONFIG, e))?;
                publish.push(rule);
            }
        }
        let own = &self.network_options;
        let wish = Wish {
            owner,
            ifname: own.interface_name.clone(),
            name: self.container_name.as_deref().filter(|name| !name.is_empty()),
            aliases: own.aliases.clone().unwrap_or_default(),
            addresses: one_of_each(own.static_ips.clone().unwrap_or_default())?,
            mac: own.static_mac.as_deref().filter(|mac| !mac.is_empty()),
            publish: merged(publish),
            default_route: default_route(options)? && !self.network.internal.unwrap_or_default(),
            ..wish(options)?
        };
        let ifname = &wish.ifname;
        weft_model::ids::check_ifname(ifname).map_err(|why| Fault::new(CONFIG, format!("interface {ifname:?} {why}")))?;
        wish.into_attach(PathBuf::new())
    }
}

/// What the options say.
fn wish(options: &Options) -> Result<Wish<'_>, Fault> {
    let mut map = BTreeMap::new();
    for pair in options.get("labels").into_iter().flat_map(|text| text.split(',')).filter(|pair| !pair.trim().is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Fault::new(CONFIG, format!("labels: {pair:?} is no label; the form is KEY=VALUE,KEY=VALUE")))?;
        map.insert(key.trim().to_owned(), value.to_owned());
    }
    Ok(Wish {
        owner: Owner { runtime: Runtime::Netavark, network: String::new(), container: String::new() },
        ifname: String::new(),
        network: options.get("network").map(String::as_str),
        service: options.get("service").map(String::as_str),
        check: options.get("check").map(String::as_str),
        labels: map,
        name: None,
        aliases: Vec::new(),
        addresses: Vec::new(),
        mac: None,
        publish: Vec::new(),
        default_route: true,
    })
}

fn default_route(options: &Options) -> Result<bool, Fault> {
    match options.get("default_route").map(String::as_str) {
        None | Some("true" | "1" | "yes") => Ok(true),
        Some("false" | "0" | "no") => Ok(false),
        Some(other) => Err(Fault::new(CONFIG, format!("default_route {other:?}: true or false"))),
    }
}

fn patience(options: &Options) -> Result<Duration, Fault> {
    match options.get("timeout").map(|text| text.parse::<u64>()) {
        None => Ok(PATIENCE),
        Some(Ok(seconds @ 0..=3600)) => Ok(Duration::from_secs(seconds)),
        Some(_) => Err(Fault::new(CONFIG, "timeout: a number of seconds, at most 3600")),
    }
}

fn status_block(attached: &Attached, servers: &[IpAddr]) -> Value {
    let subnets: Vec<Value> = attached
        .addresses
        .iter()
        .map(|address| {
            let gateway =
                if address.addr().is_ipv4() { Some(attached.gateway.into()) } else { attached.gateway6.map(IpAddr::V6) };
            json!({ "ipnet": address, "gateway": gateway })
        })
        .collect();
    let interface = json!({ "mac_address": attached.mac.to_string(), "subnets": subnets });
    let servers = if servers.is_empty() { &attached.dns } else { servers };
    json!({
        "interfaces": { &attached.ifname: interface },
        "dns_server_ips": servers,
        "dns_search_domains": attached.search,
    })
}

fn decode<T: serde::de::DeserializeOwned>(stdin: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(stdin).map_err(|e| Fault::new(DECODING, "standard input does not parse").with(e.to_string()))
}
