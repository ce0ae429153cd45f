//! podman 4.3.1 with runc, over CNI: containers of two hosts, through their whole life.

use serde_json::json;
use weft_tests::clients::rootfs::{ask, serve};
use weft_tests::clients::{Podman, ask_dns, cluster_at_home, install_cni, nothing_left, resolves, says};
use weft_tests::eventually::SOON;
use weft_tests::{Topology, eventually};

const LIST: &str = "/etc/cni/net.d/10-weft.conflist";

const IDLE: [&str; 2] = ["/bin/sleep", "100000"];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn containers_of_two_hosts_meet_by_address_name_and_virtual_ip_through_restarts_and_leave_nothing() {
    let t = Topology::new(2).unwrap();
    let homes = cluster_at_home(&t).unwrap();
    let [h1, h2] = [t.host(1), t.host(2)];
    h1.netctl(["network", "create", "blue", "--cidr", "10.245.0.0/16", "--vni", "2"]).unwrap().success().unwrap();
    let lists: [(&str, &[&str]); 3] = [("weft", &[]), ("web", &["--service", "web:8080"]), ("blue", &["--network", "blue"])];
    for (host, home) in t.hosts().iter().zip(&homes) {
        install_cni(host, home, &lists).unwrap();
    }
    let [one, two] = [1, 2].map(|n| Podman::new(t.host(n), &homes[n - 1]).unwrap());

    // By address, both ways.
    one.run("one", "weft", &["--network-alias", "uno"], &serve(8080, "first")).unwrap().success().unwrap();
    two.run("two", "web", &[], &serve(8080, "second")).unwrap().success().unwrap();
    let [a, b] = [one.address("one", "weft").unwrap(), two.address("two", "web").unwrap()];
    says("by address", "second", || one.exec("one", &ask(&format!("{b}:8080")))).unwrap();
    says("by address", "first", || two.exec("two", &ask(&format!("{a}:8080")))).unwrap();

    // By name: podman's, an alias, and the service's.
    for name in ["two", "two.skydns.local"] {
        says(name, "second", || one.exec("one", &ask(&format!("{name}:8080")))).unwrap();
    }
    for name in ["one", "uno", "uno.skydns.local"] {
        says(name, "first", || two.exec("two", &ask(&format!("{name}:8080")))).unwrap();
    }

    // By virtual IP, from the other host and from its own.
    let created = h1.netctl(["service", "create", "web", "--port", "80:8080", "-o", "json"]).unwrap().json().unwrap();
    let vip = created["vip"].as_str().unwrap().to_owned();
    resolves(h1, "web.skydns.local", &[&vip]).unwrap();
    for to in [&vip, "web"] {
        says(to, "second", || one.exec("one", &ask(to))).unwrap();
    }
    two.run("near", "weft", &[], &words(&IDLE)).unwrap().success().unwrap();
    says("from its own host", "second", || two.exec("near", &ask("web"))).unwrap();

    // An address and an Ethernet address of one's own.
    let fixed = format!("{}.77", a.rsplit_once('.').unwrap().0);
    let options = ["--ip", &fixed, "--mac-address", "02:11:22:33:44:55", "-p", "18080:8080", "-p", "127.0.0.1:18081:8080"];
    one.run("fixed", "weft", &options, &serve(8080, "fixed")).unwrap().success().unwrap();
    let seen = one.network("fixed", "weft").unwrap();
    assert_eq!((&seen["IPAddress"], &seen["MacAddress"]), (&json!(fixed), &json!("02:11:22:33:44:55")), "{seen}");
    resolves(h2, "fixed.skydns.local", &[&fixed]).unwrap();
    says("the fixed address", "fixed", || two.exec("two", &ask(&format!("{fixed}:8080")))).unwrap();
    let again = one.run("again", "weft", &["--ip", &fixed], &words(&IDLE)).unwrap();
    assert!(!again.status.success() && again.stderr.contains(&fixed), "an address that is taken: {again:?}");
    one.podman(["rm", "--force", "again"]).unwrap().success().unwrap();

    // Ports of the host, from the other host and from the host itself.
    let publishes = |from: usize, to: String| {
        says(&to, "fixed", || homes[from].exec(["curl", "-sS", "--max-time", "5", &format!("http://{to}/")])).unwrap();
    };
    publishes(1, format!("{}:18080", h1.address()));
    for to in [format!("{}:18080", h1.address()), "127.0.0.1:18080".to_owned(), "127.0.0.1:18081".to_owned()] {
        publishes(0, to);
    }
    for _ in 0..2 {
        one.podman(["restart", "--time", "0", "fixed"]).unwrap().success().unwrap();
        publishes(1, format!("{}:18080", h1.address()));
    }

    // A further network comes and goes while they run.
    one.podman(["network", "connect", "blue", "one"]).unwrap().success().unwrap();
    two.run("far", "blue", &[], &words(&IDLE)).unwrap().success().unwrap();
    let blue = one.address("one", "blue").unwrap();
    assert!(blue.starts_with("10.245."), "{blue}");
    says("by the further network", "first", || two.exec("far", &ask(&format!("{blue}:8080")))).unwrap();
    says("and still by the first", "first", || two.exec("two", &ask(&format!("{a}:8080")))).unwrap();
    one.podman(["network", "disconnect", "blue", "one"]).unwrap().success().unwrap();
    let links = one.exec("one", &words(&["ip", "-o", "link"])).unwrap().success().unwrap().stdout;
    assert_eq!(links.lines().count(), 2, "lo and eth0: {links}");
    says("the first network is untouched", "first", || two.exec("two", &ask("one:8080"))).unwrap();

    // A further network is apart from the default one.
    two.run("four", "blue", &[], &words(&IDLE)).unwrap().success().unwrap();
    one.run("five", "blue", &[], &serve(8080, "fifth")).unwrap().success().unwrap();
    let blue = one.address("five", "blue").unwrap();
    assert!(blue.starts_with("10.245."), "{blue}");
    says("within the further network", "fifth", || two.exec("four", &ask("five:8080"))).unwrap();
    let across = two.exec("four", &ask(&format!("{a}:8080"))).unwrap();
    assert!(!across.status.success(), "the default network is reached: {across:?}");

    // Restarted: the same names, and DNS knows the address that there is now.
    for _ in 0..2 {
        two.podman(["restart", "--time", "0", "two"]).unwrap().success().unwrap();
        let now = two.address("two", "web").unwrap();
        for host in t.hosts() {
            resolves(host, "two.skydns.local", &[&now]).unwrap();
        }
        says("by name", "second", || one.exec("one", &ask("two:8080"))).unwrap();
        says("by virtual IP", "second", || one.exec("one", &ask("web"))).unwrap();
    }

    // Stopped is detached; removed is gone.
    one.podman(["stop", "--time", "0", "one"]).unwrap().success().unwrap();
    eventually("no name of a stopped container", SOON, || {
        let answer = ask_dns(h2, "uno.skydns.local")?;
        anyhow::ensure!(answer.rcode == "NXDOMAIN", "{answer:?}");
        Ok(())
    })
    .unwrap();
    for (podman, home, host) in [(&one, &homes[0], h1), (&two, &homes[1], h2)] {
        podman.podman(["rm", "--all", "--force", "--time", "0"]).unwrap().success().unwrap();
        nothing_left(host, home, t.etcd()).unwrap();
    }
    t.down().unwrap();
}

#[test]
fn without_an_agent_a_run_says_so_and_a_removal_is_made_up_for() {
    let t = Topology::new(1).unwrap();
    let homes = cluster_at_home(&t).unwrap();
    let (host, home) = (t.host(1), &homes[0]);
    install_cni(host, home, &[("weft", &[])]).unwrap();
    // Not for half a minute.
    let list = home.exec(["cat", LIST]).unwrap().success().unwrap().stdout;
    home.write(LIST, &list.replace(r#""type": "weft""#, r#""type": "weft", "timeout": 1"#)).unwrap();
    let podman = Podman::new(host, home).unwrap();
    podman.run("one", "weft", &[], &words(&IDLE)).unwrap().success().unwrap();
    resolves(host, "one.skydns.local", &[&podman.address("one", "weft").unwrap()]).unwrap();

    host.agent.kill9().unwrap();
    let refused = podman.run("two", "weft", &[], &words(&IDLE)).unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    for word in ["weft.sock", "is weftd running"] {
        assert!(refused.stderr.contains(word), "no word of {word}: {refused:?}");
    }
    podman.podman(["rm", "--all", "--force", "--time", "0"]).unwrap().success().unwrap();
    let left = podman.podman(["ps", "--all", "--quiet"]).unwrap().success().unwrap().stdout;
    assert_eq!(left, "", "podman has removed both");

    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
    nothing_left(host, home, t.etcd()).unwrap();
    podman.run("one", "weft", &[], &words(&IDLE)).unwrap().success().unwrap();
    podman.podman(["rm", "--force", "--time", "0", "one"]).unwrap().success().unwrap();
    nothing_left(host, home, t.etcd()).unwrap();
    t.down().unwrap();
}
