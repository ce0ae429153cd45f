//! The rule: what is to be done about this host's subnet. Pure; a function of what the store says, of what this host would
//! publish, and of its containers.
//!
//! A host that has a lease goes through [`Case::holder`]: first what may make it leave (a reservation, a configuration that
//! gives its subnet no more, an older lease of another owner), then whether the lease is written as it should be. One that has
//! none goes through [`Case::newcomer`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::ControlFlow::{self, Break, Continue};

use ipnet::{Ipv4Net, Ipv6Net};
use weft_model::hash::fnv1a;
use weft_model::ids::{EndpointId, LeaseId, NetworkName, NodeName, Revision};
use weft_model::mac::Mac;
use weft_model::network::{BackendKind, NetworkConfig};
use weft_model::snapshot::{Bad, Snapshot, Stored};
use weft_model::subnet::{BackendData, Lease, SubnetKey, Tree, WeftLease};
use weft_plan::ipam;
use weft_store::registry::SubnetClaim;

use super::{Facts, Own, Todo};

/// The containers of this host, and their addresses.
pub type Addresses = BTreeMap<EndpointId, Ipv4Addr>;

/// What is to be done about this host's subnet, given the containers that are here.
#[must_use]
pub fn decide(snapshot: &Snapshot, facts: &Facts, claim: Option<LeaseId>, containers: &Addresses) -> Todo {
    let Some(config) = snapshot.network() else {
        let key = snapshot.layout().network_config();
        return Todo::Wait(match snapshot.bad_at(&key) {
            Some(Bad { why, .. }) => format!("{key} does not parse: {why}; correct it, or netctl network init --force"),
            None => format!("waiting for {key}: netctl network init --cidr 10.244.0.0/16"),
        });
    };
    let Some(claim) = claim else { return Todo::Wait("waiting for a lease of the store".to_owned()) };
    let case = Case { snapshot, config, facts, claim, containers, reserved: reserved(snapshot, config, &facts.node) };
    match own_lease(snapshot, config, facts) {
        Some((key, stored)) => case.holder(&Held { key: *key, stored, macs: published_macs(facts, &stored.value) }),
        None => case.newcomer(),
    }
}

/// All that a decision rests on.
struct Case<'a> {
    snapshot: &'a Snapshot,
    config: &'a NetworkConfig,
    facts: &'a Facts,
    /// The lease of the store to hang a subnet on.
    claim: LeaseId,
    containers: &'a Addresses,
    reserved: Option<Promised>,
}

/// The lease that this host has.
struct Held<'a> {
    key: SubnetKey,
    stored: &'a Stored<Lease>,
    macs: Macs,
}

/// Either it is decided, or there is this to tell and more to look at.
type Verdict = ControlFlow<Todo, Option<String>>;

impl Case<'_> {
    /// This host has a lease.
    fn holder(&self, held: &Held) -> Todo {
        let reasons_to_leave = || -> ControlFlow<Todo, Vec<String>> {
            let told = match &self.reserved {
                Some(promised) => self.leave_for_reserved(held, promised)?,
                None => self.leave_unfit(held)?,
            };
            Continue([told, self.leave_to_elder(held)?].into_iter().flatten().collect())
        };
        match reasons_to_leave() {
            Break(todo) => todo,
            Continue(odd) => self.rewrite(held, odd),
        }
    }

    /// Another subnet is kept for this host.
    fn leave_for_reserved(&self, held: &Held, promised: &Promised) -> Verdict {
        if promised.subnet == held.key.subnet {
            return Continue(None);
        }
        Continue(Some(match &promised.free {
            Ok(over) if self.containers.is_empty() => {
                return Break(self.leave(held, promised.subnet, Some(promised.at), *over));
            }
            Ok(_) => format!(
                "subnet {} is reserved for this host, which has {} with {}; detach them, and it moves there by itself",
                promised.subnet,
                held.key.subnet,
                some(self.containers.keys())
            ),
            Err(why) => format!("{why}; this host stays in {}", held.key.subnet),
        }))
    }

    /// The configuration has changed, and gives subnets of another range or size.
    fn leave_unfit(&self, held: &Held) -> Verdict {
        let subnet = held.key.subnet;
        // A lease without a lease of the store is kept by hand.
        if self.config.could_give(subnet) || held.stored.lease.is_none() {
            return Continue(None);
        }
        let unfit = format!("subnet {subnet} is none that {} gives any more", described(self.config));
        Continue(Some(match self.another() {
            Ok(other) if self.containers.is_empty() => return Break(self.leave(held, other, None, None)),
            Ok(_) => format!(
                "{unfit}; detach {}, and this host moves to one that it does; until then they keep their addresses{}",
                some(self.containers.keys()),
                if self.config.network.contains(&subnet) { "" } else { ", and cannot be reached from other hosts" }
            ),
            Err(full) => format!("{unfit}, and {full}"),
        }))
    }

    /// Somebody else has had the subnet for longer.
    fn leave_to_elder(&self, held: &Held) -> Verdict {
        let overlaps = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
        let Some((other, holder)) = self.elder(held, |other| overlaps(&other.subnet, &held.key.subnet)) else {
            return Continue(None);
        };
        let conflict =
            format!("subnet {} is also that of {}, whose lease {other} is older", held.key.subnet, holder_of(&holder.value));
        let cut = "other hosts send its packets there";
        Continue(Some(match self.another() {
            // One that somebody keeps by hand is his to move.
            _ if held.stored.lease.is_none() => format!(
                "{conflict}: {cut}; this one is kept by hand: delete {}, and this host claims another",
                self.snapshot.layout().subnet(&held.key)
            ),
            Ok(subnet) if self.containers.is_empty() => return Break(self.leave(held, subnet, None, None)),
            Ok(_) => {
                format!("{conflict}: {cut}; detach {}, and this host moves to another by itself", some(self.containers.keys()))
            }
            Err(full) => format!("{conflict}, and {full}"),
        }))
    }

    /// Claims another subnet, and gives the own one up with it.
    fn leave(&self, held: &Held, subnet: Ipv4Net, reserved: Option<Revision>, over: Option<Revision>) -> Todo {
        let tree = tree(self.facts, Some(held.key.tree));
        // Nobody has an address of the old one.
        let anew = Facts { preferred6: None, ..self.facts.clone() };
        Todo::Claim(Box::new(SubnetClaim {
            key: SubnetKey::new(subnet, subnet6_for(self.snapshot, self.config, &anew, subnet).ok()).in_tree(tree),
            lease: wanted_lease(self.config, self.facts, held.macs, tree),
            on: self.claim,
            reserved,
            over,
            leaving: Some((held.key, held.stored.modified)),
        }))
    }

    /// This host keeps its subnet: its lease is as it should be, or is written so. `odd` is what there is to tell so far.
    fn rewrite(&self, held: &Held, mut odd: Vec<String>) -> Todo {
        let Held { key, stored, .. } = held;
        let rival6 = self.rival6(held);
        let wanted_key = self.wanted_key(held, rival6.is_some(), &mut odd);
        let wanted = self.wanted_value(held, wanted_key.tree);
        // One that somebody keeps by hand, without a lease of the store, stays so.
        let on = stored.lease.map(|_| self.claim);
        // What somebody has made unreadable is written over as it is now: flannelds forget all peers over it.
        let bad = self.snapshot.bad_at(&self.snapshot.layout().subnet(key)).map(|bad| bad.modified);
        let over = bad.unwrap_or(stored.modified);
        if wanted_key != *key {
            return Todo::Rename { from: *key, over, to: wanted_key, lease: Box::new(wanted), on };
        }
        if stored.value != wanted || stored.lease != on || bad.is_some() {
            return Todo::Write { key: *key, lease: Box::new(wanted), over, on };
        }
        odd.extend(self.remarks(held, rival6));
        let odd = Some(odd.join("; ")).filter(|text| !text.is_empty());
        Todo::Keep(Own { subnet: key.subnet, subnet6: key.v6, vtep_mac: held.macs.v4, vtep_mac6: held.macs.v6 }, odd)
    }

    /// The own IPv6 subnet, and the older lease of another owner that overlaps it.
    fn rival6(&self, held: &Held) -> Option<Rival6<'_>> {
        let v6 = held.key.v6?;
        let overlaps = |a: Ipv6Net, b: Ipv6Net| a.contains(&b) || b.contains(&a);
        let (key, holder) = self.elder(held, |other| other.v6.is_some_and(|theirs| overlaps(theirs, v6)))?;
        Some(Rival6 { v6, key, holder })
    }

    /// The key that the lease should have: its tree follows the uplink's addresses, its IPv6 subnet the configuration.
    fn wanted_key(&self, held: &Held, has_rival6: bool, odd: &mut Vec<String>) -> SubnetKey {
        // Without an uplink, which may be away for a moment only, the lease stays in the tree where it is.
        let key = held.key.in_tree(tree(self.facts, Some(held.key.tree)));
        match (&self.config.v6, key.v6) {
            (None, _) => SubnetKey { v6: None, ..key },
            (Some(range), Some(v6))
                if self.facts.has_ipv6 && (range.could_give(v6) && !has_rival6 || !self.containers.is_empty()) =>
            {
                key
            }
            (Some(_), _) => match subnet6_for(self.snapshot, self.config, self.facts, key.subnet) {
                Ok(v6) => SubnetKey { v6: Some(v6), ..key },
                Err(why) => {
                    odd.push(why);
                    SubnetKey { v6: None, ..key }
                }
            },
        }
    }

    /// The value that the lease should have.
    fn wanted_value(&self, held: &Held, tree: Tree) -> Lease {
        let wanted = wanted_lease(self.config, self.facts, held.macs, tree);
        if self.facts.public_ip.is_some() || self.facts.public_ipv6.is_some() {
            return wanted;
        }
        // What the others know is better than nothing.
        let there = &held.stored.value;
        let said = there.weft.as_ref().map(|w| (w.mtu, w.udp6zero)).unwrap_or_default();
        Lease {
            public_ip: there.public_ip,
            public_ipv6: there.public_ipv6,
            backend_data: there.backend_data.clone(),
            backend_v6_data: there.backend_v6_data.clone(),
            weft: wanted.weft.map(|w| WeftLease { mtu: said.0, udp6zero: said.1, ..w }),
            ..wanted
        }
    }

    /// What there is to tell of a lease that is as good as it can be.
    fn remarks(&self, held: &Held, rival6: Option<Rival6>) -> Vec<String> {
        let (key, containers) = (&held.key, some(self.containers.keys()));
        let unfit6 = self.config.v6.as_ref().zip(key.v6).filter(|(range, v6)| !range.could_give(*v6)).map(|(range, v6)| {
            format!(
                "IPv6 subnet {v6} is none that {} gives any more; detach {containers}, and this host has another; until then \
                 they keep their addresses",
                range.network
            )
        });
        let conflict6 = rival6.map(|Rival6 { v6, key, holder }| {
            format!(
                "IPv6 subnet {v6} is also that of {}, whose lease {key} is older: other hosts send its packets there; detach \
                 {containers}, and this host takes another by itself",
                holder_of(&holder.value)
            )
        });
        let unseen = (key.tree == Tree::Weft).then(|| {
            format!(
                "this host has no IPv4 address on its uplink, so hosts that run flannel cannot see it; its lease is {}",
                self.snapshot.layout().subnet(key)
            )
        });
        let strayed = strayed(self.snapshot, key.subnet, self.containers);
        [unfit6, conflict6, unseen, strayed].into_iter().flatten().collect()
    }

    /// This host has no lease.
    fn newcomer(&self) -> Todo {
        let Self { snapshot, config, facts, .. } = self;
        // A subnet with containers in it goes before the one that is reserved.
        let of_containers = facts.preferred.filter(|subnet| self.containers.values().any(|address| subnet.contains(address)));
        let taken = taken(snapshot);
        match (&self.reserved, of_containers) {
            (Some(promised), Some(has)) if promised.subnet != has && ipam::is_free(config, &taken, has) => {
                self.claim_first(has, None, None)
            }
            (Some(promised), _) => match &promised.free {
                Ok(over) => self.claim_first(promised.subnet, Some(promised.at), *over),
                Err(why) => Todo::Wait(format!("claim subnet: {why}")),
            },
            (None, _) => match ipam::choose_subnet(config, taken, facts.preferred, seed(&facts.node)) {
                Ok(subnet) => self.claim_first(subnet, None, None),
                Err(full) => Todo::Wait(format!("claim subnet: {}", full.stored_at(snapshot.layout().network_config()))),
            },
        }
    }

    fn claim_first(&self, subnet: Ipv4Net, reserved: Option<Revision>, over: Option<Revision>) -> Todo {
        let Self { snapshot, config, facts, .. } = self;
        let tree = tree(facts, None);
        // Without an IPv6 subnet for now, where none is to be had: the next look, with a lease, says why.
        let key = SubnetKey::new(subnet, subnet6_for(snapshot, config, facts, subnet).ok()).in_tree(tree);
        let lease = wanted_lease(config, facts, Macs { v4: facts.vtep_mac, v6: facts.vtep_mac6 }, tree);
        Todo::Claim(Box::new(SubnetClaim { key, lease, on: self.claim, reserved, over, leaving: None }))
    }

    /// A subnet to move to.
    fn another(&self) -> Result<Ipv4Net, ipam::Full> {
        ipam::choose_subnet(self.config, taken(self.snapshot), None, seed(&self.facts.node))
    }

    /// The oldest lease of another owner that is older than the own one and overlaps it as `overlaps` says. The store compares
    /// single keys, so two hosts that claim at once under keys with different IPv6 parts may get one subnet; all hosts then go
    /// by the older lease ([`weft_plan::peers`]), and so does the owner of the other.
    fn elder(&self, held: &Held, overlaps: impl Fn(&SubnetKey) -> bool) -> Option<(&SubnetKey, &Stored<Lease>)> {
        let facts = self.facts;
        // A flanneld that ran here before is ourselves; a placeholder is nobody.
        let ours = |lease: &Lease| match lease.node() {
            Some(node) => *node == facts.node,
            None => facts.public_ip.is_some() && lease.public_ip == facts.public_ip,
        };
        let others = self.snapshot.leases().filter(|(_, lease)| !lease.value.is_placeholder() && !ours(&lease.value));
        let older = others.filter(|(key, lease)| (lease.created, **key) < (held.stored.created, held.key));
        older.filter(|(key, _)| overlaps(key)).min_by_key(|(key, lease)| (lease.created, **key))
    }
}

/// An older lease of another owner whose IPv6 subnet overlaps the own one.
struct Rival6<'a> {
    /// The own one.
    v6: Ipv6Net,
    key: &'a SubnetKey,
    holder: &'a Stored<Lease>,
}

/// The Ethernet addresses that a lease says, or else this host's own.
fn published_macs(facts: &Facts, lease: &Lease) -> Macs {
    let said = |data: &Option<BackendData>, known| data.as_ref().map_or(known, |d| d.vtep_mac);
    Macs { v4: said(&lease.backend_data, facts.vtep_mac), v6: said(&lease.backend_v6_data, facts.vtep_mac6) }
}

/// The subnets that somebody has, or is promised.
fn taken(snapshot: &Snapshot) -> Vec<Ipv4Net> {
    let promised = snapshot.reservations().filter(|(network, ..)| network.is_default()).map(|(_, subnet, _)| subnet);
    snapshot.leases().map(|(key, _)| key.subnet).chain(promised).collect()
}

/// `10.244.0.0/16 in pieces of /24`.
fn described(config: &NetworkConfig) -> String {
    format!("{} in pieces of /{}", config.network, config.subnet_len)
}

/// Ethernet addresses of this host's VTEPs.
#[derive(Clone, Copy)]
struct Macs {
    /// Of the one over IPv4.
    v4: Mac,
    /// Of the one over IPv6.
    v6: Mac,
}

/// What this host says of itself, in a lease of this tree.
fn wanted_lease(config: &NetworkConfig, facts: &Facts, macs: Macs, tree: Tree) -> Lease {
    let tunnels = config.backend.kind == BackendKind::Vxlan;
    let data = |vtep_mac| BackendData { vni: Some(config.backend.vni), vtep_mac };
    // Without an uplink the address is unspecified; Weft peers leave such a lease out, and it is rewritten when one appears.
    let public_ip = facts.public_ip.or((tree == Tree::Network).then_some(Ipv4Addr::UNSPECIFIED));
    Lease {
        public_ip,
        public_ipv6: facts.public_ipv6,
        backend_type: config.backend.kind.as_str().to_owned(),
        backend_data: (tunnels && public_ip.is_some()).then(|| data(macs.v4)),
        backend_v6_data: (tunnels && facts.public_ipv6.is_some()).then(|| data(macs.v6)),
        weft: Some(WeftLease {
            node: facts.node.clone(),
            boot: facts.boot.clone(),
            // Both of the device over IPv6 and of the fast path.
            udp6zero: facts.public_ipv6.is_some(),
            // Without a tunnel nothing is taken off the link's own MTU, which all hosts share: there is nothing to say.
            mtu: if tunnels { facts.mtu } else { 0 },
        }),
    }
}

/// The tree that this host's lease belongs in; `there` is where it stands.
fn tree(facts: &Facts, there: Option<Tree>) -> Tree {
    match (facts.public_ip, facts.public_ipv6) {
        (Some(_), _) => Tree::Network,
        (None, Some(_)) => Tree::Weft,
        (None, None) => there.unwrap_or_default(),
    }
}

/// The IPv6 subnet to have beside an IPv4 one, or why there is none; the reason is empty where the network has no IPv6.
fn subnet6_for(snapshot: &Snapshot, config: &NetworkConfig, facts: &Facts, subnet: Ipv4Net) -> Result<Ipv6Net, String> {
    let range = config.v6.as_ref().ok_or_else(String::new)?;
    if !facts.has_ipv6 {
        return Err(format!("this host's kernel has IPv6 turned off (ipv6.disable=1), so it has no part in {}", range.network));
    }
    let own = snapshot.lease_of(&facts.node).map(|(key, _)| *key);
    let taken = snapshot.leases().filter(|(key, _)| Some(**key) != own).filter_map(|(key, _)| key.v6);
    ipam::choose_subnet6(range, config, subnet, taken, facts.preferred6, seed(&facts.node)).ok_or_else(|| {
        let key = snapshot.layout().network_config();
        format!("claim IPv6 subnet: {} has no free /{}; widen IPv6Network in {key}", range.network, range.subnet_len)
    })
}

/// The lease that is this host's: by its name, or by its address, where it was a flanneld's.
fn own_lease<'a>(snapshot: &'a Snapshot, config: &NetworkConfig, facts: &Facts) -> Option<(&'a SubnetKey, &'a Stored<Lease>)> {
    let of_flannel = || {
        let ip = facts.public_ip?;
        let former = |(key, l): &(&SubnetKey, &Stored<Lease>)| {
            let lease = &l.value;
            lease.weft.is_none() && !lease.is_placeholder() && lease.public_ip == Some(ip) && config.could_give(key.subnet)
        };
        snapshot.leases().find(former)
    };
    snapshot.lease_of(&facts.node).or_else(of_flannel)
}

/// The subnet that is kept for this host.
struct Promised {
    subnet: Ipv4Net,
    /// When that was written.
    at: Revision,
    /// When the placeholder was written that stands there, if one does; or why the subnet cannot be had.
    free: Result<Option<Revision>, String>,
}

fn reserved(snapshot: &Snapshot, config: &NetworkConfig, node: &NodeName) -> Option<Promised> {
    let (subnet, stored) = snapshot.reservation_of(&NetworkName::default_network(), node)?;
    let mut there = snapshot.leases().filter(|(key, _)| key.subnet.contains(&subnet) || subnet.contains(&key.subnet));
    let holder = there.find(|(_, lease)| !(lease.value.is_placeholder() && lease.lease.is_none()));
    let placeholder = snapshot.leases().find(|(key, _)| **key == SubnetKey::v4(subnet)).map(|(_, lease)| lease.modified);
    let free = match holder {
        Some((_, lease)) if stored.value.is_owners(&lease.value) => Ok(placeholder),
        Some((key, lease)) => Err(format!(
            "subnet {subnet} is reserved for this host, and {} has {}; netctl network unreserve {node} gives it up",
            holder_of(&lease.value),
            key.subnet
        )),
        None if !config.could_give(subnet) => Err(format!(
            "subnet {subnet} is reserved for this host, and is none that {} gives; netctl network unreserve {node} gives it up",
            config.network
        )),
        None => Ok(placeholder),
    };
    Some(Promised { subnet, at: stored.modified, free })
}

/// How the owner of a lease is called.
#[must_use]
pub fn holder_of(lease: &Lease) -> String {
    lease.node().map_or_else(|| lease.address().to_string(), ToString::to_string)
}

/// Containers whose addresses are in a subnet that is not this host's any more.
fn strayed(snapshot: &Snapshot, own: Ipv4Net, containers: &Addresses) -> Option<String> {
    let outside: Vec<(&EndpointId, &Ipv4Addr)> = containers.iter().filter(|(_, address)| !own.contains(*address)).collect();
    let (_, first) = outside.first()?;
    let whose = match snapshot.leases().find(|(key, _)| key.subnet.contains(*first)) {
        Some((key, lease)) => format!("{} belongs to {} now", key.subnet, holder_of(&lease.value)),
        None => "it has lost the subnet they came from".to_owned(),
    };
    Some(format!(
        "this host's subnet is {own}, and {} cannot be reached from other hosts: {whose}; start them anew (netctl detach, \
         then attach)",
        some(outside.iter().map(|(id, _)| *id))
    ))
}

/// `container a`, `containers a, b, c and 4 more`.
fn some<'a>(ids: impl ExactSizeIterator<Item = &'a EndpointId>) -> String {
    let count = ids.len();
    let shown: Vec<&str> = ids.take(CONTAINERS_SHOWN).map(EndpointId::as_str).collect();
    let noun = if count == 1 { "container" } else { "containers" };
    let more = count.saturating_sub(CONTAINERS_SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{noun} {}{rest}", shown.join(", "))
}

/// How many containers a sentence names.
const CONTAINERS_SHOWN: usize = 3;

/// Hosts start to search at different places, so that two hundred of them do not all want the same subnet.
fn seed(node: &NodeName) -> u64 {
    fnv1a(node.as_str().bytes())
}
