//! The IPAM driver: which pools and addresses there are, in Docker's words.
//!
//! A pool's id says all that is to be known of it (`weft/blue/4`), so nothing need be kept and nothing be replayed: dockerd may
//! forget, or this agent, in any order. An address is journalled before it is told.
//!
//! **The range of a pool that nobody asked for is 0.0.0.0/0.** libnetwork 20.10 takes a pool that an IPAM driver chose only if no
//! route of the host lies in it, and asks for another one without end otherwise; the one exception it makes is 0.0.0.0/0. On a host
//! of an overlay there are routes in the network's range as soon as there is a second host or a container. A range given by
//! `--subnet` is not looked at, and `docker run --ip` needs one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::ids::NetworkName;

use super::wire::{GATEWAY, Given, OfPool, Pool, REQUEST_TYPE, RequestPool};
use crate::attach::ground::{Family, Ground};
use crate::refusal::Refusal;

/// What a pool's id begins with.
const PREFIX: &str = "weft";

/// The option that names a network, of an IPAM driver and of a network.
pub const NETWORK: &str = "network";

/// The range that libnetwork takes whatever routes there are.
const ANY: &str = "0.0.0.0/0";

/// A pool: the addresses of one family that this host has in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolId {
    /// The network.
    pub network: NetworkName,
    /// The family.
    pub family: Family,
}

impl PoolId {
    /// As it was said before.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = || Refusal::invalid(format!("{text:?} is no pool of Weft's, as in weft/default/4"));
        let mut parts = text.split('/');
        let (Some(PREFIX), Some(name), Some(family), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let family = match family {
            "4" => Family::V4,
            "6" => Family::V6,
            _ => return Err(wrong()),
        };
        Ok(Self { network: name.parse().map_err(|_| wrong())?, family })
    }

    fn text(&self) -> String {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        format!("{PREFIX}/{}/{family}", self.network)
    }
}

/// Answers a request for a pool: of the network that is named, else of the one whose range is given, else of the default one.
///
/// # Errors
/// There is no such network here, or it has another range.
pub fn pool(request: &RequestPool, grounds: &[Ground]) -> Result<Pool, Refusal> {
    if !request.sub_pool.is_empty() {
        return Err(Refusal::invalid("--ip-range: a host gives addresses of its own subnet only; leave it out"));
    }
    if let Some(other) = request.options.keys().find(|key| *key != NETWORK) {
        return Err(Refusal::invalid(format!("--ipam-opt {other}: there is no such option; {NETWORK} is the only one")));
    }
    let range: Option<IpNet> = match request.pool.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Refusal::invalid(format!("--subnet {text:?} is no range")))?),
    };
    let family = if request.v6 { Family::V6 } else { Family::V4 };
    let ground = match (request.options.get(NETWORK), range) {
        (Some(name), _) => named(name, grounds)?,
        (None, Some(range)) => {
            grounds.iter().find(|ground| ground.has_range(range)).ok_or_else(|| no_such_range(range, grounds))?
        }
        (None, None) => named(NetworkName::default_network().as_str(), grounds)?,
    };
    if let Some(range) = range.filter(|range| !ground.has_range(*range)) {
        return Err(no_such_range(range, std::slice::from_ref(ground)));
    }
    let own = ground.range(family).ok_or_else(|| no_v6(&ground.network))?;
    let gateway = ground.gateway(family).ok_or_else(|| no_v6(&ground.network))?;
    let range = match (range, family) {
        (Some(range), _) => range.to_string(),
        (None, Family::V4) => ANY.to_owned(),
        // Routes of IPv6 are not looked at.
        (None, Family::V6) => own.to_string(),
    };
    let id = PoolId { network: ground.network.clone(), family }.text();
    Ok(Pool { id, range, data: BTreeMap::from([(GATEWAY, IpNet::from(gateway).to_string())]) })
}

/// The ground of a network by name.
///
/// # Errors
/// This host is not in it.
pub fn named<'a>(name: &str, grounds: &'a [Ground]) -> Result<&'a Ground, Refusal> {
    grounds.iter().find(|ground| ground.network.as_str() == name).ok_or_else(|| {
        Refusal::invalid(format!("this host has no subnet in a network {name:?}; netctl network list shows what there is"))
    })
}

fn no_such_range(range: IpNet, grounds: &[Ground]) -> Refusal {
    let families = [Family::V4, Family::V6];
    let ranges = grounds.iter().flat_map(|ground| families.iter().filter_map(|family| ground.range(*family)));
    let of_this: Vec<String> =
        ranges.filter(|own| own.addr().is_ipv4() == range.addr().is_ipv4()).map(|r| r.to_string()).collect();
    Refusal::invalid(format!("--subnet {range} is no network's range; it is {}, or leave it out", of_this.join(" or ")))
}

/// What is said where there is no IPv6.
pub fn no_v6(network: &NetworkName) -> Refusal {
    Refusal::invalid(format!("network {network} has no IPv6 on this host; leave out --ipv6"))
}

/// What an address request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The gateway, by its address if one is given.
    Gateway,
    /// A container, with this address or any.
    Container(Option<IpAddr>),
}

/// What an address is asked for.
///
/// # Errors
/// The address is none, or is no gateway.
pub fn wanted(request: &OfPool, pool: &PoolId, ground: &Ground) -> Result<Wanted, Refusal> {
    let address = match request.address.as_str() {
        "" => None,
        text => Some(address(text)?),
    };
    if request.options.get(REQUEST_TYPE).is_none_or(|kind| kind != GATEWAY) {
        return Ok(Wanted::Container(address));
    }
    let gateway = ground.gateway(pool.family).ok_or_else(|| no_v6(&ground.network))?;
    match address.filter(|address| *address != gateway) {
        Some(other) => Err(Refusal::invalid(format!(
            "--gateway {other}: the gateway of network {} on this host is {gateway}; leave it out",
            ground.network
        ))),
        None => Ok(Wanted::Gateway),
    }
}

/// An address, with or without a prefix length.
///
/// # Errors
/// It is none.
pub fn address(text: &str) -> Result<IpAddr, Refusal> {
    let alone = text.split_once('/').map_or(text, |(alone, _)| alone);
    alone.parse().map_err(|_| Refusal::invalid(format!("{text:?} is no address")))
}

/// An address as an answer: alone on its link.
#[must_use]
pub fn given(address: IpAddr) -> Given {
    Given { address: IpNet::from(address).to_string(), data: serde_json::Map::new() }
}

#[cfg(test)]
mod tests {
    use super::super::wire::read;
    use super::*;

    fn grounds() -> Vec<Ground> {
        let ground = |name: &str, range: &str, subnet: &str, v6: Option<(&str, &str)>| Ground {
            network: name.parse().unwrap(),
            range: range.parse().unwrap(),
            subnet: subnet.parse().unwrap(),
            v6: v6.map(|(range, subnet)| (range.parse().unwrap(), subnet.parse().unwrap())),
        };
        vec![
            ground("default", "10.244.0.0/16", "10.244.3.0/24", Some(("fd00:10:244::/48", "fd00:10:244:3::/64"))),
            ground("blue", "10.245.0.0/16", "10.245.7.0/24", None),
        ]
    }

    fn ask(body: &str) -> Result<Pool, String> {
        pool(&read(body.as_bytes()).unwrap(), &grounds()).map_err(|refusal| refusal.message)
    }

    #[test]
    fn a_pool_is_of_the_network_that_is_named_or_whose_range_is_given() {
        let said = |body: &str| ask(body).map(|p| (p.id, p.range, p.data[GATEWAY].clone())).unwrap();
        let is = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(said("{}"), is("weft/default/4", "0.0.0.0/0", "10.244.3.1/32"));
        let given = said(r#"{"Pool":"10.244.0.0/16","Options":null}"#);
        assert_eq!(given, is("weft/default/4", "10.244.0.0/16", "10.244.3.1/32"));
        assert_eq!(said(r#"{"Pool":"10.245.0.0/16"}"#), is("weft/blue/4", "10.245.0.0/16", "10.245.7.1/32"));
        assert_eq!(said(r#"{"Pool":"10.245.7.0/24"}"#), is("weft/blue/4", "10.245.7.0/24", "10.245.7.1/32"));
        assert_eq!(said(r#"{"Options":{"network":"blue"}}"#), is("weft/blue/4", "0.0.0.0/0", "10.245.7.1/32"));
        assert_eq!(said(r#"{"V6":true}"#), is("weft/default/6", "fd00:10:244::/48", "fe80::1/128"));
    }

    #[test]
    fn what_no_network_here_has_is_refused_with_what_there_is() {
        let refused = |body: &str, why: &str| {
            let said = ask(body).unwrap_err();
            assert!(said.contains(why), "{body}: {said}");
        };
        refused(r#"{"Pool":"10.9.0.0/16"}"#, "10.244.0.0/16 or 10.245.0.0/16");
        refused(r#"{"Pool":"10.244.0.0/16","Options":{"network":"blue"}}"#, "it is 10.245.0.0/16");
        refused(r#"{"Pool":"all"}"#, "\"all\" is no range");
        refused(r#"{"Options":{"network":"green"}}"#, "no subnet in a network \"green\"");
        refused(r#"{"Options":{"colour":"blue"}}"#, "colour");
        refused(r#"{"SubPool":"10.244.9.0/24"}"#, "--ip-range");
        refused(r#"{"V6":true,"Options":{"network":"blue"}}"#, "no IPv6");
    }

    #[test]
    fn a_pools_id_is_read_back_and_nothing_else_is() {
        let id = PoolId { network: "blue".parse().unwrap(), family: Family::V6 };
        assert_eq!(PoolId::parse(&id.text()), Ok(id));
        for wrong in ["", "weft", "weft/blue", "weft/blue/5", "weft/blue/4/x", "weft//4", "LocalDefault/10.0.0.0/8", "weft/../4"]
        {
            assert!(PoolId::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_gateway_is_told_and_no_other_is_taken_for_it() {
        let of = |body: &str| {
            let (request, grounds): (OfPool, _) = (read(body.as_bytes()).unwrap(), grounds());
            let pool = PoolId::parse(&request.pool).unwrap();
            wanted(&request, &pool, &grounds[0]).map_err(|refusal| refusal.message)
        };
        let gateway = r#""Options":{"RequestAddressType":"com.docker.network.gateway"}"#;
        assert_eq!(of(&format!(r#"{{"PoolID":"weft/default/4","Address":"10.244.3.1",{gateway}}}"#)), Ok(Wanted::Gateway));
        assert_eq!(of(&format!(r#"{{"PoolID":"weft/default/6","Address":"",{gateway}}}"#)), Ok(Wanted::Gateway));
        assert!(
            of(&format!(r#"{{"PoolID":"weft/default/4","Address":"10.244.3.9",{gateway}}}"#)).unwrap_err().contains("10.244.3.1")
        );
        let container = of(r#"{"PoolID":"weft/default/4","Address":"10.244.3.9","Options":null}"#);
        assert_eq!(container, Ok(Wanted::Container(Some("10.244.3.9".parse().unwrap()))));
        assert!(of(r#"{"PoolID":"weft/default/4","Address":"nine"}"#).unwrap_err().contains("nine"));
    }
}
