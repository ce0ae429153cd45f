//! `weft-cni`: how CNI runtimes (podman 4, containerd, buildah, …) and netavark (podman 5) attach containers to Weft.
//!
//! A thin client of the agent's socket: environment, arguments and standard input in, one request, the protocol's answer on
//! standard output and nothing else there; what people should know goes to standard error. It keeps nothing, makes no device
//! and knows no address.
//!
//! One executable, two protocols: with `CNI_COMMAND` in the environment it is a CNI plugin ([`verbs`]), with `create`, `setup`,
//! `teardown` or `info` as its first argument a plugin of netavark ([`netavark`]). Both make a [`wish::Wish`] of what they
//! read, and [`agent`] asks. It is installed under the name of its CNI type, `weft`, by `netctl cni install`.

mod agent;
mod config;
mod env;
mod error;
mod netavark;
mod netns;
mod result;
mod verbs;
mod wish;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde_json::Value;

use crate::env::Lookup;
use crate::error::{DECODING, Fault, IO, NEWEST};

/// The largest input that is read, bytes: 65,535 published ports are 5 MB.
const MAX_INPUT: u64 = 64 << 20;

/// For a person who starts it by hand. By its first sentence `netctl cni` knows a plugin of ours from others.
const USAGE: &str = "\
weft-cni attaches containers to Weft. Container runtimes start it:
  as a CNI plugin (0.3.1, 0.4.0, 1.0.0, 1.1.0): CNI_COMMAND and the other variables, configuration on standard input
  as a netavark plugin: weft-cni create | setup NETNS | teardown NETNS | info, JSON on standard input
`netctl cni install` puts it and a network configuration in place. For namespaces of your own there is netctl attach.
";

/// Variables by which a runtime gives itself away even if it forgets the verb.
const CNI_VARIABLES: [&str; 5] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];

fn main() -> ExitCode {
    let lookup = |name: &str| std::env::var_os(name);
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let answer = answer(&lookup, &args, || {
        let mut stdin = Vec::new();
        io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut stdin).map(|_| stdin)
    });
    if !answer.said.is_empty() {
        agent::log(&answer.said);
    }
    // A reader that has gone wants no answer, and there is nobody else to tell.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(answer.printed.as_bytes()).and_then(|()| stdout.flush());
    ExitCode::from(answer.code)
}

/// What comes of a call.
struct Answer {
    /// On standard output.
    printed: String,
    /// On standard error.
    said: String,
    /// The exit code.
    code: u8,
}

impl Answer {
    fn done(value: Option<Value>) -> Self {
        Self { printed: value.map(|value| line(&value)).unwrap_or_default(), said: String::new(), code: 0 }
    }

    fn failed(error: &Value, said: String) -> Self {
        Self { printed: line(error), said, code: 1 }
    }
}

fn answer(lookup: Lookup<'_>, args: &[OsString], stdin: impl FnOnce() -> io::Result<Vec<u8>>) -> Answer {
    let is_cni = CNI_VARIABLES.iter().any(|name| lookup(name).is_some_and(|value| !value.is_empty()));
    let verb = args.first().map(|arg| arg.to_string_lossy());
    match verb.as_deref() {
        _ if is_cni => {
            let plain = |fault| (fault, NEWEST.to_owned());
            let done = read(stdin).map_err(plain).and_then(|stdin| block_on(verbs::run(lookup, &stdin)).map_err(plain)?);
            match done {
                Ok(value) => Answer::done(value),
                Err((fault, version)) => Answer::failed(&fault.json(&version), fault.msg),
            }
        }
        Some("create" | "setup" | "teardown") => {
            match read(stdin).and_then(|stdin| block_on(netavark::run(lookup, args, &stdin))?) {
                Ok(value) => Answer::done(value),
                Err(fault) => Answer::failed(&netavark::error(&fault), fault.msg),
            }
        }
        Some("info") => Answer::done(Some(netavark::info())),
        Some("--help" | "-h" | "help") => Answer { printed: USAGE.to_owned(), ..Answer::done(None) },
        Some("--version" | "-V") => Answer { printed: format!("weft-cni {}\n", env!("CARGO_PKG_VERSION")), ..Answer::done(None) },
        // netavark's default; a person reads the other stream.
        None => Answer { said: USAGE.to_owned(), ..Answer::done(Some(netavark::info())) },
        Some(other) => {
            let fault = Fault::new(DECODING, format!("{other:?} is none of create, setup, teardown and info"));
            Answer::failed(&netavark::error(&fault), format!("{}\n{USAGE}", fault.msg))
        }
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

fn read(stdin: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<Vec<u8>, Fault> {
    let bytes = stdin().map_err(|e| Fault::new(IO, format!("read standard input: {e}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Fault::new(DECODING, format!("standard input: longer than {MAX_INPUT} bytes")));
    }
    Ok(bytes)
}

/// One thread is enough, and the quickest to have.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    Ok(runtime.map_err(|e| Fault::new(IO, format!("start: {e}")))?.block_on(work))
}

#[cfg(test)]
mod fuzz;
