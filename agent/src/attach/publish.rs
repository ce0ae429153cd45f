//! Whether ports of the host are free for a container: of the overlay, of other containers, of the host's own processes.
//!
//! What holds a port is named in the refusal. Which packets and sockets then reach the container is `weft_plan::publish`'s.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
use weft_api::Code;
use weft_model::ids::EndpointId;
use weft_model::publish::Publish;
use weft_model::record::Proto;
use weft_plan::{Host, publish};

use super::Attachments;
use crate::refusal::Refusal;
use crate::state::{Attachment, Journal};

impl Attachments {
    /// Whether an attachment may have these ports.
    pub(super) async fn check_ports(&self, of: &Attachment, publish: &[Publish], journal: &Journal) -> Result<(), Refusal> {
        let host = self.around.report.borrow().host.clone();
        check(&Wanted { publish, v6: of.address6.is_some(), by: &of.id }, journal, host).await
    }
}

/// Whether a container may have these ports, an IPv6 address of its own or not.
///
/// # Errors
/// Why not, and who holds the port.
pub(super) async fn check(wanted: &Wanted<'_>, journal: &Journal, host: Option<Arc<Host>>) -> Result<(), Refusal> {
    if wanted.publish.is_empty() {
        return Ok(());
    }
    check_said(wanted, journal, host.as_deref())?;
    let (publish, v6) = (wanted.publish.to_vec(), wanted.v6);
    // Thousands of system calls if need be.
    let looked = tokio::task::spawn_blocking(move || check_listeners(&publish, v6, host.as_deref())).await;
    looked.map_err(|e| Refusal::internal("publish", &e))?
}

/// What is to be published, and by whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The ports.
    pub(super) publish: &'a [Publish],
    /// Whether the container has an IPv6 address.
    pub(super) v6: bool,
    /// The container; what it has already is its own.
    pub(super) by: &'a EndpointId,
}

/// By what is known here.
fn check_said(wanted: &Wanted<'_>, journal: &Journal, host: Option<&Host>) -> Result<(), Refusal> {
    let others = || journal.attachments.values().filter(|holder| holder.id != *wanted.by);
    // First of all: what is compared below grows with the square of it.
    let all = others().flat_map(|a| &a.publish).chain(wanted.publish);
    let count: usize = all.map(|publish| usize::from(publish.count)).sum();
    if count > publish::MOST_PORTS {
        return Err(Refusal::new(
            Code::Full,
            format!("publish: {count} ports are more than the {} that a host may have; publish fewer", publish::MOST_PORTS),
        ));
    }
    for (i, publish) in wanted.publish.iter().enumerate() {
        publish.check().map_err(Refusal::invalid)?;
        if let Some(other) = wanted.publish.iter().skip(i + 1).find(|other| other.collides(publish)) {
            return Err(Refusal::invalid(format!("publish {publish}: host port {} is wanted twice", shared(publish, other))));
        }
        if publish.host.is_some_and(|host| host.to_canonical().is_ipv6()) && !wanted.v6 {
            return Err(Refusal::invalid(format!("publish {publish}: the container has no IPv6 address")));
        }
        if let Some(why) = host.and_then(|host| publish::refuse(publish, host)) {
            return Err(Refusal::invalid(format!("publish {publish}: {why}")));
        }
        for holder in others() {
            if let Some(other) = holder.publish.iter().find(|other| other.collides(publish)) {
                return Err(Refusal::conflict(format!(
                    "publish {publish}: host port {} is published by {id}; choose another port, or detach {id} first",
                    shared(publish, other),
                    id = holder.id
                )));
            }
        }
    }
    Ok(())
}

/// The first port that both want.
fn shared(one: &Publish, two: &Publish) -> String {
    format!("{}/{}", one.host_port.max(two.host_port), one.proto)
}

/// A port that a process of the host listens on would be taken from under it. It is asked by binding: with `SO_REUSEADDR` that is
/// refused for a TCP port that is listened on, not for what is left of old connections, and for any UDP port that is bound.
fn check_listeners(wanted: &[Publish], v6: bool, host: Option<&Host>) -> Result<(), Refusal> {
    let own = own_addresses(host).map_err(|e| Refusal::internal("publish: list this host's addresses", &e))?;
    for publish in wanted {
        let named = publish.host.map(|host| host.to_canonical());
        let one = named.filter(|host| !host.is_unspecified());
        let family = |address: &&IpAddr| named.map_or(address.is_ipv4() || v6, |host| host.is_ipv4() == address.is_ipv4());
        let addresses: Vec<IpAddr> = one.map_or_else(|| own.iter().filter(family).copied().collect(), |one| vec![one]);
        for port in (0..publish.count).filter_map(|i| publish.host_port.checked_add(i)) {
            for address in &addresses {
                let at = SocketAddr::new(*address, port);
                match try_bind(at, publish.proto) {
                    Err(Errno::EADDRINUSE) => {
                        return Err(Refusal::conflict(format!(
                            "publish {publish}: a process of this host has {at}/{}; stop it, or choose another port",
                            publish.proto
                        )));
                    }
                    Err(Errno::EADDRNOTAVAIL) if one.is_some() => {
                        return Err(Refusal::invalid(format!("publish {publish}: this host has no address {address}")));
                    }
                    // Of all addresses, those that may not be used just now are nobody's.
                    Ok(()) | Err(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT) => {}
                    Err(e) => {
                        let what = format!("publish {publish}: look whether {at}/{} is free", publish.proto);
                        return Err(Refusal::internal(&what, &io::Error::from(e)));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The addresses of this host that a published port may be on.
fn own_addresses(host: Option<&Host>) -> io::Result<BTreeSet<IpAddr>> {
    let overlay: Vec<_> = host.into_iter().flat_map(publish::networks).collect();
    let address = |storage: SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let is_one = |address: &IpAddr| {
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !link_local && !overlay.iter().any(|network| network.contains(address))
    };
    Ok(getifaddrs()?.filter_map(|interface| address(interface.address?)).filter(is_one).collect())
}

fn try_bind(at: SocketAddr, proto: Proto) -> Result<(), Errno> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match proto {
        Proto::Tcp => SockType::Stream,
        Proto::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if proto == Proto::Tcp {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

    fn wanted(texts: &[String]) -> Vec<Publish> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn refusal_beside(journal: &Journal, texts: &[String]) -> Option<String> {
        let (publish, by) = (wanted(texts), "me".parse().unwrap());
        let wanted = Wanted { publish: &publish, v6: false, by: &by };
        let said = check_said(&wanted, journal, None).and_then(|()| check_listeners(&publish, false, None));
        said.err().map(|refusal| refusal.message)
    }

    fn refusal(texts: &[String]) -> Option<String> {
        refusal_beside(&Journal::default(), texts)
    }

    #[test]
    fn a_port_that_a_process_listens_on_is_refused_and_one_that_it_has_left_is_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let port = at.port();
        for text in [format!("{port}:80"), format!("127.0.0.1:{port}:80"), format!("0.0.0.0:{port}:80")] {
            let why = refusal(std::slice::from_ref(&text)).unwrap();
            let who = format!("publish {text}/tcp: a process of this host has {at}/tcp; stop it, or choose another port");
            assert_eq!(why, who);
        }
        assert_eq!(refusal(&[format!("127.0.0.2:{port}:80")]), None, "another address");
        // A connection that the server has closed first leaves its address waiting for a minute.
        let client = std::net::TcpStream::connect(at).unwrap();
        drop(listener.accept().unwrap());
        drop(client);
        drop(listener);
        assert_eq!(refusal(&[format!("127.0.0.1:{port}:80")]), None);
    }

    #[test]
    fn too_many_are_refused_before_they_are_compared_with_each_other() {
        let one = "80:80".to_owned();
        let all = vec![one.clone(); publish::MOST_PORTS + 1];
        let why = refusal(&all).unwrap();
        assert!(why.starts_with("publish: 8193 ports are more than the 8192"), "{why}");
        assert!(refusal(&[one.clone(), one]).unwrap().ends_with("is wanted twice"));
    }

    #[test]
    fn datagrams_have_ports_of_their_own() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let why = refusal(&[format!("127.0.0.1:{port}:53/udp")]).unwrap();
        assert!(why.contains(&format!("a process of this host has 127.0.0.1:{port}/udp")), "{why}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        for (texts, why) in [
            (vec!["8080:80", "8000-8100:1-101"], "publish 8080:80/tcp: host port 8080/tcp is wanted twice"),
            (vec!["[2001:db8::1]:8080:80"], "publish [2001:db8::1]:8080:80/tcp: the container has no IPv6 address"),
            (vec!["192.0.2.99:8080:80"], "publish 192.0.2.99:8080:80/tcp: this host has no address 192.0.2.99"),
            (vec!["1-8193:1-8193"], "publish: 8193 ports are more than the 8192 that a host may have; publish fewer"),
        ] {
            let texts: Vec<String> = texts.into_iter().map(str::to_owned).collect();
            assert_eq!(refusal(&texts).as_deref(), Some(why), "{texts:?}");
        }
    }
}
