//! `netctl doctor`: finds what is wrong with this host's part of the network, and says what to do about it.
//!
//! A check looks at one thing and says what it found of each subject; nothing here changes what it looks at. The checks of this
//! host are the rows of [`CHECKS`]. Paths to other hosts are probed from a [`container`] of the doctor's own, made and taken back
//! as any other, and from the host: so both ways that packets take are measured. What an answer means is judged by pure functions,
//! which are tested without a network.
//!
//! ```text
//!   POST /v1/doctor ─▶ run ─┬─▶ checks of this host, all at once ───────────────┐
//!                           └─▶ container ─▶ path of each peer, a few at a time ─┴─▶ findings, as they come
//! ```
//!
//! Why people need it: flannel.md section 17 is a list of things that fail in silence. Each file here names those it finds.

mod agent;
mod clock;
mod container;
mod dns;
mod forwarding;
mod host;
mod judge;
mod maps;
mod orphans;
mod paths;
mod store;
mod uplink;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info};
use weft_api::{CheckResult, Checkup, CheckupStart, Code, Finding};

use crate::admin::Admin;
use crate::config::Settings;
use crate::refusal::Refusal;

/// How long a checkup may take unless the request says.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest that it may say.
const LONGEST: Duration = Duration::from_secs(3600);

/// Checkups under way at one time.
const UNDER_WAY: usize = 4;

/// Checkups that are remembered.
const REMEMBERED: usize = 16;

/// Peers that are probed at one time. Each takes a thread that waits.
const PROBED_AT_ONCE: usize = 16;

type Looking = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

/// A check of this host: its name, and how to look.
type Check = (&'static str, fn(Arc<Admin>) -> Looking);

/// The checks of this host, in the order in which they are shown. Names stay: scripts know them.
const CHECKS: [Check; 21] = [
    ("kernel", |a| Box::pin(host::kernel(a))),
    ("privileges", |a| Box::pin(host::privileges(a))),
    ("fast-path", |a| Box::pin(host::fast_path(a))),
    ("virtual-ips", |a| Box::pin(host::virtual_ips(a))),
    ("bpffs", |a| Box::pin(host::bpffs(a))),
    ("uplink", |a| Box::pin(uplink::uplink(a))),
    ("vxlan", |a| Box::pin(uplink::vxlan(a))),
    ("ip-forward", |a| Box::pin(forwarding::ip_forward(a))),
    ("rp-filter", |a| Box::pin(forwarding::rp_filter(a))),
    ("forward-chains", |a| Box::pin(forwarding::forward_chains(a))),
    ("nft", |a| Box::pin(forwarding::nft(a))),
    ("store", |a| Box::pin(store::store(a))),
    ("lease", |a| Box::pin(store::lease(a))),
    ("node", |a| Box::pin(store::node(a))),
    ("values", |a| Box::pin(store::values(a))),
    ("orphans", |a| Box::pin(orphans::orphans(a))),
    ("other-leases", |a| Box::pin(store::other_leases(a))),
    ("dns", |a| Box::pin(dns::answers(a))),
    ("dns-upstream", |a| Box::pin(dns::upstream(a))),
    ("maps", |a| Box::pin(maps::fill(a))),
    ("drops", |a| Box::pin(maps::drops(a))),
];

/// The checks that are looked at after those, and what is shown of them last.
const MORE: [&str; 7] =
    [clock::CHECK, agent::PLAN, container::CHECK, paths::PATH, paths::PATH_MTU, paths::PATH_TCP, agent::STATUS];

/// What the doctor knows beside what the rest of the agent does.
#[derive(Debug)]
pub struct Doctor {
    settings: Settings,
    /// Why pins will not outlive the agent, if they will not.
    bpffs_note: Option<String>,
    clock: clock::Baseline,
    drops: Mutex<maps::Seen>,
    runs: Mutex<Runs>,
}

/// Checkups by number.
#[derive(Debug, Default)]
struct Runs {
    last: u64,
    kept: BTreeMap<u64, Progress>,
}

/// A checkup as far as it is.
type Progress = Arc<Mutex<Checkup>>;

impl Doctor {
    /// A doctor who has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings, bpffs_note: Option<String>) -> Self {
        Self { settings, bpffs_note, clock: clock::Baseline::now(), drops: Mutex::default(), runs: Mutex::default() }
    }

    /// How far a checkup is.
    ///
    /// # Errors
    /// There is none of this number, any more.
    pub fn checkup(&self, id: &str) -> Result<Checkup, Refusal> {
        let unknown = || Refusal::not_found(format!("doctor: there is no checkup {id}; the agent may have been restarted"));
        let number: u64 = id.parse().map_err(|_| unknown())?;
        let found = lock(&self.runs).kept.get(&number).cloned().ok_or_else(unknown)?;
        Ok(seen(&found))
    }

    /// Begins one.
    ///
    /// # Errors
    /// Too many are under way, or there is no such peer.
    pub fn begin(&self, admin: &Arc<Admin>, start: CheckupStart) -> Result<Checkup, Refusal> {
        let peers = if start.local { Vec::new() } else { paths::chosen(admin, &start.peers)? };
        let timeout = start.timeout_ms.map_or(TIMEOUT, Duration::from_millis).min(LONGEST);
        let (id, progress) = {
            let mut runs = lock(&self.runs);
            if runs.kept.values().filter(|run| !lock(run).done).count() >= UNDER_WAY {
                return Err(Refusal::new(
                    Code::Full,
                    format!("doctor: {UNDER_WAY} checkups are under way; try again in a minute"),
                ));
            }
            while runs.kept.len() >= REMEMBERED {
                runs.kept.pop_first();
            }
            runs.last += 1;
            let id = runs.last;
            let checkup = Checkup {
                id,
                node: admin.node.clone(),
                done: false,
                healthy: true,
                findings: Vec::new(),
                finished: 0,
                total: 0,
                now: Vec::new(),
            };
            let progress = Arc::new(Mutex::new(checkup));
            runs.kept.insert(id, progress.clone());
            (id, progress)
        };
        let run = Run { admin: admin.clone(), progress: progress.clone(), parts: JoinSet::new(), names: BTreeMap::new() };
        tokio::spawn(run.examine(id, peers, start.local, timeout));
        Ok(seen(&progress))
    }
}

/// A checkup in the making.
struct Run {
    admin: Arc<Admin>,
    progress: Progress,
    parts: JoinSet<Vec<Finding>>,
    /// Check and subject of the parts under way.
    names: BTreeMap<Id, (&'static str, String)>,
}

impl Run {
    async fn examine(mut self, id: u64, peers: Vec<paths::Target>, local: bool, timeout: Duration) {
        let (begun, deadline) = (Instant::now(), Instant::now() + timeout);
        let host = self.admin.node.to_string();
        for (name, look) in CHECKS {
            self.part(name, host.clone(), look(self.admin.clone()));
        }
        self.part(clock::CHECK, host.clone(), clock::steps(self.admin.clone()));
        self.collect(1, deadline).await;
        // A container of one's own comes after the look at the kernel's tables, which it changes.
        self.part(agent::PLAN, host.clone(), agent::plan(self.admin.clone()));
        self.collect(0, deadline).await;

        let made =
            if local { Err("only this host is looked at (--local)".to_owned()) } else { self.container(id, deadline).await };
        let endpoint = made.as_ref().ok().cloned();
        let why_not = made.err();
        let turns = Arc::new(Semaphore::new(PROBED_AT_ONCE));
        for target in peers {
            let (turns, endpoint, why_not) = (turns.clone(), endpoint.clone(), why_not.clone());
            let (name, datapath) = (target.name(), self.admin.datapath.clone());
            self.part(paths::PATH, name, async move {
                let _turn = turns.acquire().await;
                paths::probe(datapath, target, endpoint, why_not).await
            });
        }
        self.collect(0, deadline).await;
        if let Some(endpoint) = endpoint {
            self.add(endpoint.take_back(&self.admin).await);
        }
        // Last, so that what was said in full elsewhere is not said twice.
        let said = lock(&self.progress).findings.clone();
        self.add(agent::status(&self.admin, &said));
        let mut checkup = lock(&self.progress);
        checkup.done = true;
        let failed = checkup.findings.iter().filter(|f| f.result == CheckResult::Fail).count();
        info!(id, failed, findings = checkup.findings.len(), took_ms = begun.elapsed().as_millis(), "checkup done");
    }

    /// Begins a part.
    fn part(&mut self, check: &'static str, subject: String, looking: impl Future<Output = Vec<Finding>> + Send + 'static) {
        let id = self.parts.spawn(looking).id();
        self.names.insert(id, (check, subject));
        lock(&self.progress).total += 1;
        self.tell();
    }

    /// The doctor's own container, or why there is none; findings of it are added.
    async fn container(&mut self, id: u64, deadline: Instant) -> Result<Arc<container::Endpoint>, String> {
        lock(&self.progress).total += 1;
        lock(&self.progress).now = vec![container::CHECK.to_owned()];
        let made = tokio::time::timeout_at(deadline, container::make(&self.admin, id)).await;
        let (findings, endpoint) = match made {
            Ok((findings, endpoint)) => (findings, endpoint.ok_or_else(|| "no container could be made".to_owned())),
            Err(_) => (vec![late(container::CHECK, self.admin.node.to_string())], Err("there was no time left".to_owned())),
        };
        self.add(findings);
        lock(&self.progress).finished += 1;
        self.tell();
        endpoint
    }

    /// Waits until no more than `left` parts are under way; those that are not done by the deadline are skipped.
    async fn collect(&mut self, left: usize, deadline: Instant) {
        while self.parts.len() > left {
            match tokio::time::timeout_at(deadline, self.parts.join_next_with_id()).await {
                Ok(Some(Ok((id, findings)))) => {
                    self.names.remove(&id);
                    self.add(findings);
                }
                Ok(Some(Err(e))) => {
                    let part = self.names.remove(&e.id());
                    debug!(error = %e, "a check went wrong");
                    self.add(part.map(|(check, subject)| Finding::skipped(check, subject, format!("the check went wrong: {e}"))));
                }
                Ok(None) => return,
                Err(_) => {
                    // What waits for its turn never begins; what waits for an answer ends by itself soon, unheard.
                    self.parts = JoinSet::new();
                    let open = std::mem::take(&mut self.names);
                    lock(&self.progress).finished += open.len();
                    self.add(open.into_values().map(|(check, subject)| late(check, subject)));
                    self.tell();
                    return;
                }
            }
            lock(&self.progress).finished += 1;
            self.tell();
        }
    }

    fn add(&self, findings: impl IntoIterator<Item = Finding>) {
        let mut checkup = lock(&self.progress);
        checkup.findings.extend(findings);
        checkup.findings.sort_by_key(|f| (order(&f.check), f.subject.clone()));
        checkup.healthy = checkup.findings.iter().all(|f| f.result != CheckResult::Fail);
    }

    fn tell(&self) {
        let mut now: Vec<String> = self.names.values().map(|(check, subject)| format!("{check} {subject}")).collect();
        now.sort_unstable();
        lock(&self.progress).now = now;
    }
}

fn late(check: &str, subject: String) -> Finding {
    Finding::skipped(check, subject, "there was no time left; --timeout gives more")
}

/// Where a check stands in the list.
fn order(check: &str) -> usize {
    let all = CHECKS.iter().map(|(name, _)| *name).chain(MORE);
    all.into_iter().position(|name| name == check).unwrap_or(usize::MAX)
}

/// Locks; whoever panicked while holding it left at most findings of one check too few.
fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seen(progress: &Progress) -> Checkup {
    lock(progress).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_its_place_and_a_name_of_its_own() {
        let names: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).chain(MORE).collect();
        for (i, name) in names.iter().enumerate() {
            assert_eq!(order(name), i, "{name}");
        }
        assert_eq!(order("unheard-of"), usize::MAX);
    }
}
