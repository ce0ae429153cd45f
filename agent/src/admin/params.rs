//! What a route's parameters mean: one row each, for the document that says it to programs ([`super::openapi`]).
//!
//! Which route knows which is said in [`super::routes`] alone, where a name that begins with a capital letter is a header's.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use weft_api::Code;
use weft_model::endpoint::EndpointState;
use weft_model::ids::{EndpointId, Namespace, NetworkName, NodeName, ServiceLabel, ServiceName};
use weft_model::record::Kind;

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In braces in the path.
    Path,
    /// Behind the question mark.
    Query,
    /// In a header.
    Header,
}

impl Place {
    /// As OpenAPI calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
        }
    }
}

/// A parameter.
pub(super) struct Param {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// Of which routes: how their paths begin.
    at: &'static str,
    /// What it means.
    pub says: &'static str,
    /// What it may be.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Whether it must be there.
    pub required: bool,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn path(name: &'static str, at: &'static str, says: &'static str, schema: fn(&mut SchemaGenerator) -> Schema) -> Param {
    Param { name, place: Place::Path, at, says, schema, required: true }
}

const fn query(name: &'static str, at: &'static str, says: &'static str, schema: fn(&mut SchemaGenerator) -> Schema) -> Param {
    Param { name, place: Place::Query, at, says, schema, required: false }
}

const fn header(name: &'static str, says: &'static str, schema: fn(&mut SchemaGenerator) -> Schema) -> Param {
    Param { name, place: Place::Header, at: "", says, schema, required: false }
}

/// Some text, not empty.
fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1 })
}

/// The rows. Of two that fit the first counts.
static PARAMS: &[Param] = &[
    path("network", "", "The network's name.", of::<NetworkName>),
    path("node", "", "The host's name; one that runs flannel is called by its tunnel address.", of::<NodeName>),
    path("namespace", "", "The namespace; `default` is the one that names do not name.", of::<Namespace>),
    path("service", "", "The service's own name, within its namespace.", of::<ServiceLabel>),
    path("id", "/v1/doctor", "The checkup's number.", of::<u64>),
    path("id", "/v1/registrations", "The registration's id, unique on its host.", of::<EndpointId>),
    path("id", "/v1/attachments", "The endpoint's id.", of::<EndpointId>),
    path("id", "/v1/endpoints", "The endpoint's id.", text),
    query("namespace", "", "Those in this namespace.", of::<Namespace>),
    query(
        "service",
        "/v1/endpoints/{id}",
        "Which one of several endpoints of this id: the one below this service.",
        of::<ServiceName>,
    ),
    query("service", "", "Those of this service: `name`, or `namespace/name`.", of::<ServiceName>),
    query("node", "", "Those that this host answers for.", of::<NodeName>),
    query("state", "", "Those in this state.", of::<EndpointState>),
    query(
        "kind",
        "/v1/watch",
        "Which objects, with commas between; none is all: endpoint, service, node, network, leader.",
        |_| json_schema!({ "type": "string", "pattern": "^[a-z]+(,[a-z]+)*$" }),
    ),
    query("kind", "", "Those of this kind.", of::<Kind>),
    query("network", "", "Those in this network.", of::<NetworkName>),
    query(
        "label",
        "",
        "Those whose labels this selector chooses, as in `tier=front,env in (a,b),!old`. It may stand there more than once: all must hold.",
        |_| json_schema!({ "type": "array", "items": { "type": "string" } }),
    ),
    query(
        "limit",
        "",
        "At most so many; `Weft-Continue` then says how to go on.",
        |_| json_schema!({ "type": "integer", "minimum": 1, "maximum": 100_000 }),
    ),
    query("continue", "", "Those after the page whose `Weft-Continue` was this; empty is the first page.", of::<String>),
    query("dry_run", "", "Check everything, answer as if it were done, and write nothing.", of::<bool>),
    query("all", "", "Also what does not drop.", of::<bool>),
    query(
        "deadline_ms",
        "",
        "After how many milliseconds it is taken out of use whatever is connected to it, a year at most; not given is never, or what was said before.",
        |_| json_schema!({ "type": "integer", "minimum": 0, "maximum": 31_536_000_000_u64 }),
    ),
    query(
        "from",
        "/v1/watch",
        "Where to go on: a revision, or the id of the last event seen. `Last-Event-ID` counts before it.",
        text,
    ),
    query("from", "/v1/store", "Where the page begins: `next` of the one before; empty is the first one.", of::<String>),
    query("revision", "", "The revision of the page before.", of::<i64>),
    Param { required: true, ..query("name", "/v1/dns", "The name to ask for.", text) },
    query("type", "/v1/dns", "The type to ask for, as in A, AAAA, SRV; none is A.", text),
    header(
        "If-Match",
        "Only if it was last changed at this revision: its `ETag`, as in `\"42\"`.",
        |_| json_schema!({ "type": "string", "pattern": "^\"[0-9]{1,18}\"$" }),
    ),
    header("If-None-Match", "Only if there is none: `*`.", |_| json_schema!({ "type": "string", "const": "*" })),
    header("Last-Event-ID", "The id of the last event of a stream that broke: what is told follows on it.", text),
];

/// The row of a parameter of a route.
pub(super) fn find(route: &str, name: &str) -> Option<&'static Param> {
    let place = match name.chars().next() {
        Some('{') => Place::Path,
        Some(first) if first.is_ascii_uppercase() => Place::Header,
        _ => Place::Query,
    };
    let name = name.trim_matches(['{', '}']);
    PARAMS.iter().find(|param| param.place == place && param.name == name && route.starts_with(param.at))
}

/// What a refusal of each kind means, in the order of their statuses.
pub(super) const REFUSALS: &[(Code, &str)] = &[
    (Code::Invalid, "The request is not one that can be carried out."),
    (Code::Forbidden, "Not over this connection, or not for this caller."),
    (Code::NotFound, "There is no such thing."),
    (Code::Conflict, "It exists, differently, or something stands in the way."),
    (Code::Changed, "It is not as If-Match or If-None-Match asks; the message says at which revision it is."),
    (Code::TooLarge, "The request's body is larger than any that is read."),
    (Code::Internal, "Something else went wrong in the agent."),
    (Code::NotReady, "Not yet: the agent waits for something, or the store does not answer (code store_away)."),
    (Code::Full, "There is no room left."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::routes::ROUTES;

    #[test]
    fn every_row_is_some_routes() {
        for param in PARAMS {
            let used = ROUTES.iter().any(|route| {
                let braces = route.path.split('/').filter(|segment| segment.starts_with('{'));
                braces
                    .chain(route.params.iter().copied())
                    .filter_map(|name| find(route.path, name))
                    .any(|p| std::ptr::eq(p, param))
            });
            // `label` comes to lists and the watch in a change of its own.
            assert!(used || param.name == "label", "{} {}", param.place.as_str(), param.name);
        }
    }
}
