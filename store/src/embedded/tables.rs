//! What the database file holds, and the steps of a write: keys, leases, and the history that watches read.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | number: `format`, `revision`, `compacted`, `next_lease`, `history_bytes` |
//! | `keys` | key | created, modified, lease (0: none), value |
//! | `leases` | id | time to live in seconds |
//! | `lease_keys` | lease, key | |
//! | `history` | revision, place in it | put?, created, lease, key, value |
//!
//! A write transaction of the database may hold several of the store's, each with its own revision. Nothing here knows time.

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use crate::prefix::{end_of, position};
use crate::{Change, Compare, Entry, LeaseId, Listing, Op, Page, Revision, Txn};

const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
const KEYS: TableDefinition<&[u8], (i64, i64, i64, &[u8])> = TableDefinition::new("keys");
const LEASES: TableDefinition<i64, i64> = TableDefinition::new("leases");
const LEASE_KEYS: TableDefinition<(i64, &[u8]), ()> = TableDefinition::new("lease_keys");
const HISTORY: TableDefinition<(i64, u32), Past<'static>> = TableDefinition::new("history");

/// A row of `history`: put?, created, lease, key, value.
type Past<'a> = (bool, i64, i64, &'a [u8], &'a [u8]);

/// The layout above. Another one is refused.
const FORMAT: i64 = 1;

/// The revision of an empty store, as in etcd: the first write makes 2.
const FIRST: Revision = Revision(1);

/// How much history is kept: this many changes, and this many bytes of keys and values. The oldest goes first.
pub(super) const HISTORY_CHANGES: u64 = 10_000;
const HISTORY_BYTES: i64 = 16 << 20;

/// About how many changes are read from history at a time.
const READ: usize = 1_000;

/// Which layout a file has, if it is not ours.
#[derive(Debug, thiserror::Error)]
#[error("its layout is {found}, and this program knows {FORMAT}")]
pub(super) struct OtherFormat {
    found: i64,
}

/// What a store's transaction came to, within a write.
pub(super) enum Applied {
    Done(Revision),
    Refused(Revision),
    LeaseGone(LeaseId),
}

/// A stretch of history.
pub(super) enum Stretch {
    /// Changes below the prefixes, and the revision that the stretch ends with.
    Changes(Vec<Change>, Revision),
    /// What was asked for is no longer kept.
    Compacted { oldest: Revision },
}

/// Makes the tables of a new file, and checks those of an old one.
pub(super) fn prepare(db: &Database) -> Result<Result<(), OtherFormat>, redb::Error> {
    let write = db.begin_write()?;
    let found = {
        let mut tables = Tables::open(&write)?;
        match tables.number("format")? {
            None => {
                tables.meta.insert("format", FORMAT)?;
                FORMAT
            }
            Some(found) => found,
        }
    };
    if found != FORMAT {
        return Ok(Err(OtherFormat { found }));
    }
    write.commit()?;
    Ok(Ok(()))
}

/// The tables, open for a write.
pub(super) struct Tables<'t> {
    meta: Table<'t, &'static str, i64>,
    keys: Table<'t, &'static [u8], (i64, i64, i64, &'static [u8])>,
    leases: Table<'t, i64, i64>,
    lease_keys: Table<'t, (i64, &'static [u8]), ()>,
    history: Table<'t, (i64, u32), Past<'static>>,
}

impl<'t> Tables<'t> {
    pub fn open(write: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            meta: write.open_table(META)?,
            keys: write.open_table(KEYS)?,
            leases: write.open_table(LEASES)?,
            lease_keys: write.open_table(LEASE_KEYS)?,
            history: write.open_table(HISTORY)?,
        })
    }

    fn number(&self, name: &str) -> Result<Option<i64>, redb::Error> {
        Ok(self.meta.get(name)?.map(|n| n.value()))
    }

    pub fn revision(&self) -> Result<Revision, redb::Error> {
        Ok(self.number("revision")?.map_or(FIRST, Revision))
    }

    fn entry(&self, key: &[u8]) -> Result<Option<Entry>, redb::Error> {
        Ok(self.keys.get(key)?.map(|found| entry_of(key, found.value())))
    }

    /// One transaction of the store.
    pub fn transact(&mut self, txn: &Txn) -> Result<Applied, redb::Error> {
        let now = self.revision()?;
        for compare in &txn.when {
            if !self.holds(compare)? {
                return Ok(Applied::Refused(now));
            }
        }
        for op in &txn.then {
            if let Op::Put { lease: Some(lease), .. } = op
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Applied::LeaseGone(*lease));
            }
        }
        let revision = now.next();
        let mut changes = Vec::with_capacity(txn.then.len());
        for op in &txn.then {
            match op {
                Op::Put { key, value, lease } => changes.push(self.put(key, value, *lease, revision)?),
                Op::Delete(key) => changes.extend(self.delete(key, revision)?),
            }
        }
        // Deleting what is not there makes no revision, as in etcd.
        if changes.is_empty() {
            return Ok(Applied::Done(now));
        }
        self.record(revision, &changes)?;
        Ok(Applied::Done(revision))
    }

    fn holds(&self, compare: &Compare) -> Result<bool, redb::Error> {
        Ok(match compare {
            Compare::Absent(key) => self.keys.get(key.as_slice())?.is_none(),
            Compare::Present(key) => self.keys.get(key.as_slice())?.is_some(),
            // A key that is not there counts as modified at 0, as in etcd.
            Compare::ModifiedAt(key, revision) => self.entry(key)?.map_or(Revision(0), |entry| entry.modified) == *revision,
            Compare::ValueIs(key, value) => self.entry(key)?.is_some_and(|entry| entry.value == *value),
        })
    }

    fn put(&mut self, key: &[u8], value: &[u8], lease: Option<LeaseId>, revision: Revision) -> Result<Change, redb::Error> {
        let before = self.entry(key)?;
        if let Some(old) = before.as_ref().and_then(|entry| entry.lease) {
            self.lease_keys.remove((old.0, key))?;
        }
        let created = before.map_or(revision, |entry| entry.created);
        self.keys.insert(key, (created.0, revision.0, lease.map_or(0, |lease| lease.0), value))?;
        if let Some(lease) = lease {
            self.lease_keys.insert((lease.0, key), ())?;
        }
        Ok(Change::Put(Entry { key: key.to_vec(), value: value.to_vec(), lease, created, modified: revision }))
    }

    fn delete(&mut self, key: &[u8], revision: Revision) -> Result<Option<Change>, redb::Error> {
        let lease = match self.keys.remove(key)? {
            Some(found) => found.value().2,
            None => return Ok(None),
        };
        if lease != 0 {
            self.lease_keys.remove((lease, key))?;
        }
        Ok(Some(Change::Delete { key: key.to_vec(), revision }))
    }

    /// A new lease.
    pub fn grant(&mut self, seconds: i64) -> Result<LeaseId, redb::Error> {
        let id = self.number("next_lease")?.unwrap_or(1);
        self.meta.insert("next_lease", id + 1)?;
        self.leases.insert(id, seconds)?;
        Ok(LeaseId(id))
    }

    /// Ends a lease and deletes its keys, in one revision if there are any. Whether there was one.
    pub fn end_lease(&mut self, lease: LeaseId) -> Result<bool, redb::Error> {
        if self.leases.remove(lease.0)?.is_none() {
            return Ok(false);
        }
        let mut keys = Vec::new();
        for row in self.lease_keys.range((lease.0, &[][..])..)? {
            let (row, _) = row?;
            let (id, key) = row.value();
            if id != lease.0 {
                break;
            }
            keys.push(key.to_vec());
        }
        let revision = self.revision()?.next();
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            changes.extend(self.delete(&key, revision)?);
        }
        if !changes.is_empty() {
            self.record(revision, &changes)?;
        }
        Ok(true)
    }

    /// Writes a revision into history, and forgets the oldest if it becomes too much.
    fn record(&mut self, revision: Revision, changes: &[Change]) -> Result<(), redb::Error> {
        let mut bytes = self.number("history_bytes")?.unwrap_or(0);
        for (place, change) in (0u32..).zip(changes) {
            let row: Past<'_> = match change {
                Change::Put(entry) => (true, entry.created.0, entry.lease.map_or(0, |lease| lease.0), &entry.key, &entry.value),
                Change::Delete { key, .. } => (false, 0, 0, key, &[]),
            };
            bytes += size(row.3, row.4);
            self.history.insert((revision.0, place), row)?;
        }
        let mut compacted = None;
        while self.history.len()? > HISTORY_CHANGES || bytes > HISTORY_BYTES {
            // Whole revisions only, and never the newest.
            let Some(oldest) = self.history.first()?.map(|(row, _)| row.value().0).filter(|r| *r < revision.0) else {
                break;
            };
            while self.history.first()?.is_some_and(|(row, _)| row.value().0 == oldest) {
                if let Some((_, row)) = self.history.pop_first()? {
                    let (_, _, _, key, value) = row.value();
                    bytes -= size(key, value);
                }
            }
            compacted = Some(oldest);
        }
        if let Some(compacted) = compacted {
            self.meta.insert("compacted", compacted)?;
        }
        self.meta.insert("history_bytes", bytes)?;
        self.meta.insert("revision", revision.0)?;
        Ok(())
    }
}

fn size(key: &[u8], value: &[u8]) -> i64 {
    i64::try_from(key.len() + value.len()).unwrap_or(i64::MAX)
}

fn entry_of(key: &[u8], (created, modified, lease, value): (i64, i64, i64, &[u8])) -> Entry {
    Entry {
        key: key.to_vec(),
        value: value.to_vec(),
        lease: lease_of(lease),
        created: Revision(created),
        modified: Revision(modified),
    }
}

fn lease_of(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

/// The database as it was at one moment.
pub(super) struct View(ReadTransaction);

impl View {
    pub fn of(db: &Database) -> Result<Self, redb::Error> {
        Ok(Self(db.begin_read()?))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, redb::Error> {
        Ok(self.0.open_table(META)?.get(name)?.map(|n| n.value()))
    }

    pub fn revision(&self) -> Result<Revision, redb::Error> {
        Ok(self.number("revision")?.map_or(FIRST, Revision))
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>, redb::Error> {
        Ok(self.0.open_table(KEYS)?.get(key)?.map(|found| entry_of(key, found.value())))
    }

    /// Everything below disjoint prefixes.
    pub fn list(&self, prefixes: &[Vec<u8>]) -> Result<Listing, redb::Error> {
        let keys = self.0.open_table(KEYS)?;
        let mut entries = Vec::new();
        for prefix in prefixes {
            let end = end_of(prefix);
            let rows = match &end {
                Some(end) => keys.range(prefix.as_slice()..end.as_slice())?,
                None => keys.range(prefix.as_slice()..)?,
            };
            for row in rows {
                let (key, found) = row?;
                entries.push(entry_of(key.value(), found.value()));
            }
        }
        Ok(Listing { revision: self.revision()?, entries })
    }

    /// Some of everything below disjoint prefixes; none if it is not any more as it was at `at`.
    pub fn page(
        &self,
        prefixes: &[Vec<u8>],
        from: &[u8],
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Option<Page>, redb::Error> {
        let now = self.revision()?;
        if at.is_some_and(|at| at > now) {
            return Ok(None);
        }
        let mut looked = at.unwrap_or(now).next();
        while looked <= now {
            match self.history(prefixes, looked)? {
                Stretch::Changes(changes, reached) if changes.is_empty() => looked = reached.next(),
                _ => return Ok(None),
            }
        }
        let keys = self.0.open_table(KEYS)?;
        let mut page = Page { revision: at.unwrap_or(now), ..Page::default() };
        for prefix in prefixes {
            let begin = std::cmp::max(prefix.as_slice(), from);
            let end = end_of(prefix);
            let rows = match &end {
                Some(end) if end.as_slice() <= begin => continue,
                Some(end) => keys.range(begin..end.as_slice())?,
                None => keys.range(begin..)?,
            };
            for row in rows {
                let (key, found) = row?;
                if page.entries.len() >= limit {
                    page.next = Some(key.value().to_vec());
                    return Ok(Some(page));
                }
                page.entries.push(entry_of(key.value(), found.value()));
            }
        }
        Ok(Some(page))
    }

    /// All leases and their seconds.
    pub fn leases(&self) -> Result<Vec<(LeaseId, i64)>, redb::Error> {
        let mut leases = Vec::new();
        for row in self.0.open_table(LEASES)?.iter()? {
            let (id, seconds) = row?;
            leases.push((LeaseId(id.value()), seconds.value()));
        }
        Ok(leases)
    }

    /// A stretch of history from `from` on; whole revisions.
    pub fn history(&self, prefixes: &[Vec<u8>], from: Revision) -> Result<Stretch, redb::Error> {
        let compacted = Revision(self.number("compacted")?.unwrap_or(0));
        if from <= compacted {
            return Ok(Stretch::Compacted { oldest: compacted.next() });
        }
        let mut reached = self.revision()?;
        let mut changes = Vec::new();
        let mut last = from;
        for (read, row) in self.0.open_table(HISTORY)?.range((from.0, 0)..)?.enumerate() {
            let (at, row) = row?;
            let revision = Revision(at.value().0);
            if read >= READ && revision != last {
                reached = last;
                break;
            }
            last = revision;
            let (put, created, lease, key, value) = row.value();
            if position(prefixes, key).is_none() {
                continue;
            }
            changes.push(if put {
                Change::Put(entry_of(key, (created, revision.0, lease, value)))
            } else {
                Change::Delete { key: key.to_vec(), revision }
            });
        }
        Ok(Stretch::Changes(changes, reached))
    }
}
