//! How a service is to choose among its endpoints: what is kept with it, whether this version's datapath does it or not
//! ([`Service::not_applied`](crate::service::Service::not_applied)).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long a client stays with its backend unless the service says otherwise, in seconds (Kubernetes).
pub const AFFINITY_DEFAULT_S: u32 = 10_800;

/// The longest time that a client stays with its backend, in seconds (Kubernetes).
pub const AFFINITY_MAX_S: u32 = 86_400;

/// How one of several backends is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Each is as likely as the others.
    #[default]
    Random,
    /// As likely as the weights of their records say.
    Weighted,
    /// By a table that all hosts make alike, so that a flow keeps its backend whichever host it passes.
    Maglev,
    /// The one with the fewest connections from this host.
    Least,
}

/// What a client is remembered by, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Affinity {
    /// By what.
    pub kind: AffinityKind,
    /// How long after its last connection, in seconds: 1 to [`AFFINITY_MAX_S`].
    #[serde(default = "affinity_default")]
    pub timeout_s: u32,
}

/// What a client is remembered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AffinityKind {
    /// Its address.
    Client,
}

/// Which endpoints are asked before the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// Those of the client's host, then all.
    Node,
    /// Those of the client's zone, then all.
    Zone,
    /// Those of the client's host, and no others.
    Local,
}

fn affinity_default() -> u32 {
    AFFINITY_DEFAULT_S
}

impl Affinity {
    /// Whether it may be kept.
    ///
    /// # Errors
    /// Names the time, and what it may be.
    pub fn check(&self) -> Result<(), String> {
        if (1..=AFFINITY_MAX_S).contains(&self.timeout_s) {
            Ok(())
        } else {
            Err(format!("affinity of {} s: 1 to {AFFINITY_MAX_S} s", self.timeout_s))
        }
    }
}

/// Words in text, as they are in JSON.
macro_rules! words {
    ($type:ident, $what:literal, $($word:literal => $variant:ident),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is no {}: one of {}", $what, [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(Algorithm, "algorithm", "random" => Random, "weighted" => Weighted, "maglev" => Maglev, "least" => Least);
words!(Prefer, "preference", "node" => Node, "zone" => Zone, "local" => Local);
words!(AffinityKind, "affinity", "client" => Client);

impl fmt::Display for Affinity {
    /// `client,10800s`, which parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}s", self.kind, self.timeout_s)
    }
}

impl FromStr for Affinity {
    type Err = String;

    /// `client` or `client,SECONDSs`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, time) = text.split_once(',').map_or((text, None), |(kind, time)| (kind, Some(time)));
        let timeout_s = match time {
            None => AFFINITY_DEFAULT_S,
            Some(time) => time
                .strip_suffix('s')
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| format!("affinity {text:?}: the form is client or client,600s"))?,
        };
        let affinity = Self { kind: kind.parse()?, timeout_s };
        affinity.check()?;
        Ok(affinity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_print_and_parse_as_they_stand_in_json() {
        for algorithm in [Algorithm::Random, Algorithm::Weighted, Algorithm::Maglev, Algorithm::Least] {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
            assert_eq!(serde_json::to_string(&algorithm).unwrap(), format!("\"{algorithm}\""));
        }
        for prefer in [Prefer::Node, Prefer::Zone, Prefer::Local] {
            assert_eq!(prefer.to_string().parse(), Ok(prefer));
            assert_eq!(serde_json::to_string(&prefer).unwrap(), format!("\"{prefer}\""));
        }
        assert_eq!("best".parse::<Algorithm>().unwrap_err(), "\"best\" is no algorithm: one of random, weighted, maglev, least");
    }

    #[test]
    fn affinity_has_a_time_within_bounds() {
        let of = |text: &str| text.parse::<Affinity>();
        assert_eq!(of("client").unwrap().to_string(), "client,10800s");
        assert_eq!(of("client,600s").unwrap(), Affinity { kind: AffinityKind::Client, timeout_s: 600 });
        assert_eq!(serde_json::from_str::<Affinity>(r#"{"kind":"client"}"#).unwrap().timeout_s, AFFINITY_DEFAULT_S);
        for bad in ["", "cookie", "client,", "client,0s", "client,86401s", "client,10m"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
