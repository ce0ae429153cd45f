//! Which endpoints stand behind each port of a service.
//!
//! Whose turn it is among a service's endpoints is [`weft_model::pool`]'s to say, which names follow as well. The turn is found
//! for each port and address family by itself, because a virtual IP leads to backends of its own family only.
//!
//! Order is by address and port, so the same snapshot always gives the same text and rows.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_model::endpoint::{Endpoint, EndpointState};
use weft_model::ids::{NetworkName, NodeName, ServiceName};
use weft_model::keys::RecordPath;
use weft_model::membership::{Index, Members, members};
use weft_model::passive::Passive;
use weft_model::pool::{Standing, Turn};
use weft_model::record::Proto;
use weft_model::service::{Service, ServicePort, Target};
use weft_model::snapshot::{Snapshot, Stored};

use crate::context::{Context, Reason, VipFault};

/// All services of a snapshot, resolved.
pub type Services = BTreeMap<ServiceName, Resolved>;

/// What one service stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The network it belongs to; none is the default one.
    pub network: Option<NetworkName>,
    /// The virtual IPs that stand for it, as the service lists them.
    pub vips: Vec<IpAddr>,
    /// The virtual IPs that it lists and that do not stand for it.
    pub vip_faults: Vec<(IpAddr, VipFault)>,
    /// Who lists one of its virtual IPs as well, and does not have it.
    pub vip_rivals: Vec<(IpAddr, ServiceName)>,
    /// A row per port, as the service lists them.
    pub frontends: Vec<Frontend>,
    /// What would be a backend but for its address or port; by path, then address.
    pub rejected: Vec<Rejected>,
    /// A row per endpoint, whatever its state; by path.
    pub members: Vec<Member>,
    /// Whether endpoints are in use that their checks call down, because too few others are left.
    pub panicking: bool,
    /// When a backend of it is quarantined.
    pub passive: Option<Passive>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The port.
    pub port: ServicePort,
    /// What could answer for it, in use or not; by address and port, none twice.
    pub backends: Vec<Backend>,
}

/// An address and port that can answer for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Whose address it is.
    pub endpoint: Arc<Endpoint>,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Whether new connections may come to it: its state is the best there is.
    pub in_use: bool,
    /// Whether it is in quarantine on this host.
    pub quarantined: bool,
}

/// An endpoint of a service, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Whether new connections to some port of the service may come to it; of a service without ports, whether its name leads there.
    pub in_use: bool,
}

/// An endpoint's address, or the name or port in its place, that is no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The address, unless the record holds a name, or the fault is the endpoint's as a whole.
    pub address: Option<IpAddr>,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected: {}", self.reason)
    }
}

impl Frontend {
    /// The backends that new connections may come to.
    pub fn in_use(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(|b| b.in_use)
    }
}

impl Backend {
    /// The endpoint's id, the last label of its path.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.endpoint.id
    }

    /// The endpoint's own name as a path.
    #[must_use]
    pub fn path(&self) -> &RecordPath {
        &self.endpoint.path
    }

    /// The host that answers for it.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        self.endpoint.node.as_ref()
    }

    /// The endpoint's state.
    #[must_use]
    pub fn state(&self) -> EndpointState {
        self.endpoint.state
    }
}

/// What every service of the snapshot stands for. `context` is [`Context::of`] the same snapshot.
///
/// Who does this for one snapshot after another has a [`Resolver`](crate::Resolver).
#[must_use]
pub fn resolve(snapshot: &Snapshot, context: &Context) -> Services {
    let index = Index::of(snapshot.services().map(|(name, stored)| (name, &stored.value)));
    resolve_with(snapshot, context, members(snapshot, &index))
}

/// The same for some of the snapshot's services, in one walk over the endpoints however many they are.
#[must_use]
pub fn resolve_some(snapshot: &Snapshot, context: &Context, wanted: &[(&ServiceName, &Stored<Service>)]) -> Services {
    let index = Index::of(wanted.iter().map(|(name, stored)| (*name, &stored.value)));
    let mut members = members(snapshot, &index);
    let resolved = |(name, stored): &(&ServiceName, &Stored<Service>)| {
        let endpoints = members.remove(*name).unwrap_or_default();
        ((*name).clone(), over(endpoints, name, &stored.value, context))
    };
    wanted.iter().map(resolved).collect()
}

/// The same, where the services' endpoints are known.
pub(crate) fn resolve_with(snapshot: &Snapshot, context: &Context, mut members: Members) -> Services {
    let resolved = |(name, service): (&ServiceName, &Stored<Service>)| {
        let endpoints = members.remove(name).unwrap_or_default();
        (name.clone(), over(endpoints, name, &service.value, context))
    };
    snapshot.services().map(resolved).collect()
}

/// What one service stands for. `context` is [`Context::of`] the same snapshot; the service need not be stored yet.
#[must_use]
pub fn backends(snapshot: &Snapshot, name: &ServiceName, service: &Service, context: &Context) -> Resolved {
    over(snapshot.endpoints_of(name, service), name, service, context)
}

/// The endpoints that others speak for at an address and port, by their places, and the places of those.
type Shared = BTreeMap<(usize, IpAddr, u16), usize>;

/// Chooses among `endpoints`, which come by path.
pub(crate) fn over(endpoints: Vec<Arc<Endpoint>>, name: &ServiceName, service: &Service, context: &Context) -> Resolved {
    let mut resolved = Resolved { network: service.network.clone(), passive: service.passive, ..Resolved::default() };
    for vip in &service.vips {
        match context.vip_fault(*vip, name) {
            None => {
                resolved.vips.push(*vip);
                resolved.vip_rivals.extend(context.rivals(*vip).iter().map(|rival| (*vip, rival.clone())));
            }
            Some(fault) => resolved.vip_faults.push((*vip, fault)),
        }
    }
    let mut usable: Vec<(usize, IpAddr)> = Vec::with_capacity(endpoints.len());
    for (at, endpoint) in endpoints.iter().enumerate() {
        for address in &endpoint.addresses {
            let is_lost = endpoint.state == EndpointState::Lost;
            let reassigned = || context.reassigned(*address, endpoint.node.as_ref()).filter(|_| is_lost);
            match context.reject(*address, service.allow_hosts).or_else(reassigned) {
                None => usable.push((at, *address)),
                Some(reason) => resolved.rejected.push(reject(endpoint, Some(*address), reason)),
            }
        }
        for host in &endpoint.host_names {
            resolved.rejected.push(reject(endpoint, None, Reason::HostName(host.clone())));
        }
        for port in &service.ports {
            if let Err(reason) = backend_port(endpoint, port) {
                let rejected = reject(endpoint, None, reason);
                // Two ports of the service may ask for the same name.
                if !resolved.rejected.iter().rev().take(service.ports.len()).any(|r| *r == rejected) {
                    resolved.rejected.push(rejected);
                }
            }
        }
    }
    let mut used = vec![false; endpoints.len()];
    let mut shared = Shared::new();
    // Without a policy (any more) nobody is, whatever was.
    let quarantined = context.quarantine().of(name).filter(|_| service.passive.is_some());
    let pool = Pool { endpoints: &endpoints, usable: &usable, quarantined, panic: service.panic };
    for port in &service.ports {
        let (frontend, panicking) = frontend(port, &pool, &mut used, &mut shared);
        resolved.frontends.push(frontend);
        resolved.panicking |= panicking;
    }
    for ((at, address, port), other) in shared {
        let (endpoint, other) = (&endpoints[at], &endpoints[other]);
        // Endpoints below two names may have one id.
        let name = if other.id == endpoint.id { other.path.to_string() } else { other.id.clone() };
        resolved.rejected.push(reject(endpoint, Some(address), Reason::SameAddress(address, port, name)));
    }
    // What is wrong with one endpoint stays in the order in which it was found.
    resolved.rejected.sort_by(|a, b| (&a.endpoint.path, a.endpoint.ours).cmp(&(&b.endpoint.path, b.endpoint.ours)));
    if service.ports.is_empty() {
        // Only its name leads to them.
        let turn = Turn::among(endpoints.iter().map(|e| Standing::of(e)), service.panic);
        used = endpoints.iter().map(|e| turn.takes(Standing::of(e))).collect();
        resolved.panicking = turn.is_panicking();
    }
    let member = |(endpoint, in_use)| Member { endpoint, in_use };
    resolved.members = endpoints.into_iter().zip(used).map(member).collect();
    resolved
}

fn reject(endpoint: &Arc<Endpoint>, address: Option<IpAddr>, reason: Reason) -> Rejected {
    Rejected { endpoint: Arc::clone(endpoint), address, reason }
}

/// What there is to choose among, for any port.
struct Pool<'a> {
    endpoints: &'a [Arc<Endpoint>],
    /// Endpoints and addresses that may be backends.
    usable: &'a [(usize, IpAddr)],
    quarantined: Option<&'a BTreeSet<SocketAddr>>,
    panic: u8,
}

impl Pool<'_> {
    fn is_quarantined(&self, port: &ServicePort, place: (IpAddr, u16)) -> bool {
        // Connections are all that is watched.
        port.proto == Proto::Tcp && self.quarantined.is_some_and(|all| all.contains(&place.into()))
    }
}

/// One port's row, and whether endpoints are in use for it that their checks call down; marks in `used` those in use, and puts
/// into `shared` those whose address and port another one speaks for.
fn frontend(port: &ServicePort, pool: &Pool<'_>, used: &mut [bool], shared: &mut Shared) -> (Frontend, bool) {
    let Pool { endpoints, usable, panic, .. } = *pool;
    let standing = |at: usize, place| Standing::of(&endpoints[at]).quarantined(pool.is_quarantined(port, place));
    // Of several endpoints with one address and port the one that stands best speaks, the first by path among equals.
    let mut best: BTreeMap<(IpAddr, u16), usize> = BTreeMap::new();
    let rank = |at: usize| (Standing::of(&endpoints[at]), endpoints[at].state);
    for (at, address) in usable {
        let Ok(number) = backend_port(&endpoints[*at], port) else { continue };
        match best.entry((*address, number)) {
            Entry::Vacant(free) => drop(free.insert(*at)),
            Entry::Occupied(mut other) => {
                if rank(*at) < rank(*other.get()) {
                    other.insert(*at);
                }
            }
        }
    }
    let turn = |v4: bool| {
        let of_family = best.iter().filter(|((address, _), _)| address.is_ipv4() == v4);
        Turn::among(of_family.map(|(place, at)| standing(*at, *place)), panic)
    };
    let (turn4, turn6) = (turn(true), turn(false));
    let is_in_use = |place: (IpAddr, u16), at: usize| {
        let turn = if place.0.is_ipv4() { turn4 } else { turn6 };
        turn.takes(standing(at, place))
    };
    for (at, address) in usable {
        let Ok(number) = backend_port(&endpoints[*at], port) else { continue };
        if !is_in_use((*address, number), *at) {
            continue;
        }
        used[*at] = true;
        // Who would have no connections anyway, one that was lost and came back under another name say, has lost nothing by it.
        if let Some(other) = best.get(&(*address, number)).filter(|other| *other != at) {
            shared.entry((*at, *address, number)).or_insert(*other);
        }
    }
    let backend = |(place, at): ((IpAddr, u16), usize)| {
        let (in_use, quarantined) = (is_in_use(place, at), pool.is_quarantined(port, place));
        Backend { endpoint: Arc::clone(&endpoints[at]), address: place.0, port: place.1, in_use, quarantined }
    };
    let frontend = Frontend { port: port.clone(), backends: best.into_iter().map(backend).collect() };
    (frontend, turn4.is_panicking() || turn6.is_panicking())
}

/// The port that `endpoint` serves for `port`: the target if it is given, else the record's own, else the service's.
///
/// Which of several ports is the record's own is [`Endpoint::port_behind`]'s to say.
fn backend_port(endpoint: &Endpoint, port: &ServicePort) -> Result<u16, Reason> {
    match &port.target {
        // A stored target of 0 is no port; it counts as none given.
        Some(Target::Number(number)) if *number != 0 => Ok(*number),
        Some(Target::Name(name)) => endpoint.port(Some(name), port.proto).ok_or_else(|| Reason::NoPort(name.clone(), port.proto)),
        Some(Target::Number(_)) | None => Ok(endpoint.port_behind(port).unwrap_or(port.port)),
    }
}

#[cfg(test)]
#[path = "pick_tests.rs"]
mod tests;
