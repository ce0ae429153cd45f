//! A TCP connection attempt to a port where nobody need listen: a reset is an answer too.
//!
//! Unlike an echo, whose checksum its sender computes, a SYN leaves the kernel with its checksum still to be made, by the
//! network card as often as not. What is lost here and not there is lost to checksum offload, or to a filter.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, socket, sockopt};

use super::within;
use crate::kernel::netns::NetNs;

/// A connection under way.
#[derive(Debug)]
pub struct Attempt {
    socket: OwnedFd,
    begun: Instant,
}

impl Attempt {
    /// Begins to connect, from `from` or what the kernel chooses.
    ///
    /// # Errors
    /// There is no way, or the address is not there.
    pub fn begin(netns: Option<&NetNs>, from: Option<IpAddr>, to: SocketAddr) -> io::Result<Self> {
        within(netns, || {
            let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(family, SockType::Stream, flags, None)?;
            if let Some(from) = from {
                bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
            }
            let begun = Instant::now();
            match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
                // Loopback refuses at once.
                Ok(()) | Err(Errno::EINPROGRESS | Errno::ECONNREFUSED) => Ok(Self { socket, begun }),
                Err(errno) => Err(errno.into()),
            }
        })
    }

    /// Waits until it is connected or reset; the time that took, or `None`: nothing came back. The kernel repeats the SYN
    /// after 1, 2 and 4 s.
    ///
    /// # Errors
    /// Somebody said that there is no way.
    pub fn wait(self, patience: Duration) -> io::Result<Option<Duration>> {
        let until = self.begun + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        match getsockopt(&self.socket, sockopt::SocketError)? {
            0 | libc::ECONNREFUSED => Ok(Some(self.begun.elapsed())),
            libc::ETIMEDOUT => Ok(None),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_listener_and_a_reset_both_are_answers() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let attempt = || Attempt::begin(None, None, address).unwrap().wait(Duration::from_secs(60)).unwrap();
        assert!(attempt().is_some());
        drop(listener);
        assert!(attempt().is_some());
    }
}
