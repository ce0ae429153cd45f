//! How many callers from elsewhere there may be: at the handshake, which anybody can begin, and beyond it, where only those come who
//! have shown a certificate. Who never ends a handshake takes the place of nobody who is served, and no address has most of the places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections served at once, over all listeners; fewer than there are places for watchers, so that this host's own find some.
const SERVED: usize = 64;

/// Connections at their handshake at once; more wait in the socket's queue.
const SHAKING: usize = 128;

/// Connections of one address at once, wherever they are.
const PER_SOURCE: usize = 32;

/// The places that there are.
#[derive(Debug)]
pub(super) struct Door {
    /// For handshakes.
    pub shaking: Arc<Semaphore>,
    /// For who has a role.
    pub served: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection of some address, for as long as it lives.
#[derive(Debug)]
pub(super) struct Visit {
    source: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Door {
    /// All places are free.
    pub fn new() -> Self {
        Self { shaking: Arc::new(Semaphore::new(SHAKING)), served: Arc::new(Semaphore::new(SERVED)), sources: Arc::default() }
    }

    /// A place for a handshake, once there is one. None is the end of the process.
    pub async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        self.shaking.clone().acquire_owned().await.ok()
    }

    /// Counts a connection; none if its address has enough of them.
    pub fn enter(&self, from: IpAddr) -> Option<Visit> {
        let source = source(from);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let there = sources.entry(source).or_default();
        if *there >= PER_SOURCE {
            return None;
        }
        *there += 1;
        Some(Visit { source, sources: self.sources.clone() })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = sources.get_mut(&self.source) {
            *there -= 1;
            if *there == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// What counts as one address: of IPv6 its first 64 bits, as the rest is a host's to choose (RFC 4862).
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_never_ends_a_handshake_takes_no_place_of_who_is_served() {
        let door = Door::new();
        let mut held = Vec::new();
        for _ in 0..SHAKING {
            held.push(door.wait().await.unwrap());
        }
        assert_eq!((door.shaking.available_permits(), door.served.available_permits()), (0, SERVED));
        held.pop();
        assert!(door.wait().await.is_some(), "and gives his own back");
    }

    #[test]
    fn an_address_has_its_share_and_gives_it_back() {
        let door = Door::new();
        let at = |text: &str| door.enter(text.parse().unwrap());
        let mut visits: Vec<Visit> = (0..PER_SOURCE).map(|_| at("192.0.2.1").unwrap()).collect();
        assert!(at("192.0.2.1").is_none() && at("::ffff:192.0.2.1").is_none(), "it is the same one");
        assert!(at("192.0.2.2").is_some());
        visits.pop();
        visits.extend(at("::ffff:192.0.2.1"));
        assert_eq!(visits.len(), PER_SOURCE);
        drop(visits);
        assert!(door.sources.lock().unwrap().is_empty(), "nothing is kept of who is gone");
        let six: Vec<Option<Visit>> = (0..=PER_SOURCE).map(|n| at(&format!("2001:db8::{n:x}"))).collect();
        assert_eq!(six.iter().flatten().count(), PER_SOURCE, "one host has many addresses of IPv6");
        assert!(at("2001:db8:0:1::1").is_some());
    }
}
