//! Ids, and where in its list each backend stands.
//!
//! [`wanted`] says without any history what each frontend leads to; [`desired`] gives it ids and places, as close as can be to
//! what the maps hold already. A backend that stays keeps its id and, as long as the list is long enough, its place; the
//! others fill the holes and the end. So one backend more or less is one slot written, and a socket that is hashed to a place
//! mostly stays with its backend.
//!
//! What an id means is read from the maps, never from memory: an agent that restarts goes on with the same ids.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use weft_abi::maps::{NETWORK_DEFAULT, capacity, name};
use weft_abi::{Backend, Be16, Frontend, FrontendKey, SlotKey};
use weft_model::ids::{NetworkName, ServiceName};
use weft_model::record::Proto;
use weft_model::service::ServicePort;

use crate::context::VipFault;
use crate::pick::{self, Resolved, Services};
use crate::rows::Rows;

/// What the maps are to say, before ids and places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What each frontend leads to.
    pub frontends: BTreeMap<FrontendKey, List>,
    /// What is left out.
    pub unprogrammed: Vec<Unprogrammed>,
}

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Whose it is.
    pub service: ServiceName,
    /// The number of its network.
    pub network: u32,
    /// Where connections go; empty: nowhere, they are refused.
    pub backends: BTreeSet<Backend>,
}

/// A virtual IP, or one port of it, that the maps do not have although a service lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprogrammed {
    /// The service.
    pub service: ServiceName,
    /// The virtual IP.
    pub vip: IpAddr,
    /// The port and protocol; none: all of the service's.
    pub port: Option<(u16, Proto)>,
    /// Why.
    pub why: Why,
}

/// Why a virtual IP is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It does not stand for the service.
    Fault(VipFault),
    /// IPv6 sockets are not translated by this version.
    Ipv6,
    /// The network has no number on this host.
    UnknownNetwork(NetworkName),
    /// The named map takes no more rows than this.
    Full(&'static str, usize),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Ipv6 => f.write_str("virtual IPs of IPv6 are not programmed by this version"),
            Self::UnknownNetwork(network) => write!(f, "this host is not in the network {network}"),
            Self::Full(map, rows) => write!(f, "the map {map} takes no more than {rows} rows"),
        }
    }
}

impl fmt::Display for Unprogrammed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: virtual IP {}", self.service, self.vip)?;
        if let Some((port, proto)) = self.port {
            write!(f, " port {port}/{proto}")?;
        }
        write!(f, " is not programmed: {}", self.why)
    }
}

/// What each frontend leads to. `networks` numbers the networks besides the default one, as `weft_netns` does.
#[must_use]
pub fn wanted(services: &Services, networks: &BTreeMap<NetworkName, u32>) -> Wanted {
    let mut wanted = Wanted::default();
    for (service, resolved) in services {
        let left_out = |vip: &IpAddr, why| Unprogrammed { service: service.clone(), vip: *vip, port: None, why };
        wanted.unprogrammed.extend(resolved.vip_faults.iter().map(|(vip, fault)| left_out(vip, Why::Fault(fault.clone()))));
        let network = network_number(resolved, networks);
        for vip in &resolved.vips {
            match (vip.to_canonical(), &network) {
                (IpAddr::V6(_), _) => wanted.unprogrammed.push(left_out(vip, Why::Ipv6)),
                (IpAddr::V4(_), Err(unknown)) => {
                    wanted.unprogrammed.push(left_out(vip, Why::UnknownNetwork((*unknown).clone())));
                }
                (IpAddr::V4(vip), Ok(network)) => {
                    let rows = resolved.frontends.iter().map(|frontend| {
                        let list = List { service: service.clone(), network: *network, backends: ipv4_backends(frontend) };
                        (frontend_key(vip, &frontend.port), list)
                    });
                    wanted.frontends.extend(rows);
                }
            }
        }
    }
    wanted
}

fn network_number<'a>(resolved: &'a Resolved, networks: &BTreeMap<NetworkName, u32>) -> Result<u32, &'a NetworkName> {
    match &resolved.network {
        None => Ok(NETWORK_DEFAULT),
        Some(network) => match networks.get(network) {
            Some(number) => Ok(*number),
            None if network.as_str() == "default" => Ok(NETWORK_DEFAULT),
            None => Err(network),
        },
    }
}

fn frontend_key(vip: Ipv4Addr, port: &ServicePort) -> FrontendKey {
    FrontendKey { vip: vip.into(), port: Be16::from_native(port.port), proto: port.proto.number(), pad: 0 }
}

fn ipv4_backends(frontend: &pick::Frontend) -> BTreeSet<Backend> {
    let proto = frontend.port.proto.number();
    let row = |backend: &pick::Backend| match backend.address.to_canonical() {
        IpAddr::V4(addr) => Some(Backend { addr: addr.into(), port: Be16::from_native(backend.port), proto, pad: 0 }),
        IpAddr::V6(_) => None,
    };
    frontend.in_use().filter_map(row).collect()
}

/// How many rows the maps take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of `weft_frontends`.
    pub frontends: usize,
    /// Of `weft_slots`.
    pub slots: usize,
    /// Of `weft_backends`.
    pub backends: usize,
}

impl Default for Limits {
    /// What the maps are made with.
    fn default() -> Self {
        Self { frontends: capacity::FRONTENDS as usize, slots: capacity::SLOTS as usize, backends: capacity::BACKENDS as usize }
    }
}

/// Gives new ids: never one that is in the maps, and one that was given before only after all others.
///
/// The order of the ids means nothing; 0 is none.
#[derive(Clone, Debug)]
pub struct Ids {
    next_list: u32,
    next_backend: u32,
    /// Whose a list is, where this agent knows: one that passes to another service is not mixed with the old one's.
    owners: HashMap<u32, ServiceName>,
}

/// How far from the greatest id in the maps a new agent begins. Ids that its predecessor gave and took back were mostly right
/// after that one, and `weft_reverse` may still hold them.
const RESTART_GAP: u32 = 1 << 20;

impl Ids {
    /// Goes on where the agent left off that wrote `actual`.
    #[must_use]
    pub fn seeded(actual: &Rows) -> Self {
        let lists = actual.frontends.values().map(|f| f.service).chain(actual.slots.keys().map(|k| k.service));
        let backends = actual.backends.keys().chain(actual.slots.values()).copied();
        let after = |greatest: Option<u32>| greatest.map_or(1, |id| id.wrapping_add(RESTART_GAP));
        Self { next_list: after(lists.max()), next_backend: after(backends.max()), owners: HashMap::new() }
    }
}

/// The next id from `next` on that is free; there are four thousand times as many ids as a map has rows.
fn take(next: &mut u32, in_use: impl Fn(u32) -> bool) -> u32 {
    loop {
        let id = *next;
        *next = id.wrapping_add(1);
        if id != 0 && !in_use(id) {
            return id;
        }
    }
}

/// The rows that the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The rows.
    pub rows: Rows,
    /// What is left out: [`Wanted::unprogrammed`], and frontends for which a map has no room.
    pub unprogrammed: Vec<Unprogrammed>,
}

/// Gives ids and places to what is wanted, changing as little of `actual` as can be.
///
/// `actual` is what the maps hold; it may be anything, and only rows that make sense are kept. Where the maps have no room
/// for all, the frontends that are there already come first. While a round is written, backends that are replaced in their
/// place are there beside the new ones; `limits` does not count these twice.
#[must_use]
pub fn desired(wanted: &Wanted, actual: &Rows, ids: &mut Ids, limits: &Limits) -> Desired {
    let mut out = Placing::new(actual, ids, limits);
    let is_there = |key: &FrontendKey| actual.frontends.contains_key(key);
    let mut unprogrammed = wanted.unprogrammed.clone();
    let (old, new): (Vec<_>, Vec<_>) = wanted.frontends.iter().partition(|(key, _)| is_there(key));
    for (key, list) in old.into_iter().chain(new) {
        if let Some(why) = out.lacks_room(list) {
            let vip = IpAddr::V4(key.vip.to_addr());
            let proto = if key.proto == Proto::Udp.number() { Proto::Udp } else { Proto::Tcp };
            let port = Some((key.port.to_native(), proto));
            unprogrammed.push(Unprogrammed { service: list.service.clone(), vip, port, why });
        } else {
            out.place(*key, list);
        }
    }
    Desired { rows: out.finish(), unprogrammed }
}

/// [`desired`] at work.
struct Placing<'a> {
    actual: &'a Rows,
    ids: &'a mut Ids,
    limits: &'a Limits,
    /// The lists that `actual` has, and those given out since.
    lists: HashSet<u32>,
    /// The lists that have found their frontend.
    claimed: HashSet<u32>,
    /// The backends that `actual` has and those given out since: id, and whether a list has it by now.
    known: HashMap<Backend, (u32, bool)>,
    /// Ids that slots name and no backend has; looked for once a new id is needed.
    dangling: OnceCell<HashSet<u32>>,
    frontends: Vec<(FrontendKey, Frontend)>,
    slots: Vec<(SlotKey, u32)>,
    backends: Vec<(u32, Backend)>,
}

impl<'a> Placing<'a> {
    fn new(actual: &'a Rows, ids: &'a mut Ids, limits: &'a Limits) -> Self {
        let mut known = HashMap::with_capacity(actual.backends.len());
        for (id, backend) in actual.backends.iter().filter(|(id, _)| **id != 0) {
            known.entry(*backend).or_insert((*id, false));
        }
        let mut lists: HashSet<u32> = actual.frontends.values().map(|f| f.service).collect();
        lists.extend(actual.slots.keys().map(|k| k.service));
        Self {
            actual,
            ids,
            limits,
            lists,
            claimed: HashSet::new(),
            known,
            dangling: OnceCell::new(),
            frontends: Vec::new(),
            slots: Vec::new(),
            backends: Vec::new(),
        }
    }

    /// Why the list cannot be placed, if it cannot.
    fn lacks_room(&self, list: &List) -> Option<Why> {
        let is_new = |b: &&Backend| !self.known.get(b).is_some_and(|(_, listed)| *listed);
        if self.frontends.len() >= self.limits.frontends {
            Some(Why::Full(name::FRONTENDS, self.limits.frontends))
        } else if self.slots.len() + list.backends.len() > self.limits.slots {
            Some(Why::Full(name::SLOTS, self.limits.slots))
        } else if self.backends.len() + list.backends.iter().filter(is_new).count() > self.limits.backends {
            Some(Why::Full(name::BACKENDS, self.limits.backends))
        } else {
            None
        }
    }

    fn place(&mut self, key: FrontendKey, list: &List) {
        let kept = self.list_of(&key, list);
        let service = match kept {
            Some((service, _)) => service,
            None => take(&mut self.ids.next_list, |id| self.lists.contains(&id)),
        };
        self.lists.insert(service);
        self.claimed.insert(service);
        if self.ids.owners.get(&service) != Some(&list.service) {
            self.ids.owners.insert(service, list.service.clone());
        }
        let mut members: Vec<u32> = list.backends.iter().map(|b| self.backend(b)).collect();
        members.sort_unstable();
        let places = match kept {
            Some((_, count)) if count > 0 => {
                let range = SlotKey { service, index: 0 }..SlotKey { service, index: count };
                arrange(self.actual.slots.range(range).map(|(k, id)| (k.index, *id)), &members)
            }
            _ => members,
        };
        let mut count = 0;
        for id in places {
            self.slots.push((SlotKey { service, index: count }, id));
            count += 1;
        }
        self.frontends.push((key, Frontend { service, count, network: list.network, flags: 0 }));
    }

    /// The list that the frontend has already, and its length, unless it must get a new one: a list that passes to another
    /// network or service is made beside the old one, and the frontend's one write switches over.
    fn list_of(&self, key: &FrontendKey, list: &List) -> Option<(u32, u32)> {
        let there = self.actual.frontends.get(key)?;
        let same_owner = self.ids.owners.get(&there.service).is_none_or(|owner| *owner == list.service);
        let keep = same_owner && there.network == list.network && there.service != 0 && !self.claimed.contains(&there.service);
        keep.then_some((there.service, there.count))
    }

    fn backend(&mut self, backend: &Backend) -> u32 {
        let id = match self.known.get(backend) {
            Some((id, true)) => return *id,
            Some((id, false)) => *id,
            None => {
                let actual = self.actual;
                let named = || actual.slots.values().filter(|id| !actual.backends.contains_key(id)).copied().collect();
                let dangling = self.dangling.get_or_init(named);
                take(&mut self.ids.next_backend, |id| actual.backends.contains_key(&id) || dangling.contains(&id))
            }
        };
        self.known.insert(*backend, (id, true));
        self.backends.push((id, *backend));
        id
    }

    fn finish(self) -> Rows {
        let Self { ids, lists, frontends, slots, backends, .. } = self;
        ids.owners.retain(|list, _| lists.contains(list));
        Rows {
            frontends: frontends.into_iter().collect(),
            slots: slots.into_iter().collect(),
            backends: backends.into_iter().collect(),
        }
    }
}

/// The places of `members`, which are sorted: where they stand in `current` (place and id) if that is below the new length,
/// the others in the holes.
fn arrange(current: impl Iterator<Item = (u32, u32)>, members: &[u32]) -> Vec<u32> {
    let mut places: Vec<Option<u32>> = vec![None; members.len()];
    let mut placed = vec![false; members.len()];
    for (index, id) in current {
        let Some(place) = usize::try_from(index).ok().and_then(|index| places.get_mut(index)) else { break };
        if let Ok(at) = members.binary_search(&id)
            && !placed[at]
        {
            placed[at] = true;
            *place = Some(id);
        }
    }
    let mut others = members.iter().zip(placed).filter(|(_, placed)| !placed).map(|(id, _)| *id);
    places.into_iter().filter_map(|place| place.or_else(|| others.next())).collect()
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
