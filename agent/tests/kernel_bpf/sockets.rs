//! Virtual addresses at real sockets: clients are python3 processes in a cgroup, servers are in containers.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use weft_abi::maps::{NETWORK_DEFAULT, PROTO_TCP, PROTO_UDP};
use weft_abi::{Backend, Be16, Frontend, FrontendKey, SlotKey, Verdict};
use weft_agent::kernel::bpf::Maps;

use crate::lab::{Host, Netns, eventually, two_hosts};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 112, 0, 7);
const EMPTY: Ipv4Addr = Ipv4Addr::new(10, 112, 0, 8);
const OTHER_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 112, 0, 9);

/// Answers every connection and every datagram on port 8080 with its own address.
const SERVER: &str = r#"
import socket, sys, threading
me = sys.argv[1].encode()
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(('', 8080)); t.listen(64)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', 8080))
def datagrams():
    while True:
        _, who = u.recvfrom(100)
        u.sendto(me, who)
threading.Thread(target=datagrams, daemon=True).start()
print('ready', flush=True)
while True:
    c, _ = t.accept()
    c.sendall(me); c.close()
"#;

/// What the client scripts have in common.
const PRELUDE: &str = r#"
import socket, sys, errno
V4, V6, T, U = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
VIP, EMPTY = '10.112.0.7', '10.112.0.8'
BACKENDS = set(sys.argv[1].split(','))
def sock(family, kind):
    s = socket.socket(family, kind); s.settimeout(10)
    return s
def at(family, host, port):
    return (host, port) if family == V4 else ('::ffff:' + host, port)
def same(got, want, what):
    assert got == want, '%s: %r is not %r' % (what, got, want)
def refused(what, call):
    try:
        call()
    except OSError as e:
        same(e.errno, errno.ECONNREFUSED, what)
    else:
        raise AssertionError(what + ': not refused')
"#;

pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn serve(netns: &Netns, addr: Ipv4Addr) -> Server {
    let mut command = netns.command("python3");
    let child = command.args(["-c", SERVER, &addr.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut server = Server(child);
    let mut line = String::new();
    let out = server.0.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    server
}

/// Puts a command into a cgroup before it starts.
fn in_cgroup<'a>(command: &'a mut Command, cgroup: &Path) -> &'a mut Command {
    let procs = std::fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).unwrap();
    // SAFETY: between fork and exec only write(2) is called, on a descriptor that is open.
    unsafe {
        command.pre_exec(move || {
            use std::os::fd::AsRawFd;
            match libc::write(procs.as_raw_fd(), b"0".as_ptr().cast(), 1) {
                1 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    }
}

/// Runs a script against the virtual addresses, in a namespace and in the host's cgroup.
pub fn client(host: &Host, netns: &Netns, backends: &[Ipv4Addr], script: &str) {
    let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
    let mut command = netns.command("python3");
    command.args(["-c", &format!("{PRELUDE}{script}"), &backends.join(",")]);
    let output = in_cgroup(&mut command, &host.place.paths.cgroup).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn publish(maps: &mut Maps, vip: Ipv4Addr, service: u32, network: u32, backends: &[Ipv4Addr]) {
    for proto in [PROTO_TCP, PROTO_UDP] {
        let service = service * 2 + u32::from(proto == PROTO_UDP);
        for (i, addr) in backends.iter().enumerate() {
            let (index, id) = (i as u32, service * 100 + i as u32);
            let row = Backend { addr: (*addr).into(), port: Be16::from_native(8080), proto, pad: 0 };
            maps.backends.put(id, row).unwrap();
            maps.slots.put(SlotKey { service, index }, id).unwrap();
        }
        let key = FrontendKey { vip: vip.into(), port: Be16::from_native(80), proto, pad: 0 };
        let count = backends.len() as u32;
        maps.frontends.put(key, Frontend { service, count, network, flags: 0 }).unwrap();
    }
}

/// Host 1 with a client container, a server container here and one on host 2, and the hooks on a cgroup of its own.
struct Scene {
    one: Host,
    two: Host,
    backends: [Ipv4Addr; 2],
    _servers: [Server; 2],
}

fn scene() -> Scene {
    let (mut one, two) = two_hosts(2);
    let (near, far) = (&one.containers[1], &two.containers[0]);
    let backends = [near.addr, far.addr];
    let servers = [serve(&near.netns, near.addr), serve(&far.netns, far.addr)];
    let maps = one.datapath.maps_mut();
    publish(maps, VIP, 1, NETWORK_DEFAULT, &backends);
    publish(maps, EMPTY, 2, NETWORK_DEFAULT, &[]);
    publish(maps, OTHER_NETWORK, 3, 2, &backends);
    one.datapath.attach_sockets().unwrap();
    Scene { one, two, backends, _servers: servers }
}

impl Scene {
    fn client(&self, script: &str) {
        client(&self.one, &self.one.containers[0].netns, &self.backends, script);
    }
}

#[test]
fn connections_to_a_virtual_address_reach_all_backends_and_name_the_address() {
    let scene = scene();
    let before = scene.one.counters();
    scene.client(
        r#"
for family in (V4, V6):
    seen = set()
    for _ in range(40):
        s = sock(family, T); s.connect(at(family, VIP, 80))
        same(s.getpeername()[:2], at(family, VIP, 80), 'getpeername')
        seen.add(s.recv(100).decode()); s.close()
    same(seen, BACKENDS, 'backends')
"#,
    );
    let moved = scene.one.since(&before);
    assert_eq!(moved.get(&Verdict::SocketTranslated), Some(&80), "{moved:?}");
    assert_eq!(moved.get(&Verdict::SocketReverse), Some(&80), "{moved:?}");
    assert!(moved.contains_key(&Verdict::Encapsulated), "the far backend was reached: {moved:?}");
    assert!(scene.two.counters()[&Verdict::Decapsulated].packets > 0);
}

#[test]
fn datagrams_answer_from_the_address_that_was_asked() {
    let scene = scene();
    scene.client(
        r#"
for family in (V4, V6):
    # Connected.
    s = sock(family, U); s.connect(at(family, VIP, 80))
    same(s.getpeername()[:2], at(family, VIP, 80), 'getpeername')
    s.send(b'x'); first = s.recv(100).decode(); assert first in BACKENDS, first
    s.send(b'x'); data, who = s.recvfrom(100)
    same((data.decode(), who[:2]), (first, at(family, VIP, 80)), 'connected recvfrom')
    # Not connected: one socket, one backend; many sockets, all backends.
    seen = set()
    for _ in range(40):
        s = sock(family, U)
        own = set()
        for _ in range(3):
            s.sendto(b'x', at(family, VIP, 80)); data, who = s.recvfrom(100)
            same(who[:2], at(family, VIP, 80), 'recvfrom')
            own.add(data.decode())
        same(len(own), 1, 'one backend for a socket')
        seen |= own
    same(seen, BACKENDS, 'backends')
"#,
    );
}

#[test]
fn refusals_come_at_once_and_say_connection_refused() {
    let scene = scene();
    let before = scene.one.counters();
    scene.client(
        r#"
for family in (V4, V6):
    for kind in (T, U):
        for what, host, port in (('port', VIP, 81), ('free', '10.112.9.9', 80), ('empty', EMPTY, 80), ('network', '10.112.0.9', 80)):
            refused('connect ' + what, lambda: sock(family, kind).connect(at(family, host, port)))
    for what, host, port in (('port', VIP, 81), ('free', '10.112.9.9', 80), ('empty', EMPTY, 80), ('network', '10.112.0.9', 80)):
        refused('sendto ' + what, lambda: sock(family, U).sendto(b'x', at(family, host, port)))
"#,
    );
    let moved = scene.one.since(&before);
    assert_eq!(moved.get(&Verdict::SocketNoBackend), Some(&6), "{moved:?}");
    assert_eq!(moved.get(&Verdict::SocketUnlisted), Some(&18), "{moved:?}");
}

#[test]
fn a_backend_that_is_named_directly_is_shown_as_itself() {
    let scene = scene();
    scene.client(
        r#"
for family in (V4, V6):
    s = sock(family, U); s.connect(at(family, VIP, 80))
    s.send(b'x'); backend = s.recv(100).decode()
    s.connect(at(family, backend, 8080))
    same(s.getpeername()[:2], at(family, backend, 8080), 'getpeername after a direct connect')
    s.send(b'x'); _, who = s.recvfrom(100)
    same(who[:2], at(family, backend, 8080), 'recvfrom after a direct connect')
    s = sock(family, U)
    s.sendto(b'x', at(family, VIP, 80)); backend = s.recvfrom(100)[0].decode()
    s.sendto(b'x', at(family, backend, 8080)); _, who = s.recvfrom(100)
    same(who[:2], at(family, backend, 8080), 'recvfrom after a direct sendto')
"#,
    );
}

#[test]
fn a_removed_service_refuses_new_connections_and_keeps_the_open_one() {
    let mut scene = scene();
    // A connection that stays open while the service goes: a pipe tells the script when.
    let script = format!(
        "{PRELUDE}{}",
        r#"
s = sock(V4, U); s.connect((VIP, 80))
s.send(b'x'); backend = s.recv(100).decode()
print('open', flush=True); sys.stdin.readline()
refused('connect to a removed service', lambda: sock(V4, T).connect((VIP, 80)))
s.send(b'x'); data, who = s.recvfrom(100)
same((data.decode(), who[0]), (backend, backend), 'the raw address, as nobody owns the other')
"#
    );
    let netns = &scene.one.containers[0].netns;
    let mut command = netns.command("python3");
    command.args(["-c", &script, ""]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Server(in_cgroup(&mut command, &scene.one.place.paths.cgroup).spawn().unwrap());
    let mut out = std::io::BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "open\n");
    let maps = scene.one.datapath.maps_mut();
    for proto in [PROTO_TCP, PROTO_UDP] {
        let key = FrontendKey { vip: VIP.into(), port: Be16::from_native(80), proto, pad: 0 };
        maps.frontends.delete(&key).unwrap();
    }
    drop(child.0.stdin.take());
    let status = child.0.wait().unwrap();
    let mut errors = String::new();
    std::io::Read::read_to_string(child.0.stderr.as_mut().unwrap(), &mut errors).unwrap();
    assert!(status.success(), "{errors}");
}

#[test]
fn sockets_of_other_namespaces_and_cgroups_are_left_alone() {
    let mut scene = scene();
    let before = scene.one.counters();
    // Another namespace in the same cgroup: not one of ours.
    let foreign = Netns::new(crate::lab::unique());
    client(
        &scene.one,
        &foreign,
        &scene.backends,
        r#"
try:
    sock(V4, T).connect((VIP, 80))
except OSError as e:
    same(e.errno, errno.ENETUNREACH, 'untranslated, and no route')
else:
    raise AssertionError('connected')
"#,
    );
    assert_eq!(scene.one.since(&before).get(&Verdict::SocketOtherNetns), Some(&1));
    // The same namespace outside the cgroup: the hooks do not run.
    let before = scene.one.counters();
    let mut command = scene.one.containers[0].netns.command("python3");
    let script = "import socket\ns=socket.socket(); s.settimeout(5)\nprint(s.connect_ex(('10.112.0.7', 80)))";
    let output = command.args(["-c", script]).output().unwrap();
    let code: i32 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    assert_ne!(code, 0, "nothing translates outside the cgroup");
    let moved = scene.one.since(&before);
    assert!(moved.keys().all(|v| v.hook() != weft_abi::verdict::Hook::Socket), "{moved:?}");
    // A namespace that may see every network, as the host's own.
    let cookie = {
        use std::os::fd::AsFd;
        weft_agent::kernel::bpf::netns_cookie_of(scene.one.containers[0].netns.open().as_fd()).unwrap()
    };
    scene.one.datapath.maps_mut().netns.put(cookie, weft_abi::maps::NETWORK_ALL).unwrap();
    scene.client("s = sock(V4, T); s.connect(('10.112.0.9', 80)); assert s.recv(100).decode() in BACKENDS");
}

#[test]
fn hooks_go_on_without_the_agent_and_stop_when_detached() {
    let mut scene = scene();
    let connect = "s = sock(V4, T); s.connect((VIP, 80)); same(s.getpeername(), (VIP, 80), 'getpeername')";
    scene.client(connect);
    // The agent's descriptors are closed; the pins hold.
    let place = &scene.one.place;
    scene.one.datapath = place.open();
    scene.client(connect);
    for program in weft_agent::kernel::bpf::Program::SOCKETS {
        scene.one.datapath.detach(program.as_str()).unwrap();
    }
    // The kernel lets a program go after a grace period.
    let one = &scene.one;
    eventually("connections are no longer translated", || {
        let before = one.counters();
        let mut command = one.containers[0].netns.command("python3");
        let script = "import socket\ns=socket.socket(); s.settimeout(2)\ns.connect_ex(('10.112.0.7', 80))";
        in_cgroup(command.args(["-c", script]), &one.place.paths.cgroup).output().unwrap();
        !one.since(&before).contains_key(&Verdict::SocketTranslated)
    });
}

#[test]
fn open_sockets_show_the_address_that_they_named_after_an_upgrade_to_another_layout() {
    use weft_agent::kernel::bpf::upgrade::{Group, SHARED, others, share};

    let mut scene = scene();
    let script = format!(
        "{PRELUDE}{}",
        r#"
t = sock(V4, T); t.connect((VIP, 80))
u = sock(V4, U); u.sendto(b'x', (VIP, 80)); u.recv(100)
print('open', flush=True); sys.stdin.readline()
same(t.getpeername(), (VIP, 80), 'getpeername')
u.sendto(b'x', (VIP, 80)); same(u.recvfrom(100)[1], (VIP, 80), 'recvfrom')
t = sock(V4, T); t.connect((VIP, 80)); same(t.getpeername(), (VIP, 80), 'a new connection')
"#
    );
    let mut command = scene.one.containers[0].netns.command("python3");
    command.args(["-c", &script, ""]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Server(in_cgroup(&mut command, &scene.one.place.paths.cgroup).spawn().unwrap());
    let mut out = std::io::BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "open\n");

    let place = &scene.one.place;
    let older = place.paths.bpffs.join(format!("v{}", weft_abi::LAYOUT_VERSION - 1));
    std::fs::rename(place.paths.pins(), &older).unwrap();
    std::fs::create_dir(place.paths.pins()).unwrap();
    // As if the layout before had these maps in this meaning.
    let groups = SHARED.map(|group| Group { since: 0, ..group });
    share(&place.paths.pins(), &others(&place.paths.bpffs).unwrap(), &groups).unwrap();
    scene.one.datapath = place.open();
    scene.one.fill();
    scene.one.attach();
    scene.one.datapath.attach_sockets().unwrap();
    scene.one.datapath.retire_others().unwrap();

    drop(child.0.stdin.take());
    let status = child.0.wait().unwrap();
    let mut errors = String::new();
    std::io::Read::read_to_string(child.0.stderr.as_mut().unwrap(), &mut errors).unwrap();
    assert!(status.success(), "{errors}");
}
