//! What we read of a device's message, and nothing more.
//!
//! `netlink-packet-route` reads all of it, and refuses the whole for one attribute that it does not know the shape of. A
//! network card's driver must not be able to take the overlay down that way, so here only the attributes in use are looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DecodeError, NlaBuffer, NlasIterator, parse_string, parse_u16_be, parse_u32};
use weft_model::mac::Mac;
use weft_plan::links::ZeroChecksums;

/// Length of `struct ifinfomsg`, in bytes.
const HEADER: usize = 16;

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

// include/uapi/linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_ZERO_CSUM6_TX: u16 = 19;
const IFLA_VXLAN_UDP_ZERO_CSUM6_RX: u16 = 20;

/// Attributes that say that a VXLAN device is of a kind we never make, if they are there at all: a default remote,
/// options that are flags.
const FOREIGN_IF_THERE: [u16; 5] = [2, 16, 23, 24, 27];

/// The same, if they are there and not zero: TTL, TOS, proxy, short circuit, miss notifications, remote checksums,
/// `external`, label, inherited TTL, DF, VNI filter.
const FOREIGN_IF_SET: [u16; 13] = [5, 6, 11, 12, 13, 14, 21, 22, 25, 26, 28, 29, 30];

/// The same, if it is there and zero: the outer UDP checksum.
const FOREIGN_IF_UNSET: u16 = 18;

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its ifindex.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Whether it is set up.
    pub(crate) up: bool,
    /// Whether its frames are Ethernet.
    pub(crate) ethernet: bool,
    /// Its MTU, in bytes.
    pub(crate) mtu: u32,
    /// Its Ethernet address.
    pub(crate) mac: Option<Mac>,
    /// Its kind, such as `vxlan`; physical devices have none.
    pub(crate) kind: Option<String>,
    /// Its alias: a text that means nothing to the kernel.
    pub(crate) alias: Option<String>,
    /// What a VXLAN device has beside.
    pub(crate) vxlan: VxlanOptions,
}

/// The options of a VXLAN device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VxlanOptions {
    pub(crate) vni: u32,
    pub(crate) local: Option<IpAddr>,
    pub(crate) parent: u32,
    pub(crate) port: u16,
    pub(crate) learning: bool,
    pub(crate) zero_checksums: ZeroChecksums,
    pub(crate) foreign: bool,
}

impl Device {
    /// Reads the payload of an `RTM_NEWLINK` message.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, DecodeError> {
        let short = || DecodeError::buffer_too_small(payload.len(), HEADER);
        let (header, attributes) = payload.split_at_checked(HEADER).ok_or_else(short)?;
        // struct ifinfomsg: family, pad, type (2 bytes), index, flags, change (4 bytes each).
        let &[_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = header else { return Err(short()) };
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let mut device = Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            ethernet: u16::from_ne_bytes([t0, t1]) == ETHERNET,
            up: flags & libc::IFF_UP.cast_unsigned() != 0,
            ..Self::default()
        };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                IFLA_IFNAME => device.name = parse_string(attribute.value())?,
                // Anyone's text, which need not be UTF-8.
                IFLA_IFALIAS => device.alias = parse_string(attribute.value()).ok(),
                IFLA_MTU => device.mtu = parse_u32(attribute.value())?,
                IFLA_ADDRESS => device.mac = <[u8; 6]>::try_from(attribute.value()).ok().map(Mac),
                IFLA_LINKINFO => device.read_info(attribute.value())?,
                _ => {}
            }
        }
        Ok(device)
    }

    fn read_info(&mut self, info: &[u8]) -> Result<(), DecodeError> {
        let mut data: Option<NlaBuffer<&[u8]>> = None;
        for attribute in NlasIterator::new(info) {
            let attribute = attribute?;
            match attribute.kind() {
                IFLA_INFO_KIND => self.kind = Some(parse_string(attribute.value())?),
                IFLA_INFO_DATA => data = Some(attribute),
                _ => {}
            }
        }
        match (self.kind.as_deref(), data) {
            (Some("vxlan"), Some(data)) => self.vxlan.read(data.value()),
            _ => Ok(()),
        }
    }
}

impl VxlanOptions {
    fn read(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        for attribute in NlasIterator::new(data) {
            let attribute = attribute?;
            let value = attribute.value();
            let set = value.iter().any(|byte| *byte != 0);
            match attribute.kind() {
                IFLA_VXLAN_ID => self.vni = parse_u32(value)?,
                IFLA_VXLAN_LINK => self.parent = parse_u32(value)?,
                IFLA_VXLAN_LOCAL => self.local = <[u8; 4]>::try_from(value).ok().map(|b| Ipv4Addr::from(b).into()),
                IFLA_VXLAN_LOCAL6 => self.local = <[u8; 16]>::try_from(value).ok().map(|b| Ipv6Addr::from(b).into()),
                IFLA_VXLAN_UDP_ZERO_CSUM6_TX => self.zero_checksums.sent = set,
                IFLA_VXLAN_UDP_ZERO_CSUM6_RX => self.zero_checksums.taken = set,
                IFLA_VXLAN_LEARNING => self.learning = set,
                IFLA_VXLAN_PORT => self.port = parse_u16_be(value)?,
                kind => {
                    self.foreign |= FOREIGN_IF_THERE.contains(&kind)
                        || (set && FOREIGN_IF_SET.contains(&kind))
                        || (!set && kind == FOREIGN_IF_UNSET);
                }
            }
        }
        Ok(())
    }
}
