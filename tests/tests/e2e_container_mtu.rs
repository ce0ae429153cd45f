//! The MTU inside of containers follows the uplink's while they run, and namespaces keep what others gave them.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::IpAddr;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::ip;
use weft_tests::traffic::{idle, tcp_server, transfer};
use weft_tests::{Container, Host, Place, Topology, eventually};

fn mtu(place: &Place, device: &str) -> Result<u64> {
    let link = place.exec(["ip", "-json", "link", "show", device])?.json()?;
    link[0]["mtu"].as_u64().ok_or_else(|| anyhow::anyhow!("no mtu in {link}"))
}

/// Attachments of a host, by id.
fn attachment(host: &Host, id: &str) -> Value {
    let all = host.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
    all.as_array().unwrap().iter().find(|a| a["id"] == id).unwrap().clone()
}

/// Waits until both ends of a container's pair have an MTU.
fn follows(host: &Host, container: &Container, id: &str, wanted: u64) {
    eventually(&format!("{id} on {} has mtu {wanted}", host.name()), SOON, || {
        let listed = attachment(host, id);
        let far = mtu(container.place(), "eth0")?;
        let near = mtu(host.place(), listed["host_ifname"].as_str().unwrap())?;
        ensure!((far, near) == (wanted, wanted), "{far} inside, {near} at the host");
        ensure!(listed["mtu"] == wanted, "{listed}");
        Ok(())
    })
    .unwrap();
}

/// The longest ping that must not be fragmented gets there, and one that is longer by a byte is not even sent.
fn pings_of_full_size(from: &Container, to: IpAddr, mtu: u64) {
    let (to, fits, too_long) = (to.to_string(), (mtu - 28).to_string(), (mtu - 27).to_string());
    let ping = |size: &str| from.exec(["ping", "-n", "-M", "do", "-c", "1", "-W", "5", "-s", size, &to]).unwrap();
    eventually(&format!("a packet of {mtu} bytes gets through"), SOON, || ping(&fits).success().map(drop)).unwrap();
    let refused = ping(&too_long);
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("too long"), "{refused:?}");
}

#[test]
fn containers_follow_the_uplinks_mtu_down_and_up() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let client = idle(h1, &["--id", "client"]).unwrap();
    let server = tcp_server(h2, &["--id", "server"], 8080, "h2").unwrap();
    let to = IpAddr::V4(server.address().unwrap());
    follows(h1, &client, "client", 1450);
    transfer(client.place(), to, 8080).unwrap();
    for uplink in [1400_u32, 9000, 1500] {
        for host in t.hosts() {
            host.set_uplink_mtu(uplink).unwrap();
        }
        let inner = u64::from(uplink) - 50;
        follows(h1, &client, "client", inner);
        follows(h2, &server, "server", inner);
        pings_of_full_size(&client, to, inner);
        transfer(client.place(), to, 8080).unwrap();
    }
    // What is attached from now on has it at once.
    let late = idle(h1, &["--id", "late"]).unwrap();
    assert_eq!(mtu(late.place(), "eth0").unwrap(), 1450);
}

#[test]
fn an_mtu_that_was_set_by_hand_stays_and_an_agent_that_was_dead_catches_up() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let (own, other) = (idle(host, &["--id", "own"]).unwrap(), idle(host, &["--id", "other"]).unwrap());
    ip(own.place(), "link set eth0 mtu 1300").unwrap();
    host.agent.kill9().unwrap();
    host.set_uplink_mtu(1400).unwrap();
    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
    follows(host, &other, "other", 1350);
    let known = |id: &str| attachment(host, id)["host_ifname"].as_str().unwrap().to_owned();
    eventually("the host's end follows all the same", SOON, || {
        let near = mtu(host.place(), &known("own"))?;
        ensure!(near == 1350, "{near}");
        Ok(())
    })
    .unwrap();
    assert_eq!(mtu(own.place(), "eth0").unwrap(), 1300, "somebody inside has chosen that");
    // Back to what the agent had set last, and it follows again.
    ip(own.place(), "link set eth0 mtu 1450").unwrap();
    host.set_uplink_mtu(1500).unwrap();
    follows(host, &own, "own", 1450);
    host.set_uplink_mtu(1600).unwrap();
    follows(host, &own, "own", 1550);
}

#[test]
fn a_namespace_with_a_default_route_keeps_it() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let place = host.bare_namespace("mine").unwrap();
    ip(&place, "link add out type veth peer name far").unwrap();
    ip(&place, "address add 192.0.2.2/24 dev out").unwrap();
    ip(&place, "link set out up").unwrap();
    ip(&place, "link set far up").unwrap();
    ip(&place, "route add default via 192.0.2.1").unwrap();
    let netns = place.netns().to_str().unwrap();
    let refused = host.netctl(["attach", "--netns", netns, "--id", "mine"]).unwrap();
    assert!(refused.stderr.contains("default route") && refused.stderr.contains("--no-default-route"), "{refused:?}");
    host.netctl(["attach", "--netns", netns, "--id", "mine", "--no-default-route"]).unwrap().success().unwrap();
    let by = |to: &str| place.exec(["ip", "-json", "route", "get", to]).unwrap().json().unwrap()[0]["dev"].clone();
    assert_eq!(by("198.51.100.1"), "out");
    assert_eq!(by("10.244.99.2"), "eth0");
    assert_eq!(by("10.112.0.9"), "eth0", "virtual IPs do not go out by another way");
    let other = idle(host, &["--id", "other"]).unwrap();
    let to = other.address().unwrap().to_string();
    place.exec(["ping", "-n", "-c", "1", "-W", "5", &to]).unwrap().success().unwrap();
    // Made anew after somebody removed it, it has the same routes.
    let device = attachment(host, "mine")["host_ifname"].as_str().unwrap().to_owned();
    ip(host.place(), &format!("link delete {device}")).unwrap();
    eventually("the pair is there again", SOON, || {
        let dev = place.exec(["ip", "-json", "route", "get", "10.244.99.2"])?.json()?;
        ensure!(dev[0]["dev"] == "eth0", "{dev}");
        Ok(())
    })
    .unwrap();
    assert_eq!(by("198.51.100.1"), "out");
}
