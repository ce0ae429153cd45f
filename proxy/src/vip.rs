//! The virtual IP of a new service.
//!
//! The choice begins at a place that the name gives, so that a service that is made anew mostly gets the address it had, and
//! two hosts that create different services at once seldom try for the same one. Who really gets it is decided by the
//! transaction that writes `<weft-prefix>/vips/<address>`; the loser chooses again.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weft_model::hash::fnv1a;
use weft_model::ids::ServiceName;

/// A range that has nothing left to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cidr} has no free virtual IP ({capacity} of {capacity} taken); add a range to service_cidrs with netctl config set")]
pub struct Full {
    /// The range.
    pub cidr: Ipv4Net,
    /// How many virtual IPs it has, all of them taken.
    pub capacity: u64,
}

/// How many virtual IPs `cidr` can give: all its addresses but the network's, the first and the broadcast address.
#[must_use]
pub fn capacity(cidr: Ipv4Net) -> u64 {
    (1_u64 << (32 - cidr.prefix_len())).saturating_sub(3)
}

/// A free address of `cidr` for `service`: the one that its name points at, or the next free one after it.
///
/// # Errors
/// [`Full`] when `taken` holds for every address that may be given.
pub fn choose_vip(cidr: Ipv4Net, taken: impl Fn(Ipv4Addr) -> bool, service: &ServiceName) -> Result<Ipv4Addr, Full> {
    let capacity = capacity(cidr);
    let first = u64::from(u32::from(cidr.network())) + 2;
    let start = if capacity == 0 { 0 } else { hash(service) % capacity };
    (0..capacity)
        .map(|step| first + (start + step) % capacity)
        .filter_map(|at| u32::try_from(at).ok())
        .map(Ipv4Addr::from)
        .find(|at| !taken(*at))
        .ok_or(Full { cidr, capacity })
}

fn hash(service: &ServiceName) -> u64 {
    let hash = fnv1a(service.to_string().bytes());
    // The low bits of FNV-1a mix badly for names that differ in their last letter only.
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_name_gets_the_same_address_and_it_is_pinned_down_for_all_versions() {
        let at = |s: &str| choose_vip(net("10.112.0.0/16"), |_| false, &name(s)).unwrap();
        assert_eq!(at("myapp"), at("default/myapp"));
        assert_ne!(at("myapp"), at("prod/myapp"));
        assert_eq!(at("myapp"), Ipv4Addr::new(10, 112, 241, 138));
    }

    #[test]
    fn every_address_but_the_network_the_first_and_the_broadcast_address_is_given_once() {
        for cidr in ["10.0.0.0/30", "10.0.0.8/29", "255.255.255.248/29", "0.0.0.0/29", "10.9.0.0/24"] {
            let cidr = net(cidr);
            let mut taken = BTreeSet::new();
            while let Ok(vip) = choose_vip(cidr, |a| taken.contains(&a), &name("myapp")) {
                assert!(taken.insert(vip));
            }
            let all: BTreeSet<_> = (u32::from(cidr.network())..=u32::from(cidr.broadcast())).map(Ipv4Addr::from).collect();
            let first = Ipv4Addr::from(u32::from(cidr.network()) + 1);
            let never = [cidr.network(), first, cidr.broadcast()];
            assert_eq!(all.difference(&taken).copied().collect::<Vec<_>>(), never, "{cidr}");
        }
    }

    #[test]
    fn a_full_range_says_how_many_it_had_and_what_to_do() {
        let err = choose_vip(net("10.112.0.0/16"), |_| true, &name("myapp")).unwrap_err();
        assert_eq!(
            err.to_string(),
            "10.112.0.0/16 has no free virtual IP (65533 of 65533 taken); add a range to service_cidrs with netctl config set"
        );
        assert_eq!(choose_vip(net("10.0.0.0/32"), |_| false, &name("a")).unwrap_err().capacity, 0);
    }

    #[test]
    fn the_widest_range_does_not_overflow() {
        assert_eq!(capacity(net("0.0.0.0/0")), (1 << 32) - 3);
        assert!(choose_vip(net("0.0.0.0/0"), |_| false, &name("a")).is_ok());
    }
}
