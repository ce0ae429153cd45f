//! An attach, step by step.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use weft_agent::kernel::netns::NetNs;
use weft_agent::kernel::veth;
use weft_api::{Attach, Attached, Code};
use weft_model::ids::{EndpointId, NetworkName};
use weft_model::mac::Mac;
use weft_plan::ipam;

use super::ground::Used;
use super::mend::{Fate, fate};
use super::request::{check, choose_addresses, host_ifname, ids, no_subnet, own_networks, ranges, refuse_netns};
use super::under_way::{Held, Making};
use super::wait::READY_TIMEOUT;
use super::{Attachments, Change, device_exists, names};
use crate::admin::Caller;
use crate::refusal::Refusal;
use crate::state::{Attachment, Journal, everywhere, now_ms};
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
    pub async fn attach(self: &Arc<Self>, request: Attach) -> Result<Attached, Refusal> {
        self.attach_for(request, Caller::default()).await
    }

    /// As [`Attachments::attach`]. A tool that has gone away before its container had an address is not attached: it, or whoever
    /// killed it, has asked for the release meanwhile, perhaps before this was read.
    ///
    /// # Errors
    /// As [`Attachments::attach`].
    pub async fn attach_for(self: &Arc<Self>, request: Attach, caller: Caller) -> Result<Attached, Refusal> {
        let me = Arc::clone(self);
        let done = tokio::spawn(async move { me.attach_to_its_end(request, &caller).await });
        done.await.map_err(|e| Refusal::internal("attach", &e))?
    }

    async fn attach_to_its_end(&self, request: Attach, caller: &Caller) -> Result<Attached, Refusal> {
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

        let (attachment, making) = self.claim(&request, &netns, &held, caller).await?;
        let id = &attachment.id;
        let is_ours = making.is_some();
        if let Some(making) = making {
            self.make(&attachment, &netns).await?;
            drop(making);
            info!(%id, address = %attachment.address, address6 = ?attachment.address6, ifname = attachment.host_ifname, "attached");
        }
        if let Err(refusal) = self.wait_applied(id, self.announce()).await {
            // The kernel does not follow: what was made is taken back before saying so. What was there before is another
            // request's, and a container runs in it.
            if is_ours {
                self.take_back(&attachment).await;
            }
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
    async fn claim(
        &self,
        request: &Attach,
        netns: &NetNs,
        held: &Held<'_>,
        caller: &Caller,
    ) -> Result<(Attachment, Option<Making<'_>>), Refusal> {
        loop {
            let mut journal = self.journal.lock().await;
            held.go_on()?;
            // Asked while a release would wait for us: who is there now has not asked for one yet.
            if request.owner.is_some() && caller.is_gone() {
                return Err(Refusal::conflict("attach: whoever asked for it went away before it was attached"));
            }
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
                    self.detach_one(&there).await?;
                }
                There::Nothing => {
                    let attachment = self.new_attachment(request, netns, &journal).await?;
                    self.check_ports(&attachment, &attachment.publish, &journal).await?;
                    let making = self.under_way.make(&attachment.id);
                    // First the journal: a crash after this leaves an entry that is made true or given up, never an address used
                    // twice. And published before it is made: a pair that nobody lists is swept away. But quietly: its
                    // record waits for the device, and the reconcile loop alone has something to do before.
                    let id = attachment.id.clone();
                    let add = |next: &mut Journal| drop(next.attachments.insert(id, attachment.clone()));
                    self.change_as(&mut journal, Change::Quiet, add).await?;
                    self.begun.notify_one();
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

    async fn new_attachment(&self, request: &Attach, netns: &NetNs, journal: &Journal) -> Result<Attachment, Refusal> {
        let network = request.network.clone().filter(|name| !name.is_default());
        let beside: Vec<&Attachment> =
            journal.attachments.values().filter(|a| a.is_of(netns) && device_exists(&a.host_ifname)).collect();
        let same_network = beside.iter().find(|a| a.network == network);
        // A tool that asks for a second one knows what it does.
        if let Some(other) = same_network.filter(|_| request.owner.is_none()) {
            return Err(Refusal::conflict(format!(
                "attach: {} is attached already, as {} by {}; a namespace has one interface in a network",
                request.netns.display(),
                other.id,
                other.ifname
            )));
        }
        let snapshot = self.snapshot()?;
        let grounds = self.grounds(Duration::ZERO).await?;
        let name = network.clone().unwrap_or_else(NetworkName::default_network);
        let ground = grounds.into_iter().find(|ground| ground.network == name).ok_or_else(no_subnet)?;
        let mtu = self.around.report.borrow().mtu.ok_or_else(no_subnet)?;
        let (address, address6) = choose_addresses(request, &ground, &Used::new(journal))?;
        let in_network = || network.as_ref().map_or_else(|| (*snapshot).clone(), |name| snapshot.in_network(name));
        let routes = match (beside.is_empty(), same_network) {
            (true, _) if request.default_route => everywhere(),
            (true, _) => own_networks(&in_network()),
            (false, None) => ranges(&in_network()),
            // All of it is reached by the first one.
            (false, Some(_)) => Vec::new(),
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
            mac: request.mac.unwrap_or_else(|| Mac::of_container(address)),
            gateway: ipam::gateway(ground.subnet),
            routes: routes.clone(),
            mtu,
            boot: self.around.boot.clone(),
            born: now_ms(),
            name: request.name.clone(),
            service: request.service.clone(),
            port: request.port,
            proto: request.proto,
            labels: request.labels.clone(),
            further: !beside.is_empty(),
            withdrawing: false,
            owner: request.owner.clone(),
            aliases: request.aliases.clone(),
            instances: request.instances.clone(),
            learned: None,
            publish: request.publish.clone(),
            check: request.check.clone(),
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
