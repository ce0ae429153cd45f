//! The uplink as the last agent had it: `uplink.json` in the run directory.
//!
//! An agent that starts while the uplink cannot be used for a moment (no default route, link down, no address yet) goes by it:
//! what the last one made stays, and forwards. It is of no use in another boot or network namespace, where numbers of devices
//! mean others, nor when something else is asked for. How long it is held on to is decided in `reconcile`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_plan::{OnLink, Uplink};

/// What was asked for, and where: an uplink found for another question is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The boot.
    pub boot: String,
    /// The host's network namespace, by cookie.
    pub netns_cookie: u64,
    /// `--iface`.
    pub iface: String,
    /// `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// What is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUplink {
    asked: Asked,
    name: String,
    index: u32,
    address: Option<Ipv4Addr>,
    address6: Option<Ipv6Addr>,
    public_ip: Option<Ipv4Addr>,
    public_ipv6: Option<Ipv6Addr>,
    mtu: u32,
    ethernet: bool,
    direct: Vec<IpNet>,
    elsewhere: Vec<IpNet>,
    plain: bool,
}

impl LastUplink {
    /// What was found when this was asked.
    #[must_use]
    pub fn new(asked: Asked, uplink: &Uplink) -> Self {
        let Uplink { name, index, address, address6, public_ip, public_ipv6, mtu, ethernet, on_link } = uplink.clone();
        let OnLink { direct, elsewhere, plain } = on_link;
        Self { asked, name, index, address, address6, public_ip, public_ipv6, mtu, ethernet, direct, elsewhere, plain }
    }

    /// The uplink, if it was found when the same was asked.
    #[must_use]
    pub fn uplink(self, asked: &Asked) -> Option<Uplink> {
        let Self { name, index, address, address6, public_ip, public_ipv6, mtu, ethernet, direct, elsewhere, plain, .. } = self;
        let on_link = OnLink { direct, elsewhere, plain };
        (self.asked == *asked).then_some(Uplink {
            name,
            index,
            address,
            address6,
            public_ip,
            public_ipv6,
            mtu,
            ethernet,
            on_link,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_whole_to_the_same_question_of_the_same_boot_only() {
        let uplink = Uplink {
            name: "eth0".into(),
            index: 2,
            address: Some([192, 0, 2, 1].into()),
            address6: Some("2001:db8::1".parse().unwrap()),
            public_ip: Some([203, 0, 113, 1].into()),
            public_ipv6: None,
            mtu: 9000,
            ethernet: true,
            on_link: OnLink {
                direct: vec!["192.0.2.0/24".parse().unwrap()],
                elsewhere: vec!["192.0.2.9/32".parse().unwrap()],
                plain: true,
            },
        };
        let asked = Asked { boot: "b".into(), netns_cookie: 1, iface: "auto".into(), public_ip: None, public_ipv6: None };
        let text = serde_json::to_vec(&LastUplink::new(asked.clone(), &uplink)).unwrap();
        let read = || serde_json::from_slice::<LastUplink>(&text).unwrap();
        assert_eq!(read().uplink(&asked), Some(uplink));
        for other in [
            Asked { boot: "c".into(), ..asked.clone() },
            Asked { netns_cookie: 2, ..asked.clone() },
            Asked { iface: "eth1".into(), ..asked.clone() },
            Asked { public_ip: Some([203, 0, 113, 1].into()), ..asked },
        ] {
            assert_eq!(read().uplink(&other), None, "{other:?}");
        }
    }
}
