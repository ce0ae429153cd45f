//! The `Backend` member: how packets get from host to host, and its options as flannel has them.

use serde::Serialize;

use super::{BadConfig, bad};

/// The default UDP port of Linux's VXLAN devices, and so flannel's.
pub const DEFAULT_VXLAN_PORT: u16 = 8472;

/// The VNI that flannel takes when the configuration names none.
pub const DEFAULT_VNI: u32 = 1;

/// How packets get from host to host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// In VXLAN.
    Vxlan,
    /// As they are, by routes to the other hosts, which are on the same link.
    HostGw,
}

/// A backend with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// How packets get from host to host.
    pub kind: BackendKind,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// MTU of the underlay to count with instead of the uplink's own; 0 is none.
    pub mtu: u32,
    /// Whether hosts on the same link send each other packets as they are; of `vxlan` only.
    pub direct_routing: bool,
}

impl BackendKind {
    /// Its name in the configuration and in leases.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self { kind: BackendKind::Vxlan, vni: DEFAULT_VNI, port: DEFAULT_VXLAN_PORT, mtu: 0, direct_routing: false }
    }
}

impl Backend {
    /// flannel compares types and option names without regard to case.
    pub(super) fn parse(raw: Option<serde_json::Map<String, serde_json::Value>>) -> Result<Self, BadConfig> {
        let mut backend = Self::default();
        // The documentation of flannel says vxlan for a missing backend, its code says udp; nobody wants the latter.
        for (name, value) in raw.unwrap_or_default() {
            let number = || value.as_u64().ok_or_else(|| bad("Backend", format!("{name} {value} is no number")));
            match name.to_ascii_lowercase().as_str() {
                "type" => {
                    let is = |kind: &BackendKind| value.as_str().is_some_and(|v| v.eq_ignore_ascii_case(kind.as_str()));
                    let kind = [BackendKind::Vxlan, BackendKind::HostGw].into_iter().find(is);
                    let unknown = || format!("Type {value} is not supported: \"vxlan\" and \"host-gw\" are");
                    backend.kind = kind.ok_or_else(|| bad("Backend", unknown()))?;
                }
                "vni" => backend.vni = within("VNI", number()?, 1, 0xff_ffff)?,
                "port" => {
                    let port = u16::try_from(number()?).map_err(|_| bad("Backend", "Port is above 65535"))?;
                    backend.port = if port == 0 { DEFAULT_VXLAN_PORT } else { port };
                }
                "mtu" => backend.mtu = within("MTU", number()?, 0, 65_535)?,
                "directrouting" => {
                    let neither = || bad("Backend", format!("{name} {value} is neither true nor false"));
                    backend.direct_routing = value.as_bool().ok_or_else(neither)?;
                }
                _ => {}
            }
        }
        Ok(backend)
    }

    /// As it is written.
    pub(super) fn out(&self) -> Out<'_> {
        Out {
            kind: self.kind.as_str(),
            vni: self.vni,
            port: self.port,
            mtu: Some(self.mtu).filter(|mtu| *mtu != 0),
            direct_routing: Some(self.direct_routing).filter(|direct| *direct),
        }
    }
}

/// The member's JSON.
#[derive(Serialize)]
pub(super) struct Out<'a> {
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "Port")]
    port: u16,
    #[serde(rename = "MTU", skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(rename = "DirectRouting", skip_serializing_if = "Option::is_none")]
    direct_routing: Option<bool>,
}

fn within(name: &str, value: u64, least: u32, most: u32) -> Result<u32, BadConfig> {
    u32::try_from(value)
        .ok()
        .filter(|v| (least..=most).contains(v))
        .ok_or_else(|| bad("Backend", format!("{name} {value} is outside {least} to {most}")))
}
