//! Claims a subnet for this host, and keeps it.
//!
//! ```text
//!   own lease there? ── yes ─▶ another one reserved, and no container here? ── yes ─▶ move there
//!        │ no                        │ no
//!        │                      written as it should be? ── yes ─▶ nothing to do
//!        │                           │ no
//!        ▼                           ▼
//!   reserved? else               rewrite it, if nobody has since
//!   choose a free one
//!        ▼
//!   write it, if nobody has
//! ```
//!
//! The lease stands where those find it who can use it: below the network prefix, or, of a host without an IPv4 address,
//! which flannel cannot parse, below Weft's own. Its key names the host's IPv6 subnet too, so one that gets or loses that
//! changes its name: the new key is written and the old one goes in one transaction, and the IPv4 subnet stays.
//!
//! Where a lease of another owner overlaps this host's and is older, this host has another one, as soon as no container is in
//! it.
//!
//! Containers keep their addresses whatever happens, so a subnet that has some is asked for again before any other, and
//! where it is another host's by then, status says so for as long as they run.
//!
//! [`decide`] is the whole rule, pure; [`run`] carries it out whenever something it depends on changes. A refused write is
//! no error: the next snapshot says who was faster.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use tokio::sync::watch;
use tracing::{debug, info, warn};
use weft_model::hash::fnv1a;
use weft_model::ids::{EndpointId, LeaseId, NetworkName, NodeName, Revision};
use weft_model::mac::Mac;
use weft_model::network::{BackendKind, NetworkConfig};
use weft_model::snapshot::{Bad, Snapshot, Stored};
use weft_model::subnet::{BackendData, Lease, SubnetKey, Tree, WeftLease};
use weft_plan::ipam;
use weft_store::registry::{Registry, SubnetClaim};
use weft_store::{Outcome, StoreError};

use crate::attach::Published;
use crate::echo::Echo;
use crate::registrar::{Me, held_by_other, held_sentence};
use crate::session::Kept;
use crate::view::{View, chain};

/// What this host would publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host's name.
    pub node: NodeName,
    /// Its tunnel address; with neither this nor the next one there is no uplink.
    pub public_ip: Option<Ipv4Addr>,
    /// Its IPv6 tunnel address.
    pub public_ipv6: Option<Ipv6Addr>,
    /// Whether its kernel has IPv6.
    pub has_ipv6: bool,
    /// The MAC of its VTEP over IPv4, unless the lease in the store says another.
    pub vtep_mac: Mac,
    /// The same of the one over IPv6.
    pub vtep_mac6: Mac,
    /// This boot's id.
    pub boot: String,
    /// MTU of inner packets; 0 is unknown.
    pub mtu: u32,
    /// The subnet to ask for first, where this agent has had none yet.
    pub preferred: Option<Ipv4Net>,
    /// The same of IPv6.
    pub preferred6: Option<Ipv6Net>,
}

/// The subnets this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The subnet.
    pub subnet: Ipv4Net,
    /// The IPv6 subnet beside it.
    pub subnet6: Option<Ipv6Net>,
    /// MAC of its VTEP over IPv4, as published.
    pub vtep_mac: Mac,
    /// The same of the one over IPv6.
    pub vtep_mac6: Mac,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Nothing, for this reason.
    Wait(String),
    /// The lease is as it should be; or as good as it can be, for this reason.
    Keep(Own, Option<String>),
    /// Claim one.
    Claim(Box<SubnetClaim>),
    /// Write the own one anew.
    Write {
        /// The subnet.
        key: SubnetKey,
        /// The value.
        lease: Box<Lease>,
        /// The revision that our reading of it rests on.
        over: Revision,
        /// The lease of the store to hang it on; none for one that is there without: somebody keeps it so by hand.
        on: Option<LeaseId>,
    },
    /// Write the own one under another key, and take the old one away.
    Rename {
        /// The old key.
        from: SubnetKey,
        /// The revision that our reading of it rests on.
        over: Revision,
        /// The new key; of the same IPv4 subnet.
        to: SubnetKey,
        /// The value.
        lease: Box<Lease>,
        /// The lease of the store to hang it on, as in [`Todo::Write`].
        on: Option<LeaseId>,
    },
}

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
    let lease = |macs: Macs, tree: Tree| wanted_lease(config, facts, macs, tree);
    let known = Macs { v4: facts.vtep_mac, v6: facts.vtep_mac6 };
    let reserved = reserved(snapshot, config, &facts.node);
    if let Some((key, stored)) = own_lease(snapshot, config, facts) {
        let published = |data: &Option<BackendData>, known| data.as_ref().map_or(known, |d| d.vtep_mac);
        let macs =
            Macs { v4: published(&stored.value.backend_data, known.v4), v6: published(&stored.value.backend_v6_data, known.v6) };
        let mut odd: Vec<String> = Vec::new();
        let leave = |subnet, reserved, over| {
            let tree = tree(facts, Some(key.tree));
            // Nobody has an address of the old one.
            let anew = Facts { preferred6: None, ..facts.clone() };
            Todo::Claim(Box::new(SubnetClaim {
                key: SubnetKey::new(subnet, subnet6_for(snapshot, config, &anew, subnet).ok()).in_tree(tree),
                lease: lease(macs, tree),
                on: claim,
                reserved,
                over,
                leaving: Some((*key, stored.modified)),
            }))
        };
        match &reserved {
            Some(promised) if promised.subnet != key.subnet => match &promised.free {
                Ok(over) if containers.is_empty() => return leave(promised.subnet, Some(promised.at), *over),
                Ok(_) => odd.push(format!(
                    "subnet {} is reserved for this host, which has {} with {}; detach them, and it moves there by itself",
                    promised.subnet,
                    key.subnet,
                    some(containers.keys())
                )),
                Err(why) => odd.push(format!("{why}; this host stays in {}", key.subnet)),
            },
            Some(_) => {}
            // A lease without a lease of the store is kept by hand.
            None if !config.could_give(key.subnet) && stored.lease.is_some() => {
                let unfit = format!("subnet {} is none that {} gives any more", key.subnet, described(config));
                match ipam::choose_subnet(config, taken(snapshot), None, seed(&facts.node)) {
                    Ok(subnet) if containers.is_empty() => return leave(subnet, None, None),
                    Ok(_) => odd.push(format!(
                        "{unfit}; detach {}, and this host moves to one that it does; until then they keep their addresses{}",
                        some(containers.keys()),
                        if config.network.contains(&key.subnet) { "" } else { ", and cannot be reached from other hosts" }
                    )),
                    Err(full) => odd.push(format!("{unfit}, and {full}")),
                }
            }
            None => {}
        }
        let rival = elder(snapshot, facts, (key, stored), |other| {
            other.subnet.contains(&key.subnet) || key.subnet.contains(&other.subnet)
        });
        if let Some((other, holder)) = rival {
            let conflict =
                format!("subnet {} is also that of {}, whose lease {other} is older", key.subnet, holder_of(&holder.value));
            let cut = "other hosts send its packets there";
            match ipam::choose_subnet(config, taken(snapshot), None, seed(&facts.node)) {
                // One that somebody keeps by hand is his to move.
                _ if stored.lease.is_none() => odd.push(format!(
                    "{conflict}: {cut}; this one is kept by hand: delete {}, and this host claims another",
                    snapshot.layout().subnet(key)
                )),
                Ok(subnet) if containers.is_empty() => return leave(subnet, None, None),
                Ok(_) => odd.push(format!(
                    "{conflict}: {cut}; detach {}, and this host moves to another by itself",
                    some(containers.keys())
                )),
                Err(full) => odd.push(format!("{conflict}, and {full}")),
            }
        }
        let overlaps6 = |a: Ipv6Net, b: Ipv6Net| a.contains(&b) || b.contains(&a);
        let rival6 = key.v6.and_then(|v6| {
            let found = elder(snapshot, facts, (key, stored), |other| other.v6.is_some_and(|theirs| overlaps6(theirs, v6)))?;
            Some((v6, found))
        });
        let wanted_key = {
            // The uplink is away for the moment: the lease stays where it is.
            let key = key.in_tree(tree(facts, Some(key.tree)));
            match (&config.v6, key.v6) {
                (None, _) => SubnetKey { v6: None, ..key },
                (Some(range), Some(v6))
                    if facts.has_ipv6 && (range.could_give(v6) && rival6.is_none() || !containers.is_empty()) =>
                {
                    key
                }
                (Some(_), _) => match subnet6_for(snapshot, config, facts, key.subnet) {
                    Ok(v6) => SubnetKey { v6: Some(v6), ..key },
                    Err(why) => {
                        odd.push(why);
                        SubnetKey { v6: None, ..key }
                    }
                },
            }
        };
        let mut wanted = lease(macs, wanted_key.tree);
        if facts.public_ip.is_none() && facts.public_ipv6.is_none() {
            // What the others know is better than nothing.
            let there = &stored.value;
            (wanted.public_ip, wanted.public_ipv6) = (there.public_ip, there.public_ipv6);
            (wanted.backend_data, wanted.backend_v6_data) = (there.backend_data.clone(), there.backend_v6_data.clone());
            let said = there.weft.as_ref().map(|w| (w.mtu, w.udp6zero)).unwrap_or_default();
            wanted.weft = wanted.weft.map(|w| WeftLease { mtu: said.0, udp6zero: said.1, ..w });
        }
        // One that somebody keeps by hand, without a lease of the store, stays so.
        let on = stored.lease.map(|_| claim);
        // What somebody has made unreadable is written over as it is now: flannelds forget all peers over it.
        let bad = snapshot.bad_at(&snapshot.layout().subnet(key)).map(|bad| bad.modified);
        let over = bad.unwrap_or(stored.modified);
        if wanted_key != *key {
            return Todo::Rename { from: *key, over, to: wanted_key, lease: Box::new(wanted), on };
        }
        if stored.value == wanted && stored.lease == on && bad.is_none() {
            if let (Some(range), Some(v6)) = (&config.v6, key.v6)
                && !range.could_give(v6)
            {
                odd.push(format!("IPv6 subnet {v6} is none that {} gives any more; detach {}, and this host has another; until then they keep their addresses", range.network, some(containers.keys())));
            }
            if let Some((v6, (other, holder))) = rival6 {
                odd.push(format!(
                    "IPv6 subnet {v6} is also that of {}, whose lease {other} is older: other hosts send its packets there; detach \
                     {}, and this host takes another by itself",
                    holder_of(&holder.value),
                    some(containers.keys())
                ));
            }
            if key.tree == Tree::Weft {
                odd.push(format!(
                    "this host has no IPv4 address on its uplink, so hosts that run flannel cannot see it; its lease is {}",
                    snapshot.layout().subnet(key)
                ));
            }
            odd.extend(strayed(snapshot, key.subnet, containers));
            let odd = Some(odd.join("; ")).filter(|text| !text.is_empty());
            return Todo::Keep(Own { subnet: key.subnet, subnet6: key.v6, vtep_mac: macs.v4, vtep_mac6: macs.v6 }, odd);
        }
        return Todo::Write { key: *key, lease: Box::new(wanted), over, on };
    }
    let new = |subnet, reserved, over| {
        let tree = tree(facts, None);
        // Without one for now: the next look, with a lease, says why.
        let key = SubnetKey::new(subnet, subnet6_for(snapshot, config, facts, subnet).ok()).in_tree(tree);
        let lease = lease(known, tree);
        Todo::Claim(Box::new(SubnetClaim { key, lease, on: claim, reserved, over, leaving: None }))
    };
    // A subnet with containers in it goes before the one that is reserved.
    let of_containers = facts.preferred.filter(|subnet| containers.values().any(|address| subnet.contains(address)));
    let taken = taken(snapshot);
    match (&reserved, of_containers) {
        (Some(promised), Some(has)) if promised.subnet != has && ipam::is_free(config, &taken, has) => new(has, None, None),
        (Some(promised), _) => match &promised.free {
            Ok(over) => new(promised.subnet, Some(promised.at), *over),
            Err(why) => Todo::Wait(format!("claim subnet: {why}")),
        },
        (None, _) => match ipam::choose_subnet(config, taken, facts.preferred, seed(&facts.node)) {
            Ok(subnet) => new(subnet, None, None),
            Err(full) => Todo::Wait(format!("claim subnet: {}", full.stored_at(snapshot.layout().network_config()))),
        },
    }
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

/// The oldest lease of another owner that is older than the own one and overlaps it as `overlaps` says. The store compares
/// single keys, so two hosts that claim at once under keys with different IPv6 parts may get one subnet; all hosts then go
/// by the older lease ([`weft_plan::peers`]), and so does the owner of the other.
fn elder<'a>(
    snapshot: &'a Snapshot,
    facts: &Facts,
    (own, stored): (&SubnetKey, &Stored<Lease>),
    overlaps: impl Fn(&SubnetKey) -> bool,
) -> Option<(&'a SubnetKey, &'a Stored<Lease>)> {
    // A flanneld that ran here before is ourselves; a placeholder is nobody.
    let ours = |lease: &Lease| match lease.node() {
        Some(node) => *node == facts.node,
        None => facts.public_ip.is_some() && lease.public_ip == facts.public_ip,
    };
    let others = snapshot.leases().filter(|(_, lease)| !lease.value.is_placeholder() && !ours(&lease.value));
    let older = others.filter(|(key, lease)| (lease.created, **key) < (stored.created, *own));
    older.filter(|(key, _)| overlaps(key)).min_by_key(|(key, lease)| (lease.created, **key))
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

/// What claiming depends on.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The network; view and registry are of it.
    pub network: NetworkName,
    /// Writes.
    pub registry: Registry,
    /// The store's view.
    pub view: View,
    /// What this host would publish.
    pub facts: watch::Receiver<Option<Facts>>,
    /// Who it is; nothing is written while another host holds its name.
    pub me: watch::Receiver<Option<Me>>,
    /// The containers.
    pub published: watch::Receiver<Arc<Published>>,
    /// The lease that the subnet hangs on.
    pub claim: Kept,
}

/// Claims and keeps, until the process ends. `own` is set once there is a subnet and from then on always holds the last
/// one had; `reason` says why there is none, or why it is not as it should be.
pub async fn run(inputs: Inputs, own: watch::Sender<Option<Own>>, reason: watch::Sender<Option<String>>) {
    let Inputs { network, registry, mut view, mut facts, mut me, mut published, mut claim } = inputs;
    let mut echo = Echo::default();
    loop {
        let snapshot: Option<Arc<Snapshot>> = view.borrow_and_update().clone();
        let mut known: Option<Facts> = facts.borrow_and_update().clone();
        // What this host has counts more than what it remembered when it started.
        if let (Some(facts), Some(now)) = (&mut known, own.borrow().as_ref()) {
            facts.preferred = Some(now.subnet);
            facts.preferred6 = now.subnet6.or(facts.preferred6);
        }
        let here = published.borrow_and_update().clone();
        let here = here.by_id.values().filter(|a| a.network.as_ref().map_or(network.is_default(), |of| *of == network));
        let containers: Addresses = here.map(|a| (a.id.clone(), a.address)).collect();
        // Further networks' subnets are not remembered but by the containers in them.
        if let Some(facts) = known.as_mut().filter(|_| !network.is_default() && own.borrow().is_none()) {
            let len = snapshot.as_ref().and_then(|s| s.network()).map(|config| config.subnet_len);
            let of = |address: &Ipv4Addr| Ipv4Net::new(*address, len?).ok().map(|subnet| subnet.trunc());
            facts.preferred = containers.values().next().and_then(of);
        }
        let who = me.borrow_and_update().clone();
        let lease = *claim.id.borrow_and_update();
        let mut retry = LONG;
        if let (Some(snapshot), Some(known), Some(who)) = (snapshot, known, who)
            && echo.heard(snapshot.revision())
        {
            // The subnet belongs to the name: whoever does not hold the one writes nothing about the other.
            let todo = match held_by_other(&snapshot, &who) {
                Some(other) => Todo::Wait(held_sentence(&other.value)),
                None => decide(&snapshot, &known, lease, &containers),
            };
            match todo {
                Todo::Wait(why) => {
                    if reason.send_replace(Some(why.clone())).as_ref() != Some(&why) {
                        info!(reason = why, "no subnet yet");
                    }
                }
                Todo::Keep(now, odd) => {
                    reason.send_replace(odd);
                    let before = own.borrow().clone();
                    if before.as_ref() != Some(&now) {
                        warn_if_moved(before.as_ref(), &now);
                        own.send_replace(Some(now));
                    }
                }
                Todo::Claim(new) => {
                    let written = registry.claim_subnet(&new).await;
                    retry = followed(written, &new.key, "claimed subnet", (&mut echo, &claim, &reason));
                }
                Todo::Write { key, lease, over, on } => {
                    let written = registry.write_lease(&key, &lease, Some(over), on).await;
                    retry = followed(written, &key, "wrote own lease anew", (&mut echo, &claim, &reason));
                }
                Todo::Rename { from, over, to, lease, on } => {
                    info!(
                        from = registry.layout().subnet(&from),
                        to = registry.layout().subnet(&to),
                        "own lease gets another key"
                    );
                    let written = registry.rename_lease((&from, over), &to, &lease, on).await;
                    retry = followed(written, &to, "wrote own lease anew", (&mut echo, &claim, &reason));
                }
            }
        }
        tokio::select! {
            Ok(()) = view.changed() => {}
            Ok(()) = facts.changed() => {}
            Ok(()) = me.changed() => {}
            Ok(()) = published.changed() => {}
            Ok(()) = claim.id.changed() => {}
            () = tokio::time::sleep(echo.patience().unwrap_or(retry)) => {}
        }
    }
}

/// What follows from a write. Returns when to look again although nothing has changed.
fn followed(
    written: Result<Outcome, StoreError>,
    key: &SubnetKey,
    what: &'static str,
    (echo, claim, reason): (&mut Echo, &Kept, &watch::Sender<Option<String>>),
) -> Duration {
    match written {
        Ok(Outcome::Done(revision)) => {
            info!(subnet = %key.subnet, %revision, "{what}");
            *echo = Echo::of(revision);
        }
        Ok(Outcome::Refused(revision)) => {
            debug!(subnet = %key.subnet, "somebody was faster");
            *echo = Echo::of(revision);
        }
        Err(e) => {
            if matches!(e, StoreError::LeaseGone { .. }) {
                claim.check_now();
            }
            reason.send_replace(Some(format!("claim subnet {}: {}", key.subnet, chain(&e))));
            return Duration::from_secs(1);
        }
    }
    LONG
}

/// How long to rest when nothing changes.
const LONG: Duration = Duration::from_secs(3600);

fn warn_if_moved(before: Option<&Own>, now: &Own) {
    match before {
        Some(before) if before.subnet != now.subnet => {
            warn!(before = %before.subnet, now = %now.subnet, "this host has another subnet; containers attached before keep their addresses and cannot be reached from other hosts");
        }
        Some(before) if before.subnet6 != now.subnet6 => info!(subnet6 = ?now.subnet6, "this host's IPv6 subnet"),
        Some(_) => {}
        None => info!(subnet = %now.subnet, subnet6 = ?now.subnet6, "claimed subnet"),
    }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
