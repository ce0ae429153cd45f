//! Draining hosts and endpoints: the same words for both.

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;
use weft_api::{ClientError, DrainView, DrainedEndpoint, Draining};

use super::Context;
use crate::agent::Deadline;
use crate::error::{DONE, Error};
use crate::format::{Cell, Page, Tone, cell, col, list, or_none};
use crate::parse;

/// How long between two looks at how far it is.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether and how long to wait.
#[derive(Clone, Copy, Debug, Args)]
pub struct Wait {
    /// Wait until it is so: nothing new comes, and the connections that can be seen from here have ended
    #[arg(long)]
    wait: bool,
    /// How long to wait at most [default: 5m, or a minute more than the deadline]
    #[arg(long, value_name = "TIME", value_parser = parse::duration, requires = "wait")]
    timeout: Option<Duration>,
}

impl Wait {
    fn bound(self, how: Draining) -> Duration {
        let deadline = match how {
            Draining::Drain { deadline } => deadline.map(|time| time.saturating_add(Duration::from_secs(60))),
            Draining::Look | Draining::Undrain => None,
        };
        self.timeout.unwrap_or(deadline.unwrap_or_default().max(Duration::from_secs(300)))
    }
}

/// When open connections are waited for no longer.
#[derive(Clone, Copy, Debug, Args)]
pub struct Until {
    /// Take it out of use after this time, whatever is connected to it: nothing new goes there then, not even when nothing else is
    /// up. Connections that are open are left alone
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    deadline: Option<Duration>,
}

impl Until {
    /// What is asked for.
    #[must_use]
    pub fn drain(self) -> Draining {
        Draining::Drain { deadline: self.deadline }
    }
}

/// Asks, shows what came of it, and waits if that is wished. `question` is put first as `how`, then as a look.
///
/// # Errors
/// See [`Error`]; [`Error::Waited`] when it is not so in time.
pub async fn execute<F>(context: &mut Context, how: Draining, wait: Wait, question: impl Fn(Draining) -> F) -> Result<u8, Error>
where
    F: Future<Output = Result<DrainView, ClientError>>,
{
    let bound = wait.bound(how);
    let deadline = Deadline::after(bound);
    let mut view = context.agent.ask(question(how)).await?;
    while wait.wait && !view.done {
        if deadline.left().is_zero() {
            context.printer.show(&view, draw)?;
            return Err(Error::Waited { after: bound, why: view.waits_for.join("; ") });
        }
        sleep(PAUSE.min(deadline.left())).await;
        view = match context.agent.ask(question(Draining::Look)).await {
            // An agent that restarts is no reason to stop looking.
            Err(Error::Client(e)) if e.is_passing() && !deadline.left().is_zero() => continue,
            answer => answer?,
        };
    }
    context.printer.show(&view, draw)?;
    Ok(DONE)
}

fn draw(view: &DrainView, page: &mut Page) {
    if let Some(node) = &view.node {
        page.field("node", cell(node));
    }
    let open: usize = view.endpoints.iter().filter_map(|e| e.connections).sum();
    let state = match (view.wished, view.done) {
        (true, true) if view.overdue && open > 0 => {
            Cell::toned(format_args!("out of use: its deadline has passed, with {open} connections open"), Tone::Good)
        }
        (true, true) if view.overdue => Cell::toned("out of use: its deadline has passed", Tone::Good),
        (true, true) => Cell::toned("drained", Tone::Good),
        (true, false) => Cell::toned("draining", Tone::Warn),
        (false, true) => Cell::toned("not drained", Tone::Good),
        (false, false) => Cell::toned("coming back", Tone::Warn),
    };
    page.field("state", state);
    page.field("since", or_none(view.since.as_ref()));
    page.field("asked", or_none(view.by.as_ref()));
    if let Some(deadline) = &view.deadline {
        page.field("deadline", cell(deadline));
    }
    for waits in &view.waits_for {
        page.field("waits for", cell(waits));
    }
    let row = |e: &DrainedEndpoint| {
        let connections = e.connections.map_or_else(|| "?".to_owned(), |n| n.to_string());
        [
            cell(&e.id),
            cell(&e.dns_name),
            or_none(e.node.as_ref()),
            super::endpoint::state(e.state),
            list(&e.used_by),
            cell(connections),
        ]
    };
    page.table(
        [col("ID"), col("NAME"), col("NODE"), col("STATE"), col("USED BY"), col("CONNECTIONS")],
        view.endpoints.iter().map(row),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn what_is_waited_for_ends_after_the_deadline() {
        let wait = |timeout| Wait { wait: true, timeout };
        let drain = |seconds| Draining::Drain { deadline: Some(Duration::from_secs(seconds)) };
        assert_eq!(wait(None).bound(Draining::Undrain), Duration::from_secs(300));
        assert_eq!(
            (wait(None).bound(drain(10)), wait(None).bound(drain(600))),
            (Duration::from_secs(300), Duration::from_secs(660))
        );
        assert_eq!(wait(Some(PAUSE)).bound(drain(600)), PAUSE);
    }

    #[test]
    fn a_deadline_that_has_passed_is_said_with_what_is_open() {
        let view: DrainView = serde_json::from_str(
            r#"{"wished":true,"deadline":"2026-01-02T03:04:35.000Z","overdue":true,"done":true,"endpoints":[{"id":"web-1",
                "dns_name":"web-1.myapp.skydns.local.","node":"h1","state":"down","used_by":[],"connections":2}]}"#,
        )
        .unwrap();
        let shown = drawn(false, |page| draw(&view, page));
        for part in ["out of use: its deadline has passed, with 2 connections open", "2026-01-02T03:04:35.000Z"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn a_drain_shows_what_it_waits_for() {
        let view: DrainView = serde_json::from_str(
            r#"{"wished":true,"since":"2026-01-02T03:04:05Z","by":"h2","done":false,"waits_for":["2 connections to web-1 are open"],
                "endpoints":[{"id":"web-1","dns_name":"web-1.myapp.skydns.local.","node":"h1","state":"draining","used_by":[],"connections":2},
                    {"id":"web-2","dns_name":"web-2.myapp.skydns.local.","node":"h3","state":"draining","used_by":["default/myapp"],"connections":null}]}"#,
        )
        .unwrap();
        let shown = drawn(false, |page| draw(&view, page));
        for part in ["draining", "2026-01-02T03:04:05Z", "h2", "2 connections to web-1 are open", "default/myapp", "?"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
