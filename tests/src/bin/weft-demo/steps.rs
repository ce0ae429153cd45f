//! The steps: each does something as a user would, shows what came of it, and checks that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_tests::dns::{self, dig};
use weft_tests::eventually::SOON;
use weft_tests::node::binary;
use weft_tests::topology::NETWORK;
use weft_tests::{Container, Host, Topology, eventually, signals};

use crate::bars::bars;
use crate::screen::Screen;

/// How long a dead host counts as alive.
const LEASE_TTL: Duration = Duration::from_secs(5);

/// What etcd and three agents on one machine may need beyond that: etcd looks for ended leases twice a second, and the
/// lease may have been renewed just before the death.
const NOTICE: Duration = Duration::from_secs(5);

/// How many requests are sent through the virtual IP.
const REQUESTS: usize = 30;

/// What stands after the first steps.
struct World<'t> {
    topology: &'t Topology,
    /// An instance of myapp on each host.
    servers: Vec<Container>,
    /// Where requests come from, on the first host.
    client: Container,
}

/// Runs all steps. With `keep`, does not return unless one fails.
pub fn run(screen: &Screen, keep: bool) -> Result<()> {
    screen.heading("Weft: three hosts on this machine, each a network namespace with its own weftd; etcd between them");
    let topology = three_hosts(screen)?;
    let outcome = show(screen, &topology, keep).map_err(|e| with_logs(&topology, e));
    let down = topology.down();
    outcome.and(down)?;
    screen.heading("All of it was as claimed, and everything has been taken down.");
    Ok(())
}

fn show(screen: &Screen, topology: &Topology, keep: bool) -> Result<()> {
    let world = start_containers(screen, topology)?;
    across_hosts(screen, &world)?;
    names(screen, &world)?;
    let vip = service(screen, &world)?;
    requests(screen, &world, &vip)?;
    death(screen, &world, &vip)?;
    what_next(screen, &world, keep)
}

fn with_logs(topology: &Topology, error: anyhow::Error) -> anyhow::Error {
    if signals::ending() { error } else { anyhow::anyhow!("{error:#}\n\n{}", topology.logs()) }
}

fn three_hosts(screen: &Screen) -> Result<Topology> {
    screen.step("Three hosts claim their subnets from etcd");
    let topology = Topology::builder(3).lease_ttl(LEASE_TTL).build()?;
    screen.command("weftd --node-name h1 --etcd-endpoints http://10.77.0.254:2379   (and h2, h3)");
    screen.command(&format!("netctl network init --cidr {NETWORK}"));
    screen.busy("etcd and three agents come up", || topology.start_cluster().map_err(|e| with_logs(&topology, e)))?;

    let mut rows = vec![["host", "address", "subnet", "names answered at", "packets go by"].map(str::to_owned).to_vec()];
    let mut subnets = Vec::new();
    for host in topology.hosts() {
        let status = host.agent.status()?;
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let path = if status["datapath"]["fast"] == true { "eBPF" } else { "the kernel's own path" };
        subnets.push(text(&status["subnet"]));
        rows.push(vec![
            host.name().to_owned(),
            host.address().to_string(),
            text(&status["subnet"]),
            text(&status["dns"][0]),
            path.to_owned(),
        ]);
    }
    screen.table(&rows);
    subnets.sort();
    subnets.dedup();
    ensure!(subnets.len() == 3, "the hosts do not have three different subnets: {subnets:?}");
    screen.seen("three different subnets of one network");
    Ok(topology)
}

fn start_containers<'t>(screen: &Screen, topology: &'t Topology) -> Result<World<'t>> {
    screen.step("A container of myapp on every host");
    screen.command("netctl run --service myapp:8080 -- python3 -m http.server 8080");
    let (servers, client) = screen.busy("containers come up", || {
        let servers = topology.hosts().iter().map(web).collect::<Result<Vec<_>>>()?;
        Ok((servers, topology.host(1).container(["--name", "client"], ["sleep", "100000"])?))
    })?;
    let mut rows = vec![["container", "on", "address"].map(str::to_owned).to_vec()];
    for (server, host) in servers.iter().zip(topology.hosts()) {
        rows.push(vec!["myapp".to_owned(), host.name().to_owned(), server.address()?.to_string()]);
    }
    rows.push(vec!["client".to_owned(), "h1".to_owned(), client.address()?.to_string()]);
    screen.table(&rows);
    Ok(World { topology, servers, client })
}

/// A web server whose only page says on which host it runs.
fn web(host: &Host) -> Result<Container> {
    let dir = host.dir().join("www");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::write(dir.join("index.html"), format!("{}\n", page(host.name()))).context("write the page")?;
    let dir = dir.to_string_lossy().into_owned();
    host.container(["--service", "myapp:8080"], ["python3", "-m", "http.server", "8080", "--directory", &dir])
}

fn page(host: &str) -> String {
    format!("myapp on {host}")
}

/// What `curl` gets in the client container.
fn curl(world: &World, url: &str) -> Result<String> {
    let output = world.client.exec(["curl", "-sS", "--fail", "--max-time", "5", url])?.success()?;
    Ok(output.stdout.trim_end().to_owned())
}

fn across_hosts(screen: &Screen, world: &World) -> Result<()> {
    screen.step("From the client on h1 to the container on h3");
    let to = world.servers[2].address()?.to_string();
    screen.command(&format!("ping -c 5 {to}"));
    // A container's address is known to the other hosts by its subnet, so the very first packet arrives.
    let ping = world.client.exec(["ping", "-n", "-c", "5", "-i", "0.2", "-W", "2", &to])?;
    let summary: Vec<_> = ping.stdout.lines().rev().take(2).collect();
    screen.output(&summary.into_iter().rev().collect::<Vec<_>>().join("\n"));
    ensure!(ping.stdout.contains(" 0% packet loss"), "ping {to}:\n{}{}", ping.stdout, ping.stderr);
    screen.seen("no packet lost");

    let url = format!("http://{to}:8080/");
    screen.command(&format!("curl {url}"));
    let got = eventually("the web server on h3", SOON, || curl(world, &url))?;
    screen.output(&got);
    ensure!(got == page("h3"), "h3's container answered {got:?}");
    screen.seen("HTTP across hosts");
    Ok(())
}

fn names(screen: &Screen, world: &World) -> Result<()> {
    screen.step("Its name, before it is a service: all instances");
    let host = world.topology.host(1);
    let gateway = dns::server_of(&host.agent.status()?)?;
    let mut wanted: Vec<_> = world.servers.iter().map(|s| Ok(s.address()?.to_string())).collect::<Result<_>>()?;
    wanted.sort();

    screen.command(&format!("dig @{gateway} myapp.skydns.local"));
    let answer = eventually("myapp.skydns.local", SOON, || {
        let answer = dig(host.place(), &gateway, &["myapp.skydns.local"])?;
        ensure!(answer.data("A") == wanted, "{answer:?}, and not {wanted:?}");
        Ok(answer)
    })?;
    show_records(screen, &answer.answers);
    screen.command(&format!("dig @{gateway} myapp.skydns.local SRV"));
    let answer = dig(host.place(), &gateway, &["myapp.skydns.local", "SRV"])?;
    show_records(screen, &answer.answers);
    let srv = answer.data("SRV");
    ensure!(srv.len() == 3 && srv.iter().all(|d| d.contains(" 8080 ")), "SRV gives {srv:?}");
    screen.seen("A gives three addresses, SRV the port as well");
    Ok(())
}

fn show_records(screen: &Screen, records: &[dns::Record]) {
    let rows: Vec<_> = records.iter().map(|r| format!("{} {} {} {}", r.name, r.ttl, r.kind, r.data)).collect();
    screen.output(&rows.join("\n"));
}

fn service(screen: &Screen, world: &World) -> Result<String> {
    screen.step("A service: one virtual IP in front of them");
    let host = world.topology.host(1);
    screen.command("netctl service create myapp --port 80:8080");
    let created = host.netctl(["service", "create", "myapp", "--port", "80:8080", "-o", "json"])?.json()?;
    let vip = created["vip"].as_str().with_context(|| format!("no virtual IP in {created}"))?.to_owned();
    screen.output(&format!("virtual IP {vip}"));
    let gateway = dns::server_of(&host.agent.status()?)?;
    screen.command(&format!("dig @{gateway} myapp.skydns.local +short"));
    eventually("the name answers with the virtual IP", SOON, || {
        let answer = dig(host.place(), &gateway, &["myapp.skydns.local"])?;
        ensure!(answer.data("A") == [vip.clone()], "{answer:?}");
        Ok(())
    })?;
    screen.output(&vip);
    backends(host, 3)?;
    screen.seen("the name now stands for the virtual IP");
    Ok(vip)
}

/// Waits until an agent sends new connections to this many containers.
fn backends(host: &Host, count: usize) -> Result<()> {
    eventually(&format!("{count} backends on {}", host.name()), LEASE_TTL + NOTICE, || {
        let shown = host.netctl(["service", "show", "myapp", "-o", "json"])?.json()?;
        let used = shown["backends"].as_array().map_or(0, |all| all.iter().filter(|b| b["used"] == true).count());
        ensure!(used == count, "{used} in {shown}");
        Ok(())
    })
}

/// Sends the requests, shows how they fell, and gives who answered.
fn tally(screen: &Screen, world: &World) -> Result<BTreeMap<String, usize>> {
    screen.command(&format!("for i in $(seq {REQUESTS}); do curl http://myapp.skydns.local/; done"));
    let counts = screen.busy("requests", || {
        let mut counts = BTreeMap::new();
        for number in 1..=REQUESTS {
            let got = curl(world, "http://myapp.skydns.local/").with_context(|| format!("request {number} of {REQUESTS}"))?;
            *counts.entry(got).or_default() += 1;
        }
        Ok(counts)
    })?;
    let names: Vec<_> = world.topology.hosts().iter().map(|h| page(h.name())).collect();
    for bar in bars(&counts, &names) {
        screen.line(&format!("  {bar}"));
    }
    if let Some(stranger) = counts.keys().find(|who| !names.contains(who)) {
        bail!("somebody else answered: {stranger:?}");
    }
    Ok(counts)
}

fn requests(screen: &Screen, world: &World, vip: &str) -> Result<()> {
    screen.step(&format!("{REQUESTS} requests by name, through {vip}, from h1"));
    let counts = tally(screen, world)?;
    // A fair choice leaves one of three out of 30 once in sixty thousand runs.
    ensure!(counts.len() == 3, "not every host's container was asked: {counts:?}");
    screen.seen("every request answered, by containers of all three hosts");
    Ok(())
}

fn death(screen: &Screen, world: &World, vip: &str) -> Result<()> {
    screen.step(&format!("h3 loses its power; its lease lasts {} s", LEASE_TTL.as_secs()));
    let (h1, h3) = (world.topology.host(1), world.topology.host(3));
    let dead = world.servers[2].address()?.to_string();
    h3.power_off()?;
    let since = Instant::now();
    screen.busy("waiting for its lease to run out", || backends(h1, 2))?;
    let noticed = since.elapsed();
    let gateway = dns::server_of(&h1.agent.status()?)?;
    let answer = dig(h1.place(), &gateway, &["tasks.myapp.skydns.local"])?;
    ensure!(!answer.data("A").contains(&dead) && answer.data("A").len() == 2, "its record is still there: {answer:?}");
    screen.seen(&format!("after {:.1} s its records and backends are gone", noticed.as_secs_f32()));

    screen.command(&format!("dig @{gateway} tasks.myapp.skydns.local"));
    show_records(screen, &answer.answers);
    let counts = tally(screen, world)?;
    ensure!(!counts.contains_key(&page("h3")), "a dead host answered: {counts:?}");
    ensure!(counts.len() == 2, "not both living hosts were asked: {counts:?}");
    screen.seen(&format!("every request through {vip} answered, and none sent to the dead"));
    Ok(())
}

fn what_next(screen: &Screen, world: &World, keep: bool) -> Result<()> {
    if !keep {
        screen.heading("Next");
        screen.line("cargo xtask demo --keep   leaves it up, and tells how to look around");
        screen.line("README.md                 a first real set-up on two machines");
        return Ok(());
    }
    let t = world.topology;
    let [h1, h2] = [t.host(1), t.host(2)];
    let netctl = binary("netctl")?;
    let netctl = netctl.display();
    let enter = |place: &weft_tests::Place| format!("nsenter --net={}", place.netns().display());
    screen.heading("It stays up until Ctrl-C. In another terminal, as root:");
    screen.line(&format!("export WEFT_SOCKET={}", h1.agent.socket().display()));
    screen.line(&format!("{netctl} status"));
    screen.line(&format!("{netctl} service show myapp"));
    screen.line(&format!("{netctl} endpoint list -o wide"));
    screen.line("");
    screen.line("a shell in the client container on h1, with its names and virtual IPs:");
    screen.line(&format!(
        "sh -c 'echo 0 > {}/cgroup.procs; exec nsenter --target {} --net --mount bash'",
        world.client.place().cgroup().display(),
        world.client.pid()
    ));
    screen.line("one more container on h2:");
    screen.line(&format!(
        "{} {netctl} --socket {} run --service myapp:8080 -- python3 -m http.server 8080",
        enter(h2.place()),
        h2.agent.socket().display()
    ));
    screen.line("");
    screen.line(&format!("{} ip route        what h1's kernel knows", enter(h1.place())));
    screen.line(&format!("{} tcpdump -ni br0 udp port 8472        the packets between hosts", enter(t.fabric())));
    screen.line(&format!(
        "{} env ETCDCTL_API=3 etcdctl --endpoints={} get --prefix /skydns        the records",
        enter(t.fabric()),
        t.etcd().endpoint()
    ));
    screen.line(&format!("less {}        what h1's agent says", h1.dir().join("weftd.log").display()));
    signals::interrupt_is_success();
    signals::wait_for_the_end()
}
