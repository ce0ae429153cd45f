//! Who is a backend, who is not, and why.

use weft_model::ids::{LeaseId, Revision};
use weft_model::keys::Layout;
use weft_model::stored::{Change, Entry};

use super::*;

fn snapshot(entries: &[(&str, &str)]) -> Snapshot {
    let entry = |(key, value): &(&str, &str)| Entry {
        key: (*key).into(),
        value: (*value).into(),
        lease: None,
        created: Revision(1),
        modified: Revision(1),
    };
    let cluster = [
        ("/coreos.com/network/subnets/10.244.3.0-24&fd00:3::-64", LEASE),
        ("/coreos.com/network/subnets/10.244.9.0-24", r#"{"PublicIP":"192.0.2.9"}"#),
        ("/weft/v1/nodes/h1", r#"{"node":"h1","public_ip":"192.0.2.1","public_ipv6":"2001:db8::1"}"#),
    ];
    let snapshot =
        Snapshot::complete(Layout::default().into(), Revision(1), cluster.iter().chain(entries).map(entry).collect(), None);
    assert_eq!(snapshot.bad().collect::<Vec<_>>(), [], "the test's values are right");
    snapshot
}

const LEASE: &str = r#"{"PublicIP":"192.0.2.3","PublicIPv6":"2001:db8::3","BackendType":"vxlan",
    "BackendData":{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"},"weft":{"node":"h3"}}"#;

const MYAPP: &str = "/weft/v1/services/default/myapp";

fn part(id: &str, host: &str, rest: &str) -> (String, String) {
    let key = format!("/skydns/local/skydns/myapp/{id}/4");
    (key, format!(r#"{{"host":"{host}","port":8080,"weft":{{"id":"{id}","node":"h1"{rest}}}}}"#))
}

fn myapp(service: &str, parts: &[(String, String)]) -> Resolved {
    let mut entries = vec![(MYAPP, service)];
    entries.extend(parts.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    of(&snapshot(&entries), "myapp")
}

/// Resolves all services, and checks that one by itself comes out the same.
fn of(snapshot: &Snapshot, name: &str) -> Resolved {
    let context = Context::of(snapshot);
    let all = resolve(snapshot, &context);
    for (name, service) in snapshot.services() {
        assert_eq!(all[name], backends(snapshot, name, &service.value, &context), "{name}");
        assert_eq!(all[name], resolve_some(snapshot, &context, &[(name, service)])[name], "{name}");
    }
    all[&name.parse().unwrap()].clone()
}

fn in_use(resolved: &Resolved) -> Vec<String> {
    let address = |b: &Backend| format!("{} {}:{}", b.id(), b.address, b.port);
    resolved.frontends.iter().flat_map(|f| f.in_use().map(address)).collect()
}

const SERVICE: &str = r#"{"ports":[{"port":80}],"vips":["10.112.0.7"]}"#;

#[test]
fn the_port_is_the_target_else_the_records_own_else_the_services() {
    let parts = [part("a", "10.244.3.2", ""), part("m", "10.244.3.4", r#","port_name":"web""#)];
    let foreign = ("/skydns/local/skydns/myapp/f".to_owned(), r#"{"host":"10.244.3.3"}"#.to_owned());
    let parts = [parts[0].clone(), foreign, parts[1].clone()];
    let ports = |service: &str| in_use(&myapp(service, &parts));
    assert_eq!(ports(SERVICE), ["a 10.244.3.2:8080", "f 10.244.3.3:80", "m 10.244.3.4:8080"]);
    let by_number = r#"{"ports":[{"port":80,"target":9000}]}"#;
    assert_eq!(ports(by_number), ["a 10.244.3.2:9000", "f 10.244.3.3:9000", "m 10.244.3.4:9000"]);
    assert_eq!(ports(r#"{"ports":[{"port":80,"target":"web"}]}"#), ["m 10.244.3.4:8080"]);
    let other_protocol = r#"{"ports":[{"port":53,"proto":"udp"}]}"#;
    assert_eq!(ports(other_protocol), ["a 10.244.3.2:53", "f 10.244.3.3:53", "m 10.244.3.4:53"]);
    let zero_is_none = r#"{"ports":[{"port":80,"target":0}]}"#;
    assert_eq!(ports(zero_is_none), ports(SERVICE));
}

#[test]
fn of_several_ports_of_an_endpoint_the_one_with_the_services_port_name_counts() {
    let mut parts = vec![part("a", "10.244.3.2", "")];
    let metrics = r#"{"host":"10.244.3.2","port":9100,"weft":{"id":"a","port_name":"metrics"}}"#;
    parts.push(("/skydns/local/skydns/myapp/a/4-metrics".into(), metrics.into()));
    let service = r#"{"ports":[{"name":"http","port":80},{"name":"metrics","port":81}]}"#;
    assert_eq!(in_use(&myapp(service, &parts)), ["a 10.244.3.2:8080", "a 10.244.3.2:9100"]);
}

#[test]
fn an_endpoint_without_the_named_port_is_shown_once_with_the_reason() {
    let service = r#"{"ports":[{"name":"a","port":80,"target":"web"},{"name":"b","port":81,"target":"web"}]}"#;
    let resolved = myapp(service, &[part("a", "10.244.3.2", "")]);
    assert_eq!(in_use(&resolved), Vec::<String>::new());
    assert_eq!(texts(&resolved), ["rejected: it has no tcp port named web"]);
    assert!(!resolved.members[0].in_use);
}

#[test]
fn one_address_and_port_is_one_backend_and_the_best_state_speaks() {
    let parts = [
        part("a", "10.244.3.2", r#","state":"down""#),
        part("b", "10.244.3.2", ""),
        part("c", "10.244.3.2", r#","state":"draining""#),
        part("d", "::ffff:10.244.3.2", ""),
    ];
    let resolved = myapp(SERVICE, &parts);
    assert_eq!(in_use(&resolved), ["b 10.244.3.2:8080"]);
    assert_eq!(resolved.frontends[0].backends.len(), 1);
    let members: Vec<_> = resolved.members.iter().map(|m| (m.endpoint.id.as_str(), m.in_use)).collect();
    assert_eq!(members, [("a", false), ("b", true), ("c", false), ("d", true)]);
    // The two that are not asked in any case lose nothing.
    assert_eq!(texts(&resolved), ["rejected: 10.244.3.2:8080 is the endpoint b's as well, and one backend for both"]);
    assert_eq!(
        (resolved.rejected[0].endpoint.id.as_str(), resolved.rejected[0].address),
        ("d", Some("10.244.3.2".parse().unwrap()))
    );
}

#[test]
fn who_shares_an_address_and_port_is_told_with_whom_once_and_only_while_both_are_asked() {
    let two_ports = r#"{"ports":[{"name":"a","port":80},{"name":"b","port":81}],"selector":{"tier":"front"}}"#;
    let named = |name: &str, host: &str, rest: &str| {
        let key = format!("/skydns/local/skydns/{name}/x/4");
        (key, format!(r#"{{"host":"{host}","port":8080,"weft":{{"id":"x","labels":{{"tier":"front"}}{rest}}}}}"#))
    };
    let one = "rejected: 10.244.3.2:8080 is the endpoint local/skydns/blue/x's as well, and one backend for both";
    let blue = named("blue", "10.244.3.2", "");
    let green = |host: &str, rest: &str| texts(&myapp(two_ports, &[blue.clone(), named("green", host, rest)]));
    assert_eq!(green("10.244.3.2", ""), [one]);
    assert_eq!(green("10.244.3.3", ""), Vec::<String>::new());
    assert_eq!(green("10.244.3.2", r#","state":"draining""#), Vec::<String>::new());
    // In the order of paths, whatever is wrong.
    let all = [blue, named("amber", "127.0.0.1", ""), named("green", "10.244.3.2", ""), named("red", "127.0.0.1", "")];
    let resolved = myapp(two_ports, &all);
    let paths: Vec<String> = resolved.rejected.iter().map(|r| r.endpoint.path.to_string()).collect();
    assert_eq!(paths, ["local/skydns/amber/x", "local/skydns/green/x", "local/skydns/red/x"]);
}

#[test]
fn draining_ones_are_asked_when_none_is_up_and_starting_and_down_ones_never() {
    let all = [
        part("u", "10.244.3.2", ""),
        part("r", "10.244.3.3", r#","state":"draining""#),
        part("s", "10.244.3.4", r#","state":"starting""#),
        part("x", "10.244.3.5", r#","state":"down""#),
    ];
    assert_eq!(in_use(&myapp(SERVICE, &all)), ["u 10.244.3.2:8080"]);
    assert_eq!(in_use(&myapp(SERVICE, &all[1..])), ["r 10.244.3.3:8080"]);
    assert_eq!(in_use(&myapp(SERVICE, &all[2..])), Vec::<String>::new());
    assert_eq!(myapp(SERVICE, &all).frontends[0].backends.len(), 4, "all are shown");
}

#[test]
fn lost_ones_are_asked_last_and_only_while_there_is_nothing_else() {
    let (key, value) = part("a", "10.244.1.2", "");
    let (other_key, other) = part("z", "10.244.3.9", r#","state":"draining""#);
    let mut s = snapshot(&[(MYAPP, SERVICE), (&key, &value), (&other_key, &other.replace("h1", "h2"))]);
    let gone = |key: &str| Change::Delete { key: key.into(), revision: Revision(9) };
    s.apply(Revision(9), vec![gone("/weft/v1/nodes/h1"), gone(&key)]);
    assert_eq!(in_use(&of(&s, "myapp")), ["z 10.244.3.9:8080"]);
    s.apply(Revision(10), vec![Change::Delete { key: other_key.into(), revision: Revision(10) }]);
    let resolved = of(&s, "myapp");
    assert_eq!(in_use(&resolved), ["a 10.244.1.2:8080"]);
    assert_eq!(resolved.frontends[0].backends[0].state(), EndpointState::Lost);
}

#[test]
fn a_lost_one_is_no_backend_once_its_address_may_be_another_hosts_container() {
    let (key, value) = part("a", "10.244.1.2", "");
    let mut s = snapshot(&[(MYAPP, SERVICE), (&key, &value)]);
    let gone = |key: &str| Change::Delete { key: key.into(), revision: Revision(9) };
    s.apply(Revision(9), vec![gone("/weft/v1/nodes/h1"), gone(&key)]);
    let lease = |node: &str, revision: i64| {
        Change::Put(Entry {
            key: b"/coreos.com/network/subnets/10.244.1.0-24".into(),
            value: LEASE.replace("h3", node).into(),
            lease: None,
            created: Revision(revision),
            modified: Revision(revision),
        })
    };
    let mut own = s.clone();
    own.apply(Revision(10), vec![lease("h1", 10)]);
    assert_eq!(in_use(&of(&own, "myapp")), ["a 10.244.1.2:8080"], "it is its own host's");
    s.apply(Revision(10), vec![lease("h4", 10)]);
    let resolved = of(&s, "myapp");
    assert_eq!(in_use(&resolved), Vec::<String>::new());
    assert_eq!(texts(&resolved), ["rejected: its host is lost, and 10.244.1.2 is of 10.244.1.0/24, which another host has"]);
}

#[test]
fn each_address_family_has_its_own_tier() {
    let parts = [part("up", "fd00::5", ""), part("old", "10.244.3.3", r#","state":"draining""#)];
    assert_eq!(in_use(&myapp(SERVICE, &parts)), ["old 10.244.3.3:8080", "up fd00::5:8080"]);
}

fn texts(resolved: &Resolved) -> Vec<String> {
    resolved.rejected.iter().map(ToString::to_string).collect()
}

#[test]
fn addresses_of_the_cluster_and_of_no_host_are_rejected_with_a_reason() {
    let cases = [
        ("0.0.0.0", "0.0.0.0 stands for no host", false),
        ("::", ":: stands for no host", false),
        ("224.0.0.1", "224.0.0.1 is a multicast address", false),
        ("255.255.255.255", "255.255.255.255 is the broadcast address", false),
        ("10.112.5.5", "10.112.5.5 is a virtual IP, of the range 10.112.0.0/16", false),
        ("fd57:6566:7400::9", "fd57:6566:7400::9 is a virtual IP, of the range fd57:6566:7400::/112", false),
        ("10.99.0.1", "10.99.0.1 is a virtual IP, of the service default/other", false),
        ("127.8.0.1", "127.8.0.1 is a loopback address, another place on every host", true),
        ("::1", "::1 is a loopback address, another place on every host", true),
        ("::ffff:127.0.0.1", "127.0.0.1 is a loopback address, another place on every host", true),
        ("169.254.1.1", "169.254.1.1 is a link-local address, another place on every link", true),
        ("fe80::1", "fe80::1 is a link-local address, another place on every link", true),
        ("10.244.3.0", "10.244.3.0 is the overlay device's address of 10.244.3.0/24", true),
        ("10.244.3.1", "10.244.3.1 is the gateway of 10.244.3.0/24", true),
        ("10.244.9.1", "10.244.9.1 is the gateway of 10.244.9.0/24", true),
        ("fd00:3::1", "fd00:3::1 is the gateway of fd00:3::/64", true),
        ("192.0.2.9", "192.0.2.9 is an address of the host that holds 10.244.9.0/24", true),
        ("192.0.2.3", "192.0.2.3 is an address of host h3", true),
        ("2001:db8::3", "2001:db8::3 is an address of host h3", true),
        ("192.0.2.1", "192.0.2.1 is an address of host h1", true),
        ("2001:db8::1", "2001:db8::1 is an address of host h1", true),
    ];
    let allowing = r#"{"ports":[{"port":80}],"allow_hosts":true}"#;
    for (host, why, can_be_allowed) in cases {
        let (key, value) = part("a", host, "");
        let vip = ("/weft/v1/vips/10.99.0.1", r#"{"service":"default/other"}"#);
        let with = |service| of(&snapshot(&[(MYAPP, service), vip, (&key, &value)]), "myapp");
        let (refused, allowed) = (with(SERVICE), with(allowing));
        let hint = if can_be_allowed { "; the service may say allow_hosts" } else { "" };
        assert_eq!(texts(&refused), [format!("rejected: {why}{hint}")]);
        assert_eq!((in_use(&refused).len(), in_use(&allowed).len()), (0, usize::from(can_be_allowed)), "{host}");
        assert_eq!(texts(&allowed).len(), usize::from(!can_be_allowed), "{host}");
    }
    assert_eq!(texts(&myapp(SERVICE, &[part("a", "10.244.3.255", "")])), Vec::<String>::new());
}

#[test]
fn a_name_is_no_backend() {
    let resolved = myapp(r#"{"ports":[{"port":80}],"allow_hosts":true}"#, &[part("a", "DB.example.com", "")]);
    assert_eq!(texts(&resolved), ["rejected: db.example.com. is a name, and a backend is an address"]);
    assert_eq!(resolved.members.len(), 1);
}

#[test]
fn plain_names_are_no_members() {
    assert_eq!(myapp(SERVICE, &[part("a", "10.244.3.2", r#","kind":"name""#)]).members, []);
}

#[test]
fn selectors_find_what_the_snapshot_finds() {
    let labelled = |ns: &str, id: &str, labels: &str| {
        let value = format!(r#"{{"host":"10.244.3.2","weft":{{"id":"{id}","labels":{{{labels}}}}}}}"#);
        (format!("/skydns/local/skydns/{ns}x/{id}/4"), value)
    };
    let parts = [
        labelled("", "a", r#""tier":"front","app":"shop""#),
        labelled("", "b", r#""tier":"front""#),
        labelled("prod/", "c", r#""tier":"front","app":"shop""#),
        labelled("", "d", r#""tier":"back","app":"shop""#),
    ];
    let mut entries = vec![
        ("/weft/v1/namespaces/prod", "{}"),
        ("/weft/v1/services/default/one", r#"{"ports":[{"port":80}],"selector":{"tier":"front"}}"#),
        ("/weft/v1/services/default/two", r#"{"ports":[{"port":80}],"selector":{"tier":"front","app":"shop"}}"#),
        ("/weft/v1/services/prod/one", r#"{"ports":[{"port":80}],"selector":{"tier":"front"}}"#),
        ("/weft/v1/services/prod/none", r#"{"ports":[{"port":80}],"selector":{"tier":"back"}}"#),
        ("/weft/v1/services/default/net", r#"{"ports":[{"port":80}],"selector":{"tier":"front"},"network":"blue"}"#),
    ];
    entries.extend(parts.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let s = snapshot(&entries);
    let ids = |name: &str| of(&s, name).members.iter().map(|m| m.endpoint.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids("one"), ["a", "b"]);
    assert_eq!(ids("two"), ["a"]);
    assert_eq!(ids("prod/one"), ["c"]);
    assert_eq!(ids("prod/none"), Vec::<String>::new());
    assert_eq!(ids("net"), Vec::<String>::new());
}

#[test]
fn a_virtual_ip_stands_for_one_service_and_never_for_what_has_an_address() {
    let service = |vip: &str| format!(r#"{{"ports":[{{"port":80}}],"vips":["{vip}"]}}"#);
    let owned = |vip: &str, by: &str| (format!("/weft/v1/vips/{vip}"), format!(r#"{{"service":"{by}"}}"#));
    let fault = |vip: &str, owner: Option<&str>| {
        let (service, owned) = (service(vip), owner.map(|by| owned(vip, by)));
        let mut entries = vec![(MYAPP, service.as_str()), ("/weft/v1/services/default/also", service.as_str())];
        entries.extend(owned.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let resolved = of(&snapshot(&entries), "myapp");
        assert_eq!(resolved.vips.len() + resolved.vip_faults.len(), 1);
        resolved.vip_faults.first().map(|(_, why)| why.to_string())
    };
    let mine = Some("default/myapp");
    assert_eq!(fault("10.112.0.7", mine), None);
    assert_eq!(fault("10.112.0.7", None).unwrap(), "it belongs to the service default/also");
    assert_eq!(fault("10.112.0.7", Some("default/also")).unwrap(), "it belongs to the service default/also");
    assert_eq!(fault("192.0.2.1", mine).unwrap(), "it is an address of host h1");
    assert_eq!(fault("127.0.0.1", mine).unwrap(), "it is a loopback address");
    assert_eq!(fault("224.0.0.1", mine).unwrap(), "224.0.0.1 is a multicast address");
    let why = "it is in no service range; add its range to service_cidrs with netctl config set";
    assert_eq!(fault("203.0.113.8", mine).unwrap(), why);
}

#[test]
fn a_record_that_hangs_on_no_host_is_a_backend_like_any_other() {
    let mut s = snapshot(&[(MYAPP, SERVICE)]);
    let entry = Entry {
        key: b"/skydns/local/skydns/myapp/ext".into(),
        value: br#"{"host":"203.0.113.5","port":443}"#.into(),
        lease: Some(LeaseId(3)),
        created: Revision(2),
        modified: Revision(2),
    };
    s.apply(Revision(2), vec![Change::Put(entry)]);
    let resolved = of(&s, "myapp");
    assert_eq!(in_use(&resolved), ["ext 203.0.113.5:443"]);
    assert_eq!(resolved.frontends[0].backends[0].node(), None);
}

#[test]
fn health_alone_empties_no_service_and_a_threshold_comes_before() {
    let unhealthy = r#","state":"down","unhealthy":true"#;
    let one = [part("a", "10.244.3.2", ""), part("b", "10.244.3.3", unhealthy), part("c", "10.244.3.4", r#","state":"down""#)];
    let resolved = myapp(SERVICE, &one);
    assert_eq!((in_use(&resolved), resolved.panicking), (vec!["a 10.244.3.2:8080".to_owned()], false));
    let below = myapp(r#"{"ports":[{"port":80}],"vips":["10.112.0.7"],"panic":51}"#, &one);
    assert_eq!(in_use(&below), ["a 10.244.3.2:8080", "b 10.244.3.3:8080"]);
    assert!(below.panicking);
    let none = myapp(SERVICE, &one[1..]);
    assert_eq!(in_use(&none), ["b 10.244.3.3:8080"], "who was marked down by hand stays out");
    assert!(none.panicking);
    let used: Vec<bool> = none.members.iter().map(|m| m.in_use).collect();
    assert_eq!(used, [true, false]);
}

#[test]
fn a_set_based_selector_finds_what_the_snapshot_finds() {
    let labelled = |id: &str, labels: &str| {
        let (_, value) = part(id, &format!("10.244.3.{}", id.len() + 1), &format!(r#","labels":{{{labels}}}"#));
        (format!("/skydns/local/skydns/{id}/{id}/4"), value)
    };
    let parts = [
        labelled("a", r#""env":"dev""#),
        labelled("bb", r#""env":"prod","old":"1""#),
        labelled("ccc", r#""env":"prod""#),
        labelled("dddd", ""),
    ];
    let of = |expressions: &str| {
        let resolved = myapp(&format!(r#"{{"ports":[{{"port":80}}],"expressions":[{expressions}]}}"#), &parts);
        resolved.members.iter().map(|m| m.endpoint.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(r#"{"key":"env","operator":"In","values":["prod","dev"]}"#), ["a", "bb", "ccc"]);
    assert_eq!(of(r#"{"key":"env","operator":"In","values":["prod"]},{"key":"old","operator":"DoesNotExist"}"#), ["ccc"]);
    assert_eq!(of(r#"{"key":"env","operator":"NotIn","values":["prod"]}"#), ["a", "dddd"]);
    assert_eq!(of(r#"{"key":"old","operator":"Exists"}"#), ["bb"]);
}

#[test]
fn a_service_that_stands_for_a_name_has_no_endpoints() {
    let resolved = myapp(r#"{"external_name":"db.example.com","ports":[{"port":80}]}"#, &[part("a", "10.244.3.2", "")]);
    assert_eq!((resolved.members.len(), resolved.rejected.len(), in_use(&resolved).len()), (0, 0, 0));
}
