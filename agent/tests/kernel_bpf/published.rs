//! Published ports at the host's own loopback: clients are python3 processes in the host's namespace, the server is in a
//! container. What IPv6 does is seen in the scenarios, where containers have it.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use weft_abi::maps::{NETWORK_ALL, PROTO_TCP, PROTO_UDP};
use weft_abi::{Be16, Be128, Config, PortKey, PortTarget, Verdict};
use weft_agent::kernel::bpf::netns_cookie_of;

use crate::lab::{Host, two_hosts};
use crate::sockets::{Server, client, serve};

/// Port 80 of the loopback and 81 of 127.0.0.5 lead to the server in the second container.
fn publishing_host() -> (Host, Host, Server) {
    let (mut one, two) = two_hosts(2);
    let server = serve(&one.containers[1].netns, one.containers[1].addr);
    let cookie = netns_cookie_of(one.netns.open().as_fd()).unwrap();
    let target = PortTarget { addr: one.containers[1].addr.into(), port: Be16::from_native(8080), pad: 0 };
    let maps = one.datapath.maps_mut();
    maps.netns.put(cookie, NETWORK_ALL).unwrap();
    for (named, port) in [([127, 0, 0, 1], 80), ([127, 0, 0, 5], 81)] {
        for proto in [PROTO_TCP, PROTO_UDP] {
            let addr = Be128::from(Ipv4Addr::from(named));
            maps.ports.put(PortKey { addr, port: Be16::from_native(port), proto, pad: 0 }, target).unwrap();
        }
    }
    let config = Config { flags: Config::PUBLISHED, ..maps.config().unwrap() };
    maps.set_config(&config).unwrap();
    one.datapath.attach_sockets().unwrap();
    (one, two, server)
}

#[test]
fn the_hosts_loopback_leads_to_the_container_and_sockets_name_what_was_asked() {
    let (one, _two, _server) = publishing_host();
    let before = one.counters();
    client(
        &one,
        &one.netns,
        &[one.containers[1].addr],
        r#"
LO = '127.0.0.1'
for family in (V4, V6):
    for named in (LO, '0.0.0.0'):
        s = sock(family, T); s.connect(at(family, named, 80))
        same(s.getpeername()[:2], at(family, LO, 80), 'getpeername')
        same({s.recv(100).decode()}, BACKENDS, 'server'); s.close()
    s = sock(family, U); s.connect(at(family, LO, 80))
    s.send(b'x'); data, who = s.recvfrom(100)
    same(({data.decode()}, who[:2]), (BACKENDS, at(family, LO, 80)), 'connected recvfrom')
    s = sock(family, U)
    for named, port in ((LO, 80), ('127.0.0.5', 81), (LO, 80)):
        s.sendto(b'x', at(family, named, port)); data, who = s.recvfrom(100)
        same(who[:2], at(family, named, port), 'recvfrom')
    # What nobody published is the loopback's own.
    refused('another port', lambda: sock(family, T).connect(at(family, LO, 81)))
    refused('another address', lambda: sock(family, T).connect(at(family, '127.0.0.2', 80)))
server = socket.socket(V4, T); server.bind((LO, 0)); server.listen(1)
s = sock(V4, T); s.connect(server.getsockname())
same(s.getpeername(), server.getsockname(), 'a server of the host itself')
"#,
    );
    let moved = one.since(&before);
    assert!(moved[&Verdict::SocketTranslated] >= 12 && moved[&Verdict::SocketReverse] >= 12, "{moved:?}");
}

#[test]
fn containers_and_a_host_that_publishes_nothing_have_their_loopback_to_themselves() {
    let (mut one, _two, _server) = publishing_host();
    let is_refused = "refused('the loopback', lambda: sock(V4, T).connect(('127.0.0.1', 80)))";
    client(&one, &one.containers[0].netns, &[], is_refused);
    client(&one, &one.netns, &[], "sock(V4, T).connect(('127.0.0.1', 80))");
    let maps = one.datapath.maps_mut();
    let config = Config { flags: 0, ..maps.config().unwrap() };
    maps.set_config(&config).unwrap();
    client(&one, &one.netns, &[], is_refused);
}
