//! etcd as a [`Store`]: shared by all hosts, any number of endpoints.
//!
//! Making an [`EtcdStore`] connects to nothing. Every operation connects when it must, makes requests each bounded in time by
//! [`EtcdConfig::request_timeout`], and fails over to the next endpoint. Messages name the operation, its subject and the
//! endpoint. What this module never does is to wait for an etcd that is away: that is [`crate::follow`]'s and the caller's.
//! Next: `etcd/connection.rs` (endpoints, login), `etcd/watch.rs` (streams), `etcd/fault.rs` (what errors mean).

mod config;
mod connection;
mod fault;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    AlarmAction, AlarmType, Compare as EtcdCompare, CompareOp, Error, GetOptions, GetResponse, KeyValue, LeaseKeepAliveStream,
    LeaseKeeper, PutOptions, ResponseHeader, Txn as EtcdTxn, TxnOp,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

pub use self::config::{EtcdConfig, EtcdConfigError};
use self::connection::{Again, Connections, Over};
use self::fault::{Fault, Said};
use self::watch::Ended;
use crate::prefix::{self, text, texts};
use crate::ttl::whole_seconds;
use crate::{Compare, Condition, Entry, Kind, LeaseId, Listing, Op, Outcome, Page, Revision, Store, StoreError, Txn, Watch};

/// How many keys a page of a listing holds at most.
const PAGE: i64 = 2_000;

/// The largest answer to a read. A page that is larger is asked for again in halves.
const MAX_ANSWER: usize = 64 << 20;

/// How often a listing that was overtaken by a compaction begins again before it counts as failed.
const LISTINGS: usize = 5;

/// A lease's open keep-alive stream: one message there, one back.
type Renewal = (LeaseKeeper, LeaseKeepAliveStream);

/// etcd as a store.
pub struct EtcdStore {
    connections: Connections,
    /// The streams of the leases that have been renewed, when not in use.
    renewals: Mutex<HashMap<LeaseId, Renewal>>,
    /// The cluster that the last listing came from; 0 before the first.
    cluster: AtomicU64,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("endpoints", &self.connections.urls().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// A store on the etcd that `config` describes. Reads the files and connects to nothing: an etcd that is away, or that
    /// refuses the login, shows in the first operation.
    ///
    /// # Errors
    /// What is wrong with the configuration, in terms of the flags.
    pub async fn connect(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        Ok(Self {
            connections: Connections::new(config).await?,
            renewals: Mutex::new(HashMap::new()),
            cluster: AtomicU64::new(0),
        })
    }

    /// Pages of all keys in `[prefix, end of prefix)` at `at`, or at the revision of the first page.
    async fn pages(&self, prefix: &[u8], mut at: Option<Revision>, into: &mut Vec<Entry>) -> Result<Revision, Fault> {
        // etcd spells "no end" as a zero byte, and the first of all keys as one too.
        let end = prefix::end_of(prefix).unwrap_or_else(|| vec![0]);
        let mut next = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        let mut limit = PAGE;
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(limit);
            if let Some(Revision(at)) = at {
                options = options.with_revision(at);
            }
            let page = self.read(next.clone(), options).await;
            let mut page = match page {
                Err(Fault::TooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            let (revision, cluster) = header(page.header())?;
            let at = *at.get_or_insert_with(|| {
                self.cluster.store(cluster, Ordering::Relaxed);
                revision
            });
            let more = page.more();
            let kvs = page.take_kvs();
            match kvs.last() {
                Some(last) if more => next = [last.key(), &[0]].concat(),
                _ => {
                    into.extend(kvs.into_iter().map(entry_of));
                    return Ok(at);
                }
            }
            into.extend(kvs.into_iter().map(entry_of));
        }
    }

    async fn read(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Fault> {
        self.connections
            .call(Again::Safe, |client| {
                let (key, options) = (key.clone(), options.clone());
                async move { client.kv_client().max_decoding_message_size(MAX_ANSWER).get(key, Some(options)).await }
            })
            .await
    }

    async fn list_once(&self, prefixes: &[Vec<u8>]) -> Result<Listing, Fault> {
        let mut entries = Vec::new();
        let mut revision = None;
        for prefix in prefixes {
            revision = Some(self.pages(prefix, revision, &mut entries).await?);
        }
        Ok(Listing { revision: revision.unwrap_or_default(), entries })
    }

    async fn page_once(&self, prefixes: &[Vec<u8>], from: &[u8], at: Option<Revision>, limit: usize) -> Result<Page, Fault> {
        let mut page = Page { revision: at.unwrap_or_default(), ..Page::default() };
        let mut at = at;
        for prefix in prefixes {
            // etcd spells "no end" as a zero byte, and the first of all keys as one too.
            let end = prefix::end_of(prefix);
            if end.as_ref().is_some_and(|end| end.as_slice() <= from) {
                continue;
            }
            let mut next = std::cmp::max(prefix.as_slice(), from).to_vec();
            let mut most = limit;
            loop {
                let wanted = most.min(limit - page.entries.len());
                if wanted == 0 {
                    page.next = Some(next);
                    return Ok(page);
                }
                let key = if next.is_empty() { vec![0] } else { next.clone() };
                let mut options = GetOptions::new().with_range(end.clone().unwrap_or_else(|| vec![0]));
                options = options.with_limit(i64::try_from(wanted).unwrap_or(i64::MAX));
                if let Some(Revision(at)) = at {
                    options = options.with_revision(at);
                }
                let mut answer = match self.read(key, options).await {
                    Err(Fault::TooLarge(_)) if wanted > 1 => {
                        most = wanted / 2;
                        continue;
                    }
                    answer => answer?,
                };
                let (revision, _) = header(answer.header())?;
                page.revision = *at.get_or_insert(revision);
                let more = answer.more();
                page.entries.extend(answer.take_kvs().into_iter().map(entry_of));
                match page.entries.last() {
                    Some(last) if more => next = [last.key.as_slice(), &[0]].concat(),
                    _ => break,
                }
            }
        }
        Ok(page)
    }

    /// Which of a transaction's leases it is that etcd does not find.
    async fn ended_lease(&self, txn: &Txn) -> LeaseId {
        let mut leases: Vec<LeaseId> = txn
            .then
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => *lease,
                Op::Delete(_) => None,
            })
            .collect();
        leases.sort_unstable();
        leases.dedup();
        if leases.len() > 1 {
            for lease in &leases {
                if matches!(self.time_to_live(*lease).await, Ok(None)) {
                    return *lease;
                }
            }
        }
        leases.first().copied().unwrap_or(LeaseId(0))
    }
}

#[async_trait]
impl Store for EtcdStore {
    fn kind(&self) -> Kind {
        Kind::Etcd
    }

    async fn get(&self, key: &[u8]) -> Result<(Revision, Option<Entry>), StoreError> {
        let answer = async {
            let mut answer = self.read(key.to_vec(), GetOptions::new()).await?;
            let (revision, _) = header(answer.header())?;
            Ok((revision, answer.take_kvs().into_iter().next().map(entry_of)))
        };
        answer.await.map_err(|fault| error(format!("get {}", text(key)), fault))
    }

    async fn list(&self, prefixes: &[Vec<u8>]) -> Result<Listing, StoreError> {
        let prefixes = prefix::disjoint(prefixes);
        let op = || format!("list {}", texts(&prefixes));
        if prefixes.is_empty() {
            return Err(StoreError::Denied { op: op(), source: "no prefix is given".into() });
        }
        let mut left = LISTINGS;
        loop {
            left -= 1;
            match self.list_once(&prefixes).await {
                Ok(listing) => return Ok(listing),
                // The revision of the first page was compacted before the last was read.
                Err(Fault::Compacted(_)) if left > 0 => {}
                Err(fault) => return Err(error(op(), fault)),
            }
        }
    }

    async fn page(&self, prefixes: &[Vec<u8>], from: &[u8], at: Option<Revision>, limit: usize) -> Result<Page, StoreError> {
        let prefixes = prefix::disjoint(prefixes);
        self.page_once(&prefixes, from, at, limit).await.map_err(|fault| match (fault, at) {
            (Fault::Compacted(_), Some(at)) => StoreError::Compacted { from: at, oldest: at.next() },
            // One that has not been yet is as little to be had (etcd 3.4 to 3.6, api/v3rpc/rpctypes/error.go).
            (Fault::Lost(said), Some(at)) if said.what.contains("required revision is a future revision") => {
                StoreError::Compacted { from: at, oldest: at.next() }
            }
            (fault, _) => error(format!("list {} from {}", texts(&prefixes), text(from)), fault),
        })
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let request = request_of(&txn);
        let answer = self
            .connections
            .call(Again::Never, |client| {
                let request = request.clone();
                async move { client.kv_client().txn(request).await }
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(Fault::NoLease(_)) => {
                return Err(StoreError::LeaseGone { op: txn.text(), lease: self.ended_lease(&txn).await });
            }
            Err(fault) => return Err(error(txn.text(), fault)),
        };
        let (revision, _) = header(answer.header()).map_err(|fault| error(txn.text(), fault))?;
        Ok(if answer.succeeded() { Outcome::Done(revision) } else { Outcome::Refused(revision) })
    }

    async fn watch(&self, prefixes: &[Vec<u8>], from: Revision) -> Result<Watch, StoreError> {
        let prefixes = prefix::disjoint(prefixes);
        let op = format!("watch {} from revision {from}", texts(&prefixes));
        let opened =
            self.connections.call_over(Over::Own, Again::Safe, |client| watch::open(client, prefixes.clone(), from)).await;
        let (opened, endpoint) = opened.map_err(|fault| error(op.clone(), fault))?;
        let listed = self.cluster.load(Ordering::Relaxed);
        if let Some(answered) = opened.cluster.filter(|answered| listed != 0 && *answered != listed) {
            // A cluster made anew, or restored from a backup: the revisions that the caller knows are not its revisions.
            tracing::warn!(%endpoint, listed, answered, "etcd is another cluster than before");
            return Err(StoreError::Compacted { from, oldest: from.next() });
        }
        let batches = watch::spawn(opened, prefixes.len(), from, move |ended| match ended {
            Ended::Compacted { oldest } => StoreError::Compacted { from, oldest },
            Ended::Canceled(what) if what.contains("permission denied") => error(op, Fault::Refused(Said { endpoint, what })),
            Ended::Canceled(what) => error(op, Fault::Lost(Said { endpoint, what })),
            Ended::Broken(broken) => error(op, Fault::of(&endpoint, &broken)),
        });
        Ok(Watch { batches })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = whole_seconds(ttl)?;
        let granted = self
            .connections
            .call(Again::Never, |client| async move { client.lease_client().grant(seconds, None).await })
            .await
            .map_err(|fault| error(format!("grant a lease of {ttl:?}"), fault))?;
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        // The stream of the last renewal, which nobody else uses meanwhile. If it does not answer it is dropped, and a new one
        // is opened: a late answer must not be taken for the next one.
        let known = self.renewals.lock().await.remove(&lease);
        let renewed = match known {
            Some(mut renewal) => timeout(self.connections.request_timeout() / 2, renew(&mut renewal))
                .await
                .ok()
                .and_then(Result::ok)
                .map(|ttl| (renewal, ttl)),
            None => None,
        };
        let (renewal, ttl) = match renewed {
            Some(renewed) => renewed,
            None => {
                let opened = self
                    .connections
                    .call(Again::Safe, |client| async move {
                        // Opening renews, but does not say for how long.
                        let mut renewal = client.lease_client().keep_alive(lease.0).await?;
                        let ttl = renew(&mut renewal).await?;
                        Ok((renewal, ttl))
                    })
                    .await;
                match opened {
                    Ok(opened) => opened,
                    Err(Fault::NoLease(_)) => return Ok(None),
                    Err(fault) => return Err(error(format!("keep lease {lease} alive"), fault)),
                }
            }
        };
        let Some(left) = seconds(ttl) else { return Ok(None) };
        self.renewals.lock().await.insert(lease, renewal);
        Ok(Some(left))
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        let answer = self
            .connections
            .call(Again::Safe, |client| async move { client.lease_client().time_to_live(lease.0, None).await })
            .await;
        match answer {
            // -1 is "no such lease"; 0 is one in its last second.
            Ok(answer) => Ok(u64::try_from(answer.ttl()).ok().map(Duration::from_secs)),
            Err(Fault::NoLease(_)) => Ok(None),
            Err(fault) => Err(error(format!("read lease {lease}"), fault)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.renewals.lock().await.remove(&lease);
        let answer =
            self.connections.call(Again::Safe, |client| async move { client.lease_client().revoke(lease.0).await }).await;
        match answer {
            Ok(_) | Err(Fault::NoLease(_)) => Ok(()),
            Err(fault) => Err(error(format!("revoke lease {lease}"), fault)),
        }
    }

    /// Of the member that answers; alarms are the whole cluster's. With authentication on, etcd tells this to root only.
    async fn condition(&self) -> Result<Option<Condition>, StoreError> {
        let asked = self
            .connections
            .call(Again::Safe, |client| async move {
                let mut maintenance = client.maintenance_client();
                let status = maintenance.status().await?;
                let alarms = maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await?;
                Ok((status, alarms))
            })
            .await;
        let (status, alarms) = asked.map_err(|fault| error("ask etcd how it is".to_owned(), fault))?;
        let bytes = |signed: i64| u64::try_from(signed).unwrap_or(0);
        Ok(Some(Condition {
            version: status.version().to_owned(),
            size: bytes(status.db_size()),
            // Members before 3.6 leave it out.
            quota: Some(bytes(status.db_size_quota())).filter(|quota| *quota > 0),
            led: status.leader() != 0,
            alarms: alarms.alarms().iter().map(|a| format!("{:?}", a.alarm()).to_uppercase()).collect(),
        }))
    }
}

/// One renewal over an open stream; the seconds that the lease has now, 0 or less if it has ended.
async fn renew((keeper, answers): &mut Renewal) -> Result<i64, Error> {
    keeper.keep_alive().await?;
    match answers.message().await? {
        Some(answer) => Ok(answer.ttl()),
        None => Err(Error::LeaseKeepAliveError("the server ended the stream".into())),
    }
}

fn seconds(ttl: i64) -> Option<Duration> {
    u64::try_from(ttl).ok().filter(|ttl| *ttl > 0).map(Duration::from_secs)
}

/// The revision and the cluster that an answer speaks of.
fn header(header: Option<&ResponseHeader>) -> Result<(Revision, u64), Fault> {
    match header {
        Some(header) => Ok((Revision(header.revision()), header.cluster_id())),
        None => Err(Fault::Lost(Said { endpoint: "?".into(), what: "an answer without header".into() })),
    }
}

fn entry_of(kv: KeyValue) -> Entry {
    let lease = (kv.lease() != 0).then(|| LeaseId(kv.lease()));
    let (created, modified) = (Revision(kv.create_revision()), Revision(kv.mod_revision()));
    let (key, value) = kv.into_key_value();
    Entry { key, value, lease, created, modified }
}

fn request_of(txn: &Txn) -> EtcdTxn {
    let when: Vec<EtcdCompare> = txn
        .when
        .iter()
        .map(|compare| match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(key.clone(), CompareOp::Equal, 0),
            Compare::Present(key) => EtcdCompare::create_revision(key.clone(), CompareOp::Greater, 0),
            Compare::ModifiedAt(key, revision) => EtcdCompare::mod_revision(key.clone(), CompareOp::Equal, revision.0),
            Compare::ValueIs(key, value) => EtcdCompare::value(key.clone(), CompareOp::Equal, value.clone()),
        })
        .collect();
    let then: Vec<TxnOp> = txn
        .then
        .iter()
        .map(|op| match op {
            Op::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key.clone(), value.clone(), options)
            }
            Op::Delete(key) => TxnOp::delete(key.clone(), None),
        })
        .collect();
    EtcdTxn::new().when(when).and_then(then)
}

/// A fault in the terms of the trait.
fn error(op: String, fault: Fault) -> StoreError {
    match fault {
        Fault::Refused(said) | Fault::TooLarge(said) | Fault::NoLease(said) => StoreError::Denied { op, source: Box::new(said) },
        other => StoreError::Unavailable { op, source: Box::new(other.said()) },
    }
}
