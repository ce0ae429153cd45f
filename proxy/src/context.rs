//! Which addresses are never backends, and who owns a virtual IP.
//!
//! An address is judged by what it is (loopback, multicast, …) and by whom it belongs to: the cluster's own services, gateways
//! and hosts. Nothing is looked up here but the snapshot; what an endpoint's port or state has to say is [`crate::pick`]'s.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_model::ids::{NodeName, ServiceName};
use weft_model::record::Proto;
use weft_model::snapshot::Snapshot;
use weft_model::snapshot::owners::VipOwners;

use crate::quarantine::Quarantine;

/// What the cluster's addresses mean, the same for all services. Equal contexts give equal verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    service_cidrs: Vec<IpNet>,
    vips: VipOwners,
    hosts: BTreeMap<IpAddr, HostAddress>,
    /// Whose subnet begins at an address.
    subnets: BTreeMap<IpAddr, (IpNet, Option<NodeName>)>,
    quarantine: Arc<Quarantine>,
}

/// What an address is on a host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// The first address of a subnet: its containers' gateway and DNS server.
    Gateway(IpNet),
    /// The zeroth address of a subnet: its overlay device's.
    Overlay(IpNet),
    /// The address of the host that holds this subnet.
    Holder(IpNet),
    /// A host's own address.
    Node(NodeName),
}

/// Why an endpoint, or one address of it, is no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `0.0.0.0/8` or `::`.
    Unspecified(IpAddr),
    /// An address of a group.
    Multicast(IpAddr),
    /// `255.255.255.255`.
    Broadcast(IpAddr),
    /// In a service range: a virtual IP, of whichever service or of none.
    InServiceRange(IpAddr, IpNet),
    /// A service's virtual IP outside of the service ranges.
    VirtualIp(IpAddr, ServiceName),
    /// `127.0.0.0/8` or `::1`.
    Loopback(IpAddr),
    /// `169.254.0.0/16` or `fe80::/10`.
    LinkLocal(IpAddr),
    /// An address of a host.
    Host(IpAddr, HostAddress),
    /// The host that wrote the record is lost, and the address is of this subnet, which another host has by now.
    Reassigned(IpAddr, IpNet),
    /// The record holds a name where a backend has an address.
    HostName(String),
    /// Another endpoint of the service, of this id, has the address and port as well: the two are one backend, and that one
    /// speaks for it.
    SameAddress(IpAddr, u16, String),
    /// The service asks for a port by name, and the endpoint has none of that name.
    NoPort(String, Proto),
}

/// Why a virtual IP of a service is not programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VipFault {
    /// Another service has it.
    Taken(ServiceName),
    /// It lies in no service range.
    OutOfRange,
    /// It is an address that has another meaning.
    Reserved(Reason),
}

impl Context {
    /// What the addresses mean in this snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let service_cidrs = snapshot.cluster().service_cidrs.clone();
        let mut context = Self { service_cidrs, vips: snapshot.vip_owners(), ..Self::default() };
        for (key, lease) in snapshot.leases_of_all() {
            let subnet = IpNet::V4(key.subnet);
            let holder = || lease.value.node().cloned().map_or(HostAddress::Holder(subnet), HostAddress::Node);
            context.add(lease.value.public_ip.map(Into::into), holder);
            context.add(lease.value.public_ipv6.map(Into::into), holder);
            context.add_subnet(subnet, lease.value.node());
            if let Some(v6) = key.v6 {
                context.add_subnet(IpNet::V6(v6), lease.value.node());
            }
        }
        for (name, node) in snapshot.nodes() {
            context.add(node.value.public_ip.map(Into::into), || HostAddress::Node(name.clone()));
            context.add(node.value.public_ipv6.map(Into::into), || HostAddress::Node(name.clone()));
        }
        context
    }

    /// The same, and who is in quarantine on this host besides.
    #[must_use]
    pub fn with_quarantine(mut self, quarantine: Arc<Quarantine>) -> Self {
        self.quarantine = quarantine;
        self
    }

    /// Who is in quarantine.
    #[must_use]
    pub fn quarantine(&self) -> &Arc<Quarantine> {
        &self.quarantine
    }

    fn add(&mut self, address: Option<IpAddr>, what: impl FnOnce() -> HostAddress) {
        if let Some(address) = address {
            self.hosts.entry(address).or_insert_with(what);
        }
    }

    fn add_subnet(&mut self, subnet: IpNet, holder: Option<&NodeName>) {
        self.subnets.insert(subnet.network(), (subnet, holder.cloned()));
        let overlay = subnet.network();
        let gateway = match overlay {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a).saturating_add(1))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a).saturating_add(1))),
        };
        self.add(Some(overlay), || HostAddress::Overlay(subnet));
        self.add(Some(gateway), || HostAddress::Gateway(subnet));
    }

    /// Why `address` is no backend; `None` if it may be one. With `allow_hosts` only what can never work counts.
    #[must_use]
    pub fn reject(&self, address: IpAddr, allow_hosts: bool) -> Option<Reason> {
        let address = address.to_canonical();
        if let Some(reason) = meaningless(address) {
            return Some(reason);
        }
        if let Some(range) = self.service_cidrs.iter().find(|r| r.contains(&address)) {
            return Some(Reason::InServiceRange(address, *range));
        }
        if let Some(service) = self.vips.of(address) {
            return Some(Reason::VirtualIp(address, service.clone()));
        }
        if allow_hosts { None } else { self.host(address) }
    }

    /// Why `address` of an endpoint whose host, `node`, is lost is no backend: a container of another host may have it by now.
    /// A host that lives knows best what addresses its containers have, so this is not asked of its endpoints.
    #[must_use]
    pub fn reassigned(&self, address: IpAddr, node: Option<&NodeName>) -> Option<Reason> {
        let address = address.to_canonical();
        let (_, (subnet, holder)) = self.subnets.range(..=address).next_back()?;
        (subnet.contains(&address) && holder.as_ref() != node).then_some(Reason::Reassigned(address, *subnet))
    }

    /// What `address` is, if it is a host's, or another one on every host.
    fn host(&self, address: IpAddr) -> Option<Reason> {
        if address.is_loopback() {
            return Some(Reason::Loopback(address));
        }
        if is_link_local(address) {
            return Some(Reason::LinkLocal(address));
        }
        self.hosts.get(&address).map(|host| Reason::Host(address, host.clone()))
    }

    /// The services that list this virtual IP, which is another's.
    #[must_use]
    pub fn rivals(&self, vip: IpAddr) -> &[ServiceName] {
        self.vips.rivals(vip)
    }

    /// Why `vip` does not stand for `service`; `None` if it does.
    ///
    /// A virtual IP takes traffic away from whoever has the address, so it must lie in a service range, where nobody has one.
    /// The programs hold to the same ranges.
    #[must_use]
    pub fn vip_fault(&self, vip: IpAddr, service: &ServiceName) -> Option<VipFault> {
        let vip = vip.to_canonical();
        if let Some(other) = self.vips.of(vip).filter(|owner| *owner != service) {
            return Some(VipFault::Taken(other.clone()));
        }
        if let Some(reason) = meaningless(vip).or_else(|| self.host(vip)) {
            return Some(VipFault::Reserved(reason));
        }
        (!self.service_cidrs.iter().any(|r| r.contains(&vip))).then_some(VipFault::OutOfRange)
    }
}

/// What nobody can connect to.
fn meaningless(address: IpAddr) -> Option<Reason> {
    let none = match address {
        // RFC 1122 3.2.1.3: all of 0.0.0.0/8 is "this host"; Linux takes a destination of 0.0.0.0 for loopback.
        IpAddr::V4(a) => a.octets()[0] == 0,
        IpAddr::V6(a) => a.is_unspecified(),
    };
    if none {
        Some(Reason::Unspecified(address))
    } else if address.is_multicast() {
        Some(Reason::Multicast(address))
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some(Reason::Broadcast(address))
    } else {
        None
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(subnet) => write!(f, "the gateway of {subnet}"),
            Self::Overlay(subnet) => write!(f, "the overlay device's address of {subnet}"),
            Self::Holder(subnet) => write!(f, "an address of the host that holds {subnet}"),
            Self::Node(node) => write!(f, "an address of host {node}"),
        }
    }
}

impl Reason {
    /// Whether the service could allow it with `allow_hosts`.
    #[must_use]
    pub fn can_be_allowed(&self) -> bool {
        matches!(self, Self::Loopback(_) | Self::LinkLocal(_) | Self::Host(..))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified(a) => write!(f, "{a} stands for no host"),
            Self::Multicast(a) => write!(f, "{a} is a multicast address"),
            Self::Broadcast(a) => write!(f, "{a} is the broadcast address"),
            Self::InServiceRange(a, range) => write!(f, "{a} is a virtual IP, of the range {range}"),
            Self::VirtualIp(a, service) => write!(f, "{a} is a virtual IP, of the service {service}"),
            Self::Loopback(a) => write!(f, "{a} is a loopback address, another place on every host"),
            Self::LinkLocal(a) => write!(f, "{a} is a link-local address, another place on every link"),
            Self::Host(a, host) => write!(f, "{a} is {host}"),
            Self::Reassigned(a, subnet) => write!(f, "its host is lost, and {a} is of {subnet}, which another host has"),
            Self::HostName(name) => write!(f, "{name} is a name, and a backend is an address"),
            Self::SameAddress(a, port, other) => {
                write!(f, "{} is the endpoint {other}'s as well, and one backend for both", SocketAddr::new(*a, *port))
            }
            Self::NoPort(name, proto) => write!(f, "it has no {proto} port named {name}"),
        }?;
        if self.can_be_allowed() { f.write_str("; the service may say allow_hosts") } else { Ok(()) }
    }
}

impl fmt::Display for VipFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(service) => write!(f, "it belongs to the service {service}"),
            Self::OutOfRange => f.write_str("it is in no service range; add its range to service_cidrs with netctl config set"),
            // Not the reason's own text: allow_hosts is about backends.
            Self::Reserved(Reason::Host(_, host)) => write!(f, "it is {host}"),
            Self::Reserved(Reason::Loopback(_)) => f.write_str("it is a loopback address"),
            Self::Reserved(Reason::LinkLocal(_)) => f.write_str("it is a link-local address"),
            Self::Reserved(reason) => reason.fmt(f),
        }
    }
}
