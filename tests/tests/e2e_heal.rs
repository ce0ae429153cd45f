//! What somebody removed by hand comes back by itself, and packets flow again.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::eventually::{SOON, throughout};
use weft_tests::topology::{FABRIC, NETWORK};
use weft_tests::traffic::{datagrams, idle, probe, report, udp_server};
use weft_tests::{Container, Daemon, Host, Topology, eventually};

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Fast,
    Kernel,
}

/// Two hosts with a container on each, which reach each other and exchange datagrams all the time.
struct World {
    way: Way,
    a: Container,
    b: Container,
    traffic: Daemon,
    healed: RefCell<Vec<(String, Duration)>>,
    topology: Topology,
}

impl World {
    fn new(way: Way) -> Self {
        let topology = Topology::new(2).unwrap();
        for host in topology.hosts().iter().filter(|_| way == Way::Kernel) {
            host.agent.set_wrapper([probe().unwrap().as_str(), "without-bpf"]);
        }
        topology.start_cluster().unwrap();
        Self::of(topology, way)
    }

    /// With IPv6 subnets beside the IPv4 ones.
    fn dual() -> Self {
        let topology = Topology::new(2).unwrap();
        topology.etcd().start().unwrap();
        for host in topology.hosts() {
            host.agent.start().unwrap();
        }
        eventually("the network is initialised", SOON, || {
            topology.host(1).netctl(["network", "init", "--cidr", NETWORK, "--cidr6", "fd00:10:244::/48"])?.success()
        })
        .unwrap();
        for host in topology.hosts() {
            host.agent.wait_ready().unwrap();
            host.agent.wait_peers(1).unwrap();
        }
        Self::of(topology, Way::Fast)
    }

    fn of(topology: Topology, way: Way) -> Self {
        let a = idle(topology.host(1), &["--id", "a"]).unwrap();
        let b = udp_server(topology.host(2), &["--id", "b"], 7000, "b").unwrap();
        let traffic = datagrams(&a, "traffic", &format!("{}:7000", b.address().unwrap())).unwrap();
        let world = Self { way, a, b, traffic, healed: RefCell::default(), topology };
        world.packets_flow("at the start");
        world
    }

    fn host(&self) -> &Host {
        self.topology.host(1)
    }

    /// The datagrams go on, and pings go through in both directions.
    fn packets_flow(&self, when: &str) {
        let answers = || -> Result<u64> {
            let link = self.a.exec(["ip", "-json", "-stats", "link", "show", "eth0"])?.json()?;
            link[0]["stats64"]["rx"]["packets"].as_u64().context("no counter")
        };
        let before = answers().unwrap();
        eventually(&format!("answers come {when}"), SOON, || {
            let now = answers()?;
            // A socket whose device has gone has ended with it.
            ensure!(now >= before + 3 || self.traffic.ended()?.is_some(), "{now}, was {before}");
            Ok(())
        })
        .unwrap();
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let to = to.address().unwrap().to_string();
            eventually(&format!("pings to {to} {when}"), SOON, || {
                from.exec(["ping", "-n", "-c", "2", "-i", "0.1", "-W", "2", &to])?.success()
            })
            .unwrap();
        }
    }

    /// Runs `removal` on h1, which succeeds only if there is something to remove; `look` comes to see what it saw before.
    fn heals(&self, removal: &str, bound: Duration, look: impl Fn() -> Result<String>) {
        let before = look().unwrap();
        ensure_shown(&before).with_context(|| format!("{removal}: before")).unwrap();
        self.host().exec(removal.split(' ')).unwrap().success().unwrap();
        let start = Instant::now();
        eventually(&format!("healed after {removal}"), bound, || {
            let now = look()?;
            ensure!(now == before, "{now:?}, was {before:?}");
            Ok(())
        })
        .unwrap();
        self.healed.borrow_mut().push((removal.to_owned(), start.elapsed()));
        self.packets_flow(&format!("after {removal}"));
        eventually(&format!("nothing to do after {removal}"), SOON, || {
            let plan = self.host().netctl(["plan", "-o", "json"])?.json()?;
            ensure!(plan["actions"] == serde_json::json!([]), "{plan}");
            Ok(())
        })
        .unwrap();
    }

    /// What a command on h1 shows, with its lines in order.
    fn shown(&self, command: &str) -> Result<String> {
        let text = self.host().exec(command.split(' '))?.success()?.stdout;
        let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    /// What the agent of h1 would change now.
    fn planned(&self) -> Result<String> {
        Ok(self.host().netctl(["plan", "-o", "json"])?.json()?["actions"].to_string())
    }

    /// The agent of h1 saw one of these by itself, and not only when it next read everything back. (It does that every 30
    /// seconds, so any one may have been put right by chance before it was seen.)
    fn was_seen(&self, any_of: &[&str]) {
        let log = self.host().agent.log();
        let seen = |what: &&str| log.lines().any(|l| l.contains("somebody changed the datapath") && l.contains(*what));
        assert!(any_of.iter().any(seen), "none of {any_of:?} in {log}");
    }

    /// The host end of the container on h1.
    fn veth(&self) -> String {
        let listed = self.host().netctl(["attachment", "list", "-o", "json"]).unwrap().json().unwrap();
        listed[0]["host_ifname"].as_str().unwrap().to_owned()
    }

    /// Ends the traffic; how many datagrams did not come back. Says how long each healing took.
    fn lost(&self) -> u64 {
        let said = report(&self.traffic).unwrap();
        let number = |key: &str| said[key].as_u64().unwrap();
        assert!(said["error"].is_null() && number("received") > 10, "{said}");
        println!("{:?} path: {} datagrams lost of {}", self.way, number("sent") - number("received"), number("sent"));
        for (what, time) in self.healed.borrow().iter() {
            println!("{:>6} ms  {what}", time.as_millis());
        }
        number("sent") - number("received")
    }

    fn pin(&self, name: &str) -> PathBuf {
        let layouts = std::fs::read_dir(self.host().agent.bpffs()).unwrap();
        let layout = layouts.flatten().map(|e| e.path()).find(|p| p.join("weft_config").exists());
        layout.unwrap().join(name)
    }
}

/// A look that shows nothing would see everything healed.
fn ensure_shown(text: &str) -> Result<()> {
    ensure!(!text.trim().is_empty(), "there is nothing to see");
    Ok(())
}

/// What is of the same kind as our objects and not ours, on h1: the commands that make it, and those that show it.
const FOREIGN: [(&str, &str); 9] = [
    ("ip route add 10.55.0.0/16 via 10.77.0.254 proto static", "ip route show proto static"),
    ("ip route add 10.66.0.0/16 via 10.77.0.254 table 77 proto 119", "ip route show table 77"),
    ("ip address add 192.0.2.9/32 dev lo", "ip -4 -o address show dev lo to 192.0.2.0/24"),
    ("ip address add 10.77.0.201/24 dev up0", "ip -4 -o address show dev up0"),
    ("ip neighbor add 10.77.0.99 lladdr 02:00:00:00:00:99 dev up0 nud permanent", "ip neighbor show dev up0 nud permanent"),
    ("ip link add flannel.9 up type vxlan id 9 dstport 8472 dev up0 nolearning", "ip -d -o link show flannel.9"),
    ("bridge fdb append 02:00:00:00:00:98 dev flannel.9 dst 10.77.0.98", "bridge fdb show dev flannel.9"),
    ("ip link add weft0 type veth peer name weft1", "ip -o link show weft0"),
    (
        "nft add table inet mine { chain in { type filter hook input priority 5 ; tcp dport 9 drop ; } ; }",
        "nft list table inet mine",
    ),
];

/// Each object of the kernel's tables on h1, taken away or changed, while packets flow.
fn objects_are_healed(w: &World) {
    let subnet = |host: &Host| host.agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    let (own, peer) = (subnet(w.host()), subnet(w.topology.host(2)));
    let device_address = peer.trim_end_matches("/24");
    let own_address = own.replace("/24", "/32");
    let gateway = own.replace(".0/24", ".1/32");
    let address = w.a.address().unwrap();
    let remote = w.topology.host(2).address();
    let veth = w.veth();

    let device = || {
        let link = w.host().exec(["ip", "-json", "-details", "link", "show", "weft.1"])?.json()?;
        let (link, info) = (&link[0], &link[0]["linkinfo"]["info_data"]);
        let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
        Ok(format!("{} {} {up} {} {} {}", link["address"], link["mtu"], info["id"], info["local"], info["learning"]))
    };
    let fdb = || w.shown("bridge fdb show dev weft.1");
    let neighbors = || w.shown("ip neighbor show dev weft.1");
    let mac = fdb().unwrap().split(' ').next().unwrap().to_owned();
    let first_way = |to: &str| {
        let ways = w.host().exec(["ip", "route", "show", to])?.success()?.stdout;
        Ok(ways.lines().next().unwrap_or_default().trim_end().to_owned())
    };
    let setting = |of: &str| w.shown(&format!("cat /proc/sys/net/ipv4/{of}"));
    let to_container = address.to_string();

    // Routes: containers, peers, those that lead nowhere; gone, or another's in their place.
    for (to, via) in [(to_container.as_str(), "dev up0"), (peer.as_str(), "via 10.77.0.254")] {
        w.heals(&format!("ip route del {to}"), SOON, || first_way(to));
        w.heals(&format!("ip route replace {to} {via}"), SOON, || first_way(to));
        let theirs = w.shown(&format!("ip route show {to} proto boot")).unwrap();
        ensure_shown(&theirs).context("the other's route stays").unwrap();
        w.host().exec(format!("ip route del {to} proto boot").split(' ')).unwrap().success().unwrap();
    }
    let changed = format!("ip route change {peer} via {device_address} dev weft.1 onlink proto 119 mtu 900");
    w.heals(&changed, SOON, || first_way(&peer));
    for nowhere in [own.as_str(), "10.112.0.0/16"] {
        let look = format!("ip route show type unreachable {nowhere}");
        w.heals(&format!("ip route del unreachable {nowhere}"), SOON, || w.shown(&look));
    }
    let nowhere = "ip -6 route show type unreachable fd57:6566:7400::/112";
    w.heals("ip -6 route del unreachable fd57:6566:7400::/112", SOON, || w.shown(nowhere));

    // Neighbours and forwarding entries.
    w.heals(&format!("ip neighbor del {device_address} dev weft.1"), SOON, neighbors);
    let changed = format!("ip neighbor change {device_address} dev weft.1 lladdr 02:00:00:00:00:77 nud permanent");
    w.heals(&changed, SOON, neighbors);
    let changed = format!("ip neighbor change {device_address} dev weft.1 lladdr {mac} nud stale");
    w.heals(&changed, SOON, neighbors);
    w.heals(&format!("bridge fdb del {mac} dev weft.1 dst {remote}"), SOON, fdb);
    w.heals(&format!("bridge fdb replace {mac} dev weft.1 dst 10.77.0.77"), SOON, fdb);
    let container = format!("ip neighbor show dev {veth}");
    w.heals(&format!("ip neighbor del {address} dev {veth}"), SOON, || w.shown(&container));

    // Addresses.
    let on_device = "ip -4 -o address show dev weft.1";
    w.heals(&format!("ip address del {own_address} dev weft.1"), SOON, || w.shown(on_device));
    let lo = format!("ip -4 -o address show dev lo to {gateway}");
    w.heals(&format!("ip address del {gateway} dev lo"), SOON, || w.shown(&lo));

    // Settings, of which the kernel tells too.
    w.heals("sysctl -qw net.ipv4.ip_forward=0", SOON, || {
        Ok(format!("{}{}", setting("ip_forward")?, setting("conf/weft.1/forwarding")?))
    });
    w.heals("sysctl -qw net/ipv4/conf/weft.1/forwarding=0", SOON, || setting("conf/weft.1/forwarding"));
    w.heals(&format!("sysctl -qw net.ipv4.conf.{veth}.forwarding=0"), SOON, || setting(&format!("conf/{veth}/forwarding")));

    // Devices.
    w.heals("ip link set weft.1 mtu 1300", SOON, device);
    w.heals("ip link set weft.1 address 02:00:00:00:00:66", SOON, || Ok(format!("{}\n{}", device()?, neighbors()?)));
    w.heals("ip link set weft.1 down", SOON, || Ok(format!("{}\n{}", device()?, first_way(&peer)?)));
    // With the device all that stood on it goes, and comes back.
    w.heals("ip link del weft.1", SOON, || {
        Ok(format!("{}\n{}\n{}\n{}\n{}", device()?, first_way(&peer)?, neighbors()?, fdb()?, setting("conf/weft.1/forwarding")?))
    });
}

#[test]
fn what_is_taken_from_the_kernels_tables_is_back_and_the_fast_path_loses_nothing_meanwhile() {
    let w = World::new(Way::Fast);
    objects_are_healed(&w);
    assert_eq!(w.lost(), 0);
}

#[test]
fn what_is_taken_from_the_kernels_tables_is_back_on_the_kernel_path_too_and_what_others_own_stays() {
    let w = World::new(Way::Kernel);
    let peer = w.topology.host(2).agent.status().unwrap()["subnet"].as_str().unwrap().to_owned();
    let other_metric = (format!("ip route add {peer} via {FABRIC} metric 100"), "ip route show metric 100".to_owned());
    let mut foreign: Vec<_> = FOREIGN.map(|(make, show)| (make.to_owned(), show.to_owned())).into();
    foreign.push(other_metric);
    for rule in ["-A INPUT -s 192.0.2.77/32 -j DROP", "-P FORWARD DROP"] {
        foreign.push((format!("iptables-nft -w {rule}"), "iptables-nft -w -S INPUT".to_owned()));
    }
    let shown: Vec<String> = foreign
        .iter()
        .map(|(make, show)| {
            w.host().exec(make.split(' ')).unwrap().success().unwrap();
            let text = w.shown(show).unwrap();
            ensure_shown(&text).context(show.clone()).unwrap();
            text
        })
        .collect();
    let shown: Vec<String> = foreign.iter().zip(shown).map(|((_, show), _)| w.shown(show).unwrap()).collect();
    let all_there = |when: &str| {
        for ((_, show), before) in foreign.iter().zip(&shown) {
            assert_eq!(&w.shown(show).unwrap(), before, "{show} {when}");
        }
    };

    objects_are_healed(&w);
    all_there("after healing");
    let table = || w.shown("nft list table inet weft");
    let jumps = || Ok(w.shown("iptables-nft -w -S")?.lines().filter(|l| l.contains("WEFT")).collect::<Vec<_>>().join("\n"));
    w.heals("iptables-nft -w -D FORWARD -j WEFT-FORWARD", SOON, jumps);
    w.heals("iptables-nft -w -F WEFT-FORWARD", SOON, jumps);
    for removal in ["nft flush chain inet weft sources", "nft flush set inet weft containers", "nft delete table inet weft"] {
        // Without the counters of what was dropped, which begin anew.
        w.heals(removal, SOON, || Ok(table()?.lines().filter(|l| !l.contains("packets")).collect::<Vec<_>>().join("\n")));
    }
    let veth = w.veth();
    let route = format!("ip route show dev {veth}");
    let neighbor = format!("ip neighbor show dev {veth}");
    w.heals(&format!("ip link set {veth} down"), SOON, || Ok(format!("{}{}", w.shown(&route)?, w.shown(&neighbor)?)));
    all_there("after healing the packet filter");
    w.lost();

    w.host().agent.kill9().unwrap();
    w.host().agent.start().unwrap();
    w.host().agent.wait_ready().unwrap();
    w.packets_flow("after a restart");
    all_there("after a restart");
    w.a.stop().unwrap();
    w.host().agent.cleanup().unwrap();
    all_there("after cleanup");
    let ours = format!(
        "{}{}{}",
        w.shown("ip route show table all proto 119").unwrap(),
        w.shown("nft list tables").unwrap(),
        w.shown("iptables-nft -w -S").unwrap()
    );
    assert!(
        !ours.contains("weft") && !ours.contains("WEFT") && ours.lines().filter(|l| l.contains("10.66.0.0")).count() == 1,
        "{ours}"
    );
}

#[test]
fn what_is_taken_from_the_ipv6_tables_is_back() {
    let w = World::dual();
    let six = |container: &Container| {
        let links =
            container.exec(["ip", "-6", "-json", "address", "show", "dev", "eth0", "scope", "global"]).unwrap().json().unwrap();
        links[0]["addr_info"][0]["local"].as_str().unwrap().to_owned()
    };
    let (a, b) = (six(&w.a), six(&w.b));
    let veth = w.veth();
    let reached = |when: &str| {
        eventually(&format!("{b} answers {when}"), SOON, || {
            w.a.exec(["ping", "-6", "-n", "-c", "2", "-i", "0.1", "-W", "2", &b])?.success()
        })
        .unwrap();
    };
    reached("at the start");
    let routes = || w.shown("ip -6 route show proto 119");
    let peer = w.host().exec(["ip", "-6", "-json", "route", "show", "proto", "119", "dev", "weft.1"]).unwrap().json().unwrap();
    let (peer, gateway) = (peer[0]["dst"].as_str().unwrap().to_owned(), peer[0]["gateway"].as_str().unwrap().to_owned());
    let neighbors = || w.shown("ip -6 neighbor show nud permanent");
    let addresses = || w.shown("ip -6 -o address show dev weft.1");
    let forwarding = || w.shown("cat /proc/sys/net/ipv6/conf/all/forwarding");
    w.heals(&format!("ip -6 route del {peer} proto 119"), SOON, routes);
    w.heals(&format!("ip -6 route del {a} proto 119"), SOON, routes);
    w.heals(&format!("ip -6 neighbor del {gateway} dev weft.1"), SOON, neighbors);
    w.heals(&format!("ip -6 neighbor del {a} dev {veth}"), SOON, neighbors);
    w.heals("ip -6 address flush dev weft.1", SOON, addresses);
    w.heals("sysctl -qw net.ipv6.conf.all.forwarding=0", SOON, forwarding);
    w.heals("ip link set weft.1 down", SOON, || Ok(format!("{}\n{}\n{}", routes()?, neighbors()?, addresses()?)));
    w.heals("ip link del weft.1", SOON, || {
        Ok(format!(
            "{}\n{}\n{}",
            routes()?,
            neighbors()?,
            addresses()?.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
        ))
    });
    reached("in the end");
    assert_eq!(w.lost(), 0);
}

#[test]
fn a_containers_device_that_is_set_down_is_set_up_and_all_on_it_is_back() {
    let w = World::new(Way::Fast);
    let veth = w.veth();
    let look =
        [format!("ip -br link show up dev {veth}"), format!("ip route show dev {veth}"), format!("ip neighbor show dev {veth}")];
    w.heals(&format!("ip link set {veth} down"), SOON, || {
        let all: Vec<String> = look.iter().map(|l| w.shown(l)).collect::<Result<_>>()?;
        ensure!(all.iter().all(|text| !text.is_empty()), "{all:?}");
        Ok(all.join("\n"))
    });
    w.lost();
}

#[test]
fn what_an_earlier_run_left_is_swept_after_the_first_listing_and_not_before() {
    let w = World::new(Way::Fast);
    let host = w.host();
    host.agent.stop().unwrap();
    w.topology.etcd().stop().unwrap();
    let uplink = host.address();
    let leftovers = [
        ("ip route add 10.244.251.0/24 via 10.244.251.0 dev weft.1 onlink proto 119".to_owned(), "ip route show 10.244.251.0/24"),
        ("ip route add unreachable 10.113.0.0/16 proto 119".to_owned(), "ip route show 10.113.0.0/16"),
        (
            "ip neighbor add 10.244.251.0 lladdr 02:00:00:00:00:51 dev weft.1 nud permanent".to_owned(),
            "ip neighbor show 10.244.251.0",
        ),
        ("bridge fdb append 02:00:00:00:00:51 dev weft.1 dst 10.77.0.51".to_owned(), "bridge fdb show dev weft.1"),
        (
            format!("ip link add weft.7 up type vxlan id 7 local {uplink} dev up0 dstport 8472 nolearning"),
            "ip -br link show type vxlan",
        ),
        ("ip link add weft0123456789 type veth peer name stale0".to_owned(), "ip -br link show type veth"),
        ("ip link set weft0123456789 alias weft".to_owned(), "ip -br link show type veth"),
    ];
    let without: Vec<String> = leftovers.iter().map(|(_, show)| w.shown(show).unwrap()).collect();
    for (make, _) in &leftovers {
        host.exec(make.split(' ')).unwrap().success().unwrap();
    }
    let with: Vec<String> = leftovers.iter().map(|(_, show)| w.shown(show).unwrap()).collect();
    assert!(with.iter().zip(&without).all(|(with, without)| with.len() > without.len()), "{with:?} {without:?}");

    host.agent.start().unwrap();
    host.agent.wait_answering().unwrap();
    throughout("all stays while the store has not been read", Duration::from_secs(3), || {
        let now: Vec<String> = leftovers.iter().map(|(_, show)| w.shown(show)).collect::<Result<_>>()?;
        ensure!(now == with, "{now:?}, was {with:?}");
        Ok(())
    })
    .unwrap();
    w.packets_flow("while the store is away");
    w.topology.etcd().start().unwrap();
    eventually("what was left is gone", SOON, || {
        let now: Vec<String> = leftovers.iter().map(|(_, show)| w.shown(show)).collect::<Result<_>>()?;
        ensure!(now == without, "{now:?}, was {without:?}");
        Ok(())
    })
    .unwrap();
    w.packets_flow("after all was swept");
    assert_eq!(w.lost(), 0);
}

#[test]
fn a_containers_device_that_is_removed_is_made_anew() {
    let w = World::new(Way::Fast);
    let device = w.veth();
    let address = w.a.address().unwrap();
    w.heals(&format!("ip link del {device}"), SOON, || {
        let inside = w.a.exec(["ip", "-4", "-o", "route", "show"])?.success()?.stdout;
        Ok(format!("{}{inside}", w.shown(&format!("ip route show {address}"))?))
    });
}

#[test]
fn pins_and_links_of_the_programs_that_are_taken_away_are_back() {
    let w = World::new(Way::Fast);
    let there = |pin: PathBuf| {
        ensure!(pin.exists(), "{} is not there", pin.display());
        Ok(pin.display().to_string())
    };
    for pin in ["links/uplink", "links/container-a", "links/connect4", "weft_peers"] {
        let pin = w.pin(pin);
        w.heals(&format!("rm {}", pin.display()), SOON, || there(pin.clone()));
    }
    for link in ["links/uplink", "links/container-a", "links/sendmsg6"] {
        let pin = w.pin(link).display().to_string();
        // A link that leads nowhere is not as planned.
        w.heals(&format!("bpftool link detach pinned {pin}"), SOON, || w.planned());
    }
    w.was_seen(&["link uplink", "pin of link connect4", "pin of map weft_peers"]);
}

#[test]
fn rows_of_the_programs_that_are_changed_removed_or_added_are_as_they_were() {
    let w = World::new(Way::Fast);
    let words = |bytes: &serde_json::Value| -> String {
        let byte = |byte: &serde_json::Value| byte.as_str().unwrap().to_owned();
        bytes.as_array().unwrap().iter().map(byte).collect::<Vec<_>>().join(" ")
    };
    for map in ["config", "networks", "peers", "vteps", "endpoints", "ranges", "netns"] {
        let pin = w.pin(&format!("weft_{map}")).display().to_string();
        let dump = format!("bpftool map dump pinned {pin}");
        let rows = w.host().exec(format!("bpftool -j map dump pinned {pin}").split(' ')).unwrap().json().unwrap();
        // The first network has number 1.
        let row = &rows[usize::from(map == "networks")];
        let (key, value) = (words(&row["key"]), words(&row["value"]));
        let other = |bytes: &str| bytes.split(' ').map(|_| "9").collect::<Vec<_>>().join(" ");
        w.heals(&format!("bpftool map update pinned {pin} key {key} value {}", other(&value)), SOON, || w.shown(&dump));
        // An array's rows are always there, and in a trie such a key is none.
        if !["config", "networks"].contains(&map) {
            w.heals(&format!("bpftool map delete pinned {pin} key {key}"), SOON, || w.shown(&dump));
        }
        if !["config", "networks", "ranges"].contains(&map) {
            w.heals(&format!("bpftool map update pinned {pin} key {} value {value}", other(&key)), SOON, || w.shown(&dump));
        }
    }
    assert_eq!(w.host().agent.status().unwrap()["datapath"]["fast"], true);
    w.was_seen(&["map weft_config", "map weft_peers", "map weft_endpoints"]);
}
