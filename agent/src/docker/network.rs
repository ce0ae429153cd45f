//! The network driver: what Docker's networks and endpoints mean here.
//!
//! **Nothing is kept of a network.** dockerd does not tell of its networks again when it starts (seen with 20.10.24), and this
//! agent may be younger than they are. So what an endpoint needs follows from the endpoint: its address tells the network. A
//! network is looked at once, when it is made, and refused if its endpoints could not work.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Map, Value};
use weft_model::attachment::{Owner, Runtime};
use weft_model::ids::ServiceName;
use weft_model::mac::Mac;
use weft_model::publish::Publish;
use weft_model::record::Proto;

use super::ADDRESS_SPACE;
use super::ipam::{NETWORK, address, named, no_v6};
use super::wire::{
    CreateEndpoint, CreateNetwork, DOCKERS, ENABLE_IPV6, GENERIC, INTERNAL, InterfaceName, Joined, OfEndpoint, PORT_MAP,
    PortBinding, StaticRoute,
};
use crate::attach::ground::{Family, Ground};
use crate::attach::handed::{End, HandedOut};
use crate::refusal::Refusal;

/// What interfaces in containers are called: `eth0`, `eth1`, …
const PREFIX: &str = "eth";

/// A driver option of an endpoint: what people call the container.
const NAME: &str = "name";

/// A driver option of an endpoint: the service that it is an instance of.
const SERVICE: &str = "service";

/// What a driver option that is a label begins with.
const LABEL: &str = "label.";

/// The longest id that is taken for one; dockerd's have 64 digits.
const MAX_ID: usize = 128;

/// Whether containers on this network could work.
///
/// # Errors
/// Why they could not.
pub fn check(request: &CreateNetwork, grounds: &[Ground]) -> Result<(), Refusal> {
    check_id("NetworkID", &request.network)?;
    let is_set = |option: &str| request.options.get(option).and_then(Value::as_bool).unwrap_or(false);
    if is_set(INTERNAL) {
        return Err(Refusal::invalid("--internal: containers of an overlay have a way out; leave it out"));
    }
    let none = Map::new();
    let given = request.options.get(GENERIC).and_then(Value::as_object).unwrap_or(&none);
    if let Some(other) = given.keys().find(|key| *key != NETWORK && !key.starts_with(DOCKERS)) {
        return Err(Refusal::invalid(format!("-o {other}: there is no such option; {NETWORK} is the only one")));
    }
    let pool = request.v4.first().ok_or_else(|| Refusal::invalid("a network without IPv4 addresses"))?;
    if pool.address_space != ADDRESS_SPACE {
        return Err(Refusal::invalid(
            "add --ipam-driver with this driver's name: Docker's own would give away addresses that other hosts have",
        ));
    }
    let gateway = address(&pool.gateway)?;
    let ground = grounds
        .iter()
        .find(|ground| ground.gateway(Family::V4) == Some(gateway))
        .ok_or_else(|| Refusal::invalid(format!("{gateway} is the gateway of no network of this host; make the network anew")))?;
    if let Some(asked) = given.get(NETWORK) {
        let asked = asked.as_str().ok_or_else(|| Refusal::invalid(format!("-o {NETWORK}: {asked} is no name")))?;
        if named(asked, grounds)?.network != ground.network {
            let is = &ground.network;
            return Err(Refusal::invalid(format!(
                "-o {NETWORK}={asked}: its addresses are of network {is}; add --ipam-opt {NETWORK}={asked}"
            )));
        }
    }
    if (is_set(ENABLE_IPV6) || !request.v6.is_empty()) && ground.range(Family::V6).is_none() {
        return Err(no_v6(&ground.network));
    }
    Ok(())
}

/// By what an endpoint is known.
///
/// # Errors
/// The ids are none.
pub fn owner(of: &OfEndpoint) -> Result<Owner, Refusal> {
    check_id("NetworkID", &of.network)?;
    check_id("EndpointID", &of.endpoint)?;
    Ok(Owner { runtime: Runtime::Docker, network: of.network.clone(), container: of.endpoint.clone() })
}

/// Whether it can be an id of Docker's; it gets into names and logs.
///
/// # Errors
/// Why not.
pub fn check_id(what: &str, id: &str) -> Result<(), Refusal> {
    let fits = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits { Ok(()) } else { Err(Refusal::invalid(format!("{what} {id:?} is no id of Docker's"))) }
}

/// The endpoint that is asked for.
///
/// # Errors
/// What is wrong with it.
pub fn end(request: &CreateEndpoint, grounds: &[Ground]) -> Result<End, Refusal> {
    let owner = owner(&request.of)?;
    let interface = &request.interface;
    let v4: Ipv4Addr = match address(&interface.address)? {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(other) => return Err(Refusal::invalid(format!("address {other} is not IPv4"))),
    };
    let ground = grounds.iter().find(|ground| ground.subnet.contains(&v4)).ok_or_else(|| {
        let subnets: Vec<String> = grounds.iter().map(|ground| ground.subnet.to_string()).collect();
        Refusal::invalid(format!("address {v4} is in no subnet of this host; those are {}", subnets.join(", ")))
    })?;
    let v6: Option<Ipv6Addr> = match interface.address6.as_str() {
        "" => None,
        text => match address(text)? {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(other) => return Err(Refusal::invalid(format!("address {other} is not IPv6"))),
        },
    };
    let mac = match interface.mac.as_str() {
        "" => Mac::of_container(v4),
        text => text.parse().map_err(|e| Refusal::invalid(format!("--mac-address: {e}")))?,
    };
    let mut end = End {
        owner,
        network: Some(ground.network.clone()).filter(|name| !name.is_default()),
        address: v4,
        address6: v6,
        mac,
        name: None,
        service: None,
        port: None,
        proto: Proto::default(),
        labels: BTreeMap::new(),
    };
    describe(&mut end, &request.of.options)?;
    Ok(end)
}

/// What the user says of it by `--network name=…,driver-opt=KEY=VALUE`. Docker's own options are other requests' or nobody's.
fn describe(end: &mut End, options: &Map<String, Value>) -> Result<(), Refusal> {
    for (key, value) in options.iter().filter(|(key, _)| !key.starts_with(DOCKERS)) {
        let text = value.as_str().ok_or_else(|| Refusal::invalid(format!("driver-opt {key}: {value} is no text")))?;
        match (key.as_str(), key.strip_prefix(LABEL)) {
            (NAME, _) => end.name = Some(text.to_owned()),
            (SERVICE, _) => {
                let wrong = |e| Refusal::invalid(format!("driver-opt {SERVICE}={text}: {e}"));
                let (service, port, proto) = service(text).map_err(wrong)?;
                (end.service, end.port, end.proto) = (Some(service), port, proto);
            }
            (_, Some(label)) => drop(end.labels.insert(label.to_owned(), text.to_owned())),
            _ => {
                return Err(Refusal::invalid(format!(
                    "driver-opt {key}: there is no such option; there are {NAME}, {SERVICE} and {LABEL}KEY"
                )));
            }
        }
    }
    Ok(())
}

/// Reads `NAME[:PORT[/tcp|udp]]`.
fn service(text: &str) -> Result<(ServiceName, Option<u16>, Proto), String> {
    let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let name = name.parse().map_err(|e: weft_model::ids::BadId| e.to_string())?;
    let Some(rest) = rest else { return Ok((name, None, Proto::default())) };
    let (port, proto) = match rest.split_once('/') {
        Some((port, proto)) => (port, proto.parse()?),
        None => (rest, Proto::default()),
    };
    match port.parse() {
        Ok(port) if port != 0 => Ok((name, Some(port), proto)),
        _ => Err(format!("{port:?} is no port number (1 to 65535)")),
    }
}

/// The ports that are to be published.
///
/// # Errors
/// Which one cannot be, and why.
pub fn publish(options: &Map<String, Value>) -> Result<Vec<Publish>, Refusal> {
    let Some(map) = options.get(PORT_MAP).filter(|map| !map.is_null()) else { return Ok(Vec::new()) };
    let map: Vec<PortBinding> = serde_json::from_value(map.clone()).map_err(|e| Refusal::invalid(format!("{PORT_MAP}: {e}")))?;
    map.iter().map(|binding| publish_one(binding).map_err(Refusal::invalid)).collect()
}

fn publish_one(binding: &PortBinding) -> Result<Publish, String> {
    let PortBinding { proto, port, host, host_port, host_port_end } = binding;
    let proto = match proto {
        6 => Proto::Tcp,
        17 => Proto::Udp,
        other => return Err(format!("-p {port}: protocol {other} cannot be published; tcp and udp can")),
    };
    // dockerd never learns from a driver which port was chosen, so nobody could be told.
    if *host_port == 0 || !matches!(host_port_end, 0) && host_port_end != host_port {
        return Err(format!(
            "-p {port}/{proto}: name one port of the host, as in -p 8080:{port}; dockerd would not show which was chosen"
        ));
    }
    let host = match host.as_str() {
        "" => None,
        text => {
            let address: IpAddr = text.parse().map_err(|_| format!("-p: {text:?} is no address"))?;
            Some(address).filter(|address| !address.is_unspecified())
        }
    };
    let publish = Publish { host, host_port: *host_port, port: *port, count: 1, proto };
    publish.check().map(|()| publish)
}

/// The answer to a Join: the device to move, and how the container gets out by it.
#[must_use]
pub fn joined(out: &HandedOut) -> Joined {
    let on_link =
        |address: IpAddr| StaticRoute { destination: IpNet::from(address).to_string(), route_type: 1, next_hop: String::new() };
    // An address alone on its link has no neighbours, so the way to the gateway has to be said; libnetwork sets it first. The
    // network's range is said too: where the container is on several networks, the default route leads elsewhere.
    let gateway = IpAddr::V4(out.gateway);
    let gateways = [Some(gateway), out.gateway6.map(IpAddr::V6)].into_iter().flatten();
    let ranges = [Some(IpNet::V4(out.range)), out.range6.map(IpNet::V6)].into_iter().flatten();
    let by = |(destination, next_hop): (IpNet, IpAddr)| StaticRoute {
        destination: destination.to_string(),
        route_type: 0,
        next_hop: next_hop.to_string(),
    };
    let static_routes = gateways.clone().map(on_link).chain(ranges.zip(gateways).map(by)).collect();
    Joined {
        interface_name: InterfaceName { src_name: out.device.clone(), dst_prefix: PREFIX },
        gateway: gateway.to_string(),
        gateway6: out.gateway6.map(|gateway| gateway.to_string()).unwrap_or_default(),
        static_routes,
        disable_gateway_service: true,
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
