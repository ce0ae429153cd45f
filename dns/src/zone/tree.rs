//! The index by label: records in the order of their names from the root down, so that what stands at and below a name is one
//! run of rows, found at the cost of a search and read at the cost of what is there.
//!
//! Its map is persistent: a copy shares all that did not change, so that a new zone costs what differs from the last one.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use weft_model::keys::RecordPath;

use super::row::Row;

/// A name as the tree orders them: lower-case labels from the root down, with a zero byte between, so that a name is followed
/// by all that stands below it.
pub(crate) type Key = Vec<u8>;

/// The key made of labels from the root down; `None` if one of them cannot stand in a name that a client could ask for.
pub(crate) fn key<'a>(labels: impl IntoIterator<Item = &'a str>) -> Option<Key> {
    let mut key = Vec::new();
    for label in labels {
        if !push(&mut key, label.as_bytes()) {
            return None;
        }
    }
    key.make_ascii_lowercase();
    Some(key)
}

/// Goes down by one label, which must be lower case already; false if no key can hold it.
pub(crate) fn push(key: &mut Key, label: &[u8]) -> bool {
    if label.is_empty() || label.len() > 63 || label.iter().any(|b| matches!(b, 0 | b'.')) {
        return false;
    }
    if !key.is_empty() {
        key.push(0);
    }
    key.extend_from_slice(label);
    true
}

/// What tells a record from others whose names are the same but for their case: keys should be lower case, and need not be.
pub(crate) fn variant(path: &RecordPath) -> Option<&str> {
    Some(path.as_str()).filter(|text| text.bytes().any(|b| b.is_ascii_uppercase()))
}

/// The labels of a key, from the root down.
pub(crate) fn labels(key: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    // Two zero bytes end the name of a place that is one of several at it.
    let end = key.windows(2).position(|pair| pair == [0, 0]).unwrap_or(key.len());
    key.get(..end).unwrap_or_default().split(|b| *b == 0).filter(|label| !label.is_empty())
}

/// The key itself and those of the names above it, the root left out.
pub(crate) fn upwards(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut end = Some(key.len()).filter(|len| *len > 0);
    std::iter::from_fn(move || {
        let at = key.get(..end?)?;
        end = at.iter().rposition(|b| *b == 0);
        Some(at)
    })
}

/// Everything that makes a name exist. A row may be missing: the name has no data then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    places: OrdMap<Arc<[u8]>, Option<Arc<Row>>>,
    rows: usize,
}

impl Tree {
    /// Sets what stands at a place: `key` itself, or one of several there if `variant` tells it from the others.
    pub(crate) fn put(&mut self, key: &[u8], variant: Option<&str>, row: Option<Row>) {
        let place: Arc<[u8]> = place(key, variant).into();
        self.rows += usize::from(row.is_some());
        let row = row.map(|row| Arc::new(Row { key: place.clone(), ..row }));
        if let Some(Some(_)) = self.places.insert(place, row) {
            self.rows -= 1;
        }
    }

    /// Empties a place.
    pub(crate) fn remove(&mut self, key: &[u8], variant: Option<&str>) {
        if let Some(Some(_)) = self.places.remove(place(key, variant).as_slice()) {
            self.rows -= 1;
        }
    }

    /// The row at a place.
    pub(crate) fn row(&self, key: &[u8], variant: Option<&str>) -> Option<&Arc<Row>> {
        match variant {
            None => self.places.get(key)?.as_ref(),
            Some(_) => self.places.get(place(key, variant).as_slice())?.as_ref(),
        }
    }

    /// Whether the name exists: something stands there or below.
    pub(crate) fn exists(&self, key: &[u8]) -> bool {
        key.is_empty() || self.run(key).next().is_some()
    }

    /// The rows at and below a name, by key.
    pub(crate) fn below(&self, key: &[u8]) -> impl Iterator<Item = &Arc<Row>> {
        self.run(key).filter_map(|(_, row)| row.as_ref())
    }

    /// The rows below a name whose next labels fit these, where `fits` says what a label of the pattern takes.
    pub(crate) fn matching(
        &self,
        start: &[u8],
        pattern: &[&[u8]],
        fits: impl Fn(&[u8], &[u8]) -> bool,
    ) -> impl Iterator<Item = &Arc<Row>> {
        let depth = labels(start).count();
        self.below(start).filter(move |row| {
            let mut at = labels(&row.key).skip(depth);
            pattern.iter().all(|wanted| at.next().is_some_and(|label| fits(wanted, label)))
        })
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// How many places there are, rows or not.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    fn run(&self, key: &[u8]) -> impl Iterator<Item = (&Arc<[u8]>, &Option<Arc<Row>>)> {
        let from: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(key), Bound::Unbounded);
        // What begins with the key and goes on within the label comes after all that stands below it.
        self.places.range::<_, [u8]>(from).take_while(move |(place, _)| {
            place.strip_prefix(key).is_some_and(|rest| key.is_empty() || rest.first().is_none_or(|b| *b == 0))
        })
    }
}

/// Where one of several stands: right behind the name itself, for no label is empty.
fn place(key: &[u8], variant: Option<&str>) -> Key {
    let mut place = key.to_vec();
    if let Some(variant) = variant {
        place.extend([0, 0]);
        place.extend(variant.as_bytes());
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn k(name: &str) -> Key {
        key(name.split('.').rev().filter(|l| !l.is_empty())).unwrap()
    }

    fn tree(names: &[(&str, Option<&str>)]) -> Tree {
        let mut tree = Tree::default();
        for (name, variant) in names {
            tree.put(&k(name), *variant, Some(Row::nothing()));
        }
        tree
    }

    #[test]
    fn a_name_is_followed_by_what_stands_below_it_and_by_nothing_else() {
        let tree = tree(&[("web.a", None), ("x.web.a", None), ("web-1.a", None), ("web1.a", None), ("we.a", None)]);
        let below = |name: &str| {
            let name = k(name);
            tree.below(&name).map(|row| labels(&row.key).rev().collect::<Vec<_>>().join(&b'.')).collect::<Vec<_>>()
        };
        assert_eq!(below("web.a"), [b"web.a".to_vec(), b"x.web.a".to_vec()]);
        assert_eq!(below("we.a"), [b"we.a".to_vec()]);
        assert_eq!((below("a").len(), below("").len()), (5, 5));
        assert!(tree.exists(&k("a")) && tree.exists(&k("")) && !tree.exists(&k("x")) && !tree.exists(&k("w.a")));
    }

    #[test]
    fn several_may_stand_at_one_name_and_go_one_by_one() {
        let mut tree = tree(&[("a.b", None), ("a.b", Some("b/A")), ("x.a.b", None)]);
        let name = k("a.b");
        assert_eq!((tree.below(&name).count(), tree.len()), (3, 3));
        let labels = |row: &Arc<Row>| labels(&row.key).count();
        assert_eq!(tree.below(&name).map(labels).collect::<Vec<_>>(), [2, 2, 3]);
        tree.remove(&name, None);
        assert!(tree.row(&name, None).is_none() && tree.row(&name, Some("b/A")).is_some());
        tree.remove(&name, Some("b/A"));
        tree.put(&k("x.a.b"), None, None);
        assert_eq!((tree.below(&name).count(), tree.len(), tree.places()), (0, 0, 1));
        assert!(tree.exists(&name));
        tree.remove(&k("x.a.b"), None);
        tree.remove(&k("x.a.b"), None);
        assert!(!tree.exists(&name));
    }

    #[test]
    fn the_way_up_ends_below_the_root() {
        let all = |name: &str| upwards(&k(name)).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(all("x.a.b"), [k("x.a.b"), k("a.b"), k("b")]);
        assert_eq!(all(""), Vec::<Key>::new());
    }

    #[test]
    fn a_label_that_no_name_can_hold_is_refused() {
        for bad in ["", "a.b", "a\0b", &"x".repeat(64)] {
            assert_eq!(key([bad]), None, "{bad:?}");
        }
        assert_eq!(key(["Local", "A"]), Some(b"local\0a".to_vec()));
    }
}
