//! The layout of the store as one table: which key means what.
//!
//! | key | [`Key`] |
//! |---|---|
//! | `<network-prefix>/config` | `NetworkConfig` |
//! | `<network-prefix>/subnets/10.244.3.0-24` | `Subnet` |
//! | `<weft-prefix>/subnets/default/10.244.3.0-24` | `Subnet`, of a host without IPv4 |
//! | `<dns-prefix>/<labels from the root down>` | `Record` |
//! | `<weft-prefix>/down/<labels from the root down>` | `Down`: a record that takes no traffic |
//! | `<weft-prefix>/drains/nodes/<node>` | `DrainNode` |
//! | `<weft-prefix>/drains/endpoints/<labels of the endpoint>` | `DrainEndpoint` |
//! | `<weft-prefix>/config` | `ClusterConfig` |
//! | `<weft-prefix>/nodes/<node>` | `Node` |
//! | `<weft-prefix>/namespaces/<namespace>` | `Namespace` |
//! | `<weft-prefix>/networks/<network>` | `Network`, one besides the default one |
//! | `<weft-prefix>/subnets/<network>/10.245.3.0-24` | `NetworkSubnet` |
//! | `<weft-prefix>/reservations/<network>/10.244.3.0-24` | `Reservation` |
//! | `<weft-prefix>/services/<namespace>/<name>` | `Service` |
//! | `<weft-prefix>/vips/<address>` | `Vip` |
//! | `<weft-prefix>/leaders/<namespace>/<name>` | `Leader`, chosen by hand |
//! | `<weft-prefix>/elections/<namespace>/<name>` | `Election`, who holds the lead |

use std::fmt;
use std::net::IpAddr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::BadValue;
use crate::ids::{BadId, Namespace, NetworkName, NodeName, ServiceName};
use crate::subnet::{SubnetKey, Tree};

/// Where a record stands below the DNS prefix: labels from the root down, joined by `/` (`local/skydns/myapp/web-1/4`).
///
/// Ordered as the store orders keys, so everything below a name follows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordPath(String);

impl RecordPath {
    /// The path made of `labels`, which stand from the root down.
    #[must_use]
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a str>) -> Self {
        Self(labels.into_iter().collect::<Vec<_>>().join("/"))
    }

    /// The path as it stands in a key, without the prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Labels from the root down.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|l| !l.is_empty())
    }

    /// The path one label further down.
    #[must_use]
    pub fn child(&self, label: &str) -> Self {
        if self.0.is_empty() { Self(label.to_owned()) } else { Self(format!("{}/{label}", self.0)) }
    }

    /// The path one label up; none above the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self.0.rsplit_once('/') {
            Some((parent, _)) => Some(Self(parent.to_owned())),
            None if self.0.is_empty() => None,
            None => Some(Self(String::new())),
        }
    }

    /// The last label.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.labels().next_back()
    }

    /// Whether `other` is this path or below it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.is_empty()
            || other.0 == self.0
            || (other.0.starts_with(&self.0) && other.0.as_bytes().get(self.0.len()) == Some(&b'/'))
    }

    /// The DNS name, with its final dot.
    #[must_use]
    pub fn dns_name(&self) -> String {
        let mut name = String::with_capacity(self.0.len() + 1);
        for label in self.labels().rev() {
            name.push_str(label);
            name.push('.');
        }
        if name.is_empty() { ".".to_owned() } else { name }
    }
}

impl fmt::Display for RecordPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// In which of two trees a record stands. Each path is in one of them: who moves a record deletes it in the other one in the same
/// transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordTree {
    /// Below the DNS prefix, where CoreDNS and SkyDNS serve it as well.
    #[default]
    Served,
    /// Below `<weft-prefix>/down`, where nobody answers with it: what is starting or down.
    Down,
}

impl RecordTree {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Served => Self::Down,
            Self::Down => Self::Served,
        }
    }
}

/// A record's path, and the tree that it stands in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The path, the same in both trees.
    pub path: RecordPath,
    /// The tree.
    pub tree: RecordTree,
}

impl Place {
    /// The place below the DNS prefix.
    #[must_use]
    pub fn served(path: RecordPath) -> Self {
        Self { path, tree: RecordTree::Served }
    }

    /// The place of the same path in the other tree.
    #[must_use]
    pub fn opposite(&self) -> Self {
        Self { path: self.path.clone(), tree: self.tree.other() }
    }
}

/// What a key of ours stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The network's configuration.
    NetworkConfig,
    /// A host's subnet.
    Subnet(SubnetKey),
    /// A DNS record.
    Record(RecordPath),
    /// A DNS record that takes no traffic, kept out of what is served.
    Down(RecordPath),
    /// What drains a host.
    DrainNode(NodeName),
    /// What drains an endpoint.
    DrainEndpoint(RecordPath),
    /// Cluster-wide settings.
    ClusterConfig,
    /// A host.
    Node(NodeName),
    /// A declared namespace.
    Namespace(Namespace),
    /// The configuration of a network besides the default one.
    Network(NetworkName),
    /// A host's subnet in such a network.
    NetworkSubnet(NetworkName, SubnetKey),
    /// A subnet that is kept for one host.
    Reservation(NetworkName, Ipv4Net),
    /// A service.
    Service(ServiceName),
    /// The owner of a virtual IP.
    Vip(IpAddr),
    /// Who is to lead a service or a name.
    Leader(ServiceName),
    /// Who holds the lead of a name.
    Election(ServiceName),
    /// A key below our prefixes that this version has no use for.
    Other,
}

/// The three prefixes. Each begins with `/` and does not end with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    network: String,
    dns: String,
    weft: String,
    /// The network whose configuration and subnets are meant; none is the default one.
    scope: Option<NetworkName>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { network: "/coreos.com/network".to_owned(), dns: "/skydns".to_owned(), weft: "/weft/v1".to_owned(), scope: None }
    }
}

impl Layout {
    /// The layout below these prefixes.
    ///
    /// # Errors
    /// A prefix that is empty, does not begin with `/`, or lies inside another one.
    pub fn new(network: &str, dns: &str, weft: &str) -> Result<Self, String> {
        let mut out: Vec<String> = Vec::with_capacity(3);
        for (flag, given) in [("--network-prefix", network), ("--dns-prefix", dns), ("--weft-prefix", weft)] {
            let prefix = given.trim_end_matches('/');
            if !prefix.starts_with('/') || prefix.contains("//") {
                return Err(format!("{flag} {given:?}: must be an absolute path in the store, such as /skydns"));
            }
            for other in &out {
                let inside = |a: &str, b: &str| a == b || a.starts_with(&format!("{b}/"));
                if inside(prefix, other) || inside(other, prefix) {
                    return Err(format!(
                        "{flag} {given:?}: lies inside {other:?} or the other way round; the three prefixes must be apart"
                    ));
                }
            }
            out.push(prefix.to_owned());
        }
        let mut out = out.into_iter();
        match (out.next(), out.next(), out.next()) {
            (Some(network), Some(dns), Some(weft)) => Ok(Self { network, dns, weft, scope: None }),
            _ => Err("three prefixes are needed".to_owned()),
        }
    }

    /// The prefixes as they were given: of the network, of names, our own.
    #[must_use]
    pub fn prefixes(&self) -> (&str, &str, &str) {
        (&self.network, &self.dns, &self.weft)
    }

    /// The byte prefixes below which everything of ours stands.
    #[must_use]
    pub fn watched(&self) -> Vec<Vec<u8>> {
        [&self.network, &self.dns, &self.weft].map(|p| format!("{p}/").into_bytes()).to_vec()
    }

    /// What `key` stands for.
    ///
    /// # Errors
    /// A key below our prefixes that cannot be what its place says.
    pub fn parse(&self, key: &[u8]) -> Result<Key, BadValue> {
        let bad = |why: String| BadValue { key: String::from_utf8_lossy(key).into_owned(), why };
        let text = std::str::from_utf8(key).map_err(|_| bad("the key is not UTF-8".to_owned()))?;
        let below = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
        if let Some(rest) = below(&self.dns) {
            if rest.is_empty() || rest == "config" {
                return Ok(Key::Other);
            }
            if rest.split('/').any(str::is_empty) {
                return Err(bad("an empty label in the name".to_owned()));
            }
            return Ok(Key::Record(RecordPath(rest.to_owned())));
        }
        if let Some(rest) = below(&self.network) {
            return match rest.split_once('/') {
                None if rest == "config" => Ok(Key::NetworkConfig),
                Some(("subnets", name)) => name.parse().map(Key::Subnet).map_err(bad),
                _ => Ok(Key::Other),
            };
        }
        if let Some(rest) = below(&self.weft) {
            return match rest.split_once('/') {
                None if rest == "config" => Ok(Key::ClusterConfig),
                Some(("subnets", rest)) => match rest.split_once('/') {
                    Some((network, name)) if network == NetworkName::default_network().as_str() => {
                        let key: SubnetKey = name.parse().map_err(bad)?;
                        Ok(Key::Subnet(key.in_tree(Tree::Weft)))
                    }
                    Some((network, name)) => {
                        let network = network.parse().map_err(|e: BadId| bad(e.to_string()))?;
                        Ok(Key::NetworkSubnet(network, name.parse().map_err(bad)?))
                    }
                    None => Ok(Key::Other),
                },
                Some(("networks", name)) => match name.parse::<NetworkName>() {
                    Ok(name) if name.is_default() => {
                        Err(bad(format!("the default network is configured in {}/config", self.network)))
                    }
                    Ok(name) => Ok(Key::Network(name)),
                    Err(e) => Err(bad(e.to_string())),
                },
                Some(("down" | "drains", rest)) if rest.split('/').any(str::is_empty) => {
                    Err(bad("an empty label in the name".to_owned()))
                }
                Some(("down", path)) => Ok(Key::Down(RecordPath(path.to_owned()))),
                Some(("drains", rest)) => match rest.split_once('/') {
                    Some(("nodes", name)) => name.parse().map(Key::DrainNode).map_err(|e| bad(e.to_string())),
                    Some(("endpoints", path)) => Ok(Key::DrainEndpoint(RecordPath(path.to_owned()))),
                    _ => Ok(Key::Other),
                },
                Some(("nodes", name)) => name.parse().map(Key::Node).map_err(|e| bad(e.to_string())),
                Some(("namespaces", name)) => name.parse().map(Key::Namespace).map_err(|e| bad(e.to_string())),
                Some(("reservations", rest)) => {
                    let (network, subnet) =
                        rest.split_once('/').ok_or_else(|| bad("a reservation's key has a network and a subnet".to_owned()))?;
                    let subnet: SubnetKey = subnet.parse().map_err(bad)?;
                    let network = network.parse().map_err(|e: BadId| bad(e.to_string()))?;
                    Ok(Key::Reservation(network, subnet.subnet))
                }
                Some(("services", name)) if !name.contains('/') => {
                    Err(bad("a service key has a namespace and a name".to_owned()))
                }
                Some(("services", name)) => name.parse().map(Key::Service).map_err(|e| bad(e.to_string())),
                Some((of @ ("leaders" | "elections"), name)) => {
                    let name = Some(name)
                        .filter(|name| name.contains('/'))
                        .ok_or_else(|| bad("it has a namespace and a name".to_owned()))?;
                    let name = name.parse().map_err(|e: BadId| bad(e.to_string()))?;
                    Ok(if of == "leaders" { Key::Leader(name) } else { Key::Election(name) })
                }
                Some(("vips", address)) => {
                    address.parse().map(Key::Vip).map_err(|_| bad(format!("{address:?} is no IP address")))
                }
                _ => Ok(Key::Other),
            };
        }
        Ok(Key::Other)
    }

    /// The same layout for another network: its configuration and its subnets are meant wherever those of a network are.
    #[must_use]
    pub fn in_network(&self, name: &NetworkName) -> Self {
        Self { scope: Some(name.clone()).filter(|name| !name.is_default()), ..self.clone() }
    }

    /// The key of the network's configuration: `<network-prefix>/config`, or that of another network.
    #[must_use]
    pub fn network_config(&self) -> String {
        match &self.scope {
            None => format!("{}/config", self.network),
            Some(name) => format!("{}/networks/{name}", self.weft),
        }
    }

    /// The key of a subnet's lease.
    #[must_use]
    pub fn subnet(&self, key: &SubnetKey) -> String {
        if let Some(network) = &self.scope {
            return format!("{}/subnets/{network}/{key}", self.weft);
        }
        match key.tree {
            Tree::Network => format!("{}/subnets/{key}", self.network),
            Tree::Weft => format!("{}/subnets/{}/{key}", self.weft, NetworkName::default_network()),
        }
    }

    /// The key of a record.
    #[must_use]
    pub fn record(&self, path: &RecordPath) -> String {
        format!("{}/{path}", self.dns)
    }

    /// The key of a record in the tree that it stands in.
    #[must_use]
    pub fn place(&self, place: &Place) -> String {
        match place.tree {
            RecordTree::Served => self.record(&place.path),
            RecordTree::Down => format!("{}/down/{}", self.weft, place.path),
        }
    }

    /// The key of what drains a host.
    #[must_use]
    pub fn drain_node(&self, node: &NodeName) -> String {
        format!("{}/drains/nodes/{node}", self.weft)
    }

    /// The key of what drains an endpoint, by the endpoint's own path.
    #[must_use]
    pub fn drain_endpoint(&self, path: &RecordPath) -> String {
        format!("{}/drains/endpoints/{path}", self.weft)
    }

    /// `<weft-prefix>/config`.
    #[must_use]
    pub fn cluster_config(&self) -> String {
        format!("{}/config", self.weft)
    }

    /// The key of a node's entry.
    #[must_use]
    pub fn node(&self, node: &NodeName) -> String {
        format!("{}/nodes/{node}", self.weft)
    }

    /// The key that declares a namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &Namespace) -> String {
        format!("{}/namespaces/{namespace}", self.weft)
    }

    /// The key of a reserved subnet.
    #[must_use]
    pub fn reservation(&self, network: &NetworkName, subnet: Ipv4Net) -> String {
        format!("{}/reservations/{network}/{}", self.weft, SubnetKey::v4(subnet))
    }

    /// The key of a service.
    #[must_use]
    pub fn service(&self, service: &ServiceName) -> String {
        format!("{}/services/{service}", self.weft)
    }

    /// The key that says who is to lead.
    #[must_use]
    pub fn leader(&self, of: &ServiceName) -> String {
        format!("{}/leaders/{of}", self.weft)
    }

    /// The key that the leader of a name holds.
    #[must_use]
    pub fn election(&self, of: &ServiceName) -> String {
        format!("{}/elections/{of}", self.weft)
    }

    /// The key that says who owns a virtual IP.
    #[must_use]
    pub fn vip(&self, address: IpAddr) -> String {
        format!("{}/vips/{address}", self.weft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_we_write_parses_as_what_it_is() {
        let l = Layout::default();
        let subnet: SubnetKey = "10.244.3.0-24".parse().unwrap();
        let path = RecordPath::from_labels(["local", "skydns", "myapp", "web-1", "4"]);
        let service: ServiceName = "prod/myapp".parse().unwrap();
        let node: NodeName = "h1.example".parse().unwrap();
        let blue: NetworkName = "blue".parse().unwrap();
        for (key, is) in [
            (l.network_config(), Key::NetworkConfig),
            (l.subnet(&subnet), Key::Subnet(subnet)),
            (l.subnet(&subnet.in_tree(Tree::Weft)), Key::Subnet(subnet.in_tree(Tree::Weft))),
            (l.record(&path), Key::Record(path.clone())),
            (l.place(&Place::served(path.clone())), Key::Record(path.clone())),
            (l.place(&Place::served(path.clone()).opposite()), Key::Down(path.clone())),
            (l.drain_node(&node), Key::DrainNode(node.clone())),
            (l.drain_endpoint(&path), Key::DrainEndpoint(path)),
            (l.cluster_config(), Key::ClusterConfig),
            (
                l.reservation(&NetworkName::default_network(), "10.244.3.0/24".parse().unwrap()),
                Key::Reservation(NetworkName::default_network(), "10.244.3.0/24".parse().unwrap()),
            ),
            (l.node(&node), Key::Node(node)),
            (l.leader(&service), Key::Leader(service.clone())),
            (l.election(&service), Key::Election(service.clone())),
            (l.service(&service), Key::Service(service)),
            (l.vip("10.112.0.7".parse().unwrap()), Key::Vip("10.112.0.7".parse().unwrap())),
            ("/weft/v1/drains/x".to_owned(), Key::Other),
            (l.in_network(&blue).subnet(&subnet), Key::NetworkSubnet(blue.clone(), subnet)),
            (l.in_network(&blue).network_config(), Key::Network(blue)),
            ("/coreos.com/network/subnetsx".to_owned(), Key::Other),
            ("/elsewhere".to_owned(), Key::Other),
        ] {
            assert_eq!(l.parse(key.as_bytes()).unwrap(), is, "{key}");
        }
    }

    #[test]
    fn junk_is_named_by_its_key() {
        let l = Layout::default();
        for key in [
            "/coreos.com/network/subnets/foo",
            "/weft/v1/subnets/default/foo",
            "/weft/v1/subnets/blue/foo",
            "/weft/v1/networks/default",
            "/weft/v1/services/x",
            "/weft/v1/leaders/x",
            "/weft/v1/elections/a/B",
            "/weft/v1/nodes/a b",
            "/skydns/a//b",
            "/weft/v1/down/a//b",
            "/weft/v1/down/",
            "/weft/v1/drains/nodes/a b",
            "/weft/v1/drains/endpoints/",
            "/weft/v1/vips/x",
            "/weft/v1/reservations/x",
        ] {
            assert_eq!(l.parse(key.as_bytes()).unwrap_err().key, key);
        }
        assert!(l.parse(b"/skydns/\xff").is_err());
    }

    #[test]
    fn prefixes_inside_each_other_are_refused() {
        assert!(Layout::new("/a", "/a/b", "/c").is_err());
        assert!(Layout::new("a", "/b", "/c").is_err());
        assert!(Layout::new("/", "/b", "/c").is_err());
        assert_eq!(Layout::new("/coreos.com/network/", "/skydns", "/weft/v1").unwrap(), Layout::default());
    }

    #[test]
    fn a_path_covers_itself_and_what_is_below_but_no_namesake() {
        let my = RecordPath::from_labels(["local", "my"]);
        assert!(my.covers(&my) && my.covers(&my.child("x")) && !my.covers(&RecordPath::from_labels(["local", "myapp"])));
        assert_eq!(my.child("x").dns_name(), "x.my.local.");
        assert_eq!(my.parent().unwrap().parent().unwrap().parent(), None);
    }
}
