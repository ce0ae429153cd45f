//! `netctl network`: the configuration that hosts take their subnets from.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use ipnet::{Ipv4Net, Ipv6Net};
use weft_api::{Network, NetworkChange, NetworkCreate, NetworkInit, ReservationView, Reserve};
use weft_model::ids::{NetworkName, NodeName};

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Cell, Page, Tone, cell, col, or_none};
use crate::parse;

/// `netctl network …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a network
    Show(ShowArgs),
    /// List networks
    List,
    /// Make a network besides the default one: its own range, its own VNI, apart from all others
    Create(CreateArgs),
    /// Remove a network that nobody uses
    Rm(RmArgs),
    /// Write the network's configuration where there is none
    Init(InitArgs),
    /// Change what is named while the network runs, leave the rest
    Set(SetArgs),
    /// Keep a subnet for a host, whether it is there yet or not
    Reserve(ReserveArgs),
    /// List subnets that are kept for hosts
    Reservations,
    /// Give a host's reservation up; a subnet that it has stays its own
    Unreserve(UnreserveArgs),
}

/// Arguments of `network show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The network [default: default]
    #[arg(value_name = "NETWORK")]
    network: Option<NetworkName>,
}

/// Arguments of `network rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The network
    #[arg(value_name = "NETWORK")]
    network: NetworkName,
}

/// Arguments of `network create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name: a label of a-z, 0-9 and '-'
    #[arg(value_name = "NETWORK")]
    name: NetworkName,
    /// The whole network, IPv4; of no other network, and no range of virtual IPs
    #[arg(long, value_name = "CIDR", value_parser = parse::ipv4_network)]
    cidr: Ipv4Net,
    /// VXLAN network identifier, of no other network
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=0xff_ffff))]
    vni: u32,
    /// Prefix length of a host's subnet [default: 24, or less room in a small network]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    subnet_len: Option<u8>,
    /// UDP port of the tunnel [default: 8472]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

/// Arguments of `network set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    #[command(flatten)]
    change: Change,
    /// Do it although hosts are left with subnets that do not fit
    #[arg(long)]
    force: bool,
}

/// What `network set` changes.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// The whole network, IPv4. A wider one disturbs nobody
    #[arg(long, value_name = "CIDR", value_parser = parse::ipv4_network)]
    cidr: Option<Ipv4Net>,
    /// Prefix length of a host's subnet
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    subnet_len: Option<u8>,
    /// The first subnet that may be given
    #[arg(long, value_name = "ADDRESS")]
    subnet_min: Option<Ipv4Addr>,
    /// The last subnet that may be given
    #[arg(long, value_name = "ADDRESS")]
    subnet_max: Option<Ipv4Addr>,
    /// VXLAN network identifier. Packets between hosts are lost for a moment
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=0xff_ffff))]
    vni: Option<u32>,
    /// UDP port of the tunnel. Packets between hosts are lost for a moment
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// MTU of the underlay; 0 is the uplink's own
    #[arg(long, value_name = "N")]
    mtu: Option<u32>,
    /// Whether hosts on one link send each other packets as they are
    #[arg(long, value_name = "BOOL")]
    direct_routing: Option<bool>,
}

/// Arguments of `network reserve`.
#[derive(Debug, Args)]
pub struct ReserveArgs {
    /// The host's name; of a host that runs flannel, its tunnel address
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// The subnet
    #[arg(value_name = "SUBNET", value_parser = parse::ipv4_network)]
    subnet: Ipv4Net,
}

/// Arguments of `network unreserve`.
#[derive(Debug, Args)]
pub struct UnreserveArgs {
    /// The host's name
    #[arg(value_name = "NODE")]
    node: NodeName,
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
    /// An IPv6 network beside it: containers have an address of each
    #[arg(long, value_name = "CIDR", value_parser = parse::ipv6_network)]
    cidr6: Option<Ipv6Net>,
    /// Prefix length of a host's IPv6 subnet [default: 64, or less room in a small network]
    #[arg(long, value_name = "N", requires = "cidr6", value_parser = clap::value_parser!(u8).range(1..=128))]
    subnet_len6: Option<u8>,
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
            Self::Show(_) => "network show",
            Self::List => "network list",
            Self::Create(_) => "network create",
            Self::Rm(_) => "network rm",
            Self::Init(_) => "network init",
            Self::Set(_) => "network set",
            Self::Reserve(_) => "network reserve",
            Self::Reservations => "network reservations",
            Self::Unreserve(_) => "network unreserve",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        let network = match self {
            Self::Show(ShowArgs { network: None }) => context.agent.ask(client.network()).await?,
            Self::Show(ShowArgs { network: Some(name) }) => context.agent.ask(client.network_named(&name)).await?,
            Self::List => {
                let networks = context.agent.ask(client.networks()).await?;
                context.printer.show(&networks, |networks, page| draw_list(networks, page))?;
                return Ok(DONE);
            }
            Self::Create(CreateArgs { name, cidr, vni, subnet_len, port }) => {
                let create = NetworkCreate { name, cidr, vni, subnet_len, port };
                context.agent.ask(client.network_create(&create)).await?
            }
            Self::Rm(RmArgs { network }) => {
                let gone = context.agent.ask(client.network_rm(&network)).await?;
                context.printer.show(&gone, draw_removed)?;
                return Ok(DONE);
            }
            Self::Init(args) => context.agent.ask(client.network_init(&args.into())).await?,
            Self::Set(args) => context.agent.ask(client.network_set(&args.into())).await?,
            Self::Reserve(ReserveArgs { node, subnet }) => {
                let kept = context.agent.ask(client.reserve(&Reserve { node, subnet })).await?;
                context.printer.show(&kept, draw_reservation)?;
                return Ok(DONE);
            }
            Self::Reservations => {
                let kept = context.agent.ask(client.reservations()).await?;
                context.printer.show(&kept, |kept, page| draw_reservations(kept, page))?;
                return Ok(DONE);
            }
            Self::Unreserve(UnreserveArgs { node }) => {
                let gone = context.agent.ask(client.unreserve(&node)).await?;
                context.printer.show(&gone, draw_unreserved)?;
                return Ok(DONE);
            }
        };
        context.printer.show(&network, draw)?;
        Ok(DONE)
    }
}

impl From<InitArgs> for NetworkInit {
    fn from(args: InitArgs) -> Self {
        let InitArgs { cidr, subnet_len, subnet_min, subnet_max, cidr6, subnet_len6, vni, port, mtu, force } = args;
        Self { cidr, subnet_len, subnet_min, subnet_max, cidr6, subnet_len6, vni, port, mtu, force }
    }
}

impl From<SetArgs> for NetworkChange {
    fn from(args: SetArgs) -> Self {
        let Change { cidr, subnet_len, subnet_min, subnet_max, vni, port, mtu, direct_routing } = args.change;
        Self { cidr, subnet_len, subnet_min, subnet_max, vni, port, mtu, direct_routing, force: args.force }
    }
}

fn draw(network: &Network, page: &mut Page) {
    page.field("network", cell(network.cidr));
    page.field("subnets", cell(format_args!("/{}, {} to {}", network.subnet_len, network.subnet_min, network.subnet_max)));
    if let (Some(cidr6), Some(len), Some(min), Some(max)) =
        (network.cidr6, network.subnet_len6, network.subnet_min6, network.subnet_max6)
    {
        page.field("network6", cell(cidr6));
        page.field("subnets6", cell(format_args!("/{len}, {min} to {max}")));
    }
    page.field("taken", cell(format_args!("{} of {}", network.taken, network.capacity)));
    page.field("backend", cell(format_args!("vxlan, vni {}, udp port {}", network.vni, network.port)));
    match network.mtu {
        Some(mtu) => page.field("mtu", cell(mtu)),
        None => page.field("mtu", cell("as the uplink")),
    }
    for note in &network.notes {
        page.field("note", Cell::toned(note, Tone::Warn));
    }
}

fn draw_list(networks: &[Network], page: &mut Page) {
    page.table(
        [col("NETWORK"), col("CIDR"), col("SUBNETS"), col("TAKEN"), col("VNI"), col("PORT")],
        networks.iter().map(|n| {
            [
                cell(&n.name),
                cell(n.cidr),
                cell(format_args!("/{}", n.subnet_len)),
                cell(format_args!("{} of {}", n.taken, n.capacity)),
                cell(n.vni),
                cell(n.port),
            ]
        }),
    );
}

fn draw_removed(gone: &Network, page: &mut Page) {
    page.field("network", cell(&gone.name));
    page.field("state", cell("removed"));
}

fn draw_reservations(kept: &[ReservationView], page: &mut Page) {
    page.table(
        [col("SUBNET"), col("NODE"), col("HELD"), col("NOTE")],
        kept.iter().map(|r| [cell(r.subnet), cell(&r.node), held(r), or_none(r.note.as_ref())]),
    );
}

fn draw_reservation(kept: &ReservationView, page: &mut Page) {
    page.field("subnet", cell(kept.subnet));
    page.field("node", cell(&kept.node));
    page.field("held", held(kept));
    if let Some(note) = &kept.note {
        page.field("note", Cell::toned(note, Tone::Warn));
    }
}

fn draw_unreserved(gone: &ReservationView, page: &mut Page) {
    page.field("subnet", cell(gone.subnet));
    page.field("node", cell(&gone.node));
    page.field("state", cell("no longer reserved"));
}

fn held(kept: &ReservationView) -> Cell {
    match (&kept.holder, kept.held) {
        (Some(_), true) => Cell::toned("yes", Tone::Good),
        (Some(other), false) => Cell::toned(format_args!("by {other}"), Tone::Bad),
        (None, _) => cell("no"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn a_network_shows_how_much_of_it_is_left() {
        let network = Network {
            name: NetworkName::default_network(),
            cidr: "10.244.0.0/16".parse().unwrap(),
            subnet_len: 24,
            subnet_min: Ipv4Addr::new(10, 244, 1, 0),
            subnet_max: Ipv4Addr::new(10, 244, 255, 0),
            cidr6: None,
            subnet_len6: None,
            subnet_min6: None,
            subnet_max6: None,
            vni: 1,
            port: 8472,
            mtu: None,
            capacity: 255,
            taken: 3,
            notes: Vec::new(),
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
        let dual = Network {
            cidr6: Some("fd00:10:244::/48".parse().unwrap()),
            subnet_len6: Some(64),
            subnet_min6: Some("fd00:10:244:1::".parse().unwrap()),
            subnet_max6: Some("fd00:10:244:ffff::".parse().unwrap()),
            ..network
        };
        let said = drawn(false, |p| draw(&dual, p));
        assert!(said.contains("network6  fd00:10:244::/48\nsubnets6  /64, fd00:10:244:1:: to fd00:10:244:ffff::\n"), "{said}");
    }

    #[test]
    fn reservations_tell_who_has_them() {
        let kept: Vec<ReservationView> = serde_json::from_str(
            r#"[{"subnet":"10.244.3.0/24","node":"h1","holder":"h1","held":true},
                {"subnet":"10.244.4.0/24","node":"h2","holder":null,"held":false,"note":"h2 has 10.244.9.0/24"},
                {"subnet":"10.244.5.0/24","node":"h3","holder":"192.0.2.9","held":false}]"#,
        )
        .unwrap();
        assert_eq!(
            drawn(false, |p| draw_reservations(&kept, p)),
            "\
SUBNET         NODE  HELD          NOTE
10.244.3.0/24  h1    yes           -
10.244.4.0/24  h2    no            h2 has 10.244.9.0/24
10.244.5.0/24  h3    by 192.0.2.9  -
"
        );
    }
}
