//! One record, ready to answer, and the rules by which some of several records are chosen: groups, turns and weights.
//!
//! Pure functions over rows; which rows a name stands for is `tree`'s business, what an answer looks like is `zone`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use weft_model::pool::{Standing, Turn};
use weft_model::record::Record;

use super::tree;

/// TTL of a record that names none and hangs on no lease, in seconds (CoreDNS's etcd plugin; SkyDNS has 3600).
pub(crate) const DEFAULT_TTL: u32 = 300;
/// The most that a record on a lease gets, in seconds: it can end at any time, and what clients keep cannot be called back.
/// Equals CoreDNS's `min-lease-ttl`.
pub(crate) const LEASED_TTL: u32 = 30;
/// TTL of an endpoint that is anything but up, in seconds: better news is expected soon.
pub(crate) const FADING_TTL: u32 = 5;
/// Above this a TTL counts as 0 in old clients (RFC 2181 section 8).
const MAX_TTL: u32 = i32::MAX as u32;
/// A longer text is left out: with the rest of the message it must fit the 64 KiB of a TCP reply.
pub(crate) const MAX_TEXT: usize = 32 * 1024;
/// What a weight that is not set counts as (SkyDNS).
const DEFAULT_WEIGHT: u64 = 100;

/// What a record points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// To nothing: a record of text only.
    None,
    /// To an address.
    Address(IpAddr),
    /// To another name, lower case.
    Name(Box<Name>),
}

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Where it stands in the tree: its own name.
    pub key: Arc<[u8]>,
    /// What it points to.
    pub host: Host,
    /// How many labels are cut from the left of what it is a target by.
    pub strip: u32,
    pub port: u16,
    pub priority: u16,
    /// 0 is not set.
    pub weight: u32,
    pub text: Option<Box<[u8]>>,
    pub mail: bool,
    /// Seconds.
    pub ttl: u32,
    pub group: Option<Box<str>>,
    /// How its endpoint stands among its siblings.
    pub standing: Standing,
    /// Labels in its key.
    pub depth: u8,
    /// Stands below `dns.<domain>`, so it is no part of what a name above stands for.
    pub hidden: bool,
}

impl Row {
    /// The row made of `record`, whose key has so many labels and whose endpoint stands like this; `None` if it is never
    /// answered. The flag is whether something in it cannot be said in DNS and is left out. Its place is the tree's to say.
    pub(crate) fn new(depth: u8, record: &Record, standing: Standing, leased: bool) -> (Option<Self>, bool) {
        if standing == Standing::Out {
            return (None, false);
        }
        let mut odd = false;
        let host = match (record.address(), record.host_name()) {
            (Some(address), _) => Host::Address(address),
            (None, None) => Host::None,
            (None, Some(text)) => match host_name(&text) {
                Some(name) => Host::Name(Box::new(name)),
                None => {
                    odd = true;
                    Host::None
                }
            },
        };
        let text = Some(record.text.as_bytes()).filter(|t| !t.is_empty());
        odd |= text.is_some_and(|t| t.len() > MAX_TEXT);
        let text = text.filter(|t| t.len() <= MAX_TEXT).map(Box::from);
        if host == Host::None && text.is_none() {
            return (None, odd);
        }
        let mut ttl = if record.ttl == 0 { DEFAULT_TTL } else { record.ttl.min(MAX_TTL) };
        if leased {
            ttl = ttl.min(LEASED_TTL);
        }
        if standing != Standing::Up {
            ttl = ttl.min(FADING_TTL);
        }
        let row = Self {
            key: Arc::default(),
            host,
            strip: record.targetstrip,
            port: record.port,
            priority: record.priority_or_default(),
            weight: record.weight,
            text,
            mail: record.mail,
            ttl,
            group: Some(record.group.as_str()).filter(|g| !g.is_empty()).map(Box::from),
            standing,
            depth,
            hidden: false,
        };
        (Some(row), odd)
    }

    /// What SRV, MX and NS point to: the host's name, or the record's own, less `targetstrip` labels.
    pub(crate) fn target(&self) -> Name {
        if let Host::Name(host) = &self.host {
            return strip(host, self.strip);
        }
        // What is in the tree has been a name before.
        let own = Name::from_labels(tree::labels(&self.key).rev()).unwrap_or_default();
        strip(&own, self.strip)
    }

    /// Whether it points anywhere.
    pub(crate) fn has_host(&self) -> bool {
        self.host != Host::None
    }
}

/// A host's name on the wire. Labels are taken as bytes; what could not stand in a host name of any kind is refused.
fn host_name(text: &str) -> Option<Name> {
    let labels: Vec<&[u8]> = text.strip_suffix('.')?.split('.').map(str::as_bytes).collect();
    let printable = |l: &&[u8]| !l.is_empty() && l.iter().all(u8::is_ascii_graphic);
    if !labels.iter().all(printable) {
        return None;
    }
    Name::from_labels(labels).ok()
}

/// Cuts `count` labels from the left. More than there are: nothing is cut (as in SkyDNS), and never down to the root.
fn strip(name: &Name, count: u32) -> Name {
    let labels = usize::from(name.num_labels());
    match usize::try_from(count) {
        Ok(count) if count > 0 && count < labels => name.trim_to(labels - count),
        _ => name.clone(),
    }
}

/// Of these rows, those that `relevant` names and whose turn it is: groups first, then [`weft_model::pool`]'s rule with this
/// threshold in percent, which only a service has.
pub(crate) fn choose(rows: Vec<&Row>, panic: u8, relevant: impl Fn(&Row) -> bool) -> Vec<&Row> {
    let mut rows = grouped(rows);
    rows.retain(|r| relevant(r));
    in_turn(&mut rows, panic);
    rows
}

/// Leaves those of the rows whose turn it is.
pub(crate) fn in_turn(rows: &mut Vec<&Row>, panic: u8) {
    let turn = Turn::among(rows.iter().map(|r| r.standing), panic);
    rows.retain(|r| turn.takes(r.standing));
}

/// SkyDNS's groups: the group of the shortest key that has one wins, rows without a group stay, and two groups on that
/// shortest level switch grouping off. Where the first row has no group and no shorter key has one, there is none.
pub(crate) fn grouped(mut rows: Vec<&Row>) -> Vec<&Row> {
    let Some(first) = rows.first() else {
        return rows;
    };
    let (mut depth, mut group) = (first.depth, first.group.as_deref());
    for row in &rows {
        if row.depth < depth && row.group.is_some() {
            (depth, group) = (row.depth, row.group.as_deref());
        }
    }
    let Some(group) = group else {
        return rows;
    };
    let other = |r: &&Row| r.group.as_deref().is_some_and(|g| g != group);
    if rows.iter().any(|r| r.depth == depth && other(r)) {
        return rows;
    }
    rows.retain(|r| !other(r));
    rows
}

/// One SRV record to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Srv {
    pub target: Name,
    pub port: u16,
    pub priority: u16,
    /// As stored on the way in, as answered on the way out.
    pub weight: u32,
}

/// Drops what repeats (target, port, priority), then turns weights into shares of 100 within each priority, at least 1:
/// a weight of 0 takes a backend out of service in HAProxy.
pub(crate) fn weigh(given: impl IntoIterator<Item = Srv>) -> Vec<Srv> {
    let mut seen = std::collections::HashSet::new();
    let mut list: Vec<Srv> = given.into_iter().filter(|s| seen.insert((s.target.clone(), s.port, s.priority))).collect();
    let weight = |s: &Srv| if s.weight == 0 { DEFAULT_WEIGHT } else { u64::from(s.weight) };
    let mut sums: BTreeMap<u16, u64> = BTreeMap::new();
    for srv in &list {
        *sums.entry(srv.priority).or_default() += weight(srv);
    }
    for srv in &mut list {
        let sum = sums.get(&srv.priority).copied().unwrap_or(1).max(1);
        let share = (weight(srv) * 100 / sum).max(1);
        srv.weight = u32::try_from(share).unwrap_or(100);
    }
    list
}

#[cfg(test)]
impl Row {
    /// One that says nothing.
    pub(crate) fn nothing() -> Self {
        let record = Record { text: "x".to_owned(), ..Record::default() };
        Self::new(0, &record, Standing::Up, false).0.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(target: &str, weight: u32) -> Srv {
        Srv { target: Name::from_ascii(target).unwrap(), port: 80, priority: 10, weight }
    }

    #[test]
    fn weights_are_shares_of_their_priority_and_never_zero() {
        let shares = |weights: &[u32]| {
            let list = weigh(weights.iter().enumerate().map(|(i, w)| srv(&format!("t{i}."), *w)));
            list.into_iter().map(|s| s.weight).collect::<Vec<_>>()
        };
        assert_eq!(shares(&[120, 100, 130]), [34, 28, 37]);
        assert_eq!(shares(&[130, 80, 150]), [36, 22, 41]);
        assert_eq!(shares(&[0, 0, 0]), [33, 33, 33]);
        assert_eq!(shares(&[10, 30]), [25, 75]);
        assert_eq!(shares(&[1_000_000, 1]), [99, 1]);
        assert_eq!(shares(&[u32::MAX, u32::MAX]), [50, 50]);
        assert_eq!(shares(&[0; 150]), [1; 150]);
    }

    #[test]
    fn what_repeats_counts_once() {
        let list = weigh([srv("a.", 0), srv("a.", 0), srv("b.", 0)]);
        assert_eq!(list.iter().map(|s| s.weight).collect::<Vec<_>>(), [50, 50]);
    }

    #[test]
    fn stripping_more_labels_than_there_are_cuts_nothing() {
        let name = Name::from_ascii("a.b.c.").unwrap();
        for (count, left) in [(0, "a.b.c."), (1, "b.c."), (2, "c."), (3, "a.b.c."), (9, "a.b.c."), (u32::MAX, "a.b.c.")] {
            assert_eq!(strip(&name, count).to_ascii(), left);
        }
    }

    #[test]
    fn a_host_that_is_no_name_is_none() {
        for bad in ["a b.", "a..b.", &format!("{}.", "x".repeat(64)), &format!("{}.", "a.".repeat(200)), "\u{1}."] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
        assert_eq!(host_name("_x.b-c.").unwrap().to_ascii(), "_x.b-c.");
    }
}
