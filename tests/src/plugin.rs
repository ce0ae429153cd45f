//! CNI plugins, called as a runtime calls them: environment, configuration on standard input, JSON on standard output.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::place::Place;

/// A plugin and what it is told each time.
#[derive(Clone, Debug)]
pub struct Plugin<'a> {
    /// The executable.
    pub program: &'a Path,
    /// Where others are that it calls.
    pub path: &'a str,
    /// The network's configuration.
    pub config: Value,
}

impl Plugin<'_> {
    /// Calls it in `place` for one interface of a container, to its end.
    ///
    /// # Errors
    /// When it cannot be started or refuses; the error has its words.
    pub fn call(&self, place: &Place, verb: &str, container: &str, netns: &Path, ifname: &str) -> Result<Value> {
        let child = self.start(place, verb, container, netns, ifname)?;
        let output = child.wait_with_output().context("wait for the plugin")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{verb} {container}: {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        if said.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).with_context(|| format!("{verb} {container} printed {said:?}"))
    }

    /// Starts it and does not wait: for those who kill it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, place: &Place, verb: &str, container: &str, netns: &Path, ifname: &str) -> Result<Child> {
        let mut command = place.command(self.program)?;
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_NETNS", netns);
        command.env("CNI_IFNAME", ifname).env("CNI_PATH", self.path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("the pipe that was asked for")?;
        // One that ends before it has read says why itself.
        let _ = stdin.write_all(self.config.to_string().as_bytes());
        Ok(child)
    }
}
