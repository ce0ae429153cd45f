//! The agent's tasks, and the channels between them.
//!
//! ```text
//!  store ─▶ view ─┬─▶ claim ──────▶ own subnet ─┐
//!                 ├─▶ registrar ◀── attachments ┼─▶ reconcile ─▶ kernel
//!                 ├─▶ names (DNS)               │       │
//!                 └─▶ admin (the socket) ◀──────┴─ report
//! ```
//!
//! Every arrow is a watch channel: the latest value counts, and a slow reader misses nothing but what is out of date.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use weft_agent::kernel::bpf::{Paths, mounts, netns_cookie};
use weft_agent::kernel::netlink::Netlink;
use weft_agent::kernel::netlink::events::Events;
use weft_model::cluster::ClusterConfig;
use weft_model::ids::NetworkName;
use weft_model::network::{Backend, NetworkConfig};
use weft_model::node::Node;
use weft_model::snapshot::{Snapshot, Stored};
use weft_store::embedded::EmbeddedStore;
use weft_store::etcd::{EtcdConfig, EtcdStore};
use weft_store::follow::follow;
use weft_store::registry::Registry;
use weft_store::{Outcome, Store, StoreError};

use crate::admin::{self, Admin, Listeners};
use crate::attach::{Attachments, Published, Surroundings};
use crate::changes::Changes;
use crate::claim::{self, Facts, Own};
use crate::config::{DockerPlugin, Settings};
use crate::datapath::Fast;
use crate::docker;
use crate::doctor::Doctor;
use crate::elections;
use crate::firewall::Firewall;
use crate::health::target::Verdicts;
use crate::health::{Health as Checks, Trust};
use crate::metrics::{self, Metrics};
use crate::names::Names;
use crate::networks::{self, Known};
use crate::placeholders;
use crate::reconcile::{self, Inputs, Report};
use crate::registrar::{self, Me};
use crate::registrations::{self, Registrations};
use crate::runtimes;
use crate::session::{self, Kept};
use crate::state::{StateDir, boot_id};
use crate::subnet_env;
use crate::view::{self, Health, View, chain};

/// Runs until SIGTERM or SIGINT. What is in the kernel stays: stopping the agent is not a network event.
///
/// # Errors
/// The agent cannot start; an agent that runs does not end by itself.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut stop = Stop::new()?;
    let node = settings.node()?;
    let layout = Arc::new(settings.layout()?);
    settings.check_cluster()?;
    let elsewhere = Listeners::new(&settings.api)?;
    let state = Arc::new(StateDir::open(&settings.state_dir, &settings.run_dir)?);
    let listener = admin::bind(&settings)?;
    let known = state.node()?;
    let journal = state.journal()?;
    let boot = boot_id()?;
    info!(%node, version = env!("CARGO_PKG_VERSION"), state = %settings.state_dir.display(), "start");

    let store = open_store(&settings, &state).await?;
    let registry = Registry::new(store.clone(), layout.clone());
    let (view_tx, view) = watch::channel(None);
    let (health_tx, health) = watch::channel(Health::default());
    let changes = Arc::new(Changes::default());
    tokio::spawn(view::run(follow(store.clone(), layout.watched()), layout.clone(), view_tx, health_tx, changes.clone()));

    let facts = Facts {
        node: node.clone(),
        public_ip: None,
        public_ipv6: None,
        has_ipv6: Path::new(HAS_IPV6).exists(),
        vtep_mac: known.vtep_mac,
        vtep_mac6: known.vtep_mac6,
        boot: boot.clone(),
        mtu: 0,
        preferred: known.subnet,
        preferred6: known.subnet6,
    };
    let (facts_tx, facts_rx) = watch::channel(None);
    let (own_tx, own) = watch::channel(None);
    let (report_tx, report) = watch::channel(Report::default());
    let (registered_tx, _) = watch::channel(0);
    let claim_reason = watch::channel(Some("reading the store".to_owned()));
    let register_reason = watch::channel(None);
    let metrics_reason = watch::channel(None);
    let subnet_file_reason = watch::channel(None);
    let docker_reason = watch::channel(None);

    let cgroup = cgroup(&settings);
    let cgroup_path = cgroup.as_ref().map_or_else(|_| PathBuf::new(), Clone::clone);
    let mut registry_of_metrics = prometheus_client::registry::Registry::default();
    let metrics = Metrics::default();
    metrics.register(&mut registry_of_metrics);

    let remembered = Known::remembered(state.networks()?);
    let (networks_tx, networks) = watch::channel(Arc::new(remembered));
    let around = Surroundings {
        view: view.clone(),
        report: report.clone(),
        health: health.clone(),
        cgroup: cgroup_path.clone(),
        boot: boot.clone(),
        node: node.clone(),
        name_servers: explicit_name_servers(&settings),
        networks: networks.clone(),
    };
    let (attachments, published) = Attachments::new(state.clone(), journal, around);
    let (liveness_tx, liveness) = watch::channel(None);
    let releasing = Arc::<elections::Releasing>::default();
    let around = registrations::Surroundings {
        view: view.clone(),
        health: health.clone(),
        attached: published.clone(),
        liveness,
        releasing: releasing.clone(),
        node: node.clone(),
    };
    let (registrations, registered) = Registrations::new(state.clone(), state.registrations()?, around);
    tokio::spawn(registrations.clone().expire());
    let names = Names::start(&settings, view.clone(), (report.clone(), networks.clone()), &mut registry_of_metrics);
    let (checks, verdicts) = Checks::new(&mut registry_of_metrics, Trust::new(settings.check_ca.clone()));
    tokio::spawn(checks.clone().run(node.clone(), view.clone(), published.clone(), registered.clone()));
    let (bpf_paths, bpffs) = bpf_paths(&settings, cgroup);
    let fast = Fast::new(bpf_paths);
    fast.register(&mut registry_of_metrics);
    let quarantined = fast.quarantined();
    let datapath = Arc::new(Mutex::new(fast));

    let netlink = Netlink::new().context("netlink")?;
    let firewall = Firewall::new(&settings);
    let mut reasons = vec![claim_reason.1, register_reason.1, metrics_reason.1, subnet_file_reason.1, docker_reason.1];
    reasons.extend(elsewhere.iter().flat_map(Listeners::reasons));
    reasons.extend(runtimes::watch(&settings, &attachments, &published));
    let admin = Arc::new(Admin {
        node: node.clone(),
        registry: registry.clone(),
        view: view.clone(),
        health,
        report: report.clone(),
        reasons,
        attachments: attachments.clone(),
        names: names.clone(),
        checks,
        datapath: datapath.clone(),
        quarantined,
        netlink: netlink.clone(),
        filter: firewall.look(),
        published: published.clone(),
        networks: networks.clone(),
        registrations,
        changes,
        watchers: Arc::default(),
        doctor: Doctor::new(settings.clone(), bpffs.as_ref().and_then(|b| b.note()).map(str::to_owned)),
    });
    // First what could not be asked for while no agent was here: whoever asks now may ask for what that frees.
    attachments.replay().await;
    tokio::spawn(attachments.clone().follow_queue());
    tokio::spawn(attachments.clone().sync_journal());
    tokio::spawn(admin::serve(listener, admin.clone()));
    if let Some(elsewhere) = elsewhere {
        elsewhere.serve(&admin);
    }
    let docker_socket = serve_docker(&settings, &attachments, &docker_reason.0)?;
    tokio::spawn(metrics::serve(settings.metrics_listen, admin.clone(), metrics.clone(), registry_of_metrics, metrics_reason.0));

    // An agent that was killed while it made one left a device that looks like a whole one.
    netlink.remove_unfinished_veths().await.context("netlink")?;
    let events = Events::new().context("netlink notifications")?;
    let inputs = Inputs {
        node: node.clone(),
        iface: settings.iface.clone(),
        public_ip: settings.public_ip,
        public_ipv6: settings.public_ipv6,
        state: state.clone(),
        boot: boot.clone(),
        cgroup: cgroup_path,
        netns_cookie: netns_cookie().context("this host's network namespace")?,
        view: view.clone(),
        own: own.clone(),
        published: published.clone(),
        networks,
        attachments,
        datapath,
        firewall,
        netlink,
        events,
        metrics,
        facts: facts_tx,
        report: report_tx,
    };
    tokio::spawn(reconcile::run(inputs, facts));
    let me = Me {
        node: node.clone(),
        public_ip: None,
        public_ipv6: None,
        capabilities: Vec::new(),
        boot,
        instance: known.instance.clone(),
        since: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
    };
    tokio::spawn(remember(state.clone(), own.clone()));
    if let Some(path) = settings.subnet_file() {
        tokio::spawn(subnet_env::run(path, settings.masquerade, report.clone(), subnet_file_reason.0));
    }

    let further = (state, networks_tx);
    let live = (liveness_tx, registered, releasing);
    let member = Member { settings: settings.clone(), registry, view, facts: facts_rx, report, further, live };
    let claiming = (own_tx, claim_reason.0);
    let registering = (Followed { published, verdicts }, registered_tx, register_reason.0);
    tokio::select! {
        joined = member.join(me, claiming, registering) => joined?,
        () = stop.asked() => {}
    }
    if !stop.was_asked {
        stop.asked().await;
    }
    info!("stop; what is in the kernel stays");
    names.stop().await;
    admin::unbind(&settings.socket());
    docker_socket.iter().for_each(|path| admin::unbind(path));
    Ok(())
}

/// Serves Docker, if it is to be served, and looks after what it holds. A socket that nobody asked for by name and that cannot be
/// had is no reason not to start. Returns the socket.
fn serve_docker(
    settings: &Settings,
    attachments: &Arc<Attachments>,
    reason: &watch::Sender<Option<String>>,
) -> anyhow::Result<Option<PathBuf>> {
    tokio::spawn(attachments.clone().look_after_handed());
    let Some(path) = docker::socket(&settings.docker_plugin, &settings.run_dir) else { return Ok(None) };
    match docker::bind(&path) {
        Ok(listener) => {
            info!(socket = %path.display(), "serves Docker");
            tokio::spawn(docker::serve(listener, attachments.clone()));
            Ok(Some(path))
        }
        Err(e) if settings.docker_plugin != DockerPlugin::Auto => Err(e.context("--docker-plugin")),
        Err(e) => {
            let why = format!("Docker finds no network driver here: {e:#}");
            warn!(why, "docker");
            reason.send_replace(Some(why));
            Ok(None)
        }
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    was_asked: bool,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())?, was_asked: false })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
        self.was_asked = true;
    }
}

/// etcd, or the embedded store with its one network.
async fn open_store(settings: &Settings, state: &StateDir) -> anyhow::Result<Arc<dyn Store>> {
    if !settings.etcd_endpoints.is_empty() {
        let config = EtcdConfig {
            endpoints: settings.etcd_endpoints.clone(),
            ca: settings.etcd_ca.clone(),
            cert: settings.etcd_cert.clone(),
            key: settings.etcd_key.clone(),
            username: settings.etcd_username.clone(),
            password_file: settings.etcd_password_file.clone(),
            ..EtcdConfig::default()
        };
        return Ok(Arc::new(EtcdStore::connect(config).await.context("etcd")?));
    }
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(state.store_path()).await.context("embedded store")?);
    let registry = Registry::new(store.clone(), Arc::new(settings.layout()?));
    let network = NetworkConfig::new(EMBEDDED_NETWORK.parse()?, 24, None, None, Backend::default())?;
    registry.write_network(&network, false).await.context("embedded store")?;
    Ok(store)
}

/// There only if the kernel has IPv6 and was not started with `ipv6.disable=1`.
const HAS_IPV6: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";

/// The network of a host without etcd.
const EMBEDDED_NETWORK: &str = "10.244.0.0/16";

fn cgroup(settings: &Settings) -> Result<PathBuf, String> {
    match &settings.cgroup {
        Some(path) => {
            let made = std::fs::create_dir_all(path).map_err(|e| format!("make cgroup {}: {e}", path.display()));
            let checked = made.and_then(|()| mounts::check_cgroup2(path).map_err(|e| chain(&e)));
            checked.map(|()| path.clone())
        }
        None => mounts::ensure_cgroup2(&settings.run_dir).map_err(|e| chain(&e)),
    }
}

/// Where the datapath lives, or why it cannot; and the mount, which must be held.
fn bpf_paths(settings: &Settings, cgroup: Result<PathBuf, String>) -> (Result<Paths, String>, Option<mounts::Bpffs>) {
    let bpffs = match mounts::ensure_bpffs(&settings.bpffs) {
        Ok(bpffs) => bpffs,
        Err(e) => {
            let why = chain(&e);
            warn!(why, "no place for eBPF; packets take the kernel path, virtual IPs are not translated");
            return (Err(why), None);
        }
    };
    if let Some(note) = bpffs.note() {
        warn!(note, "pins");
    }
    let paths = cgroup.map(|cgroup| Paths { bpffs: bpffs.path().to_owned(), cgroup });
    (paths, Some(bpffs))
}

/// Name servers for containers, where `--dns-listen` says other than the gateway.
fn explicit_name_servers(settings: &Settings) -> Vec<std::net::IpAddr> {
    let usable = settings.dns_listen.iter().filter(|a| a.port() == 53 && !a.ip().is_loopback() && !a.ip().is_unspecified());
    usable.map(std::net::SocketAddr::ip).collect()
}

/// Remembers the subnet, so that it is asked for first if the store forgets it.
async fn remember(state: Arc<StateDir>, mut own: watch::Receiver<Option<Own>>) {
    while own.changed().await.is_ok() {
        let Some(own) = own.borrow_and_update().clone() else { continue };
        let result = state.node().and_then(|mut known| {
            known.subnet = Some(own.subnet);
            known.subnet6 = own.subnet6.or(known.subnet6);
            (known.vtep_mac, known.vtep_mac6) = (own.vtep_mac, own.vtep_mac6);
            state.write_node(&known)
        });
        if let Err(e) = result {
            warn!(error = chain(&e), "subnet not remembered");
        }
    }
}

/// What the registrar follows of this host's containers.
struct Followed {
    published: watch::Receiver<Arc<Published>>,
    /// What their checks say.
    verdicts: watch::Receiver<Arc<Verdicts>>,
}

/// What joining the cluster needs.
struct Member {
    settings: Settings,
    registry: Registry,
    view: View,
    facts: watch::Receiver<Option<Facts>>,
    report: watch::Receiver<Report>,
    /// Where further networks are remembered and made known.
    further: (Arc<StateDir>, watch::Sender<Arc<Known>>),
    /// Where the liveness lease is made known, what programs register on it, and which leads are being given up.
    live: (watch::Sender<Option<Kept>>, watch::Receiver<Arc<registrations::Known>>, Arc<elections::Releasing>),
}

impl Member {
    /// Joins the cluster once the store has been read: makes sure of the name, adopts or makes leases, announces the node,
    /// starts to claim and to register. Then it watches over the name, and ends only with the sentence that another live host
    /// has taken it.
    async fn join(
        mut self,
        mut me: Me,
        (own, claim_reason): (watch::Sender<Option<Own>>, watch::Sender<Option<String>>),
        (Followed { published, verdicts }, registered, register_reason): (
            Followed,
            watch::Sender<u64>,
            watch::Sender<Option<String>>,
        ),
    ) -> anyhow::Result<()> {
        let mut snapshot = self.first_snapshot().await?;
        tokio::spawn(seed_cluster(self.settings.clone(), self.registry.clone(), self.view.clone()));
        let facts = self.facts.wait_for(Option::is_some).await.ok().and_then(|f| f.clone());
        (me.public_ip, me.public_ipv6) = facts.map(|f| (f.public_ip, f.public_ipv6)).unwrap_or_default();
        let store = self.registry.store().clone();
        let mut liveness: Option<Kept> = None;
        // The name first, and by compare: of two hosts that start with it at the same time one goes on, and nothing is
        // claimed or registered under a name that is not held.
        loop {
            snapshot = self.own_name(&me, snapshot, &claim_reason).await?;
            let entry = snapshot.node(&me.node);
            let kept = liveness.get_or_insert_with(|| {
                session::keep(store.clone(), "liveness", self.settings.lease_ttl, entry.and_then(|n| n.lease))
            });
            if entry.is_some() {
                break;
            }
            let Some(lease) = kept.id.wait_for(Option::is_some).await.context("the liveness lease's task ended")?.to_owned()
            else {
                continue;
            };
            let over = registrar::entry_at(&snapshot, &me.node);
            match self.registry.write_node(&registrar::announcement(&me, None), over, lease).await {
                Ok(Outcome::Done(_)) => break,
                Ok(Outcome::Refused(revision)) => {
                    // Somebody was faster: see who.
                    let seen = self.view.wait_for(|s| s.as_ref().is_some_and(|s| s.revision() >= revision));
                    let _ = tokio::time::timeout(ECHO_TIMEOUT, seen).await;
                }
                Err(e) => {
                    if matches!(e, StoreError::LeaseGone { .. }) {
                        kept.check_now();
                    }
                    register_reason.send_replace(Some(format!("register: {}", chain(&e))));
                    tokio::time::sleep(RETRY).await;
                }
            }
            snapshot = self.first_snapshot().await?;
        }
        let Some(liveness) = liveness else { bail!("no liveness lease is kept") };
        self.live.0.send_replace(Some(liveness.clone()));
        let claim = snapshot.lease_of(&me.node).and_then(|(_, l)| l.lease);
        let claim: Kept = session::keep(store, "claim", session::CLAIM_TTL, claim);

        let (me_tx, me_rx) = watch::channel(None);
        tokio::spawn(follow_me(me, self.facts.clone(), self.report.clone(), me_tx));
        let (registry, view, facts) = (self.registry.clone(), self.view.clone(), self.facts.clone());
        let claiming = claim::Inputs {
            network: NetworkName::default_network(),
            registry: registry.clone(),
            view: view.clone(),
            facts,
            me: me_rx.clone(),
            published: published.clone(),
            claim,
        };
        let (state, known) = self.further.clone();
        tokio::spawn(networks::run(claiming.clone(), state, known));
        tokio::spawn(claim::run(claiming, own, claim_reason));
        tokio::spawn(placeholders::keep(registry.clone(), view.clone()));
        let programs = self.live.1.clone();
        let electing = elections::Sources {
            me: me_rx.clone(),
            known: programs.clone(),
            releasing: self.live.2.clone(),
            lease_ttl: self.settings.lease_ttl,
        };
        tokio::spawn(elections::run(registry.clone(), view.clone(), liveness.clone(), electing));
        let sources = registrar::Sources { attachments: published, registrations: programs, verdicts };
        tokio::spawn(registrar::run(registry, view, me_rx.clone(), liveness, sources, registered, register_reason));
        self.watch_name(me_rx).await
    }

    /// Ends when another live host has this one's name, as after a partition that was longer than the lease. Claim and
    /// registrar write nothing meanwhile: they look at the same entry.
    async fn watch_name(mut self, mut me: watch::Receiver<Option<Me>>) -> anyhow::Result<()> {
        let mut rival = Rival::default();
        loop {
            let snapshot = self.first_snapshot().await?;
            let known = me.borrow_and_update().clone();
            let held = known.as_ref().and_then(|me| registrar::held_by_other(&snapshot, me));
            match held {
                Some(held) => {
                    // An entry without a lease was put by hand: status tells of it.
                    if held.lease.is_some() {
                        rival.look(&self.registry, held).await?;
                    }
                    tokio::time::sleep(RIVAL_PAUSE).await;
                }
                None => {
                    rival = Rival::default();
                    tokio::select! {
                        changed = self.view.changed() => changed.context("the store's view ended")?,
                        Ok(()) = me.changed() => {}
                    }
                }
            }
        }
    }

    async fn first_snapshot(&mut self) -> anyhow::Result<Arc<Snapshot>> {
        let first = self.view.wait_for(Option::is_some).await.context("the store's view ended")?;
        first.clone().context("the store's view ended")
    }

    /// Makes sure that no other live host has this name. An entry whose lease is not renewed is a dead host's: it is
    /// waited for, and `reason` says so.
    async fn own_name(
        &mut self,
        me: &Me,
        mut snapshot: Arc<Snapshot>,
        reason: &watch::Sender<Option<String>>,
    ) -> anyhow::Result<Arc<Snapshot>> {
        let mut rival = Rival::default();
        loop {
            let Some(held) = registrar::held_by_other(&snapshot, me) else { return Ok(snapshot) };
            if rival.left.is_none() {
                reason.send_replace(Some(format!(
                    "{}; waiting to see whether that host lives",
                    registrar::held_sentence(&held.value)
                )));
            }
            rival.look(&self.registry, held).await?;
            tokio::time::sleep(RIVAL_PAUSE).await;
            snapshot = self.first_snapshot().await?;
        }
    }
}

/// How long between two looks at the lease of another host that has this one's name.
const RIVAL_PAUSE: Duration = Duration::from_millis(500);

/// How long a refused write is awaited in the view.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait after the store did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Another host with this one's name, while it is not known whether it lives.
#[derive(Debug, Default)]
struct Rival {
    /// What its lease had left when last seen.
    left: Option<Duration>,
}

impl Rival {
    /// Looks once more.
    ///
    /// # Errors
    /// Its lease was renewed, or never ends: it lives.
    async fn look(&mut self, registry: &Registry, held: &Stored<Node>) -> anyhow::Result<()> {
        let Some(lease) = held.lease else { bail!(registrar::held_sentence(&held.value)) };
        match registry.store().time_to_live(lease).await {
            Ok(Some(left)) => {
                match self.left {
                    Some(last) if left > last => bail!(registrar::held_sentence(&held.value)),
                    Some(_) => {}
                    None => {
                        info!(node = %held.value.node, left_s = left.as_secs(), "name is held by another host; waiting to see whether that host lives")
                    }
                }
                self.left = Some(left);
            }
            Ok(None) => {}
            Err(e) => warn!(error = chain(&e), "whether the name's holder lives is not known yet"),
        }
        Ok(())
    }
}

/// Writes the settings that are equal everywhere where there are none, whenever that is (a store may be made anew); warns
/// once where this host's flags say otherwise.
async fn seed_cluster(settings: Settings, registry: Registry, mut view: View) {
    let mut seed = ClusterConfig::default();
    if !settings.service_cidrs.is_empty() {
        seed.service_cidrs.clone_from(&settings.service_cidrs);
    }
    if let Some(domain) = &settings.dns_domain {
        seed.dns_domain.clone_from(domain);
    }
    // Checked when the agent started.
    let _ = seed.check();
    let mut warned = false;
    loop {
        let snapshot = view.borrow_and_update().clone();
        let garbled = snapshot.as_ref().is_none_or(|s| s.bad_at(&s.layout().cluster_config()).is_some());
        match snapshot.as_ref().and_then(|s| s.stored_cluster()).map(|s| &s.value) {
            None if garbled => {}
            None => match registry.write_cluster(&seed, None).await {
                Ok(Outcome::Done(_)) => info!(domain = seed.dns_domain, "seeded the cluster's settings"),
                Ok(Outcome::Refused(_)) => {}
                Err(e) => warn!(error = chain(&e), "cluster's settings not seeded; the defaults hold"),
            },
            Some(stored) => {
                let cidrs_differ = !settings.service_cidrs.is_empty() && stored.service_cidrs != seed.service_cidrs;
                let domain_differs = settings.dns_domain.is_some() && stored.dns_domain != seed.dns_domain;
                if (cidrs_differ || domain_differs) && !warned {
                    warned = true;
                    warn!(
                        service_cidrs = ?stored.service_cidrs,
                        dns_domain = stored.dns_domain,
                        "this host's --service-cidr or --dns-domain differs from the cluster's setting, which holds; netctl config set changes it"
                    );
                }
            }
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// What this host says of itself follows the uplink and the datapath.
async fn follow_me(
    me: Me,
    mut facts: watch::Receiver<Option<Facts>>,
    mut report: watch::Receiver<Report>,
    tx: watch::Sender<Option<Me>>,
) {
    loop {
        let (public_ip, public_ipv6) =
            facts.borrow_and_update().as_ref().map(|f| (f.public_ip, f.public_ipv6)).unwrap_or_default();
        let capabilities = {
            let report = report.borrow_and_update();
            let can = [(report.fast, "fast-path"), (report.sockets, "sockets")];
            let can = can.into_iter().filter(|(yes, _)| *yes).map(|(_, name)| name.to_owned());
            // Who wants to remove a network must know who is in it.
            let here = report.host.iter().flat_map(|host| {
                let of_network = |n: &&weft_plan::Membership| host.attachments.iter().any(|a| a.network == n.number);
                host.networks.iter().filter(of_network).map(|n| format!("{}{}", admin::IN_USE, n.name))
            });
            can.chain(here).collect()
        };
        // An uplink that is away for the moment does not change who this host is.
        let (public_ip, public_ipv6) = (public_ip.or(me.public_ip), public_ipv6.or(me.public_ipv6));
        let now = Some(Me { public_ip, public_ipv6, capabilities, ..me.clone() });
        tx.send_if_modified(|there| {
            let changed = *there != now;
            there.clone_from(&now);
            changed
        });
        tokio::select! {
            Ok(()) = facts.changed() => {}
            Ok(()) = report.changed() => {}
            else => return,
        }
    }
}
