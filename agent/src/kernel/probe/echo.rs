//! ICMP echoes that are not to be fragmented, over IPv4 and IPv6.
//!
//! `IP_PMTUDISC_PROBE` sets DF and takes no notice of what the kernel believes of the path, so that what is measured is the
//! path. Echoes of several sockets are under way together ([`ask`]): silence is paid for once.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, recvmsg,
    send, socket,
};

use super::{checksum, set_option, within};
use crate::kernel::netns::NetNs;

/// Length of an ICMP echo's header, in bytes.
const ICMP: usize = 8;

/// The longest IP packet, in bytes.
const LONGEST: usize = 65_535;

// include/uapi/linux/icmp.h, icmpv6.h: the option that names the types a raw socket does not want.
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;
// include/uapi/linux/in.h, in6.h
const PMTUDISC_PROBE: i32 = 3;

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// What came of an echo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It came back, after this time.
    Heard(Duration),
    /// Somebody said no: our kernel, or a router.
    Refused(Refused),
    /// Nothing came back.
    Silent,
}

impl Answer {
    /// Whether it came back.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        matches!(self, Self::Heard(_))
    }

    /// The longest packet that gets there, in bytes, if somebody said so.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Self::Refused(refused) => refused.mtu,
            _ => None,
        }
    }
}

/// Why a packet did not get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error number: `EMSGSIZE`, `EHOSTUNREACH`, …
    pub errno: i32,
    /// With `EMSGSIZE`, the MTU that was told, in bytes.
    pub mtu: Option<u32>,
    /// Who said so, unless it was this host.
    pub by: Option<IpAddr>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", nix::errno::Errno::from_raw(self.errno).desc())?;
        if let Some(mtu) = self.mtu {
            write!(f, ", MTU {mtu}")?;
        }
        if let Some(by) = self.by {
            write!(f, ", says {by}")?;
        }
        Ok(())
    }
}

/// A socket for echoes to one address.
#[derive(Debug)]
pub struct Echo {
    socket: OwnedFd,
    v6: bool,
    ident: u16,
    sequence: u16,
}

impl Echo {
    /// A socket in `netns`, or where the thread is, for echoes from `from` (or what the kernel chooses) to `to`.
    ///
    /// # Errors
    /// Raw sockets are not permitted (`CAP_NET_RAW`), the address is not there, or there is no way.
    pub fn open(netns: Option<&NetNs>, from: Option<IpAddr>, to: IpAddr) -> io::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let ident = (std::process::id() as u16).rotate_left(7) ^ NEXT.fetch_add(1, Ordering::Relaxed);
        let v6 = to.is_ipv6();
        let socket = within(netns, || {
            let (family, protocol) = match v6 {
                false => (AddressFamily::Inet, SockProtocol::Icmp),
                true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
            };
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(family, SockType::Raw, flags, protocol)?;
            if v6 {
                let mut filter = [u32::MAX; 8];
                filter[usize::from(ECHO_REPLY_V6) / 32] &= !(1 << (ECHO_REPLY_V6 % 32));
                set_option(socket.as_fd(), libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &filter)?;
                set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &PMTUDISC_PROBE)?;
                set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &1_i32)?;
            } else {
                set_option(socket.as_fd(), libc::SOL_RAW, ICMP_FILTER, &!(1_u32 << ECHO_REPLY))?;
                set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &PMTUDISC_PROBE)?;
                set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, &1_i32)?;
            }
            if let Some(from) = from {
                bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
            }
            // Only what comes from there is for this socket, errors included.
            connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
            Ok(socket)
        })?;
        Ok(Self { socket, v6, ident, sequence: 0 })
    }

    /// The shortest and the longest packet that can be asked with, in bytes.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.header() + ICMP, LONGEST)
    }

    fn header(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn send(&mut self, size: usize) -> Result<(), Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        let (least, most) = self.sizes();
        let mut packet = vec![0_u8; size.clamp(least, most) - self.header()];
        packet[0] = if self.v6 { ECHO_REQUEST_V6 } else { ECHO_REQUEST };
        packet[4..6].copy_from_slice(&self.ident.to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        for (i, byte) in packet[ICMP..].iter_mut().enumerate() {
            *byte = i as u8;
        }
        if !self.v6 {
            // The kernel fills in ICMPv6's, whose pseudo header it knows.
            let sum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
        }
        // An error that an earlier packet met is reported once, instead of sending this one.
        let mut result = send(self.socket.as_raw_fd(), &packet, MsgFlags::empty());
        if result.is_err() {
            self.complaints();
            result = send(self.socket.as_raw_fd(), &packet, MsgFlags::empty());
        }
        result.map(drop).map_err(|errno| Refused { errno: errno as i32, mtu: None, by: None })
    }

    /// The sequence numbers of echoes that have come back whole since the last look.
    fn replies(&self, size: usize) -> Vec<u16> {
        let mut found = Vec::new();
        let mut buffer = vec![0_u8; LONGEST];
        while let Ok(length) = nix::sys::socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            found.extend(self.reply(&buffer[..length], size));
        }
        found
    }

    fn reply(&self, packet: &[u8], size: usize) -> Option<u16> {
        // Raw IPv4 sockets give the IP header too.
        let skipped = if self.v6 { 0 } else { usize::from(packet.first()? & 0xf) * 4 };
        let icmp = packet.get(skipped..)?;
        let wanted = if self.v6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
        let &[kind, 0, _, _, i0, i1, s0, s1, ref payload @ ..] = icmp else { return None };
        let ours = kind == wanted && u16::from_be_bytes([i0, i1]) == self.ident;
        let whole = icmp.len() + self.header() == size && payload.iter().enumerate().all(|(i, byte)| *byte == i as u8);
        (ours && whole).then_some(u16::from_be_bytes([s0, s1]))
    }

    /// What ICMP said of our packets since the last look; the last word.
    fn complaints(&self) -> Option<Refused> {
        let mut last = None;
        let mut buffer = [0_u8; 512];
        loop {
            let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let Ok(message) = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) else {
                return last;
            };
            for part in message.cmsgs().into_iter().flatten() {
                let (error, by) = match part {
                    ControlMessageOwned::Ipv4RecvErr(error, by) => {
                        (error, by.map(|a| IpAddr::from(u32::from_be(a.sin_addr.s_addr).to_be_bytes())))
                    }
                    ControlMessageOwned::Ipv6RecvErr(error, by) => (error, by.map(|a| IpAddr::from(a.sin6_addr.s6_addr))),
                    _ => continue,
                };
                let errno = i32::try_from(error.ee_errno).unwrap_or(libc::EIO);
                let mtu = (errno == libc::EMSGSIZE && error.ee_info > 0).then_some(error.ee_info);
                last = Some(Refused { errno, mtu, by: by.filter(|by| !by.is_unspecified()) });
            }
        }
    }
}

/// A question: an echo of this length (the whole IP packet, in bytes).
#[derive(Debug)]
pub struct Question<'a> {
    /// Where and from where.
    pub echo: &'a mut Echo,
    /// How long.
    pub size: usize,
}

/// Asks all questions together, each until it is answered, `tries` times at most with `pause` between. Answers are in the
/// order of questions. Blocks.
pub fn ask(questions: &mut [Question<'_>], tries: u32, pause: Duration) -> Vec<Answer> {
    let mut sent: Vec<Vec<(u16, Instant)>> = vec![Vec::new(); questions.len()];
    let mut answers: Vec<Option<Answer>> = vec![None; questions.len()];
    let mut complaints: Vec<Option<Refused>> = vec![None; questions.len()];
    for _ in 0..tries {
        for (i, question) in questions.iter_mut().enumerate() {
            if answers[i].is_some() {
                continue;
            }
            let now = Instant::now();
            match question.echo.send(question.size) {
                Ok(()) => sent[i].push((question.echo.sequence, now)),
                Err(refused) if refused.errno == libc::EMSGSIZE => answers[i] = Some(Answer::Refused(refused)),
                Err(refused) => complaints[i] = Some(refused),
            }
        }
        let until = Instant::now() + pause;
        loop {
            let open: Vec<usize> = (0..questions.len()).filter(|i| answers[*i].is_none()).collect();
            let left = until.saturating_duration_since(Instant::now());
            if open.is_empty() || left.is_zero() {
                break;
            }
            let mut fds: Vec<PollFd<'_>> =
                open.iter().map(|i| PollFd::new(questions[*i].echo.socket.as_fd(), PollFlags::POLLIN)).collect();
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            // Interrupted is as good as nothing ready.
            let _ = poll(&mut fds, timeout);
            for i in open {
                let echo = &questions[i].echo;
                if let Some(refused) = echo.complaints() {
                    match refused.errno {
                        libc::EMSGSIZE => answers[i] = Some(Answer::Refused(refused)),
                        _ => complaints[i] = Some(refused),
                    }
                }
                for sequence in echo.replies(questions[i].size) {
                    if let Some((_, at)) = sent[i].iter().find(|(known, _)| *known == sequence) {
                        answers[i] = Some(Answer::Heard(at.elapsed()));
                    }
                }
            }
        }
        if answers.iter().all(Option::is_some) {
            break;
        }
    }
    let end = |(answer, complaint): (Option<Answer>, Option<Refused>)| match (answer, complaint) {
        (Some(answer), _) => answer,
        (None, Some(refused)) => Answer::Refused(refused),
        (None, None) => Answer::Silent,
    };
    answers.into_iter().zip(complaints).map(end).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_a_whole_reply_to_ones_own_question_counts() {
        // Opening one needs privilege; the parser does not.
        let socket = OwnedFd::from(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let echo = Echo { socket, v6: false, ident: 0x1234, sequence: 0 };
        let mut packet = vec![0_u8; 20];
        packet[0] = 0x45;
        packet.extend([ECHO_REPLY, 0, 0, 0, 0x12, 0x34, 0, 7, 0, 1, 2, 3]);
        assert_eq!(echo.reply(&packet, 32), Some(7));
        assert_eq!(echo.reply(&packet, 33), None, "cut short");
        let mut other = packet.clone();
        other[24] = 0x99;
        assert_eq!(echo.reply(&other, 32), None, "another's");
        let mut broken = packet.clone();
        broken[31] ^= 1;
        assert_eq!(echo.reply(&broken, 32), None, "a bit has changed on the way");
        for cut in 0..28 {
            assert_eq!(echo.reply(&packet[..cut], 32), None);
        }
    }
}
