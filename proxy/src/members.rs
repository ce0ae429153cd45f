//! Which endpoints each of many services stands for, without reading all endpoints anew for each.
//!
//! The rule is [`Snapshot::endpoints_of`]'s, and a test holds the two together; this only finds the candidates of selectors by
//! one of their labels instead of among all.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_model::endpoint::Endpoint;
use weft_model::ids::{Namespace, ServiceName};
use weft_model::record::Kind;
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;

/// A label that some service selects by.
type Label<'a> = (&'a str, &'a str);

/// The endpoints of one snapshot, by label.
pub(crate) struct Members<'a> {
    snapshot: &'a Snapshot,
    labelled: HashMap<Label<'a>, Vec<(Namespace, Arc<Endpoint>)>>,
}

impl<'a> Members<'a> {
    /// Reads all endpoints once, if any service has a selector.
    pub(crate) fn of(snapshot: &'a Snapshot) -> Self {
        let asked: BTreeSet<Label<'a>> = snapshot.services().filter_map(|(_, s)| first_label(&s.value)).collect();
        let mut labelled: HashMap<Label<'a>, Vec<_>> = HashMap::new();
        if !asked.is_empty() {
            for endpoint in snapshot.endpoints().filter(|e| e.kind == Kind::Service && !e.labels.is_empty()) {
                let of_interest = |(k, v): (&'a String, &'a String)| asked.get(&(k.as_str(), v.as_str())).copied();
                let mut labels = endpoint.labels.iter().filter_map(of_interest).peekable();
                if labels.peek().is_none() {
                    continue;
                }
                let Some(at) = snapshot.service_at(&endpoint.path) else { continue };
                for label in labels {
                    labelled.entry(label).or_default().push((at.namespace.clone(), Arc::clone(endpoint)));
                }
            }
        }
        Self { snapshot, labelled }
    }

    /// The endpoints that a service of this snapshot stands for, by path.
    pub(crate) fn endpoints_of(&self, name: &ServiceName, service: &Service) -> Vec<Arc<Endpoint>> {
        let Some(label) = first_label(service) else {
            return self.snapshot.endpoints_of(name, service);
        };
        let chosen = |(namespace, endpoint): &&(Namespace, Arc<Endpoint>)| {
            *namespace == name.namespace
                && endpoint.network == service.network
                && service.selector.iter().all(|(k, v)| endpoint.labels.get(k) == Some(v))
        };
        let candidates = self.labelled.get(&label).map(Vec::as_slice).unwrap_or_default();
        candidates.iter().filter(chosen).map(|(_, endpoint)| Arc::clone(endpoint)).collect()
    }
}

/// The label that candidates are found by: the selector's first.
fn first_label(service: &Service) -> Option<Label<'_>> {
    service.selector.iter().next().map(|(k, v)| (k.as_str(), v.as_str()))
}
