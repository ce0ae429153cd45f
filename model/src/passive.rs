//! Passive marking: when connections to a backend fail again and again, the host that saw it asks others first for a while.
//!
//! This is one host's own experience, kept by its agent and told to nobody; the store holds the wish alone, in the service
//! (`"passive": {"failures": 5, "within_ms": 10000, "for_ms": 30000}`). What being quarantined means is [`pool`](crate::pool)'s.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{milliseconds, spelled};

/// The most failures that are ever waited for.
pub const MAX_FAILURES: u32 = 100;

/// The longest time of either kind, in milliseconds: an hour.
pub const MAX_MS: u64 = 3_600_000;

/// The shortest time of either kind, in milliseconds.
pub const MIN_MS: u64 = 100;

/// When a backend is quarantined, and for how long. A connection that succeeds makes the count begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Passive")]
pub struct Passive {
    /// After how many failed connections with none in between that succeeded: 1 to 100.
    #[serde(default = "failures")]
    #[schemars(range(min = 1, max = MAX_FAILURES))]
    pub failures: u32,
    /// How old the first of them may be, milliseconds: 100 to 3,600,000.
    #[serde(default = "within_ms")]
    #[schemars(range(min = MIN_MS, max = MAX_MS))]
    pub within_ms: u64,
    /// How long others are asked first, milliseconds: 100 to 3,600,000.
    #[serde(default = "for_ms")]
    #[schemars(range(min = MIN_MS, max = MAX_MS))]
    pub for_ms: u64,
}

fn failures() -> u32 {
    5
}

fn within_ms() -> u64 {
    10_000
}

fn for_ms() -> u64 {
    30_000
}

impl Default for Passive {
    fn default() -> Self {
        Self { failures: failures(), within_ms: within_ms(), for_ms: for_ms() }
    }
}

impl Passive {
    /// Whether it may be kept.
    ///
    /// # Errors
    /// Names the number, and what it may be.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_FAILURES).contains(&self.failures) {
            return Err(format!("passive: {} failures: 1 to {MAX_FAILURES}", self.failures));
        }
        for (name, ms) in [("within", self.within_ms), ("for", self.for_ms)] {
            if !(MIN_MS..=MAX_MS).contains(&ms) {
                return Err(format!("passive: {name} {}: 100ms to 1h", spelled(ms)));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Passive {
    /// `failures=5,within=10s,for=30s`, which parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failures={},within={},for={}", self.failures, spelled(self.within_ms), spelled(self.for_ms))
    }
}

impl FromStr for Passive {
    type Err = String;

    /// Parts of `failures=5,within=10s,for=30s`; those that are left out are as here.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut passive = Self::default();
        for part in text.split(',') {
            let form = || format!("passive {text:?}: the form is failures=5,within=10s,for=30s");
            let (name, value) = part.split_once('=').ok_or_else(form)?;
            match name {
                "failures" => passive.failures = value.parse().map_err(|_| form())?,
                "within" => passive.within_ms = milliseconds(value)?,
                "for" => passive.for_ms = milliseconds(value)?,
                _ => return Err(form()),
            }
        }
        passive.check()?;
        Ok(passive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_back_and_what_is_left_out_is_as_usual() {
        let of = |text: &str| text.parse::<Passive>();
        assert_eq!(of("failures=5,within=10s,for=30s"), Ok(Passive::default()));
        assert_eq!(Passive::default().to_string(), "failures=5,within=10s,for=30s");
        let odd = of("for=1500ms,failures=3,within=2m").unwrap();
        assert_eq!(odd, Passive { failures: 3, within_ms: 120_000, for_ms: 1500 });
        assert_eq!(odd.to_string(), "failures=3,within=2m,for=1500ms");
        assert_eq!(odd.to_string().parse(), Ok(odd));
        assert_eq!(of("failures=1").unwrap(), Passive { failures: 1, ..Passive::default() });
        assert_eq!(serde_json::from_str::<Passive>("{}").unwrap(), Passive::default());
        assert_eq!(serde_json::to_string(&odd).unwrap(), r#"{"failures":3,"within_ms":120000,"for_ms":1500}"#);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_form_or_the_bounds() {
        for (text, why) in [
            ("", "the form is"),
            ("5", "the form is"),
            ("failures=x", "the form is"),
            ("failures=0", "1 to 100"),
            ("failures=101", "1 to 100"),
            ("within=99ms", "100ms to 1h"),
            ("for=2h", "100ms to 1h"),
            ("for=soon", "is no time"),
            ("since=1s", "the form is"),
        ] {
            let said = text.parse::<Passive>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
