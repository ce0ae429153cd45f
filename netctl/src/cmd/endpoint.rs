//! `netctl endpoint`: what can take traffic.

use std::time::Duration;

use clap::{Args, Subcommand};
use weft_api::{Draining, EndpointAdd, EndpointView, ListQuery, Register};
use weft_model::endpoint::{EndpointPort, EndpointState};
use weft_model::ids::{EndpointId, MAX_LABEL, Namespace, NetworkName, NodeName, ServiceName, sanitise_label};
use weft_model::record::{Kind, Proto, State};
use weft_model::selector::Selector;

use super::{Context, check, drain};
use crate::error::{DONE, Error};
use crate::format::{Cell, Page, Tone, cell, col, labels, list, or_none, wide};
use crate::parse::{self, Place};

/// `netctl endpoint …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List endpoints
    List(ListArgs),
    /// Add an endpoint outside of Weft's containers; it stays until it is removed, unless --ttl is given
    Add(AddArgs),
    /// Remove an endpoint that was added
    Rm(RmArgs),
    /// Show what the checks of an endpoint say, on the host that holds it
    Health(HealthArgs),
    /// Send nothing new to an endpoint while others are up; open connections are left alone
    Drain {
        #[command(flatten)]
        args: DrainArgs,
        #[command(flatten)]
        until: drain::Until,
    },
    /// Send to an endpoint again that was drained
    Undrain(DrainArgs),
}

/// Arguments of `endpoint list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those below this service's name
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceName>,
    /// Only those that this host answers for
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Only those of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<Namespace>,
    /// Only those in this state: up, draining, lost, starting, down
    #[arg(long, value_name = "STATE", value_parser = super::wait::state)]
    state: Option<EndpointState>,
    /// Only those in this network
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// Only those whose labels fit, as tier=front,env in (a,b),!old; if given several times, all must
    #[arg(short = 'l', long = "label", value_name = "SELECTOR")]
    labels: Vec<Selector>,
}

/// Arguments of `endpoint add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The service it is an instance of: NAME or NAMESPACE/NAME
    #[arg(value_name = "SERVICE")]
    service: ServiceName,
    /// Its address, and the port it serves
    #[arg(value_name = "ADDRESS[:PORT]")]
    place: Place,
    /// Its id [default: made of the address]
    #[arg(long)]
    id: Option<EndpointId>,
    /// The port's name
    #[arg(long, value_name = "NAME")]
    port_name: Option<String>,
    /// The port is a UDP port
    #[arg(long)]
    udp: bool,
    /// A label for selectors; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Only for so long, or until this host's agent is silent; adding it again before it is over begins anew
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    ttl: Option<Duration>,
}

/// Arguments of `endpoint health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

/// Arguments of `endpoint drain` and `endpoint undrain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
    /// The service, where several have an endpoint of this id; none is all names of one container
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceName>,
    #[command(flatten)]
    wait: drain::Wait,
}

/// Arguments of `endpoint rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
    /// The service, where several have an endpoint of this id
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceName>,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::List(_) => "endpoint list",
            Self::Add(_) => "endpoint add",
            Self::Rm(_) => "endpoint rm",
            Self::Health(_) => "endpoint health",
            Self::Drain { .. } => "endpoint drain",
            Self::Undrain(_) => "endpoint undrain",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client().clone();
        match self {
            Self::List(args) => {
                let endpoints = context.agent.ask(client.endpoints_where(&args.query())).await?.items;
                context.printer.show(&endpoints, |endpoints, page| draw_list(endpoints, page))?;
            }
            Self::Add(args) => {
                let ttl = args.ttl;
                let add = args.request()?;
                if let Some(ttl) = ttl {
                    let (id, said) = registration(add, ttl)?;
                    let registered = context.agent.ask(client.register(id.as_str(), &said)).await?;
                    context.printer.show(&registered, |registered, page| match &registered.endpoint {
                        Some(endpoint) => draw(endpoint, page),
                        None => page.field("id", cell(&registered.id)),
                    })?;
                    return Ok(DONE);
                }
                let added = context.agent.ask(client.endpoint_add(&add)).await?;
                context.printer.show(&added, draw)?;
            }
            Self::Rm(args) => {
                let removed = context.agent.ask(client.endpoint_rm(&args.id, args.service.as_ref())).await?;
                context.printer.show(&removed, draw)?;
            }
            Self::Health(args) => {
                let health = context.agent.ask(client.endpoint_health(&args.id)).await?;
                context.printer.show(&health, check::draw)?;
            }
            Self::Drain { args, until } => return args.execute(context, until.drain()).await,
            Self::Undrain(args) => return args.execute(context, Draining::Undrain).await,
        }
        Ok(DONE)
    }
}

impl ListArgs {
    fn query(self) -> ListQuery {
        ListQuery {
            namespace: self.namespace,
            service: self.service,
            node: self.node,
            state: self.state,
            network: self.network,
            labels: self.labels.iter().map(ToString::to_string).collect(),
            ..ListQuery::default()
        }
    }
}

impl DrainArgs {
    async fn execute(self, context: &mut Context, how: Draining) -> Result<u8, Error> {
        let client = context.agent.client().clone();
        let ask = |how| client.endpoint_drain(how, &self.id, self.service.as_ref());
        drain::execute(context, how, self.wait, ask).await
    }
}

impl AddArgs {
    fn request(self) -> Result<EndpointAdd, Error> {
        if self.place.port.is_none() && (self.udp || self.port_name.is_some()) {
            return Err(Error::Usage("--udp and --port-name speak of a port, and the address has none: ADDRESS:PORT".to_owned()));
        }
        Ok(EndpointAdd {
            service: self.service,
            id: self.id,
            address: self.place.address,
            port: self.place.port,
            port_name: self.port_name.unwrap_or_default(),
            proto: if self.udp { Proto::Udp } else { Proto::Tcp },
            labels: parse::labels(&self.labels).map_err(Error::Usage)?,
        })
    }
}

/// An endpoint that is added for a time: the same id is the same endpoint, and adding it again renews it.
fn registration(add: EndpointAdd, ttl: Duration) -> Result<(EndpointId, Register), Error> {
    let made = || sanitise_label(&format!("{}-{}", add.address, add.port.unwrap_or(0)), MAX_LABEL).parse();
    let id = add.id.clone().map_or_else(made, Ok).map_err(|e| Error::Usage(format!("{e}; set --id")))?;
    let said = Register {
        service: add.service,
        kind: Kind::Service,
        name: None,
        addresses: vec![add.address],
        port: add.port,
        port_name: add.port_name,
        proto: add.proto,
        labels: add.labels,
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        state: State::Up,
        priority: 0,
        weight: 0,
        check: None,
        candidate: None,
        session: None,
    };
    Ok((id, said))
}

fn draw_list(endpoints: &[EndpointView], page: &mut Page) {
    page.table(
        [
            col("ID"),
            col("NAME"),
            col("SERVICE"),
            col("ADDRESSES"),
            col("PORTS"),
            col("NODE"),
            col("STATE"),
            wide("KIND"),
            wide("DNS NAME"),
            wide("LABELS"),
        ],
        endpoints.iter().map(|e| {
            [
                cell(&e.id),
                cell(&e.name),
                or_none(e.service.as_ref()),
                addresses(e),
                list(e.ports.iter().map(port)),
                or_none(e.node.as_ref()),
                state(e.state),
                cell(kind(e.kind)),
                cell(&e.dns_name),
                labels(&e.labels),
            ]
        }),
    );
}

fn draw(e: &EndpointView, page: &mut Page) {
    page.field("id", cell(&e.id));
    page.field("name", cell(&e.name));
    page.field("service", or_none(e.service.as_ref()));
    page.field("addresses", addresses(e));
    page.field("ports", list(e.ports.iter().map(port)));
    page.field("node", or_none(e.node.as_ref()));
    page.field("state", state(e.state));
    page.field("dns name", cell(&e.dns_name));
    page.field("labels", labels(&e.labels));
}

/// Addresses, or the names that stand for them.
fn addresses(endpoint: &EndpointView) -> Cell {
    list(endpoint.addresses.iter().map(ToString::to_string).chain(endpoint.host_names.iter().cloned()))
}

fn port(port: &EndpointPort) -> String {
    let name = if port.name.is_empty() { String::new() } else { format!("{}=", port.name) };
    format!("{name}{}/{}", port.port, port.proto)
}

/// A state in its colour.
#[must_use]
pub fn state(state: EndpointState) -> Cell {
    let tone = match state {
        EndpointState::Up => Tone::Good,
        EndpointState::Starting | EndpointState::Draining => Tone::Warn,
        EndpointState::Lost | EndpointState::Down => Tone::Bad,
    };
    Cell::toned(state, tone)
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "service",
        Kind::Name => "name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;
    use clap::Parser;

    fn endpoints() -> Vec<EndpointView> {
        serde_json::from_str(
            r#"[{"id":"web-1","name":"web","addresses":["10.244.3.5"],"ports":[{"name":"","port":8080,"proto":"tcp"}],"node":"h1",
                 "state":"up","service":"default/myapp","kind":"service","dns_name":"web-1.myapp.skydns.local.","labels":{"tier":"a"}},
                {"id":"x1","name":"db","addresses":[],"ports":[{"name":"dns","port":53,"proto":"udp"}],"node":null,"state":"lost",
                 "host_names":["db.example.com."]}]"#,
        )
        .unwrap()
    }

    #[test]
    fn endpoints_are_listed_with_address_or_name() {
        assert_eq!(
            drawn(false, |p| draw_list(&endpoints(), p)),
            "\
ID     NAME  SERVICE        ADDRESSES        PORTS       NODE  STATE
web-1  web   default/myapp  10.244.3.5       8080/tcp    h1    up
x1     db    -              db.example.com.  dns=53/udp  -     lost
"
        );
        assert!(drawn(true, |p| draw_list(&endpoints(), p)).contains("up     service  web-1.myapp.skydns.local.  tier=a\n"));
    }

    #[test]
    fn a_list_is_narrowed_by_the_agent() {
        let args = ListArgs {
            service: Some("prod/web".parse().unwrap()),
            node: None,
            namespace: None,
            state: Some(EndpointState::Up),
            network: None,
            labels: Vec::new(),
        };
        assert_eq!(args.query().to_query(), "?service=prod%2Fweb&state=up");
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AddArgs,
    }

    fn request(words: &[&str]) -> Result<EndpointAdd, Error> {
        Line::try_parse_from([&["add"], words].concat()).map_err(|e| Error::Usage(e.to_string()))?.args.request()
    }

    #[test]
    fn an_added_endpoint_is_what_was_typed() {
        let add = request(&["prod/db", "[fd00::5]:53", "--udp", "--port-name", "dns", "--id", "a", "--label", "k=v"]).unwrap();
        assert_eq!((add.service.to_string().as_str(), add.port, add.proto), ("prod/db", Some(53), Proto::Udp));
        assert_eq!((add.address.to_string().as_str(), add.port_name.as_str(), add.labels["k"].as_str()), ("fd00::5", "dns", "v"));
    }

    #[test]
    fn what_cannot_be_meant_is_a_usage_error() {
        for words in [
            &["db", "10.0.0.5", "--udp"][..],
            &["db", "10.0.0.5", "--port-name", "x"],
            &["db", "host:80"],
            &["db", "10.0.0.5:80", "--label", "k"],
            &["db", "10.0.0.5:80", "--label", "k=1", "--label", "k=2"],
        ] {
            assert!(matches!(request(words), Err(Error::Usage(_))), "{words:?}");
        }
    }
}
