//! Passive marking: a backend that this host's connections fail to is asked after the others for a while, and no pool is emptied by it.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use anyhow::ensure;
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::traffic::{connect, idle, tcp_server};
use weft_tests::{Host, Place, Topology, eventually};

fn show(host: &Host) -> Value {
    host.netctl(["service", "show", "web", "-o", "json"]).unwrap().json().unwrap()
}

/// The backends of the service on a host, by id: whether each is used, and why it is quarantined.
fn backends(host: &Host) -> Vec<(String, bool, Option<String>)> {
    let service = show(host);
    let row = |b: &Value| (b["id"].as_str().unwrap().to_owned(), b["used"] == true, b["quarantined"].as_str().map(str::to_owned));
    service["backends"].as_array().unwrap().iter().map(row).collect()
}

fn result(from: &Place, vip: &str) -> String {
    connect(from, &format!("{vip}:80"), &[]).unwrap()["result"].as_str().unwrap().to_owned()
}

fn is_quarantined(host: &Host, id: &str) -> bool {
    backends(host).iter().any(|(of, _, why)| of == id && why.is_some())
}

fn becomes(host: &Host, what: &str, holds: impl Fn(&[(String, bool, Option<String>)]) -> bool) {
    eventually(what, SOON, || {
        let all = backends(host);
        ensure!(holds(&all), "{all:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn who_refuses_again_and_again_is_asked_after_the_others_until_its_time_is_over_and_a_pool_of_one_is_never_emptied() {
    let t = Topology::cluster(2).unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let good = tcp_server(h1, &["--service", "web:8080", "--id", "good"], 8080, "good").unwrap();
    let _bad = idle(h2, &["--service", "web:8080", "--id", "bad"]).unwrap();
    let client = idle(h1, &[]).unwrap();
    let long = ["service", "create", "web", "--port", "80:8080", "--passive", "failures=3,within=1h,for=1h", "-o", "json"];
    let created = h1.netctl(long).unwrap().json().unwrap();
    let vip = created["vip"].as_str().unwrap().to_owned();
    assert_eq!(created["passive"]["for_ms"], 3_600_000, "{created}");
    becomes(h1, "both are used", |all| all.len() == 2 && all.iter().all(|(_, used, why)| *used && why.is_none()));

    // Each connection goes to either by chance. Judged is what was refused with none between that succeeded, by backend.
    eventually("the one that refuses is found out", SOON, || {
        result(client.place(), &vip);
        ensure!(is_quarantined(h1, "bad"), "{:?}", backends(h1));
        Ok(())
    })
    .unwrap();
    becomes(h1, "only the other one is used", |all| {
        all.iter().all(|(id, used, why)| *used == (id == "good") && why.is_some() == (id == "bad"))
    });
    eventually("the rows say so", SOON, || {
        let all: Vec<String> = (0..20).map(|_| result(client.place(), &vip)).collect();
        ensure!(all.iter().all(|one| one == "answered"), "{all:?}");
        Ok(())
    })
    .unwrap();
    let all: Vec<String> = (0..20).map(|_| result(client.place(), &vip)).collect();
    assert!(all.iter().all(|one| one == "answered"), "{all:?}");
    let page = h1.netctl(["service", "show", "web"]).unwrap();
    assert!(page.stdout.contains("up, quarantined") && page.stdout.contains("3 connections from here failed"), "{page:?}");
    assert!(h1.agent.log().contains("a backend is quarantined on this host"));
    assert!(
        backends(h2).iter().all(|(_, used, why)| *used && why.is_none()),
        "another host has seen nothing: {:?}",
        backends(h2)
    );

    // Only the one that refuses is left: rather that than nobody.
    assert!(good.stop().is_ok());
    becomes(h1, "a pool of one is not emptied", |all| all.len() == 1 && all[0].0 == "bad" && all[0].1 && all[0].2.is_some());
    eventually("its refusals come through", SOON, || {
        let said = result(client.place(), &vip);
        ensure!(said == "refused", "{said}");
        Ok(())
    })
    .unwrap();

    // Another policy begins anew; a short time ends by itself.
    let short = ["service", "set", "web", "--passive", "failures=1,for=1s"];
    h1.netctl(short).unwrap().success().unwrap();
    eventually("it comes back when its time is over", SOON, || {
        result(client.place(), &vip);
        let log = h1.agent.log();
        ensure!(log.contains("its time is over"), "{:?}", backends(h1));
        Ok(())
    })
    .unwrap();
    becomes(h1, "it is one like others again", |all| all.len() == 1 && all[0].1 && all[0].2.is_none());

    h1.netctl(["service", "set", "web", "--passive", "none"]).unwrap().success().unwrap();
    eventually("nothing is watched any more", SOON, || {
        let log = h1.agent.log();
        ensure!(log.contains("connections are not watched"), "it still is");
        Ok(())
    })
    .unwrap();
    assert!(show(h1).get("passive").is_none());
}
