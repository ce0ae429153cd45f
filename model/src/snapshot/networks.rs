//! Several networks: each as if it were the only one.
//!
//! What is asked of a snapshot about "the network" is answered for the default one. [`Snapshot::in_network`] is the same
//! snapshot with another network in its place, so that whatever claims, plans or resolves needs to know of one only.

use std::sync::Arc;

use imbl::OrdMap;

use super::{Snapshot, Stored};
use crate::ids::NetworkName;
use crate::network::NetworkConfig;
use crate::subnet::{Lease, SubnetKey, Tree};

impl Snapshot {
    /// The networks besides the default one.
    pub fn networks(&self) -> impl Iterator<Item = (&NetworkName, &Stored<NetworkConfig>)> {
        self.networks.iter().map(|(name, stored)| (name, &**stored))
    }

    /// A network besides the default one.
    #[must_use]
    pub fn network_named(&self, name: &NetworkName) -> Option<&Stored<NetworkConfig>> {
        self.networks.get(name).map(|stored| &**stored)
    }

    /// Whether there is a network of that name; the default one always counts.
    #[must_use]
    pub fn has_network(&self, name: &NetworkName) -> bool {
        name.is_default() || self.networks.contains_key(name)
    }

    /// The hosts' subnets in all networks, those of the default one first.
    pub fn leases_of_all(&self) -> impl Iterator<Item = (&SubnetKey, &Stored<Lease>)> {
        self.leases().chain(self.network_leases.iter().map(|((_, key), lease)| (key, &**lease)))
    }

    /// The same cluster with this network's configuration and subnets in the place of the default one's, and without
    /// reservations, which are of the default one.
    #[must_use]
    pub fn in_network(&self, name: &NetworkName) -> Self {
        if name.is_default() {
            return self.clone();
        }
        let mut scoped = self.clone();
        scoped.layout = Arc::new(self.layout.in_network(name));
        scoped.network = self.networks.get(name).map(|stored| (**stored).clone());
        let of_network = self.network_leases.iter().filter(|((network, _), _)| network == name);
        // Where a key stands tells here what it does for the default network: a host without IPv4 has no address that
        // flannel could read.
        let tree = |lease: &Stored<Lease>| if lease.value.public_ip.is_some() { Tree::Network } else { Tree::Weft };
        scoped.leases = of_network.map(|((_, key), lease)| (key.in_tree(tree(lease)), lease.clone())).collect();
        scoped.reservations = OrdMap::new();
        scoped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Revision;
    use crate::keys::Layout;
    use crate::stored::Entry;

    fn world() -> Snapshot {
        let lease = |ip: &str| format!(r#"{{"PublicIP":"{ip}","BackendType":"host-gw","weft":{{"node":"h1"}}}}"#);
        let record = |network: &str| format!(r#"{{"host":"10.0.0.1","weft":{{"id":"a","node":"h1"{network}}}}}"#);
        let entries = [
            ("/coreos.com/network/config", r#"{"Network":"10.244.0.0/16"}"#.to_owned()),
            ("/coreos.com/network/subnets/10.244.1.0-24", lease("192.0.2.1")),
            ("/weft/v1/networks/blue", r#"{"Network":"10.245.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#.to_owned()),
            ("/weft/v1/subnets/blue/10.245.9.0-24", lease("192.0.2.9")),
            ("/skydns/local/skydns/web/a/4", record("")),
            ("/skydns/local/skydns/db/a/4", record(r#","network":"blue""#)),
            ("/skydns/local/skydns/old/x", r#"{"host":"192.0.2.77"}"#.to_owned()),
        ];
        let entry = |(key, value): (&str, String)| Entry {
            key: key.into(),
            value: value.into_bytes(),
            lease: None,
            created: Revision(5),
            modified: Revision(5),
        };
        Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries.into_iter().map(entry).collect(), None)
    }

    #[test]
    fn each_network_is_seen_as_if_it_were_the_only_one() {
        let s = world();
        let blue: NetworkName = "blue".parse().unwrap();
        let scoped = s.in_network(&blue);
        assert_eq!(scoped.network().unwrap().network.to_string(), "10.245.0.0/16");
        assert_eq!(scoped.leases().map(|(key, _)| key.to_string()).collect::<Vec<_>>(), ["10.245.9.0-24"]);
        let key = *scoped.leases().next().unwrap().0;
        assert_eq!(scoped.layout().subnet(&key), "/weft/v1/subnets/blue/10.245.9.0-24");
        assert_eq!(s.leases().map(|(key, _)| key.to_string()).collect::<Vec<_>>(), ["10.244.1.0-24"]);
        assert!(s.has_network(&blue) && !s.has_network(&"red".parse().unwrap()));
        assert!(s.in_network(&"red".parse().unwrap()).network().is_none());
    }
}
