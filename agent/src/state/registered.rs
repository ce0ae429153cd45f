//! The file of registrations, and its copy in the run directory.
//!
//! Both say the same once an agent has started, so that either is enough when the other is lost or damaged.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tracing::warn;

use super::{StateDir, StateError, write};
use crate::registrations::Registration;
use crate::view::chain;

/// The name of both.
const NAME: &str = "registrations.json";

impl StateDir {
    /// What programs had registered. A damaged file keeps no agent from starting: it is moved aside, and what can be read of it
    /// counts, with what its copy has beside that. The rest is said again by whoever still means it.
    ///
    /// # Errors
    /// The file cannot be read at all.
    pub fn registrations(&self) -> Result<Vec<Registration>, StateError> {
        let (path, copy) = (self.path.join(NAME), self.run_dir.join(NAME));
        let copied = bytes(&copy);
        let Some(there) = bytes(&path)? else {
            let Some(copied) = copied? else { return Ok(Vec::new()) };
            let (found, damage) = readable(&copied);
            if let Some(damage) = damage {
                warn!(file = %copy.display(), error = %damage, kept = found.len(), "the registrations are read from their copy, which is damaged; what it no longer says has to be registered again");
            }
            self.write_both(&found);
            return Ok(found);
        };
        let (mut found, damage) = readable(&there);
        if let Some(damage) = damage {
            let known: BTreeSet<String> = found.iter().map(|r| r.id.to_string()).collect();
            let (copied, _) = copied.ok().flatten().as_deref().map(readable).unwrap_or_default();
            let missing: Vec<Registration> = copied.into_iter().filter(|r| !known.contains(r.id.as_str())).collect();
            let aside = self.path.join("registrations.json.damaged");
            warn!(
                file = %path.display(), aside = %aside.display(), error = %damage, kept = found.len(), copied = missing.len(),
                "the file of registrations is damaged: moved aside; what neither it nor its copy says has to be registered again"
            );
            found.extend(missing);
            if let Err(source) = std::fs::rename(&path, &aside) {
                warn!(
                    error = chain(&StateError::Io { op: "move aside", path, source }),
                    "registrations not written; the next one that changes writes them"
                );
                return Ok(found);
            }
            self.write_both(&found);
        } else if copied.ok().flatten().is_none_or(|copied| copied != there) {
            // It was lost, or is older than the last change.
            self.write_copy(&found);
        }
        Ok(found)
    }

    /// Remembers what programs have registered. What the host loses that loses its power is said again, or over.
    ///
    /// # Errors
    /// The file cannot be written; then the one of before is there.
    pub fn write_registrations(&self, registrations: &[Registration]) -> Result<(), StateError> {
        write(&self.path.join(NAME), &registrations, false)?;
        self.write_copy(registrations);
        Ok(())
    }

    /// The same, at a time when nobody waits for it.
    fn write_both(&self, registrations: &[Registration]) {
        if let Err(e) = self.write_registrations(registrations) {
            warn!(error = chain(&e), "registrations not written; the next one that changes writes them");
        }
    }

    fn write_copy(&self, registrations: &[Registration]) {
        let copy = self.run_dir.join(NAME);
        if copy != self.path.join(NAME)
            && let Err(e) = write(&copy, &registrations, false)
        {
            // Better none than an old one.
            warn!(error = chain(&e), "no copy of the registrations; they are lost if the state directory is");
            let _ = std::fs::remove_file(&copy);
        }
    }
}

/// What a file holds; none if there is none.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io { op: "read", path: path.to_owned(), source }),
    }
}

/// The registrations that can be read, and what is wrong with the rest.
fn readable(bytes: &[u8]) -> (Vec<Registration>, Option<serde_json::Error>) {
    let (rows, mut damage) = rows(bytes);
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        match serde_json::from_value(row) {
            Ok(registration) => found.push(registration),
            Err(e) => damage = Some(e),
        }
    }
    (found, damage)
}

/// The rows of a JSON array, as far as they can be told apart, and what keeps the rest from it.
fn rows(bytes: &[u8]) -> (Vec<Value>, Option<serde_json::Error>) {
    let damage = match serde_json::from_slice(bytes) {
        Ok(rows) => return (rows, None),
        Err(e) => e,
    };
    let mut rows = Vec::new();
    let mut rest = bytes.trim_ascii_start().strip_prefix(b"[");
    while let Some(left) = rest {
        let mut values = serde_json::Deserializer::from_slice(left).into_iter();
        let Some(Ok(row)) = values.next() else { break };
        rows.push(row);
        rest = left.get(values.byte_offset()..).and_then(|left| left.trim_ascii_start().strip_prefix(b","));
    }
    (rows, Some(damage))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn damaged_registrations_are_moved_aside_and_what_can_be_read_of_them_counts() {
        let row = |id: &str, more: &str| {
            format!(r#"{{"id":"{id}","said":{{"service":"web","ttl_ms":9000,"addresses":["192.0.2.1"]{more}}},"born":5}}"#)
        };
        let (a, b) = (row("a", ""), row("b", r#","candidate":"muses""#));
        let later = row("a", r#","colour":"blue""#).replacen("{", r#"{"weather":{"rain":1},"#, 1);
        for (text, ids, is_damaged) in [
            (format!("[{later}]"), "a", false),
            (format!("[{b}, {a}]"), "a", true),
            (format!("[{a},\n{}", &b[..20]), "a", true),
            (format!("[{a}"), "a", true),
            (format!(r#"{{"rows":[{a}]}}"#), "", true),
            ("\0\0\0\0".to_owned(), "", true),
            (String::new(), "", true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDir::open(dir.path(), &dir.path().join("run")).unwrap();
            std::fs::write(dir.path().join("registrations.json"), &text).unwrap();
            let found = || state.registrations().unwrap().iter().map(|r| r.id.to_string()).collect::<String>();
            assert_eq!(found(), ids, "{text}");
            let aside = std::fs::read_to_string(dir.path().join("registrations.json.damaged")).ok();
            assert_eq!(aside, is_damaged.then_some(text.clone()), "{text}");
            assert_eq!(found(), ids, "what counted is written again: {text}");
        }
    }

    #[test]
    fn registrations_outlive_their_file_until_the_next_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (path, run) = (dir.path().join("state"), dir.path().join("run"));
        let row =
            r#"{"id":"a","said":{"service":"web","ttl_ms":9000,"labels":{"tier":"front"},"addresses":["192.0.2.1"]},"born":5}"#;
        let one: Registration = serde_json::from_str(row).unwrap();
        let state = StateDir::open(&path, &run).unwrap();
        state.write_registrations(std::slice::from_ref(&one)).unwrap();
        drop(state);
        std::fs::remove_dir_all(&path).unwrap();
        let state = StateDir::open(&path, &run).unwrap();
        assert_eq!(state.registrations().unwrap(), [one]);
        state.write_registrations(&[]).unwrap();
        std::fs::remove_file(path.join("registrations.json")).unwrap();
        assert_eq!(state.registrations().unwrap(), [], "what was withdrawn does not come back");
    }

    #[test]
    fn what_a_damaged_file_has_lost_is_in_the_copy_of_whoever_has_only_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, run) = (dir.path().join("state"), dir.path().join("run"));
        let row = |id: &str, born: u8| format!(r#"{{"id":"{id}","said":{{"service":"web","ttl_ms":9000}},"born":{born}}}"#);
        let state = StateDir::open(&path, &run).unwrap();
        let found = || state.registrations().unwrap().iter().map(|r| format!("{}{} ", r.id, r.born)).collect::<String>();
        std::fs::write(path.join(NAME), format!("[{},{}]", row("a", 1), row("b", 2))).unwrap();
        assert_eq!(found(), "a1 b2 ");
        // As an earlier version made it.
        std::fs::set_permissions(run.join(NAME), std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(path.join("registrations.new"), "").unwrap();
        std::fs::write(path.join(NAME), format!("[{},{}", row("a", 3), &row("b", 4)[..20])).unwrap();
        assert_eq!(found(), "a3 b2 ", "what can be read is newer");
        std::fs::remove_file(path.join(NAME)).unwrap();
        assert_eq!(found(), "a3 b2 ");
        for file in [path.join(NAME), run.join(NAME)] {
            assert_eq!(bytes(&file).unwrap(), bytes(&run.join(NAME)).unwrap(), "{}", file.display());
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        }
    }
}
