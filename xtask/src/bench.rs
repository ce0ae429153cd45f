//! The benchmarks: built as users run it, and run one after the other. What they find they print, and leave in `target/bench/`.

use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::metadata::Workspace;
use crate::rungs::BIN_DIR;
use crate::sh;

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Packets between containers, beside flannel's layout and the bare wire
    Overlay,
    /// Attaching and detaching, beside the bridge plugin with host-local
    Attach,
    /// A change of one endpoint where there are 50,000, and 10,000 services by name and by label
    Registry,
    /// An idle agent among a hundred hosts: memory, start, CPU, requests to etcd
    Agent,
}

impl Name {
    /// All of them.
    const ALL: [Self; 4] = [Self::Overlay, Self::Attach, Self::Registry, Self::Agent];

    /// Those that were asked for, or all.
    pub fn chosen(asked: &[Self]) -> Vec<Self> {
        if asked.is_empty() { Self::ALL.to_vec() } else { asked.to_vec() }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Attach => "attach",
            Self::Registry => "registry",
            Self::Agent => "agent",
        }
    }
}

/// Builds for release and runs. Whatever the figures are, that is success; what could not be measured at all is not.
///
/// # Errors
/// When we are not root, or cargo cannot be run.
pub fn run(names: &[Name], quick: bool) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("benchmarks make network namespaces, which needs root");
    }
    sh::outlive_interrupts()?;
    let workspace = Workspace::read()?;
    // In two steps, so that what users get is built as `cargo build --release` builds it.
    let tools = ["build", "--release", "--package=weft-tests", "--bin=weft-bench", "--bin=weft-probe"];
    for words in [&["build", "--release"][..], &tools] {
        if !sh::open(sh::cargo().args(words))? {
            return Ok(false);
        }
    }
    let binaries = workspace.release_binaries();
    let out = workspace.target.join("bench");
    let mut all_measured = true;
    for name in names {
        if sh::interrupted() {
            return Ok(false);
        }
        let mut bench = Command::new(binaries.join("weft-bench"));
        bench.env(BIN_DIR, &binaries).arg(name.word()).arg("--out").arg(&out);
        if quick {
            bench.arg("--quick");
        }
        all_measured &= sh::open(&mut bench)?;
    }
    Ok(all_measured)
}
