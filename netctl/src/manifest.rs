//! Objects as files: what `netctl apply` reads and `netctl manifest` writes, one YAML or JSON document each.
//!
//! ```yaml
//! kind: Service            # Namespace, Network, Service or Endpoint
//! name: prod/web           # as everywhere on the command line
//! ports: ["http=80:8080"]  # so, or as the API has them
//! selector: tier=front, env in (a, b)
//! ```
//!
//! `kind` and a name say which object is meant; all other members are those of the API's own types, which the agent checks.
//! Nothing is asked or written here. Read [`Manifest`] first.

pub mod diff;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use weft_model::ids::{EndpointId, Namespace, NetworkName, ServiceName};
use weft_model::selector::Selector;
use weft_model::service::ServicePort;

/// The largest file that is read, bytes: as much as an agent takes in one request, a thousand times.
const MAX_FILE: u64 = 1 << 30;

/// What there are files of, in the order in which they are created: what others need comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A namespace.
    Namespace,
    /// A network besides the default one.
    Network,
    /// A service.
    Service,
    /// An endpoint outside of Weft's containers.
    Endpoint,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Namespace, Self::Network, Self::Service, Self::Endpoint];

    /// As `kind:` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Network => "Network",
            Self::Service => "Service",
            Self::Endpoint => "Endpoint",
        }
    }

    /// The kind that somebody has written, in whatever case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }

    /// Its members that a person decides. All others of an answer say what has become of it.
    fn definition(self) -> &'static [&'static str] {
        match self {
            Self::Namespace => &[],
            Self::Network => &["cidr", "vni", "subnet_len", "port"],
            Self::Service => &[
                "ports",
                "vips",
                "selector",
                "expressions",
                "external_name",
                "labels",
                "check",
                "passive",
                "panic",
                "algorithm",
                "affinity",
                "prefer",
                "network",
                "allow_hosts",
            ],
            Self::Endpoint => &["addresses", "ports", "name", "labels", "priority", "weight", "network"],
        }
    }

    /// The API's list of them.
    #[must_use]
    pub fn collection(self) -> &'static str {
        match self {
            Self::Namespace => "/v1/namespaces",
            Self::Network => "/v1/networks",
            Self::Service => "/v1/services",
            Self::Endpoint => "/v1/endpoints",
        }
    }
}

/// An object's kind and name: `service/prod/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A namespace.
    Namespace(Namespace),
    /// A network.
    Network(NetworkName),
    /// A service.
    Service(ServiceName),
    /// An endpoint of a service.
    Endpoint(ServiceName, EndpointId),
}

impl Subject {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Network(_) => Kind::Network,
            Self::Service(_) => Kind::Service,
            Self::Endpoint(..) => Kind::Endpoint,
        }
    }

    /// Where the API has it.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Namespace(name) => format!("/v1/namespaces/{name}"),
            Self::Network(name) => format!("/v1/networks/{name}"),
            Self::Service(service) => format!("/v1/services/{}/{}", service.namespace, service.name),
            Self::Endpoint(service, id) => format!("/v1/endpoints/{}/{}/{id}", service.namespace, service.name),
        }
    }

    /// `KIND/NAME`: a service's name may leave the default namespace out, an endpoint's is `[NAMESPACE/]SERVICE/ID`.
    ///
    /// # Errors
    /// Names what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("{text:?}: {why}");
        let (kind, name) = text.split_once('/').ok_or_else(|| wrong("KIND/NAME is wanted, as in service/web".to_owned()))?;
        let kind = Kind::parse(kind).ok_or_else(|| wrong(unknown_kind(kind)))?;
        match kind {
            Kind::Namespace => name.parse().map(Self::Namespace).map_err(|e| wrong(format!("{e}"))),
            Kind::Network => name.parse().map(Self::Network).map_err(|e| wrong(format!("{e}"))),
            Kind::Service => name.parse().map(Self::Service).map_err(|e| wrong(format!("{e}"))),
            Kind::Endpoint => {
                let (service, id) =
                    name.rsplit_once('/').ok_or_else(|| wrong("an endpoint is named by SERVICE/ID".to_owned()))?;
                let service = service.parse().map_err(|e| wrong(format!("{e}")))?;
                Ok(Self::Endpoint(service, id.parse().map_err(|e| wrong(format!("{e}")))?))
            }
        }
    }

    /// The members that name it in a file.
    fn members(&self) -> Map<String, Value> {
        let named = match self {
            Self::Namespace(name) => json!({"kind": "Namespace", "name": name}),
            Self::Network(name) => json!({"kind": "Network", "name": name}),
            Self::Service(service) => json!({"kind": "Service", "name": service.to_string()}),
            Self::Endpoint(service, id) => json!({"kind": "Endpoint", "service": service.to_string(), "id": id}),
        };
        if let Value::Object(members) = named { members } else { Map::new() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace/{name}"),
            Self::Network(name) => write!(f, "network/{name}"),
            Self::Service(service) => write!(f, "service/{service}"),
            Self::Endpoint(service, id) => write!(f, "endpoint/{service}/{id}"),
        }
    }
}

fn unknown_kind(kind: &str) -> String {
    let all: Vec<&str> = Kind::ALL.iter().map(|k| k.as_str()).collect();
    format!("{kind:?} is no kind of object: {}", all.join(", "))
}

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Which object is meant.
    pub subject: Subject,
    /// What it is to be: the body of a `PUT`.
    pub body: Value,
    /// Where it was read, for messages.
    pub origin: String,
}

impl Manifest {
    /// Reads one document.
    ///
    /// # Errors
    /// What is wrong with it; the caller knows where it stands.
    pub fn from_value(value: Value, origin: &str) -> Result<Self, String> {
        let Value::Object(mut members) = value else { return Err("an object is wanted, which begins with kind: …".to_owned()) };
        let mut text = |member: &str| match members.remove(member) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("{member}: a text is wanted")),
            None => Err(format!("{member} is missing")),
        };
        let kind = text("kind")?;
        let kind = Kind::parse(&kind).ok_or_else(|| format!("kind: {}", unknown_kind(&kind)))?;
        let subject = match kind {
            Kind::Namespace => Subject::Namespace(text("name")?.parse().map_err(|e| format!("name: {e}"))?),
            Kind::Network => Subject::Network(text("name")?.parse().map_err(|e| format!("name: {e}"))?),
            Kind::Service => Subject::Service(text("name")?.parse().map_err(|e| format!("name: {e}"))?),
            Kind::Endpoint => {
                let service = text("service")?.parse().map_err(|e| format!("service: {e}"))?;
                Subject::Endpoint(service, text("id")?.parse().map_err(|e| format!("id: {e}"))?)
            }
        };
        match kind {
            Kind::Service => spell_out(&mut members)?,
            // The API's member of this is called `kind`, which is taken here.
            Kind::Endpoint => match members.remove(NAME_ONLY) {
                None | Some(Value::Bool(false)) => {}
                Some(Value::Bool(true)) => drop(members.insert("kind".to_owned(), "name".into())),
                Some(_) => return Err(format!("{NAME_ONLY}: true or false is wanted")),
            },
            Kind::Namespace | Kind::Network => {}
        }
        Ok(Self { subject, body: Value::Object(members), origin: origin.to_owned() })
    }

    /// The file of an object that the agent has told of: what a person decided, without what means the same left out.
    #[must_use]
    pub fn to_value(subject: &Subject, told: &Value) -> Value {
        let mut members = subject.members();
        for (member, value) in definition(subject.kind(), told) {
            if !says_nothing(&value) {
                members.insert(member, value);
            }
        }
        // An answer shows it by what is not there.
        let has = |member: &str| members.contains_key(member);
        if subject.kind() == Kind::Service && !has("vips") && !has("external_name") {
            members.insert("headless".to_owned(), Value::Bool(true));
        }
        if subject.kind() == Kind::Endpoint && told.get("kind").is_some_and(|kind| kind == "name") {
            members.insert(NAME_ONLY.to_owned(), Value::Bool(true));
        }
        Value::Object(members)
    }

    /// The namespace that it stands in, and the network that it names: what must be there before it.
    #[must_use]
    pub fn needs(&self) -> Vec<Subject> {
        let namespace = match &self.subject {
            Subject::Service(service) | Subject::Endpoint(service, _) => Some(Subject::Namespace(service.namespace.clone())),
            Subject::Namespace(_) | Subject::Network(_) => None,
        };
        let network = self.body.get("network").and_then(Value::as_str).and_then(|name| name.parse().ok());
        namespace.into_iter().chain(network.map(Subject::Network)).collect()
    }
}

/// Says of an endpoint that it resolves and is never a backend.
const NAME_ONLY: &str = "name_only";

/// The members of an answer that a person decided.
#[must_use]
pub fn definition(kind: Kind, told: &Value) -> Map<String, Value> {
    let of = |member: &&str| told.get(*member).map(|value| ((*member).to_owned(), value.clone()));
    kind.definition().iter().filter_map(of).collect()
}

/// Whether leaving it out would say the same.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_u64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Ports and selectors may be written as on the command line.
fn spell_out(members: &mut Map<String, Value>) -> Result<(), String> {
    if let Some(Value::Array(ports)) = members.get_mut("ports") {
        for port in ports {
            let parsed: ServicePort = match port {
                Value::String(text) => text.parse().map_err(|e| format!("ports: {e}"))?,
                Value::Number(number) => number.to_string().parse().map_err(|e| format!("ports: {e}"))?,
                _ => continue,
            };
            *port = json!(parsed);
        }
    }
    if let Some(Value::String(text)) = members.get("selector") {
        let selector: Selector = text.parse().map_err(|e| format!("selector: {e}"))?;
        if members.contains_key("expressions") && !selector.expressions.is_empty() {
            return Err("selector and expressions both say what no equality is; say it in one of them".to_owned());
        }
        members.insert("selector".to_owned(), json!(selector.equal));
        if !selector.expressions.is_empty() {
            members.insert("expressions".to_owned(), json!(selector.expressions));
        }
    }
    Ok(())
}

/// Why files cannot be used. Nothing has been written then.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or folder cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A document is none.
    #[error("{origin}: {why}")]
    Document {
        /// File and document.
        origin: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing in them.
    #[error("{0}: no document in it")]
    Empty(String),
}

/// Reads files, folders (their `.yaml`, `.yml` and `.json` files, by name) and `-` for standard input; objects come in the order in
/// which they are created, and of each kind as written. One that is there twice is refused.
///
/// # Errors
/// See [`ManifestError`].
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests: Vec<Manifest> = Vec::new();
    for path in paths {
        for (origin, text) in texts(path)? {
            manifests.extend(parse(&text, &origin)?);
        }
    }
    for (at, manifest) in manifests.iter().enumerate() {
        if let Some(first) = manifests.iter().take(at).find(|other| other.subject == manifest.subject) {
            let why = format!("{} is in {} already", manifest.subject, first.origin);
            return Err(ManifestError::Document { origin: manifest.origin.clone(), why });
        }
    }
    if manifests.is_empty() {
        let all: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        return Err(ManifestError::Empty(all.join(", ")));
    }
    manifests.sort_by_key(|manifest| manifest.subject.kind());
    Ok(manifests)
}

/// The texts that a path stands for, with what to call them.
fn texts(path: &Path) -> Result<Vec<(String, String)>, ManifestError> {
    use std::io::Read as _;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ManifestError::Read { path, source }
    };
    let whole = |mut from: Box<dyn std::io::Read>, path: &Path| {
        let mut text = String::new();
        let length = from.by_ref().take(MAX_FILE).read_to_string(&mut text).map_err(failed(path))?;
        let too_long = u64::try_from(length).is_ok_and(|n| n == MAX_FILE);
        let source = || std::io::Error::new(std::io::ErrorKind::FileTooLarge, "more than 1 GiB");
        if too_long { Err(ManifestError::Read { path: path.to_owned(), source: source() }) } else { Ok(text) }
    };
    if path == Path::new("-") {
        return Ok(vec![("standard input".to_owned(), whole(Box::new(std::io::stdin()), path)?)]);
    }
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(failed(path))?;
        files = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>().map_err(failed(path))?;
        files.retain(|f| f.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
        files.sort();
    }
    let read = |file: PathBuf| {
        let opened = std::fs::File::open(&file).map_err(failed(&file))?;
        Ok((file.display().to_string(), whole(Box::new(opened), &file)?))
    };
    files.into_iter().map(read).collect()
}

/// The documents of a text. A document may be a list of objects, as `-o yaml` prints them.
fn parse(text: &str, origin: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let place = format!("{origin}, document {}", number + 1);
        let wrong = |why: String| ManifestError::Document { origin: place.clone(), why };
        let objects = match Value::deserialize(document).map_err(|e| wrong(e.to_string()))? {
            // Two separators in a row, or a comment alone.
            Value::Null => continue,
            Value::Array(objects) => objects,
            object => vec![object],
        };
        for object in objects {
            manifests.push(Manifest::from_value(object, &place).map_err(wrong)?);
        }
    }
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
kind: Endpoint
service: prod/db
id: db-1
addresses: [192.0.2.9]
ports: [{port: 5432}]
---
# nothing but a comment
---
kind: service
name: prod/web
ports: ['http=80:8080', 443, {port: 53, proto: udp, name: dns}]
selector: tier=front, env in (a, b), !old
---
- {kind: Namespace, name: prod}
- {kind: Network, name: blue, cidr: 10.245.0.0/16, vni: 2}
";

    #[test]
    fn documents_come_in_the_order_of_creation_and_spelled_out() {
        let all = parse(FILE, "f.yaml").unwrap();
        assert_eq!(all[1].origin, "f.yaml, document 3");
        assert_eq!(all[1].body["ports"][0], json!({"name": "http", "port": 80, "target": 8080, "proto": "tcp"}));
        assert_eq!(all[1].body["ports"][1]["port"], 443);
        assert_eq!(all[1].body["ports"][2], json!({"port": 53, "proto": "udp", "name": "dns"}), "the agent reads it");
        assert_eq!(all[1].body["selector"], json!({"tier": "front"}));
        assert_eq!(all[1].body["expressions"][0]["key"], "env");
        assert_eq!(all[1].body["expressions"].as_array().unwrap().len(), 2);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.yaml"), FILE).unwrap();
        std::fs::write(dir.path().join("a.json"), r#"{"kind":"Namespace","name":"test"}"#).unwrap();
        std::fs::write(dir.path().join("c.txt"), "not ours").unwrap();
        let order: Vec<String> = read(&[dir.path().to_owned()]).unwrap().iter().map(|m| m.subject.to_string()).collect();
        assert_eq!(order, ["namespace/test", "namespace/prod", "network/blue", "service/prod/web", "endpoint/prod/db/db-1"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("kind: Pod\nname: a", "f, document 1: kind: \"Pod\" is no kind of object: Namespace, Network, Service, Endpoint"),
            ("name: a", "f, document 1: kind is missing"),
            ("kind: Service", "f, document 1: name is missing"),
            ("kind: Service\nname: [a]", "f, document 1: name: a text is wanted"),
            ("kind: Service\nname: a\nports: ['x']", "f, document 1: ports: port \"x\""),
            ("kind: Service\nname: a\nselector: 'a in ('", "f, document 1: selector: "),
            ("just a text", "f, document 1: an object is wanted"),
            ("kind: Service\n  name: a", "f, document 1: "),
            ("{kind: Service", "f, document 1: "),
            ("kind: Endpoint\nservice: a", "f, document 1: id is missing"),
        ] {
            let why = parse(text, "f").unwrap_err().to_string();
            assert!(why.starts_with(said), "{text}: {why}");
        }
        let twice = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(twice.path(), "{kind: Namespace, name: a}\n---\n{kind: Namespace, name: a}\n").unwrap();
        let why = read(&[twice.path().to_owned()]).unwrap_err().to_string();
        assert!(why.contains("document 2: namespace/a is in ") && why.ends_with("document 1 already"), "{why}");
        std::fs::write(twice.path(), "# nothing\n").unwrap();
        assert!(matches!(read(&[twice.path().to_owned()]), Err(ManifestError::Empty(_))));
        assert!(matches!(read(&["/no/such/file".into()]), Err(ManifestError::Read { .. })));
    }

    #[test]
    fn what_the_agent_tells_is_written_so_that_it_can_be_read() {
        let told = json!({"namespace": "default", "name": "web", "vip": "10.112.0.7", "vips": ["10.112.0.7"], "revision": 7,
            "ports": [{"name": "", "port": 80, "target": 8080, "proto": "tcp"}], "selector": {}, "panic": 0, "network": null,
            "expressions": [], "backends": [{"id": "x"}], "allow_hosts": false});
        let subject = Subject::parse("service/web").unwrap();
        let file = Manifest::to_value(&subject, &told);
        let again = Manifest::from_value(file, "f").unwrap();
        assert_eq!(again.subject, subject);
        let ports = json!([{"name": "", "port": 80, "target": 8080, "proto": "tcp"}]);
        assert_eq!(again.body, json!({"vips": ["10.112.0.7"], "ports": ports}));
        let told = json!({"vips": [], "ports": []});
        assert_eq!(Manifest::to_value(&subject, &told), json!({"kind": "Service", "name": "default/web", "headless": true}));
        let told = json!({"vips": [], "external_name": "example.com"});
        assert!(Manifest::to_value(&subject, &told).get("headless").is_none());
    }

    #[test]
    fn an_endpoint_that_is_a_name_only_is_told_apart_from_its_kind() {
        let subject = Subject::parse("endpoint/db/db-1").unwrap();
        let file = Manifest::to_value(&subject, &json!({"kind": "name", "addresses": ["192.0.2.1"]}));
        assert_eq!((&file["kind"], &file["name_only"]), (&json!("Endpoint"), &json!(true)));
        let again = Manifest::from_value(file, "f").unwrap();
        assert_eq!(again.body, json!({"kind": "name", "addresses": ["192.0.2.1"]}));
        let file = Manifest::to_value(&subject, &json!({"kind": "service", "addresses": ["192.0.2.1"]}));
        assert!(file.get("name_only").is_none());
        let wrong = json!({"kind": "Endpoint", "service": "db", "id": "x", "name_only": "yes"});
        assert!(Manifest::from_value(wrong, "f").unwrap_err().contains("name_only"));
    }

    #[test]
    fn names_are_read_as_they_are_printed() {
        for text in ["namespace/prod", "network/blue", "service/default/web", "service/prod/web", "endpoint/prod/db/db-1"] {
            assert_eq!(Subject::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Subject::parse("Service/web").unwrap().to_string(), "service/default/web");
        assert_eq!(Subject::parse("endpoint/db/db-1").unwrap().path(), "/v1/endpoints/default/db/db-1");
        for bad in ["web", "pod/x", "service/", "endpoint/x", "endpoint/a/b/c/d", "service/a b"] {
            assert!(Subject::parse(bad).is_err(), "{bad}");
        }
    }
}
