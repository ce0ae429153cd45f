//! What narrows a list, and how it comes in pages.

use std::fmt::Display;

use weft_model::endpoint::EndpointState;
use weft_model::ids::{Namespace, NetworkName, NodeName, ServiceName};
use weft_model::record::Kind;

use crate::client::escape;

/// Which items of a list are wanted: all that every given member holds for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Those in this namespace.
    pub namespace: Option<Namespace>,
    /// Those of this service.
    pub service: Option<ServiceName>,
    /// Those that this host answers for.
    pub node: Option<NodeName>,
    /// Those in this state.
    pub state: Option<EndpointState>,
    /// Those of this kind.
    pub kind: Option<Kind>,
    /// Those in this network.
    pub network: Option<NetworkName>,
    /// Those whose labels every one of these selectors chooses.
    pub labels: Vec<String>,
    /// At most so many; none is all at once.
    pub limit: Option<usize>,
    /// Those after the page that gave this.
    pub next: Option<String>,
}

/// Items of a list, and how to get those after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// What to give as [`ListQuery::next`] for the next page; none after the last one.
    pub next: Option<String>,
}

impl ListQuery {
    /// The query as it follows the path: empty, or with its question mark.
    #[must_use]
    pub fn to_query(&self) -> String {
        fn add(out: &mut String, name: &str, value: Option<impl Display>) {
            if let Some(value) = value {
                out.push(if out.is_empty() { '?' } else { '&' });
                out.push_str(name);
                out.push('=');
                out.push_str(&escape(&value.to_string()));
            }
        }
        let mut out = String::new();
        add(&mut out, "namespace", self.namespace.as_ref());
        add(&mut out, "service", self.service.as_ref());
        add(&mut out, "node", self.node.as_ref());
        add(&mut out, "state", self.state);
        add(
            &mut out,
            "kind",
            self.kind.map(|kind| match kind {
                Kind::Service => "service",
                Kind::Name => "name",
            }),
        );
        add(&mut out, "network", self.network.as_ref());
        for label in &self.labels {
            add(&mut out, "label", Some(label));
        }
        add(&mut out, "limit", self.limit);
        add(&mut out, "continue", self.next.as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_in_the_query_and_every_value_is_escaped() {
        assert_eq!(ListQuery::default().to_query(), "");
        let query = ListQuery {
            service: Some("prod/db".parse().unwrap()),
            state: Some(EndpointState::Lost),
            labels: vec!["env in (a,b)".to_owned(), "!old".to_owned()],
            limit: Some(5),
            ..ListQuery::default()
        };
        assert_eq!(query.to_query(), "?service=prod%2Fdb&state=lost&label=env%20in%20%28a%2Cb%29&label=%21old&limit=5");
    }
}
