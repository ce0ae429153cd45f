//! `netctl run`: a command in a network namespace of its own, attached as long as it runs.
//!
//! How the namespaces and the cgroup are made is in [`crate::run`]; here is the order of things, and what is taken back when
//! one of them fails.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use weft_api::{Attach, Attached, ClientError, Code};

use super::Context;
use super::attach::{Wishes, attach};
use crate::agent::Agent;
use crate::error::{Error, say};
use crate::resolv;
use crate::run::cgroup::{self, Group};
use crate::run::sandbox::{Launch, Sandbox};
use crate::run::signals::Signals;
use crate::run::{RunError, check_root};

/// How long an agent may take to take back what an interrupted attach may have done.
const WITHDRAW_BOUND: Duration = Duration::from_secs(2);

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
The command gets a network namespace, a mount namespace with its own /etc/resolv.conf, and a cgroup; WEFT_ID and WEFT_ADDRESS \
tell it who it is. Whatever it leaves running is ended with it.

The exit code is the command's, 128 and the number of the signal that ended it, 127 if there is no such command, 126 if it \
cannot be executed; if it was not started, 1 refused, 2 usage, 3 no agent.")]
pub struct RunArgs {
    #[command(flatten)]
    wishes: Wishes,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
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
        let agent = &context.agent;
        let mut signals = Signals::block()?;
        // Known early: whether there is an agent, and whether its cgroup can be reached from here.
        let status = signals.unless_ended(agent.ask_until(deadline, |_| agent.client().status())).await??;
        cgroup::check(&status.cgroup)?;

        let sandbox = Sandbox::make().await?;
        let request = Attach { netns: sandbox.netns().to_owned(), ..request };
        let attached = match signals.unless_ended(attach(agent, deadline, &request)).await {
            Ok(attached) => attached?,
            Err(e) => {
                withdraw(agent, sandbox.netns()).await;
                return Err(e.into());
            }
        };
        let code = run_attached(self.command, &attached, &sandbox, &mut signals).await;
        detach(agent, &attached, &mut signals).await;
        Ok(code?)
    }
}

/// From the cgroup's making to its removal.
async fn run_attached(
    command: Vec<OsString>,
    attached: &Attached,
    sandbox: &Sandbox,
    signals: &mut Signals,
) -> Result<u8, RunError> {
    let group = Group::create(&attached.cgroup, attached.id.as_str()).await?;
    let code = run_in(command, attached, sandbox, &group, signals).await;
    if let Err(e) = group.kill_all().await {
        say("run", &crate::error::chain(&e));
    } else if let Err(e) = group.remove().await {
        say("run", &crate::error::chain(&e));
    }
    code
}

async fn run_in(
    command: Vec<OsString>,
    attached: &Attached,
    sandbox: &Sandbox,
    group: &Group,
    signals: &mut Signals,
) -> Result<u8, RunError> {
    let launch = Launch {
        command,
        resolv_conf: resolv::text(attached),
        cgroup: group.path().to_owned(),
        entrance: group.entrance()?,
        id: attached.id.to_string(),
        address: attached.addresses.first().map(ipnet::IpNet::addr),
        own_group: !signals.terminal,
        blocked: signals.before,
    };
    let mut running = sandbox.launch(launch).await?;
    loop {
        tokio::select! {
            () = running.ended() => break,
            signal = signals.next() => running.signal(signal),
        }
    }
    running.reap().await
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
