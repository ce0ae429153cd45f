//! `netctl`: the command line of Weft.
//!
//! A thin client of the agent's socket: it parses arguments, asks, and prints. It never speaks to the store, and to the kernel
//! only for `netctl run`, which makes the namespace and the cgroup that the agent then attaches.
//!
//! [`cmd`] has a file per noun (arguments, the call, what to print); [`mod@format`] prints; [`run`] starts commands. Exit codes:
//! 0 done, 1 refused or not found, 2 usage, 3 no agent; `run`, `announce` and `elect` hand back the command's own.

mod agent;
mod announce;
mod cmd;
mod error;
mod format;
mod manifest;
mod netns;
mod parse;
mod place;
mod resolv;
mod run;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cmd::{Command, Context};
use crate::error::Error;
use crate::format::{Output, Printer};
use crate::place::{EVERYWHERE, PlaceArgs};

/// The command line of Weft: one flat network, names and virtual IPs for containers on many hosts.
#[derive(Debug, Parser)]
#[command(name = "netctl", version, propagate_version = false, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 refused or not found, 2 usage, 3 no agent.")]
pub struct Cli {
    #[command(flatten)]
    place: PlaceArgs,
    /// What is printed: table, json, yaml, or wide for all columns
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t, hide_possible_values = true)]
    #[arg(help_heading = EVERYWHERE)]
    output: Output,
    /// What to do
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help into a closed pipe is no error.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(error::USAGE));
        }
    };
    let name = cli.command.name();
    // One thread: `netctl run` blocks signals and must know that no other thread takes them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            error::say(name, &format!("start: {e}"));
            return ExitCode::from(error::REFUSED);
        }
    };
    let done = runtime.block_on(async {
        let agent = cli.place.agent(|name| std::env::var_os(name))?;
        if agent.client().socket().is_none() {
            cli.command.can_be_elsewhere()?;
        }
        cli.command.execute(&mut Context { agent, printer: Printer::stdout(cli.output) }).await
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) if e.is_broken_pipe() => ExitCode::from(error::DONE),
        Err(Error::Usage(message)) => {
            let mut command = Cli::command();
            let error = command.error(clap::error::ErrorKind::ValueValidation, message);
            let _ = error.print();
            ExitCode::from(error::USAGE)
        }
        Err(e) => {
            error::say(name, &e.chain());
            ExitCode::from(e.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
