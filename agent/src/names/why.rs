//! `GET /v1/dns/why`: which records, rules and services make an answer.

use weft_api::{DnsSpeaker, DnsStep, DnsWhy};
use weft_dns::{Meaning, Question, Silence, Speaker, Step, Then};
use weft_model::pool::Standing;

use super::{Names, Reach, question};
use crate::refusal::Refusal;

impl Names {
    /// Why this host's name server answers as it does.
    ///
    /// # Errors
    /// The name or the type is none, or the store has not been read yet.
    pub async fn why(&self, name: &str, kind: &str, reach: Reach) -> Result<DnsWhy, Refusal> {
        let (name, record_type) = question(name, kind)?;
        let zone = self.server.zone();
        let zone = zone.ok_or_else(|| Refusal::new(weft_api::Code::NotReady, "dns why: the store has not been read yet"))?;
        let steps = zone.why(&Question { name: name.clone(), record_type });
        let answer = self.answer(name, record_type, reach).await;
        Ok(DnsWhy { revision: zone.revision(), steps: steps.iter().map(step).collect(), answer })
    }
}

fn step(step: &Step) -> DnsStep {
    let is = match &step.is {
        Meaning::Outside => "not below the domain".to_owned(),
        Meaning::Missing => "does not exist".to_owned(),
        Meaning::Records => "the records at and below it".to_owned(),
        Meaning::Pattern => "the records at and below all names that fit".to_owned(),
        Meaning::Star => "does not exist; the star beside it answers".to_owned(),
        Meaning::Apex => "the domain itself".to_owned(),
        Meaning::Service(name) => format!("service {name}"),
        Meaning::Instances(name) => format!("the instances of service {name}"),
        Meaning::Port(name) => format!("a port of service {name}"),
        Meaning::Leader => "who leads the name above".to_owned(),
    };
    let then = match &step.then {
        Then::Nothing => "no addresses".to_owned(),
        Then::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Then::Alias(name) => format!("alias of {name}"),
        Then::Elsewhere => "reverse names of our addresses are answered here, all else by the upstream servers".to_owned(),
    };
    DnsStep { name: step.name.to_string(), is, then, records: step.records.iter().map(speaker).collect() }
}

fn speaker(speaker: &Speaker) -> DnsSpeaker {
    let standing = match speaker.standing {
        Standing::Up => "up",
        Standing::Draining => "draining",
        // Names ask nobody about connections, so none is; it is said all the same.
        Standing::Quarantined => "quarantined",
        Standing::Lost => "lost",
        Standing::Unhealthy => "unhealthy",
        Standing::Out => "down",
    };
    let why_not = speaker.speaks.err().map(|silence| match silence {
        Silence::Type => "has nothing of that type",
        Silence::Group => "is of another group",
        Silence::Turn => "others stand better",
    });
    DnsSpeaker {
        path: speaker.path.clone(),
        revision: speaker.revision,
        host: speaker.host.clone(),
        ttl: speaker.ttl,
        standing: standing.to_owned(),
        used: why_not.is_none(),
        why_not: why_not.map(ToOwned::to_owned),
    }
}
