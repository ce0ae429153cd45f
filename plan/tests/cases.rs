//! Plans as data: each directory of `tests/cases` is a host at one moment.
//!
//! | file | what |
//! |---|---|
//! | `store` | a key and its value per line; created in this order |
//! | `host` | the facts, one per line |
//! | `actual` | the rows of ours that the kernel holds, as rows print; may be absent: none |
//! | `desired` | the rows that the host should hold |
//! | `actions` | the kernel's and the maps' actions, and after a blank line what is odd |
//!
//! `UPDATE=1 cargo test -p weft-plan --test cases` rewrites `desired` and `actions`; the difference is then reviewed.

#![allow(clippy::unwrap_used, reason = "a case that cannot be read fails the test, as it should")]

use std::fmt::{Display, Write as _};
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use weft_model::ids::Revision;
use weft_model::keys::Layout;
use weft_model::network::NetworkConfig;
use weft_model::snapshot::Snapshot;
use weft_model::stored::Entry;
use weft_plan::addresses::Address;
use weft_plan::kernel::{self, Rows};
use weft_plan::links::{Kind, Link, Vxlan, ZeroChecksums};
use weft_plan::neighbors::{Forward, Neighbor};
use weft_plan::routes::{Route, Via};
use weft_plan::sysctls::Sysctl;
use weft_plan::{Attachment, Host, OnLink, Uplink, maps};

#[test]
fn every_case_plans_what_it_says() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut dirs: Vec<_> = fs::read_dir(&cases).unwrap().map(|e| e.unwrap().path()).collect();
    dirs.sort();
    assert!(dirs.len() >= 8, "cases are missing: {dirs:?}");
    for dir in dirs {
        check(&dir);
    }
}

fn check(dir: &Path) {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{}/{name}: {e}", dir.display()));
    let snapshot = snapshot(&read("store"));
    let host = host(&read("host"), &snapshot);
    let actual = if dir.join("actual").exists() { rows(&read("actual")) } else { Rows::default() };

    let wanted = weft_plan::desired(&snapshot, &host);
    let printed = print(&wanted.kernel);
    assert_eq!(rows(&printed), wanted.kernel, "{}: what is printed reads back as something else", dir.display());

    let mut actions = lines(kernel::diff(&wanted.kernel, &actual));
    actions += &lines(maps::diff(&wanted.maps, &maps::Rows::default()));
    if !wanted.warnings.is_empty() {
        actions += "\n";
        actions += &lines(&wanted.warnings);
    }
    for (name, text) in [("desired", printed), ("actions", actions)] {
        if std::env::var_os("UPDATE").is_some() {
            fs::write(dir.join(name), &text).unwrap();
        }
        assert_eq!(text, read(name), "{}/{name}", dir.display());
    }
}

fn lines<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().fold(String::new(), |mut text, item| {
        writeln!(text, "{item}").unwrap();
        text
    })
}

fn print(rows: &Rows) -> String {
    lines(rows.sysctls.iter())
        + &lines(rows.links.iter())
        + &lines(rows.addresses.iter())
        + &lines(rows.neighbors.iter())
        + &lines(rows.forwards.iter())
        + &lines(rows.routes.iter())
}

fn snapshot(text: &str) -> Snapshot {
    let entry = |(n, line): (usize, &str)| {
        let (key, value) = line.split_once(' ').unwrap_or_else(|| panic!("store: {line:?} is no key and value"));
        let revision = Revision(i64::try_from(n).unwrap() + 2);
        Entry { key: key.into(), value: value.into(), lease: None, created: revision, modified: revision }
    };
    let entries: Vec<_> = text.lines().enumerate().map(entry).collect();
    let snapshot = Snapshot::complete(Arc::new(Layout::default()), Revision(1000), entries, None);
    assert_eq!(snapshot.bad().count(), 0, "{:?}", snapshot.bad().collect::<Vec<_>>());
    snapshot
}

/// The words of a line, read one after the other.
struct Words<'a>(&'a str, std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Self(line, line.split_whitespace())
    }

    fn text(&mut self) -> &'a str {
        self.1.next().unwrap_or_else(|| panic!("{:?} ends too soon", self.0))
    }

    fn next<T: FromStr>(&mut self) -> T {
        let word = self.text();
        word.parse().unwrap_or_else(|_| panic!("{:?}: {word:?}", self.0))
    }

    /// The value after a word that must be there.
    fn after<T: FromStr>(&mut self, word: &str) -> T {
        let found = self.text();
        assert_eq!(found, word, "{:?}", self.0);
        self.next()
    }
}

fn host(text: &str, snapshot: &Snapshot) -> Host {
    let mut host = Host {
        node: "h1".parse().unwrap(),
        config: snapshot.network().cloned(),
        subnet: None,
        subnet6: None,
        vtep_mac: "02:00:00:00:00:01".parse().unwrap(),
        vtep_mac6: "02:00:00:00:06:01".parse().unwrap(),
        uplink: None,
        attachments: Vec::new(),
        netns_cookie: 1,
        networks: Vec::new(),
    };
    for line in text.lines() {
        let mut words = Words::of(line);
        match words.text() {
            "node" => host.node = words.next(),
            "mac" => host.vtep_mac = words.next(),
            "subnet" => host.subnet = Some(words.next()),
            "subnet6" => host.subnet6 = Some(words.next()),
            "config" => {
                let (_, json) = line.split_once(' ').unwrap();
                host.config = Some(NetworkConfig::parse(json.as_bytes()).unwrap());
            }
            "uplink" => {
                let mut uplink = Uplink {
                    name: words.next(),
                    index: words.after("index"),
                    address: None,
                    address6: None,
                    public_ip: None,
                    public_ipv6: None,
                    mtu: 0,
                    ethernet: true,
                    on_link: OnLink::default(),
                };
                while let Some(word) = words.1.next() {
                    match word {
                        "address" => uplink.address = Some(words.next()),
                        "address6" => uplink.address6 = Some(words.next()),
                        "public" => uplink.public_ip = Some(words.next()),
                        "public6" => uplink.public_ipv6 = Some(words.next()),
                        "mtu" => uplink.mtu = words.next(),
                        "onlink" => uplink.on_link.direct.push(words.next()),
                        other => panic!("host: {other:?} in {line:?}"),
                    }
                }
                host.uplink = Some(uplink);
            }
            "attachment" => {
                let (id, address, mac) = (words.next(), words.after("address"), words.after("mac"));
                let (host_ifname, index): (_, String) = (words.after("dev"), words.after("index"));
                host.attachments.push(Attachment {
                    id,
                    address,
                    address6: None,
                    mac,
                    host_ifname,
                    host_index: index.parse().ok(),
                    netns_cookie: words.after("netns"),
                    network: words.after("network"),
                    publish: Vec::new(),
                });
                if let Some(word) = words.1.next() {
                    assert_eq!(word, "address6");
                    host.attachments.last_mut().unwrap().address6 = Some(words.next());
                }
            }
            other => panic!("host: {other:?} in {line:?}"),
        }
    }
    host
}

fn rows(text: &str) -> Rows {
    let mut rows = Rows::default();
    for line in text.lines() {
        let mut words = Words::of(line);
        match words.text() {
            "sysctl" => {
                let (path, value) = (words.next(), words.next());
                let over = words.1.next().map(|_| "1");
                rows.sysctls.insert(Sysctl { path, value, over });
            }
            "link" => rows.links.insert(link(&mut words)),
            "address" => {
                let address = words.next();
                rows.addresses.insert(Address { address, device: words.after("dev") });
            }
            "neighbor" => {
                let (address, mac) = (words.next(), words.after("address"));
                rows.neighbors.insert(Neighbor { address, mac, device: words.after("dev") });
            }
            "forward" => {
                let (mac, remote) = (words.next(), words.after("to"));
                rows.forwards.insert(Forward { mac, remote, device: words.after("dev") });
            }
            "route" => rows.routes.insert(route(&mut words)),
            other => panic!("{other:?} in {line:?}"),
        }
    }
    rows
}

fn link(words: &mut Words<'_>) -> Link {
    let name = words.next();
    let kind = match words.text() {
        "veth" => Kind::Veth,
        "vxlan" => Kind::Vxlan(Vxlan {
            vni: words.after("id"),
            local: words.after("local"),
            parent: words.after("parent"),
            port: words.after("port"),
            mac: words.after("address"),
            mtu: words.after("mtu"),
            learning: words.text() == "learning",
            zero_checksums: ZeroChecksums::default(),
            foreign: false,
        }),
        other => panic!("{other:?} in {:?}", words.0),
    };
    let (mut kind, mut state) = (kind, words.text());
    if let Kind::Vxlan(vxlan) = &mut kind {
        while !matches!(state, "up" | "down") {
            match state {
                "udp6zerocsumtx" => vxlan.zero_checksums.sent = true,
                "udp6zerocsumrx" => vxlan.zero_checksums.taken = true,
                "foreign" => vxlan.foreign = true,
                other => panic!("{other:?} in {:?}", words.0),
            }
            state = words.text();
        }
    }
    Link { name, kind, up: state == "up" }
}

fn route(words: &mut Words<'_>) -> Route {
    let destination = words.next();
    let via = match words.text() {
        "via" => {
            let gateway = words.next();
            let device = words.after("dev");
            assert_eq!(words.text(), "onlink");
            Via::Gateway { gateway, device }
        }
        "dev" => Via::Device(words.next()),
        "unreachable" => Via::Unreachable,
        "foreign" => Via::Foreign,
        other => panic!("{other:?} in {:?}", words.0),
    };
    let mut route = Route { destination, metric: 0, via, mtu: None };
    while let Some(word) = words.1.next() {
        match word {
            "mtu" => route.mtu = Some(words.next()),
            "metric" => route.metric = words.next(),
            other => panic!("{other:?} in {:?}", words.0),
        }
    }
    route
}
