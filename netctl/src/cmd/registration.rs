//! `netctl registration`: what programs of this host have registered with its agent.

use std::time::Duration;

use clap::{Args, Subcommand};
use weft_api::Registered;
use weft_model::ids::EndpointId;
use weft_model::record::Kind;

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Cell, Page, Tone, cell, col, labels, list, or_none};

/// `netctl registration …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what is registered on this host, and for how long yet
    List,
    /// Show one
    Show(IdArgs),
    /// Withdraw one. A program that goes on saying it is registered again
    Rm(IdArgs),
}

/// Which one.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// Its id
    #[arg(value_name = "ID")]
    id: EndpointId,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::List => "registration list",
            Self::Show(_) => "registration show",
            Self::Rm(_) => "registration rm",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        let one = match self {
            Self::List => {
                let all = context.agent.ask(client.registrations()).await?;
                context.printer.show(&all, |all, page| draw(all, page))?;
                return Ok(DONE);
            }
            Self::Show(args) => context.agent.ask(client.registration(args.id.as_str())).await?,
            Self::Rm(args) => context.agent.ask(client.unregister(args.id.as_str())).await?,
        };
        context.printer.show(&one, draw_one)?;
        Ok(DONE)
    }
}

fn draw(all: &[Registered], page: &mut Page) {
    page.table(
        [col("ID"), col("SERVICE"), col("ADDRESSES"), col("PORT"), col("STATE"), col("STORE"), col("LEADS"), col("LEFT")],
        all.iter().map(|r| {
            [
                cell(&r.id),
                cell(&r.said.service),
                list(&r.said.addresses),
                or_none(r.said.port),
                state(r),
                store(r),
                cell(leads(r)),
                cell(left(r)),
            ]
        }),
    );
}

fn draw_one(registered: &Registered, page: &mut Page) {
    let said = &registered.said;
    let port = said.port.map(|port| format!("{port}/{}", said.proto));
    for (name, value) in [
        ("id", cell(&registered.id)),
        ("service", cell(&said.service)),
        ("kind", cell(if said.kind == Kind::Service { "service" } else { "name" })),
        ("addresses", list(&said.addresses)),
        ("network", or_none(registered.network.as_ref())),
        ("port", or_none(port)),
        ("state", state(registered)),
        ("labels", labels(&said.labels)),
        ("check", or_none(said.check.as_ref())),
        ("store", store(registered)),
        ("leads", cell(leads(registered))),
        ("ttl", cell(span(said.ttl_ms))),
        ("left", cell(left(registered))),
    ] {
        page.field(name, value);
    }
}

/// As everybody sees it, which may be otherwise than it was said: checks, drains. None as long as the store has not been read.
fn state(registered: &Registered) -> Cell {
    or_none(registered.endpoint.as_ref().map(|endpoint| endpoint.state))
}

fn store(registered: &Registered) -> Cell {
    let tone = if registered.store == "written" { Tone::Plain } else { Tone::Warn };
    Cell::toned(&registered.store, tone)
}

fn leads(registered: &Registered) -> &'static str {
    match (registered.lead, registered.lead_known) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "unknown",
    }
}

fn left(registered: &Registered) -> String {
    span(registered.expires_ms)
}

/// To the second, and below one as it is.
fn span(ms: u64) -> String {
    let ms = if ms >= 1000 { ms / 1000 * 1000 } else { ms };
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    fn registered(id: &str, more: &str) -> Registered {
        let said = r#"{"service":"prod/web","port":80,"addresses":["10.244.3.5"],"ttl_ms":15000,"labels":{"tier":"front"}}"#;
        let text = format!(r#"{{"id":"{id}","said":{said},"born":1,"expires_ms":8421,"endpoint":null,"safe_for_ms":0,{more}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_list_says_what_is_there_and_for_how_long() {
        let all = [
            registered("web-1", r#""store":"written","lead":true,"lead_known":true"#),
            registered("web-2", r#""store":"pending","lead":false,"lead_known":false"#),
        ];
        assert_eq!(
            drawn(false, |p| draw(&all, p)),
            "\
ID     SERVICE   ADDRESSES   PORT  STATE  STORE    LEADS    LEFT
web-1  prod/web  10.244.3.5  80    -      written  yes      8s
web-2  prod/web  10.244.3.5  80    -      pending  unknown  8s
"
        );
    }

    #[test]
    fn one_is_shown_with_all_that_was_said() {
        let one = registered("web-1", r#""store":"written","lead":false,"lead_known":true"#);
        let text = drawn(false, |p| draw_one(&one, p));
        for line in ["service    prod/web", "port       80/tcp", "labels     tier=front", "ttl        15s", "left       8s"] {
            assert!(text.contains(line), "{text}");
        }
    }
}
