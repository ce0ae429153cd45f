//! The eBPF object: to look at it, or to see whether it compiles. How it is built is the agent's build script's business alone.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::sh;

/// Has the agent's build script build it, and says where it is.
///
/// # Errors
/// When it does not compile or link.
pub fn build() -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args(["check", "--package=weft-agent", "--lib", "--message-format=json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("run cargo check")?;
    let messages = String::from_utf8_lossy(&output.stdout);
    // The build script's message comes before the agent is compiled, so this does not need the agent to be right.
    let Some(object) = messages.lines().filter_map(out_dir_of_agent).next_back().map(|dir| dir.join("weft")) else {
        bail!("the eBPF object does not build");
    };
    let size = std::fs::metadata(&object).with_context(|| format!("look at {}", object.display()))?.len();
    println!("{} ({} KiB); `llvm-objdump -S` shows what is in it", object.display(), size / 1024);
    Ok(())
}

fn out_dir_of_agent(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let ours = message["reason"] == "build-script-executed" && message["package_id"].as_str()?.contains("weft-agent");
    ours.then(|| message["out_dir"].as_str().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_the_agents_build_script_is_found() {
        let ours =
            r#"{"reason":"build-script-executed","package_id":"path+file:///weft/agent#weft-agent@0.1.0","out_dir":"/t/out"}"#;
        assert_eq!(out_dir_of_agent(ours), Some(PathBuf::from("/t/out")));
        let libc = r#"{"reason":"build-script-executed","package_id":"registry+x#libc@0.2.1","out_dir":"/t/other"}"#;
        assert_eq!(out_dir_of_agent(libc), None);
    }
}
