//! `netctl doctor`: a healthy cluster has nothing to be told of, and each fault is found and named.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::sync::LazyLock;

use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::topology::{FABRIC, NETWORK, Shared};
use weft_tests::traffic::probe;
use weft_tests::{Daemon, Host, Topology, eventually};

static CLUSTER: LazyLock<Topology> = LazyLock::new(|| Topology::cluster(2).unwrap());

/// Runs as long as the cluster.
static OUTSIDE: LazyLock<Daemon> = LazyLock::new(|| CLUSTER.upstream_dns("outside.example", FABRIC).unwrap());

/// A checkup and the exit code that came with it.
fn doctor(host: &Host, options: &[&str]) -> (Value, i32) {
    // As long as a busy machine needs.
    let words = [&["doctor", "-o", "json", "--timeout", "50s"], options].concat();
    let output = host.netctl(words).unwrap();
    let code = output.code();
    assert!(matches!(code, 0 | 1), "{output:?}");
    (serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")), code)
}

/// The findings of one check, of the results that are given.
fn findings<'a>(checkup: &'a Value, check: &str, results: &[&str]) -> Vec<&'a Value> {
    let all = checkup["findings"].as_array().unwrap();
    all.iter().filter(|f| f["check"] == check && results.iter().any(|r| f["result"] == *r)).collect()
}

/// Fails the test unless the check found this of something, and said what to do.
fn found<'a>(checkup: &'a Value, check: &str, result: &str, words: &[&str]) -> &'a Value {
    let all = findings(checkup, check, &[result]);
    let says = |f: &Value| words.iter().all(|word| f["what"].as_str().unwrap().contains(word));
    let one =
        all.into_iter().find(|f| says(f)).unwrap_or_else(|| panic!("no {result} of {check} that says {words:?} in {checkup:#}"));
    assert!(one["next"].as_str().is_some_and(|next| !next.is_empty()), "{one}");
    one
}

fn run(host: &Host, line: &str) {
    host.exec(line.split(' ')).unwrap().success().unwrap();
}

fn on_fabric(t: &Topology, words: &[&str]) {
    t.fabric().exec(words).unwrap().success().unwrap();
}

#[test]
fn a_healthy_cluster_gives_no_warning_and_nothing_is_left_behind() {
    let t = Shared::of(&CLUSTER);
    LazyLock::force(&OUTSIDE);
    for host in t.hosts() {
        let (checkup, code) = doctor(host, &[]);
        let odd: Vec<&Value> = checkup["findings"].as_array().unwrap().iter().filter(|f| f["result"] != "ok").collect();
        assert!(odd.is_empty(), "{odd:#?}");
        assert_eq!((code, &checkup["healthy"], &checkup["done"]), (0, &true.into(), &true.into()));
        let other = if host.name() == "h1" { "h2" } else { "h1" };
        for check in ["path", "path-mtu", "path-tcp"] {
            let of: Vec<_> = findings(&checkup, check, &["ok"]).iter().map(|f| f["subject"].clone()).collect();
            assert_eq!(of, [other], "{check}");
        }
        assert_eq!(findings(&checkup, "path-mtu", &["ok"])[0]["facts"]["largest_bytes"], 1450);
        let attached = host.netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
        assert_eq!(attached, serde_json::json!([]));
    }
}

#[test]
fn the_answer_has_every_form_and_a_peer_can_be_chosen() {
    let t = Shared::of(&CLUSTER);
    LazyLock::force(&OUTSIDE);
    let h1 = t.host(1);
    let table = h1.netctl(["doctor", "--peer", "h2"]).unwrap().success().unwrap();
    assert!(table.stdout.contains("healthy  yes") && table.stdout.contains("path-mtu"), "{}", table.stdout);
    assert!(table.stderr.is_empty(), "progress is for terminals: {}", table.stderr);
    let yaml = h1.netctl(["doctor", "--local", "-o", "yaml"]).unwrap().success().unwrap();
    assert!(yaml.stdout.contains("healthy: true") && !yaml.stdout.contains("check: path\n"), "{}", yaml.stdout);
    let unknown = h1.netctl(["doctor", "--peer", "h9"]).unwrap();
    assert_eq!(unknown.code(), 1, "{unknown:?}");
    assert!(unknown.stderr.contains("h9") && unknown.stderr.contains("h2"), "{unknown:?}");
    assert_eq!(h1.netctl(["doctor", "--peer", "h2", "--local"]).unwrap().code(), 2);
}

#[test]
fn a_way_that_swallows_big_packets_is_found_with_the_size_that_passes() {
    let t = Topology::cluster(2).unwrap();
    // Whatever is longer than 1400 bytes on the wire between hosts is gone, and nobody says a word.
    on_fabric(&t, &["nft", "add table bridge swallow"]);
    on_fabric(&t, &["nft", "add chain bridge swallow c { type filter hook forward priority 0; }"]);
    on_fabric(&t, &["nft", "add rule bridge swallow c ether type ip ip length > 1400 drop"]);
    let (checkup, code) = doctor(t.host(1), &[]);
    assert_eq!(code, 1);
    assert_eq!(findings(&checkup, "path", &["ok"]).len(), 1, "small packets pass: {checkup:#}");
    let lost = found(&checkup, "path-mtu", "fail", &["more than 1350 bytes", "the host and a container"]);
    assert_eq!((&lost["facts"]["largest_bytes"], &lost["facts"]["underlay_bytes"]), (&1350.into(), &1400.into()));
    let next = lost["next"].as_str().unwrap();
    assert!(next.contains("--mtu 1400") && next.contains(NETWORK), "{next}");
}

#[test]
fn a_blocked_port_is_told_from_a_host_that_is_down() {
    let t = Topology::cluster(3).unwrap();
    on_fabric(&t, &["nft", "add table bridge block"]);
    on_fabric(&t, &["nft", "add chain bridge block c { type filter hook forward priority 0; }"]);
    let block = format!("add rule bridge block c ip saddr {} udp dport 8472 drop", t.host(2).address());
    on_fabric(&t, &["nft", &block]);
    t.host(3).power_off().unwrap();
    t.host(1).agent.wait_status("h3 is dead", |s| s["peers"].to_string().contains("\"alive\":false")).unwrap();
    let (checkup, code) = doctor(t.host(1), &[]);
    assert_eq!(code, 1);
    let blocked = found(&checkup, "path", "fail", &["UDP port 8472 is blocked"]);
    assert_eq!((&blocked["subject"], &blocked["facts"]["fault"]), (&"h2".into(), &"port-blocked".into()));
    let down = found(&checkup, "path", "fail", &["agent is not alive"]);
    assert_eq!((&down["subject"], &down["facts"]["fault"]), (&"h3".into(), &"down".into()));
    assert!(down["next"].as_str().unwrap().contains("netctl node rm h3"), "{down}");
}

#[test]
fn a_lease_whose_mac_is_not_the_devices_is_found_and_a_missing_device_too() {
    let t = Topology::new(3).unwrap();
    t.etcd().start().unwrap();
    let (h1, h2, h3) = (t.host(1), t.host(2), t.host(3));
    h1.agent.start().unwrap();
    h1.agent.wait_status("the store has been read", |s| s["store"]["revision"].as_i64() > Some(0)).unwrap();
    h1.netctl(["network", "init", "--cidr", NETWORK]).unwrap().success().unwrap();
    let status = h1.agent.wait_ready().unwrap();
    let subnet = status["subnet"].as_str().unwrap();
    let mac = lease_mac(&t, subnet);
    // A host as flanneld makes it, but for the address that its lease names.
    for line in [
        "ip link add flannel.1 address 02:00:00:00:02:22 type vxlan id 1 local 10.77.0.2 dev up0 dstport 8472 nolearning",
        "ip addr add 10.244.250.0/32 dev flannel.1",
        "ip link set flannel.1 up",
    ] {
        run(h2, line);
    }
    let gateway = subnet.replace(".0/24", ".0");
    run(h2, &format!("ip neigh replace {gateway} lladdr {mac} dev flannel.1 nud permanent"));
    run(h2, &format!("bridge fdb replace {mac} dev flannel.1 dst {} self permanent", h1.address()));
    run(h2, &format!("ip route replace {subnet} via {gateway} dev flannel.1 onlink"));
    lease(&t, "10.244.250.0-24", h2, "02:00:00:00:09:99");
    // And one that has a lease and no device.
    lease(&t, "10.244.251.0-24", h3, "02:00:00:00:03:33");
    h1.agent.wait_peers(2).unwrap();
    let (checkup, code) = doctor(h1, &[]);
    assert_eq!(code, 1);
    let wrong = found(&checkup, "path", "fail", &["02:00:00:00:02:22", "02:00:00:00:09:99"]);
    assert_eq!(wrong["facts"]["fault"], "wrong-mac", "{wrong}");
    let absent = found(&checkup, "path", "fail", &["nobody listens on UDP port 8472"]);
    assert_eq!(absent["subject"], h3.address().to_string());
    // What it says helps.
    lease(&t, "10.244.250.0-24", h2, "02:00:00:00:02:22");
    eventually("the flannel host is reached", SOON, || {
        let (checkup, _) = doctor(h1, &["--peer", "10.244.250.0/24"]);
        anyhow::ensure!(findings(&checkup, "path", &["ok"]).len() == 1, "{checkup:#}");
        Ok(())
    })
    .unwrap();
}

/// A flanneld's lease.
fn lease(t: &Topology, key: &str, host: &Host, mac: &str) {
    let value = format!(
        r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#,
        host.address()
    );
    t.etcd().put(&format!("/coreos.com/network/subnets/{key}"), &value).unwrap();
}

fn lease_mac(t: &Topology, subnet: &str) -> String {
    let key = format!("/coreos.com/network/subnets/{}", subnet.replace('/', "-"));
    let value: Value = serde_json::from_str(&t.etcd().get(&key).unwrap().unwrap()).unwrap();
    value["BackendData"]["VtepMAC"].as_str().unwrap().to_owned()
}

#[test]
fn settings_and_chains_that_keep_packets_from_being_forwarded_are_named() {
    let t = Topology::new(2).unwrap();
    let h1 = t.host(1);
    // An agent that may read settings and not write them, beside a dockerd.
    let script = "mount -o bind,ro /proc/sys /proc/sys && exec \"$@\"";
    h1.agent.set_wrapper(["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]);
    h1.agent.set_flag("forward-rules", "off");
    run(h1, "iptables-nft -w -P FORWARD DROP");
    run(h1, "sysctl -q -w net.ipv4.conf.all.rp_filter=1");
    run(h1, "sysctl -q -w net.ipv4.ip_forward=0");
    t.start_cluster().unwrap();
    let (checkup, code) = doctor(h1, &["--local"]);
    assert_eq!(code, 1);
    found(&checkup, "ip-forward", "fail", &["forwards nothing"]);
    found(&checkup, "rp-filter", "warn", &["net.ipv4.conf.all.rp_filter is 1"]);
    found(&checkup, "forward-chains", "fail", &["chain FORWARD (policy DROP)"]);
    found(&checkup, "plan", "fail", &["sysctl net/ipv4/ip_forward"]);
    assert!(findings(&checkup, "path", &["ok", "fail", "skipped"]).is_empty(), "--local probes nobody");
}

#[test]
fn leases_and_values_that_cannot_be_used_are_named() {
    let t = Topology::cluster(2).unwrap();
    let h1 = t.host(1);
    t.etcd().put("/coreos.com/network/subnets/junk", "x").unwrap();
    lease(&t, "10.244.250.0-24", h1, "02:00:00:00:09:99");
    h1.agent.wait_status("the junk", |s| s["bad"].to_string().contains("junk")).unwrap();
    h1.agent.wait_status("the rival", |s| s["reasons"].to_string().contains("10.244.250.0")).unwrap();
    let (checkup, code) = doctor(h1, &["--peer", "h2"]);
    assert_eq!(code, 1);
    found(&checkup, "values", "warn", &["flannelds forget all their peers"]);
    found(&checkup, "other-leases", "fail", &["10.244.250.0-24", "claims the public address of this host"]);
    assert!(findings(&checkup, "status", &["warn"]).is_empty(), "nothing is said twice: {checkup:#}");
    assert_eq!(findings(&checkup, "path", &["ok"]).len(), 1);
}

#[test]
fn a_store_that_is_away_is_named_and_the_rest_is_looked_at_all_the_same() {
    let t = Topology::cluster(2).unwrap();
    t.etcd().stop().unwrap();
    let (checkup, code) = doctor(t.host(1), &[]);
    assert_eq!(code, 1);
    found(&checkup, "store", "fail", &["away"]);
    assert_eq!(findings(&checkup, "lease", &["skipped"]).len(), 1);
    assert_eq!(findings(&checkup, "path", &["ok"]).len(), 1, "{checkup:#}");
    found(&checkup, "dns-upstream", "fail", &["names of the outside"]);
}

#[test]
fn without_programs_it_says_so_and_measures_the_kernel_path() {
    let t = Topology::new(2).unwrap();
    t.host(1).agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
    t.start_cluster().unwrap();
    let (checkup, code) = doctor(t.host(1), &[]);
    assert_eq!(code, 1, "virtual IPs are not reached");
    found(&checkup, "fast-path", "warn", &["kernel path"]);
    found(&checkup, "virtual-ips", "fail", &["no virtual IP"]);
    let path = findings(&checkup, "path", &["ok"]);
    assert!(
        path[0]["what"].as_str().unwrap().contains("container") && !path[0]["what"].as_str().unwrap().contains("fast"),
        "{path:?}"
    );
}

#[test]
fn a_store_that_is_full_and_a_name_server_in_the_way_are_named() {
    let t = Topology::new(1).unwrap();
    let h1 = t.host(1);
    // Somebody has every address's port 53 before the agent comes.
    let squatter =
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="];
    let _squatter = h1.spawn("squatter", squatter).unwrap();
    eventually("port 53 is taken", SOON, || {
        h1.exec(["ss", "-Hlnu", "sport = 53"])?
            .success()?
            .stdout
            .contains(":53")
            .then_some(())
            .ok_or_else(|| anyhow::anyhow!("not yet"))
    })
    .unwrap();
    t.start_cluster().unwrap();
    let status = t.etcd().ctl(["endpoint", "status", "-w", "json"]).unwrap().json().unwrap();
    let member = &status[0]["Status"]["header"]["member_id"];
    let alarm = format!(r#"{{"action":"ACTIVATE","memberID":"{member}","alarm":"NOSPACE"}}"#);
    let url = format!("{}/v3/maintenance/alarm", t.etcd().endpoint());
    on_fabric(&t, &["curl", "-sS", "--fail", "-d", &alarm, &url]);
    let (checkup, code) = doctor(h1, &[]);
    assert_eq!(code, 1);
    found(&checkup, "store", "fail", &["NOSPACE"]);
    found(&checkup, "dns", "fail", &["another name server has it"]);
}

#[test]
fn an_agent_that_may_not_probe_says_so_and_judges_no_path() {
    let t = Topology::new(2).unwrap();
    t.host(1).agent.set_wrapper(["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]);
    t.start_cluster().unwrap();
    let (checkup, code) = doctor(t.host(1), &[]);
    assert_eq!(code, 1);
    found(&checkup, "privileges", "fail", &["CAP_NET_RAW"]);
    assert_eq!(findings(&checkup, "path", &["skipped"]).len(), 1, "{checkup:#}");
    assert!(findings(&checkup, "path-mtu", &["fail", "warn"]).is_empty(), "{checkup:#}");
}

#[test]
fn tcp_that_is_lost_where_echoes_pass_is_told_apart_and_so_is_what_the_programs_drop() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    for line in ["nft add table ip lost", "nft add chain ip lost c { type filter hook input priority 0; }"] {
        run(h2, line);
    }
    run(h2, "nft add rule ip lost c iifname weft.1 meta l4proto tcp drop");
    let (checkup, code) = doctor(h1, &[]);
    let tcp = found(&checkup, "path-tcp", "warn", &["TCP handshake", "not answered"]);
    assert_eq!(tcp["subject"], "h2");
    assert_eq!(findings(&checkup, "path", &["ok"]).len(), 1);
    // A warning is no failure; the upstream name server is, which nobody has started.
    assert_eq!(code, 1);
    found(&checkup, "dns-upstream", "fail", &[]);
    // VXLAN from an address that is no peer's, since the last look.
    let packet = format!("exec 3<>/dev/udp/{}/8472; printf '\\x08\\0\\0\\0\\0\\0\\x01\\0%0100d' 0 >&3", h1.address());
    eventually("the drop is told", SOON, || {
        t.fabric().exec(["bash", "-c", &packet])?.success()?;
        let (checkup, _) = doctor(h1, &["--local"]);
        let told =
            findings(&checkup, "drops", &["warn"]).into_iter().any(|f| f["subject"].as_str().unwrap().ends_with("unknown_peer"));
        anyhow::ensure!(told, "{checkup:#}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn hosts_that_are_gone_by_the_dozen_do_not_hold_a_checkup_up() {
    let t = Topology::cluster(2).unwrap();
    let h1 = t.host(1);
    for n in 100..220_u8 {
        let value = format!(
            r#"{{"PublicIP":"10.77.0.{n}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{n:02x}"}}}}"#
        );
        t.etcd().put(&format!("/coreos.com/network/subnets/10.244.{n}.0-24"), &value).unwrap();
    }
    h1.agent.wait_peers(121).unwrap();
    let output = h1.netctl(["doctor", "-o", "json", "--timeout", "20s"]).unwrap();
    let checkup: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(checkup["done"], true);
    let skipped = findings(&checkup, "path", &["skipped"]);
    assert!(skipped.iter().all(|f| f["what"].as_str().unwrap().contains("--timeout")), "{skipped:#?}");
    let seen = skipped.len() + findings(&checkup, "path", &["ok", "warn", "fail"]).len();
    assert_eq!(seen, 121, "each is told of, one way or the other: {checkup:#}");
    assert!(!skipped.is_empty(), "three seconds of silence for each, sixteen at a time, do not fit into twenty");
    eventually("the doctor's own container is gone", SOON, || {
        let attached = h1.netctl(["attachment", "list", "-o", "json"])?.json()?;
        anyhow::ensure!(attached == serde_json::json!([]), "{attached}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_dual_stack_cluster_is_probed_in_both_families() {
    let t = Topology::builder(2).dual_stack().build().unwrap();
    t.start_cluster().unwrap();
    let h1 = t.host(1);
    h1.agent.wait_status("both subnets", |s| s["subnet6"].is_string()).unwrap();
    let (checkup, _) = doctor(h1, &[]);
    for check in ["path", "path-mtu", "path-tcp"] {
        let of: Vec<_> = findings(&checkup, check, &["ok"]).iter().map(|f| f["subject"].clone()).collect();
        assert_eq!(of, ["h2", "h2 (IPv6)"], "{check} in {checkup:#}");
    }
    assert!(findings(&checkup, "path", &["ok"]).iter().all(|f| f["facts"]["container_rtt_us"].is_u64()), "{checkup:#}");
    // What swallows big packets of one family is told of that one.
    run(t.host(2), "nft add table ip6 swallow");
    t.host(2).exec(["nft", "add chain ip6 swallow c { type filter hook input priority 0; }"]).unwrap().success().unwrap();
    run(t.host(2), "nft add rule ip6 swallow c ip6 length > 1300 drop");
    let (checkup, code) = doctor(h1, &["--peer", "h2"]);
    assert_eq!(code, 1);
    let lost = found(&checkup, "path-mtu", "fail", &["lost on the way"]);
    assert_eq!(lost["subject"], "h2 (IPv6)");
    assert_eq!(findings(&checkup, "path-mtu", &["ok"]).len(), 1, "{checkup:#}");
}
