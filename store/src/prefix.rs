//! Ranges of keys that begin with something, and how keys are shown in messages.

/// The first key after all those that begin with `prefix`, or `None` if there is none (`""`, `ff`, `ffff`, ...).
pub(crate) fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The same keys by as few prefixes as will do, in order: one that begins with another is dropped.
pub(crate) fn disjoint(prefixes: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut sorted = prefixes.to_vec();
    sorted.sort();
    let mut kept: Vec<Vec<u8>> = Vec::with_capacity(sorted.len());
    for prefix in sorted {
        if kept.last().is_none_or(|last| !prefix.starts_with(last)) {
            kept.push(prefix);
        }
    }
    kept
}

/// Which of some [`disjoint`] prefixes `key` lies below.
pub(crate) fn position(disjoint: &[Vec<u8>], key: &[u8]) -> Option<usize> {
    // Everything up to the sought one sorts at or before the key; nothing between them can be a prefix of it.
    let after = disjoint.partition_point(|prefix| prefix.as_slice() <= key);
    let at = after.checked_sub(1)?;
    key.starts_with(&disjoint[at]).then_some(at)
}

/// How much of a key a message shows.
const SHOWN: usize = 200;

/// A key in a message: what is not printable is escaped, what is long is cut.
pub(crate) fn text(key: &[u8]) -> String {
    let shown = &key[..key.len().min(SHOWN)];
    let mut text = match std::str::from_utf8(shown) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => shown.escape_ascii().to_string(),
    };
    if shown.len() < key.len() {
        text.push_str("...");
    }
    text
}

/// Several keys in a message.
pub(crate) fn texts(keys: &[Vec<u8>]) -> String {
    let mut all = String::new();
    for key in keys {
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(&text(key));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_sibling_or_none() {
        assert_eq!(end_of(b"/a/b").as_deref(), Some(b"/a/c".as_slice()));
        assert_eq!(end_of(b"a\xff").as_deref(), Some(b"b".as_slice()));
        assert_eq!(end_of(b"\xff\xff"), None);
        assert_eq!(end_of(b""), None);
    }

    #[test]
    fn prefixes_within_others_are_dropped() {
        let given = [b"/b".to_vec(), b"/a/b".to_vec(), b"/a".to_vec(), b"/b".to_vec(), b"/ab".to_vec(), b"/".to_vec()];
        assert_eq!(disjoint(&given[..4]), [b"/a".to_vec(), b"/b".to_vec()]);
        assert_eq!(disjoint(&given), [b"/".to_vec()]);
        assert_eq!(disjoint(&[b"x".to_vec(), Vec::new()]), [Vec::<u8>::new()]);
    }

    #[test]
    fn a_key_is_found_below_its_own_prefix_only() {
        let prefixes = disjoint(&[b"/a".to_vec(), b"/c/".to_vec(), b"\xff".to_vec()]);
        assert_eq!(position(&prefixes, b"/a/x"), Some(0));
        assert_eq!(position(&prefixes, b"/b"), None);
        assert_eq!(position(&prefixes, b"/c/"), Some(1));
        assert_eq!(position(&prefixes, b"/c"), None);
        assert_eq!(position(&prefixes, b"\xff\xff"), Some(2));
        assert_eq!(position(&prefixes, b""), None);
    }

    #[test]
    fn keys_are_shown_printable_and_short() {
        assert_eq!(text("/skydns/ä".as_bytes()), "/skydns/ä");
        assert_eq!(text(b"/a\n\xff"), "/a\\n\\xff");
        assert_eq!(text(&[b'x'; 300]).len(), SHOWN + 3);
    }
}
