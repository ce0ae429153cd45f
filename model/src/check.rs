//! A check: how an endpoint is asked whether it is well, and how often it must say so.
//!
//! | text | asks |
//! |---|---|
//! | `tcp`, `tcp:9000` | whether the port takes a connection |
//! | `http:/healthz`, `http:8080/healthz`, `https:/` | for a status of 200 to 399, or one that is named |
//! | `grpc`, `grpc:9000`, `grpc:9000/my.Service` | gRPC's health service (`grpc.health.v1`) |
//! | `command:/bin/check arg` | a program, which ends with 0 |
//!
//! Options follow with commas: `http:/healthz,interval=5s,fall=3,status=200-299`. A command's words are all that follows its
//! colon; its options are flags. A check's port is the endpoint's own unless it names one.
//!
//! Certificates are not verified, as kubelet has it: an endpoint is asked by its address, and whether it answers is all that is
//! asked. `https:/,verify,host=web.example` verifies: for the name of `host`, else for the address, against what the host that
//! checks trusts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most bytes of a path, a host, a text to be found, or a word of a command.
pub const MAX_TEXT: usize = 1024;

/// The most words of a command.
pub const MAX_WORDS: usize = 64;

/// How soon a check is made again, at the soonest, in milliseconds.
pub const MIN_INTERVAL_MS: u64 = 100;

/// How soon a check is made again, at the latest, in milliseconds: an hour.
pub const MAX_INTERVAL_MS: u64 = 3_600_000;

/// How long an answer may take at most, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 60_000;

/// The most answers in a row that are ever asked for.
pub const MAX_IN_A_ROW: u32 = 100;

/// How an endpoint is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A connection is made, and closed.
    #[default]
    Tcp,
    /// A GET, in the clear.
    Http,
    /// A GET over TLS.
    Https,
    /// `grpc.health.v1.Health/Check`, in the clear.
    Grpc,
    /// A program in the endpoint's network namespace. Never taken from the store.
    Command,
}

impl CheckKind {
    /// As written in texts and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HealthCheck")]
pub struct Check {
    /// How it is asked.
    #[serde(default)]
    pub kind: CheckKind,
    /// The port; none is the endpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// HTTP: what is asked for; none is `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP: the host that is named; none is the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// HTTPS: whether the certificate is verified, for `host` or else for the address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verify: bool,
    /// HTTP: the statuses that are well, first and last of each range; none are 200 to 399.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<(u16, u16)>,
    /// HTTP: what stands in the first 64 KiB of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// gRPC: the service that is asked for; none is the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The program and its arguments, without a shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How long from the end of one check to the next, milliseconds; a tenth more or less, so that many do not go in step.
    #[serde(default = "two_seconds")]
    pub interval_ms: u64,
    /// How long an answer may take, milliseconds.
    #[serde(default = "two_seconds")]
    pub timeout_ms: u64,
    /// How many in a row must be well until what was down is up again.
    #[serde(default = "two")]
    pub rise: u32,
    /// How many in a row must not be well until it is down.
    #[serde(default = "two")]
    pub fall: u32,
    /// How long after its beginning an endpoint that has never been well counts as starting, milliseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grace_ms: u64,
}

fn two_seconds() -> u64 {
    2000
}

fn two() -> u32 {
    2
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Check {
    fn default() -> Self {
        Self {
            kind: CheckKind::Tcp,
            port: None,
            path: None,
            host: None,
            verify: false,
            status: Vec::new(),
            body: None,
            service: None,
            command: Vec::new(),
            interval_ms: two_seconds(),
            timeout_ms: two_seconds(),
            rise: two(),
            fall: two(),
            grace_ms: 0,
        }
    }
}

impl Check {
    /// Whether it may be made, as far as it can be said of it alone.
    ///
    /// # Errors
    /// Names what cannot be, and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        if self.port == Some(0) {
            return Err("check: port 0 is no port".to_owned());
        }
        let texts = [("path", &self.path), ("host", &self.host), ("body", &self.body), ("service", &self.service)];
        for (what, text) in texts.into_iter().filter_map(|(what, text)| Some((what, text.as_ref()?))) {
            let plain = what == "body" || text.chars().all(|c| c.is_ascii_graphic());
            if text.is_empty() || text.len() > MAX_TEXT || !plain || text.chars().any(char::is_control) {
                return Err(format!("check: {what}: 1 to {MAX_TEXT} bytes of text without spaces"));
            }
        }
        if self.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err("check: a path begins with /".to_owned());
        }
        if let Some((first, last)) = self.status.iter().find(|(first, last)| *first < 100 || last < first || *last > 599) {
            return Err(format!("check: status {first}-{last}: 100 to 599, the lower first"));
        }
        if self.status.len() > MAX_WORDS {
            return Err(format!("check: {} ranges of statuses: at most {MAX_WORDS}", self.status.len()));
        }
        if self.verify && self.kind != CheckKind::Https {
            return Err(format!("check: {} has no certificate to verify; https has", self.kind));
        }
        match (self.kind, self.command.first()) {
            (CheckKind::Command, None) => return Err("check: a command is missing: command:/path/of/it".to_owned()),
            (CheckKind::Command, Some(program)) if !program.starts_with('/') => {
                return Err(format!("check: {program:?}: a command is named by its whole path"));
            }
            (CheckKind::Command, Some(_)) => {}
            (kind, Some(_)) => return Err(format!("check: {kind} has no command")),
            (_, None) => {}
        }
        if self.command.len() > MAX_WORDS || self.command.iter().any(|word| word.len() > MAX_TEXT || word.contains('\0')) {
            return Err(format!("check: a command has at most {MAX_WORDS} words of {MAX_TEXT} bytes"));
        }
        if !(MIN_INTERVAL_MS..=MAX_INTERVAL_MS).contains(&self.interval_ms) {
            return Err("check: interval: 100ms to 1h".to_owned());
        }
        if !(1..=MAX_TIMEOUT_MS).contains(&self.timeout_ms) {
            return Err("check: timeout: 1ms to 1m".to_owned());
        }
        if self.grace_ms > MAX_INTERVAL_MS {
            return Err("check: grace: at most 1h".to_owned());
        }
        if !(1..=MAX_IN_A_ROW).contains(&self.rise) || !(1..=MAX_IN_A_ROW).contains(&self.fall) {
            return Err(format!("check: rise and fall: 1 to {MAX_IN_A_ROW}"));
        }
        Ok(())
    }

    /// Whether it may stand in the store, where others write too: no commands.
    ///
    /// # Errors
    /// As [`Check::validate`].
    pub fn validate_stored(&self) -> Result<(), String> {
        if self.kind == CheckKind::Command {
            return Err("check: a command is no check of a service: what runs on a host is said on that host".to_owned());
        }
        self.validate()
    }

    /// The port that is asked if the endpoint itself has `own`; none is needed for a command.
    #[must_use]
    pub fn port_of(&self, own: Option<u16>) -> Option<u16> {
        let usual = match self.kind {
            CheckKind::Http => Some(80),
            CheckKind::Https => Some(443),
            CheckKind::Tcp | CheckKind::Grpc | CheckKind::Command => None,
        };
        self.port.or(own).or(usual)
    }

    /// Whether an HTTP status is well.
    #[must_use]
    pub fn accepts(&self, status: u16) -> bool {
        let within = |(first, last): &(u16, u16)| (*first..=*last).contains(&status);
        if self.status.is_empty() { within(&(200, 399)) } else { self.status.iter().any(within) }
    }

    /// How long an answer may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// How long from one check to the next.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// Sets one option by its name, as it stands behind a comma.
    ///
    /// # Errors
    /// Names what is no option, or no value of it.
    pub fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u32>().map_err(|_| format!("{option}={value}: {value:?} is no number"));
        match option {
            "interval" => self.interval_ms = milliseconds(value)?,
            "timeout" => self.timeout_ms = milliseconds(value)?,
            "grace" => self.grace_ms = milliseconds(value)?,
            "rise" => self.rise = number()?,
            "fall" => self.fall = number()?,
            "host" => self.host = Some(value.to_owned()),
            "body" => self.body = Some(value.to_owned()),
            "status" => self.status = statuses(value)?,
            "verify" => {
                self.verify = value.parse().map_err(|_| format!("verify={value}: {value:?} is neither true nor false"))?;
            }
            _ => {
                return Err(format!(
                    "{option:?} is no option of a check: interval, timeout, rise, fall, grace, host, status, body, verify"
                ));
            }
        }
        Ok(())
    }
}

/// `200-299+404`.
fn statuses(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let bad = || format!("{text:?} is no list of statuses: the form is 200, 200-299 or 200-299+404");
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split('+').map(|part| one(part).ok_or_else(bad)).collect()
}

/// `500ms`, `5s`, `2m`, `1h`; a number alone is seconds.
///
/// # Errors
/// Names the text, and the form.
pub fn milliseconds(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => Some(1),
        "s" | "" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let made = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    made.ok_or_else(|| format!("{text:?} is no time: the form is 500ms, 5s, 2m"))
}

/// A time as [`milliseconds`] reads it, in the largest unit that fits.
pub(crate) fn spelled(ms: u64) -> String {
    match ms {
        _ if ms.is_multiple_of(3_600_000) && ms > 0 => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) && ms > 0 => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

impl FromStr for Check {
    type Err = String;

    /// See the module's text.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        if kind == "command" {
            let command = rest.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
            let check = Self { kind: CheckKind::Command, command, ..Self::default() };
            return check.validate().map(|()| check);
        }
        let (place, mut options) = match rest {
            Some(rest) => {
                let mut parts = rest.split(',');
                (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>())
            }
            None => ("", Vec::new()),
        };
        let (kind, more) = kind.split_once(',').map_or((kind, None), |(kind, more)| (kind, Some(more)));
        options.extend(more.into_iter().flat_map(|more| more.split(',')));
        let kind = match kind {
            "tcp" => CheckKind::Tcp,
            "http" => CheckKind::Http,
            "https" => CheckKind::Https,
            "grpc" => CheckKind::Grpc,
            _ => return Err(format!("{kind:?} is no check: tcp, http:/PATH, https:/PATH, grpc or command:/PROGRAM ARGUMENTS")),
        };
        let mut check = Self { kind, ..Self::default() };
        let (port, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
        if !port.is_empty() {
            let number = port.parse::<u16>().ok().filter(|port| *port != 0);
            check.port = Some(number.ok_or_else(|| format!("{port:?} is no port number (1 to 65535)"))?);
        }
        match kind {
            _ if path.is_empty() => {}
            CheckKind::Http | CheckKind::Https => check.path = Some(path.to_owned()),
            CheckKind::Grpc if path.len() > 1 => check.service = path.get(1..).map(str::to_owned),
            _ => return Err(format!("{path:?}: a check of {kind} has no path")),
        }
        for option in options {
            let (name, value) = match option {
                "verify" => ("verify", "true"),
                _ => option.split_once('=').ok_or_else(|| format!("{option:?}: an option is NAME=VALUE"))?,
            };
            check.set(name, value)?;
        }
        check.validate().map(|()| check)
    }
}

impl fmt::Display for Check {
    /// What [`Check::from_str`] reads; of a command, its options are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == CheckKind::Command {
            return write!(f, "command:{}", self.command.join(" "));
        }
        write!(f, "{}", self.kind)?;
        let path = match (&self.path, &self.service) {
            (Some(path), _) => path.clone(),
            (None, Some(service)) => format!("/{service}"),
            (None, None) => String::new(),
        };
        if self.port.is_some() || !path.is_empty() {
            write!(f, ":{}{path}", self.port.map(|port| port.to_string()).unwrap_or_default())?;
        }
        let usual = Self::default();
        for (name, now, then) in [
            ("interval", self.interval_ms, usual.interval_ms),
            ("timeout", self.timeout_ms, usual.timeout_ms),
            ("grace", self.grace_ms, usual.grace_ms),
        ] {
            if now != then {
                write!(f, ",{name}={}", spelled(now))?;
            }
        }
        for (name, now, then) in [("rise", self.rise, usual.rise), ("fall", self.fall, usual.fall)] {
            if now != then {
                write!(f, ",{name}={now}")?;
            }
        }
        if !self.status.is_empty() {
            let ranges = self.status.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>();
            write!(f, ",status={}", ranges.join("+"))?;
        }
        if self.verify {
            f.write_str(",verify")?;
        }
        for (name, text) in [("host", &self.host), ("body", &self.body)] {
            if let Some(text) = text {
                write!(f, ",{name}={text}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_type_is_read_and_written_alike() {
        for text in [
            "tcp",
            "tcp:9000",
            "http:/healthz",
            "http:8080/healthz?x=1,interval=5s,timeout=500ms,grace=1m,rise=1,fall=3,status=200-299+404-404,host=web.example,body=fine",
            "https:/",
            "https:8443/x,verify,host=web.example",
            "grpc",
            "grpc:9000/my.Service,interval=1h",
            "grpc:/my.Service",
            "command:/bin/check -x y",
        ] {
            let check: Check = text.parse().unwrap();
            assert_eq!(check.to_string(), text);
            let json = serde_json::to_string(&check).unwrap();
            assert_eq!(serde_json::from_str::<Check>(&json).unwrap(), check, "{json}");
        }
        assert_eq!("tcp,interval=7".parse::<Check>().unwrap().interval_ms, 7000);
        assert_eq!(serde_json::from_str::<Check>("{}").unwrap(), Check::default());
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (text, why) in [
            ("", "is no check"),
            ("ping", "is no check"),
            ("tcp:0", "is no port number"),
            ("tcp:80/x", "has no path"),
            ("http:/x,intervall=5s", "is no option"),
            ("http:/x,interval", "NAME=VALUE"),
            ("http:/x,interval=5 s", "is no time"),
            ("http:/x,interval=1ms", "100ms to 1h"),
            ("http:/x,interval=99999999999999999999h", "is no time"),
            ("http:/x,timeout=2m", "1ms to 1m"),
            ("http:/x,rise=0", "rise and fall"),
            ("http:/x,fall=1000", "rise and fall"),
            ("http:/x,status=99", "100 to 599"),
            ("http:/x,status=300-200", "100 to 599"),
            ("http:/x,status=ok", "is no list of statuses"),
            ("http:/a b", "path"),
            ("http:/x,verify", "no certificate"),
            ("https:/x,verify=maybe", "neither true nor false"),
            ("command:", "a command is missing"),
            ("command:check", "by its whole path"),
        ] {
            let said = text.parse::<Check>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!("command:/bin/true".parse::<Check>().unwrap().validate_stored().unwrap_err().contains("said on that host"));
    }

    #[test]
    fn ports_and_statuses_have_their_usual_values() {
        let check = |text: &str| text.parse::<Check>().unwrap();
        assert_eq!(check("http:/").port_of(None), Some(80));
        assert_eq!((check("https").port_of(Some(8443)), check("tcp:1").port_of(Some(2))), (Some(8443), Some(1)));
        assert_eq!(check("tcp").port_of(None), None);
        let of = |text: &str, status: u16| check(text).accepts(status);
        assert!(of("http", 200) && of("http", 399) && !of("http", 400) && !of("http", 199));
        assert!(of("http:/,status=404", 404) && !of("http:/,status=404", 200));
    }

    proptest! {
        #[test]
        fn no_text_is_read_that_is_not_valid(text in "(tcp|http|https|grpc|command|x)[:/,=a-z0-9 .+-]{0,40}") {
            if let Ok(check) = text.parse::<Check>() {
                prop_assert_eq!(check.validate(), Ok(()));
                if check.kind != CheckKind::Command {
                    prop_assert_eq!(check.to_string().parse::<Check>(), Ok(check));
                }
            }
        }
    }
}
