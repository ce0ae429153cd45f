//! Where containers' addresses come from: this host's part of a network, less what is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_api::Code;
use weft_model::ids::NetworkName;
use weft_plan::ipam;

use crate::refusal::Refusal;
use crate::state::{Attachment, Journal};

/// Which addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// This host in one network: where its containers' addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// The network.
    pub network: NetworkName,
    /// The network's range.
    pub range: Ipv4Net,
    /// This host's part of it.
    pub subnet: Ipv4Net,
    /// The same of IPv6, where containers have it.
    pub v6: Option<(Ipv6Net, Ipv6Net)>,
}

impl Ground {
    /// The network's range.
    #[must_use]
    pub fn range(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => Some(self.range.into()),
            Family::V6 => self.v6.map(|(range, _)| range.into()),
        }
    }

    /// The containers' gateway.
    #[must_use]
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(ipam::gateway(self.subnet).into()),
            Family::V6 => self.v6.map(|_| ipam::LINK_GATEWAY.into()),
        }
    }

    /// Whether this is the network's range, or this host's part of it.
    #[must_use]
    pub fn has_range(&self, range: IpNet) -> bool {
        let v6 = self.v6.is_some_and(|(all, own)| range == IpNet::V6(all) || range == IpNet::V6(own));
        range == IpNet::V4(self.range) || range == IpNet::V4(self.subnet) || v6
    }

    /// The IPv6 address that goes with an address.
    pub(super) fn twin(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.v6.and_then(|(_, subnet6)| ipam::address6(address, self.subnet, subnet6))
    }

    /// An address for a container: the one that is wanted, or any.
    pub(super) fn choose(&self, family: Family, wanted: Option<IpAddr>, used: &Used<'_>) -> Result<IpAddr, Refusal> {
        let Some(wanted) = wanted else { return self.choose_any(family, used) };
        let (could_be, subnet) = match (wanted, self.v6) {
            (IpAddr::V4(v4), _) => (ipam::container_addresses(self.subnet).any(|a| a == v4), IpNet::V4(self.subnet)),
            (IpAddr::V6(v6), Some((_, subnet6))) => {
                let number = u128::from(v6).wrapping_sub(subnet6.network().into());
                (subnet6.contains(&v6) && number > 1, IpNet::V6(subnet6))
            }
            (IpAddr::V6(_), None) => (false, IpNet::V4(self.subnet)),
        };
        if !could_be || wanted.is_ipv4() != (family == Family::V4) {
            return Err(Refusal::invalid(format!(
                "{wanted} is no address for a container here: in network {} this host has {subnet}, of which the first two and the last are not given",
                self.network
            )));
        }
        if used.all.contains(&wanted) {
            return Err(Refusal::conflict(format!("{wanted} is in use on this host; netctl attachment list shows by what")));
        }
        Ok(wanted)
    }

    fn choose_any(&self, family: Family, used: &Used<'_>) -> Result<IpAddr, Refusal> {
        let is_free = |address: &Ipv6Addr| !used.all.contains(&IpAddr::V6(*address));
        if family == Family::V6 {
            // Docker asks for IPv6 right after IPv4 and does not say for whom: most likely for whom there is none yet.
            let lone = used.lone.iter().filter_map(|address| self.twin(*address)).find(is_free);
            let any = || ipam::container_addresses(self.subnet).filter_map(|address| self.twin(address)).find(is_free);
            let full = || Refusal::new(Code::Full, format!("network {} has no free IPv6 address on this host", self.network));
            return lone.or_else(any).map(IpAddr::V6).ok_or_else(full);
        }
        // Where the IPv6 address that goes with it is another's, so is it as far as possible.
        let v4 = used.all.iter().filter_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None });
        let mut taken: BTreeSet<Ipv4Addr> = v4.collect();
        let twinless = |address: &Ipv4Addr| self.twin(*address).is_some_and(|twin| !is_free(&twin));
        taken.extend(ipam::container_addresses(self.subnet).filter(twinless));
        let chosen = ipam::choose_address(self.subnet, &taken, used.released);
        chosen.map(IpAddr::V4).map_err(|full| Refusal::new(Code::Full, full.to_string()))
    }
}

/// What is in use on this host.
pub(super) struct Used<'a> {
    /// Addresses in use.
    all: BTreeSet<IpAddr>,
    /// Reserved IPv4 addresses that nothing uses yet.
    lone: Vec<Ipv4Addr>,
    /// When others were given back.
    released: &'a BTreeMap<Ipv4Addr, u64>,
}

impl<'a> Used<'a> {
    pub(super) fn new(journal: &'a Journal) -> Self {
        let attached: BTreeSet<IpAddr> = journal.attachments.values().flat_map(Attachment::addresses).collect();
        let busy: BTreeSet<IpAddr> = journal.handed.ends.values().map(|end| end.address.into()).collect();
        let lone = journal.handed.reserved.iter().filter(|a| !attached.contains(a) && !busy.contains(a));
        let lone = lone.filter_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None }).collect();
        let all = attached.into_iter().chain(journal.handed.addresses()).collect();
        Self { all, lone, released: &journal.released }
    }
}

#[cfg(test)]
mod tests {
    use super::super::handed::tests::{end, journal};
    use super::*;

    fn ground() -> Ground {
        Ground {
            network: NetworkName::default_network(),
            range: "10.244.0.0/16".parse().unwrap(),
            subnet: "10.244.3.0/24".parse().unwrap(),
            v6: Some(("fd00:10:244::/48".parse().unwrap(), "fd00:10:244:3::/64".parse().unwrap())),
        }
    }

    fn choose(journal: &Journal, family: Family, wanted: Option<&str>) -> Result<String, String> {
        let wanted = wanted.map(|text| text.parse().unwrap());
        let chosen = ground().choose(family, wanted, &Used::new(journal));
        chosen.map(|a| a.to_string()).map_err(|refusal| refusal.message)
    }

    #[test]
    fn what_is_reserved_or_an_ends_is_given_to_nobody_else() {
        let journal = journal(&["10.244.3.2", "10.244.3.9"], &[end("a", "10.244.3.3")]);
        assert_eq!(choose(&journal, Family::V4, None).unwrap(), "10.244.3.4");
        assert_eq!(Used::new(&journal).all.iter().filter(|a| a.is_ipv4()).count(), 3, "attachments keep away from them too");
        for taken in ["10.244.3.9", "10.244.3.3"] {
            assert!(choose(&journal, Family::V4, Some(taken)).unwrap_err().contains("in use"), "{taken}");
        }
    }

    #[test]
    fn an_address_that_is_wanted_is_a_containers_of_this_host() {
        let nobody = journal(&[], &[]);
        assert_eq!(choose(&nobody, Family::V4, Some("10.244.3.77")).unwrap(), "10.244.3.77");
        assert_eq!(choose(&nobody, Family::V6, Some("fd00:10:244:3::77")).unwrap(), "fd00:10:244:3::77");
        let not_here = ["10.244.3.0", "10.244.3.1", "10.244.3.255", "10.244.4.7", "10.9.0.1", "fd00:10:244:3::7"];
        for wrong in not_here {
            assert!(
                choose(&nobody, Family::V4, Some(wrong)).unwrap_err().contains("10.244.3.0/24") || wrong.contains(':'),
                "{wrong}"
            );
        }
        for wrong in ["fd00:10:244:3::", "fd00:10:244:3::1", "fd00:10:244:4::7", "10.244.3.7"] {
            assert!(choose(&nobody, Family::V6, Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_addresses_of_a_container_have_one_number_where_that_can_be() {
        // Two containers at once: which of the two is asked for is not known, and either will do.
        let both = journal(&["10.244.3.5", "10.244.3.6"], &[]);
        assert_eq!(choose(&both, Family::V6, None).unwrap(), "fd00:10:244:3::5");
        let one_has = journal(&["10.244.3.5", "10.244.3.6", "fd00:10:244:3::5"], &[]);
        assert_eq!(choose(&one_has, Family::V6, None).unwrap(), "fd00:10:244:3::6");
        // An end has asked already, or wants none.
        let ended = journal(&["10.244.3.5"], &[end("a", "10.244.3.5")]);
        assert_eq!(choose(&ended, Family::V6, None).unwrap(), "fd00:10:244:3::2");
        let other_has = journal(&["fd00:10:244:3::2"], &[]);
        assert_eq!(choose(&other_has, Family::V4, None).unwrap(), "10.244.3.3", "whose other address is free");
    }

    #[test]
    fn a_full_subnet_says_so() {
        let all: Vec<String> = (2..=254).map(|n| format!("10.244.3.{n}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert!(choose(&journal(&all, &[]), Family::V4, None).unwrap_err().contains("no free address"));
    }
}
