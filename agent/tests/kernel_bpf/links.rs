//! Loading, pinning, replacing, and taking away.

use std::path::Path;

use aya::maps::HashMap;
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use weft_abi::{Backend, Be32, Config, Endpoint, Frontend, FrontendKey, SlotKey};
use weft_agent::kernel::bpf::{Datapath, LinkState, Paths, Program, cleanup, mounts};

use crate::lab::{Netns, Place, two_hosts, unique};
use crate::steady;

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
pub fn programs_at(netns: &Netns, device: &str) -> Vec<(String, u32)> {
    let (_, programs) = netns.enter(|| SchedClassifier::query_tcx(device, TcAttachType::Ingress).unwrap());
    programs.iter().map(|p| (p.name_as_str().unwrap().to_owned(), p.id())).collect()
}

/// Waits until nothing is attached to a device: the kernel lets go of a link a moment after its pin is gone.
pub fn gone(netns: &Netns, device: &str) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let left = programs_at(netns, device);
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < until, "{device} still has {left:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
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
    let row = Endpoint { ifindex: v1, mac: [2, 0, 0, 0, 0, 1], flags: 0, network: 1 };
    let key = Be32::from_bytes([10, 244, 1, 5]);
    {
        let mut first = place.open();
        first.maps_mut().endpoints.put(key, row).unwrap();
        first.maps_mut().set_config(&Config { uplink_mtu: 77, ..Config::default() }).unwrap();
    }
    let links = attach(&place, &netns, v0, v1);
    assert_eq!(links.len(), 2 + Program::SOCKETS.len());
    assert!(links.iter().all(|link| link.alive), "{links:?}");

    let second = place.open();
    assert_eq!(second.maps().endpoints.rows().unwrap().into_iter().collect::<Vec<_>>(), [(key, row)]);
    assert_eq!(second.maps().config().unwrap().uplink_mtu, 77);
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
    gone(&netns, "v1");
    assert_eq!(programs_at(&netns, "v0").len(), 1);
}

#[test]
fn a_link_that_was_made_beside_is_looked_after_as_any_other_and_let_go_of_beside() {
    let place = Place::new();
    let (netns, _, v1) = with_devices();
    let mut datapath = netns.enter(|| place.open());
    let linker = datapath.linker().unwrap();
    let made = netns.enter(|| linker.make("web.1", v1).unwrap());
    assert_eq!(programs_at(&netns, "v1").len(), 1);
    let second = netns.enter(|| linker.make("web.1", v1).unwrap_err());
    assert_eq!(second.to_string(), "attach link container-web.1");
    datapath.hold(made);
    let state = |name: &str| LinkState { name: name.to_owned(), alive: true, ifindex: Some(v1) };
    assert_eq!((datapath.disturbed(), datapath.links().unwrap()), (None, vec![state("container-web.1")]));
    // By the agent itself, as if it had been made there.
    netns.enter(|| datapath.attach_container("web.1", v1).unwrap());
    assert_eq!(programs_at(&netns, "v1").len(), 1);

    let let_go = datapath.let_go("container-web.1");
    assert_eq!(programs_at(&netns, "v1").len(), 1, "not yet");
    assert_eq!(datapath.disturbed(), None, "and nobody looks after it any more");
    let_go.finish().unwrap();
    gone(&netns, "v1");
    assert_eq!(datapath.links().unwrap(), []);
    datapath.let_go("container-web.1").finish().unwrap();

    let nowhere = netns.enter(|| linker.make("web", 4711).unwrap_err());
    assert_eq!(nowhere.to_string(), "attach link container-web");
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
    cleanup(&place.asked()).unwrap();
    assert!(!place.bpffs.exists());
    gone(&netns, "v0");
    gone(&netns, "v1");
    cleanup(&place.asked()).unwrap();
    // And the same place can be used again.
    let _mounted = mounts::ensure_bpffs(&place.bpffs).unwrap();
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
fn nothing_is_hidden_by_a_bpffs() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, why: &str| {
        let error = mounts::ensure_bpffs(path).unwrap_err();
        let want = format!("mount bpffs on {}: {why}; choose an empty directory with --bpffs", path.display());
        assert_eq!(error.to_string(), want);
    };
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), "").unwrap();
    refused(&full, "it is not empty");
    assert!(full.join("file").exists());

    let theirs = dir.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    mount(Some("none"), &theirs, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    // By another name it is the same folder.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&theirs, &link).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        refused(&theirs, "another file system is mounted there");
        refused(&link, "another file system is mounted there");
        mounts::release_bpffs(&theirs).unwrap();
    });
    umount2(&theirs, MntFlags::MNT_DETACH).unwrap();
    outcome.unwrap_or_else(|e| std::panic::resume_unwind(e));

    // Empty again: it may be used.
    let made = mounts::ensure_bpffs(&theirs).unwrap();
    assert!(made.path().exists());
    mounts::release_bpffs(&theirs).unwrap();
}

#[test]
fn maps_that_were_unpinned_by_hand_are_pinned_again() {
    let place = Place::new();
    let pins = place.paths.pins();
    let mut datapath = place.open();
    let key = Be32::from_bytes([10, 244, 1, 5]);
    let row = Endpoint { ifindex: 7, mac: [2, 0, 0, 0, 0, 1], flags: 0, network: 1 };
    datapath.maps_mut().endpoints.put(key, row).unwrap();
    datapath.attach_sockets().unwrap();
    let links = datapath.links().unwrap();
    assert_eq!(datapath.restore_pins().unwrap(), 0);

    std::fs::remove_file(pins.join("weft_endpoints")).unwrap();
    assert_eq!(datapath.restore_pins().unwrap(), 1);
    let mut count = 0;
    for entry in std::fs::read_dir(&pins).unwrap().map(Result::unwrap).filter(|e| e.file_type().unwrap().is_file()) {
        std::fs::remove_file(entry.path()).unwrap();
        count += 1;
    }
    assert!(count > 0);
    assert_eq!(datapath.restore_pins().unwrap(), count);
    assert_eq!(datapath.links().unwrap(), links, "links are as they were");

    // The folder too, with the links in it.
    std::fs::remove_dir_all(&pins).unwrap();
    assert_eq!(datapath.restore_pins().unwrap(), count);
    assert_eq!(datapath.links().unwrap(), []);
    datapath.attach_sockets().unwrap();
    assert_eq!(datapath.links().unwrap(), links);

    // An agent that comes later finds the same maps.
    datapath.maps_mut().set_config(&Config { uplink_mtu: 77, ..Config::default() }).unwrap();
    let next = place.open();
    assert_eq!(next.maps().endpoints.rows().unwrap().into_iter().collect::<Vec<_>>(), [(key, row)]);
    assert_eq!(next.maps().config().unwrap().uplink_mtu, 77);
}

#[test]
fn without_its_bpffs_the_datapath_says_what_to_do() {
    let place = Place::new();
    let mut datapath = place.open();
    umount2(&place.bpffs, MntFlags::MNT_DETACH).unwrap();
    let error = datapath.restore_pins().unwrap_err();
    let want = format!("no bpffs at {} any more: it was unmounted; restart weftd, which mounts it again", place.bpffs.display());
    assert_eq!(error.to_string(), want);
    assert!(!place.paths.pins().exists(), "nothing is made in the folder beneath");
    // As the next agent does.
    let _mounted = mounts::ensure_bpffs(&place.bpffs).unwrap();
    place.open();
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
        "map {}: has rows of 4+8 bytes and room for 16384 of them, not 8+48 and 16384; `weftd cleanup` removes it",
        pin.display()
    );
    assert_eq!(error.to_string(), want);
    cleanup(&place.asked()).unwrap();
    let _mounted = mounts::ensure_bpffs(&place.bpffs).unwrap();
    place.open();
}

#[test]
fn in_a_mount_namespace_of_its_own_the_agent_pins_in_that_of_process_one() {
    // This test's own process 1, which it may look at whatever it lacks outside.
    const INNER: &str = "WEFT_TEST_IS_PROCESS_ONE";
    if std::env::var_os(INNER).is_none() {
        let exe = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--"]).arg(exe).args(["--exact", "--nocapture"]);
        command.arg("links::in_a_mount_namespace_of_its_own_the_agent_pins_in_that_of_process_one").env(INNER, "1");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bpf");
    std::thread::scope(|scope| {
        let with_own_mounts = || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            let bpffs = mounts::ensure_bpffs(&path).unwrap();
            assert_eq!(bpffs.note(), None);
            let paths = Paths { bpffs: bpffs.path().to_owned(), cgroup: "/".into() };
            let mut datapath = Datapath::open(&paths).unwrap();
            datapath.maps_mut().set_config(&Config { uplink_mtu: 9, ..Config::default() }).unwrap();
            assert!(!path.join("v1").exists(), "not in this namespace");
        };
        scope.spawn(with_own_mounts).join().unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
    // That thread and its namespace are gone; an agent elsewhere finds the pins.
    let again = mounts::ensure_bpffs(&path).unwrap();
    let paths = Paths { bpffs: again.path().to_owned(), cgroup: "/".into() };
    assert_eq!(Datapath::open(&paths).unwrap().maps().config().unwrap().uplink_mtu, 9);
    drop(again);
    cleanup(&Paths { bpffs: path.clone(), cgroup: "/".into() }).unwrap();
    assert!(!path.exists());
}

#[test]
fn without_privilege_the_refusal_says_so() {
    let place = Place::new();
    std::thread::scope(|scope| {
        let unprivileged = || {
            drop_capabilities();
            let error = Datapath::open(&place.paths).unwrap_err();
            assert!(error.is_not_permitted(), "{error:#?}");
        };
        scope.spawn(unprivileged).join().unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
    place.open();
}

/// Takes from the calling thread, and from no other, what bpf(2) asks for.
fn drop_capabilities() {
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    // linux/capability.h, version 3: two sets of effective, permitted, inheritable.
    let mut header = [0x2008_0522_u32, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: both structures have the layout and size of version 3.
    let read = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    assert_eq!(read, 0);
    for capability in [NET_ADMIN, SYS_ADMIN, PERFMON, BPF] {
        sets[capability as usize / 32][0] &= !(1 << (capability % 32));
    }
    // SAFETY: as above.
    let written = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_mut_ptr()) };
    assert_eq!(written, 0);
}

#[test]
fn fifty_thousand_services_of_five_backends_fit() {
    let place = Place::new();
    let mut datapath = place.open();
    let maps = datapath.maps_mut();
    for service in 0..50_000_u32 {
        for index in 0..5 {
            let id = service * 5 + index;
            let backend = Backend { addr: Be32::from_native(0x0af4_0000 + id), ..Backend::default() };
            maps.backends.put(id, backend).unwrap();
            maps.slots.put(SlotKey { service, index }, id).unwrap();
        }
        let key = FrontendKey { vip: Be32::from_native(0x0a70_0000 + service), ..FrontendKey::default() };
        maps.frontends.put(key, Frontend { service, count: 5, network: 1, flags: 0 }).unwrap();
    }
    assert_eq!(maps.frontends.rows().unwrap().len(), 50_000);
    assert_eq!(maps.slots.rows().unwrap().len(), 250_000);
    assert_eq!(maps.backends.rows().unwrap().len(), 250_000);
}

#[test]
fn replacing_the_programs_loses_no_packet() {
    let (mut one, mut two) = two_hosts(1);
    let target = two.containers[0].addr;
    let before = one.counters();
    let ping = one.containers[0].netns.command("ping");
    let sent = steady::beside(ping, target, |_| {
        one.datapath = one.place.open();
        one.attach();
        two.datapath = two.place.open();
        two.attach();
    });
    let moved = one.since(&before);
    assert_eq!(moved.get(&weft_abi::Verdict::Encapsulated), Some(&sent), "{moved:?}");
}
