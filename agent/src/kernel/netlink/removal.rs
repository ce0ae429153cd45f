//! Removes a device and returns as soon as it is gone, which is before the kernel has done with it.
//!
//! Whoever removes a device is answered only after `netdev_run_todo`: another 5 to 20 ms for an RCU barrier (6.18), in which the
//! device is in no list, has no name and no lock of its is held any more. The kernel tells listeners before (`RTM_DELLINK`, sent by
//! `unregister_netdevice_many_notify`), and that is when it is gone for everybody.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::events::{GROUP_LINK, RTM_DELLINK};
use super::link::Device;
use super::socket::{Socket, messages};
use super::{Netlink, NetlinkError, act};

/// What one `recv` takes at most, in bytes.
const DATAGRAM: usize = 64 << 10;

impl Netlink {
    /// Removes a device by name, whatever it is; one that is not there is removed. What the kernel does with it after nobody finds
    /// it any more goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_device_soon(&self, name: &str) -> Result<(), NetlinkError> {
        let place = self.netns.clone();
        let open = move |_: &mut Socket| {
            let opened = match &place {
                None => listen(),
                Some(netns) => netns.run(listen).and_then(|opened| opened),
            };
            let place = place.as_ref().map(|netns| netns.path().display().to_string());
            opened.map_err(|source| NetlinkError::Open { place, source })
        };
        // Before it is removed, so that the notice is not missed.
        let listener = self.with("listen for links", open).await?;
        let name = name.to_owned();
        let (tell, told) = tokio::sync::oneshot::channel();
        let me = self.clone();
        let removal = tokio::spawn(async move {
            let work = move |socket: &mut Socket| {
                let Some(index) = act::index_if_there(socket, &name)? else { return Ok(()) };
                // Who has given up waiting wants to know nothing.
                let _ = tell.send(index);
                act::remove_device(socket, &name)
            };
            me.with("remove a link", work).await
        });
        let gone = async {
            match told.await {
                Ok(index) => gone(listener, index).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = removal => done.unwrap_or(Err(NetlinkError::Ending { what: "remove a link" })),
            () = gone => Ok(()),
        }
    }
}

fn listen() -> io::Result<RawSocket> {
    let mut socket = RawSocket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, GROUP_LINK))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Returns once the kernel has told that a device is gone; never if it cannot be heard, and then the answer to the request counts.
async fn gone(listener: RawSocket, index: u32) {
    // SAFETY: the descriptor is the socket's own: open until the socket, which moves into the `AsyncFd`, is dropped, and always the same number.
    let registered = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    let heard = match registered {
        Ok(listener) => hear(&listener, index).await,
        Err(e) => Err(e.into()),
    };
    if let Err(error) = heard {
        warn!(%error, "the end of a link is not heard");
        std::future::pending::<()>().await;
    }
}

async fn hear(listener: &AsyncFd<RawSocket>, index: u32) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        let mut ready = listener.readable().await?;
        loop {
            buffer.clear();
            buffer.reserve(DATAGRAM);
            match listener.get_ref().recv(&mut buffer, 0) {
                Ok(_) => {
                    let is_it = |payload: &[u8]| Device::parse(payload).is_ok_and(|device| device.index == index);
                    if messages(&buffer).any(|m| m.message_type() == RTM_DELLINK && is_it(m.payload())) {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        ready.clear_ready();
    }
}
