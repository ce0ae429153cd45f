//! Which device is the uplink, and what is said when there is none.

use weft_agent::kernel::netlink::Netlink;
use weft_agent::kernel::netlink::uplink::{AUTO, UplinkError, Wish, resolve};
use weft_plan::Uplink;

use crate::lab::{Place, chain};

/// Two wires: `u0` (192.0.2.1, 192.0.2.9) and `u1` (198.51.100.1); `u2` and `u3` are their other ends, `u4` has no address
/// and is down.
fn place() -> Place {
    let place = Place::new();
    place.run(
        "ip link add u0 type veth peer name u2 && ip link add u1 mtu 9000 type veth peer name u3 && ip link add u4 type veth peer name u5 \
         && for u in u0 u1 u2 u3; do ip link set $u up; done && ip addr add 192.0.2.1/24 dev u0 && ip addr add 192.0.2.9/24 dev u0 \
         && ip addr add 198.51.100.1/24 dev u1",
    );
    place
}

fn wish(iface: &str, last: Option<Uplink>) -> Wish {
    Wish { iface: iface.into(), last, ..Wish::default() }
}

/// The IPv6 address and the public one beside it of what is found.
async fn addresses6(netlink: &Netlink, wish: &Wish) -> String {
    let up = resolve(netlink, wish).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    format!("{} {:?} {:?} {:?}", up.name, up.address, up.address6, up.public_ipv6)
}

#[tokio::test]
async fn an_ipv6_address_lasts_and_stays_the_one_it_was() {
    let place = place();
    // Link-local addresses stand beside it, and one that is looked for on the link.
    place.run(
        "sysctl -qw net.ipv6.conf.u1.dad_transmits=1000 && ip addr add 2001:db8:1::5/64 dev u1 && \
         for a in 2001:db8::1 2001:db8::2 fd00:77::3; do ip addr add $a/64 dev u0 nodad; done && \
         ip addr change 2001:db8::1/64 dev u0 preferred_lft 0 valid_lft 1000",
    );
    let netlink = place.netlink();
    let none = addresses6(&netlink, &wish("u1", None)).await;
    assert_eq!(none, "u1 Some(198.51.100.1) None None");
    let by_address = addresses6(&netlink, &wish("fd00:77::3", None)).await;
    assert_eq!(by_address, "u0 Some(192.0.2.1) Some(fd00:77::3) Some(fd00:77::3)");
    let first = resolve(&netlink, &wish("u0", None)).await.unwrap();
    let chosen = first.address6.unwrap();
    assert_ne!(chosen.to_string(), "2001:db8::1", "that one is deprecated");
    // Which one the kernel lists first changes with each that comes; what was chosen stays.
    place.run("ip addr add 2001:db8::4/64 dev u0 nodad && ip addr add fd00:77::1/64 dev u0 nodad");
    assert_eq!(resolve(&netlink, &wish("u0", Some(first.clone()))).await.unwrap().address6, Some(chosen));
    place.run(&format!("ip addr del {chosen}/64 dev u0"));
    assert_ne!(resolve(&netlink, &wish("u0", Some(first))).await.unwrap().address6, Some(chosen));
    let public = Wish { public_ipv6: Some("2001:db8:9::9".parse().unwrap()), ..wish("2001:db8::4", None) };
    assert_eq!(addresses6(&netlink, &public).await, "u0 Some(192.0.2.1) Some(2001:db8::4) Some(2001:db8:9::9)");
    // Without IPv4, its default route is the one that counts.
    place.run(
        "ip addr flush dev u0 scope global && ip addr add fd00:77::3/64 dev u0 nodad && ip route add default via fd00:77::fe",
    );
    assert_eq!(addresses6(&netlink, &wish(AUTO, None)).await, "u0 None Some(fd00:77::3) Some(fd00:77::3)");
}

#[tokio::test]
async fn a_name_an_address_or_the_default_route_say_which_device_it_is() {
    let place = place();
    place.run("ip route add default via 192.0.2.254 metric 200 && ip route add default via 198.51.100.254 metric 100");
    let netlink = place.netlink();
    let resolve = async |iface, public: Option<&str>| {
        let wish = Wish { public_ip: public.map(|p| p.parse().unwrap()), ..wish(iface, None) };
        let up = resolve(&netlink, &wish).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!(up.index, place.index(&up.name));
        assert!(up.ethernet);
        format!("{} {} {} {}", up.name, up.address.unwrap(), up.public_ip.unwrap(), up.mtu)
    };
    assert_eq!(resolve("u0", None).await, "u0 192.0.2.1 192.0.2.1 1500");
    assert_eq!(resolve("192.0.2.9", None).await, "u0 192.0.2.9 192.0.2.9 1500");
    assert_eq!(resolve(AUTO, None).await, "u1 198.51.100.1 198.51.100.1 9000");
    // Behind a translation, and an address of the device itself.
    assert_eq!(resolve("u0", Some("203.0.113.5")).await, "u0 192.0.2.1 203.0.113.5 1500");
    assert_eq!(resolve("u0", Some("192.0.2.9")).await, "u0 192.0.2.9 192.0.2.9 1500");
    place.run("ip route replace default nexthop via 192.0.2.254 nexthop via 198.51.100.254");
    assert_eq!(resolve(AUTO, None).await, "u0 192.0.2.1 192.0.2.1 1500");
    // A deprecated address is taken only if there is no other; a link-local one never.
    place.run("ip addr change 192.0.2.1/24 dev u0 preferred_lft 0 valid_lft 1000");
    assert_eq!(resolve("u0", None).await, "u0 192.0.2.9 192.0.2.9 1500");
}

#[tokio::test]
async fn without_an_uplink_it_is_said_why_and_what_there_is() {
    let place = place();
    place.run("ip link add weft.1 type vxlan id 1 dstport 8472 && ip link set weft.1 up");
    let netlink = place.netlink();
    let refuse = async |iface| resolve(&netlink, &wish(iface, None)).await.unwrap_err();
    let error = refuse("eth7").await;
    assert!(matches!(error, UplinkError::NoDevice { .. }), "{error:?}");
    let said = chain(&error);
    assert!(said.starts_with("--iface eth7: there is no such interface; there are "), "{said}");
    assert!(["u0", "u1", "u2", "u3", "u4"].iter().all(|name| said.contains(name)) && !said.contains("weft.1"), "{said}");

    let said = chain(&refuse("192.0.2.77").await);
    assert_eq!(
        said,
        "--iface 192.0.2.77: no interface has this address; there are 192.0.2.1 (u0), 192.0.2.9 (u0), 198.51.100.1 (u1)"
    );
    let said = chain(&refuse(AUTO).await);
    assert!(
        said.starts_with("--iface auto: there is no default route; name an interface or address with --iface; there are "),
        "{said}"
    );
    assert_eq!(chain(&refuse("u2").await), "interface u2 has no address yet that other hosts could send to");
    assert_eq!(chain(&refuse("u4").await), "interface u4 is down");
    assert_eq!(chain(&refuse("weft.1").await), "interface weft.1 is part of the overlay itself");
    place.run("ip addr add 169.254.3.3/16 dev u2 scope link");
    assert_eq!(chain(&refuse("u2").await), "interface u2 has no address yet that other hosts could send to");
    // An unreachable default route is no way out.
    place.run("ip route add unreachable default");
    assert!(matches!(refuse(AUTO).await, UplinkError::NoDefaultRoute { .. }));
}

#[tokio::test]
async fn an_uplink_without_ethernet_frames_is_told_apart() {
    let place = Place::new();
    place.run("ip tuntap add dev tun0 mode tun && ip addr add 192.0.2.1/24 dev tun0 && ip link set tun0 up");
    let up = resolve(&place.netlink(), &wish("tun0", None)).await.unwrap();
    assert!(!up.ethernet);
}

#[tokio::test]
async fn a_device_that_was_the_uplink_still_is_under_another_name_unless_another_took_its_own() {
    let place = place();
    let netlink = place.netlink();
    let last = Some(resolve(&netlink, &wish("u0", None)).await.unwrap());
    place.run("ip link set u0 name wan0");
    let found = resolve(&netlink, &wish("u0", last.clone())).await.unwrap();
    assert_eq!((found.name.as_str(), found.address), ("wan0", Some("192.0.2.1".parse().unwrap())));
    assert!(matches!(resolve(&netlink, &wish("u0", None)).await.unwrap_err(), UplinkError::NoDevice { .. }));
    place.run("ip link set u1 name u0");
    assert_eq!(resolve(&netlink, &wish("u0", last)).await.unwrap().mtu, 9000);
}
