//! The zone: everything that is answered under our domain, as one immutable value made from one snapshot.
//!
//! Pure: no sockets, clocks or tasks, and nothing random; whoever sends an answer may turn the order of its addresses.
//! The rules are SkyDNS's, with CoreDNS's corrections and without the faults of either:
//!
//! * A name stands for everything below it; `*` and `any` in a question match one label each, and then what is below.
//!   What stands below `dns.<domain>` (name servers, the zone's own address) is no part of the names above.
//! * A stored label `*` answers for the names that do not exist beside it (RFC 4592), as external-dns writes wildcard hosts.
//! * A declared service owns its name: its virtual IPs are the name's addresses, its instances are found by SRV,
//!   `tasks.<name>` and `<id>.<name>`, its ports by `_port._proto.<name>` (a port without a name by its number).
//! * A service that stands for a name outside of the cluster, or for another one in it, is an alias and nothing else.
//! * `leader.<name>` is who leads the service or name ([`weft_model::leader`]), where no record is called so.
//! * Of several records those that are up are given; only if there is none those that drain, and then those that are lost.
//!   Health alone leaves no name empty ([`weft_model::pool`]).
//! * A name is an alias (CNAME) if all its records point to one and the same other name. Where addresses and names are mixed,
//!   the addresses behind the names are given, for nothing may stand beside a CNAME. The same holds for every type, so that
//!   what a cache learns from one question is right for the next.
//! * A chain that leads to nothing inside the zone is no data. A chain that leads out is given as far as it is ours, and
//!   [`Answer::next`] says where it goes on.
//! * The reverse names of addresses in the network and the service ranges are ours as well (`zone/reverse.rs`).
//! * All records of one name and type have one TTL, no record is there twice, chains come first and in order, and owner names
//!   are spelled as the question spells them.
//!
//! Read [`Zone::answer`], then `zone/subject.rs` for what a name stands for, `zone/tree.rs` for the index and `zone/maker.rs`
//! for what goes in. `zone/basis.rs` says which answers a change may have made others.

mod audience;
mod basis;
mod maker;
mod reverse;
mod row;
mod service;
mod subject;
mod tree;
mod why;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, MX, NS, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use imbl::OrdMap;
use weft_model::ids::Revision;
use weft_model::record::DEFAULT_PRIORITY;
use weft_model::snapshot::Snapshot;

use audience::Audience;
use basis::Stamps;
pub use basis::{Basis, Mark, Touched};
pub use maker::Maker;
use maker::NEGATIVE_TTL;
use reverse::Reverse;
use row::{FADING_TTL, Row, Srv, choose, weigh};
use service::ServiceRows;
use subject::{Hosts, Subject};
use tree::{Key, Tree};
pub use why::{Meaning, Silence, Speaker, Step, Then};

/// The most CNAMEs that an answer holds (SkyDNS). Beyond that the name has no data.
const MAX_CHAIN: usize = 8;
/// The most names whose addresses are given along; a message holds no more, and a question must not cost more.
const MAX_GLUE: usize = 1024;
/// TTL of a service's virtual IPs, in seconds: they stay as long as the service does.
const SERVICE_TTL: u32 = 30;
/// TTL of the answer to ANY, in seconds.
const ANY_TTL: u32 = 300;

/// A question; its class is IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, spelled as asked.
    pub name: Name,
    /// The type.
    pub record_type: RecordType,
}

/// What is still to be done with an [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is complete.
    Done,
    /// The name is not ours: ask others.
    Forward,
    /// The chain of names leads out of the zone: ask others for this name, and append what they say.
    Resolve(Name),
}

/// An answer, by sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `NoError`, `NXDomain`, or `Refused` for a name that is not ours.
    pub rcode: ResponseCode,
    /// Whether we are who knows: the AA bit.
    pub authoritative: bool,
    /// The answer section: chain first.
    pub answers: Vec<Record>,
    /// The authority section: the SOA of a negative answer.
    pub authority: Vec<Record>,
    /// The additional section: addresses of what the answers name.
    pub additional: Vec<Record>,
    /// Whether others are to be asked.
    pub next: Next,
}

/// Everything that is answered, at one revision. A copy shares all that it holds.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Lower case.
    domain: Name,
    revision: Revision,
    soa: Record,
    network: Audience,
    tree: Tree,
    /// The domain's place in the tree, and those of `apex.dns` and `ns.dns` below it.
    apex: Key,
    apex_hosts: Key,
    name_servers: Key,
    /// By the keys of their names.
    services: OrdMap<Arc<[u8]>, Arc<ServiceRows>>,
    reverse: Reverse,
    skipped: usize,
    /// What it was made from: who leads is looked up when it is asked for. A copy shares all that it holds.
    snapshot: Snapshot,
    /// Which of its maker's zones it is, and what these changed.
    number: u64,
    stamps: Arc<Stamps>,
}

impl Zone {
    /// The domain, lower case.
    #[must_use]
    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// The snapshot's revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many names are stored: those of records, whether they answer or not, and those of services.
    #[must_use]
    pub fn names(&self) -> usize {
        self.tree.places()
    }

    /// How many records are answered from.
    #[must_use]
    pub fn records(&self) -> usize {
        self.tree.len()
    }

    /// How many records hold something that cannot be said in DNS: a label or host that is no name, a text that is too long.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Which one it is of all that its maker has made; later ones have greater numbers.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether an answer of the zone of that number (of the same maker) that rests on these marks is what the latest zone would
    /// answer, but for a revision in it. It costs a look at each mark.
    #[must_use]
    pub fn stands(&self, marks: &[Mark], number: u64) -> bool {
        self.stamps.untouched(marks, number)
    }

    /// Whether the name is the zone's or below it.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    /// Answers a question.
    #[must_use]
    pub fn answer(&self, question: &Question) -> Answer {
        self.answer_on(question, &Basis::default())
    }

    /// Answers a question, and says what the answer rests on.
    #[must_use]
    pub fn answer_on(&self, question: &Question, basis: &Basis) -> Answer {
        let lower = question.name.to_lowercase();
        if !self.contains(&lower) {
            return self.reverse(question, &lower, basis);
        }
        let mut subject = self.subject(&lower, basis);
        match (question.record_type, &subject) {
            (_, Subject::Missing) => return self.negative(basis, ResponseCode::NXDomain),
            (RecordType::SOA, Subject::Apex(_)) => {
                let mut soa = self.soa.clone();
                soa.name = question.name.clone();
                basis.revision();
                return positive(vec![soa], Vec::new());
            }
            (RecordType::NS, Subject::Apex(_)) => return self.name_servers(question, basis),
            (RecordType::SOA | RecordType::NS, _) => return self.negative(basis, ResponseCode::NoError),
            (RecordType::ANY, _) => return positive(vec![any(&question.name)], Vec::new()),
            _ => {}
        }
        let (mut owner, mut at) = (question.name.clone(), lower);
        let mut chain: Vec<Record> = Vec::new();
        let mut seen = vec![at.clone()];
        loop {
            let mut additional = Vec::new();
            let data = self.data((&owner, &at), &subject, question.record_type, &mut additional, basis);
            if !data.is_empty() {
                chain.extend(data);
                return positive(chain, additional);
            }
            let Hosts::Alias(target, ttl) = self.hosts(&subject, &at, basis) else {
                return self.negative(basis, ResponseCode::NoError);
            };
            if seen.contains(&target) || chain.len() == MAX_CHAIN {
                return self.negative(basis, ResponseCode::NoError);
            }
            chain.push(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(target.clone()))));
            if question.record_type == RecordType::CNAME {
                return positive(chain, Vec::new());
            }
            if !self.contains(&target) {
                let end = self.reverse(&Question { name: target.clone(), record_type: question.record_type }, &target, basis);
                if end.next == Next::Done {
                    chain.extend(end.answers);
                    let leads_to_nothing = !end.authority.is_empty();
                    return if leads_to_nothing {
                        self.negative(basis, ResponseCode::NoError)
                    } else {
                        positive(chain, Vec::new())
                    };
                }
                return Answer { next: Next::Resolve(target), ..positive(chain, Vec::new()) };
            }
            subject = self.subject(&target, basis);
            seen.push(target.clone());
            (owner, at) = (target.clone(), target);
        }
    }

    /// The stored name servers. There need not be any: then the zone's name has no NS data, and still exists.
    fn name_servers(&self, question: &Question, basis: &Basis) -> Answer {
        let rows = choose(self.tree.below(&self.name_servers).map(|row| &**row).collect(), 0, Row::has_host);
        let ttl = least_ttl(&rows);
        let mut seen = HashSet::new();
        let targets: Vec<Name> = rows.iter().map(|r| r.target()).filter(|t| seen.insert(t.clone())).collect();
        if targets.is_empty() {
            return self.negative(basis, ResponseCode::NoError);
        }
        let mut additional = Vec::new();
        self.glue(targets.iter(), &mut additional, basis);
        let record = |t: &Name| Record::from_rdata(question.name.clone(), ttl, RData::NS(NS(t.clone())));
        positive(targets.iter().map(record).collect(), additional)
    }

    /// The records of one type that the subject itself has.
    fn data(
        &self,
        (owner, at): (&Name, &Name),
        subject: &Subject<'_>,
        record_type: RecordType,
        additional: &mut Vec<Record>,
        basis: &Basis,
    ) -> Vec<Record> {
        match record_type {
            RecordType::A | RecordType::AAAA => match self.hosts(subject, at, basis) {
                Hosts::Addresses(addresses, ttl) => address_records(owner, &addresses, ttl, Some(record_type)),
                Hosts::None | Hosts::Alias(..) => Vec::new(),
            },
            RecordType::SRV => self.srv(owner, subject, additional, basis),
            RecordType::TXT => {
                let rows = choose(Self::texts(subject), subject.panic(), |r| r.text.is_some());
                let ttl = least_ttl(&rows);
                let mut seen = HashSet::new();
                let texts = rows.iter().filter_map(|r| r.text.as_deref()).filter(|t| seen.insert(*t));
                let txt = |t: &[u8]| RData::TXT(TXT::from_bytes(t.chunks(255).collect()));
                texts.map(|t| Record::from_rdata(owner.clone(), ttl, txt(t))).collect()
            }
            RecordType::MX => {
                let rows = choose(Self::texts(subject), subject.panic(), |r| r.mail && r.has_host());
                let ttl = least_ttl(&rows);
                let mut seen = HashSet::new();
                let mut out = Vec::new();
                let targets: Vec<(u16, Name)> = rows.iter().map(|r| (r.priority, r.target())).collect();
                for (priority, target) in targets.iter().filter(|target| seen.insert(*target)) {
                    let mx = RData::MX(MX::new(*priority, target.clone()));
                    out.push(Record::from_rdata(owner.clone(), ttl, mx));
                }
                self.glue(targets.iter().map(|(_, target)| target), additional, basis);
                out
            }
            _ => Vec::new(),
        }
    }

    fn srv(&self, owner: &Name, subject: &Subject<'_>, additional: &mut Vec<Record>, basis: &Basis) -> Vec<Record> {
        let (list, ttl) = match subject {
            Subject::Port(service, port, name) if !service.vips.is_empty() => {
                let one = Srv { target: name.clone(), port: port.port, priority: DEFAULT_PRIORITY, weight: 0 };
                (weigh([one]), SERVICE_TTL)
            }
            Subject::Port(ServiceRows { external: Some(name), .. }, port, _) => {
                // Not its own name: that is an alias, and SRV may not point to one (RFC 2782).
                let one = Srv { target: name.clone(), port: port.port, priority: DEFAULT_PRIORITY, weight: 0 };
                (weigh([one]), SERVICE_TTL)
            }
            Subject::Port(service, port, _) => srv_at(&port.backends, service.panic),
            Subject::Service(service) | Subject::Tasks(service) => srv_at(&service.srv, service.panic),
            Subject::Rows(rows) | Subject::Apex(rows) => {
                let rows = choose(rows.clone(), 0, Row::has_host);
                (weigh(rows.iter().map(|r| r.srv(r.port))), least_ttl(&rows))
            }
            Subject::Leader(rows) => {
                let rows = choose(rows.clone(), subject.panic(), Row::has_host);
                (weigh(rows.iter().map(|r| r.srv(r.port))), least_ttl(&rows).min(FADING_TTL))
            }
            Subject::Missing => return Vec::new(),
        };
        self.glue(list.iter().map(|s| &s.target), additional, basis);
        let records = list.into_iter().map(|s| {
            let weight = u16::try_from(s.weight).unwrap_or(u16::MAX);
            RData::SRV(SRV::new(s.priority, weight, s.port, s.target))
        });
        records.map(|data| Record::from_rdata(owner.clone(), ttl, data)).collect()
    }

    /// Appends the addresses of these names, each once, with the chains that lead to them. Names outside are left alone.
    fn glue<'n>(&self, targets: impl Iterator<Item = &'n Name>, out: &mut Vec<Record>, basis: &Basis) {
        let mut done: HashSet<Name> = HashSet::new();
        for target in targets.take(MAX_GLUE) {
            let mut at = target.clone();
            let mut chain = Vec::new();
            while self.contains(&at) && chain.len() <= MAX_CHAIN && done.insert(at.clone()) {
                match self.hosts(&self.subject(&at, basis), &at, basis) {
                    Hosts::None => break,
                    Hosts::Addresses(addresses, ttl) => {
                        out.append(&mut chain);
                        out.extend(address_records(&at, &addresses, ttl, None));
                        break;
                    }
                    Hosts::Alias(next, ttl) => {
                        chain.push(Record::from_rdata(at, ttl, RData::CNAME(CNAME(next.clone()))));
                        at = next;
                        let looped = || chain.iter().any(|r: &Record| r.name == at);
                        if done.contains(&at) && !looped() {
                            // Another target has led here before: the rest of the chain is there.
                            out.append(&mut chain);
                        }
                    }
                }
            }
        }
    }

    fn negative(&self, basis: &Basis, rcode: ResponseCode) -> Answer {
        basis.revision();
        Answer { rcode, authority: vec![self.soa.clone()], ..positive(Vec::new(), Vec::new()) }
    }
}

/// SRV of these rows, of a service with this threshold, at these ports.
fn srv_at(places: &[(Arc<Row>, u16)], panic: u8) -> (Vec<Srv>, u32) {
    let mut rows: Vec<&Row> = places.iter().map(|(row, _)| &**row).collect();
    rows.dedup_by(|a, b| std::ptr::eq(*a, *b));
    let rows = choose(rows, panic, Row::has_host);
    let chosen: HashSet<*const Row> = rows.iter().map(|r| std::ptr::from_ref(*r)).collect();
    let at = places.iter().filter(|(row, _)| chosen.contains(&Arc::as_ptr(row)));
    (weigh(at.map(|(row, port)| row.srv(*port))), least_ttl(&rows))
}

impl Row {
    fn srv(&self, port: u16) -> Srv {
        Srv { target: self.target(), port, priority: self.priority, weight: self.weight }
    }
}

fn positive(answers: Vec<Record>, additional: Vec<Record>) -> Answer {
    Answer { rcode: ResponseCode::NoError, authoritative: true, answers, authority: Vec::new(), additional, next: Next::Done }
}

/// RFC 8482 section 4.2: one record that says that there is no listing.
fn any(owner: &Name) -> Record {
    Record::from_rdata(owner.clone(), ANY_TTL, RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())))
}

/// The TTL of the set that these rows make (RFC 2181 section 5.2).
fn least_ttl(rows: &[&Row]) -> u32 {
    rows.iter().map(|r| r.ttl).min().unwrap_or(NEGATIVE_TTL)
}

/// A and AAAA records, IPv4 first; of one type only, if one is named.
fn address_records(owner: &Name, addresses: &[IpAddr], ttl: u32, only: Option<RecordType>) -> Vec<Record> {
    let record = |data: RData| Record::from_rdata(owner.clone(), ttl, data);
    let v4 = addresses.iter().filter_map(|a| match a {
        IpAddr::V4(a) => Some(record(RData::A(A(*a)))),
        IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().filter_map(|a| match a {
        IpAddr::V6(a) => Some(record(RData::AAAA(AAAA(*a)))),
        IpAddr::V4(_) => None,
    });
    v4.chain(v6).filter(|r| only.is_none_or(|t| r.record_type() == t)).collect()
}
