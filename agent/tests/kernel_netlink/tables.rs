//! Single rows: what is read back, what counts as done, and that others' rows stay.

use std::collections::BTreeSet;

use weft_agent::kernel::netlink::NetlinkError;
use weft_plan::addresses::Address;
use weft_plan::kernel::{Action, Rows};
use weft_plan::links::Kind;
use weft_plan::neighbors::{Forward, Neighbor};
use weft_plan::routes::{Route, Via};
use weft_plan::sysctls::Sysctl;
use weft_plan::{Row, Step, Table};

use crate::lab::{chain, one_host, vtep_mac};

fn removal(action: &Action) -> Option<Action> {
    fn of<R: Row>(step: &Step<R>) -> Step<R> {
        Step::Remove(step.row().clone())
    }
    Some(match action {
        Action::Sysctl(_) => return None,
        Action::Link(step) => Action::Link(of(step)),
        Action::Address(step) => Action::Address(of(step)),
        Action::Neighbor(step) => Action::Neighbor(of(step)),
        Action::Forward(step) => Action::Forward(of(step)),
        Action::Route(step) => Action::Route(of(step)),
    })
}

#[tokio::test]
async fn doing_twice_and_undoing_twice_is_success() {
    let (one, cluster) = one_host();
    let actions = one.plan(&one.desired(&cluster).kernel).await;
    assert!(actions.len() >= 9, "{actions:?}");
    for action in &actions {
        one.netlink.apply(action).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
        if !matches!(action, Action::Link(_)) {
            one.netlink.apply(action).await.unwrap_or_else(|e| panic!("again: {}", chain(&e)));
        }
    }
    for action in actions.iter().rev().filter_map(removal) {
        one.netlink.apply(&action).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
        one.netlink.apply(&action).await.unwrap_or_else(|e| panic!("again: {}", chain(&e)));
    }
    // And with the device gone.
    for action in actions.iter().filter_map(removal) {
        one.netlink.apply(&action).await.unwrap_or_else(|e| panic!("without the device: {}", chain(&e)));
    }
    assert_eq!(one.netlink.observe(&Table::default()).await.unwrap(), Rows::default());
}

#[tokio::test]
async fn rows_of_others_are_not_seen_and_stay() {
    let (one, cluster) = one_host();
    one.place.run(
        "ip link add flannel.7 type vxlan id 7 dstport 8472 && ip link add weft-test type veth peer name weft0 && ip link set weft0 up \
         && ip addr add 10.9.9.9/32 dev lo && ip route add 10.77.0.0/16 via 192.0.2.9 && ip route add unreachable 10.78.0.0/16 \
         && ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev u0 nud permanent",
    );
    let show = "ip link show flannel.7; ip link show weft0; ip addr show dev lo | grep 10.9; ip route | grep 10.7; ip neigh show 192.0.2.77 dev u0";
    let before = one.place.run(show);
    assert_eq!(one.netlink.observe(&Table::default()).await.unwrap(), Rows::default());
    one.follow(&one.desired(&cluster).kernel).await;
    one.follow(&Rows::default()).await;
    assert_eq!(one.place.run(show), before);
}

#[tokio::test]
async fn leftovers_of_an_agent_without_memory_are_known_by_their_marks_and_swept() {
    let (one, cluster) = one_host();
    let wanted = one.desired(&cluster).kernel;
    one.follow(&wanted).await;
    one.place.run(
        "ip route add 10.244.99.0/24 via 10.244.99.0 dev weft.1 onlink proto 119 && ip route add blackhole 10.1.0.0/16 proto 119 \
         && ip route add 10.2.0.0/16 via 192.0.2.9 proto 119 metric 7 && ip neigh add 10.244.99.0 lladdr 02:00:00:00:00:99 dev weft.1 nud permanent \
         && bridge fdb add 02:00:00:00:00:99 dev weft.1 dst 192.0.2.99 self permanent && ip addr add 10.244.88.0/32 dev weft.1 \
         && ip link add weft00000000ff type veth peer name old && ip link set weft.1 mtu 1300",
    );
    let stale = Address { device: "lo".into(), address: "10.244.88.1/32".parse().unwrap() };
    one.netlink.apply(&Action::Address(Step::Add(stale))).await.unwrap();
    let said: BTreeSet<String> = one.plan(&wanted).await.iter().map(Action::to_string).collect();
    let expected = [
        "remove route 10.244.99.0/24 via 10.244.99.0 dev weft.1 onlink",
        "remove route 10.1.0.0/16 foreign",
        "remove route 10.2.0.0/16 foreign metric 7",
        "remove neighbor 10.244.99.0 address 02:00:00:00:00:99 dev weft.1",
        "remove forward 02:00:00:00:00:99 to 192.0.2.99 dev weft.1",
        "remove address 10.244.88.0/32 dev weft.1",
        "remove address 10.244.88.1/32 dev lo",
        "remove link weft00000000ff veth down",
    ];
    for line in expected {
        assert!(said.contains(line), "{line} is not in {said:#?}");
    }
    assert!(
        said.iter().any(|line| line.starts_with("change link weft.1") && line.contains("was link") && line.contains("mtu 1300"))
    );
    assert_eq!(said.len(), expected.len() + 1, "{said:#?}");
    one.follow(&wanted).await;
    assert_eq!(one.plan(&wanted).await, []);
}

#[tokio::test]
async fn a_device_of_another_port_or_vni_or_with_foreign_options_is_made_anew() {
    let (one, cluster) = one_host();
    let wanted = one.desired(&cluster).kernel;
    for made in [
        "id 1 dstport 4789 local 192.0.2.1 dev u0 nolearning",
        "id 2 dstport 8472 local 192.0.2.1 dev u0 nolearning",
        "id 1 dstport 8472 remote 192.0.2.2 local 192.0.2.1 dev u0 nolearning",
        "dstport 8472 external",
        "id 1 dstport 8472 local 192.0.2.1 dev u0 nolearning proxy l2miss",
        "id 1 dstport 8472 local 192.0.2.1 dev u0 nolearning noudpcsum",
        "id 1 dstport 8472 local 192.0.2.1 dev u0 nolearning ttl 9",
    ] {
        one.place.run(&format!("ip link add weft.1 up address {} type vxlan {made}", vtep_mac(1)));
        let index = one.place.index("weft.1");
        one.follow(&wanted).await;
        assert_ne!(one.place.index("weft.1"), index, "{made}: kept");
        assert_eq!(one.plan(&wanted).await, [], "{made}");
        one.follow(&Rows::default()).await;
    }
    // Learning, local address, lower device and state alone need no new device.
    one.place.run(&format!("ip link add weft.1 address {} type vxlan id 1 dstport 8472", vtep_mac(1)));
    let index = one.place.index("weft.1");
    one.follow(&wanted).await;
    assert_eq!((one.place.index("weft.1"), one.plan(&wanted).await), (index, vec![]));
}

#[tokio::test]
async fn what_is_in_the_way_and_not_ours_is_named_and_left() {
    let (one, cluster) = one_host();
    one.place.run("ip link add flannel.1 type vxlan id 1 dstport 8472 && ip route add 10.112.0.0/16 via 192.0.2.9");
    let mut refused = Vec::new();
    for action in one.plan(&one.desired(&cluster).kernel).await {
        match one.netlink.apply(&action).await {
            Err(e @ NetlinkError::InTheWay { .. }) => refused.push(chain(&e)),
            // What would stand on the device that could not be made.
            Err(e) => assert!(e.to_string().contains("weft.1"), "{}", chain(&e)),
            Ok(()) => {}
        }
    }
    assert_eq!(refused.len(), 2, "{refused:#?}");
    assert!(refused[0].starts_with("add link weft.1 vxlan id 1 ") && refused[0].contains("VNI already exists"), "{}", refused[0]);
    assert!(refused[1].starts_with("add route 10.112.0.0/16 unreachable: ") && refused[1].contains("not ours"), "{}", refused[1]);
    assert!(one.place.run("ip route").contains("10.112.0.0/16 via 192.0.2.9"));
    assert!(one.place.run("ip link").contains("flannel.1"));
}

#[tokio::test]
async fn a_route_of_ours_can_stand_before_one_that_took_its_place_and_goes_without_it() {
    let (one, cluster) = one_host();
    let wanted = one.desired(&cluster).kernel;
    one.follow(&wanted).await;
    one.place.run("ip route replace 10.244.2.0/24 via 192.0.2.9");
    let plan = one.plan(&wanted).await;
    let [Action::Route(step)] = plan.as_slice() else { panic!("{plan:?}") };
    assert!(matches!(one.netlink.apply(&plan[0]).await, Err(NetlinkError::InTheWay { .. })));
    one.netlink.add_route_before(step.row()).await.unwrap();
    assert_eq!(one.plan(&wanted).await, []);
    let said = one.place.run("ip route show 10.244.2.0/24");
    let ways: Vec<&str> = said.lines().collect();
    assert!(ways.len() == 2 && ways[0].contains("dev weft.1") && ways[1].contains("via 192.0.2.9"), "{said}");
    assert!(one.place.run("ip route get 10.244.2.9").contains("dev weft.1"));
    one.follow(&Rows::default()).await;
    let said = one.place.run("ip route show 10.244.2.0/24");
    assert!(said.lines().count() == 1 && said.contains("via 192.0.2.9"), "{said}");
}

#[tokio::test]
async fn service_ranges_of_ipv6_lead_nowhere_and_that_is_healed_and_cleaned_up() {
    let (one, cluster) = one_host();
    let wanted = one.desired(&cluster).kernel;
    let said = async || one.plan(&wanted).await.iter().map(Action::to_string).collect::<Vec<_>>();
    let ours = || one.place.run("ip -6 route show proto 119");
    one.place.run("ip -6 route add unreachable fd98::/64 && ip -6 route add blackhole fd57:6566:7400::/112 metric 9");
    one.follow(&wanted).await;
    assert!(ours().starts_with("unreachable fd57:6566:7400::/112 dev lo metric 1 "), "{}", ours());
    assert_eq!(said().await, Vec::<String>::new());
    let output = one.place.try_run("ip -6 route get fd57:6566:7400::1");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No route to host"), "{output:?}");

    one.place.run("ip -6 route del unreachable fd57:6566:7400::/112 proto 119");
    assert_eq!(said().await, ["add route fd57:6566:7400::/112 unreachable metric 1"]);
    one.follow(&wanted).await;
    one.place.run("ip -6 route add unreachable fd99::/64 proto 119 metric 5");
    one.place.run("ip -6 route del unreachable fd57:6566:7400::/112 proto 119");
    one.place.run("ip -6 route add prohibit fd57:6566:7400::/112 proto 119 metric 1");
    let change = "change route fd57:6566:7400::/112 unreachable metric 1, was route fd57:6566:7400::/112 foreign metric 1";
    assert_eq!(said().await, [change, "remove route fd99::/64 unreachable metric 5"]);
    one.follow(&wanted).await;
    assert_eq!(said().await, Vec::<String>::new());
    assert_eq!(ours().lines().count(), 1, "{}", ours());

    one.follow(&Rows::default()).await;
    assert_eq!(ours(), "");
    let others = one.place.run("ip -6 route");
    assert!(others.contains("fd98::/64") && others.contains("blackhole fd57:6566:7400::/112"), "{others}");
}

#[tokio::test]
async fn a_host_that_has_ipv6_turned_off_is_followed_to_the_end() {
    let (one, cluster) = one_host();
    one.place.run("for d in all default lo u0; do echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; done");
    let wanted = one.desired(&cluster).kernel;
    one.follow(&wanted).await;
    assert_eq!(one.plan(&wanted).await, []);
}

#[tokio::test]
async fn errors_name_the_row_and_the_kernels_reason() {
    let (one, _) = one_host();
    let route = |via| Route { destination: "10.244.2.0/24".parse().unwrap(), metric: 0, via, mtu: None };
    let nowhere = Via::Gateway { gateway: [10, 244, 2, 0].into(), device: "weft.1".into() };
    for (action, text) in [
        (
            Action::Route(Step::Add(route(nowhere))),
            "add route 10.244.2.0/24 via 10.244.2.0 dev weft.1 onlink: No such device (os error 19)",
        ),
        (
            Action::Neighbor(Step::Add(Neighbor { device: "weft.1".into(), address: [10, 244, 2, 0].into(), mac: vtep_mac(2) })),
            "add neighbor 10.244.2.0 address 02:00:00:00:00:02 dev weft.1: No such device (os error 19)",
        ),
        (
            Action::Forward(Step::Add(Forward { device: "lo".into(), mac: vtep_mac(2), remote: [192, 0, 2, 2].into() })),
            "add forward 02:00:00:00:00:02 to 192.0.2.2 dev lo: ",
        ),
        (
            Action::Sysctl(Step::Add(Sysctl { path: "net/ipv4/conf/weft.1/forwarding".into(), value: "1".into(), over: None })),
            "write \"1\" to /proc/sys/net/ipv4/conf/weft.1/forwarding: No such file or directory (os error 2)",
        ),
    ] {
        let said = chain(&one.netlink.apply(&action).await.unwrap_err());
        assert!(said.starts_with(text), "{said}");
    }
}

#[tokio::test]
async fn settings_are_those_of_the_handles_namespace_and_missing_ones_are_left_out() {
    let (one, cluster) = one_host();
    one.place.run("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/default/forwarding");
    let wanted = one.desired(&cluster).kernel;
    let before = one.netlink.observe(&wanted.sysctls).await.unwrap().sysctls;
    assert_eq!(before.iter().map(ToString::to_string).collect::<Vec<_>>(), ["sysctl net/ipv4/ip_forward 0"]);
    one.follow(&wanted).await;
    one.place.run("echo 0 > /proc/sys/net/ipv4/conf/weft.1/forwarding");
    let said: Vec<String> = one.plan(&wanted).await.iter().map(Action::to_string).collect();
    assert_eq!(said, ["set sysctl net/ipv4/conf/weft.1/forwarding 1, was 0"]);
}

#[tokio::test]
async fn devices_of_ours_make_up_no_ipv6_addresses() {
    let (mut one, cluster) = one_host();
    one.follow(&one.desired(&cluster).kernel).await;
    let (container, _) = one.attach(&cluster).await;
    let ours = one.host.attachments[0].host_ifname.clone();
    for (place, device) in [(&one.place, "weft.1"), (&one.place, ours.as_str()), (&container, "eth0")] {
        let line = place.run(&format!("ip -d link show {device}"));
        assert!(line.contains("addrgenmode none"), "{line}");
        assert_eq!(place.run(&format!("ip -6 addr show dev {device}")), "", "{device}");
    }
}

#[tokio::test]
async fn an_address_that_somebody_else_gave_becomes_ours() {
    let (one, cluster) = one_host();
    one.place.run("ip addr add 10.244.1.1/32 dev lo");
    let wanted = one.desired(&cluster).kernel;
    one.follow(&wanted).await;
    assert_eq!(one.plan(&wanted).await, []);
    assert_eq!(one.place.run("ip -o -4 addr show dev lo | grep -c 10.244.1.1"), "1\n");
}

#[tokio::test]
async fn ten_thousand_routes_are_listed_whole_while_others_change() {
    let (one, _) = one_host();
    one.place.run(
        "for a in $(seq 0 39); do for b in $(seq 0 249); do echo route add unreachable 10.$a.$b.0/24 proto 119; done; done | ip -batch -",
    );
    let netlink = one.netlink.clone();
    let churn = std::thread::spawn({
        let path = one.place.path();
        move || {
            let lines = "for n in $(seq 250); do echo route add unreachable 172.16.0.$n/32; echo route del unreachable 172.16.0.$n/32; done | ip -batch -";
            let status =
                std::process::Command::new("nsenter").arg(format!("--net={}", path.display())).args(["sh", "-c", lines]).status();
            assert!(status.unwrap().success());
        }
    });
    while !churn.is_finished() {
        assert_eq!(netlink.observe(&Table::default()).await.unwrap().routes.len(), 10_000);
    }
    churn.join().unwrap();
    let rows = netlink.observe(&Table::default()).await.unwrap();
    assert_eq!(rows.routes.len(), 10_000);
    assert!(rows.links.iter().all(|link| link.kind != Kind::Veth));
}
