//! Paths that people give as network namespaces.

use std::path::Path;

use weft_agent::kernel::netns::{NetNs, NetnsError};

use crate::lab::{Place, chain};

fn refusal(path: &str) -> (NetnsError, String) {
    let error = NetNs::open(Path::new(path)).unwrap_err();
    let said = chain(&error);
    (error, said)
}

#[test]
fn what_is_no_network_namespace_is_refused_with_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("file"), "").unwrap();
    nix::unistd::mkfifo(dir.path().join("pipe").as_path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, is) in [
        (at(""), "a directory"),
        (at("file"), "a plain file"),
        // Opening it to read would block for ever.
        (at("pipe"), "a device, pipe or socket"),
        ("/dev/null".to_owned(), "a device, pipe or socket"),
        ("/proc/self/ns/mnt".to_owned(), "a namespace of another type"),
    ] {
        let (error, said) = refusal(&path);
        assert!(matches!(error, NetnsError::Other { .. }), "{error:?}");
        assert!(said.starts_with(&format!("{path} is no network namespace: it is {is}")), "{said}");
    }
}

#[test]
fn a_path_that_leads_nowhere_is_named() {
    let (error, said) = refusal("/run/netns/weft-no-such-namespace");
    assert!(matches!(error, NetnsError::Open { .. }), "{error:?}");
    assert_eq!(said, "open network namespace /run/netns/weft-no-such-namespace: No such file or directory (os error 2)");
    assert!(matches!(refusal("/proc/4194399/ns/net").0, NetnsError::Open { .. }));
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        let (error, said) = refusal(path);
        assert!(matches!(error, NetnsError::Own { .. }), "{error:?}");
        assert_eq!(said, format!("{path} is this host's own network namespace; a container needs one of its own"));
        NetNs::open_any(Path::new(path)).unwrap();
    }
}

#[test]
fn two_paths_to_one_namespace_have_one_identity() {
    let (one, two) = (Place::new(), Place::new());
    let (a, b, c) = (one.netns(), one.netns(), two.netns());
    assert_eq!((a.id(), a.cookie()), (b.id(), b.cookie()));
    assert_ne!(a.id(), c.id());
    assert_ne!(a.cookie(), c.cookie());
    assert_eq!(a.path(), one.path());
}

#[test]
fn a_visit_leaves_the_visiting_thread_where_it_was() {
    let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = here();
    let place = Place::new();
    let there = place.netns().run(here).unwrap();
    assert_ne!(there, before);
    assert_eq!(here(), before);
}
