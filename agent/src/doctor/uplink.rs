//! The device to the other hosts, and the devices that could be in the overlay's way.
//!
//! An old flannel's or another system's VXLAN device with our VNI keeps ours from being made, an `external` one on our port keeps
//! it from coming up, and a program on the port does the same (flannel #1155, #2388; cilium #21801).

use std::sync::Arc;

use weft_agent::kernel::netlink::VxlanDevice;
use weft_api::Finding;

use crate::admin::Admin;
use crate::view::chain;

/// Whether there is an uplink, and of what kind.
pub(super) async fn uplink(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "uplink";
    let report = admin.report.borrow().clone();
    let Some(name) = report.uplink.clone() else {
        let why = report.problems.first().cloned().unwrap_or_else(|| "no uplink, so no overlay".to_owned());
        let next = "give the host a default route or an address, or name the device with --iface";
        return vec![Finding::fail(CHECK, &admin.node, why, next)];
    };
    let host = report.host.as_ref();
    let Some(uplink) = host.and_then(|h| h.uplink.as_ref()) else {
        return vec![Finding::ok(CHECK, name, "it is there; there is no subnet yet")];
    };
    let mtu = uplink.mtu;
    if !uplink.ethernet {
        let what = format!("it is not an Ethernet device: the fast path writes no other frames, the kernel path does; MTU {mtu}");
        return vec![Finding::warn(CHECK, name, what, "nothing, if that is how it is meant; else choose another with --iface")];
    }
    vec![Finding::ok(CHECK, name, format!("Ethernet, MTU {mtu}")).with("mtu", mtu)]
}

/// Other VXLAN devices that are in ours' way.
pub(super) async fn vxlan(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "vxlan";
    let host = admin.report.borrow().host.clone();
    let Some((vni, port, device)) = host.as_ref().and_then(|h| {
        let overlay = h.overlay().filter(|o| o.tunnels())?;
        Some((overlay.config.backend.vni, overlay.config.backend.port, overlay.device()))
    }) else {
        return vec![Finding::skipped(CHECK, &admin.node, "nothing is tunnelled")];
    };
    match admin.netlink.vxlans().await {
        Ok(devices) => judge(CHECK, &device, vni, port, &devices),
        Err(e) => vec![Finding::skipped(CHECK, device, chain(&e))],
    }
}

fn judge(check: &str, ours: &str, vni: u32, port: u16, devices: &[VxlanDevice]) -> Vec<Finding> {
    let mut found = Vec::new();
    match devices.iter().find(|d| d.name == ours) {
        Some(device) if device.up => {
            found.push(Finding::ok(check, ours, format!("VNI {vni}, UDP port {}, up", device.port)));
        }
        Some(_) => {
            let what = "it is down: no packet goes by the kernel path".to_owned();
            found.push(Finding::fail(check, ours, what, "netctl status says what keeps it from coming up"));
        }
        None => {
            let what = "it is not there: no packet goes by the kernel path".to_owned();
            found.push(Finding::fail(check, ours, what, "netctl status says what keeps it from being made"));
        }
    }
    for other in devices.iter().filter(|d| !d.ours && d.port == port) {
        let VxlanDevice { name, .. } = other;
        if other.vni == vni {
            let what = format!("another owner's device has our VNI {vni} on UDP port {port}: only one can be there");
            let next = format!(
                "ip link delete {name}, if its owner (an old flanneld?) is gone; else another VNI with netctl network init --vni"
            );
            found.push(Finding::fail(check, name, what, next));
        } else if other.vni == 0 {
            let what = format!("another owner's device takes every VNI on UDP port {port}: ours cannot be up beside it");
            let next = "give it or us another port (netctl network init --port)";
            found.push(Finding::fail(check, name, what, next));
        } else {
            found.push(Finding::ok(check, name, format!("another owner's, with VNI {} on our port: both work", other.vni)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use weft_api::CheckResult;

    use super::*;

    fn device(name: &str, vni: u32, port: u16) -> VxlanDevice {
        VxlanDevice { name: name.to_owned(), ours: name.starts_with("weft"), up: true, vni, port }
    }

    fn results(devices: &[VxlanDevice]) -> Vec<(String, CheckResult)> {
        judge("vxlan", "weft.1", 1, 8472, devices).into_iter().map(|f| (f.subject, f.result)).collect()
    }

    #[test]
    fn only_what_cannot_stand_beside_ours_is_a_fault() {
        use CheckResult::{Fail, Ok};
        let ours = device("weft.1", 1, 8472);
        assert_eq!(results(std::slice::from_ref(&ours)), [("weft.1".to_owned(), Ok)]);
        let others = [ours.clone(), device("flannel.7", 7, 8472), device("vxlan9", 1, 4789), device("cilium_vxlan", 0, 8472)];
        assert_eq!(
            results(&others),
            [("weft.1".to_owned(), Ok), ("flannel.7".to_owned(), Ok), ("cilium_vxlan".to_owned(), Fail)]
        );
        assert_eq!(results(&[device("flannel.1", 1, 8472)]), [("weft.1".to_owned(), Fail), ("flannel.1".to_owned(), Fail)]);
        let down = VxlanDevice { up: false, ..ours };
        assert_eq!(results(&[down]), [("weft.1".to_owned(), Fail)]);
    }
}
