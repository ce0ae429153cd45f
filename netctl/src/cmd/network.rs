//! `netctl network`: the configuration that hosts take their subnets from.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use ipnet::Ipv4Net;
use weft_api::{Network, NetworkInit};

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Page, cell};
use crate::parse;

/// `netctl network …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the network
    Show,
    /// Write the network's configuration where there is none
    Init(InitArgs),
}

/// Arguments of `network init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The whole network, IPv4
    #[arg(long, value_name = "CIDR", value_parser = parse::ipv4_network)]
    cidr: Ipv4Net,
    /// Prefix length of a host's subnet [default: 24, or less room in a small network]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    subnet_len: Option<u8>,
    /// The first subnet that may be given
    #[arg(long, value_name = "ADDRESS")]
    subnet_min: Option<Ipv4Addr>,
    /// The last subnet that may be given
    #[arg(long, value_name = "ADDRESS")]
    subnet_max: Option<Ipv4Addr>,
    /// VXLAN network identifier [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=0xff_ffff))]
    vni: Option<u32>,
    /// UDP port of the tunnel [default: 8472]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// MTU of the underlay, where it is not the uplink's own
    #[arg(long, value_name = "N")]
    mtu: Option<u32>,
    /// Replace a configuration that is there and differs
    #[arg(long)]
    force: bool,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Show => "network show",
            Self::Init(_) => "network init",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        let network = match self {
            Self::Show => context.agent.ask(client.network()).await?,
            Self::Init(args) => context.agent.ask(client.network_init(&args.into())).await?,
        };
        context.printer.show(&network, draw)?;
        Ok(DONE)
    }
}

impl From<InitArgs> for NetworkInit {
    fn from(args: InitArgs) -> Self {
        let InitArgs { cidr, subnet_len, subnet_min, subnet_max, vni, port, mtu, force } = args;
        Self { cidr, subnet_len, subnet_min, subnet_max, vni, port, mtu, force }
    }
}

fn draw(network: &Network, page: &mut Page) {
    page.field("network", cell(network.cidr));
    page.field("subnets", cell(format_args!("/{}, {} to {}", network.subnet_len, network.subnet_min, network.subnet_max)));
    page.field("taken", cell(format_args!("{} of {}", network.taken, network.capacity)));
    page.field("backend", cell(format_args!("vxlan, vni {}, udp port {}", network.vni, network.port)));
    match network.mtu {
        Some(mtu) => page.field("mtu", cell(mtu)),
        None => page.field("mtu", cell("as the uplink")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn a_network_shows_how_much_of_it_is_left() {
        let network = Network {
            cidr: "10.244.0.0/16".parse().unwrap(),
            subnet_len: 24,
            subnet_min: Ipv4Addr::new(10, 244, 1, 0),
            subnet_max: Ipv4Addr::new(10, 244, 255, 0),
            vni: 1,
            port: 8472,
            mtu: None,
            capacity: 255,
            taken: 3,
        };
        assert_eq!(
            drawn(false, |p| draw(&network, p)),
            "\
network  10.244.0.0/16
subnets  /24, 10.244.1.0 to 10.244.255.0
taken    3 of 255
backend  vxlan, vni 1, udp port 8472
mtu      as the uplink
"
        );
    }
}
