//! Passive marking: what this host's own connections through virtual IPs say of backends.
//!
//! For services that ask for it (`passive`, see [`weft_model::passive`]) a program at the cgroup tells how connections go
//! ([`weft_agent::kernel::bpf::Passive`]); [`judge`] counts, and says who is quarantined; the resolver puts those behind the others in
//! the rows of the maps. All of it is this process's: an agent that starts anew knows of no failure. While no service asks for it
//! nothing is loaded, attached or looked at.

pub mod judge;

use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};
use weft_agent::kernel::bpf::{self, Paths};
use weft_model::snapshot::Snapshot;
use weft_proxy::{Changed, Quarantine, Services};

use super::{Fast, Outcome, Shared};
use crate::view::chain;
use judge::{Judge, News, Seen};

/// How often what was told is looked at. A look without news is a read of memory.
const EVERY: Duration = Duration::from_millis(100);

/// What is known of connections, and the program that tells.
#[derive(Debug, Default)]
pub(super) struct Passive {
    judge: Judge,
    kernel: Option<bpf::Passive>,
    /// Why there is no program although one is wanted; not tried again before the next resync.
    refused: Option<String>,
    /// Who is quarantined, as the resolver takes it.
    quarantine: Arc<Quarantine>,
    seen: watch::Sender<Arc<Seen>>,
    begun: Arc<Notify>,
    failures: Counter,
    quarantines: Counter,
    quarantined: Gauge,
}

impl Passive {
    /// Follows services that stand for other things than before. Whether others are quarantined by that.
    fn follow(&mut self, changed: &Changed, services: &Services) -> bool {
        let was_wanted = self.judge.is_wanted();
        let news = self.judge.follow(changed, services);
        if !was_wanted && self.judge.is_wanted() {
            self.begun.notify_one();
        }
        self.take(news)
    }

    /// Logs, counts and publishes what has changed. Whether anything has.
    fn take(&mut self, news: Vec<News>) -> bool {
        if news.is_empty() {
            return false;
        }
        for news in news {
            match news {
                News::Quarantined { service, backend, why } => {
                    self.quarantines.inc();
                    warn!(%service, %backend, why, "a backend is quarantined on this host");
                }
                News::Lifted { service, backend, why } => info!(%service, %backend, why, "a backend's quarantine has ended"),
            }
        }
        let seen = self.judge.seen();
        self.quarantined.set(i64::try_from(seen.len()).unwrap_or(i64::MAX));
        self.quarantine = Arc::new(seen.keys().cloned().collect());
        self.seen.send_replace(Arc::new(seen));
        true
    }

    /// What is tried in vain is tried again.
    pub(super) fn resync(&mut self) {
        self.refused = None;
    }

    /// Attaches the program if it is wanted and not there, detaches it if it is not, and tells it what to watch.
    pub(super) fn sync(&mut self, paths: &Paths, outcome: &mut Outcome) {
        if !self.judge.is_wanted() {
            if self.kernel.take().is_some() {
                info!("no service asks for it any more: connections are not watched");
                outcome.done += 1;
            }
            self.refused = None;
            return;
        }
        if self.kernel.as_ref().is_some_and(|kernel| !kernel.is_attached()) {
            warn!("somebody detached the program that watches connections; it is attached again");
            self.kernel = None;
        }
        if self.refused.is_none() {
            let result = self.bring_up(paths);
            match result {
                Ok(done) => outcome.done += done,
                Err(e) => {
                    self.refused = Some(format!("passive marking: {}", chain(&e)));
                    self.kernel = None;
                }
            }
        }
        // Services go on without it, so it is no failed change that would be tried each second.
        outcome.problems.extend(self.refused.clone());
    }

    fn bring_up(&mut self, paths: &Paths) -> Result<u64, bpf::BpfError> {
        let mut done = 0;
        if self.kernel.is_none() {
            self.kernel = Some(bpf::Passive::attach(paths)?);
            info!("watches how connections to backends go");
            done = 1;
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.watch(&self.judge.frontends())?;
        }
        Ok(done)
    }

    /// Judges what was told, and whose time is over. Whether others are quarantined by that.
    fn hear(&mut self) -> bool {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let mut news = self.judge.lapse(now);
        if let Some(kernel) = &mut self.kernel {
            while let Some(told) = kernel.next_told() {
                let heard = self.judge.note(&told, now, clock);
                self.failures.inc_by(u64::from(heard.is_failure));
                news.extend(heard.news);
            }
        }
        self.take(news)
    }
}

impl Fast {
    /// Makes services those of the snapshot on this host, and follows those that are watched.
    pub(super) fn resolve(&mut self, snapshot: &Snapshot) -> Changed {
        let changed = self.resolver.update(snapshot, &self.passive.quarantine);
        if !self.passive.follow(&changed, self.resolver.services()) {
            return changed;
        }
        changed.and(self.resolver.update(snapshot, &self.passive.quarantine))
    }

    /// Who is quarantined on this host, as the resolver takes it.
    pub(super) fn quarantine(&self) -> &Arc<Quarantine> {
        &self.passive.quarantine
    }

    /// Who is quarantined on this host, and why.
    #[must_use]
    pub fn quarantined(&self) -> watch::Receiver<Arc<Seen>> {
        self.passive.seen.subscribe()
    }

    /// What tells [`changed`] that there is something to listen to.
    #[must_use]
    pub fn begun(&self) -> Arc<Notify> {
        self.passive.begun.clone()
    }

    /// Registers the counters of it.
    pub fn register(&self, registry: &mut Registry) {
        let passive = registry.sub_registry_with_prefix("weft_passive");
        let Passive { failures, quarantines, quarantined, .. } = &self.passive;
        passive.register("failures", "Failed connections to backends of services with passive marking", failures.clone());
        passive.register("quarantines", "Times that a backend was quarantined on this host", quarantines.clone());
        passive.register("quarantined", "Backends that are quarantined on this host", quarantined.clone());
    }
}

/// Returns once other backends are quarantined than before. Giving up waiting loses nothing.
pub async fn changed(datapath: &Shared, begun: &Notify) {
    loop {
        match hear(datapath) {
            Heard::Changed => return,
            Heard::Nothing => tokio::time::sleep(EVERY).await,
            Heard::Unwanted => begun.notified().await,
        }
    }
}

enum Heard {
    Changed,
    Nothing,
    /// Nobody wants to know.
    Unwanted,
}

fn hear(datapath: &Shared) -> Heard {
    let mut fast = match datapath.try_lock() {
        Ok(fast) => fast,
        // Whoever holds it writes the maps just now; what is told waits in the ring.
        Err(TryLockError::WouldBlock) => return Heard::Nothing,
        Err(TryLockError::Poisoned(fast)) => fast.into_inner(),
    };
    if !fast.passive.judge.is_wanted() {
        return Heard::Unwanted;
    }
    if fast.passive.hear() { Heard::Changed } else { Heard::Nothing }
}
