//! Whom the uplink reaches without a router, and how that follows the routes.

use std::time::Duration;

use weft_agent::kernel::netlink::events::Events;
use weft_agent::kernel::netlink::uplink::{Wish, resolve};
use weft_plan::OnLink;

use crate::lab::{Place, chain};

/// `u0` (192.0.2.1/24, 2001:db8::1/64) is the uplink, `u1` (198.51.100.1/24) another device.
fn place() -> Place {
    let place = Place::new();
    place.run(
        "ip link add u0 type veth peer name u2 && ip link add u1 type veth peer name u3 && for u in u0 u1 u2 u3; do ip link set $u up; \
         done && ip addr add 192.0.2.1/24 dev u0 && ip -6 addr add 2001:db8::1/64 dev u0 nodad && ip addr add 198.51.100.1/24 dev u1",
    );
    place
}

async fn found(place: &Place) -> OnLink {
    resolve(&place.netlink(), &Wish { iface: "u0".into(), ..Wish::default() })
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)))
        .on_link
}

/// Which of these are certainly on the link.
async fn hops(place: &Place) -> Vec<&'static str> {
    let on_link = found(place).await;
    let all = ["192.0.2.2", "192.0.2.200", "198.51.100.2", "203.0.113.2", "2001:db8::2", "2001:db8::80:2", "2001:db8:1::2"];
    all.into_iter().filter(|address| on_link.is_next_hop(address.parse().unwrap())).collect()
}

#[tokio::test]
async fn the_routes_of_the_main_table_say_who_is_on_the_link() {
    let place = place();
    let both = ["192.0.2.2", "192.0.2.200", "2001:db8::2", "2001:db8::80:2"];
    assert_eq!(hops(&place).await, both);
    // By a router, whatever else leads there.
    place.run("ip route add default via 192.0.2.254 && ip route add 203.0.113.0/24 via 192.0.2.254 && ip -6 route add default via 2001:db8::ff");
    assert_eq!(hops(&place).await, both);
    for (route, undo) in [
        ("ip route add 192.0.2.200 via 192.0.2.254", "ip route del 192.0.2.200"),
        ("ip route add 192.0.2.128/25 dev u1", "ip route del 192.0.2.128/25"),
        ("ip route add blackhole 192.0.2.200", "ip route del blackhole 192.0.2.200"),
        ("ip route add 192.0.2.200 nexthop dev u0 nexthop via 192.0.2.9", "ip route del 192.0.2.200"),
        ("ip nexthop add id 7 dev u0 && ip route add 192.0.2.200 nhid 7", "ip route del 192.0.2.200 && ip nexthop flush"),
        ("ip route add 192.0.2.200 tos 8 dev u0", "ip route del 192.0.2.200 tos 8"),
        // Which of the two the kernel takes is a matter of metrics: in doubt.
        (
            "ip route add 192.0.2.200 dev u0 metric 5 && ip route add 192.0.2.200 dev u1 metric 9",
            "ip route del 192.0.2.200 && ip route del 192.0.2.200",
        ),
    ] {
        place.run(route);
        assert_eq!(hops(&place).await, ["192.0.2.2", "2001:db8::2", "2001:db8::80:2"], "{route}");
        place.run(undo);
        assert_eq!(hops(&place).await, both, "{undo}");
    }
    place.run("ip -6 route add 2001:db8::80:0/112 via 2001:db8::ff");
    assert_eq!(hops(&place).await, ["192.0.2.2", "192.0.2.200", "2001:db8::2"]);
    // A route to a host of another range by the uplink itself.
    place.run("ip route add 203.0.113.2 dev u0");
    assert_eq!(hops(&place).await, ["192.0.2.2", "192.0.2.200", "203.0.113.2", "2001:db8::2"]);
}

#[tokio::test]
async fn with_a_rule_of_policy_routing_nothing_is_certain_but_what_is_on_the_link_is_known() {
    let place = place();
    for (rule, undo) in [
        ("ip rule add fwmark 7 lookup 100", "ip rule del fwmark 7"),
        ("ip -6 rule add from 2001:db8::1 lookup 100", "ip -6 rule del from 2001:db8::1"),
        ("ip rule add lookup 100 prio 100", "ip rule del prio 100"),
        (
            "ip rule del lookup main && ip rule add lookup main prio 32766 suppress_prefixlength 0",
            "ip rule del prio 32766 && ip rule add lookup main prio 32766",
        ),
    ] {
        place.run(rule);
        assert!(hops(&place).await.is_empty(), "{rule}");
        assert!(found(&place).await.holds("192.0.2.2".parse().unwrap()), "{rule}");
        place.run(undo);
        assert_eq!(hops(&place).await.len(), 4, "{undo}");
    }
}

#[tokio::test]
async fn without_a_carrier_the_same_are_on_the_link_and_nothing_is_certain() {
    let place = place();
    for (set, shown, certain) in [("down", "grep -q linkdown", 0), ("up", "grep -vq linkdown", 4)] {
        // The kernel notes a carrier that went or came up to a second later.
        place.run(&format!(
            "ip link set u2 {set} && timeout 60 sh -c 'until ip route show 192.0.2.0/24 | {shown}; do sleep 0.1; done'"
        ));
        let on_link = found(&place).await;
        assert!(on_link.holds("192.0.2.2".parse().unwrap()), "{set}: {on_link:?}");
        assert_eq!(hops(&place).await.len(), certain, "{set}");
    }
}

#[tokio::test]
async fn thousands_of_routes_of_ours_and_of_others_are_not_carried_along() {
    let place = place();
    place.run(
        "for i in $(seq 0 250); do echo route add 10.$i.0.0/16 via 192.0.2.254; echo route add 10.250.$i.0/24 dev u1 proto 119; done | ip -batch -",
    );
    let on_link = found(&place).await;
    assert_eq!(on_link.direct.len(), 3, "two ranges, and the link-local one: {on_link:?}");
    assert!(on_link.elsewhere.iter().all(|net| net.to_string().starts_with("fe80::")), "{on_link:?}");
}

#[tokio::test]
async fn a_change_of_who_is_on_the_link_is_noticed_and_the_routes_of_others_are_not() {
    let place = place();
    let netns = place.netns();
    let mut events = Events::in_namespace(&netns).unwrap();
    events.watch(&found(&place).await.direct);
    while tokio::time::timeout(Duration::from_millis(300), events.changed()).await.is_ok() {}
    for line in [
        "ip route add 192.0.2.2 via 192.0.2.254",
        "ip route del 192.0.2.2",
        "ip route add 203.0.113.0/24 dev u0",
        "ip -6 route add 2001:db8::80:0/112 via 2001:db8::ff",
        "ip rule add fwmark 7 lookup 100",
        "ip -6 rule add fwmark 7 lookup 100",
    ] {
        place.run(line);
        tokio::time::timeout(Duration::from_secs(30), events.changed())
            .await
            .unwrap_or_else(|_| panic!("{line} was not noticed"));
    }
    place.run("ip route add 10.9.0.0/16 via 192.0.2.254 && ip -6 route add 2001:db8:9::/48 via 2001:db8::ff");
    assert!(tokio::time::timeout(Duration::from_millis(500), events.changed()).await.is_err(), "others' routes");
}
