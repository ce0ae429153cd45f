//! The nouns of Weft: what is stored, what makes it valid, and the complete view of it at one revision.
//!
//! Pure: no sockets, files, clocks or tasks; a function that needs the time takes it. Every other crate may point here, and
//! this one points at nothing of ours. Read [`keys`] for the layout in the store, then [`snapshot`].
//!
//! | module | noun | key below |
//! |---|---|---|
//! | [`network`] | flannel's network configuration | `<network-prefix>/config` |
//! | [`subnet`] | a host's subnet, flannel's lease | `<network-prefix>/subnets/` |
//! | [`record`] | a SkyDNS record, with Weft's member | `<dns-prefix>/` |
//! | [`endpoint`] | what can take traffic: one or more records | (derived) |
//! | [`selector`] | which labels are meant | (in a service) |
//! | [`pool`] | which endpoints of several are in use | (derived) |
//! | [`service`] | ports, selector and virtual IP | `<weft-prefix>/services/` |
//! | [`membership`] | which services stand for which endpoints | (derived) |
//! | [`leader`] | who leads a service or a name | `<weft-prefix>/leaders/`, `elections/` |
//! | [`node`] | a host | `<weft-prefix>/nodes/` |
//! | [`cluster`] | settings equal everywhere | `<weft-prefix>/config` |

pub mod attachment;
pub mod check;
pub mod cluster;
pub mod drain;
pub mod endpoint;
pub mod hash;
pub mod ids;
pub mod keys;
pub mod leader;
pub mod mac;
pub mod membership;
pub mod network;
pub mod node;
pub mod passive;
pub mod policy;
pub mod pool;
pub mod publish;
pub mod record;
pub mod registrator;
pub mod reservation;
pub mod selector;
pub mod service;
pub mod snapshot;
pub mod stored;
pub mod subnet;

/// A value in the store that is not what its key says it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct BadValue {
    /// The key, as text; bytes that are not UTF-8 are replaced.
    pub key: String,
    /// What is wrong, with its place.
    pub why: String,
}

/// Reads a JSON object. serde would take an array for a struct as well; a value that is one is no value of ours.
fn parse_object<T: serde::de::DeserializeOwned>(value: &[u8], what: &str) -> Result<T, String> {
    let first = value.iter().find(|b| !b.is_ascii_whitespace());
    if first != Some(&b'{') {
        return Err(format!("{what}: not a JSON object"));
    }
    serde_json::from_slice(value).map_err(|e| format!("{what}: {e}"))
}
