//! A name server for each further network, on its own gateway address, with its own names only.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_dns::{Maker, Metrics, Server, Zone};
use weft_model::ids::NetworkName;
use weft_plan::ipam;

use crate::names;
use crate::networks::Known;
use crate::view::View;

/// How often what could not be bound is tried again, and the upstream servers are looked at.
const PAUSE: Duration = Duration::from_secs(1);

/// A network's server.
struct OneServer {
    server: Server,
    zone: watch::Sender<Option<Arc<Zone>>>,
    /// None while it works, or after it broke.
    maker: Option<Maker>,
    problems: Vec<String>,
}

/// Serves until `shutdown`. `upstreams` says who is asked about other names.
pub async fn run(
    mut view: View,
    mut known: watch::Receiver<Arc<Known>>,
    upstreams: impl Fn() -> Vec<SocketAddr>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let mut servers: BTreeMap<NetworkName, OneServer> = BTreeMap::new();
    let mut asked = upstreams();
    let mut stale = true;
    loop {
        let now = known.borrow_and_update().clone();
        let snapshot = view.borrow_and_update().clone();
        let before = servers.len();
        servers.retain(|name, _| now.members.contains_key(name));
        for name in now.members.keys() {
            servers.entry(name.clone()).or_insert_with(|| {
                let (zone, zone_rx) = watch::channel(None);
                let server = Server::start(zone_rx, &asked, metrics.clone(), &shutdown);
                info!(network = %name, "answers names of network");
                OneServer { server, zone, maker: None, problems: Vec::new() }
            });
        }
        stale |= servers.len() != before;
        let next = upstreams();
        if next != asked {
            servers.values().for_each(|one| one.server.set_upstreams(&next));
            asked = next;
        }
        if let Some(snapshot) = snapshot.filter(|_| stale) {
            for (name, one) in &mut servers {
                let maker = one.maker.take().unwrap_or_else(|| Maker::new(name.clone()));
                match names::make(maker, snapshot.clone()).await {
                    Ok((maker, zone)) => {
                        one.maker = Some(maker);
                        one.zone.send_replace(Some(zone));
                    }
                    Err(e) => warn!(error = %e, "zone not made; the last one goes on"),
                }
            }
        }
        let mut retry = false;
        for (name, one) in &mut servers {
            let gateway = now.members.get(name).map(|member| SocketAddr::new(IpAddr::V4(ipam::gateway(member.own.subnet)), 53));
            let errors = one.server.set_listen(gateway.as_slice()).await;
            let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
            retry |= !problems.is_empty();
            for problem in problems.iter().filter(|p| !one.problems.contains(p)) {
                warn!(network = %name, problem, "dns");
            }
            one.problems = problems;
        }
        stale = false;
        tokio::select! {
            Ok(()) = view.changed() => stale = true,
            Ok(()) = known.changed() => stale = true,
            () = tokio::time::sleep(PAUSE), if retry || !servers.is_empty() => {}
            () = shutdown.cancelled() => return,
        }
    }
}
