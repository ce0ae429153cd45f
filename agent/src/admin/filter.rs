//! Which items of a list are wanted, and which page of them.

use std::collections::BTreeMap;

use weft_model::endpoint::{Endpoint, EndpointState};
use weft_model::ids::{Namespace, NetworkName, NodeName, ServiceName};
use weft_model::record::Kind;
use weft_model::selector::Selector;
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;

use super::query::Query;
use crate::changes::Of;
use crate::refusal::Refusal;

/// The most items of a page.
const MAX_LIMIT: usize = 100_000;

/// What every item must be; what is not said does not matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    namespace: Option<Namespace>,
    service: Option<ServiceName>,
    node: Option<NodeName>,
    state: Option<EndpointState>,
    kind: Option<Kind>,
    network: Option<NetworkName>,
    /// All of them.
    labels: Vec<Selector>,
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    limit: Option<usize>,
    after: Option<String>,
}

impl Filter {
    /// What the parameters ask for.
    ///
    /// # Errors
    /// A value that is none of its kind.
    pub fn of(query: &Query) -> Result<Self, Refusal> {
        let word = |name: &str| query.get(name).map(|text| serde_json::Value::String(text.to_owned()));
        let state = word("state").map(serde_json::from_value).transpose();
        let kind = word("kind").map(serde_json::from_value).transpose();
        Ok(Self {
            namespace: query.value("namespace")?,
            service: query.value("service")?,
            node: query.value("node")?,
            state: state.map_err(|e| Refusal::invalid(format!("parameter state: {e}")))?,
            kind: kind.map_err(|e| Refusal::invalid(format!("parameter kind: {e}")))?,
            network: query.value("network")?,
            labels: query.values("label")?,
        })
    }

    /// What the parameters ask for where `kind` is that of objects.
    ///
    /// # Errors
    /// A value that is none of its kind.
    pub fn of_objects(query: &Query) -> Result<Self, Refusal> {
        Ok(Self {
            namespace: query.value("namespace")?,
            service: query.value("service")?,
            node: query.value("node")?,
            network: query.value("network")?,
            labels: query.values("label")?,
            ..Self::default()
        })
    }

    /// Whether an object is wanted. One that has no such thing as is asked for is not.
    pub fn wants(&self, of: &Of) -> bool {
        match of {
            Of::Endpoint(endpoint, service) => self.wants_endpoint_of(endpoint, service.as_ref()),
            Of::Service(name, network, labels) => {
                is(&self.namespace, Some(&name.namespace))
                    && is(&self.service, Some(name))
                    && self.node.is_none()
                    && self.wants_network(network.as_ref())
                    && self.wants_labels(labels)
            }
            Of::Leader(name) => {
                is(&self.namespace, Some(&name.namespace)) && is(&self.service, Some(name)) && !self.asks_for_more()
            }
            Of::Node | Of::Network => self.namespace.is_none() && self.service.is_none() && !self.asks_for_more(),
        }
    }

    /// Whether an endpoint is wanted.
    pub fn wants_endpoint(&self, snapshot: &Snapshot, endpoint: &Endpoint) -> bool {
        let service = if self.namespace.is_some() || self.service.is_some() { snapshot.service_at(&endpoint.path) } else { None };
        self.wants_endpoint_of(endpoint, service.as_ref())
    }

    fn wants_endpoint_of(&self, endpoint: &Endpoint, service: Option<&ServiceName>) -> bool {
        is(&self.namespace, service.map(|s| &s.namespace))
            && is(&self.service, service)
            && is(&self.node, endpoint.node.as_ref())
            && is(&self.state, Some(&endpoint.state))
            && is(&self.kind, Some(&endpoint.kind))
            && self.wants_network(endpoint.network.as_ref())
            && self.wants_labels(&endpoint.labels)
    }

    /// Whether a service is wanted.
    pub fn wants_service(&self, name: &ServiceName, service: &Service) -> bool {
        is(&self.namespace, Some(&name.namespace))
            && self.wants_network(service.network.as_ref())
            && self.wants_labels(&service.labels)
    }

    /// Whether something is asked for that only endpoints and services have.
    fn asks_for_more(&self) -> bool {
        self.node.is_some() || self.network.is_some() || !self.labels.is_empty()
    }

    fn wants_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|selector| selector.matches(labels))
    }

    /// None is the default network.
    fn wants_network(&self, network: Option<&NetworkName>) -> bool {
        self.network.as_ref().is_none_or(|wanted| network.map_or(wanted.is_default(), |network| network == wanted))
    }
}

/// Whether something is what is asked for, if that is.
fn is<T: PartialEq>(wanted: &Option<T>, there: Option<&T>) -> bool {
    wanted.as_ref().is_none_or(|wanted| there == Some(wanted))
}

impl Part {
    /// What the parameters ask for.
    ///
    /// # Errors
    /// A limit that is none.
    pub fn of(query: &Query) -> Result<Self, Refusal> {
        let limit = query.value("limit")?;
        if limit.is_some_and(|limit| !(1..=MAX_LIMIT).contains(&limit)) {
            return Err(Refusal::invalid(format!("parameter limit: 1 to {MAX_LIMIT}")));
        }
        let after = query.get("continue").map(|mark| {
            from_mark(mark).ok_or_else(|| Refusal::invalid(format!("parameter continue: {mark:?} is no weft-continue of a page")))
        });
        Ok(Self { limit, after: after.transpose()? })
    }

    /// Its items, of all in the order of their keys as texts, and what gives the next part. An item that is there all the time is
    /// in exactly one part, whatever comes and goes meanwhile.
    pub fn take<T>(&self, items: impl Iterator<Item = (String, T)>) -> (Vec<T>, Option<String>) {
        let mut rest = items.filter(|(key, _)| self.after.as_ref().is_none_or(|after| key > after)).peekable();
        let mut taken = Vec::new();
        while let Some((key, item)) = rest.next() {
            taken.push(item);
            if self.limit == Some(taken.len()) && rest.peek().is_some() {
                return (taken, Some(mark_of(&key)));
            }
        }
        (taken, None)
    }
}

/// A key as it stands in a header: names that others wrote may be of any letters.
fn mark_of(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn from_mark(mark: &str) -> Option<String> {
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit))?;
        u8::from_str_radix(text, 16).ok()
    };
    String::from_utf8(mark.as_bytes().chunks(2).map(pair).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["namespace", "service", "node", "state", "kind", "network", "label", "limit", "continue"];

    fn part(query: &str) -> Part {
        Part::of(&Query::parse(query, KNOWN).unwrap()).unwrap()
    }

    fn items(keys: &'static str) -> impl Iterator<Item = (String, char)> {
        keys.chars().map(|c| (c.to_string(), c))
    }

    #[test]
    fn pages_follow_each_other_to_the_end_although_items_come_and_go() {
        let (first, next) = part("limit=2").take(items("abdef"));
        assert_eq!((first, next.as_deref()), (vec!['a', 'b'], Some("62")));
        // Meanwhile b goes and c comes.
        let (second, next) = part("limit=2&continue=62").take(items("acdef"));
        assert_eq!((second, next.as_deref()), (vec!['c', 'd'], Some("64")));
        assert_eq!(part("limit=2&continue=64").take(items("acdef")), (vec!['e', 'f'], None));
        assert_eq!(part("limit=2&continue=7a").take(items("ab")), (vec![], None));
        assert_eq!(part("").take(items("ab")), (vec!['a', 'b'], None));
    }

    #[test]
    fn a_page_goes_on_after_a_name_of_any_letters() {
        let (first, next) = part("limit=1").take(items("\u{e9}\u{4e16}"));
        let next = next.unwrap();
        assert!(next.is_ascii(), "it stands in a header: {next}");
        let (second, _) = part(&format!("limit=1&continue={next}")).take(items("\u{e9}\u{4e16}"));
        assert_eq!((first, second), (vec!['\u{e9}'], vec!['\u{4e16}']));
        for bad in ["b", "6", "+1", "zz", "ff"] {
            let query = Query::parse(&format!("continue={bad}"), KNOWN).unwrap();
            assert!(Part::of(&query).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_value_of_its_kind_is_refused_with_the_parameters_name() {
        for (query, name) in [
            ("namespace=a.b", "namespace"),
            ("service=A", "service"),
            ("node=", "node"),
            ("state=dead", "state"),
            ("kind=x", "kind"),
            ("network=-", "network"),
            ("label=a%20in", "label"),
        ] {
            let why = Filter::of(&Query::parse(query, KNOWN).unwrap()).unwrap_err().message;
            assert!(why.starts_with(&format!("parameter {name}: ")), "{why}");
        }
        for query in ["limit=0", "limit=-1", "limit=x", "limit=100001"] {
            assert!(Part::of(&Query::parse(query, KNOWN).unwrap()).is_err(), "{query}");
        }
    }

    #[test]
    fn all_selectors_must_choose_it_and_what_has_no_labels_is_not_chosen() {
        let filter = |query: &str| Filter::of_objects(&Query::parse(query, KNOWN).unwrap()).unwrap();
        let service = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Of::Service("web".parse().unwrap(), None, labels)
        };
        let both = filter("label=tier%3Dfront&label=!old");
        assert!(both.wants(&service(&[("tier", "front")])));
        assert!(!both.wants(&service(&[("tier", "front"), ("old", "")])) && !both.wants(&service(&[])));
        assert!(filter("label=!old").wants(&service(&[])));
        assert!(!filter("label=!old").wants(&Of::Node) && !filter("label=!old").wants(&Of::Leader("web".parse().unwrap())));
    }

    #[test]
    fn no_network_is_the_default_one() {
        let wants = |query: &str, network: Option<&str>| {
            let network = network.map(|n| n.parse().unwrap());
            Filter::of(&Query::parse(query, KNOWN).unwrap()).unwrap().wants_network(network.as_ref())
        };
        assert!(wants("", None) && wants("", Some("blue")));
        assert!(wants("network=default", None) && !wants("network=default", Some("blue")));
        assert!(wants("network=blue", Some("blue")) && !wants("network=blue", None));
    }
}
