//! Counting: which backends are quarantined, given how connections went and when.
//!
//! Pure: what happened and the time come in. A backend is an address and port of one service: two services judge by
//! their own connections, each by its own policy. What is counted is forgotten as soon as the backend's record says something
//! else (its check found it well again, it was moved, it drains), for then the old experience is of something else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use weft_abi::maps::PROTO_TCP;
use weft_abi::passive::Told;
use weft_abi::{Be16, FrontendKey};
use weft_model::endpoint::EndpointState;
use weft_model::ids::{Revision, ServiceName};
use weft_model::keys::RecordPath;
use weft_model::passive::Passive;
use weft_model::record::Proto;
use weft_proxy::{Changed, Resolved, Services};

/// A backend of a service.
pub type Suspect = (ServiceName, SocketAddr);

/// Who is quarantined, and a sentence why.
pub type Seen = BTreeMap<Suspect, String>;

/// A backend comes into quarantine or leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It comes in.
    Quarantined {
        /// Its service.
        service: ServiceName,
        /// Which one.
        backend: SocketAddr,
        /// A sentence.
        why: String,
    },
    /// It leaves.
    Lifted {
        /// Its service.
        service: ServiceName,
        /// Which one.
        backend: SocketAddr,
        /// A sentence.
        why: &'static str,
    },
}

/// What came of one report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether it was of a failed connection to a backend that is watched.
    pub is_failure: bool,
    /// What has changed by it.
    pub news: Option<News>,
}

/// What is known of the connections of this host.
#[derive(Debug, Default)]
pub struct Judge {
    services: BTreeMap<ServiceName, Followed>,
    by_frontend: BTreeMap<FrontendKey, ServiceName>,
    held: BTreeMap<Suspect, Held>,
}

/// A service whose connections are watched.
#[derive(Debug)]
struct Followed {
    policy: Passive,
    frontends: Vec<FrontendKey>,
    backends: BTreeMap<SocketAddr, Backend>,
}

#[derive(Debug)]
struct Backend {
    mark: Mark,
    /// When the last connections failed, with none after them that succeeded; at most as many as the policy counts.
    failed: VecDeque<Instant>,
}

/// What a record said. Another one is another backend.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    path: RecordPath,
    modified: Revision,
    state: EndpointState,
    unhealthy: bool,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    why: String,
}

impl Judge {
    /// Whether any service asks for it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.services.is_empty()
    }

    /// The frontends whose connections are watched.
    #[must_use]
    pub fn frontends(&self) -> BTreeSet<FrontendKey> {
        self.by_frontend.keys().copied().collect()
    }

    /// Who is quarantined.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.held.iter().map(|(suspect, held)| (suspect.clone(), held.why.clone())).collect()
    }

    /// Follows services that stand for other things than before.
    pub fn follow(&mut self, changed: &Changed, services: &Services) -> Vec<News> {
        let names: BTreeSet<ServiceName> = match changed {
            Changed::Some(names) => {
                names.iter().filter(|name| self.services.contains_key(*name) || asks(services.get(*name))).cloned().collect()
            }
            Changed::All => {
                let asking = services.iter().filter(|(_, resolved)| asks(Some(resolved))).map(|(name, _)| name);
                asking.chain(self.services.keys()).cloned().collect()
            }
        };
        names.into_iter().flat_map(|name| self.follow_one(&name, services.get(&name))).collect()
    }

    fn follow_one(&mut self, name: &ServiceName, resolved: Option<&Resolved>) -> Vec<News> {
        let mut before = self.services.remove(name);
        for key in before.iter().flat_map(|followed| &followed.frontends) {
            // A virtual IP may have passed to another service that was followed before this one.
            if self.by_frontend.get(key) == Some(name) {
                self.by_frontend.remove(key);
            }
        }
        let now = resolved.and_then(Followed::of);
        let mut unchanged = BTreeSet::new();
        if let Some(mut now) = now {
            if let Some(before) = before.as_mut().filter(|before| before.policy == now.policy) {
                for (place, backend) in &mut now.backends {
                    if let Some(there) = before.backends.remove(place).filter(|there| there.mark == backend.mark) {
                        backend.failed = there.failed;
                        unchanged.insert(*place);
                    }
                }
            }
            self.by_frontend.extend(now.frontends.iter().map(|key| (*key, name.clone())));
            self.services.insert(name.clone(), now);
        }
        let gone = |(service, place): &Suspect| service == name && !unchanged.contains(place);
        let gone: Vec<Suspect> = self.held.keys().filter(|suspect| gone(suspect)).cloned().collect();
        gone.into_iter().filter_map(|suspect| self.lift(suspect, "its record or the service says something else now")).collect()
    }

    /// One connection went so. `clock` is the same moment as `now`, for people.
    pub fn note(&mut self, told: &Told, now: Instant, clock: SystemTime) -> Heard {
        let place = SocketAddr::from((Ipv4Addr::from(told.pair.addr), told.pair.port.to_native()));
        let Some(name) = self.by_frontend.get(&told.pair.frontend) else { return Heard::default() };
        let Some(followed) = self.services.get_mut(name) else { return Heard::default() };
        let Some(backend) = followed.backends.get_mut(&place) else { return Heard::default() };
        let suspect = (name.clone(), place);
        if told.outcome == Told::ESTABLISHED {
            backend.failed.clear();
            return Heard { is_failure: false, news: self.lift(suspect, "a connection succeeded") };
        }
        let policy = followed.policy;
        let counted = usize::try_from(policy.failures).unwrap_or(usize::MAX);
        backend.failed.push_back(now);
        while backend.failed.len() > counted {
            backend.failed.pop_front();
        }
        let within = Duration::from_millis(policy.within_ms);
        let is_over =
            backend.failed.len() == counted && backend.failed.front().is_some_and(|first| now.duration_since(*first) <= within);
        if !is_over || self.held.contains_key(&suspect) {
            return Heard { is_failure: true, news: None };
        }
        backend.failed.clear();
        let time = Duration::from_millis(policy.for_ms);
        let how = if told.outcome == Told::REFUSED { "refused" } else { "not answered" };
        let until = humantime::format_rfc3339_seconds(clock + time);
        let why = match policy.failures {
            1 => format!("a connection from here failed ({how}); others are asked first until {until}"),
            n => format!("{n} connections from here failed in a row (the last: {how}); others are asked first until {until}"),
        };
        self.held.insert(suspect.clone(), Held { until: now + time, why: why.clone() });
        let (service, backend) = suspect;
        Heard { is_failure: true, news: Some(News::Quarantined { service, backend, why }) }
    }

    /// Ends what has lasted long enough.
    pub fn lapse(&mut self, now: Instant) -> Vec<News> {
        let over: Vec<Suspect> =
            self.held.iter().filter(|(_, held)| held.until <= now).map(|(suspect, _)| suspect.clone()).collect();
        over.into_iter().filter_map(|suspect| self.lift(suspect, "its time is over")).collect()
    }

    fn lift(&mut self, suspect: Suspect, why: &'static str) -> Option<News> {
        self.held.remove(&suspect)?;
        let (service, backend) = suspect;
        Some(News::Lifted { service, backend, why })
    }
}

fn asks(resolved: Option<&Resolved>) -> bool {
    resolved.is_some_and(|resolved| resolved.passive.is_some())
}

impl Followed {
    /// What is to be watched of a service, if anything is. Sockets are translated over IPv4 alone.
    fn of(resolved: &Resolved) -> Option<Self> {
        let policy = resolved.passive?;
        let mut followed = Self { policy, frontends: Vec::new(), backends: BTreeMap::new() };
        for frontend in resolved.frontends.iter().filter(|f| f.port.proto == Proto::Tcp) {
            for vip in &resolved.vips {
                if let IpAddr::V4(vip) = *vip {
                    let port = Be16::from_native(frontend.port.port);
                    followed.frontends.push(FrontendKey { vip: vip.into(), port, proto: PROTO_TCP, pad: 0 });
                }
            }
            for backend in frontend.backends.iter().filter(|b| b.address.is_ipv4()) {
                let (path, modified) = (backend.path().clone(), backend.endpoint.modified);
                let mark = Mark { path, modified, state: backend.state(), unhealthy: backend.endpoint.unhealthy };
                let place = SocketAddr::new(backend.address, backend.port);
                followed.backends.insert(place, Backend { mark, failed: VecDeque::new() });
            }
        }
        (!followed.frontends.is_empty()).then_some(followed)
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
