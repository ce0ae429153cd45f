//! Names and numbers that can only hold valid values.
//!
//! Everything here parses (`FromStr`), prints (`Display`) and travels as a JSON string or number. A value of these types
//! needs no second check; text from outside becomes one of them or a [`BadId`] that names it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A position in the store's history: etcd's revision, or the embedded store's own. Greater is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision right after this one; the last one that can be said has none but itself, and nobody gets as far.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease of the store (etcd's lease id). Keys bound to it vanish together, in one revision, when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    /// Hexadecimal, as `etcdctl lease list` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Text that is not what it was given as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?}: {why}")]
pub struct BadId {
    what: &'static str,
    given: String,
    why: &'static str,
}

/// The longest DNS label, in bytes (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// The same for schemas (ECMA 262), where some words that are reserved fit, too.
const LABEL_PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// Why `text` is no DNS label as we write them, or `None` if it is one: 1 to 63 of `a-z0-9-`, no hyphen at either end.
fn label_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("is empty");
    }
    if text.len() > MAX_LABEL {
        return Some("is longer than 63 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Some("may hold only a-z, 0-9 and '-'");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Some("may not begin or end with '-'");
    }
    None
}

/// Turns any text into a DNS label: lower case, everything else becomes `-`, cut to `max` bytes. May return an empty string.
#[must_use]
pub fn sanitise_label(text: &str, max: usize) -> String {
    let mut label = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = c.to_ascii_lowercase();
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if c == '-' && (label.is_empty() || label.ends_with('-')) {
            continue;
        }
        if label.len() == max.min(MAX_LABEL) {
            break;
        }
        label.push(c);
    }
    while label.ends_with('-') {
        label.pop();
    }
    label
}

/// Whether `name` can be a device's name: 1 to 15 bytes, no slash, colon or white space, not one that the kernel keeps for
/// itself (`dev_valid_name`).
///
/// # Errors
/// Why not.
pub fn check_ifname(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 15 {
        Err("must have 1 to 15 bytes")
    } else if name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control()) {
        Err("may not hold '/', ':' or white space")
    } else if matches!(name, "." | ".." | "lo" | "all" | "default") {
        Err("is a name that the kernel keeps for itself")
    } else {
        Ok(())
    }
}

macro_rules! label_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $pattern:expr, $fault:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(extend("pattern" = $pattern))]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let fault: fn(&str) -> Option<&'static str> = $fault;
                match fault(text) {
                    None => Ok(Self(text.to_owned())),
                    Some(why) => Err(BadId { what: $what, given: text.to_owned(), why }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

label_type! {
    /// The id of an endpoint: a DNS label, unique below its service (`<id>.<service>.<domain>` is its own name).
    EndpointId, "endpoint id", LABEL_PATTERN, label_fault
}

label_type! {
    /// A namespace of services: a DNS label. `default` has no label in DNS names.
    Namespace, "namespace", LABEL_PATTERN, label_fault
}

impl Namespace {
    /// The namespace whose names carry no namespace label.
    #[must_use]
    pub fn default_namespace() -> Self {
        Self("default".into())
    }

    /// Whether this is the namespace without a label of its own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == "default"
    }
}

label_type! {
    /// A service's (or plain name's) own label, within its namespace.
    ServiceLabel, "service name", LABEL_PATTERN, |text| match text {
        "tasks" | "dns" => Some("is reserved"),
        _ => label_fault(text),
    }
}

label_type! {
    /// A network by name, `default` being the one of `--network-prefix`.
    NetworkName, "network name", LABEL_PATTERN, label_fault
}

impl NetworkName {
    /// The network of `--network-prefix`.
    #[must_use]
    pub fn default_network() -> Self {
        Self("default".into())
    }

    /// Whether this is the network of `--network-prefix`.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == "default"
    }
}

label_type! {
    /// A host, by `--node-name`: 1 to 253 of `A-Za-z0-9._-`, so that a host name fits.
    NodeName, "node name", "^[A-Za-z0-9._-]{1,253}$", |text| {
        if text.is_empty() {
            Some("is empty")
        } else if text.len() > 253 {
            Some("is longer than 253 bytes")
        } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            Some("may hold only letters, digits, '.', '_' and '-'")
        } else {
            None
        }
    }
}

/// A service by namespace and name. Prints as `namespace/name`; parses that, or `name` alone for the default namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its label there.
    pub name: ServiceLabel,
}

impl FromStr for ServiceName {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (namespace.parse()?, name),
            None => (Namespace::default_namespace(), text),
        };
        Ok(Self { namespace, name: name.parse()? })
    }
}

impl TryFrom<String> for ServiceName {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_without_namespace_is_in_the_default_one() {
        let name: ServiceName = "myapp".parse().unwrap();
        assert_eq!(name.to_string(), "default/myapp");
        assert_eq!("prod/myapp".parse::<ServiceName>().unwrap().namespace.as_str(), "prod");
    }

    #[test]
    fn a_revision_that_callers_made_up_has_a_next_one_all_the_same() {
        assert_eq!((Revision(1).next(), Revision(i64::MAX).next()), (Revision(2), Revision(i64::MAX)));
    }

    #[test]
    fn reserved_and_malformed_service_names_are_refused_by_name() {
        for bad in ["tasks", "dns", "_http", "", "-a", "a-", "A", "a.b", "x/y/z"] {
            let err = bad.parse::<ServiceName>().unwrap_err().to_string();
            assert!(err.contains("name") || err.contains("namespace"), "{bad}: {err}");
        }
    }

    #[test]
    fn device_names_are_the_kernels() {
        for bad in ["", "a/b", "a b", "..", "lo", "sixteen-bytes-xx", "a:1"] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
        assert!(check_ifname("eth0").is_ok());
    }

    #[test]
    fn sanitising_gives_a_label_or_nothing() {
        assert_eq!(sanitise_label("My_App..1", 63), "my-app-1");
        assert_eq!(sanitise_label("--", 63), "");
        let long = sanitise_label(&"x".repeat(100), 56);
        assert_eq!(long.len(), 56);
        assert!(long.parse::<EndpointId>().is_ok());
    }
}
