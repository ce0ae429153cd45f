//! Names of addresses: what stands below `in-addr.arpa` and `ip6.arpa`.
//!
//! Reverse names of addresses in the network and in the service ranges are ours: nobody else knows them, and asking others
//! would tell them our addresses. There an address has the names of its stored PTR records; else, as a virtual IP, its
//! service's; else those of the records that hold it, as SRV gives them. Each range is cut into zones at whole labels, whose
//! names are those of the negative answers' SOA: resolvers take none that does not stand above the question (RFC 2308
//! section 5). Elsewhere only stored PTR records are ours, and all else is others'.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use imbl::OrdMap;
use ipnet::IpNet;

use super::basis::Basis;
use super::row::{Host, Row, choose, in_turn};
use super::subject::is_wildcard;
use super::tree::{self, Key};
use super::{Answer, Next, Question, SERVICE_TTL, Zone, any, least_ttl, positive};

/// How many labels the reverse name of an IPv4 and of an IPv6 address has.
const WHOLE_LABELS: [u8; 2] = [6, 34];

/// The ranges whose reverse names are ours, and who is where in them. A copy shares all that it holds.
#[derive(Clone, Debug)]
pub(super) struct Reverse {
    ranges: Arc<[IpNet]>,
    /// Virtual IPs, and the services that have them.
    vips: OrdMap<IpAddr, Name>,
    /// Addresses of records and their rows.
    hosts: OrdMap<(IpAddr, Arc<[u8]>), Arc<Row>>,
}

impl Reverse {
    /// One of these ranges, with nothing in it.
    pub(super) fn new(ranges: Vec<IpNet>) -> Self {
        Self { ranges: ranges.into(), vips: OrdMap::new(), hosts: OrdMap::new() }
    }

    /// The address that a row is in reach of, if it is one of ours.
    fn address(&self, row: &Row) -> Option<IpAddr> {
        match &row.host {
            Host::Address(address) => Some(address.to_canonical()).filter(|a| self.is_ours(*a)),
            Host::Name(_) | Host::None => None,
        }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// Takes in a row of the tree, if it gives an address a name below `domain`; that address.
    pub(super) fn enter(&mut self, domain: &Name, row: &Arc<Row>) -> Option<IpAddr> {
        let address = self.address(row)?;
        let target = row.target();
        // What others ask for by a pattern is nobody's name.
        if !domain.zone_of(&target) || target.iter().any(is_wildcard) {
            return None;
        }
        self.hosts.insert((address, row.key.clone()), row.clone());
        Some(address)
    }

    /// Takes out a row that leaves the tree; the address that it gave a name.
    pub(super) fn leave(&mut self, row: &Row) -> Option<IpAddr> {
        let address = self.address(row)?;
        self.hosts.remove(&(address, row.key.clone())).map(|_| address)
    }

    /// Sets or removes the name of a virtual IP.
    pub(super) fn set_vip(&mut self, vip: IpAddr, name: Option<Name>) {
        match name.filter(|_| self.is_ours(vip)) {
            Some(name) => drop(self.vips.insert(vip, name)),
            None => drop(self.vips.remove(&vip)),
        }
    }

    /// How many labels the zone of ours has that this place lies in, if it does.
    fn cut(&self, place: &Place) -> Option<u8> {
        let around = self.ranges.iter().filter(|r| r.contains(&place.net));
        around.map(|r| 2 + r.prefix_len().div_ceil(bits_per_label(r))).min()
    }

    /// The rows that hold an address.
    fn at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Row>> {
        let from = (address, Arc::default());
        self.hosts.range(from..).take_while(move |((a, _), _)| *a == address).map(|(_, row)| row)
    }

    /// Whether any address of `net` has a name.
    fn any_in(&self, net: &IpNet) -> bool {
        let first = net.network();
        let host = self.hosts.range((first, Arc::default())..).next().map(|((a, _), _)| a);
        let vip = self.vips.range(first..).next().map(|(a, _)| a);
        host.into_iter().chain(vip).any(|a| net.contains(a))
    }
}

/// The key of an address's reverse name (RFC 1035 section 3.5, RFC 3596 section 2.5).
pub(super) fn key(address: IpAddr) -> Key {
    let name = Name::from(address.to_canonical());
    let mut key = Key::new();
    for label in name.iter().rev() {
        // Digits and letters of our own making.
        let _ = tree::push(&mut key, label);
    }
    key
}

/// What stands below `arpa`.
impl Zone {
    /// Answers a question for a name that is not below the domain; `lower` is its name.
    pub(super) fn reverse(&self, question: &Question, lower: &Name, basis: &Basis) -> Answer {
        let key = name_key(lower);
        basis.name(&key);
        if question.record_type == RecordType::PTR
            && let stored = self.stored_names(question, lower, &key)
            && !stored.is_empty()
        {
            return positive(stored, Vec::new());
        }
        let ours = place(lower).and_then(|place| Some((self.reverse.cut(&place)?, place)));
        let Some((cut, place)) = ours else {
            return Answer {
                rcode: ResponseCode::Refused,
                authoritative: false,
                next: Next::Forward,
                ..positive(Vec::new(), Vec::new())
            };
        };
        let at_cut = lower.num_labels() == cut;
        let exists = at_cut || self.tree.exists(&key) || (!place.beyond && self.reverse.any_in(&place.net));
        basis.revision();
        let mut soa = self.soa.clone();
        soa.name = question.name.trim_to(usize::from(cut));
        let answers = match question.record_type {
            _ if !exists => Vec::new(),
            RecordType::SOA if at_cut => vec![soa.clone()],
            RecordType::ANY => vec![any(&question.name)],
            RecordType::PTR => place.address().map(|a| self.names_of(question, a)).unwrap_or_default(),
            _ => Vec::new(),
        };
        let rcode = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let authority = if answers.is_empty() { vec![soa] } else { Vec::new() };
        Answer { rcode, authority, ..positive(answers, Vec::new()) }
    }

    /// The PTR records that are stored.
    fn stored_names(&self, question: &Question, lower: &Name, key: &[u8]) -> Vec<Record> {
        if lower.iter().next_back() != Some(b"arpa") {
            return Vec::new();
        }
        // Below the name of one address stands nothing else, so several records of it may.
        let depth = lower.num_labels();
        let whole = WHOLE_LABELS.contains(&depth);
        let rows: Vec<&Row> = self.tree.below(key).map(|r| &**r).filter(|r| whole || r.depth == depth).collect();
        let rows = choose(rows, 0, |r| matches!(r.host, Host::Name(_)));
        let names = rows.iter().filter_map(|r| match &r.host {
            Host::Name(name) => Some(Name::clone(name)),
            Host::Address(_) | Host::None => None,
        });
        pointers(question, names, least_ttl(&rows))
    }

    /// The names that an address has by being a virtual IP, or where it is a record's.
    fn names_of(&self, question: &Question, address: IpAddr) -> Vec<Record> {
        if let Some(service) = self.reverse.vips.get(&address) {
            return pointers(question, [service.clone()].into_iter(), SERVICE_TTL);
        }
        let mut rows: Vec<&Row> = self.reverse.at(address).map(|row| &**row).collect();
        in_turn(&mut rows, 0);
        pointers(question, rows.iter().map(|r| r.target()), least_ttl(&rows))
    }
}

/// PTR records to these names, each once.
fn pointers(question: &Question, names: impl Iterator<Item = Name>, ttl: u32) -> Vec<Record> {
    let mut seen = HashSet::new();
    let pointer = |n: Name| Record::from_rdata(question.name.clone(), ttl, RData::PTR(PTR(n)));
    names.filter(|n| seen.insert(n.clone())).map(pointer).collect()
}

/// The key of a name, lower case; if no key can hold it, one at which nothing stands.
fn name_key(lower: &Name) -> Key {
    let mut key = Key::new();
    for label in lower.iter().rev() {
        if !tree::push(&mut key, label) {
            return NOWHERE.to_vec();
        }
    }
    key
}

/// A key at which nothing can stand.
const NOWHERE: &[u8] = &[0];

/// What a reverse name stands for.
struct Place {
    /// The addresses of the longest part from the root that names any.
    net: IpNet,
    /// Whether there are labels left of that part.
    beyond: bool,
}

impl Place {
    /// The address, if the name is that of one.
    fn address(&self) -> Option<IpAddr> {
        (!self.beyond && self.net.prefix_len() == self.net.max_prefix_len()).then(|| self.net.addr())
    }
}

fn bits_per_label(net: &IpNet) -> u8 {
    match net {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    }
}

/// The place of a reverse name, lower case; `None` for other names.
fn place(lower: &Name) -> Option<Place> {
    let mut labels = lower.iter().rev().peekable();
    labels.next_if_eq(&b"arpa".as_slice())?;
    let family = labels.next()?;
    let mut length = 0_u8;
    let net = if family == b"in-addr" {
        let mut octets = [0_u8; 4];
        for octet in &mut octets {
            let Some(value) = labels.peek().and_then(|l| decimal(l)) else { break };
            (*octet, length) = (value, length + 8);
            labels.next();
        }
        IpNet::new(Ipv4Addr::from(octets).into(), length)
    } else if family == b"ip6" {
        let mut bits = 0_u128;
        while length < 128 {
            let Some(value) = labels.peek().and_then(|l| nibble(l)) else { break };
            length += 4;
            bits |= u128::from(value) << (128 - length);
            labels.next();
        }
        IpNet::new(Ipv6Addr::from(bits).into(), length)
    } else {
        return None;
    };
    Some(Place { net: net.ok()?, beyond: labels.next().is_some() })
}

/// An octet as RFC 1035 section 3.5 writes it: without zeros before it.
fn decimal(label: &[u8]) -> Option<u8> {
    let plain = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label.first() != Some(&b'0'));
    std::str::from_utf8(label).ok().filter(|_| plain)?.parse().ok()
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Option<(String, bool)> {
        let labels = name.trim_end_matches('.').split('.').map(str::as_bytes);
        place(&Name::from_labels(labels).unwrap()).map(|p| (p.net.to_string(), p.beyond))
    }

    #[test]
    fn a_reverse_name_stands_for_the_addresses_of_its_longest_part() {
        for (name, net, beyond) in [
            ("in-addr.arpa.", "0.0.0.0/0", false),
            ("244.10.in-addr.arpa.", "10.244.0.0/16", false),
            ("4.9.244.10.in-addr.arpa.", "10.244.9.4/32", false),
            ("x.4.9.244.10.in-addr.arpa.", "10.244.9.4/32", true),
            ("256.9.244.10.in-addr.arpa.", "10.244.9.0/24", true),
            ("04.9.244.10.in-addr.arpa.", "10.244.9.0/24", true),
            ("+4.9.244.10.in-addr.arpa.", "10.244.9.0/24", true),
            ("0-127.9.244.10.in-addr.arpa.", "10.244.9.0/24", true),
            ("7.5.d.f.ip6.arpa.", "fd57::/16", false),
            ("57.d.f.ip6.arpa.", "fd00::/8", true),
        ] {
            assert_eq!(at(name), Some((net.to_owned(), beyond)), "{name}");
        }
        assert_eq!(at("4.9.244.10.home.arpa."), None);
        assert_eq!(at("arpa."), None);
        assert_eq!(at("in-addr.example."), None);
    }
}
