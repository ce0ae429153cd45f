//! Network namespaces by cookie: how the socket programs know whose socket it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use nix::sched::{CloneFlags, setns};

use super::BpfError;

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, kernel 5.14). It is never used again on
/// this host until the next boot.
///
/// # Errors
/// No socket could be made, or the kernel has no such option.
pub fn netns_cookie() -> Result<u64, BpfError> {
    read().map_err(|source| BpfError::Netns { netns: "of this thread".to_owned(), source })
}

/// The cookie of the network namespace that a descriptor stands for (`/proc/PID/ns/net`, a file below `/run/netns`).
///
/// # Errors
/// It is no network namespace, or it may not be entered.
pub fn netns_cookie_of(netns: BorrowedFd<'_>) -> Result<u64, BpfError> {
    let described = || std::fs::read_link(format!("/proc/self/fd/{}", netns.as_raw_fd()));
    // The namespace belongs to the thread, so one is used that ends with it.
    std::thread::scope(|scope| {
        let read_inside = || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            read()
        };
        std::thread::Builder::new()
            .name("netns-cookie".to_owned())
            .spawn_scoped(scope, read_inside)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
    })
    .map_err(|source| BpfError::Netns { netns: described().map(|path| path.display().to_string()).unwrap_or_default(), source })
}

fn read() -> io::Result<u64> {
    // Every socket knows its namespace, of whatever family.
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is a u64, and its size stands beside it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Opens the network namespace of the calling thread.
///
/// # Errors
/// /proc is not there.
pub fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_of_the_own_namespace_gives_the_same_cookie() {
        let own = netns_cookie().unwrap();
        assert_ne!(own, 0);
        // Entering needs privilege even for the own one; unit tests may lack it.
        match netns_cookie_of(current().unwrap().as_fd()) {
            Ok(cookie) => assert_eq!(cookie, own),
            Err(error) => assert!(error.is_not_permitted(), "{error:?}"),
        }
    }

    #[test]
    fn what_is_no_namespace_is_named() {
        let file = File::open("/proc/self/status").unwrap();
        let error = netns_cookie_of(file.as_fd()).unwrap_err();
        assert!(error.to_string().contains("/status"), "{error}");
    }
}
