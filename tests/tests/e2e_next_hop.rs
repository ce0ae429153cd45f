//! The fast path names the next hop of a peer only while that is certainly the peer itself, and follows the host's routes.

use anyhow::{Context, Result, ensure};
use weft_tests::eventually::SOON;
use weft_tests::traffic::idle;
use weft_tests::{Host, Topology, eventually};

/// Where the next hop begins in a row of `weft_peers`: behind address, Ethernet address, flags and MTU. First the family.
const NEXT_HOP: usize = 28;

/// The next hop in the row of the peer with this outer address, as the kernel holds it; none if the kernel is to find it.
fn next_hop(host: &Host, outer: &str) -> Result<Option<String>> {
    let layouts = std::fs::read_dir(host.agent.bpffs())?;
    let map = layouts.flatten().map(|e| e.path().join("weft_peers")).find(|p| p.exists()).context("no map")?;
    let rows = host.exec(["bpftool", "-j", "map", "dump", "pinned", &map.display().to_string()])?.json()?;
    for row in rows.as_array().context("no rows")? {
        let byte = |b: &serde_json::Value| u8::from_str_radix(b.as_str()?.trim_start_matches("0x"), 16).ok();
        let bytes: Vec<u8> = row["value"].as_array().context("no value")?.iter().filter_map(byte).collect();
        let address = |at: usize| bytes[at..at + 4].iter().map(u8::to_string).collect::<Vec<_>>().join(".");
        if address(12) == outer {
            let family = u32::from_ne_bytes(bytes[NEXT_HOP..NEXT_HOP + 4].try_into()?);
            return Ok((family == 2).then(|| address(NEXT_HOP + 4)));
        }
    }
    anyhow::bail!("no row for {outer} in {rows}")
}

#[test]
fn a_peer_on_the_link_is_its_own_next_hop_and_one_behind_a_router_is_looked_up() {
    let topology = Topology::cluster(3).unwrap();
    let a = idle(topology.host(1), &["--id", "a"]).unwrap();
    let b = idle(topology.host(2), &["--id", "b"]).unwrap();
    let (h1, peer, router) = (topology.host(1), topology.host(2).address().to_string(), topology.host(3).address().to_string());
    let packets_flow = |when: &str| {
        let to = b.address().unwrap().to_string();
        eventually(&format!("pings {when}"), SOON, || a.exec(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", &to])?.success())
            .unwrap();
    };
    let becomes = |when: &str, wanted: Option<&str>| {
        eventually(&format!("next hop {when}"), SOON, || {
            let found = next_hop(h1, &peer)?;
            ensure!(found.as_deref() == wanted, "{found:?}, not {wanted:?}");
            Ok(())
        })
        .unwrap();
        packets_flow(when);
        assert_eq!(h1.agent.status().unwrap()["datapath"]["fast"], true);
    };
    let on_h1 = |line: &str| h1.exec(line.split(' ')).unwrap().success().unwrap();

    becomes("on the link", Some(&peer));
    on_h1(&format!("ip route add {peer} via {router}"));
    becomes("by a router", None);
    on_h1(&format!("ip route del {peer} via {router}"));
    becomes("on the link again", Some(&peer));
    on_h1("ip rule add fwmark 7 lookup 100");
    becomes("with a rule of policy routing", None);
    on_h1("ip rule del fwmark 7 lookup 100");
    becomes("without the rule", Some(&peer));
}
