//! Any world can follow any world: the plan is carried out on a model of the kernel that refuses what the kernel refuses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;
use weft_model::mac::Mac;

use super::*;
use crate::links::{Kind, Vxlan, ZeroChecksums};

/// What Linux would hold after `action`.
///
/// # Panics
/// When Linux would refuse it.
fn apply(world: &mut Rows, action: &Action) {
    let up =
        |world: &Rows, device: &str| OTHERS.contains(&device) || world.links.get(&device.to_owned()).is_some_and(|link| link.up);
    match action {
        Action::Sysctl(Step::Remove(_)) => panic!("{action}: settings are not removed"),
        Action::Sysctl(step) => {
            let row = step.row();
            let there = row.device().is_none_or(|device| OTHERS.contains(&device) || world.links.contains(&device.to_owned()));
            assert!(there, "{action}: no such device");
            world.sysctls.insert(row.clone());
        }
        Action::Link(Step::Add(link)) => {
            assert!(!world.links.contains(&link.name), "{action}: file exists");
            assert_ne!(link.kind, Kind::Veth, "{action}: a plan makes no veth");
            world.links.insert(link.clone());
        }
        Action::Link(Step::Change { from, to }) => {
            assert_eq!(world.links.get(&from.name), Some(from), "{action}: is another one");
            assert!(from.can_become(to), "{action}: operation not supported");
            world.links.insert(to.clone());
            if from.mac() != to.mac() {
                world.neighbors.retain(|row| row.device != to.name);
            }
        }
        Action::Link(Step::Remove(link)) => {
            assert!(world.links.remove(&link.name).is_some(), "{action}: no such device");
            world.addresses.retain(|row| row.device != link.name);
            world.neighbors.retain(|row| row.device != link.name);
            world.forwards.retain(|row| row.device != link.name);
            world.routes.retain(|row| row.via.device() != Some(&link.name));
            world.sysctls.retain(|row| row.device() != Some(&link.name));
        }
        Action::Address(step) => {
            assert!(step.is_removal() || up(world, &step.row().device), "{action}: no device");
            table(&mut world.addresses, step);
        }
        Action::Neighbor(step) => {
            assert!(step.is_removal() || up(world, &step.row().device), "{action}: no device");
            table(&mut world.neighbors, step);
        }
        Action::Forward(step) => {
            assert!(step.is_removal() || up(world, &step.row().device), "{action}: no device");
            table(&mut world.forwards, step);
        }
        Action::Route(step) => {
            let device = step.row().via.device();
            assert!(step.is_removal() || device.is_none_or(|d| up(world, d)), "{action}: no device, or it is down");
            table(&mut world.routes, step);
        }
    }
}

fn table<R: Row>(table: &mut Table<R>, step: &Step<R>) {
    match step {
        Step::Add(row) => {
            assert!(!table.contains(&row.key()), "add {row}: file exists");
            table.insert(row.clone());
        }
        Step::Change { from, to } => {
            assert_eq!(table.get(&from.key()), Some(from), "change {to}: is another one");
            table.insert(to.clone());
        }
        Step::Remove(row) => assert!(table.remove(&row.key()).is_some(), "remove {row}: is not there"),
    }
}

const VETHS: [&str; 3] = ["weft0000000001", "weft0000000002", "weft0000000003"];
const DEVICES: [&str; 8] = ["lo", "u0", "weft.1", "weft.2", "weft6.1", VETHS[0], VETHS[1], VETHS[2]];
/// Devices that are there whatever is planned.
const OTHERS: [&str; 2] = ["lo", "u0"];

fn links() -> impl Strategy<Value = Table<Link>> {
    let device = (1..3u32, any::<bool>(), 0..2u8, 0..2u8, 0..2u16, 0..2u32);
    let vxlan = (device, any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(
        |((vni, v6, local, mac, port, mtu), up, sent, foreign)| {
            let address = if v6 {
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, local.into()).into()
            } else {
                Ipv4Addr::new(192, 0, 2, local).into()
            };
            let vxlan = Vxlan {
                vni,
                local: address,
                parent: 2 + u32::from(local),
                port: 8472 + port,
                mac: Mac([2, 0, 0, 0, 0, mac]),
                mtu: 1450 + mtu,
                learning: false,
                zero_checksums: ZeroChecksums { sent, taken: v6 },
                foreign,
            };
            // One of the other family may have the name, too.
            let name = if v6 && mac == 0 { links::vxlan6_name(vni) } else { links::vxlan_name(vni) };
            Link { name, kind: Kind::Vxlan(vxlan), up }
        },
    );
    let veth = (0..3usize, any::<bool>()).prop_map(|(n, up)| Link { name: VETHS[n].to_owned(), kind: Kind::Veth, up });
    prop::collection::vec(prop_oneof![vxlan, veth], 0..5).prop_map(Table::from_iter)
}

fn rows() -> impl Strategy<Value = Rows> {
    let device = || (0..DEVICES.len()).prop_map(|n| DEVICES[n].to_owned());
    let ip = || {
        (0..4u8, any::<bool>()).prop_map(|(n, v6)| match v6 {
            false => IpAddr::V4(Ipv4Addr::new(10, 244, n, 0)),
            true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, n.into(), 0, 0, 0, 0)),
        })
    };
    let vxlan = || (1..4u32).prop_map(|n| if n == 3 { links::vxlan6_name(1) } else { links::vxlan_name(n) });
    let mac = || (0..3u8).prop_map(|n| Mac([2, 0, 0, 0, 1, n]));
    let address = (device(), ip()).prop_map(|(device, ip)| Address { device, address: ip.into() });
    let neighbor = (device(), ip(), mac()).prop_map(|(device, address, mac)| Neighbor { device, address, mac });
    let forward = (vxlan(), mac(), ip()).prop_map(|(device, mac, remote)| Forward { device, mac, remote });
    let via = prop_oneof![
        (ip(), device()).prop_map(|(gateway, device)| Via::Gateway { gateway, device }),
        device().prop_map(Via::Device),
        Just(Via::Unreachable),
        Just(Via::Foreign),
    ];
    let route = (ip(), 0..2u32, via, prop::option::of(Just(1400u32))).prop_map(|(ip, metric, via, mtu)| Route {
        destination: IpNet::new(ip, 24).unwrap().trunc(),
        metric,
        via,
        mtu,
    });
    let sysctl = (device(), 0..2u8, any::<bool>()).prop_map(|(device, value, v6)| match (device.as_str(), v6) {
        (LOOPBACK, false) => setting("net/ipv4/ip_forward".to_owned(), value, None),
        (LOOPBACK, true) => setting("net/ipv6/conf/all/forwarding".to_owned(), value, None),
        ("u0", _) => setting("net/ipv6/conf/u0/accept_ra".to_owned(), value * 2, Some("1")),
        (_, false) => setting(format!("net/ipv4/conf/{device}/forwarding"), value, None),
        (_, true) => setting(format!("net/ipv6/conf/{device}/accept_ra"), value, None),
    });
    let list = 0..6usize;
    (
        prop::collection::vec(sysctl, list.clone()),
        links(),
        prop::collection::vec(address, list.clone()),
        prop::collection::vec(neighbor, list.clone()),
        prop::collection::vec(forward, list.clone()),
        prop::collection::vec(route, list),
    )
        .prop_map(|(sysctls, links, addresses, neighbors, forwards, routes)| Rows {
            sysctls: sysctls.into_iter().collect(),
            links,
            addresses: addresses.into_iter().collect(),
            neighbors: neighbors.into_iter().collect(),
            forwards: forwards.into_iter().collect(),
            routes: routes.into_iter().collect(),
        })
}

fn setting(path: String, value: u8, over: Option<&'static str>) -> Sysctl {
    Sysctl { path, value: value.to_string(), over }
}

/// What a kernel can hold: nothing stands on a device that is not there, and routes not on one that is down.
fn world() -> impl Strategy<Value = Rows> {
    rows().prop_map(|mut rows| {
        drop_impossible(&mut rows);
        rows
    })
}

/// What can be wanted: all devices up, nothing foreign, and rows on wanted devices only.
fn wanted() -> impl Strategy<Value = Rows> {
    rows().prop_map(|mut rows| {
        rows.links = rows
            .links
            .iter()
            .map(|link| {
                let kind = match &link.kind {
                    Kind::Vxlan(vxlan) => Kind::Vxlan(Vxlan { foreign: false, ..vxlan.clone() }),
                    Kind::Veth => Kind::Veth,
                };
                Link { name: link.name.clone(), kind, up: true }
            })
            .collect();
        rows.routes.retain(|row| row.via != Via::Foreign);
        drop_impossible(&mut rows);
        rows
    })
}

fn drop_impossible(rows: &mut Rows) {
    let links = rows.links.clone();
    let there = |device: &str| OTHERS.contains(&device) || links.contains(&device.to_owned());
    let up = |device: &str| OTHERS.contains(&device) || links.get(&device.to_owned()).is_some_and(|link| link.up);
    rows.addresses.retain(|row| there(&row.device));
    rows.neighbors.retain(|row| up(&row.device));
    rows.forwards.retain(|row| there(&row.device));
    rows.routes.retain(|row| row.via.device().is_none_or(up));
    rows.sysctls.retain(|row| row.device().is_none_or(there));
}

/// What of `wanted` a plan alone can reach from `actual`: it makes no veth pairs, and puts no setting back.
fn reachable(wanted: &Rows, actual: &Rows) -> Rows {
    let mut reachable = wanted.clone();
    reachable.links.retain(|link| link.kind != Kind::Veth || actual.links.contains(&link.name));
    drop_impossible(&mut reachable);
    // Of a setting that may only take the place of one value, whether it is made depends on what is there.
    reachable.sysctls.retain(|row| row.may_replace(actual.sysctls.get(&row.path).map(|now| now.value.as_str())));
    let there = |device: &str| OTHERS.contains(&device) || reachable.links.contains(&device.to_owned());
    for row in actual.sysctls.iter().filter(|row| row.device().is_none_or(there)) {
        let replaced = row.device().is_some_and(|d| {
            let (from, to) = (actual.links.get(&d.to_owned()), reachable.links.get(&d.to_owned()));
            from.zip(to).is_some_and(|(from, to)| !from.can_become(to))
        });
        if !replaced {
            reachable.sysctls.insert_new(row.clone());
        }
    }
    reachable
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_world_follows_any_world_in_steps_the_kernel_takes(wanted in wanted(), before in world()) {
        let mut actual = before.clone();
        for action in diff(&wanted, &actual) {
            apply(&mut actual, &action);
        }
        prop_assert_eq!(&actual, &reachable(&wanted, &before));
        prop_assert_eq!(diff(&wanted, &actual), vec![]);
    }

    #[test]
    fn stopping_anywhere_and_starting_over_converges(wanted in wanted(), before in world(), stop in 0..40usize) {
        let mut actual = before.clone();
        for action in diff(&wanted, &actual).iter().take(stop) {
            apply(&mut actual, action);
        }
        for action in diff(&wanted, &actual) {
            apply(&mut actual, &action);
        }
        prop_assert_eq!(diff(&wanted, &actual), vec![]);
    }

    #[test]
    fn nothing_of_ours_is_left_when_nothing_is_wanted(before in world()) {
        let mut actual = before;
        for action in diff(&Rows::default(), &actual) {
            apply(&mut actual, &action);
        }
        actual.sysctls = Table::default();
        prop_assert_eq!(actual, Rows::default());
    }
}
