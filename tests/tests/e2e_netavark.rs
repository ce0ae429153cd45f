//! netavark 2.1.0, as podman 5 has it, over its plugin protocol: containers of two hosts, through their whole life.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use serde_json::{Value, json};
use weft_tests::clients::{Netavark, ask_dns, cluster_at_home, nothing_left, resolves};
use weft_tests::eventually::SOON;
use weft_tests::traffic::{probe, who_answers};
use weft_tests::{Daemon, Place, Topology, eventually};

/// A server in a container.
fn serve(at: &Place, dir: &std::path::Path, say: &str) -> Daemon {
    at.spawn(dir, say, [probe().unwrap().as_str(), "serve-tcp", "0.0.0.0:8080", "--say", say]).unwrap()
}

fn answers(from: &Place, to: &str, wanted: &str) {
    eventually(&format!("{wanted} at {to}"), SOON, || {
        let said = who_answers(from, to)?;
        anyhow::ensure!(said == wanted, "{said}");
        Ok(())
    })
    .unwrap();
}

/// The address in what `setup` printed.
fn address(status: &Value, network: &str) -> String {
    let net = status[network]["interfaces"]["eth0"]["subnets"][0]["ipnet"].as_str();
    net.unwrap_or_else(|| panic!("no address in {status}")).split('/').next().unwrap().to_owned()
}

#[test]
fn containers_of_two_hosts_meet_by_address_name_and_virtual_ip_and_leave_nothing() {
    let t = Topology::new(2).unwrap();
    let homes = cluster_at_home(&t).unwrap();
    let [h1, h2] = [t.host(1), t.host(2)];
    let [one, two] = [1, 2].map(|n| Netavark::new(t.host(n), &homes[n - 1]).unwrap());

    let refused = one.create("bad", &json!({ "colour": "blue" })).unwrap_err().to_string();
    assert!(refused.contains("colour"), "{refused}");
    let plain = one.create("weft", &json!({})).unwrap();
    assert_eq!((&plain["driver"], &plain["ipam_options"]["driver"]), (&json!("weft"), &json!("none")), "{plain}");
    let web = two.create("web", &json!({ "service": "web:8080", "socket": "/run/weft/weft.sock" })).unwrap();

    let inside1 = one.namespace("one").unwrap();
    let inside2 = two.namespace("two").unwrap();
    let uno = json!({ "aliases": ["uno"] });
    let status1 = one.setup(&plain, "one", &uno).unwrap().json().unwrap();
    let status2 = two.setup(&web, "two", &json!({})).unwrap().json().unwrap();
    let [a, b] = [address(&status1, "weft"), address(&status2, "web")];
    let shown = inside1.exec(["ip", "-json", "link", "show", "eth0"]).unwrap().json().unwrap();
    assert_eq!(shown[0]["address"], status1["weft"]["interfaces"]["eth0"]["mac_address"], "{status1}");
    assert_eq!(status1["weft"]["dns_search_domains"], json!(["skydns.local"]), "{status1}");
    let servers = [serve(&inside1, h1.dir(), "first"), serve(&inside2, h2.dir(), "second")];
    answers(&inside1, &format!("{b}:8080"), "second");
    answers(&inside2, &format!("{a}:8080"), "first");

    // By the name server that the result names.
    for (name, wanted) in [("one", &a), ("uno", &a), ("two", &b), ("web", &b)] {
        let name = format!("{name}.skydns.local");
        resolves(h1, &name, &[wanted]).unwrap();
        resolves(h2, &name, &[wanted]).unwrap();
        let server = status1["weft"]["dns_server_ips"][0].as_str().unwrap();
        let answer = weft_tests::dns::dig(&inside1, server, &[&name]).unwrap();
        assert_eq!(answer.data("A"), [wanted.as_str()], "{answer:?}");
    }

    let created = h1.netctl(["service", "create", "web", "--port", "80:8080", "-o", "json"]).unwrap().json().unwrap();
    let vip = format!("{}:80", created["vip"].as_str().unwrap());
    answers(&inside1, &vip, "second");

    // Restarted in a namespace of its own, with addresses that it asks for: the same names, and DNS knows the address of now.
    drop(servers);
    one.teardown(&plain, "one", &uno).unwrap().success().unwrap();
    one.remove_namespace("one").unwrap();
    nothing_left(h1, &homes[0], t.etcd()).unwrap();
    let inside1 = one.namespace("one").unwrap();
    let now = format!("{}.88", a.rsplit_once('.').unwrap().0);
    let uno = json!({ "aliases": ["uno"], "static_ips": [now], "static_mac": "02:11:22:33:44:66" });
    let status1 = one.setup(&plain, "one", &uno).unwrap().json().unwrap();
    assert_eq!(address(&status1, "weft"), now);
    assert_eq!(status1["weft"]["interfaces"]["eth0"]["mac_address"], "02:11:22:33:44:66", "{status1}");
    resolves(h2, "uno.skydns.local", &[&now]).unwrap();
    let servers = [serve(&inside1, h1.dir(), "again"), serve(&inside2, h2.dir(), "second")];
    answers(&inside2, &format!("{now}:8080"), "again");
    answers(&inside1, &vip, "second");
    drop(servers);

    // Taken down with the agent away, once with the namespace and once after it; and twice.
    h1.agent.kill9().unwrap();
    one.teardown(&plain, "one", &uno).unwrap().success().unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    one.teardown(&plain, "one", &uno).unwrap().success().unwrap();
    one.remove_namespace("one").unwrap();
    two.teardown(&web, "two", &json!({})).unwrap().success().unwrap();
    two.remove_namespace("two").unwrap();
    nothing_left(h1, &homes[0], t.etcd()).unwrap();
    nothing_left(h2, &homes[1], t.etcd()).unwrap();
    eventually("no name", SOON, || {
        let answer = ask_dns(h2, "uno.skydns.local")?;
        anyhow::ensure!(answer.rcode == "NXDOMAIN", "{answer:?}");
        Ok(())
    })
    .unwrap();
    t.down().unwrap();
}
