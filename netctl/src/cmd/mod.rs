//! The commands, one file per noun: arguments, the call, what to print.

pub mod announce;
pub mod apply;
pub mod attach;
pub mod check;
pub mod cni;
pub mod config;
pub mod dns;
pub mod doctor;
pub mod drain;
pub mod drops;
pub mod edit;
pub mod elect;
pub mod endpoint;
pub mod leader;
pub mod namespace;
pub mod network;
pub mod node;
pub mod openapi;
pub mod plan;
pub mod registration;
pub mod run;
pub mod service;
mod service_set;
pub mod shell;
pub mod status;
pub mod store;
pub mod version;
pub mod wait;
pub mod watch;

use clap::Subcommand;

use crate::agent::Agent;
use crate::error::Error;
use crate::format::Printer;

/// What commands work with.
pub struct Context {
    /// The agent.
    pub agent: Agent,
    /// Standard output.
    pub printer: Printer,
}

/// The command tree.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what the agent is, has, waits for and cannot do
    Status,
    /// The network that hosts take their subnets from
    #[command(subcommand)]
    Network(network::Command),
    /// Settings that are equal on all hosts
    #[command(subcommand)]
    Config(config::Command),
    /// Hosts
    #[command(subcommand)]
    Node(node::Command),
    /// What can take traffic: containers, and addresses outside
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Names that services are told apart by
    #[command(subcommand)]
    Namespace(namespace::Command),
    /// Virtual IPs over endpoints
    #[command(subcommand)]
    Service(service::Command),
    /// Make objects what files say: namespaces, networks, services, endpoints
    Apply(apply::ApplyArgs),
    /// Delete the objects that files name
    Delete(apply::DeleteArgs),
    /// Print objects as the files that apply reads
    Manifest(edit::ManifestArgs),
    /// Change an object in an editor
    Edit(edit::EditArgs),
    /// Give a network namespace an address, routes, names
    Attach(attach::AttachArgs),
    /// Take back what attach gave
    Detach(attach::DetachArgs),
    /// Network namespaces attached on this host
    #[command(subcommand)]
    Attachment(attach::AttachmentCommand),
    /// The plugin by which podman, containerd and others attach containers
    #[command(subcommand)]
    Cni(cni::Command),
    /// Start a command in a network namespace of its own, attached; detach when it ends
    Run(run::RunArgs),
    /// Register something as an instance of a service for as long as it runs
    Announce(announce::AnnounceArgs),
    /// Run a command on one host at a time: the one that leads
    Elect(elect::ElectArgs),
    /// What programs of this host have registered: announce, elect, the API
    #[command(subcommand, visible_alias = "registrations")]
    Registration(registration::Command),
    /// Show what the agent would change now, and why
    Plan,
    /// Show what the programs dropped, and why
    Drops(drops::DropsArgs),
    /// Find what is wrong with this host's part of the network, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Everything in the store, as a document: to keep it, or to move to another store
    #[command(subcommand)]
    Store(store::Command),
    /// Print what changes, as it happens: endpoints, services, hosts, networks
    Watch(watch::WatchArgs),
    /// Wait until the cluster is as a script needs it
    Wait(wait::WaitArgs),
    /// Print all that an agent can be asked, for programs: OpenAPI 3.1
    Openapi,
    /// Names
    #[command(subcommand)]
    Dns(dns::Command),
    /// Print a shell's completion script
    Completion(shell::CompletionArgs),
    /// Print the manual page, or write all of them to a directory
    Man(shell::ManArgs),
    /// Show the versions of netctl and of the agent
    Version,
}

impl Command {
    /// How it is called, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Network(command) => command.name(),
            Self::Config(command) => command.name(),
            Self::Node(command) => command.name(),
            Self::Endpoint(command) => command.name(),
            Self::Namespace(command) => command.name(),
            Self::Service(command) => command.name(),
            Self::Watch(_) => "watch",
            Self::Wait(_) => "wait",
            Self::Apply(_) => "apply",
            Self::Delete(_) => "delete",
            Self::Manifest(_) => "manifest",
            Self::Edit(_) => "edit",
            Self::Attach(_) => "attach",
            Self::Detach(_) => "detach",
            Self::Attachment(_) => "attachment list",
            Self::Cni(command) => command.name(),
            Self::Run(_) => "run",
            Self::Announce(_) => "announce",
            Self::Elect(_) => "elect",
            Self::Registration(command) => command.name(),
            Self::Plan => "plan",
            Self::Drops(_) => "drops",
            Self::Doctor(_) => "doctor",
            Self::Store(command) => command.name(),
            Self::Dns(command) => command.name(),
            Self::Openapi => "openapi",
            Self::Completion(_) => "completion",
            Self::Man(_) => "man",
            Self::Version => "version",
        }
    }

    /// Whether it can be asked of an agent that is elsewhere. What only the agent refuses is left to it.
    ///
    /// # Errors
    /// Why not.
    pub fn can_be_elsewhere(&self) -> Result<(), Error> {
        match self {
            Self::Attach(_)
            | Self::Detach(_)
            | Self::Attachment(_)
            | Self::Cni(_)
            | Self::Run(_)
            | Self::Announce(_)
            | Self::Elect(_) => {
                let why = "it is about namespaces and processes of a host: run it there, without --agent and WEFT_AGENT";
                Err(Error::Usage(format!("{}: {why}", self.name())))
            }
            _ => Ok(()),
        }
    }

    /// Does it. What comes back is the exit code of a command that did its work.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        match self {
            Self::Status => status::execute(context).await,
            Self::Network(command) => command.execute(context).await,
            Self::Config(command) => command.execute(context).await,
            Self::Node(command) => command.execute(context).await,
            Self::Endpoint(command) => command.execute(context).await,
            Self::Namespace(command) => command.execute(context).await,
            Self::Service(command) => command.execute(context).await,
            Self::Watch(args) => args.execute(context).await,
            Self::Wait(args) => args.execute(context).await,
            Self::Apply(args) => args.execute(context).await,
            Self::Delete(args) => args.execute(context).await,
            Self::Manifest(args) => args.execute(context).await,
            Self::Edit(args) => args.execute(context).await,
            Self::Attach(args) => args.execute(context).await,
            Self::Detach(args) => args.execute(context).await,
            Self::Attachment(command) => command.execute(context).await,
            Self::Cni(command) => command.execute(context),
            Self::Run(args) => args.execute(context).await,
            Self::Announce(args) => args.execute(context).await,
            Self::Elect(args) => args.execute(context).await,
            Self::Registration(command) => command.execute(context).await,
            Self::Plan => plan::execute(context).await,
            Self::Drops(args) => args.execute(context).await,
            Self::Doctor(args) => args.execute(context).await,
            Self::Store(command) => command.execute(context).await,
            Self::Dns(command) => command.execute(context).await,
            Self::Openapi => openapi::execute(context).await,
            Self::Completion(args) => args.execute(context),
            Self::Man(args) => args.execute(context),
            Self::Version => version::execute(context).await,
        }
    }
}
