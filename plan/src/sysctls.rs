//! Settings below `/proc/sys` that the kernel path needs.
//!
//! There are few. Strict reverse-path filtering (`rp_filter=1`) passes all overlay traffic, because each source has its route
//! by the device it comes from; `arp_ignore` does not matter, because containers have their gateway as a permanent
//! neighbour; `accept_local` and `route_localnet` are not needed (all seen on Linux 6.18, `agent/tests/kernel_netlink.rs`).
//!
//! IPv6 forwards by one setting for the whole host, but a host that forwards stops listening to router advertisements unless
//! `accept_ra` is 2, and forgets the default routes that it had from them at once (`rt6_purge_dflt_routers`). So on an uplink
//! that listens (1) it is set to 2, before the other.
//!
//! Settings are never put back: others may have come to rely on forwarding, and those of a device go with it.

use std::fmt;

use crate::diff::{Row, Table};
use crate::host::{Host, LOOPBACK};
use crate::links;
use crate::peers::Peers;

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Its path below `/proc/sys`, with `/` between, since device names hold dots: `net/ipv4/conf/weft.1/forwarding`.
    pub path: String,
    /// Its value.
    pub value: String,
    /// The one value that it may take the place of; any other is somebody's choice.
    pub over: Option<&'static str>,
}

impl Row for Sysctl {
    type Key = String;

    fn key(&self) -> String {
        self.path.clone()
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sysctl {} {}", self.path, self.value)?;
        self.over.map_or(Ok(()), |over| write!(f, " over {over}"))
    }
}

/// Forwarding of the whole host.
const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// The same of IPv6.
const IP6_FORWARD: &str = "net/ipv6/conf/all/forwarding";

impl Sysctl {
    /// The device that the setting is of, if it is one device's.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("net/ipv4/conf/").or_else(|| self.path.strip_prefix("net/ipv6/conf/"))?;
        rest.rsplit_once('/').map(|(device, _)| device).filter(|device| !matches!(*device, "all" | "default"))
    }

    /// Whether the setting is to be made where it is `now`.
    pub(crate) fn may_replace(&self, now: Option<&str>) -> bool {
        self.over.is_none_or(|over| now == Some(over))
    }
}

/// The settings that `host` should have. A device is made with the settings of `conf/default`, which hardening guides change
/// (`forwarding` to 0, `disable_ipv6` to 1); so each of ours has its own. What a container says of routers is not listened to.
#[must_use]
pub fn desired(host: &Host, peers: &Peers) -> Table<Sysctl> {
    if host.subnet.is_none() {
        return Table::default();
    }
    let mut rows = Table::default();
    let mut set = |path: String, value: &str| rows.insert(Sysctl { path, value: value.to_owned(), over: None });
    let here = host.attachments.iter().filter(|a| a.host_index.is_some()).map(|a| a.host_ifname.clone());
    let tunnels = host.overlay().into_iter().flat_map(|overlay| links::tunnels(host, &overlay, peers));
    let ours: Vec<String> = here.chain(tunnels.map(|(name, _)| name)).collect();
    set(IP_FORWARD.to_owned(), "1");
    for device in &ours {
        set(format!("net/ipv4/conf/{device}/forwarding"), "1");
    }
    if host.subnet6.is_some() {
        set(IP6_FORWARD.to_owned(), "1");
        set(format!("net/ipv6/conf/{LOOPBACK}/disable_ipv6"), "0");
        for device in &ours {
            set(format!("net/ipv6/conf/{device}/disable_ipv6"), "0");
            set(format!("net/ipv6/conf/{device}/accept_ra"), "0");
        }
        if let Some(uplink) = &host.uplink {
            let path = format!("net/ipv6/conf/{}/accept_ra", uplink.name);
            rows.insert(Sysctl { path, value: "2".to_owned(), over: Some("1") });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_knows_its_device() {
        let device = |path: &str| Sysctl { path: path.into(), value: "1".into(), over: None }.device().map(str::to_owned);
        assert_eq!(device("net/ipv4/conf/weft.1/forwarding").as_deref(), Some("weft.1"));
        assert_eq!(device("net/ipv6/conf/eth0.7/accept_ra").as_deref(), Some("eth0.7"));
        for path in [IP_FORWARD, IP6_FORWARD, "net/ipv4/conf/default/forwarding"] {
            assert_eq!(device(path), None);
        }
    }
}
