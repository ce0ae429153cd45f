//! What a container says of itself by environment variables and labels, read by registrator's conventions and our own.
//!
//! | said | means |
//! |---|---|
//! | `SERVICE_NAME=web` | an instance of `web` at each of its ports; with several ports each one is `web-<port>` as well |
//! | `SERVICE_<port>_NAME=web` | an instance of `web` at this port |
//! | `SERVICE_TAGS=a,b=c`, `SERVICE_<port>_TAGS` | labels `tag.a=true` and `b=c`; a comma within a tag is `\,` |
//! | `SERVICE_<KEY>=v`, `SERVICE_<port>_<KEY>=v` | label `key=v`; the port's own wins |
//! | `SERVICE_IGNORE=1`, `SERVICE_<port>_IGNORE=1` | none of this, or not this port |
//! | `SERVICE_CHECK_HTTP=/path`, `_HTTPS`, `_TCP=1`, `_GRPC=1`, `SERVICE_<port>_CHECK_…` | a check of the container; with `…_CHECK_INTERVAL=10s`, `…_CHECK_TIMEOUT=2s` |
//! | `weft.check=http:/healthz` (label) | the same, as `--check` has it |
//! | `weft.service=web:80,dns:53/udp` (label) | an instance of these |
//! | `weft.alias=a,b`, `weft.label.<key>=v` (labels) | further names, labels |
//! | `com.docker.compose.project`, `….service` (labels) | the same labels |
//!
//! Labels of the container win over its environment. What registrator does otherwise: it takes addresses of the host, we the
//! container's own; it registers containers that say nothing, under their image's name, we none; without ports it registers
//! nothing, we the address; `SERVICE_IGNORE=false` hides there, and `0`, `false` and `no` mean no here; a port's own value can be
//! replaced by a general one of a label there. `SERVICE_ID` is a label: an endpoint has its id since it was attached. Checks are the
//! container's as a whole, and the first that is said counts; commands (`_CHECK_CMD`, `_CHECK_SCRIPT`) are left out: what a
//! container says must not run on its host.
//!
//! Pure: no runtime is asked here. Who makes a container says all of this, or the author of its image, so nothing is taken as it
//! comes: names become DNS labels, and what cannot be written is left out with a reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::attachment::{Description, Instance, MAX_ALIASES, MAX_INSTANCES};
use crate::check::{Check, CheckKind};
use crate::ids::{MAX_LABEL, ServiceLabel, ServiceName, sanitise_label};
use crate::record::{MAX_LABELS, Proto, check_labels, check_name, shortened};

/// What a runtime tells of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// What the runtime calls it.
    pub name: String,
    /// Its further names in the network.
    pub aliases: Vec<String>,
    /// Its environment, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The ports that are exposed or published, as they are inside.
    pub ports: BTreeSet<(u16, Proto)>,
}

/// What follows from that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Names, services and labels, each of which may be written.
    pub description: Description,
    /// Sentences about what may not.
    pub left_out: Vec<String>,
}

/// The prefix of registrator's variables.
const PREFIX: &str = "SERVICE_";

/// With what variables about checks begin, behind the prefix and the port.
const CHECK: &str = "check_";

/// Labels that composing tools put on containers, and that are worth selecting by.
const COMPOSE: [&str; 2] = ["com.docker.compose.project", "com.docker.compose.service"];

/// How many sentences about what is left out are kept: a hostile container must not fill the log.
const MAX_LEFT_OUT: usize = 16;

/// Variables by lower-case key: those of all ports, and those of one.
#[derive(Debug, Default)]
struct Variables<'a> {
    general: BTreeMap<String, &'a str>,
    of_port: BTreeMap<u16, BTreeMap<String, &'a str>>,
}

/// What a container is called and what it serves, by what is said of it.
#[must_use]
pub fn describe(container: &Container) -> Told {
    let mut told = Told::default();
    match check_name(&container.name) {
        Ok(()) => told.description.name = Some(container.name.clone()).filter(|name| !name.is_empty()),
        Err(why) => told.leave_out(why),
    }
    let ours = container.labels.get("weft.alias").into_iter().flat_map(|list| list.split(','));
    let named = [container.name.as_str()].into_iter().chain(container.aliases.iter().map(String::as_str));
    for alias in named.chain(ours.map(str::trim)).filter(|alias| !alias.is_empty()) {
        told.alias(alias);
    }

    for text in container.labels.get("weft.service").into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        match text.parse::<Instance>() {
            _ if text.is_empty() => {}
            Ok(instance) => told.instance(instance),
            Err(why) => told.leave_out(format!("weft.service: {}", shortened(&why))),
        }
    }
    for key in COMPOSE {
        if let Some(value) = container.labels.get(key) {
            told.label(key, value);
        }
    }
    for (key, value) in &container.labels {
        if let Some(key) = key.strip_prefix("weft.label.") {
            told.label(key, value);
        }
    }

    let variables = Variables::of(container);
    if !variables.general.get("ignore").is_some_and(|value| means_yes(value)) {
        told.variables(&variables, &container.ports);
        told.check_of(&variables);
    }
    if let Some(text) = container.labels.get("weft.check") {
        told.own_check(text);
    }
    told.askable();
    told
}

impl<'a> Variables<'a> {
    fn of(container: &'a Container) -> Self {
        let env = container.env.iter().filter_map(|pair| pair.split_once('='));
        let labels = container.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut variables = Self::default();
        for (key, value) in env.chain(labels) {
            let Some(key) = key.strip_prefix(PREFIX).filter(|key| !key.is_empty()) else { continue };
            let of_port = key.split_once('_').and_then(|(port, key)| Some((port_number(port)?, key)));
            match of_port {
                Some((_, "")) => {}
                Some((port, key)) => {
                    variables.of_port.entry(port).or_default().insert(key.to_ascii_lowercase(), value);
                }
                None => {
                    variables.general.insert(key.to_ascii_lowercase(), value);
                }
            }
        }
        variables
    }
}

impl Told {
    fn variables(&mut self, variables: &Variables<'_>, exposed: &BTreeSet<(u16, Proto)>) {
        // A name for a port says that it is served, exposed or not.
        let mut ports = exposed.clone();
        for (port, own) in &variables.of_port {
            if own.contains_key("name") && !exposed.iter().any(|(there, _)| there == port) {
                ports.insert((*port, Proto::Tcp));
            }
        }
        let name = variables.general.get("name").and_then(|name| self.service("SERVICE_NAME", name));
        let several = ports.len() > 1;
        if let (Some(name), true) = (&name, ports.is_empty()) {
            self.instance(Instance::new(name.clone(), None, Proto::default()));
        }
        self.labels_of(&variables.general);
        for (port, proto) in ports {
            let nothing = BTreeMap::new();
            let own = variables.of_port.get(&port).unwrap_or(&nothing);
            if own.get("ignore").is_some_and(|value| means_yes(value)) {
                continue;
            }
            let mut of_port = Told::default();
            of_port.labels_of(own);
            let labels = of_port.description.labels;
            of_port.left_out.into_iter().for_each(|why| self.leave_out(why));

            let mut services: Vec<ServiceName> = Vec::new();
            match own.get("name") {
                Some(text) => services.extend(self.service(&format!("SERVICE_{port}_NAME"), text)),
                None => {
                    services.extend(name.clone());
                    if let Some(name) = name.as_ref().filter(|_| several) {
                        let label = format!("{}-{port}", name.name);
                        services.extend(self.service("SERVICE_NAME", &format!("{}/{label}", name.namespace)));
                    }
                }
            }
            for service in services {
                self.instance(Instance { labels: labels.clone(), ..Instance::new(service, Some(port), proto) });
            }
        }
    }

    /// Attributes and tags.
    fn labels_of(&mut self, variables: &BTreeMap<String, &str>) {
        for (key, value) in variables {
            match key.as_str() {
                "name" | "ignore" => {}
                key if key.starts_with(CHECK) => {}
                "tags" => {
                    for tag in tags(value) {
                        match tag.split_once('=') {
                            Some((key, value)) => self.label(key, value),
                            None => self.label(&format!("tag.{tag}"), "true"),
                        }
                    }
                }
                _ => self.label(key, value),
            }
        }
    }

    /// The first check that variables speak of, those of all ports before those of one.
    fn check_of(&mut self, variables: &Variables<'_>) {
        let ports = variables.of_port.iter().map(|(port, own)| (Some(*port), own));
        for (port, own) in std::iter::once((None, &variables.general)).chain(ports) {
            for (key, value) in own.iter().filter_map(|(key, value)| Some((key.strip_prefix(CHECK)?, value.trim()))) {
                let check = match key {
                    "http" => Check { kind: CheckKind::Http, path: Some(value.to_owned()), ..Check::default() },
                    "https" => Check { kind: CheckKind::Https, path: Some(value.to_owned()), ..Check::default() },
                    "tcp" if means_yes(value) => Check::default(),
                    "grpc" if means_yes(value) => Check { kind: CheckKind::Grpc, ..Check::default() },
                    "cmd" | "script" | "docker" => {
                        self.leave_out(format!(
                            "SERVICE_CHECK_{}: what a container says must not run on its host",
                            key.to_uppercase()
                        ));
                        continue;
                    }
                    _ => continue,
                };
                let option =
                    |name: &str| own.get(&format!("{CHECK}{name}")).or_else(|| variables.general.get(&format!("{CHECK}{name}")));
                let mut check = Check { port, ..check };
                let set = [("interval", option("interval")), ("timeout", option("timeout"))];
                let set = set.into_iter().filter_map(|(name, value)| Some((name, value?)));
                let made = set.map(|(name, value)| check.set(name, value.trim())).collect::<Result<Vec<()>, String>>();
                match made.and_then(|_| check.validate_stored()) {
                    Ok(()) if self.description.check.is_none() => self.description.check = Some(check),
                    Ok(()) => {}
                    Err(why) => self.leave_out(format!("SERVICE_CHECK_{}: {}", key.to_uppercase(), shortened(&why))),
                }
            }
        }
    }

    /// A check as people write it.
    fn own_check(&mut self, text: &str) {
        match text.parse::<Check>().and_then(|check| check.validate_stored().map(|()| check)) {
            Ok(check) => self.description.check = Some(check),
            Err(why) => self.leave_out(format!("weft.check: {}", shortened(&why))),
        }
    }

    /// Leaves out a check for which there is no port to ask at.
    fn askable(&mut self) {
        let port = self.description.instances.iter().find_map(|instance| instance.port);
        if let Some(check) = self.description.check.take_if(|check| check.port_of(port).is_none()) {
            self.leave_out(format!("check {check}: there is no port to ask at"));
        }
    }

    /// The service that a text names.
    fn service(&mut self, variable: &str, text: &str) -> Option<ServiceName> {
        let (namespace, name) = text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
        let label = |text: &str| sanitise_label(text, MAX_LABEL);
        let made = namespace.map_or_else(|| label(name), |namespace| format!("{}/{}", label(namespace), label(name)));
        match made.parse() {
            Ok(service) => Some(service),
            Err(why) => {
                self.leave_out(format!("{variable} {:?}: {why}", shortened(text)));
                None
            }
        }
    }

    fn alias(&mut self, text: &str) {
        match sanitise_label(text, MAX_LABEL).parse::<ServiceLabel>() {
            Ok(alias) if self.description.aliases.contains(&alias) => {}
            Ok(_) if self.description.aliases.len() == MAX_ALIASES => {
                self.leave_out(format!("name {:?}: there are {MAX_ALIASES} already", shortened(text)));
            }
            Ok(alias) => self.description.aliases.push(alias),
            Err(why) => self.leave_out(format!("name {:?}: {why}", shortened(text))),
        }
    }

    fn instance(&mut self, mut instance: Instance) {
        let place = |i: &Instance| (i.service.clone(), i.port, i.proto);
        let named = |i: &Instance| (!i.port_name.is_empty()).then(|| (i.service.clone(), i.proto, i.port_name.clone()));
        let there = &self.description.instances;
        if there.iter().any(|i| place(i) == place(&instance)) {
            return;
        }
        let said = |why: &str| {
            let port = instance.port.map(|port| format!(":{port}/{}", instance.proto)).unwrap_or_default();
            format!("service {}{port}: {why}", instance.service)
        };
        if there.len() == MAX_INSTANCES {
            self.leave_out(said(&format!("there are {MAX_INSTANCES} already")));
        } else if named(&instance).is_some_and(|name| there.iter().any(|i| named(i).as_ref() == Some(&name))) {
            self.leave_out(said("another port has its name"));
        } else {
            let room = MAX_LABELS.saturating_sub(self.description.labels.len());
            let kept: BTreeMap<_, _> = std::mem::take(&mut instance.labels).into_iter().take(room).collect();
            self.description.instances.push(Instance { labels: kept, ..instance });
        }
    }

    fn label(&mut self, key: &str, value: &str) {
        let one = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        match check_labels(&one) {
            Ok(()) if self.description.labels.contains_key(key) => {}
            Ok(()) if self.description.labels.len() == MAX_LABELS => {
                self.leave_out(format!("label {key}: there are {MAX_LABELS} already"));
            }
            Ok(()) => self.description.labels.extend(one),
            Err(why) => self.leave_out(why),
        }
    }

    fn leave_out(&mut self, why: String) {
        if self.left_out.len() < MAX_LEFT_OUT {
            self.left_out.push(why);
        }
    }
}

/// A port's number in a variable's name, written as ports are.
fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| *port != 0 && port.to_string() == text)
}

/// Whether a switch is on.
fn means_yes(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "false" | "no")
}

/// Tags are separated by commas; `\,` is a comma.
fn tags(text: &str) -> Vec<String> {
    let mut tags = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let c = if c == '\\' && chars.peek() == Some(&',') {
            chars.next()
        } else if c == ',' {
            tags.push(String::new());
            None
        } else {
            Some(c)
        };
        if let Some(last) = tags.last_mut() {
            last.extend(c);
        }
    }
    tags.into_iter().map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect()
}

#[cfg(test)]
#[path = "registrator_tests.rs"]
mod tests;
