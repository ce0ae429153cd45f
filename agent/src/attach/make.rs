//! An attach, step by step.

use std::time::Duration;

use tracing::{info, warn};
use weft_agent::kernel::netns::NetNs;
use weft_agent::kernel::veth;
use weft_api::{Attach, Attached, Code};
use weft_model::ids::EndpointId;
use weft_model::mac::Mac;
use weft_plan::host::MIN_MTU_V6;
use weft_plan::ipam;

use super::mend::{Fate, fate};
use super::request::{check, host_ifname, ids, no_subnet, own_networks, refuse_netns};
use super::under_way::{Held, Making};
use super::wait::READY_TIMEOUT;
use super::{Attachments, Change, device_exists, names};
use crate::refusal::Refusal;
use crate::state::{Attachment, Journal, everywhere};
use crate::view::chain;

/// What there is already of what is asked for.
enum There {
    /// Nothing.
    Nothing,
    /// All of it.
    Same(Box<Attachment>),
    /// The same, in the making by another request.
    InTheMaking(EndpointId),
    /// What has its place, but in a namespace that may be gone.
    Elsewhere(Box<Attachment>),
}

impl Attachments {
    /// Gives a namespace an address, a route, DNS, and a record if it is to have one. Goes on to its end even if nobody waits
    /// for it any more.
    ///
    /// # Errors
    /// Why not; nothing is left behind then.
    pub async fn attach(self: &std::sync::Arc<Self>, request: Attach) -> Result<Attached, Refusal> {
        let me = std::sync::Arc::clone(self);
        let done = tokio::spawn(async move { me.attach_to_its_end(request).await });
        done.await.map_err(|e| Refusal::internal("attach", &e))?
    }

    async fn attach_to_its_end(&self, request: Attach) -> Result<Attached, Refusal> {
        check(&request)?;
        // What a plugin wanted taken back while the agent was away comes before what is asked now of the same container.
        self.replay().await;
        let held = self.under_way.begin(request.owner.as_ref(), &request.ifname).await;
        let timeout = request.timeout_ms.map_or(READY_TIMEOUT, Duration::from_millis);
        held.unless_stopped(self.wait_ready(timeout)).await?;
        if let Some(name) = request.network.as_ref().filter(|name| !name.is_default()) {
            held.unless_stopped(self.wait_joined(name, timeout)).await?;
        }
        let path = request.netns.clone();
        let netns = tokio::task::spawn_blocking(move || NetNs::open(&path)).await;
        let netns = netns.map_err(|e| Refusal::internal("attach", &e))?.map_err(|e| refuse_netns(&e))?;

        let (attachment, making) = self.claim(&request, &netns, &held).await?;
        let id = &attachment.id;
        if let Some(making) = making {
            self.make(&attachment, &netns).await?;
            drop(making);
            info!(%id, address = %attachment.address, address6 = ?attachment.address6, ifname = attachment.host_ifname, "attached");
        }
        if let Err(refusal) = self.wait_applied(id, self.announce()).await {
            // The kernel does not follow: what was made is taken back before saying so.
            self.take_back(&attachment).await;
            return Err(refusal);
        }
        self.wait_recorded(&attachment).await;
        Ok(self.attached(&attachment))
    }

    /// Makes the device of an attachment that is in the journal; if that fails, both are gone.
    async fn make(&self, attachment: &Attachment, netns: &NetNs) -> Result<(), Refusal> {
        let Err(e) = veth::create(&attachment.veth(), netns).await else {
            self.made_with_mtu(attachment);
            return Ok(());
        };
        let id = &attachment.id;
        let mut journal = self.journal.lock().await;
        if let Err(refusal) = self.change(&mut journal, |next| drop(next.attachments.remove(id))).await {
            warn!(%id, error = refusal.message, "an attachment that failed is still in the journal");
        }
        Err(Refusal::new(Code::Conflict, format!("attach {id}: {}", chain(&e))))
    }

    /// Puts an attachment into the journal, or finds the one that the same request made before. Its device is to be made as
    /// long as there is a [`Making`].
    async fn claim(&self, request: &Attach, netns: &NetNs, held: &Held<'_>) -> Result<(Attachment, Option<Making<'_>>), Refusal> {
        loop {
            let mut journal = self.journal.lock().await;
            held.go_on()?;
            match self.look_for(&journal, request, netns) {
                There::Same(there) => {
                    // Somebody may have removed it, or an agent was killed before it made it.
                    let making = (!device_exists(&there.host_ifname)).then(|| self.under_way.make(&there.id));
                    return Ok((*there, making));
                }
                There::InTheMaking(id) => {
                    drop(journal);
                    self.under_way.made(&id).await;
                }
                There::Elsewhere(there) => {
                    drop(journal);
                    if !there.withdrawing && !matches!(fate(&there).await, Fate::Gone) {
                        return Err(Refusal::conflict(format!(
                            "attach: {} is attached already, to {} of {}; detach it first or choose another --id",
                            there.id,
                            there.ifname,
                            there.netns.display()
                        )));
                    }
                    info!(id = %there.id, "gone, or half detached; what is left is taken back, since it is to be attached again");
                    self.detach_to_its_end(&there.id).await?;
                }
                There::Nothing => {
                    let attachment = self.new_attachment(request, netns, &journal)?;
                    self.check_ports(&attachment, &attachment.publish, &journal).await?;
                    let making = self.under_way.make(&attachment.id);
                    // First the journal: a crash after this leaves an entry that is made true or given up, never an address used
                    // twice. And published before it is made: a pair that nobody lists is swept away. But quietly, for there is
                    // nothing to do before it is made.
                    let id = attachment.id.clone();
                    let add = |next: &mut Journal| drop(next.attachments.insert(id, attachment.clone()));
                    self.change_as(&mut journal, Change::Quiet, add).await?;
                    return Ok((attachment, Some(making)));
                }
            }
        }
    }

    fn look_for(&self, journal: &Journal, request: &Attach, netns: &NetNs) -> There {
        let of_owner = |a: &&Attachment| a.owner.is_some() && a.owner == request.owner && a.ifname == request.ifname;
        let by_owner = || journal.attachments.values().find(of_owner);
        let by_id = || ids(request, netns, &self.around.node).next().and_then(|id| journal.attachments.get(&id));
        // An owner's attachment is known by its owner; an id that it wants may still be another's.
        let there = match (&request.owner, &request.id) {
            (Some(_), None) => by_owner(),
            (Some(_), Some(_)) => by_owner().or_else(by_id),
            (None, _) => by_id(),
        };
        let Some(there) = there else { return There::Nothing };
        if self.under_way.is_making(&there.id) {
            return There::InTheMaking(there.id.clone());
        }
        let same = there.owner == request.owner && there.is_of(netns) && there.ifname == request.ifname && !there.withdrawing;
        let there = Box::new(there.clone());
        if same { There::Same(there) } else { There::Elsewhere(there) }
    }

    fn new_attachment(&self, request: &Attach, netns: &NetNs, journal: &Journal) -> Result<Attachment, Refusal> {
        let network = request.network.clone().filter(|name| !name.is_default());
        let beside = journal.attachments.values().find(|a| a.is_of(netns) && device_exists(&a.host_ifname));
        if let Some(other) = beside {
            return Err(Refusal::conflict(format!(
                "attach: {} is attached already, as {} by {}; a namespace has one interface in a network",
                request.netns.display(),
                other.id,
                other.ifname
            )));
        }
        let snapshot = self.snapshot()?;
        let report = self.around.report.borrow().clone();
        let subnet = match &network {
            None => report.subnet,
            Some(name) => self.around.networks.borrow().subnet(name),
        };
        let (Some(subnet), Some(mtu)) = (subnet, report.mtu) else { return Err(no_subnet()) };
        let in_use = journal.addresses_v4();
        let address = ipam::choose_address(subnet, &in_use, &journal.released)
            .map_err(|full| Refusal::new(Code::Full, format!("attach: {full}")))?;
        // On a link that is too narrow for IPv6 there is none, and status says so; further networks have none.
        let wide = mtu >= MIN_MTU_V6 && network.is_none();
        let address6 = report.subnet6.filter(|_| wide).and_then(|subnet6| ipam::address6(address, subnet, subnet6));
        let routes = if request.default_route {
            everywhere()
        } else {
            own_networks(&network.as_ref().map_or_else(|| (*snapshot).clone(), |name| snapshot.in_network(name)))
        };
        let attachment = |id: EndpointId| Attachment {
            host_ifname: host_ifname(&id, &request.ifname, journal),
            id,
            netns: request.netns.clone(),
            netns_id: netns.id(),
            netns_cookie: netns.cookie(),
            ifname: request.ifname.clone(),
            network: network.clone(),
            address,
            address6,
            mac: Mac::of_container(address),
            gateway: ipam::gateway(subnet),
            routes: routes.clone(),
            mtu,
            boot: self.around.boot.clone(),
            name: request.name.clone(),
            service: request.service.clone(),
            port: request.port,
            proto: request.proto,
            labels: request.labels.clone(),
            withdrawing: false,
            owner: request.owner.clone(),
            aliases: request.aliases.clone(),
            instances: request.instances.clone(),
            learned: None,
            publish: request.publish.clone(),
        };
        let mut refusal = Refusal::conflict("attach: no id is free");
        for id in ids(request, netns, &self.around.node).filter(|id| !journal.attachments.contains_key(id)) {
            let attachment = attachment(id);
            match names::check("attach", &attachment, &snapshot, &self.around.node) {
                Ok(()) => return Ok(attachment),
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }
}
