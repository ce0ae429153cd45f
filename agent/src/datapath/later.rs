//! Links of containers that nobody waits for.
//!
//! A packet that a container sends goes by the kernel path as long as no program is at its device, and there the rules of nft
//! check what the program would check. So where those rules stand an attach need not wait for its link, which takes the kernel
//! longer than all the rest (see [`weft_agent::kernel::bpf::Linker`]), nor does the end of a link hold up anything. Everything else
//! about links (those of the uplink and of sockets, the first look at all of them, a link that failed or that somebody changed)
//! is done by [`Fast::sync`] itself, after what is under way here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::sync::Notify;
use tracing::{debug, warn};
use weft_agent::kernel::bpf::links::{self, UPLINK};
use weft_agent::kernel::bpf::{LetGo, Linker, Made};
use weft_plan::Host;

use super::{Fast, LinkStep, Shared, device_links, is_device_link_name, lock};
use crate::view::chain;

/// What is under way beside, and what has come of it.
#[derive(Debug, Default)]
pub(super) struct Later {
    pub(super) beside: Arc<Beside>,
    /// Links that are being made, and at which device.
    making: BTreeMap<String, u32>,
    /// Links that there should be, as of the last sync.
    wanted: BTreeMap<String, u32>,
    /// Whether there are others by now.
    others: bool,
}

/// What a job and the datapath share.
#[derive(Debug, Default)]
pub(super) struct Beside {
    work: Mutex<()>,
    done: Mutex<Vec<Done>>,
    told: Arc<Notify>,
}

/// What has come of one link.
#[derive(Debug)]
enum Done {
    Made {
        made: Made,
        name: String,
        index: u32,
    },
    /// With whether all is well all the same: its device went away meanwhile.
    Unmade {
        name: String,
        well: bool,
    },
    LeftBehind,
}

/// Links to be made and to be let go of.
#[derive(Debug)]
pub struct Job {
    beside: Arc<Beside>,
    linker: Linker,
    make: Vec<(String, u32)>,
    let_go: Vec<LetGo>,
}

impl Beside {
    /// Held while links change.
    pub(super) fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_at_work(&self) -> bool {
        matches!(self.work.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn done(&self) -> MutexGuard<'_, Vec<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Does it. Takes its time: 25 ms a link, and longer where devices come and go.
    pub fn run(self) {
        let Self { beside, linker, make, let_go } = self;
        let nobody_else = beside.one_at_a_time();
        for (name, index) in make {
            let id = links::container_of(&name).unwrap_or(&name);
            let done = match linker.make(id, index) {
                Ok(made) => Done::Made { made, name, index },
                Err(e) => {
                    // Told by the sync that tries it again; a device that has gone is no failure.
                    debug!(error = chain(&e), "a link was not made");
                    Done::Unmade { name, well: crate::reconcile::name_of(index).is_none() }
                }
            };
            beside.done().push(done);
        }
        for link in let_go {
            if let Err(e) = link.finish() {
                warn!(error = chain(&e), "a link that nobody wants is left");
                beside.done().push(Done::LeftBehind);
            }
        }
        drop(nobody_else);
        beside.told.notify_one();
    }
}

/// Returns once what was done beside is another reason to sync. Giving up waiting loses nothing.
pub async fn changed(datapath: &Shared, told: &Notify) {
    loop {
        told.notified().await;
        let mut fast = lock(datapath);
        fast.collect();
        if fast.later.others || fast.links_due {
            return;
        }
    }
}

impl Fast {
    /// Told when something was done beside.
    pub fn told(&self) -> Arc<Notify> {
        self.later.beside.told.clone()
    }

    /// What is to be done about links, if it is nothing but to make some of containers and to let go of others.
    pub(super) fn steps_for_later(&mut self, host: &Host) -> Option<Vec<LinkStep>> {
        self.collect();
        let wanted = device_links(host);
        self.later.wanted.clone_from(&wanted);
        self.later.others = false;
        let datapath = self.open.as_ref()?;
        let is_other = |(name, index): (&String, &u32)| {
            let there = self.attached.get(name).or(self.later.making.get(name));
            there.is_some_and(|there| there != index)
        };
        let uplink = |links: &BTreeMap<String, u32>| links.get(UPLINK).copied();
        let all_of_them = self.links_due
            || !self.sockets
            || !datapath.others().is_empty()
            || uplink(&wanted) != uplink(&self.attached)
            || wanted.iter().any(is_other);
        if all_of_them {
            return None;
        }
        let is_new = |name: &String| !self.attached.contains_key(name) && !self.later.making.contains_key(name);
        let make = wanted.iter().filter(|(name, _)| is_new(name));
        let make = make
            .map(|(name, index)| LinkStep::Container { id: links::container_of(name).unwrap_or(name).to_owned(), index: *index });
        let unwanted = self.attached.keys().filter(|name| is_device_link_name(name) && !wanted.contains_key(*name));
        Some(make.chain(unwanted.map(|name| LinkStep::Detach(name.clone()))).collect())
    }

    /// The job that takes these steps.
    pub(super) fn job(&mut self, steps: Vec<LinkStep>) -> Option<Job> {
        let datapath = self.open.as_mut().filter(|_| !steps.is_empty())?;
        let linker = match datapath.linker() {
            Ok(linker) => linker,
            Err(e) => {
                warn!(error = chain(&e), "links are made by the next round");
                self.links_due = true;
                self.later.beside.told.notify_one();
                return None;
            }
        };
        let mut job = Job { beside: self.later.beside.clone(), linker, make: Vec::new(), let_go: Vec::new() };
        for step in steps {
            debug!(%step, "datapath, beside");
            match step {
                LinkStep::Container { id, index } => {
                    let name = links::container(&id);
                    self.later.making.insert(name.clone(), index);
                    job.make.push((name, index));
                }
                LinkStep::Detach(name) => {
                    self.attached.remove(&name);
                    job.let_go.push(datapath.let_go(&name));
                }
                LinkStep::Uplink(_) | LinkStep::Sockets => {}
            }
        }
        Some(job)
    }

    /// Whether this link is being made.
    pub(super) fn is_making(&self, name: &str, index: u32) -> bool {
        self.later.making.get(name) == Some(&index)
    }

    /// Takes over what was done beside.
    pub(super) fn collect(&mut self) {
        let done = std::mem::take(&mut *self.later.beside.done());
        for done in done {
            match done {
                Done::Made { made, name, index } => {
                    self.later.making.remove(&name);
                    self.later.others |= self.later.wanted.get(&name) != Some(&index);
                    self.attached.insert(name, index);
                    if let Some(datapath) = self.open.as_mut() {
                        datapath.hold(made);
                    }
                }
                Done::Unmade { name, well } => {
                    self.later.making.remove(&name);
                    self.links_due |= !well;
                }
                Done::LeftBehind => self.links_due = true,
            }
        }
    }
}
