//! From one layout to another with packets under way. The other layout is this one under another name: its folder is renamed,
//! and its programs go on with maps that this layout's agent does not find.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapInfo};
use aya::programs::links::PinnedLink;
use weft_abi::maps::name;
use weft_abi::{LAYOUT_VERSION, Verdict};
use weft_agent::kernel::bpf::upgrade::{Group, others, share};
use weft_agent::kernel::bpf::{Datapath, LinkState, Program, cleanup};

use crate::lab::{Host, Netns, Place, run, two_hosts, unique};
use crate::links::{gone, programs_at};
use crate::steady;

/// Makes what is pinned another layout's.
fn rename(place: &Place, layout: u32) -> PathBuf {
    let other = place.paths.bpffs.join(format!("v{layout}"));
    std::fs::rename(place.paths.pins(), &other).unwrap();
    other
}

fn folders(place: &Place) -> Vec<String> {
    let names = std::fs::read_dir(&place.paths.bpffs).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    // bpftool leaves two files of the kernel's own, maps.debug and progs.debug.
    let mut names: Vec<String> = names.filter(|name| name.starts_with('v')).collect();
    names.sort();
    names
}

fn own() -> Vec<String> {
    vec![format!("v{LAYOUT_VERSION}")]
}

#[test]
fn an_upgrade_and_a_downgrade_under_load_lose_no_packet() {
    let (mut one, mut two) = two_hosts(1);
    let target = two.containers[0].addr;
    let ping = one.containers[0].netns.command("ping");
    steady::beside(ping, target, |round| {
        // The one after the other: from the layout before this one, and from the one after it.
        for host in [&mut one, &mut two] {
            take_over(host, if round % 2 == 0 { LAYOUT_VERSION - 1 } else { LAYOUT_VERSION + 1 });
        }
    });
    for host in [&one, &two] {
        assert_eq!(folders(&host.place), own());
        for device in ["u0", "v0"] {
            assert_eq!(programs_at(&host.netns, device).len(), 1, "one program at {device}, not two");
        }
    }
}

/// A new agent on a host whose programs are of another layout.
fn take_over(host: &mut Host, layout: u32) {
    rename(&host.place, layout);
    let before = programs_at(&host.netns, "u0");
    host.datapath = host.place.open();
    assert_eq!(host.datapath.others().iter().map(|o| o.layout).collect::<Vec<_>>(), [layout]);
    assert!(host.datapath.maps().peers.rows().unwrap().is_empty(), "new maps");
    assert_eq!(programs_at(&host.netns, "u0"), before, "the programs go on");
    host.fill();
    host.attach();
    host.datapath.retire_others().unwrap();
    let after = programs_at(&host.netns, "u0");
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    let counted = host.counters()[&Verdict::Encapsulated];
    assert!(counted.packets < 1000, "counters begin anew");
}

/// Attaches all there is to a place in a namespace with two devices.
fn attach(datapath: &mut Datapath, netns: &Netns) -> Vec<LinkState> {
    let (v0, v1) = (netns.ifindex("v0"), netns.ifindex("v1"));
    netns.enter(|| {
        datapath.attach_sockets().unwrap();
        datapath.attach_uplink(v0).unwrap();
        datapath.attach_container("web", v1).unwrap();
    });
    datapath.links().unwrap()
}

fn link_ids(folder: &Path) -> BTreeMap<String, u64> {
    let shown = |entry: std::fs::DirEntry| {
        let text = run(&format!("bpftool -j link show pinned {}", entry.path().display()));
        let link: serde_json::Value = serde_json::from_str(&text).unwrap();
        (entry.file_name().into_string().unwrap(), link["id"].as_u64().unwrap())
    };
    std::fs::read_dir(folder.join("links")).unwrap().map(|entry| shown(entry.unwrap())).collect()
}

#[test]
fn a_takeover_that_is_interrupted_anywhere_is_ended_by_the_next_agent() {
    // Where the agent stops: before anything is attached, with some links taken over, between pinning a link here and unpinning
    // it there, with all of them taken over, and in the middle of removing the folder.
    for stop in ["opened", "some", "pinned twice", "all", "half removed"] {
        let place = Place::new();
        let netns = Netns::new(unique());
        netns.ip("link add v0 type veth peer name v1");
        let links = attach(&mut place.open(), &netns);
        assert_eq!(links.len(), 2 + Program::SOCKETS.len());
        let other = rename(&place, LAYOUT_VERSION - 1);
        let ids = link_ids(&other);
        {
            let mut stopped = place.open();
            match stop {
                "opened" => {}
                "some" => netns.enter(|| {
                    stopped.attach_sockets().unwrap();
                    stopped.attach_uplink(links.iter().find(|l| l.name == "uplink").unwrap().ifindex.unwrap()).unwrap();
                }),
                "pinned twice" => {
                    let link = PinnedLink::from_pin(other.join("links/uplink")).unwrap();
                    aya::programs::links::FdLink::from(link).pin(place.paths.pins().join("links/uplink")).unwrap();
                }
                _ => {
                    attach(&mut stopped, &netns);
                }
            }
        }
        if stop == "half removed" {
            std::fs::remove_file(other.join(name::CONFIG)).unwrap();
            std::fs::remove_file(other.join(name::PEERS)).unwrap();
        }
        let mut next = place.open();
        assert_eq!(attach(&mut next, &netns), links, "{stop}");
        next.retire_others().unwrap();
        assert_eq!(folders(&place), own(), "{stop}");
        assert_eq!(link_ids(&place.paths.pins()), ids, "{stop}: the links are the old ones");
        for device in ["v0", "v1"] {
            assert_eq!(programs_at(&netns, device).len(), 1, "{stop}: one program at {device}");
        }
        assert_eq!(next.disturbed(), None, "{stop}");
    }
}

#[test]
fn links_of_another_layout_that_nobody_wants_go_with_its_folder() {
    let place = Place::new();
    let netns = Netns::new(unique());
    netns.ip("link add v0 type veth peer name v1");
    attach(&mut place.open(), &netns);
    rename(&place, LAYOUT_VERSION - 1);
    let mut next = place.open();
    netns.enter(|| next.attach_uplink(netns.ifindex("v0")).unwrap());
    assert_eq!(programs_at(&netns, "v1").len(), 1, "not before");
    next.retire_others().unwrap();
    gone(&netns, "v1");
    assert_eq!(next.links().unwrap().len(), 1);
}

#[test]
fn maps_of_one_meaning_and_shape_are_shared_with_an_older_layout_and_no_others_are() {
    let id = |folder: &Path, map: &str| MapInfo::from_pin(folder.join(map)).unwrap().id();
    let groups = [
        Group { since: 0, maps: &[name::FRONTENDS, name::REVERSE] },
        Group { since: 0, maps: &[name::SLOTS, name::BACKENDS] },
        Group { since: LAYOUT_VERSION, maps: &[name::NETNS] },
    ];
    let place = Place::new();
    drop(place.open());
    let older = rename(&place, LAYOUT_VERSION - 1);
    // One of a group has another size: none of it is taken.
    std::fs::remove_file(older.join(name::SLOTS)).unwrap();
    HashMap::<_, u32, u64>::create(16, 1).unwrap().pin(older.join(name::SLOTS)).unwrap();
    let pins = place.paths.pins();
    std::fs::create_dir(&pins).unwrap();
    // As if it had been interrupted, and done again.
    for _ in 0..2 {
        share(&pins, &others(&place.paths.bpffs).unwrap(), &groups).unwrap();
        let _ = std::fs::remove_file(pins.join(name::REVERSE));
    }
    share(&pins, &others(&place.paths.bpffs).unwrap(), &groups).unwrap();
    let datapath = place.open();
    for map in [name::FRONTENDS, name::REVERSE] {
        assert_eq!(id(&pins, map), id(&older, map), "{map} is shared");
    }
    for map in name::ALL.into_iter().filter(|map| ![name::FRONTENDS, name::REVERSE, name::SLOTS].contains(map)) {
        assert_ne!(id(&pins, map), id(&older, map), "{map} is not");
    }
    drop(datapath);

    // What a newer layout means by its maps is not known.
    let place = Place::new();
    drop(place.open());
    let pins = place.paths.pins();
    let newer = rename(&place, LAYOUT_VERSION + 1);
    drop(place.open());
    for map in name::ALL {
        assert_ne!(id(&pins, map), id(&newer, map), "{map} of a newer layout");
    }
}

#[test]
fn cleanup_removes_every_layout() {
    let place = Place::new();
    let netns = Netns::new(unique());
    netns.ip("link add v0 type veth peer name v1");
    attach(&mut place.open(), &netns);
    rename(&place, LAYOUT_VERSION + 3);
    drop(place.open());
    assert_eq!(folders(&place).len(), 2);
    cleanup(&place.asked()).unwrap();
    assert!(!place.bpffs.exists());
    gone(&netns, "v0");
}
