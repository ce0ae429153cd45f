//! A hundred agents that register, change and die at random, on a real etcd that is killed and comes back meanwhile.
//!
//! An agent here is a thread with the real session and the real registrar; dropping its runtime is its SIGKILL. Ten real views
//! are followed beside them. A checker with a watch of its own says what must not be:
//! * a registration that was acknowledged is gone while its owner lives;
//! * a view still has as live what etcd deleted more than a second before;
//! * a name or a virtual IP has two owners.
//!
//! How long a busy machine held everything up is measured beside it, and taken off: a ticker, a second watch, a lease that
//! nobody but the test keeps. `WEFT_CHURN_SECONDS` makes it run longer than in CI.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use weft_model::ids::{NodeName, Revision, ServiceName};
use weft_model::keys::{Key, Layout, RecordPath};
use weft_model::record::Record;
use weft_model::service::{Service, VipOwner};
use weft_model::snapshot::Snapshot;
use weft_store::etcd::{EtcdConfig, EtcdStore};
use weft_store::follow::{Update, follow};
use weft_store::registry::Registry;
use weft_store::{Change, Outcome, Store};

use crate::attach::Published;
use crate::registrar::{self, Me, records};
use crate::session;
use crate::state::Attachment;
use crate::view::{self, Health, View};

const AGENTS: usize = 100;

/// Views of the store, each read by a tenth of the agents.
const VIEWS: usize = 10;

/// How long an agent's lease lasts.
const TTL: Duration = Duration::from_secs(6);

/// How long what etcd deleted may still be in a view.
const SERVED: Duration = Duration::from_secs(1);

/// The longest that anything takes on a busy machine. Nothing waits this long unless it fails.
const LONG: Duration = Duration::from_secs(120);

/// Containers of an agent, at most.
const MOST: usize = 3;

/// Ids that several agents want.
const CONTESTED: usize = 5;

/// How long the churn lasts.
fn duration() -> Duration {
    let told = std::env::var("WEFT_CHURN_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(25))
}

fn random(below: usize) -> usize {
    usize::try_from(RandomState::new().build_hasher().finish() % below as u64).unwrap()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// etcd on loopback.
struct Etcd {
    child: Child,
    dir: TempDir,
    ports: [u16; 2],
}

impl Etcd {
    fn start() -> Self {
        for _ in 0..10 {
            let free = || TcpListener::bind("127.0.0.1:0").unwrap();
            let (one, two) = (free(), free());
            let ports = [&one, &two].map(|listener| listener.local_addr().unwrap().port());
            drop((one, two));
            let dir = tempfile::tempdir().unwrap();
            if let Some(child) = Self::run(&dir, ports) {
                return Self { child, dir, ports };
            }
        }
        panic!("no etcd could be started on ten pairs of free ports");
    }

    fn run(dir: &TempDir, [client, peer]: [u16; 2]) -> Option<Child> {
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        command.env_clear().arg("--data-dir").arg(dir.path().join("data")).args(["--log-level", "error", "--logger", "zap"]);
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
        unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        let mut child = command.spawn().expect("start etcd (Debian: etcd-server)");
        let end = Instant::now() + LONG;
        while child.try_wait().unwrap().is_none() {
            if TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], client)), Duration::from_millis(200)).is_ok() {
                return Some(child);
            }
            assert!(Instant::now() < end, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// SIGKILL, and started again with what it had.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let end = Instant::now() + LONG;
        self.child = loop {
            if let Some(child) = Self::run(&self.dir, self.ports) {
                break child;
            }
            assert!(Instant::now() < end, "etcd does not come back");
        };
    }

    fn config(&self) -> EtcdConfig {
        EtcdConfig { endpoints: vec![format!("127.0.0.1:{}", self.ports[0])], ..EtcdConfig::default() }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn store(config: &EtcdConfig) -> Arc<dyn Store> {
    Arc::new(EtcdStore::connect(config.clone()).await.unwrap())
}

/// One agent, alive.
struct Agent {
    published: watch::Sender<Arc<Published>>,
    done: watch::Receiver<u64>,
    /// The generation whose acknowledgement is awaited, and the keys that it is about.
    awaited: Option<u64>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    fn start(config: EtcdConfig, node: &NodeName, number: usize, view: View) -> Self {
        let (published, attachments) = watch::channel(Arc::new(Published { generation: 0, by_id: BTreeMap::new() }));
        let (done_tx, done) = watch::channel(0);
        let (kill, killed) = oneshot::channel();
        let me = Me {
            node: node.clone(),
            public_ip: Some(Ipv4Addr::new(192, 0, 2, u8::try_from(number + 1).unwrap())),
            public_ipv6: None,
            capabilities: Vec::new(),
            boot: "boot".into(),
            instance: node.to_string(),
            since: "2026-01-01T00:00:00Z".into(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let store = store(&config).await;
                // As an agent that starts: what it finds of its own it goes on with.
                let adopt = view.borrow().as_ref().and_then(|s| s.node(&me.node).and_then(|entry| entry.lease));
                let liveness = session::keep(store.clone(), "liveness", TTL, adopt);
                let registry = Registry::new(store, Arc::new(Layout::default()));
                let (me, reason) = (watch::channel(Some(me)), watch::channel(None));
                let (programs, verdicts) = (watch::channel(Arc::default()), watch::channel(Arc::default()));
                let (registrations, verdicts) = (programs.1, verdicts.1);
                let sources = registrar::Sources { attachments, registrations, verdicts };
                tokio::select! {
                    () = registrar::run(registry, view, me.1, liveness, sources, done_tx, reason.0) => {}
                    _ = killed => {}
                }
            });
            // Here the runtime ends, and in the midst of whatever they do all of its tasks with it.
        });
        Self { published, done, awaited: None, kill: Some(kill), thread: Some(thread) }
    }

    fn publish(&mut self, wanted: Vec<Attachment>) {
        let generation = self.published.borrow().generation + 1;
        let by_id = wanted.into_iter().map(|attachment| (attachment.id.clone(), attachment)).collect();
        self.published.send_replace(Arc::new(Published { generation, by_id }));
        self.awaited = Some(generation);
    }

    fn kill(mut self) {
        drop(self.kill.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Something attached, as a journal of an agent has it.
fn attachment(id: &str, service: &str, port: u16, number: usize) -> Attachment {
    let address = Ipv4Addr::new(10, 244, u8::try_from(number).unwrap(), 2);
    serde_json::from_value(serde_json::json!({
        "id": id, "netns": "/run/netns/x", "netns_id": [4, 5], "netns_cookie": 6, "ifname": "eth0", "host_ifname": "weftx",
        "address": address, "mac": "02:02:02:02:02:02", "gateway": "10.244.3.1", "mtu": 1450, "boot": "boot",
        "service": service, "port": port,
    }))
    .unwrap()
}

/// What is known of all of it.
#[derive(Default)]
struct Book {
    /// Keys that were acknowledged to an agent which lives and still wants them.
    acknowledged: BTreeMap<String, NodeName>,
    /// Who has each record, by the checker's watch.
    records: BTreeMap<String, NodeName>,
    /// When the checker saw that a record was deleted, if it is, and at which revision.
    deleted: BTreeMap<String, (Instant, Revision)>,
    /// The same by the second watch.
    deleted_again: BTreeMap<String, Instant>,
    services: BTreeMap<String, Service>,
    vips: BTreeMap<String, VipOwner>,
    /// When something held up the whole machine, or a lease ended that was kept: how long, and when.
    stalls: VecDeque<(Instant, Duration)>,
    faults: Vec<String>,
    seen: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: usize,
    changes: usize,
    deleted: usize,
    deaths: usize,
    looked: usize,
    services: usize,
    excused: usize,
}

impl Book {
    /// The longest stall of late.
    fn stalled(&mut self) -> Duration {
        while self.stalls.front().is_some_and(|(at, _)| at.elapsed() > TTL * 3) {
            self.stalls.pop_front();
        }
        self.stalls.iter().map(|(_, long)| *long).max().unwrap_or_default()
    }

    fn gone(&mut self, key: &str, at: Revision) {
        self.records.remove(key);
        self.deleted.insert(key.to_owned(), (Instant::now(), at));
        self.seen.deleted += 1;
        let Some(owner) = self.acknowledged.get(key).cloned() else { return };
        if self.stalled() > TTL / 6 {
            self.seen.excused += 1;
        } else {
            self.faults.push(format!("{key} of {owner}, which lives, was acknowledged and is gone"));
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.deleted.remove(key);
        let record = Record::parse(value).ok();
        let Some(node) = record.and_then(|record| record.weft?.node) else {
            self.faults.push(format!("{key} is no record of an agent: {}", String::from_utf8_lossy(value)));
            return;
        };
        if let Some(before) = self.records.insert(key.to_owned(), node.clone())
            && before != node
        {
            self.faults.push(format!("{key} was {before}'s, and {node} wrote over it"));
        }
    }

    /// After each revision: an address is of one service, and the key that says so says the same.
    fn check_vips(&mut self) {
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        for (name, service) in &self.services {
            for vip in &service.vips {
                if let Some(other) = owners.insert(vip.to_string(), name) {
                    self.faults.push(format!("{vip} is both {other}'s and {name}'s"));
                }
                let key = self.vips.get(&vip.to_string()).map(|owner| owner.service.to_string());
                if key.as_deref() != Some(name) {
                    self.faults.push(format!("{vip} is in {name}, and its key says {key:?}"));
                }
            }
        }
        for (vip, owner) in &self.vips {
            if !owners.contains_key(vip) {
                self.faults.push(format!("{vip} is held for {}, which does not have it", owner.service));
            }
        }
    }

    fn take(&mut self, layout: &Layout, change: &Change) {
        let (key, value, at) = match change {
            Change::Put(entry) => (&entry.key, Some(&entry.value), entry.modified),
            Change::Delete { key, revision } => (key, None, *revision),
        };
        let text = String::from_utf8(key.clone()).unwrap();
        match (layout.parse(key), value) {
            (Ok(Key::Record(_)), Some(value)) => self.put(&text, value),
            (Ok(Key::Record(_)), None) => self.gone(&text, at),
            (Ok(Key::Service(name)), Some(value)) => {
                self.services.insert(name.to_string(), serde_json::from_slice(value).unwrap());
            }
            (Ok(Key::Service(name)), None) => drop(self.services.remove(&name.to_string())),
            (Ok(Key::Vip(vip)), Some(value)) => {
                self.vips.insert(vip.to_string(), serde_json::from_slice(value).unwrap());
            }
            (Ok(Key::Vip(vip)), None) => drop(self.vips.remove(&vip.to_string())),
            _ => {}
        }
    }
}

/// The checker's watch: names, and everything of ours that stands below one prefix, so that a revision comes as a whole.
async fn check(config: EtcdConfig, book: Arc<Mutex<Book>>, started: oneshot::Sender<()>) {
    let layout = Layout::default();
    let mut follow = follow(store(&config).await, layout.watched());
    let mut started = Some(started);
    loop {
        match follow.next().await {
            Update::Complete(listing) => match started.take() {
                Some(started) => {
                    assert!(listing.entries.is_empty(), "the store was not empty");
                    let _ = started.send(());
                }
                None => lock(&book).faults.push("the checker's watch lost its place".to_owned()),
            },
            Update::Changes(batch) => {
                let mut book = lock(&book);
                for change in &batch.changes {
                    book.take(&layout, change);
                }
                book.check_vips();
            }
            Update::Away { .. } | Update::Back => {}
        }
    }
}

/// The second watch, which only tells how late watches are on this machine.
async fn check_again(config: EtcdConfig, book: Arc<Mutex<Book>>) {
    let mut follow = follow(store(&config).await, vec![b"/skydns/".to_vec()]);
    loop {
        if let Update::Changes(batch) = follow.next().await {
            let mut book = lock(&book);
            for change in batch.changes {
                match change {
                    Change::Put(entry) => drop(book.deleted_again.remove(&String::from_utf8(entry.key).unwrap())),
                    Change::Delete { key, .. } => {
                        book.deleted_again.insert(String::from_utf8(key).unwrap(), Instant::now());
                    }
                }
            }
        }
    }
}

/// Measures how late a tick of 20 ms is.
async fn tick(book: Arc<Mutex<Book>>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let late = last.elapsed().saturating_sub(Duration::from_millis(20));
        if late > Duration::from_millis(100) {
            lock(&book).stalls.push_back((Instant::now(), late));
        }
        last = Instant::now();
    }
}

/// Keeps a lease as plainly as can be: how long its renewals take is a stall like others.
async fn keep(config: EtcdConfig, book: Arc<Mutex<Book>>) {
    let store = store(&config).await;
    let mut lease = None;
    loop {
        let begun = Instant::now();
        lease = match lease {
            None => store.grant(TTL).await.ok(),
            Some(lease) => match store.keep_alive(lease).await {
                Ok(Some(_)) => Some(lease),
                Ok(None) => {
                    lock(&book).stalls.push_back((Instant::now(), TTL));
                    None
                }
                Err(_) => Some(lease),
            },
        };
        if begun.elapsed() > Duration::from_millis(200) {
            lock(&book).stalls.push_back((Instant::now(), begun.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Looks for what is in a view and was deleted long ago.
async fn look(views: Vec<View>, book: Arc<Mutex<Book>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let snapshots: Vec<Option<Arc<Snapshot>>> = views.iter().map(|view| view.borrow().clone()).collect();
        let mut book = lock(&book);
        let bound = SERVED + book.stalled() * 2;
        let old = |at: &Instant| at.elapsed() > bound;
        let deleted: Vec<(String, Revision)> = book
            .deleted
            .iter()
            .filter(|(key, (at, _))| old(at) && book.deleted_again.get(*key).is_some_and(old))
            .map(|(key, (_, at))| (key.clone(), *at))
            .collect();
        for (key, at) in deleted {
            let path = RecordPath::from_labels(key.trim_start_matches("/skydns/").split('/'));
            book.seen.looked += 1;
            for snapshot in snapshots.iter().flatten() {
                // A view may know already that it has been written again; and what ended with its host is marked as lost, so that
                // nobody is sent there as long as there is anybody else.
                if snapshot.record(&path).is_some_and(|record| !record.lost && record.modified < at) {
                    book.faults
                        .push(format!("{key} was deleted more than {bound:?} ago, and a view at {} has it", snapshot.revision()));
                }
            }
            // Once is enough.
            book.deleted.remove(&key);
        }
    }
}

/// Makes and removes services that want the same few addresses.
async fn services(config: EtcdConfig, book: Arc<Mutex<Book>>) {
    let registry = Registry::new(store(&config).await, Arc::new(Layout::default()));
    loop {
        let name: ServiceName = format!("default/s{}", random(8)).parse().unwrap();
        let key = registry.layout().service(&name);
        let Ok((_, there)) = registry.store().get(key.as_bytes()).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let written = match there {
            Some(entry) => {
                let service: Service = serde_json::from_slice(&entry.value).unwrap();
                registry.remove_service(&name, entry.modified, &service.vips).await
            }
            None => {
                let vip = Ipv4Addr::new(10, 112, 0, u8::try_from(random(4)).unwrap());
                let service = Service { vips: vec![vip.into()], ..Service::default() };
                registry.create_service(&name, &service, None).await
            }
        };
        if matches!(written, Ok(Outcome::Done(_))) {
            lock(&book).seen.services += 1;
        }
        tokio::time::sleep(Duration::from_millis(20 + random(80) as u64)).await;
    }
}

/// The agents, by number; none is dead.
struct Crowd {
    config: EtcdConfig,
    book: Arc<Mutex<Book>>,
    views: Vec<View>,
    agents: Vec<Option<Agent>>,
    wanted: Vec<Vec<Attachment>>,
}

fn node(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

impl Crowd {
    fn view(&self, number: usize) -> View {
        self.views[number % VIEWS].clone()
    }

    fn start(&mut self, number: usize) {
        let agent = Agent::start(self.config.clone(), &node(number), number, self.view(number));
        self.agents[number] = Some(agent);
        // What was attached is attached: a container outlives its agent.
        self.publish(number);
    }

    /// The keys of what one agent has, but for those that others want too.
    fn keys(&self, number: usize) -> Vec<String> {
        let view = self.view(number);
        let Some(snapshot) = view.borrow().clone() else { return Vec::new() };
        let own = self.wanted[number].iter().filter(|attachment| !attachment.id.as_str().starts_with("contested"));
        let parts = own.flat_map(|attachment| records::parts(&snapshot, &node(number), attachment));
        parts.map(|part| snapshot.layout().record(&part.path)).collect()
    }

    fn publish(&mut self, number: usize) {
        let keys = self.keys(number);
        let mine = node(number);
        // Before anything is withdrawn: what is no longer wanted is no longer promised.
        lock(&self.book).acknowledged.retain(|key, owner| *owner != mine || keys.contains(key));
        let wanted = self.wanted[number].clone();
        if let Some(agent) = &mut self.agents[number] {
            agent.publish(wanted);
        }
    }

    fn kill(&mut self, number: usize) {
        let mine = node(number);
        {
            let mut book = lock(&self.book);
            book.acknowledged.retain(|_, owner| *owner != mine);
            book.seen.deaths += 1;
        }
        if let Some(agent) = self.agents[number].take() {
            agent.kill();
        }
    }

    /// Another container, one less, or another port.
    fn change(&mut self, number: usize) {
        let port = 1000 + u16::try_from(random(1000)).unwrap();
        let wanted = &mut self.wanted[number];
        match random(4) {
            0 if !wanted.is_empty() => drop(wanted.swap_remove(random(wanted.len()))),
            1 if !wanted.is_empty() => {
                let at = random(wanted.len());
                wanted[at].port = Some(port);
            }
            2 => {
                let (id, service) = (format!("contested-{}", random(CONTESTED)), "default/shared");
                wanted.retain(|attachment| attachment.id.as_str() != id);
                wanted.push(attachment(&id, service, port, number));
            }
            _ => {
                let id = format!("c{number}-{}", random(1_000_000));
                wanted.push(attachment(&id, &format!("default/app{}", random(10)), port, number));
            }
        }
        while wanted.len() > MOST {
            wanted.remove(0);
        }
        lock(&self.book).seen.changes += 1;
        self.publish(number);
    }

    /// Takes down what has been acknowledged since the last time.
    fn collect(&mut self) {
        for number in 0..self.agents.len() {
            let keys = self.keys(number);
            let Some(agent) = &mut self.agents[number] else { continue };
            if agent.awaited.is_some_and(|generation| *agent.done.borrow() >= generation) {
                agent.awaited = None;
                let mut book = lock(&self.book);
                book.seen.acknowledged += keys.len();
                book.acknowledged.extend(keys.into_iter().map(|key| (key, node(number))));
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.agents.iter().flatten().all(|agent| agent.awaited.is_none())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_agents_that_come_and_go_lose_nothing_and_leave_nothing() {
    let mut etcd = Etcd::start();
    let config = etcd.config();
    let book: Arc<Mutex<Book>> = Arc::default();
    let (started, has_started) = oneshot::channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(check(config.clone(), book.clone(), started));
    tokio::time::timeout(LONG, has_started).await.unwrap().unwrap();
    tasks.spawn(check_again(config.clone(), book.clone()));
    tasks.spawn(tick(book.clone()));
    tasks.spawn(keep(config.clone(), book.clone()));
    let mut views = Vec::new();
    for _ in 0..VIEWS {
        let layout = Arc::new(Layout::default());
        let (view_tx, mut view) = watch::channel(None);
        let (health, _) = watch::channel(Health::default());
        tasks.spawn(view::run(follow(store(&config).await, layout.watched()), layout, view_tx, health, Arc::default()));
        tokio::time::timeout(LONG, view.wait_for(Option::is_some)).await.unwrap().unwrap();
        views.push(view);
    }
    tasks.spawn(look(views.clone(), book.clone()));
    for _ in 0..3 {
        tasks.spawn(services(config.clone(), book.clone()));
    }

    let (agents, wanted) = ((0..AGENTS).map(|_| None).collect(), vec![Vec::new(); AGENTS]);
    let mut crowd = Crowd { config, book: book.clone(), views, agents, wanted };
    for number in 0..AGENTS {
        crowd.wanted[number].push(attachment(&format!("c{number}-0"), "default/app0", 80, number));
        crowd.start(number);
    }
    let begun = Instant::now();
    let mut restarts = 0_u32;
    while begun.elapsed() < duration() {
        let number = random(AGENTS);
        match (random(10), crowd.agents[number].is_some()) {
            (0, true) => crowd.kill(number),
            (_, true) => crowd.change(number),
            // Some come back within their lease, some after it.
            (0..4, false) => crowd.start(number),
            (_, false) => {}
        }
        crowd.collect();
        if begun.elapsed() > duration() * (restarts + 1) / 3 && restarts < 2 {
            restarts += 1;
            tokio::task::block_in_place(|| etcd.restart());
        }
        if let Some(fault) = lock(&book).faults.first() {
            panic!("{fault}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Half of the dead stay dead. What the living want is there in the end, and nothing else is.
    for number in (0..AGENTS).step_by(2) {
        if crowd.agents[number].is_none() {
            crowd.start(number);
        }
    }
    let end = Instant::now() + LONG;
    loop {
        crowd.collect();
        let settled = crowd.is_settled();
        {
            let book = lock(&book);
            assert!(book.faults.is_empty(), "{:#?}", book.faults);
            let of_the_dead: Vec<_> = book
                .records
                .iter()
                .filter(|(_, owner)| (0..AGENTS).any(|n| crowd.agents[n].is_none() && node(n) == **owner))
                .collect();
            let missing: Vec<_> = book.acknowledged.iter().filter(|(key, owner)| book.records.get(*key) != Some(owner)).collect();
            if settled && of_the_dead.is_empty() && missing.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "settled: {settled}; of the dead: {of_the_dead:?}; missing: {missing:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for number in 0..AGENTS {
        crowd.kill(number);
    }
    let book = lock(&book);
    println!("{:?}, {restarts} restarts of etcd", book.seen);
    let seen = &book.seen;
    assert!(seen.acknowledged > AGENTS && seen.deaths > AGENTS && seen.changes > AGENTS, "{seen:?}");
    assert!(seen.deleted > 10 && seen.looked > 10 && seen.services > 10, "{seen:?}");
}
