//! What the planned rows do together: containers reach each other with no eBPF anywhere.

use weft_plan::kernel::Rows;

use crate::lab::{lease, snapshot, two_hosts};

/// Settings that hosts out there have and that are said to break overlays; set before anything of ours is made.
const HOSTILE: &str = "cd /proc/sys/net/ipv4/conf && for c in all default u0; do \
                       echo 1 > $c/rp_filter; echo 2 > $c/arp_ignore; echo 2 > $c/arp_announce; done";

#[tokio::test]
async fn containers_of_two_hosts_reach_each_other_by_the_kernel_path_alone() {
    let (mut one, mut two, cluster) = two_hosts();
    for machine in [&one, &two] {
        machine.place.run(HOSTILE);
        machine.follow(&machine.desired(&cluster).kernel).await;
    }
    let (near, near_ip) = one.attach(&cluster).await;
    let (here, here_ip) = one.attach(&cluster).await;
    let (far, far_ip) = two.attach(&cluster).await;

    near.run(&format!("ping -c 2 -W 5 {far_ip}"));
    far.run(&format!("ping -c 2 -W 5 {near_ip}"));
    // On one host, to the gateway, to the host itself, between hosts' own overlay addresses, and from host to container.
    near.run(&format!("ping -c 1 -W 5 {here_ip}"));
    here.run("ping -c 1 -W 5 10.244.1.1");
    here.run("ping -c 1 -W 5 192.0.2.1");
    one.place.run("ping -c 1 -W 5 10.244.2.0");
    one.place.run(&format!("ping -c 1 -W 5 {near_ip}"));
    one.place.run(&format!("ping -c 1 -W 5 {far_ip}"));
    near.run("ping -c 1 -W 5 10.244.2.1");
    // The longest packet that is promised gets through whole.
    near.run(&format!("ping -c 1 -W 5 -M do -s {} {far_ip}", 1450 - 28));

    let passed = two.place.run("cat /proc/net/dev | grep weft.1:");
    let received: u64 = passed.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(received > 5, "the device saw {passed}");
}

#[tokio::test]
async fn what_was_done_once_need_not_be_done_again_and_all_of_it_can_be_undone() {
    let (mut one, _two, cluster) = two_hosts();
    one.follow(&one.desired(&cluster).kernel).await;
    let (_container, _) = one.attach(&cluster).await;
    let wanted = one.desired(&cluster).kernel;
    assert_eq!(one.plan(&wanted).await, []);
    let there = one.netlink.observe(&wanted.sysctls).await.unwrap();
    assert_eq!(there, wanted);

    one.follow(&Rows::default()).await;
    let left = one
        .place
        .run("ip -o link | grep -v ' u0' ; ip -o addr show dev lo; ip route show table all type unreachable; ip route; ip neigh");
    for mark in ["weft", "10.244.", "10.112.", "119"] {
        assert!(!left.contains(mark), "{mark} is left:\n{left}");
    }
}

#[tokio::test]
async fn an_address_without_a_container_and_a_service_range_lead_nowhere() {
    let (mut one, _two, cluster) = two_hosts();
    one.follow(&one.desired(&cluster).kernel).await;
    let (container, _) = one.attach(&cluster).await;
    // The default route would take both elsewhere.
    one.place.run("ip route add default via 192.0.2.2");
    for nowhere in ["10.244.1.77", "10.112.0.9"] {
        let said = container.try_run(&format!("ping -c 1 -W 5 {nowhere}"));
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(!said.status.success() && text.contains("Unreachable"), "{nowhere}: {text}");
    }
}

#[tokio::test]
async fn a_packet_too_long_for_a_peer_is_told_so_by_its_own_host() {
    let (mut one, mut two, _) = two_hosts();
    let cluster = snapshot(&[lease(1, 1450), lease(2, 1400)]);
    for machine in [&one, &two] {
        machine.follow(&machine.desired(&cluster).kernel).await;
    }
    let (near, _) = one.attach(&cluster).await;
    let (_far, far_ip) = two.attach(&cluster).await;
    near.run(&format!("ping -c 1 -W 5 -M do -s {} {far_ip}", 1400 - 28));
    let said = near.try_run(&format!("ping -c 1 -W 5 -M do -s {} {far_ip}", 1401 - 28));
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("mtu = 1400") || text.contains("mtu=1400"), "{text}");
}

#[tokio::test]
async fn the_device_follows_a_new_uplink_in_place_and_traffic_goes_on() {
    let (mut one, mut two, cluster) = two_hosts();
    for machine in [&one, &two] {
        machine.follow(&machine.desired(&cluster).kernel).await;
    }
    let (near, _) = one.attach(&cluster).await;
    let (_far, far_ip) = two.attach(&cluster).await;
    near.run(&format!("ping -c 1 -W 5 {far_ip}"));
    let index = one.place.index("weft.1");

    // Another wire, another address, another MTU, another stored Ethernet address.
    one.place.run(&format!("ip link add u9 type veth peer name u9 netns {}", two.place.path().display()));
    one.place.run("ip addr add 198.51.100.1/24 dev u9 && ip link set u9 mtu 1400 up");
    two.place.run("ip addr add 198.51.100.2/24 dev u9 && ip link set u9 mtu 1400 up");
    for (machine, n) in [(&mut one, 1), (&mut two, 2)] {
        let index = machine.place.index("u9");
        let uplink = machine.host.uplink.as_mut().unwrap();
        (uplink.name, uplink.index, uplink.mtu) = ("u9".into(), index, 1400);
        uplink.address = Some([198, 51, 100, n].into());
        uplink.public_ip = uplink.address;
    }
    one.host.vtep_mac.0[1] = 9;
    let moved = |n: u8| {
        let (key, value) = lease(n, 1350);
        (key, value.replace("192.0.2", "198.51.100").replace("02:00:00:00:00:01", "02:09:00:00:00:01"))
    };
    let cluster = snapshot(&[moved(1), moved(2)]);
    for machine in [&one, &two] {
        machine.place.run("ip link set u0 down");
        machine.follow(&machine.desired(&cluster).kernel).await;
        assert_eq!(machine.plan(&machine.desired(&cluster).kernel).await, []);
    }
    assert_eq!(one.place.index("weft.1"), index, "the device was made anew");
    near.run(&format!("ping -c 2 -W 5 {far_ip}"));
}
