//! Changes by others are noticed, and nothing else is.

use std::sync::Arc;
use std::time::Duration;

use weft_agent::kernel::netlink::events::Events;

use crate::lab::{Machine, one_host};

/// Long enough for anything that is going to happen.
const BOUND: Duration = Duration::from_secs(30);

/// How long it must be quiet before the next change is made: the kernel tells of a carrier some time after it changed.
const QUIET: Duration = Duration::from_millis(300);

async fn settle(events: &mut Events) {
    while tokio::time::timeout(QUIET, events.changed()).await.is_ok() {}
}

async fn noticed(events: &mut Events, machine: &Machine, line: &str) {
    settle(events).await;
    machine.place.run(line);
    tokio::time::timeout(BOUND, events.changed()).await.unwrap_or_else(|_| panic!("{line}: not noticed"));
}

/// Tells whether a line passes unnoticed. A late notification of something else may disturb one try, but not all of them;
/// what does concern us disturbs each.
async fn ignored(events: &mut Events, machine: &Machine, line: &str) {
    for _ in 0..10 {
        settle(events).await;
        machine.place.run(line);
        // Notifications are in the socket when the command has ended.
        if tokio::time::timeout(QUIET, events.changed()).await.is_err() {
            return;
        }
    }
    panic!("{line}: told, although it does not concern us");
}

#[tokio::test]
async fn what_others_do_to_our_rows_is_noticed_and_what_they_do_to_theirs_is_not() {
    let (one, cluster) = one_host();
    let mut events = Events::in_namespace(&one.place.netns()).unwrap();
    one.follow(&one.desired(&cluster).kernel).await;
    for line in [
        "ip route del 10.244.2.0/24",
        "ip route replace 10.112.0.0/16 via 192.0.2.9",
        "ip -6 route del fd57:6566:7400::/112",
        "ip neigh del 10.244.2.0 dev weft.1",
        "bridge fdb del 02:00:00:00:00:02 dev weft.1 self",
        "ip addr del 10.244.1.1/32 dev lo",
        "echo 0 > /proc/sys/net/ipv4/conf/weft.1/forwarding",
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "ip link set weft.1 mtu 1300",
        "ip link set weft.1 down",
        "ip link del weft.1",
        "ip addr add 192.0.2.55/24 dev u0",
        "ip route add default via 192.0.2.9",
        "ip route add 198.51.100.0/24 dev u0",
        "ip addr add 2001:db8::55/64 dev u0 nodad",
        "ip -6 route add default via 2001:db8::9",
        "ip link set u0 mtu 1400",
    ] {
        noticed(&mut events, &one, line).await;
    }
    for line in [
        "ip neigh replace 192.0.2.78 lladdr 02:00:00:00:00:78 dev u0; ip neigh del 192.0.2.78 dev u0",
        "ip route add 10.55.0.0/16 via 192.0.2.9; ip route del 10.55.0.0/16",
        "ip -6 route add unreachable fd55::/64; ip -6 route del fd55::/64",
        "ip route add 10.56.0.0/16 via 192.0.2.9 table 77; ip route del 10.56.0.0/16 table 77",
        "for d in u0 all; do echo 1 > /proc/sys/net/ipv4/conf/$d/rp_filter; done; echo 0 > /proc/sys/net/ipv4/conf/u0/forwarding",
    ] {
        ignored(&mut events, &one, line).await;
    }
    // Put right again, but for the place of a route that somebody else took.
    one.place.run("ip route del 10.112.0.0/16 && ip link set u0 mtu 1500");
    one.follow(&one.desired(&cluster).kernel).await;
    assert_eq!(one.plan(&one.desired(&cluster).kernel).await, []);
}

#[tokio::test]
async fn a_burst_is_one_change_and_lost_notifications_are_a_change() {
    let (one, cluster) = one_host();
    one.follow(&one.desired(&cluster).kernel).await;
    let mut events = Events::in_namespace(&Arc::new(one.place.netns())).unwrap();
    one.place.run("for n in $(seq 50); do echo route add unreachable 10.200.$n.0/24 proto 119; done | ip -batch -");
    tokio::time::timeout(BOUND, events.changed()).await.unwrap();
    let again = tokio::time::timeout(Duration::from_millis(200), events.changed()).await;
    assert!(again.is_err(), "a burst was told twice");

    // Neighbours of others do not concern us; more of them than the socket holds do, since something of ours may be lost.
    one.place.run(
        "echo 100000 > /proc/sys/net/ipv4/neigh/default/gc_thresh3 2>/dev/null; \
         for r in $(seq 60); do for n in $(seq 10 250); do for s in stale reachable; do \
         echo neigh replace 192.0.2.$n lladdr 02:00:00:00:02:78 dev u0 nud $s; done; done; done | ip -batch -",
    );
    tokio::time::timeout(BOUND, events.changed()).await.expect("the loss of notifications was not told");
    noticed(&mut events, &one, "ip link set weft.1 down").await;
}
