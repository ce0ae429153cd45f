//! What `netctl announce` and `netctl elect` are made of: a registration that is kept alive, and what it is about.
//!
//! ```text
//!   cmd/announce.rs, cmd/elect.rs        the order of things
//!     ├─ heart.rs     says the registration again and again, waits for an agent that is away, withdraws at the end
//!     ├─ keeper.rs    kills a command's group when netctl cannot
//!     ├─ process.rs   a command of netctl's own, or a process that others started
//!     └─ unit.rs      which process a systemd unit is just now
//! ```
//!
//! Nothing here needs root: the agent's socket decides who may register.

pub mod heart;
pub mod keeper;
pub mod process;
pub mod unit;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use weft_model::ids::{EndpointId, MAX_LABEL, ServiceName};

use crate::error::Error;

/// An id that nobody has: the name, and six random digits.
///
/// # Errors
/// When the name gives none.
pub fn make_id(of: &ServiceName) -> Result<EndpointId, Error> {
    // Keyed anew for each process by the kernel's random numbers.
    let random = RandomState::new().build_hasher().finish();
    let name: String = of.name.as_str().chars().take(MAX_LABEL - 7).collect();
    let id = format!("{}-{:06x}", name.trim_end_matches('-'), random & 0x00ff_ffff);
    id.parse().map_err(|e| Error::Usage(format!("{e}; set --id")))
}

/// What tells this process from every other one that uses the same id.
#[must_use]
pub fn make_session() -> String {
    // Keyed anew for each process by the kernel's random numbers.
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// Labels as a map.
///
/// # Errors
/// When one is given twice.
pub fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>, Error> {
    crate::parse::labels(given).map_err(Error::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_labels_and_differ() {
        let long: ServiceName = format!("{}-b", "a".repeat(55)).parse().unwrap();
        for of in [long, "web".parse().unwrap()] {
            let (one, two) = (make_id(&of).unwrap(), make_id(&of).unwrap());
            assert_ne!(one, two);
            assert!(one.as_str().starts_with(&of.name.as_str()[..3]), "{one}");
        }
    }
}
