//! `GET /v1/openapi.json`: all that can be asked, for programs, as OpenAPI 3.1 has it.
//!
//! It is made of the table in [`super::routes`], of the types that its rows name, and of what [`super::params`] says of parameters:
//! nothing is said twice, so nothing can be forgotten. Who may ask is said in `x-weft-access` (`read`, `write`, `local`).

use std::collections::BTreeSet;
use std::sync::LazyLock;

use hyper::Method;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use weft_api::{Changed, Code, ErrorBody};

use super::answer::{Listed, Tagged};
use super::events::Stream;
use super::params::{self, REFUSALS};
use super::routes::{Access, ROUTES, Route};

/// The body of a request.
pub(super) struct Takes {
    schema: fn(&mut SchemaGenerator) -> Schema,
    required: bool,
}

impl Takes {
    /// One that must be there.
    pub const fn always<T: JsonSchema>() -> Self {
        Self { schema: |generator| generator.subschema_for::<T>(), required: true }
    }

    /// One that may be left out.
    pub const fn maybe<T: JsonSchema>() -> Self {
        Self { schema: |generator| generator.subschema_for::<T>(), required: false }
    }
}

/// What comes back.
pub(super) struct Gives {
    /// In which form.
    media: &'static str,
    /// The body.
    schema: Schema,
    /// Headers beside `Weft-Revision`, and whether they are always there.
    headers: &'static [(&'static str, &'static str)],
}

/// What a handler gives, told before it is given.
pub(super) trait Given {
    /// What that is.
    fn gives(generator: &mut SchemaGenerator) -> Gives;
}

impl<T: JsonSchema> Given for T {
    fn gives(generator: &mut SchemaGenerator) -> Gives {
        Gives { media: "application/json", schema: generator.subschema_for::<T>(), headers: &[] }
    }
}

impl<T: JsonSchema> Given for Tagged<T> {
    fn gives(generator: &mut SchemaGenerator) -> Gives {
        let headers = &[("ETag", "The revision at which it was last changed, in double quotes: for If-Match.")];
        Gives { headers, ..T::gives(generator) }
    }
}

impl<T: JsonSchema> Given for Listed<T> {
    fn gives(generator: &mut SchemaGenerator) -> Gives {
        let headers = &[("Weft-Continue", "What to give as `continue` for the next page; not there on the last one.")];
        Gives { headers, ..Vec::<T>::gives(generator) }
    }
}

impl Given for Stream {
    fn gives(generator: &mut SchemaGenerator) -> Gives {
        let mut schema = generator.subschema_for::<String>();
        schema.insert(
            "description".to_owned(),
            "Server-sent events. `put` and `delete`: their data is a Changed. `current`, `progress`: {\"revision\"}. `reset`: \
             everything is told anew. An event's id is what `from` and `Last-Event-ID` take."
                .into(),
        );
        schema.insert("x-weft-event-data".to_owned(), generator.subschema_for::<Changed>().to_value());
        Gives { media: "text/event-stream", schema, headers: &[] }
    }
}

/// Where schemas are.
const SCHEMAS: &str = "/components/schemas";

/// What is behind the name of a schema that requests have otherwise than answers: what may be left out there, say.
const IN_REQUESTS: &str = "Request";

/// The document.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make);
    &DOCUMENT
}

fn make() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = SCHEMAS.into());
    let mut given = settings.clone().for_serialize().into_generator();
    let mut taken = settings.for_deserialize().into_generator();
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut given, &mut taken);
    }
    let error = given.subschema_for::<ErrorBody>().to_value();
    let refusals = REFUSALS.iter().map(|(code, what)| {
        let headers = json!({ "Weft-Revision": revision_header() });
        let content = json!({ "application/json": { "schema": error.clone() } });
        (name_of(*code), json!({ "description": *what, "headers": headers, "content": content }))
    });
    let refusals: Map<String, Value> = refusals.collect();
    let (schemas, others) = merged(given.take_definitions(true), taken.take_definitions(true));
    for body in paths.values_mut().flat_map(|path| path.as_object_mut().into_iter().flat_map(|path| path.values_mut())) {
        // Parameters are taken, too.
        for part in ["requestBody", "parameters"] {
            if let Some(part) = body.get_mut(part) {
                renamed(part, &others);
            }
        }
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weft agent",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What weftd answers on its UNIX socket, and with --api-listen over TLS to whoever shows a client's \
                certificate. Every answer says in Weft-Revision at which revision of the store it stands. A HEAD is answered as a GET. \
                Parameters and conditions that an operation does not name are refused. x-weft-access: read is for every caller, \
                write for those who may write, local for callers on the host only.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas, "responses": refusals },
    });
    polish(&mut document);
    document
}

fn operation(route: &Route, given: &mut SchemaGenerator, taken: &mut SchemaGenerator) -> Value {
    let words: Vec<&str> = route.path.split('/').filter(|word| !matches!(*word, "" | "v1")).collect();
    let id: Vec<&str> = words.iter().map(|word| word.trim_matches(['{', '}'])).collect();
    let braces = words.iter().copied().filter(|word| word.starts_with('{'));
    let parameters = braces.chain(route.params.iter().copied()).filter_map(|name| {
        let param = params::find(route.path, name)?;
        Some(json!({
            "name": param.name,
            "in": param.place.as_str(),
            "description": param.says,
            "required": param.required,
            "schema": (param.schema)(taken),
        }))
    });
    let parameters: Vec<Value> = parameters.collect();
    let gives = (route.gives)(given);
    let mut headers = Map::from_iter([("Weft-Revision".to_owned(), revision_header())]);
    for (name, says) in gives.headers {
        headers.insert((*name).to_owned(), json!({ "description": *says, "schema": { "type": "string" } }));
    }
    let mut responses = Map::new();
    let content = json!({ gives.media: { "schema": gives.schema } });
    responses.insert("200".to_owned(), json!({ "description": "Done.", "headers": headers, "content": content }));
    let conditional = route.params.iter().any(|name| name.starts_with("If-"));
    for (code, _) in REFUSALS {
        let possible = match code {
            Code::Changed => conditional,
            // A catalogue is made of the program alone.
            Code::Forbidden => route.access != Access::Read,
            _ => true,
        };
        if possible {
            let what = json!({ "$ref": format!("#/components/responses/{}", name_of(*code)) });
            responses.insert(code.status().to_string(), what);
        }
    }
    let mut operation = json!({
        "operationId": format!("{}_{}", route.method.as_str().to_ascii_lowercase(), id.join("_").replace('.', "_")),
        "tags": [words.first()],
        "x-weft-access": match route.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Local => "local",
        },
        "responses": responses,
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(takes) = &route.takes
        && route.method != Method::GET
    {
        let content = json!({ "application/json": { "schema": (takes.schema)(taken) } });
        operation["requestBody"] = json!({ "required": takes.required, "content": content });
    }
    operation
}

/// A refusal's name among the components: that of its code.
fn name_of(code: Code) -> String {
    serde_json::to_value(code).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn revision_header() -> Value {
    json!({
        "description": "The revision of the store that the answer stands at; 0 before the store has been read.",
        "schema": { "type": "integer", "minimum": 0 },
    })
}

/// The schemas of answers and of requests in one place, and the names of those that differ: of requests these are called otherwise.
fn merged(mut given: Map<String, Value>, taken: Map<String, Value>) -> (Map<String, Value>, BTreeSet<String>) {
    let mut differ: BTreeSet<String> = BTreeSet::new();
    loop {
        let more = taken.iter().filter(|(name, schema)| {
            let other = given.get(*name).is_some_and(|there| there != *schema || refers(schema, &differ));
            other && !differ.contains(*name)
        });
        let more: Vec<String> = more.map(|(name, _)| name.clone()).collect();
        if more.is_empty() {
            break;
        }
        differ.extend(more);
    }
    for (name, mut schema) in taken {
        renamed(&mut schema, &differ);
        let name = if differ.contains(&name) { format!("{name}{IN_REQUESTS}") } else { name };
        given.insert(name, schema);
    }
    (given, differ)
}

/// The name of the schema that a reference is to.
fn referred(value: &Value) -> Option<&str> {
    value.get("$ref")?.as_str()?.strip_prefix('#')?.strip_prefix(SCHEMAS)?.strip_prefix('/')
}

fn refers(value: &Value, names: &BTreeSet<String>) -> bool {
    referred(value).is_some_and(|name| names.contains(name))
        || match value {
            Value::Object(members) => members.values().any(|member| refers(member, names)),
            Value::Array(items) => items.iter().any(|item| refers(item, names)),
            _ => false,
        }
}

fn renamed(value: &mut Value, names: &BTreeSet<String>) {
    if let Some(name) = referred(value).filter(|name| names.contains(*name)) {
        let other = format!("#{SCHEMAS}/{name}{IN_REQUESTS}");
        value["$ref"] = other.into();
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| renamed(member, names)),
        Value::Array(items) => items.iter_mut().for_each(|item| renamed(item, names)),
        _ => {}
    }
}

/// What the source says for its readers, said for others; and formats that are nobody's but schemars'.
fn polish(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(text)) = members.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`");
            }
            // JSON Schema knows formats of addresses of one family each.
            if members.get("format").and_then(Value::as_str) == Some("ip") {
                members.remove("format");
                members.insert("anyOf".to_owned(), json!([{ "format": "ipv4" }, { "format": "ipv6" }]));
            }
            members.values_mut().for_each(polish);
        }
        Value::Array(items) => items.iter_mut().for_each(polish),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> Vec<(String, String, &'static Value)> {
        let paths = document()["paths"].as_object().unwrap();
        let each = |(path, item): (&'static String, &'static Value)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation)).collect::<Vec<_>>()
        };
        paths.iter().flat_map(each).collect()
    }

    #[test]
    fn the_document_has_every_row_and_nothing_else() {
        let told: BTreeSet<(String, String)> = operations().into_iter().map(|(method, path, _)| (method, path)).collect();
        let rows: BTreeSet<(String, String)> = ROUTES.iter().map(|r| (r.method.to_string(), r.path.to_owned())).collect();
        assert_eq!(told, rows);
        assert_eq!(document()["openapi"], "3.1.0");
        let ids: BTreeSet<&str> = operations().iter().map(|(_, _, o)| o["operationId"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), ROUTES.len(), "two operations have one id");
    }

    #[test]
    fn every_parameter_of_a_row_is_explained_and_no_other() {
        for route in ROUTES {
            let operation = &document()["paths"][route.path][route.method.as_str().to_lowercase()];
            let told = operation["parameters"].as_array().cloned().unwrap_or_default();
            let told: BTreeSet<&str> =
                told.iter().map(|p| p["name"].as_str().unwrap()).map(|n| n.to_owned().leak() as &str).collect();
            let braces = route.path.split('/').filter(|s| s.starts_with('{')).map(|s| s.trim_matches(['{', '}']));
            let known: BTreeSet<&str> = braces.chain(route.params.iter().copied()).collect();
            assert_eq!(told, known, "{} {}: say what the others mean in params.rs", route.method, route.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, found: &mut BTreeSet<String>) {
            if let Some(to) = value.get("$ref").and_then(Value::as_str) {
                found.insert(to.to_owned());
            }
            match value {
                Value::Object(members) => members.values().for_each(|member| walk(member, found)),
                Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
                _ => {}
            }
        }
        let mut found = BTreeSet::new();
        walk(document(), &mut found);
        assert!(found.len() > 60, "{found:?}");
        for to in &found {
            assert!(document().pointer(to.strip_prefix('#').unwrap()).is_some(), "{to}");
        }
        let schemas = document()["components"]["schemas"].as_object().unwrap();
        for name in schemas.keys() {
            assert!(found.contains(&format!("#{SCHEMAS}/{name}")), "nothing refers to {name}");
            assert!(
                !name.chars().any(|c| c.is_ascii_digit()),
                "{name}: two types have one name; give one of them another for schemas"
            );
        }
    }

    #[test]
    fn requests_may_leave_out_what_answers_always_have() {
        let schemas = &document()["components"]["schemas"];
        let required = |name: &str| -> BTreeSet<String> {
            let words = schemas[name]["required"].as_array().into_iter().flatten();
            words.map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        assert!(required("HealthCheck").contains("interval_ms") && required("HealthCheckRequest").is_empty());
        assert!(required("ServiceView").contains("backends") && required("Attach").contains("netns"));
        let of = |path: &str, method: &str| document()["paths"][path][method].clone();
        let put = of("/v1/namespaces/{namespace}", "put");
        assert_eq!((&put["requestBody"]["required"], &put["x-weft-access"]), (&json!(false), &json!("write")));
        assert!(put["responses"]["200"]["headers"]["ETag"].is_object() && put["responses"]["412"].is_object());
        let list = of("/v1/endpoints", "get");
        assert!(list["responses"]["200"]["headers"]["Weft-Continue"].is_object() && list["responses"].get("403").is_none());
        assert!(of("/v1/watch", "get")["responses"]["200"]["content"]["text/event-stream"].is_object());
        assert_eq!(of("/v1/services", "post")["requestBody"]["required"], true);
        assert_eq!(of("/v1/plan", "get")["x-weft-access"], "local");
    }

    /// The table at the top of `weft-api` is for people who read its documentation.
    #[test]
    fn the_table_in_the_contracts_documentation_is_the_table_of_routes() {
        let plain = |path: &str| -> String {
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            path.split('/').map(|word| if word.starts_with('{') { "{}" } else { word }).collect::<Vec<_>>().join("/")
        };
        let mut told = BTreeSet::new();
        for line in include_str!("../../../api/src/lib.rs").lines() {
            let Some(cell) = line.strip_prefix("//! | `").and_then(|line| line.split(" | ").next()) else { continue };
            let mut methods = Vec::new();
            for code in cell.split('`').filter(|code| code.starts_with(|c: char| c.is_ascii_uppercase())) {
                let (method, path) = code.split_once(' ').map_or((code, None), |(method, path)| (method, Some(path)));
                methods.push(method.to_owned());
                if let Some(path) = path {
                    told.extend(methods.drain(..).map(|method| (method, plain(path))));
                }
            }
        }
        let rows: BTreeSet<(String, String)> = ROUTES.iter().map(|r| (r.method.to_string(), plain(r.path))).collect();
        assert_eq!(told, rows);
    }
}
