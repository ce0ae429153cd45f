//! `netctl attach`, `detach` and `attachment`: network namespaces that others made.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use weft_api::{Attach, Attached, Description};
use weft_model::attachment::Instance;
use weft_model::ids::{EndpointId, NetworkName, ServiceLabel};
use weft_model::publish::Publish;

use super::Context;
use super::check::CheckArgs;
use crate::agent::{Agent, Deadline};
use crate::error::{DONE, Error, say};
use crate::format::{Cell, Page, Tone, cell, col, list, wide};
use crate::parse;
use crate::{netns, resolv};

/// What is wished for a namespace; `run` has the same options.
#[derive(Debug, Args)]
pub struct Wishes {
    /// The network it is to be in [default: default]
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// The interface to make
    #[arg(long, value_name = "NAME", default_value = "eth0", value_parser = parse::ifname)]
    ifname: String,
    /// The endpoint's id [default: made of the name, or of the namespace]
    #[arg(long)]
    id: Option<EndpointId>,
    #[command(flatten)]
    names: Names,
    /// A port of the host that leads to it, or a range; of one address, or of all of both families. TCP unless it says /udp;
    /// repeat it for several
    #[arg(short, long, value_name = "[HOST:]PORT[-PORT][:PORT[-PORT]][/tcp|udp]")]
    publish: Vec<Publish>,
    /// Only the network and its virtual IPs are reached by it; for namespaces that have a default route of their own
    #[arg(long)]
    no_default_route: bool,
    /// How long to wait until there is an agent and it is ready; 0 is not at all
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::duration)]
    timeout: Duration,
}

/// What a namespace is called and what it serves.
#[derive(Debug, Args)]
struct Names {
    /// What people call it; without --service the name resolves
    #[arg(long)]
    name: Option<String>,
    /// A further name, which resolves beside name and service; repeat it for several
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<ServiceLabel>,
    /// The service it is an instance of, and the port it serves there; TCP unless it says /udp. Repeat it for several
    #[arg(long = "service", value_name = "NAME[:[PORT-NAME=]PORT[/tcp|udp]]")]
    instances: Vec<Instance>,
    /// A label for selectors; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    check: CheckArgs,
}

impl Names {
    fn description(self) -> Result<Description, Error> {
        if let (Some(name), true) = (&self.name, self.instances.is_empty()) {
            let label: Result<ServiceLabel, _> = name.parse();
            label.map_err(|e| Error::Usage(format!("--name: {e}; without --service it becomes a DNS name")))?;
        }
        let labels = parse::labels(&self.labels).map_err(Error::Usage)?;
        let check = self.check.check()?;
        Ok(Description { name: self.name, aliases: self.aliases, instances: self.instances, labels, check })
    }
}

impl Wishes {
    /// Until when to wait, from now.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// The request; its namespace and how long the agent waits are still to be said.
    ///
    /// # Errors
    /// When a label is given twice, or the name resolves and cannot.
    pub fn request(self) -> Result<Attach, Error> {
        let Description { name, aliases, mut instances, labels, check } = self.names.description()?;
        // A port with a name cannot be said by the members that stand for the main service.
        let main = instances.first().is_some_and(|first| first.port_name.is_empty()).then(|| instances.remove(0));
        Ok(Attach {
            id: self.id,
            name,
            service: main.as_ref().map(|main| main.service.clone()),
            port: main.as_ref().and_then(|main| main.port),
            proto: main.map(|main| main.proto).unwrap_or_default(),
            aliases,
            instances,
            labels,
            check,
            default_route: !self.no_default_route,
            network: self.network,
            publish: self.publish,
            ..Attach::new(PathBuf::new(), self.ifname)
        })
    }
}

/// Attaches. The same namespace, interface and id give the same attachment, so it can be asked for again.
///
/// # Errors
/// See [`Agent::ask_until`].
pub async fn attach(agent: &Agent, deadline: Deadline, request: &Attach) -> Result<Attached, Error> {
    let once = |left: Duration| {
        // The agent says how long it has waited: "2s", not "1.998s".
        let timeout_ms = Some(u64::try_from(left.as_millis().next_multiple_of(100)).unwrap_or(u64::MAX));
        let request = Attach { timeout_ms, ..request.clone() };
        async move { agent.client().attach(&request).await }
    };
    let attached = agent.ask_until(deadline, once).await?;
    attached.warnings.iter().for_each(|warning| say("attach", warning));
    Ok(attached)
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wishes: Wishes,
    /// Also write a resolv.conf there, for example /etc/netns/NAME/resolv.conf; detach leaves it
    #[arg(long, value_name = "PATH")]
    resolv_conf: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// The network namespace: a name of `ip netns`, or a path
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// The process whose network namespace is meant
    #[arg(long)]
    pid: Option<u32>,
}

impl Target {
    fn path(&self) -> Result<PathBuf, Error> {
        match (&self.netns, self.pid) {
            (Some(netns), _) => Ok(netns::by_path(netns)?),
            (None, Some(pid)) => Ok(netns::by_pid(pid)?),
            (None, None) => Err(Error::Usage("one of --netns and --pid is needed".to_owned())),
        }
    }
}

impl AttachArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let deadline = self.wishes.deadline();
        let request = self.wishes.request()?;
        let request = Attach { netns: self.target.path()?, ..request };
        let resolv = self.resolv_conf.as_deref().map(resolv::prepare).transpose()?;
        let attached = attach(&context.agent, deadline, &request).await?;
        if let Some(file) = resolv {
            let id = attached.id.to_string();
            file.write(&resolv::text(&attached)).map_err(|source| Error::AttachedWithoutResolv { id, source })?;
        }
        context.printer.show(&attached, draw)?;
        Ok(DONE)
    }
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The endpoint's id, as attach printed it
    #[arg(value_name = "ID")]
    id: String,
}

impl DetachArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let detached = context.agent.ask(context.agent.client().detach(&self.id)).await?;
        context.printer.show(&detached, draw_detached)?;
        Ok(DONE)
    }
}

/// `netctl attachment …`
#[derive(Debug, Subcommand)]
pub enum AttachmentCommand {
    /// List what is attached
    List,
    /// Say anew what an attachment is called and what it serves; what is not said again is taken back
    Describe(Box<DescribeArgs>),
}

/// Arguments of `attachment describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The endpoint's id, as attach printed it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    names: Names,
}

impl AttachmentCommand {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let client = context.agent.client();
        match self {
            Self::List => {
                let attachments = context.agent.ask(client.attachments()).await?;
                context.printer.show(&attachments, |attachments, page| draw_list(attachments, page))?;
            }
            Self::Describe(args) => {
                let attached = context.agent.ask(client.describe(&args.id, &args.names.description()?)).await?;
                context.printer.show(&attached, draw)?;
            }
        }
        Ok(DONE)
    }
}

fn draw(attached: &Attached, page: &mut Page) {
    page.field("id", cell(&attached.id));
    page.field("netns", cell(attached.netns.display()));
    page.field("interface", cell(format_args!("{}, mac {}, mtu {}", attached.ifname, attached.mac, attached.mtu)));
    page.field("addresses", list(&attached.addresses));
    page.field("gateway", list([Some(IpAddr::V4(attached.gateway)), attached.gateway6.map(IpAddr::V6)].into_iter().flatten()));
    page.field("dns", list(&attached.dns));
    page.field("search", list(&attached.search));
    page.field("names", list(&attached.names));
    if !attached.publish.is_empty() {
        page.field("published", list(&attached.publish));
    }
    page.field("network", cell(&attached.network));
    page.field("host side", cell(&attached.host_ifname));
    page.field("cgroup", cell(attached.cgroup.display()));
    page.field("record", record(attached));
}

/// A record that is still to be written is nothing to worry about, but something to know.
fn record(attached: &Attached) -> Cell {
    let tone = if attached.record == "pending" { Tone::Warn } else { Tone::Plain };
    Cell::toned(&attached.record, tone)
}

fn draw_detached(attached: &Attached, page: &mut Page) {
    page.field("id", cell(&attached.id));
    page.field("netns", cell(attached.netns.display()));
    page.field("addresses", list(&attached.addresses));
    page.field("state", cell("detached"));
}

fn draw_list(attachments: &[Attached], page: &mut Page) {
    page.table(
        [
            col("ID"),
            col("ADDRESSES"),
            col("INTERFACE"),
            col("NETNS"),
            col("NAMES"),
            col("RECORD"),
            wide("HOST SIDE"),
            wide("MAC"),
            wide("MTU"),
            wide("NETWORK"),
            wide("PUBLISHED"),
        ],
        attachments.iter().map(|a| {
            [
                cell(&a.id),
                list(&a.addresses),
                cell(&a.ifname),
                cell(a.netns.display()),
                list(&a.names),
                record(a),
                cell(&a.host_ifname),
                cell(a.mac),
                cell(a.mtu),
                cell(&a.network),
                list(&a.publish),
            ]
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;
    use clap::Parser;

    fn attached() -> Attached {
        serde_json::from_str(
            r#"{"id":"web-1","netns":"/run/netns/web","ifname":"eth0","addresses":["10.244.3.5/32"],"gateway":"10.244.3.1",
                "mac":"0a:58:0a:f4:03:05","mtu":1450,"host_ifname":"weft0a1b","dns":["10.244.3.1"],"search":["skydns.local"],
                "names":["web-1.myapp.skydns.local."],"network":"default","cgroup":"/sys/fs/cgroup","record":"written"}"#,
        )
        .unwrap()
    }

    #[test]
    fn an_attachment_shows_what_it_was_given() {
        assert_eq!(
            drawn(false, |p| draw(&attached(), p)),
            "\
id         web-1
netns      /run/netns/web
interface  eth0, mac 0a:58:0a:f4:03:05, mtu 1450
addresses  10.244.3.5/32
gateway    10.244.3.1
dns        10.244.3.1
search     skydns.local
names      web-1.myapp.skydns.local.
network    default
host side  weft0a1b
cgroup     /sys/fs/cgroup
record     written
"
        );
        assert_eq!(
            drawn(false, |p| draw_list(&[attached()], p)),
            "\
ID     ADDRESSES      INTERFACE  NETNS           NAMES                      RECORD
web-1  10.244.3.5/32  eth0       /run/netns/web  web-1.myapp.skydns.local.  written
"
        );
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AttachArgs,
    }

    fn parse(words: &[&str]) -> Result<AttachArgs, clap::Error> {
        Line::try_parse_from([&["attach"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn a_request_is_what_was_typed() {
        let args = parse(&[
            "--netns",
            "/run/netns/x",
            "--ifname",
            "net1",
            "--id",
            "web-1",
            "--name",
            "web",
            "--service",
            "myapp:8080",
            "--label",
            "a=1",
            "--label",
            "b=2",
            "-p",
            "8080:80",
            "--publish",
            "[::1]:53:5353/udp",
            "--timeout",
            "2s",
        ])
        .unwrap();
        let request = args.wishes.request().unwrap();
        assert_eq!(args.target.path().unwrap(), PathBuf::from("/run/netns/x"));
        assert_eq!((request.ifname.as_str(), request.port), ("net1", Some(8080)));
        assert_eq!(request.service.unwrap().to_string(), "default/myapp");
        assert_eq!(request.publish.iter().map(ToString::to_string).collect::<Vec<_>>(), ["8080:80/tcp", "[::1]:53:5353/udp"]);
        assert_eq!((request.id.unwrap().as_str(), request.name.as_deref(), request.labels.len()), ("web-1", Some("web"), 2));
    }

    #[test]
    fn several_services_names_and_ports_are_all_asked_for() {
        let words =
            ["--netns", "x", "--alias", "www", "--alias", "w2", "--service", "app", "--service", "prod/app:metrics=91/udp"];
        let request = parse(&words).unwrap().wishes.request().unwrap();
        assert_eq!(request.aliases.iter().map(ServiceLabel::as_str).collect::<Vec<_>>(), ["www", "w2"]);
        assert_eq!((request.service.unwrap().to_string().as_str(), request.port), ("default/app", None));
        let other = &request.instances[0];
        assert_eq!((other.service.to_string().as_str(), other.port, other.port_name.as_str()), ("prod/app", Some(91), "metrics"));
        let named = parse(&["--netns", "x", "--service", "app:http=80"]).unwrap().wishes.request().unwrap();
        assert_eq!((named.service, named.port, named.instances[0].port), (None, None, Some(80)));
        for bad in ["--alias=a.b", "--alias=tasks", "--service=app:9=80", "--service=app:=80", "--service=app:http=0"] {
            assert!(parse(&["--netns", "x", bad]).is_err(), "{bad}");
        }
        let both = parse(&["--netns", "x", "--name", "My web"]).unwrap().wishes.request().unwrap_err();
        assert!(both.to_string().starts_with("--name: service name"), "{both}");
    }

    #[test]
    fn a_namespace_is_named_once() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--netns", "a", "--pid", "1"]).is_err());
        let args = parse(&["--pid", &std::process::id().to_string()]).unwrap();
        assert_eq!(args.target.path().unwrap(), PathBuf::from(format!("/proc/{}/ns/net", std::process::id())));
    }
}
