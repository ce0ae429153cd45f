//! What a name stands for: rows, a service, a service's port; and where its addresses are.

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::rr::Name;
use weft_model::keys::RecordPath;
use weft_model::leader;
use weft_model::record::Proto;

use super::build::{Port, ServiceRows};
use super::row::{FADING_TTL, Host, Row, choose};
use super::{SERVICE_TTL, Zone, least_ttl, tree};

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
    pub(super) fn subject(&self, lower: &Name) -> Subject<'_> {
        let labels: Vec<&[u8]> = lower.iter().rev().collect();
        let apex = usize::from(self.domain.num_labels());
        let mut node = self.apex;
        let mut hidden = false;
        for (index, label) in labels.iter().enumerate().skip(apex) {
            let rest = labels.get(index..).unwrap_or_default();
            if is_wildcard(label) {
                return Subject::Rows(self.matching(node, rest, hidden));
            }
            if let Some(service) = self.service(node)
                && let Some(subject) = self.below_service(service, node, rest, lower)
            {
                return subject;
            }
            hidden |= index == apex && *label == b"dns";
            match self.tree.child(node, label) {
                Some(child) => node = child,
                None if rest == [b"leader"] => return self.leader(labels.get(..index).unwrap_or_default()),
                None => return Subject::Missing,
            }
        }
        if let Some(service) = self.service(node) {
            return Subject::Service(service);
        }
        let rows = self.tree.rows(node).iter().filter(|r| hidden || !r.hidden).collect();
        if node == self.apex { Subject::Apex(rows) } else { Subject::Rows(rows) }
    }

    /// Who leads the name at these labels, from the root down. A name that can have a leader and has none exists all the same.
    fn leader(&self, labels: &[&[u8]]) -> Subject<'_> {
        let labels: Option<Vec<&str>> = labels.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        let path = RecordPath::from_labels(labels.unwrap_or_default());
        let Some(name) = self.snapshot.service_at(&path).filter(|name| self.snapshot.path_of(name) == path) else {
            return Subject::Missing;
        };
        let leader = leader::leader(&self.snapshot, &name);
        let key = leader.and_then(|leader| tree::key(leader.path.labels()));
        let node = key.and_then(|key| self.tree.find(key.split(|byte| *byte == 0)));
        Subject::Leader(node.map(|node| self.tree.rows(node).iter().collect()).unwrap_or_default())
    }

    fn service(&self, node: u32) -> Option<&ServiceRows> {
        self.services.get(self.tree.service(node)?)
    }

    /// The names that a declared service has besides those of its records; `rest` is what stands left of its name.
    fn below_service<'z>(&'z self, service: &'z ServiceRows, node: u32, rest: &[&[u8]], lower: &Name) -> Option<Subject<'z>> {
        let proto = |label: &[u8]| match label {
            b"_tcp" => Some(Proto::Tcp),
            b"_udp" => Some(Proto::Udp),
            _ => None,
        };
        match rest {
            [b"tasks"] => Some(Subject::Tasks(service)),
            [label] if proto(label).is_some() && self.tree.child(node, label).is_none() => {
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
                Some(Subject::Rows(self.places(rows)))
            }
            _ => None,
        }
    }

    fn places(&self, places: &[usize]) -> Vec<&Row> {
        places.iter().filter_map(|place| self.tree.row(*place)).collect()
    }

    /// The rows below the nodes that a pattern matches, label by label.
    fn matching(&self, start: u32, pattern: &[&[u8]], hidden: bool) -> Vec<&Row> {
        let mut nodes = vec![start];
        for label in pattern {
            nodes = if is_wildcard(label) {
                nodes.iter().flat_map(|n| self.tree.children(*n).map(|(_, child)| child)).collect()
            } else {
                nodes.iter().filter_map(|n| self.tree.child(*n, label)).collect()
            };
        }
        nodes.iter().flat_map(|n| self.tree.rows(*n)).filter(|r| hidden || !r.hidden).collect()
    }

    /// The rows that texts and mail hosts are taken from.
    pub(super) fn texts<'z>(&'z self, subject: &Subject<'z>) -> Vec<&'z Row> {
        match subject {
            Subject::Rows(rows) | Subject::Apex(rows) | Subject::Leader(rows) => rows.clone(),
            Subject::Service(service) | Subject::Tasks(service) => self.places(&service.texts),
            Subject::Missing | Subject::Port(..) => Vec::new(),
        }
    }

    /// Where the subject's addresses are. `at` is its name, lower case.
    pub(super) fn hosts(&self, subject: &Subject<'_>, at: &Name) -> Hosts {
        self.hosts_within(subject, at, &mut HashSet::new())
    }

    /// The same, looking behind no name twice.
    fn hosts_within(&self, subject: &Subject<'_>, at: &Name, seen: &mut HashSet<Name>) -> Hosts {
        let rows = match subject {
            Subject::Missing | Subject::Port(..) => return Hosts::None,
            Subject::Service(ServiceRows { external: Some(name), .. }) => return Hosts::Alias(name.clone(), SERVICE_TTL),
            Subject::Service(service) if !service.vips.is_empty() => {
                return Hosts::Addresses(service.vips.clone(), SERVICE_TTL);
            }
            Subject::Service(service) | Subject::Tasks(service) => self.places(&service.instances),
            Subject::Rows(rows) | Subject::Leader(rows) => rows.clone(),
            Subject::Apex(rows) => match self.apex_hosts.map(|n| self.tree.rows(n)) {
                Some(own) if own.iter().any(Row::has_host) => own.iter().collect(),
                Some(_) | None => rows.clone(),
            },
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
                Host::Name(name) if !names.contains(&name) => names.push(name),
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
            ttl = ttl.min(self.behind(name, &mut addresses, seen));
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
    fn behind(&self, name: &Name, addresses: &mut Unique, seen: &mut HashSet<Name>) -> u32 {
        let mut at = name.clone();
        let mut least = u32::MAX;
        while self.contains(&at) && seen.len() < MAX_BEHIND && seen.insert(at.clone()) {
            match self.hosts_within(&self.subject(&at), &at, seen) {
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
