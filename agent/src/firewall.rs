//! Keeps the packet filter as it should be: our nft table, and the jump past other owners' forward chains.
//!
//! What is wanted comes from `weft-plan`. A failure is told in `status` and tried again; it never keeps packets, names or
//! virtual IPs from working.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use weft_agent::kernel::iptables::{Flavour, Iptables, IptablesError};
use weft_agent::kernel::nft::generation::Changes;
use weft_agent::kernel::nft::{Nft, NftError};
use weft_model::cluster::ClusterConfig;
use weft_plan::forward::{self, Filter};
use weft_plan::nft::Masquerade;
use weft_plan::{Host, Peers, nft};

use crate::config::{ForwardRules, MasqueradeMode, Settings};
use crate::view::chain;

/// How often the older iptables is looked at, where it is in use: it tells nobody of changes.
const LEGACY_CHECK: Duration = Duration::from_secs(1);

/// How long after a look at other owners' rules the next one comes at the earliest: kube-proxy and its like change rules all
/// the time.
const PAUSE: Duration = Duration::from_millis(500);

/// How long what lets devices send may stay after they are gone: its end would hold up whoever is attached meanwhile.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// The packet filter of this host.
#[derive(Debug)]
pub struct Firewall {
    nft: Nft,
    iptables: Iptables,
    masquerade: Masquerade,
    forward_rules: ForwardRules,
    changes: Option<Changes>,
    /// The filter tables when they were last looked at.
    filters: BTreeMap<Flavour, Filter>,
    /// Whether they must be looked at again.
    look: bool,
    /// What was said of them then.
    forward_problems: Vec<String>,
    network: Option<Ipv4Net>,
    next_legacy_check: Instant,
    next_look: Instant,
    /// When what is left of devices that are gone is to be removed.
    leftovers: Option<Instant>,
    /// What was last logged.
    said: Vec<String>,
}

/// Our table, to be looked at by others than the loop that keeps it.
#[derive(Clone, Debug)]
pub struct Look {
    nft: Nft,
    masquerade: Masquerade,
}

impl Look {
    /// What [`Firewall::sync`] would change in it.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub async fn preview(&self, cluster: &ClusterConfig, host: &Host, peers: &Peers) -> Result<Vec<nft::Action>, NftError> {
        self.nft.preview(nft::desired(cluster, host, peers, &self.masquerade).as_ref()).await
    }

    /// Packets and bytes by the name of a reason to drop.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub async fn counts(&self) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
        self.nft.counts().await
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What could not be done, or drops packets.
    pub problems: Vec<String>,
    /// Changes made.
    pub done: u64,
    /// Changes that went wrong and are to be tried again soon.
    pub failed: u64,
    /// Why published ports lead nowhere.
    pub unpublished: Option<String>,
    /// Whether our table is there and as it should be.
    pub stands: bool,
}

impl Firewall {
    /// The packet filter of the network namespace that the process is in. Nothing is changed yet.
    pub fn new(settings: &Settings) -> Self {
        let changes = Changes::new(None).inspect_err(|e: &io::Error| {
            warn!(error = chain(e), "no notice of nftables changes; they are noticed at the next resync");
        });
        Self {
            nft: Nft::new(),
            iptables: Iptables::new(),
            masquerade: Masquerade {
                on: settings.masquerade == MasqueradeMode::Auto,
                exclude: settings.masquerade_exclude.clone(),
            },
            forward_rules: settings.forward_rules,
            changes: changes.ok(),
            filters: BTreeMap::new(),
            look: true,
            forward_problems: Vec::new(),
            network: None,
            next_legacy_check: Instant::now() + LEGACY_CHECK,
            next_look: Instant::now(),
            leftovers: None,
            said: Vec::new(),
        }
    }

    /// A handle for those who only look.
    pub fn look(&self) -> Look {
        Look { nft: self.nft.clone(), masquerade: self.masquerade.clone() }
    }

    /// Everything is to be looked at again.
    pub fn resync(&mut self) {
        self.look = true;
    }

    /// Returns once somebody else has changed rules, or what was left is to be removed. Giving up waiting loses nothing.
    pub async fn changed(&mut self) {
        loop {
            let notice = async {
                match &mut self.changes {
                    Some(changes) => changes.changed().await,
                    None => std::future::pending().await,
                }
            };
            let leftovers = self.leftovers;
            let due = async {
                match leftovers {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                () = notice => {
                    if self.nft.is_stale() {
                        self.look = true;
                        tokio::time::sleep_until(self.next_look).await;
                        return;
                    }
                }
                () = tokio::time::sleep_until(self.next_legacy_check) => {
                    self.next_legacy_check = Instant::now() + LEGACY_CHECK;
                    let filter = self.read(Flavour::Legacy).await;
                    if filter.is_ok_and(|filter| filter.as_ref() != self.filters.get(&Flavour::Legacy)) {
                        self.look = true;
                        return;
                    }
                }
            }
        }
    }

    /// Makes all of it as it should be.
    pub async fn sync(&mut self, cluster: &ClusterConfig, host: &Host, peers: &Peers) -> Outcome {
        let mut outcome = Outcome::default();
        // Our own table is about to be looked at, whereupon nothing is stale any more.
        self.look |= self.nft.is_stale();
        self.sync_table(cluster, host, peers, &mut outcome).await;
        let network = host.config.as_ref().map(|config| config.network);
        if self.look || self.network != network {
            self.network = network;
            self.next_look = Instant::now() + PAUSE;
            self.forward_problems.clear();
            self.look = self.sync_forward(&mut outcome).await.is_err();
        }
        outcome.problems.extend(self.forward_problems.iter().cloned());
        if self.said != outcome.problems {
            for problem in outcome.problems.iter().filter(|p| !self.said.contains(p)) {
                warn!(problem, "packet filter");
            }
            self.said.clone_from(&outcome.problems);
        }
        outcome
    }

    async fn sync_table(&mut self, cluster: &ClusterConfig, host: &Host, peers: &Peers, outcome: &mut Outcome) {
        let desired = nft::desired(cluster, host, peers, &self.masquerade);
        let due = self.leftovers.is_some_and(|due| due <= Instant::now());
        let done = if due {
            self.nft.sync(desired.as_ref()).await.map(|actions| (actions, false))
        } else {
            let is_gone = |device: &str| nix::net::if_::if_nametoindex(device).is_err();
            self.nft.sync_but_leftovers(desired.as_ref(), is_gone).await
        };
        match done {
            Ok((actions, left)) => {
                let until = self.leftovers.filter(|_| !due).unwrap_or_else(|| Instant::now() + LEFTOVERS);
                self.leftovers = left.then_some(until);
                outcome.stands = desired.is_some();
                for action in &actions {
                    match action {
                        nft::Action::Load { .. } | nft::Action::Unload => info!(%action, "packet filter"),
                        nft::Action::Add(..) | nft::Action::Remove(..) => debug!(%action, "packet filter"),
                    }
                }
                outcome.done += u64::try_from(actions.len()).unwrap_or_default();
            }
            Err(e) => {
                self.leftovers = None;
                // What is not installed is looked for at the next resync.
                outcome.failed += u64::from(!matches!(e, NftError::NotInstalled | NftError::Generation { .. }));
                let lost = "sources are not checked on the kernel path and containers do not reach the outside";
                let why = format!("nft table {} {}: {}", nft::FAMILY, nft::TABLE, chain(&e));
                outcome.problems.push(format!("{why}: {lost}"));
                outcome.unpublished = Some(format!("its ports cannot be published: {why}"));
            }
        }
    }

    /// `Err`: to be tried again.
    async fn sync_forward(&mut self, outcome: &mut Outcome) -> Result<(), ()> {
        let wanted = self.network.filter(|_| self.forward_rules == ForwardRules::Auto);
        let mut result = Ok(());
        self.filters.clear();
        for flavour in Flavour::ALL {
            let changed = match self.read(flavour).await {
                Ok(None) => continue,
                Ok(Some(filter)) => self.change(flavour, &forward::diff(wanted, &filter)).await.map(|done| (filter, done)),
                Err(e) => Err(e),
            };
            match changed {
                Ok((filter, done)) => {
                    outcome.done += done;
                    if let Some(drops) = filter.drops().filter(|_| self.forward_rules == ForwardRules::Off) {
                        self.forward_problems.push(format!(
                            "{flavour}: {drops} drops forwarded packets; set --forward-rules auto, or accept weft+ devices there"
                        ));
                    }
                    // As it is now, so that the next look compares with what we left.
                    let now = if done == 0 { Some(filter) } else { self.read(flavour).await.ok().flatten() };
                    self.filters.extend(now.map(|filter| (flavour, filter)));
                }
                Err(e) => {
                    if !e.stays() {
                        outcome.failed += 1;
                        result = Err(());
                    }
                    self.forward_problems.push(format!("forward rules: {}", chain(&e)));
                }
            }
        }
        if let Some(network) = self.network {
            match self.nft.other_filters(vec!["weft".to_owned(), network.to_string()]).await {
                Ok(found) => self.forward_problems.extend(found),
                // Without nft the table's own failure says so.
                Err(e) => debug!(error = chain(&e), "other owners' nft chains are not known"),
            }
        }
        result
    }

    async fn read(&self, flavour: Flavour) -> Result<Option<Filter>, IptablesError> {
        let iptables = self.iptables.clone();
        blocking(move || iptables.observe(flavour)).await
    }

    async fn change(&self, flavour: Flavour, calls: &[forward::Call]) -> Result<u64, IptablesError> {
        for call in calls {
            info!(call = %format!("{flavour} {}", call.join(" ")), "forward rules");
            let (iptables, call) = (self.iptables.clone(), call.clone());
            blocking(move || iptables.apply(flavour, &call)).await?;
        }
        Ok(u64::try_from(calls.len()).unwrap_or_default())
    }

    /// Removes all of it. What cannot be reached because its program is not installed was not made by us.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn remove(&self) -> anyhow::Result<Vec<String>> {
        let mut removed = Vec::new();
        for flavour in Flavour::ALL {
            match self.read(flavour).await {
                Ok(Some(filter)) => {
                    let calls = forward::diff(None, &filter);
                    self.change(flavour, &calls).await?;
                    removed.extend(calls.iter().map(|call| format!("{flavour} {}", call.join(" "))));
                }
                Ok(None) | Err(IptablesError::NoProgram { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match self.nft.sync(None).await {
            Ok(actions) => removed.extend(actions.iter().map(ToString::to_string)),
            Err(NftError::NotInstalled | NftError::Generation { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(removed)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}
