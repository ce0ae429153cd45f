//! `netctl announce`: something that runs is registered as long as it does.
//!
//! The order of things is what is to be got right: a command is registered once it has started, and withdrawn before it is told to
//! stop, so that nobody is sent to one that has stopped listening. What is kept alive, and how, is in [`crate::announce`].

use std::ffi::OsString;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use clap::{ArgGroup, Args};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};
use weft_api::clock::BootTime;
use weft_api::{Register, Registered};
use weft_model::ids::{EndpointId, ServiceName};
use weft_model::record::{Kind, Proto, State};

use super::Context;
use super::check::CheckArgs;
use crate::announce::heart::{Beat, Heart};
use crate::announce::process::{Followed, Order, Process};
use crate::announce::{labels, make_id, unit};
use crate::error::{DONE, Error, say};
use crate::parse;
use crate::run::RunError;
use crate::run::env::EnvOptions;
use crate::run::signals::{self, Received, Signals};

/// How often the registration is said again at least.
const PACE: Duration = Duration::from_secs(10);

/// How long an agent that is there may take for the first answer, until the command is started without it.
const FIRST: Duration = Duration::from_secs(12);

/// How often a unit is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `announce`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
#[command(after_help = "\
A command is registered once it has started, and withdrawn before it is stopped: SIGTERM (and SIGINT, SIGQUIT) to netctl withdraws, \
waits for the time of --drain, and is then handed on. Other signals are handed on at once. Its input and output are netctl's own; WEFT_ID tells it \
its id. It does not outlive netctl.

An agent that is away is waited for, before and meanwhile. After kill -9 of netctl the registration ends with its time.

The exit code is the command's, 128 and the number of the signal that ended it, 127 if there is no such command, 126 if it \
cannot be executed; if it was not started, 1 refused, 2 usage.")]
pub struct AnnounceArgs {
    /// The service it is an instance of: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    service: ServiceName,
    /// The port it serves; TCP unless it says /udp
    #[arg(long, value_name = "[PORT-NAME=]PORT[/tcp|udp]")]
    port: Option<Port>,
    /// Its address [default: that of the container in which netctl runs, else this host's]
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// Its id [default: the name and six random digits]
    #[arg(long)]
    id: Option<EndpointId>,
    /// A label for selectors; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// For how long it stays registered when netctl is no longer there to say so
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse::duration)]
    ttl: Duration,
    /// SRV weight relative to its siblings
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    weight: u32,
    /// SRV priority: the lower, the sooner
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    priority: u16,
    /// Only the name resolves: it is no backend
    #[arg(long)]
    name_only: bool,
    /// How long to wait between withdrawing the command and stopping it
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse::duration)]
    drain: Duration,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    env: EnvOptions,
    /// A process that runs already: registered until it ends
    #[arg(long, value_name = "NUMBER", group = "what")]
    pid: Option<i32>,
    /// A systemd service: registered while it has a main process, whichever
    #[arg(long, value_name = "UNIT", group = "what")]
    unit: Option<String>,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND", group = "what")]
    command: Vec<OsString>,
}

/// A port with its name and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    number: u16,
    proto: Proto,
}

impl std::str::FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As attach has it, whose name of a service is before the colon.
        let instance: weft_model::attachment::Instance = format!("x:{text}").parse()?;
        let number = instance.port.ok_or_else(|| format!("{text:?} is no port number (1 to 65535)"))?;
        Ok(Self { name: instance.port_name, number, proto: instance.proto })
    }
}

impl AnnounceArgs {
    /// Does it. The exit code is the command's own.
    ///
    /// # Errors
    /// When there is nothing to announce, or the agent says no at once.
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let id = self.id.clone().map_or_else(|| make_id(&self.service), Ok)?;
        let said = self.said()?;
        let variables = self.env.variables().map_err(RunError::from)?;
        let mut signals = Signals::block(false)?;
        let agent = context.agent.clone();
        if let Some(pid) = self.pid {
            let process = Followed::find(pid)?;
            let mut heart = begin(Heart::start(agent, id, said, PACE), &mut signals).await?;
            let interrupted = until(&mut heart, process.ended(), &mut signals).await;
            heart.withdraw().await;
            return Ok(interrupted.map_or(DONE, |_| DONE));
        }
        if let Some(unit) = &self.unit {
            return follow_unit(unit, || Heart::start(agent.clone(), id.clone(), said.clone(), PACE), &mut signals).await;
        }
        let own_group = !signals.terminal;
        let heart = Heart::start(agent, id.clone(), Register { state: State::Starting, ..said }, PACE);
        let heart = begin(heart, &mut signals).await?;
        let registered = match heart.last() {
            Beat::Kept(registered, ..) => Some(registered),
            _ => None,
        };
        let order = Order { command: self.command, variables, own_group };
        let process = match Process::start(order, id.as_str(), registered.as_deref(), &signals) {
            Ok(process) => process,
            Err(e) => {
                heart.withdraw().await;
                return Err(e.into());
            }
        };
        heart.change(|said| said.state = State::Up);
        accompany(heart, &process, &mut signals, self.drain).await;
        Ok(process.reap()?)
    }

    fn said(&self) -> Result<Register, Error> {
        let port = self.port.clone();
        Ok(Register {
            service: self.service.clone(),
            kind: if self.name_only { Kind::Name } else { Kind::Service },
            name: None,
            addresses: self.addresses.clone(),
            port: port.as_ref().map(|port| port.number),
            port_name: port.as_ref().map(|port| port.name.clone()).unwrap_or_default(),
            proto: port.map(|port| port.proto).unwrap_or_default(),
            labels: labels(&self.labels)?,
            ttl_ms: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            state: State::Up,
            priority: self.priority,
            weight: self.weight,
            check: self.check.clone().check()?,
            candidate: None,
            session: None,
        })
    }
}

/// Waits for the first answer. What an agent refuses is not begun; one that is away is not waited for here.
///
/// # Errors
/// The refusal, or the signal that came before.
pub async fn begin(mut heart: Heart, signals: &mut Signals) -> Result<Heart, Error> {
    let first = async { tokio::time::timeout(FIRST, heart.next()).await };
    match signals.unless_ended(first).await {
        Ok(Ok(Beat::Refused(why))) => {
            heart.withdraw().await;
            Err(RunError::NotRegistered(why).into())
        }
        Ok(Ok(Beat::Away(why))) => {
            say("announce", &format!("not registered yet: {why}; going on without"));
            Ok(heart)
        }
        Ok(Ok(Beat::Kept(..) | Beat::None) | Err(_)) => Ok(heart),
        Err(e) => {
            heart.withdraw().await;
            Err(e.into())
        }
    }
}

/// Says what changed, once.
#[derive(Debug, Default)]
pub struct Teller {
    trouble: Option<String>,
}

impl Teller {
    /// Takes note of a beat.
    pub fn hear(&mut self, command: &str, beat: &Beat) {
        let trouble = match beat {
            Beat::Kept(..) | Beat::None => None,
            Beat::Away(why) | Beat::Refused(why) => Some(why.clone()),
        };
        match (&self.trouble, &trouble) {
            (None, Some(why)) => say(command, &format!("not registered: {why}; it goes on trying")),
            (Some(_), None) => say(command, "registered again"),
            _ => {}
        }
        self.trouble = trouble;
    }
}

/// Beats until `end`, or a signal that asks for it.
async fn until(heart: &mut Heart, end: impl Future<Output = ()>, signals: &mut Signals) -> Option<Signal> {
    tokio::pin!(end);
    let mut teller = Teller::default();
    loop {
        tokio::select! {
            () = &mut end => return None,
            signal = signals.ending() => return Some(signal),
            beat = heart.next() => teller.hear("announce", &beat),
        }
    }
}

/// Registered while the unit has a main process; until a signal asks for an end.
async fn follow_unit(unit: &str, start: impl Fn() -> Heart, signals: &mut Signals) -> Result<u8, Error> {
    let mut told = None;
    loop {
        let pid = match signals.unless_ended(unit::main_pid(unit)).await {
            Ok(Ok(pid)) => pid,
            // What it is to follow must be there at first; later it may be on its way.
            Ok(Err(e)) if told.is_none() => return Err(e.into()),
            Ok(Err(_)) => None,
            Err(_) => return Ok(DONE),
        };
        if told.is_none() && pid.is_none() {
            say("announce", &format!("{unit} does not run; it is registered when it does"));
        }
        told = Some(());
        if let Some(process) = pid.and_then(|pid| Followed::find(pid).ok()) {
            let mut heart = begin(start(), signals).await?;
            let interrupted = until(&mut heart, process.ended(), signals).await;
            heart.withdraw().await;
            if interrupted.is_some() {
                return Ok(DONE);
            }
            continue;
        }
        if signals.unless_ended(sleep(LOOK)).await.is_err() {
            return Ok(DONE);
        }
    }
}

/// What returns when a registration is withdrawn.
type Withdrawn = Pin<Box<dyn Future<Output = ()>>>;

/// Until the command has ended: registered until it is to stop, or has.
async fn accompany(heart: Heart, process: &Process, signals: &mut Signals, drain: Duration) {
    let mut heart = Some(heart);
    let mut teller = Teller::default();
    // The signal that is held back until the command is drained, and until when.
    let mut held: Option<(Signal, Instant)> = None;
    // It is being withdrawn, and the signal that asked for that is then handed on. Neither an end nor another signal waits for it.
    let mut leaving: Option<(Withdrawn, Option<Signal>)> = None;
    let mut stopped = !signals.terminal;
    loop {
        let left = async {
            match leaving.as_mut() {
                Some((withdrawn, _)) => withdrawn.await,
                None => std::future::pending().await,
            }
        };
        let beat = async {
            match heart.as_mut() {
                Some(heart) => heart.next().await,
                None => std::future::pending().await,
            }
        };
        let drained = async {
            match held {
                Some((_, until)) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let Received { signal, shared } = tokio::select! {
            () = process.ended() => break,
            beat = beat => {
                teller.hear("announce", &beat);
                continue;
            }
            () = left => {
                held = leaving.take().and_then(|(_, signal)| signal).map(|signal| (signal, Instant::now() + drain));
                continue;
            }
            () = drained => {
                if let Some((signal, _)) = held.take() {
                    process.signal(signal);
                }
                continue;
            }
            received = signals.next() => received,
        };
        match signal {
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => match heart.take() {
                Some(heart) => leaving = Some((Box::pin(heart.withdraw()), Some(signal).filter(|_| !shared))),
                // Asked twice: no more waiting.
                None => {
                    held = None;
                    if let Some((_, waiting)) = &mut leaving {
                        *waiting = None;
                    }
                    if !shared {
                        process.signal(signal);
                    }
                }
            },
            Signal::SIGTSTP => {
                if !shared {
                    process.signal(signal);
                    stopped = true;
                }
                signals::stop();
            }
            Signal::SIGCONT if stopped => {
                process.signal(signal);
                stopped = !signals.terminal;
            }
            signal if !shared => process.signal(signal),
            _ => {}
        }
    }
    match (heart, leaving) {
        (Some(heart), _) => heart.withdraw().await,
        (None, Some((withdrawn, _))) => withdrawn.await,
        (None, None) => {}
    }
}

/// The registration's answer, if the last beat was one.
#[must_use]
pub fn kept(beat: &Beat) -> Option<(&Registered, BootTime)> {
    match beat {
        Beat::Kept(registered, asked, _) => Some((registered, *asked)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AnnounceArgs,
    }

    fn parsed(words: &[&str]) -> Result<AnnounceArgs, clap::Error> {
        Line::try_parse_from([&["announce"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn what_is_said_is_what_was_typed() {
        let args =
            parsed(&["prod/web", "--port", "http=80", "--label", "a=b", "--ttl", "9s", "--weight", "7", "--", "x"]).unwrap();
        let said = args.said().unwrap();
        assert_eq!((said.service.to_string().as_str(), said.port, said.port_name.as_str()), ("prod/web", Some(80), "http"));
        assert_eq!((said.ttl_ms, said.weight, said.kind), (9000, 7, Kind::Service));
        assert_eq!(parsed(&["web", "--port", "53/udp", "--", "x"]).unwrap().said().unwrap().proto, Proto::Udp);
    }

    #[test]
    fn one_thing_is_announced() {
        assert!(parsed(&["web"]).is_err(), "nothing");
        assert!(parsed(&["web", "--pid", "1", "--unit", "x"]).is_err() && parsed(&["web", "--pid", "1", "--", "x"]).is_err());
        assert!(parsed(&["web", "--unit", "x"]).is_ok());
        assert!(parsed(&["web", "--port", "0", "--pid", "1"]).is_err());
    }
}
