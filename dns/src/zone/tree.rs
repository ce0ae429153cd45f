//! The index by label: from the root of all names down, so that finding a name costs its number of labels, and what stands
//! below it is one slice of rows.
//!
//! Built once from entries in the order of their keys; never changed afterwards.

use super::row::Row;

/// The root's place in the tree.
pub(crate) const ROOT: u32 = 0;

/// A key as the tree orders them: lower-case labels from the root down, with a zero byte between, so that a name is followed
/// by all that stands below it and siblings stand by label.
pub(crate) type Key = Vec<u8>;

/// The key made of labels from the root down; `None` if one of them cannot stand in a name that a client could ask for.
pub(crate) fn key<'a>(labels: impl Iterator<Item = &'a str>) -> Option<Key> {
    let mut key = Vec::new();
    for label in labels {
        if label.is_empty() || label.len() > 63 || label.bytes().any(|b| b == 0 || b == b'.') {
            return None;
        }
        if !key.is_empty() {
            key.push(0);
        }
        key.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    Some(key)
}

/// Something that makes a name exist.
#[derive(Debug)]
pub(crate) struct Entry {
    pub key: Key,
    /// What it answers, if anything does.
    pub row: Option<Row>,
    /// The declared service whose name this is, as an index of the zone's services.
    pub service: Option<usize>,
}

#[derive(Debug, Default)]
struct Node {
    /// By label.
    children: Vec<(Box<[u8]>, u32)>,
    /// The rows at and below it.
    start: usize,
    end: usize,
    service: Option<usize>,
}

/// All names, and the rows in the order of their keys.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    rows: Vec<Row>,
}

impl Tree {
    /// Builds the index. Returns also where each entry's row went, in the order that the entries were given in.
    pub(crate) fn build(entries: Vec<Entry>) -> (Self, Vec<Option<usize>>) {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by(|a, b| entries.get(*a).map(|e| &e.key).cmp(&entries.get(*b).map(|e| &e.key)));
        let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
        let mut places = vec![None; entries.len()];
        let mut tree = Self { nodes: vec![Node::default()], rows: Vec::new() };
        // The nodes from the root to the last entry's, with their labels.
        let mut open: Vec<(u32, Box<[u8]>)> = Vec::new();
        for index in order {
            let Some(entry) = entries.get_mut(index).and_then(Option::take) else {
                continue;
            };
            let labels: Vec<&[u8]> = entry.key.split(|b| *b == 0).filter(|l| !l.is_empty()).collect();
            let common = labels.iter().zip(&open).take_while(|(label, (_, at))| **label == &**at).count();
            tree.close(&mut open, common);
            for label in labels.iter().skip(common) {
                let parent = open.last().map_or(ROOT, |(node, _)| *node);
                open.push((tree.add(parent, label), Box::from(*label)));
            }
            let at = open.last().map_or(ROOT, |(node, _)| *node);
            if let (Some(service), Some(node)) = (entry.service, tree.nodes.get_mut(at as usize)) {
                node.service = Some(service);
            }
            if let Some(row) = entry.row {
                if let Some(place) = places.get_mut(index) {
                    *place = Some(tree.rows.len());
                }
                tree.rows.push(row);
            }
        }
        tree.close(&mut open, 0);
        let end = tree.rows.len();
        if let Some(root) = tree.nodes.first_mut() {
            root.end = end;
        }
        (tree, places)
    }

    fn add(&mut self, parent: u32, label: &[u8]) -> u32 {
        // More nodes than fit 32 bits would need more records than fit any store.
        let id = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node { start: self.rows.len(), ..Node::default() });
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.children.push((Box::from(label), id));
        }
        id
    }

    fn close(&mut self, open: &mut Vec<(u32, Box<[u8]>)>, keep: usize) {
        for (node, _) in open.drain(keep.min(open.len())..) {
            if let Some(node) = self.nodes.get_mut(node as usize) {
                node.end = self.rows.len();
            }
        }
    }

    /// The child of `node` with this label, which must be lower case.
    pub(crate) fn child(&self, node: u32, label: &[u8]) -> Option<u32> {
        let children = &self.nodes.get(node as usize)?.children;
        let at = children.binary_search_by(|(l, _)| (**l).cmp(label)).ok()?;
        children.get(at).map(|(_, id)| *id)
    }

    /// The node at these labels, from the root down.
    pub(crate) fn find<'a>(&self, labels: impl IntoIterator<Item = &'a [u8]>) -> Option<u32> {
        labels.into_iter().try_fold(ROOT, |node, label| self.child(node, label))
    }

    /// All children, by label.
    pub(crate) fn children(&self, node: u32) -> impl Iterator<Item = (&[u8], u32)> {
        self.nodes.get(node as usize).into_iter().flat_map(|n| n.children.iter().map(|(l, id)| (&**l, *id)))
    }

    /// The rows at and below a node, by key.
    pub(crate) fn rows(&self, node: u32) -> &[Row] {
        self.nodes.get(node as usize).and_then(|n| self.rows.get(n.start..n.end)).unwrap_or_default()
    }

    /// One row by its place.
    pub(crate) fn row(&self, place: usize) -> Option<&Row> {
        self.rows.get(place)
    }

    /// The declared service that has this name.
    pub(crate) fn service(&self, node: u32) -> Option<usize> {
        self.nodes.get(node as usize)?.service
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many names exist, inner ones included.
    pub(crate) fn names(&self) -> usize {
        self.nodes.len().saturating_sub(1)
    }
}
