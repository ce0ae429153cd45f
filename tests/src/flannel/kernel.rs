//! The kernel's part of flannel's `vxlan` backend, by the commands that give the same entries.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::eventually::SOON;
use crate::flannel::reading::{Key, Lease, Todo, vtep_mac};
use crate::host::UPLINK;
use crate::place::{Output, Place};

/// What flannel takes off the uplink's MTU.
const OVERHEAD: u64 = 50;

/// The VXLAN device of one family, on one host.
#[derive(Clone, Debug)]
pub struct Device {
    place: Place,
    /// Whether it carries IPv6, inside and outside.
    v6: bool,
    /// Its name.
    pub name: String,
    /// Its MAC, which flannel chose at random when it made it.
    pub mac: String,
    /// Its MTU, bytes.
    pub mtu: u64,
    direct_routing: bool,
}

impl Device {
    /// Keeps the device that is there, or makes one, with a new MAC.
    pub(super) fn ensure(place: &Place, backend: &Value, local: IpAddr) -> Result<Self> {
        let v6 = local.is_ipv6();
        let vni = backend["VNI"].as_u64().unwrap_or(1);
        let port = backend["Port"].as_u64().filter(|p| *p != 0).unwrap_or(8472);
        let name = format!("{}.{vni}", if v6 { "flannel-v6" } else { "flannel" });
        if run(place, &format!("ip link show {name}")).is_err() {
            let outer = link(place, UPLINK)?["mtu"].as_u64().context("the uplink has no MTU")?;
            let (mtu, mac) = (outer - OVERHEAD, random_mac()?);
            run(
                place,
                &format!(
                    "ip link add {name} address {mac} mtu {mtu} type vxlan id {vni} local {local} dev {UPLINK} dstport {port} nolearning"
                ),
            )?;
        }
        let link = link(place, &name)?;
        let mac = link["address"].as_str().with_context(|| format!("no MAC in {link}"))?.to_owned();
        let mtu = link["mtu"].as_u64().with_context(|| format!("no MTU in {link}"))?;
        Ok(Self { place: place.clone(), v6, name, mac, mtu, direct_routing: backend["DirectRouting"] == true })
    }

    /// Gives it the subnet's first address, and puts it up.
    pub(super) fn configure(&self, own: Key) -> Result<()> {
        let (address, _) = self.subnet(own).context("no subnet of its family")?;
        let (length, nodad) = if self.v6 { (128, " nodad") } else { (32, "") };
        run(&self.place, &format!("ip address replace {address}/{length} dev {}{nodad}", self.name))?;
        run(&self.place, &format!("sysctl -q -w net/ipv6/conf/{}/accept_ra=0", self.name))?;
        run(&self.place, &format!("ip link set {} up", self.name))
    }

    /// A host's subnet of the device's family: its first address, and all of it.
    fn subnet(&self, key: Key) -> Option<(IpAddr, String)> {
        match (self.v6, key.v6) {
            (false, _) => Some((key.v4.address.into(), key.v4.to_string())),
            (true, Some(v6)) => Some((v6.address.into(), v6.to_string())),
            (true, None) => None,
        }
    }

    /// Programs or removes what leads to a peer. A lease of another backend, or without this family, is passed over.
    pub(super) fn apply(&self, todo: &Todo) -> Result<()> {
        let (Todo::Add(lease) | Todo::Remove(lease)) = todo;
        let attrs = &lease.attrs;
        let Some((via, subnet)) = self.subnet(lease.key).filter(|_| attrs.backend_type == "vxlan") else { return Ok(()) };
        let (name, mac) = (&self.name, self.mac_of(lease)?);
        let peer =
            if self.v6 { attrs.public_ipv6.context("flanneld would panic: no PublicIPv6")? } else { attrs.public_ip.into() };
        let direct = self.direct_routing && self.is_on_link(peer)?;
        let commands = match (todo, direct) {
            (Todo::Add(_), true) => vec![format!("ip route replace {subnet} via {peer}")],
            (Todo::Remove(_), true) => vec![format!("ip route delete {subnet} via {peer}")],
            (Todo::Add(_), false) => vec![
                format!("ip neigh replace {via} lladdr {mac} dev {name} nud permanent"),
                format!("bridge fdb replace {mac} dev {name} dst {peer} self permanent"),
                format!("ip route replace {subnet} via {via} dev {name} onlink"),
            ],
            (Todo::Remove(_), false) => vec![
                format!("ip neigh delete {via} lladdr {mac} dev {name}"),
                format!("bridge fdb delete {mac} dev {name} dst {peer} self"),
                format!("ip route delete {subnet} via {via} dev {name} onlink"),
            ],
        };
        // What is there no more cannot be removed; flanneld tries each ten times, and goes on with the next.
        let mut first = Ok(());
        for command in commands {
            let result = run(&self.place, &command);
            match todo {
                Todo::Add(_) => result?,
                Todo::Remove(_) => first = first.and(result),
            }
        }
        first
    }

    /// The MAC behind a peer's address of the device's family.
    pub(super) fn mac_of(&self, lease: &Lease) -> Result<String> {
        let data = if self.v6 { &lease.attrs.backend_v6_data } else { &lease.attrs.backend_data };
        vtep_mac(data).map_err(anyhow::Error::msg)
    }

    fn is_on_link(&self, peer: IpAddr) -> Result<bool> {
        let peer = peer.to_string();
        let routes = self.place.exec(["ip", "-json", "route", "get", &peer])?.json()?;
        Ok(routes.as_array().is_some_and(|r| r.len() == 1 && r[0]["gateway"].is_null()))
    }
}

fn run(place: &Place, words: &str) -> Result<()> {
    place.exec_within(SOON, words.split(' ')).and_then(Output::success).map(drop)
}

fn link(place: &Place, name: &str) -> Result<Value> {
    let links = place.exec(["ip", "-json", "link", "show", name])?.json()?;
    Ok(links[0].clone())
}

/// A random MAC, locally administered, of one device.
fn random_mac() -> Result<String> {
    let mut bytes = super::random::<6>()?;
    bytes[0] = bytes[0] & 0xfe | 0x02;
    Ok(bytes.map(|b| format!("{b:02x}")).join(":"))
}
