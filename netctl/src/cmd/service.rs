//! `netctl service`: virtual IPs over endpoints.

use std::net::IpAddr;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use weft_api::{ClientError, Code, ListQuery, ServiceCreate, ServiceCreated, ServiceSpec, ServiceView};
use weft_model::ids::{Namespace, NetworkName, ServiceName};
use weft_model::passive::Passive;
use weft_model::policy::{Affinity, Algorithm, Prefer};
use weft_model::selector::Selector;
use weft_model::service::{ServicePort, check_ports, parse_ports};

use super::Context;
use super::check::CheckArgs;
use super::endpoint::state;
use super::leader::LeaderArgs;
use super::service_set::{SetArgs, external_name, percent, selector};
use crate::agent::{Agent, Deadline};
use crate::error::{DONE, Error, say};
use crate::format::{Cell, Page, Tone, cell, col, labels, list, or_none, wide};
use crate::parse;

/// `netctl service …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a service: a name with a virtual IP over its endpoints
    Create(Box<CreateArgs>),
    /// List services
    List(ListArgs),
    /// Show a service and its backends
    Show(NameArgs),
    /// Show who leads a service or a name, or set who is to
    Leader(LeaderArgs),
    /// Change a service; what is not named stays as it is, and so do its virtual IPs
    Set(Box<SetArgs>),
    /// Remove a service and free its virtual IP; its endpoints stay
    Rm(NameArgs),
}

/// Arguments of `service create`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("ports or none").required(true).multiple(true))]
pub struct CreateArgs {
    /// Its name: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    service: ServiceName,
    /// A port of the virtual IP, and the backends' port or port name where that differs; repeat it for
    /// several. One is needed, unless --headless
    #[arg(long = "port", value_name = "[NAME=]PORT[:TARGET][/tcp|udp|tcp+udp]", group = "ports or none", value_parser = parse_ports)]
    ports: Vec<Vec<ServicePort>>,
    /// Only endpoints with these labels, from the whole namespace, instead of those below the service's name:
    /// 'tier=front,env in (a,b),env notin (c),canary,!old'; repeat it for more
    #[arg(long = "selector", value_name = "SELECTOR")]
    selector: Vec<Selector>,
    /// This virtual IP; repeat it for several [default: a free one of the service CIDRs]
    #[arg(long, value_name = "ADDRESS")]
    vip: Vec<IpAddr>,
    /// No virtual IP: the name stands for the instances
    #[arg(long, conflicts_with = "vip", group = "ports or none")]
    headless: bool,
    /// The name stands for this one: DNS answers with an alias
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = ["vip", "headless", "selector"],
        group = "ports or none",
        value_parser = external_name
    )]
    external_name: Option<String>,
    /// A label of the service's own; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    check: CheckArgs,
    /// Below how many percent of healthy endpoints checks are not believed; at 0 only when they would leave none
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    panic: u8,
    /// Hosts ask other backends first, for so long, if so many connections to one failed within so long, one after the
    /// other: refused, or not answered. Each host judges by its own connections to the virtual IP
    #[arg(long, value_name = "failures=5,within=10s,for=30s")]
    passive: Option<Passive>,
    /// How a backend is chosen: random, weighted, maglev or least. Kept; this version chooses at random
    #[arg(long, value_name = "HOW")]
    algorithm: Option<Algorithm>,
    /// A client stays with its backend so long after its last connection. Kept; not yet applied by this version
    #[arg(long, value_name = "client[,600s]")]
    affinity: Option<Affinity>,
    /// Which endpoints are asked first: node, zone or local. Kept; not yet applied by this version
    #[arg(long, value_name = "WHICH")]
    prefer: Option<Prefer>,
    /// Addresses of hosts may be backends
    #[arg(long)]
    allow_hosts: bool,
    /// The network it belongs to: its containers reach it, and their endpoints serve it [default: default]
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// How long to wait until there is an agent and it can do it; 0 is not at all
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::duration)]
    timeout: Duration,
}

/// Arguments of `service list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<Namespace>,
    /// Only those in this network
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// Only those whose labels fit, as tier=front,env in (a,b),!old; if given several times, all must
    #[arg(short = 'l', long = "label", value_name = "SELECTOR")]
    labels: Vec<Selector>,
}

/// A service's name.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Its name: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    service: ServiceName,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "service create",
            Self::List(_) => "service list",
            Self::Show(_) => "service show",
            Self::Leader(_) => "service leader",
            Self::Set(_) => "service set",
            Self::Rm(_) => "service rm",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        match self {
            Self::Create(args) => {
                let deadline = Deadline::after(args.timeout);
                match create(&context.agent, deadline, &args.request()?).await? {
                    Creation::Seen(created) => context.printer.show(&created, draw_created)?,
                    Creation::Unseen(service) => {
                        let name = service.full_name();
                        say("service create", &format!("{name} is there as asked for; the agent's first answer was lost"));
                        context.printer.show(&service, draw)?;
                    }
                }
            }
            Self::List(args) => {
                let labels = args.labels.iter().map(ToString::to_string).collect();
                let query = ListQuery { namespace: args.namespace, network: args.network, labels, ..ListQuery::default() };
                let services = context.agent.ask(client.services_where(&query)).await?.items;
                context.printer.show(&services, |services, page| draw_list(services, page))?;
            }
            Self::Show(args) => {
                let service = context.agent.ask(client.service(&args.service)).await?;
                context.printer.show(&service, draw)?;
            }
            Self::Leader(args) => return args.execute(context).await,
            Self::Set(args) => {
                let changed = args.execute(&context.agent).await?;
                context.printer.show(&changed.service, draw)?;
            }
            Self::Rm(args) => {
                let removed = context.agent.ask(client.service_rm(&args.service)).await?;
                context.printer.show(&removed, draw_removed)?;
            }
        }
        Ok(DONE)
    }
}

impl CreateArgs {
    fn request(self) -> Result<ServiceCreate, Error> {
        let ports = self.ports.concat();
        check_ports(&ports).map_err(Error::Usage)?;
        let selector = selector(self.selector).map_err(Error::Usage)?;
        let spec = ServiceSpec {
            ports,
            selector: selector.equal,
            expressions: selector.expressions,
            external_name: self.external_name,
            labels: parse::labels(&self.labels).map_err(Error::Usage)?,
            vips: Some(self.vip).filter(|vips| !vips.is_empty()),
            headless: self.headless,
            allow_hosts: self.allow_hosts,
            network: self.network,
            algorithm: self.algorithm,
            affinity: self.affinity,
            prefer: self.prefer,
            panic: self.panic,
            check: self.check.check()?,
            passive: self.passive,
        };
        Ok(ServiceCreate::from((self.service, spec)))
    }
}

/// How a service has come to be there.
enum Creation {
    /// The agent has told of it.
    Seen(ServiceCreated),
    /// An earlier try made it whose answer was lost; what the name answered before that is not known any more.
    Unseen(ServiceView),
}

async fn create(agent: &Agent, deadline: Deadline, create: &ServiceCreate) -> Result<Creation, Error> {
    let maybe_done = std::cell::Cell::new(false);
    let once = |_| async {
        let answer = agent.client().service_create(create).await;
        if let Err(ClientError::Broken { .. } | ClientError::Refused { code: Code::StoreAway, .. }) = &answer {
            maybe_done.set(true);
        }
        answer
    };
    let refused = match agent.ask_until(deadline, once).await {
        Ok(created) => return Ok(Creation::Seen(created)),
        Err(e @ Error::Client(ClientError::Refused { code: Code::Conflict, .. })) if maybe_done.get() => e,
        Err(e) => return Err(e),
    };
    match agent.ask_until(deadline, |_| agent.client().service(&create.service)).await {
        Ok(service) if is_as_asked(&service, create) => Ok(Creation::Unseen(service)),
        _ => Err(refused),
    }
}

/// Whether a service is what was asked for; any virtual IP will do where none was named.
fn is_as_asked(service: &ServiceView, create: &ServiceCreate) -> bool {
    let (_, asked) = create.clone().into_spec();
    let (network, vips) = (asked.network.clone().filter(|network| !network.is_default()), asked.vips.clone());
    let all = vips.iter().flatten().all(|vip| service.vips.contains(vip));
    let there = ServiceSpec { vips, ..ServiceSpec::from(service) };
    all && there == ServiceSpec { network, ..asked }
}

fn draw_list(services: &[ServiceView], page: &mut Page) {
    page.table(
        [col("NAME"), col("VIP"), col("PORTS"), col("BACKENDS"), col("DNS NAME"), wide("SELECTOR"), wide("REJECTED")],
        services.iter().map(|s| {
            [cell(s.full_name()), vips(s), list(&s.ports), backends(s), cell(&s.dns_name), selected(s), cell(s.rejected.len())]
        }),
    );
}

/// How many take traffic, of how many.
fn backends(service: &ServiceView) -> Cell {
    let used = service.backends.iter().filter(|b| b.used).count();
    let tone = if used == 0 { Tone::Warn } else { Tone::Plain };
    Cell::toned(format_args!("{used}/{}", service.backends.len()), tone)
}

fn vips(service: &ServiceView) -> Cell {
    // An older or thinner answer may have the one without the list.
    if let Some(name) = &service.external_name {
        return cell(format_args!("-> {name}"));
    }
    let all = if service.vips.is_empty() { service.vip.as_slice() } else { service.vips.as_slice() };
    if all.is_empty() { Cell::toned("headless", Tone::Weak) } else { list(all) }
}

fn draw_fields(service: &ServiceView, page: &mut Page) {
    page.field("service", cell(service.full_name()));
    page.field("dns name", cell(&service.dns_name));
    page.field("vip", vips(service));
    page.field("ports", list(&service.ports));
    if !(service.selector.is_empty() && service.expressions.is_empty()) {
        page.field("selector", selected(service));
    }
    if !service.labels.is_empty() {
        page.field("labels", labels(&service.labels));
    }
    if let Some(network) = &service.network {
        page.field("network", cell(network));
    }
    if service.allow_hosts {
        page.field("hosts", cell("may be backends"));
    }
    if let Some(check) = &service.check {
        page.field("check", cell(check));
    }
    if let Some(passive) = &service.passive {
        page.field("passive", cell(passive));
    }
    if service.panic > 0 {
        page.field("panic", cell(format_args!("below {} % healthy", service.panic)));
    }
    let policies = [
        ("algorithm", service.algorithm.map(|a| a.to_string())),
        ("affinity", service.affinity.map(|a| a.to_string())),
        ("prefer", service.prefer.map(|p| p.to_string())),
    ];
    for (name, value) in policies {
        if let Some(value) = value {
            page.field(name, cell(value));
        }
    }
    if service.panicking {
        let text = "too few endpoints are healthy, so those that their checks call down are used too";
        page.field("warning", Cell::toned(text, Tone::Warn));
    }
    for (backend, why) in service.backends.iter().filter_map(|b| Some((b, b.quarantined.as_ref()?))) {
        page.field("quarantine", Cell::toned(format_args!("{}: {why}", backend.id), Tone::Warn));
    }
    for warning in service.conflicts.iter().chain(&service.not_applied) {
        page.field("warning", Cell::toned(warning, Tone::Warn));
    }
}

/// Its selector as it is written.
fn selected(service: &ServiceView) -> Cell {
    let selector = Selector { equal: service.selector.clone(), expressions: service.expressions.clone() };
    if selector.is_empty() { or_none(None::<&str>) } else { cell(selector) }
}

fn draw_backends(service: &ServiceView, page: &mut Page) {
    page.heading("BACKENDS");
    page.table(
        [col("ID"), col("ADDRESS"), col("PORT"), col("NODE"), col("STATE"), col("USED")],
        service.backends.iter().map(|b| {
            [
                cell(&b.id),
                cell(b.address),
                cell(b.port),
                or_none(b.node.as_ref()),
                if b.quarantined.is_some() {
                    Cell::toned(format_args!("{}, quarantined", b.state), Tone::Warn)
                } else {
                    state(b.state)
                },
                cell(if b.used { "yes" } else { "no" }),
            ]
        }),
    );
    if !service.rejected.is_empty() {
        page.heading("REJECTED");
        page.table(
            [col("ID"), col("ADDRESS"), col("REASON")],
            service.rejected.iter().map(|r| [cell(&r.id), or_none(r.address), Cell::toned(&r.reason, Tone::Warn)]),
        );
    }
}

fn draw(service: &ServiceView, page: &mut Page) {
    draw_fields(service, page);
    draw_backends(service, page);
}

fn draw_created(created: &ServiceCreated, page: &mut Page) {
    draw_fields(&created.service, page);
    page.field("before", before(created));
    for warning in &created.warnings {
        page.field("warning", Cell::toned(warning, Tone::Warn));
    }
    draw_backends(&created.service, page);
}

/// What the name answered until now: whoever asked it then notices the change.
fn before(created: &ServiceCreated) -> Cell {
    if created.answered_before.is_empty() {
        cell("the name had no address")
    } else {
        cell(format_args!(
            "the name answered {}",
            created.answered_before.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ))
    }
}

fn draw_removed(removed: &ServiceView, page: &mut Page) {
    draw_fields(removed, page);
    page.field("state", cell("removed"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;
    use clap::Parser;

    fn created() -> ServiceCreated {
        serde_json::from_str(
            r#"{"namespace":"default","name":"myapp","vip":"10.112.0.7","vips":["10.112.0.7"],
                "ports":[{"name":"","port":80,"target":8080,"proto":"tcp"}],"dns_name":"myapp.skydns.local.",
                "backends":[{"id":"web-1","address":"10.244.3.5","port":8080,"node":"h1","state":"up","used":true},
                            {"id":"web-2","address":"10.244.4.5","port":8080,"node":"h2","state":"lost"}],
                "rejected":[{"id":"x","address":"127.0.0.1","reason":"loopback"}],
                "answered_before":["10.244.3.5","10.244.4.5"],"warnings":["it takes the name from web-9"]}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_new_service_shows_its_address_and_what_the_name_answered_before() {
        assert_eq!(
            drawn(false, |p| draw_created(&created(), p)),
            "\
service   default/myapp
dns name  myapp.skydns.local.
vip       10.112.0.7
ports     80:8080/tcp
before    the name answered 10.244.3.5, 10.244.4.5
warning   it takes the name from web-9

BACKENDS
ID     ADDRESS     PORT  NODE  STATE  USED
web-1  10.244.3.5  8080  h1    up     yes
web-2  10.244.4.5  8080  h2    lost   no

REJECTED
ID  ADDRESS    REASON
x   127.0.0.1  loopback
"
        );
    }

    #[test]
    fn a_backend_in_quarantine_is_shown_with_the_reason() {
        let mut service = created().service;
        service.passive = Some(Passive::default());
        service.backends[0].quarantined = Some("5 connections failed".to_owned());
        let page = drawn(false, |p| draw(&service, p));
        for line in [
            "passive     failures=5,within=10s,for=30s\n",
            "quarantine  web-1: 5 connections failed\n",
            "web-1  10.244.3.5  8080  h1    up, quarantined  yes\n",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn the_list_counts_backends_in_use() {
        let mut headless = created().service;
        headless.vip = None;
        headless.vips.clear();
        headless.ports.clear();
        headless.backends.clear();
        assert_eq!(
            drawn(false, |p| draw_list(&[created().service, headless], p)),
            "\
NAME           VIP         PORTS        BACKENDS  DNS NAME
default/myapp  10.112.0.7  80:8080/tcp  1/2       myapp.skydns.local.
default/myapp  headless    -            0/0       myapp.skydns.local.
"
        );
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn request(words: &[&str]) -> Result<ServiceCreate, Error> {
        Line::try_parse_from([&["create"], words].concat()).map_err(|e| Error::Usage(e.to_string()))?.args.request()
    }

    #[test]
    fn ports_selector_and_address_are_what_was_typed() {
        let create = request(&[
            "prod/myapp",
            "--port",
            "http=80:8080",
            "--port",
            "dns=53/udp",
            "--selector",
            "tier=web",
            "--selector",
            "env in (a,b),!old",
            "--vip",
            "10.112.0.9",
            "--label",
            "team=a",
            "--panic",
            "50",
            "--passive",
            "failures=3,for=1m",
        ])
        .unwrap();
        assert_eq!(create.service.to_string(), "prod/myapp");
        assert_eq!(create.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http=80:8080/tcp", "dns=53/udp"]);
        assert_eq!(create.selector["tier"], "web");
        assert_eq!(create.expressions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["env in (a,b)", "!old"]);
        assert_eq!(create.vips, ["10.112.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!((create.labels["team"].as_str(), create.panic), ("a", 50));
        assert_eq!(create.passive.unwrap().to_string(), "failures=3,within=10s,for=1m");
        let both = request(&["resolver", "--port", "dns=53/tcp+udp"]).unwrap();
        assert_eq!(both.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["dns=53/tcp", "dns=53/udp"]);
        assert_eq!(request(&["db", "--external-name", "DB.example.com."]).unwrap().external_name.unwrap(), "db.example.com");
        assert!(request(&["myapp", "--headless"]).unwrap().ports.is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_a_usage_error_that_shows_the_form() {
        for (words, why) in [
            (&["myapp"][..], "--port"),
            (&["myapp", "--port", "http"], "the form is [NAME=]PORT[:TARGET][/tcp|udp]"),
            (&["myapp", "--port", "80", "--port", "81"], "each needs a name"),
            (&["myapp", "--port", "80/sctp"], "tcp or udp"),
            (&["tasks", "--port", "80"], "is reserved"),
            (&["myapp", "--headless", "--vip", "10.0.0.1"], "cannot be used with"),
            (&["myapp", "--port", "80", "--selector", "tier in x"], "the form is tier=front,env in (a,b)"),
            (&["myapp", "--port", "80", "--selector", "a=b", "--selector", "a=c"], "nothing bears both"),
            (&["myapp", "--port", "80", "--panic", "101"], "0 to 100"),
            (&["myapp", "--port", "80", "--passive", "5"], "the form is failures=5,within=10s,for=30s"),
            (&["myapp", "--external-name", "10.0.0.1"], "is an address"),
            (&["myapp", "--external-name", "a.b", "--headless"], "cannot be used with"),
            (&["myapp", "--port", "80", "--algorithm", "best"], "one of random, weighted, maglev, least"),
            (&["myapp", "--port", "80", "--timeout", "soon"], "the form is 500ms, 30s or 2m"),
        ] {
            match request(words) {
                Err(Error::Usage(text)) => assert!(text.contains(why), "{words:?}: {text}"),
                other => panic!("{words:?}: {other:?}"),
            }
        }
    }
}
