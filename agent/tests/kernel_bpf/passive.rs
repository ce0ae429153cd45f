//! How connections to backends go, as the second object tells: real sockets, real refusals, real silence.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use weft_abi::maps::{NETWORK_DEFAULT, PROTO_TCP};
use weft_abi::passive::Told;
use weft_abi::{Be16, FrontendKey};
use weft_agent::kernel::bpf::Passive;

use crate::lab::{Host, two_hosts};
use crate::sockets::{client, publish, serve};

/// Watched.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 112, 0, 7);
/// Not watched; the same backend stands behind it.
const UNWATCHED: Ipv4Addr = Ipv4Addr::new(10, 112, 0, 8);

fn key(vip: Ipv4Addr) -> FrontendKey {
    FrontendKey { vip: vip.into(), port: Be16::from_native(80), proto: PROTO_TCP, pad: 0 }
}

/// A host with a client, and a backend on another one.
struct Scene {
    one: Host,
    two: Host,
    passive: Passive,
}

impl Scene {
    fn new() -> Self {
        let (mut one, two) = two_hosts(1);
        let backend = [two.containers[0].addr];
        publish(one.datapath.maps_mut(), VIP, 1, NETWORK_DEFAULT, &backend);
        publish(one.datapath.maps_mut(), UNWATCHED, 2, NETWORK_DEFAULT, &backend);
        one.datapath.attach_sockets().unwrap();
        let mut passive = Passive::attach(&one.place.paths).unwrap();
        passive.watch(&BTreeSet::from([key(VIP)])).unwrap();
        Self { one, two, passive }
    }

    fn backend(&self) -> Ipv4Addr {
        self.two.containers[0].addr
    }

    /// Runs a script in the client, and gives what was told of its connections: each comes before the call that made it returns.
    fn told(&mut self, script: &str) -> Vec<u32> {
        client(&self.one, &self.one.containers[0].netns, &[self.backend()], script);
        let mut all = Vec::new();
        while let Some(told) = self.passive.next_told() {
            assert_eq!(told.pair.frontend, key(VIP), "{told:?}");
            assert_eq!((Ipv4Addr::from(told.pair.addr), told.pair.port.to_native()), (self.backend(), 8080), "{told:?}");
            all.push(told.outcome);
        }
        all
    }
}

const NOTHING: [u32; 0] = [];

const REFUSED: &str = r#"
for family in (V4, V6):
    s = sock(family, T)
    refused('the backend', lambda: s.connect(at(family, VIP, 80)))
"#;

const ANSWERED: &str = r#"
s = sock(V4, T); s.connect((VIP, 80)); s.recv(100); s.close()
"#;

#[test]
fn refusals_are_told_and_the_first_success_after_them_and_of_watched_frontends_only() {
    let mut scene = Scene::new();
    assert_eq!(scene.told(REFUSED), [Told::REFUSED; 2]);
    let elsewhere = r#"
for where in ((EMPTY, 80), (list(BACKENDS)[0], 8080)):
    s = sock(V4, T)
    refused('not by the watched address', lambda: s.connect(where))
"#;
    assert_eq!(scene.told(elsewhere), NOTHING, "neither another virtual address nor the backend by its own");

    let backend = scene.backend();
    let server = serve(&scene.two.containers[0].netns, backend);
    assert_eq!(scene.told(ANSWERED), [Told::ESTABLISHED]);
    assert_eq!(scene.told(ANSWERED), NOTHING, "nothing has failed since");
    drop(server);
    assert_eq!(scene.told(REFUSED), [Told::REFUSED; 2]);

    scene.passive.watch(&BTreeSet::new()).unwrap();
    assert_eq!(scene.told(REFUSED), NOTHING, "nobody wants to know");
    scene.passive.watch(&BTreeSet::from([key(VIP)])).unwrap();
    assert_eq!(scene.told(REFUSED), [Told::REFUSED; 2]);
}

#[test]
fn silence_is_told_when_the_client_gives_up_but_not_when_it_only_was_in_a_hurry() {
    let mut scene = Scene::new();
    let silent = &scene.two.containers[0];
    // Its stack takes what comes and says nothing.
    for rule in ["add table ip mute", "add chain ip mute in { type filter hook input priority 0; }", "add rule ip mute in drop"] {
        let output = silent.netns.command("nft").arg(rule).output().unwrap();
        assert!(output.status.success(), "{rule}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let patient = r#"
s = sock(V4, T); s.settimeout(0.5)
try:
    s.connect((VIP, 80))
except TimeoutError:
    s.close()
else:
    raise AssertionError('somebody answered')
"#;
    assert_eq!(scene.told(patient), [Told::UNANSWERED]);
    let quick = r#"
s = socket.socket(V4, T); s.setblocking(False)
same(s.connect_ex((VIP, 80)), errno.EINPROGRESS, 'connect'); s.close()
"#;
    // One of a few is quick on however busy a machine.
    assert!((0..20).any(|_| scene.told(quick).is_empty()));
}

#[test]
fn it_ends_with_the_agent_and_needs_the_first_objects_maps() {
    let scene = Scene::new();
    assert!(scene.passive.is_attached());
    let Scene { one, two, passive } = scene;
    let links = one.datapath.links().unwrap().len();
    drop(passive);
    assert_eq!(one.datapath.links().unwrap().len(), links, "it was never pinned");
    let mut scene = Scene { passive: Passive::attach(&one.place.paths).unwrap(), one, two };
    assert_eq!(scene.told(REFUSED), NOTHING, "a new one watches nothing yet");
    std::fs::remove_file(scene.one.place.paths.pins().join("weft_reverse")).unwrap();
    let error = Passive::attach(&scene.one.place.paths).unwrap_err().to_string();
    assert!(error.contains("weft_reverse"), "{error}");
    assert!(!scene.one.place.paths.pins().join("weft_reverse").exists(), "none was made in its place");
}
