//! Attachments whose addresses are given first, and whose device somebody else moves: Docker's.
//!
//! ```text
//!   reserve ──▶ address ──▶ give_end ──▶ end ──▶ hand_out ──▶ attachment ──▶ settled
//!   unreserve ◀──────────── take_end ◀────────── take_in ◀──────────────────────┘
//! ```
//!
//! An address stays reserved until it is given back, whatever uses it meanwhile, so it has one owner to the tool as well as to
//! us. An end is what the tool wants to have at that address; it becomes an attachment for as long as it is in a namespace. Each is
//! in the journal before the tool hears of it. What the tool has forgotten (its data are gone) is found by its namespace being
//! gone, and after [`IDLE`] by nobody using it.
//!
//! The namespace is known only once the device is there: to a Join, Docker's sandbox key names a file that does not exist yet. Until
//! [`Attachments::look_after_handed`] has seen it the attachment has no namespace, and sockets in it are not translated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};
use weft_agent::kernel::netns::NetNs;
use weft_agent::kernel::veth::{self, VethSpec};
use weft_api::{Attach, Code};
use weft_model::attachment::Owner;
use weft_model::hash::fnv1a;
use weft_model::ids::{EndpointId, NetworkName, ServiceName, sanitise_label};
use weft_model::mac::Mac;
use weft_model::publish::Publish;
use weft_model::record::Proto;
use weft_plan::host::MIN_MTU_V6;
use weft_plan::ipam;

use super::ground::{Family, Ground, Used};
use super::{Attachments, Change, names};
use crate::refusal::Refusal;
use crate::state::{Attachment, Journal, everywhere, now_ms};
use crate::view::chain;

/// How long an address or an end may be unused before it is taken for forgotten: dockerd needs some milliseconds from one call to
/// the next, and some tries of many seconds each where this agent is being restarted.
const IDLE: Duration = Duration::from_secs(300);

/// How often a namespace is looked for while its container is being started.
const SOON: Duration = Duration::from_millis(10);

/// For how long it is.
const STARTING: Duration = Duration::from_secs(20);

/// How often everything is looked at otherwise.
const NOW_AND_THEN: Duration = Duration::from_secs(1);

/// The name that a container's end has in the host's namespace begins with this: network managers leave such devices alone, and
/// nothing of ours is called so.
const DEVICE: &str = "vethw";

/// The interface that an attachment has until it is known what the tool called it.
const IFNAME: &str = "eth0";

/// What tools hold of this host beside attachments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// The boot in which it was given; containers do not outlive one.
    #[serde(default)]
    pub boot: String,
    /// Addresses that are not to be given to anybody else.
    #[serde(default)]
    pub reserved: BTreeSet<IpAddr>,
    /// Ends of networks, by their owner's text.
    #[serde(default)]
    pub ends: BTreeMap<String, End>,
}

impl Handed {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reserved.is_empty() && self.ends.is_empty()
    }

    /// The addresses in use.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let of = |end: &End| [Some(IpAddr::V4(end.address)), end.address6.map(IpAddr::V6)].into_iter().flatten();
        self.reserved.iter().copied().chain(self.ends.values().flat_map(of))
    }
}

/// A container's end of a network, in a namespace or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// By what the tool knows it.
    pub owner: Owner,
    /// The network; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// What people call it.
    #[serde(default)]
    pub name: Option<String>,
    /// The service it is an instance of.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// The port it serves there.
    #[serde(default)]
    pub port: Option<u16>,
    /// The port's protocol.
    #[serde(default)]
    pub proto: Proto,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl End {
    /// As a request, for what requests are checked for.
    fn request(&self) -> Attach {
        Attach {
            name: self.name.clone(),
            service: self.service.clone(),
            port: self.port,
            proto: self.proto,
            labels: self.labels.clone(),
            network: self.network.clone(),
            owner: Some(self.owner.clone()),
            ..Attach::new("", IFNAME)
        }
    }

    /// Ids that it may have, the best first; the same each time.
    fn ids(&self, node: &str) -> impl Iterator<Item = EndpointId> {
        let said = self.name.as_deref().or(self.service.as_ref().map(|s| s.name.as_str())).unwrap_or("c");
        let base = sanitise_label(said, weft_model::ids::MAX_LABEL - 7);
        let base = if base.is_empty() { "c".to_owned() } else { base };
        let seed = format!("{node} {}", self.owner);
        (0..16_u8)
            .filter_map(move |salt| format!("{base}-{:06x}", fnv1a(format!("{seed} {salt}").bytes()) & 0xff_ffff).parse().ok())
    }
}

/// What a tool needs to know of a device that it is handed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOut {
    /// Its name in the host's namespace.
    pub device: String,
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// The same of IPv6, if the container has IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// The network's range.
    pub range: Ipv4Net,
    /// The same of IPv6.
    pub range6: Option<Ipv6Net>,
}

/// Since when addresses and ends are unused, as far as this process knows.
pub(super) type Idle = BTreeMap<String, Instant>;

impl Attachment {
    /// Whether its device has been handed to a tool and was not seen in a namespace yet.
    fn is_on_its_way(&self) -> bool {
        self.netns_cookie == 0 && !self.withdrawing
    }
}

impl Attachments {
    /// This host in each network, once it is in any.
    ///
    /// # Errors
    /// The agent is not ready in time.
    pub async fn grounds(&self, timeout: Duration) -> Result<Vec<Ground>, Refusal> {
        self.wait_ready(timeout).await?;
        let snapshot = self.snapshot()?;
        let report = self.around.report.borrow().clone();
        let wide = report.mtu.is_some_and(|mtu| mtu >= MIN_MTU_V6);
        let config = report.host.as_ref().and_then(|host| host.config.clone()).or_else(|| snapshot.network().cloned());
        let own = config.zip(report.subnet).map(|(config, subnet)| Ground {
            network: NetworkName::default_network(),
            range: config.network,
            subnet,
            v6: config.v6.map(|range| range.network).zip(report.subnet6).filter(|_| wide),
        });
        let known = self.around.networks.borrow().clone();
        let further = known.members.iter().filter_map(|(name, member)| {
            let subnet = known.subnet(name)?;
            Some(Ground { network: name.clone(), range: member.config.network, subnet, v6: None })
        });
        Ok(own.into_iter().chain(further).collect())
    }

    /// Keeps an address for a tool: the one it wants, or any.
    ///
    /// # Errors
    /// It is in use, or no container's, or none is free.
    pub async fn reserve(self: &Arc<Self>, ground: Ground, family: Family, wanted: Option<IpAddr>) -> Result<IpAddr, Refusal> {
        self.to_its_end(async move |me| {
            let mut journal = me.journal.lock().await;
            let address = ground.choose(family, wanted, &Used::new(&journal))?;
            me.change_handed(&mut journal, |handed, _| {
                handed.reserved.insert(address);
            })
            .await?;
            debug!(%address, "address reserved");
            Ok(address)
        })
        .await
    }

    /// Gives an address back. One that is not reserved is given back.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn unreserve(self: &Arc<Self>, address: IpAddr) -> Result<(), Refusal> {
        self.to_its_end(async move |me| {
            let mut journal = me.journal.lock().await;
            if !journal.handed.reserved.contains(&address) {
                return Ok(());
            }
            let release = |handed: &mut Handed, released: &mut BTreeMap<Ipv4Addr, u64>| {
                handed.reserved.remove(&address);
                if let IpAddr::V4(v4) = address {
                    let now = released.values().max().map_or(1, |last| last + 1);
                    released.insert(v4, now);
                }
            };
            me.change_handed(&mut journal, release).await?;
            debug!(%address, "address given back");
            Ok(())
        })
        .await
    }

    /// Remembers an end. The same end again is what is there.
    ///
    /// # Errors
    /// Its address is another's, or its name cannot be.
    pub async fn give_end(self: &Arc<Self>, end: End) -> Result<(), Refusal> {
        super::request::check(&end.request())?;
        if end.mac.0[0] & 1 == 1 || end.mac == Mac([0; 6]) {
            return Err(Refusal::invalid(format!("--mac-address {}: it is not one interface's", end.mac)));
        }
        self.to_its_end(async move |me| {
            let mut journal = me.journal.lock().await;
            let key = end.owner.to_string();
            let attached = journal.attachments.values().filter(|a| a.owner.as_ref() != Some(&end.owner));
            let others = attached.flat_map(Attachment::addresses);
            let ends = journal.handed.ends.values().filter(|other| other.owner != end.owner);
            let ends = ends.flat_map(|e| [Some(IpAddr::V4(e.address)), e.address6.map(IpAddr::V6)].into_iter().flatten());
            let taken: BTreeSet<IpAddr> = others.chain(ends).collect();
            let own = [Some(IpAddr::V4(end.address)), end.address6.map(IpAddr::V6)];
            if let Some(address) = own.into_iter().flatten().find(|address| taken.contains(address)) {
                return Err(Refusal::conflict(format!("{address} is in use on this host; netctl attachment list shows by what")));
            }
            me.change_handed(&mut journal, |handed, _| drop(handed.ends.insert(key, end))).await
        })
        .await
    }

    /// Forgets an end, and takes it out of its namespace if it is in one. That there is none is no error.
    ///
    /// # Errors
    /// Its device cannot be removed, or the journal not be written.
    pub async fn take_end(self: &Arc<Self>, owner: Owner) -> Result<(), Refusal> {
        self.to_its_end(async move |me| {
            me.take_in_now(&owner).await?;
            let mut journal = me.journal.lock().await;
            let key = owner.to_string();
            if !journal.handed.ends.contains_key(&key) {
                return Ok(());
            }
            me.change_handed(&mut journal, |handed, _| drop(handed.ends.remove(&key))).await
        })
        .await
    }

    /// Makes the device of an end, ready to be moved; the namespace is at `sandbox`, or will be.
    ///
    /// # Errors
    /// There is no such end, or a step failed; then nothing is left of it.
    pub async fn hand_out(self: &Arc<Self>, owner: Owner, sandbox: PathBuf) -> Result<HandedOut, Refusal> {
        self.to_its_end(async move |me| {
            // Asked again, as after an answer that did not arrive: the device may be anywhere by now.
            me.take_in_now(&owner).await?;
            me.hand_out_now(&owner, sandbox).await
        })
        .await
    }

    async fn hand_out_now(&self, owner: &Owner, sandbox: PathBuf) -> Result<HandedOut, Refusal> {
        let mut journal = self.journal.lock().await;
        let end = journal.handed.ends.get(&owner.to_string()).cloned();
        let end = end.ok_or_else(|| {
            Refusal::conflict(format!("join: there is no endpoint {}; start the container anew", owner.container))
        })?;
        let beside = journal.attachments.values().find(|a| a.netns == sandbox && a.network == end.network);
        if let Some(other) = beside {
            return Err(Refusal::conflict(format!(
                "join: the container is attached to this network already, as {} by {}",
                other.id, other.ifname
            )));
        }
        let attachment = self.attachment_of(&end, sandbox, &journal)?;
        let id = attachment.id.clone();
        let spec = VethSpec { ifname: device_of(&attachment), ..attachment.veth() };
        // First the journal, and published before it is made; see `attach`.
        let add = |next: &mut Journal| drop(next.attachments.insert(id.clone(), attachment.clone()));
        self.change_as(&mut journal, Change::Quiet, add).await?;
        if let Err(e) = veth::make_handed(&spec).await {
            if let Err(refusal) = self.change(&mut journal, |next| drop(next.attachments.remove(&id))).await {
                warn!(%id, error = refusal.message, "an attachment that failed is still in the journal");
            }
            return Err(Refusal::new(Code::Conflict, format!("join {id}: {}", chain(&e))));
        }
        drop(journal);
        info!(%id, address = %attachment.address, address6 = ?attachment.address6, ifname = attachment.host_ifname, %owner, "handed out");
        if let Err(refusal) = self.wait_applied(&id, self.announce()).await {
            self.take_back(&attachment).await;
            return Err(refusal);
        }
        self.wait_recorded(&attachment).await;
        let grounds = self.grounds(Duration::ZERO).await?;
        let ground = grounds.into_iter().find(|ground| ground.subnet.contains(&attachment.address));
        let ground = ground.ok_or_else(|| Refusal::conflict(format!("join {id}: this host's subnet has changed")))?;
        Ok(HandedOut {
            device: spec.ifname,
            gateway: attachment.gateway,
            gateway6: attachment.address6.map(|_| ipam::LINK_GATEWAY),
            range: ground.range,
            range6: ground.v6.map(|(range, _)| range).filter(|_| attachment.address6.is_some()),
        })
    }

    fn attachment_of(&self, end: &End, sandbox: PathBuf, journal: &Journal) -> Result<Attachment, Refusal> {
        let snapshot = self.snapshot()?;
        let report = self.around.report.borrow().clone();
        let subnet = match &end.network {
            None => report.subnet,
            Some(name) => self.around.networks.borrow().subnet(name),
        };
        let (Some(subnet), Some(mtu)) = (subnet, report.mtu) else { return Err(super::request::no_subnet()) };
        if !subnet.contains(&end.address) {
            return Err(Refusal::conflict(format!(
                "join: address {} is not in this host's subnet {subnet} any more; start the container anew",
                end.address
            )));
        }
        let attachment = |id: EndpointId| Attachment {
            host_ifname: super::request::host_ifname(&id, IFNAME, journal),
            id,
            netns: sandbox.clone(),
            netns_id: (0, 0),
            netns_cookie: 0,
            ifname: IFNAME.to_owned(),
            network: end.network.clone(),
            address: end.address,
            address6: end.address6,
            mac: end.mac,
            gateway: ipam::gateway(subnet),
            routes: everywhere(),
            mtu,
            boot: self.around.boot.clone(),
            born: now_ms(),
            name: end.name.clone(),
            service: end.service.clone(),
            port: end.port,
            proto: end.proto,
            labels: end.labels.clone(),
            further: false,
            withdrawing: false,
            owner: Some(end.owner.clone()),
            aliases: Vec::new(),
            instances: Vec::new(),
            publish: Vec::new(),
            learned: None,
            check: None,
        };
        let mut refusal = Refusal::conflict("join: no id is free");
        for id in end.ids(self.around.node.as_str()).filter(|id| !journal.attachments.contains_key(id)) {
            let attachment = attachment(id);
            match names::check("join", &attachment, &snapshot, &self.around.node) {
                Ok(()) => return Ok(attachment),
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }

    /// Takes an end out of its namespace. That it is in none is no error.
    ///
    /// # Errors
    /// Its device cannot be removed, or the journal not be written.
    pub async fn take_in(self: &Arc<Self>, owner: Owner) -> Result<(), Refusal> {
        self.to_its_end(async move |me| me.take_in_now(&owner).await).await
    }

    async fn take_in_now(&self, owner: &Owner) -> Result<(), Refusal> {
        let of_owner = |a: &&Attachment| a.owner.as_ref() == Some(owner);
        let ids: Vec<EndpointId> = self.published.borrow().by_id.values().filter(of_owner).map(|a| a.id.clone()).collect();
        for id in ids {
            self.detach_to_its_end(&id).await?;
        }
        Ok(())
    }

    /// Publishes these ports of a container, and no others.
    ///
    /// # Errors
    /// There is no such attachment, or a port is another's.
    pub async fn set_published(self: &Arc<Self>, owner: Owner, publish: Vec<Publish>) -> Result<(), Refusal> {
        self.to_its_end(async move |me| {
            let mut journal = me.journal.lock().await;
            let there = journal.attachments.values().find(|a| a.owner.as_ref() == Some(&owner)).cloned();
            let Some(there) = there else {
                let unknown = || Refusal::conflict(format!("publish: endpoint {} is in no container", owner.container));
                return if publish.is_empty() { Ok(()) } else { Err(unknown()) };
            };
            if there.publish == publish {
                return Ok(());
            }
            me.check_ports(&there, &publish, &journal).await?;
            let set = |next: &mut Journal| {
                if let Some(entry) = next.attachments.get_mut(&there.id) {
                    entry.publish = publish;
                }
            };
            let generation = me.change(&mut journal, set).await?;
            drop(journal);
            me.wait_applied(&there.id, generation).await
        })
        .await
    }

    /// Looks for devices that were handed out, for ends and addresses that nobody uses, until the process ends.
    pub async fn look_after_handed(self: Arc<Self>) {
        let mut published = self.published.subscribe();
        let mut since: BTreeMap<EndpointId, Instant> = BTreeMap::new();
        let mut tick = Instant::now();
        loop {
            let by_id = published.borrow_and_update().clone();
            let on_their_way: Vec<&Attachment> = by_id.by_id.values().filter(|a| a.is_on_its_way()).collect();
            since.retain(|id, _| on_their_way.iter().any(|a| a.id == *id));
            for attachment in &on_their_way {
                let waited = since.entry(attachment.id.clone()).or_insert_with(Instant::now).elapsed();
                if waited > IDLE {
                    warn!(id = %attachment.id, "its device was handed out, and nobody has put it into a container; detached");
                    self.take_back(attachment).await;
                } else {
                    self.look_for_namespace(attachment).await;
                }
            }
            if tick.elapsed() >= NOW_AND_THEN {
                tick = Instant::now();
                self.forget_idle(tick).await;
            }
            let starting = since.values().any(|since| since.elapsed() < STARTING);
            tokio::select! {
                Ok(()) = published.changed() => {}
                () = tokio::time::sleep(if starting { SOON } else { NOW_AND_THEN }) => {}
            }
        }
    }

    /// Takes note of the namespace of a device that was handed out, if it is there.
    async fn look_for_namespace(&self, attachment: &Attachment) {
        let path = attachment.netns.clone();
        let Ok(Ok(netns)) = tokio::task::spawn_blocking(move || NetNs::open(&path)).await else { return };
        let id = &attachment.id;
        let ifname = match veth::find_handed(&attachment.host_ifname, &netns).await {
            Ok(Some(ifname)) => ifname,
            Ok(None) => return,
            Err(e) => return debug!(%id, error = chain(&e), "look for a device"),
        };
        let spec = VethSpec { ifname: ifname.clone(), ..attachment.veth() };
        if let Err(e) = veth::settle(&spec, &netns).await {
            // It may be on its way out again.
            return debug!(%id, error = chain(&e), "furnish a device");
        }
        let mut journal = self.journal.lock().await;
        let settle = |next: &mut Journal| {
            if let Some(entry) = next.attachments.get_mut(id).filter(|a| a.is_on_its_way()) {
                (entry.netns_id, entry.netns_cookie, entry.ifname) = (netns.id(), netns.cookie(), ifname.clone());
            }
        };
        match self.change(&mut journal, settle).await {
            Ok(_) => info!(%id, ifname, netns = %attachment.netns.display(), "is in its container"),
            Err(refusal) => warn!(%id, error = refusal.message, "the namespace of an attachment is not in the journal"),
        }
    }

    /// Forgets ends that are in no namespace and addresses that nothing has, after a while.
    async fn forget_idle(&self, now: Instant) {
        let mut journal = self.journal.lock().await;
        if journal.handed.is_empty() {
            return;
        }
        let (ends, lone) = past(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner), unused(&journal), now);
        if ends.is_empty() && lone.is_empty() {
            return;
        }
        let forget = |handed: &mut Handed, _: &mut BTreeMap<Ipv4Addr, u64>| {
            handed.ends.retain(|key, _| !ends.contains(key));
            handed.reserved.retain(|address| !lone.contains(address));
        };
        match self.change_handed(&mut journal, forget).await {
            Ok(()) => info!(?ends, ?lone, "nobody has used these for a while; forgotten"),
            Err(refusal) => warn!(error = refusal.message, "what nobody uses is not forgotten"),
        }
    }

    async fn change_handed(
        &self,
        journal: &mut Journal,
        how: impl FnOnce(&mut Handed, &mut BTreeMap<Ipv4Addr, u64>),
    ) -> Result<(), Refusal> {
        let boot = self.around.boot.clone();
        let change = |next: &mut Journal| {
            next.handed.boot = boot;
            how(&mut next.handed, &mut next.released);
        };
        self.change(journal, change).await.map(drop)
    }

    /// Does something to its end even if nobody waits for it any more.
    async fn to_its_end<T: Send + 'static, F: Future<Output = Result<T, Refusal>> + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, Refusal> {
        let done = tokio::spawn(work(Arc::clone(self))).await;
        done.map_err(|e| Refusal::internal("driver call", &e))?
    }
}

/// Ends that are in no namespace, and addresses that nothing has.
fn unused(journal: &Journal) -> (Vec<String>, Vec<IpAddr>) {
    let attached: BTreeSet<IpAddr> = journal.attachments.values().flat_map(Attachment::addresses).collect();
    let owners: BTreeSet<String> = journal.attachments.values().filter_map(|a| a.owner.as_ref()).map(Owner::to_string).collect();
    let ends = journal.handed.ends.keys().filter(|key| !owners.contains(*key)).cloned().collect();
    let busy: BTreeSet<IpAddr> = Handed { reserved: BTreeSet::new(), ..journal.handed.clone() }.addresses().collect();
    let lone = journal.handed.reserved.iter().filter(|a| !attached.contains(a) && !busy.contains(a)).copied().collect();
    (ends, lone)
}

/// Those that have been unused for too long, of all that are.
fn past(idle: &mut Idle, (ends, lone): (Vec<String>, Vec<IpAddr>), now: Instant) -> (Vec<String>, Vec<IpAddr>) {
    let keys: BTreeSet<String> = ends.iter().cloned().chain(lone.iter().map(ToString::to_string)).collect();
    idle.retain(|key, _| keys.contains(key));
    let mut is_past = |key: &str| now.duration_since(*idle.entry(key.to_owned()).or_insert(now)) > IDLE;
    let ends = ends.into_iter().filter(|key| is_past(key)).collect();
    (ends, lone.into_iter().filter(|address| is_past(&address.to_string())).collect())
}

/// The name that a container's end has while it is in the host's namespace.
fn device_of(attachment: &Attachment) -> String {
    // `weft` and ten digits: the digits tell one from another.
    let name = attachment.host_ifname.as_str();
    let digits = name.get(name.len().saturating_sub(10)..).unwrap_or(name);
    format!("{DEVICE}{digits}")
}

#[cfg(test)]
pub mod tests {
    use weft_model::attachment::Runtime;
    use weft_model::record::Proto;

    use super::*;

    /// What Docker holds at an address.
    pub fn end(container: &str, address: &str) -> End {
        End {
            owner: Owner { runtime: Runtime::Docker, network: "n".into(), container: container.into() },
            network: None,
            address: address.parse().unwrap(),
            address6: None,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            name: None,
            service: None,
            port: None,
            proto: Proto::Tcp,
            labels: BTreeMap::new(),
        }
    }

    /// A journal with reserved addresses and ends.
    pub fn journal(reserved: &[&str], ends: &[End]) -> Journal {
        let reserved = reserved.iter().map(|a| a.parse().unwrap()).collect();
        let ends = ends.iter().map(|end| (end.owner.to_string(), end.clone())).collect();
        Journal { handed: Handed { boot: "b".into(), reserved, ends }, ..Journal::default() }
    }

    #[test]
    fn what_was_asked_for_and_is_not_used_is_forgotten_after_a_while_an_address_not_before_its_end() {
        let mut journal = journal(&["10.244.3.2", "10.244.3.3"], &[end("a", "10.244.3.3")]);
        let (mut idle, start) = (Idle::new(), Instant::now());
        let mut look = |journal: &mut Journal, after: Duration| {
            let (ends, lone) = past(&mut idle, unused(journal), start + after);
            journal.handed.ends.retain(|key, _| !ends.contains(key));
            journal.handed.reserved.retain(|address| !lone.contains(address));
            (journal.handed.ends.len(), journal.handed.reserved.len())
        };
        assert_eq!(look(&mut journal, Duration::ZERO), (1, 2));
        assert_eq!(look(&mut journal, IDLE), (1, 2), "not yet");
        assert_eq!(look(&mut journal, IDLE + NOW_AND_THEN), (0, 1), "the end's own address is unused only now");
        assert_eq!(look(&mut journal, IDLE + 2 * NOW_AND_THEN), (0, 1));
        assert_eq!(look(&mut journal, 2 * IDLE + 4 * NOW_AND_THEN), (0, 0));
        // Used in between: the time begins anew.
        journal.handed.reserved.insert("10.244.3.9".parse().unwrap());
        let later = 3 * IDLE;
        assert_eq!(look(&mut journal, later), (0, 1));
        let user = end("b", "10.244.3.9");
        journal.handed.ends.insert(user.owner.to_string(), user.clone());
        assert_eq!(look(&mut journal, later + IDLE), (1, 1));
        journal.handed.ends.clear();
        assert_eq!(look(&mut journal, later + IDLE + NOW_AND_THEN), (0, 1));
        assert_eq!(look(&mut journal, later + 2 * IDLE), (0, 1));
    }

    #[test]
    fn an_ends_ids_follow_from_its_owner_and_differ() {
        let named = End { name: Some("Web_1".into()), ..end("a", "10.244.3.5") };
        let ids: Vec<EndpointId> = named.ids("h1").collect();
        assert!(ids[0].as_str().starts_with("web-1-") && ids[0] != ids[1] && ids.len() > 4, "{ids:?}");
        assert_eq!(ids, named.ids("h1").collect::<Vec<_>>());
        assert_ne!(ids[0], named.ids("h2").next().unwrap());
        assert_ne!(ids[0], End { name: named.name.clone(), ..end("b", "10.244.3.5") }.ids("h1").next().unwrap());
    }

    #[test]
    fn what_is_held_is_in_the_journal_and_nothing_is_where_there_is_nothing() {
        let full = journal(&["10.244.3.2", "fd00:10:244:3::2"], &[end("a", "10.244.3.2")]);
        let text = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), full);
        assert!(!serde_json::to_string(&journal(&[], &[])).unwrap().contains("handed"));
        assert_eq!(serde_json::from_str::<Journal>(r#"{"attachments":{}}"#).unwrap().handed, Handed::default());
    }
}
