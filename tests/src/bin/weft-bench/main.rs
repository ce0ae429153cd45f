//! `cargo xtask bench`: what the project's goals promise, measured side by side in one run on this machine.
//!
//! A ratio within one run is the figure; times are context, for they are this machine's. Variants take turns within every
//! round, a round's ratio is of that round's own figures, and what is quoted is the median over the rounds with the middle
//! half's bounds: so that whatever else the machine does meanwhile falls on all alike. A benchmark reports and judges
//! nothing: it ends well whatever came of it, unless it could not measure at all.
//!
//! Begin with [`overlay`] (what is measured), then [`stage`] (on what), [`measure`] and [`ends`] (how). Traffic goes between
//! network namespaces of [`weft_tests::topology`] only, which are taken down at the end, also after Ctrl-C.

mod agent;
mod attach;
mod death;
mod ends;
mod heal;
mod measure;
mod overlay;
mod peers;
mod plot;
mod programs;
mod progress;
mod registry;
mod report;
mod stage;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use weft_tests::signals;

#[derive(Parser)]
#[command(name = "weft-bench", about = "Measures Weft beside others, on this machine")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Packets between containers: Weft, flannel's layout, the bare wire
    Overlay(Options),
    /// Attaching and detaching: the agent's socket, weft-cni, the bridge plugin; two hundred at once
    Attach(Options),
    /// A change of one endpoint where there are 50,000
    Registry(Options),
    /// An idle agent among a hundred hosts: memory, start, CPU, requests to etcd
    Agent(Options),
    /// One end of a measurement; started by the others
    #[command(subcommand, hide = true)]
    End(ends::End),
}

/// How to run, and where to write.
#[derive(clap::Args)]
struct Options {
    /// Fewer and shorter rounds: about a minute
    #[arg(long)]
    quick: bool,
    /// Where the JSON and the plots go; made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Args::parse().what {
        What::End(end) => return report(end.run()),
        What::Overlay(options) => bench(&options, overlay::run),
        What::Attach(options) => bench(&options, attach::run),
        What::Registry(options) => bench(&options, registry::run),
        What::Agent(options) => bench(&options, agent::run),
    };
    // Whatever failed after Ctrl-C failed because everything was being taken down.
    if signals::ending() {
        signals::wait_for_the_end();
    }
    report(outcome)
}

fn bench(options: &Options, run: fn(bool) -> Result<report::Report>) -> Result<()> {
    std::fs::create_dir_all(&options.out).with_context(|| format!("create {}", options.out.display()))?;
    let report = run(options.quick)?;
    print!("{}", report.table());
    let written = report.write(&options.out)?;
    println!("\nwritten: {}", written.join(" "));
    Ok(())
}

fn report(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
