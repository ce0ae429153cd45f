//! `netctl drops`: what the programs and the nft table dropped, and why; now, or as it happens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use weft_api::{Drops, VerdictView};

use super::Context;
use crate::error::{DONE, Error, say};
use crate::format::{Cell, Page, Tone, cell, col};

/// How often the agent is asked with `--follow`.
const PERIOD: Duration = Duration::from_secs(1);

/// Arguments of `drops`.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Every verdict, also of what was sent on or handed to the network stack
    #[arg(long)]
    all: bool,
    /// Go on and print what is added, each second, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

impl DropsArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let drops = context.agent.ask(context.agent.client().drops(self.all)).await?;
        if !self.follow {
            context.printer.show(&drops, draw)?;
            return Ok(DONE);
        }
        tokio::select! {
            followed = follow(context, self.all, drops) => followed,
            // Where Ctrl-C cannot be caught it ends the process by itself.
            Ok(()) = tokio::signal::ctrl_c() => Ok(DONE),
        }
    }
}

/// Prints increases until the reader goes away. An agent that restarts is waited for: its counters stay in the kernel.
async fn follow(context: &mut Context, all: bool, first: Drops) -> Result<u8, Error> {
    let mut seen = Seen::default();
    seen.take(&first);
    if let Some(why) = &first.why_not {
        say("drops", &format!("the programs count nothing: {why}"));
    }
    let mut away = false;
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        match context.agent.ask(context.agent.client().drops(all)).await {
            Ok(drops) => {
                away = false;
                let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
                for added in seen.take(&drops) {
                    context.printer.event(&Increase { time: time.clone(), added }, line)?;
                }
            }
            Err(e) if is_passing(&e) => {
                if !std::mem::replace(&mut away, true) {
                    say("drops", &format!("{}; going on when it is back", e.chain()));
                }
            }
            Err(e) => return Err(e),
        }
    }
}

fn is_passing(error: &Error) -> bool {
    match error {
        Error::Client(e) => e.is_passing(),
        Error::Silent { .. } => true,
        _ => false,
    }
}

/// What was added since the last look.
#[derive(Debug, Serialize)]
struct Increase {
    /// When it was seen, RFC 3339.
    time: String,
    /// The verdict, with what was added as its packets and bytes.
    #[serde(flatten)]
    added: VerdictView,
}

fn line(increase: &Increase) -> String {
    let Increase { time, added: VerdictView { verdict, hook, direction, action, packets, bytes } } = increase;
    format!("{time}  {action:<5}  {hook:<9}  {direction:<4}  {verdict}  +{packets} packets  +{bytes} bytes")
}

/// What was counted at the last look: packets and bytes by verdict and hook.
#[derive(Debug, Default)]
struct Seen(BTreeMap<(String, String), (u64, u64)>);

impl Seen {
    /// What these counters have more than the last ones. Counters that are less than they were began anew.
    fn take(&mut self, drops: &Drops) -> Vec<VerdictView> {
        let mut added = Vec::new();
        for now in &drops.verdicts {
            let (packets, bytes) =
                self.0.insert((now.verdict.clone(), now.hook.clone()), (now.packets, now.bytes)).unwrap_or_default();
            let (packets, bytes) = if now.packets < packets { (0, 0) } else { (packets, bytes) };
            if now.packets > packets {
                added.push(VerdictView { packets: now.packets - packets, bytes: now.bytes.saturating_sub(bytes), ..now.clone() });
            }
        }
        added
    }
}

fn draw(drops: &Drops, page: &mut Page) {
    if let Some(why) = &drops.why_not {
        page.field("the programs count nothing", Cell::toned(why, Tone::Warn));
    }
    if drops.verdicts.is_empty() {
        return;
    }
    page.table(
        [col("VERDICT"), col("HOOK"), col("DIRECTION"), col("ACTION"), col("PACKETS"), col("BYTES")],
        drops.verdicts.iter().map(|v| {
            let tone = if v.action == "drop" && v.packets > 0 { Tone::Warn } else { Tone::Plain };
            [
                Cell::toned(&v.verdict, tone),
                cell(&v.hook),
                cell(&v.direction),
                cell(&v.action),
                Cell::toned(v.packets, tone),
                cell(v.bytes),
            ]
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    fn drops(packets: u64, bytes: u64) -> Drops {
        let spoofed = VerdictView {
            verdict: "container_spoofed_source".to_owned(),
            hook: "container".to_owned(),
            direction: "out".to_owned(),
            action: "drop".to_owned(),
            packets,
            bytes,
        };
        Drops { verdicts: vec![spoofed], why_not: None }
    }

    #[test]
    fn every_reason_is_a_line() {
        assert_eq!(
            drawn(false, |p| draw(&drops(3, 294), p)),
            "\
VERDICT                   HOOK       DIRECTION  ACTION  PACKETS  BYTES
container_spoofed_source  container  out        drop    3        294
"
        );
    }

    #[test]
    fn without_programs_it_says_why_nothing_is_counted() {
        let none = Drops { verdicts: Vec::new(), why_not: Some("not permitted to use eBPF".to_owned()) };
        assert_eq!(drawn(false, |p| draw(&none, p)), "the programs count nothing  not permitted to use eBPF\n");
    }

    #[test]
    fn only_what_was_added_is_told_and_counters_that_begin_anew_are_not_negative() {
        let mut seen = Seen::default();
        seen.take(&drops(3, 294));
        assert!(seen.take(&drops(3, 294)).is_empty());
        let added = seen.take(&drops(5, 490));
        assert_eq!((added[0].packets, added[0].bytes), (2, 196));
        let anew = seen.take(&drops(1, 98));
        assert_eq!((anew[0].packets, anew[0].bytes), (1, 98));
        let increase = Increase { time: "2026-01-02T03:04:05Z".to_owned(), added: anew[0].clone() };
        assert_eq!(
            line(&increase),
            "2026-01-02T03:04:05Z  drop   container  out   container_spoofed_source  +1 packets  +98 bytes"
        );
        let json = serde_json::to_value(&increase).unwrap();
        assert_eq!((&json["time"], &json["packets"]), (&"2026-01-02T03:04:05Z".into(), &1.into()));
    }
}
