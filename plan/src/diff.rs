//! The keyed difference of two tables, which every kernel table shares.
//!
//! Nothing about any one table lives here; the order *between* tables is in [`kernel`](crate::kernel).

use std::collections::BTreeMap;
use std::fmt;

/// A row of some table of the kernel's: its key says which one it is, the rest what is in it.
pub trait Row: Clone + PartialEq + fmt::Debug + fmt::Display {
    /// What two rows of one table never share.
    type Key: Ord + Clone + fmt::Debug;

    /// This row's key.
    fn key(&self) -> Self::Key;
}

/// Rows by key, in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<R: Row>(BTreeMap<R::Key, R>);

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R: Row> Table<R> {
    /// Sets a row, in place of one with the same key.
    pub fn insert(&mut self, row: R) {
        self.0.insert(row.key(), row);
    }

    /// Sets a row unless its key is taken.
    pub fn insert_new(&mut self, row: R) {
        self.0.entry(row.key()).or_insert(row);
    }

    /// Takes a row away.
    pub fn remove(&mut self, key: &R::Key) -> Option<R> {
        self.0.remove(key)
    }

    /// The row of a key.
    #[must_use]
    pub fn get(&self, key: &R::Key) -> Option<&R> {
        self.0.get(key)
    }

    /// Whether there is a row of this key.
    #[must_use]
    pub fn contains(&self, key: &R::Key) -> bool {
        self.0.contains_key(key)
    }

    /// The rows in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &R> {
        self.0.values()
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the rows that `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&R) -> bool) {
        self.0.retain(|_, row| keep(row));
    }
}

impl<R: Row> FromIterator<R> for Table<R> {
    /// Of rows with one key the last stays.
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        Self(rows.into_iter().map(|row| (row.key(), row)).collect())
    }
}

impl<R: Row> Extend<R> for Table<R> {
    fn extend<I: IntoIterator<Item = R>>(&mut self, rows: I) {
        self.0.extend(rows.into_iter().map(|row| (row.key(), row)));
    }
}

/// One step towards the desired table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// There is no row of this key.
    Add(R),
    /// There is one, with other contents.
    Change {
        /// What is there.
        from: R,
        /// What should be.
        to: R,
    },
    /// The row should not be there.
    Remove(R),
}

impl<R> Step<R> {
    /// The row that the step is about: as it should be, or as it was if it goes.
    pub fn row(&self) -> &R {
        match self {
            Self::Add(row) | Self::Remove(row) | Self::Change { to: row, .. } => row,
        }
    }

    /// Whether the step takes a row away.
    pub fn is_removal(&self) -> bool {
        matches!(self, Self::Remove(_))
    }
}

impl<R: fmt::Display> fmt::Display for Step<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(row) => write!(f, "add {row}"),
            Self::Change { from, to } => write!(f, "change {to}, was {from}"),
            Self::Remove(row) => write!(f, "remove {row}"),
        }
    }
}

/// The steps from `actual` to `desired`, in the order of keys: what is added and changed, then what is removed.
#[must_use]
pub fn diff<R: Row>(desired: &Table<R>, actual: &Table<R>) -> Vec<Step<R>> {
    let mut steps = Vec::new();
    for (key, to) in &desired.0 {
        match actual.0.get(key) {
            None => steps.push(Step::Add(to.clone())),
            Some(from) if from != to => steps.push(Step::Change { from: from.clone(), to: to.clone() }),
            Some(_) => {}
        }
    }
    let gone = actual.0.iter().filter(|(key, _)| !desired.0.contains_key(*key));
    steps.extend(gone.map(|(_, row)| Step::Remove(row.clone())));
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Pair(u8, u8);

    impl fmt::Display for Pair {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "pair {}={}", self.0, self.1)
        }
    }

    impl Row for Pair {
        type Key = u8;

        fn key(&self) -> u8 {
            self.0
        }
    }

    fn apply(table: &mut Table<Pair>, step: &Step<Pair>) {
        match step {
            Step::Add(row) => {
                assert!(!table.contains(&row.key()), "{step}: is there already");
                table.insert(row.clone());
            }
            Step::Change { from, to } => {
                assert_eq!(table.get(&to.key()), Some(from), "{step}: the row is another one");
                table.insert(to.clone());
            }
            Step::Remove(row) => assert!(table.remove(&row.key()).is_some(), "{step}: is not there"),
        }
    }

    fn table() -> impl Strategy<Value = Table<Pair>> {
        prop::collection::vec((0..12u8, 0..4u8), 0..12).prop_map(|rows| rows.into_iter().map(|(k, v)| Pair(k, v)).collect())
    }

    proptest! {
        #[test]
        fn applying_the_steps_reaches_the_desired_table_and_a_second_diff_is_empty(desired in table(), mut actual in table()) {
            for step in diff(&desired, &actual) {
                apply(&mut actual, &step);
            }
            prop_assert_eq!(&actual, &desired);
            prop_assert!(diff(&desired, &actual).is_empty());
        }

        #[test]
        fn stopping_anywhere_and_starting_over_converges(desired in table(), mut actual in table(), stop in 0..24usize) {
            for step in diff(&desired, &actual).iter().take(stop) {
                apply(&mut actual, step);
            }
            for step in diff(&desired, &actual) {
                apply(&mut actual, &step);
            }
            prop_assert_eq!(actual, desired);
        }
    }

    #[test]
    fn steps_say_what_they_do_and_removals_come_last() {
        let desired: Table<Pair> = [Pair(3, 1), Pair(2, 9)].into_iter().collect();
        let actual: Table<Pair> = [Pair(1, 1), Pair(2, 2)].into_iter().collect();
        let said: Vec<String> = diff(&desired, &actual).iter().map(Step::to_string).collect();
        assert_eq!(said, ["change pair 2=9, was pair 2=2", "add pair 3=1", "remove pair 1=1"]);
    }
}
