//! Names of addresses: what stands below `in-addr.arpa` and `ip6.arpa`.
//!
//! Reverse names of addresses in the network and in the service ranges are ours: nobody else knows them, and asking others
//! would tell them our addresses. There an address has the names of its stored PTR records; else, as a virtual IP, its
//! service's; else those of the records that hold it, as SRV gives them. Each range is cut into zones at whole labels, whose
//! names are those of the negative answers' SOA: resolvers take none that does not stand above the question (RFC 2308
//! section 5). Elsewhere only stored PTR records are ours, and all else is others'.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::row::{Host, Row, choose, in_turn};
use super::subject::is_wildcard;
use super::{Answer, Next, Question, SERVICE_TTL, Zone, any, least_ttl, positive};

/// How many labels the reverse name of an IPv4 and of an IPv6 address has.
const WHOLE_LABELS: [u8; 2] = [6, 34];

/// The ranges whose reverse names are ours, and who is where in them.
#[derive(Debug)]
pub(super) struct Reverse {
    ranges: Vec<IpNet>,
    /// Virtual IPs, and the services that have them.
    vips: BTreeMap<IpAddr, Vec<Name>>,
    /// Addresses of records and the places of their rows, sorted.
    hosts: Vec<(IpAddr, usize)>,
}

impl Reverse {
    /// Of these rows, all of the zone's, those below `domain` are looked at.
    pub(super) fn new(ranges: Vec<IpNet>, domain: &Name, rows: &[Row], vips: impl Iterator<Item = (IpAddr, Name)>) -> Self {
        let ours = |address: &IpAddr| ranges.iter().any(|r| r.contains(address));
        let mut hosts = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            // What others ask for by a pattern is nobody's name.
            let is_name = || domain.zone_of(&row.target) && !row.target.iter().any(is_wildcard);
            if let Host::Address(address) = &row.host
                && let address = address.to_canonical()
                && ours(&address)
                && is_name()
            {
                hosts.push((address, place));
            }
        }
        hosts.sort_unstable();
        let mut by_vip: BTreeMap<IpAddr, Vec<Name>> = BTreeMap::new();
        for (vip, name) in vips.filter(|(vip, _)| ours(vip)) {
            by_vip.entry(vip).or_default().push(name);
        }
        Self { ranges, vips: by_vip, hosts }
    }

    /// How many labels the zone of ours has that this place lies in, if it does.
    fn cut(&self, place: &Place) -> Option<u8> {
        let around = self.ranges.iter().filter(|r| r.contains(&place.net));
        around.map(|r| 2 + r.prefix_len().div_ceil(bits_per_label(r))).min()
    }

    /// The rows that hold an address.
    fn at(&self, address: IpAddr) -> impl Iterator<Item = usize> {
        let from = self.hosts.partition_point(|(a, _)| *a < address);
        self.hosts.iter().skip(from).take_while(move |(a, _)| *a == address).map(|(_, place)| *place)
    }

    /// Whether any address of `net` has a name.
    fn any_in(&self, net: &IpNet) -> bool {
        let first = net.network();
        let from = self.hosts.partition_point(|(a, _)| *a < first);
        let host = self.hosts.get(from).map(|(a, _)| a);
        let vip = self.vips.range(first..).next().map(|(a, _)| a);
        host.into_iter().chain(vip).any(|a| net.contains(a))
    }
}

/// What stands below `arpa`.
impl Zone {
    /// Answers a question for a name that is not below the domain; `lower` is its name.
    pub(super) fn reverse(&self, question: &Question, lower: &Name) -> Answer {
        if question.record_type == RecordType::PTR
            && let stored = self.stored_names(question, lower)
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
        let exists = at_cut || self.tree.find(lower.iter().rev()).is_some() || (!place.beyond && self.reverse.any_in(&place.net));
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
    fn stored_names(&self, question: &Question, lower: &Name) -> Vec<Record> {
        if lower.iter().next_back() != Some(b"arpa") {
            return Vec::new();
        }
        let Some(node) = self.tree.find(lower.iter().rev()) else {
            return Vec::new();
        };
        // Below the name of one address stands nothing else, so several records of it may.
        let depth = lower.num_labels();
        let whole = WHOLE_LABELS.contains(&depth);
        let rows: Vec<&Row> = self.tree.rows(node).iter().filter(|r| whole || r.depth == depth).collect();
        let rows = choose(rows, 0, |r| matches!(r.host, Host::Name(_)));
        let names = rows.iter().filter_map(|r| match &r.host {
            Host::Name(name) => Some(name),
            Host::Address(_) | Host::None => None,
        });
        pointers(question, names, least_ttl(&rows))
    }

    /// The names that an address has by being a virtual IP, or where it is a record's.
    fn names_of(&self, question: &Question, address: IpAddr) -> Vec<Record> {
        if let Some(services) = self.reverse.vips.get(&address) {
            return pointers(question, services.iter(), SERVICE_TTL);
        }
        let mut rows: Vec<&Row> = self.reverse.at(address).filter_map(|place| self.tree.row(place)).collect();
        in_turn(&mut rows, 0);
        pointers(question, rows.iter().map(|r| &r.target), least_ttl(&rows))
    }
}

/// PTR records to these names, each once.
fn pointers<'n>(question: &Question, names: impl Iterator<Item = &'n Name>, ttl: u32) -> Vec<Record> {
    let mut seen = HashSet::new();
    let pointer = |n: &Name| Record::from_rdata(question.name.clone(), ttl, RData::PTR(PTR(n.clone())));
    names.filter(|n| seen.insert(*n)).map(pointer).collect()
}

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
