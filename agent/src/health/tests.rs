//! All checks of a host, against real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr};

use tokio::net::TcpListener;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn id(name: &str) -> TargetId {
    TargetId { id: name.parse().unwrap(), service: None }
}

/// An address of loopback that nothing else here binds to: what is closed on it stays closed, and can be opened again.
pub(in crate::health) fn nobody_elses() -> Ipv4Addr {
    let byte = || 1 + chance_below(254);
    Ipv4Addr::new(127, byte(), byte(), byte())
}

fn chance_below(most: u8) -> u8 {
    let [byte, ..] = RandomState::new().hash_one(Instant::now()).to_ne_bytes();
    byte % most
}

fn tcp(port: u16, options: &str) -> Target {
    let check = format!("tcp,timeout=1m,interval=100ms{options}").parse().unwrap();
    Target { check, address: IpAddr::V4(Ipv4Addr::LOCALHOST), further: Vec::new(), port: Some(port), netns: None }
}

async fn becomes(verdicts: &mut watch::Receiver<Arc<Verdicts>>, of: &TargetId, wanted: Option<State>) {
    let reached = verdicts.wait_for(|all| all.get(of).copied() == wanted);
    tokio::time::timeout(LONG, reached).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_endpoint_goes_down_and_comes_back_and_only_changes_are_told() {
    let (health, mut verdicts) = Health::new(&mut Registry::default(), Trust::default());
    let listener = TcpListener::bind((nobody_elses(), 0)).await.unwrap();
    let place = listener.local_addr().unwrap();
    let web = id("web");
    let target = Target { address: place.ip(), ..tcp(place.port(), ",rise=2,fall=2") };
    health.follow([(web.clone(), (target, State::Starting))].into());
    becomes(&mut verdicts, &web, Some(State::Up)).await;
    drop(listener);
    becomes(&mut verdicts, &web, Some(State::Down)).await;
    let shown = health.of("web").unwrap();
    assert!(shown.checks[0].falls == 1 && shown.checks[0].last.as_ref().is_some_and(|last| !last.well), "{shown:?}");

    // While it stays as it is, nobody is woken.
    verdicts.borrow_and_update();
    let runs = || health.of("web").unwrap().checks[0].runs;
    let before = runs();
    let until = Instant::now() + LONG;
    while runs() < before + 3 {
        assert!(Instant::now() < until, "it is asked no more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!verdicts.has_changed().unwrap());

    let _listener = TcpListener::bind(place).await.unwrap();
    becomes(&mut verdicts, &web, Some(State::Up)).await;
    health.follow(Targets::new());
    becomes(&mut verdicts, &web, None).await;
    assert!(health.of("web").is_none());
}

#[tokio::test]
async fn one_that_does_not_answer_delays_no_other() {
    let (health, mut verdicts) = Health::new(&mut Registry::default(), Trust::default());
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

fn command(words: &[&str], options: &str) -> Target {
    let mut target = tcp(0, "");
    target.check = format!("command:/bin/true,interval=100ms{options}").parse().unwrap();
    target.check.command = words.iter().map(|word| (*word).to_owned()).collect();
    target
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn commands_that_hang_give_way_to_those_that_do_not() {
    let (health, mut verdicts) = Health::new(&mut Registry::default(), Trust::default());
    let slow = |n| (id(&format!("slow-{n}")), (command(&["/bin/sleep", "100000"], ",timeout=1m"), State::Starting));
    let mut targets: Targets = (0..96).map(slow).collect();
    health.follow(targets.clone());
    eventually("all places are taken", || health.commands.quick.available_permits() == 0).await;
    // Behind all of them, each of which may take a minute.
    let web = id("web");
    targets.insert(web.clone(), (command(&["/bin/true"], ",timeout=1m"), State::Starting));
    health.follow(targets);
    becomes(&mut verdicts, &web, Some(State::Up)).await;
}

#[tokio::test]
async fn who_is_slow_waits_among_the_slow_and_who_waits_for_long_says_so() {
    let (health, mut verdicts) = Health::new(&mut Registry::default(), Trust::default());
    let (slow, web) = (id("slow"), id("web"));
    let mut targets: Targets = [(slow.clone(), (command(&["/bin/sleep", "2"], ",timeout=1m"), State::Starting))].into();
    health.follow(targets.clone());
    let of = |name: &str| health.of(name).unwrap().checks[0].clone();
    eventually("it is slow", || of("slow").runs > 0).await;
    // Whatever becomes of the places of those that are quick, it goes on.
    let most = health.commands.quick.available_permits();
    let held = health.commands.quick.acquire_many(u32::try_from(most).unwrap()).await.unwrap();
    let before = of("slow").runs;
    targets.insert(web.clone(), (command(&["/bin/true"], ",timeout=1m"), State::Starting));
    health.follow(targets);
    eventually("it is asked on", || of("slow").runs > before + 1).await;
    eventually("the other one is late", || of("web").late_ms.is_some_and(|late| late >= 100)).await;
    assert_eq!((of("slow").late_ms, of("web").runs, health.metrics.late.get()), (None, 0, 1));
    drop(held);
    becomes(&mut verdicts, &web, Some(State::Up)).await;
    assert_eq!(of("web").late_ms, None);
}

#[tokio::test]
async fn another_check_goes_on_in_the_same_state_and_another_container_begins_anew() {
    let (health, mut verdicts) = Health::new(&mut Registry::default(), Trust::default());
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
