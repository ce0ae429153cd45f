//! The thread that writes: one after the other, several commands in one commit when they come together, and the time of
//! leases.
//!
//! A reply is sent when what it promises is on the disk. Leases live in memory as deadlines; the file has their length only,
//! so that after a restart each gets all of its time again, as etcd does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{Database, Durability};
use tokio::sync::{oneshot, watch};
use tracing::{error, info};

use super::file;
use super::tables::{Applied, Tables, View};
use crate::{LeaseId, Outcome, Revision, StoreError, Txn};

/// The most commands in one commit.
const TOGETHER: usize = 64;

/// How long after a failed write an expired lease is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The database, unless it had to be closed after an error of the disk and cannot be opened again yet.
pub(super) type Shared = RwLock<Option<Arc<Database>>>;

/// Why a command was not done.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    LeaseGone(LeaseId),
    Database(Arc<redb::Error>),
    /// The file is closed; what opening it said.
    Closed(Arc<StoreError>),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Work {
    Transact(Txn),
    /// A lease of so many seconds.
    Grant(i64),
    /// A lease ends, with its keys.
    End(LeaseId),
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Outcome(Outcome),
    Granted(LeaseId),
    Ended,
}

/// What the thread is asked for.
pub(super) enum Command {
    Write(Work, Reply<Answer>),
    KeepAlive(LeaseId, Reply<Option<Duration>>),
    TimeToLive(LeaseId, Reply<Option<Duration>>),
}

struct Lease {
    ttl: Duration,
    until: Instant,
}

impl Lease {
    fn new(seconds: i64, now: Instant) -> Self {
        let ttl = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
        Self { ttl, until: now + ttl }
    }
}

pub(super) struct Writer {
    path: PathBuf,
    db: Arc<Shared>,
    revision: watch::Sender<Revision>,
    leases: BTreeMap<LeaseId, Lease>,
}

impl Writer {
    /// Takes over an opened database.
    pub fn new(path: PathBuf, db: Database) -> Result<Self, redb::Error> {
        let view = View::of(&db)?;
        let now = Instant::now();
        let leases = view.leases()?.into_iter().map(|(id, seconds)| (id, Lease::new(seconds, now))).collect();
        let (revision, _) = watch::channel(view.revision()?);
        drop(view);
        Ok(Self { path, db: Arc::new(RwLock::new(Some(Arc::new(db)))), revision, leases })
    }

    /// The database, for readers, and where the newest revision is announced.
    pub fn shared(&self) -> (Arc<Shared>, watch::Receiver<Revision>) {
        (self.db.clone(), self.revision.subscribe())
    }

    /// Works until nobody can send commands any more.
    pub fn run(mut self, commands: &Receiver<Command>) {
        let mut not_before = Instant::now();
        loop {
            let due = self.leases.values().map(|lease| lease.until).min().map(|due| due.max(not_before));
            let first = match due {
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => commands.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let first = match first {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let round = first.into_iter().chain(commands.try_iter().take(TOGETHER - 1));
            if !self.round(round.collect()) {
                not_before = Instant::now() + RETRY;
            }
        }
    }

    /// Does some commands, and ends the leases that are due. Whether the database did its part.
    fn round(&mut self, commands: Vec<Command>) -> bool {
        let now = Instant::now();
        let expired = self.leases.iter().filter(|(_, lease)| lease.until <= now);
        let mut works: Vec<Work> = expired.map(|(id, _)| Work::End(*id)).collect();
        let expired = works.len();
        let mut replies = Vec::new();
        for command in commands {
            match command {
                Command::Write(work, reply) => {
                    works.push(work);
                    replies.push(reply);
                }
                // A lease whose time is over has ended, whether or not its keys are gone yet. Whoever asked may have gone
                // too; here and below that is no matter.
                Command::KeepAlive(lease, reply) => {
                    let left = self.leases.get_mut(&lease).filter(|lease| lease.until > now).map(|lease| {
                        lease.until = now + lease.ttl;
                        lease.ttl
                    });
                    let _ = reply.send(Ok(left));
                }
                Command::TimeToLive(lease, reply) => {
                    let until = self.leases.get(&lease).map(|lease| lease.until).filter(|until| *until > now);
                    let _ = reply.send(Ok(until.map(|until| until - now)));
                }
            }
        }
        let db = match self.database() {
            Ok(db) => db,
            Err(failure) => {
                replies.into_iter().for_each(|reply| drop(reply.send(Err(failure.clone()))));
                return false;
            }
        };
        if works.is_empty() {
            return true;
        }
        let (answers, revision) = match commit(&db, &works) {
            Ok(done) => done,
            Err(failed) => {
                drop(db);
                let failure = self.failed(failed);
                replies.into_iter().for_each(|reply| drop(reply.send(Err(failure.clone()))));
                return false;
            }
        };
        for (work, answer) in works.iter().zip(&answers) {
            match (work, answer) {
                (Work::Grant(seconds), Ok(Answer::Granted(lease))) => {
                    self.leases.insert(*lease, Lease::new(*seconds, Instant::now()));
                }
                (Work::End(lease), _) => drop(self.leases.remove(lease)),
                _ => {}
            }
        }
        self.revision.send_if_modified(|before| std::mem::replace(before, revision) != revision);
        for (reply, answer) in replies.into_iter().zip(answers.into_iter().skip(expired)) {
            let _ = reply.send(answer.map_err(Failure::LeaseGone));
        }
        true
    }

    /// The database, opened again if it had to be closed.
    fn database(&mut self) -> Result<Arc<Database>, Failure> {
        let open = self.db.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(db) = open {
            return Ok(db);
        }
        let db = Arc::new(file::open(&self.path).map_err(|error| Failure::Closed(Arc::new(error)))?);
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = Some(db.clone());
        info!(path = %self.path.display(), "the state database is open again");
        Ok(db)
    }

    /// After an error of the disk redb wants to be opened anew; it then takes up the last commit.
    fn failed(&mut self, failed: redb::Error) -> Failure {
        error!(path = %self.path.display(), error = %failed, "a write to the state database went wrong");
        drop(self.db.write().unwrap_or_else(PoisonError::into_inner).take());
        Failure::Database(Arc::new(failed))
    }
}

/// What comes of each work, or the lease that it names in vain; and the revision then.
type Committed = (Vec<Result<Answer, LeaseId>>, Revision);

/// Writes, each work with a revision of its own, and returns when the disk has all of it.
fn commit(db: &Database, works: &[Work]) -> Result<Committed, redb::Error> {
    let mut write = db.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    let mut tables = Tables::open(&write)?;
    let mut answers = Vec::with_capacity(works.len());
    let mut dirty = false;
    let before = tables.revision()?;
    for work in works {
        answers.push(match work {
            Work::Transact(txn) => match tables.transact(txn)? {
                Applied::Done(revision) => Ok(Answer::Outcome(Outcome::Done(revision))),
                Applied::Refused(revision) => Ok(Answer::Outcome(Outcome::Refused(revision))),
                Applied::LeaseGone(lease) => Err(lease),
            },
            Work::Grant(seconds) => {
                dirty = true;
                Ok(Answer::Granted(tables.grant(*seconds)?))
            }
            Work::End(lease) => {
                dirty |= tables.end_lease(*lease)?;
                Ok(Answer::Ended)
            }
        });
    }
    let revision = tables.revision()?;
    drop(tables);
    if dirty || revision != before {
        write.commit()?;
    } else {
        write.abort()?;
    }
    Ok((answers, revision))
}
