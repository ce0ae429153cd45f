//! `netctl plan`: what the agent would change now, and why.

use weft_api::{Plan, PlannedKind};

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Cell, Page, Tone, cell, col, or_none};

/// Shows it. That there is something to do is no failure.
///
/// # Errors
/// When there is no agent, or it does not know yet what there should be.
pub async fn execute(context: &mut Context) -> Result<u8, Error> {
    let plan = context.agent.ask(context.agent.client().plan()).await?;
    context.printer.show(&plan, draw)?;
    Ok(DONE)
}

fn draw(plan: &Plan, page: &mut Page) {
    page.field("revision", cell(plan.revision));
    for problem in &plan.problems {
        page.field("not seen", Cell::toned(problem, Tone::Warn));
    }
    if plan.actions.is_empty() {
        page.field("actions", Cell::toned("nothing to do", Tone::Good));
        return;
    }
    page.heading("ACTIONS");
    page.table(
        [col("KIND"), col("ACTION"), col("REASON")],
        plan.actions.iter().map(|a| [cell(kind(a.kind)), cell(&a.action), or_none(a.reason.as_ref())]),
    );
}

fn kind(kind: PlannedKind) -> &'static str {
    match kind {
        PlannedKind::Kernel => "kernel",
        PlannedKind::Map => "map",
        PlannedKind::Link => "link",
        PlannedKind::Filter => "filter",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn what_is_to_do_is_told_with_its_reason() {
        let plan: Plan = serde_json::from_str(
            r#"{"revision":42,"actions":[
                {"kind":"kernel","action":"add route 10.244.7.0/24 via 10.244.7.0 dev weft.1 onlink","reason":"peer h2"},
                {"kind":"link","action":"detach container-old","reason":null}]}"#,
        )
        .unwrap();
        assert_eq!(
            drawn(false, |p| draw(&plan, p)),
            "\
revision  42

ACTIONS
KIND    ACTION                                                    REASON
kernel  add route 10.244.7.0/24 via 10.244.7.0 dev weft.1 onlink  peer h2
link    detach container-old                                      -
"
        );
    }

    #[test]
    fn nothing_to_do_is_said_and_what_was_not_seen_too() {
        let plan: Plan = serde_json::from_str(r#"{"revision":42,"actions":[],"problems":["no eBPF"]}"#).unwrap();
        assert_eq!(drawn(false, |p| draw(&plan, p)), "revision  42\nnot seen  no eBPF\nactions   nothing to do\n");
    }
}
