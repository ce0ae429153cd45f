//! An ICMP timestamp: what another host's clock says (RFC 792). Linux answers; firewalls often do not let it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, recv, send, socket,
};

use super::{checksum, set_option};

const ICMP_FILTER: i32 = 1;
const TIMESTAMP: u8 = 13;
const TIMESTAMP_REPLY: u8 = 14;

/// Milliseconds of a day: the clock that is told counts from midnight, UTC.
const DAY: i64 = 86_400_000;

/// How far the clock of `to` is ahead of ours, in milliseconds (behind: negative), within half the time the answer took; `None`:
/// no answer. Days are not told apart. Blocks.
///
/// # Errors
/// Raw sockets are not permitted (`CAP_NET_RAW`), or there is no way.
pub fn ahead(from: Ipv4Addr, to: Ipv4Addr, tries: u32, pause: Duration) -> io::Result<Option<i64>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    set_option(socket.as_fd(), libc::SOL_RAW, ICMP_FILTER, &!(1_u32 << TIMESTAMP_REPLY))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from.into(), 0)))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to.into(), 0)))?;
    let ident = (std::process::id() as u16).rotate_left(3) ^ (socket.as_raw_fd() as u16);
    let mut buffer = [0_u8; 256];
    for sequence in 0..tries {
        let (asked, at) = (Instant::now(), now());
        send(socket.as_raw_fd(), &question(ident, sequence as u16, at), MsgFlags::empty())?;
        let until = asked + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                if let Some(theirs) = answer(&buffer[..length], ident, sequence as u16) {
                    let half = i64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(0);
                    return Ok(Some(apart(theirs, at + half)));
                }
            }
        }
    }
    Ok(None)
}

/// Milliseconds since midnight, UTC.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(0) % DAY
}

/// How far one time of day is after another, the shorter way around.
fn apart(theirs: i64, ours: i64) -> i64 {
    (theirs - ours + DAY + DAY / 2).rem_euclid(DAY) - DAY / 2
}

fn question(ident: u16, sequence: u16, at: i64) -> [u8; 20] {
    let mut message = [0_u8; 20];
    message[0] = TIMESTAMP;
    message[4..6].copy_from_slice(&ident.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message[8..12].copy_from_slice(&u32::try_from(at).unwrap_or(0).to_be_bytes());
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// When the question came there, in milliseconds since midnight.
fn answer(packet: &[u8], ident: u16, sequence: u16) -> Option<i64> {
    let icmp = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
    let &[TIMESTAMP_REPLY, 0, _, _, i0, i1, s0, s1, _, _, _, _, r0, r1, r2, r3, ..] = icmp else { return None };
    let received = u32::from_be_bytes([r0, r1, r2, r3]);
    // RFC 792: the highest bit marks a time that is not counted from midnight.
    let ours = u16::from_be_bytes([i0, i1]) == ident && u16::from_be_bytes([s0, s1]) == sequence;
    (ours && received >> 31 == 0).then_some(i64::from(received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_are_compared_across_midnight() {
        assert_eq!(apart(1_000, 500), 500);
        assert_eq!(apart(100, DAY - 100), 200);
        assert_eq!(apart(DAY - 100, 100), -200);
    }

    #[test]
    fn only_the_answer_to_ones_own_question_is_read() {
        let mut packet = vec![0_u8; 20];
        packet[0] = 0x45;
        packet.extend([TIMESTAMP_REPLY, 0, 0, 0, 0x12, 0x34, 0, 2, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(answer(&packet, 0x1234, 2), Some(256));
        assert_eq!(answer(&packet, 0x1235, 2), None);
        packet[32] = 0x80;
        assert_eq!(answer(&packet, 0x1234, 2), None, "not counted from midnight");
        for cut in 0..36 {
            assert_eq!(answer(&packet[..cut], 0x1234, 2), None);
        }
        assert_eq!(checksum(&question(0x1234, 2, 77)), 0);
    }
}
