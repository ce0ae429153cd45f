//! The eBPF object alone, as the agent's build script builds it: to look at it, or to see whether it compiles.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::metadata::Workspace;
use crate::{setup, sh};

/// Builds it and says where it is.
///
/// # Errors
/// When it does not compile or link.
pub fn build() -> Result<()> {
    let workspace = Workspace::read()?;
    let target = workspace.target.join("ebpf");
    let mut cargo = Command::new("rustup");
    cargo.args(["run", setup::Way::find()?.toolchain(), "cargo", "build", "--release", "--package=weft-ebpf", "--bin=weft"]);
    cargo.args(["--target=bpfel-unknown-none", "-Zbuild-std=core"]).arg("--target-dir").arg(&target);
    // Debian's compiler is a stable one; a nightly takes no notice.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    let arch = std::env::consts::ARCH;
    cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\"\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf"));
    // Those of the toolchain that runs us.
    for variable in ["RUSTC", "RUSTDOC", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(variable);
    }
    if !sh::open(&mut cargo)? {
        bail!("the eBPF object does not build");
    }
    let object = target.join("bpfel-unknown-none/release/weft");
    let size = std::fs::metadata(&object).with_context(|| format!("look at {}", object.display()))?.len();
    println!("{} ({} KiB); `bpftool prog load` takes it, `llvm-objdump -S` shows it", object.display(), size / 1024);
    Ok(())
}
