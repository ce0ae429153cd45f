//! `GET /v1/plan`: what the reconcile loop would change now, and why.
//!
//! The kernel's tables, the nft table, the maps and the links are read anew and compared with what is wanted, as the loop does,
//! and nothing is changed. The jump past other owners' forward chains is not looked at.

use std::sync::Arc;

use weft_api::{Code, Plan, PlannedAction, PlannedKind};
use weft_plan::reasons::Reasons;
use weft_plan::{kernel, nft};

use super::Admin;
use crate::attach::Published;
use crate::datapath::preview::Changes;
use crate::datapath::{self, LinkStep};
use crate::reconcile;
use crate::refusal::Refusal;
use crate::view::chain;

impl Admin {
    /// What would be done.
    ///
    /// # Errors
    /// The loop has had nothing to do yet.
    pub async fn plan(&self) -> Result<Plan, Refusal> {
        let snapshot = self.snapshot()?;
        let report = self.report.borrow().clone();
        let planned = report.host.ok_or_else(|| {
            let why = report.why_not_ready.unwrap_or_else(|| "this host has no subnet yet".to_owned());
            Refusal::new(Code::NotReady, format!("plan: {why}"))
        })?;
        let host = |published: &Published| weft_plan::Host {
            attachments: reconcile::attachments(published, &self.networks.borrow()),
            ..(*planned).clone()
        };
        let asked = weft_plan::desired(&snapshot, &host(&self.published.borrow()));
        let observed = self.netlink.observe(&asked.kernel.sysctls).await;
        // After the look at the kernel, as in the loop: no device is seen whose attachment is not known.
        let host = host(&self.published.borrow().clone());
        let desired = weft_plan::desired(&snapshot, &host);

        let mut problems = Vec::new();
        let mut actions = Vec::new();
        match observed {
            Ok(actual) => actions = kernel::diff(&desired.kernel, &actual),
            Err(e) => problems.push(format!("read the kernel's tables: {}", chain(&e))),
        }
        let filter = self.filter.preview(&snapshot.cluster(), &host, &desired.peers).await.unwrap_or_else(|e| {
            problems.push(format!("read the nft table: {}", chain(&e)));
            Vec::new()
        });
        let shared = self.datapath.clone();
        let (view, on, rows) = (Arc::clone(&snapshot), host.clone(), desired.maps.clone());
        let read = tokio::task::spawn_blocking(move || datapath::lock(&shared).preview(&view, &on, &rows)).await;
        let changes = read.map_err(|e| Refusal::internal("plan", &e))?.unwrap_or_else(|e| {
            problems.push(format!("datapath: {}", chain(&e)));
            Changes::default()
        });
        problems.extend(report.why_not_fast.filter(|_| !report.fast).map(|why| format!("fast path: {why}")));
        let reasons = Reasons { host: &host, peers: &desired.peers };
        Ok(Plan { revision: snapshot.revision(), actions: told(&reasons, &actions, &filter, &changes), problems })
    }
}

/// What nothing stands behind any more.
const UNWANTED: &str = "nothing wants it";

/// What the nft table is for.
const FILTER: &str = "who may send what on the kernel path, and masquerade";

fn told(reasons: &Reasons<'_>, kernel: &[kernel::Action], filter: &[nft::Action], changes: &Changes) -> Vec<PlannedAction> {
    let planned = |kind, action: String, reason: Option<String>| PlannedAction {
        kind,
        action,
        reason: Some(reason.unwrap_or_else(|| UNWANTED.to_owned())),
    };
    let mut told: Vec<PlannedAction> = Vec::new();
    told.extend(kernel.iter().map(|a| planned(PlannedKind::Kernel, a.to_string(), reasons.of_kernel(a))));
    told.extend(filter.iter().map(|a| {
        let wanted = !matches!(a, nft::Action::Unload | nft::Action::Remove(..));
        planned(PlannedKind::Filter, a.to_string(), wanted.then(|| FILTER.to_owned()))
    }));
    told.extend(changes.rows.iter().map(|a| planned(PlannedKind::Map, a.to_string(), reasons.of_map(a))));
    let service = |s: &weft_model::ids::ServiceName| format!("service {s}");
    told.extend(changes.services.iter().map(|(a, s)| planned(PlannedKind::Map, a.to_string(), s.as_ref().map(service))));
    told.extend(changes.links.iter().map(|step| {
        let reason = match step {
            LinkStep::Container { id, .. } => reasons.of_container(id),
            LinkStep::Uplink(_) => Some("packets of other hosts take the fast path".to_owned()),
            LinkStep::Sockets => Some("virtual IPs are translated at the socket".to_owned()),
            LinkStep::Detach(_) => None,
        };
        planned(PlannedKind::Link, step.to_string(), reason)
    }));
    told
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use weft_abi::{FrontendKey, SlotKey};
    use weft_model::mac::Mac;
    use weft_plan::{Host, Peers, Step, maps};

    use super::*;

    fn host() -> Host {
        Host {
            node: "h1".parse().unwrap(),
            config: None,
            subnet: None,
            subnet6: None,
            vtep_mac: Mac([2; 6]),
            vtep_mac6: Mac([2; 6]),
            uplink: None,
            attachments: vec![weft_plan::Attachment {
                id: "web-1".into(),
                address: Ipv4Addr::new(10, 244, 3, 2),
                address6: None,
                mac: Mac([2; 6]),
                host_ifname: "weft0123456789".into(),
                host_index: Some(7),
                netns_cookie: 70,
                network: 1,
                publish: Vec::new(),
            }],
            netns_cookie: 1,
            networks: Vec::new(),
        }
    }

    #[test]
    fn actions_are_told_by_kind_with_what_is_behind_them() {
        let (host, peers) = (host(), Peers::default());
        let route = weft_plan::routes::Route {
            destination: "10.244.3.2/32".parse().unwrap(),
            metric: 0,
            via: weft_plan::routes::Via::Device("weft0123456789".into()),
            mtu: None,
        };
        let frontend =
            FrontendKey { vip: Ipv4Addr::new(10, 112, 0, 7).into(), port: weft_abi::Be16::from_native(80), proto: 6, pad: 0 };
        let changes = Changes {
            rows: vec![maps::Action::DeletePeer(weft_abi::PeerKey { network: 1, subnet: Ipv4Addr::new(10, 244, 9, 0).into() })],
            services: vec![
                (weft_proxy::Action::DeleteFrontend(frontend), Some("default/myapp".parse().unwrap())),
                (weft_proxy::Action::DeleteSlot(SlotKey { service: 3, index: 0 }), None),
            ],
            links: vec![LinkStep::Container { id: "web-1".into(), index: 7 }, LinkStep::Detach("container-old".into())],
        };
        let told = told(
            &Reasons { host: &host, peers: &peers },
            &[kernel::Action::Route(Step::Add(route))],
            &[nft::Action::Unload],
            &changes,
        );
        let lines: Vec<String> =
            told.iter().map(|a| format!("{:?}: {}: {}", a.kind, a.action, a.reason.as_deref().unwrap_or("-"))).collect();
        assert_eq!(
            lines,
            [
                "Kernel: add route 10.244.3.2/32 dev weft0123456789: attachment web-1",
                "Filter: remove nft table inet weft: nothing wants it",
                "Map: delete weft_peers 1/10.244.9.0: nothing wants it",
                "Map: delete weft_frontends 10.112.0.7:80/tcp: service default/myapp",
                "Map: delete weft_slots 3[0]: nothing wants it",
                "Link: attach container-web-1 ifindex 7: attachment web-1",
                "Link: detach container-old: nothing wants it",
            ]
        );
    }
}
