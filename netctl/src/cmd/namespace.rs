//! `netctl namespace`: names that services are told apart by.

use clap::{Args, Subcommand};
use weft_api::{NamespaceView, Precondition};
use weft_model::ids::Namespace;

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Page, cell, col};

/// `netctl namespace …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List namespaces
    List,
    /// Declare a namespace; one that is declared stays as it is
    Create(NameArgs),
    /// Take a declaration back, of a namespace with nothing in it
    Rm(NameArgs),
}

/// A namespace's name.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Its name: a DNS label
    #[arg(value_name = "NAME")]
    namespace: Namespace,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::List => "namespace list",
            Self::Create(_) => "namespace create",
            Self::Rm(_) => "namespace rm",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        let namespaces = match self {
            Self::List => {
                let namespaces = context.agent.ask(client.namespaces()).await?;
                context.printer.show(&namespaces, |namespaces, page| draw(namespaces, page))?;
                return Ok(DONE);
            }
            Self::Create(args) => context.agent.ask(client.namespace_put(&args.namespace, Precondition::None, false)).await?,
            Self::Rm(args) => context.agent.ask(client.namespace_rm(&args.namespace, Precondition::None, false)).await?,
        };
        context.printer.show(&namespaces, |namespace, page| draw(std::slice::from_ref(namespace), page))?;
        Ok(DONE)
    }
}

fn draw(namespaces: &[NamespaceView], page: &mut Page) {
    page.table(
        [col("NAMESPACE"), col("SERVICES"), col("ENDPOINTS")],
        namespaces.iter().map(|n| [cell(&n.namespace), cell(n.services), cell(n.endpoints)]),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn the_list_says_how_much_is_in_each() {
        let namespaces: Vec<NamespaceView> = serde_json::from_str(
            r#"[{"namespace":"default","services":2,"endpoints":5},{"namespace":"prod","services":0,"endpoints":1,"revision":7}]"#,
        )
        .unwrap();
        assert_eq!(
            drawn(false, |p| draw(&namespaces, p)),
            "\
NAMESPACE  SERVICES  ENDPOINTS
default    2         5
prod       0         1
"
        );
    }
}
