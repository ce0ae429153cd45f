use std::net::{IpAddr, Ipv4Addr};

use super::*;

const BOUND: Duration = Duration::from_secs(60);

struct Host {
    dir: tempfile::TempDir,
    /// Held so that the channels stay open.
    _senders: Box<dyn std::any::Any>,
    registrations: Arc<Registrations>,
    known: watch::Receiver<Arc<Known>>,
}

/// An agent on this directory, whose store has not been read.
fn host(dir: tempfile::TempDir) -> Host {
    let state = Arc::new(StateDir::open(&dir.path().join("state"), &dir.path().join("run")).unwrap());
    let (view_tx, view) = watch::channel(None);
    let (health_tx, health) = watch::channel(Health::default());
    let (attached_tx, attached) = watch::channel(Arc::new(Published::default()));
    let (live_tx, liveness) = watch::channel(None);
    let around = Surroundings { view, health, attached, liveness, releasing: Arc::default(), node: "h1".parse().unwrap() };
    let found = state.registrations().unwrap();
    let (registrations, known) = Registrations::new(state, found, around);
    Host { dir, _senders: Box::new((view_tx, health_tx, attached_tx, live_tx)), registrations, known }
}

fn said(json: &str) -> Register {
    serde_json::from_str(json).unwrap()
}

fn web() -> Register {
    said(r#"{"service":"web","port":80,"addresses":["192.0.2.9"],"ttl_ms":60000}"#)
}

fn nowhere() -> Result<Home, Refusal> {
    Err(Refusal::invalid("nowhere"))
}

#[tokio::test]
async fn said_again_it_is_the_same_and_nobody_is_woken() {
    let mut host = host(tempfile::tempdir().unwrap());
    let first = host.registrations.put("web-1", web(), nowhere).await.unwrap();
    assert!(host.known.has_changed().unwrap());
    assert_eq!((first.store.as_str(), first.lead, first.lead_known), ("pending", false, false), "the store is away");
    host.known.borrow_and_update();
    let again = host.registrations.put("web-1", web(), nowhere).await.unwrap();
    assert!(!host.known.has_changed().unwrap());
    let other = host.registrations.put("web-1", Register { weight: 7, ..web() }, nowhere).await.unwrap();
    assert!(host.known.has_changed().unwrap());
    assert!(first.born > 0 && [again.born, other.born] == [first.born; 2], "it is as old as it was");
    assert_eq!(host.registrations.list().await.len(), 1);
}

#[tokio::test]
async fn it_is_there_after_a_restart_and_withdrawn_when_its_time_is_over() {
    let host = host_with(&[("web-1", web()), ("short", Register { ttl_ms: 1000, ..web() })]).await;
    let born = host.registrations.get("web-1").await.unwrap().born;
    let Host { dir, registrations, .. } = host;
    drop(registrations);
    let mut host = self::host(dir);
    assert_eq!(host.registrations.get("web-1").await.unwrap().born, born);
    assert_eq!(host.registrations.list().await.len(), 2);
    tokio::spawn(host.registrations.clone().expire());
    let gone = host.known.wait_for(|known| known.by_id.keys().all(|id| id.as_str() != "short"));
    tokio::time::timeout(BOUND, gone).await.unwrap().unwrap();
    let names = || host.registrations.state.registrations().unwrap().into_iter().map(|r| r.id.to_string()).collect::<Vec<_>>();
    let until = Instant::now() + BOUND;
    while names() != ["web-1"] {
        assert!(Instant::now() < until, "{:?} are on disk", names());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn host_with(all: &[(&str, Register)]) -> Host {
    let host = host(tempfile::tempdir().unwrap());
    for (id, said) in all {
        host.registrations.put(id, said.clone(), nowhere).await.unwrap();
    }
    host
}

#[tokio::test]
async fn a_disk_that_is_full_takes_nothing_new_but_beats_and_leaves() {
    let host = host_with(&[("web-1", web()), ("web-2", web())]).await;
    // The kernel has no room for a file where there is a directory of its name.
    let obstacle = host.dir.path().join("state").join("registrations.new");
    std::fs::create_dir(&obstacle).unwrap();
    let refused = host.registrations.put("web-3", web(), nowhere).await.unwrap_err();
    assert_eq!(refused.code, Code::Full, "{refused}");
    assert!(host.registrations.put("web-2", Register { port: Some(81), ..web() }, nowhere).await.is_err());
    assert_eq!(host.registrations.get("web-2").await.unwrap().said, web(), "as it was");
    host.registrations.put("web-2", web(), nowhere).await.unwrap();
    host.registrations.withdraw("web-1").await.unwrap();
    assert_eq!(host.known.borrow().by_id.len(), 1);
    tokio::spawn(host.registrations.clone().expire());
    std::fs::remove_dir(&obstacle).unwrap();
    let until = Instant::now() + BOUND;
    while host.registrations.state.registrations().unwrap().len() != 1 {
        assert!(Instant::now() < until, "the disk has room again, and nothing is written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_second_program_that_stands_by_an_id_is_refused_until_the_first_one_is_silent() {
    let host = host(tempfile::tempdir().unwrap());
    let stands = |session: &str, how: &str| {
        said(&format!(
            r#"{{"service":"job","kind":"name","addresses":["192.0.2.9"],"ttl_ms":60000,"candidate":"{how}"{session}}}"#
        ))
    };
    let put = |said: Register| host.registrations.put("c1", said, nowhere);
    let (one, two) = (r#","session":"one""#, r#","session":"two""#);
    put(stands(one, "stands")).await.unwrap();
    put(stands(one, "acts")).await.unwrap();
    for other in [stands(two, "stands"), stands("", "stands"), Register { candidate: None, ..stands("", "stands") }] {
        let refused = put(other).await.unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        assert!(refused.message.contains("another program") && refused.message.contains("--id"), "{refused}");
    }
    assert_eq!(host.registrations.get("c1").await.unwrap().said, stands(one, "acts"), "as it was");
    host.registrations.kept.lock().await.until.insert("c1".parse().unwrap(), Instant::now());
    put(stands(two, "stands")).await.unwrap();
    assert!(put(stands(one, "acts")).await.is_err(), "it was silent for too long");
    host.registrations.withdraw("c1").await.unwrap();
    put(stands(one, "stands")).await.unwrap();
    let long = format!(r#","session":"{}""#, "x".repeat(65));
    assert!(host.registrations.put("c2", stands(&long, "stands"), nowhere).await.unwrap_err().message.contains("64 bytes"));
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_its_reason() {
    let host = host(tempfile::tempdir().unwrap());
    let labels: Vec<String> = (0..65).map(|n| format!(r#""k{n}":"v""#)).collect();
    let many: Vec<String> = (1..=17).map(|n| format!(r#""10.0.0.{n}""#)).collect();
    for (id, json, why) in [
        ("A b", r#"{"service":"web","ttl_ms":60000}"#.to_owned(), "A b"),
        ("a", r#"{"service":"web","ttl_ms":999}"#.to_owned(), "ttl of 999ms"),
        ("a", r#"{"service":"web","ttl_ms":99999999999}"#.to_owned(), "at most 31 days"),
        ("a", r#"{"service":"web","ttl_ms":60000,"port":0}"#.to_owned(), "port 0 is no port"),
        ("a", r#"{"service":"web","ttl_ms":60000,"addresses":["0.0.0.0"]}"#.to_owned(), "0.0.0.0 is no address of a host"),
        ("a", r#"{"service":"web","ttl_ms":60000,"port_name":"http"}"#.to_owned(), "a port's name without a port"),
        ("a", r#"{"service":"web","ttl_ms":60000,"candidate":"acts"}"#.to_owned(), "a candidate is of kind name"),
        ("a", format!(r#"{{"service":"web","ttl_ms":60000,"labels":{{{}}}}}"#, labels.join(",")), "65 labels"),
        ("a", format!(r#"{{"service":"web","ttl_ms":60000,"addresses":[{}]}}"#, many.join(",")), "17 addresses"),
        ("a", r#"{"service":"web","ttl_ms":60000}"#.to_owned(), "nowhere"),
    ] {
        let refused = host.registrations.put(id, said(&json), nowhere).await.unwrap_err();
        assert!(refused.message.contains(why), "{refused}");
    }
    assert!(serde_json::from_str::<Register>(r#"{"service":"web","ttl_ms":60000,"prot":80}"#).is_err(), "a member that is none");
}

#[tokio::test]
async fn a_host_keeps_so_many_and_then_no_more() {
    let host = host(tempfile::tempdir().unwrap());
    for n in 0..MOST {
        let id: EndpointId = format!("i{n}").parse().unwrap();
        let mut kept = host.registrations.kept.lock().await;
        kept.by_id.insert(id.clone(), Registration { id, said: web(), network: None, born: 1 });
    }
    assert_eq!(host.registrations.put("more", web(), nowhere).await.unwrap_err().code, Code::Full);
    assert!(host.registrations.put("i7", Register { port: Some(81), ..web() }, nowhere).await.is_ok(), "one of them");
}

#[tokio::test]
async fn without_an_address_it_has_that_of_whoever_asks() {
    let host = host(tempfile::tempdir().unwrap());
    let home = || Ok(Home { addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 244, 3, 5))], network: Some("blue".parse().unwrap()) });
    let got = host.registrations.put("a", Register { addresses: Vec::new(), ..web() }, home).await.unwrap();
    assert_eq!((got.said.addresses.len(), got.network.unwrap().as_str()), (1, "blue"));
}
