//! Attaching as tools do it: many at once, fixed addresses, several interfaces, requests that cannot be, a store that is away.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::api::{Answer, call};
use weft_tests::container::endpoints;
use weft_tests::eventually::SOON;
use weft_tests::traffic::{idle, pings};
use weft_tests::{Host, Place, Topology, eventually};

fn answers(from: &Place, to: &str) -> anyhow::Result<()> {
    pings(from, to.parse()?, 1, &[])
}

/// A namespace for one that the tool calls `container`, as a request.
fn request(place: &Place, container: &str) -> Value {
    let owner = json!({"runtime": "cni", "network": "weft", "container": container});
    json!({"netns": place.netns(), "ifname": "eth0", "owner": owner, "service": "crowd"})
}

fn with(mut request: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

fn ask(host: &Host, what: &str, body: &Value) -> Answer {
    call(&host.agent.socket(), "POST", &format!("/v1/attachments{what}"), body).unwrap()
}

fn attach(host: &Host, body: &Value) -> Value {
    ask(host, "", body).success().unwrap()
}

fn attached(host: &Host) -> Vec<Value> {
    call(&host.agent.socket(), "GET", "/v1/attachments", &Value::Null).unwrap().body.as_array().unwrap().clone()
}

fn address(attached: &Value) -> String {
    attached["addresses"][0].as_str().unwrap().trim_end_matches("/32").to_owned()
}

/// Devices and routes of containers on a host.
fn traces(host: &Host) -> String {
    let lines = |words: &[&str]| host.exec(words).unwrap().success().unwrap().stdout;
    let text = lines(&["ip", "-o", "link"]) + &lines(&["ip", "route"]);
    text.lines().filter(|line| line.contains(" weft") && !line.contains(" weft.1")).collect::<Vec<_>>().join("\n")
}

#[test]
fn two_hundred_at_once_have_an_address_each_and_reach_a_peer_and_a_full_subnet_says_so() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let far = idle(h2, &[]).unwrap();
    let peer = far.address().unwrap().to_string();
    let places: Vec<Place> = (0..200).map(|n| h1.bare_namespace(&format!("n{n}")).unwrap()).collect();
    let all: Vec<Value> = std::thread::scope(|scope| {
        let start = |(n, place): (usize, &Place)| {
            let body = request(place, &format!("c{n}"));
            scope.spawn(move || attach(h1, &body))
        };
        let each: Vec<_> = places.iter().enumerate().map(start).collect();
        each.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let addresses: BTreeSet<String> = all.iter().map(address).collect();
    assert_eq!(addresses.len(), 200, "an address was given twice");
    let ids: BTreeSet<String> = all.iter().map(|a| a["id"].as_str().unwrap().to_owned()).collect();
    eventually("there is a program at each device", SOON, || {
        let linked = h1.agent.linked()?;
        ensure!(linked == ids, "{} of them", linked.len());
        Ok(())
    })
    .unwrap();
    std::thread::scope(|scope| {
        for part in places.chunks(25) {
            let peer = &peer;
            scope.spawn(move || {
                for place in part {
                    eventually("the peer answers", SOON, || answers(place, peer)).unwrap();
                }
            });
        }
    });

    // 53 more go in; the next is refused, and changes nothing.
    let more = h1.bare_namespace("more").unwrap();
    for n in 0..53 {
        let body = with(request(&more, &format!("m{n}")), json!({"ifname": format!("eth{n}")}));
        attach(h1, &body);
    }
    let before = (attached(h1).len(), traces(h1));
    let full = ask(h1, "", &with(request(&more, "late"), json!({"ifname": "late0"})));
    assert_eq!((full.status, full.body["error"]["code"].as_str()), (507, Some("full")), "{full:?}");
    assert!(full.body["error"]["message"].as_str().unwrap().contains("has no free address"), "{full:?}");
    assert_eq!((attached(h1).len(), traces(h1)), before);

    // What the tool still knows stays.
    let keep = json!({"runtime": "cni", "network": "weft", "keep": [{"container": "c7", "ifname": "eth0"}]});
    assert_eq!(ask(h1, "/gc", &keep).success().unwrap().as_array().unwrap().len(), 252);
    assert_eq!(attached(h1).iter().map(address).collect::<Vec<_>>(), [address(&all[7])]);
    eventually("the peer answers the one that stays", SOON, || answers(&places[7], &peer)).unwrap();
    let owner = json!({"owner": request(&places[7], "c7")["owner"]});
    assert_eq!(ask(h1, "/release", &owner).success().unwrap().as_array().unwrap().len(), 1);
    assert_eq!(ask(h1, "/release", &owner).success().unwrap(), json!([]), "nothing there is no error");
    eventually("nothing is left", SOON, || {
        ensure!(traces(h1).is_empty() && endpoints(h1)?.is_empty(), "{} {:?}", traces(h1), endpoints(h1)?);
        let linked = h1.agent.linked()?;
        ensure!(linked.is_empty(), "links: {linked:?}");
        let sources = h1.exec(["nft", "list", "set", "inet", "weft", "containers"])?.success()?.stdout;
        ensure!(!sources.contains("elements"), "{sources}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_fixed_address_and_further_interfaces_work_and_what_cannot_be_changes_nothing() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let near = idle(host, &[]).unwrap();
    let place = host.bare_namespace("one").unwrap();
    let subnet = host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    let prefix = subnet.rsplit_once('.').unwrap().0.to_owned();
    let at = |n: u8| format!("{prefix}.{n}");

    let fixed = with(request(&place, "one"), json!({"addresses": [at(77)], "mac": "02:00:00:00:00:77"}));
    let first = attach(host, &fixed);
    assert_eq!((address(&first), first["mac"].as_str()), (at(77), Some("02:00:00:00:00:77")));
    assert_eq!(attach(host, &fixed), first, "asked again, the same again");
    let second = attach(host, &with(request(&place, "one"), json!({"ifname": "eth1"})));
    for address in [address(&first), address(&second)] {
        eventually("it answers by each address", SOON, || answers(near.place(), &address)).unwrap();
    }
    let check = |ifname: &str| {
        ask(host, "/check", &json!({"owner": fixed["owner"], "ifname": ifname, "netns": place.netns(), "addresses": []}))
    };
    assert_eq!((check("eth0").status, check("eth1").status, check("eth2").status), (200, 200, 404));
    place.exec(["ip", "address", "del", &format!("{}/32", at(77)), "dev", "eth0"]).unwrap().success().unwrap();
    let said = check("eth0").body["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("no address {} on eth0", at(77))), "{said}");

    let before = (attached(host).len(), traces(host));
    let other = host.bare_namespace("other").unwrap();
    other.exec(["ip", "link", "add", "taken", "type", "veth", "peer", "name", "beside"]).unwrap().success().unwrap();
    for (what, status, wrong) in [
        (json!({"addresses": [at(77)]}), 409, "in use"),
        (json!({"addresses": [at(1)]}), 400, "no address for a container"),
        (json!({"addresses": [at(255)]}), 400, "no address for a container"),
        (json!({"addresses": ["192.0.2.9"]}), 400, "no address for a container"),
        (json!({"addresses": ["fd00::9"]}), 400, "no address for a container"),
        (json!({"addresses": [at(8), at(9)]}), 400, "one IPv4 address"),
        (json!({"mac": "01:00:00:00:00:01"}), 400, "Ethernet address"),
        (json!({"ifname": "taken"}), 409, "there is an interface taken"),
        (json!({"ifname": "a/b"}), 400, "--ifname"),
        (json!({"netns": "/nowhere"}), 400, "open network namespace /nowhere"),
        (json!({"netns": "/etc/passwd"}), 400, "is no network namespace"),
        (json!({"network": "nowhere"}), 400, "there is no network nowhere"),
        (json!({"service": "web.nowhere"}), 400, "nowhere"),
    ] {
        let refused = ask(host, "", &with(request(&other, "bad"), what.clone()));
        let said = refused.body["error"]["message"].to_string();
        assert!(refused.status == status && said.contains(wrong), "{what}: {refused:?}");
        assert_eq!((attached(host).len(), traces(host)), before, "{what}");
    }
    let gone = ask(host, "/release", &json!({"owner": fixed["owner"], "ifname": "eth1"})).success().unwrap();
    assert_eq!(gone[0]["ifname"], "eth1");
    assert!(!place.exec(["ip", "rule"]).unwrap().stdout.contains(&address(&second)), "a rule is left");
    assert_eq!(ask(host, "/release", &json!({"owner": fixed["owner"]})).success().unwrap()[0]["ifname"], "eth0");
}

#[test]
fn with_the_store_away_a_container_has_its_network_and_its_record_follows() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let near = idle(host, &[]).unwrap();
    let place = host.bare_namespace("one").unwrap();
    t.etcd().stop().unwrap();
    host.agent.wait_status("it knows", |s| s["store"]["connected"] == false).unwrap();
    let one = attach(host, &request(&place, "one"));
    assert_eq!(one["record"], "pending", "{one}");
    eventually("it is reached", SOON, || answers(near.place(), &address(&one))).unwrap();
    t.etcd().start().unwrap();
    eventually("the record follows", SOON, || {
        let there = attached(host);
        ensure!(there.iter().any(|a| a["id"] == one["id"] && a["record"] == "written"), "{there:?}");
        Ok(())
    })
    .unwrap();

    // What a plugin left for an agent that is away is done before anybody else is answered.
    host.agent.kill9().unwrap();
    let queue = host.agent.run_dir().join("queue");
    std::fs::create_dir_all(&queue).unwrap();
    let left = |name: &str, text: &str| std::fs::write(queue.join(name), text).unwrap();
    left("1-1.json", &json!({"release": {"owner": request(&place, "one")["owner"]}}).to_string());
    left("2-1.json", "{");
    host.agent.start().unwrap();
    host.agent.wait_answering().unwrap();
    assert!(attached(host).iter().all(|a| a["id"] != one["id"]));
    let status = host.agent.wait_status("it tells of what it cannot read", |s| s["reasons"].to_string().contains("2-1.bad"));
    assert!(status.is_ok(), "{status:?}");
    assert!(!Path::new(&queue.join("1-1.json")).exists() && queue.join("2-1.bad").exists());
    // One that missed the agent by a moment.
    host.agent.wait_ready().unwrap();
    attach(host, &request(&place, "two"));
    left("3-1.json", r#"{"gc":{"runtime":"cni","network":"weft","keep":[]}}"#);
    eventually("it is done too", SOON, || {
        ensure!(attached(host).iter().all(|a| a["owner"].is_null()), "{:?}", attached(host));
        Ok(())
    })
    .unwrap();
}

#[test]
fn after_a_boot_attachments_are_over_and_their_addresses_are_not_given_again_at_once() {
    let t = Topology::cluster(1).unwrap();
    let host = t.host(1);
    let places = ["one", "two"].map(|name| host.bare_namespace(name).unwrap());
    let before = attach(host, &request(&places[0], "one"));
    host.agent.kill9().unwrap();
    // A boot takes the run directory and all devices, and gives another id.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::remove_file(host.agent.run_dir().join("attachments.log")).unwrap();
    let log = host.agent.state_dir().join("attachments.log");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains(boot.trim()), "{text}");
    std::fs::write(&log, text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000")).unwrap();
    host.agent.start().unwrap();
    host.agent.wait_ready().unwrap();
    assert_eq!(attached(host), Vec::<Value>::new());
    eventually("devices and routes of before are gone", SOON, || {
        ensure!(traces(host).is_empty(), "{}", traces(host));
        Ok(())
    })
    .unwrap();
    let after = attach(host, &request(&places[1], "two"));
    assert_ne!(address(&after), address(&before));
}
