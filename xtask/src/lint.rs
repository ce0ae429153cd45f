//! Format, clippy, documentation and tidy: all are run, whichever fails.

use anyhow::Result;

use crate::{sh, tidy};

/// Runs all. How many failed.
///
/// # Errors
/// When one cannot be run.
pub fn run() -> Result<u64> {
    let mut failed = 0;
    let mut note = |what: &str, passed: bool| {
        println!("lint: {what}: {}", if passed { "ok" } else { "FAILED" });
        failed += u64::from(!passed);
    };
    note("format", sh::open(sh::cargo().args(["fmt", "--all", "--check"]))?);
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    note("clippy", sh::open(sh::cargo().args(clippy))?);
    let doc = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
    note("documentation", sh::open(sh::cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))?);
    note("tidy", tidy::run()?);
    Ok(failed)
}
