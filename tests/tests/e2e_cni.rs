//! `weft-cni`, called as runtimes call it: every verb, every version, bad input, an agent that is away, other plugins behind it.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::eventually::SOON;
use weft_tests::node::binary;
use weft_tests::place::{COMMAND_BOUND, finish};
use weft_tests::topology::{FABRIC, Wire, ip};
use weft_tests::traffic::{connect, pings, probe};
use weft_tests::{Host, Output, Place, Topology, eventually};

/// Calls a plugin on a host with these variables and this standard input.
fn call(host: &Host, plugin: &Path, vars: &[(&str, &str)], stdin: &str) -> Output {
    let file = host.dir().join(format!("stdin-{:?}", std::thread::current().id()));
    std::fs::write(&file, stdin).unwrap();
    let mut command = host.place().command(plugin).unwrap();
    command.stdin(File::open(&file).unwrap()).envs(vars.iter().copied());
    let spelled = format!("{} with {vars:?} < {stdin}", plugin.display());
    finish(command, &spelled, COMMAND_BOUND).unwrap()
}

/// One container of one network, as a runtime sees it.
struct Cni<'a> {
    host: &'a Host,
    container: String,
    netns: String,
    args: String,
    config: Value,
}

impl<'a> Cni<'a> {
    fn new(host: &'a Host, container: &str, netns: &str, version: &str) -> Self {
        let socket = host.agent.socket();
        let config = json!({ "cniVersion": version, "name": "weft", "type": "weft", "socket": socket, "capabilities": {} });
        Self { host, container: container.to_owned(), netns: netns.to_owned(), args: String::new(), config }
    }

    fn of(host: &'a Host, place: &Place, container: &str) -> Self {
        Self::new(host, container, &place.netns().to_string_lossy(), "1.0.0")
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    fn args(mut self, args: &str) -> Self {
        self.args = args.to_owned();
        self
    }

    fn by(&self, plugin: &Path, verb: &str, config: &Value) -> Output {
        let vars = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", self.container.as_str()),
            ("CNI_NETNS", self.netns.as_str()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", self.args.as_str()),
            ("CNI_PATH", "/usr/lib/cni"),
        ];
        call(self.host, plugin, &vars, &config.to_string())
    }

    fn run(&self, verb: &str) -> Output {
        self.by(&binary("weft-cni").unwrap(), verb, &self.config)
    }

    fn add(&self) -> Value {
        self.run("ADD").json().unwrap()
    }

    /// A verb that prints nothing.
    fn quiet(&self, verb: &str) {
        let output = self.run(verb).success().unwrap();
        assert_eq!(output.stdout, "", "{}", output.command);
    }

    /// The code of a refusal, and its sentence.
    fn refused(&self, verb: &str) -> (u64, String) {
        fault(&self.run(verb))
    }
}

fn fault(output: &Output) -> (u64, String) {
    assert_eq!(output.code(), 1, "{output:?}");
    let error: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(error["cniVersion"].is_string(), "{output:?}");
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
}

fn attachments(host: &Host) -> anyhow::Result<Vec<Value>> {
    Ok(host.netctl(["attachment", "list", "-o", "json"])?.json()?.as_array().cloned().unwrap_or_default())
}

fn address(result: &Value, index: usize) -> IpAddr {
    let text = result["ips"][index]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

#[test]
fn every_verb_answers_as_the_specification_has_it() {
    let t = Topology::builder(2).wires(&[Wire::Dual, Wire::Dual]).dual_stack().build().unwrap();
    t.start_cluster().unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    for host in [h1, h2] {
        host.agent.wait_status("an IPv6 subnet", |s| s["subnet6"].is_string()).unwrap();
    }
    let place = h1.bare_namespace("one").unwrap();
    let netns = place.netns().to_string_lossy().into_owned();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let one = Cni::new(h1, "default-c1", &netns, version).args("IgnoreUnknown=1;K8S_POD_NAME=Web_1");
        let result = one.add();
        let there = &attachments(h1).unwrap()[0];
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][0]["name"], there["host_ifname"]);
        assert!(result["interfaces"][0].get("sandbox").is_none());
        assert_eq!((&result["interfaces"][1]["name"], &result["interfaces"][1]["sandbox"]), (&json!("eth0"), &json!(netns)));
        assert_eq!(result["interfaces"][1]["mac"], there["mac"]);
        assert_eq!(result["interfaces"][1]["mtu"].is_number(), version == "1.1.0", "{result}");
        let ips: Vec<_> = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].clone()).collect();
        assert_eq!((json!(ips), ips.len()), (there["addresses"].clone(), 2), "{result}");
        assert!(result["ips"].as_array().unwrap().iter().all(|ip| ip["interface"] == 1), "{result}");
        let family = if version < "1.0.0" { json!("4") } else { Value::Null };
        assert_eq!(result["ips"][0]["version"], family);
        assert_eq!(result["dns"]["nameservers"], there["dns"]);
        // What the result says of the devices is so.
        for (interface, place) in [(0, h1.place()), (1, &place)] {
            let name = result["interfaces"][interface]["name"].as_str().unwrap();
            let link = place.exec(["ip", "-json", "link", "show", name]).unwrap().json().unwrap();
            assert_eq!(link[0]["address"], result["interfaces"][interface]["mac"]);
        }
        assert_eq!(one.add(), result, "asked twice, the first result again");

        let checked = Cni::new(h1, "default-c1", &netns, version).with("prevResult", result.clone());
        if version == "0.3.1" {
            assert_eq!(checked.refused("CHECK").0, 1);
        } else {
            checked.quiet("CHECK");
            let mut other = result.clone();
            other["ips"][0]["address"] = "192.0.2.7/32".into();
            assert_eq!(Cni::new(h1, "default-c1", &netns, version).with("prevResult", other).refused("CHECK").0, 105);
            ip(&place, "link set eth0 down").unwrap();
            ip(&place, "address flush dev eth0").unwrap();
            let (code, why) = checked.refused("CHECK");
            assert!(code == 105 && why.contains("eth0"), "{code} {why}");
        }
        checked.quiet("DEL");
        checked.quiet("DEL");
        assert!(attachments(h1).unwrap().is_empty());
        assert!(!place.exec(["ip", "link", "show", "eth0"]).unwrap().status.success());
    }
    let status = Cni::new(h1, "", "", "1.1.0");
    status.quiet("STATUS");
    assert_eq!(Cni::new(h1, "", "", "1.1.0").with("network", "blue").refused("STATUS").0, 50);

    // Two hosts, by address and by name, the second by a path that ends with its giver.
    let web = Cni::of(h1, &place, "web").args("IgnoreUnknown=1;K8S_POD_NAME=Web_1");
    let served = web.add();
    let other = h2.bare_namespace("two").unwrap();
    let open = File::open(other.netns()).unwrap();
    let by_fd = Cni::new(h2, "b1", &format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()), "1.0.0");
    by_fd.add();
    drop(open);
    for index in [0, 1] {
        eventually("the first container answers", SOON, || pings(&other, address(&served, index), 3, &[])).unwrap();
    }
    let resolver = format!("@{}", attachments(h2).unwrap()[0]["gateway"].as_str().unwrap());
    eventually("its name is known", SOON, || {
        let said = other.exec(["dig", &resolver, "web-1.skydns.local", "+short", "+time=1", "+tries=1"])?.success()?;
        ensure!(said.stdout.trim() == address(&served, 0).to_string(), "{said:?}");
        Ok(())
    })
    .unwrap();
    by_fd.quiet("DEL");

    // A second container on the first host; the collection takes all but the one that is named.
    let place3 = h1.bare_namespace("three").unwrap();
    Cni::of(h1, &place3, "gone").add();
    let other_network = Cni::of(h1, &h1.bare_namespace("four").unwrap(), "stays").with("name", "another");
    other_network.add();
    let keep = json!([{ "containerID": "web", "ifname": "eth0" }]);
    let gc = Cni::new(h1, "", "", "1.1.0").with("cni.dev/valid-attachments", keep);
    gc.quiet("GC");
    gc.quiet("GC");
    let left: Vec<_> = attachments(h1).unwrap().iter().map(|a| a["owner"]["container"].clone()).collect();
    assert!(left.len() == 2 && left.contains(&json!("web")) && left.contains(&json!("stays")), "{left:?}");
    assert_eq!(Cni::new(h1, "", "", "1.1.0").refused("GC").0, 7, "without a list nothing goes");

    // As ctr does it: no namespace at all.
    let gone = Cni { netns: String::new(), ..other_network };
    gone.quiet("DEL");
    Cni { netns: "/nonexistent/ns".to_owned(), ..web }.quiet("DEL");
    assert!(attachments(h1).unwrap().is_empty());
}

#[test]
fn bad_input_gets_the_specifications_error_and_changes_nothing() {
    let t = Topology::new(1).unwrap();
    t.etcd().start().unwrap();
    let host = t.host(1);
    host.agent.start().unwrap();
    host.agent.wait_status("the store has been read", |s| s["store"]["revision"].as_i64() > Some(0)).unwrap();
    host.agent.wait_answering().unwrap();
    let place = host.bare_namespace("one").unwrap();
    let cni = |container: &str| Cni::of(host, &place, container).with("timeout", 0);

    // No network yet: the agent is not ready.
    assert_eq!(cni("c1").refused("ADD").0, 11);
    assert_eq!(Cni::new(host, "", "", "1.1.0").refused("STATUS").0, 50);
    // A container or two to a host.
    host.netctl(["network", "init", "--cidr", "10.244.0.0/16", "--subnet-len", "30"]).unwrap().success().unwrap();
    host.agent.wait_ready().unwrap();

    let plugin = binary("weft-cni").unwrap();
    let config = cni("c1").config.to_string();
    let netns = place.netns().to_string_lossy().into_owned();
    let full = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", netns.as_str()), ("CNI_IFNAME", "eth0")];
    let but = |name: &str, value: &'static str| full.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
    let changed = |key: &str, value: Value| cni("c1").with(key, value).config.to_string();
    for (vars, stdin, code, word) in [
        (full, "{".to_owned(), 6, "standard input"),
        (full, String::new(), 6, "standard input"),
        (full, "[]".to_owned(), 6, "standard input"),
        (full, changed("name", json!(7)), 6, "parse"),
        (full, changed("labels", json!([])), 6, "parse"),
        (full, changed("cniVersion", json!("9.9.9")), 1, "9.9.9"),
        (full, changed("cniVersion", json!("0.2.0")), 1, "0.2.0"),
        (full, changed("name", json!("a/b")), 7, "name"),
        (full, changed("network", json!("blue")), 7, "blue"),
        (full, changed("service", json!("No Such!")), 7, "service"),
        (full, changed("ipam", json!({ "type": "host-local" })), 2, "host-local"),
        (full, changed("dns", json!({ "nameservers": ["x"] })), 7, "name server"),
        (full, changed("labels", json!({ "a b": "c" })), 7, "label"),
        (full, changed("runtimeConfig", json!({ "portMappings": [{ "hostPort": 99_999, "containerPort": 1 }] })), 7, "99999"),
        (full, changed("runtimeConfig", json!({ "ips": ["10.0.0.1", "10.0.0.2"] })), 7, "10.0.0.2"),
        (full, changed("prevResult", json!({ "interfaces": [{ "name": "eth0", "sandbox": "/x" }] })), 100, "eth0"),
        (but("CNI_COMMAND", "EXPLODE"), config.clone(), 4, "EXPLODE"),
        (but("CNI_COMMAND", ""), config.clone(), 4, "CNI_COMMAND"),
        (but("CNI_CONTAINERID", ""), config.clone(), 4, "CNI_CONTAINERID"),
        (but("CNI_CONTAINERID", "../../etc"), config.clone(), 4, "CNI_CONTAINERID"),
        (but("CNI_IFNAME", ""), config.clone(), 4, "CNI_IFNAME"),
        (but("CNI_IFNAME", "a/b"), config.clone(), 4, "CNI_IFNAME"),
        (but("CNI_NETNS", ""), config.clone(), 4, "CNI_NETNS"),
        (but("CNI_NETNS", "/dev/null"), config.clone(), 4, "no network namespace"),
        (but("CNI_NETNS", "/proc/self/ns/net"), config.clone(), 4, "own network namespace"),
        (but("CNI_NETNS", "/nonexistent/ns"), config.clone(), 3, "/nonexistent/ns"),
    ] {
        let output = call(host, &plugin, &vars, &stdin);
        let (got, why) = fault(&output);
        assert!(got == code && why.contains(word), "{got} {why}: wanted {code}, {word}: {}", output.command);
    }
    assert!(attachments(host).unwrap().is_empty());
    assert!(!place.exec(["ip", "link", "show", "eth0"]).unwrap().status.success());
    let interface = Cni::of(host, &place, "taken");
    ip(&place, "link add eth0 type bridge").unwrap();
    assert_eq!(interface.refused("ADD").0, 100, "an interface that is there is not ours");
    // A way out that is there is left as it is, unless ours is asked for.
    ip(&place, "address add 192.0.2.2/24 dev eth0").unwrap();
    ip(&place, "link set eth0 name before up").unwrap();
    ip(&place, "route add default via 192.0.2.1").unwrap();
    assert_eq!(Cni::of(host, &place, "second").with("default_route", true).refused("ADD").0, 100);
    let second = Cni::of(host, &place, "second");
    let result = second.add();
    assert!(result["routes"].as_array().unwrap().iter().all(|route| route["dst"] != "0.0.0.0/0"), "{result}");
    second.quiet("DEL");
    ip(&place, "link delete before").unwrap();
    assert!(attachments(host).unwrap().is_empty());

    // A hostile name becomes a label, or none at all; and the subnet is full after one.
    let hostile = cni("c1").args("IgnoreUnknown=1;K8S_POD_NAME=../\u{202e}$(reboot) Ünï_1");
    hostile.add();
    let name = attachments(host).unwrap()[0]["names"][0].as_str().unwrap().to_owned();
    assert!(name.ends_with("reboot-n-1.skydns.local."), "{name}");
    let mut places = Vec::new();
    let (code, why) = loop {
        let place = host.bare_namespace(&format!("more-{}", places.len())).unwrap();
        places.push(place);
        let output = Cni::of(host, places.last().unwrap(), &format!("more-{}", places.len())).run("ADD");
        if !output.status.success() {
            break fault(&output);
        }
        assert!(places.len() < 4, "a /30 is never full");
    };
    assert!(code == 101, "{code} {why}");
    assert_eq!(attachments(host).unwrap().len(), places.len());
}

#[test]
fn what_is_to_go_while_the_agent_is_away_goes_when_it_is_back() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let places: Vec<Place> = (0..3).map(|n| host.bare_namespace(&format!("c{n}")).unwrap()).collect();
    let all: Vec<Cni> = places.iter().enumerate().map(|(n, p)| Cni::of(host, p, &format!("c{n}")).with("timeout", 0)).collect();
    all.iter().for_each(|one| drop(one.add()));
    host.agent.stop().unwrap();

    let (code, why) = Cni::of(host, &places[0], "new").with("timeout", 0).refused("ADD");
    assert!(code == 11 && why.contains("no agent"), "{code} {why}");
    assert_eq!(Cni::new(host, "", "", "1.1.0").refused("STATUS").0, 51, "containers that are there miss their names");
    all[0].quiet("DEL");
    all[0].quiet("DEL");
    let keep = json!([{ "containerID": "c0", "ifname": "eth0" }, { "containerID": "c2", "ifname": "eth0" }]);
    Cni::new(host, "", "", "1.1.0").with("cni.dev/valid-attachments", keep).quiet("GC");
    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
    let left: Vec<_> = attachments(host).unwrap().iter().map(|a| a["owner"]["container"].clone()).collect();
    assert_eq!(left, ["c2"]);
    let queue = std::fs::read_dir(host.agent.run_dir().join("queue")).unwrap().count();
    assert_eq!(queue, 0, "what is done lies there no more");
    // The name that went is free for the same container again, at once.
    all[0].add();
    assert_eq!(attachments(host).unwrap().len(), 2);

    // An attach waits for an agent that restarts.
    host.agent.stop().unwrap();
    let patient = Cni::of(host, &places[1], "late").with("timeout", 60);
    std::thread::scope(|scope| {
        let added = scope.spawn(|| patient.add());
        host.agent.start().unwrap();
        assert_eq!(added.join().unwrap()["ips"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn other_plugins_work_on_our_result_and_we_on_theirs() {
    const OTHERS: &str = "/usr/lib/cni";
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let place = host.bare_namespace("one").unwrap();
    let cni = Cni::of(host, &place, "chained");

    // A list of loopback, weft, tuning, bandwidth and portmap, as libcni goes through it.
    let ours = binary("weft-cni").unwrap();
    let runtime = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": { "ingressRate": 800_000_000, "ingressBurst": 800_000_000, "egressRate": 800_000_000, "egressBurst": 800_000_000 },
    });
    let list = [
        ("loopback", json!({})),
        ("weft", json!({ "socket": host.agent.socket() })),
        ("tuning", json!({ "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" } })),
        ("bandwidth", json!({ "runtimeConfig": { "bandwidth": runtime["bandwidth"] } })),
        ("portmap", json!({ "snat": true, "runtimeConfig": { "portMappings": runtime["portMappings"] } })),
    ];
    let configured = |(kind, config): &(&str, Value), prev: &Value| {
        let mut config = config.clone();
        config["cniVersion"] = "1.0.0".into();
        config["name"] = "weft".into();
        config["type"] = (*kind).into();
        if !prev.is_null() {
            config["prevResult"] = prev.clone();
        }
        config
    };
    let path = |kind: &str| if kind == "weft" { ours.clone() } else { Path::new(OTHERS).join(kind) };
    let mut result = Value::Null;
    for plugin in &list {
        result = cni.by(&path(plugin.0), "ADD", &configured(plugin, &result)).json().unwrap();
    }
    let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert!(names[0] == "lo" && names[1].starts_with("weft") && names[2] == "eth0", "{names:?}");
    let own = result["ips"].as_array().unwrap().iter().find(|ip| ip["interface"] == 2).unwrap();
    assert!(own["address"].as_str().unwrap().starts_with("10.244."), "{result}");

    // The port of the host leads to the container, and the limit stands on our device.
    let _server =
        place.spawn(host.dir(), "server", [probe().unwrap().as_str(), "serve-tcp", "0.0.0.0:80", "--say", "chained"]).unwrap();
    let to = format!("{}:8080", host.address());
    eventually("the published port answers", SOON, || {
        let report = connect(t.fabric(), &to, &[])?;
        ensure!(report["said"] == "chained", "{report}");
        Ok(())
    })
    .unwrap();
    let limits = host.exec(["tc", "qdisc", "show", "dev", names[1]]).unwrap().success().unwrap().stdout;
    assert!(limits.contains("tbf"), "{limits}");
    let sysctl = place.exec(["cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter"]).unwrap().success().unwrap().stdout;
    assert_eq!(sysctl.trim(), "1");
    pings(&place, FABRIC.into(), 1, &[]).unwrap();

    // portmap (1.1.1) looks for a rule of ::1, which loopback's result brings and for which it made none.
    for plugin in list.iter().filter(|(kind, _)| *kind != "portmap") {
        cni.by(&path(plugin.0), "CHECK", &configured(plugin, &result)).success().unwrap();
    }
    for plugin in list.iter().rev() {
        cni.by(&path(plugin.0), "DEL", &configured(plugin, &result)).success().unwrap();
    }
    assert!(attachments(host).unwrap().is_empty());
    assert!(!place.exec(["ip", "link", "show", "eth0"]).unwrap().status.success());
    assert_ne!(connect(t.fabric(), &to, &[]).unwrap()["result"], "answered");
}
