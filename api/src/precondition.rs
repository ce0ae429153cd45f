//! What must hold of an object for a write to be done: HTTP's conditional requests (RFC 9110 section 13) over revisions.

use std::fmt;

use weft_model::ids::Revision;

/// What a write asks of the object it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: it is created or replaced.
    #[default]
    None,
    /// There is none: `If-None-Match: *`.
    Absent,
    /// It was last changed at this revision: `If-Match: "<revision>"`.
    At(Revision),
}

impl Precondition {
    /// Reads the two headers.
    ///
    /// # Errors
    /// One that asks for what is not done here, or both.
    pub fn from_headers(if_match: Option<&str>, if_none_match: Option<&str>) -> Result<Self, String> {
        match (if_match.map(str::trim), if_none_match.map(str::trim)) {
            (None, None) => Ok(Self::None),
            (None, Some("*")) => Ok(Self::Absent),
            (None, Some(other)) => Err(format!("If-None-Match: {other:?}: only * is understood, which is \"if there is none\"")),
            (Some(text), None) => revision_of(text).map(Self::At).ok_or_else(|| {
                format!("If-Match: {text:?}: one revision in double quotes is understood, as the object's ETag gives it: \"42\"")
            }),
            (Some(_), Some(_)) => Err("If-Match and If-None-Match exclude each other".to_owned()),
        }
    }

    /// The header that says so.
    #[must_use]
    pub fn header(self) -> Option<(&'static str, String)> {
        match self {
            Self::None => None,
            Self::Absent => Some(("if-none-match", "*".to_owned())),
            Self::At(revision) => Some(("if-match", etag(revision))),
        }
    }
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("anything"),
            Self::Absent => f.write_str("none"),
            Self::At(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// An object's `ETag`: the revision at which it was last changed.
#[must_use]
pub fn etag(revision: Revision) -> String {
    format!("\"{revision}\"")
}

/// The revision in an entity tag. A weak one is none: it does not promise that nothing has changed.
fn revision_of(tag: &str) -> Option<Revision> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(Revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_comes_back_from_its_own_header() {
        for condition in [Precondition::None, Precondition::Absent, Precondition::At(Revision(42))] {
            let header = condition.header();
            let of = |name: &str| header.as_ref().filter(|(n, _)| *n == name).map(|(_, value)| value.as_str());
            assert_eq!(Precondition::from_headers(of("if-match"), of("if-none-match")), Ok(condition));
        }
    }

    #[test]
    fn what_would_be_taken_for_another_condition_is_refused() {
        for (if_match, if_none_match) in [
            (Some("*"), None),
            (Some("42"), None),
            (Some("W/\"42\""), None),
            (Some("\"1\", \"2\""), None),
            (Some("\"-1\""), None),
            (Some("\"+1\""), None),
            (Some("\"\""), None),
            (Some("\"99999999999999999999\""), None),
            (None, Some("\"42\"")),
            (Some("\"1\""), Some("*")),
        ] {
            assert!(Precondition::from_headers(if_match, if_none_match).is_err(), "{if_match:?} {if_none_match:?}");
        }
    }
}
