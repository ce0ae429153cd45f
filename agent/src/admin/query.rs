//! What stands in a request's target: its path and its parameters, both without percent-encoding.

use std::str::FromStr;

use crate::refusal::Refusal;

/// A request's parameters, all of them known to its route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

/// The parameter that may stand there more than once: all of it must hold.
const REPEATED: &str = "label";

impl Query {
    /// Reads what follows the question mark, where `known` are the parameters that there are.
    ///
    /// # Errors
    /// One that is unknown, or stands there twice.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // In a query a plus sign is a blank (WHATWG URL, application/x-www-form-urlencoded); curl writes them so.
            let (name, value) = (unescape(&name.replace('+', " ")), unescape(&value.replace('+', " ")));
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Refusal::invalid(format!("parameter {name:?} is not known here; known: {known}")));
            }
            if name != REPEATED && pairs.iter().any(|(there, _)| *there == name) {
                return Err(Refusal::invalid(format!("parameter {name} stands there twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// A parameter's text, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// The values of a parameter that may stand there more than once.
    ///
    /// # Errors
    /// One that is none of its kind.
    pub fn values<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Vec<T>, Refusal> {
        let parse = |text: &str| text.parse().map_err(|e| Refusal::invalid(format!("parameter {name}: {e}")));
        self.0.iter().filter(|(there, _)| there == name).map(|(_, value)| parse(value)).collect()
    }

    /// A parameter's value, if it is there.
    ///
    /// # Errors
    /// It is none of its kind.
    pub fn value<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let parse = |text: &str| text.parse().map_err(|e| Refusal::invalid(format!("parameter {name}: {e}")));
        self.get(name).map(parse).transpose()
    }

    /// A parameter that is `true` or `false`; not there is false.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Refusal::invalid(format!("parameter {name}: {other:?} is neither true nor false"))),
        }
    }
}

/// Undoes percent-encoding; what is no encoding stays as it is.
pub(super) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).filter(|h| h.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_come_back() {
        assert_eq!(unescape("a%2Fb%20c"), "a/b c");
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%zz%+1"), "%zz%+1");
        let query = Query::parse("name=a%2Eb&type=A&label=x+in+(a)&label=!y", &["name", "type", "label"]).unwrap();
        assert_eq!((query.get("name"), query.get("type")), (Some("a.b"), Some("A")));
        assert_eq!(query.get("label"), Some("x in (a)"));
    }

    #[test]
    fn what_is_not_known_or_not_clear_is_refused_and_the_known_are_named() {
        let why = Query::parse("lable=a", &["label", "limit"]).unwrap_err().message;
        assert!(why.contains("\"lable\"") && why.contains("label, limit"), "{why}");
        assert!(Query::parse("x", &[]).unwrap_err().message.contains("known: none"));
        assert!(Query::parse("limit=1&limit=2", &["limit"]).is_err());
        let query = Query::parse("limit=x&all=yes&dry_run", &["limit", "all", "dry_run"]).unwrap();
        assert!(query.value::<usize>("limit").is_err() && query.flag("all").is_err() && query.flag("dry_run").is_err());
        assert_eq!(Query::parse("", &[]), Ok(Query::default()));
    }
}
