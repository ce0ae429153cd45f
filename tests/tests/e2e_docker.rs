//! dockerd 20.10, over its remote network and IPAM drivers: containers of two hosts, through their whole life.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::fs;

use serde_json::json;
use weft_tests::clients::docker::PLUGIN;
use weft_tests::clients::rootfs::{ask, serve};
use weft_tests::clients::{Docker, Home, ask_dns, cluster_at_home, nothing_left, resolves, says};
use weft_tests::dns::server_of;
use weft_tests::eventually::SOON;
use weft_tests::topology::Wire;
use weft_tests::{Host, Topology, eventually};

const IDLE: [&str; 2] = ["/bin/sleep", "100000"];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Two hosts with dockerds, or one; dual stack.
fn hosts(count: usize) -> (Topology, Vec<Home>) {
    let t = Topology::builder(count).wires(&vec![Wire::Dual; count]).dual_stack().build().unwrap();
    for host in t.hosts() {
        host.agent.set_flag("docker-plugin", PLUGIN);
    }
    let homes = cluster_at_home(&t).unwrap();
    (t, homes)
}

/// What a container needs for the names of the cluster: Docker's own resolver asks these.
fn names(host: &Host) -> [String; 4] {
    ["--dns".to_owned(), server_of(&host.agent.status().unwrap()).unwrap(), "--dns-search".into(), "skydns.local".into()]
}

fn ok(docker: &Docker<'_>, words: &[&str]) -> String {
    docker.docker(words).unwrap().success().unwrap().stdout
}

fn run(docker: &Docker<'_>, host: &Host, name: &str, options: &[&str], command: &[String]) {
    let dns = names(host);
    let options: Vec<&str> = dns.iter().map(String::as_str).chain(options.iter().copied()).collect();
    docker.run(name, &options, command).unwrap().success().unwrap();
}

/// A request that is refused, with a word of why.
fn refused(docker: &Docker<'_>, words: &[&str], why: &str) {
    let said = docker.docker(words).unwrap();
    assert!(!said.status.success() && said.stderr.contains(why), "{why}: {said:?}");
}

#[test]
fn containers_of_two_hosts_meet_through_restarts_of_dockerd_and_weftd_and_leave_nothing() {
    let (t, homes) = hosts(2);
    let [h1, h2] = [t.host(1), t.host(2)];
    h1.netctl(["network", "create", "blue", "--cidr", "10.245.0.0/16", "--vni", "2"]).unwrap().success().unwrap();
    let [one, two] = [1, 2].map(|n| Docker::start(t.host(n), &homes[n - 1]).unwrap());

    // The same on each host: one network of Weft's, by its default, by its range, and a further one.
    for docker in [&one, &two] {
        let create = ["network", "create", "--driver", "weft", "--ipam-driver", "weft"];
        let with = |more: &[&str]| ok(docker, &[&create, more].concat());
        with(&["--ipv6", "weft"]);
        with(&["--subnet", "10.244.0.0/16", "fixed"]);
        eventually("the further network is here", SOON, || {
            docker.docker([&create[..], &["--ipam-opt", "network=blue", "blue"]].concat())?.success()
        })
        .unwrap();
        refused(docker, &[&create[..], &["--subnet", "10.9.0.0/16", "other"]].concat(), "10.244.0.0/16");
        refused(docker, &["network", "create", "--driver", "weft", "--subnet", "10.9.0.0/16", "other"], "--ipam-driver");
        refused(docker, &[&create[..], &["--internal", "other"]].concat(), "--internal");
    }

    // By address, both ways, in both families.
    run(&one, h1, "one", &["--network", "name=weft,driver-opt=name=one"], &serve(8080, "first"));
    run(&two, h2, "two", &["--network", "name=weft,driver-opt=service=web:8080"], &serve(8080, "second"));
    let [a, b] = [one.address("one", "weft").unwrap(), two.address("two", "weft").unwrap()];
    let b6 = two.network("two", "weft").unwrap()["GlobalIPv6Address"].as_str().unwrap().to_owned();
    assert!(b6.starts_with("fd00:10:244:"), "{b6}");
    says("by address", "second", || one.exec("one", &ask(&format!("{b}:8080")))).unwrap();
    says("by address", "first", || two.exec("two", &ask(&format!("{a}:8080")))).unwrap();
    let script = format!(r"exec 3<>/dev/tcp/{b6}/8080 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && busybox tail -n 1 <&3");
    says("over IPv6", "second", || one.exec("one", &words(&["/bin/busybox", "timeout", "5", "/bin/bash", "-c", &script])))
        .unwrap();
    let mtu = one.exec("one", &words(&["cat", "/sys/class/net/eth0/mtu"])).unwrap().success().unwrap().stdout;
    assert!(matches!(mtu.trim(), "1430" | "1450"), "what an overlay leaves of 1500: {mtu}");

    // By name and by virtual IP, also from its own host.
    says("by name", "second", || one.exec("one", &ask("web.skydns.local:8080"))).unwrap();
    says("by name", "first", || two.exec("two", &ask("one.skydns.local:8080"))).unwrap();
    let created = h1.netctl(["service", "create", "web", "--port", "80:8080", "-o", "json"]).unwrap().json().unwrap();
    let vip = created["vip"].as_str().unwrap().to_owned();
    resolves(h1, "web.skydns.local", &[&vip]).unwrap();
    run(&two, h2, "near", &["--network", "weft"], &words(&IDLE));
    for to in [&vip, "web.skydns.local"] {
        says(to, "second", || one.exec("one", &ask(to))).unwrap();
        says(to, "second", || two.exec("near", &ask(to))).unwrap();
    }

    // An address and an Ethernet address of one's own; nobody else gets it, whoever asks.
    let fixed = format!("{}.77", a.rsplit_once('.').unwrap().0);
    run(&one, h1, "fixed", &["--network", "fixed", "--ip", &fixed, "--mac-address", "02:11:22:33:44:55"], &serve(8080, "fixed"));
    let seen = one.network("fixed", "fixed").unwrap();
    assert_eq!((&seen["IPAddress"], &seen["MacAddress"]), (&json!(fixed), &json!("02:11:22:33:44:55")), "{seen}");
    says("the fixed address", "fixed", || two.exec("two", &ask(&format!("{fixed}:8080")))).unwrap();
    let again = one.run("again", &["--network", "fixed", "--ip", &fixed], &words(&IDLE)).unwrap();
    assert!(!again.status.success() && again.stderr.contains("is in use on this host"), "{again:?}");
    // dockerd 20.10 remembers the connection all the same, and would ask for it again at the container's next start.
    refused(&two, &["network", "connect", "fixed", "near"], "attached to this network already");
    ok(&one, &["rm", "--force", "again"]);

    // A further network comes and goes while they run.
    ok(&one, &["network", "connect", "blue", "one"]);
    run(&two, h2, "four", &["--network", "blue"], &words(&IDLE));
    let blue = one.address("one", "blue").unwrap();
    assert!(blue.starts_with("10.245."), "{blue}");
    says("by the further network", "first", || two.exec("four", &ask(&format!("{blue}:8080")))).unwrap();
    says("and still by the first", "first", || two.exec("two", &ask(&format!("{a}:8080")))).unwrap();
    ok(&one, &["network", "disconnect", "blue", "one"]);
    let links = one.exec("one", &words(&["ip", "-o", "link"])).unwrap().success().unwrap().stdout;
    assert_eq!(links.lines().count(), 2, "lo and eth0: {links}");

    // The agent is killed, and restarted plainly: nothing is lost, and dockerd need not be told.
    h1.agent.kill9().unwrap();
    says("without an agent here", "first", || two.exec("two", &ask(&format!("{a}:8080")))).unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    h1.agent.stop().unwrap();
    assert!(!homes[0].outside(PLUGIN).exists(), "the socket goes with the agent");
    h1.agent.start().unwrap();
    h1.agent.wait_ready().unwrap();
    run(&one, h1, "later", &["--network", "weft"], &words(&IDLE));
    says("by virtual IP", "second", || one.exec("later", &ask(&vip))).unwrap();
    says("what was there before", "second", || one.exec("one", &ask(&vip))).unwrap();

    // dockerd is killed: its containers go on without it, and it gives back what they had when it is there again.
    one.kill9().unwrap();
    says("without dockerd", "first", || two.exec("two", &ask(&format!("{a}:8080")))).unwrap();
    one.start_again().unwrap();
    nothing_left(h1, &homes[0], t.etcd()).unwrap();
    ok(&one, &["start", "one"]);
    let a = one.address("one", "weft").unwrap();
    resolves(h2, "one.skydns.local", &[&a]).unwrap();
    says("by name", "first", || two.exec("two", &ask("one.skydns.local:8080"))).unwrap();

    // Stopped is detached; removed is gone.
    ok(&two, &["stop", "--time", "0", "two"]);
    eventually("no name of a stopped container", SOON, || {
        let answer = ask_dns(h1, "tasks.web.skydns.local")?;
        anyhow::ensure!(answer.data("A").is_empty(), "{answer:?}");
        Ok(())
    })
    .unwrap();
    for (docker, all) in [(&one, &["one", "fixed", "later"][..]), (&two, &["two", "near", "four"])] {
        ok(docker, &[&["rm", "--force"], all].concat());
        // Given back is free: also an address that somebody had.
        let had = if all.contains(&"one") { &a } else { &b };
        docker.run("last", &["--network", "fixed", "--ip", had], &words(&IDLE)).unwrap().success().unwrap();
        ok(docker, &["rm", "--force", "last"]);
        ok(docker, &["network", "rm", "weft", "fixed", "blue"]);
    }
    for (host, home) in t.hosts().iter().zip(&homes) {
        nothing_left(host, home, t.etcd()).unwrap();
    }
    drop((one, two));
    t.down().unwrap();
}

#[test]
fn what_docker_has_forgotten_is_swept_and_a_network_outlives_the_agents_state() {
    let (t, homes) = hosts(1);
    let (host, home) = (t.host(1), &homes[0]);
    let docker = Docker::start(host, home).unwrap();
    ok(&docker, &["network", "create", "--driver", "weft", "--ipam-driver", "weft", "weft"]);
    run(&docker, host, "lost", &["--network", "name=weft,driver-opt=name=lost"], &words(&IDLE));
    resolves(host, "lost.skydns.local", &[&docker.address("lost", "weft").unwrap()]).unwrap();

    // dockerd, the container and its namespace are gone, and nobody tells.
    docker.lose("lost").unwrap();
    nothing_left(host, home, t.etcd()).unwrap();

    // An agent that knows nothing of a network that dockerd remembers.
    host.agent.stop().unwrap();
    for dir in [host.agent.state_dir(), host.agent.run_dir()] {
        for file in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("attachments")) {
                fs::remove_file(file).unwrap();
            }
        }
    }
    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
    docker.start_again().unwrap();
    ok(&docker, &["start", "lost"]);
    resolves(host, "lost.skydns.local", &[&docker.address("lost", "weft").unwrap()]).unwrap();
    ok(&docker, &["rm", "--force", "lost"]);
    ok(&docker, &["network", "rm", "weft"]);
    nothing_left(host, home, t.etcd()).unwrap();
    drop(docker);
    t.down().unwrap();
}

#[test]
fn a_published_port_leads_to_its_container_through_restarts_and_goes_with_it() {
    let (t, homes) = hosts(2);
    let [h1, h2] = [t.host(1), t.host(2)];
    let [one, two] = [1, 2].map(|n| Docker::start(t.host(n), &homes[n - 1]).unwrap());
    for docker in [&one, &two] {
        ok(docker, &["network", "create", "--driver", "weft", "--ipam-driver", "weft", "weft"]);
    }
    run(&one, h1, "asker", &["--network", "weft"], &words(&IDLE));
    let published = ["--network", "weft", "--publish", "18080:8080", "--publish", "18081:8080/tcp"];
    run(&two, h2, "server", &published, &serve(8080, "published"));
    let at = |port: u16| format!("{}:{port}", h2.address());
    let from_container = |port: u16| one.exec("asker", &ask(&at(port)));
    let from_host = |port: u16| h1.exec(ask(&at(port)));
    says("from another host's container", "published", || from_container(18080)).unwrap();
    says("from another host", "published", || from_host(18081)).unwrap();

    // The port is taken, by one of this host's.
    let again = two.run("again", &["--network", "weft", "--publish", "18080:8080"], &words(&IDLE)).unwrap();
    assert!(!again.status.success() && again.stderr.contains("18080"), "{again:?}");
    ok(&two, &["rm", "--force", "again"]);

    // The container is restarted, its agent and its dockerd are killed: the port leads to where it is now.
    ok(&two, &["restart", "--time", "0", "server"]);
    says("after a restart", "published", || from_container(18080)).unwrap();
    h2.agent.kill9().unwrap();
    says("without an agent there", "published", || from_container(18080)).unwrap();
    h2.agent.start().unwrap();
    h2.agent.wait_ready().unwrap();
    two.kill9().unwrap();
    two.start_again().unwrap();
    ok(&two, &["start", "server"]);
    says("after dockerd's death", "published", || from_host(18080)).unwrap();

    // Stopped, nobody answers there, and another one may have it.
    ok(&two, &["stop", "--time", "0", "server"]);
    eventually("nobody answers at the port", SOON, || {
        anyhow::ensure!(!from_host(18080)?.status.success(), "somebody does");
        Ok(())
    })
    .unwrap();
    run(&two, h2, "heir", &["--network", "weft", "--publish", "18080:8081"], &serve(8081, "heir"));
    says("the next one", "heir", || from_container(18080)).unwrap();
    ok(&two, &["rm", "--force", "server", "heir"]);
    ok(&one, &["rm", "--force", "asker"]);
    for (docker, (host, home)) in [&one, &two].into_iter().zip(t.hosts().iter().zip(&homes)) {
        ok(docker, &["network", "rm", "weft"]);
        nothing_left(host, home, t.etcd()).unwrap();
    }
    drop((one, two));
    t.down().unwrap();
}
