//! Subnets that are kept for hosts.

use ipnet::Ipv4Net;
use weft_api::{ReservationView, Reserve};
use weft_model::ids::{NetworkName, NodeName, Revision};
use weft_model::reservation::Reservation;
use weft_model::snapshot::{Snapshot, Stored};
use weft_model::subnet::{Lease, SubnetKey};
use weft_store::Outcome;

use super::Admin;
use crate::claim::holder_of;
use crate::refusal::Refusal;

impl Admin {
    pub(super) fn reservations(&self) -> Result<Vec<ReservationView>, Refusal> {
        let snapshot = self.snapshot()?;
        let of_default = snapshot.reservations().filter(|(network, ..)| network.is_default());
        Ok(of_default.map(|(_, subnet, stored)| view(&snapshot, subnet, &stored.value)).collect())
    }

    /// Keeps a subnet for a host. Asked again, it says the same.
    pub(super) async fn reserve(&self, reserve: Reserve) -> Result<ReservationView, Refusal> {
        let snapshot = self.snapshot()?;
        let Some((reservation, held)) = promise(&snapshot, &reserve)? else {
            return Ok(view(&snapshot, reserve.subnet, &Reservation::of(reserve.node)));
        };
        let (key, held) = held.map_or_else(|| (SubnetKey::v4(reserve.subnet), None), |(key, at)| (key, Some(at)));
        let written = self.registry.reserve(&key, &reservation, held).await;
        match written.map_err(|e| Refusal::store("network reserve", &e))? {
            Outcome::Done(revision) => self.echo(revision).await,
            Outcome::Refused(_) => {
                return Err(Refusal::conflict(format!(
                    "network reserve: {} was claimed or reserved by somebody at the same time; netctl network reservations and \
                     netctl node list tell by whom",
                    reserve.subnet
                )));
            }
        }
        Ok(view(&*self.snapshot()?, reserve.subnet, &reservation))
    }

    /// Takes a host's reservation back. A subnet that it has stays its own.
    pub(super) async fn unreserve(&self, name: &str) -> Result<ReservationView, Refusal> {
        let snapshot = self.snapshot()?;
        let network = NetworkName::default_network();
        let node: Option<NodeName> = name.parse().ok();
        let found = node.as_ref().and_then(|node| snapshot.reservation_of(&network, node));
        let Some((subnet, stored)) = found else {
            return Err(Refusal::not_found(format!(
                "network unreserve: no subnet is reserved for {name}; netctl network reservations shows what is"
            )));
        };
        let gone = view(&snapshot, subnet, &stored.value);
        let placeholder = overlapping(&snapshot, subnet)
            .find(|(key, lease)| key.subnet == subnet && is_placeholder(lease))
            .map(|(key, lease)| (key, lease.modified));
        let written = self.registry.unreserve(&SubnetKey::v4(subnet), stored.modified, placeholder).await;
        match written.map_err(|e| Refusal::store("network unreserve", &e))? {
            Outcome::Done(revision) => self.echo(revision).await,
            Outcome::Refused(_) => {
                return Err(Refusal::conflict(format!(
                    "network unreserve: {subnet} was claimed, or its reservation changed, at the same time; try again"
                )));
            }
        }
        Ok(gone)
    }
}

/// The leases that have to do with a subnet.
fn overlapping(snapshot: &Snapshot, subnet: Ipv4Net) -> impl Iterator<Item = (&SubnetKey, &Stored<Lease>)> {
    snapshot.leases().filter(move |(key, _)| key.subnet.contains(&subnet) || subnet.contains(&key.subnet))
}

/// A placeholder that is ours: a flannel host of the backend `alloc` has its lease on a lease of the store.
fn is_placeholder(lease: &Stored<Lease>) -> bool {
    lease.value.is_placeholder() && lease.lease.is_none()
}

/// A reservation to write, and the owner's lease where that has the subnet already.
type Promise = (Reservation, Option<(SubnetKey, Revision)>);

/// What is to be written; nothing if it stands already.
fn promise(snapshot: &Snapshot, reserve: &Reserve) -> Result<Option<Promise>, Refusal> {
    let Reserve { node, subnet } = reserve;
    let config = snapshot.network().ok_or_else(|| {
        Refusal::not_found(format!(
            "network reserve: there is no network yet ({}): netctl network init --cidr 10.244.0.0/16",
            snapshot.layout().network_config()
        ))
    })?;
    if !config.could_give(*subnet) {
        return Err(Refusal::invalid(format!(
            "network reserve: {subnet} is none of the subnets of {}: /{}, {} to {}",
            config.network, config.subnet_len, config.subnet_min, config.subnet_max
        )));
    }
    let network = NetworkName::default_network();
    let mut of_default = snapshot.reservations().filter(|(of, ..)| of.is_default());
    if let Some((_, other, stored)) = of_default.find(|(_, s, _)| s.contains(subnet) || subnet.contains(s)) {
        if stored.value.node == *node && other == *subnet {
            return Ok(None);
        }
        return Err(Refusal::conflict(format!(
            "network reserve: {other} is reserved for {0}; netctl network unreserve {0} gives it up",
            stored.value.node
        )));
    }
    if let Some((other, _)) = snapshot.reservation_of(&network, node) {
        return Err(Refusal::conflict(format!(
            "network reserve: {node} has {other} reserved, and a host has one subnet; netctl network unreserve {node} gives it up"
        )));
    }
    let reservation = Reservation::of(node.clone());
    let mut held = None;
    for (key, lease) in overlapping(snapshot, *subnet) {
        if key.subnet == *subnet && reservation.is_owners(&lease.value) {
            held = Some((*key, lease.modified));
        } else {
            let holder = holder_of(&lease.value);
            return Err(Refusal::conflict(format!(
                "network reserve: {} is held by {holder}; choose another one, or free it first (netctl node rm {holder}, once it \
                 is dead)",
                key.subnet
            )));
        }
    }
    Ok(Some((reservation, held)))
}

fn view(snapshot: &Snapshot, subnet: Ipv4Net, reservation: &Reservation) -> ReservationView {
    let node = &reservation.node;
    let holder = overlapping(snapshot, subnet).find(|(_, lease)| !is_placeholder(lease)).map(|(_, lease)| &lease.value);
    let held = holder.is_some_and(|lease| reservation.is_owners(lease));
    let elsewhere = snapshot.leases().find(|(_, lease)| reservation.is_owners(&lease.value)).map(|(key, _)| key.subnet);
    let note = match (holder, elsewhere) {
        (Some(_), _) if held => None,
        (Some(other), _) => Some(format!("held by {}", holder_of(other))),
        (None, Some(has)) => Some(match reservation.flannel() {
            None => format!("{node} has {has}, and moves when no container is left on it"),
            Some(_) => format!("{node} has {has}; delete that lease in etcd while its flanneld is stopped"),
        }),
        (None, None) => None,
    };
    ReservationView { subnet, node: node.clone(), holder: holder.map(holder_of), held, note }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::keys::Layout;
    use weft_model::stored::Entry;

    use super::*;

    fn world() -> Snapshot {
        let lease = |ip: &str, weft: &str| format!(r#"{{"PublicIP":"{ip}","BackendType":"host-gw"{weft}}}"#);
        let placeholder = Reservation::of("h3".parse().unwrap()).placeholder().to_json();
        let entries = [
            ("/coreos.com/network/config", r#"{"Network":"10.244.0.0/16"}"#.to_owned()),
            ("/coreos.com/network/subnets/10.244.1.0-24", lease("192.0.2.1", r#","weft":{"node":"h1"}"#)),
            ("/coreos.com/network/subnets/10.244.9.0-24", lease("192.0.2.9", "")),
            ("/coreos.com/network/subnets/10.244.3.0-24", placeholder),
            ("/weft/v1/reservations/default/10.244.3.0-24", r#"{"node":"h3"}"#.to_owned()),
        ];
        let entry = |(key, value): (&str, String)| Entry {
            key: key.into(),
            value: value.into_bytes(),
            lease: None,
            created: Revision(5),
            modified: Revision(5),
        };
        Snapshot::complete(Arc::new(Layout::default()), Revision(9), entries.into_iter().map(entry).collect(), None)
    }

    fn asked(node: &str, subnet: &str) -> Result<Option<Promise>, String> {
        promise(&world(), &Reserve { node: node.parse().unwrap(), subnet: subnet.parse().unwrap() }).map_err(|r| r.message)
    }

    #[test]
    fn a_free_subnet_or_the_hosts_own_is_promised_and_the_same_again_is_no_news() {
        assert_eq!(asked("h2", "10.244.7.0/24").unwrap().unwrap().1, None);
        let own = (SubnetKey::v4("10.244.1.0/24".parse().unwrap()), Revision(5));
        assert_eq!(asked("h1", "10.244.1.0/24").unwrap().unwrap().1, Some(own));
        let flannels = asked("192.0.2.9", "10.244.9.0/24").unwrap().unwrap();
        assert_eq!(flannels.1.unwrap().0.subnet.to_string(), "10.244.9.0/24");
        assert_eq!(asked("h3", "10.244.3.0/24"), Ok(None));
    }

    #[test]
    fn what_another_has_or_cannot_be_is_refused_and_told_by_whom() {
        for (node, subnet, why) in [
            ("h2", "10.244.1.0/24", "10.244.1.0/24 is held by h1"),
            ("h2", "10.244.9.0/24", "10.244.9.0/24 is held by 192.0.2.9"),
            ("h2", "10.244.3.0/24", "10.244.3.0/24 is reserved for h3; netctl network unreserve h3"),
            ("h3", "10.244.4.0/24", "h3 has 10.244.3.0/24 reserved"),
            ("h2", "10.244.7.0/25", "is none of the subnets of 10.244.0.0/16: /24, 10.244.1.0 to 10.244.255.0"),
            ("h2", "10.99.7.0/24", "is none of the subnets"),
            ("h2", "10.244.0.0/24", "is none of the subnets"),
        ] {
            let said = asked(node, subnet).unwrap_err();
            assert!(said.contains(why), "{node} {subnet}: {said}");
        }
    }

    #[test]
    fn a_reservation_says_whether_its_host_has_it() {
        let s = world();
        let view = |node: &str, subnet: &str| view(&s, subnet.parse().unwrap(), &Reservation::of(node.parse().unwrap()));
        assert_eq!((view("h3", "10.244.3.0/24").holder, view("h3", "10.244.3.0/24").note), (None, None));
        let held = view("h1", "10.244.1.0/24");
        assert!(held.held && held.holder.as_deref() == Some("h1"));
        assert_eq!(view("h2", "10.244.9.0/24").note.unwrap(), "held by 192.0.2.9");
        assert!(view("h1", "10.244.5.0/24").note.unwrap().contains("h1 has 10.244.1.0/24"));
    }
}
