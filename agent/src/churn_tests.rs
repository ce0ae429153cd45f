//! A hundred agents that register, change and die at random, and programs that register with them, on a real etcd of three members
//! of which one after the other is killed or cut off meanwhile.
//!
//! ```text
//!   programs ─ PUT, DELETE ─▶ agents ─▶ etcd ×3 ─▶ views, and the checker's own watches
//!   programs.rs               agents.rs            watches.rs ─▶ book.rs: what was promised, and what must not be
//!        └──────── crowd.rs ──────┘
//! ```
//!
//! An agent here is a thread with the real session, registrar and registrations on a state directory that outlives it; dropping its
//! runtime is its SIGKILL. A program that dies tells nobody. Ten real views are followed beside them. A checker with a watch of its
//! own says what must not be:
//! * a registration that was acknowledged is gone while its owner lives, be it a container's agent or a program that is heard;
//! * a view still has as live what etcd deleted more than a second before;
//! * a name or a virtual IP has two owners.
//!
//! In the end nothing is left of the dead and the silent, and all of the living is there.
//!
//! How long a busy machine held everything up is measured beside it, and taken off: a ticker, a second watch, a lease that
//! nobody but the test keeps. Who has his connection to a member that is cut off hears nothing until he finds that out or it is
//! back; that time counts for no view. `WEFT_CHURN_SECONDS` makes it run longer than in CI.

mod agents;
mod book;
mod crowd;
mod programs;
#[path = "../../store/tests/server/mod.rs"]
mod server;
mod watches;

/// What the servers lean on.
mod support {
    pub const LONG: std::time::Duration = super::LONG;
}

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use weft_model::keys::Layout;
use weft_store::Store;
use weft_store::etcd::{EtcdConfig, EtcdStore};
use weft_store::follow::follow;

use self::book::Book;
use self::crowd::Crowd;
use self::server::EtcdServer;
use crate::view::{self, Health};

const AGENTS: usize = 100;

/// Views of the store, each read by a tenth of the agents.
const VIEWS: usize = 10;

/// How long an agent's lease lasts.
const TTL: Duration = Duration::from_secs(6);

/// How long what etcd deleted may still be in a view.
const SERVED: Duration = Duration::from_secs(1);

/// The longest that anything takes on a busy machine. Nothing waits this long unless it fails.
const LONG: Duration = Duration::from_secs(120);

/// For how long a member of etcd is away, and for how long all are there.
const SPELL: Duration = Duration::from_secs(4);

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

async fn store(config: &EtcdConfig) -> Arc<dyn Store> {
    Arc::new(EtcdStore::connect(config.clone()).await.unwrap())
}

/// What becomes of etcd: one member after the other is killed or cut off, and comes back.
struct Trouble {
    members: Vec<EtcdServer>,
    book: Arc<Mutex<Book>>,
    spells: usize,
}

impl Trouble {
    fn step(&mut self) {
        let member = self.spells / 2 % self.members.len();
        match self.spells % 4 {
            0 => self.members[member].kill(),
            1 => self.members[member].restart(),
            2 => {
                lock(&self.book).whole_since = None;
                // Whoever asks it, another member or an agent, hears nothing.
                self.members[member].freeze();
            }
            _ => {
                self.members[member].thaw();
                lock(&self.book).whole_since = Some(Instant::now());
            }
        }
        self.spells += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_agents_that_come_and_go_lose_nothing_and_leave_nothing() {
    let members = EtcdServer::start_cluster(3, &[], None);
    let config = EtcdConfig { endpoints: members.iter().map(EtcdServer::endpoint).collect(), ..EtcdConfig::default() };
    let book = Arc::new(Mutex::new(Book { whole_since: Some(Instant::now()), ..Book::default() }));
    let mut trouble = Trouble { members, book: book.clone(), spells: 0 };
    let (started, has_started) = oneshot::channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(watches::check(config.clone(), book.clone(), started));
    tokio::time::timeout(LONG, has_started).await.unwrap().unwrap();
    tasks.spawn(watches::check_again(config.clone(), book.clone()));
    tasks.spawn(watches::tick(book.clone()));
    tasks.spawn(watches::keep(config.clone(), book.clone()));
    let mut views = Vec::new();
    for _ in 0..VIEWS {
        let layout = Arc::new(Layout::default());
        let (view_tx, mut view) = watch::channel(None);
        let (health, _) = watch::channel(Health::default());
        tasks.spawn(view::run(follow(store(&config).await, layout.watched()), layout, view_tx, health, Arc::default()));
        tokio::time::timeout(LONG, view.wait_for(Option::is_some)).await.unwrap().unwrap();
        views.push(view);
    }
    tasks.spawn(watches::look(views.clone(), book.clone()));
    for _ in 0..3 {
        tasks.spawn(watches::services(config.clone(), book.clone()));
    }

    let mut crowd = Crowd::new(config, book.clone(), views);
    let begun = Instant::now();
    while begun.elapsed() < duration() || trouble.spells % 2 == 1 {
        let number = random(AGENTS);
        match (random(10), crowd.lives(number)) {
            (0, true) => crowd.kill(number),
            (1..5, _) => crowd.change_programs().await,
            (_, true) => crowd.change(number),
            // Some come back within their lease, some after it.
            (5..8, false) => crowd.start(number),
            (_, false) => {}
        }
        crowd.collect();
        if begun.elapsed() > SPELL * u32::try_from(trouble.spells + 1).unwrap() {
            tokio::task::block_in_place(|| trouble.step());
        }
        if let Some(fault) = lock(&book).faults.first() {
            panic!("{fault}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Half of the dead stay dead. What the living want is there in the end, and nothing else is.
    for number in (0..AGENTS).step_by(2) {
        if !crowd.lives(number) {
            crowd.start(number);
        }
    }
    crowd.end_programs().await;
    let end = Instant::now() + LONG;
    loop {
        crowd.collect();
        let settled = crowd.is_settled();
        {
            let book = lock(&book);
            assert!(book.faults.is_empty(), "{:#?}", book.faults);
            let is_over = |key: &str| key.contains("/program/") && !book.wanted.contains_key(key);
            let left: Vec<_> = book.records.iter().filter(|(key, owner)| crowd.of_the_dead(owner) || is_over(key)).collect();
            let owned = |key: &str| book.records.get(key);
            let lost: Vec<_> = book.acknowledged.iter().filter(|(key, (owner, _))| owned(key) != Some(owner)).collect();
            let unheard: Vec<_> = book.wanted.keys().filter(|key| owned(key).is_none()).collect();
            if settled && left.is_empty() && lost.is_empty() && unheard.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "settled: {settled}; left: {left:?}; lost: {lost:?}; not registered: {unheard:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    crowd.end().await;
    let book = lock(&book);
    println!("{:?}, {} times was a member of etcd killed or cut off", book.seen, trouble.spells / 2);
    let seen = &book.seen;
    assert!(seen.acknowledged > AGENTS && seen.deaths > AGENTS && seen.changes > AGENTS, "{seen:?}");
    assert!(seen.registered > AGENTS && seen.beats > AGENTS && seen.silent > 10 && seen.withdrawn > 10, "{seen:?}");
    assert!(seen.deleted > 10 && seen.looked > 10 && seen.services > 10 && trouble.spells > 2, "{seen:?}");
}
