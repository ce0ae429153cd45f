//! What was broken once by a stranger, and must not break again: lost memory, clients that go away, things renamed by hand,
//! values that do not parse, settings that would cut everybody off.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use weft_tests::container::endpoints;
use weft_tests::eventually::{SOON, throughout};
use weft_tests::traffic::{idle, tcp_server, who_answers};
use weft_tests::{Host, Topology, eventually};

fn ifindex(host: &Host, device: &str) -> Value {
    host.exec(["ip", "-json", "link", "show", device]).unwrap().json().unwrap()[0]["ifindex"].clone()
}

fn attachments(host: &Host) -> anyhow::Result<Vec<Value>> {
    Ok(host.netctl(["attachment", "list", "-o", "json"])?.json()?.as_array().cloned().unwrap_or_default())
}

#[test]
fn a_lost_state_directory_costs_no_container_anything() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let server = tcp_server(h1, &["--service", "web:8080"], 8080, "h1").unwrap();
    let client = idle(h2, &[]).unwrap();
    let to = format!("{}:8080", server.address().unwrap());
    let before = attachments(h1).unwrap();
    h1.agent.kill9().unwrap();
    std::fs::remove_dir_all(h1.agent.state_dir()).unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    throughout("the container answers", Duration::from_secs(2), || who_answers(client.place(), &to).map(drop)).unwrap();
    assert_eq!(attachments(h1).unwrap()[0]["addresses"], before[0]["addresses"]);
}

#[test]
fn a_default_route_that_is_away_for_a_moment_takes_nothing_down() {
    let t = Topology::new(2).unwrap();
    t.host(1).agent.set_flag("iface", "auto");
    t.start_cluster().unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let server = tcp_server(h2, &[], 7000, "h2").unwrap();
    let client = idle(h1, &[]).unwrap();
    let to = format!("{}:7000", server.address().unwrap());
    who_answers(client.place(), &to).unwrap();
    let before = ifindex(h1, "weft.1");
    let default = h1.exec(["ip", "route", "show", "default"]).unwrap().success().unwrap().stdout;
    h1.exec(["ip", "route", "delete", "default"]).unwrap().success().unwrap();
    h1.agent.wait_status("it says that the route is gone", |s| s["reasons"].to_string().contains("default route")).unwrap();
    throughout("packets flow", Duration::from_secs(1), || who_answers(client.place(), &to).map(drop)).unwrap();
    let words: Vec<&str> = ["ip", "route", "add"].into_iter().chain(default.split_whitespace()).collect();
    h1.exec(words).unwrap().success().unwrap();
    h1.agent.wait_status("it is content again", |s| !s["reasons"].to_string().contains("default route")).unwrap();
    assert_eq!(ifindex(h1, "weft.1"), before);
}

#[test]
fn a_client_that_goes_away_leaves_nothing_half_done() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    for n in 0..8 {
        let id = format!("gone-{n}");
        let container = idle(host, &["--id", &id, "--name", "gone"]).unwrap();
        let mut socket = UnixStream::connect(host.agent.socket()).unwrap();
        write!(socket, "DELETE /v1/attachments/{id} HTTP/1.1\r\nhost: weft\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_micros(200 * n));
        drop(socket);
        eventually("it is detached as a whole", SOON, || {
            let (left, named) = (attachments(host)?, endpoints(host)?);
            anyhow::ensure!(left.is_empty() && named.is_empty(), "{left:?} {named:?}");
            Ok(())
        })
        .unwrap();
        drop(container);
    }
}

#[test]
fn a_renamed_device_of_a_container_gets_its_name_back() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let server = tcp_server(h1, &["--service", "web:8080"], 8080, "h1").unwrap();
    let client = idle(h2, &[]).unwrap();
    let device = attachments(h1).unwrap()[0]["host_ifname"].as_str().unwrap().to_owned();
    let index = ifindex(h1, &device);
    h1.exec(["ip", "link", "set", &device, "name", "foo1"]).unwrap().success().unwrap();
    eventually("it has its name again", SOON, || h1.exec(["ip", "link", "show", &device])?.success()).unwrap();
    assert_eq!(ifindex(h1, &device), index);
    let to = format!("{}:8080", server.address().unwrap());
    eventually("it answers", SOON, || who_answers(client.place(), &to)).unwrap();
}

#[test]
fn what_does_not_parse_is_mended_by_the_command_that_status_names() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    t.etcd().put("/coreos.com/network/config", "junk").unwrap();
    t.etcd().put("/weft/v1/config", r#"{"service_cidrs":"no"}"#).unwrap();
    t.etcd().put("/weft/v1/services/default/bad", "[]").unwrap();
    host.agent.wait_status("three bad values", |s| s["bad"].as_array().is_some_and(|b| b.len() == 3)).unwrap();
    let refused = host.netctl(["service", "create", "bad", "--port", "80"]).unwrap();
    assert!(!refused.status.success() && refused.stderr.contains("netctl service rm"), "{}", refused.stderr);
    host.netctl(["network", "init", "--cidr", "10.244.0.0/16", "--force"]).unwrap().success().unwrap();
    host.netctl(["config", "set", "--dns-domain", "skydns.local."]).unwrap().success().unwrap();
    host.netctl(["service", "rm", "bad"]).unwrap().success().unwrap();
    host.agent.wait_status("none is left", |s| s["bad"].as_array().is_some_and(Vec::is_empty)).unwrap();
    assert!(t.etcd().get("/coreos.com/network/config").unwrap().unwrap().contains("10.244.0.0/16"));
}

#[test]
fn ranges_that_would_cut_the_cluster_off_are_refused() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    for range in ["0.0.0.0/0", "10.77.0.0/24", "10.244.0.0/16", "10.0.0.0/8", "127.1.0.0/16", "224.0.0.0/16", "169.254.0.0/16"] {
        let said = host.netctl(["config", "set", "--service-cidr", range]).unwrap();
        assert!(!said.status.success() && said.stderr.contains(range), "{range}: {}", said.stderr);
    }
    let said = host.netctl(["network", "init", "--cidr", "10.112.0.0/16", "--force"]).unwrap();
    assert!(!said.status.success() && said.stderr.contains("overlaps"), "{}", said.stderr);
    host.netctl(["config", "set", "--service-cidr", "10.113.0.0/16"]).unwrap().success().unwrap();
}

#[test]
fn a_store_that_was_made_anew_is_filled_again() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let server = tcp_server(h2, &["--service", "web:8080"], 8080, "h2").unwrap();
    let client = idle(h1, &[]).unwrap();
    let subnets = |of: [&Host; 2]| of.map(|h| h.agent.status().unwrap()["subnet"].clone());
    let before = subnets([h1, h2]);
    t.etcd().lose_everything().unwrap();
    t.etcd().start().unwrap();
    eventually("the network is made again", SOON, || h1.netctl(["network", "init", "--cidr", "10.244.0.0/16"])?.success())
        .unwrap();
    for host in [h1, h2] {
        host.agent.wait_peers(1).unwrap();
    }
    assert_eq!(subnets([h1, h2]), before);
    eventually("the endpoint is there again", SOON, || {
        let all = endpoints(h1)?;
        anyhow::ensure!(all.iter().any(|e| e["node"] == "h2" && e["state"] == "up"), "{all:?}");
        Ok(())
    })
    .unwrap();
    eventually("packets flow", SOON, || who_answers(client.place(), &format!("{}:8080", server.address()?))).unwrap();
    eventually("settings are seeded again", SOON, || t.etcd().get("/weft/v1/config")?.ok_or_else(|| anyhow::anyhow!("none")))
        .unwrap();
}

#[test]
fn a_detach_works_while_the_store_has_not_been_read() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let _container = idle(host, &["--id", "alone"]).unwrap();
    host.agent.stop().unwrap();
    t.etcd().stop().unwrap();
    host.agent.start().unwrap();
    host.agent.wait_answering().unwrap();
    assert_eq!(attachments(host).unwrap().len(), 1);
    host.netctl(["detach", "alone"]).unwrap().success().unwrap();
    assert!(attachments(host).unwrap().is_empty());
    let links = host.exec(["ip", "-brief", "link"]).unwrap().success().unwrap().stdout;
    assert!(!links.lines().any(|l| l.starts_with("weft") && !l.starts_with("weft.")), "{links}");
}
