//! `netctl config`: settings that are equal on all hosts.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use weft_api::{Config, ConfigChange};

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Page, cell, list};
use crate::parse;

/// `netctl config …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the settings
    Show,
    /// Change what is named, leave the rest
    Set(SetArgs),
}

/// Arguments of `config set`.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct SetArgs {
    /// Where virtual IPs are taken from; repeat it for several. Replaces the whole list
    #[arg(long = "service-cidr", value_name = "CIDR", value_parser = parse::network)]
    service_cidrs: Vec<IpNet>,
    /// The domain of names
    #[arg(long, value_name = "DOMAIN")]
    dns_domain: Option<String>,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Show => "config show",
            Self::Set(_) => "config set",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        let config = match self {
            Self::Show => context.agent.ask(client.config()).await?,
            Self::Set(args) => context.agent.ask(client.config_change(&args.into())).await?,
        };
        context.printer.show(&config, draw)?;
        Ok(DONE)
    }
}

impl From<SetArgs> for ConfigChange {
    fn from(args: SetArgs) -> Self {
        let cidrs = Some(args.service_cidrs).filter(|c| !c.is_empty());
        Self { service_cidrs: cidrs, dns_domain: args.dns_domain }
    }
}

fn draw(config: &Config, page: &mut Page) {
    page.field("service CIDRs", list(&config.service_cidrs));
    page.field("dns domain", cell(&config.dns_domain));
}
