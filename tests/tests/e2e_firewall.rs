//! The packet filter: sources are checked without eBPF too, containers reach the outside, other owners' filters are got past
//! with one jump, and what others break is mended.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use serde_json::json;
use weft_tests::api::call;
use weft_tests::eventually::SOON;
use weft_tests::topology::FABRIC;
use weft_tests::traffic::{idle, probe, report, stream, tcp_server, who_answers};
use weft_tests::{Host, Topology, eventually};

/// Runs a line of words on a host; what it printed.
fn run(host: &Host, line: &str) -> String {
    host.exec(line.split(' ')).unwrap().success().unwrap().stdout
}

/// What dockerd makes of the filter table; `user` is the chain that newer ones leave to others.
fn like_docker(host: &Host, iptables: &str, user: bool) {
    run(host, &format!("{iptables} -w -P FORWARD DROP"));
    if user {
        run(host, &format!("{iptables} -w -N DOCKER-USER"));
        run(host, &format!("{iptables} -w -A DOCKER-USER -j RETURN"));
        run(host, &format!("{iptables} -w -A FORWARD -j DOCKER-USER"));
    }
    run(host, &format!("{iptables} -w -A FORWARD -i docker0 -j ACCEPT"));
}

fn rules(host: &Host, iptables: &str) -> String {
    run(host, &format!("{iptables} -w -S"))
}

/// Two hosts that take the kernel path, with a server on each.
fn kernel_path_cluster(prepare: impl Fn(&Topology)) -> Topology {
    let t = Topology::new(2).unwrap();
    for host in t.hosts() {
        host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
    }
    prepare(&t);
    t.start_cluster().unwrap();
    t
}

fn everybody_reaches_everybody(t: &Topology) {
    let server = |host: &Host| tcp_server(host, &[], 7000, host.name()).unwrap();
    let servers: Vec<_> = t.hosts().iter().map(server).collect();
    for (to, host) in servers.iter().zip(t.hosts()) {
        let to = format!("{}:7000", to.address().unwrap());
        for from in &servers {
            assert_eq!(who_answers(from.place(), &to).unwrap(), host.name());
        }
    }
}

/// A server on the fabric, outside of the network: it has no route to containers.
fn outside(t: &Topology) -> weft_tests::Daemon {
    let words = [probe().unwrap(), "serve-tcp".to_owned(), format!("{FABRIC}:7070"), "--say".to_owned(), "outside".to_owned()];
    let server = t.fabric().spawn(t.dir(), "outside", words).unwrap();
    eventually("the outside serves", SOON, || who_answers(t.fabric(), &format!("{FABRIC}:7070")).map(drop)).unwrap();
    server
}

fn cleanup(host: &Host) {
    host.agent.stop().unwrap();
    let mut words = host.agent.command_line().unwrap();
    words.push("cleanup".into());
    host.exec(words).unwrap().success().unwrap();
}

#[test]
fn a_container_reaches_the_outside_by_its_hosts_address_unless_told_otherwise() {
    let t = Topology::new(2).unwrap();
    t.host(2).agent.set_flag("masquerade", "off");
    t.start_cluster().unwrap();
    let _outside = outside(&t);
    let to = format!("{FABRIC}:7070");
    let (inside, plain) = (idle(t.host(1), &[]).unwrap(), idle(t.host(2), &[]).unwrap());
    assert_eq!(who_answers(inside.place(), &to).unwrap(), "outside");
    assert!(who_answers(plain.place(), &to).is_err(), "there is no way back to its own address");
    // Another host's own address is outside as well.
    let other = t.host(2).address();
    let _server =
        t.host(2).spawn("on-the-host", [probe().unwrap().as_str(), "serve-tcp", "0.0.0.0:7071", "--say", "h2"]).unwrap();
    eventually("a container reaches another host", SOON, || who_answers(inside.place(), &format!("{other}:7071")).map(drop))
        .unwrap();
}

#[test]
fn a_connection_to_the_outside_stands_while_the_agent_is_killed_and_started() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let _outside = outside(&t);
    let client = idle(host, &[]).unwrap();
    let long = stream(&client, "long", &format!("{FABRIC}:7070")).unwrap();
    for _ in 0..3 {
        host.agent.kill9().unwrap();
        host.agent.start().unwrap();
        host.agent.wait_ready().unwrap();
    }
    assert_eq!(who_answers(client.place(), &format!("{FABRIC}:7070")).unwrap(), "outside");
    let said = report(&long).unwrap();
    assert_eq!(said["error"], serde_json::Value::Null, "{said}");
    assert!(said["echoed"].as_u64().unwrap() > 10, "{said}");
}

#[test]
fn an_excluded_destination_sees_the_containers_own_address() {
    let t = Topology::new(1).unwrap();
    t.host(1).agent.set_flag("masquerade-exclude", &format!("192.0.2.0/24,{FABRIC}/32"));
    t.start_cluster().unwrap();
    let _outside = outside(&t);
    let container = idle(t.host(1), &[]).unwrap();
    let to = format!("{FABRIC}:7070");
    assert!(who_answers(container.place(), &to).is_err());
    let subnet = t.host(1).agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    let via = t.host(1).address().to_string();
    t.fabric().exec(["ip", "route", "add", &subnet, "via", &via]).unwrap().success().unwrap();
    assert_eq!(who_answers(container.place(), &to).unwrap(), "outside");
}

#[test]
fn without_ebpf_a_container_sends_from_its_own_address_only() {
    let t = kernel_path_cluster(|_| {});
    let h1 = t.host(1);
    let server = tcp_server(t.host(2), &[], 7000, "h2").unwrap();
    let client = idle(h1, &[]).unwrap();
    let to = server.address().unwrap().to_string();
    client.exec(["ping", "-n", "-c", "1", "-W", "5", &to]).unwrap().success().unwrap();
    let spoofed = || run(h1, "nft list counter inet weft container_spoofed_source");
    assert!(spoofed().contains("packets 0 "), "{}", spoofed());
    client.exec(["ip", "address", "add", "10.244.250.9/32", "dev", "eth0"]).unwrap().success().unwrap();
    let lost = client.exec(["ping", "-n", "-c", "1", "-W", "1", "-I", "10.244.250.9", &to]).unwrap();
    assert!(!lost.status.success(), "{lost:?}");
    assert!(spoofed().contains("packets 1 "), "{}", spoofed());
}

#[test]
fn the_table_is_back_after_somebody_flushed_all_rules() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let _outside = outside(&t);
    let container = idle(host, &[]).unwrap();
    for line in [
        "nft flush ruleset",
        "nft delete table inet weft",
        "nft flush chain inet weft sources",
        "nft flush set inet weft containers",
    ] {
        let before = run(host, "nft list table inet weft");
        run(host, line);
        eventually(&format!("all is back after {line}"), SOON, || {
            let now = host.exec(["nft", "list", "table", "inet", "weft"])?.success()?.stdout;
            anyhow::ensure!(now == before, "{now}\nwas\n{before}");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(who_answers(container.place(), &format!("{FABRIC}:7070")).unwrap(), "outside");
}

fn past_a_forward_chain_that_drops(iptables: &str, user: bool) {
    let chain = if user { "DOCKER-USER" } else { "FORWARD" };
    let t = kernel_path_cluster(|t| like_docker(t.host(1), iptables, user));
    let h1 = t.host(1);
    let jump = format!("-A {chain} -j WEFT-FORWARD");
    eventually("the jump is there", SOON, || {
        let rules = rules(h1, iptables);
        anyhow::ensure!(rules.lines().filter(|line| *line == jump).count() == 1, "{rules}");
        Ok(())
    })
    .unwrap();
    everybody_reaches_everybody(&t);
    let _outside = outside(&t);
    let container = idle(h1, &[]).unwrap();
    assert_eq!(who_answers(container.place(), &format!("{FABRIC}:7070")).unwrap(), "outside");

    // Somebody takes it away, and the whole chain with it.
    for line in [format!("{iptables} -w -D {chain} -j WEFT-FORWARD"), format!("{iptables} -w -F WEFT-FORWARD")] {
        run(h1, &line);
    }
    eventually("the jump is back", SOON, || {
        let rules = rules(h1, iptables);
        anyhow::ensure!(rules.lines().filter(|line| line.contains("-j WEFT-FORWARD")).count() == 1, "{rules}");
        anyhow::ensure!(rules.lines().filter(|line| line.starts_with("-A WEFT-FORWARD")).count() == 3, "{rules}");
        Ok(())
    })
    .unwrap();
    everybody_reaches_everybody(&t);

    container.stop().unwrap();
    cleanup(h1);
    let left = rules(h1, iptables);
    assert!(!left.contains("WEFT") && left.contains("-P FORWARD DROP") && left.contains("docker0"), "{left}");
    let tables = run(h1, "nft list tables");
    assert!(!tables.contains("weft"), "{tables}");
}

#[test]
fn packets_pass_a_forward_chain_that_drops() {
    past_a_forward_chain_that_drops("iptables-nft", false);
}

#[test]
fn packets_pass_dockers_forward_chain_by_the_chain_it_leaves_to_others() {
    past_a_forward_chain_that_drops("iptables-nft", true);
}

#[test]
fn packets_pass_a_forward_chain_of_the_older_iptables() {
    past_a_forward_chain_that_drops("iptables-legacy", false);
}

#[test]
fn packets_pass_dockers_chains_in_the_older_iptables() {
    past_a_forward_chain_that_drops("iptables-legacy", true);
}

#[test]
fn a_policy_that_turns_to_drop_later_is_noticed_in_either_iptables() {
    let t = kernel_path_cluster(|_| {});
    everybody_reaches_everybody(&t);
    like_docker(t.host(1), "iptables-nft", true);
    like_docker(t.host(2), "iptables-legacy", true);
    for (host, iptables) in t.hosts().iter().zip(["iptables-nft", "iptables-legacy"]) {
        eventually("the jump is there", SOON, || {
            let rules = rules(host, iptables);
            anyhow::ensure!(rules.contains("-A DOCKER-USER -j WEFT-FORWARD"), "{rules}");
            Ok(())
        })
        .unwrap();
    }
    everybody_reaches_everybody(&t);
    // Where nothing drops any more nothing of ours is needed.
    run(t.host(1), "iptables-nft -w -P FORWARD ACCEPT");
    eventually("the jump is gone", SOON, || {
        let rules = rules(t.host(1), "iptables-nft");
        anyhow::ensure!(!rules.contains("WEFT"), "{rules}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn with_forward_rules_off_nothing_is_touched_and_status_names_the_chain() {
    let t = Topology::new(1).unwrap();
    let host = t.host(1);
    host.agent.set_flag("forward-rules", "off");
    like_docker(host, "iptables-nft", true);
    let before = rules(host, "iptables-nft");
    t.start_cluster().unwrap();
    let status = host
        .agent
        .wait_status("the chain that drops", |s| s["reasons"].to_string().contains("chain FORWARD (policy DROP)"))
        .unwrap();
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(rules(host, "iptables-nft"), before);
    run(host, "iptables-nft -w -P FORWARD ACCEPT");
    host.agent.wait_status("no chain that drops", |s| !s["reasons"].to_string().contains("FORWARD")).unwrap();
}

#[test]
fn without_nft_status_says_so_and_everything_else_works() {
    let t = Topology::new(2).unwrap();
    // An agent that sees an empty file in the place of every nft.
    let script = "for nft in /usr/sbin/nft /sbin/nft /usr/local/sbin/nft; do [ -e $nft ] && mount --bind /dev/null $nft; done; exec \"$@\"";
    t.host(1).agent.set_wrapper(["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]);
    t.start_cluster().unwrap();
    let status = t.host(1).agent.wait_status("the reason", |s| s["reasons"].to_string().contains("nft")).unwrap();
    assert_eq!((&status["ready"], &status["datapath"]["fast"]), (&true.into(), &true.into()), "{status}");
    // Nothing else checks what a container sends: it is told of when its program is in place, and not before.
    let host = t.host(1);
    for number in 0..3 {
        let place = host.bare_namespace(&format!("n{number}")).unwrap();
        // By a process: the agent does not see what is mounted here after its start.
        let name = format!("sleep{number}");
        let process = place.spawn(host.dir(), &name, ["sleep", "600"]).unwrap();
        let netns = format!("/proc/{}/ns/net", process.pid());
        let body = json!({"netns": netns, "ifname": "eth0"});
        let attached = call(&host.agent.socket(), "POST", "/v1/attachments", &body).unwrap().success().unwrap();
        let linked = host.agent.linked().unwrap();
        assert!(linked.contains(attached["id"].as_str().unwrap()), "{attached}: {linked:?}");
    }
    everybody_reaches_everybody(&t);
}
