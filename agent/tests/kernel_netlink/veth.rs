//! Veth pairs: whole, or not at all.

use weft_agent::kernel::veth::{Mtu, VethError, VethSpec, create_from, follow_mtu_from, forget_rules, look_from};
use weft_model::mac::Mac;
use weft_plan::links;

use crate::lab::{Place, chain};

fn spec() -> VethSpec {
    VethSpec {
        host_ifname: links::veth_name("web-1", "eth0"),
        ifname: "eth0".into(),
        address: [10, 244, 1, 2].into(),
        mac: Mac::of_container([10, 244, 1, 2].into()),
        gateway: [10, 244, 1, 1].into(),
        address6: None,
        routes: vec![ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()],
        mtu: 1450,
        further: false,
    }
}

#[tokio::test]
async fn a_container_has_address_route_and_a_gateway_it_need_not_ask_for() {
    let (host, container) = (Place::new(), Place::new());
    container.run("ip link set lo down");
    create_from(&host.netlink(), &spec(), &container.netns()).await.unwrap();
    let link = container.run("ip -o link show eth0");
    assert!(link.contains("mtu 1450") && link.contains("0a:58:0a:f4:01:02") && link.contains(",UP"), "{link}");
    assert_eq!(
        container.run("ip route").replace(" proto 119", ""),
        "default via 10.244.1.1 dev eth0 onlink \n10.244.1.1 dev eth0 scope link \n"
    );
    let host_mac = links::veth_mac(&spec().host_ifname);
    assert_eq!(container.run("ip neigh").trim(), format!("10.244.1.1 dev eth0 lladdr {host_mac} PERMANENT"));
    let link = host.run(&format!("ip -o link show {}", spec().host_ifname));
    assert!(link.contains(&host_mac.to_string()) && link.contains(",UP"), "{link}");
    container.run("ping -c 1 -W 5 127.0.0.1");

    // With the gateway on lo and nothing else, packets flow at once, and nobody asks by ARP.
    host.run(&format!("ip addr add 10.244.1.1/32 dev lo && ip route add 10.244.1.2/32 dev {}", spec().host_ifname));
    container.run("ping -c 1 -W 5 10.244.1.1");
    assert!(!container.run("ip neigh").contains("REACHABLE"));

    host.netlink().remove_device(&spec().host_ifname).await.unwrap();
    host.netlink().remove_device(&spec().host_ifname).await.unwrap();
    assert!(!container.run("ip link").contains("eth0"));
}

#[tokio::test]
async fn a_removed_pair_is_gone_for_everybody_and_may_be_made_again_at_once() {
    let (host, container) = (Place::new(), Place::new());
    let (netlink, netns) = (host.netlink(), container.netns());
    netlink.remove_device_soon(&spec().host_ifname).await.unwrap();
    host.run("ip link add other type veth peer name rehto");
    for _ in 0..5 {
        create_from(&netlink, &spec(), &netns).await.unwrap();
        // The end of another device is not taken for its end.
        let device = spec().host_ifname;
        let (removed, ()) = tokio::join!(netlink.remove_device_soon(&device), async {
            host.run("ip link del other; ip link add other type veth peer name rehto");
        });
        removed.unwrap();
        assert!(!host.run("ip link").contains(&spec().host_ifname));
        assert!(!container.run("ip link").contains("eth0"));
    }
    netlink.remove_device_soon(&spec().host_ifname).await.unwrap();
}

/// A spec of both families, with its gateway and name server at the host: what a plan gives a host.
fn dual() -> VethSpec {
    VethSpec { address6: Some("fd00:10:244:1::2".parse().unwrap()), ..spec() }
}

fn be_gateway(host: &Place) {
    let device = dual().host_ifname;
    host.run(&format!(
        "ip addr add fe80::1/64 dev {device} nodad && ip addr replace fd00:10:244:1::1/128 dev lo && \
         ip -6 route replace fd00:10:244:1::2/128 dev {device}"
    ));
}

/// The IPv6 side of a container, without what the kernel adds by itself.
fn of_ipv6(container: &Place) -> (String, String, String) {
    let addresses = container.run("ip -6 -o addr show dev eth0 scope global | awk '{print $4}'");
    let local = container.run("ip -6 -o addr show dev eth0 scope link");
    assert_eq!(local, "", "a container has no link-local address");
    (addresses, container.run("ip -6 route show default | sed 's/ proto 119//; s/ pref medium//'"), container.run("ip -6 neigh"))
}

#[tokio::test]
async fn a_dual_stack_container_asks_nobody_and_reaches_its_host_at_once() {
    let (host, container) = (Place::new(), Place::new());
    create_from(&host.netlink(), &dual(), &container.netns()).await.unwrap();
    let host_mac = links::veth_mac(&dual().host_ifname);
    let (addresses, routes, neighbors) = of_ipv6(&container);
    assert_eq!(addresses, "fd00:10:244:1::2/128\n");
    assert_eq!(routes.trim(), "default via fe80::1 dev eth0 metric 1024");
    assert_eq!(neighbors.trim(), format!("fe80::1 dev eth0 lladdr {host_mac} PERMANENT"));
    be_gateway(&host);
    container.run("ping -c 1 -W 5 fd00:10:244:1::1 && ping -c 1 -W 5 fd00:10:244:1::2");
    // The host's end going down and up again costs the container nothing.
    host.run(&format!("ip link set {0} down && ip link set {0} up", dual().host_ifname));
    be_gateway(&host);
    container.run("ping -c 1 -W 5 fd00:10:244:1::1");
    assert_eq!(of_ipv6(&container), (addresses, routes, neighbors));
}

#[tokio::test]
async fn a_namespace_with_ipv6_turned_off_gets_it_for_its_interface_and_for_itself() {
    let (host, container) = (Place::new(), Place::new());
    // As dockerd does it.
    container.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    create_from(&host.netlink(), &dual(), &container.netns()).await.unwrap();
    be_gateway(&host);
    container.run("ping -c 1 -W 5 fd00:10:244:1::1 && ping -c 1 -W 5 fd00:10:244:1::2");
    let off = container.run("cat /proc/sys/net/ipv6/conf/all/disable_ipv6");
    assert_eq!(off.trim(), "1", "other interfaces are none of ours");
    // One without an address of it is left as it is.
    let (beside, other) = (Place::new(), Place::new());
    other.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    create_from(&beside.netlink(), &spec(), &other.netns()).await.unwrap();
    assert_eq!(other.run("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6").trim(), "1");
}

#[tokio::test]
async fn ipv6_goes_with_a_narrow_mtu_and_comes_back_with_a_wide_one() {
    let (host, container) = (Place::new(), Place::new());
    create_from(&host.netlink(), &dual(), &container.netns()).await.unwrap();
    let before = of_ipv6(&container);
    let netns = container.netns();
    let follow = async |last: u32, to: u32| {
        let spec = VethSpec { mtu: last, ..dual() };
        assert_eq!(follow_mtu_from(&host.netlink(), &spec, to, &netns).await.unwrap(), Mtu::Set);
    };
    follow(1450, 1279).await;
    assert_eq!(container.run("ip -6 addr show dev eth0"), "");
    container.run("ip -4 route get 10.244.1.9");
    follow(1279, 1280).await;
    assert_eq!(of_ipv6(&container), before);
    // One that is made while the link is narrow has IPv4 alone until then.
    let late = Place::new();
    let narrow = VethSpec { mtu: 1200, host_ifname: links::veth_name("late", "eth0"), ..dual() };
    create_from(&host.netlink(), &narrow, &late.netns()).await.unwrap();
    assert_eq!(late.run("ip -6 addr show dev eth0"), "");
    assert_eq!(follow_mtu_from(&host.netlink(), &narrow, 1400, &late.netns()).await.unwrap(), Mtu::Set);
    assert_eq!(of_ipv6(&late).0, before.0);
}

#[tokio::test]
async fn an_interface_name_that_is_taken_is_said_to_be() {
    let (host, container) = (Place::new(), Place::new());
    create_from(&host.netlink(), &spec(), &container.netns()).await.unwrap();
    let other = VethSpec { host_ifname: links::veth_name("web-2", "eth0"), ..spec() };
    let error = create_from(&host.netlink(), &other, &container.netns()).await.unwrap_err();
    assert!(matches!(error, VethError::Taken { .. }), "{error:?}");
    let said = format!("there is an interface eth0 in {} already; choose another --ifname", container.path().display());
    assert_eq!(chain(&error), said);

    let error =
        create_from(&host.netlink(), &VethSpec { ifname: "eth1".into(), ..spec() }, &Place::new().netns()).await.unwrap_err();
    assert_eq!(chain(&error), format!("there is a device {} on this host already", spec().host_ifname));
    // The first pair is untouched by both refusals.
    host.run(&format!("ip link show {}", spec().host_ifname));
    assert!(!host.run("ip link").contains(&other.host_ifname));
}

#[tokio::test]
async fn when_a_step_fails_nothing_is_left() {
    let (host, container) = (Place::new(), Place::new());
    container.run("ip link add x type veth peer name y && ip link set x up && ip link set y up && ip route add default dev x");
    // The carrier of x and y comes when it comes.
    let rows = || (host.run("ip link"), container.run("ip -o link | cut -d: -f1,2; ip route | sed 's/ linkdown//'"));
    let before = rows();
    let error = create_from(&host.netlink(), &spec(), &container.netns()).await.unwrap_err();
    let path = container.path();
    let said = format!("there is a default route in {} already; attach with --no-default-route, so that only", path.display());
    assert!(chain(&error).starts_with(&said), "{error}");
    assert_eq!(rows(), before);
    let towards = VethSpec { routes: vec!["10.244.1.1/32".parse().unwrap()], ..spec() };
    let error = create_from(&host.netlink(), &towards, &container.netns()).await.unwrap_err();
    let said = chain(&error);
    assert!(said.starts_with("add route 10.244.1.1/32 via 10.244.1.1 dev eth0 onlink in /proc/"), "{said}");
    assert!(said.ends_with("File exists (os error 17)"), "{said}");
    assert_eq!(rows(), before);
}

#[tokio::test]
async fn a_namespace_with_a_way_out_of_its_own_keeps_it() {
    let (host, container) = (Place::new(), Place::new());
    container.run("ip link add x type veth peer name y && ip link set x up && ip link set y up && ip route add default dev x");
    let routes = ["10.244.0.0/16", "10.112.0.0/16"].map(|net| net.parse().unwrap()).to_vec();
    create_from(&host.netlink(), &VethSpec { routes, ..spec() }, &container.netns()).await.unwrap();
    let by = |to: &str| container.run(&format!("ip route get {to}"));
    for inside in ["10.244.9.9", "10.112.0.1", "10.244.1.1"] {
        assert!(by(inside).contains("dev eth0"), "{}", by(inside));
    }
    assert!(by("192.0.2.1").contains("dev x"), "{}", by("192.0.2.1"));
}

#[tokio::test]
async fn both_ends_follow_an_mtu_but_one_set_by_hand_stays() {
    let (host, container) = (Place::new(), Place::new());
    create_from(&host.netlink(), &spec(), &container.netns()).await.unwrap();
    let name = spec().host_ifname;
    let mtus = || {
        let of = |place: &Place, device: &str| place.run(&format!("cat /proc/sys/net/ipv6/conf/{device}/mtu")).trim().to_owned();
        (of(&host, &name), of(&container, "eth0"))
    };
    let netns = container.netns();
    let follow = async |last: u32, to: u32| {
        let spec = VethSpec { mtu: last, ..spec() };
        follow_mtu_from(&host.netlink(), &spec, to, &netns).await.unwrap()
    };
    let mut last = 1450;
    for to in [1350, 8950, 8950, 1400] {
        assert_eq!(follow(last, to).await, Mtu::Set);
        assert_eq!(mtus(), (to.to_string(), to.to_string()));
        last = to;
    }
    // One that was killed after the change and before the journal asks again with the old one.
    assert_eq!(follow(1450, 1400).await, Mtu::Set);
    container.run("ip link set eth0 mtu 1300");
    assert_eq!(follow(1400, 1380).await, Mtu::ByHand(1300));
    assert_eq!(mtus(), ("1380".to_owned(), "1300".to_owned()));
    container.run("ip link set eth0 mtu 1500");
    assert_eq!(follow(1400, 1380).await, Mtu::ByHand(1500));
    assert_eq!(mtus(), ("1500".to_owned(), "1500".to_owned()), "a veth drops what does not fit its other end");
}

#[tokio::test]
async fn a_name_no_device_can_have_is_refused_by_the_kernel_and_told() {
    let (host, container) = (Place::new(), Place::new());
    let error = create_from(&host.netlink(), &VethSpec { ifname: "a/b".into(), ..spec() }, &container.netns()).await.unwrap_err();
    let said = chain(&error);
    assert!(said.starts_with(&format!("make veth {} and a/b: ", spec().host_ifname)), "{said}");
    assert!(!host.run("ip link").contains("weft"));
}

#[tokio::test]
async fn a_further_interface_leaves_the_way_out_alone_and_answers_by_itself() {
    let (host, container) = (Place::new(), Place::new());
    create_from(&host.netlink(), &dual(), &container.netns()).await.unwrap();
    let further = VethSpec {
        host_ifname: links::veth_name("web-1", "eth1"),
        ifname: "eth1".into(),
        address: [10, 244, 1, 7].into(),
        address6: Some("fd00:10:244:1::7".parse().unwrap()),
        mac: Mac([2, 0, 0, 0, 0, 7]),
        routes: vec!["10.245.0.0/16".parse().unwrap()],
        further: true,
        ..spec()
    };
    create_from(&host.netlink(), &further, &container.netns()).await.unwrap();
    let by = |how: &str| container.run(&format!("ip route get {how}"));
    assert!(by("192.0.2.1").contains("dev eth0") && by("10.245.0.9").contains("dev eth1"));
    for (from, to) in [("10.244.1.7", "192.0.2.1"), ("fd00:10:244:1::7", "2001:db8::1")] {
        assert!(by(&format!("{to} from {from}")).contains("dev eth1"), "{}", by(&format!("{to} from {from}")));
    }
    assert!(by("192.0.2.1 from 10.244.1.2").contains("dev eth0"));
    assert!(container.run("ip -o link show eth1").contains("02:00:00:00:00:07"));

    // Host and container reach each other by both.
    be_gateway(&host);
    let device = &further.host_ifname;
    host.run("ip addr add 10.244.1.1/32 dev lo");
    host.run(&format!("ip route add 10.244.1.7/32 dev {device} && ip route add 10.244.1.2/32 dev {}", spec().host_ifname));
    host.run("ping -c 1 -W 5 10.244.1.7 && ping -c 1 -W 5 10.244.1.2");

    forget_rules(&further, &container.netns()).await.unwrap();
    forget_rules(&further, &container.netns()).await.unwrap();
    host.netlink().remove_device(device).await.unwrap();
    for family in ["-4", "-6"] {
        assert!(!container.run(&format!("ip {family} rule")).contains("32000"), "a rule is left");
    }
}

#[tokio::test]
async fn a_pair_is_whole_until_something_of_it_is_not_and_that_is_said() {
    let (host, container) = (Place::new(), Place::new());
    let (spec, netns) = (dual(), container.netns());
    create_from(&host.netlink(), &spec, &netns).await.unwrap();
    be_gateway(&host);
    host.run(&format!("ip route add 10.244.1.2/32 dev {}", spec.host_ifname));
    let look = async || look_from(&host.netlink(), &spec, &netns).await.unwrap();
    assert_eq!(look().await, Vec::<String>::new());
    container.run("ip route add 192.0.2.0/24 via 10.244.1.1 dev eth0 onlink && ip link set eth0 mtu 1400");
    assert_eq!(look().await, Vec::<String>::new(), "what others add is theirs");
    for (harm, said, mend) in [
        ("ip route del default", "no route to 0.0.0.0/0 by eth0", "ip route add default via 10.244.1.1 dev eth0 onlink"),
        ("ip link set eth0 mtu 9000", "the MTU of eth0 is 9000, and 1450 is what passes", "ip link set eth0 mtu 1450"),
        ("ip -6 addr del fd00:10:244:1::2/128 dev eth0", "no address fd00:10:244:1::2 on eth0", "true"),
        ("ip link del eth0", "there is no ", "true"),
    ] {
        container.run(harm);
        let wrong = look().await.join("; ");
        assert!(wrong.contains(said), "{harm}: {wrong}");
        container.run(mend);
    }
}
