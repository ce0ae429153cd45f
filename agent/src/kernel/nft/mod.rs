//! Our nftables table: read back, compared, changed in one transaction each.
//!
//! The `nft` program does the talking: it speaks its own language to every kernel there is, builds ranges into what this
//! kernel stores, and an operator sees the same words with `nft list table inet weft`. A library would drive the same
//! program (`nftables` does) or need one of C beside us.
//!
//! How a change by others is noticed, cheaply: the kernel counts transactions in each network namespace
//! ([`generation`]). As long as the number is the one that our last look or change left, nothing was changed, and nothing is
//! read. Otherwise the table is listed, as JSON, and compared by what it means: elements as addresses and ranges, rules with
//! those that were listed right after this agent had loaded them, so that no version's way to print matters.

pub mod generation;
mod listing;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use weft_plan::nft::{self, Action, FAMILY, Found, Ruleset, Shape, TABLE};

use super::netns::NetNs;
use super::program;
use generation::Generation;
use listing::Listing;

/// How often a listing is begun anew because the rules of the host changed meanwhile.
const TRIES: u32 = 5;

/// Why the table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no `nft`.
    #[error("nft is not installed; install it (Debian package nftables)")]
    NotInstalled,
    /// It does not start.
    #[error("run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It refuses.
    #[error("{what}: nft says: {said}")]
    Refused {
        /// What was to be done.
        what: String,
        /// Its words.
        said: String,
    },
    /// What it prints is not what is known of it.
    #[error("read what nft -j list table {FAMILY} {TABLE} prints")]
    Unreadable {
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The kernel does not say how many transactions there were: it has no nftables.
    #[error("ask the kernel for the generation of its nftables rules; is it built with CONFIG_NF_TABLES?")]
    Generation {
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Others change rules without pause.
    #[error("list the rules: they changed during each of {TRIES} listings")]
    Torn,
    /// The runtime is shutting down.
    #[error("change nft tables: the agent is ending")]
    Ending,
}

/// A handle on our table in one network namespace. Clones share it.
#[derive(Clone, Debug)]
pub struct Nft {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    netns: Option<Arc<NetNs>>,
    generation: Option<Generation>,
    /// The rules as they were listed after this agent had loaded them, and what they follow from.
    loaded: Option<(Shape, Vec<Value>)>,
    /// What is there, as of which generation.
    known: Option<(u32, Found)>,
    /// Packets and bytes by counter, when the table was last listed.
    counts: BTreeMap<String, (u64, u64)>,
}

impl Nft {
    /// The table of the network namespace that the process is in.
    #[must_use]
    pub fn new() -> Self {
        Self::make(None)
    }

    /// The table of another network namespace.
    #[must_use]
    pub fn in_namespace(netns: Arc<NetNs>) -> Self {
        Self::make(Some(netns))
    }

    fn make(netns: Option<Arc<NetNs>>) -> Self {
        let inner = Inner { netns, generation: None, loaded: None, known: None, counts: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// What is there of ours.
    ///
    /// # Errors
    /// When it cannot be known; that is never taken for gone.
    pub async fn observe(&self) -> Result<Found, NftError> {
        self.with(Inner::observe).await
    }

    /// Carries out actions, all or none.
    ///
    /// # Errors
    /// What nft said; the next [`Nft::observe`] then reads everything anew.
    pub async fn apply(&self, actions: &[Action], desired: Option<&Ruleset>) -> Result<(), NftError> {
        let (actions, desired) = (actions.to_vec(), desired.cloned());
        self.with(move |inner| inner.apply(&actions, desired.as_ref())).await
    }

    /// Makes the table as desired, and says what was done for that.
    ///
    /// # Errors
    /// As [`Nft::observe`] and [`Nft::apply`].
    pub async fn sync(&self, desired: Option<&Ruleset>) -> Result<Vec<Action>, NftError> {
        let desired = desired.cloned();
        self.with(move |inner| {
            let actions = nft::diff(desired.as_ref(), &inner.observe()?);
            inner.apply(&actions, desired.as_ref())?;
            Ok(actions)
        })
        .await
    }

    /// As [`Nft::sync`], but for what lets devices send that are gone: that may stay for now. Whether there is any.
    ///
    /// The end of an element is what takes nft long: when it closes its socket, the kernel waits until what was removed is freed,
    /// an RCU grace period (`nft_rcv_nl_event`; 10 to 20 ms on 6.18, where an addition takes 4).
    ///
    /// # Errors
    /// As [`Nft::sync`].
    pub async fn sync_but_leftovers(
        &self,
        desired: Option<&Ruleset>,
        is_gone: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(Vec<Action>, bool), NftError> {
        let desired = desired.cloned();
        self.with(move |inner| {
            let found = inner.observe()?;
            let (desired, left) = match desired.map(|desired| nft::with_leftovers(&desired, &found, is_gone)) {
                Some((desired, left)) => (Some(desired), left),
                None => (None, false),
            };
            let actions = nft::diff(desired.as_ref(), &found);
            inner.apply(&actions, desired.as_ref())?;
            Ok((actions, left))
        })
        .await
    }

    /// What [`Nft::sync`] would do. The table is listed for this alone: what is noticed here is still news to `sync`.
    ///
    /// # Errors
    /// As [`Nft::observe`].
    pub async fn preview(&self, desired: Option<&Ruleset>) -> Result<Vec<Action>, NftError> {
        let desired = desired.cloned();
        self.with(move |inner| {
            let (_, listing) = inner.list_at_one_moment()?;
            Ok(nft::diff(desired.as_ref(), &inner.compare(listing.as_ref())))
        })
        .await
    }

    /// Packets and bytes by counter, listed now; empty where there is no table.
    ///
    /// # Errors
    /// As [`Nft::observe`].
    pub async fn counts(&self) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
        self.with(|inner| Ok(inner.list()?.map(|listing| listing.counts).unwrap_or_default())).await
    }

    /// Whether rules were changed, anybody's, since the last look or change of this handle's. Does not ask nft.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = inner.generation();
        inner.known.as_ref().is_none_or(|(known, _)| now.is_ok_and(|now| now != *known))
    }

    /// What forwards packets beside iptables: base chains of other owners' tables that drop what nobody accepts, and
    /// firewalld, unless they speak of `words`. One line each.
    ///
    /// # Errors
    /// When the chains cannot be listed.
    pub async fn other_filters(&self, words: Vec<String>) -> Result<Vec<String>, NftError> {
        self.with(move |inner| {
            let listed = inner.json(&["-j", "list", "chains"], "list chains")?;
            let mut found = Vec::new();
            for (family, table, chain) in listing::forward_drops(&listed) {
                // A chain that cannot be shown (its name may be a word of nft's language) is told rather than passed over.
                let text = inner.text(&["list", "chain", &family, &table, &chain]).unwrap_or_default();
                if !words.iter().any(|word| text.contains(word.as_str())) {
                    found.push(format!(
                        "nft chain {family} {table} {chain} drops forwarded packets (policy drop); accept iifname \"weft*\" and oifname \"weft*\" there"
                    ));
                }
            }
            if let Some((family, table)) = listing::firewalld(&listed) {
                let text = inner.text(&["list", "table", &family, &table]).unwrap_or_default();
                if !words.iter().any(|word| text.contains(word.as_str())) {
                    let source = words.last().cloned().unwrap_or_default();
                    found.push(format!(
                        "firewalld refuses forwarded packets of devices in no zone; run: firewall-cmd --permanent --zone=trusted --add-source={source} && firewall-cmd --reload"
                    ));
                }
            }
            Ok(found)
        })
        .await
    }

    /// Runs on a thread that may block. If the caller gives up waiting, the work is finished all the same.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<T, NftError> + Send + 'static,
    ) -> Result<T, NftError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&mut inner.lock().unwrap_or_else(PoisonError::into_inner))).await;
        match done {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(NftError::Ending),
        }
    }
}

impl Default for Nft {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn generation(&mut self) -> Result<u32, NftError> {
        let failed = |source| NftError::Generation { source };
        let generation = match &mut self.generation {
            Some(generation) => generation,
            none => none.insert(Generation::open(self.netns.as_deref()).map_err(failed)?),
        };
        generation.read().map_err(failed)
    }

    fn observe(&mut self) -> Result<Found, NftError> {
        let now = self.generation()?;
        if let Some((known, found)) = &self.known
            && *known == now
        {
            return Ok(found.clone());
        }
        self.known = None;
        let (generation, listing) = self.list_at_one_moment()?;
        let found = self.compare(listing.as_ref());
        self.counts = listing.map(|listing| listing.counts).unwrap_or_default();
        self.known = Some((generation, found.clone()));
        Ok(found)
    }

    /// What a listing means: whether these are the rules that this agent loaded.
    fn compare(&self, listing: Option<&Listing>) -> Found {
        match (listing, &self.loaded) {
            (None, _) => Found::Nothing,
            (Some(listing), Some((shape, rules))) if listing.rules == *rules => match &listing.sets {
                Some(sets) => Found::Ours(Ruleset { shape: shape.clone(), sets: sets.clone() }),
                None => Found::Altered,
            },
            (Some(_), _) => Found::Altered,
        }
    }

    fn list_at_one_moment(&mut self) -> Result<(u32, Option<Listing>), NftError> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            let listing = self.list()?;
            if self.generation()? == before {
                return Ok((before, listing));
            }
        }
        Err(NftError::Torn)
    }

    fn apply(&mut self, actions: &[Action], desired: Option<&Ruleset>) -> Result<(), NftError> {
        let Some(first) = actions.first() else { return Ok(()) };
        // Counted from the last listing; what comes until the new table is there is lost to the count.
        let script = nft::script(actions, desired, &self.counts);
        let known = self.known.take();
        let before = self.generation()?;
        let what = if actions.len() == 1 { first.to_string() } else { format!("{first}, and {} more", actions.len() - 1) };
        if let Err(e) = self.nft(&["-f", "-"], &script, &what) {
            // Whatever it was that did not fit, the whole table does.
            self.loaded = None;
            return Err(e);
        }
        let whole = actions.iter().any(|action| matches!(action, Action::Load { .. }));
        let after = self.generation()?;
        if whole {
            let (generation, listing) = self.list_at_one_moment()?;
            // If somebody was quicker, the next look is at something unknown and loads it again.
            self.loaded = match (listing, desired) {
                (Some(listing), Some(desired)) if generation == before.wrapping_add(1) => {
                    Some((desired.shape.clone(), listing.rules))
                }
                _ => None,
            };
        }
        // One transaction, one step: whoever else made one makes us look.
        if after == before.wrapping_add(1) && (!whole || self.loaded.is_some()) {
            let found = desired.map_or(Found::Nothing, |ruleset| Found::Ours(ruleset.clone()));
            self.known = Some((after, found)).filter(|_| known.is_some() || whole);
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Option<Listing>, NftError> {
        match self.json(&["-j", "list", "table", FAMILY, TABLE], "list our table") {
            Ok(listed) => Ok(Some(Listing::read(&listed))),
            Err(NftError::Refused { said, .. }) if said.contains("No such file or directory") => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn json(&self, args: &[&str], what: &str) -> Result<Value, NftError> {
        let printed = self.nft(args, "", what)?;
        serde_json::from_slice(&printed).map_err(|source| NftError::Unreadable { source })
    }

    fn text(&self, args: &[&str]) -> Result<String, NftError> {
        Ok(String::from_utf8_lossy(&self.nft(args, "", &args.join(" "))?).into_owned())
    }

    fn nft(&self, args: &[&str], input: &str, what: &str) -> Result<Vec<u8>, NftError> {
        let nft = program::find("nft").ok_or(NftError::NotInstalled)?;
        let output = program::run(self.netns.as_deref(), &nft, args, input);
        let output = output.map_err(|source| NftError::Run { program: nft, source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(NftError::Refused { what: what.to_owned(), said: program::said(&output) })
    }
}
