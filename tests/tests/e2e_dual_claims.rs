//! Which subnets hosts have in a dual-stack network, what of it is in the store, and that none of it changes by itself.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::net::IpAddr;

use anyhow::ensure;
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::{NETWORK, NETWORK6, Wire};
use weft_tests::traffic::idle;
use weft_tests::{Host, Topology, eventually};

fn dual(wires: &[Wire]) -> Topology {
    let t = Topology::builder(wires.len()).wires(wires).dual_stack().build().unwrap();
    t.start_cluster().unwrap();
    for host in t.hosts() {
        host.agent.wait_status("an IPv6 subnet", |s| s["subnet6"].is_string()).unwrap();
    }
    t
}

/// `10.244.3.0-24&fd00:10:244:3::-64`, as flannel writes it.
fn key_of(host: &Host) -> String {
    let status = host.agent.status().unwrap();
    let part = |name: &str| status[name].as_str().unwrap().replace('/', "-");
    format!("{}&{}", part("subnet"), part("subnet6"))
}

#[test]
fn leases_are_flannels_where_flannel_can_read_them_and_our_own_elsewhere() {
    let t = dual(&[Wire::Dual, Wire::V6]);
    let (h1, h2) = (t.host(1), t.host(2));
    let read = |key: String| -> Value { serde_json::from_str(&t.etcd().get(&key).unwrap().unwrap()).unwrap() };
    let both = read(format!("/coreos.com/network/subnets/{}", key_of(h1)));
    assert_eq!(both["PublicIP"], h1.address().to_string());
    assert_eq!(both["PublicIPv6"], h1.address6().to_string());
    assert_ne!(both["BackendData"]["VtepMAC"], both["BackendV6Data"]["VtepMAC"], "each device has its own: {both}");
    let own = read(format!("/weft/v1/subnets/default/{}", key_of(h2)));
    assert_eq!(own["PublicIPv6"], h2.address6().to_string());
    assert_eq!(own.get("PublicIP"), None, "{own}");
    assert_eq!(own["weft"]["udp6zero"], true, "{own}");
    assert_eq!(t.etcd().list("/coreos.com/network/subnets/").unwrap().len(), 1, "flannelds see what they can parse");
    let status = h2.agent.status().unwrap();
    assert!(status["reasons"].to_string().contains("flannel cannot see it"), "{status}");
    // A subnet has the same number in both families.
    let third = |text: &str| text.split(['.', '-']).nth(2).unwrap().parse::<u16>().unwrap();
    let key = key_of(h1);
    assert!(key.ends_with(&format!("&fd00:10:244:{:x}::-64", third(&key))), "{key}");
}

#[test]
fn a_network_that_becomes_dual_stack_renumbers_nobody() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let before = idle(h1, &["--id", "before", "--name", "before"]).unwrap();
    let subnets = [h1, h2].map(|host| host.agent.status().unwrap()["subnet"].clone());
    h1.netctl(["network", "init", "--cidr", NETWORK, "--cidr6", NETWORK6, "--force"]).unwrap().success().unwrap();
    for (host, subnet) in [h1, h2].iter().zip(&subnets) {
        let status = host.agent.wait_status("an IPv6 subnet", |s| s["subnet6"].is_string()).unwrap();
        assert_eq!(status["subnet"], *subnet);
    }
    let keys = t.etcd().list("/coreos.com/network/subnets/").unwrap();
    assert_eq!(keys.len(), 2, "the old keys are gone: {keys:?}");
    assert!(keys.iter().all(|(key, _)| key.contains('&')), "{keys:?}");
    // Who was there keeps what he had; who comes has both.
    let after = idle(h2, &["--id", "after"]).unwrap();
    assert!(before.address6().is_err());
    let (v4, v6): (IpAddr, IpAddr) = (after.address().unwrap().into(), after.address6().unwrap().into());
    assert_eq!(v6.to_string().rsplit(':').next(), Some(format!("{:x}", last(v4)).as_str()), "{v4} {v6}");
    before.exec(["ping", "-n", "-c", "1", "-W", "5", &v4.to_string()]).unwrap().success().unwrap();
    let shown = h1.netctl(["network", "show", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!((&shown["cidr6"], &shown["subnet_len6"]), (&NETWORK6.into(), &64.into()), "{shown}");
}

fn last(v4: IpAddr) -> u8 {
    if let IpAddr::V4(v4) = v4 { v4.octets()[3] } else { 0 }
}

#[test]
fn an_endpoint_of_both_families_is_one_endpoint_and_goes_as_one() {
    let t = dual(&[Wire::V4]);
    let host = t.host(1);
    let web = idle(host, &["--id", "web-1", "--service", "web:8080"]).unwrap();
    let addresses = [web.address().unwrap().to_string(), web.address6().unwrap().to_string()];
    let listed = host.netctl(["endpoint", "list", "-o", "json"]).unwrap().json().unwrap();
    let rows: Vec<&Value> = listed.as_array().unwrap().iter().filter(|e| e["id"] == "web-1").collect();
    assert_eq!(rows.len(), 1, "{listed}");
    let mut of_row: Vec<String> = rows[0]["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().into()).collect();
    of_row.sort_by_key(|a| a.contains(':'));
    assert_eq!(of_row, addresses);
    let attached = host.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
    let [v4, v6] = &addresses;
    assert_eq!(attached[0]["addresses"], serde_json::json!([format!("{v4}/32"), format!("{v6}/128")]));
    let parts = |count: usize| {
        eventually("parts of the record", SOON, || {
            let keys = t.etcd().list("/skydns/local/skydns/web/web-1/")?;
            ensure!(keys.len() == count, "{keys:?}");
            Ok(())
        })
        .unwrap();
    };
    parts(2);
    web.stop().unwrap();
    parts(0);
}
