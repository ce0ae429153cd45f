//! Packets sent to see what comes back: ICMP echoes of any size, connection attempts, VXLAN frames made by hand.
//!
//! Each probe is a socket in the network namespace that it is opened in, whichever thread uses it later. Probes block, with a
//! bound; callers use threads that may. What an answer means is judged elsewhere.

pub mod echo;
pub mod stamp;
pub mod tcp;
pub mod vxlan;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netns::NetNs;

/// Does something in a namespace, or where the thread is.
pub(crate) fn within<T: Send>(netns: Option<&NetNs>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match netns {
        None => work(),
        Some(netns) => netns.run(work)?,
    }
}

/// Sets an option whose value is any plain array of bytes or integers.
fn set_option<T: Copy>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `value` is read for exactly its own size, and the kernel keeps no pointer to it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The Internet checksum (RFC 1071) of bytes whose checksum field is zero.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_up_to_zero() {
        // RFC 1071 3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        let mut echo = [8, 0, 0, 0, 0x12, 0x34, 0, 1, 0xab];
        let sum = checksum(&echo).to_be_bytes();
        echo[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&echo), 0);
    }
}
