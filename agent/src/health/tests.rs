//! All checks of a host, against real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr};

use tokio::net::TcpListener;

use super::*;

fn id(name: &str) -> TargetId {
    TargetId { id: name.parse().unwrap(), service: None }
}

fn tcp(port: u16, options: &str) -> Target {
    let check = format!("tcp,interval=100ms{options}").parse().unwrap();
    Target { check, address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: Some(port), netns: None }
}

async fn becomes(verdicts: &mut watch::Receiver<Arc<Verdicts>>, of: &TargetId, wanted: Option<State>) {
    let reached = verdicts.wait_for(|all| all.get(of).copied() == wanted);
    tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_endpoint_goes_down_and_comes_back_and_only_changes_are_told() {
    let (health, mut verdicts) = Health::new(&mut Registry::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = id("web");
    health.follow([(web.clone(), (tcp(port, ",rise=2,fall=2"), State::Starting))].into());
    becomes(&mut verdicts, &web, Some(State::Up)).await;
    drop(listener);
    becomes(&mut verdicts, &web, Some(State::Down)).await;
    let shown = health.of("web").unwrap();
    assert!(shown.checks[0].falls == 1 && shown.checks[0].last.as_ref().is_some_and(|last| !last.well), "{shown:?}");

    // While it stays as it is, nobody is woken.
    verdicts.borrow_and_update();
    let runs = || health.of("web").unwrap().checks[0].runs;
    let before = runs();
    while runs() < before + 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!verdicts.has_changed().unwrap());

    let _listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    becomes(&mut verdicts, &web, Some(State::Up)).await;
    health.follow(Targets::new());
    becomes(&mut verdicts, &web, None).await;
    assert!(health.of("web").is_none());
}

#[tokio::test]
async fn one_that_does_not_answer_delays_no_other() {
    let (health, mut verdicts) = Health::new(&mut Registry::default());
    let quick = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = quick.local_addr().unwrap().port();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silence = silent.local_addr().unwrap().port();
    let mut targets = Targets::new();
    for n in 0..100 {
        let check = "http:/,timeout=1m,interval=100ms".parse().unwrap();
        let target = Target { check, ..tcp(silence, "") };
        targets.insert(id(&format!("slow-{n}")), (target, State::Starting));
    }
    let web = id("web");
    targets.insert(web.clone(), (tcp(port, ""), State::Starting));
    health.follow(targets);
    becomes(&mut verdicts, &web, Some(State::Up)).await;
    assert_eq!(verdicts.borrow().len(), 1, "the others have said nothing yet");
}

#[tokio::test]
async fn another_check_goes_on_in_the_same_state_and_another_container_begins_anew() {
    let (health, mut verdicts) = Health::new(&mut Registry::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = id("web");
    let follow = |target: Target| health.follow([(web.clone(), (target, State::Starting))].into());
    follow(tcp(port, ""));
    becomes(&mut verdicts, &web, Some(State::Up)).await;
    follow(tcp(port, ",fall=100"));
    assert_eq!(health.of("web").unwrap().checks[0].state, State::Up.into());
    let netns = target::Netns { path: "/run/netns/other".into(), id: (1, 2), cookie: 3 };
    follow(Target { netns: Some(netns), ..tcp(port, ",grace=1h") });
    assert_eq!(verdicts.borrow().get(&web), Some(&State::Starting));
}
