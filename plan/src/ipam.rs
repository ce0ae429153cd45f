//! Which subnet a host takes, and which address a container. The caller says what is taken; the store's transaction decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use weft_model::network::{NetworkConfig, V6Range};

/// Among how many free subnets one is drawn, as flannel does (its `etcdv2/local_manager.go`): few enough to keep subnets
/// together, enough that hosts which start at once seldom want the same one.
const DRAWN_FROM: usize = 100;

/// Every subnet is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    network: Ipv4Net,
    subnet_len: u8,
    capacity: u32,
    key: Option<String>,
}

impl Full {
    /// Says in which key of the store `Network` stands.
    #[must_use]
    pub fn stored_at(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, subnet_len, capacity, key } = self;
        let key = key.as_deref().unwrap_or("the network's configuration");
        write!(f, "{network} has no free /{subnet_len} ({capacity} of {capacity} taken); widen Network in {key}")
    }
}

impl std::error::Error for Full {}

/// Chooses a subnet: `preferred` if it is one that `config` gives and nobody has it, else one of the first hundred free ones,
/// drawn by `seed`. A block counts as taken if any of `taken` overlaps it, whatever its length.
///
/// # Errors
/// When none is free.
pub fn choose_subnet(
    config: &NetworkConfig,
    taken: impl IntoIterator<Item = Ipv4Net>,
    preferred: Option<Ipv4Net>,
    seed: u64,
) -> Result<Ipv4Net, Full> {
    let mut taken: Vec<(Ipv4Addr, Ipv4Addr)> = taken.into_iter().map(|net| (net.network(), net.broadcast())).collect();
    taken.sort_unstable();
    if let Some(preferred) = preferred.map(|p| p.trunc()).filter(|p| config.could_give(*p)) {
        let overlaps = |(first, last): &(Ipv4Addr, Ipv4Addr)| *first <= preferred.broadcast() && preferred.network() <= *last;
        if !taken.iter().any(overlaps) {
            return Ok(preferred);
        }
    }
    // Both lists ascend, so each is walked once: what ends before a block ends before all later ones. A range that holds
    // others ends last, hence the farthest end seen.
    let mut ranges = taken.into_iter().peekable();
    let mut farthest: Option<Ipv4Addr> = None;
    let is_free = |block: &Ipv4Net| {
        while let Some((_, last)) = ranges.next_if(|(first, _)| *first <= block.broadcast()) {
            farthest = farthest.max(Some(last));
        }
        farthest.is_none_or(|last| last < block.network())
    };
    let free: Vec<Ipv4Net> = config.subnets().filter(is_free).take(DRAWN_FROM).collect();
    let full = || Full { network: config.network, subnet_len: config.subnet_len, capacity: config.capacity(), key: None };
    let count = u64::try_from(free.len()).unwrap_or(u64::MAX);
    let drawn = mixed(seed).checked_rem(count).and_then(|n| usize::try_from(n).ok());
    drawn.and_then(|n| free.get(n).copied()).ok_or_else(full)
}

/// Whether `subnet` is one that `config` gives, and overlaps none of `taken`.
#[must_use]
pub fn is_free(config: &NetworkConfig, taken: &[Ipv4Net], subnet: Ipv4Net) -> bool {
    config.could_give(subnet) && !taken.iter().any(|other| other.contains(&subnet) || subnet.contains(other))
}

/// Spreads the bits of a seed over all of it (the finaliser of SplitMix64), so that a remainder depends on each.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The address of the VXLAN device: the subnet's first, which is also its network address.
#[must_use]
pub fn device_address(subnet: Ipv4Net) -> Ipv4Addr {
    subnet.network()
}

/// The gateway of a subnet's containers: the address after the VXLAN device's.
#[must_use]
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// The same of an IPv6 subnet.
#[must_use]
pub fn device_address6(subnet: Ipv6Net) -> Ipv6Addr {
    subnet.network()
}

/// The address of this host in its IPv6 subnet, the one after the VXLAN device's: it answers for names. The gateway is
/// [`LINK_GATEWAY`].
#[must_use]
pub fn gateway6(subnet: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(subnet.network()).saturating_add(1))
}

/// The IPv6 gateway of all containers.
pub const LINK_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The IPv6 address of the container that has `address` of `subnet`: the same place in `subnet6`, so that it is as free as
/// the other one is, and easy to tell (10.244.3.5 has fd00:10:244:3::5). None if `subnet6` has no such place.
#[must_use]
pub fn address6(address: Ipv4Addr, subnet: Ipv4Net, subnet6: Ipv6Net) -> Option<Ipv6Addr> {
    let place = u32::from(address).checked_sub(u32::from(subnet.network())).filter(|_| subnet.contains(&address))?;
    let found = Ipv6Addr::from(u128::from(subnet6.network()).checked_add(u128::from(place))?);
    subnet6.contains(&found).then_some(found)
}

/// The IPv6 subnet to go with `subnet`: `preferred` if `range` gives it and nobody has it; else the n-th for the n-th IPv4
/// subnet, so that hosts which race for one race for the other; else the first free one from a place that `seed` says, since
/// hosts that choose at once do not see each other's choice. None if all are taken.
#[must_use]
pub fn choose_subnet6(
    range: &V6Range,
    config: &NetworkConfig,
    subnet: Ipv4Net,
    taken: impl IntoIterator<Item = Ipv6Net>,
    preferred: Option<Ipv6Net>,
    seed: u64,
) -> Option<Ipv6Net> {
    let mut taken: Vec<(u128, u128)> = taken.into_iter().map(|net| (net.network().into(), net.broadcast().into())).collect();
    taken.sort_unstable();
    let is_free = |block: &Ipv6Net| {
        let (first, last) = (u128::from(block.network()), u128::from(block.broadcast()));
        !taken.iter().any(|(from, to)| *from <= last && first <= *to)
    };
    let preferred = preferred.map(|p| p.trunc()).filter(|p| range.could_give(*p)).filter(is_free);
    let beside = || {
        let n = u32::from(subnet.network()).checked_sub(u32::from(config.subnet_min))? / config.subnet_size();
        range.nth(n.into()).filter(is_free)
    };
    // There may be more subnets than can be looked at one by one, so what is taken is stepped over.
    let first_free = |from: u128| {
        let mut n = from;
        for (from, to) in &taken {
            let block = range.nth(n)?;
            if *from > u128::from(block.broadcast()) {
                break;
            }
            if let Some(behind) = to.checked_sub(range.subnet_min.into()) {
                n = n.max(behind / range.subnet_size() + 1);
            }
        }
        range.nth(n)
    };
    let start = u128::from(mixed(seed)).checked_rem(range.capacity()).unwrap_or(0);
    preferred.or_else(beside).or_else(|| first_free(start)).or_else(|| first_free(0))
}

/// The addresses of a subnet that containers may have, lowest first: all but the VXLAN device's, the gateway and the last.
pub fn container_addresses(subnet: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(subnet.network()).saturating_add(2);
    let last = u32::from(subnet.broadcast());
    (first..last).map(Ipv4Addr::from)
}

/// Every address is in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subnet} has no free address ({capacity} of {capacity} in use); detach containers that are no longer needed")]
pub struct NoAddress {
    subnet: Ipv4Net,
    capacity: usize,
}

/// Chooses a container's address: one never used before, lowest first; if there is none, the one released longest ago, so
/// that a late packet or a cached answer for a former container seldom meets its successor.
///
/// # Errors
/// When none is free.
pub fn choose_address<T: Ord>(
    subnet: Ipv4Net,
    in_use: &BTreeSet<Ipv4Addr>,
    last_used: &BTreeMap<Ipv4Addr, T>,
) -> Result<Ipv4Addr, NoAddress> {
    let mut oldest: Option<(&T, Ipv4Addr)> = None;
    for address in container_addresses(subnet).filter(|address| !in_use.contains(address)) {
        let Some(when) = last_used.get(&address) else { return Ok(address) };
        if oldest.is_none_or(|(than, _)| when < than) {
            oldest = Some((when, address));
        }
    }
    let none = || NoAddress { subnet, capacity: container_addresses(subnet).count() };
    oldest.map(|(_, address)| address).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_model::network::Backend;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn config(network: &str, len: u8) -> NetworkConfig {
        NetworkConfig::new(net(network), len, None, None, Backend::default()).unwrap()
    }

    #[test]
    fn the_preferred_subnet_is_taken_if_it_is_free_and_could_be_given() {
        let c = config("10.244.0.0/16", 24);
        let choose = |taken: &[&str], preferred: &str| choose_subnet(&c, taken.iter().map(|t| net(t)), Some(net(preferred)), 7);
        assert_eq!(choose(&["10.244.1.0/24"], "10.244.9.0/24"), Ok(net("10.244.9.0/24")));
        for (taken, preferred) in [
            ("10.244.9.0/24", "10.244.9.0/24"),
            ("10.244.9.128/25", "10.244.9.0/24"),
            ("10.244.8.0/22", "10.244.9.0/24"),
            ("10.1.0.0/24", "10.244.0.0/24"),
            ("10.1.0.0/24", "10.244.9.0/25"),
            ("10.1.0.0/24", "10.99.0.0/24"),
        ] {
            let got = choose(&[taken], preferred).unwrap();
            assert_ne!(got, net(preferred));
            assert!(c.could_give(got), "{got}");
        }
    }

    #[test]
    fn hosts_that_start_together_spread() {
        let c = config("10.244.0.0/16", 24);
        let chosen: BTreeSet<_> = (0..50u64).map(|seed| choose_subnet(&c, [], None, seed).unwrap()).collect();
        assert!(chosen.len() > 30, "50 hosts chose {} different subnets", chosen.len());
        assert!(chosen.iter().all(|s| *s <= net("10.244.100.0/24")), "beyond the first hundred: {chosen:?}");
    }

    #[test]
    fn a_full_network_is_said_to_be_full() {
        let c = config("10.244.0.0/22", 24);
        let taken = ["10.244.1.0/24", "10.244.2.0/23"].map(net);
        let full = choose_subnet(&c, taken, None, 1).unwrap_err();
        assert_eq!(
            full.clone().stored_at("/coreos.com/network/config").to_string(),
            "10.244.0.0/22 has no free /24 (3 of 3 taken); widen Network in /coreos.com/network/config"
        );
        assert!(full.to_string().ends_with("widen Network in the network's configuration"));
    }

    proptest! {
        #[test]
        fn a_chosen_subnet_overlaps_none_and_the_last_free_one_is_found(
            taken in prop::collection::vec((0..64u32, 22..=28u8), 0..40), seed: u64,
        ) {
            let c = config("10.244.0.0/20", 24);
            let taken: Vec<Ipv4Net> = taken
                .into_iter()
                .map(|(n, len)| Ipv4Net::new(Ipv4Addr::from(0x0af4_0000 + n * 64), len).unwrap().trunc())
                .collect();
            let clear = |s: &Ipv4Net| !taken.iter().any(|t| t.contains(s) || s.contains(t));
            match choose_subnet(&c, taken.iter().copied(), None, seed) {
                Ok(subnet) => prop_assert!(c.could_give(subnet) && clear(&subnet), "{subnet}"),
                Err(_) => prop_assert!(!c.subnets().any(|s| clear(&s))),
            }
        }
    }

    /// A seed that [`mixed`] makes 0 of.
    const FROM_THE_FIRST: u64 = 0x61c8_8646_80b5_83eb;

    fn range(network: &str, len: u8) -> V6Range {
        V6Range::new(network.parse().unwrap(), len, None, None).unwrap()
    }

    #[test]
    fn the_ipv6_subnet_is_the_one_beside_the_ipv4_subnet_while_it_is_free() {
        let (c, r) = (config("10.244.0.0/16", 24), range("fd00:10:244::/48", 64));
        let choose = |taken: &[&str], preferred: Option<&str>| {
            let taken: Vec<Ipv6Net> = taken.iter().map(|t| t.parse().unwrap()).collect();
            let preferred = preferred.map(|p| p.parse().unwrap());
            choose_subnet6(&r, &c, net("10.244.3.0/24"), taken, preferred, FROM_THE_FIRST).unwrap().to_string()
        };
        assert_eq!(choose(&[], None), "fd00:10:244:3::/64");
        assert_eq!(choose(&[], Some("fd00:10:244:9::/64")), "fd00:10:244:9::/64");
        assert_eq!(choose(&["fd00:10:244:9::/64"], Some("fd00:10:244:9::/64")), "fd00:10:244:3::/64");
        assert_eq!(choose(&["fd00:10:244:3::/64"], None), "fd00:10:244:1::/64");
        assert_eq!(choose(&["fd00:10:244:3:8000::/65", "fd00:10:244::/63"], None), "fd00:10:244:2::/64");
        assert_eq!(choose(&["fd00:10:244::/50"], Some("fd99::/64")), "fd00:10:244:4000::/64");
        // A subnet that the range no longer gives has no number.
        let outside = choose_subnet6(&r, &c, net("10.243.3.0/24"), [], None, FROM_THE_FIRST).unwrap();
        assert_eq!(outside.to_string(), "fd00:10:244:1::/64");
    }

    #[test]
    fn hosts_that_look_for_another_ipv6_subnet_at_once_spread() {
        let (c, r) = (config("10.244.0.0/16", 24), range("fd00:10:244::/48", 64));
        let taken = || ["fd00:10:244:3::/64".parse().unwrap()];
        let choose = |seed| choose_subnet6(&r, &c, net("10.244.3.0/24"), taken(), None, seed).unwrap();
        let chosen: BTreeSet<_> = (0..50u64).map(choose).collect();
        assert!(chosen.len() > 45, "50 hosts chose {} different subnets", chosen.len());
    }

    proptest! {
        #[test]
        fn a_chosen_ipv6_subnet_overlaps_none_and_the_last_free_one_is_found(
            taken in prop::collection::vec((0..64u128, 118..=124u8), 0..40), n in 0..16u8, seed: u64,
        ) {
            let (c, r) = (config("10.244.0.0/20", 24), range("fd00::/116", 120));
            let first = u128::from(r.network.network());
            let taken: Vec<Ipv6Net> = taken
                .into_iter()
                .map(|(n, len)| Ipv6Net::new(Ipv6Addr::from(first + n * 64), len).unwrap().trunc())
                .collect();
            let clear = |s: &Ipv6Net| !taken.iter().any(|t| t.contains(s) || s.contains(t));
            match choose_subnet6(&r, &c, net(&format!("10.244.{n}.0/24")), taken.iter().copied(), None, seed) {
                Some(subnet) => prop_assert!(r.could_give(subnet) && clear(&subnet), "{subnet}"),
                None => prop_assert!(!r.subnets().any(|s| clear(&s))),
            }
        }
    }

    #[test]
    fn a_container_has_the_same_place_in_both_subnets() {
        let at = |address: &str, len: &str| {
            address6(address.parse().unwrap(), net("10.244.3.0/24"), len.parse().unwrap()).map(|a| a.to_string())
        };
        assert_eq!(at("10.244.3.5", "fd00:10:244:3::/64").as_deref(), Some("fd00:10:244:3::5"));
        assert_eq!(at("10.244.3.254", "fd00::/120").as_deref(), Some("fd00::fe"));
        assert_eq!(at("10.244.3.5", "fd00::/126"), None);
        assert_eq!(at("10.244.4.5", "fd00::/64"), None);
        assert_eq!(
            (gateway6("fd00::/64".parse().unwrap()), device_address6("fd00::/64".parse().unwrap())),
            ("fd00::1".parse().unwrap(), "fd00::".parse().unwrap())
        );
    }

    #[test]
    fn reserved_addresses_are_never_given_out() {
        let subnet = net("10.244.3.0/24");
        let all: Vec<_> = container_addresses(subnet).collect();
        assert_eq!(all.len(), 253);
        assert_eq!((all[0], all[252]), (Ipv4Addr::new(10, 244, 3, 2), Ipv4Addr::new(10, 244, 3, 254)));
        assert_eq!((device_address(subnet), gateway(subnet)), (Ipv4Addr::new(10, 244, 3, 0), Ipv4Addr::new(10, 244, 3, 1)));
        assert_eq!(container_addresses(net("10.0.0.0/30")).count(), 1);
        assert_eq!(container_addresses(net("10.0.0.0/31")).count(), 0);
        assert_eq!(container_addresses(net("255.255.255.255/32")).count(), 0);
    }

    #[test]
    fn addresses_come_back_least_recently_used_first() {
        let subnet = net("10.0.0.0/29");
        let at = |n: u8| Ipv4Addr::new(10, 0, 0, n);
        let mut in_use = BTreeSet::new();
        let mut last_used = BTreeMap::new();
        for n in 2..=6 {
            let got = choose_address(subnet, &in_use, &last_used).unwrap();
            assert_eq!(got, at(n));
            in_use.insert(got);
        }
        let full = choose_address(subnet, &in_use, &last_used).unwrap_err();
        assert_eq!(
            full.to_string(),
            "10.0.0.0/29 has no free address (5 of 5 in use); detach containers that are no longer needed"
        );
        for (when, n) in [(1u64, 4), (2, 3), (2, 2), (9, 5)] {
            in_use.remove(&at(n));
            last_used.insert(at(n), when);
        }
        for n in [4, 2, 3, 5] {
            let got = choose_address(subnet, &in_use, &last_used).unwrap();
            assert_eq!(got, at(n));
            in_use.insert(got);
        }
        in_use.clear();
        assert_eq!(choose_address(subnet, &in_use, &last_used), Ok(at(6)), "one never used comes before any used");
    }
}
