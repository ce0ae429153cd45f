//! `netctl node`: hosts.

use clap::{Args, Subcommand};
use weft_api::{Draining, NodeView};
use weft_model::ids::NodeName;

use super::{Context, drain};
use crate::error::{DONE, Error};
use crate::format::{Cell, Page, Tone, cell, col, list, or_none, wide};

/// `netctl node …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List hosts
    List,
    /// Show one host
    Show(NameArgs),
    /// Free the subnet of a dead host early, and remove its records
    Rm(NameArgs),
    /// Send nothing new to what is on a host while others are up, for the time of its maintenance; open connections are left
    /// alone, and what is attached there meanwhile comes draining
    Drain {
        #[command(flatten)]
        args: DrainArgs,
        #[command(flatten)]
        until: drain::Until,
    },
    /// Send to a host again that was drained
    Undrain(DrainArgs),
}

/// Arguments of `node drain` and `node undrain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The host's name
    #[arg(value_name = "NAME")]
    node: NodeName,
    #[command(flatten)]
    wait: drain::Wait,
}

/// A host's name.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The host's name
    #[arg(value_name = "NAME")]
    node: NodeName,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::List => "node list",
            Self::Show(_) => "node show",
            Self::Rm(_) => "node rm",
            Self::Drain { .. } => "node drain",
            Self::Undrain(_) => "node undrain",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client().clone();
        match self {
            Self::List => {
                let nodes = context.agent.ask(client.nodes()).await?;
                context.printer.show(&nodes, |nodes, page| draw_list(nodes, page))?;
            }
            Self::Show(args) => {
                let node = context.agent.ask(client.node(&args.node)).await?;
                context.printer.show(&node, draw)?;
            }
            Self::Rm(args) => {
                let removed = context.agent.ask(client.node_rm(&args.node)).await?;
                context.printer.show(&removed, draw_removed)?;
            }
            Self::Drain { args, until } => {
                return drain::execute(context, until.drain(), args.wait, |how| client.node_drain(how, &args.node)).await;
            }
            Self::Undrain(args) => {
                return drain::execute(context, Draining::Undrain, args.wait, |how| client.node_drain(how, &args.node)).await;
            }
        }
        Ok(DONE)
    }
}

fn draw_list(nodes: &[NodeView], page: &mut Page) {
    page.table(
        [
            col("NODE"),
            col("ALIVE"),
            col("SUBNET"),
            col("PUBLIC IP"),
            col("ENDPOINTS"),
            col("VERSION"),
            col("HERE"),
            wide("SINCE"),
            wide("CAPABILITIES"),
        ],
        nodes.iter().map(|node| {
            [
                cell(&node.node),
                alive(node),
                or_none(node.subnet),
                or_none(node.public_ip),
                cell(node.endpoints),
                or_none(node.version.as_ref()),
                cell(if node.this { "*" } else { "" }),
                or_none(node.since.as_ref()),
                list(&node.capabilities),
            ]
        }),
    );
}

fn draw(node: &NodeView, page: &mut Page) {
    page.field("node", cell(&node.node));
    page.field("alive", alive(node));
    page.field("subnet", or_none(node.subnet));
    page.field("public ip", or_none(node.public_ip));
    page.field("endpoints", cell(node.endpoints));
    page.field("version", or_none(node.version.as_ref()));
    page.field("since", or_none(node.since.as_ref()));
    page.field("capabilities", list(&node.capabilities));
    page.field("this host", cell(if node.this { "yes" } else { "no" }));
}

fn draw_removed(node: &NodeView, page: &mut Page) {
    page.field("node", cell(&node.node));
    page.field("subnet", or_none(node.subnet));
    page.field("state", cell("removed"));
}

fn alive(node: &NodeView) -> Cell {
    match node.alive {
        Some(true) if node.drained => Cell::toned("yes, drained", Tone::Warn),
        Some(true) => Cell::toned("yes", Tone::Good),
        Some(false) if node.drained => Cell::toned("no, drained", Tone::Bad),
        Some(false) => Cell::toned("no", Tone::Bad),
        None => Cell::toned("unknown", Tone::Weak),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn hosts_of_ours_and_of_flannel_are_listed() {
        let nodes: Vec<NodeView> = serde_json::from_str(
            r#"[{"node":"h1","alive":true,"subnet":"10.244.3.0/24","public_ip":"192.0.2.7","version":"0.1.0","endpoints":2,"this":true,
                 "since":"2026-01-02T03:04:05Z","capabilities":["fast"]},
                {"node":"192.0.2.9","alive":null,"subnet":"10.244.9.0/24","public_ip":"192.0.2.9","version":null}]"#,
        )
        .unwrap();
        assert_eq!(
            drawn(false, |p| draw_list(&nodes, p)),
            "\
NODE       ALIVE    SUBNET         PUBLIC IP  ENDPOINTS  VERSION  HERE
h1         yes      10.244.3.0/24  192.0.2.7  2          0.1.0    *
192.0.2.9  unknown  10.244.9.0/24  192.0.2.9  0          -
"
        );
        assert!(drawn(true, |p| draw_list(&nodes, p)).contains("2026-01-02T03:04:05Z  fast\n"));
    }
}
