//! What stands for an attachment in the store: where, and with which values.
//!
//! Pure. An attachment is an instance of services and has names of its own; each of them is one endpoint, `<name>/<id>`, and
//! has a part for each address and port: `4`, `6`, and for further ports `4-<port name>`, or `4-<port>` of one without a name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::attachment::{Description, Instance};
use weft_model::ids::{Namespace, NodeName, ServiceLabel, ServiceName, sanitise_label};
use weft_model::keys::RecordPath;
use weft_model::record::{Kind, Proto, Record, State, WeftRecord};
use weft_model::snapshot::Snapshot;

use crate::registrations::Registration;
use crate::state::Attachment;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it stands.
    pub path: RecordPath,
    /// What it says.
    pub record: Record,
}

/// All that is said of an attachment: when it was attached or described, and by its runtime. Where the two disagree, what was
/// said of the attachment itself counts; but its runtime knows best what a container is called now.
#[must_use]
pub fn described(attachment: &Attachment) -> Description {
    let nothing = Description::default();
    let learned = attachment.learned.as_ref().unwrap_or(&nothing);
    let main = attachment.service.iter();
    let main = main.map(|service| Instance::new(service.clone(), attachment.port, attachment.proto));
    let mut instances: Vec<Instance> = Vec::new();
    for instance in main.chain(attachment.instances.iter().cloned()).chain(learned.instances.iter().cloned()) {
        let same = |other: &&mut Instance| {
            (&other.service, other.port, other.proto) == (&instance.service, instance.port, instance.proto)
        };
        match instances.iter_mut().find(same) {
            Some(there) => {
                let labels = instance.labels.into_iter().filter(|(key, _)| !there.labels.contains_key(key)).collect::<Vec<_>>();
                there.labels.extend(labels);
                if there.port_name.is_empty() {
                    there.port_name = instance.port_name;
                }
            }
            None => instances.push(instance),
        }
    }
    // "An instance of web" adds nothing to "an instance of web at port 80".
    let at_a_port: BTreeSet<ServiceName> = instances.iter().filter(|i| i.port.is_some()).map(|i| i.service.clone()).collect();
    instances.retain(|i| i.port.is_some() || !at_a_port.contains(&i.service));

    let name = learned.name.as_ref().or(attachment.name.as_ref()).cloned();
    let mut aliases: Vec<ServiceLabel> = Vec::new();
    // A tool that says a container's name gives it as an alias as well; when the container is called otherwise by now, that goes.
    let outdated = attachment.name.as_ref().filter(|old| name.as_ref() != Some(*old)).map(|old| sanitise_label(old, usize::MAX));
    let given = attachment.aliases.iter().filter(|alias| outdated.as_deref() != Some(alias.as_str()));
    let own = name.as_ref().filter(|_| instances.is_empty()).and_then(|name| name.parse().ok());
    for alias in own.into_iter().chain(given.cloned()).chain(learned.aliases.iter().cloned()) {
        if !aliases.contains(&alias) {
            aliases.push(alias);
        }
    }
    let mut labels = learned.labels.clone();
    labels.extend(attachment.labels.clone());
    let check = attachment.check.as_ref().or(learned.check.as_ref()).cloned();
    Description { name, aliases, instances, labels, check }
}

/// The records of an attachment on the host `node`.
#[must_use]
pub fn parts(snapshot: &Snapshot, node: &NodeName, attachment: &Attachment) -> Vec<Part> {
    let described = described(attachment);
    let mut parts = Vec::new();
    for (name, kind) in owners(&described) {
        let own = snapshot.path_of(&name).child(attachment.id.as_str());
        let main = described.instances.first().map_or((None, Proto::Tcp), |main| (main.port, main.proto));
        let main = Instance::new(name.clone(), main.0, main.1);
        let of_name: Vec<&Instance> = match kind {
            Kind::Service => described.instances.iter().filter(|i| i.service == name).collect(),
            Kind::Name => vec![&main],
        };
        let mut taken = BTreeSet::new();
        for instance in of_name {
            let suffix = suffix(instance, &taken);
            for address in attachment.addresses() {
                let family = if address.is_ipv6() { "6" } else { "4" };
                let record = record(node, attachment, &described, kind, instance, address);
                parts.push(Part { path: own.child(&format!("{family}{suffix}")), record });
            }
            taken.insert(suffix);
        }
    }
    parts
}

/// The records of a registration on the host `node`.
#[must_use]
pub fn of_registration(snapshot: &Snapshot, node: &NodeName, registration: &Registration) -> Vec<Part> {
    let said = &registration.said;
    let own = snapshot.path_of(&said.service).child(registration.id.as_str());
    let mut taken = BTreeSet::new();
    let mut parts = Vec::new();
    for address in &said.addresses {
        let address = address.to_canonical();
        let family = if address.is_ipv6() { "6" } else { "4" };
        // Of further addresses of a family: what else could tell them apart is theirs alone.
        let numbered = (2_u32..).map(|n| format!("{family}-a{n}"));
        let Some(label) = std::iter::once(family.to_owned()).chain(numbered).find(|label| !taken.contains(label)) else { break };
        let record = Record {
            host: address.to_string(),
            port: said.port.unwrap_or(0),
            priority: said.priority,
            weight: said.weight,
            targetstrip: 1,
            weft: Some(WeftRecord {
                id: registration.id.clone(),
                name: said.name.clone().unwrap_or_default(),
                node: Some(node.clone()),
                kind: said.kind,
                state: said.state,
                unhealthy: false,
                candidate: said.candidate.is_some(),
                born: registration.born,
                port_name: said.port_name.clone(),
                proto: said.proto,
                labels: said.labels.clone(),
                network: registration.network.clone(),
            }),
            ..Record::default()
        };
        parts.push(Part { path: own.child(&label), record });
        taken.insert(label);
    }
    parts
}

/// The names that an attachment has in DNS: of each service and alias its own name below it, then the one that it shares.
#[must_use]
pub fn names(snapshot: &Snapshot, attachment: &Attachment) -> Vec<String> {
    let of = |(name, _): (ServiceName, Kind)| {
        let shared = snapshot.path_of(&name);
        [shared.child(attachment.id.as_str()).dns_name(), shared.dns_name()]
    };
    owners(&described(attachment)).into_iter().flat_map(of).collect()
}

/// The names that records stand under, services first. What is a service's name is no alias as well.
fn owners(described: &Description) -> Vec<(ServiceName, Kind)> {
    let mut owners: Vec<(ServiceName, Kind)> = Vec::new();
    let services = described.instances.iter().map(|i| (i.service.clone(), Kind::Service));
    let aliases = described.aliases.iter().map(|alias| (in_default(alias.clone()), Kind::Name));
    for (name, kind) in services.chain(aliases) {
        if !owners.iter().any(|(there, _)| *there == name) {
            owners.push((name, kind));
        }
    }
    owners
}

fn in_default(name: ServiceLabel) -> ServiceName {
    ServiceName { namespace: Namespace::default_namespace(), name }
}

/// What follows the family in a part's label, where `taken` are those of the endpoint's other ports. Port names hold a letter, so
/// they are never mistaken for numbers.
#[must_use]
pub fn suffix(instance: &Instance, taken: &BTreeSet<String>) -> String {
    if taken.is_empty() {
        return String::new();
    }
    let port = match (instance.port_name.as_str(), instance.port) {
        ("", Some(port)) => format!("-{port}"),
        ("", None) => String::new(),
        (name, _) => format!("-{name}"),
    };
    let plain = Some(port.clone()).filter(|s| instance.proto == Proto::Tcp && !s.is_empty());
    let with_proto = format!("{port}-{}", instance.proto);
    let numbered = (2_u32..).map(|n| format!("{with_proto}-{n}"));
    let free = plain.into_iter().chain([with_proto.clone()]).chain(numbered).find(|s| !taken.contains(s));
    free.unwrap_or(with_proto)
}

fn record(
    node: &NodeName,
    attachment: &Attachment,
    described: &Description,
    kind: Kind,
    instance: &Instance,
    address: IpAddr,
) -> Record {
    let mut labels = described.labels.clone();
    labels.extend(instance.labels.clone());
    Record {
        host: address.to_string(),
        port: instance.port.unwrap_or(0),
        targetstrip: 1,
        weft: Some(WeftRecord {
            id: attachment.id.clone(),
            name: described.name.clone().unwrap_or_default(),
            node: Some(node.clone()),
            kind,
            state: State::Up,
            unhealthy: false,
            candidate: false,
            born: attachment.born,
            port_name: instance.port_name.clone(),
            proto: instance.proto,
            labels,
            network: attachment.network.clone(),
        }),
        ..Record::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use weft_model::endpoint::{Endpoint, StoredRecord};
    use weft_model::ids::Revision;
    use weft_model::keys::{Layout, RecordTree};

    fn attachment() -> Attachment {
        Attachment {
            id: "web-1".parse().unwrap(),
            netns: "/run/netns/web".into(),
            netns_id: (4, 5),
            netns_cookie: 6,
            ifname: "eth0".into(),
            host_ifname: "weftx".into(),
            network: None,
            address: Ipv4Addr::new(10, 244, 3, 2),
            address6: None,
            mac: weft_model::mac::Mac([2; 6]),
            gateway: Ipv4Addr::new(10, 244, 3, 1),
            routes: crate::state::everywhere(),
            mtu: 1450,
            boot: "b".into(),
            born: 0,
            name: None,
            service: None,
            port: None,
            proto: Proto::Tcp,
            labels: BTreeMap::new(),
            further: false,
            withdrawing: false,
            owner: None,
            aliases: Vec::new(),
            instances: Vec::new(),
            learned: None,
            publish: Vec::new(),
            check: None,
        }
    }

    fn described_as(json: &str) -> Description {
        serde_json::from_str(json).unwrap()
    }

    fn of(attachment: &Attachment) -> Vec<Part> {
        let empty = Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None);
        parts(&empty, &"h1".parse().unwrap(), attachment)
    }

    fn places(attachment: &Attachment) -> Vec<(String, u16, Kind)> {
        let said = |p: Part| {
            let below = p.path.as_str().strip_prefix("local/skydns/").unwrap().to_owned();
            (below, p.record.port, p.record.weft.unwrap().kind)
        };
        of(attachment).into_iter().map(said).collect()
    }

    #[test]
    fn a_name_alone_resolves_and_beside_a_service_it_does_not() {
        let named = Attachment { name: Some("web".into()), ..attachment() };
        assert_eq!(places(&named), [("web/web-1/4".to_owned(), 0, Kind::Name)]);
        let serving = Attachment { service: Some("app".parse().unwrap()), port: Some(80), ..named.clone() };
        assert_eq!(places(&serving), [("app/web-1/4".to_owned(), 80, Kind::Service)]);
        assert_eq!(of(&serving)[0].record.weft.as_ref().unwrap().name, "web");
        assert!(places(&attachment()).is_empty());
        let odd = Attachment { name: Some("My web".into()), ..attachment() };
        assert!(places(&odd).is_empty(), "it is no DNS name");
    }

    #[test]
    fn the_ports_of_one_service_are_parts_of_one_endpoint() {
        let said = described_as(
            r#"{"aliases":["www","app"],"instances":[
                {"service":"app","port":80},{"service":"app","port":9100,"port_name":"metrics","labels":{"a":"2"}},
                {"service":"app","port":443},{"service":"app","port":443,"proto":"udp"},
                {"service":"prod/names","port":53,"port_name":"dns"},{"service":"prod/names","port":53,"port_name":"dns","proto":"udp"},
                {"service":"prod/names","port":54,"port_name":"dns","proto":"udp"}]}"#,
        );
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "1".to_owned())]);
        let a = Attachment {
            aliases: said.aliases,
            instances: said.instances,
            labels,
            address6: Some("fd00::2".parse().unwrap()),
            ..attachment()
        };
        let v4: Vec<_> = places(&a).into_iter().filter(|(path, ..)| path.contains("/4")).collect();
        let (service, name) = (Kind::Service, Kind::Name);
        let expected = [
            ("app/web-1/4", 80, service),
            ("app/web-1/4-metrics", 9100, service),
            ("app/web-1/4-443", 443, service),
            ("app/web-1/4-443-udp", 443, service),
            ("prod/names/web-1/4", 53, service),
            ("prod/names/web-1/4-dns-udp", 53, service),
            ("prod/names/web-1/4-dns-udp-2", 54, service),
            ("www/web-1/4", 80, name),
        ];
        assert_eq!(v4, expected.map(|(path, port, kind)| (path.to_owned(), port, kind)));
        assert_eq!(places(&a).len(), 2 * expected.len(), "of each family");

        let app = RecordPath::from_labels(["local", "skydns", "app", "web-1"]);
        let stored: Vec<StoredRecord> = of(&a)
            .into_iter()
            .filter(|p| app.covers(&p.path))
            .map(|p| StoredRecord {
                record: p.record,
                lease: None,
                created: Revision(1),
                modified: Revision(1),
                lost: false,
                tree: RecordTree::Served,
            })
            .collect();
        let endpoint = Endpoint::from_parts(&(app, true), &stored).unwrap();
        assert_eq!((endpoint.addresses.len(), endpoint.ports.len()), (2, 4));
        assert_eq!(endpoint.port(Some("metrics"), Proto::Tcp), Some(9100));
        let of_part =
            |part: &str| of(&a).into_iter().find(|p| p.path.as_str().ends_with(part)).unwrap().record.weft.unwrap().labels;
        assert_eq!(of_part("/4-metrics").into_values().collect::<Vec<_>>(), ["2", "1"], "its own before the endpoint's");
        assert_eq!(of_part("/4-443").into_values().collect::<Vec<_>>(), ["1", "1"]);
    }

    #[test]
    fn what_a_runtime_says_stands_beside_what_was_said_at_attach() {
        let learned = described_as(
            r#"{"name":"web","aliases":["web","al"],"labels":{"tier":"front","zone":"a"},
                "instances":[{"service":"app","port":80,"labels":{"x":"1"}},{"service":"app"},{"service":"more","port":81}]}"#,
        );
        let a = Attachment {
            name: Some("web".into()),
            aliases: vec!["web".parse().unwrap(), "given".parse().unwrap()],
            service: Some("app".parse().unwrap()),
            port: Some(80),
            labels: [("tier".to_owned(), "back".to_owned())].into(),
            learned: Some(learned.clone()),
            ..attachment()
        };
        let all = described(&a);
        let said = |i: &Instance| (i.service.to_string(), i.port, i.labels.len());
        let instances: Vec<_> = all.instances.iter().map(said).collect();
        assert_eq!(instances, [("default/app".to_owned(), Some(80), 1), ("default/more".to_owned(), Some(81), 0)]);
        assert_eq!(all.aliases.iter().map(ServiceLabel::as_str).collect::<Vec<_>>(), ["web", "given", "al"]);
        assert_eq!(all.labels.into_values().collect::<Vec<_>>(), ["back", "a"], "what was said of the attachment itself counts");

        let renamed = Description { name: Some("web2".into()), aliases: vec!["web2".parse().unwrap()], ..Description::default() };
        let all = described(&Attachment { learned: Some(renamed), ..a });
        assert_eq!(all.aliases.iter().map(ServiceLabel::as_str).collect::<Vec<_>>(), ["given", "web2"]);
    }

    #[test]
    fn all_names_are_told_and_each_once() {
        let empty = Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None);
        let aliases = vec!["app".parse().unwrap(), "www".parse().unwrap()];
        let a = Attachment { service: Some("app".parse().unwrap()), aliases, ..attachment() };
        assert_eq!(
            names(&empty, &a),
            ["web-1.app.skydns.local.", "app.skydns.local.", "web-1.www.skydns.local.", "www.skydns.local."]
        );
    }
}
