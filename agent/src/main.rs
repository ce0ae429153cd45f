//! weftd, the Weft agent: one per host.
//!
//! Settings, then logging, then [`run`]. Everything the agent is made of is a module of this binary, but for the code that
//! touches the kernel, which is the library `weft_agent` so that its tests can reach it.

mod admin;
mod attach;
mod changes;
#[cfg(test)]
mod churn_tests;
mod claim;
mod cleanup;
mod config;
mod connections;
mod datapath;
mod docker;
mod doctor;
mod echo;
mod elections;
mod firewall;
mod health;
mod last_uplink;
mod memory;
mod metrics;
mod names;
mod network_names;
mod networks;
mod placeholders;
mod reconcile;
mod refusal;
mod registrar;
mod registrations;
mod run;
mod runtimes;
mod session;
mod state;
mod subnet_env;
mod view;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use tracing_subscriber::EnvFilter;

use crate::config::{Cli, Command, LogFormat, Settings};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weftd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let Cli { settings, command } = Cli::read()?;
    match command {
        Some(Command::Man) => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).section("8").render(&mut page)?;
            print(&page)
        }
        Some(Command::Completion { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weftd", &mut script);
            print(&script)
        }
        Some(Command::Cleanup) => on_host(&settings)?.block_on(cleanup::run(&settings)),
        None => on_host(&settings)?.block_on(run::run(settings)),
    }
}

/// What every command that touches this host needs.
fn on_host(settings: &Settings) -> anyhow::Result<tokio::runtime::Runtime> {
    log(settings)?;
    memory::frugal();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "must run as root: it makes devices, routes and eBPF programs");
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Prints, and is content if nobody reads on.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().write_all(bytes) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    // Said first, so that `--log` can say otherwise: the DNS library logs every reply, and every forwarding that failed.
    let quiet = "hickory_server=warn,hickory_net=error,hickory_resolver=error,hickory_proto=error";
    let filter =
        EnvFilter::try_new(format!("{quiet},{}", settings.log)).map_err(|e| anyhow::anyhow!("--log {:?}: {e}", settings.log))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}
