//! `netctl watch`: what changes, as it happens; goes on where it was when the agent restarts.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;
use weft_api::{Changed, ClientError, Event, Happened, ListQuery, WatchQuery};
use weft_model::ids::{Namespace, NetworkName, NodeName, Revision, ServiceName};
use weft_model::selector::Selector;

use super::Context;
use crate::error::{DONE, Error, say};

/// How soon an agent that is away is asked again.
const RETRY: Duration = Duration::from_millis(300);

/// What can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Endpoints
    Endpoint,
    /// Services
    Service,
    /// Hosts
    Node,
    /// Networks
    Network,
    /// Who leads a service or a name
    Leader,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only these kinds of things [default: all]
    #[arg(value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Only services and endpoints of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<Namespace>,
    /// Only this service, and the endpoints below its name: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceName>,
    /// Only endpoints that this host answers for
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Only what is in this network
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// Only services and endpoints whose labels fit, as tier=front,env in (a,b),!old; one that fits no more is told as deleted
    #[arg(short = 'l', long = "label", value_name = "SELECTOR")]
    labels: Vec<Selector>,
    /// Go on after this revision, or after the event of this id, instead of telling everything first
    #[arg(long, value_name = "REVISION")]
    from: Option<String>,
}

/// A line of output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// `put`, `delete`, `current`, `progress` or `reset`.
    event: &'static str,
    /// Where to go on with `--from`, if that is known.
    id: Option<&'a str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    changed: Option<&'a Changed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
}

impl WatchArgs {
    /// Does it, until Ctrl-C or until nobody reads any more.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let query = WatchQuery {
            kinds: self.kinds.iter().filter_map(|k| k.to_possible_value()).map(|k| k.get_name().to_owned()).collect(),
            of: ListQuery {
                namespace: self.namespace,
                service: self.service,
                node: self.node,
                network: self.network,
                labels: self.labels.iter().map(ToString::to_string).collect(),
                ..ListQuery::default()
            },
            from: self.from,
        };
        tokio::select! {
            watched = follow(context, query) => watched,
            // Where Ctrl-C cannot be caught it ends the process by itself.
            Ok(()) = tokio::signal::ctrl_c() => Ok(DONE),
        }
    }
}

/// Prints events for ever. The first connection must be made; one that breaks is made again.
async fn follow(context: &mut Context, mut query: WatchQuery) -> Result<u8, Error> {
    let client = context.agent.client().clone();
    let mut events = client.watch(&query).await?;
    let mut away = false;
    loop {
        let broke = match events.next().await {
            Ok(Some(event)) => {
                away = false;
                context.printer.event(&line(&event), |line| text(line))?;
                query.from = event.id.or(query.from);
                continue;
            }
            Ok(None) => None,
            Err(e) => Some(e),
        };
        if !std::mem::replace(&mut away, true) {
            let why = broke.as_ref().map_or_else(|| "the agent ended the stream".to_owned(), ToString::to_string);
            say("watch", &format!("{why}; going on when it is back"));
        }
        events = loop {
            sleep(RETRY).await;
            match client.watch(&query).await {
                Ok(events) => break events,
                Err(e) if passes(&e) => {}
                Err(e) => return Err(e.into()),
            }
        };
    }
}

fn passes(error: &ClientError) -> bool {
    error.is_passing() || matches!(error, ClientError::Broken { .. })
}

fn line(event: &Event) -> Line<'_> {
    let (what, changed, revision) = match &event.what {
        Happened::Put(changed) => ("put", Some(changed), None),
        Happened::Delete(changed) => ("delete", Some(changed), None),
        Happened::Current(revision) => ("current", None, Some(*revision)),
        Happened::Progress(revision) => ("progress", None, Some(*revision)),
        Happened::Reset => ("reset", None, None),
    };
    Line { event: what, id: event.id.as_deref(), changed, revision }
}

fn text(line: &Line<'_>) -> String {
    let event = line.event;
    match (line.changed, line.revision) {
        (Some(changed), _) => {
            let Changed { kind, key, revision, object } = changed;
            format!("{event:<8}  {kind:<8}  {revision:>8}  {key}  {}", summary(object)).trim_end().to_owned()
        }
        (None, Some(revision)) => format!("{event:<8}            {revision:>8}"),
        (None, None) => format!("{event:<8}  what changed meanwhile is not known; everything is told again"),
    }
}

/// What most want to know of an object.
fn summary(object: &Value) -> String {
    if let (Some(ready), Some(total)) = (object["ready"].as_u64(), object["total"].as_u64()) {
        let leader = object["leader"].as_str().map(|id| format!("  leader {id}")).unwrap_or_default();
        return format!("{ready}/{total}{leader}");
    }
    if object.get("by").is_some() {
        return object["leader"]["id"].as_str().unwrap_or("nobody").to_owned();
    }
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            Some(items.join(",")).filter(|text| !text.is_empty())
        }
        Value::Bool(alive) => Some(if *alive { "alive" } else { "dead" }.to_owned()),
        _ => None,
    };
    let members = ["state", "alive", "addresses", "host_names", "node", "vips", "subnet", "cidr"];
    members
        .iter()
        .filter(|name| **name != "node" || object.get("state").is_some())
        .filter_map(|name| text(&object[*name]))
        .collect::<Vec<_>>()
        .join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(object: Value) -> Event {
        let changed = Changed { kind: "endpoint".into(), key: "local/skydns/web/a".into(), revision: Revision(12), object };
        Event { what: Happened::Put(changed), id: Some("12".into()) }
    }

    #[test]
    fn a_line_says_what_most_want_to_know() {
        let event = put(serde_json::json!({"state": "up", "addresses": ["10.0.0.1"], "node": "h1", "labels": {}}));
        assert_eq!(text(&line(&event)), "put       endpoint        12  local/skydns/web/a  up  10.0.0.1  h1");
        let service = put(serde_json::json!({"vips": ["10.96.0.1"], "ready": 1, "total": 2, "leader": "a"}));
        assert!(text(&line(&service)).ends_with("  1/2  leader a"));
        let leader = put(serde_json::json!({"service": "web", "by": "oldest", "leader": null}));
        assert!(text(&line(&leader)).ends_with("  nobody"));
        let gone = Event { what: Happened::Current(Revision(7)), id: None };
        assert_eq!(text(&line(&gone)), "current                    7");
    }

    #[test]
    fn as_json_an_event_is_one_object() {
        let event = put(serde_json::json!({"state": "up"}));
        let json = serde_json::to_value(line(&event)).unwrap();
        assert_eq!(
            (json["event"].as_str(), json["kind"].as_str(), json["id"].as_str()),
            (Some("put"), Some("endpoint"), Some("12"))
        );
        assert_eq!((json["revision"].as_i64(), json["object"]["state"].as_str()), (Some(12), Some("up")));
        let current = serde_json::to_value(line(&Event { what: Happened::Current(Revision(7)), id: None })).unwrap();
        assert_eq!(current, serde_json::json!({"event": "current", "id": null, "revision": 7}));
    }
}
