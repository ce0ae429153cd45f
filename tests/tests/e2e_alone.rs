//! One host, no etcd, no flags: `weftd`, then two containers that find each other.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use weft_tests::container::run_to_end;
use weft_tests::eventually::SOON;
use weft_tests::traffic::idle;
use weft_tests::{Host, Topology, eventually};

/// A host whose agent runs without flags. What keeps it apart from the machine's own comes in the environment.
fn alone() -> Topology {
    let t = Topology::new(1).unwrap();
    let agent = &t.host(1).agent;
    for flag in ["etcd-endpoints", "iface", "lease-ttl", "dns-upstream", "log", "node-name"] {
        agent.unset_flag(flag);
    }
    agent.flags_into_environment();
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    t
}

/// The words of the issue, typed on one host.
fn web(host: &Host) -> weft_tests::Container {
    let file = host.dir().join("www");
    std::fs::create_dir_all(&file).unwrap();
    std::fs::write(file.join("index.html"), "it works\n").unwrap();
    let dir = file.to_string_lossy().into_owned();
    host.container(["--name", "web", "--service", "myapp:8080"], ["python3", "-m", "http.server", "8080", "--directory", &dir])
        .unwrap()
}

fn curl(host: &Host, url: &str) -> anyhow::Result<()> {
    let output = run_to_end(host, &[], &["curl", "-sS", "--fail", "--max-time", "5", url])?.success()?;
    anyhow::ensure!(output.stdout == "it works\n", "{output:?}");
    Ok(())
}

#[test]
fn two_containers_find_each_other_by_name() {
    let t = alone();
    let _web = web(t.host(1));
    eventually("curl by name", SOON, || curl(t.host(1), "http://myapp.skydns.local:8080")).unwrap();
}

#[test]
fn a_service_has_a_virtual_ip_on_one_host_too() {
    let t = alone();
    let host = t.host(1);
    let _web = web(host);
    let created = host.netctl(["service", "create", "myapp", "--port", "80:8080", "-o", "json"]).unwrap().json().unwrap();
    let vip = created["vip"].as_str().unwrap();
    eventually("curl by virtual IP", SOON, || curl(host, &format!("http://{vip}"))).unwrap();
    eventually("curl by name and the service's port", SOON, || curl(host, "http://myapp.skydns.local")).unwrap();
}

#[test]
fn the_store_is_the_embedded_one_and_has_a_network() {
    let t = alone();
    let status = t.host(1).agent.status().unwrap();
    assert_eq!(status["store"]["kind"], "embedded", "{status}");
    assert!(status["subnet"].as_str().unwrap().starts_with("10.244."), "{status}");
}

#[test]
fn subnet_service_and_addresses_outlive_the_agent() {
    let t = alone();
    let host = t.host(1);
    let container = idle(host, &["--name", "kept"]).unwrap();
    let address = container.address().unwrap();
    let created = host.netctl(["service", "create", "myapp", "--port", "80", "-o", "json"]).unwrap().json().unwrap();
    let subnet = host.agent.status().unwrap()["subnet"].clone();
    host.agent.kill9().unwrap();
    host.agent.start().unwrap();
    let status = host.agent.wait_ready().unwrap();
    assert_eq!(status["subnet"], subnet);
    let shown = host.netctl(["service", "show", "myapp", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(shown["vip"], created["vip"]);
    assert_eq!(container.address().unwrap(), address);
    let answer = host.netctl(["dns", "query", "kept", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(answer["answers"][0]["data"], address.to_string());
}

#[test]
fn without_an_uplink_all_but_the_overlay_runs() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    host.exec(["ip", "link", "delete", "up0"]).unwrap().success().unwrap();
    for flag in ["etcd-endpoints", "iface", "lease-ttl", "dns-upstream"] {
        host.agent.unset_flag(flag);
    }
    host.agent.start().unwrap();
    let status = host.agent.wait_ready().unwrap();
    assert!(status["reasons"].to_string().contains("uplink"), "status says what is missing: {status}");
    let _web = web(host);
    eventually("curl by name", SOON, || curl(host, "http://myapp.skydns.local:8080")).unwrap();
}

#[test]
fn the_command_of_run_gives_its_exit_code() {
    let t = alone();
    for code in [0, 7] {
        let output = run_to_end(t.host(1), &[], &["sh", "-c", &format!("exit {code}")]).unwrap();
        assert_eq!(output.code(), code, "{output:?}");
    }
}

#[test]
fn nothing_of_a_container_is_left_when_it_ends() {
    let t = alone();
    let host = t.host(1);
    let links = || host.exec(["ip", "-brief", "link"]).unwrap().success().unwrap().stdout.lines().count();
    let groups = || std::fs::read_dir(host.place().cgroup()).unwrap().flatten().filter(|e| e.path().is_dir()).count();
    // The first may leave things that all share, such as a parent group.
    run_to_end(host, &["--name", "zero"], &["true"]).unwrap().success().unwrap();
    let before = (links(), groups());
    run_to_end(host, &["--name", "gone", "--service", "gone:80"], &["true"]).unwrap().success().unwrap();
    assert_eq!((links(), groups()), before);
    let listed = host.netctl(["endpoint", "list", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(listed, serde_json::json!([]));
    let attached = host.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(attached, serde_json::json!([]));
}
