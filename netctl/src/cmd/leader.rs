//! `netctl service leader`: who leads, and who is to.

use clap::Args;
use weft_api::{LeadBy, LeaderSet, LeaderView};
use weft_model::ids::ServiceName;

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Page, cell, list, or_none};

/// Arguments of `service leader`.
#[derive(Debug, Args)]
pub struct LeaderArgs {
    /// A service, or any name that endpoints have: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    service: ServiceName,
    /// This endpoint is to lead from now on, while it is up
    #[arg(long, value_name = "ID", conflicts_with = "oldest")]
    set: Option<String>,
    /// Nobody in particular is to lead: the oldest that is up does
    #[arg(long)]
    oldest: bool,
}

impl LeaderArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        let of = &self.service;
        let leader = match (self.set, self.oldest) {
            (Some(id), _) => context.agent.ask(client.leader_set(of, &LeaderSet { id })).await?,
            (None, true) => context.agent.ask(client.leader_unset(of)).await?,
            (None, false) => context.agent.ask(client.leader(of)).await?,
        };
        context.printer.show(&leader, draw)?;
        Ok(DONE)
    }
}

fn draw(view: &LeaderView, page: &mut Page) {
    let leader = view.leader.as_ref();
    page.field("service", cell(&view.service));
    page.field("leader", or_none(leader.map(|e| &e.id)));
    page.field("by", cell(by(view.by)));
    page.field("set by hand", or_none(view.manual.as_ref()));
    page.field("node", or_none(leader.and_then(|e| e.node.as_ref())));
    page.field("addresses", list(leader.into_iter().flat_map(|e| &e.addresses).map(ToString::to_string)));
    page.field("dns name", cell(&view.dns_name));
}

fn by(by: LeadBy) -> &'static str {
    match by {
        LeadBy::Oldest => "oldest",
        LeadBy::Manual => "manual",
        LeadBy::Election => "election",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn a_leader_is_shown_with_the_reason_and_none_too() {
        let view = |leader: &str| -> LeaderView {
            let json =
                format!(r#"{{"service":"default/app","leader":{leader},"by":"manual","manual":"a","dns_name":"leader.app.x."}}"#);
            serde_json::from_str(&json).unwrap()
        };
        let some = view(r#"{"id":"a","name":"a","addresses":["10.0.0.1"],"ports":[],"node":"h1","state":"up"}"#);
        let shown = drawn(false, |p| draw(&some, p));
        assert!(
            shown.contains("a\n") && shown.contains("manual") && shown.contains("10.0.0.1") && shown.contains("leader.app.x."),
            "{shown}"
        );
        assert!(drawn(false, |p| draw(&view("null"), p)).contains('-'));
    }
}
