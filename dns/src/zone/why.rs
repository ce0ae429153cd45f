//! Why a question is answered as it is: every name on the way, what it stands for, and which of its records speak.
//!
//! Goes the way of [`Zone::answer`] and asks the same functions; nothing is decided here.

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use weft_model::ids::{Revision, ServiceName};
use weft_model::keys::RecordPath;
use weft_model::pool::Standing;

use super::basis::Basis;
use super::row::{Host, Row, grouped, in_turn};
use super::subject::{Hosts, Subject, is_wildcard};
use super::{MAX_CHAIN, Question, Zone, tree};

/// A name on the way to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name, lower case.
    pub name: Name,
    /// What it stands for.
    pub is: Meaning,
    /// The records that it stands for, by key.
    pub records: Vec<Speaker>,
    /// Where its addresses are.
    pub then: Then,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is not below the domain; the reverse names of our addresses are ours all the same.
    Outside,
    /// It does not exist.
    Missing,
    /// The records at and below it.
    Records,
    /// The records at and below all names that fit it.
    Pattern,
    /// The records of the star beside which it does not exist.
    Star,
    /// The domain itself.
    Apex,
    /// A declared service.
    Service(ServiceName),
    /// The instances of a service.
    Instances(ServiceName),
    /// A port of a service.
    Port(ServiceName),
    /// Who leads the service or name above it.
    Leader,
}

/// Where a name's addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nowhere.
    Nothing,
    /// Here.
    Addresses(Vec<IpAddr>),
    /// At another name.
    Alias(Name),
    /// Others are asked, or a stored or a made reverse name says it.
    Elsewhere,
}

/// A record that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Its path below the DNS prefix.
    pub path: String,
    /// When it was last written, if it is still there.
    pub revision: Option<Revision>,
    /// What it points to; empty if nothing.
    pub host: String,
    /// Seconds.
    pub ttl: u32,
    /// How its endpoint stands among its siblings.
    pub standing: Standing,
    /// Whether it speaks, or why not.
    pub speaks: Result<(), Silence>,
}

/// Why a record does not speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It has nothing of the type that is asked for.
    Type,
    /// It is of another group than the one that counts.
    Group,
    /// It is the turn of others, that stand better.
    Turn,
}

impl Zone {
    /// The names on the way to the answer, the question's first.
    #[must_use]
    pub fn why(&self, question: &Question) -> Vec<Step> {
        let basis = Basis::default();
        let mut at = question.name.to_lowercase();
        let mut steps: Vec<Step> = Vec::new();
        loop {
            if !self.contains(&at) {
                steps.push(Step { name: at, is: Meaning::Outside, records: Vec::new(), then: Then::Elsewhere });
                return steps;
            }
            let subject = self.subject(&at, &basis);
            let then = match self.hosts(&subject, &at, &basis) {
                Hosts::None => Then::Nothing,
                Hosts::Addresses(addresses, _) => Then::Addresses(addresses),
                Hosts::Alias(name, _) => Then::Alias(name),
            };
            let next = match &then {
                Then::Alias(name) => Some(name.clone()),
                Then::Nothing | Then::Addresses(_) | Then::Elsewhere => None,
            };
            let records = self.speakers(&subject, &at, question.record_type);
            steps.push(Step { is: self.meaning(&subject, &at), name: at, records, then });
            match next.filter(|next| steps.len() <= MAX_CHAIN && steps.iter().all(|step| step.name != *next)) {
                Some(next) => at = next,
                None => return steps,
            }
        }
    }

    fn meaning(&self, subject: &Subject<'_>, at: &Name) -> Meaning {
        match subject {
            Subject::Missing => Meaning::Missing,
            Subject::Apex(_) => Meaning::Apex,
            Subject::Service(service) => Meaning::Service(service.name.clone()),
            Subject::Tasks(service) => Meaning::Instances(service.name.clone()),
            Subject::Port(service, ..) => Meaning::Port(service.name.clone()),
            Subject::Leader(_) => Meaning::Leader,
            Subject::Rows(_) if at.iter().any(is_wildcard) => Meaning::Pattern,
            Subject::Rows(rows) => {
                let mut key = tree::Key::new();
                let is_key = at.iter().rev().all(|label| tree::push(&mut key, label));
                let by_star = rows.first().is_some_and(|row| tree::labels(&row.key).any(|label| label == b"*"));
                if is_key && by_star && !self.tree.exists(&key) { Meaning::Star } else { Meaning::Records }
            }
        }
    }

    fn speakers(&self, subject: &Subject<'_>, at: &Name, record_type: RecordType) -> Vec<Speaker> {
        let rows: Vec<&Row> = match (record_type, subject) {
            (_, Subject::Missing) => Vec::new(),
            (RecordType::TXT | RecordType::MX, subject) => Self::texts(subject),
            (_, Subject::Service(service) | Subject::Tasks(service)) => service.instances.iter().map(|row| &**row).collect(),
            (_, Subject::Port(_, port, _)) => port.backends.iter().map(|(row, _)| &**row).collect(),
            (_, Subject::Rows(rows) | Subject::Apex(rows) | Subject::Leader(rows)) => rows.clone(),
        };
        let says = |row: &&Row| match record_type {
            RecordType::TXT => row.text.is_some(),
            RecordType::MX => row.mail && row.has_host(),
            RecordType::SRV => row.has_host(),
            RecordType::A | RecordType::AAAA | RecordType::CNAME => match &row.host {
                Host::Address(_) => true,
                Host::Name(name) => !at.zone_of(name),
                Host::None => false,
            },
            _ => false,
        };
        let set = |rows: &[&Row]| -> HashSet<*const Row> { rows.iter().map(|row| std::ptr::from_ref(*row)).collect() };
        let mut chosen = grouped(rows.clone());
        let in_group = set(&chosen);
        chosen.retain(says);
        in_turn(&mut chosen, subject.panic());
        let chosen = set(&chosen);
        let speaks = |row: &&Row| {
            let place = std::ptr::from_ref(*row);
            if chosen.contains(&place) {
                Ok(())
            } else if !in_group.contains(&place) {
                Err(Silence::Group)
            } else if says(row) {
                Err(Silence::Turn)
            } else {
                Err(Silence::Type)
            }
        };
        rows.iter().map(|row| self.speaker(row, speaks(row))).collect()
    }

    fn speaker(&self, row: &Row, speaks: Result<(), Silence>) -> Speaker {
        // One of several at a name bears its own path (`tree::Tree::put`).
        let variant = row.key.windows(2).position(|pair| pair == [0, 0]).and_then(|at| row.key.get(at + 2..));
        let labels = || tree::labels(&row.key).map(String::from_utf8_lossy).collect::<Vec<_>>().join("/");
        let path = variant.map_or_else(labels, |path| String::from_utf8_lossy(path).into_owned());
        let stored = self.snapshot.record_anywhere(&RecordPath::from_labels(path.split('/')));
        let host = match &row.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.to_string(),
            Host::None => String::new(),
        };
        let revision = stored.map(|stored| stored.modified);
        Speaker { path, revision, host, ttl: row.ttl, standing: row.standing, speaks }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::keys::Layout;
    use weft_model::snapshot::Snapshot;
    use weft_model::stored::Entry;

    use super::*;

    fn zone() -> Zone {
        let entries = [
            ("/weft/v1/services/default/web", r#"{"ports":[{"port":80}]}"#),
            ("/skydns/local/skydns/web/a/4", r#"{"host":"10.0.0.1","weft":{"id":"a","node":"h1"}}"#),
            ("/skydns/local/skydns/web/b/4", r#"{"host":"10.0.0.2","weft":{"id":"b","node":"h1","state":"draining"}}"#),
            ("/skydns/local/skydns/web/t", r#"{"text":"x"}"#),
            ("/skydns/local/skydns/www", r#"{"host":"web.skydns.local"}"#),
            ("/skydns/local/skydns/St/*", r#"{"host":"10.0.0.3"}"#),
        ];
        let entry = |(number, (key, value)): (i64, (&str, &str))| {
            let at = Revision(number);
            Entry { key: key.into(), value: value.into(), lease: None, created: at, modified: at }
        };
        let entries = (1..).zip(entries).map(entry).collect();
        Zone::from_snapshot(&Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries, None))
    }

    fn why(name: &str, record_type: RecordType) -> Vec<Step> {
        zone().why(&Question { name: Name::from_ascii(name).unwrap(), record_type })
    }

    #[test]
    fn each_name_on_the_way_says_what_it_is_and_each_record_why_it_is_silent() {
        let steps = why("WWW.skydns.local.", RecordType::A);
        let [www, web] = &*steps else { panic!("{steps:?}") };
        assert_eq!((&www.is, &www.then), (&Meaning::Records, &Then::Alias(web.name.clone())));
        assert_eq!(
            www.records.iter().map(|r| (r.path.as_str(), r.revision)).collect::<Vec<_>>(),
            [("local/skydns/www", Some(Revision(5)))]
        );
        assert_eq!(web.is, Meaning::Service("web".parse().unwrap()));
        assert_eq!(web.then, Then::Addresses(vec!["10.0.0.1".parse().unwrap()]));
        let said: Vec<_> = web.records.iter().map(|r| (r.host.as_str(), r.speaks)).collect();
        assert_eq!(said, [("10.0.0.1", Ok(())), ("10.0.0.2", Err(Silence::Turn)), ("", Err(Silence::Type))]);
    }

    #[test]
    fn what_is_not_stored_under_its_name_is_told_too() {
        let star = &why("x.st.skydns.local.", RecordType::A)[0];
        assert_eq!((&star.is, star.records[0].path.as_str()), (&Meaning::Star, "local/skydns/St/*"));
        assert_eq!(star.records[0].revision, Some(Revision(6)));
        let is = |name: &str| why(name, RecordType::A).pop().unwrap().is;
        assert_eq!(is("nothing.skydns.local."), Meaning::Missing);
        assert_eq!(is("*.web.skydns.local."), Meaning::Pattern);
        assert_eq!(is("skydns.local."), Meaning::Apex);
        assert_eq!(is("tasks.web.skydns.local."), Meaning::Instances("web".parse().unwrap()));
        assert_eq!(is("leader.web.skydns.local."), Meaning::Leader);
        assert_eq!(is("example.com."), Meaning::Outside);
    }
}
