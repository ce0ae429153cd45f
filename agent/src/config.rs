//! Settings of a host: flag, environment variable `WEFT_*`, key of the configuration file, in that order of strength.
//!
//! clap knows the first two. The file's keys become flags of their own for whatever neither has set, so a setting is
//! checked by the same code wherever it comes from. What must be equal on all hosts is not here but in the store.

mod api;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use weft_model::cluster::ClusterConfig;
use weft_model::ids::NodeName;
use weft_model::keys::Layout;

pub use api::{ApiFiles, ApiSettings};

/// weftd, the Weft agent: one per host.
#[derive(Clone, Debug, Parser)]
#[command(name = "weftd", version, max_term_width = 120, subcommand_negates_reqs = true)]
pub struct Cli {
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What weftd does besides running.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Remove everything of Weft's from this host's kernel: devices, routes, addresses, programs, maps. Containers lose their network.
    Cleanup,
    /// Write the manual page to standard output.
    Man,
    /// Write completions for a shell to standard output.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The settings of a host.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Configuration file: TOML, its keys named like these flags. A missing file is an error only if it is named here.
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Name of this host in the cluster.
    #[arg(long, env = "WEFT_NODE_NAME", value_name = "NAME", default_value_t = host_name(), global = true)]
    pub node_name: String,

    /// etcd's endpoints, comma-separated. Without any, one host runs on an embedded store.
    #[arg(long, env = "WEFT_ETCD_ENDPOINTS", value_name = "URL,…", value_delimiter = ',', global = true, help_heading = "Store")]
    pub etcd_endpoints: Vec<String>,
    /// Certificates that etcd's own is checked against, PEM.
    #[arg(long, env = "WEFT_ETCD_CA", value_name = "FILE", global = true, help_heading = "Store")]
    pub etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd, PEM.
    #[arg(long, env = "WEFT_ETCD_CERT", value_name = "FILE", requires = "etcd_key", global = true, help_heading = "Store")]
    pub etcd_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM.
    #[arg(long, env = "WEFT_ETCD_KEY", value_name = "FILE", requires = "etcd_cert", global = true, help_heading = "Store")]
    pub etcd_key: Option<PathBuf>,
    /// User name for etcd.
    #[arg(
        long,
        env = "WEFT_ETCD_USERNAME",
        value_name = "NAME",
        requires = "etcd_password_file",
        global = true,
        help_heading = "Store"
    )]
    pub etcd_username: Option<String>,
    /// File that holds the password for etcd.
    #[arg(
        long,
        env = "WEFT_ETCD_PASSWORD_FILE",
        value_name = "FILE",
        requires = "etcd_username",
        global = true,
        help_heading = "Store"
    )]
    pub etcd_password_file: Option<PathBuf>,
    /// Where flannel's keys are.
    #[arg(
        long,
        env = "WEFT_NETWORK_PREFIX",
        value_name = "KEY",
        default_value = "/coreos.com/network",
        global = true,
        help_heading = "Store"
    )]
    pub network_prefix: String,
    /// Where SkyDNS's keys are.
    #[arg(long, env = "WEFT_DNS_PREFIX", value_name = "KEY", default_value = "/skydns", global = true, help_heading = "Store")]
    pub dns_prefix: String,
    /// Where Weft's own keys are.
    #[arg(long, env = "WEFT_WEFT_PREFIX", value_name = "KEY", default_value = "/weft/v1", global = true, help_heading = "Store")]
    pub weft_prefix: String,
    /// How long a silent host counts as alive.
    #[arg(long, env = "WEFT_LEASE_TTL", value_name = "TIME", default_value = "15s", value_parser = seconds, global = true, help_heading = "Store")]
    pub lease_ttl: Duration,

    /// The device to the other hosts: a name, an address of it, or `auto` for that of the default route.
    #[arg(
        long,
        env = "WEFT_IFACE",
        value_name = "NAME|ADDRESS|auto",
        default_value = "auto",
        global = true,
        help_heading = "Network"
    )]
    pub iface: String,
    /// Tunnel address, if it is not the device's own.
    #[arg(long, env = "WEFT_PUBLIC_IP", value_name = "ADDRESS", global = true, help_heading = "Network")]
    pub public_ip: Option<Ipv4Addr>,
    /// IPv6 tunnel address; published for the other hosts.
    #[arg(long, env = "WEFT_PUBLIC_IPV6", value_name = "ADDRESS", global = true, help_heading = "Network")]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Whether to let overlay packets past other owners' forward chains that would drop them.
    #[arg(
        long,
        env = "WEFT_FORWARD_RULES",
        value_name = "MODE",
        default_value = "auto",
        global = true,
        help_heading = "Network"
    )]
    pub forward_rules: ForwardRules,
    /// Whether containers reach the outside world by this host's address.
    #[arg(long, env = "WEFT_MASQUERADE", value_name = "MODE", default_value = "auto", global = true, help_heading = "Network")]
    pub masquerade: MasqueradeMode,
    /// Outside, but sees the containers' own addresses; there must be a way back (repeatable).
    #[arg(
        long = "masquerade-exclude",
        env = "WEFT_MASQUERADE_EXCLUDE",
        value_name = "CIDR",
        value_delimiter = ',',
        global = true,
        help_heading = "Network"
    )]
    pub masquerade_exclude: Vec<IpNet>,
    /// Virtual IPs are taken from here; seeds the cluster's setting where there is none (repeatable).
    #[arg(
        long = "service-cidr",
        env = "WEFT_SERVICE_CIDR",
        value_name = "CIDR",
        value_delimiter = ',',
        global = true,
        help_heading = "Network"
    )]
    pub service_cidrs: Vec<IpNet>,

    /// Domain of the names served; seeds the cluster's setting where there is none.
    #[arg(long, env = "WEFT_DNS_DOMAIN", value_name = "DOMAIN", global = true, help_heading = "Names")]
    pub dns_domain: Option<String>,
    /// Where to answer DNS (repeatable). Default: port 53 on the host's gateway addresses.
    #[arg(long, env = "WEFT_DNS_LISTEN", value_name = "ADDRESS[:PORT]", value_delimiter = ',', value_parser = socket_53, global = true, help_heading = "Names")]
    pub dns_listen: Vec<SocketAddr>,
    /// Whom to ask for other names (repeatable). Default: the name servers of /etc/resolv.conf.
    #[arg(long, env = "WEFT_DNS_UPSTREAM", value_name = "ADDRESS[:PORT]", value_delimiter = ',', value_parser = socket_53, global = true, help_heading = "Names")]
    pub dns_upstream: Vec<SocketAddr>,

    /// Socket of a Docker engine whose containers' names, labels and SERVICE_* variables become records (repeatable).
    #[arg(
        long,
        env = "WEFT_WATCH_DOCKER",
        value_name = "SOCKET",
        value_delimiter = ',',
        global = true,
        help_heading = "Containers"
    )]
    pub watch_docker: Vec<PathBuf>,
    /// The same of podman's service, usually /run/podman/podman.sock (repeatable).
    #[arg(
        long,
        env = "WEFT_WATCH_PODMAN",
        value_name = "SOCKET",
        value_delimiter = ',',
        global = true,
        help_heading = "Containers"
    )]
    pub watch_podman: Vec<PathBuf>,

    /// Certificates that those of endpoints are held against by checks that verify them (https:/,verify), PEM. Default: the
    /// system's.
    #[arg(long, env = "WEFT_CHECK_CA", value_name = "FILE", global = true, help_heading = "Containers")]
    pub check_ca: Option<PathBuf>,

    /// The API over TLS.
    #[command(flatten)]
    pub api: ApiSettings,

    /// Directory of the socket and other things that may go at a reboot.
    #[arg(long, env = "WEFT_RUN_DIR", value_name = "DIR", default_value = "/run/weft", global = true, help_heading = "Places")]
    pub run_dir: PathBuf,
    /// Directory of what must stay.
    #[arg(
        long,
        env = "WEFT_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/weft",
        global = true,
        help_heading = "Places"
    )]
    pub state_dir: PathBuf,
    /// Directory in a BPF file system where programs and maps outlive the agent.
    #[arg(
        long,
        env = "WEFT_BPFFS",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/weft",
        global = true,
        help_heading = "Places"
    )]
    pub bpffs: PathBuf,
    /// cgroup v2 directory whose sockets reach virtual IPs. Default: the root of the hierarchy.
    #[arg(long, env = "WEFT_CGROUP", value_name = "DIR", global = true, help_heading = "Places")]
    pub cgroup: Option<PathBuf>,
    /// File in flannel's form (FLANNEL_SUBNET=…) for tools that read it, such as flannel's CNI plugin; `off` for none.
    /// Default: subnet.env in the run directory.
    #[arg(long, env = "WEFT_SUBNET_FILE", value_name = "FILE|off", global = true, help_heading = "Places")]
    pub subnet_file: Option<PathBuf>,
    /// Socket for dockerd, which finds network and IPAM driver `weft` by it. `auto`: /run/docker/plugins/weft.sock if the run
    /// directory is the default one, else none.
    #[arg(
        long,
        env = "WEFT_DOCKER_PLUGIN",
        value_name = "auto|off|PATH",
        default_value = "auto",
        value_parser = docker_plugin,
        global = true,
        help_heading = "Places"
    )]
    pub docker_plugin: DockerPlugin,
    /// Mode of the socket, octal.
    #[arg(long, env = "WEFT_SOCKET_MODE", value_name = "MODE", default_value = "0600", value_parser = octal, global = true, help_heading = "Places")]
    pub socket_mode: u32,
    /// Group of the socket, by name or number.
    #[arg(long, env = "WEFT_SOCKET_GROUP", value_name = "GROUP", global = true, help_heading = "Places")]
    pub socket_group: Option<String>,

    /// Where Prometheus may ask; `off` for nowhere.
    #[arg(long, env = "WEFT_METRICS_LISTEN", value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9474", value_parser = metrics_listen, global = true, help_heading = "Telling")]
    pub metrics_listen: MetricsListen,
    /// What to log: a level, or a filter as in `info,weft_dns=debug`.
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info", global = true, help_heading = "Telling")]
    pub log: String,
    /// How to log.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", default_value = "text", global = true, help_heading = "Telling")]
    pub log_format: LogFormat,
}

/// What to do about other owners' forward chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ForwardRules {
    /// Add one jump where another chain would drop.
    Auto,
    /// Touch nothing; `status` names the chain that drops.
    Off,
}

/// What containers' addresses become outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MasqueradeMode {
    /// This host's address, for all destinations but the network, the service ranges and those excluded.
    Auto,
    /// Nothing: routers outside know the way to the containers.
    Off,
}

/// Where dockerd finds this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerPlugin {
    /// In its usual directory, if this is the host's only agent.
    Auto,
    /// Nowhere.
    Off,
    /// There.
    At(PathBuf),
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// Nowhere.
    Off,
    /// There.
    On(SocketAddr),
}

/// The file that is read if none is named.
const DEFAULT_FILE: &str = "/etc/weft/weft.toml";

impl Cli {
    /// Reads the command line, the environment and the file. Exits as clap does on wrong usage and for `--help`.
    ///
    /// # Errors
    /// What is wrong with the file, with its place.
    pub fn read() -> anyhow::Result<Self> {
        Self::read_from(std::env::args_os().collect())
    }

    fn read_from(args: Vec<OsString>) -> anyhow::Result<Self> {
        let command = Self::command();
        let first = command.clone().get_matches_from(&args);
        let named = first.get_one::<PathBuf>("config").cloned();
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let table = match std::fs::read_to_string(&path) {
            Ok(text) => text.parse::<toml::Table>().with_context(|| format!("read {}", path.display()))?,
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => toml::Table::new(),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        let extra = file_args(&path, &table, &command, |id| {
            let source = first.value_source(id);
            matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        })?;
        let mut all = args;
        // Behind the program's name and before a subcommand.
        let at = 1.min(all.len());
        all.splice(at..at, extra);
        let matches = command.get_matches_from(all);
        Self::from_arg_matches(&matches).map_err(|e| e.exit())
    }
}

/// The file's keys as flags, but for those that are set more strongly.
fn file_args(
    path: &Path,
    table: &toml::Table,
    command: &clap::Command,
    set: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<OsString>> {
    let mut out = Vec::new();
    for (key, value) in table {
        let flag = key.replace('_', "-");
        let known = command.get_arguments().find(|a| a.get_long() == Some(flag.as_str()) && flag != "config");
        let Some(arg) = known else {
            bail!("{}: {key}: no such setting; `weftd --help` lists them", path.display());
        };
        if set(arg.get_id().as_str()) {
            continue;
        }
        let values = match value {
            toml::Value::Array(items) => items.clone(),
            one => vec![one.clone()],
        };
        for value in values {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(n) => n.to_string(),
                toml::Value::Boolean(b) => b.to_string(),
                other => bail!("{}: {key}: {} is no value for a setting", path.display(), other.type_str()),
            };
            out.push(format!("--{flag}={text}").into());
        }
    }
    Ok(out)
}

impl Settings {
    /// The node's name, checked.
    ///
    /// # Errors
    /// Why it is none.
    pub fn node(&self) -> anyhow::Result<NodeName> {
        self.node_name.parse().context("--node-name")
    }

    /// The layout of the store.
    ///
    /// # Errors
    /// Why the prefixes cannot be.
    pub fn layout(&self) -> anyhow::Result<Layout> {
        Layout::new(&self.network_prefix, &self.dns_prefix, &self.weft_prefix).map_err(anyhow::Error::msg)
    }

    /// Whether `--service-cidr` and `--dns-domain` can be.
    ///
    /// # Errors
    /// Why not.
    pub fn check_cluster(&self) -> anyhow::Result<()> {
        let mut seed = ClusterConfig::default();
        if !self.service_cidrs.is_empty() {
            seed.service_cidrs.clone_from(&self.service_cidrs);
        }
        if let Some(domain) = &self.dns_domain {
            seed.dns_domain.clone_from(domain);
        }
        seed.check().map_err(|why| anyhow::anyhow!("--service-cidr, --dns-domain: {why}"))
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("weft.sock")
    }

    /// Where to write what flannel's tools read; none if it is not wanted.
    #[must_use]
    pub fn subnet_file(&self) -> Option<PathBuf> {
        match &self.subnet_file {
            None => Some(self.run_dir.join("subnet.env")),
            Some(path) if path.as_os_str() == "off" => None,
            Some(path) => Some(path.clone()),
        }
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_default()
}

/// `15s`, `2m`, `1h`; at least 2 s, the least that etcd gives.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| format!("{e}; a time is a number with a unit, such as 15s"))?;
    if (Duration::from_secs(2)..=Duration::from_secs(86_400)).contains(&time) {
        Ok(time)
    } else {
        Err("must be between 2s and 24h".to_owned())
    }
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o777).ok_or_else(|| "a mode is octal, such as 0660".to_owned())
}

/// `ADDRESS[:PORT]` with 53 for the port.
fn socket_53(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => Ok(SocketAddr::new(ip, 53)),
        Err(_) => text
            .parse()
            .map_err(|_| "must be an address, or an address and a port such as 10.0.0.1:53 or [fd00::1]:53".to_owned()),
    }
}

impl std::fmt::Display for DockerPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::At(path) => path.display().fmt(f),
        }
    }
}

fn docker_plugin(text: &str) -> Result<DockerPlugin, String> {
    match text {
        "auto" => Ok(DockerPlugin::Auto),
        "off" => Ok(DockerPlugin::Off),
        _ if text.starts_with('/') => Ok(DockerPlugin::At(text.into())),
        _ => Err("must be auto, off or an absolute path such as /run/docker/plugins/weft.sock".to_owned()),
    }
}

fn metrics_listen(text: &str) -> Result<MetricsListen, String> {
    match text {
        "off" => Ok(MetricsListen::Off),
        _ => text
            .parse()
            .map(MetricsListen::On)
            .map_err(|_| "must be an address and a port such as 127.0.0.1:9474, or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], file: &str) -> anyhow::Result<Settings> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("weft.toml");
        std::fs::write(&path, file)?;
        let mut all: Vec<OsString> = vec!["weftd".into(), "--config".into(), path.into()];
        all.extend(args.iter().map(Into::into));
        Ok(Cli::read_from(all)?.settings)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_is_stronger_than_the_file() {
        let file = "lease-ttl = \"30s\"\nnode_name = \"from-file\"\netcd-endpoints = [\"http://a:2379\", \"http://b:2379\"]\n";
        let s = read(&["--node-name", "from-flag"], file).unwrap();
        assert_eq!((s.node_name.as_str(), s.lease_ttl.as_secs()), ("from-flag", 30));
        assert_eq!(s.etcd_endpoints, ["http://a:2379", "http://b:2379"]);
    }

    #[test]
    fn an_unknown_key_and_broken_toml_are_named_with_the_file() {
        let err = format!("{:#}", read(&[], "lease_tt = 1\n").unwrap_err());
        assert!(err.contains("weft.toml") && err.contains("lease_tt"), "{err}");
        let err = format!("{:#}", read(&[], "a = [").unwrap_err());
        assert!(err.contains("weft.toml") && err.contains("line 1"), "{err}");
    }

    #[test]
    fn the_subnet_file_is_in_the_run_directory_unless_told_otherwise() {
        let of = |args: &[&str], file: &str| read(args, file).unwrap().subnet_file();
        assert_eq!(of(&["--run-dir", "/run/other"], ""), Some("/run/other/subnet.env".into()));
        assert_eq!(of(&["--subnet-file", "off"], ""), None);
        assert_eq!(of(&[], "subnet-file = \"/run/flannel/subnet.env\"\n"), Some("/run/flannel/subnet.env".into()));
    }

    #[test]
    fn addresses_may_leave_the_port_out() {
        assert_eq!(socket_53("10.0.0.1").unwrap().port(), 53);
        assert_eq!(socket_53("fd00::1").unwrap().to_string(), "[fd00::1]:53");
        assert_eq!(socket_53("[fd00::1]:5353").unwrap().port(), 5353);
        assert!(socket_53("x").is_err() && seconds("1s").is_err() && seconds("5x").is_err());
        assert_eq!(seconds("2m").unwrap().as_secs(), 120);
    }
}
