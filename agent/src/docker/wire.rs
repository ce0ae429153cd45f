//! What libnetwork says and hears, as JSON: requests read generously, answers written as it reads them.
//!
//! Sources: libnetwork's `drivers/remote/api` and `ipams/remote/api` as in Docker 20.10; bodies in the tests are what dockerd
//! 20.10.24 sends. Go leaves out what is unset or writes `null` for it, and which of the two is a matter of version: each
//! optional member is read in both forms. Nothing here knows what a request means; read `network.rs` and `ipam.rs` for that.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// In `Options` of a network: what the user gave by `-o`.
pub const GENERIC: &str = "com.docker.network.generic";

/// In `Options` of a network: whether it was made with `--ipv6`.
pub const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";

/// In `Options` of a network: whether it was made with `--internal`.
pub const INTERNAL: &str = "com.docker.network.internal";

/// In `Options` of an endpoint: what `-p` asks for.
pub const PORT_MAP: &str = "com.docker.network.portmap";

/// Names that are Docker's begin with this.
pub const DOCKERS: &str = "com.docker.";

/// In `Data` of a pool: the gateway, so that none is asked for.
pub const GATEWAY: &str = "com.docker.network.gateway";

/// The option of an address request that says what it is for.
pub const REQUEST_TYPE: &str = "RequestAddressType";

/// Reads a request. One without a body is one without members.
///
/// # Errors
/// It is no such request.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|e| Refusal::invalid(format!("the request's body: {e}")))
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// A refusal. Network drivers are read for `Err`, IPAM drivers for `Error` (seen with 20.10.24: an IPAM answer with `Err` alone
/// counts as one without an address); `Err` is also what is looked for in an answer whose status is not 200.
#[derive(Debug, Serialize)]
pub struct Failure<'a> {
    /// For network drivers.
    #[serde(rename = "Err")]
    pub err: &'a str,
    /// For IPAM drivers.
    #[serde(rename = "Error")]
    pub error: &'a str,
}

/// An answer that says no more than that it is done.
#[derive(Debug, Serialize)]
pub struct Done {}

/// `/Plugin.Activate`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Activation {
    /// The protocols spoken.
    pub implements: [&'static str; 2],
}

/// `/NetworkDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCapabilities {
    /// Whether dockerd keeps a network to its host (`local`) or in a store of the cluster.
    pub scope: &'static str,
    /// How far its containers reach.
    pub connectivity_scope: &'static str,
}

/// `/NetworkDriver.CreateNetwork`.
#[derive(Debug, Deserialize)]
pub struct CreateNetwork {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID")]
    pub network: String,
    /// Options, Docker's and the user's.
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    pub options: Map<String, Value>,
    /// The pools of IPv4 addresses.
    #[serde(rename = "IPv4Data", default, deserialize_with = "or_default")]
    pub v4: Vec<PoolData>,
    /// The pools of IPv6 addresses.
    #[serde(rename = "IPv6Data", default, deserialize_with = "or_default")]
    pub v6: Vec<PoolData>,
}

/// A pool as a network driver is told of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PoolData {
    /// Whose it is: an IPAM driver's own word.
    #[serde(default, deserialize_with = "or_default")]
    pub address_space: String,
    /// The gateway, with a prefix length.
    #[serde(default, deserialize_with = "or_default")]
    pub gateway: String,
}

/// A request that names a network and nothing else.
#[derive(Debug, Deserialize)]
pub struct OfNetwork {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID")]
    pub network: String,
}

/// A request that names an endpoint: a container's end of a network.
#[derive(Debug, Deserialize)]
pub struct OfEndpoint {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID")]
    pub network: String,
    /// Docker's id of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
    /// Options, where a request has any.
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    pub options: Map<String, Value>,
}

/// `/NetworkDriver.CreateEndpoint`.
#[derive(Debug, Deserialize)]
pub struct CreateEndpoint {
    /// Which.
    #[serde(flatten)]
    pub of: OfEndpoint,
    /// What it is to have.
    #[serde(rename = "Interface", default, deserialize_with = "or_default")]
    pub interface: Interface,
}

/// What an endpoint is to have.
#[derive(Debug, Default, Deserialize)]
pub struct Interface {
    /// Its IPv4 address, with a prefix length.
    #[serde(rename = "Address", default, deserialize_with = "or_default")]
    pub address: String,
    /// Its IPv6 address, with a prefix length; empty where the network has none.
    #[serde(rename = "AddressIPv6", default, deserialize_with = "or_default")]
    pub address6: String,
    /// Its Ethernet address; empty where the user gave none.
    #[serde(rename = "MacAddress", default, deserialize_with = "or_default")]
    pub mac: String,
}

/// The answer to it: only what was empty in the request may be said, anything else is an error to libnetwork.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    /// What was chosen.
    pub interface: Chosen,
}

/// What was chosen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Chosen {
    /// The Ethernet address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

/// `/NetworkDriver.Join`.
#[derive(Debug, Deserialize)]
pub struct Join {
    /// Which.
    #[serde(flatten)]
    pub of: OfEndpoint,
    /// Where the container's network namespace is, or will be: for a container that is being started there is nothing yet
    /// (seen with 20.10.24), for one that runs there is.
    #[serde(rename = "SandboxKey")]
    pub sandbox: String,
}

/// The answer to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    /// The device to move.
    pub interface_name: InterfaceName,
    /// The gateway.
    pub gateway: String,
    /// The same of IPv6; empty for none.
    #[serde(rename = "GatewayIPv6")]
    pub gateway6: String,
    /// Routes.
    pub static_routes: Vec<StaticRoute>,
    /// Whether docker_gwbridge is not wanted.
    pub disable_gateway_service: bool,
}

/// A device to be moved and renamed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    /// Its name in the host's namespace.
    pub src_name: String,
    /// What its name in the container begins with.
    pub dst_prefix: &'static str,
}

/// A route for the container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    /// Where to.
    pub destination: String,
    /// 0: by `next_hop`; 1: on the link.
    pub route_type: u8,
    /// By whom.
    pub next_hop: String,
}

/// `/NetworkDriver.EndpointOperInfo`'s answer: for `docker inspect`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperInfo {
    /// Nothing that dockerd shows could stand here.
    pub value: Map<String, Value>,
}

/// A port that is to be published.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct PortBinding {
    /// The protocol's number.
    #[serde(rename = "Proto")]
    pub proto: u8,
    /// The container's port.
    #[serde(rename = "Port")]
    pub port: u16,
    /// The host's address; empty for all.
    #[serde(rename = "HostIP", default, deserialize_with = "or_default")]
    pub host: String,
    /// The host's port, 0 for any; the first of a range from which one is to be chosen.
    #[serde(rename = "HostPort", default, deserialize_with = "or_default")]
    pub host_port: u16,
    /// The last of that range.
    #[serde(rename = "HostPortEnd", default, deserialize_with = "or_default")]
    pub host_port_end: u16,
}

/// `/IpamDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
pub struct IpamCapabilities {
    /// Whether an address depends on the MAC.
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac: bool,
    /// Whether dockerd has to ask for all pools and addresses again when it starts.
    #[serde(rename = "RequiresRequestReplay")]
    pub requires_replay: bool,
}

/// `/IpamDriver.GetDefaultAddressSpaces`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    /// For networks of one host.
    pub local_default_address_space: &'static str,
    /// For networks of a swarm.
    pub global_default_address_space: &'static str,
}

/// `/IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestPool {
    /// `--subnet`.
    #[serde(default, deserialize_with = "or_default")]
    pub pool: String,
    /// `--ip-range`.
    #[serde(default, deserialize_with = "or_default")]
    pub sub_pool: String,
    /// `--ipam-opt`.
    #[serde(default, deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
    /// Which family.
    #[serde(default, deserialize_with = "or_default")]
    pub v6: bool,
}

/// The answer to it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// By what it is known from now on.
    #[serde(rename = "PoolID")]
    pub id: String,
    /// Its range.
    #[serde(rename = "Pool")]
    pub range: String,
    /// What else there is to say.
    #[serde(rename = "Data")]
    pub data: BTreeMap<&'static str, String>,
}

/// `/IpamDriver.RequestAddress`, `/IpamDriver.ReleaseAddress`, `/IpamDriver.ReleasePool`.
#[derive(Debug, Deserialize)]
pub struct OfPool {
    /// Which.
    #[serde(rename = "PoolID")]
    pub pool: String,
    /// The address; empty for any.
    #[serde(rename = "Address", default, deserialize_with = "or_default")]
    pub address: String,
    /// What it is for.
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// The answer to `/IpamDriver.RequestAddress`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Given {
    /// With a prefix length, which the container's interface gets.
    pub address: String,
    /// Nothing.
    pub data: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE_NETWORK: &str = r#"{"NetworkID":"e2af442a","Options":{"com.docker.network.enable_ipv6":true,"com.docker.network.generic":{"network":"red"}},"IPv4Data":[{"AddressSpace":"weft","Gateway":"10.244.3.1/32","Pool":"10.244.0.0/16"}],"IPv6Data":[{"AddressSpace":"weft","Gateway":"fe80::1/64","Pool":"fd00:10:244::/48"}]}"#;
    const CREATE_ENDPOINT: &str = r#"{"NetworkID":"e2af442a","EndpointID":"733bbfa0","Interface":{"Address":"10.244.3.77/32","AddressIPv6":"fd00:10:244:3::2/128","MacAddress":"02:11:22:33:44:55"},"Options":{"com.docker.network.endpoint.exposedports":[{"Proto":17,"Port":90},{"Proto":6,"Port":80}],"com.docker.network.endpoint.macaddress":"AhEiM0RV","com.docker.network.portmap":[{"Proto":17,"IP":"","Port":90,"HostIP":"","HostPort":9000,"HostPortEnd":9003},{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080}],"service":"myapp:80"}}"#;
    const JOIN: &str = r#"{"NetworkID":"e2af442a","EndpointID":"733bbfa0","SandboxKey":"/var/run/docker/netns/6cb5ee138884","Options":{"com.docker.network.portmap":[]}}"#;
    const LEAVE: &str = r#"{"NetworkID":"e2af442a","EndpointID":"733bbfa0"}"#;
    const REQUEST_POOL: &str =
        r#"{"AddressSpace":"weft","Pool":"10.244.0.0/16","SubPool":"","Options":{"network":"blue"},"V6":false}"#;
    const REQUEST_ADDRESS: &str = r#"{"PoolID":"weft/default/4","Address":"10.244.3.77","Options":null}"#;

    #[test]
    fn what_dockerd_sends_is_read() {
        let network: CreateNetwork = read(CREATE_NETWORK.as_bytes()).unwrap();
        assert_eq!((network.network.as_str(), network.v4[0].gateway.as_str()), ("e2af442a", "10.244.3.1/32"));
        assert_eq!((network.v6[0].address_space.as_str(), &network.options[ENABLE_IPV6]), ("weft", &Value::Bool(true)));
        let endpoint: CreateEndpoint = read(CREATE_ENDPOINT.as_bytes()).unwrap();
        assert_eq!((endpoint.of.endpoint.as_str(), endpoint.interface.mac.as_str()), ("733bbfa0", "02:11:22:33:44:55"));
        assert_eq!(endpoint.interface.address6, "fd00:10:244:3::2/128");
        let ports: Vec<PortBinding> = serde_json::from_value(endpoint.of.options[PORT_MAP].clone()).unwrap();
        let first = PortBinding { proto: 17, port: 90, host: String::new(), host_port: 9000, host_port_end: 9003 };
        assert_eq!((&ports[0], ports.len()), (&first, 2));
        let join: Join = read(JOIN.as_bytes()).unwrap();
        assert_eq!(join.sandbox, "/var/run/docker/netns/6cb5ee138884");
        let pool: RequestPool = read(REQUEST_POOL.as_bytes()).unwrap();
        assert_eq!((pool.pool.as_str(), pool.v6, pool.options["network"].as_str()), ("10.244.0.0/16", false, "blue"));
        let address: OfPool = read(REQUEST_ADDRESS.as_bytes()).unwrap();
        assert!(address.options.is_empty() && address.address == "10.244.3.77");
    }

    #[test]
    fn what_is_left_out_is_empty_and_what_must_be_there_is_asked_for() {
        let pool: RequestPool = read(b" \n").unwrap();
        assert!(pool.pool.is_empty() && !pool.v6);
        let endpoint: CreateEndpoint = read(br#"{"NetworkID":"n","EndpointID":"e","Interface":null,"Options":null}"#).unwrap();
        assert!(endpoint.interface.address.is_empty() && endpoint.of.options.is_empty());
        let said = |error: Refusal| error.message;
        assert!(said(read::<OfEndpoint>(br#"{"NetworkID":"n"}"#).unwrap_err()).contains("EndpointID"));
        assert!(said(read::<Join>(LEAVE.as_bytes()).unwrap_err()).contains("SandboxKey"));
        assert!(said(read::<OfNetwork>(b"").unwrap_err()).contains("NetworkID"));
    }

    #[test]
    fn answers_are_as_libnetwork_reads_them() {
        assert_eq!(text(&Failure { err: "no", error: "no" }), r#"{"Err":"no","Error":"no"}"#);
        assert_eq!(text(&Created { interface: Chosen { mac_address: None } }), r#"{"Interface":{}}"#);
        let joined = Joined {
            interface_name: InterfaceName { src_name: "vethw01".into(), dst_prefix: "eth" },
            gateway: "10.244.3.1".into(),
            gateway6: String::new(),
            static_routes: vec![StaticRoute { destination: "10.244.3.1/32".into(), route_type: 1, next_hop: String::new() }],
            disable_gateway_service: true,
        };
        assert_eq!(
            text(&joined),
            r#"{"InterfaceName":{"SrcName":"vethw01","DstPrefix":"eth"},"Gateway":"10.244.3.1","GatewayIPv6":"","StaticRoutes":[{"Destination":"10.244.3.1/32","RouteType":1,"NextHop":""}],"DisableGatewayService":true}"#
        );
    }

    fn text<T: Serialize>(answer: &T) -> String {
        serde_json::to_string(answer).unwrap()
    }

    #[test]
    fn no_body_makes_a_reader_panic() {
        let readers: [fn(&[u8]); 6] = [
            |b| drop(read::<CreateNetwork>(b)),
            |b| drop(read::<CreateEndpoint>(b)),
            |b| drop(read::<Join>(b)),
            |b| drop(read::<OfEndpoint>(b)),
            |b| drop(read::<RequestPool>(b)),
            |b| drop(read::<OfPool>(b)),
        ];
        let bodies = [CREATE_NETWORK, CREATE_ENDPOINT, JOIN, LEAVE, REQUEST_POOL, REQUEST_ADDRESS];
        for body in bodies.map(str::as_bytes) {
            for at in 0..body.len() {
                let mut wrong = body.to_vec();
                for byte in [0, b'"', b'[', b'9', 0xff] {
                    wrong[at] = byte;
                    readers.iter().for_each(|read| read(&wrong));
                }
                readers.iter().for_each(|read| read(&body[..at]));
            }
        }
    }
}
