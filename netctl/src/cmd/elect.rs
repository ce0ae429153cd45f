//! `netctl elect`: a command that runs on one host at a time, the one that leads.
//!
//! ```text
//!   stands ── holds the lead ──▶ acts ── told so by the agent ──▶ runs ── lost, or no longer certain ──▶ TERM, KILL ─▶ stands
//! ```
//!
//! Each answer of the agent says for how long the lead is certain from when it was asked for. The command is told to stop so long
//! before that is over that it has time for it, and is killed before it is over, whatever the agent or the store are doing, and whatever
//! becomes of this process: another one, [`keeper`](crate::announce::keeper), sees to that.

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use weft_api::clock::BootTime;
use weft_api::{Candidacy, Register, Registered};
use weft_model::ids::{EndpointId, Revision, ServiceName};
use weft_model::record::{Kind, Proto, State};

use super::Context;
use super::announce::{Teller, begin, kept};
use crate::announce::heart::Heart;
use crate::announce::keeper::sleep_until;
use crate::announce::process::{Order, Process};
use crate::announce::{labels, make_id, make_session};
use crate::error::{DONE, Error, say};
use crate::parse;
use crate::run::RunError;
use crate::run::env::EnvOptions;
use crate::run::signals::{self, Received, Signals};

/// How often the agent is asked at least: so much later than it could, a candidate begins.
const PACE: Duration = Duration::from_secs(1);

/// Arguments of `elect`.
#[derive(Debug, Args)]
#[command(after_help = "\
The command runs while this candidate holds the lead of NAME, and no other does. It is stopped by SIGTERM and, when the time of \
--grace is over, with all of its process group by SIGKILL: before another candidate can have the lead, also when this host is \
cut off, its agent dies, or netctl itself is stopped or killed. Then it waits for the lead again, unless --once is given. A command that ends by itself ends netctl.

WEFT_ID tells the command its id, WEFT_TERM the number of this term, which is greater than that of any leader before: what \
compares it refuses what a former leader says too late. Its input and output are netctl's own; signals are handed on.

The exit code is the command's, as that of netctl announce; 0 if a signal came while it did not run.")]
pub struct ElectArgs {
    /// What is led: NAME or NAMESPACE/NAME; leader.NAME is the leader's name in DNS
    #[arg(value_name = "NAME")]
    name: ServiceName,
    /// This candidate's id; one program of a host stands by it at a time [default: the name and six random digits]
    #[arg(long)]
    id: Option<EndpointId>,
    /// Its address [default: that of the container in which netctl runs, else this host's]
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// The port at which the leader serves
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// A label; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// For how long it stays a candidate when netctl is no longer there to say so
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse::duration)]
    ttl: Duration,
    /// How long the command may take to stop; at most a third of the time for which a lead is certain
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse::duration)]
    grace: Duration,
    /// End when the lead is lost, instead of waiting for it again
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    env: EnvOptions,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How a command that was running has ended.
enum End {
    /// By itself, or by a signal that was for it; with this code.
    Itself(u8),
    /// Because the lead was lost.
    Stopped(u8),
}

/// Until when the lead is certain, and how long the command has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Safe {
    until: BootTime,
    grace: Duration,
}

impl Safe {
    /// As told by an answer that was asked for at that time. `most` is the longest time that was ever told: a third of it is as
    /// much as a command gets to stop, however little is left now.
    fn of(asked: BootTime, safe: Duration, most: Duration, grace: Duration) -> Self {
        Self { until: asked.saturating_add(safe), grace: grace.min(most / 3) }
    }

    /// Whether it is worth while to begin: not with the rest of a lead that nobody renews.
    fn is_fresh(self, most: Duration) -> bool {
        self.until.saturating_duration_since(BootTime::now()) >= most / 2
    }

    /// A later answer, whose time is measured by the first one's grace: the grace does not shrink with what is left.
    fn renewed(self, asked: BootTime, safe: Duration) -> Self {
        Self { until: self.until.max(asked.saturating_add(safe)), ..self }
    }

    /// When the command is killed: the kernel and this process get some of the time.
    fn kill_at(self) -> BootTime {
        self.until.saturating_sub(self.grace / 4)
    }

    /// When it is killed if it is told to stop now.
    fn kill_by(self) -> BootTime {
        self.kill_at().min(BootTime::now().saturating_add(self.grace))
    }

    /// When the keeper kills it, who does so whatever has become of this process.
    fn kept_until(self) -> BootTime {
        self.until.saturating_sub(self.grace / 8)
    }

    /// When the command is told to stop.
    fn stop_at(self) -> BootTime {
        self.kill_at().saturating_sub(self.grace)
    }
}

/// What follows from an answer while the command does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The agent knows that this candidate acts, and it leads.
    Begin,
    /// This is to be said first.
    Say(Candidacy),
    /// Nothing yet.
    Wait,
}

impl Next {
    /// `is_current` tells whether the answer is to what is said now. One to what was said before is no reason for anything: the
    /// agent may have heard since that this candidate only stands, and may give the lead away at once.
    fn of(registered: &Registered, is_current: bool, is_fresh: bool) -> Self {
        let acts = registered.said.candidate == Some(Candidacy::Acts);
        match (registered.lead && is_fresh, acts) {
            _ if !is_current => Self::Wait,
            (true, true) => Self::Begin,
            (true, false) => Self::Say(Candidacy::Acts),
            // It was lost between the two.
            (false, true) if registered.lead_known => Self::Say(Candidacy::Stands),
            (false, _) => Self::Wait,
        }
    }
}

/// Whether the lead is held while the command runs: none if it cannot be said. Another term is another lead, and one that the agent
/// does not know to be acted by can go to another candidate any moment.
fn holds(registered: &Registered, term: Option<Revision>) -> Option<bool> {
    let as_begun = registered.term == term && registered.said.candidate == Some(Candidacy::Acts);
    (registered.lead || registered.lead_known).then_some(registered.lead && as_begun)
}

/// Stops a command that nobody keeps: were this process to be stopped now, it would go on beyond the lead. When it is killed.
fn unkept(process: &Process, why: &RunError, safe: Safe) -> BootTime {
    say("elect", &format!("{why}: nobody else can stop the command in time, so it is stopped"));
    process.signal(Signal::SIGTERM);
    safe.kill_by()
}

impl ElectArgs {
    /// Does it.
    ///
    /// # Errors
    /// When the candidate is refused, or the command was not started.
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let id = self.id.clone().map_or_else(|| make_id(&self.name), Ok)?;
        let variables = self.env.variables().map_err(RunError::from)?;
        let said = self.said()?;
        let mut signals = Signals::block(false)?;
        let heart = Heart::start(context.agent.clone(), id.clone(), said, PACE);
        let mut heart = begin(heart, &mut signals).await?;
        let mut teller = Teller::default();
        // The longest time for which the lead was ever certain. It outlives a loss: what comes after one may be little.
        let mut most = Duration::ZERO;
        loop {
            let Some((safe, term)) = self.wait(&mut heart, &mut most, &mut signals, &mut teller).await else {
                heart.withdraw().await;
                return Ok(DONE);
            };
            say("elect", &format!("leads {}", self.name));
            let mut variables = variables.clone();
            variables.push(("WEFT_TERM".into(), Some(term.map(|term| term.to_string()).unwrap_or_default().into())));
            let order = Order { command: self.command.clone(), variables, own_group: true };
            let registered = heart.last();
            let process = match Process::start(order, id.as_str(), kept(&registered).map(|(r, _)| r), &signals) {
                Ok(process) => process,
                Err(e) => {
                    heart.withdraw().await;
                    return Err(e.into());
                }
            };
            match self.lead(&mut heart, process, (safe, term), &mut signals, &mut teller).await? {
                End::Stopped(_) if !self.once => {
                    say("elect", &format!("leads {} no more; waits for it again", self.name));
                    heart.change(|said| said.candidate = Some(Candidacy::Stands));
                }
                End::Itself(code) | End::Stopped(code) => {
                    heart.withdraw().await;
                    return Ok(code);
                }
            }
        }
    }

    fn said(&self) -> Result<Register, Error> {
        Ok(Register {
            service: self.name.clone(),
            kind: Kind::Name,
            name: None,
            addresses: self.addresses.clone(),
            port: self.port,
            port_name: String::new(),
            proto: Proto::Tcp,
            labels: labels(&self.labels)?,
            ttl_ms: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            state: State::Up,
            priority: 0,
            weight: 0,
            check: None,
            candidate: Some(Candidacy::Stands),
            session: Some(make_session()),
        })
    }

    /// Waits for the lead, and for the agent to know that it is acted by. None if a signal asked for an end.
    async fn wait(
        &self,
        heart: &mut Heart,
        most: &mut Duration,
        signals: &mut Signals,
        teller: &mut Teller,
    ) -> Option<(Safe, Option<Revision>)> {
        let mut beat = heart.last();
        loop {
            teller.hear("elect", &beat);
            if let Some((registered, asked)) = kept(&beat) {
                let told = Duration::from_millis(registered.safe_for_ms);
                *most = told.max(*most);
                let safe = Safe::of(asked, told, *most, self.grace);
                match Next::of(registered, heart.is_current(&beat), safe.is_fresh(*most)) {
                    Next::Begin => return Some((safe, registered.term)),
                    Next::Say(how) => heart.change(|said| said.candidate = Some(how)),
                    Next::Wait => {}
                }
            }
            tokio::select! {
                next = heart.next() => beat = next,
                _ = signals.ending() => return None,
            }
        }
    }

    /// While the command runs.
    async fn lead(
        &self,
        heart: &mut Heart,
        mut process: Process,
        (mut safe, term): (Safe, Option<Revision>),
        signals: &mut Signals,
        teller: &mut Teller,
    ) -> Result<End, Error> {
        // When it is killed, once it has been told to stop for want of the lead.
        let mut stopping = process.keep_until(safe.kept_until()).err().map(|e| unkept(&process, &e, safe));
        loop {
            let next = stopping.unwrap_or_else(|| safe.stop_at());
            let Received { signal, .. } = tokio::select! {
                // A command that ended when it was to be stopped has ended, whatever else is true by now.
                biased;
                () = process.ended() => break,
                () = sleep_until(next) => {
                    if stopping.is_some() {
                        process.signal_group(Signal::SIGKILL);
                        process.ended().await;
                        break;
                    }
                    say("elect", "the lead is no longer certain: the command is stopped");
                    process.signal(Signal::SIGTERM);
                    stopping = Some(safe.kill_at());
                    continue;
                }
                beat = heart.next() => {
                    teller.hear("elect", &beat);
                    if let Some((registered, asked)) = kept(&beat) {
                        match holds(registered, term) {
                            Some(true) => {
                                safe = safe.renewed(asked, Duration::from_millis(registered.safe_for_ms));
                                if let Err(e) = process.keep_until(safe.kept_until()) {
                                    stopping = stopping.or_else(|| Some(unkept(&process, &e, safe)));
                                }
                            }
                            Some(false) if stopping.is_none() => {
                                say("elect", "the lead goes to another one: the command is stopped");
                                process.signal(Signal::SIGTERM);
                                stopping = Some(safe.kill_by());
                            }
                            Some(false) | None => {}
                        }
                    }
                    continue;
                }
                received = signals.next() => received,
            };
            match signal {
                Signal::SIGTSTP | Signal::SIGCONT | Signal::SIGWINCH => {
                    process.signal(signal);
                    if signal == Signal::SIGTSTP {
                        signals::stop();
                    }
                }
                signal => process.signal(signal),
            }
        }
        // This process was stopped, or the host suspended, and the keeper has done what was to be done.
        let is_over = BootTime::now() >= safe.kept_until();
        let code = process.reap()?;
        Ok(if stopping.is_some() || is_over { End::Stopped(code) } else { End::Itself(code) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_told_to_stop_and_killed_before_the_lead_is_uncertain() {
        let now = BootTime::now();
        for (safe, grace) in [(15_000, 3_000), (2_000, 3_000), (900, 100), (10, 3_000), (0, 3_000)] {
            let (safe, grace) = (Duration::from_millis(safe), Duration::from_millis(grace));
            let told = Safe::of(now, safe, safe, grace);
            assert!(
                told.stop_at() <= told.kill_at() && told.kill_at() <= told.kept_until() && told.kept_until() <= told.until,
                "{told:?}"
            );
            assert!(told.grace <= grace && told.kill_at().saturating_duration_since(told.stop_at()) == told.grace);
            assert!(told.stop_at() >= now, "there is time left to run: {told:?}");
        }
    }

    #[test]
    fn the_rest_of_a_lead_is_not_begun_with() {
        let (now, most) = (BootTime::now(), Duration::from_secs(9));
        let of = |safe: u64| Safe::of(now, Duration::from_secs(safe), most, Duration::from_secs(3));
        assert!(of(9).is_fresh(most) && of(6).is_fresh(most) && !of(3).is_fresh(most));
        assert!(of(6).stop_at() > now, "what is begun with has time to run");
    }

    #[test]
    fn a_later_answer_never_shortens_what_was_certain() {
        let now = BootTime::now();
        let told = Safe::of(now, Duration::from_secs(9), Duration::from_secs(9), Duration::from_secs(3));
        assert_eq!(told.renewed(now, Duration::from_secs(5)), told);
        let later = told.renewed(now.saturating_add(Duration::from_secs(1)), Duration::from_secs(9));
        assert_eq!((later.until, later.grace), (now.saturating_add(Duration::from_secs(10)), told.grace));
    }

    fn answer(lead: bool, lead_known: bool, candidate: Candidacy, term: i64) -> Registered {
        let how = serde_json::to_value(candidate).unwrap();
        let said = serde_json::json!({"service": "job", "kind": "name", "ttl_ms": 9000, "candidate": how});
        let answer = serde_json::json!({
            "id": "c1", "said": said, "born": 1, "expires_ms": 9000, "endpoint": null, "store": "written",
            "lead": lead, "lead_known": lead_known, "term": term, "safe_for_ms": 9000
        });
        serde_json::from_value(answer).unwrap()
    }

    #[test]
    fn only_an_answer_to_what_is_said_now_begins_anything() {
        use Candidacy::{Acts, Stands};
        for (answer, next) in [
            (answer(true, true, Stands, 5), Next::Say(Acts)),
            (answer(true, true, Acts, 5), Next::Begin),
            (answer(false, true, Acts, 5), Next::Say(Stands)),
            (answer(false, false, Acts, 5), Next::Wait),
            (answer(false, true, Stands, 5), Next::Wait),
        ] {
            assert_eq!(Next::of(&answer, true, true), next, "{answer:?}");
            assert_eq!(Next::of(&answer, false, true), Next::Wait, "of before the last change: {answer:?}");
        }
        assert_eq!(Next::of(&answer(true, false, Acts, 5), true, false), Next::Wait, "the rest of a lead");
    }

    #[test]
    fn another_term_or_one_that_is_not_acted_by_is_lost() {
        use Candidacy::{Acts, Stands};
        let term = Some(Revision(5));
        assert_eq!(holds(&answer(true, true, Acts, 5), term), Some(true));
        assert_eq!(holds(&answer(true, true, Acts, 6), term), Some(false));
        assert_eq!(holds(&answer(true, true, Stands, 5), term), Some(false));
        assert_eq!(holds(&answer(false, true, Acts, 5), term), Some(false));
        assert_eq!(holds(&answer(false, false, Acts, 5), term), None, "what was said last counts");
    }

    #[tokio::test]
    async fn a_change_makes_what_was_heard_before_it_stale() {
        let agent = crate::agent::Agent::at("/nonexistent/weft.sock".into());
        let answer = answer(true, true, Candidacy::Acts, 5);
        let heart = Heart::start(agent, answer.id.clone(), answer.said.clone(), PACE);
        let beat = crate::announce::heart::Beat::Kept(Box::new(answer), BootTime::now(), 0);
        assert!(heart.is_current(&beat));
        heart.change(|said| said.candidate = Some(Candidacy::Stands));
        assert!(!heart.is_current(&beat));
    }
}
