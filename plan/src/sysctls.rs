//! Settings below `/proc/sys` that the kernel path needs.
//!
//! There are few. Strict reverse-path filtering (`rp_filter=1`) passes all overlay traffic, because each source has its route
//! by the device it comes from; `arp_ignore` does not matter, because containers have their gateway as a permanent
//! neighbour; `accept_local` and `route_localnet` are not needed (all seen on Linux 6.18, `agent/tests/kernel_netlink.rs`).
//!
//! Settings are never put back: others may have come to rely on forwarding, and those of a device go with it.

use std::fmt;

use crate::diff::{Row, Table};
use crate::host::Host;

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Its path below `/proc/sys`, with `/` between, since device names hold dots: `net/ipv4/conf/weft.1/forwarding`.
    pub path: String,
    /// Its value.
    pub value: String,
}

impl Row for Sysctl {
    type Key = String;

    fn key(&self) -> String {
        self.path.clone()
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sysctl {} {}", self.path, self.value)
    }
}

/// Forwarding of the whole host.
const IP_FORWARD: &str = "net/ipv4/ip_forward";

impl Sysctl {
    /// The device that the setting is of, if it is one device's.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.path.strip_prefix("net/ipv4/conf/").and_then(|rest| rest.rsplit_once('/')).map(|(device, _)| device)
    }
}

/// The settings that `host` should have. A device is made with `conf/default/forwarding`, which hardening guides set to 0
/// even where `ip_forward` is 1; so each of ours has its own.
#[must_use]
pub fn desired(host: &Host) -> Table<Sysctl> {
    if host.subnet.is_none() {
        return Table::default();
    }
    let of = |device: &str| format!("net/ipv4/conf/{device}/forwarding");
    let here = host.attachments.iter().filter(|a| a.host_index.is_some()).map(|a| of(&a.host_ifname));
    let overlay = host.overlay().map(|overlay| of(&overlay.device()));
    let paths = [IP_FORWARD.to_owned()].into_iter().chain(here).chain(overlay);
    paths.map(|path| Sysctl { path, value: "1".to_owned() }).collect()
}
