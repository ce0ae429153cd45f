//! weftd, the Weft agent: one per host.
//!
//! Settings, then logging, then [`run`]. Everything the agent is made of is a module of this binary, but for the code that
//! touches the kernel, which is the library `weft_agent` so that its tests can reach it.

mod admin;
mod attach;
mod claim;
mod cleanup;
mod config;
mod datapath;
mod echo;
mod metrics;
mod names;
mod reconcile;
mod refusal;
mod registrar;
mod run;
mod session;
mod state;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;

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
    let cli = Cli::read()?;
    log(&cli.settings)?;
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "must run as root: it makes devices, routes and eBPF programs");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            None => run::run(cli.settings).await,
            Some(Command::Cleanup) => cleanup::run(&cli.settings).await,
        }
    })
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
