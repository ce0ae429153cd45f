//! Subnets that people can trust: kept for a host, had again after they were lost, never taken from anybody, and told of when
//! somebody else has them.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use anyhow::{Context, ensure};
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::traffic::{idle, report, stream, tcp_server, who_answers};
use weft_tests::{Host, Topology, eventually};

const SUBNETS: &str = "/coreos.com/network/subnets/";

fn key_of(subnet: &str) -> String {
    format!("{SUBNETS}{}", subnet.replace('/', "-"))
}

fn subnet(host: &Host) -> String {
    host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned()
}

/// Waits until the host has this subnet and all others know it there.
fn has(t: &Topology, host: &Host, wanted: &str) {
    host.agent.wait_status(&format!("it has {wanted}"), |s| s["subnet"] == wanted).unwrap();
    for other in t.hosts().iter().filter(|h| h.name() != host.name()) {
        let there = |p: &Value| p["node"] == host.name() && p["subnet"] == wanted;
        let knows = |s: &Value| s["peers"].as_array().is_some_and(|peers| peers.iter().any(there));
        other.agent.wait_status(&format!("{} is at {wanted}", host.name()), knows).unwrap();
    }
}

fn lease(t: &Topology, subnet: &str) -> anyhow::Result<Value> {
    let value = t.etcd().get(&key_of(subnet))?.with_context(|| format!("no lease of {subnet}"))?;
    Ok(serde_json::from_str(&value)?)
}

/// The etcd lease that a key hangs on, as `etcdctl` spells it; `0` is none.
fn hangs_on(t: &Topology, key: &str) -> anyhow::Result<String> {
    let answer = t.etcd().ctl(["get", key, "-w", "json"])?.success()?.json()?;
    let id = answer["kvs"][0]["lease"].as_i64();
    ensure!(!answer["kvs"].is_null(), "there is no {key}");
    Ok(format!("{:x}", id.unwrap_or(0)))
}

/// When a key was last written.
fn revision(t: &Topology, key: &str) -> anyhow::Result<i64> {
    let answer = t.etcd().ctl(["get", key, "-w", "json"])?.success()?.json()?;
    answer["kvs"][0]["mod_revision"].as_i64().with_context(|| format!("no revision in {answer}"))
}

fn reserve(host: &Host, node: &str, subnet: &str) -> anyhow::Result<weft_tests::Output> {
    host.netctl(["network", "reserve", node, subnet])
}

#[test]
fn a_reserved_subnet_waits_for_its_host_and_goes_to_no_other() {
    let t = Topology::new(3).unwrap();
    t.etcd().start().unwrap();
    // There are three subnets, and each host would be content with any.
    t.etcd()
        .put("/coreos.com/network/config", r#"{"Network":"10.244.0.0/22","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#)
        .unwrap();
    let (h1, h2, h3) = (t.host(1), t.host(2), t.host(3));
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    let first = subnet(h1);
    let free: Vec<&str> = ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"].into_iter().filter(|s| *s != first).collect();
    reserve(h1, "h3", free[0]).unwrap().success().unwrap();
    // flannelds see a lease that is taken and leads nowhere.
    let placeholder = lease(&t, free[0]).unwrap();
    assert_eq!((&placeholder["PublicIP"], &placeholder["BackendType"]), (&"0.0.0.0".into(), &"alloc".into()));
    assert_eq!(hangs_on(&t, &key_of(free[0])).unwrap(), "0");
    // The last one that is free for it, although the other one comes first or is as good.
    h2.agent.start().unwrap();
    h2.agent.wait_ready().unwrap();
    assert_eq!(subnet(h2), free[1]);
    // Asked again it says the same; another host or another subnet is refused, and told why.
    reserve(h2, "h3", free[0]).unwrap().success().unwrap();
    for (node, subnet, why) in [
        ("h2", free[0], "is reserved for h3; netctl network unreserve h3"),
        ("h3", free[1], "a host has one subnet"),
        ("h9", first.as_str(), "is held by h1"),
        ("h9", "10.99.0.0/24", "is none of the subnets of 10.244.0.0/22"),
    ] {
        let said = reserve(h2, node, subnet).unwrap();
        assert!(said.code() != 0 && said.stderr.contains(why), "{node} {subnet}: {said:?}");
    }
    h3.agent.start().unwrap();
    h3.agent.wait_ready().unwrap();
    has(&t, h3, free[0]);
    assert_ne!(hangs_on(&t, &key_of(free[0])).unwrap(), "0", "its own lease hangs on its claim");
    let listed = h1.netctl(["network", "reservations", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!((&listed[0]["node"], &listed[0]["held"]), (&"h3".into(), &true.into()));
    // A host that is given up does not give up what is promised to it.
    h3.power_off().unwrap();
    eventually("h3 is dead and its subnet given back", SOON, || h1.netctl(["node", "rm", "h3"])?.success()).unwrap();
    eventually("the placeholder keeps it", SOON, || {
        let lease = lease(&t, free[0])?;
        ensure!(lease["BackendType"] == "alloc", "{lease}");
        Ok(())
    })
    .unwrap();
    // And given up it is anybody's.
    h1.netctl(["network", "unreserve", "h3"]).unwrap().success().unwrap();
    assert_eq!(t.etcd().get(&key_of(free[0])).unwrap(), None);
    assert!(t.etcd().list("/weft/v1/reservations/").unwrap().is_empty());
    let again = h1.netctl(["network", "unreserve", "h3"]).unwrap();
    assert!(again.code() != 0 && again.stderr.contains("no subnet is reserved for h3"), "{again:?}");
}

#[test]
fn a_host_with_containers_stays_until_they_are_gone_and_then_moves_to_its_reserved_subnet() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let before = subnet(h1);
    let server = tcp_server(h1, &["--id", "web", "--service", "web:8080"], 8080, "h1").unwrap();
    let client = idle(h2, &[]).unwrap();
    let to = format!("{}:8080", server.address().unwrap());
    reserve(h2, "h1", "10.244.200.0/24").unwrap().success().unwrap();
    let said = format!("10.244.200.0/24 is reserved for this host, which has {before} with container web; detach");
    h1.agent.wait_status("it says what to do", |s| s["reasons"].to_string().contains(&said)).unwrap();
    let note = h2.netctl(["network", "reservations", "-o", "json"]).unwrap().json().unwrap();
    assert!(note[0]["note"].as_str().unwrap().contains(&before), "{note}");
    who_answers(client.place(), &to).unwrap();
    assert_eq!(subnet(h1), before);
    server.stop().unwrap();
    has(&t, h1, "10.244.200.0/24");
    assert_eq!(t.etcd().get(&key_of(&before)).unwrap(), None, "the one it had is free");
    let server = tcp_server(h1, &[], 8080, "h1").unwrap();
    assert!(server.address().unwrap().to_string().starts_with("10.244.200."));
    let to = format!("{}:8080", server.address().unwrap());
    eventually("it is reached there", SOON, || who_answers(client.place(), &to)).unwrap();
    h1.agent.wait_status("nothing is odd any more", |s| !s["reasons"].to_string().contains("reserved")).unwrap();
}

#[test]
fn a_subnet_whose_key_or_lease_is_gone_is_had_again_unchanged() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let server = tcp_server(h2, &["--id", "web"], 8080, "h2").unwrap();
    let client = idle(h1, &[]).unwrap();
    let traffic = stream(&client, "traffic", &format!("{}:8080", server.address().unwrap())).unwrap();
    let before = subnet(h2);
    let key = key_of(&before);
    let value = lease(&t, &before).unwrap();
    let back = |how: &str| {
        eventually(&format!("{before} is back after {how}"), SOON, || {
            let now = lease(&t, &before)?;
            ensure!(now == value, "{now}, before {value}");
            ensure!(hangs_on(&t, &key)? != "0", "it hangs on no lease");
            Ok(())
        })
        .unwrap();
    };
    // By hand: the key.
    t.etcd().delete(&key).unwrap();
    back("its key was deleted");
    // By hand: the lease below it.
    let old = hangs_on(&t, &key).unwrap();
    t.etcd().ctl(["lease", "revoke", &old]).unwrap().success().unwrap();
    back("its lease was revoked");
    assert_ne!(hangs_on(&t, &key).unwrap(), old);
    // By hand: a value that nobody can read, over which flannelds would forget all their peers.
    t.etcd().put(&key, "junk").unwrap();
    back("its value was made unreadable");
    // By hand: the same value, on no lease. What somebody keeps so stays so.
    t.etcd().put(&key, &value.to_string()).unwrap();
    let put = revision(&t, &key).unwrap();
    h2.agent.wait_status("it has seen that", |s| s["applied"].as_i64() >= Some(put)).unwrap();
    // A write of some other kind, after which one of its own would be in the store.
    h2.netctl(["service", "create", "later", "--port", "80"]).unwrap().success().unwrap();
    assert_eq!(hangs_on(&t, &key).unwrap(), "0");
    // And all the while nobody noticed.
    has(&t, h2, &before);
    eventually("packets flow", SOON, || who_answers(client.place(), &format!("{}:8080", server.address()?))).unwrap();
    let said = report(&traffic).unwrap();
    assert_eq!(said["error"], Value::Null, "{said}");
}

#[test]
fn a_subnet_that_another_owner_took_is_left_to_it_and_an_alarm() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let before = subnet(h1);
    let server = tcp_server(h1, &["--id", "stays"], 8080, "here").unwrap();
    let beside = idle(h1, &["--id", "beside"]).unwrap();
    let address = server.address().unwrap();
    let to = format!("{address}:8080");
    // While it is cut off, its subnet is given to somebody else.
    h1.pull_cable().unwrap();
    let other = r#"{"PublicIP":"10.77.0.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"}}"#;
    t.etcd().put(&key_of(&before), other).unwrap();
    h1.plug_cable().unwrap();
    let alarm = "containers beside, stays cannot be reached from other hosts: ";
    let told = |s: &Value| s["reasons"].to_string().contains(alarm) && s["subnet"] != before && s["ready"] == true;
    let status = h1.agent.wait_status("it says so, and has another one", told).unwrap();
    let reasons = status["reasons"].to_string();
    assert!(reasons.contains(&format!("{before} belongs to 10.77.0.99 now; start them anew (netctl detach, then attach)")));
    let after = subnet(h1);
    assert_eq!(lease(&t, &before).unwrap()["PublicIP"], "10.77.0.99", "nobody was written over");
    // Its containers keep their addresses and reach each other; an agent started anew says the same.
    assert_eq!(server.address().unwrap(), address);
    who_answers(beside.place(), &to).unwrap();
    h1.agent.kill9().unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_status("it still says so", |s| s["reasons"].to_string().contains(alarm)).unwrap();
    who_answers(beside.place(), &to).unwrap();
    // As told: what is started anew has an address of the new subnet, and is reached from everywhere.
    for container in [server, beside] {
        container.stop().unwrap();
    }
    let server = tcp_server(h1, &["--id", "anew"], 8080, "anew").unwrap();
    let client = idle(h2, &[]).unwrap();
    let to = format!("{}:8080", server.address().unwrap());
    eventually("it is reached", SOON, || who_answers(client.place(), &to)).unwrap();
    h1.agent.wait_status("the alarm is over", |s| !s["reasons"].to_string().contains("cannot be reached")).unwrap();
    assert_eq!(subnet(h1), after);
}

#[test]
fn a_lease_with_this_hosts_address_under_another_name_is_told() {
    let t = Topology::cluster(2).unwrap();
    let h1 = t.host(1);
    let twin = format!(
        r#"{{"PublicIP":"{}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"}},"weft":{{"node":"twin"}}}}"#,
        h1.address()
    );
    t.etcd().put(&key_of("10.244.222.0/24"), &twin).unwrap();
    let said = format!("10.244.222.0-24 of {} is not used: it claims the public address of this host", h1.address());
    h1.agent.wait_status("it names the twin", |s| s["reasons"].to_string().contains(&said)).unwrap();
    t.etcd().delete(&key_of("10.244.222.0/24")).unwrap();
    h1.agent.wait_status("it is content", |s| !s["reasons"].to_string().contains("10.244.222.0")).unwrap();
}
