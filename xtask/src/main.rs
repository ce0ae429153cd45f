//! Set-up, builds, tests, benchmarks and the demo of Weft, as `cargo xtask <what>`.
//!
//! It calls cargo, apt and our own binaries, and judges what they say; it links nothing of ours, so that it runs on a machine
//! where nothing else can be built yet. Begin with [`setup`] (what a machine needs) and [`rungs`] (which tests there are).

mod bench;
mod counts;
mod ebpf;
mod leftovers;
mod lint;
mod metadata;
mod packages;
mod rungs;
mod setup;
mod sh;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::{Extent, Voice};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, builds, tests, benchmarks and the demo of Weft")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Install what building and testing need and this machine lacks
    Setup {
        /// Only say what is missing
        #[arg(long)]
        check: bool,
        /// What benchmarks need as well
        #[arg(long)]
        bench: bool,
    },
    /// Build the eBPF object and say where it is
    BuildEbpf,
    /// Run the tests; all rungs unless named (kernel and e2e need root)
    Test {
        /// Which of them
        rungs: Vec<rungs::Rung>,
        /// Only tests whose name contains this
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
    },
    /// Three hosts on this machine, from nothing to a service that outlives one of them (needs root)
    Demo {
        /// Leave it up until Ctrl-C
        #[arg(long)]
        keep: bool,
    },
    /// Measure Weft beside others on this machine; all benchmarks unless named (needs root)
    Bench {
        /// Which of them
        names: Vec<bench::Name>,
        /// Fewer and shorter rounds: about a minute each
        #[arg(long)]
        quick: bool,
    },
    /// Format, clippy, documentation, and tidy
    Lint,
    /// The house rules that no compiler checks
    Tidy,
    /// What must pass before a change is taken: lint and all tests
    Ci,
}

fn main() -> ExitCode {
    match run(Args::parse().what) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all was well. What was not has been told by then.
fn run(what: What) -> Result<bool> {
    match what {
        What::Setup { check, bench } => {
            let extent = if bench { Extent::Benchmarks } else { Extent::Tests };
            if check { setup::check(extent) } else { setup::install(extent, Voice::Full).map(|()| true) }
        }
        What::BuildEbpf => {
            setup::install(Extent::Build, Voice::Quiet)?;
            ebpf::build().map(|()| true)
        }
        What::Test { rungs, filter } => {
            let rungs = rungs::Rung::chosen(&rungs);
            let extent = if rungs.contains(&rungs::Rung::E2e) { Extent::Tests } else { Extent::Build };
            setup::install(extent, Voice::Quiet)?;
            let counts = rungs::run(&rungs, filter.as_deref())?;
            println!("{counts}");
            Ok(counts.all_passed())
        }
        What::Demo { keep } => {
            setup::install(Extent::Build, Voice::Quiet)?;
            rungs::demo(keep)
        }
        What::Bench { names, quick } => {
            setup::install(Extent::Benchmarks, Voice::Quiet)?;
            bench::run(&bench::Name::chosen(&names), quick)
        }
        What::Lint => lint::run().map(|failed| failed == 0),
        What::Tidy => tidy::run(),
        What::Ci => {
            setup::install(Extent::Tests, Voice::Quiet)?;
            let failed_lints = lint::run()?;
            let mut counts = rungs::run(&rungs::Rung::ALL, None)?;
            counts.failed += failed_lints;
            println!("{counts}");
            Ok(counts.all_passed())
        }
    }
}
