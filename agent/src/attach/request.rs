//! What is asked of a request to attach, and what is made up where it says nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_agent::kernel::netns::{NetNs, NetnsError};
use weft_api::{Attach, Code};
use weft_model::hash::fnv1a;
use weft_model::ids::{EndpointId, MAX_LABEL, NodeName, check_ifname, sanitise_label};
use weft_model::mac::Mac;
use weft_model::snapshot::Snapshot;
use weft_plan::links;

use super::ground::{Family, Ground, Used};
use super::names;
use crate::refusal::Refusal;
use crate::state::Journal;
use crate::view::chain;

/// How many digits of a hash make an id that was not given unique.
const HASH_DIGITS: usize = 6;

/// What can be said of a request by itself.
pub(super) fn check(request: &Attach) -> Result<(), Refusal> {
    let ifname = &request.ifname;
    check_ifname(ifname).map_err(|why| Refusal::invalid(format!("--ifname {ifname:?}: {why}")))?;
    if let Some(mac) = request.mac.filter(|mac| mac.0[0] & 1 == 1 || *mac == Mac([0; 6])) {
        return Err(Refusal::invalid(format!(
            "attach: {mac} is no one interface's Ethernet address; its first byte must be even"
        )));
    }
    for (is_v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        if request.addresses.iter().filter(|address| address.is_ipv4() == is_v4).count() > 1 {
            return Err(Refusal::invalid(format!("attach: an interface has one {family} address; give one")));
        }
    }
    names::check_request(request)
}

/// The addresses of a new attachment: those that are asked for, or free ones. The IPv6 address is the one that goes with the
/// other, while that is free.
pub(super) fn choose_addresses(
    request: &Attach,
    ground: &Ground,
    used: &Used<'_>,
) -> Result<(Ipv4Addr, Option<Ipv6Addr>), Refusal> {
    let about = |refusal: Refusal| Refusal::new(refusal.code, format!("attach: {}", refusal.message));
    let wanted = |is_v4: bool| request.addresses.iter().find(|address| address.is_ipv4() == is_v4).copied();
    let IpAddr::V4(address) = ground.choose(Family::V4, wanted(true), used).map_err(about)? else { return Err(no_subnet()) };
    let twin = ground.twin(address).map(IpAddr::V6);
    let six = match (wanted(false), twin) {
        (Some(wanted), _) => Some(ground.choose(Family::V6, Some(wanted), used).map_err(about)?),
        (None, None) => None,
        (None, Some(twin)) => {
            Some(ground.choose(Family::V6, Some(twin), used).or_else(|_| ground.choose(Family::V6, None, used)).map_err(about)?)
        }
    };
    Ok((address, six.and_then(|six| if let IpAddr::V6(six) = six { Some(six) } else { None })))
}

/// The network's own ranges.
pub(super) fn ranges(snapshot: &Snapshot) -> Vec<IpNet> {
    let config = snapshot.network();
    let both = config.into_iter().flat_map(|config| {
        let v6 = config.v6.as_ref().map(|range| IpNet::V6(range.network));
        [Some(IpNet::V4(config.network)), v6].into_iter().flatten()
    });
    both.collect()
}

/// What the overlay leads to, for a namespace that has another way to everywhere else. Virtual IPs are translated before they
/// meet a route; those that no service has must not go out by the other way.
pub(super) fn own_networks(snapshot: &Snapshot) -> Vec<IpNet> {
    ranges(snapshot).into_iter().chain(snapshot.cluster().service_cidrs.iter().copied()).collect()
}

pub(super) fn no_subnet() -> Refusal {
    Refusal::new(Code::NotReady, "this host has no subnet yet; netctl status says what it waits for")
}

pub(super) fn refuse_netns(error: &NetnsError) -> Refusal {
    Refusal::invalid(format!("attach: {}", chain(error)))
}

/// The id that the request names, or those that can be made of its name, best first. The same request gives the same ids: they
/// are told apart by the owner and interface where there is an owner, by the namespace otherwise.
pub(super) fn ids<'a>(request: &'a Attach, netns: &NetNs, node: &NodeName) -> Box<dyn Iterator<Item = EndpointId> + Send + 'a> {
    if let Some(id) = &request.id {
        return Box::new(std::iter::once(id.clone()));
    }
    let base = request.name.as_deref().or(request.service.as_ref().map(|s| s.name.as_str())).unwrap_or("c");
    let base = match sanitise_label(base, MAX_LABEL - HASH_DIGITS - 1) {
        base if base.is_empty() => "c".to_owned(),
        base => base,
    };
    let ifname = &request.ifname;
    let (seed, tries) = match &request.owner {
        // An owner's attachment is found by the owner: of many containers two may well have one hash of so few digits.
        Some(owner) => (format!("{node} {owner} {ifname}"), 100),
        None => {
            let (device, inode) = netns.id();
            (format!("{node} {device} {inode} {} {ifname}", netns.cookie()), 1)
        }
    };
    let salted = (0..tries).map(move |salt| if salt == 0 { seed.clone() } else { format!("{seed} {salt}") });
    Box::new(salted.filter_map(move |seed| format!("{base}-{:06x}", fnv1a(seed.bytes()) & 0xff_ffff).parse().ok()))
}

/// The host's end is named after the attachment; in the unlikely case that another has the name, it is salted.
pub(super) fn host_ifname(id: &EndpointId, ifname: &str, journal: &Journal) -> String {
    let taken = |name: &String| journal.attachments.values().any(|a| a.host_ifname == *name);
    let plain = std::iter::once(links::veth_name(id.as_str(), ifname));
    let salted = (1_u32..).map(|salt| links::veth_name(id.as_str(), &format!("{ifname} {salt}")));
    plain.chain(salted).find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use weft_model::attachment::{Owner, Runtime};

    use super::*;

    #[test]
    fn host_devices_have_names_that_fit_and_differ() {
        let id: EndpointId = "web-1".parse().unwrap();
        let name = host_ifname(&id, "eth0", &Journal::default());
        assert!(links::is_veth_name(&name) && name.len() <= 15, "{name}");
        assert_ne!(name, host_ifname(&id, "eth1", &Journal::default()));
    }

    #[test]
    fn an_owners_id_follows_from_owner_and_interface_and_there_is_another_when_it_is_taken() {
        let netns = NetNs::open_any(std::path::Path::new("/proc/self/ns/net")).unwrap();
        let request = |container: &str, ifname: &str| {
            let owner = Owner { runtime: Runtime::Cni, network: "weft".into(), container: container.into() };
            Attach { owner: Some(owner), name: Some("Web_1".into()), ..Attach::new("/run/netns/x", ifname) }
        };
        let ids = |request: &Attach| ids(request, &netns, &"h1".parse().unwrap()).take(3).collect::<Vec<_>>();
        let first = ids(&request("a", "eth0"));
        assert!(first[0].as_str().starts_with("web-1-") && first[0] != first[1] && first[1] != first[2], "{first:?}");
        assert_eq!(first, ids(&request("a", "eth0")));
        assert_ne!(first[0], ids(&request("a", "eth1"))[0]);
        assert_ne!(first[0], ids(&request("b", "eth0"))[0]);
        let named = Attach { id: Some("mine".parse().unwrap()), ..request("a", "eth0") };
        assert_eq!(ids(&named).iter().map(EndpointId::as_str).collect::<Vec<_>>(), ["mine"]);
    }
}
