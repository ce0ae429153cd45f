//! Loading, pinning, replacing, and taking away.

use aya::maps::HashMap;
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use weft_abi::{Be32, Config, Endpoint};
use weft_agent::kernel::bpf::{Datapath, LinkState, Program, cleanup, mounts};

use crate::lab::{Netns, Place, two_hosts, unique};

/// Opens the place again as a new agent would, and attaches everything in the namespace.
fn attach(place: &Place, netns: &Netns, uplink: u32, container: u32) -> Vec<LinkState> {
    netns.enter(|| {
        let mut datapath = place.open();
        datapath.attach_sockets().unwrap();
        datapath.attach_uplink(uplink).unwrap();
        datapath.attach_container("web.1", container).unwrap();
        datapath.links().unwrap()
    })
}

/// Names and ids of the programs that the kernel runs at a device's ingress.
fn programs_at(netns: &Netns, device: &str) -> Vec<(String, u32)> {
    let (_, programs) = netns.enter(|| SchedClassifier::query_tcx(device, TcAttachType::Ingress).unwrap());
    programs.iter().map(|p| (p.name_as_str().unwrap().to_owned(), p.id())).collect()
}

fn with_devices() -> (Netns, u32, u32) {
    let netns = Netns::new(unique());
    netns.ip("link add v0 type veth peer name v1");
    let (v0, v1) = (netns.ifindex("v0"), netns.ifindex("v1"));
    (netns, v0, v1)
}

#[test]
fn rows_and_links_outlive_the_agent() {
    let place = Place::new();
    let (netns, v0, v1) = with_devices();
    let row = Endpoint { ifindex: v1, mac: [2, 0, 0, 0, 0, 1], flags: 0 };
    let key = Be32::from_bytes([10, 244, 1, 5]);
    {
        let mut first = place.open();
        first.maps_mut().endpoints.put(key, row).unwrap();
        first.maps_mut().set_config(&Config { vni: 77, ..Config::default() }).unwrap();
    }
    let links = attach(&place, &netns, v0, v1);
    assert_eq!(links.len(), 2 + Program::SOCKETS.len());
    assert!(links.iter().all(|link| link.alive), "{links:?}");

    let second = place.open();
    assert_eq!(second.maps().endpoints.rows().unwrap().into_iter().collect::<Vec<_>>(), [(key, row)]);
    assert_eq!(second.maps().config().unwrap().vni, 77);
    assert_eq!(second.links().unwrap(), links, "still attached with no agent in between");
}

#[test]
fn a_new_agent_replaces_the_programs_in_the_links_that_are_there() {
    let place = Place::new();
    let (netns, v0, v1) = with_devices();
    let first = attach(&place, &netns, v0, v1);
    let before = (programs_at(&netns, "v0"), programs_at(&netns, "v1"));
    let second = attach(&place, &netns, v0, v1);
    let after = (programs_at(&netns, "v0"), programs_at(&netns, "v1"));
    assert_eq!(first, second);
    for (before, after, name) in [(before.0, after.0, "from_uplink"), (before.1, after.1, "from_container")] {
        assert_eq!((before.len(), after.len()), (1, 1), "one program, not two: {before:?} {after:?}");
        assert_eq!((before[0].0.as_str(), after[0].0.as_str()), (name, name));
        assert_ne!(before[0].1, after[0].1, "a new program");
    }
}

#[test]
fn links_follow_the_device_they_are_asked_for() {
    let place = Place::new();
    let (netns, v0, v1) = with_devices();
    let at = |links: &[LinkState], name| links.iter().find(|l| l.name == name).unwrap().ifindex;
    let links = attach(&place, &netns, v0, v1);
    assert_eq!((at(&links, "uplink"), at(&links, "container-web.1")), (Some(v0), Some(v1)));
    // Another device.
    let links = attach(&place, &netns, v1, v0);
    assert_eq!((at(&links, "uplink"), at(&links, "container-web.1")), (Some(v1), Some(v0)));
    // The device is deleted: the link is defunct, and made anew on the next.
    netns.ip("link del v0");
    let gone = netns.enter(|| place.open().links().unwrap());
    for link in gone.iter().filter(|l| l.name == "uplink" || l.container() == Some("web.1")) {
        assert_eq!((link.alive, link.ifindex), (false, None), "{link:?}");
    }
    netns.ip("link add v0 type veth peer name v1");
    let (v0, v1) = (netns.ifindex("v0"), netns.ifindex("v1"));
    let links = attach(&place, &netns, v0, v1);
    assert_eq!((at(&links, "uplink"), at(&links, "container-web.1")), (Some(v0), Some(v1)));
}

#[test]
fn a_link_is_detached_by_name_and_twice_is_no_error() {
    let place = Place::new();
    let (netns, v0, v1) = with_devices();
    attach(&place, &netns, v0, v1);
    let mut datapath = place.open();
    datapath.detach("container-web.1").unwrap();
    datapath.detach("container-web.1").unwrap();
    assert!(datapath.links().unwrap().iter().all(|l| l.container().is_none()));
    assert_eq!(programs_at(&netns, "v1"), []);
    assert_eq!(programs_at(&netns, "v0").len(), 1);
}

#[test]
fn attaching_to_a_device_that_is_not_there_names_the_link() {
    let place = Place::new();
    let netns = Netns::new(unique());
    let error = netns.enter(|| place.open().attach_container("web", 4711).unwrap_err());
    assert_eq!(error.to_string(), "attach link container-web");
    assert!(!error.is_not_permitted(), "{error:?}");
}

#[test]
fn cleanup_leaves_nothing_and_twice_is_no_error() {
    let place = Place::new();
    let (netns, v0, v1) = with_devices();
    attach(&place, &netns, v0, v1);
    cleanup(&place.paths).unwrap();
    assert!(!place.paths.bpffs.exists());
    assert_eq!(programs_at(&netns, "v0"), []);
    assert_eq!(programs_at(&netns, "v1"), []);
    cleanup(&place.paths).unwrap();
    // And the same place can be used again.
    mounts::ensure_bpffs(&place.paths.bpffs).unwrap();
    assert!(place.open().links().unwrap().is_empty());
}

#[test]
fn a_bpffs_that_others_mounted_is_not_unmounted() {
    let dir = tempfile::tempdir().unwrap();
    let outer = mounts::ensure_bpffs(&dir.path().join("theirs")).unwrap();
    // A folder on a bpffs: nothing is mounted.
    let inner = outer.path().join("ours");
    mounts::ensure_bpffs(&inner).unwrap();
    let shown = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!shown.contains(&inner.display().to_string()), "{shown}");
    mounts::release_bpffs(&inner).unwrap();
    assert!(!inner.exists() && outer.path().exists());
    mounts::release_bpffs(outer.path()).unwrap();
    assert!(!outer.path().exists());
}

#[test]
fn a_map_of_another_layout_is_refused_by_name() {
    let place = Place::new();
    let pins = place.paths.pins();
    std::fs::create_dir_all(&pins).unwrap();
    let pin = pins.join("weft_peers");
    HashMap::<_, u32, u64>::create(16_384, 1).unwrap().pin(&pin).unwrap();
    let error = Datapath::open(&place.paths).unwrap_err();
    let want = format!(
        "map {}: has rows of 4+8 bytes and room for 16384 of them, not 4+16 and 16384; `weftd cleanup` removes it",
        pin.display()
    );
    assert_eq!(error.to_string(), want);
    cleanup(&place.paths).unwrap();
    mounts::ensure_bpffs(&place.paths.bpffs).unwrap();
    place.open();
}

#[test]
fn replacing_the_programs_loses_no_packet() {
    let (mut one, mut two) = two_hosts(1);
    let target = two.containers[0].addr;
    let before = one.counters();
    let mut ping = one.containers[0].netns.command("ping");
    let ping = ping.args(["-q", "-i", "0.002", "-c", "1000", "-w", "60", &target.to_string()]);
    let mut ping = ping.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut rounds = 0;
    while ping.try_wait().unwrap().is_none() {
        one.datapath = one.place.open();
        one.attach();
        two.datapath = two.place.open();
        two.attach();
        rounds += 1;
    }
    let output = ping.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(" 1000 received"), "{text}");
    assert!(rounds > 0);
    let moved = one.since(&before);
    assert_eq!(moved.get(&weft_abi::Verdict::Encapsulated), Some(&1000), "{moved:?}");
}
