//! Running the few programs that a table is reached by (`nft`, `iptables`): arguments as a list, no shell, in the network
//! namespace that is meant.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use super::netns::NetNs;

/// Where such programs are, whatever the agent's own PATH is.
const PLACES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where a program is: in the agent's PATH, else where the system has such programs.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    own.into_iter().chain(PLACES.iter().map(PathBuf::from)).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Runs a program to its end, with `input` for it to read. What it says is in English, so that it can be understood.
///
/// # Errors
/// When it cannot be started, or the namespace not entered; not when it fails.
pub fn run(netns: Option<&NetNs>, program: &PathBuf, args: &[&str], input: &str) -> io::Result<Output> {
    let work = || -> io::Result<Output> {
        let mut command = Command::new(program);
        command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        thread::scope(|scope| {
            // It may say much before it has read all.
            scope.spawn(move || {
                // A program that ends early does not read all; how it ended says why.
                let _ = stdin.map(|mut pipe| pipe.write_all(input.as_bytes()));
            });
            child.wait_with_output()
        })
    };
    match netns {
        None => work(),
        Some(netns) => netns.run(work)?,
    }
}

/// What a program said of its failure, on one line.
#[must_use]
pub fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}
