//! Which services may stand for an endpoint, found by the endpoint's labels.
//!
//! A service with a selector is kept under one thing that it asks for: a label with its value, or one of several values, or a
//! key. What it asks for besides is looked at once it is found; only a selector of nothing but "not" is looked at each time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ids::ServiceName;
use crate::selector::Operator;
use crate::service::Service;

/// The services that have selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    keys: HashMap<String, OfKey>,
    /// Those that ask for no label to be there.
    others: BTreeSet<ServiceName>,
}

/// The services that are found by one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfKey {
    values: HashMap<String, BTreeSet<ServiceName>>,
    /// Whatever its value.
    any: BTreeSet<ServiceName>,
}

/// What a service is found by.
enum Anchor<'a> {
    /// A key, and one of these values.
    Values(&'a str, Vec<&'a str>),
    /// A key.
    Key(&'a str),
    /// Nothing.
    None,
}

impl Index {
    /// The services by what they ask for.
    #[must_use]
    pub fn of<'a>(services: impl Iterator<Item = (&'a ServiceName, &'a Service)>) -> Self {
        let mut index = Self::default();
        for (name, service) in services {
            index.put(name, service);
        }
        index
    }

    /// Adds a service. One without a selector is found by its name.
    pub fn put(&mut self, name: &ServiceName, service: &Service) {
        if !service.has_selector() {
            return;
        }
        match anchor(service) {
            Anchor::Values(key, values) => {
                let of_key = self.keys.entry(key.to_owned()).or_default();
                for value in values {
                    of_key.values.entry(value.to_owned()).or_default().insert(name.clone());
                }
            }
            Anchor::Key(key) => drop(self.keys.entry(key.to_owned()).or_default().any.insert(name.clone())),
            Anchor::None => drop(self.others.insert(name.clone())),
        }
    }

    /// Takes out a service that was added as this.
    pub fn remove(&mut self, name: &ServiceName, service: &Service) {
        let (Anchor::Values(key, _) | Anchor::Key(key)) = anchor(service) else {
            self.others.remove(name);
            return;
        };
        let Some(of_key) = self.keys.get_mut(key) else { return };
        of_key.any.remove(name);
        if let Anchor::Values(_, values) = anchor(service) {
            for value in values {
                if let Some(names) = of_key.values.get_mut(value) {
                    names.remove(name);
                    if names.is_empty() {
                        of_key.values.remove(value);
                    }
                }
            }
        }
        if of_key.any.is_empty() && of_key.values.is_empty() {
            self.keys.remove(key);
        }
    }

    /// The services whose selectors may mean what bears these labels, none twice.
    pub fn candidates<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a ServiceName> {
        let of_label = |(key, value): (&'a String, &'a String)| {
            let of_key = self.keys.get(key);
            let by_value = of_key.and_then(|of_key| of_key.values.get(value)).into_iter().flatten();
            by_value.chain(of_key.into_iter().flat_map(|of_key| &of_key.any))
        };
        labels.iter().flat_map(of_label).chain(&self.others)
    }
}

fn anchor(service: &Service) -> Anchor<'_> {
    if let Some((key, value)) = service.selector.iter().next() {
        return Anchor::Values(key, vec![value]);
    }
    let of = |operator: Operator| service.expressions.iter().find(|r| r.operator == operator);
    if let Some(one_of) = of(Operator::In) {
        return Anchor::Values(&one_of.key, one_of.values.iter().map(String::as_str).collect());
    }
    of(Operator::Exists).map_or(Anchor::None, |exists| Anchor::Key(&exists.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_leaves_nothing_behind() {
        let service = |text: &str| {
            let selector: crate::selector::Selector = text.parse().unwrap();
            Service { selector: selector.equal, expressions: selector.expressions, ..Service::default() }
        };
        let texts = ["a=b", "a in (b,c)", "a", "!a", "a=c,b", "z notin (q)"];
        let named: Vec<(ServiceName, Service)> =
            texts.iter().enumerate().map(|(n, text)| (format!("s{n}").parse().unwrap(), service(text))).collect();
        let mut index = Index::of(named.iter().map(|(n, s)| (n, s)));
        let found = |index: &Index, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            index.candidates(&labels).map(|n| n.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(&index, &[("a", "b")]), ["s0", "s1", "s2", "s3", "s5"]);
        assert_eq!(found(&index, &[("a", "c"), ("x", "y")]), ["s1", "s4", "s2", "s3", "s5"]);
        assert_eq!(found(&index, &[]), ["s3", "s5"]);
        for (name, service) in &named {
            index.remove(name, service);
        }
        assert_eq!(index, Index::default());
    }
}
