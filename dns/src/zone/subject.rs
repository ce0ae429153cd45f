//! What a name stands for: rows, a service, a service's port; and where its addresses are.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use weft_model::endpoint::Endpoint;
use weft_model::ids::ServiceName;
use weft_model::keys::RecordPath;
use weft_model::leader;
use weft_model::record::Proto;

use super::basis::Basis;
use super::row::{FADING_TTL, Host, Row, choose};
use super::service::{Port, ServiceRows};
use super::tree::{self, Key};
use super::{SERVICE_TTL, Zone, least_ttl};

/// What a name in the zone stands for.
pub(super) enum Subject<'z> {
    /// It does not exist.
    Missing,
    /// These rows; none is an inner name.
    Rows(Vec<&'z Row>),
    /// The zone itself.
    Apex(Vec<&'z Row>),
    /// A declared service.
    Service(&'z ServiceRows),
    /// A declared service's instances.
    Tasks(&'z ServiceRows),
    /// The leader of a service or a name.
    Leader(Vec<&'z Row>),
    /// `_port._proto` of a declared service.
    Port(&'z ServiceRows, &'z Port, Name),
}

impl Subject<'_> {
    /// The threshold of [`weft_model::pool`] for what it stands for, in percent.
    pub(super) fn panic(&self) -> u8 {
        match self {
            Self::Service(service) | Self::Tasks(service) | Self::Port(service, ..) => service.panic,
            Self::Missing | Self::Rows(_) | Self::Apex(_) | Self::Leader(_) => 0,
        }
    }
}

/// Where a subject's addresses are.
pub(super) enum Hosts {
    /// Nowhere.
    None,
    /// Here, of both families.
    Addresses(Vec<IpAddr>, u32),
    /// At another name.
    Alias(Name, u32),
}

/// What names stand for.
impl Zone {
    /// What a name in the zone, lower case, stands for.
    pub(super) fn subject(&self, lower: &Name, basis: &Basis) -> Subject<'_> {
        let labels: Vec<&[u8]> = lower.iter().rev().collect();
        let apex = usize::from(self.domain.num_labels());
        let mut at: Key = self.apex.clone();
        let mut hidden = false;
        for (index, label) in labels.iter().enumerate().skip(apex) {
            let rest = labels.get(index..).unwrap_or_default();
            if is_wildcard(label) {
                basis.name(&at);
                if !self.tree.exists(&at) {
                    return Subject::Missing;
                }
                return Subject::Rows(self.matching(&at, rest, hidden));
            }
            if index > apex {
                basis.service(&at);
                if let Some(service) = self.services.get(at.as_slice())
                    && let Some(subject) = self.below_service(service, &at, rest, lower)
                {
                    basis.name(&at);
                    return subject;
                }
            }
            hidden |= index == apex && *label == b"dns";
            if !tree::push(&mut at, label) {
                return Subject::Missing;
            }
        }
        basis.name(&at);
        basis.service(&at);
        if !self.tree.exists(&at) {
            let above = labels.split_last().filter(|(last, above)| **last == b"leader" && above.len() > apex);
            let leader = above.map_or(Subject::Missing, |(_, above)| self.leader(above, basis));
            return if matches!(leader, Subject::Missing) { self.synthesized(&at, basis) } else { leader };
        }
        if let Some(service) = self.services.get(at.as_slice()) {
            return Subject::Service(service);
        }
        let rows = self.tree.below(&at).map(|row| &**row).filter(|r| hidden || !r.hidden).collect();
        if at == self.apex { Subject::Apex(rows) } else { Subject::Rows(rows) }
    }

    /// What a name that does not exist stands for: the wildcard record below the closest name above it that does, if there is
    /// one (RFC 4592 section 3.3.1).
    fn synthesized(&self, at: &[u8], basis: &Basis) -> Subject<'_> {
        for above in tree::upwards(at).skip(1) {
            // If it comes to be, it is closer; if it goes, another one is. The domain itself stays.
            if above.len() > self.apex.len() {
                basis.name(above);
            }
            if self.tree.exists(above) {
                let mut star = above.to_vec();
                if !tree::push(&mut star, b"*") || above.len() < self.apex.len() {
                    return Subject::Missing;
                }
                basis.name(&star);
                if !self.tree.exists(&star) {
                    return Subject::Missing;
                }
                return Subject::Rows(self.tree.below(&star).map(|row| &**row).filter(|row| !row.hidden).collect());
            }
        }
        Subject::Missing
    }

    /// Who leads the name at these labels, from the root down. A name that can have a leader and has none exists all the same.
    fn leader(&self, labels: &[&[u8]], basis: &Basis) -> Subject<'_> {
        let labels: Option<Vec<&str>> = labels.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        let path = RecordPath::from_labels(labels.unwrap_or_default());
        let Some(above) = tree::key(path.labels()) else { return Subject::Missing };
        basis.name(&above);
        basis.service(&above);
        let is_it = |name: &ServiceName| self.snapshot.path_of(name) == path && self.tree.exists(&above);
        let Some(name) = self.snapshot.service_at(&path).filter(is_it) else {
            return Subject::Missing;
        };
        let service = self.services.get(above.as_slice()).and_then(|_| self.snapshot.service(&name)).map(|stored| &stored.value);
        let sees = |endpoint: &Endpoint| self.network.sees(&self.snapshot, endpoint);
        let leader = leader::leader_seen(&self.snapshot, &name, service, &sees);
        let key = leader.and_then(|leader| tree::key(leader.path.labels()));
        let Some(key) = key else { return Subject::Leader(Vec::new()) };
        basis.name(&key);
        Subject::Leader(self.tree.below(&key).map(|row| &**row).collect())
    }

    /// The names that a declared service has besides those of its records; `rest` is what stands left of its name.
    fn below_service<'z>(&'z self, service: &'z ServiceRows, at: &[u8], rest: &[&[u8]], lower: &Name) -> Option<Subject<'z>> {
        let stands = |label: &[u8]| {
            let mut below = at.to_vec();
            tree::push(&mut below, label) && self.tree.exists(&below)
        };
        let proto = |label: &[u8]| match label {
            b"_tcp" => Some(Proto::Tcp),
            b"_udp" => Some(Proto::Udp),
            _ => None,
        };
        match rest {
            [b"tasks"] => Some(Subject::Tasks(service)),
            [label] if proto(label).is_some() && !stands(label) => {
                let any = service.ports.iter().any(|p| Some(p.proto) == proto(label));
                any.then(|| Subject::Rows(Vec::new()))
            }
            [label, port] => {
                let (proto, wanted) = (proto(label)?, port.strip_prefix(b"_")?);
                let is = |p: &&Port| {
                    let by_number = p.name.is_empty() && p.port.to_string().as_bytes() == wanted;
                    p.proto == proto && (by_number || p.name.as_bytes() == wanted)
                };
                let port = service.ports.iter().find(is)?;
                let name = lower.trim_to(usize::from(lower.num_labels()).saturating_sub(2));
                Some(Subject::Port(service, port, name))
            }
            [id] => {
                let rows = service.by_id.get(*id)?;
                Some(Subject::Rows(each(rows)))
            }
            _ => None,
        }
    }

    /// The rows below a name that a pattern matches, label by label.
    fn matching(&self, start: &[u8], pattern: &[&[u8]], hidden: bool) -> Vec<&Row> {
        let fits = |wanted: &[u8], label: &[u8]| is_wildcard(wanted) || wanted == label;
        self.tree.matching(start, pattern, fits).map(|row| &**row).filter(|r| hidden || !r.hidden).collect()
    }

    /// The rows that texts and mail hosts are taken from.
    pub(super) fn texts<'z>(subject: &Subject<'z>) -> Vec<&'z Row> {
        match subject {
            Subject::Rows(rows) | Subject::Apex(rows) | Subject::Leader(rows) => rows.clone(),
            Subject::Service(service) | Subject::Tasks(service) => each(&service.texts),
            Subject::Missing | Subject::Port(..) => Vec::new(),
        }
    }

    /// Where the subject's addresses are. `at` is its name, lower case.
    pub(super) fn hosts(&self, subject: &Subject<'_>, at: &Name, basis: &Basis) -> Hosts {
        self.hosts_within(subject, at, &mut HashSet::new(), basis)
    }

    /// The same, looking behind no name twice.
    fn hosts_within(&self, subject: &Subject<'_>, at: &Name, seen: &mut HashSet<Name>, basis: &Basis) -> Hosts {
        let rows = match subject {
            Subject::Missing | Subject::Port(..) => return Hosts::None,
            Subject::Service(ServiceRows { external: Some(name), .. }) => return Hosts::Alias(name.clone(), SERVICE_TTL),
            Subject::Service(service) if !service.vips.is_empty() => {
                return Hosts::Addresses(service.vips.clone(), SERVICE_TTL);
            }
            Subject::Service(service) | Subject::Tasks(service) => each(&service.instances),
            Subject::Rows(rows) | Subject::Leader(rows) => rows.clone(),
            Subject::Apex(rows) => {
                let own: Vec<&Row> = self.tree.below(&self.apex_hosts).map(|row| &**row).collect();
                if own.iter().any(|row| row.has_host()) { own } else { rows.clone() }
            }
        };
        // A host at or below the name that it stands under says nothing new.
        let rows = choose(rows, subject.panic(), |r| match &r.host {
            Host::Address(_) => true,
            Host::Name(name) => !at.zone_of(name),
            Host::None => false,
        });
        let mut addresses = Unique::default();
        let mut names: Vec<&Name> = Vec::new();
        for row in &rows {
            match &row.host {
                Host::Address(address) => addresses.push(*address),
                Host::Name(name) if !names.contains(&&**name) => names.push(name),
                Host::Name(_) | Host::None => {}
            }
        }
        let mut ttl = least_ttl(&rows);
        if matches!(subject, Subject::Leader(_)) {
            ttl = ttl.min(FADING_TTL);
        }
        // Beside the zone's SOA there can be no CNAME.
        let may_alias = !matches!(subject, Subject::Apex(_));
        if let ([name], true, true) = (&*names, addresses.list.is_empty(), may_alias) {
            return Hosts::Alias((*name).clone(), ttl);
        }
        for name in names.iter().filter(|n| self.contains(n)) {
            ttl = ttl.min(self.behind(name, &mut addresses, seen, basis));
        }
        if !addresses.list.is_empty() {
            return Hosts::Addresses(addresses.list, ttl);
        }
        // No address is known here: one of the names has to do, and one that others know of first.
        let outside = names.iter().find(|n| !self.contains(n));
        match outside.or(names.first()) {
            Some(name) if may_alias => Hosts::Alias((*name).clone(), ttl),
            Some(_) | None => Hosts::None,
        }
    }

    /// Adds the addresses behind a name of the zone; returns the least TTL on the way.
    fn behind(&self, name: &Name, addresses: &mut Unique, seen: &mut HashSet<Name>, basis: &Basis) -> u32 {
        let mut at = name.clone();
        let mut least = u32::MAX;
        while self.contains(&at) && seen.len() < MAX_BEHIND && seen.insert(at.clone()) {
            match self.hosts_within(&self.subject(&at, basis), &at, seen, basis) {
                Hosts::None => break,
                Hosts::Addresses(list, ttl) => {
                    list.into_iter().for_each(|a| addresses.push(a));
                    return least.min(ttl);
                }
                Hosts::Alias(next, ttl) => {
                    least = least.min(ttl);
                    at = next;
                }
            }
        }
        u32::MAX
    }
}

fn each(rows: &[Arc<Row>]) -> Vec<&Row> {
    rows.iter().map(|row| &**row).collect()
}

/// How many names are looked behind for one answer that mixes names and addresses: bounds the work and the depth of calls.
const MAX_BEHIND: usize = 64;

/// Addresses in the order in which they came, none twice.
#[derive(Default)]
struct Unique {
    list: Vec<IpAddr>,
    seen: HashSet<IpAddr>,
}

impl Unique {
    fn push(&mut self, address: IpAddr) {
        if self.seen.insert(address) {
            self.list.push(address);
        }
    }
}

/// Whether a label of a question stands for any label. `any` exists because libc refuses `*` in names.
pub(super) fn is_wildcard(label: &[u8]) -> bool {
    label == b"*" || label == b"any"
}
