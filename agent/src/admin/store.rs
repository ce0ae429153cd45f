//! The store as a document: pages of it out, parts of it in.
//!
//! Keys and values pass as they are: nothing here knows a resource, so what this version does not understand is moved too.
//! What hangs on a lease is shown and never written: its owner, who keeps the lease, writes it anew where he runs then.

use std::collections::BTreeMap;

use weft_api::store::{FORM, StoreEntry, StoreExport, StoreImport, StoreImported, StorePrefixes};
use weft_store::{Compare, Entry, MAX_BYTES, MAX_OPS, Op, Outcome, Revision, Store, StoreError, Txn};

use super::Admin;
use super::query::Query;
use crate::refusal::Refusal;

/// The largest part that is taken, bytes of JSON: the largest value that a store takes, in base64, and what else a part has.
pub const MAX_PART: usize = 8 << 20;

/// Keys in a page.
const PAGE: usize = 500;

/// About how many bytes of keys and values are in one; more only if one value alone is larger.
const PAGE_BYTES: usize = 1 << 20;

/// How often a transaction is made anew because others write the same keys.
const TRIES: usize = 5;

impl Admin {
    /// A page: `from` is what the page before it gave, `revision` its revision.
    pub(super) async fn store_export(&self, query: &Query) -> Result<StoreExport, Refusal> {
        let from = match query.get("from") {
            Some(hex) => unhex(hex).ok_or_else(|| Refusal::invalid("store export: from is what the page before gave as next"))?,
            None => Vec::new(),
        };
        let at = query.value::<i64>("revision")?.map(Revision);
        let layout = self.registry.layout();
        let page = self.registry.store().page(&layout.watched(), &from, at, PAGE).await.map_err(|e| match e {
            StoreError::Compacted { .. } => {
                Refusal::conflict("store export: the store does not know how it was at that revision: it has moved on and forgot it, or has never been there; begin anew")
            }
            e => Refusal::store("store export", &e),
        })?;
        let mut next = page.next;
        let mut entries = Vec::with_capacity(page.entries.len());
        let mut bytes = 0;
        for entry in page.entries {
            bytes += entry.key.len() + entry.value.len();
            if bytes > PAGE_BYTES && !entries.is_empty() {
                next = Some(entry.key);
                break;
            }
            entries.push(StoreEntry::new(entry.key, entry.value, entry.lease.is_some()));
        }
        Ok(StoreExport {
            weft_store: FORM,
            revision: page.revision.0,
            prefixes: self.prefixes(),
            entries,
            next: next.map(|key| hex(&key)),
        })
    }

    fn prefixes(&self) -> StorePrefixes {
        let layout = self.registry.layout();
        let (network, dns, weft) = layout.prefixes();
        StorePrefixes { network: network.to_owned(), dns: dns.to_owned(), weft: weft.to_owned() }
    }

    /// Writes what is not there, as it was exported. Each transaction compares what it saw, so nothing that somebody writes
    /// meanwhile is lost.
    pub(super) async fn store_import(&self, part: StoreImport) -> Result<StoreImported, Refusal> {
        let refuse = |why: String| Refusal::invalid(format!("store import: {why}"));
        if part.weft_store != FORM {
            return Err(refuse(format!("the document's form is {}, and this version reads {FORM}", part.weft_store)));
        }
        let watched = self.registry.layout().watched();
        let mut imported = StoreImported::default();
        let mut wanted = BTreeMap::new();
        for entry in &part.entries {
            if entry.leased {
                imported.leased += 1;
                continue;
            }
            let (key, value) = entry.bytes().map_err(refuse)?;
            if !watched.iter().any(|prefix| key.starts_with(prefix)) {
                let p = self.prefixes();
                return Err(refuse(format!(
                    "{} is below none of this agent's prefixes ({}, {}, {}); start it with those of the document",
                    shown(&key),
                    p.network,
                    p.dns,
                    p.weft
                )));
            }
            if key.len() + value.len() > MAX_BYTES {
                return Err(refuse(format!("{} has {} bytes, more than a store takes", shown(&key), value.len())));
            }
            if wanted.insert(key.clone(), value).is_some() {
                return Err(refuse(format!("{} is in the part twice", shown(&key))));
            }
        }
        let store = self.registry.store();
        for some in groups(wanted) {
            let came = self::import(store.as_ref(), &some, part.replace, part.dry_run).await?;
            imported.add(came);
        }
        Ok(imported)
    }
}

/// Groups that fit into a transaction each.
fn groups(wanted: BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut groups: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = Vec::new();
    let mut bytes = 0;
    for (key, value) in wanted {
        // A key stands in the condition, and in the write with its value.
        let size = 2 * key.len() + value.len();
        bytes += size;
        match groups.last_mut() {
            Some(last) if last.len() < MAX_OPS && bytes <= MAX_BYTES => drop(last.insert(key, value)),
            _ => {
                bytes = size;
                groups.push([(key, value)].into());
            }
        }
    }
    groups
}

/// Writes one group, in one transaction.
async fn import(
    store: &dyn Store,
    wanted: &BTreeMap<Vec<u8>, Vec<u8>>,
    replace: bool,
    dry_run: bool,
) -> Result<StoreImported, Refusal> {
    for _ in 0..TRIES {
        let there = look(store, wanted).await.map_err(|e| Refusal::store("store import", &e))?;
        let mut came = StoreImported::default();
        let mut txn = Txn::new();
        for (key, value) in wanted {
            match there.get(key) {
                None => {
                    came.written += 1;
                    txn = txn.when(Compare::Absent(key.clone()));
                    txn = txn.then(Op::Put { key: key.clone(), value: value.clone(), lease: None });
                }
                // One on a lease would go with it: that is not what was exported.
                Some(entry) if entry.value == *value && entry.lease.is_none() => came.same += 1,
                Some(entry) => {
                    came.differ.push(shown(key));
                    if replace {
                        txn = txn.when(Compare::ModifiedAt(key.clone(), entry.modified));
                        txn = txn.then(Op::Put { key: key.clone(), value: value.clone(), lease: None });
                    }
                }
            }
        }
        if dry_run || txn.then.is_empty() {
            return Ok(came);
        }
        match store.transact(txn).await.map_err(|e| Refusal::store("store import", &e))? {
            Outcome::Done(_) => return Ok(came),
            // Somebody wrote one of them meanwhile.
            Outcome::Refused(_) => {}
        }
    }
    Err(Refusal::conflict("store import: somebody else keeps writing the same keys; stop that, and import again"))
}

/// What is there of these keys.
async fn look(store: &dyn Store, wanted: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<BTreeMap<Vec<u8>, Entry>, StoreError> {
    let mut there = BTreeMap::new();
    for key in wanted.keys() {
        if let (_, Some(entry)) = store.get(key).await? {
            there.insert(key.clone(), entry);
        }
    }
    Ok(there)
}

/// A key in a message.
fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => key.escape_ascii().to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| (pair.len() == 2).then(|| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())?).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_store::embedded::EmbeddedStore;

    use super::*;

    #[test]
    fn the_place_of_a_page_comes_back_as_it_was_given() {
        for key in [&b"/a"[..], b"\x00\xff", b""] {
            assert_eq!(unhex(&hex(key)).unwrap(), key);
        }
        for junk in ["f", "zz", "0g", "+1", "ä"] {
            assert_eq!(unhex(junk), None, "{junk}");
        }
    }

    #[test]
    fn groups_hold_everything_once_and_fit() {
        let mut wanted: BTreeMap<Vec<u8>, Vec<u8>> = (0..1000).map(|n| (format!("/{n:04}").into_bytes(), vec![0; 10])).collect();
        wanted.insert(b"/large/1".to_vec(), vec![0; MAX_BYTES - 100]);
        wanted.insert(b"/large/2".to_vec(), vec![0; MAX_BYTES - 100]);
        let made = groups(wanted.clone());
        assert!(made.iter().all(|group| group.len() <= MAX_OPS));
        let size = |group: &BTreeMap<Vec<u8>, Vec<u8>>| group.iter().map(|(k, v)| 2 * k.len() + v.len()).sum::<usize>();
        assert!(made.iter().all(|group| size(group) <= MAX_BYTES));
        assert_eq!(made.into_iter().flatten().collect::<BTreeMap<_, _>>(), wanted);
    }

    #[tokio::test]
    async fn what_is_there_is_written_over_only_if_that_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path().join("store.redb")).await.unwrap());
        let lease = store.grant(std::time::Duration::from_secs(600)).await.unwrap();
        let txn = Txn::new().put("/a", "1").put("/b", "1").put_leased("/c", "1", lease);
        store.transact(txn).await.unwrap();
        let wanted: BTreeMap<Vec<u8>, Vec<u8>> =
            ["/a", "/b", "/c", "/d"].into_iter().map(|key| (key.into(), if key == "/b" { "2" } else { "1" }.into())).collect();
        let expected = StoreImported { written: 1, same: 1, leased: 0, differ: vec!["/b".into(), "/c".into()] };
        let value = |key: &'static [u8]| {
            let store = store.clone();
            async move { store.get(key).await.unwrap().1.map(|entry| (entry.value, entry.lease.is_some())) }
        };
        assert_eq!(import(&*store, &wanted, true, true).await.unwrap(), expected);
        assert_eq!(value(b"/d").await, None, "a dry run writes nothing");
        assert_eq!(import(&*store, &wanted, false, false).await.unwrap(), expected);
        assert_eq!((value(b"/b").await, value(b"/d").await), (Some((b"1".to_vec(), false)), Some((b"1".to_vec(), false))));
        let again = StoreImported { written: 0, same: 2, ..expected };
        assert_eq!(import(&*store, &wanted, true, false).await.unwrap(), again);
        assert_eq!(value(b"/b").await, Some((b"2".to_vec(), false)));
        assert_eq!(value(b"/c").await, Some((b"1".to_vec(), false)), "it stays now, whoever kept its lease");
        assert_eq!(import(&*store, &wanted, false, false).await.unwrap().same, 4);
    }
}
