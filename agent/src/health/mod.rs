//! Health: the endpoints of this host are asked whether they are well, and the registrar writes what follows from it.
//!
//! ```text
//!  snapshot ─┐
//!  attached ─┼─▶ targets ─▶ a task for each ─▶ probe ─▶ judge ─▶ verdicts ─▶ registrar
//!  registered┘                                             └▶ what was said last (the socket, metrics)
//! ```
//!
//! Read [`target`] for what is checked, `judge` for what a row of answers means, `probe` for how it is asked. Each target has a
//! task of its own, and those that are slow wait for each other only (see `turn`). Only changes reach the registrar: a check that goes on as it did
//! writes nothing anywhere. An agent that starts takes an endpoint for what its records say until a check says otherwise.

mod judge;
mod probe;
pub mod target;
mod turn;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};
use weft_api::{CheckView, HealthView, LastCheck};
use weft_model::check::CheckKind;
use weft_model::ids::NodeName;
use weft_model::record::State;

use crate::attach::Published;
use crate::registrations::Known as Registrations;
use crate::view::View;
use judge::Judge;
use probe::Answer;
pub use probe::Trust;
use target::{Target, TargetId, Targets, Verdicts};
use turn::{PATIENCE, Turns};

/// A first check comes within so long after an endpoint does.
const FIRST: Duration = Duration::from_millis(200);

/// Changes of the store that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(50);

/// All checks of this host.
#[derive(Debug)]
pub struct Health {
    verdicts: watch::Sender<Arc<Verdicts>>,
    known: Mutex<BTreeMap<TargetId, Known>>,
    trust: Arc<Trust>,
    sockets: Turns,
    commands: Turns,
    metrics: Metrics,
}

/// What is known of one target.
#[derive(Debug)]
struct Known {
    target: Target,
    judge: Judge,
    since: SystemTime,
    runs: u64,
    failures: u64,
    last: Option<(SystemTime, Duration, Answer)>,
    /// Since when it has waited for its turn, if that is for longer than its interval.
    late: Option<Instant>,
    task: AbortHandle,
}

#[derive(Clone, Debug, Default)]
struct Metrics {
    checks: Family<Outcome, Counter>,
    falls: Counter,
    late: Counter,
    targets: Gauge,
    down: Gauge,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// `well` or `failed`.
    outcome: &'static str,
}

impl Health {
    /// No checks yet. Certificates are held against what is trusted.
    #[must_use]
    pub fn new(registry: &mut Registry, trust: Trust) -> (Arc<Self>, watch::Receiver<Arc<Verdicts>>) {
        let metrics = Metrics::default();
        let health = registry.sub_registry_with_prefix("weft_health");
        health.register("checks", "Health checks made, by outcome", metrics.checks.clone());
        health.register("falls", "Endpoints that went down by their checks", metrics.falls.clone());
        health.register("late", "Health checks that waited for their turn for longer than their interval", metrics.late.clone());
        health.register("targets", "What is checked", metrics.targets.clone());
        health.register("down", "What is checked and down", metrics.down.clone());
        let (verdicts, rx) = watch::channel(Arc::default());
        let (sockets, commands) = (Turns::of_sockets(), Turns::of_commands());
        (Arc::new(Self { verdicts, known: Mutex::default(), trust: Arc::new(trust), sockets, commands, metrics }), rx)
    }

    /// Checks what there is to check, until the process ends.
    pub async fn run(
        self: Arc<Self>,
        node: NodeName,
        mut view: View,
        mut attached: watch::Receiver<Arc<Published>>,
        mut registered: watch::Receiver<Arc<Registrations>>,
    ) {
        loop {
            let snapshot = view.borrow_and_update().clone();
            let (published, programs) = (attached.borrow_and_update().clone(), registered.borrow_and_update().clone());
            if let Some(snapshot) = snapshot {
                self.follow(target::targets(&snapshot, &node, &published, &programs));
                tokio::time::sleep(TOGETHER).await;
            }
            tokio::select! {
                Ok(()) = view.changed() => {}
                Ok(()) = attached.changed() => {}
                Ok(()) = registered.changed() => {}
                else => return,
            }
        }
    }

    /// Begins with what is new, ends what is gone; what has another check goes on in the state that it is in.
    fn follow(self: &Arc<Self>, wanted: Targets) {
        let mut known = self.lock();
        let gone: Vec<TargetId> = known.keys().filter(|id| !wanted.contains_key(id)).cloned().collect();
        for id in &gone {
            if let Some(known) = known.remove(id) {
                known.task.abort();
            }
        }
        let mut begun = Vec::new();
        for (id, (target, state)) in wanted {
            let before = known.get(&id);
            if before.is_some_and(|before| before.target == target) {
                continue;
            }
            // Another container of the same id begins anew.
            let kept = before.filter(|before| before.target.netns == target.netns);
            let (state, since) = match (kept, before) {
                (Some(kept), _) => (kept.judge.state, kept.since),
                (None, Some(_)) => (State::Starting, SystemTime::now()),
                (None, None) => (state, SystemTime::now()),
            };
            if let Some(before) = before {
                before.task.abort();
                begun.push((id.clone(), state));
            }
            let task = tokio::spawn(self.clone().watch(id.clone(), target.clone())).abort_handle();
            let judge = Judge::new(state, Instant::now());
            known.insert(id, Known { target, judge, since, runs: 0, failures: 0, last: None, late: None, task });
        }
        self.count(&known);
        drop(known);
        self.verdicts.send_if_modified(move |verdicts| {
            begun.retain(|(id, state)| verdicts.get(id) != Some(state));
            let any = !begun.is_empty() || gone.iter().any(|id| verdicts.contains_key(id));
            if any {
                let verdicts = Arc::make_mut(verdicts);
                verdicts.retain(|id, _| !gone.contains(id));
                verdicts.append(&mut begun.into_iter().collect());
            }
            any
        });
    }

    /// Asks one target again and again.
    async fn watch(self: Arc<Self>, id: TargetId, target: Target) {
        let mut pause = FIRST.mul_f64(chance());
        let mut slow = false;
        loop {
            tokio::time::sleep(pause).await;
            let turns = if target.check.kind == CheckKind::Command { &self.commands } else { &self.sockets };
            let turn = turns.wait(slow);
            tokio::pin!(turn);
            let turn = match tokio::time::timeout(target.check.interval(), &mut turn).await {
                Ok(turn) => turn,
                Err(_) => {
                    self.metrics.late.inc();
                    self.is_late(&id, &target, Instant::now().checked_sub(target.check.interval()));
                    let turn = turn.await;
                    self.is_late(&id, &target, None);
                    turn
                }
            };
            let (answer, took) = turn.during(probe::ask(&self.trust, &id, &target)).await;
            slow = took >= PATIENCE;
            self.hear(&id, &target, answer, took);
            pause = target.check.interval().mul_f64(0.9 + 0.2 * chance());
        }
    }

    fn is_late(&self, id: &TargetId, target: &Target, since: Option<Instant>) {
        if let Some(known) = self.lock().get_mut(id).filter(|known| known.target == *target) {
            known.late = since;
        }
    }

    fn hear(&self, id: &TargetId, target: &Target, answer: Answer, took: Duration) {
        let outcome = Outcome { outcome: if answer.is_well { "well" } else { "failed" } };
        self.metrics.checks.get_or_create(&outcome).inc();
        let mut all = self.lock();
        // It may have been given up, or have another check, since it was asked.
        let Some(known) = all.get_mut(id).filter(|known| known.target == *target) else { return };
        known.runs += 1;
        known.failures += u64::from(!answer.is_well);
        let falls = known.judge.falls;
        let changed = known.judge.hear(&target.check, answer.is_well, Instant::now());
        self.metrics.falls.inc_by(known.judge.falls - falls);
        if changed {
            known.since = SystemTime::now();
            let of = id.service.as_ref().map(ToString::to_string).unwrap_or_default();
            let (check, said, damping) = (target.check.to_string(), &answer.said, known.judge.damping);
            if known.judge.state == State::Up {
                info!(id = %id.id, service = of, check, said, "healthy");
            } else {
                warn!(id = %id.id, service = of, check, said, damping, "unhealthy");
            }
        }
        known.last = Some((SystemTime::now(), took, answer));
        let state = known.judge.state;
        self.count(&all);
        // While the lock is held: who follows must not put in again what has just been given up.
        self.verdicts.send_if_modified(|verdicts| {
            let other = verdicts.get(id) != Some(&state);
            if other {
                Arc::make_mut(verdicts).insert(id.clone(), state);
            }
            other
        });
    }

    /// What is known of the checks of one endpoint; none if it has none here.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<HealthView> {
        let all = self.lock();
        let checks: Vec<CheckView> = all.iter().filter(|(of, _)| of.id.as_str() == id).map(|(id, k)| shown(id, k)).collect();
        (!checks.is_empty()).then(|| HealthView { id: id.to_owned(), checks })
    }

    fn count(&self, known: &BTreeMap<TargetId, Known>) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.targets.set(number(known.len()));
        self.metrics.down.set(number(known.values().filter(|known| known.judge.state == State::Down).count()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TargetId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(id: &TargetId, known: &Known) -> CheckView {
    let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
    let Target { check, address, further, port, .. } = &known.target;
    CheckView {
        service: id.service.clone(),
        check: check.clone(),
        text: check.to_string(),
        address: *address,
        further: further.clone(),
        port: *port,
        state: known.judge.state.into(),
        since: time(known.since),
        well: known.judge.well,
        failed: known.judge.unwell,
        needed: known.judge.needed(check),
        runs: known.runs,
        failures: known.failures,
        falls: known.judge.falls,
        late_ms: known.late.map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
        last: known.last.as_ref().map(|(at, took, answer)| LastCheck {
            at: time(*at),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            well: answer.is_well,
            said: answer.said.clone(),
        }),
    }
}

/// A number from 0 to 1, not for secrets: hash maps of this process have random keys.
fn chance() -> f64 {
    let state: RandomState = HashMap::<u8, u8>::new().hasher().clone();
    let [a, b, ..] = state.hash_one(Instant::now()).to_ne_bytes();
    f64::from(u16::from_ne_bytes([a, b])) / f64::from(u16::MAX)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
