//! `DELETE /v1/nodes/{node}`: what a dead host still holds is given back early.

use std::net::IpAddr;

use weft_api::NodeView;
use weft_model::ids::NodeName;
use weft_model::snapshot::Snapshot;
use weft_model::subnet::SubnetKey;
use weft_store::Outcome;
use weft_store::registry::NodeRemains;

use super::Admin;
use crate::refusal::Refusal;

impl Admin {
    /// Frees a dead node's subnet, and removes the records that name it. Returns the node as it was.
    pub(super) async fn node_rm(&self, name: &str) -> Result<NodeView, Refusal> {
        let snapshot = self.snapshot()?;
        let remains = remains(&snapshot, &self.node, name)?;
        // One that is gone for so long that only records tell of it is in no list of nodes.
        let view = self.node(name).unwrap_or_else(|_| NodeView {
            node: name.to_owned(),
            alive: Some(false),
            subnet: None,
            public_ip: None,
            version: None,
            capabilities: Vec::new(),
            since: None,
            endpoints: remains.records.len(),
            drained: false,
            this: false,
        });
        let written = self.registry.remove_node(&remains).await;
        match written.map_err(|e| Refusal::store(&format!("node rm {name}"), &e))? {
            Outcome::Done(revision) => {
                self.echo(revision).await;
                Ok(view)
            }
            Outcome::Refused(_) => Err(Refusal::conflict(format!(
                "node rm: {name} came back, or what it had was changed, at the same time; netctl node show {name} tells, then try again"
            ))),
        }
    }
}

/// What is to be removed with the node, or why it is not.
fn remains(snapshot: &Snapshot, this: &NodeName, name: &str) -> Result<NodeRemains, Refusal> {
    let of_flannel = |ip: IpAddr| {
        let mut leases = snapshot.leases();
        leases.find(|(_, lease)| lease.value.node().is_none() && lease.value.address() == ip).map(|(key, _)| key)
    };
    if let Some(key) = name.parse().ok().and_then(of_flannel) {
        return Err(Refusal::conflict(flannel_sentence(snapshot, name, key)));
    }
    let unknown = || Refusal::not_found(format!("node rm: there is no node {name}; netctl node list shows those there are"));
    let node: NodeName = name.parse().map_err(|_| unknown())?;
    if node == *this {
        return Err(Refusal::conflict(format!(
            "node rm: {node} is this host, whose agent would claim a subnet again at once; stop weftd, and ask another host"
        )));
    }
    if let Some(entry) = snapshot.node(&node) {
        return Err(Refusal::conflict(format!(
            "node rm: {node} is alive (since {}), and its subnet is in use; stop weftd there first, and wait until its entry \
             has ended",
            entry.value.since
        )));
    }
    let owned = |owner: Option<&NodeName>| owner == Some(&node);
    let leases = snapshot
        .leases()
        .filter(|(_, l)| owned(l.value.node()) && !l.value.is_placeholder())
        .map(|(key, l)| (*key, l.modified))
        .collect();
    let records = snapshot
        .places()
        .filter(|(_, r)| !r.lost && owned(r.record.weft.as_ref().and_then(|w| w.node.as_ref())))
        .map(|(place, r)| (place, r.modified))
        .collect();
    let remains = NodeRemains { node, leases, records };
    if remains.leases.is_empty() && remains.records.is_empty() { Err(unknown()) } else { Ok(remains) }
}

fn flannel_sentence(snapshot: &Snapshot, name: &str, key: &SubnetKey) -> String {
    format!(
        "node rm: {name} is a flannel host (its lease has no weft member), of which nobody here knows whether it lives; its \
         lease ends by itself a day after its death, or delete {} in etcd",
        snapshot.layout().subnet(key)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::ids::Revision;
    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;

    fn world() -> Snapshot {
        let lease = |ip: &str, weft: &str| {
            format!(
                r#"{{"PublicIP":"{ip}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0e:00:00:00:00:0{}"}}{weft}}}"#,
                &ip[8..]
            )
        };
        let entries = [
            ("/coreos.com/network/subnets/10.244.1.0-24", lease("192.0.2.1", r#","weft":{"node":"h1"}"#)),
            ("/coreos.com/network/subnets/10.244.2.0-24", lease("192.0.2.2", r#","weft":{"node":"h2"}"#)),
            ("/coreos.com/network/subnets/10.244.3.0-24", lease("192.0.2.3", r#","weft":{"node":"h3"}"#)),
            ("/coreos.com/network/subnets/10.244.9.0-24", lease("192.0.2.9", "")),
            ("/weft/v1/nodes/h1", r#"{"node":"h1"}"#.to_owned()),
            ("/weft/v1/nodes/h2", r#"{"node":"h2"}"#.to_owned()),
            ("/skydns/local/skydns/web/a/4", r#"{"host":"10.244.3.2","weft":{"id":"a","node":"h3"}}"#.to_owned()),
            ("/weft/v1/down/local/skydns/web/c/4", r#"{"host":"10.244.3.4","weft":{"id":"c","node":"h3"}}"#.to_owned()),
            ("/skydns/local/skydns/web/b/4", r#"{"host":"10.244.2.2","weft":{"id":"b","node":"h2"}}"#.to_owned()),
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

    fn asked(name: &str) -> Result<NodeRemains, String> {
        remains(&world(), &"h1".parse().unwrap(), name).map_err(|r| r.message)
    }

    #[test]
    fn of_a_dead_node_its_own_subnet_and_records_are_removed() {
        let remains = asked("h3").unwrap();
        assert_eq!(remains.leases, [(SubnetKey::v4("10.244.3.0/24".parse().unwrap()), Revision(5))]);
        assert_eq!(
            remains.records.iter().map(|(p, at)| (Layout::default().place(p), *at)).collect::<Vec<_>>(),
            [
                ("/skydns/local/skydns/web/a/4".to_owned(), Revision(5)),
                ("/weft/v1/down/local/skydns/web/c/4".to_owned(), Revision(5))
            ]
        );
    }

    #[test]
    fn what_is_alive_or_this_host_or_flannels_or_nobody_is_refused_and_told_why() {
        for (name, why) in [
            ("h1", "is this host"),
            ("h2", "is alive"),
            ("192.0.2.9", "delete /coreos.com/network/subnets/10.244.9.0-24 in etcd"),
            ("192.0.2.3", "there is no node 192.0.2.3"),
            ("h4", "there is no node h4"),
        ] {
            let said = asked(name).unwrap_err();
            assert!(said.contains(why), "{name}: {said}");
        }
    }
}
