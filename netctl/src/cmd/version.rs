//! `netctl version`.

use serde::Serialize;

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Page, cell, or_none};

/// Both versions.
#[derive(Debug, Serialize)]
struct Versions {
    /// Of this program.
    netctl: &'static str,
    /// Of the agent, if one answers.
    weftd: Option<String>,
}

/// Shows the versions. That no agent answers is part of the answer, not a failure.
///
/// # Errors
/// When it cannot be printed.
pub async fn execute(context: &mut Context) -> Result<u8, Error> {
    let agent = context.agent.ask(context.agent.client().status()).await;
    let versions = Versions { netctl: env!("CARGO_PKG_VERSION"), weftd: agent.ok().map(|status| status.version) };
    context.printer.show(&versions, draw)?;
    Ok(DONE)
}

fn draw(versions: &Versions, page: &mut Page) {
    page.field("netctl", cell(versions.netctl));
    page.field("weftd", or_none(versions.weftd.as_ref()));
}
