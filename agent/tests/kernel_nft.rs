//! Our nft table on a real kernel: what it drops, what it rewrites, and how it is found changed. No eBPF anywhere.
//!
//! Needs root, iproute2, nftables and ping.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "it serves other tests too")]
#[path = "kernel_netlink/lab.rs"]
mod lab;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use lab::{Machine, Place, chain, dual_lease, snapshot, two_hosts};
use weft_agent::kernel::nft::Nft;
use weft_agent::kernel::nft::generation::Changes;
use weft_model::snapshot::Snapshot;
use weft_plan::nft::{self, Action, Found, Masquerade, Ruleset};

/// What a host loads.
fn table(machine: &Machine, snapshot: &Snapshot, masquerade: bool) -> Ruleset {
    let masquerade = Masquerade { on: masquerade, exclude: Vec::new() };
    nft::desired(&snapshot.cluster(), &machine.host, &machine.desired(snapshot).peers, &masquerade).unwrap()
}

fn handle(machine: &Machine) -> Nft {
    Nft::in_namespace(Arc::new(machine.place.netns()))
}

async fn sync(nft: &Nft, ruleset: &Ruleset) -> Vec<Action> {
    nft.sync(Some(ruleset)).await.unwrap_or_else(|e| panic!("{}", chain(&e)))
}

/// Packets of one counter.
async fn count(nft: &Nft, counter: &str) -> u64 {
    nft.counts().await.unwrap()[counter].0
}

/// Hosts without programs, a table on each, and a container on each.
async fn cluster() -> (Vec<(Machine, Nft)>, Snapshot, (Place, Ipv4Addr), (Place, Ipv4Addr)) {
    let (mut one, mut two, snapshot) = two_hosts();
    for machine in [&one, &two] {
        machine.follow(&machine.desired(&snapshot).kernel).await;
    }
    let (near, far) = (one.attach(&snapshot).await, two.attach(&snapshot).await);
    let mut hosts = Vec::new();
    for machine in [one, two] {
        let nft = handle(&machine);
        sync(&nft, &table(&machine, &snapshot, true)).await;
        hosts.push((machine, nft));
    }
    (hosts, snapshot, near, far)
}

/// Counts in `place` what comes in from `source`, by a table of another owner.
fn watch(place: &Place, source: &str) {
    place.run(&format!(
        "nft -f - <<END\ntable ip seen {{ chain i {{ type filter hook input priority 0; ip saddr {source} icmp type echo-request counter; }}; }}\nEND"
    ));
}

fn seen(place: &Place) -> bool {
    !place.run("nft list table ip seen").contains("packets 0 ")
}

#[tokio::test]
async fn a_containers_source_must_be_its_own() {
    let (hosts, _, (near, _), (_far, far_ip)) = cluster().await;
    let nft = &hosts[0].1;
    near.run(&format!("ping -c 1 -W 5 {far_ip}"));
    assert_eq!(count(nft, "container_spoofed_source").await, 0);
    near.run("ip addr add 10.244.1.99/32 dev eth0 && ip addr add 192.0.2.77/32 dev eth0");
    for source in ["10.244.1.99", "192.0.2.77"] {
        let before = count(nft, "container_spoofed_source").await;
        for to in [far_ip.to_string(), "192.0.2.1".to_owned()] {
            let lost = near.try_run(&format!("ping -c 1 -W 1 -I {source} {to}"));
            assert!(!lost.status.success(), "{source} reached {to}");
        }
        assert_eq!(count(nft, "container_spoofed_source").await, before + 2);
    }
}

#[tokio::test]
async fn containers_send_no_tunnel_packets() {
    let (hosts, _, (near, _), _) = cluster().await;
    near.run("bash -c 'echo x > /dev/udp/192.0.2.2/8472; echo x > /dev/udp/192.0.2.1/8472; echo x > /dev/udp/192.0.2.2/8473'");
    assert_eq!(count(&hosts[0].1, "container_injects_overlay").await, 2);
}

#[tokio::test]
async fn what_the_overlay_brings_has_a_peers_source() {
    let (hosts, snapshot, (_near, near_ip), (far, _)) = cluster().await;
    // The other host checks nothing.
    hosts[1].0.place.run("nft delete table inet weft");
    far.run(&format!("ping -c 1 -W 5 {near_ip}"));
    far.run("ip addr add 198.51.100.7/32 dev eth0");
    let nft = &hosts[0].1;
    assert_eq!(count(nft, "uplink_spoofed_source").await, 0);
    assert!(!far.try_run(&format!("ping -c 1 -W 1 -I 198.51.100.7 {near_ip}")).status.success());
    assert_eq!(count(nft, "uplink_spoofed_source").await, 1);
    drop(snapshot);
}

#[tokio::test]
async fn tunnel_packets_come_from_peers_and_other_networks_tunnels_are_left_alone() {
    let (hosts, ..) = cluster().await;
    let (one, two) = (&hosts[0], &hosts[1]);
    two.0.place.run("ip addr add 192.0.2.66/24 dev u0");
    let send = |from: &str, vni: &str| {
        let socket = "import socket,sys; s=socket.socket(2,2); s.bind((sys.argv[1],0)); s.sendto(bytes.fromhex('0800000000'+sys.argv[2]+'00')+bytes(40),('192.0.2.1',8472))";
        two.0.place.run(&format!("python3 -c \"{socket}\" {from} {vni}"));
    };
    send("192.0.2.66", "000200");
    send("192.0.2.2", "0001");
    assert_eq!(count(&one.1, "uplink_unknown_peer").await, 0);
    send("192.0.2.66", "0001");
    assert_eq!(count(&one.1, "uplink_unknown_peer").await, 1);
}

#[tokio::test]
async fn the_outside_sees_the_host_and_answers_and_the_overlay_sees_the_container() {
    let (hosts, snapshot, (near, near_ip), (far, far_ip)) = cluster().await;
    let (one, two) = (&hosts[0], &hosts[1]);
    two.0.place.run("ip addr add 198.51.100.9/32 dev lo");
    one.0.place.run("ip route add 198.51.100.9 via 192.0.2.2");
    watch(&two.0.place, "192.0.2.1");
    near.run("ping -c 2 -W 5 198.51.100.9");
    assert!(seen(&two.0.place), "another source than the host's");

    watch(&far, &near_ip.to_string());
    near.run(&format!("ping -c 2 -W 5 {far_ip}"));
    assert!(seen(&far), "the overlay rewrote a source");

    // Switched off, the outside sees the container.
    sync(&one.1, &table(&one.0, &snapshot, false)).await;
    two.0.place.run("nft delete table ip seen");
    watch(&two.0.place, &near_ip.to_string());
    near.try_run("ping -c 1 -W 1 198.51.100.9");
    assert!(seen(&two.0.place), "masquerade although it is off");
}

/// Two dual-stack hosts that reach each other over IPv4 and IPv6, a table and a container on each.
async fn dual_cluster(masquerade: bool) -> (Vec<(Machine, Nft)>, [(Place, Ipv6Addr); 2]) {
    let (mut one, mut two, _) = two_hosts();
    let views = [
        [dual_lease(1, true, true, true), dual_lease(2, true, true, false)],
        [dual_lease(1, true, true, false), dual_lease(2, true, true, true)],
    ];
    let views = views.map(|leases| snapshot(&leases));
    let mut containers = Vec::new();
    for (machine, view) in [(&mut one, &views[0]), (&mut two, &views[1])] {
        machine.dual(true, true);
        let (place, _, address) = machine.attach_dual(view).await;
        containers.push((place, address));
    }
    let mut hosts = Vec::new();
    for (machine, view) in [one, two].into_iter().zip(&views) {
        let nft = handle(&machine);
        sync(&nft, &table(&machine, view, masquerade)).await;
        hosts.push((machine, nft));
    }
    (hosts, containers.try_into().unwrap())
}

/// Sends from a raw socket, headers and all.
fn send_raw6(place: &Place, destination: &str, packet: &str) {
    let socket = "import socket,sys; s=socket.socket(10,3,255); s.setsockopt(41,36,1); \
                  s.sendto(bytes.fromhex(sys.argv[2].replace(':','')),(sys.argv[1],0))";
    place.run(&format!("python3 -c \"{socket}\" {destination} {packet}"));
}

/// The bytes of an address in hexadecimal.
fn hex(address: Ipv6Addr) -> String {
    address.octets().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn in_ipv6_a_container_sends_from_its_own_address_and_link_local_ones_stay_on_the_link() {
    let (hosts, [(near, _), (_far, far6)]) = dual_cluster(true).await;
    let (one, nft) = &hosts[0];
    near.run(&format!("ping -c 1 -W 5 {far6}"));
    near.run("ip addr add fd00:10:244:1::99/128 dev eth0 nodad && ip addr add 2001:db8:77::1/128 dev eth0 nodad");
    near.run("ip addr add fe80::7/64 dev eth0 nodad");
    for source in ["fd00:10:244:1::99", "2001:db8:77::1"] {
        let before = count(nft, "container_spoofed_source").await;
        for to in [far6.to_string(), "2001:db8::1".to_owned()] {
            let lost = near.try_run(&format!("ping -c 1 -W 1 -I {source} {to}"));
            assert!(!lost.status.success(), "{source} reached {to}");
        }
        assert_eq!(count(nft, "container_spoofed_source").await, before + 2, "{source}");
    }
    // On the link it may say who it is: the gateway answers; beyond, it may not.
    let attachment = &one.host.attachments[0];
    one.place.run(&format!("ip neigh replace fe80::7 lladdr {} dev {}", attachment.mac, attachment.host_ifname));
    near.run("ping -c 1 -W 5 -I fe80::7%eth0 fe80::1%eth0");
    let before = count(nft, "container_spoofed_source").await;
    let header = format!("60000000000c3a40{}{}", hex("fe80::7".parse().unwrap()), hex(far6));
    send_raw6(&near, &far6.to_string(), &format!("{header}80000000000000000000ffff"));
    assert_eq!(count(nft, "container_spoofed_source").await, before + 1);
}

#[tokio::test]
async fn no_tunnel_packet_leaves_a_container_in_ipv6_behind_whatever_headers_it_stands() {
    for masquerade in [true, false] {
        let (hosts, [(near, near6), (_far, far6)]) = dual_cluster(masquerade).await;
        let nft = &hosts[0].1;
        near.run("ip addr add fe80::7/64 dev eth0 nodad");
        let send = "import socket,sys; s=socket.socket(10,2); \
                    [s.setsockopt(41,int(o),bytes([0,0,1,4,0,0,0,0])) for o in sys.argv[2:]]; \
                    s.sendto(b'x'*16,(sys.argv[1],8472,0,socket.if_nametoindex('eth0')))";
        // Plain, behind destination options, behind hop-by-hop options, to the gateway's link-local address.
        for arguments in ["2001:db8::2", "2001:db8::2 59", "2001:db8::2 54", "fe80::1"] {
            let before = count(nft, "container_injects_overlay").await;
            near.run(&format!("python3 -c \"{send}\" {arguments}"));
            assert_eq!(count(nft, "container_injects_overlay").await, before + 1, "{arguments}");
        }
        // First fragments that end before the UDP header: behind options that go on in the next fragment, and before options
        // whose own first byte is there.
        let before = count(nft, "container_injects_overlay").await;
        let addresses = format!("{}{}", hex(near6), hex(far6));
        for rest in ["00102c40:3c00000100000001:1101010400000000", "00182c40:3c00000100000002:3c00010400000000:1102010400000000"]
        {
            let (start, rest) = rest.split_once(':').unwrap();
            send_raw6(&near, &far6.to_string(), &format!("60000000{start}{addresses}{rest}"));
        }
        let hidden = count(nft, "container_injects_overlay").await - before;
        // With masquerade the kernel puts fragments together first, but lets such pass (`nf_ct_frag6_gather`, Linux 5.11).
        assert_eq!(hidden, 2);
        // A longer datagram in fragments, and one behind options, of another port: nobody minds.
        // The first learns what the path takes.
        near.run(&format!("ping -c 3 -W 5 -s 3000 {far6}"));
        assert_eq!(count(nft, "container_injects_overlay").await, before + hidden);
    }
}

#[tokio::test]
async fn what_the_overlay_brings_in_ipv6_has_a_peers_source_and_comes_from_a_peer() {
    let (hosts, [(_near, near6), (far, _)]) = dual_cluster(true).await;
    let (one, two) = (&hosts[0], &hosts[1]);
    two.0.place.run("nft delete table inet weft");
    far.run(&format!("ping -c 1 -W 5 {near6}"));
    far.run("ip addr add 2001:db8:77::1/128 dev eth0 nodad");
    assert_eq!(count(&one.1, "uplink_spoofed_source").await, 0);
    assert!(!far.try_run(&format!("ping -c 1 -W 1 -I 2001:db8:77::1 {near6}")).status.success());
    assert_eq!(count(&one.1, "uplink_spoofed_source").await, 1);
    two.0.place.run("ip addr add 2001:db8::66/64 dev u0 nodad");
    let send = |from: &str| {
        let socket = "import socket,sys; s=socket.socket(10,2); s.bind((sys.argv[1],0)); s.sendto(bytes.fromhex('0800000000000100')+bytes(40),('2001:db8::1',8472))";
        two.0.place.run(&format!("python3 -c \"{socket}\" {from}"));
    };
    send("2001:db8::2");
    assert_eq!(count(&one.1, "uplink_unknown_peer").await, 0);
    send("2001:db8::66");
    assert_eq!(count(&one.1, "uplink_unknown_peer").await, 1);
}

#[tokio::test]
async fn the_outside_sees_the_hosts_ipv6_address_and_the_overlay_the_containers() {
    let (hosts, [(near, near6), (far, far6)]) = dual_cluster(true).await;
    let (one, two) = (&hosts[0], &hosts[1]);
    let watch6 = |place: &Place, source: &str| {
        place.run(&format!(
            "nft -f - <<END\ntable ip6 seen {{ chain i {{ type filter hook input priority 0; ip6 saddr {source} icmpv6 type echo-request counter; }}; }}\nEND"
        ));
    };
    let seen6 = |place: &Place| !place.run("nft list table ip6 seen").contains("packets 0 ");
    two.0.place.run("ip addr add 2001:db8:9::9/128 dev lo nodad");
    one.0.place.run("ip -6 route add 2001:db8:9::9 via 2001:db8::2");
    watch6(&two.0.place, "2001:db8::1");
    near.run("ping -c 2 -W 5 2001:db8:9::9");
    assert!(seen6(&two.0.place), "another source than the host's");
    watch6(&far, &near6.to_string());
    near.run(&format!("ping -c 2 -W 5 {far6}"));
    assert!(seen6(&far), "the overlay rewrote a source");
    // Switched off, the outside sees the container.
    let view = snapshot(&[dual_lease(1, true, true, true), dual_lease(2, true, true, false)]);
    sync(&one.1, &table(&one.0, &view, false)).await;
    two.0.place.run("nft delete table ip6 seen");
    watch6(&two.0.place, &near6.to_string());
    near.try_run("ping -c 1 -W 1 2001:db8:9::9");
    assert!(seen6(&two.0.place), "masquerade although it is off");
}

/// A server on port 80, of both families, that tells every client its address.
struct Server(String);

impl Server {
    fn start(place: &Place) -> Self {
        let script = "import socket; s=socket.socket(socket.AF_INET6); s.bind((str(),80)); s.listen(9); \
                      [(c.sendall(a[0].encode()),c.close()) for c,a in iter(s.accept,None)]";
        Self(place.run(&format!("python3 -c '{script}' >/dev/null 2>&1 & echo $!")).trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").arg(&self.0).output();
    }
}

/// Whom the server that answers takes us for; empty if none answers.
fn ask(place: &Place, address: &str, port: u16) -> String {
    let script = "import socket,sys; print(socket.create_connection((sys.argv[1],int(sys.argv[2])),10).recv(99).decode())";
    let output = place.try_run(&format!("python3 -c '{script}' {address} {port}"));
    String::from_utf8(output.stdout).unwrap().trim().trim_start_matches("::ffff:").to_owned()
}

#[tokio::test]
async fn a_published_port_costs_its_elements_and_leads_to_the_container() {
    for masquerade in [true, false] {
        let (mut hosts, [(near, _), _far]) = dual_cluster(masquerade).await;
        let view = snapshot(&[dual_lease(1, true, true, true), dual_lease(2, true, true, false)]);
        let (mut one, nft) = hosts.remove(0);
        let two = &hosts[0].0;
        let _server = Server::start(&near);
        let address = one.host.attachments[0].address;
        let mut tries = 0;
        while ask(&one.place, &address.to_string(), 80).is_empty() {
            tries += 1;
            assert!(tries < 1000, "the server never answered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        one.host.attachments[0].publish = ["8080:80", "192.0.2.1:8081:80", "8082-8083:79-80"].map(|p| p.parse().unwrap()).into();
        let wanted = table(&one, &view, masquerade);
        let actions = sync(&nft, &wanted).await;
        let loads = actions.iter().any(|action| matches!(action, Action::Load { .. }));
        assert_eq!(loads, !masquerade, "where addresses are rewritten anyway elements are enough: {actions:?}");
        assert_eq!(sync(&nft, &wanted).await, []);
        for (address, port, seen) in [
            ("192.0.2.1", 8080, "192.0.2.2"),
            ("192.0.2.1", 8081, "192.0.2.2"),
            ("192.0.2.1", 8083, "192.0.2.2"),
            ("2001:db8::1", 8080, "2001:db8::2"),
            ("2001:db8::1", 8083, "2001:db8::2"),
            // Bound to the other address; no server behind this one of the range; one beside it.
            ("2001:db8::1", 8081, ""),
            ("192.0.2.1", 8082, ""),
            ("192.0.2.1", 8084, ""),
        ] {
            assert_eq!(ask(&two.place, address, port), seen, "{address} {port}");
        }
        // What others do to a map is undone like all the rest, and found by a listing that knows all elements.
        one.place
            .run("nft flush map inet weft ports && nft add element inet weft bound '{ 192.0.2.9 . udp . 9 : 10.0.0.1 . 9 }'");
        let mut undone: Vec<String> = sync(&nft, &wanted).await.iter().map(ToString::to_string).collect();
        undone.sort();
        let first = format!("add tcp . 8080 : {address} . 80 to nft map inet weft ports");
        assert_eq!((undone.len(), &undone[0]), (4, &first), "{undone:?}");
        assert_eq!(ask(&two.place, "192.0.2.1", 8080), "192.0.2.2");
        one.host.attachments[0].publish.clear();
        sync(&nft, &table(&one, &view, masquerade)).await;
        assert_eq!(ask(&two.place, "192.0.2.1", 8080), "", "nothing is published any more");
    }
}

#[tokio::test]
async fn what_others_do_to_the_table_is_found_and_undone() {
    let (mut hosts, snapshot, ..) = cluster().await;
    let (machine, nft) = hosts.remove(0);
    let wanted = table(&machine, &snapshot, true);
    assert_eq!(nft.observe().await.unwrap(), Found::Ours(wanted.clone()));
    assert_eq!(sync(&nft, &wanted).await, []);
    for (change, undone) in [
        ("nft flush ruleset", "load nft table inet weft: it is missing"),
        ("nft delete table inet weft", "load nft table inet weft: it is missing"),
        ("nft flush chain inet weft sources", "load nft table inet weft: its rules are not those of this agent"),
        ("nft insert rule inet weft sources accept", "load nft table inet weft: its rules are not those of this agent"),
        ("nft add chain inet weft mine", "load nft table inet weft: its rules are not those of this agent"),
        ("nft flush set inet weft peers", "add 10.244.2.0/24 to nft set inet weft peers"),
        ("nft add element inet weft vteps '{ 192.0.2.9 }'", "remove 192.0.2.9 from nft set inet weft vteps"),
    ] {
        machine.place.run(change);
        let previewed: Vec<String> = nft.preview(Some(&wanted)).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(previewed, [undone], "{change}");
        assert!(nft.is_stale(), "a preview takes nobody's news away");
        let actions: Vec<String> = sync(&nft, &wanted).await.iter().map(ToString::to_string).collect();
        assert_eq!(actions, [undone], "{change}");
        assert_eq!(sync(&nft, &wanted).await, [], "{change}");
    }
    // Other owners' tables are none of our concern.
    machine.place.run("nft add table ip others && nft add chain ip others c");
    assert!(nft.is_stale());
    assert_eq!(sync(&nft, &wanted).await, []);
    assert!(!nft.is_stale());
    machine.place.run("nft list chain ip others c");
}

#[tokio::test]
async fn a_peer_more_changes_elements_and_counts_go_on_when_the_table_is_loaded_anew() {
    let (mut hosts, snapshot, (near, _), _) = cluster().await;
    let (machine, nft) = hosts.remove(0);
    near.run("bash -c 'echo x > /dev/udp/192.0.2.2/8472'");
    let wanted = table(&machine, &snapshot, true);
    let mut wider = wanted.clone();
    for n in 3..40 {
        let subnet = nft::Element::Net(format!("10.244.{n}.0/24").parse().unwrap());
        wider.sets.get_mut(&nft::Set::Peers).unwrap().insert(subnet);
    }
    let handle_of_table = || machine.place.run("nft -a list table inet weft | grep 'chain sources'");
    let before = handle_of_table();
    for ruleset in [&wider, &wanted, &wider] {
        sync(&nft, ruleset).await;
        assert_eq!(self::handle(&machine).observe().await.unwrap(), Found::Altered, "another agent knows nothing of it");
        machine.place.run("nft add table ip noise");
        assert_eq!(nft.observe().await.unwrap(), Found::Ours(ruleset.clone()));
    }
    assert_eq!(handle_of_table(), before, "the table was loaded anew");
    // An agent that has just started takes the table over with its counts.
    let next = handle(&machine);
    assert_eq!(sync(&next, &wider).await.len(), 1);
    assert_eq!(count(&next, "container_injects_overlay").await, 1);
    next.sync(None).await.unwrap();
    assert!(!machine.place.run("nft list tables").contains("weft"));
}

#[tokio::test]
async fn what_is_left_of_devices_that_are_gone_stays_until_it_is_to_go_and_is_no_change_by_others() {
    let (mut machine, _other, snapshot) = two_hosts();
    machine.follow(&machine.desired(&snapshot).kernel).await;
    let empty = table(&machine, &snapshot, true);
    machine.attach(&snapshot).await;
    let nft = handle(&machine);
    let one = table(&machine, &snapshot, true);
    sync(&nft, &one).await;
    let but_leftovers = async |to: &Ruleset, gone: bool| nft.sync_but_leftovers(Some(to), move |_| gone).await.unwrap();
    assert_eq!(but_leftovers(&empty, true).await, (Vec::new(), true));
    assert!(!nft.is_stale());
    assert_eq!(nft.observe().await.unwrap(), Found::Ours(one.clone()));
    // Another one comes meanwhile: it is added, and what is left stays.
    machine.attach(&snapshot).await;
    let two = table(&machine, &snapshot, true);
    let (done, left) = but_leftovers(&two, true).await;
    assert!(!left && matches!(done.as_slice(), [Action::Add(..)]), "{done:?}");
    assert_eq!(but_leftovers(&one, true).await, (Vec::new(), true));
    // A device that is there is another matter, and so is whoever wants all of it gone.
    let (done, left) = but_leftovers(&one, false).await;
    assert!(!left && matches!(done.as_slice(), [Action::Remove(..)]), "{done:?}");
    assert_eq!(but_leftovers(&empty, true).await, (Vec::new(), true));
    assert!(matches!(sync(&nft, &empty).await.as_slice(), [Action::Remove(..)]));
}

#[tokio::test]
async fn a_change_is_noticed_when_it_happens() {
    let place = Place::new();
    let mut changes = Changes::new(Some(&place.netns())).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.is_err(), "nothing has happened");
    place.run("nft add table ip others");
    tokio::time::timeout(Duration::from_secs(30), changes.changed()).await.expect("notice of a change");
    // Another namespace's rules are not ours.
    let other = Place::new();
    tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.ok();
    other.run("nft add table ip others");
    assert!(tokio::time::timeout(Duration::from_millis(200), changes.changed()).await.is_err(), "another namespace's change");
}

#[tokio::test]
async fn chains_of_others_that_drop_forwarded_packets_are_named() {
    let place = Place::new();
    let nft = Nft::in_namespace(Arc::new(place.netns()));
    let words = || vec!["weft".to_owned(), "10.244.0.0/16".to_owned()];
    place.run("nft add table inet fw && nft add chain inet fw past '{ type filter hook forward priority 0; policy drop; }'");
    let found = nft.other_filters(words()).await.unwrap();
    assert!(found.len() == 1 && found[0].contains("inet fw past"), "{found:?}");
    place.run("nft add rule inet fw past iifname '\"weft*\"' accept");
    assert_eq!(nft.other_filters(words()).await.unwrap(), Vec::<String>::new());
}
