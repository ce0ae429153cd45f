//! The TCP connections of a network namespace, as the kernel lists them (`/proc/<pid>/net/tcp`, `tcp6`).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `TCP_ESTABLISHED` (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";

/// The local ends of all established connections of this thread's network namespace; those of IPv4 over an IPv6 socket are of
/// IPv4.
///
/// # Errors
/// The list cannot be read. A kernel without IPv6 has no list of it.
pub fn established() -> io::Result<Vec<(IpAddr, u16)>> {
    // `/proc/net` is the namespace of the process's first thread; this one may be elsewhere.
    let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
    let v6 = match fs::read_to_string("/proc/thread-self/net/tcp6") {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        read => read.unwrap_or_default(),
    };
    Ok(v4.lines().chain(v6.lines()).filter_map(local_end).collect())
}

/// `sl local_address rem_address st …`; addresses are words of 32 bits in the host's byte order (`tcp4_seq_show`, Linux 6.18).
fn local_end(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != ESTABLISHED {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_open_connection_is_seen_at_its_local_ends_and_a_listener_is_none() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let to = SocketAddr::new(connect.parse().unwrap(), listener.local_addr().unwrap().port());
            let count = || established().unwrap().iter().filter(|(a, p)| (*a, *p) == (to.ip(), to.port())).count();
            assert_eq!(count(), 0, "{listen}");
            let ours = TcpStream::connect(to).unwrap();
            let theirs = listener.accept().unwrap();
            assert_eq!(count(), 1, "{listen}");
            let client = ours.local_addr().unwrap();
            assert!(established().unwrap().contains(&(client.ip().to_canonical(), client.port())));
            drop((ours, theirs));
        }
    }

    #[test]
    fn a_line_that_is_none_of_ours_is_left_out() {
        let good = "   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0";
        assert!(local_end(good).is_some());
        for bad in [
            "",
            "sl local_address rem_address st",
            "0: x:y z 01",
            "0: 0100007F 0100007F:1 01",
            "0: 01:1F90 0:0 01",
            "0: 0100007F:FFFFF 0:0 01",
        ] {
            assert_eq!(local_end(bad), None, "{bad}");
        }
    }
}
