//! `netctl openapi`: all that an agent can be asked, for programs.

use super::Context;
use crate::error::{DONE, Error};

/// Prints the document as the agent sends it: JSON, or YAML with `-o yaml`.
///
/// # Errors
/// When there is no agent.
pub async fn execute(context: &mut Context) -> Result<u8, Error> {
    let document = context.agent.ask(context.agent.client().openapi()).await?;
    context.printer.document(&document)?;
    Ok(DONE)
}
