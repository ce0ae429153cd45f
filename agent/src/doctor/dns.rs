//! The name server of this host, asked as a container asks it, and those that it asks itself.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_api::Finding;

use crate::admin::Admin;

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a question is put over UDP.
const TRIES: usize = 3;

/// `SOA` (RFC 1035 3.2.2).
const SOA: u16 = 6;

/// `NS`.
const NS: u16 = 2;

/// What a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The response code; 0 is no error.
    pub rcode: u8,
    /// Records in the answer.
    pub answers: u16,
}

/// Whether the name server listens where it should, and answers for its own domain, over UDP and TCP.
pub(super) async fn answers(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "dns";
    let free = "free the address, or choose another with --dns-listen";
    let mut found: Vec<Finding> =
        admin.names.problems().into_iter().map(|p| Finding::fail(CHECK, &admin.node, p, free)).collect();
    let Ok(snapshot) = admin.snapshot() else {
        found.push(Finding::skipped(CHECK, &admin.node, "the store has not been read yet, so there are no names"));
        return found;
    };
    let domain = snapshot.cluster().dns_domain.clone();
    let listening = admin.names.listening();
    if listening.is_empty() && found.is_empty() {
        found.push(Finding::skipped(CHECK, &admin.node, "it listens nowhere yet: this host has no subnet"));
    }
    for server in listening {
        let domain = domain.clone();
        let asked = tokio::task::spawn_blocking(move || own(CHECK, &server.to_string(), reachable(server), &domain)).await;
        found.push(asked.unwrap_or_else(|e| Finding::skipped(CHECK, server, e.to_string())));
    }
    found
}

/// An address to ask a server at that listens on all.
fn reachable(server: SocketAddr) -> SocketAddr {
    let ip = match server.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, server.port())
}

/// Asks for the start of authority of our own domain, which exists whenever the store has been read. Blocks.
pub(super) fn own(check: &str, subject: &str, server: SocketAddr, domain: &str) -> Finding {
    for (way, asked) in [("UDP", udp(server, domain, SOA)), ("TCP", tcp(server, domain, SOA))] {
        let (what, next) = match asked {
            Ok(Reply { rcode: 0, answers: 1.. }) => continue,
            Ok(reply) => (
                format!(
                    "asked over {way} for {domain} it answers code {}: another name server may have the address",
                    reply.rcode
                ),
                "see who listens: ss -lntup 'sport = 53'",
            ),
            Err(e) => (
                format!("asked over {way} for {domain} it does not answer: {e}"),
                "see whether a firewall on this host drops port 53 from weft devices, and netctl status",
            ),
        };
        return Finding::fail(check, subject, what, next);
    }
    Finding::ok(check, subject, format!("it answers for {domain} over UDP and TCP"))
}

/// The servers that names outside are asked of.
pub(super) async fn upstream(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "dns-upstream";
    let servers = admin.names.upstreams();
    if servers.is_empty() {
        let what = "there is none: containers resolve no names of the outside";
        return vec![Finding::warn(CHECK, &admin.node, what, "set --dns-upstream, or put name servers into /etc/resolv.conf")];
    }
    let asked = servers.iter().map(|server| {
        let server = *server;
        tokio::task::spawn_blocking(move || (server, udp(server, ".", NS)))
    });
    let mut replies = Vec::new();
    for asking in asked.collect::<Vec<_>>() {
        replies.extend(asking.await.ok());
    }
    judge_upstream(CHECK, &replies)
}

/// Any answer shows that it is there; what it knows is its own affair.
fn judge_upstream(check: &str, replies: &[(SocketAddr, io::Result<Reply>)]) -> Vec<Finding> {
    let any = replies.iter().any(|(_, reply)| reply.is_ok());
    let finding = |(server, reply): &(SocketAddr, io::Result<Reply>)| match reply {
        Ok(_) => Finding::ok(check, server, "it answers"),
        Err(e) if any => Finding::warn(
            check,
            server,
            format!("it does not answer ({e}); the others are asked"),
            "take it out of --dns-upstream or /etc/resolv.conf, or see that it runs",
        ),
        Err(e) => Finding::fail(
            check,
            server,
            format!("it does not answer ({e}): containers resolve no names of the outside"),
            "see that it runs and is reached from this host, or name another with --dns-upstream",
        ),
    };
    replies.iter().map(finding).collect()
}

/// Asks over UDP. Blocks.
fn udp(server: SocketAddr, name: &str, kind: u16) -> io::Result<Reply> {
    let any: IpAddr = if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let id = socket.local_addr()?.port();
    let question = question(id, name, kind);
    let mut buffer = [0_u8; 4096];
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..TRIES {
        let until = Instant::now() + PATIENCE;
        if let Err(e) = socket.send(&question) {
            last = e;
            continue;
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(reply) = reply(&buffer[..length], id) {
                        return Ok(reply);
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    last = io::ErrorKind::TimedOut.into();
                    break;
                }
                Err(e) => {
                    last = e;
                    break;
                }
            }
        }
        if last.kind() == io::ErrorKind::ConnectionRefused {
            break;
        }
    }
    Err(last)
}

/// Asks over TCP. Blocks.
fn tcp(server: SocketAddr, name: &str, kind: u16) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE * 2)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    stream.set_write_timeout(Some(PATIENCE * 2))?;
    let id = stream.local_addr()?.port();
    let question = question(id, name, kind);
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat())?;
    let mut length = [0_u8; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0_u8; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    reply(&answer, id).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// One question, with recursion desired (RFC 1035 4).
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.').filter(|label| !label.is_empty()) {
        // A label has at most 63 bytes; a domain with a longer one is not let into the settings.
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend(label.bytes().take(63));
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    message
}

fn reply(message: &[u8], id: u16) -> Option<Reply> {
    let &[i0, i1, flags, code, _, _, a0, a1, _, _, _, _, ..] = message else { return None };
    let answers = u16::from_be_bytes([a0, a1]);
    (u16::from_be_bytes([i0, i1]) == id && flags & 0x80 != 0).then_some(Reply { rcode: code & 0xf, answers })
}

#[cfg(test)]
mod tests {
    use weft_api::CheckResult;

    use super::*;

    #[test]
    fn a_question_is_spelled_in_labels() {
        let message = question(0x1234, "skydns.local.", SOA);
        assert_eq!(message[..12], [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[12..], *b"\x06skydns\x05local\x00\x00\x06\x00\x01");
        assert_eq!(question(1, ".", NS)[12..], [0, 0, 2, 0, 1]);
    }

    #[test]
    fn only_an_answer_to_the_question_counts() {
        let answer = [0x12, 0x34, 0x85, 0x83, 0, 1, 0, 2, 0, 0, 0, 0];
        assert_eq!(reply(&answer, 0x1234), Some(Reply { rcode: 3, answers: 2 }));
        assert_eq!(reply(&answer, 0x1235), None);
        assert_eq!(reply(&[0x12, 0x34, 0x05, 0, 0, 1, 0, 0, 0, 0, 0, 0], 0x1234), None, "a question is no answer");
        assert_eq!(reply(&answer[..11], 0x1234), None);
    }

    #[test]
    fn one_of_several_may_be_silent_and_the_only_one_may_not() {
        let server = |n: u8| SocketAddr::from(([192, 0, 2, n], 53));
        let silent = || Err(io::ErrorKind::TimedOut.into());
        let refuses = Reply { rcode: 5, answers: 0 };
        let both = judge_upstream("dns-upstream", &[(server(1), silent()), (server(2), Ok(refuses))]);
        assert_eq!((both[0].result, both[1].result), (CheckResult::Warn, CheckResult::Ok));
        assert_eq!(judge_upstream("dns-upstream", &[(server(1), silent())])[0].result, CheckResult::Fail);
    }
}
