//! What somebody else does to maps, links and pins is seen by a look at them, whatever their size, and only then.

use std::collections::BTreeMap;
use std::process::Command;

use weft_abi::{Backend, Be32, Be128, Endpoint, RangeKey};
use weft_agent::kernel::bpf::{Budget, Datapath, Disturbed, Table};

use crate::lab::{Netns, Place, run, unique};

fn endpoint(ifindex: u32) -> Endpoint {
    Endpoint { ifindex, mac: [2, 0, 0, 0, 0, 1], flags: 0, network: 1 }
}

fn address(n: u32) -> Be32 {
    Be32::from_native(0x0af4_0000 + n)
}

/// `bpftool map <verb> pinned <pin> key <bytes> [value <bytes>]`: another process.
fn bpftool(verb: &str, place: &Place, map: &str, key: &[u8], value: &[u8]) {
    let bytes = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    let pin = place.paths.pins().join(map);
    let value = if value.is_empty() { String::new() } else { format!(" value {}", bytes(value)) };
    run(&format!("bpftool map {verb} pinned {} key {}{value}", pin.display(), bytes(key)));
}

/// What looks find until the whole map was looked at.
fn found<K: aya::Pod + Ord, V: aya::Pod + PartialEq>(table: &mut Table<K, V>, expected: &BTreeMap<K, V>) -> Option<&'static str> {
    // A thousand nanoseconds are a row or two at a time, or the least that is read at once.
    (0..expected.len() + 2).find_map(|_| table.look(expected, &mut Budget::nanoseconds(1_000)).unwrap())
}

/// A datapath whose `weft_endpoints` holds so many rows, and the rows.
fn filled(place: &Place, rows: u32) -> (Datapath, BTreeMap<Be32, Endpoint>) {
    let mut datapath = place.open();
    let expected: BTreeMap<_, _> = (0..rows).map(|n| (address(n), endpoint(n))).collect();
    for (key, row) in &expected {
        datapath.maps_mut().endpoints.put(key, row).unwrap();
    }
    datapath.maps_mut().settle();
    (datapath, expected)
}

#[test]
fn rows_that_another_process_changes_removes_or_adds_are_seen_in_small_and_large_maps() {
    // Few rows are looked up one by one, many are walked: both ways, and both ends of each.
    for rows in [3, 2_000] {
        let place = Place::new();
        let (mut datapath, expected) = filled(&place, rows);
        let map = "weft_endpoints";
        let bytes = |n: u32| address(n).to_bytes();
        let table = &mut datapath.maps_mut().endpoints;
        assert_eq!(found(table, &expected), None, "{rows} rows as they should be");
        for n in [0, rows - 1] {
            bpftool("update", &place, map, &bytes(n), &[9; size_of::<Endpoint>()]);
            assert!(table.has_as_many_rows());
            assert!(found(table, &expected).is_some(), "row {n} of {rows} was changed");
            table.put(address(n), endpoint(n)).unwrap();
            assert_eq!(found(table, &expected), None);

            bpftool("delete", &place, map, &bytes(n), &[]);
            assert!(!table.has_as_many_rows());
            let at_once = table.look(&expected, &mut Budget::nanoseconds(0)).unwrap();
            assert!(at_once.is_some(), "row {n} of {rows} was removed");
            table.put(address(n), endpoint(n)).unwrap();
            assert_eq!(found(table, &expected), None);
        }
        bpftool("update", &place, map, &bytes(rows), &[9; size_of::<Endpoint>()]);
        assert!(table.look(&expected, &mut Budget::nanoseconds(0)).unwrap().is_some(), "a row too many");
        // One more and one less: as many as before.
        bpftool("delete", &place, map, &bytes(0), &[]);
        assert!(table.has_as_many_rows());
        assert!(found(table, &expected).is_some());
    }
}

#[test]
fn rows_that_this_agent_writes_are_no_disturbance() {
    let place = Place::new();
    let (mut datapath, mut expected) = filled(&place, 500);
    for n in 400..700 {
        let table = &mut datapath.maps_mut().endpoints;
        // In the middle of a walk.
        assert_eq!(table.look(&expected, &mut Budget::nanoseconds(20_000)).unwrap(), None);
        table.put(address(n), endpoint(1)).unwrap();
        expected.insert(address(n), endpoint(1));
        table.delete(&address(n - 400)).unwrap();
        expected.remove(&address(n - 400));
        table.settle();
    }
    assert_eq!(found(&mut datapath.maps_mut().endpoints, &expected), None);
}

#[test]
fn a_trie_is_looked_at_row_by_row() {
    let place = Place::new();
    let mut datapath = place.open();
    let table = &mut datapath.maps_mut().ranges;
    let range = |n: u8| RangeKey { prefix_len: 112, addr: Be128::mapped(Be32::from_bytes([10, n, 0, 0])) };
    let expected: BTreeMap<RangeKey, u32> = (0..200).map(|n| (range(n), u32::from(n))).collect();
    for (key, network) in &expected {
        table.put(key, network).unwrap();
    }
    table.settle();
    assert_eq!(found(table, &expected), None);
    table.put(range(199), 7).unwrap();
    assert!(found(table, &expected).is_some());
    table.put(range(199), 199).unwrap();
    table.delete(&range(0)).unwrap();
    assert!(!table.has_as_many_rows());
    table.put(RangeKey { prefix_len: 104, addr: range(0).addr }, 0).unwrap();
    assert!(table.has_as_many_rows());
}

#[test]
fn the_largest_map_is_walked_in_slices() {
    let place = Place::new();
    let mut datapath = place.open();
    let table = &mut datapath.maps_mut().backends;
    let row = |id: u32| Backend { addr: address(id), ..Backend::default() };
    let expected: BTreeMap<u32, Backend> = (0..20_000).map(|id| (id, row(id))).collect();
    for (id, backend) in &expected {
        table.put(id, backend).unwrap();
    }
    table.settle();
    // Twice the whole map, and no slice is all of it.
    let slices = |table: &mut Table<u32, Backend>| -> Vec<Option<&'static str>> {
        let slice = |table: &mut Table<u32, Backend>| table.look(&expected, &mut Budget::nanoseconds(400_000)).unwrap();
        (0..24).map(|_| slice(table)).collect()
    };
    assert!(slices(table).iter().all(Option::is_none));
    table.put(19_999, Backend::default()).unwrap();
    let seen = slices(table).iter().filter(|found| found.is_some()).count();
    assert!((2..=3).contains(&seen), "{seen}");
}

#[test]
fn links_and_pins_that_are_taken_away_are_seen_and_put_back_without_a_second_program() {
    let place = Place::new();
    let netns = Netns::new(unique());
    netns.ip("link add v0 type veth peer name v1");
    let (v0, v1) = (netns.ifindex("v0"), netns.ifindex("v1"));
    let mut datapath = place.open();
    let attach = |datapath: &mut Datapath| {
        netns.enter(|| {
            datapath.attach_sockets().unwrap();
            datapath.attach_uplink(v0).unwrap();
            datapath.attach_container("web", v1).unwrap();
        });
    };
    attach(&mut datapath);
    let links = datapath.links().unwrap();
    assert_eq!(datapath.disturbed(), None);
    let pins = place.paths.pins();

    for link in ["uplink", "container-web", "connect4"] {
        let pin = pins.join("links").join(link);
        // A pin only: the link lives on, and is pinned again.
        let attached = shown(&pin);
        std::fs::remove_file(&pin).unwrap();
        assert_eq!(datapath.disturbed(), Some(Disturbed::Pin(format!("the pin of link {link}"))));
        attach(&mut datapath);
        assert_eq!(shown(&pin)["id"], attached["id"], "the same link");
        assert_eq!(datapath.disturbed(), None);

        run(&format!("bpftool link detach pinned {}", pin.display()));
        assert_eq!(datapath.disturbed(), Some(Disturbed::Link(link.to_owned())));
        attach(&mut datapath);
        assert_ne!(shown(&pin)["id"], attached["id"], "a new link");
        assert_eq!((datapath.disturbed(), datapath.links().unwrap()), (None, links.clone()));
    }

    std::fs::remove_file(pins.join("weft_peers")).unwrap();
    assert_eq!(datapath.disturbed(), Some(Disturbed::Pin("the pin of map weft_peers".to_owned())));
    assert_eq!(datapath.restore_pins().unwrap(), 1);
    assert_eq!(datapath.disturbed(), None);

    // All of it: links live on as long as somebody has them open.
    std::fs::remove_dir_all(&pins).unwrap();
    assert_eq!(datapath.disturbed(), Some(Disturbed::Pin("a folder of pins".to_owned())));
    datapath.restore_pins().unwrap();
    attach(&mut datapath);
    assert_eq!((datapath.disturbed(), datapath.links().unwrap()), (None, links));
}

/// A pinned link, as bpftool shows it.
fn shown(pin: &std::path::Path) -> serde_json::Value {
    let output = Command::new("bpftool").args(["-j", "link", "show", "pinned"]).arg(pin).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}
