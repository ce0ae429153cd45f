//! What is to be checked on this host, and whose answer counts for which record. Pure.
//!
//! An endpoint is checked by what was said of it when it was attached or registered; where nothing was, by its service. A check
//! that was said of the endpoint counts for all that it is an instance of, and for its names if it is an instance of nothing: a
//! name beside a service goes on resolving. A service's check counts for its own endpoints; the service whose name they stand
//! below is asked before others that select them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use weft_model::check::Check;
use weft_model::ids::{EndpointId, NodeName, ServiceName};
use weft_model::keys::RecordPath;
use weft_model::record::{Kind, Record, State};
use weft_model::service::{Service, ServicePort, Target as PortTarget};
use weft_model::snapshot::Snapshot;

use crate::attach::Published;
use crate::registrar::records::{self, Part};
use crate::registrations::{Known, Registration};
use crate::state::Attachment;

/// What a check is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    /// The endpoint's id.
    pub id: EndpointId,
    /// The service whose check it is; none is the endpoint's own.
    pub service: Option<ServiceName>,
}

/// Something to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub check: Check,
    /// Where: the first of its addresses.
    pub address: IpAddr,
    /// Its other addresses, of the other family above all. Who asks for the endpoint is told all of them, so it is well when each is.
    pub further: Vec<IpAddr>,
    /// At which port; none only of a command.
    pub port: Option<u16>,
    /// Where a command runs; none is the host itself.
    pub netns: Option<Netns>,
}

/// A container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    /// By which path.
    pub path: PathBuf,
    /// Device and inode: what it really is.
    pub id: (u64, u64),
    /// The kernel's cookie for it.
    pub cookie: u64,
}

/// All that is to be checked, and the state that it is in before its first answer.
pub type Targets = BTreeMap<TargetId, (Target, State)>;

/// What the checks of this host say: starting, up or down. What is not in it has not been asked yet.
pub type Verdicts = BTreeMap<TargetId, State>;

/// An endpoint of this host, attached or registered.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a EndpointId,
    /// The check that was said of it.
    pub check: Option<Check>,
    /// Whether it is an instance of any service.
    pub serves: bool,
}

/// The services that check their endpoints.
#[derive(Debug)]
pub struct Checked<'a> {
    snapshot: &'a Snapshot,
    services: Vec<(&'a ServiceName, &'a Service)>,
}

impl<'a> Checked<'a> {
    /// Those of a snapshot.
    #[must_use]
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let services = snapshot.services().filter(|(_, s)| s.value.check.is_some());
        Self { snapshot, services: services.map(|(name, s)| (name, &s.value)).collect() }
    }

    /// The service whose check counts for an endpoint that has none of its own.
    fn service(&self, endpoint: &RecordPath) -> Option<&'a ServiceName> {
        if self.services.is_empty() {
            return None;
        }
        let own = self.snapshot.service_at(endpoint);
        let below = self.services.iter().find(|(name, service)| !service.has_selector() && own.as_ref() == Some(name));
        let selects = |(name, service): &&(&ServiceName, &Service)| {
            service.has_selector() && self.snapshot.endpoints_of(name, service).iter().any(|e| e.ours && e.path == *endpoint)
        };
        below.or_else(|| self.services.iter().find(selects)).map(|(name, _)| *name)
    }
}

impl Subject<'_> {
    /// Whose answer counts for the records of one endpoint.
    #[must_use]
    pub fn governor(&self, checked: &Checked<'_>, endpoint: &RecordPath, kind: Kind) -> Option<TargetId> {
        if self.check.is_some() {
            let counts = kind == Kind::Service || !self.serves;
            return counts.then(|| TargetId { id: self.id.clone(), service: None });
        }
        let service = (kind == Kind::Service).then(|| checked.service(endpoint)).flatten()?;
        Some(TargetId { id: self.id.clone(), service: Some(service.clone()) })
    }

    /// What its checks say of one of its records; none if nothing checks it. What has not been asked yet is as it stands.
    #[must_use]
    pub fn health(&self, checked: &Checked<'_>, path: &RecordPath, record: &Record, verdicts: &Verdicts) -> Option<State> {
        let endpoint = path.parent()?;
        let governor = self.governor(checked, &endpoint, record.weft.as_ref()?.kind)?;
        Some(verdicts.get(&governor).copied().unwrap_or_else(|| known(checked.snapshot, path)))
    }
}

/// An attachment, as its checks see it.
#[must_use]
pub fn attached(attachment: &Attachment) -> Subject<'_> {
    let described = records::described(attachment);
    Subject { id: &attachment.id, serves: !described.instances.is_empty(), check: described.check }
}

/// A registration, as its checks see it. A command runs in the host's own namespace.
#[must_use]
pub fn registered(registration: &Registration) -> Subject<'_> {
    let said = &registration.said;
    Subject { id: &registration.id, serves: said.kind == Kind::Service, check: said.check.clone() }
}

/// What is to be checked of attachments and registrations.
#[must_use]
pub fn targets(snapshot: &Snapshot, node: &NodeName, attachments: &Published, registrations: &Known) -> Targets {
    let mut targets = Targets::new();
    let checked = Checked::of(snapshot);
    for attachment in attachments.by_id.values().filter(|a| !a.withdrawing) {
        let subject = attached(attachment);
        let netns = Netns { path: attachment.netns.clone(), id: attachment.netns_id, cookie: attachment.netns_cookie };
        add(&mut targets, &checked, &subject, &records::parts(snapshot, node, attachment), Some(&netns));
    }
    for registration in registrations.by_id.values() {
        let parts = records::of_registration(snapshot, node, registration);
        add(&mut targets, &checked, &registered(registration), &parts, None);
    }
    targets
}

/// Adds what is to be checked of one endpoint.
fn add(targets: &mut Targets, checked: &Checked<'_>, subject: &Subject<'_>, parts: &[Part], netns: Option<&Netns>) {
    for part in parts {
        let (Some(weft), Some(address)) = (&part.record.weft, part.record.address()) else { continue };
        // Who says of itself that it takes nothing need not be asked.
        if weft.state != State::Up {
            continue;
        }
        let endpoint = part.path.parent().unwrap_or_else(|| part.path.clone());
        let Some(id) = subject.governor(checked, &endpoint, weft.kind) else { continue };
        if let Some((target, _)) = targets.get_mut(&id) {
            if target.address != address && !target.further.contains(&address) {
                target.further.push(address);
            }
            continue;
        }
        let service = id.service.as_ref().and_then(|name| checked.services.iter().find(|(of, _)| *of == name));
        let check = match service {
            None => subject.check.clone(),
            Some((_, service)) => service.check.clone(),
        };
        let Some(check) = check else { continue };
        let own = Some(part.record.port).filter(|port| *port != 0);
        let behind = || service.and_then(|(_, service)| service.ports.first()).and_then(number);
        let port = check.port_of(own.or_else(behind));
        let known = known(checked.snapshot, &part.path);
        targets.insert(id, (Target { check, address, further: Vec::new(), port, netns: netns.cloned() }, known));
    }
}

/// The port behind a service's, of an endpoint that names none.
fn number(port: &ServicePort) -> Option<u16> {
    match port.target {
        Some(PortTarget::Number(number)) if number != 0 => Some(number),
        Some(PortTarget::Name(_)) => None,
        Some(PortTarget::Number(_)) | None => Some(port.port),
    }
}

/// In which state a record of ours is, when its check is not known yet: as it stands, so that neither a restarted agent nor a
/// check that is new makes a gap; and starting, if it does not stand yet.
#[must_use]
pub fn known(snapshot: &Snapshot, path: &RecordPath) -> State {
    match snapshot.record_anywhere(path).filter(|stored| !stored.lost).map(|stored| stored.state()) {
        Some(State::Up | State::Draining) => State::Up,
        Some(State::Down) => State::Down,
        Some(State::Starting) | None => State::Starting,
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
