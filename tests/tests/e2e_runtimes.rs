//! From runtime to record: what a container engine knows of a container is what DNS says of it, and what people say anew.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;
use weft_tests::clients::{Home, rootfs};
use weft_tests::dns::{Answer, dig, server_of};
use weft_tests::eventually::SOON;
use weft_tests::node::binary;
use weft_tests::traffic::idle;
use weft_tests::{Host, Topology, eventually};

/// Asks a host's agent from the host itself.
fn ask(host: &Host, words: &[&str]) -> Answer {
    let server = server_of(&host.agent.status().unwrap()).unwrap();
    dig(host.place(), &server, words).unwrap()
}

/// Asks until the addresses of a name are these; none is that there is no such name.
fn resolves(host: &Host, name: &str, wanted: &[&str]) {
    eventually(&format!("{name} is {wanted:?} on {}", host.name()), SOON, || {
        let answer = ask(host, &[name]);
        let right = answer.data("A") == wanted && (answer.rcode == "NXDOMAIN") == wanted.is_empty();
        if right { Ok(()) } else { Err(format!("{answer:?}\n{}", host.agent.log())) }
    })
    .unwrap();
}

/// Ports of the SRV records of a name.
fn ports(host: &Host, name: &str) -> Vec<String> {
    let data = ask(host, &[name, "SRV"]).data("SRV");
    let mut ports: Vec<String> = data.iter().filter_map(|srv| srv.split(' ').nth(2)).map(str::to_owned).collect();
    ports.sort();
    ports
}

fn endpoints(host: &Host) -> Vec<Value> {
    host.netctl(["endpoint", "list", "-o", "json"]).unwrap().json().unwrap().as_array().unwrap().clone()
}

#[test]
fn what_an_attachment_is_called_and_serves_can_be_said_anew() {
    let t = Topology::cluster(2).unwrap();
    let (here, there) = (t.host(1), t.host(2));
    let container = idle(here, &["--id", "d1", "--name", "old", "--alias", "other"]).unwrap();
    let address = container.address().unwrap().to_string();
    resolves(there, "old.skydns.local", &[&address]);
    resolves(there, "other.skydns.local", &[&address]);

    let words = ["attachment", "describe", "d1", "--alias", "new", "--service", "said:http=8080", "--service", "said:metrics=91"];
    here.netctl(words.into_iter().chain(["--label", "tier=front"])).unwrap().success().unwrap();
    for name in ["new.skydns.local", "said.skydns.local", "d1.said.skydns.local"] {
        resolves(there, name, &[&address]);
    }
    for name in ["old.skydns.local", "other.skydns.local"] {
        resolves(there, name, &[]);
    }
    assert_eq!(ports(there, "said.skydns.local"), ["8080", "91"]);
    let said = endpoints(there).into_iter().find(|e| e["service"] == "default/said").unwrap();
    assert_eq!((said["labels"]["tier"].as_str(), said["ports"].as_array().unwrap().len()), (Some("front"), 2));

    // A service finds the port by its name.
    there.netctl(["service", "create", "said", "--port", "80:metrics"]).unwrap().success().unwrap();
    let service = eventually("the service has its backend", SOON, || {
        let service = there.netctl(["service", "show", "said", "-o", "json"]).unwrap().json().unwrap();
        if service["backends"].as_array().is_some_and(|b| b.len() == 1) { Ok(service) } else { Err(service.to_string()) }
    })
    .unwrap();
    assert_eq!(service["backends"][0]["port"], 91);

    let refused = here.netctl(["attachment", "describe", "d1", "--service", "nowhere/x"]).unwrap();
    assert!(refused.code() == 1 && refused.stderr.contains("there is no namespace nowhere"), "{refused:?}");
    resolves(there, "new.skydns.local", &[&address]);
    container.stop().unwrap();
    resolves(there, "new.skydns.local", &[]);
    t.down().unwrap();
}

const CONTAINERS: &str = r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
lock_type = "file"
"#;

/// How long a podman command may take on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn what_podman_knows_of_a_container_becomes_records_and_follows_it() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    let home = Home::open(host).unwrap();
    let socket = std::path::PathBuf::from("/run/podman.sock");
    host.agent.set_flag("watch-podman", &socket.display().to_string());
    // The agent is in the host's home, where podman mounts its namespaces.
    let mounts = home.outside("").with_file_name("ns").join("mnt");
    host.agent.set_wrapper(["nsenter", &format!("--mount={}", mounts.display()), "--"]);
    host.agent.set_flag("cgroup", "/sys/fs/cgroup");
    t.start_cluster().unwrap();
    let reasons = |status: &Value| status["reasons"].to_string();
    host.agent.wait_status("nobody serves podman's socket", |s| reasons(s).contains("watch podman: connect")).unwrap();

    home.write("/etc/containers/containers.conf", CONTAINERS).unwrap();
    home.empty("/etc/cni/net.d").unwrap();
    home.empty("/opt/cni/bin").unwrap();
    let plugin = home.outside("/opt/cni/bin/weft");
    fs::copy(binary("weft-cni").unwrap(), &plugin).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "weft", "plugins": [
        {"type": "weft", "socket": host.agent.socket(), "capabilities": {"aliases": true}}]});
    home.write("/etc/cni/net.d/10-weft.conflist", &list.to_string()).unwrap();
    let podman = |words: &[&str]| {
        let all = [&["podman", "--storage-driver", "vfs"], words].concat();
        home.place().exec_within(LONG, all).unwrap().success().unwrap()
    };
    let serve = ["podman", "--storage-driver", "vfs", "system", "service", "--time=0", "unix:///run/podman.sock"];
    let service = home.spawn("podman-service", serve).unwrap();
    host.agent.wait_status("podman is followed", |s| !reasons(s).contains("watch podman")).unwrap();

    let root = host.dir().join("rootfs-c1");
    rootfs::make(&root).unwrap();
    let root = root.display().to_string();
    let limits = ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--pids-limit=0"];
    let said = ["-e", "SERVICE_NAME=shop", "-e", "SERVICE_TAGS=eu", "-e", "SERVICE_81_NAME=admin", "-l", "weft.label.tier=front"];
    let run = ["run", "-d", "--name", "c1", "--network", "weft", "--network-alias", "al", "--expose", "80"];
    podman(&[&run, limits.as_slice(), &said, &["--rootfs", &root, "sleep", "100000"]].concat());
    let attached = host.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
    let address = attached[0]["addresses"][0].as_str().unwrap().split('/').next().unwrap().to_owned();
    let address = [address.as_str()];
    for name in ["shop", "admin", "c1", "al"] {
        resolves(host, &format!("{name}.skydns.local"), &address);
    }
    assert_eq!((ports(host, "shop-80.skydns.local"), ports(host, "admin.skydns.local")), (vec!["80".into()], vec!["81".into()]));
    let shop = endpoints(host).into_iter().find(|e| e["service"] == "default/shop").unwrap();
    assert_eq!((shop["labels"]["tag.eu"].as_str(), shop["labels"]["tier"].as_str()), (Some("true"), Some("front")));

    podman(&["rename", "c1", "c2"]);
    resolves(host, "c2.skydns.local", &address);
    resolves(host, "c1.skydns.local", &[]);
    resolves(host, "shop.skydns.local", &address);

    // Unknown is never gone: neither an engine that is away nor a new agent beside it takes anything back.
    service.kill9().unwrap();
    host.agent.wait_status("podman's service is away", |s| reasons(s).contains("watch podman")).unwrap();
    host.agent.stop().unwrap();
    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
    host.agent.wait_status("podman's service is away", |s| reasons(s).contains("watch podman")).unwrap();
    resolves(host, "shop.skydns.local", &address);
    resolves(host, "c2.skydns.local", &address);

    // What happened meanwhile is seen when it is back, without an event.
    podman(&["rename", "c2", "c3"]);
    fs::remove_file(home.run().join("podman.sock")).unwrap();
    let service = home.spawn("podman-service-2", serve).unwrap();
    resolves(host, "c3.skydns.local", &address);
    resolves(host, "c2.skydns.local", &[]);

    podman(&["rm", "-f", "-t", "0", "c3"]);
    for name in ["shop", "c3", "al"] {
        resolves(host, &format!("{name}.skydns.local"), &[]);
    }
    service.kill9().unwrap();
    drop(home);
    t.down().unwrap();
}
