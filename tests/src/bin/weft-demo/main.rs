//! `cargo xtask demo`: three hosts on this machine, from nothing to a service that outlives one of them.
//!
//! Every step shows what was done and what was seen, and fails if it was not as claimed: the exit code is 0 only when all of
//! it was. The hosts are those of the tests ([`weft_tests::topology`]); everything is taken down at the end, also after Ctrl-C.

mod bars;
mod screen;
mod steps;

use std::process::ExitCode;

use clap::Parser;
use weft_tests::signals;

use crate::screen::Screen;

/// Three hosts on this machine, each a network namespace with its own agent, and etcd between them.
#[derive(Parser)]
#[command(name = "weft-demo")]
struct Args {
    /// Leave it up until Ctrl-C, and tell how to look around
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let screen = Screen::new();
    let outcome = steps::run(&screen, args.keep);
    // Whatever failed after Ctrl-C failed because everything was being taken down; that decides the exit code.
    if signals::ending() {
        signals::wait_for_the_end();
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            screen.failure(&e);
            ExitCode::FAILURE
        }
    }
}
