//! Transactions as values: how one is put together, and what no store takes.

use std::collections::BTreeSet;

use crate::prefix::text;
use crate::{Compare, LeaseId, Op, Outcome, Revision, StoreError, Txn};

/// The most conditions, and the most writes, of one transaction: etcd's default `--max-txn-ops`.
pub const MAX_OPS: usize = 128;

/// The most bytes of keys and values in one transaction: etcd's default `--max-request-bytes`, less what the envelope of
/// [`MAX_OPS`] operations may take.
pub const MAX_BYTES: usize = 1_572_864 - 64 * 1024;

impl Txn {
    /// A transaction that always holds and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.when.push(compare);
        self
    }

    /// Adds a write of a key that hangs on no lease.
    #[must_use]
    pub fn put(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Adds a write of a key that hangs on `lease`.
    #[must_use]
    pub fn put_leased(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    /// Adds a deletion.
    #[must_use]
    pub fn delete(self, key: impl Into<Vec<u8>>) -> Self {
        self.then(Op::Delete(key.into()))
    }

    /// Adds a write.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// The operation and its subject, for messages: `put /weft/v1/nodes/h1 and 2 more`.
    pub(crate) fn text(&self) -> String {
        let (verb, key) = match (self.then.first(), self.when.first()) {
            (Some(op @ Op::Put { .. }), _) => ("put", op.key()),
            (Some(op @ Op::Delete(_)), _) => ("delete", op.key()),
            (None, Some(compare)) => ("compare", compare.key()),
            (None, None) => return "empty transaction".to_owned(),
        };
        match self.then.len() {
            0 | 1 => format!("{verb} {}", text(key)),
            n => format!("{verb} {} and {} more", text(key), n - 1),
        }
    }

    /// What both stores refuse, in the same words, before anything is sent or written.
    ///
    /// # Errors
    /// [`StoreError::Denied`].
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let denied = |why: String| Err(StoreError::Denied { op: self.text(), source: why.into() });
        if self.when.len() > MAX_OPS || self.then.len() > MAX_OPS {
            return denied(format!(
                "{} conditions and {} writes in one transaction, the most is {MAX_OPS} of each",
                self.when.len(),
                self.then.len()
            ));
        }
        let mut bytes = 0;
        for compare in &self.when {
            if compare.key().is_empty() {
                return denied("a condition on an empty key".to_owned());
            }
            bytes += compare.key().len();
            if let Compare::ValueIs(_, value) = compare {
                bytes += value.len();
            }
        }
        let mut seen = BTreeSet::new();
        for op in &self.then {
            if op.key().is_empty() {
                return denied("a write of an empty key".to_owned());
            }
            if !seen.insert(op.key()) {
                return denied(format!("two writes of {}", text(op.key())));
            }
            bytes += op.key().len();
            if let Op::Put { value, .. } = op {
                bytes += value.len();
            }
        }
        if bytes > MAX_BYTES {
            return denied(format!("{bytes} bytes of keys and values in one transaction, the most is {MAX_BYTES}"));
        }
        Ok(())
    }
}

impl Compare {
    /// The key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Vec<u8>>) -> Self {
        Self::Absent(key.into())
    }

    /// The key exists.
    #[must_use]
    pub fn present(key: impl Into<Vec<u8>>) -> Self {
        Self::Present(key.into())
    }

    /// The key was last written at `revision`.
    #[must_use]
    pub fn modified_at(key: impl Into<Vec<u8>>, revision: Revision) -> Self {
        Self::ModifiedAt(key.into(), revision)
    }

    /// The key's value is exactly `value`.
    #[must_use]
    pub fn value_is(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::ValueIs(key.into(), value.into())
    }

    /// The key it looks at.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::ModifiedAt(key, _) | Self::ValueIs(key, _) => key,
        }
    }
}

impl Op {
    /// The key it writes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

impl Outcome {
    /// Whether the writes were made.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// The revision at which it was decided.
    #[must_use]
    pub fn revision(self) -> Revision {
        match self {
            Self::Done(revision) | Self::Refused(revision) => revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_names_its_first_write() {
        let txn = Txn::new().when(Compare::absent("/a")).put("/b", "1").delete("/c");
        assert_eq!(txn.text(), "put /b and 1 more");
        assert_eq!(Txn::new().when(Compare::present("/a")).text(), "compare /a");
    }

    #[test]
    fn what_no_store_takes_is_refused_with_the_reason() {
        let twice = Txn::new().put("/a", "1").delete("/a");
        let empty = Txn::new().put("", "1");
        let many = (0..=MAX_OPS).fold(Txn::new(), |txn, i| txn.put(format!("/{i}"), ""));
        let big = Txn::new().put("/a", vec![0; MAX_BYTES]);
        for (txn, why) in [(twice, "two writes of /a"), (empty, "empty key"), (many, "129 writes"), (big, "bytes of keys")] {
            let Err(StoreError::Denied { source, .. }) = txn.check() else { panic!("{why}: not refused") };
            assert!(source.to_string().contains(why), "{source}");
        }
        assert!(Txn::new().put("/a", vec![0; MAX_BYTES - 2]).check().is_ok());
    }
}
