//! containerd 1.6 and `ctr run --cni`: containers of two hosts, through their whole life.

use weft_tests::Topology;
use weft_tests::clients::rootfs::{ask, serve};
use weft_tests::clients::{Ctr, cluster_at_home, install_cni, nothing_left, resolves, says};
use weft_tests::dns::server_of;

#[test]
fn containers_of_two_hosts_meet_by_address_name_and_virtual_ip_and_leave_nothing() {
    let t = Topology::new(2).unwrap();
    let homes = cluster_at_home(&t).unwrap();
    let [h1, h2] = [t.host(1), t.host(2)];
    // ctr says no name, so the name is a service's, which the network's configuration says.
    install_cni(h1, &homes[0], &[("weft", &["--service", "one:8080"])]).unwrap();
    install_cni(h2, &homes[1], &[("weft", &["--service", "two:8080"])]).unwrap();
    let [one, two] = [1, 2].map(|n| Ctr::start(t.host(n), &homes[n - 1]).unwrap());
    let [dns1, dns2] = [h1, h2].map(|host| server_of(&host.agent.status().unwrap()).unwrap());

    // ctr's ids differ in their ends only: `default-container-1`, `default-container-2`.
    let first = one.run("container-1", &dns1, &serve(8080, "first")).unwrap();
    let second = two.run("container-2", &dns2, &serve(8080, "second")).unwrap();
    let beside = two.run("container-3", &dns2, &serve(8080, "second")).unwrap();
    let [a, b, c] = [(&one, "container-1"), (&two, "container-2"), (&two, "container-3")].map(|(c, id)| c.address(id).unwrap());
    assert_ne!(b, c);
    says("by address", "second", || one.exec("container-1", &ask(&format!("{b}:8080")))).unwrap();
    says("by address", "first", || two.exec("container-2", &ask(&format!("{a}:8080")))).unwrap();
    says("by name", "second", || one.exec("container-1", &ask("two.skydns.local:8080"))).unwrap();
    says("by name", "first", || two.exec("container-2", &ask("one:8080"))).unwrap();

    let created = h1.netctl(["service", "create", "two", "--port", "80:8080", "-o", "json"]).unwrap().json().unwrap();
    let vip = created["vip"].as_str().unwrap();
    resolves(h1, "two.skydns.local", &[vip]).unwrap();
    for to in [vip, "two"] {
        says(to, "second", || one.exec("container-1", &ask(to))).unwrap();
        says(to, "second", || two.exec("container-3", &ask(to))).unwrap();
    }

    // Ended and begun again under its old id.
    one.kill("container-1", &first).unwrap();
    nothing_left(h1, &homes[0], t.etcd()).unwrap();
    let first = one.run("container-1", &dns1, &serve(8080, "third")).unwrap();
    resolves(h2, "one.skydns.local", &[&one.address("container-1").unwrap()]).unwrap();
    says("by name", "third", || two.exec("container-2", &ask("one:8080"))).unwrap();

    // A ctr that is killed takes nothing back; the end of the container's namespace does.
    first.kill9().unwrap();
    one.ctr(["task", "rm", "--force", "container-1"]).unwrap().success().unwrap();
    nothing_left(h1, &homes[0], t.etcd()).unwrap();
    two.kill("container-2", &second).unwrap();
    two.kill("container-3", &beside).unwrap();
    nothing_left(h2, &homes[1], t.etcd()).unwrap();
    drop((one, two));
    t.down().unwrap();
}
