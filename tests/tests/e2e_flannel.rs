//! One network of Weft hosts and hosts that are as flannel makes them ([`weft_tests::flannel`] says how far that is played).
//!
//! Living beside flannelds has ten rules, and each has tests that would fail without it:
//!
//! | | rule | tests |
//! |---|---|---|
//! | 1 | same keys, values, time to live; more members only in our own | here `what_weft_writes_is_what_flannel_reads`, `hosts_of_both_kinds_know_each_other`; e2e_cluster `a_subnet_hangs_on_a_lease_of_a_day` |
//! | 2 | create by transaction, renew by compare, with our name in it | agent claim `a_new_claim_lease_or_address_rewrites_the_same_subnet_by_compare`; e2e_conflicts |
//! | 3 | never write or delete a flanneld's key | here `what_weft_writes_is_what_flannel_reads` |
//! | 4 | the VTEP's MAC stays | e2e_heal; e2e_death `a_host_that_gets_its_power_back_is_the_host_it_was`; e2e_mend `a_lost_state_directory…`; e2e_flannel_host `a_former_flannelds_subnet…` |
//! | 5 | reservations are in our own tree, flannelds see a lease | e2e_leases `a_reserved_subnet_waits_for_its_host_and_goes_to_no_other` |
//! | 6 | peers by a difference that knows MAC and address; what is stale goes | here `a_flannel_host_with_a_new_mac_is_followed`, `a_flannel_host_joins_leaves_and_returns`; plan `cases`; e2e_restart |
//! | 7 | unknown is never gone | here `a_key_that_flannel_cannot_read_costs_weft_nothing`; e2e_faults `junk_among_the_subnets_hurts_nobody` |
//! | 8 | a lost key is claimed again, unchanged; an alarm if another has it | e2e_leases `a_subnet_whose_key_or_lease_is_gone_is_had_again_unchanged`, `a_subnet_that_another_owner_took_is_left_to_it_and_an_alarm` |
//! | 9 | `config` is watched | e2e_config; e2e_faults `a_network_that_no_longer_parses_changes_nothing` |
//! | 10 | MTU by family and peer | here `large_packets_and_streams_pass_both_ways`; plan maps and routes; e2e_mtu |
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::bridge::Bridged;
use weft_tests::dns::{dig, server_of};
use weft_tests::etcd::{Entry, Watch};
use weft_tests::eventually::SOON;
use weft_tests::flannel::reading::{attrs, key, vtep_mac};
use weft_tests::flannel::{FlannelShaped, PREFIX};
use weft_tests::topology::{NETWORK, NETWORK6, Shared, Wire};
use weft_tests::traffic::{connect, idle, pings, probe, report, stream, tcp_server, udp_server, who_answers};
use weft_tests::{Container, Host, Place, Topology, eventually};

/// h1 is a Weft host with the fast path, h2 one without, h3 is flannel's and stays as it is; what the others are each test says.
static CLUSTER: LazyLock<Topology> = LazyLock::new(|| mixed(5).unwrap());
static FLANNEL: LazyLock<FlannelShaped> = LazyLock::new(|| FlannelShaped::start(CLUSTER.host(3), CLUSTER.etcd()).unwrap());

/// The string that flannel lists and watches: without a slash at its end.
fn below() -> String {
    format!("{PREFIX}/subnets")
}

/// A network as flannel's operators make one, and agents on the first two hosts.
fn mixed(hosts: usize) -> Result<Topology> {
    mixed_with(hosts, r#"{"Type":"vxlan"}"#)
}

fn mixed_with(hosts: usize, backend: &str) -> Result<Topology> {
    let t = Topology::new(hosts)?;
    start_mixed(&t, &format!(r#"{{"Network":"{NETWORK}","Backend":{backend}}}"#))?;
    Ok(t)
}

fn start_mixed(t: &Topology, config: &str) -> Result<()> {
    t.etcd().start()?;
    t.etcd().put(&format!("{PREFIX}/config"), config)?;
    t.host(2).agent.set_wrapper([probe()?.as_str(), "without-bpf"]);
    for number in [1, 2] {
        t.host(number).agent.start()?;
    }
    for number in [1, 2] {
        t.host(number).agent.wait_ready()?;
    }
    Ok(())
}

fn wefts(t: &Topology) -> [&Host; 2] {
    [t.host(1), t.host(2)]
}

fn subnet(host: &Host) -> String {
    host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned()
}

fn peer<'a>(status: &'a Value, subnet: &str) -> Option<&'a Value> {
    status["peers"].as_array()?.iter().find(|p| p["subnet"] == subnet)
}

/// Waits until Weft hosts and this flannel host know each other.
fn acquainted(t: &Topology, flannel: &FlannelShaped) {
    let of = flannel.subnet();
    for host in wefts(t) {
        host.agent.wait_status("it knows the flannel host", |s| peer(s, &of).is_some()).unwrap();
    }
    eventually("the flannel host knows both agents", SOON, || {
        let known = flannel.peers();
        ensure!(wefts(t).iter().all(|h| known.contains(&subnet(h))), "{known:?} {:?}", flannel.log());
        Ok(())
    })
    .unwrap();
}

fn cluster() -> (Shared, &'static FlannelShaped) {
    let (t, flannel) = (Shared::of(&CLUSTER), &*FLANNEL);
    acquainted(&t, flannel);
    (t, flannel)
}

/// A container of h3, with an address of its own.
fn bridged(host: &Host, flannel: &FlannelShaped) -> Bridged {
    static NEXT: AtomicU32 = AtomicU32::new(2);
    Bridged::new(host, flannel.env(), NEXT.fetch_add(1, Ordering::Relaxed)).unwrap()
}

fn ping(from: &Place, to: Ipv4Addr, options: &[&str]) -> String {
    let to = to.to_string();
    from.exec([&["ping", "-n", "-W", "5"], options, &[to.as_str()]].concat()).unwrap().stdout
}

/// The first answer may take a moment, after that none may be missing.
fn no_ping_is_lost(from: &Place, to: Ipv4Addr, options: &[&str]) {
    eventually("the first answer", SOON, || {
        let said = ping(from, to, &["-c", "1"]);
        ensure!(said.contains(" 0% packet loss"), "{said}");
        Ok(())
    })
    .unwrap();
    pings(from, to.into(), 20, options).unwrap();
}

fn both_ways(a: &Container, b: &Bridged) {
    no_ping_is_lost(a.place(), b.address(), &[]);
    no_ping_is_lost(b.place(), a.address().unwrap(), &[]);
}

#[test]
fn hosts_of_both_kinds_know_each_other() {
    let (t, flannel) = cluster();
    for (host, via) in [(t.host(1), "fast"), (t.host(2), "kernel")] {
        let status = host.agent.status().unwrap();
        let seen = peer(&status, &flannel.subnet()).unwrap();
        assert_eq!((&seen["public_ip"], &seen["node"]), (&t.host(3).address().to_string().into(), &Value::Null), "{seen}");
        assert_eq!(seen["via"], via, "{status}");
    }
}

#[test]
fn containers_of_both_kinds_of_hosts_ping_each_other_without_loss() {
    let (t, flannel) = cluster();
    let theirs = bridged(t.host(3), flannel);
    for host in wefts(&t) {
        both_ways(&idle(host, &[]).unwrap(), &theirs);
    }
}

#[test]
fn datagrams_and_connections_pass_both_ways_and_show_the_containers_own_address() {
    let (t, flannel) = cluster();
    let theirs = bridged(t.host(3), flannel);
    let _udp = theirs.serve("serve-udp", 7000, "theirs").unwrap();
    let _tcp = theirs.serve("serve-tcp", 7000, "theirs").unwrap();
    let to_theirs = format!("{}:7000", theirs.address());
    for host in wefts(&t) {
        let udp = udp_server(host, &[], 7000, "ours").unwrap();
        let tcp = tcp_server(host, &[], 7000, "ours").unwrap();
        for (from, to, options, said) in [
            (udp.place(), to_theirs.clone(), &["--udp"][..], "theirs"),
            (tcp.place(), to_theirs.clone(), &[], "theirs"),
            (theirs.place(), format!("{}:7000", udp.address().unwrap()), &["--udp"], "ours"),
            (theirs.place(), format!("{}:7000", tcp.address().unwrap()), &[], "ours"),
        ] {
            eventually(&format!("{to} answers"), SOON, || {
                let report = connect(from, &to, options)?;
                ensure!(report["said"].as_str().is_some_and(|s| s.starts_with(said)), "{report}");
                Ok(())
            })
            .unwrap();
        }
        // Nothing rewrites a source on the way: the flannel host's kernel has a connection with the container itself.
        let long = stream(&tcp, "long", &to_theirs).unwrap();
        let seen = theirs.place().exec(["ss", "-Htn", "sport", "=", "7000"]).unwrap().stdout;
        assert!(seen.contains(&tcp.address().unwrap().to_string()), "{seen}");
        assert_eq!(report(&long).unwrap()["error"], Value::Null);
    }
}

/// Bytes that differ all along.
fn write_large(path: &std::path::Path) {
    let bytes: Vec<u8> = (0u32..4 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(path, bytes).unwrap();
}

fn download(t: &Topology, from: &Place, url: &str) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let got = t.dir().join(format!("got-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let words = ["curl", "-sS", "--fail", "--max-time", "40", "-o", &got.to_string_lossy(), url].map(str::to_owned);
    eventually(&format!("download of {url}"), SOON * 2, || from.exec(&words)?.success()).unwrap();
    assert!(std::fs::read(&got).unwrap() == std::fs::read(t.dir().join("large")).unwrap(), "{url} differs from what was sent");
}

#[test]
fn large_packets_and_streams_pass_both_ways() {
    let (t, flannel) = cluster();
    write_large(&t.dir().join("large"));
    let dir = t.dir().to_string_lossy().into_owned();
    let serve = ["python3", "-m", "http.server", "8000", "--directory", &dir];
    let theirs = bridged(t.host(3), flannel);
    let _server = theirs.spawn("http", serve).unwrap();
    for host in wefts(&t) {
        let ours = host.container([], serve).unwrap();
        download(&t, ours.place(), &format!("http://{}:8000/large", theirs.address()));
        download(&t, theirs.place(), &format!("http://{}:8000/large", ours.address().unwrap()));
        // The longest that needs no cutting.
        no_ping_is_lost(ours.place(), theirs.address(), &["-M", "do", "-s", "1422"]);
        no_ping_is_lost(theirs.place(), ours.address().unwrap(), &["-M", "do", "-s", "1422"]);
    }
    // No packet, inner or outer, was cut by a host.
    for host in [t.host(1), t.host(2), t.host(3)] {
        let counted = host.exec(["nstat", "-asz", "IpFragCreates"]).unwrap().success().unwrap().stdout;
        let count = counted.lines().find_map(|l| l.strip_prefix("IpFragCreates")?.split_whitespace().next()).unwrap();
        assert_eq!(count, "0", "{}", host.name());
    }
    for host in wefts(&t) {
        let ours = idle(host, &[]).unwrap();
        no_ping_is_lost(ours.place(), theirs.address(), &["-s", "4000"]);
        no_ping_is_lost(theirs.place(), ours.address().unwrap(), &["-s", "4000"]);
    }
}

#[test]
fn names_and_virtual_ips_work_beside_flannel_and_lead_to_its_containers_too() {
    let (t, flannel) = cluster();
    let theirs = bridged(t.host(3), flannel);
    let _server = theirs.serve("serve-tcp", 7010, "theirs").unwrap();
    let ours = tcp_server(t.host(1), &["--service", "beside:7010"], 7010, "ours").unwrap();
    // An endpoint of the other kind, as an old script would write it.
    let record = format!(r#"{{"host":"{}","port":7010}}"#, theirs.address());
    t.etcd().put("/skydns/local/skydns/beside/old", &record).unwrap();
    let client = idle(t.host(1), &[]).unwrap();
    let created = t.host(1).netctl(["service", "create", "beside", "--port", "80:7010", "-o", "json"]).unwrap().json().unwrap();
    let vip = format!("{}:80", created["vip"].as_str().unwrap());
    for wanted in ["ours", "theirs"] {
        eventually(&format!("the virtual IP leads to {wanted}"), SOON, || {
            let who = who_answers(client.place(), &vip)?;
            ensure!(who == wanted, "{who}");
            Ok(())
        })
        .unwrap();
    }
    // A flannel host's container asks a Weft host for a name.
    let server = server_of(&t.host(1).agent.status().unwrap()).unwrap();
    eventually("a container of a flannel host resolves a name", SOON, || {
        let answer = dig(theirs.place(), &server, &["tasks.beside.skydns.local"])?;
        let mut wanted = vec![ours.address()?.to_string(), theirs.address().to_string()];
        wanted.sort();
        ensure!(answer.data("A") == wanted, "{answer:?}");
        Ok(())
    })
    .unwrap();
}

/// What leads to a peer, in the kernel of a Weft host.
fn entries(host: &Host) -> Result<String> {
    let mut text = String::new();
    for words in [&["bridge", "fdb", "show", "dev", "weft.1"][..], &["ip", "neigh", "show", "dev", "weft.1"], &["ip", "route"]] {
        text.push_str(&host.exec(words)?.success()?.stdout);
    }
    Ok(text)
}

#[test]
fn a_flannel_host_with_a_new_mac_is_followed() {
    let (t, _) = cluster();
    let host = t.host(4);
    let first = FlannelShaped::start(host, t.etcd()).unwrap();
    acquainted(&t, &first);
    let theirs = bridged(host, &first);
    let ours = wefts(&t).map(|h| idle(h, &[]).unwrap());
    for container in &ours {
        both_ways(container, &theirs);
    }
    let (mac, subnet) = (first.vtep_mac().to_owned(), first.subnet());
    first.stop();
    // flanneld knows no better: a device made anew has another MAC, and the key is taken over by its PublicIP.
    host.exec(["ip", "link", "delete", "flannel.1"]).unwrap().success().unwrap();
    let second = FlannelShaped::start(host, t.etcd()).unwrap();
    assert_eq!(second.subnet(), subnet);
    assert_ne!(second.vtep_mac(), mac);
    for host in wefts(&t) {
        eventually(&format!("{} has the new MAC and not the old", host.name()), SOON, || {
            let now = entries(host)?;
            ensure!(now.matches(second.vtep_mac()).count() == 2 && !now.contains(&mac), "{now}");
            Ok(())
        })
        .unwrap();
    }
    for container in &ours {
        both_ways(container, &theirs);
    }
}

#[test]
fn a_flannel_host_joins_leaves_and_returns() {
    let (t, _) = cluster();
    let host = t.host(5);
    let first = FlannelShaped::start(host, t.etcd()).unwrap();
    acquainted(&t, &first);
    let theirs = bridged(host, &first);
    let ours = wefts(&t).map(|h| idle(h, &[]).unwrap());
    for container in &ours {
        both_ways(container, &theirs);
    }
    let subnet = first.subnet();
    // Its operator takes its key away, and flanneld ends.
    t.etcd().delete(&first.key()).unwrap();
    eventually("flanneld ends", SOON, || first.ended().ok_or("it runs")).unwrap();
    let address = host.address().to_string();
    for weft in wefts(&t) {
        weft.agent.wait_status("the peer is gone", |s| peer(s, &subnet).is_none()).unwrap();
        eventually("nothing leads there", SOON, || {
            let now = entries(weft)?;
            ensure!(!now.contains(first.vtep_mac()) && !now.contains(&address) && !now.contains(&subnet), "{now}");
            Ok(())
        })
        .unwrap();
    }
    drop(first);
    // Its subnet.env says what it had.
    let second = FlannelShaped::start(host, t.etcd()).unwrap();
    assert_eq!(second.subnet(), subnet);
    acquainted(&t, &second);
    for container in &ours {
        both_ways(container, &theirs);
    }
}

#[test]
fn a_flannel_host_that_renews_its_lease_disturbs_nothing() {
    let (t, flannel) = cluster();
    let theirs = bridged(t.host(3), flannel);
    let _server = theirs.serve("serve-tcp", 7020, "theirs").unwrap();
    let client = idle(t.host(1), &[]).unwrap();
    let long = stream(&client, "long", &format!("{}:7020", theirs.address())).unwrap();
    let lease = || t.etcd().client().entries(&flannel.key()).unwrap().0[0].lease;
    let before = lease();
    for _ in 0..3 {
        flannel.renew().unwrap();
    }
    assert_ne!(lease(), before);
    let seen = t.etcd().client().entries(&flannel.key()).unwrap().0[0].modified;
    t.host(1).agent.wait_status("it has seen that", |s| s["applied"].as_i64() >= Some(seen)).unwrap();
    let said = report(&long).unwrap();
    assert_eq!(said["error"], Value::Null, "{said}");
}

#[test]
fn a_key_that_flannel_cannot_read_costs_weft_nothing() {
    let t = mixed(3).unwrap();
    let flannel = FlannelShaped::start(t.host(3), t.etcd()).unwrap();
    acquainted(&t, &flannel);
    let (a, b) = (idle(t.host(1), &[]).unwrap(), idle(t.host(2), &[]).unwrap());
    let theirs = bridged(t.host(3), &flannel);
    both_ways(&a, &theirs);
    t.etcd().put(&format!("{PREFIX}/subnets/foo"), "bar").unwrap();
    // This is why nothing of the kind may ever come from us.
    eventually("flannel has forgotten its peers", SOON, || match flannel.peers() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .unwrap();
    for host in wefts(&t) {
        let status = host.agent.wait_status("it names the key", |s| s["bad"].to_string().contains("subnets/foo")).unwrap();
        assert_eq!(status["peers"].as_array().unwrap().len(), 2, "{status}");
    }
    no_ping_is_lost(a.place(), b.address().unwrap(), &[]);
    t.etcd().delete(&format!("{PREFIX}/subnets/foo")).unwrap();
    for host in wefts(&t) {
        host.agent.wait_status("it is content", |s| s["bad"].as_array().is_some_and(Vec::is_empty)).unwrap();
    }
    // flanneld is as it was after a restart.
    flannel.stop();
    let flannel = FlannelShaped::start(t.host(3), t.etcd()).unwrap();
    acquainted(&t, &flannel);
    both_ways(&a, &theirs);
}

#[test]
fn both_families_pass_both_ways_on_a_dual_stack_network() {
    let t = Topology::builder(3).wires(&[Wire::Dual; 3]).build().unwrap();
    let config =
        format!(r#"{{"Network":"{NETWORK}","EnableIPv6":true,"IPv6Network":"{NETWORK6}","Backend":{{"Type":"vxlan"}}}}"#);
    start_mixed(&t, &config).unwrap();
    let watch = t.etcd().watch(&below(), 1).unwrap();
    let flannel = FlannelShaped::start(t.host(3), t.etcd()).unwrap();
    acquainted(&t, &flannel);
    let theirs = bridged(t.host(3), &flannel);
    let there6 = theirs.address6().unwrap().to_string();
    let ping6 = |from: &Place, to: &str, size: &str| -> Result<()> {
        from.exec(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "5", "-M", "do", "-s", size, to])?.success().map(drop)
    };
    for host in wefts(&t) {
        host.agent.wait_status("an IPv6 subnet", |s| s["subnet6"].is_string()).unwrap();
        let ours = idle(host, &[]).unwrap();
        both_ways(&ours, &theirs);
        let here6 = ours.address6().unwrap().to_string();
        // What fits an outer IPv6 header as well: 1500 less 70, less IPv6's and ICMP's headers.
        for size in ["56", "1382"] {
            eventually(&format!("IPv6 to flannel's container, {size} bytes"), SOON, || ping6(ours.place(), &there6, size))
                .unwrap();
            eventually(&format!("IPv6 from flannel's container, {size} bytes"), SOON, || ping6(theirs.place(), &here6, size))
                .unwrap();
        }
    }
    assert_eq!(flannel.log(), Vec::<String>::new());
    check(&watch.heard().unwrap(), &flannel).unwrap();
}

#[test]
fn with_direct_routing_hosts_of_one_link_send_as_it_is() {
    let t = mixed_with(3, r#"{"Type":"vxlan","DirectRouting":true}"#).unwrap();
    let flannel = FlannelShaped::start(t.host(3), t.etcd()).unwrap();
    acquainted(&t, &flannel);
    let theirs = bridged(t.host(3), &flannel);
    let via = |host: &Host, subnet: &str| host.exec(["ip", "route", "show", subnet]).unwrap().success().unwrap().stdout;
    for host in wefts(&t) {
        eventually("both route straight to the other", SOON, || {
            let there = via(host, &flannel.subnet());
            ensure!(there.contains(&format!("via {} dev up0", t.host(3).address())), "{there:?}");
            let back = via(t.host(3), &subnet(host));
            ensure!(back.contains(&format!("via {} dev up0", host.address())), "{back:?}");
            Ok(())
        })
        .unwrap();
        let ours = idle(host, &[]).unwrap();
        both_ways(&ours, &theirs);
        no_ping_is_lost(ours.place(), theirs.address(), &["-M", "do", "-s", "1422"]);
    }
    let (a, b) = (idle(t.host(1), &[]).unwrap(), idle(t.host(2), &[]).unwrap());
    no_ping_is_lost(a.place(), b.address().unwrap(), &[]);
    no_ping_is_lost(b.place(), a.address().unwrap(), &[]);
    // Nobody's packets went round by a tunnel.
    for (host, device) in [(t.host(1), "weft.1"), (t.host(2), "weft.1"), (t.host(3), "flannel.1")] {
        let link = host.exec(["ip", "-json", "-stats", "link", "show", device]).unwrap().json().unwrap();
        let stats = &link[0]["stats64"];
        assert_eq!((&stats["rx"]["packets"], &stats["tx"]["packets"]), (&0.into(), &0.into()), "{}: {link}", host.name());
    }
}

/// What an agent wrote below the string that flannel watches, checked as flannel would read it.
fn check(heard: &[Entry], flannel: &FlannelShaped) -> Result<()> {
    for entry in heard {
        let found = key(&entry.key);
        ensure!(found.is_some(), "flannel cannot read the key {}", entry.key);
        ensure!(entry.key.starts_with(&format!("{}/", below())), "{} is not among the subnets", entry.key);
        if entry.key == flannel.key() {
            // No Weft host writes or deletes it.
            ensure!(entry.value.as_deref() == Some(flannel.value()), "{entry:?}");
            continue;
        }
        let Some(value) = &entry.value else { continue };
        let read = attrs(value).map_err(|e| anyhow::anyhow!("flannel cannot read {value} of {}: {e}", entry.key))?;
        ensure!(read.backend_type == "vxlan", "{value}");
        vtep_mac(&read.backend_data).map_err(|e| anyhow::anyhow!("flannel cannot read {value} of {}: {e}", entry.key))?;
        let exact: Value = serde_json::from_str(value)?;
        if found.is_some_and(|key| key.v6.is_some()) {
            ensure!(read.public_ipv6.is_some(), "flanneld would panic: {value}");
            vtep_mac(&read.backend_v6_data).map_err(|e| anyhow::anyhow!("flannel cannot read {value} of {}: {e}", entry.key))?;
        }
        for member in ["PublicIP", "PublicIPv6", "BackendType", "BackendData"] {
            ensure!(exact.get(member).is_some(), "flannel always writes {member}: {value}");
        }
        ensure!(entry.lease != 0, "{} hangs on no lease", entry.key);
    }
    Ok(())
}

#[test]
fn what_weft_writes_is_what_flannel_reads() {
    let t = mixed(3).unwrap();
    let watch: Watch = t.etcd().watch(&below(), 1).unwrap();
    let flannel = FlannelShaped::start(t.host(3), t.etcd()).unwrap();
    acquainted(&t, &flannel);
    let host = t.host(1);
    let netctl = |words: &str| host.netctl(words.split(' ')).unwrap();
    // A life with all that could be written.
    netctl("config set --service-cidr 10.113.0.0/16").success().unwrap();
    let _web = tcp_server(host, &["--id", "web", "--name", "web", "--service", "web:80"], 80, "web").unwrap();
    netctl("service create web --port 80").success().unwrap();
    netctl("endpoint add db 10.77.0.254:5432").success().unwrap();
    netctl(&format!("network init --cidr {NETWORK} --force")).success().unwrap();
    let own = subnet(host);
    for link in ["mtu 1400", "mtu 1500"] {
        host.exec(format!("ip link set up0 {link}").split(' ')).unwrap().success().unwrap();
    }
    host.agent.kill9().unwrap();
    std::fs::remove_dir_all(host.agent.state_dir()).unwrap();
    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
    // Its key is taken away, and it takes it back.
    let mine = format!("{}/{}", below(), own.replace('/', "-"));
    t.etcd().delete(&mine).unwrap();
    eventually("the key is back", SOON, || t.etcd().get(&mine)?.ok_or_else(|| anyhow::anyhow!("none"))).unwrap();
    // The other host goes for ever.
    let other = subnet(t.host(2));
    t.host(2).agent.kill9().unwrap();
    eventually("the dead host is forgotten", SOON, || netctl("node rm h2").success()).unwrap();
    eventually("flannel has noticed", SOON, || {
        let known = flannel.peers();
        ensure!(known.contains(&own) && !known.contains(&other), "{known:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(flannel.log(), Vec::<String>::new());
    let heard = watch.heard().unwrap();
    assert!(heard.len() >= 5, "two claims, a renewal, two deletions and a claim at least: {heard:?}");
    check(&heard, &flannel).unwrap();
}
