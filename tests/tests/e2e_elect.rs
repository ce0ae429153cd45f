//! `netctl elect`: of all candidates one runs, whatever dies; and who leads outlives the store's outages.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::container::endpoints;
use weft_tests::dns::{dig, server_of};
use weft_tests::eventually::{SOON, throughout};
use weft_tests::place::Daemon;
use weft_tests::traffic::{connect, idle, tcp_server};
use weft_tests::{Container, Host, Topology, eventually};

/// Short, so that a death is noticed soon; etcd takes no less than 2 s.
const TTL: Duration = Duration::from_secs(4);

/// Longer than it takes until a lease has ended, its keys are gone, and others have seen it.
const LONG: Duration = Duration::from_secs(120);

/// Three hosts with a candidate each. Their commands hold one lock of this machine's kernel as long as they live, so that two at a
/// time are seen, and cannot be asked to stop: SIGTERM is ignored.
struct World {
    candidates: Vec<Option<Daemon>>,
    dir: PathBuf,
    topology: Topology,
}

impl World {
    fn new() -> Self {
        let topology = Topology::builder(3).lease_ttl(TTL).build().unwrap();
        topology.start_cluster().unwrap();
        let dir = topology.dir().to_owned();
        let mut world = Self { candidates: Vec::new(), dir, topology };
        for number in 1..=3 {
            let candidate = world.stand(number);
            world.candidates.push(Some(candidate));
        }
        world
    }

    fn stand(&self, number: usize) -> Daemon {
        let host = self.topology.host(number);
        let dir = self.dir.display();
        let command = format!(
            r#"exec 9>>{dir}/running; flock --nonblock 9 || echo "$WEFT_ID" >> {dir}/overlaps
               echo "$WEFT_TERM $WEFT_ID" >> {dir}/terms; trap '' TERM; exec sleep infinity"#
        );
        let id = format!("c{number}");
        let line = host.agent.netctl_line(["elect", "job", "--id", &id, "--ttl", "10s", "--", "sh", "-c", &command]).unwrap();
        host.spawn("elect", line).unwrap()
    }

    /// The terms that have begun, in the order in which commands started: number and candidate.
    fn terms(&self) -> Vec<(u64, String)> {
        let text = std::fs::read_to_string(self.dir.join("terms")).unwrap_or_default();
        let term = |line: &str| line.split_once(' ').map(|(term, id)| (term.parse().unwrap(), id.to_owned()));
        text.lines().filter_map(term).collect()
    }

    /// Waits until the last term that has begun is that of a candidate as wanted, and tells whose.
    fn led_by(&self, what: &str, wanted: impl Fn(usize) -> bool) -> usize {
        eventually(&format!("a term of {what}"), LONG, || {
            let terms = self.terms();
            let last = terms.last().and_then(|(_, id)| id.trim_start_matches('c').parse().ok());
            last.filter(|last| wanted(*last)).ok_or_else(|| format!("{terms:?}\n{}", self.said()))
        })
        .unwrap()
    }

    fn said(&self) -> String {
        self.candidates.iter().flatten().map(Daemon::stderr).collect()
    }

    fn leader(&self, host: &Host) -> Value {
        host.netctl(["service", "leader", "job", "-o", "json"]).unwrap().json().unwrap()
    }
}

#[test]
fn of_three_candidates_one_runs_whatever_dies_and_one_that_is_cut_off_has_ended_first() {
    let mut w = World::new();
    let first = w.led_by("any", |_| true);
    let others: Vec<usize> = (1..=3).filter(|n| *n != first).collect();
    let watcher = others[0];
    eventually("all know who leads", SOON, || {
        let view = w.leader(w.topology.host(watcher));
        let as_said = view["leader"]["id"] == format!("c{first}") && view["by"] == "election";
        if as_said { Ok(()) } else { Err(view.to_string()) }
    })
    .unwrap();
    // In DNS as well, as an address.
    let host = w.topology.host(watcher);
    eventually("leader.job is its host", SOON, || {
        let answer = host.netctl(["dns", "query", "leader.job.skydns.local", "-o", "json"]).unwrap().json().unwrap();
        let address = w.topology.host(first).address().to_string();
        if answer["answers"][0]["data"] == address { Ok(()) } else { Err(answer.to_string()) }
    })
    .unwrap();

    // Its agent dies: nobody renews the lease, and the command ends before that is over.
    w.topology.host(first).agent.kill9().unwrap();
    let second = w.led_by("another one", |n| n != first);
    w.topology.host(first).agent.start().unwrap();
    w.topology.host(first).agent.wait_ready().unwrap();

    // Cut off: agent and candidate live, and hear of nobody.
    w.topology.host(second).pull_cable().unwrap();
    let third = w.led_by("one that is not cut off", |n| n != second);
    w.topology.host(second).plug_cable().unwrap();
    w.topology.host(second).agent.wait_ready().unwrap();

    // By hand it goes to one that lives.
    let chosen = (1..=3).find(|n| *n != third).unwrap();
    let host = w.topology.host(chosen);
    eventually("it can be chosen", LONG, || host.netctl(["service", "leader", "job", "--set", &format!("c{chosen}")])?.success())
        .unwrap();
    w.led_by("the chosen one", |n| n == chosen);
    host.netctl(["service", "leader", "job", "--oldest"]).unwrap().success().unwrap();

    // Without power.
    w.topology.host(chosen).power_off().unwrap();
    w.candidates[chosen - 1] = None;
    w.led_by("one that has power", |n| n != chosen);

    let overlaps = std::fs::read_to_string(w.dir.join("overlaps")).unwrap_or_default();
    assert_eq!(overlaps, "", "two ran at a time: {:?}\n{}", w.terms(), w.said());
    let terms = w.terms();
    assert!(terms.is_sorted_by(|a, b| a.0 < b.0), "each term has a greater number: {terms:?}");
}

/// Whether a process runs: one that nobody has reaped does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_netctl_that_is_stopped_or_killed_leaves_nobody_who_acts() {
    let t = Topology::builder(1).lease_ttl(TTL).build().unwrap();
    t.start_cluster().unwrap();
    let host = t.host(1);
    let file = t.dir().join("pids");
    // A command with a child that would outlive it.
    let command = format!("trap '' TERM; sleep 100000 & echo $$ $! >> {}; while :; do sleep 100000; done", file.display());
    let line = host.agent.netctl_line(["elect", "job", "--id", "c", "--grace", "1s", "--", "sh", "-c", &command]).unwrap();
    let netctl = host.spawn("elect", line).unwrap();
    let begun = |count: usize| -> Vec<String> {
        eventually(&format!("the command has begun {count} times"), LONG, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            if lines.len() < count { Err(netctl.stderr()) } else { Ok(lines[count - 1].split(' ').map(str::to_owned).collect()) }
        })
        .unwrap()
    };
    let ends = |pids: &[String], why: &str| {
        eventually(&format!("nothing runs of {why}"), LONG, || {
            let left: Vec<_> = pids.iter().filter(|pid| runs(pid)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} run")) }
        })
        .unwrap();
    };
    let first = begun(1);
    assert!(first.iter().all(|pid| runs(pid)));
    netctl.signal(Signal::SIGSTOP).unwrap();
    ends(&first, "a netctl that is stopped");
    netctl.signal(Signal::SIGCONT).unwrap();
    let second = begun(2);
    assert!(second.iter().all(|pid| runs(pid)), "it goes on where it can");
    netctl.kill9().unwrap();
    ends(&second, "a netctl that is killed");
}

/// What is served of `web` on a host: ids and states.
fn served(host: &Host) -> Vec<(String, String)> {
    let all = endpoints(host).unwrap();
    let of_web = all.iter().filter(|e| e["service"] == "default/web");
    of_web.map(|e| (e["id"].as_str().unwrap().to_owned(), e["state"].as_str().unwrap().to_owned())).collect()
}

/// A program in a container of h1, and what it asks.
struct Asks {
    client: Container,
    server: String,
    vip: String,
}

impl Asks {
    /// Whether `web` is these addresses, and the virtual IP of `site` leads to b.
    fn are_answered(&self, addresses: &[String]) -> anyhow::Result<()> {
        let answer = dig(self.client.place(), &self.server, &["web.skydns.local"])?;
        let mut addresses = addresses.to_vec();
        addresses.sort();
        anyhow::ensure!(answer.data("A") == addresses, "{answer:?}, and not {addresses:?}");
        let connected = connect(self.client.place(), &format!("{}:80", self.vip), &[])?;
        anyhow::ensure!(connected["result"] == "answered" && connected["said"] == "b", "{connected}");
        Ok(())
    }
}

/// For how many seconds a host's store has been away, by its metrics.
fn away(host: &Host) -> u64 {
    let text = host.exec(["curl", "-sS", "http://127.0.0.1:9474/metrics"]).unwrap().success().unwrap().stdout;
    let line = text.lines().find_map(|line| line.strip_prefix("weft_agent_store_away_seconds "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// The revision that a host says its answers are of.
fn told_revision(host: &Host) -> i64 {
    let answer = weft_tests::api::call(&host.agent.socket(), "GET", "/v1/endpoints", &Value::Null).unwrap();
    answer.headers["weft-revision"].parse().unwrap()
}

fn dates(topology: &Topology) -> Vec<(String, Value)> {
    let all = topology.etcd().list("/skydns/local/skydns/web/").unwrap();
    all.into_iter().map(|(key, value)| (key, serde_json::from_str::<Value>(&value).unwrap()["weft"]["born"].clone())).collect()
}

#[test]
fn an_outage_longer_than_the_lease_is_forgotten_by_nobody() {
    let t = Topology::builder(2).lease_ttl(TTL).build().unwrap();
    t.start_cluster().unwrap();
    let (h1, h2) = (t.host(1), t.host(2));
    let line = h1.agent.netctl_line(["announce", "web", "--id", "a", "--ttl", "20s", "--port", "80", "--", "sleep", "infinity"]);
    let _announced = h1.spawn("announce", line.unwrap()).unwrap();
    // The older one.
    eventually("a is up", LONG, || if served(h1).len() == 1 { Ok(()) } else { Err("not yet") }).unwrap();
    let container = tcp_server(h2, &["--service", "web:80", "--id", "b", "--label", "kind=site"], 80, "b").unwrap();
    // By a name, and by a virtual IP that leads to the container alone.
    let words = ["service", "create", "site", "--port", "80", "--selector", "kind=site", "-o", "json"];
    let vip = h2.netctl(words).unwrap().json().unwrap()["vip"].as_str().unwrap().to_owned();
    let mut asks = Asks { client: idle(h1, &[]).unwrap(), server: server_of(&h1.agent.status().unwrap()).unwrap(), vip };
    let both = [h1.address().to_string(), container.address().unwrap().to_string()];
    let up = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), "up".to_owned())).collect::<Vec<_>>();
    let becomes = |host: &Host, ids: &[&str]| {
        eventually(&format!("{ids:?} on {}", host.name()), LONG, || {
            if served(host) == up(ids) { Ok(()) } else { Err(format!("{:?}", served(host))) }
        })
        .unwrap();
    };
    for host in [h1, h2] {
        becomes(host, &["a", "b"]);
    }
    let leader =
        |host: &Host| host.netctl(["service", "leader", "web", "-o", "json"]).unwrap().json().unwrap()["leader"]["id"].clone();
    assert_eq!(leader(h2), "a");
    let before = dates(&t);
    eventually("names and addresses lead there", LONG, || asks.are_answered(&both)).unwrap();
    assert_eq!(away(h1), 0);
    let revision = told_revision(h1);

    t.etcd().stop().unwrap();
    for host in [h1, h2] {
        host.agent.wait_status("the store is away", |s| s["store"]["connected"] == false).unwrap();
    }
    // Taken at once, and said to be on its way.
    let add = ["endpoint", "add", "web", "192.0.2.9:80", "--id", "c", "--ttl", "1h", "-o", "json"];
    let added = h1.netctl(add).unwrap().json().unwrap();
    assert_eq!(added["store"], "pending", "{added}");
    throughout("the last good state holds", 3 * TTL, || {
        for host in [h1, h2] {
            anyhow::ensure!(served(host) == up(&["a", "b"]), "{}: {:?}", host.name(), served(host));
        }
        asks.are_answered(&both)
    })
    .unwrap();
    // And it is said how old that is: nobody takes it for fresh.
    let status = h1.agent.status().unwrap();
    assert!(status["reasons"].as_array().unwrap().iter().any(|r| r.as_str().unwrap().starts_with("store away for ")), "{status}");
    assert_eq!(told_revision(h1), revision, "what is told is told to be of then");
    assert!(away(h1) >= TTL.as_secs(), "{}", away(h1));
    // An agent that is restarted meanwhile has forgotten nothing of its own either.
    h1.agent.kill9().unwrap();
    h1.agent.start().unwrap();
    h1.agent.wait_answering().unwrap();
    t.etcd().start().unwrap();
    for host in [h1, h2] {
        becomes(host, &["a", "b", "c"]);
    }
    asks.server = server_of(&h1.agent.wait_ready().unwrap()).unwrap();
    let all = [&both[..], &["192.0.2.9".to_owned()]].concat();
    eventually("names and addresses lead there again", LONG, || asks.are_answered(&all)).unwrap();
    eventually("nothing is old any more", LONG, || if away(h1) == 0 { Ok(()) } else { Err(away(h1)) }).unwrap();
    assert!(told_revision(h1) > revision);
    let after: Vec<_> = dates(&t).into_iter().filter(|(key, _)| !key.contains("/c/")).collect();
    assert_eq!((after, leader(h2)), (before.clone(), "a".into()));

    // Cut off for longer than the lease: this time the store does forget, and what is registered is written anew, as old as it was.
    h1.pull_cable().unwrap();
    eventually("the store has forgotten h1", LONG, || {
        let left = t.etcd().list("/skydns/local/skydns/web/")?;
        anyhow::ensure!(left.len() == 1, "{left:?}");
        Ok(())
    })
    .unwrap();
    eventually("another leads meanwhile", SOON, || if leader(h2) == "b" { Ok(()) } else { Err(leader(h2)) }).unwrap();
    assert_eq!(served(h1), up(&["a", "b", "c"]), "who hears of nobody keeps what was");
    h1.plug_cable().unwrap();
    for host in [h1, h2] {
        becomes(host, &["a", "b", "c"]);
    }
    let after: Vec<_> = dates(&t).into_iter().filter(|(key, _)| !key.contains("/c/")).collect();
    assert_eq!((after, leader(h2)), (before, "a".into()));
}
