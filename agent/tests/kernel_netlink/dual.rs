//! Both families, inside and outside, by the kernel path alone.

use std::collections::BTreeSet;

use weft_model::snapshot::Snapshot;
use weft_plan::Table;
use weft_plan::kernel::{Action, Rows};

use crate::lab::{Machine, dual_lease, one_host, snapshot, two_hosts};

/// Two hosts of a dual-stack network; `outside` says of each which families it has, `weft` whether they know each other as
/// Weft hosts.
async fn hosts(outside: [(bool, bool); 2], weft: bool) -> (Machine, Machine, [Snapshot; 2]) {
    let (mut one, mut two, _) = two_hosts();
    let lease = |n: u8, weft| dual_lease(n, outside[usize::from(n) - 1].0, outside[usize::from(n) - 1].1, weft);
    let views = [[lease(1, true), lease(2, weft)], [lease(1, weft), lease(2, true)]].map(|leases| snapshot(&leases));
    for (machine, (v4, v6), view) in [(&mut one, outside[0], &views[0]), (&mut two, outside[1], &views[1])] {
        machine.dual(v4, v6);
        machine.follow(&machine.desired(view).kernel).await;
        let wanted = machine.desired(view);
        assert_eq!(wanted.warnings, []);
        assert_eq!(machine.plan(&wanted.kernel).await, []);
    }
    (one, two, views)
}

/// Frames that a device has passed on; none if it is not there.
fn passed(machine: &Machine, device: &str) -> u64 {
    let text = machine.place.run("cat /proc/net/dev");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{device}:")).map(str::to_owned));
    line.map_or(0, |line| line.split_whitespace().nth(9).unwrap().parse().unwrap())
}

/// Containers of both hosts reach each other in both families, with packets as long as promised.
async fn talk(one: &mut Machine, two: &mut Machine, views: &[Snapshot; 2], mtu6: u32) {
    let (near, near4, near6) = one.attach_dual(&views[0]).await;
    let (far, far4, far6) = two.attach_dual(&views[1]).await;
    let mtu = one.host.container_mtu().min(two.host.container_mtu());
    near.run(&format!("ping -c 2 -W 5 {far4}"));
    near.run(&format!("ping -c 2 -W 5 {far6}"));
    far.run(&format!("ping -c 2 -W 5 {near6}"));
    far.run(&format!("ping -c 1 -W 5 {near4}"));
    near.run(&format!("ping -c 1 -W 5 -M do -s {} {far4}", mtu - 28));
    near.run(&format!("ping -c 1 -W 5 -M do -s {} {far6}", mtu6 - 48));
    // The host itself, from here and from there, and from host to host.
    near.run("ping -c 1 -W 5 fd00:10:244:1::1");
    near.run("ping -c 1 -W 5 fd00:10:244:2::1");
    one.place.run("ping -c 1 -W 5 fd00:10:244:2::");
    one.place.run(&format!("ping -c 1 -W 5 {far6}"));
    let nowhere = near.try_run("ping -c 1 -W 5 fd00:10:244:2::77");
    assert!(String::from_utf8_lossy(&nowhere.stdout).contains("No route"), "{nowhere:?}");
    // All of it can be undone.
    one.follow(&Rows::default()).await;
    assert_eq!(one.netlink.observe(&Table::default()).await.unwrap(), Rows::default());
    let left = one.place.run("ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; ip neigh");
    for mark in ["weft", "10.244.", "fd00:10", "fe80::1/", "119"] {
        assert!(!left.contains(mark), "{mark} is left:\n{left}");
    }
}

#[tokio::test]
async fn weft_hosts_with_both_families_use_one_device_over_ipv4() {
    let (mut one, mut two, views) = hosts([(true, true), (true, true)], true).await;
    assert!(!one.place.run("ip link").contains("weft6"));
    talk(&mut one, &mut two, &views, 1450).await;
    assert!(passed(&two, "weft.1") > 8);
}

#[tokio::test]
async fn a_host_without_ipv4_outside_is_reached_over_ipv6_in_both_families() {
    let (mut one, mut two, views) = hosts([(true, true), (false, true)], true).await;
    assert_eq!((one.host.container_mtu(), two.host.container_mtu()), (1450, 1430));
    talk(&mut one, &mut two, &views, 1430).await;
    assert!(passed(&two, "weft6.1") > 8);
    assert!(!two.place.run("ip link").contains("weft.1"), "a device that nothing can use");
}

#[tokio::test]
async fn with_flannel_hosts_each_family_inside_has_its_own_outside() {
    let (mut one, mut two, views) = hosts([(true, true), (true, true)], false).await;
    talk(&mut one, &mut two, &views, 1430).await;
    assert!(passed(&two, "weft.1") > 3 && passed(&two, "weft6.1") > 3);
}

#[tokio::test]
async fn what_is_sent_over_ipv6_bears_a_checksum_that_flannel_takes() {
    let (mut one, two, views) = hosts([(true, true), (true, true)], false).await;
    // As flannel makes it: without any of the options.
    two.place.run("ip -d link show weft6.1 | grep -q noudp6zerocsumtx");
    two.place.run(
        "ip link del weft6.1 && ip link add weft6.1 address 02:00:00:00:06:02 mtu 1430 type vxlan id 1 local 2001:db8::2 dev u0 \
         dstport 8472 nolearning noudp6zerocsumtx noudp6zerocsumrx && ip link set weft6.1 up \
         && ip addr add fd00:10:244:2::/128 dev weft6.1 nodad \
         && ip -6 route add fd00:10:244:1::/64 via fd00:10:244:1:: dev weft6.1 onlink proto 119 metric 1 \
         && ip neigh add fd00:10:244:1:: lladdr 02:00:00:00:06:01 dev weft6.1 nud permanent \
         && bridge fdb add 02:00:00:00:06:01 dev weft6.1 dst 2001:db8::1 self permanent",
    );
    let (near, _, _) = one.attach_dual(&views[0]).await;
    near.run("ping -c 2 -W 5 fd00:10:244:2::");
}

#[tokio::test]
async fn rows_of_ipv6_are_healed_one_by_one() {
    let (mut one, _two, views) = hosts([(true, true), (true, true)], false).await;
    let (_near, _, address) = one.attach_dual(&views[0]).await;
    let veth = one.host.attachments[0].host_ifname.clone();
    let wanted = one.desired(&views[0]).kernel;
    for (line, expected) in [
        (
            "ip -6 route del fd00:10:244:2::/64".to_owned(),
            vec!["add route fd00:10:244:2::/64 via fe80::ff:fe00:602 dev weft6.1 onlink metric 1".to_owned()],
        ),
        (
            "ip -6 route change fd00:10:244:2::/64 via fe80::9 dev weft.1 onlink proto 119 metric 1".to_owned(),
            vec!["change route fd00:10:244:2::/64 via fe80::ff:fe00:602 dev weft6.1 onlink metric 1, was route fd00:10:244:2::/64 via \
                  fe80::9 dev weft.1 onlink metric 1"
                .to_owned()],
        ),
        (format!("ip -6 route del {address}"), vec![format!("add route {address}/128 dev {veth} metric 1")]),
        (
            "ip neigh del fe80::ff:fe00:602 dev weft6.1".to_owned(),
            vec!["add neighbor fe80::ff:fe00:602 address 02:00:00:00:06:02 dev weft6.1".to_owned()],
        ),
        (
            "bridge fdb del 02:00:00:00:06:02 dev weft6.1 self".to_owned(),
            vec!["add forward 02:00:00:00:06:02 to 2001:db8::2 dev weft6.1".to_owned()],
        ),
        (
            "bridge fdb replace 02:00:00:00:06:02 dev weft6.1 dst 2001:db8::9 self permanent".to_owned(),
            vec!["change forward 02:00:00:00:06:02 to 2001:db8::2 dev weft6.1, was forward 02:00:00:00:06:02 to 2001:db8::9 dev \
                  weft6.1"
                .to_owned()],
        ),
        (format!("ip addr del fe80::1/64 dev {veth}"), vec![format!("add address fe80::1/64 dev {veth}")]),
        ("ip addr del fd00:10:244:1::1/128 dev lo".to_owned(), vec!["add address fd00:10:244:1::1/128 dev lo".to_owned()]),
        ("ip addr add fd00:10:244:9::/128 dev weft.1 nodad".to_owned(), vec!["remove address fd00:10:244:9::/128 dev weft.1".to_owned()]),
        (
            "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding".to_owned(),
            vec!["set sysctl net/ipv6/conf/all/forwarding 1, was 0".to_owned()],
        ),
        // A link-local address that the kernel makes is not ours to remove.
        ("ip link set weft.1 addrgenmode eui64; ip addr add fe80::77/64 dev weft6.1 nodad".to_owned(), Vec::new()),
    ] {
        one.place.run(&line);
        let said: Vec<String> = one.plan(&wanted).await.iter().map(Action::to_string).collect();
        assert_eq!(said, expected, "{line}");
        one.follow(&wanted).await;
        assert_eq!(one.plan(&wanted).await, [], "{line}");
    }
    // What goes with a device comes back with it.
    one.place.run("ip link del weft6.1");
    one.follow(&wanted).await;
    assert_eq!(one.plan(&wanted).await, []);
    // Who turns IPv6 off on a device of ours takes all that stands on it along.
    one.place.run(&format!("for d in weft.1 weft6.1 {veth} lo; do echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; done"));
    let said: BTreeSet<String> = one.plan(&wanted).await.iter().map(Action::to_string).collect();
    assert!(said.len() >= 10 && said.contains("set sysctl net/ipv6/conf/lo/disable_ipv6 0, was 1"), "{said:#?}");
    one.follow(&wanted).await;
    assert_eq!(one.plan(&wanted).await, []);
}

#[tokio::test]
async fn a_route_of_a_whole_site_is_not_in_the_way() {
    let (mut one, mut two, views) = hosts([(true, true), (true, true)], true).await;
    one.follow(&Rows::default()).await;
    one.place.run("ip -6 route add fd00::/8 via 2001:db8::99 dev u0");
    one.follow(&one.desired(&views[0]).kernel).await;
    talk(&mut one, &mut two, &views, 1450).await;
}

#[tokio::test]
async fn a_device_over_ipv6_with_other_options_is_made_anew() {
    let (one, _two, views) = hosts([(true, true), (true, true)], false).await;
    let wanted = one.desired(&views[0]).kernel;
    for made in [
        "local 2001:db8::1 dev u0 udp6zerocsumtx udp6zerocsumrx",
        "local 2001:db8::1 dev u0 noudp6zerocsumtx noudp6zerocsumrx",
        "local 2001:db8::1 dev u0 noudp6zerocsumtx udp6zerocsumrx remote 2001:db8::2",
    ] {
        let line = format!("ip link add weft6.1 up address 02:00:00:00:06:01 type vxlan id 1 dstport 8472 nolearning {made}");
        one.place.run(&format!("ip link del weft6.1 && {line}"));
        let index = one.place.index("weft6.1");
        one.follow(&wanted).await;
        assert_ne!(one.place.index("weft6.1"), index, "{made}: kept");
        assert_eq!(one.plan(&wanted).await, [], "{made}");
    }
    // Another local address of the same family, and another MTU, need no new device.
    let index = one.place.index("weft6.1");
    one.place.run(
        "ip addr add 2001:db8::7/64 dev u0 nodad && ip link set weft6.1 mtu 1300 \
         && ip link set weft6.1 type vxlan id 1 local 2001:db8::7",
    );
    one.follow(&wanted).await;
    assert_eq!((one.place.index("weft6.1"), one.plan(&wanted).await), (index, vec![]));
}

#[tokio::test]
async fn an_uplink_that_listens_to_routers_goes_on_listening_and_one_that_does_not_is_left() {
    for (before, after) in [("1", "2\n"), ("0", "0\n"), ("2", "2\n")] {
        let (mut one, cluster) = one_host();
        one.dual(true, true);
        one.place.run(&format!("echo {before} > /proc/sys/net/ipv6/conf/u0/accept_ra"));
        one.place.run("ip -6 route add default via fe80::99 dev u0 proto ra expires 600");
        let wanted = one.desired(&cluster).kernel;
        one.follow(&wanted).await;
        assert_eq!(one.plan(&wanted).await, []);
        assert_eq!(one.place.run("cat /proc/sys/net/ipv6/conf/u0/accept_ra"), after);
        assert_eq!(one.place.run("cat /proc/sys/net/ipv6/conf/all/forwarding"), "1\n");
        if before == "1" {
            assert!(one.place.run("ip -6 route show default").contains("fe80::99"), "the router is forgotten");
        }
    }
}
