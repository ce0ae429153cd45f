//! A container of the doctor's own: a namespace attached like any other, so that what it meets is what containers meet.
//!
//! It has no name and no record, and is there for as long as a checkup takes. If the agent is killed meanwhile the namespace ends
//! with it, and the next agent sweeps what is left, as with every container that died.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use weft_agent::kernel::netns::NetNs;
use weft_agent::kernel::probe::echo::{Answer, Echo, Question, ask};
use weft_api::{Attach, Finding};
use weft_model::ids::EndpointId;
use weft_model::mac::Mac;

use super::dns;
use crate::admin::Admin;
use crate::view::chain;

/// The check's name.
pub(super) const CHECK: &str = "container";

/// How long the attach may wait for the agent, milliseconds.
const READY_MS: u64 = 5_000;

/// A ping's usual length, in bytes.
pub(super) const SMALL: usize = 84;

/// The container.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Its namespace.
    pub netns: NetNs,
    /// Keeps the namespace alive.
    _file: File,
    /// Its id.
    id: EndpointId,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The device on the host's side.
    pub host_ifname: String,
}

/// Makes it, and sees whether it reaches its gateway and gets names answered.
pub(super) async fn make(admin: &Arc<Admin>, number: u64) -> (Vec<Finding>, Option<Arc<Endpoint>>) {
    let node = &admin.node;
    let report = admin.report.borrow().clone();
    if !report.ready {
        let why = report.why_not_ready.unwrap_or_else(|| "the agent is not ready".to_owned());
        return (vec![Finding::skipped(CHECK, node, why)], None);
    }
    let made = tokio::task::spawn_blocking(namespace).await;
    let (file, path) = match made.map_err(|e| e.to_string()).and_then(|made| made.map_err(|e| chain(&e))) {
        Ok(made) => made,
        Err(e) => return (vec![Finding::skipped(CHECK, node, format!("make a network namespace: {e}"))], None),
    };
    let id = format!("doctor-{number}").parse().ok();
    let request = Attach { id, timeout_ms: Some(READY_MS), ..Attach::new(path.clone(), "eth0") };
    let attached = match admin.attachments.attach(request).await {
        Ok(attached) => attached,
        Err(refusal) => {
            let what = format!("a container cannot be attached: {}", refusal.message);
            return (vec![Finding::fail(CHECK, node, what, "do as it says; netctl status says more")], None);
        }
    };
    let opened = tokio::task::spawn_blocking(move || NetNs::open(&path)).await;
    let netns = match opened.map_err(|e| e.to_string()).and_then(|opened| opened.map_err(|e| chain(&e))) {
        Ok(netns) => netns,
        Err(e) => {
            let mut found = vec![Finding::skipped(CHECK, node, e)];
            found.extend(detach(admin, attached.id.as_str()).await);
            return (found, None);
        }
    };
    let address = attached.addresses.first().map_or(IpAddr::V4(attached.gateway), |a| a.addr());
    let endpoint = Arc::new(Endpoint {
        netns,
        _file: file,
        id: attached.id.clone(),
        address,
        mac: attached.mac,
        host_ifname: attached.host_ifname,
    });
    let gateway = IpAddr::V4(attached.gateway);
    let domain = admin.snapshot().map(|s| s.cluster().dns_domain.clone()).ok();
    let servers: Vec<IpAddr> =
        attached.dns.into_iter().filter(|ip| admin.names.listening().iter().any(|l| l.ip() == *ip)).collect();
    let inside = endpoint.clone();
    let looked = tokio::task::spawn_blocking(move || look(&inside, gateway, &servers, domain.as_deref())).await;
    let found = looked.unwrap_or_else(|e| vec![Finding::skipped(CHECK, node, e.to_string())]);
    (found, Some(endpoint))
}

impl Endpoint {
    /// Takes it back.
    pub(super) async fn take_back(&self, admin: &Admin) -> Option<Finding> {
        detach(admin, self.id.as_str()).await
    }
}

async fn detach(admin: &Admin, id: &str) -> Option<Finding> {
    let refusal = admin.attachments.detach(id).await.err()?;
    let next = format!("netctl detach {id}");
    Some(Finding::warn(CHECK, id, format!("the doctor's own container is still attached: {}", refusal.message), next))
}

/// What a container needs of its own host. Blocks.
fn look(endpoint: &Endpoint, gateway: IpAddr, servers: &[IpAddr], domain: Option<&str>) -> Vec<Finding> {
    let subject = endpoint.address;
    let netns = Some(&endpoint.netns);
    let pinged = Echo::open(netns, None, gateway).map(|mut echo| {
        let mut questions = [Question { echo: &mut echo, size: SMALL }];
        ask(&mut questions, 3, Duration::from_secs(1)).into_iter().next().unwrap_or(Answer::Silent)
    });
    let gateway_finding = match pinged {
        Ok(Answer::Heard(took)) => {
            Finding::ok(CHECK, subject, format!("a container is attached and reaches its gateway {gateway}"))
                .with("rtt_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
        }
        Ok(_) => Finding::fail(
            CHECK,
            subject,
            format!("a container gets no answer from its own gateway {gateway}"),
            "see whether a firewall on this host drops what comes from weft devices (input chain); netctl drops",
        ),
        Err(e) => Finding::skipped(CHECK, subject, format!("no raw socket: {e}")),
    };
    let mut found = vec![gateway_finding];
    let Some(domain) = domain else { return found };
    for server in servers {
        let server = SocketAddr::new(*server, 53);
        let asked = endpoint.netns.run(|| dns::own(CHECK, &format!("DNS {server}"), server, domain));
        found.push(asked.unwrap_or_else(|e| Finding::skipped(CHECK, server, e.to_string())));
    }
    found
}

/// A fresh network namespace, held by a descriptor, and a path to it that ends with this process.
fn namespace() -> std::io::Result<(File, PathBuf)> {
    std::thread::scope(|scope| {
        let make = || -> std::io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        // A thread of its own, whose namespace ends with it but for the descriptor.
        let maker = std::thread::Builder::new().name("doctor-netns".to_owned()).spawn_scoped(scope, make)?;
        let file = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        Ok((file, path))
    })
}
