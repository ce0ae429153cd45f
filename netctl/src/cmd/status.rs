//! `netctl status`.

use weft_api::{DatapathStatus, Status, StoreStatus, Via};

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Cell, Page, Tone, cell, col, list, or_none};

/// Shows the agent's state. An agent that answers is enough for exit code 0.
///
/// # Errors
/// When there is no agent.
pub async fn execute(context: &mut Context) -> Result<u8, Error> {
    let status = context.agent.ask(context.agent.client().status()).await?;
    context.printer.show(&status, draw)?;
    Ok(DONE)
}

fn draw(status: &Status, page: &mut Page) {
    page.field("node", cell(&status.node));
    page.field("ready", if status.ready { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) });
    if !status.reasons.is_empty() {
        let tone = if status.ready { Tone::Warn } else { Tone::Bad };
        let items: Vec<String> = status.reasons.iter().map(|r| format!("- {r}")).collect();
        page.field("reasons", Cell::toned(items.join("\n"), tone));
    }
    page.field("subnet", or_none(status.subnet));
    if let Some(subnet6) = status.subnet6 {
        page.field("subnet6", cell(subnet6));
    }
    page.field("uplink", list(status.uplink.iter().cloned().chain(status.public_ip.map(|ip| ip.to_string()))));
    page.field("store", store(&status.store));
    page.field("applied", cell(format_args!("revision {}", status.applied)));
    page.field("dns", list(&status.dns));
    page.field("datapath", datapath(&status.datapath));
    page.field("virtual IPs", sockets(&status.datapath));
    page.field("containers", cell(status.attachments));
    page.field("cgroup", cell(status.cgroup.display()));
    page.field("version", cell(&status.version));

    page.heading("PEERS");
    page.table(
        [col("NODE"), col("SUBNET"), col("PUBLIC IP"), col("VIA"), col("ALIVE")],
        status.peers.iter().map(|peer| {
            [
                or_none(peer.node.as_ref()),
                cell(peer.subnet),
                cell(peer.public_ip),
                cell(via(peer.via)),
                // A host without a name runs flannel, whose life cannot be seen.
                match (&peer.node, peer.alive) {
                    (None, _) => or_none::<&str>(None),
                    (Some(_), true) => Cell::toned("yes", Tone::Good),
                    (Some(_), false) => Cell::toned("no", Tone::Bad),
                },
            ]
        }),
    );
    if !status.bad.is_empty() {
        page.heading("BAD VALUES IN THE STORE");
        page.table([col("KEY"), col("WHY")], status.bad.iter().map(|bad| [cell(&bad.key), Cell::toned(&bad.why, Tone::Warn)]));
    }
}

fn store(store: &StoreStatus) -> Cell {
    if store.connected {
        return cell(format_args!("{}, connected, revision {}", store.kind, store.revision));
    }
    let why = store.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
    Cell::toned(format_args!("{}, not connected (last revision {}){why}", store.kind, store.revision), Tone::Bad)
}

fn datapath(datapath: &DatapathStatus) -> Cell {
    match (&datapath.fast, &datapath.why_not) {
        (true, _) => Cell::toned("fast (eBPF)", Tone::Good),
        (false, Some(why)) => Cell::toned(format_args!("kernel: {why}"), Tone::Warn),
        (false, None) => Cell::toned("kernel", Tone::Warn),
    }
}

fn sockets(datapath: &DatapathStatus) -> Cell {
    if datapath.sockets { Cell::toned("translated at the socket", Tone::Good) } else { Cell::toned("not translated", Tone::Warn) }
}

fn via(via: Via) -> &'static str {
    match via {
        Via::Fast => "fast",
        Via::Kernel => "kernel",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    /// As the agent answers: from the JSON that scripts rely on.
    fn status(json: &str) -> Status {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_ready_agent_shows_what_it_has() {
        let status = status(
            r#"{"node":"h1","ready":true,"reasons":[],"subnet":"10.244.3.0/24","subnet6":null,"dns":["10.244.3.1:53"],
                "store":{"kind":"etcd","connected":true,"revision":42},
                "peers":[{"node":"h2","subnet":"10.244.9.0/24","public_ip":"192.0.2.8","via":"fast","alive":true},
                         {"node":null,"subnet":"10.244.10.0/24","public_ip":"192.0.2.9","via":"kernel"}],
                "datapath":{"fast":true,"why_not":null,"sockets":true},"version":"0.1.0","uplink":"eth0","public_ip":"192.0.2.7",
                "cgroup":"/sys/fs/cgroup","attachments":2,"applied":41}"#,
        );
        assert_eq!(
            drawn(false, |p| draw(&status, p)),
            "\
node         h1
ready        yes
subnet       10.244.3.0/24
uplink       eth0, 192.0.2.7
store        etcd, connected, revision 42
applied      revision 41
dns          10.244.3.1:53
datapath     fast (eBPF)
virtual IPs  translated at the socket
containers   2
cgroup       /sys/fs/cgroup
version      0.1.0

PEERS
NODE  SUBNET          PUBLIC IP  VIA     ALIVE
h2    10.244.9.0/24   192.0.2.8  fast    yes
-     10.244.10.0/24  192.0.2.9  kernel  -
"
        );
    }

    #[test]
    fn an_agent_that_waits_says_for_what_and_lists_bad_values() {
        let status = status(
            r#"{"node":"h1","ready":false,"reasons":["waiting for /coreos.com/network/config: netctl network init --cidr 10.244.0.0/16","no uplink"],
                "subnet":null,"subnet6":null,"dns":[],"store":{"kind":"etcd","connected":false,"revision":0,"error":"connection refused"},
                "peers":[],"datapath":{"fast":false,"why_not":"not permitted"},
                "bad":[{"key":"/skydns/local/skydns/x","why":"no record: expected value at line 1"}]}"#,
        );
        let text = drawn(false, |p| draw(&status, p));
        for line in [
            "ready        no\n",
            "reasons      - waiting for /coreos.com/network/config: netctl network init --cidr 10.244.0.0/16\n             - no uplink\n",
            "store        etcd, not connected (last revision 0): connection refused\n",
            "datapath     kernel: not permitted\n",
            "virtual IPs  not translated\n",
            "/skydns/local/skydns/x  no record: expected value at line 1\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
