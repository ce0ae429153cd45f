//! Registrations: what programs of this host say of themselves over the socket, for as long as they go on saying it.
//!
//! Each is kept here until it is withdrawn, or its time has passed without being said again; the registrar writes its records
//! on the host's liveness lease, as it does for what is attached. So the store's outages are not the registrants' business: a
//! heartbeat ends here, and writes nothing.
//!
//! ```text
//!   PUT ─▶ checked ─▶ file ─▶ published ─▶ registrar ─▶ records on the liveness lease
//!             └ unchanged: its time begins anew          └▶ elections (of candidates)
//! ```
//!
//! A restarted agent finds them in its file, and gives each its whole time again: nobody could be told that it was away. A lost state
//! directory changes nothing: the run directory has a copy. What is said twice on one host is one registration, so that a program
//! that was killed goes on with its id as soon as it is there again; where its records stand already, whoever holds them keeps
//! them. Only the id of a candidate waits until its time is over: what the former program had begun may still be ending.
//!
//! Their time is that of `CLOCK_MONOTONIC`, in which programs can speak: it stands still while the host is suspended, for all
//! of them would be over when it wakes. For how long the lead is certain is counted otherwise: [`session`](crate::session).

mod answer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::{Mutex, Notify, watch};
use tracing::{info, warn};
use weft_api::{Candidacy, Code, Register, Registered};
use weft_model::check::CheckKind;
use weft_model::ids::{EndpointId, NetworkName, NodeName, ServiceName};
use weft_model::record::{Kind, check_labels, check_name};
use weft_model::service::port_name;
use weft_model::snapshot::Snapshot;

use crate::attach::Published;
use crate::elections::Releasing;
use crate::refusal::Refusal;
use crate::registrar::holder;
use crate::registrar::records::of_registration;
use crate::session::Kept;
use crate::state::{Attachment, StateDir, now_ms};
use crate::view::{Health, View, chain};

/// How many a host keeps at most.
pub const MOST: usize = 1024;

/// How many addresses one has at most.
const MOST_ADDRESSES: usize = 16;

/// The longest session token, in bytes.
const MAX_SESSION: usize = 64;

/// The shortest time that one is kept for.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest time that one is kept for.
const LONGEST: Duration = Duration::from_hours(31 * 24);

/// The longest name of DNS as text, with its final dot (RFC 1035 section 2.3.4: 255 bytes as it travels).
const MAX_DNS_NAME: usize = 254;

/// How long a request waits for the store to follow.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before a file that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The endpoint's id.
    pub id: EndpointId,
    /// What was said of it, with the addresses that it got.
    #[serde(deserialize_with = "as_stored")]
    pub said: Register,
    /// The network that its addresses are in; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// When it was first registered, in milliseconds since 1970.
    pub born: u64,
}

/// Reads what a file has, which may be of a later version: members that this one does not know are none, where a request with
/// them is refused.
fn as_stored<'de, D: Deserializer<'de>>(from: D) -> Result<Register, D::Error> {
    /// A flattened struct is given only the members that it asks for, also one that denies others (serde 1.0).
    #[derive(Deserialize)]
    struct Stored {
        #[serde(flatten)]
        said: Register,
    }
    Stored::deserialize(from).map(|stored| stored.said)
}

/// The registrations as the loops see them. Heartbeats change nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// By id.
    pub by_id: BTreeMap<EndpointId, Registration>,
}

/// What registering needs to know of the rest of the agent.
#[derive(Debug)]
pub struct Surroundings {
    /// The store's view.
    pub view: View,
    /// Whether the store answers.
    pub health: watch::Receiver<Health>,
    /// What is attached: one id is one endpoint.
    pub attached: watch::Receiver<Arc<Published>>,
    /// This host's liveness lease, once it is kept.
    pub liveness: watch::Receiver<Option<Kept>>,
    /// The leads that are being given up.
    pub releasing: Arc<Releasing>,
    /// This host.
    pub node: NodeName,
}

/// The addresses that whoever asks has by himself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home {
    /// All of them.
    pub addresses: Vec<std::net::IpAddr>,
    /// The network that they are in; none is the default one.
    pub network: Option<NetworkName>,
}

/// All registrations of this host.
#[derive(Debug)]
pub struct Registrations {
    state: Arc<StateDir>,
    kept: Mutex<All>,
    known: watch::Sender<Arc<Known>>,
    around: Surroundings,
    /// Told when there is another one to expire.
    changed: Notify,
}

#[derive(Debug, Default)]
struct All {
    by_id: BTreeMap<EndpointId, Registration>,
    until: BTreeMap<EndpointId, Instant>,
    /// Whether the file says something else.
    unwritten: bool,
}

impl Registrations {
    /// The registrations that the file has, each with its whole time.
    #[must_use]
    pub fn new(state: Arc<StateDir>, found: Vec<Registration>, around: Surroundings) -> (Arc<Self>, watch::Receiver<Arc<Known>>) {
        let now = Instant::now();
        let until = found.iter().map(|r| (r.id.clone(), now + ttl(&r.said))).collect();
        // Whether a candidate acts is not in the file: it may.
        let by_id: BTreeMap<EndpointId, Registration> = found.into_iter().map(|r| (r.id.clone(), r)).collect();
        let (known, rx) = watch::channel(Arc::new(Known { by_id: by_id.clone() }));
        let kept = Mutex::new(All { by_id, until, unwritten: false });
        (Arc::new(Self { state, kept, known, around, changed: Notify::new() }), rx)
    }

    /// Withdraws what nobody has spoken for in time, and writes the file that could not be written; until the process ends.
    pub async fn expire(self: Arc<Self>) {
        loop {
            let mut kept = self.kept.lock().await;
            let now = Instant::now();
            let over: Vec<EndpointId> = kept.until.iter().filter(|(_, until)| **until <= now).map(|(id, _)| id.clone()).collect();
            for id in &over {
                info!(%id, "nobody has registered it again in time: withdrawn");
                kept.until.remove(id);
                kept.by_id.remove(id);
            }
            if !over.is_empty() {
                kept.unwritten = true;
                self.publish(&kept);
            }
            if kept.unwritten {
                self.write(&mut kept).await;
            }
            let next = kept.until.values().min().copied();
            let next = if kept.unwritten { Some(now + RETRY).into_iter().chain(next).min() } else { next };
            drop(kept);
            let pause = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Registers, or keeps registered. `home` tells of whoever asks.
    ///
    /// # Errors
    /// It cannot be said so, others have its place, or it cannot be kept.
    pub async fn put(
        &self,
        id: &str,
        said: Register,
        home: impl FnOnce() -> Result<Home, Refusal>,
    ) -> Result<Registered, Refusal> {
        let asked = Instant::now();
        let id: EndpointId = id.parse().map_err(|e| Refusal::invalid(format!("register: {e}")))?;
        check(&said).map_err(|why| Refusal::invalid(format!("register {id}: {why}")))?;
        let snapshot = self.around.view.borrow().clone();
        let mut kept = self.kept.lock().await;
        let before = kept.by_id.get(&id).cloned();
        if let Some(before) = &before {
            check_session(before, &said, kept.until.get(&id).copied().unwrap_or(asked))?;
        }
        let registration = self.made(&id, said, home, before.as_ref())?;
        if let Some(snapshot) = &snapshot {
            check_place(snapshot, &self.around.node, &registration)?;
        }
        let is_new = before.as_ref() != Some(&registration);
        if is_new {
            if before.is_none() && kept.by_id.len() >= MOST {
                return Err(Refusal::new(
                    Code::Full,
                    format!("register {id}: this host keeps {MOST} registrations already; withdraw some, or give them less time"),
                ));
            }
            let same_file = before.as_ref().is_some_and(|before| lasting(before) == lasting(&registration));
            kept.by_id.insert(id.clone(), registration.clone());
            if !same_file && !self.write(&mut kept).await {
                match before {
                    Some(before) => drop(kept.by_id.insert(id.clone(), before)),
                    None => drop(kept.by_id.remove(&id)),
                }
                return Err(Refusal::new(
                    Code::Full,
                    format!("register {id}: the file of registrations cannot be written; weftd's log says why"),
                ));
            }
            self.publish(&kept);
        }
        kept.until.insert(id.clone(), asked + ttl(&registration.said));
        drop(kept);
        self.changed.notify_one();
        if is_new {
            let node = &self.around.node;
            self.wait_store(|s| answer::is_recorded(s, node, &registration, self.lease())).await;
        }
        Ok(self.answer(&registration, asked + ttl(&registration.said)))
    }

    /// Withdraws. What is registered no more stands in the store no more either when this returns, as long as that answers.
    ///
    /// # Errors
    /// There is none of that id.
    pub async fn withdraw(&self, id: &str) -> Result<Registered, Refusal> {
        let mut kept = self.kept.lock().await;
        let unknown = || Refusal::not_found(format!("withdraw {id}: nothing is registered by this id on this host"));
        let id: EndpointId = id.parse().map_err(|_| unknown())?;
        let Some(registration) = kept.by_id.get(&id).cloned() else { return Err(unknown()) };
        let until = kept.until.get(&id).copied().unwrap_or_else(Instant::now);
        let answer = self.answer(&registration, until);
        kept.by_id.remove(&id);
        kept.until.remove(&id);
        self.publish(&kept);
        // A disk that is full keeps nobody from leaving: the file follows, or has it once more for the rest of its time.
        if !self.write(&mut kept).await {
            kept.unwritten = true;
            self.changed.notify_one();
        }
        drop(kept);
        let node = &self.around.node;
        self.wait_store(|s| !answer::stands(s, node, &registration)).await;
        Ok(answer)
    }

    /// One.
    ///
    /// # Errors
    /// There is none of that id.
    pub async fn get(&self, id: &str) -> Result<Registered, Refusal> {
        let all = self.list().await;
        let found = all.into_iter().find(|r| r.id.as_str() == id);
        found.ok_or_else(|| Refusal::not_found(format!("registration: nothing is registered by the id {id} on this host")))
    }

    /// The service or name of one, if it is there.
    pub async fn service_of(&self, id: &str) -> Option<ServiceName> {
        let kept = self.kept.lock().await;
        kept.by_id.iter().find(|(there, _)| there.as_str() == id).map(|(_, r)| r.said.service.clone())
    }

    /// All of them.
    pub async fn list(&self) -> Vec<Registered> {
        let kept = self.kept.lock().await;
        let until = |id: &EndpointId| kept.until.get(id).copied().unwrap_or_else(Instant::now);
        kept.by_id.values().map(|r| self.answer(r, until(&r.id))).collect()
    }

    /// What is to be kept: as it was said, at the addresses that it has, and as old as it was.
    fn made(
        &self,
        id: &EndpointId,
        mut said: Register,
        home: impl FnOnce() -> Result<Home, Refusal>,
        before: Option<&Registration>,
    ) -> Result<Registration, Refusal> {
        let attached = self.around.attached.borrow().clone();
        if attached.by_id.contains_key(id) {
            return Err(Refusal::conflict(format!(
                "register {id}: a container of this host is attached by this id; choose another --id"
            )));
        }
        let mut network = None;
        if said.addresses.is_empty() {
            let home = home()?;
            (said.addresses, network) = (home.addresses, home.network);
        } else {
            let is_its = |a: &&Attachment| a.addresses().any(|address| said.addresses.contains(&address));
            network = attached.by_id.values().find(is_its).and_then(|a| a.network.clone()).or(network);
        }
        let born = before.map_or_else(now_ms, |before| before.born);
        Ok(Registration { id: id.clone(), said, network, born })
    }

    fn publish(&self, all: &All) {
        self.known.send_replace(Arc::new(Known { by_id: all.by_id.clone() }));
    }

    /// Writes the file. Whether it is written.
    async fn write(&self, all: &mut All) -> bool {
        let state = self.state.clone();
        let rows: Vec<Registration> = all.by_id.values().map(lasting).collect();
        let written = tokio::task::spawn_blocking(move || state.write_registrations(&rows)).await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(chain(&e)),
            Err(e) => Some(chain(&e)),
        };
        if let Some(error) = &error
            && !all.unwritten
        {
            warn!(error, "registrations not written; the file has those of before");
        }
        all.unwritten &= error.is_some();
        error.is_none()
    }

    /// Waits until the store says so, as long as it answers; it follows later otherwise.
    async fn wait_store(&self, is_so: impl Fn(&Snapshot) -> bool) {
        let (mut view, mut health) = (self.around.view.clone(), self.around.health.clone());
        if view.borrow().is_none() {
            return;
        }
        let followed = view.wait_for(|snapshot| snapshot.as_deref().is_some_and(&is_so));
        tokio::select! {
            biased;
            _ = followed => {}
            // Nobody waits for a store that is known to be away.
            _ = health.wait_for(|health| health.away.is_some()) => {}
            () = tokio::time::sleep(FOLLOW_TIMEOUT) => {}
        }
    }
}

/// As it stands in the file: whether a candidate acts changes too often for it, and who may act is taken for one who does.
fn lasting(registration: &Registration) -> Registration {
    let mut lasting = registration.clone();
    lasting.said.candidate = lasting.said.candidate.map(|_| Candidacy::Acts);
    lasting
}

/// Of two programs of this host that use one id, both would be told that they lead: the second is refused.
fn check_session(before: &Registration, said: &Register, until: Instant) -> Result<(), Refusal> {
    let left = until.saturating_duration_since(Instant::now());
    if before.said.candidate.is_none() || before.said.session == said.session || left.is_zero() {
        return Ok(());
    }
    let (id, name, secs) = (&before.id, &before.said.service, left.as_secs() + 1);
    Err(Refusal::conflict(format!(
        "register {id}: another program of this host stands for election under {name} by this id, for {secs}s more unless it renews \
         that; choose another --id"
    )))
}

fn ttl(said: &Register) -> Duration {
    Duration::from_millis(said.ttl_ms).clamp(SHORTEST, LONGEST)
}

/// What can be said of a registration by itself.
fn check(said: &Register) -> Result<(), String> {
    let asked = Duration::from_millis(said.ttl_ms);
    if asked < SHORTEST || asked > LONGEST {
        return Err(format!("ttl of {}ms: 1,000 at least, and at most 31 days", said.ttl_ms));
    }
    if said.addresses.len() > MOST_ADDRESSES {
        return Err(format!("{} addresses: at most {MOST_ADDRESSES}", said.addresses.len()));
    }
    if let Some(bad) = said.addresses.iter().find(|a| a.is_unspecified() || a.is_multicast()) {
        return Err(format!("{bad} is no address of a host"));
    }
    if said.port == Some(0) {
        return Err("port 0 is no port".to_owned());
    }
    if !said.port_name.is_empty() {
        port_name(&said.port_name)?;
        if said.port.is_none() {
            return Err("a port's name without a port".to_owned());
        }
    }
    if let Some(name) = &said.name {
        check_name(name)?;
    }
    if said.session.as_ref().is_some_and(|session| session.len() > MAX_SESSION) {
        return Err(format!("a session of more than {MAX_SESSION} bytes"));
    }
    if said.candidate.is_some() && said.kind != Kind::Name {
        return Err("a candidate is of kind name: it is no backend".to_owned());
    }
    if let Some(check) = &said.check {
        check.validate()?;
        if check.kind != CheckKind::Command && check.port_of(said.port).is_none() {
            return Err(format!("check: {check} has no port to ask at: say one, as in {}:8080", check.kind));
        }
    }
    check_labels(&said.labels)
}

/// What can be said of its place in this cluster: the namespace is declared, the name is none, and nobody else has it.
fn check_place(snapshot: &Snapshot, node: &NodeName, registration: &Registration) -> Result<(), Refusal> {
    let (id, service) = (&registration.id, &registration.said.service);
    if !snapshot.has_namespace(&service.namespace) {
        return Err(Refusal::invalid(format!("register {id}: there is no namespace {}", service.namespace)));
    }
    if is_namespace(snapshot, service) {
        return Err(Refusal::conflict(format!(
            "register {id}: {} is a namespace, so it cannot be a name of the default one",
            service.name
        )));
    }
    for part in of_registration(snapshot, node, registration) {
        let name = part.path.dns_name();
        if name.len() > MAX_DNS_NAME {
            return Err(Refusal::invalid(format!(
                "register {id}: {name} is longer than a DNS name may be; choose a shorter --id"
            )));
        }
        if let Some(holder) = holder(snapshot, &part.path, node) {
            return Err(Refusal::conflict(format!("register {id}: {name} is {holder}; choose another --id")));
        }
    }
    Ok(())
}

fn is_namespace(snapshot: &Snapshot, service: &ServiceName) -> bool {
    service.namespace.is_default() && snapshot.namespaces().any(|n| n.as_str() == service.name.as_str())
}

#[cfg(test)]
#[path = "registrations/tests.rs"]
mod tests;
