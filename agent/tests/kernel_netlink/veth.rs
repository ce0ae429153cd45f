//! Veth pairs: whole, or not at all.

use weft_agent::kernel::veth::{VethError, VethSpec, create_from};
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
        mtu: 1450,
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
    let said = chain(&error);
    assert!(said.starts_with("add route 0.0.0.0/0 via 10.244.1.1 dev eth0 onlink in /proc/"), "{said}");
    assert!(said.ends_with("File exists (os error 17)"), "{said}");
    assert_eq!(rows(), before);
}

#[tokio::test]
async fn a_name_no_device_can_have_is_refused_by_the_kernel_and_told() {
    let (host, container) = (Place::new(), Place::new());
    let error = create_from(&host.netlink(), &VethSpec { ifname: "a/b".into(), ..spec() }, &container.netns()).await.unwrap_err();
    let said = chain(&error);
    assert!(said.starts_with(&format!("make veth {} and a/b: ", spec().host_ifname)), "{said}");
    assert!(!host.run("ip link").contains("weft"));
}
