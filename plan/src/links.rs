//! Network devices: the VXLAN device of the overlay, and the host ends of containers' veth pairs.
//!
//! A VXLAN device is flannel-shaped: one fixed VNI, `nolearning`, a stored Ethernet address. There is one over IPv4, and one
//! over IPv6 where some peer is reached so; Linux takes two of one VNI and port if they differ in that (seen on 6.18). The
//! latter takes zero checksums, which is all that the programs can send, and sends right ones, because flannel's takes no
//! others (`udp6zerocsumrx`, `noudp6zerocsumtx`). Veth pairs are made by attach,
//! not by a plan, because a plan has no namespace at hand: what is planned here is that they are up, and that pairs which no
//! attachment lists are swept away.
//!
//! What Linux 6.18 changes in place (seen): local address, lower device, learning, Ethernet address, MTU, up and down. It
//! refuses another VNI ("Cannot change VNI"), another port ("Cannot change port"), another family of the local address, and other
//! checksums over IPv6: those need a new device.

use std::fmt;
use std::net::IpAddr;

use weft_model::hash::fnv1a;
use weft_model::mac::Mac;

use crate::diff::{Row, Step, Table};
use crate::host::{Host, Overlay};
use crate::peers::Peers;

/// What the names of all our devices begin with.
pub const PREFIX: &str = "weft";

/// Hexadecimal digits in the name of a veth's host end: with [`PREFIX`] 14 bytes of the 15 there are (`IFNAMSIZ`).
const VETH_DIGITS: usize = 10;

/// A device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it is set up.
    pub up: bool,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The overlay's device.
    Vxlan(Vxlan),
    /// The host end of a container's veth pair.
    Veth,
}

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: u32,
    /// The source of outer headers, whose family is that of the tunnel; unspecified if it has none.
    pub local: IpAddr,
    /// The lower device, by ifindex; 0 if it has none. When that device goes, the kernel removes this one with it.
    pub parent: u32,
    /// UDP port.
    pub port: u16,
    /// Its Ethernet address.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Whether it takes FDB entries from the packets it sees; ours never does.
    pub learning: bool,
    /// What it does about zero UDP checksums over IPv6; over IPv4 it always takes and never sends them.
    pub zero_checksums: ZeroChecksums,
    /// Whether it has an option that we never set, such as a default remote or `external`.
    pub foreign: bool,
}

/// Zero UDP checksums over IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroChecksums {
    /// Whether they are sent.
    pub sent: bool,
    /// Whether they are taken.
    pub taken: bool,
}

impl Link {
    /// Whether the kernel can turn this device into `to` without a new device.
    #[must_use]
    pub fn can_become(&self, to: &Self) -> bool {
        match (&self.kind, &to.kind) {
            (Kind::Vxlan(from), Kind::Vxlan(to)) => {
                (from.vni, from.port, from.foreign) == (to.vni, to.port, to.foreign)
                    && from.local.is_ipv6() == to.local.is_ipv6()
                    && from.zero_checksums == to.zero_checksums
            }
            (Kind::Veth, Kind::Veth) => true,
            _ => false,
        }
    }

    /// Its Ethernet address, where we set it.
    pub(crate) fn mac(&self) -> Option<Mac> {
        match &self.kind {
            Kind::Vxlan(vxlan) => Some(vxlan.mac),
            Kind::Veth => None,
        }
    }
}

impl Row for Link {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, up } = self;
        let state = if *up { "up" } else { "down" };
        match kind {
            Kind::Vxlan(Vxlan { vni, local, parent, port, mac, mtu, learning, zero_checksums, foreign }) => {
                let learning = if *learning { "learning" } else { "nolearning" };
                let sent = if zero_checksums.sent { " udp6zerocsumtx" } else { "" };
                let taken = if zero_checksums.taken { " udp6zerocsumrx" } else { "" };
                let foreign = if *foreign { " foreign" } else { "" };
                write!(
                    f,
                    "link {name} vxlan id {vni} local {local} parent {parent} port {port} address {mac} mtu {mtu} \
                     {learning}{sent}{taken}{foreign} {state}"
                )
            }
            Kind::Veth => write!(f, "link {name} veth {state}"),
        }
    }
}

/// The devices that `host` should have.
#[must_use]
pub fn desired(host: &Host, peers: &Peers) -> Table<Link> {
    let veth = |name: &String| Link { name: name.clone(), kind: Kind::Veth, up: true };
    let mut rows: Table<Link> = host.attachments.iter().map(|a| veth(&a.host_ifname)).collect();
    if let Some(overlay) = host.overlay() {
        rows.extend(tunnels(host, &overlay, peers).into_iter().map(|(name, vxlan)| Link {
            name,
            kind: Kind::Vxlan(vxlan),
            up: true,
        }));
    }
    rows
}

/// The VXLAN devices by name: over IPv4 where the host has it; over IPv6 where a peer is reached so, or there is no other.
pub(crate) fn tunnels(host: &Host, overlay: &Overlay<'_>, peers: &Peers) -> Vec<(String, Vxlan)> {
    if !overlay.tunnels() {
        return Vec::new();
    }
    let Overlay { config, uplink, .. } = overlay;
    let over6 = uplink.address.is_none() || peers.used.iter().any(|p| p.tunnel_ends().any(|end| end.is_ipv6()));
    let over4 = uplink.address.map(|local| (IpAddr::V4(local), host.vtep_mac));
    let over6 = uplink.address6.filter(|_| over6).map(|local| (IpAddr::V6(local), host.vtep_mac6));
    let device = |(local, mac): (IpAddr, Mac)| {
        let vxlan = Vxlan {
            vni: config.backend.vni,
            local,
            parent: uplink.index,
            port: config.backend.port,
            mac,
            mtu: overlay.mtu_to(local),
            learning: false,
            zero_checksums: ZeroChecksums { sent: false, taken: local.is_ipv6() },
            foreign: false,
        };
        (overlay.device_to(local), vxlan)
    };
    over4.into_iter().chain(over6).map(device).collect()
}

/// The steps for devices: a device that cannot be changed in place is removed and made anew; a veth pair that is missing is
/// attach's to make.
pub(crate) fn diff(desired: &Table<Link>, actual: &Table<Link>) -> Vec<Step<Link>> {
    let mut steps = Vec::new();
    for step in crate::diff::diff(desired, actual) {
        match step {
            Step::Change { from, to } if !from.can_become(&to) => {
                steps.push(Step::Remove(from));
                if to.kind != Kind::Veth {
                    steps.push(Step::Add(to));
                }
            }
            Step::Add(Link { kind: Kind::Veth, .. }) => {}
            other => steps.push(other),
        }
    }
    steps
}

/// The name of the VXLAN device of a VNI over IPv4.
#[must_use]
pub fn vxlan_name(vni: u32) -> String {
    format!("{PREFIX}.{vni}")
}

/// The same over IPv6.
#[must_use]
pub fn vxlan6_name(vni: u32) -> String {
    format!("{PREFIX}6.{vni}")
}

/// The name of a veth's host end: the same for the same container and interface, so that a restarted agent and one without
/// its state find it. Two containers may, once in many millions, be given one name; the caller checks.
#[must_use]
pub fn veth_name(id: &str, ifname: &str) -> String {
    let hash = hash_of([id, ifname]) >> (64 - 4 * VETH_DIGITS);
    format!("{PREFIX}{hash:0VETH_DIGITS$x}")
}

/// The Ethernet address of a veth's host end, made from its name. It is given at creation: systemd-udevd changes addresses
/// that the kernel made up, and the container has this one as a permanent neighbour.
#[must_use]
pub fn veth_mac(host_ifname: &str) -> Mac {
    let [a, b, c, d, e, g, ..] = hash_of([host_ifname, "mac"]).to_be_bytes();
    Mac::local_from([a, b, c, d, e, g])
}

/// Whether a VXLAN device of this name is ours.
#[must_use]
pub fn is_vxlan_name(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).map(|rest| rest.strip_prefix('6').unwrap_or(rest));
    let digits = rest.and_then(|rest| rest.strip_prefix('.'));
    digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a veth of this name is ours.
#[must_use]
pub fn is_veth_name(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX);
    digits.is_some_and(|d| d.len() == VETH_DIGITS && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// A hash of the parts, each closed by a zero byte, with the bits spread at the end.
fn hash_of<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let hash = fnv1a(parts.into_iter().flat_map(|part| part.bytes().chain([0])));
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_ours_fit_the_kernel_and_do_not_collide_soon() {
        let names: BTreeSet<String> = (0..20_000).map(|n| veth_name(&format!("web-{n}"), "eth0")).collect();
        assert_eq!(names.len(), 20_000);
        assert!(names.iter().all(|n| n.len() == 14 && is_veth_name(n) && !is_vxlan_name(n)));
        assert_ne!(veth_name("ab", "c"), veth_name("a", "bc"));
        for name in [vxlan_name(0xff_ffff), vxlan6_name(0xff_ffff)] {
            assert!(name.len() <= 15 && is_vxlan_name(&name) && !is_veth_name(&name), "{name}");
        }
    }

    #[test]
    fn names_stay_what_they_were() {
        assert_eq!(veth_name("web-1", "eth0"), "weft588b4df41b");
        assert_eq!(veth_mac("weft0123456789").to_string(), "aa:03:7f:f1:9b:4d");
    }

    #[test]
    fn devices_of_others_are_not_ours() {
        for name in [
            "weft",
            "weft.",
            "weft6",
            "weft66.1",
            "weft4.1",
            "weft.x",
            "weft0",
            "weftd-test",
            "weft0123456789a",
            "weftXYZ4567890",
            "flannel.1",
            "eth0",
        ] {
            assert!(!is_vxlan_name(name) && !is_veth_name(name), "{name}");
        }
    }
}
