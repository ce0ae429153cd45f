use std::net::Ipv4Addr;

use weft_agent::kernel::probe::echo::Refused;
use weft_api::CheckResult;
use weft_model::mac::Mac;

use super::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn target() -> Target {
    Target::sample(MAC)
}

fn heard() -> Answer {
    Answer::Heard(Duration::from_micros(250))
}

/// A way on which everything passes.
fn open() -> Way {
    Way { small: heard(), full: Some(heard()), largest: None, tcp: Some(Ok(Some(Duration::from_micros(300)))) }
}

/// A way on which nothing does.
fn closed() -> Way {
    Way { small: Answer::Silent, full: None, largest: None, tcp: None }
}

fn evidence() -> Evidence {
    Evidence {
        host: Ok(open()),
        container: Ok(open()),
        under: Ok(open()),
        knock: None,
        taken: None,
        clock_ahead: None,
        leaves_with: None,
    }
}

fn nothing(knock: Opened, under: Way) -> Evidence {
    Evidence {
        host: Ok(closed()),
        container: Ok(closed()),
        under: Ok(under),
        knock: Some(Ok(knock)),
        taken: None,
        clock_ahead: None,
        leaves_with: None,
    }
}

fn results(evidence: &Evidence) -> Vec<(String, CheckResult)> {
    judge(&target(), evidence).into_iter().map(|f| (f.check, f.result)).collect()
}

fn fault(target: &Target, evidence: &Evidence) -> String {
    let findings = judge(target, evidence);
    let bad = findings.iter().find(|f| f.result != CheckResult::Ok).unwrap();
    assert!(bad.next.is_some(), "{bad:?}");
    bad.facts["fault"].as_str().unwrap().to_owned()
}

#[test]
fn a_path_on_which_all_passes_is_well_in_every_respect() {
    use CheckResult::Ok;
    assert_eq!(results(&evidence()), [(PATH.into(), Ok), (PATH_MTU.into(), Ok), (PATH_TCP.into(), Ok)]);
}

#[test]
fn without_a_container_the_hosts_own_probes_tell() {
    let evidence = Evidence { container: Err("no subnet".into()), ..evidence() };
    let found = judge(&target(), &evidence);
    assert!(found.iter().all(|f| f.result == CheckResult::Ok));
    assert!(found[0].what.contains("not tried from a container: no subnet"), "{}", found[0].what);
}

#[test]
fn a_path_that_swallows_big_packets_is_told_with_the_size_that_passes() {
    let way = || Way { full: Some(Answer::Silent), largest: Some(1350), ..open() };
    let evidence = Evidence { host: Ok(way()), container: Ok(way()), ..evidence() };
    let found = judge(&target(), &evidence);
    assert_eq!(found[0].result, CheckResult::Ok, "it is reached");
    let mtu = &found[1];
    assert_eq!((mtu.check.as_str(), mtu.result), (PATH_MTU, CheckResult::Fail));
    assert_eq!((&mtu.facts["largest_bytes"], &mtu.facts["underlay_bytes"]), (&1350.into(), &1400.into()));
    assert!(mtu.next.as_ref().unwrap().contains("--mtu 1400"), "{mtu:?}");
}

#[test]
fn what_a_router_said_outside_of_the_overlay_is_told() {
    let refused = Refused { errno: 90, mtu: Some(1400), by: Some(Ipv4Addr::new(192, 0, 2, 254).into()) };
    let under = Way { full: Some(Answer::Refused(refused)), ..open() };
    let way = Way { full: Some(Answer::Silent), largest: Some(1350), ..open() };
    let evidence = Evidence { host: Ok(way.clone()), container: Ok(way), under: Ok(under), ..evidence() };
    let what = &judge(&target(), &evidence)[1].what;
    assert!(what.contains("192.0.2.254") && what.contains("MTU 1400"), "{what}");
}

#[test]
fn silence_inside_is_explained_by_what_is_heard_outside() {
    let target = target();
    assert_eq!(fault(&target, &nothing(Opened::Silent, open())), "port-blocked");
    assert_eq!(fault(&target, &nothing(Opened::Silent, closed())), "unreachable");
    assert_eq!(fault(&target, &nothing(Opened::NobodyListens, open())), "nobody-listens");
    assert_eq!(fault(&target, &nothing(Opened::Mac(MAC), open())), "own-entries");
    assert_eq!(fault(&target, &nothing(Opened::Mac(Mac([2, 0, 0, 0, 0, 9])), closed())), "wrong-mac");
    let dead = Target { alive: Some(false), ..target.clone() };
    assert_eq!(fault(&dead, &nothing(Opened::Silent, closed())), "down");
    let flannel = Target { alive: None, node: None, ..target };
    assert_eq!(fault(&flannel, &nothing(Opened::Silent, closed())), "unreachable");
}

#[test]
fn a_peer_without_a_tunnel_has_no_port_to_be_blocked() {
    let direct = Target { direct: true, ..target() };
    let evidence = Evidence { knock: None, ..nothing(Opened::Silent, open()) };
    assert_eq!(fault(&direct, &evidence), "route-lost");
    assert!(judge(&direct, &self::evidence())[0].what.contains("plain route"));
}

#[test]
fn one_way_that_works_tells_where_the_other_is_broken() {
    let target = target();
    let host_only = Evidence { container: Ok(closed()), ..evidence() };
    assert_eq!(fault(&target, &host_only), "container");
    let container_only = Evidence { host: Ok(closed()), ..evidence() };
    assert_eq!(fault(&target, &container_only), "kernel-path");
}

#[test]
fn tcp_without_an_answer_where_echoes_have_one_points_to_checksums() {
    let way = Way { tcp: Some(Ok(None)), ..open() };
    let evidence = Evidence { container: Ok(way), ..evidence() };
    let found = judge(&target(), &evidence);
    assert_eq!((found[2].check.as_str(), found[2].result), (PATH_TCP, CheckResult::Warn));
    assert!(found[2].what.contains("from a container ") && !found[2].what.contains("the host"), "{}", found[2].what);
}

#[test]
fn a_clock_that_differs_is_told_where_it_is_known() {
    let with = |ms| judge(&target(), &Evidence { clock_ahead: Some(ms), ..evidence() });
    assert_eq!(with(40)[3].result, CheckResult::Ok);
    let behind = &with(-60_000)[3];
    assert_eq!((behind.check.as_str(), behind.result), ("clock", CheckResult::Warn));
    assert!(behind.what.contains("60.0 s behind"), "{}", behind.what);
}

#[test]
fn a_fast_path_that_nobody_takes_is_a_warning() {
    let with = |taken| Evidence { taken, ..evidence() };
    assert_eq!(fault(&target(), &with(Some(false))), "fast-path-unused");
    assert_eq!(results(&with(Some(true)))[0].1, CheckResult::Ok);
    let slow = Target { fast: false, ..target() };
    assert_eq!(judge(&slow, &with(Some(false)))[0].result, CheckResult::Ok, "there is none");
}

#[test]
fn packets_that_leave_by_another_device_are_a_warning() {
    let evidence = Evidence { leaves_with: Some(Ipv4Addr::new(198, 51, 100, 1).into()), ..evidence() };
    assert_eq!(fault(&target(), &evidence), "other-uplink");
}

#[test]
fn a_host_that_cannot_send_probes_says_so_and_judges_nothing() {
    let none = || Err("Operation not permitted".to_owned());
    let evidence = Evidence {
        host: none(),
        container: none(),
        under: none(),
        knock: None,
        taken: None,
        clock_ahead: None,
        leaves_with: None,
    };
    assert_eq!(results(&evidence), [(PATH.to_owned(), CheckResult::Skipped)]);
}
