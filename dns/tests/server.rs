//! The name server on real sockets of loopback: transports, limits, upstream servers, hostile clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may assume")]

#[path = "support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use prometheus_client::registry::Registry;
use support::World;
use support::net::{
    BIG, Upstream, addresses, any_port, eventually, name, own_address, question, question_edns, serving, tcp, tcp_receive,
    tcp_send, udp, udp_bytes,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;
use weft_dns::{Metrics, Server};

fn world() -> World {
    let mut world = World::new();
    world.put("/skydns/local/skydns/db/x1", r#"{"host":"10.0.0.1","port":5432}"#, false);
    world.put("/skydns/local/skydns/db/x2", r#"{"host":"10.0.0.2","port":5432}"#, false);
    world.put("/skydns/local/skydns/ext", r#"{"host":"www.example.com"}"#, false);
    world.put("/skydns/local/skydns/gone", r#"{"host":"nothing.example.com"}"#, false);
    world
}

fn crowd(instances: usize) -> World {
    let mut world = World::new();
    for n in 0..instances {
        let value = format!(r#"{{"host":"10.1.{}.{}","port":80}}"#, n / 256, n % 256);
        world.put(&format!("/skydns/local/skydns/many/instance-{n}"), &value, false);
    }
    world
}

#[tokio::test]
async fn udp_tcp_and_the_process_itself_get_the_same_answer() {
    let (server, at, _zone) = serving(Some(world().zone()), &[]).await;
    for record_type in [RecordType::A, RecordType::SRV, RecordType::AAAA, RecordType::SOA] {
        let asked = question("DB.skydns.local.", record_type);
        let (over_udp, over_tcp) = (udp(at, &asked).await, tcp(at, &asked).await);
        let local = server.query(name("DB.skydns.local."), record_type).await;
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list
        };
        let lines = |m: &hickory_proto::op::Message| sorted(m.all_sections().map(support::line).collect());
        assert_eq!(lines(&over_udp), lines(&over_tcp));
        assert_eq!(lines(&over_udp), lines(&local));
        for reply in [over_udp, over_tcp, local] {
            assert!(reply.authoritative && reply.recursion_available && reply.recursion_desired && !reply.truncation);
            assert!(reply.edns.is_none(), "who sends no OPT gets none");
            assert_eq!(reply.queries[0].name().to_ascii(), "DB.skydns.local.", "spelled as asked");
        }
    }
}

#[tokio::test]
async fn there_is_no_answer_before_there_is_a_zone_and_the_newest_one_after() {
    let upstream = Upstream::start(true).await;
    let (_server, at, zone) = serving(None, &[upstream.address]).await;
    for asked in ["db.skydns.local.", "www.example.com."] {
        let reply = udp(at, &question(asked, RecordType::A)).await;
        assert_eq!((reply.response_code, reply.authorities.len()), (ResponseCode::ServFail, 0));
    }
    assert_eq!(upstream.asked(), 0, "what may be our own is not asked of others");
    let mut world = world();
    zone.send_replace(Some(Arc::new(world.zone())));
    let asked = question("db.skydns.local.", RecordType::A);
    eventually("an answer from the first zone", async || udp(at, &asked).await.answers.len() == 2).await;
    world.delete(&["/skydns/local/skydns/db/x1"]);
    zone.send_replace(Some(Arc::new(world.zone())));
    eventually("an answer from the second zone", async || addresses(&udp(at, &asked).await) == ["10.0.0.2"]).await;
    // Whoever made the zones is gone: what is known stays known.
    zone.send_replace(None);
    drop(zone);
    assert_eq!(addresses(&udp(at, &asked).await), ["10.0.0.2"]);
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_cut_and_whole_over_tcp() {
    let (_server, at, _zone) = serving(Some(crowd(400).zone()), &[]).await;
    for (asked, limit) in [
        (question("many.skydns.local.", RecordType::A), 512),
        (question_edns("many.skydns.local.", RecordType::A, 100), 512),
        (question_edns("many.skydns.local.", RecordType::A, 900), 900),
        (question_edns("many.skydns.local.", RecordType::A, 65_535), 1232),
        (question_edns("many.skydns.local.", RecordType::SRV, 4096), 1232),
    ] {
        let bytes = udp_bytes(at, &asked.to_vec().unwrap()).await.unwrap();
        let cut = hickory_proto::op::Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= limit, "{} > {limit}", bytes.len());
        assert!(cut.truncation && !cut.answers.is_empty(), "{cut}");
        assert_eq!(cut.edns.is_some(), asked.edns.is_some());
        let whole = tcp(at, &asked).await;
        assert_eq!((whole.truncation, whole.answers.len()), (false, 400));
    }
}

#[tokio::test]
async fn additional_records_are_left_out_before_anything_is_cut() {
    let (_server, at, _zone) = serving(Some(crowd(14).zone()), &[]).await;
    let asked = question_edns("many.skydns.local.", RecordType::SRV, 1232);
    let reply = udp(at, &asked).await;
    assert_eq!((reply.truncation, reply.answers.len(), reply.additionals.len()), (false, 14, 14));
    let asked = question_edns("many.skydns.local.", RecordType::SRV, 800);
    let reply = udp(at, &asked).await;
    assert_eq!((reply.truncation, reply.answers.len(), reply.additionals.len()), (false, 14, 0));
}

#[tokio::test]
async fn edns_is_answered_in_kind() {
    let (_server, at, _zone) = serving(Some(world().zone()), &[]).await;
    let mut asked = question_edns("db.skydns.local.", RecordType::A, 4096);
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    for reply in [udp(at, &asked).await, tcp(at, &asked).await] {
        let edns: Edns = reply.edns.clone().unwrap();
        assert!(edns.flags().dnssec_ok && edns.version() == 0 && edns.max_payload() == 1232, "{reply}");
        assert_eq!(reply.answers.len(), 2);
    }
    asked.edns.as_mut().unwrap().set_version(1);
    for reply in [udp(at, &asked).await, tcp(at, &asked).await] {
        // 16 is BADVERS here; hickory reads it as the TSIG code of the same number.
        assert_eq!(u16::from(reply.response_code), 16);
        assert!(reply.answers.is_empty() && reply.edns.is_some_and(|e| e.version() == 0));
    }
}

#[tokio::test]
async fn what_is_no_plain_question_is_refused_by_its_kind() {
    let (_server, at, _zone) = serving(Some(world().zone()), &[]).await;
    let plain = || question("db.skydns.local.", RecordType::A);
    let mut notify = plain();
    notify.metadata.op_code = OpCode::Notify;
    let mut two = plain();
    two.add_query(Query::query(name("x.skydns.local."), RecordType::A));
    let mut none = plain();
    none.queries.clear();
    let mut chaos = plain();
    chaos.queries[0].set_query_class(DNSClass::CH);
    for (asked, code) in [
        (notify, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (chaos, ResponseCode::Refused),
        (question("skydns.local.", RecordType::AXFR), ResponseCode::Refused),
        (question("skydns.local.", RecordType::IXFR), ResponseCode::Refused),
    ] {
        for reply in [udp(at, &asked).await, tcp(at, &asked).await] {
            assert_eq!((reply.response_code, reply.answers.len()), (code, 0), "{asked}");
            assert_eq!(reply.message_type, MessageType::Response);
        }
    }
}

#[tokio::test]
async fn the_order_of_addresses_turns_and_chains_stay_first() {
    let upstream = Upstream::start(true).await;
    let (_server, at, _zone) = serving(Some(world().zone()), &[upstream.address]).await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..4 {
        first.insert(addresses(&udp(at, &question("db.skydns.local.", RecordType::A)).await)[0].clone());
        let reply = udp(at, &question("ext.skydns.local.", RecordType::A)).await;
        assert_eq!(reply.answers[0].record_type(), RecordType::CNAME);
    }
    assert_eq!(first.len(), 2, "each address is first at times");
}

#[tokio::test]
async fn other_names_are_asked_of_the_upstream_and_kept() {
    let upstream = Upstream::start(true).await;
    let (_server, at, _zone) = serving(Some(world().zone()), &[upstream.address]).await;
    let reply = udp(at, &question("WWW.example.com.", RecordType::A)).await;
    assert_eq!(addresses(&reply).len(), 2, "{reply}");
    assert!(!reply.authoritative && reply.recursion_available);
    assert!(reply.answers.iter().all(|r| r.name.eq_case(&name("WWW.example.com."))), "{reply}");
    let chain = tcp(at, &question("go.example.com.", RecordType::A)).await;
    assert_eq!((chain.answers[0].record_type(), addresses(&chain).len()), (RecordType::CNAME, 2));
    let nothing = udp(at, &question("nothing.example.com.", RecordType::A)).await;
    assert_eq!((nothing.response_code, nothing.authorities.len()), (ResponseCode::NXDomain, 1), "{nothing}");
    let no_data = udp(at, &question("www.example.com.", RecordType::AAAA)).await;
    assert_eq!((no_data.response_code, no_data.answers.len(), no_data.authorities.len()), (ResponseCode::NoError, 0, 1));

    // What is known of it is still said when it is gone, with less time to live, in the asker's spelling.
    upstream.stop().await;
    let reply = udp(at, &question("www.EXAMPLE.com.", RecordType::A)).await;
    assert_eq!(addresses(&reply).len(), 2);
    assert!(reply.answers.iter().all(|r| r.name.eq_case(&name("www.EXAMPLE.com.")) && r.ttl <= 600));
    let nothing = udp(at, &question("nothing.example.com.", RecordType::A)).await;
    assert_eq!(nothing.response_code, ResponseCode::NXDomain);
    // What is not known is not said to be nothing.
    let unknown = udp(at, &question("unknown.example.com.", RecordType::A)).await;
    assert_eq!((unknown.response_code, unknown.authorities.len()), (ResponseCode::ServFail, 0));
}

#[tokio::test]
async fn who_wants_no_recursion_gets_what_we_know_ourselves() {
    let upstream = Upstream::start(true).await;
    let (_server, at, _zone) = serving(Some(world().zone()), &[upstream.address]).await;
    let ask = async |text: &str| {
        let mut asked = question(text, RecordType::A);
        asked.metadata.recursion_desired = false;
        udp(at, &asked).await
    };
    assert_eq!(ask("www.example.com.").await.response_code, ResponseCode::Refused);
    let bare = ask("ext.skydns.local.").await;
    assert_eq!((bare.response_code, bare.answers.len()), (ResponseCode::NoError, 1));
    assert_eq!(addresses(&ask("db.skydns.local.").await).len(), 2);
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test]
async fn names_of_our_own_are_never_asked_of_others() {
    // This one has a zone of the same name, with other things in it.
    let upstream = Upstream::start(true).await;
    let (_server, at, _zone) = serving(Some(world().zone()), &[upstream.address]).await;
    for (asked, record_type, code) in [
        ("www.skydns.local.", RecordType::A, ResponseCode::NXDomain),
        ("big.skydns.local.", RecordType::TXT, ResponseCode::NXDomain),
        ("db.skydns.local.", RecordType::AAAA, ResponseCode::NoError),
        ("skydns.local.", RecordType::NS, ResponseCode::NoError),
    ] {
        let reply = udp(at, &question(asked, record_type)).await;
        assert_eq!((reply.response_code, reply.answers.len(), reply.authorities.len()), (code, 0, 1), "{reply}");
        assert!(reply.authoritative);
    }
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test]
async fn chains_that_lead_out_are_followed() {
    let upstream = Upstream::start(true).await;
    let (server, at, _zone) = serving(Some(world().zone()), &[upstream.address]).await;
    let reply = udp(at, &question("EXT.skydns.local.", RecordType::A)).await;
    assert!(reply.authoritative);
    assert_eq!(support::line(&reply.answers[0]), "EXT.skydns.local. 300 CNAME www.example.com.");
    assert_eq!(addresses(&reply).len(), 2);
    // The code is that of the chain's end, and the chain is told (RFC 6604).
    let reply = udp(at, &question("gone.skydns.local.", RecordType::A)).await;
    assert_eq!((reply.response_code, reply.answers.len(), reply.authorities.len()), (ResponseCode::NXDomain, 1, 1), "{reply}");
    let reply = udp(at, &question("ext.skydns.local.", RecordType::AAAA)).await;
    assert_eq!((reply.response_code, reply.answers.len(), reply.authorities.len()), (ResponseCode::NoError, 1, 1), "{reply}");
    // Nobody can tell: that is no answer.
    server.set_upstreams(&[]);
    let reply = udp(at, &question("ext.skydns.local.", RecordType::A)).await;
    assert_eq!((reply.response_code, reply.answers.len()), (ResponseCode::ServFail, 0));
}

#[tokio::test]
async fn a_reply_that_the_upstream_cuts_is_fetched_over_tcp() {
    let upstream = Upstream::start(true).await;
    let (_server, at, _zone) = serving(Some(world().zone()), &[upstream.address]).await;
    let asked = question_edns("big.example.com.", RecordType::TXT, 1232);
    let whole = tcp(at, &asked).await;
    let RData::TXT(text) = &whole.answers[0].data else { panic!("{whole}") };
    assert_eq!((text.txt_data.len(), whole.truncation), (BIG, false));
    let cut = udp(at, &asked).await;
    assert!(cut.truncation && cut.answers.is_empty() && cut.edns.is_some());
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_refuses_or_is_silent() {
    let silent = UdpSocket::bind(any_port()).await.unwrap();
    let refuses = Upstream::start(false).await;
    let knows = Upstream::start(true).await;
    let servers = [silent.local_addr().unwrap(), refuses.address, knows.address];
    let (_server, at, _zone) = serving(Some(world().zone()), &servers).await;
    let reply = udp(at, &question("www.example.com.", RecordType::A)).await;
    assert_eq!(addresses(&reply).len(), 2, "{reply}");
    let refusals = refuses.asked();
    assert!(refusals > 0);
    // Those that failed are asked last for a while.
    let reply = udp(at, &question("go.example.com.", RecordType::A)).await;
    assert_eq!(addresses(&reply).len(), 2);
    assert_eq!(refuses.asked(), refusals);
}

#[tokio::test]
async fn nobody_to_ask_and_only_ourselves_to_ask_are_the_same() {
    let (metrics, mut registry) = (Metrics::default(), Registry::default());
    metrics.register(&mut registry);
    let (_zone, receiver) = tokio::sync::watch::channel(Some(Arc::new(world().zone())));
    let server = Server::start(receiver, &[], metrics, &CancellationToken::new());
    assert!(server.set_listen(&[any_port()]).await.is_empty());
    let at = server.listening().await[0];
    let asked = question("www.example.com.", RecordType::A);
    assert_eq!(udp(at, &asked).await.response_code, ResponseCode::ServFail);
    server.set_upstreams(&[at]);
    assert_eq!(udp(at, &asked).await.response_code, ResponseCode::ServFail);
    // Had we asked ourselves, there would be more questions than two, and another outcome.
    let mut counts = String::new();
    prometheus_client::encoding::text::encode(&mut counts, &registry).unwrap();
    assert!(counts.contains(r#"weft_dns_forwarded_total{outcome="no_upstream"} 2"#), "{counts}");
    assert!(counts.contains(r#"weft_dns_queries_total{proto="udp",type="A",rcode="SERVFAIL"} 2"#), "{counts}");
    let upstream = Upstream::start(true).await;
    server.set_upstreams(&[at, upstream.address]);
    assert_eq!(addresses(&udp(at, &asked).await).len(), 2);
}

#[tokio::test]
async fn hostile_packets_neither_stop_nor_kill_the_server() {
    let (_server, at, _zone) = serving(Some(world().zone()), &[]).await;
    let good = question_edns("db.skydns.local.", RecordType::A, 1232).to_vec().unwrap();
    let socket = UdpSocket::bind(any_port()).await.unwrap();
    socket.connect(at).await.unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let mut packets: Vec<Vec<u8>> = (0..=good.len()).map(|n| good[..n].to_vec()).collect();
    for round in 0..2000_usize {
        let mut packet = good.clone();
        for _ in 0..=round % 8 {
            let at = usize::from(random()) % packet.len();
            packet[at] = random();
        }
        packets.push(packet);
        packets.push((0..round % 300).map(|_| random()).collect());
    }
    // A name that points to itself, counts that promise what is not there, and a reply.
    let header = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packets.push([&header[..], &[0xc0, 0x0c, 0, 1, 0, 1]].concat());
    packets.push([&[0, 2, 1, 0][..], &[0xff; 8], &good[12..]].concat());
    packets.push([&[0, 3, 0x81, 0x80][..], &good[4..]].concat());
    for (index, packet) in packets.iter().enumerate() {
        // Without a reader some are dropped; that is the kernel's good right, and ours.
        let _ = socket.send(packet).await;
        if index % 50 == 0 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            tcp_send(&mut stream, packet).await;
            let _ = tcp_receive_or_close(&mut stream).await;
        }
    }
    let reply = udp(at, &question("db.skydns.local.", RecordType::A)).await;
    assert_eq!(reply.answers.len(), 2);
    let reply = tcp(at, &question("db.skydns.local.", RecordType::A)).await;
    assert_eq!(reply.answers.len(), 2);
}

/// Ends our half, so that a server that waits for more sees that none will come.
async fn tcp_receive_or_close(stream: &mut TcpStream) -> Option<Vec<u8>> {
    use tokio::io::AsyncWriteExt as _;
    let _ = stream.shutdown().await;
    tcp_receive(stream).await
}

#[tokio::test]
async fn a_reply_is_not_replied_to_and_a_broken_question_is() {
    let (_server, at, _zone) = serving(Some(world().zone()), &[]).await;
    let mut reply = question("db.skydns.local.", RecordType::A);
    reply.metadata.message_type = MessageType::Response;
    let mut stream = TcpStream::connect(at).await.unwrap();
    tcp_send(&mut stream, &reply.to_vec().unwrap()).await;
    assert_eq!(tcp_receive(&mut stream).await, None);
    let broken = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1];
    let over_udp = udp_bytes(at, &broken).await.unwrap();
    let mut stream = TcpStream::connect(at).await.unwrap();
    tcp_send(&mut stream, &broken).await;
    let over_tcp = tcp_receive(&mut stream).await.unwrap();
    for bytes in [over_udp, over_tcp] {
        let told = hickory_proto::op::Message::from_vec(&bytes).unwrap();
        assert_eq!((told.id, told.response_code), (0xabcd, ResponseCode::FormErr));
    }
}

#[tokio::test]
async fn one_tcp_connection_carries_many_questions() {
    let (_server, at, _zone) = serving(Some(world().zone()), &[]).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let asked: Vec<_> = (0..20).map(|_| question("db.skydns.local.", RecordType::A)).collect();
    for message in &asked {
        tcp_send(&mut stream, &message.to_vec().unwrap()).await;
    }
    for message in &asked {
        let bytes = tcp_receive(&mut stream).await.unwrap();
        assert_eq!(hickory_proto::op::Message::from_vec(&bytes).unwrap().id, message.id);
    }
}

#[tokio::test]
async fn one_client_cannot_hold_all_tcp_connections() {
    let (_server, at, _zone) = serving(Some(world().zone()), &[]).await;
    let mut held = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        tcp_send(&mut stream, &question("db.skydns.local.", RecordType::A).to_vec().unwrap()).await;
        assert!(tcp_receive(&mut stream).await.is_some());
        held.push(stream);
    }
    let mut one_more = TcpStream::connect(at).await.unwrap();
    assert_eq!(tcp_receive(&mut one_more).await, None, "closed at once");
    // Another client is served.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(at).await.unwrap();
    tcp_send(&mut other, &question("db.skydns.local.", RecordType::A).to_vec().unwrap()).await;
    assert!(tcp_receive(&mut other).await.is_some());
    // And so is the first, once it lets go.
    held.clear();
    eventually("room for the client again", async || {
        let mut stream = TcpStream::connect(at).await.unwrap();
        tcp_send(&mut stream, &question("db.skydns.local.", RecordType::A).to_vec().unwrap()).await;
        tcp_receive(&mut stream).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn listeners_come_and_go_and_errors_name_their_address() {
    let (server, _, _zone) = serving(Some(world().zone()), &[]).await;
    let (one, two) = (own_address(), own_address());
    assert!(server.set_listen(&[one]).await.is_empty());
    let first = server.listening().await[0];
    let asked = question("db.skydns.local.", RecordType::A);
    let taken_udp = UdpSocket::bind(own_address()).await.unwrap();
    let taken_tcp = TcpListener::bind(own_address()).await.unwrap();
    let (taken_udp_at, taken_tcp_at) = (taken_udp.local_addr().unwrap(), taken_tcp.local_addr().unwrap());
    let absent: SocketAddr = "192.0.2.1:53".parse().unwrap();

    let errors = server.set_listen(&[one, two, taken_udp_at, taken_tcp_at, absent]).await;
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].starts_with(&format!("listen on {taken_udp_at}/udp: address in use; ")), "{texts:?}");
    assert!(texts[1].starts_with(&format!("listen on {taken_tcp_at}/tcp: address in use; ")), "{texts:?}");
    assert_eq!(texts[2], "listen on 192.0.2.1:53/udp: this host does not have the address");
    let listening = server.listening().await;
    assert!(listening.contains(&first) && listening.len() == 2, "the first was left alone: {listening:?}");
    for at in &listening {
        assert_eq!(udp(*at, &asked).await.answers.len(), 2);
        assert_eq!(tcp(*at, &asked).await.answers.len(), 2);
    }

    // What was in the way is gone: asking again is all it takes.
    drop((taken_udp, taken_tcp));
    let errors = server.set_listen(&[one, taken_udp_at, taken_tcp_at]).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(udp(taken_udp_at, &asked).await.answers.len(), 2);
    assert_eq!(tcp(taken_tcp_at, &asked).await.answers.len(), 2);

    // Closed means free, at once.
    assert!(server.set_listen(&[]).await.is_empty());
    assert!(server.listening().await.is_empty());
    for at in [first, taken_udp_at, taken_tcp_at] {
        UdpSocket::bind(at).await.unwrap();
        TcpListener::bind(at).await.unwrap();
    }
}

#[tokio::test]
async fn ipv6_and_all_addresses_are_listened_on_side_by_side() {
    let (server, _, _zone) = serving(Some(world().zone()), &[]).await;
    let all: [SocketAddr; 2] = ["0.0.0.0:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let errors = server.set_listen(&all).await;
    assert!(errors.is_empty(), "{errors:?}");
    let six = server.listening().await.into_iter().find(SocketAddr::is_ipv6).unwrap();
    let four = server.listening().await.into_iter().find(SocketAddr::is_ipv4).unwrap();
    // The same port for the other family's "all addresses".
    let errors = server.set_listen(&[all[0], all[1], SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, four.port()))]).await;
    assert!(errors.is_empty(), "{errors:?}");
    let asked = question("db.skydns.local.", RecordType::A);
    assert_eq!(tcp(six, &asked).await.answers.len(), 2);
    assert_eq!(udp(SocketAddr::from(([127, 0, 0, 1], four.port())), &asked).await.answers.len(), 2);
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_frees_its_ports() {
    let token = CancellationToken::new();
    let (_zone, receiver) = tokio::sync::watch::channel(Some(Arc::new(world().zone())));
    let server = Server::start(receiver, &[], Metrics::default(), &token);
    assert!(server.set_listen(&[own_address()]).await.is_empty());
    let at = server.listening().await[0];
    token.cancel();
    eventually("the port is free", async || UdpSocket::bind(at).await.is_ok() && TcpListener::bind(at).await.is_ok()).await;
    assert!(server.set_listen(&[own_address()]).await.is_empty() && server.listening().await.is_empty(), "it stays stopped");
}
