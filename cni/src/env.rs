//! The `CNI_…` environment: which verb, which container, which interface, and `CNI_ARGS`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use weft_model::ids::check_ifname;

use crate::error::{ENVIRONMENT, Fault};

/// Looks a variable up. The process's own, or a test's.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Take back.
    Del,
    /// Is all there still?
    Check,
    /// Can containers be added?
    Status,
    /// Take back all but those named.
    Gc,
    /// Which versions are spoken?
    Version,
}

/// The longest container id that is taken, bytes. Runtimes use up to 64 digits, `ctr` puts a namespace before its own.
const MAX_ID: usize = 512;

/// The environment of one call. What a verb does not need is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; empty at a `DEL` of a container whose namespace is gone.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
}

/// The verb, or why there is none.
///
/// # Errors
/// `CNI_COMMAND` is missing or unknown.
pub fn verb(lookup: Lookup<'_>) -> Result<Verb, Fault> {
    match text(lookup, "CNI_COMMAND")?.as_str() {
        "ADD" => Ok(Verb::Add),
        "DEL" => Ok(Verb::Del),
        "CHECK" => Ok(Verb::Check),
        "STATUS" => Ok(Verb::Status),
        "GC" => Ok(Verb::Gc),
        "VERSION" => Ok(Verb::Version),
        "" => Err(missing(&["CNI_COMMAND"])),
        other => Err(bad("CNI_COMMAND", other, "is none of ADD, DEL, CHECK, STATUS, GC and VERSION")),
    }
}

/// The environment as far as the verb needs it.
///
/// # Errors
/// Names every variable that is missing, or the first that makes no sense.
pub fn read(verb: Verb, lookup: Lookup<'_>) -> Result<Environment, Fault> {
    if matches!(verb, Verb::Status | Verb::Gc | Verb::Version) {
        // The specification gives them none of the others, and what comes along is not theirs.
        return Ok(Environment::default());
    }
    let container = text(lookup, "CNI_CONTAINERID")?;
    let netns = text(lookup, "CNI_NETNS")?;
    let ifname = text(lookup, "CNI_IFNAME")?;
    let needed = [("CNI_CONTAINERID", container.is_empty()), ("CNI_IFNAME", ifname.is_empty())];
    let netns_needed = ("CNI_NETNS", netns.is_empty() && verb != Verb::Del);
    let absent: Vec<_> = needed.into_iter().chain([netns_needed]).filter(|(_, absent)| *absent).map(|(name, _)| name).collect();
    if !absent.is_empty() {
        return Err(missing(&absent));
    }
    check_id(&container).map_err(|why| bad("CNI_CONTAINERID", &container, why))?;
    check_ifname(&ifname).map_err(|why| bad("CNI_IFNAME", &ifname, why))?;
    let args = match verb {
        // Whatever they are, a container that is to go must go.
        Verb::Del => BTreeMap::new(),
        _ => pairs(&text(lookup, "CNI_ARGS")?)?,
    };
    Ok(Environment { container, netns, ifname, args })
}

/// Ids and network names: a letter or digit, then letters, digits, `.`, `_` and `-` (specification, "Parameters").
///
/// # Errors
/// What is wrong with it.
pub fn check_id(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_ID {
        Err("is longer than 512 bytes")
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Err("must begin with a letter or digit")
    } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        Err("may hold only letters, digits, '.', '_' and '-'")
    } else {
        Ok(())
    }
}

/// `K=V;K=V`. What nobody knows is let be, whatever `IgnoreUnknown` says: an argument for a plugin behind us is no fault.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, Fault> {
    let mut args = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| bad("CNI_ARGS", text, "must be KEY=VALUE;KEY=VALUE"))?;
        args.insert(key.trim().to_owned(), value.to_owned());
    }
    Ok(args)
}

fn text(lookup: Lookup<'_>, name: &str) -> Result<String, Fault> {
    match lookup(name).unwrap_or_default().into_string() {
        Ok(text) => Ok(text),
        Err(bytes) => Err(bad(name, &bytes.to_string_lossy(), "is no UTF-8")),
    }
}

fn missing(names: &[&str]) -> Fault {
    Fault::new(ENVIRONMENT, format!("missing in the environment: {}", names.join(", ")))
}

fn bad(name: &str, value: &str, why: &str) -> Fault {
    let shown: String = value.chars().take(80).collect();
    Fault::new(ENVIRONMENT, format!("{name} {shown:?} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verb: Verb, vars: &[(&str, &str)]) -> Result<Environment, Fault> {
        let vars: BTreeMap<String, OsString> = vars.iter().map(|(k, v)| ((*k).to_owned(), v.into())).collect();
        read(verb, &|name| vars.get(name).cloned())
    }

    const ALL: [(&str, &str); 3] = [("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/run/netns/x"), ("CNI_IFNAME", "eth0")];

    #[test]
    fn a_verb_gets_what_it_needs() {
        let env =
            of(Verb::Add, &[&ALL[..], &[("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web; IP=10.1.2.3 ;x=a=b")]].concat()).unwrap();
        assert_eq!((env.container.as_str(), env.netns.as_str(), env.ifname.as_str()), ("c1", "/run/netns/x", "eth0"));
        assert_eq!(env.args["K8S_POD_NAME"], "web");
        assert_eq!(env.args["x"], "a=b");
        assert!(of(Verb::Del, &[ALL[0], ALL[2], ("CNI_ARGS", "rubbish")]).is_ok(), "a namespace that is gone has no path");
        for verb in [Verb::Status, Verb::Gc, Verb::Version] {
            assert_eq!(of(verb, &[("CNI_IFNAME", "a/b")]).unwrap(), Environment::default());
        }
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        assert_eq!(of(Verb::Add, &[]).unwrap_err().msg, "missing in the environment: CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS");
        assert_eq!(of(Verb::Check, &ALL[..1]).unwrap_err().msg, "missing in the environment: CNI_IFNAME, CNI_NETNS");
        assert_eq!(of(Verb::Del, &[]).unwrap_err().msg, "missing in the environment: CNI_CONTAINERID, CNI_IFNAME");
        assert_eq!(verb(&|_| None).unwrap_err().msg, "missing in the environment: CNI_COMMAND");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (name, value) in [
            ("CNI_CONTAINERID", "-a"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "a b"),
            ("CNI_CONTAINERID", "ä"),
            ("CNI_IFNAME", "sixteen-bytes-xx"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", ".."),
            ("CNI_ARGS", "IP"),
            ("CNI_ARGS", "a=b;c"),
        ] {
            let mut vars = ALL.to_vec();
            vars.retain(|(n, _)| *n != name);
            vars.push((name, value));
            let fault = of(Verb::Add, &vars).unwrap_err();
            assert_eq!(fault.code, ENVIRONMENT, "{name}={value}");
            assert!(fault.msg.starts_with(name), "{}", fault.msg);
        }
        assert!(check_id(&"x".repeat(MAX_ID + 1)).is_err());
        assert!(verb(&|_| Some("EXPLODE".into())).unwrap_err().msg.contains("EXPLODE"));
    }
}
