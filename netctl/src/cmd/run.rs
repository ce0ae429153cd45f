//! `netctl run`: a command in a network namespace of its own, attached as long as it runs.
//!
//! How the namespaces and the cgroup are made is in [`crate::run`]; here is the order of things, and what is taken back when
//! one of them fails.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use weft_api::{Attach, Attached, ClientError, Code};

use super::Context;
use super::attach::{Wishes, attach};
use crate::agent::Agent;
use crate::error::{Error, say};
use crate::run::cgroup::{self, Group};
use crate::run::child::Launch;
use crate::run::env::{EnvOptions, Variable};
use crate::run::limits::{Limit, LimitOptions};
use crate::run::sandbox::{Running, Sandbox};
use crate::run::signals::{self, Received, Signals};
use crate::run::tty::Tty;
use crate::run::user::{self, Identity};
use crate::run::{RunError, check_root};
use crate::{parse, resolv};

/// How long an agent may take to take back what an interrupted attach may have done.
const WITHDRAW_BOUND: Duration = Duration::from_secs(2);

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
The command gets a network namespace, a mount namespace with its own /etc/resolv.conf, and a cgroup; all else is the host's. \
WEFT_ID and WEFT_ADDRESS tell it who it is. Whatever it leaves running is ended with it.

Its input and output are netctl's own; with --tty it has a terminal and a session of its own, and netctl's terminal is raw \
meanwhile. Signals are passed on. After kill -9 of a netctl with --tty, the command reset gives the terminal back.

The exit code is the command's, 128 and the number of the signal that ended it, 127 if there is no such command, 126 if it \
cannot be executed; if it was not started, 1 refused, 2 usage, 3 no agent.")]
pub struct RunArgs {
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    surroundings: Surroundings,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What the command finds around it, beside the network.
#[derive(Debug, Args)]
#[command(next_help_heading = "The command")]
struct Surroundings {
    #[command(flatten)]
    env: EnvOptions,
    /// Whom it runs as: names or numbers; without a group, in all groups of that user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<user::Wanted>,
    /// Where it runs [default: here]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// A host name of its own
    #[arg(long, value_name = "NAME", value_parser = parse::hostname)]
    hostname: Option<String>,
    #[command(flatten)]
    limits: LimitOptions,
    /// Give it a terminal of its own
    #[arg(short, long)]
    tty: bool,
    /// Nothing more: its input is netctl's anyway; so that -it can be typed
    #[arg(short, long)]
    interactive: bool,
}

/// The same, looked up.
struct Prepared {
    command: Vec<OsString>,
    variables: Vec<Variable>,
    identity: Option<Identity>,
    workdir: Option<PathBuf>,
    limits: Vec<Limit>,
    tty: bool,
}

impl Surroundings {
    /// Looks up all that can be known before anything is made. The limits are for the agent to say where.
    fn prepare(&self, command: Vec<OsString>) -> Result<Prepared, RunError> {
        let workdir = self.workdir.clone();
        if let Some(path) = &workdir {
            let failed = |source| RunError::Workdir { path: path.clone(), source };
            if !std::fs::metadata(path).map_err(failed)?.is_dir() {
                return Err(failed(io::ErrorKind::NotADirectory.into()));
            }
        }
        let identity = self.user.as_ref().map(user::Wanted::find).transpose()?;
        let variables = self.env.variables()?;
        Ok(Prepared { command, variables, identity, workdir, limits: Vec::new(), tty: self.tty })
    }
}

impl RunArgs {
    /// Does it. The exit code is the command's own.
    ///
    /// # Errors
    /// When the command was not started, or its end cannot be known.
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let deadline = self.wishes.deadline();
        let request = self.wishes.request()?;
        check_root()?;
        let mut prepared = self.surroundings.prepare(self.command)?;
        let agent = &context.agent;
        let mut signals = Signals::block(prepared.tty)?;
        // Known early: whether there is an agent, and whether its cgroup can be reached from here.
        let status = signals.unless_ended(agent.ask_until(deadline, |_| agent.client().status())).await??;
        cgroup::check(&status.cgroup)?;
        prepared.limits = self.surroundings.limits.locate(&status.cgroup).map_err(RunError::from)?;

        let sandbox = Sandbox::make(self.surroundings.hostname).await?;
        let request = Attach { netns: sandbox.netns().to_owned(), ..request };
        let attached = match signals.unless_ended(attach(agent, deadline, &request)).await {
            Ok(attached) => attached?,
            Err(e) => {
                withdraw(agent, sandbox.netns()).await;
                return Err(e.into());
            }
        };
        let code = run_attached(prepared, &attached, &sandbox, &mut signals).await;
        detach(agent, &attached, &mut signals).await;
        Ok(code?)
    }
}

/// From the cgroup's making to its removal.
async fn run_attached(
    mut prepared: Prepared,
    attached: &Attached,
    sandbox: &Sandbox,
    signals: &mut Signals,
) -> Result<u8, RunError> {
    let mut group = Group::create(&attached.cgroup, attached.id.as_str()).await?;
    let code = match group.limit(std::mem::take(&mut prepared.limits)).await {
        Ok(()) => run_in(prepared, attached, sandbox, &group, signals).await,
        Err(e) => Err(e),
    };
    let killed = group.killed_by_limit();
    if killed > 0 {
        say("run", &format!("out of the memory that --memory allows: the kernel has killed {killed} process(es)"));
    }
    if let Err(e) = group.kill_all().await {
        say("run", &crate::error::chain(&e));
    } else if let Err(e) = group.remove().await {
        say("run", &crate::error::chain(&e));
    }
    code
}

async fn run_in(
    prepared: Prepared,
    attached: &Attached,
    sandbox: &Sandbox,
    group: &Group,
    signals: &mut Signals,
) -> Result<u8, RunError> {
    let Prepared { command, variables, identity, workdir, tty, .. } = prepared;
    let mut tty = tty.then(|| Tty::open(identity.as_ref().map(|identity| identity.uid))).transpose()?;
    let launch = Launch {
        command,
        resolv_conf: resolv::text(attached),
        cgroup: group.path().to_owned(),
        entrances: group.entrances()?,
        id: attached.id.to_string(),
        address: attached.addresses.first().map(ipnet::IpNet::addr),
        variables,
        identity,
        workdir,
        terminal: tty.as_ref().map(Tty::slave).transpose()?,
        own_group: !signals.terminal,
        blocked: signals.before,
    };
    let mut running = sandbox.launch(launch).await?;
    if let Some(tty) = &tty {
        tty.listen()?;
    }
    watch(&mut running, tty.as_mut(), signals).await;
    let code = running.reap().await;
    if let Some(tty) = tty {
        // Nobody who writes there is left, or what is written is not waited for.
        if group.kill_all().await.is_ok() {
            let _ = signals.unless_ended(tty.finish()).await;
        }
    }
    code
}

/// Until the command ends: hands on what comes for it.
async fn watch(running: &mut Running, mut tty: Option<&mut Tty>, signals: &mut Signals) {
    // Whether the command was stopped from here alone, so that nobody else lets it go on.
    let mut stopped = !signals.terminal;
    loop {
        let unread = async {
            match tty.as_deref_mut() {
                Some(tty) => tty.unread().await,
                None => std::future::pending().await,
            }
        };
        let Received { signal, shared } = tokio::select! {
            () = running.ended() => return,
            // As on a terminal whose other end is closed.
            () = unread => Received { signal: Signal::SIGHUP, shared: false },
            received = signals.next() => received,
        };
        match signal {
            Signal::SIGTSTP => {
                if !shared {
                    running.signal(signal);
                    stopped = true;
                }
                if let Some(tty) = tty.as_deref_mut() {
                    tty.release();
                }
                signals::stop();
                if let Some(tty) = tty.as_deref_mut() {
                    tty.retake();
                }
            }
            Signal::SIGCONT => {
                if let Some(tty) = tty.as_deref_mut() {
                    // After SIGSTOP, of which nothing is heard here, a shell may have changed it.
                    tty.release();
                    tty.retake();
                }
                if stopped {
                    running.signal(signal);
                    stopped = !signals.terminal;
                }
            }
            Signal::SIGWINCH if tty.as_deref().is_some_and(Tty::resize) => {}
            signal if !shared => running.signal(signal),
            _ => {}
        }
    }
}

/// Takes the attachment back. The command has ended, and its exit code is what counts: what goes wrong here is only told.
async fn detach(agent: &Agent, attached: &Attached, signals: &mut Signals) {
    let problem = match signals.unless_ended(agent.ask(agent.client().detach(attached.id.as_str()))).await {
        Ok(Ok(_)) => return,
        // Somebody else was quicker.
        Ok(Err(Error::Client(ClientError::Refused { code: Code::NotFound, .. }))) => return,
        Ok(Err(e)) => e.chain(),
        Err(_) => "interrupted".to_owned(),
    };
    let id = &attached.id;
    say("run", &format!("detach {id}: {problem} (the agent takes {id} back when it finds its namespace gone)"));
}

/// An attach that was not waited for may have been done all the same. What remains after this, the agent finds by itself: the
/// namespace is about to go.
async fn withdraw(agent: &Agent, netns: &Path) {
    let client = agent.client();
    let work = async {
        for attached in client.attachments().await.unwrap_or_default() {
            if attached.netns == netns {
                let _ = client.detach(attached.id.as_str()).await;
            }
        }
    };
    let _ = tokio::time::timeout(WITHDRAW_BOUND, work).await;
}
