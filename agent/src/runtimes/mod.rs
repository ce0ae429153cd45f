//! Follows container engines, so that what they know of containers becomes names and services without anybody registering them.
//!
//! ```text
//!   engine ── events ──▶ which containers changed ─┐
//!   attachments ─────────▶ which are new ──────────┴─▶ list, inspect ─▶ registrator ─▶ Attachments::learn ─▶ records
//! ```
//!
//! An event says where to look, never what to believe: state comes from inspections, so a missed event costs time and no truth.
//! All are looked at when a connection begins, and from time to time. Unknown is never gone: while an engine is away, and for
//! containers it does not know, what it said before holds. Attachments are matched by their owner: podman's have the
//! container's id, Docker's the id of the container's end of the network. No attach waits for any of this, because engines hold
//! locks while they call us.

mod engine;
mod told;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_model::attachment::Runtime;
use weft_model::ids::EndpointId;
use weft_model::registrator;

use crate::attach::{Attachments, Published};
use crate::config::Settings;
use crate::state::Attachment;
use crate::view::chain;
use engine::{Changed, Engine, EngineError, Said};
use told::Running;

/// All are looked at again after this long, whatever events say.
const RESYNC: Duration = Duration::from_secs(60);

/// The first look on a new connection may be before the engine sends us events; the second is not.
const SECOND_LOOK: Duration = Duration::from_secs(3);

/// When to try again what could not be taken in.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Two looks are at least this far apart: many containers may start at once.
const BREATH: Duration = Duration::from_millis(100);

/// The first and the longest wait for an engine that is away.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The largest listing and the largest inspection, bytes.
const MAX_LISTING: usize = 64 << 20;
const MAX_INSPECTION: usize = 8 << 20;

/// How many sentences about containers status shows.
const SHOWN: usize = 3;

/// Which engine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// dockerd.
    Docker,
    /// podman's service.
    Podman,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// Whether it may know the container of an attachment.
    fn may_know(self, attachment: &Attachment) -> bool {
        let Some(owner) = attachment.owner.as_ref().filter(|_| !attachment.withdrawing) else { return false };
        match self {
            Self::Docker => owner.runtime == Runtime::Docker,
            // Other runtimes that call CNI plugins have ids of other forms.
            Self::Podman => matches!(owner.runtime, Runtime::Cni | Runtime::Netavark) && told::is_id(&owner.container),
        }
    }
}

/// Follows the engines that the settings name. What is wrong with each is told on its receiver.
pub fn watch(
    settings: &Settings,
    attachments: &Arc<Attachments>,
    published: &watch::Receiver<Arc<Published>>,
) -> Vec<watch::Receiver<Option<String>>> {
    let docker = settings.watch_docker.iter().map(|socket| (Kind::Docker, socket));
    let podman = settings.watch_podman.iter().map(|socket| (Kind::Podman, socket));
    let start = |(kind, socket): (Kind, &PathBuf)| Watcher::start(kind, socket.clone(), attachments.clone(), published.clone());
    docker.chain(podman).map(start).collect()
}

/// Follows one engine.
#[derive(Debug)]
struct Watcher {
    kind: Kind,
    socket: PathBuf,
    engine: Engine,
    attachments: Arc<Attachments>,
    published: watch::Receiver<Arc<Published>>,
    reason: watch::Sender<Option<String>>,
    /// The namespace that each attachment had when it was looked at.
    looked: BTreeMap<EndpointId, u64>,
    /// What of a container's words could not be used.
    left_out: BTreeMap<EndpointId, Vec<String>>,
}

impl Watcher {
    /// Begins to follow the engine that listens on `socket`; what is wrong is told on the receiver.
    fn start(
        kind: Kind,
        socket: PathBuf,
        attachments: Arc<Attachments>,
        published: watch::Receiver<Arc<Published>>,
    ) -> watch::Receiver<Option<String>> {
        let (reason, told) = watch::channel(None);
        let engine = Engine::new(&socket);
        let (looked, left_out) = Default::default();
        tokio::spawn(Self { kind, socket, engine, attachments, published, reason, looked, left_out }.run());
        told
    }

    async fn run(mut self) {
        let mut wait = BACK_OFF.0;
        loop {
            let mut reached = false;
            let ended = self.follow(&mut reached).await;
            if reached {
                wait = BACK_OFF.0;
            }
            let (what, why) = (self.kind.as_str(), chain(&ended));
            let sentence = format!("watch {what}: {why}; what its containers said before holds");
            if self.reason.send_replace(Some(sentence.clone())) != Some(sentence) {
                warn!(socket = %self.socket.display(), why, "{what} is not followed");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }

    /// Follows it as long as one connection lasts. `reached` is whether it has answered.
    async fn follow(&mut self, reached: &mut bool) -> EngineError {
        let changed = Arc::new(Changed::default());
        let (engine, to) = (self.engine.clone(), changed.clone());
        let mut listening = Listening(tokio::spawn(async move { engine.listen(&to).await }));
        self.looked.clear();
        let mut next = SECOND_LOOK;
        loop {
            let again = match self.look(&changed.take(), *reached).await {
                Ok(again) => again,
                Err(e) => return e,
            };
            if !*reached {
                *reached = true;
                info!(socket = %self.socket.display(), "{} is followed", self.kind.as_str());
            }
            self.tell();
            tokio::time::sleep(BREATH).await;
            tokio::select! {
                ended = &mut listening.0 => {
                    return ended.unwrap_or_else(|e| EngineError::Broken { path: "/events".to_owned(), source: e.into() });
                }
                () = changed.news() => {}
                Ok(()) = self.published.changed() => {}
                () = tokio::time::sleep(TRY_AGAIN), if again => {}
                () = tokio::time::sleep(next), if !again => {
                    self.looked.clear();
                    next = RESYNC;
                }
            }
        }
    }

    /// Looks at the containers of attachments that are new, and at those that something was said of. The answer is whether some
    /// of it could not be taken in yet.
    async fn look(&mut self, said: &Said, asked_before: bool) -> Result<bool, EngineError> {
        let published = self.published.borrow_and_update().clone();
        let ours: Vec<&Attachment> = published.by_id.values().filter(|a| self.kind.may_know(a)).collect();
        self.looked.retain(|id, _| ours.iter().any(|a| a.id == *id));
        self.left_out.retain(|id, _| ours.iter().any(|a| a.id == *id));
        let quiet = *said == Said::default();
        if asked_before && quiet && ours.iter().all(|a| self.looked.get(&a.id) == Some(&a.netns_cookie)) {
            return Ok(false);
        }
        let mut again = false;
        let listing = self.engine.get("/containers/json", MAX_LISTING).await?.unwrap_or_default();
        let running = Running::of(self.kind, &listing);
        for attachment in ours {
            let Some(place) = attachment.owner.as_ref().and_then(|owner| running.find(owner)) else { continue };
            if self.looked.get(&attachment.id) == Some(&attachment.netns_cookie) && !said.about(&place.id) {
                continue;
            }
            let path = format!("/containers/{}/json", place.id);
            // One that is gone meanwhile is detached by who removed it.
            let inspected = match self.engine.get(&path, MAX_INSPECTION).await {
                Ok(Some(inspected)) => inspected,
                Ok(None) => continue,
                // Of one container it does not say; the others are asked all the same.
                Err(e @ EngineError::Refused { .. }) => {
                    self.left_out.insert(attachment.id.clone(), vec![chain(&e)]);
                    again = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let told = registrator::describe(&told::container(&inspected, &place));
            let mut left_out = told.left_out;
            match self.attachments.learn(attachment, told.description).await {
                Ok(more) => {
                    left_out.extend(more);
                    self.looked.insert(attachment.id.clone(), attachment.netns_cookie);
                }
                // The store has not been read yet, or the journal cannot be written: the next look tries again.
                Err(refusal) => {
                    left_out.push(refusal.message);
                    again = true;
                }
            }
            if left_out.is_empty() {
                self.left_out.remove(&attachment.id);
            } else if self.left_out.insert(attachment.id.clone(), left_out.clone()).as_ref() != Some(&left_out) {
                warn!(id = %attachment.id, left_out = left_out.join("; "), "not all that a container says can be used");
            }
        }
        Ok(again)
    }

    /// Says what could not be used.
    fn tell(&self) {
        let all: Vec<String> =
            self.left_out.iter().flat_map(|(id, why)| why.iter().map(move |why| format!("{id}: {why}"))).collect();
        let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        let sentence = match all.len() {
            0 => None,
            n if n <= SHOWN => Some(format!("watch {}: left out: {shown}", self.kind.as_str())),
            n => Some(format!("watch {}: left out: {shown}; and {} more", self.kind.as_str(), n - SHOWN)),
        };
        self.reason.send_if_modified(|there| {
            let news = *there != sentence;
            if news {
                there.clone_from(&sentence);
            }
            news
        });
    }
}

/// A task that ends with its owner.
struct Listening(tokio::task::JoinHandle<EngineError>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}
