//! What an engine's answers say. Pure, and lenient: what is missing or of another type was not said.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weft_model::attachment::Owner;
use weft_model::record::Proto;
use weft_model::registrator::Container;

use super::Kind;

/// What a line of the event stream is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This container may be called otherwise now, or be in another network.
    Of(String),
    /// Nothing that matters here.
    Nothing,
    /// Nobody knows.
    Unknown,
}

/// Reads a line of the event stream.
#[must_use]
pub fn event(line: &[u8]) -> Event {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Event::Nothing;
    }
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return Event::Unknown };
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let actor = text("/Actor/ID");
    let id = match (text("/Type"), text("/Action")) {
        (Some("container"), Some("start" | "rename")) => actor,
        // Docker's actor is the network here, and podman's (4.3.1) the container.
        (Some("network"), Some("connect" | "disconnect")) => text("/Actor/Attributes/container").or(actor),
        (Some(_), Some(_)) => return Event::Nothing,
        _ => None,
    };
    id.filter(|id| is_id(id)).map_or(Event::Unknown, |id| Event::Of(id.to_owned()))
}

/// Containers that run, by what attachments' owners know them as.
#[derive(Debug, Default)]
pub struct Running {
    by_owner: BTreeMap<String, Place>,
}

/// A container in one of its networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The container's id.
    pub id: String,
    /// The network's name, where the listing tells.
    network: Option<String>,
}

impl Running {
    /// Reads a listing of the containers that run.
    #[must_use]
    pub fn of(kind: Kind, listing: &Value) -> Self {
        let mut by_owner = BTreeMap::new();
        for container in listing.as_array().into_iter().flatten() {
            let Some(id) = container.get("Id").and_then(Value::as_str).filter(|id| is_id(id)) else { continue };
            match kind {
                Kind::Podman => drop(by_owner.insert(id.to_owned(), Place { id: id.to_owned(), network: None })),
                Kind::Docker => {
                    let networks = container.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
                    for (network, end) in networks.into_iter().flatten() {
                        let end = end.get("EndpointID").and_then(Value::as_str).filter(|end| !end.is_empty());
                        let place = || Place { id: id.to_owned(), network: Some(network.clone()) };
                        by_owner.extend(end.map(|end| (end.to_owned(), place())));
                    }
                }
            }
        }
        Self { by_owner }
    }

    /// The container behind an attachment's owner.
    #[must_use]
    pub fn find(&self, owner: &Owner) -> Option<Place> {
        let found = self.by_owner.get(&owner.container)?.clone();
        let network = found.network.or_else(|| Some(owner.network.clone()));
        Some(Place { network, ..found })
    }
}

/// What an inspection says of a container in one of its networks.
#[must_use]
pub fn container(inspected: &Value, place: &Place) -> Container {
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let name = inspected.get("Name").and_then(Value::as_str).unwrap_or_default();
    let labels = inspected.pointer("/Config/Labels").and_then(Value::as_object).into_iter().flatten();
    let networks = inspected.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    let network = networks.zip(place.network.as_ref()).and_then(|(networks, name)| networks.get(name));
    let ports = ["/Config/ExposedPorts", "/HostConfig/PortBindings", "/NetworkSettings/Ports"];
    let ports = ports.iter().filter_map(|pointer| inspected.pointer(pointer)?.as_object()).flat_map(|ports| ports.keys());
    Container {
        name: name.strip_prefix('/').unwrap_or(name).to_owned(),
        aliases: texts(network.and_then(|network| network.get("Aliases"))),
        env: texts(inspected.pointer("/Config/Env")),
        labels: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        ports: ports.filter_map(|text| port(text)).collect::<BTreeSet<_>>(),
    }
}

/// `80/tcp`.
fn port(text: &str) -> Option<(u16, Proto)> {
    let (port, proto) = text.split_once('/')?;
    let port = port.parse().ok().filter(|port: &u16| *port != 0)?;
    Some((port, proto.parse().ok()?))
}

/// Whether a text can be a container's id, and part of a path.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
