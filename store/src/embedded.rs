//! A database file as a [`Store`]: one host, nothing else to install.
//!
//! It does what etcd does, as far as the trait goes: revisions, leases, transactions, watches from the past. One thread
//! writes (`embedded/writer.rs`), so order is given and a commit may hold several transactions; whoever reads does so on the
//! blocking threads, from a database that shows each of them one moment. A watch keeps nothing in memory: it reads the
//! history in the file (`embedded/tables.rs`) at its own pace, and a reader that falls behind what history holds is told so.
//! One process at a time; nothing here talks to another host.

mod file;
mod tables;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use self::tables::{Stretch, View};
use self::writer::{Answer, Command, Failure, Reply, Shared, Work, Writer};
use crate::prefix::{self, text, texts};
use crate::ttl::whole_seconds;
use crate::{Batch, Entry, Kind, LeaseId, Listing, Outcome, Page, Revision, Store, StoreError, Txn, Watch};

/// How many commands may wait for the writer; more wait where they come from.
const COMMANDS: usize = 256;

/// Batches that wait for a watch's reader.
const WAITING: usize = 16;

/// The embedded store. Dropping it waits for the write that is going on and closes the file.
pub struct EmbeddedStore {
    path: PathBuf,
    db: Arc<Shared>,
    revision: watch::Receiver<Revision>,
    room: Semaphore,
    /// `None` only while dropping.
    commands: Option<std_mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the database at `path`, which is made if it is not there, with the folders above it. Leases that it holds get
    /// all of their time again.
    ///
    /// # Errors
    /// [`StoreError::Database`], in words that say what to do: in use by another process, damaged, not writable. A damaged
    /// file is left as it is.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        let op = |what: &str| format!("{what} the state database {}", path.display());
        let (opened, ready) = oneshot::channel();
        let (commands, receiver) = std_mpsc::channel();
        let thread_path = path.clone();
        // All of the database's life is on this thread: a file so damaged that reading it panics ends the thread, not the
        // agent.
        let thread = std::thread::Builder::new().name("weft-store".into()).spawn(move || {
            let made = file::open(&thread_path).and_then(|db| {
                Writer::new(thread_path.clone(), db).map_err(|error| StoreError::Database {
                    op: format!("read the state database {}", thread_path.display()),
                    source: error.into(),
                })
            });
            match made {
                Ok(writer) => {
                    if opened.send(Ok(writer.shared())).is_ok() {
                        writer.run(&receiver);
                    }
                }
                // Whoever opens has gone; there is nobody to tell.
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        let writer = thread.map_err(|error| StoreError::Database { op: op("start the thread for"), source: error.into() })?;
        let (db, revision) = match ready.await {
            Ok(ready) => ready?,
            Err(_) => {
                return Err(StoreError::Database {
                    op: format!(
                        "the state database {} cannot be used: put back a copy of it, or move it away to begin with an empty one",
                        path.display()
                    ),
                    source: "it is damaged in a way that makes reading it panic".into(),
                });
            }
        };
        Ok(Self { path, db, revision, room: Semaphore::new(COMMANDS), commands: Some(commands), writer: Some(writer) })
    }

    /// Hands a command to the writer and waits for what comes of it.
    async fn command<T>(&self, op: &str, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let gone = || StoreError::Database { op: self.subject(op), source: "its thread has ended".into() };
        let _room = self.room.acquire().await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.as_ref().map(|commands| commands.send(make(reply)));
        match sent {
            Some(Ok(())) => {}
            _ => return Err(gone()),
        }
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::LeaseGone(lease))) => Err(StoreError::LeaseGone { op: op.to_owned(), lease }),
            Ok(Err(Failure::Database(source))) => Err(StoreError::Database { op: self.subject(op), source: source.into() }),
            Ok(Err(Failure::Closed(source))) => Err(StoreError::Database { op: self.subject(op), source: source.into() }),
            Err(_) => Err(gone()),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        op: impl FnOnce() -> String,
        read: impl FnOnce(&View) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let db = self.db.clone();
        read_from(db, read).await.map_err(|source| StoreError::Database { op: self.subject(&op()), source })
    }

    /// An operation in a message, with the file.
    fn subject(&self, op: &str) -> String {
        format!("{op} (state database {})", self.path.display())
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(writer) = self.writer.take() {
            // At most one commit. A panic there has been printed already.
            let _ = writer.join();
        }
    }
}

/// Reads at one moment of the database, on a blocking thread.
async fn read_from<T: Send + 'static>(
    db: Arc<Shared>,
    read: impl FnOnce(&View) -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    let done = spawn_blocking(move || {
        let db = db.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(db) = db else { return Err("closed after an error of the disk".into()) };
        View::of(&db).and_then(|view| read(&view)).map_err(Into::into)
    });
    match done.await {
        Ok(done) => done,
        Err(panicked) => Err(panicked.into()),
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn kind(&self) -> Kind {
        Kind::Embedded
    }

    async fn get(&self, key: &[u8]) -> Result<(Revision, Option<Entry>), StoreError> {
        let wanted = key.to_vec();
        self.read(|| format!("get {}", text(key)), move |view| Ok((view.revision()?, view.get(&wanted)?))).await
    }

    async fn list(&self, prefixes: &[Vec<u8>]) -> Result<Listing, StoreError> {
        let prefixes = prefix::disjoint(prefixes);
        let op = format!("list {}", texts(&prefixes));
        if prefixes.is_empty() {
            return Err(StoreError::Denied { op, source: "no prefix is given".into() });
        }
        self.read(|| op, move |view| view.list(&prefixes)).await
    }

    async fn page(&self, prefixes: &[Vec<u8>], from: &[u8], at: Option<Revision>, limit: usize) -> Result<Page, StoreError> {
        let prefixes = prefix::disjoint(prefixes);
        let op = format!("list {} from {}", texts(&prefixes), text(from));
        let from = from.to_vec();
        let page = self.read(|| op, move |view| view.page(&prefixes, &from, at, limit)).await?;
        page.ok_or_else(|| {
            let at = at.unwrap_or_default();
            StoreError::Compacted { from: at, oldest: at.next() }
        })
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let op = txn.text();
        match self.command(&op, |reply| Command::Write(Work::Transact(txn), reply)).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            other => Err(self.confused(&op, other)),
        }
    }

    async fn watch(&self, prefixes: &[Vec<u8>], from: Revision) -> Result<Watch, StoreError> {
        let prefixes: Arc<[Vec<u8>]> = prefix::disjoint(prefixes).into();
        let op = self.subject(&format!("watch {} from revision {from}", texts(&prefixes)));
        if prefixes.is_empty() {
            return Err(StoreError::Denied { op, source: "no prefix is given".into() });
        }
        let (batches, receiver) = mpsc::channel(WAITING);
        let watcher = Watcher { op, db: self.db.clone(), prefixes, from, revision: self.revision.clone(), batches };
        tokio::spawn(watcher.run());
        Ok(Watch { batches: receiver })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = whole_seconds(ttl)?;
        let op = format!("grant a lease of {ttl:?}");
        match self.command(&op, |reply| Command::Write(Work::Grant(seconds), reply)).await? {
            Answer::Granted(lease) => Ok(lease),
            other => Err(self.confused(&op, other)),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.command(&format!("keep lease {lease} alive"), |reply| Command::KeepAlive(lease, reply)).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.command(&format!("read lease {lease}"), |reply| Command::TimeToLive(lease, reply)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let op = format!("revoke lease {lease}");
        self.command(&op, |reply| Command::Write(Work::End(lease), reply)).await.map(|_| ())
    }
}

impl EmbeddedStore {
    /// The writer answered another question than the one asked.
    fn confused(&self, op: &str, answer: Answer) -> StoreError {
        StoreError::Database { op: self.subject(op), source: format!("the writer answered {answer:?}").into() }
    }
}

/// One watch: reads history whenever there is more of it, as fast as its reader takes it.
struct Watcher {
    op: String,
    db: Arc<Shared>,
    prefixes: Arc<[Vec<u8>]>,
    from: Revision,
    revision: watch::Receiver<Revision>,
    batches: mpsc::Sender<Result<Batch, StoreError>>,
}

impl Watcher {
    async fn run(mut self) {
        let mut next = Revision(self.from.0.max(1));
        loop {
            let newest = *self.revision.borrow_and_update();
            if newest < next {
                tokio::select! {
                    () = self.batches.closed() => return,
                    // The store is closed: the watch ends without an item.
                    changed = self.revision.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let prefixes = self.prefixes.clone();
            let item = match read_from(self.db.clone(), move |view| view.history(&prefixes, next)).await {
                Ok(Stretch::Changes(changes, reached)) => {
                    next = reached.next();
                    if changes.is_empty() {
                        continue;
                    }
                    Ok(Batch { revision: reached, changes })
                }
                Ok(Stretch::Compacted { oldest }) => Err(StoreError::Compacted { from: next, oldest }),
                Err(source) => Err(StoreError::Database { op: self.op.clone(), source }),
            };
            let over = item.is_err();
            // A failed send: nobody listens any more.
            if self.batches.send(item).await.is_err() || over {
                return;
            }
        }
    }
}
